/* Cleat: any stream, in any pieces, as lines. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The first byte is the longest line, the second says how the stream is cut
 * into pieces; the rest is the stream. What comes out must be what a plain
 * splitting of the whole stream gives. */
#include <stdlib.h>
#include <string.h>

#include "port/mcp/lines.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

struct model {
    const char *text;
    size_t bytes;
    size_t at;
    size_t line_max;
};

/* The model: CLEAT_OK with a line, CLEAT_LIMIT, or CLEAT_PENDING at the end. */
static enum cleat_status split(struct model *model, struct cleat_text *line)
{
    size_t end = model->at;

    while (end < model->bytes && model->text[end] != '\n') { end++; }
    size_t length = end - model->at;
    if (length > 0 && model->text[end - 1] == '\r') { length--; }
    if (length > model->line_max) { return CLEAT_LIMIT; }
    if (end == model->bytes) { return CLEAT_PENDING; }
    *line = (struct cleat_text){model->text + model->at, length};
    model->at = end + 1;
    return CLEAT_OK;
}

static void check(enum cleat_status status, const struct cleat_text *line,
                  struct model *model)
{
    struct cleat_text expected = {NULL, 0};

    if (split(model, &expected) != status) { abort(); }
    if (status == CLEAT_OK &&
        (line->bytes != expected.bytes ||
         memcmp(line->text, expected.text, expected.bytes) != 0)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    char room[MCP_LINES_BYTES(255)];
    struct mcp_lines lines;
    struct cleat_text line = {NULL, 0};
    enum cleat_status status = CLEAT_PENDING;

    if (count < 2) { return 0; }
    struct model model = {(const char *)bytes + 2, count - 2, 0, bytes[0]};
    uint32_t seed = bytes[1];
    mcp_lines_init(&lines, room, bytes[0]);
    for (size_t fed = 2; fed < count && status != CLEAT_LIMIT;) {
        size_t most;
        char *to = mcp_lines_room(&lines, &most);
        seed = seed * 1664525u + 1013904223u;
        size_t piece = 1 + (seed >> 24) % (bytes[1] == 0 ? 1 : bytes[1]);
        if (piece > most) { piece = most; }
        if (piece > count - fed) { piece = count - fed; }
        if (piece == 0) { abort(); }
        memcpy(to, bytes + fed, piece);
        mcp_lines_filled(&lines, piece);
        fed += piece;
        status = mcp_lines_next(&lines, &line);
        while (status == CLEAT_OK) {
            check(status, &line, &model);
            status = mcp_lines_next(&lines, &line);
        }
    }
    if (count > 2) { check(status, &line, &model); }
    if (status == CLEAT_PENDING &&
        mcp_lines_rest(&lines) != model.bytes - model.at) {
        abort();
    }
    return 0;
}
