/* Cleat: secrets kept out of texts. SPDX-License-Identifier: Apache-2.0 */
#include "secrets.h"

#include <string.h>

/* The longest text that is looked through, and the most of a secret that is
 * looked at: what is longer is known by its beginning. */
#define TEXT_BYTES_MAX ((size_t)4096)
#define SECRET_BYTES_MAX ((size_t)8192)

/* What of a text is secret, a bit a byte: found in the text as it was, since
 * one secret may be part of another. */
struct hiding {
    const struct mcp_server *server;
    char *text;
    size_t bytes;
    uint8_t secret[TEXT_BYTES_MAX / 8];
};

static void mark(struct hiding *hiding, size_t offset, size_t bytes)
{
    for (size_t i = offset; i < offset + bytes; i++) {
        hiding->secret[i / 8] |= (uint8_t)(1u << i % 8);
    }
}

static bool is_marked(const struct hiding *hiding, size_t i)
{
    return (hiding->secret[i / 8] >> i % 8 & 1u) != 0;
}

/* Each place where the secret stands, or begins and the text ends. */
static void find(struct hiding *hiding, const char *secret, size_t bytes)
{
    if (bytes < MCP_SECRET_BYTES_MIN) { return; }
    for (size_t i = 0; i + MCP_SECRET_BYTES_MIN <= hiding->bytes; i++) {
        size_t left = hiding->bytes - i;
        size_t there = bytes < left ? bytes : left;
        if (memcmp(hiding->text + i, secret, there) == 0) {
            mark(hiding, i, there);
        }
    }
}

/* A secret, and each line of it: a text may be one of its lines. */
static void find_lines(struct hiding *hiding, const char *secret, size_t bytes)
{
    size_t begin = 0;

    find(hiding, secret, bytes);
    for (size_t i = 0; i <= bytes; i++) {
        if (i < bytes && secret[i] != '\n' && secret[i] != '\r') { continue; }
        find(hiding, secret + begin, i - begin);
        begin = i + 1;
    }
}

/* Decodes a value, as far as it is looked at. */
static size_t decode(const struct hiding *hiding,
                     const struct cleat_json_value *value, char *secret)
{
    size_t bytes = 0;

    secret[0] = '\0';
    if (cleat_json_string(hiding->server->json, value, CLEAT_JSON_REPLACE_LONE,
                          secret, SECRET_BYTES_MAX, &bytes,
                          NULL) == CLEAT_TOO_SMALL) {
        bytes = SECRET_BYTES_MAX; /* as much was written */
    }
    return bytes;
}

static void find_value(struct hiding *hiding,
                       const struct cleat_json_value *value)
{
    char secret[SECRET_BYTES_MAX];
    size_t bytes = decode(hiding, value, secret);
    size_t behind = bytes;

    find_lines(hiding, secret, bytes);
    while (behind > 0 && secret[behind - 1] != ' ') { behind--; }
    if (behind > 0) { find(hiding, secret + behind, bytes - behind); }
}

/* Values in the query: "?name=value&…". */
static void find_query(struct hiding *hiding,
                       const struct cleat_json_value *url)
{
    char text[SECRET_BYTES_MAX];
    size_t bytes = decode(hiding, url, text);
    const char *end = text + bytes;
    const char *at = memchr(text, '?', bytes);

    while (at != NULL && at < end) {
        const char *next = at + 1;
        while (next < end && *next != '&' && *next != '#') { next++; }
        const char *value = memchr(at, '=', (size_t)(next - at));
        if (value != NULL) {
            find(hiding, value + 1, (size_t)(next - value - 1));
        }
        at = next < end && *next == '&' ? next : NULL;
    }
}

static void find_members(struct hiding *hiding, const char *name)
{
    struct cleat_json_value object;
    struct cleat_json_value key;
    struct cleat_json_value value;
    struct cleat_json_cursor cursor;
    const char *json = hiding->server->json;

    if (!mcp_server_find(hiding->server, name, &object)) { return; }
    cleat_json_open(json, &object, &cursor);
    while (cleat_json_next_member(json, &cursor, &key, &value)) {
        find_value(hiding, &value);
    }
}

/* Stars in the place of each run of secret bytes. A run is never shorter than
 * the stars are. */
static size_t blot(struct hiding *hiding)
{
    static const char stars[] = {'*', '*', '*'};
    size_t to = 0;

    _Static_assert(sizeof stars <= MCP_SECRET_BYTES_MIN, "text never grows");
    for (size_t i = 0; i < hiding->bytes; i++) {
        if (!is_marked(hiding, i)) {
            hiding->text[to++] = hiding->text[i];
        } else if (i + 1 == hiding->bytes || !is_marked(hiding, i + 1)) {
            memcpy(hiding->text + to, stars, sizeof stars);
            to += sizeof stars;
        }
    }
    return to;
}

size_t mcp_secrets_hide(const struct mcp_server *server, char *text,
                        size_t bytes)
{
    struct hiding hiding = {.server = server, .text = text, .bytes = bytes};
    struct cleat_json_value value;

    if (bytes > TEXT_BYTES_MAX) { hiding.bytes = TEXT_BYTES_MAX; }
    if (mcp_server_find(server, "token", &value)) {
        find_value(&hiding, &value);
    }
    if (mcp_server_find(server, "url", &value)) { find_query(&hiding, &value); }
    find_members(&hiding, "env");
    find_members(&hiding, "headers");
    return blot(&hiding);
}
