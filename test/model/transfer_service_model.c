/* Cleat: the transfer service, switched wherever it can be.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cleat_transfer_put and its kin as they are, on fibres (fibres.h): every
 * schedule of a thread of the pool and two or three others, with a bounded
 * number of preemptions. What the store says of an item is chosen; it can stand
 * still until long after the deadline. The machine's own model does the rest.
 *
 * The store looks, whenever it touches an item, whether it still may: keys are
 * whole, payloads are lent. And callers, when they have returned, write over
 * all that was theirs. */
#include <stdio.h>

#include "fibres.h"
#include "port/service/transfer_state.h"

#define START_NS UINT64_C(1000000)
#define CALLERS 3u
#define OWNS (3 * CALLERS)
#define KEYS 2u     /* of one batch */
#define LETTERS 6u  /* two a caller */
#define PIECES 4u   /* two a batch */
#define BYTES 8u    /* of a payload */
#define LATE_NS 500 /* a call that stands still returns after so long */
#define BLOCK_BYTES ((size_t)12 << 10)

/* What a caller does, one letter after the other: 'p' puts its two keys, 'g'
 * gets them; 'w' gets the first caller's, when they come; 't' gets one key of
 * its own twice; 's' stops; 'd' drains; 'r' waits until the store is ready. */
struct model_case {
    const char *acts[CALLERS];
    uint8_t preemptions;
    uint8_t workers; /* 0: one */
    uint8_t calls;   /* at once, of each batch; 0: one, of all its keys */
    uint8_t odd;     /* results that are not CLEAT_OK */
    uint8_t late;    /* calls that stand still */
    uint8_t jobs;    /* that may be submitted at once. 0: 4 */
    uint8_t places;  /* batches at once. 0: as many as there are callers */
    bool unready;
};

/* What a caller has of its own for a batch; for the next one, another: the
 * first may be lent still. */
struct own {
    char keys[KEYS][4];
    unsigned char payload[KEYS][BYTES];
    struct cleat_transfer_value values[KEYS];
    bool may_touch[KEYS]; /* the store, the payload */
    bool is_get;
    bool stopped; /* while it was under way */
};

static struct world {
    struct fibres_port port;
    struct fibres_mailbox boxes[CALLERS];
    const struct model_case *is;
    struct cleat_transfer_service *service;
    struct own own[OWNS];
    struct cleat_store_piece {
        unsigned char *start;
        size_t bytes;
    } pieces[PIECES];
    uint8_t stored[LETTERS]; /* 1: there */
    uint8_t done[LETTERS]; /* the batch under way has had it: bits by operation
                            */
    uint8_t left;          /* callers that are not done */
    uint8_t odd_left;
    uint8_t late_left;
    uint8_t in_store;
    bool stops; /* somebody is about to */
    bool stopped;
    uint64_t stopped_ns;
    bool ready;
    _Alignas(64) unsigned char block[BLOCK_BYTES];
} world;

static struct world *const w = &world;

/* ---- the store ----------------------------------------------------------- */

static unsigned char byte_of(uint32_t letter, uint32_t at)
{
    return (unsigned char)(letter * 16 + at + 1);
}

static bool is_lent(const unsigned char *payload)
{
    for (uint32_t i = 0; i < PIECES; i++) {
        if (w->pieces[i].start != NULL && payload >= w->pieces[i].start &&
            payload + BYTES <= w->pieces[i].start + w->pieces[i].bytes) {
            return true;
        }
    }
    return false;
}

/* Whether an item is what it was when it was sent. Its letter. */
static uint32_t look_at(const struct cleat_store_item *item)
{
    unsigned char *payload = item->payload;

    fibres_check(item->key_bytes == 1 && item->key[1] == '\0' &&
                     item->key[0] >= 'a' && item->key[0] < 'a' + (int)LETTERS,
                 "a-key-stays-as-long-as-its-call");
    for (uint32_t i = 0; payload != NULL && i < OWNS; i++) {
        for (uint32_t k = 0; k < KEYS; k++) {
            if (payload != w->own[i].payload[k]) { continue; }
            fibres_check(w->own[i].may_touch[k],
                         "a-lent-buffer-is-not-returned");
            fibres_check(is_lent(payload),
                         "what-the-store-touches-it-was-told-of");
        }
    }
    return (uint32_t)(item->key[0] - 'a');
}

