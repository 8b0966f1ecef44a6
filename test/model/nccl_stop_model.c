/* Cleat: leaving an NCCL group, against its invariants.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The machine by itself, under more faults than nccl_sync_model.c has room for:
 * three devices, and over them an agreement on epochs as small as can be. All
 * are told to form a group, and when one fails, all are told to leave it;
 * whoever is quiesced takes part in the next epoch, whoever is lost or says
 * nothing is set apart for good. What each library really holds (a communicator
 * and its epoch, a thread's open groups, calls that are still in it) is kept
 * here, and calls may fail, leak, come back late or never; a process may die
 * without a word. */
#include "choose.h"
#include "cleat/status.h"
#include "port/nccl/stop.h"

#define SECONDS(n) ((n)*CLEAT_NS_PER_S)

enum { RANKS_MAX = 3, CALLS = CLEAT_NCCL_ID + 1 };

enum mark {
    MARK_RUNS,
    MARK_RUNS_AGAIN,
    MARK_REVOKED,
    MARK_REVOKE_LATE,
    MARK_ABORT_LATE,
    MARK_CALL_STUCK,
    MARK_NOT_IDLE,
    MARK_STICKY,
    MARK_UNWOUND,
    MARK_TOO_DEEP,
    MARK_LATE_RESULT,
    MARK_EXHAUSTED,
    MARK_NOBODY,
    MARK_DIED
};

static const char *const marks[] = {"a group runs",
                                    "a group runs after one was left",
                                    "revoked and then aborted",
                                    "revoking takes too long",
                                    "an abort that does not return",
                                    "a call that does not return",
                                    "streams that are not idle",
                                    "a sticky error",
                                    "open groups are ended",
                                    "more open groups than can be",
                                    "a result that comes too late",
                                    "no build is left",
                                    "nobody is left",
                                    "a process dies",
                                    NULL};

struct bounds {
    struct cleat_nccl_stop_config config;
    uint64_t begins_ns;
    uint64_t form_ns; /* T4: until a group must have formed */
    uint8_t ranks;
    uint8_t faults;
    bool times_end; /* time ends before all is done */
};

/* What becomes of a call that was made. */
enum fate {
    FATE_GOOD,
    FATE_ERROR,  /* an error, nothing left behind */
    FATE_LEAK,   /* an error, and a group of the thread stays open */
    FATE_DEEP,   /* an error, and groups stay open without end */
    FATE_STICKY, /* the context is broken */
    FATE_HELD,   /* it comes back, some time */
    FATE_STUCK,  /* it never does */
    FATES
};

/* A device and its library, as they are. */
struct device {
    struct cleat_nccl_stop machine;
    uint64_t left_ns;  /* since when its group is being left; NEVER: it is
                          not */
    uint64_t since_ns; /* since when the call is in it */
    uint64_t form_ns;  /* until when its group must have formed */
    uint32_t comm;     /* the epoch of its communicator; 0: none */
    uint32_t depth_seen;
    uint8_t inside;     /* enum cleat_nccl_call: the owner's, really */
    uint8_t stuck;      /* … for ever */
    uint8_t reaping;    /* an abort is in it, really */
    uint8_t reap_stuck; /* … for ever */
    uint8_t depth;      /* open groups of the owner's thread */
    uint8_t blocked;    /* its streams will never be idle */
    uint8_t errored;    /* a call on the communicator has failed */
    uint8_t worked;     /* it has given work in this epoch */
    uint8_t dead;       /* the process is */
    uint8_t lost;       /* the machine has said so */
    uint8_t ids;
    uint8_t builds;
};

enum phase { FORMING, RUNNING, LEAVING };

struct world {
    struct device devices[RANKS_MAX];
    const struct bounds *bounds;
    uint64_t now_ns;
    uint64_t deadline_ns; /* of the agreement's phase */
    uint32_t epoch;
    uint8_t phase;
    uint8_t members; /* bit i: device i takes part in this epoch */
    uint8_t told;    /* … and has been told what the phase is about */
    uint8_t faults_left;
    uint8_t over;
};

static bool has(uint8_t set, uint32_t i)
{
    return (set >> i & 1) != 0;
}

static uint8_t with(uint8_t set, uint32_t i)
{
    return (uint8_t)(set | 1u << i);
}

static enum cleat_nccl_stop_state state_of(const struct device *d)
{
    return (enum cleat_nccl_stop_state)d->machine.state;
}

