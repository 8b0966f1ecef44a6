/* Cleat: retry against the numbers of others. SPDX-License-Identifier:
 * Apache-2.0 */
#include "cleat/retry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define MS CLEAT_NS_PER_MS
#define S CLEAT_NS_PER_S

static const uint64_t random_least = 0;
static const uint64_t random_half = UINT64_C(1) << 63;
static const uint64_t random_most = UINT64_MAX;

/* One operation, as a caller has it. */
struct operation {
    struct cleat_retry_policy policy;
    struct cleat_retry_slot slot;
    struct cleat_retry_budget *budget;
    uint64_t now;
};

static void begin(struct operation *o, struct cleat_retry_policy policy)
{
    memset(o, 0, sizeof *o);
    o->policy = policy;
    assert_int_equal(cleat_retry_policy_check(&o->policy), CLEAT_OK);
    cleat_retry_begin(&o->slot, &o->policy, o->now);
}

static enum cleat_status fails(struct operation *o, enum cleat_status status,
                               uint64_t hint, uint64_t random, uint64_t *delay)
{
    uint64_t until = CLEAT_NONE;
    enum cleat_status result = cleat_retry_failed(
        &o->slot, &o->policy, o->budget, status, hint, random, o->now, &until);

    if (result == CLEAT_OK) {
        *delay = until - o->now;
        o->now = until;
    } else {
        assert_int_equal(until, CLEAT_NONE);
    }
    return result;
}

/* The delay after a transient failure, which must not be the last. */
static uint64_t delay(struct operation *o, uint64_t random)
{
    uint64_t waits = 0;

    assert_int_equal(fails(o, CLEAT_TRANSIENT, CLEAT_NONE, random, &waits),
                     CLEAT_OK);
    return waits;
}

static enum cleat_status end(struct operation *o)
{
    uint64_t waits = 0;

    return fails(o, CLEAT_TRANSIENT, CLEAT_NONE, 0, &waits);
}

/* --- the formulas of others ------------------------------------------------
 */

static void
verl_waits_1_s_then_2_s_and_not_after_the_third_attempt(void **state)
{
    const struct cleat_retry_policy verl = CLEAT_RETRY_VERL;
    struct operation o;

    (void)state;
    begin(&o, verl);
    assert_int_equal(delay(&o, random_most), 1 * S);
    assert_int_equal(delay(&o, random_most), 2 * S);
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
}

static void verl_waits_min_of_max_and_base_doubled(void **state)
{
    struct cleat_retry_policy verl = CLEAT_RETRY_VERL;
    const uint64_t expected[] = {S / 2, 1 * S, 2 * S, 4 * S, 5 * S, 5 * S};
    struct operation o;

    (void)state;
    verl.base_ns = S / 2;
    verl.max_ns = 5 * S;
    verl.attempts_max = 7;
    begin(&o, verl);
    for (size_t k = 0; k < 6; k++) {
        assert_int_equal(delay(&o, random_half), expected[k]);
    }
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
}

static void verl_with_a_base_of_0_never_waits(void **state)
{
    struct cleat_retry_policy verl = CLEAT_RETRY_VERL;
    struct operation o;

    (void)state;
    verl.base_ns = CLEAT_NONE;
    begin(&o, verl);
    assert_int_equal(delay(&o, random_most), 0);
    assert_int_equal(delay(&o, random_most), 0);
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
}

static void slime_adds_up_to_a_second_to_2_s_and_4_s(void **state)
{
    const struct cleat_retry_policy slime = CLEAT_RETRY_SLIME;
    struct operation o;

    (void)state;
    begin(&o, slime);
    assert_int_equal(delay(&o, random_least), 2 * S);
    assert_int_equal(delay(&o, random_half), 4 * S + S / 2);
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
    begin(&o, slime);
    assert_in_range(delay(&o, random_most), 3 * S - 1, 3 * S - 1);
}

