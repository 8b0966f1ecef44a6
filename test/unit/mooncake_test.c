/* Cleat: Mooncake Store as a store, against a library that behaves like it.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cleat/arena.h"
#include "cleat/mooncake.h"
#include "no_malloc.h"
#include "port/mooncake/abi.h"
#include "test/fakes/mooncake/control.h"

#define FRAME ((size_t)CLEAT_FRAME_BYTES)
#define STAGING ((uint64_t)64 * 1024)

static struct fake_mooncake *fake;
static char path[64];
static struct cleat_store store;
static struct cleat_mooncake_config config;
static unsigned char *block;
static struct cleat_error error;

/* ---- a cluster and a store ----------------------------------------------- */

static void open_store(void)
{
    size_t bytes = cleat_mooncake_bytes(&config);

    assert_int_not_equal(bytes, 0);
    block = aligned_alloc(CLEAT_ALIGN, CLEAT_ALIGN_UP(bytes));
    assert_non_null(block);
    memset(block, 0xEE, bytes);
    if (cleat_mooncake_open(block, bytes, &config, &store, &error) !=
        CLEAT_OK) {
        fail_msg("%s", error.text);
    }
}

static void become_ready(void)
{
    if (store.ready(store.context, CLEAT_NEVER, &error) != CLEAT_OK) {
        fail_msg("%s", error.text);
    }
}

/* The same, and what it took is not counted. */
static void make_ready(void)
{
    become_ready();
    fake_mooncake_forget(fake);
}

static void close_store(void)
{
    assert_int_equal(cleat_mooncake_close(&store, &error), CLEAT_OK);
    free(block);
    block = NULL;
}

static int setup_with(uint64_t segment_bytes)
{
    struct fake_mooncake_config cluster;

    memset(&cluster, 0, sizeof cluster);
    cluster.segment_bytes = segment_bytes;
    cluster.arena_bytes = (uint64_t)32 << 20;
    /* What is not registered ends the test. */
    (void)setenv("FAKE_MOONCAKE_STRICT_REGISTRATION", "1", 1);
    (void)snprintf(path, sizeof path, "/dev/shm/cleat-mooncake-test-%ld",
                   (long)getpid());
    fake = fake_mooncake_start(path, &cluster);
    memset(&config, 0, sizeof config);
    config.lib_path = FAKE_MOONCAKE_LIBRARY;
    config.master = path;
    config.staging_bytes = STAGING;
    return 0;
}

/* Not opened, so that a test can choose. */
static int setup_cluster(void **state)
{
    (void)state;
    return setup_with((uint64_t)16 << 20);
}

static int setup_empty(void **state)
{
    (void)state;
    return setup_with(0);
}

static int setup_ready(void **state)
{
    (void)setup_cluster(state);
    open_store();
    make_ready();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fake_mooncake_release(fake);
    if (block != NULL) { close_store(); }
    fake_mooncake_end(fake, true);
    return 0;
}

/* Other defaults than those of setup_ready. */
static void reopen(void)
{
    open_store();
    make_ready();
}

static uint32_t rule(uint32_t operation, uint32_t action, const char *key,
                     uint32_t times, int32_t code, uint32_t argument)
{
    struct fake_mooncake_rule one;

    memset(&one, 0, sizeof one);
    one.operation = operation;
    one.action = action;
    one.key = key;
    one.times = times;
    one.code = code;
    one.argument = argument;
    return fake_mooncake_rule(fake, &one);
}

static struct fake_mooncake_facts facts(void)
{
    struct fake_mooncake_facts now;

    fake_mooncake_facts(fake, &now);
    return now;
}

static uint64_t calls_of(uint32_t operation)
{
    return fake_mooncake_counts(fake, operation).calls;
}

static uint64_t all_calls(void)
{
    uint64_t calls = 0;

    for (uint32_t i = 0; i < FAKE_OPERATIONS; i++) { calls += calls_of(i); }
    return calls;
}

/* ---- items --------------------------------------------------------------- */

static struct cleat_store_item item_of(const char *key, void *payload,
                                       uint64_t bytes)
{
    struct cleat_store_item item;

    memset(&item, 0, sizeof item);
    item.key = key;
    item.key_bytes = (uint32_t)strlen(key);
    item.payload = payload;
    item.bytes = bytes;
    item.status = CLEAT_PENDING;
    item.code = 12345;
    item.actual = 12345;
    return item;
}

static void do_items(uint32_t operation, struct cleat_store_item *items,
                     uint32_t count)
{
    struct cleat_store_call call = {operation, count, items, CLEAT_NEVER};

    assert_int_equal(store.call(store.context, &call), CLEAT_OK);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(items[i].status <= CLEAT_OK); /* each has its status */
    }
}

static enum cleat_status do_item(uint32_t operation,
                                 struct cleat_store_item *item)
{
    do_items(operation, item, 1);
    return (enum cleat_status)item->status;
}

static enum cleat_status put(const char *key, const void *payload,
                             uint64_t bytes)
{
    struct cleat_store_item item = item_of(key, (void *)(uintptr_t)payload,
                                           bytes);

    return do_item(CLEAT_TRANSFER_DO_PUT, &item);
}

static enum cleat_status get(const char *key, void *payload, uint64_t bytes)
{
    struct cleat_store_item item = item_of(key, payload, bytes);

    return do_item(CLEAT_TRANSFER_DO_GET, &item);
}

static enum cleat_status ask(uint32_t operation, const char *key)
{
    struct cleat_store_item item = item_of(key, NULL, 0);

    return do_item(operation, &item);
}

static void fill(unsigned char *bytes, size_t count, unsigned seed)
{
    for (size_t i = 0; i < count; i++) {
        bytes[i] = (unsigned char)(i * 31 + seed + (i >> 8));
    }
}

static bool is_zero(const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != 0) { return false; }
    }
    return true;
}

/* A value with room for its frame before it. */
struct roomy {
    _Alignas(64) unsigned char room[CLEAT_FRAME_BYTES];
    unsigned char payload[1024];
};

static void lend(void *start, size_t bytes, bool on)
{
    if (store.lend(store.context, start, bytes, on, &error) != CLEAT_OK) {
        fail_msg("%s", error.text);
    }
}

static struct cleat_mooncake_view view(void)
{
    struct cleat_mooncake_view now;

    cleat_mooncake_look(&store, &now);
    return now;
}

/* The first thing that was seen of an operation. */
static struct fake_mooncake_seen seen_of(uint32_t operation)
{
    struct fake_mooncake_seen seen;

    memset(&seen, 0, sizeof seen);
    for (uint64_t i = 0; fake_mooncake_seen(fake, i, &seen); i++) {
        if (seen.operation == operation) { return seen; }
    }
    fail_msg("the library was not called for %u", (unsigned)operation);
    return seen;
}

/* ---- opening ------------------------------------------------------------- */

static enum cleat_status try_open(void)
{
    size_t bytes = cleat_mooncake_bytes(&config);
    void *memory = aligned_alloc(CLEAT_ALIGN, CLEAT_ALIGN_UP(bytes));
    enum cleat_status status;

    assert_non_null(memory);
    status = cleat_mooncake_open(memory, bytes, &config, &store, &error);
    assert_int_not_equal(status, CLEAT_OK);
    assert_int_equal(error.status, status);
    assert_null(store.context);
    assert_int_equal(cleat_mooncake_close(&store, NULL), CLEAT_OK);
    free(memory);
    return status;
}

static void a_library_that_is_not_there_is_not_found_and_named(void **state)
{
    (void)state;
    config.lib_path = "/nowhere/libmooncake_store.so";
    assert_int_equal(try_open(), CLEAT_NOT_FOUND);
    assert_non_null(strstr(error.text, "/nowhere/libmooncake_store.so"));
    config.lib_path = "libmooncake_store_that_nobody_has.so";
    assert_int_equal(try_open(), CLEAT_NOT_FOUND);
    assert_non_null(strstr(error.text, "libmooncake_store_that_nobody_has.so"));
}

static void a_file_that_is_no_library_is_unsupported_and_named(void **state)
{
    (void)state;
    config.lib_path = CLEAT_TEST_SOURCE_DIR "/README.md";
    assert_int_equal(try_open(), CLEAT_UNSUPPORTED);
    assert_non_null(strstr(error.text, "README.md"));
}

static void r17_each_missing_symbol_is_named_with_the_path(void **state)
{
    static const char *const names[] = {
#define NAME(result, name, parameters) #name,
        CLEAT_MOONCAKE_NEEDED(NAME)
#undef NAME
    };
    char library[512];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char symbol[64];

        (void)snprintf(library, sizeof library, "%s/without_%s.so",
                       CLEAT_TEST_MOONCAKE_LACKING, names[i]);
        (void)snprintf(symbol, sizeof symbol, "has no mooncake_store_%s",
                       names[i]);
        config.lib_path = library;
        assert_int_equal(try_open(), CLEAT_UNSUPPORTED);
        assert_non_null(strstr(error.text, symbol));
        assert_non_null(strstr(error.text, "mooncake: the library /"));
    }
}

