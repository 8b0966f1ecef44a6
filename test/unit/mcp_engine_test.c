/* Cleat: the MCP engine over stdio: handshake, lists, calls and what goes
 * wrong with them. SPDX-License-Identifier: Apache-2.0 */
#include "mcp_engine_peer.h"

/* Runs a body for a fresh bench. */
#define WITH(t, wire, era)                    \
    struct bench *t = test_malloc(sizeof *t); \
    begin(t, wire, era)
#define END(t)        \
    do {              \
        finish(t);    \
        test_free(t); \
    } while (0)

/* Up to the request for the first page. */
static struct seen *until_list(struct bench *t, uint64_t within_ns)
{
    list(t, 1, within_ns);
    shake_hands(t);
    return expect_send(t, TOOLS_LIST);
}

/* ---- the handshake ------------------------------------------------------ */

static void a_list_of_a_real_server_is_what_it_sent(void **state)
{
    char *greeting = answer_from("everything_initialize.json", 1);
    char *tools;
    struct cleat_tool tool;
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    assert_int_equal(expect_send(t, INITIALIZE)->action.exchange, 1);
    expect_nothing(t);
    line(t, greeting);
    (void)expect_send(t, INITIALIZED);
    seen = expect_send(t, TOOLS_LIST);
    line(t, "{\"method\":\"notifications/tools/list_changed\","
            "\"jsonrpc\":\"2.0\"}");
    (void)expect(t, MCP_CHANGED);
    tools = answer_from("everything_tools.json", seen->action.exchange);
    line(t, tools);
    seen = expect_done(t, 1, CLEAT_OK);
    assert_int_equal(seen->action.ttl_ns, CLEAT_NONE);
    expect_names(t, 1,
                 "echo get-annotated-message get-env get-resource-links "
                 "get-resource-reference get-structured-content get-sum "
                 "get-tiny-image gzip-file-as-resource "
                 "toggle-simulated-logging toggle-subscriber-updates "
                 "trigger-long-running-operation simulate-research-query");
    cleat_tools_at(tools_of(t, 1), 0, &tool);
    assert_int_equal(tool.title.bytes, 9);
    assert_memory_equal(tool.title.text, "Echo Tool", 9);
    assert_memory_equal(tool.description.text, "Echoes back the input string",
                        tool.description.bytes);
    assert_memory_equal(tool.server.text, "srv", 3);
    for (uint32_t i = 0; i < 13; i++) { /* raw bytes, each in the message */
        char *copy;

        cleat_tools_at(tools_of(t, 1), i, &tool);
        copy = copy_of(tool.definition);
        assert_non_null(strstr(tools, copy));
        test_free(copy);
        copy = copy_of(tool.input_schema);
        assert_non_null(strstr(tools, copy));
        assert_int_equal(copy[0], '{');
        test_free(copy);
        assert_true(tool.input_schema.text > tool.definition.text);
    }
    test_free(greeting);
    test_free(tools);
    END(t);
}

static void each_older_revision_is_accepted_and_no_other(void **state)
{
    static const struct {
        const char *version;
        enum cleat_status status;
    } rows[] = {
        {"2025-11-25", CLEAT_OK},          {"2025-06-18", CLEAT_OK},
        {"2025-03-26", CLEAT_OK},          {"2024-11-05", CLEAT_OK},
        {"2024-10-07", CLEAT_UNSUPPORTED}, {"2026-07-28", CLEAT_UNSUPPORTED},
        {"2099-01-01", CLEAT_UNSUPPORTED}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char greeting[256];
        struct seen *seen;
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

        list(t, 1, 30 * S);
        expect_open(t);
        opened(t);
        seen = expect_send(t, INITIALIZE);
        snprintf(greeting, sizeof greeting,
                 "{\"protocolVersion\":\"%s\",\"capabilities\":{\"tools\":{}}}",
                 rows[i].version);
        line(t, result(seen->action.exchange, greeting));
        if (rows[i].status == CLEAT_OK) {
            (void)expect_send(t, INITIALIZED);
            (void)expect_send(t, TOOLS_LIST);
        } else {
            (void)expect_done(t, 1, rows[i].status);
            (void)expect(t, MCP_CLOSE);
        }
        expect_nothing(t);
        END(t);
    }
}

static void
a_server_without_tools_has_an_empty_list_and_is_not_asked(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    call(t, 2, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    line(t, result(seen->action.exchange,
                   "{\"protocolVersion\":\"2025-11-25\",\"capabilities\":"
                   "{\"prompts\":{}}}"));
    (void)expect_done(t, 1, CLEAT_OK);
    expect_names(t, 1, "");
    (void)expect_done(t, 2, CLEAT_UNSUPPORTED);
    (void)expect_send(t, INITIALIZED);
    expect_nothing(t);
    END(t);
}

static void a_modern_server_is_found_by_its_refusal_and_remembered(void **state)
{
    char *refusal = answer_from("modern_refusal.json", 1);
    char *tools = answer_from("modern_tools.json", 2);
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    /* The file ends in the error, its id is the first member. */
    test_free(refusal);
    refusal = fixture("modern_refusal.json");
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    line(t, refusal);
    seen = expect_send(t, MODERN_LIST);
    expect_nothing(t);
    assert_int_equal(seen->action.exchange, 2);
    line(t, tools);
    seen = expect_done(t, 1, CLEAT_OK);
    assert_int_equal(seen->action.ttl_ns, 60 * S);
    expect_names(t, 1, "tool_0 tool_1 tool_2");
    closed(t, CLEAT_TRANSIENT, "exited with 0");
    list(t, 2, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, MODERN_LIST); /* no initialize this time */
    expect_nothing(t);
    test_free(refusal);
    test_free(tools);
    END(t);
}

static void a_server_that_does_not_know_initialize_is_modern(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    line(t, rpc_error(seen->action.exchange, -32601, "Method not found"));
    (void)expect_send(t, MODERN_LIST);
    expect_nothing(t);
    END(t);
}

static void an_era_of_the_config_is_kept_to(void **state)
{
    char *refusal = fixture("modern_refusal.json");
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_LEGACY);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    line(t, refusal);
    (void)expect_done(t, 1, CLEAT_UNSUPPORTED);
    (void)expect(t, MCP_CLOSE);
    END(t);
    {
        WITH(m, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

        list(m, 1, 30 * S);
        expect_open(m);
        opened(m);
        seen = expect_send(m, MODERN_LIST);
        line(m, rpc_error(seen->action.exchange, -32601, "Method not found"));
        (void)expect_done(m, 1, CLEAT_PERMANENT);
        expect_nothing(m);
        END(m);
    }
    test_free(refusal);
}

static void a_refusal_that_names_no_revision_of_ours_ends_it(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    (void)seen;
    line(t, "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32022,"
            "\"message\":\"x\",\"data\":{\"supported\":[\"2031-01-01\"]}}}");
    (void)expect_done(t, 1, CLEAT_UNSUPPORTED);
    (void)expect(t, MCP_CLOSE);
    expect_nothing(t);
    END(t);
}

static void
a_server_that_ends_after_refusing_initialize_is_started_once_more(void **state)
{
    char *refusal = fixture("modern_refusal.json");
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    line(t, refusal);
    (void)expect_send(t, MODERN_LIST);
    closed(t, CLEAT_TRANSIENT, "exited with 1");
    expect_open(t);
    opened(t);
    (void)expect_send(t, MODERN_LIST);
    closed(t, CLEAT_TRANSIENT, "exited with 1: oops");
    (void)expect_done(t, 1, CLEAT_TRANSIENT); /* and not again */
    expect_text(t, 1, "exited with 1: oops");
    expect_nothing(t);
    test_free(refusal);
    END(t);
}

static void an_era_remembered_in_vain_is_found_out_anew(void **state)
{
    char *refusal = fixture("modern_refusal.json");
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    line(t, refusal);
    seen = expect_send(t, MODERN_LIST);
    line(t, result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    closed(t, CLEAT_TRANSIENT, "exited with 0");
    /* The server behind that command is another one now. */
    list(t, 2, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, MODERN_LIST);
    line(t, rpc_error(seen->action.exchange, -32600, "not initialized"));
    seen = expect_send(t, INITIALIZE);
    line(t, result(seen->action.exchange, GREETING));
    (void)expect_send(t, INITIALIZED);
    seen = expect_send(t, TOOLS_LIST);
    line(t, result(seen->action.exchange, PAGE(TOOL("a"))));
    (void)expect_done(t, 2, CLEAT_OK);
    expect_nothing(t);
    test_free(refusal);
    END(t);
}

static void
an_era_in_which_a_whole_session_was_in_vain_is_forgotten(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    line(t, rpc_error(seen->action.exchange, -32601, "x"));
    seen = expect_send(t, MODERN_LIST);
    line(t, result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    closed(t, CLEAT_TRANSIENT, "");
    list(t, 2, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, MODERN_LIST);
    closed(t, CLEAT_TRANSIENT, "exited with 2"); /* as older servers do */
    (void)expect_done(t, 2, CLEAT_TRANSIENT);
    list(t, 3, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    END(t);
}

static void a_call_is_not_repeated_to_find_out_an_era(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    line(t, rpc_error(seen->action.exchange, -32601, "x"));
    seen = expect_send(t, MODERN_LIST);
    line(t, result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    closed(t, CLEAT_TRANSIENT, "");
    call(t, 2, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect(t, MCP_SEND);
    line(t, rpc_error(seen->action.exchange, -32603, "it broke half-way"));
    (void)expect_done(t, 2, CLEAT_AMBIGUOUS);
    expect_text(t, 2, "-32603: it broke half-way");
    expect_nothing(t);
    END(t);
}

/* ---- silence ------------------------------------------------------------ */

static void
a_server_that_is_silent_from_the_start_costs_request_ns(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 93 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + REQUEST_NS);
    tick(t, T0 + REQUEST_NS - 1);
    expect_nothing(t);
    tick(t, T0 + REQUEST_NS);
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    expect_text(t, 1, "no answer to initialize within 20000 ms");
    (void)expect(t, MCP_CLOSE); /* initialize is never cancelled */
    expect_nothing(t);
    assert_false(mcp_engine_idle(t->engine));
    closed(t, CLEAT_OK, "");
    expect_nothing(t);
    assert_true(mcp_engine_idle(t->engine));
    assert_int_equal(mcp_engine_deadline(t->engine), CLEAT_NEVER);
    END(t);
}

static void a_process_that_never_starts_costs_request_ns(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 93 * S);
    expect_open(t);
    tick(t, T0 + REQUEST_NS);
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    (void)expect(t, MCP_CLOSE);
    END(t);
}

static void
an_operation_ends_at_its_own_deadline_if_that_is_sooner(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 3 * S);
    list(t, 2, 5 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + 3 * S);
    tick(t, T0 + 3 * S);
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    expect_nothing(t); /* the session goes on for the other one */
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + 5 * S);
    tick(t, T0 + 5 * S);
    (void)expect_done(t, 2, CLEAT_PEER_SILENT);
    expect_nothing(t);
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + REQUEST_NS);
    END(t);
}

static void an_operation_whose_deadline_has_passed_is_not_begun(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 0);
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    expect_nothing(t);
    END(t);
}

