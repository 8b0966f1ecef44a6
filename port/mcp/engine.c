/* Cleat: the MCP engine's calls, its time, and the order of its actions.
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"

#include <string.h>

#include "engine_state.h"

/* What a request holds besides texts of the host and the server. */
#define FRAME_BYTES 4096u
/* A tool's name is escaped (6 for 1) and put into a header (4 for 3, and its
 * marks); arguments are copied, and put into headers; a schema's annotations
 * give those headers their names. */
#define CALL_FACTOR 10u
#define ESCAPE_FACTOR 6u

static size_t stash_bytes(const struct mcp_engine_config *config)
{
    return config->message_bytes_max + FRAME_BYTES;
}

static size_t block_bytes(void)
{
    return (sizeof(struct mcp_engine) + 7u) / 8u * 8u;
}

size_t mcp_engine_bytes(const struct mcp_engine_config *config)
{
    return block_bytes() + (stash_bytes(config) + 7u) / 8u * 8u;
}

size_t mcp_engine_out_bytes(const struct mcp_engine_config *config,
                            size_t call_bytes)
{
    return FRAME_BYTES + MCP_SESSION_BYTES_MAX + stash_bytes(config) +
           ESCAPE_FACTOR *
               (strlen(config->client_name) + strlen(config->client_version)) +
           CALL_FACTOR * call_bytes;
}

struct mcp_engine *mcp_engine_init(void *block,
                                   const struct mcp_engine_config *config,
                                   uint64_t now_ns)
{
    struct mcp_engine *e = block;

    memset(e, 0, sizeof *e);
    e->config = *config;
    e->now_ns = now_ns;
    e->old_sse = config->wire == MCP_WIRE_SSE;
    e->follow = config->follow;
    if (e->old_sse || config->era == CLEAT_MCP_ERA_LEGACY) {
        e->era = MCP_ERA_LEGACY;
    } else if (config->era == CLEAT_MCP_ERA_MODERN) {
        e->era = MCP_ERA_MODERN;
    }
    e->session.deadline_ns = CLEAT_NEVER;
    e->stash = (char *)block + block_bytes();
    e->stash_bytes = stash_bytes(config);
    return e;
}

bool mcp_engine_is_http(const struct mcp_engine *e)
{
    return e->config.wire != MCP_WIRE_STDIO;
}

bool mcp_engine_is_modern(const struct mcp_engine *e)
{
    return e->era == MCP_ERA_MODERN || e->session.phase == MCP_PHASE_PROBING;
}

uint64_t mcp_engine_number(struct mcp_engine *e)
{
    return ++e->exchanges;
}

/* ---- what is kept between hearing and saying ---------------------------- */

char *mcp_scratch(const struct mcp_engine *e, size_t *bytes)
{
    *bytes = e->stash_bytes - e->stash_used;
    return e->stash + e->stash_used;
}

void mcp_drop(struct mcp_engine *e, struct mcp_kept *kept)
{
    if (!kept->there) { return; }
    kept->there = false;
    e->stash_held--;
    if (e->stash_held == 0) { e->stash_used = 0; }
}

void mcp_keep_scratch(struct mcp_engine *e, struct mcp_kept *kept, size_t bytes)
{
    kept->text = e->stash + e->stash_used;
    kept->bytes = bytes;
    kept->there = true;
    e->stash_used += bytes;
    e->stash_held++;
}

bool mcp_keep(struct mcp_engine *e, struct mcp_kept *kept,
              struct cleat_text text)
{
    size_t room;
    char *to;

    mcp_drop(e, kept);
    to = mcp_scratch(e, &room);
    if (text.bytes > room) { return false; }
    if (text.bytes > 0) { memmove(to, text.text, text.bytes); }
    mcp_keep_scratch(e, kept, text.bytes);
    return true;
}

void mcp_quote(struct mcp_engine *e, struct cleat_text text, char *to,
               size_t room)
{
    size_t bytes;
    char *copy = mcp_scratch(e, &bytes);

    if (text.bytes < bytes) { bytes = text.bytes; }
    if (bytes > 0) { memmove(copy, text.text, bytes); }
    if (e->config.redact != NULL) {
        bytes = e->config.redact(e->config.redact_context, copy, bytes);
    }
    mcp_clean(mcp_text(copy, bytes), room - 1, to, room);
}

