/* Cleat: clock, worker threads, mailbox, and admission under many threads; for
 * the thread sanitizer as much as for what it asserts.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "linux_peer.h"

#include <signal.h>
#include <stdatomic.h>

#include "cleat/linux.h"
#include "cleat/linux_worker.h"

/* ---- clock --------------------------------------------------------------- */

static void the_clock_is_monotonic_and_the_systems(void **state)
{
    struct cleat_clock clock = cleat_linux_clock();
    uint64_t before_ns = peer_now_ns();
    uint64_t now_ns = clock.now_ns(clock.context);

    (void)state;
    assert_in_range(now_ns, before_ns, peer_now_ns());
    assert_true(clock.now_ns(clock.context) >= now_ns);
}

/* ---- threads ---------------------------------------------------------------
 */

struct pool {
    void *block;
    struct cleat_threads threads;
    int threads_before;
};

static void pool_begin(struct pool *pool, uint32_t threads, uint32_t jobs_max)
{
    struct cleat_linux_threads_config config = {threads, jobs_max};
    size_t bytes = cleat_linux_threads_bytes(&config);

    assert_int_equal(bytes, CLEAT_LINUX_THREADS_BYTES(threads, jobs_max));
    pool->threads_before = peer_count_threads();
    pool->block = peer_block(bytes);
    assert_int_equal(cleat_linux_threads_init(pool->block, bytes, &config,
                                              &pool->threads, NULL),
                     CLEAT_OK);
}

static void pool_end(struct pool *pool)
{
    cleat_linux_threads_close(&pool->threads);
    cleat_linux_threads_close(&pool->threads); /* idempotent */
    free(pool->block);
    peer_await_threads(pool->threads_before);
}

struct counted {
    struct pool *pool;
    uint64_t sum; /* under the service's lock */
    _Atomic uint32_t done;
    _Atomic bool held; /* jobs wait while this is set */
};

static void count_job(void *job, uint64_t index)
{
    struct counted *counted = job;
    struct cleat_threads *threads = &counted->pool->threads;

    while (atomic_load(&counted->held)) { (void)sched_yield(); }
    threads->lock(threads->context);
    counted->sum += index;
    threads->unlock(threads->context);
    (void)atomic_fetch_add(&counted->done, 1);
}

static void every_job_is_done_once_and_under_the_lock(void **state)
{
    struct pool pool;
    struct counted counted;
    uint64_t sum = 0;

    (void)state;
    memset(&counted, 0, sizeof counted);
    counted.pool = &pool;
    pool_begin(&pool, 4, 8);
    for (uint64_t i = 1; i <= 5000; i++) {
        while (pool.threads.submit(pool.threads.context, count_job, &counted,
                                   i) != CLEAT_OK) {
            (void)sched_yield();
        }
        sum += i;
    }
    pool_end(&pool); /* finishes what was submitted */
    assert_int_equal(atomic_load(&counted.done), 5000);
    assert_int_equal(counted.sum, sum);
}

static void a_full_queue_takes_no_job(void **state)
{
    struct pool pool;
    struct counted counted;
    uint32_t taken = 0;

    (void)state;
    memset(&counted, 0, sizeof counted);
    counted.pool = &pool;
    atomic_store(&counted.held, true);
    pool_begin(&pool, 1, 3);
    while (pool.threads.submit(pool.threads.context, count_job, &counted, 1) ==
           CLEAT_OK) {
        taken++;
    }
    /* three wait, and one may have been begun */
    assert_in_range(taken, 3, 4);
    atomic_store(&counted.held, false);
    pool_end(&pool);
    assert_int_equal(atomic_load(&counted.done), taken);
}

static void mask_job(void *job, uint64_t index)
{
    sigset_t blocked;
    sigset_t *out = job;

    (void)index;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    *out = blocked;
}

