/* Cleat: JSON-RPC written and read, and what is mirrored into headers.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "port/mcp/headers.h"
#include "port/mcp/rpc.h"

static struct cleat_text text_of(const char *text)
{
    return mcp_text(text, strlen(text));
}

static void expect(const struct mcp_out *out, const char *text)
{
    assert_false(out->full);
    assert_int_equal(out->used, strlen(text));
    assert_memory_equal(out->to, text, out->used);
}

/* ---- writing ------------------------------------------------------------ */

static void numbers_are_written_in_full(void **state)
{
    static const struct {
        uint64_t number;
        const char *text;
    } rows[] = {{0, "0"},
                {9, "9"},
                {10, "10"},
                {18446744073709551615u, "18446744073709551615"}};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        char room[32];
        struct mcp_out out;

        mcp_out_begin(&out, room, sizeof room);
        mcp_put_number(&out, rows[i].number);
        expect(&out, rows[i].text);
    }
}

static void strings_are_escaped_so_that_json_gives_them_back(void **state)
{
    char all[256];
    char room[2048];
    char back[2048];
    struct cleat_json_value value;
    struct mcp_out out;
    size_t bytes = 0;
    size_t got;

    (void)state;
    for (unsigned c = 0; c < 128; c++) { all[bytes++] = (char)c; }
    memcpy(all + bytes, "\xC3\xA9\xE4\xB8\x96\xF0\x9F\x98\x80", 9);
    bytes += 9;
    mcp_out_begin(&out, room, sizeof room);
    mcp_put_string(&out, mcp_text(all, bytes));
    assert_int_equal(cleat_json_check(room, out.used, NULL, &value, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_json_string(room, &value, CLEAT_JSON_ALLOW_NUL, back,
                                       sizeof back, &got, NULL),
                     CLEAT_OK);
    assert_int_equal(got, bytes);
    assert_memory_equal(back, all, bytes);
    assert_null(memchr(room, '\n', out.used)); /* one line */
    mcp_out_begin(&out, room, sizeof room);
    mcp_put_string(&out, text_of(""));
    expect(&out, "\"\"");
    mcp_out_begin(&out, room, sizeof room);
    mcp_put_string(&out, text_of("a\"\\\n/"));
    expect(&out, "\"a\\\"\\\\\\u000a/\"");
}

/* RFC 4648, section 10. */
static void base64_is_that_of_the_rfc(void **state)
{
    static const char *const rows[][2] = {{"", ""},
                                          {"f", "Zg=="},
                                          {"fo", "Zm8="},
                                          {"foo", "Zm9v"},
                                          {"foob", "Zm9vYg=="},
                                          {"fooba", "Zm9vYmE="},
                                          {"foobar", "Zm9vYmFy"},
                                          {"\xFB\xFF", "+/8="}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char room[32];
        struct mcp_out out;

        mcp_out_begin(&out, room, sizeof room);
        mcp_put_base64(&out, text_of(rows[i][0]));
        expect(&out, rows[i][1]);
    }
}

static void what_does_not_fit_is_noted_and_not_cut(void **state)
{
    char room[8] = "#######";
    struct mcp_out out;

    (void)state;
    mcp_out_begin(&out, room, 4);
    mcp_put(&out, "ab");
    mcp_put(&out, "cde");
    assert_true(out.full);
    assert_int_equal(out.used, 2);
    mcp_put(&out, "c"); /* would fit, but something is missing before it */
    assert_int_equal(out.used, 2);
    assert_memory_equal(room, "ab#####", 7);
}

static void json_in_one_line_is_the_same_json(void **state)
{
    char room[64];
    struct mcp_out out;

    (void)state;
    mcp_out_begin(&out, room, sizeof room);
    mcp_put(&out, "\n");
    mcp_put_json(&out, text_of("{\"a\":\r\n[1,\n2]}"));
    expect(&out, "\n{\"a\":  [1, 2]}");
}

static void a_line_for_people_is_clean_and_cut_at_a_characters_end(void **state)
{
    static const struct {
        const char *text;
        size_t shown;
        const char *clean;
    } rows[] = {
        {"abc", 10, "abc"},
        {"abc", 3, "abc"},
        {"abcd", 3, "..."},
        {"abcdef", 5, "ab..."},
        {"a\n\x1B[31m\x7F", 10, "a??[31m?"},
        {"\xC3\xA9\xC3\xA9\xC3\xA9", 5, "\xC3\xA9..."},
        {"\xC3\xA9\xC3\xA9\xC3\xA9", 4, "..."},
        {"abcdef", 2, ""},
        {"", 0, ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char room[32];

        mcp_clean(text_of(rows[i].text), rows[i].shown, room, sizeof room);
        assert_string_equal(room, rows[i].clean);
    }
}

/* ---- reading ------------------------------------------------------------ */

static void messages_are_told_apart(void **state)
{
    static const struct {
        const char *text;
        enum mcp_rpc_kind kind;
        uint64_t number;
    } rows[] = {
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}", MCP_RPC_RESULT, 1},
        {"{\"result\":null,\"id\":7,\"jsonrpc\":\"2.0\"}", MCP_RPC_RESULT, 7},
        {"{\"jsonrpc\":\"2.0\",\"id\":\"1\",\"result\":{}}", MCP_RPC_RESULT, 0},
        {"{\"jsonrpc\":\"2.0\",\"result\":{}}", MCP_RPC_NONE, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":null,\"result\":{}}", MCP_RPC_NONE, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-1,\"message\":"
         "\"m\"}}",
         MCP_RPC_ERROR, 1},
        {"{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-1}}", MCP_RPC_ERROR, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":\"x\"}}",
         MCP_RPC_NONE, 1},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":1e3}}",
         MCP_RPC_NONE, 1},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":7}", MCP_RPC_NONE, 1},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}", MCP_RPC_REQUEST, 1},
        {"{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"m\"}", MCP_RPC_REQUEST, 0},
        {"{\"jsonrpc\":\"2.0\",\"method\":\"m\"}", MCP_RPC_NOTIFICATION, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"m\"}",
         MCP_RPC_NOTIFICATION, 0},
        {"{\"jsonrpc\":\"2.0\",\"method\":1}", MCP_RPC_NONE, 0},
        {"{\"jsonrpc\":2.0,\"method\":\"m\"}", MCP_RPC_NONE, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":1}", MCP_RPC_NONE, 1},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1,\"result\":2}",
         MCP_RPC_NONE, 0},
        {"[]", MCP_RPC_NONE, 0},
        {"\"jsonrpc\"", MCP_RPC_NONE, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct cleat_json_value root;
        struct mcp_rpc rpc;

        assert_int_equal(cleat_json_check(rows[i].text, strlen(rows[i].text),
                                          NULL, &root, NULL),
                         CLEAT_OK);
        mcp_rpc_open(&rpc, rows[i].text, &root);
        if (rpc.kind != rows[i].kind ||
            mcp_rpc_number(&rpc) != rows[i].number) {
            fail_msg("%s: %d %u", rows[i].text, rpc.kind,
                     (unsigned)mcp_rpc_number(&rpc));
        }
    }
}

