/* Cleat: batches that lose nothing. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/transfer.h"

#include <string.h>

#include "assert.h"
#include "text.h"

#define NOBODY CLEAT_TRANSFER_NOBODY

enum {
    KEY_OPEN,   /* in the list of its operation, or waiting */
    KEY_FLYING, /* in the list of its call */
    KEY_LENT,   /* the same; it has ended */
    KEY_ENDED
};

enum {
    KEY_CHANGED = 1, /* its put or remove has, or may have, taken effect */
    KEY_SENT = 2,    /* its bytes have been out before */
    KEY_LOOK = 4,    /* … or another's put may be in the way: a store may say
                        that this one worked */
    KEY_MADE = 8,    /* the last put has worked, says the store */
    KEY_REREAD = 16, /* the first of four bits: how often it did not match */
    REREADS_MAX = 15
};

enum { GROUPS_OF_A_ROUND = 8 }; /* about: attempts, classes and operations */

/* In unseen_until_ns: the last look is under way. */
#define LAST_LOOK 1u

CLEAT_STATIC_ASSERT(sizeof(struct cleat_transfer_key) == 64,
                    "a descriptor is a cache line");
CLEAT_STATIC_ASSERT(sizeof(struct cleat_transfer) % sizeof(uint64_t) == 0,
                    "the keys follow it aligned");

/* Kept out of line: on a machine of 32 bits each is larger than its calls. */
#define SHARED __attribute__((noinline)) static

static struct cleat_transfer_key *at(const struct cleat_transfer *t,
                                     uint32_t key)
{
    CLEAT_ASSERT(t != NULL);
    CLEAT_ASSERT(key < t->config.keys_count);
    return (struct cleat_transfer_key *)(uintptr_t)(t + 1) + key;
}

/* ---- lists --------------------------------------------------------------- */

/* Appends the keys from `first` to `last`, linked already. */
SHARED void append(struct cleat_transfer *t, struct cleat_transfer_list *list,
                   uint32_t first, uint32_t last)
{
    CLEAT_ASSERT(list->first == NOBODY || at(t, list->last)->link == NOBODY);
    at(t, last)->link = NOBODY;
    if (list->first == NOBODY) {
        list->first = first;
    } else {
        at(t, list->last)->link = first;
    }
    list->last = last;
    CLEAT_ASSERT(list->first != NOBODY);
}

/* Takes the first key of a list that has one. */
static uint32_t take(struct cleat_transfer *t, struct cleat_transfer_list *list)
{
    uint32_t key = list->first;

    CLEAT_ASSERT(key != NOBODY);
    list->first = at(t, key)->link;
    CLEAT_ASSERT(list->first != key);
    return key;
}

/* ---- beginning ----------------------------------------------------------- */

size_t cleat_transfer_bytes(uint32_t keys)
{
    size_t each = sizeof(struct cleat_transfer_key);

    CLEAT_ASSERT(each == 64);
    CLEAT_ASSERT(sizeof(struct cleat_transfer) < SIZE_MAX / 2);
    if (keys > (SIZE_MAX - sizeof(struct cleat_transfer)) / each) {
        return SIZE_MAX;
    }
    return CLEAT_TRANSFER_BYTES(keys);
}

static bool is_sound(const struct cleat_transfer_config *c)
{
    CLEAT_ASSERT(c != NULL);
    CLEAT_ASSERT(CLEAT_TRANSFER_CALLS_MAX <= UINT8_MAX);
    return c->keys_count - 1 < NOBODY - 1 &&
           c->kind - 1 < CLEAT_TRANSFER_EXISTS &&
           c->mode <= CLEAT_TRANSFER_KEEP &&
           c->verify <= CLEAT_TRANSFER_VERIFY_FULL &&
           c->calls_max <= CLEAT_TRANSFER_CALLS_MAX &&
           c->rereads_max <= REREADS_MAX &&
           (c->policy == NULL ||
            cleat_retry_policy_check(c->policy) == CLEAT_OK) &&
           (c->capacity == NULL ||
            cleat_retry_policy_check(c->capacity) == CLEAT_OK);
}

SHARED void or_default(uint64_t *value, uint64_t standard)
{
    CLEAT_ASSERT(standard != 0);
    CLEAT_ASSERT(standard != CLEAT_NONE);
    if (*value == 0) { *value = standard; }
}

static uint32_t or_default_count(uint32_t value, uint32_t standard)
{
    CLEAT_ASSERT(standard != 0);
    return value != 0 ? value : standard;
}

