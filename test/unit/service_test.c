/* Cleat: the services, one message at a time. SPDX-License-Identifier:
 * Apache-2.0
 *
 * One thread and a clock of its own: the mailbox answers a wait with the next
 * message of a small honest world, or, when there is none, with the deadline,
 * to which the clock then comes. No call of a service may allocate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cleat/service.h"
#include "no_malloc.h"

#define START_NS UINT64_C(5000000000)
#define RETRY_NS (UINT64_C(500) * CLEAT_NS_PER_MS) /* cleat/sync.h */
#define STEP_NS (UINT64_C(10) * CLEAT_NS_PER_S)

enum { MEMBERS = 3, REPLICAS = 2, MESSAGES_MAX = 64, STORY_MAX = 256 };

/* ---------------------------------------------------------------- the world */

struct told {
    enum cleat_event_kind kind;
    enum cleat_sync_step step;
    uint32_t member;
    enum cleat_status status;
};

static struct {
    uint64_t now_ns;
    bool locked;
    struct cleat_message box[MESSAGES_MAX];
    uint32_t box_count;
    uint32_t box_max; /* 0: MESSAGES_MAX */

    uint64_t versions[MEMBERS];
    uint32_t sent[CLEAT_SYNC_STEPS];  /* commands handed over */
    uint32_t silent;                  /* bit m: m answers nothing */
    enum cleat_status refuse;         /* what send says … */
    enum cleat_sync_step refuse_step; /* … to this step */
    uint32_t refuse_left;             /* … so many times */
    enum cleat_status expel_status;
    enum cleat_sync_step hello_at; /* somebody attaches meanwhile */

    struct told told[STORY_MAX];
    uint32_t told_count;

    enum cleat_status submit_says;
    uint32_t submits;
    enum cleat_status wait_says[8]; /* one wait after the other; then OK */
    uint32_t waits;
    struct cleat_bringup *to_stop; /* by each wait */
    uint64_t hint_ns;
    uint64_t handle_seen;

    _Alignas(64) unsigned char block[8192];
} world;

static uint64_t now(struct cleat_clock_context *context)
{
    (void)context;
    return world.now_ns;
}

static void lock(struct cleat_threads_context *context)
{
    (void)context;
    assert_false(world.locked);
    world.locked = true;
}

static void unlock(struct cleat_threads_context *context)
{
    (void)context;
    assert_true(world.locked);
    world.locked = false;
}

static enum cleat_status post(struct cleat_mailbox_context *context,
                              const struct cleat_message *message)
{
    uint32_t max = world.box_max != 0 ? world.box_max : MESSAGES_MAX;

    (void)context;
    if (world.box_count == max) { return CLEAT_NO_SLOT; }
    world.box[world.box_count++] = *message;
    return CLEAT_OK;
}

static struct {
    cleat_job_fn *fn;
    void *job;
    uint64_t index;
} jobs[8];
static uint32_t jobs_count;

/* Worker threads do their jobs while the service waits. */
static void do_jobs(void)
{
    uint32_t count = jobs_count;

    jobs_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        jobs[i].fn(jobs[i].job, jobs[i].index);
    }
}

static enum cleat_status wait(struct cleat_mailbox_context *context,
                              uint64_t deadline_ns,
                              struct cleat_message *message)
{
    (void)context;
    assert_true(deadline_ns == 0 || !world.locked);
    if (!world.locked) { do_jobs(); }
    if (world.box_count > 0) {
        *message = world.box[0];
        world.box_count--;
        memmove(world.box, world.box + 1,
                world.box_count * sizeof world.box[0]);
        return CLEAT_OK;
    }
    assert_true(deadline_ns != CLEAT_NEVER);
    if (deadline_ns > world.now_ns) { world.now_ns = deadline_ns; }
    return CLEAT_DEADLINE;
}

static enum cleat_status submit(struct cleat_threads_context *context,
                                cleat_job_fn *fn, void *job, uint64_t index)
{
    (void)context;
    world.submits++;
    if (world.submit_says != CLEAT_OK) { return world.submit_says; }
    jobs[jobs_count].fn = fn;
    jobs[jobs_count].job = job;
    jobs[jobs_count].index = index;
    jobs_count++;
    return CLEAT_OK;
}

