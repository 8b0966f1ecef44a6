/* Cleat: the cache of tool lists against its invariants.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Three callers ask for keys, wait as long as they say, pin what they get and
 * let it go. Servers answer in any order, in time, late or after they were
 * given up, with the faults of the table; what they hold changes meanwhile.
 * The values are really here: each slot knows what is written in it, whether
 * that is out of date, and who reads it; and what should become of each key is
 * told once more, plainly, in `struct key`. */
#include "choose.h"
#include "cleat/tool_cache.h"
#include "faults.h"

#define SECONDS(n) ((n)*CLEAT_NS_PER_S)
#define NOBODY CLEAT_TOOL_CACHE_NOBODY

enum { CALLERS = 3, KEYS_MAX = 3, SLOTS_MAX = 2 };
enum { ENTRIES_MAX = KEYS_MAX + SLOTS_MAX };

/* What must be reached: by every shape, and by one that says so. */
enum mark {
    MARK_HIT,
    MARK_LOADED,
    MARK_FAILED,
    MARK_SILENT,
    MARK_LATE,
    MARK_DEADLINE,
    MARKS_OF_ALL,
    MARK_DIRECT = MARKS_OF_ALL,
    MARK_CANCELLED,
    MARK_STALE_HIT,
    MARK_OUTDATED,
    MARK_RELOAD,
    MARK_REMEMBERED,
    MARK_EVICTED,
    MARK_PINNED,
    MARK_STARVED,
    MARK_CROWDED
};

#define OF_ALL                                                       \
    "a hit", "a load", "a load that fails", "a load that is silent", \
        "a late result", "a wait that ends"

struct bounds {
    struct cleat_tool_cache_config config;
    uint64_t begins_ns;
    uint64_t ttls[2];  /* what servers say */
    uint64_t waits[2]; /* how long callers wait */
    uint8_t keys;
    uint8_t lookups; /* how often each of these may happen */
    uint8_t faults;
    uint8_t invalidations;
    uint8_t prefetches;
    uint8_t cancels;
    uint8_t jumps;
    uint8_t reaches[4]; /* enum mark, besides those of all */
};

/* A value's place, as it is. */
enum { EMPTY, WRITING, VALUE };
struct place {
    uint64_t load; /* its number */
    uint64_t load_until_ns;
    uint64_t published_until_ns;
    uint64_t used;
    int16_t held; /* the answer that comes late */
    uint8_t what;
    uint8_t key;
    uint8_t outdated; /* what is or will be in it is not what the server has */
    uint8_t abandoned;
    uint8_t mute; /* no answer comes in time */
    uint8_t pins;
    uint8_t published;
    uint8_t refused; /* asked for since the last attempt began */
};

/* What should become of a key. */
enum { RESTS, WANTS, LOADS, WAITS_AGAIN, STARVES };
struct key {
    uint64_t moment_ns; /* WAITS_AGAIN: when; else since when it starves */
    uint64_t fresh_until_ns;
    uint64_t stale_until_ns;
    uint64_t remembered_until_ns;
    uint32_t value; /* slot, or NOBODY */
    int16_t status; /* of the failure that is remembered */
    uint8_t state;
    uint8_t attempts; /* since the policy began */
    uint8_t made;     /* … and since the load began */
    uint8_t reloads;
    uint8_t remembers;
};

enum { IDLE, WAITING, READING };
struct caller {
    uint64_t deadline_ns;
    uint32_t waiter;
    uint32_t slot; /* that it has pinned */
    int16_t told;  /* what it should be told; PENDING: nothing yet */
    uint8_t state;
    uint8_t key;
};

struct world {
    _Alignas(64) unsigned char block[CLEAT_TOOL_CACHE_BYTES(
        ENTRIES_MAX, SLOTS_MAX, CALLERS)];
    struct place places[SLOTS_MAX];
    struct key keys[ENTRIES_MAX];
    struct caller callers[CALLERS];
    struct cleat_tool_cache_counters counters;
    const struct bounds *bounds;
    uint64_t now_ns;
    uint64_t order;
    uint8_t lookups_left;
    uint8_t faults_left;
    uint8_t invalidations_left;
    uint8_t prefetches_left;
    uint8_t cancels_left;
    uint8_t jumps_left;
    uint8_t keys_count; /* those of the end included */
};

static struct cleat_tool_cache *machine(struct world *w)
{
    return (struct cleat_tool_cache *)(void *)w->block;
}

static void mark(struct choose *c, const struct world *w, uint32_t which)
{
    if (which < MARKS_OF_ALL) { choose_mark(c, which); }
    for (uint32_t i = 0; i < sizeof w->bounds->reaches; i++) {
        if (which >= MARKS_OF_ALL && w->bounds->reaches[i] == which) {
            choose_mark(c, MARKS_OF_ALL + i);
        }
    }
}

static void init(void *state, const void *arg)
{
    struct world *w = state;
    struct cleat_tool_cache_config config;
    struct cleat_tool_cache *made;

    w->bounds = arg;
    w->now_ns = w->bounds->begins_ns;
    w->lookups_left = w->bounds->lookups;
    w->faults_left = w->bounds->faults;
    w->invalidations_left = w->bounds->invalidations;
    w->prefetches_left = w->bounds->prefetches;
    w->cancels_left = w->bounds->cancels;
    w->jumps_left = w->bounds->jumps;
    w->keys_count = w->bounds->keys;
    for (uint32_t i = 0; i < ENTRIES_MAX; i++) { w->keys[i].value = NOBODY; }
    config = w->bounds->config;
    if (cleat_tool_cache_begin(w->block, sizeof w->block, &config, w->now_ns,
                               &made, NULL) != CLEAT_OK) {
        cleat_test_assert_failed("begin", __FILE__, __LINE__);
    }
}

/* ---- what should happen ---------------------------------------------------
 */

static bool has_come(uint64_t time_ns, uint64_t now_ns)
{
    return time_ns <= now_ns && time_ns != CLEAT_NEVER;
}