/* ---- annotations -------------------------------------------------------- */

#define PROPERTY(name, body) "\"" name "\":{" body "}"
#define SCHEMA(properties) \
    "{\"type\":\"object\",\"properties\":{" properties "}}"
#define ON(header) "\"type\":\"string\",\"x-mcp-header\":" header

static void annotations_are_allowed_as_the_revision_says(void **state)
{
    static const struct {
        const char *schema;
        bool allowed;
    } rows[] = {
        {"{}", true},
        {"true", true},
        {SCHEMA(PROPERTY("v", ON("\"Region\""))), true},
        {SCHEMA(PROPERTY("v", "\"x-mcp-header\":\"A\",\"type\":\"integer\"")),
         true},
        {SCHEMA(PROPERTY("v", "\"type\":\"boolean\",\"x-mcp-header\":\"A\"")),
         true},
        {SCHEMA(PROPERTY("v", ON("\"!#$%&'*+-.^_`|~09azAZ\""))), true},
        {SCHEMA(PROPERTY("v", ON("\"\\u0041\""))), true},
        {SCHEMA(PROPERTY("a", ON("\"A\"")) "," PROPERTY("b", ON("\"B\""))),
         true},
        {SCHEMA(
             PROPERTY("o", "\"properties\":{" PROPERTY("v", ON("\"A\"")) "}")),
         true},
        /* Names and data, not annotations: */
        {SCHEMA("\"x-mcp-header\":{\"type\":\"array\"}"), true},
        {SCHEMA(PROPERTY("v", "\"default\":{\"x-mcp-header\":1}")), true},
        {SCHEMA(PROPERTY("v", "\"enum\":[{\"x-mcp-header\":1}]")), true},
        {SCHEMA(PROPERTY("v", "\"const\":{\"x-mcp-header\":1}")), true},
        {"{\"$defs\":{\"x-mcp-header\":{}}}", true},
        {SCHEMA(PROPERTY("v", "\"items\":{\"properties\":{\"x-mcp-header\":"
                              "{}}}")),
         true},
        /* The conformance suite's ten: */
        {SCHEMA(PROPERTY("v", ON("\"\""))), false},
        {SCHEMA(PROPERTY("v", "\"type\":\"object\",\"x-mcp-header\":\"D\"")),
         false},
        {SCHEMA(PROPERTY("v", "\"type\":\"array\",\"items\":{\"type\":"
                              "\"string\"},\"x-mcp-header\":\"I\"")),
         false},
        {SCHEMA(PROPERTY("v", "\"type\":\"null\",\"x-mcp-header\":\"N\"")),
         false},
        {SCHEMA(PROPERTY("v", "\"type\":\"number\",\"x-mcp-header\":\"S\"")),
         false},
        {SCHEMA(PROPERTY("a", ON("\"R\"")) "," PROPERTY("b", ON("\"R\""))),
         false},
        {SCHEMA(PROPERTY("a", ON("\"My\"")) "," PROPERTY("b", ON("\"mY\""))),
         false},
        {SCHEMA(PROPERTY("v", ON("\"My Region\""))), false},
        {SCHEMA(PROPERTY("v", ON("\"Region:Primary\""))), false},
        {SCHEMA(PROPERTY("v", ON("\"R\xC3\xA9gion\""))), false},
        {SCHEMA(PROPERTY("v", ON("\"Region\\t1\""))), false},
        /* And what else there is: */
        {SCHEMA(PROPERTY("v", ON("\"A\\u0000\""))), false},
        {SCHEMA(PROPERTY("v", ON("7"))), false},
        {SCHEMA(PROPERTY("v", ON("null"))), false},
        {SCHEMA(PROPERTY("v", "\"x-mcp-header\":\"A\"")), false},
        {SCHEMA(PROPERTY("v", "\"type\":[\"string\"],\"x-mcp-header\":\"A\"")),
         false},
        {"{\"type\":\"string\",\"x-mcp-header\":\"A\"}", false},
        {SCHEMA(PROPERTY("v", "\"items\":{" ON("\"A\"") "}")), false},
        {SCHEMA(PROPERTY("v", "\"oneOf\":[{" ON("\"A\"") "}]")), false},
        {SCHEMA(PROPERTY("v", "\"anyOf\":[{\"properties\":{" PROPERTY(
                                  "w", ON("\"A\"")) "}}]")),
         false},
        {"{\"if\":{\"properties\":{" PROPERTY("w", ON("\"A\"")) "}}}", false},
        {"{\"$defs\":{" PROPERTY("w", ON("\"A\"")) "}}", false},
        {"{\"patternProperties\":{" PROPERTY("w", ON("\"A\"")) "}}", false},
        {"{\"additionalProperties\":{" ON("\"A\"") "}}", false},
        {"{\"properties\":[{" ON("\"A\"") "}]}", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct cleat_json_value root;

        assert_int_equal(cleat_json_check(rows[i].schema,
                                          strlen(rows[i].schema), NULL, &root,
                                          NULL),
                         CLEAT_OK);
        if (mcp_headers_allowed(rows[i].schema, &root) != rows[i].allowed) {
            fail_msg("%s", rows[i].schema);
        }
    }
}

static void a_name_that_is_too_long_or_one_too_many_is_not_allowed(void **state)
{
    (void)state;
    for (unsigned count = 64; count <= 65; count++) {
        char schema[8192] = "{\"properties\":{";
        struct cleat_json_value root;

        for (unsigned i = 0; i < count; i++) {
            size_t used = strlen(schema);

            snprintf(schema + used, sizeof schema - used,
                     "%s\"p%u\":{\"type\":\"string\",\"x-mcp-header\":"
                     "\"H%u\"}",
                     i > 0 ? "," : "", i, i);
        }
        strcat(schema, "}}");
        assert_int_equal(
            cleat_json_check(schema, strlen(schema), NULL, &root, NULL),
            CLEAT_OK);
        assert_int_equal(mcp_headers_allowed(schema, &root), count == 64);
    }
    for (unsigned bytes = 127; bytes <= 128; bytes++) {
        char schema[512];
        char name[129];
        struct cleat_json_value root;

        memset(name, 'a', bytes);
        name[bytes] = '\0';
        snprintf(schema, sizeof schema,
                 "{\"properties\":{\"p\":{\"type\":\"string\","
                 "\"x-mcp-header\":\"%s\"}}}",
                 name);
        assert_int_equal(
            cleat_json_check(schema, strlen(schema), NULL, &root, NULL),
            CLEAT_OK);
        assert_int_equal(mcp_headers_allowed(schema, &root), bytes == 127);
    }
}

/* ---- values ------------------------------------------------------------- */

/* The first five are the examples of MCP 2026-07-28, Value Encoding. */
static void values_are_encoded_as_the_revision_says(void **state)
{
    static const char *const rows[][2] = {
        {"us-west1", "us-west1"},
        {"Hello, \xE4\xB8\x96\xE7\x95\x8C", "=?base64?SGVsbG8sIOS4lueVjA==?="},
        {" padded ", "=?base64?IHBhZGRlZCA=?="},
        {"line1\nline2", "=?base64?bGluZTEKbGluZTI=?="},
        {"=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="},
        {"", ""},
        {"us west 1", "us west 1"},
        {" a", "=?base64?IGE=?="},
        {"a ", "=?base64?YSA=?="},
        {"\ta", "=?base64?CWE=?="},
        {"a\r\nb", "=?base64?YQ0KYg==?="},
        {"=?base64?=", "=?base64?PT9iYXNlNjQ/PQ==?="},
        {"=?base64?x", "=?base64?x"},
        {"x?=", "x?="},
        {"=?BASE64?x?=", "=?BASE64?x?="},
        {"~!", "~!"},
        {"\x7F", "=?base64?fw==?="},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char room[128];
        struct mcp_out out;

        mcp_out_begin(&out, room, sizeof room);
        mcp_headers_value(&out, text_of(rows[i][0]));
        expect(&out, rows[i][1]);
    }
}

static void values_are_taken_from_their_exact_path(void **state)
{
    static const struct {
        const char *schema;
        const char *arguments;
        const char *lines;
    } rows[] = {
        {SCHEMA(PROPERTY("v", ON("\"A\""))), "{\"v\":\"x\"}",
         "Mcp-Param-A: x\n"},
        {SCHEMA(PROPERTY("v", ON("\"A\""))), "{\"w\":\"x\"}", ""},
        {SCHEMA(PROPERTY("v", ON("\"A\""))), "{\"v\":null}", ""},
        {SCHEMA(PROPERTY("v", ON("\"A\""))), "{\"v\":[1]}", ""},
        {SCHEMA(PROPERTY("v", ON("\"A\""))), "{\"v\":{\"v\":1}}", ""},
        {SCHEMA(PROPERTY("v", ON("\"A\""))), "[]", ""},
        {SCHEMA(PROPERTY("v", ON("\"A\""))), "{\"\\u0076\":\"\\u0078\"}",
         "Mcp-Param-A: x\n"},
        {SCHEMA(PROPERTY("\\u0076", ON("\"A\""))), "{\"v\":false}",
         "Mcp-Param-A: false\n"},
        {SCHEMA(PROPERTY("a b", ON("\"A\""))), "{\"a b\":-12}",
         "Mcp-Param-A: -12\n"},
        {SCHEMA(
             PROPERTY("o", "\"properties\":{" PROPERTY("v", ON("\"A\"")) "}")),
         "{\"v\":\"no\",\"o\":{\"v\":\"yes\"}}", "Mcp-Param-A: yes\n"},
        {SCHEMA(
             PROPERTY("o", "\"properties\":{" PROPERTY("v", ON("\"A\"")) "}")),
         "{\"o\":[{\"v\":\"no\"}]}", ""},
        {SCHEMA(PROPERTY("o", "\"items\":{" PROPERTY("v", ON("\"A\"")) "}")),
         "{\"o\":{\"v\":\"no\"}}", ""},
        {SCHEMA(PROPERTY("v", ON("\"B A D\""))), "{\"v\":\"x\"}", ""},
        {SCHEMA(PROPERTY("v", ON("\"A\""))), "{\"v\":\"a\\u0000\"}",
         "Mcp-Param-A: =?base64?YQA=?=\n"},
        {SCHEMA(PROPERTY("v", ON("\"A\""))), "{\"v\":\"a\\nX-Evil: 1\"}",
         "Mcp-Param-A: =?base64?YQpYLUV2aWw6IDE=?=\n"},
        {"nonsense", "{\"v\":1}", ""},
        {"7", "{\"v\":1}", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char room[256];
        char scratch[512];
        struct mcp_out out;

        mcp_out_begin(&out, room, sizeof room);
        mcp_headers_params(&out, text_of(rows[i].schema),
                           text_of(rows[i].arguments), scratch, sizeof scratch);
        expect(&out, rows[i].lines);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_written_in_full),
        cmocka_unit_test(strings_are_escaped_so_that_json_gives_them_back),
        cmocka_unit_test(base64_is_that_of_the_rfc),
        cmocka_unit_test(what_does_not_fit_is_noted_and_not_cut),
        cmocka_unit_test(json_in_one_line_is_the_same_json),
        cmocka_unit_test(
            a_line_for_people_is_clean_and_cut_at_a_characters_end),
        cmocka_unit_test(messages_are_told_apart),
        cmocka_unit_test(annotations_are_allowed_as_the_revision_says),
        cmocka_unit_test(
            a_name_that_is_too_long_or_one_too_many_is_not_allowed),
        cmocka_unit_test(values_are_encoded_as_the_revision_says),
        cmocka_unit_test(values_are_taken_from_their_exact_path),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
