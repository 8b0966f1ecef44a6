/* Cleat: the transport over a store. SPDX-License-Identifier: Apache-2.0
 *
 * A sender and two receivers over the store in memory, each with threads and a
 * service of its own, through a layer of faults where a test asks for it. What
 * is left is asked of the store itself. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleat/linux.h"
#include "cleat/local_store.h"
#include "cleat/memory_store.h"
#include "cleat/memory_tensors.h"
#include "cleat/store_faults.h"
#include "cleat/store_transport.h"
#include "cleat/stream.h"

#define RECEIVERS 2u
#define SLOTS 2u
#define BUCKET 1024u
#define BUCKETS 16u
#define JOB "test/job"
#define RUN UINT64_C(0xABCDEF)
#define VERSION 7u
#define STORE_BYTES (1u << 20)
#define WATCHDOG_NS (60 * CLEAT_NS_PER_S)

static uint64_t now_ns(void)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context);
}

/* A generous time, by which what is awaited has come. */
static uint64_t soon(void)
{
    return now_ns() + WATCHDOG_NS;
}

/* ---- a scene ------------------------------------------------------------ */

/* What an end needs, beside the transport. */
struct end {
    struct cleat_local_store *store;
    void *store_block;
    struct cleat_threads threads;
    _Alignas(64) unsigned char threads_block[CLEAT_LINUX_THREADS_BYTES(2, 8)];
    struct cleat_mailbox mailboxes[3];
    _Alignas(64) unsigned char mailbox_blocks[3][CLEAT_LINUX_MAILBOX_BYTES(
        CLEAT_STORE_MESSAGES_MAX)];
    _Alignas(64) unsigned char slots[SLOTS * CLEAT_STORE_SLOT_BYTES(BUCKET)];
    void *block;
};

struct scene {
    unsigned char *memory; /* shared, for tests that fork */
    _Alignas(64) unsigned char attached[CLEAT_MEMORY_STORE_END_BYTES];
    struct cleat_store inner;
    struct cleat_store store; /* with its faults */
    void *faults;
    struct end ends[1 + RECEIVERS];
    struct cleat_transport_sender sender;
    struct cleat_transport_receiver receivers[RECEIVERS];
    struct cleat_transport_ticket ticket;
    uint32_t buckets_max;
    uint64_t timeout_ns; /* of a call of the service */
};
static struct scene scene;

static void *aligned(size_t bytes)
{
    void *block = aligned_alloc(64, (bytes + 63) & ~(size_t)63);

    assert_non_null(block);
    memset(block, 0xA5, bytes);
    return block;
}

static void end_open(struct end *end)
{
    static const struct cleat_retry_policy quick = {
        .base_ns = CLEAT_NS_PER_MS,
        .max_ns = 5 * CLEAT_NS_PER_MS,
        .attempts_max = 8,
    };
    struct cleat_local_store_config config = {
        .service = {.batch = {.policy = &quick,
                              .pace_ns = CLEAT_NS_PER_MS,
                              .discard_ns = 20 * CLEAT_NS_PER_MS},
                    .batches_max = 4,
                    .keys_max = 256,
                    .key_bytes_max = 256 * CLEAT_STORE_KEY_BYTES},
        .threads = {.threads = 3, .jobs_max = 64},
        .seed = 1,
    };
    struct cleat_linux_threads_config threads = {2, 8};
    size_t bytes = cleat_local_store_bytes(&config);
    struct cleat_error error;

    assert_true(bytes > 0);
    config.service.budget.tokens_max = 100000;
    config.service.budget.tokens = 100000;
    end->store_block = aligned(bytes);
    assert_int_equal(cleat_local_store_open(end->store_block, bytes, &config,
                                            &scene.store, &end->store, &error),
                     CLEAT_OK);
    assert_int_equal(cleat_linux_threads_init(end->threads_block,
                                              sizeof end->threads_block,
                                              &threads, &end->threads, NULL),
                     CLEAT_OK);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(cleat_linux_mailbox_init(end->mailbox_blocks[i],
                                                  sizeof end->mailbox_blocks[i],
                                                  CLEAT_STORE_MESSAGES_MAX,
                                                  &end->mailboxes[i], NULL),
                         CLEAT_OK);
    }
    assert_int_equal(cleat_transfer_service_ready(
                         cleat_local_store_service(end->store), soon(), &error),
                     CLEAT_OK);
}

static void end_close(struct end *end)
{
    if (end->store == NULL) { return; }
    cleat_linux_threads_close(&end->threads);
    for (uint32_t i = 0; i < 3; i++) {
        cleat_linux_mailbox_close(&end->mailboxes[i]);
    }
    assert_int_equal(cleat_local_store_close(end->store, soon(), NULL),
                     CLEAT_OK);
    free(end->store_block);
    free(end->block);
    memset(end, 0, sizeof *end);
}

static struct cleat_store_transport common(struct end *end)
{
    struct cleat_store_transport with = {
        .service = cleat_local_store_service(end->store),
        .clock = cleat_linux_clock(),
        .threads = end->threads,
        .mailboxes = end->mailboxes,
        .job = JOB,
        .slots = end->slots,
        .bucket_bytes = BUCKET,
        .slots_count = SLOTS,
        .timeout_ns = scene.timeout_ns,
    };

