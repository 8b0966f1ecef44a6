/* Cleat: verl's four variables. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cleat/tool_service.h"

#define MS CLEAT_NS_PER_MS
#define S CLEAT_NS_PER_S

struct environment {
    const char *retries;
    const char *timeout;
    const char *base;
    const char *max;
};

static const char *read_variable(void *context, const char *name)
{
    const struct environment *it = context;

    if (strcmp(name, "VERL_TOOL_CACHE_INIT_RETRIES") == 0) {
        return it->retries;
    }
    if (strcmp(name, "VERL_TOOL_CACHE_INIT_TIMEOUT_S") == 0) {
        return it->timeout;
    }
    if (strcmp(name, "VERL_TOOL_CACHE_INIT_BACKOFF_BASE_S") == 0) {
        return it->base;
    }
    assert_string_equal(name, "VERL_TOOL_CACHE_INIT_BACKOFF_MAX_S");
    return it->max;
}

static struct cleat_retry_policy read_it(struct environment environment)
{
    struct cleat_retry_policy policy = CLEAT_RETRY_TOOLS;
    struct cleat_error error;

    assert_int_equal(
        cleat_tool_policy_read(&policy, read_variable, &environment, &error),
        CLEAT_OK);
    assert_int_equal(cleat_retry_policy_check(&policy), CLEAT_OK);
    return policy;
}

/* How long a policy waits after each of the first three failures. */
static void waits(struct cleat_retry_policy policy, uint64_t one, uint64_t two,
                  uint64_t three)
{
    const uint64_t wanted[] = {one, two, three};
    struct cleat_retry_slot slot;
    uint64_t now_ns = 1000;

    policy.attempts_max = 4;
    cleat_retry_begin(&slot, &policy, now_ns);
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t until_ns = 0;

        assert_int_equal(cleat_retry_failed(&slot, &policy, NULL,
                                            CLEAT_TRANSIENT, CLEAT_NONE,
                                            UINT64_MAX, now_ns, &until_ns),
                         CLEAT_OK);
        assert_int_equal(until_ns - now_ns, wanted[i]);
        now_ns = until_ns;
    }
}

#define TEST(sentence) static void sentence(void **nothing)
#define RUN(sentence) cmocka_unit_test(sentence)

TEST(where_nothing_is_set_nothing_changes)
{
    struct cleat_retry_policy tools = CLEAT_RETRY_TOOLS;
    struct cleat_retry_policy policy = read_it((struct environment){0});

    (void)nothing;
    assert_memory_equal(&policy, &tools, sizeof policy);
    /* The defaults are verl's. */
    assert_int_equal(policy.attempts_max, 3);
    assert_int_equal(policy.attempt_timeout_ns, 30 * S);
    assert_int_equal(policy.base_ns, S);
    assert_int_equal(policy.max_ns, 30 * S);
}

TEST(what_is_set_is_taken_and_the_jitter_goes)
{
    struct cleat_retry_policy policy = read_it((struct environment){
        .retries = "5", .timeout = "2.5", .base = "0.01", .max = "3"});

    (void)nothing;
    assert_int_equal(policy.attempts_max, 5);
    assert_int_equal(policy.attempt_timeout_ns, 2500 * MS);
    assert_int_equal(policy.jitter, CLEAT_RETRY_JITTER_NONE);
    waits(policy, 10 * MS, 20 * MS, 40 * MS);
    policy = read_it((struct environment){.retries = "7"});
    assert_int_equal(policy.jitter, CLEAT_RETRY_JITTER_NONE);
    waits(policy, 1 * S, 2 * S, 4 * S);
    /* min(max, base · 2^(k - 1)) */
    waits(read_it((struct environment){.max = "1.5"}), 1 * S, 1500 * MS,
          1500 * MS);
}

TEST(the_least_is_one_attempt_of_a_tenth_of_a_second_and_no_wait)
{
    (void)nothing;
    assert_int_equal(read_it((struct environment){.retries = "0"}).attempts_max,
                     1);
    assert_int_equal(
        read_it((struct environment){.retries = "-3"}).attempts_max, 1);
    assert_int_equal(
        read_it((struct environment){.timeout = "0"}).attempt_timeout_ns,
        100 * MS);
    assert_int_equal(
        read_it((struct environment){.timeout = "0.09"}).attempt_timeout_ns,
        100 * MS);
    assert_int_equal(
        read_it((struct environment){.timeout = "-1e3"}).attempt_timeout_ns,
        100 * MS);
    waits(read_it((struct environment){.base = "0"}), 0, 0, 0);
    waits(read_it((struct environment){.base = "-2"}), 0, 0, 0);
    waits(read_it((struct environment){.max = "0"}), 0, 0, 0);
    waits(read_it((struct environment){.base = "4", .max = "-0.0"}), 0, 0, 0);
}

