/* Cleat: what an MCP engine is told, sorted. SPDX-License-Identifier:
 * Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "engine_state.h"
#include "headers.h"

/* ---- who it is for ------------------------------------------------------ */

enum owner_kind { NOBODY, SESSION, CHANNEL, WORK };

struct owner {
    enum owner_kind kind;
    struct mcp_exchange *exchange;
    struct mcp_work *work;
};

static struct owner nobody(void)
{
    struct owner owner = {NOBODY, NULL, NULL};

    return owner;
}

static struct owner of_session(struct mcp_engine *e)
{
    struct owner owner = {SESSION, &e->session.exchange, NULL};

    return owner;
}

static struct owner of_channel(struct mcp_engine *e)
{
    struct owner owner = {CHANNEL, &e->channel.exchange, NULL};

    return owner;
}

static struct owner of_work(struct mcp_work *w)
{
    struct owner owner = {WORK, &w->exchange, w};

    return owner;
}

static struct owner owner_of_exchange(struct mcp_engine *e, uint64_t exchange)
{
    if (exchange == 0) { return nobody(); }
    if (e->session.exchange.number == exchange) { return of_session(e); }
    if (e->channel.exchange.number == exchange) { return of_channel(e); }
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (mcp_work_is_out(w) && w->exchange.number == exchange) {
            return of_work(w);
        }
    }
    return nobody();
}

static struct owner owner_of_request(struct mcp_engine *e, uint64_t request)
{
    if (request == 0) { return nobody(); }
    if (e->session.request == request) { return of_session(e); }
    if (e->channel.request == request &&
        (e->channel.state == MCP_CHANNEL_SENT ||
         e->channel.state == MCP_CHANNEL_ON)) {
        return of_channel(e);
    }
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (mcp_work_is_out(w) && w->request == request) { return of_work(w); }
    }
    return nobody();
}

/* The one that waits for an answer, where it is only one. */
static struct owner only_owner(struct mcp_engine *e)
{
    struct owner owner = nobody();
    size_t count = 0;

    if (e->session.request != 0) {
        owner = of_session(e);
        count++;
    }
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (mcp_work_is_out(w) && w->request != 0) {
            owner = of_work(w);
            count++;
        }
    }
    return count == 1 ? owner : nobody();
}

/* ---- what a server asks ------------------------------------------------- */

bool mcp_ask(struct mcp_engine *e, struct cleat_text params, char *to,
             size_t room, size_t *bytes)
{
    static const char declined[] = "{\"action\":\"decline\"}";
    struct cleat_mcp_question question = {
        e->config.server, mcp_text("elicitation/create", 18), params};
    struct cleat_json_value root;

    *bytes = 0;
    if (e->config.answer != NULL &&
        e->config.answer(e->config.answer_context, &question, to, room,
                         bytes) == CLEAT_OK &&
        *bytes <= room &&
        cleat_json_check(to, *bytes, NULL, &root, NULL) == CLEAT_OK &&
        root.type == CLEAT_JSON_OBJECT) {
        memmove(to, to + root.offset, root.bytes);
        *bytes = root.bytes;
        return true;
    }
    *bytes = sizeof declined - 1;
    if (room < *bytes) { return false; }
    memcpy(to, declined, *bytes);
    return true;
}

static void answer_elicitation(struct mcp_engine *e, const struct mcp_rpc *rpc,
                               struct mcp_queued *queued)
{
    struct cleat_text params = mcp_text("{}", 2);
    size_t room;
    size_t bytes;
    char *to = mcp_scratch(e, &room);

    if (rpc->has_params) { params = mcp_slice(rpc->text, &rpc->params); }
    queued->what = MCP_QUEUED_REFUSAL;
    if (mcp_ask(e, params, to, room, &bytes)) {
        mcp_keep_scratch(e, &queued->answer, bytes);
        queued->what = MCP_QUEUED_ANSWER;
    }
}

/* Only servers of the older era ask by requests of their own. */
static void hear_request(struct mcp_engine *e, const struct mcp_rpc *rpc)
{
    struct mcp_queued *queued;

    if (mcp_engine_is_modern(e) || rpc->id.bytes > MCP_ID_BYTES_MAX) { return; }
    queued = mcp_engine_queue(e, MCP_QUEUED_REFUSAL, 0);
    if (queued == NULL) { return; }
    memcpy(queued->id, rpc->text + rpc->id.offset, rpc->id.bytes);
    queued->id_bytes = rpc->id.bytes;
    if (cleat_json_equals(rpc->text, &rpc->method, "ping")) {
        queued->what = MCP_QUEUED_PONG;
    } else if (e->config.answer != NULL &&
               cleat_json_equals(rpc->text, &rpc->method,
                                 "elicitation/create")) {
        answer_elicitation(e, rpc, queued);
    }
}

