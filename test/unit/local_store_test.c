/* Cleat: batches put and got, put together. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cleat/local_store.h"
#include "cleat/memory_store.h"
#include "cleat/store_faults.h"

#define S CLEAT_NS_PER_S
#define MS CLEAT_NS_PER_MS
#define WATCHDOG_S 60u

/* Counts that keep blocks small. */
static const struct cleat_local_store_config small = {
    .service = {.batches_max = 2, .keys_max = 16},
    .threads = {.threads = 2, .jobs_max = 8},
    .seed = 1};

static _Alignas(64) unsigned char memory[1 << 20];
static _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
static _Alignas(64) unsigned char faults[1 << 20];

static uint64_t in(uint64_t ns)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context) + ns;
}

static struct cleat_store memory_store(void)
{
    struct cleat_store store;

    assert_int_equal(cleat_memory_store_init(memory, sizeof memory, NULL, end,
                                             sizeof end, &store, NULL),
                     CLEAT_OK);
    return store;
}

/* Opened in a block that begins `off` bytes behind an aligned address. */
static struct cleat_local_store *opened(unsigned char **block, size_t off,
                                        const struct cleat_store *store)
{
    size_t bytes = cleat_local_store_bytes(&small);
    struct cleat_local_store *out;
    struct cleat_error error;

    *block = aligned_alloc(64, (bytes + 127) & ~(size_t)63);
    assert_non_null(*block);
    memset(*block, 0xA5, bytes + off);
    assert_int_equal(cleat_local_store_open(*block + off, bytes, &small, store,
                                            &out, &error),
                     CLEAT_OK);
    assert_int_equal(cleat_transfer_service_ready(
                         cleat_local_store_service(out), in(30 * S), &error),
                     CLEAT_OK);
    return out;
}

static void what_was_put_is_got_from_a_block_of_any_alignment(void **state)
{
    struct cleat_store store = memory_store();
    unsigned char *block;
    struct cleat_local_store *local = opened(&block, 8, &store);
    struct cleat_transfer_service *service = cleat_local_store_service(local);
    char bytes[2][6] = {"hello", "world"};
    char got[2][6] = {{0}, {0}};
    struct cleat_transfer_value put[2] = {
        {.key = "a", .payload = bytes[0], .bytes = 6},
        {.key = "b", .payload = bytes[1], .bytes = 6}};
    struct cleat_transfer_value get[2] = {
        {.key = "b", .payload = got[0], .bytes = 6},
        {.key = "a", .payload = got[1], .bytes = 6}};
    struct cleat_error error;

    (void)state;
    assert_int_equal(cleat_transfer_put(service, put, 2, NULL, NULL, &error),
                     CLEAT_OK);
    assert_int_equal(cleat_transfer_get(service, get, 2, NULL, NULL, &error),
                     CLEAT_OK);
    assert_string_equal(got[0], "world");
    assert_string_equal(got[1], "hello");
    assert_int_equal(cleat_local_store_close(local, in(30 * S), &error),
                     CLEAT_OK);
    free(block);
    cleat_memory_store_detach(&store);
}

static void
a_close_says_that_a_call_is_stuck_and_can_be_made_again(void **state)
{
    static const struct cleat_store_fault silence = {
        .kind = CLEAT_STORE_FAULT_SILENCE, .key = "mute"};
    struct cleat_store_faults_config config = {
        .rules = &silence, .rules_count = 1, .counters_count = 1024};
    struct cleat_store inner = memory_store();
    struct cleat_transfer_options options = {0};
    struct cleat_transfer_value value = {
        .key = "mute", .payload = memory, .bytes = 1};
    struct cleat_local_store *local;
    struct cleat_store store;
    struct cleat_error error;
    unsigned char *block;

    (void)state;
    assert_int_equal(cleat_store_faults_init(faults, sizeof faults, &config,
                                             &inner, &store, &error),
                     CLEAT_OK);
    local = opened(&block, 0, &store);
    /* A deadline that comes before the call has begun leaves nothing lent. */
    for (uint64_t wait_ns = 20 * MS; value.lent == 0; wait_ns *= 2) {
        options.deadline_ns = in(wait_ns);
        assert_int_not_equal(
            cleat_transfer_put(cleat_local_store_service(local), &value, 1,
                               &options, NULL, &error),
            CLEAT_OK);
    }
    assert_int_equal(value.lent, 1);
    assert_int_equal(cleat_local_store_close(local, in(10 * MS), &error),
                     CLEAT_DEADLINE);
    assert_int_equal(error.index, 1);
    cleat_store_faults_wake(&store);
    assert_int_equal(cleat_local_store_close(local, in(30 * S), &error),
                     CLEAT_OK);
    free(block);
    cleat_memory_store_detach(&inner);
}

