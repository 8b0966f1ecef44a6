/* Cleat: lists of tools, and how they are got without a lock.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tools_state.h"

/* ---- hits --------------------------------------------------------------- */

/* What a view says, while it is looked at. */
struct seen {
    uint32_t count; /* of sources */
    uint32_t tools;
    struct tools_pair pairs[1 + CLEAT_TOOL_SOURCES_MAX];
};

static bool is_of_path(const struct tools_view *view, const char *path,
                       size_t bytes)
{
    if (tools_read(&view->path_bytes) != bytes) { return false; }
    for (size_t at = 0; at < bytes; at += 8) {
        if (tools_read(&view->path[at / 8]) != tools_word(path, bytes, at)) {
            return false;
        }
    }
    return true;
}

/* Reads a view of a path; false: it is of another, or is being written. */
static bool read_view(const struct tools_view *view, const char *path,
                      size_t bytes, struct seen *seen)
{
    uint64_t turn = tools_load(&view->turn);

    if ((turn & 1) != 0 || !is_of_path(view, path, bytes)) { return false; }
    TOOLS_POINT();
    seen->count = (uint32_t)tools_read(&view->count);
    seen->tools = (uint32_t)tools_read(&view->tools);
    if (seen->count > CLEAT_TOOL_SOURCES_MAX) { return false; }
    for (uint32_t i = 0; i <= seen->count; i++) {
        seen->pairs[i].word = tools_read(&view->pairs[i].word);
        seen->pairs[i].slot = tools_read(&view->pairs[i].slot);
    }
    return tools_load(&view->turn) == turn;
}

/* The place of a path's view: where it is, or where it would be; every place
 * taken: the first. */
static uint32_t place_of(const struct cleat_tool_service *service,
                         uint64_t hash)
{
    uint32_t first = (uint32_t)((hash & UINT32_MAX) * service->views_count >>
                                32);
    uint32_t place = first;

    do {
        uint64_t there = tools_read(&service->hashes[place]);

        if (there == hash || there == 0) { return place; }
        place = place + 1 < service->views_count ? place + 1 : 0;
    } while (place != first);
    return first;
}

/* Lets go of the first `count` of what was pinned, as if it had not been. */
static void take_back(struct cleat_tool_service *service,
                      const struct seen *seen, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        tools_add(&service->lines[seen->pairs[i].slot].pins,
                  UINT64_C(0) - TOOLS_HIT);
    }
}

/* Pins what a view says, where all of it is published still. A pin comes
 * before its look: see tools_state.h. */
static bool pin_seen(struct cleat_tool_service *service,
                     const struct seen *seen)
{
    uint64_t until_ns = CLEAT_NEVER;

    for (uint32_t i = 0; i <= seen->count; i++) {
        struct tools_line *line = &service->lines[seen->pairs[i].slot];
        uint64_t fresh_until_ns;

        tools_add(&line->pins, TOOLS_HIT);
        if (tools_load(&line->word) != seen->pairs[i].word) {
            take_back(service, seen, i + 1);
            return false;
        }
        fresh_until_ns = tools_read(&line->fresh_until_ns);
        if (fresh_until_ns < until_ns) { until_ns = fresh_until_ns; }
    }
    if (until_ns != CLEAT_NEVER && until_ns <= drive_now_ns(&service->ports)) {
        take_back(service, seen, seen->count + 1);
        return false;
    }
    return true;
}

bool tool_service_hit(struct cleat_tool_service *service, const char *path,
                      size_t bytes, uint64_t hash, struct cleat_tool_list *list)
{
    uint32_t place = place_of(service, hash);
    struct seen seen;

    if (tools_read(&service->hashes[place]) != hash ||
        !read_view(&service->views[place], path, bytes, &seen) ||
        !pin_seen(service, &seen)) {
        return false;
    }
    list->service = service;
    list->config_slot = (uint32_t)seen.pairs[0].slot;
    list->sources = tools_value(service, list->config_slot);
    list->count = seen.count;
    list->tools = seen.tools;
    list->stale = false;
    for (uint32_t i = 0; i < seen.count; i++) {
        struct cleat_tool_part *part = &list->parts[i];

        part->slot = (uint32_t)seen.pairs[1 + i].slot;
        part->tools = tools_value(service, part->slot);
        part->status = CLEAT_OK;
    }
    return true;
}

static struct tools_pair pair_of(const struct cleat_tool_service *service,
                                 uint32_t slot)
{
    struct tools_pair pair = {service->slots[slot].load << 1 | TOOLS_PUBLISHED,
                              slot};

    return pair;
}

static void write_pair(struct tools_pair *pair,
                       const struct cleat_tool_service *service, uint32_t slot)
{
    struct tools_pair value = pair_of(service, slot);

    tools_write(&pair->word, value.word);
    tools_write(&pair->slot, value.slot);
}