static bool is_fresh(const struct world *w, const struct key *k)
{
    return k->value != NOBODY && !has_come(k->fresh_until_ns, w->now_ns);
}

static bool is_usable(const struct world *w, const struct key *k)
{
    return k->value != NOBODY && !has_come(k->stale_until_ns, w->now_ns);
}

static bool is_known(const struct key *k)
{
    return k->state != RESTS || k->value != NOBODY || k->remembers != 0;
}

static void tell_all(struct world *w, uint32_t key, enum cleat_status status)
{
    for (uint32_t i = 0; i < CALLERS; i++) {
        struct caller *caller = &w->callers[i];

        if (caller->state == WAITING && caller->key == key &&
            caller->told == CLEAT_PENDING) {
            caller->told = (int16_t)status;
        }
    }
}

static void load_begins(struct world *w, uint32_t key)
{
    struct key *k = &w->keys[key];

    if (k->state != RESTS || k->remembers != 0 || is_fresh(w, k)) { return; }
    k->state = WANTS;
    k->attempts = 0;
    k->made = 0;
    k->reloads = 0;
    w->counters.refreshes += k->value != NOBODY;
}

static void attempt_fails(struct choose *c, struct world *w, uint32_t key,
                          enum cleat_status status)
{
    const struct cleat_retry_policy *policy = w->bounds->config.policy;
    struct key *k = &w->keys[key];
    enum cleat_class class_of_status = cleat_status_class(status);
    uint64_t delay = policy->base_ns << (k->attempts - 1);

    w->counters.failures++;
    if (delay > policy->max_ns) { delay = policy->max_ns; }
    k->moment_ns = cleat_time_add(w->now_ns, delay);
    k->state = k->moment_ns > w->now_ns ? WAITS_AGAIN : WANTS;
    if (class_of_status != CLEAT_CLASS_PERMANENT &&
        class_of_status != CLEAT_CLASS_CANCELLED &&
        k->attempts < policy->attempts_max && k->moment_ns != CLEAT_NEVER) {
        return;
    }
    mark(c, w, MARK_FAILED);
    k->state = RESTS;
    tell_all(w, key, status);
    if (w->bounds->config.negative_ttl_ns != 0) {
        k->remembers = 1;
        k->status = (int16_t)status;
        k->remembered_until_ns = cleat_time_add(
            w->now_ns, w->bounds->config.negative_ttl_ns);
    }
}

/* The load into a slot has brought a value. */
static void value_comes(struct choose *c, struct world *w, uint32_t slot,
                        uint64_t ttl)
{
    const struct cleat_tool_cache_config *config = &w->bounds->config;
    struct place *place = &w->places[slot];
    struct key *k = &w->keys[place->key];
    uint64_t ttl_max = config->ttl_max_ns != 0
                           ? config->ttl_max_ns
                           : CLEAT_TOOL_CACHE_TTL_MAX_NS_DEFAULT;

    if (ttl == CLEAT_NONE) {
        ttl = config->ttl_default_ns != 0 ? config->ttl_default_ns
                                          : CLEAT_NEVER;
    } else if (ttl > ttl_max) {
        ttl = ttl_max;
    }
    place->what = VALUE;
    place->used = ++w->order;
    k->value = slot;
    k->fresh_until_ns = cleat_time_add(w->now_ns, place->outdated ? 0 : ttl);
    k->stale_until_ns = cleat_time_add(k->fresh_until_ns, config->stale_max_ns);
    if (place->outdated != 0 && k->reloads < config->reloads_max) {
        mark(c, w, MARK_RELOAD);
        k->reloads++;
        k->attempts = 0;
        k->state = WANTS;
        return;
    }
    k->state = RESTS;
    tell_all(w, place->key, CLEAT_OK);
    mark(c, w, place->outdated ? MARK_OUTDATED : MARK_LOADED);
}

/* Time goes on. */
static void moved_to(struct choose *c, struct world *w, uint64_t now_ns)
{
    w->now_ns = now_ns;
    for (uint32_t i = 0; i < w->keys_count; i++) {
        struct key *k = &w->keys[i];

        if (k->state == STARVES) {
            attempt_fails(c, w, i, CLEAT_NO_SLOT);
        } else if (k->state == WAITS_AGAIN && has_come(k->moment_ns, now_ns)) {
            k->state = WANTS;
        } else if (k->remembers != 0 &&
                   has_come(k->remembered_until_ns, now_ns)) {
            k->remembers = 0;
        }
    }
    for (uint32_t i = 0; i < SLOTS_MAX; i++) {
        struct place *place = &w->places[i];

        if (place->what == WRITING && place->abandoned == 0 &&
            has_come(place->load_until_ns, now_ns)) {
            place->abandoned = 1; /* to be told */
            mark(c, w, MARK_SILENT);
            attempt_fails(c, w, place->key, CLEAT_PEER_SILENT);
        }
        if (has_come(place->published_until_ns, now_ns)) {
            place->published = 0;
        }
    }
    for (uint32_t i = 0; i < CALLERS; i++) {
        struct caller *caller = &w->callers[i];

        if (caller->state == WAITING && caller->told == CLEAT_PENDING &&
            has_come(caller->deadline_ns, now_ns)) {
            caller->told = CLEAT_DEADLINE;
        }
    }
}

/* How readily a slot should give way; 4: not at all. */
static uint32_t rank(const struct world *w, uint32_t slot)
{
    const struct place *place = &w->places[slot];
    const struct key *k = &w->keys[place->key];

    if (place->what == EMPTY) { return 0; }
    if (place->what == WRITING || place->refused != 0) { return 4; }
    if (k->value != slot) { return 1; }
    if (!is_usable(w, k)) { return 2; }
    if (k->state != RESTS) { return 4; }
    return is_fresh(w, k) ? 3 : 2;
}

/* ---- what the machine asks for --------------------------------------------
 */