static void fill_defaults(struct cleat_transfer_config *c)
{
    CLEAT_ASSERT(c->keys_count != 0);
    or_default(&c->deadline_ns, CLEAT_TRANSFER_DEADLINE_NS_DEFAULT);
    or_default(&c->discard_ns, CLEAT_TRANSFER_DISCARD_NS_DEFAULT);
    or_default(&c->pace_ns, CLEAT_TRANSFER_PACE_NS_DEFAULT);
    or_default(&c->call_bytes_max, CLEAT_TRANSFER_CALL_BYTES_MAX_DEFAULT);
    if (c->discard_ns == CLEAT_NONE) { c->discard_ns = 0; }
    c->call_keys_max = or_default_count(c->call_keys_max,
                                        CLEAT_TRANSFER_CALL_KEYS_MAX_DEFAULT);
    c->calls_max = or_default_count(c->calls_max, CLEAT_TRANSFER_CALLS_DEFAULT);
    c->rereads_max = or_default_count(c->rereads_max,
                                      CLEAT_TRANSFER_REREADS_DEFAULT);
    CLEAT_ASSERT(c->calls_max <= CLEAT_TRANSFER_CALLS_MAX);
}

/* Of zeros where none is given: that is CLEAT_RETRY_DATA_PATH. */
SHARED void copy_policy(struct cleat_retry_policy *policy,
                        const struct cleat_retry_policy *given)
{
    CLEAT_ASSERT(policy->attempts_max == 0);
    if (given != NULL) { *policy = *given; }
    policy->flags |= CLEAT_RETRY_IDEMPOTENT;
    CLEAT_ASSERT(cleat_retry_policy_check(policy) == CLEAT_OK);
}

static void copy_policies(struct cleat_transfer *t)
{
    CLEAT_ASSERT(t->policy[0].flags == 0);
    copy_policy(&t->policy[0], t->config.policy);
    copy_policy(&t->policy[1], t->config.capacity);
    if (t->config.capacity == NULL) {
        /* What CLEAT_RETRY_CAPACITY has of its own. */
        t->policy[1].base_ns = 1 * CLEAT_NS_PER_S;
        t->policy[1].max_ns = 20 * CLEAT_NS_PER_S;
        t->policy[1].attempts_max = 6;
    }
    t->config.policy = NULL;
    t->config.capacity = NULL;
    CLEAT_ASSERT(t->policy[1].flags != 0);
}

/* What a key needs first. */
static uint32_t first_operation(const struct cleat_transfer_config *c)
{
    CLEAT_ASSERT(c->kind >= CLEAT_TRANSFER_PUT);
    CLEAT_ASSERT(c->kind <= CLEAT_TRANSFER_EXISTS);
    switch (c->kind) {
    case CLEAT_TRANSFER_GET:
        return c->sized ? CLEAT_TRANSFER_DO_SIZE : CLEAT_TRANSFER_DO_GET;
    case CLEAT_TRANSFER_REMOVE: return CLEAT_TRANSFER_DO_REMOVE;
    case CLEAT_TRANSFER_EXISTS: return CLEAT_TRANSFER_DO_EXISTS;
    default: break;
    }
    return c->mode == CLEAT_TRANSFER_CREATE    ? CLEAT_TRANSFER_DO_EXISTS
           : c->mode == CLEAT_TRANSFER_REPLACE ? CLEAT_TRANSFER_DO_REMOVE
                                               : CLEAT_TRANSFER_DO_PUT;
}

enum cleat_status cleat_transfer_begin(
    void *block, size_t bytes, const struct cleat_transfer_config *config,
    uint64_t now_ns, struct cleat_transfer **out, struct cleat_error *error)
{
    struct cleat_transfer *t = block;
    size_t needed = cleat_transfer_bytes(config->keys_count);
    uint32_t operation;

    CLEAT_ASSERT(out != NULL);
    CLEAT_ASSERT(needed >= sizeof *t);
    *out = NULL;
    if (block == NULL || (uintptr_t)block % 8 != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               CLEAT_TEXT("transfer: the block is not aligned "
                                          "to 8 bytes"));
    }
    if (!is_sound(config)) {
        return cleat_error_set(
            error, CLEAT_INVALID, 2, 0,
            CLEAT_TEXT("transfer: no keys, no kind, a choice or count out of "
                       "range, or an unsound policy"));
    }
    if (bytes < needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, needed,
                               CLEAT_TEXT("transfer: the block is too small"));
    }
    memset(t, 0, needed);
    memset(&t->lists, 0xFF, sizeof t->lists);
    t->config = *config;
    fill_defaults(&t->config);
    copy_policies(t);
    t->deadline_ns = cleat_time_add(now_ns, t->config.deadline_ns);
    t->now_ns = now_ns;
    t->status = CLEAT_PENDING;
    t->first_failed = NOBODY;
    operation = first_operation(config);
    for (uint32_t key = 0; key < config->keys_count; key++) {
        at(t, key)->operation = (uint8_t)operation;
        at(t, key)->attempts = 1;
        append(t, &t->lists.due[operation], key, key);
    }
    *out = t;
    return CLEAT_OK;
}

