/* Cleat: tool lists, fetched once. SPDX-License-Identifier: Apache-2.0
 *
 * A value (a tool list, or a config that names tool sources) is fetched once
 * by whoever needs it first; those who ask meanwhile wait for that one load, no
 * longer than they said. The machine decides who loads, who waits, what is
 * fresh and who gives way; values lie outside of it, in slots of one size that
 * it only numbers.
 *
 *   an entry, one a key
 *
 *     (none) ──lookup──▶ wanting ──a slot──▶ loading ──CLEAT_OK──▶ idle
 *                          ▲                   │  │                 │
 *                          │    failed, silent │  └─invalidated ────┤ wanting
 *                          └─── backing off ◀──┘    meanwhile       │
 *                                    │                     lookup of│a stale
 *                                    ▼ no attempt left              ▼ value
 *                        (none), or failed for negative_ttl_ns   wanting
 *
 *   a slot:  free ─▶ loading ─▶ value ─▶ old ─▶ free
 *                       └─▶ abandoned ─▶ free     (its late result has come)
 *
 * Freshness. A value is fresh for the time that its server said, at most
 * ttl_max_ns, or for ttl_default_ns where it said nothing, and until it is
 * invalidated. A stale one may still be given out for stale_max_ns, while one
 * load refreshes it. Each key has a generation that invalidation raises: what
 * was loaded across one is not called fresh, and is loaded again, reloads_max
 * times at most; after that it is given out as stale.
 *
 * Failure. A load is tried again by its policy, with nothing held; what comes
 * of it in the end, all who wait are told. A failure leaves nothing behind,
 * unless negative_ttl_ns is set. A load that missed its deadline is abandoned:
 * its slot stays reserved until its result comes, however late, and that
 * result changes nothing else.
 *
 * Who gives way. A load takes a free slot; else one whose value was replaced;
 * else a value that is stale; else the one least recently used. What is pinned
 * never gives way, nor what is being loaded, nor a stale value that still
 * serves while it is refreshed. Pins are counted outside, so the machine asks
 * before it takes (RECLAIM). When nothing gives way the attempt has failed with
 * CLEAT_NO_SLOT, and the policy decides. Where all entries are taken, a
 * remembered failure gives way; a value gives its entry up only with its slot,
 * so that with no more entries than slots new keys may find none.
 *
 * Every call that carries a time first applies the deadlines that are ≤ that
 * time. Times are absolute nanoseconds, and saturate.
 *
 * Invariants: one-load-a-key · no-key-waits-for-another · every-waiter-ends ·
 * failure-leaves-nothing · a-pinned-value-never-changes ·
 * invalidated-while-loading-is-not-fresh · a-late-result-changes-nothing.
 */
#ifndef CLEAT_TOOL_CACHE_H
#define CLEAT_TOOL_CACHE_H

#include "cleat/retry.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a list is fetched unless told otherwise: verl's numbers (30 s each, three
 * attempts, 1 s and 2 s between them), drawn 20 % apart, so that the processes
 * of one job do not come back together. */
/* clang-format off */
#define CLEAT_RETRY_TOOLS                                                   \
    { 1 * CLEAT_NS_PER_S, 30 * CLEAT_NS_PER_S, 0, 0, CLEAT_NONE,            \
      30 * CLEAT_NS_PER_S, 3, 2000, CLEAT_RETRY_JITTER_PROPORTIONAL,        \
      CLEAT_RETRY_IDEMPOTENT }
/* clang-format on */

#define CLEAT_TOOL_CACHE_TTL_MAX_NS_DEFAULT (86400 * CLEAT_NS_PER_S)
#define CLEAT_TOOL_CACHE_RELOADS_MAX_DEFAULT 3u

/* No entry, slot or waiter. */
#define CLEAT_TOOL_CACHE_NOBODY UINT32_MAX

