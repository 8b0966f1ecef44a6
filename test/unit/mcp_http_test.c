/* Cleat: MCP over HTTP, against a server that misbehaves on request.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What is told is written down, one line each, and compared:
 *
 *     RESPONSE 200 json session=… retry_after=…
 *     MESSAGE text, or MESSAGE(name,id,retry) text
 *     EVENT(name,id,retry) text
 *     END, END(retry)
 *     FAILED STATUS words
 *
 * What the server does is in test/support/mcp_http_peer.py, under the name that
 * a test's path has. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "port/mcp/wire.h"

#define WATCHDOG_S 100
#define MESSAGE_BYTES_MAX 100000u
#define TEXT                                                          \
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"text\":\"n\xC3\xA9 " \
    "\xE6\xBC\xA2 \xF0\x9F\x98\x80\"}}"
#define ERROR_TEXT                                                 \
    "{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32000,\"message\":" \
    "\"no\"},\"id\":null}"

extern char **environ;

/* ---- a resolver that the test holds up ---------------------------------- */

static int resolver_entered[2];  /* a byte, when it is asked for slow.test */
static int resolver_released[2]; /* a byte, when it may go on */
static int resolver_left[2];     /* a byte, when it does */
static atomic_bool resolver_is_held;

/* Names of RFC 6761 that no network is to be asked for: some answer late, and
 * some with an address of their own. */
static bool is_invalid(const char *node)
{
    static const char end[] = ".invalid";
    size_t bytes = strlen(node);

    return bytes >= sizeof end - 1 &&
           strcmp(node + bytes - (sizeof end - 1), end) == 0;
}

/* Instead of the C library's, for libcurl too. */
int getaddrinfo(const char *node, const char *service,
                const struct addrinfo *hints, struct addrinfo **found)
{
    int (*real)(const char *, const char *, const struct addrinfo *,
                struct addrinfo **) = NULL;
    void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
    char byte = 1;

    memcpy(&real, &symbol, sizeof real);
    if (node != NULL && is_invalid(node)) { return EAI_NONAME; }
    if (node == NULL || strcmp(node, "slow.test") != 0) {
        return real(node, service, hints, found);
    }
    if (write(resolver_entered[1], &byte, 1) != 1 ||
        read(resolver_released[0], &byte, 1) != 1) {
        abort();
    }
    atomic_store(&resolver_is_held, false);
    if (write(resolver_left[1], &byte, 1) != 1) { abort(); }
    return EAI_AGAIN;
}

static void wait_for_byte(int fd)
{
    char byte = 0;

    assert_int_equal(read(fd, &byte, 1), 1);
}

static void send_byte(int fd)
{
    assert_int_equal(write(fd, "x", 1), 1);
}

/* ---- the server --------------------------------------------------------- */

static struct {
    pid_t pid;
    int in;
    int port;
    int other;
    int tls;
    int closed;
    char ca[256];
    char wrong[256];
    char folder[64];
} peer;

