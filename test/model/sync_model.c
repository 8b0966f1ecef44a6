/* Cleat: one weight update against workers that really hold and really serve.
 * SPDX-License-Identifier: Apache-2.0
 *
 * One step of this model is one command delivered, or one answer arriving, or
 * one jump of time to the next moment at which anything is due. What can befall
 * a command is the fault table; besides, a worker may be reported lost and the
 * caller may cancel at any moment. Answers that are late, doubled or overtaken
 * wait here and may arrive at any later moment, in another step, another
 * attempt, or after rest.
 *
 * All invariants are about the peers and about the commands seen to leave. The
 * machine's fields are read for the projection, to see when one step has made
 * way for the next, and to tell an answer that is waited for from one that must
 * change nothing. */
#include <stdio.h>
#include <stdlib.h>

#include "choose.h"
#include "cleat/sync.h"
#include "faults.h"
#include "sync_peers.h"

enum {
    TRAINERS_MAX = 2,
    REPLICAS_MAX = 4,
    WORKERS_MAX = 2,
    MEMBERS_MAX = TRAINERS_MAX + REPLICAS_MAX * WORKERS_MAX,
    FLIGHTS_MAX = 24,
    RETRY = 20,
    VERSION_FIRST = 1,
    VERSION_STRANGE = 99
};

/* Each step has its own time, so that one taken for another shows. A command
 * that may be sent again is sent twice in its step. */
static const uint64_t step_times[CLEAT_SYNC_STEPS] = {
    [CLEAT_SYNC_PAUSE] = 30,    [CLEAT_SYNC_RELEASE] = 31,
    [CLEAT_SYNC_PREPARE] = 37,  [CLEAT_SYNC_GROUP] = 38,
    [CLEAT_SYNC_SEND] = 39,     [CLEAT_SYNC_COMMIT] = 32,
    [CLEAT_SYNC_FINALIZE] = 33, [CLEAT_SYNC_FENCE] = 34,
    [CLEAT_SYNC_EXPEL] = 50,    [CLEAT_SYNC_RESTORE] = 35,
    [CLEAT_SYNC_RESUME] = 36};

/* The same sum, by hand: what the longest update takes. */
static uint64_t longest(uint32_t attempts_max)
{
    return 30 + 31 + (uint64_t)attempts_max * (37 + 38 + 39 + 33) + 32 + 35 +
           36 + 3 * (34 + 50);
}

/* Zero is the default where one is told. */
struct setting {
    uint8_t trainers; /* default 1 */
    uint8_t replicas;
    uint8_t workers;
    uint8_t replicas_min;
    uint8_t attempts_max; /* default 2 */
    uint8_t faults;
    uint8_t rounds;
    bool in_place;
    bool interleave;   /* answers may arrive between two commands of a step */
    uint8_t strangers; /* bit r: replica r is found paused, with a version
                          that is neither */
    uint8_t attached;  /* bit r: replica r is not our child, it has a lease */
    uint8_t lease;     /* how long it serves unrenewed */
    uint64_t start_ns; /* when the first update begins, default 1000 */
    uint64_t term_gap; /* a new process has seen the machine's term and this
                          many more */
    uint64_t term;     /* the highest that an engine says it has seen */
    uint64_t epoch;    /* the machine's, before the first update */
};

enum due {
    PROMPT,  /* arrives before time goes on */
    NOTICE,  /* the same: the peer's channel has ended */
    AT,      /* arrives at at_ns */
    ASIDE,   /* arrives when time has gone on */
    ANY_TIME /* may arrive now or ever after */
};

struct flight {
    uint64_t at_ns;
    struct sync_pair pair;
    uint32_t digest;
    uint8_t due;
    uint8_t member;
    uint8_t step;
    int8_t status;
    uint8_t holding;
    uint8_t version;
    bool again; /* it has arrived once */
};

/* What was seen to leave for a member, in this update. */
struct track {
    bool lost;    /* reported */
    bool certain; /* expelled: that was answered, and none is in its place */
    bool struck;  /* by a fault, in this update or still by one before it */
    bool shut;    /* its gate was closed when the update began */
    bool paused;
    bool released;
    bool restored;
    bool resumed;
    bool finalized_ever;
    bool attempted_ever;
    bool owes_finalize;         /* an attempt's step left, no finalize since */
    struct sync_pair attempted; /* the last attempt it was part of */
    struct sync_pair prepared;  /* prepare, group and send: once an attempt */
    uint16_t attempt_steps;     /* those that left in that attempt */
};

struct world {
    struct setting filled;
    const struct setting *set; /* that */
    struct cleat_sync *sync;
    uint64_t now;
    uint64_t begun;
    uint64_t worst; /* all steps so far, had each taken its whole time */
    struct sync_pair last_pair; /* of the commands so far */
    struct sync_pair used_pair; /* the last one of the update before */
    struct cleat_sync_error first_error;
    uint32_t errors_count;
    uint32_t seen_step; /* which step the machine is in: to see it change */
    uint8_t faults_left;
    uint8_t round;
    uint8_t version_old;
    uint8_t version_new;
    uint8_t stream;  /* enum below: what the trainer's failure does to a send */
    bool committing; /* a commit command has left */
    bool cancelled;
    bool rested;      /* what comes now comes after the outcome */
    bool dead_before; /* a replica was dead when the update began */
    /* the last fault, for the table of outcomes */
    uint8_t fault_step;
    uint8_t fault_member;
    uint8_t fault_kind; /* a row; or one of the two below */
    uint8_t flights_count;
    struct flight flights[FLIGHTS_MAX];
    struct track track[MEMBERS_MAX];
    struct sync_peer peers[MEMBERS_MAX];
    _Alignas(64) unsigned char block[CLEAT_SYNC_BYTES(
        TRAINERS_MAX, REPLICAS_MAX, WORKERS_MAX)];
};

enum { STREAM_WHOLE, STREAM_SILENT, STREAM_FAILS, STREAM_DONE_ALREADY };
enum { FAULT_LOST = CHOOSE_FAULTS, FAULT_CANCEL };

/* The outcomes that a test must reach. */
static const char *const reaches_all[] = {"COMMITTED", "ROLLED_BACK",
                                          "DEGRADED", "RESTART", NULL};
static const char *const reaches_no_restart[] = {"COMMITTED", "ROLLED_BACK",
                                                 "DEGRADED", NULL};
static const char *const reaches_not_degraded[] = {"COMMITTED", "ROLLED_BACK",
                                                   "RESTART", NULL};

/* ------------------------------------------------------------- small things */

static uint32_t members(const struct setting *set)
{
    return set->trainers + (uint32_t)set->replicas * set->workers;
}

static bool is_trainer(const struct setting *set, uint32_t member)
{
    return member < set->trainers;
}

static uint32_t replica_of(const struct setting *set, uint32_t member)
{
    return (member - set->trainers) / set->workers;
}

static uint32_t member_of(const struct setting *set, uint32_t r, uint32_t w)
{
    return set->trainers + r * set->workers + w;
}

static struct cleat_sync_config config_of(const struct setting *set)
{
    struct cleat_sync_config config;

    memset(&config, 0, sizeof config);
    config.trainers = set->trainers;
    config.replicas = set->replicas;
    config.workers = set->workers;
    config.replicas_min = set->replicas_min;
    config.attempts_max = set->attempts_max;
    memcpy(config.step_ns, step_times, sizeof step_times);
    config.retry_ns = RETRY;
    return config;
}

static bool attempt_step(uint32_t step)
{
    return step == CLEAT_SYNC_PREPARE || step == CLEAT_SYNC_GROUP ||
           step == CLEAT_SYNC_SEND;
}

/* The version that is to be served when all is over, as far as the commands
 * that have left decide it. */
static uint32_t target(const struct world *w)
{
    return w->committing ? w->version_new : w->version_old;
}

/* -------------------------------------------------------- what must be true */

/* At every moment: who serves serves bytes of one version, the same as
 * everybody else, and has its cache. */
static void check_served(struct choose *c, const struct world *w)
{
    uint32_t version = 0;

    for (uint32_t i = w->set->trainers; i < members(w->set); i++) {
        const struct sync_peer *p = &w->peers[i];

        if (!sync_peer_serves(p, w->now)) { continue; }
        choose_check(c,
                     p->cells[0] == p->cells[1] && !p->dirty &&
                         p->cells[0] != SYNC_PEER_GARBAGE,
                     "a-torn-or-unknown-replica-never-serves");
        choose_check(c, version == 0 || p->cells[0] == version,
                     "all-that-serve-serve-one-version");
        choose_check(c, p->cache, "finalize-then-cache-then-generation");
        version = p->cells[0];
    }
}