/* ---- notifications ------------------------------------------------------ */

/* Whether a notification of a subscription is of ours: the id of our request,
 * with its type. One that names none is taken for ours. */
static bool is_ours(const struct mcp_engine *e, const struct mcp_rpc *rpc,
                    bool must_be_named)
{
    struct mcp_member meta = {.name = "_meta"};
    struct mcp_member id = {.name = "io.modelcontextprotocol/subscriptionId"};
    uint64_t number;

    if (!rpc->has_params || !mcp_members(rpc->text, &rpc->params, &meta, 1) ||
        !meta.there || !mcp_members(rpc->text, &meta.value, &id, 1) ||
        !id.there) {
        return !must_be_named;
    }
    return cleat_json_u64(rpc->text, &id.value, &number, NULL) == CLEAT_OK &&
           number == e->channel.request && number != 0;
}

static void hear_acknowledged(struct mcp_engine *e, const struct mcp_rpc *rpc)
{
    struct mcp_member filter = {.name = "notifications"};
    struct mcp_member changed = {.name = "toolsListChanged"};
    bool honoured;

    if (e->channel.state != MCP_CHANNEL_SENT || !is_ours(e, rpc, false)) {
        return;
    }
    honoured = rpc->has_params &&
               mcp_members(rpc->text, &rpc->params, &filter, 1) &&
               filter.there &&
               mcp_members(rpc->text, &filter.value, &changed, 1) &&
               changed.there && changed.value.type == CLEAT_JSON_TRUE;
    mcp_channel_acknowledged(e, honoured);
}

/* A server ends our subscription so, over stdio. */
static void hear_cancelled(struct mcp_engine *e, const struct mcp_rpc *rpc)
{
    struct mcp_member id = {.name = "requestId"};
    uint64_t number = 0;

    if (!rpc->has_params || !mcp_members(rpc->text, &rpc->params, &id, 1) ||
        !id.there ||
        cleat_json_u64(rpc->text, &id.value, &number, NULL) != CLEAT_OK) {
        return;
    }
    if (number != 0 && number == e->channel.request &&
        (e->channel.state == MCP_CHANNEL_SENT ||
         e->channel.state == MCP_CHANNEL_ON)) {
        e->channel.state = MCP_CHANNEL_ON; /* no need to cancel it back */
        mcp_channel_lost(e);
    }
}

static void hear_notification(struct mcp_engine *e, const struct mcp_rpc *rpc)
{
    const char *text = rpc->text;
    const struct cleat_json_value *method = &rpc->method;

    if (cleat_json_equals(text, method, "notifications/tools/list_changed")) {
        if (e->era != MCP_ERA_MODERN || is_ours(e, rpc, false)) {
            e->changed = true;
        }
    } else if (cleat_json_equals(text, method,
                                 "notifications/subscriptions/acknowledged")) {
        hear_acknowledged(e, rpc);
    } else if (cleat_json_equals(text, method, "notifications/cancelled")) {
        hear_cancelled(e, rpc);
    }
}

/* ---- answers ------------------------------------------------------------ */

static void hear_answer(struct mcp_engine *e, struct owner owner,
                        uint32_t http_status, const struct mcp_rpc *rpc)
{
    bool is_result = rpc->kind == MCP_RPC_RESULT;

    switch (owner.kind) {
    case NOBODY: break; /* late, twice, or never asked for */
    case SESSION:
        if (is_result) {
            mcp_session_result(e, rpc);
        } else {
            mcp_session_refused(e, http_status, rpc);
        }
        break;
    case CHANNEL:
        if (is_result) {
            e->channel.state = MCP_CHANNEL_ON; /* ended by the server */
            mcp_channel_lost(e);
        } else {
            mcp_channel_refused(e, http_status, rpc);
        }
        break;
    case WORK:
        if (is_result) {
            mcp_work_result(e, owner.work, rpc);
        } else {
            mcp_work_refused(e, owner.work, http_status, rpc);
        }
        break;
    }
}