static void slime_caps_before_it_adds(void **state)
{
    struct cleat_retry_policy slime = CLEAT_RETRY_SLIME;
    struct operation o;

    (void)state;
    slime.attempts_max = 10;
    begin(&o, slime);
    for (int k = 0; k < 4; k++) { (void)delay(&o, random_least); }
    assert_int_equal(delay(&o, random_half), 30 * S + S / 2);
}

static void
grpc_draws_between_0_8_and_1_2_of_a_delay_capped_before(void **state)
{
    struct cleat_retry_policy grpc = CLEAT_RETRY_GRPC;
    const uint64_t expected[] = {100, 200, 400, 800, 1000, 1000};
    struct operation o;

    (void)state;
    begin(&o, grpc);
    for (size_t k = 0; k < 3; k++) { (void)delay(&o, random_half); }
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
    grpc.attempts_max = 7;
    begin(&o, grpc);
    for (size_t k = 0; k < 6; k++) {
        assert_int_equal(delay(&o, random_least), expected[k] * MS * 8 / 10);
    }
    begin(&o, grpc);
    for (size_t k = 0; k < 6; k++) {
        assert_int_equal(delay(&o, random_half), expected[k] * MS);
    }
    begin(&o, grpc);
    for (size_t k = 0; k < 6; k++) {
        uint64_t top = expected[k] * MS * 12 / 10;
        assert_in_range(delay(&o, random_most), top - 2, top - 1);
    }
}

static void grpc_with_a_multiplier_of_1_6_grows_by_it(void **state)
{
    struct cleat_retry_policy grpc = CLEAT_RETRY_GRPC;
    const uint64_t expected[] = {1000, 1600, 2560, 4096};
    struct operation o;

    (void)state;
    grpc.base_ns = 1 * S;
    grpc.max_ns = 120 * S;
    grpc.multiplier_thousandths = 1600;
    grpc.attempts_max = 5;
    begin(&o, grpc);
    for (size_t k = 0; k < 4; k++) {
        assert_int_equal(delay(&o, random_half), expected[k] * MS);
    }
}

static void aws_full_draws_between_0_and_the_capped_delay(void **state)
{
    struct cleat_retry_policy aws = CLEAT_RETRY_AWS_FULL;
    const uint64_t expected[] = {500, 1000, 2000, 4000, 8000, 16000, 20000};
    struct operation o;

    (void)state;
    begin(&o, aws);
    assert_int_equal(delay(&o, random_half), 250 * MS);
    assert_int_equal(delay(&o, random_half), 500 * MS);
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
    aws.attempts_max = 8;
    begin(&o, aws);
    for (size_t k = 0; k < 7; k++) {
        assert_in_range(delay(&o, random_most), expected[k] * MS - 5,
                        expected[k] * MS - 1);
    }
    begin(&o, aws);
    for (size_t k = 0; k < 7; k++) {
        assert_int_equal(delay(&o, random_least), 0);
    }
}

/* sleep = min(cap, U(base, 3 · sleep)), sleep = base at first: by hand, at the
 * middle of each range: 0.5 … 1.5, 0.5 … 3, 0.5 … 5.25, … */
static void
aws_decorrelated_draws_between_base_and_three_times_the_last(void **state)
{
    struct cleat_retry_policy aws = CLEAT_RETRY_AWS_DECORRELATED;
    const uint64_t expected[] = {1000 * MS, 1750 * MS, 2875 * MS,
                                 UINT64_C(4562500000)};
    struct operation o;

    (void)state;
    aws.attempts_max = 20;
    begin(&o, aws);
    for (size_t k = 0; k < 4; k++) {
        assert_int_equal(delay(&o, random_half), expected[k]);
    }
    for (size_t k = 0; k < 10; k++) { (void)delay(&o, random_most); }
    assert_int_equal(delay(&o, random_most), 20 * S);
    assert_int_equal(delay(&o, random_least), 500 * MS);
}

