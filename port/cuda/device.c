/* Cleat: a device, its slots, streams and events. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include <string.h>

#include "device.h"

/* ---- the latch ---- */

bool cleat_cuda_lost(const struct cleat_cuda *cuda, int32_t *code)
{
    bool lost = __atomic_load_n(&cuda->lost, __ATOMIC_ACQUIRE) != 0;

    if (code != NULL) {
        *code = lost ? __atomic_load_n(&cuda->lost_code, __ATOMIC_ACQUIRE) : 0;
    }
    return lost;
}

static void latch(struct cleat_cuda *cuda, int32_t code)
{
    int32_t none = 0;

    (void)__atomic_compare_exchange_n(&cuda->lost_code, &none, code, false,
                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    __atomic_store_n(&cuda->lost, 1u, __ATOMIC_RELEASE);
}

void cleat_cuda_lose(struct cleat_cuda *cuda)
{
    latch(cuda, 0);
}

enum cleat_status cuda_means(struct cleat_cuda *cuda, CUresult code)
{
    enum cleat_status status = cleat_cuda_meaning((int32_t)code);

    if (status == CLEAT_DEVICE_LOST) { latch(cuda, (int32_t)code); }
    return status;
}

/* ---- what is done with it ---- */

enum cleat_status cleat_cuda_use(struct cleat_cuda *cuda)
{
    if (cleat_cuda_lost(cuda, NULL)) { return CLEAT_DEVICE_LOST; }
    return cuda_means(cuda, cuda->driver.p_cuCtxSetCurrent(cuda->context));
}

enum cleat_status cleat_cuda_serve(struct cleat_cuda *cuda)
{
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    enum cleat_status status = cleat_cuda_use(cuda);

    if (status != CLEAT_OK ||
        cuda->driver.p_cuThreadExchangeStreamCaptureMode == NULL) {
        return status;
    }
    if (cleat_cuda_lost(cuda, NULL)) { return CLEAT_DEVICE_LOST; } /* since */
    return cuda_means(cuda,
                      cuda->driver.p_cuThreadExchangeStreamCaptureMode(&mode));
}

uint64_t cleat_cuda_slot(const struct cleat_cuda *cuda, uint32_t slot)
{
    return cuda->slots + slot * cuda->slot_distance;
}

void *cleat_cuda_staging(const struct cleat_cuda *cuda, uint32_t staging)
{
    return (unsigned char *)cuda->staging + staging * cuda->staging_distance;
}

void *cleat_cuda_stream(const struct cleat_cuda *cuda, uint32_t stream)
{
    return cuda->streams[stream];
}

uint32_t cleat_cuda_device(const struct cleat_cuda *cuda)
{
    return cuda->config.device;
}

enum cleat_status cleat_cuda_copy(struct cleat_cuda *cuda, uint32_t stream,
                                  uint64_t to, uint64_t from, uint64_t bytes)
{
    if (cleat_cuda_lost(cuda, NULL)) { return CLEAT_DEVICE_LOST; }
    if (stream >= cuda->config.streams_count) { return CLEAT_INVALID; }
    if (bytes == 0) { return CLEAT_OK; }
    return cuda_means(cuda, cuda->driver.p_cuMemcpyAsync(
                                (CUdeviceptr)to, (CUdeviceptr)from,
                                (size_t)bytes, cuda->streams[stream]));
}

enum cleat_status cleat_cuda_record(struct cleat_cuda *cuda, uint32_t event,
                                    uint32_t stream)
{
    enum cleat_status status;

    if (cleat_cuda_lost(cuda, NULL)) { return CLEAT_DEVICE_LOST; }
    if (event >= cuda->config.events_count ||
        stream >= cuda->config.streams_count) {
        return CLEAT_INVALID;
    }
    status = cuda_means(cuda, cuda->driver.p_cuEventRecord(
                                  cuda->events[event], cuda->streams[stream]));
    if (status == CLEAT_OK) { cuda->recorded |= UINT64_C(1) << event; }
    return status;
}

/* CLEAT_OK when the event has been put on a stream. */
static enum cleat_status has_event(const struct cleat_cuda *cuda,
                                   uint32_t event)
{
    if (cleat_cuda_lost(cuda, NULL)) { return CLEAT_DEVICE_LOST; }
    if (event >= cuda->config.events_count) { return CLEAT_INVALID; }
    return (cuda->recorded >> event & 1) != 0 ? CLEAT_OK : CLEAT_STATE;
}

enum cleat_status cleat_cuda_after(struct cleat_cuda *cuda, uint32_t stream,
                                   uint32_t event)
{
    enum cleat_status status = has_event(cuda, event);

    if (status != CLEAT_OK) { return status; }
    if (stream >= cuda->config.streams_count) { return CLEAT_INVALID; }
    return cuda_means(cuda, cuda->driver.p_cuStreamWaitEvent(
                                cuda->streams[stream], cuda->events[event],
                                CU_EVENT_WAIT_DEFAULT));
}

enum cleat_status cleat_cuda_passed(struct cleat_cuda *cuda, uint32_t event)
{
    enum cleat_status status = has_event(cuda, event);

    if (status != CLEAT_OK) { return status; }
    return cuda_means(cuda, cuda->driver.p_cuEventQuery(cuda->events[event]));
}

enum cleat_status cleat_cuda_idle(struct cleat_cuda *cuda, uint32_t stream)
{
    if (cleat_cuda_lost(cuda, NULL)) { return CLEAT_DEVICE_LOST; }
    if (stream >= cuda->config.streams_count) { return CLEAT_INVALID; }
    return cuda_means(cuda,
                      cuda->driver.p_cuStreamQuery(cuda->streams[stream]));
}
