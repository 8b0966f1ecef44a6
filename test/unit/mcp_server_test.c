/* Cleat: definitions of tool sources. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "port/mcp/server.h"

#define STDIO                                                            \
    "{\"server\":\"Two words\",\"command\":\"npx\",\"args\":[\"-y\",\"a" \
    "\\n\\u00e9\"],\"env\":{\"K\":\"V\"},\"cwd\":null,"
#define TAIL                                                         \
    "\"class_name\":\"a.B\",\"select\":[\"x\"],\"select_all\":true," \
    "\"rate_limit\":\"0.5\",\"timeout_s\":\"1.5e1\",\"prefix\":true}"
#define HTTP                                                            \
    "{\"server\":\"h\",\"url\":\"https://a/b\",\"transport\":\"http\"," \
    "\"headers\":{},\"token\":null,"

static struct mcp_server open_good(const char *json)
{
    struct mcp_server server;

    assert_int_equal(mcp_server_open(&server, json, strlen(json), NULL),
                     CLEAT_OK);
    return server;
}

/* ---- opening ------------------------------------------------------------- */

static void an_opened_definition_says_what_its_members_say(void **state)
{
    struct mcp_server server = open_good(STDIO TAIL);

    (void)state;
    assert_false(server.is_native || server.is_http || server.is_sse);
    assert_true(server.prefix && server.select_all && server.has_rate);
    assert_true(server.rate_micro == 500000);
    assert_true(server.timeout_ns == 15 * CLEAT_NS_PER_S);

    server = open_good(HTTP "\"rate_limit\":null,\"timeout_s\":null}");
    assert_true(server.is_http);
    assert_false(server.is_sse || server.prefix || server.select_all ||
                 server.has_rate || server.is_native);
    assert_true(server.timeout_ns == CLEAT_NONE);

    server = open_good("{\"server\":\"h\",\"url\":\"http://a/sse\","
                       "\"transport\":\"sse\"}");
    assert_true(server.is_http && server.is_sse);

    server = open_good("{\"native\":[]}");
    assert_true(server.is_native);
    assert_false(server.is_http || server.has_rate);
}

static void no_other_text_opens_as_a_definition(void **state)
{
    static const char *const texts[] = {
        "",
        "{",
        "{}",
        "[]",
        "{\"native\":{}}",
        "{\"server\":\"s\"}",
        "{\"command\":\"c\"}",
        "{\"server\":\"s\",\"command\":\"c\",\"url\":\"http://a\"}",
        "{\"server\":\"s\",\"command\":\"c\",\"rate_limit\":\"0\"}",
        "{\"server\":\"s\",\"command\":\"c\",\"rate_limit\":\"\"}",
        "{\"server\":\"s\",\"command\":\"c\",\"rate_limit\":1}",
        "{\"server\":\"s\",\"command\":\"c\",\"timeout_s\":\"-1\"}",
        "{\"server\":\"s\",\"command\":\"c\",\"timeout_s\":\"1e30\"}",
        STDIO TAIL " x"};

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct mcp_server server;
        struct cleat_error error;

        assert_int_equal(
            mcp_server_open(&server, texts[i], strlen(texts[i]), &error),
            CLEAT_MALFORMED);
        assert_int_equal(error.status, CLEAT_MALFORMED);
    }
}

static void a_number_is_scaled_and_cut_to_a_whole_one(void **state)
{
    static const struct {
        const char *text;
        uint32_t zeros;
        uint64_t number; /* 0: refused */
    } rows[] = {{"120", 6, 120000000},
                {"0.5", 6, 500000},
                {"1e1", 6, 10000000},
                {"1.5e-3", 6, 1500},
                {"2.5E+2", 0, 250},
                {"0.0000015", 6, 1},
                {"0.0000009", 6, 0},
                {"0", 6, 0},
                {"0.0", 6, 0},
                {"0e99999999999", 6, 0},
                {"-1", 6, 0},
                {"", 6, 0},
                {"1e-99999999999", 6, 0},
                {"1e99999999999", 6, 0},
                {"18446744073709551615", 0, UINT64_MAX},
                {"18446744073709551616", 0, 0},
                {"18446744073.709551615", 9, UINT64_MAX},
                {"18446744073.709551616", 9, 0},
                {"inf", 6, 0},
                {"1 ", 6, 0}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t number = 7;
        bool good = mcp_server_scale(rows[i].text, strlen(rows[i].text),
                                     rows[i].zeros, &number);

        assert_int_equal(good, rows[i].number != 0);
        if (good) { assert_true(number == rows[i].number); }
    }
}

/* ---- members ------------------------------------------------------------- */

