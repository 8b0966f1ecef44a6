/* Cleat: servers that are talked to. SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "hub.h"
#include "secrets.h"

static uint32_t index_of(const struct cleat_mcp *mcp,
                         const struct hub_session *session)
{
    return (uint32_t)(session - mcp->sessions);
}

bool hub_server_name(const struct mcp_server *server, char *name, size_t *bytes)
{
    struct mcp_room room = {name, HUB_NAME_BYTES};
    const char *text;

    return mcp_server_take_member(server, "server", &room, &text, bytes) ==
           CLEAT_OK;
}

/* ---- sources and changes ------------------------------------------------ */

static bool is_remembered(const struct hub_session *session, uint64_t source)
{
    for (uint32_t i = 0; i < session->sources_count; i++) {
        if (session->sources[i].key == source) { return true; }
    }
    return false;
}

/* In the place of the oldest, but for those whose changes are still to be
 * posted. */
static void remember(struct hub_session *session, uint64_t source, bool changed)
{
    uint32_t place = session->sources_next;

    for (uint32_t i = 0;
         i < HUB_SOURCES_MAX && place < session->sources_count &&
         session->sources[place].changed;
         i++) {
        place = (place + 1) % HUB_SOURCES_MAX;
    }
    session->sources[place] = (struct hub_source){source, changed};
    session->sources_next = (place + 1) % HUB_SOURCES_MAX;
    if (session->sources_count < HUB_SOURCES_MAX) { session->sources_count++; }
}

void hub_session_remember(struct hub_session *session, uint64_t source)
{
    if (!is_remembered(session, source)) { remember(session, source, false); }
}

void hub_session_watch(struct hub_session *session, uint64_t source)
{
    if (!is_remembered(session, source)) { remember(session, source, true); }
}

void hub_session_changed(struct hub_session *session)
{
    for (uint32_t i = 0; i < session->sources_count; i++) {
        session->sources[i].changed = true;
    }
}

bool hub_sessions_post(struct cleat_mcp *mcp)
{
    bool none = true;

    for (uint32_t i = 0; i < mcp->config.sessions_max; i++) {
        struct hub_session *session = &mcp->sessions[i];
        for (uint32_t j = 0; j < session->sources_count; j++) {
            struct hub_source *source = &session->sources[j];
            if (source->changed) {
                source->changed = !hub_post(mcp, CLEAT_LOADER_CHANGED,
                                            &source->key, sizeof source->key);
                none = false;
            }
        }
    }
    return none;
}

/* ---- what the engine wants ---------------------------------------------- */

static void tell_engine(struct cleat_mcp *mcp, struct hub_session *session,
                        enum mcp_told what)
{
    struct mcp_told_it told;

    memset(&told, 0, sizeof told);
    told.what = what;
    told.text.text = "";
    told.retry_ns = CLEAT_NONE;
    told.retry_after_ns = CLEAT_NONE;
    mcp_engine_tell(session->engine, mcp->now_ns, &told);
}

/* It is closed; what was followed is not any more. */
static void note_closed(struct cleat_mcp *mcp, struct hub_session *session)
{
    session->open = false;
    session->open_wanted = false;
    if (session->following) {
        session->following = false;
        hub_watches_lost(mcp, session);
    }
}

static void carry_out_open(struct cleat_mcp *mcp, struct hub_session *session)
{
    session->open = true;
    if (session->stdio == NULL) {
        mcp_http_open(mcp->http, index_of(mcp, session), &session->server);
        tell_engine(mcp, session, MCP_OPENED);
    } else if (mcp_stdio_is_closed(session->stdio)) {
        mcp_stdio_open(session->stdio, mcp->now_ns, &session->server);
    } else {
        session->open_wanted = true;
    }
}