static void a_block_or_a_configuration_that_is_wrong_is_refused(void **state)
{
    _Alignas(64) static unsigned char small[256];
    static char long_name[600];
    size_t bytes = cleat_mooncake_bytes(&config);

    (void)state;
    assert_int_equal(cleat_mooncake_open(NULL, bytes, &config, &store, &error),
                     CLEAT_INVALID);
    assert_int_equal(error.index, 0);
    assert_int_equal(
        cleat_mooncake_open(small + 1, bytes, &config, &store, &error),
        CLEAT_INVALID);
    assert_int_equal(
        cleat_mooncake_open(small, sizeof small, &config, &store, &error),
        CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
    assert_int_equal(
        cleat_mooncake_open(small, sizeof small, &config, NULL, &error),
        CLEAT_INVALID);
    assert_int_equal(error.index, 3);
    memset(long_name, 'x', sizeof long_name - 1);
    config.local_hostname = long_name;
    assert_int_equal(try_open(), CLEAT_INVALID);
    config.local_hostname = NULL;
    config.newer = 4;
    assert_int_equal(try_open(), CLEAT_INVALID);
    config.newer = 0;
    config.calls_max = CLEAT_MOONCAKE_CALLS_MAX + 1;
    assert_int_equal(cleat_mooncake_bytes(&config), 0);
    config.calls_max = 0;
    config.keys_max = CLEAT_MOONCAKE_KEYS_MAX + 1;
    assert_int_equal(cleat_mooncake_bytes(&config), 0);
    config.keys_max = 0;
    config.registrations_max = CLEAT_MOONCAKE_REGISTRATIONS_MAX + 1;
    assert_int_equal(cleat_mooncake_bytes(&config), 0);
    config.registrations_max = 0;
    assert_int_not_equal(cleat_mooncake_bytes(NULL), 0);
}

/* What the environment says already is the user's own word. In children, as the
 * library reads it when it is loaded first. */
static void in_a_child(void (*body)(void))
{
    int status = 0;
    pid_t child = fork();

    assert_int_not_equal(child, -1);
    if (child == 0) {
        body();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define DEMAND(condition)                                                    \
    do {                                                                     \
        if (!(condition)) {                                                  \
            (void)fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, \
                          error.text);                                       \
            _exit(1);                                                        \
        }                                                                    \
    } while (0)

static void demand_open(void)
{
    size_t bytes = cleat_mooncake_bytes(&config);

    block = aligned_alloc(CLEAT_ALIGN, CLEAT_ALIGN_UP(bytes));
    DEMAND(block != NULL);
    DEMAND(cleat_mooncake_open(block, bytes, &config, &store, &error) ==
           CLEAT_OK);
    DEMAND(store.ready(store.context, CLEAT_NEVER, &error) == CLEAT_OK);
}

static bool environment_is(const char *name, const char *value)
{
    const char *now = getenv(name);

    return value == NULL ? now == NULL : now != NULL && strcmp(now, value) == 0;
}

static void open_with_nothing_set(void)
{
    (void)unsetenv("MC_RPC_TIMEOUT_MS");
    (void)unsetenv("MC_RPC_CONNECT_TIMEOUT_MS");
    (void)unsetenv("MC_TCP_STATUS_TIMEOUT_SEC");
    demand_open();
    DEMAND(environment_is("MC_RPC_TIMEOUT_MS", "10000"));
    DEMAND(environment_is("MC_RPC_CONNECT_TIMEOUT_MS", "5000"));
    DEMAND(environment_is("MC_TCP_STATUS_TIMEOUT_SEC", NULL));
    DEMAND(facts().rpc_timeout_ms == 10000);
    DEMAND(facts().rpc_connect_timeout_ms == 5000);
}

static void open_with_a_choice(void)
{
    (void)unsetenv("MC_RPC_TIMEOUT_MS");
    (void)unsetenv("MC_TCP_STATUS_TIMEOUT_SEC");
    (void)unsetenv("MC_RPC_CONNECT_TIMEOUT_MS");
    config.rpc_timeout_ms = 1234;
    config.rpc_connect_timeout_ms = CLEAT_MOONCAKE_UNTOUCHED;
    config.tcp_status_timeout_s = 3;
    demand_open();
    DEMAND(facts().rpc_timeout_ms == 1234);
    DEMAND(facts().rpc_connect_timeout_ms == -1);
    DEMAND(environment_is("MC_TCP_STATUS_TIMEOUT_SEC", "3"));
}

static void open_with_all_set(void)
{
    (void)setenv("MC_RPC_TIMEOUT_MS", "77", 1);
    (void)setenv("MC_RPC_CONNECT_TIMEOUT_MS", "88", 1);
    (void)setenv("MC_TCP_STATUS_TIMEOUT_SEC", "99", 1);
    config.rpc_timeout_ms = 1234;
    config.rpc_connect_timeout_ms = 1234;
    config.tcp_status_timeout_s = 1234;
    demand_open();
    DEMAND(facts().rpc_timeout_ms == 77);
    DEMAND(facts().rpc_connect_timeout_ms == 88);
    DEMAND(environment_is("MC_TCP_STATUS_TIMEOUT_SEC", "99"));
}

static void
r16_time_outs_are_set_before_the_load_where_they_are_not(void **state)
{
    (void)state;
    in_a_child(open_with_nothing_set);
    in_a_child(open_with_a_choice);
    in_a_child(open_with_all_set);
}

/* ---- the gate ------------------------------------------------------------ */

static void r14b_nothing_is_called_before_the_set_up_has_worked(void **state)
{
    unsigned char bytes[16] = {0};

    (void)state;
    open_store();
    for (uint32_t operation = 0; operation < CLEAT_TRANSFER_OPERATIONS;
         operation++) {
        struct cleat_store_item item = item_of("k", bytes, sizeof bytes);

        assert_int_equal(do_item(operation, &item), CLEAT_STATE);
    }
    assert_int_equal(
        store.lend(store.context, bytes, sizeof bytes, true, &error),
        CLEAT_STATE);
    rule(FAKE_SETUP, FAKE_ANSWER, NULL, 1, -600, 0);
    assert_int_equal(store.ready(store.context, CLEAT_NEVER, &error),
                     CLEAT_TRANSIENT);
    assert_int_equal(error.port_code, -600);
    assert_non_null(strstr(error.text, "INVALID_PARAMS"));
    assert_int_equal(get("k", bytes, sizeof bytes), CLEAT_STATE);
    assert_int_equal(all_calls(), 1); /* the set-up */
    assert_int_equal(view().set_up, 0);
}

static void r14_nothing_is_called_after_the_close(void **state)
{
    unsigned char bytes[16] = {0};
    struct cleat_store before;
    uint64_t calls;
    struct cleat_store_item item = item_of("k", bytes, sizeof bytes);
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_GET, 1, &item,
                                    CLEAT_NEVER};

    (void)state;
    before = store;
    lend(bytes, sizeof bytes, true);
    assert_int_equal(facts().registered, 2);
    assert_int_equal(cleat_mooncake_close(&store, &error), CLEAT_OK);
    assert_int_equal(facts().handles, 0);
    assert_int_equal(calls_of(FAKE_UNREGISTER), 2); /* the staging memory too */
    calls = all_calls();
    assert_int_equal(before.call(before.context, &call), CLEAT_OK);
    assert_int_equal(item.status, CLEAT_STATE);
    assert_int_equal(before.lend(before.context, bytes, 16, true, &error),
                     CLEAT_STATE);
    assert_int_equal(before.ready(before.context, CLEAT_NEVER, &error),
                     CLEAT_STATE);
    assert_int_equal(all_calls(), calls);
    assert_int_equal(cleat_mooncake_close(&store, &error), CLEAT_OK);
    free(block);
    block = NULL;
}

static void call_in_a_child(void)
{
    unsigned char bytes[16] = {0};
    struct cleat_store_item item = item_of("k", bytes, sizeof bytes);
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_GET, 1, &item,
                                    CLEAT_NEVER};
    uint64_t calls = all_calls();

    DEMAND(store.call(store.context, &call) == CLEAT_OK);
    DEMAND(item.status == CLEAT_STATE);
    DEMAND(store.ready(store.context, CLEAT_NEVER, &error) == CLEAT_STATE);
    DEMAND(cleat_mooncake_close(&store, &error) == CLEAT_OK);
    DEMAND(all_calls() == calls);
    DEMAND(facts().handles == 1);
}

static void a_child_of_a_fork_calls_nothing(void **state)
{
    (void)state;
    in_a_child(call_in_a_child);
    assert_int_equal(put("still", "here", 4), CLEAT_OK);
}

static void *get_held(void *bytes)
{
    return (void *)(intptr_t)get("held", bytes, 16);
}

static void wait_until_held(uint64_t count)
{
    while (facts().held != count) { (void)sched_yield(); }
}

static void r14_a_close_does_not_destroy_under_a_call(void **state)
{
    unsigned char bytes[16];
    pthread_t thread;
    void *status = NULL;

    (void)state;
    assert_int_equal(put("held", "0123456789abcdef", 16), CLEAT_OK);
    rule(FAKE_GET, FAKE_CALL_HELD, "held", 1, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, get_held, bytes), 0);
    wait_until_held(1);
    assert_int_equal(cleat_mooncake_close(&store, &error), CLEAT_STATE);
    assert_int_equal(error.index, 1);
    assert_int_equal(facts().handles, 1);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_EXISTS, "held"), CLEAT_STATE);
    fake_mooncake_release(fake);
    assert_int_equal(pthread_join(thread, &status), 0);
    assert_int_equal((intptr_t)status, CLEAT_OK);
    close_store();
    assert_int_equal(facts().handles, 0);
    assert_int_equal(facts().registered, 0);
}

/* ---- ready --------------------------------------------------------------- */

static void
r15_a_set_up_that_failed_is_made_again_with_the_same_client(void **state)
{
    uint32_t failing;

    (void)state;
    open_store();
    failing = rule(FAKE_SETUP, FAKE_ANSWER, NULL, 3, -900, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(store.ready(store.context, CLEAT_NEVER, &error),
                         CLEAT_TRANSIENT);
        assert_int_equal(error.port_code, -900);
    }
    become_ready();
    assert_int_equal(fake_mooncake_fired(fake, failing), 3);
    assert_int_equal(calls_of(FAKE_SETUP), 4);
    become_ready();
    assert_int_equal(calls_of(FAKE_SETUP), 4); /* once it has worked */
    assert_int_equal(calls_of(FAKE_REGISTER), 1);
    assert_int_equal(facts().handles, 1);
}

static void
r15_a_cluster_without_memory_is_not_ready_until_it_has_some(void **state)
{
    (void)state;
    open_store();
    assert_int_equal(store.ready(store.context, CLEAT_NEVER, &error),
                     CLEAT_CAPACITY);
    assert_int_equal(error.port_code, -200);
    assert_non_null(strstr(error.text, "NO_AVAILABLE_HANDLE"));
    fake_mooncake_happen(fake, 0, FAKE_SEGMENT_JOIN, (uint64_t)1 << 20);
    make_ready();
    assert_int_equal(facts().objects, 0);
}

