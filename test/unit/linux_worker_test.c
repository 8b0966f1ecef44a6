/* Cleat: the worker's side, against a coordinator made of frames by hand.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "linux_peer.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "cleat/linux.h"
#include "cleat/linux_worker.h"

/* ---- a host that writes down what it is asked ------------------------------
 */

struct host {
    struct cleat_worker *worker;
    _Atomic uint32_t calls[CLEAT_SYNC_STEPS]; /* of START: host.start */
    _Atomic int result[CLEAT_SYNC_STEPS];     /* enum cleat_status */
    _Atomic uint32_t interrupts;
    _Atomic bool transfer_waits; /* until cancelled */
    _Atomic bool transfer_tears;
    _Atomic uint32_t in_transfer;
    struct cleat_transport_ticket ticket; /* prepare gives it, group got it */
    _Atomic bool keep_fd;
    struct cleat_worker_command last;

    /* intercept: at this step and moment, this fault, once */
    _Atomic int fault_step;
    _Atomic int fault_moment;
    struct cleat_worker_fault fault;
};

static enum cleat_status called(struct host *host, enum cleat_sync_step step)
{
    (void)atomic_fetch_add(&host->calls[step], 1);
    return (enum cleat_status)atomic_load(&host->result[step]);
}

static enum cleat_status on_start(void *context)
{
    return called(context, CLEAT_SYNC_START);
}

/* pause, release, commit, finalize, restore, resume */
static enum cleat_status on_step(void *context,
                                 const struct cleat_worker_command *command)
{
    struct host *host = context;

    host->last = *command;
    return called(host, command->step);
}

static enum cleat_status on_prepare(void *context,
                                    const struct cleat_worker_command *command,
                                    struct cleat_transport_ticket *ticket)
{
    struct host *host = context;

    host->last = *command;
    if (host->ticket.bytes_count > 0) { *ticket = host->ticket; }
    return called(host, command->step);
}

static enum cleat_status on_group(void *context,
                                  const struct cleat_worker_command *command,
                                  struct cleat_transport_ticket *ticket)
{
    struct host *host = context;

    host->last = *command;
    host->ticket = *ticket;
    if (atomic_load(&host->keep_fd)) { ticket->fds[0] = -1; }
    return called(host, command->step);
}

static enum cleat_status on_transfer(void *context,
                                     const struct cleat_worker_command *command,
                                     uint32_t *digest)
{
    struct host *host = context;

    (void)command;
    if (atomic_load(&host->transfer_tears)) { cleat_worker_torn(host->worker); }
    (void)atomic_fetch_add(&host->in_transfer, 1);
    while (atomic_load(&host->transfer_waits) &&
           !cleat_worker_cancelled(host->worker)) {
        (void)sched_yield();
    }
    (void)atomic_fetch_sub(&host->in_transfer, 1);
    *digest = 0x1234;
    if (cleat_worker_cancelled(host->worker)) { return CLEAT_CANCELLED; }
    return called(host, CLEAT_SYNC_SEND);
}

static void on_interrupt(void *context)
{
    struct host *host = context;

    (void)atomic_fetch_add(&host->interrupts, 1);
}

static void on_intercept(void *context, enum cleat_worker_moment moment,
                         const struct cleat_worker_command *command,
                         enum cleat_status status,
                         struct cleat_worker_fault *fault)
{
    struct host *host = context;

    (void)status;
    if ((int)command->step == atomic_load(&host->fault_step) &&
        (int)moment == atomic_load(&host->fault_moment)) {
        *fault = host->fault;
        atomic_store(&host->fault_step, -1);
    }
}

/* ---- a clock that the test moves ----------------------------------------- */

static _Atomic uint64_t fake_ns;

/* Leases are counted by that clock, but asked for again after a third of them
 * by the real one: asks for a short one would fill a channel, and the answer
 * that a test waits for be lost, where its thread waits for its processor. */
#define LEASE_NS (3600 * CLEAT_NS_PER_S)

static uint64_t fake_now(struct cleat_clock_context *context)
{
    (void)context;
    return atomic_load(&fake_ns);
}

/* ---- a worker with its loop on a thread
 * -------------------------------------- */

struct bench {
    struct host host;
    void *block;
    struct cleat_worker *worker;
    pthread_t thread;
    _Atomic bool ended;
    enum cleat_status result;
    int fd; /* the coordinator's end */
    int fds_before;
    int threads_before;
    uint64_t sequence;
};

static void *bench_main(void *argument)
{
    struct bench *bench = argument;

    bench->result = cleat_worker_run(bench->worker);
    atomic_store(&bench->ended, true);
    return NULL;
}

static struct cleat_worker_config base_config(struct host *host)
{
    struct cleat_worker_config config;

    memset(&config, 0, sizeof config);
    config.version = 1;
    config.host.context = host;
    config.host.start = on_start;
    config.host.pause = on_step;
    config.host.release = on_step;
    config.host.restore = on_step;
    config.host.prepare = on_prepare;
    config.host.group = on_group;
    config.host.transfer = on_transfer;
    config.host.interrupt = on_interrupt;
    config.host.commit = on_step;
    config.host.finalize = on_step;
    config.host.resume = on_step;
    config.host.intercept = on_intercept;
    config.orphan_timeout_ns = WATCHDOG_NS;
    config.lease_clock.now_ns = fake_now;
    return config;
}

static void bench_begin(struct bench *bench)
{
    memset(bench, 0, sizeof *bench);
    atomic_store(&bench->host.fault_step, -1);
    atomic_store(&fake_ns, 1000);
    bench->fds_before = peer_count_fds();
    bench->threads_before = peer_count_threads();
    bench->fd = -1;
    bench->block = peer_block(CLEAT_WORKER_BYTES);
}

static void bench_start(struct bench *bench, struct cleat_worker_config *config)
{
    int pair[2] = {-1, -1};

    if (config->socket_path == NULL) {
        peer_pair(pair);
        bench->fd = pair[0];
        config->fd = pair[1];
    }
    assert_int_equal(cleat_worker_init(bench->block, CLEAT_WORKER_BYTES, config,
                                       &bench->worker, NULL),
                     CLEAT_OK);
    bench->host.worker = bench->worker;
    assert_int_equal(pthread_create(&bench->thread, NULL, bench_main, bench),
                     0);
}

static enum cleat_status bench_join(struct bench *bench)
{
    (void)pthread_join(bench->thread, NULL);
    return bench->result;
}

static void bench_end(struct bench *bench)
{
    if (!atomic_load(&bench->ended)) { cleat_worker_stop(bench->worker); }
    (void)bench_join(bench);
    cleat_worker_close(bench->worker);
    cleat_worker_close(bench->worker); /* idempotent */
    if (bench->fd >= 0) { (void)close(bench->fd); }
    free(bench->block);
    assert_int_equal(peer_count_fds(), bench->fds_before);
    peer_await_threads(bench->threads_before);
}

/* Of a bench whose thread was joined. */
static void bench_end_joined(struct bench *bench)
{
    cleat_worker_close(bench->worker);
    if (bench->fd >= 0) { (void)close(bench->fd); }
    free(bench->block);
    assert_int_equal(peer_count_fds(), bench->fds_before);
    peer_await_threads(bench->threads_before);
}

static void begin(struct bench *bench)
{
    bench_begin(bench);
    struct cleat_worker_config config = base_config(&bench->host);
    bench_start(bench, &config);
}

/* ---- what the coordinator says and hears
 * ------------------------------------------- */

static struct cleat_control_frame command_frame(enum cleat_sync_step step,
                                                uint64_t term, uint64_t epoch,
                                                uint64_t version)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_COMMAND;
    frame.term = term;
    frame.epoch = epoch;
    frame.body.command.step = step;
    frame.body.command.member = 4;
    frame.body.command.version = version;
    frame.body.command.timeout_ns = WATCHDOG_NS;
    return frame;
}

