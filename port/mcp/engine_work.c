/* Cleat: an MCP engine's operations. SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "engine_state.h"

/* ---- what it is at ------------------------------------------------------ */

bool mcp_work_is_open(const struct mcp_work *w)
{
    return w->state != MCP_WORK_FREE && w->state != MCP_WORK_ENDED;
}

bool mcp_work_is_out(const struct mcp_work *w)
{
    return w->state == MCP_WORK_SENT || w->state == MCP_WORK_PAUSED ||
           w->state == MCP_WORK_RESUME;
}

const char *mcp_work_method(const struct mcp_work *w)
{
    return w->is_call && !w->looking ? "tools/call" : "tools/list";
}

static bool is_probe(const struct mcp_engine *e, const struct mcp_work *w)
{
    return e->session.phase == MCP_PHASE_PROBING &&
           e->session.probe < MCP_ENGINE_OPERATIONS_MAX &&
           w == &e->works[e->session.probe];
}

/* A list may be asked for again whatever became of it; a call may have been
 * carried out, once it was sent. */
enum cleat_status mcp_work_status(const struct mcp_work *w,
                                  enum cleat_status status)
{
    if (!w->is_call || w->looking) {
        return status == CLEAT_AMBIGUOUS ? CLEAT_TRANSIENT : status;
    }
    return mcp_work_is_out(w) &&
                   cleat_status_class(status) == CLEAT_CLASS_TRANSIENT
               ? CLEAT_AMBIGUOUS
               : status;
}

enum cleat_status mcp_http_status(uint32_t http_status)
{
    switch (http_status) {
    case 408:
    case 425:
    case 429: return CLEAT_TRANSIENT;
    case 501:
    case 505: return CLEAT_PERMANENT;
    default: break;
    }
    return http_status >= 500 ? CLEAT_TRANSIENT : CLEAT_PERMANENT;
}

/* ---- its end ------------------------------------------------------------ */

static void drop_kept(struct mcp_engine *e, struct mcp_work *w)
{
    mcp_drop(e, &w->cursor);
    mcp_drop(e, &w->answers);
    mcp_drop(e, &w->state_echoed);
    mcp_drop(e, &w->schema);
}

static void end(struct mcp_engine *e, struct mcp_work *w,
                enum cleat_status status)
{
    drop_kept(e, w);
    if (is_probe(e, w)) { e->session.phase = MCP_PHASE_DECIDING; }
    w->state = MCP_WORK_ENDED;
    w->status = status;
    w->exchange.number = 0;
    w->request = 0;
}

static struct cleat_error *error_of(const struct mcp_work *w)
{
    return w->is_call ? w->of.call.error : w->of.list.error;
}

void mcp_work_fail(struct mcp_engine *e, struct mcp_work *w,
                   enum cleat_status status, int32_t port_code,
                   uint64_t hint_ns, const char *text)
{
    struct cleat_error *error = error_of(w);
    char name[48];

    mcp_clean(e->config.server, sizeof name - 1, name, sizeof name);
    (void)mcp_fail(error, status, "%s: %s", name, text);
    error->port_code = port_code;
    w->bytes = 0;
    w->ttl_ns = CLEAT_NONE;
    w->hint_ns = hint_ns;
    w->is_error = false;
    end(e, w, status);
}

/* The same with what a part has found wrong. */
static void fail_with(struct mcp_engine *e, struct mcp_work *w,
                      const struct cleat_error *why)
{
    uint64_t offset = why->offset;

    mcp_work_fail(e, w, why->status, 0, CLEAT_NONE, why->text);
    error_of(w)->offset = offset;
}

static void succeed(struct mcp_engine *e, struct mcp_work *w, size_t bytes,
                    uint64_t ttl_ns, bool is_error)
{
    w->bytes = bytes;
    w->ttl_ns = ttl_ns;
    w->hint_ns = CLEAT_NONE;
    w->is_error = is_error;
    end(e, w, CLEAT_OK);
}