static void r15_every_try_has_a_key_of_its_own_and_removes_it(void **state)
{
    char keys[6][FAKE_KEY_SHOWN];
    uint32_t count = 0;
    struct fake_mooncake_seen seen;

    (void)state;
    fake_mooncake_forget(fake);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(store.ready(store.context, CLEAT_NEVER, &error),
                         CLEAT_OK);
    }
    close_store();
    open_store();
    for (int i = 0; i < 3; i++) {
        assert_int_equal(store.ready(store.context, CLEAT_NEVER, &error),
                         CLEAT_OK);
    }
    for (uint64_t i = 0; fake_mooncake_seen(fake, i, &seen); i++) {
        if (seen.operation != FAKE_PUT) { continue; }
        assert_true(count < 6);
        memcpy(keys[count++], seen.key, sizeof seen.key);
    }
    assert_int_equal(count, 6);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(strncmp(keys[i], "cleat/ready/", 12), 0);
        for (uint32_t k = 0; k < i; k++) {
            assert_string_not_equal(keys[i], keys[k]);
        }
    }
    assert_int_equal(facts().objects, 0);
}

/* Each step of a try may fail; what is left behind is taken away. */
static void each_step_of_a_try_is_one_that_can_fail(void **state)
{
    static const struct {
        uint32_t operation;
        uint32_t action;
        int32_t code;
        uint32_t argument;
        enum cleat_status status;
        const char *words;
    } steps[] = {
        {FAKE_PUT, FAKE_ANSWER, -901, 0, CLEAT_AMBIGUOUS, "cannot be put"},
        {FAKE_PUT, FAKE_ANSWER_DONE, -901, 0, CLEAT_AMBIGUOUS, "cannot be put"},
        {FAKE_PUT, FAKE_VANISH, 0, 0, CLEAT_UNREADABLE, "is not there"},
        {FAKE_EXIST, FAKE_ANSWER, -900, 0, CLEAT_TRANSIENT, "is not there"},
        {FAKE_SIZE, FAKE_ANSWER, -704, 0, CLEAT_UNREADABLE, "be sized"},
        {FAKE_SIZE, FAKE_ANSWER, 200, 0, CLEAT_SHORT, "be sized"},
        {FAKE_GET, FAKE_ANSWER, -800, 0, CLEAT_TRANSIENT, "cannot be got"},
        {FAKE_GET, FAKE_FLIP_READ, 0, 1100, CLEAT_CORRUPT, "cannot be got"},
        {FAKE_GET, FAKE_LESS, 0, 1, CLEAT_CORRUPT, "cannot be got"},
        {FAKE_REMOVE, FAKE_ANSWER, -900, 0, CLEAT_AMBIGUOUS, "be removed"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        bool removes = steps[i].operation == FAKE_REMOVE;

        fake_mooncake_rules_clear(fake);
        rule(steps[i].operation, steps[i].action, "cleat/ready/*", 1,
             steps[i].code, steps[i].argument);
        assert_int_equal(store.ready(store.context, CLEAT_NEVER, &error),
                         steps[i].status);
        assert_non_null(strstr(error.text, steps[i].words));
        assert_int_equal(facts().objects, removes ? 1 : 0);
        make_ready();
    }
}

static void a_try_after_its_deadline_calls_nothing(void **state)
{
    (void)state;
    open_store();
    assert_int_equal(store.ready(store.context, 1, &error), CLEAT_DEADLINE);
    assert_int_equal(all_calls(), 0);
}

static void a_staging_memory_that_is_refused_is_not_ready(void **state)
{
    (void)state;
    open_store();
    rule(FAKE_REGISTER, FAKE_ANSWER, NULL, 1, -1, 0);
    assert_int_equal(store.ready(store.context, CLEAT_NEVER, &error),
                     CLEAT_TRANSIENT);
    assert_non_null(strstr(error.text, "staging memory"));
    assert_int_equal(calls_of(FAKE_PUT), 0);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_EXISTS, "k"), CLEAT_STATE);
    become_ready();
    assert_int_equal(calls_of(FAKE_SETUP), 1);
}

static void *ready_once(void *unused)
{
    (void)unused;
    return (void *)(intptr_t)store.ready(store.context, CLEAT_NEVER, NULL);
}

static void tries_at_once_set_up_once(void **state)
{
    pthread_t threads[6];

    (void)state;
    open_store();
    for (int i = 0; i < 6; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ready_once, NULL),
                         0);
    }
    for (int i = 0; i < 6; i++) {
        void *status = NULL;

        assert_int_equal(pthread_join(threads[i], &status), 0);
        assert_int_equal((intptr_t)status, CLEAT_OK);
    }
    assert_int_equal(calls_of(FAKE_SETUP), 1);
    assert_int_equal(facts().objects, 0);
}

/* ---- values -------------------------------------------------------------- */

static void r8_a_value_is_one_object_of_a_header_and_its_bytes(void **state)
{
    unsigned char value[1000];
    unsigned char back[1000];
    unsigned char object[1200];
    struct cleat_frame frame;

    (void)state;
    fill(value, sizeof value, 7);
    assert_int_equal(put("k", value, sizeof value), CLEAT_OK);
    assert_int_equal(fake_mooncake_look(fake, "k", object, sizeof object),
                     1000 + FRAME);
    assert_int_equal(cleat_frame_decode(object, sizeof object, &frame, &error),
                     CLEAT_OK);
    assert_int_equal(frame.payload_bytes, 1000);
    assert_int_equal(frame.payload_crc, cleat_crc32c(0, value, 1000));
    assert_memory_equal(object + FRAME, value, 1000);
    assert_int_equal(get("k", back, sizeof back), CLEAT_OK);
    assert_memory_equal(back, value, sizeof back);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_EXISTS, "k"), CLEAT_OK);
}

static void r8_the_honest_empty_value_round_trips(void **state)
{
    struct cleat_store_item item = item_of("empty", NULL, 0);

    (void)state;
    assert_int_equal(put("empty", NULL, 0), CLEAT_OK);
    assert_int_equal(get("empty", NULL, 0), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_SIZE, &item), CLEAT_OK);
    assert_int_equal(item.actual, 0);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_OK);
    assert_int_equal(get("missing", NULL, 0), CLEAT_NOT_FOUND);
}

static void a_raw_value_is_its_bytes_and_not_none(void **state)
{
    unsigned char value[100];
    unsigned char back[100];
    struct cleat_store_item item = item_of("raw", value, sizeof value);

    (void)state;
    fill(value, sizeof value, 1);
    item.flags = CLEAT_STORE_RAW;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(fake_mooncake_look(fake, "raw", back, sizeof back), 100);
    assert_memory_equal(back, value, 100);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_SIZE, &item), CLEAT_OK);
    assert_int_equal(item.actual, 100);
    memset(back, 0, sizeof back);
    item.payload = back;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_memory_equal(back, value, 100);
    item.bytes = 0;
    fake_mooncake_forget(fake);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_UNSUPPORTED);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_UNSUPPORTED);
    assert_int_equal(get("raw", back, sizeof back), CLEAT_MALFORMED);
}

/* To whoever compares, they are other bytes, and nothing else. */
static void raw_bytes_are_no_frame_and_compare_as_other_bytes(void **state)
{
    static unsigned char raw[FRAME + 16];
    unsigned char back[16];
    struct cleat_store_item item = item_of("raw", back, sizeof back);

    (void)state;
    for (unsigned seed = 0; seed < 3; seed++) {
        fill(raw, sizeof raw, seed);
        if (seed == 2) { memset(raw, 0, sizeof raw); }
        assert_true(fake_mooncake_plant(fake, "raw", raw, sizeof raw, true));
        memset(back, 0xAA, sizeof back);
        assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item),
                         CLEAT_MALFORMED);
        assert_int_equal(back[0], 0xAA);
        assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item),
                         CLEAT_CORRUPT);
        assert_true(fake_mooncake_evict(fake, "raw"));
    }
    assert_true(fake_mooncake_plant(fake, "raw", raw, 16, true));
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_MALFORMED);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_CORRUPT);
}

/* Nobody could say that it is whole. */
static void a_frame_without_a_digest_is_unsupported(void **state)
{
    static struct roomy value;
    unsigned char object[FRAME + 16];
    unsigned char back[16];
    struct cleat_frame frame;
    struct cleat_store_item item = item_of("k", back, sizeof back);

    (void)state;
    memset(&frame, 0, sizeof frame);
    frame.payload_bytes = 16;
    frame.flags = CLEAT_FRAME_UNDIGESTED;
    memcpy(object + FRAME, "0123456789abcdef", 16);
    assert_int_equal(cleat_frame_encode(&frame, object, sizeof object, NULL),
                     CLEAT_OK);
    assert_true(fake_mooncake_plant(fake, "k", object, sizeof object, true));
    memset(back, 0xAA, sizeof back);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_UNSUPPORTED);
    assert_int_equal(back[0], 0xAA);
    memcpy(back, "0123456789abcdef", 16);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_CORRUPT);
    lend(&value, sizeof value, true);
    item = item_of("k", value.payload, 16);
    item.flags = CLEAT_STORE_ROOM;
    memset(&value, 0xAA, sizeof value);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_UNSUPPORTED);
    assert_true(is_zero(value.payload, 16));
    lend(&value, sizeof value, false);
}

/* The whole reason for looking after a put. */
static void a_put_of_what_is_there_says_ok_and_keeps_the_old(void **state)
{
    unsigned char back[3];

    (void)state;
    assert_int_equal(put("k", "old", 3), CLEAT_OK);
    assert_int_equal(put("k", "new", 3), CLEAT_OK);
    assert_int_equal(get("k", back, 3), CLEAT_OK);
    assert_memory_equal(back, "old", 3);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "k"), CLEAT_OK);
    assert_int_equal(put("k", "new", 3), CLEAT_OK);
    assert_int_equal(get("k", back, 3), CLEAT_OK);
    assert_memory_equal(back, "new", 3);
}

