/* Cleat: server-sent events, as they come. SPDX-License-Identifier: Apache-2.0
 */
#include "sse.h"

#include <string.h>

static const char byte_order_mark[] = {'\xEF', '\xBB', '\xBF'};

void mcp_sse_init(struct mcp_sse *sse, char *data, size_t data_bytes_max)
{
    sse->data = data;
    sse->data_bytes = 0;
    sse->event_bytes = 0;
    sse->id_bytes = 0;
    sse->retry_ns = CLEAT_NONE;
    sse->data_bytes_max = data_bytes_max;
    sse->state = MCP_SSE_MARK;
    sse->field = MCP_SSE_OTHER;
    sse->after_cr = false;
    sse->is_given = false;
    sse->has_data = false;
    sse->has_news = false;
    sse->is_bad = false;
    sse->name_bytes = 0;
    sse->coming_bytes = 0;
    sse->coming_ms = 0;
    sse->limit_name = "";
    sse->limit_bytes = 0;
}

const char *mcp_sse_limit(const struct mcp_sse *sse, size_t *bytes_max)
{
    *bytes_max = sse->limit_bytes;
    return sse->limit_name;
}

static enum mcp_sse_what lose(struct mcp_sse *sse, const char *name,
                              size_t bytes_max)
{
    sse->state = MCP_SSE_LOST;
    sse->limit_name = name;
    sse->limit_bytes = bytes_max;
    return MCP_SSE_LIMIT;
}

/* What belongs to one block only. */
static void forget_event(struct mcp_sse *sse)
{
    sse->is_given = false;
    sse->has_data = false;
    sse->has_news = false;
    sse->data_bytes = 0;
    sse->event_bytes = 0;
}

/* ---- values ------------------------------------------------------------- */

static enum mcp_sse_what add_data(struct mcp_sse *sse, const char *bytes,
                                  size_t count)
{
    if (count > sse->data_bytes_max - sse->data_bytes) {
        return lose(sse, "the data of an event", sse->data_bytes_max);
    }
    memcpy(sse->data + sse->data_bytes, bytes, count);
    sse->data_bytes += count;
    return MCP_SSE_MORE;
}

static enum mcp_sse_what add_event(struct mcp_sse *sse, const char *bytes,
                                   size_t count)
{
    if (count > sizeof sse->event - sse->event_bytes) {
        return lose(sse, "the name of an event", sizeof sse->event);
    }
    memcpy(sse->event + sse->event_bytes, bytes, count);
    sse->event_bytes += (uint32_t)count;
    return MCP_SSE_MORE;
}

/* An id that holds a NUL is as good as not there; what comes before the NUL
 * must fit all the same, or it would depend on how the stream is cut. */
static enum mcp_sse_what add_id(struct mcp_sse *sse, const char *bytes,
                                size_t count)
{
    const char *nul = memchr(bytes, '\0', count);
    size_t before = nul != NULL ? (size_t)(nul - bytes) : count;

    if (sse->is_bad) { return MCP_SSE_MORE; }
    if (before > sizeof sse->coming - sse->coming_bytes) {
        return lose(sse, "the id of an event", sizeof sse->coming);
    }
    memcpy(sse->coming + sse->coming_bytes, bytes, before);
    sse->coming_bytes += (uint32_t)before;
    sse->is_bad = nul != NULL;
    return MCP_SSE_MORE;
}

/* Milliseconds, in digits only; more than there is saturates. */
static enum mcp_sse_what add_retry(struct mcp_sse *sse, const char *bytes,
                                   size_t count)
{
    const uint64_t most = (CLEAT_NONE - 1) / CLEAT_NS_PER_MS;

    for (size_t i = 0; i < count; i++) {
        if (bytes[i] < '0' || bytes[i] > '9') {
            sse->is_bad = true;
            return MCP_SSE_MORE;
        }
        sse->coming_ms = sse->coming_ms * 10 + (uint64_t)(bytes[i] - '0');
        if (sse->coming_ms > most) { sse->coming_ms = most; }
        sse->coming_bytes = 1; /* there is a digit */
    }
    return MCP_SSE_MORE;
}

static enum mcp_sse_what add_value(struct mcp_sse *sse, const char *bytes,
                                   size_t count)
{
    switch (sse->field) {
    case MCP_SSE_FIELD_DATA: return add_data(sse, bytes, count);
    case MCP_SSE_FIELD_EVENT: return add_event(sse, bytes, count);
    case MCP_SSE_FIELD_ID: return add_id(sse, bytes, count);
    case MCP_SSE_FIELD_RETRY: return add_retry(sse, bytes, count);
    case MCP_SSE_OTHER: break;
    }
    return MCP_SSE_MORE;
}

/* ---- fields and lines --------------------------------------------------- */

static bool name_is(const struct mcp_sse *sse, const char *name)
{
    return sse->name_bytes == strlen(name) &&
           memcmp(sse->name, name, sse->name_bytes) == 0;
}

static void add_name(struct mcp_sse *sse, char byte)
{
    if (sse->name_bytes < sizeof sse->name) {
        sse->name[sse->name_bytes] = byte;
        sse->name_bytes++;
    }
}