static void send_step(struct bench *bench, enum cleat_sync_step step,
                      uint64_t term, uint64_t epoch, uint64_t version)
{
    struct cleat_control_frame frame = command_frame(step, term, epoch,
                                                     version);

    frame.sequence = ++bench->sequence;
    peer_send(bench->fd, &frame);
}

static struct cleat_worker_answer expect_answer(struct bench *bench,
                                                enum cleat_sync_step step)
{
    struct cleat_channel_packet packet = peer_expect(bench->fd,
                                                     CLEAT_CONTROL_ANSWER);

    cleat_channel_packet_close(&packet);
    assert_int_equal(packet.frame.body.answer.answer.sync.step, step);
    assert_int_equal(packet.frame.body.answer.answer.sync.member, 4);
    return packet.frame.body.answer.answer;
}

/* A step there and back; its status. */
static enum cleat_status step(struct bench *bench, enum cleat_sync_step step,
                              uint64_t epoch, uint64_t version)
{
    send_step(bench, step, 1, epoch, version);
    return expect_answer(bench, step).sync.status;
}

#define STEP_OK(bench, which, epoch, version) \
    assert_int_equal(step(bench, CLEAT_SYNC_##which, epoch, version), CLEAT_OK)

static void grant_ask(struct bench *bench,
                      const struct cleat_channel_packet *ask, uint64_t lease_ns)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_LEASE_GRANT;
    frame.body.lease.counter = ask->frame.body.lease.counter;
    frame.body.lease.lease_ns = lease_ns;
    peer_send(bench->fd, &frame);
}

/* The last ask that has come: much older ones cannot be granted any more. */
static struct cleat_channel_packet last_ask(struct bench *bench)
{
    struct cleat_channel_packet ask = peer_expect(bench->fd,
                                                  CLEAT_CONTROL_LEASE_ASK);
    struct cleat_channel_packet packet;
    bool ended = false;

    while (peer_next(bench->fd, false, &packet, &ended)) {
        cleat_channel_packet_close(&packet);
        if (packet.frame.kind == CLEAT_CONTROL_LEASE_ASK) { ask = packet; }
    }
    return ask;
}

/* Grants until the worker has a lease. */
static void grant(struct bench *bench, uint64_t lease_ns)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
    struct cleat_channel_packet packet = last_ask(bench);
    bool ended = false;

    grant_ask(bench, &packet, lease_ns);
    while (cleat_worker_lease_end(bench->worker) == 0) {
        if (peer_next(bench->fd, false, &packet, &ended)) {
            cleat_channel_packet_close(&packet);
            if (packet.frame.kind == CLEAT_CONTROL_LEASE_ASK) {
                grant_ask(bench, &packet, lease_ns);
            }
        }
        assert_true(peer_now_ns() < watchdog_ns);
        (void)sched_yield();
    }
}

/* Waits until admission is as wanted. */
static void await_admission(struct bench *bench, bool wanted)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;

    for (;;) {
        bool in = cleat_worker_admit(bench->worker, NULL);
        if (in) { cleat_worker_leave(bench->worker); }
        if (in == wanted) { return; }
        assert_true(peer_now_ns() < watchdog_ns);
        (void)sched_yield();
    }
}

static bool admits(struct bench *bench)
{
    bool in = cleat_worker_admit(bench->worker, NULL);

    if (in) { cleat_worker_leave(bench->worker); }
    return in;
}

static void await_count(_Atomic uint32_t *count, uint32_t wanted)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;

    while (atomic_load(count) != wanted) {
        assert_true(peer_now_ns() < watchdog_ns);
        (void)sched_yield();
    }
}

static void up_to_send(struct bench *bench, uint64_t epoch, uint64_t version)
{
    STEP_OK(bench, PAUSE, epoch, version);
    STEP_OK(bench, RELEASE, epoch, version);
    STEP_OK(bench, PREPARE, epoch, version);
    STEP_OK(bench, GROUP, epoch, version);
}

static void back_to_serving(struct bench *bench, uint64_t epoch,
                            uint64_t version)
{
    STEP_OK(bench, FINALIZE, epoch, version);
    STEP_OK(bench, RESTORE, epoch, version);
    STEP_OK(bench, RESUME, epoch, version);
}

/* ---- updates
 * ------------------------------------------------------------------- */

static void an_update_ends_serving_the_new_version(void **state)
{
    struct bench bench;
    uint64_t version = 0;

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    assert_true(cleat_worker_admit(bench.worker, &version));
    assert_int_equal(version, 1);
    cleat_worker_served(bench.worker, false);
    cleat_worker_served(bench.worker, true);
    cleat_worker_leave(bench.worker);
    up_to_send(&bench, 1, 2);
    assert_false(admits(&bench));
    send_step(&bench, CLEAT_SYNC_SEND, 1, 1, 2);
    struct cleat_worker_answer sent = expect_answer(&bench, CLEAT_SYNC_SEND);
    assert_int_equal(sent.sync.status, CLEAT_OK);
    assert_int_equal(sent.sync.digest, 0x1234);
    assert_int_equal(sent.sync.holding, CLEAT_SYNC_WHOLE);
    assert_int_equal(sent.sync.version, 1);
    assert_int_equal(sent.served, 2);
    assert_int_equal(sent.torn_served, 1);
    send_step(&bench, CLEAT_SYNC_COMMIT, 1, 1, 2);
    struct cleat_worker_answer commit = expect_answer(&bench,
                                                      CLEAT_SYNC_COMMIT);
    assert_int_equal(commit.sync.status, CLEAT_OK);
    assert_int_equal(commit.sync.version, 2);
    assert_int_equal(commit.served, 0); /* under the new version */
    assert_int_equal(commit.torn_served, 1);
    assert_false(admits(&bench));
    back_to_serving(&bench, 1, 2);
    assert_true(cleat_worker_admit(bench.worker, &version));
    assert_int_equal(version, 2);
    cleat_worker_leave(bench.worker);
    for (uint32_t i = CLEAT_SYNC_PAUSE; i < CLEAT_SYNC_STEPS; i++) {
        bool asked = i != CLEAT_SYNC_FENCE && i != CLEAT_SYNC_EXPEL;
        assert_int_equal(atomic_load(&bench.host.calls[i]), asked ? 1 : 0);
    }
    bench_end(&bench);
}

static void a_command_reaches_the_host_as_it_was_sent(void **state)
{
    struct bench bench;
    struct cleat_control_frame frame = command_frame(CLEAT_SYNC_PAUSE, 9, 8, 7);

    (void)state;
    begin(&bench);
    frame.body.command.attempt = 3;
    frame.body.command.receiver_index = 5;
    frame.body.command.receivers_count = 6;
    uint64_t before_ns = peer_now_ns();
    peer_send(bench.fd, &frame);
    (void)expect_answer(&bench, CLEAT_SYNC_PAUSE);
    uint64_t after_ns = peer_now_ns();
    assert_int_equal(bench.host.last.member, 4);
    assert_int_equal(bench.host.last.attempt, 3);
    assert_int_equal(bench.host.last.receiver_index, 5);
    assert_int_equal(bench.host.last.receivers_count, 6);
    assert_int_equal(bench.host.last.term, 9);
    assert_int_equal(bench.host.last.epoch, 8);
    assert_int_equal(bench.host.last.version, 7);
    assert_in_range(bench.host.last.deadline_ns, before_ns + WATCHDOG_NS,
                    after_ns + WATCHDOG_NS);
    bench_end(&bench);
}

static void a_lower_term_or_epoch_is_refused(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    send_step(&bench, CLEAT_SYNC_PAUSE, 3, 5, 2);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_PAUSE).sync.status,
                     CLEAT_OK);
    static const uint64_t lower[][2] = {{3, 4}, {2, 9}, {0, 0}};
    for (size_t i = 0; i < 3; i++) {
        send_step(&bench, CLEAT_SYNC_RESUME, lower[i][0], lower[i][1], 2);
        struct cleat_worker_answer answer = expect_answer(&bench,
                                                          CLEAT_SYNC_RESUME);
        assert_int_equal(answer.sync.status, CLEAT_PEER_STALE);
        assert_int_equal(answer.sync.term, lower[i][0]);
        assert_int_equal(answer.sync.epoch, lower[i][1]);
    }
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_RESUME]), 0);
    send_step(&bench, CLEAT_SYNC_RESUME, 4, 0, 2);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_RESUME).sync.status,
                     CLEAT_OK);
    bench_end(&bench);
}

