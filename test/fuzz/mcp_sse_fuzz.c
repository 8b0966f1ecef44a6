/* Cleat: any bytes as an event stream. SPDX-License-Identifier: Apache-2.0
 *
 * The first byte says how much room there is for data, the second how the
 * stream is cut; what follows is the stream. However it is cut, it gives what
 * the model gives. */
#include <stdlib.h>
#include <string.h>

#include "support/sse_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static size_t all_of_it(void *context, size_t left)
{
    (void)context;
    return left;
}

static size_t single_bytes(void *context, size_t left)
{
    (void)context;
    (void)left;
    return 1;
}

/* Pieces of 0 … 16 bytes, as a byte's bits say. */
static size_t by_bits(void *context, size_t left)
{
    uint32_t *bits = context;
    size_t piece = (*bits >> 3) % 17;

    *bits = *bits * 1664525u + 1013904223u;
    return piece < left ? piece : left;
}

static void check(const char *stream, size_t count, size_t room,
                  size_t (*next_piece)(void *, size_t), uint32_t bits,
                  const char *expected)
{
    struct sse_text log = {NULL, 0};

    sse_add(&log, "", 0);
    sse_parse(stream, count, room, next_piece, &bits, &log);
    if (strcmp(log.bytes, expected) != 0) {
        fprintf(stderr, "the parser:\n%sthe model:\n%s", log.bytes, expected);
        abort();
    }
    free(log.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct sse_text expected = {NULL, 0};

    if (count < 2) { return 0; }
    size_t room = bytes[0] == 255 ? 1000000 : bytes[0];
    uint32_t bits = bytes[1];
    const char *stream = (const char *)bytes + 2;
    count -= 2;
    sse_add(&expected, "", 0);
    sse_model_run(stream, count, room, &expected);
    check(stream, count, room, all_of_it, 0, expected.bytes);
    check(stream, count, room, single_bytes, 0, expected.bytes);
    check(stream, count, room, by_bits, bits, expected.bytes);
    free(expected.bytes);
    return 0;
}
