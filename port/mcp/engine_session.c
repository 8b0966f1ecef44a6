/* Cleat: an MCP engine's session: eras, the handshake, the channel for changes.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "engine_state.h"
#include "headers.h"

#define FLIPS_MAX 3u

/* How far apart a lost channel is opened again. */
static const struct cleat_retry_policy channel_policy = {
    1 * CLEAT_NS_PER_S,
    60 * CLEAT_NS_PER_S,
    0,
    CLEAT_NONE,
    CLEAT_NONE,
    CLEAT_NONE,
    CLEAT_RETRY_UNLIMITED,
    2000,
    CLEAT_RETRY_JITTER_EQUAL,
    CLEAT_RETRY_IDEMPOTENT};

/* ---- phases ------------------------------------------------------------- */

static void enter(struct mcp_engine *e, enum mcp_phase phase, enum mcp_say say)
{
    e->session.phase = phase;
    e->session.say = say;
    e->session.deadline_ns = CLEAT_NEVER;
    e->session.request = 0;
    e->session.exchange.number = 0;
}

static void enter_ready(struct mcp_engine *e, enum mcp_say say)
{
    enter(e, MCP_PHASE_READY, say);
    e->session.channel_wait_ns = cleat_time_add(e->now_ns, MCP_CHANNEL_NS);
    if (!mcp_engine_is_http(e) && e->era == MCP_ERA_LEGACY) {
        /* Over stdio an older server tells of changes by itself. */
        mcp_channel_acknowledged(e, true);
        e->channel.state = MCP_CHANNEL_NONE;
    }
}

static void greet(struct mcp_engine *e)
{
    e->session.version[0] = '\0';
    e->session.id_bytes = 0;
    enter(e, MCP_PHASE_GREETING, MCP_SAY_INITIALIZE);
}

static void connect(struct mcp_engine *e)
{
    mcp_channel_off(e);
    enter(e, MCP_PHASE_CONNECTING, MCP_SAY_CONNECT);
}

static void close_session(struct mcp_engine *e)
{
    if (e->session.phase == MCP_PHASE_OPENING &&
        e->session.say == MCP_SAY_OPEN) {
        enter(e, MCP_PHASE_CLOSED, MCP_SAY_NOTHING); /* nobody has begun */
        return;
    }
    e->channel.state = MCP_CHANNEL_OFF;
    e->channel.exchange.number = 0;
    enter(e, MCP_PHASE_CLOSING, MCP_SAY_CLOSE);
}

bool mcp_session_may_turn(const struct mcp_engine *e)
{
    return e->config.era == CLEAT_MCP_ERA_AUTO &&
           e->config.wire != MCP_WIRE_SSE && e->session.flips < FLIPS_MAX;
}

void mcp_session_is_modern(struct mcp_engine *e)
{
    if (e->old_sse) { /* it is not that any more */
        mcp_channel_off(e);
        e->old_sse = false;
        e->session.endpoint_bytes = 0;
    }
    e->era = MCP_ERA_MODERN;
    e->session.decided = true;
    enter_ready(e, MCP_SAY_NOTHING);
}

void mcp_session_is_legacy(struct mcp_engine *e)
{
    mcp_channel_off(e);
    e->era = MCP_ERA_LEGACY;
    e->session.decided = true;
    e->session.flips++;
    e->session.number++;
    greet(e);
}

static bool has_work(const struct mcp_engine *e)
{
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        if (e->works[i].state == MCP_WORK_WAITING) { return true; }
    }
    return e->open_wanted;
}

/* HTTP, and nothing is known of the server: the first list asks in the newer
 * revision, and its answer decides. A call does not: it would have to be sent
 * twice. */
static void probe(struct mcp_engine *e)
{
    e->session.probe = MCP_ENGINE_OPERATIONS_MAX;
    for (uint32_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (w->state == MCP_WORK_WAITING && !w->is_call) {
            e->session.probe = i;
            w->state = MCP_WORK_DUE;
            enter(e, MCP_PHASE_PROBING, MCP_SAY_NOTHING);
            return;
        }
    }
    enter(e, MCP_PHASE_PROBING, MCP_SAY_DISCOVER);
}

