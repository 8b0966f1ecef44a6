/* Cleat: the transfer service under many threads. SPDX-License-Identifier:
 * Apache-2.0
 *
 * What transfer_service_model proves of every schedule of a few fibres, here
 * for many schedules of real threads, with the thread sanitizer looking on
 * where the build has it. More threads than there are batches, more calls than
 * there are threads of the pool, a store that is unwell, and somebody who stops
 * everything now and then. The heap is forbidden once everything is there. */
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
#include "cleat/memory_store.h"
#include "cleat/store_faults.h"
#include "cleat/transfer_service.h"
#include "no_malloc.h"

#define WATCHDOG_S 110u
#define US CLEAT_NS_PER_US

enum {
    THREADS = 8,
    POOL = 3,
    BATCHES = 5,
    KEYS = 40,
    BYTES = 256,
    ROUNDS = 400,
    STOP_EVERY = 40, /* batches */
    SERVICE_BYTES = 1 << 19,
    STORE_BYTES = 4 << 20
};

static const struct cleat_retry_policy policy = {
    .base_ns = 20 * US, .max_ns = 200 * US, .attempts_max = 6};

static const struct cleat_transfer_service_config config = {
    .batch = {.policy = &policy,
              .capacity = &policy,
              .pace_ns = 50 * US,
              .discard_ns = CLEAT_NS_PER_MS,
              .call_keys_max = 7,
              .calls_max = 3},
    .budget = {.tokens = 1u << 30, .tokens_max = 1u << 30, .cost = 1},
    .batches_max = BATCHES,
    .keys_max = KEYS,
    .on_failure = 1};

static const struct cleat_store_fault rules[] = {
    {.kind = CLEAT_STORE_FAULT_LATE, .rate = 2000, .ns = 300 * US},
    {.kind = CLEAT_STORE_FAULT_TRANSIENT, .rate = 100000, .times = 1},
    {.kind = CLEAT_STORE_FAULT_AMBIGUOUS_PUT, .rate = 10000, .times = 1},
    {.kind = CLEAT_STORE_FAULT_CORRUPT, .rate = 1000},
};

static _Alignas(
    64) unsigned char pool_block[CLEAT_LINUX_THREADS_BYTES(POOL, 8)];
static _Alignas(
    64) unsigned char boxes_block[BATCHES][CLEAT_LINUX_MAILBOX_BYTES(1) + 64];
static _Alignas(64) unsigned char service_block[SERVICE_BYTES];
static _Alignas(64) unsigned char store_block[STORE_BYTES];
static _Alignas(64) unsigned char end_block[CLEAT_MEMORY_STORE_END_BYTES];
static _Alignas(64) unsigned char faults_block[1 << 18];

static struct cleat_threads pool;
static struct cleat_mailbox boxes[BATCHES];
static struct cleat_store memory;
static struct cleat_store store;
static struct cleat_transfer_service *service;
static atomic_uint batches; /* that have been begun */
static atomic_bool over;

/* ---- what a thread does -------------------------------------------------- */

struct agent {
    pthread_t thread;
    uint32_t number;
    uint64_t random;
    uint32_t ok;
    uint32_t failed;
    uint32_t stopped;
    uint32_t lent;
    const char *wrong; /* NULL: nothing is */
    char keys[KEYS][24];
    struct cleat_transfer_value values[KEYS];
    _Alignas(64) unsigned char payload[KEYS][BYTES + CLEAT_FRAME_BYTES];
};

static struct agent agents[THREADS];

