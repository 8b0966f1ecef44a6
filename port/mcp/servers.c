/* Cleat: MCP servers, as JSON files name them. SPDX-License-Identifier:
 * Apache-2.0
 *
 *     {"mcpServers": {"NAME": {"command": "npx", "args": ["-y", "…"],
 *                              "env": {"KEY": "…"}, "cwd": "…"},
 *                     "NAME": {"url": "https://…", "transport": "http",
 *                              "headers": {"KEY": "…"}, "auth_token": "…"}}}
 *
 * "servers" stands for "mcpServers", and a map of servers may stand alone. Keys
 * that are not known are passed over ("timeout" too: clients do not agree on
 * its unit). No text of a value is ever put into an error: it may be a secret.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"

#define NAME_BYTES_MAX 128u
#define HEADER_NAME_BYTES_MAX 128u

enum field {
    COMMAND,
    ARGS,
    ENV,
    CWD,
    URL,
    TRANSPORT,
    TYPE,
    HEADERS,
    AUTH_TOKEN,
    AUTH,
    DISABLED,
    FIELDS
};

static const char *const field_names[FIELDS] = {
    "command", "args",    "env",        "cwd",  "url",     "transport",
    "type",    "headers", "auth_token", "auth", "disabled"};

/* One server that is being read. */
struct reading {
    const struct mcp_document *document;
    const struct mcp_entry *entry;
    struct mcp_sources *sources;
    struct cleat_error *error;
    bool alone;             /* the only server of its entry */
    struct mcp_shown shown; /* its name */
    size_t offset;          /* of its object */
    bool there[FIELDS];     /* and not null */
    struct cleat_json_value fields[FIELDS];
};

