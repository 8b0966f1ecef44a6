/* Cleat: JSON-RPC 2.0, written and read. SPDX-License-Identifier: Apache-2.0
 *
 * Everything works on slices of texts that stay where they are, and writes into
 * room that the caller gives; what does not fit is noted, never cut. */
#ifndef CLEAT_PORT_MCP_RPC_H
#define CLEAT_PORT_MCP_RPC_H

#include "cleat/json.h"
#include "cleat/tools.h"

/* ---- writing ------------------------------------------------------------ */

/* A text that grows in the caller's room. */
struct mcp_out {
    char *to;
    size_t room;
    size_t used;
    bool full; /* something did not fit: `used` is no more than what did */
};

void mcp_out_begin(struct mcp_out *out, char *to, size_t room);
void mcp_put(struct mcp_out *out, const char *text);
void mcp_put_bytes(struct mcp_out *out, const char *text, size_t bytes);
void mcp_put_text(struct mcp_out *out, struct cleat_text text);
void mcp_put_number(struct mcp_out *out, uint64_t number);
/* A JSON string of UTF-8, with its quotes (RFC 8259, section 7). */
void mcp_put_string(struct mcp_out *out, struct cleat_text text);
/* JSON as it stands, but in one line: space between its tokens that would end
 * the line becomes a blank. */
void mcp_put_json(struct mcp_out *out, struct cleat_text json);
/* Standard base64 with padding (RFC 4648, section 4). */
void mcp_put_base64(struct mcp_out *out, struct cleat_text text);

static inline struct cleat_text mcp_text(const char *text, size_t bytes)
{
    struct cleat_text made = {text, bytes};

    return made;
}

/* The text of a JSON value, as it stands. */
static inline struct cleat_text mcp_slice(const char *text,
                                          const struct cleat_json_value *value)
{
    return mcp_text(text + value->offset, value->bytes);
}

/* Copies a text so that it can be shown in a line: control characters become
 * '?', and it is cut, at a character's end, with "..." where it is longer than
 * `shown` bytes, at most room - 1. NUL-terminated. */
void mcp_clean(struct cleat_text text, size_t shown, char *to, size_t room);

/* ---- reading ------------------------------------------------------------ */

/* A member of an object that somebody wants to know. */
struct mcp_member {
    const char *name;
    struct cleat_json_value value;
    bool there;
};

/* Finds all of them in one walk.
 * Returns false where `object` is no object, or has one of them twice: what it
 * means then depends on who reads it. */
bool mcp_members(const char *text, const struct cleat_json_value *object,
                 struct mcp_member *members, size_t count);

/* Undoes a string's escapes. Without any it is a slice of the text, otherwise
 * it is written to `room` (value->bytes are always enough).
 *   options   CLEAT_JSON_…
 * Returns false where it is no string, holds what is not allowed, or does not
 * fit. */
bool mcp_string(const char *text, const struct cleat_json_value *value,
                uint32_t options, char *room, size_t room_bytes,
                struct cleat_text *string);

/* Whether two texts are the same bytes. */
bool mcp_same(struct cleat_text a, struct cleat_text b);

/* 64 bits that say which text it is (FNV-1a). */
uint64_t mcp_hash(struct cleat_text text);

/* ---- one message -------------------------------------------------------- */

enum mcp_rpc_kind {
    MCP_RPC_NONE, /* valid JSON that is no JSON-RPC 2.0 message */
    MCP_RPC_REQUEST,
    MCP_RPC_NOTIFICATION,
    MCP_RPC_RESULT,
    MCP_RPC_ERROR
};

struct mcp_rpc {
    const char *text;
    enum mcp_rpc_kind kind;
    struct cleat_json_value id; /* a string or a number, where it has one */
    bool has_id;
    struct cleat_json_value method;
    struct cleat_json_value params; /* an object, where there are any */
    bool has_params;
    struct cleat_json_value result; /* any value */
    /* MCP_RPC_ERROR */
    int64_t code;
    struct cleat_json_value message; /* a string, where it has one */
    bool has_message;
    struct cleat_json_value data;
    bool has_data;
};

/* Opens one message, of a text that cleat_json_check has accepted. */
void mcp_rpc_open(struct mcp_rpc *rpc, const char *text,
                  const struct cleat_json_value *value);

/* The id where it is a number in plain digits, as all of ours are; 0 for any
 * other. A string "1" is another id than the number 1. */
uint64_t mcp_rpc_number(const struct mcp_rpc *rpc);

#endif
