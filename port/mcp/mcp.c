/* Cleat: tool lists from MCP servers. SPDX-License-Identifier: Apache-2.0
 *
 * The talking thread waits in epoll for servers, for the reader and for what
 * callers hand over, and does in each turn whatever is due. */
#define _GNU_SOURCE
#include "cleat/mcp.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "cleat/linux.h"
#include "hub.h"

#define SESSIONS_MAX 64u
#define REQUESTS_MAX 4096u
#define MESSAGE_BYTES_MIN ((size_t)4096)
#define MESSAGE_BYTES_MAX ((size_t)1 << 30)
#define CONFIG_BYTES_MIN ((size_t)1024)
#define CONFIG_BYTES_MAX ((size_t)1 << 30)
#define SEND_SLACK ((size_t)65536) /* beside the longest message */
#define TEXTS_CONFIGS 4u /* of the longest, for all requests under way */
#define EVENTS_MAX 64
#define TIMEOUT_MS_MAX 60000
#define CLIENT_NAME "cleat"
#define CLIENT_VERSION "0.1.0"
#define CLOSE_SLACK_NS                                       \
    (100 * CLEAT_NS_PER_MS) /* after the grace: then what is \
                               left is dropped */

enum wake { WAKE_POKED, WAKE_FILES };

/* ---- the block ---------------------------------------------------------- */

/* Where everything lies in the block. */
struct layout {
    size_t requests;
    size_t sessions;
    size_t watches;
    size_t buckets;
    size_t entries;
    size_t texts;
    size_t maker;
    size_t http;
    size_t out;
    size_t scratch;
    size_t engines;
    size_t engine_bytes; /* of each */
    size_t stdios;
    size_t stdio_bytes;
    size_t bytes;
    uint32_t watches_count;
    uint32_t buckets_count;
    uint32_t entries_count;
    size_t out_bytes;
    size_t scratch_bytes;
    size_t texts_bytes;
};

static uint32_t or_default(uint32_t count, uint32_t otherwise)
{
    return count != 0 ? count : otherwise;
}

static uint64_t or_time(uint64_t time_ns, uint64_t otherwise_ns)
{
    return time_ns != 0 ? time_ns : otherwise_ns;
}

/* Fills the defaults in; false: a count is out of range. */
static bool fill_defaults(struct cleat_mcp_config *config)
{
    config->sessions_max = or_default(config->sessions_max, 16);
    config->requests_max = or_default(config->requests_max, 128);
    config->pages_max = or_default(config->pages_max, 64);
    config->tools_max = or_default(config->tools_max, 1024);
    if (config->message_bytes_max == 0) {
        config->message_bytes_max = (size_t)1 << 20;
    }
    if (config->config_bytes_max == 0) {
        config->config_bytes_max = (size_t)256 << 10;
    }
    if (config->client_name == NULL) { config->client_name = CLIENT_NAME; }
    if (config->client_version == NULL) {
        config->client_version = CLIENT_VERSION;
    }
    config->connect_ns = or_time(config->connect_ns, 5 * CLEAT_NS_PER_S);
    config->request_ns = or_time(config->request_ns, 20 * CLEAT_NS_PER_S);
    config->grace_ns = or_time(config->grace_ns, CLEAT_NS_PER_S);
    return config->sessions_max <= SESSIONS_MAX &&
           config->requests_max <= REQUESTS_MAX &&
           config->message_bytes_max >= MESSAGE_BYTES_MIN &&
           config->message_bytes_max <= MESSAGE_BYTES_MAX &&
           config->config_bytes_max >= CONFIG_BYTES_MIN &&
           config->config_bytes_max <= CONFIG_BYTES_MAX &&
           config->era <= CLEAT_MCP_ERA_MODERN;
}

static void fill_http(const struct cleat_mcp_config *config,
                      struct mcp_http_config *http)
{
    memset(http, 0, sizeof *http);
    http->sessions_max = config->sessions_max;
    http->exchanges_max = config->requests_max +
                          MCP_ENGINE_EXCHANGES_MORE * config->sessions_max;
    http->message_bytes_max = config->message_bytes_max;
    http->connect_ns = config->connect_ns;
    http->tls_ca_file = config->tls_ca_file;
    http->proxies = config->proxies;
}

static size_t align(size_t bytes)
{
    return (bytes + CLEAT_LINUX_ALIGN - 1) / CLEAT_LINUX_ALIGN *
           CLEAT_LINUX_ALIGN;
}

