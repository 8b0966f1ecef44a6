/* Cleat: the rate limit, in virtual time. SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cleat/status.h"
#include "port/mcp/rate.h"

#define MICRO UINT64_C(1000000)
#define BEGIN_NS (UINT64_C(7) * CLEAT_NS_PER_S + 13)

/* Waits for the next token in virtual time, from now_ns on; when it came. A
 * nanosecond earlier there was none. */
static uint64_t take_at(struct mcp_rate *rate, uint64_t now_ns)
{
    struct mcp_rate_waiter waiter;

    mcp_rate_join(rate, &waiter);
    uint64_t due_ns = mcp_rate_deadline(rate);
    assert_true(due_ns != CLEAT_NEVER);
    if (due_ns > now_ns) {
        assert_null(mcp_rate_next(rate, due_ns - 1));
        now_ns = due_ns;
    }
    assert_ptr_equal(mcp_rate_next(rate, now_ns), &waiter);
    return now_ns;
}

static void a_bucket_holds_one_seconds_tokens_and_begins_full(void **state)
{
    struct mcp_rate rate;
    uint64_t now_ns = BEGIN_NS;

    (void)state;
    mcp_rate_init(&rate, 120 * MICRO);
    for (int i = 0; i < 120; i++) {
        assert_int_equal(take_at(&rate, now_ns), now_ns);
    }
    /* 1 s / 120 = 8 333 333 1/3 ns: the third of each three is whole. */
    uint64_t first_ns = take_at(&rate, now_ns);
    assert_int_equal(first_ns, now_ns + 8333334);
    assert_int_equal(take_at(&rate, first_ns), now_ns + 16666667);
    assert_int_equal(take_at(&rate, first_ns), now_ns + 25000000);
}

static void nothing_is_rounded_off_however_long_it_runs(void **state)
{
    struct mcp_rate rate;
    uint64_t now_ns = BEGIN_NS;

    (void)state;
    mcp_rate_init(&rate, 7 * MICRO);
    for (int i = 0; i < 7; i++) { now_ns = take_at(&rate, now_ns); }
    /* 70 million tokens are ten million seconds, to the nanosecond; a tenth of
     * that is enough here. */
    for (int i = 0; i < 7000000; i++) { now_ns = take_at(&rate, now_ns); }
    assert_int_equal(now_ns, BEGIN_NS + 1000000 * CLEAT_NS_PER_S);
}

static void half_a_token_a_second_is_one_in_two(void **state)
{
    struct mcp_rate rate;
    uint64_t now_ns = BEGIN_NS;

    (void)state;
    mcp_rate_init(&rate, MICRO / 2);
    assert_int_equal(take_at(&rate, now_ns), now_ns); /* it holds one */
    assert_int_equal(take_at(&rate, now_ns), now_ns + 2 * CLEAT_NS_PER_S);
    /* It never holds more than one. */
    now_ns += 100 * CLEAT_NS_PER_S;
    assert_int_equal(take_at(&rate, now_ns), now_ns);
    assert_int_equal(take_at(&rate, now_ns), now_ns + 2 * CLEAT_NS_PER_S);
}

static void a_millionth_a_second_is_one_in_a_million_seconds(void **state)
{
    struct mcp_rate rate;
    uint64_t now_ns = BEGIN_NS;

    (void)state;
    mcp_rate_init(&rate, 1);
    assert_int_equal(take_at(&rate, now_ns), now_ns);
    assert_int_equal(take_at(&rate, now_ns), now_ns + MICRO * CLEAT_NS_PER_S);
}

static void a_fraction_above_one_a_second_fits_too(void **state)
{
    struct mcp_rate rate;
    uint64_t now_ns = BEGIN_NS;

    (void)state;
    /* 2.5 a second: two at once, of the third there is half: 0.2 s. */
    mcp_rate_init(&rate, 2500000);
    assert_int_equal(take_at(&rate, now_ns), now_ns);
    assert_int_equal(take_at(&rate, now_ns), now_ns);
    assert_int_equal(take_at(&rate, now_ns), now_ns + CLEAT_NS_PER_S / 5);
    assert_int_equal(take_at(&rate, now_ns), now_ns + 3 * CLEAT_NS_PER_S / 5);
}

static void a_huge_rate_is_a_token_a_nanosecond(void **state)
{
    struct mcp_rate rate;

    (void)state;
    mcp_rate_init(&rate, UINT64_MAX);
    for (uint64_t i = 0; i < 1000000; i++) {
        assert_int_equal(take_at(&rate, BEGIN_NS), BEGIN_NS);
    }
    assert_int_equal(rate.full_ns, BEGIN_NS + 1000000);
}

