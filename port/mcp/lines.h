/* Cleat: messages out of a stream of lines. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A server over stdio writes one message a line (MCP 2025-11-25, Transports,
 * stdio). Bytes are read into the framer's own room; lines come out as slices
 * of it. How the bytes came in pieces makes no difference.
 *
 *     room = mcp_lines_room(&lines, &bytes);       read at most `bytes` there
 *     mcp_lines_filled(&lines, bytes_read);
 *     while (mcp_lines_next(&lines, &line) == CLEAT_OK) { … }
 *
 * A line ends in LF or in CR LF; either is left out of it. Any other byte, NUL
 * and a lone CR too, is part of it. A line may be empty. */
#ifndef CLEAT_PORT_MCP_LINES_H
#define CLEAT_PORT_MCP_LINES_H

#include "cleat/tools.h"

struct mcp_lines {
    char *room; /* the caller's, MCP_LINES_BYTES(line_bytes_max) */
    size_t line_bytes_max;
    size_t begin;  /* of the line that is being read */
    size_t looked; /* so far there is no LF in it */
    size_t end;    /* of what was read */
    bool too_long; /* for ever */
};

/* The longest line, CR and LF. */
#define MCP_LINES_BYTES(line_bytes_max) ((size_t)(line_bytes_max) + 2)

void mcp_lines_init(struct mcp_lines *lines, char *room, size_t line_bytes_max);

/* Where to read to, and how much at most: never nothing, unless a line was too
 * long. To be called when there are no more lines. What lines pointed to is
 * gone after it. */
char *mcp_lines_room(struct mcp_lines *lines, size_t *bytes);

/* So much was read there. */
void mcp_lines_filled(struct mcp_lines *lines, size_t bytes);

/* The next line.
 * Returns CLEAT_OK with *line; CLEAT_PENDING: there is none yet; CLEAT_LIMIT: a
 * line is longer than line_bytes_max, from here on always. */
enum cleat_status mcp_lines_next(struct mcp_lines *lines,
                                 struct cleat_text *line);

/* Bytes of a line that has begun and not ended. Where the stream has ended they
 * are no message. */
size_t mcp_lines_rest(const struct mcp_lines *lines);

#endif
