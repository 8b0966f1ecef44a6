/* Cleat: a test at the other end of an MCP engine. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The test says what the wire tells and looks at what the engine wants done, in
 * virtual time. Every action is taken at once and written down; a test then
 * expects them one by one:
 *
 *     begin(&t, MCP_WIRE_STDIO, CLEAT_MCP_ERA_AUTO);
 *     list(&t, 1, 30 * S);
 *     expect_open(&t);
 *     opened(&t);
 *     id = expect_send(&t, "{\"jsonrpc\":\"2.0\",\"id\":1,…}");
 *     line(&t, "{\"jsonrpc\":\"2.0\",…}");
 *     expect_done(&t, 1, CLEAT_OK);
 */
#ifndef CLEAT_TEST_MCP_ENGINE_PEER_H
#define CLEAT_TEST_MCP_ENGINE_PEER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "port/mcp/engine.h"

#define MS CLEAT_NS_PER_MS
#define S CLEAT_NS_PER_S
#define T0 (1000 * S)
#define REQUEST_NS (20 * S)
#define MESSAGE_BYTES 65536u
#define SEEN_MAX 512u
#define OPERATIONS 80u

struct seen {
    struct mcp_action action;
    char *headers;
    char *body;
    char *endpoint;
};

struct bench {
    struct mcp_engine_config config;
    struct mcp_engine *engine;
    uint64_t now_ns;
    char *out;
    size_t out_bytes;
    struct seen seen[SEEN_MAX];
    size_t seen_count;
    size_t seen_next;
    uint64_t blocks[OPERATIONS][4096]; /* of operations, by their number */
    struct cleat_error errors[OPERATIONS];
    struct seen *done; /* the last DONE that was expected */
    unsigned dones[OPERATIONS];
};

static inline struct cleat_text text_of(const char *text)
{
    struct cleat_text made = {text, strlen(text)};

    return made;
}

static inline char *copy_of(struct cleat_text text)
{
    char *copy = test_malloc(text.bytes + 1);

    memcpy(copy, text.text, text.bytes);
    copy[text.bytes] = '\0';
    return copy;
}

/* Takes every action there is. */
static inline void pull(struct bench *t)
{
    struct mcp_action action;

    while (mcp_engine_next(t->engine, t->out, t->out_bytes, &action)) {
        struct seen *seen = &t->seen[t->seen_count++];

        assert_true(t->seen_count < SEEN_MAX);
        seen->action = action;
        seen->headers = copy_of(action.headers);
        seen->body = copy_of(action.body);
        seen->endpoint = copy_of(action.endpoint);
        if (action.what == MCP_DONE) { t->dones[action.operation]++; }
    }
}

static inline void configure(struct bench *t, enum mcp_wire wire, uint32_t era)
{
    memset(t, 0, sizeof *t);
    t->config.wire = wire;
    t->config.era = era;
    t->config.request_ns = REQUEST_NS;
    t->config.grace_ns = 1 * S;
    t->config.pages_max = 64;
    t->config.tools_max = 1024;
    t->config.message_bytes_max = MESSAGE_BYTES;
    t->config.server = text_of("srv");
    t->config.client_name = "probe";
    t->config.client_version = "0";
    t->now_ns = T0;
}

static inline void start(struct bench *t)
{
    size_t bytes = mcp_engine_bytes(&t->config);

    t->out_bytes = mcp_engine_out_bytes(&t->config, 8192);
    t->out = test_malloc(t->out_bytes);
    t->engine = mcp_engine_init(test_malloc(bytes), &t->config, t->now_ns);
    pull(t);
    assert_int_equal(t->seen_count, 0); /* nothing is said unasked */
}

static inline void begin(struct bench *t, enum mcp_wire wire, uint32_t era)
{
    configure(t, wire, era);
    start(t);
}

static inline void finish(struct bench *t)
{
    for (size_t i = 0; i < t->seen_count; i++) {
        test_free(t->seen[i].headers);
        test_free(t->seen[i].body);
        test_free(t->seen[i].endpoint);
    }
    for (size_t i = 0; i < OPERATIONS; i++) {
        assert_true(t->dones[i] <= 1); /* every operation ends once */
    }
    test_free(t->engine);
    test_free(t->out);
}

