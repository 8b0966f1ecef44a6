/* Cleat: a device, its slots, streams and events. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef CLEAT_PORT_CUDA_DEVICE_H
#define CLEAT_PORT_CUDA_DEVICE_H

#include "driver.h"

/* Memory of cuMemCreate, mapped. */
struct cuda_mapping {
    CUmemGenericAllocationHandle handle;
    CUdeviceptr address;
    uint64_t bytes;   /* reserved; 0: none */
    uint32_t created; /* the handle is ours to release */
    uint32_t mapped;
};

struct cleat_cuda {
    struct cuda_driver driver;
    struct cleat_cuda_config config;
    CUdevice device;
    CUcontext context;
    uint32_t streams_made;
    uint32_t events_made;
    CUstream streams[CLEAT_CUDA_STREAMS_MAX];
    CUevent events[CLEAT_CUDA_EVENTS_MAX];
    uint64_t recorded; /* bit i: event i has been put on a stream */
    CUdeviceptr slots;
    uint64_t slot_distance;
    uint64_t slots_bytes;       /* all together */
    struct cuda_mapping shared; /* where the slots lie, when shareable */
    void *staging;
    uint64_t staging_distance;
    uint32_t imports_count;
    struct cuda_mapping imports[CLEAT_CUDA_IMPORTS_MAX];
    uint32_t closed;
    uint32_t lost;     /* atomic; once 1, never 0 again */
    int32_t lost_code; /* atomic */
};

/* What a code means; a sticky one is latched. */
enum cleat_status cuda_means(struct cleat_cuda *cuda, CUresult code);

/* Makes shareable memory of at least `bytes`, mapped and ours to write.
 * Statuses as cleat_cuda_open; on error *mapping is empty. */
enum cleat_status cuda_mapping_make(struct cleat_cuda *cuda, uint64_t bytes,
                                    struct cuda_mapping *mapping,
                                    struct cleat_error *error);

/* Unmaps and releases it. An empty one is left alone. */
void cuda_mapping_end(struct cleat_cuda *cuda, struct cuda_mapping *mapping);

#endif
