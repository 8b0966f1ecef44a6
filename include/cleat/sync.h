/* Cleat: one weight update over all replicas. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A job has T trainer workers and R replicas of W workers each. The machine
 * takes one new version from the trainer to every replica, step by step, and
 * whatever fails, ends with every replica that it paused either serving, or
 * set apart for certain, or reported as neither.
 *
 *   pause ▶ release ▶ ┌ prepare ▶ group ▶ send ┐ ▶ commit ▶ finalize ─┐
 *     │        │      └──── finalize ◀─ fails ─┘                      │
 *     │        │            │   └▶ next attempt, next epoch           │
 *     ▼        ▼            ▼                                         ▼
 *     └────────┴────────────┴──────▶ fence ▶ expel ◀──────────────────┘
 *                                      ▼
 *                                   restore ▶ resume ▶ fence ▶ expel ▶ rest
 *
 * A step is sent to all its members at once and ends when all have answered
 * or at its deadline. pause, release, commit, finalize, fence, restore and
 * resume are idempotent: they are sent again every retry_ns until answered.
 * prepare, group and send are not: their failure fails the attempt.
 *
 * Rules that the code below keeps, and that its model proves:
 *  - An undo (finalize, restore, resume) is owed from the moment at which the
 *    command of its step left cleat_sync_next, answered or not.
 *  - A replica that fails pause or release is fenced and the update goes on
 *    while replicas_min remain. After a failed attempt whoever answers
 *    finalize and did not fail for good stays; the others are fenced.
 *  - A trainer that is lost, or fails for good, ends the attempts.
 *  - Commit is the decision: it is sent only when every remaining replica has
 *    verified every bucket. From then on nothing is rolled back and a cancel
 *    comes too late.
 *  - Before anyone resumes, every replica that is not known to hold the
 *    version to be served is fenced: it acknowledges that it has closed its
 *    admission (quarantined), or it is expelled, which the port answers only
 *    when it is certain that the process cannot serve (dead), or neither can
 *    be had (unfenced), and then the job must restart.
 *  - A replica that fails restore or resume holds the right version, and is
 *    fenced afterwards. When fewer than replicas_min remain, all are fenced.
 *
 * Members are numbered: trainer workers 0 … T-1, then worker w of replica r at
 * T + r·W + w. A replica has done a step when all its workers have.
 *
 * Times are absolute nanoseconds of one monotonic clock. A call first applies
 * the deadlines that are ≤ its now_ns: an answer that comes at its deadline is
 * late. The block holds no pointer and may be copied.
 *
 * Whether the new version is staged beside the old or written over it in
 * place makes no difference here: the machine asks each replica what it holds
 * (old, new, torn, unknown) and believes nothing else.
 *
 * The order of undo, and which error wins, were first asked for in a fix
 * proposed to verl's CheckpointEngineManager (pull request 6510): finalize,
 * then cache, then generation; the body's error before that of the cleanup.
 */
#ifndef CLEAT_SYNC_H
#define CLEAT_SYNC_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_SYNC_TRAINERS_MAX 1024u
#define CLEAT_SYNC_REPLICAS_MAX 4096u
#define CLEAT_SYNC_WORKERS_MAX 1024u
#define CLEAT_SYNC_MEMBERS_MAX 4096u

/* How many errors are kept one by one; the rest are counted. */
#define CLEAT_SYNC_ERRORS_MAX 32u

/* Not a member: the caller, or all. */
#define CLEAT_SYNC_NOBODY UINT32_MAX

/* X(NAME, name, WHO, idempotent). WHO gets the command. */
#define CLEAT_SYNC_STEP_LIST(X)                                        \
    X(START, "start", ALL, false) /* bring-up; never commanded here */ \
    X(PAUSE, "pause", ENGINE, true)                                    \
    X(RELEASE, "release", ENGINE, true)                                \
    X(PREPARE, "prepare", ALL, false)                                  \
    X(GROUP, "group", ALL, false)                                      \
    X(SEND, "send", ALL, false)                                        \
    X(COMMIT, "commit", ENGINE, true)                                  \
    X(FINALIZE, "finalize", ALL, true)                                 \
    X(FENCE, "fence", ENGINE, true)                                    \
    X(EXPEL, "expel", PORT, false)                                     \
    X(RESTORE, "restore", ENGINE, true)                                \
    X(RESUME, "resume", ENGINE, true)

