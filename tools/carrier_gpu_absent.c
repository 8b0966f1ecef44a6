/* Cleat: `cleat sync --transport nccl` in a build without port/nccl.
 * SPDX-License-Identifier: Apache-2.0 */
#include "carrier_gpu.h"

static int refuse(const char *command)
{
    return options_fail(command,
                        "--transport nccl: this build has no port/nccl: it "
                        "needs the headers cuda.h (CUDA 12.0) and nccl.h (NCCL "
                        "2.28.7) and CLEAT_CUDA=ON, CLEAT_NCCL=ON");
}

int carrier_gpu_make(struct carrier *carrier, const struct job *job,
                     uint32_t slots, uint32_t members, uint64_t patience_ns,
                     const char *command)
{
    (void)patience_ns;
    (void)carrier;
    (void)job;
    (void)slots;
    (void)members;
    return refuse(command);
}

int carrier_gpu_open_sender(struct carrier *carrier, const struct job *job,
                            uint32_t slots, uint32_t receivers,
                            const char *command)
{
    (void)carrier;
    (void)job;
    (void)slots;
    (void)receivers;
    return refuse(command);
}

int carrier_gpu_open_receiver(struct carrier *carrier, const struct job *job,
                              const char *command)
{
    (void)carrier;
    (void)job;
    return refuse(command);
}

bool carrier_gpu_close(struct carrier *carrier)
{
    (void)carrier;
    return true;
}
