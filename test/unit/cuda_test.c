/* Cleat: a device through the CUDA driver, over the fake one.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The fake aborts on misuse: an allocation or a free after it was sealed, a
 * call after a sticky error, a copy of memory that is not pinned, a call that
 * waits for the device. So a test that passes has also not done that. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleat/cuda.h"
#include "control.h"
#include "port/cuda/symbols.h"

#define LIBRARY CLEAT_FAKES "/lib/libcuda.so.1"
#define SLOT_BYTES UINT64_C(100000)

/* A function of the fake driver's, called as the host program may call it. */
#define DRIVER(name, pointer)                                       \
    do {                                                            \
        void *found = dlsym(fake_gpu_libcuda(), CUDA_SYMBOL(name)); \
                                                                    \
        assert_non_null(found);                                     \
        memcpy(&(pointer), &found, sizeof found);                   \
    } while (0)

static _Alignas(64) unsigned char block[CLEAT_CUDA_BYTES];
static _Alignas(64) unsigned char block_two[CLEAT_CUDA_BYTES];

static struct cleat_cuda_config config_of(void)
{
    struct cleat_cuda_config config;

    memset(&config, 0, sizeof config);
    config.lib_path = LIBRARY;
    config.streams_count = 2;
    config.events_count = 4;
    config.slots_count = 3;
    config.staging_count = 3;
    config.slot_bytes = SLOT_BYTES;
    config.staging_bytes = SLOT_BYTES;
    return config;
}

/* Open, and used by the calling thread. */
static struct cleat_cuda *opened_in(unsigned char *where,
                                    const struct cleat_cuda_config *config)
{
    struct cleat_cuda *cuda = NULL;

    assert_int_equal(
        cleat_cuda_open(where, CLEAT_CUDA_BYTES, config, &cuda, NULL),
        CLEAT_OK);
    assert_ptr_equal(cuda, where);
    assert_int_equal(cleat_cuda_use(cuda), CLEAT_OK);
    return cuda;
}

static struct cleat_cuda *opened(void)
{
    const struct cleat_cuda_config config = config_of();

    return opened_in(block, &config);
}

static void nothing_is_left(void)
{
    struct fake_counts counts = fake_gpu_counts();

    assert_int_equal(counts.allocations, 0);
    assert_int_equal(counts.host_allocations, 0);
    assert_int_equal(counts.handles, 0);
    assert_int_equal(counts.reservations, 0);
    assert_int_equal(counts.mappings, 0);
    assert_int_equal(counts.streams, 0);
    assert_int_equal(counts.events, 0);
    assert_int_equal(counts.contexts, 0);
}

/* Opening fails: how, and in what words. Nothing is left behind. */
static void refused(const struct cleat_cuda_config *config,
                    enum cleat_status status, const char *words)
{
    struct cleat_cuda *cuda = (struct cleat_cuda *)(void *)block;
    struct cleat_error error;

    assert_int_equal(
        cleat_cuda_open(block, sizeof block, config, &cuda, &error), status);
    assert_null(cuda);
    assert_int_equal(error.status, status);
    if (strstr(error.text, words) == NULL) {
        fail_msg("'%s' is not in '%s'", words, error.text);
    }
    nothing_is_left();
}

static int reset(void **state)
{
    (void)state;
    fake_gpu_reset();
    return 0;
}

/* Polls until the answer is another one; the fake moves on with each poll. */
static enum cleat_status passed(struct cleat_cuda *cuda, uint32_t event)
{
    enum cleat_status status = CLEAT_PENDING;

    for (uint32_t i = 0; i < 10000 && status == CLEAT_PENDING; i++) {
        status = cleat_cuda_passed(cuda, event);
    }
    return status;
}

/* ---- opening ---- */

static void all_is_made_at_open_and_freed_at_close(void **state)
{
    struct cleat_cuda *cuda = opened();
    struct fake_counts counts = fake_gpu_counts();

    (void)state;
    assert_int_equal(counts.allocations, 1);
    assert_int_equal(counts.host_allocations, 1);
    assert_int_equal(counts.streams, 2);
    assert_int_equal(counts.events, 4);
    assert_int_equal(counts.contexts, 1);
    /* cuda.h: the kinds that wait for nobody, and that cost least. */
    assert_int_equal(counts.default_streams, 0);
    assert_int_equal(counts.timed_events, 0);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
    nothing_is_left();
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK); /* twice: nothing */
    assert_int_equal(cleat_cuda_close(NULL), CLEAT_OK);
    /* Of what is closed nothing is asked. */
    assert_int_equal(cleat_cuda_use(cuda), CLEAT_DEVICE_LOST);
    assert_int_equal(cleat_cuda_idle(cuda, 0), CLEAT_DEVICE_LOST);
}

static void a_device_may_have_no_slots_and_no_staging(void **state)
{
    struct cleat_cuda_config config = config_of();
    struct cleat_cuda *cuda = NULL;

    (void)state;
    config.slots_count = 0;
    config.staging_count = 0;
    cuda = opened_in(block, &config);
    assert_int_equal(fake_gpu_counts().allocations, 0);
    assert_int_equal(fake_gpu_counts().host_allocations, 0);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
    nothing_is_left();
}

/* The host program's own context, on another device. */
static CUcontext hosts_context(void)
{
    __typeof__(&cuInit) init;
    __typeof__(&cuDevicePrimaryCtxRetain) retain;
    __typeof__(&cuCtxSetCurrent) set;
    CUcontext context = NULL;

    DRIVER(cuInit, init);
    DRIVER(cuDevicePrimaryCtxRetain, retain);
    DRIVER(cuCtxSetCurrent, set);
    assert_int_equal(init(0), CUDA_SUCCESS);
    assert_int_equal(retain(&context, 3), CUDA_SUCCESS);
    assert_int_equal(set(context), CUDA_SUCCESS);
    return context;
}