static void decide(struct mcp_engine *e)
{
    if (!has_work(e)) { return; }
    if (e->old_sse) {
        connect(e);
    } else if (e->era == MCP_ERA_MODERN) {
        enter_ready(e, MCP_SAY_NOTHING);
    } else if (e->era == MCP_ERA_LEGACY || !mcp_engine_is_http(e)) {
        greet(e);
    } else {
        probe(e);
    }
}

/* ---- what waits for a session that is ready ----------------------------- */

static bool wants_channel(const struct mcp_engine *e)
{
    if (!mcp_engine_is_http(e) && e->era == MCP_ERA_LEGACY) { return false; }
    return e->follow || (e->era == MCP_ERA_LEGACY && e->config.answer != NULL);
}

static void ready_channel(struct mcp_engine *e)
{
    if (e->old_sse) { return; }
    if (!wants_channel(e)) {
        if (e->channel.state != MCP_CHANNEL_NONE) { mcp_channel_off(e); }
    } else if (e->channel.state == MCP_CHANNEL_OFF) {
        e->channel.state = MCP_CHANNEL_DUE;
        cleat_retry_begin(&e->channel.backoff, &channel_policy, e->now_ns);
    }
}

/* Over legacy HTTP a server may ask something during a call, on the channel,
 * and loses its question where that is not open yet. */
static bool waits_for_channel(const struct mcp_engine *e,
                              const struct mcp_work *w)
{
    return w->is_call && e->config.answer != NULL && e->era == MCP_ERA_LEGACY &&
           (e->channel.state == MCP_CHANNEL_DUE ||
            e->channel.state == MCP_CHANNEL_SENT) &&
           e->now_ns < e->session.channel_wait_ns;
}

static void ready_works(struct mcp_engine *e)
{
    bool no_tools = e->era == MCP_ERA_LEGACY && !e->session.has_tools;

    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (w->state != MCP_WORK_WAITING) { continue; }
        if (!no_tools) {
            if (!waits_for_channel(e, w)) { w->state = MCP_WORK_DUE; }
        } else if (w->is_call) {
            mcp_work_fail(e, w, CLEAT_UNSUPPORTED, 0, CLEAT_NONE,
                          "it has no tools (capabilities.tools is absent)");
        } else {
            mcp_work_nothing(e, w);
        }
    }
}

void mcp_session_pump(struct mcp_engine *e)
{
    if (e->session.phase == MCP_PHASE_CLOSED && has_work(e)) {
        uint32_t number = e->session.number;

        memset(&e->session, 0, sizeof e->session);
        e->session.number = number + 1;
        enter(e, MCP_PHASE_OPENING, MCP_SAY_OPEN);
    }
    if (e->session.phase == MCP_PHASE_DECIDING) { decide(e); }
    if (e->session.phase == MCP_PHASE_READY) {
        ready_channel(e);
        ready_works(e);
    }
}

/* ---- ends --------------------------------------------------------------- */

void mcp_session_fail(struct mcp_engine *e, enum cleat_status status,
                      int32_t port_code, uint64_t hint_ns, const char *text)
{
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (mcp_work_is_open(w)) {
            mcp_work_fail(e, w, mcp_work_status(w, status), port_code, hint_ns,
                          text);
        }
    }
    e->open_wanted = false;
    close_session(e);
}

static const char *asked(const struct mcp_engine *e)
{
    switch (e->session.phase) {
    case MCP_PHASE_OPENING: return "its start";
    case MCP_PHASE_PROBING: return "server/discover";
    case MCP_PHASE_CONNECTING: return "GET";
    case MCP_PHASE_CONFIRMING: return "notifications/initialized";
    default: return "initialize";
    }
}

void mcp_session_expire(struct mcp_engine *e)
{
    char text[CLEAT_ERROR_TEXT_MAX];

    if (e->session.deadline_ns > e->now_ns ||
        e->session.deadline_ns == CLEAT_NEVER) {
        return;
    }
    if (e->session.phase == MCP_PHASE_LEAVING) {
        close_session(e);
        return;
    }
    (void)snprintf(text, sizeof text, "no answer to %s within %u ms", asked(e),
                   (unsigned)(e->config.request_ns / CLEAT_NS_PER_MS));
    mcp_session_fail(e, CLEAT_PEER_SILENT, 0, CLEAT_NONE, text);
}

void mcp_session_opened(struct mcp_engine *e)
{
    if (e->session.phase == MCP_PHASE_OPENING) {
        enter(e, MCP_PHASE_DECIDING, MCP_SAY_NOTHING);
    }
}

