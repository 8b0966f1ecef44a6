/* Cleat: what one weight update does, command by command, in virtual time.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each test writes down all that passes between the machine and its workers,
 * and compares it with the text that is wanted. A worker carries a command out
 * when it gets it and answers 10 ms later. Member 0 is the trainer; 1 and 2 are
 * replicas of one worker. They serve version 7, and version 8 is to come.
 *
 *   [  10ms] 1 2 < pause               the command leaves, for 1 and for 2
 *   [  20ms] 1 2 > pause: OK, 7        they answer, and hold version 7
 *
 * The orders wanted when a body or its cleanup fails are those that the tests
 * of verl's pull request 6510 ask for: finalize, then cache, then generation;
 * the body's error before that of the cleanup. What was wrong there has a test
 * each: torn weights resumed, a cleanup without a deadline, finalize where
 * prepare never ran, only the first cleanup error told, no result a replica. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "cleat/sync.h"
#include "model/sync_peers.h"

enum {
    MEMBERS = 3,
    EVENTS_MAX = 64,
    FAULTS_MAX = 4,
    TEXT_MAX = 8192,
    OLD = 7,
    NEW = 8
};

#define MS CLEAT_NS_PER_MS

enum kind {
    NONE,
    FAILS,     /* answers `status`, without having done it */
    LOSES,     /* does it, and the answer is lost */
    SILENT,    /* neither does it nor answers */
    DIES,      /* and that is told */
    DIES_HALF, /* the same, with half of the bytes sent to everyone */
    STOPS      /* wakes again after `wake_ms` */
};

struct script {
    enum cleat_sync_step step;
    uint32_t member;
    enum kind kind;
    enum cleat_status status;
    uint32_t wake_ms;
    bool always; /* otherwise it strikes once */
};

enum what { ANSWER, LOSS, WAKES };

struct event {
    uint64_t at_ns;
    enum what what;
    uint32_t member;
    struct cleat_sync_answer answer;
};

struct stage {
    _Alignas(8) unsigned char block[CLEAT_SYNC_BYTES(1, 2, 1)];
    struct cleat_sync *sync;
    struct sync_peer peers[MEMBERS];
    struct script script[FAULTS_MAX];
    bool half; /* the trainer died with half of the bytes sent */
    uint64_t now_ns;
    uint64_t cancel_ns; /* the caller cancels then; 0: never */
    uint32_t events_count;
    struct event events[EVENTS_MAX];
    /* what has been written, and the line that is not ended yet */
    char text[TEXT_MAX];
    size_t text_bytes;
    char members[64];
    char rest[96];
};

/* ----------------------------------------------------------------- writing */

static void end_line(struct stage *s)
{
    int n;

    if (s->members[0] == '\0' && s->rest[0] == '\0') { return; }
    n = snprintf(s->text + s->text_bytes, TEXT_MAX - s->text_bytes, "%s%s\n",
                 s->members, s->rest);
    assert_true(n > 0 && (size_t)n < TEXT_MAX - s->text_bytes);
    s->text_bytes += (size_t)n;
    s->members[0] = s->rest[0] = '\0';
}

/* Members to whom the same happens at the same time share a line. */
static void tell(struct stage *s, uint32_t member, const char *what)
{
    char start[32];
    size_t used;

    (void)snprintf(start, sizeof start, "[%4llums]",
                   (unsigned long long)(s->now_ns / MS));
    if (strncmp(s->members, start, strlen(start)) != 0 ||
        strcmp(s->rest, what) != 0) {
        end_line(s);
        (void)snprintf(s->members, sizeof s->members, "%s", start);
        (void)snprintf(s->rest, sizeof s->rest, "%s", what);
    }
    if (member == CLEAT_SYNC_NOBODY) { return; }
    used = strlen(s->members);
    (void)snprintf(s->members + used, sizeof s->members - used, " %u", member);
}

static void tell_answer(struct stage *s, const struct cleat_sync_answer *a)
{
    char what[80];
    char holds[32] = "";

    if (a->member > 0 && a->step != CLEAT_SYNC_EXPEL) {
        if (a->holding == CLEAT_SYNC_WHOLE) {
            (void)snprintf(holds, sizeof holds, ", %llu",
                           (unsigned long long)a->version);
        } else {
            (void)snprintf(holds, sizeof holds, ", torn");
        }
    }
    (void)snprintf(what, sizeof what, " > %s: %s%s",
                   cleat_sync_step_name(a->step), cleat_status_name(a->status),
                   holds);
    tell(s, a->member, what);
}

/* How it ended: who serves what, the errors in their order, how each undo
 * went. */
