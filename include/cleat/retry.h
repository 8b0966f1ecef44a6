/* Cleat: when to try again. SPDX-License-Identifier: Apache-2.0
 *
 * A policy says how often and how far apart, a slot holds one operation under
 * way, a budget is shared by many operations and keeps their retries from
 * becoming a flood. Nothing here waits: a failure is told, and the answer is a
 * time at which to try again, or the end.
 *
 *   begin ──▶ attempt ──succeeded──▶ ended
 *               │  ▲
 *        failed │  │ CLEAT_OK: at *wait_until_ns
 *               ▼  │
 *             verdict ──any other status──▶ ended
 *
 * Attempts include the first. There is no wait after the last one.
 *
 * The delay before attempt k + 1 (k = 1, 2, …), before jitter, is
 *
 *     d(k) = min(max_ns, base_ns · m^(k-1)),   m = multiplier / 1000
 *
 * with fractions of a nanosecond cut wherever they arise. Jitter draws the
 * delay from a band; U(a, b) is uniform in a ≤ x < b, and a where the two are
 * the same:
 *
 *   none          d(k)
 *   additive      d(k) + U(0, spread_ns)
 *   full          U(0, d(k))
 *   equal         d(k)/2 + U(0, d(k)/2)
 *   proportional  d(k)·(1-p) + U(0, 2·p·d(k)),   p = 0.2 unless told
 *   decorrelated  min(max_ns, U(base_ns, 3 · the delay before)), at first
 *                 min(max_ns, U(base_ns, 3 · base_ns))
 *
 * Full, equal and decorrelated are those of "Exponential Backoff And Jitter"
 * (AWS Architecture Blog, 2015); proportional is gRFC A6 (2024), where p is
 * 0.2 and the delay is capped before the jitter.
 *
 * Randomness comes as a number, uniform over 64 bits; its upper 32 bits are
 * used. Arithmetic is on integers and saturates.
 *
 * Invariants: never-more-than-attempts_max · delay-within-its-band ·
 * no-wait-after-the-last · permanent-and-cancelled-never-retried ·
 * never-waits-past-the-deadline · no-overflow-at-any-input.
 */
#ifndef CLEAT_RETRY_H
#define CLEAT_RETRY_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A jitter is a number: in its lower half the thousandths of d(k) that are
 * certain and two flags, in its upper half the thousandths that are drawn. */
enum cleat_retry_jitter {
    CLEAT_RETRY_JITTER_DEFAULT = 0, /* full */
    CLEAT_RETRY_JITTER_NONE = 1000,
    CLEAT_RETRY_JITTER_FULL = 1000 << 16,
    CLEAT_RETRY_JITTER_EQUAL = 500 << 16 | 500,
    CLEAT_RETRY_JITTER_PROPORTIONAL = 400 << 16 | 800, /* p = 0.2 */
    CLEAT_RETRY_JITTER_ADDITIVE = 1 << 15 | 1000,
    CLEAT_RETRY_JITTER_DECORRELATED = 1 << 14 | 1000,
    CLEAT_RETRY_JITTER_FLAGS = 3 << 14
};
/* Proportional with another p, in thousandths, 0 … 1000. */
#define CLEAT_RETRY_JITTER_BY(p) ((uint32_t)(p) << 17 | (1000u - (uint32_t)(p)))

enum cleat_retry_flags {
    /* A hint is the delay, exactly, and the backoff starts over after it
     * (gRFC A6, pushback). Without it a hint h is held to
     * delay ≤ h ≤ delay + hint_max_ns (AWS, x-amz-retry-after). */
    CLEAT_RETRY_HINT_EXACT = 1,
    /* The operation may be done twice: a failure that may have taken effect
     * is tried again like any other. Without it such a failure ends the slot
     * (verify first). The flag is the class's bit. */
    CLEAT_RETRY_IDEMPOTENT = 1 << CLEAT_CLASS_AMBIGUOUS
};

/* No limit but that of the counter: 4 294 967 295 attempts. */
#define CLEAT_RETRY_UNLIMITED UINT32_MAX