/* nobody-resumes-before-those-that-hold-otherwise-are-fenced: before anyone
 * resumes, of those that hold anything else nobody can serve. */
static void check_resume(struct choose *c, const struct world *w)
{
    for (uint32_t i = w->set->trainers; i < members(w->set); i++) {
        choose_check(c,
                     sync_peer_holds(&w->peers[i], target(w)) ||
                         !sync_peer_could_serve(&w->peers[i], w->now),
                     "nobody-resumes-before-those-that-hold-otherwise-are-"
                     "fenced");
    }
}

/* One command has left: may it, now, to this member? */
static void check_command(struct choose *c, struct world *w,
                          const struct cleat_sync_command *command)
{
    struct track *t = &w->track[command->member];
    struct sync_pair pair = {command->term, command->epoch};
    uint32_t step = command->step;
    bool trainer = is_trainer(w->set, command->member);

    choose_check(c,
                 !sync_pair_below(pair, w->last_pair) &&
                     sync_pair_below(w->used_pair, pair),
                 "epochs-never-repeat");
    if (step == CLEAT_SYNC_PREPARE && !sync_pair_same(pair, t->prepared)) {
        choose_check(c, sync_pair_below(t->prepared, pair),
                     "epochs-never-repeat");
        t->prepared = pair;
        t->attempt_steps = 0;
    }
    w->last_pair = pair;
    choose_check(c, !t->lost || (step == CLEAT_SYNC_EXPEL && !t->certain),
                 "commands-only-to-members-not-lost");
    choose_check(c,
                 trainer ? cleat_sync_step_to_trainers(step)
                         : step != CLEAT_SYNC_START,
                 "commands-only-to-those-that-have-such-a-step");
    choose_check(
        c, command->version == w->version_new && command->deadline_ns >= w->now,
        "a-command-tells-version-and-deadline");
    if (attempt_step(step)) {
        choose_check(c,
                     (t->attempt_steps >> step & 1u) == 0 &&
                         sync_pair_same(pair, t->prepared),
                     "what-is-not-idempotent-is-sent-once-an-attempt");
        choose_check(c, !w->committing, "never-rolled-back-after-commit");
        choose_check(c, trainer || (t->paused && t->released),
                     "nobody-is-written-before-it-is-paused");
        t->attempt_steps |= (uint16_t)(1u << step);
        t->owes_finalize = t->attempted_ever = true;
        t->attempted = pair;
    }
    choose_check(c,
                 (step != CLEAT_SYNC_RESTORE && step != CLEAT_SYNC_RESUME) ||
                     cleat_sync_replica_state(
                         w->sync, replica_of(w->set, command->member)) ==
                         CLEAT_SYNC_ACTIVE,
                 "a-fenced-replica-is-owed-no-restore-or-resume");
    switch (step) {
    case CLEAT_SYNC_PAUSE: t->paused = true; break;
    case CLEAT_SYNC_RELEASE:
        choose_check(c, t->paused, "release-after-pause");
        t->released = true;
        break;
    case CLEAT_SYNC_COMMIT:
        choose_check(
            c,
            sync_pair_same(w->peers[command->member].verified, pair) ||
                sync_pair_same(w->peers[command->member].committed, pair) ||
                w->peers[command->member].dead,
            "commit-only-when-every-remaining-replica-has-verified");
        w->committing = true;
        break;
    case CLEAT_SYNC_FINALIZE:
        choose_check(c, t->attempted_ever && sync_pair_same(pair, t->attempted),
                     "undo-goes-where-its-step-was-sent");
        choose_check(c, !t->restored && !t->resumed,
                     "finalize-then-cache-then-generation");
        t->owes_finalize = false;
        t->finalized_ever = true;
        break;
    case CLEAT_SYNC_RESTORE:
        choose_check(c, t->released, "undo-goes-where-its-step-was-sent");
        choose_check(c, !t->owes_finalize && !t->resumed,
                     "finalize-then-cache-then-generation");
        t->restored = true;
        break;
    case CLEAT_SYNC_RESUME:
        choose_check(c, t->paused, "undo-goes-where-its-step-was-sent");
        choose_check(c, !t->owes_finalize && (!t->released || t->restored),
                     "finalize-then-cache-then-generation");
        t->resumed = true;
        check_resume(c, w);
        break;
    default: break;
    }
}

/* It is over, and the machine believes: does it know?
 * every-paused-replica-ends-serving-quarantined-dead-or-reported-unfenced */
static void check_belief(struct choose *c, const struct world *w, uint32_t r,
                         enum cleat_sync_replica_state state)
{
    const struct setting *set = w->set;
    bool could = false;
    bool certain = true;

    for (uint32_t i = 0; i < set->workers; i++) {
        const struct sync_peer *p = &w->peers[member_of(set, r, i)];

        could = could || sync_peer_could_serve(p, w->now);
        certain = certain && w->track[member_of(set, r, i)].certain;
        if (state != CLEAT_SYNC_SERVING) { continue; }
        choose_check(c, !w->track[member_of(set, r, i)].lost || w->rested,
                     "who-was-reported-lost-does-not-count-as-serving");
        /* One that dies or stands still after it has answered is found out in
         * the next update. */
        choose_check(c,
                     !p->paused && !p->fenced && p->cache &&
                         sync_peer_holds(p, target(w)),
                     "every-paused-replica-ends-serving-quarantined-dead-or-"
                     "reported-unfenced");
    }
    choose_check(c, state != CLEAT_SYNC_UNFENCED || !certain,
                 "what-is-certain-is-not-reported-unfenced");
    choose_check(
        c,
        state == CLEAT_SYNC_SERVING || state == CLEAT_SYNC_UNFENCED ||
            ((state == CLEAT_SYNC_QUARANTINED || state == CLEAT_SYNC_DEAD) &&
             !could),
        "every-paused-replica-ends-serving-quarantined-dead-or-"
        "reported-unfenced");
}

/* Nothing has befallen it, and it holds what is to be served. */
static bool is_healthy(const struct world *w, uint32_t r)
{
    bool healthy = true;

    for (uint32_t i = 0; i < w->set->workers; i++) {
        const struct track *t = &w->track[member_of(w->set, r, i)];

        healthy = healthy && !t->struck && !(t->shut && !w->committing) &&
                  sync_peer_holds(&w->peers[member_of(w->set, r, i)],
                                  target(w));
    }
    return healthy;
}

/* Somebody could not be made certain not to serve. */
static bool expel_failed(const struct world *w)
{
    struct cleat_sync_error error;
    bool failed = false;

    for (uint32_t i = 0; cleat_sync_error_at(w->sync, i, &error) == CLEAT_OK;
         i++) {
        failed = failed || (error.step == CLEAT_SYNC_EXPEL &&
                            error.status != CLEAT_PEER_LOST);
    }
    return failed;
}

/* Nobody is set apart, and no job restarted, for nothing. */
static void check_healthy(struct choose *c, const struct world *w)
{
    uint32_t healthy = 0;
    bool restart = cleat_sync_outcome(w->sync) == CLEAT_SYNC_RESTART;

    for (uint32_t r = 0; r < w->set->replicas; r++) {
        if (!is_healthy(w, r)) { continue; }
        healthy++;
        choose_check(c,
                     restart || cleat_sync_replica_state(w->sync, r) ==
                                    CLEAT_SYNC_SERVING,
                     "a-healthy-replica-is-not-set-apart");
    }
    choose_check(c,
                 !restart || expel_failed(w) || healthy < w->set->replicas_min,
                 "no-restart-while-enough-replicas-are-healthy");
}

static void check_outcome(struct choose *c, const struct world *w,
                          uint32_t serving, uint32_t unfenced)
{
    const struct setting *set = w->set;

    switch (cleat_sync_outcome(w->sync)) {
    case CLEAT_SYNC_COMMITTED:
        choose_check(c, w->committing && serving == set->replicas,
                     "committed-means-that-every-replica-serves-the-new-"
                     "version");
        break;
    case CLEAT_SYNC_DEGRADED:
        choose_check(c,
                     w->committing && serving < set->replicas &&
                         serving >= set->replicas_min && unfenced == 0,
                     "degraded-means-that-enough-serve-the-new-version-and-"
                     "the-others-do-not-serve");
        break;
    case CLEAT_SYNC_ROLLED_BACK:
        choose_check(c, !w->committing, "never-rolled-back-after-commit");
        choose_check(c, serving >= set->replicas_min && unfenced == 0,
                     "rolled-back-means-that-enough-serve-the-old-version-and-"
                     "the-others-do-not-serve");
        break;
    default:
        choose_check(c, cleat_sync_outcome(w->sync) == CLEAT_SYNC_RESTART,
                     "rest-has-an-outcome");
        choose_check(c, serving == 0,
                     "restart-means-that-nobody-serves-but-the-unfenced");
        break;
    }
    /* What is dead from an update before this one has been reported there. */
    choose_check(c,
                 cleat_sync_outcome(w->sync) == CLEAT_SYNC_COMMITTED ||
                     cleat_sync_errors_count(w->sync) > 0 ||
                     (cleat_sync_outcome(w->sync) == CLEAT_SYNC_DEGRADED &&
                      w->dead_before),
                 "first-error-wins-others-are-kept");
}

