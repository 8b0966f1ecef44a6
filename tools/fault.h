/* Cleat: what `--fault STEP:WHO:KIND` says. SPDX-License-Identifier:
 * Apache-2.0
 *
 *     STEP   start pause release prepare group send commit finalize restore
 *            resume, or send@K: at the K-th bucket, from 1
 *     WHO    trainer, a replica's number from 0, or any
 *     KIND   error permanent kill stop stop=MS corrupt slow=MS late duplicate
 *            lost-answer; MS are milliseconds, which may have a fraction
 *
 * The grammar and nothing else; tools/strike.h strikes.
 */
#ifndef CLEAT_TOOLS_FAULT_H
#define CLEAT_TOOLS_FAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cleat/sync.h"

/* How many a run can have. */
#define FAULTS_MAX 64u

/* X(NAME, name, takes milliseconds). */
#define FAULT_KIND_LIST(X)                                                \
    X(ERROR, "error", false)         /* fails once, without effect */     \
    X(PERMANENT, "permanent", false) /* fails each time, for good */      \
    X(KILL, "kill", false)           /* SIGKILL */                        \
    X(STOP, "stop", false)           /* SIGSTOP, for ever */              \
    X(WAKE, "stop", true)            /* SIGSTOP, then SIGCONT after MS */ \
    X(CORRUPT, "corrupt", false)     /* one bit, on its way */            \
    X(SLOW, "slow", true)            /* sleeps MS first */                \
    X(LATE, "late", false)           /* answers after the deadline */     \
    X(DUPLICATE, "duplicate", false) /* answers twice */                  \
    X(LOST_ANSWER, "lost-answer", false)

enum fault_kind {
#define FAULT_KIND_ENUM(NAME, name, timed) FAULT_##NAME,
    FAULT_KIND_LIST(FAULT_KIND_ENUM)
#undef FAULT_KIND_ENUM
        FAULT_KINDS
};

/* Values of `who` that are no replica's number. */
#define FAULT_TRAINER UINT32_MAX
#define FAULT_ANY (UINT32_MAX - 1u)

struct fault {
    enum cleat_sync_step step;
    enum fault_kind kind;
    uint32_t bucket; /* send@K: K; 0: the whole step */
    uint32_t who;
    uint64_t ns; /* of stop=MS and slow=MS; else 0 */
};

/* The longest text of a fault, with its NUL, and of what is wrong with one. */
#define FAULT_TEXT_MAX 96u
#define FAULT_WHY_MAX 200u

/* Reads one. False: `why` (FAULT_WHY_MAX bytes) says what was expected. */
bool fault_parse(const char *text, struct fault *fault, char *why);

/* Can it ever strike in a job of `replicas` replicas and `buckets` buckets?
 * False: `why` says why not. */
bool fault_check(const struct fault *fault, uint32_t replicas, uint32_t buckets,
                 char *why);

/* Does it change the bytes of a bucket, which must then be the host's? */
static inline bool fault_changes_bucket(const struct fault *fault)
{
    return fault->kind == FAULT_CORRUPT && fault->bucket != 0;
}

/* What is said of such a one where they are not. */
#define FAULT_NOT_ON_HOST                                                    \
    "with --digest off a bucket's bytes stay on the GPU, and nobody checks " \
    "them on their way"

/* Puts a member in the place of `any`, one that has such a command.
 *   random   a state; goes on from call to call */
void fault_draw(struct fault *fault, uint32_t replicas, uint64_t *random);

/* What was typed, for an error line: cut, and without control characters;
 * `quoted` has FAULT_TEXT_MAX bytes. */
void fault_quote(const char *text, char *quoted);

/* Writes it as fault_parse reads it; `text` has FAULT_TEXT_MAX bytes. */
void fault_print(const struct fault *fault, char *text);

#endif
