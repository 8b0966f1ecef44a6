/* Cleat: getting a list that is not there. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "tools_state.h"

/* ---- waiting, with the lock --------------------------------------------- */

uint32_t tool_service_take_caller(struct cleat_tool_service *service,
                                  struct tools_get *get)
{
    for (uint32_t i = 0; i < service->callers_count; i++) {
        struct tools_caller *caller = &service->callers[i];

        if (caller->taken) { continue; }
        caller->taken = true;
        caller->get = get;
        return i;
    }
    return TOOLS_NOBODY;
}

void tool_service_give_caller(struct cleat_tool_service *service,
                              uint32_t caller)
{
    if (caller == TOOLS_NOBODY) { return; }
    service->callers[caller].taken = false;
    service->callers[caller].get = NULL;
    if (service->closing) { tool_service_wake(service); }
}

uint64_t tool_service_path_key(const struct cleat_tool_service *service,
                               const char *path, size_t bytes, uint64_t hash)
{
    uint64_t key = hash;
    uint32_t i = 0;

    while (i < service->entries_count) {
        const struct tools_known *known = &service->known[i];

        if (known->key == key && (known->path_bytes != bytes ||
                                  memcmp(known->path, path, bytes) != 0)) {
            /* Another path of the same hash. */
            key = tools_mix(key, 0) | TOOLS_OF_PATH;
            i = 0;
        } else {
            i++;
        }
    }
    return key;
}

/* Begins one lookup of a get. */
static void ask(struct tools_get *get, uint32_t number, uint64_t key)
{
    struct cleat_tool_service *service = get->service;
    struct tools_wait *wait = &get->waits[number];
    bool can_wait = get->caller != TOOLS_NOBODY;
    struct cleat_tool_cache_answer answer;

    wait->key = key;
    wait->status = cleat_tool_cache_lookup(
        service->machine, drive_now_ns(&service->ports), key,
        can_wait ? get->deadline_ns : 0, (uint64_t)get->caller << 8 | number,
        &answer);
    wait->waiter = answer.waiter;
    wait->slot = answer.slot;
    wait->stale = answer.stale;
    if (wait->status == CLEAT_OK) {
        tools_add(&service->lines[wait->slot].pins, TOOLS_PIN);
    } else if (wait->status == CLEAT_DEADLINE && !can_wait) {
        wait->status = CLEAT_NO_SLOT;
    }
    if (answer.entry != TOOLS_NOBODY) {
        struct tools_known *known = tool_service_know(service, answer.entry,
                                                      key);

        if ((key & TOOLS_OF_PATH) != 0) {
            known->path_bytes = (uint32_t)get->path_bytes;
            memcpy(known->path, get->path, get->path_bytes);
        }
    }
    if (wait->status == CLEAT_PENDING || wait->stale) {
        tool_service_wake(service);
    }
}

/* Waits until every lookup has ended, or one that decides; what still waits
 * then has missed its deadline. The lock is given meanwhile. */
static void await(struct tools_get *get)
{
    struct cleat_tool_service *service = get->service;
    struct cleat_message message;
    enum cleat_status status = CLEAT_OK;

    while (status == CLEAT_OK && !service->closing &&
           !tool_service_settled(get)) {
        const struct cleat_mailbox *box =
            &service->callers[get->caller].mailbox;

        tools_unlock(service);
        status = box->wait(box->context, get->deadline_ns, &message);
        tools_lock(service);
    }
    for (uint32_t i = 0; i < get->count; i++) {
        struct tools_wait *wait = &get->waits[i];

        if (wait->status != CLEAT_PENDING) { continue; }
        (void)cleat_tool_cache_cancel(
            service->machine, drive_now_ns(&service->ports), wait->waiter);
        wait->status = service->closing ? CLEAT_CANCELLED : CLEAT_DEADLINE;
    }
}

/* ---- get ---------------------------------------------------------------- */

static enum cleat_status look_up_config(struct tools_get *get)
{
    struct cleat_tool_service *service = get->service;
    struct cleat_tool_list *list = get->list;
    struct tools_wait *wait = &get->waits[0];

    get->count = 1;
    ask(get, 0,
        tool_service_path_key(service, get->path, get->path_bytes, get->hash));
    await(get);
    if (wait->status != CLEAT_OK) {
        return tool_service_say_why(get, TOOLS_NOBODY, wait);
    }
    list->service = service;
    list->config_slot = wait->slot;
    list->sources = tools_value(service, wait->slot);
    list->stale = wait->stale;
    return CLEAT_OK;
}

/* What the lookups found becomes the list's. */
static void fill_parts(const struct tools_get *get)
{
    struct cleat_tool_list *list = get->list;

    list->count = get->count;
    for (uint32_t i = 0; i < get->count; i++) {
        const struct tools_wait *wait = &get->waits[i];
        struct cleat_tool_part *part_of = &list->parts[i];

        part_of->status = wait->status;
        part_of->slot = wait->slot;
        part_of->tools = NULL;
        if (wait->status != CLEAT_OK) { continue; }
        part_of->tools = tools_value(get->service, wait->slot);
        list->tools += cleat_tools_count(part_of->tools);
        list->stale = list->stale || wait->stale;
    }
}

/* The failure that fails the get, if one does. */
static enum cleat_status decide(const struct tools_get *get)
{
    uint32_t first = TOOLS_NOBODY;
    uint32_t failed = 0;