static void forms(struct world *w, uint8_t members)
{
    w->phase = FORMING;
    w->members = members;
    w->told = 0;
    w->epoch++;
    w->deadline_ns = cleat_time_add(w->now_ns, w->bounds->form_ns);
}

static void init(void *state, const void *arg)
{
    struct world *w = state;

    w->bounds = arg;
    w->now_ns = w->bounds->begins_ns;
    w->faults_left = w->bounds->faults;
    for (uint32_t i = 0; i < w->bounds->ranks; i++) {
        if (cleat_nccl_stop_init(&w->devices[i].machine, &w->bounds->config) !=
            CLEAT_OK) {
            cleat_test_assert_failed("init", __FILE__, __LINE__);
        }
        w->devices[i].left_ns = CLEAT_NEVER;
        w->devices[i].form_ns = CLEAT_NEVER;
    }
    forms(w, (uint8_t)((1u << w->bounds->ranks) - 1));
}

/* ---- what must be true at any time ---- */

static void check_lost(struct choose *c, struct world *w, struct device *d)
{
    struct cleat_nccl_stop copy = d->machine;
    struct cleat_nccl_stop_command command;

    if (state_of(d) != CLEAT_NCCL_LOST) {
        choose_check(c, d->lost == 0, "lost is for ever");
        return;
    }
    d->lost = 1;
    choose_check(
        c,
        cleat_nccl_stop_next(&copy, w->now_ns, &command) == CLEAT_DEVICE_LOST &&
            cleat_nccl_stop_enter(&copy, w->now_ns, CLEAT_NCCL_WORK) ==
                CLEAT_DEVICE_LOST &&
            cleat_nccl_stop_enter(&copy, w->now_ns, CLEAT_NCCL_ID) ==
                CLEAT_DEVICE_LOST &&
            cleat_nccl_stop_build(&copy, w->now_ns, UINT32_MAX, CLEAT_NEVER) ==
                CLEAT_DEVICE_LOST,
        "no-call-after-lost");
    choose_check(c, cleat_nccl_stop_deadline(&copy) == CLEAT_NEVER,
                 "nothing is due after the end");
}

/* When its group began to be left, by what is seen of the machine. */
static void check_left(struct choose *c, struct world *w, struct device *d)
{
    bool leaving = state_of(d) == CLEAT_NCCL_REVOKING ||
                   state_of(d) == CLEAT_NCCL_ABORTING ||
                   state_of(d) == CLEAT_NCCL_DRAINING;

    if (!leaving) {
        d->left_ns = CLEAT_NEVER;
        return;
    }
    if (d->left_ns == CLEAT_NEVER) { d->left_ns = w->now_ns; }
    choose_check(c,
                 w->now_ns <
                         cleat_time_add(d->left_ns, cleat_nccl_stop_bound_ns(
                                                        &w->bounds->config)) ||
                     w->now_ns == CLEAT_NEVER,
                 "never-hangs-past-its-bound");
}

static void check_device(struct choose *c, struct world *w, struct device *d)
{
    const struct cleat_nccl_stop *m = &d->machine;

    check_lost(c, w, d);
    check_left(c, w, d);
    choose_check(c, cleat_nccl_stop_deadline(m) > w->now_ns,
                 "every deadline that has come has been applied");
    choose_check(c,
                 m->builds <= w->bounds->config.builds_max &&
                     m->ids <= w->bounds->config.builds_max &&
                     m->ids == d->ids && m->builds == d->builds &&
                     m->depth_leaked == d->depth_seen,
                 "leaks-are-bounded");
    if (state_of(d) == CLEAT_NCCL_LOST) { return; }
    choose_check(c,
                 d->inside == CLEAT_NCCL_NOTHING ||
                     w->now_ns <
                         cleat_time_add(d->since_ns, w->bounds->config.call_ns),
                 "never-hangs-past-its-bound");
    choose_check(c,
                 state_of(d) != CLEAT_NCCL_BUILDING || w->now_ns < d->form_ns,
                 "never-hangs-past-its-bound");
    choose_check(c, state_of(d) != CLEAT_NCCL_QUIESCED || d->comm == 0,
                 "all-survivors-leave-the-old-group");
    choose_check(c,
                 state_of(d) != CLEAT_NCCL_QUIESCED ||
                     (d->reaping == 0 && d->blocked == 0),
                 "quiesced is quiet");
}

/* ---- calls ---- */

