/* Cleat: tool lists, fetched once. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/tool_cache.h"

#include <string.h>

#include "assert.h"
#include "text.h"

#define NOBODY CLEAT_TOOL_CACHE_NOBODY

enum {
    ENTRY_NONE,
    ENTRY_IDLE,    /* has a value, and no load is under way */
    ENTRY_WANTING, /* its load has no slot yet */
    ENTRY_LOADING, /* into its slot `loading`, until moment_ns */
    ENTRY_BACKOFF, /* until moment_ns */
    ENTRY_STARVED, /* no slot gave way: this attempt has failed */
    ENTRY_FAILED   /* the failure is remembered until moment_ns */
};

enum {
    SLOT_FREE,
    SLOT_LOADING,
    SLOT_ABANDONED, /* reserved until its late result comes */
    SLOT_VALUE,     /* of its entry */
    SLOT_OLD        /* of nobody; perhaps pinned still */
};

enum { WAITER_FREE, WAITER_WAITING, WAITER_WOKEN };

CLEAT_STATIC_ASSERT(sizeof(struct cleat_tool_cache) % 8 == 0 &&
                        sizeof(struct cleat_tool_cache_entry) % 8 == 0 &&
                        sizeof(struct cleat_tool_cache_slot) % 8 == 0,
                    "what follows is aligned");

static struct cleat_tool_cache_entry *
entries_of(const struct cleat_tool_cache *c)
{
    CLEAT_ASSERT(c != NULL);
    CLEAT_ASSERT(c->config.entries_count >= c->config.slots_count);
    return (struct cleat_tool_cache_entry *)(uintptr_t)(c + 1);
}

static struct cleat_tool_cache_slot *slots_of(const struct cleat_tool_cache *c)
{
    CLEAT_ASSERT(c != NULL);
    CLEAT_ASSERT(c->config.slots_count >= 1);
    return (struct cleat_tool_cache_slot *)(void *)(entries_of(c) +
                                                    c->config.entries_count);
}

static struct cleat_tool_cache_waiter *
waiters_of(const struct cleat_tool_cache *c)
{
    CLEAT_ASSERT(c != NULL);
    CLEAT_ASSERT(c->config.waiters_count >= 1);
    return (struct cleat_tool_cache_waiter *)(void *)(slots_of(c) +
                                                      c->config.slots_count);
}

static bool has_come(const struct cleat_tool_cache *c, uint64_t time_ns)
{
    CLEAT_ASSERT(c != NULL);
    CLEAT_ASSERT(c->config.slots_count >= 1);
    return time_ns <= c->now_ns;
}

/* True where two facts meet; at the exit of every event. */
static void check(const struct cleat_tool_cache *c)
{
#if defined(CLEAT_ASSERT_FN) || !defined(NDEBUG)
    const struct cleat_tool_cache_entry *e = entries_of(c);
    const struct cleat_tool_cache_slot *s = slots_of(c);
    const struct cleat_tool_cache_waiter *w = waiters_of(c);

    for (uint32_t i = 0; i < c->config.entries_count; i++) {
        bool loads = e[i].state == ENTRY_LOADING;

        CLEAT_ASSERT(loads == (e[i].loading != NOBODY));
        CLEAT_ASSERT(!loads || s[e[i].loading].state == SLOT_LOADING);
        CLEAT_ASSERT(!loads || s[e[i].loading].entry == i);
        CLEAT_ASSERT(
            e[i].value == NOBODY ||
            (s[e[i].value].state == SLOT_VALUE && s[e[i].value].entry == i));
        CLEAT_ASSERT(e[i].state != ENTRY_IDLE || e[i].value != NOBODY);
        CLEAT_ASSERT(e[i].state != ENTRY_NONE || e[i].value == NOBODY);
    }
    for (uint32_t i = 0; i < c->config.waiters_count; i++) {
        uint32_t state = w[i].state == WAITER_WAITING ? e[w[i].told.entry].state
                                                      : ENTRY_LOADING;

        CLEAT_ASSERT(state >= ENTRY_WANTING && state <= ENTRY_STARVED);
    }
#endif
    CLEAT_ASSERT(c->asked == NOBODY || c->asked < c->config.slots_count);
    CLEAT_ASSERT(c->counters.stale <= c->counters.hits);
}

/* ---- waiters ------------------------------------------------------------- */

