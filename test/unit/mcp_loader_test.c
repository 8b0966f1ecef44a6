/* Cleat: the loader, against small server processes. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The servers are this program itself (support/mcp_child.h). Nothing here
 * measures time; what a deadline brings about is waited for however long it
 * takes. After each test no process is left. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cleat/linux.h"
#include "cleat/mcp.h"
#include "port/mcp/server.h"
#include "support/mcp_child.h"
#include "support/no_malloc.h"

#define WATCHDOG_NS (60 * CLEAT_NS_PER_S)
#define LONG_NS (3600 * CLEAT_NS_PER_S)
#define SHORT_NS (30 * CLEAT_NS_PER_MS)
#define BLOCK_BYTES ((size_t)65536)
#define ASKED_MAX 64u

/* One request and what came of it. */
struct asked {
    struct cleat_loader_request request;
    struct cleat_error error;
    bool done;
    struct cleat_loader_done end;
    _Alignas(8) unsigned char block[BLOCK_BYTES];
};

struct world {
    struct cleat_mailbox mailbox;
    void *mailbox_block;
    void *block;
    struct cleat_mcp *mcp;
    struct cleat_loader loader;
    struct asked *asked; /* ASKED_MAX */
    uint32_t asked_count;
    uint32_t changes;
    uint64_t changed[16];
    char folder[64];
};

static uint64_t now_ns(void)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context);
}

static uint64_t after(uint64_t time_ns)
{
    return now_ns() + time_ns;
}

/* ---- a loader ----------------------------------------------------------- */

static struct world *begin(struct cleat_mcp_config config, uint32_t messages)
{
    struct world *world = calloc(1, sizeof *world);
    size_t mailbox_bytes = cleat_linux_mailbox_bytes(messages);

    assert_non_null(world);
    world->asked = calloc(ASKED_MAX, sizeof *world->asked);
    world->mailbox_block = aligned_alloc(64, (mailbox_bytes + 63) / 64 * 64);
    assert_int_equal(cleat_linux_mailbox_init(world->mailbox_block,
                                              mailbox_bytes, messages,
                                              &world->mailbox, NULL),
                     CLEAT_OK);
    config.mailbox = world->mailbox;
    size_t bytes = cleat_mcp_bytes(&config);
    assert_true(bytes > 0);
    world->block = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_true(world->asked != NULL && world->block != NULL);
    struct cleat_error error;
    enum cleat_status status = cleat_mcp_open(world->block, bytes, &config,
                                              &world->mcp, &error);
    if (status != CLEAT_OK) { fail_msg("%s", error.text); }
    world->loader = cleat_mcp_loader(world->mcp);
    (void)snprintf(world->folder, sizeof world->folder,
                   "/tmp/cleat-loader-XXXXXX");
    assert_non_null(mkdtemp(world->folder));
    return world;
}

/* Rooms that are small, for many tests in one process. */
static struct cleat_mcp_config small(void)
{
    struct cleat_mcp_config config;

    memset(&config, 0, sizeof config);
    config.sessions_max = 4;
    config.requests_max = 16;
    config.message_bytes_max = 65536;
    config.config_bytes_max = 16384;
    return config;
}

static void end(struct world *world)
{
    char command[128];

    cleat_mcp_close(world->mcp);
    cleat_mcp_close(world->mcp);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    cleat_linux_mailbox_close(&world->mailbox);
    (void)snprintf(command, sizeof command, "rm -rf %s", world->folder);
    assert_int_equal(system(command), 0);
    free(world->mailbox_block);
    free(world->block);
    free(world->asked);
    free(world);
}

/* ---- requests ----------------------------------------------------------- */

static struct cleat_text text_of(const char *text)
{
    return (struct cleat_text){text, strlen(text)};
}

static struct asked *prepare(struct world *world, enum cleat_loader_kind kind,
                             const char *definition, uint64_t deadline_ns)
{
    struct asked *asked = &world->asked[world->asked_count++];

    assert_true(world->asked_count <= ASKED_MAX);
    asked->request.id = world->asked_count;
    asked->request.key = mcp_definition_key(definition, strlen(definition));
    asked->request.kind = kind;
    asked->request.deadline_ns = deadline_ns;
    asked->request.definition = text_of(definition);
    asked->request.tool = text_of("");
    asked->request.arguments = text_of("{}");
    asked->request.schema = text_of("");
    asked->request.block = asked->block;
    asked->request.bytes = sizeof asked->block;
    asked->request.error = &asked->error;
    return asked;
}

static struct asked *start(struct world *world, struct asked *asked)
{
    enum cleat_status status = world->loader.start(world->loader.context,
                                                   &asked->request);

    if (status != CLEAT_OK) { fail_msg("%s", asked->error.text); }
    return asked;
}

static struct asked *ask_list(struct world *world, const char *definition,
                              uint64_t deadline_ns)
{
    return start(world,
                 prepare(world, CLEAT_LOADER_SOURCE, definition, deadline_ns));
}

static struct asked *ask_call(struct world *world, const char *definition,
                              const char *tool, uint64_t deadline_ns)
{
    struct asked *asked = prepare(world, CLEAT_LOADER_CALL, definition,
                                  deadline_ns);

    asked->request.tool = text_of(tool);
    return start(world, asked);
}