/* All members of this epoch have met. */
static bool have_met(const struct world *w, uint32_t epoch)
{
    if (epoch != w->epoch) { return false; }
    for (uint32_t i = 0; i < w->bounds->ranks; i++) {
        const struct device *d = &w->devices[i];
        if (has(w->members, i) && (d->comm != epoch || d->dead != 0)) {
            return false;
        }
    }
    return true;
}

static const uint8_t fates_of[CALLS] = {
    [CLEAT_NCCL_INIT] = 1u << FATE_ERROR | 1u << FATE_LEAK | 1u << FATE_DEEP |
                        1u << FATE_HELD | 1u << FATE_STUCK,
    [CLEAT_NCCL_POLL] = 1u << FATE_ERROR | 1u << FATE_STUCK,
    [CLEAT_NCCL_REVOKE] = 1u << FATE_LEAK | 1u << FATE_HELD | 1u << FATE_STUCK,
    [CLEAT_NCCL_ABORT] = 1u << FATE_ERROR | 1u << FATE_HELD | 1u << FATE_STUCK,
    [CLEAT_NCCL_DRAIN] = 1u << FATE_STICKY | 1u << FATE_STUCK,
    [CLEAT_NCCL_UNWIND] = 1u << FATE_STUCK,
    [CLEAT_NCCL_WORK] = 1u << FATE_ERROR | 1u << FATE_LEAK | 1u << FATE_STICKY |
                        1u << FATE_HELD | 1u << FATE_STUCK,
    [CLEAT_NCCL_ID] = 1u << FATE_LEAK | 1u << FATE_HELD | 1u << FATE_STUCK};

static enum fate pick(struct choose *c, struct world *w,
                      enum cleat_nccl_call call)
{
    uint8_t legal[FATES] = {FATE_GOOD};
    uint32_t count = 1;
    enum fate fate;

    if (w->faults_left == 0) { return FATE_GOOD; }
    for (uint8_t f = FATE_ERROR; f < FATES; f++) {
        if (has(fates_of[call], f)) { legal[count++] = f; }
    }
    fate = (enum fate)legal[choose(c, count)];
    if (fate != FATE_GOOD) { w->faults_left--; }
    return fate;
}

/* A call goes into the library. */
static void goes_in(struct choose *c, const struct device *d,
                    enum cleat_nccl_call call)
{
    bool group = call == CLEAT_NCCL_INIT || call == CLEAT_NCCL_POLL ||
                 call == CLEAT_NCCL_REVOKE || call == CLEAT_NCCL_WORK;

    choose_check(c, d->lost == 0, "no-call-after-lost");
    choose_check(c,
                 d->inside == CLEAT_NCCL_NOTHING ||
                     (call == CLEAT_NCCL_ABORT && d->inside == CLEAT_NCCL_ID),
                 "one call at a time");
    choose_check(c, !group || d->reaping == 0,
                 "no second thread in a communicator");
    choose_check(c,
                 call == CLEAT_NCCL_UNWIND || call == CLEAT_NCCL_ABORT ||
                     call == CLEAT_NCCL_DRAIN || d->depth == 0,
                 "no call is made in a group that was left open");
    choose_check(c, call != CLEAT_NCCL_REVOKE || d->errored == 0,
                 "after an error nothing but an abort follows");
    choose_check(c,
                 d->left_ns == CLEAT_NEVER || call == CLEAT_NCCL_POLL ||
                     call == CLEAT_NCCL_REVOKE || call == CLEAT_NCCL_ABORT ||
                     call == CLEAT_NCCL_DRAIN || call == CLEAT_NCCL_UNWIND ||
                     call == CLEAT_NCCL_ID,
                 "nothing-freed-on-a-fault-path");
}

/* A communicator comes to be. */
static void makes_comm(struct choose *c, struct world *w, struct device *d,
                       uint32_t epoch)
{
    choose_check(c, d->comm == 0, "one-epoch-at-a-time");
    for (uint32_t i = 0; i < w->bounds->ranks; i++) {
        const struct device *other = &w->devices[i];
        choose_check(c,
                     other->comm == 0 || other->comm == epoch ||
                         other->dead != 0 || other->lost != 0,
                     "one-epoch-at-a-time");
    }
    d->comm = epoch;
    d->errored = 0;
    d->worked = 0;
}

static void note(struct choose *c, struct world *w, const struct device *d,
                 const char *what, int value)
{
    choose_note(c, "at %llu: device %d, %s: %s %d",
                (unsigned long long)(w->now_ns / CLEAT_NS_PER_S),
                (int)(d - w->devices), cleat_nccl_stop_state_name(state_of(d)),
                what, value);
}