/* What left to undo what left. */
static void check_undone(struct choose *c, const struct world *w, uint32_t i,
                         bool serving)
{
    const struct track *t = &w->track[i];
    const enum cleat_status none = CLEAT_NOT_FOUND;

    if (w->now == CLEAT_NEVER) { return; }
    choose_check(c, !t->owes_finalize || t->lost,
                 "one-failed-undo-stops-no-other");
    choose_check(c,
                 (cleat_sync_undo_at(w->sync, CLEAT_SYNC_FINALIZE, i) !=
                  none) == t->attempted_ever,
                 "undo-goes-where-its-step-was-sent");
    if (is_trainer(w->set, i)) { return; }
    choose_check(c,
                 !serving || ((!t->released || t->restored) &&
                              (!t->paused || t->resumed)),
                 "one-failed-undo-stops-no-other");
    choose_check(
        c,
        (!t->restored ||
         cleat_sync_undo_at(w->sync, CLEAT_SYNC_RESTORE, i) != none) &&
            (!t->resumed ||
             cleat_sync_undo_at(w->sync, CLEAT_SYNC_RESUME, i) != none),
        "every-undo-has-its-result");
}

/* ------------------- the table of outcomes: one fault, and enough others */

static uint32_t one(enum cleat_sync_outcome outcome)
{
    return 1u << outcome;
}

/* Which outcomes a fault of a replica may have. */
static uint32_t table_replica(const struct world *w)
{
    const struct choose_fault *row = choose_fault_row(w->fault_kind);
    bool for_good = (row->flags & FAULT_GONE) != 0 ||
                    ((row->flags & FAULT_ANSWERS) != 0 &&
                     cleat_status_class(row->status) == CLEAT_CLASS_PERMANENT);

    if (w->fault_kind == FAULT_LOST || for_good) {
        return one(CLEAT_SYNC_DEGRADED);
    }
    /* It depends on when it wakes. */
    if ((row->flags & FAULT_STOPPED) != 0) {
        return one(CLEAT_SYNC_DEGRADED) | one(CLEAT_SYNC_COMMITTED);
    }
    return one(CLEAT_SYNC_COMMITTED);
}

/* Without a commit: back to the old version, if enough still hold it. */
static uint32_t back(const struct world *w)
{
    uint32_t old = 0;

    for (uint32_t r = 0; r < w->set->replicas; r++) {
        bool all = true;

        for (uint32_t i = 0; i < w->set->workers; i++) {
            all = all && sync_peer_holds(&w->peers[member_of(w->set, r, i)],
                                         w->version_old);
        }
        old += all ? 1u : 0u;
    }
    return one(old >= w->set->replicas_min ? CLEAT_SYNC_ROLLED_BACK
                                           : CLEAT_SYNC_RESTART);
}

static uint32_t table_trainer(const struct world *w)
{
    const struct choose_fault *row = choose_fault_row(w->fault_kind);
    bool for_good = w->fault_kind == FAULT_LOST ||
                    (row->flags & FAULT_GONE) != 0 ||
                    ((row->flags & FAULT_ANSWERS) != 0 &&
                     cleat_status_class(row->status) == CLEAT_CLASS_PERMANENT);

    if (w->fault_step >= CLEAT_SYNC_COMMIT && w->committing) {
        return one(CLEAT_SYNC_COMMITTED);
    }
    if ((row->flags & FAULT_STOPPED) != 0) {
        return back(w) | one(CLEAT_SYNC_COMMITTED);
    }
    return for_good ? back(w) : one(CLEAT_SYNC_COMMITTED);
}

static void check_table(struct choose *c, const struct world *w)
{
    uint32_t allowed = one(CLEAT_SYNC_COMMITTED);

    if (w->set->faults != 1 || w->set->rounds != 1 ||
        w->set->replicas_min >= w->set->replicas || w->set->attempts_max < 2) {
        return;
    }
    /* EXPEL is never reached without a fault before it. */
    if (w->faults_left > 0) {
    } else if (w->fault_kind == FAULT_CANCEL) {
        allowed = w->committing ? one(CLEAT_SYNC_COMMITTED) : back(w);
    } else if (is_trainer(w->set, w->fault_member)) {
        allowed = table_trainer(w);
    } else {
        allowed = table_replica(w);
    }
    choose_check(c, (allowed >> cleat_sync_outcome(w->sync) & 1u) != 0,
                 "the-table-of-outcomes-is-true");
}

static void check_rest(struct choose *c, const struct world *w)
{
    const struct setting *set = w->set;
    uint32_t serving = 0;
    uint32_t unfenced = 0;

    for (uint32_t r = 0; r < set->replicas; r++) {
        enum cleat_sync_replica_state state = cleat_sync_replica_state(w->sync,
                                                                       r);

        serving += state == CLEAT_SYNC_SERVING ? 1u : 0u;
        unfenced += state == CLEAT_SYNC_UNFENCED ? 1u : 0u;
        check_belief(c, w, r, state);
        for (uint32_t i = 0; i < set->workers; i++) {
            check_undone(c, w, member_of(set, r, i),
                         state == CLEAT_SYNC_SERVING);
        }
    }
    for (uint32_t i = 0; i < set->trainers; i++) {
        check_undone(c, w, i, false);
    }
    check_outcome(c, w, serving, unfenced);
    check_served(c, w);
    if (w->now == CLEAT_NEVER) { return; } /* nothing is sent any more */
    check_healthy(c, w);
    check_table(c, w);
}

/* --------------------------------------------- calls, and what each must do */

static uint32_t step_seen(const struct cleat_sync *sync)
{
    return (uint32_t)sync->step | sync->attempt << 8 |
           (uint32_t)sync->undone << 16 | (uint32_t)sync->doomed << 17;
}

/* After every call: has a step made way for another, are the errors kept, is
 * there time left? */
static void after_call(struct choose *c, struct world *w)
{
    struct cleat_sync *sync = w->sync;
    uint32_t count = cleat_sync_errors_count(sync);

    if (step_seen(sync) != w->seen_step) {
        w->seen_step = step_seen(sync);
        if (sync->step != CLEAT_SYNC_STEPS) {
            uint64_t takes = step_times[sync->step];

            choose_check(c, sync->deadline_ns == cleat_time_add(w->now, takes),
                         "a-step-has-its-own-time");
            w->worst += takes;
        }
    }
    choose_check(c,
                 w->worst <= longest(w->set->attempts_max) &&
                     (w->rested || w->now - w->begun <= w->worst),
                 "ends-within-its-computed-bound");
    choose_check(c, count >= w->errors_count,
                 "first-error-wins-others-are-kept");
    if (w->errors_count == 0 && count > 0) {
        (void)cleat_sync_error_at(sync, 0, &w->first_error);
    }
    if (count > 0) {
        struct cleat_sync_error first;

        choose_check(c,
                     cleat_sync_error_at(sync, 0, &first) == CLEAT_OK &&
                         memcmp(&first, &w->first_error, sizeof first) == 0,
                     "first-error-wins-others-are-kept");
    }
    w->errors_count = count;
    choose_check(c,
                 (cleat_sync_outcome(sync) == CLEAT_SYNC_NOT_YET) ==
                         (cleat_sync_deadline(sync) != CLEAT_NEVER) ||
                     w->set->start_ns > UINT64_MAX / 2,
                 "there-is-a-deadline-until-there-is-an-outcome");
}

/* The newest error is this one. */
static void check_recorded(struct choose *c, const struct world *w, uint32_t at,
                           uint32_t member, enum cleat_status status)
{
    struct cleat_sync_error error;

    memset(&error, 0, sizeof error);
    if (at >= CLEAT_SYNC_ERRORS_MAX) { return; }
    choose_check(c,
                 cleat_sync_error_at(w->sync, at, &error) == CLEAT_OK &&
                     error.member == member && error.status == status,
                 "first-error-wins-others-are-kept");
}