static void cancel(struct world *world, const struct asked *asked)
{
    world->loader.cancel(world->loader.context, asked->request.id);
}

static void take(struct world *world, const struct cleat_message *message)
{
    if (message->kind == CLEAT_LOADER_CHANGED) {
        world->changed[world->changes++ % 16] = message->body[0];
        return;
    }
    struct cleat_loader_done done;
    assert_int_equal(message->kind, CLEAT_LOADER_DONE);
    memcpy(&done, message->body, sizeof done);
    assert_true(done.id >= 1 && done.id <= world->asked_count);
    struct asked *asked = &world->asked[done.id - 1];
    assert_false(asked->done);
    asked->done = true;
    asked->end = done;
}

/* Takes one message; false: there is none. */
static bool take_one(struct world *world, uint64_t deadline_ns)
{
    struct cleat_message message;

    if (world->mailbox.wait(world->mailbox.context, deadline_ns, &message) !=
        CLEAT_OK) {
        return false;
    }
    take(world, &message);
    return true;
}

static void await(struct world *world, const struct asked *asked)
{
    uint64_t until_ns = after(WATCHDOG_NS);

    while (!asked->done) { assert_true(take_one(world, until_ns)); }
}

static void expect(struct world *world, const struct asked *asked,
                   enum cleat_status status)
{
    await(world, asked);
    if (asked->end.status != (int32_t)status) {
        fail_msg("%s, not %s: %s",
                 cleat_status_name((enum cleat_status)asked->end.status),
                 cleat_status_name(status), asked->error.text);
    }
    if (status != CLEAT_OK) {
        assert_int_equal(asked->error.status, status);
        assert_true(asked->error.text[0] != '\0');
    }
}

static void expect_text(const struct asked *asked, const char *part)
{
    if (strstr(asked->error.text, part) == NULL) {
        fail_msg("\"%s\" is not in: %s", part, asked->error.text);
    }
}

/* A list of tools, by name. */
static void expect_list(struct world *world, const struct asked *asked,
                        const char *names)
{
    const struct cleat_tools *tools;
    struct cleat_tool tool;
    char said[512] = "";

    expect(world, asked, CLEAT_OK);
    assert_int_equal(
        cleat_tools_check(asked->block, asked->end.bytes, &tools, NULL),
        CLEAT_OK);
    for (uint32_t i = 0; i < cleat_tools_count(tools); i++) {
        cleat_tools_at(tools, i, &tool);
        (void)snprintf(said + strlen(said), sizeof said - strlen(said), "%.*s ",
                       (int)tool.name.bytes, tool.name.text);
    }
    assert_string_equal(said, names);
}

/* ---- servers ------------------------------------------------------------ */

/* This program as a server; `ways` begin with a comma, `more` is what follows
 * the arguments. */
static const char *server(char *room, size_t bytes, const char *ways,
                          const char *more)
{
    (void)snprintf(room, bytes,
                   "{\"server\":\"s\",\"command\":\"/proc/self/exe\",\"args\":"
                   "[\"child\",\"server\"%s]%s}",
                   ways, more);
    return room;
}