/* ---- what the host does ------------------------------------------------- */

static inline struct mcp_list list_of(struct bench *t, unsigned operation,
                                      uint64_t within_ns)
{
    struct mcp_list list;

    memset(&list, 0, sizeof list);
    list.deadline_ns = cleat_time_add(t->now_ns, within_ns);
    list.block = t->blocks[operation];
    list.bytes = sizeof t->blocks[operation];
    list.prefix = text_of("");
    list.class_name = text_of("");
    list.selected = text_of("");
    list.error = &t->errors[operation];
    return list;
}

static inline void list_as(struct bench *t, unsigned operation,
                           const struct mcp_list *list)
{
    assert_int_equal(mcp_engine_list(t->engine, t->now_ns, operation, list),
                     CLEAT_OK);
    pull(t);
}

static inline void list(struct bench *t, unsigned operation, uint64_t within_ns)
{
    struct mcp_list made = list_of(t, operation, within_ns);

    list_as(t, operation, &made);
}

static inline void call_with(struct bench *t, unsigned operation,
                             const char *tool, const char *arguments,
                             const char *schema, uint64_t within_ns)
{
    struct mcp_call call;

    memset(&call, 0, sizeof call);
    call.deadline_ns = cleat_time_add(t->now_ns, within_ns);
    call.tool = text_of(tool);
    call.arguments = text_of(arguments);
    call.schema = text_of(schema);
    call.block = t->blocks[operation];
    call.bytes = sizeof t->blocks[operation];
    call.error = &t->errors[operation];
    assert_int_equal(mcp_engine_call(t->engine, t->now_ns, operation, &call),
                     CLEAT_OK);
    pull(t);
}

static inline void call(struct bench *t, unsigned operation, uint64_t within_ns)
{
    call_with(t, operation, "echo", "{\"message\":\"hi\"}", "", within_ns);
}

static inline void tick(struct bench *t, uint64_t at_ns)
{
    t->now_ns = at_ns;
    mcp_engine_tick(t->engine, at_ns);
    pull(t);
}

/* ---- what the wire tells ------------------------------------------------ */

static inline struct mcp_told_it told_it(enum mcp_told what, uint64_t exchange)
{
    struct mcp_told_it told;

    memset(&told, 0, sizeof told);
    told.what = what;
    told.exchange = exchange;
    told.retry_ns = CLEAT_NONE;
    told.retry_after_ns = CLEAT_NONE;
    return told;
}

static inline void tell(struct bench *t, const struct mcp_told_it *told)
{
    /* A text is good during the call only: it is kept apart, exactly as long
     * as it is, and gone afterwards. */
    struct mcp_told_it copy = *told;
    char *text = test_malloc(told->text.bytes + 1);

    if (told->text.bytes > 0) {
        memcpy(text, told->text.text, told->text.bytes);
        copy.text.text = text;
    }
    mcp_engine_tell(t->engine, t->now_ns, &copy);
    memset(text, '#', told->text.bytes);
    test_free(text);
    pull(t);
}

static inline void opened(struct bench *t)
{
    struct mcp_told_it told = told_it(MCP_OPENED, 0);

    tell(t, &told);
}

static inline void closed(struct bench *t, enum cleat_status status,
                          const char *text)
{
    struct mcp_told_it told = told_it(MCP_CLOSED, 0);

    told.status = status;
    told.text = text_of(text);
    tell(t, &told);
}

static inline void line_bytes(struct bench *t, const char *text, size_t bytes)
{
    struct mcp_told_it told = told_it(MCP_MESSAGE, 0);

    told.text.text = text;
    told.text.bytes = bytes;
    tell(t, &told);
}

static inline void line(struct bench *t, const char *text)
{
    line_bytes(t, text, strlen(text));
}

/* HTTP: status and headers; kind 'j': JSON, 's': a stream, 'n': neither. */
static inline void response(struct bench *t, uint64_t exchange, uint32_t status,
                            char kind, const char *session)
{
    struct mcp_told_it told = told_it(MCP_RESPONSE, exchange);

    told.http_status = status;
    told.is_json = kind == 'j';
    told.is_stream = kind == 's';
    told.session = text_of(session);
    tell(t, &told);
}