static enum cleat_status refuse(const struct reading *r,
                                enum cleat_status status, size_t offset,
                                const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static enum cleat_status refuse(const struct reading *r,
                                enum cleat_status status, size_t offset,
                                const char *format, ...)
{
    char text[CLEAT_ERROR_TEXT_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return mcp_document_refuse(r->document, status, offset, r->error,
                               "server '%s': %s", r->shown.text, text);
}

/* ---- strings ------------------------------------------------------------- */

/* What a string says, in r->sources->string. */
static enum cleat_status take_string(const struct reading *r, enum field field,
                                     const struct cleat_json_value *value,
                                     size_t *bytes)
{
    const char *name = field_names[field];

    if (value->type != CLEAT_JSON_STRING) {
        return refuse(r, CLEAT_MALFORMED, value->offset,
                      "%s: expected a string", name);
    }
    if (!mcp_sources_decode(r->sources, r->document->json, value, bytes)) {
        return refuse(r, CLEAT_MALFORMED, value->offset,
                      "%s: a NUL or half a character", name);
    }
    if (strstr(r->sources->string, "${") != NULL) {
        return refuse(r, CLEAT_UNSUPPORTED, value->offset,
                      "%s: \"${\": nothing is put in its place here; expected "
                      "the value itself",
                      name);
    }
    return CLEAT_OK;
}

/* The same for one that must say something. */
static enum cleat_status take_text(const struct reading *r, enum field field,
                                   size_t *bytes)
{
    enum cleat_status status = take_string(r, field, &r->fields[field], bytes);

    if (status == CLEAT_OK && *bytes == 0) {
        return refuse(r, CLEAT_MALFORMED, r->fields[field].offset,
                      "%s: empty; expected a text", field_names[field]);
    }
    return status;
}

static void put_null(const struct reading *r, const char *key)
{
    mcp_sources_key(r->sources, key);
    mcp_json_puts(&r->sources->out, "null");
}

/* ---- commands ------------------------------------------------------------ */

static enum cleat_status write_command(const struct reading *r)
{
    size_t bytes;
    enum cleat_status status = take_text(r, COMMAND, &bytes);

    if (status != CLEAT_OK) { return status; }
    mcp_sources_key(r->sources, "command");
    mcp_sources_text(r->sources, r->sources->string, bytes);
    return CLEAT_OK;
}

static enum cleat_status write_args(const struct reading *r)
{
    const struct cleat_json_value *args = &r->fields[ARGS];
    struct cleat_json_cursor cursor;
    struct cleat_json_value item;
    const char *comma = "";

    mcp_sources_key(r->sources, "args");
    mcp_json_puts(&r->sources->out, "[");
    if (r->there[ARGS]) {
        if (args->type != CLEAT_JSON_ARRAY) {
            return refuse(r, CLEAT_MALFORMED, args->offset,
                          "args: expected an array of strings");
        }
        cleat_json_open(r->document->json, args, &cursor);
        while (cleat_json_next_item(r->document->json, &cursor, &item)) {
            size_t bytes;
            enum cleat_status status = take_string(r, ARGS, &item, &bytes);

            if (status != CLEAT_OK) { return status; }
            mcp_json_puts(&r->sources->out, comma);
            mcp_sources_text(r->sources, r->sources->string, bytes);
            comma = ",";
        }
    }
    mcp_json_puts(&r->sources->out, "]");
    return CLEAT_OK;
}

/* What the key of a map must be. NULL: it is. */
typedef const char *key_fault_fn(const char *key, size_t bytes);

/* What a value of a map must be besides. */
typedef const char *value_fault_fn(const char *value, size_t bytes);

/* A map of strings: env, headers. */
static enum cleat_status write_map(const struct reading *r, enum field field,
                                   key_fault_fn *key_fault,
                                   value_fault_fn *value_fault)
{
    const struct cleat_json_value *map = &r->fields[field];
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;
    const char *comma = "";

    mcp_sources_key(r->sources, field_names[field]);
    mcp_json_puts(&r->sources->out, "{");
    if (r->there[field]) {
        if (map->type != CLEAT_JSON_OBJECT) {
            return refuse(r, CLEAT_MALFORMED, map->offset,
                          "%s: expected an object of strings",
                          field_names[field]);
        }
        cleat_json_open(r->document->json, map, &cursor);
        while (
            cleat_json_next_member(r->document->json, &cursor, &key, &value)) {
            size_t bytes;
            enum cleat_status status = take_string(r, field, &key, &bytes);
            const char *why;

            if (status != CLEAT_OK) { return status; }
            why = key_fault(r->sources->string, bytes);
            if (why != NULL) {
                return refuse(r, CLEAT_MALFORMED, key.offset, "%s: %s",
                              field_names[field], why);
            }
            mcp_json_puts(&r->sources->out, comma);
            mcp_sources_text(r->sources, r->sources->string, bytes);
            status = take_string(r, field, &value, &bytes);
            if (status != CLEAT_OK) { return status; }
            why = value_fault(r->sources->string, bytes);
            if (why != NULL) {
                return refuse(r, CLEAT_MALFORMED, value.offset, "%s: %s",
                              field_names[field], why);
            }
            mcp_json_puts(&r->sources->out, ":");
            mcp_sources_text(r->sources, r->sources->string, bytes);
            comma = ",";
        }
    }
    mcp_json_puts(&r->sources->out, "}");
    return CLEAT_OK;
}

static const char *env_key_fault(const char *key, size_t bytes)
{
    if (bytes == 0 || memchr(key, '=', bytes) != NULL) {
        return "a name that is empty, or has '=' in it";
    }
    return NULL;
}

static const char *env_value_fault(const char *value, size_t bytes)
{
    (void)value;
    (void)bytes;
    return NULL;
}

static bool is_folder(const char *path)
{
    struct stat about;

    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

/* Puts the folder that we run in before a path that is relative. */
static bool make_absolute(char *path, size_t path_bytes)
{
    char here[PATH_MAX];
    size_t bytes = strlen(path);
    size_t skipped = 0;
    size_t begin;

    if (path[0] == '/') { return true; }
    if (getcwd(here, sizeof here - 1) == NULL) { return false; }
    while (strncmp(path + skipped, "./", 2) == 0) { skipped += 2; }
    strcat(here, "/");
    begin = strlen(here);
    bytes -= skipped;
    if (begin + bytes >= path_bytes) { return false; }
    memmove(path + begin, path + skipped, bytes + 1);
    memcpy(path, here, begin);
    return true;
}

static enum cleat_status write_cwd(const struct reading *r)
{
    char path[PATH_MAX];
    size_t bytes;
    enum cleat_status status;

    if (!r->there[CWD]) {
        put_null(r, "cwd");
        return CLEAT_OK;
    }
    status = take_text(r, CWD, &bytes);
    if (status != CLEAT_OK) { return status; }
    if (!mcp_path_beside(r->document->path, r->sources->string, bytes, path,
                         sizeof path)) {
        return refuse(r, CLEAT_LIMIT, r->fields[CWD].offset,
                      "cwd: a path that is too long");
    }
    if (!is_folder(path)) {
        if (!is_folder(r->sources->string)) {
            return refuse(r, CLEAT_NOT_FOUND, r->fields[CWD].offset,
                          "cwd: no folder %s nor %s", mcp_show_path(path).text,
                          mcp_show_path(r->sources->string).text);
        }
        memcpy(path, r->sources->string, bytes + 1);
    }
    if (!make_absolute(path, sizeof path)) {
        return refuse(r, CLEAT_LIMIT, r->fields[CWD].offset,
                      "cwd: a path that is too long");
    }
    mcp_sources_key(r->sources, "cwd");
    mcp_sources_text(r->sources, path, strlen(path));
    return CLEAT_OK;
}

static enum cleat_status write_stdio(const struct reading *r)
{
    enum cleat_status status = write_command(r);

    if (status == CLEAT_OK) { status = write_args(r); }
    if (status == CLEAT_OK) {
        status = write_map(r, ENV, env_key_fault, env_value_fault);
    }
    if (status == CLEAT_OK) { status = write_cwd(r); }
    return status;
}

/* ---- URLs ---------------------------------------------------------------- */

static size_t scheme_bytes(const char *url)
{
    if (strncasecmp(url, "http://", 7) == 0) { return 7; }
    return strncasecmp(url, "https://", 8) == 0 ? 8 : 0;
}

/* ":PORT", or nothing. */
static bool is_port(const char *text, size_t bytes)
{
    unsigned long number = 0;

    if (bytes == 0) { return true; }
    if (bytes < 2 || bytes > 6 || text[0] != ':') { return false; }
    for (size_t i = 1; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9') { return false; }
        number = number * 10 + (unsigned long)(text[i] - '0');
    }
    return number >= 1 && number <= 65535;
}

/* HOST or [ADDRESS], with a port or without: RFC 3986, section 3.2. A slash, a
 * question mark or the text's end follows. */
static bool is_authority(const char *text, size_t bytes)
{
    static const char in_address[] = "0123456789abcdefABCDEF:.";
    static const char in_host[] = "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789-._~";
    size_t host;

    if (bytes > 0 && text[0] == '[') {
        host = strspn(text + 1, in_address) + 2;
        if (host <= 2 || host > bytes || text[host - 1] != ']') {
            return false;
        }
    } else {
        host = strspn(text, in_host);
        if (host == 0) { return false; }
    }
    return is_port(text + host, bytes - host);
}

const char *mcp_url_fault(const char *url, size_t bytes)
{
    size_t scheme = scheme_bytes(url);
    size_t authority;

    if (scheme == 0) { return "expected http:// or https://"; }
    for (size_t i = 0; i < bytes; i++) {
        unsigned char letter = (unsigned char)url[i];

        if (letter <= 0x20 || letter >= 0x7F || letter == '\\') {
            return "a character that no URL has; expected it as %XX";
        }
    }
    authority = strcspn(url + scheme, "/?#");
    if (memchr(url + scheme, '@', authority) != NULL) {
        return "a user in the URL; expected auth_token or headers";
    }
    if (!is_authority(url + scheme, authority)) {
        return "expected a host, and perhaps a port, behind the scheme";
    }
    if (strchr(url, '#') != NULL) { return "a fragment ('#')"; }
    return NULL;
}

/* Whether the path ends in /sse, which is what old servers call it. */
static bool looks_like_sse(const char *url)
{
    size_t scheme = scheme_bytes(url);
    size_t begin = scheme + strcspn(url + scheme, "/?");
    size_t end = begin + strcspn(url + begin, "?");

    if (end > begin && url[end - 1] == '/') { end--; }
    return end - begin >= 4 && memcmp(url + end - 4, "/sse", 4) == 0;
}

/* ---- transports ---------------------------------------------------------- */

enum transport { UNTOLD, STDIO, HTTP, SSE, UNKNOWN };

/* What "transport" or "type" says. */
static enum transport transport_of(const struct reading *r)
{
    static const struct {
        const char *name;
        enum transport transport;
    } names[] = {{"stdio", STDIO},          {"http", HTTP},
                 {"streamable-http", HTTP}, {"streamable_http", HTTP},
                 {"streamableHttp", HTTP},  {"sse", SSE}};
    enum field field = r->there[TRANSPORT] ? TRANSPORT : TYPE;

    if (!r->there[field]) { return UNTOLD; }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (cleat_json_equals(r->document->json, &r->fields[field],
                              names[i].name)) {
            return names[i].transport;
        }
    }
    return UNKNOWN;
}

static enum cleat_status check_transport(const struct reading *r,
                                         enum transport *transport)
{
    enum field field = r->there[TRANSPORT] ? TRANSPORT : TYPE;
    const char *expected = NULL;

    *transport = transport_of(r);
    if (*transport == UNKNOWN) {
        expected = "expected stdio, http, streamable-http or sse";
    } else if (r->there[COMMAND] && *transport > STDIO) {
        expected = "expected stdio, for there is a command";
    } else if (r->there[URL] && *transport == STDIO) {
        expected = "expected http, streamable-http or sse, for there is a url";
    }
    if (expected == NULL) { return CLEAT_OK; }
    return refuse(r, CLEAT_MALFORMED, r->fields[field].offset, "%s: %s",
                  field_names[field], expected);
}

/* ---- headers ------------------------------------------------------------- */

/* Those that the client sets itself. */
static bool is_reserved(const char *name)
{
    static const char *const names[] = {
        "Accept", "Connection", "Content-Length", "Content-Type",
        "Expect", "Host",       "Last-Event-ID",  "Transfer-Encoding",
        "Upgrade"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcasecmp(name, names[i]) == 0) { return true; }
    }
    return strncasecmp(name, "Mcp-", 4) == 0;
}

/* A token: RFC 9110, section 5.6.2. */
static const char *header_key_fault(const char *key, size_t bytes)
{
    static const char token[] = "!#$%&'*+-.^_`|~0123456789"
                                "abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

    if (bytes == 0 || bytes > HEADER_NAME_BYTES_MAX ||
        strspn(key, token) != bytes) {
        return "not a header's name; expected letters, digits, -";
    }
    return is_reserved(key) ? "a header that the client sets itself" : NULL;
}

/* RFC 9110, section 5.5, without what is obsolete. */
static const char *header_value_fault(const char *value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        unsigned char letter = (unsigned char)value[i];

        if ((letter < 0x20 && letter != '\t') || letter >= 0x7F) {
            return "a value with a character that no header has";
        }
    }
    if (bytes > 0 && (strchr(" \t", value[0]) != NULL ||
                      strchr(" \t", value[bytes - 1]) != NULL)) {
        return "a value with space around it";
    }
    return NULL;
}

