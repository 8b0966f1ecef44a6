/* Cleat: the MCP engine over HTTP: eras, sessions, headers, streams.
 * SPDX-License-Identifier: Apache-2.0 */
#include "mcp_engine_peer.h"

#define WITH(t, wire, era)                    \
    struct bench *t = test_malloc(sizeof *t); \
    begin(t, wire, era)
#define END(t)        \
    do {              \
        finish(t);    \
        test_free(t); \
    } while (0)

#define SESSION "5f0-abc"
#define LEGACY_HEADERS "MCP-Protocol-Version: 2025-11-25\n"
#define SESSION_HEADERS LEGACY_HEADERS "Mcp-Session-Id: " SESSION "\n"
#define CALLED "\"name\":\"echo\",\"arguments\":{\"message\":\"hi\"}"

static void expect_headers(const struct seen *seen, const char *headers)
{
    assert_string_equal(seen->headers, headers);
}

/* Opens, and expects the modern request that shows the era. */
static struct seen *until_probe(struct bench *t)
{
    list(t, 1, 90 * S);
    expect_open(t);
    opened(t);
    return expect_send(t, MODERN_LIST);
}

/* initialize and notifications/initialized, with a session. */
static void shake_hands_as(struct bench *t, const char *session)
{
    struct seen *seen = expect_send(t, INITIALIZE);

    expect_headers(seen, "");
    response(t, seen->action.exchange, 200, 's', session);
    message(t, seen->action.exchange, result(seen->action.exchange, GREETING));
    ended(t, seen->action.exchange);
    seen = expect_send(t, INITIALIZED);
    expect_nothing(t); /* nothing overtakes it */
    expect_headers(seen, session[0] != '\0' ? SESSION_HEADERS : LEGACY_HEADERS);
    response(t, seen->action.exchange, 202, 'n', session);
    ended(t, seen->action.exchange);
}

/* A legacy session with its first request out. */
static struct seen *until_legacy_list(struct bench *t)
{
    list(t, 1, 90 * S);
    expect_open(t);
    opened(t);
    shake_hands_as(t, SESSION);
    return expect_send(t, TOOLS_LIST);
}

/* ---- eras --------------------------------------------------------------- */

static void a_list_is_asked_in_the_newer_revision_first(void **state)
{
    char *tools;
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_probe(t);
    assert_int_equal(seen->action.method, MCP_POST);
    assert_string_equal(seen->endpoint, "");
    assert_false(seen->action.stream);
    expect_headers(seen, MODERN_HEADERS("tools/list"));
    tools = answer_from("modern_tools.json", seen->action.exchange);
    response(t, seen->action.exchange, 200, 'j', "ignored");
    message(t, seen->action.exchange, tools);
    seen = expect_done(t, 1, CLEAT_OK);
    assert_int_equal(seen->action.ttl_ns, 60 * S);
    expect_names(t, 1, "tool_0 tool_1 tool_2");
    call(t, 2, 30 * S);
    seen = expect(t, MCP_SEND);
    expect_headers(seen, MODERN_HEADERS("tools/call") "Mcp-Name: echo\n");
    assert_string_equal(strstr(seen->body, ",\"_meta\""),
                        "," META "}}"); /* the session id is not sent back */
    test_free(tools);
    END(t);
}

static void every_refusal_of_the_era_leads_to_initialize(void **state)
{
    static const struct {
        uint32_t http;
        const char *body;
    } rows[] = {
        /* server-everything 2026.8.31: */
        {400, "{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32000,\"message\":"
              "\"Bad Request: Server not initialized\"},\"id\":null}"},
        {400, ""},
        {404, ""},
        {405, ""},
        {406, ""},
        {400, "{\"error\":\"no\"}"},
        {400, "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,"
              "\"message\":\"x\"}}"},
        {200, "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32600,"
              "\"message\":\"x\"}}"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

        seen = until_probe(t);
        reply(t, seen->action.exchange, rows[i].http, rows[i].body);
        shake_hands_as(t, SESSION);
        seen = expect_send(t, TOOLS_LIST);
        expect_headers(seen, SESSION_HEADERS);
        reply(t, seen->action.exchange, 200,
              result(seen->action.exchange, PAGE(TOOL("a"))));
        (void)expect_done(t, 1, CLEAT_OK);
        expect_nothing(t);
        END(t);
    }
}

static void
what_is_no_verdict_about_the_era_fails_and_is_asked_again(void **state)
{
    static const struct {
        uint32_t http;
        enum cleat_status status;
    } rows[] = {{401, CLEAT_PERMANENT}, {403, CLEAT_PERMANENT},
                {307, CLEAT_PERMANENT}, {410, CLEAT_PERMANENT},
                {429, CLEAT_TRANSIENT}, {500, CLEAT_TRANSIENT},
                {503, CLEAT_TRANSIENT}, {501, CLEAT_PERMANENT}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mcp_told_it told;
        struct seen *seen;
        WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

        seen = until_probe(t);
        told = told_it(MCP_RESPONSE, seen->action.exchange);
        told.http_status = rows[i].http;
        told.retry_after_ns = 7 * S;
        tell(t, &told);
        expect_nothing(t); /* its body may say more */
        ended(t, seen->action.exchange);
        seen = expect_done(t, 1, rows[i].status);
        assert_int_equal(seen->action.hint_ns, 7 * S);
        assert_int_equal(t->errors[1].port_code, rows[i].http);
        expect_nothing(t);
        list(t, 2, 30 * S);
        (void)expect_send(t, MODERN_LIST); /* nothing was decided */
        expect_nothing(t);
        END(t);
    }
}

static void those_who_wait_for_a_verdict_get_it_together(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 2, 30 * S);
    call(t, 3, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, MODERN_LIST);
    list(t, 4, 30 * S);
    expect_nothing(t);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, PAGE(TOOL("a"))));
    (void)expect_done(t, 2, CLEAT_OK);
    seen = expect(t, MCP_SEND);
    expect_headers(seen, MODERN_HEADERS("tools/call") "Mcp-Name: echo\n");
    (void)expect_send(t, MODERN_LIST);
    expect_nothing(t);
    END(t);
}

static void when_the_one_who_asks_is_silenced_the_next_one_asks(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    list(t, 2, 90 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, MODERN_LIST);
    expect_nothing(t);
    tick(t, T0 + REQUEST_NS);
    assert_int_equal(expect(t, MCP_CANCEL)->action.exchange,
                     seen->action.exchange);
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    (void)expect_send(t, MODERN_LIST);
    expect_nothing(t);
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + 2 * REQUEST_NS);
    tick(t, T0 + 2 * REQUEST_NS);
    (void)expect(t, MCP_CANCEL);
    (void)expect_done(t, 2, CLEAT_PEER_SILENT);
    expect_nothing(t);
    END(t);
}

#define DISCOVER                                                               \
    "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":\"server/discover\",\"params\":" \
    "{" META "}}"

static void a_call_is_not_sent_to_find_out_the_era(void **state)
{
    static const struct {
        uint32_t http;
        const char *body; /* NULL: the fixture */
        bool modern;
    } rows[] = {
        {200, NULL, true},
        {404,
         "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,"
         "\"message\":\"x\"}}",
         true},
        {200,
         "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,"
         "\"message\":\"x\"}}",
         false},
        {200,
         "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{"
         "\"supportedVersions\":[\"2025-11-25\"]}}",
         false},
        {200, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}", false},
        {400, "", false},
        {400,
         "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32022,"
         "\"message\":\"x\",\"data\":{\"supported\":[\"2025-06-18\"]}}}",
         false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *discovered = fixture("modern_discover.json");
        struct seen *seen;
        WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

        call(t, 1, 30 * S);
        expect_open(t);
        opened(t);
        seen = expect_send(t, DISCOVER);
        expect_headers(seen, MODERN_HEADERS("server/discover"));
        assert_int_equal(seen->action.exchange, 1);
        reply(t, 1, rows[i].http,
              rows[i].body != NULL ? rows[i].body : discovered);
        if (rows[i].modern) {
            seen = expect(t, MCP_SEND);
            expect_headers(seen,
                           MODERN_HEADERS("tools/call") "Mcp-Name: echo\n");
        } else {
            shake_hands_as(t, "");
            seen = expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":"
                                  "\"tools/call\",\"params\":{" CALLED "}}");
            expect_headers(seen, LEGACY_HEADERS);
        }
        expect_nothing(t);
        test_free(discovered);
        END(t);
    }
}