static void tell_end(struct stage *s)
{
    static const enum cleat_sync_step undo[] = {
        CLEAT_SYNC_FINALIZE, CLEAT_SYNC_RESTORE, CLEAT_SYNC_RESUME};
    struct cleat_sync_error error;
    char what[96];

    (void)snprintf(what, sizeof what, " %s",
                   cleat_sync_outcome_name(cleat_sync_outcome(s->sync)));
    tell(s, CLEAT_SYNC_NOBODY, what);
    end_line(s);
    for (uint32_t r = 0; r < 2; r++) {
        const struct sync_peer *p = &s->peers[r + 1];
        bool serves = sync_peer_serves(p, s->now_ns);

        (void)snprintf(
            s->rest, sizeof s->rest, "%u is %s%s", r + 1,
            cleat_sync_replica_state_name(cleat_sync_replica_state(s->sync, r)),
            !serves              ? ""
            : p->cells[0] == NEW ? ", serves 8"
                                 : ", serves 7");
        end_line(s);
    }
    for (uint32_t i = 0; cleat_sync_error_at(s->sync, i, &error) == CLEAT_OK;
         i++) {
        (void)snprintf(s->rest, sizeof s->rest, "error: %s %d %s",
                       cleat_sync_step_name(error.step), (int)error.member,
                       cleat_status_name(error.status));
        end_line(s);
    }
    for (uint32_t m = 0; m < MEMBERS; m++) {
        for (int u = 0; u < 3; u++) {
            enum cleat_status status = cleat_sync_undo_at(s->sync, undo[u], m);

            if (status == CLEAT_OK || status == CLEAT_NOT_FOUND) { continue; }
            (void)snprintf(s->rest, sizeof s->rest, "undo: %s %u %s",
                           cleat_sync_step_name(undo[u]), m,
                           cleat_status_name(status));
            end_line(s);
        }
    }
}

/* ----------------------------------------------------------------- workers */

static void add_event(struct stage *s, enum what what, uint32_t member,
                      uint64_t after_ms, const struct cleat_sync_answer *answer)
{
    struct event *e = &s->events[s->events_count];

    assert_true(s->events_count < EVENTS_MAX);
    s->events_count++;
    e->at_ns = s->now_ns + after_ms * MS;
    e->what = what;
    e->member = member;
    if (answer != NULL) { e->answer = *answer; }
}

static struct script strikes(struct stage *s, struct sync_order order,
                             uint32_t member)
{
    struct script struck;

    memset(&struck, 0, sizeof struck);
    for (int i = 0; i < FAULTS_MAX && struck.kind == NONE; i++) {
        struct script *f = &s->script[i];

        if (f->kind != NONE && (uint8_t)f->step == order.step &&
            f->member == member) {
            struck = *f;
            if (!f->always) { f->kind = NONE; }
        }
    }
    return struck;
}

static void carry_out(struct stage *s, struct sync_order order, uint32_t member)
{
    struct sync_peer *p = &s->peers[member];
    struct cleat_sync_answer answer;
    enum cleat_status status;

    if (order.step == CLEAT_SYNC_SEND && member > 0 && s->half) {
        (void)sync_peer_do(p, order, SYNC_HALF);
        return; /* it waits for bytes that never come */
    }
    status = sync_peer_do(p, order, SYNC_ALL);
    answer = sync_peer_answer(p, member, order, status);
    add_event(s, ANSWER, member, 10, &answer);
}

/* A child is killed at once; of another the lease runs out after 400 ms. */
static void expel(struct stage *s, struct sync_order order, uint32_t member)
{
    struct sync_peer *p = &s->peers[member];
    struct cleat_sync_answer answer = sync_peer_answer(p, member, order,
                                                       CLEAT_OK);

    p->expelled = true;
    p->dead = p->child;
    p->lease_end_ns = s->now_ns + 400 * MS;
    add_event(s, ANSWER, member, p->child ? 10 : 400, &answer);
}

static void deliver(struct stage *s, const struct cleat_sync_command *command)
{
    uint32_t member = command->member;
    struct sync_peer *p = &s->peers[member];
    struct sync_order order = {{command->term, command->epoch},
                               (uint8_t)command->step,
                               (uint8_t)command->version};
    struct script f = strikes(s, order, member);
    struct cleat_sync_answer answer;

    if (order.step == CLEAT_SYNC_EXPEL) {
        if (f.kind == NONE) { expel(s, order, member); }
        return;
    }
    if (f.kind == STOPS) {
        p->stopped = true;
        add_event(s, WAKES, member, f.wake_ms, NULL);
    }
    if (p->dead) { return; }
    if (p->stopped) {
        sync_peer_put_aside(p, order);
        return;
    }
    switch (f.kind) {
    case FAILS:
        answer = sync_peer_answer(p, member, order, f.status);
        add_event(s, ANSWER, member, 10, &answer);
        break;
    case LOSES: (void)sync_peer_do(p, order, SYNC_ALL); break;
    case SILENT: break;
    case DIES_HALF: s->half = true; /* fall through */
    case DIES:
        p->dead = true;
        add_event(s, LOSS, member, 10, NULL);
        break;
    default: carry_out(s, order, member); break;
    }
}

