/* Cleat: a safetensors file in a store. SPDX-License-Identifier: Apache-2.0
 *
 * Each tensor is a value of its own, by its name, with its dtype and shape in
 * its frame. What else makes the file is one more value, plain bytes, under
 * `__metadata__`, a name that the format gives to no tensor:
 *
 *     the file's first bytes, up to where the tensors' begin
 *     4 bytes "CLTS"
 *     u32 CRC32C of all that follows in the file
 *     u64 bytes of that
 *
 * numbers little end first. It is put last, and got first; so whoever finds it
 * finds the tensors, and tensors of two files are never taken for one.
 */
#ifndef CLEAT_TOOLS_STORE_TENSORS_H
#define CLEAT_TOOLS_STORE_TENSORS_H

#include "cleat/safetensors.h"
#include "store_job.h"

#define STORE_HEADER_NAME "__metadata__"

struct store_tensors {
    const void *map;
    uint64_t bytes;
    uint64_t data_at; /* where the tensors' bytes begin */
    struct store_stamp stamp;
    struct cleat_safetensors file;
    void *block;
    uint32_t crc; /* of the tensors' bytes, as far as it was digested */
    uint64_t crc_at;
};

/* Opens job->from, and adds its rows. Returns 0; 2 after one line. */
int store_tensors_open(struct store_job *job, struct store_tensors *tensors);
void store_tensors_close(struct store_job *job, struct store_tensors *tensors);

void store_put_tensors(struct store_job *job, struct store_tensors *tensors);

/* Adds the row that is got first. Returns 0; 2 after one line. */
int store_get_tensors_begin(struct store_job *job);

/* Adds the other rows, as they become known, and writes job->to: whole, or not
 * at all. `folder` is open, and `name` the file's in it. */
void store_get_tensors(struct store_job *job, struct store_folder *folder,
                       const char *name);

#endif