static void a_remove_heeds_no_lease(void **state)
{
    unsigned char back[3];

    (void)state;
    assert_int_equal(put("k", "abc", 3), CLEAT_OK);
    assert_int_equal(get("k", back, 3), CLEAT_OK); /* takes a lease */
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "k"), CLEAT_OK);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "k"), CLEAT_NOT_FOUND);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_EXISTS, "k"), CLEAT_NOT_FOUND);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_SIZE, "k"), CLEAT_NOT_FOUND);
    assert_int_equal(get("k", back, 3), CLEAT_NOT_FOUND);
}

static void what_is_being_put_is_unreadable(void **state)
{
    unsigned char back[3] = {1, 2, 3};

    (void)state;
    assert_true(fake_mooncake_plant(fake, "k", "abc", 3, false));
    assert_int_equal(get("k", back, 3), CLEAT_UNREADABLE);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_SIZE, "k"), CLEAT_UNREADABLE);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "k"), CLEAT_UNREADABLE);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_EXISTS, "k"), CLEAT_NOT_FOUND);
}

static void r2_a_value_of_another_size_is_short_with_its_size(void **state)
{
    unsigned char value[100];
    unsigned char back[200];
    static const uint64_t wrong[] = {0, 1, 99, 101, 200};

    (void)state;
    fill(value, sizeof value, 3);
    assert_int_equal(put("k", value, sizeof value), CLEAT_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct cleat_store_item item = item_of("k", back, wrong[i]);

        assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_SHORT);
        assert_int_equal(item.actual, 100);
        item.payload = value;
        item.bytes = wrong[i] < 100 ? wrong[i] : 100;
        if (item.bytes == 100) { continue; }
        assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item),
                         CLEAT_CORRUPT);
    }
}

static void r2_a_raw_value_of_another_size_is_short_and_zeroed(void **state)
{
    unsigned char value[100];
    unsigned char back[200];
    struct cleat_store_item item = item_of("k", value, sizeof value);

    (void)state;
    fill(value, sizeof value, 3);
    item.flags = CLEAT_STORE_RAW;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    lend(back, sizeof back, true);
    item.payload = back;
    item.bytes = 200;
    memset(back, 0xAA, sizeof back);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_SHORT);
    assert_int_equal(item.actual, 100);
    assert_true(is_zero(back, sizeof back));
    item.bytes = 50;
    memset(back, 0xAA, sizeof back);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_SHORT);
    assert_int_equal(item.actual, 100);
    assert_int_equal(back[0], 0xAA); /* nothing was written */
    lend(back, sizeof back, false);
}

static void r8_a_get_can_demand_dtype_shape_and_tag(void **state)
{
    unsigned char value[24];
    unsigned char back[24];
    struct cleat_store_item item = item_of("t", value, sizeof value);
    struct cleat_frame stored;

    (void)state;
    fill(value, sizeof value, 9);
    item.frame.dtype = CLEAT_DTYPE_F32;
    item.frame.rank = 2;
    item.frame.shape[0] = 2;
    item.frame.shape[1] = 3;
    item.frame.tag = 99;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    item.payload = back;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    stored = item.frame;
    assert_int_equal(stored.payload_bytes, 24);
    assert_memory_equal(back, value, sizeof back);

    memset(back, 0xAA, sizeof back);
    item.frame.shape[0] = 3;
    item.frame.shape[1] = 2;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_INVALID);
    assert_memory_equal(&item.frame, &stored, sizeof stored); /* as found */
    item.frame.dtype = CLEAT_DTYPE_I32;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_INVALID);
    item.frame = stored;
    item.frame.tag = 98;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_INVALID);
    assert_int_equal(back[0], 0xAA);
    memset(&item.frame, 0, sizeof item.frame); /* demands nothing */
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_int_equal(item.frame.dtype, CLEAT_DTYPE_F32);
    item.payload = value;
    item.frame.dtype = CLEAT_DTYPE_I32;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_CORRUPT);
}

static void r8_a_wrong_bit_anywhere_is_seen(void **state)
{
    unsigned char value[40];
    unsigned char back[40];

    (void)state;
    fill(value, sizeof value, 5);
    for (uint64_t bit = 0; bit < (FRAME + sizeof value) * 8;
         bit += bit < 64 ? 1 : 37) {
        struct cleat_store_item item = item_of("k", value, sizeof value);

        assert_int_equal(put("k", value, sizeof value), CLEAT_OK);
        assert_true(fake_mooncake_flip(fake, "k", bit));
        memset(back, 0xAA, sizeof back);
        assert_int_equal(get("k", back, sizeof back), CLEAT_CORRUPT);
        assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item),
                         CLEAT_CORRUPT);
        if (bit >= FRAME * 8) { assert_true(is_zero(back, sizeof back)); }
        assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "k"), CLEAT_OK);
    }
}

static void a_compare_tells_other_bytes(void **state)
{
    unsigned char value[5000];
    struct cleat_store_item item = item_of("k", value, sizeof value);

    (void)state;
    fill(value, sizeof value, 5);
    assert_int_equal(put("k", value, sizeof value), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_OK);
    value[4999] ^= 1;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_CORRUPT);
    value[4999] ^= 1;
    item.key = "no";
    item.key_bytes = 2;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item),
                     CLEAT_NOT_FOUND);
}

static void what_contradicts_itself_is_not_sent(void **state)
{
    unsigned char value[16] = {0};
    struct cleat_store_item item = item_of("k", value, sizeof value);

    (void)state;
    item.frame.rank = 1; /* without a dtype */
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_INVALID);
    item = item_of("k", NULL, 16);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_INVALID);
    item = item_of("", value, 16);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_INVALID);
    item = item_of("nul", value, 16);
    item.key = "a\0b";
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_INVALID);
    item = item_of("k", value, 16);
    item.key_bytes = CLEAT_STORE_KEY_MAX + 1;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_EXISTS, &item), CLEAT_INVALID);
    assert_int_equal(facts().objects, 0);
}

/* ---- what the library says ----------------------------------------------- */

static void r1_a_result_that_is_not_written_is_unknown(void **state)
{
    unsigned char value[16] = {1};
    struct cleat_store_item items[3];

    (void)state;
    for (int i = 0; i < 3; i++) {
        static const char *const keys[] = {"a", "b", "c"};

        items[i] = item_of(keys[i], value, sizeof value);
    }
    rule(FAKE_PUT, FAKE_SILENT, "b", 1, 0, 0);
    rule(FAKE_GET, FAKE_SILENT, "b", 1, 0, 0);
    rule(FAKE_EXIST, FAKE_SILENT, "b", 1, 0, 0);
    do_items(CLEAT_TRANSFER_DO_PUT, items, 3);
    assert_int_equal(items[0].status, CLEAT_OK);
    assert_int_equal(items[1].status, CLEAT_AMBIGUOUS);
    assert_int_equal(items[1].code, CLEAT_MOONCAKE_UNTOLD);
    assert_int_equal(items[2].status, CLEAT_OK);
    (void)ask(CLEAT_TRANSFER_DO_REMOVE, "b");
    items[1].status = CLEAT_PENDING;
    assert_int_equal(put("b", value, sizeof value), CLEAT_OK);
    do_items(CLEAT_TRANSFER_DO_GET, items, 3);
    assert_int_equal(items[0].status, CLEAT_OK);
    assert_int_equal(items[1].status, CLEAT_TRANSIENT);
    assert_int_equal(items[1].code, CLEAT_MOONCAKE_UNTOLD);
    do_items(CLEAT_TRANSFER_DO_EXISTS, items, 3);
    assert_int_equal(items[1].status, CLEAT_TRANSIENT);
    assert_int_equal(items[2].status, CLEAT_OK);
}

static void r1_a_call_that_says_minus_one_tells_nothing_of_any_key(void **state)
{
    unsigned char value[16] = {1};
    struct cleat_store_item items[2];
    static const uint32_t operations[][2] = {
        {CLEAT_TRANSFER_DO_PUT, FAKE_PUT},
        {CLEAT_TRANSFER_DO_GET, FAKE_GET},
        {CLEAT_TRANSFER_DO_COMPARE, FAKE_GET},
        {CLEAT_TRANSFER_DO_EXISTS, FAKE_EXIST}};

    (void)state;
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        bool changes = operations[i][0] == CLEAT_TRANSFER_DO_PUT;

        items[0] = item_of("a", value, sizeof value);
        items[1] = item_of("b", value, sizeof value);
        rule(operations[i][1], FAKE_CALL_FAILS_DONE, NULL, 1, 0, 0);
        do_items(operations[i][0], items, 2);
        for (int k = 0; k < 2; k++) {
            assert_int_equal(items[k].status,
                             changes ? CLEAT_AMBIGUOUS : CLEAT_TRANSIENT);
            assert_int_equal(items[k].code, -1);
        }
    }
    assert_int_equal(facts().objects, 2); /* it had put them */
}

static void codes_are_told_key_by_key_and_operation_by_operation(void **state)
{
    unsigned char value[16] = {1};
    struct cleat_store_item items[3];

    (void)state;
    items[0] = item_of("a", value, 16);
    items[1] = item_of("b", value, 16);
    items[2] = item_of("c", value, 16);
    rule(FAKE_PUT, FAKE_ANSWER, "a", 1, -800, 0);
    rule(FAKE_PUT, FAKE_ANSWER, "c", 1, -200, 0);
    do_items(CLEAT_TRANSFER_DO_PUT, items, 3);
    assert_int_equal(items[0].status, CLEAT_AMBIGUOUS);
    assert_int_equal(items[0].code, -800);
    assert_int_equal(items[1].status, CLEAT_OK);
    assert_int_equal(items[1].code, 0);
    assert_int_equal(items[2].status, CLEAT_CAPACITY);
    rule(FAKE_GET, FAKE_ANSWER, "b", 1, -800, 0);
    assert_int_equal(get("b", value, 16), CLEAT_TRANSIENT);
    rule(FAKE_REMOVE, FAKE_ANSWER, "b", 1, -901, 0);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "b"), CLEAT_AMBIGUOUS);
    rule(FAKE_SIZE, FAKE_ANSWER, "b", 1, -901, 0);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_SIZE, "b"), CLEAT_TRANSIENT);
    rule(FAKE_SIZE, FAKE_ANSWER, "b", 1, 5, 0); /* shorter than a frame */
    assert_int_equal(ask(CLEAT_TRANSFER_DO_SIZE, "b"), CLEAT_MALFORMED);
    rule(FAKE_GET, FAKE_ANSWER, "b", 1, -999999, 0);
    assert_int_equal(get("b", value, 16), CLEAT_TRANSIENT);
}

