/* Cleat: any bytes as a framed value. SPDX-License-Identifier: Apache-2.0
 *
 * What the decoder says is held against a reading of the format's table, field
 * by field and with a CRC of its own. Mutated bytes seldom have the right
 * digest, so each input is tried a second time with magic and both digests put
 * right. */
#include <stdlib.h>
#include <string.h>

#include "cleat/frame.h"

#define CHECK(x)               \
    do {                       \
        if (!(x)) { abort(); } \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

/* CRC32C, bit by bit (RFC 3720, B.4): reflected polynomial 0x82F63B78. */
static uint32_t slow_crc(const uint8_t *bytes, size_t count)
{
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
        }
    }
    return ~crc;
}

static uint64_t number(const uint8_t *at, uint32_t bytes)
{
    uint64_t value = 0;

    for (uint32_t i = bytes; i > 0; i--) { value = value << 8 | at[i - 1]; }
    return value;
}

static void put_u32(uint8_t *at, uint32_t value)
{
    for (uint32_t i = 0; i < 4; i++) { at[i] = (uint8_t)(value >> (8 * i)); }
}

/* Bytes of the tensor that the header speaks of; false where its numbers are
 * not those of one. */
static bool tensor_bytes(const uint8_t *header, uint64_t *bytes)
{
    static const uint8_t size_of[CLEAT_DTYPE_END] = {0, 1, 1, 1, 1, 1, 2, 2,
                                                     2, 2, 4, 4, 4, 8, 8, 8};
    uint64_t product = size_of[header[10]];
    bool none = false;
    bool large = false;

    for (uint32_t i = 0; i < header[11]; i++) {
        uint64_t elements = number(header + 32 + 8 * i, 8);

        none = none || elements == 0;
        large = large || (elements != 0 && product > UINT64_MAX / elements);
        product *= elements;
    }
    *bytes = none ? 0 : product;
    return none || !large;
}

/* Whether fields that are of version 1 agree with each other. */
static bool agrees(const uint8_t *header)
{
    uint64_t payload = number(header + 16, 8);
    uint64_t bytes = payload;

    if (header[11] > CLEAT_RANK_MAX) { return false; }
    for (uint32_t i = header[11]; i < CLEAT_RANK_MAX; i++) {
        if (number(header + 32 + 8 * i, 8) != 0) { return false; }
    }
    if (header[10] == CLEAT_DTYPE_NONE) {
        if (header[11] != 0) { return false; }
    } else if (!tensor_bytes(header, &bytes) || bytes != payload) {
        return false;
    }
    if (number(header + 8, 2) == CLEAT_FRAME_UNDIGESTED || payload == 0) {
        return number(header + 12, 4) == 0;
    }
    return true;
}

/* The verdict of the table; UNSUPPORTED and MALFORMED where a header is both,
 * as `also`. */
static enum cleat_status slow_decode(const uint8_t *bytes, size_t count,
                                     enum cleat_status *also)
{
    static const uint8_t magic[4] = {'C', 'L', 'T', 'F'};
    bool unknown;
    bool wrong = false;

    *also = CLEAT_OK;
    for (size_t i = 0; i < 4 && i < count; i++) {
        if (bytes[i] != magic[i]) { return *also = CLEAT_MALFORMED; }
    }
    if (count < 128) { return *also = CLEAT_SHORT; }
    if (number(bytes + 124, 4) != slow_crc(bytes, 124)) {
        return *also = CLEAT_CORRUPT;
    }
    if (number(bytes + 4, 2) != 1) { return *also = CLEAT_UNSUPPORTED; }
    unknown = number(bytes + 8, 2) > 1 || bytes[10] >= CLEAT_DTYPE_END;
    for (uint32_t i = 96; i < 124; i++) { wrong = wrong || bytes[i] != 0; }
    wrong = wrong || number(bytes + 6, 2) != 128;
    if (unknown) {
        /* Nothing is known of how its other fields have to agree. */
        *also = CLEAT_MALFORMED;
        return CLEAT_UNSUPPORTED;
    }
    wrong = wrong || !agrees(bytes);
    return *also = wrong ? CLEAT_MALFORMED : CLEAT_OK;
}

/* A sound header is written again as it was, and its payload is judged. */
static void check_sound(const struct cleat_frame *frame, const uint8_t *bytes,
                        size_t count)
{
    uint8_t again[CLEAT_FRAME_BYTES];
    struct cleat_error error;
    size_t payload = count - CLEAT_FRAME_BYTES;
    enum cleat_status status;

    CHECK(cleat_frame_encode(frame, again, sizeof again, &error) == CLEAT_OK);
    CHECK(memcmp(again, bytes, sizeof again) == 0);
    status = cleat_frame_verify(frame, CLEAT_DIGEST_PORTABLE,
                                bytes + CLEAT_FRAME_BYTES, payload, &error);
    if (payload < frame->payload_bytes) {
        CHECK(status == CLEAT_SHORT);
    } else if (payload > frame->payload_bytes) {
        CHECK(status == CLEAT_MALFORMED);
    } else if ((frame->flags & CLEAT_FRAME_UNDIGESTED) != 0 ||
               frame->payload_crc ==
                   slow_crc(bytes + CLEAT_FRAME_BYTES, payload)) {
        CHECK(status == CLEAT_OK);
    } else {
        CHECK(status == CLEAT_CORRUPT);
    }
}

static void check(const uint8_t *bytes, size_t count)
{
    struct cleat_frame frame;
    struct cleat_frame zero;
    struct cleat_error error;
    enum cleat_status also;
    enum cleat_status expected = slow_decode(bytes, count, &also);
    enum cleat_status status = cleat_frame_decode(bytes, count, &frame, &error);

    CHECK(status == expected || status == also);
    if (status == CLEAT_OK) {
        check_sound(&frame, bytes, count);
        return;
    }
    memset(&zero, 0, sizeof zero);
    CHECK(memcmp(&frame, &zero, sizeof zero) == 0);
    CHECK(error.status == status && error.text[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    uint8_t *copy;

    check(bytes, count);
    if (count < CLEAT_FRAME_BYTES) { return 0; }
    copy = malloc(count);
    CHECK(copy != NULL);
    memcpy(copy, bytes, count);
    memcpy(copy, "CLTF", 4);
    if (number(copy + 12, 4) != 0) {
        put_u32(copy + 12,
                slow_crc(copy + CLEAT_FRAME_BYTES, count - CLEAT_FRAME_BYTES));
    }
    put_u32(copy + 124, slow_crc(copy, 124));
    check(copy, count);
    free(copy);
    return 0;
}
