/* Cleat: a device of a check's own. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "device.h"

#include <string.h>
#include <time.h>

void gpu_device_open(struct gpu_device *device,
                     const struct gpu_device_config *config)
{
    struct cleat_cuda_config cuda;
    struct cleat_error error;

    memset(&cuda, 0, sizeof cuda);
    memset(&error, 0, sizeof error);
    cuda.streams_count = 1;
    cuda.slots_count = config->slots_count;
    cuda.slot_bytes = config->slot_bytes;
    cuda.staging_count = 1;
    cuda.staging_bytes = config->staging_bytes;
    cuda.shareable = config->shareable ? 1 : 0;
    if (cleat_cuda_open(device->block, sizeof device->block, &cuda,
                        &device->cuda, &error) != CLEAT_OK) {
        gpu_fail(__FILE__, __LINE__, "the device opens: %s", error.text);
    }
    must_be_ok(cleat_cuda_use(device->cuda));
    device->host = cleat_cuda_staging(device->cuda, 0);
}

void gpu_await_idle(struct cleat_cuda *cuda, uint32_t stream)
{
    const struct timespec pause = {0, 20000};
    uint64_t deadline_ns = gpu_soon();
    enum cleat_status status = cleat_cuda_idle(cuda, stream);

    while (status == CLEAT_PENDING) {
        must(gpu_now_ns() < deadline_ns);
        (void)nanosleep(&pause, NULL);
        status = cleat_cuda_idle(cuda, stream);
    }
    must_be_ok(status);
}

void gpu_device_write(struct gpu_device *device, uint64_t to, uint64_t bytes)
{
    must_be_ok(cleat_cuda_copy(device->cuda, 0, to,
                               (uint64_t)(uintptr_t)device->host, bytes));
    gpu_await_idle(device->cuda, 0);
}

void gpu_device_read(struct gpu_device *device, uint64_t from, uint64_t bytes)
{
    must_be_ok(cleat_cuda_copy(device->cuda, 0,
                               (uint64_t)(uintptr_t)device->host, from, bytes));
    gpu_await_idle(device->cuda, 0);
}