/* What Python 3's float() makes of these texts, in nanoseconds. */
TEST(numbers_are_read_as_python_reads_them)
{
    static const struct {
        const char *text;
        uint64_t ns;
    } good[] = {
        {"1", 1 * S},
        {" 1.5 ", 1500 * MS},
        {"\t+2\n", 2 * S},
        {"1_0.2_5", 10250 * MS},
        {".5", 500 * MS},
        {"5.", 5 * S},
        {"1e1", 10 * S},
        {"1E+1", 10 * S},
        {"125e-3", 125 * MS},
        {"1_2e0_1", 120 * S},
        {"0000000000000000000000000000003", 3 * S},
        {"3.00000000000000000000000000000", 3 * S},
        {"0.123456789999", 123456789},
        {"123456789012345678901e-11", 1234567890123456789},
    };
    static const char *const bad[] = {
        "",     " ",   "x",    "1x",   "1 2", "--1",      "+-1",  "1__0",
        "_1",   "1_",  "1_.5", "1._5", ".",   "e1",       "1e",   "1e+",
        "0x10", "inf", "nan",  "-inf", "1,5", "Infinity", "1e_1",
    };

    (void)nothing;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct environment it = {.timeout = good[i].text};

        assert_int_equal(read_it(it).attempt_timeout_ns, good[i].ns);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct environment it = {.retries = "9", .timeout = bad[i]};
        struct cleat_retry_policy tools = CLEAT_RETRY_TOOLS;
        struct cleat_retry_policy policy = tools;
        struct cleat_error error;

        assert_int_equal(
            cleat_tool_policy_read(&policy, read_variable, &it, &error),
            CLEAT_MALFORMED);
        assert_non_null(
            strstr(error.text, "VERL_TOOL_CACHE_INIT_TIMEOUT_S: \""));
        assert_memory_equal(&policy, &tools, sizeof policy);
    }
}

TEST(attempts_are_a_whole_number)
{
    static const char *const bad[] = {"1.0", "1e1", "3.", "", "three", "0b11"};

    (void)nothing;
    assert_int_equal(
        read_it((struct environment){.retries = " +1_2 "}).attempts_max, 12);
    assert_int_equal(
        read_it((struct environment){.retries = "4294967294"}).attempts_max,
        4294967294u);
    assert_int_equal(
        read_it((struct environment){.retries = "99999999999999999999999"})
            .attempts_max,
        CLEAT_RETRY_UNLIMITED);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct environment it = {.retries = bad[i]};
        struct cleat_retry_policy policy = CLEAT_RETRY_TOOLS;
        struct cleat_error error;
        char wanted[100] = "VERL_TOOL_CACHE_INIT_RETRIES: \"";

        strcat(wanted, bad[i]);
        strcat(wanted, "\" is no whole number");
        assert_int_equal(
            cleat_tool_policy_read(&policy, read_variable, &it, &error),
            CLEAT_MALFORMED);
        assert_string_equal(error.text, wanted);
    }
}

TEST(times_beyond_all_bounds_are_none)
{
    (void)nothing;
    assert_int_equal(
        read_it((struct environment){.timeout = "1e300"}).attempt_timeout_ns,
        CLEAT_NONE);
    assert_int_equal(read_it((struct environment){.timeout = "1e999999999999"})
                         .attempt_timeout_ns,
                     CLEAT_NONE);
    assert_int_equal(read_it((struct environment){.timeout = "1e-999999999999"})
                         .attempt_timeout_ns,
                     100 * MS);
    assert_int_equal(read_it((struct environment){.max = "1e300"}).max_ns,
                     CLEAT_NONE);
    /* Not the value that says "never wait". */
    assert_int_equal(read_it((struct environment){.base = "1e300"}).base_ns,
                     CLEAT_NONE - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(where_nothing_is_set_nothing_changes),
        RUN(what_is_set_is_taken_and_the_jitter_goes),
        RUN(the_least_is_one_attempt_of_a_tenth_of_a_second_and_no_wait),
        RUN(numbers_are_read_as_python_reads_them),
        RUN(attempts_are_a_whole_number),
        RUN(times_beyond_all_bounds_are_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
