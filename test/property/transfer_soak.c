/* Cleat: eight threads, a store that is unwell, and nothing lost.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     transfer_soak [seconds [seed]]
 *     transfer_soak --canary NAME [seed]
 *
 * Eight threads put, get, remove and ask, in batches of random sizes, modes and
 * ways to verify, through two services over one store in memory; each service
 * sees it through a layer of faults. A tenth of all items fails, a hundredth
 * may or may not have taken effect, a thousandth is corrupt, and some are
 * short, full, late or silent. Through the second one puts also store wrong
 * bytes, half of them or none, and say that they worked; there every put is
 * read back.
 *
 * A value is a pure function of its key and its version. Each key is put by one
 * thread alone, which knows what can be there: nothing, or a version from here
 * to there; `ok` leaves one possibility. Everybody reads everything. Some keys
 * are created by all threads at once: one of them may win. Whatever a batch
 * says is held against that while it runs, and at the end every key is read
 * once more, past all faults.
 *
 * With --canary the store itself tells one kind of lie, which must be found. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cleat/local_store.h"
#include "cleat/memory_store.h"
#include "cleat/store_faults.h"
#include "no_malloc.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

#if defined(SANITIZED)
#define VALUE_BYTES_MAX 4096u
#else
#define VALUE_BYTES_MAX 65536u
#endif

#define THREADS 8u
#define OWN_KEYS 128u     /* of each thread */
#define SHARED_KEYS 8192u /* created by all */
#define BATCH_MAX 48u
#define GUARD_BYTES 16u
#define SLOT_BYTES (CLEAT_FRAME_BYTES + VALUE_BYTES_MAX + 64u)
#define STORE_BYTES ((size_t)96 << 20)
#define UNTOUCHED 0xEE /* what is in a buffer before a get */
#define SERVICES 2u
#define BATCHES_MIN 500u /* until everything has happened to somebody */
#define BATCHES_MIN_CANARY 20000u
#define US CLEAT_NS_PER_US
#define MS CLEAT_NS_PER_MS
#define S CLEAT_NS_PER_S

static uint64_t seed = 1;
static const char *canary;  /* NULL: none */
static atomic_uint batches; /* that have ended */
static atomic_bool ended;
static atomic_uint at_rest; /* threads that will do no more, and have not gone:
                               that frees */
static atomic_bool leaving;

/* ---- what must hold ------------------------------------------------------ */

static void found(const char *file, int line, const char *what,
                  const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A violation: the end, and a good one where it was planted. */
static void found(const char *file, int line, const char *what,
                  const char *format, ...)
{
    static atomic_bool once;
    char text[512];
    va_list arguments;

    if (atomic_exchange(&once, true)) { pause(); }
    cleat_test_forbid_malloc(false);
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s:%d: %s: %s (seed %llu)\n", file, line, what, text,
            (unsigned long long)seed);
    if (canary != NULL) { fprintf(stderr, "canary %s: found\n", canary); }
    _exit(canary != NULL ? 0 : 1);
}

#define CHECK(x, ...)                                             \
    do {                                                          \
        if (!(x)) { found(__FILE__, __LINE__, #x, __VA_ARGS__); } \
    } while (0)

static uint64_t now(void)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context);
}

/* ---- values -------------------------------------------------------------- */

