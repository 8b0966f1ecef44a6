/* Cleat: any server, for the MCP engine. SPDX-License-Identifier: Apache-2.0
 *
 * The input is a play in lines. The first says which engine: a digit for the
 * wire, one for the era, then `a` (the host answers questions), `f` (follow
 * changes), `s` (small limits). Every other line is one thing that happens; k
 * is a digit, the number of exchanges before the latest one, and `#` in a
 * text stands for the number of the latest request:
 *
 *     Ld   a list, within d (see spans); Cd a call; Sd a list of two tools
 *     Ad   operation d is abandoned      E  the end      F0 F1  follow
 *     O    opened                        Xd closed, with d (see failures)
 *     Mk…  a message                     Rk200j…  status, kind, session
 *     Vke…\t…  an event: k, its name's first letter, id, tab, text
 *     Nk   the end of an exchange        Dkd  its failure
 *     Td   time goes on by d (see spans); T9 to the engine's deadline; T8 to
 *          just before it
 *
 * Whatever happens: an operation ends once, and no later than its deadline;
 * nothing is sent but between MCP_OPENED and MCP_CLOSED; what is sent is JSON
 * in one line, with headers that are headers; the engine never asks to be
 * called at a time that has passed; a list that it gives out is sound. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleat/json.h"
#include "port/mcp/engine.h"

#define CHECK(x)                                                              \
    do {                                                                      \
        if (!(x)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #x); \
            abort();                                                          \
        }                                                                     \
    } while (0)

#define OPERATIONS 10u
#define BLOCK_BYTES 16384u
#define MESSAGE_BYTES 16384u
#define EXCHANGES 10u
#define ACTIONS_MAX 2000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum wire_state { SHUT, OPENING, OPEN, CLOSING };

struct operation {
    bool open;
    bool is_call;
    uint64_t deadline_ns;
    uint64_t *block;
    struct cleat_error error;
};

struct play {
    struct mcp_engine *engine;
    char *out;
    size_t out_bytes;
    uint64_t now_ns;
    enum wire_state wire;
    bool is_http;
    uint64_t exchanges[EXCHANGES]; /* the latest first */
    uint64_t highest;
    uint64_t request;
    struct operation operations[OPERATIONS];
};

static const uint64_t spans[] = {0,
                                 1,
                                 CLEAT_NS_PER_MS,
                                 CLEAT_NS_PER_S,
                                 5 * CLEAT_NS_PER_S,
                                 20 * CLEAT_NS_PER_S,
                                 90 * CLEAT_NS_PER_S,
                                 CLEAT_NEVER};

static const enum cleat_status failures[] = {
    CLEAT_TRANSIENT, CLEAT_PERMANENT, CLEAT_SHORT, CLEAT_AMBIGUOUS,
    CLEAT_LIMIT,     CLEAT_OK,        CLEAT_SHORT, CLEAT_SHORT};

static struct cleat_text text_of(const char *text)
{
    struct cleat_text made = {text, strlen(text)};

    return made;
}

static enum cleat_status answer(void *context,
                                const struct cleat_mcp_question *question,
                                char *text, size_t bytes_max, size_t *bytes)
{
    static const char said[] = "{\"action\":\"accept\",\n\"content\":{}}";

    (void)context;
    CHECK(question->params.bytes > 0);
    if (question->params.bytes % 4 == 0 || bytes_max < sizeof said) {
        return CLEAT_NOT_FOUND;
    }
    memset(text, '#', bytes_max); /* all of the room is the host's */
    memcpy(text, said, sizeof said - 1);
    *bytes = sizeof said - 1;
    return CLEAT_OK;
}

static size_t redact(void *context, char *text, size_t bytes)
{
    (void)context;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '7') { text[i] = '*'; }
    }
    return bytes;
}

/* ---- what the engine wants ---------------------------------------------- */

static void check_headers(struct cleat_text headers)
{
    size_t colon = 0;

    for (size_t i = 0; i < headers.bytes; i++) {
        char c = headers.text[i];

        if (c == '\n') {
            CHECK(colon > 0);
            colon = 0;
        } else {
            CHECK(c >= 0x20 && c <= 0x7E);
            if (c == ':') { colon = i; }
        }
    }
    CHECK(headers.bytes == 0 || headers.text[headers.bytes - 1] == '\n');
}

