/* Cleat: the command line. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/options.h"

#define NS_PER_S UINT64_C(1000000000)

/* What a parse leaves. */
static struct {
    bool flag;
    const char *text;
    uint64_t count;
    uint64_t amount;
    uint64_t wait_ns;
    uint32_t choice;
    const char *items[2];
    struct option_texts texts;
    const char *operands[2];
    size_t operands_given;
    char line[256]; /* stderr */
} got;

static int parse(size_t operands_min, const char *line)
{
    struct option table[] = {
        {.name = "flag", .kind = OPTION_FLAG, .to = &got.flag},
        {.name = "text", .kind = OPTION_TEXT, .to = &got.text},
        {.name = "count",
         .kind = OPTION_COUNT,
         .to = &got.count,
         .min = 1,
         .max = 64},
        {.name = "amount", .kind = OPTION_AMOUNT, .to = &got.amount, .min = 10},
        {.name = "wait-s",
         .kind = OPTION_SECONDS,
         .to = &got.wait_ns,
         .min = NS_PER_S / 1000,
         .max = 3600 * NS_PER_S},
        {.name = "choice",
         .kind = OPTION_CHOICE,
         .to = &got.choice,
         .choices = "staged|in-place"},
        {.name = "fault", .kind = OPTION_TEXTS, .to = &got.texts},
        {.name = "needed",
         .kind = OPTION_TEXT,
         .to = &got.text,
         .required = operands_min == 9},
    };
    struct options options = {.command = "t",
                              .table = table,
                              .count = sizeof table / sizeof table[0],
                              .operands = got.operands,
                              .operands_min = operands_min % 9,
                              .operands_max = 2,
                              .operands_name = "FILE"};
    static char words[256]; /* what was taken points here */
    char *argv[32] = {words};
    int argc = 1;
    int saved = dup(2);
    FILE *caught = tmpfile();
    char *rest = NULL;
    int result;

    memset(&got, 0, sizeof got);
    got.count = 4;
    got.texts.items = got.items;
    got.texts.items_max = 2;
    snprintf(words, sizeof words, "t %s", line);
    for (char *word = strtok_r(words + 2, " ", &rest); word != NULL;
         word = strtok_r(NULL, " ", &rest)) {
        argv[argc++] = strcmp(word, "''") == 0 ? word + 2 : word;
    }
    assert_non_null(caught);
    fflush(stderr);
    dup2(fileno(caught), 2);
    result = options_parse(&options, argc, argv);
    fflush(stderr);
    dup2(saved, 2);
    close(saved);
    rewind(caught);
    got.line[fread(got.line, 1, sizeof got.line - 1, caught)] = '\0';
    fclose(caught);
    got.operands_given = options.operands_given;
    return result;
}

static void what_is_given_is_taken_and_the_rest_keeps_its_default(void **state)
{
    (void)state;
    assert_int_equal(parse(0, ""), 0);
    assert_int_equal(got.count, 4);
    assert_int_equal(parse(1, "--flag a --count=64 --wait-s 0.25 -- --text"),
                     0);
    assert_true(got.flag);
    assert_int_equal(got.count, 64);
    assert_int_equal(got.wait_ns, NS_PER_S / 4);
    assert_int_equal(got.operands_given, 2);
    assert_int_equal(parse(0, "--text --flag --choice in-place --fault a "
                              "--fault=b=c - --amount 1.5k"),
                     0);
    assert_int_equal(strcmp(got.text, "--flag"), 0);
    assert_false(got.flag);
    assert_int_equal(got.choice, 1);
    assert_int_equal(got.texts.count, 2);
    assert_int_equal(got.amount, 1500);
    assert_int_equal(got.operands_given, 1);
    assert_string_equal(got.line, "");
}