static CUcontext current_context(void)
{
    __typeof__(&cuCtxGetCurrent) get;
    CUcontext context = NULL;

    DRIVER(cuCtxGetCurrent, get);
    assert_int_equal(get(&context), CUDA_SUCCESS);
    return context;
}

static void the_thread_s_context_is_the_host_program_s(void **state)
{
    struct cleat_cuda_config config = config_of();
    CUcontext hosts = hosts_context();
    struct cleat_cuda *cuda = NULL;
    struct cleat_cuda *none = NULL;

    (void)state;
    config.shareable = 1;
    assert_int_equal(cleat_cuda_open(block, sizeof block, &config, &cuda, NULL),
                     CLEAT_OK);
    assert_ptr_equal(current_context(), hosts);
    fake_gpu_plan("cuMemHostAlloc#1:fail=2");
    assert_int_equal(
        cleat_cuda_open(block_two, sizeof block_two, &config, &none, NULL),
        CLEAT_CAPACITY);
    assert_ptr_equal(current_context(), hosts);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
    assert_ptr_equal(current_context(), hosts);
}

static void a_context_that_the_host_holds_too_stays_current(void **state)
{
    struct cleat_cuda_config config = config_of();
    CUcontext hosts = hosts_context();
    struct cleat_cuda *cuda = NULL;

    (void)state;
    config.device = 3;
    cuda = opened_in(block, &config);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
    assert_ptr_equal(current_context(), hosts);
}

static void counts_and_sizes_have_their_bounds(void **state)
{
    struct cleat_cuda_config config = config_of();

    (void)state;
    config.streams_count = CLEAT_CUDA_STREAMS_MAX + 1;
    refused(&config, CLEAT_INVALID, "at most 8 streams");
    config = config_of();
    config.events_count = CLEAT_CUDA_EVENTS_MAX + 1;
    refused(&config, CLEAT_INVALID, "64 events");
    config = config_of();
    config.staging_count = CLEAT_CUDA_SLOTS_MAX + 1;
    refused(&config, CLEAT_INVALID, "8 staging slots");
    config = config_of();
    config.shareable = 2;
    refused(&config, CLEAT_INVALID, "at most");
    config = config_of();
    config.slot_bytes = (UINT64_C(1) << 40) + 1;
    refused(&config, CLEAT_INVALID, "1 TiB");
    config = config_of();
    config.staging_bytes = (UINT64_C(1) << 40) + 1;
    refused(&config, CLEAT_INVALID, "1 TiB");
}

static void open_takes_back_what_it_made_wherever_it_fails(void **state)
{
    /* Each call that open makes, made to fail once; 304 is no sticky code. */
    static const char *const calls[] = {
        "cuDeviceGetCount",  "cuDeviceGet",      "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",   "cuStreamCreate#2", "cuEventCreate#3",
        "cuMemGetInfo",      "cuMemAlloc",       "cuMemHostAlloc",
        "cuDriverGetVersion"};

    (void)state;
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        struct cleat_cuda_config config = config_of();
        char plan[64];
        const char *name = strchr(calls[i], '#');

        fake_gpu_reset();
        (void)snprintf(plan, sizeof plan, "%s%s:fail=801", calls[i],
                       name == NULL ? "#1" : "");
        fake_gpu_plan(plan);
        refused(&config, CLEAT_UNSUPPORTED, "801");
    }
}

static void too_little_device_memory_tells_what_is_needed_and_free(void **state)
{
    struct cleat_cuda_config config = config_of();
    struct cleat_cuda *cuda;
    struct cleat_error error;

    (void)state;
    fake_gpu_plan("memory=64M");
    config.slot_bytes = UINT64_C(32) << 20;
    refused(&config, CLEAT_CAPACITY, "96.0 MiB are needed: 3 slots of 32.0");
    refused(&config, CLEAT_CAPACITY, "has 64.0 MiB free");
    (void)cleat_cuda_open(block, sizeof block, &config, &cuda, &error);
    assert_int_equal(error.offset, UINT64_C(96) << 20);
    /* It is not even tried: this rule would be a lost device. */
    fake_gpu_plan("cuMemAlloc#1:fail=999");
    refused(&config, CLEAT_CAPACITY, "are needed");
    /* What is there to the byte is enough. */
    fake_gpu_reset();
    fake_gpu_plan("memory=1536");
    config = config_of();
    config.slot_bytes = CLEAT_CUDA_SLOT_ALIGN;
    cuda = opened_in(block, &config);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
    fake_gpu_reset();
    /* And when the driver says so although there seemed to be enough. */
    fake_gpu_plan("cuMemAlloc#1:fail=2");
    config = config_of();
    refused(&config, CLEAT_CAPACITY, "are needed");
    fake_gpu_plan("cuMemHostAlloc#1:fail=2");
    refused(&config, CLEAT_CAPACITY, "pinned");
    /* OPERATING_SYSTEM: the limit of what may be locked in memory. */
    fake_gpu_plan("cuMemHostAlloc#1:fail=304");
    refused(&config, CLEAT_CAPACITY, "pinned");
}

static void a_device_out_of_range_is_told_with_how_many_there_are(void **state)
{
    struct cleat_cuda_config config = config_of();

    (void)state;
    fake_gpu_plan("devices=2");
    config.device = 2;
    refused(&config, CLEAT_INVALID, "no device 2: the driver shows 2");
    config.device = 1;
    config.slots_count = CLEAT_CUDA_SLOTS_MAX + 1;
    refused(&config, CLEAT_INVALID, "8 slots");
}

