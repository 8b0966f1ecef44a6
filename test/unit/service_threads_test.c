/* Cleat: the services over real threads. SPDX-License-Identifier: Apache-2.0
 *
 * What service_model proves of every schedule of a few fibres, here for many
 * schedules of real threads, with the thread sanitizer looking on where the
 * build has it. Every port is there before the heap is forbidden. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "cleat/linux.h"
#include "cleat/linux_worker.h"
#include "cleat/service.h"
#include "no_malloc.h"

#define WATCHDOG_S 100u

enum { MEMBERS = 3, REPLICAS = 2, THREADS = 4 };

static const struct cleat_sync_config sync_config = {
    .trainers = 1, .replicas = REPLICAS, .workers = 1};

/* ------------------------------------------------- somebody who interferes */

/* A thread that calls `act` once in each round: when as many events as were
 * drawn have been told, or at the round's end. */
struct meddler {
    pthread_t thread;
    pthread_barrier_t barrier;
    enum cleat_status (*act)(void *of);
    void *of;
    enum cleat_status said;
    uint64_t random;
    uint32_t events_max;  /* about as many as a round has */
    uint32_t events_left; /* in this round until it acts */
    atomic_bool now;      /* act! */
    atomic_bool acts;     /* it does */
    bool over;
};

static struct meddler meddler;

/* Between two looks at what another thread is about to do. */
static void breathe(void)
{
    (void)usleep(20);
}

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *meddle(void *nothing)
{
    (void)nothing;
    for (;;) {
        (void)pthread_barrier_wait(&meddler.barrier);
        if (meddler.over) { return NULL; }
        while (!atomic_load(&meddler.now)) { breathe(); }
        atomic_store(&meddler.acts, true);
        meddler.said = meddler.act(meddler.of);
        (void)pthread_barrier_wait(&meddler.barrier);
    }
}

/* On the service's thread, with its lock: who acts now soon waits for it. */
static void count_event(void *context, const struct cleat_event *event)
{
    (void)context;
    (void)event;
    if (meddler.events_left == 0 || --meddler.events_left > 0) { return; }
    atomic_store(&meddler.now, true);
    while (!atomic_load(&meddler.acts)) { breathe(); }
}

static void meddler_start(enum cleat_status (*act)(void *of), void *of,
                          uint32_t events_max)
{
    meddler.act = act;
    meddler.of = of;
    meddler.events_max = events_max;
    meddler.random = UINT64_C(88172645463325252);
    meddler.over = false;
    assert_int_equal(pthread_barrier_init(&meddler.barrier, NULL, 2), 0);
    assert_int_equal(pthread_create(&meddler.thread, NULL, meddle, NULL), 0);
}

static void meddler_begin_round(void)
{
    meddler.events_left = 1 + (uint32_t)(draw(&meddler.random) %
                                         meddler.events_max);
    atomic_store(&meddler.now, false);
    atomic_store(&meddler.acts, false);
    (void)pthread_barrier_wait(&meddler.barrier);
}

static enum cleat_status meddler_end_round(void)
{
    meddler.events_left = 0;
    atomic_store(&meddler.now, true);
    (void)pthread_barrier_wait(&meddler.barrier);
    return meddler.said;
}

static void meddler_end(void)
{
    meddler.over = true;
    meddler_begin_round();
    assert_int_equal(pthread_join(meddler.thread, NULL), 0);
    (void)pthread_barrier_destroy(&meddler.barrier);
}

/* ------------------------------------------------------------- the ports */

static _Alignas(
    64) unsigned char threads_block[CLEAT_LINUX_THREADS_BYTES(THREADS, 16)];
static _Alignas(64) unsigned char mailbox_block[CLEAT_LINUX_MAILBOX_BYTES(16)];
static _Alignas(
    64) unsigned char workers_block[CLEAT_LINUX_WORKERS_BYTES(MEMBERS)];
static _Alignas(64) unsigned char worker_blocks[MEMBERS][CLEAT_WORKER_BYTES];
static _Alignas(64) unsigned char service_block[16384];

static pthread_barrier_t all_started;

static void start_job(void *job, uint64_t index)
{
    (void)job;
    (void)index;
    (void)pthread_barrier_wait(&all_started);
}

/* A sanitizer allocates while a thread starts: they all have, after this. */
static void await_threads(const struct cleat_threads *threads)
{
    assert_int_equal(pthread_barrier_init(&all_started, NULL, THREADS + 1), 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(threads->submit(threads->context, start_job, NULL, i),
                         CLEAT_OK);
    }
    (void)pthread_barrier_wait(&all_started);
}

