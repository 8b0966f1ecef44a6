/* Cleat: the tool service under 64 threads. SPDX-License-Identifier: Apache-2.0
 *
 * What tool_service_model proves of every schedule of a few fibres, here for
 * many schedules of real threads, with the thread sanitizer looking on where
 * the build has it. The heap is forbidden once everything is there. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cleat/linux.h"
#include "cleat/tool_service.h"
#include "no_malloc.h"
#include "tool_loader.h"

#define WATCHDOG_S 100u
#define MS CLEAT_NS_PER_MS

enum { THREADS = 64, CALLERS = 48, ROUNDS = 6, GETS = 150 };

static const struct cleat_retry_policy hasty = {
    .base_ns = MS,
    .max_ns = 2 * MS,
    .deadline_ns = CLEAT_NONE,
    .attempt_timeout_ns = 10 * MS,
    .attempts_max = 3,
    .jitter = CLEAT_RETRY_JITTER_FULL};

/* For the round in which nothing is to fail because a machine is slow. */
static const struct cleat_retry_policy calm = {.base_ns = MS,
                                               .deadline_ns = CLEAT_NONE,
                                               .attempt_timeout_ns = 60000 * MS,
                                               .attempts_max = 3};

/* Fewer slots than there are keys, and fewer places than there are threads. */
static struct cleat_tool_service_config config = {.cache = {.policy = &hasty},
                                                  .callers_max = CALLERS,
                                                  .configs_max = 4,
                                                  .slots_count = 8,
                                                  .slot_bytes = 1024,
                                                  .calls_max = 4,
                                                  .call_bytes = 256};

static const char *const paths[] = {"a", "tools/b", "ab", "bc", "c"};
#define PATHS (sizeof paths / sizeof paths[0])

/* ---- what everything is made of ----------------------------------------- */

static _Alignas(
    64) unsigned char threads_block[CLEAT_LINUX_THREADS_BYTES(1, 4)];
static _Alignas(64) unsigned char mailbox_block[CLEAT_LINUX_MAILBOX_BYTES(64)];
static _Alignas(
    64) unsigned char boxes[CALLERS + 1][CLEAT_LINUX_MAILBOX_BYTES(1) + 64];
static _Alignas(64) unsigned char service_block[1 << 17];

static struct cleat_threads threads;
static struct cleat_mailbox mailbox;
static struct cleat_mailbox callers[CALLERS + 1];
static struct tool_loader loader;
static struct cleat_tool_service *service;

static void open_ports(bool faults, uint64_t seed)
{
    struct cleat_linux_threads_config one = {1, 4};

    assert_int_equal(cleat_linux_threads_init(threads_block,
                                              sizeof threads_block, &one,
                                              &threads, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_linux_mailbox_init(mailbox_block,
                                              sizeof mailbox_block, 64,
                                              &mailbox, NULL),
                     CLEAT_OK);
    for (uint32_t i = 0; i <= CALLERS; i++) {
        unsigned char *at = boxes[i];

        at += (size_t)(-(uintptr_t)at % 64);
        assert_int_equal(cleat_linux_mailbox_init(at,
                                                  CLEAT_LINUX_MAILBOX_BYTES(1),
                                                  1, &callers[i], NULL),
                         CLEAT_OK);
    }
    memset(&loader, 0, sizeof loader);
    loader.mailbox = mailbox;
    loader.faults = faults;
    loader.seed = seed;
    assert_true(tool_loader_begin(&loader));
}

static void open_service(void)
{
    struct cleat_service_ports ports = {
        .clock = cleat_linux_clock(), .threads = threads, .mailbox = mailbox};
    struct cleat_loader port = tool_loader_port(&loader);
    uint32_t messages;
    uint32_t mailboxes;

    cleat_tool_service_needs(&config, &messages, &mailboxes);
    assert_in_range(messages, 1, 64);
    assert_int_equal(mailboxes, CALLERS + 1);
    assert_int_equal(
        cleat_tool_service_init(service_block, sizeof service_block, &config,
                                &ports, callers, &port, 7, &service, NULL),
        CLEAT_OK);
}

static void close_ports(void)
{
    tool_loader_end(&loader);
    cleat_linux_threads_close(&threads);
    for (uint32_t i = 0; i <= CALLERS; i++) {
        cleat_linux_mailbox_close(&callers[i]);
    }
    cleat_linux_mailbox_close(&mailbox);
}

static uint64_t now(void)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context);
}

/* ---- what a thread does ------------------------------------------------- */

struct agent {
    pthread_t thread;
    uint64_t random;
    uint32_t got;
    uint32_t refused;
    uint32_t cancelled;
    uint32_t called;
    const char *fault; /* NULL: none */
};

static struct agent agents[THREADS];
static pthread_barrier_t barrier;
static atomic_bool closing;
static atomic_uint gets; /* in this round */

