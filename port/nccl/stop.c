/* Cleat: how a device's NCCL group is begun and left. SPDX-License-Identifier:
 * Apache-2.0 */
#include "stop.h"

#include <string.h>

#include "check.h"

static uint64_t or_default(uint64_t ns, uint64_t default_ns)
{
    NCCL_ASSERT(default_ns > 0);
    NCCL_ASSERT(default_ns != CLEAT_NEVER);
    return ns != 0 ? ns : default_ns;
}

enum cleat_status
cleat_nccl_stop_init(struct cleat_nccl_stop *stop,
                     const struct cleat_nccl_stop_config *config)
{
    struct cleat_nccl_stop_config *full = &stop->config;

    NCCL_ASSERT(stop != NULL && config != NULL);
    NCCL_ASSERT((const void *)full != (const void *)config);
    if (config->can_revoke > 1) { return CLEAT_INVALID; }
    memset(stop, 0, sizeof *stop);
    *full = *config;
    full->call_ns = or_default(config->call_ns, CLEAT_NCCL_CALL_NS_DEFAULT);
    full->revoke_ns = or_default(config->revoke_ns,
                                 CLEAT_NCCL_REVOKE_NS_DEFAULT);
    full->abort_ns = or_default(config->abort_ns, CLEAT_NCCL_ABORT_NS_DEFAULT);
    full->drain_ns = or_default(config->drain_ns, CLEAT_NCCL_DRAIN_NS_DEFAULT);
    if (full->builds_max == 0) { full->builds_max = CLEAT_NCCL_BUILDS_DEFAULT; }
    if (full->revoke_ns == CLEAT_NONE) { full->can_revoke = 0; }
    stop->deadline_ns = CLEAT_NEVER;
    stop->inside_ns = CLEAT_NEVER;
    return CLEAT_OK;
}

void cleat_nccl_stop_pace(struct cleat_nccl_stop *stop, uint64_t call_ns)
{
    NCCL_ASSERT(stop != NULL);
    NCCL_ASSERT(call_ns != 0);
    stop->config.call_ns = call_ns;
}

void cleat_nccl_stop_forgive(struct cleat_nccl_stop *stop, uint64_t gap_ns)
{
    NCCL_ASSERT(stop != NULL);
    NCCL_ASSERT(stop->state <= CLEAT_NCCL_LOST);
    stop->inside_ns = cleat_time_add(stop->inside_ns, gap_ns);
    if (stop->state == CLEAT_NCCL_REVOKING ||
        stop->state == CLEAT_NCCL_ABORTING ||
        stop->state == CLEAT_NCCL_DRAINING) {
        stop->deadline_ns = cleat_time_add(stop->deadline_ns, gap_ns);
    }
}

uint64_t cleat_nccl_stop_bound_ns(const struct cleat_nccl_stop_config *config)
{
    uint64_t revoke_ns = or_default(config->revoke_ns,
                                    CLEAT_NCCL_REVOKE_NS_DEFAULT);
    uint64_t abort_ns = or_default(config->abort_ns,
                                   CLEAT_NCCL_ABORT_NS_DEFAULT);
    uint64_t drain_ns = or_default(config->drain_ns,
                                   CLEAT_NCCL_DRAIN_NS_DEFAULT);

    NCCL_ASSERT(config->can_revoke <= 1);
    NCCL_ASSERT(abort_ns > 0 && drain_ns > 0);
    if (config->can_revoke == 0 || revoke_ns == CLEAT_NONE) { revoke_ns = 0; }
    return cleat_time_add(revoke_ns, cleat_time_add(abort_ns, drain_ns));
}

static enum cleat_nccl_stop_state state_of(const struct cleat_nccl_stop *stop)
{
    NCCL_ASSERT(stop->state <= CLEAT_NCCL_LOST);
    NCCL_ASSERT(stop->state != CLEAT_NCCL_QUIESCED || !stop->reaping);
    return (enum cleat_nccl_stop_state)stop->state;
}

