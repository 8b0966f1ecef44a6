/* Cleat: what is sent over HTTP, and where to. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "http.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

/* ---- origins ------------------------------------------------------------ */

static bool add_part(CURLU *url, CURLUPart part, unsigned flags,
                     const char *before, char *text, size_t bytes_max)
{
    char *value = NULL;
    size_t used = strlen(text);
    bool fits = true;

    if (curl_url_get(url, part, &value, flags) != CURLUE_OK) {
        return part == CURLUPART_ZONEID;
    }
    int added = snprintf(text + used, bytes_max - used, "%s%s", before, value);
    fits = added >= 0 && (size_t)added < bytes_max - used;
    curl_free(value);
    return fits;
}

bool mcp_http_origin(CURLU *url, char *origin)
{
    size_t bytes_max = MCP_HTTP_ORIGIN_BYTES_MAX;

    origin[0] = '\0';
    if (!add_part(url, CURLUPART_SCHEME, 0, "", origin, bytes_max) ||
        !add_part(url, CURLUPART_HOST, 0, "://", origin, bytes_max) ||
        !add_part(url, CURLUPART_ZONEID, 0, "%", origin, bytes_max) ||
        !add_part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT, ":", origin,
                  bytes_max)) {
        return false;
    }
    for (char *at = origin; *at != '\0'; at++) {
        if (*at >= 'A' && *at <= 'Z') { *at = (char)(*at - 'A' + 'a'); }
    }
    mcp_http_make_printable(origin);
    return strncmp(origin, "http://", 7) == 0 ||
           strncmp(origin, "https://", 8) == 0;
}

/* Copies the config's user and password; a server names no others. */
static bool copy_part(CURLU *from, CURLU *to, CURLUPart part)
{
    char *value = NULL;
    CURLUcode code = CURLUE_OK;

    curl_url_get(from, part, &value, 0);
    code = curl_url_set(to, part, value, 0);
    curl_free(value);
    return code == CURLUE_OK;
}

/* Neither a space nor a control character. */
static bool is_visible(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if ((unsigned char)text[i] <= 0x20 || text[i] == 0x7F) { return false; }
    }
    return true;
}

bool mcp_http_go_to(struct mcp_http_exchange *exchange, const char *what,
                    const char *target, size_t target_bytes)
{
    const struct mcp_http_session *session =
        &exchange->http->sessions[exchange->session];
    char text[MCP_HTTP_URL_BYTES_MAX];
    char origin[MCP_HTTP_ORIGIN_BYTES_MAX];

    if (target_bytes >= sizeof text) {
        mcp_http_fail(exchange, CLEAT_LIMIT, "%s is longer than %u bytes", what,
                      MCP_HTTP_URL_BYTES_MAX - 1);
        return false;
    }
    memcpy(text, target, target_bytes);
    text[target_bytes] = '\0';
    if (!is_visible(text, target_bytes) ||
        curl_url_set(exchange->url, CURLUPART_URL, text, 0) != CURLUE_OK) {
        mcp_http_fail(exchange, CLEAT_PEER_DEVIANT, "%s is no URL of HTTP",
                      what);
        return false;
    }
    if (!mcp_http_origin(exchange->url, origin) ||
        strcmp(origin, session->origin) != 0) {
        mcp_http_fail(exchange, CLEAT_PERMANENT,
                      "%s leads to another origin (%.80s), which is refused",
                      what, origin);
        return false;
    }
    if (!copy_part(session->url, exchange->url, CURLUPART_USER) ||
        !copy_part(session->url, exchange->url, CURLUPART_PASSWORD) ||
        curl_url_set(exchange->url, CURLUPART_FRAGMENT, NULL, 0) != CURLUE_OK) {
        mcp_http_fail(exchange, CLEAT_TRANSIENT, "libcurl is out of memory");
        return false;
    }
    return true;
}

/* ---- the headers of a request ------------------------------------------- */

/* RFC 9110, 5.6.2. */
static bool is_token(struct cleat_text name)
{
    for (size_t i = 0; i < name.bytes; i++) {
        char letter = name.text[i];
        bool is_good = (letter >= '0' && letter <= '9') ||
                       (letter >= 'A' && letter <= 'Z') ||
                       (letter >= 'a' && letter <= 'z') ||
                       (letter != '\0' &&
                        strchr("!#$%&'*+-.^_`|~", letter) != NULL);

        if (!is_good) { return false; }
    }
    return name.bytes > 0;
}