static void workers_leave_signals_to_the_host(void **state)
{
    struct pool pool;
    sigset_t blocked;

    (void)state;
    (void)sigemptyset(&blocked);
    pool_begin(&pool, 1, 1);
    assert_int_equal(
        pool.threads.submit(pool.threads.context, mask_job, &blocked, 0),
        CLEAT_OK);
    pool_end(&pool);
    static const int signals[] = {SIGINT, SIGTERM, SIGCHLD, SIGPIPE, SIGUSR1};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        assert_int_equal(sigismember(&blocked, signals[i]), 1);
    }
    /* A thread's own faults are the host's handler's. */
    static const int faults[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        assert_int_equal(sigismember(&blocked, faults[i]), 0);
    }
    (void)pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    assert_int_equal(sigismember(&blocked, SIGINT), 0);
}

static void a_pool_out_of_range_is_refused(void **state)
{
    struct cleat_linux_threads_config config = {257, 1};
    struct cleat_threads threads;
    struct cleat_error error;
    void *block = peer_block(4096);

    (void)state;
    assert_int_equal(cleat_linux_threads_bytes(&config), 0);
    assert_int_equal(
        cleat_linux_threads_init(block, 4096, &config, &threads, &error),
        CLEAT_INVALID);
    config.threads = 1;
    size_t bytes = cleat_linux_threads_bytes(&config);
    assert_int_equal(
        cleat_linux_threads_init(block, bytes - 1, &config, &threads, &error),
        CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
    assert_int_equal(
        cleat_linux_threads_init(NULL, bytes, &config, &threads, &error),
        CLEAT_INVALID);
    config.threads = 0;
    config.jobs_max = 0;
    assert_int_equal(cleat_linux_threads_bytes(&config),
                     CLEAT_LINUX_THREADS_BYTES(4, 64));
    assert_int_equal(cleat_linux_threads_bytes(NULL),
                     CLEAT_LINUX_THREADS_BYTES(4, 64));
    free(block);
}

/* ---- mailbox
 * ------------------------------------------------------------------ */

#define SENDERS 3u
#define LETTERS 4000u

struct post_office {
    struct cleat_mailbox mailbox;
    uint32_t sender;
};

static void *sender_main(void *argument)
{
    struct post_office *office = argument;
    struct cleat_message message;

    memset(&message, 0, sizeof message);
    message.kind = 7;
    message.index = office->sender;
    for (uint64_t i = 1; i <= LETTERS; i++) {
        message.body[0] = i;
        message.body[8] = ~i;
        while (office->mailbox.post(office->mailbox.context, &message) !=
               CLEAT_OK) {
            (void)sched_yield();
        }
    }
    return NULL;
}

static void messages_come_whole_and_in_each_senders_order(void **state)
{
    void *block = peer_block(CLEAT_LINUX_MAILBOX_BYTES(5));
    struct post_office offices[SENDERS];
    pthread_t threads[SENDERS];
    uint64_t next[SENDERS] = {1, 1, 1};
    struct cleat_message message;

    (void)state;
    assert_int_equal(cleat_linux_mailbox_init(block,
                                              CLEAT_LINUX_MAILBOX_BYTES(5), 5,
                                              &offices[0].mailbox, NULL),
                     CLEAT_OK);
    for (uint32_t i = 0; i < SENDERS; i++) {
        offices[i].mailbox = offices[0].mailbox;
        offices[i].sender = i;
        assert_int_equal(
            pthread_create(&threads[i], NULL, sender_main, &offices[i]), 0);
    }
    struct cleat_mailbox mailbox = offices[0].mailbox;
    for (uint32_t i = 0; i < SENDERS * LETTERS; i++) {
        assert_int_equal(mailbox.wait(mailbox.context, CLEAT_NEVER, &message),
                         CLEAT_OK);
        assert_int_equal(message.kind, 7);
        assert_true(message.index < SENDERS);
        assert_int_equal(message.body[0], next[message.index]);
        assert_int_equal(message.body[8], ~next[message.index]);
        next[message.index]++;
    }
    for (uint32_t i = 0; i < SENDERS; i++) {
        (void)pthread_join(threads[i], NULL);
    }
    assert_int_equal(mailbox.wait(mailbox.context, 0, &message),
                     CLEAT_DEADLINE);
    cleat_linux_mailbox_close(&mailbox);
    cleat_linux_mailbox_close(&mailbox); /* idempotent */
    free(block);
}

static void a_full_box_says_so_and_a_wait_ends_at_its_deadline(void **state)
{
    void *block = peer_block(CLEAT_LINUX_MAILBOX_BYTES(2));
    struct cleat_mailbox mailbox;
    struct cleat_message message;
    struct cleat_error error;

    (void)state;
    assert_int_equal(cleat_linux_mailbox_bytes(0), 0);
    assert_int_equal(cleat_linux_mailbox_bytes(65537), 0);
    assert_int_equal(cleat_linux_mailbox_init(block,
                                              cleat_linux_mailbox_bytes(2) - 1,
                                              2, &mailbox, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(cleat_linux_mailbox_init(block,
                                              cleat_linux_mailbox_bytes(2), 2,
                                              &mailbox, &error),
                     CLEAT_OK);
    memset(&message, 0, sizeof message);
    for (uint32_t i = 0; i < 3; i++) {
        message.index = i;
        assert_int_equal(mailbox.post(mailbox.context, &message),
                         i < 2 ? CLEAT_OK : CLEAT_NO_SLOT);
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(mailbox.wait(mailbox.context, 0, &message), CLEAT_OK);
        assert_int_equal(message.index, i);
    }
    uint64_t deadline_ns = peer_now_ns() + 2 * CLEAT_NS_PER_MS;
    assert_int_equal(mailbox.wait(mailbox.context, deadline_ns, &message),
                     CLEAT_DEADLINE);
    assert_true(peer_now_ns() >= deadline_ns);
    cleat_linux_mailbox_close(&mailbox);
    free(block);
}

/* ---- admission
 * ------------------------------------------------------------------ */

#define SERVERS 3u
#define ROUNDS 60u

/* The weights: all alike, and changed without a lock, since nobody who was
 * admitted may be reading them then. The sanitizer sees it if one is. */
struct weights {
    struct cleat_worker *worker;
    uint64_t values[64];
    _Atomic bool over;
    _Atomic uint32_t admitted;
    _Atomic uint32_t torn;
};

static enum cleat_status on_commit(void *context,
                                   const struct cleat_worker_command *command)
{
    struct weights *weights = context;

    for (size_t i = 0; i < 64; i++) { weights->values[i] = command->version; }
    return CLEAT_OK;
}

static enum cleat_status on_transfer(void *context,
                                     const struct cleat_worker_command *command,
                                     uint32_t *digest)
{
    (void)context;
    (void)command;
    (void)digest;
    return CLEAT_OK;
}

static void *server_main(void *argument)
{
    struct weights *weights = argument;
    uint64_t version = 0;

    while (!atomic_load(&weights->over)) {
        if (!cleat_worker_admit(weights->worker, &version)) {
            (void)sched_yield();
            continue;
        }
        bool torn = false;
        for (size_t i = 0; i < 64; i++) {
            torn = torn || weights->values[i] != version;
        }
        cleat_worker_served(weights->worker, torn);
        cleat_worker_leave(weights->worker);
        (void)atomic_fetch_add(&weights->admitted, 1);
        if (torn) { (void)atomic_fetch_add(&weights->torn, 1); }
    }
    return NULL;
}

static void *loop_main(void *argument)
{
    return cleat_worker_run(argument) == CLEAT_OK ? NULL : argument;
}

static void grant_all(int fd, struct cleat_control_frame *ask)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_LEASE_GRANT;
    frame.body.lease.counter = ask->body.lease.counter;
    frame.body.lease.lease_ns = WATCHDOG_NS;
    peer_send(fd, &frame);
}

/* Sends a step and waits for its answer, granting leases meanwhile. */
static void do_step(int fd, enum cleat_sync_step step, uint64_t epoch)
{
    struct cleat_channel_packet packet;
    struct cleat_control_frame frame;
    bool ended = false;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_COMMAND;
    frame.term = 1;
    frame.epoch = epoch;
    frame.body.command.step = step;
    frame.body.command.version = epoch;
    frame.body.command.timeout_ns = WATCHDOG_NS;
    peer_send(fd, &frame);
    for (;;) {
        assert_true(peer_next(fd, true, &packet, &ended));
        if (packet.frame.kind == CLEAT_CONTROL_LEASE_ASK) {
            grant_all(fd, &packet.frame);
        }
        if (packet.frame.kind == CLEAT_CONTROL_ANSWER) { break; }
    }
    assert_int_equal(packet.frame.body.answer.answer.sync.step, step);
    assert_int_equal(packet.frame.body.answer.answer.sync.status, CLEAT_OK);
}

static void nobody_serves_while_the_weights_change(void **state)
{
    static const enum cleat_sync_step steps[] = {
        CLEAT_SYNC_PAUSE, CLEAT_SYNC_PREPARE, CLEAT_SYNC_GROUP,
        CLEAT_SYNC_SEND,  CLEAT_SYNC_COMMIT,  CLEAT_SYNC_FINALIZE,
        CLEAT_SYNC_RESUME};
    void *block = peer_block(CLEAT_WORKER_BYTES);
    struct weights weights;
    struct cleat_worker_config config;
    pthread_t servers[SERVERS];
    pthread_t loop;
    int pair[2];

    (void)state;
    memset(&weights, 0, sizeof weights);
    memset(&config, 0, sizeof config);
    peer_pair(pair);
    config.fd = pair[1];
    config.host.context = &weights;
    config.host.commit = on_commit;
    config.host.transfer = on_transfer;
    assert_int_equal(cleat_worker_init(block, CLEAT_WORKER_BYTES, &config,
                                       &weights.worker, NULL),
                     CLEAT_OK);
    assert_int_equal(pthread_create(&loop, NULL, loop_main, weights.worker), 0);
    for (uint32_t i = 0; i < SERVERS; i++) {
        assert_int_equal(
            pthread_create(&servers[i], NULL, server_main, &weights), 0);
    }
    for (uint64_t epoch = 1; epoch <= ROUNDS; epoch++) {
        for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
            do_step(pair[0], steps[i], epoch);
        }
        /* each version is served, before the next one comes */
        uint32_t seen = atomic_load(&weights.admitted);
        uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
        while (atomic_load(&weights.admitted) == seen) {
            struct cleat_channel_packet packet;
            bool ended = false;
            if (peer_next(pair[0], false, &packet, &ended) &&
                packet.frame.kind == CLEAT_CONTROL_LEASE_ASK) {
                grant_all(pair[0], &packet.frame);
            }
            assert_true(peer_now_ns() < watchdog_ns);
            (void)sched_yield();
        }
    }
    assert_int_equal(atomic_load(&weights.torn), 0);
    atomic_store(&weights.over, true);
    for (uint32_t i = 0; i < SERVERS; i++) {
        (void)pthread_join(servers[i], NULL);
    }
    cleat_worker_stop(weights.worker);
    (void)pthread_join(loop, NULL);
    cleat_worker_close(weights.worker);
    (void)close(pair[0]);
    free(block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_clock_is_monotonic_and_the_systems),
        cmocka_unit_test(every_job_is_done_once_and_under_the_lock),
        cmocka_unit_test(a_full_queue_takes_no_job),
        cmocka_unit_test(workers_leave_signals_to_the_host),
        cmocka_unit_test(a_pool_out_of_range_is_refused),
        cmocka_unit_test(messages_come_whole_and_in_each_senders_order),
        cmocka_unit_test(a_full_box_says_so_and_a_wait_ends_at_its_deadline),
        cmocka_unit_test(nobody_serves_while_the_weights_change),
    };

    peer_warm_up();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