/* A waiter has ended, and is to be told. */
static void wake(const struct cleat_tool_cache *c,
                 struct cleat_tool_cache_waiter *w, enum cleat_status status,
                 uint32_t slot, bool stale)
{
    const struct cleat_tool_cache_entry *e = &entries_of(c)[w->told.entry];

    CLEAT_ASSERT(w->state == WAITER_WAITING);
    CLEAT_ASSERT((status == CLEAT_OK) == (slot != NOBODY));
    w->state = WAITER_WOKEN;
    w->told.status = (int16_t)status;
    w->told.slot = slot;
    w->told.stale = stale;
    w->told.began_ns = e->began_ns;
    w->told.attempts = e->attempts;
}

/* All who wait for an entry are told. */
static void wake_all(struct cleat_tool_cache *c, uint32_t entry,
                     enum cleat_status status, uint32_t slot, bool stale)
{
    struct cleat_tool_cache_waiter *w = waiters_of(c);

    CLEAT_ASSERT(entry < c->config.entries_count);
    CLEAT_ASSERT(status <= CLEAT_OK);
    for (uint32_t i = 0; i < c->config.waiters_count; i++) {
        if (w[i].state == WAITER_WAITING && w[i].told.entry == entry) {
            wake(c, &w[i], status, slot, stale);
        }
    }
}

/* ---- loads --------------------------------------------------------------- */

/* What an entry is when no load of it is under way. */
static void rest(struct cleat_tool_cache_entry *e)
{
    CLEAT_ASSERT(e->state != ENTRY_NONE);
    CLEAT_ASSERT(e->loading == NOBODY);
    e->state = e->value != NOBODY ? ENTRY_IDLE : ENTRY_NONE;
}

static void begin_load(struct cleat_tool_cache *c,
                       struct cleat_tool_cache_entry *e)
{
    CLEAT_ASSERT(e->state == ENTRY_IDLE || e->state == ENTRY_NONE);
    CLEAT_ASSERT(e->loading == NOBODY);
    cleat_retry_begin(&e->retry, &c->policy, c->now_ns);
    e->state = ENTRY_WANTING;
    e->began_ns = c->now_ns;
    e->attempts = 0;
    e->reloads = 0;
    if (e->value != NOBODY) { c->counters.refreshes++; }
}

/* The present attempt has failed: another one later, or the end. */
static void attempt_failed(struct cleat_tool_cache *c, uint32_t entry,
                           enum cleat_status status, uint64_t hint_ns)
{
    struct cleat_tool_cache_entry *e = &entries_of(c)[entry];
    /* One number serves all entries: turned on by the golden ratio, so that
     * those which fail together do not come back together. */
    uint64_t random = c->random +
                      ((uint64_t)(entry * UINT32_C(2654435769)) << 32);

    CLEAT_ASSERT(e->state >= ENTRY_LOADING && e->state <= ENTRY_STARVED);
    CLEAT_ASSERT(status < CLEAT_OK);
    c->counters.failures++;
    e->status = (int16_t)status;
    e->loading = NOBODY;
    if (cleat_retry_failed(&e->retry, &c->policy, NULL, status, hint_ns, random,
                           c->now_ns, &e->moment_ns) == CLEAT_OK) {
        e->state = e->moment_ns > c->now_ns ? ENTRY_BACKOFF : ENTRY_WANTING;
        return;
    }
    wake_all(c, entry, status, NOBODY, false);
    e->state = ENTRY_FAILED;
    e->moment_ns = cleat_time_add(c->now_ns, c->config.negative_ttl_ns);
    if (c->config.negative_ttl_ns == 0) { rest(e); }
}

