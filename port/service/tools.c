/* Cleat: tool lists for a trainer's threads. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "tools_state.h"

#define CALLERS_DEFAULT 64u
#define CONFIGS_DEFAULT 16u
#define SLOTS_DEFAULT 32u
#define CALLS_DEFAULT 16u
#define BYTES_DEFAULT ((size_t)256 << 10)
#define COUNT_MAX (UINT32_C(1) << 16)
#define BYTES_MAX ((size_t)1 << 30)

/* ---- the block ---------------------------------------------------------- */

/* Counts without a default left, and sizes rounded up. */
static struct cleat_tool_service_config
with_defaults(const struct cleat_tool_service_config *config)
{
    struct cleat_tool_service_config full;

    memset(&full, 0, sizeof full);
    if (config != NULL) { full = *config; }
    if (full.callers_max == 0) { full.callers_max = CALLERS_DEFAULT; }
    if (full.configs_max == 0) { full.configs_max = CONFIGS_DEFAULT; }
    if (full.slots_count == 0) { full.slots_count = SLOTS_DEFAULT; }
    if (full.entries_count == 0 && full.slots_count <= COUNT_MAX) {
        full.entries_count = 2 * full.slots_count;
    }
    if (full.calls_max == 0) { full.calls_max = CALLS_DEFAULT; }
    if (full.calls_max == TOOLS_NOBODY) { full.calls_max = 0; }
    if (full.slot_bytes == 0) { full.slot_bytes = BYTES_DEFAULT; }
    if (full.call_bytes == 0) { full.call_bytes = BYTES_DEFAULT; }
    full.cache.entries_count = full.entries_count;
    full.cache.slots_count = full.slots_count;
    full.cache.waiters_count = full.callers_max * CLEAT_TOOL_SOURCES_MAX;
    return full;
}

static bool is_sound(const struct cleat_tool_service_config *full)
{
    return full->callers_max <= COUNT_MAX && full->configs_max <= COUNT_MAX &&
           full->slots_count <= COUNT_MAX &&
           full->entries_count <= 2 * COUNT_MAX &&
           full->entries_count >= full->slots_count &&
           full->calls_max <= COUNT_MAX && full->slot_bytes <= BYTES_MAX &&
           full->slot_bytes >= sizeof(struct cleat_tool_sources) &&
           full->call_bytes <= BYTES_MAX &&
           full->policy <= CLEAT_TOOL_POLICY_ANY;
}

/* The next part of the block: its place, if there is a block. */
static void *part(unsigned char *block, size_t *used, size_t bytes)
{
    void *at = block != NULL ? block + *used : NULL;

    *used += CLEAT_ALIGN_UP(bytes);
    return at;
}

/* Gives each part its place, from `block` on. Returns the bytes of all. */
static size_t lay_out(struct cleat_tool_service *service, unsigned char *block,
                      const struct cleat_tool_service_config *full)
{
    size_t used = CLEAT_ALIGN_UP(sizeof *service);

    service->slot_bytes = CLEAT_ALIGN_UP(full->slot_bytes);
    service->call_bytes = CLEAT_ALIGN_UP(full->call_bytes);
    service->machine = part(block, &used, cleat_tool_cache_bytes(&full->cache));
    service->lines = part(block, &used,
                          full->slots_count * sizeof *service->lines);
    service->slots = part(block, &used,
                          full->slots_count * sizeof *service->slots);
    service->known = part(block, &used,
                          full->entries_count * sizeof *service->known);
    service->callers = part(block, &used,
                            (full->callers_max + (size_t)1) *
                                sizeof *service->callers);
    service->hashes = part(block, &used,
                           full->configs_max * sizeof *service->hashes);
    service->views = part(block, &used,
                          full->configs_max * sizeof *service->views);
    service->calls = part(block, &used,
                          full->calls_max * sizeof *service->calls);
    service->values = part(block, &used,
                           full->slots_count * service->slot_bytes);
    service->memory = part(block, &used, full->calls_max * service->call_bytes);
    return used;
}

size_t cleat_tool_service_bytes(const struct cleat_tool_service_config *config)
{
    struct cleat_tool_service_config full = with_defaults(config);
    struct cleat_tool_service service;

    if (!is_sound(&full)) { return 0; }
    return lay_out(&service, NULL, &full);
}

void cleat_tool_service_needs(const struct cleat_tool_service_config *config,
                              uint32_t *messages_max, uint32_t *mailboxes)
{
    struct cleat_tool_service_config full = with_defaults(config);

    *messages_max = 2 * full.slots_count + full.calls_max + 8;
    *mailboxes = full.callers_max + 1;
}

/* ---- beginning and end -------------------------------------------------- */

/* The service's thread, from init to close. What it touches at last is not in
 * the block, which is the caller's from then on. */
static void drive_job(void *job, uint64_t index)
{
    struct cleat_tool_service *service = job;
    struct cleat_drive_machine machine = tool_service_machine(service);
    struct cleat_threads threads = service->ports.threads;

    (void)index;
    cleat_drive(&service->ports, &machine);
    threads.lock(threads.context);
    service->ended = true;
    tool_service_post(service, service->callers_count);
    threads.unlock(threads.context);
}

static enum cleat_status
check_arguments(const void *block, size_t bytes, size_t needed,
                const struct cleat_service_ports *ports,
                const struct cleat_mailbox *callers,
                const struct cleat_loader *loader, struct cleat_error *error)
{
    if (needed == 0) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "tools: a number of the configuration is out of "
                               "range");
    }
    if (!drive_ports_complete(ports) || callers == NULL ||
        loader->start == NULL || loader->cancel == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "tools: a function of its ports is missing");
    }
    if (block == NULL || (uintptr_t)block % CLEAT_ALIGN != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "tools: a block aligned to 64 bytes is needed");
    }
    if (bytes < needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, needed,
                               "tools: the service's block is too small");
    }
    return CLEAT_OK;
}

