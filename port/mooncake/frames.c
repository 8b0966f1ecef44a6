/* Cleat: objects of Mooncake Store. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <string.h>

#include "state.h"

/* What is compared goes through the cache in pieces. */
#define COMPARED_BYTES ((size_t)64 * 1024)

/* ---- out ----------------------------------------------------------------- */

enum cleat_status cleat_mooncake_write(const self_t *self,
                                       const struct cleat_store_item *item,
                                       unsigned char *object)
{
    size_t header = cleat_mooncake_header(item);
    unsigned char *payload = object + header;
    size_t bytes = (size_t)item->bytes;
    struct cleat_frame frame;

    if (header == 0) {
        if (payload != item->payload) { memcpy(payload, item->payload, bytes); }
        return CLEAT_OK;
    }
    frame = item->frame;
    frame.payload_bytes = item->bytes;
    frame.flags = 0;
    frame.payload_crc = 0;
    if (bytes == 0) {
        /* Nothing to digest; payload may be NULL. */
    } else if (payload == item->payload) {
        frame.payload_crc = cleat_crc32c_with(self->digest, 0, payload, bytes);
    } else {
        frame.payload_crc = cleat_crc32c_copy_with(self->digest, 0, payload,
                                                   item->payload, bytes);
    }
    return cleat_frame_encode(&frame, object, CLEAT_FRAME_BYTES, NULL);
}

/* ---- in ------------------------------------------------------------------ */

/* Whether the frame is what an item demands. */
static bool is_demanded(const struct cleat_frame *demanded,
                        const struct cleat_frame *frame)
{
    if (demanded->tag != 0 && demanded->tag != frame->tag) { return false; }
    return demanded->dtype == CLEAT_DTYPE_NONE ||
           (demanded->dtype == frame->dtype && demanded->rank == frame->rank &&
            memcmp(demanded->shape, frame->shape,
                   demanded->rank * sizeof demanded->shape[0]) == 0);
}

/* The digest of the payload, and whether it is the same as the item's. */
static uint32_t compare_with(const self_t *self, const unsigned char *payload,
                             const unsigned char *with, size_t bytes,
                             bool *same)
{
    uint32_t crc = 0;

    for (size_t i = 0; i < bytes; i += COMPARED_BYTES) {
        size_t some = bytes - i < COMPARED_BYTES ? bytes - i : COMPARED_BYTES;

        crc = cleat_crc32c_with(self->digest, crc, payload + i, some);
        *same = *same && memcmp(payload + i, with + i, some) == 0;
    }
    return crc;
}

static enum cleat_status read_raw(struct cleat_store_item *item, bool compare,
                                  const unsigned char *object, uint64_t found,
                                  bool *touched)
{
    item->actual = found;
    if (found != item->bytes) { return compare ? CLEAT_CORRUPT : CLEAT_SHORT; }
    if (compare) {
        return memcmp(object, item->payload, (size_t)found) == 0
                   ? CLEAT_OK
                   : CLEAT_CORRUPT;
    }
    *touched = true;
    if (object != item->payload) {
        memcpy(item->payload, object, (size_t)found);
    }
    return CLEAT_OK;
}

/* The payload of a frame that is the one demanded. */
static enum cleat_status
read_payload(const self_t *self, struct cleat_store_item *item, bool compare,
             const struct cleat_frame *frame, const unsigned char *payload,
             bool *touched)
{
    size_t bytes = (size_t)item->bytes;
    enum cleat_status status;
    uint32_t crc = 0;
    bool same = true;

    if (bytes == 0) {
        /* Nothing to digest; payload may be NULL. */
    } else if (compare) {
        crc = compare_with(self, payload, item->payload, bytes, &same);
    } else if (payload == item->payload) {
        crc = cleat_crc32c_with(self->digest, 0, payload, bytes);
    } else {
        *touched = true;
        crc = cleat_crc32c_copy_with(self->digest, 0, item->payload, payload,
                                     bytes);
    }
    status = cleat_frame_match(frame, item->bytes, crc, NULL);
    return status == CLEAT_OK && !same ? CLEAT_CORRUPT : status;
}

/* Whether what does not begin as a frame was one: of the eight bytes that each
 * frame of this version begins with (cleat/frame.h), half are there. */
static bool was_frame(const unsigned char *object)
{
    static const unsigned char first[8] = {'C', 'L', 'T', 'F', 1, 0, 128, 0};
    uint32_t there = 0;

    for (uint32_t i = 0; i < sizeof first; i++) {
        there += object[i] == first[i];
    }
    return memcmp(object, first, 4) != 0 && there >= sizeof first / 2;
}

/* The header of a framed object of `found` bytes. */
static enum cleat_status read_header(const struct cleat_store_item *item,
                                     bool compare, const unsigned char *object,
                                     uint64_t found, struct cleat_frame *frame)
{
    enum cleat_status status = CLEAT_MALFORMED;

    if (found >= CLEAT_FRAME_BYTES) {
        status = cleat_frame_decode(object, CLEAT_FRAME_BYTES, frame, NULL);
        if (status == CLEAT_MALFORMED && was_frame(object)) {
            status = CLEAT_CORRUPT;
        }
    }
    if (status == CLEAT_OK && frame->payload_bytes != item->actual) {
        status = CLEAT_CORRUPT;
    }
    if (status == CLEAT_OK && (frame->flags & CLEAT_FRAME_UNDIGESTED) != 0) {
        status = CLEAT_UNSUPPORTED;
    }
    return status != CLEAT_OK && compare ? CLEAT_CORRUPT : status;
}

enum cleat_status cleat_mooncake_read(const self_t *self,
                                      struct cleat_store_item *item,
                                      bool compare, const unsigned char *object,
                                      uint64_t found, bool *touched)
{
    struct cleat_frame frame;
    enum cleat_status status;

    if (cleat_mooncake_is_raw(item)) {
        return read_raw(item, compare, object, found, touched);
    }
    if (found >= CLEAT_FRAME_BYTES) {
        item->actual = found - CLEAT_FRAME_BYTES;
    }
    if (item->actual > item->bytes) {
        return compare ? CLEAT_CORRUPT : CLEAT_SHORT;
    }
    status = read_header(item, compare, object, found, &frame);
    if (status != CLEAT_OK) { return status; }
    if (!is_demanded(&item->frame, &frame)) {
        status = compare ? CLEAT_CORRUPT : CLEAT_INVALID;
    } else if (item->actual != item->bytes) {
        status = compare ? CLEAT_CORRUPT : CLEAT_SHORT;
    } else {
        status = read_payload(self, item, compare, &frame,
                              object + CLEAT_FRAME_BYTES, touched);
    }
    if (!compare && (status == CLEAT_OK || status == CLEAT_INVALID)) {
        item->frame = frame;
    }
    return status;
}