static void the_era_is_remembered_beyond_the_session(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_probe(t);
    reply(t, seen->action.exchange, 404, "");
    shake_hands_as(t, "");
    seen = expect_send(t, TOOLS_LIST);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    mcp_engine_end(t->engine, t->now_ns);
    pull(t);
    (void)expect(t, MCP_CLOSE); /* no session to be deleted */
    closed(t, CLEAT_OK, "");
    call(t, 2, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    expect_nothing(t);
    END(t);
}

static void an_era_remembered_in_vain_is_found_out_anew(void **state)
{
    struct seen *a;
    struct seen *b;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    a = until_probe(t);
    reply(t, a->action.exchange, 200, result(a->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    mcp_engine_end(t->engine, t->now_ns);
    pull(t);
    (void)expect(t, MCP_CLOSE);
    closed(t, CLEAT_OK, "");
    list(t, 2, 30 * S);
    list(t, 3, 30 * S);
    expect_open(t);
    opened(t);
    a = expect_send(t, MODERN_LIST);
    b = expect_send(t, MODERN_LIST);
    reply(t, a->action.exchange, 400, "");
    (void)expect_send(t, INITIALIZE);
    t->seen_next--;
    reply(t, b->action.exchange, 400, "");
    shake_hands_as(t, SESSION);
    (void)expect_send(t, TOOLS_LIST);
    (void)expect_send(t, TOOLS_LIST);
    expect_nothing(t);
    END(t);
}

static void
a_server_of_the_other_era_is_refused_where_the_config_says_so(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_MODERN);

    (void)state;
    seen = until_probe(t);
    reply(t, seen->action.exchange, 400, "");
    (void)expect_done(t, 1, CLEAT_PERMANENT);
    expect_nothing(t);
    END(t);
    {
        WITH(l, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

        list(l, 1, 30 * S);
        expect_open(l);
        opened(l);
        seen = expect_send(l, INITIALIZE);
        reply(l, seen->action.exchange, 400,
              "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32022,"
              "\"message\":\"x\",\"data\":{\"supported\":[\"2026-07-28\"]}}}");
        (void)expect_done(l, 1, CLEAT_UNSUPPORTED);
        (void)expect(l, MCP_CLOSE);
        END(l);
    }
}

static void a_server_that_refuses_both_eras_is_given_up(void **state)
{
    struct seen *seen;
    unsigned asked = 0;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    (void)until_probe(t);
    t->seen_next--;
    for (;;) {
        if (t->seen[t->seen_next].action.what != MCP_SEND) { break; }
        seen = expect(t, MCP_SEND);
        asked++;
        assert_true(asked < 10);
        reply(t, seen->action.exchange, 400,
              strstr(seen->body, "initialize") != NULL
                  ? rpc_error(seen->action.exchange, -32601, "x")
                  : "");
    }
    (void)expect_done(t, 1, CLEAT_UNSUPPORTED);
    (void)expect(t, MCP_CLOSE);
    expect_nothing(t);
    END(t);
}

static void a_server_that_changes_its_era_in_place_is_followed(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_probe(t);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    list(t, 2, 90 * S); /* it is an older one now */
    seen = expect_send(t, MODERN_LIST);
    reply(t, seen->action.exchange, 400, "");
    (void)expect_done(t, 2, CLEAT_PERMANENT);
    list(t, 3, 90 * S);
    seen = expect_send(t, MODERN_LIST);
    reply(t, seen->action.exchange, 400, "");
    shake_hands_as(t, "");
    seen = expect_send(t, TOOLS_LIST);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 3, CLEAT_OK);
    call(t, 4, 90 * S); /* and a newer one again */
    seen = expect(t, MCP_SEND);
    reply(t, seen->action.exchange, 400,
          rpc_error(seen->action.exchange, -32020, "no Mcp-Method"));
    seen = expect_send(t, INITIALIZE);
    reply(t, seen->action.exchange, 404,
          rpc_error(seen->action.exchange, -32601, "x"));
    seen = expect(t, MCP_SEND);
    expect_headers(seen, MODERN_HEADERS("tools/call") "Mcp-Name: echo\n");
    expect_nothing(t);
    END(t);
}

/* ---- what a modern server's errors ask for ------------------------------ */

#define VERSIONS(code, supported)                                             \
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":" code ",\"message\":" \
    "\"Unsupported\",\"data\":{\"supported\":[" supported "]}}}"

static void a_version_refused_is_negotiated_once(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_probe(t);
    reply(t, seen->action.exchange, 400,
          VERSIONS("-32022", "\"2031-01-01\",\"2026-07-28\""));
    seen = expect_send(t, MODERN_LIST);
    assert_int_equal(seen->action.exchange, 2); /* a new id */
    reply(t, seen->action.exchange, 400, VERSIONS("-32022", "\"2026-07-28\""));
    (void)expect_done(t, 1, CLEAT_UNSUPPORTED);
    expect_nothing(t);
    END(t);
}

static void a_version_refused_may_lead_to_the_older_era(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_probe(t);
    reply(t, seen->action.exchange, 400, VERSIONS("-32022", "\"2025-06-18\""));
    (void)expect_send(t, INITIALIZE);
    expect_nothing(t);
    END(t);
}

static void a_version_refused_may_lead_nowhere(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_probe(t);
    reply(t, seen->action.exchange, 400, VERSIONS("-32022", "\"2031-01-01\""));
    (void)expect_done(t, 1, CLEAT_UNSUPPORTED);
    expect_nothing(t);
    END(t);
}

static void a_capability_that_we_lack_fails_the_request(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_probe(t);
    reply(t, seen->action.exchange, 400,
          rpc_error(seen->action.exchange, -32021, "needs sampling"));
    (void)expect_done(t, 1, CLEAT_UNSUPPORTED);
    expect_text(t, 1, "-32021: needs sampling");
    expect_nothing(t);
    END(t);
}

/* A modern engine with nothing under way. */
static struct bench *begin_modern(void)
{
    struct bench *t = test_malloc(sizeof *t);
    struct seen *seen;

    begin(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);
    seen = until_probe(t);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    expect_nothing(t);
    return t;
}

#define REGION                                                   \
    "{\"type\":\"object\",\"properties\":{\"region\":{\"type\":" \
    "\"string\",\"x-mcp-header\":\"Region\"}}}"
#define ZONE                                                     \
    "{\"type\":\"object\",\"properties\":{\"region\":{\"type\":" \
    "\"string\",\"x-mcp-header\":\"Zone\"}}}"

static void
headers_that_mismatch_lead_to_the_new_schema_and_one_more_call(void **state)
{
    struct bench *t = begin_modern();
    struct seen *seen;

    (void)state;
    call_with(t, 2, "q", "{\"region\":\"us\"}", REGION, 30 * S);
    seen = expect(t, MCP_SEND);
    expect_headers(
        seen,
        MODERN_HEADERS("tools/call") "Mcp-Name: q\nMcp-Param-Region: us\n");
    reply(t, seen->action.exchange, 400,
          rpc_error(seen->action.exchange, -32020, "Header mismatch"));
    (void)expect(t, MCP_CHANGED); /* what the host has is out of date */
    seen = expect_send(t, MODERN_LIST);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange,
                 "{\"tools\":[" TOOL("a") "],\"nextCursor\":\"n\"}"));
    seen = expect(t, MCP_SEND);
    assert_non_null(strstr(seen->body, "\"cursor\":\"n\""));
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange,
                 PAGE("{\"name\":\"q\",\"inputSchema\":" ZONE "}")));
    seen = expect(t, MCP_SEND);
    expect_headers(
        seen, MODERN_HEADERS("tools/call") "Mcp-Name: q\nMcp-Param-Zone: us\n");
    reply(t, seen->action.exchange, 400,
          rpc_error(seen->action.exchange, -32020, "Header mismatch"));
    (void)expect_done(t, 2, CLEAT_PEER_DEVIANT); /* once */
    expect_nothing(t);
    END(t);
}

static void a_tool_that_is_gone_when_looked_for_is_not_found(void **state)
{
    struct bench *t = begin_modern();
    struct seen *seen;

    (void)state;
    call_with(t, 2, "q", "{}", "", 30 * S);
    seen = expect(t, MCP_SEND);
    reply(t, seen->action.exchange, 400,
          rpc_error(seen->action.exchange, -32020, "x"));
    (void)expect(t, MCP_CHANGED);
    seen = expect_send(t, MODERN_LIST);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, PAGE(TOOL("a"))));
    (void)expect_done(t, 2, CLEAT_NOT_FOUND);
    expect_nothing(t);
    END(t);
}

static void a_list_whose_headers_mismatch_is_asked_once_more(void **state)
{
    struct bench *t = begin_modern();
    struct seen *seen;

    (void)state;
    list(t, 2, 30 * S);
    seen = expect_send(t, MODERN_LIST);
    reply(t, seen->action.exchange, 400,
          rpc_error(seen->action.exchange, -32020, "x"));
    (void)expect(t, MCP_CHANGED);
    seen = expect_send(t, MODERN_LIST);
    reply(t, seen->action.exchange, 400,
          rpc_error(seen->action.exchange, -32020, "x"));
    (void)expect_done(t, 2, CLEAT_PEER_DEVIANT);
    END(t);
}