static void do_tick(struct choose *c, struct world *w)
{
    choose_check(c, cleat_sync_tick(w->sync, w->now) == CLEAT_OK,
                 "time-goes-on");
    after_call(c, w);
}

/* Whether this answer is one that the machine waits for. */
static bool is_awaited(const struct world *w, const struct flight *f)
{
    const struct cleat_sync_member *m =
        (const struct cleat_sync_member *)(const void *)(w->sync + 1);

    return w->sync->step == (enum cleat_sync_step)f->step &&
           f->pair.epoch == w->sync->epoch && f->pair.term == w->sync->term &&
           m[f->member].awaited && w->now < w->sync->deadline_ns;
}

static void do_answer(struct choose *c, struct world *w, struct flight f)
{
    struct cleat_sync_answer answer;
    struct cleat_sync before;
    unsigned char apart[sizeof w->block];
    uint32_t count = cleat_sync_errors_count(w->sync);
    bool awaited = is_awaited(w, &f);
    const struct cleat_sync_member *m =
        (const struct cleat_sync_member *)(const void *)(w->sync + 1);
    bool first_failure = awaited && m[f.member].answer == 0;
    /* What cut an attempt short may be told for good while it is finalized. */
    bool never = w->sync->step == CLEAT_SYNC_FINALIZE && !f.again &&
                 attempt_step(f.step) && f.status < CLEAT_OK &&
                 f.pair.epoch == w->sync->epoch &&
                 cleat_status_class((enum cleat_status)f.status) ==
                     CLEAT_CLASS_PERMANENT;

    memset(&answer, 0, sizeof answer);
    answer.step = (enum cleat_sync_step)f.step;
    answer.member = f.member;
    answer.term = f.pair.term;
    answer.epoch = f.pair.epoch;
    answer.status = (enum cleat_status)f.status;
    answer.holding = (enum cleat_sync_holding)f.holding;
    answer.version = f.version;
    answer.digest = f.digest;
    before = *w->sync;
    if (choose_noting(c)) {
        choose_note(c, "[%llu] %u > %s epoch %llu: %s, holds %u/%u",
                    (unsigned long long)(w->now - w->set->start_ns), f.member,
                    cleat_sync_step_name(answer.step),
                    (unsigned long long)answer.epoch,
                    cleat_status_name(answer.status), f.holding, f.version);
    }
    if (w->now >= before.deadline_ns && before.step != CLEAT_SYNC_STEPS) {
        /* What a tick before it would have made of it. */
        unsigned char ticked[sizeof w->block];

        memcpy(apart, w->block, sizeof apart);
        choose_check(c,
                     cleat_sync_tick(w->sync, w->now) == CLEAT_OK &&
                         cleat_sync_answered(w->sync, w->now, &answer) ==
                             CLEAT_OK,
                     "time-goes-on");
        memcpy(ticked, w->block, sizeof ticked);
        memcpy(w->block, apart, sizeof apart);
        (void)cleat_sync_answered(w->sync, w->now, &answer);
        /* At the end of time every call applies one more deadline. */
        choose_check(c,
                     w->now == CLEAT_NEVER ||
                         memcmp(ticked, w->block, sizeof ticked) == 0,
                     "an-answer-at-its-deadline-is-late");
        after_call(c, w);
        return;
    }
    w->sync->now_ns = w->now; /* the one thing that any call changes */
    w->sync->scan = 0;
    memcpy(apart, w->block, sizeof apart);
    choose_check(c, cleat_sync_answered(w->sync, w->now, &answer) == CLEAT_OK,
                 "an-answer-is-taken");
    choose_check(c,
                 awaited || never || memcmp(apart, w->block, sizeof apart) == 0,
                 "an-answer-not-waited-for-changes-nothing");
    if (awaited && f.step == CLEAT_SYNC_EXPEL && f.status == CLEAT_OK) {
        w->track[f.member].lost = w->track[f.member].certain = true;
    }
    if (awaited && first_failure && f.status != CLEAT_OK) {
        check_recorded(c, w, count, f.member, answer.status);
    }
    after_call(c, w);
}

static void do_lost(struct choose *c, struct world *w, uint32_t member)
{
    uint32_t count = cleat_sync_errors_count(w->sync);
    bool new = !w->track[member].lost;
    bool resting = w->sync->step == CLEAT_SYNC_STEPS;
    uint32_t step_before = step_seen(w->sync);
    bool bystander = !is_trainer(w->set, member) &&
                     w->sync->step < CLEAT_SYNC_COMMIT &&
                     w->now < w->sync->deadline_ns &&
                     cleat_sync_replica_state(w->sync,
                                              replica_of(w->set, member)) !=
                         CLEAT_SYNC_ACTIVE;
    const struct cleat_sync_member *m =
        (const struct cleat_sync_member *)(const void *)(w->sync + 1);

    new = new && !m[member].lost;
    choose_note(c, "[%llu] %u is lost",
                (unsigned long long)(w->now - w->set->start_ns), member);
    w->track[member].lost = true;
    choose_check(c, cleat_sync_lost(w->sync, w->now, member) == CLEAT_OK,
                 "a-loss-is-taken");
    choose_check(c, !bystander || step_seen(w->sync) == step_before,
                 "who-takes-no-part-fails-no-attempt");
    if (new && !resting) {
        check_recorded(c, w, count, member, CLEAT_PEER_LOST);
    }
    after_call(c, w);
}

static void do_cancel(struct choose *c, struct world *w)
{
    uint32_t count = cleat_sync_errors_count(w->sync);
    /* It has begun also where those that it is for are lost before it leaves.
     */
    bool late = w->committing || w->sync->committing;
    enum cleat_status status = cleat_sync_cancel(w->sync, w->now);

    choose_note(c, "cancelled: %s", cleat_status_name(status));
    choose_check(c, status == (late ? CLEAT_STATE : CLEAT_OK),
                 "a-cancel-after-commit-is-ignored");
    if (!late && !w->cancelled) {
        check_recorded(c, w, count, CLEAT_SYNC_NOBODY, CLEAT_CANCELLED);
    }
    w->cancelled = w->cancelled || !late;
    after_call(c, w);
}

/* ------------------------------------------------------------- the network */

static void fly(struct choose *c, struct world *w, enum due due,
                uint32_t member, struct sync_order order,
                enum cleat_status status)
{
    struct cleat_sync_answer answer = sync_peer_answer(&w->peers[member],
                                                       member, order, status);
    struct flight *f = &w->flights[w->flights_count];

    choose_check(c, w->flights_count < FLIGHTS_MAX, "the model has room");
    w->flights_count++;
    memset(f, 0, sizeof *f);
    f->due = (uint8_t)due;
    f->member = (uint8_t)member;
    f->step = order.step;
    f->pair = order.pair;
    f->status = (int8_t)status;
    f->holding = (uint8_t)answer.holding;
    f->version = (uint8_t)answer.version;
    f->digest = answer.digest;
}

static struct flight land(struct world *w, uint32_t index)
{
    struct flight f = w->flights[index];

    for (uint32_t i = 0; i < w->flights_count; i++) {
        struct flight *g = &w->flights[i];

        g->again = g->again ||
                   (g->member == f.member && g->step == f.step &&
                    sync_pair_same(g->pair, f.pair) && g->status == f.status);
    }
    w->flights_count--;
    memmove(&w->flights[index], &w->flights[index + 1],
            (w->flights_count - index) * sizeof f);
    memset(&w->flights[w->flights_count], 0, sizeof f);
    return f;
}

/* What was on its way from a peer that dies still arrives. */
static void peer_goes(struct world *w, uint32_t member)
{
    struct sync_peer *p = &w->peers[member];

    if (p->child) {
        p->dead = true;
    } else {
        /* Nothing reaches it, and it serves until its lease is over. */
        p->deaf = true;
        if (p->lease_end_ns == CLEAT_NEVER) {
            p->lease_end_ns = cleat_time_add(w->now, w->set->lease);
        }
    }
}

static void note_fault(struct world *w, uint32_t kind, uint32_t member,
                       uint32_t step)
{
    w->track[member].struck = true;
    w->fault_kind = (uint8_t)kind;
    w->fault_member = (uint8_t)member;
    w->fault_step = (uint8_t)step;
}

/* The port makes certain that a process cannot serve. */
static void expel(struct choose *c, struct world *w, uint32_t member,
                  struct sync_order order)
{
    struct sync_peer *p = &w->peers[member];
    const struct choose_fault *f = choose_fault_pick(
        c, FAULT_PAYLOAD | FAULT_GONE | FAULT_STOPPED, &w->faults_left);
    enum due due = (f->flags & FAULT_LATE) != 0        ? ASIDE
                   : (f->flags & FAULT_OVERTAKEN) != 0 ? ANY_TIME
                                                       : PROMPT;