/* Zero means the default. The defaults are those of CLEAT_RETRY_DATA_PATH. */
struct cleat_retry_policy {
    uint64_t base_ns;     /* the first delay. 0: 100 ms. CLEAT_NONE: never wait;
                             such a backoff does not grow */
    uint64_t max_ns;      /* caps d(k). 0: 5 s. CLEAT_NONE: no cap */
    uint64_t spread_ns;   /* additive. 0: 1 s. CLEAT_NONE: nothing is added */
    uint64_t hint_max_ns; /* how much longer than the delay a hint may make
                             the wait. 0: 5 s. CLEAT_NONE: as it likes */
    uint64_t deadline_ns; /* for all attempts, from begin. 0: 180 s.
                             CLEAT_NONE: none */
    uint64_t attempt_timeout_ns;     /* for each attempt. 0: 60 s.
                                        CLEAT_NONE: none */
    uint32_t attempts_max;           /* the first included. 0: 4.
                                        CLEAT_RETRY_UNLIMITED: no limit */
    uint32_t multiplier_thousandths; /* 1000 … 1 000 000. 0: 2000 */
    uint32_t jitter;                 /* enum cleat_retry_jitter. 0: full */
    uint32_t flags;                  /* enum cleat_retry_flags */
};

/* Policies, as initialisers: `struct cleat_retry_policy p = CLEAT_RETRY_X;`
 * base, cap, spread, longest hint, deadline, attempt, attempts, multiplier,
 * jitter, flags. */
/* clang-format off */

/* For moving data to and from a store: every default, spelt out. */
#define CLEAT_RETRY_DATA_PATH                                               \
    { CLEAT_NS_PER_S / 10, 5 * CLEAT_NS_PER_S, 1 * CLEAT_NS_PER_S,          \
      5 * CLEAT_NS_PER_S, 180 * CLEAT_NS_PER_S, 60 * CLEAT_NS_PER_S,        \
      4, 2000, CLEAT_RETRY_JITTER_FULL, 0 }

/* For a store that is full: much longer waits. May take over a slot that began
 * under another policy; its delay is then never below this base. */
#define CLEAT_RETRY_CAPACITY                                                \
    { 1 * CLEAT_NS_PER_S, 20 * CLEAT_NS_PER_S, 0, 0,                        \
      180 * CLEAT_NS_PER_S, 60 * CLEAT_NS_PER_S,                            \
      6, 2000, CLEAT_RETRY_JITTER_FULL, 0 }

/* For waiting until something has started. Equal jitter: full jitter may draw
 * delays near zero, and spend its attempts on what takes seconds. */
#define CLEAT_RETRY_BRING_UP                                                \
    { 2 * CLEAT_NS_PER_S, 30 * CLEAT_NS_PER_S, 0, 0,                        \
      600 * CLEAT_NS_PER_S, 30 * CLEAT_NS_PER_S,                            \
      CLEAT_RETRY_UNLIMITED, 2000, CLEAT_RETRY_JITTER_EQUAL,                \
      CLEAT_RETRY_IDEMPOTENT }

/* What others do, with their numbers. verl's tool loading: */
#define CLEAT_RETRY_VERL                                                    \
    { 1 * CLEAT_NS_PER_S, 2 * CLEAT_NS_PER_S, 0, 0, CLEAT_NONE, CLEAT_NONE, \
      3, 2000, CLEAT_RETRY_JITTER_NONE, CLEAT_RETRY_IDEMPOTENT }

/* slime's bring-up: */
#define CLEAT_RETRY_SLIME                                                   \
    { 2 * CLEAT_NS_PER_S, 30 * CLEAT_NS_PER_S, 1 * CLEAT_NS_PER_S, 0,       \
      CLEAT_NONE, CLEAT_NONE,                                               \
      3, 2000, CLEAT_RETRY_JITTER_ADDITIVE, CLEAT_RETRY_IDEMPOTENT }

/* The example of gRFC A6: */
#define CLEAT_RETRY_GRPC                                                    \
    { CLEAT_NS_PER_S / 10, 1 * CLEAT_NS_PER_S, 0, 0, CLEAT_NONE,            \
      CLEAT_NONE, 4, 2000, CLEAT_RETRY_JITTER_PROPORTIONAL,                 \
      CLEAT_RETRY_HINT_EXACT }

/* The AWS SDKs' exponential strategy, with either jitter: */
#define CLEAT_RETRY_AWS_FULL                                                \
    { CLEAT_NS_PER_S / 2, 20 * CLEAT_NS_PER_S, 0, 0, CLEAT_NONE,            \
      CLEAT_NONE, 3, 2000, CLEAT_RETRY_JITTER_FULL, 0 }
#define CLEAT_RETRY_AWS_DECORRELATED                                        \
    { CLEAT_NS_PER_S / 2, 20 * CLEAT_NS_PER_S, 0, 0, CLEAT_NONE,            \
      CLEAT_NONE, 3, 2000, CLEAT_RETRY_JITTER_DECORRELATED, 0 }
/* clang-format on */