static void wake(struct stage *s, uint32_t member)
{
    struct sync_peer *p = &s->peers[member];

    if (p->dead) { return; }
    tell(s, member, " wakes");
    p->stopped = false;
    for (uint8_t i = 0; i < p->inbox_count; i++) {
        carry_out(s, p->inbox[i], member);
    }
    p->inbox_count = 0;
}

/* ------------------------------------------------------------- the update */

static void take_commands(struct stage *s)
{
    struct cleat_sync_command command;
    char what[48];

    while (cleat_sync_next(s->sync, &command) == CLEAT_OK) {
        (void)snprintf(what, sizeof what, " < %s",
                       cleat_sync_step_name(command.step));
        tell(s, command.member, what);
        deliver(s, &command);
    }
}

static void happen(struct stage *s, struct event e)
{
    switch (e.what) {
    case ANSWER:
        tell_answer(s, &e.answer);
        assert_int_equal(cleat_sync_answered(s->sync, s->now_ns, &e.answer),
                         CLEAT_OK);
        break;
    case LOSS:
        tell(s, e.member, " is lost");
        assert_int_equal(cleat_sync_lost(s->sync, s->now_ns, e.member),
                         CLEAT_OK);
        break;
    default: wake(s, e.member); break;
    }
}

/* The event that comes first; of those at one time the one added first. */
static uint32_t first_event(const struct stage *s)
{
    uint32_t first = 0;

    for (uint32_t i = 1; i < s->events_count; i++) {
        if (s->events[i].at_ns < s->events[first].at_ns) { first = i; }
    }
    return first;
}

static void go_on(struct stage *s)
{
    uint64_t deadline_ns = cleat_sync_deadline(s->sync);
    uint32_t i = first_event(s);
    bool event = s->events_count > 0 && s->events[i].at_ns < deadline_ns;

    if (s->cancel_ns != 0 && s->cancel_ns <= deadline_ns &&
        (!event || s->cancel_ns <= s->events[i].at_ns)) {
        s->now_ns = s->cancel_ns;
        s->cancel_ns = 0;
        tell(s, CLEAT_SYNC_NOBODY, " cancelled");
        (void)cleat_sync_cancel(s->sync, s->now_ns);
    } else if (event) {
        struct event e = s->events[i];

        s->events_count--;
        memmove(&s->events[i], &s->events[i + 1],
                (s->events_count - i) * sizeof e);
        s->now_ns = e.at_ns;
        happen(s, e);
    } else {
        s->now_ns = deadline_ns;
        assert_int_equal(cleat_sync_tick(s->sync, s->now_ns), CLEAT_OK);
    }
}

static void set_up(struct stage *s, bool in_place, uint32_t attempts_max,
                   uint32_t replicas_min, const struct script *script,
                   size_t script_count)
{
    struct cleat_sync_config config;

    memset(s, 0, sizeof *s);
    memset(&config, 0, sizeof config);
    config.trainers = config.workers = 1;
    config.replicas = 2;
    config.attempts_max = attempts_max;
    config.replicas_min = replicas_min;
    config.step_timeout_ns = 1000 * MS;
    config.retry_ns = 300 * MS;
    assert_int_equal(
        cleat_sync_init(s->block, sizeof s->block, &config, &s->sync, NULL),
        CLEAT_OK);
    assert_true(script_count <= FAULTS_MAX);
    if (script != NULL) {
        memcpy(s->script, script, script_count * sizeof *script);
    }
    for (uint32_t m = 0; m < MEMBERS; m++) {
        sync_peer_start(&s->peers[m], m == 0, in_place, true, OLD);
        assert_int_equal(
            cleat_sync_hello(s->sync, m, 0,
                             m == 0 ? CLEAT_SYNC_UNKNOWN : CLEAT_SYNC_WHOLE,
                             OLD),
            CLEAT_OK);
    }
}

static void play(struct stage *s)
{
    const struct cleat_sync_request request = {NEW, OLD};

    assert_int_equal(cleat_sync_begin(s->sync, s->now_ns, &request), CLEAT_OK);
    take_commands(s);
    while (cleat_sync_outcome(s->sync) == CLEAT_SYNC_NOT_YET) {
        go_on(s);
        take_commands(s);
    }
    tell_end(s);
}