/* ---- headers of tools --------------------------------------------------- */

static void a_tool_with_a_header_that_is_not_allowed_is_left_out(void **state)
{
    struct bench *t = begin_modern();
    struct seen *seen;

    (void)state;
    list(t, 2, 30 * S);
    seen = expect_send(t, MODERN_LIST);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange,
                 PAGE("{\"name\":\"bad\",\"inputSchema\":{\"properties\":{"
                      "\"v\":{\"type\":\"number\",\"x-mcp-header\":\"V\"}}}},"
                      "{\"name\":\"good\",\"inputSchema\":" REGION "}")));
    (void)expect_done(t, 2, CLEAT_OK);
    expect_names(t, 2, "good");
    assert_int_equal(cleat_tools_left_out(tools_of(t, 2)), 1);
    END(t);
}

static void an_older_server_may_name_a_property_as_it_likes(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    seen = until_legacy_list(t);
    reply(
        t, seen->action.exchange, 200,
        result(seen->action.exchange,
               PAGE("{\"name\":\"bad\",\"inputSchema\":{\"properties\":{"
                    "\"v\":{\"type\":\"number\",\"x-mcp-header\":\"V\"}}}}")));
    (void)expect_done(t, 1, CLEAT_OK);
    expect_names(t, 1, "bad");
    END(t);
}

static void values_are_mirrored_as_the_revision_encodes_them(void **state)
{
    struct bench *t = begin_modern();
    struct seen *seen;

    (void)state;
    call_with(t, 2, "Hello, \xE4\xB8\x96\xE7\x95\x8C",
              "{\"b\":true,\"i\":-7,\"s\":\"us-west1\",\"n\":null,"
              "\"deep\":{\"er\":{\"x\":\" padded \"}},\"plain\":\"no\"}",
              "{\"properties\":{\"s\":{\"type\":\"string\",\"x-mcp-header\":"
              "\"S\"},\"i\":{\"type\":\"integer\",\"x-mcp-header\":\"I\"},"
              "\"b\":{\"type\":\"boolean\",\"x-mcp-header\":\"B\"},\"n\":{"
              "\"type\":\"string\",\"x-mcp-header\":\"N\"},\"absent\":{"
              "\"type\":\"string\",\"x-mcp-header\":\"A\"},\"deep\":{"
              "\"properties\":{\"er\":{\"properties\":{\"x\":{\"type\":"
              "\"string\",\"x-mcp-header\":\"X\"}}}}},\"plain\":{\"type\":"
              "\"string\"}}}",
              30 * S);
    seen = expect(t, MCP_SEND);
    /* The base64 texts are those of the specification's own examples. */
    expect_headers(
        seen, MODERN_HEADERS(
                  "tools/call") "Mcp-Name: =?base64?SGVsbG8sIOS4lueVjA==?=\n"
                                "Mcp-Param-S: us-west1\nMcp-Param-I: -7\n"
                                "Mcp-Param-B: true\n"
                                "Mcp-Param-X: =?base64?IHBhZGRlZCA=?=\n");
    END(t);
}

/* ---- sessions ----------------------------------------------------------- */

static void a_lost_session_is_begun_anew_once(void **state)
{
    static const struct {
        uint32_t http;
        const char *body;
    } rows[] = {
        {404, ""},
        {400, "{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32000,\"message\":"
              "\"Bad Request: No valid session ID provided\"}}"},
        {404, "{\"jsonrpc\":\"2.0\",\"id\":\"server-error\",\"error\":{"
              "\"code\":-32600,\"message\":\"Session not found\"}}"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct seen *a;
        struct seen *b;
        WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

        a = until_legacy_list(t);
        call(t, 2, 90 * S);
        b = expect(t, MCP_SEND);
        reply(t, a->action.exchange, rows[i].http, rows[i].body);
        (void)expect_send(t, INITIALIZE);
        t->seen_next--;
        reply(t, b->action.exchange, rows[i].http, rows[i].body);
        shake_hands_as(t, SESSION); /* one for both */
        a = expect_send(t, TOOLS_LIST);
        b = expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":"
                           "\"tools/call\",\"params\":{" CALLED "}}");
        expect_nothing(t);
        reply(t, b->action.exchange, 200,
              result(b->action.exchange, "{\"content\":[]}"));
        (void)expect_done(t, 2, CLEAT_OK);
        reply(t, a->action.exchange, 404, "");
        (void)expect_done(t, 1, CLEAT_PERMANENT); /* twice is enough */
        expect_nothing(t);
        END(t);
    }
}

static void a_400_that_names_the_call_is_its_answer(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    call(t, 1, 90 * S);
    expect_open(t);
    opened(t);
    shake_hands_as(t, SESSION);
    seen = expect(t, MCP_SEND);
    reply(t, seen->action.exchange, 400,
          rpc_error(seen->action.exchange, -32603, "half done"));
    (void)expect_done(t, 1, CLEAT_AMBIGUOUS);
    expect_nothing(t);
    END(t);
}

static void a_server_without_sessions_has_none_to_lose(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    list(t, 1, 90 * S);
    expect_open(t);
    opened(t);
    shake_hands_as(t, "");
    seen = expect_send(t, TOOLS_LIST);
    reply(t, seen->action.exchange, 404, "");
    (void)expect_done(t, 1, CLEAT_PERMANENT);
    expect_text(t, 1, "tools/list was answered with HTTP 404");
    expect_nothing(t);
    END(t);
}

static void a_session_id_that_may_not_stand_in_a_header_is_refused(void **state)
{
    char text[600];

    (void)state;
    memset(text, 'a', sizeof text);
    text[599] = '\0';
    for (unsigned i = 0; i < 3; i++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

        list(t, 1, 90 * S);
        expect_open(t);
        opened(t);
        seen = expect_send(t, INITIALIZE);
        response(t, seen->action.exchange, 200, 'j',
                 i == 0   ? text
                 : i == 1 ? "a\nX-Evil: 1"
                          : "caf\xC3\xA9");
        (void)expect_done(t, 1, CLEAT_PEER_DEVIANT);
        (void)expect(t, MCP_CLOSE);
        END(t);
    }
}

static void a_session_is_deleted_at_the_end(void **state)
{
    static const char how[] = "etf"; /* ended, time-out, failed */

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

        seen = until_legacy_list(t);
        reply(t, seen->action.exchange, 200,
              result(seen->action.exchange, PAGE("")));
        (void)expect_done(t, 1, CLEAT_OK);
        mcp_engine_end(t->engine, t->now_ns);
        pull(t);
        seen = expect_send(t, "");
        assert_int_equal(seen->action.method, MCP_DELETE);
        expect_headers(seen, SESSION_HEADERS);
        expect_nothing(t); /* MCP_CLOSE would end it */
        assert_false(mcp_engine_idle(t->engine));
        assert_int_equal(mcp_engine_deadline(t->engine), t->now_ns + 1 * S);
        if (how[i] == 'e') {
            reply(t, seen->action.exchange, 405, "");
        } else if (how[i] == 't') {
            tick(t, t->now_ns + 1 * S);
        } else {
            failed(t, seen->action.exchange, CLEAT_AMBIGUOUS, "reset");
        }
        (void)expect(t, MCP_CLOSE);
        expect_nothing(t);
        closed(t, CLEAT_OK, "");
        assert_true(mcp_engine_idle(t->engine));
        END(t);
    }
}

static void nothing_overtakes_initialized_and_its_refusal_counts(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    list(t, 1, 90 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, GREETING));
    seen = expect_send(t, INITIALIZED);
    expect_nothing(t);
    reply(t, seen->action.exchange, 503, "");
    (void)expect_done(t, 1, CLEAT_TRANSIENT);
    expect_text(t, 1, "notifications/initialized was answered with HTTP 503");
    (void)expect(t, MCP_CLOSE);
    END(t);
}