enum cleat_sync_step {
#define CLEAT_SYNC_STEP_ENUM(NAME, name, who, idempotent) CLEAT_SYNC_##NAME,
    CLEAT_SYNC_STEP_LIST(CLEAT_SYNC_STEP_ENUM)
#undef CLEAT_SYNC_STEP_ENUM
        CLEAT_SYNC_STEPS /* how many there are; also "at rest" */
};

/* What a worker holds. It owns the truth; the machine asks. */
enum cleat_sync_holding {
    CLEAT_SYNC_UNKNOWN, /* it has not said */
    CLEAT_SYNC_WHOLE,   /* one whole version, the one it names */
    CLEAT_SYNC_TORN     /* bytes of more than one version */
};

enum cleat_sync_replica_state {
    CLEAT_SYNC_SERVING,     /* open for requests, on one whole version */
    CLEAT_SYNC_ACTIVE,      /* taking part in the update under way */
    CLEAT_SYNC_FAILED,      /* to be fenced before anyone resumes */
    CLEAT_SYNC_QUARANTINED, /* has acknowledged that its admission is closed */
    CLEAT_SYNC_DEAD,        /* cannot serve, for certain */
    CLEAT_SYNC_UNFENCED     /* may serve: nobody could make certain */
};

enum cleat_sync_outcome {
    CLEAT_SYNC_NOT_YET,
    CLEAT_SYNC_COMMITTED,   /* every replica serves the new version */
    CLEAT_SYNC_DEGRADED,    /* ≥ replicas_min do; the others are quarantined
                               or dead */
    CLEAT_SYNC_ROLLED_BACK, /* no commit was sent; ≥ replicas_min serve, all
                               on the old version */
    CLEAT_SYNC_RESTART      /* anything else: nobody serves but those that are
                               unfenced */
};

/* Zero means the default, everywhere but in the three counts. */
struct cleat_sync_config {
    uint32_t trainers;     /* T ≥ 1 */
    uint32_t replicas;     /* R ≥ 1 */
    uint32_t workers;      /* W ≥ 1, of each replica */
    uint32_t replicas_min; /* 1 … R: fewer serving is a failure. Default 1 */
    uint32_t attempts_max; /* the first included. Default 3 */
    uint32_t reserved;

    /* How long a step may take, from the moment at which it begins. Default
     * 10 s. step_ns[s] overrides it for step s where it is not zero. */
    uint64_t step_timeout_ns;
    uint64_t step_ns[CLEAT_SYNC_STEPS];

    /* An idempotent command is sent again this long after it was sent last.
     * Default 500 ms; CLEAT_NONE: never. */
    uint64_t retry_ns;
};

struct cleat_sync_request {
    uint64_t version;     /* to be served; not version_old */
    uint64_t version_old; /* being served now; a rollback returns to it */
};

struct cleat_sync_command {
    enum cleat_sync_step step;
    uint32_t member;
    uint32_t attempt;         /* 1 …; 0 before the first */
    uint32_t receivers_count; /* members of replicas that take part, now */
    uint64_t term;
    uint64_t epoch;
    uint64_t version;
    uint64_t deadline_ns; /* of the step */
};

struct cleat_sync_answer {
    enum cleat_sync_step step; /* of the command that it answers, */
    uint32_t member;
    uint64_t term; /* and that command's term and epoch */
    uint64_t epoch;
    enum cleat_status status; /* CLEAT_OK: done, or was done already */
    enum cleat_sync_holding holding;
    uint64_t version; /* held, when holding is CLEAT_SYNC_WHOLE */
    uint32_t digest;  /* send: of all bytes sent or received; 0: not told */
    uint32_t reserved;
};

struct cleat_sync_error {
    enum cleat_sync_step step;
    uint32_t member; /* or CLEAT_SYNC_NOBODY */
    enum cleat_status status;
    uint32_t attempt;
};

/* The block. Its size follows from the three counts; its members are for
 * cleat_sync_* only. */
struct cleat_sync_member {
    uint64_t version;
    uint64_t
        resend_ns; /* when its command leaves (again); NEVER: it does not */
    uint32_t digest;
    uint16_t sent;   /* bit s: step s was sent in this update and its undo,
                        where it has one, is not done */
    uint8_t holding; /* enum cleat_sync_holding */
    bool awaited;    /* the present step waits for its answer */
    bool lost;
    bool expel;     /* has not acknowledged fence */
    bool never;     /* has failed an attempt for good */
    int8_t answer;  /* the present step: last error, 0 none */
    int8_t undo[3]; /* finalize, restore, resume: their status, or 127 */
};