static void a_text_is_taken_with_its_escapes_undone(void **state)
{
    struct mcp_server server = open_good(STDIO TAIL);
    char block[64];
    struct mcp_room room = {block, sizeof block};
    struct cleat_json_value args;
    struct cleat_json_value item;
    struct cleat_json_cursor cursor;
    const char *text;
    size_t bytes;

    (void)state;
    assert_int_equal(
        mcp_server_take_member(&server, "server", &room, &text, &bytes),
        CLEAT_OK);
    assert_string_equal(text, "Two words");
    assert_int_equal(bytes, 9);
    assert_true(mcp_server_find(&server, "args", &args));
    cleat_json_open(server.json, &args, &cursor);
    assert_true(cleat_json_next_item(server.json, &cursor, &item));
    assert_int_equal(mcp_server_take(&server, &item, &room, &text, NULL),
                     CLEAT_OK);
    assert_string_equal(text, "-y");
    assert_true(cleat_json_next_item(server.json, &cursor, &item));
    assert_int_equal(mcp_server_take(&server, &item, &room, &text, &bytes),
                     CLEAT_OK);
    assert_memory_equal(text, "a\n\xC3\xA9", 5);
    assert_int_equal(bytes, 4);
    assert_ptr_equal(room.at, block + 10 + 3 + 5);
    assert_int_equal(room.bytes, sizeof block - 18);
}

static void what_is_null_or_not_there_is_not_found(void **state)
{
    struct mcp_server server = open_good(STDIO TAIL);
    struct mcp_room room = {NULL, 0};
    struct cleat_json_value value;
    const char *text = "x";
    size_t bytes = 1;

    (void)state;
    assert_false(mcp_server_find(&server, "cwd", &value));
    assert_false(mcp_server_find(&server, "url", &value));
    assert_int_equal(
        mcp_server_take_member(&server, "cwd", &room, &text, &bytes),
        CLEAT_NOT_FOUND);
    assert_null(text);
    assert_int_equal(bytes, 0);
}

static void a_room_that_is_too_small_stays_as_it_is(void **state)
{
    struct mcp_server server = open_good(STDIO TAIL);
    char block[10];
    const char *text;
    struct mcp_room room = {block, 9};

    (void)state;
    assert_int_equal(
        mcp_server_take_member(&server, "server", &room, &text, NULL),
        CLEAT_TOO_SMALL);
    assert_null(text);
    assert_ptr_equal(room.at, block);
    assert_int_equal(room.bytes, 9);
    room.bytes = 10;
    assert_int_equal(
        mcp_server_take_member(&server, "server", &room, &text, NULL),
        CLEAT_OK);
    assert_int_equal(room.bytes, 0);
    room.at = block;
    room.bytes = sizeof block;
    assert_int_equal(
        mcp_server_take_member(&server, "args", &room, &text, NULL),
        CLEAT_MALFORMED);
}

/* ---- keys ---------------------------------------------------------------- */

/* Published with the algorithm: draft-eastlake-fnv, test vectors. */
static void a_definitions_key_is_its_fnv_digest(void **state)
{
    (void)state;
    assert_true(mcp_definition_key("", 0) == UINT64_C(0xcbf29ce484222325));
    assert_true(mcp_definition_key("a", 1) == UINT64_C(0xaf63dc4c8601ec8c));
    assert_true(mcp_definition_key("foobar", 6) ==
                UINT64_C(0x85944171f73967e8));
}

static uint64_t session_of(const char *json)
{
    struct mcp_server server = open_good(json);

    return mcp_server_session_key(&server);
}

static void what_only_the_list_depends_on_makes_no_other_session(void **state)
{
    uint64_t key = session_of(STDIO TAIL);

    (void)state;
    assert_true(key != 0);
    assert_true(key == session_of(STDIO
                                  "\"class_name\":null,\"select\":null,"
                                  "\"select_all\":false,\"rate_limit\":\"0.5\","
                                  "\"timeout_s\":\"1.5e1\",\"prefix\":false}"));
}

static void whatever_a_session_depends_on_makes_another(void **state)
{
    static const char *const others[] = {
        "{\"server\":\"Two words\",\"command\":\"npx\",\"args\":[],"
        "\"env\":{\"K\":\"V\"},\"cwd\":null," TAIL,
        STDIO "\"rate_limit\":\"0.6\",\"timeout_s\":\"1.5e1\"}",
        STDIO "\"rate_limit\":\"0.5\",\"timeout_s\":\"15\"}", HTTP TAIL};

    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_true(session_of(STDIO TAIL) != session_of(others[i]));
        for (size_t j = 0; j < i; j++) {
            assert_true(session_of(others[j]) != session_of(others[i]));
        }
    }
}

/* ---- native lists -------------------------------------------------------- */

#define SCHEMA                                                              \
    "{\"type\":\"function\",\"function\":{\"name\":\"add\",\"description\"" \
    ":\"Adds\\n\\\"two\\\"\",\"parameters\":{\"type\":\"object\"}}}"
