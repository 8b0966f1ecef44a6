/* Cleat: three ends of an NCCL transport, as plain as can be.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each function of the second half says which one of port/nccl it stands for.
 */
#include "nccl_ends.h"

/* A caller may be asked without anybody to choose: see is_waiting in the
 * model. Then nothing is checked. */
#define CHECK(c, condition, sentence) \
    choose_check(c, (c) == NULL || (condition), sentence)
#define MARK(c, index) \
    ((c) == NULL ? (void)0 : choose_mark(c, NCCL_SEEN_##index))
#define NOTE(c, ...) ((c) == NULL ? (void)0 : choose_note(c, __VA_ARGS__))

static enum cleat_nccl_stop_state state_of(const struct nccl_end *e)
{
    return (enum cleat_nccl_stop_state)e->machine.state;
}

static bool is_lost(const struct nccl_end *e)
{
    return state_of(e) == CLEAT_NCCL_LOST;
}

bool nccl_end_healthy(const struct nccl_end *e)
{
    return state_of(e) == CLEAT_NCCL_HEALTHY &&
           e->machine.epoch == e->group.epoch;
}

void nccl_end_begin(struct nccl_ends *w, uint32_t i)
{
    struct nccl_end *e = &w->end[i];

    memset(e, 0, sizeof *e);
    if (cleat_nccl_stop_init(&e->machine, &w->config) != CLEAT_OK) {
        cleat_test_assert_failed("init", __FILE__, __LINE__);
    }
    e->left_ns = CLEAT_NEVER;
}

/* ---- what must be true at any time ---- */

static void check_lost(struct choose *c, const struct nccl_ends *w,
                       const struct nccl_end *e)
{
    struct cleat_nccl_stop copy = e->machine;
    struct cleat_nccl_stop_command command;

    if (!is_lost(e)) {
        choose_check(c, e->lost == 0, "lost is for ever");
        return;
    }
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
}

void nccl_end_check(struct choose *c, const struct nccl_ends *w, uint32_t i)
{
    const struct nccl_end *e = &w->end[i];
    const struct cleat_nccl_stop *m = &e->machine;
    uint64_t bound_ns = cleat_nccl_stop_bound_ns(&w->config);

    check_lost(c, w, e);
    choose_check(c,
                 m->builds <= w->config.builds_max &&
                     m->ids <= w->config.builds_max && m->ids == e->ids &&
                     m->builds == e->builds && m->depth_leaked == e->depth_seen,
                 "leaks-are-bounded");
    choose_check(c, e->lost == 0 || e->freed == 0,
                 "nothing-freed-on-a-fault-path");
    if (is_lost(e)) { return; }
    choose_check(c, cleat_nccl_stop_deadline(m) > w->now_ns,
                 "never-hangs-past-its-bound");
    choose_check(c,
                 e->left_ns == CLEAT_NEVER || w->now_ns - e->left_ns < bound_ns,
                 "never-hangs-past-its-bound");
    choose_check(c, e->inside == CLEAT_NCCL_NOTHING || w->now_ns < e->until_ns,
                 "never-hangs-past-its-bound");
    choose_check(c, state_of(e) != CLEAT_NCCL_QUIESCED || e->comm == 0,
                 "all-survivors-leave-the-old-group");
    choose_check(c,
                 state_of(e) != CLEAT_NCCL_QUIESCED ||
                     (e->reaping == 0 && e->blocked == 0),
                 "quiesced is quiet");
}

void nccl_end_watch(struct choose *c, struct nccl_ends *w, uint32_t i)
{
    struct nccl_end *e = &w->end[i];
    bool leaving = state_of(e) == CLEAT_NCCL_REVOKING ||
                   state_of(e) == CLEAT_NCCL_ABORTING ||
                   state_of(e) == CLEAT_NCCL_DRAINING;

    if (!leaving) { e->left_ns = CLEAT_NEVER; }
    if (leaving && e->left_ns == CLEAT_NEVER) { e->left_ns = w->now_ns; }
    /* engine.c: follow. Once a group has been formed, the libraries have
     * started what they need. */
    if (state_of(e) == CLEAT_NCCL_HEALTHY) {
        cleat_nccl_stop_pace(&e->machine, w->call_ns);
        e->paced = 1;
    }
    if (is_lost(e)) {
        if (e->lost == 0 && e->stuck != 0) { MARK(c, STUCK); }
        if (e->lost == 0 && e->reap_stuck != 0) { MARK(c, ABORT_STUCK); }
        e->lost = 1;
    }
}

/* ---- the library ---- */

enum fate {
    FATE_GOOD,
    FATE_ERROR,  /* an error, nothing left behind */
    FATE_LEAK,   /* an error, and a group of the thread stays open */
    FATE_STICKY, /* the context is broken */
    FATE_HELD,   /* it comes back, some time */
    FATE_STUCK,  /* it never does */
    FATES
};

static const uint8_t fates_of[CLEAT_NCCL_ID + 1] = {
    [CLEAT_NCCL_INIT] = 1u << FATE_ERROR | 1u << FATE_LEAK | 1u << FATE_HELD |
                        1u << FATE_STUCK,
    [CLEAT_NCCL_POLL] = 1u << FATE_ERROR | 1u << FATE_STUCK,
    [CLEAT_NCCL_REVOKE] = 1u << FATE_LEAK | 1u << FATE_HELD | 1u << FATE_STUCK,
    [CLEAT_NCCL_ABORT] = 1u << FATE_ERROR | 1u << FATE_HELD | 1u << FATE_STUCK,
    [CLEAT_NCCL_DRAIN] = 1u << FATE_STICKY | 1u << FATE_STUCK,
    [CLEAT_NCCL_UNWIND] = 1u << FATE_STUCK,
    [CLEAT_NCCL_WORK] = 1u << FATE_ERROR | 1u << FATE_LEAK | 1u << FATE_STICKY |
                        1u << FATE_HELD | 1u << FATE_STUCK,
    [CLEAT_NCCL_ID] = 1u << FATE_LEAK | 1u << FATE_HELD | 1u << FATE_STUCK};

static const char *const fate_names[FATES] = {
    [FATE_GOOD] = "well",
    [FATE_ERROR] = "fails",
    [FATE_LEAK] = "fails, and leaves a group open",
    [FATE_STICKY] = "breaks the context",
    [FATE_HELD] = "does not come back yet",
    [FATE_STUCK] = "never comes back"};

static const char *const call_names[CLEAT_NCCL_ID + 1] = {
    "nothing", "init",   "poll", "revoke", "abort",
    "drain",   "unwind", "work", "id"};

/* What an owner's call says when it comes back well. */
static enum cleat_status says(const struct nccl_end *e,
                              enum cleat_nccl_call call)
{
    switch (call) {
    case CLEAT_NCCL_POLL:
        return state_of(e) == CLEAT_NCCL_REVOKING || e->met != 0
                   ? CLEAT_OK
                   : CLEAT_PENDING;
    case CLEAT_NCCL_DRAIN: return e->blocked != 0 ? CLEAT_PENDING : CLEAT_OK;
    case CLEAT_NCCL_INIT:
    case CLEAT_NCCL_REVOKE:
    case CLEAT_NCCL_WORK: return CLEAT_PENDING;
    default: return CLEAT_OK;
    }
}

static enum fate pick(struct choose *c, struct nccl_ends *w, uint32_t i,
                      enum cleat_nccl_call call)
{
    uint8_t legal[FATES] = {FATE_GOOD};
    /* "Not yet" is said again and again; only something else is news. */
    bool same = (call == CLEAT_NCCL_POLL || call == CLEAT_NCCL_DRAIN) &&
                says(&w->end[i], call) == CLEAT_PENDING;
    uint32_t count = same ? 0 : 1;
    enum fate fate = FATE_GOOD;

    if (w->faults_left != 0) {
        for (uint8_t f = FATE_ERROR; f < FATES; f++) {
            if ((fates_of[call] >> f & 1u) != 0) { legal[count++] = f; }
        }
        fate = (enum fate)legal[choose(c, count)];
    }
    if (fate != FATE_GOOD) { w->faults_left--; }
    choose_note(c, "[%llu] %u: %s: %s", (unsigned long long)w->now_ns, i,
                call_names[call], fate_names[fate]);
    return fate;
}

/* A call goes into the library. */
static void goes_in(struct choose *c, const struct nccl_end *e,
                    enum cleat_nccl_call call)
{
    bool group = call == CLEAT_NCCL_INIT || call == CLEAT_NCCL_POLL ||
                 call == CLEAT_NCCL_REVOKE || call == CLEAT_NCCL_WORK;

    choose_check(c, e->lost == 0 && e->freed == 0, "no-call-after-lost");
    choose_check(c,
                 e->inside == CLEAT_NCCL_NOTHING ||
                     (call == CLEAT_NCCL_ABORT && e->inside == CLEAT_NCCL_ID),
                 "one call at a time");
    choose_check(c, !group || e->reaping == 0,
                 "no second thread in a communicator");
    choose_check(c,
                 call == CLEAT_NCCL_UNWIND || call == CLEAT_NCCL_ABORT ||
                     call == CLEAT_NCCL_DRAIN || e->depth == 0,
                 "no call is made in a group that was left open");
    choose_check(c, call != CLEAT_NCCL_REVOKE || e->errored == 0,
                 "after an error nothing but an abort follows");
}

/* Every rank of the group holds a communicator of it: they have met. */
static void meet(struct nccl_ends *w, uint32_t epoch)
{
    uint32_t present = 0;
    uint32_t ranks = 0;

    for (uint32_t i = 0; i < NCCL_ENDS; i++) {
        if (w->end[i].comm != epoch || w->end[i].dead != 0) { continue; }
        present++;
        ranks = w->end[i].comm_ranks;
    }
    if (present != ranks) { return; }
    w->formed |= UINT64_C(1) << epoch;
    for (uint32_t i = 0; i < NCCL_ENDS; i++) {
        if (w->end[i].comm == epoch) { w->end[i].met = 1; }
    }
}

/* A communicator comes to be: on a device that has none, of a group that is
 * still to be formed. */
static void makes_comm(struct choose *c, struct nccl_ends *w,
                       struct nccl_end *e, uint32_t epoch)
{
    choose_check(c, e->comm == 0 && (w->formed >> epoch & 1u) == 0,
                 "one-epoch-at-a-time");
    e->comm = epoch;
    e->comm_ranks = e->group.ranks;
    e->errored = 0;
    e->met = 0;
    e->given = 0;
    e->complete = 0;
    meet(w, epoch);
}

/* The bucket is on the streams of all ranks: it comes through. */
static void give(struct choose *c, struct nccl_ends *w, struct nccl_end *e)
{
    uint32_t present = 0;

    choose_check(
        c,
        e->comm == e->group.epoch && e->met != 0 &&
            (w->control.epoch_given == 0 || w->control.epoch_given == e->comm),
        "one-epoch-at-a-time");
    w->control.epoch_given = e->comm;
    e->given = 1;
    for (uint32_t i = 0; i < NCCL_ENDS; i++) {
        const struct nccl_end *other = &w->end[i];

        present += other->comm == e->comm && other->given != 0 &&
                           other->dead == 0 && other->blocked == 0
                       ? 1u
                       : 0u;
    }
    for (uint32_t i = 0; present == e->comm_ranks && i < NCCL_ENDS; i++) {
        if (w->end[i].comm == e->comm) { w->end[i].complete = 1; }
    }
}

static void tell(struct choose *c, struct nccl_ends *w, struct nccl_end *e,
                 enum cleat_nccl_call call, enum cleat_status status,
                 uint32_t depth)
{
    if (e->lost == 0 &&
        (call == CLEAT_NCCL_UNWIND || call == CLEAT_NCCL_ABORT)) {
        e->depth_seen += depth;
    }
    choose_check(c,
                 cleat_nccl_stop_told(&e->machine, w->now_ns, call, status,
                                      depth) == CLEAT_OK,
                 "a result is taken");
    e->machine.late = 0;
}

/* What comes of a call that comes back well. */
static void ends_well(struct choose *c, struct nccl_ends *w, uint32_t i,
                      enum cleat_nccl_call call)
{
    struct nccl_end *e = &w->end[i];
    uint32_t depth = call == CLEAT_NCCL_UNWIND ? e->depth : 0;

    if (call == CLEAT_NCCL_UNWIND) {
        MARK(c, UNWOUND);
        e->depth = 0;
    }
    if (call == CLEAT_NCCL_ID) {
        e->id_status = CLEAT_OK;
        e->id_ready = 1;
        e->id_wanted = 0;
    }
    if (call == CLEAT_NCCL_WORK && e->comm != 0 && e->lost == 0 &&
        state_of(e) == CLEAT_NCCL_HEALTHY) {
        if (e->op == OP_QUEUED) {
            give(c, w, e);
            e->op = OP_GIVEN;
        } else if (e->complete != 0) {
            e->op = OP_DONE;
        }
    }
    tell(c, w, e, call, says(e, call), depth);
}

static void fails(struct choose *c, struct nccl_ends *w, uint32_t i,
                  enum cleat_nccl_call call, enum fate fate)
{
    struct nccl_end *e = &w->end[i];

    if (fate == FATE_LEAK) { e->depth = 1; }
    if (call == CLEAT_NCCL_ID) {
        e->id_status = CLEAT_GROUP_FAILED;
        e->id_wanted = 0;
    } else {
        e->errored = 1;
    }
    tell(c, w, e, call,
         fate == FATE_STICKY ? CLEAT_DEVICE_LOST : CLEAT_GROUP_FAILED, 0);
    if (fate == FATE_STICKY) {
        MARK(c, STICKY);
        choose_check(c, is_lost(e), "a sticky error is said at once");
    }
}

/* An owner's call comes back at once, some time, or never. */
static void happens(struct choose *c, struct nccl_ends *w, uint32_t i,
                    enum cleat_nccl_call call)
{
    struct nccl_end *e = &w->end[i];
    enum fate fate = pick(c, w, i, call);

    if (fate == FATE_HELD || fate == FATE_STUCK) {
        e->inside = (uint8_t)call;
        e->stuck = fate == FATE_STUCK;
        e->until_ns = cleat_time_add(
            w->now_ns, e->paced != 0 ? w->call_ns : w->config.call_ns);
    } else if (fate == FATE_GOOD) {
        ends_well(c, w, i, call);
    } else {
        fails(c, w, i, call, fate);
    }
}

static void aborted(struct choose *c, struct nccl_ends *w, uint32_t i,
                    bool failed)
{
    struct nccl_end *e = &w->end[i];

    e->reaping = 0;
    if (e->lost == 0) {
        e->comm = 0;
        e->given = 0;
        e->complete = 0;
        e->met = 0;
    }
    tell(c, w, e, CLEAT_NCCL_ABORT, failed ? CLEAT_GROUP_FAILED : CLEAT_OK,
         failed ? 1 : 0);
}

static void aborts(struct choose *c, struct nccl_ends *w, uint32_t i)
{
    enum fate fate = pick(c, w, i, CLEAT_NCCL_ABORT);

    w->end[i].reaping = 1;
    w->end[i].reap_stuck = fate == FATE_STUCK;
    if (fate == FATE_GOOD || fate == FATE_ERROR) {
        aborted(c, w, i, fate == FATE_ERROR);
    }
}

/* ---- the owner and the reaper ---- */

/* engine.c: obey, call_init and so on. */
static void obey(struct choose *c, struct nccl_ends *w, uint32_t i)
{
    struct nccl_end *e = &w->end[i];
    struct cleat_nccl_stop_command command;

    if (cleat_nccl_stop_next(&e->machine, w->now_ns, &command) != CLEAT_OK) {
        choose_fail(c, "there was a command");
    }
    goes_in(c, e, command.call);
    if (command.call == CLEAT_NCCL_ABORT) {
        aborts(c, w, i);
        return;
    }
    if (command.call == CLEAT_NCCL_INIT) {
        makes_comm(c, w, e, (uint32_t)command.epoch);
    }
    if (command.call == CLEAT_NCCL_REVOKE) { MARK(c, REVOKED); }
    happens(c, w, i, command.call);
}

/* engine.c: make_id. */
static void make_id(struct choose *c, struct nccl_ends *w, uint32_t i)
{
    struct nccl_end *e = &w->end[i];
    enum cleat_status status = cleat_nccl_stop_enter(&e->machine, w->now_ns,
                                                     CLEAT_NCCL_ID);

    if (status == CLEAT_OK) {
        e->ids++;
        goes_in(c, e, CLEAT_NCCL_ID);
        happens(c, w, i, CLEAT_NCCL_ID);
        return;
    }
    MARK(c, LIMIT);
    choose_check(c, status == CLEAT_LIMIT && e->ids == w->config.builds_max,
                 "leaks-are-bounded");
    e->id_status = CLEAT_LIMIT;
    e->id_wanted = 0;
}

/* The sender has given this generation up, or has begun another. */
static bool is_given_up(const struct nccl_ends *w, const struct nccl_end *e)
{
    return w->control.generation != e->generation || w->control.finished != 0;
}

/* Receiver: what the sender has published is asked for. */
static bool fetches(const struct nccl_ends *w, const struct nccl_end *e)
{
    return e->joined != 0 && e->op == OP_NONE && e->acked == 0 &&
           e->failed == 0 && w->control.published != 0 && !is_given_up(w, e);
}

static bool has_work(const struct nccl_ends *w, const struct nccl_end *e)
{
    return nccl_end_healthy(e) && e->machine.inside == CLEAT_NCCL_NOTHING &&
           !e->machine.unwind &&
           (fetches(w, e) || e->op == OP_QUEUED ||
            (e->op == OP_GIVEN && e->complete != 0));
}

/* work.c: move. */
static void work(struct choose *c, struct nccl_ends *w, uint32_t i)
{
    struct nccl_end *e = &w->end[i];

    if (fetches(w, e)) {
        e->op = OP_QUEUED;
        e->op_ns = cleat_time_add(w->now_ns, w->bucket_ns);
    }
    choose_check(c,
                 cleat_nccl_stop_enter(&e->machine, w->now_ns,
                                       CLEAT_NCCL_WORK) == CLEAT_OK,
                 "leave is given while the group works");
    goes_in(c, e, CLEAT_NCCL_WORK);
    happens(c, w, i, CLEAT_NCCL_WORK);
}

/* A rank of its group is gone, and the bucket does not come. */
static bool is_deserted(const struct nccl_ends *w, const struct nccl_end *e)
{
    uint32_t present = 0;

    for (uint32_t i = 0; i < NCCL_ENDS; i++) {
        present += w->end[i].comm == e->comm && w->end[i].dead == 0 ? 1u : 0u;
    }
    return e->op == OP_GIVEN && e->complete == 0 && present < e->comm_ranks;
}

/* The machine's next command; `same`: a question, and the answer to it has not
 * changed since. */
static bool has_command(const struct nccl_ends *w, const struct nccl_end *e,
                        bool same)
{
    struct cleat_nccl_stop copy = e->machine;
    struct cleat_nccl_stop_command command;

    if (cleat_nccl_stop_next(&copy, w->now_ns, &command) != CLEAT_OK) {
        return false;
    }
    return same == ((command.call == CLEAT_NCCL_POLL ||
                     command.call == CLEAT_NCCL_DRAIN) &&
                    says(e, command.call) == CLEAT_PENDING);
}

bool nccl_end_can(const struct nccl_ends *w, uint32_t i, enum nccl_move move)
{
    const struct nccl_end *e = &w->end[i];

    if (e->dead != 0 || e->stopped != 0 || e->freed != 0) { return false; }
    switch (move) {
    case NCCL_OBEY: return has_command(w, e, false);
    case NCCL_ASK: return w->faults_left != 0 && has_command(w, e, true);
    case NCCL_ID:
        return e->id_wanted != 0 && !is_lost(e) && !e->machine.unwind &&
               e->machine.inside == CLEAT_NCCL_NOTHING;
    case NCCL_WORK: return has_work(w, e);
    case NCCL_BACK: return e->inside != CLEAT_NCCL_NOTHING && e->stuck == 0;
    case NCCL_REAPED: return e->reaping != 0 && e->reap_stuck == 0;
    default:
        return nccl_end_healthy(e) && is_deserted(w, e) &&
               e->machine.inside == CLEAT_NCCL_NOTHING;
    }
}

void nccl_end_move(struct choose *c, struct nccl_ends *w, uint32_t i,
                   enum nccl_move move)
{
    struct nccl_end *e = &w->end[i];
    enum cleat_nccl_call call = (enum cleat_nccl_call)e->inside;

    switch (move) {
    case NCCL_OBEY:
    case NCCL_ASK: obey(c, w, i); break;
    case NCCL_ID: make_id(c, w, i); break;
    case NCCL_WORK: work(c, w, i); break;
    case NCCL_BACK:
        e->inside = CLEAT_NCCL_NOTHING;
        choose_note(c, "[%llu] %u: %s comes back",
                    (unsigned long long)w->now_ns, i, call_names[call]);
        ends_well(c, w, i, call);
        break;
    case NCCL_REAPED:
        choose_note(c, "[%llu] %u: abort comes back",
                    (unsigned long long)w->now_ns, i);
        aborted(c, w, i, false);
        break;
    default:
        MARK(c, REMOTE_ERROR);
        choose_note(c, "[%llu] %u: a peer is gone",
                    (unsigned long long)w->now_ns, i);
        choose_check(c,
                     cleat_nccl_stop_enter(&e->machine, w->now_ns,
                                           CLEAT_NCCL_WORK) == CLEAT_OK,
                     "leave is given while the group works");
        goes_in(c, e, CLEAT_NCCL_WORK);
        fails(c, w, i, CLEAT_NCCL_WORK, FATE_ERROR);
        break;
    }
}

uint64_t nccl_end_deadline(const struct nccl_ends *w, uint32_t i)
{
    const struct nccl_end *e = &w->end[i];
    uint64_t due_ns = cleat_nccl_stop_deadline(&e->machine);

    if (e->dead != 0 || e->stopped != 0 || e->freed != 0) {
        return CLEAT_NEVER;
    }
    if (nccl_end_healthy(e) && (e->op == OP_QUEUED || e->op == OP_GIVEN) &&
        e->inside == CLEAT_NCCL_NOTHING && e->op_ns < due_ns) {
        due_ns = e->op_ns;
    }
    return due_ns;
}

/* engine.c: nccl_tick; work.c: is_in_time. */
void nccl_end_tick(struct choose *c, struct nccl_ends *w, uint32_t i)
{
    struct nccl_end *e = &w->end[i];

    if (e->dead != 0 || e->stopped != 0) { return; }
    (void)cleat_nccl_stop_tick(&e->machine, w->now_ns);
    if (nccl_end_deadline(w, i) <= w->now_ns) {
        NOTE(c, "[%llu] %u: the bucket has not come",
             (unsigned long long)w->now_ns, i);
        (void)cleat_nccl_stop_ask(&e->machine, w->now_ns, CLEAT_PEER_SILENT);
    }
    if (w->now_ns > 0) {
        choose_check(c,
                     cleat_nccl_stop_tick(&e->machine, w->now_ns - 1) ==
                         CLEAT_TIME_BACKWARDS,
                     "time that goes back is refused");
    }
}

void nccl_end_stops(struct nccl_ends *w, uint32_t i)
{
    w->end[i].stopped = 1;
    w->end[i].stopped_ns = w->now_ns;
}

/* engine.c: nccl_time. What it needs of time it needs while it runs. */
void nccl_end_wakes(struct choose *c, struct nccl_ends *w, uint32_t i)
{
    struct nccl_end *e = &w->end[i];
    uint64_t gap_ns = w->now_ns - e->stopped_ns;

    e->stopped = 0;
    e->stopped_ns = 0;
    e->left_ns = CLEAT_NEVER;
    if (gap_ns > w->gap_ns) {
        cleat_nccl_stop_forgive(&e->machine, gap_ns);
        e->until_ns = cleat_time_add(e->until_ns, gap_ns);
    }
    nccl_end_tick(c, w, i);
    choose_check(c, e->lost != 0 || !is_lost(e) || gap_ns <= w->gap_ns,
                 "standing-still-loses-no-device");
}

/* ---- the caller ---- */

static void stop(struct nccl_ends *w, struct nccl_end *e)
{
    (void)cleat_nccl_stop_ask(&e->machine, w->now_ns, CLEAT_GROUP_FAILED);
}

/* engine.c: nccl_form. */
static enum cleat_status form(struct choose *c, struct nccl_ends *w,
                              struct nccl_end *e, uint64_t deadline_ns)
{
    enum cleat_status status;

    if (is_lost(e)) { return CLEAT_DEVICE_LOST; }
    if (e->machine.epoch == e->group.epoch) {
        if (state_of(e) == CLEAT_NCCL_HEALTHY) { return CLEAT_OK; }
        return state_of(e) == CLEAT_NCCL_BUILDING ? CLEAT_PENDING
                                                  : CLEAT_GROUP_FAILED;
    }
    if (w->now_ns >= deadline_ns) { return CLEAT_DEADLINE; }
    if (state_of(e) == CLEAT_NCCL_QUIESCED) {
        status = cleat_nccl_stop_build(&e->machine, w->now_ns, e->group.epoch,
                                       deadline_ns);
        if (status == CLEAT_LIMIT) {
            MARK(c, LIMIT);
            CHECK(c, e->builds == w->config.builds_max, "leaks-are-bounded");
        }
        if (status != CLEAT_OK) { return status; }
        CHECK(c, e->comm == 0, "all-survivors-leave-the-old-group");
        e->op = OP_NONE;
        e->builds++;
        if (e->builds > 1) { MARK(c, FRESH_AGAIN); }
        NOTE(c, "[%llu] %u: forms group %u", (unsigned long long)w->now_ns,
             (uint32_t)(e - w->end), e->group.epoch);
        return CLEAT_PENDING;
    }
    stop(w, e);
    return CLEAT_PENDING;
}

/* A receiver has written that it has given up. */
static bool somebody_failed(const struct nccl_control *control)
{
    bool failed = false;

    for (uint32_t i = 0; i < control->receivers_count; i++) {
        failed = failed || control->ack[i] == ACK_FAILED;
    }
    return failed;
}

/* sender.c: all_acked. */
static bool all_acked(const struct nccl_control *control)
{
    bool all = control->published != 0;

    for (uint32_t i = 0; i < control->receivers_count; i++) {
        all = all && control->ack[i] == ACK_GOOD;
    }
    return all;
}

/* sender.c: choose_group. True when there is a group already. A generation that
 * did not end well with all receivers leaves none behind: they are asked once
 * more, for one that had nothing more to acknowledge says only when it leaves
 * that it did not end well. */
static bool choose_group(struct nccl_ends *w, uint32_t ranks, bool kept)
{
    struct nccl_end *e = &w->end[0];

    if (!kept) { stop(w, e); }
    e->reuses = nccl_end_healthy(e) && e->group.ranks == ranks;
    if (e->reuses != 0) {
        e->op = OP_NONE;
        e->given = 0;
        e->complete = 0;
        return true;
    }
    stop(w, e);
    return false;
}

/* sender.c: sender_prepare and take_id. */
enum cleat_status nccl_sender_prepare(struct choose *c, struct nccl_ends *w,
                                      uint32_t generation,
                                      uint32_t receivers_count, bool begins,
                                      struct nccl_ticket *ticket)
{
    struct nccl_end *e = &w->end[0];

    if (begins) {
        bool kept = all_acked(&w->control);

        memset(&w->control, 0, sizeof w->control);
        w->control.generation = generation;
        w->control.receivers_count = (uint8_t)receivers_count;
        if (!is_lost(e) && !choose_group(w, receivers_count + 1, kept)) {
            e->id_wanted = e->id_ready == 0;
            e->id_status = e->id_ready != 0 ? CLEAT_OK : CLEAT_PENDING;
        }
    }
    if (is_lost(e) || (e->reuses == 0 && e->id_status < CLEAT_OK)) {
        w->control.finished = 1;
        return is_lost(e) ? CLEAT_DEVICE_LOST : (enum cleat_status)e->id_status;
    }
    if (e->reuses == 0 && e->id_status == CLEAT_PENDING) {
        return CLEAT_PENDING;
    }
    if (e->reuses == 0) {
        e->id_ready = 0;
        e->group.epoch = ++w->clock;
        e->group.ranks = (uint8_t)(receivers_count + 1);
    } else {
        MARK(c, REUSED);
    }
    e->running = 1;
    e->generation = generation;
    ticket->group = e->group;
    ticket->generation = generation;
    ticket->fresh = e->reuses == 0;
    return CLEAT_OK;
}

/* sender.c: sender_group and form. Who cannot join says so, and then nobody
 * waits for it. */
enum cleat_status nccl_sender_group(struct choose *c, struct nccl_ends *w,
                                    uint64_t deadline_ns)
{
    struct nccl_end *e = &w->end[0];
    enum cleat_status status;

    if (e->running == 0) { return CLEAT_STATE; }
    status = form(c, w, e, deadline_ns);
    if (status == CLEAT_PENDING && somebody_failed(&w->control)) {
        stop(w, e);
        status = CLEAT_GROUP_FAILED;
    }
    return status;
}

/* sender.c: sender_publish and sender_acked, until all is acknowledged. */
enum cleat_status nccl_sender_send(struct choose *c, struct nccl_ends *w,
                                   bool begins, uint64_t deadline_ns)
{
    struct nccl_end *e = &w->end[0];

    (void)c;
    if (begins && nccl_end_healthy(e)) {
        e->op = OP_QUEUED;
        e->op_ns = cleat_time_add(w->now_ns, w->bucket_ns);
        w->control.published = 1;
    }
    if (all_acked(&w->control)) { return CLEAT_OK; }
    if (somebody_failed(&w->control)) { stop(w, e); }
    if (is_lost(e)) { return CLEAT_DEVICE_LOST; }
    if (!nccl_end_healthy(e)) { return CLEAT_GROUP_FAILED; }
    return w->now_ns >= deadline_ns ? CLEAT_DEADLINE : CLEAT_PENDING;
}

/* sender.c: sender_finish and settles. */
enum cleat_status nccl_sender_finish(struct choose *c, struct nccl_ends *w,
                                     bool begins)
{
    struct nccl_end *e = &w->end[0];

    (void)c;
    if (begins) {
        if (e->running == 0) { return CLEAT_OK; }
        e->running = 0;
        w->control.finished = 1;
        if (!all_acked(&w->control)) {
            stop(w, e);
            e->op = OP_NONE;
            return CLEAT_OK;
        }
        e->settle_ns = cleat_time_add(w->now_ns, w->call_ns);
    }
    if (nccl_end_healthy(e) && e->op != OP_DONE && w->now_ns < e->settle_ns) {
        return CLEAT_PENDING;
    }
    if (e->op != OP_DONE) { stop(w, e); }
    e->op = OP_NONE;
    return CLEAT_OK;
}

/* Also in a generation that is over: see choose_group. */
void nccl_receiver_gives_up(struct nccl_ends *w, uint32_t i)
{
    struct nccl_end *e = &w->end[i];

    e->failed = 1;
    if (w->control.generation == e->generation) {
        w->control.ack[e->index] = ACK_FAILED;
    }
}

/* receiver.c: leave and is_clean. The group stays when everything that came was
 * acknowledged, and something did. */
void nccl_receiver_leave(struct choose *c, struct nccl_ends *w, uint32_t i)
{
    struct nccl_end *e = &w->end[i];
    bool clean = e->joined != 0 && e->failed == 0 && e->acked != 0 &&
                 nccl_end_healthy(e);

    (void)c;
    if (e->joined == 0 && e->joining == 0) { return; }
    if (!clean) { nccl_receiver_gives_up(w, i); }
    e->joined = 0;
    e->joining = 0;
    if (!clean) { stop(w, e); }
    e->op = OP_NONE;
}

/* receiver.c: take_place and accept. CLEAT_PENDING: the group is to be formed.
 */
static enum cleat_status join(struct choose *c, struct nccl_ends *w, uint32_t i,
                              const struct nccl_ticket *ticket, uint32_t index)
{
    struct nccl_end *e = &w->end[i];
    struct nccl_tag group = ticket->group;

    group.rank = (uint8_t)(index + 1);
    if (w->control.generation != ticket->generation ||
        w->control.finished != 0) {
        return CLEAT_PEER_STALE;
    }
    e->joining = 1;
    e->generation = ticket->generation;
    e->index = (uint8_t)index;
    e->failed = 0;
    e->acked = 0;
    if (group.rank >= group.ranks) { return CLEAT_INVALID; }
    if (is_lost(e)) { return CLEAT_DEVICE_LOST; }
    if (nccl_end_healthy(e) && e->group.epoch == group.epoch &&
        e->group.ranks == group.ranks && e->group.rank == group.rank) {
        e->op = OP_NONE;
        e->given = 0;
        e->complete = 0;
        return CLEAT_OK;
    }
    if (!ticket->fresh) { /* formed without us */
        MARK(c, NOT_OURS);
        return CLEAT_GROUP_FAILED;
    }
    if (group.epoch <= e->machine.epoch) { return CLEAT_PEER_STALE; }
    e->group = group;
    return CLEAT_PENDING;
}

/* receiver.c: receiver_join. */
enum cleat_status nccl_receiver_join(struct choose *c, struct nccl_ends *w,
                                     uint32_t i,
                                     const struct nccl_ticket *ticket,
                                     uint32_t index, bool begins,
                                     uint64_t deadline_ns)
{
    struct nccl_end *e = &w->end[i];
    enum cleat_status status = CLEAT_PENDING;

    if (begins) {
        nccl_receiver_leave(c, w, i);
        status = join(c, w, i, ticket, index);
    }
    if (status == CLEAT_PENDING) { status = form(c, w, e, deadline_ns); }
    if (status == CLEAT_PENDING && is_given_up(w, e)) {
        status = CLEAT_GROUP_FAILED;
    }
    if (status == CLEAT_OK) {
        e->joining = 0;
        e->joined = 1;
    } else if (status != CLEAT_PENDING) {
        nccl_receiver_leave(c, w, i);
    }
    return status;
}

/* receiver.c: receiver_wait and receiver_ack. */
enum cleat_status nccl_receiver_receive(struct choose *c, struct nccl_ends *w,
                                        uint32_t i, uint64_t deadline_ns)
{
    struct nccl_end *e = &w->end[i];
    enum cleat_status status = CLEAT_PENDING;

    if (e->joined == 0) { return CLEAT_STATE; }
    if (e->op == OP_DONE) {
        /* Its digest is wrong: the group is well, and yet it is left. */
        if (c != NULL && w->faults_left != 0 && choose(c, 2) == 1) {
            w->faults_left--;
            NOTE(c, "[%llu] %u: the bucket is damaged",
                 (unsigned long long)w->now_ns, i);
            status = CLEAT_CORRUPT;
        } else if (is_given_up(w, e)) {
            status = CLEAT_GROUP_FAILED;
        } else {
            w->control.ack[e->index] = ACK_GOOD;
            e->acked = 1;
            e->op = OP_NONE;
            return CLEAT_OK;
        }
    } else if (is_lost(e)) {
        status = CLEAT_DEVICE_LOST;
    } else if (is_given_up(w, e) || !nccl_end_healthy(e)) {
        status = CLEAT_GROUP_FAILED;
    } else if (w->now_ns >= deadline_ns) {
        status = CLEAT_DEADLINE;
    }
    if (status != CLEAT_PENDING) { nccl_receiver_gives_up(w, i); }
    return status;
}

/* engine.c: leaves, nccl_engine_close; cuda's close frees what open made. */
enum cleat_status nccl_end_close(struct choose *c, struct nccl_ends *w,
                                 uint32_t i)
{
    struct nccl_end *e = &w->end[i];

    e->id_wanted = 0;
    if (is_lost(e)) { return CLEAT_DEVICE_LOST; }
    if (state_of(e) != CLEAT_NCCL_QUIESCED) {
        stop(w, e);
        return CLEAT_PENDING;
    }
    if (e->machine.inside != CLEAT_NCCL_NOTHING) { return CLEAT_PENDING; }
    CHECK(c,
          e->comm == 0 && e->reaping == 0 && e->blocked == 0 &&
              e->inside == CLEAT_NCCL_NOTHING,
          "nothing-freed-on-a-fault-path");
    e->freed = 1;
    return CLEAT_OK;
}

/* ---- the projection ---- */

unsigned char *nccl_epoch_put(unsigned char *at, const struct nccl_ends *w,
                              uint64_t epoch)
{
    return choose_put_u8(at, epoch == 0 ? 0
                             : w->clock - epoch > 200
                                 ? 201
                                 : 1 + (uint32_t)(w->clock - epoch));
}

/* What can still be built: all the same as long as it is more than a run
 * needs. */
static unsigned char *put_left(unsigned char *at, uint32_t max, uint32_t used)
{
    return choose_put_u8(at, max - used > 20 ? 20 : max - used);
}

unsigned char *nccl_end_put(unsigned char *at, const struct nccl_ends *w,
                            uint32_t i)
{
    const struct nccl_end *e = &w->end[i];
    const struct cleat_nccl_stop *m = &e->machine;
    /* It is where its replica is: two that have changed places are alike. */
    bool in_place = e->group.ranks == 2 || e->group.rank == i;
    uint64_t since_ns;

    at = choose_put_u8(at, (uint32_t)(e->dead | e->stopped << 1 |
                                      e->freed << 2 | e->lost << 3));
    if (e->dead != 0 || e->freed != 0) { return at; }
    /* Time that a process has stood still is given back to it. */
    at = choose_put_u64(at, e->stopped != 0 ? w->now_ns - e->stopped_ns : 0);
    since_ns = e->stopped != 0 ? e->stopped_ns : w->now_ns;
    at = choose_put_time(at, m->deadline_ns, since_ns);
    at = choose_put_time(at, m->inside_ns, since_ns);
    at = choose_put_u8(at, m->state);
    at = choose_put_u8(at, m->inside);
    at = choose_put_u8(at,
                       (uint32_t)(m->reaping | m->begun << 1 | m->unwind << 2));
    at = put_left(at, m->config.builds_max, m->builds);
    at = put_left(at, m->config.builds_max, m->ids);
    at = nccl_epoch_put(at, w, m->epoch);
    at = nccl_epoch_put(at, w, e->comm);
    at = nccl_epoch_put(at, w, e->group.epoch);
    at = choose_put_u8(at, (uint32_t)(e->group.ranks | in_place << 4));
    at = choose_put_u64(at, e->left_ns == CLEAT_NEVER ? CLEAT_NEVER
                                                      : w->now_ns - e->left_ns);
    at = choose_put_time(at, e->inside != 0 ? e->until_ns : 0, since_ns);
    at = choose_put_u8(at, e->inside);
    at = choose_put_u8(at, (uint32_t)(e->stuck | e->reaping << 1 |
                                      e->reap_stuck << 2 | e->blocked << 3 |
                                      e->errored << 4 | e->met << 5 |
                                      e->given << 6 | e->complete << 7));
    at = choose_put_u8(at, (uint32_t)(e->depth | e->comm_ranks << 4));
    at = choose_put_time(
        at, e->op == OP_QUEUED || e->op == OP_GIVEN ? e->op_ns : 0, w->now_ns);
    at = choose_put_time(at, e->settle_ns, w->now_ns);
    at = choose_put_u8(at, w->control.generation - e->generation > 3
                               ? 4
                               : w->control.generation - e->generation);
    at = choose_put_u8(at,
                       (uint32_t)(e->op | e->id_wanted << 2 | e->id_ready << 3 |
                                  (e->id_status == CLEAT_LIMIT) << 4 |
                                  (e->id_status < CLEAT_OK) << 5 |
                                  (e->id_status > CLEAT_OK) << 6));
    return choose_put_u8(at, (uint32_t)(e->running | e->reuses << 1 |
                                        e->paced << 2 | e->joining << 3 |
                                        e->joined << 4 | e->failed << 5 |
                                        e->acked << 6));
}