static void equal_jitter_keeps_half_and_draws_half(void **state)
{
    const struct cleat_retry_policy bring_up = CLEAT_RETRY_BRING_UP;
    const uint64_t expected[] = {2, 4, 8, 16, 30, 30};
    struct operation o;

    (void)state;
    begin(&o, bring_up);
    for (size_t k = 0; k < 6; k++) {
        assert_int_equal(delay(&o, random_least), expected[k] * S / 2);
    }
    begin(&o, bring_up);
    for (size_t k = 0; k < 6; k++) {
        assert_int_equal(delay(&o, random_half), expected[k] * S * 3 / 4);
    }
}

/* --- presets and defaults ---------------------------------------------------
 */

static void a_policy_of_zeros_is_the_data_path(void **state)
{
    const struct cleat_retry_policy zeros = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    const struct cleat_retry_policy data_path = CLEAT_RETRY_DATA_PATH;
    const uint64_t expected[] = {100, 200, 400};
    struct operation o;
    struct operation p;

    (void)state;
    begin(&o, zeros);
    begin(&p, data_path);
    assert_memory_equal(&o.slot, &p.slot, sizeof o.slot);
    assert_int_equal(o.slot.deadline_ns, 180 * S);
    assert_int_equal(cleat_retry_attempt_deadline(&o.slot, &zeros, 0), 60 * S);
    assert_int_equal(cleat_retry_attempt_deadline(&p.slot, &data_path, 0),
                     60 * S);
    for (size_t k = 0; k < 3; k++) {
        assert_int_equal(delay(&o, random_half), expected[k] * MS / 2);
        assert_int_equal(delay(&p, random_half), expected[k] * MS / 2);
    }
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
    assert_int_equal(end(&p), CLEAT_EXHAUSTED);
}

static void the_defaults_that_the_data_path_does_not_reach(void **state)
{
    struct cleat_retry_policy policy = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    struct operation o;
    uint64_t waits = 0;

    (void)state;
    policy.jitter = CLEAT_RETRY_JITTER_NONE;
    policy.attempts_max = 20;
    begin(&o, policy);
    for (int k = 0; k < 6; k++) { (void)delay(&o, 0); }
    assert_int_equal(delay(&o, 0), 5 * S); /* max_ns: 6.4 s capped */
    assert_int_equal(fails(&o, CLEAT_TRANSIENT, 60 * S, 0, &waits), CLEAT_OK);
    assert_int_equal(waits, 10 * S); /* hint_max_ns */
    policy.jitter = CLEAT_RETRY_JITTER_ADDITIVE;
    begin(&o, policy);
    assert_int_equal(delay(&o, random_half), 600 * MS); /* spread_ns */
    policy.spread_ns = CLEAT_NONE;
    begin(&o, policy);
    assert_int_equal(delay(&o, random_half), 100 * MS);
}

static void capacity_waits_1_s_to_20_s_six_times(void **state)
{
    const struct cleat_retry_policy capacity = CLEAT_RETRY_CAPACITY;
    const uint64_t expected[] = {1, 2, 4, 8, 16};
    struct operation o;

    (void)state;
    begin(&o, capacity);
    for (size_t k = 0; k < 5; k++) {
        assert_int_equal(delay(&o, random_half), expected[k] * S / 2);
    }
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
}

/* Another policy may take over: 100 ms, then at least a second. */
static void capacity_takes_over_a_slot_of_the_data_path(void **state)
{
    const struct cleat_retry_policy data_path = CLEAT_RETRY_DATA_PATH;
    const struct cleat_retry_policy capacity = CLEAT_RETRY_CAPACITY;
    struct operation o;

    (void)state;
    begin(&o, data_path);
    assert_int_equal(delay(&o, random_half), 50 * MS);
    o.policy = capacity;
    assert_int_equal(delay(&o, random_half), 500 * MS);
    assert_int_equal(delay(&o, random_half), 1 * S);
}

/* --- defects seen elsewhere -------------------------------------------------
 */