static void unpublish(struct choose *c, struct world *w,
                      const struct cleat_tool_cache_command *command)
{
    struct place *place = &w->places[command->slot];

    choose_check(c, place->what == VALUE, "what is taken back is a value");
    choose_check(
        c, place->outdated != 0 || w->keys[place->key].value != command->slot,
        "what is taken back is out of date, or replaced");
    place->published = 0;
}

static void publish(struct choose *c, struct world *w,
                    const struct cleat_tool_cache_command *command)
{
    struct place *place = &w->places[command->slot];
    const struct key *k = &w->keys[place->key];

    choose_check(c, place->what == VALUE && place->key == command->key,
                 "a-pinned-value-never-changes: what is published is there");
    choose_check(c, place->outdated == 0,
                 "invalidated-while-loading-is-not-fresh");
    choose_check(c, k->value == command->slot && is_fresh(w, k),
                 "what is published is fresh");
    choose_check(c, command->until_ns == k->fresh_until_ns,
                 "it is published until it is stale");
    place->published = 1;
    place->published_until_ns = command->until_ns;
}

static void wake(struct choose *c, struct world *w,
                 const struct cleat_tool_cache_command *command)
{
    struct caller *caller = &w->callers[command->tag];
    const struct place *place = &w->places[command->slot % SLOTS_MAX];

    choose_note(c, "  caller %u is told %s", (uint32_t)command->tag,
                cleat_status_name((enum cleat_status)command->status));
    choose_check(c,
                 caller->state == WAITING && caller->waiter == command->waiter,
                 "only who waits is told, once");
    choose_check(c,
                 command->status == caller->told ||
                     (command->status == CLEAT_DEADLINE &&
                      has_come(caller->deadline_ns, w->now_ns)),
                 "every-waiter-ends, as what it waited for ended");
    caller->state = IDLE;
    if (command->status == CLEAT_DEADLINE) { mark(c, w, MARK_DEADLINE); }
    if (command->status != CLEAT_OK) { return; }
    choose_check(c, place->what == VALUE && place->key == caller->key,
                 "a-pinned-value-never-changes: what is given out is there");
    choose_check(c, (command->stale != 0) == (place->outdated != 0),
                 "invalidated-while-loading-is-not-fresh");
    caller->state = READING;
    caller->slot = command->slot;
    w->places[command->slot].pins++;
}

static void abandon(struct choose *c, struct world *w,
                    const struct cleat_tool_cache_command *command)
{
    struct place *place = &w->places[command->slot];

    choose_note(c, "  load %llu is given up",
                (unsigned long long)command->load);
    choose_check(c,
                 place->what == WRITING && place->load == command->load &&
                     place->abandoned == 1,
                 "what is given up has missed its deadline");
    place->abandoned = 2;
}

static void forget_refusals(struct world *w)
{
    for (uint32_t i = 0; i < SLOTS_MAX; i++) { w->places[i].refused = 0; }
}

static void reclaim(struct choose *c, struct world *w, uint32_t slot)
{
    struct place *place = &w->places[slot];
    bool yes = place->pins == 0;

    choose_note(c, "  slot %u is asked for: %s", slot, yes ? "yes" : "no");
    if (place->refused != 0) { forget_refusals(w); } /* for another key */
    choose_check(c, rank(w, slot) >= 1 && rank(w, slot) <= 3,
                 "what is being loaded, or serves, does not give way");
    for (uint32_t i = 0; i < w->bounds->config.slots_count; i++) {
        choose_check(c,
                     rank(w, i) > rank(w, slot) ||
                         (rank(w, i) == rank(w, slot) &&
                          w->places[i].used >= place->used),
                     "the free, the replaced, the stale, the least used");
    }
    if (yes) {
        if (w->keys[place->key].value == slot) {
            w->keys[place->key].value = NOBODY;
            w->counters.evictions++;
            mark(c, w, MARK_EVICTED);
        }
        place->what = EMPTY;
        place->published = 0;
    } else {
        place->refused = 1;
        mark(c, w, MARK_PINNED);
    }
    choose_check(c,
                 cleat_tool_cache_reclaimed(machine(w), slot, yes) == CLEAT_OK,
                 "an answer is taken");
}

/* A slot is written to from now on. */
static void load(struct choose *c, struct world *w,
                 const struct cleat_tool_cache_command *command)
{
    struct place *place = &w->places[command->slot];
    struct key *k = &w->keys[command->key % ENTRIES_MAX];

    choose_note(c, "  load %llu of %llu into slot %u until %llu",
                (unsigned long long)command->load,
                (unsigned long long)command->key, command->slot,
                (unsigned long long)command->until_ns);
    choose_check(c, command->slot < w->bounds->config.slots_count,
                 "a slot that there is");
    choose_check(c, place->pins == 0 && place->published == 0,
                 "a-pinned-value-never-changes");
    choose_check(c, place->what == EMPTY, "a slot holds one thing at a time");
    for (uint32_t i = 0; i < SLOTS_MAX; i++) {
        choose_check(c,
                     w->places[i].what != WRITING ||
                         w->places[i].abandoned != 0 ||
                         w->places[i].key != command->key,
                     "one-load-a-key");
    }
    choose_check(c, command->key < w->keys_count && k->state == WANTS,
                 "one-load-a-key: nothing is loaded that nobody needs");
    choose_check(c, command->load == w->counters.loads + 1,
                 "loads are numbered");
    choose_check(
        c,
        command->until_ns ==
            cleat_time_add(w->now_ns,
                           w->bounds->config.policy->attempt_timeout_ns),
        "a load has its deadline");
    k->state = LOADS;
    k->attempts++;
    k->made++;
    choose_check(c, command->attempts == k->made,
                 "a load tells which attempt it is");
    w->counters.loads++;
    forget_refusals(w);
    memset(place, 0, sizeof *place);
    place->what = WRITING;
    place->key = (uint8_t)command->key;
    place->load = command->load;
    place->load_until_ns = command->until_ns;
}

