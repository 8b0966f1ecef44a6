/* Cleat: whole transfers, over shared memory. SPDX-License-Identifier:
 * Apache-2.0
 *
 * One sender and up to three receivers, each a thread; what each receiver holds
 * is compared with what was sent, byte by byte. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cleat/memory.h"
#include "cleat/memory_tensors.h"
#include "cleat/stream.h"
#include "no_malloc.h"

#define TENSORS 5u
#define BUCKET 1024u
#define RECEIVERS 3u
#define SLOTS 3u
#define NOBODY UINT32_MAX

/* Tensors that end, begin and are cut everywhere: 11 buckets of 1024. */
static const uint64_t tensor_bytes[TENSORS] = {1000, 5000, 1, 3333, 1024};
#define BYTES_ALL 10358u
#define BYTES_MAX 5000u

static uint64_t now_ns(struct cleat_clock_context *context)
{
    struct timespec t;

    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * CLEAT_NS_PER_S + (uint64_t)t.tv_nsec;
}
static const struct cleat_clock clock_monotonic = {NULL, now_ns};

struct table {
    struct cleat_memory_tensor rows[TENSORS];
    unsigned char data[TENSORS][BYTES_MAX];
    struct cleat_memory_tensors tensors;
};

static void table_make(struct table *table, unsigned char seed)
{
    static const char *const names[TENSORS] = {"a", "b", "c", "d", "e"};

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

/* What a test does to a bucket. */
struct fault {
    enum cleat_stream_moment moment;
    uint32_t bucket;
    enum cleat_status status; /* returned, unless it corrupts */
    bool corrupts;
    unsigned char scratch[BUCKET];
    uint32_t calls[5]; /* by moment */
};

struct receiver {
    _Alignas(64) unsigned char block[CLEAT_MEMORY_RECEIVER_BYTES];
    struct cleat_transport_receiver transport;
    struct cleat_transport_ticket ticket;
    struct cleat_stream_receiving with;
    struct cleat_stream_report report;
    struct cleat_stream_signal signal;
    struct cleat_tensor_sink sink;
    struct cleat_error error;
    struct table table;
    struct fault fault;
    uint32_t index;
    bool silent; /* joins, and does nothing */
    enum cleat_status status;
    pthread_t thread;
};

struct scene {
    _Alignas(64) unsigned char block[CLEAT_MEMORY_SENDER_BYTES];
    _Alignas(8) unsigned char pipeline[CLEAT_PIPELINE_BYTES(RECEIVERS)];
    struct cleat_transport_sender transport;
    struct cleat_plan plan;
    uint64_t ends[TENSORS];
    struct table table;
    struct cleat_tensor_source source;
    struct cleat_stream_sending with;
    struct cleat_stream_signal signal;
    struct cleat_stream_report report;
    struct cleat_stream_result results[RECEIVERS];
    struct cleat_error error;
    struct fault fault;
    uint32_t lost[RECEIVERS];
    uint32_t acked_when_filled; /* by all, when the hold bucket was filled */
    struct receiver receivers[RECEIVERS];
    bool in_place;
};
static struct scene scene;

static enum cleat_status strike(void *context, enum cleat_stream_moment moment,
                                uint32_t bucket, void **data, uint64_t bytes)
{
    struct fault *fault = context;

    fault->calls[moment]++;
    if (moment != fault->moment || bucket != fault->bucket) { return CLEAT_OK; }
    if (!fault->corrupts) { return fault->status; }
    if (moment == CLEAT_STREAM_VERIFY) {
        memcpy(fault->scratch, *data, bytes);
        *data = fault->scratch;
    }
    ((unsigned char *)*data)[bytes / 2] ^= 0x10;
    return CLEAT_OK;
}

static void receiver_make(struct receiver *r, uint32_t index)
{
    struct cleat_memory_receiver_config config;

    memset(&config, 0, sizeof config);
    assert_int_equal(cleat_memory_receiver_open(r->block, sizeof r->block,
                                                &config, &r->transport, NULL),
                     CLEAT_OK);
    table_make(&r->table, 0);
    r->sink = cleat_memory_tensors_sink(&r->table.tensors);
    r->index = index;
    r->fault.bucket = NOBODY;
    r->with.transport = &r->transport;
    r->with.sink = &r->sink;
    r->with.plan = &scene.plan;
    r->with.clock = &clock_monotonic;
    r->with.signal = &r->signal;
    r->with.digest_kind = CLEAT_DIGEST_BUILD;
    r->with.hook = strike;
    r->with.hook_context = &r->fault;
}

static void sender_make(void)
{
    struct cleat_memory_sender_config config;

    memset(&config, 0, sizeof config);
    config.bucket_bytes = BUCKET;
    config.slots_count = SLOTS;
    assert_int_equal(cleat_memory_sender_open(scene.block, sizeof scene.block,
                                              &config, &scene.transport, NULL),
                     CLEAT_OK);
    scene.with.transport = &scene.transport;
    scene.with.source = &scene.source;
    scene.with.plan = &scene.plan;
    scene.with.clock = &clock_monotonic;
    scene.with.signal = &scene.signal;
    scene.with.lost = scene.lost;
    scene.with.block = scene.pipeline;
    scene.with.block_bytes = sizeof scene.pipeline;
    scene.with.receivers_count = RECEIVERS;
    scene.with.hook = strike;
    scene.with.hook_context = &scene.fault;
    scene.fault.bucket = NOBODY;
}

static int setup(void **state)
{
    (void)state;
    memset(&scene, 0, sizeof scene);
    table_make(&scene.table, 3);
    scene.source = cleat_memory_tensors_source(&scene.table.tensors);
    assert_int_equal(
        cleat_plan_begin(&scene.plan, scene.ends, TENSORS, BUCKET, NULL),
        CLEAT_OK);
    for (uint32_t i = 0; i < TENSORS; i++) {
        assert_int_equal(cleat_plan_add(&scene.plan, tensor_bytes[i]),
                         CLEAT_OK);
    }
    cleat_plan_end(&scene.plan);
    sender_make();
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        receiver_make(&scene.receivers[i], i);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cleat_memory_sender_close(&scene.transport);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        cleat_memory_receiver_close(&scene.receivers[i].transport);
    }
    return 0;
}

