/* Cleat: the tool service's thread: the machine's commands, the loader's
 * messages. SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "tools_state.h"

/* A request is given a tenth less than its attempt, at most this much: so the
 * loader's own words, of what it waited for, come before it is given up. */
#define MARGIN_NS (100 * CLEAT_NS_PER_MS)

/* Requests of the loader: loads are odd, calls even. */
#define LOAD_ID(load) ((load) << 1 | 1)

void tool_service_post(const struct cleat_tool_service *service,
                       uint32_t caller)
{
    const struct cleat_mailbox *box = &service->callers[caller].mailbox;
    struct cleat_message message = {.kind = CLEAT_WORKER_WAKE};

    /* A full box has a message already; any message means "look". */
    (void)box->post(box->context, &message);
}

void tool_service_wake(struct cleat_tool_service *service)
{
    const struct cleat_mailbox *box = &service->ports.mailbox;
    struct cleat_message message = {.kind = CLEAT_WORKER_WAKE};

    /* One at a time: any number would take the room of what the loader says. A
     * full box means that the loop is about to look anyway. */
    if (service->woken) { return; }
    service->woken = box->post(box->context, &message) == CLEAT_OK;
}

/* ---- publishing --------------------------------------------------------- */

void tool_service_unpublish(struct cleat_tool_service *service, uint64_t key)
{
    for (uint32_t i = 0; i < service->slots_count; i++) {
        const struct tools_slot *slot = &service->slots[i];

        if (slot->state == TOOLS_VALUE && slot->key == key) {
            tools_store(&service->lines[i].word, slot->load << 1);
        }
    }
}

static void publish(struct cleat_tool_service *service,
                    const struct cleat_tool_cache_command *command)
{
    struct tools_line *line = &service->lines[command->slot];

    tools_write(&line->fresh_until_ns, command->until_ns);
    tools_store(&line->word, command->load << 1 | TOOLS_PUBLISHED);
}

static bool is_pinned(const struct tools_line *line)
{
    return (tools_load(&line->pins) & TOOLS_PINS) != 0;
}

/* Whether a slot may be taken; then nobody gets it any more. */
static void reclaim(struct cleat_tool_service *service, uint32_t number)
{
    struct tools_line *line = &service->lines[number];
    struct tools_slot *slot = &service->slots[number];
    uint64_t word = tools_load(&line->word);
    bool yes = !is_pinned(line);

    if (yes) {
        tools_store(&line->word, slot->load << 1);
        /* Who pinned it since has seen it published: let them have it. */
        yes = !is_pinned(line);
        if (!yes) { tools_store(&line->word, word); }
    }
    if (yes) {
        slot->state = TOOLS_EMPTY;
        tool_service_forget(service, number);
    }
    (void)cleat_tool_cache_reclaimed(service->machine, number, yes);
}

/* Of all values that a slot has held, in place. */
static uint64_t hits_of(const struct cleat_tool_service *service, uint32_t slot)
{
    return tools_read(&service->lines[slot].pins) & ~TOOLS_PINS;
}

/* ---- loads -------------------------------------------------------------- */

static uint64_t draw(struct cleat_tool_service *service)
{
    return drive_draw(&service->random);
}

/* A value that is whole, and still more than we hold. */
static enum cleat_status look_over(const struct cleat_tool_service *service,
                                   uint32_t number)
{
    struct tools_slot *slot = &service->slots[number];
    const struct cleat_tool_sources *sources = tools_value(service, number);

    if ((slot->key & TOOLS_OF_PATH) == 0 ||
        sources->count <= CLEAT_TOOL_SOURCES_MAX) {
        return CLEAT_OK;
    }
    return tool_service_say(
        &slot->error, CLEAT_LIMIT, sources->count, 0,
        "%s: %u sources, at most %u",
        tool_service_file((const char *)service->known[slot->entry].path),
        (unsigned)sources->count, CLEAT_TOOL_SOURCES_MAX);
}