/* RFC 9110, 5.5: no control character but the tab. */
static bool is_value(struct cleat_text value)
{
    for (size_t i = 0; i < value.bytes; i++) {
        unsigned char letter = (unsigned char)value.text[i];

        if ((letter < 0x20 && letter != '\t') || letter == 0x7F) {
            return false;
        }
    }
    return true;
}

/* Those that say how a message is written, which is for the transport. A
 * config may name them (many do, as their server's manual says): ours stand. */
static bool is_ours(struct cleat_text name)
{
    static const char *const names[] = {
        "accept",         "accept-encoding",   "connection", "content-encoding",
        "content-length", "content-type",      "expect",     "te",
        "trailer",        "transfer-encoding", "upgrade"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (mcp_http_is(name, names[i])) { return true; }
    }
    return false;
}

/* The next line of the action's headers. */
static bool next_line(struct cleat_text *rest, struct cleat_text *name,
                      struct cleat_text *value)
{
    while (rest->bytes > 0) {
        const char *line = rest->text;
        const char *end = memchr(line, '\n', rest->bytes);
        size_t bytes = end != NULL ? (size_t)(end - line) : rest->bytes;
        const char *colon = memchr(line, ':', bytes);

        rest->text += end != NULL ? bytes + 1 : bytes;
        rest->bytes -= end != NULL ? bytes + 1 : bytes;
        if (bytes == 0) { continue; }
        name->text = line;
        name->bytes = colon != NULL ? (size_t)(colon - line) : bytes;
        *value = mcp_http_trimmed(line + name->bytes, bytes - name->bytes);
        if (colon != NULL) {
            *value = mcp_http_trimmed(colon + 1, bytes - name->bytes - 1);
        }
        return true;
    }
    return false;
}

static bool has_line(struct cleat_text lines, struct cleat_text name)
{
    struct cleat_text other;
    struct cleat_text value;

    while (next_line(&lines, &other, &value)) {
        if (other.bytes == name.bytes &&
            strncasecmp(other.text, name.text, name.bytes) == 0) {
            return true;
        }
    }
    return false;
}

/* One line as libcurl wants it; it copies. */
static bool add_line(struct mcp_http_exchange *exchange, const char *line)
{
    struct curl_slist *longer = curl_slist_append(exchange->headers, line);

    if (longer == NULL) {
        mcp_http_fail(exchange, CLEAT_TRANSIENT, "libcurl is out of memory");
        return false;
    }
    exchange->headers = longer;
    return true;
}

/* What of a name is shown. */
static int shown(struct cleat_text name)
{
    return (int)(name.bytes < 64 ? name.bytes : 64);
}

static bool add_header(struct mcp_http_exchange *exchange,
                       struct cleat_text name, struct cleat_text value)
{
    char *line = exchange->http->line;

    if (!is_token(name)) {
        mcp_http_fail(exchange, CLEAT_MALFORMED,
                      "the header \"%.*s\": its name is no token of RFC 9110",
                      shown(name), name.text);
        return false;
    }
    if (!is_value(value)) {
        mcp_http_fail(exchange, CLEAT_MALFORMED,
                      "the header %.*s: its value holds a control character",
                      shown(name), name.text);
        return false;
    }
    if (name.bytes + 2 + value.bytes >= sizeof exchange->http->line) {
        mcp_http_fail(exchange, CLEAT_LIMIT,
                      "the header %.*s is longer than %u bytes", shown(name),
                      name.text, MCP_HTTP_HEADER_BYTES_MAX - 1);
        return false;
    }
    memcpy(line, name.text, name.bytes);
    /* libcurl takes "Name:" for the wish to leave it out. */
    memcpy(line + name.bytes, value.bytes > 0 ? ": " : ";", 2);
    memcpy(line + name.bytes + 2, value.text, value.bytes);
    line[name.bytes + 2 + value.bytes] = '\0';
    return add_line(exchange, line);
}

static bool add_action_headers(struct mcp_http_exchange *exchange,
                               struct cleat_text lines)
{
    struct cleat_text name;
    struct cleat_text value;

    while (next_line(&lines, &name, &value)) {
        if (!add_header(exchange, name, value)) { return false; }
    }
    return true;
}