/* Names of headers are the same in either case. */
static enum cleat_status check_headers(const struct reading *r, bool has_token)
{
    struct cleat_json_cursor outer;
    struct cleat_json_cursor inner;
    struct cleat_json_value key;
    struct cleat_json_value other;
    struct cleat_json_value value;
    char name[HEADER_NAME_BYTES_MAX + 1];

    cleat_json_open(r->document->json, &r->fields[HEADERS], &outer);
    while (r->there[HEADERS] &&
           cleat_json_next_member(r->document->json, &outer, &key, &value)) {
        size_t bytes;

        cleat_json_string(r->document->json, &key, 0, name, sizeof name, &bytes,
                          NULL);
        if (has_token && strcasecmp(name, "Authorization") == 0) {
            return refuse(r, CLEAT_EXISTS, key.offset,
                          "headers: Authorization, besides a token");
        }
        cleat_json_open(r->document->json, &r->fields[HEADERS], &inner);
        while (
            cleat_json_next_member(r->document->json, &inner, &other, &value) &&
            other.offset < key.offset) {
            if (mcp_sources_decode(r->sources, r->document->json, &other,
                                   &bytes) &&
                strcasecmp(name, r->sources->string) == 0) {
                return refuse(r, CLEAT_EXISTS, key.offset,
                              "headers: '%s' is there already", name);
            }
        }
    }
    return CLEAT_OK;
}