static void a_server_silent_after_initialize_is_started_afresh(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    (void)until_list(t, 93 * S);
    tick(t, T0 + REQUEST_NS);
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    expect_text(t, 1, "no answer to tools/list within 20000 ms");
    (void)expect(t, MCP_CLOSE);
    list(t, 2, 30 * S); /* waits for the end of the old process */
    expect_nothing(t);
    closed(t, CLEAT_OK, "killed");
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    line(t, result(seen->action.exchange, GREETING));
    (void)expect_send(t, INITIALIZED);
    seen = expect_send(t, TOOLS_LIST);
    line(t, result(seen->action.exchange, PAGE(TOOL("a"))));
    (void)expect_done(t, 2, CLEAT_OK);
    END(t);
}

static void it_hangs_once_it_was_silent_for_half_of_request_ns(void **state)
{
    static const struct {
        uint64_t within_ns;
        unsigned what; /* 0: silence; 1: a notification; 2: another operation */
        bool closes;
    } rows[] = {{REQUEST_NS / 2, 0, true},
                {REQUEST_NS / 2 - 1, 0, false},
                {REQUEST_NS / 2, 1, false},
                {REQUEST_NS / 2, 2, false}};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

        (void)until_list(t, rows[i].within_ns);
        if (rows[i].what == 1) {
            line(t, "{\"jsonrpc\":\"2.0\",\"method\":"
                    "\"notifications/message\"}");
        } else if (rows[i].what == 2) {
            call(t, 2, 90 * S);
            (void)expect(t, MCP_SEND);
        }
        tick(t, T0 + rows[i].within_ns);
        if (!rows[i].closes) { (void)expect(t, MCP_SEND); /* cancelled */ }
        (void)expect_done(t, 1, CLEAT_PEER_SILENT);
        if (rows[i].closes) { (void)expect(t, MCP_CLOSE); }
        expect_nothing(t);
        END(t);
    }
}

static void a_late_answer_is_nobodys(void **state)
{
    struct seen *first;
    struct seen *second;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    first = until_list(t, 5 * S);
    tick(t, T0 + 5 * S);
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"method\":"
                         "\"notifications/cancelled\",\"params\":"
                         "{\"requestId\":3}}");
    assert_int_equal(first->action.exchange, 3);
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    list(t, 2, 30 * S);
    second = expect_send(t, TOOLS_LIST);
    line(t, result(first->action.exchange, PAGE(TOOL("old"))));
    expect_nothing(t);
    line(t, result(second->action.exchange, PAGE(TOOL("new"))));
    (void)expect_done(t, 2, CLEAT_OK);
    expect_names(t, 2, "new");
    END(t);
}

static void
an_answer_at_the_deadline_is_late_and_just_before_it_is_not(void **state)
{
    for (uint64_t early = 0; early < 2; early++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

        (void)state;
        seen = until_list(t, 5 * S);
        t->now_ns = T0 + 5 * S - early;
        line(t, result(seen->action.exchange, PAGE("")));
        if (early == 0) { (void)expect(t, MCP_SEND); }
        (void)expect_done(t, 1, early == 0 ? CLEAT_PEER_SILENT : CLEAT_OK);
        expect_nothing(t);
        END(t);
    }
}

static void each_page_has_request_ns_and_all_of_them_the_deadline(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 50 * S);
    for (unsigned page = 0; page < 4; page++) {
        char text[128];

        assert_int_equal(mcp_engine_deadline(t->engine),
                         page < 3 ? t->now_ns + REQUEST_NS : T0 + 50 * S);
        tick(t, t->now_ns + 12 * S);
        snprintf(text, sizeof text, "{\"tools\":[],\"nextCursor\":\"%u\"}",
                 page);
        line(t, result(seen->action.exchange, text));
        seen = expect(t, MCP_SEND);
    }
    tick(t, T0 + 50 * S);
    (void)expect(t, MCP_SEND); /* cancelled */
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    END(t);
}

static void a_call_has_its_own_deadline_alone(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    call(t, 1, 120 * S);
    shake_hands(t);
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":"
                         "\"tools/call\",\"params\":{\"name\":\"echo\","
                         "\"arguments\":{\"message\":\"hi\"}}}");
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + 120 * S);
    tick(t, T0 + 120 * S);
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"method\":"
                         "\"notifications/cancelled\",\"params\":"
                         "{\"requestId\":3}}");
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    expect_nothing(t); /* the server may have other work */
    END(t);
}

/* ---- pages -------------------------------------------------------------- */

static void
pages_are_joined_in_order_and_their_cursors_sent_as_they_came(void **state)
{
    static const char *const cursors[] = {"\"\"", "\"a b\\u00e9\\n\"",
                                          "\"cG FnZQ==\""};
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    for (size_t i = 0; i < 3; i++) {
        char page[256];
        char wanted[256];

        snprintf(page, sizeof page,
                 "{\"tools\":[{\"name\":\"t%zu\",\"inputSchema\":{}}],"
                 "\"nextCursor\":%s}",
                 i, cursors[i]);
        line(t, result(seen->action.exchange, page));
        snprintf(wanted, sizeof wanted,
                 "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":\"tools/list\","
                 "\"params\":{\"cursor\":%s}}",
                 cursors[i]);
        seen = expect_send(t, wanted);
    }
    line(t,
         result(seen->action.exchange, "{\"tools\":[],\"nextCursor\":null}"));
    (void)expect_done(t, 1, CLEAT_OK);
    expect_names(t, 1, "t0 t1 t2");
    END(t);
}

/* A server whose page number n has a cursor of its choice, and when the walk
 * over it ends: after how many pages, and how. */
static unsigned walk_until_end(struct bench *t, unsigned period, unsigned lead)
{
    struct seen *seen = until_list(t, 90 * S);
    unsigned pages = 0;

    for (;;) {
        char page[128];
        unsigned n = pages < lead ? pages : lead + (pages - lead) % period;

        snprintf(page, sizeof page, "{\"tools\":[],\"nextCursor\":\"c%u\"}", n);
        line(t, result(seen->action.exchange, page));
        pages++;
        if (t->seen[t->seen_next].action.what == MCP_DONE) { return pages; }
        seen = expect(t, MCP_SEND);
    }
}

static void endless_pages_end_at_pages_max(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    assert_int_equal(walk_until_end(t, 1000, 0), 64);
    (void)expect_done(t, 1, CLEAT_LIMIT);
    expect_text(t, 1, "pages_max, 64");
    END(t);
}

static void cursors_that_come_again_end_the_walk(void **state)
{
    (void)state;
    for (unsigned period = 1; period <= 12; period++) {
        for (unsigned lead = 0; lead <= 4; lead++) {
            WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);
            unsigned pages = walk_until_end(t, period, lead);

            (void)expect_done(t, 1, CLEAT_PEER_DEVIANT);
            expect_text(t, 1, "has no end");
            assert_true(pages > lead + period);
            assert_true(pages <= 4 * (lead + period) + 2);
            if (period == 1 && lead == 0) { assert_int_equal(pages, 2); }
            END(t);
        }
    }
}

static void
a_server_that_gives_the_empty_cursor_for_ever_is_found_out(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    line(t,
         result(seen->action.exchange, "{\"tools\":[],\"nextCursor\":\"\"}"));
    seen = expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":"
                          "\"tools/list\",\"params\":{\"cursor\":\"\"}}");
    line(t,
         result(seen->action.exchange, "{\"tools\":[],\"nextCursor\":\"\"}"));
    (void)expect_done(t, 1, CLEAT_PEER_DEVIANT);
    END(t);
}

static void a_cursor_that_is_refused_starts_the_walk_again_once(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    for (unsigned round = 0; round < 2; round++) {
        line(t, result(seen->action.exchange,
                       "{\"tools\":[" TOOL("a") "],\"nextCursor\":\"2\"}"));
        seen = expect(t, MCP_SEND);
        line(t, rpc_error(seen->action.exchange, -32602, "unknown cursor"));
        if (round == 0) { seen = expect_send(t, TOOLS_LIST); }
    }
    (void)expect_done(t, 1, CLEAT_PERMANENT);
    expect_text(t, 1, "-32602: unknown cursor");
    expect_nothing(t);
    END(t);
}