void mcp_quote_json(struct mcp_engine *e, const char *text,
                    const struct cleat_json_value *string, char *to,
                    size_t room)
{
    struct cleat_text said;
    size_t bytes;
    char *scratch = mcp_scratch(e, &bytes);

    if (!mcp_string(text, string,
                    CLEAT_JSON_ALLOW_NUL | CLEAT_JSON_REPLACE_LONE, scratch,
                    bytes, &said)) {
        said = mcp_text("", 0);
    }
    mcp_quote(e, said, to, room);
}

/* ---- small things to be sent -------------------------------------------- */

struct mcp_queued *mcp_engine_queue(struct mcp_engine *e,
                                    enum mcp_queued_what what, uint64_t number)
{
    bool may_be_lost = what != MCP_QUEUED_CANCELLED;
    size_t room = MCP_QUEUE_MAX - (may_be_lost ? MCP_QUEUE_SPARE : 0);
    struct mcp_queued *queued;

    if (e->queue_count >= room) { return NULL; }
    queued = &e->queue[(e->queue_first + e->queue_count) % MCP_QUEUE_MAX];
    e->queue_count++;
    queued->what = what;
    queued->number = number;
    queued->id_bytes = 0;
    queued->answer.there = false;
    return queued;
}

void mcp_engine_forget(struct mcp_engine *e)
{
    while (e->queue_count > 0) {
        mcp_drop(e, &e->queue[e->queue_first].answer);
        e->queue_first = (e->queue_first + 1) % MCP_QUEUE_MAX;
        e->queue_count--;
    }
}

static void cancel(struct mcp_engine *e, uint64_t exchange)
{
    if (exchange != 0 && mcp_engine_is_http(e) &&
        e->cancels_count < MCP_CANCELS_MAX) {
        e->cancels[e->cancels_count++] = exchange;
    }
}

void mcp_engine_cancel(struct mcp_engine *e, struct mcp_exchange *exchange)
{
    cancel(e, exchange->number);
    exchange->number = 0;
}

static struct mcp_standing *find_place(struct mcp_engine *e)
{
    for (size_t i = 0; i < MCP_ENGINE_STANDING_MAX; i++) {
        if (e->standing[i].exchange == 0) { return &e->standing[i]; }
    }
    return NULL;
}

/* Ends the one whose answer has come, and that was to end first. False: there
 * is none. */
static bool make_place(struct mcp_engine *e)
{
    struct mcp_standing *first = NULL;

    for (size_t i = 0; i < MCP_ENGINE_STANDING_MAX; i++) {
        struct mcp_standing *standing = &e->standing[i];

        if (!standing->queued &&
            (first == NULL || standing->until_ns < first->until_ns)) {
            first = standing;
        }
    }
    if (first == NULL) { return false; }
    cancel(e, first->exchange);
    first->exchange = 0;
    return true;
}

/* Over the old HTTP+SSE an answer does not come in its request's exchange. */
void mcp_engine_stand(struct mcp_engine *e, struct mcp_exchange *exchange)
{
    struct mcp_standing *place = find_place(e);

    if (exchange->number != 0 && (exchange->is_stream || e->old_sse)) {
        if (place == NULL) {
            cancel(e, exchange->number);
        } else {
            place->exchange = exchange->number;
            place->until_ns = cleat_time_add(e->now_ns, MCP_STANDING_NS);
            place->queued = false;
        }
    }
    exchange->number = 0;
}

/* ---- time --------------------------------------------------------------- */

static void expire_standing(struct mcp_engine *e)
{
    for (size_t i = 0; i < MCP_ENGINE_STANDING_MAX; i++) {
        if (e->standing[i].exchange != 0 &&
            e->standing[i].until_ns <= e->now_ns) {
            cancel(e, e->standing[i].exchange);
            e->standing[i].exchange = 0;
        }
    }
}

static void expire_channel(struct mcp_engine *e)
{
    struct mcp_channel *channel = &e->channel;

    if (channel->state == MCP_CHANNEL_SENT &&
        e->session.phase != MCP_PHASE_CONNECTING &&
        channel->deadline_ns <= e->now_ns) {
        mcp_channel_lost(e);
    }
    if (channel->state == MCP_CHANNEL_PAUSED &&
        channel->again_ns <= e->now_ns) {
        channel->state = MCP_CHANNEL_DUE;
    }
}