static void tell(void *context, const struct cleat_event *event)
{
    (void)context;
    assert_true(world.locked);
    assert_int_equal(event->now_ns, world.now_ns);
    assert_true((event->kind == CLEAT_EVENT_ANSWER) == (event->answer != NULL));
    if (world.told_count < STORY_MAX) {
        world.told[world.told_count++] = (struct told){
            event->kind, event->step, event->member, event->status};
    }
}

static void post_answer(const struct cleat_sync_command *command,
                        enum cleat_status status)
{
    struct cleat_worker_answer answer = {
        .sync = {.step = command->step,
                 .member = command->member,
                 .term = command->term,
                 .epoch = command->epoch,
                 .status = status,
                 .holding = CLEAT_SYNC_WHOLE,
                 .version = world.versions[command->member]}};
    struct cleat_message message = {.kind = CLEAT_WORKER_ANSWER,
                                    .index = command->member};

    memcpy(message.body, &answer, sizeof answer);
    (void)post(NULL, &message);
}

static void post_hello(uint32_t member, uint64_t term_seen, uint64_t version)
{
    struct cleat_worker_hello hello = {.term_seen = term_seen,
                                       .version = version,
                                       .holding = CLEAT_SYNC_WHOLE};
    struct cleat_message message = {.kind = CLEAT_WORKER_HELLO,
                                    .index = member};

    memcpy(message.body, &hello, sizeof hello);
    (void)post(NULL, &message);
}

static void post_lost(uint32_t member)
{
    struct cleat_message message = {.kind = CLEAT_WORKER_LOST, .index = member};

    (void)post(NULL, &message);
}

static enum cleat_status send(struct cleat_worker_context *context,
                              const struct cleat_sync_command *command)
{
    (void)context;
    assert_true(world.locked);
    world.sent[command->step]++;
    if (command->step == CLEAT_SYNC_EXPEL) {
        post_answer(command, world.expel_status);
        return CLEAT_PEER_LOST; /* which says nothing new here */
    }
    if (world.refuse_left > 0 && command->step == world.refuse_step) {
        world.refuse_left--;
        return world.refuse;
    }
    if (command->step == world.hello_at) {
        world.hello_at = CLEAT_SYNC_STEPS;
        post_lost(2);
        post_hello(2, 0, 1);
        world.versions[2] = 1;
    }
    if ((world.silent >> command->member & 1) != 0) { return CLEAT_OK; }
    if (command->step == CLEAT_SYNC_COMMIT) {
        world.versions[command->member] = command->version;
    }
    post_answer(command, CLEAT_OK);
    return CLEAT_OK;
}

static struct cleat_service_ports ports(void)
{
    struct cleat_service_ports out = {.clock = {NULL, now},
                                      .threads = {NULL, lock, unlock, submit},
                                      .mailbox = {NULL, post, wait},
                                      .events = {NULL, tell}};

    return out;
}

static const struct cleat_worker_port workers = {NULL, send};
static const struct cleat_sync_config config = {
    .trainers = 1, .replicas = REPLICAS, .workers = 1};

static int setup(void **state)
{
    (void)state;
    memset(&world, 0, sizeof world);
    world.now_ns = START_NS;
    world.hello_at = CLEAT_SYNC_STEPS;
    jobs_count = 0;
    for (uint32_t i = 0; i < MEMBERS; i++) {
        world.versions[i] = 1;
        post_hello(i, 0, 1);
    }
    return 0;
}

static struct cleat_sync_service *open_sync(void)
{
    struct cleat_service_ports all = ports();
    struct cleat_sync_service *service = NULL;

    assert_int_equal(
        cleat_sync_service_init(world.block, cleat_sync_service_bytes(&config),
                                &config, &all, &workers, &service, NULL),
        CLEAT_OK);
    return service;
}

static enum cleat_status run(struct cleat_sync_service *service,
                             uint64_t version, uint64_t old,
                             struct cleat_sync_report *report,
                             struct cleat_error *error)
{
    struct cleat_sync_request request = {version, old};
    enum cleat_status status;