/* An error without an id belongs to what it came back for. */
static struct owner owner_of_answer(struct mcp_engine *e, uint64_t exchange,
                                    const struct mcp_rpc *rpc)
{
    if (rpc->kind == MCP_RPC_ERROR && !rpc->has_id) {
        return mcp_engine_is_http(e) ? owner_of_exchange(e, exchange)
                                     : only_owner(e);
    }
    return owner_of_request(e, mcp_rpc_number(rpc));
}

static void hear_noise(struct mcp_engine *e)
{
    e->session.noise++;
    if (e->session.noise == MCP_NOISE_MAX &&
        e->session.phase != MCP_PHASE_CLOSED &&
        e->session.phase != MCP_PHASE_CLOSING) {
        mcp_session_fail(e, CLEAT_PEER_DEVIANT, 0, CLEAT_NONE,
                         "1000 of its lines are no JSON-RPC messages");
    }
}

static void hear_one(struct mcp_engine *e, const struct mcp_told_it *told,
                     const struct cleat_json_value *value)
{
    struct mcp_rpc rpc;

    mcp_rpc_open(&rpc, told->text.text, value);
    switch (rpc.kind) {
    case MCP_RPC_NONE: hear_noise(e); break;
    case MCP_RPC_REQUEST: hear_request(e, &rpc); break;
    case MCP_RPC_NOTIFICATION: hear_notification(e, &rpc); break;
    case MCP_RPC_RESULT:
    case MCP_RPC_ERROR:
        hear_answer(e, owner_of_answer(e, told->exchange, &rpc), 0, &rpc);
        break;
    }
}

/* ---- messages ----------------------------------------------------------- */

static void fail_owner(struct mcp_engine *e, struct owner owner,
                       enum cleat_status status, const char *text)
{
    switch (owner.kind) {
    case NOBODY: break;
    case CHANNEL:
        mcp_channel_ended(e, status, mcp_text(text, strlen(text)));
        break;
    case SESSION: mcp_session_fail(e, status, 0, CLEAT_NONE, text); break;
    case WORK:
        mcp_work_withdraw(e, owner.work);
        mcp_work_fail(e, owner.work, status, 0, CLEAT_NONE, text);
        break;
    }
}

/* Over stdio anything may come between messages; but a line that wants to be
 * one, and is broken, will not come again: if only one answer is awaited, it
 * was that. */
static bool wants_to_be_message(struct cleat_text text)
{
    static const char mark[] = "\"jsonrpc\"";
    size_t size = sizeof mark - 1;

    for (size_t i = 0; i + size <= text.bytes; i++) {
        if (text.text[i] == '"' && memcmp(text.text + i, mark, size) == 0) {
            return true;
        }
    }
    return false;
}

static void hear_garbage(struct mcp_engine *e, const struct mcp_told_it *told,
                         const struct cleat_error *why)
{
    struct owner owner = owner_of_exchange(e, told->exchange);
    char text[CLEAT_ERROR_TEXT_MAX];

    if (!mcp_engine_is_http(e)) {
        owner = wants_to_be_message(told->text) ? only_owner(e) : nobody();
    }
    if (owner.kind == NOBODY) {
        hear_noise(e);
        return;
    }
    (void)snprintf(text, sizeof text,
                   "its answer cannot be read: %.100s (byte %llu of %zu)",
                   why->text, (unsigned long long)why->offset,
                   told->text.bytes);
    fail_owner(e, owner, why->status, text);
}

/* What came with an HTTP status that is no success. */
static void hear_refusal(struct mcp_engine *e, struct owner owner,
                         const struct cleat_json_value *root,
                         const struct mcp_told_it *told)
{
    uint32_t http_status = owner.exchange->http_status;
    struct mcp_rpc rpc;
    bool is_error = false;

    if (root != NULL) {
        mcp_rpc_open(&rpc, told->text.text, root);
        is_error = rpc.kind == MCP_RPC_ERROR;
    }
    switch (owner.kind) {
    case NOBODY: break;
    case SESSION:
        mcp_session_refused(e, http_status, is_error ? &rpc : NULL);
        break;
    case CHANNEL:
        mcp_channel_refused(e, http_status, is_error ? &rpc : NULL);
        break;
    case WORK:
        mcp_work_refused(e, owner.work, http_status, is_error ? &rpc : NULL);
        break;
    }
}