static struct cleat_service_ports open_ports(uint32_t messages_max)
{
    static const struct cleat_linux_threads_config config = {THREADS, 16};
    struct cleat_service_ports ports = {.clock = cleat_linux_clock(),
                                        .events = {NULL, count_event}};

    (void)alarm(WATCHDOG_S);
    assert_int_equal(cleat_linux_threads_init(threads_block,
                                              sizeof threads_block, &config,
                                              &ports.threads, NULL),
                     CLEAT_OK);
    assert_int_equal(
        cleat_linux_mailbox_init(mailbox_block, sizeof mailbox_block,
                                 messages_max, &ports.mailbox, NULL),
        CLEAT_OK);
    await_threads(&ports.threads);
    return ports;
}

static void close_ports(struct cleat_service_ports *ports)
{
    cleat_linux_threads_close(&ports->threads);
    (void)pthread_barrier_destroy(&all_started);
    cleat_linux_mailbox_close(&ports->mailbox);
    (void)alarm(0);
}

static struct cleat_sync_service *
open_service(const struct cleat_service_ports *ports,
             const struct cleat_worker_port *workers)
{
    struct cleat_sync_service *service = NULL;

    assert_true(cleat_sync_service_bytes(&sync_config) <= sizeof service_block);
    assert_int_equal(cleat_sync_service_init(service_block,
                                             sizeof service_block, &sync_config,
                                             ports, workers, &service, NULL),
                     CLEAT_OK);
    return service;
}

static enum cleat_status stop_sync(void *of)
{
    return cleat_sync_stop(of);
}

/* One update that somebody stops, and one that nobody does. */
static uint32_t update_twice(struct cleat_sync_service *service,
                             uint64_t *version)
{
    struct cleat_sync_request request = {*version + 1, *version};
    struct cleat_sync_report report;
    struct cleat_error error;
    enum cleat_status status;
    enum cleat_status said;
    uint32_t stopped;

    meddler_begin_round();
    status = cleat_sync_run(service, &request, &report, &error);
    said = meddler_end_round();
    stopped = said == CLEAT_OK ? 1 : 0;
    assert_int_equal(report.serving, REPLICAS);
    if (stopped != 0) {
        assert_int_equal(status, CLEAT_CANCELLED);
        assert_int_equal(report.outcome, CLEAT_SYNC_ROLLED_BACK);
    } else {
        assert_int_equal(said, CLEAT_STATE);
        assert_int_equal(status, CLEAT_OK);
        assert_int_equal(report.outcome, CLEAT_SYNC_COMMITTED);
        *version += 1;
    }
    request = (struct cleat_sync_request){*version + 1000, *version};
    assert_int_equal(cleat_sync_run(service, &request, &report, &error),
                     CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_COMMITTED);
    assert_int_equal(report.errors_count, 0);
    *version += 1000;
    return stopped;
}

/* -------------------------------------- workers that are threads, and honest
 */

struct honest {
    struct cleat_worker *worker;
    pthread_t thread;
    enum cleat_status ended;
};

static enum cleat_status
honest_transfer(void *context, const struct cleat_worker_command *command,
                uint32_t *digest)
{
    (void)context;
    *digest = (uint32_t)command->version + 1;
    return CLEAT_OK;
}

static void *honest_run(void *context)
{
    struct honest *honest = context;

    honest->ended = cleat_worker_run(honest->worker);
    return NULL;
}

static void honest_start(struct honest *honest, uint32_t member,
                         struct cleat_linux_workers *workers)
{
    struct cleat_worker_config config = {
        .role = member == 0 ? CLEAT_WORKER_TRAINER : CLEAT_WORKER_ENGINE,
        .host = {.transfer = honest_transfer}};
    int pair[2];