static void what_was_done_is_not_done_again(void **state)
{
    struct bench bench;
    static const enum cleat_sync_step steps[] = {
        CLEAT_SYNC_PAUSE,    CLEAT_SYNC_RELEASE, CLEAT_SYNC_PREPARE,
        CLEAT_SYNC_GROUP,    CLEAT_SYNC_SEND,    CLEAT_SYNC_COMMIT,
        CLEAT_SYNC_FINALIZE, CLEAT_SYNC_RESTORE, CLEAT_SYNC_RESUME};

    (void)state;
    begin(&bench);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        assert_int_equal(step(&bench, steps[i], 1, 2), CLEAT_OK);
        enum cleat_status again = step(&bench, steps[i], 1, 2);
        assert_int_equal(again, cleat_sync_step_idempotent(steps[i])
                                    ? CLEAT_OK
                                    : CLEAT_STATE);
        assert_int_equal(atomic_load(&bench.host.calls[steps[i]]), 1);
    }
    bench_end(&bench);
}

static void undoing_what_never_happened_succeeds(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    STEP_OK(&bench, FINALIZE, 1, 2);
    STEP_OK(&bench, RESTORE, 1, 2);
    STEP_OK(&bench, RESUME, 1, 2);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_FINALIZE]), 0);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_RESTORE]), 0);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_RESUME]), 0);
    bench_end(&bench);
}

static void a_step_that_failed_is_undone_as_if_it_had_not(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    atomic_store(&bench.host.result[CLEAT_SYNC_PAUSE], CLEAT_TRANSIENT);
    assert_int_equal(step(&bench, CLEAT_SYNC_PAUSE, 1, 2), CLEAT_TRANSIENT);
    STEP_OK(&bench, RESUME, 1, 2);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_RESUME]), 1);
    atomic_store(&bench.host.result[CLEAT_SYNC_PAUSE], CLEAT_OK);
    atomic_store(&bench.host.result[CLEAT_SYNC_RELEASE], CLEAT_TRANSIENT);
    atomic_store(&bench.host.result[CLEAT_SYNC_PREPARE], CLEAT_TRANSIENT);
    STEP_OK(&bench, PAUSE, 2, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_RELEASE, 2, 2), CLEAT_TRANSIENT);
    assert_int_equal(step(&bench, CLEAT_SYNC_PREPARE, 2, 2), CLEAT_TRANSIENT);
    STEP_OK(&bench, FINALIZE, 2, 2);
    STEP_OK(&bench, RESTORE, 2, 2);
    STEP_OK(&bench, RESUME, 2, 2);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_FINALIZE]), 1);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_RESTORE]), 1);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_RESUME]), 2);
    bench_end(&bench);
}

static void commit_wants_the_transfer_of_that_very_attempt(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    /* none at all; but what is held already is as good as committed */
    STEP_OK(&bench, PAUSE, 1, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_COMMIT, 1, 2), CLEAT_STATE);
    STEP_OK(&bench, COMMIT, 1, 1);
    /* not yet moved */
    STEP_OK(&bench, PREPARE, 1, 2);
    STEP_OK(&bench, GROUP, 1, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_COMMIT, 1, 2), CLEAT_STATE);
    /* moved, but another version or epoch is asked for */
    STEP_OK(&bench, SEND, 1, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_COMMIT, 1, 3), CLEAT_STATE);
    assert_int_equal(step(&bench, CLEAT_SYNC_COMMIT, 2, 2), CLEAT_STATE);
    /* finalized away */
    STEP_OK(&bench, FINALIZE, 2, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_COMMIT, 2, 2), CLEAT_STATE);
    /* failed */
    atomic_store(&bench.host.result[CLEAT_SYNC_SEND], CLEAT_CORRUPT);
    STEP_OK(&bench, PREPARE, 3, 2);
    STEP_OK(&bench, GROUP, 3, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_SEND, 3, 2), CLEAT_CORRUPT);
    assert_int_equal(step(&bench, CLEAT_SYNC_COMMIT, 3, 2), CLEAT_STATE);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_COMMIT]), 0);
    bench_end(&bench);
}

static void a_commit_that_failed_may_be_asked_for_again(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    up_to_send(&bench, 1, 2);
    STEP_OK(&bench, SEND, 1, 2);
    atomic_store(&bench.host.result[CLEAT_SYNC_COMMIT], CLEAT_TRANSIENT);
    send_step(&bench, CLEAT_SYNC_COMMIT, 1, 1, 2);
    struct cleat_worker_answer answer = expect_answer(&bench,
                                                      CLEAT_SYNC_COMMIT);
    assert_int_equal(answer.sync.status, CLEAT_TRANSIENT);
    assert_int_equal(answer.sync.version, 1);
    atomic_store(&bench.host.result[CLEAT_SYNC_COMMIT], CLEAT_OK);
    STEP_OK(&bench, COMMIT, 1, 2);
    assert_int_equal(cleat_worker_holding(bench.worker, NULL),
                     CLEAT_SYNC_WHOLE);
    bench_end(&bench);
}

static void the_attempt_needs_its_steps_in_order(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    assert_int_equal(step(&bench, CLEAT_SYNC_PREPARE, 1, 2), CLEAT_STATE);
    assert_int_equal(step(&bench, CLEAT_SYNC_RELEASE, 1, 2), CLEAT_STATE);
    STEP_OK(&bench, PAUSE, 1, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_GROUP, 1, 2), CLEAT_STATE);
    assert_int_equal(step(&bench, CLEAT_SYNC_SEND, 1, 2), CLEAT_STATE);
    STEP_OK(&bench, PREPARE, 1, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_SEND, 1, 2), CLEAT_STATE);
    assert_int_equal(step(&bench, CLEAT_SYNC_GROUP, 2, 2), CLEAT_STATE);
    STEP_OK(&bench, FINALIZE, 2, 2);
    /* an attempt's pair is not used twice */
    assert_int_equal(step(&bench, CLEAT_SYNC_PREPARE, 2, 2), CLEAT_OK);
    STEP_OK(&bench, FINALIZE, 2, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_PREPARE, 2, 2), CLEAT_STATE);
    bench_end(&bench);
}

static void the_next_attempt_ends_one_whose_finalize_failed(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    up_to_send(&bench, 1, 2);
    atomic_store(&bench.host.result[CLEAT_SYNC_FINALIZE], CLEAT_PERMANENT);
    assert_int_equal(step(&bench, CLEAT_SYNC_FINALIZE, 1, 2), CLEAT_PERMANENT);
    assert_int_equal(step(&bench, CLEAT_SYNC_PREPARE, 2, 2), CLEAT_STATE);
    atomic_store(&bench.host.result[CLEAT_SYNC_FINALIZE], CLEAT_OK);
    STEP_OK(&bench, PREPARE, 3, 2);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_FINALIZE]), 3);
    bench_end(&bench);
}

static void a_trainer_knows_no_steps_of_engines(void **state)
{
    struct bench bench;

    (void)state;
    bench_begin(&bench);
    struct cleat_worker_config config = base_config(&bench.host);
    config.role = CLEAT_WORKER_TRAINER;
    bench_start(&bench, &config);
    static const enum cleat_sync_step not_its[] = {
        CLEAT_SYNC_PAUSE, CLEAT_SYNC_RELEASE, CLEAT_SYNC_COMMIT,
        CLEAT_SYNC_FENCE, CLEAT_SYNC_RESTORE, CLEAT_SYNC_RESUME};
    for (size_t i = 0; i < sizeof not_its / sizeof *not_its; i++) {
        assert_int_equal(step(&bench, not_its[i], 1, 2), CLEAT_UNSUPPORTED);
    }
    STEP_OK(&bench, PREPARE, 2, 2);
    STEP_OK(&bench, GROUP, 2, 2);
    STEP_OK(&bench, SEND, 2, 2);
    STEP_OK(&bench, FINALIZE, 2, 2);
    bench_end(&bench);
}