static void a_handshake_that_fails_says_how(void **state)
{
    static const struct {
        char first; /* 'i': initialize, 'd': server/discover, 'g': GET */
        char how;   /* 'r': a reply, 'e': ended, 'f': failed */
        uint32_t http;
        enum cleat_status told;
        const char *body;
        enum cleat_status status;
        const char *said;
    } rows[] = {
        {'i', 'r', 401, 0, "", CLEAT_PERMANENT,
         "initialize was answered with HTTP 401"},
        {'i', 'r', 503, 0,
         "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,"
         "\"message\":\"starting\"}}",
         CLEAT_TRANSIENT, "HTTP 503: starting"},
        {'i', 'r', 200, 0,
         "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32603,"
         "\"message\":\"busy\"}}",
         CLEAT_TRANSIENT, "initialize was refused with -32603: busy"},
        {'i', 'r', 200, 0,
         "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32602,"
         "\"message\":\"bad\"}}",
         CLEAT_PERMANENT, "initialize was refused with -32602: bad"},
        {'i', 'r', 200, 0, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":7}",
         CLEAT_PEER_DEVIANT, "no object"},
        {'i', 'r', 200, 0, "{\"jsonrpc\":", CLEAT_MALFORMED, "cannot be read"},
        {'i', 'f', 0, CLEAT_TRANSIENT, "refused", CLEAT_TRANSIENT,
         "no answer to initialize: refused"},
        {'i', 'f', 0, CLEAT_PERMANENT, "bad certificate", CLEAT_PERMANENT,
         "bad certificate"},
        {'i', 'e', 0, 0, "", CLEAT_SHORT, "no answer to initialize"},
        {'d', 'f', 0, CLEAT_TRANSIENT, "no such name", CLEAT_TRANSIENT,
         "no answer to server/discover: no such name"},
        {'d', 'r', 500, 0, "", CLEAT_TRANSIENT,
         "server/discover was answered with HTTP 500"},
        {'d', 'r', 400, 0,
         "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32022,"
         "\"data\":{\"supported\":[\"2031-01-01\"]}}}",
         CLEAT_UNSUPPORTED, "no revision that we speak"},
        {'g', 'r', 401, 0, "", CLEAT_PERMANENT,
         "GET was answered with HTTP 401"},
        {'g', 'r', 502, 0, "", CLEAT_TRANSIENT,
         "GET was answered with HTTP 502"},
        {'g', 'f', 0, CLEAT_TRANSIENT, "no such name", CLEAT_TRANSIENT,
         "no such name"},
        {'g', 'f', 0, CLEAT_PERMANENT, "bad certificate", CLEAT_PERMANENT,
         "bad certificate"},
        {'g', 'f', 0, CLEAT_SHORT, "reset", CLEAT_TRANSIENT, "reset"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct seen *seen;
        WITH(t, rows[i].first == 'g' ? MCP_WIRE_SSE : MCP_WIRE_HTTP,
             rows[i].first == 'i' ? CLEAT_MCP_ERA_LEGACY : CLEAT_MCP_ERA_AUTO);

        call(t, 1, 30 * S);
        expect_open(t);
        opened(t);
        seen = expect(t, MCP_SEND);
        if (rows[i].how == 'r') {
            reply(t, seen->action.exchange, rows[i].http, rows[i].body);
        } else if (rows[i].how == 'e') {
            response(t, seen->action.exchange, 200, 's', "");
            ended(t, seen->action.exchange);
        } else {
            failed(t, seen->action.exchange, rows[i].told, rows[i].body);
        }
        (void)expect_done(t, 1, rows[i].status);
        expect_text(t, 1, rows[i].said);
        (void)expect(t, MCP_CLOSE);
        expect_nothing(t);
        END(t);
    }
}

static void silence_after_initialized_costs_request_ns(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    list(t, 1, 90 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    tick(t, T0 + 3 * S);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, GREETING));
    (void)expect_send(t, INITIALIZED);
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + 3 * S + REQUEST_NS);
    tick(t, T0 + 3 * S + REQUEST_NS);
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    (void)expect(t, MCP_CLOSE);
    END(t);
}

/* ---- bad answers -------------------------------------------------------- */

static void an_answer_of_another_content_type_is_no_mcp_servers(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_HTTP,
             i == 1 ? CLEAT_MCP_ERA_LEGACY : CLEAT_MCP_ERA_AUTO);

        if (i == 0) {
            seen = until_probe(t);
        } else if (i == 1) {
            list(t, 1, 30 * S);
            expect_open(t);
            opened(t);
            seen = expect_send(t, INITIALIZE);
        } else {
            call(t, 1, 30 * S);
            expect_open(t);
            opened(t);
            seen = expect_send(t, DISCOVER);
            if (i == 3) {
                reply(t, seen->action.exchange, 404,
                      rpc_error(seen->action.exchange, -32601, "x"));
                seen = expect(t, MCP_SEND);
            }
        }
        response(t, seen->action.exchange, i == 3 ? 202 : 200, 'n', "");
        assert_int_equal(expect(t, MCP_CANCEL)->action.exchange,
                         seen->action.exchange);
        (void)expect_done(t, 1, CLEAT_PEER_DEVIANT);
        expect_text(t, 1, "neither application/json nor text/event-stream");
        END(t);
    }
}

static void a_body_that_cannot_be_read_fails_its_request_at_once(void **state)
{
    static const struct {
        const char *body;
        enum cleat_status status;
    } rows[] = {{"<html>", CLEAT_MALFORMED},
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"\xC0\":1}}",
                 CLEAT_MALFORMED},
                {"", CLEAT_MALFORMED}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

        seen = until_probe(t);
        response(t, seen->action.exchange, 200, 'j', "");
        message(t, seen->action.exchange, rows[i].body);
        assert_int_equal(expect(t, MCP_CANCEL)->action.exchange,
                         seen->action.exchange);
        (void)expect_done(t, 1, rows[i].status);
        expect_nothing(t);
        END(t);
    }
}

static void
an_exchange_that_ends_without_an_answer_is_told_by_what_was_asked(void **state)
{
    static const struct {
        char
            how; /* 'e': as it should; 'f': failed before, 'g': after headers */
        enum cleat_status told;
        enum cleat_status list;
        enum cleat_status call;
    } rows[] = {
        {'e', CLEAT_OK, CLEAT_SHORT, CLEAT_AMBIGUOUS},
        {'f', CLEAT_TRANSIENT, CLEAT_TRANSIENT, CLEAT_TRANSIENT},
        {'f', CLEAT_AMBIGUOUS, CLEAT_TRANSIENT, CLEAT_AMBIGUOUS},
        {'g', CLEAT_SHORT, CLEAT_SHORT, CLEAT_AMBIGUOUS},
        {'g', CLEAT_LIMIT, CLEAT_LIMIT, CLEAT_LIMIT},
        {'f', CLEAT_PERMANENT, CLEAT_PERMANENT, CLEAT_PERMANENT},
        {'f', CLEAT_OK, CLEAT_SHORT, CLEAT_AMBIGUOUS},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct bench *t = begin_modern();
        struct seen *seen[2];

        list(t, 2, 30 * S);
        call(t, 3, 30 * S);
        seen[0] = expect(t, MCP_SEND);
        seen[1] = expect(t, MCP_SEND);
        for (unsigned k = 0; k < 2; k++) {
            uint64_t exchange = seen[k]->action.exchange;

            if (rows[i].how != 'f') { response(t, exchange, 200, 's', ""); }
            if (rows[i].how == 'e') {
                ended(t, exchange);
            } else {
                failed(t, exchange, rows[i].told, "reset by peer");
            }
            (void)expect_done(t, 2 + k, k == 0 ? rows[i].list : rows[i].call);
            if (rows[i].how != 'e') { expect_text(t, 2 + k, "reset by peer"); }
        }
        expect_nothing(t); /* a call is never repeated by itself */
        END(t);
    }
}

static void
http_errors_of_a_call_say_whether_it_may_have_been_done(void **state)
{
    static const struct {
        uint32_t http;
        enum cleat_status status;
    } rows[] = {{401, CLEAT_PERMANENT}, {403, CLEAT_PERMANENT},
                {404, CLEAT_PERMANENT}, {429, CLEAT_TRANSIENT},
                {500, CLEAT_AMBIGUOUS}, {502, CLEAT_AMBIGUOUS}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct bench *t = begin_modern();
        struct seen *seen;

        call(t, 2, 30 * S);
        seen = expect(t, MCP_SEND);
        reply(t, seen->action.exchange, rows[i].http, "");
        (void)expect_done(t, 2, rows[i].status);
        assert_int_equal(t->errors[2].port_code, rows[i].http);
        END(t);
    }
}

static void
an_unknown_tool_is_an_error_in_an_answer_that_succeeded(void **state)
{
    struct bench *t = begin_modern();
    struct seen *seen;

    (void)state;
    call(t, 2, 30 * S);
    seen = expect(t, MCP_SEND);
    reply(t, seen->action.exchange, 200,
          rpc_error(seen->action.exchange, -32602, "Tool nope not found"));
    (void)expect_done(t, 2, CLEAT_PERMANENT);
    expect_text(t, 2, "tools/call was refused with -32602: Tool nope not");
    assert_int_equal(t->errors[2].port_code, -32602);
    END(t);
}