static void each_bad_usage_is_one_clear_line_and_2(void **state)
{
    static const struct {
        size_t operands_min;
        const char *line;
        const char *text;
    } cases[] = {
        {0, "--nope", "t: --nope: there is no such option\n"},
        {0, "--nope=3", "t: --nope: there is no such option\n"},
        {0, "--cou 3", "t: --cou: there is no such option\n"},
        {0, "-c", "t: -c: there is no such option\n"},
        {0, "--flag=yes", "t: --flag: takes no value\n"},
        {0, "--flag --flag", "t: --flag: given twice\n"},
        {0, "--count", "t: --count: needs a value\n"},
        {0, "--count 3 --count=3", "t: --count: given twice\n"},
        {0, "--count 0", "t: --count 0: must be 1 to 64\n"},
        {0, "--count 65", "t: --count 65: must be 1 to 64\n"},
        {0, "--count -1", "t: --count -1: expected a whole number\n"},
        {0, "--count 1.5", "t: --count 1.5: expected a whole number\n"},
        {0, "--count 007", "t: --count 007: expected a whole number\n"},
        {0, "--count 18446744073709551616",
         "t: --count 18446744073709551616: expected a whole number\n"},
        {0, "--amount 9", "t: --amount 9: must be at least 10\n"},
        {0, "--amount 5X",
         "t: --amount 5X: expected a number, then K, M, G, B, T or nothing, as "
         "in 500M\n"},
        {0, "--wait-s 0", "t: --wait-s 0: must be 0.001 to 3600.000\n"},
        {0, "--wait-s 1s",
         "t: --wait-s 1s: expected seconds, as in 10 or "
         "0.25\n"},
        {0, "--choice stage", "t: --choice stage: expected staged|in-place\n"},
        {0, "--choice ''", "t: --choice : expected staged|in-place\n"},
        {0, "--text ''", "t: --text: the value is empty\n"},
        {0, "--text=", "t: --text: the value is empty\n"},
        {0, "--fault a --fault b --fault c",
         "t: --fault c: at most 2 of them\n"},
        {0, "a b c", "t: c: unexpected argument\n"},
        {0, "''", "t: an argument is empty\n"},
        {1, "--flag", "t: FILE: must be given\n"},
        {9, "a", "t: --needed: must be given\n"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(parse(cases[i].operands_min, cases[i].line), 2);
        assert_string_equal(got.line, cases[i].text);
    }
}

static void decimals_are_exact_and_never_overflow(void **state)
{
    static const struct {
        const char *text;
        bool good;
        uint64_t nanoseconds;
    } cases[] = {
        {"0", true, 0},
        {"1", true, NS_PER_S},
        {"0.1", true, NS_PER_S / 10},
        {"0.000000001", true, 1},
        {"0.0000000019", true, 1},
        {"12.345678901", true, UINT64_C(12345678901)},
        {"18446744073.709551615", true, UINT64_MAX},
        {"18446744073.709551616", false, 0},
        {"18446744074", false, 0},
        {"99999999999999999999", false, 0},
        {"", false, 0},
        {".", false, 0},
        {".5", false, 0},
        {"5.", false, 0},
        {"1.2.3", false, 0},
        {"1e3", false, 0},
        {"+1", false, 0},
        {"-1", false, 0},
        {" 1", false, 0},
        {"1 ", false, 0},
        {"inf", false, 0},
        {"0x10", false, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t value = 7;

        assert_int_equal(options_decimal(cases[i].text, NS_PER_S, &value),
                         cases[i].good);
        assert_int_equal(value, cases[i].good ? cases[i].nanoseconds : 7);
    }
}

static void amounts_take_the_powers_of_a_thousand(void **state)
{
    static const struct {
        const char *text;
        uint64_t value;
    } cases[] = {
        {"0", 0},
        {"12", 12},
        {"1k", 1000},
        {"1K", 1000},
        {"500M", 500000000},
        {"1.5B", 1500000000},
        {"1.5G", 1500000000},
        {"0.0005m", 500},
        {"18T", UINT64_C(18000000000000)},
        {"18446744073709551615", UINT64_MAX},
    };
    static const char *const bad[] = {"",    "K",  "1KK", "1 K",      "1Ki",
                                      "-1K", "1.", "1.K", "18446745T"};
    uint64_t value;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_true(options_amount(cases[i].text, &value));
        assert_int_equal(value, cases[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(options_amount(bad[i], &value));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_given_is_taken_and_the_rest_keeps_its_default),
        cmocka_unit_test(each_bad_usage_is_one_clear_line_and_2),
        cmocka_unit_test(decimals_are_exact_and_never_overflow),
        cmocka_unit_test(amounts_take_the_powers_of_a_thousand),
    };

    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