/* A string of the definition, in http->scratch from *at on. */
static bool take_text(struct mcp_http_exchange *exchange, const char *what,
                      const struct cleat_json_value *string, size_t *at,
                      struct cleat_text *text)
{
    struct mcp_http *http = exchange->http;
    const struct mcp_server *server = http->sessions[exchange->session].server;
    struct mcp_room room = {http->scratch + *at, sizeof http->scratch - *at};
    enum cleat_status status = mcp_server_take(server, string, &room,
                                               &text->text, &text->bytes);

    if (status == CLEAT_TOO_SMALL) {
        mcp_http_fail(exchange, CLEAT_LIMIT, "%s is longer than %u bytes", what,
                      MCP_HTTP_HEADER_BYTES_MAX - 1);
    } else if (status != CLEAT_OK) {
        mcp_http_fail(exchange, CLEAT_MALFORMED,
                      "%s holds a NUL, or half a character", what);
    }
    *at += text->bytes + 1;
    return status == CLEAT_OK;
}

/* The token goes before a header Authorization, the action's headers and ours
 * before the config's. */
static bool add_config_headers(struct mcp_http_exchange *exchange,
                               struct cleat_text action_lines, bool has_token)
{
    const struct mcp_server *server =
        exchange->http->sessions[exchange->session].server;
    struct cleat_json_value headers;
    struct cleat_json_value key;
    struct cleat_json_value string;
    struct cleat_json_cursor cursor;

    if (!mcp_server_find(server, "headers", &headers)) { return true; }
    cleat_json_open(server->json, &headers, &cursor);
    while (cleat_json_next_member(server->json, &cursor, &key, &string)) {
        struct cleat_text name;
        struct cleat_text value;
        size_t at = 0;

        if (!take_text(exchange, "the name of a header", &key, &at, &name) ||
            !take_text(exchange, "the value of a header", &string, &at,
                       &value)) {
            return false;
        }
        if (is_ours(name) || has_line(action_lines, name) ||
            (has_token && mcp_http_is(name, "authorization"))) {
            continue;
        }
        if (!add_header(exchange, name, value)) { return false; }
    }
    return true;
}

/* RFC 6750, 2.1. */
static bool add_token(struct mcp_http_exchange *exchange,
                      const struct cleat_json_value *token)
{
    static const char scheme[] = "Bearer ";
    const struct cleat_text name = {"Authorization", strlen("Authorization")};
    struct cleat_text value;
    size_t at = strlen(scheme);

    if (!take_text(exchange, "the token", token, &at, &value)) { return false; }
    memcpy(exchange->http->scratch, scheme, strlen(scheme));
    value.text = exchange->http->scratch;
    value.bytes += strlen(scheme);
    return add_header(exchange, name, value);
}

static bool add_headers(struct mcp_http_exchange *exchange,
                        const struct mcp_action *action)
{
    const struct mcp_server *server =
        exchange->http->sessions[exchange->session].server;
    struct cleat_json_value token;
    bool has_token = mcp_server_find(server, "token", &token);

    /* libcurl would otherwise wait for a "100 Continue". */
    return add_line(exchange, action->method == MCP_GET
                                  ? "Accept: text/event-stream"
                                  : "Accept: application/json, "
                                    "text/event-stream") &&
           (action->body.bytes == 0 ||
            add_line(exchange, "Content-Type: application/json")) &&
           add_line(exchange, "Expect:") &&
           add_action_headers(exchange, action->headers) &&
           add_config_headers(exchange, action->headers, has_token) &&
           (!has_token || add_token(exchange, &token));
}

/* ---- a request ---------------------------------------------------------- */

static long milliseconds(uint64_t ns)
{
    uint64_t ms = ns / CLEAT_NS_PER_MS;

    if (ms == 0) { return 1; } /* 0 is libcurl's default */
    return ms < INT_MAX ? (long)ms : (long)INT_MAX;
}

#define SET(option, value) (curl_easy_setopt(easy, option, value) == CURLE_OK)

/* libcurl's own leaves its sockets to whatever the host runs. */
static curl_socket_t open_socket(void *context, curlsocktype purpose,
                                 struct curl_sockaddr *address)
{
    (void)context;
    (void)purpose;
    return socket(address->family, address->socktype | SOCK_CLOEXEC,
                  address->protocol);
}