static enum cleat_status put(uint32_t letter,
                             const struct cleat_store_item *item)
{
    const unsigned char *payload = item->payload;

    fibres_check((w->done[letter] & 1u << CLEAT_TRANSFER_DO_PUT) == 0,
                 "only-failed-keys-are-resent");
    for (uint32_t i = 0; i < BYTES; i++) {
        fibres_check(payload[i] == byte_of(letter, i),
                     "what-is-put-is-what-the-caller-gave");
    }
    w->stored[letter] = 1;
    return CLEAT_OK;
}

static enum cleat_status get(uint32_t letter, struct cleat_store_item *item)
{
    unsigned char *payload = item->payload;

    fibres_check((w->done[letter] & 1u << CLEAT_TRANSFER_DO_GET) == 0,
                 "only-failed-keys-are-resent");
    if (!w->stored[letter]) { return CLEAT_NOT_FOUND; }
    for (uint32_t i = 0; i < BYTES; i++) { payload[i] = byte_of(letter, i); }
    item->actual = BYTES;
    return CLEAT_OK;
}

static enum cleat_status carry_out(uint32_t operation, uint32_t letter,
                                   struct cleat_store_item *item)
{
    enum cleat_status status = CLEAT_OK;

    switch (operation) {
    case CLEAT_TRANSFER_DO_PUT: status = put(letter, item); break;
    case CLEAT_TRANSFER_DO_GET: status = get(letter, item); break;
    case CLEAT_TRANSFER_DO_SIZE: item->actual = BYTES; /* fall through */
    default: status = w->stored[letter] ? CLEAT_OK : CLEAT_NOT_FOUND; break;
    }
    if (status == CLEAT_OK) { w->done[letter] |= (uint8_t)(1u << operation); }
    return status;
}

static void make_item(uint32_t operation, struct cleat_store_item *item)
{
    uint32_t letter = look_at(item);
    uint32_t odd = w->odd_left > 0 ? fibres_choose(3) : 0;

    if (odd > 0) { w->odd_left--; }
    item->status = odd == 1 ? CLEAT_TRANSIENT
                            : carry_out(operation, letter, item);
    if (odd == 2) {
        fibres_note("nothing is said of %c", item->key[0]);
        item->status = CLEAT_PENDING;
        w->done[letter] = 0;
    }
}

static bool never(void *nothing)
{
    (void)nothing;
    return false;
}

static enum cleat_status store_call(struct cleat_store_context *context,
                                    struct cleat_store_call *call)
{
    bool late = w->late_left > 0 && fibres_choose(2) == 1;

    (void)context;
    fibres_check(!fibres_holds_lock(), "nothing-is-locked-while-a-store-works");
    fibres_check(w->ready, "never-calls-a-store-that-is-not-ready");
    w->in_store++;
    for (uint32_t i = 0; i < call->count; i++) {
        (void)look_at(&call->items[i]);
    }
    if (late) {
        w->late_left--;
        fibres_note("the store stands still");
        (void)fibres_wait(never, NULL, fibres_now_ns() + LATE_NS);
    } else {
        fibres_yield();
    }
    for (uint32_t i = 0; i < call->count; i++) {
        make_item(call->operation, &call->items[i]);
    }
    w->in_store--;
    return CLEAT_OK;
}

static enum cleat_status store_ready(struct cleat_store_context *context,
                                     uint64_t deadline_ns,
                                     struct cleat_error *error)
{
    bool late = w->late_left > 0 && fibres_choose(2) == 1;

    (void)context;
    (void)deadline_ns;
    (void)error;
    if (late) {
        w->late_left--;
        fibres_note("the store stands still");
        (void)fibres_wait(never, NULL, fibres_now_ns() + LATE_NS);
    }
    if (w->odd_left > 0 && fibres_choose(2) == 1) {
        w->odd_left--;
        return CLEAT_TRANSIENT;
    }
    w->ready = true;
    return CLEAT_OK;
}