/* ---- admission
 * --------------------------------------------------------------------- */

static void pause_waits_for_those_who_are_in(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    assert_true(cleat_worker_admit(bench.worker, NULL));
    send_step(&bench, CLEAT_SYNC_PAUSE, 1, 1, 2);
    await_admission(&bench, false); /* closed, and we are still in */
    assert_false(peer_has(bench.fd, CLEAT_CONTROL_ANSWER));
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_PAUSE]), 0);
    cleat_worker_leave(bench.worker);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_PAUSE).sync.status,
                     CLEAT_OK);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_PAUSE]), 1);
    bench_end(&bench);
}

static void pause_and_fence_give_up_at_their_deadline(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    assert_true(cleat_worker_admit(bench.worker, NULL));
    static const enum cleat_sync_step steps[] = {CLEAT_SYNC_PAUSE,
                                                 CLEAT_SYNC_FENCE};
    for (size_t i = 0; i < 2; i++) {
        struct cleat_control_frame frame = command_frame(steps[i], 1, 1, 2);
        frame.body.command.timeout_ns = CLEAT_NS_PER_MS;
        peer_send(bench.fd, &frame);
        assert_int_equal(expect_answer(&bench, steps[i]).sync.status,
                         CLEAT_DEADLINE);
        assert_false(admits(&bench)); /* closed all the same */
    }
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_PAUSE]), 0);
    cleat_worker_leave(bench.worker);
    STEP_OK(&bench, FENCE, 1, 2);
    STEP_OK(&bench, PAUSE, 1, 2);
    bench_end(&bench);
}

static void a_fence_holds_until_a_later_commit(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    up_to_send(&bench, 1, 2);
    STEP_OK(&bench, SEND, 1, 2);
    STEP_OK(&bench, COMMIT, 1, 2);
    STEP_OK(&bench, FENCE, 1, 2);
    STEP_OK(&bench, FENCE, 1, 2);
    STEP_OK(&bench, COMMIT, 1, 2); /* the one before, come twice */
    STEP_OK(&bench, FINALIZE, 1, 2);
    STEP_OK(&bench, RESTORE, 1, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_RESUME, 1, 2), CLEAT_STATE);
    assert_false(admits(&bench));
    assert_int_equal(step(&bench, CLEAT_SYNC_RESUME, 2, 3), CLEAT_STATE);
    up_to_send(&bench, 3, 3);
    STEP_OK(&bench, SEND, 3, 3);
    STEP_OK(&bench, COMMIT, 3, 3);
    back_to_serving(&bench, 3, 3);
    assert_true(admits(&bench));
    bench_end(&bench);
}

static void a_fence_is_lifted_by_a_commit_of_the_version_held(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    STEP_OK(&bench, FENCE, 1, 1);
    up_to_send(&bench, 2, 1);
    STEP_OK(&bench, SEND, 2, 1);
    STEP_OK(&bench, COMMIT, 2, 1);
    back_to_serving(&bench, 2, 1);
    assert_true(admits(&bench));
    bench_end(&bench);
}

static void a_torn_version_is_not_served_until_a_commit(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    up_to_send(&bench, 1, 2);
    atomic_store(&bench.host.transfer_tears, true);
    atomic_store(&bench.host.result[CLEAT_SYNC_SEND], CLEAT_CORRUPT);
    send_step(&bench, CLEAT_SYNC_SEND, 1, 1, 2);
    struct cleat_worker_answer answer = expect_answer(&bench, CLEAT_SYNC_SEND);
    assert_int_equal(answer.sync.status, CLEAT_CORRUPT);
    assert_int_equal(answer.sync.holding, CLEAT_SYNC_TORN);
    STEP_OK(&bench, FINALIZE, 1, 2);
    STEP_OK(&bench, RESTORE, 1, 2);
    assert_int_equal(step(&bench, CLEAT_SYNC_RESUME, 1, 2), CLEAT_STATE);
    assert_int_equal(step(&bench, CLEAT_SYNC_COMMIT, 1, 1), CLEAT_STATE);
    assert_false(admits(&bench));
    atomic_store(&bench.host.result[CLEAT_SYNC_SEND], CLEAT_OK);
    up_to_send(&bench, 2, 2);
    send_step(&bench, CLEAT_SYNC_SEND, 1, 2, 2);
    answer = expect_answer(&bench, CLEAT_SYNC_SEND);
    assert_int_equal(answer.sync.status, CLEAT_OK);
    assert_int_equal(answer.sync.holding, CLEAT_SYNC_TORN);
    STEP_OK(&bench, COMMIT, 2, 2);
    back_to_serving(&bench, 2, 2);
    assert_true(admits(&bench));
    bench_end(&bench);
}

static void the_lease_is_counted_from_when_it_was_asked_for(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    assert_false(admits(&bench));                       /* not granted yet */
    struct cleat_channel_packet ask = last_ask(&bench); /* at 1000 */
    atomic_store(&fake_ns, 1000 + LEASE_NS / 2);
    grant_ask(&bench, &ask, LEASE_NS);
    await_admission(&bench, true);
    assert_int_equal(cleat_worker_lease_end(bench.worker), 1000 + LEASE_NS);
    atomic_store(&fake_ns, 999 + LEASE_NS);
    assert_true(admits(&bench));
    atomic_store(&fake_ns, 1000 + LEASE_NS);
    assert_false(admits(&bench));
    /* a grant of what was never asked for */
    ask.frame.body.lease.counter += 1000000;
    grant_ask(&bench, &ask, LEASE_NS);
    ask.frame.body.lease.counter = 0;
    grant_ask(&bench, &ask, LEASE_NS);
    STEP_OK(&bench, RESTORE, 1, 1); /* both have been read by now */
    assert_false(admits(&bench));
    bench_end(&bench);
}

static void the_lease_is_asked_for_while_the_host_is_busy(void **state)
{
    const uint64_t lease_ns = 300 * CLEAT_NS_PER_MS;
    struct bench bench;

    (void)state;
    begin(&bench);
    grant(&bench, lease_ns);
    assert_true(cleat_worker_admit(bench.worker, NULL));
    send_step(&bench, CLEAT_SYNC_PAUSE, 1, 1, 2);
    await_admission(&bench, false); /* the host's thread is waiting now */
    uint64_t end_ns = cleat_worker_lease_end(bench.worker);
    atomic_store(&fake_ns, 2000);
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
    while (cleat_worker_lease_end(bench.worker) == end_ns) {
        grant(&bench, lease_ns);
        assert_true(peer_now_ns() < watchdog_ns);
    }
    assert_int_equal(cleat_worker_lease_end(bench.worker), 2000 + lease_ns);
    cleat_worker_leave(bench.worker);
    bench_end(&bench);
}

/* A worker asks for a short lease every millisecond. */
static void what_nobody_reads_leaves_room_for_an_answer(void **state)
{
    const int bytes_max = 16384;
    struct bench bench;

    (void)state;
    bench_begin(&bench);
    struct cleat_worker_config config = base_config(&bench.host);
    config.stats_ns = CLEAT_NS_PER_MS;
    bench_start(&bench, &config);
    assert_int_equal(setsockopt(config.fd, SOL_SOCKET, SO_SNDBUF, &bytes_max,
                                sizeof bytes_max),
                     0);
    grant(&bench, CLEAT_NS_PER_MS);
    (void)poll(NULL, 0, 300); /* enough to fill it many times */
    send_step(&bench, CLEAT_SYNC_PAUSE, 1, 1, 2);
    await_count(&bench.host.calls[CLEAT_SYNC_PAUSE], 1);
    (void)poll(NULL, 0, 100); /* and to have answered */
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_PAUSE).sync.status,
                     CLEAT_OK);
    /* and when it has been read, leases are asked for again */
    (void)last_ask(&bench);
    (void)peer_expect(bench.fd, CLEAT_CONTROL_LEASE_ASK);
    bench_end(&bench);
}

