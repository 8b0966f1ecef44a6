/* Cleat: requests, from their start to their end. SPDX-License-Identifier:
 * Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "hub.h"
#include "secrets.h"

/* ---- the end ------------------------------------------------------------ */

static void finish(struct hub_request *request, enum cleat_status status)
{
    request->phase = HUB_PHASE_ENDED;
    request->done.id = request->wanted.id;
    request->done.status = (int32_t)status;
    if (status != CLEAT_OK) {
        request->done.bytes = 0;
        request->wanted.error->status = status;
    }
}

static void fail(struct hub_request *request, enum cleat_status status,
                 const char *text)
{
    finish(request, cleat_error_set(request->wanted.error, status, 0, 0, text));
}

static void fail_cancelled(struct hub_request *request)
{
    fail(request, CLEAT_CANCELLED, "the caller cancelled");
}

/* Its deadline came before an engine had it. */
static void fail_waiting(struct cleat_mcp *mcp, struct hub_request *request)
{
    struct cleat_error *error = request->wanted.error;
    char said[64];

    if (request->wanted.kind == CLEAT_LOADER_CONFIG) {
        fail(request, CLEAT_DEADLINE,
             "the deadline came before the config could be read");
        return;
    }
    char name[HUB_NAME_BYTES] = "";
    size_t bytes = 0;
    (void)hub_server_name(&request->server, name, &bytes);
    mcp_printable(said, sizeof said, name, bytes);
    if (request->phase == HUB_PHASE_RATE) {
        fail(request, CLEAT_DEADLINE, "");
        (void)snprintf(error->text, sizeof error->text,
                       "%s: the deadline came while the call waited for its "
                       "turn (rate_limit)",
                       said);
    } else if (request->refused ||
               !hub_session_may_be_had(mcp, request->session_key)) {
        fail(request, CLEAT_NO_SLOT, "");
        (void)snprintf(error->text, sizeof error->text,
                       "%s: all %u sessions were busy until the deadline "
                       "(sessions_max)",
                       said, (unsigned)mcp->config.sessions_max);
    } else {
        fail(request, CLEAT_DEADLINE, "");
        (void)snprintf(error->text, sizeof error->text,
                       "%s: the deadline came before a session was asked for",
                       said);
    }
}

static bool try_post(struct cleat_mcp *mcp, struct hub_request *request)
{
    hub_lock(mcp);
    bool posted = hub_post(mcp, CLEAT_LOADER_DONE, &request->done,
                           sizeof request->done);
    if (posted) {
        mcp_texts_release(&mcp->texts, request->text);
        request->place = HUB_FREE;
        request->ours = false;
    }
    hub_unlock(mcp);
    return posted;
}

bool hub_requests_post(struct cleat_mcp *mcp)
{
    bool all = true;

    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        struct hub_request *request = &mcp->requests[i];
        if (request->ours && request->phase == HUB_PHASE_ENDED) {
            all = try_post(mcp, request) && all;
        }
    }
    return all;
}

bool hub_requests_are_left(struct cleat_mcp *mcp)
{
    bool left = false;

    hub_lock(mcp);
    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        left = left || mcp->requests[i].place != HUB_FREE;
    }
    hub_unlock(mcp);
    return left;
}

/* ---- the rate limit ----------------------------------------------------- */

/* The server's bucket. There are more than can be wanted at once. */
static struct mcp_rate *rate_of(struct cleat_mcp *mcp, uint64_t key,
                                uint64_t rate_micro)
{
    struct hub_bucket *oldest = NULL;

    for (uint32_t i = 0; i < mcp->buckets_count; i++) {
        struct hub_bucket *bucket = &mcp->buckets[i];
        if (bucket->key == key) { return &bucket->rate; }
        if (oldest != NULL && oldest->key == 0) { continue; }
        if (bucket->key == 0 ||
            (!mcp_rate_is_wanted(&bucket->rate) &&
             (oldest == NULL || bucket->rate.full_ns < oldest->rate.full_ns))) {
            oldest = bucket;
        }
    }
    oldest->key = key;
    mcp_rate_init(&oldest->rate, rate_micro);
    return &oldest->rate;
}

static void give_tokens(struct cleat_mcp *mcp)
{
    for (uint32_t i = 0; i < mcp->buckets_count; i++) {
        struct hub_bucket *bucket = &mcp->buckets[i];
        struct mcp_rate_waiter *waiter =
            bucket->key == 0 ? NULL : mcp_rate_next(&bucket->rate, mcp->now_ns);
        while (waiter != NULL) {
            struct hub_request *request =
                (struct hub_request *)(void *)((unsigned char *)waiter -
                                               offsetof(struct hub_request,
                                                        waiter));
            request->phase = HUB_PHASE_SESSION;
            waiter = mcp_rate_next(&bucket->rate, mcp->now_ns);
        }
    }
}