static enum cleat_status store_lend(struct cleat_store_context *context,
                                    void *start, size_t bytes, bool on,
                                    struct cleat_error *error)
{
    (void)context;
    (void)error;
    fibres_check(!fibres_holds_lock(), "nothing-is-locked-while-a-store-works");
    for (uint32_t i = 0; i < PIECES; i++) {
        if (on ? w->pieces[i].start != NULL : w->pieces[i].start != start) {
            continue;
        }
        fibres_check(on || w->pieces[i].bytes == bytes,
                     "what-is-lent-is-taken-back");
        w->pieces[i].start = on ? start : NULL;
        w->pieces[i].bytes = on ? bytes : 0;
        fibres_yield();
        return CLEAT_OK;
    }
    fibres_check(false, "what-is-lent-is-taken-back");
    return CLEAT_OK;
}

/* ---- the callers --------------------------------------------------------- */

static bool is_filled(const unsigned char *payload, unsigned char with)
{
    for (uint32_t i = 0; i < BYTES; i++) {
        if (payload[i] != with) { return false; }
    }
    return true;
}

static bool is_right(const unsigned char *payload, uint32_t letter)
{
    for (uint32_t i = 0; i < BYTES; i++) {
        if (payload[i] != byte_of(letter, i)) { return false; }
    }
    return true;
}

static void make_values(struct own *own, uint32_t letters, bool twice, bool get)
{
    memset(own->values, 0, sizeof own->values);
    own->is_get = get;
    own->stopped = false;
    for (uint32_t k = 0; k < KEYS; k++) {
        uint32_t letter = letters + (twice ? 0 : k);

        own->keys[k][0] = (char)('a' + letter);
        own->keys[k][1] = '\0';
        own->values[k].key = own->keys[k];
        own->values[k].payload = own->payload[k];
        own->values[k].bytes = BYTES;
        own->values[k].flags = CLEAT_STORE_RAW; /* it may go without a copy */
        own->values[k].status = CLEAT_PENDING;
        own->may_touch[k] = true;
        w->done[letter] = 0;
        for (uint32_t i = 0; i < BYTES; i++) {
            own->payload[k][i] = get ? 0x11 : byte_of(letter, i);
        }
    }
}

/* One value, after its batch. */
static void check_value(const struct own *own, uint32_t k, uint32_t letter,
                        bool is_get)
{
    const struct cleat_transfer_value *value = &own->values[k];
    bool ok = value->status == CLEAT_OK;

    fibres_check(value->status <= CLEAT_OK, "every-key-is-reported");
    fibres_check(!ok || w->stored[letter], "no-key-is-lost");
    if (!is_get || value->lent) { return; }
    fibres_check(!ok || is_right(own->payload[k], letter), "no-key-is-lost");
    fibres_check(ok || is_filled(own->payload[k], 0x11) ||
                     is_filled(own->payload[k], 0),
                 "a-failed-get-leaves-nothing");
}

/* What was the caller's is the caller's again, but for what is lent. */
static void take_back(struct own *own)
{
    for (uint32_t k = 0; k < KEYS; k++) {
        own->may_touch[k] = own->values[k].lent != 0;
        if (!own->may_touch[k]) { memset(own->payload[k], 0xDD, BYTES); }
    }
    memset(own->keys, 0xDD, sizeof own->keys);
    memset(own->values, 0xDD, sizeof own->values);
}

static void check_batch(const struct own *own, enum cleat_status status,
                        const struct cleat_transfer_summary *summary,
                        bool stopped_before, bool fair)
{
    const struct cleat_transfer_totals *totals = &summary->totals;
    uint32_t lent = 0;

    for (uint32_t k = 0; k < KEYS; k++) { lent += own->values[k].lent; }
    fibres_check(totals->ok + totals->failed + totals->unknown == KEYS,
                 "every-key-is-reported");
    fibres_check(totals->lent == lent, "every-lent-key-is-told");
    fibres_check((status == CLEAT_OK) == (totals->ok == KEYS),
                 "ok-is-when-all-are");
    fibres_check(status != CLEAT_CANCELLED || (w->stops && !stopped_before),
                 "only-a-stop-cancels");
    fibres_check(status == CLEAT_OK || !fair || fibres_time_ran_ahead() ||
                     (w->stops && !stopped_before),
                 "no-key-is-lost");
}