static void what_is_no_driver_is_named(void **state)
{
    struct cleat_cuda_config config = config_of();

    (void)state;
    config.lib_path = "libcuda-none.so.1";
    refused(&config, CLEAT_UNSUPPORTED, "libcuda-none.so.1");
    config.lib_path = CLEAT_FAKES "/cuda_broken/libcuda.so.1";
    refused(&config, CLEAT_UNSUPPORTED, "cuMemcpyAsync");
    config.lib_path = LIBRARY;
    fake_gpu_plan("init=34");
    refused(&config, CLEAT_UNSUPPORTED, "stub");
    fake_gpu_plan("init=100");
    refused(&config, CLEAT_UNSUPPORTED, "no device");
    fake_gpu_plan("init=0 devices=0");
    refused(&config, CLEAT_UNSUPPORTED, "no device");
    fake_gpu_plan("init=999 devices=1");
    refused(&config, CLEAT_UNSUPPORTED, "cuInit: CUDA_ERROR_UNKNOWN (999)");
    fake_gpu_plan("init=0 driver=11020");
    refused(&config, CLEAT_UNSUPPORTED, "11.2");
    fake_gpu_plan("driver=11040"); /* the oldest that will do */
    assert_int_equal(cleat_cuda_close(opened()), CLEAT_OK);
    /* A library, but another one: the first name that it lacks is told. */
    config.lib_path = CLEAT_FAKES "/lib/libnccl.so.2";
    refused(&config, CLEAT_UNSUPPORTED, "has no cuInit");
    config.lib_path = __FILE__; /* a text */
    refused(&config, CLEAT_UNSUPPORTED, "was not loaded");
}

/* CUDA 11 has the older form of cuGetProcAddress; a driver that answers
 * neither is looked through by its symbols. */
static void what_is_optional_is_found_in_drivers_old_and_new(void **state)
{
    struct cleat_cuda_info info;

    (void)state;
    assert_int_equal(cleat_cuda_look(NULL, &info, NULL), CLEAT_OK);
    assert_int_equal(info.driver, 13000);
    assert_int_equal(
        cleat_cuda_look(CLEAT_FAKES "/cuda_11/libcuda.so.1", &info, NULL),
        CLEAT_OK);
    assert_int_equal(info.driver, 11080);
    assert_int_equal(info.share_found, 1);
    assert_int_equal(
        cleat_cuda_look(CLEAT_FAKES "/cuda_by_name/libcuda.so.1", &info, NULL),
        CLEAT_OK);
    assert_int_equal(info.share_found, 1);
    fake_gpu_plan("cuGetProcAddress#1:fail=1*0");
    assert_int_equal(cleat_cuda_look(LIBRARY, &info, NULL), CLEAT_OK);
    assert_int_equal(info.share_found, 1);
}

static void the_block_is_checked(void **state)
{
    struct cleat_cuda_config config = config_of();
    struct cleat_cuda *cuda;
    struct cleat_error error;

    (void)state;
    assert_int_equal(
        cleat_cuda_open(block, sizeof block - 1, &config, &cuda, &error),
        CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, CLEAT_CUDA_BYTES);
    assert_int_equal(
        cleat_cuda_open(block + 1, sizeof block, &config, &cuda, &error),
        CLEAT_INVALID);
    assert_int_equal(
        cleat_cuda_open(NULL, sizeof block, &config, &cuda, &error),
        CLEAT_INVALID);
}

/* ---- copies ---- */

static void bytes_go_to_the_device_and_back_in_order(void **state)
{
    struct cleat_cuda *cuda = opened();
    unsigned char *one = cleat_cuda_staging(cuda, 0);
    unsigned char *two = cleat_cuda_staging(cuda, 1);

    (void)state;
    fake_gpu_seal();
    for (uint32_t i = 0; i < SLOT_BYTES; i++) { one[i] = (unsigned char)i; }
    memset(two, 0x5A, SLOT_BYTES);
    assert_int_equal(cleat_cuda_copy(cuda, 0, cleat_cuda_slot(cuda, 0),
                                     (uint64_t)(uintptr_t)one, SLOT_BYTES),
                     CLEAT_OK);
    assert_int_equal(cleat_cuda_record(cuda, 0, 0), CLEAT_OK);
    assert_int_equal(cleat_cuda_after(cuda, 1, 0), CLEAT_OK);
    assert_int_equal(cleat_cuda_copy(cuda, 1, (uint64_t)(uintptr_t)two,
                                     cleat_cuda_slot(cuda, 0), SLOT_BYTES),
                     CLEAT_OK);
    assert_int_equal(cleat_cuda_record(cuda, 1, 1), CLEAT_OK);
    /* Nothing has been waited for: it has not happened. */
    assert_int_equal(two[0], 0x5A);
    assert_int_equal(passed(cuda, 1), CLEAT_OK);
    assert_int_equal(cleat_cuda_passed(cuda, 0), CLEAT_OK);
    assert_int_equal(cleat_cuda_idle(cuda, 1), CLEAT_OK);
    assert_memory_equal(one, two, SLOT_BYTES);
    fake_gpu_unseal();
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
}

static void slots_do_not_overlap_and_are_aligned(void **state)
{
    struct cleat_cuda *cuda = opened();

    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(cleat_cuda_slot(cuda, i) % CLEAT_CUDA_SLOT_ALIGN, 0);
        assert_int_equal((uintptr_t)cleat_cuda_staging(cuda, i) % 64, 0);
        if (i == 0) { continue; }
        assert_true(cleat_cuda_slot(cuda, i) - cleat_cuda_slot(cuda, i - 1) >=
                    SLOT_BYTES);
    }
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
}