/* A value has come for an entry, and becomes the one it gives out. */
static void install(struct cleat_tool_cache *c, uint32_t slot, uint64_t ttl_ns)
{
    struct cleat_tool_cache_slot *s = slots_of(c);
    uint32_t entry = s[slot].entry;
    struct cleat_tool_cache_entry *e = &entries_of(c)[entry];
    bool outdated = s[slot].outdated;

    CLEAT_ASSERT(e->loading == slot && e->state == ENTRY_LOADING);
    CLEAT_ASSERT(e->value != slot);
    if (e->value != NOBODY) {
        s[e->value].state = SLOT_OLD;
        s[e->value].due = CLEAT_TOOL_CACHE_UNPUBLISH;
    }
    if (ttl_ns == CLEAT_NONE) {
        ttl_ns = c->config.ttl_default_ns;
    } else if (ttl_ns > c->config.ttl_max_ns) {
        ttl_ns = c->config.ttl_max_ns;
    }
    e->fresh_until_ns = cleat_time_add(c->now_ns, outdated ? 0 : ttl_ns);
    e->stale_until_ns = cleat_time_add(e->fresh_until_ns,
                                       c->config.stale_max_ns);
    e->value = slot;
    e->loading = NOBODY;
    s[slot].state = SLOT_VALUE;
    s[slot].due = has_come(c, e->fresh_until_ns) ? 0 : CLEAT_TOOL_CACHE_PUBLISH;
    s[slot].used = ++c->order;
    if (!outdated || e->reloads == c->config.reloads_max) {
        wake_all(c, entry, CLEAT_OK, slot, outdated);
        rest(e);
        return;
    }
    /* Those who wait go on waiting: what has come is out of date already. */
    e->reloads++;
    e->state = ENTRY_WANTING;
    cleat_retry_begin(&e->retry, &c->policy, c->now_ns);
}

/* ---- time ---------------------------------------------------------------- */

/* An entry's moment has come. */
static void moment_came(struct cleat_tool_cache *c, uint32_t entry)
{
    struct cleat_tool_cache_entry *e = &entries_of(c)[entry];

    CLEAT_ASSERT(e->moment_ns <= c->now_ns);
    CLEAT_ASSERT(e->state >= ENTRY_LOADING);
    if (e->state == ENTRY_BACKOFF) {
        e->state = ENTRY_WANTING;
    } else if (e->state == ENTRY_FAILED) {
        rest(e);
    } else if (e->state == ENTRY_STARVED) {
        attempt_failed(c, entry, CLEAT_NO_SLOT, CLEAT_NONE);
    } else {
        struct cleat_tool_cache_slot *s = &slots_of(c)[e->loading];

        s->state = SLOT_ABANDONED;
        s->due = CLEAT_TOOL_CACHE_ABANDON;
        attempt_failed(c, entry, CLEAT_PEER_SILENT, CLEAT_NONE);
    }
}

/* Applies the deadlines that are ≤ now_ns, before anything else happens. */
static enum cleat_status enter(struct cleat_tool_cache *c, uint64_t now_ns)
{
    struct cleat_tool_cache_entry *e = entries_of(c);
    struct cleat_tool_cache_waiter *w = waiters_of(c);

    CLEAT_ASSERT(c->config.slots_count <= c->config.entries_count);
    CLEAT_ASSERT(c->asked == NOBODY || c->asked < c->config.slots_count);
    if (c->asked != NOBODY) { return CLEAT_STATE; }
    if (now_ns < c->now_ns) { return CLEAT_TIME_BACKWARDS; }
    c->now_ns = now_ns;
    for (uint32_t i = 0; i < c->config.entries_count; i++) {
        if (e[i].state >= ENTRY_LOADING && has_come(c, e[i].moment_ns)) {
            moment_came(c, i);
        }
    }
    for (uint32_t i = 0; i < c->config.waiters_count; i++) {
        if (w[i].state == WAITER_WAITING && has_come(c, w[i].deadline_ns)) {
            wake(c, &w[i], CLEAT_DEADLINE, NOBODY, false);
        }
    }
    check(c);
    return CLEAT_OK;
}

uint64_t cleat_tool_cache_deadline(const struct cleat_tool_cache *c)
{
    const struct cleat_tool_cache_entry *e = entries_of(c);
    const struct cleat_tool_cache_waiter *w = waiters_of(c);
    uint64_t deadline_ns = CLEAT_NEVER;

    for (uint32_t i = 0; i < c->config.entries_count; i++) {
        if (e[i].state >= ENTRY_LOADING && e[i].moment_ns < deadline_ns) {
            deadline_ns = e[i].moment_ns;
        }
    }
    for (uint32_t i = 0; i < c->config.waiters_count; i++) {
        if (w[i].state == WAITER_WAITING && w[i].deadline_ns < deadline_ns) {
            deadline_ns = w[i].deadline_ns;
        }
    }
    CLEAT_ASSERT(c->asked == NOBODY || c->asked < c->config.slots_count);
    return deadline_ns;
}