static void batch(uint32_t caller, struct own *own, char act)
{
    uint32_t letters = act == 'w' ? 0 : caller * KEYS;
    bool is_get = act != 'p';
    uint64_t deadline_ns = fibres_now_ns() + 300;
    bool stopped_before = w->stopped;
    bool fair = w->is->odd == 0 && w->is->late == 0 &&
                (w->is->places == 0 || w->is->places >= CALLERS);
    struct cleat_transfer_options options = {.deadline_ns = deadline_ns,
                                             .mode = CLEAT_TRANSFER_KEEP,
                                             .wait = act == 'w'};
    struct cleat_transfer_summary summary;
    struct cleat_error error;
    enum cleat_status status;

    make_values(own, letters, act == 't', is_get);
    error.text[0] = '\0';
    status = is_get ? cleat_transfer_get(w->service, own->values, KEYS,
                                         &options, &summary, &error)
                    : cleat_transfer_put(w->service, own->values, KEYS,
                                         &options, &summary, &error);
    fibres_note("%c: %s %s", act, cleat_status_name(status),
                status == CLEAT_OK ? "" : error.text);
    fibres_check(!fibres_holds_lock(), "the-lock-is-given-at-the-end");
    fibres_check(fibres_now_ns() <= deadline_ns || fibres_time_ran_ahead(),
                 "nobody-waits-longer-than-it-said");
    fibres_check(!own->stopped || fibres_now_ns() == w->stopped_ns ||
                     fibres_time_ran_ahead(),
                 "who-is-stopped-does-not-wait");
    if (summary.sent) {
        check_batch(own, status, &summary, stopped_before, fair);
        for (uint32_t k = 0; k < KEYS; k++) {
            check_value(own, k, letters + (act == 't' ? 0 : k), is_get);
        }
    } else {
        fibres_check(status == CLEAT_NO_SLOT || status == CLEAT_STATE,
                     "what-is-sound-is-not-refused");
        fibres_check(status != CLEAT_NO_SLOT || !fair ||
                         fibres_time_ran_ahead() || w->stops,
                     "there-is-a-place");
        fibres_check(status != CLEAT_STATE || !w->ready || w->is->unready,
                     "what-is-ready-is-asked");
    }
    take_back(own);
}

static void drain(uint64_t deadline_ns)
{
    struct cleat_error error;
    enum cleat_status status = cleat_transfer_drain(w->service, deadline_ns,
                                                    &error);

    fibres_note("drain: %s", cleat_status_name(status));
    fibres_check(status != CLEAT_DEADLINE || fibres_now_ns() >= deadline_ns,
                 "nobody-is-late-before-its-time");
    fibres_check(status != CLEAT_OK || fibres_now_ns() < deadline_ns ||
                     fibres_time_ran_ahead(),
                 "who-drains-is-woken");
    fibres_check(status == CLEAT_OK || deadline_ns != CLEAT_NEVER,
                 "a-drain-without-a-deadline-ends-it");
}

static void stop(void)
{
    w->stops = true;
    w->stopped_ns = fibres_now_ns();
    cleat_transfer_stop(w->service);
    w->stopped = true;
    fibres_note("stopped");
    for (uint32_t i = 0; i < OWNS; i++) {
        for (uint32_t k = 0; k < w->service->batches_max; k++) {
            const struct transfer_batch *batch = &w->service->batches[k];

            w->own[i].stopped = w->own[i].stopped ||
                                (batch->stopped &&
                                 batch->values == w->own[i].values);
        }
    }
}