static void the_first_delay_is_not_above_the_cap(void **state)
{
    struct cleat_retry_policy policy = CLEAT_RETRY_DATA_PATH;
    const uint32_t jitters[] = {
        CLEAT_RETRY_JITTER_NONE, CLEAT_RETRY_JITTER_FULL,
        CLEAT_RETRY_JITTER_EQUAL, CLEAT_RETRY_JITTER_DECORRELATED};
    struct operation o;

    (void)state;
    policy.base_ns = 5000 * MS;
    policy.max_ns = 1000 * MS;
    for (size_t i = 0; i < 4; i++) {
        policy.jitter = jitters[i];
        begin(&o, policy);
        for (int k = 0; k < 3; k++) {
            assert_in_range(delay(&o, random_most), 1000 * MS - 1, 1000 * MS);
        }
    }
}

static void a_base_of_0_is_the_default_and_grows(void **state)
{
    struct cleat_retry_policy policy = CLEAT_RETRY_DATA_PATH;
    struct operation o;

    (void)state;
    policy.base_ns = 0;
    policy.jitter = CLEAT_RETRY_JITTER_NONE;
    begin(&o, policy);
    assert_int_equal(delay(&o, 0), 100 * MS);
    assert_int_equal(delay(&o, 0), 200 * MS);
}

static void an_empty_range_is_its_lower_end_and_not_0(void **state)
{
    struct cleat_retry_policy policy = CLEAT_RETRY_AWS_DECORRELATED;
    struct operation o;

    (void)state;
    policy.attempts_max = 100;
    policy.base_ns = policy.max_ns;
    begin(&o, policy);
    for (int k = 0; k < 10; k++) {
        assert_int_equal(delay(&o, random_least), 20 * S);
    }
    policy.base_ns = UINT64_MAX - 1; /* thrice that is the end of time */
    policy.max_ns = 3 * S;
    begin(&o, policy);
    assert_int_equal(delay(&o, random_least), 3 * S);
    assert_int_equal(delay(&o, random_most), 3 * S);
}

/* --- hints -------------------------------------------------------------------
 */

static void a_hint_is_held_between_the_delay_and_5_s_more(void **state)
{
    struct cleat_retry_policy policy = CLEAT_RETRY_DATA_PATH;
    const struct {
        uint64_t hint, waits;
    } cases[] = {{0, 1 * S},     {1 * S, 1 * S}, {3 * S, 3 * S},
                 {6 * S, 6 * S}, {7 * S, 6 * S}, {UINT64_MAX - 1, 6 * S}};
    struct operation o;
    uint64_t waits = 0;

    (void)state;
    policy.base_ns = 1 * S;
    policy.jitter = CLEAT_RETRY_JITTER_NONE;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin(&o, policy);
        assert_int_equal(fails(&o, CLEAT_CAPACITY, cases[i].hint, 0, &waits),
                         CLEAT_OK);
        assert_int_equal(waits, cases[i].waits);
        /* The backoff goes on from where it was. */
        assert_int_equal(delay(&o, 0), 2 * S);
    }
}

static void an_exact_hint_is_the_delay_and_the_backoff_starts_over(void **state)
{
    const struct cleat_retry_policy grpc = CLEAT_RETRY_GRPC;
    struct operation o;
    uint64_t waits = 0;

    (void)state;
    begin(&o, grpc);
    assert_int_equal(delay(&o, random_half), 100 * MS);
    assert_int_equal(fails(&o, CLEAT_TRANSIENT, 7 * S, random_half, &waits),
                     CLEAT_OK);
    assert_int_equal(waits, 7 * S);
    assert_int_equal(delay(&o, random_half), 100 * MS);
}

/* --- deadlines ---------------------------------------------------------------
 */

static void no_attempt_begins_at_the_deadline_or_after(void **state)
{
    struct cleat_retry_policy policy = CLEAT_RETRY_DATA_PATH;
    struct operation o;
    uint64_t waits = 0;

    (void)state;
    policy.jitter = CLEAT_RETRY_JITTER_NONE;
    policy.deadline_ns = 10 * S;
    begin(&o, policy);
    o.now = 10 * S - 100 * MS - 1;
    assert_int_equal(delay(&o, 0), 100 * MS);
    begin(&o, policy);
    o.now = 10 * S - 100 * MS;
    assert_int_equal(end(&o), CLEAT_DEADLINE);
    begin(&o, policy);
    o.now = 20 * S;
    assert_int_equal(end(&o), CLEAT_DEADLINE);
    begin(&o, policy);
    o.policy.base_ns = CLEAT_NONE; /* no wait at all, and yet too late */
    o.now = 10 * S;
    assert_int_equal(end(&o), CLEAT_DEADLINE);
    begin(&o, policy);
    o.now = 9 * S;
    assert_int_equal(fails(&o, CLEAT_TRANSIENT, 1 * S, 0, &waits),
                     CLEAT_DEADLINE);
}