static void note_event_id(struct mcp_engine *e, const struct mcp_told_it *told)
{
    struct owner owner = owner_of_exchange(e, told->exchange);
    char *id = NULL;
    size_t *bytes = NULL;
    uint64_t *retry_ns = NULL;

    if (owner.kind == WORK) {
        id = owner.work->event_id;
        bytes = &owner.work->event_id_bytes;
        retry_ns = &owner.work->retry_ns;
    } else if (owner.kind == CHANNEL) {
        id = e->channel.event_id;
        bytes = &e->channel.event_id_bytes;
        retry_ns = &e->channel.retry_ns;
    } else {
        return;
    }
    if (told->retry_ns != CLEAT_NONE) { *retry_ns = told->retry_ns; }
    if (told->id.bytes > 0 && told->id.bytes <= MCP_EVENT_ID_BYTES_MAX &&
        mcp_headers_plain(told->id)) {
        memcpy(id, told->id.text, told->id.bytes);
        *bytes = told->id.bytes;
    }
}

static void hear_message(struct mcp_engine *e, const struct mcp_told_it *told)
{
    struct cleat_json_limits limits = {e->config.message_bytes_max, 0};
    struct owner owner = owner_of_exchange(e, told->exchange);
    struct cleat_json_value root;
    struct cleat_json_value item;
    struct cleat_json_cursor cursor;
    struct cleat_error why;
    enum cleat_status status;

    e->session.heard++;
    note_event_id(e, told);
    status = cleat_json_check(told->text.text, told->text.bytes, &limits, &root,
                              &why);
    if (owner.kind != NOBODY && owner.exchange->http_status >= 300) {
        hear_refusal(e, owner, status == CLEAT_OK ? &root : NULL, told);
    } else if (status != CLEAT_OK) {
        hear_garbage(e, told, &why);
    } else if (root.type == CLEAT_JSON_ARRAY) {
        /* A batch (MCP 2025-03-26). */
        cleat_json_open(told->text.text, &root, &cursor);
        while (cleat_json_next_item(told->text.text, &cursor, &item)) {
            hear_one(e, told, &item);
        }
    } else {
        hear_one(e, told, &root);
    }
}

/* ---- the rest of HTTP --------------------------------------------------- */

static void hear_response(struct mcp_engine *e, const struct mcp_told_it *told)
{
    struct owner owner = owner_of_exchange(e, told->exchange);

    if (owner.kind == NOBODY) { return; }
    owner.exchange->http_status = told->http_status;
    owner.exchange->is_stream = told->is_stream;
    owner.exchange->retry_after_ns = told->retry_after_ns;
    switch (owner.kind) {
    case NOBODY: break;
    case SESSION: mcp_session_response(e, told); break;
    case CHANNEL: mcp_channel_response(e, told); break;
    case WORK: mcp_work_response(e, owner.work, told); break;
    }
}

static void hear_end(struct mcp_engine *e, const struct mcp_told_it *told)
{
    struct owner owner = owner_of_exchange(e, told->exchange);
    enum cleat_status status = told->what == MCP_END ? CLEAT_OK : told->status;

    for (size_t i = 0; i < MCP_ENGINE_STANDING_MAX; i++) {
        if (e->standing[i].exchange == told->exchange) {
            e->standing[i].exchange = 0;
        }
    }
    if (told->what == MCP_FAILED && status >= CLEAT_OK) {
        status = CLEAT_SHORT;
    }
    if (owner.kind != NOBODY && owner.exchange->http_status >= 300) {
        hear_refusal(e, owner, NULL, told);
        return;
    }
    switch (owner.kind) {
    case NOBODY: break;
    case SESSION: mcp_session_ended(e, status, told->text); break;
    case CHANNEL:
        e->channel.exchange.number = 0;
        mcp_channel_ended(e, status, told->text);
        break;
    case WORK: mcp_work_ended(e, owner.work, status, told->text); break;
    }
}

void mcp_hear(struct mcp_engine *e, const struct mcp_told_it *told)
{
    enum mcp_phase phase = e->session.phase;

    /* What comes while the session is being closed asks for answers in vain. */
    if (phase == MCP_PHASE_CLOSED ||
        (phase == MCP_PHASE_CLOSING && told->what != MCP_CLOSED)) {
        return;
    }
    switch (told->what) {
    case MCP_OPENED: mcp_session_opened(e); break;
    case MCP_MESSAGE: hear_message(e, told); break;
    case MCP_RESPONSE: hear_response(e, told); break;
    case MCP_EVENT:
        note_event_id(e, told);
        if (owner_of_exchange(e, told->exchange).kind == CHANNEL) {
            mcp_channel_event(e, told);
        }
        break;
    case MCP_END:
    case MCP_FAILED: hear_end(e, told); break;
    case MCP_CLOSED: mcp_session_closed(e, told->status, told->text); break;
    }
}