static void tell(struct choose *c, struct world *w, struct device *d,
                 enum cleat_nccl_call call, enum cleat_status status,
                 uint32_t depth)
{
    uint32_t late = d->machine.late;
    uint64_t now = w->now_ns;

    note(c, w, d, "returns", (int)call);
    if (d->lost == 0 &&
        (call == CLEAT_NCCL_UNWIND || call == CLEAT_NCCL_ABORT)) {
        d->depth_seen += depth;
    }
    choose_check(c,
                 cleat_nccl_stop_told(&d->machine, now, call, status, depth) ==
                     CLEAT_OK,
                 "a result is taken");
    if (d->machine.late > late) {
        choose_mark(c, MARK_LATE_RESULT);
        choose_check(c, d->lost != 0, "what was asked for is not late");
    }
    choose_check(c,
                 cleat_nccl_stop_told(&d->machine, now, call, CLEAT_TRANSIENT,
                                      0) == CLEAT_OK &&
                     d->machine.late > late,
                 "a result that comes twice changes nothing");
    d->machine.late = 0;
}

/* What an owner's call says when it comes back well. */
static enum cleat_status says(const struct world *w, const struct device *d,
                              enum cleat_nccl_call call)
{
    switch (call) {
    case CLEAT_NCCL_INIT: return CLEAT_PENDING;
    case CLEAT_NCCL_POLL:
        if (state_of(d) == CLEAT_NCCL_REVOKING) { return CLEAT_OK; }
        return have_met(w, d->comm) ? CLEAT_OK : CLEAT_PENDING;
    case CLEAT_NCCL_REVOKE: return CLEAT_PENDING;
    case CLEAT_NCCL_DRAIN: return d->blocked != 0 ? CLEAT_PENDING : CLEAT_OK;
    default: return CLEAT_OK;
    }
}

static void unwinds(struct choose *c, struct world *w, struct device *d)
{
    uint32_t depth = d->depth;

    choose_mark(c, MARK_UNWOUND);
    d->depth = 0;
    tell(c, w, d, CLEAT_NCCL_UNWIND, CLEAT_OK, depth);
    if (depth == CLEAT_NCCL_UNWIND_MAX) {
        choose_mark(c, MARK_TOO_DEEP);
        choose_check(c, state_of(d) == CLEAT_NCCL_LOST,
                     "a thread whose groups do not end is given up");
    }
}

/* An owner's call comes back at once, some time, or never. */
static void happens(struct choose *c, struct world *w, struct device *d,
                    enum cleat_nccl_call call)
{
    enum fate fate = pick(c, w, call);

    d->inside = CLEAT_NCCL_NOTHING;
    if (fate == FATE_HELD || fate == FATE_STUCK) {
        d->inside = (uint8_t)call;
        d->stuck = fate == FATE_STUCK;
        d->since_ns = w->now_ns;
        note(c, w, d, fate == FATE_HELD ? "slow" : "stuck", (int)call);
        return;
    }
    if (fate == FATE_GOOD) {
        if (call == CLEAT_NCCL_UNWIND) {
            unwinds(c, w, d);
        } else {
            tell(c, w, d, call, says(w, d, call), 0);
        }
        return;
    }
    if (fate == FATE_LEAK) { d->depth = 1; }
    if (fate == FATE_DEEP) { d->depth = CLEAT_NCCL_UNWIND_MAX; }
    if (call != CLEAT_NCCL_ID) { d->errored = 1; }
    note(c, w, d, "fails", (int)fate);
    tell(c, w, d, call,
         fate == FATE_STICKY ? CLEAT_DEVICE_LOST : CLEAT_GROUP_FAILED, 0);
    if (fate == FATE_STICKY) {
        choose_mark(c, MARK_STICKY);
        choose_check(c, state_of(d) == CLEAT_NCCL_LOST,
                     "a sticky error is said at once");
    }
}

static void aborted(struct choose *c, struct world *w, struct device *d,
                    bool fails)
{
    d->reaping = 0;
    if (d->lost == 0) { d->comm = 0; }
    tell(c, w, d, CLEAT_NCCL_ABORT, fails ? CLEAT_GROUP_FAILED : CLEAT_OK,
         fails ? 1 : 0);
}