static void a_walk_that_started_again_has_every_tool_once(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    line(t, result(seen->action.exchange,
                   "{\"tools\":[" TOOL("a") "],\"nextCursor\":\"2\"}"));
    seen = expect(t, MCP_SEND);
    line(t, rpc_error(seen->action.exchange, -32602, "unknown cursor"));
    seen = expect_send(t, TOOLS_LIST);
    line(t, result(seen->action.exchange, PAGE(TOOL("a") "," TOOL("b"))));
    (void)expect_done(t, 1, CLEAT_OK);
    expect_names(t, 1, "a b");
    assert_int_equal(cleat_tools_left_out(tools_of(t, 1)), 0);
    END(t);
}

static void a_first_page_that_is_refused_is_not_asked_again(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    line(t, rpc_error(seen->action.exchange, -32602, "no"));
    (void)expect_done(t, 1, CLEAT_PERMANENT);
    expect_nothing(t);
    END(t);
}

/* ---- what lists hold ---------------------------------------------------- */

static void a_name_given_twice_is_kept_once_and_counted(void **state)
{
    struct seen *seen;
    struct cleat_tool tool;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    line(t, result(seen->action.exchange,
                   PAGE("{\"name\":\"a\",\"description\":\"first\","
                        "\"inputSchema\":{}}," TOOL(
                            "b") ",{\"name\":\"\\u0061\",\"description\":"
                                 "\"second\",\"inputSchema\":{}}")));
    (void)expect_done(t, 1, CLEAT_OK);
    expect_names(t, 1, "a b");
    cleat_tools_at(tools_of(t, 1), 0, &tool);
    assert_int_equal(tool.description.bytes, 5);
    assert_memory_equal(tool.description.text, "first", 5);
    assert_int_equal(cleat_tools_left_out(tools_of(t, 1)), 1);
    END(t);
}

static void escapes_are_undone_in_texts_and_kept_in_the_definition(void **state)
{
    static const char object[] =
        "{ \"name\" : \"n\\u00e4me\",\t\"title\":\"T\\\"x\", "
        "\"description\":\"line\\nnext \\ud83d\\ude00 \\ud800.\", "
        "\"inputSchema\": {\"type\" : \"object\",\"d\":\"\\ud800\"}, "
        "\"outputSchema\":null, \"annotations\":{\"x\": [1, 2] } }";
    struct seen *seen;
    struct cleat_tool tool;
    char page[512];
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    snprintf(page, sizeof page, "{\"tools\":[%s]}", object);
    line(t, result(seen->action.exchange, page));
    (void)expect_done(t, 1, CLEAT_OK);
    cleat_tools_at(tools_of(t, 1), 0, &tool);
    assert_int_equal(tool.name.bytes, 5);
    assert_memory_equal(tool.name.text, "n\xC3\xA4me", 5);
    assert_memory_equal(tool.title.text, "T\"x", tool.title.bytes);
    assert_int_equal(tool.description.bytes,
                     sizeof "line\nnext \xF0\x9F\x98\x80 \xEF\xBF\xBD." - 1);
    assert_memory_equal(tool.description.text,
                        "line\nnext \xF0\x9F\x98\x80 \xEF\xBF\xBD.",
                        tool.description.bytes);
    assert_int_equal(tool.definition.bytes, sizeof object - 1);
    assert_memory_equal(tool.definition.text, object, sizeof object - 1);
    assert_memory_equal(tool.input_schema.text,
                        "{\"type\" : \"object\",\"d\":\"\\ud800\"}",
                        tool.input_schema.bytes);
    assert_int_equal(tool.output_schema.bytes, 0);
    assert_memory_equal(tool.annotations.text, "{\"x\": [1, 2] }",
                        tool.annotations.bytes);
    END(t);
}

static void a_page_that_is_not_what_the_protocol_says_is_refused(void **state)
{
    static const char *const pages[] = {
        "null",
        "[]",
        "{}",
        "{\"tools\":null}",
        "{\"tools\":{}}",
        "{\"tools\":[],\"tools\":[]}",
        "{\"tools\":[],\"nextCursor\":7}",
        "{\"tools\":[1]}",
        "{\"tools\":[{}]}",
        PAGE("{\"name\":\"a\"}"),
        PAGE("{\"inputSchema\":{}}"),
        PAGE("{\"name\":\"\",\"inputSchema\":{}}"),
        PAGE("{\"name\":1,\"inputSchema\":{}}"),
        PAGE("{\"name\":\"a\\u0000b\",\"inputSchema\":{}}"),
        PAGE("{\"name\":\"a\\ud800\",\"inputSchema\":{}}"),
        PAGE("{\"name\":\"a\",\"inputSchema\":null}"),
        PAGE("{\"name\":\"a\",\"inputSchema\":[]}"),
        PAGE("{\"name\":\"a\",\"inputSchema\":{},\"outputSchema\":true}"),
        PAGE("{\"name\":\"a\",\"description\":{},\"inputSchema\":{}}"),
        PAGE("{\"name\":\"a\",\"name\":\"b\",\"inputSchema\":{}}"),
    };

    (void)state;
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

        seen = until_list(t, 30 * S);
        line(t, result(seen->action.exchange, pages[i]));
        if (t->seen[t->seen_next].action.status != CLEAT_PEER_DEVIANT) {
            fail_msg("%s", pages[i]);
        }
        (void)expect_done(t, 1, CLEAT_PEER_DEVIANT);
        expect_nothing(t);
        END(t);
    }
}

static void names_get_the_prefix_and_keep_their_wire_name(void **state)
{
    struct seen *seen;
    struct mcp_list made;
    struct cleat_tool tool;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    made = list_of(t, 1, 30 * S);
    made.prefix = text_of("srv_");
    made.class_name = text_of("verl.tools.X");
    made.selected = text_of("[\"b\"]");
    list_as(t, 1, &made);
    shake_hands(t);
    seen = expect_send(t, TOOLS_LIST);
    line(t, result(seen->action.exchange, PAGE(TOOL("a") "," TOOL("b"))));
    (void)expect_done(t, 1, CLEAT_OK);
    expect_names(t, 1, "srv_b");
    cleat_tools_at(tools_of(t, 1), 0, &tool);
    assert_int_equal(tool.wire_name.bytes, 1);
    assert_ptr_equal(tool.wire_name.text, tool.name.text + 4);
    assert_memory_equal(tool.class_name.text, "verl.tools.X",
                        tool.class_name.bytes);
    assert_int_equal(cleat_tools_left_out(tools_of(t, 1)), 0);
    END(t);
}

static void
a_selected_tool_that_is_not_there_is_an_error_that_says_what_is(void **state)
{
    static const struct {
        const char *selected;
        bool some;
        const char *names; /* NULL: an error */
        const char *said;
    } rows[] = {
        {"[\"b\",\"x\"]", false, NULL,
         "the selected tool x is not among its tools: a, b"},
        {"[\"b\",\"x\"]", true, "b", ""},
        {"[\"x\"]", true, "", ""},
        {"[\"\\u0062\"]", false, "b", ""},
        {"[\"b\",\"b\",\"a\"]", false, "a b", ""},
        {"[]", false, "", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct seen *seen;
        struct mcp_list made;
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

        made = list_of(t, 1, 30 * S);
        made.selected = text_of(rows[i].selected);
        made.selected_some = rows[i].some;
        list_as(t, 1, &made);
        shake_hands(t);
        seen = expect_send(t, TOOLS_LIST);
        line(t, result(seen->action.exchange, PAGE(TOOL("a") "," TOOL("b"))));
        if (rows[i].names == NULL) {
            (void)expect_done(t, 1, CLEAT_NOT_FOUND);
            expect_text(t, 1, rows[i].said);
        } else {
            (void)expect_done(t, 1, CLEAT_OK);
            expect_names(t, 1, rows[i].names);
        }
        END(t);
    }
}

static void a_list_of_what_there_is_that_is_too_long_is_cut(void **state)
{
    struct seen *seen;
    struct mcp_list made;
    char *tools = fixture("filesystem_tools.json");
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    test_free(tools);
    made = list_of(t, 1, 30 * S);
    made.selected = text_of("[\"read_fil\"]");
    list_as(t, 1, &made);
    shake_hands(t);
    seen = expect_send(t, TOOLS_LIST);
    tools = answer_from("filesystem_tools.json", seen->action.exchange);
    line(t, tools);
    (void)expect_done(t, 1, CLEAT_NOT_FOUND);
    expect_text(t, 1,
                "read_fil is not among its tools: read_file, read_text_file");
    test_free(tools);
    END(t);
}

static void a_block_that_is_too_small_tells_how_large_is_enough(void **state)
{
    struct mcp_list made;
    struct seen *seen;
    size_t needed = 0;

    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        char *page;
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

        made = list_of(t, 1, 30 * S);
        made.bytes = round == 0 ? 512 : needed;
        list_as(t, 1, &made);
        shake_hands(t);
        seen = expect_send(t, TOOLS_LIST);
        line(t, result(seen->action.exchange,
                       "{\"tools\":[" TOOL("first") "],\"nextCursor\":"
                                                    "\"2\"}"));
        seen = expect(t, MCP_SEND);
        page = answer_from("filesystem_tools.json", seen->action.exchange);
        line(t, page);
        if (round == 0) {
            (void)expect_done(t, 1, CLEAT_TOO_SMALL);
            needed = (size_t)t->errors[1].offset;
        } else {
            (void)expect_done(t, 1, CLEAT_OK);
            assert_int_equal(t->done->action.bytes, needed);
            assert_int_equal(cleat_tools_count(tools_of(t, 1)), 15);
        }
        test_free(page);
        END(t);
    }
}

