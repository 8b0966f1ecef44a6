/* Cleat: a store that misbehaves on demand. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "cleat/store_faults.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cleat/memory_store.h"

struct rule {
    struct cleat_store_fault fault;
    _Atomic uint64_t items;  /* that came by and were of its operations */
    _Atomic uint64_t struck; /* of those */
};

struct cleat_store_context {
    struct cleat_store inner;
    struct rule rules[CLEAT_STORE_FAULTS_RULES_MAX];
    uint64_t seed;
    uint32_t rules_count;
    uint32_t counters_mask;
    _Atomic uint32_t woken;
    uint32_t reserved;
    _Atomic uint32_t counters[]; /* how often a key's operation came by */
};

typedef struct cleat_store_context self_t;

/* ---- kinds --------------------------------------------------------------- */

struct row {
    const char *name;
    const char *meaning;
    uint32_t operations;
};

static const struct row rows[] = {{"none", "nothing", 0},
#define ROW(NAME, name, operations, meaning) {name, meaning, operations},
                                  CLEAT_STORE_FAULT_LIST(ROW)
#undef ROW
};

const char *cleat_store_fault_name(enum cleat_store_fault_kind kind)
{
    return (uint32_t)kind < CLEAT_STORE_FAULTS ? rows[kind].name : "unknown";
}

const char *cleat_store_fault_meaning(enum cleat_store_fault_kind kind)
{
    return (uint32_t)kind < CLEAT_STORE_FAULTS ? rows[kind].meaning : "";
}

enum cleat_store_fault_kind cleat_store_fault_from_name(const char *name,
                                                        size_t bytes)
{
    for (uint32_t kind = 1; kind < CLEAT_STORE_FAULTS; kind++) {
        if (strlen(rows[kind].name) == bytes &&
            memcmp(rows[kind].name, name, bytes) == 0) {
            return (enum cleat_store_fault_kind)kind;
        }
    }
    return CLEAT_STORE_FAULT_NONE;
}

/* ---- which strikes ------------------------------------------------------- */

/* Steele and others, "Fast splittable pseudorandom number generators", 2014:
 * the mixing step of SplitMix64. */
static uint64_t mixed(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

/* FNV-1a, 64 bits, of the key; then the operation. */
static uint64_t hash_of(const struct cleat_store_item *item, uint32_t operation)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325);

    for (uint32_t i = 0; i < item->key_bytes; i++) {
        hash = (hash ^ (unsigned char)item->key[i]) * UINT64_C(0x100000001B3);
    }
    return mixed(hash + operation);
}

/* A number below 1 000 000 that nothing but its arguments decides. */
static uint32_t draw(const self_t *self, uint64_t hash, uint32_t rule,
                     uint64_t nth)
{
    uint64_t x = mixed(mixed(mixed(self->seed ^ hash) + rule) + nth);

    return (uint32_t)((x >> 32) * CLEAT_STORE_FAULT_ALWAYS >> 32);
}

static bool strikes(self_t *self, uint32_t index,
                    const struct cleat_store_item *item, uint32_t operation,
                    uint64_t hash, uint32_t nth)
{
    struct rule *rule = &self->rules[index];
    const struct cleat_store_fault *fault = &rule->fault;

    if ((fault->operations >> operation & 1u) == 0) { return false; }
    if (fault->key != NULL &&
        (strlen(fault->key) != item->key_bytes ||
         memcmp(fault->key, item->key, item->key_bytes) != 0)) {
        return false;
    }
    if (atomic_fetch_add(&rule->items, 1) + 1 != fault->item &&
        fault->item != 0) {
        return false;
    }
    if (fault->times != 0 && nth >= fault->times) { return false; }
    return draw(self, hash, index, fault->times != 0 ? 0 : nth) < fault->rate;
}

