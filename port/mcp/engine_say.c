/* Cleat: what an MCP engine sends. SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "engine_state.h"
#include "headers.h"

/* ---- parts of messages -------------------------------------------------- */

static void put_client(struct mcp_engine *e, struct mcp_out *out)
{
    const char *name = e->config.client_name;
    const char *version = e->config.client_version;

    mcp_put(out, "{\"name\":");
    mcp_put_string(out, mcp_text(name, strlen(name)));
    mcp_put(out, ",\"version\":");
    mcp_put_string(out, mcp_text(version, strlen(version)));
    mcp_put(out, "}");
}

static void put_capabilities(struct mcp_engine *e, struct mcp_out *out)
{
    mcp_put(out, e->config.answer != NULL ? "{\"elicitation\":{}}" : "{}");
}

/* MCP 2026-07-28: every request says which revision it is in, and who asks. */
static void put_meta(struct mcp_engine *e, struct mcp_out *out)
{
    mcp_put(out, "\"_meta\":{\"io.modelcontextprotocol/"
                 "protocolVersion\":\"" MCP_MODERN_VERSION "\","
                 "\"io.modelcontextprotocol/clientInfo\":");
    put_client(e, out);
    mcp_put(out, ",\"io.modelcontextprotocol/clientCapabilities\":");
    put_capabilities(e, out);
    mcp_put(out, "}");
}

static void put_request(struct mcp_out *out, uint64_t id, const char *method)
{
    mcp_put(out, "{\"jsonrpc\":\"2.0\",\"id\":");
    mcp_put_number(out, id);
    mcp_put(out, ",\"method\":\"");
    mcp_put(out, method);
    mcp_put(out, "\"");
}

static void put_kept(struct mcp_out *out, const struct mcp_kept *kept)
{
    mcp_put_json(out, mcp_text(kept->text, kept->bytes));
}

/* ---- parts of HTTP ------------------------------------------------------ */

static void put_modern_headers(struct mcp_out *out, const char *method)
{
    mcp_put(out, "MCP-Protocol-Version: " MCP_MODERN_VERSION "\n"
                 "Mcp-Method: ");
    mcp_put(out, method);
    mcp_put(out, "\n");
}

/* What the session has agreed on: nothing before initialize is answered. */
static void put_legacy_headers(struct mcp_engine *e, struct mcp_out *out)
{
    const struct mcp_session *session = &e->session;

    if (session->version[0] == '\0') { return; }
    mcp_put(out, "MCP-Protocol-Version: ");
    mcp_put(out, session->version);
    mcp_put(out, "\n");
    if (session->id_bytes > 0) {
        mcp_put(out, "Mcp-Session-Id: ");
        mcp_put_bytes(out, session->id, session->id_bytes);
        mcp_put(out, "\n");
    }
}

static void put_event_id(struct mcp_out *out, const char *id, size_t bytes)
{
    if (bytes == 0) { return; }
    mcp_put(out, "Last-Event-ID: ");
    mcp_put_bytes(out, id, bytes);
    mcp_put(out, "\n");
}

static void put_headers(struct mcp_engine *e, struct mcp_out *out,
                        const char *method)
{
    if (!mcp_engine_is_http(e)) { return; }
    if (mcp_engine_is_modern(e)) {
        put_modern_headers(out, method);
    } else {
        put_legacy_headers(e, out);
    }
}

/* ---- an action ---------------------------------------------------------- */

/* All of `out` so far are headers, what follows is the body. */
struct parts {
    size_t headers;
};

static void end_headers(struct parts *parts, const struct mcp_out *out)
{
    parts->headers = out->used;
}

static bool fill(struct mcp_engine *e, const struct mcp_out *out,
                 const struct parts *parts, enum mcp_method method,
                 uint64_t exchange, struct mcp_action *action)
{
    if (out->full) { return false; }
    action->what = MCP_SEND;
    action->exchange = exchange;
    action->method = method;
    if (e->session.endpoint_bytes > 0 && method == MCP_POST) {
        action->endpoint = mcp_text(e->session.endpoint,
                                    e->session.endpoint_bytes);
    }
    action->headers = mcp_text(out->to, parts->headers);
    action->body = mcp_text(out->to + parts->headers,
                            out->used - parts->headers);
    return true;
}

static void begin_exchange(struct mcp_exchange *exchange, uint64_t number)
{
    exchange->number = number;
    exchange->retry_after_ns = CLEAT_NONE;
    exchange->http_status = 0;
    exchange->is_stream = false;
}

/* ---- the session -------------------------------------------------------- */

static void put_initialize(struct mcp_engine *e, struct mcp_out *out,
                           uint64_t id)
{
    put_request(out, id, "initialize");
    mcp_put(out, ",\"params\":{\"protocolVersion\":\"" MCP_LEGACY_VERSION
                 "\",\"capabilities\":");
    put_capabilities(e, out);
    mcp_put(out, ",\"clientInfo\":");
    put_client(e, out);
    mcp_put(out, "}}");
}

static void put_discover(struct mcp_engine *e, struct mcp_out *out, uint64_t id)
{
    put_request(out, id, "server/discover");
    mcp_put(out, ",\"params\":{");
    put_meta(e, out);
    mcp_put(out, "}}");
}

