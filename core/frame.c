/* Cleat: frames. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/frame.h"

#include <string.h>

#include "assert.h"
#include "text.h"

/* A header is 32 words of 32 bits, little-endian; see the table in the
 * header file. */
#define WORDS (CLEAT_FRAME_BYTES / 4)

enum word {
    WORD_MAGIC = 0,
    WORD_VERSION = 1,  /* and bytes of the header << 16 */
    WORD_SHAPE_OF = 2, /* flags, dtype << 16, rank << 24 */
    WORD_PAYLOAD_CRC = 3,
    WORD_LONGS = 4, /* ten of two words: payload bytes, tag, shape */
    WORD_ZERO = 24, /* seven */
    WORD_HEADER_CRC = 31
};

#define MAGIC 0x46544C43u /* "CLTF" */
#define VERSION_AND_BYTES (CLEAT_FRAME_VERSION | CLEAT_FRAME_BYTES << 16)

CLEAT_STATIC_ASSERT(WORD_HEADER_CRC + 1 == WORDS, "layout");
CLEAT_STATIC_ASSERT(CLEAT_DTYPE_END <= 256, "a dtype is one byte");

/* The members of 64 bits come first in the struct and stand in the same order
 * in the header: length, tag, shape. */
#define LONGS (2 + CLEAT_RANK_MAX)
CLEAT_STATIC_ASSERT(offsetof(struct cleat_frame, rank) == 8 * LONGS, "order");
CLEAT_STATIC_ASSERT(WORD_LONGS + 2 * LONGS == WORD_ZERO, "layout");

static void set_longs(uint32_t words[WORDS], const struct cleat_frame *frame)
{
    uint64_t longs[LONGS];

    CLEAT_ASSERT(words[WORD_MAGIC] == MAGIC);
    memcpy(longs, frame, sizeof longs);
    CLEAT_ASSERT(longs[0] == frame->payload_bytes && longs[1] == frame->tag);
    for (uint32_t i = 0; i < LONGS; i++) {
        words[WORD_LONGS + 2 * i] = (uint32_t)longs[i];
        words[WORD_LONGS + 2 * i + 1] = (uint32_t)(longs[i] >> 32);
    }
}

static void get_longs(const uint32_t words[WORDS], struct cleat_frame *frame)
{
    uint64_t longs[LONGS];

    CLEAT_ASSERT(words[WORD_MAGIC] == MAGIC);
    for (uint32_t i = 0; i < LONGS; i++) {
        longs[i] = words[WORD_LONGS + 2 * i] |
                   (uint64_t)words[WORD_LONGS + 2 * i + 1] << 32;
    }
    memcpy(frame, longs, sizeof longs);
    CLEAT_ASSERT(longs[0] == frame->payload_bytes && longs[1] == frame->tag);
}

static void write_words(const uint32_t words[WORDS], unsigned char *out)
{
    CLEAT_ASSERT(words[WORD_MAGIC] == MAGIC);
    for (uint32_t i = 0; i < CLEAT_FRAME_BYTES; i++) {
        out[i] = (unsigned char)(words[i / 4] >> (8 * (i % 4)));
    }
    CLEAT_ASSERT(out[0] == 'C');
}

static void read_words(const unsigned char *in, uint32_t words[WORDS])
{
    CLEAT_ASSERT(in != NULL && words != NULL);
    memset(words, 0, CLEAT_FRAME_BYTES);
    for (uint32_t i = 0; i < CLEAT_FRAME_BYTES; i++) {
        words[i / 4] |= (uint32_t)in[i] << (8 * (i % 4));
    }
    CLEAT_ASSERT((words[WORD_MAGIC] & 255u) == in[0]);
}

/* The members of struct cleat_frame, in order; AGREES: nothing is wrong. */
enum member {
    PAYLOAD_BYTES,
    TAG,
    SHAPE,
    RANK,
    DTYPE,
    FLAGS,
    PAYLOAD_CRC,
    AGREES
};

/* The first rule of the header's contract that the frame breaks. */
static enum member first_wrong(const struct cleat_frame *frame)
{
    uint64_t bytes;

