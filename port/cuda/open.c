/* Cleat: opening and closing a device. SPDX-License-Identifier: Apache-2.0
 *
 * The one place where anything of the driver's is made or freed. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "device.h"

_Static_assert(sizeof(struct cleat_cuda) <= CLEAT_CUDA_BYTES,
               "CLEAT_CUDA_BYTES is enough");

/* Between two questions whether a stream is idle. */
#define NAP_NS (50 * CLEAT_NS_PER_US)

#define MIB(bytes) ((double)(bytes) / 1048576.0)

/* ---- what is asked for ---- */

static enum cleat_status check(void *block, size_t bytes,
                               const struct cleat_cuda_config *config,
                               struct cleat_error *error)
{
    if (block == NULL || (uintptr_t)block % 64 != 0 || config == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "cuda: a block aligned to 64 bytes and a config "
                               "are needed");
    }
    if (bytes < CLEAT_CUDA_BYTES) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, CLEAT_CUDA_BYTES,
                               "cuda: the block is too small");
    }
    if (config->streams_count > CLEAT_CUDA_STREAMS_MAX ||
        config->events_count > CLEAT_CUDA_EVENTS_MAX ||
        config->slots_count > CLEAT_CUDA_SLOTS_MAX ||
        config->staging_count > CLEAT_CUDA_SLOTS_MAX || config->shareable > 1 ||
        config->slot_bytes > UINT64_C(1) << 40 ||
        config->staging_bytes > UINT64_C(1) << 40) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "cuda: at most 8 streams, 64 events, 8 slots "
                               "and 8 staging slots, of at most 1 TiB each");
    }
    return CLEAT_OK;
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + CLEAT_CUDA_SLOT_ALIGN - 1) / CLEAT_CUDA_SLOT_ALIGN *
           CLEAT_CUDA_SLOT_ALIGN;
}

/* A call of the driver's, while opening, that must work. */
static enum cleat_status must(struct cleat_cuda *cuda, CUresult code,
                              const char *doing, struct cleat_error *error)
{
    if (code == CUDA_SUCCESS) { return CLEAT_OK; }
    (void)cuda_driver_error(&cuda->driver, code, doing, error);
    return cuda_means(cuda, code);
}

/* ---- the device and its context ---- */

static enum cleat_status find_device(struct cleat_cuda *cuda,
                                     struct cleat_error *error)
{
    int count = 0;
    enum cleat_status status = must(cuda,
                                    cuda->driver.p_cuDeviceGetCount(&count),
                                    "cuDeviceGetCount", error);

    if (status != CLEAT_OK) { return status; }
    if (count <= 0) {
        return cuda_refuse(error, CLEAT_UNSUPPORTED, 0, 0, 0,
                           "cuda: the driver (CUDA %d.%d) shows no device",
                           cuda->driver.version / 1000,
                           cuda->driver.version % 1000 / 10);
    }
    if (cuda->config.device >= (uint32_t)count) {
        return cuda_refuse(error, CLEAT_INVALID, 2, 0, 0,
                           "cuda: there is no device %u: the driver shows %d, "
                           "numbered from 0",
                           cuda->config.device, count);
    }
    return must(
        cuda,
        cuda->driver.p_cuDeviceGet(&cuda->device, (int)cuda->config.device),
        "cuDeviceGet", error);
}

/* What the calling thread has as its context: the host program's choice, which
 * is where its own next call goes. It is put back. */
static CUcontext current_of(const struct cuda_driver *driver)
{
    CUcontext context = NULL;

    return driver->p_cuCtxGetCurrent(&context) == CUDA_SUCCESS ? context : NULL;
}

static enum cleat_status take_context(struct cleat_cuda *cuda,
                                      struct cleat_error *error)
{
    enum cleat_status status = must(
        cuda,
        cuda->driver.p_cuDevicePrimaryCtxRetain(&cuda->context, cuda->device),
        "cuDevicePrimaryCtxRetain", error);

    if (status != CLEAT_OK) {
        cuda->context = NULL;
        return status;
    }
    return must(cuda, cuda->driver.p_cuCtxSetCurrent(cuda->context),
                "cuCtxSetCurrent", error);
}