static void fill(struct cleat_tool_service *service,
                 const struct cleat_tool_service_config *full,
                 const struct cleat_service_ports *ports,
                 const struct cleat_mailbox *callers,
                 const struct cleat_loader *loader, uint64_t seed)
{
    service->ports = *ports;
    service->loader = *loader;
    service->views_count = full->configs_max;
    service->slots_count = full->slots_count;
    service->entries_count = full->entries_count;
    service->callers_count = full->callers_max;
    service->calls_count = full->calls_max;
    service->policy = full->policy;
    service->watch = full->watch != 0;
    service->random = seed;
    for (uint32_t i = 0; i <= full->callers_max; i++) {
        service->callers[i].mailbox = callers[i];
    }
}

enum cleat_status cleat_tool_service_init(
    void *block, size_t bytes, const struct cleat_tool_service_config *config,
    const struct cleat_service_ports *ports,
    const struct cleat_mailbox *callers, const struct cleat_loader *loader,
    uint64_t seed, struct cleat_tool_service **out, struct cleat_error *error)
{
    struct cleat_tool_service_config full = with_defaults(config);
    size_t needed = cleat_tool_service_bytes(config);
    struct cleat_tool_service *service = block;
    enum cleat_status status;

    *out = NULL;
    status = check_arguments(block, bytes, needed, ports, callers, loader,
                             error);
    if (status != CLEAT_OK) { return status; }
    memset(block, 0, sizeof *service);
    (void)lay_out(service, block, &full);
    /* All but the values and the memory of calls. */
    memset(service->machine, 0,
           (size_t)(service->values - (unsigned char *)service->machine));
    fill(service, &full, ports, callers, loader, seed);
    status = cleat_tool_cache_begin(
        service->machine, cleat_tool_cache_bytes(&full.cache), &full.cache,
        drive_now_ns(ports), &service->machine, error);
    if (status != CLEAT_OK) { return status; }
    if (ports->threads.submit(ports->threads.context, drive_job, service, 0) !=
        CLEAT_OK) {
        return cleat_error_set(error, CLEAT_NO_SLOT, 3, 0,
                               "tools: there is no thread for the service");
    }
    *out = service;
    return CLEAT_OK;
}

/* Nothing is given out any more, and nothing new is begun. */
static void begin_close(struct cleat_tool_service *service)
{
    service->closing = true;
    for (uint32_t i = 0; i < service->slots_count; i++) {
        struct tools_slot *slot = &service->slots[i];

        tools_store(&service->lines[i].word, slot->load << 1);
        if (slot->state == TOOLS_LOADING) {
            service->loader.cancel(service->loader.context,
                                   slot->load << 1 | 1);
        }
    }
    tool_service_unwatch_all(service);
    tool_service_call_cancel_all(service);
    for (uint32_t i = 0; i < service->callers_count; i++) {
        if (service->callers[i].taken) { tool_service_post(service, i); }
    }
    tool_service_wake(service);
}

enum cleat_status cleat_tool_service_close(struct cleat_tool_service *service,
                                           uint64_t deadline_ns)
{
    const struct cleat_mailbox *box =
        &service->callers[service->callers_count].mailbox;
    struct cleat_message message;
    bool ended;

    tools_lock(service);
    if (!service->closing) { begin_close(service); }
    ended = service->ended;
    while (!ended) {
        enum cleat_status status;

        tools_unlock(service);
        status = box->wait(box->context, deadline_ns, &message);
        tools_lock(service);
        ended = service->ended;
        if (status != CLEAT_OK) { break; }
    }
    tools_unlock(service);
    return ended ? CLEAT_OK : CLEAT_DEADLINE;
}

/* ---- what else may be asked --------------------------------------------- */

/* The same for what the path's config names, if that is there. */
static void reload_sources(struct cleat_tool_service *service, uint64_t now_ns,
                           uint64_t key)
{
    uint32_t slot = tool_service_find_value(service, key);
    const struct cleat_tool_sources *sources;

    if (slot == TOOLS_NOBODY) { return; }
    sources = tools_value(service, slot);
    for (uint32_t i = 0; i < sources->count; i++) {
        uint64_t source = tools_key(sources->sources[i].key);

        (void)cleat_tool_cache_invalidate(service->machine, now_ns, source);
        tool_service_unpublish(service, source);
    }
}

enum cleat_status cleat_tools_reload(struct cleat_tool_service *service,
                                     const char *path, bool sources)
{
    size_t bytes = path != NULL ? strnlen(path, TOOLS_PATH_MAX + 1) : 0;
    enum cleat_status status = CLEAT_CANCELLED;
    uint64_t now_ns;
    uint64_t key;

    if (bytes == 0 || bytes > TOOLS_PATH_MAX) { return CLEAT_NOT_FOUND; }
    tools_lock(service);
    if (!service->closing) {
        now_ns = drive_now_ns(&service->ports);
        key = tool_service_path_key(service, path, bytes,
                                    tools_hash(path, bytes));
        status = cleat_tool_cache_invalidate(service->machine, now_ns, key);
        if (sources) { reload_sources(service, now_ns, key); }
        /* From here on no hit, whenever the machine's command comes. */
        tool_service_unpublish(service, key);
        tool_service_wake(service);
    }
    tools_unlock(service);
    return status;
}

void cleat_tool_service_count(struct cleat_tool_service *service,
                              struct cleat_tool_cache_counters *counters)
{
    tools_lock(service);
    tool_service_tell_hits(service);
    *counters = cleat_tool_cache_count(service->machine);
    tools_unlock(service);
}