    for (uint32_t i = get->count; i-- > 0;) {
        enum cleat_status status = (enum cleat_status)get->waits[i].status;

        if (status == CLEAT_OK) { continue; }
        failed++;
        /* The one that decided comes before those that still waited. */
        if (first == TOOLS_NOBODY || status != CLEAT_DEADLINE ||
            get->waits[first].status == CLEAT_DEADLINE) {
            first = i;
        }
    }
    if (failed == 0 || (get->service->policy == CLEAT_TOOL_POLICY_ANY &&
                        failed < get->count)) {
        return CLEAT_OK;
    }
    return tool_service_say_why(get, first, &get->waits[first]);
}

static enum cleat_status look_up_sources(struct tools_get *get)
{
    const struct cleat_tool_sources *sources = get->list->sources;

    get->count = sources->count;
    for (uint32_t i = 0; i < get->count; i++) {
        ask(get, i, tools_key(sources->sources[i].key));
    }
    await(get);
    fill_parts(get);
    return decide(get);
}

static enum cleat_status look_up(struct tools_get *get)
{
    struct cleat_tool_service *service = get->service;
    enum cleat_status status;

    tools_lock(service);
    if (service->closing) {
        tools_unlock(service);
        return tool_service_say_closed(get->error);
    }
    get->caller = tool_service_take_caller(service, get);
    status = look_up_config(get);
    if (status == CLEAT_OK) { status = look_up_sources(get); }
    if (service->closing) { status = tool_service_say_closed(get->error); }
    tool_service_give_caller(service, get->caller);
    tools_unlock(service);
    return status;
}

/* Names are many, and those of two sources the same seldom: which may have been
 * there before, a few bits of their hashes say. */
enum { NAME_BITS = 1 << 16 };

static bool may_be_there(uint64_t *bits, struct cleat_text name)
{
    uint64_t hash = tools_hash(name.text, name.bytes) % NAME_BITS;
    uint64_t bit = UINT64_C(1) << hash % 64;
    bool there = (bits[hash / 64] & bit) != 0;

    bits[hash / 64] |= bit;
    return there;
}

/* The part before `source` that offers a tool of that name; `source`: none. */
static uint32_t who_offers(const struct cleat_tool_list *list,
                           struct cleat_text name, uint32_t source)
{
    uint32_t number;
    uint32_t i = 0;

    while (i < source && (list->parts[i].tools == NULL ||
                          cleat_tools_find(list->parts[i].tools, name.text,
                                           name.bytes, &number) != CLEAT_OK)) {
        i++;
    }
    return i;
}

static enum cleat_status say_twice(const struct tools_get *get,
                                   struct cleat_text name, uint32_t one,
                                   uint32_t other)
{
    struct cleat_text first = cleat_tool_source_name(get->list->sources, one);
    struct cleat_text second = cleat_tool_source_name(get->list->sources,
                                                      other);

    return tool_service_say(get->error, CLEAT_EXISTS, other, 0,
                            "%.48s: tool %.*s is offered by both %.*s and %.*s",
                            tool_service_file(get->path), (int)name.bytes,
                            name.text, (int)first.bytes, first.text,
                            (int)second.bytes, second.text);
}

/* No two sources offer a tool of one name. A list by itself has each once. */
static enum cleat_status check_names(const struct tools_get *get)
{
    const struct cleat_tool_list *list = get->list;
    uint64_t bits[NAME_BITS / 64];

    if (list->count < 2) { return CLEAT_OK; }
    memset(bits, 0, sizeof bits);
    for (uint32_t i = 0; i < list->count; i++) {
        const struct cleat_tools *tools = list->parts[i].tools;
        uint32_t count = tools != NULL ? cleat_tools_count(tools) : 0;
        struct cleat_tool tool;

        for (uint32_t j = 0; j < count; j++) {
            uint32_t other;

            cleat_tools_at(tools, j, &tool);
            if (tool.name.bytes == 0 || !may_be_there(bits, tool.name)) {
                continue;
            }
            other = who_offers(list, tool.name, i);
            if (other < i) { return say_twice(get, tool.name, other, i); }
        }
    }
    return CLEAT_OK;
}

static enum cleat_status get_slowly(struct tools_get *get)
{
    struct cleat_tool_service *service = get->service;
    enum cleat_status status = look_up(get);

    if (status == CLEAT_OK) { status = check_names(get); }
    if (status != CLEAT_OK) {
        cleat_tools_unpin(get->list);
        return status;
    }
    tools_lock(service);
    if (!service->closing) {
        if (!get->list->stale) { tool_service_show(get); }
        tool_service_watch(service, get->list);
    }
    tools_unlock(service);
    return CLEAT_OK;
}

enum cleat_status cleat_tools_get(struct cleat_tool_service *service,
                                  const char *path, uint64_t deadline_ns,
                                  struct cleat_tool_list *list,
                                  struct cleat_error *error)
{
    struct tools_get get;
    size_t bytes;
    uint64_t hash;

    tool_service_empty(list);
    if (path == NULL || path[0] == '\0') { return CLEAT_OK; }
    bytes = strnlen(path, TOOLS_PATH_MAX + 1);
    if (bytes > TOOLS_PATH_MAX) {
        return cleat_error_set(error, CLEAT_LIMIT, 1, TOOLS_PATH_MAX,
                               "tools: a path of at most 1023 bytes is needed");
    }
    hash = tools_hash(path, bytes);
    if (tool_service_hit(service, path, bytes, hash, list)) { return CLEAT_OK; }
    memset(&get, 0, sizeof get);
    get.service = service;
    get.path = path;
    get.path_bytes = bytes;
    get.hash = hash;
    get.deadline_ns = deadline_ns;
    get.list = list;
    get.error = error;
    return get_slowly(&get);
}