static void
an_attempt_ends_at_its_time_out_or_at_the_deadline_of_all(void **state)
{
    struct cleat_retry_policy policy = CLEAT_RETRY_DATA_PATH;
    struct operation o;

    (void)state;
    policy.deadline_ns = 100 * S;
    begin(&o, policy);
    assert_int_equal(cleat_retry_attempt_deadline(&o.slot, &o.policy, 39 * S),
                     99 * S);
    assert_int_equal(cleat_retry_attempt_deadline(&o.slot, &o.policy, 41 * S),
                     100 * S);
    policy.deadline_ns = CLEAT_NONE;
    policy.attempt_timeout_ns = CLEAT_NONE;
    begin(&o, policy);
    assert_int_equal(cleat_retry_attempt_deadline(&o.slot, &o.policy, 41 * S),
                     CLEAT_NEVER);
}

static void times_saturate(void **state)
{
    struct cleat_retry_policy policy = CLEAT_RETRY_VERL;
    struct operation o;

    (void)state;
    policy.deadline_ns = 60 * S;
    begin(&o, policy);
    o.now = UINT64_MAX - 30 * S;
    cleat_retry_begin(&o.slot, &o.policy, o.now);
    assert_int_equal(o.slot.deadline_ns, CLEAT_NEVER);
    assert_int_equal(delay(&o, 0), 1 * S);
    o.now = UINT64_MAX - 2 * S;
    assert_int_equal(end(&o), CLEAT_DEADLINE);
}

/* --- verdicts ----------------------------------------------------------------
 */

static void each_class_has_its_verdict(void **state)
{
    const struct {
        enum cleat_status status, once, idempotent;
    } cases[] = {
        {CLEAT_TRANSIENT, CLEAT_OK, CLEAT_OK},
        {CLEAT_SHORT, CLEAT_OK, CLEAT_OK},
        {CLEAT_CORRUPT, CLEAT_OK, CLEAT_OK},
        {CLEAT_CAPACITY, CLEAT_OK, CLEAT_OK},
        {CLEAT_NO_SLOT, CLEAT_OK, CLEAT_OK},
        {CLEAT_AMBIGUOUS, CLEAT_AMBIGUOUS, CLEAT_OK},
        {CLEAT_DEADLINE, CLEAT_DEADLINE, CLEAT_OK},
        {CLEAT_PEER_SILENT, CLEAT_PEER_SILENT, CLEAT_OK},
        {CLEAT_PERMANENT, CLEAT_PERMANENT, CLEAT_PERMANENT},
        {CLEAT_PEER_LOST, CLEAT_PEER_LOST, CLEAT_PEER_LOST},
        {CLEAT_CANCELLED, CLEAT_CANCELLED, CLEAT_CANCELLED},
        {CLEAT_RESTART, CLEAT_RESTART, CLEAT_RESTART},
        {(enum cleat_status) - 99, (enum cleat_status) - 99,
         (enum cleat_status) - 99}, /* not in the list: permanent */
    };
    struct cleat_retry_policy policy = CLEAT_RETRY_DATA_PATH;
    struct operation o;
    uint64_t waits = 0;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        policy.flags = 0;
        begin(&o, policy);
        assert_int_equal(fails(&o, cases[i].status, CLEAT_NONE, 0, &waits),
                         cases[i].once);
        policy.flags = CLEAT_RETRY_IDEMPOTENT;
        begin(&o, policy);
        assert_int_equal(fails(&o, cases[i].status, CLEAT_NONE, 0, &waits),
                         cases[i].idempotent);
    }
}

