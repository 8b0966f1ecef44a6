/* Cleat: what a value looks like in a store or in a bucket.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A frame is a header of CLEAT_FRAME_BYTES bytes and the payload behind it.
 * The header says what the payload is and has the digest of both, so that
 * *empty* (a frame with no payload), *missing* (no frame) and *failed* (a
 * frame that does not verify) are three things; stores that cannot hold an
 * empty value can hold an empty frame.
 *
 * All numbers are little-endian, at these offsets:
 *
 *     0   magic, the bytes 'C' 'L' 'T' 'F'
 *     4   u16 version, 1
 *     6   u16 bytes of the header, 128
 *     8   u16 flags, CLEAT_FRAME_…
 *    10   u8  dtype, enum cleat_dtype
 *    11   u8  rank, 0 … 8
 *    12   u32 CRC32C of the payload
 *    16   u64 bytes of the payload
 *    24   u64 tag
 *    32   u64 shape[8], 0 from the rank on
 *    96   28 bytes of zero
 *   124   u32 CRC32C of the 124 bytes before it
 *
 * The length is a multiple of CLEAT_ALIGN: the payload behind an aligned
 * header is aligned. In every later version the first eight bytes mean the
 * same and bytes 124 … 127 digest the 124 before them, so that a frame that
 * is newer is told from one that is broken.
 *
 * What is not ours is not trusted: decoding reads nothing outside the bytes
 * that it is given, and every field is checked.
 */
#ifndef CLEAT_FRAME_H
#define CLEAT_FRAME_H

#include "cleat/digest.h"
#include "cleat/dtype.h"
#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_FRAME_BYTES 128u
#define CLEAT_FRAME_VERSION 1u

/* The payload has no digest: payload_crc is 0 and is not compared. */
#define CLEAT_FRAME_UNDIGESTED 1u

/* A header. All zero is the frame of an empty value. */
struct cleat_frame {
    uint64_t payload_bytes;
    uint64_t tag; /* the caller's; say, the digest of the key, so that a value
                     that comes from the wrong place is seen. Default 0 */
    uint64_t shape[CLEAT_RANK_MAX]; /* elements; 0 from `rank` on */
    uint32_t rank;                  /* 0 … CLEAT_RANK_MAX; 0 without dtype */
    enum cleat_dtype dtype;         /* CLEAT_DTYPE_NONE: plain bytes */
    uint32_t flags;                 /* CLEAT_FRAME_…; default 0 */
    uint32_t payload_crc;           /* CRC32C of the payload; empty: 0 */
};

/* Writes a header.
 *   frame      what to write
 *   out        CLEAT_FRAME_BYTES bytes are written, at any alignment
 *   out_bytes  room there
 * Returns CLEAT_OK; CLEAT_INVALID, with the frame's member in error->index
 * (0 payload_bytes, 2 shape, 3 rank, 4 dtype, 5 flags, 6 payload_crc), when
 * the frame is not one that cleat_frame_decode would give back: a dtype or a
 * flag that is not in the list, a rank above CLEAT_RANK_MAX or without a
 * dtype, a shape that goes on behind the rank, a length that is not that of
 * the tensor, a digest where there is none; CLEAT_TOO_SMALL, with
 * CLEAT_FRAME_BYTES in error->offset. On error nothing is written. */
enum cleat_status cleat_frame_encode(const struct cleat_frame *frame, void *out,
                                     size_t out_bytes,
                                     struct cleat_error *error);

/* Reads a header.
 *   in         at any alignment; may be NULL when in_bytes is 0
 *   in_bytes   bytes there; what lies behind the header is not looked at
 * Returns, with the byte in question in error->offset:
 *   CLEAT_OK           *frame is the header
 *   CLEAT_MALFORMED    no frame: the magic is missing; or the digest is right
 *                      and a field is not: its writer is defective
 *   CLEAT_SHORT        the beginning of a frame; error->offset is
 *                      CLEAT_FRAME_BYTES, which it takes
 *   CLEAT_CORRUPT      a frame whose header does not match its digest
 *   CLEAT_UNSUPPORTED  a sound frame of another version, or with a flag or a
 *                      dtype that this version does not know
 * On error *frame is all zero. */
enum cleat_status cleat_frame_decode(const void *in, size_t in_bytes,
                                     struct cleat_frame *frame,
                                     struct cleat_error *error);

/* Compares what was received with the header, where the caller has the digest
 * already (cleat_crc32c_copy).
 *   payload_bytes   how many bytes there are
 *   payload_crc     their CRC32C; not looked at with CLEAT_FRAME_UNDIGESTED
 * Returns CLEAT_OK; CLEAT_SHORT for fewer bytes than the header says and
 * CLEAT_MALFORMED for more, with the bytes that it says in error->offset;
 * CLEAT_CORRUPT when the digest differs. error->index is the argument's
 * position, 1 or 2. */
enum cleat_status cleat_frame_match(const struct cleat_frame *frame,
                                    uint64_t payload_bytes,
                                    uint32_t payload_crc,
                                    struct cleat_error *error);

/* The same for a caller who has the payload only: digests it, with
 * cleat_crc32c_with(kind, …), and compares.
 *   payload   `bytes` bytes; may be NULL when bytes is 0 */
enum cleat_status cleat_frame_verify(const struct cleat_frame *frame,
                                     enum cleat_digest_kind kind,
                                     const void *payload, size_t bytes,
                                     struct cleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
