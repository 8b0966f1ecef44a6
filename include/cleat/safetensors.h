/* Cleat: checkpoint files. SPDX-License-Identifier: Apache-2.0
 *
 * Reads and writes the safetensors format
 * (github.com/huggingface/safetensors#format): one file, or a folder whose
 * `model.safetensors.index.json` says which shard holds which tensor.
 *
 *     file   8 bytes: header length, little end first, ≤ 100 000 000
 *            header:  JSON, starting with `{`; may end in spaces
 *                {"__metadata__": {"key": "text", …},            (optional)
 *                 "name": {"dtype": "BF16", "shape": [4096, 1024],
 *                          "data_offsets": [from, to]}, …}
 *            data:    to the end of the file
 *
 * A file is untrusted. Everything is checked when it is opened, and what is
 * not exactly so is refused:
 *
 *   - numbers are plain digits: no sign, fraction, exponent or leading zero;
 *   - a tensor has exactly the three members above, in any order; its dtype is
 *     one of CLEAT_DTYPE_LIST, it has at most CLEAT_TENSOR_RANK_MAX dimensions;
 *   - the tensors cover the data from 0 to the end of the file, with neither
 *     holes nor overlap, and each has as many bytes as dtype and shape say;
 *   - no name comes twice, however it is escaped; none is empty;
 *   - an index names shards in its own folder, each with exactly the tensors
 *     that the index gives to it. A shard may be a symbolic link to a file in
 *     the same folder, or `../../blobs/<hex digits>`, as the cache of the
 *     Hugging Face hub has it; no other link is followed.
 *
 * Tensors are numbered by shard name (as bytes), then by place in the file;
 * tensors without bytes that share a place stay in the header's order. So what
 * cleat_safetensors_write writes is read in the order in which it was written.
 *
 * Files are mapped, not read. A mapped file must not be truncated or rewritten
 * in place while it is open (the process would get SIGBUS or mixed bytes);
 * replacing it, as cleat_safetensors_write does, is harmless.
 *
 * Nothing is allocated: what is needed lies in a block of the caller's. How
 * large depends on the file, and is told before:
 *
 *     size_t bytes;
 *     cleat_safetensors_bytes("model.safetensors", &bytes, &error);
 *     void *block = …;
 *     struct cleat_safetensors file;
 *     cleat_safetensors_open(&file, "model.safetensors", block, bytes, &error);
 *     struct cleat_tensor_source source = cleat_safetensors_source(&file);
 *     …
 *     cleat_safetensors_close(&file);
 *
 * Error texts say which file (its last 60 bytes), where in it, and what was
 * expected; error->index is the tensor's number in its header, error->offset
 * the byte in the file.
 */
#ifndef CLEAT_SAFETENSORS_H
#define CLEAT_SAFETENSORS_H

#include "cleat/tensors.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The longest header, a limit of the format's reference implementation. */
#define CLEAT_SAFETENSORS_HEADER_MAX UINT64_C(100000000)

/* The name of an index in its folder, and of a single file when there is no
 * index. */
#define CLEAT_SAFETENSORS_INDEX "model.safetensors.index.json"
#define CLEAT_SAFETENSORS_SINGLE "model.safetensors"

struct cleat_safetensors_row;
struct cleat_safetensors_shard;

/* Visible so that a caller can hold one; the members are not for reading.
 * Everything it points to lies in the caller's block or in a mapping. */
struct cleat_safetensors {
    struct cleat_safetensors_row *rows; /* in the order of the headers */
    uint32_t *order;                    /* table order → row */
    struct cleat_safetensors_shard *shards;
    const void *index; /* the mapped index file, or NULL */
    size_t index_bytes;
    uint32_t tensors_count;
    uint32_t shards_count;
    enum cleat_digest_kind digest;
};

/* How large a block cleat_safetensors_open needs for `path`. Reads headers but
 * checks only what it must to count; touches no tensor data.
 *   path    a safetensors file, an index file (its name ends in ".json"), or a
 *           folder with CLEAT_SAFETENSORS_INDEX or CLEAT_SAFETENSORS_SINGLE
 *   bytes   out; for a block of any alignment
 * Returns CLEAT_OK; CLEAT_NOT_FOUND when there is no such file, CLEAT_IO when
 * it cannot be opened or mapped, both with errno in error->port_code;
 * CLEAT_MALFORMED, CLEAT_LIMIT or CLEAT_EXISTS (a member comes twice) for a
 * file that is not what it should be; CLEAT_INVALID for an argument that is
 * NULL. */
enum cleat_status cleat_safetensors_bytes(const char *path, size_t *bytes,
                                          struct cleat_error *error);