/* initialize was refused for its era, and the server has ended before it could
 * be asked in the other: started again, it is asked so at once. */
static bool begins_anew(struct mcp_engine *e)
{
    bool is_so = e->session.turned && !e->session.worked;

    for (size_t i = 0; is_so && i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (mcp_work_is_open(w) && (!w->is_call || !mcp_work_is_out(w))) {
            mcp_work_again(e, w);
        }
    }
    return is_so;
}

void mcp_session_closed(struct mcp_engine *e, enum cleat_status status,
                        struct cleat_text text)
{
    enum mcp_phase phase = e->session.phase;
    bool anew = phase == MCP_PHASE_READY && begins_anew(e);
    char shown[CLEAT_ERROR_TEXT_MAX];

    if (phase == MCP_PHASE_CLOSED) { return; }
    if (status >= CLEAT_OK) { status = CLEAT_TRANSIENT; }
    mcp_quote(e, text, shown, sizeof shown);
    if (shown[0] == '\0') { (void)snprintf(shown, sizeof shown, "it is gone"); }
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];
        bool stays = w->state == MCP_WORK_WAITING &&
                     (anew || phase == MCP_PHASE_CLOSING);

        if (mcp_work_is_open(w) && !stays) {
            mcp_work_fail(e, w, mcp_work_status(w, status), 0, CLEAT_NONE,
                          shown);
        }
    }
    if (phase == MCP_PHASE_READY) { e->unheard = true; }
    if (e->config.era == CLEAT_MCP_ERA_AUTO && !e->session.worked &&
        !e->session.decided && e->config.wire != MCP_WIRE_SSE) {
        e->era = MCP_ERA_UNKNOWN; /* it was remembered, and not confirmed */
        e->old_sse = false;
    }
    if (!anew && phase != MCP_PHASE_CLOSING) { e->open_wanted = false; }
    mcp_engine_forget(e);
    e->cancels_count = 0;
    memset(&e->channel, 0, sizeof e->channel);
    memset(e->standing, 0, sizeof e->standing);
    enter(e, MCP_PHASE_CLOSED, MCP_SAY_NOTHING);
}

void mcp_session_close(struct mcp_engine *e)
{
    close_session(e);
}

void mcp_session_end(struct mcp_engine *e)
{
    switch (e->session.phase) {
    case MCP_PHASE_CLOSED:
    case MCP_PHASE_CLOSING:
    case MCP_PHASE_LEAVING: return;
    default: break;
    }
    if (e->session.id_bytes == 0 || e->config.grace_ns == 0) {
        close_session(e);
        return;
    }
    mcp_channel_off(e);
    enter(e, MCP_PHASE_LEAVING, MCP_SAY_DELETE);
    e->session.deadline_ns = cleat_time_add(e->now_ns, e->config.grace_ns);
}

/* Other operations may have found out before this one. */
void mcp_session_again(struct mcp_engine *e, uint32_t number)
{
    if (e->session.phase != MCP_PHASE_READY || e->session.number != number) {
        return;
    }
    e->session.number++;
    e->unheard = true;
    mcp_engine_forget(e); /* what it has asked, and was asked, is lost too */
    mcp_channel_off(e);
    greet(e);
}

/* ---- what refusals mean ------------------------------------------------- */

void mcp_session_supported(const struct mcp_rpc *rpc, bool *modern,
                           bool *legacy)
{
    struct mcp_member supported = {.name = "supported"};
    struct cleat_json_cursor cursor;
    struct cleat_json_value item;
    struct cleat_json_value none = {0, 1, CLEAT_JSON_NULL};

    *modern = false;
    *legacy = false;
    if (rpc->has_data) {
        (void)mcp_members(rpc->text, &rpc->data, &supported, 1);
    }
    cleat_json_open(rpc->text, supported.there ? &supported.value : &none,
                    &cursor);
    while (cleat_json_next_item(rpc->text, &cursor, &item)) {
        static const char *const versions[] = {"2025-11-25", "2025-06-18",
                                               "2025-03-26", "2024-11-05"};

        if (cleat_json_equals(rpc->text, &item, MCP_MODERN_VERSION)) {
            *modern = true;
        }
        for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
            if (cleat_json_equals(rpc->text, &item, versions[i])) {
                *legacy = true;
            }
        }
    }
}