static bool is_lost(const struct cleat_nccl_stop *stop)
{
    NCCL_ASSERT(stop->builds <= stop->config.builds_max);
    NCCL_ASSERT(stop->ids <= stop->config.builds_max);
    return state_of(stop) == CLEAT_NCCL_LOST;
}

/* ---- transitions ---- */

static void go(struct cleat_nccl_stop *stop, enum cleat_nccl_stop_state state,
               uint64_t for_ns)
{
    NCCL_ASSERT(!is_lost(stop));
    NCCL_ASSERT(state != CLEAT_NCCL_LOST);
    stop->state = (uint8_t)state;
    stop->begun = false;
    stop->deadline_ns = cleat_time_add(stop->now_ns, for_ns);
}

static void lost(struct cleat_nccl_stop *stop, enum cleat_status why)
{
    NCCL_ASSERT(!is_lost(stop));
    NCCL_ASSERT(why < CLEAT_OK);
    stop->state = CLEAT_NCCL_LOST;
    stop->why = (int8_t)why;
    stop->deadline_ns = CLEAT_NEVER;
    stop->inside_ns = CLEAT_NEVER;
    stop->inside = CLEAT_NCCL_NOTHING;
    stop->reaping = false;
    stop->unwind = false;
}

static void go_aborting(struct cleat_nccl_stop *stop)
{
    NCCL_ASSERT(state_of(stop) == CLEAT_NCCL_BUILDING ||
                state_of(stop) == CLEAT_NCCL_HEALTHY ||
                state_of(stop) == CLEAT_NCCL_REVOKING);
    NCCL_ASSERT(!stop->reaping);
    go(stop, CLEAT_NCCL_ABORTING, stop->config.abort_ns);
}

/* The group is left. After an error nothing but an abort may follow, and one
 * that is being formed cannot be revoked. */
static void stop_begins(struct cleat_nccl_stop *stop, enum cleat_status why,
                        bool errored)
{
    bool revokes = state_of(stop) == CLEAT_NCCL_HEALTHY && !errored &&
                   stop->config.can_revoke != 0;

    NCCL_ASSERT(state_of(stop) == CLEAT_NCCL_BUILDING ||
                state_of(stop) == CLEAT_NCCL_HEALTHY);
    NCCL_ASSERT(why < CLEAT_OK);
    stop->why = (int8_t)why;
    stop->stops++;
    if (revokes) {
        go(stop, CLEAT_NCCL_REVOKING, stop->config.revoke_ns);
    } else {
        go_aborting(stop);
    }
}

static void quiesces(struct cleat_nccl_stop *stop)
{
    NCCL_ASSERT(state_of(stop) == CLEAT_NCCL_DRAINING);
    NCCL_ASSERT(!stop->reaping && !stop->unwind);
    go(stop, CLEAT_NCCL_QUIESCED, CLEAT_NEVER);
}

/* The deadline of the state has come. */
static void late(struct cleat_nccl_stop *stop)
{
    NCCL_ASSERT(stop->deadline_ns <= stop->now_ns);
    NCCL_ASSERT(state_of(stop) != CLEAT_NCCL_QUIESCED);
    switch (state_of(stop)) {
    case CLEAT_NCCL_BUILDING: stop_begins(stop, CLEAT_DEADLINE, false); break;
    case CLEAT_NCCL_REVOKING: go_aborting(stop); break;
    default: lost(stop, CLEAT_DEVICE_LOST); break;
    }
}

/* Applies the deadlines that are ≤ now_ns; false when time goes back. */
static bool apply(struct cleat_nccl_stop *stop, uint64_t now_ns)
{
    NCCL_ASSERT(stop != NULL);
    NCCL_ASSERT(stop->state <= CLEAT_NCCL_LOST);
    if (now_ns < stop->now_ns) { return false; }
    stop->now_ns = now_ns;
    if (!is_lost(stop) && stop->inside_ns <= now_ns) {
        lost(stop, CLEAT_DEVICE_LOST); /* it does not come back */
    }
    if (!is_lost(stop) && stop->deadline_ns <= now_ns) { late(stop); }
    return true;
}