void cleat_transfer_set(struct cleat_transfer *t, uint32_t key, uint64_t buffer,
                        uint64_t bytes)
{
    struct cleat_transfer_key *k = at(t, key);

    CLEAT_ASSERT(t->totals.calls == 0);
    CLEAT_ASSERT(k->state == KEY_OPEN);
    k->buffer = buffer;
    k->bytes = bytes;
}

/* ---- calls --------------------------------------------------------------- */

uint64_t cleat_transfer_key_bytes(const struct cleat_transfer *t, uint32_t key)
{
    const struct cleat_transfer_key *k = at(t, key);

    CLEAT_ASSERT(t->config.kind != 0);
    CLEAT_ASSERT(k->operation < CLEAT_TRANSFER_OPERATIONS);
    return k->operation == CLEAT_TRANSFER_DO_GET && t->config.sized
               ? k->seen.bytes
               : k->bytes;
}

/* A key goes out, with that many bytes of its own. */
static void send(struct cleat_transfer *t, struct cleat_transfer_key *k,
                 uint32_t call, uint64_t bytes)
{
    CLEAT_ASSERT(k->state == KEY_OPEN);
    CLEAT_ASSERT(call < t->config.calls_max);
    k->state = KEY_FLYING;
    k->call = (uint8_t)call;
    k->status = CLEAT_AMBIGUOUS; /* until something is told */
    t->totals.bytes_sent += bytes;
    if (k->operation > CLEAT_TRANSFER_DO_GET) { return; }
    k->flags &= (uint8_t)~KEY_MADE;
    if (k->flags & KEY_SENT) {
        k->flags |= KEY_LOOK;
        t->totals.bytes_again += bytes;
    }
    k->flags |= KEY_SENT;
}

/* Fills a call from the keys that need one operation. */
static void fill_call(struct cleat_transfer *t,
                      struct cleat_transfer_command *command)
{
    struct cleat_transfer_list *due = &t->lists.due[command->operation];
    bool moves = command->operation <= CLEAT_TRANSFER_DO_COMPARE;
    uint64_t room = t->config.call_bytes_max;

    CLEAT_ASSERT(due->first != NOBODY);
    CLEAT_ASSERT(t->lists.flying[command->call].first == NOBODY);
    while (due->first != NOBODY && command->keys < t->config.call_keys_max) {
        uint32_t key = due->first;
        struct cleat_transfer_key *k = at(t, key);
        uint64_t bytes = moves ? cleat_transfer_key_bytes(t, key) : 0;

        /* What is larger than a call may be, goes alone. */
        if ((bytes > room || room == 0) && command->keys > 0) { break; }
        room -= bytes < room ? bytes : room;
        (void)take(t, due);
        append(t, &t->lists.flying[command->call], key, key);
        send(t, k, command->call, bytes);
        command->bytes = cleat_time_add(command->bytes, bytes);
        command->keys++;
    }
    t->totals.calls++;
    CLEAT_ASSERT(command->keys > 0);
}

/* The first of `count` lists that is, or is not, empty; `count`: none. */
SHARED uint32_t first_list(const struct cleat_transfer_list *lists,
                           uint32_t count, bool empty)
{
    uint32_t i = 0;

    CLEAT_ASSERT(lists != NULL);
    while (i < count && (lists[i].first == NOBODY) != empty) { i++; }
    CLEAT_ASSERT(i <= count);
    return i;
}

bool cleat_transfer_next(struct cleat_transfer *t,
                         struct cleat_transfer_command *command)
{
    CLEAT_ASSERT(t != NULL && command != NULL);
    CLEAT_ASSERT(t->config.calls_max >= 1);
    memset(command, 0, sizeof *command);
    command->operation = first_list(t->lists.due, CLEAT_TRANSFER_OPERATIONS,
                                    false);
    command->call = first_list(t->lists.flying, t->config.calls_max, true);
    if (command->operation == CLEAT_TRANSFER_OPERATIONS ||
        command->call == t->config.calls_max) {
        return false;
    }
    fill_call(t, command);
    return true;
}

uint32_t cleat_transfer_first(const struct cleat_transfer *t, uint32_t call)
{
    CLEAT_ASSERT(t != NULL);
    CLEAT_ASSERT(call < CLEAT_TRANSFER_CALLS_MAX);
    return t->lists.flying[call].first;
}

uint32_t cleat_transfer_next_key(const struct cleat_transfer *t, uint32_t key)
{
    const struct cleat_transfer_key *k = at(t, key);

    CLEAT_ASSERT(k->state == KEY_FLYING || k->state == KEY_LENT);
    CLEAT_ASSERT(k->link == NOBODY || k->link < t->config.keys_count);
    return k->link;
}

/* ---- ends ---------------------------------------------------------------- */