/* MCP 2026-07-28, Streamable HTTP, Backward Compatibility. */
bool mcp_session_is_modern_error(uint32_t http_status,
                                 const struct mcp_rpc *rpc)
{
    if (rpc == NULL || rpc->kind != MCP_RPC_ERROR) { return false; }
    return rpc->code == MCP_CODE_HEADER_MISMATCH ||
           rpc->code == MCP_CODE_CAPABILITY_MISSING ||
           rpc->code == MCP_CODE_VERSION_UNSUPPORTED ||
           (http_status == 404 && rpc->code == MCP_CODE_METHOD_NOT_FOUND);
}

bool mcp_session_is_era_refusal(uint32_t http_status, const struct mcp_rpc *rpc)
{
    switch (http_status) {
    case 400:
    case 404:
    case 405:
    case 406:
    case 415:
    case 422: return !mcp_session_is_modern_error(http_status, rpc);
    default: break;
    }
    return http_status < 300 && rpc != NULL && rpc->kind == MCP_RPC_ERROR &&
           !mcp_session_is_modern_error(http_status, rpc);
}

/* The failure of a session for what it was answered. */
static void fail_refused(struct mcp_engine *e, uint32_t http_status,
                         const struct mcp_rpc *rpc)
{
    bool is_error = rpc != NULL && rpc->kind == MCP_RPC_ERROR;
    enum cleat_status status;
    int32_t code = (int32_t)http_status;
    char said[100] = "";
    char text[CLEAT_ERROR_TEXT_MAX];

    if (is_error && rpc->has_message) {
        mcp_quote_json(e, rpc->text, &rpc->message, said, sizeof said);
    }
    if (http_status >= 300) {
        status = mcp_http_status(http_status);
        (void)snprintf(text, sizeof text, "%s was answered with HTTP %u%s%s",
                       asked(e), (unsigned)http_status, said[0] ? ": " : "",
                       said);
    } else {
        status = mcp_rpc_status(is_error ? rpc->code : 0);
        code = mcp_rpc_port_code(rpc);
        (void)snprintf(text, sizeof text, "%s was refused with %d%s%s",
                       asked(e), (int)code, said[0] ? ": " : "", said);
    }
    mcp_session_fail(e, status, code, e->session.exchange.retry_after_ns, text);
}

static void fail_era(struct mcp_engine *e, const char *why)
{
    mcp_session_fail(e, CLEAT_UNSUPPORTED, 0, CLEAT_NONE, why);
}

static void discover_refused(struct mcp_engine *e, uint32_t http_status,
                             const struct mcp_rpc *rpc)
{
    bool modern = true;
    bool legacy = false;

    if (mcp_session_is_modern_error(http_status, rpc)) {
        if (rpc->code == MCP_CODE_VERSION_UNSUPPORTED) {
            mcp_session_supported(rpc, &modern, &legacy);
        }
        if (modern) {
            mcp_session_is_modern(e);
        } else if (legacy) {
            mcp_session_is_legacy(e);
        } else {
            fail_era(e, "it supports no revision that we speak");
        }
    } else if (mcp_session_is_era_refusal(http_status, rpc)) {
        mcp_session_is_legacy(e);
    } else {
        fail_refused(e, http_status, rpc);
    }
}

/* A server that does not know initialize at all is a modern one too. */
static bool refuses_era(const struct mcp_rpc *rpc)
{
    return rpc != NULL && rpc->kind == MCP_RPC_ERROR &&
           (rpc->code == MCP_CODE_VERSION_UNSUPPORTED ||
            rpc->code == MCP_CODE_METHOD_NOT_FOUND);
}

static void initialize_refused(struct mcp_engine *e, uint32_t http_status,
                               const struct mcp_rpc *rpc)
{
    bool modern = true;
    bool legacy;

    if (refuses_era(rpc)) {
        if (rpc->code == MCP_CODE_VERSION_UNSUPPORTED) {
            mcp_session_supported(rpc, &modern, &legacy);
        }
        if (modern && mcp_session_may_turn(e)) {
            e->session.turned = true;
            e->session.flips++;
            mcp_session_is_modern(e);
        } else {
            fail_era(e, !modern ? "it supports no revision that we speak"
                        : e->config.era == CLEAT_MCP_ERA_AUTO
                            ? "it refuses requests of both eras"
                            : "it speaks only " MCP_MODERN_VERSION
                              " and later, which its transport or the "
                              "configured era excludes");
        }
        return;
    }
    if (e->config.wire == MCP_WIRE_HTTP && !e->old_sse &&
        (http_status == 400 || http_status == 404 || http_status == 405)) {
        e->session.why = mcp_http_status(http_status);
        e->session.why_code = (int32_t)http_status;
        connect(e);
        return;
    }
    fail_refused(e, http_status, rpc);
}