/* SplitMix64's mixing step (Steele and others, 2014). */
static uint64_t mixed(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

/* Empty, or at least 16 bytes, of which the first eight are the version. */
static uint32_t bytes_of(uint32_t key, uint32_t version)
{
    uint64_t drawn = mixed((uint64_t)key << 32 | version);
    uint32_t most = drawn % 32 == 0  ? VALUE_BYTES_MAX
                    : drawn % 4 == 0 ? VALUE_BYTES_MAX / 16
                                     : 256;

    if (drawn % 16 == 1) { return 0; }
    return 16 + (uint32_t)((drawn >> 32) % (most - 15));
}

static uint64_t word_of(uint64_t base, uint32_t i)
{
    uint64_t x = (base ^ i) * UINT64_C(0x9FB21C651E98DF25);

    return x ^ x >> 29;
}

static void fill(unsigned char *to, uint32_t key, uint32_t version)
{
    uint32_t bytes = bytes_of(key, version);
    uint64_t base = mixed((uint64_t)version << 32 | key);
    uint64_t word = version;

    for (uint32_t i = 0; i < bytes; i += 8) {
        memcpy(to + i, &word, bytes - i < 8 ? bytes - i : 8);
        word = word_of(base, i);
    }
}

static bool is_value(const unsigned char *at, uint64_t bytes, uint32_t key,
                     uint32_t version)
{
    uint64_t base = mixed((uint64_t)version << 32 | key);
    uint64_t word = version;

    if (bytes != bytes_of(key, version)) { return false; }
    for (uint32_t i = 0; i < bytes; i += 8) {
        if (memcmp(at + i, &word, bytes - i < 8 ? bytes - i : 8) != 0) {
            return false;
        }
        word = word_of(base, i);
    }
    return true;
}

/* The version that these bytes say they are. 0: they are empty. */
static uint64_t version_in(const unsigned char *at, uint64_t bytes)
{
    uint64_t version = 0;

    if (bytes >= sizeof version) { memcpy(&version, at, sizeof version); }
    return version;
}

/* ---- keys ---------------------------------------------------------------- */

#define KEYS (THREADS * OWN_KEYS + SHARED_KEYS)

/* What can be there: nothing, where `absent`; or one of the versions from `low`
 * to `high`, if there are any. */
struct known {
    uint32_t low;
    uint32_t high;
    bool absent;
    bool spoilt;              /* or wrong bytes: a put to be read back failed */
    _Atomic uint32_t version; /* the last one that was begun */
};

static struct known own[THREADS * OWN_KEYS];
static _Atomic uint32_t winners[SHARED_KEYS]; /* version; 0: nobody yet */
static char keys[KEYS][16];

static bool is_empty(const struct known *known)
{
    return known->low > known->high;
}

static void is_certain(struct known *known, uint32_t version)
{
    known->low = version;
    known->high = version;
    known->absent = false;
    known->spoilt = false;
}

static void is_gone(struct known *known)
{
    known->low = 1;
    known->high = 0;
    known->absent = true;
    known->spoilt = false;
}

/* One more version can be there. */
static void may_be(struct known *known, uint32_t version)
{
    if (is_empty(known)) { known->low = version; }
    known->high = version;
}

/* Whether it can be of so many bytes, and these. */
static bool can_be(const struct known *known, uint32_t key,
                   const unsigned char *at, uint64_t bytes, uint32_t *version)
{
    for (uint32_t v = known->low; v <= known->high; v++) {
        *version = v;
        if (bytes == 0
                ? bytes_of(key, v) == 0
                : version_in(at, bytes) == v && is_value(at, bytes, key, v)) {
            return true;
        }
    }
    return false;
}

/* How a key is stored depends on the key alone. */
static bool is_tensor(uint32_t key)
{
    return key % 4 == 1;
}

static uint32_t flags_of(uint32_t key)
{
    return key % 4 == 2 ? CLEAT_STORE_RAW : key % 4 == 3 ? CLEAT_STORE_ROOM : 0;
}

/* ---- a thread ------------------------------------------------------------ */

enum done {
    DONE_PUT,
    DONE_GET,
    DONE_REMOVE,
    DONE_EXISTS,
    DONE_WON,
    DONE_FAILED,
    DONE_MISSING,
    DONE_AGAIN, /* attempts above the first */
    DONE_LENT,
    DONE_CANCELLED,
    DONE_BATCHES,
    DONES
};
static const char *const done_names[DONES] = {
    "put",     "got",   "removed", "asked",     "created first", "failed",
    "missing", "again", "lent",    "cancelled", "batches"};

struct agent {
    pthread_t thread;
    uint32_t index;
    uint64_t random;
    unsigned char *slots; /* BATCH_MAX payloads */
    uint64_t done[DONES];

    /* The batch in hand. */
    struct cleat_transfer_service *service;
    bool lies; /* its puts may store wrong bytes, and say that they worked */
    uint32_t count;
    uint32_t kind;
    uint32_t key[BATCH_MAX];
    uint32_t version[BATCH_MAX];
    struct cleat_transfer_value values[BATCH_MAX];
    struct cleat_transfer_options options;
};

static struct agent agents[THREADS];
static struct cleat_local_store *locals[SERVICES];
static struct cleat_store layers[SERVICES];
static struct cleat_store store; /* below all faults */

static uint32_t draw(struct agent *agent, uint32_t below)
{
    agent->random ^= agent->random << 13; /* Marsaglia's xorshift64 */
    agent->random ^= agent->random >> 7;
    agent->random ^= agent->random << 17;
    return (uint32_t)((agent->random >> 32) * below >> 32);
}

static unsigned char *payload_of(const struct agent *agent, uint32_t i)
{
    return agent->slots + (size_t)i * SLOT_BYTES + CLEAT_FRAME_BYTES;
}

static void add_value(struct agent *agent, uint32_t key, uint64_t bytes)
{
    uint32_t i = agent->count++;
    struct cleat_transfer_value *value = &agent->values[i];

    memset(value, 0, sizeof *value);
    agent->key[i] = key;
    value->key = keys[key];
    value->payload = payload_of(agent, i);
    value->bytes = bytes;
    value->flags = flags_of(key);
    value->status = CLEAT_PENDING;
    if (is_tensor(key) && !agent->options.sized) {
        value->dtype = CLEAT_DTYPE_U8;
        value->rank = 1;
        value->shape[0] = bytes;
    }
}

/* Begins a batch: which service, and until when. */
static void begin(struct agent *agent, uint32_t kind)
{
    memset(&agent->options, 0, sizeof agent->options);
    agent->count = 0;
    agent->kind = kind;
    agent->lies = draw(agent, 3) == 0;
    agent->service = cleat_local_store_service(locals[agent->lies]);
    if (draw(agent, 50) == 0) {
        agent->options.deadline_ns = now() + draw(agent, 3000) * US;
    }
}

static enum cleat_status send(struct agent *agent,
                              struct cleat_transfer_summary *summary,
                              struct cleat_error *error)
{
    static enum cleat_status (*const calls[])(
        struct cleat_transfer_service *, struct cleat_transfer_value *,
        uint32_t, const struct cleat_transfer_options *,
        struct cleat_transfer_summary *,
        struct cleat_error *) = {NULL, cleat_transfer_put, cleat_transfer_get,
                                 cleat_transfer_remove, cleat_transfer_exists};

    return calls[agent->kind](agent->service, agent->values, agent->count,
                              &agent->options, summary, error);
}

/* What may come of a store that is unwell. */
static bool is_excuse(enum cleat_status status)
{
    return status == CLEAT_TRANSIENT || status == CLEAT_AMBIGUOUS ||
           status == CLEAT_CAPACITY || status == CLEAT_SHORT ||
           status == CLEAT_CORRUPT || status == CLEAT_DEADLINE ||
           status == CLEAT_CANCELLED || status == CLEAT_UNREADABLE;
}

/* Every value is reported, the sums are theirs, and the error is the first. */
static void check_report(const struct agent *agent, enum cleat_status status,
                         const struct cleat_transfer_summary *summary,
                         const struct cleat_error *error)
{
    uint32_t first = agent->count;
    uint32_t ok = 0;
    uint32_t lent = 0;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < agent->count; i++) {
        const struct cleat_transfer_value *value = &agent->values[i];

        CHECK(value->status <= CLEAT_OK, "%s: status %d", value->key,
              value->status);
        ok += value->status == CLEAT_OK;
        lent += value->lent;
        if (value->status != CLEAT_OK && first == agent->count) { first = i; }
        if (value->status == CLEAT_OK && agent->kind <= CLEAT_TRANSFER_GET) {
            bytes += value->actual;
        }
    }
    CHECK(summary->sent == 1, "%d: %s", status, error->text);
    CHECK(summary->totals.ok == ok, "%u and %u", summary->totals.ok, ok);
    CHECK(ok + summary->totals.failed + summary->totals.unknown == agent->count,
          "%u of %u failed, %u unknown", summary->totals.failed, agent->count,
          summary->totals.unknown);
    CHECK(summary->totals.lent == lent, "%u and %u", summary->totals.lent,
          lent);
    CHECK(agent->kind > CLEAT_TRANSFER_GET || summary->bytes == bytes,
          "%llu and %llu", (unsigned long long)summary->bytes,
          (unsigned long long)bytes);
    if (ok == agent->count) {
        CHECK(status == CLEAT_OK, "%d: %s", status, error->text);
        return;
    }
    CHECK(status == (enum cleat_status)agent->values[first].status, "%d: %s",
          status, error->text);
    CHECK(error->index == first, "%s", error->text);
    CHECK(strstr(error->text, agent->values[first].key) != NULL, "%s",
          error->text);
}