static void check_send(struct play *play, const struct mcp_action *action)
{
    struct cleat_json_value root;

    CHECK(play->wire == OPEN);
    CHECK(action->exchange > play->highest);
    play->highest = action->exchange;
    memmove(play->exchanges + 1, play->exchanges,
            (EXCHANGES - 1) * sizeof play->exchanges[0]);
    play->exchanges[0] = action->exchange;
    check_headers(action->headers);
    CHECK(play->is_http || action->headers.bytes == 0);
    CHECK(play->is_http || action->method == MCP_POST);
    if (action->method != MCP_POST) {
        CHECK(action->body.bytes == 0);
        return;
    }
    CHECK(cleat_json_check(action->body.text, action->body.bytes, NULL, &root,
                           NULL) == CLEAT_OK);
    CHECK(root.type == CLEAT_JSON_OBJECT);
    CHECK(memchr(action->body.text, '\n', action->body.bytes) == NULL);
    CHECK(memchr(action->body.text, '\r', action->body.bytes) == NULL);
    if (memcmp(action->body.text, "{\"jsonrpc\":\"2.0\",\"id\"", 21) == 0) {
        play->request = action->exchange;
    }
}

static void check_done(struct play *play, const struct mcp_action *action)
{
    struct operation *operation;
    const struct cleat_tools *tools;

    CHECK(action->operation < OPERATIONS);
    operation = &play->operations[action->operation];
    CHECK(operation->open);
    operation->open = false;
    CHECK(action->status <= CLEAT_OK);
    if (action->status != CLEAT_OK) {
        CHECK(operation->error.status == action->status);
        CHECK(strlen(operation->error.text) < CLEAT_ERROR_TEXT_MAX);
        CHECK(strchr(operation->error.text, '\n') == NULL);
        CHECK(strncmp(operation->error.text, "srv: ", 5) == 0);
        return;
    }
    CHECK(action->bytes <= BLOCK_BYTES);
    if (operation->is_call) {
        CHECK(cleat_json_check((const char *)operation->block, action->bytes,
                               NULL, NULL, NULL) == CLEAT_OK);
    } else {
        CHECK(cleat_tools_check(operation->block, action->bytes, &tools,
                                NULL) == CLEAT_OK);
    }
}

static void carry_out(struct play *play, const struct mcp_action *action)
{
    switch (action->what) {
    case MCP_OPEN:
        CHECK(play->wire == SHUT);
        play->wire = OPENING;
        break;
    case MCP_SEND: check_send(play, action); break;
    case MCP_CANCEL:
        CHECK(play->is_http);
        CHECK(action->exchange > 0 && action->exchange <= play->highest);
        break;
    case MCP_CLOSE:
        CHECK(play->wire == OPENING || play->wire == OPEN);
        play->wire = CLOSING;
        break;
    case MCP_DONE: check_done(play, action); break;
    case MCP_CHANGED: break;
    }
}

static void drain(struct play *play)
{
    struct mcp_action action;
    unsigned count = 0;

    while (mcp_engine_next(play->engine, play->out, play->out_bytes, &action)) {
        CHECK(count++ < ACTIONS_MAX);
        carry_out(play, &action);
    }
    for (size_t i = 0; i < OPERATIONS; i++) {
        CHECK(!play->operations[i].open ||
              play->operations[i].deadline_ns > play->now_ns);
    }
    CHECK(mcp_engine_deadline(play->engine) > play->now_ns);
}

/* ---- what happens ------------------------------------------------------- */

static unsigned digit(const char *line, size_t bytes, size_t at)
{
    return at < bytes ? (unsigned char)(line[at] - '0') % 10u : 0;
}

static uint64_t span(const char *line, size_t bytes)
{
    return spans[digit(line, bytes, 1) % 8u];
}

static struct operation *free_operation(struct play *play, unsigned *number)
{
    for (unsigned i = 0; i < OPERATIONS; i++) {
        if (!play->operations[i].open) {
            *number = i;
            return &play->operations[i];
        }
    }
    return NULL;
}

static void begin_list(struct play *play, uint64_t within_ns, bool two)
{
    struct mcp_list list;
    unsigned number;
    struct operation *operation = free_operation(play, &number);

    if (operation == NULL) { return; }
    memset(&list, 0, sizeof list);
    list.deadline_ns = cleat_time_add(play->now_ns, within_ns);
    list.block = operation->block;
    list.bytes = two ? 1024 : BLOCK_BYTES;
    list.prefix = text_of(two ? "p_" : "");
    list.class_name = text_of("");
    list.selected = text_of(two ? "[\"echo\",\"b\"]" : "");
    list.error = &operation->error;
    operation->open = true;
    operation->is_call = false;
    operation->deadline_ns = list.deadline_ns;
    CHECK(mcp_engine_list(play->engine, play->now_ns, number, &list) ==
          CLEAT_OK);
}

