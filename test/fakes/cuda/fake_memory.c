/* Cleat: a CUDA driver without a GPU: memory. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Two windows of addresses, equally long. The one whose addresses are handed
 * out as device memory is never mapped to anything: a host access there ends
 * the process, as it does with a GPU. The other one, at a fixed distance,
 * holds the bytes. Addresses are never used twice. */
#define _GNU_SOURCE
#include "fake_cuda.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define WINDOW_BYTES (UINT64_C(1) << 37)
#define HANDLES_MAX 256

/* How many fake NCCLs a process can have loaded, each of a version. */
#define ASKED_MAX 8

struct allocation {
    enum memory_kind kind;
    bool portable; /* pinned for every device */
    int device;
    int file; /* -1: none */
    uint64_t at;
    uint64_t bytes;
    uint32_t handle; /* of virtual memory */
};

/* cuMemCreate: memory without addresses. */
struct handle {
    uint32_t references; /* 0: free */
    int file;
    int device;
    uint64_t bytes;
    bool shareable;
    bool imported;
};

static struct allocation allocations[ALLOCATIONS_MAX];
static uint32_t used_allocations;
static struct handle handles[HANDLES_MAX];
static uint64_t window; /* addresses of device memory */
static uint64_t backing;
static uint64_t next_at;
static bool (*asked[ASKED_MAX])(uint64_t at, uint64_t bytes);

/* ---- windows -------------------------------------------------------------
 */