/* ---- the channel's end
 * --------------------------------------------------------------- */

static void at_the_channels_end_nothing_is_served_and_staging_goes(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    up_to_send(&bench, 1, 2);
    atomic_store(&bench.host.transfer_waits, true);
    send_step(&bench, CLEAT_SYNC_SEND, 1, 1, 2);
    await_count(&bench.host.in_transfer, 1);
    (void)close(bench.fd);
    bench.fd = -1;
    await_count(&bench.host.calls[CLEAT_SYNC_FINALIZE], 1);
    assert_int_equal(atomic_load(&bench.host.in_transfer), 0);
    assert_false(atomic_load(&bench.ended)); /* it waits for a next one */
    cleat_worker_stop(bench.worker);
    assert_int_equal(bench_join(&bench), CLEAT_CANCELLED);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_FINALIZE]), 1);
    assert_int_equal(bench.host.last.step, CLEAT_SYNC_FINALIZE);
    assert_int_equal(bench.host.last.epoch, 1);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_RESUME]), 0);
    bench_end_joined(&bench); /* and every thread */
    assert_true(atomic_load(&bench.host.interrupts) > 0);
}

static void an_engine_that_no_next_coordinator_comes_for_ends(void **state)
{
    struct bench bench;

    (void)state;
    bench_begin(&bench);
    struct cleat_worker_config config = base_config(&bench.host);
    config.orphan_timeout_ns = 20 * CLEAT_NS_PER_MS;
    bench_start(&bench, &config);
    STEP_OK(&bench, PAUSE, 1, 2);
    (void)close(bench.fd);
    bench.fd = -1;
    assert_int_equal(bench_join(&bench), CLEAT_PEER_LOST);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_RESUME]), 0);
    bench_end_joined(&bench);
}

static void at_the_channels_end_admission_closes(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    assert_true(admits(&bench));
    (void)close(bench.fd);
    bench.fd = -1;
    await_admission(&bench, false);
    assert_int_equal(cleat_worker_lease_end(bench.worker), 0);
    assert_false(atomic_load(&bench.ended)); /* it waits for a next one */
    bench_end(&bench);
}

static void a_trainer_without_a_coordinator_ends_at_once(void **state)
{
    struct bench bench;

    (void)state;
    bench_begin(&bench);
    struct cleat_worker_config config = base_config(&bench.host);
    config.role = CLEAT_WORKER_TRAINER;
    config.orphan_timeout_ns = CLEAT_NEVER; /* it does not matter */
    bench_start(&bench, &config);
    STEP_OK(&bench, PREPARE, 1, 2);
    (void)close(bench.fd);
    bench.fd = -1;
    assert_int_equal(bench_join(&bench), CLEAT_PEER_LOST);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_FINALIZE]), 1);
    bench_end_joined(&bench);
}

static void the_end_of_the_job_ends_the_loop_with_ok(void **state)
{
    struct bench bench;
    struct cleat_control_frame frame;

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_CLOSE;
    peer_send(bench.fd, &frame);
    (void)close(bench.fd); /* which is not an orphan's end */
    bench.fd = -1;
    assert_int_equal(bench_join(&bench), CLEAT_OK);
    assert_false(admits(&bench));
    bench_end_joined(&bench);
}

static void stop_ends_the_loop(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    up_to_send(&bench, 1, 2);
    atomic_store(&bench.host.transfer_waits, true);
    send_step(&bench, CLEAT_SYNC_SEND, 1, 1, 2);
    await_count(&bench.host.in_transfer, 1);
    cleat_worker_stop(bench.worker);
    assert_int_equal(bench_join(&bench), CLEAT_CANCELLED);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_FINALIZE]), 1);
    bench_end_joined(&bench);
}

static void finalize_interrupts_the_transfer_and_waits_for_it(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    up_to_send(&bench, 1, 2);
    atomic_store(&bench.host.transfer_waits, true);
    send_step(&bench, CLEAT_SYNC_SEND, 1, 1, 2);
    await_count(&bench.host.in_transfer, 1);
    send_step(&bench, CLEAT_SYNC_FINALIZE, 1, 1, 2);
    enum cleat_status sent = CLEAT_PENDING;
    for (uint32_t i = 0; i < 2; i++) { /* their order does not matter */
        struct cleat_channel_packet packet = peer_expect(bench.fd,
                                                         CLEAT_CONTROL_ANSWER);
        const struct cleat_sync_answer *answer =
            &packet.frame.body.answer.answer.sync;
        if (answer->step == CLEAT_SYNC_SEND) {
            sent = answer->status;
        } else {
            assert_int_equal(answer->step, CLEAT_SYNC_FINALIZE);
            assert_int_equal(answer->status, CLEAT_OK);
            assert_int_equal(atomic_load(&bench.host.in_transfer), 0);
        }
    }
    assert_int_equal(sent, CLEAT_CANCELLED);
    /* the next attempt is not cancelled by that */
    atomic_store(&bench.host.transfer_waits, false);
    STEP_OK(&bench, PREPARE, 2, 2);
    STEP_OK(&bench, GROUP, 2, 2);
    STEP_OK(&bench, SEND, 2, 2);
    bench_end(&bench);
}

/* ---- tickets
 * ----------------------------------------------------------------------------
 */

static void the_senders_ticket_goes_with_its_answer(void **state)
{
    struct bench bench;
    int fds[2];

    (void)state;
    bench_begin(&bench);
    assert_int_equal(pipe(fds), 0);
    struct cleat_worker_config config = base_config(&bench.host);
    config.role = CLEAT_WORKER_TRAINER;
    bench.host.ticket.bytes_count = 5;
    memcpy(bench.host.ticket.bytes, "where", 5);
    bench.host.ticket.fds_count = 2;
    bench.host.ticket.fds[0] = fds[0];
    bench.host.ticket.fds[1] = fds[1];
    bench_start(&bench, &config);
    send_step(&bench, CLEAT_SYNC_PREPARE, 1, 1, 2);
    struct cleat_channel_packet packet = peer_expect(bench.fd,
                                                     CLEAT_CONTROL_ANSWER);
    assert_int_equal(packet.frame.fds_count, 2);
    assert_int_equal(packet.frame.body.answer.ticket_bytes_count, 5);
    assert_memory_equal(packet.frame.body.answer.ticket_bytes, "where", 5);
    assert_int_equal(write(packet.fds[1], "y", 1), 1);
    char byte = 0;
    assert_int_equal(read(fds[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    cleat_channel_packet_close(&packet);
    (void)close(fds[0]);
    (void)close(fds[1]);
    bench_end(&bench);
}

static void
a_ticket_reaches_group_and_what_is_left_of_it_is_closed(void **state)
{
    struct bench bench;
    int fds[2];
    struct cleat_control_frame frame = command_frame(CLEAT_SYNC_GROUP, 1, 1, 2);

    (void)state;
    begin(&bench);
    assert_int_equal(pipe(fds), 0);
    STEP_OK(&bench, PAUSE, 1, 2);
    STEP_OK(&bench, PREPARE, 1, 2);
    int before = peer_count_fds();
    frame.fds_count = 2;
    frame.body.command.ticket_bytes_count = 4;
    memcpy(frame.body.command.ticket_bytes, "here", 4);
    atomic_store(&bench.host.keep_fd, true); /* takes the first of the two */
    assert_int_equal(cleat_channel_send(bench.fd, &frame, fds), CLEAT_OK);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_GROUP).sync.status,
                     CLEAT_OK);
    assert_int_equal(bench.host.ticket.bytes_count, 4);
    assert_memory_equal(bench.host.ticket.bytes, "here", 4);
    assert_int_equal(bench.host.ticket.fds_count, 2);
    assert_int_equal(peer_count_fds(), before + 1);
    (void)close(bench.host.ticket.fds[0]);
    /* on a command that the rules refuse, and on one that wants none */
    assert_int_equal(cleat_channel_send(bench.fd, &frame, fds), CLEAT_OK);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_GROUP).sync.status,
                     CLEAT_STATE);
    frame.body.command.step = CLEAT_SYNC_RESTORE;
    assert_int_equal(cleat_channel_send(bench.fd, &frame, fds), CLEAT_OK);
    (void)expect_answer(&bench, CLEAT_SYNC_RESTORE);
    STEP_OK(&bench, FINALIZE, 1, 2);
    assert_int_equal(peer_count_fds(), before);
    (void)close(fds[0]);
    (void)close(fds[1]);
    bench_end(&bench);
}