#define CANCELLED(id)                                              \
    "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\"," \
    "\"params\":{\"requestId\":" id "}}"

static void expect_cancelled(struct bench *t, uint64_t request)
{
    char body[128];

    snprintf(body, sizeof body, CANCELLED("%u"), (unsigned)request);
    (void)expect_send(t, body);
}

static void a_request_that_is_not_wanted_any_more_is_ended(void **state)
{
    struct bench *t = begin_modern();
    struct seen *seen;

    (void)state;
    call(t, 2, 30 * S);
    seen = expect(t, MCP_SEND);
    tick(t, t->now_ns + 30 * S);
    /* The end of the exchange is the cancellation; no notification. */
    assert_int_equal(expect(t, MCP_CANCEL)->action.exchange,
                     seen->action.exchange);
    (void)expect_done(t, 2, CLEAT_PEER_SILENT);
    expect_nothing(t);
    END(t);
    {
        WITH(l, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

        seen = until_legacy_list(l);
        tick(l, T0 + REQUEST_NS);
        assert_int_equal(expect(l, MCP_CANCEL)->action.exchange, 3);
        /* Before, a disconnect was none. */
        seen = expect_send(l, CANCELLED("3"));
        expect_headers(seen, SESSION_HEADERS);
        (void)expect_done(l, 1, CLEAT_PEER_SILENT);
        expect_nothing(l);
        END(l);
    }
}

/* A server that hangs takes notifications as little as it answers calls. */
static void what_is_told_unasked_takes_no_more_room_than_there_is(void **state)
{
    const unsigned calls = MCP_ENGINE_STANDING_MAX + 2;
    struct seen *seen;
    uint64_t exchange;
    uint64_t first = 0;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    seen = until_legacy_list(t);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    for (unsigned i = 0; i < calls; i++) {
        call(t, 2 + i, 3 * S);
        exchange = expect(t, MCP_SEND)->action.exchange;
        if (i == 0) { first = exchange; }
    }
    tick(t, T0 + 3 * S);
    for (unsigned i = 0; i < calls; i++) { /* first of all, room is made */
        assert_int_equal(expect(t, MCP_CANCEL)->action.exchange, first + i);
    }
    exchange = t->seen[t->seen_next].action.exchange;
    for (unsigned i = 0; i < MCP_ENGINE_STANDING_MAX; i++) {
        expect_cancelled(t, first + i);
    }
    for (unsigned i = 0; i < calls; i++) {
        (void)expect_done(t, 2 + i, CLEAT_PEER_SILENT);
    }
    expect_nothing(t); /* the last two wait: */
    response(t, exchange + 1, 202, 'n', "");
    ended(t, exchange + 1);
    expect_cancelled(t, first + MCP_ENGINE_STANDING_MAX);
    expect_nothing(t);
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + 3 * S + REQUEST_NS);
    tick(t, T0 + 3 * S + REQUEST_NS); /* then they have stood long enough */
    for (unsigned i = 0; i < MCP_ENGINE_STANDING_MAX; i++) {
        (void)expect(t, MCP_CANCEL);
    }
    expect_cancelled(t, first + MCP_ENGINE_STANDING_MAX + 1);
    expect_nothing(t);
    tick(t, T0 + 3 * S + 2 * REQUEST_NS);
    (void)expect(t, MCP_CANCEL);
    expect_nothing(t);
    assert_int_equal(mcp_engine_deadline(t->engine), CLEAT_NEVER);
    END(t);
}

static void what_is_told_unasked_goes_before_answered_streams(void **state)
{
    uint64_t exchanges[MCP_ENGINE_STANDING_MAX];
    struct seen *seen;
    uint64_t late;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    seen = until_legacy_list(t);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    call(t, 2, 3 * S);
    late = expect(t, MCP_SEND)->action.exchange;
    t->now_ns += 5 * S / 2;
    for (unsigned i = 0; i < MCP_ENGINE_STANDING_MAX; i++) {
        list(t, 3 + i, 30 * S);
        exchanges[i] = expect_send(t, TOOLS_LIST)->action.exchange;
        response(t, exchanges[i], 200, 's', "");
        message(t, exchanges[i], result(exchanges[i], PAGE("")));
        (void)expect_done(t, 3 + i, CLEAT_OK);
        t->now_ns += 1;
    }
    tick(t, T0 + 3 * S);
    assert_int_equal(expect(t, MCP_CANCEL)->action.exchange, late);
    assert_int_equal(expect(t, MCP_CANCEL)->action.exchange, exchanges[0]);
    expect_cancelled(t, late);
    (void)expect_done(t, 2, CLEAT_PEER_SILENT);
    expect_nothing(t);
    END(t);
}

static void
what_a_lost_session_was_to_be_told_is_not_told_the_next_one(void **state)
{
    const unsigned calls = MCP_ENGINE_STANDING_MAX + 1;
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    seen = until_legacy_list(t);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    for (unsigned i = 0; i < calls; i++) {
        call(t, 2 + i, 3 * S);
        (void)expect(t, MCP_SEND);
    }
    list(t, 2 + calls, 30 * S);
    seen = expect_send(t, TOOLS_LIST);
    tick(t, T0 + 3 * S);
    t->seen_next = t->seen_count; /* all but one are told */
    reply(t, seen->action.exchange, 404, "");
    seen = expect_send(t, INITIALIZE);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, GREETING));
    reply(t, expect_send(t, INITIALIZED)->action.exchange, 202, "");
    seen = expect_send(t, TOOLS_LIST);
    tick(t, T0 + 3 * S + REQUEST_NS - 1);
    expect_nothing(t);
    reply(t, seen->action.exchange, 200,
          result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 2 + calls, CLEAT_OK);
    tick(t, T0 + 3 * S + REQUEST_NS);
    for (unsigned i = 0; i < MCP_ENGINE_STANDING_MAX; i++) {
        (void)expect(t, MCP_CANCEL);
    }
    expect_nothing(t);
    END(t);
}

static void
an_answered_stream_that_stays_open_is_ended_after_a_while(void **state)
{
    struct bench *t = begin_modern();
    struct seen *seen;

    (void)state;
    list(t, 2, 30 * S);
    seen = expect_send(t, MODERN_LIST);
    response(t, seen->action.exchange, 200, 's', "");
    message(t, seen->action.exchange, result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 2, CLEAT_OK);
    expect_nothing(t);
    assert_int_equal(mcp_engine_deadline(t->engine), t->now_ns + 1 * S);
    tick(t, t->now_ns + 1 * S);
    assert_int_equal(expect(t, MCP_CANCEL)->action.exchange,
                     seen->action.exchange);
    assert_int_equal(mcp_engine_deadline(t->engine), CLEAT_NEVER);
    for (unsigned i = 0; i < 20; i++) { /* more than are let stand */
        list(t, 10 + i, 30 * S);
        seen = expect_send(t, MODERN_LIST);
        response(t, seen->action.exchange, 200, 's', "");
        message(t, seen->action.exchange,
                result(seen->action.exchange, PAGE("")));
        if (i >= MCP_ENGINE_STANDING_MAX) { (void)expect(t, MCP_CANCEL); }
        (void)expect_done(t, 10 + i, CLEAT_OK);
    }
    END(t);
}

/* ---- streams ------------------------------------------------------------ */

static void notifications_on_a_stream_come_before_the_answer(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    seen = until_legacy_list(t);
    response(t, seen->action.exchange, 200, 's', SESSION);
    message(t, seen->action.exchange,
            "{\"method\":\"notifications/progress\",\"params\":{\"progress\":"
            "1,\"progressToken\":\"p1\"},\"jsonrpc\":\"2.0\"}");
    message(t, seen->action.exchange,
            "{\"method\":\"notifications/tools/list_changed\",\"jsonrpc\":"
            "\"2.0\"}");
    (void)expect(t, MCP_CHANGED);
    message(t, seen->action.exchange,
            result(seen->action.exchange, PAGE(TOOL("a"))));
    (void)expect_done(t, 1, CLEAT_OK);
    ended(t, seen->action.exchange);
    expect_nothing(t);
    END(t);
}

/* An empty event that primes resumption, and the end of the stream. */
static void prime_and_end(struct bench *t, uint64_t exchange, const char *id,
                          uint64_t retry_ns)
{
    struct mcp_told_it told = told_it(MCP_EVENT, exchange);

    response(t, exchange, 200, 's', SESSION);
    told.id = text_of(id);
    told.retry_ns = retry_ns;
    tell(t, &told);
    ended(t, exchange);
}