/* CLEAT_OK when the call may go on. */
static enum cleat_status begin(struct cleat_nccl_stop *stop, uint64_t now_ns)
{
    NCCL_ASSERT(stop != NULL);
    NCCL_ASSERT(stop->inside != CLEAT_NCCL_NOTHING ||
                stop->inside_ns == CLEAT_NEVER);
    if (!apply(stop, now_ns)) { return CLEAT_TIME_BACKWARDS; }
    return is_lost(stop) ? CLEAT_DEVICE_LOST : CLEAT_OK;
}

enum cleat_status cleat_nccl_stop_tick(struct cleat_nccl_stop *stop,
                                       uint64_t now_ns)
{
    NCCL_ASSERT(stop != NULL);
    NCCL_ASSERT(stop->late != UINT32_MAX);
    return begin(stop, now_ns);
}

uint64_t cleat_nccl_stop_deadline(const struct cleat_nccl_stop *stop)
{
    NCCL_ASSERT(!is_lost(stop) || stop->deadline_ns == CLEAT_NEVER);
    NCCL_ASSERT(!is_lost(stop) || stop->inside_ns == CLEAT_NEVER);
    return stop->deadline_ns < stop->inside_ns ? stop->deadline_ns
                                               : stop->inside_ns;
}

/* ---- requests ---- */

enum cleat_status cleat_nccl_stop_build(struct cleat_nccl_stop *stop,
                                        uint64_t now_ns, uint64_t epoch,
                                        uint64_t deadline_ns)
{
    enum cleat_status status = begin(stop, now_ns);

    NCCL_ASSERT(stop->builds <= stop->config.builds_max);
    NCCL_ASSERT(stop->builds != 0 || stop->epoch == 0);
    if (status != CLEAT_OK) { return status; }
    if (state_of(stop) != CLEAT_NCCL_QUIESCED) { return CLEAT_STATE; }
    if (epoch <= stop->epoch) { return CLEAT_PEER_STALE; }
    if (deadline_ns <= now_ns) { return CLEAT_DEADLINE; }
    if (stop->builds == stop->config.builds_max) { return CLEAT_LIMIT; }
    stop->builds++;
    stop->epoch = epoch;
    go(stop, CLEAT_NCCL_BUILDING, CLEAT_NEVER);
    stop->deadline_ns = deadline_ns;
    return CLEAT_OK;
}

enum cleat_status cleat_nccl_stop_ask(struct cleat_nccl_stop *stop,
                                      uint64_t now_ns, enum cleat_status why)
{
    enum cleat_status status = begin(stop, now_ns);

    NCCL_ASSERT(why < CLEAT_OK);
    NCCL_ASSERT(why != CLEAT_TIME_BACKWARDS);
    if (status == CLEAT_OK && (state_of(stop) == CLEAT_NCCL_BUILDING ||
                               state_of(stop) == CLEAT_NCCL_HEALTHY)) {
        stop_begins(stop, why, false);
    }
    return status;
}

enum cleat_status cleat_nccl_stop_lose(struct cleat_nccl_stop *stop,
                                       uint64_t now_ns, enum cleat_status why)
{
    enum cleat_status status = begin(stop, now_ns);

    NCCL_ASSERT(why < CLEAT_OK);
    if (status == CLEAT_OK) { lost(stop, why); }
    NCCL_ASSERT(is_lost(stop) || status == CLEAT_TIME_BACKWARDS);
    return status;
}

/* A call goes in. */
static void goes_in(struct cleat_nccl_stop *stop, enum cleat_nccl_call call)
{
    NCCL_ASSERT(stop->inside == CLEAT_NCCL_NOTHING);
    NCCL_ASSERT(!is_lost(stop));
    stop->inside = (uint8_t)call;
    stop->inside_ns = cleat_time_add(stop->now_ns, stop->config.call_ns);
}

enum cleat_status cleat_nccl_stop_enter(struct cleat_nccl_stop *stop,
                                        uint64_t now_ns,
                                        enum cleat_nccl_call call)
{
    enum cleat_status status = begin(stop, now_ns);

