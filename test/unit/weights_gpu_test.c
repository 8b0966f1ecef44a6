/* Cleat: an engine's weights on a GPU, over the fake CUDA and NCCL.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each test is a process of its own with a world of its own. What the device
 * holds is compared with a plain array. The fakes abort on misuse: an
 * allocation or a free once sealed, a window that is written while it is
 * copied, a call of a thread that has no context, a call after a loss. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cleat/memory_tensors.h"
#include "cleat/nccl.h"
#include "gpu_process.h"
#include "no_malloc.h"
#include "port/nccl/engine.h"
#include "tools/weights_gpu.h"

#define TENSORS 4u
#define ALIGN 256u
#define LARGE (9u * 1024 * 1024 + 77) /* more than two windows */
#define FLAT_MAX (LARGE + 4 * ALIGN + 3000)
#define BUCKET_BYTES UINT64_C(8192)

#define IN_A_PROCESS(name)            \
    static void name(void **state)    \
    {                                 \
        (void)state;                  \
        in_a_process(body_of_##name); \
    }

/* ---- a job, and what its weights should be ---- */

static const uint64_t sizes[TENSORS] = {3000, LARGE, 0, 1};
static struct job job;
static uint64_t starts[TENSORS];
static struct cleat_memory_tensor rows[TENSORS];
static struct cleat_memory_tensors table;
static unsigned char model[2][FLAT_MAX]; /* of each copy */
static unsigned char bytes_of_test[FLAT_MAX];

static struct weights_gpu *weights;
static struct cleat_transport_receiver receiver;
static _Alignas(64) unsigned char block[CLEAT_NCCL_BYTES];

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint64_t count)
{
    /* xorshift64 (Marsaglia, Xorshift RNGs, 2003). */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state % count);
}

static void fill(unsigned char *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        to[i] = (unsigned char)random_below(256);
    }
}

static void make_job(void)
{
    static const char *const names[TENSORS] = {"a", "b", "c", "d"};
    uint64_t at = 0;

    for (uint32_t i = 0; i < TENSORS; i++) {
        rows[i].name = names[i];
        rows[i].dtype = CLEAT_DTYPE_U8;
        rows[i].rank = 1;
        rows[i].shape[0] = sizes[i];
        rows[i].data = bytes_of_test;
        starts[i] = at;
        at += (sizes[i] + ALIGN - 1) / ALIGN * ALIGN;
    }
    must(cleat_memory_tensors_init(&table, rows, TENSORS, NULL) == CLEAT_OK);
    job.source = cleat_memory_tensors_source(&table);
    job.tensors = TENSORS;
    job.starts = starts;
    job.flat_bytes = at;
    must(at <= FLAT_MAX);
}

/* The owner's and the reaper's: what a thread has been on its way to call since
 * before a device was lost, it may still call. */
static void await_threads(void)
{
    const struct timespec nap = {.tv_nsec = 1000000};

    while (fake_gpu_counts().capture_modes < 2) {
        must(nanosleep(&nap, NULL) == 0);
    }
}

static void open_with(bool on_device, uint64_t patience_ns)
{
    struct cleat_nccl_config nccl;
    struct weights_gpu_config config = {.job = &job,
                                        .copies = 2,
                                        .receiver = &receiver,
                                        .on_device = on_device,
                                        .patience_ns = patience_ns};

    make_job();
    memset(&nccl, 0, sizeof nccl);
    nccl.cuda_library = CLEAT_FAKES "/lib/libcuda.so.1";
    nccl.nccl_library = CLEAT_FAKES "/lib/libnccl.so.2";
    nccl.bucket_bytes = BUCKET_BYTES;
    nccl.on_device = on_device;
    must(cleat_nccl_receiver_open(block, sizeof block, &nccl, &receiver,
                                  NULL) == CLEAT_OK);
    await_threads();
    must(weights_gpu_open(&config, "test", &weights) == 0);
    fake_gpu_seal();
    cleat_test_forbid_malloc(true);
    for (uint32_t i = 0; i < 2; i++) {
        must(weights_gpu_clear(weights, i) == CLEAT_OK);
    }
}

