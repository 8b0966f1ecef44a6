/* Cleat: event streams, slowly. SPDX-License-Identifier: Apache-2.0
 *
 * The algorithm of WHATWG HTML, "Interpreting an event stream", over a whole
 * stream at once, step by step as it stands there; with the limits and the two
 * differences that port/mcp/sse.h names. What it gives is one text: a line an
 * event, NULs and line ends in hexadecimal. */
#ifndef CLEAT_TEST_SSE_MODEL_H
#define CLEAT_TEST_SSE_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "port/mcp/sse.h"

/* A text that grows. */
struct sse_text {
    char *bytes;
    size_t count;
};

static inline void sse_add(struct sse_text *text, const char *bytes,
                           size_t count)
{
    char *longer = realloc(text->bytes, text->count + count + 1);

    if (longer == NULL) { abort(); }
    if (count > 0) { memcpy(longer + text->count, bytes, count); }
    text->bytes = longer;
    text->count += count;
    longer[text->count] = '\0';
}

static inline void sse_set(struct sse_text *text, const char *bytes,
                           size_t count)
{
    text->count = 0;
    sse_add(text, bytes, count);
}

static inline void sse_show(struct sse_text *log, const char *name,
                            const char *bytes, size_t count)
{
    sse_add(log, name, strlen(name));
    for (size_t i = 0; i < count; i++) {
        char hex[8];

        snprintf(hex, sizeof hex, "%02x", (unsigned char)bytes[i]);
        if (bytes[i] > ' ' && bytes[i] < 0x7F) {
            sse_add(log, &bytes[i], 1);
        } else {
            sse_add(log, "%", 1);
            sse_add(log, hex, 2);
        }
    }
}

static inline void sse_show_number(struct sse_text *log, const char *name,
                                   uint64_t number)
{
    char digits[32];

    snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    sse_show(log, name, digits, strlen(digits));
}

static inline void sse_show_event(struct sse_text *log, const char *event,
                                  size_t event_bytes, const char *data,
                                  size_t data_bytes, const char *id,
                                  size_t id_bytes, uint64_t retry_ns)
{
    sse_show(log, "event=", event, event_bytes);
    sse_show(log, " data=", data, data_bytes);
    sse_show(log, " id=", id, id_bytes);
    sse_show_number(log, " retry=", retry_ns);
    sse_add(log, "\n", 1);
}

/* ---- the model ---------------------------------------------------------- */

struct sse_model {
    struct sse_text *log;
    size_t data_bytes_max;
    struct sse_text data; /* each line with an LF behind it */
    struct sse_text event;
    struct sse_text id;
    uint64_t retry_ns;
    bool has_news;
    bool is_lost;
};

static inline void sse_model_lose(struct sse_model *model, const char *what)
{
    sse_show(model->log, "limit=", what, strlen(what));
    sse_add(model->log, "\n", 1);
    model->is_lost = true;
}

static inline void sse_model_retry(struct sse_model *model, const char *value,
                                   size_t count)
{
    const uint64_t most = (CLEAT_NONE - 1) / CLEAT_NS_PER_MS;
    uint64_t ms = 0;

    if (count == 0 || strspn(value, "0123456789") < count) { return; }
    for (size_t i = 0; i < count && ms < most; i++) {
        ms = ms * 10 + (uint64_t)(value[i] - '0');
    }
    model->retry_ns = (ms < most ? ms : most) * CLEAT_NS_PER_MS;
    model->has_news = true;
}

/* "Process the field". `value` ends with a NUL behind `count` bytes. Of a line
 * that is not whole only the limits are looked at. */
static inline void sse_model_field(struct sse_model *model, const char *name,
                                   const char *value, size_t count,
                                   bool is_whole)
{
    bool has_nul = memchr(value, '\0', count) != NULL;

    if (strcmp(name, "event") == 0) {
        if (count > MCP_SSE_EVENT_BYTES_MAX) {
            sse_model_lose(model, "the name of an event");
        } else if (is_whole) {
            sse_set(&model->event, value, count);
        }
    } else if (strcmp(name, "data") == 0) {
        if (model->data.count + count > model->data_bytes_max) {
            sse_model_lose(model, "the data of an event");
        } else if (is_whole) {
            sse_add(&model->data, value, count);
            sse_add(&model->data, "\n", 1);
        }
    } else if (strcmp(name, "id") == 0) {
        const char *nul = memchr(value, '\0', count);
        size_t before = nul != NULL ? (size_t)(nul - value) : count;

        if (before > MCP_SSE_ID_BYTES_MAX) {
            /* whether a piece has the NUL in it already or not */
            sse_model_lose(model, "the id of an event");
        } else if (is_whole && !has_nul) {
            sse_set(&model->id, value, count);
            model->has_news = true;
        }
    } else if (strcmp(name, "retry") == 0 && is_whole) {
        sse_model_retry(model, value, count);
    }
}