    return with;
}

static void sender_open(uint64_t run)
{
    struct end *end = &scene.ends[0];
    struct cleat_store_sender_config config = {.run = run,
                                               .receivers_max = RECEIVERS,
                                               .buckets_max = scene.buckets_max,
                                               .sweep_ns = scene.timeout_ns};
    size_t bytes = cleat_store_sender_bytes(&config);

    end_open(end);
    config.common = common(end);
    end->block = aligned(bytes);
    assert_int_equal(cleat_store_sender_open(end->block, bytes, &config,
                                             &scene.sender, NULL),
                     CLEAT_OK);
    cleat_store_sender_version(&scene.sender, VERSION);
}

static void receiver_open(uint32_t i)
{
    struct end *end = &scene.ends[1 + i];
    struct cleat_store_receiver_config config;
    size_t bytes;

    end_open(end);
    config.common = common(end);
    bytes = cleat_store_receiver_bytes(&config);
    end->block = aligned(bytes);
    assert_int_equal(cleat_store_receiver_open(end->block, bytes, &config,
                                               &scene.receivers[i], NULL),
                     CLEAT_OK);
}

static void faults_open(const struct cleat_store_fault *rules, uint32_t count)
{
    struct cleat_store_faults_config config = {
        .rules = rules, .rules_count = count, .seed = 5};
    size_t bytes = cleat_store_faults_bytes(0);

    scene.faults = aligned(bytes);
    assert_int_equal(cleat_store_faults_init(scene.faults, bytes, &config,
                                             &scene.inner, &scene.store, NULL),
                     CLEAT_OK);
}

static void store_make(void)
{
    memset(&scene, 0, sizeof scene);
    scene.buckets_max = BUCKETS;
    scene.timeout_ns = WATCHDOG_NS;
    scene.memory = mmap(NULL, STORE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(scene.memory != MAP_FAILED);
    assert_int_equal(
        cleat_memory_store_init(scene.memory, STORE_BYTES, NULL, scene.attached,
                                sizeof scene.attached, &scene.inner, NULL),
        CLEAT_OK);
    scene.store = scene.inner;
}

/* Of every rule until it is given. */
static int setup_with(const struct cleat_store_fault *rules, uint32_t count,
                      uint64_t timeout_ns)
{
    store_make();
    scene.timeout_ns = timeout_ns;
    if (count > 0) { faults_open(rules, count); }
    sender_open(RUN);
    for (uint32_t i = 0; i < RECEIVERS; i++) { receiver_open(i); }
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return setup_with(NULL, 0, WATCHDOG_NS);
}

static int setup_bare(void **state)
{
    (void)state;
    store_make();
    return 0;
}

/* What is in the store that is not the service's own. */
static uint32_t objects(void)
{
    struct cleat_memory_store_view view;

    cleat_memory_store_look(&scene.inner, &view);
    return view.keys;
}

static void close_all(void)
{
    assert_int_equal(cleat_store_sender_close(&scene.sender), CLEAT_OK);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        cleat_store_receiver_close(&scene.receivers[i]);
    }
}

/* However a test went, nothing is left. */
static int teardown(void **state)
{
    (void)state;
    if (scene.faults != NULL) { cleat_store_faults_wake(&scene.store); }
    close_all();
    for (uint32_t i = 0; i < 1 + RECEIVERS; i++) { end_close(&scene.ends[i]); }
    assert_int_equal(objects(), 0);
    cleat_memory_store_detach(&scene.inner);
    free(scene.faults);
    assert_int_equal(munmap(scene.memory, STORE_BYTES), 0);
    return 0;
}

/* ---- steps -------------------------------------------------------------- */

static void prepare(uint64_t generation)
{
    assert_int_equal(scene.sender.prepare(scene.sender.context, generation,
                                          RECEIVERS, &scene.ticket),
                     CLEAT_OK);
    assert_int_equal(scene.ticket.fds_count, 0);
    assert_int_equal(scene.sender.group(scene.sender.context, soon()),
                     CLEAT_OK);
}

static enum cleat_status join(uint32_t i)
{
    struct cleat_transport_receiver *r = &scene.receivers[i];
    struct cleat_transport_ticket copy = scene.ticket;

    return r->join(r->context, &copy, i, soon());
}

static void begin(uint64_t generation)
{
    prepare(generation);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        assert_int_equal(join(i), CLEAT_OK);
    }
}

static void publish(uint32_t bucket, const char *text)
{
    uint64_t bytes_max = 0;
    void *data = NULL;

    assert_int_equal(scene.sender.slot(scene.sender.context, bucket % SLOTS,
                                       &data, &bytes_max),
                     CLEAT_OK);
    assert_int_equal(bytes_max, BUCKET);
    assert_int_equal((uintptr_t)data % 64, 0);
    memcpy(data, text, strlen(text) + 1);
    assert_int_equal(scene.sender.publish(scene.sender.context, bucket % SLOTS,
                                          bucket, strlen(text) + 1,
                                          bucket + 77),
                     CLEAT_OK);
}