enum cleat_status cleat_tool_cache_tick(struct cleat_tool_cache *c,
                                        uint64_t now_ns, uint64_t random)
{
    CLEAT_ASSERT(c != NULL);
    CLEAT_ASSERT(c->config.entries_count >= c->config.slots_count);
    c->random = random;
    return enter(c, now_ns);
}

/* ---- beginning ----------------------------------------------------------- */

size_t cleat_tool_cache_bytes(const struct cleat_tool_cache_config *config)
{
    uint64_t bytes = sizeof(struct cleat_tool_cache) +
                     config->entries_count *
                         (uint64_t)sizeof(struct cleat_tool_cache_entry) +
                     config->slots_count *
                         (uint64_t)sizeof(struct cleat_tool_cache_slot) +
                     config->waiters_count *
                         (uint64_t)sizeof(struct cleat_tool_cache_waiter);

    CLEAT_ASSERT(bytes >= sizeof(struct cleat_tool_cache));
    CLEAT_ASSERT(bytes / sizeof(struct cleat_tool_cache_entry) >=
                 config->entries_count);
    return bytes > SIZE_MAX ? SIZE_MAX : (size_t)bytes;
}

static bool is_sound(const struct cleat_tool_cache_config *config)
{
    CLEAT_ASSERT(config != NULL);
    CLEAT_ASSERT(NOBODY > 0);
    return config->slots_count != 0 && config->waiters_count != 0 &&
           config->entries_count >= config->slots_count &&
           (config->policy == NULL ||
            cleat_retry_policy_check(config->policy) == CLEAT_OK);
}

enum cleat_status cleat_tool_cache_begin(
    void *block, size_t bytes, const struct cleat_tool_cache_config *config,
    uint64_t now_ns, struct cleat_tool_cache **out, struct cleat_error *error)
{
    static const struct cleat_retry_policy tools = CLEAT_RETRY_TOOLS;
    struct cleat_tool_cache *c = block;
    size_t needed = cleat_tool_cache_bytes(config);
    bool sound = is_sound(config);

    CLEAT_ASSERT(out != NULL);
    CLEAT_ASSERT(needed >= sizeof *c);
    *out = NULL;
    if (!sound || block == NULL || (uintptr_t)block % 8 != 0) {
        return CLEAT_REFUSE(
            error, CLEAT_INVALID, sound ? 0 : 2, 0,
            "tool cache: a block aligned to 8 bytes, a slot, a "
            "waiter, as many entries as slots and a sound policy "
            "are needed");
    }
    if (bytes < needed) {
        return CLEAT_REFUSE(error, CLEAT_TOO_SMALL, 1, needed,
                            "tool cache: the block is too small");
    }
    memset(c, 0, needed);
    c->config = *config;
    c->config.policy = NULL;
    if (c->config.ttl_default_ns == 0) {
        c->config.ttl_default_ns = CLEAT_NEVER;
    }
    if (c->config.ttl_max_ns == 0) {
        c->config.ttl_max_ns = CLEAT_TOOL_CACHE_TTL_MAX_NS_DEFAULT;
    }
    if (c->config.reloads_max == 0) {
        c->config.reloads_max = CLEAT_TOOL_CACHE_RELOADS_MAX_DEFAULT;
    } else if (c->config.reloads_max == NOBODY) {
        c->config.reloads_max = 0;
    }
    c->policy = config->policy != NULL ? *config->policy : tools;
    c->policy.flags |= CLEAT_RETRY_IDEMPOTENT;
    c->now_ns = now_ns;
    c->asked = NOBODY;
    for (uint32_t i = 0; i < c->config.entries_count; i++) {
        entries_of(c)[i].value = NOBODY;
        entries_of(c)[i].loading = NOBODY;
    }
    check(c);
    *out = c;
    return CLEAT_OK;
}

/* ---- asking -------------------------------------------------------------- */

/* The entry of a key; NOBODY: there is none. */
static uint32_t find(const struct cleat_tool_cache *c, uint64_t key)
{
    const struct cleat_tool_cache_entry *e = entries_of(c);
    uint32_t i = 0;

    while (i < c->config.entries_count &&
           (e[i].state == ENTRY_NONE || e[i].key != key)) {
        i++;
    }
    CLEAT_ASSERT(i <= c->config.entries_count);
    return i < c->config.entries_count ? i : NOBODY;
}