static inline void sse_model_dispatch(struct sse_model *model)
{
    if (model->data.count > 0 || model->has_news) {
        size_t data_bytes = model->data.count > 0 ? model->data.count - 1 : 0;

        sse_show_event(model->log, model->event.bytes, model->event.count,
                       model->data.bytes, data_bytes, model->id.bytes,
                       model->id.count, model->retry_ns);
    }
    model->data.count = 0;
    model->event.count = 0;
    model->has_news = false;
}

static inline void sse_model_line(struct sse_model *model, const char *line,
                                  size_t count, bool is_whole)
{
    struct sse_text name = {NULL, 0};
    struct sse_text value = {NULL, 0};
    const char *colon = count > 0 ? memchr(line, ':', count) : NULL;

    if (count == 0) {
        if (is_whole) { sse_model_dispatch(model); }
        return;
    }
    if (colon == line) { return; }
    if (colon == NULL && !is_whole) { return; }
    sse_add(&name, line, colon != NULL ? (size_t)(colon - line) : count);
    sse_add(&value, "", 0);
    if (colon != NULL) {
        const char *rest = colon + 1;

        if (rest < line + count && *rest == ' ') { rest++; }
        sse_add(&value, rest, (size_t)(line + count - rest));
    }
    if (strlen(name.bytes) == name.count) {
        sse_model_field(model, name.bytes, value.bytes, value.count, is_whole);
    }
    free(name.bytes);
    free(value.bytes);
}

/* What a whole stream gives, into `log`. */
static inline void sse_model_run(const char *bytes, size_t count,
                                 size_t data_bytes_max, struct sse_text *log)
{
    struct sse_model model = {
        .log = log, .data_bytes_max = data_bytes_max, .retry_ns = CLEAT_NONE};
    size_t at = 0;

    sse_set(&model.event, "", 0);
    sse_set(&model.id, "", 0);
    sse_set(&model.data, "", 0);
    if (count >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0) { at = 3; }
    while (at < count && !model.is_lost) {
        size_t end = at;

        while (end < count && bytes[end] != '\r' && bytes[end] != '\n') {
            end++;
        }
        sse_model_line(&model, bytes + at, end - at, end < count);
        at = end + 1;
        if (end + 1 < count && bytes[end] == '\r' && bytes[end + 1] == '\n') {
            at++;
        }
    }
    if (!model.is_lost) {
        sse_show_number(log, "end retry=", model.retry_ns);
        sse_add(log, "\n", 1);
    }
    free(model.event.bytes);
    free(model.id.bytes);
    free(model.data.bytes);
}

/* ---- the parser, in pieces ---------------------------------------------- */

/* Gives the parser the stream in pieces; `next_piece` says how long each is,
 * at most what is left. Each piece lies alone in memory, so that a sanitizer
 * sees a read beyond it. */
static inline void sse_parse(const char *bytes, size_t count,
                             size_t data_bytes_max,
                             size_t (*next_piece)(void *context, size_t left),
                             void *context, struct sse_text *log)
{
    struct mcp_sse *sse = malloc(sizeof *sse);
    char *data = malloc(data_bytes_max > 0 ? data_bytes_max : 1);
    enum mcp_sse_what what = MCP_SSE_MORE;

    if (sse == NULL || data == NULL) { abort(); }
    memset(sse, 0xA5, sizeof *sse);
    mcp_sse_init(sse, data, data_bytes_max);
    while (count > 0 && what != MCP_SSE_LIMIT) {
        size_t piece = next_piece(context, count);
        char *copy = malloc(piece > 0 ? piece : 1);
        size_t at = 0;

        if (copy == NULL || piece > count) { abort(); }
        memcpy(copy, bytes, piece);
        do {
            size_t taken = piece + 1;

            what = mcp_sse_take(sse, copy + at, piece - at, &taken);
            if (taken > piece - at) { abort(); }
            if (what == MCP_SSE_MORE && taken != piece - at) { abort(); }
            at += taken;
            if (what == MCP_SSE_EVENT) {
                sse_show_event(log, sse->event, sse->event_bytes, sse->data,
                               sse->data_bytes, sse->id, sse->id_bytes,
                               sse->retry_ns);
            }
        } while (what == MCP_SSE_EVENT);
        free(copy);
        bytes += piece;
        count -= piece;
    }
    if (what == MCP_SSE_LIMIT) {
        size_t bytes_max = 0;
        size_t taken = 1;
        const char *name = mcp_sse_limit(sse, &bytes_max);

        sse_show(log, "limit=", name, strlen(name));
        sse_add(log, "\n", 1);
        if (mcp_sse_take(sse, "x", 1, &taken) != MCP_SSE_LIMIT || taken != 0) {
            abort();
        }
    } else {
        sse_show_number(log, "end retry=", sse->retry_ns);
        sse_add(log, "\n", 1);
    }
    free(data);
    free(sse);
}

#endif