#define SERVER(name, ways, more) \
    char name##_room[1024];      \
    const char *name = server(name##_room, sizeof name##_room, ways, more)

static size_t count_lines(const char *path)
{
    FILE *file = fopen(path, "r");
    size_t count = 0;

    if (file == NULL) { return 0; }
    for (int byte = fgetc(file); byte != EOF; byte = fgetc(file)) {
        count += byte == '\n';
    }
    (void)fclose(file);
    return count;
}

static void await_lines(const char *path, size_t count)
{
    uint64_t until_ns = after(WATCHDOG_NS);

    while (count_lines(path) < count) {
        if (now_ns() > until_ns) { fail_msg("%s has too few lines", path); }
        (void)sched_yield();
    }
}

/* ",touch=<folder>/<name>" */
static const char *touching(const struct world *world, const char *name,
                            char *path, char *way)
{
    (void)snprintf(path, 128, "%s/%s", world->folder, name);
    (void)snprintf(way, 256, ",\"touch=%s\"", path);
    return way;
}

/* ---- lists and calls ---------------------------------------------------- */

static void a_servers_tools_are_listed_and_called(void **state)
{
    struct world *world = begin(small(), 64);
    SERVER(plain, "", "");

    (void)state;
    expect_list(world, ask_list(world, plain, after(LONG_NS)),
                "child_one child_two ");
    struct asked *call = ask_call(world, plain, "child_one", after(LONG_NS));
    expect(world, call, CLEAT_OK);
    assert_int_equal(call->end.is_error, 0);
    assert_memory_equal(call->block, "{\"content\":[{\"type\":\"text\"", 25);
    struct asked *bad = prepare(world, CLEAT_LOADER_CALL, plain,
                                after(LONG_NS));
    bad->request.tool = text_of("child_one");
    bad->request.arguments = text_of("{\"say\":\"fail\"}");
    expect(world, start(world, bad), CLEAT_OK);
    assert_int_equal(bad->end.is_error, 1);
    end(world);
}

static void one_process_serves_all_requests_of_alike_sources(void **state)
{
    struct world *world = begin(small(), 64);
    char path[128];
    char way[256];
    SERVER(plain, touching(world, "starts", path, way), "");
    SERVER(some, way, ",\"select\":[\"child_two\"],\"select_all\":true");
    SERVER(prefixed, way, ",\"class_name\":\"a.B\",\"prefix\":true");

    (void)state;
    struct asked *first = ask_list(world, plain, after(LONG_NS));
    struct asked *second = ask_list(world, plain, after(LONG_NS));
    expect_list(world, ask_list(world, some, after(LONG_NS)), "child_two ");
    expect_list(world, ask_list(world, prefixed, after(LONG_NS)),
                "s_child_one s_child_two ");
    expect(world, ask_call(world, some, "child_two", after(LONG_NS)), CLEAT_OK);
    expect_list(world, first, "child_one child_two ");
    expect_list(world, second, "child_one child_two ");
    assert_int_equal(count_lines(path), 1);
    end(world);
}

static void a_prefix_is_made_of_what_a_functions_name_may_have(void **state)
{
    struct world *world = begin(small(), 64);

    (void)state;
    expect_list(world,
                ask_list(world,
                         "{\"server\":\"My Server.\\u00e9-1\",\"command\":"
                         "\"/proc/self/exe\",\"args\":[\"child\",\"server\"],"
                         "\"prefix\":true}",
                         after(LONG_NS)),
                "My_Server___-1_child_one My_Server___-1_child_two ");
    end(world);
}

static void native_entries_need_no_server(void **state)
{
    static const char native[] =
        "{\"native\":[{\"class_name\":\"a.B\",\"tool_schema\":{\"type\":"
        "\"function\",\"function\":{\"name\":\"n\",\"description\":\"d\","
        "\"parameters\":{\"type\":\"object\"}}}}]}";
    struct world *world = begin(small(), 64);

    (void)state;
    expect_list(world, ask_list(world, native, after(LONG_NS)), "n ");
    expect(world, ask_call(world, native, "n", after(LONG_NS)),
           CLEAT_UNSUPPORTED);
    end(world);
}

static void servers_are_asked_at_the_same_time(void **state)
{
    struct world *world = begin(small(), 64);
    SERVER(mute, ",\"name=x\",\"mute\"", "");
    SERVER(mute_list, ",\"name=y\",\"mute_list\"", "");
    SERVER(plain, "", "");

    (void)state;
    struct asked *never = ask_list(world, mute, after(LONG_NS));
    struct asked *never_too = ask_list(world, mute_list, after(LONG_NS));
    expect_list(world, ask_list(world, plain, after(LONG_NS)),
                "child_one child_two ");
    assert_false(never->done || never_too->done);
    cancel(world, never);
    cancel(world, never_too);
    cancel(world, never_too);
    world->loader.cancel(world->loader.context, 99);
    expect(world, never, CLEAT_CANCELLED);
    expect(world, never_too, CLEAT_CANCELLED);
    end(world);
}

static void a_silent_server_costs_no_more_than_the_deadline(void **state)
{
    struct world *world = begin(small(), 64);
    SERVER(mute, ",\"mute\"", "");
    SERVER(mute_list, ",\"mute_list\"", "");
    SERVER(sloth, ",\"sloth\"", "");

    (void)state;
    struct asked *one = ask_list(world, mute, after(SHORT_NS));
    struct asked *two = ask_list(world, mute_list, after(SHORT_NS));
    struct asked *three = ask_call(world, sloth, "child_one", after(SHORT_NS));
    await(world, one);
    await(world, two);
    await(world, three);
    assert_int_equal(cleat_status_class((enum cleat_status)one->end.status),
                     CLEAT_CLASS_AMBIGUOUS);
    assert_int_equal(cleat_status_class((enum cleat_status)two->end.status),
                     CLEAT_CLASS_AMBIGUOUS);
    assert_int_equal(cleat_status_class((enum cleat_status)three->end.status),
                     CLEAT_CLASS_AMBIGUOUS);
    expect_text(one, "s: ");
    end(world);
}

static void a_calls_own_time_out_is_the_configs(void **state)
{
    struct world *world = begin(small(), 64);
    SERVER(sloth, ",\"sloth\"", ",\"timeout_s\":\"0.02\"");

    (void)state;
    struct asked *call = ask_call(world, sloth, "child_one", after(LONG_NS));
    await(world, call);
    assert_int_equal(cleat_status_class((enum cleat_status)call->end.status),
                     CLEAT_CLASS_AMBIGUOUS);
    end(world);
}

static void a_deadline_that_has_passed_ends_at_once(void **state)
{
    struct world *world = begin(small(), 64);
    SERVER(plain, "", "");

    (void)state;
    struct asked *list = ask_list(world, plain, 1);
    struct asked *call = ask_call(world, plain, "child_one", 1);
    /* No server was busy, and none has got anything. */
    expect(world, list, CLEAT_DEADLINE);
    expect_text(list, "s: ");
    expect(world, call, CLEAT_DEADLINE);
    expect_text(call, "s: ");
    end(world);
}

static void
a_server_that_exits_is_told_with_its_words_and_started_again(void **state)
{
    struct world *world = begin(small(), 64);
    char path[128];
    char way[256];
    char ways[512];

    (void)state;
    (void)snprintf(ways, sizeof ways, "%s,\"quit_list\"",
                   touching(world, "starts", path, way));
    SERVER(quitter, ways, "");
    for (size_t i = 1; i <= 3; i++) {
        struct asked *list = ask_list(world, quitter, after(LONG_NS));
        expect(world, list, CLEAT_TRANSIENT);
        expect_text(list, "s: ");
        expect_text(list, "exited with 4: cannot list");
        assert_int_equal(count_lines(path), i);
    }
    end(world);
}

static void a_command_that_is_not_there_is_permanent(void **state)
{
    struct world *world = begin(small(), 64);
    struct asked *list = ask_list(
        world, "{\"server\":\"tools of mine\",\"command\":\"no-such-tool\"}",
        after(LONG_NS));

    (void)state;
    expect(world, list, CLEAT_PERMANENT);
    expect_text(list, "tools of mine: command \"no-such-tool\" was not found");
    end(world);
}

static void what_is_no_definition_is_malformed(void **state)
{
    struct world *world = begin(small(), 64);

    (void)state;
    expect(world, ask_list(world, "{\"server\":", after(LONG_NS)),
           CLEAT_MALFORMED);
    expect(world, ask_list(world, "{\"server\":\"s\"}", after(LONG_NS)),
           CLEAT_MALFORMED);
    end(world);
}

/* ---- places ------------------------------------------------------------- */

static void a_session_gives_way_to_another_server(void **state)
{
    struct cleat_mcp_config config = small();
    config.sessions_max = 1;
    struct world *world = begin(config, 64);
    SERVER(one, ",\"name=x\"", "");
    SERVER(two, ",\"name=y\"", "");

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct asked *first = ask_list(world, one, after(LONG_NS));
        struct asked *second = ask_list(world, two, after(LONG_NS));
        expect_list(world, first, "x_one x_two ");
        expect_list(world, second, "y_one y_two ");
    }
    end(world);
}