static void close_all(void)
{
    cleat_test_forbid_malloc(false);
    must(fake_gpu_counts().unpinned_copies == 0);
    must(!weights_gpu_lost(weights));
    fake_gpu_unseal();
    must(cleat_nccl_receiver_close(&receiver) == CLEAT_OK);
    must(weights_gpu_close(weights));
    must(fake_gpu_counts().allocations == 0);
    must(fake_gpu_counts().host_allocations == 0);
    must(fake_gpu_counts().contexts == 0);
}

/* All of both copies, the gaps too. */
static void expect_model(void)
{
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t digest = 1;

        must(weights_gpu_digest(weights, i, 0, (size_t)job.flat_bytes,
                                &digest) == CLEAT_OK);
        must(digest == cleat_crc32c(0, model[i], (size_t)job.flat_bytes));
    }
}

/* ---- the contract ---- */

static void write_some(uint32_t copy)
{
    struct cleat_tensor_sink sink = weights_gpu_sink(weights, copy);
    uint32_t index = random_below(TENSORS);
    uint64_t offset = random_below(sizes[index] + 1);
    size_t bytes = random_below(sizes[index] - offset + 1);
    uint32_t start = random_below(UINT64_C(1) << 32);
    uint32_t crc = start;

    fill(bytes_of_test, bytes < 64 ? bytes : 64);
    must(sink.write(sink.context, index, offset, bytes, bytes_of_test, &crc) ==
         CLEAT_OK);
    must(crc == cleat_crc32c(start, bytes_of_test, bytes));
    memcpy(model[copy] + starts[index] + offset, bytes_of_test, bytes);
}

static void read_some(uint32_t copy)
{
    static unsigned char found[FLAT_MAX];
    struct cleat_tensor_sink sink = weights_gpu_sink(weights, copy);
    uint32_t index = random_below(TENSORS);
    uint64_t offset = random_below(sizes[index] + 1);
    size_t bytes = random_below(sizes[index] - offset + 1);
    const unsigned char *expected = model[copy] + starts[index] + offset;
    uint32_t crc = 5;
    uint32_t again = 5;

    must(sink.read(sink.context, index, offset, bytes, found, &crc) ==
         CLEAT_OK);
    must(memcmp(found, expected, bytes) == 0);
    must(crc == cleat_crc32c(5, expected, bytes));
    must(sink.read(sink.context, index, offset, bytes, NULL, &again) ==
         CLEAT_OK);
    must(again == crc);
    must(sink.read(sink.context, index, offset, bytes, found, NULL) ==
         CLEAT_OK);
}

static void body_of_what_is_written_is_read_back_in_any_pieces(void)
{
    open_with(false, 0);
    expect_model(); /* zeros */
    fill(bytes_of_test, sizeof bytes_of_test);
    for (uint32_t i = 0; i < 60; i++) {
        write_some(i % 2);
        read_some(i / 2 % 2);
    }
    expect_model();
    must(weights_gpu_clear(weights, 1) == CLEAT_OK);
    memset(model[1], 0, sizeof model[1]);
    expect_model();
    close_all();
}
IN_A_PROCESS(what_is_written_is_read_back_in_any_pieces)

static void body_of_the_table_is_the_jobs(void)
{
    struct cleat_tensor_sink sink;
    struct cleat_tensor_source source;
    uint32_t digest = 0;
    uint32_t expected = 1;

    open_with(false, 0);
    sink = weights_gpu_sink(weights, 1);
    source = cleat_tensor_sink_source(&sink);
    must(cleat_tensors_digest(&source, &digest, NULL) == CLEAT_OK);
    must(cleat_tensors_digest(&job.source, &expected, NULL) == CLEAT_OK);
    must(digest == expected);
    close_all();
}
IN_A_PROCESS(the_table_is_the_jobs)