static void begin_call(struct play *play, uint64_t within_ns)
{
    struct mcp_call call;
    unsigned number;
    struct operation *operation = free_operation(play, &number);

    if (operation == NULL) { return; }
    memset(&call, 0, sizeof call);
    call.deadline_ns = cleat_time_add(play->now_ns, within_ns);
    call.tool = text_of("e\xC3\xA9\n");
    call.arguments = text_of("{\"r\":\"x\\u0000\",\n\"n\":4.5}");
    call.schema = text_of("{\"properties\":{\"r\":{\"type\":\"string\","
                          "\"x-mcp-header\":\"R\"}}}");
    call.block = operation->block;
    call.bytes = 64;
    call.error = &operation->error;
    operation->open = true;
    operation->is_call = true;
    operation->deadline_ns = call.deadline_ns;
    CHECK(mcp_engine_call(play->engine, play->now_ns, number, &call) ==
          CLEAT_OK);
}

/* A copy of a line's end, exactly as long as it is, each `#` replaced. */
static struct cleat_text play_text(const struct play *play, const char *line,
                                   size_t bytes)
{
    char number[24];
    size_t digits = (size_t)snprintf(number, sizeof number, "%llu",
                                     (unsigned long long)play->request);
    size_t count = 0;
    struct cleat_text text = {NULL, 0};
    char *to;

    for (size_t i = 0; i < bytes; i++) { count += line[i] == '#'; }
    text.bytes = bytes - count + count * digits;
    to = malloc(text.bytes + (text.bytes == 0));
    text.text = to;
    for (size_t i = 0; i < bytes; i++) {
        if (line[i] == '#') {
            memcpy(to, number, digits);
            to += digits;
        } else {
            *to++ = line[i];
        }
    }
    return text;
}

static void tell_text(struct play *play, struct mcp_told_it *told,
                      const char *line, size_t bytes)
{
    struct cleat_text text = play_text(play, line, bytes);

    told->text = text;
    mcp_engine_tell(play->engine, play->now_ns, told);
    free((void *)(uintptr_t)text.text);
}

static void tell_response(struct play *play, struct mcp_told_it *told,
                          const char *line, size_t bytes)
{
    char kind = bytes > 5 ? line[5] : 'n';

    told->http_status = digit(line, bytes, 2) * 100 +
                        digit(line, bytes, 3) * 10 + digit(line, bytes, 4);
    told->is_json = kind == 'j';
    told->is_stream = kind == 's';
    if (bytes > 6) {
        told->session.text = line + 6;
        told->session.bytes = bytes - 6;
    }
    told->retry_after_ns = told->http_status == 429 ? 7 : CLEAT_NONE;
    mcp_engine_tell(play->engine, play->now_ns, told);
}

static void tell_event(struct play *play, struct mcp_told_it *told,
                       const char *line, size_t bytes)
{
    const char *tab = bytes > 3 ? memchr(line, '\t', bytes) : NULL;
    size_t at = tab != NULL ? (size_t)(tab - line) : bytes;

    told->event = text_of(bytes > 2 && line[2] == 'e' ? "endpoint" : "other");
    if (at > 3) {
        told->id.text = line + 3;
        told->id.bytes = at - 3;
    }
    told->retry_ns = digit(line, bytes, 2) * CLEAT_NS_PER_MS;
    at += tab != NULL;
    tell_text(play, told, line + at, bytes - at);
}

/* What is told of the wire must be what a wire can tell. */
static void tell(struct play *play, const char *line, size_t bytes)
{
    struct mcp_told_it told;
    bool of_exchange = line[0] != 'O' && line[0] != 'X';

    if (of_exchange && play->wire != OPEN && play->wire != CLOSING) { return; }
    if (of_exchange && line[0] != 'M' && !play->is_http) { return; }
    memset(&told, 0, sizeof told);
    told.text = text_of("");
    told.event = text_of("message");
    told.id = text_of("");
    told.session = text_of("");
    told.retry_ns = CLEAT_NONE;
    told.retry_after_ns = CLEAT_NONE;
    told.status = failures[digit(line, bytes, line[0] == 'X' ? 1 : 2) % 8u];
    if (of_exchange && play->is_http) {
        told.exchange = play->exchanges[digit(line, bytes, 1) % EXCHANGES];
    }
    switch (line[0]) {
    case 'O':
        if (play->wire != OPENING) { return; }
        play->wire = OPEN;
        told.what = MCP_OPENED;
        mcp_engine_tell(play->engine, play->now_ns, &told);
        break;
    case 'X':
        if (play->wire == SHUT) { return; }
        play->wire = SHUT;
        told.what = MCP_CLOSED;
        tell_text(play, &told, line + 1, bytes - 1);
        break;
    case 'M':
        told.what = MCP_MESSAGE;
        tell_text(play, &told, line + (bytes > 1 ? 2 : 1),
                  bytes > 1 ? bytes - 2 : 0);
        break;
    case 'R':
        told.what = MCP_RESPONSE;
        tell_response(play, &told, line, bytes);
        break;
    case 'V':
        told.what = MCP_EVENT;
        tell_event(play, &told, line, bytes);
        break;
    case 'N':
    case 'D':
        told.what = line[0] == 'N' ? MCP_END : MCP_FAILED;
        tell_text(play, &told, line, bytes);
        break;
    default: break;
    }
}