static void the_one_used_last_stays(void **state)
{
    struct cleat_mcp_config config = small();
    char paths[3][128];
    char ways[3][256];

    (void)state;
    config.sessions_max = 2;
    struct world *world = begin(config, 64);
    SERVER(one, touching(world, "one", paths[0], ways[0]), "");
    SERVER(two, touching(world, "two", paths[1], ways[1]), "");
    SERVER(three, touching(world, "three", paths[2], ways[2]), "");
    expect(world, ask_list(world, one, after(LONG_NS)), CLEAT_OK);
    expect(world, ask_list(world, two, after(LONG_NS)), CLEAT_OK);
    expect(world, ask_list(world, one, after(LONG_NS)), CLEAT_OK);
    expect(world, ask_list(world, three, after(LONG_NS)), CLEAT_OK);
    expect(world, ask_list(world, one, after(LONG_NS)), CLEAT_OK);
    assert_int_equal(count_lines(paths[0]), 1);
    expect(world, ask_list(world, two, after(LONG_NS)), CLEAT_OK);
    assert_int_equal(count_lines(paths[1]), 2);
    end(world);
}

static void where_all_are_busy_one_waits_until_its_deadline(void **state)
{
    struct cleat_mcp_config config = small();

    (void)state;
    config.sessions_max = 1;
    struct world *world = begin(config, 64);
    char path[128];
    char way[256];
    char ways[512];
    (void)snprintf(ways, sizeof ways, "%s,\"mute\"",
                   touching(world, "starts", path, way));
    SERVER(mute, ways, "");
    SERVER(plain, "", "");
    struct asked *busy = ask_list(world, mute, after(LONG_NS));
    await_lines(path, 1); /* it has the session */
    struct asked *list = ask_list(world, plain, after(SHORT_NS));
    expect(world, list, CLEAT_NO_SLOT);
    expect_text(list, "sessions_max");
    struct asked *again = ask_list(world, plain, after(LONG_NS));
    assert_false(busy->done);
    cancel(world, busy);
    expect(world, busy, CLEAT_CANCELLED);
    expect_list(world, again, "child_one child_two ");
    end(world);
}

static void too_many_requests_are_refused_at_once(void **state)
{
    struct cleat_mcp_config config = small();

    (void)state;
    config.requests_max = 2;
    struct world *world = begin(config, 64);
    SERVER(mute, ",\"mute\"", "");
    struct asked *one = ask_list(world, mute, after(LONG_NS));
    struct asked *two = ask_list(world, mute, after(LONG_NS));
    struct asked *three = prepare(world, CLEAT_LOADER_SOURCE, mute,
                                  after(LONG_NS));
    assert_int_equal(
        world->loader.start(world->loader.context, &three->request),
        CLEAT_NO_SLOT);
    assert_int_equal(three->error.status, CLEAT_NO_SLOT);
    cancel(world, one);
    expect(world, one, CLEAT_CANCELLED);
    (void)start(world, three);
    cancel(world, two);
    cancel(world, three);
    expect(world, two, CLEAT_CANCELLED);
    expect(world, three, CLEAT_CANCELLED);
    end(world);
}

static void what_is_too_long_is_refused_by_name_of_the_limit(void **state)
{
    static char text[100000];
    struct world *world = begin(small(), 64);
    SERVER(plain, "", "");

    (void)state;
    memset(text, ' ', sizeof text - 1);
    struct asked *list = prepare(world, CLEAT_LOADER_SOURCE, text,
                                 after(LONG_NS));
    assert_int_equal(world->loader.start(world->loader.context, &list->request),
                     CLEAT_LIMIT);
    expect_text(list, "config_bytes_max");
    struct asked *call = prepare(world, CLEAT_LOADER_CALL, plain,
                                 after(LONG_NS));
    call->request.tool = text_of("child_one");
    call->request.arguments = text_of(text);
    expect(world, start(world, call), CLEAT_LIMIT);
    expect_text(call, "message_bytes_max");
    end(world);
}