static void aborts(struct choose *c, struct world *w, struct device *d)
{
    enum fate fate = pick(c, w, CLEAT_NCCL_ABORT);

    d->reaping = 1;
    d->reap_stuck = fate == FATE_STUCK;
    if (fate == FATE_STUCK) { note(c, w, d, "abort is stuck", 0); }
    if (fate == FATE_HELD || fate == FATE_STUCK) { return; }
    aborted(c, w, d, fate == FATE_ERROR);
}

/* Takes the machine's next command and makes the call. */
static void obeys(struct choose *c, struct world *w, struct device *d)
{
    struct cleat_nccl_stop_command command;

    if (cleat_nccl_stop_next(&d->machine, w->now_ns, &command) != CLEAT_OK) {
        choose_fail(c, "there was a command");
    }
    choose_check(c, command.deadline_ns > w->now_ns, "a call has a deadline");
    note(c, w, d, "calls", (int)command.call);
    goes_in(c, d, command.call);
    if (command.call == CLEAT_NCCL_ABORT) {
        aborts(c, w, d);
        return;
    }
    if (command.call == CLEAT_NCCL_INIT) {
        makes_comm(c, w, d, (uint32_t)command.epoch);
    }
    if (command.call == CLEAT_NCCL_REVOKE) { choose_mark(c, MARK_REVOKED); }
    happens(c, w, d, command.call);
}

static bool has_command(const struct world *w, const struct device *d)
{
    struct cleat_nccl_stop copy = d->machine;
    struct cleat_nccl_stop_command command;

    if (cleat_nccl_stop_next(&copy, w->now_ns, &command) != CLEAT_OK) {
        return false;
    }
    /* Asking again what has not changed is no move. */
    return w->faults_left != 0 ||
           (command.call != CLEAT_NCCL_POLL &&
            command.call != CLEAT_NCCL_DRAIN) ||
           says(w, d, command.call) != CLEAT_PENDING;
}

/* A call that was slow comes back. */
static void comes_back(struct choose *c, struct world *w, struct device *d)
{
    enum cleat_nccl_call call = (enum cleat_nccl_call)d->inside;

    d->inside = CLEAT_NCCL_NOTHING;
    tell(c, w, d, call, says(w, d, call), 0);
}

/* A call that asks for leave. */
static void enters(struct choose *c, struct world *w, struct device *d,
                   enum cleat_nccl_call call)
{
    enum cleat_status status = cleat_nccl_stop_enter(&d->machine, w->now_ns,
                                                     call);

    if (call == CLEAT_NCCL_ID && status == CLEAT_LIMIT) {
        choose_mark(c, MARK_EXHAUSTED);
        choose_check(c, d->ids == w->bounds->config.builds_max,
                     "leaks-are-bounded");
        w->over = 1;
        return;
    }
    choose_check(c, status == CLEAT_OK || status == CLEAT_STATE,
                 "leave is given, or not now");
    if (status != CLEAT_OK) { return; }
    note(c, w, d, "enters", (int)call);
    if (call == CLEAT_NCCL_ID) {
        d->ids++;
    } else {
        choose_check(c, d->comm == w->epoch || w->phase == LEAVING,
                     "work is given in the present epoch only");
        d->worked = 1;
    }
    goes_in(c, d, call);
    happens(c, w, d, call);
}

/* ---- the agreement ---- */

/* The one that makes the id of an epoch: the first member. */
static bool makes_id(const struct world *w, uint32_t i)
{
    return (w->members & ((1u << i) - 1)) == 0;
}

static void is_told(struct choose *c, struct world *w, uint32_t i)
{
    struct device *d = &w->devices[i];
    enum cleat_status status;

    w->told = with(w->told, i);
    note(c, w, d, w->phase == LEAVING ? "is told to leave" : "is told to form",
         (int)w->epoch);
    if (w->phase == LEAVING) {
        status = cleat_nccl_stop_ask(&d->machine, w->now_ns,
                                     CLEAT_GROUP_FAILED);
        choose_check(c, status == CLEAT_OK || status == CLEAT_DEVICE_LOST,
                     "a group can be left");
        return;
    }
    if (makes_id(w, i)) { enters(c, w, d, CLEAT_NCCL_ID); }
    if (w->over != 0) { return; }
    status = cleat_nccl_stop_build(&d->machine, w->now_ns, w->epoch,
                                   w->deadline_ns);
    if (status == CLEAT_LIMIT) {
        choose_mark(c, MARK_EXHAUSTED);
        choose_check(c, d->builds == w->bounds->config.builds_max,
                     "leaks-are-bounded");
        w->over = 1;
        return;
    }
    choose_check(c, status == CLEAT_OK || status == CLEAT_DEVICE_LOST,
                 "who is quiesced can build");
    if (status != CLEAT_OK) { return; }
    choose_check(c, d->comm == 0, "all-survivors-leave-the-old-group");
    choose_check(c,
                 cleat_nccl_stop_build(&d->machine, w->now_ns, w->epoch + 1,
                                       CLEAT_NEVER) == CLEAT_STATE,
                 "one-epoch-at-a-time");
    d->builds++;
    d->form_ns = w->deadline_ns;
}