/* ---- remote servers ------------------------------------------------------ */

static enum cleat_status write_url(const struct reading *r,
                                   enum transport transport)
{
    size_t bytes;
    enum cleat_status status = take_text(r, URL, &bytes);
    const char *why;

    if (status != CLEAT_OK) { return status; }
    why = mcp_url_fault(r->sources->string, bytes);
    if (why != NULL) {
        return refuse(r, CLEAT_MALFORMED, r->fields[URL].offset, "url: %s",
                      why);
    }
    if (transport == UNTOLD && looks_like_sse(r->sources->string)) {
        transport = SSE;
    }
    mcp_sources_key(r->sources, "url");
    mcp_sources_text(r->sources, r->sources->string, bytes);
    mcp_sources_key(r->sources, "transport");
    mcp_json_puts(&r->sources->out, transport == SSE ? "\"sse\"" : "\"http\"");
    return CLEAT_OK;
}

static enum cleat_status write_token(const struct reading *r)
{
    enum field field = r->there[AUTH_TOKEN] ? AUTH_TOKEN : AUTH;
    size_t bytes;
    enum cleat_status status;

    if (!r->there[field]) {
        put_null(r, "token");
        return CLEAT_OK;
    }
    if (field == AUTH &&
        (r->fields[AUTH].type != CLEAT_JSON_STRING ||
         cleat_json_equals(r->document->json, &r->fields[AUTH], "oauth"))) {
        return refuse(r, CLEAT_UNSUPPORTED, r->fields[AUTH].offset,
                      "auth: OAuth and the like are not supported; expected a "
                      "bearer token");
    }
    status = take_text(r, field, &bytes);
    if (status != CLEAT_OK) { return status; }
    for (size_t i = 0; i < bytes; i++) {
        unsigned char letter = (unsigned char)r->sources->string[i];

        if (letter <= 0x20 || letter >= 0x7F) {
            return refuse(r, CLEAT_MALFORMED, r->fields[field].offset,
                          "%s: a character that no token has",
                          field_names[field]);
        }
    }
    mcp_sources_key(r->sources, "token");
    mcp_sources_text(r->sources, r->sources->string, bytes);
    return CLEAT_OK;
}