static void a_full_mailbox_loses_nothing(void **state)
{
    struct world *world = begin(small(), 1);
    SERVER(plain, "", "");
    struct asked *asked[8];

    (void)state;
    for (int i = 0; i < 8; i++) {
        asked[i] = ask_list(world, plain, after(LONG_NS));
    }
    for (int i = 0; i < 8; i++) {
        expect_list(world, asked[i], "child_one child_two ");
    }
    end(world);
}

/* ---- the rate limit ----------------------------------------------------- */

static void calls_beyond_the_rate_wait_and_lists_do_not(void **state)
{
    struct world *world = begin(small(), 64);
    SERVER(slow, "", ",\"rate_limit\":\"0.000001\"");
    SERVER(same, "", ",\"class_name\":\"c\",\"rate_limit\":\"0.000001\"");

    (void)state;
    expect(world, ask_call(world, slow, "child_one", after(LONG_NS)), CLEAT_OK);
    struct asked *second = ask_call(world, slow, "child_one", after(LONG_NS));
    struct asked *third = ask_call(world, same, "child_one", after(SHORT_NS));
    expect(world, ask_list(world, slow, after(LONG_NS)), CLEAT_OK);
    expect(world, third, CLEAT_DEADLINE);
    expect_text(third, "s: ");
    expect_text(third, "rate_limit");
    assert_false(second->done);
    cancel(world, second);
    expect(world, second, CLEAT_CANCELLED);
    end(world);
}

/* The how-manieth call of its server it was. */
static long number_of(const struct asked *call)
{
    const char *text = strstr((const char *)call->block, "\"text\":\"");
    char *next;

    assert_non_null(text);
    (void)strtol(text + 8, &next, 10);
    return strtol(next, NULL, 10);
}

static void calls_get_their_turns_in_the_order_in_which_they_came(void **state)
{
    struct world *world = begin(small(), 64);
    SERVER(limited, "", ",\"rate_limit\":\"50\"");
    struct asked *calls[60];

    (void)state;
    /* More than the bucket holds; sixteen at once are under way. */
    for (uint32_t i = 0; i < 60; i++) {
        calls[i] = prepare(world, CLEAT_LOADER_CALL, limited, after(LONG_NS));
        calls[i]->request.tool = text_of("child_one");
        if (i >= 16) { await(world, calls[i - 16]); }
        (void)start(world, calls[i]);
    }
    for (uint32_t i = 0; i < 60; i++) {
        expect(world, calls[i], CLEAT_OK);
        assert_int_equal(number_of(calls[i]), i + 1);
    }
    end(world);
}

/* ---- changes ------------------------------------------------------------ */

static void watch(struct world *world, const char *definition, bool on)
{
    assert_int_equal(
        world->loader.watch(world->loader.context,
                            mcp_definition_key(definition, strlen(definition)),
                            text_of(definition), on),
        CLEAT_OK);
}

static void await_changes(struct world *world, uint32_t count)
{
    uint64_t until_ns = after(WATCHDOG_NS);

    while (world->changes < count) { assert_true(take_one(world, until_ns)); }
}

/* Opens the fifo that a server waits at, which has it change its tools. */
static void poke(const char *fifo)
{
    int fd = open(fifo, O_WRONLY);

    assert_true(fd >= 0);
    (void)close(fd);
}

static void a_change_is_told_for_each_source_of_the_server(void **state)
{
    struct world *world = begin(small(), 64);
    char fifo[128];
    char way[256];

    (void)state;
    (void)snprintf(fifo, sizeof fifo, "%s/fifo", world->folder);
    (void)snprintf(way, sizeof way, ",\"change=%s\"", fifo);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    SERVER(one, way, "");
    SERVER(two, way, ",\"class_name\":\"c\"");
    expect_list(world, ask_list(world, one, after(LONG_NS)),
                "child_one child_two ");
    expect(world, ask_list(world, two, after(LONG_NS)), CLEAT_OK);
    watch(world, two, true);
    watch(world, two, true);
    expect(world, ask_list(world, two, after(LONG_NS)), CLEAT_OK);
    poke(fifo);
    await_changes(world, 2);
    uint64_t keys[2] = {mcp_definition_key(one, strlen(one)),
                        mcp_definition_key(two, strlen(two))};
    assert_true(
        (world->changed[0] == keys[0] && world->changed[1] == keys[1]) ||
        (world->changed[0] == keys[1] && world->changed[1] == keys[0]));
    expect_list(world, ask_list(world, one, after(LONG_NS)),
                "child_one child_two child_three ");
    assert_int_equal(world->changes, 2);
    watch(world, two, false);
    end(world);
}