/* ---- what is made ---- */

static enum cleat_status make_streams(struct cleat_cuda *cuda,
                                      struct cleat_error *error)
{
    enum cleat_status status = CLEAT_OK;

    while (status == CLEAT_OK &&
           cuda->streams_made < cuda->config.streams_count) {
        status = must(
            cuda,
            cuda->driver.p_cuStreamCreate(&cuda->streams[cuda->streams_made],
                                          CU_STREAM_NON_BLOCKING),
            "cuStreamCreate", error);
        cuda->streams_made += status == CLEAT_OK;
    }
    while (status == CLEAT_OK &&
           cuda->events_made < cuda->config.events_count) {
        status = must(
            cuda,
            cuda->driver.p_cuEventCreate(&cuda->events[cuda->events_made],
                                         CU_EVENT_DISABLE_TIMING),
            "cuEventCreate", error);
        cuda->events_made += status == CLEAT_OK;
    }
    return status;
}

static enum cleat_status no_memory(struct cleat_cuda *cuda, size_t free_bytes,
                                   struct cleat_error *error)
{
    return cuda_refuse(
        error, CLEAT_CAPACITY, 2, cuda->slots_bytes, CUDA_ERROR_OUT_OF_MEMORY,
        "cuda: device %u has %.1f MiB free, and %.1f MiB are "
        "needed: %u slots of %.1f MiB",
        cuda->config.device, MIB(free_bytes), MIB(cuda->slots_bytes),
        cuda->config.slots_count, MIB(cuda->slot_distance));
}

static enum cleat_status can_share(struct cleat_cuda *cuda,
                                   struct cleat_error *error)
{
    int can = 0;

    if (cuda_driver_shares(&cuda->driver) &&
        cuda->driver.p_cuDeviceGetAttribute(
            &can,
            CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
            cuda->device) == CUDA_SUCCESS &&
        can != 0) {
        return CLEAT_OK;
    }
    return cuda_refuse(error, CLEAT_UNSUPPORTED, 2, 0, 0,
                       "cuda: device %u cannot share memory between processes "
                       "(cuMemCreate with a file descriptor)",
                       cuda->config.device);
}

static enum cleat_status make_slots(struct cleat_cuda *cuda,
                                    struct cleat_error *error)
{
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    enum cleat_status status;
    CUresult code;

    cuda->slot_distance = aligned(cuda->config.slot_bytes);
    cuda->slots_bytes = cuda->slot_distance * cuda->config.slots_count;
    if (cuda->slots_bytes == 0) { return CLEAT_OK; }
    status = must(cuda, cuda->driver.p_cuMemGetInfo(&free_bytes, &total_bytes),
                  "cuMemGetInfo", error);
    if (status != CLEAT_OK) { return status; }
    if (free_bytes < cuda->slots_bytes) {
        return no_memory(cuda, free_bytes, error);
    }
    if (cuda->config.shareable != 0) {
        status = can_share(cuda, error);
        if (status != CLEAT_OK) { return status; }
        status = cuda_mapping_make(cuda, cuda->slots_bytes, &cuda->shared,
                                   error);
        cuda->slots = cuda->shared.address;
    } else {
        code = cuda->driver.p_cuMemAlloc(&cuda->slots,
                                         (size_t)cuda->slots_bytes);
        status = must(cuda, code, "cuMemAlloc", error);
        if (status != CLEAT_OK) { cuda->slots = 0; }
    }
    /* Free, but in pieces, or to somebody else meanwhile, or not to us. */
    if (status == CLEAT_CAPACITY) {
        return cuda_refuse(error, CLEAT_CAPACITY, 2, cuda->slots_bytes,
                           CUDA_ERROR_OUT_OF_MEMORY,
                           "cuda: %.1f MiB are needed: %u slots of %.1f MiB; "
                           "device %u says that %.1f MiB are free, and then "
                           "OUT_OF_MEMORY",
                           MIB(cuda->slots_bytes), cuda->config.slots_count,
                           MIB(cuda->slot_distance), cuda->config.device,
                           MIB(free_bytes));
    }
    return status;
}

static enum cleat_status make_staging(struct cleat_cuda *cuda,
                                      struct cleat_error *error)
{
    uint64_t bytes;
    enum cleat_status status;
    CUresult code;

