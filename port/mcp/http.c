/* Cleat: MCP over HTTP, through libcurl. SPDX-License-Identifier: Apache-2.0
 *
 * RFC 9110 and 9112 as libcurl speaks them; which requests there are and what
 * their answers mean is the engine's.
 *
 * libcurl allocates: its handles (made at init, used again), and in its calls
 * what a transfer needs, among it copies of URL, headers and body. Our own code
 * keeps to its block.
 *
 * libcurl calls us back from inside its calls, and there we tell. Whoever is
 * told may send and cancel at once: what libcurl does not allow then (adding
 * and removing handles) waits until its call has returned. Nothing is told from
 * within send: an exchange that cannot begin waits for the next tick, too.
 *
 * A request that was sent over a connection kept from an earlier one, where
 * that connection then ended without a byte of an answer, is sent again by
 * libcurl on a new connection. The server may have acted upon it already, so
 * only a GET is let through a second time.
 */
#define _GNU_SOURCE
#include "http.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>

#define CURL_VERSION_MIN 0x075700u

#define ALIGN 64u

/* A session has no more exchanges than that at once. Should it have, their
 * deadlines end those that are not told about. */
#define REFUSED_MAX_A_SESSION (2u * MCP_ENGINE_OPERATIONS_MAX)

/* Bytes of an origin before an error's words, which get most of the room. */
#define ORIGIN_SHOWN 80
_Static_assert(2 * (ORIGIN_SHOWN + 2) < CLEAT_ERROR_TEXT_MAX, "error texts");