static void
what_is_watched_is_opened_unasked_and_again_when_it_is_lost(void **state)
{
    struct world *world = begin(small(), 64);
    char path[128];
    char way[256];
    SERVER(plain, touching(world, "starts", path, way), "");

    (void)state;
    watch(world, plain, true);
    await_lines(path, 1);
    struct asked *call = ask_call(world, plain, "child_one", after(LONG_NS));
    expect(world, call, CLEAT_OK);
    const char *number = strstr((const char *)call->block, "\"text\":\"");
    assert_non_null(number);
    assert_int_equal(kill((pid_t)strtol(number + 8, NULL, 10), SIGKILL), 0);
    await_lines(path, 2);
    expect(world, ask_list(world, plain, after(LONG_NS)), CLEAT_OK);
    end(world);
}

static void write_file(const char *path, const char *text)
{
    char other[160];
    FILE *file;

    (void)snprintf(other, sizeof other, "%s.new", path);
    file = fopen(other, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(rename(other, path), 0); /* as editors do */
}

/* The same in one step for whoever looks, as orchestrators do, where it was put
 * so before: a file itself that is renamed, or that another takes the place of,
 * shows for a moment under the name with another time. */
static void put_file(const char *path, const char *text)
{
    static unsigned count;
    char file[160];
    char link[160];

    (void)snprintf(file, sizeof file, "%s.%u", path, ++count);
    (void)snprintf(link, sizeof link, "%s.link", path);
    write_file(file, text);
    assert_int_equal(symlink(file, link), 0);
    assert_int_equal(rename(link, path), 0);
}

static const char config_text[] =
    "tools:\n"
    "  - class_name: a.B\n"
    "    config: {type: native}\n"
    "    tool_schema:\n"
    "      type: function\n"
    "      function: {name: n, description: d, parameters: {type: object}}\n";

static void
configs_are_read_and_their_changes_told_while_one_watches(void **state)
{
    struct world *world = begin(small(), 64);
    char path[128];
    char other[128];
    SERVER(plain, "", "");

    (void)state;
    (void)snprintf(path, sizeof path, "%s/tools.yaml", world->folder);
    struct asked *missing = start(
        world, prepare(world, CLEAT_LOADER_CONFIG, path, after(LONG_NS)));
    expect(world, missing, CLEAT_NOT_FOUND);
    put_file(path, config_text);
    struct asked *config = start(
        world, prepare(world, CLEAT_LOADER_CONFIG, path, after(LONG_NS)));
    expect(world, config, CLEAT_OK);
    const struct cleat_tool_sources *sources = (void *)config->block;
    assert_int_equal(sources->count, 1);
    assert_int_equal(sources->bytes, config->end.bytes);
    assert_int_equal(sources->sources[0].kind, CLEAT_TOOLS_NATIVE);

    /* What has changed since the first reading is told to who is late. */
    expect(world, ask_list(world, plain, after(LONG_NS)), CLEAT_OK);
    watch(world, plain, true);
    await_changes(world, 1);
    assert_int_equal(world->changed[0], 0);
    expect(world, ask_list(world, plain, after(LONG_NS)), CLEAT_OK);
    put_file(path, "tools: []\n");
    await_changes(world, 2);
    assert_int_equal(world->changed[1], 0);
    config = start(world,
                   prepare(world, CLEAT_LOADER_CONFIG, path, after(LONG_NS)));
    expect(world, config, CLEAT_OK);
    sources = (void *)config->block;
    assert_int_equal(sources->count, 0);
    assert_int_equal(unlink(path), 0);
    await_changes(world, 3);
    assert_int_equal(world->changed[2], 0);

    /* What else happens in its folder is of no interest. */
    (void)snprintf(other, sizeof other, "%s/other", world->folder);
    write_file(other, "x");
    expect(world, ask_list(world, plain, after(LONG_NS)), CLEAT_OK);
    put_file(path, config_text);
    await_changes(world, 4);
    expect(world, ask_list(world, plain, after(LONG_NS)), CLEAT_OK);
    assert_int_equal(world->changes, 4);
    end(world);
}

/* The servers of two configs; to read one of them again is not to hide from the
 * other that they have changed. */
static void
a_change_of_a_file_of_two_configs_is_told_whichever_is_read(void **state)
{
    static const char yaml[] =
        "tools:\n"
        "  - class_name: a.B\n"
        "    config: {type: mcp}\n"
        "    mcp: {mcp_servers_config_path: servers.json}\n";
    struct world *world = begin(small(), 64);
    char servers[128];
    char text[128];
    char paths[2][128];
    SERVER(plain, "", "");

    (void)state;
    (void)snprintf(servers, sizeof servers, "%s/servers.json", world->folder);
    put_file(servers, "{\"s\":{\"command\":\"c\"}}");
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(paths[i], sizeof paths[i], "%s/%u.yaml", world->folder,
                       (unsigned)i);
        write_file(paths[i], yaml);
        expect(world,
               start(world, prepare(world, CLEAT_LOADER_CONFIG, paths[i],
                                    after(LONG_NS))),
               CLEAT_OK);
    }
    expect(world, ask_list(world, plain, after(LONG_NS)), CLEAT_OK);
    watch(world, plain, true);
    for (uint32_t i = 1; i <= 40; i++) {
        (void)snprintf(text, sizeof text, "{\"s\":{\"command\":\"c%u\"}}",
                       (unsigned)i);
        put_file(servers, text);
        expect(world,
               start(world, prepare(world, CLEAT_LOADER_CONFIG, paths[0],
                                    after(LONG_NS))),
               CLEAT_OK);
        await_changes(world, i);
        assert_int_equal(world->changes, i);
    }
    write_file(servers, "{}");
    await_changes(world, 41);
    end(world);
}