    if ((f->flags & FAULT_EFFECT) != 0) {
        p->expelled = true;
        if (p->child) {
            p->dead = true;
            p->stopped = false;
            p->inbox_count = 0;
        } else if (p->lease_end_ns == CLEAT_NEVER) {
            p->lease_end_ns = cleat_time_add(w->now, w->set->lease);
        }
    }
    if ((f->flags & FAULT_ANSWERS) == 0) { return; }
    for (int i = 0; i < ((f->flags & FAULT_TWICE) != 0 ? 2 : 1); i++) {
        fly(c, w, i == 0 ? due : ANY_TIME, member, order, f->status);
        if (f->status == CLEAT_OK && !p->child) {
            w->flights[w->flights_count - 1].due = AT;
            w->flights[w->flights_count - 1].at_ns = p->lease_end_ns;
        }
    }
}

/* Without its effect a send may still have written something. */
static enum cleat_status half_sent(struct choose *c, struct world *w,
                                   uint32_t member, struct sync_order order,
                                   bool certainly)
{
    if (order.step != CLEAT_SYNC_SEND || !w->set->in_place ||
        is_trainer(w->set, member) || (!certainly && choose(c, 2) == 0)) {
        return CLEAT_OK;
    }
    return sync_peer_do(&w->peers[member], order, SYNC_HALF);
}

static enum cleat_status carry_out(struct choose *c, struct world *w,
                                   uint32_t member, struct sync_order order)
{
    enum cleat_status status;

    if (order.step == CLEAT_SYNC_SEND && !is_trainer(w->set, member) &&
        (w->stream == STREAM_SILENT || w->stream == STREAM_FAILS)) {
        /* The trainer sent one bucket, and no more. */
        (void)half_sent(c, w, member, order, true);
        return w->stream == STREAM_SILENT ? CLEAT_PENDING : CLEAT_GROUP_FAILED;
    }
    status = sync_peer_do(&w->peers[member], order, SYNC_ALL);
    check_served(c, w);
    return status;
}

/* Bytes come damaged. */
static enum cleat_status damaged(struct choose *c, struct world *w,
                                 uint32_t member, struct sync_order order,
                                 enum cleat_status status)
{
    struct sync_peer *p = &w->peers[member];

    if (is_trainer(w->set, member)) { return status; }
    if (status == CLEAT_SHORT) { return sync_peer_do(p, order, SYNC_HALF); }
    return sync_peer_do(p, order,
                        choose(c, 2) == 0 ? SYNC_FLIPPED : SYNC_UNSEEN);
}

static void deliver(struct choose *c, struct world *w,
                    const struct cleat_sync_command *command)
{
    uint32_t member = command->member;
    struct sync_peer *p = &w->peers[member];
    struct sync_order order = {{command->term, command->epoch},
                               (uint8_t)command->step,
                               (uint8_t)command->version};
    const struct choose_fault *f;
    enum cleat_status status;

    if (order.step == CLEAT_SYNC_EXPEL) {
        uint8_t left = w->faults_left;

        expel(c, w, member, order);
        if (w->faults_left != left) {
            note_fault(w, CHOOSE_FAULT_SILENCE, member, order.step);
        }
        return;
    }
    if (p->dead || p->deaf) { return; }
    if (p->stopped) {
        sync_peer_put_aside(p, order);
        return;
    }
    f = choose_fault_pick(c, order.step == CLEAT_SYNC_SEND ? 0 : FAULT_PAYLOAD,
                          &w->faults_left);
    if (f != choose_fault_row(0)) {
        note_fault(w, (uint32_t)(f - choose_fault_row(0)), member, order.step);
    }
    if ((f->flags & FAULT_STOPPED) != 0) {
        p->stopped = true;
        if (!p->child) {
            p->lease_end_ns = cleat_time_add(w->now, w->set->lease);
        }
        sync_peer_put_aside(p, order);
        if (is_trainer(w->set, member) && order.step == CLEAT_SYNC_SEND) {
            w->stream = (uint8_t)(STREAM_SILENT + choose(c, 3));
        }
        return;
    }
    status = f->status;
    if ((f->flags & FAULT_DAMAGED) != 0) {
        status = damaged(c, w, member, order, f->status);
    } else if ((f->flags & FAULT_EFFECT) != 0) {
        enum cleat_status done = carry_out(c, w, member, order);

        status = f->status == CLEAT_OK ? done : f->status;
    } else {
        (void)half_sent(c, w, member, order, false);
    }
    if (is_trainer(w->set, member) && order.step == CLEAT_SYNC_SEND &&
        ((f->flags & FAULT_EFFECT) == 0 || (f->flags & FAULT_GONE) != 0)) {
        w->stream = (uint8_t)(STREAM_SILENT + choose(c, 3));
    }
    if ((f->flags & FAULT_GONE) != 0) {
        peer_goes(w, member);
        if ((f->flags & FAULT_NOTICE) != 0) {
            fly(c, w, NOTICE, member, order, CLEAT_PEER_LOST);
        }
        return;
    }
    if ((f->flags & FAULT_ANSWERS) == 0 || status == CLEAT_PENDING) { return; }
    fly(c, w,
        (f->flags & FAULT_LATE) != 0        ? ASIDE
        : (f->flags & FAULT_OVERTAKEN) != 0 ? ANY_TIME
                                            : PROMPT,
        member, order, status);
    if ((f->flags & FAULT_TWICE) != 0) {
        fly(c, w, ANY_TIME, member, order, status);
    }
}

/* It stood still, and carries on where it was. */
static void wake(struct choose *c, struct world *w, uint32_t member)
{
    struct sync_peer *p = &w->peers[member];

    choose_note(c, "%u wakes", member);
    p->stopped = false;
    if (!p->child && !p->expelled) { p->lease_end_ns = CLEAT_NEVER; }
    for (uint8_t i = 0; i < p->inbox_count; i++) {
        enum cleat_status status = carry_out(c, w, member, p->inbox[i]);

        if (status != CLEAT_PENDING) {
            fly(c, w, PROMPT, member, p->inbox[i], status);
        }
    }
    p->inbox_count = 0;
    memset(p->inbox, 0, sizeof p->inbox);
    check_served(c, w);
}

/* ---------------------------------------------------------------- one move */

static bool take_command(struct choose *c, struct world *w)
{
    struct cleat_sync_command command;

    if (cleat_sync_next(w->sync, &command) != CLEAT_OK) { return false; }
    if (choose_noting(c)) {
        choose_note(
            c, "[%llu] %u < %s epoch %llu deadline %llu",
            (unsigned long long)(w->now - w->set->start_ns), command.member,
            cleat_sync_step_name(command.step),
            (unsigned long long)command.epoch,
            (unsigned long long)(command.deadline_ns - w->set->start_ns));
    }
    if (command.step != CLEAT_SYNC_SEND) { w->stream = STREAM_WHOLE; }
    check_command(c, w, &command);
    deliver(c, w, &command);
    check_served(c, w);
    return true;
}

static bool is_prompt(const struct flight *f)
{
    return f->due == PROMPT || f->due == NOTICE;
}

/* May arrive next: of one peer the prompt ones come in order. */
static bool is_next(const struct world *w, uint32_t index, bool prompt)
{
    const struct flight *f = &w->flights[index];

    if (!prompt) { return f->due == ANY_TIME; }
    for (uint32_t i = 0; i < index; i++) {
        if (is_prompt(&w->flights[i]) && w->flights[i].member == f->member) {
            return false;
        }
    }
    return is_prompt(f);
}

static uint32_t flights_next(const struct world *w, bool prompt)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < w->flights_count; i++) {
        count += is_next(w, i, prompt) ? 1u : 0u;
    }
    return count;
}

static uint32_t flight_nth(const struct world *w, bool prompt, uint32_t nth)
{
    uint32_t i = 0;

    while (!is_next(w, i, prompt) || nth-- > 0) { i++; }
    return i;
}

static void arrive(struct choose *c, struct world *w, uint32_t index)
{
    struct flight f = land(w, index);

    if (f.due == NOTICE) {
        do_lost(c, w, f.member);
    } else {
        do_answer(c, w, f);
    }
}