static size_t whole(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

size_t mcp_http_bytes(const struct mcp_http_config *config)
{
    return whole(sizeof(struct mcp_http)) +
           whole(config->sessions_max * sizeof(struct mcp_http_session)) +
           whole(config->exchanges_max * sizeof(struct mcp_http_exchange)) +
           whole(config->sessions_max * REFUSED_MAX_A_SESSION *
                 sizeof(struct mcp_http_refused)) +
           config->exchanges_max * whole(config->message_bytes_max);
}

/* ---- telling ------------------------------------------------------------ */

struct mcp_told_it mcp_http_told(const struct mcp_http_exchange *exchange,
                                 enum mcp_told what)
{
    struct mcp_told_it told;

    memset(&told, 0, sizeof told);
    told.what = what;
    told.exchange = exchange->number;
    told.retry_ns = CLEAT_NONE;
    told.retry_after_ns = CLEAT_NONE;
    return told;
}

bool mcp_http_tell(struct mcp_http_exchange *exchange,
                   const struct mcp_told_it *told)
{
    const struct mcp_http_config *config = &exchange->http->config;

    config->tell(config->context, exchange->session, told);
    return !exchange->is_cancelled;
}

void mcp_http_fail(struct mcp_http_exchange *exchange, enum cleat_status status,
                   const char *format, ...)
{
    const struct mcp_http_session *session =
        &exchange->http->sessions[exchange->session];
    va_list arguments;

    if (exchange->status != CLEAT_OK) { return; }
    exchange->status = status;
    int before = snprintf(exchange->words, sizeof exchange->words,
                          "%.*s: ", ORIGIN_SHOWN, session->origin);
    if (before < 0) { return; }
    va_start(arguments, format);
    vsnprintf(exchange->words + before, sizeof exchange->words - (size_t)before,
              format, arguments);
    va_end(arguments);
    mcp_http_make_printable(exchange->words);
}

/* ---- handles ------------------------------------------------------------ */

/* Gives the slot back. libcurl forgets what it copied. */
static void release(struct mcp_http_exchange *exchange)
{
    if (exchange->state == MCP_HTTP_RUNNING) {
        curl_multi_remove_handle(exchange->http->multi, exchange->easy);
    }
    curl_easy_reset(exchange->easy);
    curl_slist_free_all(exchange->headers);
    exchange->headers = NULL;
    exchange->state = MCP_HTTP_FREE;
}

static void tell_failed(struct mcp_http_exchange *exchange)
{
    struct mcp_told_it told = mcp_http_told(exchange, MCP_FAILED);
    char words[CLEAT_ERROR_TEXT_MAX];

    memcpy(words, exchange->words, sizeof words);
    told.status = exchange->status;
    told.text.text = words;
    told.text.bytes = strlen(words);
    release(exchange); /* whoever is told may want the slot */
    mcp_http_tell(exchange, &told);
}

static void fail_later(struct mcp_http_exchange *exchange)
{
    exchange->state = MCP_HTTP_FAILING;
    exchange->http->is_due = true;
}

static void start(struct mcp_http_exchange *exchange)
{
    CURLMcode code = curl_multi_add_handle(exchange->http->multi,
                                           exchange->easy);

    if (code == CURLM_OK) {
        exchange->state = MCP_HTTP_RUNNING;
        return;
    }
    mcp_http_fail(exchange, CLEAT_TRANSIENT, "%s", curl_multi_strerror(code));
    fail_later(exchange);
}

/* For a first request, and for each redirect. */
static void forget_transfer(struct mcp_http_exchange *exchange)
{
    exchange->times_sent = 0;
    exchange->body = MCP_HTTP_BODY_UNKNOWN;
    exchange->is_enough = false;
    exchange->room_bytes = 0;
    exchange->unread_bytes = 0;
    exchange->curl_words[0] = '\0';
    mcp_http_forget_answer(&exchange->answer);
}

static void begin(struct mcp_http_exchange *exchange, uint32_t session,
                  const struct mcp_action *action)
{
    exchange->state = MCP_HTTP_STARTING;
    exchange->is_cancelled = false;
    exchange->session = session;
    exchange->number = action->exchange;
    exchange->method = action->method;
    exchange->redirects = 0;
    exchange->status = CLEAT_OK;
    exchange->words[0] = '\0';
    exchange->answer.header_bytes = 0;
    forget_transfer(exchange);
}

static void refuse(struct mcp_http *http, uint32_t session,
                   uint64_t exchange_number)
{
    if (http->refused_count <
        http->config.sessions_max * REFUSED_MAX_A_SESSION) {
        struct mcp_http_refused *refused =
            &http->refused[http->refused_count++];

        refused->session = session;
        refused->number = exchange_number;
        http->is_due = true;
    }
}

/* Those that there are now: who is told may send, and be refused, again. */
static void tell_refused(struct mcp_http *http)
{
    uint32_t left = http->refused_count;

    for (; left > 0 && http->refused_count > 0; left--) {
        struct mcp_http_refused refused = http->refused[0];
        struct mcp_told_it told;
        char words[CLEAT_ERROR_TEXT_MAX];

        http->refused_count--;
        memmove(http->refused, http->refused + 1,
                http->refused_count * sizeof refused);
        snprintf(words, sizeof words,
                 "all %u exchanges over HTTP that there is room for are under "
                 "way",
                 http->config.exchanges_max);
        memset(&told, 0, sizeof told);
        told.what = MCP_FAILED;
        told.exchange = refused.number;
        told.retry_ns = CLEAT_NONE;
        told.retry_after_ns = CLEAT_NONE;
        told.status = CLEAT_CAPACITY;
        told.text.text = words;
        told.text.bytes = strlen(words);
        http->config.tell(http->config.context, refused.session, &told);
    }
}

static void cancel_refused(struct mcp_http *http, uint32_t session,
                           uint64_t exchange_number)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < http->refused_count; i++) {
        const struct mcp_http_refused refused = http->refused[i];

        if (refused.session != session ||
            (exchange_number != 0 && refused.number != exchange_number)) {
            http->refused[kept++] = refused;
        }
    }
    http->refused_count = kept;
}

void mcp_http_send(struct mcp_http *http, uint64_t now_ns, uint32_t session,
                   const struct mcp_action *action)
{
    struct mcp_http_exchange *exchange = NULL;

    http->now_ns = now_ns;
    for (uint32_t i = 0; i < http->config.exchanges_max; i++) {
        if (http->exchanges[i].state == MCP_HTTP_FREE) {
            exchange = &http->exchanges[i];
            break;
        }
    }
    if (exchange == NULL) {
        refuse(http, session, action->exchange);
        return;
    }
    begin(exchange, session, action);
    if (!mcp_http_set_up(exchange, action)) {
        fail_later(exchange);
    } else if (!http->is_inside) {
        start(exchange);
    }
}