    CLEAT_ASSERT(frame != NULL);
    CLEAT_ASSERT(cleat_dtype_bytes(CLEAT_DTYPE_NONE) == 0);
    if ((uint32_t)frame->dtype >= CLEAT_DTYPE_END) { return DTYPE; }
    if (frame->flags & ~CLEAT_FRAME_UNDIGESTED) { return FLAGS; }
    if (frame->rank > CLEAT_RANK_MAX) { return RANK; }
    for (uint32_t i = frame->rank; i < CLEAT_RANK_MAX; i++) {
        if (frame->shape[i] != 0) { return SHAPE; }
    }
    if (frame->payload_crc != 0 &&
        (frame->payload_bytes == 0 || frame->flags != 0)) {
        return PAYLOAD_CRC;
    }
    if (frame->dtype == CLEAT_DTYPE_NONE) {
        return frame->rank == 0 ? AGREES : RANK;
    }
    if (cleat_dtype_tensor_bytes(frame->dtype, frame->rank, frame->shape,
                                 &bytes) != CLEAT_OK ||
        bytes != frame->payload_bytes) {
        return PAYLOAD_BYTES;
    }
    return AGREES;
}

enum cleat_status cleat_frame_encode(const struct cleat_frame *frame, void *out,
                                     size_t out_bytes,
                                     struct cleat_error *error)
{
    uint32_t words[WORDS] = {MAGIC, VERSION_AND_BYTES};
    enum member wrong = first_wrong(frame);

    CLEAT_ASSERT(out != NULL || out_bytes == 0);
    if (wrong != AGREES) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, wrong, 0,
                            "frame: a member contradicts the others");
    }
    if (out_bytes < CLEAT_FRAME_BYTES) {
        return CLEAT_REFUSE(error, CLEAT_TOO_SMALL, 1, CLEAT_FRAME_BYTES,
                            "frame: a header takes 128 bytes");
    }
    words[WORD_SHAPE_OF] = frame->flags | (uint32_t)frame->dtype << 16 |
                           frame->rank << 24;
    words[WORD_PAYLOAD_CRC] = frame->payload_crc;
    set_longs(words, frame);
    write_words(words, out);
    words[WORD_HEADER_CRC] = cleat_crc32c(0, out, 4 * WORD_HEADER_CRC);
    write_words(words, out);
    CLEAT_ASSERT(words[WORD_ZERO] == 0);
    return CLEAT_OK;
}

/* Magic and length: is it a frame, and the whole header? */
static enum cleat_status check_beginning(const unsigned char *in,
                                         size_t in_bytes,
                                         struct cleat_error *error)
{
    CLEAT_ASSERT(in_bytes <= CLEAT_FRAME_BYTES);
    CLEAT_ASSERT((MAGIC & 255u) == 'C');
    for (uint32_t i = 0; i < 4 && i < in_bytes; i++) {
        if (in[i] != ((MAGIC >> (8 * i)) & 255u)) {
            return CLEAT_REFUSE(error, CLEAT_MALFORMED, 0, i,
                                "frame: it does not begin with CLTF");
        }
    }
    if (in_bytes < CLEAT_FRAME_BYTES) {
        return CLEAT_REFUSE(error, CLEAT_SHORT, 0, CLEAT_FRAME_BYTES,
                            "frame: a header takes 128 bytes");
    }
    return CLEAT_OK;
}

static void get_members(const uint32_t words[WORDS], struct cleat_frame *frame)
{
    CLEAT_ASSERT(words[WORD_MAGIC] == MAGIC);
    CLEAT_ASSERT(frame != NULL);
    frame->flags = words[WORD_SHAPE_OF] & 0xFFFFu;
    frame->dtype = (enum cleat_dtype)((words[WORD_SHAPE_OF] >> 16) & 0xFFu);
    frame->rank = words[WORD_SHAPE_OF] >> 24;
    frame->payload_crc = words[WORD_PAYLOAD_CRC];
    get_longs(words, frame);
}

/* The fields of a header whose digest is right: CLEAT_OK, or what is wrong
 * with which byte. */