static enum cleat_status write_remote(const struct reading *r,
                                      enum transport transport)
{
    enum cleat_status status;

    if (r->there[AUTH_TOKEN] && r->there[AUTH]) {
        return refuse(r, CLEAT_EXISTS, r->fields[AUTH].offset,
                      "both auth and auth_token; expected one");
    }
    status = write_url(r, transport);
    if (status == CLEAT_OK) {
        status = write_map(r, HEADERS, header_key_fault, header_value_fault);
    }
    if (status == CLEAT_OK) {
        status = check_headers(r, r->there[AUTH_TOKEN] || r->there[AUTH]);
    }
    if (status == CLEAT_OK) { status = write_token(r); }
    return status;
}

/* ---- what the config's entry says ---------------------------------------- */

static void write_select(const struct reading *r)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value item;
    const char *comma = "[";
    size_t bytes;

    mcp_sources_key(r->sources, "select");
    cleat_json_open(r->entry->json, &r->entry->select, &cursor);
    while (cleat_json_next_item(r->entry->json, &cursor, &item)) {
        if (mcp_sources_decode(r->sources, r->entry->json, &item, &bytes)) {
            mcp_json_puts(&r->sources->out, comma);
            mcp_sources_text(r->sources, r->sources->string, bytes);
            comma = ",";
        }
    }
    mcp_json_puts(&r->sources->out, "]");
}

