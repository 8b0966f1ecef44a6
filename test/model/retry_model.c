/* Cleat: retry against its invariants. SPDX-License-Identifier: Apache-2.0
 *
 * Every sequence of failures, hints, random numbers and times, under each
 * policy, with and without each budget. The states stay few: what is drawn is
 * one of a few numbers, and times are counted from the beginning. */
#include "choose.h"
#include "cleat/retry.h"
#include "retry_oracle.h"

enum mark {
    MARK_AGAIN,
    MARK_EXHAUSTED,
    MARK_DEADLINE,
    MARK_PERMANENT,
    MARK_CANCELLED,
    MARK_AMBIGUOUS,
    MARK_REFUSED,
    MARK_SUCCEEDED
};

static const char *const marks[] = {
    "tried again",         "attempts exhausted", "deadline",
    "permanent",           "cancelled",          "ambiguous, not idempotent",
    "refused by a budget", "succeeded",          NULL};

struct bounds {
    const struct cleat_retry_policy *policies;
    uint32_t policies_count;
    uint64_t begins_ns;
};

/* The oracle's account beside the machine's. */
struct world {
    struct cleat_retry_slot slot;
    struct cleat_retry_policy policy;
    struct cleat_retry_budget budget;
    const struct bounds *bounds;
    uint64_t began_ns;
    uint64_t now_ns;
    uint64_t before_ns; /* the last delay */
    uint32_t attempts;  /* begun */
    uint32_t k;         /* delays since the backoff began, or began over */
    uint32_t owed;      /* what the last retry took of the budget */
    uint8_t begun;
    uint8_t has_budget;
    uint8_t unused[2];
};

static const enum cleat_status failures[] = {CLEAT_TRANSIENT, CLEAT_CAPACITY,
                                             CLEAT_AMBIGUOUS, CLEAT_PERMANENT,
                                             CLEAT_CANCELLED, CLEAT_DEADLINE};
static const uint64_t randoms[] = {0, UINT64_C(1) << 63, UINT64_MAX};
static const uint64_t hints[] = {CLEAT_NONE, 0, 7 * CLEAT_NS_PER_S,
                                 UINT64_MAX - 1};

static void init(void *state, const void *arg)
{
    struct world *w = state;

    w->bounds = arg;
    w->began_ns = w->now_ns = w->bounds->begins_ns;
}

static struct cleat_retry_budget *budget_of(struct world *w)
{
    return w->has_budget != 0 ? &w->budget : NULL;
}

static void begin(struct choose *c, struct world *w)
{
    static const struct cleat_retry_budget budgets[] = {
        {15000, 15000, 0, 5000, 10000, 1000, 0}, /* AWS's costs, few tokens */
        {3000, 3000, 1000, 1000, 1000, 100, 1}}; /* gRPC's, fewer tokens */
    uint32_t budget = choose_any(c, 3);

    w->policy = w->bounds->policies[choose_any(c, w->bounds->policies_count)];
    w->has_budget = budget > 0;
    if (budget > 0) { w->budget = budgets[budget - 1]; }
    choose_check(c, cleat_retry_policy_check(&w->policy) == CLEAT_OK,
                 "the policies of the model are legal");
    cleat_retry_begin(&w->slot, &w->policy, w->now_ns);
    w->attempts = 1;
    w->begun = 1;
}

/* The attempt is made, and takes no time, a second, or all that it may. */
static void spend(struct choose *c, struct world *w)
{
    uint64_t until = cleat_retry_attempt_deadline(&w->slot, &w->policy,
                                                  w->now_ns);

    choose_check(c,
                 until <= oracle_deadline(&w->policy, w->began_ns) &&
                     until >= w->now_ns,
                 "an attempt ends by the deadline of all");
    switch (choose(c, 3)) {
    case 1: w->now_ns = cleat_time_add(w->now_ns, CLEAT_NS_PER_S); break;
    case 2: w->now_ns = until; break;
    default: break;
    }
}

static bool ended(struct choose *c, struct world *w, enum cleat_status result)
{
    struct cleat_retry_slot slot = w->slot;
    uint64_t until = 0;

    choose_check(c,
                 cleat_retry_failed(&slot, &w->policy, NULL, CLEAT_TRANSIENT,
                                    CLEAT_NONE, 0, w->now_ns,
                                    &until) == CLEAT_STATE &&
                     cleat_retry_succeeded(&slot, NULL) == CLEAT_STATE,
                 "an ended slot stays ended");
    choose_note(c, "ended: %s", cleat_status_name(result));
    return false;
}

