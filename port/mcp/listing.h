/* Cleat: pages of tools/list, made one list. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef CLEAT_PORT_MCP_LISTING_H
#define CLEAT_PORT_MCP_LISTING_H

#include "engine.h"
#include "rpc.h"

#define MCP_LISTING_THERE_MAX 112u

/* What is the same for all pages of a walk. */
struct mcp_listing_rules {
    const struct mcp_list *list;
    struct cleat_text server;
    uint32_t pages_max;
    uint32_t tools_max;
    bool modern;        /* 2026-07-28: results say how long they are fresh */
    bool check_headers; /* leave tools out whose x-mcp-header is not allowed */
    char *room; /* for strings whose escapes are undone: as much as a message */
    size_t room_bytes;
};

/* A walk over the pages, from the first one on. */
struct mcp_listing {
    struct cleat_tools_writer writer;
    uint64_t ttl_ns; /* the least of all pages; CLEAT_NONE: none said */
    uint32_t pages;
    uint32_t kept;
    uint32_t left_out;
    bool too_small; /* go on, to learn how large a block is enough */
    /* Cursors that come again (Brent): one of those seen is kept, and replaced
     * after 1, 2, 4 … steps. */
    uint64_t cursor_sent;
    uint64_t cursor_kept;
    uint32_t steps;
    uint32_t steps_max;
    size_t there_bytes; /* the names of the tools that there are */
    char there[MCP_LISTING_THERE_MAX];
};

/* Begins a walk, in the block of the list; what was in it is gone. */
enum cleat_status mcp_listing_begin(struct mcp_listing *listing,
                                    const struct mcp_listing_rules *rules,
                                    struct cleat_error *error);

/* Takes one page, a result of tools/list.
 *   text     that it lies in, checked JSON
 *   cursor   of the next page, a string as it stands in the text
 *   more     false: there is none
 * Returns CLEAT_OK; CLEAT_PEER_DEVIANT: it is not what the protocol says, or a
 * cursor has come again; CLEAT_LIMIT: pages_max, tools_max or room. */
enum cleat_status mcp_listing_page(struct mcp_listing *listing,
                                   const struct mcp_listing_rules *rules,
                                   const char *text,
                                   const struct cleat_json_value *result,
                                   struct cleat_json_value *cursor, bool *more,
                                   struct cleat_error *error);

/* Ends it. Returns CLEAT_OK with *bytes of the block; CLEAT_TOO_SMALL with the
 * bytes needed in error->offset; CLEAT_NOT_FOUND: a tool was selected that
 * there is none of. */
enum cleat_status mcp_listing_end(struct mcp_listing *listing,
                                  const struct mcp_listing_rules *rules,
                                  size_t *bytes, struct cleat_error *error);

/* Looks for a tool on one page, by its name on the wire.
 * Returns CLEAT_OK with *schema, its inputSchema; CLEAT_NOT_FOUND with *more as
 * above; CLEAT_PEER_DEVIANT; CLEAT_LIMIT. */
enum cleat_status mcp_listing_look(
    struct mcp_listing *listing, const struct mcp_listing_rules *rules,
    const char *text, const struct cleat_json_value *result,
    struct cleat_text name, struct cleat_json_value *schema,
    struct cleat_json_value *cursor, bool *more, struct cleat_error *error);

/* cleat_error_set with a formatted text. */
enum cleat_status mcp_fail(struct cleat_error *error, enum cleat_status status,
                           const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