    assert_int_equal(
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    config.fd = pair[1];
    assert_int_equal(cleat_worker_init(worker_blocks[member],
                                       CLEAT_WORKER_BYTES, &config,
                                       &honest->worker, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_linux_workers_adopt(workers, member, pair[0], NULL),
                     CLEAT_OK);
    assert_int_equal(pthread_create(&honest->thread, NULL, honest_run, honest),
                     0);
    assert_int_equal(cleat_linux_worker_wait(workers, member, CLEAT_NEVER),
                     CLEAT_OK);
}

static void updates_over_control_channels_end_as_they_say(void **state)
{
    struct cleat_service_ports ports = open_ports(16);
    struct cleat_linux_workers_config config = {
        .members = MEMBERS, .trainers = 1, .mailbox = ports.mailbox};
    struct cleat_linux_workers *workers;
    struct cleat_worker_port port;
    struct honest honest[MEMBERS];
    struct cleat_sync_service *service;
    uint64_t version = 0;
    uint32_t stopped = 0;

    (void)state;
    assert_int_equal(cleat_linux_workers_init(workers_block,
                                              sizeof workers_block, &config,
                                              &workers, NULL),
                     CLEAT_OK);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        honest_start(&honest[i], i, workers);
    }
    port = cleat_linux_workers_port(workers);
    service = open_service(&ports, &port);
    meddler_start(stop_sync, service, 60);
    (void)update_twice(service, &version); /* every thread has run now */
    cleat_test_forbid_malloc(true);
    for (uint32_t round = 0; round < 100; round++) {
        stopped += update_twice(service, &version);
        for (uint32_t i = 1; i < MEMBERS; i++) {
            uint64_t served = 0;

            /* The lease is asked for by a thread of the worker's own. */
            while (!cleat_worker_admit(honest[i].worker, &served)) {
                breathe();
            }
            assert_int_equal(served, version);
            cleat_worker_leave(honest[i].worker);
        }
    }
    cleat_test_forbid_malloc(false);
    meddler_end();
    print_message("stopped %u of 100\n", stopped);
    assert_int_equal(cleat_linux_workers_close(workers), CLEAT_OK);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        assert_int_equal(pthread_join(honest[i].thread, NULL), 0);
        assert_int_equal(honest[i].ended, CLEAT_OK);
        cleat_worker_close(honest[i].worker);
    }
    close_ports(&ports);
}

/* ------------------------------------- answers from several threads at once */

/* A worker port that has each command answered by a thread of a pool, through
 * a mailbox that is nearly always full. */
struct pool {
    struct cleat_threads threads;
    struct cleat_mailbox mailbox;
    pthread_mutex_t lock;
    struct cleat_sync_command commands[MEMBERS];
    uint64_t versions[MEMBERS];
};

static void answer_job(void *job, uint64_t index)
{
    struct pool *pool = job;
    struct cleat_worker_answer answer = {.sync = {.holding = CLEAT_SYNC_WHOLE}};
    struct cleat_message message = {.kind = CLEAT_WORKER_ANSWER,
                                    .index = (uint32_t)index};
    struct cleat_sync_command command;

    (void)pthread_mutex_lock(&pool->lock);
    command = pool->commands[index];
    if (command.step == CLEAT_SYNC_COMMIT) {
        pool->versions[index] = command.version;
    }
    answer.sync.version = pool->versions[index];
    (void)pthread_mutex_unlock(&pool->lock);
    answer.sync.step = command.step;
    answer.sync.term = command.term;
    answer.sync.epoch = command.epoch;
    memcpy(message.body, &answer, sizeof answer);
    while (pool->mailbox.post(pool->mailbox.context, &message) != CLEAT_OK) {
        breathe();
    }
}

static enum cleat_status pool_send(struct cleat_worker_context *context,
                                   const struct cleat_sync_command *command)
{
    struct pool *pool = (void *)context;

    (void)pthread_mutex_lock(&pool->lock);
    pool->commands[command->member] = *command;
    (void)pthread_mutex_unlock(&pool->lock);
    return pool->threads.submit(pool->threads.context, answer_job, pool,
                                command->member);
}

static void say_hello(const struct cleat_mailbox *mailbox, uint32_t member)
{
    struct cleat_worker_hello hello = {.holding = CLEAT_SYNC_WHOLE};
    struct cleat_message message = {.kind = CLEAT_WORKER_HELLO,
                                    .index = member};

    memcpy(message.body, &hello, sizeof hello);
    assert_int_equal(mailbox->post(mailbox->context, &message), CLEAT_OK);
}

static void updates_through_a_mailbox_that_is_full_end_as_they_say(void **state)
{
    struct cleat_service_ports ports = open_ports(MEMBERS);
    struct pool pool = {.threads = ports.threads,
                        .mailbox = ports.mailbox,
                        .lock = PTHREAD_MUTEX_INITIALIZER};
    struct cleat_worker_port port = {(void *)&pool, pool_send};
    struct cleat_sync_service *service;
    uint64_t version = 0;
    uint32_t stopped = 0;

    (void)state;
    for (uint32_t i = 0; i < MEMBERS; i++) { say_hello(&ports.mailbox, i); }
    service = open_service(&ports, &port);
    meddler_start(stop_sync, service, 60);
    (void)update_twice(service, &version);
    cleat_test_forbid_malloc(true);
    for (uint32_t round = 0; round < 200; round++) {
        stopped += update_twice(service, &version);
    }
    cleat_test_forbid_malloc(false);
    meddler_end();
    print_message("stopped %u of 200\n", stopped);
    close_ports(&ports);
}