static inline void message(struct bench *t, uint64_t exchange, const char *text)
{
    struct mcp_told_it told = told_it(MCP_MESSAGE, exchange);

    told.text = text_of(text);
    told.event = text_of("message");
    tell(t, &told);
}

static inline void ended(struct bench *t, uint64_t exchange)
{
    struct mcp_told_it told = told_it(MCP_END, exchange);

    tell(t, &told);
}

static inline void failed(struct bench *t, uint64_t exchange,
                          enum cleat_status status, const char *text)
{
    struct mcp_told_it told = told_it(MCP_FAILED, exchange);

    told.status = status;
    told.text = text_of(text);
    tell(t, &told);
}

/* A whole answer as JSON. */
static inline void reply(struct bench *t, uint64_t exchange, uint32_t status,
                         const char *text)
{
    response(t, exchange, status, text[0] != '\0' ? 'j' : 'n', "");
    if (text[0] != '\0') { message(t, exchange, text); }
    ended(t, exchange);
}

/* ---- what is expected --------------------------------------------------- */

static inline struct seen *expect(struct bench *t, enum mcp_do what)
{
    if (t->seen_next == t->seen_count) {
        fail_msg("there is no further action; %d was expected", what);
    }
    if (t->seen[t->seen_next].action.what != what) {
        fail_msg("action %d: %s%s, expected %d",
                 t->seen[t->seen_next].action.what, t->seen[t->seen_next].body,
                 t->seen[t->seen_next].action.what == MCP_DONE
                     ? t->errors[t->seen[t->seen_next].action.operation].text
                     : "",
                 what);
    }
    return &t->seen[t->seen_next++];
}

static inline void expect_nothing(struct bench *t)
{
    if (t->seen_next != t->seen_count) {
        fail_msg("an action that was not expected: %d: %s",
                 t->seen[t->seen_next].action.what, t->seen[t->seen_next].body);
    }
}

static inline void expect_open(struct bench *t)
{
    (void)expect(t, MCP_OPEN);
    expect_nothing(t);
}

/* `#` in the body stands for the exchange's number, which is the id too. */
static inline struct seen *expect_send(struct bench *t, const char *body)
{
    struct seen *seen = expect(t, MCP_SEND);
    char wanted[8192];
    size_t used = 0;

    for (const char *at = body; *at != '\0'; at++) {
        if (*at == '#') {
            used += (size_t)snprintf(wanted + used, sizeof wanted - used, "%u",
                                     (unsigned)seen->action.exchange);
        } else {
            wanted[used++] = *at;
        }
        assert_true(used + 32 < sizeof wanted);
    }
    wanted[used] = '\0';
    assert_string_equal(seen->body, wanted);
    return seen;
}

static inline struct seen *expect_done(struct bench *t, unsigned operation,
                                       enum cleat_status status)
{
    struct seen *seen = expect(t, MCP_DONE);

    assert_int_equal(seen->action.operation, operation);
    if (seen->action.status != status) {
        fail_msg("%s (%s), expected %s", cleat_status_name(seen->action.status),
                 t->errors[operation].text, cleat_status_name(status));
    }
    if (status != CLEAT_OK) {
        assert_int_equal(t->errors[operation].status, status);
        assert_int_equal(strncmp(t->errors[operation].text, "srv: ", 5), 0);
        assert_null(strchr(t->errors[operation].text, '\n'));
    }
    t->done = seen;
    return seen;
}

static inline void expect_text(struct bench *t, unsigned operation,
                               const char *part)
{
    if (strstr(t->errors[operation].text, part) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", t->errors[operation].text, part);
    }
}

/* ---- lists -------------------------------------------------------------- */

static inline const struct cleat_tools *tools_of(struct bench *t,
                                                 unsigned operation)
{
    const struct cleat_tools *tools = NULL;

    assert_int_equal(cleat_tools_check(t->blocks[operation],
                                       t->done->action.bytes, &tools, NULL),
                     CLEAT_OK);
    return tools;
}