static enum cleat_status await(uint32_t i, uint32_t bucket, const char **text)
{
    struct cleat_transport_receiver *r = &scene.receivers[i];
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t crc = 0;
    enum cleat_status status = r->wait(r->context, bucket, soon(), &data,
                                       &bytes, &crc);

    *text = data;
    if (status == CLEAT_OK) {
        assert_int_equal((uintptr_t)data % 64, 0);
        assert_int_equal(bytes, strlen(data) + 1);
        assert_int_equal(crc, bucket + 77);
    }
    return status;
}

static enum cleat_status ack(uint32_t i, uint32_t bucket,
                             enum cleat_status status)
{
    struct cleat_transport_receiver *r = &scene.receivers[i];

    return r->ack(r->context, bucket, status);
}

/* Until a receiver has acknowledged `count`, or given up. */
static enum cleat_status await_acked(uint32_t receiver, uint32_t count)
{
    uint64_t end_ns = soon();
    enum cleat_status status = CLEAT_OK;
    uint32_t acked = 0;

    for (;;) {
        assert_int_equal(
            scene.sender.acked(scene.sender.context, receiver, &acked, &status),
            CLEAT_OK);
        if (acked >= count || status != CLEAT_OK) { return status; }
        assert_int_equal(scene.sender.wait(scene.sender.context, end_ns),
                         CLEAT_OK);
    }
}

/* ---- tests -------------------------------------------------------------- */

static void buckets_travel_and_acknowledgements_come_back(void **state)
{
    static const char *const texts[] = {"one", "two", "three", "four", "five"};
    const char *text = NULL;

    (void)state;
    begin(1);
    for (uint32_t b = 0; b < 5; b++) {
        publish(b, texts[b]);
        for (uint32_t i = 0; i < RECEIVERS; i++) {
            assert_int_equal(await(i, b, &text), CLEAT_OK);
            assert_string_equal(text, texts[b]);
            assert_int_equal(ack(i, b, CLEAT_OK), CLEAT_OK);
            assert_int_equal(await_acked(i, b + 1), CLEAT_OK);
        }
    }
}

static void a_receiver_is_given_the_next_bucket_while_it_has_one(void **state)
{
    const char *first = NULL;
    const char *second = NULL;

    (void)state;
    begin(1);
    publish(0, "one");
    publish(1, "two");
    assert_int_equal(await(0, 0, &first), CLEAT_OK);
    assert_int_equal(ack(0, 0, CLEAT_OK), CLEAT_OK);
    assert_int_equal(await(0, 1, &second), CLEAT_OK);
    assert_string_equal(second, "two");
    assert_int_equal(await_acked(0, 1), CLEAT_OK);
}

/* What the sender has been told by now. */
static void hear_all(void)
{
    while (scene.sender.wait(scene.sender.context, 0) == CLEAT_OK) {}
}

static void a_wait_ends_at_its_deadline_or_by_a_wake(void **state)
{
    struct cleat_transport_receiver *r = &scene.receivers[0];
    const char *text = NULL;
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t crc = 0;

    (void)state;
    begin(1);
    assert_int_equal(r->wait(r->context, 0, now_ns(), &data, &bytes, &crc),
                     CLEAT_DEADLINE);
    r->wake(r->context);
    r->wake(r->context);
    assert_int_equal(r->wait(r->context, 0, soon(), &data, &bytes, &crc),
                     CLEAT_PENDING);
    assert_int_equal(r->wait(r->context, 0, now_ns(), &data, &bytes, &crc),
                     CLEAT_DEADLINE);
    /* What the sender's job had to tell it has, when its next deed is seen. */
    publish(0, "one");
    assert_int_equal(await(0, 0, &text), CLEAT_OK);
    hear_all();
    assert_int_equal(scene.sender.wait(scene.sender.context, now_ns()),
                     CLEAT_DEADLINE);
    scene.sender.wake(scene.sender.context);
    scene.sender.wake(scene.sender.context);
    assert_int_equal(scene.sender.wait(scene.sender.context, soon()), CLEAT_OK);
    assert_int_equal(scene.sender.wait(scene.sender.context, 0),
                     CLEAT_DEADLINE);
}

static void *wake_both(void *context)
{
    (void)context;
    scene.sender.wake(scene.sender.context);
    scene.receivers[0].wake(scene.receivers[0].context);
    return NULL;
}