static void expect(struct stage *s, const char *wanted)
{
    if (strcmp(s->text, wanted) != 0) {
        fprintf(stderr, "--- wanted\n%s--- happened\n%s---\n", wanted, s->text);
    }
    assert_true(strcmp(s->text, wanted) == 0);
}

/* -------------------------------------------------------------------- tests */
static void every_replica_serves_the_new_version(void **state)
{
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, NULL, 0);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  50ms] 1 2 < commit\n"
               "[  60ms] 1 2 > commit: OK, 8\n"
               "[  60ms] 0 1 2 < finalize\n"
               "[  70ms] 0 > finalize: OK\n"
               "[  70ms] 1 2 > finalize: OK, 8\n"
               "[  70ms] 1 2 < restore\n"
               "[  80ms] 1 2 > restore: OK, 8\n"
               "[  80ms] 1 2 < resume\n"
               "[  90ms] 1 2 > resume: OK, 8\n"
               "[  90ms] COMMITTED\n"
               "1 is serving, serves 8\n"
               "2 is serving, serves 8\n");
}

static void
a_group_that_fails_is_finalized_then_the_cache_comes_back_then_generation(
    void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_GROUP, 2, FAILS, CLEAT_TRANSIENT, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 > group: OK, 7\n"
               "[  40ms] 2 > group: TRANSIENT, 7\n"
               "[  40ms] 0 1 2 < finalize\n"
               "[  50ms] 0 > finalize: OK\n"
               "[  50ms] 1 2 > finalize: OK, 7\n"
               "[  50ms] 1 2 < restore\n"
               "[  60ms] 1 2 > restore: OK, 7\n"
               "[  60ms] 1 2 < resume\n"
               "[  70ms] 1 2 > resume: OK, 7\n"
               "[  70ms] ROLLED_BACK\n"
               "1 is serving, serves 7\n"
               "2 is serving, serves 7\n"
               "error: group 2 TRANSIENT\n");
}

static void
a_send_that_fails_is_finalized_then_the_cache_comes_back_then_generation(
    void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_SEND, 0, FAILS, CLEAT_TRANSIENT, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: TRANSIENT\n"
               "[  50ms] 0 1 2 < finalize\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  60ms] 0 > finalize: OK\n"
               "[  60ms] 1 2 > finalize: OK, 7\n"
               "[  60ms] 1 2 < restore\n"
               "[  70ms] 1 2 > restore: OK, 7\n"
               "[  70ms] 1 2 < resume\n"
               "[  80ms] 1 2 > resume: OK, 7\n"
               "[  80ms] ROLLED_BACK\n"
               "1 is serving, serves 7\n"
               "2 is serving, serves 7\n"
               "error: send 0 TRANSIENT\n");
}

static void
a_send_that_fails_is_tried_again_and_nobody_resumes_in_between(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_SEND, 2, FAILS, CLEAT_TRANSIENT, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, true, 2, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 > send: OK, torn\n"
               "[  50ms] 2 > send: TRANSIENT, 7\n"
               "[  50ms] 0 1 2 < finalize\n"
               "[  60ms] 0 > finalize: OK\n"
               "[  60ms] 1 > finalize: OK, torn\n"
               "[  60ms] 2 > finalize: OK, 7\n"
               "[  60ms] 0 1 2 < prepare\n"
               "[  70ms] 0 > prepare: OK\n"
               "[  70ms] 1 > prepare: OK, torn\n"
               "[  70ms] 2 > prepare: OK, 7\n"
               "[  70ms] 0 1 2 < group\n"
               "[  80ms] 0 > group: OK\n"
               "[  80ms] 1 > group: OK, torn\n"
               "[  80ms] 2 > group: OK, 7\n"
               "[  80ms] 0 1 2 < send\n"
               "[  90ms] 0 > send: OK\n"
               "[  90ms] 1 2 > send: OK, torn\n"
               "[  90ms] 1 2 < commit\n"
               "[ 100ms] 1 2 > commit: OK, 8\n"
               "[ 100ms] 0 1 2 < finalize\n"
               "[ 110ms] 0 > finalize: OK\n"
               "[ 110ms] 1 2 > finalize: OK, 8\n"
               "[ 110ms] 1 2 < restore\n"
               "[ 120ms] 1 2 > restore: OK, 8\n"
               "[ 120ms] 1 2 < resume\n"
               "[ 130ms] 1 2 > resume: OK, 8\n"
               "[ 130ms] COMMITTED\n"
               "1 is serving, serves 8\n"
               "2 is serving, serves 8\n"
               "error: send 2 TRANSIENT\n");
}

