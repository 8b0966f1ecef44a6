/* Cleat: texts that several things hold. SPDX-License-Identifier: Apache-2.0
 *
 * Definitions and paths come from callers, and are kept for as long as a
 * request, a session or a watch needs them. The same text is kept once. No lock
 * here. */
#ifndef CLEAT_PORT_MCP_TEXTS_H
#define CLEAT_PORT_MCP_TEXTS_H

#include <stdbool.h>

#include "cleat/tools.h"

/* One that is kept. */
struct mcp_texts_entry {
    size_t offset;
    size_t bytes;        /* without the NUL behind it */
    uint32_t references; /* 0: free */
};

struct mcp_texts {
    struct mcp_texts_entry *entries; /* the caller's, as is the room */
    uint32_t entries_count;
    char *room;
    size_t bytes;
};

#define MCP_TEXTS_NOTHING UINT32_MAX

void mcp_texts_init(struct mcp_texts *texts, struct mcp_texts_entry *entries,
                    uint32_t entries_count, char *room, size_t bytes);

/* Copies a text, with a NUL behind it, or finds that it is kept already.
 * Returns its handle; MCP_TEXTS_NOTHING: there is no room now. */
uint32_t mcp_texts_hold(struct mcp_texts *texts, struct cleat_text text);

/* Holds once more what is held. */
void mcp_texts_share(struct mcp_texts *texts, uint32_t handle);

/* Lets go of it. */
void mcp_texts_release(struct mcp_texts *texts, uint32_t handle);

/* The text, which stays where it is for as long as it is held. */
struct cleat_text mcp_texts_at(const struct mcp_texts *texts, uint32_t handle);

#endif
