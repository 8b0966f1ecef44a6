/* Cleat: random batches against what may be sent again.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every key has a script: what becomes of its first, second … put or get. A
 * slow model reads it, key by key, and says how often its bytes must have gone
 * out and how it ends. The machine is given the results by a driver that
 * returns calls in any order; bytes resent, reports and totals must be the
 * model's, exactly.
 *
 * The machine is compiled in here, so that its steps can be counted: every
 * function of it passes two assertions or more. */
#include "core/assert.h"

#include <stdint.h>

static uint64_t steps;
void cleat_test_assert_failed(const char *expression, const char *file,
                              int line);
#undef CLEAT_ASSERT
#define CLEAT_ASSERT(x) \
    (steps++, (x) ? (void)0 : cleat_test_assert_failed(#x, __FILE__, __LINE__))
#include "core/transfer.c"

#include <stdio.h>

#include "choose.h"

enum {
    KEYS_MAX = 300,
    SCRIPT = 6,
    ATTEMPTS = 4,
    ATTEMPTS_FULL = 6, /* of a store that is full */
    REREADS = 2
};

enum outcome {
    WORKS,
    FAILS,          /* without effect */
    FULL,           /* the store is */
    UNCLEAR,        /* ambiguous, without effect */
    UNCLEAR_EFFECT, /* ambiguous, with effect */
    SILENT,         /* nothing is told, without effect */
    DAMAGED,        /* get: short or corrupt; put: as FAILS */
    REFUSED,        /* permanent */
    OUTCOMES
};

struct key {
    uint8_t script[SCRIPT];
    uint8_t tries; /* puts or gets so far */
    bool there;
    uint64_t bytes;
};

struct batch {
    struct key keys[KEYS_MAX];
    uint32_t count;
    bool put;
    bool under_way[KEYS_MAX];
};

static union {
    uint64_t aligned;
    unsigned char bytes[CLEAT_TRANSFER_BYTES(50000)];
} block;

/* --- the slow model ------------------------------------------------------- */

struct verdict {
    uint32_t times; /* its bytes have gone out */
    enum cleat_status status;
    bool unknown;
};

static enum cleat_status told_of(const struct batch *b, uint8_t outcome)
{
    switch (outcome) {
    case WORKS: return CLEAT_OK;
    case FULL: return CLEAT_CAPACITY;
    case UNCLEAR:
    case UNCLEAR_EFFECT:
    case SILENT: return CLEAT_AMBIGUOUS;
    case DAMAGED: return b->put ? CLEAT_TRANSIENT : CLEAT_CORRUPT;
    case REFUSED: return CLEAT_PERMANENT;
    default: return CLEAT_TRANSIENT;
    }
}

/* Tried ATTEMPTS times, or more where the store is full; a put that has had its
 * effect is found by the look; one value is read REREADS times again. */
static struct verdict judge(const struct batch *b, const struct key *k)
{
    struct verdict v = {0, CLEAT_PENDING, false};
    uint32_t damaged = 0;

    while (v.times < SCRIPT) {
        uint8_t outcome = k->script[v.times++];

        v.status = told_of(b, outcome);
        if (outcome == WORKS || outcome == REFUSED) { break; }
        if (b->put && v.status == CLEAT_AMBIGUOUS) { v.unknown = true; }
        damaged += !b->put && outcome == DAMAGED;
        if (damaged > REREADS ||
            v.times >= (outcome == FULL ? ATTEMPTS_FULL : ATTEMPTS)) {
            break;
        }
        if (b->put && outcome == UNCLEAR_EFFECT) {
            v.status = CLEAT_OK;
            break;
        }
    }
    if (v.status == CLEAT_OK) { v.unknown = false; }
    if (v.unknown && v.status != CLEAT_PERMANENT) {
        v.status = CLEAT_AMBIGUOUS;
    }
    return v;
}

/* --- the driver ----------------------------------------------------------- */

static struct cleat_transfer *begin(const struct batch *b,
                                    struct cleat_transfer_config *config)
{
    struct cleat_transfer *t = NULL;

    config->keys_count = b->count;
    config->kind = b->put ? CLEAT_TRANSFER_PUT : CLEAT_TRANSFER_GET;
    config->deadline_ns = CLEAT_NONE;
    if (cleat_transfer_begin(block.bytes, sizeof block.bytes, config, 0, &t,
                             NULL) != CLEAT_OK) {
        cleat_test_assert_failed("begin", __FILE__, __LINE__);
    }
    for (uint32_t key = 0; key < b->count; key++) {
        cleat_transfer_set(t, key, 7000 + key, b->keys[key].bytes);
    }
    return t;
}

/* Tells how a key of a call has fared, by its script. */
static void tell(struct batch *b, struct cleat_transfer *t, uint32_t call,
                 uint32_t operation, uint32_t key)
{
    struct key *k = &b->keys[key];
    enum cleat_status status = k->there ? CLEAT_OK : CLEAT_NOT_FOUND;
    uint64_t bytes = k->bytes;

    if (operation <= CLEAT_TRANSFER_DO_GET) {
        uint8_t outcome = k->script[k->tries++];

        status = told_of(b, outcome);
        if (outcome == WORKS || outcome == UNCLEAR_EFFECT) { k->there = true; }
        if (outcome == SILENT) { return; }
        /* Half of what is damaged is short, and says that it worked. */
        if (!b->put && outcome == DAMAGED && key % 2 == 0) {
            status = CLEAT_OK;
            bytes++;
        }
    }
    (void)cleat_transfer_told(t, call, key, status, 0, bytes);
}

static void check_call(struct choose *c, struct batch *b,
                       const struct cleat_transfer *t,
                       const struct cleat_transfer_config *config,
                       const struct cleat_transfer_command *command)
{
    uint64_t bytes = 0;
    uint32_t count = 0;

    for (uint32_t key = cleat_transfer_first(t, command->call);
         key != CLEAT_TRANSFER_NOBODY; key = cleat_transfer_next_key(t, key)) {
        choose_check(c, !b->under_way[key], "never-hedges-a-put");
        choose_check(c, cleat_transfer_buffer(t, key) == 7000 + key,
                     "same-buffer-every-time");
        choose_check(c, cleat_transfer_key_bytes(t, key) == b->keys[key].bytes,
                     "a call asks for the key's bytes");
        b->under_way[key] = true;
        bytes += b->keys[key].bytes;
        count++;
    }
    choose_check(c, count == command->keys && count <= config->call_keys_max,
                 "a call has no more keys than it may");
    if (command->operation <= CLEAT_TRANSFER_DO_COMPARE) {
        choose_check(c, bytes == command->bytes, "a call says its bytes");
        choose_check(c, bytes <= config->call_bytes_max || count == 1,
                     "a call has no more bytes than it may, or one key");
    }
}

static void give_back_call(struct batch *b, struct cleat_transfer *t,
                           const struct cleat_transfer_command *command,
                           uint64_t random)
{
    for (uint32_t key = cleat_transfer_first(t, command->call);
         key != CLEAT_TRANSFER_NOBODY; key = cleat_transfer_next_key(t, key)) {
        tell(b, t, command->call, command->operation, key);
        b->under_way[key] = false;
    }
    (void)cleat_transfer_returned(t, t->now_ns, command->call, NULL, CLEAT_NONE,
                                  random);
}

static void drive(struct choose *c, struct batch *b, struct cleat_transfer *t,
                  const struct cleat_transfer_config *config)
{
    struct cleat_transfer_command calls[CLEAT_TRANSFER_CALLS_MAX + 1];
    uint32_t count = 0;

    while (cleat_transfer_status(t, NULL) == CLEAT_PENDING) {
        while (cleat_transfer_next(t, &calls[count])) {
            check_call(c, b, t, config, &calls[count]);
            count++;
            choose_check(c, count <= config->calls_max, "calls in flight");
        }
        if (count == 0) {
            choose_check(c, cleat_transfer_deadline(t) != CLEAT_NEVER,
                         "something is always due while it is pending");
            (void)cleat_transfer_tick(t, cleat_transfer_deadline(t));
        } else {
            uint32_t i = choose_any(c, count);

            give_back_call(b, t, &calls[i],
                           (uint64_t)choose_any(c, 65536) << 48);
            calls[i] = calls[--count];
        }
    }
    choose_check(c, count == 0 && cleat_transfer_drained(t),
                 "nothing is under way at the end");
}

/* --- random batches ------------------------------------------------------- */

static void draw(struct choose *c, struct batch *b,
                 struct cleat_transfer_config *config)
{
    static const uint32_t odds[] = {1, 2, 20, 1000};
    uint32_t odd = odds[choose_any(c, 4)]; /* of them, one key is scripted */

    memset(b, 0, sizeof *b);
    memset(config, 0, sizeof *config);
    b->count = 1 + choose_any(c, KEYS_MAX);
    b->put = choose_any(c, 2) == 0;
    config->mode = choose_any(c, 3);
    config->call_keys_max = 1 + choose_any(c, 40);
    config->call_bytes_max = 1 + choose_any(c, 4000);
    config->calls_max = 1 + choose_any(c, CLEAT_TRANSFER_CALLS_MAX);
    for (uint32_t i = 0; i < b->count; i++) {
        struct key *k = &b->keys[i];

        k->bytes = choose_any(c, 1000);
        for (uint32_t at = 0; choose_any(c, odd) == 0 && at < SCRIPT; at++) {
            k->script[at] = (uint8_t)(1 + choose_any(c, OUTCOMES - 1));
        }
    }
}

static void random_batch(struct choose *c, const void *arg)
{
    static struct batch b;
    struct cleat_transfer_config config;
    struct cleat_transfer_totals wanted;
    struct cleat_transfer_totals totals;
    struct cleat_transfer *t;

    (void)arg;
    draw(c, &b, &config);
    t = begin(&b, &config);
    drive(c, &b, t, &config);
    memset(&wanted, 0, sizeof wanted);
    for (uint32_t key = 0; key < b.count; key++) {
        struct verdict v = judge(&b, &b.keys[key]);
        struct cleat_transfer_report report;

        cleat_transfer_look(t, key, &report);
        choose_note(c, "%u: %u times, %s, the model %u times, %s", key,
                    b.keys[key].tries, cleat_status_name(report.status),
                    v.times, cleat_status_name(v.status));
        choose_check(c, b.keys[key].tries == v.times,
                     "only-failed-keys-are-resent");
        choose_check(c,
                     report.status == v.status ||
                         (v.status == CLEAT_CORRUPT &&
                          report.status == CLEAT_SHORT && key % 2 == 0),
                     "every key ends as its script says");
        choose_check(c, report.unknown == v.unknown,
                     "what may have taken effect is told");
        wanted.bytes_again += (v.times - 1) * b.keys[key].bytes;
        wanted.bytes_sent += v.times * b.keys[key].bytes;
        wanted.ok += v.status == CLEAT_OK;
        wanted.unknown += v.unknown;
    }
    totals = cleat_transfer_count(t);
    choose_check(c, totals.bytes_again == wanted.bytes_again,
                 "the bytes resent are exactly the failed keys'");
    choose_check(c, totals.bytes_sent == wanted.bytes_sent,
                 "nothing else moves");
    choose_check(c, totals.ok == wanted.ok && totals.unknown == wanted.unknown,
                 "every-key-is-reported");
}

/* --- what it costs ---------------------------------------------------------
 */

/* Steps of a put of `keys` keys that all fail once, each call with a wait of
 * its own. */
static uint64_t cost(uint32_t keys)
{
    struct cleat_transfer_command calls[CLEAT_TRANSFER_CALLS_MAX + 1];
    struct cleat_transfer_config config;
    struct cleat_transfer *t = NULL;
    uint64_t random = 1;
    uint64_t before = steps;

    memset(&config, 0, sizeof config);
    config.keys_count = keys;
    config.kind = CLEAT_TRANSFER_PUT;
    config.mode = CLEAT_TRANSFER_KEEP;
    if (cleat_transfer_begin(block.bytes, sizeof block.bytes, &config, 0, &t,
                             NULL) != CLEAT_OK) {
        cleat_test_assert_failed("begin", __FILE__, __LINE__);
    }
    while (cleat_transfer_status(t, NULL) == CLEAT_PENDING) {
        uint32_t count = 0;

        while (cleat_transfer_next(t, &calls[count])) { count++; }
        if (count == 0) {
            (void)cleat_transfer_tick(t, cleat_transfer_deadline(t));
        }
        for (uint32_t i = 0; i < count; i++) {
            for (uint32_t key = cleat_transfer_first(t, calls[i].call);
                 key != CLEAT_TRANSFER_NOBODY;
                 key = cleat_transfer_next_key(t, key)) {
                enum cleat_status status = key % 2 == 0 ? CLEAT_TRANSIENT
                                                        : CLEAT_CAPACITY;

                if (at(t, key)->attempts > 1) { status = CLEAT_OK; }
                (void)cleat_transfer_told(t, calls[i].call, key, status, 0, 0);
            }
            random = random * UINT64_C(6364136223846793005) + 1;
            (void)cleat_transfer_returned(t, t->now_ns, calls[i].call, NULL,
                                          CLEAT_NONE, random);
        }
    }
    return steps - before;
}

/* The steps a key are the same for many keys as for few. */
static bool cost_is_linear(void)
{
    static const uint32_t sizes[] = {400, 2000, 10000, 50000};
    uint64_t few = cost(sizes[0]) / sizes[0];
    bool linear = true;

    for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t each = cost(sizes[i]) / sizes[i];

        printf("%6u keys that fail once: %3u steps each\n", sizes[i],
               (unsigned)each);
        linear = linear && each <= few + few / 20;
    }
    if (!linear) { printf("FAILED: the cost is not linear in the keys\n"); }
    return linear;
}

static const struct choose_test tests[] = {
    {.name = "transfer-resends-exactly-what-failed", .body = random_batch},
};

int main(int argc, char **argv)
{
    if (!cost_is_linear()) { return 1; }
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