/* To be sent from the start, when the session is ready for it. */
void mcp_work_again(struct mcp_engine *e, struct mcp_work *w)
{
    drop_kept(e, w);
    w->walking = false;
    w->exchange.number = 0;
    w->request = 0;
    w->request_deadline_ns = CLEAT_NEVER;
    w->state = MCP_WORK_WAITING;
}

/* MCP 2026-07-28: over HTTP the end of the exchange cancels, and nothing else
 * does; before, and over stdio, a notification does. */
void mcp_work_withdraw(struct mcp_engine *e, struct mcp_work *w)
{
    bool notify = !mcp_engine_is_http(e) ||
                  (!mcp_engine_is_modern(e) &&
                   e->session.phase == MCP_PHASE_READY &&
                   w->session == e->session.number);

    if (!mcp_work_is_out(w) || w->request == 0) { return; }
    if (notify) { (void)mcp_engine_queue(e, MCP_QUEUED_CANCELLED, w->request); }
    mcp_engine_cancel(e, &w->exchange);
    w->request = 0;
}

void mcp_work_abandon(struct mcp_engine *e, struct mcp_work *w)
{
    mcp_work_withdraw(e, w);
    mcp_work_fail(e, w, CLEAT_CANCELLED, 0, CLEAT_NONE, "cancelled");
}

/* ---- time --------------------------------------------------------------- */

static bool is_alone(const struct mcp_engine *e, const struct mcp_work *w)
{
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        if (&e->works[i] != w && mcp_work_is_open(&e->works[i])) {
            return false;
        }
    }
    return true;
}

/* A server that was asked for its list over stdio, and has said nothing at all
 * for half the time that an answer may take, hangs: the next attempt starts it
 * afresh. */
static bool hangs(const struct mcp_engine *e, const struct mcp_work *w)
{
    uint64_t half_ns = e->config.request_ns / 2;

    return !mcp_engine_is_http(e) && !w->is_call && w->state == MCP_WORK_SENT &&
           e->session.phase == MCP_PHASE_READY &&
           e->session.heard == w->heard_before && is_alone(e, w) &&
           w->request_deadline_ns <= cleat_time_add(e->now_ns, half_ns);
}

static void time_out(struct mcp_engine *e, struct mcp_work *w)
{
    bool whole = w->deadline_ns <= e->now_ns;
    bool out = mcp_work_is_out(w);
    bool close = hangs(e, w);
    char text[CLEAT_ERROR_TEXT_MAX];
    char noise[64] = "";

    if (e->session.noise > 0) {
        (void)snprintf(noise, sizeof noise,
                       " (%u lines that are no messages came)",
                       (unsigned)e->session.noise);
    }
    if (!whole) {
        (void)snprintf(text, sizeof text, "no answer to %s within %u ms%s",
                       mcp_work_method(w),
                       (unsigned)(e->config.request_ns / CLEAT_NS_PER_MS),
                       noise);
    } else {
        (void)snprintf(text, sizeof text, "%s%s before the deadline%s",
                       out ? "no answer to " : "it was not ready",
                       out ? mcp_work_method(w) : "", noise);
    }
    if (!close) { mcp_work_withdraw(e, w); }
    mcp_work_fail(e, w, CLEAT_PEER_SILENT, 0, CLEAT_NONE, text);
    if (close) { mcp_session_close(e); }
}

void mcp_work_expire(struct mcp_engine *e, struct mcp_work *w)
{
    if (!mcp_work_is_open(w)) { return; }
    if (w->deadline_ns <= e->now_ns || w->request_deadline_ns <= e->now_ns) {
        time_out(e, w);
    } else if (w->state == MCP_WORK_PAUSED && w->again_ns <= e->now_ns) {
        w->state = MCP_WORK_RESUME;
    }
}

/* ---- lists -------------------------------------------------------------- */

static struct mcp_listing_rules rules_for(const struct mcp_engine *e,
                                          const struct mcp_work *w)
{
    bool modern = e->era == MCP_ERA_MODERN;
    struct mcp_listing_rules rules = {.list = w->is_call ? NULL : &w->of.list,
                                      .server = e->config.server,
                                      .pages_max = e->config.pages_max,
                                      .tools_max = e->config.tools_max,
                                      .modern = modern,
                                      .check_headers = modern &&
                                                       mcp_engine_is_http(e)};

    rules.room = mcp_scratch(e, &rules.room_bytes);
    return rules;
}

