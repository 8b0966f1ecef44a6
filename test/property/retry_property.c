/* Cleat: retry's arithmetic at the extremes. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Policies, hints, times and random numbers drawn from the corners of their
 * ranges and from all over them, against formulas in 128 bits. */
#include "choose.h"
#include "cleat/retry.h"
#include "model/retry_oracle.h"

/* A number of any magnitude, or a corner. */
static uint64_t draw(struct choose *c)
{
    static const uint64_t corners[] = {0,
                                       1,
                                       2,
                                       999,
                                       1000,
                                       UINT32_MAX,
                                       (uint64_t)UINT32_MAX + 1,
                                       UINT64_C(1) << 63,
                                       UINT64_MAX - 1,
                                       UINT64_MAX};
    uint32_t kind = choose_any(c, 3);
    uint64_t x;

    if (kind == 0) { return corners[choose_any(c, 10)]; }
    x = (uint64_t)choose_any(c, 65536) << 48 |
        (uint64_t)choose_any(c, 65536) << 32 |
        (uint64_t)choose_any(c, 65536) << 16 | choose_any(c, 65536);
    return kind == 1 ? x >> choose_any(c, 64) : x;
}

static void draw_policy(struct choose *c, struct cleat_retry_policy *p)
{
    static const uint32_t jitters[] = {
        CLEAT_RETRY_JITTER_DEFAULT,      CLEAT_RETRY_JITTER_NONE,
        CLEAT_RETRY_JITTER_FULL,         CLEAT_RETRY_JITTER_EQUAL,
        CLEAT_RETRY_JITTER_PROPORTIONAL, CLEAT_RETRY_JITTER_ADDITIVE,
        CLEAT_RETRY_JITTER_DECORRELATED};
    uint32_t jitter = choose_any(c, 8);
    /* Half of the policies leave room for all of their attempts. */
    uint32_t shift = choose_any(c, 2) == 0 ? 0 : 24;

    p->base_ns = draw(c) >> shift;
    p->max_ns = draw(c) >> (shift / 2);
    p->spread_ns = draw(c);
    p->hint_max_ns = draw(c);
    p->deadline_ns = shift == 0 ? draw(c) : CLEAT_NONE;
    p->attempt_timeout_ns = draw(c);
    p->attempts_max = 1 + choose_any(c, 12);
    p->multiplier_thousandths = choose_any(c, 2) == 0
                                    ? 0
                                    : 1000 + choose_any(c, 999001);
    p->jitter = jitter < 7 ? jitters[jitter]
                           : CLEAT_RETRY_JITTER_BY(choose_any(c, 1001));
    p->flags = choose_any(c, 2) == 0 ? 0 : CLEAT_RETRY_IDEMPOTENT;
    if (choose_any(c, 2) == 1) { p->flags |= CLEAT_RETRY_HINT_EXACT; }
}

/* One retry; false when there is none. */
static bool retry_once(struct choose *c, const struct cleat_retry_policy *p,
                       struct cleat_retry_slot *slot, uint32_t k,
                       uint64_t *before, uint64_t *now, uint64_t deadline)
{
    uint64_t until = CLEAT_NONE;
    uint64_t hint = p->jitter == CLEAT_RETRY_JITTER_DECORRELATED ||
                            choose_any(c, 3) != 0
                        ? CLEAT_NONE
                        : draw(c);
    bool exact = hint != CLEAT_NONE && (p->flags & CLEAT_RETRY_HINT_EXACT) != 0;
    struct oracle_band band = oracle_band(p, k, *before);
    enum cleat_status result = cleat_retry_failed(
        slot, p, NULL, CLEAT_TRANSIENT, hint, draw(c), *now, &until);

    if (hint != CLEAT_NONE) {
        oracle_wide most = band.high + oracle_value(p->hint_max_ns,
                                                    5 * CLEAT_NS_PER_S,
                                                    UINT64_MAX);
        if (hint > band.high) { band.high = oracle_min(hint, most); }
    }
    if (exact) { band.low = band.high = hint; }
    choose_note(c, "retry %u at %llu: %s until %llu", k,
                (unsigned long long)*now, cleat_status_name(result),
                (unsigned long long)until);
    choose_check(c, (result == CLEAT_EXHAUSTED) == (k >= p->attempts_max),
                 "never-more-than-attempts_max");
    if (result != CLEAT_OK) {
        choose_check(c, until == CLEAT_NONE, "no-wait-after-the-last");
        choose_check(
            c, result == CLEAT_EXHAUSTED || band.high + *now + 1 >= deadline,
            "the deadline is not told before it matters");
        return false;
    }
    choose_check(c, until < deadline, "never-waits-past-the-deadline");
    choose_check(c, until >= *now, "no-overflow-at-any-input");
    choose_check(c, oracle_in_band(band, until - *now),
                 "delay-within-its-band");
    *before = until - *now;
    *now = until;
    return !exact; /* the backoff would start over */
}

static void any_policy(struct choose *c, const void *arg)
{
    struct cleat_retry_policy policy;
    struct cleat_retry_slot slot;
    uint64_t now = draw(c);
    uint64_t before = 0;
    uint64_t deadline;
    uint64_t ends;

    (void)arg;
    draw_policy(c, &policy);
    choose_check(c, cleat_retry_policy_check(&policy) == CLEAT_OK,
                 "the policies drawn are legal");
    deadline = oracle_deadline(&policy, now);
    cleat_retry_begin(&slot, &policy, now);
    for (uint32_t k = 1; k <= 12; k++) {
        ends = cleat_retry_attempt_deadline(&slot, &policy, now);
        choose_check(
            c,
            ends ==
                oracle_min(deadline,
                           (oracle_wide)now +
                               oracle_value(policy.attempt_timeout_ns,
                                            60 * CLEAT_NS_PER_S, UINT64_MAX)),
            "an attempt ends at its time-out or at the deadline of all");
        if (!retry_once(c, &policy, &slot, k, &before, &now, deadline)) {
            return;
        }
    }
}

/* At the two ends of the random numbers, d(k) of a multiplier of any size. */
static void any_multiplier(struct choose *c, const void *arg)
{
    struct cleat_retry_policy policy;
    struct cleat_retry_slot slot;
    uint64_t until = 0;
    uint64_t now = 0;

    (void)arg;
    memset(&policy, 0, sizeof policy);
    policy.base_ns = 1 + (draw(c) >> 24);
    policy.max_ns = CLEAT_NONE;
    policy.deadline_ns = CLEAT_NONE;
    policy.attempts_max = 40;
    policy.multiplier_thousandths = 1000 + choose_any(c, 999001);
    policy.jitter = CLEAT_RETRY_JITTER_NONE;
    cleat_retry_begin(&slot, &policy, 0);
    for (uint32_t k = 1; k < 40; k++) {
        oracle_wide d = oracle_d(&policy, k);
        enum cleat_status result = cleat_retry_failed(
            &slot, &policy, NULL, CLEAT_TRANSIENT, CLEAT_NONE, draw(c), now,
            &until);
        if (result != CLEAT_OK) {
            choose_check(c, d + now >= UINT64_MAX, "it ends by saturation");
            return;
        }
        choose_check(c, until - now == d, "without-jitter-a-delay-is-d(k)");
        now = until;
    }
}

static const struct choose_test tests[] = {
    {.name = "any-policy-keeps-its-promises", .body = any_policy},
    {.name = "any-multiplier-grows-exactly", .body = any_multiplier},
};

int main(int argc, char **argv)
{
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