/* The largest of an engine, and of what it says, over all wires. */
static void measure_engine(const struct cleat_mcp_config *config,
                           struct layout *layout)
{
    static const enum mcp_wire wires[] = {MCP_WIRE_STDIO, MCP_WIRE_HTTP,
                                          MCP_WIRE_SSE};
    struct mcp_engine_config engine;

    memset(&engine, 0, sizeof engine);
    engine.era = config->era;
    engine.pages_max = config->pages_max;
    engine.tools_max = config->tools_max;
    engine.message_bytes_max = config->message_bytes_max;
    engine.client_name = config->client_name;
    engine.client_version = config->client_version;
    engine.answer = config->answer;
    layout->engine_bytes = 0;
    layout->out_bytes = 0;
    for (size_t i = 0; i < sizeof wires / sizeof wires[0]; i++) {
        engine.wire = wires[i];
        size_t bytes = align(mcp_engine_bytes(&engine));
        size_t out_bytes = mcp_engine_out_bytes(&engine,
                                                hub_call_bytes_max(config));
        if (bytes > layout->engine_bytes) { layout->engine_bytes = bytes; }
        if (out_bytes > layout->out_bytes) { layout->out_bytes = out_bytes; }
    }
}

/* Takes `bytes` of the block; where they begin. */
static size_t take(struct layout *layout, size_t bytes)
{
    size_t at = layout->bytes;

    layout->bytes += align(bytes);
    return at;
}

/* What is said to a server is a call, and what it has asked to be told again.
 */
static size_t send_bytes(const struct cleat_mcp_config *config)
{
    return 2 * config->message_bytes_max + SEND_SLACK;
}

static void measure(const struct cleat_mcp_config *config,
                    struct layout *layout)
{
    struct mcp_http_config http;
    struct mcp_stdio_host host;

    memset(layout, 0, sizeof *layout);
    measure_engine(config, layout);
    fill_http(config, &http);
    host.message_bytes_max = config->message_bytes_max;
    host.send_bytes = send_bytes(config);
    layout->stdio_bytes = align(mcp_stdio_bytes(&host));
    layout->watches_count = HUB_WATCHES_A_SESSION * config->sessions_max;
    layout->buckets_count = config->requests_max + config->sessions_max;
    layout->entries_count = config->requests_max + config->sessions_max +
                            layout->watches_count;
    /* What is kept for long is not to take the room of requests. */
    layout->texts_bytes = (TEXTS_CONFIGS + config->sessions_max +
                           layout->watches_count) *
                          config->config_bytes_max;
    layout->scratch_bytes = mcp_config_scratch_bytes(config->config_bytes_max);

    (void)take(layout, sizeof(struct cleat_mcp));
    layout->requests = take(layout,
                            config->requests_max * sizeof(struct hub_request));
    layout->sessions = take(layout,
                            config->sessions_max * sizeof(struct hub_session));
    layout->watches = take(layout,
                           layout->watches_count * sizeof(struct hub_watch));
    layout->buckets = take(layout,
                           layout->buckets_count * sizeof(struct hub_bucket));
    layout->entries = take(layout, layout->entries_count *
                                       sizeof(struct mcp_texts_entry));
    layout->texts = take(layout, layout->texts_bytes);
    layout->maker = take(layout, CLEAT_LINUX_CHILD_MAKER_BYTES);
    layout->http = take(layout, mcp_http_bytes(&http));
    layout->out = take(layout, layout->out_bytes);
    layout->scratch = take(layout, layout->scratch_bytes);
    layout->engines = take(layout, config->sessions_max * layout->engine_bytes);
    layout->stdios = take(layout, config->sessions_max * layout->stdio_bytes);
}

size_t cleat_mcp_bytes(const struct cleat_mcp_config *config)
{
    struct cleat_mcp_config full;
    struct layout layout;

    if (config == NULL) { return 0; }
    full = *config;
    if (!fill_defaults(&full)) { return 0; }
    measure(&full, &layout);
    return layout.bytes;
}

/* ---- what the other files need ------------------------------------------ */

void hub_poke(const struct cleat_mcp *mcp)
{
    uint64_t one = 1;
    ssize_t written = write(mcp->wake_fd, &one, sizeof one);

    (void)written; /* it is full: then it wakes as well */
}