static void all_leave(struct world *w)
{
    w->phase = LEAVING;
    w->told = 0;
    w->deadline_ns = cleat_time_add(
        w->now_ns, cleat_time_add(cleat_nccl_stop_bound_ns(&w->bounds->config),
                                  w->bounds->config.call_ns));
}

/* Who was told of the epoch and has not come to be healthy, or is not any
 * more. */
static bool has_failed(const struct world *w, uint32_t i)
{
    const struct device *d = &w->devices[i];

    return has(w->told, i) && d->dead == 0 &&
           state_of(d) != CLEAT_NCCL_BUILDING &&
           state_of(d) != CLEAT_NCCL_HEALTHY;
}

/* What the agreement makes of what has been answered. */
static void agrees(struct choose *c, struct world *w)
{
    uint8_t stay = 0;
    bool all_well = true;
    bool failed = w->now_ns >= w->deadline_ns;
    bool waits = false;

    for (uint32_t i = 0; i < w->bounds->ranks; i++) {
        const struct device *d = &w->devices[i];
        if (!has(w->members, i)) { continue; }
        failed = failed || (w->phase != LEAVING && has_failed(w, i));
        all_well = all_well && has(w->told, i) && d->dead == 0 &&
                   state_of(d) == CLEAT_NCCL_HEALTHY;
        if (d->dead == 0 && has(w->told, i) &&
            state_of(d) == CLEAT_NCCL_QUIESCED) {
            stay = with(stay, i);
        } else if (d->lost == 0) {
            waits = true;
        }
    }
    if (w->phase != LEAVING) {
        if (failed) { all_leave(w); }
        if (!failed && all_well) {
            w->phase = RUNNING;
            w->deadline_ns = CLEAT_NEVER;
            choose_mark(c, w->epoch == 1 ? MARK_RUNS : MARK_RUNS_AGAIN);
        }
        return;
    }
    if (waits && w->now_ns < w->deadline_ns) { return; }
    /* Whoever is not heard of is killed, for certain. */
    for (uint32_t i = 0; i < w->bounds->ranks; i++) {
        if (!has(stay, i)) { w->devices[i].dead = 1; }
    }
    if (stay == 0) {
        choose_mark(c, MARK_NOBODY);
        w->over = 1;
        return;
    }
    forms(w, stay);
}

/* ---- moves ---- */

enum { OBEY, TOLD, BACK, REAPED, WORK, FAULT, DIE, BLOCK, TIME, MOVES };

struct move {
    uint8_t what;
    uint8_t device;
};

static uint32_t device_moves(const struct world *w, uint8_t i,
                             struct move *moves)
{
    const struct device *d = &w->devices[i];
    uint32_t count = 0;

    if (d->dead != 0) { return 0; }
    if (has(w->members, i) && !has(w->told, i) && w->phase != RUNNING) {
        moves[count++] = (struct move){TOLD, i};
    }
    if (has_command(w, d)) { moves[count++] = (struct move){OBEY, i}; }
    if (d->inside != CLEAT_NCCL_NOTHING && d->stuck == 0) {
        moves[count++] = (struct move){BACK, i};
    }
    if (d->reaping != 0 && d->reap_stuck == 0) {
        moves[count++] = (struct move){REAPED, i};
    }
    if (state_of(d) == CLEAT_NCCL_HEALTHY && d->worked == 0 &&
        w->phase == RUNNING && w->faults_left != 0) {
        moves[count++] = (struct move){WORK, i};
    }
    if (w->faults_left != 0 && d->lost == 0) {
        if (d->comm != 0) {
            moves[count++] = (struct move){FAULT, i};
            if (d->blocked == 0) { moves[count++] = (struct move){BLOCK, i}; }
        }
        moves[count++] = (struct move){DIE, i};
    }
    return count;
}