/* A put of `value` over one of the same key is refused: and so that one is
 * still there. */
static void assert_refused(struct cleat_transfer_service *service,
                           struct cleat_transfer_value value, uint32_t verify,
                           enum cleat_status expected)
{
    struct cleat_transfer_options options = {.mode = CLEAT_TRANSFER_REPLACE,
                                             .verify = verify};
    char got[4] = {0};
    struct cleat_transfer_value old = {
        .key = "a", .payload = got, .bytes = sizeof got};
    struct cleat_transfer_summary summary;
    struct cleat_error error;

    value.key = "a";
    assert_int_equal(
        cleat_transfer_put(service, &value, 1, &options, &summary, &error),
        expected);
    assert_int_equal(summary.sent, 0);
    assert_int_equal(cleat_transfer_get(service, &old, 1, NULL, NULL, &error),
                     CLEAT_OK);
    assert_string_equal(got, "old");
}

static void
what_a_store_does_not_take_is_refused_before_anything_is_removed(void **state)
{
    static char large[CLEAT_FRAME_BYTES + 101];
    char *payload = large + CLEAT_FRAME_BYTES;
    struct cleat_store store = memory_store();
    struct cleat_transfer_value value = {
        .key = "a", .payload = (char[]){"old"}, .bytes = 4};
    struct cleat_transfer_service *service;
    struct cleat_local_store *local;
    struct cleat_error error;
    unsigned char *block;

    (void)state;
    store.staged_bytes_max = 100;
    store.refuses |= CLEAT_STORE_NO_EMPTY_RAW;
    local = opened(&block, 0, &store);
    service = cleat_local_store_service(local);
    assert_int_equal(cleat_transfer_put(service, &value, 1, NULL, NULL, &error),
                     CLEAT_OK);
    value = (struct cleat_transfer_value){
        .payload = payload, .bytes = 10, .flags = CLEAT_STORE_DEVICE};
    assert_refused(service, value, 0, CLEAT_UNSUPPORTED);
    value.bytes = 0;
    value.flags = CLEAT_STORE_RAW;
    assert_refused(service, value, 0, CLEAT_UNSUPPORTED);
    value.bytes = 101;
    value.flags = 0;
    assert_refused(service, value, 0, CLEAT_LIMIT);
    value.flags = CLEAT_STORE_ROOM;
    assert_refused(service, value, CLEAT_TRANSFER_VERIFY_FULL, CLEAT_LIMIT);
    /* What needs no copy may be larger. */
    value.key = "b";
    assert_int_equal(cleat_transfer_put(service, &value, 1, NULL, NULL, &error),
                     CLEAT_OK);
    assert_int_equal(cleat_local_store_close(local, in(30 * S), &error),
                     CLEAT_OK);
    free(block);
    cleat_memory_store_detach(&store);
}

static void r6_a_store_whose_word_is_not_believed_is_looked_at(void **state)
{
    static const struct cleat_store_fault lost = {
        .kind = CLEAT_STORE_FAULT_LOST,
        .rate = CLEAT_STORE_FAULT_ALWAYS,
        .times = 1};
    struct cleat_store_faults_config rules = {
        .rules = &lost, .rules_count = 1, .counters_count = 1024};
    struct cleat_local_store_config config = small;
    struct cleat_store inner = memory_store();
    size_t bytes;
    unsigned char *block;

    (void)state;
    config.service.batch.pace_ns = MS;
    bytes = cleat_local_store_bytes(&config);
    block = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    assert_non_null(block);
    for (uint32_t verify_min = 0; verify_min <= CLEAT_TRANSFER_VERIFY_FULL;
         verify_min++) {
        char got = 0;
        struct cleat_transfer_value value = {
            .key = (char[]){'k', (char)('0' + verify_min), 0},
            .payload = (char[]){'x'},
            .bytes = 1};
        struct cleat_local_store *local;
        struct cleat_store store;
        struct cleat_error error;
        struct cleat_transfer_service *service;

        assert_int_equal(cleat_store_faults_init(faults, sizeof faults, &rules,
                                                 &inner, &store, &error),
                         CLEAT_OK);
        store.verify_min = verify_min;
        assert_int_equal(cleat_local_store_open(block, bytes, &config, &store,
                                                &local, &error),
                         CLEAT_OK);
        service = cleat_local_store_service(local);
        assert_int_equal(
            cleat_transfer_service_ready(service, in(30 * S), &error),
            CLEAT_OK);
        assert_int_equal(
            cleat_transfer_put(service, &value, 1, NULL, NULL, &error),
            CLEAT_OK);
        value.payload = &got;
        assert_int_equal(
            cleat_transfer_get(service, &value, 1, NULL, NULL, &error),
            verify_min == 0 ? CLEAT_NOT_FOUND : CLEAT_OK);
        assert_int_equal(cleat_local_store_close(local, in(30 * S), &error),
                         CLEAT_OK);
    }
    free(block);
    cleat_memory_store_detach(&inner);
}