bool hub_post(const struct cleat_mcp *mcp, uint32_t kind, const void *body,
              size_t bytes)
{
    const struct cleat_mailbox *mailbox = &mcp->config.mailbox;
    struct cleat_message message;

    memset(&message, 0, sizeof message);
    message.kind = kind;
    memcpy(message.body, body, bytes);
    return mailbox->post(mailbox->context, &message) == CLEAT_OK;
}
_Static_assert(sizeof(struct cleat_loader_done) <= CLEAT_MESSAGE_BYTES, "done");

int hub_thread_start(pthread_t *thread, void *(*main_of_thread)(void *),
                     void *argument)
{
    sigset_t all;
    sigset_t before;

    (void)sigfillset(&all);
    int code = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (code != 0) { return code; }
    code = pthread_create(thread, NULL, main_of_thread, argument);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

/* ---- the talking thread ------------------------------------------------- */

/* What the reader and the closing thread have said. */
static void take_news(struct cleat_mcp *mcp)
{
    hub_lock(mcp);
    bool closing = mcp->closing;
    bool changed = mcp->reader.changed && hub_watches_wanted(mcp);
    if (changed) { mcp->reader.changed = false; }
    hub_unlock(mcp);
    if (changed) { mcp->configs_changed = true; }
    if (closing && !mcp->ending) {
        mcp->ending = true;
        mcp->ended_ns = cleat_time_add(
            mcp->now_ns, cleat_time_add(mcp->config.grace_ns, CLOSE_SLACK_NS));
    }
}

/* Posts what can be; false: the mailbox is full. */
static bool post_all(struct cleat_mcp *mcp)
{
    static const uint64_t configs = 0;

    if (mcp->configs_changed) {
        mcp->configs_changed = !hub_post(mcp, CLEAT_LOADER_CHANGED, &configs,
                                         sizeof configs);
    }
    bool all = !mcp->configs_changed;
    all = hub_requests_post(mcp) && all;
    return hub_sessions_post(mcp) && all;
}

/* Does what is due. */
static void take_turn(struct cleat_mcp *mcp)
{
    take_news(mcp);
    hub_requests_take(mcp);
    if (mcp->ending) {
        hub_requests_end(mcp);
        hub_sessions_end(mcp);
    }
    hub_sessions_tick(mcp);
    hub_requests_move(mcp);
    if (!mcp->ending) { hub_watches_move(mcp); }
}

static uint64_t find_due(struct cleat_mcp *mcp)
{
    uint64_t due_ns = hub_min(hub_requests_deadline(mcp),
                              hub_sessions_deadline(mcp));

    due_ns = hub_min(due_ns, hub_watches_deadline(mcp));
    return mcp->ending && mcp->now_ns < mcp->ended_ns
               ? hub_min(due_ns, mcp->ended_ns)
               : due_ns;
}

/* Milliseconds to wait, rounded up; -1: for ever. */
static int timeout_until(const struct cleat_mcp *mcp, uint64_t due_ns)
{
    if (due_ns == CLEAT_NEVER) { return -1; }
    uint64_t now_ns = hub_now_ns(mcp);
    uint64_t left_ns = due_ns > now_ns ? due_ns - now_ns : 0;
    uint64_t left_ms = left_ns / CLEAT_NS_PER_MS +
                       (left_ns % CLEAT_NS_PER_MS != 0);
    return left_ms > TIMEOUT_MS_MAX ? TIMEOUT_MS_MAX : (int)left_ms;
}

static void handle(struct cleat_mcp *mcp, const struct epoll_event *event)
{
    uint32_t which = (uint32_t)event->data.u64;
    uint32_t number = (uint32_t)(event->data.u64 >> 32) & 0xFFFF;
    uint64_t pokes;
    ssize_t got;

    switch ((enum mcp_ready_kind)(event->data.u64 >> 48)) {
    case MCP_READY_WAKE:
        if (which == WAKE_FILES) {
            hub_reader_notice(mcp);
        } else {
            got = read(mcp->wake_fd, &pokes, sizeof pokes);
            (void)got; /* it does not block, and the number means nothing */
        }
        break;
    case MCP_READY_STDIO:
        if (mcp->sessions[number].stdio != NULL) {
            mcp_stdio_ready(mcp->sessions[number].stdio, mcp->now_ns, which);
        }
        break;
    case MCP_READY_HTTP:
        mcp_http_ready(mcp->http, mcp->now_ns, (int)which, event->events);
        break;
    }
}

static bool is_reading(struct cleat_mcp *mcp)
{
    hub_lock(mcp);
    bool reading = !mcp->reader.gone;
    hub_unlock(mcp);
    return reading;
}

/* Whether a server, or room for a message, is still to be waited for, once it
 * is being closed. */
static bool is_needed(struct cleat_mcp *mcp)
{
    if (!mcp->ending || hub_sessions_are_left(mcp)) { return true; }
    return hub_requests_are_left(mcp) && hub_now_ns(mcp) < mcp->ended_ns;
}

static void *thread_main(void *argument)
{
    struct cleat_mcp *mcp = argument;
    struct epoll_event events[EVENTS_MAX];

    for (;;) {
        /* Asked before the turn, which posts what the reader has left. */
        bool reading = is_reading(mcp);
        mcp->now_ns = hub_now_ns(mcp);
        take_turn(mcp);
        uint64_t due_ns = find_due(mcp);
        if (!post_all(mcp)) {
            due_ns = hub_min(due_ns, cleat_time_add(mcp->now_ns, HUB_AGAIN_NS));
        }
        if (!reading && !is_needed(mcp)) { break; }
        int count = epoll_wait(mcp->epoll_fd, events, EVENTS_MAX,
                               timeout_until(mcp, due_ns));
        mcp->now_ns = hub_now_ns(mcp);
        for (int i = 0; i < count; i++) { handle(mcp, &events[i]); }
    }
    return NULL;
}

/* ---- the port ----------------------------------------------------------- */

static struct cleat_mcp *of_context(struct cleat_loader_context *context)
{
    return (struct cleat_mcp *)(void *)context;
}

static enum cleat_status
check_request(const struct cleat_loader_request *request)
{
    bool is_path = request->kind == CLEAT_LOADER_CONFIG;

    if (request->id == 0 || request->kind < CLEAT_LOADER_CONFIG ||
        request->kind > CLEAT_LOADER_CALL) {
        return cleat_error_set(request->error, CLEAT_INVALID, 0, 0,
                               "a request has an id and a kind");
    }
    if (request->block == NULL || (uintptr_t)request->block % 8 != 0) {
        return cleat_error_set(request->error, CLEAT_INVALID, 0, 0,
                               "a request's block starts at a multiple of 8");
    }
    if (is_path && request->definition.bytes >= HUB_PATH_BYTES) {
        return cleat_error_set(request->error, CLEAT_LIMIT, 0, 0,
                               "the path is longer than 1023 bytes");
    }
    return CLEAT_OK;
}

/* In a process that was forked since, nobody would ever carry it out. */
static bool is_ours(const struct cleat_mcp *mcp)
{
    return getpid() == mcp->process;
}

static struct hub_request *find_free(struct cleat_mcp *mcp)
{
    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        if (mcp->requests[i].place == HUB_FREE) { return &mcp->requests[i]; }
    }
    return NULL;
}