void mcp_http_cancel(struct mcp_http *http, uint32_t session,
                     uint64_t exchange_number)
{
    cancel_refused(http, session, exchange_number);
    for (uint32_t i = 0; i < http->config.exchanges_max; i++) {
        struct mcp_http_exchange *exchange = &http->exchanges[i];
        bool is_it = exchange->state != MCP_HTTP_FREE &&
                     exchange->session == session &&
                     (exchange_number == 0 ||
                      exchange->number == exchange_number);

        if (!is_it) { continue; }
        exchange->is_cancelled = true;
        /* Otherwise whoever is telling, or settle, gives it back. */
        if (!http->is_inside && exchange->state != MCP_HTTP_ENDING) {
            release(exchange);
        }
    }
}

/* ---- the end of an exchange --------------------------------------------- */

/* A request that has gone out may have had its effect, unless it is a GET. */
static enum cleat_status status_of(const struct mcp_http_exchange *exchange,
                                   CURLcode code)
{
    bool may_have_arrived = exchange->times_sent > 0 &&
                            exchange->method != MCP_GET;

    switch (code) {
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_OUT_OF_MEMORY: /* see words_of */
        return may_have_arrived ? CLEAT_AMBIGUOUS : CLEAT_TRANSIENT;
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR: /* the handshake; not the certificate */
    case CURLE_PROXY: return CLEAT_TRANSIENT;
    case CURLE_OPERATION_TIMEDOUT: return CLEAT_PEER_SILENT;
    case CURLE_PARTIAL_FILE: return CLEAT_SHORT;
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9 */
    case CURLE_HTTP2:
    case CURLE_BAD_CONTENT_ENCODING: return CLEAT_PEER_DEVIANT;
#if LIBCURL_VERSION_NUM >= 0x080600
    case CURLE_TOO_LARGE: return CLEAT_LIMIT;
#endif
    default: return CLEAT_PERMANENT;
    }
}

/* libcurl's, of why a transfer failed. */
static const char *words_of(const struct mcp_http_exchange *exchange,
                            CURLcode code)
{
    if (exchange->curl_words[0] != '\0') { return exchange->curl_words; }
    if (code == CURLE_OUT_OF_MEMORY && exchange->times_sent > 0) {
        return "libcurl is out of memory, or a line of the answer's headers "
               "is longer than it takes";
    }
    return curl_easy_strerror(code);
}

/* Where a redirect leads, which is where exchange->url points now. */
static void follow(struct mcp_http_exchange *exchange)
{
    exchange->redirects++;
    forget_transfer(exchange);
    if (!mcp_http_set_url(exchange)) {
        mcp_http_fail(exchange, CLEAT_TRANSIENT, "libcurl is out of memory");
        tell_failed(exchange);
        return;
    }
    exchange->state = MCP_HTTP_STARTING;
    start(exchange);
}

static void tell_end(struct mcp_http_exchange *exchange)
{
    struct mcp_told_it told = mcp_http_told(exchange, MCP_MESSAGE);

    told.text.text = exchange->room;
    told.text.bytes = exchange->room_bytes;
    if (exchange->body == MCP_HTTP_BODY_JSON && exchange->room_bytes > 0 &&
        !mcp_http_tell(exchange, &told)) {
        release(exchange);
        return;
    }
    told = mcp_http_told(exchange, MCP_END);
    if (exchange->body == MCP_HTTP_BODY_STREAM) {
        told.retry_ns = exchange->sse.retry_ns;
    }
    release(exchange); /* whoever is told may want the slot */
    mcp_http_tell(exchange, &told);
}

static void finish(struct mcp_http_exchange *exchange, CURLcode code)
{
    curl_multi_remove_handle(exchange->http->multi, exchange->easy);
    exchange->state = MCP_HTTP_ENDING;
    if (code != CURLE_OK && !exchange->is_enough) {
        mcp_http_fail(exchange, status_of(exchange, code), "%s",
                      words_of(exchange, code));
    }
    if (exchange->status != CLEAT_OK) {
        tell_failed(exchange);
    } else if (exchange->body == MCP_HTTP_BODY_REDIRECT) {
        follow(exchange);
    } else {
        tell_end(exchange);
    }
}

/* After each of libcurl's calls that may have called us: what waited for its
 * return, and what it has finished. */
