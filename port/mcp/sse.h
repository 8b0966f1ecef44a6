/* Cleat: server-sent events, as they come. SPDX-License-Identifier: Apache-2.0
 *
 * The event stream of WHATWG HTML, section "Server-sent events", in pieces of
 * any size:
 *
 *     while (count > 0) {
 *         what = mcp_sse_take(&sse, bytes, count, &taken);
 *         bytes += taken, count -= taken;
 *         if (what == MCP_SSE_EVENT) { … sse.data, mcp_sse_… … }
 *         if (what == MCP_SSE_LIMIT) { … mcp_sse_limit says which … }
 *     }
 *
 * Lines end with CR, LF or CRLF; one byte-order mark at the start, comments and
 * unknown fields are passed over, however long; an event that is not ended by
 * an empty line is never given. It differs from the standard in two things:
 *
 *   - The text is not decoded: what is no UTF-8 stays as it is. Data here is
 *     JSON, whose reader refuses it.
 *   - A block without a `data` field is given, as one without data, where it
 *     holds an `id` or a `retry`: MCP primes resumption so.
 *
 * It allocates nothing and keeps no more than one event.
 */
#ifndef CLEAT_PORT_MCP_SSE_H
#define CLEAT_PORT_MCP_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cleat/status.h"

/* The longest name and id of an event. */
#define MCP_SSE_EVENT_BYTES_MAX 256u
#define MCP_SSE_ID_BYTES_MAX 1024u

enum mcp_sse_what {
    MCP_SSE_MORE,  /* all of the piece is taken */
    MCP_SSE_EVENT, /* an event is whole; it stays until the next take */
    MCP_SSE_LIMIT  /* it is longer than there is room; the stream is lost */
};

enum mcp_sse_state {
    MCP_SSE_MARK,  /* of the first line, nothing or a part of the mark came */
    MCP_SSE_NAME,  /* in a field's name, which may still be empty */
    MCP_SSE_SPACE, /* after the colon, where one space means nothing */
    MCP_SSE_VALUE, /* in a field's value */
    MCP_SSE_LOST   /* after MCP_SSE_LIMIT */
};

enum mcp_sse_field {
    MCP_SSE_OTHER, /* a comment, or a field that means nothing */
    MCP_SSE_FIELD_DATA,
    MCP_SSE_FIELD_EVENT,
    MCP_SSE_FIELD_ID,
    MCP_SSE_FIELD_RETRY
};

#define MCP_SSE_NAME_ROOM 8u /* more than the longest that means something */

struct mcp_sse {
    /* For reading, at MCP_SSE_EVENT. None is NUL-terminated. */
    char *data; /* its lines joined by LF */
    size_t data_bytes;
    uint32_t event_bytes; /* of `event`; 0: it has no name */
    uint32_t id_bytes;    /* of `id`: the last that came, in this event or in an
                             earlier one; 0: none */
    uint64_t retry_ns;    /* the last that came; CLEAT_NONE: none. Also between
                             events */
    char event[MCP_SSE_EVENT_BYTES_MAX];
    char id[MCP_SSE_ID_BYTES_MAX];

    /* Not for reading. */
    size_t data_bytes_max;
    enum mcp_sse_state state;
    enum mcp_sse_field field;
    bool after_cr; /* an LF now belongs to it */
    bool is_given; /* the event has been given: forget it */
    bool has_data; /* a `data` field came in this block */
    bool has_news; /* an `id` or a `retry` did */
    bool is_bad;   /* this line's value, so far, makes the field void */
    uint32_t name_bytes;
    uint32_t coming_bytes; /* of `coming` */
    uint64_t coming_ms;
    const char *limit_name;
    size_t limit_bytes;
    char name[MCP_SSE_NAME_ROOM];
    char coming[MCP_SSE_ID_BYTES_MAX]; /* an id, until its line ends */
};

/* Begins a stream.
 *   data  room for the data of one event, `data_bytes_max` bytes; the caller's,
 *         while the stream is read */
void mcp_sse_init(struct mcp_sse *sse, char *data, size_t data_bytes_max);

/* Takes from a piece of the stream, up to the end of an event.
 *   bytes  `count` bytes
 *   taken  how many of them were taken: all, with MCP_SSE_MORE */
enum mcp_sse_what mcp_sse_take(struct mcp_sse *sse, const char *bytes,
                               size_t count, size_t *taken);

/* What was longer than there is room, after MCP_SSE_LIMIT: "the data of an
 * event". Static storage.
 *   bytes_max  the room */
const char *mcp_sse_limit(const struct mcp_sse *sse, size_t *bytes_max);

#endif