/* All meet here before and after a transfer: in between nobody may use the
 * heap, and making threads does. */
static pthread_barrier_t barrier;

static void *receive(void *context)
{
    struct receiver *r = context;

    (void)pthread_barrier_wait(&barrier);
    if (!r->silent) {
        r->status = cleat_stream_receive(&r->with, &r->report, &r->error);
    }
    (void)pthread_barrier_wait(&barrier);
    return NULL;
}

/* Prepares a generation and lets every receiver join it. */
static void form_group(uint64_t generation)
{
    struct cleat_transport_ticket ticket;

    assert_int_equal(scene.transport.prepare(scene.transport.context,
                                             generation, RECEIVERS, &ticket),
                     CLEAT_OK);
    scene.with.generation = generation;
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        struct receiver *r = &scene.receivers[i];

        r->ticket = ticket;
        r->with.generation = generation;
        r->with.in_place = scene.in_place;
        for (uint32_t k = 0; k < ticket.fds_count; k++) {
            r->ticket.fds[k] = dup(ticket.fds[k]);
        }
        assert_int_equal(
            r->transport.join(r->transport.context, &r->ticket, i, CLEAT_NEVER),
            CLEAT_OK);
    }
}

static enum cleat_status transfer(uint64_t generation)
{
    enum cleat_status status;