static void settle(struct mcp_http *http)
{
    CURLMsg *message = NULL;
    int left = 0;

    http->is_due = false;
    for (uint32_t i = 0; i < http->config.exchanges_max; i++) {
        struct mcp_http_exchange *exchange = &http->exchanges[i];

        if (exchange->state == MCP_HTTP_FREE ||
            exchange->state == MCP_HTTP_ENDING) {
            continue;
        }
        if (exchange->is_cancelled) {
            release(exchange);
        } else if (exchange->state == MCP_HTTP_STARTING) {
            start(exchange);
        } else if (exchange->state == MCP_HTTP_FAILING) {
            tell_failed(exchange);
        }
    }
    tell_refused(http);
    while ((message = curl_multi_info_read(http->multi, &left)) != NULL) {
        CURLcode code = message->data.result;
        char *context = NULL;

        if (message->msg != CURLMSG_DONE) { continue; }
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &context);
        finish((struct mcp_http_exchange *)(void *)context, code);
    }
}

/* ---- epoll -------------------------------------------------------------- */

/* libcurl's: which of its descriptors to wait for. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *context,
                     void *of_socket)
{
    const struct mcp_http *http = context;
    int epoll_fd = http->config.epoll_fd;
    struct epoll_event event;

    (void)easy;
    (void)of_socket;
    memset(&event, 0, sizeof event);
    event.data.u64 = MCP_READY(MCP_READY_HTTP, 0, fd);
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, &event);
        return 0;
    }
    if (what != CURL_POLL_OUT) { event.events |= EPOLLIN; }
    if (what != CURL_POLL_IN) { event.events |= EPOLLOUT; }
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event) != 0) {
        /* Where the system refuses, the exchange is silent, and ends by its
         * deadline. */
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
    return 0;
}

/* libcurl's: when it wants to be called; -1: it does not. */
static int on_timer(CURLM *multi, long timeout_ms, void *context)
{
    struct mcp_http *http = context;

    (void)multi;
    http->deadline_ns = timeout_ms < 0 ? CLEAT_NEVER
                                       : cleat_time_add(http->now_ns,
                                                        (uint64_t)timeout_ms *
                                                            CLEAT_NS_PER_MS);
    return 0;
}

static void act(struct mcp_http *http, curl_socket_t fd, int events)
{
    int running = 0;

    http->is_inside = true;
    curl_multi_socket_action(http->multi, fd, events, &running);
    http->is_inside = false;
    settle(http);
}

void mcp_http_ready(struct mcp_http *http, uint64_t now_ns, int fd,
                    uint32_t events)
{
    int bits = 0;

    http->now_ns = now_ns;
    /* What is wrong, reading says in better words than CURL_CSELECT_ERR. */
    if ((events & ~(uint32_t)EPOLLOUT) != 0) { bits |= CURL_CSELECT_IN; }
    if ((events & EPOLLOUT) != 0) { bits |= CURL_CSELECT_OUT; }
    act(http, fd, bits);
}

uint64_t mcp_http_deadline(const struct mcp_http *http)
{
    return http->is_due ? 0 : http->deadline_ns;
}

void mcp_http_tick(struct mcp_http *http, uint64_t now_ns)
{
    http->now_ns = now_ns;
    if (now_ns >= http->deadline_ns) {
        http->deadline_ns = CLEAT_NEVER;
        act(http, CURL_SOCKET_TIMEOUT, 0);
    } else if (http->is_due) {
        settle(http);
    }
}

/* ---- beginning and end -------------------------------------------------- */

void mcp_http_open(struct mcp_http *http, uint32_t session,
                   const struct mcp_server *server)
{
    struct mcp_http_session *it = &http->sessions[session];
    struct mcp_room room = {http->scratch, MCP_HTTP_URL_BYTES_MAX};
    const char *url = NULL;

    mcp_http_cancel(http, session, 0);
    it->server = server;
    it->broken = NULL;
    memcpy(it->origin, "url", 4); /* what is broken */
    if (mcp_server_take_member(server, "url", &room, &url, NULL) != CLEAT_OK) {
        it->broken = "missing, no string, or longer than 8191 bytes";
    } else if (strncasecmp(url, "http://", 7) != 0 &&
               strncasecmp(url, "https://", 8) != 0) {
        it->broken = "not an absolute URL of http or https";
    } else if (curl_url_set(it->url, CURLUPART_URL, url, 0) != CURLUE_OK) {
        it->broken = "not a URL";
    } else if (!mcp_http_origin(it->url, it->origin)) {
        memcpy(it->origin, "url", 4);
        it->broken = "its host is too long";
    }
}

