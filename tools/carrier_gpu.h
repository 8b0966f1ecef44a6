/* Cleat: buckets of `cleat sync` between GPUs.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What carrier.c does with `--transport nccl`. In a build without port/nccl
 * every one of these that may fail says so.
 */
#ifndef CLEAT_TOOLS_CARRIER_GPU_H
#define CLEAT_TOOLS_CARRIER_GPU_H

#include "carrier.h"

/* The coordinator's, before anything is made or started: is there a driver,
 * NCCL, and a device for each of the `members` processes, with memory for its
 * slots and its weights? A driver that does not come back in patience_ns ends
 * the process, with 2 after one line; a signal does, where it is not blocked.
 * Returns 0; 2 after one line. */
int carrier_gpu_make(struct carrier *carrier, const struct job *job,
                     uint32_t slots, uint32_t members, uint64_t patience_ns,
                     const char *command);

/* The ends, and carrier->weights. Return 0; 2 after one line. */
int carrier_gpu_open_sender(struct carrier *carrier, const struct job *job,
                            uint32_t slots, uint32_t receivers,
                            const char *command);
int carrier_gpu_open_receiver(struct carrier *carrier, const struct job *job,
                              const char *command);

/* False: the device is lost, and the process must leave by _exit. */
bool carrier_gpu_close(struct carrier *carrier);

#endif
