/* Cleat: versions of one checkpoint file. SPDX-License-Identifier: Apache-2.0
 */
#define CLEAT_DIGEST_DETECT
#include "version.h"

#include <string.h>

#include "board.h"

/* As much as is read, changed and digested while it is in the cache. */
#define CHUNK_BYTES 16384u

/* splitmix64's finisher over {version, word}. */
static uint64_t mask(uint64_t version, uint64_t word)
{
    uint64_t z = version * UINT64_C(0xD1342543DE82EF95) +
                 (word + 1) * UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* Changes `bytes` bytes that lie at flat address `flat`. */
static void change(unsigned char *data, uint64_t flat, size_t bytes,
                   uint64_t version)
{
    size_t i = 0;

    for (; i < bytes && (flat + i) % 8 != 0; i++) {
        uint64_t word = mask(version, (flat + i) / 8);

        data[i] ^= (unsigned char)(word >> (flat + i) % 8 * 8);
    }
    for (; i + 8 <= bytes; i += 8) {
        uint64_t word;

        memcpy(&word, data + i, 8);
        word ^= mask(version, (flat + i) / 8);
        memcpy(data + i, &word, 8);
    }
    for (; i < bytes; i++) {
        uint64_t word = mask(version, (flat + i) / 8);

        data[i] ^= (unsigned char)(word >> (flat + i) % 8 * 8);
    }
}

/* ---------------------------------------------------------- the source */

static uint32_t version_count(struct cleat_tensors_context *context)
{
    const struct version_source *source = (void *)context;

    return source->job->tensors;
}

static enum cleat_status version_describe(struct cleat_tensors_context *context,
                                          uint32_t index,
                                          struct cleat_tensor *out)
{
    const struct version_source *source = (void *)context;
    const struct cleat_tensor_source *file = &source->job->source;

    return file->describe(file->context, index, out);
}

/* One chunk, into `to`; its digest is of what came of it. */
static enum cleat_status read_chunk(const struct version_source *source,
                                    uint32_t index, uint64_t offset,
                                    size_t bytes, unsigned char *to,
                                    uint32_t *crc)
{
    const struct cleat_tensor_source *file = &source->job->source;
    enum cleat_status status = file->read(file->context, index, offset, bytes,
                                          to, NULL);

    if (status != CLEAT_OK) { return status; }
    change(to, source->job->starts[index] + offset, bytes, source->version);
    *crc = cleat_crc32c_with(source->digest, *crc, to, bytes);
    return CLEAT_OK;
}

static enum cleat_status version_read(struct cleat_tensors_context *context,
                                      uint32_t index, uint64_t offset,
                                      size_t bytes, void *to, uint32_t *crc)
{
    const struct version_source *source = (void *)context;
    const struct cleat_tensor_source *file = &source->job->source;
    unsigned char spare[CHUNK_BYTES];
    uint32_t sum = crc != NULL ? *crc : 0;

    if (source->version < 2 || bytes == 0) {
        return file->read(file->context, index, offset, bytes, to, crc);
    }
    for (size_t at = 0; at < bytes; at += CHUNK_BYTES) {
        size_t chunk = bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES;
        enum cleat_status status = read_chunk(
            source, index, offset + at, chunk,
            to != NULL ? (unsigned char *)to + at : spare, &sum);

        if (status != CLEAT_OK) { return status; }
    }
    if (crc != NULL) { *crc = sum; }
    return CLEAT_OK;
}

struct cleat_tensor_source version_source(struct version_source *source)
{
    struct cleat_tensor_source out = {(void *)source, version_count,
                                      version_describe, version_read};

    source->digest = cleat_digest_detect();
    return out;
}

/* ---------------------------------------------------------- the digests */

static uint32_t digest_zeros(const struct version_source *source, uint32_t crc,
                             uint32_t bytes)
{
    static const unsigned char zeros[CLEAT_PLAN_ALIGN];

    while (bytes > 0) {
        uint32_t some = bytes < sizeof zeros ? bytes : (uint32_t)sizeof zeros;

        crc = cleat_crc32c_with(source->digest, crc, zeros, some);
        bytes -= some;
    }
    return crc;
}

enum cleat_status version_digest(struct version_source *source, uint32_t window,
                                 uint32_t *digest)
{
    const struct cleat_plan *windows = &source->job->windows;
    struct cleat_plan_piece piece;
    uint32_t cursor = 0;
    uint32_t at = 0;
    uint32_t crc = 0;

    while (cleat_plan_next(windows, window, &cursor, &piece)) {
        enum cleat_status status;

        crc = digest_zeros(source, crc, piece.bucket_offset - at);
        status = version_read((void *)source, piece.tensor, piece.tensor_offset,
                              piece.bytes, NULL, &crc);
        if (status != CLEAT_OK) { return status; }
        at = piece.bucket_offset + piece.bytes;
    }
    *digest = digest_zeros(source, crc,
                           cleat_plan_bucket_bytes(windows, window) - at);
    return CLEAT_OK;
}