/* What the budget says to a failure that its class lets be tried again, and
 * what is left of it. `would`: tried again but for the budget. */
static bool budget_lets(const struct world *w, enum cleat_status status,
                        bool would, uint32_t *left)
{
    uint32_t cost = cleat_status_class(status) == CLEAT_CLASS_CAPACITY
                        ? w->budget.cost
                        : w->budget.cost_transient;
    uint32_t tokens = w->budget.tokens;

    *left = tokens;
    if (w->has_budget == 0) { return true; }
    if (w->budget.charge_every_failure != 0) {
        *left = tokens > cost ? tokens - cost : 0;
        return *left > w->budget.floor;
    }
    if (would && tokens >= cost) { *left = tokens - cost; }
    return tokens >= cost;
}

/* Between which delays the machine may choose, the hint heeded. */
static struct oracle_band band_with(const struct world *w, uint64_t hint)
{
    struct oracle_band band = oracle_band(&w->policy, w->k + 1, w->before_ns);
    oracle_wide more = oracle_value(w->policy.hint_max_ns, 5 * CLEAT_NS_PER_S,
                                    UINT64_MAX);

    if (hint == CLEAT_NONE) { return band; }
    if ((w->policy.flags & CLEAT_RETRY_HINT_EXACT) != 0) {
        band.low = band.high = hint;
        return band;
    }
    if (hint > band.low) { band.low = oracle_min(hint, band.low + more); }
    if (hint > band.high) { band.high = oracle_min(hint, band.high + more); }
    return band;
}

static void check_retry(struct choose *c, struct world *w, uint64_t hint,
                        uint64_t until)
{
    choose_check(c, w->attempts < oracle_attempts(&w->policy),
                 "never-more-than-attempts_max");
    choose_check(c, until < oracle_deadline(&w->policy, w->began_ns),
                 "never-waits-past-the-deadline");
    choose_check(c, until >= w->now_ns, "no-overflow-at-any-input");
    choose_check(c, oracle_in_band(band_with(w, hint), until - w->now_ns),
                 "delay-within-its-band");
    choose_mark(c, MARK_AGAIN);
    w->attempts++;
    w->k++;
    w->before_ns = until - w->now_ns;
    if (hint != CLEAT_NONE && (w->policy.flags & CLEAT_RETRY_HINT_EXACT) != 0) {
        w->k = 0;
    }
    w->now_ns = until;
}

static void check_end(struct choose *c, const struct world *w,
                      enum cleat_status result, bool last, uint64_t until)
{
    choose_check(c, until == CLEAT_NONE, "no-wait-after-the-last");
    if (result == CLEAT_DEADLINE) {
        choose_mark(c, MARK_DEADLINE);
        return;
    }
    choose_check(c, result == CLEAT_EXHAUSTED && (last || w->has_budget != 0),
                 "what may be tried again ends by count, budget or time");
    choose_mark(c, last ? MARK_EXHAUSTED : MARK_REFUSED);
}

static bool fail(struct choose *c, struct world *w)
{
    enum cleat_status status =
        failures[choose_any(c, sizeof failures / sizeof failures[0])];
    uint64_t random = randoms[choose(c, 3)];
    /* What a hint does to a delay that depends on the one before it is in the
     * unit test. */
    bool hinted = w->policy.jitter != CLEAT_RETRY_JITTER_DECORRELATED;
    uint64_t hint = hints[choose(c, hinted ? 4 : 1)];
    bool last = w->attempts >= oracle_attempts(&w->policy);
    uint32_t tokens = w->budget.tokens;
    uint32_t left;
    uint64_t until = CLEAT_NONE;
    enum cleat_status result = cleat_retry_failed(&w->slot, &w->policy,
                                                  budget_of(w), status, hint,
                                                  random, w->now_ns, &until);
    struct world before = *w;

    before.budget.tokens = tokens;
    choose_note(c, "attempt %u at %llu: %s, so %s until %llu", w->attempts,
                (unsigned long long)w->now_ns, cleat_status_name(status),
                cleat_status_name(result), (unsigned long long)until);
    if (!oracle_retried(&w->policy, status)) {
        choose_check(c, result == status && w->budget.tokens == tokens,
                     "permanent-and-cancelled-never-retried");
        choose_mark(c, status == CLEAT_CANCELLED   ? MARK_CANCELLED
                       : status == CLEAT_PERMANENT ? MARK_PERMANENT
                                                   : MARK_AMBIGUOUS);
        return ended(c, w, result);
    }
    if (!budget_lets(&before, status, !last && result != CLEAT_DEADLINE,
                     &left)) {
        choose_check(c, result != CLEAT_OK, "a budget that refuses is obeyed");
    } else {
        choose_check(c, result != CLEAT_EXHAUSTED || last,
                     "a budget that does not refuse does not");
    }
    choose_check(c, w->budget.tokens == left, "a retry costs what it costs");
    if (result == CLEAT_OK) {
        w->owed = tokens - left;
        if (w->budget.charge_every_failure != 0) { w->owed = 0; }
        check_retry(c, w, hint, until);
        return true;
    }
    if (result == CLEAT_DEADLINE) {
        choose_check(c,
                     band_with(w, hint).high + w->now_ns + 1 >=
                         oracle_deadline(&w->policy, w->began_ns),
                     "the deadline is not told before it matters");
    }
    check_end(c, w, result, last, until);
    return ended(c, w, result);
}