static void what_is_not_legal_has_no_effect(void **state)
{
    const struct cleat_retry_policy policy = CLEAT_RETRY_DATA_PATH;
    struct cleat_retry_slot before;
    struct operation o;
    uint64_t waits = 0;

    (void)state;
    begin(&o, policy);
    o.now = 5;
    assert_int_equal(delay(&o, 0), 0);
    before = o.slot;
    assert_int_equal(fails(&o, CLEAT_OK, CLEAT_NONE, 0, &waits), CLEAT_INVALID);
    assert_int_equal(fails(&o, CLEAT_PENDING, CLEAT_NONE, 0, &waits),
                     CLEAT_INVALID);
    o.now = 4;
    assert_int_equal(end(&o), CLEAT_TIME_BACKWARDS);
    assert_memory_equal(&o.slot, &before, sizeof before);
    o.now = 5;
    assert_int_equal(delay(&o, 0), 0);
    assert_int_equal(cleat_retry_succeeded(&o.slot, NULL), CLEAT_OK);
    assert_int_equal(cleat_retry_succeeded(&o.slot, NULL), CLEAT_STATE);
    assert_int_equal(end(&o), CLEAT_STATE);
}

static void what_has_ended_stays_ended(void **state)
{
    const struct cleat_retry_policy policy = CLEAT_RETRY_DATA_PATH;
    const struct {
        uint64_t now;
        enum cleat_status status, verdict;
    } cases[] = {
        {0, CLEAT_PERMANENT, CLEAT_PERMANENT},
        {0, CLEAT_CANCELLED, CLEAT_CANCELLED},
        {0, CLEAT_AMBIGUOUS, CLEAT_AMBIGUOUS},
        {180 * S, CLEAT_TRANSIENT, CLEAT_DEADLINE},
    };
    struct operation o;
    uint64_t waits = 0;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin(&o, policy);
        o.now = cases[i].now;
        assert_int_equal(fails(&o, cases[i].status, CLEAT_NONE, 0, &waits),
                         cases[i].verdict);
        assert_int_equal(end(&o), CLEAT_STATE);
        assert_int_equal(cleat_retry_succeeded(&o.slot, NULL), CLEAT_STATE);
    }
    begin(&o, policy);
    for (int attempt = 1; attempt < 4; attempt++) { (void)delay(&o, 0); }
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
    assert_int_equal(end(&o), CLEAT_STATE);
}

static void a_policy_out_of_range_is_refused(void **state)
{
    const struct cleat_retry_policy good = CLEAT_RETRY_DATA_PATH;
    struct cleat_retry_policy policy = good;

    (void)state;
    policy.multiplier_thousandths = 999;
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_INVALID);
    policy.multiplier_thousandths = 1000001;
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_INVALID);
    policy.multiplier_thousandths = 1000;
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_OK);
    policy.multiplier_thousandths = 1000000;
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_OK);
    policy = good;
    policy.jitter = CLEAT_RETRY_JITTER_BY(1001);
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_INVALID);
    policy.jitter = UINT32_C(2001) << 16;
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_INVALID);
    policy.jitter = 1001;
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_INVALID);
    policy.jitter = CLEAT_RETRY_JITTER_BY(0);
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_OK);
    policy.jitter = CLEAT_RETRY_JITTER_BY(1000);
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_OK);
    policy = good;
    policy.flags = 2;
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_INVALID);
}

static void
a_slot_is_32_bytes_and_a_copy_goes_on_like_the_original(void **state)
{
    const struct cleat_retry_policy policy = CLEAT_RETRY_AWS_DECORRELATED;
    struct operation o;
    struct operation copy;

    (void)state;
    assert_true(sizeof o.slot <= 32);
    begin(&o, policy);
    (void)delay(&o, random_half);
    copy = o;
    assert_int_equal(delay(&o, random_half), 1750 * MS);
    assert_int_equal(delay(&copy, random_half), 1750 * MS);
    assert_memory_equal(&o.slot, &copy.slot, sizeof o.slot);
}