/* With the lock. */
static enum cleat_status hand_over(struct cleat_mcp *mcp,
                                   const struct cleat_loader_request *wanted)
{
    struct hub_request *request = find_free(mcp);

    if (mcp->closing) {
        return cleat_error_set(wanted->error, CLEAT_CANCELLED, 0, 0,
                               "the loader is closed");
    }
    size_t bytes_max = TEXTS_CONFIGS * mcp->config.config_bytes_max - 1;
    if (wanted->definition.bytes > bytes_max) {
        return cleat_error_set(wanted->error, CLEAT_LIMIT, 0, bytes_max,
                               "the definition is longer than four times "
                               "config_bytes_max");
    }
    uint32_t text = request == NULL
                        ? MCP_TEXTS_NOTHING
                        : mcp_texts_hold(&mcp->texts, wanted->definition);
    if (text == MCP_TEXTS_NOTHING) {
        return cleat_error_set(wanted->error, CLEAT_NO_SLOT, 0, 0,
                               request == NULL
                                   ? "requests_max requests are under way"
                                   : "the definitions under way take all the "
                                     "room there is for them");
    }
    request->wanted = *wanted;
    request->text = text;
    request->order = ++mcp->orders;
    request->cancelled = false;
    request->deadline_ns = wanted->deadline_ns;
    request->done = (struct cleat_loader_done){
        .id = wanted->id, .ttl_ns = CLEAT_NONE, .hint_ns = CLEAT_NONE};
    if (wanted->kind == CLEAT_LOADER_CONFIG) {
        request->place = HUB_QUEUED;
        (void)pthread_cond_signal(&mcp->reader.wake);
    } else {
        request->place = HUB_INBOX;
    }
    return CLEAT_OK;
}