static void note_silence(struct cleat_tool_service *service, uint64_t now_ns,
                         const struct tools_slot *slot)
{
    struct tools_known *known = tool_service_known(service, slot->key);
    struct cleat_error error;

    if (known == NULL) { return; }
    (void)tool_service_say(&error, CLEAT_PEER_SILENT, 0, 0,
                           "nothing came of it within %" PRIu64 ".%" PRIu64
                           " s",
                           slot->took_ns / CLEAT_NS_PER_S,
                           slot->took_ns / (CLEAT_NS_PER_S / 10) % 10);
    tool_service_note(known, now_ns, CLEAT_PEER_SILENT, &error);
}

/* A request has ended, with its words in the slot. */
static void end_load(struct cleat_tool_service *service, uint64_t now_ns,
                     uint32_t number, const struct cleat_loader_done *done)
{
    struct tools_slot *slot = &service->slots[number];
    struct tools_known *known = tool_service_known(service, slot->key);
    bool wanted = slot->state == TOOLS_LOADING;
    enum cleat_status status = (enum cleat_status)done->status;
    uint64_t late = cleat_tool_cache_count(service->machine).late;

    if (status == CLEAT_OK && wanted) { status = look_over(service, number); }
    slot->state = wanted && status == CLEAT_OK ? TOOLS_VALUE : TOOLS_EMPTY;
    (void)cleat_tool_cache_loaded(service->machine, now_ns, slot->load, status,
                                  done->ttl_ns, done->hint_ns, draw(service));
    if (!wanted) { return; }
    if (cleat_tool_cache_count(service->machine).late != late) {
        /* Its time was up at this moment. */
        slot->state = TOOLS_EMPTY;
        note_silence(service, now_ns, slot);
    } else if (known != NULL) {
        tool_service_note(known, now_ns, status, &slot->error);
    }
}

/* What the loader is to be asked, but for what every request has.
 * CLEAT_NOT_FOUND: a source that no config names any more. */
static enum cleat_status describe(const struct cleat_tool_service *service,
                                  const struct tools_known *known,
                                  struct cleat_loader_request *request)
{
    const struct cleat_tool_source *source;

    if (known->path_bytes > 0) {
        request->kind = CLEAT_LOADER_CONFIG;
        request->definition.text = (const char *)known->path;
        request->definition.bytes = known->path_bytes;
        return CLEAT_OK;
    }
    source = tool_service_find_source(service, known->key,
                                      &request->definition);
    if (source == NULL) { return CLEAT_NOT_FOUND; }
    request->kind = CLEAT_LOADER_SOURCE;
    request->key = source->key;
    return CLEAT_OK;
}

static uint64_t request_deadline(uint64_t now_ns, uint64_t until_ns)
{
    uint64_t margin_ns = (until_ns - now_ns) / 10;

    if (until_ns == CLEAT_NEVER) { return CLEAT_NEVER; }
    return until_ns - (margin_ns < MARGIN_NS ? margin_ns : MARGIN_NS);
}

static void begin_load(struct cleat_tool_service *service, uint64_t now_ns,
                       const struct cleat_tool_cache_command *command)
{
    struct tools_slot *slot = &service->slots[command->slot];
    struct tools_known *known = tool_service_know(service, command->entry,
                                                  command->key);
    struct cleat_loader_done failed = {.ttl_ns = CLEAT_NONE,
                                       .hint_ns = CLEAT_NONE};
    struct cleat_loader_request request = {
        .id = LOAD_ID(command->load),
        .deadline_ns = request_deadline(now_ns, command->until_ns),
        .block = tools_value(service, command->slot),
        .bytes = service->slot_bytes,
        .error = &slot->error};
    enum cleat_status status = describe(service, known, &request);

    memset(slot, 0, sizeof *slot);
    slot->key = command->key;
    slot->loader_key = request.key;
    slot->load = command->load;
    slot->took_ns = request.deadline_ns - now_ns;
    slot->entry = command->entry;
    slot->hits_told = hits_of(service, command->slot);
    slot->state = TOOLS_LOADING;
    tools_store(&service->lines[command->slot].word, command->load << 1);
    known->began_ns = command->began_ns;
    known->attempts = command->attempts;
    known->error.status = CLEAT_PENDING;
    if (command->attempts == 1) { known->error.text[0] = '\0'; }
    if (status == CLEAT_OK) {
        status = service->loader.start(service->loader.context, &request);
    } else {
        (void)cleat_error_set(&slot->error, status, 0, 0,
                              "no config names it any more");
    }
    if (status == CLEAT_OK) { return; }
    failed.status = status;
    end_load(service, now_ns, command->slot, &failed);
}