static void another_thread_wakes_a_waiter(void **state)
{
    const char *text = NULL;
    pthread_t thread;

    (void)state;
    begin(1);
    assert_int_equal(pthread_create(&thread, NULL, wake_both, NULL), 0);
    assert_int_equal(await(0, 0, &text), CLEAT_PENDING);
    assert_int_equal(scene.sender.wait(scene.sender.context, soon()), CLEAT_OK);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void a_join_waits_for_its_generation_until_its_deadline(void **state)
{
    struct cleat_transport_receiver *r = &scene.receivers[0];
    struct cleat_transport_ticket copy;

    (void)state;
    prepare(1);
    copy = scene.ticket;
    scene.sender.finish(scene.sender.context);
    prepare(2);
    scene.sender.finish(scene.sender.context);
    assert_int_equal(r->join(r->context, &copy, 0, now_ns()), CLEAT_DEADLINE);
    r->wake(r->context);
    assert_int_equal(r->join(r->context, &copy, 0, soon()), CLEAT_PENDING);
    assert_int_equal(r->join(r->context, &copy, 0, now_ns()), CLEAT_DEADLINE);
}

static void a_receiver_that_waits_is_told_that_the_sender_finished(void **state)
{
    const char *text = NULL;

    (void)state;
    begin(1);
    scene.sender.finish(scene.sender.context);
    scene.sender.finish(scene.sender.context);
    assert_int_equal(await(0, 0, &text), CLEAT_GROUP_FAILED);
    hear_all(); /* that the group was there */
    assert_int_equal(ack(0, 0, CLEAT_CORRUPT), CLEAT_PEER_STALE);
    assert_int_equal(scene.sender.wait(scene.sender.context, 0),
                     CLEAT_DEADLINE);
}

static void an_older_generation_has_no_effect(void **state)
{
    enum cleat_status status = CLEAT_OK;
    const char *text = NULL;
    uint32_t acked = 9;

    (void)state;
    begin(1);
    publish(0, "old");
    assert_int_equal(await(0, 0, &text), CLEAT_OK);
    prepare(2);
    publish(0, "new");
    /* The one that has it does not count any more, and the other never sees
     * it: it was not fetched, or it is not handed out. */
    (void)ack(0, 0, CLEAT_OK);
    assert_int_equal(await(0, 1, &text), CLEAT_GROUP_FAILED);
    assert_int_equal(join(1), CLEAT_OK);
    assert_int_equal(await(1, 0, &text), CLEAT_OK);
    assert_string_equal(text, "new");
    assert_int_equal(ack(1, 0, CLEAT_OK), CLEAT_OK);
    assert_int_equal(await_acked(1, 1), CLEAT_OK);
    assert_int_equal(
        scene.sender.acked(scene.sender.context, 0, &acked, &status), CLEAT_OK);
    assert_int_equal(acked, 0);
    assert_int_equal(status, CLEAT_OK);
}

/* Says what an object of the store is; the name is that of the header. */
static void name(char key[256], uint64_t generation, const char *rest)
{
    (void)snprintf(key, 256, JOB "/%u/%016" PRIx64 "-%016" PRIx64 "/%s",
                   VERSION, generation, RUN, rest);
}

/* Takes an object of one generation for another's. */
static void forge(uint64_t from, uint64_t to, const char *rest)
{
    struct cleat_transfer_service *service = cleat_local_store_service(
        scene.ends[0].store);
    unsigned char payload[64 + BUCKET];
    char key[256];
    struct cleat_transfer_value value = {
        .key = key, .payload = payload, .bytes = sizeof payload};

    name(key, from, rest);
    assert_int_equal(cleat_transfer_get(service, &value, 1, NULL, NULL, NULL),
                     CLEAT_OK);
    name(key, to, rest);
    assert_int_equal(cleat_transfer_put(service, &value, 1, NULL, NULL, NULL),
                     CLEAT_OK);
}

static void remove_object(uint64_t generation, const char *rest)
{
    char key[256];
    struct cleat_transfer_value value = {.key = key};

    name(key, generation, rest);
    assert_int_equal(
        cleat_transfer_remove(cleat_local_store_service(scene.ends[0].store),
                              &value, 1, NULL, NULL, NULL),
        CLEAT_OK);
}

static void what_is_of_another_generation_is_not_handed_out(void **state)
{
    const char *text = NULL;

    (void)state;
    begin(1);
    publish(0, "old");
    assert_int_equal(await(0, 0, &text), CLEAT_OK);
    forge(1, 2, "0");
    assert_int_equal(objects(), 4); /* last, head, and two buckets */
    begin(2);
    assert_int_equal(await(0, 0, &text), CLEAT_CORRUPT);
    assert_int_equal(ack(0, 0, CLEAT_CORRUPT), CLEAT_OK);
    assert_int_equal(await_acked(0, 1), CLEAT_CORRUPT);
    remove_object(2, "0");
}

static void why_a_receiver_gave_up_reaches_the_sender(void **state)
{
    const char *text = NULL;

    (void)state;
    begin(1);
    assert_int_equal(ack(1, 0, CLEAT_CANCELLED), CLEAT_OK);
    assert_int_equal(await_acked(1, 1), CLEAT_CANCELLED);
    assert_int_equal(await(1, 0, &text), CLEAT_STATE);
    publish(0, "one");
    assert_int_equal(await(0, 0, &text), CLEAT_OK);
    assert_int_equal(ack(0, 0, CLEAT_CORRUPT), CLEAT_OK);
    assert_int_equal(await_acked(0, 1), CLEAT_CORRUPT);
}

static void a_receiver_that_never_acknowledges_holds_up_nobody(void **state)
{
    const char *text = NULL;

    (void)state;
    begin(1);
    for (uint32_t b = 0; b < BUCKETS; b++) {
        publish(b, "x");
        assert_int_equal(await(0, b, &text), CLEAT_OK);
        assert_int_equal(ack(0, b, CLEAT_OK), CLEAT_OK);
        assert_int_equal(await_acked(0, b + 1), CLEAT_OK);
    }
    /* Nor does the store fill: what was in a slot that is used again, is
     * removed. */
    assert_true(objects() <= 2 + SLOTS * (1 + RECEIVERS));
}

static void an_acknowledgement_that_comes_too_late_is_taken_back(void **state)
{
    const char *text = NULL;

    (void)state;
    begin(1);
    publish(0, "one");
    assert_int_equal(await(0, 0, &text), CLEAT_OK);
    assert_int_equal(await(1, 0, &text), CLEAT_OK);
    assert_int_equal(cleat_store_sender_close(&scene.sender), CLEAT_OK);
    assert_int_equal(objects(), 0);
    (void)ack(0, 0, CLEAT_OK);
    (void)ack(1, 0, CLEAT_CORRUPT);
    scene.receivers[0].leave(scene.receivers[0].context);
    /* The rest is the teardown's. */
}

static void what_is_misused_is_refused(void **state)
{
    struct cleat_transport_receiver *r = &scene.receivers[0];
    struct cleat_transport_ticket ticket;
    enum cleat_status status = CLEAT_OK;
    const char *text = NULL;
    uint64_t bytes_max = 0;
    uint32_t acked = 0;
    void *data = NULL;

    (void)state;
    assert_int_equal(scene.sender.publish(scene.sender.context, 0, 0, 1, 0),
                     CLEAT_STATE);
    assert_int_equal(scene.sender.group(scene.sender.context, soon()),
                     CLEAT_STATE);
    assert_int_equal(
        scene.sender.acked(scene.sender.context, 0, &acked, &status),
        CLEAT_INVALID);
    assert_int_equal(await(0, 0, &text), CLEAT_STATE);
    assert_int_equal(ack(0, 0, CLEAT_OK), CLEAT_STATE);
    assert_int_equal(scene.sender.prepare(scene.sender.context, 1, 0, &ticket),
                     CLEAT_INVALID);
    assert_int_equal(
        scene.sender.prepare(scene.sender.context, 1, RECEIVERS + 1, &ticket),
        CLEAT_INVALID);
    begin(1);
    assert_int_equal(scene.sender.prepare(scene.sender.context, 1, 1, &ticket),
                     CLEAT_INVALID);
    assert_int_equal(
        scene.sender.slot(scene.sender.context, SLOTS, &data, &bytes_max),
        CLEAT_INVALID);
    assert_int_equal(scene.sender.publish(scene.sender.context, 1, 0, 1, 0),
                     CLEAT_INVALID);
    assert_int_equal(
        scene.sender.publish(scene.sender.context, 0, 0, BUCKET + 1, 0),
        CLEAT_INVALID);
    assert_int_equal(
        scene.sender.publish(scene.sender.context, 0, BUCKETS, 1, 0),
        CLEAT_LIMIT);
    assert_int_equal(await(0, 1, &text), CLEAT_STATE);
    assert_int_equal(ack(0, 0, CLEAT_OK), CLEAT_STATE);
    ticket = scene.ticket;
    assert_int_equal(r->join(r->context, &ticket, RECEIVERS, soon()),
                     CLEAT_INVALID);
    for (uint32_t i = 0; i < ticket.bytes_count; i++) {
        ticket = scene.ticket;
        ticket.bytes[i] ^= 1;
        assert_int_equal(r->join(r->context, &ticket, 0, soon()),
                         CLEAT_MALFORMED);
    }
    ticket = scene.ticket;
    ticket.bytes_count--;
    assert_int_equal(r->join(r->context, &ticket, 0, soon()), CLEAT_MALFORMED);
}

/* ---- whole transfers ---------------------------------------------------- */

#define TENSORS 3u
static const uint64_t tensor_bytes[TENSORS] = {3000, 1, 5000};

struct table {
    struct cleat_memory_tensor rows[TENSORS];
    unsigned char data[TENSORS][5000];
    struct cleat_memory_tensors tensors;
};

static struct table tables[1 + RECEIVERS];
static struct cleat_plan plan;
static uint64_t plan_ends[TENSORS];
static struct cleat_clock the_clock;
static uint64_t patience_ns; /* of an attempt's ends with each other */

static void table_make(struct table *table, unsigned seed)
{
    static const char *const names[TENSORS] = {"a", "b", "c"};

    memset(table, 0, sizeof *table);
    for (uint32_t i = 0; i < TENSORS; i++) {
        table->rows[i].name = names[i];
        table->rows[i].dtype = CLEAT_DTYPE_U8;
        table->rows[i].rank = 1;
        table->rows[i].shape[0] = tensor_bytes[i];
        table->rows[i].data = table->data[i];
        for (uint32_t k = 0; seed != 0 && k < tensor_bytes[i]; k++) {
            table->data[i][k] = (unsigned char)(seed * (k + 1) + (k >> 8) + i);
        }
    }
    assert_int_equal(
        cleat_memory_tensors_init(&table->tensors, table->rows, TENSORS, NULL),
        CLEAT_OK);
}

static void plan_make(void)
{
    assert_int_equal(cleat_plan_begin(&plan, plan_ends, TENSORS, BUCKET, NULL),
                     CLEAT_OK);
    for (uint32_t i = 0; i < TENSORS; i++) {
        assert_int_equal(cleat_plan_add(&plan, tensor_bytes[i]), CLEAT_OK);
    }
    cleat_plan_end(&plan);
}

struct receiving {
    uint32_t index;
    uint64_t generation;
    enum cleat_status status;
    pthread_t thread;
};

static void *receive(void *context)
{
    struct receiving *receiving = context;
    struct cleat_transport_receiver *r = &scene.receivers[receiving->index];
    struct cleat_tensor_sink sink = cleat_memory_tensors_sink(
        &tables[1 + receiving->index].tensors);
    struct cleat_stream_receiving with = {
        .transport = r,
        .sink = &sink,
        .plan = &plan,
        .clock = &the_clock,
        .generation = receiving->generation,
        .bucket_timeout_ns = patience_ns,
        .digest_kind = CLEAT_DIGEST_BUILD,
    };
    struct cleat_transport_ticket ticket = scene.ticket;
    struct cleat_stream_report report;

    receiving->status = r->join(r->context, &ticket, receiving->index,
                                now_ns() + patience_ns);
    if (receiving->status == CLEAT_OK) {
        receiving->status = cleat_stream_receive(&with, &report, NULL);
    }
    return NULL;
}

/* One attempt. Whoever is said to have all, has all. */
static bool attempt(uint64_t generation)
{
    static _Alignas(8) unsigned char pipeline[CLEAT_PIPELINE_BYTES(RECEIVERS)];
    struct cleat_tensor_source source = cleat_memory_tensors_source(
        &tables[0].tensors);
    struct cleat_stream_sending with = {
        .transport = &scene.sender,
        .source = &source,
        .plan = &plan,
        .clock = &the_clock,
        .block = pipeline,
        .block_bytes = sizeof pipeline,
        .generation = generation,
        .ack_timeout_ns = patience_ns,
        .receivers_count = RECEIVERS,
    };
    struct cleat_stream_result results[RECEIVERS];
    struct cleat_stream_report report;
    struct receiving receiving[RECEIVERS];
    enum cleat_status status;
    bool all = true;

    table_make(&tables[0], (unsigned)generation * 2 + 1);
    assert_int_equal(scene.sender.prepare(scene.sender.context, generation,
                                          RECEIVERS, &scene.ticket),
                     CLEAT_OK);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        table_make(&tables[1 + i], 0);
        receiving[i] = (struct receiving){.index = i, .generation = generation};
        assert_int_equal(
            pthread_create(&receiving[i].thread, NULL, receive, &receiving[i]),
            0);
    }
    status = scene.sender.group(scene.sender.context,
                                now_ns() + 2 * patience_ns);
    if (status == CLEAT_OK) {
        status = cleat_stream_send(&with, results, &report, NULL);
    }
    scene.sender.finish(scene.sender.context);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        assert_int_equal(pthread_join(receiving[i].thread, NULL), 0);
        scene.receivers[i].leave(scene.receivers[i].context);
        all = all && status == CLEAT_OK && results[i].status == CLEAT_OK;
        if (status == CLEAT_OK && results[i].status == CLEAT_OK) {
            assert_memory_equal(tables[1 + i].data, tables[0].data,
                                sizeof tables[0].data);
        }
    }
    return all;
}