/* --------------------------------------------------------------- bring-up */

enum { HANDLES = 5 };

struct starting {
    atomic_uint ready[HANDLES]; /* the run in which it was found so */
    atomic_uint waiting[HANDLES];
    atomic_uint collisions; /* two waits at once for one handle */
    atomic_uint_fast64_t random;
};

static enum cleat_status wait_a_little(struct cleat_waiter_context *context,
                                       uint64_t handle, uint64_t deadline_ns,
                                       uint64_t *hint_ns)
{
    struct starting *starting = (void *)context;
    uint32_t index = (uint32_t)(handle % HANDLES);
    uint64_t random = atomic_fetch_add(&starting->random,
                                       UINT64_C(0x9E3779B97F4A7C15));
    enum cleat_status status = CLEAT_OK;

    (void)deadline_ns;
    if (atomic_fetch_add(&starting->waiting[index], 1) != 0) {
        (void)atomic_fetch_add(&starting->collisions, 1);
    }
    for (uint64_t i = 0; i < random >> 60; i++) { breathe(); }
    if ((random >> 32 & 3) == 0) {
        status = CLEAT_TRANSIENT;
        *hint_ns = 1000;
    } else {
        atomic_store(&starting->ready[index], (unsigned)(handle / HANDLES));
    }
    (void)atomic_fetch_sub(&starting->waiting[index], 1);
    return status;
}

static enum cleat_status stop_bringup(void *of)
{
    return cleat_bringup_stop(of);
}

/* Tries until the waits of the run before have ended. */
static enum cleat_status run_bringup(struct cleat_bringup *bringup,
                                     uint32_t run)
{
    uint64_t handles[HANDLES];
    struct cleat_error error;
    enum cleat_status status;

    for (uint32_t i = 0; i < HANDLES; i++) { handles[i] = run * HANDLES + i; }
    meddler_begin_round();
    while ((status = cleat_bringup_run(bringup, handles, &error)) ==
           CLEAT_STATE) {
        breathe();
    }
    assert_int_equal(meddler_end_round(),
                     status == CLEAT_OK ? CLEAT_STATE : CLEAT_OK);
    return status;
}

static void bring_ups_end_as_they_say(void **state)
{
    struct cleat_retry_policy policy = {.base_ns = 20000,
                                        .max_ns = 100000,
                                        .attempts_max = CLEAT_RETRY_UNLIMITED};
    struct cleat_gather_config config = {&policy, CLEAT_NONE, HANDLES};
    struct cleat_service_ports ports = open_ports(2 * HANDLES);
    struct starting starting = {0};
    struct cleat_waiter waiter = {(void *)&starting, wait_a_little};
    struct cleat_bringup *bringup = NULL;
    uint32_t stopped = 0;

    (void)state;
    assert_true(cleat_bringup_bytes(&config) <= sizeof service_block);
    assert_int_equal(cleat_bringup_init(service_block, sizeof service_block,
                                        &config, &ports, &waiter, 1, &bringup,
                                        NULL),
                     CLEAT_OK);
    meddler_start(stop_bringup, bringup, 20);
    for (uint32_t run = 1; run <= 300; run++) {
        enum cleat_status status;

        cleat_test_forbid_malloc(run > 1); /* the meddler has started */
        status = run_bringup(bringup, run);

        if (status == CLEAT_OK) {
            for (uint32_t i = 0; i < HANDLES; i++) {
                assert_int_equal(atomic_load(&starting.ready[i]), run);
            }
        } else {
            assert_int_equal(status, CLEAT_CANCELLED);
        }
        stopped += status == CLEAT_OK ? 0 : 1;
    }
    cleat_test_forbid_malloc(false);
    meddler_end();
    print_message("stopped %u of 300\n", stopped);
    assert_int_equal(atomic_load(&starting.collisions), 0);
    close_ports(&ports);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(updates_over_control_channels_end_as_they_say),
        cmocka_unit_test(
            updates_through_a_mailbox_that_is_full_end_as_they_say),
        cmocka_unit_test(bring_ups_end_as_they_say),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