/* ---- the beginning ------------------------------------------------------ */

/* A name as it stands before those of its tools: what a model's API may refuse
 * in the name of a function becomes '_'. */
static void make_prefix(char *prefix)
{
    size_t bytes = strlen(prefix);

    for (size_t i = 0; i < bytes; i++) {
        char byte = prefix[i];
        bool good = (byte >= 'a' && byte <= 'z') ||
                    (byte >= 'A' && byte <= 'Z') ||
                    (byte >= '0' && byte <= '9') || byte == '-';
        if (!good) { prefix[i] = '_'; }
    }
    prefix[bytes] = '_';
    prefix[bytes + 1] = '\0';
}

static bool take_names(struct hub_request *request)
{
    struct mcp_room room = {request->class_name, sizeof request->class_name};
    const char *text;
    size_t bytes;

    request->class_name[0] = '\0';
    if (mcp_server_take_member(&request->server, "class_name", &room, &text,
                               NULL) == CLEAT_TOO_SMALL ||
        !hub_server_name(&request->server, request->prefix, &bytes)) {
        fail(request, CLEAT_LIMIT,
             "the name of a server or of a class is longer than 255 bytes");
        return false;
    }
    if (request->server.prefix) {
        make_prefix(request->prefix);
    } else {
        request->prefix[0] = '\0';
    }
    return true;
}

static void answer_native(struct hub_request *request)
{
    struct cleat_loader_request *wanted = &request->wanted;

    if (wanted->kind == CLEAT_LOADER_CALL) {
        fail(request, CLEAT_UNSUPPORTED,
             "a native tool is called by its class, not here");
        return;
    }
    enum cleat_status status = mcp_native_list(&request->server, wanted->block,
                                               wanted->bytes, wanted->error);
    if (status == CLEAT_OK) {
        request->done.bytes = cleat_tools_bytes(wanted->block);
    }
    finish(request, status);
}

static bool check_call(const struct cleat_mcp *mcp, struct hub_request *request)
{
    const struct cleat_loader_request *wanted = &request->wanted;
    size_t left = hub_call_bytes_max(&mcp->config);
    const struct cleat_text *texts[] = {&wanted->tool, &wanted->arguments,
                                        &wanted->schema};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (texts[i]->bytes > left) {
            fail(request, CLEAT_LIMIT,
                 "the call's arguments and its tool's schema are longer than "
                 "half of message_bytes_max");
            return false;
        }
        left -= texts[i]->bytes;
    }
    return true;
}

/* Takes a request over that has just come. */
static void begin(struct cleat_mcp *mcp, struct hub_request *request)
{
    struct cleat_loader_request *wanted = &request->wanted;
    struct cleat_text text = mcp_texts_at(&mcp->texts, request->text);
    enum cleat_status status = mcp_server_open(&request->server, text.text,
                                               text.bytes, wanted->error);

    if (status != CLEAT_OK) {
        finish(request, status);
        return;
    }
    if (request->server.is_native) {
        answer_native(request);
        return;
    }
    if (!take_names(request)) { return; }
    request->session_key = mcp_server_session_key(&request->server);
    request->deadline_ns = wanted->deadline_ns;
    request->phase = HUB_PHASE_SESSION;
    request->refused = false;
    if (wanted->kind == CLEAT_LOADER_CALL) {
        if (!check_call(mcp, request)) { return; }
        if (request->server.has_rate) {
            request->phase = HUB_PHASE_RATE;
            mcp_rate_join(
                rate_of(mcp, request->session_key, request->server.rate_micro),
                &request->waiter);
        }
    }
}

/* ---- what other threads hand over --------------------------------------- */

/* Takes one back, wherever it stands. */
static void cancel(struct cleat_mcp *mcp, struct hub_request *request)
{
    if (request->phase == HUB_PHASE_RUNNING) {
        struct hub_session *session = &mcp->sessions[request->session];
        uint64_t operation = request->order;
        mcp_engine_abandon(session->engine, mcp->now_ns, operation);
        hub_session_pump(mcp, session);
    } else if (request->phase != HUB_PHASE_ENDED) {
        if (request->phase == HUB_PHASE_RATE) {
            mcp_rate_leave(&request->waiter);
        }
        fail_cancelled(request);
    }
}

/* The first of those that have come; NULL: none. */
static struct hub_request *take_first(struct cleat_mcp *mcp)
{
    struct hub_request *first = NULL;