/* Makes the batch's call. What was lent has come back when this returns. */
static void run(struct agent *agent)
{
    struct cleat_transfer_summary summary;
    struct cleat_error error;
    enum cleat_status status;

    memset(&error, 0, sizeof error);
    status = send(agent, &summary, &error);
    check_report(agent, status, &summary, &error);
    agent->done[DONE_BATCHES]++;
    atomic_fetch_add_explicit(&batches, 1, memory_order_relaxed);
    agent->done[DONE_CANCELLED] += status == CLEAT_CANCELLED;
    for (uint32_t i = 0; i < agent->count; i++) {
        const struct cleat_transfer_value *value = &agent->values[i];

        agent->done[DONE_AGAIN] += value->attempts > 1;
        agent->done[DONE_LENT] += value->lent;
        agent->done[DONE_FAILED] += is_excuse((enum cleat_status)value->status);
    }
    if (status != CLEAT_OK) {
        CHECK(cleat_transfer_drain(agent->service, now() + 60 * S, &error) ==
                  CLEAT_OK,
              "%s", error.text);
    }
}

/* ---- own keys ------------------------------------------------------------ */

static struct known *own_of(uint32_t key)
{
    return &own[key];
}

/* Up to BATCH_MAX different keys of the agent's own, at random. */
static uint32_t draw_own(struct agent *agent, uint32_t *chosen)
{
    uint32_t count = 1 + draw(agent, draw(agent, 8) ? 12 : BATCH_MAX);
    uint32_t at = draw(agent, OWN_KEYS);
    uint32_t stride = 2 * draw(agent, OWN_KEYS / 2) + 1;

    for (uint32_t i = 0; i < count; i++) {
        chosen[i] = agent->index * OWN_KEYS + (at + i * stride) % OWN_KEYS;
    }
    return count;
}

static void after_put(struct agent *agent, uint32_t i)
{
    struct known *known = own_of(agent->key[i]);
    uint32_t version = agent->version[i];
    enum cleat_status status = (enum cleat_status)agent->values[i].status;
    uint32_t mode = agent->options.mode;
    bool was_there = !known->absent && !is_empty(known);

    if (status == CLEAT_OK) {
        agent->done[DONE_PUT]++;
        if (mode == CLEAT_TRANSFER_KEEP &&
            !(known->absent && is_empty(known))) {
            if (!was_there) { may_be(known, version); }
            known->absent = false;
            return;
        }
        CHECK(mode != CLEAT_TRANSFER_CREATE || known->absent,
              "%s: created, and was there", keys[agent->key[i]]);
        is_certain(known, version);
        return;
    }
    if (status == CLEAT_EXISTS) {
        CHECK(mode == CLEAT_TRANSFER_CREATE, "%s: mode %u", keys[agent->key[i]],
              mode);
        CHECK(!is_empty(known) || agent->lies, "%s: exists, and cannot",
              keys[agent->key[i]]);
        known->absent = false;
        /* What a lie has left may be found by who told it. */
        if (agent->lies && !was_there) {
            may_be(known, version);
            known->spoilt = true;
        }
        return;
    }
    CHECK(is_excuse(status), "%s: put: %s", keys[agent->key[i]],
          cleat_status_name(status));
    known->absent = known->absent || mode == CLEAT_TRANSFER_REPLACE;
    known->spoilt = known->spoilt || agent->lies;
    may_be(known, version);
}

