/* Cleat: gather against its invariants. SPDX-License-Identifier: Apache-2.0
 *
 * Three engines have been started, each exactly once. Whoever drives the
 * machine answers its waits in any order and at any time, with the faults of
 * the table; an engine may be gone with or without a word; the caller may
 * cancel. What has really been started, waited for and answered is kept here,
 * and the machine is held to it. */
#include "choose.h"
#include "cleat/gather.h"
#include "faults.h"

#define SECONDS(n) ((n)*CLEAT_NS_PER_S)

enum { HANDLES_MAX = 3 };

enum mark {
    MARK_OK,
    MARK_PERMANENT,
    MARK_EXHAUSTED,
    MARK_DEADLINE,
    MARK_CANCELLED,
    MARK_LATE_OK,
    MARK_LATE_ERROR,
    MARK_AGAIN
};

static const char *const marks[] = {
    "every handle ready", "a permanent error", "no attempt left",
    "the time is up",     "cancelled",         "ready, says a wait given up",
    "a late error comes", "waited for again",  NULL};

struct bounds {
    struct cleat_retry_policy policy;
    uint64_t start_timeout_ns;
    uint64_t begins_ns;
    uint32_t handles;
    uint8_t faults;
    uint8_t cancels;
};

/* One engine and the waits for it, as they are. */
struct engine {
    uint64_t deadline_ns; /* of the present wait */
    uint64_t rests_ns;    /* it is not waited for again before */
    uint32_t waits;       /* begun */
    uint32_t held_wait;   /* whose answer is on its way; 0: none */
    int16_t held;         /* that answer */
    uint8_t waited_for;   /* the present wait has not been answered */
    uint8_t unanswered;   /* … and never will be */
    uint8_t gone;
    uint8_t failures; /* of waits, told or silent */
    uint8_t told_ok;  /* an OK has been delivered before the end */
};

struct world {
    _Alignas(64) unsigned char block[CLEAT_GATHER_BYTES(HANDLES_MAX)];
    struct engine engines[HANDLES_MAX];
    const struct bounds *bounds;
    uint64_t now_ns;
    uint8_t faults_left;
    uint8_t cancels_left;
    uint8_t cancelled;
};

static struct cleat_gather *machine(struct world *w)
{
    return (struct cleat_gather *)(void *)w->block;
}

static enum cleat_status status_of(struct world *w)
{
    return cleat_gather_status(machine(w), NULL);
}

static void init(void *state, const void *arg)
{
    struct world *w = state;
    struct cleat_gather_config config;
    struct cleat_gather *made;

    w->bounds = arg;
    w->now_ns = w->bounds->begins_ns;
    w->faults_left = w->bounds->faults;
    w->cancels_left = w->bounds->cancels;
    memset(&config, 0, sizeof config);
    config.policy = &w->bounds->policy;
    config.start_timeout_ns = w->bounds->start_timeout_ns;
    config.handles_count = w->bounds->handles;
    if (cleat_gather_begin(w->block, sizeof w->block, &config, w->now_ns, &made,
                           NULL) != CLEAT_OK) {
        cleat_test_assert_failed("begin", __FILE__, __LINE__);
    }
}

static uint64_t ends_ns(const struct world *w)
{
    return cleat_time_add(w->bounds->begins_ns, w->bounds->start_timeout_ns);
}

/* A wait has failed at `now_ns`: the oracle's backoff begins, where there is no
 * chance in it. */
static void wait_failed(struct world *w, struct engine *e, uint64_t now_ns)
{
    const struct cleat_retry_policy *policy = &w->bounds->policy;
    uint64_t delay = policy->base_ns << e->failures;

    if (delay > policy->max_ns) { delay = policy->max_ns; }
    if (policy->jitter == CLEAT_RETRY_JITTER_FULL) { delay = 0; }
    e->waited_for = 0;
    e->failures++;
    e->rests_ns = cleat_time_add(now_ns, delay);
}

/* Time goes on: waits whose deadline has come are given up. */
static void moved_to(struct world *w, uint64_t now_ns)
{
    w->now_ns = now_ns;
    for (uint32_t i = 0; i < w->bounds->handles; i++) {
        struct engine *e = &w->engines[i];
        if (e->waited_for != 0 && e->deadline_ns <= now_ns && e->told_ok == 0) {
            wait_failed(w, e, now_ns);
        }
    }
}

static void check_time(struct choose *c, struct world *w)
{
    if (status_of(w) != CLEAT_PENDING) {
        choose_check(c, cleat_gather_deadline(machine(w)) == CLEAT_NEVER,
                     "nothing is due after the end");
        return;
    }
    choose_check(c, w->now_ns < ends_ns(w), "bounded-in-time");
    choose_check(c, cleat_gather_deadline(machine(w)) > w->now_ns,
                 "every deadline that has come has been applied");
    choose_check(c, cleat_gather_deadline(machine(w)) <= ends_ns(w),
                 "bounded-in-time");
}