struct cleat_sync_replica {
    uint8_t state; /* enum cleat_sync_replica_state */
    bool fenced;   /* by an acknowledged fence, until the next commit */
    uint8_t reserved[2];
};

struct cleat_sync {
    enum cleat_sync_step step; /* CLEAT_SYNC_STEPS: at rest */
    enum cleat_sync_outcome outcome;
    bool attempt_failed;
    bool trainer_failed;
    bool cancelled;
    bool committing;        /* commit has begun: there is no way back */
    bool undone;            /* restore and resume have been gone through */
    bool doomed;            /* the outcome is CLEAT_SYNC_RESTART */
    uint32_t members_count; /* T + R·W */
    uint32_t attempt;
    uint32_t awaited_count;
    uint32_t scan;         /* where cleat_sync_next looks on */
    uint32_t errors_count; /* all, also those that were not kept */
    uint64_t now_ns;
    uint64_t deadline_ns;
    uint64_t term;
    uint64_t term_seen; /* the highest that any engine has reported */
    uint64_t epoch;
    struct cleat_sync_request request;
    struct cleat_sync_config config;
    struct cleat_sync_error errors[CLEAT_SYNC_ERRORS_MAX];
    /* T + R·W members and then R replicas follow */
};

/* Bytes of block for T, R and W, as a constant expression: for a static
 * array, `_Alignas(8) static unsigned char block[CLEAT_SYNC_BYTES(1, 4, 1)]`.
 */
#define CLEAT_SYNC_BYTES(T, R, W)                \
    (sizeof(struct cleat_sync) +                 \
     ((size_t)(T) + (size_t)(R) * (size_t)(W)) * \
         sizeof(struct cleat_sync_member) +      \
     (size_t)(R) * sizeof(struct cleat_sync_replica))

/* The same, for a configuration; 0 when a count is out of range. */
size_t cleat_sync_bytes(const struct cleat_sync_config *config);

/* Makes a machine in the caller's block.
 *   block   8-byte aligned, at least cleat_sync_bytes(config) bytes; owned by
 *           the caller, must outlive *out, which lies at its start
 *   config  copied
 * Returns CLEAT_OK; CLEAT_INVALID with the argument's number when a count is
 * zero or above its maximum, or replicas_min is above the replicas;
 * CLEAT_TOO_SMALL with the bytes needed in error->offset. On error *out is NULL
 * and the block is untouched. */
enum cleat_status cleat_sync_init(void *block, size_t bytes,
                                  const struct cleat_sync_config *config,
                                  struct cleat_sync **out,
                                  struct cleat_error *error);

/* The longest that an update can take, from cleat_sync_begin to rest, when
 * cleat_sync_tick comes at each deadline. The sum of the steps' times:
 * pause + release + attempts_max · (prepare + group + send + finalize)
 * + commit + restore + resume + 3 · (fence + expel): one fence before
 * resuming, one for those that fail to, one for all when too few remain.
 * Saturates at CLEAT_NEVER. */
uint64_t cleat_sync_bound_ns(const struct cleat_sync_config *config);

/* A worker has attached and says what it is: at bring-up, or in the place of
 * one that was lost. Only at rest.
 *   term_seen  the highest term that it has obeyed; the machine's own term
 *              will exceed it
 * Returns CLEAT_OK; CLEAT_INVALID for no such member or holding, or a term_seen
 * of UINT64_MAX, which nothing exceeds; CLEAT_STATE while an update is under
 * way. */
enum cleat_status cleat_sync_hello(struct cleat_sync *sync, uint32_t member,
                                   uint64_t term_seen,
                                   enum cleat_sync_holding holding,
                                   uint64_t version);

/* Begins an update. Replicas that are dead stay out; those quarantined take
 * part again.
 * Returns CLEAT_OK; CLEAT_STATE while one is under way or after
 * CLEAT_SYNC_RESTART; CLEAT_INVALID when both versions are the same;
 * CLEAT_TIME_BACKWARDS. */
enum cleat_status cleat_sync_begin(struct cleat_sync *sync, uint64_t now_ns,
                                   const struct cleat_sync_request *request);

/* Takes the next command. It must be carried out, or reported as lost or
 * expelled; from here on its undo is owed.
 * Returns CLEAT_OK with *command filled; CLEAT_NOT_FOUND when there is none
 * now. */
enum cleat_status cleat_sync_next(struct cleat_sync *sync,
                                  struct cleat_sync_command *command);