static void more_tools_than_tools_max_are_refused(void **state)
{
    (void)state;
    for (uint32_t max = 1; max <= 2; max++) {
        struct seen *seen;
        struct bench *t = test_malloc(sizeof *t);

        configure(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);
        t->config.tools_max = max;
        start(t);
        seen = until_list(t, 30 * S);
        line(t, result(seen->action.exchange, PAGE(TOOL("a") "," TOOL("b"))));
        (void)expect_done(t, 1, max == 2 ? CLEAT_OK : CLEAT_LIMIT);
        if (max == 1) { expect_text(t, 1, "tools_max, 1"); }
        END(t);
    }
}

/* ---- how long a list is fresh ------------------------------------------- */

static void modern_pages_say_how_long_they_are_fresh(void **state)
{
    static const struct {
        const char *page;
        uint64_t ttl_ns;
    } rows[] = {
        {"{\"tools\":[],\"resultType\":\"complete\",\"ttlMs\":1500}",
         1500 * MS},
        {"{\"tools\":[],\"ttlMs\":0}", 0},
        {"{\"tools\":[],\"ttlMs\":-5}", 0},
        {"{\"tools\":[],\"ttlMs\":1.5}", 0},
        {"{\"tools\":[],\"ttlMs\":\"60000\"}", 0},
        {"{\"tools\":[],\"ttlMs\":null}", 0},
        {"{\"tools\":[],\"ttlMs\":99999999999999999999999}", CLEAT_NONE - 1},
        {"{\"tools\":[],\"ttlMs\":18446744073709551615}", CLEAT_NONE - 1},
        {"{\"tools\":[],\"resultType\":\"complete\"}", 0},
        {"{\"tools\":[],\"cacheScope\":\"private\"}", 0},
        {"{\"tools\":[]}", CLEAT_NONE}, /* no mark of the revision */
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

        list(t, 1, 30 * S);
        expect_open(t);
        opened(t);
        seen = expect_send(t, MODERN_LIST);
        line(t, result(seen->action.exchange, rows[i].page));
        seen = expect_done(t, 1, CLEAT_OK);
        if (seen->action.ttl_ns != rows[i].ttl_ns) {
            fail_msg("%s: %llu", rows[i].page,
                     (unsigned long long)seen->action.ttl_ns);
        }
        END(t);
    }
}

static void the_least_of_all_pages_counts(void **state)
{
    static const unsigned ms[3][3] = {{5, 3, 4}, {3, 5, 5}, {9, 9, 2}};
    static const unsigned least[3] = {3, 3, 2};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

        list(t, 1, 30 * S);
        expect_open(t);
        opened(t);
        for (unsigned page = 0; page < 3; page++) {
            char text[128];

            seen = expect(t, MCP_SEND);
            snprintf(text, sizeof text, "{\"tools\":[],\"ttlMs\":%u%s%u%s}",
                     ms[i][page],
                     page < 2 ? ",\"nextCursor\":\"" : ",\"x\":", page,
                     page < 2 ? "\"" : "");
            line(t, result(seen->action.exchange, text));
        }
        seen = expect_done(t, 1, CLEAT_OK);
        assert_int_equal(seen->action.ttl_ns, least[i] * MS);
        END(t);
    }
}

static void an_older_server_cannot_say_how_long_a_list_is_fresh(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    line(t, result(seen->action.exchange,
                   "{\"tools\":[],\"ttlMs\":1,\"cacheScope\":\"public\"}"));
    seen = expect_done(t, 1, CLEAT_OK);
    assert_int_equal(seen->action.ttl_ns, CLEAT_NONE);
    END(t);
}

static void a_list_is_complete_or_refused(void **state)
{
    static const char *const types[] = {"\"input_required\"", "\"later\"", "1"};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct seen *seen;
        char page[128];
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

        list(t, 1, 30 * S);
        expect_open(t);
        opened(t);
        seen = expect_send(t, MODERN_LIST);
        snprintf(page, sizeof page, "{\"tools\":[],\"resultType\":%s}",
                 types[i]);
        line(t, result(seen->action.exchange, page));
        (void)expect_done(t, 1, CLEAT_PEER_DEVIANT);
        END(t);
    }
}

/* ---- ids ---------------------------------------------------------------- */

static void only_the_exact_id_is_an_answer(void **state)
{
    static const char *const lines[] = {
        "{\"jsonrpc\":\"2.0\",\"id\":\"3\",\"result\":{\"tools\":[]}}",
        "{\"jsonrpc\":\"2.0\",\"id\":3.0,\"result\":{\"tools\":[]}}",
        "{\"jsonrpc\":\"2.0\",\"id\":30,\"result\":{\"tools\":[]}}",
        "{\"jsonrpc\":\"2.0\",\"id\":-3,\"result\":{\"tools\":[]}}",
        "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{\"tools\":[]}}",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[]}}",
        "{\"jsonrpc\":\"2.0\",\"id\":18446744073709551619,\"result\":{}}",
        "{\"jsonrpc\":\"2.0\",\"id\":null,\"result\":{\"tools\":[]}}",
        "{\"jsonrpc\":\"2.0\",\"id\":[3],\"result\":{\"tools\":[]}}",
        "{\"jsonrpc\":\"1.0\",\"id\":3,\"result\":{\"tools\":[]}}",
        "{\"id\":3,\"result\":{\"tools\":[]}}",
        "{\"jsonrpc\":\"2.0\",\"id\":3,\"id\":3,\"result\":{\"tools\":[]}}",
        "{\"jsonrpc\":\"2.0\",\"id\":3}",
    };
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    assert_int_equal(seen->action.exchange, 3);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        line(t, lines[i]);
        if (t->seen_next != t->seen_count) { fail_msg("%s", lines[i]); }
    }
    line(t, result(3, PAGE(TOOL("a"))));
    (void)expect_done(t, 1, CLEAT_OK);
    line(t, result(3, PAGE(TOOL("b")))); /* twice */
    expect_nothing(t);
    expect_names(t, 1, "a");
    END(t);
}

static void an_error_without_an_id_is_that_of_the_only_request(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    (void)until_list(t, 30 * S);
    line(t, "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,"
            "\"message\":\"Parse error\"}}");
    (void)expect_done(t, 1, CLEAT_PERMANENT);
    assert_int_equal(t->errors[1].port_code, -32700);
    END(t);
}

static void answers_come_in_any_order(void **state)
{
    struct seen *seen[5];
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 0, 30 * S);
    list(t, 1, 30 * S);
    call(t, 2, 30 * S);
    call(t, 3, 30 * S);
    list(t, 4, 30 * S);
    shake_hands(t);
    for (unsigned i = 0; i < 5; i++) { seen[i] = expect(t, MCP_SEND); }
    line(t, result(seen[3]->action.exchange, "{\"content\":[3]}"));
    (void)expect_done(t, 3, CLEAT_OK);
    line(t, result(seen[1]->action.exchange, PAGE(TOOL("one"))));
    (void)expect_done(t, 1, CLEAT_OK);
    expect_names(t, 1, "one");
    line(t, rpc_error(seen[4]->action.exchange, -32000, "later"));
    (void)expect_done(t, 4, CLEAT_TRANSIENT);
    line(t, result(seen[2]->action.exchange, "{\"content\":[2]}"));
    (void)expect_done(t, 2, CLEAT_OK);
    line(t, result(seen[0]->action.exchange, PAGE(TOOL("zero"))));
    (void)expect_done(t, 0, CLEAT_OK);
    expect_names(t, 0, "zero");
    assert_memory_equal(t->blocks[2], "{\"content\":[2]}", 15);
    assert_memory_equal(t->blocks[3], "{\"content\":[3]}", 15);
    END(t);
}

static void a_batch_is_taken_apart(void **state)
{
    struct seen *a;
    struct seen *b;
    char batch[1024];
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    list(t, 2, 30 * S);
    shake_hands(t);
    a = expect_send(t, TOOLS_LIST);
    b = expect_send(t, TOOLS_LIST);
    snprintf(batch, sizeof batch,
             "[{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"},"
             "{\"jsonrpc\":\"2.0\",\"id\":%u,\"result\":"
             "{\"tools\":[],\"nextCursor\":\"bb\"}},5,"
             "{\"jsonrpc\":\"2.0\",\"id\":%u,\"result\":"
             "{\"tools\":[],\"nextCursor\":\"aa\"}},"
             "{\"jsonrpc\":\"2.0\",\"id\":\"p\",\"method\":\"ping\"}]",
             (unsigned)b->action.exchange, (unsigned)a->action.exchange);
    line(t, batch);
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":\"p\",\"result\":{}}");
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":"
                         "\"tools/list\",\"params\":{\"cursor\":\"aa\"}}");
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":"
                         "\"tools/list\",\"params\":{\"cursor\":\"bb\"}}");
    line(t, "[]");
    expect_nothing(t);
    END(t);
}

/* ---- what a server says besides ----------------------------------------- */

static void
pings_are_answered_with_their_ids_and_all_else_is_refused(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    line(t, "{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"ping\"}");
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}");
    line(t, "{\"method\":\"ping\",\"id\":\"a\\\"b\",\"jsonrpc\":\"2.0\"}");
    (void)expect_send(t,
                      "{\"jsonrpc\":\"2.0\",\"id\":\"a\\\"b\",\"result\":{}}");
    line(t, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"roots/list\"}");
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":"
                         "-32601,\"message\":\"Method not found\"}}");
    line(t, "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"elicitation/create\","
            "\"params\":{}}");
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{\"code\":"
                         "-32601,\"message\":\"Method not found\"}}");
    expect_nothing(t); /* its id 1 was no answer to our request 1 */
    END(t);
}

static void a_modern_server_that_asks_gets_no_answer(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, MODERN_LIST);
    line(t, "{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"ping\"}");
    expect_nothing(t);
    END(t);
}