/* The names of a list, joined by blanks. */
static inline void expect_names(struct bench *t, unsigned operation,
                                const char *names)
{
    const struct cleat_tools *tools = tools_of(t, operation);
    char joined[4096] = "";
    struct cleat_tool tool;

    for (uint32_t i = 0; i < cleat_tools_count(tools); i++) {
        size_t used = strlen(joined);

        cleat_tools_at(tools, i, &tool);
        snprintf(joined + used, sizeof joined - used, "%s%.*s",
                 i > 0 ? " " : "", (int)tool.name.bytes, tool.name.text);
    }
    assert_string_equal(joined, names);
}

/* ---- fixtures ----------------------------------------------------------- */

/* A message of a real server, from a file. */
static inline char *fixture(const char *name)
{
    char path[512];
    char *text = test_malloc(MESSAGE_BYTES);
    FILE *file;
    size_t bytes;

    snprintf(path, sizeof path, CLEAT_TEST_SOURCE_DIR "/test/unit/mcp/%s",
             name);
    file = fopen(path, "rb");
    if (file == NULL) { fail_msg("%s is not there", path); }
    bytes = fread(text, 1, MESSAGE_BYTES - 1, file);
    fclose(file);
    text[bytes] = '\0';
    return text;
}

/* A fixture with another id; the fixtures end in "id":N}. */
static inline char *answer_from(const char *name, uint64_t id)
{
    char *text = fixture(name);
    char *at = NULL;

    for (char *next = text; (next = strstr(next, "\"id\":")) != NULL; next++) {
        at = next;
    }
    assert_non_null(at);
    snprintf(at, 64, "\"id\":%u}", (unsigned)id);
    return text;
}

/* ---- the handshake ------------------------------------------------------ */

#define INITIALIZE                                                     \
    "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":\"initialize\","         \
    "\"params\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":" \
    "{},\"clientInfo\":{\"name\":\"probe\",\"version\":\"0\"}}}"
#define INITIALIZED \
    "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}"
#define TOOLS_LIST "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":\"tools/list\"}"
#define META                                                           \
    "\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":"          \
    "\"2026-07-28\",\"io.modelcontextprotocol/clientInfo\":{\"name\":" \
    "\"probe\",\"version\":\"0\"},"                                    \
    "\"io.modelcontextprotocol/clientCapabilities\":{}}"
#define MODERN_LIST                                     \
    "{\"jsonrpc\":\"2.0\",\"id\":#,\"method\":\"tools/" \
    "list\",\"params\":{" META "}}"
#define MODERN_HEADERS(method) \
    "MCP-Protocol-Version: 2026-07-28\nMcp-Method: " method "\n"

/* {"result":RESULT,"jsonrpc":"2.0","id":ID}, in the order that real servers
 * write. Good until the next call. */
static inline const char *result(uint64_t id, const char *value)
{
    static char text[MESSAGE_BYTES];

    snprintf(text, sizeof text, "{\"result\":%s,\"jsonrpc\":\"2.0\",\"id\":%u}",
             value, (unsigned)id);
    return text;
}

static inline const char *rpc_error(uint64_t id, int code, const char *said)
{
    static char text[4096];

    snprintf(text, sizeof text,
             "{\"jsonrpc\":\"2.0\",\"id\":%u,\"error\":{\"code\":%d,"
             "\"message\":\"%s\"}}",
             (unsigned)id, code, said);
    return text;
}

#define GREETING                                                         \
    "{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{\"tools\":"   \
    "{\"listChanged\":true}},\"serverInfo\":{\"name\":\"s\",\"version\"" \
    ":\"1\"}}"

/* stdio, from the first operation to the request of its own. */
static inline void shake_hands(struct bench *t)
{
    struct seen *seen;

    expect_open(t);
    opened(t);
    seen = expect_send(t, INITIALIZE);
    line(t, result(seen->action.exchange, GREETING));
    (void)expect_send(t, INITIALIZED);
}

#define TOOL(name) \
    "{\"name\":\"" name "\",\"inputSchema\":{\"type\":\"object\"}}"
#define PAGE(tools) "{\"tools\":[" tools "]}"

#endif