static bool hears_changes(const struct mcp_engine *e)
{
    return e->channel.state == MCP_CHANNEL_ON ||
           (!mcp_engine_is_http(e) && e->era == MCP_ERA_LEGACY);
}

static void end_list(struct mcp_engine *e, struct mcp_work *w,
                     const struct mcp_listing_rules *rules)
{
    struct cleat_error why;
    size_t bytes;

    if (mcp_listing_end(&w->listing, rules, &bytes, &why) != CLEAT_OK) {
        fail_with(e, w, &why);
        return;
    }
    if (!hears_changes(e)) { e->unheard = true; }
    succeed(e, w, bytes, w->listing.ttl_ns, false);
}

void mcp_work_nothing(struct mcp_engine *e, struct mcp_work *w)
{
    struct mcp_listing_rules rules = rules_for(e, w);
    struct cleat_error why;

    if (mcp_listing_begin(&w->listing, &rules, &why) != CLEAT_OK) {
        fail_with(e, w, &why);
        return;
    }
    end_list(e, w, &rules);
}

/* On to the page of that cursor. */
static void next_page(struct mcp_engine *e, struct mcp_work *w,
                      const char *text, const struct cleat_json_value *cursor)
{
    if (!mcp_keep(e, &w->cursor, mcp_slice(text, cursor))) {
        mcp_work_fail(e, w, CLEAT_LIMIT, 0, CLEAT_NONE,
                      "a nextCursor is longer than there is room for");
        return;
    }
    w->state = MCP_WORK_DUE;
}

static void take_page(struct mcp_engine *e, struct mcp_work *w,
                      const struct mcp_rpc *rpc)
{
    struct mcp_listing_rules rules = rules_for(e, w);
    struct cleat_json_value cursor;
    struct cleat_error why;
    bool more = false;
    enum cleat_status status = CLEAT_OK;

    if (!w->walking) { status = mcp_listing_begin(&w->listing, &rules, &why); }
    w->walking = true;
    if (status == CLEAT_OK) {
        status = mcp_listing_page(&w->listing, &rules, rpc->text, &rpc->result,
                                  &cursor, &more, &why);
    }
    if (status != CLEAT_OK) {
        fail_with(e, w, &why);
    } else if (more) {
        next_page(e, w, rpc->text, &cursor);
    } else {
        end_list(e, w, &rules);
    }
}

/* -32020 to a call: what is mirrored into headers has changed. The tool's new
 * schema is looked for, and the call is sent once more. */
static void look_for_tool(struct mcp_engine *e, struct mcp_work *w,
                          const struct mcp_rpc *rpc)
{
    struct mcp_listing_rules rules = rules_for(e, w);
    struct cleat_json_value schema;
    struct cleat_json_value cursor;
    struct cleat_error why;
    bool more = false;
    enum cleat_status status;

    if (!w->walking) { memset(&w->listing, 0, sizeof w->listing); }
    w->walking = true;
    status = mcp_listing_look(&w->listing, &rules, rpc->text, &rpc->result,
                              w->of.call.tool, &schema, &cursor, &more, &why);
    if (status == CLEAT_NOT_FOUND && more) {
        next_page(e, w, rpc->text, &cursor);
    } else if (status == CLEAT_NOT_FOUND) {
        mcp_work_fail(e, w, CLEAT_NOT_FOUND, 0, CLEAT_NONE,
                      "it does not list that tool any more");
    } else if (status != CLEAT_OK) {
        fail_with(e, w, &why);
    } else if (!mcp_keep(e, &w->schema, mcp_slice(rpc->text, &schema))) {
        mcp_work_fail(e, w, CLEAT_LIMIT, 0, CLEAT_NONE,
                      "the tool's schema is longer than there is room for");
    } else {
        w->looking = false;
        w->walking = false;
        w->state = MCP_WORK_DUE;
    }
}

/* ---- calls -------------------------------------------------------------- */