static void abandon(struct cleat_tool_service *service, uint64_t now_ns,
                    const struct cleat_tool_cache_command *command)
{
    struct tools_slot *slot = &service->slots[command->slot];

    if (slot->state != TOOLS_LOADING || slot->load != command->load) { return; }
    slot->state = TOOLS_ABANDONED;
    note_silence(service, now_ns, slot);
    service->loader.cancel(service->loader.context, LOAD_ID(slot->load));
}

/* ---- those who wait ----------------------------------------------------- */

bool tool_service_settled(const struct tools_get *get)
{
    bool waits = false;

    for (uint32_t i = 0; i < get->count; i++) {
        int32_t status = get->waits[i].status;

        if (status < CLEAT_OK &&
            get->service->policy == CLEAT_TOOL_POLICY_ALL) {
            return true;
        }
        waits = waits || status == CLEAT_PENDING;
    }
    return !waits;
}

/* A failure that nobody has words for: no slot gave way. */
static void note_failure(struct cleat_tool_service *service, uint64_t now_ns,
                         const struct tools_wait *wait,
                         const struct cleat_tool_cache_command *command)
{
    struct tools_known *known = tool_service_known(service, wait->key);

    if (known == NULL || command->status == CLEAT_DEADLINE ||
        known->error.status == (enum cleat_status)command->status) {
        return;
    }
    known->began_ns = command->began_ns;
    known->attempts = command->attempts;
    tool_service_note(known, now_ns, (enum cleat_status)command->status, NULL);
}

static void wake(struct cleat_tool_service *service, uint64_t now_ns,
                 const struct cleat_tool_cache_command *command)
{
    uint32_t caller = (uint32_t)(command->tag >> 8);
    struct tools_get *get = service->callers[caller].get;
    struct tools_wait *wait = &get->waits[command->tag & 0xFF];

    wait->status = command->status;
    wait->stale = command->stale != 0;
    wait->slot = command->slot;
    if (command->status == CLEAT_OK) {
        tools_add(&service->lines[command->slot].pins, TOOLS_PIN);
    } else {
        note_failure(service, now_ns, wait, command);
    }
    if (tool_service_settled(get)) { tool_service_post(service, caller); }
}

/* ---- what the loop asks for --------------------------------------------- */

/* Tells the machine what was given out without asking it. */
void tool_service_tell_hits(struct cleat_tool_service *service)
{
    for (uint32_t i = 0; i < service->slots_count; i++) {
        uint64_t hits = hits_of(service, i);
        uint64_t since = hits - service->slots[i].hits_told;

        /* Fewer than before: one that was told has been taken back. */
        if (since == 0 || since > UINT64_MAX / 2) { continue; }
        service->slots[i].hits_told = hits;
        (void)cleat_tool_cache_used(service->machine, i,
                                    since >> TOOLS_PINS_BITS);
    }
}

static void carry_out(struct cleat_tool_service *service, uint64_t now_ns,
                      const struct cleat_tool_cache_command *command)
{
    switch (command->what) {
    case CLEAT_TOOL_CACHE_UNPUBLISH:
        tools_store(&service->lines[command->slot].word, command->load << 1);
        break;
    case CLEAT_TOOL_CACHE_PUBLISH: publish(service, command); break;
    case CLEAT_TOOL_CACHE_WAKE: wake(service, now_ns, command); break;
    case CLEAT_TOOL_CACHE_ABANDON: abandon(service, now_ns, command); break;
    case CLEAT_TOOL_CACHE_RECLAIM: reclaim(service, command->slot); break;
    case CLEAT_TOOL_CACHE_LOAD: begin_load(service, now_ns, command); break;
    default: break;
    }
}