static void body_of_what_lies_outside_a_tensor_is_refused(void)
{
    static const struct {
        uint32_t index;
        uint64_t offset;
        size_t bytes;
    } wrong[] = {{0, 0, 3001},       {0, 3000, 1}, {0, 3001, 0},
                 {0, UINT64_MAX, 1}, {2, 0, 1},    {TENSORS, 0, 0},
                 {3, 1, SIZE_MAX}};

    open_with(false, 0);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct cleat_tensor_sink sink = weights_gpu_sink(weights, 0);
        uint32_t crc = 7;

        must(sink.write(sink.context, wrong[i].index, wrong[i].offset,
                        wrong[i].bytes, bytes_of_test, &crc) == CLEAT_INVALID);
        must(sink.read(sink.context, wrong[i].index, wrong[i].offset,
                       wrong[i].bytes, bytes_of_test, &crc) == CLEAT_INVALID);
        must(crc == 7);
    }
    expect_model();
    close_all();
}
IN_A_PROCESS(what_lies_outside_a_tensor_is_refused)

/* ---- what comes from a slot ---- */

static struct nccl_engine *engine(void)
{
    return (void *)receiver.context; /* its first member */
}

/* The two sides of a slot are made to differ, so that it is seen which of them
 * is used for what. */
static void
body_of_a_slots_bytes_are_copied_on_the_device_and_digested_on_the_host(void)
{
    struct cleat_tensor_sink sink;
    unsigned char *pinned;
    unsigned char *device;
    uint32_t crc = 3;

    open_with(false, 0);
    sink = weights_gpu_sink(weights, 0);
    pinned = nccl_place(engine(), 1);
    device = fake_gpu_memory(cleat_cuda_slot(engine()->cuda, 1), BUCKET_BYTES);
    fill(pinned, BUCKET_BYTES);
    fill(device, BUCKET_BYTES);
    must(sink.write(sink.context, 1, 4000, 3000, pinned + 500, &crc) ==
         CLEAT_OK);
    must(crc == cleat_crc32c(3, pinned + 500, 3000));
    memcpy(model[0] + starts[1] + 4000, device + 500, 3000);
    fill(device, BUCKET_BYTES); /* the next bucket comes */
    expect_model();
    close_all();
}
IN_A_PROCESS(a_slots_bytes_are_copied_on_the_device_and_digested_on_the_host)

static void body_of_on_device_no_byte_goes_by_the_host(void)
{
    struct cleat_tensor_sink sink;
    struct cleat_tensor_source source;
    unsigned char *slot;
    unsigned char *device;
    uint32_t crc = 0;

    open_with(true, 0);
    sink = weights_gpu_sink(weights, 1);
    source = weights_gpu_source(weights);
    slot = nccl_place(engine(), 2);
    device = fake_gpu_memory((uint64_t)(uintptr_t)slot, BUCKET_BYTES);
    fill(device, BUCKET_BYTES);
    must(sink.write(sink.context, 0, 0, 3000, slot, NULL) == CLEAT_OK);
    memcpy(model[1] + starts[0], device, 3000);
    expect_model();
    must(sink.write(sink.context, 0, 0, 3000, slot, &crc) == CLEAT_INVALID);
    must(sink.write(sink.context, 0, 0, 3000, bytes_of_test, NULL) ==
         CLEAT_INVALID);
    must(source.read(source.context, 0, 0, 3000, slot, &crc) == CLEAT_INVALID);
    must(source.read(source.context, 0, 10, 100, slot + 7, NULL) == CLEAT_OK);
    must(memcmp(device + 7, model[0] + starts[0] + 10, 100) == 0);
    must(fake_gpu_pending() == 0);
    expect_model();
    close_all();
}
IN_A_PROCESS(on_device_no_byte_goes_by_the_host)

static void body_of_a_version_is_loaded_whole(void)
{
    open_with(false, 0);
    fill(bytes_of_test, sizeof bytes_of_test);
    must(weights_gpu_load(weights, &job.source) == CLEAT_OK);
    for (uint32_t i = 0; i < TENSORS; i++) {
        memcpy(model[0] + starts[i], bytes_of_test, sizes[i]);
    }
    expect_model();
    close_all();
}
IN_A_PROCESS(a_version_is_loaded_whole)

/* ---- what changes on the device ---- */