/* Takes every command. */
static void take_commands(struct choose *c, struct world *w)
{
    struct cleat_gather_command command;

    while (cleat_gather_next(machine(w), &command)) {
        struct engine *e = &w->engines[command.handle];
        choose_check(c, command.handle < w->bounds->handles,
                     "same-handle-never-recreated");
        choose_note(c, "  wait %u for %u until %llu", command.wait,
                    command.handle, (unsigned long long)command.deadline_ns);
        choose_check(c, command.wait == e->waits + 1 && e->waited_for == 0,
                     "one wait a handle, numbered one after the other");
        choose_check(c, e->told_ok == 0,
                     "what is ready is not waited for again");
        choose_check(c, w->now_ns >= e->rests_ns,
                     "no wait begins before its backoff is over");
        choose_check(c, e->failures < w->bounds->policy.attempts_max,
                     "no more waits than attempts");
        choose_check(c,
                     command.deadline_ns > w->now_ns &&
                         command.deadline_ns <= ends_ns(w),
                     "a wait has a deadline of its own");
        if (e->waits > 0) { choose_mark(c, MARK_AGAIN); }
        e->waits++;
        e->waited_for = 1;
        e->unanswered = e->gone;
        e->deadline_ns = command.deadline_ns;
    }
}

/* The gathering was pending before the call, and this is what ended it, if
 * anything did. */
static void check_end(struct choose *c, struct world *w)
{
    uint32_t handle = 0;
    enum cleat_status status = cleat_gather_status(machine(w), &handle);
    uint32_t ready = 0;
    struct cleat_gather_report report;

    for (uint32_t i = 0; i < w->bounds->handles; i++) {
        ready += w->engines[i].told_ok;
        cleat_gather_look(machine(w), i, &report);
        choose_check(
            c, (report.status == CLEAT_OK) == (w->engines[i].told_ok != 0),
            "a handle is reported ready when a wait has said so");
        choose_check(c, report.waits == w->engines[i].waits,
                     "the report counts the waits");
    }
    choose_check(c, (status == CLEAT_OK) == (ready == w->bounds->handles),
                 "all-or-first-error");
    if (status == CLEAT_PENDING || status == CLEAT_OK) {
        choose_check(c, handle == CLEAT_GATHER_NOBODY,
                     "without an error there is nobody who failed");
        return;
    }
    if (status == CLEAT_CANCELLED && w->cancelled != 0) { return; }
    choose_check(c,
                 handle < w->bounds->handles && w->engines[handle].told_ok == 0,
                 "the error names a handle that is not ready");
    cleat_gather_look(machine(w), handle, &report);
    choose_check(c, report.status == status, "its report says the same");
    if (status == CLEAT_EXHAUSTED) {
        choose_check(
            c, w->engines[handle].failures >= w->bounds->policy.attempts_max,
            "no attempt is left when it says so");
    }
}

static void mark_end(struct choose *c, struct world *w)
{
    switch ((int)status_of(w)) {
    case CLEAT_OK: choose_mark(c, MARK_OK); break;
    case CLEAT_EXHAUSTED: choose_mark(c, MARK_EXHAUSTED); break;
    case CLEAT_DEADLINE: choose_mark(c, MARK_DEADLINE); break;
    case CLEAT_CANCELLED: choose_mark(c, MARK_CANCELLED); break;
    case CLEAT_PERMANENT:
    case CLEAT_PEER_LOST: choose_mark(c, MARK_PERMANENT); break;
    default: choose_fail(c, "ended by %d", (int)status_of(w));
    }
}

static uint64_t draw(struct choose *c)
{
    return choose(c, 2) == 0 ? 0 : UINT64_MAX;
}

/* Delivers a result, at now or a moment later, and checks what came of it. */
static void deliver(struct choose *c, struct world *w, uint32_t i,
                    uint32_t wait, enum cleat_status status)
{
    struct engine *e = &w->engines[i];
    struct cleat_gather *gather = machine(w);
    uint64_t now = w->now_ns;
    bool present;
    bool late;

    if (choose(c, 2) == 1) { now = cleat_gather_deadline(gather); }
    late = now >= ends_ns(w);
    moved_to(w, now);
    present = e->waited_for != 0 && wait == e->waits;
    choose_note(c, "at %llu: wait %u for %u: %s%s", (unsigned long long)now,
                wait, i, cleat_status_name(status), present ? "" : ", late");
    choose_check(c,
                 cleat_gather_result(gather, now, i, wait, status, CLEAT_NONE,
                                     draw(c)) == CLEAT_OK,
                 "a result is taken");
    if (late) { return; }
    if (status == CLEAT_OK && status_of(w) != CLEAT_EXHAUSTED &&
        status_of(w) != CLEAT_DEADLINE) {
        if (!present && e->told_ok == 0) { choose_mark(c, MARK_LATE_OK); }
        e->told_ok = 1;
        e->waited_for = 0;
        return;
    }
    if (!present) {
        choose_mark(c, MARK_LATE_ERROR);
        choose_check(c, status_of(w) != status || status == CLEAT_OK,
                     "a late error changes nothing");
        return;
    }
    wait_failed(w, e, now);
    if (cleat_status_class(status) == CLEAT_CLASS_PERMANENT) {
        uint32_t whose = CLEAT_GATHER_NOBODY;
        choose_check(
            c,
            (cleat_gather_status(gather, &whose) == status && whose == i) ||
                status_of(w) == CLEAT_EXHAUSTED ||
                status_of(w) == CLEAT_DEADLINE,
            "permanent-fails-fast");
    } else {
        choose_check(c, status_of(w) != status,
                     "a passing failure does not end it");
    }
}