    assert_int_equal(pthread_barrier_init(&barrier, NULL, RECEIVERS + 1), 0);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        assert_int_equal(pthread_create(&scene.receivers[i].thread, NULL,
                                        receive, &scene.receivers[i]),
                         0);
    }
    cleat_test_forbid_malloc(true);
    form_group(generation);
    (void)pthread_barrier_wait(&barrier);
    status = cleat_stream_send(&scene.with, scene.results, &scene.report,
                               &scene.error);
    scene.transport.finish(scene.transport.context);
    (void)pthread_barrier_wait(&barrier);
    cleat_test_forbid_malloc(false);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        assert_int_equal(pthread_join(scene.receivers[i].thread, NULL), 0);
    }
    assert_int_equal(pthread_barrier_destroy(&barrier), 0);
    return status;
}

static void expect_complete(uint32_t i)
{
    struct receiver *r = &scene.receivers[i];

    assert_int_equal(r->status, CLEAT_OK);
    assert_int_equal(scene.results[i].status, CLEAT_OK);
    assert_int_equal(scene.results[i].buckets_acked,
                     cleat_plan_buckets(&scene.plan));
    assert_memory_equal(r->table.data, scene.table.data, sizeof r->table.data);
    assert_int_equal(r->report.digest, scene.report.digest);
    assert_int_equal(r->report.bytes, BYTES_ALL);
    assert_int_equal(r->report.applied, scene.in_place);
}

static void expect_dropped(uint32_t i, enum cleat_status status,
                           enum cleat_status why)
{
    assert_int_equal(scene.receivers[i].status, status);
    assert_int_equal(scene.results[i].status, why);
}

/* CRC32C of all tensors' bytes in table order, by the definition. */
static uint32_t digest_of_table(const struct table *table)
{
    uint32_t crc = ~0u;

    for (uint32_t i = 0; i < TENSORS; i++) {
        for (uint32_t k = 0; k < tensor_bytes[i]; k++) {
            crc ^= table->data[i][k];
            for (int bit = 0; bit < 8; bit++) {
                crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0x82F63B78u : 0);
            }
        }
    }
    return ~crc;
}

static void every_byte_reaches_every_receiver(void **state)
{
    scene.in_place = *state != NULL;
    assert_int_equal(transfer(1), CLEAT_OK);
    assert_int_equal(scene.report.digest, digest_of_table(&scene.table));
    assert_int_equal(scene.report.bytes, BYTES_ALL);
    assert_int_equal(scene.report.buckets_count, 11);
    for (uint32_t i = 0; i < RECEIVERS; i++) { expect_complete(i); }
    assert_int_equal(scene.fault.calls[CLEAT_STREAM_FILL], 11);
    assert_int_equal(scene.fault.calls[CLEAT_STREAM_PUBLISH], 11);
    assert_int_equal(scene.fault.calls[CLEAT_STREAM_DONE], 11);
    assert_int_equal(scene.receivers[0].fault.calls[CLEAT_STREAM_VERIFY], 11);
    assert_int_equal(scene.receivers[0].fault.calls[CLEAT_STREAM_DONE], 11);
    assert_int_equal(scene.receivers[0].fault.calls[CLEAT_STREAM_APPLY],
                     scene.in_place ? 11 : 0);
}

static void a_second_generation_goes_over_the_same_segment(void **state)
{
    (void)state;
    assert_int_equal(transfer(1), CLEAT_OK);
    table_make(&scene.table, 7);
    assert_int_equal(transfer(2), CLEAT_OK);
    for (uint32_t i = 0; i < RECEIVERS; i++) { expect_complete(i); }
}

static void a_bucket_damaged_in_its_slot_is_applied_by_nobody(void **state)
{
    scene.in_place = *state != NULL;
    scene.fault.moment = CLEAT_STREAM_PUBLISH;
    scene.fault.bucket = 0;
    scene.fault.corrupts = true;
    assert_int_equal(transfer(1), CLEAT_GROUP_FAILED);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        expect_dropped(i, CLEAT_CORRUPT, CLEAT_CORRUPT);
        assert_int_equal(scene.receivers[i].error.index, 0);
        assert_false(scene.receivers[i].report.applied);
        assert_int_equal(scene.receivers[i].report.bytes, 0);
        if (scene.in_place) {
            struct table untouched;

            table_make(&untouched, 0);
            assert_memory_equal(scene.receivers[i].table.data, untouched.data,
                                sizeof untouched.data);
        }
    }
}