/* When cleat_sync_tick must be called at the latest; CLEAT_NEVER at rest. May
 * be in the past when commands wait to be taken. */
uint64_t cleat_sync_deadline(const struct cleat_sync *sync);

/* Time has passed. Returns CLEAT_OK or CLEAT_TIME_BACKWARDS. */
enum cleat_status cleat_sync_tick(struct cleat_sync *sync, uint64_t now_ns);

/* A worker has answered. Answers of another term or epoch, to another step
 * than the present one, repeated, or from a member not waited for, change
 * nothing: they are late, or duplicates. For CLEAT_SYNC_EXPEL the port answers
 * in the member's place: CLEAT_OK once it is certain that the process cannot
 * serve (reaped, or its lease has run out), an error when it cannot be had.
 * Returns CLEAT_OK, also for an answer that changes nothing; CLEAT_INVALID for
 * no such member, step or holding, or a status that is no answer;
 * CLEAT_TIME_BACKWARDS. */
enum cleat_status cleat_sync_answered(struct cleat_sync *sync, uint64_t now_ns,
                                      const struct cleat_sync_answer *answer);

/* A worker's channel has ended, or its process. It gets no command any more.
 * Returns CLEAT_OK, also when it was known; CLEAT_INVALID;
 * CLEAT_TIME_BACKWARDS. */
enum cleat_status cleat_sync_lost(struct cleat_sync *sync, uint64_t now_ns,
                                  uint32_t member);

/* The caller wants no new version any more. The update goes back as after a
 * failure. Returns CLEAT_OK; CLEAT_STATE at rest and once commit has begun,
 * with no effect; CLEAT_TIME_BACKWARDS. */
enum cleat_status cleat_sync_cancel(struct cleat_sync *sync, uint64_t now_ns);

/* CLEAT_SYNC_NOT_YET while the update is under way. */
enum cleat_sync_outcome cleat_sync_outcome(const struct cleat_sync *sync);

/* What has become of a replica; `replica` < R. */
enum cleat_sync_replica_state
cleat_sync_replica_state(const struct cleat_sync *sync, uint32_t replica);

/* The member's last word: what it holds, and the version where that is
 * CLEAT_SYNC_WHOLE; `member` < T + R·W. *version may be NULL. */
enum cleat_sync_holding cleat_sync_member_holding(const struct cleat_sync *sync,
                                                  uint32_t member,
                                                  uint64_t *version);

/* Error `index` of this update, in the order in which they came; the first is
 * the reason of the outcome. Returns CLEAT_OK, or CLEAT_NOT_FOUND past the
 * last one kept. cleat_sync_errors_count tells all, also those not kept. */
enum cleat_status cleat_sync_error_at(const struct cleat_sync *sync,
                                      uint32_t index,
                                      struct cleat_sync_error *out);
uint32_t cleat_sync_errors_count(const struct cleat_sync *sync);

/* How an undo went at a member: `step` is finalize, restore or resume.
 * Returns its status (CLEAT_PENDING: sent and not answered), or
 * CLEAT_NOT_FOUND when it was not owed. */
enum cleat_status cleat_sync_undo_at(const struct cleat_sync *sync,
                                     enum cleat_sync_step step,
                                     uint32_t member);

/* Names, lower case; "rest" for CLEAT_SYNC_STEPS. Static storage. */
const char *cleat_sync_step_name(enum cleat_sync_step step);
const char *cleat_sync_outcome_name(enum cleat_sync_outcome outcome);
const char *cleat_sync_replica_state_name(enum cleat_sync_replica_state state);

/* Whether a step is idempotent, and whether trainer workers and engine
 * workers get its command. False for values that are no step. */
bool cleat_sync_step_idempotent(enum cleat_sync_step step);
bool cleat_sync_step_to_trainers(enum cleat_sync_step step);
bool cleat_sync_step_to_engines(enum cleat_sync_step step);

/* The member number of a replica's worker, and the replica of a member
 * (CLEAT_SYNC_NOBODY for a trainer worker). */
static inline uint32_t
cleat_sync_member_number(const struct cleat_sync_config *config,
                         uint32_t replica, uint32_t worker)
{
    return config->trainers + replica * config->workers + worker;
}
static inline uint32_t
cleat_sync_replica_of(const struct cleat_sync_config *config, uint32_t member)
{
    return member < config->trainers
               ? CLEAT_SYNC_NOBODY
               : (member - config->trainers) / config->workers;
}

#ifdef __cplusplus
}
#endif
#endif