/* The present wait of engine i is answered, or not, by a row of the table. */
static void answer(struct choose *c, struct world *w, uint32_t i)
{
    struct engine *e = &w->engines[i];
    const struct choose_fault *row = choose_fault_pick(c, FAULT_PAYLOAD,
                                                       &w->faults_left);
    enum cleat_status status = row->status;
    uint32_t wait = e->waits;

    if ((row->flags & FAULT_GONE) != 0) { e->gone = 1; }
    if ((row->flags & (FAULT_ANSWERS | FAULT_NOTICE)) == 0) {
        e->unanswered = 1;
        return;
    }
    if ((row->flags & (FAULT_LATE | FAULT_OVERTAKEN | FAULT_STOPPED)) != 0) {
        e->unanswered = 1;
        e->held = (int16_t)status;
        e->held_wait = wait;
        return;
    }
    deliver(c, w, i, wait, status);
    if ((row->flags & FAULT_TWICE) != 0 && status_of(w) == CLEAT_PENDING) {
        deliver(c, w, i, wait, status);
    }
}

static void pass_time(struct choose *c, struct world *w)
{
    uint64_t now = cleat_gather_deadline(machine(w));

    switch (choose(c, 3)) {
    case 1: /* nothing is due yet */
        if (now - w->now_ns > SECONDS(1)) { now = w->now_ns + SECONDS(1); }
        break;
    case 2: now = cleat_time_add(now, SECONDS(1)); break;
    default: break;
    }
    moved_to(w, now);
    choose_note(c, "at %llu: tick", (unsigned long long)now);
    choose_check(c, cleat_gather_tick(machine(w), now, draw(c)) == CLEAT_OK,
                 "a tick is taken");
    if (now > 0) {
        choose_check(c,
                     cleat_gather_tick(machine(w), now - 1, 0) ==
                         CLEAT_TIME_BACKWARDS,
                     "time that goes back is refused");
    }
}

static void cancel(struct choose *c, struct world *w)
{
    uint64_t now = w->now_ns;
    enum cleat_status result;

    if (choose(c, 2) == 1) { now = cleat_gather_deadline(machine(w)); }
    moved_to(w, now);
    w->cancels_left--;
    w->cancelled = 1;
    choose_note(c, "at %llu: cancel", (unsigned long long)now);
    result = cleat_gather_cancel(machine(w), now);
    choose_check(c, now < ends_ns(w) || result == CLEAT_STATE,
                 "a cancel at the deadline is late");
    if (result == CLEAT_STATE) {
        choose_check(c,
                     status_of(w) == CLEAT_DEADLINE ||
                         status_of(w) == CLEAT_EXHAUSTED,
                     "a deadline comes before a cancel");
        return;
    }
    choose_check(c, result == CLEAT_OK && status_of(w) == CLEAT_CANCELLED,
                 "a cancel ends it");
}

enum { ANSWER, HELD, TIME, CANCEL };

struct move {
    uint8_t what;
    uint8_t engine;
};

static uint32_t legal_moves(const struct world *w, struct move *moves)
{
    uint32_t count = 0;

    for (uint8_t i = 0; i < w->bounds->handles; i++) {
        const struct engine *e = &w->engines[i];
        if (e->waited_for != 0 && e->unanswered == 0) {
            moves[count++] = (struct move){ANSWER, i};
        }
        if (e->held_wait != 0) { moves[count++] = (struct move){HELD, i}; }
    }
    moves[count++] = (struct move){TIME, 0};
    if (w->cancels_left > 0) { moves[count++] = (struct move){CANCEL, 0}; }
    return count;
}