/* ---- bring-up and attaching
 * ------------------------------------------------------------------ */

static struct cleat_control_frame start_frame(uint64_t sequence,
                                              uint32_t member)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_START;
    frame.sequence = sequence;
    frame.body.start.member = member;
    return frame;
}

static void send_close(struct bench *bench, enum cleat_status status,
                       uint32_t layout)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_CLOSE;
    frame.body.close.status = status;
    frame.body.close.layout = layout;
    peer_send(bench->fd, &frame);
}

static void one_with_other_tensors_is_told_and_ends(void **state)
{
    struct bench bench;
    struct cleat_error error;

    (void)state;
    bench_begin(&bench);
    struct cleat_worker_config config = base_config(&bench.host);
    config.layout = 0xAB;
    bench_start(&bench, &config);
    struct cleat_control_frame start = start_frame(1, 6);
    peer_send(bench.fd, &start);
    struct cleat_control_hello hello =
        peer_expect(bench.fd, CLEAT_CONTROL_HELLO).frame.body.hello;
    assert_int_equal(hello.hello.layout, 0xAB);
    assert_int_equal(cleat_worker_sent_away(bench.worker, &error), CLEAT_OK);
    send_close(&bench, CLEAT_PEER_DEVIANT, 0xCD);
    assert_int_equal(bench_join(&bench), CLEAT_PEER_DEVIANT);
    assert_int_equal(cleat_worker_sent_away(bench.worker, &error),
                     CLEAT_PEER_DEVIANT);
    assert_int_equal(error.index, 6);
    assert_string_equal(error.text,
                        "its tensor table or bucket size (digest 0x000000ab) "
                        "is not the job's (0x000000cd)");
    assert_false(admits(&bench));
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_PREPARE]), 0);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_SEND]), 0);
    bench_end_joined(&bench);
}

static void hello_says_what_start_said(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    atomic_store(&bench.host.result[CLEAT_SYNC_START], CLEAT_TRANSIENT);
    struct cleat_control_frame start = start_frame(41, 6);
    peer_send(bench.fd, &start);
    struct cleat_control_hello hello =
        peer_expect(bench.fd, CLEAT_CONTROL_HELLO).frame.body.hello;
    assert_int_equal(hello.start_sequence, 41);
    assert_int_equal(hello.status, CLEAT_TRANSIENT);
    assert_int_equal(hello.member, 6);
    assert_int_equal(hello.hello.version, 1);
    assert_int_equal(hello.hello.holding, CLEAT_SYNC_WHOLE);
    assert_int_equal(hello.hello.term_seen, 0);
    assert_int_equal(hello.hello.pid, getpid());
    atomic_store(&bench.host.result[CLEAT_SYNC_START], CLEAT_OK);
    send_step(&bench, CLEAT_SYNC_PAUSE, 17, 1, 2);
    (void)expect_answer(&bench, CLEAT_SYNC_PAUSE);
    for (uint64_t i = 42; i < 44; i++) {
        start = start_frame(i, 6);
        peer_send(bench.fd, &start);
        hello = peer_expect(bench.fd, CLEAT_CONTROL_HELLO).frame.body.hello;
        assert_int_equal(hello.start_sequence, i);
        assert_int_equal(hello.status, CLEAT_OK);
        assert_int_equal(hello.hello.term_seen, 17);
    }
    /* once it is ready it is not started again */
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_START]), 2);
    bench_end(&bench);
}

static int listen_at(const char *path)
{
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    (void)unlink(path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static void an_engine_goes_to_the_next_coordinator_and_waits(void **state)
{
    struct bench bench;
    char path[64];

    (void)state;
    bench_begin(&bench);
    (void)snprintf(path, sizeof path, "/tmp/cleat-worker-test-%d",
                   (int)getpid());
    struct cleat_worker_config config = base_config(&bench.host);
    config.socket_path = path;
    config.member = 4;
    bench_start(&bench, &config); /* nobody listens yet */
    assert_false(admits(&bench));
    int listener = listen_at(path);
    bench.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(bench.fd >= 0);
    struct cleat_control_frame start = start_frame(1, CLEAT_SYNC_NOBODY);
    peer_send(bench.fd, &start);
    struct cleat_control_hello hello =
        peer_expect(bench.fd, CLEAT_CONTROL_HELLO).frame.body.hello;
    assert_int_equal(hello.member, 4);
    grant(&bench, LEASE_NS);
    await_admission(&bench, true);
    up_to_send(&bench, 7, 2);
    STEP_OK(&bench, SEND, 7, 2);
    /* the coordinator dies before commit, and a next one comes */
    (void)close(bench.fd);
    bench.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(bench.fd >= 0);
    peer_send(bench.fd, &start);
    hello = peer_expect(bench.fd, CLEAT_CONTROL_HELLO).frame.body.hello;
    assert_int_equal(hello.hello.term_seen, 1);
    assert_int_equal(hello.hello.holding, CLEAT_SYNC_WHOLE);
    assert_int_equal(hello.hello.version, 1);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_FINALIZE]), 1);
    grant(&bench, LEASE_NS);
    /* staging is gone, and nothing has resumed */
    send_step(&bench, CLEAT_SYNC_COMMIT, 2, 1, 2);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_COMMIT).sync.status,
                     CLEAT_STATE);
    assert_false(admits(&bench));
    send_step(&bench, CLEAT_SYNC_RESTORE, 2, 1, 2);
    (void)expect_answer(&bench, CLEAT_SYNC_RESTORE);
    send_step(&bench, CLEAT_SYNC_RESUME, 2, 1, 2);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_RESUME).sync.status,
                     CLEAT_OK);
    await_admission(&bench, true);
    (void)close(listener);
    (void)unlink(path);
    bench_end(&bench);
}

static void whose_place_is_taken_asks_again_until_it_is_free(void **state)
{
    struct bench bench;
    struct cleat_error error;
    char path[64];

    (void)state;
    bench_begin(&bench);
    (void)snprintf(path, sizeof path, "/tmp/cleat-worker-test-%d",
                   (int)getpid());
    int listener = listen_at(path);
    struct cleat_worker_config config = base_config(&bench.host);
    config.socket_path = path;
    config.member = 4;
    bench_start(&bench, &config);
    for (int i = 0; i < 2; i++) { /* told twice, it knocks a third time */
        bench.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        assert_true(bench.fd >= 0);
        send_close(&bench, CLEAT_EXISTS, 0);
        (void)close(bench.fd);
    }
    bench.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_int_equal(cleat_worker_sent_away(bench.worker, &error),
                     CLEAT_EXISTS);
    assert_string_equal(error.text, "the job has a member 4 already");
    grant(&bench, LEASE_NS);
    assert_int_equal(cleat_worker_sent_away(bench.worker, &error), CLEAT_OK);
    STEP_OK(&bench, RESUME, 1, 1); /* it never had been more than closed */
    assert_true(admits(&bench));
    send_close(&bench, CLEAT_OK, 0);
    assert_int_equal(bench_join(&bench), CLEAT_OK);
    (void)close(listener);
    (void)unlink(path);
    bench_end_joined(&bench);
}