/* Time goes on to the next moment at which anything is due. */
static void advance(struct choose *c, struct world *w)
{
    uint64_t next = cleat_sync_deadline(w->sync);
    uint32_t direct;

    for (uint32_t i = 0; i < w->flights_count; i++) {
        if (w->flights[i].due == AT && w->flights[i].at_ns < next) {
            next = w->flights[i].at_ns;
        }
    }
    if (next > w->now) { w->now = next; }
    for (uint32_t i = 0; i < w->flights_count; i++) {
        struct flight *f = &w->flights[i];

        if (f->due == ASIDE) { f->due = ANY_TIME; }
        if (f->due == AT && f->at_ns <= w->now) { f->due = PROMPT; }
    }
    check_served(c, w);
    /* A late answer may come at the very moment of a deadline, before any
     * tick. */
    direct = choose(c, 1 + flights_next(w, false));
    if (direct > 0) {
        arrive(c, w, flight_nth(w, false, direct - 1));
    } else {
        do_tick(c, w);
    }
}

static bool can_wake(const struct world *w, uint32_t i)
{
    return w->peers[i].stopped && !w->peers[i].dead;
}

/* Something odd: a held answer arrives, a stopped peer wakes, a worker is
 * lost, the caller cancels. Returns false when it chose that nothing is. */
static bool something_odd(struct choose *c, struct world *w)
{
    uint32_t held = flights_next(w, false);
    uint32_t count = 1 + held;
    uint32_t odd;

    if (w->now == CLEAT_NEVER) { return false; } /* every call ends a step */
    for (uint32_t i = 0; i < members(w->set); i++) {
        count += can_wake(w, i) ? 1u : 0u;
        count += w->faults_left > 0 && !w->track[i].lost ? 2u : 0u;
    }
    count += w->faults_left > 0 ? 1u : 0u;
    odd = choose(c, count);
    if (odd-- == 0) { return false; }
    if (odd < held) {
        arrive(c, w, flight_nth(w, false, odd));
        return true;
    }
    odd -= held;
    for (uint32_t i = 0; i < members(w->set); i++) {
        if (can_wake(w, i) && odd-- == 0) {
            wake(c, w, i);
            return true;
        }
        if (w->faults_left > 0 && !w->track[i].lost) {
            if (odd < 2) {
                w->faults_left--;
                note_fault(w, FAULT_LOST, i, w->sync->step);
                if (odd == 0) {
                    w->peers[i].dead = w->peers[i].child;
                    peer_goes(w, i);
                } else {
                    w->peers[i].deaf = true; /* its channel is gone, not it */
                    if (!w->peers[i].child &&
                        w->peers[i].lease_end_ns == CLEAT_NEVER) {
                        w->peers[i].lease_end_ns = cleat_time_add(
                            w->now, w->set->lease);
                    }
                }
                do_lost(c, w, i);
                return true;
            }
            odd -= 2;
        }
    }
    w->faults_left--;
    note_fault(w, FAULT_CANCEL, 0, w->sync->step);
    do_cancel(c, w);
    return true;
}

static void begin(struct choose *c, struct world *w)
{
    struct cleat_sync_request request = {w->version_new, w->version_old};

    for (uint32_t i = 0; i < members(w->set); i++) {
        bool lost = w->track[i].lost;
        bool certain = w->track[i].certain;

        memset(&w->track[i], 0, sizeof w->track[i]);
        w->track[i].lost = lost;
        w->track[i].certain = certain;
        w->track[i].struck = lost || w->peers[i].dead || w->peers[i].deaf ||
                             w->peers[i].stopped;
        w->track[i].shut = w->peers[i].fenced;
        w->track[i].prepared = w->last_pair;
    }
    w->dead_before = false;
    for (uint32_t r = 0; r < w->set->replicas; r++) {
        w->dead_before = w->dead_before || cleat_sync_replica_state(
                                               w->sync, r) == CLEAT_SYNC_DEAD;
    }
    w->begun = w->now;
    w->worst = 0;
    w->used_pair = w->last_pair;
    w->errors_count = 0;
    w->seen_step = UINT32_MAX;
    w->committing = false;
    w->cancelled = false;
    w->rested = false;
    choose_check(c, cleat_sync_begin(w->sync, w->now, &request) == CLEAT_OK,
                 "an-update-begins");
    after_call(c, w);
    w->round++;
}

/* After rest: whoever stands still wakes, whatever is held arrives, and
 * nothing changes. */
static void aftermath(struct choose *c, struct world *w)
{
    enum cleat_sync_outcome outcome = cleat_sync_outcome(w->sync);
    bool wakes = w->round == w->set->rounds || choose(c, 2) == 0;

    for (uint32_t i = 0; wakes && i < members(w->set); i++) {
        if (can_wake(w, i)) { wake(c, w, i); }
    }
    while (w->flights_count > 0 && wakes) {
        if (w->flights[0].due == AT && w->flights[0].at_ns > w->now) {
            w->now = w->flights[0].at_ns;
        }
        arrive(c, w, 0);
    }
    choose_check(c, cleat_sync_outcome(w->sync) == outcome,
                 "what-comes-after-rest-changes-nothing");
    check_rest(c, w);
    w->now = cleat_time_add(w->now,
                            1000); /* every lease that is not renewed is over */
    check_rest(c, w);
}

/* A new process in the place of each that is gone. */
static void replace(struct choose *c, struct world *w)
{
    for (uint32_t r = 0; r < w->set->replicas; r++) {
        if (cleat_sync_replica_state(w->sync, r) != CLEAT_SYNC_DEAD ||
            choose(c, 2) == 1) {
            continue;
        }
        for (uint32_t i = 0; i < w->set->workers; i++) {
            uint32_t m = member_of(w->set, r, i);

            if (!w->track[m].lost && !w->peers[m].dead &&
                !w->peers[m].expelled) {
                continue;
            }
            sync_peer_start(&w->peers[m], false, w->set->in_place,
                            w->peers[m].child, SYNC_PEER_GARBAGE);
            w->peers[m].paused = w->peers[m].fenced = true;
            choose_note(c, "%u is a new process", m);
            w->peers[m].seen.term = w->sync->term + w->set->term_gap;
            w->track[m].lost = w->track[m].certain = false;
            choose_check(c,
                         cleat_sync_hello(w->sync, m, w->peers[m].seen.term,
                                          CLEAT_SYNC_UNKNOWN, 0) == CLEAT_OK,
                         "hello-at-rest");
        }
    }
}

static bool at_rest(struct choose *c, struct world *w)
{
    enum cleat_sync_outcome outcome = cleat_sync_outcome(w->sync);
    uint32_t mark = outcome == CLEAT_SYNC_COMMITTED           ? 0
                    : outcome == CLEAT_SYNC_ROLLED_BACK       ? 1
                    : outcome == CLEAT_SYNC_DEGRADED          ? 2
                    : w->set->replicas > w->set->replicas_min ? 3
                                                              : 2;

    choose_note(c, "[%llu] rest: %s",
                (unsigned long long)(w->now - w->set->start_ns),
                cleat_sync_outcome_name(outcome));
    check_rest(c, w);
    choose_mark(c, mark);
    w->rested = true;
    aftermath(c, w);
    if (w->round == w->set->rounds || outcome == CLEAT_SYNC_RESTART) {
        return false;
    }
    replace(c, w);
    w->version_old = (uint8_t)target(w);
    w->version_new++;
    begin(c, w);
    return true;
}

static bool step(struct choose *c, void *state)
{
    struct world *w = state;
    uint32_t prompt = flights_next(w, true);
    bool waiting = cleat_sync_deadline(w->sync) <= w->now;

    if (w->round == 0) {
        begin(c, w);
        return true;
    }
    if (cleat_sync_outcome(w->sync) != CLEAT_SYNC_NOT_YET) {
        return at_rest(c, w);
    }
    if (waiting && !(w->set->interleave && prompt > 0 && choose(c, 2) == 1) &&
        take_command(c, w)) {
        return true;
    }
    if (something_odd(c, w)) { return true; }
    if (prompt > 0) {
        arrive(c, w, flight_nth(w, true, choose_any(c, prompt)));
    } else {
        advance(c, w);
    }
    return true;
}

