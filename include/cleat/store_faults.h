/* Cleat: a store that misbehaves on demand. SPDX-License-Identifier: Apache-2.0
 *
 * A layer over any store (cleat/store.h) that answers as a store does which is
 * unwell: for tests, and to see how a job fares. What it does is decided by
 * rules, and by nothing else than their seed, the operation, the key, and how
 * often this operation of this key has come by: so a run repeats itself,
 * whichever thread comes first.
 *
 *     static const struct cleat_store_fault rules[] = {
 *         {.kind = CLEAT_STORE_FAULT_TRANSIENT, .rate = 100000, .times = 1},
 *     };
 *     cleat_store_faults_init(block, sizeof block, &config, &store, &unwell,
 *                             &error);
 *
 * A tenth of all keys fail once. The first rule that strikes, strikes; an item
 * that none strikes is the inner store's business.
 *
 * In a real store faults are told twice or overtaken by others; a call that
 * returns once cannot show that, so these two have no kind here.
 */
#ifndef CLEAT_STORE_FAULTS_H
#define CLEAT_STORE_FAULTS_H

#include "cleat/store.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a kind may be struck on, as bits 1 << enum cleat_transfer_operation. */
#define CLEAT_STORE_FAULT_PUTS (1u << CLEAT_TRANSFER_DO_PUT)
#define CLEAT_STORE_FAULT_GETS (1u << CLEAT_TRANSFER_DO_GET)
#define CLEAT_STORE_FAULT_READS                                      \
    (1u << CLEAT_TRANSFER_DO_GET | 1u << CLEAT_TRANSFER_DO_COMPARE | \
     1u << CLEAT_TRANSFER_DO_EXISTS | 1u << CLEAT_TRANSFER_DO_SIZE)
#define CLEAT_STORE_FAULT_ALL ((1u << CLEAT_TRANSFER_OPERATIONS) - 1u)

/* X(NAME, name, operations, what happens) */
#define CLEAT_STORE_FAULT_LIST(X)                                              \
    X(TRANSIENT, "transient", CLEAT_STORE_FAULT_ALL,                           \
      "CLEAT_TRANSIENT, without effect")                                       \
    X(TRANSIENT_EFFECT, "transient-effect", CLEAT_STORE_FAULT_ALL,             \
      "CLEAT_TRANSIENT, and yet with effect: a store that lies")               \
    X(AMBIGUOUS, "ambiguous", CLEAT_STORE_FAULT_ALL,                           \
      "CLEAT_AMBIGUOUS, without effect")                                       \
    X(AMBIGUOUS_EFFECT, "ambiguous-effect", CLEAT_STORE_FAULT_ALL,             \
      "CLEAT_AMBIGUOUS, with effect")                                          \
    X(AMBIGUOUS_PUT, "ambiguous-put", CLEAT_STORE_FAULT_PUTS,                  \
      "CLEAT_AMBIGUOUS, with effect or without: half of them each")            \
    X(CAPACITY, "capacity", CLEAT_STORE_FAULT_PUTS,                            \
      "CLEAT_CAPACITY, without effect")                                        \
    X(CAPACITY_EFFECT, "capacity-effect", CLEAT_STORE_FAULT_PUTS,              \
      "CLEAT_CAPACITY, and yet with effect: a store that lies")                \
    X(PERMANENT, "permanent", CLEAT_STORE_FAULT_ALL,                           \
      "CLEAT_PERMANENT, without effect")                                       \
    X(PERMANENT_EFFECT, "permanent-effect", CLEAT_STORE_FAULT_ALL,             \
      "CLEAT_PERMANENT, and yet with effect: a store that lies")               \
    X(MISSING, "missing", CLEAT_STORE_FAULT_READS,                             \
      "CLEAT_NOT_FOUND, though it may be there")                               \
    X(UNREADABLE, "unreadable", CLEAT_STORE_FAULT_READS,                       \
      "CLEAT_UNREADABLE, though it may be there")                              \
    X(SHORT, "short", CLEAT_STORE_FAULT_GETS,                                  \
      "half of the bytes come: CLEAT_SHORT, and the buffer is zeroed")         \
    X(CORRUPT, "corrupt", CLEAT_STORE_FAULT_GETS,                              \
      "a bit is wrong in what comes: CLEAT_CORRUPT, and the buffer is zeroed") \
    X(CORRUPT_STORED, "corrupt-stored", CLEAT_STORE_FAULT_PUTS,                \
      "a bit is wrong in what is stored, and the put says CLEAT_OK")           \
    X(TORN, "torn", CLEAT_STORE_FAULT_PUTS,                                    \
      "half of what is stored is zeros, and the put says CLEAT_OK")            \
    X(LOST, "lost", CLEAT_STORE_FAULT_PUTS,                                    \
      "nothing is stored, and the put says CLEAT_OK")                          \
    X(SILENCE, "silence", CLEAT_STORE_FAULT_ALL,                               \
      "the call stands still for `ns`; then nothing is said of the item, "     \
      "which had no effect")                                                   \
    X(SILENCE_EFFECT, "silence-effect", CLEAT_STORE_FAULT_ALL,                 \
      "the same, with effect, before")                                         \
    X(LATE, "late", CLEAT_STORE_FAULT_ALL,                                     \
      "the call stands still for `ns`, then goes on where it was")             \
    X(LATE_TRANSIENT, "late-transient", CLEAT_STORE_FAULT_ALL,                 \
      "the call stands still for `ns`, then CLEAT_TRANSIENT, without effect")  \
    X(CRASH, "crash-before-end", CLEAT_STORE_FAULT_ALL,                        \
      "this process kills itself with SIGKILL: a put in memory "               \
      "(cleat/memory_store.h) with all bytes written and nothing published, "  \
      "anything else before it begins")                                        \
    X(CRASH_EFFECT, "crash-after", CLEAT_STORE_FAULT_ALL,                      \
      "this process kills itself with SIGKILL when it is done")