static void check_sent(const struct agent *agent, uint32_t i)
{
    CHECK(is_value(payload_of(agent, i), agent->values[i].bytes, agent->key[i],
                   agent->version[i]),
          "%s: a put has changed its payload", keys[agent->key[i]]);
}

static void put_own(struct agent *agent)
{
    uint32_t chosen[BATCH_MAX];
    uint32_t count;

    begin(agent, CLEAT_TRANSFER_PUT);
    agent->options.mode = draw(agent, 3);
    agent->options.verify = draw(agent, 3);
    if (agent->lies) {
        agent->options.verify = CLEAT_TRANSFER_VERIFY_FULL;
        if (agent->options.mode == CLEAT_TRANSFER_KEEP) {
            agent->options.mode = CLEAT_TRANSFER_REPLACE;
        }
    }
    count = draw_own(agent, chosen);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t version = atomic_fetch_add(&own_of(chosen[i])->version, 1) + 1;

        agent->version[i] = version;
        fill(payload_of(agent, i), chosen[i], version);
        add_value(agent, chosen[i], bytes_of(chosen[i], version));
    }
    run(agent);
    for (uint32_t i = 0; i < count; i++) {
        after_put(agent, i);
        if (draw(agent, 4) == 0) { check_sent(agent, i); }
    }
}

static void remove_own(struct agent *agent)
{
    uint32_t chosen[BATCH_MAX];
    uint32_t count;

    begin(agent, CLEAT_TRANSFER_REMOVE);
    count = draw_own(agent, chosen);
    for (uint32_t i = 0; i < count; i++) { add_value(agent, chosen[i], 0); }
    run(agent);
    for (uint32_t i = 0; i < count; i++) {
        enum cleat_status status = (enum cleat_status)agent->values[i].status;
        struct known *known = own_of(chosen[i]);

        if (status == CLEAT_OK) {
            is_gone(known);
            agent->done[DONE_REMOVE]++;
        } else {
            CHECK(is_excuse(status), "%s: remove: %s", keys[chosen[i]],
                  cleat_status_name(status));
            known->absent = true;
        }
    }
}

static void ask_own(struct agent *agent)
{
    uint32_t chosen[BATCH_MAX];
    uint32_t count;

    begin(agent, CLEAT_TRANSFER_EXISTS);
    count = draw_own(agent, chosen);
    for (uint32_t i = 0; i < count; i++) { add_value(agent, chosen[i], 0); }
    run(agent);
    for (uint32_t i = 0; i < count; i++) {
        const struct cleat_transfer_value *value = &agent->values[i];
        enum cleat_status status = (enum cleat_status)value->status;
        struct known *known = own_of(chosen[i]);

        if (status != CLEAT_OK) {
            CHECK(is_excuse(status), "%s: exists: %s", value->key,
                  cleat_status_name(status));
            continue;
        }
        agent->done[DONE_EXISTS]++;
        if (value->actual != 0) {
            CHECK(!is_empty(known), "%s: is there, and cannot be", value->key);
            known->absent = false;
        } else {
            CHECK(known->absent, "%s: is not there, and was put", value->key);
            is_gone(known);
        }
    }
}

/* ---- gets ---------------------------------------------------------------- */

/* Nothing is written behind a buffer; nothing is left in it where its get has
 * failed. (Behind what was got, an attempt of before may have left more.) */
static void check_buffer(const struct agent *agent, uint32_t i)
{
    const struct cleat_transfer_value *value = &agent->values[i];
    const unsigned char *payload = payload_of(agent, i);

    CHECK(value->status != CLEAT_OK || value->actual <= value->bytes,
          "%s: more than there is room", value->key);
    for (uint64_t k = 0; value->status != CLEAT_OK && k < value->bytes; k++) {
        CHECK(payload[k] == UNTOUCHED || payload[k] == 0,
              "%s: %s, and byte %u was left", value->key,
              cleat_status_name((enum cleat_status)value->status), (unsigned)k);
    }
    for (uint64_t k = 0; k < GUARD_BYTES; k++) {
        CHECK(payload[value->bytes + k] == UNTOUCHED,
              "%s: written behind its buffer", value->key);
    }
}