/* Generation after generation, until there were `wanted` good ones. Where none
 * may fail, everybody has time. */
static void transfer_until(uint32_t wanted, uint32_t attempts_max)
{
    uint32_t good = 0;
    uint32_t attempts = 0;

    patience_ns = attempts_max == wanted ? WATCHDOG_NS : CLEAT_NS_PER_S;
    the_clock = cleat_linux_clock();
    plan_make();
    while (good < wanted) {
        assert_true(attempts < attempts_max);
        if (attempt(++attempts)) { good++; }
    }
}

static void every_byte_reaches_every_receiver(void **state)
{
    (void)state;
    transfer_until(20, 20);
}

/* Faults that a put, a get or a question gets over by itself. */
static void transfers_go_on_over_faults(void **state)
{
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_TRANSIENT, .rate = 100000, .times = 2},
        {.kind = CLEAT_STORE_FAULT_AMBIGUOUS_PUT, .rate = 100000, .times = 1},
        {.kind = CLEAT_STORE_FAULT_CORRUPT, .rate = 50000, .times = 1},
        {.kind = CLEAT_STORE_FAULT_SHORT, .rate = 50000, .times = 1},
        {.kind = CLEAT_STORE_FAULT_LOST, .rate = 50000, .times = 1},
        {.kind = CLEAT_STORE_FAULT_SILENCE,
         .rate = 20000,
         .times = 1,
         .ns = 10 * CLEAT_NS_PER_MS},
    };

    (void)state;
    assert_int_equal(
        setup_with(rules, sizeof rules / sizeof rules[0], 2 * CLEAT_NS_PER_S),
        0);
    transfer_until(10, 30);
    assert_true(cleat_store_faults_struck(&scene.store, UINT32_MAX) > 0);
}