static void write_number(const struct reading *r, const char *key,
                         struct cleat_text number)
{
    if (number.bytes == 0) {
        put_null(r, key);
    } else {
        mcp_sources_key(r->sources, key);
        mcp_sources_text(r->sources, number.text, number.bytes);
    }
}

static void write_bool(const struct reading *r, const char *key, bool value)
{
    mcp_sources_key(r->sources, key);
    mcp_json_puts(&r->sources->out, value ? "true" : "false");
}

static void write_entry(const struct reading *r)
{
    size_t bytes;

    if (r->entry->class_name.bytes > 0 &&
        mcp_sources_decode(r->sources, r->entry->json, &r->entry->class_name,
                           &bytes)) {
        mcp_sources_key(r->sources, "class_name");
        mcp_sources_text(r->sources, r->sources->string, bytes);
    } else {
        put_null(r, "class_name");
    }
    if (r->entry->select.bytes > 0) {
        write_select(r);
    } else {
        put_null(r, "select");
    }
    write_bool(r, "select_all", r->alone);
    write_number(r, "rate_limit", r->entry->rate_limit);
    write_number(r, "timeout_s", r->entry->timeout_s);
    write_bool(r, "prefix", r->sources->prefix);
}

/* ---- servers ------------------------------------------------------------- */

static enum cleat_status read_fields(struct reading *r,
                                     const struct cleat_json_value *server)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;
    enum cleat_status status;

    if (server->type != CLEAT_JSON_OBJECT) {
        return refuse(r, CLEAT_MALFORMED, server->offset,
                      "expected an object with a command or a url");
    }
    status = mcp_document_unique(r->document, server, r->sources, r->error);
    cleat_json_open(r->document->json, server, &cursor);
    while (status == CLEAT_OK &&
           cleat_json_next_member(r->document->json, &cursor, &key, &value)) {
        for (unsigned i = 0; i < FIELDS; i++) {
            if (!cleat_json_equals(r->document->json, &key, field_names[i])) {
                continue;
            }
            r->there[i] = value.type != CLEAT_JSON_NULL;
            r->fields[i] = value;
        }
        if (cleat_json_equals(r->document->json, &key, "env") ||
            cleat_json_equals(r->document->json, &key, "headers")) {
            status = mcp_document_unique(r->document, &value, r->sources,
                                         r->error);
        }
    }
    return status;
}

static bool is_disabled(const struct reading *r)
{
    return r->there[DISABLED] && r->fields[DISABLED].type == CLEAT_JSON_TRUE;
}

/* The name, in r->sources->string. */
static enum cleat_status
read_name(struct reading *r, const struct cleat_json_value *key, size_t *bytes)
{
    bool good = mcp_sources_decode(r->sources, r->document->json, key, bytes) &&
                *bytes >= 1 && *bytes <= NAME_BYTES_MAX;

    for (size_t i = 0; good && i < *bytes; i++) {
        good = (unsigned char)r->sources->string[i] >= 0x20 &&
               r->sources->string[i] != 0x7F;
    }
    if (!good) {
        return mcp_document_refuse(
            r->document, CLEAT_MALFORMED, key->offset, r->error,
            "a server's name; expected 1 to 128 bytes, none of them a "
            "control character");
    }
    r->shown = mcp_show_name(r->sources->string, *bytes);
    return CLEAT_OK;
}