static enum cleat_status start(struct cleat_loader_context *context,
                               const struct cleat_loader_request *request)
{
    struct cleat_mcp *mcp = of_context(context);
    enum cleat_status status = check_request(request);

    if (status != CLEAT_OK) { return status; }
    if (!is_ours(mcp)) {
        return cleat_error_set(request->error, CLEAT_STATE, 0, 0,
                               "the loader was opened before this process was "
                               "forked");
    }
    hub_lock(mcp);
    status = hand_over(mcp, request);
    if (status == CLEAT_OK) { hub_poke(mcp); }
    hub_unlock(mcp);
    return status;
}

static void cancel(struct cleat_loader_context *context, uint64_t id)
{
    struct cleat_mcp *mcp = of_context(context);

    if (!is_ours(mcp)) { return; }
    hub_lock(mcp);
    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        struct hub_request *request = &mcp->requests[i];
        if (request->place != HUB_FREE && request->wanted.id == id) {
            request->cancelled = true;
            hub_poke(mcp);
        }
    }
    hub_unlock(mcp);
}

static struct hub_watch *find_watch(struct cleat_mcp *mcp, uint64_t key,
                                    bool make)
{
    struct hub_watch *free_one = NULL;

    for (uint32_t i = 0; i < mcp->watches_count; i++) {
        struct hub_watch *watch = &mcp->watches[i];
        if (watch->text == MCP_TEXTS_NOTHING) {
            if (free_one == NULL) { free_one = watch; }
        } else if (watch->key == key) {
            return watch;
        }
    }
    return make ? free_one : NULL;
}

/* With the lock. */
static enum cleat_status note_watch(struct cleat_mcp *mcp, uint64_t key,
                                    struct cleat_text definition, bool on)
{
    struct hub_watch *watch = find_watch(mcp, key, on);

    if (watch == NULL) { return on ? CLEAT_NO_SLOT : CLEAT_OK; }
    if (watch->text == MCP_TEXTS_NOTHING) {
        uint32_t text = mcp_texts_hold(&mcp->texts, definition);
        if (text == MCP_TEXTS_NOTHING) { return CLEAT_NO_SLOT; }
        watch->text = text;
        watch->key = key;
    }
    watch->on = on;
    return CLEAT_OK;
}

static enum cleat_status watch(struct cleat_loader_context *context,
                               uint64_t key, struct cleat_text definition,
                               bool on)
{
    struct cleat_mcp *mcp = of_context(context);

    if (!is_ours(mcp)) { return CLEAT_STATE; }
    hub_lock(mcp);
    enum cleat_status status = mcp->closing
                                   ? CLEAT_CANCELLED
                                   : note_watch(mcp, key, definition, on);
    if (status == CLEAT_OK) { hub_poke(mcp); }
    hub_unlock(mcp);
    return status;
}

struct cleat_loader cleat_mcp_loader(struct cleat_mcp *mcp)
{
    struct cleat_loader loader = {
        .context = (struct cleat_loader_context *)(void *)mcp,
        .start = start,
        .cancel = cancel,
        .watch = watch};

    return loader;
}

/* ---- beginning and end -------------------------------------------------- */

static bool copy_text(char *to, size_t bytes, const char *from)
{
    size_t length = strnlen(from, bytes);

    if (length == bytes) { return false; }
    memcpy(to, from, length + 1);
    return true;
}

static enum cleat_status check(const void *block, size_t bytes,
                               const struct cleat_mcp_config *config,
                               struct cleat_mcp_config *full,
                               struct layout *layout, struct cleat_error *error)
{
    if (block == NULL || (uintptr_t)block % CLEAT_LINUX_ALIGN != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 1, 0,
                               "the block must start at a multiple of 64");
    }
    if (config == NULL || config->mailbox.post == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "config: a mailbox must be given");
    }
    *full = *config;
    if (!fill_defaults(full)) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "config: a count, a size or the era is out of "
                               "range");
    }
    measure(full, layout);
    if (bytes < layout->bytes) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 2, layout->bytes,
                               "the block is smaller than what it must hold");
    }
    return CLEAT_OK;
}

static enum cleat_status copy_texts(struct cleat_mcp *mcp,
                                    struct cleat_error *error)
{
    struct cleat_mcp_config *config = &mcp->config;