/* Faults that fail an attempt: the next one is another. */
static void an_attempt_that_failed_leaves_the_next_one_whole(void **state)
{
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_CORRUPT_STORED, .rate = 20000},
        {.kind = CLEAT_STORE_FAULT_TORN, .rate = 20000},
        {.kind = CLEAT_STORE_FAULT_PERMANENT,
         .operations = CLEAT_STORE_FAULT_GETS | CLEAT_STORE_FAULT_PUTS,
         .rate = 10000},
    };

    (void)state;
    assert_int_equal(
        setup_with(rules, sizeof rules / sizeof rules[0], 2 * CLEAT_NS_PER_S),
        0);
    transfer_until(3, 60);
}

static void a_store_that_falls_silent_ends_no_wait_late(void **state)
{
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_SILENCE,
         .operations = CLEAT_STORE_FAULT_PUTS,
         .key = JOB "/7/0000000000000001-0000000000abcdef/1",
         .times = 1},
    };
    struct cleat_transport_receiver *r = &scene.receivers[0];
    enum cleat_status status;
    const void *data = NULL;
    const char *text = NULL;
    uint64_t bytes = 0;
    uint32_t crc = 0;

    (void)state;
    assert_int_equal(setup_with(rules, 1, 6 * CLEAT_NS_PER_S), 0);
    begin(1);
    publish(0, "one");
    assert_int_equal(await(0, 0, &text), CLEAT_OK);
    assert_int_equal(ack(0, 0, CLEAT_OK), CLEAT_OK);
    publish(1, "two");
    assert_int_equal(
        r->wait(r->context, 1, now_ns() + CLEAT_NS_PER_MS, &data, &bytes, &crc),
        CLEAT_DEADLINE);
    /* The put ends at its time, and says so of every receiver. */
    status = await_acked(1, 2);
    assert_true(status == CLEAT_AMBIGUOUS || status == CLEAT_GROUP_FAILED);
    scene.sender.finish(scene.sender.context);
    /* While its buffer is lent, there is no next generation. */
    assert_int_equal(
        scene.sender.prepare(scene.sender.context, 2, RECEIVERS, &scene.ticket),
        CLEAT_OK);
    assert_int_equal(scene.sender.group(scene.sender.context, soon()),
                     CLEAT_AMBIGUOUS);
    cleat_store_faults_wake(&scene.store);
    begin(3);
    publish(0, "three");
    assert_int_equal(await(0, 0, &text), CLEAT_OK);
    assert_string_equal(text, "three");
}