static void torn_weights_are_not_resumed(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_SEND, 2, FAILS, CLEAT_TRANSIENT, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, true, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 > send: OK, torn\n"
               "[  50ms] 2 > send: TRANSIENT, 7\n"
               "[  50ms] 0 1 2 < finalize\n"
               "[  60ms] 0 > finalize: OK\n"
               "[  60ms] 1 > finalize: OK, torn\n"
               "[  60ms] 2 > finalize: OK, 7\n"
               "[  60ms] 1 < fence\n"
               "[  70ms] 1 > fence: OK, torn\n"
               "[  70ms] 2 < restore\n"
               "[  80ms] 2 > restore: OK, 7\n"
               "[  80ms] 2 < resume\n"
               "[  90ms] 2 > resume: OK, 7\n"
               "[  90ms] ROLLED_BACK\n"
               "1 is quarantined\n"
               "2 is serving, serves 7\n"
               "error: send 2 TRANSIENT\n");
}

static void
a_replica_that_fails_finalize_after_commit_is_set_apart(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_FINALIZE, 2, FAILS, CLEAT_PERMANENT, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  50ms] 1 2 < commit\n"
               "[  60ms] 1 2 > commit: OK, 8\n"
               "[  60ms] 0 1 2 < finalize\n"
               "[  70ms] 0 > finalize: OK\n"
               "[  70ms] 1 > finalize: OK, 8\n"
               "[  70ms] 2 > finalize: PERMANENT, 8\n"
               "[  70ms] 2 < fence\n"
               "[  80ms] 2 > fence: OK, 8\n"
               "[  80ms] 1 < restore\n"
               "[  90ms] 1 > restore: OK, 8\n"
               "[  90ms] 1 < resume\n"
               "[ 100ms] 1 > resume: OK, 8\n"
               "[ 100ms] DEGRADED\n"
               "1 is serving, serves 8\n"
               "2 is quarantined\n"
               "error: finalize 2 PERMANENT\n"
               "undo: finalize 2 PERMANENT\n");
}

static void
a_trainer_that_fails_finalize_after_commit_is_an_error_and_no_more(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_FINALIZE, 0, FAILS, CLEAT_PERMANENT, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  50ms] 1 2 < commit\n"
               "[  60ms] 1 2 > commit: OK, 8\n"
               "[  60ms] 0 1 2 < finalize\n"
               "[  70ms] 0 > finalize: PERMANENT\n"
               "[  70ms] 1 2 > finalize: OK, 8\n"
               "[  70ms] 1 2 < restore\n"
               "[  80ms] 1 2 > restore: OK, 8\n"
               "[  80ms] 1 2 < resume\n"
               "[  90ms] 1 2 > resume: OK, 8\n"
               "[  90ms] COMMITTED\n"
               "1 is serving, serves 8\n"
               "2 is serving, serves 8\n"
               "error: finalize 0 PERMANENT\n"
               "undo: finalize 0 PERMANENT\n");
}

static void
the_error_of_the_body_comes_before_those_of_the_cleanup(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_SEND, 0, FAILS, CLEAT_TRANSIENT, 0, false},
        {CLEAT_SYNC_FINALIZE, 0, FAILS, CLEAT_PERMANENT, 0, false},
        {CLEAT_SYNC_RESTORE, 1, FAILS, CLEAT_PERMANENT, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: TRANSIENT\n"
               "[  50ms] 0 1 2 < finalize\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  60ms] 0 > finalize: PERMANENT\n"
               "[  60ms] 1 2 > finalize: OK, 7\n"
               "[  60ms] 1 2 < restore\n"
               "[  70ms] 1 > restore: PERMANENT, 7\n"
               "[  70ms] 2 > restore: OK, 7\n"
               "[  70ms] 2 < resume\n"
               "[  80ms] 2 > resume: OK, 7\n"
               "[  80ms] 1 < fence\n"
               "[  90ms] 1 > fence: OK, 7\n"
               "[  90ms] ROLLED_BACK\n"
               "1 is quarantined\n"
               "2 is serving, serves 7\n"
               "error: send 0 TRANSIENT\n"
               "error: finalize 0 PERMANENT\n"
               "error: restore 1 PERMANENT\n"
               "undo: finalize 0 PERMANENT\n"
               "undo: restore 1 PERMANENT\n");
}