/* An entry for a key that has none: a free one, else one that remembers no
 * more than a failure. NOBODY: all are in use. */
static uint32_t make(struct cleat_tool_cache *c, uint64_t key)
{
    struct cleat_tool_cache_entry *e = entries_of(c);
    uint32_t made = NOBODY;

    CLEAT_ASSERT(find(c, key) == NOBODY);
    for (uint32_t i = c->config.entries_count; i-- > 0;) {
        if (e[i].state == ENTRY_NONE ||
            (e[i].state == ENTRY_FAILED && e[i].value == NOBODY &&
             (made == NOBODY || e[made].state == ENTRY_FAILED))) {
            made = i;
        }
    }
    if (made != NOBODY) {
        e[made].state = ENTRY_NONE;
        e[made].key = key;
        begin_load(c, &e[made]);
    }
    CLEAT_ASSERT(made == NOBODY || made < c->config.entries_count);
    return made;
}

static uint32_t free_waiter(const struct cleat_tool_cache *c)
{
    const struct cleat_tool_cache_waiter *w = waiters_of(c);
    uint32_t i = 0;

    while (i < c->config.waiters_count && w[i].state != WAITER_FREE) { i++; }
    CLEAT_ASSERT(i <= c->config.waiters_count);
    return i < c->config.waiters_count ? i : NOBODY;
}

/* Whether an entry has a value that may be given out at once. */
static bool is_usable(const struct cleat_tool_cache *c,
                      const struct cleat_tool_cache_entry *e)
{
    CLEAT_ASSERT(e->state != ENTRY_NONE);
    CLEAT_ASSERT(e->fresh_until_ns <= e->stale_until_ns);
    return e->value != NOBODY && !has_come(c, e->stale_until_ns);
}

/* Begins a load where an entry has no fresh value and none is under way. */
static void refresh(struct cleat_tool_cache *c,
                    struct cleat_tool_cache_entry *e)
{
    CLEAT_ASSERT(e->state != ENTRY_NONE);
    CLEAT_ASSERT(c->asked == NOBODY);
    if (e->state == ENTRY_IDLE && has_come(c, e->fresh_until_ns)) {
        begin_load(c, e);
    }
}

/* An entry's value is given out. */
static void hit(struct cleat_tool_cache *c, struct cleat_tool_cache_entry *e,
                struct cleat_tool_cache_answer *answer)
{
    CLEAT_ASSERT(e->value < c->config.slots_count);
    answer->slot = e->value;
    answer->stale = has_come(c, e->fresh_until_ns);
    c->counters.stale += answer->stale;
    (void)cleat_tool_cache_used(c, e->value, 1);
    refresh(c, e);
    CLEAT_ASSERT(c->counters.stale <= c->counters.hits);
}

/* A caller waits for an entry. */
static void begin_wait(struct cleat_tool_cache *c, uint32_t waiter,
                       uint32_t entry, uint64_t deadline_ns, uint64_t tag)
{
    struct cleat_tool_cache_waiter *w = &waiters_of(c)[waiter];

    CLEAT_ASSERT(w->state == WAITER_FREE);
    CLEAT_ASSERT(entry < c->config.entries_count);
    c->counters.waits++;
    w->told.what = CLEAT_TOOL_CACHE_WAKE;
    w->told.tag = tag;
    w->told.entry = entry;
    w->told.waiter = waiter;
    w->deadline_ns = deadline_ns;
    w->state = WAITER_WAITING;
}

enum cleat_status
cleat_tool_cache_lookup(struct cleat_tool_cache *c, uint64_t now_ns,
                        uint64_t key, uint64_t deadline_ns, uint64_t tag,
                        struct cleat_tool_cache_answer *answer)
{
    enum cleat_status status = enter(c, now_ns);
    struct cleat_tool_cache_entry *e = entries_of(c);
    uint32_t entry = find(c, key);
    uint32_t waiter = free_waiter(c);