static void one_receivers_damage_is_its_own(void **state)
{
    scene.in_place = *state != NULL;
    scene.receivers[1].fault.moment = CLEAT_STREAM_VERIFY;
    scene.receivers[1].fault.bucket = 4;
    scene.receivers[1].fault.corrupts = true;
    assert_int_equal(transfer(1), CLEAT_OK);
    expect_complete(0);
    expect_dropped(1, CLEAT_CORRUPT, CLEAT_CORRUPT);
    expect_complete(2);
    assert_int_equal(scene.receivers[1].error.index, 4);
    assert_int_equal(scene.receivers[1].report.buckets_count, 4);
    assert_int_equal(scene.receivers[1].report.applied, scene.in_place);
}

static void a_silent_receiver_is_dropped_and_the_others_complete(void **state)
{
    (void)state;
    scene.with.ack_timeout_ns = 6 * CLEAT_NS_PER_S;
    scene.receivers[0].silent = true;
    assert_int_equal(transfer(1), CLEAT_OK);
    assert_int_equal(scene.results[0].status, CLEAT_PEER_SILENT);
    expect_complete(1);
    expect_complete(2);
}

static enum cleat_status lose_2(void *context, enum cleat_stream_moment moment,
                                uint32_t bucket, void **data, uint64_t bytes)
{
    (void)data;
    (void)bytes;
    if (moment == CLEAT_STREAM_FILL && bucket == 2) {
        cleat_stream_lost(context, 2);
        scene.transport.wake(scene.transport.context);
    }
    return CLEAT_OK;
}

static void a_lost_receiver_is_dropped_at_once(void **state)
{
    (void)state;
    scene.with.ack_timeout_ns = CLEAT_NONE; /* or this test would hang */
    scene.receivers[2].silent = true;
    scene.with.hook = lose_2;
    scene.with.hook_context = scene.lost;
    assert_int_equal(transfer(1), CLEAT_OK);
    assert_int_equal(scene.results[2].status, CLEAT_PEER_LOST);
    expect_complete(0);
    expect_complete(1);
}

static void a_hook_ends_the_transfer_with_its_status(void **state)
{
    (void)state;
    scene.fault.moment = CLEAT_STREAM_FILL;
    scene.fault.bucket = 5;
    scene.fault.status = CLEAT_TRANSIENT;
    assert_int_equal(transfer(1), CLEAT_TRANSIENT);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        assert_int_equal(scene.receivers[i].status, CLEAT_GROUP_FAILED);
    }
}

/* Waits until all before the held bucket are acknowledged by all. */
static enum cleat_status look_at_acks(void *context,
                                      enum cleat_stream_moment moment,
                                      uint32_t bucket, void **data,
                                      uint64_t bytes)
{
    (void)context;
    (void)data;
    (void)bytes;
    if (moment != CLEAT_STREAM_FILL || bucket != 6) { return CLEAT_OK; }
    scene.acked_when_filled = UINT32_MAX;
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        uint32_t acked;
        enum cleat_status status;

        (void)scene.transport.acked(scene.transport.context, i, &acked,
                                    &status);
        if (acked < scene.acked_when_filled) {
            scene.acked_when_filled = acked;
        }
    }
    return CLEAT_OK;
}

static void a_held_bucket_waits_for_all_before_it(void **state)
{
    (void)state;
    scene.with.hold_bucket = 6;
    scene.with.hook = look_at_acks;
    assert_int_equal(transfer(1), CLEAT_OK);
    assert_int_equal(scene.acked_when_filled, 6);
    for (uint32_t i = 0; i < RECEIVERS; i++) { expect_complete(i); }
}

static void *cancel_all(void *context)
{
    (void)context;
    cleat_test_exempt_thread(true); /* its end is the C library's business */
    cleat_stream_cancel(&scene.signal, CLEAT_CANCELLED);
    scene.transport.wake(scene.transport.context);
    return NULL;
}

