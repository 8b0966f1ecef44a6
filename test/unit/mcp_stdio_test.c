/* Cleat: server processes, as a session has them. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Real processes; the watchdog is generous, and no test measures time. After
 * each test nothing is left of any process. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cleat/linux.h"
#include "port/mcp/wire.h"
#include "support/mcp_child.h"

#define MESSAGE_MAX ((size_t)65536)
#define SEND_MAX ((size_t)131072)
#define HEARD_MAX ((size_t)1 << 22)
#define WATCHDOG_NS (60 * CLEAT_NS_PER_S)
#define FOR_EVER_NS (3600 * CLEAT_NS_PER_S)
#define SESSION 7u

struct world {
    _Alignas(64) unsigned char maker[CLEAT_LINUX_CHILD_MAKER_BYTES];
    struct mcp_stdio_host host;
    void *block;
    struct mcp_stdio *stdio;
    char definition[4096];
    struct mcp_server server;
    bool opened;
    bool closed;
    uint32_t lines;
    enum cleat_status status; /* of the end */
    char why[256];
    char *heard; /* the lines, with a newline each */
    size_t heard_bytes;
    bool close_at_line; /* from within what is told */
    bool last_first;    /* what became ready last is handled first */
    bool answer_lines;
};

static uint64_t now_ns(void)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context);
}

static void told(void *context, uint32_t session, const struct mcp_told_it *it)
{
    struct world *world = context;

    assert_int_equal(session, SESSION);
    assert_false(world->closed);
    switch (it->what) {
    case MCP_OPENED: world->opened = true; break;
    case MCP_MESSAGE:
        assert_true(world->opened);
        assert_true(world->heard_bytes + it->text.bytes + 2 < HEARD_MAX);
        memcpy(world->heard + world->heard_bytes, it->text.text,
               it->text.bytes);
        world->heard_bytes += it->text.bytes;
        world->heard[world->heard_bytes++] = '\n';
        world->heard[world->heard_bytes] = '\0';
        world->lines++;
        if (world->close_at_line) {
            mcp_stdio_close(world->stdio, now_ns(), now_ns() + FOR_EVER_NS);
        }
        if (world->answer_lines) {
            struct cleat_text answer = {"yes", 3};
            mcp_stdio_send(world->stdio, now_ns(), answer);
        }
        break;
    case MCP_CLOSED:
        world->closed = true;
        world->status = it->status;
        assert_true(it->text.bytes < sizeof world->why);
        memcpy(world->why, it->text.text, it->text.bytes);
        world->why[it->text.bytes] = '\0';
        break;
    default: fail();
    }
}

/* One turn of what mcp.c does. */
static void turn(struct world *world)
{
    struct epoll_event events[8];
    uint64_t due_ns = mcp_stdio_deadline(world->stdio);
    uint64_t now = now_ns();
    int timeout = due_ns <= now ? 0 : 1;

    int count = epoll_wait(world->host.epoll_fd, events, 8, timeout);
    for (int i = 0; i < count; i++) {
        uint64_t data = events[world->last_first ? count - 1 - i : i].data.u64;
        assert_int_equal(data >> 32,
                         MCP_READY(MCP_READY_STDIO, SESSION, 0) >> 32);
        mcp_stdio_ready(world->stdio, now_ns(), (uint32_t)data);
    }
    mcp_stdio_tick(world->stdio, now_ns());
}