    CLEAT_ASSERT(answer != NULL);
    memset(answer, 0, sizeof *answer);
    answer->entry = entry;
    answer->slot = NOBODY;
    answer->waiter = NOBODY;
    if (status != CLEAT_OK) { return status; }
    if (entry != NOBODY && is_usable(c, &e[entry])) {
        hit(c, &e[entry], answer);
        return CLEAT_OK;
    }
    c->counters.misses++;
    if (entry != NOBODY && e[entry].state == ENTRY_FAILED) {
        answer->attempts = e[entry].attempts;
        return (enum cleat_status)e[entry].status;
    }
    if (deadline_ns <= now_ns) { return CLEAT_DEADLINE; }
    if (waiter == NOBODY) { return CLEAT_NO_SLOT; }
    if (entry != NOBODY) {
        refresh(c, &e[entry]);
    } else {
        entry = make(c, key);
        if (entry == NOBODY) { return CLEAT_NO_SLOT; }
    }
    begin_wait(c, waiter, entry, deadline_ns, tag);
    answer->entry = entry;
    answer->waiter = waiter;
    check(c);
    return CLEAT_PENDING;
}

enum cleat_status cleat_tool_cache_prefetch(struct cleat_tool_cache *c,
                                            uint64_t now_ns, uint64_t key)
{
    enum cleat_status status = enter(c, now_ns);
    uint32_t entry = find(c, key);

    CLEAT_ASSERT(status <= CLEAT_OK);
    CLEAT_ASSERT(entry == NOBODY || entry < c->config.entries_count);
    if (status != CLEAT_OK) { return status; }
    if (entry == NOBODY) {
        return make(c, key) != NOBODY ? CLEAT_OK : CLEAT_NO_SLOT;
    }
    if (entries_of(c)[entry].state == ENTRY_FAILED) {
        return (enum cleat_status)entries_of(c)[entry].status;
    }
    refresh(c, &entries_of(c)[entry]);
    check(c);
    return CLEAT_OK;
}

enum cleat_status cleat_tool_cache_cancel(struct cleat_tool_cache *c,
                                          uint64_t now_ns, uint32_t waiter)
{
    enum cleat_status status = enter(c, now_ns);
    struct cleat_tool_cache_waiter *w = waiters_of(c);

    CLEAT_ASSERT(status <= CLEAT_OK);
    if (status != CLEAT_OK) { return status; }
    if (waiter >= c->config.waiters_count || w[waiter].state == WAITER_FREE) {
        return CLEAT_STATE;
    }
    w[waiter].state = WAITER_FREE;
    check(c);
    return CLEAT_OK;
}

enum cleat_status cleat_tool_cache_invalidate(struct cleat_tool_cache *c,
                                              uint64_t now_ns, uint64_t key)
{
    enum cleat_status status = enter(c, now_ns);
    uint32_t entry = find(c, key);
    struct cleat_tool_cache_entry *e = entries_of(c);
    struct cleat_tool_cache_waiter *w = waiters_of(c);

    CLEAT_ASSERT(status <= CLEAT_OK);
    if (status != CLEAT_OK) { return status; }
    if (entry == NOBODY) { return CLEAT_NOT_FOUND; }
    e += entry;
    c->counters.invalidations++;
    if (e->value != NOBODY && !has_come(c, e->fresh_until_ns)) {
        e->fresh_until_ns = now_ns;
        e->stale_until_ns = cleat_time_add(now_ns, c->config.stale_max_ns);
        slots_of(c)[e->value].due = CLEAT_TOOL_CACHE_UNPUBLISH;
    }
    for (uint32_t i = 0; i < c->config.waiters_count; i++) {
        if (w[i].told.entry == entry) { w[i].told.stale = 1; }
    }
    if (e->loading != NOBODY) { slots_of(c)[e->loading].outdated = 1; }
    if (e->state == ENTRY_FAILED) { rest(e); }
    check(c);
    return CLEAT_OK;
}

enum cleat_status cleat_tool_cache_used(struct cleat_tool_cache *c,
                                        uint32_t slot, uint64_t hits)
{
    CLEAT_ASSERT(c != NULL);
    CLEAT_ASSERT(c->order < UINT64_MAX);
    if (slot >= c->config.slots_count) { return CLEAT_INVALID; }
    slots_of(c)[slot].used = ++c->order;
    c->counters.hits += hits;
    return CLEAT_OK;
}

/* ---- results ------------------------------------------------------------- */

