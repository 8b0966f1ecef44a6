/* Cleat: what event streams give, for a comparison. SPDX-License-Identifier:
 * Apache-2.0
 *
 *     sse_verdict < STREAMS
 *
 * Reads streams, each after its length in four bytes, little-endian. Prints,
 * for each, a line an event that has data, and a line "end": bytes other than
 * visible ASCII, and '%', in hexadecimal after a '%'. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "port/mcp/sse.h"

#define ROOM 65536u
#define PIECE_BYTES 7u

static void show(const char *name, const char *bytes, size_t count)
{
    fputs(name, stdout);
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] > ' ' && bytes[i] < 0x7F && bytes[i] != '%') {
            putchar(bytes[i]);
        } else {
            printf("%%%02x", (unsigned char)bytes[i]);
        }
    }
}

static void take(struct mcp_sse *sse, const char *piece, size_t count)
{
    while (count > 0) {
        size_t taken = 0;
        enum mcp_sse_what what = mcp_sse_take(sse, piece, count, &taken);

        if (what == MCP_SSE_LIMIT) { exit(1); }
        if (what == MCP_SSE_EVENT && sse->has_data) {
            show("event=", sse->event, sse->event_bytes);
            show(" data=", sse->data, sse->data_bytes);
            show(" id=", sse->id, sse->id_bytes);
            putchar('\n');
        }
        piece += taken;
        count -= taken;
    }
}

int main(void)
{
    static char data[ROOM];
    static struct mcp_sse sse;
    unsigned char length[4];

    while (fread(length, 1, 4, stdin) == 4) {
        size_t left = (size_t)length[0] | (size_t)length[1] << 8 |
                      (size_t)length[2] << 16 | (size_t)length[3] << 24;

        mcp_sse_init(&sse, data, sizeof data);
        while (left > 0) {
            char piece[PIECE_BYTES];
            size_t count = left < sizeof piece ? left : sizeof piece;

            if (fread(piece, 1, count, stdin) != count) { return 1; }
            take(&sse, piece, count);
            left -= count;
        }
        puts("end");
    }
    return ferror(stdin) != 0 ? 1 : 0;
}