#define RUN_UNTIL(world, condition)                                  \
    do {                                                             \
        uint64_t until_ns = now_ns() + WATCHDOG_NS;                  \
        while (!(condition)) {                                       \
            turn(world);                                             \
            if (now_ns() > until_ns) { fail_msg("%s", #condition); } \
        }                                                            \
    } while (0)

static void define(struct world *world, const char *definition)
{
    (void)snprintf(world->definition, sizeof world->definition, "%s",
                   definition);
    assert_int_equal(mcp_server_open(&world->server, world->definition,
                                     strlen(world->definition), NULL),
                     CLEAT_OK);
}

/* This program as a server that behaves in that way. */
static void define_child(struct world *world, const char *way, const char *more)
{
    char definition[4096];

    (void)snprintf(definition, sizeof definition,
                   "{\"server\":\"s\",\"command\":\"/proc/self/exe\",\"args\":"
                   "[\"child\",\"%s\"%s}",
                   way, more);
    define(world, definition);
}

static void open_child(struct world *world, const char *way)
{
    define_child(world, way, "]");
    mcp_stdio_open(world->stdio, now_ns(), &world->server);
    RUN_UNTIL(world, world->opened || world->closed);
}

static void send_text(struct world *world, const char *text)
{
    struct cleat_text body = {text, strlen(text)};

    mcp_stdio_send(world->stdio, now_ns(), body);
}

static void close_within(struct world *world, uint64_t grace_ns)
{
    mcp_stdio_close(world->stdio, now_ns(), now_ns() + grace_ns);
    RUN_UNTIL(world, mcp_stdio_is_closed(world->stdio));
    assert_true(world->closed);
}

static struct world *begin(uint64_t grace_ns)
{
    static const int fds[MCP_STDIO_FDS_COUNT] = MCP_STDIO_FDS;
    struct world *world = aligned_alloc(64, (sizeof *world + 63) / 64 * 64);

    assert_non_null(world);
    memset(world, 0, sizeof *world);
    assert_int_equal(cleat_linux_child_maker_init(
                         world->maker, sizeof world->maker, fds,
                         MCP_STDIO_FDS_COUNT, &world->host.maker, NULL),
                     CLEAT_OK);
    assert_int_equal(
        mcp_environment_read(&world->host.environment, getenv, NULL), CLEAT_OK);
    world->host.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    world->host.message_bytes_max = MESSAGE_MAX;
    world->host.send_bytes = SEND_MAX;
    world->host.grace_ns = grace_ns;
    world->host.tell = told;
    world->host.context = world;
    world->block = malloc(mcp_stdio_bytes(&world->host));
    world->heard = malloc(HEARD_MAX);
    assert_true(world->block != NULL && world->heard != NULL);
    world->heard[0] = '\0';
    world->stdio = mcp_stdio_init(world->block, SESSION, &world->host);
    return world;
}

static void begin_again(struct world *world)
{
    world->opened = false;
    world->closed = false;
    world->lines = 0;
    world->heard_bytes = 0;
    world->heard[0] = '\0';
}

static int count_descriptors(void)
{
    int count = 0;

    for (int fd = 0; fd < 256; fd++) { count += dup2(fd, fd) == fd; }
    return count;
}

/* Nothing is left but what somebody else's child is. */
static void end(struct world *world)
{
    assert_true(mcp_stdio_is_closed(world->stdio));
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    cleat_linux_child_maker_close(world->host.maker);
    (void)close(world->host.epoll_fd);
    free(world->block);
    free(world->heard);
    free(world);
}

/* ---- what is said and heard --------------------------------------------- */

static void what_is_said_comes_back_line_by_line(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_child(world, "echo");
    send_text(world, "{\"one\":1}");
    send_text(world, "two");
    RUN_UNTIL(world, world->lines == 2);
    assert_string_equal(world->heard, "{\"one\":1}\ntwo\n");
    close_within(world, FOR_EVER_NS);
    assert_int_equal(world->status, CLEAT_OK);
    assert_string_equal(world->why, "");
    end(world);
}

static void messages_of_any_size_pass_in_both_directions(void **state)
{
    static char text[MESSAGE_MAX + 1];
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_child(world, "echo");
    for (uint32_t i = 1; i <= 40; i++) {
        size_t bytes = i == 40 ? MESSAGE_MAX : (size_t)i * 1601;
        memset(text, 'a' + (int)(i % 26), bytes);
        text[bytes] = '\0';
        world->heard_bytes = 0;
        send_text(world, text);
        RUN_UNTIL(world, world->lines == i);
        assert_int_equal(world->heard_bytes, bytes + 1);
        assert_memory_equal(world->heard, text, bytes);
    }
    close_within(world, FOR_EVER_NS);
    end(world);
}

static void one_byte_at_a_time_is_the_same(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_child(world, "drip");
    send_text(world, "{\"jsonrpc\":\"2.0\",\"id\":1}\r\n\r\n\nnext");
    RUN_UNTIL(world, world->lines == 2); /* empty lines are no messages */
    assert_string_equal(world->heard, "{\"jsonrpc\":\"2.0\",\"id\":1}\nnext\n");
    close_within(world, FOR_EVER_NS);
    end(world);
}

static void a_server_that_floods_its_stderr_goes_on(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_child(world, "flood");
    send_text(world, "still there?");
    RUN_UNTIL(world, world->lines == 1);
    close_within(world, FOR_EVER_NS);
    end(world);
}

/* Waits for the end of the one child, and leaves it unreaped. */
static void await_end(void)
{
    siginfo_t info;

    assert_int_equal(waitid(P_ALL, 0, &info, WEXITED | WNOWAIT), 0);
}

static void what_a_server_said_before_its_end_is_heard_before_it(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct world *world = begin(FOR_EVER_NS);
        world->last_first = i == 1;
        define_child(world, "chatter", ",\"5000\"]");
        mcp_stdio_open(world->stdio, now_ns(), &world->server);
        await_end();
        RUN_UNTIL(world, world->closed);
        assert_int_equal(world->lines, 5000);
        assert_int_equal(world->status, CLEAT_TRANSIENT);
        assert_string_equal(world->why, "exited with 0");
        end(world);
    }
}

static void after_it_is_ended_nothing_is_heard(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    world->close_at_line = true;
    define_child(world, "chatter", ",\"100\"]");
    mcp_stdio_open(world->stdio, now_ns(), &world->server);
    await_end();
    RUN_UNTIL(world, world->closed);
    assert_int_equal(world->lines, 1);
    assert_int_equal(world->status, CLEAT_OK);
    end(world);
}

static void what_does_not_fit_at_once_is_sent_when_it_does(void **state)
{
    static char text[60000];
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    memset(text, 'x', sizeof text - 1);
    define_child(world, "swallow", ",\"300000\"]");
    mcp_stdio_open(world->stdio, now_ns(), &world->server);
    for (int i = 0; i < 5; i++) { send_text(world, text); }
    RUN_UNTIL(world, world->lines == 1);
    close_within(world, FOR_EVER_NS);
    end(world);
}

static void no_program_that_the_host_starts_gets_its_descriptors(void **state)
{
    struct world *world = begin(FOR_EVER_NS);
    bool before[64];

    (void)state;
    for (int fd = 0; fd < 64; fd++) { before[fd] = fcntl(fd, F_GETFD) >= 0; }
    open_child(world, "silent");
    for (int fd = 0; fd < 64; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (!before[fd] && flags >= 0) {
            assert_int_equal(flags & FD_CLOEXEC, FD_CLOEXEC);
        }
    }
    close_within(world, FOR_EVER_NS);
    end(world);
}

static void
it_may_be_answered_and_ended_while_it_is_told_something(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_child(world, "echo");
    world->answer_lines = true;
    send_text(world, "begin");
    RUN_UNTIL(world, world->lines >= 10);
    uint32_t before = world->lines;
    world->close_at_line = true;
    RUN_UNTIL(world, mcp_stdio_is_closed(world->stdio));
    assert_true(world->closed);
    assert_int_equal(world->lines, before + 1);
    assert_int_equal(world->status, CLEAT_OK);
    end(world);
}

/* ---- what it is given --------------------------------------------------- */

static bool has_line(const struct world *world, const char *line)
{
    const char *at = world->heard;
    size_t bytes = strlen(line);

    while (*at != '\0') {
        size_t length = strcspn(at, "\n");
        if (length == bytes && memcmp(at, line, bytes) == 0) { return true; }
        at += length + 1;
    }
    return false;
}

static void
it_is_given_arguments_environment_and_folder_and_nothing_else(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    assert_int_equal(setenv("CLEAT_SECRET_OF_OURS", "x", 1), 0);
    define_child(world, "tell",
                 ",\"two words\",\"\",\"$HOME \\\"*\\\"\"],"
                 "\"env\":{\"ONE\":\"1 \\u00e9\",\"TERM\":\"none\"},"
                 "\"cwd\":\"/usr\"");
    mcp_stdio_open(world->stdio, now_ns(), &world->server);
    RUN_UNTIL(world, has_line(world, "end"));
    assert_true(has_line(world, "arg two words"));
    assert_true(has_line(world, "arg "));
    assert_true(has_line(world, "arg $HOME \"*\""));
    assert_true(has_line(world, "env ONE=1 \xc3\xa9"));
    assert_true(has_line(world, "env TERM=none"));
    assert_true(has_line(world, "cwd /usr"));
    assert_true(has_line(world, "leader 1, SIGTERM blocked 0"));
    assert_true(has_line(world, "fd 0") && has_line(world, "fd 1") &&
                has_line(world, "fd 2"));
    assert_null(strstr(world->heard, "fd 3"));
    assert_null(strstr(world->heard, "CLEAT_SECRET_OF_OURS"));
    char path[8192];
    (void)snprintf(path, sizeof path, "env PATH=%s", getenv("PATH"));
    assert_true(has_line(world, path));
    close_within(world, FOR_EVER_NS);
    end(world);
}

static void variable_of(const char *name, const char *value,
                        const char *definition_env, const char *expected)
{
    struct mcp_environment environment;
    struct mcp_command command;
    struct mcp_server server;
    char definition[512];
    char texts[512];
    char *pointers[32];
    struct mcp_room room = {texts, sizeof texts};

    assert_int_equal(setenv(name, value, 1), 0);
    assert_int_equal(mcp_environment_read(&environment, getenv, NULL),
                     CLEAT_OK);
    (void)snprintf(definition, sizeof definition,
                   "{\"server\":\"s\",\"command\":\"c\",\"env\":{%s}}",
                   definition_env);
    assert_int_equal(
        mcp_server_open(&server, definition, strlen(definition), NULL),
        CLEAT_OK);
    assert_int_equal(mcp_command_fill(&server, &environment, &room, pointers,
                                      32, &command, NULL),
                     CLEAT_OK);
    size_t count = 0;
    const char *found = NULL;
    for (char **at = command.envp; *at != NULL; at++) {
        if (strncmp(*at, name, strlen(name)) == 0 &&
            (*at)[strlen(name)] == '=') {
            found = *at;
            count++;
        }
    }
    assert_int_equal(count, expected == NULL ? 0 : 1);
    if (expected != NULL) { assert_string_equal(found, expected); }
}

static void
a_config_may_replace_what_is_inherited_and_functions_are_not(void **state)
{
    (void)state;
    variable_of("LOGNAME", "me", "\"A\":\"b\"", "LOGNAME=me");
    variable_of("LOGNAME", "me", "\"LOGNAME\":\"you\"", "LOGNAME=you");
    variable_of("LOGNAME", "me", "\"LOGNAME2\":\"you\"", "LOGNAME=me");
    variable_of("LOGNAME", "() { :; }; echo", "", NULL);
    variable_of("LOGNAME", "me", "", "LOGNAME=me");
}

static void
a_command_that_does_not_fit_is_refused_by_name_of_the_limit(void **state)
{
    struct mcp_environment environment = {.count = 0};
    struct mcp_command command;
    struct mcp_server server;
    struct cleat_error error;
    static const char definition[] =
        "{\"server\":\"s\",\"command\":\"0123456789\",\"args\":[\"a\",\"b\"]}";
    char texts[64];
    char *pointers[8];

    (void)state;
    assert_int_equal(
        mcp_server_open(&server, definition, sizeof definition - 1, NULL),
        CLEAT_OK);
    for (size_t bytes = 0; bytes < 11 + 2 + 2; bytes++) {
        struct mcp_room room = {texts, bytes};
        assert_int_equal(mcp_command_fill(&server, &environment, &room,
                                          pointers, 8, &command, &error),
                         CLEAT_LIMIT);
        assert_non_null(strstr(error.text, "message_bytes_max"));
    }
    for (size_t count = 0; count <= 8; count++) {
        struct mcp_room room = {texts, sizeof texts};
        assert_int_equal(mcp_command_fill(&server, &environment, &room,
                                          pointers, count, &command, &error),
                         count < 5 ? CLEAT_LIMIT : CLEAT_OK);
    }
}

/* ---- programs that are not there ---------------------------------------- */

static void expect_refused(struct world *world, const char *definition,
                           enum cleat_status status, const char *why)
{
    begin_again(world);
    define(world, definition);
    mcp_stdio_open(world->stdio, now_ns(), &world->server);
    assert_false(world->closed); /* it is told later */
    RUN_UNTIL(world, world->closed);
    assert_false(world->opened);
    assert_int_equal(world->status, status);
    assert_string_equal(world->why, why);
    assert_true(mcp_stdio_is_closed(world->stdio));
}

static void a_program_that_is_not_there_is_named(void **state)
{
    struct world *world = begin(FOR_EVER_NS);
    int before = count_descriptors();

    (void)state;
    expect_refused(world, "{\"server\":\"s\",\"command\":\"cleat-no-such\\n\"}",
                   CLEAT_PERMANENT, "command \"cleat-no-such?\" was not found");
    expect_refused(world, "{\"server\":\"s\",\"command\":\"/no/such\"}",
                   CLEAT_PERMANENT, "command \"/no/such\" was not found");
    expect_refused(world, "{\"server\":\"s\",\"command\":\"\"}",
                   CLEAT_PERMANENT, "command \"\" was not found");
    expect_refused(world, "{\"server\":\"s\",\"command\":\"/etc/passwd\"}",
                   CLEAT_PERMANENT, "command \"/etc/passwd\" may not be run");
    expect_refused(world, "{\"server\":\"s\",\"command\":\"/usr\"}",
                   CLEAT_PERMANENT, "command \"/usr\" was not found");
    expect_refused(world,
                   "{\"server\":\"s\",\"command\":\"sh\",\"env\":{\"PATH\":"
                   "\"/no:/such\"}}",
                   CLEAT_PERMANENT, "command \"sh\" was not found");
    expect_refused(world,
                   "{\"server\":\"s\",\"command\":\"sh\",\"cwd\":\"/no/"
                   "such\"}",
                   CLEAT_PERMANENT,
                   "cannot start in \"/no/such\": No such file or directory");
    assert_int_equal(count_descriptors(), before);
    end(world);
}

static void a_program_is_looked_for_on_the_path_that_it_will_have(void **state)
{
    static const char *const definitions[] = {
        "{\"server\":\"s\",\"command\":\"sh\",\"args\":[\"-c\",\"echo ok\"]}",
        "{\"server\":\"s\",\"command\":\"sh\",\"args\":[\"-c\",\"echo ok\"],"
        "\"env\":{\"PATH\":\"/no:/bin\"}}",
        "{\"server\":\"s\",\"command\":\"sh\",\"args\":[\"-c\",\"echo ok\"],"
        "\"env\":{\"PATH\":\"/no:\"},\"cwd\":\"/bin\"}",
        "{\"server\":\"s\",\"command\":\"./sh\",\"args\":[\"-c\",\"echo ok\"],"
        "\"cwd\":\"/bin\"}",
        "{\"server\":\"s\",\"command\":\"sh\",\"args\":[\"-c\",\"echo ok\"],"
        "\"env\":{\"PATH\":\"bin\"},\"cwd\":\"/\"}"};
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    for (size_t i = 0; i < sizeof definitions / sizeof definitions[0]; i++) {
        begin_again(world);
        define(world, definitions[i]);
        mcp_stdio_open(world->stdio, now_ns(), &world->server);
        RUN_UNTIL(world, world->closed);
        assert_string_equal(world->why, "exited with 0");
        assert_string_equal(world->heard, "ok\n");
    }
    end(world);
}

/* ---- how it ends -------------------------------------------------------- */

static void an_exit_is_told_with_the_last_words_of_stderr(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    world->last_first = true;
    define_child(world, "words", "]");
    mcp_stdio_open(world->stdio, now_ns(), &world->server);
    await_end();
    RUN_UNTIL(world, world->closed);
    assert_int_equal(world->status, CLEAT_TRANSIENT);
    assert_string_equal(world->why, "exited with 3: last ??[31m words");
    end(world);
}

static void a_secret_on_stderr_is_not_shown(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    define_child(world, "secret", "],\"env\":{\"SECRET\":\"tr0ub4dor\"}");
    mcp_stdio_open(world->stdio, now_ns(), &world->server);
    RUN_UNTIL(world, world->closed);
    assert_string_equal(world->why, "exited with 1: login *** refused");
    end(world);
}

static void a_signal_is_told_by_its_number(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_child(world, "shot");
    RUN_UNTIL(world, world->closed);
    assert_int_equal(world->status, CLEAT_TRANSIENT);
    assert_string_equal(world->why, "killed by signal 9");
    end(world);
}

static void half_a_message_is_none(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_child(world, "half");
    RUN_UNTIL(world, world->closed);
    assert_int_equal(world->lines, 0);
    assert_string_equal(world->why, "exited with 0 in the middle of a message");
    end(world);
}

static void
a_message_that_is_too_long_ends_the_session_by_name_of_the_limit(void **state)
{
    struct world *world = begin(CLEAT_NS_PER_MS);

    (void)state;
    define_child(world, "long", ",\"65536\"]");
    mcp_stdio_open(world->stdio, now_ns(), &world->server);
    RUN_UNTIL(world, world->lines == 1); /* of just the limit */
    close_within(world, FOR_EVER_NS);
    begin_again(world);
    define_child(world, "long", ",\"1000000\"]");
    mcp_stdio_open(world->stdio, now_ns(), &world->server);
    RUN_UNTIL(world, world->closed);
    assert_int_equal(world->lines, 0);
    assert_int_equal(world->status, CLEAT_LIMIT);
    assert_string_equal(world->why, "sent a message longer than 65536 bytes "
                                    "(message_bytes_max)");
    RUN_UNTIL(world, mcp_stdio_is_closed(world->stdio));
    end(world);
}

static void
a_server_that_does_not_read_is_given_up_when_the_room_is_full(void **state)
{
    static char text[60000];
    struct world *world = begin(CLEAT_NS_PER_MS);
    uint32_t sent = 0;

    (void)state;
    memset(text, 'x', sizeof text - 1);
    open_child(world, "deaf");
    while (!world->closed) {
        send_text(world, text); /* it never blocks */
        turn(world);
        assert_true(++sent < 1000);
    }
    assert_int_equal(world->status, CLEAT_PEER_SILENT);
    assert_non_null(strstr(world->why, "does not read: "));
    RUN_UNTIL(world, mcp_stdio_is_closed(world->stdio));
    end(world);
}

static void one_that_closes_its_output_and_stays_is_ended(void **state)
{
    struct world *world = begin(CLEAT_NS_PER_MS);

    (void)state;
    open_child(world, "leaver");
    RUN_UNTIL(world, world->closed);
    assert_int_equal(world->status, CLEAT_TRANSIENT);
    assert_string_equal(world->why, "closed its output");
    RUN_UNTIL(world, mcp_stdio_is_closed(world->stdio));
    end(world);
}

static void one_that_ends_with_its_input_is_not_signalled(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_child(world, "silent");
    /* Its half of the time is for ever: only the end of its input ends it. */
    close_within(world, FOR_EVER_NS);
    assert_int_equal(world->status, CLEAT_OK);
    end(world);
}

static void one_that_ignores_its_input_gets_sigterm(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_child(world, "deaf");
    /* SIGTERM half-way; SIGKILL would come long after the watchdog. */
    mcp_stdio_close(world->stdio, now_ns(), now_ns() + FOR_EVER_NS);
    mcp_stdio_tick(world->stdio, now_ns() + FOR_EVER_NS / 2 + CLEAT_NS_PER_S);
    RUN_UNTIL(world, mcp_stdio_is_closed(world->stdio));
    assert_int_equal(world->status, CLEAT_OK);
    end(world);
}

/* Until SIGTERM would be ignored. */
static void open_stubborn(struct world *world)
{
    define_child(world, "stubborn", ",\"x\"]");
    mcp_stdio_open(world->stdio, now_ns(), &world->server);
    RUN_UNTIL(world, world->lines == 1);
}

static void one_that_ignores_sigterm_is_killed_at_the_deadline(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_stubborn(world);
    mcp_stdio_close(world->stdio, now_ns(), now_ns() + FOR_EVER_NS);
    mcp_stdio_tick(world->stdio, now_ns() + FOR_EVER_NS / 2 + CLEAT_NS_PER_S);
    assert_false(mcp_stdio_is_closed(world->stdio));
    mcp_stdio_tick(world->stdio, now_ns() + FOR_EVER_NS);
    RUN_UNTIL(world, mcp_stdio_is_closed(world->stdio));
    assert_int_equal(world->status, CLEAT_OK);
    end(world);
}

static void an_earlier_deadline_is_heeded_and_a_later_one_is_not(void **state)
{
    struct world *world = begin(FOR_EVER_NS);

    (void)state;
    open_stubborn(world);
    mcp_stdio_close(world->stdio, now_ns(), now_ns() + FOR_EVER_NS);
    mcp_stdio_close(world->stdio, now_ns(), now_ns() + CLEAT_NS_PER_MS);
    mcp_stdio_close(world->stdio, now_ns(), now_ns() + FOR_EVER_NS);
    RUN_UNTIL(world, mcp_stdio_is_closed(world->stdio));
    end(world);
}

static void what_it_started_is_killed_with_it(void **state)
{
    struct world *world = begin(FOR_EVER_NS);
    int status;

    (void)state;
    /* What a server leaves behind becomes our child, to be seen here. */
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    open_child(world, "parent");
    /* The end of the process counts: its output stays open. */
    RUN_UNTIL(world, world->closed);
    assert_string_equal(world->why, "exited with 5");
    pid_t left = (pid_t)strtol(world->heard, NULL, 10);
    assert_true(left > 0);
    assert_int_equal(waitpid(left, &status, 0), left);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0), 0);
    end(world);
}