static void init(void *state, const void *arg)
{
    struct world *w = state;
    const struct setting *set = arg;
    struct cleat_sync_config config;

    w->filled = *set;
    w->filled.trainers = set->trainers == 0 ? 1 : set->trainers;
    w->filled.attempts_max = set->attempts_max == 0 ? 2 : set->attempts_max;
    w->filled.start_ns = set->start_ns == 0 ? 1000 : set->start_ns;
    w->set = set = &w->filled;
    config = config_of(set);
    w->now = set->start_ns;
    w->faults_left = set->faults;
    w->version_old = VERSION_FIRST;
    w->version_new = VERSION_FIRST + 1;
    if (cleat_sync_init(w->block, sizeof w->block, &config, &w->sync, NULL) !=
            CLEAT_OK ||
        cleat_sync_bound_ns(&config) != longest(set->attempts_max)) {
        fprintf(stderr, "sync_model: init or bound\n");
        abort();
    }
    for (uint32_t i = 0; i < members(set); i++) {
        bool child = is_trainer(set, i) ||
                     (set->attached >> replica_of(set, i) & 1u) == 0;

        sync_peer_start(&w->peers[i], is_trainer(set, i), set->in_place, child,
                        VERSION_FIRST);
        w->peers[i].seen.term = set->term;
        if (!is_trainer(set, i) &&
            (set->strangers >> replica_of(set, i) & 1u) != 0) {
            w->peers[i].paused = true;
            w->peers[i].cells[0] = w->peers[i].cells[1] = VERSION_STRANGE;
        }
        (void)cleat_sync_hello(w->sync, i, set->term,
                               is_trainer(set, i) ? CLEAT_SYNC_UNKNOWN
                                                  : CLEAT_SYNC_WHOLE,
                               w->peers[i].cells[0]);
    }
    if (set->epoch != 0) {
        w->sync->term = set->term + 1;
        w->sync->epoch = set->epoch;
    }
}

/* --------------------------------------------------------- what decides the
 * future: times from now, epochs from the present one, replicas sorted, and no
 * errors but those that a rule looks at */

static unsigned char *put_pair(unsigned char *at, const struct world *w,
                               struct sync_pair pair)
{
    const struct cleat_sync *sync = w->sync;
    uint32_t value = 64u + (uint32_t)(pair.epoch & 63u); /* another term */

    if (pair.term == 0 && pair.epoch == 0) {
        value = 15;
    } else if (pair.term > sync->term ||
               (pair.term == sync->term && pair.epoch > sync->epoch)) {
        value = 13;
    } else if ((pair.term == sync->term || pair.term + 1 == sync->term) &&
               sync->epoch - pair.epoch < 12) {
        /* right also where the epoch has wrapped into the next term */
        value = (uint32_t)(sync->epoch - pair.epoch);
    }
    return choose_put_u8(at, value);
}

static unsigned char *put_error(unsigned char *at, int status)
{
    return choose_put_u8(at, status < 0 ? 1u : (uint32_t)status + 2);
}

static unsigned char *put_digest(unsigned char *at, uint32_t digest)
{
    return choose_put_u8(at, digest == 0 ? 0 : digest & 0xFFu);
}

static unsigned char *put_member(unsigned char *at, const struct world *w,
                                 uint32_t i)
{
    const struct cleat_sync_member *m =
        (const struct cleat_sync_member *)(const void *)(w->sync + 1) + i;
    const struct sync_peer *p = &w->peers[i];
    const struct track *t = &w->track[i];
    uint32_t count = 0;

    /* the machine's side */
    at = choose_put_u8(at, (uint32_t)m->version);
    at = choose_put_time(at, m->resend_ns, w->now);
    at = put_digest(at, m->digest);
    at = choose_put(at, &m->sent, sizeof m->sent);
    at = choose_put_u8(at,
                       (uint32_t)(m->holding | m->awaited << 2 | m->lost << 3 |
                                  m->expel << 4 | m->never << 5));
    at = put_error(at, m->answer);
    for (int u = 0; u < 3; u++) { at = put_error(at, m->undo[u]); }
    /* what left */
    at = choose_put_u8(
        at,
        (uint32_t)(t->lost | t->paused << 1 | t->released << 2 |
                   t->restored << 3 | t->resumed << 4 | t->finalized_ever << 5 |
                   t->attempted_ever << 6 | t->owes_finalize << 7));
    at = choose_put_u8(at,
                       (uint32_t)(t->struck | t->shut << 1 | t->certain << 2));
    at = put_pair(at, w, t->attempted);
    at = put_pair(at, w, t->prepared);
    at = choose_put(at, &t->attempt_steps, sizeof t->attempt_steps);
    /* the peer */
    at = choose_put_u8(at, (uint32_t)(p->child | p->dead << 1 |
                                      p->stopped << 2 | p->deaf << 3 |
                                      p->expelled << 4 | p->paused << 5 |
                                      p->cache << 6 | p->fenced << 7));
    at = choose_put_u8(at, p->dirty);
    at = choose_put_u8(at, sync_pair_below(w->last_pair, p->seen));
    at = choose_put_time(at, p->lease_end_ns, w->now);
    at = choose_put(at, p->cells, 2);
    at = choose_put(at, p->staged, 2);
    at = put_digest(at, p->digest);
    at = put_pair(at, w, p->prepared);
    at = put_pair(at, w, p->grouped);
    at = put_pair(at, w, p->verified);
    at = put_pair(at, w, p->committed);
    at = choose_put_u8(at, p->inbox_count);
    for (uint8_t k = 0; k < p->inbox_count; k++) {
        at = choose_put_u8(at, p->inbox[k].step);
        at = put_pair(at, w, p->inbox[k].pair);
    }
    /* what is on its way from it */
    for (uint32_t k = 0; k < w->flights_count; k++) {
        count += w->flights[k].member == i ? 1u : 0u;
    }
    at = choose_put_u8(at, count);
    for (uint32_t k = 0; k < w->flights_count; k++) {
        const struct flight *f = &w->flights[k];

        if (f->member != i) { continue; }
        at = choose_put_u8(at, (uint32_t)(f->due | f->again << 4));
        at = choose_put_u8(at, f->step);
        at = put_pair(at, w, f->pair);
        at = choose_put_u8(at,
                           f->status == 0 ? 0
                           : cleat_status_class((enum cleat_status)f->status) ==
                                   CLEAT_CLASS_PERMANENT
                               ? 2u
                               : 1u);
        at = choose_put_u8(at, f->holding);
        at = choose_put_u8(at, f->version);
        at = put_digest(at, f->digest);
        if (f->due == AT) { at = choose_put_time(at, f->at_ns, w->now); }
    }
    return at;
}

/* Of the last fault, what the table looks at. */
static uint32_t fault_sort(const struct world *w)
{
    uint32_t flags = choose_fault_row(w->fault_kind)->flags;

    if (w->set->faults != 1 || w->set->rounds != 1 || w->faults_left > 0) {
        return 0;
    }
    if (w->fault_kind == FAULT_CANCEL) { return 1; }
    return 2u + (is_trainer(w->set, w->fault_member) ? 1u : 0u) +
           ((flags & FAULT_STOPPED) != 0 ? 2u
            : w->fault_kind == FAULT_LOST || (flags & FAULT_GONE) != 0 ||
                    ((flags & FAULT_ANSWERS) != 0 &&
                     cleat_status_class(
                         choose_fault_row(w->fault_kind)->status) ==
                         CLEAT_CLASS_PERMANENT)
                ? 4u
                : 0u) +
           (w->fault_step >= CLEAT_SYNC_COMMIT ? 8u : 0u);
}

enum { RECORD_BYTES = 256 };

static int by_record(const void *a, const void *b)
{
    return memcmp(a, b, RECORD_BYTES);
}

static size_t project(const void *state, void *out)
{
    const struct world *w = state;
    const struct cleat_sync *sync = w->sync;
    const struct cleat_sync_replica *replicas =
        (const struct cleat_sync_replica
             *)(const void *)((const struct cleat_sync_member
                                   *)(const void *)(sync + 1) +
                              members(w->set));
    unsigned char records[REPLICAS_MAX][RECORD_BYTES];
    unsigned char *at = out;

    at = choose_put_u8(at, w->faults_left);
    at = choose_put_u8(at, w->round);
    at = choose_put_u8(at, (uint32_t)(w->stream | w->committing << 2 |
                                      w->cancelled << 3 | w->dead_before << 4));
    at = choose_put_u8(at, fault_sort(w));
    at = choose_put_u8(at, expel_failed(w));
    at = choose_put_u8(at, w->version_old);
    at = choose_put_u8(at, sync->term <= sync->term_seen);
    at = choose_put_u32(at, (uint32_t)w->worst);
    at = put_pair(at, w, w->last_pair);
    at = choose_put_u8(at, sync->step);
    at = choose_put_u8(at, sync->outcome);
    at = choose_put_u8(at, sync->attempt);
    at = choose_put_u8(
        at, (uint32_t)(sync->attempt_failed | sync->trainer_failed << 1 |
                       sync->cancelled << 2 | sync->committing << 3 |
                       sync->undone << 4 | sync->doomed << 5 |
                       (sync->errors_count > 0) << 6));
    at = choose_put_time(at, sync->deadline_ns, w->now);
    for (uint32_t i = 0; i < w->set->trainers; i++) {
        at = put_member(at, w, i);
    }
    memset(records, 0, sizeof records);
    for (uint32_t r = 0; r < w->set->replicas; r++) {
        unsigned char *to = records[r];

        to = choose_put_u8(
            to, (uint32_t)(replicas[r].state | replicas[r].fenced << 4));
        for (uint32_t i = 0; i < w->set->workers; i++) {
            to = put_member(to, w, member_of(w->set, r, i));
        }
        if (to > records[r] + RECORD_BYTES) { abort(); }
    }
    qsort(records, w->set->replicas, sizeof records[0], by_record);
    return (size_t)(choose_put(at, records,
                               (size_t)w->set->replicas * RECORD_BYTES) -
                    (unsigned char *)out);
}