static void carry_out_close(struct cleat_mcp *mcp, struct hub_session *session)
{
    if (session->stdio != NULL && !session->open_wanted) {
        mcp_stdio_close(session->stdio, mcp->now_ns,
                        cleat_time_add(mcp->now_ns, mcp->config.grace_ns));
        return;
    }
    if (session->stdio == NULL) {
        mcp_http_cancel(mcp->http, index_of(mcp, session), 0);
    }
    note_closed(mcp, session);
    tell_engine(mcp, session, MCP_CLOSED);
}

static void carry_out(struct cleat_mcp *mcp, struct hub_session *session,
                      const struct mcp_action *action)
{
    bool is_http = session->stdio == NULL;

    switch (action->what) {
    case MCP_OPEN: carry_out_open(mcp, session); break;
    case MCP_SEND:
        if (is_http) {
            mcp_http_send(mcp->http, mcp->now_ns, index_of(mcp, session),
                          action);
        } else {
            mcp_stdio_send(session->stdio, mcp->now_ns, action->body);
        }
        break;
    case MCP_CANCEL:
        if (is_http) {
            mcp_http_cancel(mcp->http, index_of(mcp, session),
                            action->exchange);
        }
        break;
    case MCP_CLOSE: carry_out_close(mcp, session); break;
    case MCP_DONE: hub_requests_done(mcp, action); break;
    case MCP_CHANGED: hub_session_changed(session); break;
    }
}

void hub_session_pump(struct cleat_mcp *mcp, struct hub_session *session)
{
    struct mcp_action action;

    while (
        mcp_engine_next(session->engine, mcp->out, mcp->out_bytes, &action)) {
        carry_out(mcp, session, &action);
    }
}

void hub_session_told(void *context, uint32_t number,
                      const struct mcp_told_it *told)
{
    struct cleat_mcp *mcp = context;
    struct hub_session *session = &mcp->sessions[number];

    if (session->state == HUB_SESSION_EMPTY) { return; }
    if (told->what == MCP_CLOSED) { note_closed(mcp, session); }
    mcp_engine_tell(session->engine, mcp->now_ns, told);
    hub_session_pump(mcp, session);
}

/* ---- places ------------------------------------------------------------- */

struct hub_session *hub_session_find(struct cleat_mcp *mcp, uint64_t key)
{
    for (uint32_t i = 0; i < mcp->config.sessions_max; i++) {
        struct hub_session *session = &mcp->sessions[i];
        if (session->state != HUB_SESSION_EMPTY && session->key == key) {
            return session;
        }
    }
    return NULL;
}

uint32_t hub_sessions_ending(const struct cleat_mcp *mcp)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < mcp->config.sessions_max; i++) {
        count += mcp->sessions[i].state == HUB_SESSION_ENDING;
    }
    return count;
}

static size_t redact(void *context, char *text, size_t bytes)
{
    return mcp_secrets_hide(context, text, bytes);
}

static void fill_engine(const struct cleat_mcp *mcp,
                        struct hub_session *session,
                        struct mcp_engine_config *config)
{
    const struct cleat_mcp_config *from = &mcp->config;

    memset(config, 0, sizeof *config);
    config->wire = !session->server.is_http ? MCP_WIRE_STDIO
                   : session->server.is_sse ? MCP_WIRE_SSE
                                            : MCP_WIRE_HTTP;
    config->era = from->era;
    config->request_ns = from->request_ns;
    config->grace_ns = from->grace_ns;
    config->pages_max = from->pages_max;
    config->tools_max = from->tools_max;
    config->message_bytes_max = from->message_bytes_max;
    config->server = (struct cleat_text){session->name, session->name_bytes};
    config->client_name = mcp->client_name;
    config->client_version = mcp->client_version;
    config->answer = from->answer;
    config->answer_context = from->answer_context;
    config->redact = redact;
    config->redact_context = &session->server;
}