static void a_stream_that_ends_early_is_resumed_twice(void **state)
{
    struct seen *seen;
    uint64_t id;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    call(t, 1, 60 * S);
    expect_open(t);
    opened(t);
    shake_hands_as(t, SESSION);
    seen = expect(t, MCP_SEND);
    id = seen->action.exchange;
    prime_and_end(t, id, "event-1", 500 * MS);
    expect_nothing(t);
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + 500 * MS);
    tick(t, T0 + 500 * MS - 1);
    expect_nothing(t);
    tick(t, T0 + 500 * MS);
    seen = expect_send(t, "");
    assert_int_equal(seen->action.method, MCP_GET);
    assert_true(seen->action.stream);
    expect_headers(seen, SESSION_HEADERS "Last-Event-ID: event-1\n");
    prime_and_end(t, seen->action.exchange, "event-2", CLEAT_NONE);
    tick(t, T0 + 1000 * MS);
    seen = expect_send(t, "");
    expect_headers(seen, SESSION_HEADERS "Last-Event-ID: event-2\n");
    response(t, seen->action.exchange, 200, 's', SESSION);
    message(t, seen->action.exchange, result(id, "{\"content\":[]}"));
    (void)expect_done(t, 1, CLEAT_OK);
    END(t);
}

static void a_third_resumption_is_not_tried(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    call(t, 1, 60 * S);
    expect_open(t);
    opened(t);
    shake_hands_as(t, SESSION);
    for (unsigned i = 0; i < 3; i++) {
        seen = expect(t, MCP_SEND);
        prime_and_end(t, seen->action.exchange, "e", CLEAT_NONE);
        if (i < 2) {
            /* Nothing said: a second. */
            assert_int_equal(mcp_engine_deadline(t->engine), t->now_ns + 1 * S);
            tick(t, t->now_ns + 1 * S);
        }
    }
    (void)expect_done(t, 1, CLEAT_AMBIGUOUS);
    expect_nothing(t);
    END(t);
}

static void each_page_may_be_resumed_twice(void **state)
{
    struct seen *seen;
    uint64_t id;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    seen = until_legacy_list(t);
    for (unsigned page = 0; page < 2; page++) {
        id = seen->action.exchange;
        for (unsigned i = 0; i < 2; i++) {
            prime_and_end(t, seen->action.exchange, "e", 1 * MS);
            tick(t, t->now_ns + 1 * MS);
            seen = expect_send(t, "");
        }
        response(t, seen->action.exchange, 200, 's', SESSION);
        message(t, seen->action.exchange,
                result(id, page == 0 ? "{\"tools\":[],\"nextCursor\":\"n\"}"
                                     : PAGE(TOOL("a"))));
        if (page == 0) { seen = expect(t, MCP_SEND); }
    }
    (void)expect_done(t, 1, CLEAT_OK);
    END(t);
}

static void a_stream_is_not_resumed_where_that_cannot_be(void **state)
{
    static const char *const ids[] = {"", "caf\xC3\xA9", "a\nX-Evil: 1"};

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct bench *t;
        struct seen *seen;

        if (i < 3) {
            t = test_malloc(sizeof *t);
            begin(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);
            seen = until_legacy_list(t);
            prime_and_end(t, seen->action.exchange, ids[i], CLEAT_NONE);
            (void)expect_done(t, 1, CLEAT_SHORT);
        } else { /* the newer revision knows no resumption */
            t = begin_modern();
            list(t, 2, 30 * S);
            seen = expect(t, MCP_SEND);
            prime_and_end(t, seen->action.exchange, "e", CLEAT_NONE);
            (void)expect_done(t, 2, CLEAT_SHORT);
        }
        expect_nothing(t);
        END(t);
    }
}

static void
a_refused_resumption_ends_the_call_and_does_not_repeat_it(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    call(t, 1, 60 * S);
    expect_open(t);
    opened(t);
    shake_hands_as(t, SESSION);
    seen = expect(t, MCP_SEND);
    prime_and_end(t, seen->action.exchange, "e", 0);
    tick(t, t->now_ns + 1 * S);
    seen = expect_send(t, "");
    reply(t, seen->action.exchange, 404, "");
    (void)expect_done(t, 1, CLEAT_AMBIGUOUS);
    expect_nothing(t);
    END(t);
}

static void resuming_does_not_move_the_deadline(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    seen = until_legacy_list(t);
    tick(t, T0 + 15 * S);
    prime_and_end(t, seen->action.exchange, "e", 60 * S);
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + REQUEST_NS);
    tick(t, T0 + REQUEST_NS);
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"method\":"
                         "\"notifications/cancelled\",\"params\":"
                         "{\"requestId\":3}}");
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    expect_nothing(t);
    END(t);
}

/* ---- the channel -------------------------------------------------------- */

static enum cleat_status accept(void *context,
                                const struct cleat_mcp_question *question,
                                char *text, size_t bytes_max, size_t *bytes)
{
    static const char say[] = "{\"action\":\"accept\"}";

    (void)context;
    (void)question;
    if (bytes_max < sizeof say) { return CLEAT_TOO_SMALL; }
    memcpy(text, say, sizeof say - 1);
    *bytes = sizeof say - 1;
    return CLEAT_OK;
}

/* A legacy call of a host that answers questions, with its channel asked for.
 */
static struct bench *begin_answering(struct seen **channel)
{
    struct bench *t = test_malloc(sizeof *t);
    struct seen *seen;

    configure(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);
    t->config.answer = accept;
    start(t);
    call(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect(t, MCP_SEND);
    assert_non_null(strstr(seen->body, "{\"elicitation\":{}}"));
    response(t, seen->action.exchange, 200, 'j', SESSION);
    message(t, seen->action.exchange, result(seen->action.exchange, GREETING));
    seen = expect_send(t, INITIALIZED);
    reply(t, seen->action.exchange, 202, "");
    *channel = expect_send(t, "");
    assert_int_equal((*channel)->action.method, MCP_GET);
    assert_true((*channel)->action.stream);
    expect_headers(*channel, SESSION_HEADERS);
    return t;
}

static void
questions_over_legacy_http_come_on_a_channel_opened_before(void **state)
{
    struct seen *channel;
    struct bench *t = begin_answering(&channel);
    struct seen *seen;

    (void)state;
    expect_nothing(t); /* the call waits for it */
    response(t, channel->action.exchange, 200, 's', SESSION);
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":"
                         "\"tools/call\",\"params\":{" CALLED "}}");
    message(t, channel->action.exchange,
            "{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"elicitation/create\","
            "\"params\":{}}");
    seen = expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":"
                          "{\"action\":\"accept\"}}");
    assert_int_equal(seen->action.method, MCP_POST);
    expect_headers(seen, SESSION_HEADERS);
    reply(t, seen->action.exchange, 202, "");
    expect_nothing(t);
    END(t);
}

static void a_call_waits_for_the_channel_no_longer_than_a_second(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct seen *channel;
        struct bench *t = begin_answering(&channel);

        if (i == 0) {
            assert_int_equal(mcp_engine_deadline(t->engine), T0 + 1 * S);
            tick(t, T0 + 1 * S);
        } else if (i == 1) { /* it has none */
            response(t, channel->action.exchange, 405, 'n', "");
            (void)expect(t, MCP_CANCEL);
        } else {
            failed(t, channel->action.exchange, CLEAT_TRANSIENT, "refused");
        }
        assert_non_null(strstr(expect(t, MCP_SEND)->body, "tools/call"));
        expect_nothing(t);
        END(t);
    }
}

static void following_over_legacy_http_is_a_stream_that_is_resumed(void **state)
{
    struct mcp_told_it told;
    struct seen *seen;
    struct bench *t = test_malloc(sizeof *t);

    (void)state;
    configure(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);
    t->config.follow = true;
    start(t);
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    shake_hands_as(t, SESSION);
    seen = expect_send(t, "");
    assert_int_equal(seen->action.method, MCP_GET);
    (void)expect_send(t, TOOLS_LIST);
    response(t, seen->action.exchange, 200, 's', SESSION);
    message(t, seen->action.exchange,
            "{\"jsonrpc\":\"2.0\",\"method\":"
            "\"notifications/tools/list_changed\"}");
    (void)expect(t, MCP_CHANGED);
    told = told_it(MCP_EVENT, seen->action.exchange);
    told.id = text_of("g7");
    tell(t, &told);
    ended(t, seen->action.exchange);
    expect_nothing(t);
    assert_true(mcp_engine_deadline(t->engine) >= T0 + 500 * MS);
    assert_true(mcp_engine_deadline(t->engine) <= T0 + 1 * S);
    tick(t, mcp_engine_deadline(t->engine));
    seen = expect_send(t, "");
    expect_headers(seen, SESSION_HEADERS "Last-Event-ID: g7\n");
    response(t, seen->action.exchange, 200, 's', SESSION);
    (void)expect(t, MCP_CHANGED); /* of what was not heard */
    expect_nothing(t);
    END(t);
}