/* Keys that want a slot and have got none have failed this time. */
static void starve(struct choose *c, struct world *w)
{
    forget_refusals(w);
    for (uint32_t i = 0; i < w->keys_count; i++) {
        struct key *k = &w->keys[i];

        if (k->state != WANTS) { continue; }
        mark(c, w, MARK_STARVED);
        for (uint32_t slot = 0; slot < w->bounds->config.slots_count; slot++) {
            choose_check(c, rank(w, slot) == 4 || w->places[slot].pins != 0,
                         "no-key-waits-for-another while a slot is to be had");
        }
        k->state = STARVES;
        k->attempts++;
        k->made++;
    }
}

/* Takes every command, and holds what is against what should be. */
static void drain(struct choose *c, struct world *w)
{
    struct cleat_tool_cache_command command;
    struct cleat_tool_cache_counters counters;
    uint32_t asked = 0;

    while (cleat_tool_cache_next(machine(w), &command)) {
        asked += command.what == CLEAT_TOOL_CACHE_RECLAIM;
        choose_check(c, asked <= KEYS_MAX * SLOTS_MAX,
                     "no slot is asked for twice by one attempt");
        switch (command.what) {
        case CLEAT_TOOL_CACHE_UNPUBLISH: unpublish(c, w, &command); break;
        case CLEAT_TOOL_CACHE_PUBLISH: publish(c, w, &command); break;
        case CLEAT_TOOL_CACHE_WAKE: wake(c, w, &command); break;
        case CLEAT_TOOL_CACHE_ABANDON: abandon(c, w, &command); break;
        case CLEAT_TOOL_CACHE_RECLAIM: reclaim(c, w, command.slot); break;
        default: load(c, w, &command);
        }
    }
    starve(c, w);
    counters = cleat_tool_cache_count(machine(w));
    choose_check(c, memcmp(&counters, &w->counters, sizeof counters) == 0,
                 "counters add up");
    for (uint32_t i = 0; i < CALLERS; i++) {
        choose_check(c,
                     w->callers[i].state != WAITING ||
                         (w->callers[i].told == CLEAT_PENDING &&
                          !has_come(w->callers[i].deadline_ns, w->now_ns)),
                     "every-waiter-ends by its deadline");
    }
    for (uint32_t i = 0; i < SLOTS_MAX; i++) {
        const struct place *place = &w->places[i];

        choose_check(c, place->abandoned != 1,
                     "what has missed its deadline is given up");
        choose_check(c, place->published == 0 || place->outdated == 0,
                     "what is out of date is taken back");
    }
}

/* ---- moves -----------------------------------------------------------------
 */

/* A caller gets the value of a key. */
static void pin(struct choose *c, struct world *w, struct caller *caller,
                uint32_t key, uint32_t slot, bool stale)
{
    const struct key *k = &w->keys[key];
    struct place *place = &w->places[slot % SLOTS_MAX];

    choose_check(c,
                 k->value == slot && place->what == VALUE && place->key == key,
                 "a-pinned-value-never-changes: what is given out is there");
    choose_check(c, is_usable(w, k), "what is too old is not given out");
    choose_check(c, stale != is_fresh(w, k),
                 "invalidated-while-loading-is-not-fresh");
    mark(c, w, stale ? MARK_STALE_HIT : MARK_HIT);
    place->used = ++w->order;
    w->counters.hits++;
    w->counters.stale += stale;
    caller->state = READING;
    caller->slot = slot;
    place->pins++;
}

/* What a lookup should answer. */
static enum cleat_status expected(struct choose *c, const struct world *w,
                                  const struct key *k, uint64_t deadline_ns)
{
    uint32_t waiting = 0;

    for (uint32_t i = 0; i < CALLERS; i++) {
        waiting += w->callers[i].state == WAITING;
    }
    if (is_usable(w, k)) { return CLEAT_OK; }
    if (k->remembers != 0) {
        mark(c, w, MARK_REMEMBERED);
        return (enum cleat_status)k->status;
    }
    if (deadline_ns <= w->now_ns) { return CLEAT_DEADLINE; }
    if (waiting < w->bounds->config.waiters_count) { return CLEAT_PENDING; }
    mark(c, w, MARK_CROWDED);
    return CLEAT_NO_SLOT;
}

static void look_up(struct choose *c, struct world *w, uint32_t who)
{
    struct caller *caller = &w->callers[who];
    uint32_t key = choose_any(c, w->bounds->keys);
    uint64_t deadline = cleat_time_add(w->now_ns,
                                       w->bounds->waits[choose(c, 2)]);
    struct cleat_tool_cache_answer answer;
    enum cleat_status status;
    enum cleat_status should;

    w->lookups_left--;
    moved_to(c, w, w->now_ns);
    should = expected(c, w, &w->keys[key], deadline);
    status = cleat_tool_cache_lookup(machine(w), w->now_ns, key, deadline, who,
                                     &answer);
    choose_note(c, "at %llu: caller %u asks for %u until %llu: %s",
                (unsigned long long)w->now_ns, who, key,
                (unsigned long long)deadline, cleat_status_name(status));
    choose_check(c, status == should,
                 "failure-leaves-nothing but what is told");
    caller->key = (uint8_t)key;
    if (status == CLEAT_OK) {
        pin(c, w, caller, key, answer.slot, answer.stale);
        load_begins(w, key);
        return;
    }
    w->counters.misses++;
    if (status != CLEAT_PENDING) { return; }
    w->counters.waits++;
    caller->state = WAITING;
    caller->told = CLEAT_PENDING;
    caller->deadline_ns = deadline;
    caller->waiter = answer.waiter;
    load_begins(w, key);
}

/* What is published is given out without asking. */
static void take_published(struct choose *c, struct world *w, uint32_t who,
                           uint32_t slot)
{
    w->lookups_left--;
    choose_note(c, "caller %u takes what is published in slot %u", who, slot);
    mark(c, w, MARK_DIRECT);
    pin(c, w, &w->callers[who], w->places[slot].key, slot, false);
    choose_check(c, cleat_tool_cache_used(machine(w), slot, 1) == CLEAT_OK,
                 "a use is taken");
}