static uint64_t next_time(const struct world *w)
{
    uint64_t next = w->deadline_ns;

    for (uint32_t i = 0; i < w->bounds->ranks; i++) {
        const struct device *d = &w->devices[i];
        uint64_t due = cleat_nccl_stop_deadline(&d->machine);
        if (d->dead == 0 && due < next) { next = due; }
    }
    return next;
}

/* Time goes to the next deadline, and whoever watches ticks. */
static void time_passes(struct choose *c, struct world *w)
{
    w->now_ns = next_time(w);
    choose_note(c, "at %llu", (unsigned long long)(w->now_ns / CLEAT_NS_PER_S));
    for (uint32_t i = 0; i < w->bounds->ranks; i++) {
        struct device *d = &w->devices[i];
        enum cleat_nccl_stop_state before = state_of(d);
        bool lost;

        if (d->dead != 0) { continue; }
        (void)cleat_nccl_stop_tick(&d->machine, w->now_ns);
        lost = state_of(d) == CLEAT_NCCL_LOST && before != CLEAT_NCCL_LOST;
        if (before == CLEAT_NCCL_REVOKING &&
            state_of(d) == CLEAT_NCCL_ABORTING) {
            choose_mark(c, MARK_REVOKE_LATE);
        }
        if (lost && d->inside != 0) { choose_mark(c, MARK_CALL_STUCK); }
        if (lost && before == CLEAT_NCCL_ABORTING && d->reaping != 0) {
            choose_mark(c, MARK_ABORT_LATE);
        }
        if (lost && before == CLEAT_NCCL_DRAINING && d->blocked != 0) {
            choose_mark(c, MARK_NOT_IDLE);
        }
        if (w->now_ns > 0) {
            choose_check(c,
                         cleat_nccl_stop_tick(&d->machine, w->now_ns - 1) ==
                             CLEAT_TIME_BACKWARDS,
                         "time that goes back is refused");
        }
    }
}

/* Somebody has something to do at once. */
static bool is_busy(const struct move *moves, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (moves[i].what == TOLD || moves[i].what == OBEY) { return true; }
    }
    return false;
}

static void moves_on(struct choose *c, struct world *w, struct move move)
{
    struct device *d = &w->devices[move.device];

    switch (move.what) {
    case OBEY: obeys(c, w, d); break;
    case TOLD: is_told(c, w, move.device); break;
    case BACK: comes_back(c, w, d); break;
    case REAPED: aborted(c, w, d, false); break;
    case WORK: enters(c, w, d, CLEAT_NCCL_WORK); break;
    case FAULT: /* its own deadline of a bucket */
        w->faults_left--;
        note(c, w, d, "sees a fault", 0);
        (void)cleat_nccl_stop_ask(&d->machine, w->now_ns, CLEAT_PEER_SILENT);
        break;
    case BLOCK:
        w->faults_left--;
        d->blocked = 1;
        note(c, w, d, "is blocked", 0);
        break;
    case DIE:
        w->faults_left--;
        choose_mark(c, MARK_DIED);
        note(c, w, d, "dies", 0);
        d->dead = 1;
        break;
    default:
        w->faults_left = (uint8_t)(w->faults_left - move.device);
        time_passes(c, w);
        break;
    }
}

static bool step(struct choose *c, void *state)
{
    struct world *w = state;
    struct move moves[RANKS_MAX * MOVES + 1];
    uint32_t count = 0;
    bool dawdles;

    for (uint8_t i = 0; i < w->bounds->ranks; i++) {
        count += device_moves(w, i, moves + count);
    }
    /* An owner that stands still while it has something to do is a fault. */
    dawdles = next_time(w) != CLEAT_NEVER && is_busy(moves, count);
    if (next_time(w) != CLEAT_NEVER && (!dawdles || w->faults_left != 0)) {
        moves[count++] = (struct move){TIME, dawdles};
    }
    if (count == 0) {
        choose_check(c, w->phase == RUNNING || w->bounds->times_end,
                     "without faults a group is formed again");
        return false;
    }
    moves_on(c, w, moves[choose_any(c, count)]);
    for (uint32_t i = 0; i < w->bounds->ranks; i++) {
        struct device *d = &w->devices[i];
        if (d->dead == 0) { check_device(c, w, d); }
    }
    if (w->over == 0) { agrees(c, w); }
    return w->over == 0;
}

/* ---- the projection ---- */