static enum cleat_status my_class(void *context, uint32_t operation,
                                  int32_t code, enum cleat_status status)
{
    uint32_t *calls = context;

    (*calls)++;
    if (operation == CLEAT_TRANSFER_DO_GET && code == -800) {
        return CLEAT_PEER_LOST;
    }
    return code == -801 ? CLEAT_OK : status; /* no failure: not taken */
}

static void r5_the_table_is_replaced_by_the_users_word(void **state)
{
    unsigned char value[16] = {1};
    uint32_t calls = 0;

    (void)state;
    config.classify = my_class;
    config.classify_context = &calls;
    reopen();
    assert_int_equal(calls, 0);
    rule(FAKE_GET, FAKE_ANSWER, "k", 1, -800, 0);
    rule(FAKE_GET, FAKE_ANSWER, "k", 1, -801, 0);
    assert_int_equal(get("k", value, 16), CLEAT_PEER_LOST);
    assert_int_equal(get("k", value, 16), CLEAT_CORRUPT);
    assert_int_equal(get("k", value, 16), CLEAT_NOT_FOUND);
    assert_int_equal(calls, 3);
}

static void a_buffer_that_was_written_by_a_failed_get_is_zeroed(void **state)
{
    struct roomy value;
    struct cleat_store_item item = item_of("k", value.payload, 1000);
    static const struct {
        uint32_t action;
        int32_t code;
        uint32_t argument;
        enum cleat_status status;
    } faults[] = {
        {FAKE_DIRTY, -707, 0, CLEAT_TRANSIENT},
        {FAKE_DIRTY, -800, 0, CLEAT_TRANSIENT},
        {FAKE_SILENT, 0, 0, CLEAT_TRANSIENT},
        {FAKE_FLIP_READ, 0, 2000, CLEAT_CORRUPT},
        {FAKE_LESS, 0, 10, CLEAT_CORRUPT},
        {FAKE_MORE, 0, 10, CLEAT_SHORT},
        {FAKE_CALL_FAILS_DONE, 0, 0, CLEAT_TRANSIENT},
    };

    (void)state;
    fill(value.payload, 1000, 1);
    assert_int_equal(put("k", value.payload, 1000), CLEAT_OK);
    item.flags = CLEAT_STORE_ROOM;
    lend(&value, sizeof value, true);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        rule(FAKE_GET, faults[i].action, "k", 1, faults[i].code,
             faults[i].argument);
        memset(value.payload, 0xAA, sizeof value.payload);
        assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item),
                         faults[i].status);
        assert_true(is_zero(value.payload, 1000));
        assert_int_equal(value.payload[1000], 0xAA);
    }
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_int_equal(cleat_crc32c(0, value.payload, 1000),
                     item.frame.payload_crc);
    lend(&value, sizeof value, false);
}

/* ---- where values lie ---------------------------------------------------- */

static void r9_a_lent_value_with_room_moves_without_a_copy(void **state)
{
    static struct roomy value;
    struct cleat_store_item item = item_of("k", value.payload, 1024);

    (void)state;
    fill(value.payload, 1024, 8);
    item.flags = CLEAT_STORE_ROOM;
    lend(&value, sizeof value, true);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(seen_of(FAKE_PUT).pointer, (uintptr_t)value.room);
    assert_int_equal(seen_of(FAKE_PUT).bytes, FRAME + 1024);
    memset(&value, 0, sizeof value);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_int_equal(seen_of(FAKE_GET).pointer, (uintptr_t)value.room);
    assert_int_equal(value.payload[1023],
                     (unsigned char)(1023 * 31 + 8 + (1023 >> 8)));
    lend(&value, sizeof value, false);
}

static void what_is_not_lent_with_its_room_is_staged(void **state)
{
    static struct roomy value;
    struct cleat_store_item item = item_of("k", value.payload, 1024);
    uint64_t pointer;

    (void)state;
    fill(value.payload, 1024, 8);
    item.flags = CLEAT_STORE_ROOM;
    lend(value.payload, sizeof value.payload, true); /* not the room */
    memset(value.room, 0x55, sizeof value.room);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    pointer = seen_of(FAKE_PUT).pointer;
    assert_true(pointer >= (uintptr_t)block &&
                pointer < (uintptr_t)block + cleat_mooncake_bytes(&config));
    assert_int_equal(pointer % CLEAT_ALIGN, 0);
    assert_int_equal(value.room[0], 0x55);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_int_equal(view().staging_taken, 0);
    lend(value.payload, sizeof value.payload, false);
    /* Nor what is lent all around and has no room of its own. */
    lend(&value, sizeof value, true);
    item.flags = 0;
    fake_mooncake_forget(fake);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_int_not_equal(seen_of(FAKE_GET).pointer, (uintptr_t)value.room);
    assert_int_equal(value.room[0], 0x55);
    lend(&value, sizeof value, false);
}

static void values_larger_than_the_staging_memory_are_a_limit(void **state)
{
    static unsigned char value[STAGING + 1];
    struct cleat_store_item item = item_of("k", value, STAGING - FRAME + 1);

    (void)state;
    fake_mooncake_forget(fake);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_LIMIT);
    assert_int_equal(item.code, CLEAT_MOONCAKE_STAGING);
    assert_int_equal(facts().objects, 0);
    item.bytes = STAGING - FRAME;
    assert_int_equal(store.staged_bytes_max, item.bytes);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
}

static void r12_more_than_fits_goes_out_in_pieces(void **state)
{
    static unsigned char values[300][1000];
    static unsigned char back[300][1000];
    static char keys[300][8];
    static struct cleat_store_item items[300];
    uint64_t calls;

    (void)state;
    config.keys_max = 100;
    reopen();
    for (unsigned i = 0; i < 300; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "k%u", i);
        fill(values[i], 1000, i);
        items[i] = item_of(keys[i], values[i], 1000);
    }
    calls = calls_of(FAKE_PUT);
    do_items(CLEAT_TRANSFER_DO_PUT, items, 300);
    /* 14 of 1152 bytes in a quarter of the staging memory, a hundred a
     * window. */
    assert_int_equal(calls_of(FAKE_PUT) - calls, 3 * 8);
    for (unsigned i = 0; i < 300; i++) {
        assert_int_equal(items[i].status, CLEAT_OK);
        items[i] = item_of(keys[i], back[i], 1000);
    }
    do_items(CLEAT_TRANSFER_DO_GET, items, 300);
    for (unsigned i = 0; i < 300; i++) {
        assert_int_equal(items[i].status, CLEAT_OK);
        assert_memory_equal(back[i], values[i], 1000);
    }
    calls = calls_of(FAKE_EXIST);
    do_items(CLEAT_TRANSFER_DO_EXISTS, items, 300);
    assert_int_equal(calls_of(FAKE_EXIST) - calls, 3);
    assert_int_equal(view().staging_taken, 0);
}

static void r3_a_key_twice_in_a_call_is_put_once_and_got_twice(void **state)
{
    unsigned char first[8];
    unsigned char second[8];
    struct cleat_store_item items[3];
    uint64_t calls;

    (void)state;
    items[0] = item_of("k", (void *)(uintptr_t) "12345678", 8);
    items[1] = item_of("other", (void *)(uintptr_t) "abcdefgh", 8);
    items[2] = item_of("k", (void *)(uintptr_t) "87654321", 8);
    fake_mooncake_forget(fake);
    do_items(CLEAT_TRANSFER_DO_PUT, items, 3);
    assert_int_equal(items[0].status, CLEAT_OK);
    assert_int_equal(items[1].status, CLEAT_OK);
    assert_int_equal(items[2].status, CLEAT_EXISTS);
    assert_int_equal(items[2].code, CLEAT_MOONCAKE_DUPLICATE);
    items[0] = item_of("k", first, 8);
    items[1] = item_of("k", second, 8);
    calls = calls_of(FAKE_GET);
    do_items(CLEAT_TRANSFER_DO_GET, items, 2);
    assert_int_equal(calls_of(FAKE_GET) - calls, 2);
    assert_int_equal(items[0].status, CLEAT_OK);
    assert_int_equal(items[1].status, CLEAT_OK);
    assert_memory_equal(first, "12345678", 8);
    assert_memory_equal(second, "12345678", 8);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint64_t in_a_moment(void)
{
    return now_ns() + 20 * CLEAT_NS_PER_MS;
}

/* Times within which something begins: the next one where a machine stood still
 * during the last. */
#define FIRST_NS (200 * CLEAT_NS_PER_MS)
#define LAST_NS (60 * CLEAT_NS_PER_S)

/* One call has all of the staging memory, and waits in the library. */
static void *put_all(void *value)
{
    struct cleat_store_item item = item_of("held", value, STAGING - FRAME);
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_PUT, 1, &item,
                                    CLEAT_NEVER};

    (void)store.call(store.context, &call);
    return (void *)(intptr_t)item.status;
}

