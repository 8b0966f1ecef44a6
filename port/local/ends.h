/* Cleat: what both ends of a transfer share. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef CLEAT_PORT_LOCAL_ENDS_H
#define CLEAT_PORT_LOCAL_ENDS_H

#include "cleat/arena.h"
#include "cleat/local.h"

/* {term, epoch} as the transport's generation. Neither repeats within 2^32
 * updates of one job, and a generation is compared with its neighbours only. */
static inline uint64_t local_generation(const struct cleat_worker_command *c)
{
    return c->term << 32 | (c->epoch & UINT32_MAX);
}

/* Makes ready for the next transfer. Interrupts may come meanwhile. */
void local_signal_clear(struct cleat_stream_signal *signal);

/* The silence that is allowed, with its default. */
uint64_t local_silence_ns(const struct cleat_local_transfer *transfer);

/* The bucket size, with its default. */
uint32_t local_bucket_bytes(const struct cleat_local_transfer *transfer);

/* Fills a plan, in `block` of CLEAT_PLAN_BYTES, from a tensor table. */
enum cleat_status local_plan(struct cleat_plan *plan, void *block,
                             const struct cleat_tensor_source *table,
                             uint32_t bucket_bytes, struct cleat_error *error);

/* Fills in what all processes of a job must have alike, where the host has not:
 * of `table`, and the bucket size that `transfer` has. */
enum cleat_status local_layout(const struct cleat_tensor_source *table,
                               const struct cleat_local_transfer *transfer,
                               uint32_t *layout, struct cleat_error *error);

/* What an end's trouble with the others means to its worker: this attempt has
 * failed. It must not sound as if this worker could never do it. */
enum cleat_status local_attempt_status(enum cleat_status status);

#endif