/* The same for all requests. */
static bool set_always(struct mcp_http_exchange *exchange)
{
    const struct mcp_http_config *config = &exchange->http->config;
    CURL *easy = exchange->easy;
    bool is_set = true;

    /* A name that is being resolved must not hold up a cancel. */
    is_set = is_set && SET(CURLOPT_QUICK_EXIT, 1L);
    is_set = is_set && SET(CURLOPT_NOSIGNAL, 1L);
    is_set = is_set &&
             SET(CURLOPT_CONNECTTIMEOUT_MS, milliseconds(config->connect_ns));
    is_set = is_set && SET(CURLOPT_PROTOCOLS_STR, "http,https");
    is_set = is_set && SET(CURLOPT_FOLLOWLOCATION, 0L);
    is_set = is_set && SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    is_set = is_set && SET(CURLOPT_SSL_VERIFYPEER, 1L);
    is_set = is_set && SET(CURLOPT_SSL_VERIFYHOST, 2L);
    is_set = is_set && SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    is_set = is_set && SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
    is_set = is_set && SET(CURLOPT_TCP_KEEPALIVE, 1L);
    is_set = is_set && SET(CURLOPT_USERAGENT, "cleat");
    if (!config->proxies) { is_set = is_set && SET(CURLOPT_NOPROXY, "*"); }
    if (config->tls_ca_file != NULL) {
        is_set = is_set && SET(CURLOPT_CAINFO, config->tls_ca_file);
        is_set = is_set && SET(CURLOPT_CAPATH, NULL); /* it alone is trusted */
    }
    is_set = is_set && SET(CURLOPT_PRIVATE, exchange);
    is_set = is_set && SET(CURLOPT_ERRORBUFFER, exchange->curl_words);
    is_set = is_set && SET(CURLOPT_HEADERFUNCTION, mcp_http_on_header);
    is_set = is_set && SET(CURLOPT_HEADERDATA, exchange);
    is_set = is_set && SET(CURLOPT_WRITEFUNCTION, mcp_http_on_body);
    is_set = is_set && SET(CURLOPT_WRITEDATA, exchange);
    is_set = is_set && SET(CURLOPT_PREREQFUNCTION, mcp_http_on_sending);
    return is_set && SET(CURLOPT_PREREQDATA, exchange);
}

static bool set_method(struct mcp_http_exchange *exchange,
                       const struct mcp_action *action)
{
    CURL *easy = exchange->easy;

    if (action->method == MCP_GET) { return SET(CURLOPT_HTTPGET, 1L); }
    if (action->method == MCP_DELETE) {
        return SET(CURLOPT_HTTPGET, 1L) && SET(CURLOPT_CUSTOMREQUEST, "DELETE");
    }
    return SET(CURLOPT_POST, 1L) &&
           SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)action->body.bytes) &&
           SET(CURLOPT_COPYPOSTFIELDS,
               action->body.bytes > 0 ? action->body.text : "");
}

bool mcp_http_set_url(struct mcp_http_exchange *exchange)
{
    CURL *easy = exchange->easy;
    char *text = NULL;
    bool is_set = curl_url_get(exchange->url, CURLUPART_URL, &text, 0) ==
                      CURLUE_OK &&
                  SET(CURLOPT_URL, text);

    curl_free(text);
    return is_set;
}

/* The config's URL, and from there where the server said. */
static bool aim(struct mcp_http_exchange *exchange, struct cleat_text endpoint)
{
    const struct mcp_http_session *session =
        &exchange->http->sessions[exchange->session];
    char *text = NULL;
    bool is_set =
        curl_url_get(session->url, CURLUPART_URL, &text, 0) == CURLUE_OK &&
        curl_url_set(exchange->url, CURLUPART_URL, text, 0) == CURLUE_OK;

    curl_free(text);
    return is_set && (endpoint.bytes == 0 ||
                      mcp_http_go_to(exchange, "its endpoint", endpoint.text,
                                     endpoint.bytes));
}

bool mcp_http_set_up(struct mcp_http_exchange *exchange,
                     const struct mcp_action *action)
{
    const struct mcp_http_session *session =
        &exchange->http->sessions[exchange->session];
    CURL *easy = exchange->easy;

    if (session->broken != NULL) {
        mcp_http_fail(exchange, CLEAT_MALFORMED, "%s", session->broken);
        return false;
    }
    if (aim(exchange, action->endpoint) && add_headers(exchange, action) &&
        set_always(exchange) && set_method(exchange, action) &&
        mcp_http_set_url(exchange) &&
        SET(CURLOPT_HTTPHEADER, exchange->headers)) {
        return true;
    }
    mcp_http_fail(exchange, CLEAT_TRANSIENT, "libcurl is out of memory");
    return false;
}