static enum cleat_status check_kind(const struct reading *r,
                                    enum transport *transport)
{
    if (r->there[COMMAND] && r->there[URL]) {
        return refuse(r, CLEAT_MALFORMED, r->offset,
                      "both command and url; expected one");
    }
    if (!r->there[COMMAND] && !r->there[URL]) {
        return refuse(r, CLEAT_MALFORMED, r->offset,
                      "neither command nor url; expected one");
    }
    if (r->there[DISABLED] && r->fields[DISABLED].type > CLEAT_JSON_TRUE) {
        return refuse(r, CLEAT_MALFORMED, r->fields[DISABLED].offset,
                      "disabled: expected true or false");
    }
    return check_transport(r, transport);
}

static enum cleat_status add_server(struct reading *r,
                                    const struct cleat_json_value *key,
                                    const struct cleat_json_value *server)
{
    enum transport transport = UNTOLD;
    size_t bytes = 0;
    enum cleat_status status = read_name(r, key, &bytes);

    r->offset = server->offset;
    memset(r->there, 0, sizeof r->there);
    if (status == CLEAT_OK) { status = read_fields(r, server); }
    if (status == CLEAT_OK) { status = check_kind(r, &transport); }
    if (status != CLEAT_OK || is_disabled(r)) { return status; }
    if (!mcp_sources_begin(r->sources, r->sources->string, bytes)) {
        return refuse(r, CLEAT_LIMIT, key->offset,
                      "more than %u sources (CLEAT_TOOL_SOURCES_MAX)",
                      CLEAT_TOOL_SOURCES_MAX);
    }
    mcp_sources_key(r->sources, "server");
    mcp_sources_text(r->sources, r->sources->string, bytes);
    status = r->there[URL] ? write_remote(r, transport) : write_stdio(r);
    if (status != CLEAT_OK) { return status; }
    write_entry(r);
    mcp_sources_end(r->sources, CLEAT_TOOLS_MCP);
    return CLEAT_OK;
}

/* How many of a map's servers are not disabled. */
static uint32_t count_servers(const struct mcp_document *document,
                              const struct cleat_json_value *map)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;
    struct cleat_json_value disabled;
    uint32_t count = 0;

    cleat_json_open(document->json, map, &cursor);
    while (cleat_json_next_member(document->json, &cursor, &key, &value)) {
        count += cleat_json_find(document->json, &value, "disabled",
                                 &disabled) != CLEAT_OK ||
                 disabled.type != CLEAT_JSON_TRUE;
    }
    return count;
}

/* The map of servers in a document. */
static enum cleat_status find_map(const struct mcp_document *document,
                                  struct cleat_json_value *map,
                                  struct cleat_error *error)
{
    *map = document->root;
    if (cleat_json_find(document->json, &document->root, "mcpServers", map) !=
        CLEAT_OK) {
        struct cleat_json_value servers;

        if (cleat_json_find(document->json, &document->root, "servers",
                            &servers) == CLEAT_OK) {
            *map = servers;
        }
    }
    if (map->type == CLEAT_JSON_OBJECT) { return CLEAT_OK; }
    return mcp_document_refuse(document, CLEAT_MALFORMED, map->offset, error,
                               "mcpServers: expected an object of servers");
}

enum cleat_status mcp_servers_add(const struct mcp_document *document,
                                  const struct mcp_entry *entry,
                                  struct mcp_sources *sources,
                                  struct cleat_error *error)
{
    struct reading r;
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value map;
    struct cleat_json_value server;
    enum cleat_status status;

    memset(&r, 0, sizeof r);
    r.document = document;
    r.entry = entry;
    r.sources = sources;
    r.error = error;
    status = mcp_document_unique(document, &document->root, sources, error);
    if (status == CLEAT_OK) { status = find_map(document, &map, error); }
    if (status == CLEAT_OK) {
        status = mcp_document_unique(document, &map, sources, error);
    }
    if (status != CLEAT_OK) { return status; }
    r.alone = count_servers(document, &map) == 1;
    cleat_json_open(document->json, &map, &cursor);
    while (status == CLEAT_OK &&
           cleat_json_next_member(document->json, &cursor, &key, &server)) {
        status = add_server(&r, &key, &server);
    }
    return status;
}