/* Entries and waiters are as they were. */
static bool same_but_for_slots(struct world *w, const unsigned char *before)
{
    size_t head = sizeof(struct cleat_tool_cache);
    size_t entries = w->bounds->config.entries_count *
                     sizeof(struct cleat_tool_cache_entry);
    size_t slots = w->bounds->config.slots_count *
                   sizeof(struct cleat_tool_cache_slot);

    return memcmp(w->block + head, before + head, entries) == 0 &&
           memcmp(w->block + head + entries + slots,
                  before + head + entries + slots,
                  CALLERS * sizeof(struct cleat_tool_cache_waiter)) == 0;
}

static enum cleat_status tell(struct world *w, uint64_t number,
                              enum cleat_status status, uint64_t ttl)
{
    return cleat_tool_cache_loaded(machine(w), w->now_ns, number, status, ttl,
                                   CLEAT_NONE, 0);
}

/* The result of a load that was given up. */
static void late_result(struct choose *c, struct world *w, uint32_t slot)
{
    struct place *place = &w->places[slot];
    unsigned char before[sizeof w->block];
    struct cleat_tool_cache_command command;

    memcpy(before, w->block, sizeof before);
    choose_note(c, "load %llu, given up, ends",
                (unsigned long long)place->load);
    choose_check(c,
                 tell(w, place->load, (enum cleat_status)place->held,
                      CLEAT_NONE) == CLEAT_OK,
                 "a late result is taken");
    choose_check(c, same_but_for_slots(w, before),
                 "a-late-result-changes-nothing");
    choose_check(c, !cleat_tool_cache_next(machine(w), &command),
                 "a-late-result-changes-nothing, and asks for nothing");
    w->counters.late++;
    mark(c, w, MARK_LATE);
    place->what = EMPTY;
    place->abandoned = 0;
}

static void result(struct choose *c, struct world *w, uint32_t slot)
{
    struct place *place = &w->places[slot];
    const struct choose_fault *row = choose_fault_pick(c, 0, &w->faults_left);
    enum cleat_status status = row->status;
    uint64_t number = place->load;
    uint64_t ttl = CLEAT_NONE;

    bool late = (row->flags & (FAULT_ANSWERS | FAULT_NOTICE)) == 0 ||
                (row->flags & (FAULT_LATE | FAULT_OVERTAKEN | FAULT_STOPPED)) !=
                    0;

    if (status == CLEAT_PENDING) { status = CLEAT_CANCELLED; } /* killed */
    if (late && place->load_until_ns != CLEAT_NEVER) {
        place->mute = 1;
        place->held = (int16_t)status;
        return;
    }
    moved_to(c, w, w->now_ns);
    if (status == CLEAT_OK) { ttl = w->bounds->ttls[choose(c, 2)]; }
    choose_note(c, "at %llu: load %llu of %u: %s",
                (unsigned long long)w->now_ns, (unsigned long long)number,
                place->key, cleat_status_name(status));
    if (status == CLEAT_OK) {
        value_comes(c, w, slot, ttl);
    } else {
        place->what = EMPTY;
        attempt_fails(c, w, place->key, status);
    }
    choose_check(c, tell(w, number, status, ttl) == CLEAT_OK,
                 "a result is taken");
    if ((row->flags & FAULT_TWICE) != 0) {
        choose_check(c, tell(w, number, status, ttl) == CLEAT_INVALID,
                     "a result is taken once");
    }
}

static void pass_time(struct choose *c, struct world *w)
{
    uint64_t deadline = cleat_tool_cache_deadline(machine(w));
    uint64_t soon = cleat_time_add(w->now_ns, SECONDS(1));
    uint64_t now = deadline;
    uint32_t how = deadline == CLEAT_NEVER ? 1 : 0;

    if (w->jumps_left > 0) { how += choose(c, 3 - how); }
    if (how == 1) { now = soon < deadline ? soon : deadline; }
    if (how == 2) { /* nobody has looked for a while */
        now = cleat_time_add(deadline == CLEAT_NEVER ? soon : deadline,
                             SECONDS(3));
    }
    if (how != 0) { w->jumps_left--; }
    if (now == CLEAT_NEVER) { now--; } /* which never comes */
    moved_to(c, w, now);
    choose_note(c, "at %llu: tick", (unsigned long long)now);
    choose_check(c, cleat_tool_cache_tick(machine(w), now, 0) == CLEAT_OK,
                 "a tick is taken");
    if (now > 0) {
        choose_check(c,
                     cleat_tool_cache_tick(machine(w), now - 1, 0) ==
                         CLEAT_TIME_BACKWARDS,
                     "time that goes back is refused");
    }
}

static void invalidate(struct choose *c, struct world *w)
{
    uint32_t key = choose_any(c, w->bounds->keys);
    struct key *k = &w->keys[key];
    enum cleat_status status;

    w->invalidations_left--;
    moved_to(c, w, w->now_ns);
    status = cleat_tool_cache_invalidate(machine(w), w->now_ns, key);
    choose_note(c, "at %llu: key %u changes", (unsigned long long)w->now_ns,
                key);
    choose_check(c, status == (is_known(k) ? CLEAT_OK : CLEAT_NOT_FOUND),
                 "failure-leaves-nothing");
    w->counters.invalidations += status == CLEAT_OK;
    for (uint32_t i = 0; i < SLOTS_MAX; i++) {
        if (w->places[i].key == key) { w->places[i].outdated = 1; }
    }
    if (is_fresh(w, k)) {
        k->fresh_until_ns = w->now_ns;
        k->stale_until_ns = cleat_time_add(w->now_ns,
                                           w->bounds->config.stale_max_ns);
    }
    k->remembers = 0;
}

static void prefetch(struct choose *c, struct world *w, uint32_t key)
{
    const struct key *k = &w->keys[key];
    enum cleat_status status;

    moved_to(c, w, w->now_ns);
    status = cleat_tool_cache_prefetch(machine(w), w->now_ns, key);
    choose_note(c, "at %llu: key %u is fetched for nobody: %s",
                (unsigned long long)w->now_ns, key, cleat_status_name(status));
    choose_check(
        c,
        status == (k->remembers != 0 ? (enum cleat_status)k->status : CLEAT_OK),
        "what is wanted can be fetched");
    load_begins(w, key);
}

