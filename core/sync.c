/* Cleat: one weight update over all replicas. SPDX-License-Identifier:
 * Apache-2.0 */
#include "cleat/sync.h"

#include <string.h>

#include "assert.h"
#include "text.h"

enum { TO_NONE, TO_ENGINE = 1, TO_ALL = 3, TO_PORT = 4, TO_TRAINER = 2 };

#define BIT(step) ((uint16_t)(1u << (step)))
#define ATTEMPT_STEPS \
    (BIT(CLEAT_SYNC_PREPARE) | BIT(CLEAT_SYNC_GROUP) | BIT(CLEAT_SYNC_SEND))

#define NOT_OWED INT8_MAX /* an undo[] that was never sent */

#define STEP_TIMEOUT_DEFAULT_NS (UINT64_C(10) * CLEAT_NS_PER_S)
#define RETRY_DEFAULT_NS (UINT64_C(500) * CLEAT_NS_PER_MS)
#define ATTEMPTS_DEFAULT 3u
#define REPLICAS_MIN_DEFAULT 1u

/* A fence before anyone resumes, one for those that fail to resume, one for
 * all that are left when too few remain. */
#define FENCES_MAX 3u

/* ------------------------------------------------------------- the steps */

/* The steps of which something is true, a bit each. */
#define IDEMPOTENT(NAME, name, who, idempotent) \
    | (uint32_t)((idempotent) ? BIT(CLEAT_SYNC_##NAME) : 0)
#define TO_TRAINERS(NAME, name, who, idempotent) \
    | (uint32_t)((TO_##who & TO_TRAINER) != 0 ? BIT(CLEAT_SYNC_##NAME) : 0)
#define TO_ENGINES(NAME, name, who, idempotent) \
    | (uint32_t)((TO_##who & TO_ENGINE) != 0 ? BIT(CLEAT_SYNC_##NAME) : 0)
#define NAMES(NAME, name, who, idempotent) name "\0"

static bool is_among(uint32_t steps, enum cleat_sync_step step)
{
    CLEAT_ASSERT(steps != 0);
    CLEAT_ASSERT(steps >> CLEAT_SYNC_STEPS == 0);
    return (uint32_t)step < CLEAT_SYNC_STEPS && (steps >> step & 1u) != 0;
}

bool cleat_sync_step_idempotent(enum cleat_sync_step step)
{
    return is_among(0 CLEAT_SYNC_STEP_LIST(IDEMPOTENT), step);
}

bool cleat_sync_step_to_trainers(enum cleat_sync_step step)
{
    return is_among(0 CLEAT_SYNC_STEP_LIST(TO_TRAINERS), step);
}

bool cleat_sync_step_to_engines(enum cleat_sync_step step)
{
    return is_among(0 CLEAT_SYNC_STEP_LIST(TO_ENGINES), step);
}

/* Names in the order of their enums; what is out of range has the last, but
 * for an outcome, which then is not there yet. */
const char *cleat_sync_step_name(enum cleat_sync_step step)
{
    if ((uint32_t)step > CLEAT_SYNC_STEPS) { step = CLEAT_SYNC_STEPS; }
    return cleat_text_at(CLEAT_SYNC_STEP_LIST(NAMES) "rest", step);
}

const char *cleat_sync_outcome_name(enum cleat_sync_outcome outcome)
{
    CLEAT_ASSERT(CLEAT_SYNC_NOT_YET == 0 && CLEAT_SYNC_RESTART == 4);
    if ((uint32_t)outcome > CLEAT_SYNC_RESTART) {
        outcome = CLEAT_SYNC_NOT_YET;
    }
    return cleat_text_at("NOT_YET\0COMMITTED\0DEGRADED\0ROLLED_BACK\0RESTART",
                         outcome);
}

const char *cleat_sync_replica_state_name(enum cleat_sync_replica_state state)
{
    CLEAT_ASSERT(CLEAT_SYNC_SERVING == 0 && CLEAT_SYNC_UNFENCED == 5);
    if ((uint32_t)state > CLEAT_SYNC_UNFENCED) { state = CLEAT_SYNC_UNFENCED; }
    return cleat_text_at("serving\0active\0failed\0quarantined\0dead\0unfenced",
                         state);
}

#undef IDEMPOTENT
#undef TO_TRAINERS
#undef TO_ENGINES
#undef NAMES

/* ------------------------------------------------------------- the block */

static uint32_t members_count(const struct cleat_sync_config *config)
{
    CLEAT_ASSERT(config != NULL);
    return config->trainers + config->replicas * config->workers;
}

static struct cleat_sync_member *member_at(struct cleat_sync *sync, uint32_t i)
{
    CLEAT_ASSERT(i < sync->members_count);
    return (struct cleat_sync_member *)(void *)(sync + 1) + i;
}

static struct cleat_sync_replica *replica_at(struct cleat_sync *sync,
                                             uint32_t r)
{
    void *end = (struct cleat_sync_member *)(void *)(sync + 1) +
                sync->members_count;

    CLEAT_ASSERT(sync->config.workers >= 1);
    CLEAT_ASSERT(r < sync->config.replicas);
    return (struct cleat_sync_replica *)end + r;
}

/* The replica of an engine's member; NULL for a trainer. */
static struct cleat_sync_replica *replica_of(struct cleat_sync *sync,
                                             uint32_t member)
{
    uint32_t r = cleat_sync_replica_of(&sync->config, member);

    CLEAT_ASSERT(member < sync->members_count);
    CLEAT_ASSERT(r == CLEAT_SYNC_NOBODY || r < sync->config.replicas);
    return r == CLEAT_SYNC_NOBODY ? NULL : replica_at(sync, r);
}

static uint32_t replicas_in(struct cleat_sync *sync,
                            enum cleat_sync_replica_state state)
{
    uint32_t count = 0;

    for (uint32_t r = 0; r < sync->config.replicas; r++) {
        count += replica_at(sync, r)->state == state ? 1u : 0u;
    }
    CLEAT_ASSERT(count <= sync->config.replicas);
    return count;
}

static bool counts_in_range(const struct cleat_sync_config *config)
{
    return config->trainers >= 1 && config->replicas >= 1 &&
           config->workers >= 1 &&
           config->trainers <= CLEAT_SYNC_TRAINERS_MAX &&
           config->replicas <= CLEAT_SYNC_REPLICAS_MAX &&
           config->workers <= CLEAT_SYNC_WORKERS_MAX &&
           members_count(config) <= CLEAT_SYNC_MEMBERS_MAX;
}

size_t cleat_sync_bytes(const struct cleat_sync_config *config)
{
    CLEAT_ASSERT(config != NULL);
    if (!counts_in_range(config)) { return 0; }
    return CLEAT_SYNC_BYTES(config->trainers, config->replicas,
                            config->workers);
}

static uint64_t step_ns(const struct cleat_sync_config *config,
                        enum cleat_sync_step step)
{
    CLEAT_ASSERT(step > CLEAT_SYNC_START);
    CLEAT_ASSERT(step < CLEAT_SYNC_STEPS);
    if (config->step_ns[step] != 0) { return config->step_ns[step]; }
    if (config->step_timeout_ns != 0) { return config->step_timeout_ns; }
    return STEP_TIMEOUT_DEFAULT_NS;
}

static uint32_t attempts_max(const struct cleat_sync_config *config)
{
    CLEAT_ASSERT(config != NULL);
    return config->attempts_max == 0 ? ATTEMPTS_DEFAULT : config->attempts_max;
}

static uint32_t replicas_min(const struct cleat_sync_config *config)
{
    CLEAT_ASSERT(config != NULL);
    return config->replicas_min == 0 ? REPLICAS_MIN_DEFAULT
                                     : config->replicas_min;
}

static uint64_t times(uint64_t count, uint64_t ns)
{
    return ns != 0 && count > CLEAT_NEVER / ns ? CLEAT_NEVER : count * ns;
}

uint64_t cleat_sync_bound_ns(const struct cleat_sync_config *config)
{
    uint64_t bound = 0;

    CLEAT_ASSERT(config != NULL);
    for (unsigned s = CLEAT_SYNC_PAUSE; s < CLEAT_SYNC_STEPS; s++) {
        uint64_t ns = step_ns(config, (enum cleat_sync_step)s);
        uint64_t count = 1;

        if ((BIT(s) & ATTEMPT_STEPS) != 0 || s == CLEAT_SYNC_FINALIZE) {
            count = attempts_max(config); /* each attempt is finalized once */
        } else if (s == CLEAT_SYNC_FENCE || s == CLEAT_SYNC_EXPEL) {
            count = FENCES_MAX;
        }
        bound = cleat_time_add(bound, times(count, ns));
    }
    CLEAT_ASSERT(bound > 0);
    return bound;
}

/* True where two facts meet; at the entry and the exit of every event. */
static void check(const struct cleat_sync *sync)
{
    bool rests = sync->step == CLEAT_SYNC_STEPS;

    CLEAT_ASSERT(sync->step > CLEAT_SYNC_START);
    CLEAT_ASSERT(sync->step <= CLEAT_SYNC_STEPS);
    CLEAT_ASSERT(sync->awaited_count <= sync->members_count);
    CLEAT_ASSERT(sync->scan <= sync->members_count);
    CLEAT_ASSERT(sync->attempt <= attempts_max(&sync->config));
    CLEAT_ASSERT(!rests || sync->awaited_count == 0);
    CLEAT_ASSERT(!rests || sync->deadline_ns == CLEAT_NEVER);
    CLEAT_ASSERT(rests || sync->awaited_count > 0);
    CLEAT_ASSERT(rests || sync->outcome == CLEAT_SYNC_NOT_YET);
    CLEAT_ASSERT(!sync->committing || sync->attempt > 0);
    CLEAT_ASSERT(!sync->committing || !sync->cancelled);
    CLEAT_ASSERT(!sync->committing || !sync->attempt_failed);
    CLEAT_ASSERT(sync->step != CLEAT_SYNC_COMMIT || sync->committing);
    CLEAT_ASSERT(!sync->doomed || sync->step == CLEAT_SYNC_FENCE ||
                 sync->step == CLEAT_SYNC_EXPEL || rests);
    CLEAT_ASSERT(sync->outcome != CLEAT_SYNC_RESTART || sync->doomed);
    CLEAT_ASSERT(sync->outcome != CLEAT_SYNC_ROLLED_BACK || !sync->committing);
    (void)rests;
}

enum cleat_status cleat_sync_init(void *block, size_t bytes,
                                  const struct cleat_sync_config *config,
                                  struct cleat_sync **out,
                                  struct cleat_error *error)
{
    size_t needed;
    struct cleat_sync *sync = block;

    CLEAT_ASSERT(block != NULL && config != NULL && out != NULL);
    CLEAT_ASSERT((uintptr_t)block % sizeof(uint64_t) == 0);
    *out = NULL;
    needed = cleat_sync_bytes(config);
    if (needed == 0) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, 2, 0,
                            "sync: trainers, replicas and workers must each "
                            "be 1 or more, and 4096 members at most");
    }
    if (replicas_min(config) > config->replicas) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, 2, 0,
                            "sync: replicas_min is above the number of "
                            "replicas");
    }
    if (bytes < needed) {
        return CLEAT_REFUSE(error, CLEAT_TOO_SMALL, 1, needed,
                            "sync: the block is too small");
    }
    memset(block, 0, needed);
    sync->config = *config;
    sync->members_count = members_count(config);
    sync->step = CLEAT_SYNC_STEPS;
    sync->deadline_ns = CLEAT_NEVER;
    for (uint32_t i = 0; i < members_count(config); i++) {
        member_at(sync, i)->resend_ns = CLEAT_NEVER;
        memset(member_at(sync, i)->undo, NOT_OWED, sizeof(int8_t[3]));
    }
    check(sync);
    CLEAT_ASSERT(replicas_in(sync, CLEAT_SYNC_SERVING) == config->replicas);
    *out = sync;
    return CLEAT_OK;
}

/* ------------------------------------------------------- what went wrong */

static void record(struct cleat_sync *sync, uint32_t member,
                   enum cleat_status status)
{
    CLEAT_ASSERT(status < CLEAT_OK);
    CLEAT_ASSERT(sync->step < CLEAT_SYNC_STEPS);
    if (sync->errors_count < CLEAT_SYNC_ERRORS_MAX) {
        struct cleat_sync_error *error = &sync->errors[sync->errors_count];

        error->step = sync->step;
        error->member = member;
        error->status = status;
        error->attempt = sync->attempt;
    }
    if (sync->errors_count < UINT32_MAX) { sync->errors_count++; }
    CLEAT_ASSERT(sync->errors_count > 0);
}

/* The slot of undo[] that a step fills; NULL for a step that undoes nothing. */
static int8_t *undo_of(struct cleat_sync_member *m, enum cleat_sync_step step)
{
    CLEAT_ASSERT(m != NULL);
    CLEAT_ASSERT(step <= CLEAT_SYNC_STEPS);
    switch (step) {
    case CLEAT_SYNC_FINALIZE: return &m->undo[0];
    case CLEAT_SYNC_RESTORE: return &m->undo[1];
    case CLEAT_SYNC_RESUME: return &m->undo[2];
    default: return NULL;
    }
}

static void stop_awaiting(struct cleat_sync *sync, struct cleat_sync_member *m)
{
    if (!m->awaited) { return; }
    CLEAT_ASSERT(sync->awaited_count > 0);
    CLEAT_ASSERT(sync->awaited_count <= sync->members_count);
    m->awaited = false;
    m->resend_ns = CLEAT_NEVER;
    sync->awaited_count--;
}

/* The present step is over for a member: it did it, or failed it for good. */
static void conclude_member(struct cleat_sync *sync,
                            struct cleat_sync_member *m,
                            enum cleat_status status)
{
    int8_t *undo = undo_of(m, sync->step);

    CLEAT_ASSERT(status <= CLEAT_OK);
    CLEAT_ASSERT(sync->step < CLEAT_SYNC_STEPS);
    stop_awaiting(sync, m);
    if (undo != NULL) { *undo = (int8_t)status; }
    if (sync->step == CLEAT_SYNC_FINALIZE) {
        m->sent &= (uint16_t)~ATTEMPT_STEPS;
    }
}

/* A replica leaves the update: nothing more is expected of its workers in a
 * step in which only whole replicas count. */
static void fail_replica(struct cleat_sync *sync, uint32_t replica)
{
    struct cleat_sync_replica *r = replica_at(sync, replica);
    bool each = sync->step != CLEAT_SYNC_FINALIZE &&
                sync->step != CLEAT_SYNC_FENCE &&
                sync->step != CLEAT_SYNC_EXPEL;

    CLEAT_ASSERT(sync->outcome == CLEAT_SYNC_NOT_YET);
    if (r->state != CLEAT_SYNC_ACTIVE) { return; }
    CLEAT_ASSERT(!sync->doomed);
    r->state = CLEAT_SYNC_FAILED;
    for (uint32_t w = 0; each && w < sync->config.workers; w++) {
        stop_awaiting(sync, member_at(sync, cleat_sync_member_number(
                                                &sync->config, replica, w)));
    }
}

/* A member is out of the attempts for good: its replica, or all of them. */
static void fail_for_good(struct cleat_sync *sync, uint32_t member)
{
    uint32_t replica = cleat_sync_replica_of(&sync->config, member);

    CLEAT_ASSERT(member < sync->members_count);
    CLEAT_ASSERT(sync->outcome == CLEAT_SYNC_NOT_YET);
    if (replica == CLEAT_SYNC_NOBODY) {
        /* Nobody asks for it after commit: nothing hangs on the trainer then.
         */
        sync->trainer_failed = true;
    } else {
        fail_replica(sync, replica);
    }
}

/* An awaited member has failed the present step. */
static void fail_awaited(struct cleat_sync *sync, uint32_t member,
                         enum cleat_status status)
{
    struct cleat_sync_member *m = member_at(sync, member);

    CLEAT_ASSERT(m->awaited);
    CLEAT_ASSERT(status < CLEAT_OK);
    conclude_member(sync, m, status);
    if ((BIT(sync->step) & ATTEMPT_STEPS) != 0) {
        sync->attempt_failed = true;
        if (m->lost || cleat_status_class(status) == CLEAT_CLASS_PERMANENT) {
            m->never = true;
            fail_for_good(sync, member);
        }
    } else if (sync->step == CLEAT_SYNC_FENCE) {
        CLEAT_ASSERT(member >= sync->config.trainers);
        m->expel = true;
    } else if (sync->step != CLEAT_SYNC_EXPEL) {
        fail_for_good(sync, member);
    }
    /* An expel that fails leaves `expel` set: that is what unfenced means. */
}

/* A replica is lost while others are being fenced. It is fenced with them,
 * within the time that is left, so that the bound holds: its workers are asked
 * too, and those that cannot be asked any more are expelled. */
static void join_fencing(struct cleat_sync *sync, uint32_t replica)
{
    struct cleat_sync_replica *r = replica_at(sync, replica);

    CLEAT_ASSERT(sync->step == CLEAT_SYNC_FENCE ||
                 sync->step == CLEAT_SYNC_EXPEL);
    if (r->state != CLEAT_SYNC_ACTIVE) { return; }
    r->state = CLEAT_SYNC_FAILED;
    for (uint32_t w = 0; w < sync->config.workers; w++) {
        struct cleat_sync_member *m = member_at(
            sync, cleat_sync_member_number(&sync->config, replica, w));

        CLEAT_ASSERT(!m->awaited);
        m->expel = m->lost || sync->step == CLEAT_SYNC_EXPEL;
        if (m->expel && sync->step == CLEAT_SYNC_FENCE) { continue; }
        m->awaited = true;
        m->answer = 0;
        m->resend_ns = sync->now_ns;
        sync->awaited_count++;
    }
}

/* -------------------------------------------------------- from step to step */

/* Who gets the present step's command. */
static bool applies(struct cleat_sync *sync, uint32_t member)
{
    const struct cleat_sync_member *m = member_at(sync, member);
    const struct cleat_sync_replica *r = replica_of(sync, member);
    bool active = r == NULL || r->state == CLEAT_SYNC_ACTIVE;

    CLEAT_ASSERT(sync->step < CLEAT_SYNC_STEPS);
    CLEAT_ASSERT(r != NULL || !m->expel);
    switch (sync->step) {
    case CLEAT_SYNC_PAUSE:
    case CLEAT_SYNC_RELEASE:
    case CLEAT_SYNC_COMMIT: return r != NULL && active;
    case CLEAT_SYNC_PREPARE:
    case CLEAT_SYNC_GROUP:
    case CLEAT_SYNC_SEND: return active;
    case CLEAT_SYNC_FINALIZE: return (m->sent & ATTEMPT_STEPS) != 0;
    case CLEAT_SYNC_FENCE: return r != NULL && r->state == CLEAT_SYNC_FAILED;
    case CLEAT_SYNC_EXPEL: return m->expel;
    case CLEAT_SYNC_RESTORE:
        return active && (m->sent & BIT(CLEAT_SYNC_RELEASE)) != 0;
    case CLEAT_SYNC_RESUME:
        return active && (m->sent & BIT(CLEAT_SYNC_PAUSE)) != 0;
    default: return false;
    }
}

static void enter(struct cleat_sync *sync, enum cleat_sync_step step)
{
    CLEAT_ASSERT(step > CLEAT_SYNC_START && step < CLEAT_SYNC_STEPS);
    CLEAT_ASSERT(step != CLEAT_SYNC_COMMIT || !sync->cancelled);
    CLEAT_ASSERT(step != CLEAT_SYNC_COMMIT || !sync->attempt_failed);
    CLEAT_ASSERT(step != CLEAT_SYNC_RESUME || !sync->undone);
    CLEAT_ASSERT(sync->outcome == CLEAT_SYNC_NOT_YET);
    sync->step = step;
    sync->deadline_ns = cleat_time_add(sync->now_ns,
                                       step_ns(&sync->config, step));
    sync->awaited_count = 0;
    sync->scan = 0;
    if (step == CLEAT_SYNC_COMMIT) { sync->committing = true; }
    for (uint32_t i = 0; i < sync->members_count; i++) {
        struct cleat_sync_member *m = member_at(sync, i);

        m->awaited = applies(sync, i);
        m->answer = 0;
        m->resend_ns = m->awaited ? sync->now_ns : CLEAT_NEVER;
        sync->awaited_count += m->awaited ? 1u : 0u;
    }
    /* Only the port can answer for a process whose channel is gone. Its loss
     * has been recorded already. */
    for (uint32_t i = 0; step != CLEAT_SYNC_EXPEL && i < sync->members_count;
         i++) {
        const struct cleat_sync_member *m = member_at(sync, i);

        if (m->lost && m->awaited) { fail_awaited(sync, i, CLEAT_PEER_LOST); }
    }
}

static bool can_go_on(struct cleat_sync *sync)
{
    CLEAT_ASSERT(!sync->committing);
    CLEAT_ASSERT(!sync->doomed);
    return !sync->cancelled && !sync->trainer_failed &&
           replicas_in(sync, CLEAT_SYNC_ACTIVE) >= replicas_min(&sync->config);
}

/* A pair {term, epoch} that was never used before. */
static void raise_epoch(struct cleat_sync *sync)
{
    CLEAT_ASSERT(sync->term_seen < UINT64_MAX);
    if (sync->term <= sync->term_seen) {
        sync->term = sync->term_seen + 1;
        sync->epoch = 0;
    }
    sync->epoch++;
    if (sync->epoch == 0) { sync->term++; }
    CLEAT_ASSERT(sync->term > sync->term_seen);
    CLEAT_ASSERT(sync->term > 0);
}

static void begin_attempt(struct cleat_sync *sync)
{
    CLEAT_ASSERT(sync->attempt < attempts_max(&sync->config));
    CLEAT_ASSERT(!sync->committing);
    CLEAT_ASSERT(can_go_on(sync));
    sync->attempt++;
    raise_epoch(sync);
    sync->attempt_failed = false;
    enter(sync, CLEAT_SYNC_PREPARE);
}

static bool holds(struct cleat_sync *sync, uint32_t replica, uint64_t version)
{
    bool all = true;

    CLEAT_ASSERT(replica < sync->config.replicas);
    CLEAT_ASSERT(sync->config.workers >= 1);
    for (uint32_t w = 0; w < sync->config.workers; w++) {
        const struct cleat_sync_member *m = member_at(
            sync, cleat_sync_member_number(&sync->config, replica, w));

        all = all && m->holding == CLEAT_SYNC_WHOLE && m->version == version;
    }
    return all;
}

/* There will be no commit: whoever does not hold the old version for certain,
 * or has been fenced since it did, must not serve. */
static void give_up(struct cleat_sync *sync)
{
    CLEAT_ASSERT(!sync->committing);
    CLEAT_ASSERT(!sync->doomed);
    CLEAT_ASSERT(!sync->undone);
    for (uint32_t r = 0; r < sync->config.replicas; r++) {
        if (replica_at(sync, r)->fenced ||
            !holds(sync, r, sync->request.version_old)) {
            if (replica_at(sync, r)->state == CLEAT_SYNC_ACTIVE) {
                replica_at(sync, r)->state = CLEAT_SYNC_FAILED;
            }
        }
    }
    enter(sync, CLEAT_SYNC_FENCE);
}

/* Everyone has sent or received everything; did they see the same bytes? */
static void compare_digests(struct cleat_sync *sync)
{
    uint32_t sent = member_at(sync, 0)->digest;

    CLEAT_ASSERT(sync->step == CLEAT_SYNC_SEND);
    CLEAT_ASSERT(sync->awaited_count == 0);
    for (uint32_t i = sync->config.trainers; i < sync->members_count; i++) {
        uint32_t received = member_at(sync, i)->digest;

        if (replica_of(sync, i)->state != CLEAT_SYNC_ACTIVE || sent == 0 ||
            received == 0 || received == sent) {
            continue;
        }
        record(sync, i, CLEAT_CORRUPT);
        sync->attempt_failed = true;
    }
}

/* Fencing is over: each failed replica is quarantined, dead or unfenced. */
static void settle_failed(struct cleat_sync *sync)
{
    for (uint32_t r = 0; r < sync->config.replicas; r++) {
        struct cleat_sync_replica *replica = replica_at(sync, r);
        bool dead = false;
        bool unfenced = false;

        if (replica->state != CLEAT_SYNC_FAILED &&
            replica->state != CLEAT_SYNC_UNFENCED) {
            continue;
        }
        for (uint32_t w = 0; w < sync->config.workers; w++) {
            const struct cleat_sync_member *m = member_at(
                sync, cleat_sync_member_number(&sync->config, r, w));

            /* A member that was expelled is lost from then on. */
            dead = dead || m->lost;
            unfenced = unfenced || m->expel;
        }
        CLEAT_ASSERT(!unfenced || sync->step == CLEAT_SYNC_EXPEL);
        replica->fenced = true;
        replica->state = unfenced ? CLEAT_SYNC_UNFENCED
                         : dead   ? CLEAT_SYNC_DEAD
                                  : CLEAT_SYNC_QUARANTINED;
    }
    CLEAT_ASSERT(replicas_in(sync, CLEAT_SYNC_FAILED) == 0);
}

static void rest(struct cleat_sync *sync)
{
    uint32_t serving = 0;

    CLEAT_ASSERT(sync->outcome == CLEAT_SYNC_NOT_YET);
    CLEAT_ASSERT(sync->doomed || sync->undone);
    CLEAT_ASSERT(replicas_in(sync, CLEAT_SYNC_FAILED) == 0);
    for (uint32_t r = 0; r < sync->config.replicas; r++) {
        if (replica_at(sync, r)->state == CLEAT_SYNC_ACTIVE) {
            CLEAT_ASSERT(!replica_at(sync, r)->fenced);
            CLEAT_ASSERT(holds(sync, r,
                               sync->committing ? sync->request.version
                                                : sync->request.version_old));
            replica_at(sync, r)->state = CLEAT_SYNC_SERVING;
            serving++;
        }
    }
    sync->step = CLEAT_SYNC_STEPS;
    sync->deadline_ns = CLEAT_NEVER;
    if (sync->doomed) {
        CLEAT_ASSERT(serving == 0);
        sync->outcome = CLEAT_SYNC_RESTART;
    } else if (!sync->committing) {
        sync->outcome = CLEAT_SYNC_ROLLED_BACK;
    } else if (serving == sync->config.replicas) {
        sync->outcome = CLEAT_SYNC_COMMITTED;
    } else {
        sync->outcome = CLEAT_SYNC_DEGRADED;
    }
    CLEAT_ASSERT(sync->doomed || serving >= replicas_min(&sync->config));
    CLEAT_ASSERT(sync->awaited_count == 0);
}

static void doom(struct cleat_sync *sync)
{
    CLEAT_ASSERT(!sync->doomed);
    CLEAT_ASSERT(sync->step == CLEAT_SYNC_EXPEL);
    sync->doomed = true;
    for (uint32_t r = 0; r < sync->config.replicas; r++) {
        if (replica_at(sync, r)->state == CLEAT_SYNC_ACTIVE) {
            replica_at(sync, r)->state = CLEAT_SYNC_FAILED;
        }
    }
    enter(sync, CLEAT_SYNC_FENCE);
}

/* Everyone who must not serve is set apart. What now? */
static void after_fencing(struct cleat_sync *sync)
{
    bool failed;

    CLEAT_ASSERT(sync->step == CLEAT_SYNC_EXPEL);
    CLEAT_ASSERT(sync->awaited_count == 0);
    settle_failed(sync);
    failed = replicas_in(sync, CLEAT_SYNC_UNFENCED) > 0 ||
             replicas_in(sync, CLEAT_SYNC_ACTIVE) < replicas_min(&sync->config);
    if (failed && !sync->doomed) {
        doom(sync);
    } else if (sync->doomed || sync->undone) {
        rest(sync);
    } else {
        enter(sync, CLEAT_SYNC_RESTORE);
    }
}

static void leave_commit(struct cleat_sync *sync)
{
    CLEAT_ASSERT(sync->committing);
    CLEAT_ASSERT(sync->awaited_count == 0);
    /* A commit opens admission again, once resumed. */
    for (uint32_t r = 0; r < sync->config.replicas; r++) {
        if (replica_at(sync, r)->state == CLEAT_SYNC_ACTIVE) {
            CLEAT_ASSERT(holds(sync, r, sync->request.version));
            replica_at(sync, r)->fenced = false;
        }
    }
    enter(sync, CLEAT_SYNC_FINALIZE);
}

static void leave_finalize(struct cleat_sync *sync)
{
    CLEAT_ASSERT(sync->awaited_count == 0);
    CLEAT_ASSERT(sync->committing != sync->attempt_failed);
    if (sync->committing) {
        enter(sync, CLEAT_SYNC_FENCE);
    } else if (can_go_on(sync) && sync->attempt < attempts_max(&sync->config)) {
        begin_attempt(sync);
    } else {
        give_up(sync);
    }
}

static void leave_attempt_step(struct cleat_sync *sync)
{
    CLEAT_ASSERT((BIT(sync->step) & ATTEMPT_STEPS) != 0);
    CLEAT_ASSERT(sync->attempt_failed || sync->awaited_count == 0);
    if (sync->step == CLEAT_SYNC_SEND && !sync->attempt_failed) {
        compare_digests(sync);
    }
    if (sync->attempt_failed) {
        enter(sync, CLEAT_SYNC_FINALIZE);
    } else if (sync->step == CLEAT_SYNC_SEND) {
        enter(sync, CLEAT_SYNC_COMMIT);
    } else {
        enter(sync, sync->step + 1u);
    }
}

static void leave(struct cleat_sync *sync)
{
    CLEAT_ASSERT(sync->step > CLEAT_SYNC_START);
    CLEAT_ASSERT(sync->step < CLEAT_SYNC_STEPS);
    switch (sync->step) {
    case CLEAT_SYNC_PAUSE:
        if (can_go_on(sync)) {
            enter(sync, CLEAT_SYNC_RELEASE);
        } else {
            give_up(sync);
        }
        break;
    case CLEAT_SYNC_RELEASE:
        if (can_go_on(sync)) {
            begin_attempt(sync);
        } else {
            give_up(sync);
        }
        break;
    case CLEAT_SYNC_PREPARE:
    case CLEAT_SYNC_GROUP:
    case CLEAT_SYNC_SEND: leave_attempt_step(sync); break;
    case CLEAT_SYNC_COMMIT: leave_commit(sync); break;
    case CLEAT_SYNC_FINALIZE: leave_finalize(sync); break;
    case CLEAT_SYNC_FENCE: enter(sync, CLEAT_SYNC_EXPEL); break;
    case CLEAT_SYNC_EXPEL: after_fencing(sync); break;
    case CLEAT_SYNC_RESTORE:
        if (replicas_in(sync, CLEAT_SYNC_ACTIVE) <
            replicas_min(&sync->config)) {
            sync->undone = true;
            enter(sync, CLEAT_SYNC_FENCE);
        } else {
            enter(sync, CLEAT_SYNC_RESUME);
        }
        break;
    case CLEAT_SYNC_RESUME:
        sync->undone = true;
        enter(sync, CLEAT_SYNC_FENCE);
        break;
    default: CLEAT_ASSERT(false); break;
    }
}

/* A step is over when all have answered, and sooner when going on with it can
 * serve nobody. */
static bool step_is_over(struct cleat_sync *sync)
{
    CLEAT_ASSERT(sync->step < CLEAT_SYNC_STEPS);
    CLEAT_ASSERT(sync->awaited_count <= sync->members_count);
    if (sync->awaited_count == 0) { return true; }
    if ((BIT(sync->step) & ATTEMPT_STEPS) != 0) { return sync->attempt_failed; }
    if (sync->step == CLEAT_SYNC_PAUSE || sync->step == CLEAT_SYNC_RELEASE) {
        return !can_go_on(sync);
    }
    return false;
}

/* Goes on for as long as steps end. Every way from one step to the next leads
 * towards rest, and an attempt awaits at least one trainer, so that the bound
 * below is far away. */
static void settle(struct cleat_sync *sync)
{
    uint32_t left = 8u * CLEAT_SYNC_STEPS;

    while (sync->step < CLEAT_SYNC_STEPS && step_is_over(sync)) {
        CLEAT_ASSERT(left > 0);
        if (left-- == 0) { return; }
        leave(sync);
    }
    check(sync);
}

/* Time has come to now_ns: the deadline that is not after it has passed. The
 * step that follows begins now, so one call applies one deadline. */
static enum cleat_status advance(struct cleat_sync *sync, uint64_t now_ns)
{
    check(sync);
    if (now_ns < sync->now_ns) { return CLEAT_TIME_BACKWARDS; }
    sync->now_ns = now_ns;
    sync->scan = 0;
    if (sync->step == CLEAT_SYNC_STEPS || now_ns < sync->deadline_ns) {
        return CLEAT_OK;
    }
    for (uint32_t i = 0; i < sync->members_count; i++) {
        struct cleat_sync_member *m = member_at(sync, i);
        enum cleat_status status = (enum cleat_status)m->answer;

        if (!m->awaited) { continue; }
        if (status == CLEAT_OK) {
            status = sync->step == CLEAT_SYNC_EXPEL ? CLEAT_PEER_UNFENCED
                                                    : CLEAT_PEER_SILENT;
            record(sync, i, status);
        }
        fail_awaited(sync, i, status);
    }
    CLEAT_ASSERT(sync->awaited_count == 0);
    settle(sync);
    return CLEAT_OK;
}

/* ----------------------------------------------------------------- calls */

static bool is_holding(enum cleat_sync_holding holding)
{
    return (uint32_t)holding <= CLEAT_SYNC_TORN;
}

enum cleat_status cleat_sync_hello(struct cleat_sync *sync, uint32_t member,
                                   uint64_t term_seen,
                                   enum cleat_sync_holding holding,
                                   uint64_t version)
{
    struct cleat_sync_member *m;
    struct cleat_sync_replica *r;
    bool whole = true;

    CLEAT_ASSERT(sync != NULL);
    if (member >= sync->members_count || term_seen == UINT64_MAX ||
        !is_holding(holding)) {
        return CLEAT_INVALID;
    }
    if (sync->step != CLEAT_SYNC_STEPS) { return CLEAT_STATE; }
    m = member_at(sync, member);
    r = replica_of(sync, member);
    m->lost = false;
    m->holding = (uint8_t)holding;
    m->version = version;
    if (term_seen > sync->term_seen) { sync->term_seen = term_seen; }
    for (uint32_t w = 0; r != NULL && w < sync->config.workers; w++) {
        uint32_t first = member - (member - sync->config.trainers) %
                                      sync->config.workers;

        whole = whole && !member_at(sync, first + w)->lost;
    }
    /* A new process in a dead one's place serves from its first commit on. */
    if (r != NULL && whole && r->state == CLEAT_SYNC_DEAD) {
        r->state = CLEAT_SYNC_QUARANTINED;
    }
    CLEAT_ASSERT(sync->term_seen >= term_seen);
    check(sync);
    return CLEAT_OK;
}

static void begin_members(struct cleat_sync *sync)
{
    for (uint32_t i = 0; i < sync->members_count; i++) {
        struct cleat_sync_member *m = member_at(sync, i);
        struct cleat_sync_replica *r = replica_of(sync, i);

        m->sent = 0;
        /* Whatever could not be expelled has ended in RESTART. */
        CLEAT_ASSERT(!m->expel);
        m->never = false;
        memset(m->undo, NOT_OWED, sizeof m->undo);
        if (r != NULL && r->state == CLEAT_SYNC_DEAD) { continue; }
        if (r != NULL && r->state != CLEAT_SYNC_FAILED) {
            r->state = CLEAT_SYNC_ACTIVE;
        }
        if (m->lost) {
            record(sync, i, CLEAT_PEER_LOST);
            fail_for_good(sync, i);
        }
    }
}

enum cleat_status cleat_sync_begin(struct cleat_sync *sync, uint64_t now_ns,
                                   const struct cleat_sync_request *request)
{
    CLEAT_ASSERT(sync != NULL && request != NULL);
    if (sync->step != CLEAT_SYNC_STEPS || sync->doomed) { return CLEAT_STATE; }
    if (request->version == request->version_old) { return CLEAT_INVALID; }
    if (now_ns < sync->now_ns) { return CLEAT_TIME_BACKWARDS; }
    sync->now_ns = now_ns;
    sync->request = *request;
    sync->outcome = CLEAT_SYNC_NOT_YET;
    sync->attempt = 0;
    sync->errors_count = 0;
    sync->attempt_failed = false;
    sync->trainer_failed = false;
    sync->cancelled = false;
    sync->committing = false;
    sync->undone = false;
    raise_epoch(sync);
    sync->step = CLEAT_SYNC_PAUSE;
    begin_members(sync);
    CLEAT_ASSERT(replicas_in(sync, CLEAT_SYNC_SERVING) == 0);
    enter(sync, CLEAT_SYNC_PAUSE);
    settle(sync);
    return CLEAT_OK;
}

enum cleat_status cleat_sync_next(struct cleat_sync *sync,
                                  struct cleat_sync_command *command)
{
    CLEAT_ASSERT(sync != NULL && command != NULL);
    for (uint32_t i = sync->scan;
         sync->awaited_count > 0 && i < sync->members_count; i++) {
        struct cleat_sync_member *m = member_at(sync, i);
        int8_t *undo = undo_of(m, sync->step);
        bool again = cleat_sync_step_idempotent(sync->step) &&
                     sync->config.retry_ns != CLEAT_NONE;

        if (!m->awaited || m->resend_ns > sync->now_ns ||
            m->resend_ns == CLEAT_NEVER) {
            continue;
        }
        CLEAT_ASSERT(!m->lost || sync->step == CLEAT_SYNC_EXPEL);
        command->step = sync->step;
        command->member = i;
        command->attempt = sync->attempt;
        command->receivers_count = replicas_in(sync, CLEAT_SYNC_ACTIVE) *
                                   sync->config.workers;
        command->term = sync->term;
        command->epoch = sync->epoch;
        command->version = sync->request.version;
        command->deadline_ns = sync->deadline_ns;
        m->sent |= BIT(sync->step);
        if (undo != NULL) { *undo = CLEAT_PENDING; }
        m->resend_ns = again ? cleat_time_add(sync->now_ns,
                                              sync->config.retry_ns == 0
                                                  ? RETRY_DEFAULT_NS
                                                  : sync->config.retry_ns)
                             : CLEAT_NEVER;
        sync->scan = i + 1;
        return CLEAT_OK;
    }
    sync->scan = 0;
    return CLEAT_NOT_FOUND;
}

uint64_t cleat_sync_deadline(const struct cleat_sync *sync)
{
    const struct cleat_sync_member *m;
    uint64_t first;

    check(sync);
    first = sync->deadline_ns;
    m = (const struct cleat_sync_member *)(const void *)(sync + 1);
    for (uint32_t i = 0;
         sync->step != CLEAT_SYNC_STEPS && i < sync->members_count; i++) {
        if (m[i].awaited && m[i].resend_ns < first) { first = m[i].resend_ns; }
    }
    CLEAT_ASSERT(sync->step != CLEAT_SYNC_STEPS || first == CLEAT_NEVER);
    CLEAT_ASSERT(first <= sync->deadline_ns);
    return first;
}

enum cleat_status cleat_sync_tick(struct cleat_sync *sync, uint64_t now_ns)
{
    CLEAT_ASSERT(sync != NULL);
    CLEAT_ASSERT(sync->step <= CLEAT_SYNC_STEPS);
    return advance(sync, now_ns);
}

/* During finalize the answer to the step that was cut short may still come,
 * and say that the member will never do it. */
static bool says_never(const struct cleat_sync *sync,
                       const struct cleat_sync_answer *answer)
{
    const struct cleat_sync_member *m =
        (const struct cleat_sync_member *)(const void *)(sync + 1) +
        answer->member;

    CLEAT_ASSERT(answer->member < sync->members_count);
    CLEAT_ASSERT(answer->step < CLEAT_SYNC_STEPS);
    return sync->step == CLEAT_SYNC_FINALIZE && !sync->committing &&
           !m->never && (BIT(answer->step) & ATTEMPT_STEPS) != 0 &&
           answer->status < CLEAT_OK &&
           cleat_status_class(answer->status) == CLEAT_CLASS_PERMANENT;
}

/* The awaited answer of a member: what it holds, and whether it is done. */
static void take_answer(struct cleat_sync *sync,
                        const struct cleat_sync_answer *answer)
{
    struct cleat_sync_member *m = member_at(sync, answer->member);
    enum cleat_status status = answer->status;

    CLEAT_ASSERT(m->awaited);
    CLEAT_ASSERT(answer->step == sync->step);
    CLEAT_ASSERT(answer->epoch == sync->epoch);
    CLEAT_ASSERT(!m->lost || sync->step == CLEAT_SYNC_EXPEL);
    if (sync->step != CLEAT_SYNC_EXPEL) {
        m->holding = (uint8_t)answer->holding;
        m->version = answer->version;
    }
    if (sync->step == CLEAT_SYNC_SEND) { m->digest = answer->digest; }
    if (sync->step == CLEAT_SYNC_COMMIT && status == CLEAT_OK &&
        (answer->holding != CLEAT_SYNC_WHOLE ||
         answer->version != sync->request.version)) {
        status = CLEAT_PEER_DEVIANT;
    }
    if (status == CLEAT_OK) {
        conclude_member(sync, m, CLEAT_OK);
        if (sync->step == CLEAT_SYNC_EXPEL) {
            CLEAT_ASSERT(m->expel);
            m->expel = false;
            m->lost = true;
        }
        return;
    }
    if (m->answer == 0) { record(sync, answer->member, status); }
    m->answer = (int8_t)status;
    /* What is idempotent is sent again until its deadline. */
    if (!cleat_sync_step_idempotent(sync->step) ||
        cleat_status_class(status) == CLEAT_CLASS_PERMANENT) {
        fail_awaited(sync, answer->member, status);
    }
}

enum cleat_status cleat_sync_answered(struct cleat_sync *sync, uint64_t now_ns,
                                      const struct cleat_sync_answer *answer)
{
    enum cleat_status status;

    CLEAT_ASSERT(sync != NULL && answer != NULL);
    if (answer->member >= sync->members_count ||
        (uint32_t)answer->step >= CLEAT_SYNC_STEPS ||
        !is_holding(answer->holding) || answer->status > CLEAT_OK ||
        answer->status < CLEAT_RESTART) {
        return CLEAT_INVALID;
    }
    status = advance(sync, now_ns);
    if (status != CLEAT_OK) { return status; }
    if (sync->step == CLEAT_SYNC_STEPS || answer->term != sync->term ||
        answer->epoch != sync->epoch) {
        return CLEAT_OK;
    }
    if (says_never(sync, answer)) {
        record(sync, answer->member, answer->status);
        member_at(sync, answer->member)->never = true;
        fail_for_good(sync, answer->member);
    } else if (answer->step == sync->step &&
               member_at(sync, answer->member)->awaited) {
        take_answer(sync, answer);
        settle(sync);
    }
    CLEAT_ASSERT(sync->awaited_count <= sync->members_count);
    return CLEAT_OK;
}

enum cleat_status cleat_sync_lost(struct cleat_sync *sync, uint64_t now_ns,
                                  uint32_t member)
{
    struct cleat_sync_member *m;
    enum cleat_status status;

    CLEAT_ASSERT(sync != NULL);
    if (member >= sync->members_count) { return CLEAT_INVALID; }
    status = advance(sync, now_ns);
    if (status != CLEAT_OK) { return status; }
    m = member_at(sync, member);
    if (m->lost) { return CLEAT_OK; }
    m->lost = true;
    if (sync->step == CLEAT_SYNC_STEPS) { return CLEAT_OK; }
    record(sync, member, CLEAT_PEER_LOST);
    if (m->awaited && sync->step != CLEAT_SYNC_EXPEL) {
        fail_awaited(sync, member, CLEAT_PEER_LOST);
    } else if (!m->awaited) {
        /* It has done the present step, or has no part in it; the members
         * that still work on an attempt may wait for it if it has. */
        if ((BIT(sync->step) & ATTEMPT_STEPS) != 0 && applies(sync, member)) {
            sync->attempt_failed = true;
        }
        if (replica_of(sync, member) != NULL &&
            (sync->step == CLEAT_SYNC_FENCE ||
             sync->step == CLEAT_SYNC_EXPEL)) {
            join_fencing(sync, cleat_sync_replica_of(&sync->config, member));
        } else {
            fail_for_good(sync, member);
        }
    }
    settle(sync);
    CLEAT_ASSERT(m->lost);
    CLEAT_ASSERT(!m->awaited || sync->step == CLEAT_SYNC_EXPEL);
    return CLEAT_OK;
}

enum cleat_status cleat_sync_cancel(struct cleat_sync *sync, uint64_t now_ns)
{
    enum cleat_status status;

    CLEAT_ASSERT(sync != NULL);
    status = advance(sync, now_ns);
    if (status != CLEAT_OK) { return status; }
    if (sync->step == CLEAT_SYNC_STEPS || sync->committing) {
        return CLEAT_STATE;
    }
    if (!sync->cancelled) {
        record(sync, CLEAT_SYNC_NOBODY, CLEAT_CANCELLED);
        sync->cancelled = true;
        sync->attempt_failed = true;
    }
    settle(sync);
    CLEAT_ASSERT(!sync->committing);
    CLEAT_ASSERT(sync->cancelled);
    CLEAT_ASSERT(sync->errors_count > 0);
    return CLEAT_OK;
}

/* --------------------------------------------------------------- accounts */

enum cleat_sync_outcome cleat_sync_outcome(const struct cleat_sync *sync)
{
    CLEAT_ASSERT(sync != NULL);
    CLEAT_ASSERT(sync->outcome == CLEAT_SYNC_NOT_YET ||
                 sync->step == CLEAT_SYNC_STEPS);
    return sync->outcome;
}

enum cleat_sync_replica_state
cleat_sync_replica_state(const struct cleat_sync *sync, uint32_t replica)
{
    const struct cleat_sync_member *members =
        (const struct cleat_sync_member *)(const void *)(sync + 1);
    const void *end = members + sync->members_count;

    CLEAT_ASSERT(replica < sync->config.replicas);
    return (enum cleat_sync_replica_state)(
               (const struct cleat_sync_replica *)end)[replica]
        .state;
}

enum cleat_sync_holding cleat_sync_member_holding(const struct cleat_sync *sync,
                                                  uint32_t member,
                                                  uint64_t *version)
{
    const struct cleat_sync_member *m =
        (const struct cleat_sync_member *)(const void *)(sync + 1) + member;

    CLEAT_ASSERT(member < sync->members_count);
    CLEAT_ASSERT(m->holding <= CLEAT_SYNC_TORN);
    if (version != NULL) { *version = m->version; }
    return (enum cleat_sync_holding)m->holding;
}

uint32_t cleat_sync_errors_count(const struct cleat_sync *sync)
{
    CLEAT_ASSERT(sync != NULL);
    return sync->errors_count;
}

enum cleat_status cleat_sync_error_at(const struct cleat_sync *sync,
                                      uint32_t index,
                                      struct cleat_sync_error *out)
{
    CLEAT_ASSERT(sync != NULL && out != NULL);
    if (index >= sync->errors_count || index >= CLEAT_SYNC_ERRORS_MAX) {
        return CLEAT_NOT_FOUND;
    }
    *out = sync->errors[index];
    return CLEAT_OK;
}

enum cleat_status cleat_sync_undo_at(const struct cleat_sync *sync,
                                     enum cleat_sync_step step, uint32_t member)
{
    struct cleat_sync_member m;
    const int8_t *undo;

    CLEAT_ASSERT(sync != NULL && member < sync->members_count);
    m = ((const struct cleat_sync_member *)(const void *)(sync + 1))[member];
    undo = undo_of(&m, step);
    if (undo == NULL || *undo == NOT_OWED) { return CLEAT_NOT_FOUND; }
    return (enum cleat_status) * undo;
}
