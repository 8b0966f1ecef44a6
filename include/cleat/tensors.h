/* Cleat: where tensors come from and where they go. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The contract between Cleat and whatever holds tensors: a checkpoint file, a
 * trainer's arrays, a device. A *source* can be read; a *sink* can be read and
 * written. Both have a fixed table of tensors, numbered 0 … count-1; the order
 * is part of what the table says, and two sides that exchange tensors must
 * have the same table in the same order (cleat_tensors_digest compares them).
 *
 * An implementation of any function below
 *
 *   MUST     return the same table as long as it lives;
 *   MUST     check `index`, `offset` and `bytes` and return CLEAT_INVALID, with
 *            no effect, for what lies outside the tensor;
 *   MUST     return what it did as a status, and CLEAT_OK only when all of the
 *            bytes asked for have moved: a short read is CLEAT_SHORT, an
 *            operating system's or device's refusal CLEAT_IO or
 *            CLEAT_DEVICE_LOST, a tensor of which there is only the table's
 *            row CLEAT_STATE;
 *   MUST     leave *crc untouched when it fails;
 *   MUST     let count, describe and read be called by any thread, and by
 *            several at once;
 *   MAY      block on the disk or the device that holds the bytes;
 *   MUST NOT block on another process, on a lock that is held over I/O, or
 *            without a bound;
 *   MUST NOT allocate, or keep a pointer that it was given after it returns.
 *
 * A caller
 *
 *   MUST     call write from one thread at a time, and not while another
 *            thread reads the same bytes;
 *   MUST NOT touch the bytes of a source or a sink in other ways meanwhile,
 *            unless the implementation's header allows it.
 *
 * The digest is CRC32C, continued from *crc as cleat_crc32c continues it: a
 * range that is read in pieces has the digest of the whole range. Copying and
 * digesting are one pass over the bytes. Zero bytes are a legal range: nothing
 * moves and *crc stays.
 */
#ifndef CLEAT_TENSORS_H
#define CLEAT_TENSORS_H

#include "cleat/digest.h"
#include "cleat/dtype.h"
#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The largest number of dimensions a tensor may have. */
#define CLEAT_TENSOR_RANK_MAX CLEAT_RANK_MAX

/* One row of a table. */
struct cleat_tensor {
    const char *name;       /* UTF-8, not NUL-terminated; lives as long as its
                               source or sink */
    uint32_t name_bytes;    /* of the name */
    enum cleat_dtype dtype; /* of an element */
    uint32_t rank;          /* 0: a scalar, one element */
    uint64_t shape[CLEAT_TENSOR_RANK_MAX]; /* elements; 0 past `rank` */
    uint64_t bytes; /* of the whole tensor, row-major; 0 where a dimension is */
};

/* The implementation's own; each implementation knows what it points to. */
struct cleat_tensors_context;

/* How many tensors there are. Never fails. */
typedef uint32_t cleat_tensors_count_fn(struct cleat_tensors_context *context);

/* Writes row `index` to *out. CLEAT_OK; CLEAT_INVALID when there is no such
 * row. */
typedef enum cleat_status
cleat_tensors_describe_fn(struct cleat_tensors_context *context, uint32_t index,
                          struct cleat_tensor *out);

/* Copies bytes [offset, offset + bytes) of tensor `index` to `to` and continues
 * *crc with them. `to` holds `bytes` bytes, or is NULL: then the bytes are only
 * digested. `crc` may be NULL: then they are only copied. */
typedef enum cleat_status
cleat_tensors_read_fn(struct cleat_tensors_context *context, uint32_t index,
                      uint64_t offset, size_t bytes, void *to, uint32_t *crc);

/* Copies `bytes` bytes from `from` to bytes [offset, offset + bytes) of tensor
 * `index` and continues *crc with them; `crc` may be NULL. When it fails, the
 * bytes of that range are undefined and no others have changed. */
typedef enum cleat_status
cleat_tensors_write_fn(struct cleat_tensors_context *context, uint32_t index,
                       uint64_t offset, size_t bytes, const void *from,
                       uint32_t *crc);

struct cleat_tensor_source {
    struct cleat_tensors_context *context;
    cleat_tensors_count_fn *count;
    cleat_tensors_describe_fn *describe;
    cleat_tensors_read_fn *read;
};