static enum mcp_sse_field field_named(const struct mcp_sse *sse)
{
    if (name_is(sse, "data")) { return MCP_SSE_FIELD_DATA; }
    if (name_is(sse, "event")) { return MCP_SSE_FIELD_EVENT; }
    if (name_is(sse, "id")) { return MCP_SSE_FIELD_ID; }
    if (name_is(sse, "retry")) { return MCP_SSE_FIELD_RETRY; }
    return MCP_SSE_OTHER;
}

/* The field's name is whole: at the colon, or at the end of a line without
 * one. */
static enum mcp_sse_what begin_value(struct mcp_sse *sse)
{
    sse->state = MCP_SSE_SPACE;
    sse->field = field_named(sse);
    sse->coming_bytes = 0;
    sse->coming_ms = 0;
    sse->is_bad = false;
    if (sse->field == MCP_SSE_FIELD_EVENT) { sse->event_bytes = 0; }
    if (sse->field == MCP_SSE_FIELD_DATA) {
        bool is_next_line = sse->has_data;

        sse->has_data = true;
        if (is_next_line) { return add_data(sse, "\n", 1); }
    }
    return MCP_SSE_MORE;
}

/* The line of a field has ended. */
static void end_value(struct mcp_sse *sse)
{
    if (sse->field == MCP_SSE_FIELD_ID && !sse->is_bad) {
        memcpy(sse->id, sse->coming, sse->coming_bytes);
        sse->id_bytes = sse->coming_bytes;
        sse->has_news = true;
    }
    if (sse->field == MCP_SSE_FIELD_RETRY && !sse->is_bad &&
        sse->coming_bytes > 0) {
        sse->retry_ns = sse->coming_ms * CLEAT_NS_PER_MS;
        sse->has_news = true;
    }
}

/* An empty line: what has come since the last one is an event, if it says
 * anything. */
static enum mcp_sse_what end_block(struct mcp_sse *sse)
{
    if (!sse->has_data && !sse->has_news) {
        forget_event(sse);
        return MCP_SSE_MORE;
    }
    sse->is_given = true;
    return MCP_SSE_EVENT;
}

static enum mcp_sse_what end_line(struct mcp_sse *sse)
{
    enum mcp_sse_what what = MCP_SSE_MORE;
    bool is_name = sse->state <= MCP_SSE_NAME;

    if (is_name && sse->name_bytes == 0) {
        what = end_block(sse);
    } else {
        if (is_name) { what = begin_value(sse); }
        if (what == MCP_SSE_MORE) { end_value(sse); }
    }
    if (what != MCP_SSE_LIMIT) {
        sse->state = MCP_SSE_NAME;
        sse->name_bytes = 0;
    }
    return what;
}

/* ---- bytes -------------------------------------------------------------- */

/* One byte that is neither CR nor LF, before the value. */
static enum mcp_sse_what take_byte(struct mcp_sse *sse, char byte)
{
    if (sse->state == MCP_SSE_MARK) {
        if (byte == byte_order_mark[sse->name_bytes]) {
            add_name(sse, byte);
            if (sse->name_bytes == sizeof byte_order_mark) {
                sse->name_bytes = 0;
                sse->state = MCP_SSE_NAME;
            }
            return MCP_SSE_MORE;
        }
        sse->state = MCP_SSE_NAME; /* a part of the mark is part of a name */
    }
    if (byte == ':') { return begin_value(sse); }
    add_name(sse, byte);
    return MCP_SSE_MORE;
}

static size_t bytes_in_line(const char *bytes, size_t count)
{
    size_t i = 0;

    while (i < count && bytes[i] != '\r' && bytes[i] != '\n') { i++; }
    return i;
}

/* A step: at least one byte. */
static enum mcp_sse_what take_some(struct mcp_sse *sse, const char *bytes,
                                   size_t count, size_t *taken)
{
    bool after_cr = sse->after_cr;

    *taken = 1;
    sse->after_cr = bytes[0] == '\r';
    if (bytes[0] == '\n' && after_cr) { return MCP_SSE_MORE; }
    if (bytes[0] == '\n' || bytes[0] == '\r') { return end_line(sse); }
    if (sse->state < MCP_SSE_SPACE) { return take_byte(sse, bytes[0]); }
    if (sse->state == MCP_SSE_SPACE) {
        sse->state = MCP_SSE_VALUE;
        if (bytes[0] == ' ') { return MCP_SSE_MORE; }
    }
    *taken = bytes_in_line(bytes, count);
    return add_value(sse, bytes, *taken);
}

enum mcp_sse_what mcp_sse_take(struct mcp_sse *sse, const char *bytes,
                               size_t count, size_t *taken)
{
    enum mcp_sse_what what = MCP_SSE_MORE;
    size_t at = 0;

    *taken = 0;
    if (sse->state == MCP_SSE_LOST) { return MCP_SSE_LIMIT; }
    if (sse->is_given) { forget_event(sse); }
    while (at < count && what == MCP_SSE_MORE) {
        size_t some = 0;

        what = take_some(sse, bytes + at, count - at, &some);
        at += some;
    }
    *taken = at;
    return what;
}