static void cancel(struct choose *c, struct world *w, uint32_t who)
{
    struct caller *caller = &w->callers[who];

    w->cancels_left--;
    choose_note(c, "caller %u waits no more", who);
    moved_to(c, w, w->now_ns);
    choose_check(c,
                 cleat_tool_cache_cancel(machine(w), w->now_ns,
                                         caller->waiter) == CLEAT_OK,
                 "who waits may give it up");
    choose_check(c,
                 cleat_tool_cache_cancel(machine(w), w->now_ns,
                                         caller->waiter) == CLEAT_STATE,
                 "… once");
    mark(c, w, MARK_CANCELLED);
    caller->state = IDLE;
}

/* Nobody asks and nothing is under way any more: every slot can be had. */
static void check_rest(struct choose *c, struct world *w)
{
    uint32_t loads = 0;

    choose_check(c, cleat_tool_cache_deadline(machine(w)) == CLEAT_NEVER,
                 "the machine comes to rest");
    for (uint32_t i = 0; i < CALLERS; i++) {
        choose_check(c, w->callers[i].state == IDLE, "every-waiter-ends");
    }
    for (uint32_t i = 0; i < w->bounds->config.slots_count; i++) {
        w->keys_count++;
        prefetch(c, w, w->keys_count - 1u);
        drain(c, w);
    }
    for (uint32_t i = 0; i < SLOTS_MAX; i++) {
        loads += w->places[i].what == WRITING;
    }
    choose_check(c, loads == w->bounds->config.slots_count,
                 "every-slot-comes-back");
}

enum { LOOK, TAKE, UNPIN, RESULT, LATE, TIME, INVALIDATE, PREFETCH, CANCEL };

struct move {
    uint8_t what;
    uint8_t which;
};

enum { MOVES_MAX = 3 * SLOTS_MAX + 2 * CALLERS + 4 };

/* Those for a slot. */
static uint32_t moves_of_slot(struct world *w, uint8_t i, bool someone,
                              struct move *moves)
{
    const struct place *place = &w->places[i];
    bool due = has_come(cleat_tool_cache_deadline(machine(w)), w->now_ns);
    uint32_t count = 0;

    if (place->what == WRITING && place->abandoned == 0 && place->mute == 0) {
        moves[count++] = (struct move){RESULT, i};
    }
    /* What is due at once is not to be taken for the late result's doing. */
    if (place->what == WRITING && place->abandoned != 0 && !due) {
        moves[count++] = (struct move){LATE, i};
    }
    if (someone && place->published != 0) {
        moves[count++] = (struct move){TAKE, i};
    }
    return count;
}

static uint32_t legal_moves(struct world *w, struct move *moves)
{
    uint32_t count = 0;
    uint8_t idle = CALLERS;
    uint64_t deadline = cleat_tool_cache_deadline(machine(w));

    for (uint8_t i = 0; i < CALLERS; i++) {
        const struct caller *caller = &w->callers[i];

        if (caller->state == IDLE) { idle = i; }
        if (caller->state == READING) {
            moves[count++] = (struct move){UNPIN, i};
        }
        if (caller->state == WAITING && w->cancels_left > 0) {
            moves[count++] = (struct move){CANCEL, i};
        }
    }
    if (w->lookups_left == 0) { idle = CALLERS; }
    if (idle < CALLERS) { moves[count++] = (struct move){LOOK, idle}; }
    for (uint8_t i = 0; i < SLOTS_MAX; i++) {
        count += moves_of_slot(w, i, idle < CALLERS, moves + count);
    }
    if (deadline != CLEAT_NEVER) { moves[count++] = (struct move){TIME, 0}; }
    if (count == 0) { return 0; } /* the rest keeps nothing going */
    if (deadline == CLEAT_NEVER && w->jumps_left > 0) {
        moves[count++] = (struct move){TIME, 0};
    }
    if (w->invalidations_left > 0) {
        moves[count++] = (struct move){INVALIDATE, 0};
    }
    if (w->prefetches_left > 0) { moves[count++] = (struct move){PREFETCH, 0}; }
    return count;
}

static void make(struct choose *c, struct world *w, struct move move)
{
    struct caller *caller = &w->callers[move.which % CALLERS];

    switch (move.what) {
    case LOOK: look_up(c, w, move.which); break;
    case TAKE:
        for (uint32_t i = CALLERS; i-- > 0;) {
            if (w->callers[i].state != IDLE) { continue; }
            take_published(c, w, i, move.which);
            break;
        }
        break;
    case UNPIN:
        choose_note(c, "caller %u lets slot %u go", move.which, caller->slot);
        w->places[caller->slot].pins--;
        caller->state = IDLE;
        break;
    case RESULT: result(c, w, move.which); break;
    case LATE: late_result(c, w, move.which); break;
    case TIME: pass_time(c, w); break;
    case INVALIDATE: invalidate(c, w); break;
    case PREFETCH:
        w->prefetches_left--;
        prefetch(c, w, choose_any(c, w->bounds->keys));
        break;
    default: cancel(c, w, move.which);
    }
}

static bool step(struct choose *c, void *state)
{
    struct world *w = state;
    struct move moves[MOVES_MAX];
    uint32_t count = legal_moves(w, moves);

    if (count == 0) {
        check_rest(c, w);
        return false;
    }
    make(c, w, moves[choose_any(c, count)]);
    drain(c, w);
    return true;
}

/* ---- the projection --------------------------------------------------------
 */