struct cleat_tensor_sink {
    struct cleat_tensors_context *context;
    cleat_tensors_count_fn *count;
    cleat_tensors_describe_fn *describe;
    cleat_tensors_read_fn *read; /* what is held now */
    cleat_tensors_write_fn *write;
};

/* A sink, to be read only: for digesting or saving what it holds. The result
 * uses the sink's context and lives as long. */
static inline struct cleat_tensor_source
cleat_tensor_sink_source(const struct cleat_tensor_sink *sink)
{
    struct cleat_tensor_source source;

    source.context = sink->context;
    source.count = sink->count;
    source.describe = sink->describe;
    source.read = sink->read;
    return source;
}

/* Continues `crc` with what a row says: the name's length, the dtype's number,
 * the rank and all CLEAT_TENSOR_RANK_MAX dimensions, each number as 8 bytes,
 * little end first; then the name's bytes. Returns the digest. */
static inline uint32_t cleat_tensor_digest(uint32_t crc,
                                           const struct cleat_tensor *tensor)
{
    uint64_t numbers[3 + CLEAT_TENSOR_RANK_MAX];
    unsigned char wire[8];

    numbers[0] = tensor->name_bytes;
    numbers[1] = (uint64_t)tensor->dtype;
    numbers[2] = tensor->rank;
    for (uint32_t i = 0; i < CLEAT_TENSOR_RANK_MAX; i++) {
        numbers[3 + i] = tensor->shape[i];
    }
    for (uint32_t i = 0; i < 3 + CLEAT_TENSOR_RANK_MAX; i++) {
        for (uint32_t k = 0; k < 8; k++) {
            wire[k] = (unsigned char)(numbers[i] >> (8 * k));
        }
        crc = cleat_crc32c(crc, wire, sizeof wire);
    }
    return cleat_crc32c(crc, tensor->name, tensor->name_bytes);
}

/* The digest and the payload bytes of a whole table: tables with other rows, or
 * in another order, have the same digest once in 2^32.
 *   digest, bytes   out; either may be NULL
 * Returns CLEAT_OK, or what describe returned; CLEAT_LIMIT when the sum of the
 * bytes does not fit 64 bits. On error neither is written. */
static inline enum cleat_status
cleat_tensors_digest(const struct cleat_tensor_source *source, uint32_t *digest,
                     uint64_t *bytes)
{
    uint32_t count = source->count(source->context);
    uint32_t crc = 0;
    uint64_t sum = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct cleat_tensor tensor;
        enum cleat_status status = source->describe(source->context, i,
                                                    &tensor);

        if (status != CLEAT_OK) { return status; }
        if (tensor.bytes > UINT64_MAX - sum) { return CLEAT_LIMIT; }
        crc = cleat_tensor_digest(crc, &tensor);
        sum += tensor.bytes;
    }
    if (digest != NULL) { *digest = crc; }
    if (bytes != NULL) { *bytes = sum; }
    return CLEAT_OK;
}

/* What two ends of a transfer must have alike, as one number: names, dtypes,
 * shapes and their order, and the size of buckets. The table's digest,
 * continued with bucket_bytes as 8 bytes, little end first; where that is 0, 1
 * instead, for 0 says "not told" wherever this number is told.
 *   bucket_bytes   as given to cleat_plan_begin
 *   layout         out
 * Returns what cleat_tensors_digest does. On error *layout is not written. */
static inline enum cleat_status
cleat_tensors_layout(const struct cleat_tensor_source *source,
                     uint32_t bucket_bytes, uint32_t *layout)
{
    unsigned char wire[8] = {0};
    uint32_t crc = 0;
    enum cleat_status status = cleat_tensors_digest(source, &crc, NULL);

    if (status != CLEAT_OK) { return status; }
    for (uint32_t k = 0; k < 4; k++) {
        wire[k] = (unsigned char)(bucket_bytes >> (8 * k));
    }
    crc = cleat_crc32c(crc, wire, sizeof wire);
    *layout = crc != 0 ? crc : 1;
    return CLEAT_OK;
}

#ifdef __cplusplus
}
#endif
#endif
