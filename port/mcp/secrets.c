/* Cleat: secrets kept out of texts. SPDX-License-Identifier: Apache-2.0 */
#include "secrets.h"

#include <string.h>

#define SECRET_BYTES_MAX ((size_t)8192)

struct hiding {
    const struct mcp_server *server;
    char *text;
    size_t bytes;
};

/* Replaces `bytes` bytes at `offset`, more than the stars are. */
static void blot(struct hiding *hiding, size_t offset, size_t bytes)
{
    static const char stars[] = {'*', '*', '*'};

    memcpy(hiding->text + offset, stars, sizeof stars);
    memmove(hiding->text + offset + sizeof stars, hiding->text + offset + bytes,
            hiding->bytes - offset - bytes);
    hiding->bytes -= bytes - sizeof stars;
}

/* The longest beginning of the secret that the text ends with. */
static void hide_cut(struct hiding *hiding, const char *secret, size_t bytes)
{
    if (bytes > hiding->bytes) { bytes = hiding->bytes; }
    for (; bytes >= MCP_SECRET_BYTES_MIN; bytes--) {
        size_t offset = hiding->bytes - bytes;
        if (memcmp(hiding->text + offset, secret, bytes) == 0) {
            blot(hiding, offset, bytes);
            return;
        }
    }
}

static void hide(struct hiding *hiding, const char *secret, size_t bytes)
{
    if (bytes < MCP_SECRET_BYTES_MIN) { return; }
    for (size_t i = 0; i + bytes <= hiding->bytes; i++) {
        if (memcmp(hiding->text + i, secret, bytes) == 0) {
            blot(hiding, i, bytes);
        }
    }
    hide_cut(hiding, secret, bytes);
}

/* Decodes one value; false where it is too long. */
static bool decode(const struct hiding *hiding,
                   const struct cleat_json_value *value, char *secret,
                   size_t *bytes)
{
    return cleat_json_string(hiding->server->json, value,
                             CLEAT_JSON_REPLACE_LONE, secret, SECRET_BYTES_MAX,
                             bytes, NULL) == CLEAT_OK;
}

static bool hide_value(struct hiding *hiding,
                       const struct cleat_json_value *value)
{
    char secret[SECRET_BYTES_MAX];
    size_t bytes;

    if (!decode(hiding, value, secret, &bytes)) { return false; }
    hide(hiding, secret, bytes);
    const char *space = strrchr(secret, ' ');
    if (space != NULL) { hide(hiding, space + 1, strlen(space + 1)); }
    return true;
}

/* Values in the query: "?name=value&…". */
static bool hide_query(struct hiding *hiding,
                       const struct cleat_json_value *url)
{
    char text[SECRET_BYTES_MAX];
    size_t bytes;

    if (!decode(hiding, url, text, &bytes)) { return false; }
    char *at = strchr(text, '?');
    while (at != NULL) {
        char *end = at + 1 + strcspn(at + 1, "&#");
        char *value = memchr(at, '=', (size_t)(end - at));
        char *next = *end == '&' ? end : NULL;
        *end = '\0';
        if (value != NULL) { hide(hiding, value + 1, strlen(value + 1)); }
        at = next;
    }
    return true;
}

static bool hide_members(struct hiding *hiding, const char *name)
{
    struct cleat_json_value object;
    struct cleat_json_value key;
    struct cleat_json_value value;
    struct cleat_json_cursor cursor;
    const char *json = hiding->server->json;

    if (!mcp_server_find(hiding->server, name, &object)) { return true; }
    cleat_json_open(json, &object, &cursor);
    while (cleat_json_next_member(json, &cursor, &key, &value)) {
        if (!hide_value(hiding, &value)) { return false; }
    }
    return true;
}

size_t mcp_secrets_hide(const struct mcp_server *server, char *text,
                        size_t bytes)
{
    struct hiding hiding = {server, text, bytes};
    struct cleat_json_value value;
    bool known = true;

    if (bytes == 0) { return 0; }
    if (mcp_server_find(server, "token", &value)) {
        known = hide_value(&hiding, &value);
    }
    if (known && mcp_server_find(server, "url", &value)) {
        known = hide_query(&hiding, &value);
    }
    known = known && hide_members(&hiding, "env") &&
            hide_members(&hiding, "headers");
    return known ? hiding.bytes : 0;
}