/* --- budgets -----------------------------------------------------------------
 */

static void
grpc_retries_while_more_than_half_of_the_tokens_are_there(void **state)
{
    const struct cleat_retry_policy grpc = CLEAT_RETRY_GRPC;
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_GRPC;
    struct operation o;

    (void)state;
    for (int i = 0; i < 4; i++) { /* 9, 8, 7, 6 */
        begin(&o, grpc);
        o.budget = &budget;
        (void)delay(&o, 0);
    }
    assert_int_equal(budget.tokens, 6000);
    begin(&o, grpc);
    o.budget = &budget;
    assert_int_equal(end(&o), CLEAT_EXHAUSTED); /* 5: refused, and charged */
    assert_int_equal(budget.tokens, 5000);
    for (int i = 0; i < 11; i++) { /* 6.1 */
        begin(&o, grpc);
        assert_int_equal(cleat_retry_succeeded(&o.slot, &budget), CLEAT_OK);
    }
    assert_int_equal(budget.tokens, 6100);
    begin(&o, grpc);
    o.budget = &budget;
    (void)delay(&o, 0); /* 5.1 is more than half */
    assert_int_equal(cleat_retry_succeeded(&o.slot, &budget), CLEAT_OK);
    assert_int_equal(budget.tokens, 5200); /* and nothing is given back */
}

static void grpc_charges_every_failure_that_could_be_retried(void **state)
{
    struct cleat_retry_policy grpc = CLEAT_RETRY_GRPC;
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_GRPC;
    struct operation o;
    uint64_t waits = 0;

    (void)state;
    grpc.attempts_max = 1;
    for (int i = 0; i < 12; i++) {
        begin(&o, grpc);
        o.budget = &budget;
        assert_int_equal(end(&o), CLEAT_EXHAUSTED);
    }
    assert_int_equal(budget.tokens, 0);
    budget.tokens = 10000;
    begin(&o, grpc);
    o.budget = &budget;
    assert_int_equal(fails(&o, CLEAT_PERMANENT, CLEAT_NONE, 0, &waits),
                     CLEAT_PERMANENT);
    assert_int_equal(budget.tokens, 10000);
}

static void
aws_pays_10_for_a_transient_and_5_for_a_full_other_side(void **state)
{
    const struct cleat_retry_policy aws = CLEAT_RETRY_AWS_FULL;
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_AWS;
    struct operation o;
    uint64_t waits = 0;

    (void)state;
    begin(&o, aws);
    o.budget = &budget;
    (void)delay(&o, 0);
    assert_int_equal(budget.tokens, 490000);
    assert_int_equal(fails(&o, CLEAT_CAPACITY, CLEAT_NONE, 0, &waits),
                     CLEAT_OK);
    assert_int_equal(budget.tokens, 485000);
    /* The last retry's cost comes back; the one before stays paid. */
    assert_int_equal(cleat_retry_succeeded(&o.slot, &budget), CLEAT_OK);
    assert_int_equal(budget.tokens, 490000);
    begin(&o, aws);
    assert_int_equal(cleat_retry_succeeded(&o.slot, &budget), CLEAT_OK);
    assert_int_equal(budget.tokens, 491000);
}

static void aws_refuses_when_the_tokens_are_spent(void **state)
{
    const struct cleat_retry_policy aws = CLEAT_RETRY_AWS_FULL;
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_AWS;
    struct operation o;

    (void)state;
    for (int i = 0; i < 50; i++) {
        begin(&o, aws);
        o.budget = &budget;
        (void)delay(&o, 0);
    }
    assert_int_equal(budget.tokens, 0);
    begin(&o, aws);
    o.budget = &budget;
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
    budget.tokens = 9999;
    begin(&o, aws);
    o.budget = &budget;
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
    assert_int_equal(budget.tokens, 9999);
}

