/* Cleat: what the loader tells of changes when sessions come and go, and what
 * it keeps. SPDX-License-Identifier: Apache-2.0
 *
 * As in mcp_loader_test.c the servers are this program itself, and what comes
 * is waited for however long it takes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
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

#define WATCHDOG_NS (60 * CLEAT_NS_PER_S)
#define LONG_NS (3600 * CLEAT_NS_PER_S)
#define BLOCK_BYTES ((size_t)65536)
#define ASKED_MAX 40u
#define CHANGES_MAX 64u
#define NOBODYS_KIND 1000u /* of a message that only takes room */

struct asked {
    char definition[1024];
    struct cleat_error error;
    bool done;
    enum cleat_status status;
    _Alignas(8) unsigned char block[BLOCK_BYTES];
};

struct world {
    struct cleat_mailbox mailbox;
    void *mailbox_block;
    void *block;
    struct cleat_mcp *mcp;
    struct cleat_loader loader;
    struct asked *asked; /* ASKED_MAX; their ids are one more */
    uint32_t asked_count;
    uint64_t changes[CHANGES_MAX]; /* keys */
    uint32_t changes_count;
    char folder[64];
    char starts[96]; /* gets a line whenever a server is started that is told to
                        say so */
    char fifo[96];   /* has a server change its tools */
};

static uint64_t now_ns(void)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context);
}

static uint64_t key_of(const char *definition)
{
    return mcp_definition_key(definition, strlen(definition));
}

static struct cleat_text text_of(const char *text)
{
    return (struct cleat_text){text, strlen(text)};
}

/* ---- a loader ----------------------------------------------------------- */

static struct world *begin(uint32_t sessions_max, size_t config_bytes_max,
                           uint32_t messages)
{
    struct world *world = calloc(1, sizeof *world);
    size_t mailbox_bytes = cleat_linux_mailbox_bytes(messages);
    struct cleat_mcp_config config;
    struct cleat_error error;

    assert_non_null(world);
    world->asked = calloc(ASKED_MAX, sizeof *world->asked);
    world->mailbox_block = aligned_alloc(64, (mailbox_bytes + 63) / 64 * 64);
    assert_int_equal(cleat_linux_mailbox_init(world->mailbox_block,
                                              mailbox_bytes, messages,
                                              &world->mailbox, NULL),
                     CLEAT_OK);
    memset(&config, 0, sizeof config);
    config.mailbox = world->mailbox;
    config.sessions_max = sessions_max;
    config.requests_max = 8;
    config.message_bytes_max = 65536;
    config.config_bytes_max = config_bytes_max;
    size_t bytes = cleat_mcp_bytes(&config);
    world->block = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_true(world->asked != NULL && world->block != NULL);
    if (cleat_mcp_open(world->block, bytes, &config, &world->mcp, &error) !=
        CLEAT_OK) {
        fail_msg("%s", error.text);
    }
    world->loader = cleat_mcp_loader(world->mcp);
    (void)snprintf(world->folder, sizeof world->folder,
                   "/tmp/cleat-follow-XXXXXX");
    assert_non_null(mkdtemp(world->folder));
    (void)snprintf(world->starts, sizeof world->starts, "%s/starts",
                   world->folder);
    (void)snprintf(world->fifo, sizeof world->fifo, "%s/fifo", world->folder);
    assert_int_equal(mkfifo(world->fifo, 0600), 0);
    return world;
}