static void a_cancel_from_another_thread_ends_a_transfer(void **state)
{
    pthread_t thread;

    (void)state;
    scene.with.ack_timeout_ns = CLEAT_NONE;
    scene.receivers[0].silent = true;
    assert_int_equal(pthread_create(&thread, NULL, cancel_all, NULL), 0);
    assert_int_equal(transfer(1), CLEAT_CANCELLED);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(scene.error.status, CLEAT_CANCELLED);
}

static void a_receiver_is_cancelled_and_says_so(void **state)
{
    (void)state;
    cleat_stream_cancel(&scene.receivers[1].signal, CLEAT_PEER_LOST);
    cleat_stream_cancel(&scene.receivers[1].signal, CLEAT_CANCELLED);
    assert_int_equal(transfer(1), CLEAT_OK);
    expect_dropped(1, CLEAT_PEER_LOST, CLEAT_PEER_LOST);
    expect_complete(0);
    expect_complete(2);
}

static enum cleat_status short_read(struct cleat_tensors_context *context,
                                    uint32_t index, uint64_t offset,
                                    size_t bytes, void *to, uint32_t *crc)
{
    (void)context;
    (void)offset;
    if (index == 3) { return CLEAT_SHORT; }
    memset(to, 0, bytes);
    *crc = cleat_crc32c(*crc, to, bytes);
    return CLEAT_OK;
}

static void a_source_that_fails_ends_the_transfer(void **state)
{
    (void)state;
    scene.source.read = short_read;
    assert_int_equal(transfer(1), CLEAT_SHORT);
    assert_int_equal(scene.error.status, CLEAT_SHORT);
    assert_int_equal(scene.error.index, 3);
}

static enum cleat_status no_write(struct cleat_tensors_context *context,
                                  uint32_t index, uint64_t offset, size_t bytes,
                                  const void *from, uint32_t *crc)
{
    (void)context;
    (void)index;
    (void)offset;
    (void)bytes;
    (void)from;
    (void)crc;
    return CLEAT_IO;
}

static void a_sink_that_fails_drops_its_receiver(void **state)
{
    scene.in_place = *state != NULL;
    scene.receivers[2].sink.write = no_write;
    assert_int_equal(transfer(1), CLEAT_OK);
    expect_dropped(2, CLEAT_IO, CLEAT_IO);
    /* A write that fails leaves its range undefined. */
    assert_int_equal(scene.receivers[2].report.applied, scene.in_place);
    expect_complete(0);
    expect_complete(1);
}

static void no_next_bucket_in_time_ends_a_receiver(void **state)
{
    struct receiver *r = &scene.receivers[0];

    (void)state;
    form_group(1);
    r->with.bucket_timeout_ns = CLEAT_NS_PER_MS;
    assert_int_equal(cleat_stream_receive(&r->with, &r->report, &r->error),
                     CLEAT_PEER_SILENT);
    r->with.bucket_timeout_ns = CLEAT_NONE;
    form_group(2);
    r->with.deadline_ns = 1;
    assert_int_equal(cleat_stream_receive(&r->with, &r->report, &r->error),
                     CLEAT_DEADLINE);
    scene.with.deadline_ns = 1;
    assert_int_equal(cleat_stream_send(&scene.with, scene.results,
                                       &scene.report, &scene.error),
                     CLEAT_DEADLINE);
    assert_int_equal(scene.results[1].status, CLEAT_PENDING);
}