    NCCL_ASSERT(stop->ids <= stop->config.builds_max);
    NCCL_ASSERT(stop->inside <= CLEAT_NCCL_ID);
    if (status != CLEAT_OK) { return status; }
    if (call != CLEAT_NCCL_WORK && call != CLEAT_NCCL_ID) {
        return CLEAT_INVALID;
    }
    if (stop->inside != CLEAT_NCCL_NOTHING || stop->unwind ||
        (call == CLEAT_NCCL_WORK && state_of(stop) != CLEAT_NCCL_HEALTHY)) {
        return CLEAT_STATE;
    }
    if (call == CLEAT_NCCL_ID) {
        if (stop->ids == stop->config.builds_max) { return CLEAT_LIMIT; }
        stop->ids++;
    }
    goes_in(stop, call);
    return CLEAT_OK;
}

/* ---- commands ---- */

/* What the state asks of the driver now. */
static enum cleat_nccl_call wanted(const struct cleat_nccl_stop *stop)
{
    NCCL_ASSERT(stop->inside == CLEAT_NCCL_NOTHING);
    NCCL_ASSERT(!stop->reaping || state_of(stop) == CLEAT_NCCL_ABORTING);
    if (stop->unwind) { return CLEAT_NCCL_UNWIND; }
    switch (state_of(stop)) {
    case CLEAT_NCCL_BUILDING:
        return stop->begun ? CLEAT_NCCL_POLL : CLEAT_NCCL_INIT;
    case CLEAT_NCCL_REVOKING:
        return stop->begun ? CLEAT_NCCL_POLL : CLEAT_NCCL_REVOKE;
    case CLEAT_NCCL_ABORTING:
        return stop->begun ? CLEAT_NCCL_NOTHING : CLEAT_NCCL_ABORT;
    case CLEAT_NCCL_DRAINING: return CLEAT_NCCL_DRAIN;
    default: return CLEAT_NCCL_NOTHING;
    }
}

enum cleat_status cleat_nccl_stop_next(struct cleat_nccl_stop *stop,
                                       uint64_t now_ns,
                                       struct cleat_nccl_stop_command *command)
{
    enum cleat_status status = begin(stop, now_ns);
    enum cleat_nccl_call call;

    NCCL_ASSERT(command != NULL);
    if (status != CLEAT_OK) { return status; }
    if (stop->inside != CLEAT_NCCL_NOTHING) { return CLEAT_NOT_FOUND; }
    call = wanted(stop);
    if (call == CLEAT_NCCL_NOTHING) { return CLEAT_NOT_FOUND; }
    if (call == CLEAT_NCCL_ABORT) {
        stop->reaping = true; /* T2 is its deadline */
        command->deadline_ns = stop->deadline_ns;
    } else {
        goes_in(stop, call);
        command->deadline_ns = stop->inside_ns;
    }
    stop->begun = stop->begun || call != CLEAT_NCCL_UNWIND;
    command->call = call;
    command->epoch = stop->epoch;
    NCCL_ASSERT(command->deadline_ns > now_ns);
    return CLEAT_OK;
}

/* ---- results ---- */

static void told_of_group(struct cleat_nccl_stop *stop,
                          enum cleat_status status)
{
    NCCL_ASSERT(!is_lost(stop));
    NCCL_ASSERT(status <= CLEAT_PENDING);
    switch (state_of(stop)) {
    case CLEAT_NCCL_BUILDING:
        if (status == CLEAT_OK) {
            go(stop, CLEAT_NCCL_HEALTHY, CLEAT_NEVER);
        } else if (status < CLEAT_OK) {
            stop_begins(stop, status, true);
        }
        break;
    case CLEAT_NCCL_HEALTHY:
        if (status < CLEAT_OK) { stop_begins(stop, status, true); }
        break;
    case CLEAT_NCCL_REVOKING:
        if (status < CLEAT_OK || (status == CLEAT_OK && stop->begun)) {
            go_aborting(stop);
        }
        break;
    default: break; /* it is being aborted whatever this says */
    }
}

