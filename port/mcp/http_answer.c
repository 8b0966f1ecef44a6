/* Cleat: what comes over HTTP. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "http.h"

#include <string.h>
#include <strings.h>

/* ---- texts -------------------------------------------------------------- */

void mcp_http_make_printable(char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7F) { *text = '?'; }
    }
}

bool mcp_http_is_blank(char letter)
{
    return letter == ' ' || letter == '\t';
}

struct cleat_text mcp_http_trimmed(const char *text, size_t bytes)
{
    struct cleat_text out = {text, bytes};

    while (out.bytes > 0 && (mcp_http_is_blank(out.text[out.bytes - 1]) ||
                             out.text[out.bytes - 1] == '\r' ||
                             out.text[out.bytes - 1] == '\n')) {
        out.bytes--;
    }
    while (out.bytes > 0 && mcp_http_is_blank(out.text[0])) {
        out.text++;
        out.bytes--;
    }
    return out;
}

bool mcp_http_is(struct cleat_text name, const char *wanted)
{
    return name.bytes == strlen(wanted) &&
           strncasecmp(name.text, wanted, name.bytes) == 0;
}

/* ---- the headers of an answer ------------------------------------------- */

/* A word in lower case, cut at what is shown of it. */
static uint32_t copy_word(struct cleat_text value, char *word)
{
    uint32_t bytes = 0;

    while (bytes < value.bytes && bytes < MCP_HTTP_TYPE_BYTES_MAX) {
        char letter = value.text[bytes];

        if (letter >= 'A' && letter <= 'Z') {
            letter = (char)(letter - 'A' + 'a');
        }
        word[bytes] = letter != '\0' ? letter : '?';
        bytes++;
    }
    word[bytes] = '\0';
    return bytes;
}

/* RFC 9110, 8.3: the type ends at its parameters. */
static void take_type(struct mcp_http_answer *answer, struct cleat_text value)
{
    const char *end = memchr(value.text, ';', value.bytes);

    if (end != NULL) {
        value = mcp_http_trimmed(value.text, (size_t)(end - value.text));
    }
    answer->type_bytes = copy_word(value, answer->type);
}

/* MCP 2025-11-25: visible ASCII. It goes back in a header. */
static void take_session(struct mcp_http_exchange *exchange,
                         struct cleat_text value)
{
    struct mcp_http_answer *answer = &exchange->answer;

    if (value.bytes > sizeof answer->session) {
        mcp_http_fail(exchange, CLEAT_LIMIT,
                      "its Mcp-Session-Id is longer than %u bytes",
                      MCP_HTTP_SESSION_BYTES_MAX);
        return;
    }
    for (size_t i = 0; i < value.bytes; i++) {
        if (value.text[i] <= 0x20 || value.text[i] >= 0x7F) {
            mcp_http_fail(exchange, CLEAT_PEER_DEVIANT,
                          "its Mcp-Session-Id is not all visible ASCII");
            return;
        }
        answer->session[i] = value.text[i];
    }
    answer->session_bytes = (uint32_t)value.bytes;
}

/* A date of RFC 9110, 5.6.7; -1: none. */
static time_t date_of(struct cleat_text value)
{
    char text[64];

    if (value.bytes >= sizeof text) { return -1; }
    memcpy(text, value.text, value.bytes);
    text[value.bytes] = '\0';
    return curl_getdate(text, NULL);
}

/* RFC 9110, 10.2.3: seconds, or a date. */
static void take_retry_after(struct mcp_http_answer *answer,
                             struct cleat_text value)
{
    const uint64_t most = (CLEAT_NONE - 1) / CLEAT_NS_PER_S;
    uint64_t seconds = 0;

    for (size_t i = 0; i < value.bytes; i++) {
        if (value.text[i] < '0' || value.text[i] > '9') {
            answer->retry_at = date_of(value);
            return;
        }
        seconds = seconds * 10 + (uint64_t)(value.text[i] - '0');
        if (seconds > most) { seconds = most; }
    }
    if (value.bytes > 0) { answer->retry_after_ns = seconds * CLEAT_NS_PER_S; }
}

/* The location waits in the room, where no body is yet. */
static void take_location(struct mcp_http_exchange *exchange,
                          struct cleat_text value)
{
    struct mcp_http_answer *answer = &exchange->answer;