/* Opens, maps and checks.
 *   file          out
 *   path          as above
 *   block         block_bytes bytes, any alignment; the caller's, must outlive
 *                 `file`; may be NULL when block_bytes is 0
 * Returns CLEAT_OK; what cleat_safetensors_bytes returns; CLEAT_EXISTS for a
 * name that comes twice; CLEAT_MALFORMED when another rule above is broken;
 * CLEAT_LIMIT for a header, an index, a depth, a rank, a list of offsets or a
 * tensor's bytes above their limit; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset. On error nothing stays open or mapped. */
enum cleat_status cleat_safetensors_open(struct cleat_safetensors *file,
                                         const char *path, void *block,
                                         size_t block_bytes,
                                         struct cleat_error *error);

/* The same for a file that lies in memory. (How large a block it needs is told
 * by a call with none.)
 *   name    for error texts
 *   data    data_bytes bytes; the caller's, must outlive `file`
 * Returns what cleat_safetensors_open does, never CLEAT_IO or CLEAT_NOT_FOUND.
 */
enum cleat_status
cleat_safetensors_open_memory(struct cleat_safetensors *file, const char *name,
                              const void *data, size_t data_bytes, void *block,
                              size_t block_bytes, struct cleat_error *error);

/* The same for a file of which only the start is here, as when the rest is
 * still to come: what the header says is known, and has been checked against
 * the file's length, before a byte of the data is believed or given room. The
 * source's read returns CLEAT_STATE for bytes that are not here.
 *   head         its first head_bytes bytes, the whole header at least; the
 *                caller's, must outlive `file`
 *   file_bytes   of the whole file; only a number, however large
 * Returns what cleat_safetensors_open_memory does; CLEAT_MALFORMED also for a
 * head that ends within the header, whose length its first 8 bytes tell;
 * CLEAT_INVALID for fewer file_bytes than head_bytes, with the latter in
 * error->offset. */
enum cleat_status
cleat_safetensors_open_head(struct cleat_safetensors *file, const char *name,
                            const void *head, size_t head_bytes,
                            uint64_t file_bytes, void *block,
                            size_t block_bytes, struct cleat_error *error);

/* Unmaps. The source and the names that came of it end here. Idempotent. */
void cleat_safetensors_close(struct cleat_safetensors *file);

/* The tensors, as tensors.h has it; lives until cleat_safetensors_close. */
struct cleat_tensor_source
cleat_safetensors_source(struct cleat_safetensors *file);

/* How many files they lie in: 1 for a single file. */
static inline uint32_t
cleat_safetensors_shards(const struct cleat_safetensors *file)
{
    return file->shards_count;
}

/* Writing: an index of the names and a buffer lie in the caller's block. */
#define CLEAT_SAFETENSORS_WRITE_BYTES(tensors_count, buffer_bytes)   \
    ((size_t)(tensors_count) * sizeof(uint32_t) + sizeof(uint32_t) + \
     (size_t)(buffer_bytes))

/* The smallest buffer; 1 MiB and more is faster. */
#define CLEAT_SAFETENSORS_BUFFER_MIN 4096u

/* Writes all tensors of a source to a file, in the source's order, the same
 * bytes for the same tensors always. The file appears under its name only when
 * it is whole and on the disk (an unnamed or hidden file in the same folder is
 * written, synchronised and renamed); whatever was there before stays until
 * then.
 *   path          of the file; its folder must exist
 *   source        the tensors; names must be UTF-8, distinct, not empty and not
 *                 "__metadata__"
 *   block         block_bytes bytes, any alignment, at least
 *                 CLEAT_SAFETENSORS_WRITE_BYTES(count,
 *                 CLEAT_SAFETENSORS_BUFFER_MIN); used during the call
 * Returns CLEAT_OK; CLEAT_TOO_SMALL with the least block in error->offset;
 * CLEAT_INVALID for a tensor whose name or size cannot be and CLEAT_EXISTS for
 * a name that comes twice, with the tensor in error->index; CLEAT_INVALID for
 * an argument that is NULL, a path that ends in a slash, and one where there is
 * something that is neither a file nor a folder; CLEAT_LIMIT when the header or
 * the file would be too long; CLEAT_NOT_FOUND when there is no such folder and
 * CLEAT_IO for the rest, with errno in error->port_code and the byte reached in
 * error->offset; what the source returned. On error nothing is left behind. */
enum cleat_status
cleat_safetensors_write(const char *path,
                        const struct cleat_tensor_source *source, void *block,
                        size_t block_bytes, struct cleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