    hub_lock(mcp);
    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        struct hub_request *request = &mcp->requests[i];
        if (request->place == HUB_INBOX &&
            (first == NULL || request->order < first->order)) {
            first = request;
        }
    }
    if (first != NULL) {
        first->place = HUB_TALKING;
        first->ours = true;
    }
    hub_unlock(mcp);
    return first;
}

/* What has become of one that is not new. */
enum news { NEWS_NONE, NEWS_READ, NEWS_CANCELLED, NEWS_OVERDUE };

static enum news look_at(struct cleat_mcp *mcp, struct hub_request *request)
{
    enum news news = NEWS_NONE;

    hub_lock(mcp);
    if (request->place == HUB_READ) {
        news = NEWS_READ;
    } else if (request->place == HUB_QUEUED) {
        news = request->cancelled || mcp->closing           ? NEWS_CANCELLED
               : mcp->now_ns >= request->wanted.deadline_ns ? NEWS_OVERDUE
                                                            : NEWS_NONE;
    } else if (request->place == HUB_TALKING && request->cancelled) {
        request->cancelled = false;
        news = NEWS_CANCELLED;
    }
    if (news != NEWS_NONE && request->place != HUB_TALKING) {
        request->place = HUB_TALKING;
        request->ours = true;
        request->phase = HUB_PHASE_SESSION;
    }
    hub_unlock(mcp);
    return news;
}

void hub_requests_take(struct cleat_mcp *mcp)
{
    struct hub_request *request = take_first(mcp);

    while (request != NULL) {
        begin(mcp, request);
        request = take_first(mcp);
    }
    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        request = &mcp->requests[i];
        switch (look_at(mcp, request)) {
        case NEWS_NONE: break;
        case NEWS_READ:
            finish(request, (enum cleat_status)request->done.status);
            break;
        case NEWS_CANCELLED: cancel(mcp, request); break;
        case NEWS_OVERDUE: fail_waiting(mcp, request); break;
        }
    }
}

/* ---- on the way --------------------------------------------------------- */

static bool is_waiting(const struct hub_request *request)
{
    return request->ours && request->phase != HUB_PHASE_ENDED &&
           request->phase != HUB_PHASE_RUNNING;
}

/* The engine keeps deadlines by itself; whatever it does, nobody waits longer.
 */
static void expire(struct cleat_mcp *mcp, struct hub_request *request)
{
    if (request->phase == HUB_PHASE_RUNNING) {
        request->overdue = true;
        cancel(mcp, request);
        return;
    }
    if (request->phase == HUB_PHASE_RATE) { mcp_rate_leave(&request->waiter); }
    fail_waiting(mcp, request);
}

static void expire_all(struct cleat_mcp *mcp)
{
    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        struct hub_request *request = &mcp->requests[i];
        if (request->ours && request->phase != HUB_PHASE_ENDED &&
            mcp->now_ns >= request->deadline_ns) {
            expire(mcp, request);
        }
    }
}

static enum cleat_status give_list(struct cleat_mcp *mcp,
                                   struct hub_request *request,
                                   struct hub_session *session)
{
    const struct cleat_loader_request *wanted = &request->wanted;
    const struct mcp_server *server = &request->server;
    struct cleat_json_value select;
    struct mcp_list list;

    memset(&list, 0, sizeof list);
    list.deadline_ns = request->deadline_ns;
    list.block = wanted->block;
    list.bytes = wanted->bytes;
    list.prefix = (struct cleat_text){request->prefix, strlen(request->prefix)};
    list.class_name = (struct cleat_text){request->class_name,
                                          strlen(request->class_name)};
    list.selected.text = "";
    if (mcp_server_find(server, "select", &select)) {
        list.selected = (struct cleat_text){server->json + select.offset,
                                            select.bytes};
    }
    list.selected_some = !server->select_all;
    list.error = wanted->error;
    return mcp_engine_list(session->engine, mcp->now_ns, request->order, &list);
}

static enum cleat_status give_call(struct cleat_mcp *mcp,
                                   struct hub_request *request,
                                   struct hub_session *session)
{
    const struct cleat_loader_request *wanted = &request->wanted;
    struct mcp_call call;

    request->deadline_ns = hub_min(
        wanted->deadline_ns,
        cleat_time_add(mcp->now_ns, request->server.timeout_ns));
    memset(&call, 0, sizeof call);
    call.deadline_ns = request->deadline_ns;
    call.tool = wanted->tool;
    call.arguments = wanted->arguments;
    call.schema = wanted->schema;
    call.block = wanted->block;
    call.bytes = wanted->bytes;
    call.error = wanted->error;
    return mcp_engine_call(session->engine, mcp->now_ns, request->order, &call);
}