struct cleat_tool_cache_config {
    /* Of each load, all attempts together; copied. CLEAT_RETRY_IDEMPOTENT is
     * taken as set. NULL: CLEAT_RETRY_TOOLS. */
    const struct cleat_retry_policy *policy;
    uint64_t ttl_default_ns; /* where the server says nothing. 0: never stale */
    uint64_t ttl_max_ns;     /* clamps what servers say. 0: 24 h. CLEAT_NONE:
                                nothing is clamped */
    uint64_t stale_max_ns;   /* how long a stale value may still be given out.
                                0: not at all. CLEAT_NONE: for ever */
    uint64_t negative_ttl_ns; /* how long a failure is remembered. 0: not at
                                 all */
    uint32_t entries_count;   /* keys known at once, ≥ slots_count */
    uint32_t slots_count;     /* values held at once, ≥ 1 */
    uint32_t waiters_count;   /* lookups waiting at once, ≥ 1 */
    uint32_t reloads_max; /* loads made again because of an invalidation. 0: 3.
                             CLEAT_TOOL_CACHE_NOBODY: none */
};

/* What has happened so far; each wraps. */
struct cleat_tool_cache_counters {
    uint64_t hits;      /* lookups answered at once, and what
                           cleat_tool_cache_used told; stale ones too */
    uint64_t stale;     /* of those: stale */
    uint64_t misses;    /* lookups that had to wait, or could not */
    uint64_t waits;     /* lookups that waited */
    uint64_t loads;     /* attempts that got a slot */
    uint64_t failures;  /* attempts failed, for want of a slot too */
    uint64_t refreshes; /* loads of a key that has a value */
    uint64_t evictions; /* values that gave way */
    uint64_t late;      /* results that came too late */
    uint64_t invalidations;
};

/* One key. Not for reading. */
struct cleat_tool_cache_entry {
    uint32_t state;
    int32_t status;    /* how the last attempt failed */
    uint32_t value;    /* slot, or NOBODY */
    uint32_t loading;  /* slot, or NOBODY */
    uint32_t attempts; /* of the present load, or the one that failed */
    uint32_t reloads;  /* of the present load */
    uint64_t key;
    uint64_t moment_ns; /* what the state says */
    uint64_t fresh_until_ns;
    uint64_t stale_until_ns;
    uint64_t began_ns; /* the present load's first attempt */
    struct cleat_retry_slot retry;
};

/* One value's place. Not for reading. */
struct cleat_tool_cache_slot {
    uint64_t load; /* the number of the load that fills or filled it: how many
                      had begun */
    uint64_t used; /* order of the last use */
    uint32_t entry;
    uint8_t state;
    uint8_t due;      /* what is to be handed out about it, or 0 */
    uint8_t refused;  /* it was asked for, and is pinned */
    uint8_t outdated; /* what is being loaded was invalidated meanwhile */
};

/* The next thing to be done outside. */
enum cleat_tool_cache_do {
    /* Stop giving `slot` out without asking the machine: its value is stale,
     * or has been replaced. Pins stay. */
    CLEAT_TOOL_CACHE_UNPUBLISH = 1,
    /* `slot` holds the value of `key`, and may be given out without asking
     * until until_ns. */
    CLEAT_TOOL_CACHE_PUBLISH,
    /* `waiter` has ended with `status`; with CLEAT_OK its value is in `slot`,
     * to be pinned before the next call. */
    CLEAT_TOOL_CACHE_WAKE,
    /* Load number `load`, into `slot`, is given up. Nobody needs it; its
     * result is still to be told. */
    CLEAT_TOOL_CACHE_ABANDON,
    /* May `slot` be taken? If nobody pins it, stop giving it out, for good;
     * otherwise leave it as it is. The answer, cleat_tool_cache_reclaimed, must
     * be the next call. */
    CLEAT_TOOL_CACHE_RECLAIM,
    /* Load `key` into `slot` as load number `load`, which is given up at
     * until_ns. */
    CLEAT_TOOL_CACHE_LOAD
};