void tool_service_show(const struct tools_get *get)
{
    struct cleat_tool_service *service = get->service;
    const struct cleat_tool_list *list = get->list;
    uint32_t place = place_of(service, get->hash);
    struct tools_view *view = &service->views[place];

    for (uint32_t i = 0; i < list->count; i++) {
        if (list->parts[i].tools == NULL) { return; }
    }
    tools_store(&view->turn, view->turn + 1);
    tools_write(&view->path_bytes, get->path_bytes);
    for (size_t at = 0; at < get->path_bytes; at += 8) {
        tools_write(&view->path[at / 8],
                    tools_word(get->path, get->path_bytes, at));
    }
    TOOLS_POINT();
    tools_write(&view->count, list->count);
    tools_write(&view->tools, list->tools);
    write_pair(&view->pairs[0], service, list->config_slot);
    for (uint32_t i = 0; i < list->count; i++) {
        write_pair(&view->pairs[1 + i], service, list->parts[i].slot);
    }
    tools_store(&view->turn, view->turn + 1);
    tools_write(&service->hashes[place], get->hash);
}

/* ---- pins --------------------------------------------------------------- */

void tool_service_empty(struct cleat_tool_list *list)
{
    list->service = NULL;
    list->sources = NULL;
    list->config_slot = TOOLS_NOBODY;
    list->count = 0;
    list->tools = 0;
    list->stale = false;
}

void cleat_tools_pin(const struct cleat_tool_list *list,
                     struct cleat_tool_list *again)
{
    struct cleat_tool_service *service = list->service;

    if (again == list) { return; }
    if (service != NULL) {
        tools_add(&service->lines[list->config_slot].pins, TOOLS_PIN);
        for (uint32_t i = 0; i < list->count; i++) {
            if (list->parts[i].tools == NULL) { continue; }
            tools_add(&service->lines[list->parts[i].slot].pins, TOOLS_PIN);
        }
    }
    *again = *list;
}

void cleat_tools_unpin(struct cleat_tool_list *list)
{
    const struct cleat_tool_service *service = list->service;

    if (service != NULL) {
        for (uint32_t i = 0; i < list->count; i++) {
            if (list->parts[i].tools == NULL) { continue; }
            tools_unpin_slot(service, list->parts[i].slot);
        }
        tools_unpin_slot(service, list->config_slot);
    }
    tool_service_empty(list);
}

/* ---- reading ------------------------------------------------------------ */

bool cleat_tool_list_next(const struct cleat_tool_list *list,
                          uint32_t *position, struct cleat_tool *tool)
{
    uint32_t number = *position;

    for (uint32_t i = 0; i < list->count; i++) {
        const struct cleat_tools *tools = list->parts[i].tools;
        uint32_t count = tools != NULL ? cleat_tools_count(tools) : 0;

        if (number < count) {
            cleat_tools_at(tools, number, tool);
            ++*position;
            return true;
        }
        number -= count;
    }
    return false;
}

enum cleat_status cleat_tool_list_find(const struct cleat_tool_list *list,
                                       const char *name,
                                       struct cleat_tool *tool,
                                       uint32_t *source)
{
    size_t bytes = strlen(name);
    uint32_t number;

    for (uint32_t i = 0; i < list->count; i++) {
        const struct cleat_tools *tools = list->parts[i].tools;

        if (tools == NULL ||
            cleat_tools_find(tools, name, bytes, &number) != CLEAT_OK) {
            continue;
        }
        cleat_tools_at(tools, number, tool);
        if (source != NULL) { *source = i; }
        return CLEAT_OK;
    }
    return CLEAT_NOT_FOUND;
}

/* ---- copies ------------------------------------------------------------- */

static size_t part_bytes(const struct cleat_tool_part *part)
{
    if (part->tools == NULL) { return 0; }
    return (cleat_tools_bytes(part->tools) + 7) & ~(size_t)7;
}

size_t cleat_tool_list_bytes(const struct cleat_tool_list *list)
{
    size_t bytes = 0;

    for (uint32_t i = 0; i < list->count; i++) {
        bytes += part_bytes(&list->parts[i]);
    }
    return bytes;
}

enum cleat_status cleat_tool_list_copy(const struct cleat_tool_list *list,
                                       void *block, size_t bytes,
                                       struct cleat_tool_list *copy,
                                       struct cleat_error *error)
{
    size_t needed = cleat_tool_list_bytes(list);
    unsigned char *next = block;

    tool_service_empty(copy);
    if (needed > 0 && (block == NULL || (uintptr_t)block % 8 != 0)) {
        return cleat_error_set(error, CLEAT_INVALID, 1, 0,
                               "tools: a block aligned to 8 bytes is needed");
    }
    if (bytes < needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 2, needed,
                               "tools: the block is smaller than the list");
    }
    for (uint32_t i = 0; i < list->count; i++) {
        struct cleat_tool_part *part = &copy->parts[i];

        *part = list->parts[i];
        part->slot = TOOLS_NOBODY;
        if (part->tools == NULL) { continue; }
        memcpy(next, part->tools, cleat_tools_bytes(part->tools));
        part->tools = (const struct cleat_tools *)(const void *)next;
        next += part_bytes(&list->parts[i]);
    }
    copy->count = list->count;
    copy->tools = list->tools;
    copy->stale = list->stale;
    return CLEAT_OK;
}