/* A thread that waits for what never comes. */
struct waiter {
    struct cleat_transfer_service *service;
    sem_t begun;
    enum cleat_status status;
};

static void tell_begun(void *context, uint32_t ended, uint32_t count,
                       const struct cleat_transfer_totals *totals)
{
    struct waiter *waiter = context;

    (void)ended;
    (void)count;
    (void)totals;
    (void)sem_post(&waiter->begun);
}

static void *wait_for_ever(void *context)
{
    struct waiter *waiter = context;
    struct cleat_transfer_options options = {.progress = tell_begun,
                                             .progress_context = waiter,
                                             .deadline_ns = CLEAT_NEVER,
                                             .wait = 1};
    char byte;
    struct cleat_transfer_value value = {
        .key = "never", .payload = &byte, .bytes = 1};

    waiter->status = cleat_transfer_get(waiter->service, &value, 1, &options,
                                        NULL, NULL);
    return NULL;
}

static void a_close_ends_who_waits_and_waits_for_them(void **state)
{
    struct cleat_store store = memory_store();
    struct waiter waiter = {.status = CLEAT_OK};
    struct cleat_transfer_value value = {
        .key = "late", .payload = memory, .bytes = 1};
    struct cleat_local_store *local;
    struct cleat_error error;
    unsigned char *block;
    pthread_t thread;

    (void)state;
    local = opened(&block, 0, &store);
    waiter.service = cleat_local_store_service(local);
    assert_int_equal(sem_init(&waiter.begun, 0, 0), 0);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_ever, &waiter), 0);
    while (sem_wait(&waiter.begun) != 0) {}
    assert_int_equal(
        cleat_transfer_service_close(waiter.service, in(30 * S), &error),
        CLEAT_OK);
    assert_int_equal(
        cleat_transfer_put(waiter.service, &value, 1, NULL, NULL, &error),
        CLEAT_STATE);
    assert_int_equal(cleat_local_store_close(local, in(30 * S), &error),
                     CLEAT_OK);
    memset(block, 0xA5, cleat_local_store_bytes(&small));
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(waiter.status, CLEAT_CANCELLED);
    (void)sem_destroy(&waiter.begun);
    free(block);
    cleat_memory_store_detach(&store);
}

static void a_block_that_is_too_small_is_told_the_bytes(void **state)
{
    struct cleat_store store = memory_store();
    size_t bytes = cleat_local_store_bytes(&small);
    struct cleat_local_store *local;
    struct cleat_error error;

    (void)state;
    assert_int_equal(cleat_local_store_open(faults, bytes - 1, &small, &store,
                                            &local, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
    assert_null(local);
    assert_int_equal(
        cleat_local_store_open(NULL, bytes, &small, &store, &local, &error),
        CLEAT_INVALID);
    assert_int_equal(error.index, 0);
    cleat_memory_store_detach(&store);
}

static void counts_out_of_range_have_no_size(void **state)
{
    struct cleat_local_store_config config = small;

    (void)state;
    assert_true(cleat_local_store_bytes(NULL) > 0);
    config.threads.threads = CLEAT_LINUX_THREADS_MAX + 1;
    assert_int_equal(cleat_local_store_bytes(&config), 0);
    config = small;
    config.service.batches_max = UINT32_MAX;
    assert_int_equal(cleat_local_store_bytes(&config), 0);
}

static void nothing_is_closed_by_closing_nothing(void **state)
{
    (void)state;
    assert_int_equal(cleat_local_store_close(NULL, 0, NULL), CLEAT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_put_is_got_from_a_block_of_any_alignment),
        cmocka_unit_test(
            a_close_says_that_a_call_is_stuck_and_can_be_made_again),
        cmocka_unit_test(
            what_a_store_does_not_take_is_refused_before_anything_is_removed),
        cmocka_unit_test(r6_a_store_whose_word_is_not_believed_is_looked_at),
        cmocka_unit_test(a_close_ends_who_waits_and_waits_for_them),
        cmocka_unit_test(a_block_that_is_too_small_is_told_the_bytes),
        cmocka_unit_test(counts_out_of_range_have_no_size),
        cmocka_unit_test(nothing_is_closed_by_closing_nothing),
    };

    (void)alarm(WATCHDOG_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