static void after_get_own(struct agent *agent, uint32_t i)
{
    const struct cleat_transfer_value *value = &agent->values[i];
    enum cleat_status status = (enum cleat_status)value->status;
    uint32_t key = agent->key[i];
    struct known *known = own_of(key);
    uint32_t version = 0;

    if (status == CLEAT_OK) {
        CHECK(
            can_be(known, key, payload_of(agent, i), value->actual, &version),
            "%s: %llu bytes of version %llu, and it is %u … %u", value->key,
            (unsigned long long)value->actual,
            (unsigned long long)version_in(payload_of(agent, i), value->actual),
            known->low, known->high);
        if (value->actual != 0) { is_certain(known, version); }
        known->absent = false;
        agent->done[DONE_GET]++;
    } else if (status == CLEAT_NOT_FOUND) {
        CHECK(known->absent, "%s: not found, and was put", value->key);
        is_gone(known);
        agent->done[DONE_MISSING]++;
    } else {
        CHECK(is_excuse(status), "%s: get: %s", value->key,
              cleat_status_name(status));
    }
}

/* Another thread's: whatever it is, it is one of that key's values. */
static void after_get_other(struct agent *agent, uint32_t i)
{
    const struct cleat_transfer_value *value = &agent->values[i];
    enum cleat_status status = (enum cleat_status)value->status;
    const unsigned char *payload = payload_of(agent, i);
    uint64_t version = version_in(payload, value->actual);
    uint32_t key = agent->key[i];

    if (status != CLEAT_OK) {
        CHECK(is_excuse(status) || status == CLEAT_NOT_FOUND, "%s: get: %s",
              value->key, cleat_status_name(status));
        return;
    }
    agent->done[DONE_GET]++;
    if (value->actual == 0) { return; }
    CHECK(version <= UINT32_MAX &&
              is_value(payload, value->actual, key, (uint32_t)version),
          "%s: %llu bytes are none of its values", value->key,
          (unsigned long long)value->actual);
    CHECK(key >= THREADS * OWN_KEYS ||
              version <= atomic_load(&own_of(key)->version),
          "%s: version %llu was never put", value->key,
          (unsigned long long)version);
}

static void run_gets(struct agent *agent)
{
    for (uint32_t i = 0; i < agent->count; i++) {
        memset(payload_of(agent, i), UNTOUCHED,
               (size_t)agent->values[i].bytes + GUARD_BYTES);
    }
    run(agent);
    for (uint32_t i = 0; i < agent->count; i++) {
        check_buffer(agent, i);
        if (agent->key[i] / OWN_KEYS == agent->index) {
            after_get_own(agent, i);
        } else {
            after_get_other(agent, i);
        }
    }
}

/* Own keys of which it is known what they are; some of them twice. */
static void get_exactly(struct agent *agent)
{
    uint32_t chosen[BATCH_MAX];
    uint32_t count;

    begin(agent, CLEAT_TRANSFER_GET);
    count = draw_own(agent, chosen);
    for (uint32_t i = 0; i < count && agent->count < BATCH_MAX; i++) {
        const struct known *known = own_of(chosen[i]);
        uint64_t bytes;

        if (known->low != known->high || known->spoilt) { continue; }
        bytes = bytes_of(chosen[i], known->low);
        add_value(agent, chosen[i], bytes);
        if (agent->count < BATCH_MAX && draw(agent, 16) == 0) {
            add_value(agent, chosen[i], bytes);
        }
    }
    if (agent->count > 0) { run_gets(agent); }
}

static void get_sized(struct agent *agent)
{
    uint32_t count = 1 + draw(agent, 12);

    begin(agent, CLEAT_TRANSFER_GET);
    agent->options.sized = 1;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t key = draw(agent, 4) ? draw(agent, THREADS * OWN_KEYS)
                                      : draw(agent, KEYS);

        add_value(agent, key, VALUE_BYTES_MAX);
    }
    run_gets(agent);
}

/* ---- shared keys --------------------------------------------------------- */

/* Everybody creates these, each with bytes of its own, and has them read back:
 * `ok` says that they are there, so only one can hear it. */
static void create_shared(struct agent *agent)
{
    uint32_t count = 1 + draw(agent, 8);
    uint32_t at = draw(agent, SHARED_KEYS - count);

    begin(agent, CLEAT_TRANSFER_PUT);
    agent->options.mode = CLEAT_TRANSFER_CREATE;
    agent->options.verify = CLEAT_TRANSFER_VERIFY_FULL;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t key = THREADS * OWN_KEYS + at + i;
        uint32_t version = agent->index + 1;

        /* Two empty values are the same. */
        while (bytes_of(key, version) == 0) { version += THREADS; }
        agent->version[i] = version;
        fill(payload_of(agent, i), key, version);
        add_value(agent, key, bytes_of(key, version));
    }
    run(agent);
    for (uint32_t i = 0; i < count; i++) {
        enum cleat_status status = (enum cleat_status)agent->values[i].status;
        uint32_t nobody = 0;

        CHECK(status == CLEAT_OK || status == CLEAT_EXISTS || is_excuse(status),
              "%s: create: %s", agent->values[i].key,
              cleat_status_name(status));
        if (status != CLEAT_OK) { continue; }
        CHECK(atomic_compare_exchange_strong(
                  &winners[agent->key[i] - THREADS * OWN_KEYS], &nobody,
                  agent->version[i]),
              "%s: created by two", agent->values[i].key);
        agent->done[DONE_WON]++;
    }
}