static void fill(struct cleat_mcp *mcp, struct hub_session *session,
                 uint64_t key, uint32_t text, const struct mcp_server *server)
{
    struct mcp_engine_config config;

    session->state = HUB_SESSION_KEPT;
    session->made = ++mcp->sessions_made;
    session->key = key;
    session->text = text;
    session->server = *server;
    session->open = false;
    session->open_wanted = false;
    session->following = false;
    session->requests = 0;
    session->sources_count = 0;
    session->sources_next = 0;
    if (!hub_server_name(server, session->name, &session->name_bytes)) {
        session->name_bytes = 0; /* no request of such a one comes this far */
    }
    hub_lock(mcp);
    mcp_texts_share(&mcp->texts, text);
    hub_unlock(mcp);
    fill_engine(mcp, session, &config);
    session->engine = mcp_engine_init(session->engine_block, &config,
                                      mcp->now_ns);
    session->stdio = server->is_http
                         ? NULL
                         : mcp_stdio_init(session->stdio_block,
                                          index_of(mcp, session), &mcp->host);
}

/* Whether nothing of it is left. */
static bool is_over(const struct hub_session *session)
{
    return !session->open &&
           (session->stdio == NULL || mcp_stdio_is_closed(session->stdio));
}

static void empty(struct cleat_mcp *mcp, struct hub_session *session)
{
    session->state = HUB_SESSION_EMPTY;
    session->engine = NULL;
    session->stdio = NULL;
    session->sources_count = 0;
    hub_lock(mcp);
    mcp_texts_release(&mcp->texts, session->text);
    hub_unlock(mcp);
}

/* Ends a session for good; one that is not open is empty at once. */
static void end(struct cleat_mcp *mcp, struct hub_session *session)
{
    session->state = HUB_SESSION_ENDING;
    if (session->open || session->requests > 0) {
        mcp_engine_end(session->engine, mcp->now_ns);
        hub_session_pump(mcp, session);
    }
    if (is_over(session)) { empty(mcp, session); }
}

#define RANK_IDLE 1u /* and all below: nobody watches it */
#define RANK_MAX 3u

/* Who gives way first: what is not open, then what nobody watches; the least
 * recently used of those. */
static uint32_t rank(const struct cleat_mcp *mcp,
                     const struct hub_session *session)
{
    return (hub_watches_want(mcp, session->key) ? 2u : 0u) +
           (session->open ? 1u : 0u);
}

static bool has_something_to_post(const struct hub_session *session)
{
    for (uint32_t i = 0; i < session->sources_count; i++) {
        if (session->sources[i].changed) { return true; }
    }
    return false;
}

static struct hub_session *find_one_to_end(struct cleat_mcp *mcp,
                                           uint32_t rank_max)
{
    struct hub_session *found = NULL;

    for (uint32_t i = 0; i < mcp->config.sessions_max; i++) {
        struct hub_session *session = &mcp->sessions[i];
        if (session->state != HUB_SESSION_KEPT || session->requests > 0 ||
            has_something_to_post(session) || rank(mcp, session) > rank_max) {
            continue;
        }
        if (found == NULL || rank(mcp, session) < rank(mcp, found) ||
            (rank(mcp, session) == rank(mcp, found) &&
             session->used < found->used)) {
            found = session;
        }
    }
    return found;
}

static struct hub_session *find_empty(struct cleat_mcp *mcp)
{
    for (uint32_t i = 0; i < mcp->config.sessions_max; i++) {
        if (mcp->sessions[i].state == HUB_SESSION_EMPTY) {
            return &mcp->sessions[i];
        }
    }
    return NULL;
}

bool hub_session_may_be_had(struct cleat_mcp *mcp, uint64_t key)
{
    const struct hub_session *session = hub_session_find(mcp, key);

    if (session != NULL) { return session->state == HUB_SESSION_KEPT; }
    return find_empty(mcp) != NULL || find_one_to_end(mcp, RANK_MAX) != NULL;
}

struct hub_session *hub_session_claim(struct cleat_mcp *mcp, uint64_t key,
                                      uint32_t text,
                                      const struct mcp_server *server,
                                      enum hub_claim why, uint32_t *ending)
{
    struct hub_session *session = hub_session_find(mcp, key);