/* ---- what a sender leaves that is killed --------------------------------- */

/* A process that begins a generation, and is killed in the middle. */
static void die_in_the_middle(void)
{
    const char *text = NULL;
    pid_t pid = fork();
    int status = 0;

    assert_true(pid >= 0);
    if (pid == 0) {
        if (cleat_memory_store_attach(scene.memory, STORE_BYTES, scene.attached,
                                      sizeof scene.attached, &scene.inner,
                                      NULL) != CLEAT_OK) {
            _exit(1);
        }
        scene.store = scene.inner;
        sender_open(RUN);
        receiver_open(0);
        prepare(1);
        (void)join(0);
        publish(0, "one");
        (void)await(0, 0, &text);
        (void)ack(0, 0, CLEAT_OK);
        (void)await_acked(0, 1);
        publish(1, "two");
        (void)await(0, 1, &text);
        (void)kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_true(objects() >= 4); /* last, head, and two buckets at least */
}

static void what_a_killed_sender_left_is_removed_by_the_next_one(void **state)
{
    (void)state;
    die_in_the_middle();
    sender_open(RUN + 1);
    prepare(1);
    assert_int_equal(objects(), 2); /* last and head */
}

/* A large job's names are asked for in many calls. */
static void a_clean_up_that_was_cut_off_goes_on_where_it_was(void **state)
{
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_PERMANENT,
         .operations = 1u << CLEAT_TRANSFER_DO_EXISTS,
         .key = JOB "/7/0000000000000001-0000000000abcdef/ack/1/999",
         .times = 1},
        /* No fault: it counts how often the first name is asked for. */
        {.kind = CLEAT_STORE_FAULT_LATE,
         .operations = 1u << CLEAT_TRANSFER_DO_EXISTS,
         .key = JOB "/7/0000000000000001-0000000000abcdef/head",
         .ns = 1},
    };

    (void)state;
    scene.buckets_max = 1000;
    die_in_the_middle();
    faults_open(rules, 2);
    sender_open(RUN + 1);
    assert_int_equal(
        scene.sender.prepare(scene.sender.context, 1, RECEIVERS, &scene.ticket),
        CLEAT_OK);
    assert_int_equal(scene.sender.group(scene.sender.context, soon()),
                     CLEAT_PERMANENT);
    assert_int_equal(cleat_store_faults_struck(&scene.store, 0), 1);
    prepare(2);
    assert_int_equal(cleat_store_faults_struck(&scene.store, 1), 1);
    assert_int_equal(objects(), 2); /* last and head */
}