static void go_on(struct play *play, unsigned how)
{
    uint64_t at_ns = mcp_engine_deadline(play->engine);

    if (how < 8) {
        at_ns = cleat_time_add(play->now_ns, spans[how]);
    } else if (how == 8 && at_ns - 1 > play->now_ns) {
        at_ns -= 1;
    }
    /* The end of time is nobody's present. */
    if (at_ns < CLEAT_NEVER) { play->now_ns = at_ns; }
    mcp_engine_tick(play->engine, play->now_ns);
}

static void happen(struct play *play, const char *line, size_t bytes)
{
    switch (bytes > 0 ? line[0] : '\0') {
    case 'L': begin_list(play, span(line, bytes), false); break;
    case 'S': begin_list(play, span(line, bytes), true); break;
    case 'C': begin_call(play, span(line, bytes)); break;
    case 'A':
        mcp_engine_abandon(play->engine, play->now_ns, digit(line, bytes, 1));
        break;
    case 'E': mcp_engine_end(play->engine, play->now_ns); break;
    case 'F':
        mcp_engine_follow(play->engine, play->now_ns,
                          digit(line, bytes, 1) % 2 == 1);
        break;
    case 'T': go_on(play, digit(line, bytes, 1)); break;
    case '\0': break;
    default: tell(play, line, bytes); break;
    }
    drain(play);
}

/* ---- the play ----------------------------------------------------------- */

static void begin(struct play *play, struct mcp_engine_config *config,
                  const char *line, size_t bytes)
{
    bool small = memchr(line, 's', bytes) != NULL;

    memset(play, 0, sizeof *play);
    memset(config, 0, sizeof *config);
    config->wire = (enum mcp_wire)(digit(line, bytes, 0) % 3u);
    config->era = digit(line, bytes, 1) % 3u;
    config->request_ns = 20 * CLEAT_NS_PER_S;
    config->grace_ns = CLEAT_NS_PER_S;
    config->pages_max = small ? 3 : 64;
    config->tools_max = small ? 2 : 1024;
    config->message_bytes_max = small ? 600 : MESSAGE_BYTES;
    config->server = text_of("srv");
    config->client_name = "fuzz";
    config->client_version = "0";
    config->answer = memchr(line, 'a', bytes) != NULL ? answer : NULL;
    config->redact = redact;
    config->follow = memchr(line, 'f', bytes) != NULL;
    play->now_ns = 1000 * CLEAT_NS_PER_S;
    play->is_http = config->wire != MCP_WIRE_STDIO;
    play->engine = mcp_engine_init(malloc(mcp_engine_bytes(config)), config,
                                   play->now_ns);
    play->out_bytes = mcp_engine_out_bytes(config, 256);
    play->out = malloc(play->out_bytes);
    for (size_t i = 0; i < OPERATIONS; i++) {
        play->operations[i].block = malloc(BLOCK_BYTES);
    }
}

/* Then the host has enough: everything ends, in time. */
static void finish(struct play *play)
{
    happen(play, "E", 1);
    for (size_t i = 0; i < OPERATIONS; i++) {
        CHECK(!play->operations[i].open);
    }
    for (unsigned i = 0; i < 20 && play->wire == OPEN; i++) {
        go_on(play, 9);
        drain(play);
    }
    CHECK(play->wire == SHUT || play->wire == CLOSING);
    happen(play, "X0", 2);
    CHECK(play->wire == SHUT);
    CHECK(mcp_engine_idle(play->engine));
    CHECK(mcp_engine_deadline(play->engine) == CLEAT_NEVER);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct play play;
    struct mcp_engine_config config;
    const char *line = (const char *)data;
    size_t left = size;
    bool first = true;

    while (left > 0 || first) {
        const char *end = left > 0 ? memchr(line, '\n', left) : NULL;
        size_t bytes = end != NULL ? (size_t)(end - line) : left;

        if (first) {
            begin(&play, &config, size > 0 ? line : "", bytes);
        } else {
            happen(&play, line, bytes);
        }
        first = false;
        bytes += end != NULL;
        line += bytes;
        left -= bytes;
    }
    finish(&play);
    free(play.engine);
    free(play.out);
    for (size_t i = 0; i < OPERATIONS; i++) { free(play.operations[i].block); }
    return 0;
}