/* A key has ended. */
SHARED void end(struct cleat_transfer *t, struct cleat_transfer_key *k,
                enum cleat_status status)
{
    CLEAT_ASSERT(status <= CLEAT_OK);
    CLEAT_ASSERT(t->status == CLEAT_PENDING);
    k->status = (int16_t)status;
    k->state = KEY_ENDED;
    if (status == CLEAT_OK) {
        t->totals.ok++;
    } else {
        if (t->first_failed == NOBODY) {
            t->first_failed = (uint32_t)(k - at(t, 0));
        }
        if (k->flags & KEY_CHANGED) {
            t->totals.unknown++;
        } else {
            t->totals.failed++;
        }
    }
    if (t->totals.ok + t->totals.failed + t->totals.unknown ==
        t->config.keys_count) {
        t->status = t->first_failed == NOBODY ? CLEAT_OK
                                              : at(t, t->first_failed)->status;
    }
}

/* The same for what has run out, of attempts or of time: what may have taken
 * effect is not said to have failed. */
static void give_up(struct cleat_transfer *t, struct cleat_transfer_key *k,
                    enum cleat_status status)
{
    CLEAT_ASSERT(status < CLEAT_OK);
    CLEAT_ASSERT(k->state == KEY_OPEN || k->state == KEY_FLYING);
    end(t, k, k->flags & KEY_CHANGED ? CLEAT_AMBIGUOUS : status);
}

/* Whether an operation changes what the store holds. */
static bool changes(uint32_t operation)
{
    CLEAT_ASSERT(operation < CLEAT_TRANSFER_OPERATIONS);
    return operation == CLEAT_TRANSFER_DO_PUT ||
           operation == CLEAT_TRANSFER_DO_REMOVE;
}

/* Ends the batch: keys in a call become lent. */
static void end_all(struct cleat_transfer *t, enum cleat_status status)
{
    CLEAT_ASSERT(t->status == CLEAT_PENDING);
    for (uint32_t key = 0; key < t->config.keys_count; key++) {
        struct cleat_transfer_key *k = at(t, key);
        bool flying = k->state == KEY_FLYING;

        if (k->state == KEY_ENDED) { continue; }
        if (flying && changes(k->operation)) { k->flags |= KEY_CHANGED; }
        give_up(t, k, status);
        if (flying) {
            k->state = KEY_LENT;
            t->totals.lent++;
        }
    }
    memset(t->lists.due, 0xFF, sizeof t->lists.due);
    t->lists.waiting = NOBODY;
    CLEAT_ASSERT(t->status != CLEAT_PENDING);
}

/* ---- what comes next ----------------------------------------------------- */

/* A call has returned: what its keys have in common, and the one in hand. */
struct round {
    struct cleat_transfer *t;
    struct cleat_transfer_key *k;
    struct cleat_retry_budget *budget;
    struct cleat_retry_budget paid; /* what it is once it has been charged */
    struct cleat_retry_slot slot;
    uint64_t hint_ns;
    uint64_t random;
    uint64_t moment_ns;
    bool again; /* a key goes out again */
    bool charged;
    bool failed;
    bool retried; /* a key had gone out again */
};

/* The key waits until moment_ns: with those of its round that wait for the
 * same, which are in one of the groups made last. A group's first key tells
 * when, its last, and the next group. */
static void wait(struct cleat_transfer *t, struct cleat_transfer_key *k,
                 uint64_t moment_ns)
{
    uint32_t key = (uint32_t)(k - at(t, 0));
    uint32_t group = t->lists.waiting;

    CLEAT_ASSERT(moment_ns > t->now_ns);
    k->link = NOBODY;
    for (uint32_t i = 0; i < GROUPS_OF_A_ROUND && group != NOBODY; i++) {
        struct cleat_transfer_key *g = at(t, group);

        if (g->moment_ns == moment_ns && g->operation == k->operation) {
            at(t, g->seen.group.last)->link = key;
            g->seen.group.last = key;
            return;
        }
        group = g->seen.group.next;
    }
    k->moment_ns = moment_ns;
    k->seen.group.last = key;
    k->seen.group.next = t->lists.waiting;
    t->lists.waiting = key;
    CLEAT_ASSERT(k->seen.group.next != key);
}

/* The key needs that operation next, at moment_ns. */
SHARED void go_on_at(struct round *r, uint32_t operation, uint64_t moment_ns)
{
    struct cleat_transfer *t = r->t;
    uint32_t key = (uint32_t)(r->k - at(t, 0));

    CLEAT_ASSERT(operation < CLEAT_TRANSFER_OPERATIONS);
    CLEAT_ASSERT(r->k->state == KEY_FLYING);
    r->k->operation = (uint8_t)operation;
    r->k->state = KEY_OPEN;
    if (moment_ns > t->now_ns) {
        wait(t, r->k, moment_ns);
    } else {
        append(t, &t->lists.due[operation], key, key);
    }
}

