/* Cleat: any bytes as a control frame. SPDX-License-Identifier: Apache-2.0
 *
 * What is accepted must be exactly what encoding it gives. Mutated bytes
 * seldom have the right digest, so each input is tried a second time with the
 * digest put right. */
#include <stdlib.h>
#include <string.h>

#include "cleat/digest.h"
#include "port/linux/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void check(const uint8_t *bytes, size_t count)
{
    struct cleat_control_frame frame;
    struct cleat_control_frame nothing;
    uint8_t again[CLEAT_CONTROL_BYTES_MAX];
    size_t again_count = 0;

    memset(&nothing, 0, sizeof nothing);
    memset(&frame, 0xA5, sizeof frame);
    if (cleat_control_decode(bytes, count, &frame) != CLEAT_OK) {
        if (memcmp(&frame, &nothing, sizeof frame) != 0) { abort(); }
        return;
    }
    if (cleat_control_encode(&frame, again, &again_count) != CLEAT_OK ||
        again_count != count || memcmp(again, bytes, count) != 0) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    uint8_t sealed[CLEAT_CONTROL_BYTES_MAX];

    check(bytes, count);
    if (count < CLEAT_CONTROL_HEADER_BYTES || count > sizeof sealed) {
        return 0;
    }
    memcpy(sealed, bytes, count);
    uint32_t crc = cleat_crc32c(0, sealed, CLEAT_CONTROL_HEADER_BYTES - 4);
    crc = cleat_crc32c(crc, sealed + CLEAT_CONTROL_HEADER_BYTES,
                       count - CLEAT_CONTROL_HEADER_BYTES);
    for (size_t i = 0; i < 4; i++) {
        sealed[CLEAT_CONTROL_HEADER_BYTES - 4 + i] = (uint8_t)(crc >> (8 * i));
    }
    check(sealed, count);
    return 0;
}