static void body_of_a_byte_that_changes_on_the_device_is_seen(void)
{
    uint64_t at[] = {0, 70000, LARGE / 2, LARGE + 3000};

    open_with(false, 0);
    fill(bytes_of_test, sizeof bytes_of_test);
    must(weights_gpu_load(weights, &job.source) == CLEAT_OK);
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        uint64_t address = weights_gpu_address(weights, 0) + at[i];
        unsigned char *byte = fake_gpu_memory(address, 1);
        uint32_t before = 0;
        uint32_t after = 0;

        must(weights_gpu_digest(weights, 0, at[i] / 65536 * 65536, 65536,
                                &before) == CLEAT_OK);
        *byte ^= 0x40;
        must(weights_gpu_digest(weights, 0, at[i] / 65536 * 65536, 65536,
                                &after) == CLEAT_OK);
        must(before != after);
    }
    close_all();
}
IN_A_PROCESS(a_byte_that_changes_on_the_device_is_seen)

/* ---- a device that is lost ---- */

static bool transport_is_lost(void)
{
    struct cleat_nccl_account account;

    cleat_nccl_receiver_account(&receiver, &account);
    return strcmp(account.state, "lost") == 0;
}

/* Everything says so, and nothing is called, or freed, any more. */
static void expect_lost(void)
{
    struct cleat_tensor_sink sink = weights_gpu_sink(weights, 0);
    uint64_t calls = fake_gpu_counts().calls;
    uint64_t held = fake_gpu_counts().allocated_bytes;
    uint32_t crc = 9;

    must(weights_gpu_lost(weights));
    must(transport_is_lost());
    must(sink.write(sink.context, 0, 0, 1, bytes_of_test, &crc) ==
         CLEAT_DEVICE_LOST);
    must(sink.read(sink.context, 0, 0, 1, bytes_of_test, &crc) ==
         CLEAT_DEVICE_LOST);
    must(weights_gpu_digest(weights, 0, 0, 1, &crc) == CLEAT_DEVICE_LOST);
    must(weights_gpu_clear(weights, 0) == CLEAT_DEVICE_LOST);
    must(weights_gpu_load(weights, &job.source) == CLEAT_DEVICE_LOST);
    must(crc == 9);
    cleat_test_forbid_malloc(false);
    must(cleat_nccl_receiver_close(&receiver) == CLEAT_DEVICE_LOST);
    must(!weights_gpu_close(weights));
    must(fake_gpu_counts().calls == calls);
    must(fake_gpu_counts().allocated_bytes == held);
}

static void lose_by(const char *rule)
{
    struct cleat_tensor_sink sink;
    uint32_t crc = 9;

    open_with(false, 300 * CLEAT_NS_PER_MS);
    sink = weights_gpu_sink(weights, 0);
    fake_gpu_plan(rule);
    must(sink.write(sink.context, 0, 0, 100, bytes_of_test, &crc) ==
         CLEAT_DEVICE_LOST);
    must(crc == 9);
    expect_lost();
}

static void
body_of_a_copy_that_never_ends_loses_the_device_at_its_deadline(void)
{
    lose_by("cuMemcpyAsync#1:never");
}
IN_A_PROCESS(a_copy_that_never_ends_loses_the_device_at_its_deadline)

static void body_of_a_sticky_error_is_told_to_the_transport(void)
{
    lose_by("cuMemcpyAsync#1:fail=700");
}
IN_A_PROCESS(a_sticky_error_is_told_to_the_transport)

static void body_of_a_sticky_error_that_comes_later_is_told_too(void)
{
    lose_by("cuMemcpyAsync#1:late=719");
}
IN_A_PROCESS(a_sticky_error_that_comes_later_is_told_too)

static void body_of_a_copy_that_cannot_be_waited_for_loses_the_device(void)
{
    lose_by("cuEventRecord#1:fail=1");
}
IN_A_PROCESS(a_copy_that_cannot_be_waited_for_loses_the_device)

static void body_of_what_the_transport_has_lost_is_asked_for_nothing(void)
{
    open_with(false, 0);
    cleat_nccl_receiver_lose(&receiver);
    expect_lost();
}
IN_A_PROCESS(what_the_transport_has_lost_is_asked_for_nothing)

static void body_of_a_read_that_fails_half_way_leaves_the_digest(void)
{
    struct cleat_tensor_sink sink;
    uint32_t crc = 9;

    open_with(false, 0);
    sink = weights_gpu_sink(weights, 0);
    fake_gpu_plan("cuMemcpyAsync#2:fail=1"); /* from now on */
    must(sink.read(sink.context, 1, 0, LARGE, bytes_of_test, &crc) ==
         CLEAT_INVALID);
    must(crc == 9);
    expect_model();
    close_all();
}
IN_A_PROCESS(a_read_that_fails_half_way_leaves_the_digest)