/* Applies what is due at or before now_ns. */
static void advance(struct mcp_engine *e, uint64_t now_ns)
{
    if (now_ns > e->now_ns) { e->now_ns = now_ns; }
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        mcp_work_expire(e, &e->works[i]);
    }
    mcp_session_expire(e);
    expire_channel(e);
    expire_standing(e);
    mcp_session_pump(e);
}

static uint64_t earlier(uint64_t a_ns, uint64_t b_ns)
{
    return a_ns < b_ns ? a_ns : b_ns;
}

static uint64_t work_deadline(const struct mcp_engine *e,
                              const struct mcp_work *w)
{
    uint64_t at_ns = CLEAT_NEVER;

    if (!mcp_work_is_open(w)) { return at_ns; }
    at_ns = earlier(w->deadline_ns, w->request_deadline_ns);
    if (w->state == MCP_WORK_PAUSED) { at_ns = earlier(at_ns, w->again_ns); }
    if (w->state == MCP_WORK_WAITING && e->session.phase == MCP_PHASE_READY) {
        at_ns = earlier(at_ns, e->session.channel_wait_ns);
    }
    return at_ns;
}

uint64_t mcp_engine_deadline(const struct mcp_engine *e)
{
    uint64_t at_ns = e->session.deadline_ns;

    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        at_ns = earlier(at_ns, work_deadline(e, &e->works[i]));
    }
    for (size_t i = 0; i < MCP_ENGINE_STANDING_MAX; i++) {
        if (e->standing[i].exchange != 0) {
            at_ns = earlier(at_ns, e->standing[i].until_ns);
        }
    }
    if (e->channel.state == MCP_CHANNEL_PAUSED) {
        at_ns = earlier(at_ns, e->channel.again_ns);
    } else if (e->channel.state == MCP_CHANNEL_SENT) {
        at_ns = earlier(at_ns, e->channel.deadline_ns);
    }
    return at_ns;
}

void mcp_engine_tick(struct mcp_engine *e, uint64_t now_ns)
{
    advance(e, now_ns);
}

/* ---- what the host wants ------------------------------------------------ */

static struct mcp_work *begin_work(struct mcp_engine *e, uint64_t operation,
                                   uint64_t deadline_ns,
                                   struct cleat_error *error)
{
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (w->state != MCP_WORK_FREE) { continue; }
        memset(w, 0, sizeof *w);
        w->state = MCP_WORK_WAITING;
        w->operation = operation;
        w->deadline_ns = deadline_ns;
        w->request_deadline_ns = CLEAT_NEVER;
        return w;
    }
    (void)cleat_error_set(error, CLEAT_NO_SLOT, 0, 0,
                          "too many operations with one server");
    return NULL;
}

enum cleat_status mcp_engine_list(struct mcp_engine *e, uint64_t now_ns,
                                  uint64_t operation,
                                  const struct mcp_list *list)
{
    struct mcp_work *w;

    advance(e, now_ns);
    w = begin_work(e, operation, list->deadline_ns, list->error);
    if (w == NULL) { return CLEAT_NO_SLOT; }
    w->of.list = *list;
    advance(e, now_ns);
    return CLEAT_OK;
}

enum cleat_status mcp_engine_call(struct mcp_engine *e, uint64_t now_ns,
                                  uint64_t operation,
                                  const struct mcp_call *call)
{
    struct mcp_work *w;

    advance(e, now_ns);
    w = begin_work(e, operation, call->deadline_ns, call->error);
    if (w == NULL) { return CLEAT_NO_SLOT; }
    w->is_call = true;
    w->of.call = *call;
    advance(e, now_ns);
    return CLEAT_OK;
}

void mcp_engine_follow(struct mcp_engine *e, uint64_t now_ns, bool on)
{
    e->follow = on;
    e->open_wanted = on;
    advance(e, now_ns);
}

void mcp_engine_abandon(struct mcp_engine *e, uint64_t now_ns,
                        uint64_t operation)
{
    advance(e, now_ns);
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (mcp_work_is_open(w) && w->operation == operation) {
            mcp_work_abandon(e, w);
        }
    }
    mcp_session_pump(e);
}