static void
a_call_that_finds_no_staging_memory_until_its_deadline_is_not_sent(void **state)
{
    static unsigned char value[STAGING];
    struct cleat_store_item item = item_of("late", value, 16);
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_PUT, 1, &item, 0};
    pthread_t thread;
    void *status = NULL;

    (void)state;
    rule(FAKE_PUT, FAKE_CALL_HELD, "held", 1, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, put_all, value), 0);
    wait_until_held(1);
    assert_int_equal(view().staging_taken, STAGING);
    call.deadline_ns = in_a_moment();
    assert_int_equal(store.call(store.context, &call), CLEAT_OK);
    assert_int_equal(item.status, CLEAT_TRANSIENT);
    assert_int_equal(item.code, CLEAT_MOONCAKE_LATE);
    assert_int_equal(view().waiting, 0);
    fake_mooncake_release(fake);
    assert_int_equal(pthread_join(thread, &status), 0);
    assert_int_equal((intptr_t)status, CLEAT_OK);
    assert_int_equal(put("late", value, 16), CLEAT_OK);
}

/* Else a large one might wait for ever. */
static void a_call_that_waits_is_not_overtaken_by_a_smaller_one(void **state)
{
    static unsigned char value[STAGING];
    unsigned char bytes[16];
    struct cleat_store_item item = item_of("small", value, 16);
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_PUT, 1, &item, 0};
    pthread_t small;
    pthread_t large;
    void *status = NULL;

    (void)state;
    assert_int_equal(put("held", "0123456789abcdef", 16), CLEAT_OK);
    rule(FAKE_GET, FAKE_CALL_HELD, "held", 1, 0, 0);
    assert_int_equal(pthread_create(&small, NULL, get_held, bytes), 0);
    wait_until_held(1);
    assert_int_equal(pthread_create(&large, NULL, put_all, value), 0);
    while (view().waiting != 1) { (void)sched_yield(); }
    call.deadline_ns = in_a_moment();
    assert_int_equal(store.call(store.context, &call), CLEAT_OK);
    assert_int_equal(item.code, CLEAT_MOONCAKE_LATE);
    fake_mooncake_release(fake);
    assert_int_equal(pthread_join(small, NULL), 0);
    assert_int_equal(pthread_join(large, &status), 0);
    assert_int_equal((intptr_t)status, CLEAT_OK);
}

static void what_needs_no_staging_memory_does_not_wait_for_it(void **state)
{
    static unsigned char value[STAGING];
    static unsigned char lent[64];
    struct cleat_store_item items[2];
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_PUT, 2, items, 0};
    pthread_t thread;
    void *status = NULL;

    (void)state;
    lend(lent, sizeof lent, true);
    items[0] = item_of("lent", lent, sizeof lent);
    items[0].flags = CLEAT_STORE_RAW;
    items[1] = item_of("late", value, 16);
    rule(FAKE_PUT, FAKE_CALL_HELD, "held", 1, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, put_all, value), 0);
    wait_until_held(1);
    items[0].code = CLEAT_MOONCAKE_LATE;
    for (uint64_t ns = FIRST_NS; items[0].code == CLEAT_MOONCAKE_LATE;
         ns *= 2) {
        assert_true(ns <= LAST_NS);
        call.deadline_ns = now_ns() + ns;
        assert_int_equal(store.call(store.context, &call), CLEAT_OK);
    }
    assert_int_equal(items[0].status, CLEAT_OK);
    assert_int_equal(items[1].status, CLEAT_TRANSIENT);
    assert_int_equal(items[1].code, CLEAT_MOONCAKE_LATE);
    fake_mooncake_release(fake);
    assert_int_equal(pthread_join(thread, &status), 0);
    assert_int_equal((intptr_t)status, CLEAT_OK);
    lend(lent, sizeof lent, false);
}

/* -600 means more than "larger than the buffer", and may be said of all keys;
 * each question is as long as the library's time-out then. */
static void sizes_are_asked_for_until_one_is_not_told(void **state)
{
    static unsigned char value[100];
    static unsigned char back[40][50];
    static char keys[40][8];
    static struct cleat_store_item items[40];

    (void)state;
    for (unsigned i = 0; i < 40; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "k%u", i);
        assert_int_equal(put(keys[i], value, sizeof value), CLEAT_OK);
        items[i] = item_of(keys[i], back[i], sizeof back[i]);
    }
    rule(FAKE_SIZE, FAKE_ANSWER, "k3", 1, -704, 0); /* that is an answer */
    rule(FAKE_SIZE, FAKE_ANSWER, "k5", 1, -901, 0);
    do_items(CLEAT_TRANSFER_DO_GET, items, 40);
    assert_int_equal(calls_of(FAKE_SIZE), 6);
    for (unsigned i = 0; i < 40; i++) {
        bool told = i < 5 && i != 3;

        assert_int_equal(items[i].status, told ? CLEAT_SHORT : CLEAT_PERMANENT);
        assert_int_equal(items[i].code, -600);
    }
    do_items(CLEAT_TRANSFER_DO_GET, items, 40); /* the next call asks again */
    assert_int_equal(calls_of(FAKE_SIZE), 46);
    assert_int_equal(items[39].status, CLEAT_SHORT);
    assert_int_equal(items[39].actual, 100);
}

struct held_call {
    struct cleat_store_call call;
    atomic_bool ended;
};

static void *call_held(void *argument)
{
    struct held_call *held = argument;

    (void)store.call(store.context, &held->call);
    atomic_store(&held->ended, true);
    return NULL;
}

static void no_size_is_asked_for_after_the_deadline(void **state)
{
    unsigned char value[100] = {0};
    unsigned char back[50];
    struct cleat_store_item item = item_of("held", back, sizeof back);
    struct held_call held = {{CLEAT_TRANSFER_DO_GET, 1, &item, 0}, false};
    pthread_t thread;

    (void)state;
    assert_int_equal(put("held", value, sizeof value), CLEAT_OK);
    rule(FAKE_GET, FAKE_CALL_HELD, "held", 1, 0, 0);
    for (uint64_t ns = FIRST_NS; facts().held == 0; ns *= 2) {
        assert_true(ns <= LAST_NS);
        atomic_store(&held.ended, false);
        held.call.deadline_ns = now_ns() + ns;
        assert_int_equal(pthread_create(&thread, NULL, call_held, &held), 0);
        while (facts().held == 0 && !atomic_load(&held.ended)) {
            (void)sched_yield();
        }
        if (!atomic_load(&held.ended)) { break; }
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(item.code, CLEAT_MOONCAKE_LATE);
    }
    while (now_ns() <= held.call.deadline_ns) { (void)sched_yield(); }
    fake_mooncake_release(fake);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(item.code, -600);
    assert_int_equal(calls_of(FAKE_SIZE), 0);
}

static void what_is_late_already_is_not_sent(void **state)
{
    unsigned char value[16] = {0};
    uint64_t calls = all_calls();

    (void)state;
    for (uint32_t operation = 0; operation < CLEAT_TRANSFER_OPERATIONS;
         operation++) {
        struct cleat_store_item item = item_of("k", value, sizeof value);
        struct cleat_store_call call = {operation, 1, &item, 1};

        assert_int_equal(store.call(store.context, &call), CLEAT_OK);
        assert_int_equal(item.status, CLEAT_TRANSIENT);
        assert_int_equal(item.code, CLEAT_MOONCAKE_LATE);
    }
    assert_int_equal(all_calls(), calls);
    assert_int_equal(view().staging_taken, 0);
}

static void one_call_too_many_is_refused(void **state)
{
    unsigned char bytes[16];
    unsigned char more[16];
    struct cleat_store_item item = item_of("k", more, sizeof more);
    pthread_t thread;

    (void)state;
    config.calls_max = 1;
    reopen();
    assert_int_equal(store.calls_max, 1);
    assert_int_equal(put("held", "0123456789abcdef", 16), CLEAT_OK);
    rule(FAKE_GET, FAKE_CALL_HELD, "held", 1, 0, 0);
    assert_int_equal(pthread_create(&thread, NULL, get_held, bytes), 0);
    wait_until_held(1);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_NO_SLOT);
    assert_int_equal(item.code, CLEAT_MOONCAKE_BUSY);
    fake_mooncake_release(fake);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_NOT_FOUND);
}

static void
r18_device_memory_is_refused_unless_it_is_known_to_work(void **state)
{
    static unsigned char device[256];
    struct cleat_store_item item = item_of("k", device, sizeof device);
    uint64_t calls;

    (void)state;
    open_store();
    make_ready();
    assert_int_equal(store.refuses, CLEAT_STORE_NO_DEVICE |
                                        CLEAT_STORE_NO_EMPTY_RAW |
                                        CLEAT_STORE_NO_FRAMED_DEVICE);
    calls = all_calls();
    item.flags = CLEAT_STORE_DEVICE | CLEAT_STORE_RAW;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_UNSUPPORTED);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_UNSUPPORTED);
    assert_int_equal(all_calls(), calls);
    lend(device, sizeof device, true);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_UNSUPPORTED);
    close_store();
    config.device_memory = 1;
    reopen();
    assert_int_equal(store.refuses,
                     CLEAT_STORE_NO_EMPTY_RAW | CLEAT_STORE_NO_FRAMED_DEVICE);
    /* Not lent: it would have to be copied. */
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_UNSUPPORTED);
    lend(device, sizeof device, true);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item),
                     CLEAT_UNSUPPORTED);
    item.flags = CLEAT_STORE_DEVICE; /* a frame cannot be written there */
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_UNSUPPORTED);
    item.flags = CLEAT_STORE_DEVICE | CLEAT_STORE_ROOM;
    item.payload = device + FRAME;
    item.bytes = 64;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_UNSUPPORTED);
    lend(device, sizeof device, false);
}

static void replicas_and_pins_are_asked_for_and_never_none(void **state)
{
    unsigned char value[1000];

    (void)state;
    config.replicas = 2;
    config.hard_pin = 1;
    reopen();
    fill(value, sizeof value, 0);
    assert_int_equal(put("k", value, sizeof value), CLEAT_OK);
    assert_int_equal(facts().replicas_none, 0);
    close_store();
    config.replicas = 0;
    reopen();
    assert_int_equal(put("m", value, sizeof value), CLEAT_OK);
    assert_int_equal(facts().replicas_none, 0);
    close_store();
    config.hard_pin = 0;
    reopen();
    assert_int_equal(put("l", value, sizeof value), CLEAT_OK);
    assert_int_equal(facts().replicas_none, 0);
}