/* The deadline is short, for nobody ever makes room. */
static void whose_place_stays_taken_ends_and_says_so(void **state)
{
    struct bench bench;
    struct cleat_error error;

    (void)state;
    bench_begin(&bench);
    struct cleat_worker_config config = base_config(&bench.host);
    config.orphan_timeout_ns = 50 * CLEAT_NS_PER_MS;
    bench_start(&bench, &config);
    send_close(&bench, CLEAT_EXISTS, 0);
    (void)close(bench.fd);
    bench.fd = -1;
    assert_int_equal(bench_join(&bench), CLEAT_EXISTS);
    assert_int_equal(cleat_worker_sent_away(bench.worker, &error),
                     CLEAT_EXISTS);
    bench_end_joined(&bench);
}

static void who_names_no_member_is_told_and_ends(void **state)
{
    struct bench bench;
    struct cleat_error error;

    (void)state;
    bench_begin(&bench);
    struct cleat_worker_config config = base_config(&bench.host);
    config.member = 9;
    bench_start(&bench, &config);
    send_close(&bench, CLEAT_NOT_FOUND, 0);
    assert_int_equal(bench_join(&bench), CLEAT_NOT_FOUND);
    assert_int_equal(cleat_worker_sent_away(bench.worker, &error),
                     CLEAT_NOT_FOUND);
    assert_string_equal(error.text, "the job has no member 9");
    bench_end_joined(&bench);
}

static void a_trainer_goes_to_no_next_coordinator(void **state)
{
    struct bench bench;
    char path[64];

    (void)state;
    bench_begin(&bench);
    (void)snprintf(path, sizeof path, "/tmp/cleat-worker-test-%d",
                   (int)getpid());
    int listener = listen_at(path);
    struct cleat_worker_config config = base_config(&bench.host);
    config.role = CLEAT_WORKER_TRAINER;
    config.socket_path = path;
    assert_int_equal(cleat_worker_init(bench.block, CLEAT_WORKER_BYTES, &config,
                                       &bench.worker, NULL),
                     CLEAT_OK);
    /* Its host is busy elsewhere when the coordinator goes. */
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    struct cleat_control_frame frame = command_frame(CLEAT_SYNC_PREPARE, 1, 1,
                                                     2);
    peer_send(fd, &frame);
    (void)close(fd);
    struct pollfd knocks = {.fd = listener, .events = POLLIN};
    assert_int_equal(poll(&knocks, 1, 100), 0);
    assert_int_equal(cleat_worker_run(bench.worker), CLEAT_PEER_LOST);
    (void)close(listener);
    (void)unlink(path);
    bench_end_joined(&bench);
}

static void one_that_was_serving_does_not_resume_by_itself(void **state)
{
    struct bench bench;
    int next[2];

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    assert_true(admits(&bench));
    (void)close(bench.fd);
    await_admission(&bench, false);
    peer_pair(next);
    assert_int_equal(cleat_worker_attach(bench.worker, next[1]), CLEAT_OK);
    bench.fd = next[0];
    grant(&bench, LEASE_NS);
    assert_false(admits(&bench));
    STEP_OK(&bench, RESUME, 1, 1);
    assert_true(admits(&bench));
    bench_end(&bench);
}

static void only_a_higher_term_replaces_the_coordinator(void **state)
{
    struct bench bench;
    int other[2];

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    send_step(&bench, CLEAT_SYNC_PAUSE, 5, 1, 2);
    (void)expect_answer(&bench, CLEAT_SYNC_PAUSE);
    send_step(&bench, CLEAT_SYNC_RESUME, 5, 1, 2);
    (void)expect_answer(&bench, CLEAT_SYNC_RESUME);
    peer_pair(other);
    assert_int_equal(cleat_worker_attach(bench.worker, other[1]), CLEAT_OK);
    assert_int_equal(cleat_worker_attach(bench.worker, -1), CLEAT_INVALID);
    /* it may ask, and is told; it may not command */
    struct cleat_control_frame frame = start_frame(1, 4);
    peer_send(other[0], &frame);
    assert_int_equal(peer_expect(other[0], CLEAT_CONTROL_HELLO)
                         .frame.body.hello.hello.term_seen,
                     5);
    frame = command_frame(CLEAT_SYNC_FENCE, 5, 9, 2);
    peer_send(other[0], &frame);
    assert_int_equal(peer_expect(other[0], CLEAT_CONTROL_ANSWER)
                         .frame.body.answer.answer.sync.status,
                     CLEAT_PEER_STALE);
    assert_true(admits(&bench));
    /* until its term is higher */
    frame = command_frame(CLEAT_SYNC_PAUSE, 6, 1, 2);
    peer_send(other[0], &frame);
    assert_int_equal(peer_expect(other[0], CLEAT_CONTROL_ANSWER)
                         .frame.body.answer.answer.sync.status,
                     CLEAT_OK);
    assert_false(admits(&bench));
    struct cleat_channel_packet packet;
    bool ended = false;
    while (peer_next(bench.fd, true, &packet, &ended)) {}
    assert_true(ended);
    (void)close(bench.fd);
    bench.fd = other[0];
    grant(&bench, LEASE_NS);
    send_step(&bench, CLEAT_SYNC_RESUME, 6, 1, 2);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_RESUME).sync.status,
                     CLEAT_OK);
    await_admission(&bench, true);
    bench_end(&bench);
}

/* ---- faults
 * ------------------------------------------------------------------------------
 */

static void set_fault(struct bench *bench, enum cleat_sync_step step,
                      enum cleat_worker_moment moment)
{
    memset(&bench->host.fault, 0, sizeof bench->host.fault);
    atomic_store(&bench->host.fault_moment, (int)moment);
    atomic_store(&bench->host.fault_step, (int)step);
}

static void a_refused_command_is_not_carried_out(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    set_fault(&bench, CLEAT_SYNC_PAUSE, CLEAT_WORKER_BEFORE);
    bench.host.fault.refuse = CLEAT_PERMANENT;
    assert_int_equal(step(&bench, CLEAT_SYNC_PAUSE, 1, 2), CLEAT_PERMANENT);
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_PAUSE]), 0);
    STEP_OK(&bench, PAUSE, 1, 2);
    set_fault(&bench, CLEAT_SYNC_START, CLEAT_WORKER_BEFORE);
    bench.host.fault.refuse = CLEAT_TRANSIENT;
    struct cleat_control_frame start = start_frame(1, 4);
    peer_send(bench.fd, &start);
    assert_int_equal(
        peer_expect(bench.fd, CLEAT_CONTROL_HELLO).frame.body.hello.status,
        CLEAT_TRANSIENT);
    bench_end(&bench);
}

static void an_answer_can_be_lost_doubled_and_damaged(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    set_fault(&bench, CLEAT_SYNC_PAUSE, CLEAT_WORKER_AFTER);
    bench.host.fault.drop = true;
    send_step(&bench, CLEAT_SYNC_PAUSE, 1, 1, 2);
    STEP_OK(&bench, RELEASE, 1, 2); /* its answer is the next to come */
    assert_int_equal(atomic_load(&bench.host.calls[CLEAT_SYNC_PAUSE]), 1);
    set_fault(&bench, CLEAT_SYNC_RESTORE, CLEAT_WORKER_AFTER);
    bench.host.fault.duplicate = true;
    STEP_OK(&bench, RESTORE, 1, 2);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_RESTORE).sync.status,
                     CLEAT_OK);
    set_fault(&bench, CLEAT_SYNC_RESUME, CLEAT_WORKER_AFTER);
    bench.host.fault.corrupt = true;
    send_step(&bench, CLEAT_SYNC_RESUME, 1, 1, 2);
    struct cleat_channel_packet packet;
    enum cleat_status status = CLEAT_PENDING;
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
    while (status == CLEAT_PENDING || status == CLEAT_OK) {
        status = cleat_channel_receive(bench.fd, &packet);
        if (status == CLEAT_OK) {
            assert_int_not_equal(packet.frame.kind, CLEAT_CONTROL_ANSWER);
        }
        assert_true(peer_now_ns() < watchdog_ns);
    }
    assert_int_equal(status, CLEAT_CORRUPT);
    bench_end(&bench);
}