    if (!copy_text(mcp->client_name, sizeof mcp->client_name,
                   config->client_name) ||
        !copy_text(mcp->client_version, sizeof mcp->client_version,
                   config->client_version) ||
        (config->tls_ca_file != NULL &&
         !copy_text(mcp->tls_ca_file, sizeof mcp->tls_ca_file,
                    config->tls_ca_file))) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "config: client_name and client_version have "
                               "at most 63 bytes, tls_ca_file 1023");
    }
    config->client_name = mcp->client_name;
    config->client_version = mcp->client_version;
    if (config->tls_ca_file != NULL) { config->tls_ca_file = mcp->tls_ca_file; }
    return mcp_environment_read(&mcp->host.environment, getenv, error);
}

/* Only what must not be left as it is: most of the block is never touched. */
static void fill(struct cleat_mcp *mcp, const struct layout *layout)
{
    unsigned char *block = (unsigned char *)mcp;
    uint32_t sessions = mcp->config.sessions_max;

    mcp->clock = cleat_linux_clock();
    mcp->epoll_fd = -1;
    mcp->wake_fd = -1;
    mcp->inotify_fd = -1;
    mcp->watches_count = layout->watches_count;
    mcp->buckets_count = layout->buckets_count;
    mcp->out_bytes = layout->out_bytes;
    mcp->requests = (void *)(block + layout->requests);
    mcp->sessions = (void *)(block + layout->sessions);
    mcp->watches = (void *)(block + layout->watches);
    mcp->buckets = (void *)(block + layout->buckets);
    mcp->out = (void *)(block + layout->out);
    mcp->reader.scratch = block + layout->scratch;
    mcp->reader.scratch_bytes = layout->scratch_bytes;
    memset(mcp->requests, 0, mcp->config.requests_max * sizeof *mcp->requests);
    memset(mcp->sessions, 0, sessions * sizeof *mcp->sessions);
    memset(mcp->watches, 0, mcp->watches_count * sizeof *mcp->watches);
    memset(mcp->buckets, 0, mcp->buckets_count * sizeof *mcp->buckets);
    mcp_texts_init(&mcp->texts, (void *)(block + layout->entries),
                   layout->entries_count, (void *)(block + layout->texts),
                   layout->texts_bytes);
    for (uint32_t i = 0; i < mcp->watches_count; i++) {
        mcp->watches[i].text = MCP_TEXTS_NOTHING;
    }
    for (uint32_t i = 0; i < sessions; i++) {
        mcp->sessions[i].engine_block = block + layout->engines +
                                        i * layout->engine_bytes;
        mcp->sessions[i].stdio_block = block + layout->stdios +
                                       i * layout->stdio_bytes;
    }
}