static void a_cleanup_that_hangs_has_a_deadline(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_GROUP, 1, FAILS, CLEAT_TRANSIENT, 0, false},
        {CLEAT_SYNC_FINALIZE, 2, SILENT, CLEAT_OK, 0, true}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 > group: TRANSIENT, 7\n"
               "[  40ms] 0 1 2 < finalize\n"
               "[  40ms] 2 > group: OK, 7\n"
               "[  50ms] 0 > finalize: OK\n"
               "[  50ms] 1 > finalize: OK, 7\n"
               "[ 340ms] 2 < finalize\n"
               "[ 640ms] 2 < finalize\n"
               "[ 940ms] 2 < finalize\n"
               "[1040ms] 2 < fence\n"
               "[1050ms] 2 > fence: OK, 7\n"
               "[1050ms] 1 < restore\n"
               "[1060ms] 1 > restore: OK, 7\n"
               "[1060ms] 1 < resume\n"
               "[1070ms] 1 > resume: OK, 7\n"
               "[1070ms] ROLLED_BACK\n"
               "1 is serving, serves 7\n"
               "2 is quarantined\n"
               "error: group 1 TRANSIENT\n"
               "error: finalize 2 PEER_SILENT\n"
               "undo: finalize 2 PEER_SILENT\n");
}

static void finalize_does_not_go_where_prepare_did_not(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_PAUSE, 1, FAILS, CLEAT_PERMANENT, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 > pause: PERMANENT, 7\n"
               "[  10ms] 2 > pause: OK, 7\n"
               "[  10ms] 2 < release\n"
               "[  20ms] 2 > release: OK, 7\n"
               "[  20ms] 0 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 2 > prepare: OK, 7\n"
               "[  30ms] 0 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 2 > group: OK, 7\n"
               "[  40ms] 0 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 2 > send: OK, 7\n"
               "[  50ms] 2 < commit\n"
               "[  60ms] 2 > commit: OK, 8\n"
               "[  60ms] 0 2 < finalize\n"
               "[  70ms] 0 > finalize: OK\n"
               "[  70ms] 2 > finalize: OK, 8\n"
               "[  70ms] 1 < fence\n"
               "[  80ms] 1 > fence: OK, 7\n"
               "[  80ms] 2 < restore\n"
               "[  90ms] 2 > restore: OK, 8\n"
               "[  90ms] 2 < resume\n"
               "[ 100ms] 2 > resume: OK, 8\n"
               "[ 100ms] DEGRADED\n"
               "1 is quarantined\n"
               "2 is serving, serves 8\n"
               "error: pause 1 PERMANENT\n");
}

static void a_lost_commit_answer_is_asked_for_again(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_COMMIT, 1, LOSES, CLEAT_OK, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  50ms] 1 2 < commit\n"
               "[  60ms] 2 > commit: OK, 8\n"
               "[ 350ms] 1 < commit\n"
               "[ 360ms] 1 > commit: OK, 8\n"
               "[ 360ms] 0 1 2 < finalize\n"
               "[ 370ms] 0 > finalize: OK\n"
               "[ 370ms] 1 2 > finalize: OK, 8\n"
               "[ 370ms] 1 2 < restore\n"
               "[ 380ms] 1 2 > restore: OK, 8\n"
               "[ 380ms] 1 2 < resume\n"
               "[ 390ms] 1 2 > resume: OK, 8\n"
               "[ 390ms] COMMITTED\n"
               "1 is serving, serves 8\n"
               "2 is serving, serves 8\n");
}

static void a_stopped_engine_that_wakes_in_time_has_done_its_part(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_COMMIT, 2, STOPS, CLEAT_OK, 600, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  50ms] 1 2 < commit\n"
               "[  60ms] 1 > commit: OK, 8\n"
               "[ 350ms] 2 < commit\n"
               "[ 650ms] 2 < commit\n"
               "[ 650ms] 2 wakes\n"
               "[ 660ms] 2 > commit: OK, 8\n"
               "[ 660ms] 0 1 2 < finalize\n"
               "[ 670ms] 0 > finalize: OK\n"
               "[ 670ms] 1 2 > finalize: OK, 8\n"
               "[ 670ms] 1 2 < restore\n"
               "[ 680ms] 1 2 > restore: OK, 8\n"
               "[ 680ms] 1 2 < resume\n"
               "[ 690ms] 1 2 > resume: OK, 8\n"
               "[ 690ms] COMMITTED\n"
               "1 is serving, serves 8\n"
               "2 is serving, serves 8\n");
}