    answer->has_location = true;
    answer->location_bytes = value.bytes;
    if (value.bytes <= exchange->http->config.message_bytes_max) {
        memcpy(exchange->room, value.text, value.bytes);
    }
}

static void take_header(struct mcp_http_exchange *exchange,
                        struct cleat_text name, struct cleat_text value)
{
    struct mcp_http_answer *answer = &exchange->answer;

    if (mcp_http_is(name, "content-type")) {
        take_type(answer, value);
    } else if (mcp_http_is(name, "content-encoding")) {
        copy_word(value, answer->encoding);
        answer->is_encoded = value.bytes > 0 && !mcp_http_is(value, "identity");
    } else if (mcp_http_is(name, "mcp-session-id")) {
        take_session(exchange, value);
    } else if (mcp_http_is(name, "location")) {
        take_location(exchange, value);
    } else if (mcp_http_is(name, "retry-after")) {
        take_retry_after(answer, value);
    } else if (mcp_http_is(name, "date")) {
        answer->date = date_of(value);
    }
}

void mcp_http_forget_answer(struct mcp_http_answer *answer)
{
    answer->status = 0;
    answer->is_whole = false;
    answer->has_location = false;
    answer->is_encoded = false;
    answer->retry_after_ns = CLEAT_NONE;
    answer->retry_at = -1;
    answer->date = -1;
    answer->location_bytes = 0;
    answer->session_bytes = 0;
    answer->type_bytes = 0;
    answer->type[0] = '\0';
    answer->encoding[0] = '\0';
}

/* A date says how long only beside the server's own clock: its Date. */
static uint64_t retry_after(const struct mcp_http_answer *answer)
{
    if (answer->retry_at == -1 || answer->date == -1) {
        return answer->retry_after_ns;
    }
    if (answer->retry_at <= answer->date) { return 0; }
    uint64_t seconds = (uint64_t)(answer->retry_at - answer->date);
    return seconds < CLEAT_NONE / CLEAT_NS_PER_S ? seconds * CLEAT_NS_PER_S
                                                 : CLEAT_NONE - 1;
}

static bool is_redirect(const struct mcp_http_answer *answer)
{
    return answer->has_location &&
           (answer->status == 301 || answer->status == 302 ||
            answer->status == 303 || answer->status == 307 ||
            answer->status == 308);
}

/* Only 307 and 308 keep the method and the body (RFC 9110, 15.4). */
static void take_redirect(struct mcp_http_exchange *exchange)
{
    const struct mcp_http_answer *answer = &exchange->answer;

    exchange->body = MCP_HTTP_BODY_REDIRECT;
    if (answer->location_bytes > exchange->http->config.message_bytes_max) {
        mcp_http_fail(exchange, CLEAT_LIMIT,
                      "a redirect is longer than %zu bytes",
                      exchange->http->config.message_bytes_max);
    } else if (exchange->method != MCP_GET && answer->status < 307) {
        mcp_http_fail(
            exchange, CLEAT_PERMANENT,
            "a redirect by %u does not keep the request, which only 307 and "
            "308 do",
            answer->status);
    } else if (exchange->redirects == MCP_HTTP_REDIRECTS_MAX) {
        mcp_http_fail(exchange, CLEAT_LIMIT, "it redirects more than %u times",
                      MCP_HTTP_REDIRECTS_MAX);
    } else {
        mcp_http_go_to(exchange, "a redirect", exchange->room,
                       answer->location_bytes);
    }
}

static enum mcp_http_body body_kind_of(const struct mcp_http_answer *answer,
                                       bool is_json, bool is_stream)
{
    bool is_good = answer->status >= 200 && answer->status < 300;

    /* 202 accepts a notification, 204 and 205 have no content, and what comes
     * with them all the same says nothing. */
    if (answer->status == 202 || answer->status == 204 ||
        answer->status == 205) {
        return MCP_HTTP_BODY_UNREAD;
    }
    if (answer->is_encoded) {
        return is_good ? MCP_HTTP_BODY_FOREIGN : MCP_HTTP_BODY_UNREAD;
    }
    if (is_json) { return MCP_HTTP_BODY_JSON; }
    if (!is_good) { return MCP_HTTP_BODY_UNREAD; }
    return is_stream ? MCP_HTTP_BODY_STREAM : MCP_HTTP_BODY_FOREIGN;
}