static void nobody_waits_for_an_event_that_was_never_recorded(void **state)
{
    struct cleat_cuda *cuda = opened();
    uint64_t calls;

    (void)state;
    assert_int_equal(cleat_cuda_record(cuda, 0, 0), CLEAT_OK);
    calls = fake_gpu_counts().calls;
    assert_int_equal(cleat_cuda_after(cuda, 2, 0), CLEAT_INVALID);
    assert_int_equal(cleat_cuda_after(cuda, 0, 2), CLEAT_STATE);
    assert_int_equal(cleat_cuda_passed(cuda, 2), CLEAT_STATE);
    assert_int_equal(cleat_cuda_after(cuda, 0, 4), CLEAT_INVALID);
    assert_int_equal(cleat_cuda_record(cuda, 4, 0), CLEAT_INVALID);
    assert_int_equal(cleat_cuda_record(cuda, 0, 2), CLEAT_INVALID);
    assert_int_equal(cleat_cuda_copy(cuda, 2, 0, 0, 1), CLEAT_INVALID);
    assert_int_equal(cleat_cuda_idle(cuda, 2), CLEAT_INVALID);
    assert_int_equal(cleat_cuda_copy(cuda, 0, 0, 0, 0), CLEAT_OK);
    assert_int_equal(fake_gpu_counts().calls, calls); /* not even asked */
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
}

/* ---- sticky errors ---- */

/* CUresult values and what becomes of each; cuda.h and its texts. */
static void codes_mean_what_the_header_says(void **state)
{
    static const int32_t sticky[] = {
        4,   46,  100, 101, 201, 214, 220, 226, 700, 702, 709, 710, 714,
        715, 716, 717, 718, 719, 721, 802, 803, 810, 911, 999, -1,  12345};
    static const int32_t passing[] = {3,   205, 206, 208, 211, 304, 401, 500,
                                      704, 705, 712, 713, 900, 901, 902, 903,
                                      904, 905, 906, 907, 908, 909};
    static const int32_t full[] = {2, 807, 808, 809};
    static const int32_t unsupported[] = {34, 36, 217, 800, 801};

    (void)state;
    assert_int_equal(cleat_cuda_meaning(0), CLEAT_OK);
    assert_int_equal(cleat_cuda_meaning(600), CLEAT_PENDING);
    assert_int_equal(cleat_cuda_meaning(1), CLEAT_INVALID);
    assert_int_equal(cleat_cuda_meaning(400), CLEAT_INVALID);
    for (size_t i = 0; i < sizeof full / sizeof full[0]; i++) {
        assert_int_equal(cleat_cuda_meaning(full[i]), CLEAT_CAPACITY);
    }
    for (size_t i = 0; i < sizeof unsupported / sizeof unsupported[0]; i++) {
        assert_int_equal(cleat_cuda_meaning(unsupported[i]), CLEAT_UNSUPPORTED);
    }
    for (size_t i = 0; i < sizeof sticky / sizeof sticky[0]; i++) {
        assert_int_equal(cleat_cuda_meaning(sticky[i]), CLEAT_DEVICE_LOST);
    }
    for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++) {
        assert_int_equal(cleat_cuda_meaning(passing[i]), CLEAT_PERMANENT);
    }
}

/* Everything says DEVICE_LOST, and the driver is not called any more. */
static void is_lost(struct cleat_cuda *cuda, int32_t code_expected)
{
    uint64_t calls = fake_gpu_counts().calls;
    uint64_t bytes;
    uint64_t distance;
    int32_t code = -1;
    int fd;

    assert_true(cleat_cuda_lost(cuda, &code));
    assert_int_equal(code, code_expected);
    assert_int_equal(cleat_cuda_use(cuda), CLEAT_DEVICE_LOST);
    assert_int_equal(cleat_cuda_serve(cuda), CLEAT_DEVICE_LOST);
    assert_int_equal(cleat_cuda_copy(cuda, 0, 1, 1, 1), CLEAT_DEVICE_LOST);
    assert_int_equal(cleat_cuda_record(cuda, 0, 0), CLEAT_DEVICE_LOST);
    assert_int_equal(cleat_cuda_after(cuda, 0, 0), CLEAT_DEVICE_LOST);
    assert_int_equal(cleat_cuda_passed(cuda, 0), CLEAT_DEVICE_LOST);
    assert_int_equal(cleat_cuda_idle(cuda, 0), CLEAT_DEVICE_LOST);
    assert_int_equal(cleat_cuda_share(cuda, &fd, &bytes, &distance),
                     CLEAT_DEVICE_LOST);
    assert_int_equal(cleat_cuda_import(cuda, 0, 1, &bytes, NULL),
                     CLEAT_DEVICE_LOST);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_DEVICE_LOST);
    assert_int_equal(fake_gpu_counts().calls, calls);
}

/* In a process of its own: after a sticky error a process is of no use. */
static void in_a_child(void (*body)(void))
{
    pid_t pid = fork();
    int ended = 0;

    if (pid == 0) {
        body();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &ended, 0), pid);
    assert_int_equal(ended, 0);
}

static void sticky_late(void)
{
    struct cleat_cuda *cuda = opened();

    fake_gpu_seal();
    fake_gpu_plan("cuMemcpyAsync#1:late=700");
    assert_int_equal(
        cleat_cuda_copy(cuda, 0, cleat_cuda_slot(cuda, 0),
                        (uint64_t)(uintptr_t)cleat_cuda_staging(cuda, 0), 64),
        CLEAT_OK);
    assert_int_equal(cleat_cuda_record(cuda, 0, 0), CLEAT_OK);
    assert_false(cleat_cuda_lost(cuda, NULL));
    assert_int_equal(passed(cuda, 0), CLEAT_DEVICE_LOST);
    is_lost(cuda, 700);
}

static void sticky_at_once(void)
{
    struct cleat_cuda *cuda = opened();

    fake_gpu_seal();
    fake_gpu_plan("cuEventRecord#1:fail=719");
    assert_int_equal(cleat_cuda_record(cuda, 0, 0), CLEAT_DEVICE_LOST);
    is_lost(cuda, 719);
    cleat_cuda_lose(cuda); /* the first that said so is remembered */
    is_lost(cuda, 719);
}