static void
a_storm_of_changes_before_the_first_answer_is_told_one_by_one(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    for (unsigned i = 0; i < 200; i++) {
        line(t, "{\"jsonrpc\":\"2.0\",\"method\":"
                "\"notifications/tools/list_changed\"}");
        (void)expect(t, MCP_CHANGED);
        expect_nothing(t);
    }
    line(t, result(seen->action.exchange, PAGE(TOOL("a"))));
    (void)expect_done(t, 1, CLEAT_OK);
    END(t);
}

static void changes_that_are_not_taken_are_one(void **state)
{
    struct mcp_told_it told = told_it(MCP_MESSAGE, 0);
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    (void)until_list(t, 30 * S);
    told.text = text_of("{\"jsonrpc\":\"2.0\",\"method\":"
                        "\"notifications/tools/list_changed\"}");
    for (unsigned i = 0; i < 5; i++) {
        mcp_engine_tell(t->engine, t->now_ns, &told);
    }
    pull(t);
    (void)expect(t, MCP_CHANGED);
    expect_nothing(t);
    END(t);
}

/* Between a request and its answer anything may come. */
static void notifications_anywhere_give_the_same_list(void **state)
{
    static const char *const notes[] = {
        "{\"method\":\"notifications/tools/list_changed\",\"jsonrpc\":"
        "\"2.0\"}",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":"
        "{\"level\":\"info\",\"data\":\"x\"}}",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\","
        "\"params\":{\"progress\":1,\"progressToken\":3}}",
        "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"ping\"}",
        "Server listening on stdio",
        "{\"jsonrpc\":\"2.0\",\"id\":77,\"result\":{}}",
    };
    enum { NOTES = sizeof notes / sizeof notes[0], PLACES = 4 };
    char *greeting = answer_from("everything_initialize.json", 1);
    unsigned ways = 1;
    uint32_t digest = 0;

    (void)state;
    for (unsigned i = 0; i < PLACES; i++) { ways *= NOTES + 1; }
    for (unsigned way = 0; way < ways; way++) {
        unsigned left = way;
        unsigned place = 0;
        struct seen *seen = NULL;
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

        list(t, 1, 30 * S);
        opened(t);
        for (place = 0; place < PLACES; place++) {
            unsigned note = left % (NOTES + 1);

            left /= NOTES + 1;
            if (note > 0) { line(t, notes[note - 1]); }
            if (place == 1) { line(t, greeting); }
            if (place == 2) {
                for (unsigned i = 0; i < t->seen_count; i++) {
                    if (strstr(t->seen[i].body, "tools/list") != NULL) {
                        seen = &t->seen[i];
                    }
                }
                assert_non_null(seen);
                line(t, result(seen->action.exchange,
                               "{\"tools\":[" TOOL(
                                   "a") "],\"nextCursor\":\"n\"}"));
            }
        }
        for (unsigned i = 0; i < t->seen_count; i++) {
            if (strstr(t->seen[i].body, "\"cursor\"") != NULL) {
                seen = &t->seen[i];
            }
        }
        t->seen_next = t->seen_count;
        line(t, result(seen->action.exchange, PAGE(TOOL("b"))));
        (void)expect_done(t, 1, CLEAT_OK);
        if (way == 0) { digest = cleat_tools_digest(tools_of(t, 1)); }
        assert_int_equal(cleat_tools_digest(tools_of(t, 1)), digest);
        expect_names(t, 1, "a b");
        END(t);
    }
    test_free(greeting);
}

/* ---- what cannot be read ------------------------------------------------ */

static void lines_that_are_no_messages_are_passed_over(void **state)
{
    static const char *const lines[] = {
        "",
        "Secure MCP Filesystem Server running on stdio",
        "{ starting: true }",
        "{\"level\":30,\"msg\":\"ready\"}",
        "\xFF\xFE",
        "\"text\"",
        "null",
        "{\"result\":{\"tools\":[]}",
    };
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    seen = until_list(t, 30 * S);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        line(t, lines[i]);
    }
    expect_nothing(t);
    line(t, result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    END(t);
}

static void a_thousand_such_lines_are_too_many(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    (void)until_list(t, 30 * S);
    for (unsigned i = 0; i < 999; i++) { line(t, "banner"); }
    expect_nothing(t);
    line(t, "banner");
    (void)expect_done(t, 1, CLEAT_PEER_DEVIANT);
    (void)expect(t, MCP_CLOSE);
    END(t);
}

#define WITH_NUL "{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{\"a\":\"\0\"}}"

