/* Cleat: messages out of a stream of lines. SPDX-License-Identifier:
 * Apache-2.0 */
#include "lines.h"

#include <string.h>

void mcp_lines_init(struct mcp_lines *lines, char *room, size_t line_bytes_max)
{
    memset(lines, 0, sizeof *lines);
    lines->room = room;
    lines->line_bytes_max = line_bytes_max;
}

char *mcp_lines_room(struct mcp_lines *lines, size_t *bytes)
{
    if (lines->begin > 0) {
        memmove(lines->room, lines->room + lines->begin,
                lines->end - lines->begin);
        lines->looked -= lines->begin;
        lines->end -= lines->begin;
        lines->begin = 0;
    }
    *bytes = lines->too_long
                 ? 0
                 : MCP_LINES_BYTES(lines->line_bytes_max) - lines->end;
    return lines->room + lines->end;
}

void mcp_lines_filled(struct mcp_lines *lines, size_t bytes)
{
    lines->end += bytes;
}

/* Bytes of the line from `begin` to `end` without the CR at its end. */
static size_t without_cr(const struct mcp_lines *lines, size_t end)
{
    size_t bytes = end - lines->begin;

    return bytes > 0 && lines->room[end - 1] == '\r' ? bytes - 1 : bytes;
}

enum cleat_status mcp_lines_next(struct mcp_lines *lines,
                                 struct cleat_text *line)
{
    if (lines->too_long) { return CLEAT_LIMIT; }
    const char *feed = memchr(lines->room + lines->looked, '\n',
                              lines->end - lines->looked);
    size_t end = feed == NULL ? lines->end : (size_t)(feed - lines->room);
    size_t bytes = without_cr(lines, end);
    if (bytes > lines->line_bytes_max) {
        lines->too_long = true;
        return CLEAT_LIMIT;
    }
    lines->looked = end;
    if (feed == NULL) { return CLEAT_PENDING; }
    *line = (struct cleat_text){lines->room + lines->begin, bytes};
    lines->begin = end + 1;
    lines->looked = lines->begin;
    return CLEAT_OK;
}

size_t mcp_lines_rest(const struct mcp_lines *lines)
{
    return lines->end - lines->begin;
}