struct cleat_tool_cache_command {
    uint64_t key;      /* LOAD, PUBLISH */
    uint64_t load;     /* LOAD, ABANDON */
    uint64_t until_ns; /* LOAD, PUBLISH */
    uint64_t tag;      /* WAKE: the caller's */
    uint64_t began_ns; /* LOAD, WAKE: when the first attempt of it began */
    uint32_t what;     /* enum cleat_tool_cache_do */
    uint32_t entry;    /* of the key; WAKE: that it waited for */
    uint32_t slot;
    uint32_t waiter;
    uint32_t attempts; /* LOAD, WAKE: made so far, this one included */
    int16_t status;    /* WAKE */
    uint8_t stale; /* WAKE: 1 where it was invalidated since its load began */
    uint8_t reserved;
};

/* One lookup that waits. Not for reading. */
struct cleat_tool_cache_waiter {
    uint32_t state;
    uint32_t reserved;
    uint64_t deadline_ns;
    struct cleat_tool_cache_command told; /* its WAKE, once it has ended */
};

/* A cache; the entries, slots and waiters follow it. Not for reading. */
struct cleat_tool_cache {
    struct cleat_tool_cache_config config; /* defaults filled in */
    uint32_t asked; /* the slot of the RECLAIM that waits for its answer */
    uint32_t reserved;
    uint64_t now_ns; /* the latest time told */
    uint64_t random; /* the last told */
    uint64_t order;  /* of uses */
    struct cleat_tool_cache_counters counters;
    struct cleat_retry_policy policy;
};

/* Bytes of block, as a constant expression. */
#define CLEAT_TOOL_CACHE_BYTES(entries, slots, waiters)          \
    (sizeof(struct cleat_tool_cache) +                           \
     (size_t)(entries) * sizeof(struct cleat_tool_cache_entry) + \
     (size_t)(slots) * sizeof(struct cleat_tool_cache_slot) +    \
     (size_t)(waiters) * sizeof(struct cleat_tool_cache_waiter))

/* The same, from a configuration; SIZE_MAX where it does not fit. */
size_t cleat_tool_cache_bytes(const struct cleat_tool_cache_config *config);

/* What a lookup found. */
struct cleat_tool_cache_answer {
    uint32_t entry; /* of the key; NOBODY: none */
    uint32_t slot;  /* CLEAT_OK: the value, to be pinned before the next call */
    uint32_t waiter;   /* CLEAT_PENDING: its number */
    uint32_t attempts; /* a remembered failure: how many had been made */
    bool stale;        /* CLEAT_OK: it is not fresh, and is being refreshed */
};

/* Makes a cache in the caller's block.
 *   block   8-byte aligned, `bytes` bytes; must outlive *out
 *   config  copied, its policy too
 * Returns CLEAT_OK; CLEAT_INVALID: alignment, a count of zero, fewer
 * entries than slots, an unsound policy; CLEAT_TOO_SMALL with the bytes needed
 * in error->offset. On error *out is NULL. */
enum cleat_status cleat_tool_cache_begin(
    void *block, size_t bytes, const struct cleat_tool_cache_config *config,
    uint64_t now_ns, struct cleat_tool_cache **out, struct cleat_error *error);

/* Looks a key up; where there is no value that may be given out, begins its
 * load, or joins the one under way, and waits.
 *   key          opaque; the caller's name for what is loaded
 *   deadline_ns  when the wait ends at the latest
 *   tag          opaque; comes back with the WAKE
 *   answer       filled as each status says, the rest is NOBODY or 0
 * Returns CLEAT_OK: answer->slot, at once; CLEAT_PENDING: a WAKE with
 * answer->waiter will come; CLEAT_DEADLINE: there is no value, and the
 * deadline has passed: nothing was begun; CLEAT_NO_SLOT: every waiter, or every
 * entry, is taken; CLEAT_TIME_BACKWARDS, CLEAT_STATE (an answer to RECLAIM is
 * awaited): nothing has changed; else a failure that is remembered. */