void mcp_session_refused(struct mcp_engine *e, uint32_t http_status,
                         const struct mcp_rpc *rpc)
{
    switch (e->session.phase) {
    case MCP_PHASE_PROBING: discover_refused(e, http_status, rpc); break;
    case MCP_PHASE_GREETING: initialize_refused(e, http_status, rpc); break;
    case MCP_PHASE_CONFIRMING: fail_refused(e, http_status, rpc); break;
    case MCP_PHASE_LEAVING: close_session(e); break;
    default: e->session.exchange.number = 0; break;
    }
}

void mcp_session_ended(struct mcp_engine *e, enum cleat_status status,
                       struct cleat_text text)
{
    char shown[100];
    char whole[CLEAT_ERROR_TEXT_MAX];

    e->session.exchange.number = 0;
    switch (e->session.phase) {
    case MCP_PHASE_LEAVING: close_session(e); return;
    case MCP_PHASE_PROBING:
    case MCP_PHASE_GREETING:
    case MCP_PHASE_CONFIRMING: break;
    default: return;
    }
    /* The old HTTP+SSE answers on its stream. */
    if (e->old_sse && status == CLEAT_OK) { return; }
    mcp_quote(e, text, shown, sizeof shown);
    (void)snprintf(whole, sizeof whole, "no answer to %s%s%s", asked(e),
                   shown[0] != '\0' ? ": " : "", shown);
    if (status == CLEAT_OK) { status = CLEAT_SHORT; }
    mcp_session_fail(e, status, 0, CLEAT_NONE, whole);
}

/* ---- the handshake ------------------------------------------------------ */

static void take_session_id(struct mcp_engine *e, struct cleat_text id)
{
    e->session.id_bytes = 0;
    if (id.bytes > 0 && id.bytes <= sizeof e->session.id &&
        mcp_headers_plain(id)) {
        memcpy(e->session.id, id.text, id.bytes);
        e->session.id_bytes = id.bytes;
    }
}

void mcp_session_response(struct mcp_engine *e, const struct mcp_told_it *told)
{
    bool is_answer = told->is_json || told->is_stream || e->old_sse;

    if (told->http_status >= 300) { return; } /* its body says more */
    switch (e->session.phase) {
    case MCP_PHASE_GREETING:
        take_session_id(e, told->session);
        if (told->session.bytes > 0 && e->session.id_bytes == 0) {
            mcp_session_fail(e, CLEAT_PEER_DEVIANT, 0, CLEAT_NONE,
                             "its Mcp-Session-Id is too long, or not of "
                             "visible ASCII");
            return;
        }
        break;
    case MCP_PHASE_CONFIRMING:
        e->session.exchange.number = 0;
        enter_ready(e, MCP_SAY_NOTHING);
        return;
    case MCP_PHASE_PROBING: break;
    default: return;
    }
    if (!is_answer) {
        mcp_engine_cancel(e, &e->session.exchange);
        mcp_session_fail(e, CLEAT_PEER_DEVIANT, (int32_t)told->http_status,
                         CLEAT_NONE,
                         "it answers with neither application/json nor "
                         "text/event-stream: no MCP server is there");
    }
}

static void discovered(struct mcp_engine *e, const struct mcp_rpc *rpc)
{
    struct mcp_member versions = {.name = "supportedVersions"};
    struct cleat_json_cursor cursor;
    struct cleat_json_value item;

    if (!mcp_members(rpc->text, &rpc->result, &versions, 1) ||
        !versions.there) {
        mcp_session_is_legacy(e); /* no DiscoverResult */
        return;
    }
    cleat_json_open(rpc->text, &versions.value, &cursor);
    while (cleat_json_next_item(rpc->text, &cursor, &item)) {
        if (cleat_json_equals(rpc->text, &item, MCP_MODERN_VERSION)) {
            mcp_session_is_modern(e);
            return;
        }
    }
    mcp_session_is_legacy(e);
}