static void take_answer(struct mcp_http_exchange *exchange)
{
    struct mcp_http_answer *answer = &exchange->answer;
    struct mcp_told_it told = mcp_http_told(exchange, MCP_RESPONSE);

    told.http_status = answer->status;
    told.is_json = strcmp(answer->type, "application/json") == 0;
    told.is_stream = strcmp(answer->type, "text/event-stream") == 0;
    told.session.text = answer->session;
    told.session.bytes = answer->session_bytes;
    told.retry_after_ns = retry_after(answer);
    exchange->body = body_kind_of(answer, told.is_json, told.is_stream);
    if (exchange->method == MCP_DELETE) {
        exchange->body = MCP_HTTP_BODY_UNREAD;
    }
    if (exchange->body == MCP_HTTP_BODY_STREAM) {
        mcp_sse_init(&exchange->sse, exchange->room,
                     exchange->http->config.message_bytes_max);
    }
    if (!mcp_http_tell(exchange, &told)) { return; }
    if (exchange->body == MCP_HTTP_BODY_FOREIGN && answer->is_encoded) {
        mcp_http_fail(
            exchange, CLEAT_PEER_DEVIANT,
            "it answered with content-encoding %s, which was not asked for",
            answer->encoding);
    }
}

/* An empty line: the headers of one answer are whole. */
static void end_headers(struct mcp_http_exchange *exchange)
{
    struct mcp_http_answer *answer = &exchange->answer;
    long status = 0;

    curl_easy_getinfo(exchange->easy, CURLINFO_RESPONSE_CODE, &status);
    answer->status = (uint32_t)status;
    if (answer->status < 200) { /* the real one is still to come */
        mcp_http_forget_answer(answer);
        return;
    }
    answer->is_whole = true;
    if (is_redirect(answer)) {
        take_redirect(exchange);
    } else if (exchange->status == CLEAT_OK) {
        take_answer(exchange);
    }
}

/* A status line has no colon that counts; the end of a folded line (RFC 9112,
 * 5.2), which begins with a blank, is of no header that we read. */
static void take_line(struct mcp_http_exchange *exchange, const char *line,
                      struct cleat_text text)
{
    const char *colon = memchr(text.text, ':', text.bytes);

    if (colon != NULL && colon != text.text && !mcp_http_is_blank(line[0])) {
        struct cleat_text name = {text.text, (size_t)(colon - text.text)};

        take_header(exchange, name,
                    mcp_http_trimmed(colon + 1, text.bytes - name.bytes - 1));
    }
}

size_t mcp_http_on_header(char *line, size_t size, size_t count, void *context)
{
    struct mcp_http_exchange *exchange = context;
    struct mcp_http_answer *answer = &exchange->answer;
    size_t bytes = size * count;
    struct cleat_text text = mcp_http_trimmed(line, bytes);

    if (exchange->is_cancelled) { return CURL_WRITEFUNC_ERROR; }
    answer->header_bytes += bytes;
    if (answer->header_bytes > MCP_HTTP_HEADERS_BYTES_MAX) {
        mcp_http_fail(exchange, CLEAT_LIMIT,
                      "its headers are longer than %u bytes",
                      MCP_HTTP_HEADERS_BYTES_MAX);
    } else if (answer->is_whole) {
        /* a trailer, which says nothing to us */
    } else if (line[0] == '\r' || line[0] == '\n') {
        end_headers(exchange);
    } else {
        take_line(exchange, line, text);
    }
    return exchange->status == CLEAT_OK && !exchange->is_cancelled
               ? bytes
               : CURL_WRITEFUNC_ERROR;
}

/* ---- the body of an answer ---------------------------------------------- */