#define NATIVE                                                       \
    "{\"native\":[{\"class_name\":\"a.Add\",\"tool_schema\":" SCHEMA \
    "},{\"class_name\":\"a.\\u00c9\",\"tool_schema\":null},"         \
    "{\"class_name\":\"a.Sub\",\"tool_schema\":{\"function\":{"      \
    "\"name\":\"sub\"}}}]}"

static _Alignas(8) unsigned char block[4096];

static void expect_text(struct cleat_text text, const char *expected)
{
    assert_int_equal(text.bytes, strlen(expected));
    assert_memory_equal(text.text, expected, text.bytes);
}

static void check_native_list(void)
{
    const struct cleat_tools *tools = (const void *)block;
    struct cleat_tool tool;

    assert_int_equal(cleat_tools_count(tools), 3);
    assert_true(cleat_tools_is_native(tools));
    cleat_tools_at(tools, 0, &tool);
    expect_text(tool.name, "add");
    expect_text(tool.wire_name, "add");
    expect_text(tool.description, "Adds\n\"two\"");
    expect_text(tool.input_schema, "{\"type\":\"object\"}");
    expect_text(tool.definition, SCHEMA);
    expect_text(tool.class_name, "a.Add");
    expect_text(tool.server, "native");
    cleat_tools_at(tools, 1, &tool);
    expect_text(tool.name, "");
    expect_text(tool.definition, "");
    expect_text(tool.class_name, "a.\xC3\x89");
    cleat_tools_at(tools, 2, &tool);
    expect_text(tool.name, "sub");
    expect_text(tool.description, "");
    expect_text(tool.input_schema, "");
}

static void a_native_list_has_each_schema_as_it_stands(void **state)
{
    struct mcp_server server = open_good(NATIVE);

    (void)state;
    assert_int_equal(mcp_native_list(&server, block, sizeof block, NULL),
                     CLEAT_OK);
    check_native_list();
}

static void
a_native_list_is_made_in_any_block_that_is_large_enough(void **state)
{
    struct mcp_server server = open_good(NATIVE);
    size_t enough = 0;

    (void)state;
    for (size_t bytes = 0; bytes <= sizeof block && enough == 0; bytes++) {
        struct cleat_error error;
        enum cleat_status status;

        memset(block, 0xA5, sizeof block);
        status = mcp_native_list(&server, block, bytes, &error);
        for (size_t i = bytes; i < sizeof block; i++) {
            assert_int_equal(block[i], 0xA5);
        }
        if (status == CLEAT_OK) {
            enough = bytes;
        } else {
            assert_int_equal(status, CLEAT_TOO_SMALL);
            assert_true(error.offset > bytes);
        }
    }
    assert_true(enough > 0);
    check_native_list();
}

static void a_room_as_large_as_was_asked_for_is_enough(void **state)
{
    struct mcp_server server = open_good(NATIVE);
    struct cleat_error error;

    (void)state;
    assert_int_equal(mcp_native_list(&server, block, 256, &error),
                     CLEAT_TOO_SMALL);
    assert_true(error.offset <= sizeof block);
    assert_int_equal(
        mcp_native_list(&server, block, (size_t)error.offset, &error),
        CLEAT_OK);
    check_native_list();
}

static void a_name_that_comes_twice_is_refused(void **state)
{
    struct mcp_server server = open_good(
        "{\"native\":[{\"class_name\":\"a\",\"tool_schema\":{"
        "\"function\":{\"name\":\"x\"}}},{\"class_name\":\"b\","
        "\"tool_schema\":{\"function\":{\"name\":\"x\"}}}]}");

    (void)state;
    assert_int_equal(mcp_native_list(&server, block, sizeof block, NULL),
                     CLEAT_EXISTS);
    server = open_good(STDIO TAIL);
    assert_int_equal(mcp_native_list(&server, block, sizeof block, NULL),
                     CLEAT_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_opened_definition_says_what_its_members_say),
        cmocka_unit_test(no_other_text_opens_as_a_definition),
        cmocka_unit_test(a_number_is_scaled_and_cut_to_a_whole_one),
        cmocka_unit_test(a_text_is_taken_with_its_escapes_undone),
        cmocka_unit_test(what_is_null_or_not_there_is_not_found),
        cmocka_unit_test(a_room_that_is_too_small_stays_as_it_is),
        cmocka_unit_test(a_definitions_key_is_its_fnv_digest),
        cmocka_unit_test(what_only_the_list_depends_on_makes_no_other_session),
        cmocka_unit_test(whatever_a_session_depends_on_makes_another),
        cmocka_unit_test(a_native_list_has_each_schema_as_it_stands),
        cmocka_unit_test(
            a_native_list_is_made_in_any_block_that_is_large_enough),
        cmocka_unit_test(a_room_as_large_as_was_asked_for_is_enough),
        cmocka_unit_test(a_name_that_comes_twice_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