static bool take_version(struct mcp_engine *e, const char *text,
                         const struct mcp_member *version)
{
    static const char *const versions[] = {"2025-11-25", "2025-06-18",
                                           "2025-03-26", "2024-11-05"};

    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        if (version->there &&
            cleat_json_equals(text, &version->value, versions[i])) {
            memcpy(e->session.version, versions[i], strlen(versions[i]) + 1);
            return true;
        }
    }
    return false;
}

static void initialized(struct mcp_engine *e, const struct mcp_rpc *rpc)
{
    struct mcp_member members[] = {{.name = "protocolVersion"},
                                   {.name = "capabilities"}};
    struct mcp_member tools = {.name = "tools"};

    if (!mcp_members(rpc->text, &rpc->result, members, 2)) {
        mcp_session_fail(e, CLEAT_PEER_DEVIANT, 0, CLEAT_NONE,
                         "its answer to initialize is no object, or has a "
                         "member twice");
        return;
    }
    if (!take_version(e, rpc->text, &members[0])) {
        mcp_session_fail(e, CLEAT_UNSUPPORTED, 0, CLEAT_NONE,
                         "its answer to initialize has a protocolVersion that "
                         "we do not speak");
        return;
    }
    e->session.worked = true;
    e->session.decided = true;
    e->era = MCP_ERA_LEGACY;
    e->session.has_tools = members[1].there &&
                           mcp_members(rpc->text, &members[1].value, &tools,
                                       1) &&
                           tools.there && tools.value.type == CLEAT_JSON_OBJECT;
    if (mcp_engine_is_http(e)) {
        enter(e, MCP_PHASE_CONFIRMING, MCP_SAY_INITIALIZED);
    } else {
        enter_ready(e, MCP_SAY_INITIALIZED);
    }
}

void mcp_session_result(struct mcp_engine *e, const struct mcp_rpc *rpc)
{
    mcp_engine_stand(e, &e->session.exchange);
    e->session.request = 0;
    if (e->session.phase == MCP_PHASE_PROBING) {
        discovered(e, rpc);
    } else if (e->session.phase == MCP_PHASE_GREETING) {
        initialized(e, rpc);
    }
}

/* ---- the channel for changes -------------------------------------------- */

/* Spreads clients that have lost their server at the same time. */
static uint64_t mix(uint64_t value)
{
    value += UINT64_C(0x9E3779B97F4A7C15);
    value = (value ^ value >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ value >> 27) * UINT64_C(0x94D049BB133111EB);
    return value ^ value >> 31;
}

void mcp_channel_off(struct mcp_engine *e)
{
    struct mcp_channel *channel = &e->channel;

    if (channel->state == MCP_CHANNEL_SENT ||
        channel->state == MCP_CHANNEL_ON) {
        if (!mcp_engine_is_http(e) && channel->request != 0) {
            (void)mcp_engine_queue(e, MCP_QUEUED_CANCELLED, channel->request);
        }
        mcp_engine_cancel(e, &channel->exchange);
    }
    memset(channel, 0, sizeof *channel);
}

/* It is tried again after a while: after what the stream has asked for, or a
 * growing time. */
void mcp_channel_lost(struct mcp_engine *e)
{
    struct mcp_channel *channel = &e->channel;
    uint64_t hint_ns = channel->retry_ns > 0 ? channel->retry_ns : CLEAT_NONE;

    if (!mcp_engine_is_http(e) && channel->request != 0 &&
        channel->state == MCP_CHANNEL_SENT) {
        (void)mcp_engine_queue(e, MCP_QUEUED_CANCELLED, channel->request);
    }
    mcp_engine_cancel(e, &channel->exchange);
    channel->request = 0;
    e->unheard = true;
    channel->state = MCP_CHANNEL_PAUSED;
    if (cleat_retry_failed(&channel->backoff, &channel_policy, NULL,
                           CLEAT_TRANSIENT, hint_ns,
                           mix(e->now_ns ^ mix(e->exchanges)), e->now_ns,
                           &channel->again_ns) != CLEAT_OK) {
        channel->state = MCP_CHANNEL_NONE;
    }
}