static int watch_fd(const struct cleat_mcp *mcp, int fd, enum wake which)
{
    struct epoll_event event = {.events = EPOLLIN};

    event.data.u64 = MCP_READY(MCP_READY_WAKE, 0, which);
    return epoll_ctl(mcp->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : errno;
}

static int open_descriptors(struct cleat_mcp *mcp)
{
    mcp->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (mcp->epoll_fd < 0) { return errno; }
    mcp->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (mcp->wake_fd < 0) { return errno; }
    mcp->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (mcp->inotify_fd < 0) { return errno; }
    int code = watch_fd(mcp, mcp->wake_fd, WAKE_POKED);
    return code != 0 ? code : watch_fd(mcp, mcp->inotify_fd, WAKE_FILES);
}

static void shut(int *fd)
{
    if (*fd >= 0) { (void)close(*fd); }
    *fd = -1;
}

static void close_descriptors(struct cleat_mcp *mcp)
{
    shut(&mcp->inotify_fd);
    shut(&mcp->wake_fd);
    shut(&mcp->epoll_fd);
}

static enum cleat_status open_host(struct cleat_mcp *mcp,
                                   const struct layout *layout,
                                   struct cleat_error *error)
{
    static const int fds[MCP_STDIO_FDS_COUNT] = MCP_STDIO_FDS;
    struct mcp_stdio_host *host = &mcp->host;

    host->epoll_fd = mcp->epoll_fd;
    host->message_bytes_max = mcp->config.message_bytes_max;
    host->send_bytes = send_bytes(&mcp->config);
    host->grace_ns = mcp->config.grace_ns;
    host->tell = hub_session_told;
    host->context = mcp;
    return cleat_linux_child_maker_init(
        (unsigned char *)mcp + layout->maker, CLEAT_LINUX_CHILD_MAKER_BYTES,
        fds, MCP_STDIO_FDS_COUNT, &host->maker, error);
}

static enum cleat_status open_http(struct cleat_mcp *mcp,
                                   const struct layout *layout,
                                   struct cleat_error *error)
{
    struct mcp_http_config config;

    fill_http(&mcp->config, &config);
    config.epoll_fd = mcp->epoll_fd;
    config.tell = hub_session_told;
    config.context = mcp;
    return mcp_http_init((unsigned char *)mcp + layout->http, &config,
                         &mcp->http, error);
}

/* Has both threads end, and waits for them. */
static void stop_threads(struct cleat_mcp *mcp)
{
    hub_lock(mcp);
    mcp->closing = true;
    (void)pthread_cond_broadcast(&mcp->reader.wake);
    hub_unlock(mcp);
    hub_poke(mcp);
    (void)pthread_join(mcp->thread, NULL);
    hub_reader_join(mcp);
}

static int start_threads(struct cleat_mcp *mcp)
{
    (void)pthread_mutex_init(&mcp->lock, NULL);
    int code = hub_reader_start(mcp);
    if (code == 0) {
        code = hub_thread_start(&mcp->thread, thread_main, mcp);
        if (code != 0) {
            hub_lock(mcp);
            mcp->closing = true;
            (void)pthread_cond_broadcast(&mcp->reader.wake);
            hub_unlock(mcp);
            hub_reader_join(mcp);
        }
    }
    if (code != 0) { (void)pthread_mutex_destroy(&mcp->lock); }
    return code;
}

static enum cleat_status io_error(struct cleat_error *error, int code,
                                  const char *doing)
{
    const char *words = strerrordesc_np(code);

    (void)cleat_error_set(error, CLEAT_IO, 0, 0, "");
    if (error != NULL) {
        (void)snprintf(error->text, sizeof error->text, "%s: %s", doing,
                       words != NULL ? words : "unknown error");
        error->port_code = code;
    }
    return CLEAT_IO;
}

/* Everything that is not memory; on error nothing of it is left. */
static enum cleat_status open_all(struct cleat_mcp *mcp,
                                  const struct layout *layout,
                                  struct cleat_error *error)
{
    int code = open_descriptors(mcp);

    if (code != 0) { return io_error(error, code, "making descriptors"); }
    enum cleat_status status = open_host(mcp, layout, error);
    if (status != CLEAT_OK) { return status; }
    status = open_http(mcp, layout, error);
    if (status == CLEAT_OK) {
        code = start_threads(mcp);
        if (code == 0) { return CLEAT_OK; }
        mcp_http_close(mcp->http);
        status = io_error(error, code, "starting threads");
    }
    cleat_linux_child_maker_close(mcp->host.maker);
    return status;
}

enum cleat_status cleat_mcp_open(void *block, size_t bytes,
                                 const struct cleat_mcp_config *config,
                                 struct cleat_mcp **out,
                                 struct cleat_error *error)
{
    struct cleat_mcp_config full;
    struct layout layout;

    if (out == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 4, 0, "out is NULL");
    }
    *out = NULL;
    enum cleat_status status = check(block, bytes, config, &full, &layout,
                                     error);
    if (status != CLEAT_OK) { return status; }

    struct cleat_mcp *mcp = block;
    memset(mcp, 0, sizeof *mcp);
    mcp->config = full;
    status = copy_texts(mcp, error);
    if (status != CLEAT_OK) { return status; }
    fill(mcp, &layout);
    status = open_all(mcp, &layout, error);
    if (status != CLEAT_OK) {
        close_descriptors(mcp);
        return status;
    }
    mcp->process = getpid();
    mcp->is_open = true;
    *out = mcp;
    return CLEAT_OK;
}

void cleat_mcp_close(struct cleat_mcp *mcp)
{
    if (mcp == NULL || !mcp->is_open) { return; }
    mcp->is_open = false;
    if (!is_ours(mcp)) { return; }
    stop_threads(mcp);
    mcp_http_close(mcp->http);
    cleat_linux_child_maker_close(mcp->host.maker);
    hub_lock(mcp); /* somebody may be waking the talking thread */
    close_descriptors(mcp);
    hub_unlock(mcp);
    /* The lock holds nothing, and stays: who comes late is told that it is
     * closed. */
}