/* Tokens, in thousandths, shared by the operations against one peer. Without
 * charge_every_failure (AWS) a retry takes its cost, is refused where there is
 * not as much, and the slot gives back what its last retry took when it then
 * succeeds. With it (gRPC) every failure that could be retried costs, whether
 * or not it then is, and retries are refused while tokens ≤ floor. A success
 * that has nothing to give back adds `gain`. Failures that are not retried by
 * their class cost nothing. */
struct cleat_retry_budget {
    uint32_t tokens; /* now; 0 … tokens_max */
    uint32_t tokens_max;
    uint32_t floor;          /* charge_every_failure only */
    uint32_t cost;           /* when the other side is full */
    uint32_t cost_transient; /* of transient and ambiguous failures: time-outs
                                and what may be one */
    uint32_t gain;
    uint32_t charge_every_failure; /* 0 or 1 */
};

/* AWS standard mode: 500 tokens, 5 a retry, 10 after a time-out or a transient
 * error, 1 for a success without a retry. */
#define CLEAT_RETRY_BUDGET_AWS                  \
    {                                           \
        500000, 500000, 0, 5000, 10000, 1000, 0 \
    }
/* gRFC A6: maxTokens 10, tokenRatio 0.1. */
#define CLEAT_RETRY_BUDGET_GRPC                \
    {                                          \
        10000, 10000, 5000, 1000, 1000, 100, 1 \
    }

/* One operation. Copyable, no pointers; not for reading. */
struct cleat_retry_slot {
    uint64_t deadline_ns; /* of all attempts, absolute */
    uint64_t now_ns;      /* the latest time told */
    uint64_t delay_ns;    /* the last delay: d(k), or the one drawn where the
                             next depends on it; 0: none yet */
    uint32_t attempts;    /* begun; 0: not begun, or ended */
    uint32_t taken;       /* thousandths of tokens, to be given back */
};

/* Looks a policy over, once, before it is used.
 * Returns CLEAT_OK; CLEAT_INVALID when the multiplier is not 0 and outside
 * 1000 … 1 000 000, or more than 1000 thousandths of the jitter are certain,
 * more than 2000 drawn, or flags are unknown. A base above the cap is legal:
 * the cap holds from the first delay on. */
enum cleat_status
cleat_retry_policy_check(const struct cleat_retry_policy *policy);

/* Begins an operation, and its first attempt. `slot` may hold anything. */
void cleat_retry_begin(struct cleat_retry_slot *slot,
                       const struct cleat_retry_policy *policy,
                       uint64_t now_ns);

/* When the present attempt is to be given up, if it starts at `start_ns`: at
 * its own time-out or at the deadline of all, whichever comes first. */
uint64_t cleat_retry_attempt_deadline(const struct cleat_retry_slot *slot,
                                      const struct cleat_retry_policy *policy,
                                      uint64_t start_ns);

/* The present attempt has failed. Is there another one?
 *   policy         checked; need not be the one that the slot began with: a
 *                  caller may have another for each class of failure. The
 *                  deadline is that of begin
 *   budget         of the peer, or NULL: the same in every call of a slot
 *   status         how it failed
 *   hint_ns        what the other side asks to wait; CLEAT_NONE: it did not
 *   random         uniform over 64 bits
 *   wait_until_ns  written only with CLEAT_OK: when the next attempt begins,
 *                  always before the deadline
 * Returns CLEAT_OK: there is. Otherwise the slot has ended:
 *   CLEAT_DEADLINE   the next attempt would not begin before the deadline
 *   CLEAT_EXHAUSTED  that was the last attempt, or the budget refuses
 *   `status`         where its class is permanent or cancelled, or ambiguous
 *                    without CLEAT_RETRY_IDEMPOTENT
 * or nothing has changed:
 *   CLEAT_TIME_BACKWARDS  now_ns is less than a time told before
 *   CLEAT_STATE           the slot has ended
 *   CLEAT_INVALID         `status` is no failure */
enum cleat_status cleat_retry_failed(struct cleat_retry_slot *slot,
                                     const struct cleat_retry_policy *policy,
                                     struct cleat_retry_budget *budget,
                                     enum cleat_status status, uint64_t hint_ns,
                                     uint64_t random, uint64_t now_ns,
                                     uint64_t *wait_until_ns);

/* The present attempt has succeeded: the slot ends, the budget (or NULL) gets
 * back what the slot took, or its gain. Returns CLEAT_OK; CLEAT_STATE, with no
 * effect, when the slot has ended. */
enum cleat_status cleat_retry_succeeded(struct cleat_retry_slot *slot,
                                        struct cleat_retry_budget *budget);

#ifdef __cplusplus
}
#endif
#endif