static uint64_t draw(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* What a key's value is, whoever puts it. */
static void fill(unsigned char *payload, const char *key, uint64_t bytes)
{
    uint64_t hash = 1469598103934665603u;

    for (; *key != '\0'; key++) {
        hash = (hash ^ (unsigned char)*key) * 1099511628211u;
    }
    for (uint64_t i = 0; i < bytes; i++) {
        payload[i] = (unsigned char)(hash >> i % 56);
    }
}

static void make(struct agent *agent, uint32_t count, bool get)
{
    uint32_t first = (uint32_t)(draw(&agent->random) % KEYS);

    for (uint32_t i = 0; i < count; i++) {
        struct cleat_transfer_value *value = &agent->values[i];
        uint32_t key = (first + i) % KEYS;

        memset(value, 0, sizeof *value);
        (void)snprintf(agent->keys[i], sizeof agent->keys[i], "%u@field%u",
                       (unsigned)key, (unsigned)agent->number);
        value->key = agent->keys[i];
        value->payload = agent->payload[i] + CLEAT_FRAME_BYTES;
        value->bytes = key * 7 % BYTES;
        value->flags = key % 2 ? CLEAT_STORE_ROOM : 0;
        if (get) {
            memset(value->payload, 0x11, BYTES);
        } else {
            fill(value->payload, value->key, value->bytes);
        }
    }
}

static const char *check(const struct agent *agent, uint32_t count, bool get,
                         const struct cleat_transfer_summary *summary)
{
    const struct cleat_transfer_totals *totals = &summary->totals;
    unsigned char right[BYTES];

    if (totals->ok + totals->failed + totals->unknown != count) {
        return "every key is reported";
    }
    for (uint32_t i = 0; i < count; i++) {
        const struct cleat_transfer_value *value = &agent->values[i];
        const unsigned char *payload = value->payload;

        if (value->status > CLEAT_OK) { return "every key is reported"; }
        if (!get || value->lent) { continue; }
        if (value->status == CLEAT_OK) {
            fill(right, value->key, value->bytes);
            if (memcmp(right, payload, value->bytes) != 0) {
                return "what is ok is right";
            }
        } else if (value->bytes > 0 && payload[0] != 0xA5 &&
                   payload[0] != 0x11) {
            return "what has failed is poisoned, or untouched";
        }
    }
    return NULL;
}

static void drain(void)
{
    while (cleat_transfer_drain(service, CLEAT_NEVER, NULL) != CLEAT_OK) {
        (void)sched_yield();
    }
}

static void one_batch(struct agent *agent)
{
    uint64_t random = draw(&agent->random);
    uint32_t count = 1 + (uint32_t)(random >> 8) % KEYS;
    uint32_t kind = random % 4;
    struct cleat_transfer_options options = {.mode = CLEAT_TRANSFER_KEEP};
    struct cleat_transfer_summary summary;
    struct cleat_error error;
    enum cleat_status status;

    make(agent, count, kind > 1);
    do {
        status = (kind == 0   ? cleat_transfer_remove
                  : kind == 1 ? cleat_transfer_put
                              : cleat_transfer_get)(
            service, agent->values, count, &options, &summary, &error);
        if (status == CLEAT_NO_SLOT) { (void)sched_yield(); }
    } while (status == CLEAT_NO_SLOT);
    if (!summary.sent) { agent->wrong = "what is sound is not refused"; }
    if (agent->wrong == NULL) {
        agent->wrong = check(agent, count, kind > 1, &summary);
    }
    agent->ok += summary.totals.ok;
    agent->failed += summary.totals.failed + summary.totals.unknown;
    agent->stopped += status == CLEAT_CANCELLED;
    agent->lent += summary.totals.lent;
    if (summary.totals.lent > 0) { drain(); }
}

static void *agent_main(void *of)
{
    struct agent *agent = of;

    for (uint32_t i = 0; i < ROUNDS && agent->wrong == NULL; i++) {
        (void)atomic_fetch_add(&batches, 1);
        one_batch(agent);
    }
    return NULL;
}

/* Now and then, as the batches count: a slow machine is stopped no more often.
 */
static void *stop_main(void *nothing)
{
    uint32_t next = STOP_EVERY;
    uint32_t calls;
    uint32_t stuck;

    (void)nothing;
    while (!atomic_load(&over)) {
        (void)usleep(300);
        if (atomic_load(&batches) < next) { continue; }
        next = atomic_load(&batches) + STOP_EVERY;
        cleat_transfer_service_count(service, &calls, &stuck);
        if (stuck <= calls) { cleat_transfer_stop(service); }
    }
    return NULL;
}

/* ---- what everything is made of ------------------------------------------ */

static void open_all(void)
{
    static const struct cleat_linux_threads_config threads = {POOL, 8};
    struct cleat_store_faults_config faults = {
        rules, sizeof rules / sizeof rules[0], 4096, 11};
    struct cleat_service_ports ports = {.clock = cleat_linux_clock()};

    assert_int_equal(cleat_linux_threads_init(pool_block, sizeof pool_block,
                                              &threads, &pool, NULL),
                     CLEAT_OK);
    for (uint32_t i = 0; i < BATCHES; i++) {
        unsigned char *at = boxes_block[i];

        at += (size_t)(-(uintptr_t)at % 64);
        assert_int_equal(cleat_linux_mailbox_init(at,
                                                  CLEAT_LINUX_MAILBOX_BYTES(1),
                                                  1, &boxes[i], NULL),
                         CLEAT_OK);
    }
    assert_int_equal(cleat_memory_store_init(store_block, sizeof store_block,
                                             NULL, end_block, sizeof end_block,
                                             &memory, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_store_faults_init(faults_block, sizeof faults_block,
                                             &faults, &memory, &store, NULL),
                     CLEAT_OK);
    ports.threads = pool;
    assert_true(cleat_transfer_service_bytes(&config) <= SERVICE_BYTES);
    assert_int_equal(cleat_transfer_service_init(
                         service_block, sizeof service_block, &config, &ports,
                         boxes, &store, 3, &service, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_transfer_service_ready(service, CLEAT_NEVER, NULL),
                     CLEAT_OK);
}

static void close_all(void)
{
    cleat_linux_threads_close(&pool);
    for (uint32_t i = 0; i < BATCHES; i++) {
        cleat_linux_mailbox_close(&boxes[i]);
    }
    cleat_memory_store_detach(&memory);
}

static void many_threads_put_and_get_at_once(void **state)
{
    pthread_t stopper;
    uint32_t ok = 0;
    uint32_t stopped = 0;
    uint32_t calls;
    uint32_t stuck;

    (void)state;
    (void)alarm(WATCHDOG_S);
    open_all();
    for (uint32_t i = 0; i < THREADS; i++) {
        agents[i].number = i / 2; /* two share their keys */
        agents[i].random = 88172645463325252u + i;
    }
    cleat_test_exempt_thread(true); /* a thread's stack */
    cleat_test_forbid_malloc(true);
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(
            pthread_create(&agents[i].thread, NULL, agent_main, &agents[i]), 0);
    }
    assert_int_equal(pthread_create(&stopper, NULL, stop_main, NULL), 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(agents[i].thread, NULL), 0);
    }
    atomic_store(&over, true);
    assert_int_equal(pthread_join(stopper, NULL), 0);
    drain();
    cleat_test_forbid_malloc(false);
    cleat_test_exempt_thread(false);
    for (uint32_t i = 0; i < THREADS; i++) {
        if (agents[i].wrong != NULL) { fail_msg("%s", agents[i].wrong); }
        ok += agents[i].ok;
        stopped += agents[i].stopped;
    }
    print_message("ok %u keys, stopped %u batches\n", ok, stopped);
    assert_true(ok > THREADS * ROUNDS);
    cleat_transfer_service_count(service, &calls, &stuck);
    assert_int_equal(calls, 0);
    assert_int_equal(stuck, 0);
    assert_true(cleat_store_faults_struck(&store, 1) > 0);
    close_all();
    (void)alarm(0);
}

/* ---- very many keys ------------------------------------------------------ */

enum { MANY = 250000 };

static atomic_uint asked;

/* Answers whatever it is asked, and counts. */
static enum cleat_status count_call(struct cleat_store_context *context,
                                    struct cleat_store_call *call)
{
    (void)context;
    for (uint32_t i = 0; i < call->count; i++) {
        call->items[i].status = CLEAT_OK;
    }
    (void)atomic_fetch_add(&asked, call->count);
    return CLEAT_OK;
}

static enum cleat_status be_ready(struct cleat_store_context *context,
                                  uint64_t deadline_ns,
                                  struct cleat_error *error)
{
    (void)context;
    (void)deadline_ns;
    (void)error;
    return CLEAT_OK;
}

/* Of so many keys some have the same hash of 32 bits. */
static void keys_of_the_same_hash_are_told_apart(void **state)
{
    static const struct cleat_transfer_service_config large = {
        .keys_max = MANY, .batches_max = BATCHES};
    struct cleat_store counting = {
        .value_bytes_max = CLEAT_NONE, .call = count_call, .ready = be_ready};
    size_t bytes = cleat_transfer_service_bytes(&large);
    void *block = aligned_alloc(64, bytes);
    struct cleat_transfer_value *values = calloc(MANY, sizeof *values);
    char(*keys)[12] = calloc(MANY, sizeof *keys);
    struct cleat_transfer_service *counted = NULL;
    struct cleat_service_ports ports = {.clock = cleat_linux_clock()};

    (void)state;
    (void)alarm(WATCHDOG_S);
    assert_true(block != NULL && values != NULL && keys != NULL);
    open_all();
    ports.threads = pool;
    assert_int_equal(cleat_transfer_service_init(block, bytes, &large, &ports,
                                                 boxes, &counting, 1, &counted,
                                                 NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_transfer_service_ready(counted, CLEAT_NEVER, NULL),
                     CLEAT_OK);
    for (uint32_t i = 0; i < MANY; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "%u", (unsigned)i);
        values[i].key = keys[i];
    }
    assert_int_equal(
        cleat_transfer_exists(counted, values, MANY, NULL, NULL, NULL),
        CLEAT_OK);
    assert_int_equal(atomic_load(&asked), MANY);
    assert_int_equal(cleat_transfer_drain(counted, CLEAT_NEVER, NULL),
                     CLEAT_OK);
    close_all();
    free(keys);
    free(values);
    free(block);
    (void)alarm(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_of_the_same_hash_are_told_apart),
        cmocka_unit_test(many_threads_put_and_get_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