static uint32_t draw(struct agent *agent, uint32_t n)
{
    agent->random ^= agent->random << 13;
    agent->random ^= agent->random >> 7;
    agent->random ^= agent->random << 17;
    return (uint32_t)(agent->random >> 20) % n;
}

static void expect(struct agent *agent, bool good, const char *sentence)
{
    if (!good && agent->fault == NULL) { agent->fault = sentence; }
}

/* What the letters of a path promise. */
static void look_at(struct agent *agent, const struct cleat_tool_list *list,
                    const char *path, uint32_t *versions)
{
    const char *slash = strrchr(path, '/');
    const char *letters = slash != NULL ? slash + 1 : path;

    expect(agent, list->count == strlen(letters), "a list has its sources");
    expect(agent, list->tools == 3 * list->count, "a list has its tools");
    for (uint32_t i = 0; i < list->count; i++) {
        versions[i] = tool_loader_version(list->parts[i].tools, letters[i]);
        expect(agent, versions[i] != 0, "what is given out is whole");
    }
}

static void copy(struct agent *agent, const struct cleat_tool_list *list,
                 const char *path)
{
    uint64_t block[512];
    uint32_t versions[CLEAT_TOOL_SOURCES_MAX];
    struct cleat_tool_list mine;

    expect(agent,
           cleat_tool_list_copy(list, block, sizeof block, &mine, NULL) ==
               CLEAT_OK,
           "a copy is made");
    look_at(agent, &mine, path, versions);
    memset(block, 0, sizeof block);
}

static uint64_t deadline(struct agent *agent)
{
    uint64_t ms = draw(agent, 40);

    return now() + (config.cache.policy == &calm ? 60000 : ms) * MS;
}

static void call(struct agent *agent, const struct cleat_tool_list *list)
{
    struct cleat_tool tool;
    uint32_t position = 0;
    char arguments[32];
    char result[32];
    char name[32];
    size_t bytes;
    bool is_error;
    enum cleat_status status;

    expect(agent, cleat_tool_list_next(list, &position, &tool), "it has tools");
    (void)snprintf(name, sizeof name, "%.*s", (int)tool.name.bytes,
                   tool.name.text);
    (void)snprintf(arguments, sizeof arguments, "{\"n\":%u}",
                   (unsigned)draw(agent, 1u << 20));
    status = cleat_tools_call(
        service, list, name, (struct cleat_text){arguments, strlen(arguments)},
        deadline(agent), result, sizeof result, &bytes, &is_error, NULL);
    if (status != CLEAT_OK) { return; }
    agent->called++;
    expect(agent,
           bytes == strlen(arguments) && memcmp(result, arguments, bytes) == 0,
           "a call gives back what is of this call");
}

static void use(struct agent *agent, struct cleat_tool_list *list,
                const char *path)
{
    uint32_t before[CLEAT_TOOL_SOURCES_MAX];
    uint32_t after[CLEAT_TOOL_SOURCES_MAX];
    struct cleat_tool_list again;

    look_at(agent, list, path, before);
    cleat_tools_pin(list, &again);
    cleat_tools_unpin(list);
    if (draw(agent, 8) == 0) { copy(agent, &again, path); }
    if (draw(agent, 16) == 0) { call(agent, &again); }
    if (draw(agent, 8) == 0) { (void)usleep(draw(agent, 500)); }
    look_at(agent, &again, path, after);
    for (uint32_t i = 0; i < again.count; i++) {
        expect(agent, before[i] == after[i], "what is pinned never changes");
    }
    cleat_tools_unpin(&again);
}

static void get(struct agent *agent)
{
    const char *path = paths[draw(agent, PATHS)];
    struct cleat_tool_list list;
    struct cleat_error error;
    bool was_closing = atomic_load(&closing);
    enum cleat_status status = cleat_tools_get(service, path, deadline(agent),
                                               &list, &error);

    switch (status) {
    case CLEAT_OK:
        expect(agent, !was_closing, "nothing is given out after a close");
        agent->got++;
        use(agent, &list, path);
        break;
    case CLEAT_CANCELLED: agent->cancelled++; break;
    case CLEAT_DEADLINE:
    case CLEAT_NO_SLOT:
    case CLEAT_TRANSIENT:
    case CLEAT_PERMANENT:
    case CLEAT_PEER_SILENT:
        expect(agent, list.count == 0 && error.text[0] != '\0',
               "a failure leaves nothing but its words");
        agent->refused++;
        break;
    default: expect(agent, false, cleat_status_name(status)); break;
    }
}

