/* Cleat: JSON-RPC 2.0, written and read. SPDX-License-Identifier: Apache-2.0 */
#include "rpc.h"

#include <string.h>

/* ---- writing ------------------------------------------------------------ */

void mcp_out_begin(struct mcp_out *out, char *to, size_t room)
{
    out->to = to;
    out->room = room;
    out->used = 0;
    out->full = false;
}

void mcp_put_bytes(struct mcp_out *out, const char *text, size_t bytes)
{
    if (out->full || bytes > out->room - out->used) {
        out->full = true;
        return;
    }
    if (bytes > 0) { memcpy(out->to + out->used, text, bytes); }
    out->used += bytes;
}

void mcp_put(struct mcp_out *out, const char *text)
{
    mcp_put_bytes(out, text, strlen(text));
}

void mcp_put_text(struct mcp_out *out, struct cleat_text text)
{
    mcp_put_bytes(out, text.text, text.bytes);
}

void mcp_put_number(struct mcp_out *out, uint64_t number)
{
    char digits[20];
    size_t first = sizeof digits;

    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    mcp_put_bytes(out, digits + first, sizeof digits - first);
}

/* What has to be escaped; the rest goes as it is. */
static void put_character(struct mcp_out *out, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    char escape[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15u]};

    if (c == '"' || c == '\\') {
        escape[1] = (char)c;
        mcp_put_bytes(out, escape, 2);
    } else {
        mcp_put_bytes(out, escape, sizeof escape);
    }
}

void mcp_put_string(struct mcp_out *out, struct cleat_text text)
{
    size_t plain = 0; /* where a run of characters begins that go as they are */

    mcp_put(out, "\"");
    for (size_t i = 0; i < text.bytes; i++) {
        unsigned char c = (unsigned char)text.text[i];

        if (c >= 0x20 && c != '"' && c != '\\') { continue; }
        mcp_put_bytes(out, text.text + plain, i - plain);
        put_character(out, c);
        plain = i + 1;
    }
    if (plain < text.bytes) {
        mcp_put_bytes(out, text.text + plain, text.bytes - plain);
    }
    mcp_put(out, "\"");
}

void mcp_put_json(struct mcp_out *out, struct cleat_text json)
{
    size_t first = out->used;

    mcp_put_text(out, json);
    for (size_t i = first; i < out->used; i++) {
        if (out->to[i] == '\n' || out->to[i] == '\r') { out->to[i] = ' '; }
    }
}

void mcp_put_base64(struct mcp_out *out, struct cleat_text text)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "abcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *at = (const unsigned char *)text.text;

    for (size_t i = 0; i < text.bytes; i += 3) {
        size_t left = text.bytes - i;
        uint32_t bits = (uint32_t)at[i] << 16 |
                        (left > 1 ? (uint32_t)at[i + 1] << 8 : 0) |
                        (left > 2 ? (uint32_t)at[i + 2] : 0);
        char four[4] = {letters[bits >> 18], letters[bits >> 12 & 63],
                        left > 1 ? letters[bits >> 6 & 63] : '=',
                        left > 2 ? letters[bits & 63] : '='};

        mcp_put_bytes(out, four, sizeof four);
    }
}

void mcp_clean(struct cleat_text text, size_t shown, char *to, size_t room)
{
    size_t bytes = text.bytes;
    bool cut;

    if (room == 0) { return; }
    if (shown > room - 1) { shown = room - 1; }
    cut = bytes > shown;
    if (cut) {
        bytes = shown >= 3 ? shown - 3 : 0;
        while (bytes > 0 && ((unsigned char)text.text[bytes] & 0xC0) == 0x80) {
            bytes--;
        }
    }
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text.text[i];

        to[i] = c < 0x20 || c == 0x7F ? '?' : text.text[i];
    }
    if (cut && shown >= 3) {
        memcpy(to + bytes, "...", 3);
        bytes += 3;
    }
    to[bytes] = '\0';
}

/* ---- reading ------------------------------------------------------------ */