static bool open_windows(void)
{
    void *both;

    if (window != 0) return true;
    both = mmap(NULL, 2 * WINDOW_BYTES, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (both == MAP_FAILED) return false;
    window = ((uint64_t)(uintptr_t)both + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
    backing = window + WINDOW_BYTES - PAGE_BYTES;
    next_at = window;
    return true;
}

static bool in_window(uint64_t at)
{
    return window != 0 && at >= window && at < backing;
}

static unsigned char *host_of(uint64_t at)
{
    return (unsigned char *)(uintptr_t)(at - window + backing);
}

static uint64_t rounded(uint64_t bytes)
{
    return (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

static uint64_t take_addresses(uint64_t bytes)
{
    uint64_t at = next_at;

    if (!open_windows()) return 0;
    at = next_at;
    if (bytes > backing - at || rounded(bytes) + PAGE_BYTES > backing - at) {
        return 0;
    }
    next_at += rounded(bytes) + PAGE_BYTES; /* a gap finds an overrun */
    return at;
}

static bool back(uint64_t at, uint64_t bytes, int file, uint64_t offset)
{
    return mmap(host_of(at), bytes, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_FIXED, file, (off_t)offset) != MAP_FAILED;
}

static void unback(uint64_t at, uint64_t bytes)
{
    (void)mmap(host_of(at), bytes, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static int make_file(uint64_t bytes)
{
    int file = memfd_create("fake-gpu-memory", MFD_CLOEXEC);

    if (file >= 0 && ftruncate(file, (off_t)bytes) != 0) {
        (void)close(file);
        return -1;
    }
    return file;
}

/* ---- the table -----------------------------------------------------------
 */

static struct allocation *add(enum memory_kind kind, uint64_t at,
                              uint64_t bytes)
{
    for (uint32_t i = 0; i < ALLOCATIONS_MAX; i++) {
        struct allocation *allocation = &allocations[i];

        if (allocation->kind != MEMORY_FREE) continue;
        memset(allocation, 0, sizeof *allocation);
        allocation->kind = kind;
        allocation->device = current_device();
        allocation->file = -1;
        allocation->at = at;
        allocation->bytes = bytes;
        if (i >= used_allocations) used_allocations = i + 1;
        return allocation;
    }
    return NULL;
}

static struct allocation *containing(uint64_t at, uint64_t bytes)
{
    for (uint32_t i = 0; i < used_allocations; i++) {
        struct allocation *allocation = &allocations[i];

        if (allocation->kind == MEMORY_FREE || at < allocation->at) continue;
        if (at - allocation->at < allocation->bytes &&
            bytes <= allocation->bytes - (at - allocation->at)) {
            return allocation;
        }
    }
    return NULL;
}

static struct allocation *starting(uint64_t at)
{
    struct allocation *allocation = containing(at, 1);

    return allocation != NULL && allocation->at == at ? allocation : NULL;
}

static bool is_usable_device_memory(const struct allocation *allocation)
{
    return allocation->kind == MEMORY_DEVICE ||
           allocation->kind == MEMORY_IMPORTED ||
           allocation->kind == MEMORY_VIRTUAL;
}

/* cuda.h of cuMemHostAlloc: with CU_MEMHOSTALLOC_PORTABLE memory is "considered
 * as pinned memory by all CUDA contexts, not just the one that performed the
 * allocation"; the same is said of cuMemHostRegister. */
static bool is_pinned_here(const struct allocation *allocation)
{
    return (allocation->kind != MEMORY_PINNED &&
            allocation->kind != MEMORY_REGISTERED) ||
           allocation->portable || allocation->device == current_device();
}

struct place place_of(uint64_t at, uint64_t bytes)
{
    struct allocation *found = containing(at, bytes == 0 ? 1 : bytes);
    struct place place = {MEMORY_FREE, (unsigned char *)(uintptr_t)at, false,
                          true};

    place.device = in_window(at);
    if (found != NULL && is_pinned_here(found)) place.kind = found->kind;
    if (place.device) {
        place.known = found != NULL && is_usable_device_memory(found);
        place.host = place.known ? host_of(at) : NULL;
    }
    return place;
}

void *memory_of(uint64_t at, uint64_t bytes, bool *is_virtual)
{
    struct place place = place_of(at, bytes);

    if (!place.device || !place.known) return NULL;
    if (is_virtual != NULL) *is_virtual = place.kind == MEMORY_VIRTUAL;
    return place.host;
}

/* A device's memory is all its processes'. */
static uint64_t free_bytes_of(int device)
{
    const uint64_t total = settings()->memory_bytes;
    const uint64_t used = fake_world_used(world(), (uint32_t)device);

    return used < total ? total - used : 0;
}

static void use_bytes(int device, int64_t bytes)
{
    FAKE_STORE(*used_of(device), *used_of(device) + bytes);
}

static void count_memory(int device, uint64_t bytes, bool more)
{
    struct fake_counts *count = counts();

    if (more) {
        use_bytes(device, (int64_t)bytes);
        count->allocations++;
        count->allocated_bytes += bytes;
    } else {
        use_bytes(device, -(int64_t)bytes);
        count->allocations--;
        count->allocated_bytes -= bytes;
    }
}

void reset_memory(void)
{
    for (uint32_t i = 0; i < used_allocations; i++) {
        struct allocation *allocation = &allocations[i];

        if (allocation->kind == MEMORY_FREE) continue;
        if (allocation->file >= 0) (void)close(allocation->file);
        if (allocation->kind == MEMORY_PINNED) {
            (void)munmap((void *)(uintptr_t)allocation->at, allocation->bytes);
        } else if (allocation->kind != MEMORY_REGISTERED) {
            unback(allocation->at, allocation->bytes);
        }
    }
    for (uint32_t i = 0; i < HANDLES_MAX; i++) {
        if (handles[i].references > 0) (void)close(handles[i].file);
    }
    memset(allocations, 0, sizeof allocations);
    memset(handles, 0, sizeof handles);
    used_allocations = 0;
}

/* ---- device memory -------------------------------------------------------
 */

static CUresult allocate(enum memory_kind kind, uint64_t *at, uint64_t bytes)
{
    struct allocation *allocation;
    int device = current_device();
    int file;

    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (bytes > free_bytes_of(device)) return CUDA_ERROR_OUT_OF_MEMORY;
    *at = take_addresses(bytes);
    file = make_file(rounded(bytes));
    if (*at == 0 || file < 0 || !back(*at, rounded(bytes), file, 0)) {
        if (file >= 0) (void)close(file);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    allocation = add(kind, *at, bytes);
    if (allocation == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    allocation->file = file;
    count_memory(device, bytes, true);
    return CUDA_SUCCESS;
}

static CUresult release(enum memory_kind kind, uint64_t at)
{
    struct allocation *allocation = starting(at);

    if (allocation == NULL || allocation->kind != kind ||
        allocation->handle != 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    unback(at, rounded(allocation->bytes));
    (void)close(allocation->file);
    count_memory(allocation->device, allocation->bytes, false);
    allocation->kind = MEMORY_FREE;
    return CUDA_SUCCESS;
}

CUresult allocate_virtual(uint64_t *at, uint64_t bytes)
{
    return allocate(MEMORY_VIRTUAL, at, rounded(bytes));
}

CUresult release_virtual(uint64_t at)
{
    return release(MEMORY_VIRTUAL, at);
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize)
{
    struct call call;
    uint64_t at = 0;
    CUresult code;

    if (!enter_allocating(&call, "cuMemAlloc", NEED_CONTEXT))
        return spoiled(&call, dptr, sizeof *dptr);
    code = allocate(MEMORY_DEVICE, &at, bytesize);
    if (code == CUDA_SUCCESS) *dptr = at;
    return leave(&call, code);
}

/* Freeing waits for the device: with a hung kernel on it, for ever
 * (NVIDIA/nccl#48, #744; CUDA programming guide, "Implicit Synchronization").
 */
static void check_no_work(const char *name)
{
    int device = current_device();

    if (pending_on_device(device) > 0) {
        misuse(name,
               "waits for device %d, where %llu operations are "
               "pending",
               device, (unsigned long long)pending_on_device(device));
        (void)drain();
    }
}

void ask_before_free(bool (*is_registered)(uint64_t at, uint64_t bytes))
{
    for (uint32_t i = 0; i < ASKED_MAX; i++) {
        if (asked[i] == NULL || asked[i] == is_registered) {
            asked[i] = is_registered;
            return;
        }
    }
}

/* NCCL's user guide, "User Buffer Registration": a buffer is deregistered, or
 * its communicator ended, before its memory is freed. */
static void check_not_registered(const char *name, uint64_t at)
{
    const struct allocation *allocation = starting(at);

    for (uint32_t i = 0; allocation != NULL && i < ASKED_MAX; i++) {
        if (asked[i] != NULL && asked[i](at, allocation->bytes)) {
            misuse(name, "frees memory that is registered with a communicator");
            return;
        }
    }
}

/* What a driver makes of a handle that is none is nobody's to rely on. */
static void check_known(const char *name, bool known)
{
    if (!known) misuse(name, "ends what is not, or is no more");
}

CUresult CUDAAPI cuMemFree(CUdeviceptr dptr)
{
    struct call call;
    CUresult code;

    if (!enter_allocating(&call, "cuMemFree", NEED_CONTEXT)) return call.code;
    if (dptr == 0) return leave(&call, CUDA_SUCCESS);
    check_no_work(call.name);
    check_not_registered(call.name, dptr);
    code = release(MEMORY_DEVICE, dptr);
    if (code != CUDA_SUCCESS) check_known(call.name, false);
    return leave(&call, code);
}

CUresult CUDAAPI cuMemGetInfo(size_t *free, size_t *total)
{
    struct call call;

    if (!enter(&call, "cuMemGetInfo", NEED_CONTEXT)) return call.code;
    *total = settings()->memory_bytes;
    *free = free_bytes_of(current_device());
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr *pbase, size_t *psize,
                                      CUdeviceptr dptr)
{
    struct allocation *allocation;
    struct call call;

    if (!enter(&call, "cuMemGetAddressRange", NEED_CONTEXT)) return call.code;
    allocation = containing(dptr, 1);
    if (allocation == NULL) return leave(&call, CUDA_ERROR_NOT_FOUND);
    if (pbase != NULL) *pbase = allocation->at;
    if (psize != NULL) *psize = allocation->bytes;
    return leave(&call, CUDA_SUCCESS);
}

/* ---- pinned host memory --------------------------------------------------
 */

CUresult CUDAAPI cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
    struct allocation *allocation;
    struct call call;
    void *bytes;

    if (!enter_allocating(&call, "cuMemHostAlloc", NEED_CONTEXT)) {
        return spoiled(&call, pp, sizeof *pp);
    }
    if (bytesize == 0 ||
        (Flags &
         ~(unsigned)(CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP |
                     CU_MEMHOSTALLOC_WRITECOMBINED)) != 0) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    bytes = mmap(NULL, bytesize, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) return leave(&call, CUDA_ERROR_OUT_OF_MEMORY);
    allocation = add(MEMORY_PINNED, (uint64_t)(uintptr_t)bytes, bytesize);
    if (allocation == NULL) return leave(&call, CUDA_ERROR_OUT_OF_MEMORY);
    allocation->portable = (Flags & CU_MEMHOSTALLOC_PORTABLE) != 0;
    counts()->host_allocations++;
    *pp = bytes;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemFreeHost(void *p)
{
    struct allocation *allocation;
    struct call call;

    if (!enter_allocating(&call, "cuMemFreeHost", NEED_CONTEXT)) {
        return call.code;
    }
    allocation = starting((uint64_t)(uintptr_t)p);
    if (allocation == NULL || allocation->kind != MEMORY_PINNED) {
        check_known(call.name, false);
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    check_no_work(call.name);
    (void)munmap(p, allocation->bytes);
    allocation->kind = MEMORY_FREE;
    counts()->host_allocations--;
    return leave(&call, CUDA_SUCCESS);
}

static bool overlaps_host(uint64_t at, uint64_t bytes)
{
    for (uint32_t i = 0; i < used_allocations; i++) {
        const struct allocation *other = &allocations[i];

        if (other->kind != MEMORY_PINNED && other->kind != MEMORY_REGISTERED) {
            continue;
        }
        if (at < other->at + other->bytes && other->at < at + bytes) {
            return true;
        }
    }
    return false;
}

CUresult CUDAAPI cuMemHostRegister(void *p, size_t bytesize, unsigned int Flags)
{
    struct allocation *allocation;
    struct call call;

    if (!enter_allocating(&call, "cuMemHostRegister", NEED_CONTEXT)) {
        return call.code;
    }
    if (p == NULL || bytesize == 0) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    if (overlaps_host((uint64_t)(uintptr_t)p, bytesize)) {
        return leave(&call, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    }
    allocation = add(MEMORY_REGISTERED, (uint64_t)(uintptr_t)p, bytesize);
    if (allocation == NULL) return leave(&call, CUDA_ERROR_OUT_OF_MEMORY);
    allocation->portable = (Flags & CU_MEMHOSTREGISTER_PORTABLE) != 0;
    counts()->host_allocations++;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemHostUnregister(void *p)
{
    struct allocation *allocation;
    struct call call;

    if (!enter_allocating(&call, "cuMemHostUnregister", NEED_CONTEXT)) {
        return call.code;
    }
    allocation = starting((uint64_t)(uintptr_t)p);
    if (allocation == NULL || allocation->kind != MEMORY_REGISTERED) {
        return leave(&call, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    }
    check_no_work(call.name);
    allocation->kind = MEMORY_FREE;
    counts()->host_allocations--;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *pdptr, void *p,
                                           unsigned int Flags)
{
    struct allocation *allocation;
    struct call call;

    if (!enter(&call, "cuMemHostGetDevicePointer", NEED_CONTEXT)) {
        return call.code;
    }
    allocation = containing((uint64_t)(uintptr_t)p, 1);
    if (Flags != 0 || allocation == NULL ||
        (allocation->kind != MEMORY_PINNED &&
         allocation->kind != MEMORY_REGISTERED)) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    *pdptr = (CUdeviceptr)(uintptr_t)p;
    return leave(&call, CUDA_SUCCESS);
}

/* ---- virtual memory ------------------------------------------------------
 */

static struct handle *handle_of(CUmemGenericAllocationHandle number)
{
    if (number == 0 || number > HANDLES_MAX) return NULL;
    return handles[number - 1].references > 0 ? &handles[number - 1] : NULL;
}

static CUmemGenericAllocationHandle add_handle(int file, uint64_t bytes)
{
    for (uint32_t i = 0; i < HANDLES_MAX; i++) {
        if (handles[i].references > 0) continue;
        memset(&handles[i], 0, sizeof handles[i]);
        handles[i].references = 1;
        handles[i].file = file;
        handles[i].bytes = bytes;
        handles[i].device = current_device();
        return i + 1;
    }
    return 0;
}

static void drop_handle(struct handle *handle)
{
    if (--handle->references > 0) return;
    (void)close(handle->file);
    if (!handle->imported) {
        count_memory(handle->device, handle->bytes, false);
    }
}

static bool is_plain_property(const CUmemAllocationProp *prop)
{
    return prop != NULL && prop->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
           prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
           prop->location.id >= 0 &&
           (uint32_t)prop->location.id < settings()->devices;
}

CUresult CUDAAPI cuMemGetAllocationGranularity(
    size_t *granularity, const CUmemAllocationProp *prop,
    CUmemAllocationGranularity_flags option)
{
    struct call call;

    (void)option;
    if (!enter(&call, "cuMemGetAllocationGranularity", NEED_INIT)) {
        return call.code;
    }
    if (!is_plain_property(prop)) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    *granularity = PAGE_BYTES; /* 2 MiB, as recommended */
    return leave(&call, CUDA_SUCCESS);
}

static CUresult create(CUmemGenericAllocationHandle *handle, size_t size,
                       const CUmemAllocationProp *prop)
{
    int file;

    if (!is_plain_property(prop) || size == 0 || size % PAGE_BYTES != 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if ((prop->requestedHandleTypes & CU_MEM_HANDLE_TYPE_FABRIC) != 0) {
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    if (size > free_bytes_of(prop->location.id)) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    file = make_file(size);
    if (file < 0) return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = add_handle(file, size);
    if (*handle == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    handles[*handle - 1].device = prop->location.id;
    handles[*handle - 1].shareable =
        (prop->requestedHandleTypes &
         CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0;
    count_memory(prop->location.id, size, true);
    if (prop->allocFlags.gpuDirectRDMACapable != 0) counts()->rdma_handles++;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
                             const CUmemAllocationProp *prop,
                             unsigned long long flags)
{
    struct call call;
    CUresult code;

    if (!enter_allocating(&call, "cuMemCreate", NEED_CONTEXT)) {
        return spoiled(&call, handle, sizeof *handle);
    }
    if (flags != 0) return leave(&call, CUDA_ERROR_INVALID_VALUE);
    code = create(handle, size, prop);
    if (code == CUDA_SUCCESS) counts()->handles++;
    return leave(&call, code);
}

CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle)
{
    struct handle *found;
    struct call call;

    if (!enter_allocating(&call, "cuMemRelease", NEED_CONTEXT)) {
        return call.code;
    }
    found = handle_of(handle);
    check_known(call.name, found != NULL);
    if (found == NULL) return leave(&call, CUDA_ERROR_INVALID_VALUE);
    drop_handle(found);
    counts()->handles--;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemAddressReserve(CUdeviceptr *ptr, size_t size,
                                     size_t alignment, CUdeviceptr addr,
                                     unsigned long long flags)
{
    struct call call;
    uint64_t at;

    (void)addr; /* a wish */
    if (!enter_allocating(&call, "cuMemAddressReserve", NEED_CONTEXT)) {
        return spoiled(&call, ptr, sizeof *ptr);
    }
    if (size == 0 || size % PAGE_BYTES != 0 || alignment > PAGE_BYTES ||
        flags != 0) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    at = take_addresses(size);
    if (at == 0 || add(MEMORY_RESERVED, at, size) == NULL) {
        return leave(&call, CUDA_ERROR_OUT_OF_MEMORY);
    }
    *ptr = at;
    counts()->reservations++;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
    struct allocation *allocation;
    struct call call;

    if (!enter_allocating(&call, "cuMemAddressFree", NEED_CONTEXT)) {
        return call.code;
    }
    allocation = starting(ptr);
    if (allocation == NULL || allocation->kind != MEMORY_RESERVED ||
        allocation->bytes != size) {
        check_known(call.name, false);
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    allocation->kind = MEMORY_FREE;
    counts()->reservations--;
    return leave(&call, CUDA_SUCCESS);
}

/* A whole reservation at a time: what nobody does is not faked. */
CUresult CUDAAPI cuMemMap(CUdeviceptr ptr, size_t size, size_t offset,
                          CUmemGenericAllocationHandle handle,
                          unsigned long long flags)
{
    struct allocation *allocation;
    struct handle *found;
    struct call call;

    if (!enter_allocating(&call, "cuMemMap", NEED_CONTEXT)) return call.code;
    allocation = starting(ptr);
    found = handle_of(handle);
    if (allocation == NULL || allocation->kind != MEMORY_RESERVED ||
        found == NULL || flags != 0 || offset != 0 ||
        size != allocation->bytes || size != found->bytes ||
        !back(ptr, size, found->file, 0)) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    found->references++;
    counts()->mappings++;
    allocation->kind = MEMORY_MAPPED;
    allocation->handle = (uint32_t)handle;
    allocation->device = found->device;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuMemUnmap(CUdeviceptr ptr, size_t size)
{
    struct allocation *allocation;
    struct call call;

    if (!enter_allocating(&call, "cuMemUnmap", NEED_CONTEXT)) return call.code;
    allocation = starting(ptr);
    if (allocation == NULL || allocation->bytes != size ||
        (allocation->kind != MEMORY_MAPPED &&
         allocation->kind != MEMORY_VIRTUAL)) {
        check_known(call.name, false);
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    check_no_work(call.name);
    check_not_registered(call.name, ptr);
    unback(ptr, size);
    drop_handle(&handles[allocation->handle - 1]);
    allocation->kind = MEMORY_RESERVED;
    allocation->handle = 0;
    counts()->mappings--;
    return leave(&call, CUDA_SUCCESS);
}

/* cuda.h, cuMemMap: mapped memory may not be used before this. */
CUresult CUDAAPI cuMemSetAccess(CUdeviceptr ptr, size_t size,
                                const CUmemAccessDesc *desc, size_t count)
{
    struct allocation *allocation;
    struct call call;

    if (!enter(&call, "cuMemSetAccess", NEED_CONTEXT)) return call.code;
    allocation = starting(ptr);
    if (allocation == NULL || allocation->bytes != size || count != 1 ||
        desc->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE ||
        desc->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        (allocation->kind != MEMORY_MAPPED &&
         allocation->kind != MEMORY_VIRTUAL)) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    allocation->kind = MEMORY_VIRTUAL;
    return leave(&call, CUDA_SUCCESS);
}

/* cuda.h: a descriptor that is the caller's; memory whose properties did not
 * ask for that kind of handle is not exported. */
CUresult CUDAAPI cuMemExportToShareableHandle(
    void *shareableHandle, CUmemGenericAllocationHandle handle,
    CUmemAllocationHandleType handleType, unsigned long long flags)
{
    struct handle *found;
    struct call call;
    int file;

    if (!enter(&call, "cuMemExportToShareableHandle", NEED_CONTEXT)) {
        return call.code;
    }
    found = handle_of(handle);
    if (found == NULL || flags != 0 || !found->shareable ||
        handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    file = fcntl(found->file, F_DUPFD_CLOEXEC, 3);
    if (file < 0) return leave(&call, CUDA_ERROR_OPERATING_SYSTEM);
    memcpy(shareableHandle, &file, sizeof file);
    return leave(&call, CUDA_SUCCESS);
}

/* After the exporter's death the memory lives on: cuda.h, cuMemRelease, frees
 * it when all references to it are gone. */
CUresult CUDAAPI cuMemImportFromShareableHandle(
    CUmemGenericAllocationHandle *handle, void *osHandle,
    CUmemAllocationHandleType shHandleType)
{
    struct stat status;
    struct call call;
    int file;

    if (!enter_allocating(&call, "cuMemImportFromShareableHandle",
                          NEED_CONTEXT)) {
        return spoiled(&call, handle, sizeof *handle);
    }
    if (shHandleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    file = fcntl((int)(intptr_t)osHandle, F_DUPFD_CLOEXEC, 3);
    if (file < 0 || fstat(file, &status) != 0) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    *handle = add_handle(file, (uint64_t)status.st_size);
    if (*handle == 0) return leave(&call, CUDA_ERROR_OUT_OF_MEMORY);
    handles[*handle - 1].imported = true;
    counts()->handles++;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI
cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
    struct allocation *allocation;
    struct call call;

    if (!enter(&call, "cuMemRetainAllocationHandle", NEED_CONTEXT)) {
        return call.code;
    }
    allocation = containing((uint64_t)(uintptr_t)addr, 1);
    if (allocation == NULL || allocation->handle == 0) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    handles[allocation->handle - 1].references++;
    counts()->handles++;
    *handle = allocation->handle;
    return leave(&call, CUDA_SUCCESS);
}

/* ---- legacy handles between processes ------------------------------------
 */

struct ipc {
    uint64_t bytes;
    int32_t pid;
    int32_t file;
};

_Static_assert(sizeof(struct ipc) <= sizeof(CUipcMemHandle), "too long");

/* cuda.h: of memory "created with cuMemAlloc", not of virtual memory. */
CUresult CUDAAPI cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr)
{
    struct allocation *allocation;
    struct call call;
    struct ipc ipc;

    if (!enter(&call, "cuIpcGetMemHandle", NEED_CONTEXT)) return call.code;
    allocation = containing(dptr, 1);
    if (allocation == NULL || allocation->kind != MEMORY_DEVICE) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    ipc.bytes = allocation->bytes;
    ipc.pid = (int32_t)getpid();
    ipc.file = allocation->file;
    memset(pHandle, 0, sizeof *pHandle);
    memcpy(pHandle, &ipc, sizeof ipc);
    return leave(&call, CUDA_SUCCESS);
}

static CUresult import_ipc(CUdeviceptr *at, const struct ipc *ipc)
{
    struct allocation *allocation;
    char path[60];
    int file;

    if (ipc->pid == (int32_t)getpid()) return CUDA_ERROR_INVALID_CONTEXT;
    (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", ipc->pid, ipc->file);
    file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return CUDA_ERROR_INVALID_HANDLE;
    *at = take_addresses(ipc->bytes);
    if (*at == 0 || !back(*at, rounded(ipc->bytes), file, 0)) {
        (void)close(file);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    allocation = add(MEMORY_IMPORTED, *at, ipc->bytes);
    if (allocation == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    allocation->file = file;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuIpcOpenMemHandle(CUdeviceptr *pdptr, CUipcMemHandle handle,
                                    unsigned int Flags)
{
    struct call call;
    struct ipc ipc;

    (void)Flags;
    if (!enter_allocating(&call, "cuIpcOpenMemHandle", NEED_CONTEXT)) {
        return call.code;
    }
    memcpy(&ipc, &handle, sizeof ipc);
    return leave(&call, import_ipc(pdptr, &ipc));
}

CUresult CUDAAPI cuIpcCloseMemHandle(CUdeviceptr dptr)
{
    struct allocation *allocation;
    struct call call;

    if (!enter_allocating(&call, "cuIpcCloseMemHandle", NEED_CONTEXT)) {
        return call.code;
    }
    allocation = starting(dptr);
    if (allocation == NULL || allocation->kind != MEMORY_IMPORTED) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    check_no_work(call.name);
    unback(dptr, rounded(allocation->bytes));
    (void)close(allocation->file);
    allocation->kind = MEMORY_FREE;
    return leave(&call, CUDA_SUCCESS);
}