static void a_plan_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    form_group(1);
    scene.with.block_bytes = sizeof scene.pipeline - 1;
    assert_int_equal(cleat_stream_send(&scene.with, scene.results,
                                       &scene.report, &scene.error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(scene.error.offset, CLEAT_PIPELINE_BYTES(RECEIVERS));
    scene.with.block_bytes = sizeof scene.pipeline;
    scene.with.receivers_count = 9;
    assert_int_equal(cleat_stream_send(&scene.with, scene.results,
                                       &scene.report, &scene.error),
                     CLEAT_INVALID);
    scene.with.receivers_count = RECEIVERS;
    scene.transport.slot_bytes_max = BUCKET - 1;
    assert_int_equal(cleat_stream_send(&scene.with, scene.results,
                                       &scene.report, &scene.error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(scene.error.offset, BUCKET);
}

static void a_plan_without_bytes_is_complete_at_once(void **state)
{
    (void)state;
    assert_int_equal(cleat_plan_begin(&scene.plan, NULL, 0, BUCKET, NULL),
                     CLEAT_OK);
    cleat_plan_end(&scene.plan);
    assert_int_equal(transfer(1), CLEAT_OK);
    assert_int_equal(scene.results[2].status, CLEAT_OK);
    assert_int_equal(scene.receivers[2].status, CLEAT_OK);
    assert_int_equal(scene.report.bytes, 0);
}

/* ---- without digests ----------------------------------------------------- */

/* Places that only the source and the sink understand, as a device's are: the
 * host's with a bit in them with which nobody can read or write there. */
#define FAR (UINTPTR_MAX / 4 + 1)

static void *moved(const void *place)
{
    return (void *)((uintptr_t)place ^ FAR);
}

/* What the places lie in is what it was. */
static struct cleat_transport_sender plain_sender;
static struct cleat_transport_receiver plain_receiver;
static struct cleat_tensor_source plain_source;
static struct cleat_tensor_sink plain_sink;

static enum cleat_status far_slot(struct cleat_transport_sender_context *sender,
                                  uint32_t slot, void **data,
                                  uint64_t *bytes_max)
{
    enum cleat_status status = plain_sender.slot(sender, slot, data, bytes_max);

    *data = moved(*data);
    return status;
}

static enum cleat_status
far_wait(struct cleat_transport_receiver_context *receiver, uint32_t bucket,
         uint64_t deadline_ns, const void **data, uint64_t *bytes,
         uint32_t *crc)
{
    enum cleat_status status = plain_receiver.wait(
        receiver, bucket, deadline_ns, data, bytes, crc);

    if (status == CLEAT_OK) { *data = moved(*data); }
    return status;
}

static enum cleat_status far_read(struct cleat_tensors_context *source,
                                  uint32_t index, uint64_t offset, size_t bytes,
                                  void *to, uint32_t *crc)
{
    if (crc != NULL) { return CLEAT_INVALID; }
    return plain_source.read(source, index, offset, bytes, moved(to), NULL);
}

static enum cleat_status far_write(struct cleat_tensors_context *sink,
                                   uint32_t index, uint64_t offset,
                                   size_t bytes, const void *from,
                                   uint32_t *crc)
{
    if (crc != NULL) { return CLEAT_INVALID; }
    return plain_sink.write(sink, index, offset, bytes, moved(from), NULL);
}

static void skip_digests(bool sender, bool receivers)
{
    scene.with.skips_digest = sender;
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        scene.receivers[i].with.skips_digest = receivers;
    }
}

static void without_digests_no_byte_is_touched_on_the_host(void **state)
{
    scene.in_place = *state != NULL;
    plain_sender = scene.transport;
    plain_source = scene.source;
    plain_receiver = scene.receivers[0].transport;
    plain_sink = scene.receivers[0].sink;
    scene.transport.slot = far_slot;
    scene.source.read = far_read;
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        scene.receivers[i].transport.wait = far_wait;
        scene.receivers[i].sink.write = far_write;
    }
    skip_digests(true, true);
    assert_int_equal(transfer(1), CLEAT_OK);
    assert_int_equal(scene.report.digest, 0);
    assert_int_equal(scene.report.bytes, BYTES_ALL);
    for (uint32_t i = 0; i < RECEIVERS; i++) { expect_complete(i); }
    assert_int_equal(scene.receivers[0].fault.calls[CLEAT_STREAM_VERIFY], 11);
    assert_int_equal(scene.receivers[0].fault.calls[CLEAT_STREAM_APPLY],
                     scene.in_place ? 11 : 0);
}

static void without_digests_damage_is_not_noticed(void **state)
{
    scene.in_place = *state != NULL;
    scene.fault.moment = CLEAT_STREAM_PUBLISH;
    scene.fault.bucket = 0;
    scene.fault.corrupts = true;
    skip_digests(true, true);
    assert_int_equal(transfer(1), CLEAT_OK);
    scene.table.data[0][BUCKET / 2] ^= 0x10; /* as strike does it */
    for (uint32_t i = 0; i < RECEIVERS; i++) { expect_complete(i); }
}

static void a_receiver_may_skip_what_its_sender_has_digested(void **state)
{
    scene.in_place = *state != NULL;
    scene.receivers[1].with.skips_digest = true;
    assert_int_equal(transfer(1), CLEAT_OK);
    expect_complete(0);
    expect_complete(2);
    assert_int_equal(scene.results[1].status, CLEAT_OK);
    assert_memory_equal(scene.receivers[1].table.data, scene.table.data,
                        sizeof scene.table.data);
    assert_int_equal(scene.receivers[1].report.digest, 0);
    assert_int_equal(scene.report.digest, digest_of_table(&scene.table));
}

static void what_its_sender_has_not_digested_fits_no_receiver(void **state)
{
    (void)state;
    skip_digests(true, false);
    assert_int_equal(transfer(1), CLEAT_GROUP_FAILED);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        expect_dropped(i, CLEAT_CORRUPT, CLEAT_CORRUPT);
    }
}