static bool libcurl_will_do(void)
{
    const curl_version_info_data *about = curl_version_info(CURLVERSION_NOW);

    return about->version_num >= CURL_VERSION_MIN &&
           (about->features & CURL_VERSION_ASYNCHDNS) != 0 &&
           (about->features & CURL_VERSION_SSL) != 0;
}

static bool make_handles(struct mcp_http *http)
{
    CURLM *multi = curl_multi_init();
    bool is_made = multi != NULL;

    http->multi = multi;
    for (uint32_t i = 0; i < http->config.sessions_max; i++) {
        http->sessions[i].url = curl_url();
        is_made = is_made && http->sessions[i].url != NULL;
    }
    for (uint32_t i = 0; i < http->config.exchanges_max; i++) {
        http->exchanges[i].easy = curl_easy_init();
        http->exchanges[i].url = curl_url();
        is_made = is_made && http->exchanges[i].easy != NULL &&
                  http->exchanges[i].url != NULL;
    }
    return is_made &&
           curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket) ==
               CURLM_OK &&
           curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, http) == CURLM_OK &&
           curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer) ==
               CURLM_OK &&
           curl_multi_setopt(multi, CURLMOPT_TIMERDATA, http) == CURLM_OK;
}

/* The block is not cleared: rooms are touched when they are used. */
static struct mcp_http *lay_out(void *block,
                                const struct mcp_http_config *config)
{
    struct mcp_http *http = block;
    char *at = (char *)block + whole(sizeof *http);

    memset(http, 0, sizeof *http);
    http->config = *config;
    http->deadline_ns = CLEAT_NEVER;
    http->sessions = (struct mcp_http_session *)(void *)at;
    at += whole(config->sessions_max * sizeof(struct mcp_http_session));
    http->exchanges = (struct mcp_http_exchange *)(void *)at;
    at += whole(config->exchanges_max * sizeof(struct mcp_http_exchange));
    http->refused = (struct mcp_http_refused *)(void *)at;
    at += whole(config->sessions_max * REFUSED_MAX_A_SESSION *
                sizeof(struct mcp_http_refused));
    for (uint32_t i = 0; i < config->sessions_max; i++) {
        memset(&http->sessions[i], 0, sizeof http->sessions[i]);
        http->sessions[i].broken = "not opened";
    }
    for (uint32_t i = 0; i < config->exchanges_max; i++) {
        memset(&http->exchanges[i], 0, sizeof http->exchanges[i]);
        http->exchanges[i].http = http;
        http->exchanges[i].room = at;
        at += whole(config->message_bytes_max);
    }
    return http;
}

enum cleat_status mcp_http_init(void *block,
                                const struct mcp_http_config *config,
                                struct mcp_http **out,
                                struct cleat_error *error)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return cleat_error_set(error, CLEAT_UNSUPPORTED, 0, 0,
                               "libcurl does not start");
    }
    if (!libcurl_will_do()) {
        curl_global_cleanup();
        return cleat_error_set(error, CLEAT_UNSUPPORTED, 0, 0,
                               "libcurl is older than 7.87, or without TLS or "
                               "a resolver that does not block");
    }
    struct mcp_http *http = lay_out(block, config);
    if (!make_handles(http)) {
        mcp_http_close(http);
        return cleat_error_set(error, CLEAT_UNSUPPORTED, 0, 0,
                               "libcurl is out of memory");
    }
    *out = http;
    return CLEAT_OK;
}

void mcp_http_close(struct mcp_http *http)
{
    for (uint32_t i = 0; i < http->config.exchanges_max; i++) {
        struct mcp_http_exchange *exchange = &http->exchanges[i];

        if (exchange->easy != NULL) {
            release(exchange);
            curl_easy_cleanup(exchange->easy);
        }
        curl_url_cleanup(exchange->url);
    }
    for (uint32_t i = 0; i < http->config.sessions_max; i++) {
        curl_url_cleanup(http->sessions[i].url);
    }
    if (http->multi != NULL) { curl_multi_cleanup(http->multi); }
    curl_global_cleanup();
}