static void a_late_answer_lets_others_pass(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    set_fault(&bench, CLEAT_SYNC_PAUSE, CLEAT_WORKER_AFTER);
    bench.host.fault.delay_ns = 2 * WATCHDOG_NS;
    send_step(&bench, CLEAT_SYNC_PAUSE, 1, 1, 2);
    STEP_OK(&bench, RELEASE, 1, 2); /* its answer is the next to come */
    /* and one that is not as late comes before it */
    set_fault(&bench, CLEAT_SYNC_RESTORE, CLEAT_WORKER_AFTER);
    bench.host.fault.delay_ns = 30 * CLEAT_NS_PER_MS;
    uint64_t sent_ns = peer_now_ns();
    STEP_OK(&bench, RESTORE, 1, 2);
    assert_true(peer_now_ns() >= sent_ns + 30 * CLEAT_NS_PER_MS);
    bench_end(&bench);
}

static void a_damaged_command_is_lost_and_the_next_is_not(void **state)
{
    struct bench bench;
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
    size_t count = 0;
    struct cleat_control_frame frame = command_frame(CLEAT_SYNC_FENCE, 1, 1, 2);

    (void)state;
    begin(&bench);
    assert_int_equal(cleat_control_encode(&frame, bytes, &count), CLEAT_OK);
    bytes[count - 1] ^= 4;
    assert_int_equal(cleat_channel_send_bytes(bench.fd, bytes, count, NULL, 0),
                     CLEAT_OK);
    STEP_OK(&bench, PAUSE, 1, 2);
    STEP_OK(&bench, RESUME, 1, 2); /* so it was never fenced */
    bench_end(&bench);
}

static void many_repeats_of_a_slow_step_do_not_pile_up(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    grant(&bench, LEASE_NS);
    assert_true(cleat_worker_admit(bench.worker, NULL));
    send_step(&bench, CLEAT_SYNC_PAUSE, 1, 1, 2);
    await_admission(&bench, false);
    for (uint32_t i = 0; i < 100; i++) {
        send_step(&bench, CLEAT_SYNC_PAUSE, 1, 1, 2);
    }
    send_step(&bench, CLEAT_SYNC_RELEASE, 1, 1, 2);
    /* all of them have been read when a lease asked for later is granted */
    cleat_worker_leave(bench.worker);
    uint32_t answers = 0;
    for (;;) {
        struct cleat_channel_packet packet = peer_expect(bench.fd,
                                                         CLEAT_CONTROL_ANSWER);
        if (packet.frame.body.answer.answer.sync.step == CLEAT_SYNC_RELEASE) {
            assert_int_equal(packet.frame.body.answer.answer.sync.status,
                             CLEAT_OK);
            break;
        }
        answers++;
    }
    assert_in_range(answers, 1, 101);
    bench_end(&bench);
}

/* ---- arguments
 * ---------------------------------------------------------------------------
 */

static void a_bad_configuration_is_refused_and_leaves_nothing(void **state)
{
    struct bench bench;
    struct cleat_error error;
    int pair[2];
    char path[120];

    (void)state;
    bench_begin(&bench);
    peer_pair(pair);
    int fds = peer_count_fds();
    struct cleat_worker_config config = base_config(&bench.host);
    config.fd = pair[1];
    struct cleat_worker *worker = (struct cleat_worker *)&bench;
    assert_int_equal(cleat_worker_init(bench.block, CLEAT_WORKER_BYTES - 1,
                                       &config, &worker, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, CLEAT_WORKER_BYTES);
    assert_null(worker);
    assert_int_equal(cleat_worker_init((char *)bench.block + 1,
                                       CLEAT_WORKER_BYTES, &config, &worker,
                                       &error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_worker_init(bench.block, CLEAT_WORKER_BYTES, NULL,
                                       &worker, &error),
                     CLEAT_INVALID);
    config.fd = STDERR_FILENO;
    assert_int_equal(cleat_worker_init(bench.block, CLEAT_WORKER_BYTES, &config,
                                       &worker, &error),
                     CLEAT_INVALID);
    memset(path, 'p', sizeof path);
    path[108] = '\0';
    config.socket_path = path;
    assert_int_equal(cleat_worker_init(bench.block, CLEAT_WORKER_BYTES, &config,
                                       &worker, &error),
                     CLEAT_LIMIT);
    assert_null(worker);
    cleat_worker_close(NULL);
    assert_int_equal(peer_count_fds(), fds);
    peer_await_threads(bench.threads_before);
    (void)close(pair[0]);
    (void)close(pair[1]);
    free(bench.block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_update_ends_serving_the_new_version),
        cmocka_unit_test(a_command_reaches_the_host_as_it_was_sent),
        cmocka_unit_test(a_lower_term_or_epoch_is_refused),
        cmocka_unit_test(what_was_done_is_not_done_again),
        cmocka_unit_test(undoing_what_never_happened_succeeds),
        cmocka_unit_test(a_step_that_failed_is_undone_as_if_it_had_not),
        cmocka_unit_test(commit_wants_the_transfer_of_that_very_attempt),
        cmocka_unit_test(a_commit_that_failed_may_be_asked_for_again),
        cmocka_unit_test(the_attempt_needs_its_steps_in_order),
        cmocka_unit_test(the_next_attempt_ends_one_whose_finalize_failed),
        cmocka_unit_test(a_trainer_knows_no_steps_of_engines),
        cmocka_unit_test(pause_waits_for_those_who_are_in),
        cmocka_unit_test(pause_and_fence_give_up_at_their_deadline),
        cmocka_unit_test(a_fence_holds_until_a_later_commit),
        cmocka_unit_test(a_fence_is_lifted_by_a_commit_of_the_version_held),
        cmocka_unit_test(a_torn_version_is_not_served_until_a_commit),
        cmocka_unit_test(the_lease_is_counted_from_when_it_was_asked_for),
        cmocka_unit_test(the_lease_is_asked_for_while_the_host_is_busy),
        cmocka_unit_test(what_nobody_reads_leaves_room_for_an_answer),
        cmocka_unit_test(
            at_the_channels_end_nothing_is_served_and_staging_goes),
        cmocka_unit_test(an_engine_that_no_next_coordinator_comes_for_ends),
        cmocka_unit_test(at_the_channels_end_admission_closes),
        cmocka_unit_test(a_trainer_without_a_coordinator_ends_at_once),
        cmocka_unit_test(the_end_of_the_job_ends_the_loop_with_ok),
        cmocka_unit_test(stop_ends_the_loop),
        cmocka_unit_test(finalize_interrupts_the_transfer_and_waits_for_it),
        cmocka_unit_test(the_senders_ticket_goes_with_its_answer),
        cmocka_unit_test(
            a_ticket_reaches_group_and_what_is_left_of_it_is_closed),
        cmocka_unit_test(one_with_other_tensors_is_told_and_ends),
        cmocka_unit_test(whose_place_is_taken_asks_again_until_it_is_free),
        cmocka_unit_test(whose_place_stays_taken_ends_and_says_so),
        cmocka_unit_test(who_names_no_member_is_told_and_ends),
        cmocka_unit_test(hello_says_what_start_said),
        cmocka_unit_test(an_engine_goes_to_the_next_coordinator_and_waits),
        cmocka_unit_test(a_trainer_goes_to_no_next_coordinator),
        cmocka_unit_test(one_that_was_serving_does_not_resume_by_itself),
        cmocka_unit_test(only_a_higher_term_replaces_the_coordinator),
        cmocka_unit_test(a_refused_command_is_not_carried_out),
        cmocka_unit_test(an_answer_can_be_lost_doubled_and_damaged),
        cmocka_unit_test(a_late_answer_lets_others_pass),
        cmocka_unit_test(a_damaged_command_is_lost_and_the_next_is_not),
        cmocka_unit_test(many_repeats_of_a_slow_step_do_not_pile_up),
        cmocka_unit_test(a_bad_configuration_is_refused_and_leaves_nothing),
    };

    peer_warm_up();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