static void get_ready(void)
{
    uint64_t deadline_ns = fibres_now_ns() + 300;
    enum cleat_status status = cleat_transfer_service_ready(w->service,
                                                            deadline_ns, NULL);

    fibres_note("ready: %s", cleat_status_name(status));
    fibres_check(status != CLEAT_OK || w->ready, "ready-is-what-was-ready");
    fibres_check(fibres_now_ns() <= deadline_ns || fibres_time_ran_ahead(),
                 "nobody-waits-longer-than-it-said");
    fibres_check(status != CLEAT_CANCELLED || w->stops, "only-a-stop-cancels");
}

/* The last one looks whether all has come to rest. */
static void end(void)
{
    uint32_t calls;
    uint32_t stuck;

    drain(CLEAT_NEVER);
    cleat_transfer_service_count(w->service, &calls, &stuck);
    fibres_check(calls == 0 && stuck == 0 && w->in_store == 0,
                 "after-a-drain-nothing-is-under-way");
    for (uint32_t i = 0; i < PIECES; i++) {
        fibres_check(w->pieces[i].start == NULL, "what-is-lent-is-taken-back");
    }
    /* What a late get has written was said to have failed. */
    for (uint32_t i = 0; i < OWNS; i++) {
        for (uint32_t k = 0; k < KEYS; k++) {
            const unsigned char *payload = w->own[i].payload[k];

            fibres_check(!w->own[i].may_touch[k] || !w->own[i].is_get ||
                             is_filled(payload, 0x11) || is_filled(payload, 0),
                         "a-failed-get-leaves-nothing");
            w->own[i].may_touch[k] = false;
        }
    }
    for (uint32_t i = 0; i < w->service->batches_max; i++) {
        fibres_check(w->service->batches[i].holders == 0 &&
                         !w->service->batches[i].waited_at,
                     "every-place-is-given-back");
    }
    fibres_check(w->service->starving == 0 && w->service->outlived == 0,
                 "every-place-is-given-back");
    w->port.closing = true;
}

static void caller_fibre(void *number)
{
    uint32_t caller = (uint32_t)(uintptr_t)number;
    const char *act = w->is->acts[caller];

    for (uint32_t i = 0; *act != '\0'; act++, i++) {
        if (*act == 's') {
            stop();
        } else if (*act == 'd') {
            drain(fibres_now_ns() + 1000);
        } else if (*act == 'r') {
            get_ready();
        } else {
            batch(caller, &w->own[3 * caller + i % 3], *act);
        }
    }
    if (--w->left == 0) { end(); }
}

/* ---- the body ------------------------------------------------------------ */

static void begin_service(struct choose *c, const struct model_case *is,
                          uint32_t callers)
{
    static const struct cleat_retry_policy policy = {
        .base_ns = 10, .attempts_max = 3, .jitter = CLEAT_RETRY_JITTER_NONE};
    struct cleat_transfer_service_config config = {
        .batch = {.policy = &policy,
                  .capacity = &policy,
                  .pace_ns = 20,
                  .calls_max = is->calls != 0 ? is->calls : 1,
                  .call_keys_max = is->calls != 0 ? 1 : KEYS},
        .batches_max = is->places != 0 ? is->places : callers,
        .keys_max = KEYS,
        .key_bytes_max = 8};
    struct cleat_store store = {.value_bytes_max = CLEAT_NONE,
                                .call = store_call,
                                .lend = store_lend,
                                .ready = store_ready};
    struct cleat_service_ports ports = {.clock = fibres_clock(),
                                        .threads = fibres_threads()};
    struct cleat_mailbox boxes[CALLERS];
    struct cleat_error error;
    enum cleat_status status;

    for (uint32_t i = 0; i < CALLERS; i++) {
        w->boxes[i].messages_max = 1;
        boxes[i] = fibres_mailbox(&w->boxes[i]);
    }
    status = cleat_transfer_service_init(w->block, sizeof w->block, &config,
                                         &ports, boxes, &store, 1, &w->service,
                                         &error);
    choose_check(c, status == CLEAT_OK, "the service begins");
    if (is->unready) { return; }
    w->ready = true;
    w->service->ready = true;
}