static void following_over_modern_http_is_a_subscription(void **state)
{
    struct bench *t = begin_modern();
    struct seen *seen;
    char text[400];

    (void)state;
    mcp_engine_follow(t->engine, t->now_ns, true);
    pull(t);
    seen = expect_send(
        t, "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":\"subscriptions/listen\","
           "\"params\":{" META ",\"notifications\":{\"toolsListChanged\":"
           "true}}}");
    assert_int_equal(seen->action.method, MCP_POST);
    assert_true(seen->action.stream);
    expect_headers(seen, MODERN_HEADERS("subscriptions/listen"));
    response(t, seen->action.exchange, 200, 's', "");
    expect_nothing(t); /* not yet acknowledged */
    snprintf(text, sizeof text,
             "{\"jsonrpc\":\"2.0\",\"method\":"
             "\"notifications/subscriptions/acknowledged\",\"params\":{"
             "\"notifications\":{\"toolsListChanged\":true},\"_meta\":{"
             "\"io.modelcontextprotocol/subscriptionId\":%u}}}",
             (unsigned)seen->action.exchange);
    message(t, seen->action.exchange, text);
    (void)expect(t, MCP_CHANGED); /* a list was given out before it */
    snprintf(text, sizeof text,
             "{\"jsonrpc\":\"2.0\",\"method\":"
             "\"notifications/tools/list_changed\",\"params\":{\"_meta\":{"
             "\"io.modelcontextprotocol/subscriptionId\":%u}}}",
             (unsigned)seen->action.exchange);
    message(t, seen->action.exchange, text);
    (void)expect(t, MCP_CHANGED);
    mcp_engine_follow(t->engine, t->now_ns, false);
    pull(t);
    assert_int_equal(expect(t, MCP_CANCEL)->action.exchange,
                     seen->action.exchange);
    expect_nothing(t);
    END(t);
}

static void
a_channel_that_the_server_does_not_have_is_not_asked_for_again(void **state)
{
    static const uint32_t https[] = {404, 405, 400, 200};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct bench *t = begin_modern();
        struct seen *seen;

        mcp_engine_follow(t->engine, t->now_ns, true);
        pull(t);
        seen = expect(t, MCP_SEND);
        response(t, seen->action.exchange, https[i], 'j', "");
        (void)expect(t, MCP_CANCEL);
        message(t, seen->action.exchange,
                rpc_error(seen->action.exchange, -32601, "x"));
        ended(t, seen->action.exchange);
        expect_nothing(t);
        assert_int_equal(mcp_engine_deadline(t->engine), CLEAT_NEVER);
        list(t, 2, 30 * S); /* nothing else has changed */
        (void)expect_send(t, MODERN_LIST);
        END(t);
    }
}

static void a_channel_that_is_only_busy_is_asked_for_again(void **state)
{
    struct bench *t = begin_modern();
    struct seen *seen;
    uint64_t again_ns;

    (void)state;
    mcp_engine_follow(t->engine, t->now_ns, true);
    pull(t);
    for (unsigned i = 0; i < 3; i++) {
        seen = expect(t, MCP_SEND);
        if (i == 0) {
            response(t, seen->action.exchange, 503, 'n', "");
        } else {
            response(t, seen->action.exchange, 200, 's', "");
            message(t, seen->action.exchange,
                    i == 1 ? rpc_error(seen->action.exchange, -32000, "busy")
                           : "broken");
        }
        (void)expect(t, MCP_CANCEL);
        expect_nothing(t);
        again_ns = mcp_engine_deadline(t->engine);
        assert_true(again_ns > t->now_ns && again_ns < CLEAT_NEVER);
        tick(t, again_ns);
    }
    (void)expect(t, MCP_SEND);
    END(t);
}

static void a_channel_whose_session_is_lost_begins_a_new_one(void **state)
{
    struct seen *seen;
    struct bench *t = test_malloc(sizeof *t);

    (void)state;
    configure(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_LEGACY);
    start(t);
    mcp_engine_follow(t->engine, t->now_ns, true);
    pull(t);
    expect_open(t);
    opened(t);
    shake_hands_as(t, SESSION);
    seen = expect_send(t, "");
    response(t, seen->action.exchange, 404, 'n', "");
    (void)expect(t, MCP_CANCEL);
    shake_hands_as(t, SESSION);
    seen = expect_send(t, "");
    expect_headers(seen, SESSION_HEADERS);
    response(t, seen->action.exchange, 200, 's', SESSION);
    (void)expect(t, MCP_CHANGED);
    END(t);
}

static void an_old_server_that_has_become_modern_is_asked_so(void **state)
{
    struct seen *stream;
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_probe(t);
    reply(t, seen->action.exchange, 404, "");
    seen = expect_send(t, INITIALIZE);
    reply(t, seen->action.exchange, 404, "");
    stream = expect_send(t, "");
    response(t, stream->action.exchange, 200, 's', "");
    {
        struct mcp_told_it told = told_it(MCP_EVENT, stream->action.exchange);

        told.event = text_of("endpoint");
        told.text = text_of("/message");
        tell(t, &told);
    }
    seen = expect_send(t, INITIALIZE);
    reply(t, seen->action.exchange, 202, "");
    message(t, stream->action.exchange,
            rpc_error(seen->action.exchange, -32601, "x"));
    assert_int_equal(expect(t, MCP_CANCEL)->action.exchange,
                     stream->action.exchange);
    seen = expect_send(t, MODERN_LIST);
    assert_string_equal(seen->endpoint, "");
    expect_headers(seen, MODERN_HEADERS("tools/list"));
    END(t);
}

/* ---- the old HTTP+SSE --------------------------------------------------- */

static void endpoint(struct bench *t, uint64_t exchange, const char *uri)
{
    struct mcp_told_it told = told_it(MCP_EVENT, exchange);

    told.event = text_of("endpoint");
    told.text = text_of(uri);
    tell(t, &told);
}

#define URI "/message?sessionId=552ed845"

/* From the GET to the request for the first page. */
static struct seen *shake_hands_old(struct bench *t, struct seen **stream)
{
    struct seen *seen;

    *stream = expect_send(t, "");
    assert_int_equal((*stream)->action.method, MCP_GET);
    assert_true((*stream)->action.stream);
    response(t, (*stream)->action.exchange, 200, 's', "");
    expect_nothing(t);
    endpoint(t, (*stream)->action.exchange, URI);
    seen = expect_send(t, INITIALIZE);
    assert_string_equal(seen->endpoint, URI);
    reply(t, seen->action.exchange, 202, "");
    expect_nothing(t);
    message(t, (*stream)->action.exchange,
            result(seen->action.exchange, GREETING));
    seen = expect_send(t, INITIALIZED);
    assert_string_equal(seen->endpoint, URI);
    reply(t, seen->action.exchange, 202, "");
    seen = expect_send(t, TOOLS_LIST);
    assert_string_equal(seen->endpoint, URI);
    return seen;
}