/* The rule that strikes this item; NULL. Every rule sees every item. */
static struct rule *struck_by(self_t *self, const struct cleat_store_item *item,
                              uint32_t operation, uint64_t *random)
{
    uint64_t hash = hash_of(item, operation);
    uint32_t nth = atomic_fetch_add(&self->counters[hash & self->counters_mask],
                                    1);
    struct rule *first = NULL;

    for (uint32_t i = 0; i < self->rules_count; i++) {
        if (strikes(self, i, item, operation, hash, nth) && first == NULL) {
            first = &self->rules[i];
        }
    }
    if (first != NULL) { atomic_fetch_add(&first->struck, 1); }
    *random = mixed(hash ^ self->seed ^ (uint64_t)nth << 32);
    return first;
}

/* ---- what it does -------------------------------------------------------- */

static void stand_still(self_t *self, uint64_t ns)
{
    struct timespec until;
    uint64_t until_ns;

    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until_ns = cleat_time_add((uint64_t)until.tv_sec * CLEAT_NS_PER_S +
                                  (uint64_t)until.tv_nsec,
                              ns != 0 ? ns : CLEAT_NEVER);
    if (until_ns > INT64_MAX) { until_ns = INT64_MAX; }
    until.tv_sec = (time_t)(until_ns / CLEAT_NS_PER_S);
    until.tv_nsec = (long)(until_ns % CLEAT_NS_PER_S);
    while (atomic_load(&self->woken) == 0) {
        if (syscall(SYS_futex, &self->woken, FUTEX_WAIT_BITSET_PRIVATE, 0,
                    &until, NULL, FUTEX_BITSET_MATCH_ANY) != 0 &&
            errno == ETIMEDOUT) {
            return;
        }
    }
}

static enum cleat_status inner_call(self_t *self,
                                    const struct cleat_store_call *call,
                                    struct cleat_store_item *items,
                                    uint32_t count)
{
    struct cleat_store_call part = *call;

    part.items = items;
    part.count = count;
    return self->inner.call(self->inner.context, &part);
}

/* Carries one item out, spoilt as the flags say; restores its own. */
static enum cleat_status carried_out(self_t *self,
                                     const struct cleat_store_call *call,
                                     struct cleat_store_item *item,
                                     uint32_t flags)
{
    uint32_t own = item->flags;
    enum cleat_status status;

    item->flags |= flags;
    status = inner_call(self, call, item, 1);
    item->flags = own;
    return status == CLEAT_OK ? (enum cleat_status)item->status : CLEAT_PENDING;
}

/* With effect, whatever is then said of it. */
static enum cleat_status after(self_t *self,
                               const struct cleat_store_call *call,
                               struct cleat_store_item *item,
                               enum cleat_status status)
{
    (void)carried_out(self, call, item, 0);
    return status;
}

static enum cleat_status spoilt(struct cleat_store_item *item,
                                enum cleat_status status, uint64_t actual)
{
    if (item->payload != NULL && item->bytes != 0 &&
        (item->flags & CLEAT_STORE_DEVICE) == 0) {
        memset(item->payload, 0, (size_t)item->bytes);
    }
    item->actual = actual;
    return status;
}

static enum cleat_status crash(self_t *self,
                               const struct cleat_store_call *call,
                               struct cleat_store_item *item, bool end)
{
    if (end || call->operation == CLEAT_TRANSFER_DO_PUT) {
        (void)carried_out(self, call, item, end ? 0 : CLEAT_MEMORY_STORE_CRASH);
    }
    (void)raise(SIGKILL);
    return CLEAT_PENDING;
}