static void *run_agent(void *context)
{
    struct agent *agent = context;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        (void)pthread_barrier_wait(&barrier);
        for (uint32_t i = 0; i < GETS; i++) {
            struct cleat_tool_failure failures[2];
            struct cleat_tool_cache_counters counters;

            get(agent);
            (void)atomic_fetch_add(&gets, 1);
            if (draw(agent, 40) == 0) {
                (void)cleat_tools_reload(service, paths[draw(agent, PATHS)],
                                         draw(agent, 2) == 0);
            }
            if (draw(agent, 100) == 0) {
                (void)cleat_tools_why(service, "ab", failures, 2);
                cleat_tool_service_count(service, &counters);
            }
        }
        (void)pthread_barrier_wait(&barrier);
    }
    /* A thread that ends gives its own memory back. */
    (void)pthread_barrier_wait(&barrier);
    return NULL;
}

/* ---- the tests ---------------------------------------------------------- */

/* The service is closed a sixth of a round later each time; in the last one
 * everybody has time. */
static void run_round(uint32_t round)
{
    bool is_last = round == ROUNDS - 1;

    config.cache.policy = is_last ? &calm : &hasty;
    tool_loader_faults(&loader, !is_last);
    open_service();
    atomic_store(&closing, false);
    atomic_store(&gets, 0);
    (void)pthread_barrier_wait(&barrier);
    while (atomic_load(&gets) < round * THREADS * GETS / ROUNDS) {
        (void)usleep(20);
    }
    while (cleat_tool_service_close(service, now() + MS) != CLEAT_OK) {}
    atomic_store(&closing, true);
    (void)pthread_barrier_wait(&barrier);
    for (uint32_t i = 0; i < THREADS; i++) {
        if (agents[i].fault != NULL) { fail_msg("%s", agents[i].fault); }
    }
}

static void what_is_got_is_whole_and_stays_so_under_64_threads(void **nothing)
{
    uint32_t got = 0;
    uint32_t refused = 0;
    uint32_t called = 0;

    (void)nothing;
    open_ports(true, 12345);
    assert_int_equal(pthread_barrier_init(&barrier, NULL, THREADS + 1), 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        memset(&agents[i], 0, sizeof agents[i]);
        agents[i].random = UINT64_C(88172645463325252) + i * 7919;
        assert_int_equal(
            pthread_create(&agents[i].thread, NULL, run_agent, &agents[i]), 0);
    }
    cleat_test_forbid_malloc(true);
    for (uint32_t round = 0; round < ROUNDS; round++) { run_round(round); }
    cleat_test_forbid_malloc(false);
    (void)pthread_barrier_wait(&barrier);
    for (uint32_t i = 0; i < THREADS; i++) {
        (void)pthread_join(agents[i].thread, NULL);
        got += agents[i].got;
        refused += agents[i].refused;
        called += agents[i].called;
    }
    close_ports();
    /* Something of everything has happened. */
    print_message("got %u, refused %u, called %u\n", got, refused, called);
    assert_true(got > THREADS && refused > 0 && called > 0);
}

static void hits_and_misses_take_nothing_from_the_heap(void **nothing)
{
    struct cleat_tool_list list;
    struct cleat_tool_list copied;
    struct cleat_error error;
    uint64_t block[512];
    char arguments[] = "{}";
    char result[8];
    size_t bytes;
    bool is_error;
    unsigned long calls;

    (void)nothing;
    open_ports(false, 1);
    open_service();
    /* The first use of a thread's stack, and of the clock. */
    assert_int_equal(cleat_tools_get(service, "c", CLEAT_NEVER, &list, &error),
                     CLEAT_OK);
    cleat_tools_unpin(&list);
    calls = cleat_test_malloc_calls();
    cleat_test_forbid_malloc(true);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(
            cleat_tools_get(service, "ab", CLEAT_NEVER, &list, &error),
            CLEAT_OK);
        assert_int_equal(
            cleat_tool_list_copy(&list, block, sizeof block, &copied, &error),
            CLEAT_OK);
        assert_int_equal(cleat_tools_call(service, &list, "a.tool_0",
                                          (struct cleat_text){arguments, 2},
                                          CLEAT_NEVER, result, sizeof result,
                                          &bytes, &is_error, &error),
                         CLEAT_OK);
        cleat_tools_unpin(&list);
        assert_int_equal(
            cleat_tools_get(service, "none/at/all/", 0, &list, &error),
            CLEAT_DEADLINE);
        assert_int_equal(cleat_tools_reload(service, "ab", i % 2 == 0),
                         CLEAT_OK);
    }
    assert_int_equal(cleat_tool_service_close(service, CLEAT_NEVER), CLEAT_OK);
    cleat_test_forbid_malloc(false);
    assert_int_equal(cleat_test_malloc_calls(), calls);
    close_ports();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hits_and_misses_take_nothing_from_the_heap),
        cmocka_unit_test(what_is_got_is_whole_and_stays_so_under_64_threads),
    };

    (void)alarm(WATCHDOG_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