/* A key's part: what should be, and what the machine has of it. */
static unsigned char *put_key(unsigned char *at, struct world *w, uint32_t key)
{
    const struct key *k = &w->keys[key];
    const struct cleat_tool_cache_entry *e =
        (const struct cleat_tool_cache_entry *)(const void *)(machine(w) + 1);
    uint32_t i = 0;

    at = choose_put_u8(at, k->state);
    at = choose_put_time(at, k->moment_ns, w->now_ns);
    at = choose_put_time(at, k->fresh_until_ns, w->now_ns);
    at = choose_put_time(at, k->stale_until_ns, w->now_ns);
    at = choose_put_time(at, k->remembers ? k->remembered_until_ns : 0,
                         w->now_ns);
    at = choose_put_u32(at, k->value);
    at = choose_put_u32(at, k->remembers ? (uint32_t)k->status : 0);
    at = choose_put_u8(at, k->attempts);
    at = choose_put_u8(at, k->made);
    at = choose_put_u8(at, k->reloads);
    while (i < w->bounds->config.entries_count &&
           (e[i].state == 0 || e[i].key != key)) {
        i++;
    }
    if (i == w->bounds->config.entries_count) { return at; }
    at = choose_put_u8(at, 1u + e[i].state);
    at = choose_put_time(at, e[i].moment_ns, w->now_ns);
    at = choose_put_time(at, e[i].fresh_until_ns, w->now_ns);
    at = choose_put_time(at, e[i].stale_until_ns, w->now_ns);
    at = choose_put_u32(at, e[i].value);
    at = choose_put_u32(at, e[i].loading);
    at = choose_put_u32(at, e[i].retry.attempts);
    at = choose_put_u64(at, e[i].retry.delay_ns);
    at = choose_put_u32(at, e[i].reloads);
    return at;
}

static unsigned char *put_place(unsigned char *at, const struct world *w,
                                uint32_t slot)
{
    const struct place *place = &w->places[slot];
    const struct cleat_tool_cache_slot *s =
        (const struct cleat_tool_cache_slot
             *)(const void *)(w->block + sizeof(struct cleat_tool_cache) +
                              w->bounds->config.entries_count *
                                  sizeof(struct cleat_tool_cache_entry)) +
        slot;

    if (slot >= w->bounds->config.slots_count) { return at; }
    at = choose_put_u8(at, place->what);
    at = choose_put_u8(at, 8u * s->refused + s->state);
    if (place->what == EMPTY) { return at; }
    at = choose_put_u8(at, s->outdated);
    at = choose_put_u8(at, place->key);
    at = choose_put_u8(at, place->outdated);
    if (place->what == WRITING) {
        at = choose_put_time(at, place->load_until_ns, w->now_ns);
        at = choose_put_u8(at, place->abandoned);
        at = choose_put_u8(at, place->mute);
        return choose_put_u32(at, place->mute ? (uint32_t)place->held : 0);
    }
    at = choose_put_u8(at, place->pins);
    at = choose_put_u8(at, place->published);
    at = choose_put_time(at, place->published ? place->published_until_ns : 0,
                         w->now_ns);
    for (uint32_t i = 0; i < SLOTS_MAX; i++) {
        at = choose_put_u8(at, w->places[i].what == VALUE &&
                                   place->used < w->places[i].used);
    }
    return at;
}

enum { CALLER_BYTES = 2 + 8 + 4 };

static void put_caller(unsigned char at[CALLER_BYTES], const struct world *w,
                       uint32_t i)
{
    const struct caller *caller = &w->callers[i];

    memset(at, 0, CALLER_BYTES);
    at = choose_put_u8(at, caller->state);
    if (caller->state == WAITING) {
        at = choose_put_u8(at, caller->key);
        (void)choose_put_time(at, caller->deadline_ns, w->now_ns);
    } else if (caller->state == READING) {
        (void)choose_put_u32(at, caller->slot);
    }
}

/* The callers are alike: their parts are sorted. */
static size_t project(const void *state, void *out)
{
    struct world *w = (struct world *)(uintptr_t)state;
    unsigned char parts[CALLERS][CALLER_BYTES];
    unsigned char *at = out;

    for (uint32_t i = 0; i < CALLERS; i++) {
        unsigned char part[CALLER_BYTES];
        uint32_t k = i;

        put_caller(part, w, i);
        for (; k > 0 && memcmp(parts[k - 1], part, sizeof part) > 0; k--) {
            memcpy(parts[k], parts[k - 1], sizeof part);
        }
        memcpy(parts[k], part, sizeof part);
    }
    at = choose_put(at, parts, sizeof parts);
    for (uint32_t i = 0; i < w->bounds->keys; i++) { at = put_key(at, w, i); }
    for (uint32_t i = 0; i < SLOTS_MAX; i++) { at = put_place(at, w, i); }
    at = choose_put_u8(at, w->lookups_left);
    at = choose_put_u8(at, w->faults_left);
    at = choose_put_u8(at, w->invalidations_left);
    at = choose_put_u8(at, w->prefetches_left);
    at = choose_put_u8(at, w->cancels_left);
    at = choose_put_u8(at, w->jumps_left);
    return (size_t)(at - (unsigned char *)out);
}

/* ---- shapes ----------------------------------------------------------------
 */

/* Two seconds an attempt, one or two between them. */
static const struct cleat_retry_policy three_attempts = {
    SECONDS(1), SECONDS(2), 0,
    0,          CLEAT_NONE, SECONDS(2),
    3,          2000,       CLEAT_RETRY_JITTER_NONE,
    0};
static const struct cleat_retry_policy two_attempts = {
    SECONDS(1), SECONDS(1), 0,
    0,          CLEAT_NONE, SECONDS(2),
    2,          2000,       CLEAT_RETRY_JITTER_NONE,
    0};

/* As many entries as keys, those of the end included. */
#define ROOM(keys_, slots_, waiters_)                             \
    .entries_count = (keys_) + (slots_), .slots_count = (slots_), \
    .waiters_count = (waiters_)