static void first_come_first_served_and_who_leaves_takes_no_token(void **state)
{
    struct mcp_rate rate;
    struct mcp_rate_waiter waiters[5];

    (void)state;
    mcp_rate_init(&rate, MICRO);
    assert_int_equal(mcp_rate_deadline(&rate), CLEAT_NEVER);
    assert_null(mcp_rate_next(&rate, BEGIN_NS));
    for (int i = 0; i < 5; i++) { mcp_rate_join(&rate, &waiters[i]); }
    assert_ptr_equal(mcp_rate_next(&rate, BEGIN_NS), &waiters[0]);
    assert_null(mcp_rate_next(&rate, BEGIN_NS));
    mcp_rate_leave(&waiters[1]);
    mcp_rate_leave(&waiters[4]);
    assert_int_equal(mcp_rate_deadline(&rate), BEGIN_NS + CLEAT_NS_PER_S);
    assert_ptr_equal(mcp_rate_next(&rate, BEGIN_NS + CLEAT_NS_PER_S),
                     &waiters[2]);
    assert_ptr_equal(mcp_rate_next(&rate, BEGIN_NS + 3 * CLEAT_NS_PER_S),
                     &waiters[3]);
    assert_false(mcp_rate_is_wanted(&rate));
    assert_null(mcp_rate_next(&rate, CLEAT_NEVER));
}

static void near_the_end_of_time_a_token_may_never_come(void **state)
{
    struct mcp_rate rate;
    struct mcp_rate_waiter waiter;

    (void)state;
    mcp_rate_init(&rate, 1);
    assert_int_equal(take_at(&rate, CLEAT_NEVER - 5), CLEAT_NEVER - 5);
    mcp_rate_join(&rate, &waiter);
    assert_int_equal(mcp_rate_deadline(&rate), CLEAT_NEVER);
    assert_null(mcp_rate_next(&rate, CLEAT_NEVER - 1));
}

/* ---- against a bucket of whole numbers -------------------------------------
 *
 * It lets one nanosecond pass at a time and counts what that brings, in parts
 * of which 10^15 are a token: slow, and plain to see. */
struct slow {
    uint64_t rate_micro;
    uint64_t level; /* parts: one nanosecond brings rate_micro of them */
};

static bool slow_take(struct slow *slow)
{
    const uint64_t token = UINT64_C(1000000000000000);

    if (slow->level < token) { return false; }
    slow->level -= token;
    return true;
}

static void it_gives_what_a_bucket_that_counts_nanoseconds_gives(void **state)
{
    /* Fast ones, so that a second's tokens and their gaps are few steps. */
    static const uint64_t rates[] = {UINT64_C(1000000) * 999999937, /* ~1/ns */
                                     UINT64_C(400000000) * MICRO,
                                     UINT64_C(33333333) * MICRO + 333333,
                                     UINT64_C(7000001) * MICRO + 1};
    uint64_t seed = 88172645463325252u;

    (void)state;
    for (size_t r = 0; r < sizeof rates / sizeof rates[0]; r++) {
        struct mcp_rate rate;
        uint64_t drained_ns = BEGIN_NS;
        mcp_rate_init(&rate, rates[r]);
        /* Draining a second's worth one by one would take too long: begin as
         * just drained, and nothing carried over. */
        rate.full_ns = drained_ns + CLEAT_NS_PER_S;
        struct slow slow = {rates[r], 0};
        for (uint64_t ns = 1; ns < 20000; ns++) {
            slow.level += slow.rate_micro;
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            if (seed % 3 == 0) { continue; }
            struct mcp_rate_waiter waiter;
            mcp_rate_join(&rate, &waiter);
            bool got = mcp_rate_next(&rate, drained_ns + ns) != NULL;
            if (!got) { mcp_rate_leave(&waiter); }
            assert_int_equal(got, slow_take(&slow));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bucket_holds_one_seconds_tokens_and_begins_full),
        cmocka_unit_test(nothing_is_rounded_off_however_long_it_runs),
        cmocka_unit_test(half_a_token_a_second_is_one_in_two),
        cmocka_unit_test(a_millionth_a_second_is_one_in_a_million_seconds),
        cmocka_unit_test(a_fraction_above_one_a_second_fits_too),
        cmocka_unit_test(a_huge_rate_is_a_token_a_nanosecond),
        cmocka_unit_test(first_come_first_served_and_who_leaves_takes_no_token),
        cmocka_unit_test(near_the_end_of_time_a_token_may_never_come),
        cmocka_unit_test(it_gives_what_a_bucket_that_counts_nanoseconds_gives),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