static void newer_functions_are_used_where_the_user_says_so(void **state)
{
    unsigned char back[3];
    struct cleat_store_item items[2];

    (void)state;
    config.lib_path = FAKE_MOONCAKE_LIBRARY_NEWER;
    reopen(); /* which the user has not said */
    assert_int_equal(store.verify_min, CLEAT_TRANSFER_VERIFY_SIZE);
    assert_int_equal(put("a", "old", 3), CLEAT_OK);
    assert_int_equal(calls_of(FAKE_UPSERT), 0);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "a"), CLEAT_OK);
    close_store();
    config.newer = CLEAT_MOONCAKE_UPSERT | CLEAT_MOONCAKE_BATCH_REMOVE;
    reopen();
    assert_int_equal(store.verify_min, CLEAT_TRANSFER_VERIFY_RETRIED);
    assert_int_equal(put("a", "old", 3), CLEAT_OK);
    assert_int_equal(put("a", "new", 3), CLEAT_OK);
    assert_int_equal(calls_of(FAKE_PUT), 0);
    assert_int_equal(calls_of(FAKE_UPSERT), 2);
    assert_int_equal(get("a", back, 3), CLEAT_OK);
    assert_memory_equal(back, "new", 3);
    items[0] = item_of("a", NULL, 0);
    items[1] = item_of("b", NULL, 0);
    do_items(CLEAT_TRANSFER_DO_REMOVE, items, 2);
    assert_int_equal(items[0].status, CLEAT_OK);
    assert_int_equal(items[1].status, CLEAT_NOT_FOUND);
    assert_int_equal(calls_of(FAKE_REMOVE), 1);
    assert_int_equal(facts().objects, 0);
    close_store();
    config.lib_path = FAKE_MOONCAKE_LIBRARY; /* which has them not */
    reopen();
    assert_int_equal(store.verify_min, CLEAT_TRANSFER_VERIFY_SIZE);
    assert_int_equal(put("a", "old", 3), CLEAT_OK);
    assert_int_equal(calls_of(FAKE_PUT), 1);
    do_items(CLEAT_TRANSFER_DO_REMOVE, items, 2);
    assert_int_equal(items[0].status, CLEAT_OK);
    assert_int_equal(calls_of(FAKE_REMOVE), 2);
}

static void r17_a_library_may_lack_what_is_not_called(void **state)
{
    unsigned char back[3];

    (void)state;
    config.lib_path = FAKE_MOONCAKE_LIBRARY_NEEDED;
    reopen();
    assert_int_equal(put("a", "abc", 3), CLEAT_OK);
    assert_int_equal(get("a", back, 3), CLEAT_OK);
}

/* The library under this one may, and the fake does not. */
static void nothing_here_allocates_after_the_open(void **state)
{
    static struct roomy value;
    struct cleat_store_item items[2];
    unsigned char back[16];

    (void)state;
    open_store();
    items[0] = item_of("a", value.payload, sizeof value.payload);
    items[0].flags = CLEAT_STORE_ROOM;
    items[1] = item_of("b", back, sizeof back);
    cleat_test_forbid_malloc(true);
    (void)store.ready(store.context, CLEAT_NEVER, &error);
    (void)store.lend(store.context, &value, sizeof value, true, &error);
    for (uint32_t operation = 0; operation < CLEAT_TRANSFER_OPERATIONS;
         operation++) {
        struct cleat_store_call call = {operation, 2, items, CLEAT_NEVER};

        (void)store.call(store.context, &call);
    }
    (void)store.lend(store.context, &value, sizeof value, false, &error);
    cleat_test_forbid_malloc(false);
    assert_int_equal(calls_of(FAKE_GET), 3); /* it was ready, and compared */
}

/* ---- what is lent -------------------------------------------------------- */

static unsigned char lot[1 << 16];

static void r4_what_is_lent_twice_is_registered_once(void **state)
{
    uint64_t before = calls_of(FAKE_REGISTER);

    (void)state;
    lend(lot, 4096, true);
    lend(lot, 4096, true);
    lend(lot + 100, 200, true); /* inside */
    assert_int_equal(calls_of(FAKE_REGISTER) - before, 1);
    assert_int_equal(view().registered, 1);
    lend(lot, 4096, false);
    lend(lot, 4096, false);
    assert_int_equal(calls_of(FAKE_UNREGISTER), 0);
    lend(lot + 100, 200, false);
    assert_int_equal(calls_of(FAKE_UNREGISTER), 1);
    assert_int_equal(view().registered, 0);
    assert_int_equal(facts().registered, 1); /* the staging memory */
}

static void pieces_that_overlap_are_noted_and_their_values_staged(void **state)
{
    struct cleat_store_item item = item_of("k", lot + 5000, 1000);

    (void)state;
    lend(lot, 4096, true);
    lend(lot + 4000, 4096, true);
    assert_int_equal(view().registered, 1);
    assert_int_equal(view().unjoined, 1);
    item.flags = CLEAT_STORE_RAW;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_not_equal(seen_of(FAKE_PUT).pointer, (uintptr_t)item.payload);
    lend(lot, 4096, false);
    assert_int_equal(view().registered, 0);
    lend(lot + 4000, 4096, true); /* still the one that was noted */
    assert_int_equal(view().registered, 0);
    lend(lot + 4000, 4096, false);
    lend(lot + 4000, 4096, false);
    assert_int_equal(view().unjoined, 0);
    lend(lot + 4000, 4096, true);
    assert_int_equal(view().registered, 1);
    lend(lot + 4000, 4096, false);
    assert_int_equal(facts().registered, 1);
}

static void a_registration_that_fails_is_told(void **state)
{
    (void)state;
    rule(FAKE_REGISTER, FAKE_ANSWER, NULL, 1, -600, 0);
    assert_int_equal(store.lend(store.context, lot, 4096, true, &error),
                     CLEAT_PERMANENT);
    assert_int_equal(error.port_code, -600);
    assert_non_null(strstr(error.text, "registered"));
    assert_int_equal(view().registered, 0);
    rule(FAKE_REGISTER, FAKE_ANSWER, NULL, 1, -901, 0);
    assert_int_equal(store.lend(store.context, lot, 4096, true, &error),
                     CLEAT_TRANSIENT);
    lend(lot, 4096, true);
    rule(FAKE_UNREGISTER, FAKE_ANSWER, NULL, 1, -600, 0);
    assert_int_equal(store.lend(store.context, lot, 4096, false, &error),
                     CLEAT_PERMANENT);
    assert_non_null(strstr(error.text, "unregistered"));
    assert_int_equal(view().registered, 0);
}

static void lending_nothing_or_what_is_not_lent_is_no_call(void **state)
{
    uint64_t before = all_calls();

    (void)state;
    lend(lot, 0, true);
    lend(lot, 0, false);
    assert_int_equal(store.lend(store.context, NULL, 16, true, &error),
                     CLEAT_INVALID);
    assert_int_equal(store.lend(store.context, lot, 16, false, &error),
                     CLEAT_NOT_FOUND);
    assert_int_equal(all_calls(), before);
}

static void pieces_that_find_no_place_are_staged(void **state)
{
    struct cleat_store_item item = item_of("k", lot + 2000, 16);
    uint64_t before;

    (void)state;
    config.registrations_max = 2;
    reopen();
    before = calls_of(FAKE_REGISTER);
    for (unsigned i = 0; i < 10; i++) { lend(lot + 1000 * i, 16, true); }
    assert_int_equal(calls_of(FAKE_REGISTER) - before, 2);
    assert_int_equal(view().registered, 2);
    assert_int_equal(view().unjoined, 8);
    item.flags = CLEAT_STORE_RAW;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_not_equal(seen_of(FAKE_PUT).pointer, (uintptr_t)item.payload);
    for (unsigned i = 10; i-- > 0;) { lend(lot + 1000 * i, 16, false); }
    assert_int_equal(view().registered, 0);
    assert_int_equal(view().unjoined, 0);
    assert_int_equal(store.lend(store.context, lot, 16, false, &error),
                     CLEAT_NOT_FOUND);
    lend(lot + 2000, 16, true);
    assert_int_equal(view().registered, 1);
    close_store();
    assert_int_equal(facts().registered, 0);
}

/* One that nobody wrote down must not be taken for a larger one around it. */
static void
what_is_counted_only_keeps_others_from_being_registered(void **state)
{
    (void)state;
    config.registrations_max = 1;
    reopen();
    lend(lot, 16, true);
    lend(lot + 1000, 16, true); /* noted */
    lend(lot + 2000, 16, true); /* counted */
    lend(lot, 16, false);
    lend(lot + 1500, 1000, true); /* around it */
    assert_int_equal(view().registered, 0);
    lend(lot + 2000, 16, false);
    assert_int_equal(view().unjoined, 2);
    lend(lot + 1500, 1000, false);
    lend(lot + 1000, 16, false);
    assert_int_equal(view().unjoined, 0);
    lend(lot + 1500, 1000, true);
    assert_int_equal(view().registered, 1);
    lend(lot + 1500, 1000, false);
    assert_int_equal(view().registered, 0);
}

/* Its values may be too. */
static void what_finds_no_place_and_cannot_be_staged_is_refused(void **state)
{
    static unsigned char large[STAGING + 1];

    (void)state;
    config.registrations_max = 1;
    reopen();
    lend(lot, 16, true);
    assert_int_equal(
        store.lend(store.context, large, sizeof large, true, &error),
        CLEAT_NO_SLOT);
    assert_non_null(strstr(error.text, "registrations_max"));
    lend(large, STAGING, true);
    lend(large, STAGING, false);
}

/* The registered piece around a value may be another's, who takes it away when
 * his batch ends, and the call is still in the library. */