static void what_a_killed_sender_left_can_be_swept(void **state)
{
    static _Alignas(64) unsigned char block[CLEAT_STORE_SWEEP_BYTES];
    struct cleat_transfer_service *service;
    uint32_t removed = 0;
    uint32_t before;

    (void)state;
    scene.buckets_max = 1000;
    die_in_the_middle();
    end_open(&scene.ends[0]);
    service = cleat_local_store_service(scene.ends[0].store);
    before = objects();
    assert_int_equal(cleat_store_transport_sweep(block, service, "test/other",
                                                 soon(), &removed, NULL),
                     CLEAT_OK);
    assert_int_equal(removed, 0);
    assert_int_equal(objects(), before);
    assert_int_equal(cleat_store_transport_sweep(block, service, JOB, soon(),
                                                 &removed, NULL),
                     CLEAT_OK);
    assert_int_equal(removed, before);
    assert_int_equal(objects(), 0);
    assert_int_equal(cleat_store_transport_sweep(block, service, JOB, soon(),
                                                 &removed, NULL),
                     CLEAT_OK);
    assert_int_equal(removed, 0);
}

static void bad_arguments_are_refused(void **state)
{
    static _Alignas(64) unsigned char block[1u << 18];
    struct cleat_store_sender_config sender;
    struct cleat_store_receiver_config receiver;
    struct cleat_transport_sender out;
    struct cleat_transport_receiver out_receiver;
    struct cleat_error error;
    size_t bytes;

    (void)state;
    end_open(&scene.ends[0]);
    memset(&sender, 0, sizeof sender);
    sender.common = common(&scene.ends[0]);
    sender.receivers_max = RECEIVERS;
    assert_int_equal(cleat_store_sender_bytes(&sender), 0);
    sender.buckets_max = 1;
    bytes = cleat_store_sender_bytes(&sender);
    assert_true(bytes > 0 && bytes <= sizeof block);
    assert_int_equal(
        cleat_store_sender_open(block, bytes - 1, &sender, &out, &error),
        CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
    assert_int_equal(
        cleat_store_sender_open(block + 8, bytes, &sender, &out, &error),
        CLEAT_INVALID);
    sender.common.job = "/job";
    assert_int_equal(
        cleat_store_sender_open(block, bytes, &sender, &out, &error),
        CLEAT_INVALID);
    sender.common.job = "job/";
    assert_int_equal(
        cleat_store_sender_open(block, bytes, &sender, &out, &error),
        CLEAT_INVALID);
    sender.common.job = "";
    assert_int_equal(
        cleat_store_sender_open(block, bytes, &sender, &out, &error),
        CLEAT_INVALID);
    assert_int_equal(cleat_store_sender_close(&out), CLEAT_OK);
    receiver.common = common(&scene.ends[0]);
    receiver.common.slots_count = CLEAT_STORE_SLOTS_MAX + 1;
    bytes = cleat_store_receiver_bytes(&receiver);
    assert_true(bytes <= sizeof block);
    assert_int_equal(cleat_store_receiver_open(block, bytes, &receiver,
                                               &out_receiver, &error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_store_receiver_open(block, bytes - 1, &receiver,
                                               &out_receiver, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
    cleat_store_receiver_close(&out_receiver);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define BARE(name) cmocka_unit_test_setup_teardown(name, setup_bare, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(buckets_travel_and_acknowledgements_come_back),
        TEST(a_receiver_is_given_the_next_bucket_while_it_has_one),
        TEST(a_wait_ends_at_its_deadline_or_by_a_wake),
        TEST(another_thread_wakes_a_waiter),
        TEST(a_join_waits_for_its_generation_until_its_deadline),
        TEST(a_receiver_that_waits_is_told_that_the_sender_finished),
        TEST(an_older_generation_has_no_effect),
        TEST(what_is_of_another_generation_is_not_handed_out),
        TEST(why_a_receiver_gave_up_reaches_the_sender),
        TEST(a_receiver_that_never_acknowledges_holds_up_nobody),
        TEST(an_acknowledgement_that_comes_too_late_is_taken_back),
        TEST(what_is_misused_is_refused),
        TEST(every_byte_reaches_every_receiver),
        cmocka_unit_test_teardown(transfers_go_on_over_faults, teardown),
        cmocka_unit_test_teardown(
            an_attempt_that_failed_leaves_the_next_one_whole, teardown),
        cmocka_unit_test_teardown(a_store_that_falls_silent_ends_no_wait_late,
                                  teardown),
        BARE(what_a_killed_sender_left_is_removed_by_the_next_one),
        BARE(a_clean_up_that_was_cut_off_goes_on_where_it_was),
        BARE(what_a_killed_sender_left_can_be_swept),
        BARE(bad_arguments_are_refused),
    };

    return cmocka_run_group_tests_name("store_transport", tests, NULL, NULL);
}