    cleat_test_forbid_malloc(true);
    status = cleat_sync_run(service, &request, report, error);
    cleat_test_forbid_malloc(false);
    assert_false(world.locked);
    return status;
}

/* ------------------------------------------------------------------- sync */

static void an_update_is_told_step_by_step(void **state)
{
    /* cleat/sync.h's picture: the steps that have commands, in their order. */
    static const enum cleat_sync_step steps[] = {
        CLEAT_SYNC_PAUSE,    CLEAT_SYNC_RELEASE, CLEAT_SYNC_PREPARE,
        CLEAT_SYNC_GROUP,    CLEAT_SYNC_SEND,    CLEAT_SYNC_COMMIT,
        CLEAT_SYNC_FINALIZE, CLEAT_SYNC_RESTORE, CLEAT_SYNC_RESUME,
        CLEAT_SYNC_STEPS};
    struct cleat_sync_service *service = open_sync();
    struct cleat_sync_report report;
    struct cleat_error error;
    uint32_t at = 0;
    uint32_t commands = 0;
    uint32_t answers = 0;

    (void)state;
    assert_int_equal(run(service, 2, 1, &report, &error), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_COMMITTED);
    assert_int_equal(report.attempts, 1);
    assert_int_equal(report.version, 2);
    assert_int_equal(report.serving, REPLICAS);
    assert_int_equal(report.errors_count, 0);
    assert_int_equal(report.started_ns, START_NS);
    assert_int_equal(report.ended_ns, START_NS);
    for (uint32_t i = 0; i < world.told_count; i++) {
        const struct told *told = &world.told[i];

        if (told->kind == CLEAT_EVENT_STEP) {
            assert_true(at < sizeof steps / sizeof steps[0]);
            assert_int_equal(told->step, steps[at++]);
        } else if (told->kind == CLEAT_EVENT_COMMAND) {
            assert_int_equal(told->step, steps[at - 1]);
            assert_int_equal(told->status, CLEAT_OK);
            commands++;
        } else if (told->kind == CLEAT_EVENT_ANSWER) {
            assert_int_equal(told->step, steps[at - 1]);
            answers++;
        }
    }
    assert_int_equal(at, sizeof steps / sizeof steps[0]);
    /* Five steps of the engines, four of everybody. */
    assert_int_equal(commands, 5 * REPLICAS + 4 * MEMBERS);
    assert_int_equal(answers, commands);
}