static void body(struct choose *c, const void *arg)
{
    static const char *const names[CALLERS] = {"first", "second", "third"};
    const struct model_case *is = arg;

    memset(w, 0, sizeof *w);
    w->is = is;
    w->odd_left = is->odd;
    w->late_left = is->late;
    w->port.jobs_max = is->jobs != 0 ? is->jobs : FIBRES_JOBS_MAX;
    fibres_begin(c, is->preemptions, &w->port, w, sizeof *w, START_NS);
    for (uint32_t i = 0; i < CALLERS; i++) {
        if (is->acts[i] != NULL) { w->left++; }
    }
    begin_service(c, is, w->left);
    for (uint32_t i = 0; i < (is->workers != 0 ? is->workers : 1u); i++) {
        fibres_add(i == 0 ? "thread" : "other thread", fibres_work, NULL);
    }
    for (uint32_t i = 0; i < CALLERS; i++) {
        if (is->acts[i] == NULL) { continue; }
        fibres_add(names[i], caller_fibre, (void *)(uintptr_t)i);
    }
    if (!fibres_run()) { return; }
    choose_check(c, w->port.lock_owner == 0, "the-lock-is-free-at-the-end");
    choose_mark(c, 0);
}

/* ---- the list ------------------------------------------------------------ */

static const char *const marks[] = {"its end", NULL};

#define CASE(title, slowness, ...)                                      \
    {                                                                   \
        .name = (title), .body = body,                                  \
        .arg = &(const struct model_case){__VA_ARGS__}, .marks = marks, \
        slowness                                                        \
    }
#define SLOW .slow = true
#define QUICK .slow = false

/* clang-format off */
static const struct choose_test tests[] = {
    CASE("one-batch-after-the-other", QUICK,
         .acts = {"ptg"}, .preemptions = 2, .calls = 2),
    CASE("two-batches-at-once", QUICK,
         .acts = {"p", "p"}, .preemptions = 2),
    CASE("two-batches-at-once-of-two-calls-each", SLOW,
         .acts = {"p", "p"}, .preemptions = 2, .calls = 2),
    CASE("two-batches-and-one-job-at-a-time", QUICK,
         .acts = {"p", "p"}, .preemptions = 2, .jobs = 1),
    CASE("two-batches-and-one-place", QUICK,
         .acts = {"p", "p"}, .preemptions = 2, .places = 1),
    CASE("a-consumer-and-its-producer", QUICK,
         .acts = {"p", "w"}, .preemptions = 2),
    CASE("two-results-are-odd", QUICK,
         .acts = {"pg"}, .preemptions = 1, .odd = 2, .calls = 2),
    CASE("a-stop-at-any-moment", QUICK,
         .acts = {"p", "s"}, .preemptions = 2, .calls = 2),
    CASE("a-stop-of-two-batches-at-any-moment", SLOW,
         .acts = {"p", "p", "s"}, .preemptions = 2),
    CASE("a-stop-and-a-call-that-stands-still", QUICK,
         .acts = {"pg", "s"}, .preemptions = 2, .late = 1),
    CASE("a-late-call", QUICK,
         .acts = {"pg"}, .preemptions = 2, .late = 1),
    CASE("a-late-call-beside-another-batch", SLOW,
         .acts = {"pg", "p"}, .preemptions = 2, .late = 1),
    CASE("a-late-call-beside-another-batch-and-a-second-thread", SLOW,
         .acts = {"g", "p"}, .preemptions = 2, .late = 1, .workers = 2),
    CASE("a-late-call-and-one-that-no-thread-has-begun", QUICK,
         .acts = {"pg"}, .preemptions = 2, .late = 2, .calls = 2),
    CASE("two-drain-what-is-late", QUICK,
         .acts = {"pd", "dp"}, .preemptions = 2, .late = 1),
    CASE("a-drain-beside-another-batch", SLOW,
         .acts = {"pd", "wp"}, .preemptions = 1, .late = 1, .workers = 2),
    CASE("ready-at-any-moment", SLOW,
         .acts = {"rp", "rp"}, .preemptions = 1, .odd = 1, .unready = true),
    CASE("ready-late-and-stopped", QUICK,
         .acts = {"rp", "s"}, .preemptions = 2, .late = 1, .unready = true),
};
/* clang-format on */

int main(int argc, char **argv)
{
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
