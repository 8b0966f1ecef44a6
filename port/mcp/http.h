/* Cleat: what the parts of the HTTP transport share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_PORT_MCP_HTTP_H
#define CLEAT_PORT_MCP_HTTP_H

#include <curl/curl.h>

#include "sse.h"
#include "wire.h"

#if LIBCURL_VERSION_NUM < 0x075700
#error "libcurl 7.87 or newer is needed: CURLOPT_QUICK_EXIT"
#endif

#define MCP_HTTP_REDIRECTS_MAX 5u
#define MCP_HTTP_HEADERS_BYTES_MAX 65536u /* of one answer, all of them */
#define MCP_HTTP_HEADER_BYTES_MAX 16384u  /* of one that is sent, with name */
#define MCP_HTTP_URL_BYTES_MAX 8192u
#define MCP_HTTP_ORIGIN_BYTES_MAX 320u
#define MCP_HTTP_SESSION_BYTES_MAX 512u
#define MCP_HTTP_TYPE_BYTES_MAX 64u

/* A body that nobody reads is taken up to here, so that its connection can be
 * used again; beyond, the connection is closed. */
#define MCP_HTTP_UNREAD_BYTES_MAX 65536u

enum mcp_http_state {
    MCP_HTTP_FREE,
    MCP_HTTP_STARTING, /* set up; libcurl gets it when it can take it */
    MCP_HTTP_FAILING,  /* it could not begin, which is still to be told */
    MCP_HTTP_RUNNING,  /* libcurl has it */
    MCP_HTTP_ENDING    /* libcurl is done with it, and its end is being told */
};

/* What the body of an answer is, once its headers are there. */
enum mcp_http_body {
    MCP_HTTP_BODY_UNKNOWN,
    MCP_HTTP_BODY_JSON,
    MCP_HTTP_BODY_STREAM,
    MCP_HTTP_BODY_UNREAD,   /* means nothing to us */
    MCP_HTTP_BODY_REDIRECT, /* of a redirect that will be followed */
    MCP_HTTP_BODY_FOREIGN   /* of a type that has no place here */
};

/* The headers of one answer. */
struct mcp_http_answer {
    uint32_t status;
    bool is_whole;
    bool has_location;
    bool is_encoded;
    size_t header_bytes; /* all that came, over redirects and 1xx */
    uint64_t retry_after_ns;
    time_t retry_at;       /* -1: not said as a date */
    time_t date;           /* -1: not said */
    size_t location_bytes; /* lies in the exchange's room */
    uint32_t session_bytes;
    uint32_t type_bytes;
    char session[MCP_HTTP_SESSION_BYTES_MAX];
    char type[MCP_HTTP_TYPE_BYTES_MAX + 1]; /* lower case, without parameters */
    char encoding[MCP_HTTP_TYPE_BYTES_MAX + 1];
};

/* A slot: one request and its answer, over redirects. */
struct mcp_http_exchange {
    struct mcp_http *http;
    enum mcp_http_state state;
    bool is_cancelled;
    uint32_t session;
    uint64_t number;
    enum mcp_method method;
    CURL *easy;
    CURLU *url;
    struct curl_slist *headers;
    uint32_t redirects;  /* followed */
    uint32_t times_sent; /* by libcurl, to the present URL */
    enum mcp_http_body body;
    bool is_enough;    /* we stopped the transfer; it has ended well */
    size_t room_bytes; /* of the room, used */
    size_t unread_bytes;
    enum cleat_status status; /* why it failed, if we know better than curl */
    char *room; /* message_bytes_max: a body, an event, or a location */
    struct mcp_http_answer answer;
    struct mcp_sse sse;
    char words[CLEAT_ERROR_TEXT_MAX];
    char curl_words[CURL_ERROR_SIZE];
};

struct mcp_http_session {
    const struct mcp_server *server;
    CURLU *url;         /* the config's */
    const char *broken; /* why its requests cannot be sent; NULL: they can */
    char origin[MCP_HTTP_ORIGIN_BYTES_MAX];
};

/* An exchange for which there was no slot, which is still to be told. */
struct mcp_http_refused {
    uint64_t number;
    uint32_t session;
};

/* The transport: what wire.h hands out. */
struct mcp_http {
    struct mcp_http_config config;
    CURLM *multi;
    uint64_t now_ns;
    uint64_t deadline_ns;
    bool is_inside; /* libcurl's call is on the stack */
    bool is_due;    /* something waits for the next tick */
    uint32_t refused_count;
    struct mcp_http_session *sessions;
    struct mcp_http_exchange *exchanges;
    struct mcp_http_refused *refused;
    char line[MCP_HTTP_HEADER_BYTES_MAX];    /* one header, as it is sent */
    char scratch[MCP_HTTP_HEADER_BYTES_MAX]; /* texts of a definition */
};

/* ---- http.c: slots, libcurl's loop, telling ----------------------------- */

/* Notes why an exchange fails, in words that begin with its server's origin;
 * the first reason stays. It is told when libcurl has let go of it. */
void mcp_http_fail(struct mcp_http_exchange *exchange, enum cleat_status status,
                   const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Something to tell, with nothing in it yet. */
struct mcp_told_it mcp_http_told(const struct mcp_http_exchange *exchange,
                                 enum mcp_told what);

/* Tells. Returns false where the exchange was cancelled meanwhile: then there
 * is nothing more to tell. */
bool mcp_http_tell(struct mcp_http_exchange *exchange,
                   const struct mcp_told_it *told);

/* ---- http_request.c: what is sent, and where to ------------------------- */

/* "https://host:443", in lower case, into MCP_HTTP_ORIGIN_BYTES_MAX bytes.
 * Returns false for a URL that is none of HTTP, or too long. */
bool mcp_http_origin(CURLU *url, char *origin);

/* Points the exchange's URL where `target` says, relative to where it points
 * now; `what` is what the server gave it in. Returns false, and has noted the
 * failure, where that is no URL, or not of the same origin. */
bool mcp_http_go_to(struct mcp_http_exchange *exchange, const char *what,
                    const char *target, size_t target_bytes);

/* Gives libcurl the exchange's URL. */
bool mcp_http_set_url(struct mcp_http_exchange *exchange);

/* Gives libcurl all that an action asks for. Returns false, and has noted the
 * failure, where it cannot be sent. */
bool mcp_http_set_up(struct mcp_http_exchange *exchange,
                     const struct mcp_action *action);

/* ---- http_answer.c: what comes ------------------------------------------ */

/* Before a request, and before each answer to it. */
void mcp_http_forget_answer(struct mcp_http_answer *answer);

/* libcurl's: one line of the headers, its end included; also of those of 1xx,
 * and trailers. */
size_t mcp_http_on_header(char *line, size_t size, size_t count, void *context);

/* libcurl's: a piece of the body. */
size_t mcp_http_on_body(char *bytes, size_t size, size_t count, void *context);

/* libcurl's: just before it sends a request, the first time and again. */
int mcp_http_on_sending(void *context, char *to, char *from, int to_port,
                        int from_port);

/* One line without control characters. */
void mcp_http_make_printable(char *text);

/* A space or a tab. */
bool mcp_http_is_blank(char letter);

/* Without blanks and line ends around it. */
struct cleat_text mcp_http_trimmed(const char *text, size_t bytes);

/* In any case of letters. `wanted` is NUL-terminated. */
bool mcp_http_is(struct cleat_text name, const char *wanted);

#endif