static char yes;
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_STAGED(name)                             \
    {                                                 \
#name ", staged", name, setup, teardown, NULL \
    }
#define TEST_IN_PLACE(name)                                      \
    {                                                            \
#name ", in place", name, setup_in_place, teardown, &yes \
    }

/* cmocka gives the initial state to the test through *state. */
static int setup_in_place(void **state)
{
    int result = setup(state);

    *state = &yes;
    return result;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_STAGED(every_byte_reaches_every_receiver),
        TEST_IN_PLACE(every_byte_reaches_every_receiver),
        TEST(a_second_generation_goes_over_the_same_segment),
        TEST_STAGED(a_bucket_damaged_in_its_slot_is_applied_by_nobody),
        TEST_IN_PLACE(a_bucket_damaged_in_its_slot_is_applied_by_nobody),
        TEST_STAGED(one_receivers_damage_is_its_own),
        TEST_IN_PLACE(one_receivers_damage_is_its_own),
        TEST(a_silent_receiver_is_dropped_and_the_others_complete),
        TEST(a_lost_receiver_is_dropped_at_once),
        TEST(a_hook_ends_the_transfer_with_its_status),
        TEST(a_held_bucket_waits_for_all_before_it),
        TEST(a_cancel_from_another_thread_ends_a_transfer),
        TEST(a_receiver_is_cancelled_and_says_so),
        TEST(a_source_that_fails_ends_the_transfer),
        TEST_STAGED(a_sink_that_fails_drops_its_receiver),
        TEST_IN_PLACE(a_sink_that_fails_drops_its_receiver),
        TEST_STAGED(without_digests_no_byte_is_touched_on_the_host),
        TEST_IN_PLACE(without_digests_no_byte_is_touched_on_the_host),
        TEST_STAGED(without_digests_damage_is_not_noticed),
        TEST_IN_PLACE(without_digests_damage_is_not_noticed),
        TEST_STAGED(a_receiver_may_skip_what_its_sender_has_digested),
        TEST_IN_PLACE(a_receiver_may_skip_what_its_sender_has_digested),
        TEST(what_its_sender_has_not_digested_fits_no_receiver),
        TEST(no_next_bucket_in_time_ends_a_receiver),
        TEST(a_plan_that_does_not_fit_is_refused),
        TEST(a_plan_without_bytes_is_complete_at_once)};

    alarm(60); /* the watchdog: nothing here may hang */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