static void take_result(struct mcp_engine *e, struct mcp_work *w,
                        const struct mcp_rpc *rpc)
{
    const struct mcp_call *call = &w->of.call;
    struct mcp_member is_error = {.name = "isError"};
    struct cleat_error why;

    if (!mcp_members(rpc->text, &rpc->result, &is_error, 1)) {
        mcp_work_fail(e, w, CLEAT_PEER_DEVIANT, 0, CLEAT_NONE,
                      "its answer to tools/call is no object");
        return;
    }
    if (rpc->result.bytes > call->bytes) {
        (void)mcp_fail(&why, CLEAT_TOO_SMALL,
                       "the result of the call has %zu bytes, the block %zu",
                       rpc->result.bytes, call->bytes);
        why.offset = rpc->result.bytes;
        fail_with(e, w, &why);
        return;
    }
    memcpy(call->block, rpc->text + rpc->result.offset, rpc->result.bytes);
    succeed(e, w, rpc->result.bytes, CLEAT_NONE,
            is_error.there && is_error.value.type == CLEAT_JSON_TRUE);
}

/* The answers to all of a server's questions, as `inputResponses`. */
static bool answer_all(struct mcp_engine *e, const char *text,
                       const struct cleat_json_value *requests,
                       struct mcp_out *out)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value request;
    bool first = true;

    mcp_put(out, "{");
    cleat_json_open(text, requests, &cursor);
    while (cleat_json_next_member(text, &cursor, &key, &request)) {
        struct mcp_member m[] = {{.name = "method"}, {.name = "params"}};
        struct cleat_text params = mcp_text("{}", 2);
        size_t bytes;

        if (!mcp_members(text, &request, m, 2) || !m[0].there ||
            !cleat_json_equals(text, &m[0].value, "elicitation/create")) {
            return false;
        }
        if (m[1].there) { params = mcp_slice(text, &m[1].value); }
        if (!first) { mcp_put(out, ","); }
        mcp_put_text(out, mcp_slice(text, &key));
        mcp_put(out, ":");
        if (out->full || !mcp_ask(e, params, out->to + out->used,
                                  out->room - out->used, &bytes)) {
            return false;
        }
        out->used += bytes;
        first = false;
    }
    mcp_put(out, "}");
    return !out->full;
}

static void deviant(struct mcp_engine *e, struct mcp_work *w, const char *text)
{
    mcp_work_fail(e, w, CLEAT_PEER_DEVIANT, 0, CLEAT_NONE, text);
}

/* MCP 2026-07-28, Multi Round-Trip Requests: the call is sent again with the
 * answers, and with the server's state as it came. */
static void another_round(struct mcp_engine *e, struct mcp_work *w,
                          const struct mcp_rpc *rpc,
                          const struct mcp_member *requests,
                          const struct mcp_member *state)
{
    struct mcp_out out;
    char *room;
    size_t bytes;

    if (!requests->there && !state->there) {
        deviant(e, w, "it wants input, and says not which");
        return;
    }
    if (w->rounds >= MCP_ROUNDS_MAX) {
        mcp_work_fail(e, w, CLEAT_LIMIT, 0, CLEAT_NONE,
                      "it has asked for input in 16 rounds of one call");
        return;
    }
    if (requests->there) {
        room = mcp_scratch(e, &bytes);
        mcp_out_begin(&out, room, bytes);
        if (e->config.answer == NULL ||
            !answer_all(e, rpc->text, &requests->value, &out)) {
            deviant(e, w, "it asks for input that we have not offered");
            return;
        }
        mcp_keep_scratch(e, &w->answers, out.used);
    }
    if (state->there &&
        !mcp_keep(e, &w->state_echoed, mcp_slice(rpc->text, &state->value))) {
        mcp_work_fail(e, w, CLEAT_LIMIT, 0, CLEAT_NONE,
                      "a requestState is longer than there is room for");
        return;
    }
    w->rounds++;
    w->state = MCP_WORK_DUE;
}