/* What is said of the item; CLEAT_PENDING: nothing. */
static enum cleat_status strike(self_t *self,
                                const struct cleat_store_call *call,
                                struct cleat_store_item *item,
                                const struct cleat_store_fault *fault,
                                uint64_t random)
{
    item->code = (int32_t)fault->kind;
    item->actual = 0;
    switch (fault->kind) {
    case CLEAT_STORE_FAULT_TRANSIENT: return CLEAT_TRANSIENT;
    case CLEAT_STORE_FAULT_TRANSIENT_EFFECT:
        return after(self, call, item, CLEAT_TRANSIENT);
    case CLEAT_STORE_FAULT_AMBIGUOUS: return CLEAT_AMBIGUOUS;
    case CLEAT_STORE_FAULT_AMBIGUOUS_EFFECT:
        return after(self, call, item, CLEAT_AMBIGUOUS);
    case CLEAT_STORE_FAULT_AMBIGUOUS_PUT:
        return random % 2 == 0 ? CLEAT_AMBIGUOUS
                               : after(self, call, item, CLEAT_AMBIGUOUS);
    case CLEAT_STORE_FAULT_CAPACITY: return CLEAT_CAPACITY;
    case CLEAT_STORE_FAULT_CAPACITY_EFFECT:
        return after(self, call, item, CLEAT_CAPACITY);
    case CLEAT_STORE_FAULT_PERMANENT: return CLEAT_PERMANENT;
    case CLEAT_STORE_FAULT_PERMANENT_EFFECT:
        return after(self, call, item, CLEAT_PERMANENT);
    case CLEAT_STORE_FAULT_MISSING: return CLEAT_NOT_FOUND;
    case CLEAT_STORE_FAULT_UNREADABLE: return CLEAT_UNREADABLE;
    case CLEAT_STORE_FAULT_SHORT:
        return spoilt(item, CLEAT_SHORT, item->bytes / 2);
    case CLEAT_STORE_FAULT_CORRUPT:
        return spoilt(item, CLEAT_CORRUPT, item->bytes);
    case CLEAT_STORE_FAULT_CORRUPT_STORED:
        return carried_out(self, call, item, CLEAT_MEMORY_STORE_FLIP);
    case CLEAT_STORE_FAULT_TORN:
        return carried_out(self, call, item, CLEAT_MEMORY_STORE_TEAR);
    case CLEAT_STORE_FAULT_LOST: return CLEAT_OK;
    case CLEAT_STORE_FAULT_SILENCE:
        stand_still(self, fault->ns);
        return CLEAT_PENDING;
    case CLEAT_STORE_FAULT_SILENCE_EFFECT:
        (void)carried_out(self, call, item, 0);
        stand_still(self, fault->ns);
        return CLEAT_PENDING;
    case CLEAT_STORE_FAULT_LATE:
        stand_still(self, fault->ns);
        return carried_out(self, call, item, 0);
    case CLEAT_STORE_FAULT_LATE_TRANSIENT:
        stand_still(self, fault->ns);
        return CLEAT_TRANSIENT;
    case CLEAT_STORE_FAULT_CRASH: return crash(self, call, item, false);
    case CLEAT_STORE_FAULT_CRASH_EFFECT: return crash(self, call, item, true);
    default: return CLEAT_PENDING;
    }
}

static enum cleat_status faults_call(struct cleat_store_context *self,
                                     struct cleat_store_call *call)
{
    enum cleat_status status = CLEAT_OK;
    uint32_t sound = 0; /* items before the one in hand that nothing strikes */

    for (uint32_t i = 0; i < call->count && status == CLEAT_OK; i++) {
        struct cleat_store_item *item = &call->items[i];
        uint64_t random = 0;
        struct rule *rule = struck_by(self, item, call->operation, &random);

        if (rule == NULL) {
            sound++;
            continue;
        }
        if (sound > 0) { status = inner_call(self, call, item - sound, sound); }
        sound = 0;
        if (status == CLEAT_OK) {
            item->status = strike(self, call, item, &rule->fault, random);
        }
    }
    if (sound > 0 && status == CLEAT_OK) {
        status = inner_call(self, call, &call->items[call->count - sound],
                            sound);
    }
    for (uint32_t i = 0; i < call->count && status == CLEAT_OK; i++) {
        if (call->items[i].status == CLEAT_PENDING) {
            status = CLEAT_AMBIGUOUS;
        }
    }
    return status;
}

static enum cleat_status faults_lend(struct cleat_store_context *self,
                                     void *start, size_t bytes, bool on,
                                     struct cleat_error *error)
{
    return self->inner.lend(self->inner.context, start, bytes, on, error);
}

static enum cleat_status faults_ready(struct cleat_store_context *self,
                                      uint64_t deadline_ns,
                                      struct cleat_error *error)
{
    return self->inner.ready(self->inner.context, deadline_ns, error);
}

/* ---- making -------------------------------------------------------------- */