static void *agent_main(void *context)
{
    struct agent *agent = context;

    while (!atomic_load_explicit(&ended, memory_order_relaxed)) {
        switch (draw(agent, 16)) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4: put_own(agent); break;
        case 5: create_shared(agent); break;
        case 6:
        case 7:
        case 8:
        case 9: get_exactly(agent); break;
        case 10:
        case 11:
        case 12: get_sized(agent); break;
        case 13:
        case 14: ask_own(agent); break;
        default: remove_own(agent); break;
        }
        if (draw(agent, 2000) == 0) { cleat_transfer_stop(agent->service); }
    }
    atomic_fetch_add(&at_rest, 1);
    while (!atomic_load(&leaving)) { (void)usleep(1000); }
    return NULL;
}

/* ---- a store that lies --------------------------------------------------- */

enum lie { LIE_NONE, LIE_LOST, LIE_SWAPPED, LIE_STALE, LIE_UNDEAD, LIES };
static const char *const lie_names[LIES] = {"none", "lost", "swapped", "stale",
                                            "undead"};
static enum lie lie;
static atomic_uint chances;

struct cleat_store_context {
    struct cleat_store inner;
};
static struct cleat_store_context liar;

/* Whether this item is lied about: each thousandth that could be. */
static bool is_lied_about(uint32_t operation,
                          const struct cleat_store_item *item)
{
    static const uint32_t operations[LIES] = {
        CLEAT_TRANSFER_OPERATIONS, CLEAT_TRANSFER_DO_PUT, CLEAT_TRANSFER_DO_PUT,
        CLEAT_TRANSFER_DO_GET, CLEAT_TRANSFER_DO_REMOVE};

    return operation == operations[lie] &&
           (item->bytes >= 16 || lie == LIE_UNDEAD) &&
           item->bytes <= VALUE_BYTES_MAX &&
           atomic_fetch_add(&chances, 1) % 1000 == 999;
}

/* Says that it was done. What was: other bytes, or nothing. */
static void tell_a_lie(const struct cleat_store_call *call,
                       struct cleat_store_item *item)
{
    unsigned char other[VALUE_BYTES_MAX];
    struct cleat_store_item changed = *item;
    struct cleat_store_call part = *call;

    if (lie == LIE_SWAPPED) {
        memcpy(other, item->payload, (size_t)item->bytes);
        other[item->bytes - 1] ^= 1;
        changed.payload = other;
        part.items = &changed;
        part.count = 1;
        (void)liar.inner.call(liar.inner.context, &part);
        item->status = changed.status;
        item->code = changed.code;
        return;
    }
    item->status = CLEAT_OK;
    item->actual = item->bytes;
    item->code = 0;
}

static enum cleat_status liar_call(struct cleat_store_context *self,
                                   struct cleat_store_call *call)
{
    for (uint32_t i = 0; i < call->count; i++) {
        struct cleat_store_call one = *call;

        one.items = &call->items[i];
        one.count = 1;
        if (is_lied_about(call->operation, &call->items[i])) {
            tell_a_lie(call, &call->items[i]);
        } else {
            (void)self->inner.call(self->inner.context, &one);
        }
    }
    return CLEAT_OK;
}

static enum cleat_status liar_ready(struct cleat_store_context *self,
                                    uint64_t deadline_ns,
                                    struct cleat_error *error)
{
    return self->inner.ready(self->inner.context, deadline_ns, error);
}

static struct cleat_store with_lies(const struct cleat_store *inner)
{
    struct cleat_store out = *inner;

    if (lie == LIE_NONE) { return out; }
    liar.inner = *inner;
    out.context = &liar;
    out.call = liar_call;
    out.ready = liar_ready;
    return out;
}

/* ---- the beginning and the end ------------------------------------------- */

/* Shares of a million items. */
static const struct cleat_store_fault rules[] = {
    {.kind = CLEAT_STORE_FAULT_TRANSIENT, .rate = 100000},
    {.kind = CLEAT_STORE_FAULT_AMBIGUOUS, .rate = 5000},
    {.kind = CLEAT_STORE_FAULT_AMBIGUOUS_EFFECT, .rate = 5000},
    {.kind = CLEAT_STORE_FAULT_CORRUPT, .rate = 1000},
    {.kind = CLEAT_STORE_FAULT_SHORT, .rate = 1000},
    {.kind = CLEAT_STORE_FAULT_CAPACITY, .rate = 1000},
    {.kind = CLEAT_STORE_FAULT_LATE, .rate = 100, .ns = 3 * MS},
    {.kind = CLEAT_STORE_FAULT_LATE_TRANSIENT, .rate = 50, .ns = 2 * MS},
    {.kind = CLEAT_STORE_FAULT_SILENCE, .rate = 50, .ns = 2 * MS},
    {.kind = CLEAT_STORE_FAULT_SILENCE_EFFECT, .rate = 50, .ns = 2 * MS},
    /* In the second service alone. */
    {.kind = CLEAT_STORE_FAULT_CORRUPT_STORED, .rate = 1000},
    {.kind = CLEAT_STORE_FAULT_TORN, .rate = 1000},
    {.kind = CLEAT_STORE_FAULT_LOST, .rate = 1000}};
#define RULES ((uint32_t)(sizeof rules / sizeof rules[0]))
#define RULES_HONEST (RULES - 3)

static void *take(size_t bytes)
{
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(block != MAP_FAILED, "no memory");
    return block;
}