static bool step(struct choose *c, void *state)
{
    struct world *w = state;
    struct move moves[2 * HANDLES_MAX + 2];
    struct move move;
    struct engine *e;
    uint32_t held_wait;

    take_commands(c, w);
    check_time(c, w);
    move = moves[choose_any(c, legal_moves(w, moves))];
    e = &w->engines[move.engine];
    switch (move.what) {
    case ANSWER: answer(c, w, move.engine); break;
    case HELD:
        held_wait = e->held_wait;
        e->held_wait = 0;
        deliver(c, w, move.engine, held_wait, (enum cleat_status)e->held);
        break;
    case TIME: pass_time(c, w); break;
    default: cancel(c, w); break;
    }
    check_end(c, w);
    check_time(c, w);
    if (status_of(w) == CLEAT_PENDING) { return true; }
    mark_end(c, w);
    return false;
}

/* One engine's part of the projection. */
static unsigned char *put_engine(unsigned char *at, struct world *w, uint32_t i)
{
    const struct engine *e = &w->engines[i];
    const struct cleat_gather_handle *handle =
        (const struct cleat_gather_handle *)(const void *)(machine(w) + 1) + i;

    at = choose_put_u8(at, handle->state);
    at = choose_put_time(at, handle->moment_ns, w->now_ns);
    at = choose_put_time(at, e->rests_ns, w->now_ns);
    at = choose_put_u64(at, handle->slot.delay_ns);
    at = choose_put_u32(at, handle->slot.attempts);
    at = choose_put_u8(at, e->waited_for);
    at = choose_put_u8(at, e->unanswered);
    at = choose_put_u8(at, e->gone);
    at = choose_put_u8(at, e->failures);
    at = choose_put_u8(at, e->told_ok);
    /* How old the wait is whose answer is on its way, and what it says. */
    at = choose_put_u32(at,
                        e->held_wait != 0 ? 1 + e->waits - e->held_wait : 0);
    return choose_put_u32(at, e->held_wait != 0 ? (uint32_t)e->held : 0);
}

enum { ENGINE_BYTES = 1 + 8 + 8 + 8 + 4 + 5 + 4 + 4 };

/* The engines are alike: their parts are sorted. */
static size_t project(const void *state, void *out)
{
    struct world *w = (struct world *)(uintptr_t)state;
    unsigned char parts[HANDLES_MAX][ENGINE_BYTES];
    unsigned char *at = out;
    uint32_t count = w->bounds->handles;

    for (uint32_t i = 0; i < count; i++) {
        unsigned char part[ENGINE_BYTES];
        uint32_t k = i;
        put_engine(part, w, i);
        for (; k > 0 && memcmp(parts[k - 1], part, sizeof part) > 0; k--) {
            memcpy(parts[k], parts[k - 1], sizeof part);
        }
        memcpy(parts[k], part, sizeof part);
    }
    at = choose_put(at, parts, count * sizeof parts[0]);
    at = choose_put_u64(at, ends_ns(w) - w->now_ns);
    at = choose_put_u8(at, w->faults_left);
    at = choose_put_u8(at, w->cancels_left);
    return (size_t)(at - (unsigned char *)out);
}

/* Two seconds a wait, one or two between them, three waits, eight in all. */
static const struct bounds three_handles = {
    .policy = {SECONDS(1), SECONDS(2), 0, 0, 0, SECONDS(2), 3, 2000,
               CLEAT_RETRY_JITTER_NONE, 0},
    .start_timeout_ns = SECONDS(8),
    .begins_ns = SECONDS(5),
    .handles = 3,
    .faults = 4,
    .cancels = 1};
/* The delay drawn at its two ends: also no delay at all. */
static const struct bounds with_jitter = {
    .policy = {SECONDS(1), SECONDS(2), 0, 0, 0, SECONDS(2), 3, 2000,
               CLEAT_RETRY_JITTER_FULL, 0},
    .start_timeout_ns = SECONDS(8),
    .begins_ns = SECONDS(5),
    .handles = 2,
    .faults = 3,
    .cancels = 1};
/* Everything within the last seconds of time. */
static const struct bounds near_the_end = {
    .policy = {SECONDS(1), SECONDS(2), 0, 0, 0, SECONDS(2), 3, 2000,
               CLEAT_RETRY_JITTER_NONE, 0},
    .start_timeout_ns = SECONDS(20),
    .begins_ns = UINT64_MAX - SECONDS(7),
    .handles = 3,
    .faults = 2,
    .cancels = 1};

#define TEST(sentence, with)                                                 \
    {                                                                        \
        .name = sentence, .state_bytes = sizeof(struct world), .init = init, \
        .step = step, .project = project, .arg = &(with), .steps_max = 200,  \
        .endless_fails = true, .marks = marks                                \
    }

static const struct choose_test tests[] = {
    TEST("gather-3-handles-4-faults", three_handles),
    TEST("gather-2-handles-3-faults-jitter", with_jitter),
    TEST("gather-3-handles-near-the-end-of-time", near_the_end),
};

int main(int argc, char **argv)
{
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