/* ------------------------------------------------------------------- tests */

#define TEST(n, reaches, ...)                                                 \
    .name = (n), .state_bytes = sizeof(struct world), .init = init,           \
    .step = step, .project = project, .steps_max = 2000,                      \
    .endless_fails = true, .marks = (reaches), .arg = &(const struct setting) \
    {                                                                         \
        __VA_ARGS__                                                           \
    }

static const struct choose_test tests[] = {
    {TEST("three-replicas-one-fault-anywhere-staged", reaches_no_restart,
          .replicas = 3, .workers = 1, .replicas_min = 1, .faults = 1,
          .rounds = 1, .interleave = true)},
    {TEST("three-replicas-one-fault-anywhere-in-place", reaches_all,
          .replicas = 3, .workers = 1, .replicas_min = 1, .faults = 1,
          .rounds = 1, .interleave = true, .in_place = true)},
    {TEST("three-replicas-one-fault-anywhere-two-must-serve", reaches_all,
          .replicas = 3, .workers = 1, .replicas_min = 2, .faults = 1,
          .rounds = 1, .interleave = true, .in_place = true, .attached = 7,
          .lease = 25)},
    {TEST("two-replicas-two-faults-anywhere-staged", reaches_all, .replicas = 2,
          .workers = 1, .replicas_min = 1, .faults = 2, .rounds = 1,
          .interleave = true)},
    {TEST("two-replicas-two-faults-anywhere-in-place", reaches_all,
          .replicas = 2, .workers = 1, .replicas_min = 1, .faults = 2,
          .rounds = 1, .interleave = true, .in_place = true)},
    {TEST("two-replicas-two-faults-anywhere-both-must-serve",
          reaches_not_degraded, .replicas = 2, .workers = 1, .replicas_min = 2,
          .faults = 2, .rounds = 1, .interleave = true)},
    {TEST("two-attached-replicas-two-faults-anywhere-staged", reaches_all,
          .replicas = 2, .workers = 1, .replicas_min = 1, .faults = 2,
          .rounds = 1, .interleave = true, .attached = 3, .lease = 25)},
    {TEST("a-child-and-an-attached-replica-two-faults-in-place", reaches_all,
          .replicas = 2, .workers = 1, .replicas_min = 1, .faults = 2,
          .rounds = 1, .interleave = true, .in_place = true, .attached = 1,
          .lease = 25)},
    {TEST("a-lease-longer-than-the-time-to-expel", reaches_all, .replicas = 2,
          .workers = 1, .replicas_min = 1, .faults = 2, .rounds = 1,
          .attached = 3, .lease = 70)},
    {TEST("one-replica-of-two-workers-one-fault-staged", reaches_not_degraded,
          .replicas = 1, .workers = 2, .replicas_min = 1, .faults = 1,
          .rounds = 1, .interleave = true)},
    {TEST("one-replica-of-two-workers-two-faults-in-place",
          reaches_not_degraded, .replicas = 1, .workers = 2, .replicas_min = 1,
          .faults = 2, .rounds = 1, .interleave = true, .in_place = true)},
    {TEST("one-replica-three-faults-anywhere-in-place", reaches_not_degraded,
          .replicas = 1, .workers = 1, .replicas_min = 1, .faults = 3,
          .rounds = 1, .interleave = true, .in_place = true),
     .slow = true},
    {TEST("two-rounds-one-fault-staged", reaches_no_restart, .replicas = 2,
          .workers = 1, .replicas_min = 1, .faults = 1, .rounds = 2,
          .interleave = true)},
    {TEST("two-rounds-one-fault-in-place", reaches_all, .replicas = 2,
          .workers = 1, .replicas_min = 1, .faults = 1, .rounds = 2,
          .interleave = true, .in_place = true, .attached = 2, .lease = 25)},
    {TEST("two-rounds-two-faults-staged", reaches_all, .replicas = 2,
          .workers = 1, .replicas_min = 1, .faults = 2, .rounds = 2)},
    {TEST("two-rounds-two-faults-in-place", reaches_all, .replicas = 2,
          .workers = 1, .replicas_min = 1, .faults = 2, .rounds = 2,
          .term_gap = 1, .in_place = true)},
    {TEST("three-rounds-two-faults-staged", reaches_all, .replicas = 2,
          .workers = 1, .replicas_min = 1, .faults = 2, .rounds = 3),
     .slow = true},
    {TEST("two-trainers-one-fault-in-place", reaches_all, .trainers = 2,
          .replicas = 2, .workers = 1, .replicas_min = 1, .faults = 1,
          .rounds = 1, .interleave = true, .in_place = true)},
    {TEST("a-replica-is-found-with-a-version-of-its-own", reaches_all,
          .replicas = 2, .workers = 1, .replicas_min = 1, .faults = 2,
          .rounds = 1, .strangers = 2)},
    {TEST("times-near-the-end-of-time", reaches_all, .replicas = 2,
          .workers = 1, .replicas_min = 1, .faults = 1, .rounds = 1,
          .start_ns = UINT64_MAX - 5000, .in_place = true)},
    {TEST("times-that-saturate", reaches_all, .replicas = 2, .workers = 1,
          .replicas_min = 1, .faults = 2, .rounds = 1,
          .start_ns = UINT64_MAX - 60)},
    {TEST("epochs-that-wrap", reaches_no_restart, .replicas = 2, .workers = 1,
          .replicas_min = 1, .faults = 1, .rounds = 2, .term = UINT64_MAX - 5,
          .epoch = UINT64_MAX - 2)},
    {TEST("three-replicas-two-faults-anywhere-staged", reaches_all,
          .replicas = 3, .workers = 1, .replicas_min = 2, .faults = 2,
          .rounds = 1, .interleave = true),
     .slow = true},
    {TEST("two-replicas-of-two-workers-one-fault-in-place", reaches_all,
          .replicas = 2, .workers = 2, .replicas_min = 1, .faults = 1,
          .rounds = 1, .interleave = true, .in_place = true)},
};

/* Too large for every combination: the random driver's. */
static const struct choose_test large[] = {
    {TEST("two-replicas-of-two-workers-few-faults-in-place", NULL,
          .replicas = 2, .workers = 2, .replicas_min = 1, .faults = 5,
          .rounds = 3, .interleave = true, .in_place = true, .attached = 1,
          .lease = 40)},
    {TEST("four-replicas-of-two-workers-many-faults-staged", NULL,
          .replicas = 4, .workers = 2, .replicas_min = 2, .faults = 12,
          .rounds = 4, .interleave = true, .attached = 9, .lease = 25)},
    {TEST("four-replicas-of-two-workers-many-faults-in-place", NULL,
          .replicas = 4, .workers = 2, .replicas_min = 1, .faults = 12,
          .rounds = 4, .interleave = true, .in_place = true, .attached = 5,
          .lease = 40)},
    {TEST("four-replicas-three-must-serve-many-attempts", NULL, .replicas = 4,
          .workers = 1, .replicas_min = 3, .attempts_max = 4, .faults = 8,
          .rounds = 3, .interleave = true, .in_place = true)},
};

int main(int argc, char **argv)
{
    enum {
        SMALL = sizeof tests / sizeof tests[0],
        ALL = SMALL + sizeof large / sizeof large[0]
    };
    struct choose_test all[ALL];
    size_t count = SMALL;

    memcpy(all, tests, sizeof tests);
    memcpy(all + SMALL, large, sizeof large);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--random") == 0 ||
            strcmp(argv[i], "--replay") == 0 ||
            strcmp(argv[i], "--fuzz") == 0) {
            count = ALL;
        }
    }
    return choose_main(argc, argv, all, count);
}
