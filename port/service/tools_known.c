/* Cleat: what the tool service knows of keys, and watches.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tools_state.h"

/* ---- what is known ------------------------------------------------------ */

struct tools_known *tool_service_known(const struct cleat_tool_service *service,
                                       uint64_t key)
{
    for (uint32_t i = 0; i < service->entries_count; i++) {
        if (service->known[i].key == key) { return &service->known[i]; }
    }
    return NULL;
}

struct tools_known *tool_service_know(struct cleat_tool_service *service,
                                      uint32_t entry, uint64_t key)
{
    struct tools_known *known = &service->known[entry];
    struct tools_known *before = tool_service_known(service, key);

    if (before == known) { return known; }
    if (before != NULL) {
        *known = *before;
        memset(before, 0, sizeof *before);
        return known;
    }
    memset(known, 0, sizeof *known);
    known->key = key;
    return known;
}

uint32_t tool_service_find_value(const struct cleat_tool_service *service,
                                 uint64_t key)
{
    uint32_t found = TOOLS_NOBODY;

    for (uint32_t i = 0; i < service->slots_count; i++) {
        const struct tools_slot *slot = &service->slots[i];

        if (slot->state == TOOLS_VALUE && slot->key == key &&
            (found == TOOLS_NOBODY ||
             slot->load > service->slots[found].load)) {
            found = i;
        }
    }
    return found;
}

const struct cleat_tool_source *
tool_service_find_source(const struct cleat_tool_service *service, uint64_t key,
                         struct cleat_text *definition)
{
    for (uint32_t i = 0; i < service->slots_count; i++) {
        const struct tools_slot *slot = &service->slots[i];
        const struct cleat_tool_sources *sources = tools_value(service, i);

        if (slot->state != TOOLS_VALUE || (slot->key & TOOLS_OF_PATH) == 0) {
            continue;
        }
        for (uint32_t j = 0; j < sources->count; j++) {
            if (tools_key(sources->sources[j].key) == key) {
                *definition = cleat_tool_source_definition(sources, j);
                return &sources->sources[j];
            }
        }
    }
    return NULL;
}

/* ---- watching ----------------------------------------------------------- */

static void watch(const struct cleat_tool_service *service, uint32_t number,
                  struct cleat_text definition)
{
    struct tools_slot *slot = &service->slots[number];
    enum cleat_status status;

    for (uint32_t i = 0; i < service->slots_count; i++) {
        if (service->slots[i].watched && service->slots[i].key == slot->key) {
            return;
        }
    }
    status = service->loader.watch(service->loader.context, slot->loader_key,
                                   definition, true);
    slot->watched = status == CLEAT_OK || status == CLEAT_UNSUPPORTED;
}

void tool_service_watch(struct cleat_tool_service *service,
                        const struct cleat_tool_list *list)
{
    if (!service->watch || service->loader.watch == NULL) { return; }
    for (uint32_t i = 0; i < list->count; i++) {
        if (list->parts[i].tools == NULL) { continue; }
        watch(service, list->parts[i].slot,
              cleat_tool_source_definition(list->sources, i));
    }
}

static void unwatch(const struct cleat_tool_service *service,
                    const struct tools_slot *slot)
{
    struct cleat_text nothing = {"", 0};

    (void)service->loader.watch(service->loader.context, slot->loader_key,
                                nothing, false);
}

void tool_service_unwatch_all(struct cleat_tool_service *service)
{
    for (uint32_t i = 0; i < service->slots_count; i++) {
        if (service->slots[i].watched) { unwatch(service, &service->slots[i]); }
        service->slots[i].watched = 0;
    }
}

void tool_service_forget(struct cleat_tool_service *service, uint32_t number)
{
    struct tools_slot *slot = &service->slots[number];
    uint32_t other = tool_service_find_value(service, slot->key);

    if (!slot->watched) { return; }
    slot->watched = 0;
    if (other != TOOLS_NOBODY) {
        service->slots[other].watched = 1;
    } else {
        unwatch(service, slot);
    }
}