static void take_call(struct mcp_engine *e, struct mcp_work *w,
                      const struct mcp_rpc *rpc)
{
    struct mcp_member m[] = {{.name = "resultType"},
                             {.name = "inputRequests"},
                             {.name = "requestState"}};

    if (e->era != MCP_ERA_MODERN ||
        !mcp_members(rpc->text, &rpc->result, m, 3) || !m[0].there ||
        cleat_json_equals(rpc->text, &m[0].value, "complete")) {
        take_result(e, w, rpc);
    } else if (cleat_json_equals(rpc->text, &m[0].value, "input_required")) {
        another_round(e, w, rpc, &m[1], &m[2]);
    } else {
        deviant(e, w, "its result is of a type that we do not know");
    }
}

/* A list is never anything but complete. */
static bool is_complete(const struct mcp_engine *e, const struct mcp_rpc *rpc)
{
    struct mcp_member type = {.name = "resultType"};

    return e->era != MCP_ERA_MODERN ||
           !mcp_members(rpc->text, &rpc->result, &type, 1) || !type.there ||
           cleat_json_equals(rpc->text, &type.value, "complete");
}

void mcp_work_result(struct mcp_engine *e, struct mcp_work *w,
                     const struct mcp_rpc *rpc)
{
    mcp_engine_stand(e, &w->exchange);
    w->request = 0;
    w->request_deadline_ns = CLEAT_NEVER;
    if (is_probe(e, w)) { mcp_session_is_modern(e); }
    e->session.worked = true;
    if (w->is_call && !w->looking) {
        take_call(e, w, rpc);
    } else if (!is_complete(e, rpc)) {
        deviant(e, w, "its answer to tools/list is not a complete result");
    } else if (w->looking) {
        look_for_tool(e, w, rpc);
    } else {
        take_page(e, w, rpc);
    }
}

/* ---- refusals ----------------------------------------------------------- */

enum cleat_status mcp_rpc_status(int64_t code)
{
    switch (code) {
    case MCP_CODE_VERSION_UNSUPPORTED:
    case MCP_CODE_CAPABILITY_MISSING: return CLEAT_UNSUPPORTED;
    case MCP_CODE_HEADER_MISMATCH: return CLEAT_PEER_DEVIANT;
    case -32700: /* it cannot read what we say, or does not know it */
    case -32600:
    case MCP_CODE_METHOD_NOT_FOUND:
    case MCP_CODE_INVALID_PARAMS: return CLEAT_PERMANENT;
    default: return CLEAT_TRANSIENT;
    }
}

int32_t mcp_rpc_port_code(const struct mcp_rpc *rpc)
{
    return rpc != NULL && rpc->kind == MCP_RPC_ERROR &&
                   rpc->code >= INT32_MIN && rpc->code <= INT32_MAX
               ? (int32_t)rpc->code
               : 0;
}

static bool says_more_than_body(uint32_t http_status)
{
    return http_status == 401 || http_status == 403 ||
           (http_status >= 300 &&
            mcp_http_status(http_status) == CLEAT_TRANSIENT);
}

static void fail_refused(struct mcp_engine *e, struct mcp_work *w,
                         uint32_t http_status, const struct mcp_rpc *rpc)
{
    bool is_error = rpc != NULL && rpc->kind == MCP_RPC_ERROR;
    enum cleat_status status;
    int32_t code = (int32_t)http_status;
    uint64_t hint_ns = CLEAT_NONE;
    char said[100] = "";
    char text[CLEAT_ERROR_TEXT_MAX];

    if (is_error && rpc->has_message) {
        mcp_quote_json(e, rpc->text, &rpc->message, said, sizeof said);
    }
    if (is_error && !says_more_than_body(http_status)) {
        status = mcp_work_status(w, mcp_rpc_status(rpc->code));
        code = mcp_rpc_port_code(rpc);
        (void)snprintf(text, sizeof text, "%s was refused with %d%s%s",
                       mcp_work_method(w), (int)code, said[0] ? ": " : "",
                       said);
    } else {
        status = mcp_http_status(http_status);
        if (http_status != 429) { status = mcp_work_status(w, status); }
        hint_ns = w->exchange.retry_after_ns;
        (void)snprintf(text, sizeof text, "%s was answered with HTTP %u%s%s",
                       mcp_work_method(w), (unsigned)http_status,
                       said[0] ? ": " : "", said);
    }
    mcp_work_fail(e, w, status, code, hint_ns, text);
}