/* Values that are never stale, unless they are invalidated. */
static const struct bounds never_stale = {
    .config = {.policy = &two_attempts, .reloads_max = 1, ROOM(2, 2, 3)},
    .begins_ns = SECONDS(5),
    .ttls = {CLEAT_NONE, CLEAT_NONE},
    .waits = {CLEAT_NEVER, SECONDS(1)},
    .keys = 2,
    .lookups = 3,
    .faults = 1,
    .invalidations = 1,
    .cancels = 1,
    .reaches = {MARK_DIRECT, MARK_RELOAD, MARK_CANCELLED}};
static const char *const never_stale_marks[] = {
    OF_ALL, "a hit without asking", "a load made again", "a cancel", NULL};

/* Values that go stale, and are given out for two seconds more. */
static const struct bounds refreshed = {
    .config = {.policy = &two_attempts,
               .ttl_default_ns = SECONDS(1),
               .stale_max_ns = SECONDS(2),
               .reloads_max = 1,
               ROOM(2, 2, 3)},
    .begins_ns = SECONDS(5),
    .ttls = {SECONDS(2), 0},
    .waits = {SECONDS(3), SECONDS(1)},
    .keys = 2,
    .lookups = 3,
    .faults = 1,
    .invalidations = 1,
    .jumps = 1,
    .reaches = {MARK_STALE_HIT, MARK_STARVED, MARK_DIRECT, MARK_RELOAD}};
static const char *const refreshed_marks[] = {OF_ALL,
                                              "a stale hit",
                                              "no slot for a refresh",
                                              "a hit without asking",
                                              "a load made again",
                                              NULL};

/* Failures that are remembered, of loads for anyone. */
static const struct bounds remembered = {
    .config = {.policy = &two_attempts,
               .negative_ttl_ns = SECONDS(2),
               .reloads_max = 1,
               ROOM(2, 2, 3)},
    .begins_ns = SECONDS(5),
    .ttls = {CLEAT_NONE, SECONDS(1)},
    .waits = {CLEAT_NEVER, SECONDS(1)},
    .keys = 2,
    .lookups = 3,
    .faults = 1,
    .invalidations = 1,
    .reaches = {MARK_REMEMBERED}};
static const char *const remembered_marks[] = {
    OF_ALL, "a failure that is remembered", NULL};

/* More keys than slots. */
static const struct bounds one_slot = {
    .config = {.policy = &three_attempts, .reloads_max = 1, ROOM(2, 1, 3)},
    .begins_ns = SECONDS(5),
    .ttls = {CLEAT_NONE, SECONDS(1)},
    .waits = {CLEAT_NEVER, SECONDS(1)},
    .keys = 2,
    .lookups = 4,
    .faults = 1,
    .invalidations = 1,
    .reaches = {MARK_EVICTED, MARK_PINNED, MARK_STARVED, MARK_RELOAD}};
static const struct bounds three_keys = {
    .config = {.policy = &two_attempts,
               .stale_max_ns = CLEAT_NONE,
               .reloads_max = 1,
               ROOM(3, 2, 3)},
    .begins_ns = SECONDS(5),
    .ttls = {CLEAT_NONE, SECONDS(1)},
    .waits = {CLEAT_NEVER, SECONDS(1)},
    .keys = 3,
    .lookups = 3,
    .faults = 1,
    .jumps = 1,
    .reaches = {MARK_EVICTED, MARK_PINNED, MARK_STARVED, MARK_STALE_HIT}};
static const char *const one_slot_marks[] = {
    OF_ALL,    "a value that gives way", "one that does not",
    "no slot", "a load made again",      NULL};
static const char *const three_keys_marks[] = {OF_ALL,
                                               "a value that gives way",
                                               "one that does not",
                                               "no slot",
                                               "a stale hit",
                                               NULL};

/* What changes all the time. */
static const struct bounds restless = {
    .config = {.policy = &two_attempts,
               .stale_max_ns = CLEAT_NONE,
               .reloads_max = 1,
               ROOM(1, 2, 2)},
    .begins_ns = SECONDS(5),
    .ttls = {CLEAT_NONE, 0},
    .waits = {CLEAT_NEVER, SECONDS(1)},
    .keys = 1,
    .lookups = 4,
    .faults = 2,
    .invalidations = 4,
    .reaches = {MARK_OUTDATED, MARK_RELOAD, MARK_STALE_HIT, MARK_CROWDED}};
static const char *const restless_marks[] = {OF_ALL,
                                             "what is out of date is given out",
                                             "a load made again",
                                             "a stale hit",
                                             "no waiter left",
                                             NULL};

/* Everything within the last seconds of time. */
static const struct bounds near_the_end = {
    .config = {.policy = &two_attempts,
               .ttl_default_ns = SECONDS(2),
               .stale_max_ns = SECONDS(20),
               .negative_ttl_ns = SECONDS(2),
               .reloads_max = 1,
               ROOM(2, 2, 3)},
    .begins_ns = UINT64_MAX - SECONDS(5),
    .ttls = {CLEAT_NONE, SECONDS(20)},
    .waits = {SECONDS(3), SECONDS(20)},
    .keys = 2,
    .lookups = 3,
    .faults = 1,
    .jumps = 2,
    .reaches = {MARK_STALE_HIT, MARK_REMEMBERED}};
static const char *const near_the_end_marks[] = {
    OF_ALL, "a stale hit", "a failure that is remembered", NULL};

#define TEST(sentence, with)                                                 \
    {                                                                        \
        .name = sentence, .state_bytes = sizeof(struct world), .init = init, \
        .step = step, .project = project, .arg = &(with), .steps_max = 300,  \
        .endless_fails = true, .marks = with##_marks                         \
    }

static const struct choose_test tests[] = {
    TEST("tool-cache-values-that-are-never-stale", never_stale),
    TEST("tool-cache-stale-while-refreshed", refreshed),
    TEST("tool-cache-failures-remembered", remembered),
    TEST("tool-cache-2-keys-1-slot", one_slot),
    TEST("tool-cache-3-keys-2-slots", three_keys),
    TEST("tool-cache-invalidated-again-and-again", restless),
    TEST("tool-cache-near-the-end-of-time", near_the_end),
};

int main(int argc, char **argv)
{
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