static void a_stopped_engine_that_wakes_too_late_serves_nobody(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_COMMIT, 2, STOPS, CLEAT_OK, 5000, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    s.peers[2].child = false; /* not ours: its lease must run out */
    play(&s);
    while (s.events_count > 0) { go_on(&s); }
    end_line(&s);
    assert_false(sync_peer_serves(&s.peers[2], s.now_ns));
    assert_int_equal(cleat_sync_outcome(s.sync), CLEAT_SYNC_DEGRADED);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  50ms] 1 2 < commit\n"
               "[  60ms] 1 > commit: OK, 8\n"
               "[ 350ms] 2 < commit\n"
               "[ 650ms] 2 < commit\n"
               "[ 950ms] 2 < commit\n"
               "[1050ms] 0 1 2 < finalize\n"
               "[1060ms] 0 > finalize: OK\n"
               "[1060ms] 1 > finalize: OK, 8\n"
               "[1350ms] 2 < finalize\n"
               "[1650ms] 2 < finalize\n"
               "[1950ms] 2 < finalize\n"
               "[2050ms] 2 < fence\n"
               "[2350ms] 2 < fence\n"
               "[2650ms] 2 < fence\n"
               "[2950ms] 2 < fence\n"
               "[3050ms] 2 < expel\n"
               "[3450ms] 2 > expel: OK\n"
               "[3450ms] 1 < restore\n"
               "[3460ms] 1 > restore: OK, 8\n"
               "[3460ms] 1 < resume\n"
               "[3470ms] 1 > resume: OK, 8\n"
               "[3470ms] DEGRADED\n"
               "1 is serving, serves 8\n"
               "2 is dead\n"
               "error: commit 2 PEER_SILENT\n"
               "error: finalize 2 PEER_SILENT\n"
               "error: fence 2 PEER_SILENT\n"
               "undo: finalize 2 PEER_SILENT\n"
               "[5050ms] 2 wakes\n"
               "[5060ms] 2 > commit: OK, 8\n"
               "[5060ms] 2 > finalize: OK, 8\n"
               "[5060ms] 2 > fence: OK, 8\n");
}

static void
a_trainer_that_dies_in_send_leaves_the_old_version_serving(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_SEND, 0, DIES_HALF, CLEAT_OK, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 3, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 is lost\n"
               "[  50ms] 1 2 < finalize\n"
               "[  60ms] 1 2 > finalize: OK, 7\n"
               "[  60ms] 1 2 < restore\n"
               "[  70ms] 1 2 > restore: OK, 7\n"
               "[  70ms] 1 2 < resume\n"
               "[  80ms] 1 2 > resume: OK, 7\n"
               "[  80ms] ROLLED_BACK\n"
               "1 is serving, serves 7\n"
               "2 is serving, serves 7\n"
               "error: send 0 PEER_LOST\n"
               "undo: finalize 0 PEER_LOST\n");
}

static void
a_trainer_that_dies_in_send_in_place_leaves_nobody_serving(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_SEND, 0, DIES_HALF, CLEAT_OK, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, true, 3, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 is lost\n"
               "[  50ms] 1 2 < finalize\n"
               "[  60ms] 1 2 > finalize: OK, torn\n"
               "[  60ms] 1 2 < fence\n"
               "[  70ms] 1 2 > fence: OK, torn\n"
               "[  70ms] RESTART\n"
               "1 is quarantined\n"
               "2 is quarantined\n"
               "error: send 0 PEER_LOST\n"
               "undo: finalize 0 PEER_LOST\n");
}

static void a_replica_that_nobody_can_expel_is_reported_unfenced(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_COMMIT, 1, SILENT, CLEAT_OK, 0, true},
        {CLEAT_SYNC_FENCE, 1, SILENT, CLEAT_OK, 0, true},
        {CLEAT_SYNC_EXPEL, 1, SILENT, CLEAT_OK, 0, true}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 1, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  50ms] 1 2 < commit\n"
               "[  60ms] 2 > commit: OK, 8\n"
               "[ 350ms] 1 < commit\n"
               "[ 650ms] 1 < commit\n"
               "[ 950ms] 1 < commit\n"
               "[1050ms] 0 1 2 < finalize\n"
               "[1060ms] 0 > finalize: OK\n"
               "[1060ms] 1 > finalize: OK, 7\n"
               "[1060ms] 2 > finalize: OK, 8\n"
               "[1060ms] 1 < fence\n"
               "[1360ms] 1 < fence\n"
               "[1660ms] 1 < fence\n"
               "[1960ms] 1 < fence\n"
               "[2060ms] 1 < expel\n"
               "[3060ms] 2 < fence\n"
               "[3070ms] 2 > fence: OK, 8\n"
               "[3070ms] 1 < expel\n"
               "[4070ms] RESTART\n"
               "1 is unfenced\n"
               "2 is quarantined\n"
               "error: commit 1 PEER_SILENT\n"
               "error: fence 1 PEER_SILENT\n"
               "error: expel 1 PEER_UNFENCED\n"
               "error: expel 1 PEER_UNFENCED\n");
}