/* An error that is no loss has no effect, and the next try works. */
static void body_of_a_copy_that_is_refused_is_an_error_and_no_more(void)
{
    struct cleat_tensor_sink sink;
    uint32_t crc = 9;

    open_with(false, 0);
    sink = weights_gpu_sink(weights, 0);
    fake_gpu_plan("cuMemcpyAsync#1:fail=1");
    must(sink.write(sink.context, 0, 0, 100, bytes_of_test, &crc) ==
         CLEAT_INVALID);
    must(crc == 9);
    must(!weights_gpu_lost(weights));
    fill(bytes_of_test, 100);
    must(sink.write(sink.context, 0, 0, 100, bytes_of_test, &crc) == CLEAT_OK);
    memcpy(model[0] + starts[0], bytes_of_test, 100);
    expect_model();
    close_all();
}
IN_A_PROCESS(a_copy_that_is_refused_is_an_error_and_no_more)

/* ---- several threads ---- */

#define READERS 4u /* more than there are lanes */

static void *read_again(void *context)
{
    (void)context;
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t digest = 0;
        uint64_t flat = (uint64_t)(i % 40) * 65536;

        must(weights_gpu_digest(weights, 0, flat, 65536, &digest) == CLEAT_OK);
        must(digest == cleat_crc32c(0, model[0] + flat, 65536));
    }
    return NULL;
}

static void body_of_one_writes_while_others_read(void)
{
    pthread_t threads[READERS];

    open_with(false, 0);
    fill(bytes_of_test, sizeof bytes_of_test);
    must(weights_gpu_load(weights, &job.source) == CLEAT_OK);
    for (uint32_t i = 0; i < TENSORS; i++) {
        memcpy(model[0] + starts[i], bytes_of_test, sizes[i]);
    }
    cleat_test_forbid_malloc(false); /* threads take some */
    for (uint32_t i = 0; i < READERS; i++) {
        must(pthread_create(&threads[i], NULL, read_again, NULL) == 0);
    }
    for (uint32_t i = 0; i < 20; i++) { write_some(1); }
    for (uint32_t i = 0; i < READERS; i++) {
        must(pthread_join(threads[i], NULL) == 0);
    }
    expect_model();
    close_all();
}
IN_A_PROCESS(one_writes_while_others_read)

/* ---- opening ---- */

static void body_of_too_little_memory_is_refused_with_nothing_left(void)
{
    struct weights_gpu_config config = {
        .job = &job, .copies = 2, .receiver = &receiver};

    make_job();
    fake_gpu_plan("memory=16M");
    must(weights_gpu_open(&config, "test", &weights) == 2);
    must(weights == NULL);
    must(fake_gpu_counts().allocations == 0);
    must(fake_gpu_counts().contexts == 0);
}
IN_A_PROCESS(too_little_memory_is_refused_with_nothing_left)

#define TEST(name) cmocka_unit_test(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_read_back_in_any_pieces),
        TEST(the_table_is_the_jobs),
        TEST(what_lies_outside_a_tensor_is_refused),
        TEST(a_slots_bytes_are_copied_on_the_device_and_digested_on_the_host),
        TEST(on_device_no_byte_goes_by_the_host),
        TEST(a_version_is_loaded_whole),
        TEST(a_byte_that_changes_on_the_device_is_seen),
        TEST(a_copy_that_never_ends_loses_the_device_at_its_deadline),
        TEST(a_sticky_error_is_told_to_the_transport),
        TEST(a_sticky_error_that_comes_later_is_told_too),
        TEST(a_copy_that_cannot_be_waited_for_loses_the_device),
        TEST(what_the_transport_has_lost_is_asked_for_nothing),
        TEST(a_copy_that_is_refused_is_an_error_and_no_more),
        TEST(a_read_that_fails_half_way_leaves_the_digest),
        TEST(one_writes_while_others_read),
        TEST(too_little_memory_is_refused_with_nothing_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