enum cleat_status cleat_tool_cache_loaded(struct cleat_tool_cache *c,
                                          uint64_t now_ns, uint64_t load,
                                          enum cleat_status status,
                                          uint64_t ttl_ns, uint64_t hint_ns,
                                          uint64_t random)
{
    struct cleat_tool_cache_slot *s = slots_of(c);
    enum cleat_status entered;
    uint32_t slot = 0;

    while (slot < c->config.slots_count &&
           (s[slot].load != load || (s[slot].state != SLOT_LOADING &&
                                     s[slot].state != SLOT_ABANDONED))) {
        slot++;
    }
    if (slot == c->config.slots_count || status > CLEAT_OK) {
        return CLEAT_INVALID;
    }
    entered = cleat_tool_cache_tick(c, now_ns, random);
    if (entered != CLEAT_OK) { return entered; }
    CLEAT_ASSERT(s[slot].entry < c->config.entries_count);
    if (s[slot].state == SLOT_ABANDONED) {
        c->counters.late++;
        s[slot].state = SLOT_FREE;
        s[slot].due = 0;
    } else if (status == CLEAT_OK) {
        install(c, slot, ttl_ns);
    } else {
        s[slot].state = SLOT_FREE;
        attempt_failed(c, s[slot].entry, status, hint_ns);
    }
    CLEAT_ASSERT(s[slot].state != SLOT_LOADING);
    check(c);
    return CLEAT_OK;
}

enum cleat_status cleat_tool_cache_reclaimed(struct cleat_tool_cache *c,
                                             uint32_t slot, bool yes)
{
    struct cleat_tool_cache_slot *s = slots_of(c);
    struct cleat_tool_cache_entry *e;

    CLEAT_ASSERT(c->asked == NOBODY || c->asked < c->config.slots_count);
    if (slot == NOBODY || slot != c->asked) { return CLEAT_STATE; }
    c->asked = NOBODY;
    s[slot].refused = !yes;
    if (!yes) { return CLEAT_OK; }
    e = &entries_of(c)[s[slot].entry];
    if (s[slot].state == SLOT_VALUE) {
        CLEAT_ASSERT(e->value == slot);
        c->counters.evictions++;
        e->value = NOBODY;
        if (e->state == ENTRY_IDLE) { rest(e); }
    }
    s[slot].state = SLOT_FREE;
    check(c);
    return CLEAT_OK;
}

/* ---- commands ------------------------------------------------------------ */

/* Hands out what is due about a slot. */
static bool next_of_slots(struct cleat_tool_cache *c, uint8_t what,
                          struct cleat_tool_cache_command *command)
{
    struct cleat_tool_cache_slot *s = slots_of(c);
    uint32_t i = 0;

    CLEAT_ASSERT(what != 0);
    while (i < c->config.slots_count && s[i].due != what) { i++; }
    if (i == c->config.slots_count) { return false; }
    CLEAT_ASSERT(s[i].state != SLOT_FREE);
    s[i].due = 0;
    command->what = what;
    command->slot = i;
    command->entry = s[i].entry;
    command->load = s[i].load;
    command->key = entries_of(c)[s[i].entry].key;
    command->until_ns = entries_of(c)[s[i].entry].fresh_until_ns;
    return true;
}

static bool next_woken(struct cleat_tool_cache *c,
                       struct cleat_tool_cache_command *command)
{
    struct cleat_tool_cache_waiter *w = waiters_of(c);
    uint32_t i = 0;

    CLEAT_ASSERT(c->asked == NOBODY);
    while (i < c->config.waiters_count && w[i].state != WAITER_WOKEN) { i++; }
    if (i == c->config.waiters_count) { return false; }
    CLEAT_ASSERT((w[i].told.status == CLEAT_OK) == (w[i].told.slot != NOBODY));
    w[i].state = WAITER_FREE;
    *command = w[i].told;
    return true;
}

/* How unwillingly a slot gives way, in the order of the header; among equals,
 * the longer it has not been used the sooner. UINT64_MAX: not at all. */
static uint64_t weight(const struct cleat_tool_cache *c,
                       const struct cleat_tool_cache_slot *s)
{
    const struct cleat_tool_cache_entry *e = &entries_of(c)[s->entry];
    uint64_t rank = 1;

    CLEAT_ASSERT(s->entry < c->config.entries_count);
    CLEAT_ASSERT(s->used < UINT64_C(1) << 60);
    if (s->state == SLOT_FREE) { return 0; }
    if (s->refused) { return UINT64_MAX; }
    if (s->state != SLOT_OLD) {
        /* What serves nobody any more gives way even to its own refresh. */
        bool serves = !has_come(c, e->stale_until_ns);

        if (s->state != SLOT_VALUE ||
            (serves && e->state != ENTRY_IDLE && e->state != ENTRY_FAILED)) {
            return UINT64_MAX;
        }
        rank = has_come(c, e->fresh_until_ns) ? 2 : 3;
    }
    return rank << 60 | s->used;
}