static void a_message_that_is_broken_ends_the_only_request_at_once(void **state)
{
    static const struct {
        const char *text;
        size_t bytes;
        enum cleat_status status;
    } rows[] = {
        {"{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{\"tools\":[\"\xFF\"]}}", 0,
         CLEAT_MALFORMED},
        {WITH_NUL, sizeof WITH_NUL - 1, CLEAT_MALFORMED},
        {"{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{\"tools\":[", 0,
         CLEAT_MALFORMED},
        {"{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{\"tools\":[]}} x", 0,
         CLEAT_MALFORMED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t bytes = rows[i].bytes > 0 ? rows[i].bytes : strlen(rows[i].text);
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

        (void)until_list(t, 30 * S);
        line_bytes(t, rows[i].text, bytes);
        (void)expect(t, MCP_SEND); /* cancelled: it is not wanted any more */
        (void)expect_done(t, 1, rows[i].status);
        expect_text(t, 1, "cannot be read");
        END(t);
    }
}

static void a_message_10000_deep_or_too_long_is_over_a_limit(void **state)
{
    char *text = test_malloc(MESSAGE_BYTES + 64);
    size_t used;

    (void)state;
    for (unsigned kind = 0; kind < 2; kind++) {
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

        (void)until_list(t, 30 * S);
        used = (size_t)sprintf(text, "{\"jsonrpc\":\"2.0\",\"id\":3,"
                                     "\"result\":");
        if (kind == 0) {
            memset(text + used, '[', 10000);
            memset(text + used + 10000, ']', 10000);
            used += 20000;
        } else {
            memset(text + used, ' ', MESSAGE_BYTES);
            used = MESSAGE_BYTES;
            text[used++] = '1';
        }
        text[used++] = '}';
        line_bytes(t, text, used);
        (void)expect(t, MCP_SEND);
        (void)expect_done(t, 1, CLEAT_LIMIT);
        END(t);
    }
    test_free(text);
}

static void a_broken_message_ends_nothing_where_it_may_be_anybodys(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    list(t, 2, 40 * S);
    shake_hands(t);
    (void)expect_send(t, TOOLS_LIST);
    (void)expect_send(t, TOOLS_LIST);
    line(t, "{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":");
    expect_nothing(t);
    tick(t, T0 + REQUEST_NS);
    (void)expect(t, MCP_SEND);
    (void)expect(t, MCP_SEND);
    (void)expect_done(t, 1, CLEAT_PEER_SILENT);
    expect_text(t, 1, "1 lines that are no messages");
    (void)expect_done(t, 2, CLEAT_PEER_SILENT);
    END(t);
}

/* ---- the end of the process --------------------------------------------- */

static void the_end_of_the_server_ends_all_that_is_under_way(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    call(t, 2, 30 * S);
    shake_hands(t);
    (void)expect(t, MCP_SEND);
    (void)expect(t, MCP_SEND);
    closed(t, CLEAT_TRANSIENT, "killed by signal 9: line\x01of\nstderr");
    (void)expect_done(t, 1, CLEAT_TRANSIENT);
    expect_text(t, 1, "killed by signal 9: line?of?stderr");
    (void)expect_done(t, 2, CLEAT_AMBIGUOUS); /* it may have been done */
    expect_nothing(t);
    assert_true(mcp_engine_idle(t->engine));
    line(t, "{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{\"tools\":[]}}");
    line(t, "{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"ping\"}");
    expect_nothing(t);
    END(t);
}

static void a_server_that_cannot_be_started_says_why(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 30 * S);
    call(t, 2, 30 * S);
    expect_open(t);
    closed(t, CLEAT_PERMANENT, "npx: no such command");
    (void)expect_done(t, 1, CLEAT_PERMANENT);
    expect_text(t, 1, "srv: npx: no such command");
    (void)expect_done(t, 2, CLEAT_PERMANENT);
    expect_nothing(t); /* and is not started again by itself */
    END(t);
}

static void a_call_that_was_not_sent_is_only_transient(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    call(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    closed(t, CLEAT_TRANSIENT, "exited with 1");
    (void)expect_done(t, 1, CLEAT_TRANSIENT);
    END(t);
}

/* ---- calls -------------------------------------------------------------- */

static void a_result_is_given_as_it_came(void **state)
{
    static const char said[] = "{ \"content\" : [ {\"type\":\"text\",\"text\":"
                               "\"\\u00e9\"} ],\"isError\": true }";
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    call_with(t, 1, "a \"b\"\n", "{\"x\":\n[1,\r\n2]}", "", 30 * S);
    shake_hands(t);
    seen = expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":"
                          "\"tools/call\",\"params\":{\"name\":\"a \\\"b\\\""
                          "\\u000a\",\"arguments\":{\"x\": [1,  2]}}}");
    line(t, result(seen->action.exchange, said));
    seen = expect_done(t, 1, CLEAT_OK);
    assert_true(seen->action.is_error);
    assert_int_equal(seen->action.bytes, sizeof said - 1);
    assert_memory_equal(t->blocks[1], said, sizeof said - 1);
    END(t);
}

static void a_result_that_does_not_fit_says_how_large_it_is(void **state)
{
    struct seen *seen;
    struct mcp_call made;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    memset(&made, 0, sizeof made);
    made.deadline_ns = t->now_ns + S;
    made.tool = text_of("a");
    made.arguments = text_of("");
    made.schema = text_of("");
    made.block = t->blocks[1];
    made.bytes = 14;
    made.error = &t->errors[1];
    assert_int_equal(mcp_engine_call(t->engine, t->now_ns, 1, &made), CLEAT_OK);
    pull(t);
    shake_hands(t);
    seen = expect_send(t, "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":"
                          "\"tools/call\",\"params\":{\"name\":\"a\","
                          "\"arguments\":{}}}");
    line(t, result(seen->action.exchange, "{\"content\":[]} "));
    (void)expect_done(t, 1, CLEAT_OK);
    assert_int_equal(mcp_engine_call(t->engine, t->now_ns, 2, &made), CLEAT_OK);
    pull(t);
    seen = expect(t, MCP_SEND);
    line(t, result(seen->action.exchange, "{\"content\":[1]}"));
    assert_int_equal(expect(t, MCP_DONE)->action.status, CLEAT_TOO_SMALL);
    assert_int_equal(t->errors[1].offset, 15);
    END(t);
}

static void a_call_whose_answer_is_no_object_has_met_no_mcp_server(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    call(t, 1, 30 * S);
    shake_hands(t);
    seen = expect(t, MCP_SEND);
    line(t, result(seen->action.exchange, "[1]"));
    (void)expect_done(t, 1, CLEAT_PEER_DEVIANT);
    END(t);
}

static void errors_are_typed_by_who_asked_and_what_they_say(void **state)
{
    static const struct {
        int code;
        enum cleat_status list;
        enum cleat_status call;
    } rows[] = {
        {-32700, CLEAT_PERMANENT, CLEAT_PERMANENT},
        {-32600, CLEAT_PERMANENT, CLEAT_PERMANENT},
        {-32601, CLEAT_PERMANENT, CLEAT_PERMANENT},
        {-32602, CLEAT_PERMANENT, CLEAT_PERMANENT},
        {-32603, CLEAT_TRANSIENT, CLEAT_AMBIGUOUS},
        {-32000, CLEAT_TRANSIENT, CLEAT_AMBIGUOUS},
        {-32021, CLEAT_UNSUPPORTED, CLEAT_UNSUPPORTED},
        {42, CLEAT_TRANSIENT, CLEAT_AMBIGUOUS},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct seen *listed;
        struct seen *called;
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

        list(t, 1, 30 * S);
        call(t, 2, 30 * S);
        shake_hands(t);
        listed = expect(t, MCP_SEND);
        called = expect(t, MCP_SEND);
        line(t, rpc_error(listed->action.exchange, rows[i].code,
                          "a\\nb\\u0007c \\\"q\\\""));
        (void)expect_done(t, 1, rows[i].list);
        assert_int_equal(t->errors[1].port_code, rows[i].code);
        expect_text(t, 1, ": a?b?c \"q\"");
        line(t, rpc_error(called->action.exchange, rows[i].code, "x"));
        (void)expect_done(t, 2, rows[i].call);
        END(t);
    }
}

static size_t hide(void *context, char *text, size_t bytes)
{
    const char *secret = context;
    size_t size = strlen(secret);

    for (size_t i = 0; i + size <= bytes; i++) {
        if (memcmp(text + i, secret, size) == 0) {
            memset(text + i, '*', size);
        }
    }
    return bytes;
}

static void a_secret_that_a_server_says_is_hidden_before_it_is_cut(void **state)
{
    struct seen *seen;
    char said[400];
    struct bench *t = test_malloc(sizeof *t);

    (void)state;
    configure(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);
    t->config.redact = hide;
    t->config.redact_context = (void *)(uintptr_t) "hunter2";
    start(t);
    seen = until_list(t, 30 * S);
    /* So that the line is cut in the middle of it, wherever that is. */
    memset(said, 'x', sizeof said);
    for (size_t i = 0; i + 8 < sizeof said; i += 8) {
        memcpy(said + i, "hunter2-", 8);
    }
    said[392] = '\0';
    line(t, rpc_error(seen->action.exchange, -32000, said));
    (void)expect_done(t, 1, CLEAT_TRANSIENT);
    expect_text(t, 1, "*******-*******");
    assert_null(strstr(t->errors[1].text, "hu"));
    list(t, 2, 30 * S);
    (void)expect(t, MCP_SEND);
    closed(t, CLEAT_TRANSIENT, "exited with 1: bad token hunter2");
    (void)expect_done(t, 2, CLEAT_TRANSIENT);
    expect_text(t, 2, "bad token *******");
    END(t);
}

/* ---- elicitation -------------------------------------------------------- */

static enum cleat_status answer(void *context,
                                const struct cleat_mcp_question *question,
                                char *text, size_t bytes_max, size_t *bytes)
{
    const char *say = context;

    assert_memory_equal(question->server.text, "srv", 3);
    assert_int_equal(question->method.bytes, strlen("elicitation/create"));
    assert_memory_equal(question->method.text, "elicitation/create", 18);
    assert_int_equal(question->params.text[0], '{');
    if (say == NULL || strlen(say) > bytes_max) { return CLEAT_LIMIT; }
    memcpy(text, say, strlen(say));
    *bytes = strlen(say);
    return CLEAT_OK;
}

static void a_question_is_answered_by_the_host(void **state)
{
    static const struct {
        const char *say;
        const char *sent;
    } rows[] = {
        {"{\"action\":\"accept\",\"content\":{\"a\":1}}",
         "{\"action\":\"accept\",\"content\":{\"a\":1}}"},
        {" {\"action\":\n\"accept\"} ", "{\"action\": \"accept\"}"},
        {NULL, "{\"action\":\"decline\"}"},
        {"no json", "{\"action\":\"decline\"}"},
        {"[]", "{\"action\":\"decline\"}"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct seen *seen;
        char wanted[256];
        struct bench *t = test_malloc(sizeof *t);

        configure(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);
        t->config.answer = answer;
        t->config.answer_context = (void *)(uintptr_t)rows[i].say;
        start(t);
        call(t, 1, 30 * S);
        expect_open(t);
        opened(t);
        seen = expect(t, MCP_SEND);
        assert_non_null(
            strstr(seen->body, "\"capabilities\":{\"elicitation\":{}}"));
        line(t, result(seen->action.exchange, GREETING));
        (void)expect_send(t, INITIALIZED);
        (void)expect(t, MCP_SEND);
        line(t, "{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":"
                "\"elicitation/create\",\"params\":{\"message\":\"?\"}}");
        snprintf(wanted, sizeof wanted,
                 "{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"result\":%s}",
                 rows[i].sent);
        (void)expect_send(t, wanted);
        expect_nothing(t);
        END(t);
    }
}

#define MODERN_CALL(more)                                                     \
    "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":\"tools/call\",\"params\":{"    \
    "\"name\":\"echo\",\"arguments\":{\"message\":\"hi\"}" more ",\"_meta\":" \
    "{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\","            \
    "\"io.modelcontextprotocol/clientInfo\":{\"name\":\"probe\","             \
    "\"version\":\"0\"},\"io.modelcontextprotocol/clientCapabilities\":"      \
    "{\"elicitation\":{}}}}}"

static struct bench *begin_modern_call(const char *say)
{
    struct bench *t = test_malloc(sizeof *t);

    configure(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);
    t->config.answer = answer;
    t->config.answer_context = (void *)(uintptr_t)say;
    start(t);
    call(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    return t;
}

static void
a_call_goes_another_round_with_the_answers_and_the_state(void **state)
{
    struct bench *t = begin_modern_call("{\"action\":\"accept\"}");
    struct seen *seen;
    uint64_t first;

    (void)state;
    seen = expect_send(t, MODERN_CALL(""));
    first = seen->action.exchange;
    line(t,
         result(first, "{\"resultType\":\"input_required\",\"inputRequests\":{"
                       "\"k\\u0031\":{\"method\":\"elicitation/create\","
                       "\"params\":{\"message\":\"m\"}},\"k2\":{\"method\":"
                       "\"elicitation/create\",\"params\":{}}},"
                       "\"requestState\":\"{\\\"n\\\":\\u00e9 1}\"}"));
    seen = expect_send(
        t, MODERN_CALL(",\"inputResponses\":{\"k\\u0031\":{\"action\":"
                       "\"accept\"},\"k2\":{\"action\":\"accept\"}},"
                       "\"requestState\":\"{\\\"n\\\":\\u00e9 1}\""));
    assert_int_not_equal(seen->action.exchange, first);
    line(t, result(seen->action.exchange,
                   "{\"resultType\":\"input_required\",\"requestState\":"
                   "\"s2\"}"));
    seen = expect_send(t, MODERN_CALL(",\"requestState\":\"s2\""));
    line(t, result(seen->action.exchange,
                   "{\"resultType\":\"input_required\",\"inputRequests\":{}}"));
    seen = expect_send(t, MODERN_CALL(",\"inputResponses\":{}"));
    line(t, result(seen->action.exchange,
                   "{\"resultType\":\"complete\",\"content\":[]}"));
    (void)expect_done(t, 1, CLEAT_OK);
    END(t);
}

static void a_round_that_cannot_be_gone_fails_the_call(void **state)
{
    static const struct {
        const char *result;
        bool no_answer;
    } rows[] = {
        {"{\"resultType\":\"input_required\"}", false},
        {"{\"resultType\":\"input_required\",\"inputRequests\":{\"a\":{"
         "\"method\":\"sampling/createMessage\",\"params\":{}}}}",
         false},
        {"{\"resultType\":\"input_required\",\"inputRequests\":{\"a\":1}}",
         false},
        {"{\"resultType\":\"input_required\",\"inputRequests\":{\"a\":{"
         "\"method\":\"elicitation/create\",\"params\":{}}}}",
         true},
        {"{\"resultType\":\"tomorrow\",\"content\":[]}", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct bench *t = test_malloc(sizeof *t);
        struct seen *seen;

        configure(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);
        t->config.answer = rows[i].no_answer ? NULL : answer;
        start(t);
        call(t, 1, 30 * S);
        expect_open(t);
        opened(t);
        seen = expect(t, MCP_SEND);
        line(t, result(seen->action.exchange, rows[i].result));
        (void)expect_done(t, 1, CLEAT_PEER_DEVIANT);
        expect_nothing(t);
        END(t);
    }
}

static void rounds_without_end_end_at_sixteen(void **state)
{
    struct bench *t = begin_modern_call(NULL);
    struct seen *seen;

    (void)state;
    for (unsigned i = 0; i < 16; i++) {
        seen = expect(t, MCP_SEND);
        line(t, result(seen->action.exchange,
                       "{\"resultType\":\"input_required\",\"requestState\":"
                       "\"\"}"));
    }
    seen = expect(t, MCP_SEND);
    line(t, result(seen->action.exchange,
                   "{\"resultType\":\"input_required\",\"requestState\":"
                   "\"\"}"));
    (void)expect_done(t, 1, CLEAT_LIMIT);
    END(t);
}

static void an_older_server_may_call_its_results_what_it_likes(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    call(t, 1, 30 * S);
    shake_hands(t);
    seen = expect(t, MCP_SEND);
    line(t, result(seen->action.exchange,
                   "{\"resultType\":\"input_required\",\"content\":[]}"));
    (void)expect_done(t, 1, CLEAT_OK);
    END(t);
}

/* ---- the host ----------------------------------------------------------- */

static void an_abandoned_operation_is_cancelled_and_ends_at_once(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    call(t, 1, 30 * S);
    list(t, 2, 30 * S);
    mcp_engine_abandon(t->engine, t->now_ns, 2); /* not begun */
    pull(t);
    (void)expect(t, MCP_OPEN);
    (void)expect_done(t, 2, CLEAT_CANCELLED);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    line(t, result(seen->action.exchange, GREETING));
    (void)expect_send(t, INITIALIZED);
    seen = expect(t, MCP_SEND);
    mcp_engine_abandon(t->engine, t->now_ns, 1);
    mcp_engine_abandon(t->engine, t->now_ns, 1);
    mcp_engine_abandon(t->engine, t->now_ns, 7);
    pull(t);
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"method\":"
                         "\"notifications/cancelled\",\"params\":"
                         "{\"requestId\":3}}");
    assert_int_equal(seen->action.exchange, 3);
    (void)expect_done(t, 1, CLEAT_CANCELLED);
    line(t, result(3, "{\"content\":[]}"));
    expect_nothing(t);
    END(t);
}

static void the_end_ends_every_operation_and_the_process(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    (void)until_list(t, 30 * S);
    call(t, 2, 30 * S);
    (void)expect(t, MCP_SEND);
    mcp_engine_end(t->engine, t->now_ns);
    pull(t);
    (void)expect(t, MCP_SEND);
    (void)expect(t, MCP_SEND);
    (void)expect_done(t, 1, CLEAT_CANCELLED);
    (void)expect_done(t, 2, CLEAT_CANCELLED);
    (void)expect(t, MCP_CLOSE);
    expect_nothing(t);
    mcp_engine_end(t->engine, t->now_ns);
    pull(t);
    expect_nothing(t);
    assert_false(mcp_engine_idle(t->engine));
    closed(t, CLEAT_OK, "");
    assert_true(mcp_engine_idle(t->engine));
    list(t, 3, 30 * S); /* fresh again */
    expect_open(t);
    END(t);
}

static void after_the_end_nothing_is_followed_any_more(void **state)
{
    struct seen *seen;
    struct bench *t = test_malloc(sizeof *t);

    (void)state;
    configure(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);
    t->config.follow = true;
    start(t);
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect(t, MCP_SEND); /* subscriptions/listen */
    seen = expect_send(t, MODERN_LIST);
    line(t, result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    mcp_engine_end(t->engine, t->now_ns);
    pull(t);
    (void)expect(t, MCP_CLOSE);
    closed(t, CLEAT_OK, "");
    expect_nothing(t);
    list(t, 2, 30 * S);
    expect_open(t);
    opened(t);
    (void)expect_send(t, MODERN_LIST);
    expect_nothing(t);
    END(t);
}

static void an_engine_that_never_opened_has_nothing_to_close(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    mcp_engine_end(t->engine, t->now_ns);
    pull(t);
    expect_nothing(t);
    END(t);
}

static void operations_beyond_the_last_slot_are_refused(void **state)
{
    struct mcp_list made;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    for (unsigned i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        list(t, i, 30 * S);
    }
    made = list_of(t, 70, 30 * S);
    assert_int_equal(mcp_engine_list(t->engine, t->now_ns, 70, &made),
                     CLEAT_NO_SLOT);
    mcp_engine_abandon(t->engine, t->now_ns, 5);
    pull(t);
    assert_int_equal(mcp_engine_list(t->engine, t->now_ns, 70, &made),
                     CLEAT_OK);
    END(t);
}

static void a_call_larger_than_its_room_is_over_a_limit(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    call(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    t->out_bytes = 80;
    line(t, result(seen->action.exchange, GREETING));
    (void)expect_send(t, INITIALIZED);
    (void)expect_done(t, 1, CLEAT_LIMIT);
    END(t);
}

/* ---- following changes -------------------------------------------------- */

#define LISTEN                                                           \
    "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":\"subscriptions/listen\"," \
    "\"params\":{" META ",\"notifications\":{\"toolsListChanged\":true}}}"

static const char *acknowledged(uint64_t id, const char *filter)
{
    static char text[512];

    snprintf(text, sizeof text,
             "{\"jsonrpc\":\"2.0\",\"method\":"
             "\"notifications/subscriptions/acknowledged\",\"params\":{"
             "\"notifications\":%s,\"_meta\":{"
             "\"io.modelcontextprotocol/subscriptionId\":%u}}}",
             filter, (unsigned)id);
    return text;
}

static const char *changed(const char *id)
{
    static char text[512];

    snprintf(text, sizeof text,
             "{\"jsonrpc\":\"2.0\",\"method\":"
             "\"notifications/tools/list_changed\",\"params\":{\"_meta\":{"
             "\"io.modelcontextprotocol/subscriptionId\":%s}}}",
             id);
    return text;
}

static void following_opens_a_session_and_a_subscription(void **state)
{
    struct seen *seen;
    char own[32];
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

    (void)state;
    mcp_engine_follow(t->engine, t->now_ns, true);
    pull(t);
    expect_open(t);
    opened(t);
    seen = expect_send(t, LISTEN);
    assert_true(seen->action.stream);
    line(t, acknowledged(seen->action.exchange, "{\"toolsListChanged\":true}"));
    expect_nothing(t); /* nothing was listed before */
    snprintf(own, sizeof own, "%u", (unsigned)seen->action.exchange);
    line(t, changed(own));
    (void)expect(t, MCP_CHANGED);
    snprintf(own, sizeof own, "\"%u\"", (unsigned)seen->action.exchange);
    line(t, changed(own)); /* a string is another id */
    line(t, changed("99"));
    expect_nothing(t);
    mcp_engine_follow(t->engine, t->now_ns, false);
    pull(t);
    (void)expect_send(t, "{\"jsonrpc\":\"2.0\",\"method\":"
                         "\"notifications/cancelled\",\"params\":"
                         "{\"requestId\":1}}");
    expect_nothing(t);
    END(t);
}

static void a_subscription_that_is_not_honoured_is_let_go(void **state)
{
    static const char *const filters[] = {"{}", "{\"toolsListChanged\":false}",
                                          "null"};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct seen *seen;
        WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

        mcp_engine_follow(t->engine, t->now_ns, true);
        pull(t);
        expect_open(t);
        opened(t);
        seen = expect_send(t, LISTEN);
        line(t, acknowledged(seen->action.exchange, filters[i]));
        (void)expect(t, MCP_SEND); /* cancelled */
        expect_nothing(t);
        assert_int_equal(mcp_engine_deadline(t->engine), CLEAT_NEVER);
        END(t);
    }
}

static void
a_server_that_knows_no_subscriptions_is_not_asked_again(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

    (void)state;
    mcp_engine_follow(t->engine, t->now_ns, true);
    pull(t);
    expect_open(t);
    opened(t);
    seen = expect_send(t, LISTEN);
    line(t, rpc_error(seen->action.exchange, -32601, "Method not found"));
    expect_nothing(t);
    assert_int_equal(mcp_engine_deadline(t->engine), CLEAT_NEVER);
    END(t);
}

static void a_lost_subscription_is_renewed_after_a_growing_while(void **state)
{
    struct seen *seen;
    uint64_t base_ns = 1 * S;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

    (void)state;
    mcp_engine_follow(t->engine, t->now_ns, true);
    pull(t);
    expect_open(t);
    opened(t);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t again_ns;
        char lost[256];

        seen = expect_send(t, LISTEN);
        if (i % 2 == 0) {
            snprintf(lost, sizeof lost,
                     "{\"jsonrpc\":\"2.0\",\"method\":"
                     "\"notifications/cancelled\",\"params\":{\"requestId\":"
                     "%u}}",
                     (unsigned)seen->action.exchange);
            line(t, lost);
        } else {
            line(t, result(seen->action.exchange, "{}"));
        }
        expect_nothing(t);
        again_ns = mcp_engine_deadline(t->engine);
        /* Equal jitter: half of it is certain. */
        assert_true(again_ns >= t->now_ns + base_ns / 2);
        assert_true(again_ns <= t->now_ns + base_ns);
        base_ns = base_ns < 30 * S ? 2 * base_ns : 60 * S;
        tick(t, again_ns);
    }
    seen = expect_send(t, LISTEN);
    line(t, acknowledged(seen->action.exchange, "{\"toolsListChanged\":true}"));
    (void)expect(t, MCP_CHANGED); /* what came meanwhile was not heard */
    expect_nothing(t);
    END(t);
}

static void a_subscription_that_is_not_acknowledged_is_lost(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

    (void)state;
    mcp_engine_follow(t->engine, t->now_ns, true);
    pull(t);
    expect_open(t);
    opened(t);
    (void)expect_send(t, LISTEN);
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + REQUEST_NS);
    tick(t, T0 + REQUEST_NS);
    (void)expect(t, MCP_SEND); /* cancelled */
    expect_nothing(t);
    assert_true(mcp_engine_deadline(t->engine) < T0 + REQUEST_NS + 2 * S);
    END(t);
}

static void changes_before_a_subscription_are_told_after_it(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_MODERN);

    (void)state;
    list(t, 1, 30 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, MODERN_LIST);
    line(t, result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    mcp_engine_follow(t->engine, t->now_ns, true);
    pull(t);
    seen = expect_send(t, LISTEN);
    line(t, acknowledged(seen->action.exchange, "{\"toolsListChanged\":true}"));
    (void)expect(t, MCP_CHANGED);
    expect_nothing(t);
    END(t);
}

static void a_session_lost_is_opened_when_the_host_asks_again(void **state)
{
    struct seen *seen;
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    mcp_engine_follow(t->engine, t->now_ns, true);
    pull(t);
    shake_hands(t);
    expect_nothing(t); /* over stdio changes come by themselves */
    closed(t, CLEAT_TRANSIENT, "exited with 0");
    expect_nothing(t);
    mcp_engine_follow(t->engine, t->now_ns, true);
    pull(t);
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    line(t, result(seen->action.exchange, GREETING));
    (void)expect(t, MCP_CHANGED);
    (void)expect_send(t, INITIALIZED);
    expect_nothing(t);
    END(t);
}

static void
time_that_saturates_ends_everything_and_overflows_nothing(void **state)
{
    struct seen *seen;
    struct bench *t = test_malloc(sizeof *t);

    (void)state;
    configure(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);
    t->now_ns = CLEAT_NEVER - 5 * S;
    start(t);
    list(t, 1, 30 * S); /* for ever */
    call(t, 2, 1 * S);
    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    tick(t, CLEAT_NEVER - 4 * S);
    (void)expect_done(t, 2, CLEAT_PEER_SILENT);
    line(t, result(seen->action.exchange, GREETING));
    (void)expect_send(t, INITIALIZED);
    seen = expect_send(t, TOOLS_LIST);
    line(t, result(seen->action.exchange, PAGE("")));
    (void)expect_done(t, 1, CLEAT_OK);
    END(t);
}

static void time_that_goes_back_stands_still(void **state)
{
    WITH(t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);

    (void)state;
    list(t, 1, 90 * S);
    expect_open(t);
    tick(t, T0 + 4 * S);
    tick(t, T0);
    opened(t);
    (void)expect_send(t, INITIALIZE);
    assert_int_equal(mcp_engine_deadline(t->engine), T0 + 4 * S + REQUEST_NS);
    END(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_of_a_real_server_is_what_it_sent),
        cmocka_unit_test(each_older_revision_is_accepted_and_no_other),
        cmocka_unit_test(
            a_server_without_tools_has_an_empty_list_and_is_not_asked),
        cmocka_unit_test(
            a_modern_server_is_found_by_its_refusal_and_remembered),
        cmocka_unit_test(a_server_that_does_not_know_initialize_is_modern),
        cmocka_unit_test(an_era_of_the_config_is_kept_to),
        cmocka_unit_test(a_refusal_that_names_no_revision_of_ours_ends_it),
        cmocka_unit_test(
            a_server_that_ends_after_refusing_initialize_is_started_once_more),
        cmocka_unit_test(an_era_remembered_in_vain_is_found_out_anew),
        cmocka_unit_test(
            an_era_in_which_a_whole_session_was_in_vain_is_forgotten),
        cmocka_unit_test(a_call_is_not_repeated_to_find_out_an_era),
        cmocka_unit_test(
            a_server_that_is_silent_from_the_start_costs_request_ns),
        cmocka_unit_test(a_process_that_never_starts_costs_request_ns),
        cmocka_unit_test(
            an_operation_ends_at_its_own_deadline_if_that_is_sooner),
        cmocka_unit_test(an_operation_whose_deadline_has_passed_is_not_begun),
        cmocka_unit_test(a_server_silent_after_initialize_is_started_afresh),
        cmocka_unit_test(it_hangs_once_it_was_silent_for_half_of_request_ns),
        cmocka_unit_test(a_late_answer_is_nobodys),
        cmocka_unit_test(
            an_answer_at_the_deadline_is_late_and_just_before_it_is_not),
        cmocka_unit_test(each_page_has_request_ns_and_all_of_them_the_deadline),
        cmocka_unit_test(a_call_has_its_own_deadline_alone),
        cmocka_unit_test(
            pages_are_joined_in_order_and_their_cursors_sent_as_they_came),
        cmocka_unit_test(endless_pages_end_at_pages_max),
        cmocka_unit_test(cursors_that_come_again_end_the_walk),
        cmocka_unit_test(
            a_server_that_gives_the_empty_cursor_for_ever_is_found_out),
        cmocka_unit_test(a_cursor_that_is_refused_starts_the_walk_again_once),
        cmocka_unit_test(a_walk_that_started_again_has_every_tool_once),
        cmocka_unit_test(a_first_page_that_is_refused_is_not_asked_again),
        cmocka_unit_test(a_name_given_twice_is_kept_once_and_counted),
        cmocka_unit_test(
            escapes_are_undone_in_texts_and_kept_in_the_definition),
        cmocka_unit_test(a_page_that_is_not_what_the_protocol_says_is_refused),
        cmocka_unit_test(names_get_the_prefix_and_keep_their_wire_name),
        cmocka_unit_test(
            a_selected_tool_that_is_not_there_is_an_error_that_says_what_is),
        cmocka_unit_test(a_list_of_what_there_is_that_is_too_long_is_cut),
        cmocka_unit_test(a_block_that_is_too_small_tells_how_large_is_enough),
        cmocka_unit_test(more_tools_than_tools_max_are_refused),
        cmocka_unit_test(modern_pages_say_how_long_they_are_fresh),
        cmocka_unit_test(the_least_of_all_pages_counts),
        cmocka_unit_test(an_older_server_cannot_say_how_long_a_list_is_fresh),
        cmocka_unit_test(a_list_is_complete_or_refused),
        cmocka_unit_test(only_the_exact_id_is_an_answer),
        cmocka_unit_test(an_error_without_an_id_is_that_of_the_only_request),
        cmocka_unit_test(answers_come_in_any_order),
        cmocka_unit_test(a_batch_is_taken_apart),
        cmocka_unit_test(
            pings_are_answered_with_their_ids_and_all_else_is_refused),
        cmocka_unit_test(a_modern_server_that_asks_gets_no_answer),
        cmocka_unit_test(
            a_storm_of_changes_before_the_first_answer_is_told_one_by_one),
        cmocka_unit_test(changes_that_are_not_taken_are_one),
        cmocka_unit_test(notifications_anywhere_give_the_same_list),
        cmocka_unit_test(lines_that_are_no_messages_are_passed_over),
        cmocka_unit_test(a_thousand_such_lines_are_too_many),
        cmocka_unit_test(
            a_message_that_is_broken_ends_the_only_request_at_once),
        cmocka_unit_test(a_message_10000_deep_or_too_long_is_over_a_limit),
        cmocka_unit_test(
            a_broken_message_ends_nothing_where_it_may_be_anybodys),
        cmocka_unit_test(the_end_of_the_server_ends_all_that_is_under_way),
        cmocka_unit_test(a_server_that_cannot_be_started_says_why),
        cmocka_unit_test(a_call_that_was_not_sent_is_only_transient),
        cmocka_unit_test(a_result_is_given_as_it_came),
        cmocka_unit_test(a_result_that_does_not_fit_says_how_large_it_is),
        cmocka_unit_test(
            a_call_whose_answer_is_no_object_has_met_no_mcp_server),
        cmocka_unit_test(errors_are_typed_by_who_asked_and_what_they_say),
        cmocka_unit_test(
            a_secret_that_a_server_says_is_hidden_before_it_is_cut),
        cmocka_unit_test(a_question_is_answered_by_the_host),
        cmocka_unit_test(
            a_call_goes_another_round_with_the_answers_and_the_state),
        cmocka_unit_test(a_round_that_cannot_be_gone_fails_the_call),
        cmocka_unit_test(rounds_without_end_end_at_sixteen),
        cmocka_unit_test(an_older_server_may_call_its_results_what_it_likes),
        cmocka_unit_test(an_abandoned_operation_is_cancelled_and_ends_at_once),
        cmocka_unit_test(the_end_ends_every_operation_and_the_process),
        cmocka_unit_test(after_the_end_nothing_is_followed_any_more),
        cmocka_unit_test(an_engine_that_never_opened_has_nothing_to_close),
        cmocka_unit_test(operations_beyond_the_last_slot_are_refused),
        cmocka_unit_test(a_call_larger_than_its_room_is_over_a_limit),
        cmocka_unit_test(following_opens_a_session_and_a_subscription),
        cmocka_unit_test(a_subscription_that_is_not_honoured_is_let_go),
        cmocka_unit_test(
            a_server_that_knows_no_subscriptions_is_not_asked_again),
        cmocka_unit_test(a_lost_subscription_is_renewed_after_a_growing_while),
        cmocka_unit_test(a_subscription_that_is_not_acknowledged_is_lost),
        cmocka_unit_test(changes_before_a_subscription_are_told_after_it),
        cmocka_unit_test(a_session_lost_is_opened_when_the_host_asks_again),
        cmocka_unit_test(
            time_that_saturates_ends_everything_and_overflows_nothing),
        cmocka_unit_test(time_that_goes_back_stands_still),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