enum cleat_status
cleat_tool_cache_lookup(struct cleat_tool_cache *cache, uint64_t now_ns,
                        uint64_t key, uint64_t deadline_ns, uint64_t tag,
                        struct cleat_tool_cache_answer *answer);

/* Begins the load of a key that has no fresh value, if none is under way, for
 * nobody in particular. Returns CLEAT_OK, also when there was nothing to do;
 * CLEAT_NO_SLOT: every entry is taken; CLEAT_TIME_BACKWARDS; CLEAT_STATE; a
 * failure that is remembered. */
enum cleat_status cleat_tool_cache_prefetch(struct cleat_tool_cache *cache,
                                            uint64_t now_ns, uint64_t key);

/* Ends a waiter before its time: no WAKE will come for it.
 * Returns CLEAT_OK; CLEAT_STATE: it does not wait, or its WAKE has been handed
 * out; CLEAT_TIME_BACKWARDS. */
enum cleat_status cleat_tool_cache_cancel(struct cleat_tool_cache *cache,
                                          uint64_t now_ns, uint32_t waiter);

/* What is known of a key is out of date, as of now, a remembered failure
 * included. Returns CLEAT_OK; CLEAT_NOT_FOUND: nothing is known of it;
 * CLEAT_TIME_BACKWARDS; CLEAT_STATE. */
enum cleat_status cleat_tool_cache_invalidate(struct cleat_tool_cache *cache,
                                              uint64_t now_ns, uint64_t key);

/* A load has ended, in time or late, each exactly once.
 *   load     its number
 *   status   CLEAT_OK: the value is in its slot; or the failure, whose class
 *            decides about another attempt
 *   ttl_ns   how long the server calls the value fresh; CLEAT_NONE: it does
 *            not say. 0: stale at once; those who wait get it
 *   hint_ns  on failure, how long the server asks to be left alone;
 *            CLEAT_NONE: it does not
 *   random   uniform over 64 bits
 * Returns CLEAT_OK; CLEAT_INVALID: no such load is under way, or `status` is no
 * result; CLEAT_TIME_BACKWARDS; CLEAT_STATE. */
enum cleat_status cleat_tool_cache_loaded(struct cleat_tool_cache *cache,
                                          uint64_t now_ns, uint64_t load,
                                          enum cleat_status status,
                                          uint64_t ttl_ns, uint64_t hint_ns,
                                          uint64_t random);

/* The answer to RECLAIM: `yes`, and the slot is free; or it is pinned.
 * Returns CLEAT_OK; CLEAT_STATE: it was not asked. */
enum cleat_status cleat_tool_cache_reclaimed(struct cleat_tool_cache *cache,
                                             uint32_t slot, bool yes);

/* `slot` has been given out `hits` times without asking, and counts as used
 * now. Returns CLEAT_OK; CLEAT_INVALID: no such slot. */
enum cleat_status cleat_tool_cache_used(struct cleat_tool_cache *cache,
                                        uint32_t slot, uint64_t hits);

/* The next command; false: there is none. Commands come in the order of enum
 * cleat_tool_cache_do, the waiters' in the order of their numbers. While an
 * answer to RECLAIM is awaited there is none. */
bool cleat_tool_cache_next(struct cleat_tool_cache *cache,
                           struct cleat_tool_cache_command *command);

/* When cleat_tool_cache_tick must be called at the latest; CLEAT_NEVER. */
uint64_t cleat_tool_cache_deadline(const struct cleat_tool_cache *cache);

/* Applies the deadlines that are ≤ now_ns.
 *   random  uniform over 64 bits
 * Returns CLEAT_OK; CLEAT_TIME_BACKWARDS; CLEAT_STATE. */
enum cleat_status cleat_tool_cache_tick(struct cleat_tool_cache *cache,
                                        uint64_t now_ns, uint64_t random);

/* The counters. */
static inline struct cleat_tool_cache_counters
cleat_tool_cache_count(const struct cleat_tool_cache *cache)
{
    return cache->counters;
}

#ifdef __cplusplus
}
#endif
#endif
