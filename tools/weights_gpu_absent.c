/* Cleat: weights on a GPU, in a build without port/nccl: there are none, for
 * carrier_gpu_absent.c opens nothing. SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "weights_gpu.h"

struct cleat_tensor_sink weights_gpu_sink(struct weights_gpu *weights,
                                          uint32_t copy)
{
    struct cleat_tensor_sink sink;

    (void)weights;
    (void)copy;
    memset(&sink, 0, sizeof sink);
    return sink;
}

struct cleat_tensor_source weights_gpu_source(struct weights_gpu *weights)
{
    struct cleat_tensor_source source;

    (void)weights;
    memset(&source, 0, sizeof source);
    return source;
}

enum cleat_status weights_gpu_clear(struct weights_gpu *weights, uint32_t copy)
{
    (void)weights;
    (void)copy;
    return CLEAT_UNSUPPORTED;
}

enum cleat_status weights_gpu_load(struct weights_gpu *weights,
                                   const struct cleat_tensor_source *from)
{
    (void)weights;
    (void)from;
    return CLEAT_UNSUPPORTED;
}

enum cleat_status weights_gpu_digest(struct weights_gpu *weights, uint32_t copy,
                                     uint64_t flat, size_t bytes,
                                     uint32_t *digest)
{
    (void)weights;
    (void)copy;
    (void)flat;
    (void)bytes;
    (void)digest;
    return CLEAT_UNSUPPORTED;
}

bool weights_gpu_lost(struct weights_gpu *weights)
{
    (void)weights;
    return false;
}