static void nobody_resumes_when_too_few_have_their_cache_back(void **state)
{
    static const struct script script[] = {
        {CLEAT_SYNC_RESTORE, 1, FAILS, CLEAT_PERMANENT, 0, false}};
    struct stage s;

    (void)state;
    set_up(&s, false, 1, 2, script, sizeof script / sizeof script[0]);
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  50ms] 1 2 < commit\n"
               "[  60ms] 1 2 > commit: OK, 8\n"
               "[  60ms] 0 1 2 < finalize\n"
               "[  70ms] 0 > finalize: OK\n"
               "[  70ms] 1 2 > finalize: OK, 8\n"
               "[  70ms] 1 2 < restore\n"
               "[  80ms] 1 > restore: PERMANENT, 8\n"
               "[  80ms] 2 > restore: OK, 8\n"
               "[  80ms] 1 < fence\n"
               "[  90ms] 1 > fence: OK, 8\n"
               "[  90ms] 2 < fence\n"
               "[ 100ms] 2 > fence: OK, 8\n"
               "[ 100ms] RESTART\n"
               "1 is quarantined\n"
               "2 is quarantined\n"
               "error: restore 1 PERMANENT\n"
               "undo: restore 1 PERMANENT\n");
}

static void a_cancel_goes_back_as_a_failure_does(void **state)
{
    struct stage s;

    (void)state;
    set_up(&s, false, 3, 1, NULL, 0);
    s.cancel_ns = 45 * MS;
    play(&s);
    expect(&s, "[   0ms] 1 2 < pause\n"
               "[  10ms] 1 2 > pause: OK, 7\n"
               "[  10ms] 1 2 < release\n"
               "[  20ms] 1 2 > release: OK, 7\n"
               "[  20ms] 0 1 2 < prepare\n"
               "[  30ms] 0 > prepare: OK\n"
               "[  30ms] 1 2 > prepare: OK, 7\n"
               "[  30ms] 0 1 2 < group\n"
               "[  40ms] 0 > group: OK\n"
               "[  40ms] 1 2 > group: OK, 7\n"
               "[  40ms] 0 1 2 < send\n"
               "[  45ms] cancelled\n"
               "[  45ms] 0 1 2 < finalize\n"
               "[  50ms] 0 > send: OK\n"
               "[  50ms] 1 2 > send: OK, 7\n"
               "[  55ms] 0 > finalize: OK\n"
               "[  55ms] 1 2 > finalize: OK, 7\n"
               "[  55ms] 1 2 < restore\n"
               "[  65ms] 1 2 > restore: OK, 7\n"
               "[  65ms] 1 2 < resume\n"
               "[  75ms] 1 2 > resume: OK, 7\n"
               "[  75ms] ROLLED_BACK\n"
               "1 is serving, serves 7\n"
               "2 is serving, serves 7\n"
               "error: send -1 CANCELLED\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_replica_serves_the_new_version),
        cmocka_unit_test(
            a_group_that_fails_is_finalized_then_the_cache_comes_back_then_generation),
        cmocka_unit_test(
            a_send_that_fails_is_finalized_then_the_cache_comes_back_then_generation),
        cmocka_unit_test(
            a_send_that_fails_is_tried_again_and_nobody_resumes_in_between),
        cmocka_unit_test(torn_weights_are_not_resumed),
        cmocka_unit_test(
            a_replica_that_fails_finalize_after_commit_is_set_apart),
        cmocka_unit_test(
            a_trainer_that_fails_finalize_after_commit_is_an_error_and_no_more),
        cmocka_unit_test(
            the_error_of_the_body_comes_before_those_of_the_cleanup),
        cmocka_unit_test(a_cleanup_that_hangs_has_a_deadline),
        cmocka_unit_test(finalize_does_not_go_where_prepare_did_not),
        cmocka_unit_test(a_lost_commit_answer_is_asked_for_again),
        cmocka_unit_test(a_stopped_engine_that_wakes_in_time_has_done_its_part),
        cmocka_unit_test(a_stopped_engine_that_wakes_too_late_serves_nobody),
        cmocka_unit_test(
            a_trainer_that_dies_in_send_leaves_the_old_version_serving),
        cmocka_unit_test(
            a_trainer_that_dies_in_send_in_place_leaves_nobody_serving),
        cmocka_unit_test(a_replica_that_nobody_can_expel_is_reported_unfenced),
        cmocka_unit_test(nobody_resumes_when_too_few_have_their_cache_back),
        cmocka_unit_test(a_cancel_goes_back_as_a_failure_does),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