static void open_service(uint32_t which, const struct cleat_store *inner)
{
    static const struct cleat_retry_policy policy = {
        .base_ns = 50 * US, .max_ns = MS, .attempts_max = 6};
    static const struct cleat_retry_policy capacity = {
        .base_ns = 100 * US, .max_ns = 2 * MS, .attempts_max = 6};
    struct cleat_local_store_config config = {
        .service = {.batch = {.policy = &policy,
                              .capacity = &capacity,
                              .deadline_ns = 60 * S,
                              .discard_ns = 20 * MS,
                              .pace_ns = 2 * MS,
                              .call_keys_max = 7,
                              .call_bytes_max = VALUE_BYTES_MAX},
                    .budget = {.tokens = UINT32_MAX,
                               .tokens_max = UINT32_MAX,
                               .cost = 1,
                               .cost_transient = 1,
                               .gain = 1000},
                    .batches_max = 4 * THREADS,
                    .keys_max = BATCH_MAX},
        .threads = {.threads = 4},
        .seed = seed + which};
    struct cleat_store_faults_config faults = {
        .rules = rules,
        .rules_count = which == 0 ? RULES_HONEST : RULES,
        .seed = seed + which};
    size_t bytes = cleat_local_store_bytes(&config);
    struct cleat_error error;

    CHECK(cleat_store_faults_init(take(cleat_store_faults_bytes(0)),
                                  cleat_store_faults_bytes(0), &faults, inner,
                                  &layers[which], &error) == CLEAT_OK,
          "%s", error.text);
    CHECK(bytes != 0 && cleat_local_store_open(take(bytes), bytes, &config,
                                               &layers[which], &locals[which],
                                               &error) == CLEAT_OK,
          "%s", error.text);
    CHECK(cleat_transfer_service_ready(cleat_local_store_service(locals[which]),
                                       now() + 60 * S, &error) == CLEAT_OK,
          "%s", error.text);
}

static void open_all(void)
{
    static _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
    struct cleat_store inner;
    struct cleat_error error;

    CHECK(cleat_memory_store_init(take(STORE_BYTES), STORE_BYTES, NULL, end,
                                  sizeof end, &store, &error) == CLEAT_OK,
          "%s", error.text);
    inner = with_lies(&store);
    for (uint32_t i = 0; i < SERVICES; i++) { open_service(i, &inner); }
    for (uint32_t key = 0; key < KEYS; key++) {
        (void)snprintf(keys[key], sizeof keys[key], "%s/%u",
                       key < THREADS * OWN_KEYS ? "own" : "shared", key);
        if (key < THREADS * OWN_KEYS) { is_gone(&own[key]); }
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        agents[i].index = i;
        agents[i].random = mixed(seed * THREADS + i) | 1;
        agents[i].slots = take(BATCH_MAX * SLOT_BYTES);
    }
}

/* As long as that, and a slow machine longer. */
static void run_agents(uint64_t until_ns)
{
    uint32_t batches_min = canary != NULL ? BATCHES_MIN_CANARY : BATCHES_MIN;

    for (uint32_t i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&agents[i].thread, NULL, agent_main, &agents[i]) ==
                  0,
              "no thread");
    }
    cleat_test_forbid_malloc(true);
    while (now() < until_ns || atomic_load(&batches) < batches_min) {
        (void)usleep(10000);
    }
    atomic_store(&ended, true);
    while (atomic_load(&at_rest) < THREADS) { (void)usleep(1000); }
    cleat_test_forbid_malloc(false);
    atomic_store(&leaving, true);
    for (uint32_t i = 0; i < THREADS; i++) {
        (void)pthread_join(agents[i].thread, NULL);
    }
}

/* Nothing is lent, and nothing is under way. */
static void check_rest(void)
{
    struct cleat_memory_store_view view;
    struct cleat_error error;
    uint32_t calls;
    uint32_t stuck;

    for (uint32_t i = 0; i < SERVICES; i++) {
        struct cleat_transfer_service *service = cleat_local_store_service(
            locals[i]);

        CHECK(cleat_transfer_drain(service, now() + 60 * S, &error) == CLEAT_OK,
              "%s", error.text);
        cleat_transfer_service_count(service, &calls, &stuck);
        CHECK(calls == 0 && stuck == 0, "%u calls, %u stuck", calls, stuck);
        CHECK(cleat_local_store_close(locals[i], now() + 60 * S, &error) ==
                  CLEAT_OK,
              "%s", error.text);
    }
    cleat_memory_store_look(&store, &view);
    CHECK(view.held == 0, "%u entries are held", view.held);
    CHECK(view.unreadable == 0, "%u entries", view.unreadable);
}

/* Reads a key past services and faults. */
static enum cleat_status read_back(uint32_t key, unsigned char *to,
                                   uint64_t *bytes)
{
    struct cleat_store_item item;
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_SIZE, 1, &item,
                                    CLEAT_NEVER};

    memset(&item, 0, sizeof item);
    item.key = keys[key];
    item.key_bytes = (uint32_t)strlen(keys[key]);
    item.flags = flags_of(key) & CLEAT_STORE_RAW;
    (void)store.call(store.context, &call);
    if (item.status != CLEAT_OK) { return (enum cleat_status)item.status; }
    CHECK(item.actual <= VALUE_BYTES_MAX, "%s: %llu bytes", keys[key],
          (unsigned long long)item.actual);
    call.operation = CLEAT_TRANSFER_DO_GET;
    item.payload = to;
    item.bytes = item.actual;
    *bytes = item.actual;
    (void)store.call(store.context, &call);
    return (enum cleat_status)item.status;
}