void mcp_engine_end(struct mcp_engine *e, uint64_t now_ns)
{
    advance(e, now_ns);
    e->follow = false;
    e->open_wanted = false;
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        if (mcp_work_is_open(&e->works[i])) {
            mcp_work_abandon(e, &e->works[i]);
        }
    }
    mcp_session_end(e);
}

void mcp_engine_tell(struct mcp_engine *e, uint64_t now_ns,
                     const struct mcp_told_it *told)
{
    advance(e, now_ns);
    mcp_hear(e, told);
    mcp_session_pump(e);
}

bool mcp_engine_idle(const struct mcp_engine *e)
{
    return e->session.phase != MCP_PHASE_LEAVING &&
           e->session.phase != MCP_PHASE_CLOSING;
}

/* ---- the next action ---------------------------------------------------- */

static void clear(struct mcp_action *action)
{
    memset(action, 0, sizeof *action);
    action->endpoint = mcp_text("", 0);
    action->headers = mcp_text("", 0);
    action->body = mcp_text("", 0);
    action->ttl_ns = CLEAT_NONE;
    action->hint_ns = CLEAT_NONE;
}

static bool next_cancel(struct mcp_engine *e, struct mcp_action *action)
{
    if (e->cancels_count == 0) { return false; }
    action->what = MCP_CANCEL;
    action->exchange = e->cancels[0];
    e->cancels_count--;
    memmove(e->cancels, e->cancels + 1, e->cancels_count * sizeof *e->cancels);
    return true;
}

/* Over HTTP each takes an exchange, which a server may leave unanswered: then
 * the next ones wait for a place, and never take the room of requests. */
static bool next_queued(struct mcp_engine *e, struct mcp_out *out,
                        struct mcp_action *action)
{
    while (e->queue_count > 0) {
        struct mcp_queued *queued = &e->queue[e->queue_first];
        struct mcp_standing *place = find_place(e);
        bool said;

        if (place == NULL && mcp_engine_is_http(e)) {
            return make_place(e) && next_cancel(e, action);
        }
        mcp_out_begin(out, out->to, out->room);
        said = mcp_say_queued(e, queued, out, action);
        mcp_drop(e, &queued->answer);
        e->queue_first = (e->queue_first + 1) % MCP_QUEUE_MAX;
        e->queue_count--;
        if (said && mcp_engine_is_http(e)) {
            place->exchange = action->exchange;
            place->until_ns = cleat_time_add(e->now_ns, e->config.request_ns);
            place->queued = true;
        }
        if (said) { return true; }
    }
    return false;
}

static bool next_done(struct mcp_engine *e, struct mcp_action *action)
{
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (w->state != MCP_WORK_ENDED) { continue; }
        action->what = MCP_DONE;
        action->operation = w->operation;
        action->status = w->status;
        action->bytes = w->bytes;
        action->ttl_ns = w->ttl_ns;
        action->hint_ns = w->hint_ns;
        action->is_error = w->is_error;
        w->state = MCP_WORK_FREE;
        return true;
    }
    return false;
}

static bool next_work(struct mcp_engine *e, struct mcp_out *out,
                      struct mcp_action *action)
{
    for (size_t i = 0; i < MCP_ENGINE_OPERATIONS_MAX; i++) {
        struct mcp_work *w = &e->works[i];

        if (w->state != MCP_WORK_DUE && w->state != MCP_WORK_RESUME) {
            continue;
        }
        if (mcp_say_work(e, w, out, action)) { return true; }
        mcp_work_fail(e, w, CLEAT_LIMIT, 0, CLEAT_NONE,
                      "a request is larger than there is room for");
        clear(action);
        return next_done(e, action);
    }
    return false;
}

bool mcp_engine_next(struct mcp_engine *e, char *to, size_t out_bytes,
                     struct mcp_action *action)
{
    struct mcp_out out;

    clear(action);
    mcp_out_begin(&out, to, out_bytes);
    if (next_cancel(e, action) || next_queued(e, &out, action) ||
        next_done(e, action)) {
        return true;
    }
    mcp_out_begin(&out, to, out_bytes);
    if (e->changed) {
        e->changed = false;
        action->what = MCP_CHANGED;
        return true;
    }
    if (e->session.say != MCP_SAY_NOTHING) {
        return mcp_say_session(e, &out, action);
    }
    if (e->channel.state == MCP_CHANNEL_DUE) {
        return mcp_say_channel(e, &out, action);
    }
    return next_work(e, &out, action);
}