static void sticky_at_open(void)
{
    struct cleat_cuda_config config = config_of();
    struct cleat_cuda *cuda = NULL;
    struct cleat_error error;

    fake_gpu_plan("cuMemAlloc#1:fail=700"); /* any call after it would abort */
    assert_int_equal(
        cleat_cuda_open(block, sizeof block, &config, &cuda, &error),
        CLEAT_DEVICE_LOST);
    assert_null(cuda);
    assert_int_equal(error.port_code, 700);
}

static void sticky_at_close(void)
{
    struct cleat_cuda *cuda = opened();

    fake_gpu_seal(); /* asking again, or freeing, would abort */
    fake_gpu_plan("cuStreamQuery#1:fail=719");
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_DEVICE_LOST);
    assert_true(cleat_cuda_lost(cuda, NULL));
}

static void said_by_another(void)
{
    struct cleat_cuda *cuda = opened();

    fake_gpu_seal();
    cleat_cuda_lose(cuda);
    is_lost(cuda, 0);
}

static void after_a_sticky_error_no_call_is_made(void **state)
{
    (void)state;
    in_a_child(sticky_late);
    in_a_child(sticky_at_once);
    in_a_child(said_by_another);
    fake_gpu_reset();
    in_a_child(sticky_at_open);
    fake_gpu_reset();
    in_a_child(sticky_at_close);
}

static void an_error_that_passes_is_not_latched(void **state)
{
    struct cleat_cuda *cuda = opened();

    (void)state;
    fake_gpu_plan("cuEventRecord#1:fail=400");
    assert_int_equal(cleat_cuda_record(cuda, 0, 0), CLEAT_INVALID);
    assert_false(cleat_cuda_lost(cuda, NULL));
    assert_int_equal(cleat_cuda_passed(cuda, 0), CLEAT_STATE);
    assert_int_equal(cleat_cuda_record(cuda, 0, 0), CLEAT_OK);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
}

static void blocked_for_ever(void)
{
    struct cleat_cuda *cuda = opened();

    fake_gpu_seal(); /* freeing would abort */
    fake_gpu_plan("cuMemcpyAsync#1:never");
    assert_int_equal(
        cleat_cuda_copy(cuda, 0, cleat_cuda_slot(cuda, 0),
                        (uint64_t)(uintptr_t)cleat_cuda_staging(cuda, 0), 64),
        CLEAT_OK);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_DEVICE_LOST);
    is_lost(cuda, 0);
}

static void close_does_not_wait_for_a_stream_that_is_stuck(void **state)
{
    (void)state;
    in_a_child(blocked_for_ever);
}

/* A stream that was not made CU_STREAM_NON_BLOCKING would wait for it. */
static void what_hangs_on_the_default_stream_holds_up_none_of_ours(void **state)
{
    struct cleat_cuda *cuda = opened();
    __typeof__(&cuMemsetD8Async) set;
    unsigned char *bytes = cleat_cuda_staging(cuda, 0);

    (void)state;
    DRIVER(cuMemsetD8Async, set);
    fake_gpu_plan("cuMemsetD8Async#1:never");
    assert_int_equal(set(cleat_cuda_slot(cuda, 2), 1, 1, NULL), CUDA_SUCCESS);
    for (uint32_t stream = 0; stream < 2; stream++) {
        assert_int_equal(cleat_cuda_copy(cuda, stream,
                                         cleat_cuda_slot(cuda, stream),
                                         (uint64_t)(uintptr_t)bytes, 64),
                         CLEAT_OK);
        assert_int_equal(cleat_cuda_record(cuda, stream, stream), CLEAT_OK);
        assert_int_equal(passed(cuda, stream), CLEAT_OK);
        assert_int_equal(cleat_cuda_idle(cuda, stream), CLEAT_OK);
    }
    fake_gpu_release();
    assert_true(fake_gpu_drain());
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
}

/* cuda.h: memory that is not pinned makes an asynchronous copy wait. */
static void staging_is_pinned_for_every_device(void **state)
{
    struct cleat_cuda_config config = config_of();
    struct cleat_cuda *cuda = opened();
    struct cleat_cuda *other = NULL;

    (void)state;
    config.device = 1;
    other = opened_in(block_two, &config);
    assert_int_equal(cleat_cuda_device(other), 1);
    assert_int_equal(
        cleat_cuda_copy(other, 0, cleat_cuda_slot(other, 0),
                        (uint64_t)(uintptr_t)cleat_cuda_staging(cuda, 0), 64),
        CLEAT_OK);
    assert_int_equal(cleat_cuda_record(other, 0, 0), CLEAT_OK);
    assert_int_equal(passed(other, 0), CLEAT_OK);
    assert_int_equal(fake_gpu_counts().unpinned_copies, 0);
    assert_int_equal(cleat_cuda_close(other), CLEAT_OK);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
    nothing_is_left();
}

struct served {
    struct cleat_cuda *cuda;
    bool serves;
    enum cleat_status status;
};

static void *serve(void *arg)
{
    struct served *served = arg;

    assert_int_equal(served->serves ? cleat_cuda_serve(served->cuda)
                                    : cleat_cuda_use(served->cuda),
                     CLEAT_OK);
    served->status = cleat_cuda_idle(served->cuda, 0);
    return NULL;
}

/* How the capture ends of a host program that captures a graph on a stream of
 * its own while a thread of ours asks for one of ours. */