/* One message of the session's own; a request where `id` is not 0. */
static bool say_message(struct mcp_engine *e, enum mcp_say say,
                        struct mcp_out *out, struct mcp_action *action)
{
    struct mcp_session *session = &e->session;
    uint64_t number = mcp_engine_number(e);
    struct parts parts;

    begin_exchange(&session->exchange, number);
    session->request = say == MCP_SAY_INITIALIZED ? 0 : number;
    put_headers(e, out, "server/discover");
    end_headers(&parts, out);
    if (say == MCP_SAY_DISCOVER) {
        put_discover(e, out, number);
    } else if (say == MCP_SAY_INITIALIZE) {
        put_initialize(e, out, number);
    } else {
        mcp_put(out, "{\"jsonrpc\":\"2.0\",\"method\":"
                     "\"notifications/initialized\"}");
    }
    return fill(e, out, &parts, MCP_POST, number, action);
}

/* The stream of the old HTTP+SSE. */
static bool say_connect(struct mcp_engine *e, struct mcp_out *out,
                        struct mcp_action *action)
{
    struct parts parts;

    begin_exchange(&e->channel.exchange, mcp_engine_number(e));
    e->channel.state = MCP_CHANNEL_SENT;
    e->channel.deadline_ns = CLEAT_NEVER; /* the session has one */
    end_headers(&parts, out);
    action->stream = true;
    return fill(e, out, &parts, MCP_GET, e->channel.exchange.number, action);
}

static bool say_delete(struct mcp_engine *e, struct mcp_out *out,
                       struct mcp_action *action)
{
    struct parts parts;

    begin_exchange(&e->session.exchange, mcp_engine_number(e));
    put_legacy_headers(e, out);
    end_headers(&parts, out);
    return fill(e, out, &parts, MCP_DELETE, e->session.exchange.number, action);
}

bool mcp_say_session(struct mcp_engine *e, struct mcp_out *out,
                     struct mcp_action *action)
{
    struct mcp_session *session = &e->session;
    enum mcp_say say = session->say;

    session->say = MCP_SAY_NOTHING;
    switch (say) {
    case MCP_SAY_OPEN: action->what = MCP_OPEN; break;
    case MCP_SAY_CLOSE:
        mcp_engine_forget(e); /* what still waits for a place */
        action->what = MCP_CLOSE;
        return true;
    case MCP_SAY_CONNECT: (void)say_connect(e, out, action); break;
    case MCP_SAY_DELETE: return say_delete(e, out, action);
    case MCP_SAY_DISCOVER:
    case MCP_SAY_INITIALIZE:
    case MCP_SAY_INITIALIZED: (void)say_message(e, say, out, action); break;
    case MCP_SAY_NOTHING: return false;
    }
    if (session->phase != MCP_PHASE_READY) {
        session->deadline_ns = cleat_time_add(e->now_ns, e->config.request_ns);
    }
    return action->what != 0;
}

/* ---- the channel for changes -------------------------------------------- */

bool mcp_say_channel(struct mcp_engine *e, struct mcp_out *out,
                     struct mcp_action *action)
{
    struct mcp_channel *channel = &e->channel;
    uint64_t number = mcp_engine_number(e);
    bool modern = mcp_engine_is_modern(e);
    struct parts parts;

    begin_exchange(&channel->exchange, number);
    channel->state = MCP_CHANNEL_SENT;
    channel->deadline_ns = cleat_time_add(e->now_ns, e->config.request_ns);
    channel->request = modern ? number : 0;
    put_headers(e, out, "subscriptions/listen");
    if (!modern) {
        put_event_id(out, channel->event_id, channel->event_id_bytes);
    }
    end_headers(&parts, out);
    if (modern) {
        put_request(out, number, "subscriptions/listen");
        mcp_put(out, ",\"params\":{");
        put_meta(e, out);
        mcp_put(out, ",\"notifications\":{\"toolsListChanged\":true}}}");
    }
    action->stream = true;
    return fill(e, out, &parts, modern ? MCP_POST : MCP_GET, number, action);
}

/* ---- operations --------------------------------------------------------- */

static void put_list(struct mcp_engine *e, const struct mcp_work *w,
                     struct mcp_out *out, uint64_t id)
{
    bool modern = mcp_engine_is_modern(e);

    put_request(out, id, "tools/list");
    if (modern || w->cursor.there) { mcp_put(out, ",\"params\":{"); }
    if (modern) { put_meta(e, out); }
    if (w->cursor.there) {
        mcp_put(out, modern ? ",\"cursor\":" : "\"cursor\":");
        put_kept(out, &w->cursor);
    }
    mcp_put(out, modern || w->cursor.there ? "}}" : "}");
}

