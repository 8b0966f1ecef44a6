/* Cleat: retry, slow and obvious. SPDX-License-Identifier: Apache-2.0
 *
 * What the header of retry promises, computed another way: with 128 bits,
 * from the formulas, with the defaults written out again. */
#ifndef CLEAT_TEST_RETRY_ORACLE_H
#define CLEAT_TEST_RETRY_ORACLE_H

#include "cleat/retry.h"

__extension__ typedef unsigned __int128 oracle_wide;

struct oracle_band {
    oracle_wide low;  /* a delay is at least this, */
    oracle_wide high; /* and at most this */
};

static inline uint64_t oracle_value(uint64_t value, uint64_t standard,
                                    uint64_t none)
{
    return value == 0 ? standard : value == CLEAT_NONE ? none : value;
}

static inline oracle_wide oracle_min(oracle_wide a, oracle_wide b)
{
    return a < b ? a : b;
}

static inline uint64_t oracle_base(const struct cleat_retry_policy *p)
{
    return oracle_value(p->base_ns, UINT64_C(100000000), 0);
}

static inline uint64_t oracle_cap(const struct cleat_retry_policy *p)
{
    return oracle_value(p->max_ns, UINT64_C(5000000000), UINT64_MAX);
}

static inline uint32_t oracle_attempts(const struct cleat_retry_policy *p)
{
    return p->attempts_max == 0 ? 4 : p->attempts_max;
}

static inline uint64_t oracle_deadline(const struct cleat_retry_policy *p,
                                       uint64_t began)
{
    uint64_t lasts = oracle_value(p->deadline_ns, UINT64_C(180000000000),
                                  UINT64_MAX);
    oracle_wide end = (oracle_wide)began + lasts;

    return end > UINT64_MAX ? UINT64_MAX : (uint64_t)end;
}

/* d(k) = min(max, base · m^(k-1)). */
static inline oracle_wide oracle_d(const struct cleat_retry_policy *p,
                                   uint32_t k)
{
    uint32_t m = p->multiplier_thousandths == 0 ? 2000
                                                : p->multiplier_thousandths;
    oracle_wide d = oracle_base(p);

    for (uint32_t i = 1; i < k && i < 70000 && d <= oracle_cap(p); i++) {
        oracle_wide next = d * m / 1000;
        if (next == d) { break; }
        d = next;
    }
    return oracle_min(d, oracle_cap(p));
}

/* The band of the delay after attempt k, when the one before it was `before`
 * (decorrelated; 0 for k = 1). Cuts may take a nanosecond each off. */
static inline struct oracle_band oracle_band(const struct cleat_retry_policy *p,
                                             uint32_t k, uint64_t before)
{
    oracle_wide d = oracle_d(p, k);
    oracle_wide base = oracle_base(p);
    oracle_wide cap = oracle_cap(p);
    struct oracle_band band = {0, d};

    switch (p->jitter) {
    case CLEAT_RETRY_JITTER_DEFAULT:
    case CLEAT_RETRY_JITTER_FULL: break;
    case CLEAT_RETRY_JITTER_NONE: band.low = d; break;
    case CLEAT_RETRY_JITTER_ADDITIVE:
        band.low = d;
        band.high = d + oracle_value(p->spread_ns, UINT64_C(1000000000), 0);
        break;
    case CLEAT_RETRY_JITTER_EQUAL: band.low = d / 2; break;
    case CLEAT_RETRY_JITTER_DECORRELATED:
        d = 3 * (k == 1 ? base : (oracle_wide)before);
        if (d > UINT64_MAX) { d = UINT64_MAX; }
        band.low = oracle_min(base, cap);
        band.high = oracle_min(d < base ? base : d, cap);
        break;
    default: /* proportional, by p thousandths */
        band.low = d * (p->jitter & 0x3FFF) / 1000;
        band.high = (d * (p->jitter & 0x3FFF) + d * (p->jitter >> 16)) / 1000;
        break;
    }
    if (band.high > UINT64_MAX) { band.high = UINT64_MAX; }
    if (band.low > UINT64_MAX) { band.low = UINT64_MAX; }
    return band;
}

static inline bool oracle_in_band(struct oracle_band band, uint64_t delay)
{
    return delay <= band.high && (oracle_wide)delay + 2 >= band.low;
}

/* Whether the class of a failure lets it be tried again, by the names. */
static inline bool oracle_retried(const struct cleat_retry_policy *p,
                                  enum cleat_status status)
{
    enum cleat_class class_of_status = cleat_status_class(status);

    return class_of_status == CLEAT_CLASS_TRANSIENT ||
           class_of_status == CLEAT_CLASS_CAPACITY ||
           (class_of_status == CLEAT_CLASS_AMBIGUOUS &&
            (p->flags & CLEAT_RETRY_IDEMPOTENT) != 0);
}

#endif