static void each_config_ends_once_also_late_or_taken_back(void **state)
{
    struct world *world = begin(small(), 64);
    struct asked *asked[12];
    char path[128];

    (void)state;
    (void)snprintf(path, sizeof path, "%s/tools.yaml", world->folder);
    write_file(path, config_text);
    struct asked *late = start(world,
                               prepare(world, CLEAT_LOADER_CONFIG, path, 1));
    for (int i = 0; i < 12; i++) {
        asked[i] = start(
            world, prepare(world, CLEAT_LOADER_CONFIG, path, after(LONG_NS)));
        if (i % 2 == 0) { cancel(world, asked[i]); }
    }
    for (int i = 0; i < 12; i++) {
        await(world, asked[i]);
        /* It may have been read before it was taken back. */
        assert_true(asked[i]->end.status == CLEAT_OK ||
                    (i % 2 == 0 && asked[i]->end.status == CLEAT_CANCELLED));
    }
    expect(world, late, CLEAT_DEADLINE);
    end(world);
}

/* ---- the end ------------------------------------------------------------ */

static void close_ends_all_requests_and_processes(void **state)
{
    struct cleat_mcp_config config = small();
    char path[128];

    (void)state;
    config.grace_ns = 20 * CLEAT_NS_PER_MS;
    struct world *world = begin(config, 64);
    SERVER(mute, ",\"name=x\",\"mute\"", "");
    SERVER(mute_list, ",\"name=y\",\"mute_list\"", "");
    SERVER(sloth, ",\"sloth\"", ",\"rate_limit\":\"0.000001\"");
    static const char stubborn[] =
        "{\"server\":\"s\",\"command\":\"/proc/self/exe\",\"args\":[\"child\","
        "\"stubborn\"]}";
    static const char deaf[] =
        "{\"server\":\"s\",\"command\":\"/proc/self/exe\",\"args\":[\"child\","
        "\"deaf\"]}";
    SERVER(fifth, ",\"name=z\"", "");
    struct asked *asked[8];
    (void)snprintf(path, sizeof path, "%s/none.yaml", world->folder);
    asked[0] = ask_list(world, mute, after(LONG_NS));
    asked[1] = ask_list(world, mute_list, after(LONG_NS));
    asked[2] = ask_call(world, sloth, "child_one", after(LONG_NS));
    asked[3] = ask_call(world, sloth, "child_one", after(LONG_NS));
    asked[4] = ask_list(world, stubborn, after(LONG_NS));
    asked[5] = ask_list(world, deaf, after(LONG_NS)); /* waits for a place */
    asked[6] = ask_list(world, fifth, after(LONG_NS));
    cleat_mcp_close(world->mcp);
    for (int i = 0; i < 7; i++) { expect(world, asked[i], CLEAT_CANCELLED); }
    asked[7] = prepare(world, CLEAT_LOADER_SOURCE, mute, after(LONG_NS));
    assert_int_equal(
        world->loader.start(world->loader.context, &asked[7]->request),
        CLEAT_CANCELLED);
    cancel(world, asked[0]);
    end(world);
}

static void open_refuses_what_is_wrong_and_leaves_nothing(void **state)
{
    struct cleat_mcp_config config = small();
    struct cleat_error error;
    struct cleat_mcp *mcp = (void *)&config;
    _Alignas(64) static unsigned char block[64];

    (void)state;
    assert_int_equal(cleat_mcp_open(block, sizeof block, &config, &mcp, &error),
                     CLEAT_INVALID); /* no mailbox */
    assert_null(mcp);
    struct world *world = begin(config, 4);
    config.mailbox = world->mailbox;
    assert_int_equal(cleat_mcp_open(block, sizeof block, &config, &mcp, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, cleat_mcp_bytes(&config));
    assert_int_equal(cleat_mcp_open(block + 8, 8, &config, &mcp, &error),
                     CLEAT_INVALID);
    config.sessions_max = 65;
    assert_int_equal(cleat_mcp_bytes(&config), 0);
    assert_int_equal(cleat_mcp_open(block, sizeof block, &config, &mcp, &error),
                     CLEAT_INVALID);
    config = small();
    config.era = 3;
    assert_int_equal(cleat_mcp_bytes(&config), 0);
    assert_int_equal(cleat_mcp_bytes(NULL), 0);
    end(world);
}

/* ---- many threads ------------------------------------------------------- */

#define THREADS 8u
#define ROUNDS 12u

struct agent {
    struct world *world;
    uint32_t number;
    const char *definition;
    struct asked asked[ROUNDS];
    pthread_t thread;
};

/* Starts requests, and takes every third back, as fast as it can. */
static void *agent_main(void *argument)
{
    struct agent *agent = argument;
    const struct cleat_loader *loader = &agent->world->loader;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct asked *asked = &agent->asked[i];
        asked->request.id = agent->number * ROUNDS + i + 1;
        asked->request.key = 1;
        asked->request.kind = CLEAT_LOADER_SOURCE;
        asked->request.deadline_ns = CLEAT_NEVER;
        asked->request.definition = text_of(agent->definition);
        asked->request.block = asked->block;
        asked->request.bytes = sizeof asked->block;
        asked->request.error = &asked->error;
        while (loader->start(loader->context, &asked->request) != CLEAT_OK) {}
        if (i % 3 == 0) { loader->cancel(loader->context, asked->request.id); }
    }
    return NULL;
}

