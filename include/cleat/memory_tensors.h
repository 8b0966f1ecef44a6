/* Cleat: tensors that lie in plain memory. SPDX-License-Identifier: Apache-2.0
 *
 * A tensor source and sink (see tensors.h) over an array of names, dtypes,
 * shapes and pointers: for a trainer that has arrays and no files, and for an
 * engine that keeps its weights in memory.
 *
 *     static float weight[4096][1024];
 *     static const struct cleat_memory_tensor table[] = {
 *         {"weight", CLEAT_DTYPE_F32, 2, {4096, 1024}, weight},
 *     };
 *     struct cleat_memory_tensors tensors;
 *     cleat_memory_tensors_init(&tensors, table, 1, &error);
 *     struct cleat_tensor_source source =
 *         cleat_memory_tensors_source(&tensors);
 *
 * An engine that stages a new version beside the old has two tables, hence two
 * sinks. The bytes are the caller's; between two calls of Cleat it may do with
 * them what it likes.
 */
#ifndef CLEAT_MEMORY_TENSORS_H
#define CLEAT_MEMORY_TENSORS_H

#include "cleat/tensors.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One array. */
struct cleat_memory_tensor {
    const char *name; /* UTF-8, NUL-terminated, 1 … 65535 bytes; no two in
                         a table are the same */
    enum cleat_dtype dtype; /* of an element */
    uint32_t rank;          /* dimensions, 0 … CLEAT_TENSOR_RANK_MAX */
    uint64_t shape[CLEAT_TENSOR_RANK_MAX]; /* elements; past `rank` not read */
    void *data; /* row-major, not padded; any alignment; a source never writes
                   it; may be NULL where there are no bytes */
};

/* Visible so that a caller can hold one; the members are not for reading. */
struct cleat_memory_tensors {
    const struct cleat_memory_tensor *table;
    uint32_t count;
    enum cleat_digest_kind digest;
};

/* The longest name. */
#define CLEAT_MEMORY_TENSORS_NAME_MAX 65535u

/* Joins a table.
 *   tensors   out
 *   table     `count` rows; the caller's, must outlive `tensors`; may be NULL
 *             when count is 0
 * Returns CLEAT_OK; CLEAT_INVALID when a row has no name, no dtype, too many
 * dimensions or no data, with the row in error->index; CLEAT_LIMIT when its
 * bytes do not fit a size_t, or its name is too long. */
enum cleat_status
cleat_memory_tensors_init(struct cleat_memory_tensors *tensors,
                          const struct cleat_memory_tensor *table,
                          uint32_t count, struct cleat_error *error);

/* The table as a source, and as a sink: they live as long as `tensors`. */
struct cleat_tensor_source
cleat_memory_tensors_source(struct cleat_memory_tensors *tensors);
struct cleat_tensor_sink
cleat_memory_tensors_sink(struct cleat_memory_tensors *tensors);

#ifdef __cplusplus
}
#endif
#endif