static bool tell_event(struct mcp_http_exchange *exchange)
{
    const struct mcp_sse *sse = &exchange->sse;
    bool has_name = sse->event_bytes > 0;
    struct cleat_text name = {has_name ? sse->event : "message",
                              has_name ? sse->event_bytes : strlen("message")};
    bool is_message = sse->data_bytes > 0 && name.bytes == strlen("message") &&
                      memcmp(name.text, "message", name.bytes) == 0;
    struct mcp_told_it told = mcp_http_told(exchange, is_message ? MCP_MESSAGE
                                                                 : MCP_EVENT);

    told.text.text = sse->data;
    told.text.bytes = sse->data_bytes;
    told.event = name;
    told.id.text = sse->id;
    told.id.bytes = sse->id_bytes;
    told.retry_ns = sse->retry_ns;
    return mcp_http_tell(exchange, &told);
}

static bool take_stream(struct mcp_http_exchange *exchange, const char *bytes,
                        size_t count)
{
    while (count > 0) {
        size_t taken = 0;
        size_t bytes_max = 0;

        switch (mcp_sse_take(&exchange->sse, bytes, count, &taken)) {
        case MCP_SSE_MORE: break;
        case MCP_SSE_EVENT:
            if (!tell_event(exchange)) { return false; }
            break;
        case MCP_SSE_LIMIT: {
            const char *what = mcp_sse_limit(&exchange->sse, &bytes_max);

            mcp_http_fail(exchange, CLEAT_LIMIT, "%s is longer than %zu bytes",
                          what, bytes_max);
            return false;
        }
        }
        bytes += taken;
        count -= taken;
    }
    return true;
}

static bool take_json(struct mcp_http_exchange *exchange, const char *bytes,
                      size_t count)
{
    size_t bytes_max = exchange->http->config.message_bytes_max;

    if (count > bytes_max - exchange->room_bytes) {
        if (exchange->answer.status >= 400) {
            /* An error all the same; only what it says is lost. */
            exchange->room_bytes = 0;
            exchange->is_enough = true;
        } else {
            mcp_http_fail(exchange, CLEAT_LIMIT,
                          "its answer is longer than %zu bytes", bytes_max);
        }
        return false;
    }
    memcpy(exchange->room + exchange->room_bytes, bytes, count);
    exchange->room_bytes += count;
    return true;
}

static bool take_unread(struct mcp_http_exchange *exchange, size_t count)
{
    exchange->unread_bytes += count;
    if (exchange->unread_bytes <= MCP_HTTP_UNREAD_BYTES_MAX) { return true; }
    exchange->is_enough = true;
    return false;
}

size_t mcp_http_on_body(char *bytes, size_t size, size_t count, void *context)
{
    struct mcp_http_exchange *exchange = context;
    bool goes_on = !exchange->is_cancelled;

    count *= size;
    if (!goes_on || count == 0) { return goes_on ? 0 : CURL_WRITEFUNC_ERROR; }
    switch (exchange->body) {
    case MCP_HTTP_BODY_JSON: goes_on = take_json(exchange, bytes, count); break;
    case MCP_HTTP_BODY_STREAM:
        goes_on = take_stream(exchange, bytes, count);
        break;
    case MCP_HTTP_BODY_UNKNOWN:
    case MCP_HTTP_BODY_UNREAD:
    case MCP_HTTP_BODY_REDIRECT: goes_on = take_unread(exchange, count); break;
    case MCP_HTTP_BODY_FOREIGN:
        mcp_http_fail(
            exchange, CLEAT_PEER_DEVIANT,
            "it answered with content-type %s, not application/json or "
            "text/event-stream",
            exchange->answer.type_bytes > 0 ? exchange->answer.type : "none");
        goes_on = false;
        break;
    }
    return goes_on ? count : CURL_WRITEFUNC_ERROR;
}

int mcp_http_on_sending(void *context, char *to, char *from, int to_port,
                        int from_port)
{
    struct mcp_http_exchange *exchange = context;

    (void)to;
    (void)from;
    (void)to_port;
    (void)from_port;
    /* Cancelled from within what is told of another one. */
    if (exchange->is_cancelled) { return CURL_PREREQFUNC_ABORT; }
    exchange->times_sent++;
    if (exchange->times_sent > 1 && exchange->method != MCP_GET) {
        mcp_http_fail(
            exchange, CLEAT_AMBIGUOUS,
            "the connection ended before an answer; the request may have "
            "arrived, so it is not sent again");
        return CURL_PREREQFUNC_ABORT;
    }
    return CURL_PREREQFUNC_OK;
}
