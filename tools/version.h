/* Cleat: versions of one checkpoint file. SPDX-License-Identifier: Apache-2.0
 *
 * A trainer changes its weights between updates; `cleat trainer` has a file.
 * Version 1 is the file as it is. In version v ≥ 2 every 8-byte word at a flat
 * address a, a multiple of 8, is combined by exclusive-or with a word that
 * depends on v and a alone. So every version has other bytes, and each byte of
 * it can be computed by itself.
 */
#ifndef CLEAT_TOOLS_VERSION_H
#define CLEAT_TOOLS_VERSION_H

#include "cleat/tensors.h"
#include "job.h"

struct version_source {
    const struct job *job;
    enum cleat_digest_kind digest;
    uint64_t version; /* what is read; set while nobody reads */
};

/* The job's tensors as they are in source->version. */
struct cleat_tensor_source version_source(struct version_source *source);

/* CRC32C of window `window` of the flat address space, whose gaps are zeros.
 * Returns what reading the source does. */
enum cleat_status version_digest(struct version_source *source, uint32_t window,
                                 uint32_t *digest);

#endif
