/* Cleat: a device of a check's own. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TEST_GPU_DEVICE_H
#define CLEAT_TEST_GPU_DEVICE_H

#include "gpu.h"

struct gpu_device_config {
    uint32_t slots_count;
    uint64_t slot_bytes;
    uint64_t staging_bytes;
    bool shareable;
};

/* Device 0 with one stream, some slots and one pinned place on the host. */
struct gpu_device {
    struct cleat_cuda *cuda;
    unsigned char *host;
    _Alignas(64) unsigned char block[CLEAT_CUDA_BYTES];
};

/* Its context is the calling thread's afterwards. */
void gpu_device_open(struct gpu_device *device,
                     const struct gpu_device_config *config);

/* From the pinned place to the device, or back; when they return it has been
 * done. At most staging_bytes. */
void gpu_device_write(struct gpu_device *device, uint64_t to, uint64_t bytes);
void gpu_device_read(struct gpu_device *device, uint64_t from, uint64_t bytes);

/* Whether a status that is PENDING turns to OK while patience lasts. */
void gpu_await_idle(struct cleat_cuda *cuda, uint32_t stream);

#endif