static void put_call(struct mcp_engine *e, const struct mcp_work *w,
                     struct mcp_out *out, uint64_t id)
{
    put_request(out, id, "tools/call");
    mcp_put(out, ",\"params\":{\"name\":");
    mcp_put_string(out, w->of.call.tool);
    mcp_put(out, ",\"arguments\":");
    if (w->of.call.arguments.bytes == 0) { mcp_put(out, "{}"); }
    mcp_put_json(out, w->of.call.arguments);
    if (w->answers.there) {
        mcp_put(out, ",\"inputResponses\":");
        put_kept(out, &w->answers);
    }
    if (w->state_echoed.there) {
        mcp_put(out, ",\"requestState\":");
        put_kept(out, &w->state_echoed);
    }
    if (mcp_engine_is_modern(e)) {
        mcp_put(out, ",");
        put_meta(e, out);
    }
    mcp_put(out, "}}");
}

/* What a modern call mirrors into headers. The room behind them, before the
 * body is written, serves for strings whose escapes are undone. */
static void put_call_headers(const struct mcp_work *w, struct mcp_out *out)
{
    const struct mcp_call *call = &w->of.call;
    struct cleat_text schema = call->schema;
    size_t longer;
    struct mcp_out lines = *out;

    mcp_put(out, "Mcp-Name: ");
    mcp_headers_value(out, call->tool);
    mcp_put(out, "\n");
    if (w->schema.there) { schema = mcp_text(w->schema.text, w->schema.bytes); }
    if (schema.bytes == 0 || out->full) { return; }
    longer = schema.bytes > call->arguments.bytes ? schema.bytes
                                                  : call->arguments.bytes;
    if (2 * longer > out->room - out->used) {
        out->full = true;
        return;
    }
    lines = *out;
    lines.room -= 2 * longer;
    mcp_headers_params(&lines, schema, call->arguments, lines.to + lines.room,
                       2 * longer);
    out->used = lines.used;
    out->full = lines.full;
}

static bool say_resume(struct mcp_engine *e, struct mcp_work *w,
                       struct mcp_out *out, struct mcp_action *action)
{
    struct parts parts;

    begin_exchange(&w->exchange, mcp_engine_number(e));
    put_legacy_headers(e, out);
    put_event_id(out, w->event_id, w->event_id_bytes);
    end_headers(&parts, out);
    w->state = MCP_WORK_SENT;
    action->stream = true;
    return fill(e, out, &parts, MCP_GET, w->exchange.number, action);
}

bool mcp_say_work(struct mcp_engine *e, struct mcp_work *w, struct mcp_out *out,
                  struct mcp_action *action)
{
    bool is_list = !w->is_call || w->looking;
    bool modern = mcp_engine_is_modern(e);
    uint64_t number;
    struct parts parts;

    if (w->state == MCP_WORK_RESUME) { return say_resume(e, w, out, action); }
    number = mcp_engine_number(e);
    put_headers(e, out, mcp_work_method(w));
    if (modern && mcp_engine_is_http(e) && !is_list) {
        put_call_headers(w, out);
    }
    end_headers(&parts, out);
    if (is_list) {
        put_list(e, w, out, number);
    } else {
        put_call(e, w, out, number);
    }
    if (!fill(e, out, &parts, MCP_POST, number, action)) { return false; }
    begin_exchange(&w->exchange, number);
    w->request = number;
    w->state = MCP_WORK_SENT;
    w->session = e->session.number;
    w->heard_before = e->session.heard;
    w->event_id_bytes = 0;
    w->resumptions = 0;
    w->request_deadline_ns =
        is_list ? cleat_time_add(e->now_ns, e->config.request_ns) : CLEAT_NEVER;
    mcp_drop(e, &w->cursor);
    mcp_drop(e, &w->answers);
    mcp_drop(e, &w->state_echoed);
    mcp_drop(e, &w->schema);
    return true;
}

/* ---- small things ------------------------------------------------------- */

static void put_reply(struct mcp_out *out, const struct mcp_queued *queued)
{
    mcp_put(out, "{\"jsonrpc\":\"2.0\",\"id\":");
    mcp_put_bytes(out, queued->id, queued->id_bytes);
    switch (queued->what) {
    case MCP_QUEUED_PONG: mcp_put(out, ",\"result\":{}}"); break;
    case MCP_QUEUED_ANSWER:
        mcp_put(out, ",\"result\":");
        put_kept(out, &queued->answer);
        mcp_put(out, "}");
        break;
    case MCP_QUEUED_REFUSAL:
    case MCP_QUEUED_CANCELLED:
        mcp_put(out, ",\"error\":{\"code\":-32601,\"message\":"
                     "\"Method not found\"}}");
        break;
    }
}

bool mcp_say_queued(struct mcp_engine *e, struct mcp_queued *queued,
                    struct mcp_out *out, struct mcp_action *action)
{
    struct parts parts;

    if (mcp_engine_is_http(e)) { put_legacy_headers(e, out); }
    end_headers(&parts, out);
    if (queued->what == MCP_QUEUED_CANCELLED) {
        mcp_put(out, "{\"jsonrpc\":\"2.0\",\"method\":"
                     "\"notifications/cancelled\",\"params\":{\"requestId\":");
        mcp_put_number(out, queued->number);
        mcp_put(out, "}}");
    } else {
        put_reply(out, queued);
    }
    return fill(e, out, &parts, MCP_POST, mcp_engine_number(e), action);
}
