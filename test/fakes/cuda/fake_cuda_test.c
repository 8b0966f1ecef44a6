/* Cleat: the fake CUDA driver does what the real one is known to do.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <cuda.h>
#include <cudaTypedefs.h>
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "control.h"
#include "link.h"
#include "misuse.h"

#define BYTES ((size_t)3 << 20)

/* One device ready to work. */
static CUstream stream;
static CUstream other;
static CUevent event;
static CUdeviceptr slot;
static CUdeviceptr second;
static unsigned char *pinned;

static void ok(CUresult code)
{
    assert_int_equal(code, CUDA_SUCCESS);
}

static void use_device(int device)
{
    CUcontext context;

    ok(cuInit(0));
    ok(cuDevicePrimaryCtxRetain(&context, device));
    ok(cuCtxSetCurrent(context));
}

static int set_up(void **state)
{
    (void)state;
    fake_gpu_reset();
    use_device(0);
    ok(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    ok(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    ok(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    ok(cuMemAlloc(&slot, BYTES));
    ok(cuMemAlloc(&second, BYTES));
    ok(cuMemHostAlloc((void **)&pinned, BYTES, CU_MEMHOSTALLOC_PORTABLE));
    for (size_t i = 0; i < BYTES; i++) pinned[i] = (unsigned char)(i * 7 + 1);
    return 0;
}

static int set_up_bare(void **state)
{
    (void)state;
    fake_gpu_reset();
    return 0;
}

static void wait_for(CUstream of)
{
    for (int polls = 0; polls < 1000; polls++) {
        CUresult code = cuStreamQuery(of);

        if (code == CUDA_SUCCESS) return;
        assert_int_equal(code, CUDA_ERROR_NOT_READY);
    }
    fail_msg("the stream never became idle");
}

/* ---- devices and contexts ------------------------------------------------
 */

static void a_device_tells_its_name_memory_bus_and_attributes(void **state)
{
    char text[64];
    CUdevice device;
    CUuuid uuids[2];
    size_t bytes;
    int value;

    (void)state;
    fake_gpu_plan("devices=2 memory=64M driver=12080");
    ok(cuInit(0));
    ok(cuDeviceGetCount(&value));
    assert_int_equal(value, 2);
    ok(cuDriverGetVersion(&value));
    assert_int_equal(value, 12080);
    ok(cuDeviceGet(&device, 1));
    assert_int_equal(cuDeviceGet(&device, 2), CUDA_ERROR_INVALID_DEVICE);
    ok(cuDeviceGetName(text, sizeof text, 1));
    assert_string_equal(text, "Fake GPU 1");
    ok(cuDeviceGetPCIBusId(text, sizeof text, 1));
    assert_string_equal(text, "0000:02:00.0");
    ok(cuDeviceTotalMem(&bytes, 1));
    assert_int_equal(bytes, 64 << 20);
    ok(cuDeviceGetUuid(&uuids[0], 0));
    ok(cuDeviceGetUuid(&uuids[1], 1));
    assert_memory_not_equal(&uuids[0], &uuids[1], sizeof uuids[0]);
    ok(cuDeviceGetAttribute(
        &value, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
    assert_int_equal(value, 1);
}

static void nothing_works_before_init(void **state)
{
    int count;

    (void)state;
    assert_int_equal(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
}

static void the_stub_library_says_that_it_is_one(void **state)
{
    (void)state;
    fake_gpu_plan("init=34");
    assert_int_equal(cuInit(0), CUDA_ERROR_STUB_LIBRARY);
}

static void a_machine_without_a_gpu_says_so(void **state)
{
    (void)state;
    fake_gpu_plan("devices=0");
    assert_int_equal(cuInit(0), CUDA_ERROR_NO_DEVICE);
}

static void a_call_without_a_context_is_refused_and_counted(void **state)
{
    CUdeviceptr memory;

    (void)state;
    ok(cuInit(0));
    assert_int_equal(cuMemAlloc(&memory, 1), CUDA_ERROR_INVALID_CONTEXT);
    assert_int_equal(fake_gpu_counts().no_context, 1);
}

static void a_primary_context_lives_as_long_as_its_references(void **state)
{
    CUcontext first;
    CUcontext again;
    unsigned flags;
    int active;

    (void)state;
    ok(cuInit(0));
    ok(cuDevicePrimaryCtxGetState(0, &flags, &active));
    assert_int_equal(active, 0);
    ok(cuDevicePrimaryCtxRetain(&first, 0));
    ok(cuDevicePrimaryCtxRetain(&again, 0));
    assert_ptr_equal(first, again);
    assert_int_equal(fake_gpu_counts().contexts, 2);
    ok(cuDevicePrimaryCtxRelease(0));
    ok(cuDevicePrimaryCtxGetState(0, &flags, &active));
    assert_int_equal(active, 1);
    ok(cuCtxSetCurrent(first));
    ok(cuDevicePrimaryCtxRelease(0));
    assert_int_equal(cuDevicePrimaryCtxRelease(0), CUDA_ERROR_INVALID_CONTEXT);
    assert_int_equal(cuCtxGetDevice(&active), CUDA_ERROR_INVALID_CONTEXT);
    assert_int_equal(cuCtxSetCurrent(first), CUDA_ERROR_INVALID_CONTEXT);
}

static void contexts_are_pushed_and_popped(void **state)
{
    CUcontext context;
    CUcontext popped;
    CUdevice device;

    (void)state;
    use_device(0);
    ok(cuDevicePrimaryCtxRetain(&context, 1));
    ok(cuCtxPushCurrent(context));
    ok(cuCtxGetDevice(&device));
    assert_int_equal(device, 1);
    ok(cuCtxPopCurrent(&popped));
    assert_ptr_equal(popped, context);
    ok(cuCtxGetDevice(&device));
    assert_int_equal(device, 0);
}

static void errors_have_names_and_texts(void **state)
{
    const char *text;

    (void)state;
    ok(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
    assert_string_equal(text, "CUDA_ERROR_ILLEGAL_ADDRESS");
    ok(cuGetErrorString(CUDA_ERROR_NO_DEVICE, &text));
    assert_non_null(text);
    assert_int_equal(cuGetErrorName((CUresult)12345, &text),
                     CUDA_ERROR_INVALID_VALUE);
    assert_null(text);
}

/* ---- functions by name ---------------------------------------------------
 */

static void functions_are_found_by_their_name_in_the_source(void **state)
{
    CUdriverProcAddressQueryResult status;
    void *found;

    (void)state;
    ok(cuGetProcAddress("cuMemAlloc", &found, 12000, 0, &status));
    assert_int_equal(status, CU_GET_PROC_ADDRESS_SUCCESS);
    assert_ptr_equal(found, dlsym(fake_gpu_libcuda(), "cuMemAlloc_v2"));
    ok(cuGetProcAddress("cuNoSuchThing", &found, 12000, 0, &status));
    assert_int_equal(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    assert_null(found);
    ok(cuGetProcAddress("cuMemCreate", &found, 10000, 0, &status));
    assert_int_equal(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    assert_null(found);
    found = &status;
    ok(cuGetProcAddress("cuNoSuchThing", &found, 12000, 0, NULL));
    assert_null(found); /* a success all the same */
    ok(cuGetProcAddress("cuStreamWaitValue32", &found, 12000, 0, NULL));
    assert_ptr_equal(found,
                     dlsym(fake_gpu_libcuda(), "cuStreamWaitValue32_v2"));
}

static void an_old_driver_lacks_what_came_later(void **state)
{
    CUdriverProcAddressQueryResult status;
    void *found;

    (void)state;
    fake_gpu_plan("driver=10010");
    ok(cuGetProcAddress("cuMemCreate", &found, 10010, 0, &status));
    assert_int_equal(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    assert_null(found);
    /* Nothing is asked of it that is newer than it. */
    assert_int_equal(cuGetProcAddress("cuMemAlloc", &found, 10020, 0, &status),
                     CUDA_ERROR_INVALID_VALUE);
}

static void a_variant_lacks(const char *folder, const char *symbol)
{
    char path[4096];
    void *library;

    (void)snprintf(path, sizeof path, "%s/%s/libcuda.so.1", CLEAT_FAKES,
                   folder);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    assert_null(dlsym(library, symbol));
    assert_non_null(dlsym(library, "cuMemAlloc_v2"));
}

/* The function of that name in a variant. */
#define FROM(folder, name, pointer)                                    \
    do {                                                               \
        void *library = dlopen(CLEAT_FAKES "/" folder "/libcuda.so.1", \
                               RTLD_NOW | RTLD_LOCAL);                 \
        void *found_there;                                             \
                                                                       \
        assert_non_null(library);                                      \
        found_there = dlsym(library, name);                            \
        assert_non_null(found_there);                                  \
        memcpy(&(pointer), &found_there, sizeof found_there);          \
    } while (0)

static void the_older_form_answers_what_is_not_found_with_an_error(void **state)
{
    PFN_cuGetProcAddress_v11030 get;
    __typeof__(&cuDriverGetVersion) version;
    void *found;
    int is;

    (void)state;
    FROM("cuda_11", "cuDriverGetVersion", version);
    ok(version(&is));
    assert_int_equal(is, 11080);
    FROM("cuda_11", "cuGetProcAddress", get);
    ok(get("cuMemAlloc", &found, 11000, 0));
    assert_non_null(found);
    assert_int_equal(get("cuNoSuchThing", &found, 11000, 0),
                     CUDA_ERROR_NOT_FOUND);
    assert_int_equal(get("cuMemCreate", &found, 10010, 0),
                     CUDA_ERROR_NOT_FOUND);
    assert_int_equal(get("cuMemAlloc", &found, 12000, 0),
                     CUDA_ERROR_INVALID_VALUE);
}

static void what_a_variant_lacks_is_not_found_by_name_either(void **state)
{
    PFN_cuGetProcAddress_v12000 get;
    CUdriverProcAddressQueryResult status;
    void *found;

    (void)state;
    FROM("cuda_without_vmm", "cuGetProcAddress_v2", get);
    ok(get("cuMemCreate", &found, 13000, 0, &status));
    assert_null(found);
    assert_int_equal(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
}

static void the_variants_lack_what_they_are_for(void **state)
{
    (void)state;
    a_variant_lacks("cuda_11", "cuGetProcAddress_v2");
    a_variant_lacks("cuda_11", "cuMemcpyBatchAsync_v2");
    a_variant_lacks("cuda_by_name", "cuGetProcAddress");
    a_variant_lacks("cuda_by_name", "cuMemCreate");
    a_variant_lacks("cuda_12", "cuMemcpyBatchAsync_v2");
    a_variant_lacks("cuda_without_vmm", "cuMemCreate");
    a_variant_lacks("cuda_broken", "cuMemcpyAsync");
    assert_non_null(dlsym(fake_gpu_libcuda(), "cuMemcpyBatchAsync_v2"));
}

/* ---- memory --------------------------------------------------------------
 */

static void read_device_memory(void *arg)
{
    (void)arg;
    if (*(volatile unsigned char *)(uintptr_t)slot == 1) _exit(0);
}

static void the_host_cannot_read_device_memory(void **state)
{
    struct misuse_end end;

    (void)state;
    end = misuse_run(read_device_memory, NULL);
    assert_true(WIFSIGNALED(end.status) || WEXITSTATUS(end.status) != 0);
    assert_non_null(fake_gpu_memory(slot, BYTES));
}

static void memory_is_used_up_and_given_back(void **state)
{
    CUdeviceptr memory;
    size_t total;
    size_t left;

    (void)state;
    fake_gpu_plan("memory=8M");
    ok(cuMemGetInfo(&left, &total));
    assert_int_equal(total, 8 << 20);
    assert_int_equal(left, (8 << 20) - 2 * BYTES);
    assert_int_equal(cuMemAlloc(&memory, BYTES), CUDA_ERROR_OUT_OF_MEMORY);
    ok(cuMemAlloc(&memory, 2 << 20));
    assert_int_equal(fake_gpu_counts().allocations, 3);
    ok(cuMemFree(memory));
    ok(cuMemFree(slot));
    fake_gpu_plan("lenient=1");
    assert_int_equal(cuMemFree(slot), CUDA_ERROR_INVALID_VALUE);
    assert_int_equal(fake_gpu_counts().misuses, 1);
    ok(cuMemGetInfo(&left, &total));
    assert_int_equal(left, (8 << 20) - BYTES);
    assert_int_equal(fake_gpu_counts().allocations, 1);
}

static void take_most_and_wait(int stop)
{
    CUdeviceptr memory;
    char end;

    ok(cuMemAlloc(&memory, (size_t)800 << 20));
    (void)!write(stop, "x", 1);
    (void)!read(stop, &end, 1);
    _exit(0);
}

/* Who has none left to look with takes nobody for dead. */
static size_t free_bytes_without_descriptors(void)
{
    struct rlimit before;
    struct rlimit none;
    size_t bytes;
    size_t total;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    ok(cuMemGetInfo(&bytes, &total));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    return bytes;
}

static void a_device_s_memory_is_all_its_processes_until_they_end(void **state)
{
    CUdeviceptr memory;
    size_t bytes;
    size_t total;
    char told;
    int ends[2];
    pid_t child;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    child = fork();
    if (child == 0) {
        (void)close(ends[0]); /* it ends when this test does */
        take_most_and_wait(ends[1]);
    }
    assert_int_equal(read(ends[0], &told, 1), 1);
    ok(cuMemGetInfo(&bytes, &total));
    assert_int_equal(total - bytes, ((size_t)800 << 20) + 2 * BYTES);
    assert_int_equal(free_bytes_without_descriptors(), bytes);
    assert_int_equal(cuMemAlloc(&memory, (size_t)300 << 20),
                     CUDA_ERROR_OUT_OF_MEMORY);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    ok(cuMemAlloc(&memory, (size_t)300 << 20));
    ok(cuMemFree(memory));
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void host_memory_is_registered_once(void **state)
{
    static unsigned char arena[8192];
    CUdeviceptr address;

    (void)state;
    assert_int_equal(cuMemHostUnregister(arena),
                     CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    ok(cuMemHostRegister(arena, sizeof arena, 0));
    assert_int_equal(cuMemHostRegister(arena + 100, 10, 0),
                     CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    ok(cuMemHostGetDevicePointer(&address, arena, 0));
    assert_int_equal(fake_gpu_counts().host_allocations, 2);
    ok(cuMemHostUnregister(arena));
}

static void a_copy_from_pageable_memory_is_counted(void **state)
{
    static unsigned char pageable[100];

    (void)state;
    ok(cuMemcpyHtoDAsync(slot, pinned, 100, stream));
    assert_int_equal(fake_gpu_counts().unpinned_copies, 0);
    ok(cuMemcpyHtoDAsync(slot, pageable, 100, stream));
    ok(cuMemcpyDtoHAsync(pageable, slot, 100, stream));
    assert_int_equal(fake_gpu_counts().unpinned_copies, 2);
    wait_for(stream);
}

static void memory_is_pinned_for_its_context_unless_portable(void **state)
{
    CUdeviceptr there;
    CUstream foreign;
    void *mine;

    (void)state;
    ok(cuMemHostAlloc(&mine, 64, 0));
    ok(cuMemcpyHtoDAsync(slot, mine, 64, stream));
    assert_int_equal(fake_gpu_counts().unpinned_copies, 0);
    use_device(1);
    ok(cuStreamCreate(&foreign, CU_STREAM_NON_BLOCKING));
    ok(cuMemAlloc(&there, 64));
    ok(cuMemcpyHtoDAsync(there, pinned, 64, foreign)); /* portable */
    assert_int_equal(fake_gpu_counts().unpinned_copies, 0);
    ok(cuMemcpyHtoDAsync(there, mine, 64, foreign));
    assert_int_equal(fake_gpu_counts().unpinned_copies, 1);
    assert_true(fake_gpu_drain());
}

static void copies_outside_an_allocation_are_refused(void **state)
{
    (void)state;
    assert_int_equal(
        cuMemcpyAsync(slot + 1, (CUdeviceptr)(uintptr_t)pinned, BYTES, stream),
        CUDA_ERROR_INVALID_VALUE);
    ok(cuMemFree(slot));
    assert_int_equal(cuMemcpyHtoDAsync(slot, pinned, 10, stream),
                     CUDA_ERROR_INVALID_VALUE);
}

/* ---- virtual memory ------------------------------------------------------
 */

static CUmemAllocationProp shareable(void)
{
    CUmemAllocationProp prop;

    memset(&prop, 0, sizeof prop);
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = 0;
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    return prop;
}

static CUdeviceptr map(CUmemGenericAllocationHandle handle, size_t bytes)
{
    CUmemAccessDesc access;
    CUdeviceptr at;

    memset(&access, 0, sizeof access);
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    ok(cuMemAddressReserve(&at, bytes, 0, 0, 0));
    ok(cuMemMap(at, bytes, 0, handle, 0));
    ok(cuMemSetAccess(at, bytes, &access, 1));
    return at;
}

static void unmap(CUdeviceptr at, size_t bytes)
{
    ok(cuMemUnmap(at, bytes));
    ok(cuMemAddressFree(at, bytes));
}

/* In a process of its own: imports, and writes 77 at the end. */
static void import_and_write(void *arg)
{
    CUmemGenericAllocationHandle handle;
    CUdeviceptr at;
    size_t bytes = (size_t)2 << 20;

    if (cuMemImportFromShareableHandle(
            &handle, (void *)(intptr_t) * (int *)arg,
            CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != CUDA_SUCCESS) {
        _exit(2);
    }
    at = map(handle, bytes);
    if (cuMemcpyHtoDAsync(at + bytes - 1, pinned, 1, stream) != CUDA_SUCCESS) {
        _exit(3);
    }
    wait_for(stream);
}

static void virtual_memory_is_shared_by_a_descriptor(void **state)
{
    CUmemAllocationProp prop = shareable();
    CUmemGenericAllocationHandle handle;
    CUdeviceptr at;
    size_t granularity;
    int file = -1;

    (void)state;
    ok(cuMemGetAllocationGranularity(&granularity, &prop,
                                     CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
    assert_int_equal(granularity, 2 << 20);
    assert_int_equal(cuMemCreate(&handle, granularity + 1, &prop, 0),
                     CUDA_ERROR_INVALID_VALUE);
    ok(cuMemCreate(&handle, granularity, &prop, 0));
    ok(cuMemExportToShareableHandle(
        &file, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    at = map(handle, granularity);
    assert_int_equal(fake_gpu_counts().handles, 1);
    assert_int_equal(fake_gpu_counts().mappings, 1);
    assert_int_equal(fake_gpu_counts().reservations, 1);
    ok(cuMemRelease(handle)); /* the mapping holds it */
    assert_int_equal(fake_gpu_counts().handles, 0);
    pinned[0] = 77;
    assert_true(misuse_is_fine(import_and_write, &file));
    assert_int_equal(((unsigned char *)fake_gpu_memory(at, 1))[granularity - 1],
                     77);
    (void)close(file);
    unmap(at, granularity);
    assert_int_equal(fake_gpu_counts().allocations, 2);
    assert_int_equal(fake_gpu_counts().mappings, 0);
    assert_int_equal(fake_gpu_counts().reservations, 0);
}

static void virtual_memory_may_be_used_after_access_is_set(void **state)
{
    CUmemAllocationProp prop = shareable();
    CUmemGenericAllocationHandle handle;
    size_t bytes = (size_t)2 << 20;
    CUdeviceptr at;

    (void)state;
    ok(cuMemCreate(&handle, bytes, &prop, 0));
    ok(cuMemAddressReserve(&at, bytes, 0, 0, 0));
    assert_int_equal(cuMemcpyHtoDAsync(at, pinned, 1, stream),
                     CUDA_ERROR_INVALID_VALUE);
    ok(cuMemMap(at, bytes, 0, handle, 0));
    assert_int_equal(cuMemcpyHtoDAsync(at, pinned, 1, stream),
                     CUDA_ERROR_INVALID_VALUE);
}

static void only_memory_made_for_it_is_exported(void **state)
{
    CUmemAllocationProp prop = shareable();
    CUmemGenericAllocationHandle handle;
    CUipcMemHandle ipc;
    CUdeviceptr at;
    int file;

    (void)state;
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
    ok(cuMemCreate(&handle, (size_t)2 << 20, &prop, 0));
    assert_int_equal(
        cuMemExportToShareableHandle(
            &file, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        CUDA_ERROR_INVALID_VALUE);
    /* And the older handles are not for virtual memory. */
    at = map(handle, (size_t)2 << 20);
    assert_int_equal(cuIpcGetMemHandle(&ipc, at), CUDA_ERROR_INVALID_VALUE);
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_FABRIC;
    assert_int_equal(cuMemCreate(&handle, (size_t)2 << 20, &prop, 0),
                     CUDA_ERROR_NOT_SUPPORTED);
}

static void open_and_write(void *arg)
{
    CUdeviceptr at;

    if (cuIpcOpenMemHandle(&at, *(CUipcMemHandle *)arg, 1) != CUDA_SUCCESS) {
        _exit(2);
    }
    if (cuMemcpyHtoDAsync(at, pinned, 10, stream) != CUDA_SUCCESS) _exit(3);
    wait_for(stream);
    if (cuIpcCloseMemHandle(at) != CUDA_SUCCESS) _exit(4);
}

static void plain_memory_is_shared_by_a_legacy_handle(void **state)
{
    CUipcMemHandle handle;

    (void)state;
    ok(cuIpcGetMemHandle(&handle, slot));
    assert_true(misuse_is_fine(open_and_write, &handle));
    assert_memory_equal(fake_gpu_memory(slot, 10), pinned, 10);
}

/* ---- streams and events --------------------------------------------------
 */

static void a_copy_is_done_by_polling_and_not_before(void **state)
{
    unsigned char *there = fake_gpu_memory(slot, BYTES);

    (void)state;
    ok(cuMemcpyHtoDAsync(slot, pinned, BYTES, stream));
    assert_int_equal(there[5], 0);
    assert_int_equal(fake_gpu_pending(), 1);
    wait_for(stream);
    assert_memory_equal(there, pinned, BYTES);
    assert_int_equal(fake_gpu_counts().copied_bytes, BYTES);
}

static void a_destination_is_garbage_before_its_bytes_come(void **state)
{
    unsigned char *there = fake_gpu_memory(slot, BYTES);

    (void)state;
    ok(cuMemcpyHtoDAsync(slot, pinned, BYTES, stream));
    assert_int_equal(fake_gpu_pump(1), 1);
    assert_int_equal(there[0], FAKE_GARBAGE);
    assert_int_equal(there[BYTES - 1], FAKE_GARBAGE);
    assert_int_equal(fake_gpu_pump(1), 1);
    assert_memory_equal(there, pinned, BYTES);
}

static void where_the_test_drives_a_poll_advances_nothing(void **state)
{
    (void)state;
    fake_gpu_plan("manual=1");
    ok(cuMemcpyHtoDAsync(slot, pinned, 10, stream));
    for (int i = 0; i < 100; i++) {
        assert_int_equal(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    }
    assert_true(fake_gpu_step(0));
    assert_true(fake_gpu_step(0));
    assert_false(fake_gpu_step(0));
    ok(cuStreamQuery(stream));
}

static void a_stream_is_a_queue(void **state)
{
    (void)state;
    ok(cuMemcpyHtoDAsync(slot, pinned, 10, stream));
    ok(cuMemsetD8Async(slot, 9, 5, stream));
    ok(cuMemcpyDtoDAsync(second, slot, 10, stream));
    ok(cuMemcpyDtoHAsync(pinned + 100, second, 10, stream));
    wait_for(stream);
    for (int i = 0; i < 5; i++) assert_int_equal(pinned[100 + i], 9);
    assert_memory_equal(pinned + 105, pinned + 5, 5);
}

static void a_batch_is_so_many_copies(void **state)
{
    CUdeviceptr to[2] = {slot, second};
    CUdeviceptr from[2] = {(CUdeviceptr)(uintptr_t)pinned,
                           (CUdeviceptr)(uintptr_t)pinned + 7};
    size_t sizes[2] = {7, 9};
    size_t first = 0;
    CUmemcpyAttributes attributes;

    (void)state;
    memset(&attributes, 0, sizeof attributes);
    attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
    ok(cuMemcpyBatchAsync(to, from, sizes, 2, &attributes, &first, 1, stream));
    wait_for(stream);
    assert_memory_equal(fake_gpu_memory(slot, 7), pinned, 7);
    assert_memory_equal(fake_gpu_memory(second, 9), pinned + 7, 9);
    assert_int_equal(
        cuMemcpyBatchAsync(to, from, sizes, 2, &attributes, &first, 1, NULL),
        CUDA_ERROR_INVALID_VALUE);
}

static void an_event_is_complete_when_what_was_before_it_is(void **state)
{
    (void)state;
    fake_gpu_plan("manual=1");
    ok(cuEventQuery(event)); /* never recorded: complete */
    ok(cuMemcpyHtoDAsync(slot, pinned, 10, stream));
    ok(cuEventRecord(event, stream));
    ok(cuMemcpyHtoDAsync(slot, pinned, 10, stream));
    assert_int_equal(cuEventQuery(event), CUDA_ERROR_NOT_READY);
    assert_int_equal(fake_gpu_pump(3), 3);
    ok(cuEventQuery(event));
    assert_int_equal(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
}

static void a_stream_waits_for_an_event(void **state)
{
    (void)state;
    fake_gpu_plan("manual=1");
    ok(cuMemcpyHtoDAsync(slot, pinned, 10, stream));
    ok(cuEventRecord(event, stream));
    ok(cuStreamWaitEvent(other, event, 0));
    ok(cuMemcpyDtoDAsync(second, slot, 10, other));
    assert_int_equal(fake_gpu_streams(), 2);
    assert_false(fake_gpu_step(1)); /* the one that waits */
    assert_true(fake_gpu_drain());
    assert_memory_equal(fake_gpu_memory(second, 10), pinned, 10);
}

static void a_stream_waits_for_a_value_in_memory(void **state)
{
    uint32_t *flag = (uint32_t *)(void *)pinned;

    (void)state;
    *flag = 0;
    ok(cuStreamWaitValue32(stream, (CUdeviceptr)(uintptr_t)flag, 3,
                           CU_STREAM_WAIT_VALUE_GEQ));
    assert_false(fake_gpu_drain());
    ok(cuStreamWriteValue32(other, (CUdeviceptr)(uintptr_t)flag, 4, 0));
    assert_true(fake_gpu_drain());
    assert_int_equal(*flag, 4);
}

static void CUDA_CB count_up(void *arg)
{
    ++*(int *)arg;
}

/* cuStreamCreate without the flag. */
static CUstream blocking(void)
{
    CUstream made;

    ok(cuStreamCreate(&made, CU_STREAM_DEFAULT));
    return made;
}

static void a_blocking_stream_waits_for_the_default_stream(void **state)
{
    CUstream of = blocking();

    (void)state;
    assert_int_equal(fake_gpu_counts().default_streams, 1);
    fake_gpu_plan("cuMemsetD8Async#1:never");
    ok(cuMemsetD8Async(slot, 1, 1, NULL)); /* the default stream */
    ok(cuMemsetD8Async(second, 2, 1, of));
    ok(cuMemsetD8Async(second + 1, 3, 1, other));
    wait_for(other); /* takes no part */
    assert_false(fake_gpu_drain());
    assert_int_equal(cuStreamQuery(of), CUDA_ERROR_NOT_READY);
    assert_int_equal(*(unsigned char *)fake_gpu_memory(second, 1), 0);
    fake_gpu_release();
    wait_for(of);
    assert_int_equal(*(unsigned char *)fake_gpu_memory(second, 1), 2);
    ok(cuStreamDestroy(of));
    assert_int_equal(fake_gpu_counts().default_streams, 0);
}

static void the_default_stream_waits_for_blocking_streams(void **state)
{
    CUstream of = blocking();

    (void)state;
    fake_gpu_plan("cuMemsetD8Async#1:never");
    ok(cuMemsetD8Async(slot, 1, 1, of));
    ok(cuMemsetD8Async(slot, 2, 1, NULL)); /* ordered: no misuse */
    ok(cuMemsetD8Async(slot, 3, 1, of));
    assert_false(fake_gpu_drain());
    assert_int_equal(cuStreamQuery(NULL), CUDA_ERROR_NOT_READY);
    fake_gpu_release();
    assert_true(fake_gpu_drain());
    assert_int_equal(*(unsigned char *)fake_gpu_memory(slot, 1), 3);
}

struct capture {
    CUstreamCaptureMode mode; /* of the thread that does not capture */
    CUresult queried;
    CUresult allocated;
};

static void *query_and_allocate(void *arg)
{
    struct capture *capture = arg;
    CUstreamCaptureMode mode = capture->mode;
    CUdeviceptr memory;

    use_device(0);
    ok(cuThreadExchangeStreamCaptureMode(&mode));
    assert_int_equal(mode, CU_STREAM_CAPTURE_MODE_GLOBAL); /* as it was */
    capture->queried = cuEventQuery(event);
    capture->allocated = cuMemAlloc(&memory, 1);
    return NULL;
}

/* How another thread's capture ended. */
static CUresult captured(CUstreamCaptureMode mode, struct capture *meanwhile)
{
    pthread_t thread;
    CUgraph graph;

    ok(cuStreamBeginCapture(stream, mode));
    assert_int_equal(
        pthread_create(&thread, NULL, query_and_allocate, meanwhile), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return cuStreamEndCapture(stream, &graph);
}

static void a_query_breaks_another_thread_s_capture_unless_relaxed(void **state)
{
    struct capture global = {CU_STREAM_CAPTURE_MODE_GLOBAL, 0, 0};
    struct capture relaxed = {CU_STREAM_CAPTURE_MODE_RELAXED, 0, 0};

    (void)state;
    assert_int_equal(captured(CU_STREAM_CAPTURE_MODE_GLOBAL, &global),
                     CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_int_equal(global.queried, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_int_equal(global.allocated, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    ok(captured(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, &global));
    ok(global.queried);
    ok(captured(CU_STREAM_CAPTURE_MODE_GLOBAL, &relaxed));
    ok(relaxed.queried);
    ok(relaxed.allocated);
}

static void a_thread_s_own_capture_forbids_it_too_unless_relaxed(void **state)
{
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CUgraph graph;

    (void)state;
    ok(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    assert_int_equal(cuEventQuery(event),
                     CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_int_equal(cuStreamEndCapture(stream, &graph),
                     CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    ok(cuThreadExchangeStreamCaptureMode(&mode));
    ok(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    ok(cuEventQuery(event));
    ok(cuStreamEndCapture(stream, &graph));
    ok(cuThreadExchangeStreamCaptureMode(&mode)); /* as it was */
}

static void a_call_that_fails_leaves_garbage_in_its_result(void **state)
{
    CUdeviceptr memory = 0;

    (void)state;
    fake_gpu_plan("cuMemAlloc#1:fail=2");
    assert_int_equal(cuMemAlloc(&memory, 1), CUDA_ERROR_OUT_OF_MEMORY);
    assert_int_not_equal(memory, 0);
}

static void end_twice(void *arg)
{
    fake_gpu_plan("lenient=0");
    switch (*(int *)arg) {
    case 0:
        (void)cuMemFree(slot);
        (void)cuMemFree(slot);
        break;
    case 1:
        (void)cuStreamDestroy(stream);
        (void)cuStreamDestroy(stream);
        break;
    case 2:
        (void)cuEventDestroy(event);
        (void)cuEventDestroy(event);
        break;
    case 3:
        (void)cuMemFreeHost(pinned);
        (void)cuMemFreeHost(pinned);
        break;
    case 4: (void)cuMemRelease(1); break;
    case 5: (void)cuMemUnmap(slot, BYTES); break;
    default: (void)cuMemAddressFree(slot, BYTES); break;
    }
}

static void ending_what_is_not_is_misuse(void **state)
{
    (void)state;
    for (int i = 0; i < 7; i++) {
        assert_true(misuse_aborts(end_twice, &i, "ends what is not"));
    }
}

static void an_event_may_record_the_time(void **state)
{
    CUevent timed;

    (void)state;
    assert_int_equal(fake_gpu_counts().timed_events, 0);
    ok(cuEventCreate(&timed, CU_EVENT_DEFAULT));
    assert_int_equal(fake_gpu_counts().timed_events, 1);
    ok(cuEventDestroy(timed));
    assert_int_equal(fake_gpu_counts().timed_events, 0);
}

static void a_host_function_runs_in_its_turn(void **state)
{
    int count = 0;

    (void)state;
    ok(cuLaunchHostFunc(stream, count_up, &count));
    assert_int_equal(count, 0);
    wait_for(stream);
    assert_int_equal(count, 1);
}

static uint32_t last_of(void *arg, uint32_t n)
{
    ++*(uint32_t *)arg;
    return n - 1;
}

static void a_test_may_choose_which_stream_advances(void **state)
{
    uint32_t asked = 0;

    (void)state;
    ok(cuMemsetD8Async(slot, 1, 1, stream));
    ok(cuMemsetD8Async(second, 2, 1, other));
    fake_gpu_choose(last_of, &asked);
    assert_int_equal(fake_gpu_pump(1), 1);
    assert_int_equal(asked, 1);
    assert_int_equal(*(unsigned char *)fake_gpu_memory(second, 1), 2);
    assert_int_equal(*(unsigned char *)fake_gpu_memory(slot, 1), 0);
    fake_gpu_choose(NULL, NULL);
    assert_true(fake_gpu_drain());
}

/* Which of two streams' 32 fills came first, as bits. */
static uint64_t order_with_seed(const char *seed)
{
    uint64_t order = 0;

    fake_gpu_plan(seed);
    for (unsigned i = 0; i < 32; i++) {
        ok(cuMemsetD8Async(slot + i, 1, 1, stream));
        ok(cuMemsetD8Async(second + i, 1, 1, other));
    }
    for (unsigned i = 0; i < 64; i++) {
        unsigned char *mine = fake_gpu_memory(slot, 32);
        unsigned char before = 0;

        for (unsigned j = 0; j < 32; j++) {
            before = (unsigned char)(before + mine[j]);
        }
        assert_int_equal(fake_gpu_pump(1), 1);
        for (unsigned j = 0; j < 32; j++) {
            before = (unsigned char)(before - mine[j]);
        }
        order = order << 1 | (before != 0);
    }
    return order;
}

static void a_seed_repeats_an_order_and_another_gives_another(void **state)
{
    uint64_t first = order_with_seed("seed=5");
    uint64_t again;

    set_up(state);
    again = order_with_seed("seed=5");
    assert_true(first == again);
    set_up(state);
    assert_true(first != order_with_seed("seed=6"));
}

/* ---- rules ---------------------------------------------------------------
 */

static void the_kth_call_fails_and_has_no_effect(void **state)
{
    CUdeviceptr memory;

    (void)state;
    fake_gpu_plan("cuMemAlloc#2:fail=2*2");
    ok(cuMemAlloc(&memory, 10));
    assert_int_equal(cuMemAlloc(&memory, 10), CUDA_ERROR_OUT_OF_MEMORY);
    assert_int_equal(cuMemAlloc(&memory, 10), CUDA_ERROR_OUT_OF_MEMORY);
    ok(cuMemAlloc(&memory, 10));
    assert_int_equal(fake_gpu_counts().allocations, 4);
    assert_int_equal(fake_gpu_counts().rules_fired, 2);
}

static void a_rule_for_another_process_or_rank_does_nothing(void **state)
{
    CUdeviceptr memory;

    (void)state;
    fake_gpu_plan("cuMemAlloc:fail=2@process=99; cuMemAlloc:fail=2@rank=3");
    ok(cuMemAlloc(&memory, 10));
}

static void a_delayed_copy_begins_when_its_ticks_are_over(void **state)
{
    (void)state;
    fake_gpu_plan("cuMemcpyHtoDAsync:delay=10");
    ok(cuMemcpyHtoDAsync(slot, pinned, 10, stream));
    assert_int_equal(fake_gpu_pump(5), 0);
    fake_gpu_tick(10);
    assert_int_equal(fake_gpu_pump(2), 2);
    ok(cuStreamQuery(stream));
}

static void what_never_ends_ends_when_the_test_says_so(void **state)
{
    (void)state;
    fake_gpu_plan("cuMemcpyHtoDAsync:never");
    ok(cuMemcpyHtoDAsync(slot, pinned, 10, stream));
    assert_false(fake_gpu_drain());
    fake_gpu_release();
    assert_true(fake_gpu_drain());
}

static atomic_int returned;

static void *query_elsewhere(void *arg)
{
    CUcontext context = arg;

    (void)cuCtxSetCurrent(context);
    (void)cuStreamQuery(other);
    atomic_store(&returned, 1);
    return NULL;
}

static void any_call_may_hang_and_others_go_on(void **state)
{
    CUcontext context;
    pthread_t thread;

    (void)state;
    atomic_store(&returned, 0);
    fake_gpu_plan("cuStreamQuery:hang");
    ok(cuCtxGetCurrent(&context));
    assert_int_equal(pthread_create(&thread, NULL, query_elsewhere, context),
                     0);
    while (fake_gpu_counts().rules_fired == 0) {}
    ok(cuMemsetD8Async(slot, 1, 1, stream));
    wait_for(stream);
    assert_int_equal(atomic_load(&returned), 0);
    fake_gpu_release();
    (void)pthread_join(thread, NULL);
    fake_gpu_plan("cuEventQuery:hang=3");
    ok(cuEventQuery(event)); /* comes back by itself */
}

static void a_garbled_copy_differs_in_one_byte(void **state)
{
    unsigned char *there = fake_gpu_memory(slot, 100);
    int differ = 0;

    (void)state;
    fake_gpu_plan("cuMemcpyHtoDAsync:garble");
    ok(cuMemcpyHtoDAsync(slot, pinned, 100, stream));
    wait_for(stream);
    for (int i = 0; i < 100; i++) differ += there[i] != pinned[i];
    assert_int_equal(differ, 1);
}

static void query(void *arg)
{
    (void)arg;
    (void)cuStreamQuery(stream);
}

static void a_rule_kills_its_process(void **state)
{
    (void)state;
    fake_gpu_plan("cuStreamQuery:kill");
    assert_true(misuse_is_killed(query, NULL));
}

static void a_plan_that_cannot_be_read_is_no_plan(void *arg)
{
    fake_gpu_plan(arg);
}

static void plans_are_checked(void **state)
{
    static char *const wrong[] = {
        "colour=1",        "devices",       "devices=x",
        "cuInit:explode",  "cuInit#0:fail", ":fail",
        "cuInit:fail=-1",  "death=maybe",   "cuInit:fail@rank",
        "cuInit:fail@x=1", "memory=1Q",     "cuInit:fail*x",
    };

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_true(misuse_aborts(a_plan_that_cannot_be_read_is_no_plan,
                                  wrong[i], wrong[i]));
    }
}

static void die_with_the_lock(void *arg)
{
    (void)arg;
    fake_world_lock(fake_cuda()->world());
    (void)raise(SIGKILL);
}

static void a_process_killed_with_the_lock_held_holds_nobody_up(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_true(misuse_is_killed(die_with_the_lock, NULL));
        fake_gpu_plan("seed=2");
        fake_gpu_plan("seed=3");
        ok(cuStreamQuery(stream));
    }
}

/* ---- sticky errors -------------------------------------------------------
 */

static void an_error_of_the_device_is_told_by_the_next_call(void **state)
{
    (void)state;
    fake_gpu_plan("cuMemcpyHtoDAsync:late=700");
    ok(cuMemcpyHtoDAsync(slot, pinned, 10, stream));
    assert_int_equal(cuEventQuery(event), CUDA_SUCCESS); /* runs it */
    assert_int_equal(cuEventQuery(event), CUDA_ERROR_ILLEGAL_ADDRESS);
}

static void call_after_sticky(void *arg)
{
    (void)cuStreamQuery(stream);
    if (*(const char *)arg == 'q') (void)cuStreamQuery(stream);
    if (*(const char *)arg == 'f') (void)cuMemFree(slot);
    if (*(const char *)arg == 'c') {
        (void)cuMemcpyHtoDAsync(slot, pinned, 1, stream);
    }
    if (*(const char *)arg == 'r') (void)cuDevicePrimaryCtxRelease(0);
}

static void any_call_after_a_sticky_error_is_misuse(void **state)
{
    static char *const codes[] = {"226", "700", "702", "714", "715", "716",
                                  "717", "718", "719", "721", "810", "911",
                                  "214", "220", "709", "4",   "999"};
    char plan[60];

    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        set_up(state);
        (void)snprintf(plan, sizeof plan, "cuStreamQuery:fail=%s", codes[i]);
        fake_gpu_plan(plan);
        assert_true(misuse_aborts(call_after_sticky, "q", "context was lost"));
        assert_true(misuse_aborts(call_after_sticky, "f", "context was lost"));
        assert_true(misuse_aborts(call_after_sticky, "c", "context was lost"));
        assert_true(misuse_aborts(call_after_sticky, "r", "context was lost"));
    }
}

static void *ask_twice(void *arg)
{
    CUcontext context = arg;

    assert_int_equal(cuCtxSetCurrent(context), CUDA_SUCCESS);
    assert_int_equal(cuStreamQuery(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
    (void)cuStreamQuery(stream); /* one more */
    return NULL;
}

static void ask_in_two_threads(void *arg)
{
    pthread_t thread;
    CUcontext context;

    (void)arg;
    ok(cuCtxGetCurrent(&context));
    fake_gpu_plan("cuEventRecord#1:fail=700");
    assert_int_equal(cuEventRecord(event, stream), CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_int_equal(pthread_create(&thread, NULL, ask_twice, context), 0);
    (void)pthread_join(thread, NULL);
}

static void each_thread_is_told_once_of_a_sticky_error(void **state)
{
    (void)state;
    assert_true(misuse_aborts(ask_in_two_threads, NULL,
                              "cuStreamQuery: called after the context"));
}

static void an_ordinary_error_is_not_sticky(void **state)
{
    (void)state;
    fake_gpu_plan("cuStreamQuery:fail=2");
    assert_int_equal(cuStreamQuery(stream), CUDA_ERROR_OUT_OF_MEMORY);
    ok(cuStreamQuery(stream));
}

static void nothing_moves_on_a_lost_device(void **state)
{
    (void)state;
    fake_gpu_plan("cuMemsetD8Async:late=719");
    ok(cuMemsetD8Async(second, 1, 1, other));
    ok(cuMemcpyHtoDAsync(slot, pinned, 10, stream));
    (void)fake_gpu_drain();
    assert_true(fake_gpu_pending() > 0);
}

/* ---- misuse --------------------------------------------------------------
 */

static void synchronise(void *arg)
{
    switch (*(int *)arg) {
    case 0: (void)cuCtxSynchronize(); break;
    case 1: (void)cuStreamSynchronize(stream); break;
    case 2: (void)cuEventSynchronize(event); break;
    case 3: (void)cuMemcpy(slot, second, 1); break;
    case 4: (void)cuMemcpyHtoD(slot, pinned, 1); break;
    case 5: (void)cuMemcpyDtoH(pinned, slot, 1); break;
    case 6: (void)cuMemcpyDtoD(slot, second, 1); break;
    case 7: (void)cuMemsetD8(slot, 1, 1); break;
    default: break;
    }
}

static void every_call_that_waits_for_the_device_is_misuse(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        assert_true(misuse_aborts(synchronise, &i, "waits for the"));
    }
}

static void allocate(void *arg)
{
    CUmemAllocationProp prop = shareable();
    CUmemGenericAllocationHandle handle;
    void *memory;

    switch (*(int *)arg) {
    case 0: (void)cuMemAlloc(&slot, 1); break;
    case 1: (void)cuMemFree(slot); break;
    case 2: (void)cuMemHostAlloc(&memory, 1, 0); break;
    case 3: (void)cuMemFreeHost(pinned); break;
    case 4: (void)cuMemHostRegister(&prop, 1, 0); break;
    case 5: (void)cuStreamCreate(&stream, 0); break;
    case 6: (void)cuStreamDestroy(stream); break;
    case 7: (void)cuEventCreate(&event, 0); break;
    case 8: (void)cuEventDestroy(event); break;
    case 9: (void)cuMemCreate(&handle, (size_t)2 << 20, &prop, 0); break;
    case 10: (void)cuMemAddressReserve(&slot, (size_t)2 << 20, 0, 0, 0); break;
    case 11: (void)cuDevicePrimaryCtxRelease(0); break;
    default: break;
    }
}

static void allocating_and_freeing_behind_the_seal_is_misuse(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++) {
        assert_true(misuse_is_fine(allocate, &i));
        fake_gpu_seal();
        assert_true(misuse_aborts(allocate, &i, "after init"));
        fake_gpu_unseal();
    }
}

static void free_under_work(void *arg)
{
    (void)cuMemcpyHtoDAsync(slot, pinned, 10, stream);
    if (*(int *)arg == 0) (void)cuMemFree(second);
    if (*(int *)arg == 1) (void)cuMemFreeHost(pinned);
    if (*(int *)arg == 2) (void)cuStreamDestroy(stream);
    if (*(int *)arg == 3) (void)cuDevicePrimaryCtxRelease(0);
}

static void freeing_while_work_is_pending_is_misuse(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        assert_true(misuse_aborts(free_under_work, &i, "pending"));
    }
}

static void write_under_a_copy(void *arg)
{
    (void)arg;
    (void)cuMemcpyHtoDAsync(slot, pinned, BYTES, stream);
    pinned[BYTES - 3] ^= 1;
    wait_for(stream);
}

static void writing_the_source_of_a_pending_copy_is_misuse(void **state)
{
    (void)state;
    assert_true(misuse_aborts(write_under_a_copy, NULL, "in flight"));
}

/* Fills the slot again from another stream, ordered or not. */
static void reuse(void *arg)
{
    (void)cuMemcpyHtoDAsync(slot, pinned, 10, stream);
    (void)cuEventRecord(event, stream);
    if (*(int *)arg == 1) (void)cuStreamWaitEvent(other, event, 0);
    if (*(int *)arg == 2) wait_for(stream);
    (void)cuMemcpyHtoDAsync(slot + 9, pinned, 10, other);
    wait_for(other);
}

static void reusing_a_slot_in_flight_is_misuse_unless_ordered(void **state)
{
    int how = 0;

    (void)state;
    assert_true(misuse_aborts(reuse, &how, "no event orders the two"));
    how = 1;
    assert_true(misuse_is_fine(reuse, &how));
    how = 2;
    assert_true(misuse_is_fine(reuse, &how));
}

static void two_reads_need_no_order(void **state)
{
    (void)state;
    ok(cuMemcpyDtoHAsync(pinned, slot, 10, stream));
    ok(cuMemcpyDtoHAsync(pinned + 10, slot, 10, other));
    wait_for(stream);
    wait_for(other);
}

static void wait_for_nothing(void *arg)
{
    (void)arg;
    (void)cuStreamWaitEvent(stream, event, 0);
}

static void waiting_for_an_event_never_recorded_is_misuse(void **state)
{
    (void)state;
    assert_true(misuse_aborts(wait_for_nothing, NULL, "never recorded"));
}

static void CUDA_CB call_inside(void *arg)
{
    (void)arg;
    (void)cuStreamQuery(stream);
}

static void call_in_function(void *arg)
{
    (void)arg;
    (void)cuLaunchHostFunc(stream, call_inside, NULL);
    wait_for(stream);
}

static void calling_in_a_host_function_is_misuse(void **state)
{
    (void)state;
    assert_true(misuse_aborts(call_in_function, NULL, "host function"));
}

static void where_the_world_is_lenient_misuse_is_counted(void **state)
{
    (void)state;
    fake_gpu_plan("lenient=1");
    ok(cuMemcpyHtoDAsync(slot, pinned, 10, stream));
    ok(cuStreamSynchronize(stream));
    assert_int_equal(fake_gpu_counts().misuses, 1);
    assert_memory_equal(fake_gpu_memory(slot, 10), pinned, 10);
}

#define WITH(test) cmocka_unit_test_setup(test, set_up)
#define BARE(test) cmocka_unit_test_setup(test, set_up_bare)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BARE(a_device_tells_its_name_memory_bus_and_attributes),
        BARE(nothing_works_before_init),
        BARE(the_stub_library_says_that_it_is_one),
        BARE(a_machine_without_a_gpu_says_so),
        BARE(a_call_without_a_context_is_refused_and_counted),
        BARE(a_primary_context_lives_as_long_as_its_references),
        BARE(contexts_are_pushed_and_popped),
        BARE(errors_have_names_and_texts),
        BARE(functions_are_found_by_their_name_in_the_source),
        BARE(an_old_driver_lacks_what_came_later),
        BARE(the_older_form_answers_what_is_not_found_with_an_error),
        BARE(what_a_variant_lacks_is_not_found_by_name_either),
        BARE(the_variants_lack_what_they_are_for),
        WITH(the_host_cannot_read_device_memory),
        WITH(memory_is_used_up_and_given_back),
        WITH(a_device_s_memory_is_all_its_processes_until_they_end),
        WITH(host_memory_is_registered_once),
        WITH(a_copy_from_pageable_memory_is_counted),
        WITH(memory_is_pinned_for_its_context_unless_portable),
        WITH(copies_outside_an_allocation_are_refused),
        WITH(virtual_memory_is_shared_by_a_descriptor),
        WITH(virtual_memory_may_be_used_after_access_is_set),
        WITH(only_memory_made_for_it_is_exported),
        WITH(plain_memory_is_shared_by_a_legacy_handle),
        WITH(a_copy_is_done_by_polling_and_not_before),
        WITH(a_destination_is_garbage_before_its_bytes_come),
        WITH(where_the_test_drives_a_poll_advances_nothing),
        WITH(a_stream_is_a_queue),
        WITH(a_batch_is_so_many_copies),
        WITH(an_event_is_complete_when_what_was_before_it_is),
        WITH(a_stream_waits_for_an_event),
        WITH(a_stream_waits_for_a_value_in_memory),
        WITH(a_blocking_stream_waits_for_the_default_stream),
        WITH(the_default_stream_waits_for_blocking_streams),
        WITH(a_query_breaks_another_thread_s_capture_unless_relaxed),
        WITH(a_thread_s_own_capture_forbids_it_too_unless_relaxed),
        WITH(a_call_that_fails_leaves_garbage_in_its_result),
        WITH(ending_what_is_not_is_misuse),
        WITH(an_event_may_record_the_time),
        WITH(a_host_function_runs_in_its_turn),
        WITH(a_test_may_choose_which_stream_advances),
        WITH(a_seed_repeats_an_order_and_another_gives_another),
        WITH(the_kth_call_fails_and_has_no_effect),
        WITH(a_rule_for_another_process_or_rank_does_nothing),
        WITH(a_delayed_copy_begins_when_its_ticks_are_over),
        WITH(what_never_ends_ends_when_the_test_says_so),
        WITH(any_call_may_hang_and_others_go_on),
        WITH(a_garbled_copy_differs_in_one_byte),
        WITH(a_rule_kills_its_process),
        WITH(plans_are_checked),
        WITH(a_process_killed_with_the_lock_held_holds_nobody_up),
        WITH(an_error_of_the_device_is_told_by_the_next_call),
        WITH(any_call_after_a_sticky_error_is_misuse),
        WITH(each_thread_is_told_once_of_a_sticky_error),
        WITH(an_ordinary_error_is_not_sticky),
        WITH(nothing_moves_on_a_lost_device),
        WITH(every_call_that_waits_for_the_device_is_misuse),
        WITH(allocating_and_freeing_behind_the_seal_is_misuse),
        WITH(freeing_while_work_is_pending_is_misuse),
        WITH(writing_the_source_of_a_pending_copy_is_misuse),
        WITH(reusing_a_slot_in_flight_is_misuse_unless_ordered),
        WITH(two_reads_need_no_order),
        WITH(waiting_for_an_event_never_recorded_is_misuse),
        WITH(calling_in_a_host_function_is_misuse),
        WITH(where_the_world_is_lenient_misuse_is_counted),
    };

    fake_gpu_attach_files(CLEAT_FAKES "/lib/libcuda.so.1", NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