static void a_retry_that_is_not_made_costs_nothing(void **state)
{
    struct cleat_retry_policy aws = CLEAT_RETRY_AWS_FULL;
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_AWS;
    struct operation o;

    (void)state;
    aws.attempts_max = 1;
    begin(&o, aws);
    o.budget = &budget;
    assert_int_equal(end(&o), CLEAT_EXHAUSTED);
    aws.attempts_max = 3;
    aws.deadline_ns = 1;
    begin(&o, aws);
    o.budget = &budget;
    o.now = 1;
    assert_int_equal(end(&o), CLEAT_DEADLINE);
    assert_int_equal(budget.tokens, 500000);
}

static void a_budget_never_holds_more_than_its_size(void **state)
{
    const struct cleat_retry_policy aws = CLEAT_RETRY_AWS_FULL;
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_AWS;
    struct operation o;

    (void)state;
    begin(&o, aws);
    assert_int_equal(cleat_retry_succeeded(&o.slot, &budget), CLEAT_OK);
    assert_int_equal(budget.tokens, 500000);
    budget.tokens = 499500;
    begin(&o, aws);
    assert_int_equal(cleat_retry_succeeded(&o.slot, &budget), CLEAT_OK);
    assert_int_equal(budget.tokens, 500000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            verl_waits_1_s_then_2_s_and_not_after_the_third_attempt),
        cmocka_unit_test(verl_waits_min_of_max_and_base_doubled),
        cmocka_unit_test(verl_with_a_base_of_0_never_waits),
        cmocka_unit_test(slime_adds_up_to_a_second_to_2_s_and_4_s),
        cmocka_unit_test(slime_caps_before_it_adds),
        cmocka_unit_test(
            grpc_draws_between_0_8_and_1_2_of_a_delay_capped_before),
        cmocka_unit_test(grpc_with_a_multiplier_of_1_6_grows_by_it),
        cmocka_unit_test(aws_full_draws_between_0_and_the_capped_delay),
        cmocka_unit_test(
            aws_decorrelated_draws_between_base_and_three_times_the_last),
        cmocka_unit_test(equal_jitter_keeps_half_and_draws_half),
        cmocka_unit_test(a_policy_of_zeros_is_the_data_path),
        cmocka_unit_test(the_defaults_that_the_data_path_does_not_reach),
        cmocka_unit_test(capacity_waits_1_s_to_20_s_six_times),
        cmocka_unit_test(capacity_takes_over_a_slot_of_the_data_path),
        cmocka_unit_test(the_first_delay_is_not_above_the_cap),
        cmocka_unit_test(a_base_of_0_is_the_default_and_grows),
        cmocka_unit_test(an_empty_range_is_its_lower_end_and_not_0),
        cmocka_unit_test(a_hint_is_held_between_the_delay_and_5_s_more),
        cmocka_unit_test(
            an_exact_hint_is_the_delay_and_the_backoff_starts_over),
        cmocka_unit_test(no_attempt_begins_at_the_deadline_or_after),
        cmocka_unit_test(
            an_attempt_ends_at_its_time_out_or_at_the_deadline_of_all),
        cmocka_unit_test(times_saturate),
        cmocka_unit_test(each_class_has_its_verdict),
        cmocka_unit_test(what_is_not_legal_has_no_effect),
        cmocka_unit_test(what_has_ended_stays_ended),
        cmocka_unit_test(a_policy_out_of_range_is_refused),
        cmocka_unit_test(
            a_slot_is_32_bytes_and_a_copy_goes_on_like_the_original),
        cmocka_unit_test(
            grpc_retries_while_more_than_half_of_the_tokens_are_there),
        cmocka_unit_test(grpc_charges_every_failure_that_could_be_retried),
        cmocka_unit_test(
            aws_pays_10_for_a_transient_and_5_for_a_full_other_side),
        cmocka_unit_test(aws_refuses_when_the_tokens_are_spent),
        cmocka_unit_test(a_retry_that_is_not_made_costs_nothing),
        cmocka_unit_test(a_budget_never_holds_more_than_its_size),
    };

    return cmocka_run_group_tests_name("retry", tests, NULL, NULL);
}