static void check_own(uint32_t key, unsigned char *bytes, uint64_t counts[3])
{
    const struct known *known = own_of(key);
    uint64_t bytes_count = 0;
    uint32_t version;
    enum cleat_status status = read_back(key, bytes, &bytes_count);

    switch (status) {
    case CLEAT_OK:
        CHECK(can_be(known, key, bytes, bytes_count, &version),
              "%s: %llu bytes of version %llu, and it is %u … %u", keys[key],
              (unsigned long long)bytes_count,
              (unsigned long long)version_in(bytes, bytes_count), known->low,
              known->high);
        break;
    case CLEAT_NOT_FOUND:
        CHECK(known->absent, "%s: not there, and was put", keys[key]);
        break;
    default:
        CHECK(status == CLEAT_CORRUPT && known->spoilt, "%s: %s", keys[key],
              cleat_status_name(status));
        break;
    }
    counts[is_empty(known)                               ? 1
           : known->low == known->high && !known->absent ? 0
                                                         : 2]++;
}

static void check_shared(uint32_t index, unsigned char *bytes)
{
    uint32_t key = THREADS * OWN_KEYS + index;
    uint32_t winner = atomic_load(&winners[index]);
    uint64_t bytes_count = 0;
    enum cleat_status status = read_back(key, bytes, &bytes_count);
    uint64_t version = version_in(bytes, status == CLEAT_OK ? bytes_count : 0);

    if (winner != 0) {
        CHECK(status == CLEAT_OK && is_value(bytes, bytes_count, key, winner),
              "%s: %s, and version %u won", keys[key],
              cleat_status_name(status), winner);
    } else if (status == CLEAT_OK) {
        CHECK(is_value(bytes, bytes_count, key, (uint32_t)version),
              "%s: none of its values", keys[key]);
    } else {
        CHECK(status == CLEAT_NOT_FOUND || status == CLEAT_CORRUPT, "%s: %s",
              keys[key], cleat_status_name(status));
    }
}

static void report(unsigned long seconds, const uint64_t counts[3])
{
    uint64_t done[DONES] = {0};

    for (uint32_t i = 0; i < THREADS; i++) {
        for (uint32_t k = 0; k < DONES; k++) { done[k] += agents[i].done[k]; }
    }
    printf("seed %llu, %lu s:", (unsigned long long)seed, seconds);
    for (uint32_t k = 0; k < DONES; k++) {
        printf(" %llu %s%s", (unsigned long long)done[k], done_names[k],
               k + 1 < DONES ? "," : "\n");
    }
    for (uint32_t rule = 0; rule < RULES; rule++) {
        uint64_t struck = cleat_store_faults_struck(&layers[0], rule) +
                          cleat_store_faults_struck(&layers[1], rule);

        printf("  %s %llu times\n",
               cleat_store_fault_name(
                   (enum cleat_store_fault_kind)rules[rule].kind),
               (unsigned long long)struck);
        CHECK(struck > 0 || rules[rule].rate < 5000, "rule %u", rule);
    }
    printf("  at the end %llu keys were as put, %llu were gone, %llu one of "
           "several\n",
           (unsigned long long)counts[0], (unsigned long long)counts[1],
           (unsigned long long)counts[2]);
    for (uint32_t k = 0; k < DONES; k++) {
        CHECK(done[k] > 0 || k == DONE_LENT || k == DONE_CANCELLED, "no %s",
              done_names[k]);
    }
}

static bool choose_lie(const char *name)
{
    for (uint32_t i = LIE_LOST; i < LIES; i++) {
        if (strcmp(name, lie_names[i]) == 0) {
            lie = (enum lie)i;
            canary = name;
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    static unsigned char bytes[VALUE_BYTES_MAX];
    bool planted = argc > 2 && strcmp(argv[1], "--canary") == 0;
    unsigned long seconds = argc > 1 ? strtoul(argv[1], NULL, 10) : 5;
    uint64_t counts[3] = {0, 0, 0};

    if (planted && !choose_lie(argv[2])) {
        fprintf(stderr, "transfer_soak: no canary '%s'\n", argv[2]);
        return 2;
    }
    if (argc > 2 + planted) { seed = strtoull(argv[2 + planted], NULL, 10); }
    if (planted) { seconds = 30; }
    (void)alarm((unsigned)seconds + 180); /* the watchdog */
    open_all();
    run_agents(now() + seconds * S);
    check_rest();
    for (uint32_t key = 0; key < THREADS * OWN_KEYS; key++) {
        check_own(key, bytes, counts);
    }
    for (uint32_t i = 0; i < SHARED_KEYS; i++) { check_shared(i, bytes); }
    if (planted) {
        fprintf(stderr, "canary %s: NOT found (seed %llu)\n", canary,
                (unsigned long long)seed);
        return 1;
    }
    report(seconds, counts);
    return 0;
}