/* The slot that gives way first; NOBODY: none does. */
static uint32_t first_to_give(const struct cleat_tool_cache *c)
{
    const struct cleat_tool_cache_slot *s = slots_of(c);
    uint64_t least = UINT64_MAX;
    uint32_t best = NOBODY;

    CLEAT_ASSERT(c->asked == NOBODY);
    for (uint32_t i = 0; i < c->config.slots_count; i++) {
        uint64_t weighed = weight(c, &s[i]);

        if (weighed < least) {
            least = weighed;
            best = i;
        }
    }
    CLEAT_ASSERT((best == NOBODY) == (least == UINT64_MAX));
    CLEAT_ASSERT(best == NOBODY || best < c->config.slots_count);
    return best;
}

/* An attempt begins, in a slot or without one. */
static void begin_attempt(struct cleat_tool_cache *c, uint32_t entry,
                          uint32_t slot,
                          struct cleat_tool_cache_command *command)
{
    struct cleat_tool_cache_entry *e = &entries_of(c)[entry];
    struct cleat_tool_cache_slot *s = slots_of(c);

    CLEAT_ASSERT(e->state == ENTRY_WANTING);
    for (uint32_t i = 0; i < c->config.slots_count; i++) { s[i].refused = 0; }
    e->attempts++;
    e->moment_ns = c->now_ns;
    e->state = ENTRY_STARVED;
    if (slot == NOBODY) { return; }
    CLEAT_ASSERT(s[slot].state == SLOT_FREE);
    e->moment_ns = cleat_retry_attempt_deadline(&e->retry, &c->policy,
                                                c->now_ns);
    e->state = ENTRY_LOADING;
    e->loading = slot;
    s[slot].state = SLOT_LOADING;
    s[slot].outdated = 0;
    s[slot].entry = entry;
    s[slot].load = ++c->counters.loads;
    command->what = CLEAT_TOOL_CACHE_LOAD;
    command->key = e->key;
    command->load = s[slot].load;
    command->until_ns = e->moment_ns;
    command->began_ns = e->began_ns;
    command->attempts = e->attempts;
    command->entry = entry;
    command->slot = slot;
}

/* Loads that want a slot. */
static bool next_wanting(struct cleat_tool_cache *c,
                         struct cleat_tool_cache_command *command)
{
    struct cleat_tool_cache_entry *e = entries_of(c);

    CLEAT_ASSERT(c->asked == NOBODY);
    for (uint32_t i = 0; i < c->config.entries_count; i++) {
        uint32_t slot;

        if (e[i].state != ENTRY_WANTING) { continue; }
        slot = first_to_give(c);
        CLEAT_ASSERT(slot == NOBODY || slot < c->config.slots_count);
        if (slot != NOBODY && slots_of(c)[slot].state != SLOT_FREE) {
            c->asked = slot;
            command->what = CLEAT_TOOL_CACHE_RECLAIM;
            command->slot = slot;
            return true;
        }
        begin_attempt(c, i, slot, command);
        if (slot != NOBODY) { return true; }
    }
    return false;
}

bool cleat_tool_cache_next(struct cleat_tool_cache *c,
                           struct cleat_tool_cache_command *command)
{
    bool found;

    CLEAT_ASSERT(c != NULL && command != NULL);
    CLEAT_ASSERT(c->asked == NOBODY || c->asked < c->config.slots_count);
    memset(command, 0, sizeof *command);
    if (c->asked != NOBODY) { return false; }
    if (next_of_slots(c, CLEAT_TOOL_CACHE_UNPUBLISH, command) ||
        next_of_slots(c, CLEAT_TOOL_CACHE_PUBLISH, command) ||
        next_woken(c, command) ||
        next_of_slots(c, CLEAT_TOOL_CACHE_ABANDON, command)) {
        return true;
    }
    found = next_wanting(c, command);
    check(c);
    return found;
}