/* What a modern server's own errors ask us to do. Returns false where nothing
 * can be done. */
static bool obey(struct mcp_engine *e, struct mcp_work *w,
                 const struct mcp_rpc *rpc)
{
    bool modern;
    bool legacy;

    if (e->era != MCP_ERA_MODERN || w->rounds > 0) { return false; }
    if (rpc->code == MCP_CODE_VERSION_UNSUPPORTED) {
        mcp_session_supported(rpc, &modern, &legacy);
        if (modern && !w->renegotiated) {
            w->renegotiated = true;
            mcp_work_again(e, w);
            return true;
        }
        if (!modern && legacy && mcp_session_may_turn(e)) {
            mcp_work_again(e, w);
            mcp_session_is_legacy(e);
            return true;
        }
    }
    if (rpc->code == MCP_CODE_HEADER_MISMATCH && !w->realigned &&
        mcp_engine_is_http(e)) {
        w->realigned = true;
        w->looking = w->is_call;
        e->changed = true;
        mcp_work_again(e, w);
        return true;
    }
    return false;
}

/* A cursor that was good a moment ago is not any more: from the start, once. */
static bool restarts(struct mcp_engine *e, struct mcp_work *w,
                     const struct mcp_rpc *rpc)
{
    if (w->is_call || !w->walking || w->restarted ||
        rpc->code != MCP_CODE_INVALID_PARAMS) {
        return false;
    }
    w->restarted = true;
    mcp_work_again(e, w);
    return true;
}

/* MCP 2025-11-25, Session Management: 404, and some servers say 400. For a call
 * a 400 that names its id is an answer. */
static bool is_session_loss(const struct mcp_engine *e,
                            const struct mcp_work *w, uint32_t http_status,
                            const struct mcp_rpc *rpc)
{
    bool own = rpc != NULL && mcp_rpc_number(rpc) == w->request;

    if (http_status != 400 && http_status != 404) { return false; }
    if (e->session.id_bytes == 0 && w->session == e->session.number) {
        return false;
    }
    return !(w->is_call && http_status == 400 && own);
}

/* The server behind that URL has become a modern one. */
static bool is_modern_now(const struct mcp_engine *e, const struct mcp_rpc *rpc)
{
    return mcp_engine_is_http(e) && rpc != NULL && rpc->kind == MCP_RPC_ERROR &&
           (rpc->code == MCP_CODE_VERSION_UNSUPPORTED ||
            rpc->code == MCP_CODE_HEADER_MISMATCH);
}

static bool has_lost_session(struct mcp_engine *e, struct mcp_work *w,
                             uint32_t http_status, const struct mcp_rpc *rpc)
{
    uint32_t number = w->session;

    if (e->era != MCP_ERA_LEGACY || w->resent ||
        !(is_session_loss(e, w, http_status, rpc) || is_modern_now(e, rpc))) {
        return false;
    }
    w->resent = true;
    mcp_work_again(e, w);
    mcp_session_again(e, number);
    return true;
}

static bool turns_legacy(struct mcp_engine *e, struct mcp_work *w,
                         uint32_t http_status, const struct mcp_rpc *rpc)
{
    bool unproven = e->era == MCP_ERA_MODERN && !e->session.worked &&
                    !e->session.decided;

    if (!(is_probe(e, w) || unproven) || !mcp_session_may_turn(e) ||
        !mcp_session_is_era_refusal(http_status, rpc) ||
        (w->is_call && http_status < 300)) {
        return false;
    }
    mcp_work_again(e, w);
    mcp_session_is_legacy(e);
    return true;
}

/* The answer is that of a server of the other era, after all that was tried:
 * what was known of it holds no more. */