static enum cleat_status check_fields(const uint32_t words[WORDS],
                                      const struct cleat_frame *frame,
                                      uint32_t *offset)
{
    /* Where each member stands. */
    static const unsigned char at[AGREES] = {16, 24, 32, 11, 10, 8, 12};
    enum member wrong = first_wrong(frame);

    CLEAT_ASSERT(words[WORD_MAGIC] == MAGIC);
    CLEAT_ASSERT(at[PAYLOAD_BYTES] == 4 * WORD_LONGS);
    *offset = 4 * WORD_VERSION;
    if ((words[WORD_VERSION] & 0xFFFFu) != CLEAT_FRAME_VERSION) {
        return CLEAT_UNSUPPORTED;
    }
    if (words[WORD_VERSION] != VERSION_AND_BYTES) { return CLEAT_MALFORMED; }
    for (uint32_t i = WORD_ZERO; i < WORD_HEADER_CRC; i++) {
        *offset = 4 * i;
        if (words[i] != 0) { return CLEAT_MALFORMED; }
    }
    if (wrong == AGREES) { return CLEAT_OK; }
    *offset = at[wrong];
    return wrong == DTYPE || wrong == FLAGS ? CLEAT_UNSUPPORTED
                                            : CLEAT_MALFORMED;
}

enum cleat_status cleat_frame_decode(const void *in, size_t in_bytes,
                                     struct cleat_frame *frame,
                                     struct cleat_error *error)
{
    unsigned char copy[CLEAT_FRAME_BYTES];
    uint32_t words[WORDS];
    uint32_t offset = 0;
    enum cleat_status status;

    CLEAT_ASSERT(frame != NULL);
    CLEAT_ASSERT(in != NULL || in_bytes == 0);
    memset(frame, 0, sizeof *frame);
    /* Read once: a peer may still be writing there. */
    if (in_bytes > sizeof copy) { in_bytes = sizeof copy; }
    if (in_bytes > 0) { memcpy(copy, in, in_bytes); }
    status = check_beginning(copy, in_bytes, error);
    if (status != CLEAT_OK) { return status; }
    read_words(copy, words);
    if (words[WORD_HEADER_CRC] != cleat_crc32c(0, copy, 4 * WORD_HEADER_CRC)) {
        return CLEAT_REFUSE(error, CLEAT_CORRUPT, 0, 4 * WORD_HEADER_CRC,
                            "frame: the header does not match its digest");
    }
    get_members(words, frame);
    status = check_fields(words, frame, &offset);
    if (status != CLEAT_OK) {
        memset(frame, 0, sizeof *frame);
        return CLEAT_REFUSE(error, status, 0, offset,
                            "frame: a field of the header is not of version 1");
    }
    CLEAT_ASSERT(first_wrong(frame) == AGREES);
    return CLEAT_OK;
}

enum cleat_status cleat_frame_match(const struct cleat_frame *frame,
                                    uint64_t payload_bytes,
                                    uint32_t payload_crc,
                                    struct cleat_error *error)
{
    CLEAT_ASSERT(frame != NULL);
    CLEAT_ASSERT((frame->flags & ~CLEAT_FRAME_UNDIGESTED) == 0);
    if (payload_bytes != frame->payload_bytes) {
        return cleat_error_set(
            error,
            payload_bytes < frame->payload_bytes ? CLEAT_SHORT
                                                 : CLEAT_MALFORMED,
            1, frame->payload_bytes,
            CLEAT_TEXT("frame: the payload is not of the length told"));
    }
    if (!(frame->flags & CLEAT_FRAME_UNDIGESTED) &&
        payload_crc != frame->payload_crc) {
        return CLEAT_REFUSE(error, CLEAT_CORRUPT, 2, 0,
                            "frame: the payload does not match its digest");
    }
    return CLEAT_OK;
}

enum cleat_status cleat_frame_verify(const struct cleat_frame *frame,
                                     enum cleat_digest_kind kind,
                                     const void *payload, size_t bytes,
                                     struct cleat_error *error)
{
    uint32_t crc = 0;

    CLEAT_ASSERT(frame != NULL);
    CLEAT_ASSERT(payload != NULL || bytes == 0);
    /* Nothing is read that the header does not announce. */
    if (bytes == frame->payload_bytes &&
        !(frame->flags & CLEAT_FRAME_UNDIGESTED)) {
        crc = cleat_crc32c_with(kind, 0, payload, bytes);
    }
    return cleat_frame_match(frame, bytes, crc, error);
}
