/* Cleat: `cleat gpu` in a build without port/cuda and port/nccl.
 * SPDX-License-Identifier: Apache-2.0 */
#include "gpu.h"
#include "options.h"

int cleat_tool_gpu(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return options_fail("cleat gpu",
                        "this build has no port/cuda and port/nccl: it needs "
                        "the headers cuda.h (CUDA 12.0) and nccl.h (NCCL "
                        "2.28.7) and CLEAT_CUDA=ON, CLEAT_NCCL=ON");
}