static void go_on(struct round *r, uint32_t operation)
{
    CLEAT_ASSERT(r->t->status == CLEAT_PENDING);
    go_on_at(r, operation, 0);
}

/* Asks the policy whether there is another attempt. One charge a round: the
 * first key of which the budget takes something pays for all. */
static bool another(struct round *r, enum cleat_status status)
{
    bool full = cleat_status_class(status) == CLEAT_CLASS_CAPACITY;
    enum cleat_status verdict;

    CLEAT_ASSERT(r->k->attempts > 0);
    CLEAT_ASSERT(status < CLEAT_OK);
    r->slot.delay_ns = r->k->delay_ns;
    r->slot.attempts = r->k->attempts;
    verdict = cleat_retry_failed(&r->slot, &r->t->policy[full], r->budget,
                                 status, r->hint_ns, r->random, r->t->now_ns,
                                 &r->moment_ns);
    if (r->budget != NULL && !r->charged &&
        (verdict == CLEAT_OK || r->budget->charge_every_failure)) {
        r->charged = true;
        r->t->taken = r->slot.taken;
        r->paid = *r->budget;
        r->paid.cost = 0;
        r->paid.cost_transient = 0;
        r->budget = &r->paid;
    }
    return verdict == CLEAT_OK;
}

/* An operation of the key has failed, and is made again, as `operation`, or is
 * the key's end. */
SHARED void again(struct round *r, uint32_t operation, enum cleat_status status)
{
    struct cleat_transfer_key *k = r->k;
    enum cleat_class of = cleat_status_class(status);

    CLEAT_ASSERT(status < CLEAT_OK);
    CLEAT_ASSERT(k->state == KEY_FLYING);
    r->failed = true;
    if (of == CLEAT_CLASS_PERMANENT || of == CLEAT_CLASS_CANCELLED) {
        end(r->t, k, status);
    } else if (!another(r, status)) {
        give_up(r->t, k, status);
    } else {
        r->again = true;
        k->delay_ns = r->slot.delay_ns;
        k->attempts = (uint16_t)(k->attempts + (k->attempts < UINT16_MAX));
        go_on_at(r, operation, r->moment_ns);
    }
}

/* A value does not match its size or digest. */
static void mismatch(struct round *r, uint32_t operation,
                     enum cleat_status status)
{
    CLEAT_ASSERT(status < CLEAT_OK);
    CLEAT_ASSERT(r->t->config.rereads_max <= REREADS_MAX);
    r->failed = true;
    r->k->unseen_until_ns = 0;
    if (r->k->flags / KEY_REREAD >= r->t->config.rereads_max) {
        end(r->t, r->k, status);
        return;
    }
    r->k->flags = (uint8_t)(r->k->flags + KEY_REREAD);
    again(r, operation, status);
}

/* What should be there, or will be, is not yet. Looked for again slowly, for
 * `for_ns`, the last time at their end. False: that was it. */
SHARED bool slowly(struct round *r, uint32_t operation, uint64_t for_ns)
{
    struct cleat_transfer_key *k = r->k;
    uint64_t now_ns = r->t->now_ns;
    uint64_t moment_ns = cleat_time_add(now_ns, r->t->config.pace_ns);

    CLEAT_ASSERT(k->state == KEY_FLYING);
    CLEAT_ASSERT(r->t->config.pace_ns > 0);
    if (k->unseen_until_ns == LAST_LOOK || for_ns == 0) { return false; }
    if (k->unseen_until_ns == 0) {
        k->unseen_until_ns = cleat_time_add(now_ns, for_ns);
    }
    if (moment_ns >= k->unseen_until_ns) {
        moment_ns = k->unseen_until_ns;
        k->unseen_until_ns = LAST_LOOK;
    }
    go_on_at(r, operation, moment_ns);
    return true;
}

/* ---- put ----------------------------------------------------------------- */

static void put_result(struct round *r, enum cleat_status status)
{
    struct cleat_transfer_key *k = r->k;
    const struct cleat_transfer_config *c = &r->t->config;
    bool look = (k->flags & KEY_LOOK) != 0;

    CLEAT_ASSERT(k->operation == CLEAT_TRANSFER_DO_PUT);
    CLEAT_ASSERT((k->flags & (KEY_SENT | KEY_MADE)) == KEY_SENT);
    if (status == CLEAT_OK && !look &&
        c->verify == CLEAT_TRANSFER_VERIFY_RETRIED) {
        end(r->t, k, CLEAT_OK);
    } else if (status == CLEAT_OK ||
               (status == CLEAT_EXISTS &&
                (look || c->mode == CLEAT_TRANSFER_KEEP))) {
        k->flags |= KEY_MADE;
        go_on(r, CLEAT_TRANSFER_DO_SIZE);
    } else if (status == CLEAT_EXISTS && c->mode == CLEAT_TRANSFER_REPLACE) {
        /* Somebody else's, since the remove. */
        again(r, CLEAT_TRANSFER_DO_REMOVE, CLEAT_TRANSIENT);
    } else if (status == CLEAT_UNREADABLE) {
        if (!slowly(r, CLEAT_TRANSFER_DO_PUT, c->discard_ns)) {
            end(r->t, k, status);
        }
    } else if (cleat_status_class(status) == CLEAT_CLASS_AMBIGUOUS) {
        /* This one may be in progress now, for as long again. */
        k->unseen_until_ns = 0;
        again(r, CLEAT_TRANSFER_DO_SIZE, status);
    } else {
        again(r, CLEAT_TRANSFER_DO_PUT, status);
    }
}