static unsigned char *put_device(unsigned char *at, const struct world *w,
                                 const struct device *d)
{
    const struct cleat_nccl_stop *m = &d->machine;

    at = choose_put_u8(at, d->dead);
    if (d->dead != 0) { return at; }
    at = choose_put_time(at, m->deadline_ns, w->now_ns);
    at = choose_put_time(at, m->inside_ns, w->now_ns);
    at = choose_put_u8(at, m->state);
    at = choose_put_u8(at, m->inside);
    at = choose_put_u8(at,
                       (uint32_t)(m->reaping | m->begun << 1 | m->unwind << 2));
    at = choose_put_u8(at, m->builds);
    at = choose_put_u8(at, m->ids);
    at = choose_put_u8(at, (uint32_t)(w->epoch - m->epoch));
    at = choose_put_u8(at, d->comm != 0 ? 1 + w->epoch - d->comm : 0);
    at = choose_put_u64(at, d->left_ns == CLEAT_NEVER ? CLEAT_NEVER
                                                      : w->now_ns - d->left_ns);
    at = choose_put_u64(at, d->inside != 0 ? w->now_ns - d->since_ns : 0);
    at = choose_put_time(
        at, state_of(d) == CLEAT_NCCL_BUILDING ? d->form_ns : CLEAT_NEVER,
        w->now_ns);
    at = choose_put_u8(at, d->inside);
    at = choose_put_u8(at, (uint32_t)(d->stuck | d->reaping << 1 |
                                      d->reap_stuck << 2 | d->blocked << 3 |
                                      d->errored << 4 | d->worked << 5 |
                                      d->lost << 6));
    return choose_put_u8(at, d->depth);
}

static size_t project(const void *state, void *out)
{
    const struct world *w = state;
    unsigned char *at = out;

    for (uint32_t i = 0; i < w->bounds->ranks; i++) {
        at = put_device(at, w, &w->devices[i]);
    }
    at = choose_put_time(at, w->deadline_ns, w->now_ns);
    at = choose_put_u8(at, w->epoch == 1);
    at = choose_put_u8(at, w->phase);
    at = choose_put_u8(at, w->members);
    at = choose_put_u8(at, w->told);
    at = choose_put_u8(at, w->faults_left);
    return (size_t)(at - (unsigned char *)out);
}

#define CONFIG(revokes, k)                                                 \
    {                                                                      \
        .call_ns = SECONDS(2), .revoke_ns = SECONDS(1),                    \
        .abort_ns = SECONDS(3), .drain_ns = SECONDS(1), .builds_max = (k), \
        .can_revoke = (revokes)                                            \
    }

static const struct bounds three_one = {
    CONFIG(1, 2), SECONDS(5), SECONDS(2), 3, 1, false};
static const struct bounds three_two = {
    CONFIG(1, 3), SECONDS(5), SECONDS(2), 3, 2, false};
static const struct bounds three_three = {
    CONFIG(1, 3), SECONDS(5), SECONDS(2), 3, 3, false};
static const struct bounds three_old = {
    CONFIG(0, 2), SECONDS(5), SECONDS(2), 3, 1, false};
static const struct bounds two_three = {
    CONFIG(1, 3), SECONDS(5), SECONDS(2), 2, 3, false};
static const struct bounds two_few = {
    CONFIG(1, 2), SECONDS(5), SECONDS(2), 2, 2, false};
static const struct bounds near_the_end = {
    CONFIG(1, 3), UINT64_MAX - SECONDS(4), SECONDS(2), 2, 1, true};

#define TEST(sentence, with_bounds, with_marks, is_slow)                     \
    {                                                                        \
        .name = sentence, .state_bytes = sizeof(struct world), .init = init, \
        .step = step, .project = project, .arg = &(with_bounds),             \
        .steps_max = 400, .marks = with_marks, .slow = is_slow               \
    }

static const struct choose_test tests[] = {
    TEST("three-devices-one-fault-anywhere", three_one, NULL, false),
    TEST("three-devices-one-fault-without-revoke", three_old, NULL, false),
    TEST("two-devices-two-faults-two-builds", two_few, NULL, false),
    TEST("two-devices-three-faults-anywhere", two_three, marks, false),
    TEST("two-devices-near-the-end-of-time", near_the_end, NULL, false),
    TEST("three-devices-two-faults-anywhere", three_two, NULL, false),
    TEST("three-devices-three-faults-anywhere", three_three, NULL, true),
};

int main(int argc, char **argv)
{
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