static int start_peer(void **state)
{
    posix_spawn_file_actions_t actions;
    char script[] = CLEAT_TEST_SOURCE_DIR "/test/support/mcp_http_peer.py";
    char python[] = "python3";
    char *arguments[] = {python, script, peer.folder, NULL};
    int in[2];
    int out[2];

    (void)state;
    strcpy(peer.folder, "/tmp/cleat-http-XXXXXX");
    if (mkdtemp(peer.folder) == NULL || pipe(in) != 0 || pipe(out) != 0 ||
        pipe(resolver_entered) != 0 || pipe(resolver_released) != 0 ||
        pipe(resolver_left) != 0) {
        return -1;
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_addclose(&actions, in[1]);
    if (posix_spawnp(&peer.pid, python, &actions, NULL, arguments, environ) !=
        0) {
        return -1;
    }
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    peer.in = in[1];
    FILE *file = fdopen(out[0], "r");
    int count = fscanf(
        file, "http=%d other=%d tls=%d ca=%255s wrong=%255s closed=%d",
        &peer.port, &peer.other, &peer.tls, peer.ca, peer.wrong, &peer.closed);
    fclose(file);
    return count == 6 ? 0 : -1;
}

static int stop_peer(void **state)
{
    static const char *const files[] = {
        "ca.key",     "ca.pem",     "ca.srl",     "wrong.key", "wrong.pem",
        "server.key", "server.csr", "server.pem", "server.ext"};
    char path[128];

    (void)state;
    close(peer.in);
    waitpid(peer.pid, NULL, 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", peer.folder, files[i]);
        unlink(path);
    }
    return rmdir(peer.folder);
}

/* ---- a client, and what it is told -------------------------------------- */

struct world {
    int epoll_fd;
    void *block;
    struct mcp_http *http;
    struct mcp_http_config config;
    char definition[2][32768];
    struct mcp_server server[2];
    uint64_t last_exchange;
    bool is_over; /* an END or a FAILED was told */
    uint32_t told_count;
    uint64_t cancel_when; /* told_count at which it is cancelled; 0: never */
    uint64_t send_when;   /* the same: another one is sent */
    uint32_t resends_max; /* so many FAILED are each answered with another */
    bool is_whole;        /* texts are not shortened in the log */
    size_t log_bytes;
    char log[200000];
};

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

static void __attribute__((format(printf, 2, 3)))
note(struct world *world, const char *format, ...)
{
    size_t room = sizeof world->log - world->log_bytes;
    va_list arguments;

    va_start(arguments, format);
    int count = vsnprintf(world->log + world->log_bytes, room, format,
                          arguments);
    va_end(arguments);
    assert_true(count >= 0 && (size_t)count < room);
    world->log_bytes += (size_t)count;
}

static void note_stream(struct world *world, const struct mcp_told_it *told)
{
    if (told->event.bytes > 0) {
        note(world, "(%.*s,%.*s,", (int)told->event.bytes, told->event.text,
             (int)told->id.bytes, told->id.text);
        if (told->retry_ns != CLEAT_NONE) {
            note(world, "%u", (unsigned)(told->retry_ns / CLEAT_NS_PER_MS));
        }
        note(world, ")");
    }
}

static void note_text(struct world *world, struct cleat_text text)
{
    if (text.bytes <= 1000 || world->is_whole) {
        note(world, " %.*s\n", (int)text.bytes, text.text);
    } else {
        note(world, " %zu bytes\n", text.bytes);
    }
}

static void send_one(struct world *world, enum mcp_method method,
                     const char *endpoint, const char *headers,
                     const char *body);

static void on_told(void *context, uint32_t session,
                    const struct mcp_told_it *told)
{
    struct world *world = context;

    assert_int_equal(session, 0);
    if (told->exchange != world->last_exchange) {
        note(world, "[%u]", (unsigned)told->exchange);
    }
    switch (told->what) {
    case MCP_RESPONSE:
        note(world, "RESPONSE %u%s%s", told->http_status,
             told->is_json ? " json" : "", told->is_stream ? " stream" : "");
        if (told->session.bytes > 0) {
            note(world, " session=%.*s", (int)told->session.bytes,
                 told->session.text);
        }
        if (told->retry_after_ns != CLEAT_NONE) {
            note(world, " retry_after=%u",
                 (unsigned)(told->retry_after_ns / CLEAT_NS_PER_S));
        }
        note(world, "\n");
        break;
    case MCP_MESSAGE:
        note(world, "MESSAGE");
        note_stream(world, told);
        note_text(world, told->text);
        break;
    case MCP_EVENT:
        note(world, "EVENT");
        note_stream(world, told);
        note_text(world, told->text);
        break;
    case MCP_END:
        note(world, "END");
        if (told->retry_ns != CLEAT_NONE) {
            note(world, "(%u)", (unsigned)(told->retry_ns / CLEAT_NS_PER_MS));
        }
        note(world, "\n");
        world->is_over = true;
        break;
    case MCP_FAILED:
        note(world, "FAILED %s", cleat_status_name(told->status));
        note_text(world, told->text);
        world->is_over = true;
        break;
    default: fail();
    }
    world->told_count++;
    if (world->told_count == world->cancel_when) {
        mcp_http_cancel(world->http, session, told->exchange);
        note(world, "cancelled\n");
        world->is_over = true;
    }
    if (told->what == MCP_FAILED && world->resends_max > 0) {
        world->resends_max--;
        send_one(world, MCP_POST, "", "", "{}");
    }
    if (world->told_count == world->send_when) {
        world->is_over = false;
        send_one(world, MCP_POST, "/json_chunked", "", "{}");
    }
}

/* One turn of the loop that mcp.c has; waits until something is ready. */
static void turn(struct world *world)
{
    struct epoll_event events[8];
    uint64_t deadline_ns = mcp_http_deadline(world->http);
    uint64_t now = now_ns();
    int timeout_ms = -1;

    if (deadline_ns != CLEAT_NEVER) {
        timeout_ms = deadline_ns <= now
                         ? 0
                         : (int)((deadline_ns - now) / CLEAT_NS_PER_MS) + 1;
    }
    int count = epoll_wait(world->epoll_fd, events, 8, timeout_ms);
    assert_true(count >= 0 || errno == EINTR); /* it was stopped meanwhile */
    for (int i = 0; i < count; i++) {
        assert_int_equal(events[i].data.u64 >> 48, MCP_READY_HTTP);
        mcp_http_ready(world->http, now_ns(),
                       (int)(events[i].data.u64 & UINT32_MAX),
                       events[i].events);
    }
    mcp_http_tick(world->http, now_ns());
}

static void run(struct world *world)
{
    while (!world->is_over) { turn(world); }
}

static void run_until(struct world *world, const char *told)
{
    while (strstr(world->log, told) == NULL) { turn(world); }
}

static void check(struct world *world, const char *expected)
{
    assert_string_equal(world->log, expected);
}

static void forget(struct world *world)
{
    world->log_bytes = 0;
    world->log[0] = '\0';
    world->told_count = 0;
}

static struct world *make(const struct mcp_http_config *wanted)
{
    struct world *world = calloc(1, sizeof *world);
    struct cleat_error error;

    assert_non_null(world);
    if (wanted != NULL) { world->config = *wanted; }
    world->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    world->config.epoll_fd = world->epoll_fd;
    world->config.sessions_max = 2;
    if (world->config.exchanges_max == 0) { world->config.exchanges_max = 4; }
    if (world->config.message_bytes_max == 0) {
        world->config.message_bytes_max = MESSAGE_BYTES_MAX;
    }
    if (world->config.connect_ns == 0) {
        world->config.connect_ns = 60 * CLEAT_NS_PER_S;
    }
    world->config.tell = on_told;
    world->config.context = world;
    size_t bytes = mcp_http_bytes(&world->config);
    assert_int_equal(posix_memalign(&world->block, 64, bytes), 0);
    memset(world->block, 0xA5, bytes); /* whoever relies on zeros is seen */
    assert_int_equal(
        mcp_http_init(world->block, &world->config, &world->http, &error),
        CLEAT_OK);
    return world;
}

static void open_at(struct world *world, uint32_t session, const char *more,
                    const char *format, ...)
{
    char url[9000];
    struct cleat_error error;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(url, sizeof url, format, arguments);
    va_end(arguments);
    snprintf(world->definition[session], sizeof world->definition[session],
             "{\"server\":\"s\",\"url\":\"%s\",\"transport\":\"http\"%s}", url,
             more);
    assert_int_equal(
        mcp_server_open(&world->server[session], world->definition[session],
                        strlen(world->definition[session]), &error),
        CLEAT_OK);
    mcp_http_open(world->http, session, &world->server[session]);
}

static struct cleat_text text_of(const char *text)
{
    struct cleat_text out = {text, strlen(text)};

    return out;
}

static void send_one(struct world *world, enum mcp_method method,
                     const char *endpoint, const char *headers,
                     const char *body)
{
    struct mcp_action action;

    memset(&action, 0, sizeof action);
    action.what = MCP_SEND;
    action.exchange = ++world->last_exchange;
    action.method = method;
    action.endpoint = text_of(endpoint);
    action.headers = text_of(headers);
    action.body = text_of(body);
    mcp_http_send(world->http, now_ns(), 0, &action);
}

static void drop(struct world *world)
{
    mcp_http_close(world->http);
    close(world->epoll_fd);
    free(world->block);
    free(world);
}

/* POSTs to a path of the server. */
static struct world *post_with(const struct mcp_http_config *config,
                               const char *path)
{
    struct world *world = make(config);

    open_at(world, 0, "", "http://127.0.0.1:%d/%s", peer.port, path);
    send_one(world, MCP_POST, "", "", "{\"id\":1}");
    run(world);
    return world;
}

/* POSTs to a path of the server; what is told is `expected`. %ORIGIN% stands
 * for the server's. */
static void expect(enum mcp_method method, const char *path,
                   const char *expected)
{
    struct world *world = make(NULL);
    char whole[2048] = "";
    char origin[64];
    const char *rest = expected;
    const char *mark = NULL;

    snprintf(origin, sizeof origin, "http://127.0.0.1:%d", peer.port);
    while ((mark = strstr(rest, "%ORIGIN%")) != NULL) {
        strncat(whole, rest, (size_t)(mark - rest));
        strcat(whole, origin);
        rest = mark + strlen("%ORIGIN%");
    }
    strcat(whole, rest);
    open_at(world, 0, "", "%s/%s", origin, path);
    send_one(world, method, "", "", method == MCP_POST ? "{\"id\":1}" : "");
    run(world);
    check(world, whole);
    drop(world);
}

/* Asks the server how many requests came there, and with secrets. */
static void expect_seen(const char *port, const char *path, int arrived,
                        int secrets)
{
    struct world *world = make(NULL);
    char expected[128];

    open_at(world, 0, "", "http://127.0.0.1:%d/seen?%s,%s", peer.port, port,
            path);
    send_one(world, MCP_GET, "", "", "");
    run(world);
    snprintf(expected, sizeof expected,
             "RESPONSE 200 json\nMESSAGE {\"arrived\": %d, \"secrets\": "
             "%d}\nEND\n",
             arrived, secrets);
    check(world, expected);
    drop(world);
}

static void tell_peer(void)
{
    struct world *world = make(NULL);

    open_at(world, 0, "", "http://127.0.0.1:%d/tell", peer.port);
    send_one(world, MCP_GET, "", "", "");
    run(world);
    drop(world);
}

static void assert_has(const struct world *world, const char *part)
{
    if (strstr(world->log, part) == NULL) {
        print_error("%s\nis not in\n%s\n", part, world->log);
        fail();
    }
}

static void assert_has_not(const struct world *world, const char *part)
{
    if (strstr(world->log, part) != NULL) {
        print_error("%s\nis in\n%s\n", part, world->log);
        fail();
    }
}

/* ---- requests ----------------------------------------------------------- */

static void a_post_says_what_mcp_wants(void **state)
{
    struct world *world = post_with(NULL, "echo?a=1");

    (void)state;
    assert_has(world, "\"method\": \"POST\", \"target\": \"/echo?a=1\"");
    assert_has(world, "\"body\": \"{\\\"id\\\":1}\"");
    assert_has(world, "\"accept\": \"application/json, text/event-stream\"");
    assert_has(world, "\"content-type\": \"application/json\"");
    assert_has(world, "\"content-length\": \"8\"");
    assert_has(world, "\"user-agent\": \"cleat\"");
    assert_has(world, "\"count\": 5"); /* those, and host */
    drop(world);
}

static void a_get_asks_for_a_stream(void **state)
{
    struct world *world = make(NULL);

    (void)state;
    open_at(world, 0, "", "http://127.0.0.1:%d/echo", peer.port);
    send_one(world, MCP_GET, "", "Last-Event-ID: 7\n", "");
    run(world);
    assert_has(world, "\"method\": \"GET\"");
    assert_has(world, "\"accept\": \"text/event-stream\"");
    assert_has(world, "\"last-event-id\": \"7\"");
    assert_has(world, "\"count\": 4"); /* with host and user-agent */
    drop(world);
}

static void a_delete_has_no_body_and_its_answer_is_not_read(void **state)
{
    struct world *world = make(NULL);

    (void)state;
    open_at(world, 0, "", "http://127.0.0.1:%d/delete_only", peer.port);
    send_one(world, MCP_DELETE, "", "Mcp-Session-Id: 1\n", "");
    run(world);
    check(world, "RESPONSE 200 json\nEND\n");
    drop(world);
    world = make(NULL);
    open_at(world, 0, "", "http://127.0.0.1:%d/redirect?307,/echo", peer.port);
    send_one(world, MCP_DELETE, "", "", "");
    run(world);
    check(world, "RESPONSE 200 json\nEND\n");
    drop(world);
}

static void
a_slot_is_used_again_without_traces_of_its_last_request(void **state)
{
    struct mcp_http_config config = {.exchanges_max = 1};
    struct world *world = make(&config);

    (void)state;
    open_at(world, 0, ",\"token\":\"secret\"", "http://127.0.0.1:%d/echo",
            peer.port);
    send_one(world, MCP_POST, "/echo?1", "X-One: 1\n", "{\"one\":1}");
    run(world);
    assert_has(world, "x-one");
    assert_has(world, "Bearer secret");
    world->is_over = false;
    send_one(world, MCP_DELETE, "", "", "");
    run(world);
    forget(world);
    world->is_over = false;
    open_at(world, 0, "", "http://127.0.0.1:%d/echo", peer.port);
    send_one(world, MCP_GET, "", "", "");
    run(world);
    assert_has(world, "\"method\": \"GET\"");
    assert_has(world, "\"target\": \"/echo\"");
    assert_has(world, "\"count\": 3");
    assert_has(world, "\"body\": \"\"");
    assert_has_not(world, "secret");
    drop(world);
}

static void
headers_of_the_config_are_sent_but_ours_and_the_actions_stand(void **state)
{
    struct world *world = make(NULL);

    (void)state;
    open_at(world, 0,
            ",\"headers\":{\"X-Key\":\"k \\u00e9\",\"X-Empty\":\"\","
            "\"accept\":\"text/html\",\"Content-Length\":\"3\","
            "\"Transfer-Encoding\":\"chunked\",\"Accept-Encoding\":\"gzip\","
            "\"MCP-Protocol-Version\":\"old\",\"User-Agent\":\"mine\","
            "\"authorization\":\"Basic x\"},\"token\":\"t.o-k\"",
            "http://127.0.0.1:%d/echo", peer.port);
    send_one(world, MCP_POST, "", "Mcp-Protocol-Version:new\n", "{}");
    run(world);
    assert_has(world, "\"x-key\": \"k \\u00c3\\u00a9\"");
    assert_has(world, "\"x-empty\": \"\"");
    assert_has(world, "\"accept\": \"application/json, text/event-stream\"");
    assert_has(world, "\"mcp-protocol-version\": \"new\"");
    assert_has(world, "\"user-agent\": \"mine\"");
    assert_has(world, "\"authorization\": \"Bearer t.o-k\"");
    assert_has(world, "\"count\": 9"); /* host, content-type, content-length */
    drop(world);
}

static void expect_refused(const char *more, const char *headers,
                           const char *expected)
{
    struct world *world = make(NULL);

    open_at(world, 0, more, "http://127.0.0.1:%d/unheard", peer.port);
    send_one(world, MCP_POST, "", headers, "{}");
    check(world, ""); /* not from within */
    run(world);
    assert_has(world, expected);
    assert_has_not(world, "secret");
    drop(world);
}

static void
a_header_that_could_split_the_request_is_refused_by_name(void **state)
{
    (void)state;
    expect_refused(",\"headers\":{\"X-A\":\"secret\\r\\nX-B: 1\"}", "",
                   "the header X-A: its value holds a control character\n");
    expect_refused(",\"headers\":{\"X-A\":\"secret\\n\"}", "",
                   "FAILED MALFORMED");
    expect_refused(",\"headers\":{\"X-A\":\"\\u0000secret\"}", "",
                   "FAILED MALFORMED");
    expect_refused(",\"headers\":{\"X-A\":\"\\u007fsecret\"}", "",
                   "FAILED MALFORMED");
    expect_refused(",\"headers\":{\"X-A:\":\"secret\"}", "",
                   "the header \"X-A:\": its name is no token of RFC 9110\n");
    expect_refused(",\"headers\":{\"X A\":\"secret\"}", "", "FAILED MALFORMED");
    expect_refused(",\"headers\":{\"\":\"secret\"}", "", "FAILED MALFORMED");
    expect_refused(",\"headers\":{\"X\\r\\nY\":\"secret\"}", "",
                   "the header \"X??Y\": its name");
    expect_refused(",\"token\":\"secret\\r\\n\"", "",
                   "the header Authorization: its value holds");
    expect_refused("", "X-A: secret\rX-B: 1\n",
                   "the header X-A: its value holds");
    expect_refused("", "X-\xC3\xA9: secret\n", "FAILED MALFORMED");
    expect_seen("http", "/unheard", 0, 0);
}

static void a_header_longer_than_the_limit_is_refused_by_name(void **state)
{
    struct world *world = make(NULL);
    char *more = malloc(20000);

    (void)state;
    strcpy(more, ",\"headers\":{\"X-Long\":\"");
    memset(more + strlen(",\"headers\":{\"X-Long\":\""), 's', 16376);
    strcpy(more + strlen(",\"headers\":{\"X-Long\":\"") + 16376, "\"}");
    open_at(world, 0, more, "http://127.0.0.1:%d/unheard", peer.port);
    send_one(world, MCP_POST, "", "", "{}");
    run(world);
    assert_has(world, "FAILED LIMIT http://127.0.0.1:");
    assert_has(world, "X-Long is longer than 16383 bytes\n");
    free(more);
    drop(world);
}

/* libcurl would say "Expect: 100-continue" and wait. */
static void a_post_of_2_mb_is_sent_without_waiting_for_leave(void **state)
{
    struct world *world = make(NULL);
    char *body = calloc(1, 2000001);

    (void)state;
    memset(body, 'x', 2000000);
    open_at(world, 0, "", "http://127.0.0.1:%d/names", peer.port);
    send_one(world, MCP_POST, "", "", body);
    memset(body, 'y', 2000000); /* it was copied */
    free(body);
    run(world);
    check(world, "RESPONSE 200 json\nMESSAGE [\"accept\", \"content-length\", "
                 "\"content-type\", \"host\", \"user-agent\", \"x\"]\nEND\n");
    drop(world);
}

/* ---- answers ------------------------------------------------------------ */

static void a_json_body_is_one_message_however_it_is_cut(void **state)
{
    (void)state;
    expect(MCP_POST, "json_chunked",
           "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
    expect(MCP_POST, "json_to_the_end",
           "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
}

static void
a_content_type_is_known_in_any_case_and_with_parameters(void **state)
{
    (void)state;
    expect(MCP_POST, "json_parameters",
           "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
}

static void an_empty_json_body_is_no_message(void **state)
{
    (void)state;
    expect(MCP_POST, "json_empty", "RESPONSE 200 json\nEND\n");
}

static void
a_body_of_exactly_the_limit_is_taken_and_a_byte_more_is_not(void **state)
{
    (void)state;
    expect(MCP_POST, "large?100000",
           "RESPONSE 200 json\nMESSAGE 100000 bytes\nEND\n");
    expect(MCP_POST, "large?100001",
           "RESPONSE 200 json\nFAILED LIMIT %ORIGIN%: its answer is longer "
           "than 100000 bytes\n");
}

static void a_202_or_204_ends_well_with_and_without_a_body(void **state)
{
    (void)state;
    expect(MCP_POST, "accepted", "RESPONSE 202\nEND\n");
    expect(MCP_POST, "accepted_with_body", "RESPONSE 202\nEND\n");
    expect(MCP_POST, "no_content", "RESPONSE 204\nEND\n");
}

static void the_session_of_an_answer_is_told(void **state)
{
    (void)state;
    expect(MCP_POST, "session",
           "RESPONSE 200 json session=ab-12~!\nMESSAGE " TEXT "\nEND\n");
}

static void a_session_that_could_not_be_sent_back_is_refused(void **state)
{
    (void)state;
    expect(MCP_POST, "bad_session",
           "FAILED PEER_DEVIANT %ORIGIN%: its Mcp-Session-Id is not all "
           "visible ASCII\n");
    expect(MCP_POST, "long_session",
           "FAILED LIMIT %ORIGIN%: its Mcp-Session-Id is longer than 512 "
           "bytes\n");
}

static void
informational_answers_folded_lines_and_trailers_tell_nothing(void **state)
{
    (void)state;
    expect(MCP_POST, "informed", "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
    expect(MCP_POST, "folded", "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
    expect(MCP_POST, "folded_blank",
           "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
    expect(MCP_POST, "trailers", "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
}

/* ---- streams ------------------------------------------------------------ */

#define STREAM_TOLD                                                      \
    "RESPONSE 200 stream\nEVENT(message,1,) \nMESSAGE(message,2,) " TEXT \
    "\nMESSAGE(message,3,250) two\nlines\nEND(250)\n"

static void a_stream_is_told_event_by_event_with_any_line_ends(void **state)
{
    (void)state;
    expect(MCP_POST, "stream", STREAM_TOLD);
    expect(MCP_POST, "stream?cr", STREAM_TOLD);
    expect(MCP_GET, "stream?crlf", STREAM_TOLD);
}

static void a_stream_may_come_byte_by_byte(void **state)
{
    (void)state;
    expect(MCP_POST, "stream_bytes",
           "RESPONSE 200 stream\nMESSAGE(message,,) " TEXT "\nEND\n");
}

static void
a_byte_order_mark_is_passed_over_and_a_bad_id_and_retry_too(void **state)
{
    (void)state;
    expect(MCP_POST, "stream_mark",
           "RESPONSE 200 stream\nMESSAGE(message,,) a\nEND\n");
}

static void a_data_line_of_76_kb_is_one_message(void **state)
{
    (void)state;
    expect(MCP_POST, "stream_76k",
           "RESPONSE 200 stream\nMESSAGE(message,,) 77824 bytes\nEND\n");
}

static void an_event_without_its_empty_line_is_not_told(void **state)
{
    (void)state;
    expect(MCP_POST, "stream_unfinished",
           "RESPONSE 200 stream\nMESSAGE(message,,) whole\nEND\n");
}

static void the_name_of_an_event_is_told(void **state)
{
    (void)state;
    expect(MCP_GET, "stream_name",
           "RESPONSE 200 stream\nEVENT(endpoint,,) "
           "/message?sessionId=1\nEVENT(odd,,) \nEND\n");
}

static void a_stream_that_breaks_off_fails_after_what_came(void **state)
{
    struct world *world = NULL;

    (void)state;
    world = post_with(NULL, "stream_cut");
    assert_has(world, "RESPONSE 200 stream\nMESSAGE(message,,) one\n"
                      "FAILED SHORT http://127.0.0.1:");
    drop(world);

    world = make(NULL);
    open_at(world, 0, "", "http://127.0.0.1:%d/stream_reset", peer.port);
    send_one(world, MCP_GET, "", "", "");
    run_until(world, "one\n");
    tell_peer();
    run(world);
    assert_has(world, "MESSAGE(message,,) one\nFAILED TRANSIENT http://");
    assert_has(world, "onnection reset by peer\n");
    drop(world);
}

static void an_event_longer_than_the_limit_fails_by_its_name(void **state)
{
    (void)state;
    expect(MCP_POST, "stream_endless",
           "RESPONSE 200 stream\nFAILED LIMIT %ORIGIN%: the data of an event "
           "is longer than 100000 bytes\n");
}

/* ---- answers that say no ------------------------------------------------ */

static void an_error_is_told_with_its_json(void **state)
{
    static const int codes[] = {400, 401, 403, 404, 405, 406, 500, 503};

    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        char path[64];
        char expected[256];

        snprintf(path, sizeof path, "status?%d", codes[i]);
        snprintf(expected, sizeof expected,
                 "RESPONSE %d json\nMESSAGE " ERROR_TEXT "\nEND\n", codes[i]);
        expect(MCP_POST, path, expected);
        snprintf(path, sizeof path, "status_plain?%d", codes[i]);
        snprintf(expected, sizeof expected, "RESPONSE %d\nEND\n", codes[i]);
        expect(MCP_GET, path, expected);
        snprintf(path, sizeof path, "status_bare?%d", codes[i]);
        expect(MCP_POST, path, expected);
    }
}

static void
retry_after_is_told_in_seconds_and_as_a_date_by_the_servers_clock(void **state)
{
    (void)state;
    expect(MCP_POST, "busy",
           "RESPONSE 429 json retry_after=7\nMESSAGE " ERROR_TEXT "\nEND\n");
    expect(MCP_POST, "busy_until", "RESPONSE 503 retry_after=90\nEND\n");
    expect(MCP_POST, "busy_oddly", "RESPONSE 503\nEND\n");
}

static void an_endless_error_is_an_error_all_the_same(void **state)
{
    (void)state;
    expect(MCP_POST, "error_endless", "RESPONSE 500\nEND\n");
    expect(MCP_POST, "error_large", "RESPONSE 500 json\nEND\n");
}

/* ---- answers that are wrong --------------------------------------------- */

static void another_content_type_is_refused_by_its_name(void **state)
{
    (void)state;
    expect(MCP_POST, "html",
           "RESPONSE 200\nFAILED PEER_DEVIANT %ORIGIN%: it answered with "
           "content-type text/html, not application/json or "
           "text/event-stream\n");
    expect(MCP_POST, "untyped",
           "RESPONSE 200\nFAILED PEER_DEVIANT %ORIGIN%: it answered with "
           "content-type none, not application/json or text/event-stream\n");
}

static void an_encoding_that_was_not_asked_for_is_refused(void **state)
{
    (void)state;
    expect(MCP_POST, "squeezed",
           "RESPONSE 200 json\nFAILED PEER_DEVIANT %ORIGIN%: it answered with "
           "content-encoding gzip, which was not asked for\n");
}

static void a_body_shorter_than_its_length_is_short(void **state)
{
    struct world *world = post_with(NULL, "too_short");

    (void)state;
    assert_has(world, "RESPONSE 200 json\nFAILED SHORT http://127.0.0.1:");
    drop(world);
}

static void what_follows_a_body_is_no_part_of_the_next_answer(void **state)
{
    struct world *world = post_with(NULL, "too_long");

    (void)state;
    check(world, "RESPONSE 200 json\nMESSAGE {}\nEND\n");
    forget(world);
    world->is_over = false;
    send_one(world, MCP_POST, "/json_chunked", "", "{}");
    run(world);
    check(world, "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
    drop(world);
}

static void endless_bodies_and_headers_end_at_their_limits(void **state)
{
    (void)state;
    expect(MCP_POST, "endless",
           "RESPONSE 200 json\nFAILED LIMIT %ORIGIN%: its answer is longer "
           "than 100000 bytes\n");
    expect(MCP_POST, "headers_endless",
           "FAILED LIMIT %ORIGIN%: its headers are longer than 65536 bytes\n");
    expect(MCP_POST, "hints_endless",
           "FAILED LIMIT %ORIGIN%: its headers are longer than 65536 bytes\n");
}

/* Some libcurl say that they are out of memory; the request has arrived. */
static void a_line_too_long_for_libcurl_does_not_deny_the_request(void **state)
{
    static const char *const paths[] = {"header_endless", "trailer_endless"};

    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct world *world = post_with(NULL, paths[i]);

        assert_has(world, "FAILED ");
        assert_has_not(world, "FAILED TRANSIENT");
        drop(world);
    }
}

static void what_is_not_http_1_is_deviant(void **state)
{
    struct world *world = post_with(NULL, "old_protocol");

    (void)state;
    assert_has(world, "FAILED PEER_DEVIANT http://127.0.0.1:");
    drop(world);
}

static void a_broken_chunk_fails(void **state)
{
    struct world *world = post_with(NULL, "bad_chunk");

    (void)state;
    assert_has(world, "RESPONSE 200 json\nFAILED ");
    drop(world);
}

/* ---- connections -------------------------------------------------------- */

static void a_refused_connection_is_transient(void **state)
{
    struct world *world = make(NULL);

    (void)state;
    open_at(world, 0, "", "http://user:secret@127.0.0.1:%d/mcp?key=secret",
            peer.closed);
    send_one(world, MCP_POST, "", "", "{}");
    run(world);
    assert_has(world, "FAILED TRANSIENT http://127.0.0.1:");
    assert_has(world, "Couldn't connect to server\n");
    assert_has_not(world, "secret");
    drop(world);
}

static void a_name_that_is_not_known_is_transient(void **state)
{
    struct world *world = make(NULL);

    (void)state;
    open_at(world, 0, "", "http://cleat.invalid/mcp");
    send_one(world, MCP_POST, "", "", "{}");
    run(world);
    check(world, "FAILED TRANSIENT http://cleat.invalid:80: Could not resolve "
                 "host: cleat.invalid\n");
    drop(world);
}

static void a_long_name_leaves_room_for_what_is_wrong_with_it(void **state)
{
    static const char label[] = "a234567890123456789012345678901234567890";
    struct world *world = make(NULL);

    (void)state;
    open_at(world, 0, "", "http://%s.%s.%s.%s.%s.invalid/mcp", label, label,
            label, label, label);
    send_one(world, MCP_POST, "", "", "{}");
    run(world);
    assert_has(world, "FAILED TRANSIENT http://a234567890");
    assert_has(world, ": Could not resolve host: a234567890");
    drop(world);
}

static void a_connection_that_ends_before_an_answer_is_ambiguous(void **state)
{
    struct world *world = NULL;

    (void)state;
    world = post_with(NULL, "hangs_up");
    assert_has(world, "FAILED AMBIGUOUS http://127.0.0.1:");
    drop(world);
    expect_seen("http", "/hangs_up", 1, 0);
    world = post_with(NULL, "resets");
    assert_has(world, "FAILED AMBIGUOUS http://127.0.0.1:");
    drop(world);
    expect_seen("http", "/resets", 1, 0);
    world = make(NULL);
    open_at(world, 0, "", "http://127.0.0.1:%d/reset_in_body", peer.port);
    send_one(world, MCP_POST, "", "", "{}");
    run_until(world, "RESPONSE 200 json\n");
    tell_peer();
    run(world);
    assert_has(world, "RESPONSE 200 json\nFAILED AMBIGUOUS http://127.0.0.1:");
    drop(world);
    /* A GET has no effect. */
    expect(MCP_GET, "hangs_up",
           "FAILED TRANSIENT %ORIGIN%: Empty reply from server\n");
}

/* Nothing is to be done about it, so it must not wake the loop again and
 * again. */
static void a_kept_connection_that_ends_is_no_event(void **state)
{
    struct world *world = post_with(NULL, "closes_later");
    struct epoll_event event;

    (void)state;
    tell_peer();
    assert_int_equal(epoll_wait(world->epoll_fd, &event, 1, 0), 0);
    forget(world);
    world->is_over = false;
    send_one(world, MCP_POST, "/echo", "", "{}");
    run(world);
    assert_has(world, "RESPONSE 200 json\nMESSAGE {");
    drop(world);
}

/* libcurl's own second try would let a server that acted upon the first one
 * act twice. */
static void
a_post_over_a_kept_connection_that_ends_is_not_sent_twice(void **state)
{
    struct world *world = post_with(NULL, "first_only");

    (void)state;
    assert_has(world, "END\n");
    forget(world);
    world->is_over = false;
    send_one(world, MCP_POST, "", "", "{}");
    run(world);
    assert_has(world, "FAILED AMBIGUOUS http://127.0.0.1:");
    assert_has(world, "the connection ended before an answer; the request may "
                      "have arrived, so it is not sent again\n");
    drop(world);
    expect_seen("http", "/first_only", 2, 0);
}

static void a_get_over_a_kept_connection_that_ends_is_sent_again(void **state)
{
    struct world *world = make(NULL);

    (void)state;
    open_at(world, 0, "", "http://127.0.0.1:%d/first_only", peer.other);
    send_one(world, MCP_GET, "", "", "");
    run(world);
    forget(world);
    world->is_over = false;
    send_one(world, MCP_GET, "", "", "");
    run(world);
    assert_has(world, "RESPONSE 200 json\nMESSAGE {");
    drop(world);
    expect_seen("other", "/first_only", 3, 0);
}

static void a_connection_that_is_not_made_in_time_is_silent(void **state)
{
    struct mcp_http_config config = {.connect_ns = 50 * CLEAT_NS_PER_MS};
    struct world *world = make(&config);

    (void)state;
    atomic_store(&resolver_is_held, true);
    open_at(world, 0, "", "http://slow.test/mcp");
    send_one(world, MCP_POST, "", "", "{}");
    run(world);
    assert_has(world, "FAILED PEER_SILENT http://slow.test:80: ");
    drop(world);
    assert_true(atomic_load(&resolver_is_held));
    wait_for_byte(resolver_entered[0]);
    send_byte(resolver_released[1]);
    wait_for_byte(resolver_left[0]);
}

static void cancel_and_close_do_not_wait_for_a_slow_resolver(void **state)
{
    struct world *world = make(NULL);

    (void)state;
    atomic_store(&resolver_is_held, true);
    open_at(world, 0, "", "http://slow.test/mcp");
    send_one(world, MCP_POST, "", "", "{}");
    turn(world);
    wait_for_byte(resolver_entered[0]);
    mcp_http_cancel(world->http, 0, world->last_exchange);
    assert_true(atomic_load(&resolver_is_held));
    open_at(world, 0, "", "http://127.0.0.1:%d/json_chunked", peer.port);
    send_one(world, MCP_POST, "", "", "{}");
    run(world); /* the loop goes on beside it */
    check(world, "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
    drop(world);
    assert_true(atomic_load(&resolver_is_held));
    send_byte(resolver_released[1]);
    wait_for_byte(resolver_left[0]);
}

/* ---- cancelling --------------------------------------------------------- */

/* A process that the host runs would hold the connection, and the server would
 * not see its end. */
static void a_connection_is_not_left_to_what_the_host_runs(void **state)
{
    struct world *world = post_with(NULL, "json_chunked"); /* stays */
    uint32_t sockets = 0;

    (void)state;
    for (int fd = 3; fd < 1024; fd++) {
        struct sockaddr_storage peers;
        socklen_t bytes = sizeof peers;

        if (getpeername(fd, (struct sockaddr *)&peers, &bytes) != 0 ||
            peers.ss_family != AF_INET) {
            continue;
        }
        sockets++;
        assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    }
    assert_true(sockets > 0);
    drop(world);
}

static void nothing_is_told_of_a_cancelled_exchange(void **state)
{
    static const char *const silent[] = {"silent", "silent_after_headers",
                                         "silent_in_body", "stream_open"};

    (void)state;
    for (size_t i = 0; i < sizeof silent / sizeof silent[0]; i++) {
        struct world *world = make(NULL);

        open_at(world, 0, "", "http://127.0.0.1:%d/%s", peer.port, silent[i]);
        send_one(world, MCP_POST, "", "", "{}");
        if (i == 0) {
            turn(world);
        } else {
            run_until(world, i == 3 ? "one\n" : "RESPONSE 200 json\n");
        }
        mcp_http_cancel(world->http, 0, world->last_exchange);
        forget(world);
        send_one(world, MCP_POST, "/json_chunked", "", "{}");
        run(world);
        check(world, "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
        drop(world);
    }
}

static void
an_exchange_may_be_cancelled_while_any_part_of_it_is_told(void **state)
{
    (void)state;
    for (uint32_t when = 1; when <= 5; when++) {
        struct world *world = make(NULL);

        world->cancel_when = when;
        open_at(world, 0, "", "http://127.0.0.1:%d/stream", peer.port);
        send_one(world, MCP_POST, "", "", "{}");
        run(world);
        assert_int_equal(world->told_count, when);
        assert_has(world, when == 5 ? "END(250)\ncancelled\n" : "cancelled\n");
        forget(world);
        world->cancel_when = 0;
        world->is_over = false;
        send_one(world, MCP_POST, "/json_chunked", "", "{}");
        run(world);
        check(world, "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
        drop(world);
    }
    for (uint32_t when = 1; when <= 3; when++) {
        struct world *world = make(NULL);

        world->cancel_when = when;
        open_at(world, 0, "", "http://127.0.0.1:%d/json_chunked", peer.port);
        send_one(world, MCP_POST, "", "", "{}");
        run(world);
        assert_int_equal(world->told_count, when);
        drop(world);
    }
}

static void whoever_is_told_may_send_at_once(void **state)
{
    (void)state;
    for (uint32_t when = 1; when <= 3; when++) {
        /* At its end an exchange has given its slot back. */
        struct mcp_http_config config = {.exchanges_max = when == 3 ? 1 : 2};
        struct world *world = make(&config);

        world->send_when = when;
        open_at(world, 0, "", "http://127.0.0.1:%d/json_chunked", peer.port);
        send_one(world, MCP_POST, "", "", "{}");
        while (world->told_count < 6) { turn(world); }
        assert_int_equal(world->last_exchange, 2);
        drop(world);
    }
}

static void whoever_is_told_may_cancel_and_send_at_once(void **state)
{
    static const char *const paths[] = {"json_chunked", "stream"};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        for (uint32_t when = 1; when <= 2 + i; when++) {
            struct mcp_http_config config = {.exchanges_max = 2};
            struct world *world = make(&config);

            world->cancel_when = when;
            world->send_when = when;
            open_at(world, 0, "", "http://127.0.0.1:%d/%s", peer.port,
                    paths[i]);
            send_one(world, MCP_POST, "", "", "{}");
            run(world);
            assert_has(world,
                       "cancelled\nRESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
            assert_int_equal(world->told_count, when + 3);
            drop(world);
        }
    }
}

static void
a_send_that_was_cancelled_before_its_failure_was_told_is_quiet(void **state)
{
    struct world *world = make(NULL);

    (void)state;
    open_at(world, 0, "", "ftp://127.0.0.1/");
    send_one(world, MCP_POST, "", "", "{}");
    mcp_http_cancel(world->http, 0, 0);
    send_one(world, MCP_POST, "", "", "{}");
    run(world);
    check(world,
          "FAILED MALFORMED url: not an absolute URL of http or https\n");
    drop(world);
}

static void an_exchange_too_many_fails_for_capacity(void **state)
{
    struct mcp_http_config config = {.exchanges_max = 1};
    struct world *world = make(&config);

    (void)state;
    open_at(world, 0, "", "http://127.0.0.1:%d/silent", peer.port);
    send_one(world, MCP_POST, "", "", "{}");
    send_one(world, MCP_POST, "", "", "{}");
    mcp_http_cancel(world->http, 0, 2);
    send_one(world, MCP_POST, "", "", "{}");
    check(world, "");
    assert_int_equal(mcp_http_deadline(world->http), 0);
    run(world);
    check(world, "FAILED CAPACITY all 1 exchanges over HTTP that there is room "
                 "for are under way\n");
    mcp_http_cancel(world->http, 0, 0);
    forget(world);
    world->is_over = false;
    send_one(world, MCP_POST, "/json_chunked", "", "{}");
    run(world);
    check(world, "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
    drop(world);
}

static void who_sends_again_at_once_holds_up_nobody(void **state)
{
    struct mcp_http_config config = {.exchanges_max = 1};
    struct world *world = make(&config);

    (void)state;
    open_at(world, 0, "", "http://127.0.0.1:%d/silent", peer.port);
    send_one(world, MCP_POST, "", "", "{}");
    send_one(world, MCP_POST, "", "", "{}");
    world->resends_max = 1000;
    mcp_http_tick(world->http, now_ns());
    assert_int_equal(world->told_count, 1); /* and the loop goes on */
    assert_int_equal(mcp_http_deadline(world->http), 0);
    drop(world);
}

static void exchanges_of_two_sessions_go_on_beside_one_another(void **state)
{
    struct world *world = make(NULL);

    (void)state;
    open_at(world, 0, "", "http://127.0.0.1:%d/stream_reset", peer.port);
    send_one(world, MCP_GET, "", "", "");
    run_until(world, "one\n");
    send_one(world, MCP_POST, "/silent", "", "{}");
    send_one(world, MCP_POST, "/drip", "", "{}");
    send_one(world, MCP_POST, "/json_chunked", "", "{}");
    run(world);
    assert_has(world, "MESSAGE " TEXT "\nEND\n");
    open_at(world, 1, "", "http://127.0.0.1:%d/", peer.port);
    mcp_http_cancel(world->http, 1, 0); /* touches none of session 0 */
    forget(world);
    world->is_over = false;
    send_one(world, MCP_POST, "/json_chunked", "", "{}");
    run(world);
    assert_has(world, "MESSAGE " TEXT "\nEND\n");
    tell_peer();
    run_until(world, "[1]FAILED TRANSIENT");
    drop(world); /* with two under way */
}

/* ---- where to ----------------------------------------------------------- */

static void expect_target(const char *url_path, const char *endpoint,
                          const char *target)
{
    struct world *world = make(NULL);
    char part[256];

    open_at(world, 0, "", "http://127.0.0.1:%d%s", peer.port, url_path);
    send_one(world, MCP_POST, endpoint, "", "{}");
    run(world);
    snprintf(part, sizeof part, "\"target\": \"%s\"}", target);
    assert_has(world, part);
    drop(world);
}

/* RFC 3986, 5.4, as far as it stays on one server. */
static void an_endpoint_is_relative_to_the_configs_url(void **state)
{
    char whole[128];

    (void)state;
    expect_target("/a/sse?x", "/echo?sessionId=1", "/echo?sessionId=1");
    expect_target("/sse", "echo?sessionId=1", "/echo?sessionId=1");
    expect_target("/a/sse", "../echo", "/echo");
    expect_target("/echo?x=1", "?y=2", "/echo?y=2");
    snprintf(whole, sizeof whole, "http://127.0.0.1:%d/echo#there", peer.port);
    expect_target("/sse", whole, "/echo");
    snprintf(whole, sizeof whole, "//127.0.0.1:%d/echo", peer.port);
    expect_target("/sse", whole, "/echo");
}

static void expect_no_endpoint(const char *endpoint, const char *status)
{
    struct world *world = make(NULL);
    char whole[9100];
    char expected[64];
    const char *mark = strstr(endpoint, "OTHER");

    strcpy(whole, endpoint);
    if (mark != NULL) {
        snprintf(whole, sizeof whole, "%.*s%d%s", (int)(mark - endpoint),
                 endpoint, peer.other, mark + strlen("OTHER"));
    }
    open_at(world, 0, ",\"token\":\"secret\"", "http://127.0.0.1:%d/sse",
            peer.port);
    send_one(world, MCP_POST, whole, "", "{}");
    run(world);
    snprintf(expected, sizeof expected,
             "FAILED %s http://127.0.0.1:%d: its "
             "endpoint ",
             status, peer.port);
    assert_has(world, expected);
    drop(world);
}

static void an_endpoint_of_another_origin_is_refused(void **state)
{
    char longest[9001];

    (void)state;
    expect_no_endpoint("http://127.0.0.1:OTHER/elsewhere", "PERMANENT");
    expect_no_endpoint("//127.0.0.1:OTHER/elsewhere", "PERMANENT");
    expect_no_endpoint("http://user@127.0.0.1:OTHER/elsewhere", "PERMANENT");
    expect_no_endpoint("http://localhost/elsewhere", "PERMANENT");
    expect_no_endpoint("https://127.0.0.1/elsewhere", "PERMANENT");
    expect_no_endpoint("ftp://127.0.0.1/elsewhere", "PERMANENT");
    expect_no_endpoint("file:///etc/hostname", "PERMANENT");
    expect_no_endpoint("/a b", "PEER_DEVIANT");
    expect_no_endpoint("/a\r\nX-B: 1", "PEER_DEVIANT");
    expect_no_endpoint("http://[::1", "PEER_DEVIANT");
    memset(longest, 'x', 9000);
    longest[0] = '/';
    longest[9000] = '\0';
    expect_no_endpoint(longest, "LIMIT");
    expect_seen("other", "/elsewhere", 0, 0);
}

static void
a_url_that_is_none_of_http_is_refused_when_something_is_sent(void **state)
{
    static const char *const urls[] = {"ftp://h/", "/mcp", "", "h:80",
                                       "file:///etc/hostname"};

    (void)state;
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        struct world *world = make(NULL);

        open_at(world, 0, "", "%s", urls[i]);
        send_one(world, MCP_POST, "", "", "{}");
        run(world);
        check(world,
              "FAILED MALFORMED url: not an absolute URL of http or https\n");
        drop(world);
    }
    struct world *world = make(NULL);
    open_at(world, 0, "", "http://secret host/");
    send_one(world, MCP_POST, "", "", "{}");
    run(world);
    check(world, "FAILED MALFORMED url: not a URL\n");
    drop(world);
}

static void a_user_in_the_configs_url_is_kept_and_shown_nowhere(void **state)
{
    struct world *world = make(NULL);

    (void)state;
    open_at(world, 0, "", "http://user:secret@127.0.0.1:%d/html", peer.port);
    send_one(world, MCP_POST, "", "", "{}");
    run(world);
    assert_has(world, "FAILED PEER_DEVIANT http://127.0.0.1:");
    assert_has_not(world, "secret");
    forget(world);
    world->is_over = false;
    /* "user:secret" in base64 */
    send_one(world, MCP_POST, "/redirect?307,http://other@127.0.0.1:SELF/echo",
             "", "{}");
    run(world);
    assert_has(world, "\"authorization\": \"Basic dXNlcjpzZWNyZXQ=\"");
    forget(world);
    world->is_over = false;
    open_at(world, 0, "", "http://127.0.0.1:%d/echo", peer.port);
    send_one(world, MCP_POST, "", "", "{}"); /* over the same connection */
    run(world);
    assert_has(world, "RESPONSE 200 json\nMESSAGE {");
    assert_has_not(world, "authorization");
    drop(world);
}

/* ---- redirects ---------------------------------------------------------- */

static void a_redirect_within_the_origin_is_followed_with_its_body(void **state)
{
    static const char *const paths[] = {
        "redirect?307,/echo", "redirect?308,echo",
        "redirect?307,http://127.0.0.1:SELF/echo", "redirect_endless"};

    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        struct world *world = make(NULL);

        open_at(world, 0, ",\"token\":\"t0ken\"", "http://127.0.0.1:%d/%s",
                peer.port, paths[i]);
        send_one(world, MCP_POST, "", "Mcp-Method: x\n", "{\"id\":1}");
        run(world);
        assert_has(world, "RESPONSE 200 json\nMESSAGE {\"body\": "
                          "\"{\\\"id\\\":1}\"");
        assert_has(world, "\"method\": \"POST\"");
        assert_has(world, "\"mcp-method\": \"x\"");
        assert_has(world, "\"authorization\": \"Bearer t0ken\"");
        assert_has(world, "}\nEND\n");
        drop(world);
    }
}

static void a_redirect_of_a_get_is_followed_by_any_code(void **state)
{
    static const int codes[] = {301, 302, 303, 307, 308};

    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        struct world *world = make(NULL);

        open_at(world, 0, "", "http://127.0.0.1:%d/redirect?%d,/echo",
                peer.port, codes[i]);
        send_one(world, MCP_GET, "", "", "");
        run(world);
        assert_has(world, "RESPONSE 200 json\nMESSAGE {");
        drop(world);
    }
}

static void a_redirect_that_would_lose_the_body_is_refused(void **state)
{
    static const int codes[] = {301, 302, 303};

    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        char path[64];
        char expected[256];

        snprintf(path, sizeof path, "redirect?%d,/lost", codes[i]);
        snprintf(expected, sizeof expected,
                 "FAILED PERMANENT %%ORIGIN%%: a redirect by %d does not keep "
                 "the request, which only 307 and 308 do\n",
                 codes[i]);
        expect(MCP_POST, path, expected);
    }
    expect_seen("http", "/lost", 0, 0);
}

static void
a_redirect_to_another_origin_is_refused_and_told_no_secret(void **state)
{
    static const char *const places[] = {
        "307,http://127.0.0.1:OTHER/stolen",
        "308,http://127.0.0.1:OTHER/stolen",
        "307,//127.0.0.1:OTHER/stolen",
        "307,http://localhost:SELF/stolen",
        "307,https://127.0.0.1:SELF/stolen",
        "307,http://127.0.0.1:SELF@127.0.0.1:OTHER/stolen"};

    (void)state;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        for (int method = MCP_POST; method <= MCP_GET; method++) {
            struct world *world = make(NULL);

            open_at(world, 0, ",\"token\":\"secret\"",
                    "http://127.0.0.1:%d/redirect?%s", peer.port, places[i]);
            send_one(world, (enum mcp_method)method, "", "", "");
            run(world);
            assert_has(world, "FAILED PERMANENT http://127.0.0.1:");
            assert_has(world, "a redirect leads to another origin (http");
            assert_has_not(world, "RESPONSE");
            assert_has_not(world, "stolen");
            drop(world);
        }
    }
    expect_seen("other", "/stolen", 0, 0);
    expect_seen("http", "/stolen", 0, 0);
}

static void redirects_are_bounded(void **state)
{
    (void)state;
    expect(MCP_POST, "redirect_loop",
           "FAILED LIMIT %ORIGIN%: it redirects more than 5 times\n");
    expect_seen("http", "/redirect_loop", 6, 0);
    expect(MCP_POST, "redirect_long",
           "FAILED LIMIT %ORIGIN%: a redirect is longer than 8191 bytes\n");
}

/* ---- proxies ------------------------------------------------------------ */

static void
proxies_of_the_environment_are_used_only_when_asked_for(void **state)
{
    struct mcp_http_config config = {.proxies = true};
    struct world *world = NULL;
    char proxy[64];

    (void)state;
    snprintf(proxy, sizeof proxy, "http://127.0.0.1:%d", peer.other);
    setenv("http_proxy", proxy, 1);
    world = post_with(NULL, "echo");
    assert_has(world, "\"target\": \"/echo\"");
    drop(world);
    world = post_with(&config, "echo");
    assert_has(world, "\"target\": \"http://127.0.0.1:");
    drop(world);
    unsetenv("http_proxy");
}

/* ---- TLS ---------------------------------------------------------------- */

static void expect_tls(const char *host, const char *authority,
                       const char *expected)
{
    struct mcp_http_config config = {.tls_ca_file = authority};
    struct world *world = make(&config);

    open_at(world, 0, ",\"token\":\"secret\"", "https://%s:%d/secure", host,
            peer.tls);
    send_one(world, MCP_POST, expected[0] == 'R' ? "/json_chunked" : "", "",
             "{}");
    run(world);
    assert_has(world, expected);
    drop(world);
}

static void tls_is_spoken_only_with_who_proves_to_be_the_host(void **state)
{
    (void)state;
    if (peer.tls == 0) { skip(); }
    expect_tls("localhost", peer.ca,
               "RESPONSE 200 json\nMESSAGE " TEXT "\nEND\n");
    expect_tls("localhost", NULL, "FAILED PERMANENT https://localhost:");
    expect_tls("localhost", peer.wrong, "FAILED PERMANENT https://localhost:");
    expect_tls("127.0.0.1", peer.ca, "FAILED PERMANENT https://127.0.0.1:");
    expect_tls("localhost", "/nonexistent/ca.pem",
               "FAILED PERMANENT https://localhost:");
    expect_seen("tls", "/secure", 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_post_says_what_mcp_wants),
        cmocka_unit_test(a_get_asks_for_a_stream),
        cmocka_unit_test(a_delete_has_no_body_and_its_answer_is_not_read),
        cmocka_unit_test(
            a_slot_is_used_again_without_traces_of_its_last_request),
        cmocka_unit_test(
            headers_of_the_config_are_sent_but_ours_and_the_actions_stand),
        cmocka_unit_test(
            a_header_that_could_split_the_request_is_refused_by_name),
        cmocka_unit_test(a_header_longer_than_the_limit_is_refused_by_name),
        cmocka_unit_test(a_post_of_2_mb_is_sent_without_waiting_for_leave),
        cmocka_unit_test(a_json_body_is_one_message_however_it_is_cut),
        cmocka_unit_test(
            a_content_type_is_known_in_any_case_and_with_parameters),
        cmocka_unit_test(an_empty_json_body_is_no_message),
        cmocka_unit_test(
            a_body_of_exactly_the_limit_is_taken_and_a_byte_more_is_not),
        cmocka_unit_test(a_202_or_204_ends_well_with_and_without_a_body),
        cmocka_unit_test(the_session_of_an_answer_is_told),
        cmocka_unit_test(a_session_that_could_not_be_sent_back_is_refused),
        cmocka_unit_test(
            informational_answers_folded_lines_and_trailers_tell_nothing),
        cmocka_unit_test(a_stream_is_told_event_by_event_with_any_line_ends),
        cmocka_unit_test(a_stream_may_come_byte_by_byte),
        cmocka_unit_test(
            a_byte_order_mark_is_passed_over_and_a_bad_id_and_retry_too),
        cmocka_unit_test(a_data_line_of_76_kb_is_one_message),
        cmocka_unit_test(an_event_without_its_empty_line_is_not_told),
        cmocka_unit_test(the_name_of_an_event_is_told),
        cmocka_unit_test(a_stream_that_breaks_off_fails_after_what_came),
        cmocka_unit_test(an_event_longer_than_the_limit_fails_by_its_name),
        cmocka_unit_test(an_error_is_told_with_its_json),
        cmocka_unit_test(
            retry_after_is_told_in_seconds_and_as_a_date_by_the_servers_clock),
        cmocka_unit_test(an_endless_error_is_an_error_all_the_same),
        cmocka_unit_test(another_content_type_is_refused_by_its_name),
        cmocka_unit_test(an_encoding_that_was_not_asked_for_is_refused),
        cmocka_unit_test(a_body_shorter_than_its_length_is_short),
        cmocka_unit_test(what_follows_a_body_is_no_part_of_the_next_answer),
        cmocka_unit_test(endless_bodies_and_headers_end_at_their_limits),
        cmocka_unit_test(a_line_too_long_for_libcurl_does_not_deny_the_request),
        cmocka_unit_test(what_is_not_http_1_is_deviant),
        cmocka_unit_test(a_broken_chunk_fails),
        cmocka_unit_test(a_refused_connection_is_transient),
        cmocka_unit_test(a_name_that_is_not_known_is_transient),
        cmocka_unit_test(a_long_name_leaves_room_for_what_is_wrong_with_it),
        cmocka_unit_test(a_connection_that_ends_before_an_answer_is_ambiguous),
        cmocka_unit_test(a_kept_connection_that_ends_is_no_event),
        cmocka_unit_test(
            a_post_over_a_kept_connection_that_ends_is_not_sent_twice),
        cmocka_unit_test(a_get_over_a_kept_connection_that_ends_is_sent_again),
        cmocka_unit_test(a_connection_that_is_not_made_in_time_is_silent),
        cmocka_unit_test(cancel_and_close_do_not_wait_for_a_slow_resolver),
        cmocka_unit_test(a_connection_is_not_left_to_what_the_host_runs),
        cmocka_unit_test(nothing_is_told_of_a_cancelled_exchange),
        cmocka_unit_test(
            an_exchange_may_be_cancelled_while_any_part_of_it_is_told),
        cmocka_unit_test(whoever_is_told_may_send_at_once),
        cmocka_unit_test(whoever_is_told_may_cancel_and_send_at_once),
        cmocka_unit_test(
            a_send_that_was_cancelled_before_its_failure_was_told_is_quiet),
        cmocka_unit_test(an_exchange_too_many_fails_for_capacity),
        cmocka_unit_test(who_sends_again_at_once_holds_up_nobody),
        cmocka_unit_test(exchanges_of_two_sessions_go_on_beside_one_another),
        cmocka_unit_test(an_endpoint_is_relative_to_the_configs_url),
        cmocka_unit_test(an_endpoint_of_another_origin_is_refused),
        cmocka_unit_test(
            a_url_that_is_none_of_http_is_refused_when_something_is_sent),
        cmocka_unit_test(a_user_in_the_configs_url_is_kept_and_shown_nowhere),
        cmocka_unit_test(
            a_redirect_within_the_origin_is_followed_with_its_body),
        cmocka_unit_test(a_redirect_of_a_get_is_followed_by_any_code),
        cmocka_unit_test(a_redirect_that_would_lose_the_body_is_refused),
        cmocka_unit_test(
            a_redirect_to_another_origin_is_refused_and_told_no_secret),
        cmocka_unit_test(redirects_are_bounded),
        cmocka_unit_test(
            proxies_of_the_environment_are_used_only_when_asked_for),
        cmocka_unit_test(tls_is_spoken_only_with_who_proves_to_be_the_host),
    };

    /* What stands there where proxies are the rule. */
    unsetenv("no_proxy");
    unsetenv("NO_PROXY");
    alarm(WATCHDOG_S);
    return cmocka_run_group_tests(tests, start_peer, stop_peer);
}