/* A put is looked for, and not there, or not readable. At once where it has
 * failed, and so did not take effect. */
static void put_not_seen(struct round *r, enum cleat_status status)
{
    CLEAT_ASSERT(status == CLEAT_NOT_FOUND || status == CLEAT_UNREADABLE);
    CLEAT_ASSERT(r->k->flags & KEY_SENT);
    if (status == CLEAT_NOT_FOUND && !(r->k->flags & KEY_MADE)) {
        go_on(r, CLEAT_TRANSFER_DO_PUT);
    } else if (!slowly(r, CLEAT_TRANSFER_DO_PUT, r->t->config.discard_ns)) {
        end(r->t, r->k, CLEAT_UNREADABLE);
    }
}

/* It is there: of its size, or, where that was asked, compared. */
static void put_seen(struct round *r)
{
    struct cleat_transfer_key *k = r->k;
    const struct cleat_transfer_config *c = &r->t->config;
    bool sized = k->operation == CLEAT_TRANSFER_DO_SIZE;

    CLEAT_ASSERT(c->kind == CLEAT_TRANSFER_PUT);
    CLEAT_ASSERT(sized || k->operation == CLEAT_TRANSFER_DO_COMPARE);
    if (!sized || c->mode == CLEAT_TRANSFER_KEEP) {
        end(r->t, k, CLEAT_OK);
    } else if (k->seen.bytes == k->bytes) {
        if (c->verify == CLEAT_TRANSFER_VERIFY_FULL) {
            go_on(r, CLEAT_TRANSFER_DO_COMPARE);
        } else {
            end(r->t, k, CLEAT_OK);
        }
    } else if (c->mode == CLEAT_TRANSFER_CREATE) {
        end(r->t, k, CLEAT_EXISTS);
    } else {
        mismatch(r, CLEAT_TRANSFER_DO_REMOVE, CLEAT_SHORT);
    }
}

static void put_looked_for(struct round *r, enum cleat_status status)
{
    CLEAT_ASSERT(r->t->config.kind == CLEAT_TRANSFER_PUT);
    CLEAT_ASSERT(r->k->flags & KEY_SENT);
    if (status == CLEAT_OK) {
        put_seen(r);
    } else if (status == CLEAT_NOT_FOUND || status == CLEAT_UNREADABLE) {
        put_not_seen(r, status);
    } else if (status == CLEAT_CORRUPT || status == CLEAT_SHORT) {
        /* What a create finds may be another's. */
        mismatch(r,
                 r->t->config.mode == CLEAT_TRANSFER_REPLACE
                     ? CLEAT_TRANSFER_DO_REMOVE
                     : r->k->operation,
                 status);
    } else {
        again(r, r->k->operation, status);
    }
}

/* ---- the others ---------------------------------------------------------- */

/* A remove, or the question whether it exists; also those before a put. */
static void asked(struct round *r, enum cleat_status status)
{
    struct cleat_transfer_key *k = r->k;
    const struct cleat_transfer_config *c = &r->t->config;
    bool put = c->kind == CLEAT_TRANSFER_PUT;
    bool exists = k->operation == CLEAT_TRANSFER_DO_EXISTS;

    CLEAT_ASSERT(exists || k->operation == CLEAT_TRANSFER_DO_REMOVE);
    CLEAT_ASSERT(c->kind != CLEAT_TRANSFER_GET);
    if (status == CLEAT_UNREADABLE && (put || !exists)) {
        /* Another's, in progress: it may come, or be thrown away. */
        if (slowly(r, k->operation, c->discard_ns)) { return; }
        if (!put) {
            end(r->t, k, status);
            return;
        }
        k->flags |= KEY_LOOK;
    } else if (exists && status == CLEAT_OK && put) {
        end(r->t, k, CLEAT_EXISTS);
        return;
    } else if (status != CLEAT_OK && status != CLEAT_NOT_FOUND &&
               status != CLEAT_UNREADABLE) {
        again(r, k->operation, status);
        return;
    }
    if (put) {
        go_on(r, CLEAT_TRANSFER_DO_PUT);
    } else {
        k->seen.bytes = exists && status == CLEAT_OK;
        end(r->t, k, CLEAT_OK);
    }
}

