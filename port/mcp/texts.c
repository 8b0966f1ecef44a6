/* Cleat: texts that several things hold. SPDX-License-Identifier: Apache-2.0 */
#include "texts.h"

#include <string.h>

void mcp_texts_init(struct mcp_texts *texts, struct mcp_texts_entry *entries,
                    uint32_t entries_count, char *room, size_t bytes)
{
    memset(entries, 0, entries_count * sizeof *entries);
    *texts = (struct mcp_texts){entries, entries_count, room, bytes};
}

static uint32_t find(const struct mcp_texts *texts, struct cleat_text text)
{
    for (uint32_t i = 0; i < texts->entries_count; i++) {
        const struct mcp_texts_entry *entry = &texts->entries[i];
        if (entry->references > 0 && entry->bytes == text.bytes &&
            (text.bytes == 0 ||
             memcmp(texts->room + entry->offset, text.text, text.bytes) == 0)) {
            return i;
        }
    }
    return MCP_TEXTS_NOTHING;
}

static uint32_t find_free(const struct mcp_texts *texts)
{
    for (uint32_t i = 0; i < texts->entries_count; i++) {
        if (texts->entries[i].references == 0) { return i; }
    }
    return MCP_TEXTS_NOTHING;
}

static size_t end_of(const struct mcp_texts_entry *entry)
{
    return entry->offset + entry->bytes + 1;
}

static bool is_free(const struct mcp_texts *texts, size_t offset, size_t bytes)
{
    if (bytes > texts->bytes || offset > texts->bytes - bytes) { return false; }
    for (uint32_t i = 0; i < texts->entries_count; i++) {
        const struct mcp_texts_entry *entry = &texts->entries[i];
        if (entry->references > 0 && offset < end_of(entry) &&
            entry->offset < offset + bytes) {
            return false;
        }
    }
    return true;
}

/* A gap that is large enough begins at the start or behind a text, if there is
 * one at all. */
static bool find_gap(const struct mcp_texts *texts, size_t bytes,
                     size_t *offset)
{
    *offset = 0;
    if (is_free(texts, 0, bytes)) { return true; }
    for (uint32_t i = 0; i < texts->entries_count; i++) {
        const struct mcp_texts_entry *entry = &texts->entries[i];
        if (entry->references == 0) { continue; }
        *offset = end_of(entry);
        if (is_free(texts, *offset, bytes)) { return true; }
    }
    return false;
}

uint32_t mcp_texts_hold(struct mcp_texts *texts, struct cleat_text text)
{
    uint32_t handle = find(texts, text);
    size_t offset;

    if (handle != MCP_TEXTS_NOTHING) {
        texts->entries[handle].references++;
        return handle;
    }
    handle = find_free(texts);
    if (handle == MCP_TEXTS_NOTHING || text.bytes == SIZE_MAX ||
        !find_gap(texts, text.bytes + 1, &offset)) {
        return MCP_TEXTS_NOTHING;
    }
    texts->entries[handle] = (struct mcp_texts_entry){offset, text.bytes, 1};
    if (text.bytes > 0) { memcpy(texts->room + offset, text.text, text.bytes); }
    texts->room[offset + text.bytes] = '\0';
    return handle;
}

void mcp_texts_share(struct mcp_texts *texts, uint32_t handle)
{
    texts->entries[handle].references++;
}

void mcp_texts_release(struct mcp_texts *texts, uint32_t handle)
{
    texts->entries[handle].references--;
}

struct cleat_text mcp_texts_at(const struct mcp_texts *texts, uint32_t handle)
{
    const struct mcp_texts_entry *entry = &texts->entries[handle];

    return (struct cleat_text){texts->room + entry->offset, entry->bytes};
}