/* Nothing is under way, and nobody waits. */
static bool is_at_rest(const struct cleat_tool_service *service)
{
    for (uint32_t i = 0; i < service->slots_count; i++) {
        uint8_t state = service->slots[i].state;

        if (state == TOOLS_LOADING || state == TOOLS_ABANDONED) {
            return false;
        }
    }
    for (uint32_t i = 0; i < service->callers_count; i++) {
        if (service->callers[i].taken) { return false; }
    }
    for (uint32_t i = 0; i < service->calls_count; i++) {
        if (service->calls[i].id != 0) { return false; }
    }
    return true;
}

static bool tools_dispatch(void *self, uint64_t now_ns)
{
    struct cleat_tool_service *service = self;
    struct cleat_tool_cache_command command;
    /* A load whose start is refused may be due again at once, by a policy
     * without backoff; room comes only when the lock is given. */
    uint64_t left = 4 * (uint64_t)service->entries_count +
                    service->callers_count * (uint64_t)CLEAT_TOOL_SOURCES_MAX;

    tool_service_tell_hits(service);
    if (service->closing) { return !is_at_rest(service); }
    (void)cleat_tool_cache_tick(service->machine, now_ns, draw(service));
    service->more = true;
    while (service->more && left-- > 0) {
        service->more = cleat_tool_cache_next(service->machine, &command);
        if (service->more) { carry_out(service, now_ns, &command); }
    }
    return true;
}

static uint64_t tools_deadline(void *self)
{
    const struct cleat_tool_service *service = self;

    if (service->closing) { return CLEAT_NEVER; }
    return service->more ? 0 : cleat_tool_cache_deadline(service->machine);
}

static void take_done(struct cleat_tool_service *service, uint64_t now_ns,
                      const struct cleat_loader_done *done)
{
    if ((done->id & 1) == 0) {
        tool_service_call_done(service, done);
        return;
    }
    for (uint32_t i = 0; i < service->slots_count; i++) {
        struct tools_slot *slot = &service->slots[i];

        if (LOAD_ID(slot->load) != done->id ||
            (slot->state != TOOLS_LOADING && slot->state != TOOLS_ABANDONED)) {
            continue;
        }
        if (service->closing) {
            slot->state = TOOLS_EMPTY;
        } else {
            end_load(service, now_ns, i, done);
        }
        return;
    }
}

/* A source, or the config of a path, is not what it was. */
static void out_of_date(struct cleat_tool_service *service, uint64_t now_ns,
                        uint64_t key)
{
    enum cleat_status status = cleat_tool_cache_invalidate(service->machine,
                                                           now_ns, key);

    if (status == CLEAT_OK && service->watch) {
        (void)cleat_tool_cache_prefetch(service->machine, now_ns, key);
    }
}

static void take_changed(struct cleat_tool_service *service, uint64_t now_ns,
                         uint64_t key)
{
    if (service->closing) { return; }
    if (key != 0) {
        out_of_date(service, now_ns, tools_key(key));
        return;
    }
    for (uint32_t i = 0; i < service->entries_count; i++) {
        if (service->known[i].path_bytes > 0) {
            out_of_date(service, now_ns, service->known[i].key);
        }
    }
}

static void tools_feed(void *self, uint64_t now_ns,
                       const struct cleat_message *message)
{
    struct cleat_tool_service *service = self;
    struct cleat_loader_done done;

    _Static_assert(sizeof done <= CLEAT_MESSAGE_BYTES,
                   "the end of a request fits a message");
    if (message->kind == CLEAT_LOADER_DONE) {
        memcpy(&done, message->body, sizeof done);
        take_done(service, now_ns, &done);
    } else if (message->kind == CLEAT_LOADER_CHANGED) {
        take_changed(service, now_ns, message->body[0]);
    } else if (message->kind == CLEAT_WORKER_WAKE) {
        service->woken = false;
    }
}

struct cleat_drive_machine
tool_service_machine(struct cleat_tool_service *service)
{
    struct cleat_drive_machine machine = {service, tools_dispatch,
                                          tools_deadline, tools_feed};

    return machine;
}