static void get_result(struct round *r, enum cleat_status status)
{
    struct cleat_transfer_key *k = r->k;
    const struct cleat_transfer_config *c = &r->t->config;
    uint32_t first = first_operation(c);

    CLEAT_ASSERT(c->kind == CLEAT_TRANSFER_GET);
    CLEAT_ASSERT(k->operation == first ||
                 k->operation == CLEAT_TRANSFER_DO_GET);
    if (status == CLEAT_UNREADABLE || (status == CLEAT_NOT_FOUND && c->wait)) {
        if (!slowly(r, first, c->wait ? CLEAT_NEVER : c->discard_ns)) {
            end(r->t, k, status);
        }
    } else if (status == CLEAT_CORRUPT || status == CLEAT_SHORT) {
        mismatch(r, first, status);
    } else if (status != CLEAT_OK) {
        again(r, first, status);
    } else if (k->operation == CLEAT_TRANSFER_DO_GET) {
        end(r->t, k, CLEAT_OK);
    } else if (k->seen.bytes > k->bytes) {
        end(r->t, k, CLEAT_TOO_SMALL);
    } else {
        go_on(r, CLEAT_TRANSFER_DO_GET);
    }
}

/* Draws the conclusion from what was told about a key. */
static void conclude(struct round *r)
{
    struct cleat_transfer_key *k = r->k;
    enum cleat_status status = (enum cleat_status)k->status;

    CLEAT_ASSERT(k->state == KEY_FLYING);
    CLEAT_ASSERT(status <= CLEAT_OK);
    r->retried = r->retried || k->attempts > 1;
    if (changes(k->operation) && status != CLEAT_UNREADABLE &&
        (cleat_status_class(status) == CLEAT_CLASS_DONE ||
         cleat_status_class(status) == CLEAT_CLASS_AMBIGUOUS)) {
        k->flags |= KEY_CHANGED;
    }
    if (r->t->config.kind == CLEAT_TRANSFER_GET) {
        get_result(r, status);
        return;
    }
    switch (k->operation) {
    case CLEAT_TRANSFER_DO_PUT: put_result(r, status); break;
    case CLEAT_TRANSFER_DO_SIZE:
    case CLEAT_TRANSFER_DO_COMPARE: put_looked_for(r, status); break;
    default: asked(r, status); break;
    }
}

/* ---- events -------------------------------------------------------------- */

enum cleat_status cleat_transfer_tick(struct cleat_transfer *t, uint64_t now_ns)
{
    uint32_t *group = &t->lists.waiting;

    CLEAT_ASSERT(t->config.keys_count > 0);
    if (now_ns < t->now_ns) { return CLEAT_TIME_BACKWARDS; }
    t->now_ns = now_ns;
    if (t->deadline_ns <= now_ns && t->status == CLEAT_PENDING) {
        end_all(t, CLEAT_DEADLINE);
    }
    while (*group != NOBODY) {
        struct cleat_transfer_key *k = at(t, *group);

        if (k->moment_ns <= now_ns) {
            uint32_t first = *group;

            *group = k->seen.group.next;
            append(t, &t->lists.due[k->operation], first, k->seen.group.last);
        } else {
            group = &k->seen.group.next;
        }
    }
    CLEAT_ASSERT(t->status == CLEAT_PENDING || t->lists.waiting == NOBODY);
    return CLEAT_OK;
}

enum cleat_status cleat_transfer_told(struct cleat_transfer *t, uint32_t call,
                                      uint32_t key, enum cleat_status status,
                                      int32_t code, uint64_t bytes)
{
    struct cleat_transfer_key *k;

    CLEAT_ASSERT(t != NULL);
    CLEAT_ASSERT(t->config.keys_count > 0);
    if (key >= t->config.keys_count || status > CLEAT_OK ||
        (int16_t)status != status) {
        return CLEAT_INVALID;
    }
    k = at(t, key);
    if (k->call != call || (k->state != KEY_FLYING && k->state != KEY_LENT)) {
        return CLEAT_INVALID;
    }
    if (k->state == KEY_LENT) { return CLEAT_OK; }
    /* What is not of the bytes expected, is not what was asked for. */
    if (status == CLEAT_OK && k->operation == CLEAT_TRANSFER_DO_GET &&
        bytes != cleat_transfer_key_bytes(t, key)) {
        status = CLEAT_SHORT;
    }
    if (status == CLEAT_OK) { k->seen.bytes = bytes; }
    k->code = code;
    k->status = (int16_t)status;
    return CLEAT_OK;
}

/* A call with keys of which none has failed gives back what their last round
 * has taken, or the budget's gain. */