static bool refuses_both(struct mcp_engine *e, uint32_t http_status,
                         const struct mcp_rpc *rpc)
{
    bool in_vain = e->session.flips > 0 && !e->session.worked;

    if (e->era != MCP_ERA_MODERN || http_status < 300 ||
        !mcp_session_is_era_refusal(http_status, rpc)) {
        return false;
    }
    e->session.worked = false;
    e->session.decided = false;
    if (in_vain) {
        mcp_session_fail(e, CLEAT_UNSUPPORTED, (int32_t)http_status, CLEAT_NONE,
                         "it refuses requests of both eras");
    }
    return in_vain;
}

void mcp_work_refused(struct mcp_engine *e, struct mcp_work *w,
                      uint32_t http_status, const struct mcp_rpc *rpc)
{
    mcp_engine_stand(e, &w->exchange);
    w->request_deadline_ns = CLEAT_NEVER;
    if (w->resumptions > 0 && http_status >= 300) {
        mcp_work_fail(e, w, mcp_work_status(w, CLEAT_SHORT),
                      (int32_t)http_status, CLEAT_NONE,
                      "its answer's stream has ended, and is not resumed");
        return;
    }
    if (e->old_sse && (http_status == 400 || http_status == 404)) {
        mcp_session_fail(e, CLEAT_TRANSIENT, (int32_t)http_status, CLEAT_NONE,
                         "its session is gone");
        return;
    }
    if (turns_legacy(e, w, http_status, rpc)) { return; }
    if (is_probe(e, w) && mcp_session_is_modern_error(http_status, rpc)) {
        mcp_session_is_modern(e);
    }
    if (has_lost_session(e, w, http_status, rpc)) { return; }
    if (rpc != NULL && rpc->kind == MCP_RPC_ERROR &&
        (obey(e, w, rpc) || restarts(e, w, rpc))) {
        return;
    }
    if (refuses_both(e, http_status, rpc)) { return; }
    fail_refused(e, w, http_status, rpc);
}

/* ---- HTTP --------------------------------------------------------------- */

void mcp_work_response(struct mcp_engine *e, struct mcp_work *w,
                       const struct mcp_told_it *told)
{
    if (told->http_status >= 300 || told->is_json || told->is_stream ||
        e->old_sse) {
        return;
    }
    mcp_work_withdraw(e, w);
    mcp_work_fail(e, w, CLEAT_PEER_DEVIANT, (int32_t)told->http_status,
                  CLEAT_NONE,
                  "it answers with neither application/json nor "
                  "text/event-stream");
}

void mcp_work_ended(struct mcp_engine *e, struct mcp_work *w,
                    enum cleat_status status, struct cleat_text text)
{
    bool resumable = e->era == MCP_ERA_LEGACY && w->exchange.is_stream &&
                     w->event_id_bytes > 0 && !e->old_sse &&
                     w->resumptions < MCP_RESUMPTIONS_MAX;
    bool began = w->exchange.http_status != 0 || w->resumptions > 0;
    char said[120];
    char whole[CLEAT_ERROR_TEXT_MAX];

    w->exchange.number = 0;
    /* The old HTTP+SSE answers on its stream. */
    if (e->old_sse && status == CLEAT_OK) { return; }
    if (resumable && (status == CLEAT_OK ||
                      cleat_status_class(status) != CLEAT_CLASS_PERMANENT)) {
        w->resumptions++;
        w->state = MCP_WORK_PAUSED;
        w->again_ns = cleat_time_add(
            e->now_ns, w->retry_ns != 0 ? w->retry_ns : MCP_RETRY_NS);
        return;
    }
    mcp_quote(e, text, said, sizeof said);
    (void)snprintf(whole, sizeof whole, "no answer to %s%s%s",
                   mcp_work_method(w), said[0] != '\0' ? ": " : "", said);
    if (status == CLEAT_OK) {
        status = CLEAT_SHORT;
        (void)snprintf(whole, sizeof whole,
                       "its answer to %s ended before it was whole",
                       mcp_work_method(w));
    }
    if (began || status != CLEAT_TRANSIENT) {
        status = mcp_work_status(w, status);
    }
    mcp_work_fail(e, w, status, 0, CLEAT_NONE, whole);
}
