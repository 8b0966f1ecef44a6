/* Cleat: tensors that lie in plain memory. SPDX-License-Identifier: Apache-2.0
 */
#define CLEAT_DIGEST_DETECT
#include "cleat/memory_tensors.h"

#include <stdio.h>
#include <string.h>

static struct cleat_memory_tensors *self(struct cleat_tensors_context *context)
{
    return (struct cleat_memory_tensors *)(void *)context;
}

/* Bytes of a row that init has accepted. */
static uint64_t row_bytes(const struct cleat_memory_tensor *row)
{
    uint64_t bytes = 0;

    (void)cleat_dtype_tensor_bytes(row->dtype, row->rank, row->shape, &bytes);
    return bytes;
}

static enum cleat_status refuse(struct cleat_error *error,
                                enum cleat_status status, uint32_t index,
                                const char *what)
{
    char text[CLEAT_ERROR_TEXT_MAX];

    snprintf(text, sizeof text, "memory tensors: row %u: %s", (unsigned)index,
             what);
    return cleat_error_set(error, status, index, 0, text);
}

static enum cleat_status check_row(const struct cleat_memory_tensor *row,
                                   uint32_t index, struct cleat_error *error)
{
    uint64_t bytes;
    enum cleat_status status;

    if (row->name == NULL || row->name[0] == '\0') {
        return refuse(error, CLEAT_INVALID, index, "it has no name");
    }
    if (memchr(row->name, '\0', CLEAT_MEMORY_TENSORS_NAME_MAX + 1u) == NULL) {
        return refuse(error, CLEAT_LIMIT, index,
                      "its name is longer than 65535 bytes");
    }
    if (row->rank > CLEAT_TENSOR_RANK_MAX) {
        return refuse(error, CLEAT_INVALID, index,
                      "it has more than 8 dimensions");
    }
    status = cleat_dtype_tensor_bytes(row->dtype, row->rank, row->shape,
                                      &bytes);
    if (status == CLEAT_INVALID) {
        return refuse(error, status, index, "its dtype has no elements");
    }
    if (status == CLEAT_LIMIT || bytes > SIZE_MAX) {
        return refuse(error, CLEAT_LIMIT, index, "its bytes do not fit memory");
    }
    if (row->data == NULL && bytes != 0) {
        return refuse(error, CLEAT_INVALID, index, "it has no data");
    }
    return CLEAT_OK;
}

enum cleat_status
cleat_memory_tensors_init(struct cleat_memory_tensors *tensors,
                          const struct cleat_memory_tensor *table,
                          uint32_t count, struct cleat_error *error)
{
    if (tensors == NULL || (table == NULL && count != 0)) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "memory tensors: there is no table");
    }
    for (uint32_t i = 0; i < count; i++) {
        enum cleat_status status = check_row(&table[i], i, error);

        if (status != CLEAT_OK) { return status; }
    }
    tensors->table = table;
    tensors->count = count;
    tensors->digest = cleat_digest_detect();
    return CLEAT_OK;
}

static uint32_t count(struct cleat_tensors_context *context)
{
    return self(context)->count;
}

static enum cleat_status describe(struct cleat_tensors_context *context,
                                  uint32_t index, struct cleat_tensor *out)
{
    const struct cleat_memory_tensor *row;

    if (index >= self(context)->count) { return CLEAT_INVALID; }
    row = &self(context)->table[index];
    memset(out, 0, sizeof *out);
    out->name = row->name;
    out->name_bytes = (uint32_t)strlen(row->name);
    out->dtype = row->dtype;
    out->rank = row->rank;
    for (uint32_t i = 0; i < row->rank; i++) { out->shape[i] = row->shape[i]; }
    out->bytes = row_bytes(row);
    return CLEAT_OK;
}

/* Finds bytes [offset, offset + bytes) of a row; false when they are not all
 * there. */
static bool find(struct cleat_tensors_context *context, uint32_t index,
                 uint64_t offset, size_t bytes, unsigned char **out)
{
    const struct cleat_memory_tensor *row;
    uint64_t whole;

    if (index >= self(context)->count) { return false; }
    row = &self(context)->table[index];
    whole = row_bytes(row);
    if (offset > whole || bytes > whole - offset) { return false; }
    *out = bytes == 0 ? NULL : (unsigned char *)row->data + offset;
    return true;
}

/* From this size on the bytes are written past the caches: they are a bucket's,
 * and whoever reads them next runs on another core. Lines that this core wrote
 * and another one read would have to be fetched back before they could be
 * written again, which costs more than the copy. */
#define BULK_BYTES ((size_t)64 * 1024)

/* Copies, digests, or both in one pass. */
static void move(enum cleat_digest_kind kind, void *to, const void *from,
                 size_t bytes, uint32_t *crc)
{
    if (bytes == 0) { return; }
    if (crc == NULL) {
        if (to != NULL) { memcpy(to, from, bytes); }
    } else if (to == NULL) {
        *crc = cleat_crc32c_with(kind, *crc, from, bytes);
    } else if (bytes >= BULK_BYTES) {
        *crc = cleat_crc32c_copy_cold_with(kind, *crc, to, from, bytes);
    } else {
        *crc = cleat_crc32c_copy_with(kind, *crc, to, from, bytes);
    }
}

static enum cleat_status read_range(struct cleat_tensors_context *context,
                                    uint32_t index, uint64_t offset,
                                    size_t bytes, void *to, uint32_t *crc)
{
    unsigned char *from;

    if (!find(context, index, offset, bytes, &from)) { return CLEAT_INVALID; }
    move(self(context)->digest, to, from, bytes, crc);
    return CLEAT_OK;
}

static enum cleat_status write_range(struct cleat_tensors_context *context,
                                     uint32_t index, uint64_t offset,
                                     size_t bytes, const void *from,
                                     uint32_t *crc)
{
    unsigned char *to;

    if (!find(context, index, offset, bytes, &to)) { return CLEAT_INVALID; }
    if (from == NULL && bytes != 0) { return CLEAT_INVALID; }
    move(self(context)->digest, to, from, bytes, crc);
    return CLEAT_OK;
}

struct cleat_tensor_source
cleat_memory_tensors_source(struct cleat_memory_tensors *tensors)
{
    struct cleat_tensor_sink sink = cleat_memory_tensors_sink(tensors);

    return cleat_tensor_sink_source(&sink);
}

struct cleat_tensor_sink
cleat_memory_tensors_sink(struct cleat_memory_tensors *tensors)
{
    struct cleat_tensor_sink sink;

    sink.context = (struct cleat_tensors_context *)(void *)tensors;
    sink.count = count;
    sink.describe = describe;
    sink.read = read_range;
    sink.write = write_range;
    return sink;
}