    if (session != NULL) {
        if (session->state == HUB_SESSION_KEPT) { return session; }
        if (*ending > 0) { (*ending)--; }
        return NULL;
    }
    session = find_empty(mcp);
    if (session == NULL) {
        if (*ending > 0) {
            (*ending)--;
            return NULL;
        }
        session = find_one_to_end(mcp, why == HUB_CLAIM_REQUEST ? RANK_MAX
                                                                : RANK_IDLE);
        if (session == NULL) { return NULL; }
        end(mcp, session);
        if (session->state != HUB_SESSION_EMPTY) { return NULL; }
    }
    fill(mcp, session, key, text, server);
    return session;
}

/* ---- time --------------------------------------------------------------- */

/* What waited for the last process's end, or is over. */
static void settle(struct cleat_mcp *mcp, struct hub_session *session)
{
    if (session->open_wanted && mcp_stdio_is_closed(session->stdio)) {
        session->open_wanted = false;
        mcp_stdio_open(session->stdio, mcp->now_ns, &session->server);
    }
    if (session->state == HUB_SESSION_ENDING && is_over(session)) {
        empty(mcp, session);
    }
}

static void tick(struct cleat_mcp *mcp, struct hub_session *session)
{
    if (session->stdio != NULL &&
        mcp_stdio_deadline(session->stdio) <= mcp->now_ns) {
        mcp_stdio_tick(session->stdio, mcp->now_ns);
    }
    if (mcp_engine_deadline(session->engine) <= mcp->now_ns) {
        mcp_engine_tick(session->engine, mcp->now_ns);
        hub_session_pump(mcp, session);
    }
    settle(mcp, session);
}

/* An HTTP session that does not end in time is dropped. */
static void drop_overdue(struct cleat_mcp *mcp, struct hub_session *session)
{
    if (session->stdio != NULL) { return; }
    mcp_http_cancel(mcp->http, index_of(mcp, session), 0);
    hub_requests_lost(mcp, index_of(mcp, session));
    session->open = false;
    empty(mcp, session);
}

void hub_sessions_tick(struct cleat_mcp *mcp)
{
    if (mcp_http_deadline(mcp->http) <= mcp->now_ns) {
        mcp_http_tick(mcp->http, mcp->now_ns);
    }
    for (uint32_t i = 0; i < mcp->config.sessions_max; i++) {
        struct hub_session *session = &mcp->sessions[i];
        if (session->state != HUB_SESSION_EMPTY) { tick(mcp, session); }
        if (session->state != HUB_SESSION_EMPTY && mcp->ending &&
            mcp->now_ns >= mcp->ended_ns) {
            drop_overdue(mcp, session);
        }
    }
}

void hub_sessions_end(struct cleat_mcp *mcp)
{
    for (uint32_t i = 0; i < mcp->config.sessions_max; i++) {
        struct hub_session *session = &mcp->sessions[i];
        if (session->state == HUB_SESSION_KEPT) { end(mcp, session); }
    }
}

bool hub_sessions_are_left(const struct cleat_mcp *mcp)
{
    for (uint32_t i = 0; i < mcp->config.sessions_max; i++) {
        if (mcp->sessions[i].state != HUB_SESSION_EMPTY) { return true; }
    }
    return false;
}

uint64_t hub_sessions_deadline(const struct cleat_mcp *mcp)
{
    uint64_t due_ns = mcp_http_deadline(mcp->http);

    for (uint32_t i = 0; i < mcp->config.sessions_max; i++) {
        const struct hub_session *session = &mcp->sessions[i];
        if (session->state == HUB_SESSION_EMPTY) { continue; }
        due_ns = hub_min(due_ns, mcp_engine_deadline(session->engine));
        if (session->stdio != NULL) {
            due_ns = hub_min(due_ns, mcp_stdio_deadline(session->stdio));
        }
    }
    return due_ns;
}
