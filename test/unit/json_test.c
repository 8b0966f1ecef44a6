/* Cleat: the JSON reader, rule by rule. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cleat/json.h"

static enum cleat_status check(const char *text, struct cleat_error *error)
{
    return cleat_json_check(text, strlen(text), NULL, NULL, error);
}

static struct cleat_json_value root_of(const char *text)
{
    struct cleat_json_value root = {0, 0, CLEAT_JSON_NULL};

    assert_int_equal(cleat_json_check(text, strlen(text), NULL, &root, NULL),
                     CLEAT_OK);
    return root;
}

static void expect_slice(const char *text, const struct cleat_json_value *value,
                         enum cleat_json_type type, const char *slice)
{
    assert_int_equal(value->type, type);
    assert_int_equal(value->bytes, strlen(slice));
    assert_memory_equal(text + value->offset, slice, value->bytes);
}

/* ---- the check ---------------------------------------------------------- */

static void a_bad_text_is_refused_at_its_first_bad_byte(void **state)
{
    static const struct {
        const char *text;
        unsigned offset;
    } bad[] = {
        {"", 0},
        {" ", 1},
        {"nul", 3},
        {"nulL", 3},
        {"nullx", 4},
        {"True", 0},
        {"'a'", 0},
        {"\xEF\xBB\xBF{}", 0},
        {"-", 1},
        {"-a", 1},
        {"+1", 0},
        {".5", 0},
        {"01", 1},
        {"-01", 2},
        {"1.", 2},
        {"1.e1", 2},
        {"1e", 2},
        {"1d5", 1},
        {"1e+", 3},
        {"0x10", 1},
        {"1 2", 2},
        {"[", 1},
        {"[1", 2},
        {"[1,", 3},
        {"[1,]", 3},
        {"[,1]", 1},
        {"[1 2]", 3},
        {"[1}", 2},
        {"]", 0},
        {"[]]", 2},
        {"{", 1},
        {"{a:1}", 1},
        {"{\"a\"", 4},
        {"{\"a\" 1}", 5},
        {"{\"a\":", 5},
        {"{\"a\":}", 5},
        {"{\"a\":1,}", 7},
        {"{\"a\":1]", 6},
        {"{,}", 1},
        {"{}}", 2},
        {"\"", 1},
        {"\"a", 2},
        {"\"\n\"", 1},
        {"\"\x1F\"", 1},
        {"\"\\", 2},
        {"\"\\x\"", 2},
        {"\"\\u", 3},
        {"\"\\u12g4\"", 5},
        {"\"\\u123\"", 6},
        {"\"\x80\"", 1},
        {"\"\xC1\xBF\"", 1},
        {"\"\xC2\"", 2},
        {"\"\xC2\xC0\"", 2},
        {"\"\xE1\x80\xC0\"", 3},
        {"\"\xE0\x9F\xBF\"", 2},
        {"\"\xED\xA0\x80\"", 2},
        {"\"\xEF\xBF", 3},
        {"\"\xF0\x8F\xBF\xBF\"", 2},
        {"\"\xF4\x90\x80\x80\"", 2},
        {"\"\xF5\x80\x80\x80\"", 1},
        {"/* */ 1", 0},
        {"[NaN]", 1},
        {"[Infinity]", 1},
        {"\f1", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct cleat_error error;

        if (check(bad[i].text, &error) != CLEAT_MALFORMED ||
            error.offset != bad[i].offset) {
            fail_msg("%s: %s at %u, expected MALFORMED at %u", bad[i].text,
                     cleat_status_name(error.status), (unsigned)error.offset,
                     bad[i].offset);
        }
#if !defined(CLEAT_SMALL) || !CLEAT_SMALL
        assert_int_not_equal(error.text[0], '\0');
#endif
    }
}

static void
the_first_and_last_character_of_each_length_are_accepted(void **state)
{
    (void)state;
    assert_int_equal(check("\"\x20\x7F\xC2\x80\xDF\xBF"
                           "\xE0\xA0\x80\xE0\xBF\xBF\xE1\x80\x80"
                           "\xEC\xBF\xBF\xED\x80\x80\xED\x9F\xBF"
                           "\xED\x80\xBF\xEE\x80\x80\xEF\xBF\xBF"
                           "\xF0\x90\x80\x80\xF0\xBF\xBF\xBF"
                           "\xF1\x80\x80\x80\xF3\xBF\xBF\xBF"
                           "\xF4\x80\x80\x80\xF4\x8F\xBF\xBF\"",
                           NULL),
                     CLEAT_OK);
}

static void a_nul_byte_in_the_text_is_refused_where_it_is(void **state)
{
    struct cleat_error error;

    (void)state;
    assert_int_equal(cleat_json_check("1\0", 2, NULL, NULL, &error),
                     CLEAT_MALFORMED);
    assert_int_equal(error.offset, 1);
    assert_int_equal(cleat_json_check("\"a\0\"", 4, NULL, NULL, &error),
                     CLEAT_MALFORMED);
    assert_int_equal(error.offset, 2);
    assert_int_equal(cleat_json_check(NULL, 0, NULL, NULL, &error),
                     CLEAT_MALFORMED);
    assert_int_equal(error.offset, 0);
}

static void the_root_is_told_without_the_space_around_it(void **state)
{
    struct cleat_json_value root;

    (void)state;
    root = root_of(" \t\n\r[1, 2] \n");
    assert_int_equal(root.offset, 4);
    assert_int_equal(root.bytes, 6);
    assert_int_equal(root.type, CLEAT_JSON_ARRAY);
    assert_int_equal(root_of("{}").type, CLEAT_JSON_OBJECT);
    assert_int_equal(root_of("null").type, CLEAT_JSON_NULL);
    assert_int_equal(root_of("true").type, CLEAT_JSON_TRUE);
    assert_int_equal(root_of("false").type, CLEAT_JSON_FALSE);
    assert_int_equal(root_of("\"\"").type, CLEAT_JSON_STRING);
    assert_int_equal(root_of("-0.1e+2").type, CLEAT_JSON_NUMBER);
    assert_int_equal(root_of("-0.1e+2").bytes, 7);
}

static void depth_is_allowed_up_to_the_limit_and_no_further(void **state)
{
    (void)state;
    for (uint32_t depth = 0; depth <= 65; depth++) {
        for (uint32_t limit = 0; limit <= 64; limit++) {
            struct cleat_json_limits limits = {0, limit};
            uint32_t allowed = limit == 0 ? 64 : limit;
            struct cleat_error error;
            char text[200] = "";
            size_t n = 0;

            for (uint32_t i = 0; i < depth; i++) { text[n++] = '['; }
            text[n++] = '0';
            for (uint32_t i = 0; i < depth; i++) { text[n++] = ']'; }
            if (depth <= allowed) {
                assert_int_equal(
                    cleat_json_check(text, n, &limits, NULL, &error), CLEAT_OK);
            } else {
                assert_int_equal(
                    cleat_json_check(text, n, &limits, NULL, &error),
                    CLEAT_LIMIT);
                assert_int_equal(error.offset, allowed);
            }
        }
    }
}

static void arrays_and_objects_close_in_the_order_they_were_opened(void **state)
{
    struct cleat_error error;
    char text[400];
    size_t n;

    (void)state;
    /* 64 levels; which are objects is a pattern of bits. */
    for (uint64_t pattern = 1; pattern != 0; pattern <<= 1) {
        n = 0;
        for (uint32_t i = 0; i < 64; i++) {
            bool object = (pattern >> i) & 1u;

            n += (size_t)snprintf(text + n, sizeof text - n, "%s",
                                  object ? "{\"\":" : "[");
        }
        text[n++] = '1';
        for (uint32_t i = 64; i > 0; i--) {
            text[n++] = (pattern >> (i - 1)) & 1u ? '}' : ']';
        }
        assert_int_equal(cleat_json_check(text, n, NULL, NULL, NULL), CLEAT_OK);
        for (uint32_t i = 1; i <= 64; i++) {
            char kept = text[n - i];

            text[n - i] = kept == ']' ? '}' : ']';
            assert_int_equal(cleat_json_check(text, n, NULL, NULL, &error),
                             CLEAT_MALFORMED);
            assert_int_equal(error.offset, n - i);
            text[n - i] = kept;
        }
    }
}

static void a_limit_outside_its_range_is_refused(void **state)
{
    struct cleat_json_limits limits = {0, 65};
    struct cleat_error error;

    (void)state;
    assert_int_equal(cleat_json_check("1", 1, &limits, NULL, &error),
                     CLEAT_INVALID);
    limits.depth_max = 0;
    limits.bytes_max = 3;
    assert_int_equal(cleat_json_check("[1]", 3, &limits, NULL, &error),
                     CLEAT_OK);
    assert_int_equal(cleat_json_check("[12]", 4, &limits, NULL, &error),
                     CLEAT_LIMIT);
    assert_int_equal(error.offset, 3);
}

static void a_refused_text_leaves_the_root_alone(void **state)
{
    struct cleat_json_value root = {11, 22, CLEAT_JSON_TRUE};

    (void)state;
    assert_int_equal(cleat_json_check("[1", 2, NULL, &root, NULL),
                     CLEAT_MALFORMED);
    assert_int_equal(root.offset, 11);
    assert_int_equal(root.bytes, 22);
    assert_int_equal(root.type, CLEAT_JSON_TRUE);
}

/* ---- the walk ----------------------------------------------------------- */

static void items_and_members_come_in_order_as_they_stand(void **state)
{
    const char *text = " { \"a\" : [ 1 , \"x,]\" , { \"b\" : null } , [ ] ] ,"
                       "\"c\\\"\":true,\"d\":\"}\" } ";
    struct cleat_json_value root = root_of(text);
    struct cleat_json_cursor members;
    struct cleat_json_cursor items;
    struct cleat_json_value key;
    struct cleat_json_value value;
    struct cleat_json_value item;

    (void)state;
    cleat_json_open(text, &root, &members);
    assert_true(cleat_json_next_member(text, &members, &key, &value));
    expect_slice(text, &key, CLEAT_JSON_STRING, "\"a\"");
    expect_slice(text, &value, CLEAT_JSON_ARRAY,
                 "[ 1 , \"x,]\" , { \"b\" : null } , [ ] ]");
    cleat_json_open(text, &value, &items);
    assert_true(cleat_json_next_item(text, &items, &item));
    expect_slice(text, &item, CLEAT_JSON_NUMBER, "1");
    assert_true(cleat_json_next_item(text, &items, &item));
    expect_slice(text, &item, CLEAT_JSON_STRING, "\"x,]\"");
    assert_true(cleat_json_next_item(text, &items, &item));
    expect_slice(text, &item, CLEAT_JSON_OBJECT, "{ \"b\" : null }");
    assert_true(cleat_json_next_item(text, &items, &item));
    expect_slice(text, &item, CLEAT_JSON_ARRAY, "[ ]");
    assert_false(cleat_json_next_item(text, &items, &item));
    assert_false(cleat_json_next_item(text, &items, &item));
    cleat_json_open(text, &item, &items);
    assert_false(cleat_json_next_item(text, &items, &item));
    assert_true(cleat_json_next_member(text, &members, &key, &value));
    expect_slice(text, &key, CLEAT_JSON_STRING, "\"c\\\"\"");
    expect_slice(text, &value, CLEAT_JSON_TRUE, "true");
    assert_true(cleat_json_next_member(text, &members, &key, &value));
    expect_slice(text, &key, CLEAT_JSON_STRING, "\"d\"");
    expect_slice(text, &value, CLEAT_JSON_STRING, "\"}\"");
    assert_false(cleat_json_next_member(text, &members, &key, &value));
}

static void what_is_no_container_is_walked_as_an_empty_one(void **state)
{
    const char *text = "\"[1,2]\"";
    struct cleat_json_value root = root_of(text);
    struct cleat_json_cursor cursor;
    struct cleat_json_value item;

    (void)state;
    cleat_json_open(text, &root, &cursor);
    assert_false(cleat_json_next_item(text, &cursor, &item));
}

static void a_member_is_found_by_its_name_with_escapes_undone(void **state)
{
    const char *text = "{\"shap\":0,\"\\u0073hape\":1,\"shape\":2,\"shapes\":3,"
                       "\"\":4,\"caf\\u00e9\":5,\"\\ud83d\\ude00\":6}";
    struct cleat_json_value root = root_of(text);
    struct cleat_json_value value = {0, 0, CLEAT_JSON_NULL};

    (void)state;
    assert_int_equal(cleat_json_find(text, &root, "shape", &value), CLEAT_OK);
    expect_slice(text, &value, CLEAT_JSON_NUMBER, "1");
    assert_int_equal(cleat_json_find(text, &root, "", &value), CLEAT_OK);
    expect_slice(text, &value, CLEAT_JSON_NUMBER, "4");
    assert_int_equal(cleat_json_find(text, &root, "caf\xC3\xA9", &value),
                     CLEAT_OK);
    expect_slice(text, &value, CLEAT_JSON_NUMBER, "5");
    assert_int_equal(cleat_json_find(text, &root, "\xF0\x9F\x98\x80", &value),
                     CLEAT_OK);
    expect_slice(text, &value, CLEAT_JSON_NUMBER, "6");
    assert_int_equal(cleat_json_find(text, &root, "sha", &value),
                     CLEAT_NOT_FOUND);
    expect_slice(text, &value, CLEAT_JSON_NUMBER, "6");
    assert_int_equal(cleat_json_find(text, &value, "shape", &value),
                     CLEAT_NOT_FOUND);
    text = "[\"shape\",1]";
    root = root_of(text);
    assert_int_equal(cleat_json_find(text, &root, "shape", &value),
                     CLEAT_NOT_FOUND);
}

/* ---- strings ------------------------------------------------------------ */

static void expect_decoded(const char *text, uint32_t options,
                           const char *expected, size_t bytes)
{
    struct cleat_json_value root = root_of(text);
    char buffer[64];
    size_t got = 99;

    memset(buffer, 0x5A, sizeof buffer);
    assert_int_equal(
        cleat_json_string(text, &root, options, buffer, bytes + 1, &got, NULL),
        CLEAT_OK);
    assert_int_equal(got, bytes);
    assert_memory_equal(buffer, expected, bytes);
    assert_int_equal(buffer[bytes], '\0');
    assert_int_equal(buffer[bytes + 1], 0x5A);
}

static void escapes_are_undone(void **state)
{
    (void)state;
    expect_decoded("\"\"", 0, "", 0);
    expect_decoded("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", 0, "\"\\/\b\f\n\r\t", 8);
    expect_decoded("\"\\u0041\\u007f\\u0080\\u07FF\\u0800\\uFFFF\"", 0,
                   "A\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF", 12);
    expect_decoded("\"\\ud800\\udc00\\uDBFF\\uDFFF\"", 0,
                   "\xF0\x90\x80\x80\xF4\x8F\xBF\xBF", 8);
    expect_decoded("\"\\ud7ff\\ue000\\u00aA\"", 0,
                   "\xED\x9F\xBF\xEE\x80\x80\xC2\xAA", 8);
    expect_decoded("\"caf\xC3\xA9 \xF0\x9F\x98\x80\"", 0,
                   "caf\xC3\xA9 \xF0\x9F\x98\x80", 10);
}

static void expect_no_string(const char *text, uint32_t options,
                             uint64_t offset)
{
    struct cleat_json_value root = root_of(text);
    struct cleat_error error;
    char buffer[64];
    size_t got = 99;

    assert_int_equal(cleat_json_string(text, &root, options, buffer,
                                       sizeof buffer, &got, &error),
                     CLEAT_MALFORMED);
    assert_int_equal(error.offset, offset);
    assert_int_equal(got, 0);
}

static void a_lone_surrogate_is_refused_unless_it_may_be_replaced(void **state)
{
    const uint32_t replace = CLEAT_JSON_REPLACE_LONE;

    (void)state;
    expect_no_string("\"ab\\ud800\"", 0, 3);
    expect_no_string("\"\\udc00\"", 0, 1);
    expect_no_string("\"\\udfff\"", 0, 1);
    expect_no_string("\"\\ud800x\"", 0, 1);
    expect_no_string("\"\\ud800\\n\"", 0, 1);
    expect_no_string("\"\\ud800\\u0041\"", 0, 1);
    expect_no_string("\"\\ud800\\ud800\\udc00\"", 0, 1);
    expect_no_string("\"\\udc00\\ud800\"", 0, 1);
    expect_no_string("\"\\udc00\\udc00\"", 0, 1);
    expect_no_string("\"\\ud800\\ue000\"", 0, 1);
    expect_decoded("\"\\ud800\"", replace, "\xEF\xBF\xBD", 3);
    expect_decoded("\"\\ud800x\"", replace, "\xEF\xBF\xBDx", 4);
    expect_decoded("\"\\ud800\\n\"", replace, "\xEF\xBF\xBD\n", 4);
    expect_decoded("\"\\ud800\\u0041\"", replace,
                   "\xEF\xBF\xBD"
                   "A",
                   4);
    expect_decoded("\"\\ud800\\ud800\\udc00\"", replace,
                   "\xEF\xBF\xBD\xF0\x90\x80\x80", 7);
    expect_decoded("\"\\udc00\\ud800\"", replace, "\xEF\xBF\xBD\xEF\xBF\xBD",
                   6);
}

static void a_nul_in_a_string_is_reported_unless_allowed(void **state)
{
    (void)state;
    expect_no_string("\"ab\\u0000c\"", 0, 3);
    expect_no_string("\"ab\\u0000c\"", CLEAT_JSON_REPLACE_LONE, 3);
    expect_decoded("\"ab\\u0000c\"", CLEAT_JSON_ALLOW_NUL, "ab\0c", 4);
}

static void a_buffer_too_small_is_told_the_bytes_needed(void **state)
{
    const char *text = "\"a\\u00e9\"";
    struct cleat_json_value root = root_of(text);
    struct cleat_error error;
    char buffer[5];
    size_t got = 99;

    (void)state;
    for (size_t room = 0; room <= 3; room++) {
        memset(buffer, 0x5A, sizeof buffer);
        assert_int_equal(
            cleat_json_string(text, &root, 0, buffer, room, &got, &error),
            CLEAT_TOO_SMALL);
        assert_int_equal(error.offset, 4);
        assert_int_equal(got, 0);
        assert_int_equal(buffer[room], 0x5A);
    }
    assert_int_equal(cleat_json_string(text, &root, 0, buffer, 4, &got, NULL),
                     CLEAT_OK);
    assert_string_equal(buffer, "a\xC3\xA9");
}

static void what_is_no_string_is_none(void **state)
{
    struct cleat_json_value root = root_of("12");

    (void)state;
    expect_no_string(" 12", 0, 1);
    assert_false(cleat_json_equals("12", &root, "12"));
}

static void only_the_whole_string_equals(void **state)
{
    const char *text = "\"a\\u0062c\"";
    struct cleat_json_value root = root_of(text);

    (void)state;
    assert_true(cleat_json_equals(text, &root, "abc"));
    assert_false(cleat_json_equals(text, &root, "ab"));
    assert_false(cleat_json_equals(text, &root, "abcd"));
    assert_false(cleat_json_equals(text, &root, ""));
    text = "\"a\\u0000b\"";
    root = root_of(text);
    assert_false(cleat_json_equals(text, &root, "a"));
    text = "\"\\ud800\"";
    root = root_of(text);
    assert_false(cleat_json_equals(text, &root, "\xEF\xBF\xBD"));
}

/* ---- numbers ------------------------------------------------------------ */

static void unsigned_numbers_are_plain_digits_that_fit(void **state)
{
    static const struct {
        const char *text;
        enum cleat_status status;
        uint64_t number;
    } cases[] = {
        {"0", CLEAT_OK, 0},
        {"9", CLEAT_OK, 9},
        {"18446744073709551609", CLEAT_OK, UINT64_MAX - 6},
        {"18446744073709551610", CLEAT_OK, UINT64_MAX - 5},
        {"18446744073709551615", CLEAT_OK, UINT64_MAX},
        {"18446744073709551616", CLEAT_LIMIT, 0},
        {"18446744073709551619", CLEAT_LIMIT, 0},
        {"18446744073709551620", CLEAT_LIMIT, 0},
        {"99999999999999999999", CLEAT_LIMIT, 0},
        {"184467440737095516150", CLEAT_LIMIT, 0},
        {"184467440737095516160000000000000000000000", CLEAT_LIMIT, 0},
        {"-0", CLEAT_MALFORMED, 0},
        {"-1", CLEAT_MALFORMED, 0},
        {"1.0", CLEAT_MALFORMED, 0},
        {"1e0", CLEAT_MALFORMED, 0},
        {"1E2", CLEAT_MALFORMED, 0},
        {"null", CLEAT_MALFORMED, 0},
        {"\"1\"", CLEAT_MALFORMED, 0},
        {"[1]", CLEAT_MALFORMED, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cleat_json_value root = root_of(cases[i].text);
        uint64_t number = 77;

        assert_int_equal(cleat_json_u64(cases[i].text, &root, &number, NULL),
                         cases[i].status);
        assert_true(number == cases[i].number);
    }
}

static void signed_numbers_are_whole_and_fit(void **state)
{
    static const struct {
        const char *text;
        enum cleat_status status;
        int64_t number;
    } cases[] = {
        {"0", CLEAT_OK, 0},
        {"-0", CLEAT_OK, 0},
        {"-1", CLEAT_OK, -1},
        {"9223372036854775807", CLEAT_OK, INT64_MAX},
        {"9223372036854775808", CLEAT_LIMIT, 0},
        {"-9223372036854775807", CLEAT_OK, -INT64_MAX},
        {"-9223372036854775808", CLEAT_OK, INT64_MIN},
        {"-9223372036854775809", CLEAT_LIMIT, 0},
        {"-18446744073709551616", CLEAT_LIMIT, 0},
        {"-18446744073709551617", CLEAT_LIMIT, 0},
        {"-1.5", CLEAT_MALFORMED, 0},
        {"1e3", CLEAT_MALFORMED, 0},
        {"true", CLEAT_MALFORMED, 0},
        {"\"-1\"", CLEAT_MALFORMED, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cleat_json_value root = root_of(cases[i].text);
        int64_t number = 77;

        assert_int_equal(cleat_json_i64(cases[i].text, &root, &number, NULL),
                         cases[i].status);
        assert_true(number == cases[i].number);
    }
}

/* ---- duplicate keys ----------------------------------------------------- */

static enum cleat_status unique(const char *text, size_t words,
                                struct cleat_error *error)
{
    struct cleat_json_value root = root_of(text);
    uint32_t scratch[16];

    assert_true(words <= 16);
    memset(scratch, 0xA5, sizeof scratch);
    return cleat_json_unique_keys(text, &root, words > 0 ? scratch : NULL,
                                  words, error);
}

static void a_second_key_of_one_name_is_found_whatever_its_escapes(void **state)
{
    struct cleat_error error;

    (void)state;
    assert_int_equal(unique("{\"a\":1,\"b\":2,\"a\":3}", 16, &error),
                     CLEAT_EXISTS);
    assert_int_equal(error.index, 2);
    assert_int_equal(error.offset, 13);
    assert_int_equal(unique("{\"a/\":1,\"\\u0061\\/\":2}", 16, &error),
                     CLEAT_EXISTS);
    assert_int_equal(error.index, 1);
    assert_int_equal(unique("{\"\":1,\"\":2}", 3, &error), CLEAT_EXISTS);
    assert_int_equal(unique("{\"\\ud800\":1,\"\\uD800\":2}", 3, &error),
                     CLEAT_EXISTS);
    assert_int_equal(unique("{\"\\u0000\":1,\"\\u0000\":2}", 3, &error),
                     CLEAT_EXISTS);
}

static void different_keys_are_told_apart(void **state)
{
    (void)state;
    assert_int_equal(unique("{}", 1, NULL), CLEAT_OK);
    assert_int_equal(
        unique("{\"a\":{\"a\":1},\"b\":{\"a\":2,\"a\":3}}", 3, NULL), CLEAT_OK);
    assert_int_equal(
        unique("{\"a\":1,\"A\":2,\"a \":3,\"aa\":4,\"\":5}", 6, NULL),
        CLEAT_OK);
    assert_int_equal(
        unique("{\"\\ud800\":1,\"\\ufffd\":2,\"\\u0000\":3}", 4, NULL),
        CLEAT_OK);
    assert_int_equal(unique("[\"a\",\"a\"]", 0, NULL), CLEAT_OK);
}

static void too_few_scratch_words_are_told_how_many_it_takes(void **state)
{
    struct cleat_error error;

    (void)state;
    for (size_t words = 0; words <= 3; words++) {
        assert_int_equal(unique("{\"a\":1,\"b\":2,\"c\":3}", words, &error),
                         CLEAT_TOO_SMALL);
        assert_int_equal(error.offset, 4);
    }
    assert_int_equal(unique("{\"a\":1,\"b\":2,\"c\":3}", 4, &error), CLEAT_OK);
    /* The words run out before the duplicate comes. */
    assert_int_equal(unique("{\"a\":1,\"a\":2}", 2, &error), CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, 3);
}

/* With one word to spare nearly every key finds its place taken. */
static void
a_hundred_keys_fit_in_one_word_more_and_each_is_known_again(void **s)
{
    enum { KEYS = 100 };
    char text[12 * (KEYS + 1)];
    uint32_t scratch[KEYS + 2];
    struct cleat_json_value root;
    struct cleat_error error;

    (void)s;
    for (unsigned again = 0; again <= KEYS; again++) {
        size_t bytes = 0;

        for (unsigned i = 0; i <= KEYS; i++) {
            bytes += (size_t)snprintf(text + bytes, sizeof text - bytes,
                                      "%c\"key%u\":0", i == 0 ? '{' : ',',
                                      i < KEYS ? i : again);
        }
        snprintf(text + bytes, sizeof text - bytes, "}");
        root = root_of(text);
        assert_int_equal(
            cleat_json_unique_keys(text, &root, scratch, KEYS + 2, &error),
            again < KEYS ? CLEAT_EXISTS : CLEAT_OK);
        if (again < KEYS) { assert_int_equal(error.index, KEYS); }
    }
}

/* Only the value says how long it is: the text is not touched. */
static void an_object_beyond_4_gib_is_refused_and_nothing_else(void **state)
{
#if SIZE_MAX > UINT32_MAX
    struct cleat_json_value huge = {0, (size_t)UINT32_MAX + 1,
                                    CLEAT_JSON_OBJECT};
    uint32_t scratch[2];
    struct cleat_error error;

    (void)state;
    assert_int_equal(cleat_json_unique_keys("{}", &huge, scratch, 2, &error),
                     CLEAT_LIMIT);
    huge.type = CLEAT_JSON_ARRAY;
    assert_int_equal(cleat_json_unique_keys("[]", &huge, scratch, 2, &error),
                     CLEAT_OK);
#else
    (void)state;
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bad_text_is_refused_at_its_first_bad_byte),
        cmocka_unit_test(
            the_first_and_last_character_of_each_length_are_accepted),
        cmocka_unit_test(a_nul_byte_in_the_text_is_refused_where_it_is),
        cmocka_unit_test(the_root_is_told_without_the_space_around_it),
        cmocka_unit_test(depth_is_allowed_up_to_the_limit_and_no_further),
        cmocka_unit_test(
            arrays_and_objects_close_in_the_order_they_were_opened),
        cmocka_unit_test(a_limit_outside_its_range_is_refused),
        cmocka_unit_test(a_refused_text_leaves_the_root_alone),
        cmocka_unit_test(items_and_members_come_in_order_as_they_stand),
        cmocka_unit_test(what_is_no_container_is_walked_as_an_empty_one),
        cmocka_unit_test(a_member_is_found_by_its_name_with_escapes_undone),
        cmocka_unit_test(escapes_are_undone),
        cmocka_unit_test(a_lone_surrogate_is_refused_unless_it_may_be_replaced),
        cmocka_unit_test(a_nul_in_a_string_is_reported_unless_allowed),
        cmocka_unit_test(a_buffer_too_small_is_told_the_bytes_needed),
        cmocka_unit_test(what_is_no_string_is_none),
        cmocka_unit_test(only_the_whole_string_equals),
        cmocka_unit_test(unsigned_numbers_are_plain_digits_that_fit),
        cmocka_unit_test(signed_numbers_are_whole_and_fit),
        cmocka_unit_test(
            a_second_key_of_one_name_is_found_whatever_its_escapes),
        cmocka_unit_test(different_keys_are_told_apart),
        cmocka_unit_test(too_few_scratch_words_are_told_how_many_it_takes),
        cmocka_unit_test(
            a_hundred_keys_fit_in_one_word_more_and_each_is_known_again),
        cmocka_unit_test(an_object_beyond_4_gib_is_refused_and_nothing_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