void mcp_channel_acknowledged(struct mcp_engine *e, bool honoured)
{
    struct mcp_channel *channel = &e->channel;

    if (!honoured) {
        mcp_channel_off(e);
        channel->state = MCP_CHANNEL_NONE;
        return;
    }
    channel->state = MCP_CHANNEL_ON;
    channel->deadline_ns = CLEAT_NEVER;
    cleat_retry_begin(&channel->backoff, &channel_policy, e->now_ns);
    if (e->unheard && e->follow) { e->changed = true; }
    e->unheard = false;
}

void mcp_channel_ended(struct mcp_engine *e, enum cleat_status status,
                       struct cleat_text text)
{
    char said[120];
    char whole[CLEAT_ERROR_TEXT_MAX];

    if (e->session.phase != MCP_PHASE_CONNECTING && !e->old_sse) {
        mcp_channel_lost(e);
        return;
    }
    mcp_quote(e, text, said, sizeof said);
    (void)snprintf(whole, sizeof whole, "its event stream has ended%s%s",
                   said[0] != '\0' ? ": " : "", said);
    if (cleat_status_class(status) != CLEAT_CLASS_PERMANENT) {
        status = CLEAT_TRANSIENT;
    }
    mcp_session_fail(e, status, 0, CLEAT_NONE, whole);
}

static void connect_refused(struct mcp_engine *e, uint32_t http_status)
{
    enum cleat_status status = mcp_http_status(http_status);
    int32_t code = (int32_t)http_status;
    char text[CLEAT_ERROR_TEXT_MAX];

    if (e->session.why != CLEAT_OK) {
        status = e->session.why;
        code = e->session.why_code;
        (void)snprintf(text, sizeof text,
                       "initialize was answered with HTTP %d, and GET opens no "
                       "event stream: no MCP server is there",
                       (int)code);
    } else {
        (void)snprintf(text, sizeof text, "GET was answered with HTTP %u",
                       (unsigned)http_status);
    }
    mcp_session_fail(e, status, code, e->channel.exchange.retry_after_ns, text);
}

void mcp_channel_refused(struct mcp_engine *e, uint32_t http_status,
                         const struct mcp_rpc *rpc)
{
    bool modern = e->era == MCP_ERA_MODERN;
    bool for_good;

    if (e->session.phase == MCP_PHASE_CONNECTING || e->old_sse) {
        connect_refused(e, http_status);
        return;
    }
    for_good = http_status < 300
                   ? rpc != NULL && mcp_rpc_status(rpc->code) != CLEAT_TRANSIENT
                   : cleat_status_class(mcp_http_status(http_status)) ==
                         CLEAT_CLASS_PERMANENT;
    mcp_engine_cancel(e, &e->channel.exchange);
    if (!modern && e->session.id_bytes > 0 && http_status == 404) {
        mcp_session_again(e, e->session.number);
    } else if (for_good) {
        e->channel.state = MCP_CHANNEL_NONE;
    } else {
        mcp_channel_lost(e);
    }
}

void mcp_channel_response(struct mcp_engine *e, const struct mcp_told_it *told)
{
    if (told->http_status >= 300) {
        mcp_channel_refused(e, told->http_status, NULL);
    } else if (!told->is_stream) {
        mcp_channel_refused(e, 406, NULL);
    } else if (e->era == MCP_ERA_LEGACY &&
               e->session.phase != MCP_PHASE_CONNECTING) {
        mcp_channel_acknowledged(e, true);
    }
}

static void take_endpoint(struct mcp_engine *e, struct cleat_text uri)
{
    if (uri.bytes == 0 || uri.bytes > sizeof e->session.endpoint ||
        !mcp_headers_plain(uri)) {
        mcp_session_fail(e, CLEAT_PEER_DEVIANT, 0, CLEAT_NONE,
                         "the endpoint that its event stream names is no URI, "
                         "or too long");
        return;
    }
    memcpy(e->session.endpoint, uri.text, uri.bytes);
    e->session.endpoint_bytes = uri.bytes;
    e->old_sse = true;
    mcp_channel_acknowledged(e, true);
    greet(e);
}

void mcp_channel_event(struct mcp_engine *e, const struct mcp_told_it *told)
{
    if (e->session.phase == MCP_PHASE_CONNECTING &&
        mcp_same(told->event, mcp_text("endpoint", 8))) {
        take_endpoint(e, told->text);
    }
}