static void give_session(struct cleat_mcp *mcp, struct hub_request *request,
                         uint32_t *ending)
{
    struct hub_session *session = hub_session_claim(
        mcp, request->session_key, request->text, &request->server,
        HUB_CLAIM_REQUEST, ending);
    bool is_call = request->wanted.kind == CLEAT_LOADER_CALL;

    request->refused = session == NULL;
    if (session == NULL) { return; }
    enum cleat_status status = is_call ? give_call(mcp, request, session)
                                       : give_list(mcp, request, session);
    if (status != CLEAT_OK) {
        /* It has as many operations as it can: a later turn. */
        request->refused = true;
        request->deadline_ns = request->wanted.deadline_ns;
        return;
    }
    request->phase = HUB_PHASE_RUNNING;
    request->session = (uint32_t)(session - mcp->sessions);
    request->overdue = false;
    session->requests++;
    session->used = request->order;
    if (!is_call) { hub_session_remember(session, request->wanted.key); }
    hub_session_pump(mcp, session);
}

/* The first that waits for a session, after that order; NULL: none. */
static struct hub_request *find_next(struct cleat_mcp *mcp, uint64_t order)
{
    struct hub_request *next = NULL;

    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        struct hub_request *request = &mcp->requests[i];
        if (is_waiting(request) && request->phase == HUB_PHASE_SESSION &&
            request->order > order &&
            (next == NULL || request->order < next->order)) {
            next = request;
        }
    }
    return next;
}

void hub_requests_move(struct cleat_mcp *mcp)
{
    uint32_t ending = hub_sessions_ending(mcp);

    expire_all(mcp);
    if (mcp->ending) { return; }
    give_tokens(mcp);
    struct hub_request *request = find_next(mcp, 0);
    while (request != NULL) {
        uint64_t order = request->order;
        give_session(mcp, request, &ending);
        request = find_next(mcp, order);
    }
}

/* ---- what engines have done --------------------------------------------- */

static struct hub_request *find_running(struct cleat_mcp *mcp, uint64_t order)
{
    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        struct hub_request *request = &mcp->requests[i];
        if (request->ours && request->phase == HUB_PHASE_RUNNING &&
            request->order == order) {
            return request;
        }
    }
    return NULL;
}

static void hide_secrets(struct hub_request *request)
{
    char *text = request->wanted.error->text;

    text[mcp_secrets_hide(&request->server, text, strlen(text))] = '\0';
}

void hub_requests_done(struct cleat_mcp *mcp, const struct mcp_action *action)
{
    struct hub_request *request = find_running(mcp, action->operation);

    if (request == NULL) { return; }
    mcp->sessions[request->session].requests--;
    request->done.bytes = action->bytes;
    request->done.ttl_ns = action->ttl_ns;
    request->done.hint_ns = action->hint_ns;
    request->done.is_error = action->is_error ? 1 : 0;
    if (request->overdue && action->status == CLEAT_CANCELLED) {
        fail(request, CLEAT_DEADLINE, "the deadline came before the answer");
        return;
    }
    finish(request, action->status);
    if (action->status != CLEAT_OK) { hide_secrets(request); }
}

void hub_requests_lost(struct cleat_mcp *mcp, uint32_t session)
{
    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        struct hub_request *request = &mcp->requests[i];
        if (request->ours && request->phase == HUB_PHASE_RUNNING &&
            request->session == session) {
            fail_cancelled(request);
        }
    }
}

void hub_requests_end(struct cleat_mcp *mcp)
{
    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        struct hub_request *request = &mcp->requests[i];
        if (is_waiting(request)) { cancel(mcp, request); }
    }
}

uint64_t hub_requests_deadline(struct cleat_mcp *mcp)
{
    uint64_t due_ns = CLEAT_NEVER;

    hub_lock(mcp);
    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        const struct hub_request *request = &mcp->requests[i];
        if (request->place == HUB_QUEUED) {
            due_ns = hub_min(due_ns, request->wanted.deadline_ns);
        } else if (request->place == HUB_TALKING &&
                   request->phase != HUB_PHASE_ENDED) {
            due_ns = hub_min(due_ns, request->deadline_ns);
        }
    }
    hub_unlock(mcp);
    for (uint32_t i = 0; i < mcp->buckets_count; i++) {
        if (mcp->buckets[i].key != 0) {
            due_ns = hub_min(due_ns, mcp_rate_deadline(&mcp->buckets[i].rate));
        }
    }
    return due_ns;
}