static uint32_t counters_of(uint32_t count)
{
    return count != 0 ? count : CLEAT_STORE_FAULTS_COUNTERS_DEFAULT;
}

size_t cleat_store_faults_bytes(uint32_t counters_count)
{
    uint32_t count = counters_of(counters_count);

    if ((count & (count - 1)) != 0) { return 0; }
    return sizeof(struct cleat_store_context) + (size_t)count * 4u;
}

/* Fills in defaults. NULL: it is sound. */
static const char *settle_rule(struct cleat_store_fault *fault)
{
    if (fault->kind == CLEAT_STORE_FAULT_NONE ||
        fault->kind >= CLEAT_STORE_FAULTS) {
        return "store faults: a rule of no kind";
    }
    if (fault->operations == 0) {
        fault->operations = rows[fault->kind].operations;
    }
    if ((fault->operations & ~rows[fault->kind].operations) != 0) {
        return "store faults: a rule's kind cannot be struck on such an "
               "operation";
    }
    if (fault->rate == 0 && (fault->item != 0 || fault->key != NULL)) {
        fault->rate = CLEAT_STORE_FAULT_ALWAYS;
    }
    if (fault->rate == 0 || fault->rate > CLEAT_STORE_FAULT_ALWAYS) {
        return "store faults: a rule's rate is from 1 to 1000000 millionths";
    }
    return NULL;
}

static enum cleat_status
copy_rules(self_t *self, const struct cleat_store_faults_config *config,
           struct cleat_error *error)
{
    for (uint32_t i = 0; i < config->rules_count; i++) {
        struct cleat_store_fault fault = config->rules[i];
        const char *wrong = settle_rule(&fault);

        if (wrong != NULL) {
            return cleat_error_set(error, CLEAT_INVALID, i, 0, wrong);
        }
        self->rules[i].fault = fault;
    }
    self->rules_count = config->rules_count;
    return CLEAT_OK;
}

enum cleat_status
cleat_store_faults_init(void *block, size_t bytes,
                        const struct cleat_store_faults_config *config,
                        const struct cleat_store *inner,
                        struct cleat_store *out, struct cleat_error *error)
{
    self_t *self = block;
    enum cleat_status status;
    size_t needed;

    if (out != NULL) { memset(out, 0, sizeof *out); }
    if (block == NULL || (uintptr_t)block % 8 != 0 || config == NULL ||
        inner == NULL || inner->call == NULL || out == NULL ||
        config->rules_count > CLEAT_STORE_FAULTS_RULES_MAX ||
        (config->rules == NULL && config->rules_count != 0)) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "store faults: a block aligned to 8 bytes, at "
                               "most 32 rules, a store and a result are "
                               "needed");
    }
    needed = cleat_store_faults_bytes(config->counters_count);
    if (needed == 0) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "store faults: the counters are no power of "
                               "two");
    }
    if (bytes < needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, needed,
                               "store faults: the block is too small");
    }
    memset(self, 0, needed);
    self->inner = *inner;
    self->seed = config->seed;
    self->counters_mask = counters_of(config->counters_count) - 1;
    status = copy_rules(self, config, error);
    if (status != CLEAT_OK) { return status; }
    *out = *inner;
    out->context = self;
    out->call = faults_call;
    if (inner->lend != NULL) { out->lend = faults_lend; }
    if (inner->ready != NULL) { out->ready = faults_ready; }
    return CLEAT_OK;
}

void cleat_store_faults_wake(const struct cleat_store *store)
{
    self_t *self = store->context;

    atomic_store(&self->woken, 1);
    (void)syscall(SYS_futex, &self->woken, FUTEX_WAKE_PRIVATE, INT_MAX, NULL,
                  NULL, 0);
}

uint64_t cleat_store_faults_struck(const struct cleat_store *store,
                                   uint32_t rule)
{
    const self_t *self = store->context;
    uint64_t count = 0;

    for (uint32_t i = 0; i < self->rules_count; i++) {
        if (rule == i || rule == UINT32_MAX) {
            count += atomic_load(&self->rules[i].struck);
        }
    }
    return count;
}