    cuda->staging_distance = aligned(cuda->config.staging_bytes);
    bytes = cuda->staging_distance * cuda->config.staging_count;
    if (bytes == 0) { return CLEAT_OK; }
    code = cuda->driver.p_cuMemHostAlloc(&cuda->staging, (size_t)bytes,
                                         CU_MEMHOSTALLOC_PORTABLE);
    status = must(cuda, code, "cuMemHostAlloc", error);
    if (status != CLEAT_OK) { cuda->staging = NULL; }
    /* The system's own limit of what may be pinned is told by the second. */
    if (status == CLEAT_CAPACITY || code == CUDA_ERROR_OPERATING_SYSTEM) {
        return cuda_refuse(error, CLEAT_CAPACITY, 2, bytes, (int32_t)code,
                           "cuda: %.1f MiB of the host's memory cannot be "
                           "pinned: %u staging slots of %.1f MiB",
                           MIB(bytes), cuda->config.staging_count,
                           MIB(cuda->staging_distance));
    }
    return status;
}

/* ---- */

static uint64_t now_ns(void)
{
    struct timespec now = {0, 0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Waits, by asking, until all streams are idle; false when one is not in
 * time. */
static bool runs_dry(struct cleat_cuda *cuda)
{
    struct timespec nap = {.tv_sec = 0, .tv_nsec = (long)NAP_NS};
    uint64_t deadline_ns = cleat_time_add(now_ns(), CLEAT_CUDA_CLOSE_NS);
    uint32_t idle = 0;

    while (idle < cuda->streams_made) {
        CUresult code = cuda->driver.p_cuStreamQuery(cuda->streams[idle]);

        if (code == CUDA_SUCCESS) {
            idle++;
        } else if (code != CUDA_ERROR_NOT_READY || now_ns() >= deadline_ns) {
            return false;
        } else {
            (void)nanosleep(&nap, NULL);
        }
    }
    return true;
}

/* Frees what there is. The streams are idle. */
static void free_all(struct cleat_cuda *cuda)
{
    const struct cuda_driver *driver = &cuda->driver;

    while (cuda->imports_count > 0) {
        cuda_mapping_end(cuda, &cuda->imports[--cuda->imports_count]);
    }
    if (cuda->staging != NULL) { (void)driver->p_cuMemFreeHost(cuda->staging); }
    if (cuda->shared.created != 0) {
        cuda_mapping_end(cuda, &cuda->shared);
    } else if (cuda->slots != 0) {
        (void)driver->p_cuMemFree(cuda->slots);
    }
    while (cuda->events_made > 0) {
        (void)driver->p_cuEventDestroy(cuda->events[--cuda->events_made]);
    }
    while (cuda->streams_made > 0) {
        (void)driver->p_cuStreamDestroy(cuda->streams[--cuda->streams_made]);
    }
}

/* Gives the context up, and puts back the one that was before: also ours, where
 * somebody else still holds it. */
static void release_context(struct cleat_cuda *cuda, CUcontext before)
{
    const struct cuda_driver *driver = &cuda->driver;
    unsigned flags = 0;
    int active = 0;

    (void)driver->p_cuDevicePrimaryCtxRelease(cuda->device);
    if (before == cuda->context &&
        (driver->p_cuDevicePrimaryCtxGetState(cuda->device, &flags, &active) !=
             CUDA_SUCCESS ||
         active == 0)) {
        before = NULL;
    }
    (void)driver->p_cuCtxSetCurrent(before);
}

enum cleat_status cleat_cuda_close(struct cleat_cuda *cuda)
{
    CUcontext before;

    if (cuda == NULL || cuda->closed != 0) { return CLEAT_OK; }
    if (cleat_cuda_lost(cuda, NULL)) { return CLEAT_DEVICE_LOST; }
    if (cuda->context != NULL) {
        before = current_of(&cuda->driver);
        if (cuda->driver.p_cuCtxSetCurrent(cuda->context) != CUDA_SUCCESS ||
            !runs_dry(cuda)) {
            cleat_cuda_lose(cuda);
            return CLEAT_DEVICE_LOST;
        }
        free_all(cuda);
        release_context(cuda, before);
    }
    memset(cuda, 0, sizeof *cuda);
    cuda->closed = 1;
    cuda->lost = 1; /* of what is closed nothing more is asked */
    return CLEAT_OK;
}

/* Everything, in the device's context, and back in the thread's own. */
static enum cleat_status make_all(struct cleat_cuda *cuda,
                                  struct cleat_error *error)
{
    CUcontext before = current_of(&cuda->driver);
    enum cleat_status status = take_context(cuda, error);

    if (status == CLEAT_OK) { status = make_streams(cuda, error); }
    if (status == CLEAT_OK) { status = make_slots(cuda, error); }
    if (status == CLEAT_OK) { status = make_staging(cuda, error); }
    if (status != CLEAT_DEVICE_LOST) {
        (void)cuda->driver.p_cuCtxSetCurrent(before);
    }
    return status;
}

enum cleat_status cleat_cuda_open(void *block, size_t bytes,
                                  const struct cleat_cuda_config *config,
                                  struct cleat_cuda **out,
                                  struct cleat_error *error)
{
    struct cleat_cuda *cuda = block;
    enum cleat_status status = check(block, bytes, config, error);

    if (out == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "cuda: a result is needed");
    }
    *out = NULL;
    if (status != CLEAT_OK) { return status; }
    memset(cuda, 0, sizeof *cuda);
    cuda->config = *config;
    status = cuda_driver_load(&cuda->driver, config->lib_path, error);
    if (status == CLEAT_OK) { status = find_device(cuda, error); }
    if (status != CLEAT_OK) { return status; }
    status = make_all(cuda, error);
    if (status != CLEAT_OK) {
        (void)cleat_cuda_close(cuda);
        return status;
    }
    *out = cuda;
    return CLEAT_OK;
}

/* ---- what there is ---- */

static int attribute(const struct cuda_driver *driver, CUdevice device,
                     CUdevice_attribute which)
{
    int value = 0;

    return driver->p_cuDeviceGetAttribute(&value, which, device) == CUDA_SUCCESS
               ? value
               : 0;
}

static CUresult look_at(const struct cuda_driver *driver, uint32_t number,
                        struct cleat_cuda_device_info *info)
{
    CUdevice device = 0;
    size_t total = 0;
    CUresult code = driver->p_cuDeviceGet(&device, (int)number);

    if (code != CUDA_SUCCESS) { return code; }
    code = driver->p_cuDeviceGetName(info->name, (int)sizeof info->name,
                                     device);
    if (code != CUDA_SUCCESS) { return code; }
    info->name[sizeof info->name - 1] = '\0';
    if (driver->p_cuDeviceGetPCIBusId(info->pci, (int)sizeof info->pci,
                                      device) != CUDA_SUCCESS) {
        info->pci[0] = '\0';
    }
    code = driver->p_cuDeviceTotalMem(&total, device);
    info->bytes = total;
    info->major = (uint32_t)attribute(
        driver, device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    info->minor = (uint32_t)attribute(
        driver, device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    info->memory_share =
        cuda_driver_shares(driver) &&
        attribute(
            driver, device,
            CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED) !=
            0;
    return code;
}

enum cleat_status cleat_cuda_look(const char *library,
                                  struct cleat_cuda_info *info,
                                  struct cleat_error *error)
{
    struct cuda_driver driver;
    int count = 0;
    CUresult code;
    enum cleat_status status = cuda_driver_load(&driver, library, error);

    memset(info, 0, sizeof *info);
    if (status != CLEAT_OK) { return status; }
    code = driver.p_cuDeviceGetCount(&count);
    info->driver = (uint32_t)driver.version;
    info->devices_count = count > 0 ? (uint32_t)count : 0;
    info->share_found = cuda_driver_shares(&driver);
    for (uint32_t i = 0; code == CUDA_SUCCESS && i < info->devices_count &&
                         i < CLEAT_CUDA_DEVICES_MAX;
         i++) {
        code = look_at(&driver, i, &info->devices[i]);
    }
    if (code == CUDA_SUCCESS) { return CLEAT_OK; }
    return cuda_driver_error(&driver, code, "looking at the devices", error);
}