static void give_back(struct round *r, struct cleat_retry_budget *budget)
{
    CLEAT_ASSERT(!r->failed);
    r->slot.attempts = 1;
    r->slot.taken = 0;
    if (r->retried) {
        r->slot.taken = r->t->taken;
        r->t->taken = 0;
    }
    (void)cleat_retry_succeeded(&r->slot, budget);
    CLEAT_ASSERT(r->slot.attempts == 0);
}

enum cleat_status cleat_transfer_returned(struct cleat_transfer *t,
                                          uint64_t now_ns, uint32_t call,
                                          struct cleat_retry_budget *budget,
                                          uint64_t hint_ns, uint64_t random)
{
    struct round r;
    struct cleat_transfer_list flying;

    CLEAT_ASSERT(t != NULL);
    CLEAT_ASSERT(t->config.calls_max <= CLEAT_TRANSFER_CALLS_MAX);
    if (call >= t->config.calls_max || t->lists.flying[call].first == NOBODY) {
        return CLEAT_INVALID;
    }
    if (cleat_transfer_tick(t, now_ns) != CLEAT_OK) {
        return CLEAT_TIME_BACKWARDS;
    }
    memset(&r, 0, sizeof r);
    r.t = t;
    r.budget = budget;
    r.hint_ns = hint_ns;
    r.random = random;
    r.slot.deadline_ns = t->deadline_ns;
    flying = t->lists.flying[call];
    t->lists.flying[call].first = NOBODY;
    r.failed = t->status != CLEAT_PENDING;
    while (flying.first != NOBODY) {
        r.k = at(t, take(t, &flying));
        if (r.k->state == KEY_LENT) {
            r.k->state = KEY_ENDED;
            t->totals.lent--;
        } else {
            conclude(&r);
        }
    }
    t->totals.rounds += r.again;
    if (!r.failed) { give_back(&r, budget); }
    return CLEAT_OK;
}

uint64_t cleat_transfer_deadline(const struct cleat_transfer *t)
{
    uint64_t deadline_ns = t->deadline_ns;
    uint32_t group = t->lists.waiting;

    CLEAT_ASSERT(t->config.keys_count > 0);
    if (t->status != CLEAT_PENDING) { return CLEAT_NEVER; }
    while (group != NOBODY) {
        const struct cleat_transfer_key *k = at(t, group);

        if (k->moment_ns < deadline_ns) { deadline_ns = k->moment_ns; }
        group = k->seen.group.next;
    }
    CLEAT_ASSERT(deadline_ns <= t->deadline_ns);
    return deadline_ns;
}

enum cleat_status cleat_transfer_cancel(struct cleat_transfer *t,
                                        uint64_t now_ns)
{
    enum cleat_status status = cleat_transfer_tick(t, now_ns);

    CLEAT_ASSERT(status <= CLEAT_OK);
    if (status != CLEAT_OK) { return status; }
    if (t->status != CLEAT_PENDING) { return CLEAT_STATE; }
    end_all(t, CLEAT_CANCELLED);
    CLEAT_ASSERT(t->status != CLEAT_PENDING);
    return CLEAT_OK;
}

/* ---- what has come of it ------------------------------------------------- */

enum cleat_status cleat_transfer_status(const struct cleat_transfer *t,
                                        uint32_t *key)
{
    CLEAT_ASSERT(t != NULL);
    CLEAT_ASSERT(t->status <= CLEAT_PENDING);
    if (key != NULL) { *key = t->first_failed; }
    return (enum cleat_status)t->status;
}

bool cleat_transfer_drained(const struct cleat_transfer *t)
{
    CLEAT_ASSERT(t != NULL);
    CLEAT_ASSERT(t->totals.lent <= t->config.keys_count);
    return t->status != CLEAT_PENDING && t->totals.lent == 0;
}

void cleat_transfer_look(const struct cleat_transfer *t, uint32_t key,
                         struct cleat_transfer_report *report)
{
    const struct cleat_transfer_key *k = at(t, key);

    CLEAT_ASSERT(report != NULL);
    CLEAT_ASSERT(k->state <= KEY_ENDED);
    report->status = k->state >= KEY_LENT ? (enum cleat_status)k->status
                                          : CLEAT_PENDING;
    report->code = k->code;
    report->attempts = k->attempts;
    report->lent = k->state == KEY_LENT;
    report->unknown = report->status < CLEAT_OK &&
                      (k->flags & KEY_CHANGED) != 0;
    report->bytes = 0;
    if (report->status == CLEAT_OK) {
        report->bytes = t->config.kind == CLEAT_TRANSFER_PUT ? k->bytes
                                                             : k->seen.bytes;
    } else if (report->status == CLEAT_TOO_SMALL && t->config.sized != 0) {
        report->bytes = k->seen.bytes;
    }
}