enum cleat_store_fault_kind {
    CLEAT_STORE_FAULT_NONE,
#define CLEAT_STORE_FAULT_ENUM(NAME, name, operations, meaning) \
    CLEAT_STORE_FAULT_##NAME,
    CLEAT_STORE_FAULT_LIST(CLEAT_STORE_FAULT_ENUM)
#undef CLEAT_STORE_FAULT_ENUM
        CLEAT_STORE_FAULTS /* one more than the last */
};

/* The kind's name, "crash-before-end"; "none". Static storage. Never NULL. */
const char *cleat_store_fault_name(enum cleat_store_fault_kind kind);

/* What happens. Static storage. Never NULL. */
const char *cleat_store_fault_meaning(enum cleat_store_fault_kind kind);

/* The kind of that name, `bytes` long; CLEAT_STORE_FAULT_NONE: there is none.
 */
enum cleat_store_fault_kind cleat_store_fault_from_name(const char *name,
                                                        size_t bytes);

/* Shares are in millionths. */
#define CLEAT_STORE_FAULT_ALWAYS 1000000u

/* When, and on what, something happens. Zero means the default. */
struct cleat_store_fault {
    uint32_t kind;       /* enum cleat_store_fault_kind; no default */
    uint32_t operations; /* bits; 0: all that the kind may be struck on */
    uint32_t rate;       /* of 1 000 000 keys, with `times`; else of 1 000 000
                            items. 0: always, where `item` or `key` is told;
                            else an error */
    uint32_t times;      /* for each key and operation, the first so many only;
                            0: no limit */
    uint64_t item;       /* the k-th item of these operations alone, of all
                            threads, from 1; 0: any */
    const char *key;     /* this key alone; NULL: any. The caller's; stays */
    uint64_t ns;         /* SILENCE …, LATE …: how long. 0: for ever, until
                            cleat_store_faults_wake */
};

#define CLEAT_STORE_FAULTS_RULES_MAX 32u
#define CLEAT_STORE_FAULTS_COUNTERS_DEFAULT 65536u

struct cleat_store_faults_config {
    const struct cleat_store_fault *rules; /* copied */
    uint32_t rules_count;                  /* 0 … 32 */
    uint32_t counters_count; /* of how often a key came by, a power of two.
                                Keys that share one are counted together.
                                0: 65536 */
    uint64_t seed;
};

/* Bytes of block; 0 when a count is out of range. */
size_t cleat_store_faults_bytes(uint32_t counters_count);

/* Makes the layer.
 *   block   aligned to 8, the caller's, outlives *out
 *   inner   copied; what it is made of must outlive *out
 *   out     filled
 * Returns CLEAT_OK; CLEAT_INVALID, with the rule in error->index; CLEAT_TOO_
 * SMALL with the bytes needed in error->offset. */
enum cleat_status
cleat_store_faults_init(void *block, size_t bytes,
                        const struct cleat_store_faults_config *config,
                        const struct cleat_store *inner,
                        struct cleat_store *out, struct cleat_error *error);

/* Ends every silence, those to come included. Any thread. */
void cleat_store_faults_wake(const struct cleat_store *store);

/* How often a rule has struck; every rule: UINT32_MAX. Any thread. */
uint64_t cleat_store_faults_struck(const struct cleat_store *store,
                                   uint32_t rule);

#ifdef __cplusplus
}
#endif
#endif