static CUresult capture_meanwhile(struct served *served)
{
    __typeof__(&cuStreamCreate) create;
    __typeof__(&cuStreamBeginCapture) begin;
    __typeof__(&cuStreamEndCapture) end;
    CUstream stream = NULL;
    CUgraph graph = NULL;
    pthread_t thread;

    DRIVER(cuStreamCreate, create);
    DRIVER(cuStreamBeginCapture, begin);
    DRIVER(cuStreamEndCapture, end);
    assert_int_equal(create(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    assert_int_equal(begin(stream, CU_STREAM_CAPTURE_MODE_GLOBAL),
                     CUDA_SUCCESS);
    assert_int_equal(pthread_create(&thread, NULL, serve, served), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return end(stream, &graph);
}

static void a_thread_that_serves_disturbs_no_capture(void **state)
{
    struct cleat_cuda *cuda = opened();
    struct served served = {cuda, true, CLEAT_PENDING};
    struct served used = {cuda, false, CLEAT_PENDING};

    (void)state;
    assert_int_equal(capture_meanwhile(&served), CUDA_SUCCESS);
    assert_int_equal(served.status, CLEAT_OK);
    /* One that does not is told so, and the device is none the worse. */
    assert_int_equal(capture_meanwhile(&used),
                     CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_int_equal(used.status, CLEAT_PERMANENT);
    assert_false(cleat_cuda_lost(cuda, NULL));
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
}

/* ---- memory that two share ---- */

static void slots_are_shared_by_a_descriptor(void **state)
{
    struct cleat_cuda_config config = config_of();
    struct cleat_cuda *cuda = NULL;
    struct cleat_cuda *other = NULL;
    uint64_t before;
    uint64_t address = 0;
    uint64_t bytes = 0;
    uint64_t distance = 0;
    int fd = -1;

    (void)state;
    config.shareable = 1;
    cuda = opened_in(block, &config);
    config.shareable = 0;
    other = opened_in(block_two, &config);
    assert_int_equal(cleat_cuda_share(other, &fd, &bytes, &distance),
                     CLEAT_STATE);
    assert_int_equal(cleat_cuda_share(cuda, &fd, &bytes, &distance), CLEAT_OK);
    assert_true(bytes >= 3 * distance);
    assert_true(distance >= SLOT_BYTES);
    before = fake_gpu_counts().allocations;
    fake_gpu_plan("cuMemSetAccess#1:fail=801");
    assert_int_equal(cleat_cuda_import(other, fd, bytes, &address, NULL),
                     CLEAT_UNSUPPORTED);
    assert_int_equal(fake_gpu_counts().allocations, before);
    assert_int_equal(cleat_cuda_import(other, fd, bytes, &address, NULL),
                     CLEAT_OK);
    assert_int_equal(close(fd), 0);
    /* What one writes to slot 1, the other reads there. */
    memset(cleat_cuda_staging(cuda, 0), 0x37, 4096);
    assert_int_equal(
        cleat_cuda_copy(cuda, 0, cleat_cuda_slot(cuda, 1),
                        (uint64_t)(uintptr_t)cleat_cuda_staging(cuda, 0), 4096),
        CLEAT_OK);
    assert_int_equal(cleat_cuda_record(cuda, 0, 0), CLEAT_OK);
    assert_int_equal(passed(cuda, 0), CLEAT_OK);
    assert_int_equal(
        cleat_cuda_copy(other, 0,
                        (uint64_t)(uintptr_t)cleat_cuda_staging(other, 0),
                        address + distance, 4096),
        CLEAT_OK);
    assert_int_equal(cleat_cuda_record(other, 0, 0), CLEAT_OK);
    assert_int_equal(passed(other, 0), CLEAT_OK);
    assert_memory_equal(cleat_cuda_staging(other, 0),
                        cleat_cuda_staging(cuda, 0), 4096);
    assert_int_equal(cleat_cuda_close(other), CLEAT_OK);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
    assert_int_equal(fake_gpu_counts().allocations, 0);
}

/* Two devices' ends: the first shares its slots. */
static int shared_slots(struct cleat_cuda **cuda, struct cleat_cuda **other,
                        uint64_t *bytes)
{
    struct cleat_cuda_config config = config_of();
    uint64_t distance = 0;
    int fd = -1;

    config.shareable = 1;
    *cuda = opened_in(block, &config);
    config.shareable = 0;
    *other = opened_in(block_two, &config);
    assert_int_equal(cleat_cuda_share(*cuda, &fd, bytes, &distance), CLEAT_OK);
    return fd;
}

static void an_import_that_fails_is_taken_back_wherever_it_fails(void **state)
{
    static const char *const calls[] = {"cuMemImportFromShareableHandle",
                                        "cuMemAddressReserve", "cuMemMap",
                                        "cuMemSetAccess"};
    struct cleat_cuda *cuda = NULL;
    struct cleat_cuda *other = NULL;
    struct cleat_error error;
    uint64_t address = 0;
    uint64_t bytes = 0;
    int fd = shared_slots(&cuda, &other, &bytes);

    (void)state;
    assert_int_equal(cleat_cuda_import(other, -1, bytes, &address, &error),
                     CLEAT_INVALID);
    assert_non_null(strstr(error.text, "a descriptor and its bytes"));
    assert_int_equal(cleat_cuda_import(other, fd, 0, &address, &error),
                     CLEAT_INVALID);
    assert_non_null(strstr(error.text, "a descriptor and its bytes"));
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        struct fake_counts before = fake_gpu_counts();
        struct fake_counts after;
        char plan[64];

        (void)snprintf(plan, sizeof plan, "%s#1:fail=801", calls[i]);
        fake_gpu_plan(plan);
        assert_int_equal(cleat_cuda_import(other, fd, bytes, &address, &error),
                         CLEAT_UNSUPPORTED);
        assert_int_equal(error.port_code, 801);
        assert_non_null(strstr(error.text, "memory of another process"));
        after = fake_gpu_counts();
        assert_int_equal(after.handles, before.handles);
        assert_int_equal(after.reservations, before.reservations);
        assert_int_equal(after.mappings, before.mappings);
    }
    for (uint32_t i = 0; i < CLEAT_CUDA_IMPORTS_MAX; i++) {
        assert_int_equal(cleat_cuda_import(other, fd, bytes, &address, NULL),
                         CLEAT_OK);
    }
    assert_int_equal(cleat_cuda_import(other, fd, bytes, &address, &error),
                     CLEAT_NO_SLOT);
    assert_int_equal(close(fd), 0);
    assert_int_equal(cleat_cuda_close(other), CLEAT_OK);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
    nothing_is_left();
}

/* What a peer says may be wrong: the device is none the worse for it. */
static void a_wrong_descriptor_of_a_peer_s_loses_no_device(void **state)
{
    struct cleat_cuda *cuda = NULL;
    struct cleat_cuda *other = NULL;
    struct cleat_error error;
    uint64_t address = 0;
    uint64_t bytes = 0;
    int fd = shared_slots(&cuda, &other, &bytes);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    (void)state;
    fake_gpu_plan("cuMemImportFromShareableHandle#1:fail=101");
    assert_int_equal(cleat_cuda_import(other, fd, bytes, &address, &error),
                     CLEAT_INVALID);
    assert_int_equal(error.status, CLEAT_INVALID);
    assert_int_equal(error.port_code, 101);
    assert_int_equal(cleat_cuda_import(other, null, bytes, &address, &error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_cuda_import(other, fd, bytes + 1, &address, &error),
                     CLEAT_INVALID);
    assert_false(cleat_cuda_lost(other, NULL));
    assert_int_equal(cleat_cuda_import(other, fd, bytes, &address, &error),
                     CLEAT_OK);
    assert_int_equal(close(null), 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(cleat_cuda_close(other), CLEAT_OK);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
    nothing_is_left();
}

static void import_sticky(void)
{
    struct cleat_cuda *cuda = NULL;
    struct cleat_cuda *other = NULL;
    uint64_t address = 0;
    uint64_t bytes = 0;
    int fd = shared_slots(&cuda, &other, &bytes);

    fake_gpu_plan("cuMemMap#1:fail=700");
    assert_int_equal(cleat_cuda_import(other, fd, bytes, &address, NULL),
                     CLEAT_DEVICE_LOST);
    is_lost(other, 700); /* taking back would have been a call too many */
}

static void export_sticky(void)
{
    struct cleat_cuda_config config = config_of();
    struct cleat_cuda *cuda = NULL;
    uint64_t bytes = 0;
    uint64_t distance = 0;
    int fd = 7;

    config.shareable = 1;
    cuda = opened_in(block, &config);
    fake_gpu_plan("cuMemExportToShareableHandle#1:fail=801 "
                  "cuMemExportToShareableHandle#2:fail=715");
    assert_int_equal(cleat_cuda_share(cuda, &fd, &bytes, &distance),
                     CLEAT_UNSUPPORTED);
    assert_int_equal(fd, -1);
    assert_int_equal(cleat_cuda_share(cuda, &fd, &bytes, &distance),
                     CLEAT_DEVICE_LOST);
    is_lost(cuda, 715);
}

static void sharing_latches_a_sticky_error_too(void **state)
{
    (void)state;
    in_a_child(import_sticky);
    fake_gpu_reset(); /* the world, with its plan, is the children's too */
    in_a_child(export_sticky);
}

static void a_driver_without_virtual_memory_shares_nothing(void **state)
{
    struct cleat_cuda_config config = config_of();
    struct cleat_cuda *cuda = NULL;
    struct cleat_cuda_info info;
    struct cleat_error error;
    uint64_t address = 0;

    (void)state;
    config.lib_path = CLEAT_FAKES "/cuda_without_vmm/libcuda.so.1";
    assert_int_equal(cleat_cuda_look(config.lib_path, &info, NULL), CLEAT_OK);
    assert_int_equal(info.share_found, 0);
    assert_int_equal(info.devices[0].memory_share, 0);
    config.shareable = 1;
    assert_int_equal(
        cleat_cuda_open(block, sizeof block, &config, &cuda, &error),
        CLEAT_UNSUPPORTED);
    config.shareable = 0;
    cuda = opened_in(block, &config);
    assert_int_equal(cleat_cuda_import(cuda, 0, 1, &address, &error),
                     CLEAT_UNSUPPORTED);
    assert_non_null(strstr(error.text, "cannot share"));
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
}

static void shared_slots_lie_on_their_own_device(void **state)
{
    struct cleat_cuda_config config = config_of();
    struct cleat_cuda *cuda = NULL;
    struct cleat_cuda *other = NULL;

    (void)state;
    fake_gpu_plan("memory=2M");
    config.shareable = 1; /* a granule of 2 MiB: all there is */
    cuda = opened_in(block, &config);
    config.device = 1;
    other = opened_in(block_two, &config);
    assert_int_equal(fake_gpu_counts().rdma_handles, 2);
    assert_int_equal(cleat_cuda_close(other), CLEAT_OK);
    assert_int_equal(cleat_cuda_close(cuda), CLEAT_OK);
    nothing_is_left();
}

static void a_mapping_that_fails_leaves_nothing(void **state)
{
    static const char *const calls[] = {"cuMemCreate", "cuMemAddressReserve",
                                        "cuMemMap", "cuMemSetAccess",
                                        "cuMemGetAllocationGranularity"};

    (void)state;
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        struct cleat_cuda_config config = config_of();
        char plan[64];

        fake_gpu_reset();
        config.shareable = 1;
        (void)snprintf(plan, sizeof plan, "%s#1:fail=801", calls[i]);
        fake_gpu_plan(plan);
        refused(&config, CLEAT_UNSUPPORTED, "801");
    }
}

/* ---- looking ---- */

static void looking_makes_no_context(void **state)
{
    struct cleat_cuda_info info;
    struct cleat_error error;

    (void)state;
    fake_gpu_plan("devices=3 memory=2G");
    assert_int_equal(cleat_cuda_look(LIBRARY, &info, NULL), CLEAT_OK);
    assert_int_equal(info.driver, 13000);
    assert_int_equal(info.devices_count, 3);
    assert_int_equal(info.devices[2].bytes, UINT64_C(2) << 30);
    assert_true(strlen(info.devices[2].name) > 0);
    assert_int_equal(info.share_found, 1);
    assert_int_equal(fake_gpu_counts().contexts, 0);
    fake_gpu_plan("devices=16");
    assert_int_equal(cleat_cuda_look(LIBRARY, &info, NULL), CLEAT_OK);
    fake_gpu_plan("devices=20"); /* more than are told */
    assert_int_equal(cleat_cuda_look(LIBRARY, &info, NULL), CLEAT_OK);
    assert_int_equal(info.devices_count, 20);
    fake_gpu_plan("devices=0");
    assert_int_equal(cleat_cuda_look(LIBRARY, &info, &error),
                     CLEAT_UNSUPPORTED);
    assert_non_null(strstr(error.text, "no device"));
}

/* ---- what is never called ---- */

static void no_symbol_of_the_list_waits_for_the_device(void **state)
{
    static const char *const names[] = {
#define NAME(name) CUDA_SYMBOL(name),
#define NAME_SINCE(name, since) CUDA_SYMBOL(name),
        CUDA_REQUIRED(NAME) CUDA_OPTIONAL(NAME_SINCE)
#undef NAME
#undef NAME_SINCE
    };
    /* Copies and sets that are not asynchronous, and all that waits. */
    static const char *const waits[] = {
        "Synchronize", "cuMemcpyHtoD", "cuMemcpyDtoH", "cuMemcpyDtoD",
        "cuMemsetD",   "WaitValue",    "cuCtxCreate",  "cuModuleLoad",
        "_v3",         "_v4",          "ElapsedTime",  "Prefetch"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (size_t k = 0; k < sizeof waits / sizeof waits[0]; k++) {
            assert_null(strstr(names[i], waits[k]));
        }
        assert_string_not_equal(names[i], "cuMemcpy");
        assert_string_not_equal(names[i], "cuMemcpy_v2");
    }
    /* The names are those of drivers of CUDA 12. */
    assert_string_equal(CUDA_SYMBOL(cuMemAlloc), "cuMemAlloc_v2");
    assert_string_equal(CUDA_SYMBOL(cuStreamDestroy), "cuStreamDestroy_v2");
    assert_string_equal(CUDA_SYMBOL(cuEventRecord), "cuEventRecord");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(all_is_made_at_open_and_freed_at_close, reset),
        cmocka_unit_test_setup(open_takes_back_what_it_made_wherever_it_fails,
                               reset),
        cmocka_unit_test_setup(
            too_little_device_memory_tells_what_is_needed_and_free, reset),
        cmocka_unit_test_setup(
            a_device_out_of_range_is_told_with_how_many_there_are, reset),
        cmocka_unit_test_setup(what_is_no_driver_is_named, reset),
        cmocka_unit_test_setup(a_device_may_have_no_slots_and_no_staging,
                               reset),
        cmocka_unit_test_setup(the_thread_s_context_is_the_host_program_s,
                               reset),
        cmocka_unit_test_setup(a_context_that_the_host_holds_too_stays_current,
                               reset),
        cmocka_unit_test_setup(a_thread_that_serves_disturbs_no_capture, reset),
        cmocka_unit_test_setup(counts_and_sizes_have_their_bounds, reset),
        cmocka_unit_test_setup(what_is_optional_is_found_in_drivers_old_and_new,
                               reset),
        cmocka_unit_test_setup(shared_slots_lie_on_their_own_device, reset),
        cmocka_unit_test_setup(the_block_is_checked, reset),
        cmocka_unit_test_setup(bytes_go_to_the_device_and_back_in_order, reset),
        cmocka_unit_test_setup(slots_do_not_overlap_and_are_aligned, reset),
        cmocka_unit_test_setup(
            nobody_waits_for_an_event_that_was_never_recorded, reset),
        cmocka_unit_test_setup(codes_mean_what_the_header_says, reset),
        cmocka_unit_test_setup(after_a_sticky_error_no_call_is_made, reset),
        cmocka_unit_test_setup(an_error_that_passes_is_not_latched, reset),
        cmocka_unit_test_setup(close_does_not_wait_for_a_stream_that_is_stuck,
                               reset),
        cmocka_unit_test_setup(slots_are_shared_by_a_descriptor, reset),
        cmocka_unit_test_setup(
            what_hangs_on_the_default_stream_holds_up_none_of_ours, reset),
        cmocka_unit_test_setup(staging_is_pinned_for_every_device, reset),
        cmocka_unit_test_setup(
            an_import_that_fails_is_taken_back_wherever_it_fails, reset),
        cmocka_unit_test_setup(a_wrong_descriptor_of_a_peer_s_loses_no_device,
                               reset),
        cmocka_unit_test_setup(sharing_latches_a_sticky_error_too, reset),
        cmocka_unit_test_setup(a_driver_without_virtual_memory_shares_nothing,
                               reset),
        cmocka_unit_test_setup(a_mapping_that_fails_leaves_nothing, reset),
        cmocka_unit_test_setup(looking_makes_no_context, reset),
        cmocka_unit_test_setup(no_symbol_of_the_list_waits_for_the_device,
                               reset),
    };

    fake_gpu_attach_files(LIBRARY, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
