/* Cleat: a definition, opened. SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "server.h"

/* ---- digests ------------------------------------------------------------- */

/* FNV-1a (draft-eastlake-fnv), 64 bits. */
#define FNV_BEGIN UINT64_C(14695981039346656037)
#define FNV_PRIME UINT64_C(1099511628211)

static uint64_t digest_more(uint64_t digest, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        digest = (digest ^ (unsigned char)text[i]) * FNV_PRIME;
    }
    return digest;
}

/* Zero means no key. */
static uint64_t never_zero(uint64_t digest)
{
    return digest != 0 ? digest : 1;
}

uint64_t mcp_definition_key(const char *json, size_t bytes)
{
    return never_zero(digest_more(FNV_BEGIN, json, bytes));
}

/* What a source's list is made of, and not the session that gives it. */
static bool is_of_the_list(const char *json, const struct cleat_json_value *key)
{
    return cleat_json_equals(json, key, "class_name") ||
           cleat_json_equals(json, key, "select") ||
           cleat_json_equals(json, key, "select_all") ||
           cleat_json_equals(json, key, "prefix");
}

uint64_t mcp_server_session_key(const struct mcp_server *server)
{
    uint64_t digest = FNV_BEGIN;
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;

    cleat_json_open(server->json, &server->root, &cursor);
    while (cleat_json_next_member(server->json, &cursor, &key, &value)) {
        if (is_of_the_list(server->json, &key)) { continue; }
        /* The quotes and brackets keep them apart. */
        digest = digest_more(digest, server->json + key.offset, key.bytes);
        digest = digest_more(digest, server->json + value.offset, value.bytes);
    }
    return never_zero(digest);
}

/* ---- numbers ------------------------------------------------------------- */

#define MICRO UINT64_C(1000000)

/* What power of ten a JSON number's exponent says, three digits of it at most.
 */
static int take_exponent(const char *text, const char *end)
{
    int sign = 1;
    int exponent = 0;

    if (text < end && (*text == '-' || *text == '+')) {
        sign = *text++ == '-' ? -1 : 1;
    }
    for (; text < end && *text >= '0' && *text <= '9'; text++) {
        if (exponent < 100) { exponent = exponent * 10 + (*text - '0'); }
    }
    return sign * exponent;
}

static bool times_ten(uint64_t *number, uint64_t more)
{
    if (*number > (UINT64_MAX - more) / 10) { return false; }
    *number = *number * 10 + more;
    return true;
}

bool mcp_server_scale(const char *text, size_t bytes, uint32_t zeros,
                      uint64_t *number)
{
    const char *end = text + bytes;
    bool fraction = false;
    int power = (int)zeros;

    *number = 0;
    for (; text < end && *text != 'e' && *text != 'E'; text++) {
        if (*text == '.') {
            fraction = true;
        } else if (*text < '0' || *text > '9' ||
                   !times_ten(number, (uint64_t)(*text - '0'))) {
            return false;
        } else if (fraction) {
            power--;
        }
    }
    if (text < end) { power += take_exponent(text + 1, end); }
    for (; power > 0 && *number > 0; power--) {
        if (!times_ten(number, 0)) { return false; }
    }
    for (; power < 0 && *number > 0; power++) { *number /= 10; }
    return *number > 0;
}

/* ---- members ------------------------------------------------------------- */

bool mcp_server_find(const struct mcp_server *server, const char *name,
                     struct cleat_json_value *value)
{
    struct cleat_json_value found;

    if (cleat_json_find(server->json, &server->root, name, &found) !=
            CLEAT_OK ||
        found.type == CLEAT_JSON_NULL) {
        return false;
    }
    *value = found;
    return true;
}

enum cleat_status mcp_server_take(const struct mcp_server *server,
                                  const struct cleat_json_value *string,
                                  struct mcp_room *room, const char **text,
                                  size_t *text_bytes)
{
    size_t bytes;
    enum cleat_status status = cleat_json_string(
        server->json, string, 0, room->at, room->bytes, &bytes, NULL);

    *text = NULL;
    if (text_bytes != NULL) { *text_bytes = bytes; }
    if (status != CLEAT_OK) { return status; }
    *text = room->at;
    room->at += bytes + 1;
    room->bytes -= bytes + 1;
    return CLEAT_OK;
}

enum cleat_status mcp_server_take_member(const struct mcp_server *server,
                                         const char *name,
                                         struct mcp_room *room,
                                         const char **text, size_t *text_bytes)
{
    struct cleat_json_value value;

    if (mcp_server_find(server, name, &value)) {
        return mcp_server_take(server, &value, room, text, text_bytes);
    }
    *text = NULL;
    if (text_bytes != NULL) { *text_bytes = 0; }
    return CLEAT_NOT_FOUND;
}

/* ---- opening ------------------------------------------------------------- */

static bool is_true(const struct mcp_server *server, const char *name)
{
    struct cleat_json_value value;

    return mcp_server_find(server, name, &value) &&
           value.type == CLEAT_JSON_TRUE;
}

/* A number that config.c has written as a string of plain ASCII. Absent is
 * fine. */
static bool read_number(const struct mcp_server *server, const char *name,
                        uint32_t zeros, bool *there, uint64_t *number)
{
    struct cleat_json_value value;

    *there = mcp_server_find(server, name, &value);
    if (!*there) { return true; }
    return value.type == CLEAT_JSON_STRING &&
           mcp_server_scale(server->json + value.offset + 1, value.bytes - 2,
                            zeros, number);
}

static bool read_members(struct mcp_server *server)
{
    struct cleat_json_value value;
    bool has_timeout;

    if (mcp_server_find(server, "native", &value)) {
        server->is_native = value.type == CLEAT_JSON_ARRAY;
        return server->is_native;
    }
    server->is_http = mcp_server_find(server, "url", &value);
    if (server->is_http == mcp_server_find(server, "command", &value)) {
        return false;
    }
    server->is_sse = mcp_server_find(server, "transport", &value) &&
                     cleat_json_equals(server->json, &value, "sse");
    server->prefix = is_true(server, "prefix");
    server->select_all = is_true(server, "select_all");
    if (!read_number(server, "timeout_s", 9, &has_timeout,
                     &server->timeout_ns)) {
        return false;
    }
    return read_number(server, "rate_limit", 6, &server->has_rate,
                       &server->rate_micro) &&
           mcp_server_find(server, "server", &value);
}

enum cleat_status mcp_server_open(struct mcp_server *server, const char *json,
                                  size_t bytes, struct cleat_error *error)
{
    enum cleat_status status;

    memset(server, 0, sizeof *server);
    server->json = json;
    server->bytes = bytes;
    server->timeout_ns = CLEAT_NONE;
    status = cleat_json_check(json, bytes, NULL, &server->root, error);
    if (status != CLEAT_OK) { return status; }
    if (!read_members(server)) {
        return cleat_error_set(error, CLEAT_MALFORMED, 0, 0,
                               "mcp: not the definition of a tool source");
    }
    return CLEAT_OK;
}