static void what_finds_no_room_is_sent_again(void **state)
{
    struct cleat_sync_service *service = open_sync();
    struct cleat_sync_report report;

    (void)state;
    world.refuse = CLEAT_NO_SLOT;
    world.refuse_step = CLEAT_SYNC_PAUSE;
    world.refuse_left = REPLICAS;
    assert_int_equal(run(service, 2, 1, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_COMMITTED);
    assert_int_equal(world.sent[CLEAT_SYNC_PAUSE], 2 * REPLICAS);
    assert_int_equal(report.ended_ns, START_NS + RETRY_NS);
}

static void who_cannot_be_sent_to_is_lost(void **state)
{
    struct cleat_sync_service *service = open_sync();
    struct cleat_sync_report report;

    (void)state;
    world.refuse = CLEAT_PEER_LOST;
    world.refuse_step = CLEAT_SYNC_PAUSE;
    world.refuse_left = 1; /* member 1, the first to be told */
    assert_int_equal(run(service, 2, 1, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_DEGRADED);
    assert_int_equal(report.serving, 1);
    assert_int_equal(report.first.status, CLEAT_PEER_LOST);
    assert_int_equal(report.first.member, 1);
    assert_int_equal(world.sent[CLEAT_SYNC_EXPEL], 1);
    assert_int_equal(report.ended_ns, START_NS);
    assert_int_equal(
        cleat_sync_replica_state(cleat_sync_service_machine(service), 0),
        CLEAT_SYNC_DEAD);
}

static void who_is_silent_is_waited_for_until_the_deadline(void **state)
{
    struct cleat_sync_service *service = open_sync();
    struct cleat_sync_report report;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    world.silent = 1u << 2;
    assert_int_equal(run(service, 2, 1, &report, &error), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_DEGRADED);
    /* pause, and then fence, each until its deadline. */
    assert_int_equal(report.ended_ns, START_NS + 2 * STEP_NS);
    assert_int_equal(report.first.step, CLEAT_SYNC_PAUSE);
    assert_int_equal(report.first.status, CLEAT_PEER_SILENT);
}

static void who_cannot_be_made_certain_means_restart(void **state)
{
    struct cleat_sync_service *service = open_sync();
    struct cleat_sync_report report;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    world.silent = 1u << 2;
    world.expel_status = CLEAT_PEER_UNFENCED;
    assert_int_equal(run(service, 2, 1, &report, &error), CLEAT_RESTART);
    assert_int_equal(report.outcome, CLEAT_SYNC_RESTART);
    assert_int_equal(error.status, CLEAT_RESTART);
    assert_int_equal(error.index, 2);
    assert_string_equal(error.text,
                        "sync: RESTART: pause of replica 1: the peer did not "
                        "answer before its deadline");
    /* And that is the last update of this service. */
    assert_int_equal(run(service, 3, 2, &report, &error), CLEAT_STATE);
    assert_int_equal(error.status, CLEAT_STATE);
}

static void a_lost_trainer_takes_the_update_back(void **state)
{
    struct cleat_sync_service *service = open_sync();
    struct cleat_sync_report report;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    world.refuse = CLEAT_PEER_LOST;
    world.refuse_step = CLEAT_SYNC_PREPARE;
    world.refuse_left = 1;
    assert_int_equal(run(service, 2, 1, &report, &error), CLEAT_PEER_LOST);
    assert_int_equal(report.outcome, CLEAT_SYNC_ROLLED_BACK);
    assert_int_equal(report.serving, REPLICAS);
    assert_string_equal(error.text, "sync: ROLLED_BACK: prepare of trainer 0: "
                                    "the peer is gone");
    assert_int_equal(world.versions[1], 1);
}

static void who_attaches_meanwhile_takes_part_in_the_next(void **state)
{
    struct cleat_sync_service *service = open_sync();
    struct cleat_sync_report report;

    (void)state;
    world.hello_at = CLEAT_SYNC_RESUME; /* member 2 ends and comes back */
    assert_int_equal(run(service, 2, 1, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_DEGRADED);
    assert_int_equal(report.serving, 1);
    assert_int_equal(run(service, 3, 2, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_COMMITTED);
    assert_int_equal(report.serving, 2);
    assert_int_equal(world.versions[2], 3);
}

static void what_came_between_two_updates_is_heard_first(void **state)
{
    struct cleat_sync_service *service = open_sync();
    struct cleat_sync_report report;
    uint64_t term;

    (void)state;
    assert_int_equal(run(service, 2, 1, &report, NULL), CLEAT_OK);
    term = report.term;
    post_lost(1);
    assert_int_equal(run(service, 3, 2, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_DEGRADED);
    assert_int_equal(report.first.status, CLEAT_PEER_LOST);
    /* A new process that has obeyed a later coordinator. */
    post_hello(1, term + 41, 1);
    world.versions[1] = 1;
    assert_int_equal(run(service, 4, 3, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_COMMITTED);
    assert_int_equal(report.term, term + 42);
    /* One that ended before it took part is none. */
    post_lost(1);
    post_hello(1, 0, 1);
    post_lost(1);
    assert_int_equal(run(service, 5, 4, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_DEGRADED);
}

static void nonsense_is_not_heard(void **state)
{
    static const struct {
        uint32_t kind;
        uint32_t index;
    } words[] = {{0, 1},
                 {99, 1},
                 {CLEAT_WORKER_WAKE, 0},
                 {CLEAT_WORKER_ANSWER, 1},
                 {CLEAT_WORKER_ANSWER, MEMBERS},
                 {CLEAT_WORKER_LOST, MEMBERS},
                 {CLEAT_WORKER_LOST, UINT32_MAX},
                 {CLEAT_WORKER_HELLO, MEMBERS},
                 {CLEAT_WORKER_HELLO, UINT32_MAX}};
    struct cleat_sync_service *service = open_sync();
    size_t bytes = cleat_sync_service_bytes(&config);
    struct cleat_sync_report report;

    (void)state;
    memset(world.block + bytes, 0xA5, sizeof world.block - bytes);
    for (uint32_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        struct cleat_message message = {.kind = words[i].kind,
                                        .index = words[i].index};

        memset(message.body, 0xFF, sizeof message.body);
        assert_int_equal(post(NULL, &message), CLEAT_OK);
    }
    assert_int_equal(run(service, 2, 1, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_COMMITTED);
    assert_int_equal(report.ended_ns, START_NS);
    for (size_t i = bytes; i < sizeof world.block; i++) {
        assert_int_equal(world.block[i], 0xA5);
    }
}

static void what_cannot_begin_says_why(void **state)
{
    struct cleat_sync_service *service = open_sync();
    struct cleat_sync_report report;
    struct cleat_error error;

    (void)state;
    assert_int_equal(run(service, 1, 1, &report, &error), CLEAT_INVALID);
    assert_int_equal(error.status, CLEAT_INVALID);
    assert_int_equal(cleat_sync_stop(service), CLEAT_STATE);
    assert_int_equal(run(service, 2, 1, &report, NULL), CLEAT_OK);
    assert_int_equal(cleat_sync_stop(service), CLEAT_STATE);
}

static void a_sync_service_without_its_ports_is_refused(void **state)
{
    struct cleat_service_ports bad[6];
    struct cleat_worker_port nobody = {NULL, NULL};
    struct cleat_service_ports all = ports();
    struct cleat_sync_config none = config;
    struct cleat_sync_service *service;
    struct cleat_error error;
    size_t bytes = cleat_sync_service_bytes(&config);

    (void)state;
    for (uint32_t i = 0; i < 6; i++) { bad[i] = all; }
    bad[0].clock.now_ns = NULL;
    bad[1].threads.lock = NULL;
    bad[2].threads.unlock = NULL;
    bad[3].threads.submit = NULL;
    bad[4].mailbox.post = NULL;
    bad[5].mailbox.wait = NULL;
    for (uint32_t i = 0; i < 6; i++) {
        service = (void *)&world;
        assert_int_equal(cleat_sync_service_init(world.block, bytes, &config,
                                                 &bad[i], &workers, &service,
                                                 &error),
                         CLEAT_INVALID);
        assert_null(service);
    }
    assert_int_equal(cleat_sync_service_init(world.block, bytes, &config, &all,
                                             &nobody, &service, &error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_sync_service_init(world.block, bytes - 1, &config,
                                             &all, &workers, &service, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
    none.replicas = 0;
    assert_int_equal(cleat_sync_service_bytes(&none), 0);
    assert_int_equal(cleat_sync_service_init(world.block, bytes, &none, &all,
                                             &workers, &service, &error),
                     CLEAT_INVALID);
    none.replicas = REPLICAS;
    none.replicas_min = REPLICAS + 1;
    assert_int_equal(cleat_sync_service_init(world.block, bytes, &none, &all,
                                             &workers, &service, &error),
                     CLEAT_INVALID);
    assert_null(service);
}

/* --------------------------------------------------------------- bring-up */

enum { HANDLES = 2 };

static enum cleat_status wait_for(struct cleat_waiter_context *context,
                                  uint64_t handle, uint64_t deadline_ns,
                                  uint64_t *hint_ns)
{
    enum cleat_status status = CLEAT_OK;

    (void)context;
    assert_false(world.locked);
    assert_true(deadline_ns > world.now_ns);
    assert_int_equal(*hint_ns, CLEAT_NONE);
    if (world.waits < 8) { status = world.wait_says[world.waits]; }
    world.waits++;
    world.handle_seen = handle;
    if (world.to_stop != NULL) { (void)cleat_bringup_stop(world.to_stop); }
    if (world.hint_ns != 0) { *hint_ns = world.hint_ns; }
    return status;
}

static const struct cleat_waiter waiter = {NULL, wait_for};

static struct cleat_bringup *
open_bringup(const struct cleat_retry_policy *policy, uint64_t timeout_ns)
{
    struct cleat_gather_config gather = {policy, timeout_ns, HANDLES};
    struct cleat_service_ports all = ports();
    struct cleat_bringup *bringup = NULL;

    world.box_count = 0;
    assert_true(cleat_bringup_bytes(&gather) <= sizeof world.block);
    assert_int_equal(cleat_bringup_init(world.block,
                                        cleat_bringup_bytes(&gather), &gather,
                                        &all, &waiter, 7, &bringup, NULL),
                     CLEAT_OK);
    return bringup;
}

static enum cleat_status bring_up(struct cleat_bringup *bringup,
                                  struct cleat_error *error)
{
    static const uint64_t handles[HANDLES] = {UINT64_MAX, 42};
    enum cleat_status status;

    cleat_test_forbid_malloc(true);
    status = cleat_bringup_run(bringup, handles, error);
    cleat_test_forbid_malloc(false);
    assert_false(world.locked);
    return status;
}

static const struct cleat_retry_policy plain = {
    .base_ns = 1000,
    .attempts_max = 3,
    .attempt_timeout_ns = 50000,
    .jitter = CLEAT_RETRY_JITTER_NONE};

static void a_wait_that_fails_for_now_is_made_again(void **state)
{
    struct cleat_bringup *bringup = open_bringup(&plain, 0);

    (void)state;
    world.wait_says[0] = CLEAT_TRANSIENT;
    assert_int_equal(bring_up(bringup, NULL), CLEAT_OK);
    assert_int_equal(world.waits, HANDLES + 1);
    assert_int_equal(world.handle_seen, UINT64_MAX);
    assert_int_equal(world.now_ns, START_NS + 1000);
    assert_int_equal(world.told[0].kind, CLEAT_EVENT_WAIT);
    assert_int_equal(world.told[0].step, CLEAT_SYNC_START);
}

static void who_asks_to_be_left_alone_is(void **state)
{
    struct cleat_bringup *bringup = open_bringup(&plain, 0);

    (void)state;
    world.wait_says[0] = CLEAT_CAPACITY;
    world.hint_ns = 7000; /* within hint_max_ns of the delay */
    assert_int_equal(bring_up(bringup, NULL), CLEAT_OK);
    assert_int_equal(world.now_ns, START_NS + 7000);
}

static void a_wait_that_fails_for_good_ends_it_at_once(void **state)
{
    struct cleat_bringup *bringup = open_bringup(&plain, 0);
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    world.wait_says[1] = CLEAT_PEER_LOST;
    assert_int_equal(bring_up(bringup, &error), CLEAT_PEER_LOST);
    assert_int_equal(error.index, 1);
    assert_string_equal(error.text, "bring-up: handle 1 is not ready after 1 "
                                    "waits: PEER_LOST (PEER_LOST)");
    assert_int_equal(world.now_ns, START_NS);
    /* And the next run is a new one. */
    world.waits = 8;
    assert_int_equal(bring_up(bringup, &error), CLEAT_OK);
}

static void what_a_stopped_run_has_left_takes_no_room(void **state)
{
    struct cleat_bringup *bringup = open_bringup(&plain, 0);
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    world.box_max = 2 * HANDLES; /* as cleat/service.h asks */
    world.to_stop = bringup;
    for (uint32_t run = 0; run < 10; run++) {
        assert_int_equal(bring_up(bringup, &error), CLEAT_CANCELLED);
        do_jobs(); /* waits that its end did not wait for */
    }
    world.to_stop = NULL;
    world.waits = 0;
    assert_int_equal(bring_up(bringup, &error), CLEAT_OK);
    assert_int_equal(world.waits, HANDLES);
    assert_int_equal(world.now_ns, START_NS); /* and nobody was silent */
}

static void without_a_thread_it_waits_for_one(void **state)
{
    struct cleat_bringup *bringup = open_bringup(&plain, 0);
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    world.submit_says = CLEAT_NO_SLOT;
    assert_int_not_equal(bring_up(bringup, &error), CLEAT_OK);
    /* attempts_max of the first handle, at whose last one it ends. */
    assert_int_equal(world.submits, 3 + 2);
    assert_int_equal(world.waits, 0);
    world.submit_says = CLEAT_OK;
    assert_int_equal(bring_up(bringup, &error), CLEAT_OK);
}

/* A policy without backoff, and no room for a job: the lock must be given all
 * the same, or nobody could make room. */
static bool makes_room;
static uint32_t locks;

static void counting_lock(struct cleat_threads_context *context)
{
    lock(context);
    if (++locks == 10 && makes_room) { world.submit_says = CLEAT_OK; }
}

static void without_backoff_the_lock_is_given_between_two_tries(void **state)
{
    static const struct cleat_retry_policy restless = {
        .base_ns = CLEAT_NONE, .attempts_max = CLEAT_RETRY_UNLIMITED};
    struct cleat_gather_config gather = {&restless, CLEAT_NONE, HANDLES};
    struct cleat_service_ports all = ports();
    struct cleat_bringup *bringup = NULL;

    (void)state;
    world.box_count = 0;
    locks = 0;
    makes_room = true;
    all.threads.lock = counting_lock;
    world.submit_says = CLEAT_NO_SLOT;
    assert_int_equal(cleat_bringup_init(world.block, sizeof world.block,
                                        &gather, &all, &waiter, 7, &bringup,
                                        NULL),
                     CLEAT_OK);
    assert_int_equal(bring_up(bringup, NULL), CLEAT_OK);
    assert_int_equal(world.now_ns, START_NS);
}

static void a_bring_up_without_its_ports_is_refused(void **state)
{
    struct cleat_retry_policy bad = {.multiplier_thousandths = 1};
    struct cleat_gather_config gather = {NULL, 0, HANDLES};
    struct cleat_service_ports all = ports();
    struct cleat_waiter nobody = {NULL, NULL};
    struct cleat_bringup *bringup = (void *)&world;
    struct cleat_error error;
    size_t bytes = cleat_bringup_bytes(&gather);

    (void)state;
    assert_int_equal(cleat_bringup_init(world.block, bytes - 1, &gather, &all,
                                        &waiter, 7, &bringup, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
    assert_null(bringup);
    assert_int_equal(cleat_bringup_init(world.block, bytes, &gather, &all,
                                        &nobody, 7, &bringup, &error),
                     CLEAT_INVALID);
    gather.policy = &bad;
    assert_int_equal(cleat_bringup_init(world.block, bytes, &gather, &all,
                                        &waiter, 7, &bringup, &error),
                     CLEAT_INVALID);
    gather.policy = NULL;
    gather.handles_count = 0;
    assert_int_equal(cleat_bringup_bytes(&gather), 0);
    assert_int_equal(cleat_bringup_init(world.block, bytes, &gather, &all,
                                        &waiter, 7, &bringup, &error),
                     CLEAT_INVALID);
    gather.handles_count = HANDLES;
    all.mailbox.wait = NULL;
    assert_int_equal(cleat_bringup_init(world.block, bytes, &gather, &all,
                                        &waiter, 7, &bringup, &error),
                     CLEAT_INVALID);
    assert_null(bringup);
    bringup = open_bringup(&plain, 0);
    assert_int_equal(cleat_bringup_stop(bringup), CLEAT_STATE);
}

#define TEST(name) cmocka_unit_test_setup(name, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_update_is_told_step_by_step),
        TEST(what_finds_no_room_is_sent_again),
        TEST(who_cannot_be_sent_to_is_lost),
        TEST(who_is_silent_is_waited_for_until_the_deadline),
        TEST(who_cannot_be_made_certain_means_restart),
        TEST(a_lost_trainer_takes_the_update_back),
        TEST(who_attaches_meanwhile_takes_part_in_the_next),
        TEST(what_came_between_two_updates_is_heard_first),
        TEST(nonsense_is_not_heard),
        TEST(what_cannot_begin_says_why),
        TEST(a_sync_service_without_its_ports_is_refused),
        TEST(a_wait_that_fails_for_now_is_made_again),
        TEST(who_asks_to_be_left_alone_is),
        TEST(a_wait_that_fails_for_good_ends_it_at_once),
        TEST(what_a_stopped_run_has_left_takes_no_room),
        TEST(without_a_thread_it_waits_for_one),
        TEST(without_backoff_the_lock_is_given_between_two_tries),
        TEST(a_bring_up_without_its_ports_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