static void the_old_transport_answers_on_its_stream(void **state)
{
    struct seen *stream;
    struct seen *seen;
    char *tools;
    WITH(t, MCP_WIRE_SSE, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    seen = shake_hands_old(t, &stream);
    reply(t, seen->action.exchange, 202, "");
    expect_nothing(t);
    tools = answer_from("everything_tools.json", seen->action.exchange);
    message(t, stream->action.exchange, tools);
    (void)expect_done(t, 1, CLEAT_OK);
    assert_int_equal(cleat_tools_count(tools_of(t, 1)), 13);
    message(t, stream->action.exchange,
            "{\"method\":\"notifications/tools/list_changed\",\"jsonrpc\":"
            "\"2.0\"}");
    (void)expect(t, MCP_CHANGED);
    expect_nothing(t);
    test_free(tools);
    END(t);
}

static void
an_old_request_that_the_server_does_not_end_is_ended_after_a_while(void **state)
{
    struct seen *stream;
    struct seen *seen;
    WITH(t, MCP_WIRE_SSE, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    seen = shake_hands_old(t, &stream);
    message(t, stream->action.exchange,
            result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    expect_nothing(t);
    assert_int_equal(mcp_engine_deadline(t->engine), t->now_ns + 1 * S);
    tick(t, t->now_ns + 1 * S);
    assert_int_equal(expect(t, MCP_CANCEL)->action.exchange,
                     seen->action.exchange);
    expect_nothing(t);
    assert_int_equal(mcp_engine_deadline(t->engine), CLEAT_NEVER);
    END(t);
}

static void the_old_transport_is_found_where_initialize_is_refused(void **state)
{
    static const uint32_t https[] = {400, 404, 405};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct seen *stream;
        struct seen *seen;
        WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

        seen = until_probe(t);
        reply(t, seen->action.exchange, https[i], "");
        seen = expect_send(t, INITIALIZE);
        reply(t, seen->action.exchange, https[i], "");
        seen = shake_hands_old(t, &stream);
        message(t, stream->action.exchange,
                result(seen->action.exchange, PAGE(TOOL("a"))));
        (void)expect_done(t, 1, CLEAT_OK);
        mcp_engine_end(t->engine, t->now_ns);
        pull(t);
        (void)expect(t, MCP_CLOSE);
        closed(t, CLEAT_OK, "");
        list(t, 2, 30 * S); /* remembered */
        expect_open(t);
        opened(t);
        assert_int_equal(expect_send(t, "")->action.method, MCP_GET);
        expect_nothing(t);
        END(t);
    }
}

static void
where_there_is_no_transport_at_all_the_first_refusal_is_told(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_HTTP, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_probe(t);
    reply(t, seen->action.exchange, 404, "");
    seen = expect_send(t, INITIALIZE);
    reply(t, seen->action.exchange, 404, "");
    seen = expect_send(t, "");
    response(t, seen->action.exchange, 405, 'n', "");
    (void)expect_done(t, 1, CLEAT_PERMANENT);
    expect_text(t, 1, "initialize was answered with HTTP 404");
    (void)expect(t, MCP_CLOSE);
    expect_nothing(t);
    END(t);
}

static void an_old_stream_that_says_no_endpoint_costs_request_ns(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_SSE, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 90 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, "");
    response(t, seen->action.exchange, 200, 's', "");
    tick(t, T0 + REQUEST_NS);
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    (void)expect(t, MCP_CLOSE);
    expect_nothing(t);
    END(t);
}

static void an_endpoint_that_is_no_uri_is_refused(void **state)
{
    char text[3000];

    (void)state;
    memset(text, 'a', sizeof text);
    text[2999] = '\0';
    for (unsigned i = 0; i < 3; i++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_SSE, CLEAT_MCP_ERA_AUTO);

        list(t, 1, 90 * S);
        expect_open(t);
        opened(t);
        seen = expect_send(t, "");
        response(t, seen->action.exchange, 200, 's', "");
        endpoint(t, seen->action.exchange,
                 i == 0   ? ""
                 : i == 1 ? "/a\r\nX: y"
                          : text);
        (void)expect_done(t, 1, CLEAT_PEER_DEVIANT);
        (void)expect(t, MCP_CLOSE);
        END(t);
    }
}

static void the_end_of_an_old_stream_is_the_end_of_the_session(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct seen *stream;
        struct seen *seen;
        WITH(t, MCP_WIRE_SSE, CLEAT_MCP_ERA_AUTO);

        (void)state;
        list(t, 1, 30 * S);
        expect_open(t);
        opened(t);
        seen = shake_hands_old(t, &stream);
        call(t, 2, 30 * S);
        (void)expect(t, MCP_SEND);
        if (i == 0) {
            ended(t, stream->action.exchange);
        } else { /* or where it does not know its session any more */
            reply(t, seen->action.exchange, 404, "");
        }
        (void)expect_done(t, 1, CLEAT_TRANSIENT);
        (void)expect_done(t, 2, CLEAT_AMBIGUOUS);
        (void)expect(t, MCP_CLOSE);
        closed(t, CLEAT_OK, "");
        list(t, 3, 30 * S);
        expect_open(t);
        END(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_is_asked_in_the_newer_revision_first),
        cmocka_unit_test(every_refusal_of_the_era_leads_to_initialize),
        cmocka_unit_test(
            what_is_no_verdict_about_the_era_fails_and_is_asked_again),
        cmocka_unit_test(those_who_wait_for_a_verdict_get_it_together),
        cmocka_unit_test(when_the_one_who_asks_is_silenced_the_next_one_asks),
        cmocka_unit_test(a_call_is_not_sent_to_find_out_the_era),
        cmocka_unit_test(the_era_is_remembered_beyond_the_session),
        cmocka_unit_test(an_era_remembered_in_vain_is_found_out_anew),
        cmocka_unit_test(
            a_server_of_the_other_era_is_refused_where_the_config_says_so),
        cmocka_unit_test(a_server_that_refuses_both_eras_is_given_up),
        cmocka_unit_test(a_server_that_changes_its_era_in_place_is_followed),
        cmocka_unit_test(a_version_refused_is_negotiated_once),
        cmocka_unit_test(a_version_refused_may_lead_to_the_older_era),
        cmocka_unit_test(a_version_refused_may_lead_nowhere),
        cmocka_unit_test(a_capability_that_we_lack_fails_the_request),
        cmocka_unit_test(
            headers_that_mismatch_lead_to_the_new_schema_and_one_more_call),
        cmocka_unit_test(a_tool_that_is_gone_when_looked_for_is_not_found),
        cmocka_unit_test(a_list_whose_headers_mismatch_is_asked_once_more),
        cmocka_unit_test(a_tool_with_a_header_that_is_not_allowed_is_left_out),
        cmocka_unit_test(an_older_server_may_name_a_property_as_it_likes),
        cmocka_unit_test(values_are_mirrored_as_the_revision_encodes_them),
        cmocka_unit_test(a_lost_session_is_begun_anew_once),
        cmocka_unit_test(a_400_that_names_the_call_is_its_answer),
        cmocka_unit_test(a_server_without_sessions_has_none_to_lose),
        cmocka_unit_test(
            a_session_id_that_may_not_stand_in_a_header_is_refused),
        cmocka_unit_test(a_session_is_deleted_at_the_end),
        cmocka_unit_test(nothing_overtakes_initialized_and_its_refusal_counts),
        cmocka_unit_test(a_handshake_that_fails_says_how),
        cmocka_unit_test(silence_after_initialized_costs_request_ns),
        cmocka_unit_test(an_answer_of_another_content_type_is_no_mcp_servers),
        cmocka_unit_test(a_body_that_cannot_be_read_fails_its_request_at_once),
        cmocka_unit_test(
            an_exchange_that_ends_without_an_answer_is_told_by_what_was_asked),
        cmocka_unit_test(
            http_errors_of_a_call_say_whether_it_may_have_been_done),
        cmocka_unit_test(
            an_unknown_tool_is_an_error_in_an_answer_that_succeeded),
        cmocka_unit_test(a_request_that_is_not_wanted_any_more_is_ended),
        cmocka_unit_test(what_is_told_unasked_takes_no_more_room_than_there_is),
        cmocka_unit_test(what_is_told_unasked_goes_before_answered_streams),
        cmocka_unit_test(
            what_a_lost_session_was_to_be_told_is_not_told_the_next_one),
        cmocka_unit_test(
            an_answered_stream_that_stays_open_is_ended_after_a_while),
        cmocka_unit_test(notifications_on_a_stream_come_before_the_answer),
        cmocka_unit_test(a_stream_that_ends_early_is_resumed_twice),
        cmocka_unit_test(a_third_resumption_is_not_tried),
        cmocka_unit_test(each_page_may_be_resumed_twice),
        cmocka_unit_test(a_stream_is_not_resumed_where_that_cannot_be),
        cmocka_unit_test(
            a_refused_resumption_ends_the_call_and_does_not_repeat_it),
        cmocka_unit_test(resuming_does_not_move_the_deadline),
        cmocka_unit_test(
            questions_over_legacy_http_come_on_a_channel_opened_before),
        cmocka_unit_test(a_call_waits_for_the_channel_no_longer_than_a_second),
        cmocka_unit_test(
            following_over_legacy_http_is_a_stream_that_is_resumed),
        cmocka_unit_test(following_over_modern_http_is_a_subscription),
        cmocka_unit_test(
            a_channel_that_the_server_does_not_have_is_not_asked_for_again),
        cmocka_unit_test(a_channel_that_is_only_busy_is_asked_for_again),
        cmocka_unit_test(a_channel_whose_session_is_lost_begins_a_new_one),
        cmocka_unit_test(an_old_server_that_has_become_modern_is_asked_so),
        cmocka_unit_test(the_old_transport_answers_on_its_stream),
        cmocka_unit_test(
            an_old_request_that_the_server_does_not_end_is_ended_after_a_while),
        cmocka_unit_test(
            the_old_transport_is_found_where_initialize_is_refused),
        cmocka_unit_test(
            where_there_is_no_transport_at_all_the_first_refusal_is_told),
        cmocka_unit_test(an_old_stream_that_says_no_endpoint_costs_request_ns),
        cmocka_unit_test(an_endpoint_that_is_no_uri_is_refused),
        cmocka_unit_test(the_end_of_an_old_stream_is_the_end_of_the_session),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