static bool succeed(struct choose *c, struct world *w)
{
    uint64_t expected = (uint64_t)w->budget.tokens +
                        (w->owed != 0 ? w->owed : w->budget.gain);

    if (expected > w->budget.tokens_max) { expected = w->budget.tokens_max; }
    choose_check(c, cleat_retry_succeeded(&w->slot, budget_of(w)) == CLEAT_OK,
                 "a success ends the slot");
    choose_check(c, w->has_budget == 0 || w->budget.tokens == expected,
                 "a success gives back what was taken, or the gain");
    choose_mark(c, MARK_SUCCEEDED);
    return ended(c, w, CLEAT_OK);
}

static bool step(struct choose *c, void *state)
{
    struct world *w = state;

    if (w->begun == 0) {
        begin(c, w);
        return true;
    }
    spend(c, w);
    return choose_any(c, 3) == 0 ? succeed(c, w) : fail(c, w);
}

static const struct cleat_retry_policy presets[] = {
    CLEAT_RETRY_DATA_PATH, CLEAT_RETRY_VERL,     CLEAT_RETRY_SLIME,
    CLEAT_RETRY_GRPC,      CLEAT_RETRY_AWS_FULL, CLEAT_RETRY_AWS_DECORRELATED};

/* The corners: every default, deadlines that are near, a cap below the base, no
 * delay, no cap, what does not grow, what grows at once beyond all bounds. */
static const struct cleat_retry_policy corners[] = {
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {0, 0, 0, 0, 2 * CLEAT_NS_PER_S, CLEAT_NS_PER_S / 2, 3, 0,
     CLEAT_RETRY_JITTER_EQUAL, CLEAT_RETRY_IDEMPOTENT},
    {5 * CLEAT_NS_PER_S, CLEAT_NS_PER_S, 0, CLEAT_NONE, 0, 0, 3, 0,
     CLEAT_RETRY_JITTER_DECORRELATED, 0},
    {CLEAT_NONE, 0, CLEAT_NONE, 0, CLEAT_NONE, CLEAT_NONE, 3, 1000,
     CLEAT_RETRY_JITTER_ADDITIVE, CLEAT_RETRY_IDEMPOTENT},
    {UINT64_MAX - 1, CLEAT_NONE, UINT64_MAX - 1, UINT64_MAX - 1, UINT64_MAX - 1,
     UINT64_MAX - 1, 3, 1000000, CLEAT_RETRY_JITTER_ADDITIVE,
     CLEAT_RETRY_IDEMPOTENT},
    {1, 3, 0, CLEAT_NONE, CLEAT_NONE, 1, 3, 1500, CLEAT_RETRY_JITTER_BY(1000),
     CLEAT_RETRY_HINT_EXACT}};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const struct bounds of_presets = {presets, COUNT(presets),
                                         CLEAT_NS_PER_S};
static const struct bounds of_corners = {corners, COUNT(corners),
                                         CLEAT_NS_PER_S};
static const struct bounds at_saturation = {presets, COUNT(presets),
                                            UINT64_MAX - 3 * CLEAT_NS_PER_S};

static const struct choose_test tests[] = {
    {.name = "retry-presets",
     .state_bytes = sizeof(struct world),
     .init = init,
     .step = step,
     .arg = &of_presets,
     .steps_max = 8,
     .marks = marks},
    {.name = "retry-corners",
     .state_bytes = sizeof(struct world),
     .init = init,
     .step = step,
     .arg = &of_corners,
     .steps_max = 8,
     .marks = marks},
    {.name = "retry-near-the-end-of-time",
     .state_bytes = sizeof(struct world),
     .init = init,
     .step = step,
     .arg = &at_saturation,
     .steps_max = 8,
     .marks = marks},
};

int main(int argc, char **argv)
{
    return choose_main(argc, argv, tests, COUNT(tests));
}