bool mcp_members(const char *text, const struct cleat_json_value *object,
                 struct mcp_member *members, size_t count)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;

    for (size_t i = 0; i < count; i++) { members[i].there = false; }
    if (object->type != CLEAT_JSON_OBJECT) { return false; }
    cleat_json_open(text, object, &cursor);
    while (cleat_json_next_member(text, &cursor, &key, &value)) {
        for (size_t i = 0; i < count; i++) {
            if (!cleat_json_equals(text, &key, members[i].name)) { continue; }
            if (members[i].there) { return false; }
            members[i].there = true;
            members[i].value = value;
            break;
        }
    }
    return true;
}

bool mcp_string(const char *text, const struct cleat_json_value *value,
                uint32_t options, char *room, size_t room_bytes,
                struct cleat_text *string)
{
    size_t bytes;

    if (value->type != CLEAT_JSON_STRING) { return false; }
    if (memchr(text + value->offset, '\\', value->bytes) == NULL) {
        *string = mcp_text(text + value->offset + 1, value->bytes - 2);
        return true;
    }
    if (cleat_json_string(text, value, options, room, room_bytes, &bytes,
                          NULL) != CLEAT_OK) {
        return false;
    }
    *string = mcp_text(room, bytes);
    return true;
}

bool mcp_same(struct cleat_text a, struct cleat_text b)
{
    return a.bytes == b.bytes &&
           (a.bytes == 0 || memcmp(a.text, b.text, a.bytes) == 0);
}

uint64_t mcp_hash(struct cleat_text text)
{
    uint64_t hash = UINT64_C(14695981039346656037);

    for (size_t i = 0; i < text.bytes; i++) {
        hash ^= (unsigned char)text.text[i];
        hash *= UINT64_C(1099511628211);
    }
    return hash;
}

/* ---- one message -------------------------------------------------------- */

static void open_error(struct mcp_rpc *rpc,
                       const struct cleat_json_value *error)
{
    struct mcp_member members[] = {
        {.name = "code"}, {.name = "message"}, {.name = "data"}};

    if (!mcp_members(rpc->text, error, members, 3) || !members[0].there ||
        cleat_json_i64(rpc->text, &members[0].value, &rpc->code, NULL) !=
            CLEAT_OK) {
        return;
    }
    rpc->kind = MCP_RPC_ERROR;
    rpc->has_message = members[1].there &&
                       members[1].value.type == CLEAT_JSON_STRING;
    rpc->message = members[1].value;
    rpc->has_data = members[2].there;
    rpc->data = members[2].value;
}

void mcp_rpc_open(struct mcp_rpc *rpc, const char *text,
                  const struct cleat_json_value *value)
{
    enum { VERSION, ID, METHOD, PARAMS, RESULT, ERROR, COUNT };
    struct mcp_member m[COUNT] = {{.name = "jsonrpc"}, {.name = "id"},
                                  {.name = "method"},  {.name = "params"},
                                  {.name = "result"},  {.name = "error"}};

    memset(rpc, 0, sizeof *rpc);
    rpc->text = text;
    if (!mcp_members(text, value, m, COUNT) || !m[VERSION].there ||
        !cleat_json_equals(text, &m[VERSION].value, "2.0")) {
        return;
    }
    rpc->has_id = m[ID].there && (m[ID].value.type == CLEAT_JSON_STRING ||
                                  m[ID].value.type == CLEAT_JSON_NUMBER);
    rpc->id = m[ID].value;
    if (m[METHOD].there) {
        if (m[METHOD].value.type != CLEAT_JSON_STRING) { return; }
        rpc->method = m[METHOD].value;
        rpc->has_params = m[PARAMS].there &&
                          m[PARAMS].value.type == CLEAT_JSON_OBJECT;
        rpc->params = m[PARAMS].value;
        rpc->kind = rpc->has_id ? MCP_RPC_REQUEST : MCP_RPC_NOTIFICATION;
    } else if (m[ERROR].there && m[ERROR].value.type != CLEAT_JSON_NULL) {
        open_error(rpc, &m[ERROR].value);
    } else if (m[RESULT].there && rpc->has_id) {
        rpc->result = m[RESULT].value;
        rpc->kind = MCP_RPC_RESULT;
    }
}

uint64_t mcp_rpc_number(const struct mcp_rpc *rpc)
{
    uint64_t number = 0;

    if (!rpc->has_id || rpc->id.type != CLEAT_JSON_NUMBER) { return 0; }
    (void)cleat_json_u64(rpc->text, &rpc->id, &number, NULL);
    return number;
}