static void what_lies_in_anothers_piece_only_by_overlap_is_staged(void **state)
{
    struct cleat_store_item item = item_of("k", lot + 2100, 1000);

    (void)state;
    item.flags = CLEAT_STORE_RAW;
    lend(lot, 4096, true);
    lend(lot + 2000, 4096, true);
    lend(lot + 2000, 16, true); /* inside the first: that is not lost */
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_not_equal(seen_of(FAKE_PUT).pointer, (uintptr_t)item.payload);
    lend(lot + 2000, 4096, false);
    fake_mooncake_forget(fake);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_int_equal(seen_of(FAKE_GET).pointer, (uintptr_t)item.payload);
    lend(lot + 2000, 16, false);
    lend(lot, 4096, false);
}

static void what_is_kept_makes_place_for_what_is_lent_oldest_first(void **state)
{
    uint64_t before;

    (void)state;
    config.registrations_max = 2;
    config.keep_registered = 1;
    reopen();
    before = calls_of(FAKE_REGISTER);
    for (int i = 0; i < 3; i++) {
        lend(lot, 4096, true);
        lend(lot, 4096, false);
    }
    assert_int_equal(calls_of(FAKE_REGISTER) - before, 1);
    assert_int_equal(calls_of(FAKE_UNREGISTER), 0);
    assert_int_equal(view().kept, 1);
    lend(lot + 8192, 4096, true);
    lend(lot + 8192, 4096, false);
    lend(lot, 4096, true); /* now the other is the older */
    lend(lot, 4096, false);
    lend(lot + 16384, 4096, true);
    assert_int_equal(calls_of(FAKE_UNREGISTER), 1);
    before = calls_of(FAKE_REGISTER);
    lend(lot, 4096, true);
    assert_int_equal(calls_of(FAKE_REGISTER), before);
    lend(lot, 4096, false);
    /* What overlaps a kept one takes its place. */
    lend(lot + 100, 4096, true);
    assert_int_equal(view().unjoined, 0);
    assert_int_equal(view().registered, 2);
    lend(lot + 100, 4096, false);
    lend(lot + 16384, 4096, false);
    close_store();
    assert_int_equal(facts().registered, 0);
}

/* What is only kept may be unregistered at any time: nothing may lie there. */
static void what_is_kept_is_not_used_in_place(void **state)
{
    struct cleat_store_item item = item_of("k", lot, 1000);

    (void)state;
    config.keep_registered = 1;
    reopen();
    item.flags = CLEAT_STORE_RAW;
    lend(lot, 4096, true);
    lend(lot, 4096, false);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_not_equal(seen_of(FAKE_PUT).pointer, (uintptr_t)lot);
}

/* ---- threads ------------------------------------------------------------- */

#define THREADS 6
#define ROUNDS 40
#define KEYS 12

static void *work_of(void *argument)
{
    unsigned number = (unsigned)(uintptr_t)argument;
    struct roomy *values = calloc(KEYS, sizeof *values);
    char keys[KEYS][24];
    uintptr_t failures = 0;

    if (values == NULL) { return (void *)(uintptr_t)1; }
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct cleat_store_item items[KEYS];
        struct cleat_store_call call = {CLEAT_TRANSFER_DO_PUT, KEYS, items,
                                        CLEAT_NEVER};
        bool lent = round % 2 == 0;

        if (lent) {
            failures += store.lend(store.context, values, KEYS * sizeof *values,
                                   true, NULL) != CLEAT_OK;
        }
        for (unsigned i = 0; i < KEYS; i++) {
            (void)snprintf(keys[i], sizeof keys[i], "%u/%u/%u", number, round,
                           i);
            fill(values[i].payload, 1024, number + round + i);
            items[i] = item_of(keys[i], values[i].payload, 1024);
            items[i].flags = i % 3 != 0 ? CLEAT_STORE_ROOM : 0;
        }
        failures += store.call(store.context, &call) != CLEAT_OK;
        for (unsigned i = 0; i < KEYS; i++) {
            failures += items[i].status != CLEAT_OK;
            memset(values[i].payload, 0, 1024);
        }
        call.operation = CLEAT_TRANSFER_DO_GET;
        failures += store.call(store.context, &call) != CLEAT_OK;
        for (unsigned i = 0; i < KEYS; i++) {
            unsigned char right[1024];

            fill(right, 1024, number + round + i);
            failures += items[i].status != CLEAT_OK ||
                        memcmp(right, values[i].payload, 1024) != 0;
        }
        call.operation = CLEAT_TRANSFER_DO_REMOVE;
        failures += store.call(store.context, &call) != CLEAT_OK;
        if (lent) {
            failures += store.lend(store.context, values, KEYS * sizeof *values,
                                   false, NULL) != CLEAT_OK;
        }
    }
    free(values);
    return (void *)failures;
}

static void threads_share_a_store_and_its_staging_memory(void **state)
{
    pthread_t threads[THREADS];

    (void)state;
    config.staging_bytes = 4096; /* three values: they wait for each other */
    config.calls_max = THREADS;
    reopen();
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, work_of, (void *)(uintptr_t)i),
            0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *failures = NULL;

        assert_int_equal(pthread_join(threads[i], &failures), 0);
        assert_int_equal((uintptr_t)failures, 0);
    }
    assert_int_equal(facts().objects, 0);
    assert_int_equal(view().staging_taken, 0);
    assert_int_equal(view().registered, 0);
    assert_int_equal(view().calls, 0);
}

#define WITH(name, before) \
    cmocka_unit_test_setup_teardown(name, before, teardown)
#define CLOSED(name) WITH(name, setup_cluster)
#define READY(name) WITH(name, setup_ready)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLOSED(a_library_that_is_not_there_is_not_found_and_named),
        CLOSED(a_file_that_is_no_library_is_unsupported_and_named),
        CLOSED(r17_each_missing_symbol_is_named_with_the_path),
        CLOSED(a_block_or_a_configuration_that_is_wrong_is_refused),
        CLOSED(r16_time_outs_are_set_before_the_load_where_they_are_not),
        CLOSED(r14b_nothing_is_called_before_the_set_up_has_worked),
        READY(r14_nothing_is_called_after_the_close),
        READY(a_child_of_a_fork_calls_nothing),
        READY(r14_a_close_does_not_destroy_under_a_call),
        CLOSED(r15_a_set_up_that_failed_is_made_again_with_the_same_client),
        WITH(r15_a_cluster_without_memory_is_not_ready_until_it_has_some,
             setup_empty),
        READY(r15_every_try_has_a_key_of_its_own_and_removes_it),
        READY(each_step_of_a_try_is_one_that_can_fail),
        CLOSED(a_try_after_its_deadline_calls_nothing),
        CLOSED(a_staging_memory_that_is_refused_is_not_ready),
        CLOSED(tries_at_once_set_up_once),
        READY(r8_a_value_is_one_object_of_a_header_and_its_bytes),
        READY(r8_the_honest_empty_value_round_trips),
        READY(a_raw_value_is_its_bytes_and_not_none),
        READY(raw_bytes_are_no_frame_and_compare_as_other_bytes),
        READY(a_frame_without_a_digest_is_unsupported),
        READY(a_put_of_what_is_there_says_ok_and_keeps_the_old),
        READY(a_remove_heeds_no_lease),
        READY(what_is_being_put_is_unreadable),
        READY(r2_a_value_of_another_size_is_short_with_its_size),
        READY(r2_a_raw_value_of_another_size_is_short_and_zeroed),
        READY(r8_a_get_can_demand_dtype_shape_and_tag),
        READY(r8_a_wrong_bit_anywhere_is_seen),
        READY(a_compare_tells_other_bytes),
        READY(what_contradicts_itself_is_not_sent),
        READY(r1_a_result_that_is_not_written_is_unknown),
        READY(r1_a_call_that_says_minus_one_tells_nothing_of_any_key),
        READY(codes_are_told_key_by_key_and_operation_by_operation),
        CLOSED(r5_the_table_is_replaced_by_the_users_word),
        READY(a_buffer_that_was_written_by_a_failed_get_is_zeroed),
        READY(r9_a_lent_value_with_room_moves_without_a_copy),
        READY(what_is_not_lent_with_its_room_is_staged),
        READY(values_larger_than_the_staging_memory_are_a_limit),
        CLOSED(r12_more_than_fits_goes_out_in_pieces),
        READY(r3_a_key_twice_in_a_call_is_put_once_and_got_twice),
        READY(
            a_call_that_finds_no_staging_memory_until_its_deadline_is_not_sent),
        READY(a_call_that_waits_is_not_overtaken_by_a_smaller_one),
        READY(what_needs_no_staging_memory_does_not_wait_for_it),
        READY(sizes_are_asked_for_until_one_is_not_told),
        READY(no_size_is_asked_for_after_the_deadline),
        READY(what_is_late_already_is_not_sent),
        CLOSED(one_call_too_many_is_refused),
        CLOSED(r18_device_memory_is_refused_unless_it_is_known_to_work),
        CLOSED(replicas_and_pins_are_asked_for_and_never_none),
        CLOSED(newer_functions_are_used_where_the_user_says_so),
        CLOSED(r17_a_library_may_lack_what_is_not_called),
        CLOSED(nothing_here_allocates_after_the_open),
        READY(r4_what_is_lent_twice_is_registered_once),
        READY(pieces_that_overlap_are_noted_and_their_values_staged),
        READY(a_registration_that_fails_is_told),
        READY(lending_nothing_or_what_is_not_lent_is_no_call),
        CLOSED(pieces_that_find_no_place_are_staged),
        CLOSED(what_is_counted_only_keeps_others_from_being_registered),
        CLOSED(what_finds_no_place_and_cannot_be_staged_is_refused),
        READY(what_lies_in_anothers_piece_only_by_overlap_is_staged),
        CLOSED(what_is_kept_makes_place_for_what_is_lent_oldest_first),
        CLOSED(what_is_kept_is_not_used_in_place),
        CLOSED(threads_share_a_store_and_its_staging_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