static void any_thread_may_start_and_cancel(void **state)
{
    struct world *world = begin(small(), 256);
    struct agent *agents = calloc(THREADS, sizeof *agents);
    SERVER(one, ",\"name=x\"", "");
    SERVER(two, ",\"name=y\"", "");

    (void)state;
    assert_non_null(agents);
    for (uint32_t i = 0; i < THREADS; i++) {
        agents[i].world = world;
        agents[i].number = i;
        agents[i].definition = i % 2 == 0 ? one : two;
        assert_int_equal(
            pthread_create(&agents[i].thread, NULL, agent_main, &agents[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS * ROUNDS; i++) {
        struct cleat_message message;
        struct cleat_loader_done done;
        assert_int_equal(world->mailbox.wait(world->mailbox.context,
                                             after(WATCHDOG_NS), &message),
                         CLEAT_OK);
        memcpy(&done, message.body, sizeof done);
        struct asked *asked =
            &agents[(done.id - 1) / ROUNDS].asked[(done.id - 1) % ROUNDS];
        assert_false(asked->done);
        asked->done = true;
        assert_true(done.status == CLEAT_OK || done.status == CLEAT_CANCELLED);
        if (done.status == CLEAT_CANCELLED) {
            assert_int_equal((done.id - 1) % ROUNDS % 3, 0);
        }
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        (void)pthread_join(agents[i].thread, NULL);
    }
    free(agents);
    end(world);
}

/* ---- memory ------------------------------------------------------------- */

static void json_configs_and_servers_of_stdio_allocate_nothing(void **state)
{
    struct world *world = begin(small(), 64);
    char path[128];
    SERVER(plain, "", ",\"env\":{\"A\":\"b\"},\"cwd\":\"/\"");

    (void)state;
    (void)snprintf(path, sizeof path, "%s/servers.json", world->folder);
    write_file(path, "{\"mcpServers\":{\"s\":{\"command\":\"c\"}}}");
    cleat_test_forbid_malloc(true);
    struct asked *config = start(
        world, prepare(world, CLEAT_LOADER_CONFIG, path, after(LONG_NS)));
    while (!config->done) { (void)take_one(world, after(WATCHDOG_NS)); }
    struct asked *list = ask_list(world, plain, after(LONG_NS));
    while (!list->done) { (void)take_one(world, after(WATCHDOG_NS)); }
    struct asked *call = ask_call(world, plain, "child_one", after(LONG_NS));
    while (!call->done) { (void)take_one(world, after(WATCHDOG_NS)); }
    cleat_test_forbid_malloc(false); /* libcurl ends with close */
    expect(world, config, CLEAT_OK);
    expect_list(world, list, "child_one child_two ");
    expect(world, call, CLEAT_OK);
    end(world);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_servers_tools_are_listed_and_called),
        cmocka_unit_test(one_process_serves_all_requests_of_alike_sources),
        cmocka_unit_test(a_prefix_is_made_of_what_a_functions_name_may_have),
        cmocka_unit_test(native_entries_need_no_server),
        cmocka_unit_test(servers_are_asked_at_the_same_time),
        cmocka_unit_test(a_silent_server_costs_no_more_than_the_deadline),
        cmocka_unit_test(a_calls_own_time_out_is_the_configs),
        cmocka_unit_test(a_deadline_that_has_passed_ends_at_once),
        cmocka_unit_test(
            a_server_that_exits_is_told_with_its_words_and_started_again),
        cmocka_unit_test(a_command_that_is_not_there_is_permanent),
        cmocka_unit_test(what_is_no_definition_is_malformed),
        cmocka_unit_test(a_session_gives_way_to_another_server),
        cmocka_unit_test(the_one_used_last_stays),
        cmocka_unit_test(where_all_are_busy_one_waits_until_its_deadline),
        cmocka_unit_test(too_many_requests_are_refused_at_once),
        cmocka_unit_test(what_is_too_long_is_refused_by_name_of_the_limit),
        cmocka_unit_test(a_full_mailbox_loses_nothing),
        cmocka_unit_test(calls_beyond_the_rate_wait_and_lists_do_not),
        cmocka_unit_test(calls_get_their_turns_in_the_order_in_which_they_came),
        cmocka_unit_test(a_change_is_told_for_each_source_of_the_server),
        cmocka_unit_test(
            what_is_watched_is_opened_unasked_and_again_when_it_is_lost),
        cmocka_unit_test(
            configs_are_read_and_their_changes_told_while_one_watches),
        cmocka_unit_test(
            a_change_of_a_file_of_two_configs_is_told_whichever_is_read),
        cmocka_unit_test(each_config_ends_once_also_late_or_taken_back),
        cmocka_unit_test(close_ends_all_requests_and_processes),
        cmocka_unit_test(open_refuses_what_is_wrong_and_leaves_nothing),
        cmocka_unit_test(any_thread_may_start_and_cancel),
        cmocka_unit_test(json_configs_and_servers_of_stdio_allocate_nothing),
    };

    if (mcp_child_is(argc, argv)) { return mcp_child_main(argc, argv); }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