static void told_unwound(struct cleat_nccl_stop *stop, uint32_t depth)
{
    NCCL_ASSERT(!is_lost(stop));
    NCCL_ASSERT(depth <= CLEAT_NCCL_UNWIND_MAX);
    stop->depth_leaked += depth;
    stop->unwind = false;
    /* No call on that thread would be made any more: they would be queued. */
    if (depth >= CLEAT_NCCL_UNWIND_MAX) { lost(stop, CLEAT_DEVICE_LOST); }
}

static void told_aborted(struct cleat_nccl_stop *stop, uint32_t depth)
{
    NCCL_ASSERT(state_of(stop) == CLEAT_NCCL_ABORTING);
    NCCL_ASSERT(stop->reaping);
    stop->reaping = false;
    stop->depth_leaked += depth;
    /* Whatever it returned: the communicators are gone. */
    go(stop, CLEAT_NCCL_DRAINING, stop->config.drain_ns);
}

static void told_drained(struct cleat_nccl_stop *stop, enum cleat_status status)
{
    NCCL_ASSERT(state_of(stop) == CLEAT_NCCL_DRAINING);
    NCCL_ASSERT(!stop->reaping);
    if (status == CLEAT_OK) {
        quiesces(stop);
    } else if (status < CLEAT_OK) {
        lost(stop, CLEAT_DEVICE_LOST);
    }
}

/* The call that is inside has come back. */
static void came_back(struct cleat_nccl_stop *stop, enum cleat_nccl_call call,
                      enum cleat_status status, uint32_t depth)
{
    NCCL_ASSERT(!is_lost(stop));
    NCCL_ASSERT(call != CLEAT_NCCL_NOTHING);
    if (call == CLEAT_NCCL_ABORT) {
        told_aborted(stop, depth);
        return;
    }
    stop->inside = CLEAT_NCCL_NOTHING;
    stop->inside_ns = CLEAT_NEVER;
    if (call == CLEAT_NCCL_UNWIND) {
        told_unwound(stop, depth);
    } else if (call == CLEAT_NCCL_DRAIN) {
        told_drained(stop, status); /* no call of NCCL's */
    } else {
        stop->unwind = status < CLEAT_OK;
        if (call != CLEAT_NCCL_ID) { told_of_group(stop, status); }
    }
}

enum cleat_status cleat_nccl_stop_told(struct cleat_nccl_stop *stop,
                                       uint64_t now_ns,
                                       enum cleat_nccl_call call,
                                       enum cleat_status status, uint32_t depth)
{
    NCCL_ASSERT(stop != NULL);
    NCCL_ASSERT(stop->late != UINT32_MAX);
    if (status > CLEAT_PENDING || depth > CLEAT_NCCL_UNWIND_MAX ||
        call == CLEAT_NCCL_NOTHING || call > CLEAT_NCCL_ID) {
        return CLEAT_INVALID;
    }
    if (!apply(stop, now_ns)) { return CLEAT_TIME_BACKWARDS; }
    if (is_lost(stop) ||
        (call == CLEAT_NCCL_ABORT ? !stop->reaping
                                  : stop->inside != (uint8_t)call)) {
        stop->late++;
        return CLEAT_OK;
    }
    if (status == CLEAT_DEVICE_LOST) {
        lost(stop, CLEAT_DEVICE_LOST);
    } else {
        came_back(stop, call, status, depth);
    }
    return CLEAT_OK;
}

const char *cleat_nccl_stop_state_name(enum cleat_nccl_stop_state state)
{
    static const char *const names[] = {"quiesced", "building", "healthy",
                                        "revoking", "aborting", "draining",
                                        "lost"};

    NCCL_ASSERT(sizeof names / sizeof names[0] == CLEAT_NCCL_LOST + 1);
    NCCL_ASSERT(names[CLEAT_NCCL_LOST][0] == 'l');
    return (unsigned)state <= CLEAT_NCCL_LOST ? names[state] : "unknown";
}