static void a_closed_one_can_be_opened_again(void **state)
{
    struct world *world = begin(FOR_EVER_NS);
    int before = count_descriptors();

    (void)state;
    close_within(world, 0); /* one that was never open */
    for (int i = 0; i < 5; i++) {
        begin_again(world);
        open_child(world, i % 2 == 0 ? "echo" : "words");
        if (i % 2 == 0) {
            send_text(world, "again");
            RUN_UNTIL(world, world->lines == 1);
            assert_string_equal(world->heard, "again\n");
            close_within(world, FOR_EVER_NS);
        } else {
            RUN_UNTIL(world, world->closed);
        }
    }
    assert_int_equal(count_descriptors(), before);
    end(world);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_said_comes_back_line_by_line),
        cmocka_unit_test(messages_of_any_size_pass_in_both_directions),
        cmocka_unit_test(one_byte_at_a_time_is_the_same),
        cmocka_unit_test(a_server_that_floods_its_stderr_goes_on),
        cmocka_unit_test(what_a_server_said_before_its_end_is_heard_before_it),
        cmocka_unit_test(after_it_is_ended_nothing_is_heard),
        cmocka_unit_test(what_does_not_fit_at_once_is_sent_when_it_does),
        cmocka_unit_test(no_program_that_the_host_starts_gets_its_descriptors),
        cmocka_unit_test(
            it_may_be_answered_and_ended_while_it_is_told_something),
        cmocka_unit_test(
            it_is_given_arguments_environment_and_folder_and_nothing_else),
        cmocka_unit_test(
            a_config_may_replace_what_is_inherited_and_functions_are_not),
        cmocka_unit_test(
            a_command_that_does_not_fit_is_refused_by_name_of_the_limit),
        cmocka_unit_test(a_program_that_is_not_there_is_named),
        cmocka_unit_test(a_program_is_looked_for_on_the_path_that_it_will_have),
        cmocka_unit_test(an_exit_is_told_with_the_last_words_of_stderr),
        cmocka_unit_test(a_secret_on_stderr_is_not_shown),
        cmocka_unit_test(a_signal_is_told_by_its_number),
        cmocka_unit_test(half_a_message_is_none),
        cmocka_unit_test(
            a_message_that_is_too_long_ends_the_session_by_name_of_the_limit),
        cmocka_unit_test(
            a_server_that_does_not_read_is_given_up_when_the_room_is_full),
        cmocka_unit_test(one_that_closes_its_output_and_stays_is_ended),
        cmocka_unit_test(one_that_ends_with_its_input_is_not_signalled),
        cmocka_unit_test(one_that_ignores_its_input_gets_sigterm),
        cmocka_unit_test(one_that_ignores_sigterm_is_killed_at_the_deadline),
        cmocka_unit_test(an_earlier_deadline_is_heeded_and_a_later_one_is_not),
        cmocka_unit_test(what_it_started_is_killed_with_it),
        cmocka_unit_test(a_closed_one_can_be_opened_again),
    };

    if (mcp_child_is(argc, argv)) { return mcp_child_main(argc, argv); }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