static void end(struct world *world)
{
    char command[128];

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

/* ---- servers ------------------------------------------------------------ */

/* This program as a server. */
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

static const char *counted(const struct world *world, char *ways, size_t bytes)
{
    (void)snprintf(ways, bytes, ",\"touch=%s\",\"change=%s\"", world->starts,
                   world->fifo);
    return ways;
}

static void await_starts(const struct world *world, unsigned count)
{
    uint64_t until_ns = now_ns() + WATCHDOG_NS;
    unsigned seen = 0;

    while (seen < count) {
        FILE *file = fopen(world->starts, "r");
        seen = 0;
        for (int byte = 0; file != NULL && byte != EOF; byte = fgetc(file)) {
            seen += byte == '\n';
        }
        if (file != NULL) { (void)fclose(file); }
        assert_true(now_ns() < until_ns);
        (void)sched_yield();
    }
}

/* Has the server that waits at the fifo change its tools. */
static void poke(const struct world *world)
{
    int fd = open(world->fifo, O_WRONLY);

    assert_true(fd >= 0);
    (void)close(fd);
}

/* ---- requests ----------------------------------------------------------- */

static enum cleat_status start(struct world *world, enum cleat_loader_kind kind,
                               const char *definition, struct asked **asked)
{
    struct asked *one = &world->asked[world->asked_count];
    struct cleat_loader_request request;

    assert_true(world->asked_count < ASKED_MAX);
    memset(one, 0, sizeof *one);
    (void)snprintf(one->definition, sizeof one->definition, "%s", definition);
    memset(&request, 0, sizeof request);
    request.id = ++world->asked_count;
    request.key = key_of(definition);
    request.kind = kind;
    request.deadline_ns = now_ns() + LONG_NS;
    request.definition = text_of(one->definition);
    request.tool = text_of(kind == CLEAT_LOADER_CALL ? "child_one" : "");
    request.arguments = text_of("{}");
    request.schema = text_of("");
    request.block = one->block;
    request.bytes = sizeof one->block;
    request.error = &one->error;
    *asked = one;
    return world->loader.start(world->loader.context, &request);
}

static void take_one(struct world *world)
{
    struct cleat_message message;
    struct cleat_loader_done done;

    assert_int_equal(world->mailbox.wait(world->mailbox.context,
                                         now_ns() + WATCHDOG_NS, &message),
                     CLEAT_OK);
    if (message.kind == CLEAT_LOADER_CHANGED) {
        assert_true(world->changes_count < CHANGES_MAX);
        world->changes[world->changes_count++] = message.body[0];
    } else if (message.kind == CLEAT_LOADER_DONE) {
        memcpy(&done, message.body, sizeof done);
        assert_true(done.id >= 1 && done.id <= world->asked_count);
        world->asked[done.id - 1].done = true;
        world->asked[done.id - 1].status = (enum cleat_status)done.status;
    }
}

static void expect_ok(struct world *world, struct asked *asked)
{
    while (!asked->done) { take_one(world); }
    if (asked->status != CLEAT_OK) { fail_msg("%s", asked->error.text); }
}

static struct asked *begin_one(struct world *world, enum cleat_loader_kind kind,
                               const char *definition)
{
    struct asked *asked = NULL;

    if (start(world, kind, definition, &asked) != CLEAT_OK) {
        fail_msg("%s", asked->error.text);
    }
    return asked;
}

static void load(struct world *world, const char *definition)
{
    expect_ok(world, begin_one(world, CLEAT_LOADER_SOURCE, definition));
}

static void watch(struct world *world, const char *definition)
{
    assert_int_equal(world->loader.watch(world->loader.context,
                                         key_of(definition),
                                         text_of(definition), true),
                     CLEAT_OK);
}

static unsigned count_changes(const struct world *world, uint64_t key)
{
    unsigned count = 0;

    for (uint32_t i = 0; i < world->changes_count; i++) {
        count += world->changes[i] == key;
    }
    return count;
}

/* Waits until a change was told for the `count`th time. */
static void await_change(struct world *world, uint64_t key, unsigned count)
{
    while (count_changes(world, key) < count) { take_one(world); }
}

/* ---- what has changed unheard ------------------------------------------- */

static void what_is_loaded_and_then_watched_has_not_changed(void **state)
{
    struct world *world = begin(2, 4096, 64);
    SERVER(one, "", "");
    SERVER(two, "", ",\"class_name\":\"c\"");

    (void)state;
    load(world, one);
    load(world, two);
    watch(world, one);
    watch(world, two);
    for (unsigned i = 0; i < 10; i++) { load(world, one); }
    assert_int_equal(world->changes_count, 0);
    end(world);
}

static void
a_watched_session_that_gave_way_comes_back_with_what_changed(void **state)
{
    struct world *world = begin(1, 4096, 64);
    char ways[512];
    SERVER(one, counted(world, ways, sizeof ways), "");
    SERVER(other, ",\"name=y\"", "");

    (void)state;
    load(world, one);
    watch(world, one);
    load(world, one); /* it is watched by now */
    for (unsigned i = 1; i <= 2; i++) {
        assert_int_equal(world->changes_count, i - 1);
        load(world, other);
        await_starts(world, i + 1);
        await_change(world, key_of(one), i);
        load(world, one);
    }
    assert_int_equal(world->changes_count, 2);
    end(world);
}

static void a_session_lost_before_the_first_watch_is_no_exception(void **state)
{
    struct world *world = begin(1, 4096, 64);
    SERVER(one, "", "");
    SERVER(other, ",\"name=y\"", "");

    (void)state;
    load(world, one);
    load(world, other);
    /* Another session of the same server, from which nothing was loaded. */
    expect_ok(world, begin_one(world, CLEAT_LOADER_CALL, one));
    watch(world, one);
    await_change(world, key_of(one), 1);
    end(world);
}

static void a_session_that_comes_back_tells_all_that_are_watched(void **state)
{
    struct world *world = begin(1, 4096, 64);
    char ways[512];
    SERVER(one, counted(world, ways, sizeof ways), "");
    SERVER(two, ways, ",\"class_name\":\"c\"");
    SERVER(other, ",\"name=y\"", "");

    (void)state;
    load(world, one);
    load(world, two);
    watch(world, one);
    watch(world, two);
    load(world, one);
    load(world, other);
    await_starts(world, 2);
    await_change(world, key_of(one), 1);
    await_change(world, key_of(two), 1);
    poke(world);
    await_change(world, key_of(one), 2);
    await_change(world, key_of(two), 2);
    end(world);
}

static void a_config_that_changed_before_the_first_watch_is_told(void **state)
{
    static const char old[] = "{\"mcpServers\":{\"s\":{\"command\":\"c\"}}}";
    struct world *world = begin(2, 4096, 64);
    char path[96];
    SERVER(one, "", "");

    (void)state;
    (void)snprintf(path, sizeof path, "%s/servers.json", world->folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(old, file) >= 0);
    assert_int_equal(fclose(file), 0);
    expect_ok(world, begin_one(world, CLEAT_LOADER_CONFIG, path));
    assert_int_equal(unlink(path), 0);
    load(world, one); /* it may have been noticed by now, or not */
    watch(world, one);
    await_change(world, 0, 1);
    end(world);
}

/* Its session, which nobody watches, may not give way before. */
static void a_change_waits_for_room_in_the_mailbox(void **state)
{
    struct world *world = begin(1, 4096, 8);
    struct cleat_message message;
    char ways[512];
    SERVER(one, counted(world, ways, sizeof ways), "");
    SERVER(other, ",\"name=y\"", "");

    (void)state;
    load(world, one);
    memset(&message, 0, sizeof message);
    message.kind = NOBODYS_KIND;
    while (world->mailbox.post(world->mailbox.context, &message) == CLEAT_OK) {}
    poke(world);
    /* When the other one gets the session the call has been answered, and the
     * change was told before its answer. */
    struct asked *call = begin_one(world, CLEAT_LOADER_CALL, one);
    struct asked *list = begin_one(world, CLEAT_LOADER_SOURCE, other);
    (void)poll(NULL, 0, 300); /* no need: the more there is to be lost */
    expect_ok(world, call);
    expect_ok(world, list);
    await_change(world, key_of(one), 1);
    end(world);
}

/* ---- what is kept ------------------------------------------------------- */

static void what_is_kept_takes_no_room_of_requests(void **state)
{
    struct world *world = begin(16, 1024, 64);
    char pad[801];
    char path[96];

    (void)state;
    memset(pad, 'x', sizeof pad - 1);
    pad[sizeof pad - 1] = '\0';
    for (unsigned i = 0; i < 16; i++) {
        char ways[900];
        (void)snprintf(ways, sizeof ways, ",\"name=n%u\",\"%s\"", i, pad);
        SERVER(one, ways, "");
        load(world, one);
        watch(world, one);
    }
    (void)snprintf(path, sizeof path, "%s/none.yaml", world->folder);
    struct asked *config = begin_one(world, CLEAT_LOADER_CONFIG, path);
    while (!config->done) { take_one(world); }
    assert_int_equal(config->status, CLEAT_NOT_FOUND);
    end(world);
}

/* ---- fork --------------------------------------------------------------- */

static int use_in_child(struct world *world, const char *definition)
{
    struct asked *asked = NULL;

    if (start(world, CLEAT_LOADER_SOURCE, definition, &asked) != CLEAT_STATE ||
        asked->error.status != CLEAT_STATE) {
        return 1;
    }
    if (world->loader.watch(world->loader.context, key_of(definition),
                            text_of(definition), true) != CLEAT_STATE) {
        return 2;
    }
    world->loader.cancel(world->loader.context, 1);
    cleat_mcp_close(world->mcp);
    cleat_mcp_close(world->mcp);
    return 0;
}

static void in_a_forked_child_nothing_waits_and_the_parent_goes_on(void **state)
{
    struct world *world = begin(2, 4096, 64);
    int how = 0;
    SERVER(one, "", "");

    (void)state;
    load(world, one);
    pid_t child = fork();
    if (child == 0) {
        (void)alarm(60);
        _exit(use_in_child(world, one));
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
    load(world, one);
    end(world);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_loaded_and_then_watched_has_not_changed),
        cmocka_unit_test(
            a_watched_session_that_gave_way_comes_back_with_what_changed),
        cmocka_unit_test(a_session_lost_before_the_first_watch_is_no_exception),
        cmocka_unit_test(a_session_that_comes_back_tells_all_that_are_watched),
        cmocka_unit_test(a_config_that_changed_before_the_first_watch_is_told),
        cmocka_unit_test(a_change_waits_for_room_in_the_mailbox),
        cmocka_unit_test(what_is_kept_takes_no_room_of_requests),
        cmocka_unit_test(
            in_a_forked_child_nothing_waits_and_the_parent_goes_on)};

    if (mcp_child_is(argc, argv)) { return mcp_child_main(argc, argv); }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
