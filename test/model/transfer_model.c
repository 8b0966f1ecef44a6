/* Cleat: transfer against its invariants. SPDX-License-Identifier: Apache-2.0
 *
 * Three keys, two calls at once, and a store beside the machine that really
 * holds values. It may mask "exists" as success and keep the old bytes, keep a
 * key whose writer was lost as "in progress", answer for some keys only, late,
 * short or corrupt, lose a value or get one from somebody else. What it holds
 * and what has really been read is what the machine is held to. Every fault is
 * also followed by a calm: from there on nothing goes wrong, and all that has
 * not ended must end well within a bound. */
#include "choose.h"
#include "cleat/transfer.h"
#include "faults.h"

#define SECONDS(n) ((n)*CLEAT_NS_PER_S)

enum {
    KEYS = 3,
    CALLS = 2,
    CALL_KEYS = 2,
    BUFFERS = 1000, /* the first key's buffer */
    COST = 10,
    COST_FULL = 5,
    GAIN = 1,
    STATE_ENDED = 3 /* of the machine: in no list */
};

enum { ABSENT, THERE, IN_PROGRESS };
enum { OURS, OTHERS };
enum { NOTHING_READ, READ_RIGHT, READ_WRONG };

enum mark {
    MARK_OK,
    MARK_AGAIN,
    MARK_EXHAUSTED,
    MARK_DEADLINE,
    MARK_CANCELLED,
    MARK_PERMANENT,
    MARK_LENT
};

static const char *const marks[] = {"every key ok",
                                    "a key goes out again",
                                    "no attempt left",
                                    "the time is up",
                                    "cancelled",
                                    "a permanent failure",
                                    "a call comes back late",
                                    NULL};

struct bounds {
    uint32_t kind;
    uint32_t mode;
    uint32_t verify;
    uint32_t sized;
    uint32_t wait;
    uint32_t attempts_max;
    uint64_t begins_ns;
    uint64_t deadline_ns;
    uint8_t faults;
    uint8_t cancels;
    uint8_t masks;    /* a put of what is there says ok */
    uint8_t hides;    /* what is in progress is said not to be there */
    uint8_t held;     /* the store holds OTHERS' values, of that state */
    uint8_t bytes;    /* of each value */
    uint8_t meddlers; /* others put values of another size, or of other bytes */
    uint8_t evicts;
    uint8_t poor; /* the budget is for one retry */
};

/* What the store holds by a key. */
struct value {
    uint64_t until_ns; /* in progress: a put takes it over from then on */
    uint8_t state;
    uint8_t whose;
    uint8_t bytes;
};

/* A key, as it really is. */
struct track {
    struct value value;
    int16_t permanent;  /* that was told of it */
    int16_t reported;   /* the first report that was not PENDING */
    uint8_t under_way;  /* in a call */
    uint8_t sent;       /* its bytes have been out: how often, 2 at most */
    uint8_t owes;       /* its bytes are not known to have arrived */
    uint8_t looked;     /* since its last put it was seen as it should be */
    uint8_t failed_put; /* a put has failed */
    uint8_t lied;       /* it was told "without effect", and had one */
    uint8_t meddled;    /* somebody else's value has come, or ours was lost */
    uint8_t held_before;
    uint8_t read;
    uint8_t read_bytes;
};

struct world {
    _Alignas(64) unsigned char block[CLEAT_TRANSFER_BYTES(KEYS)];
    struct track keys[KEYS];
    struct cleat_retry_budget budget;
    const struct bounds *bounds;
    uint64_t now_ns;
    uint64_t again_bytes;
    uint8_t faults_left;
    uint8_t cancels_left;
    uint8_t gone;
    uint8_t calm; /* nothing goes wrong any more */
};

static const uint64_t discard_ns = SECONDS(4);
static const uint64_t pace_ns = SECONDS(2);

static struct cleat_transfer *machine(struct world *w)
{
    return (struct cleat_transfer *)(void *)w->block;
}

static const struct cleat_transfer_key *inside(const struct world *w,
                                               uint32_t key)
{
    return (const struct cleat_transfer_key
                *)(const void *)(w->block + sizeof(struct cleat_transfer)) +
           key;
}

static enum cleat_status status_of(struct world *w)
{
    return cleat_transfer_status(machine(w), NULL);
}

static uint64_t ends_ns(const struct world *w)
{
    return cleat_time_add(w->bounds->begins_ns, w->bounds->deadline_ns);
}

static void init(void *state, const void *arg)
{
    static const struct cleat_retry_policy policy = {
        SECONDS(1), SECONDS(2), 0, 0, 0, 0, 3, 2000, CLEAT_RETRY_JITTER_NONE,
        0};
    struct cleat_retry_policy policies[2] = {policy, policy};
    struct world *w = state;
    const struct bounds *b = arg;
    struct cleat_transfer_config config;
    struct cleat_transfer *made;

    w->bounds = b;
    w->now_ns = b->begins_ns;
    w->faults_left = b->faults;
    w->cancels_left = b->cancels;
    w->budget.tokens_max = b->poor ? COST : 1000;
    w->budget.tokens = w->budget.tokens_max;
    w->budget.cost = COST_FULL;
    w->budget.cost_transient = COST;
    w->budget.gain = GAIN;
    policies[0].attempts_max = policies[1].attempts_max = b->attempts_max;
    memset(&config, 0, sizeof config);
    config.policy = &policies[0];
    config.capacity = &policies[1];
    config.deadline_ns = b->deadline_ns;
    config.discard_ns = discard_ns;
    config.pace_ns = pace_ns;
    config.call_keys_max = CALL_KEYS;
    config.calls_max = CALLS;
    config.rereads_max = 1;
    config.keys_count = KEYS;
    config.kind = b->kind;
    config.mode = b->mode;
    config.verify = b->verify;
    config.sized = b->sized;
    config.wait = b->wait;
    if (cleat_transfer_begin(w->block, sizeof w->block, &config, w->now_ns,
                             &made, NULL) != CLEAT_OK) {
        cleat_test_assert_failed("begin", __FILE__, __LINE__);
    }
    for (uint32_t key = 0; key < KEYS; key++) {
        struct track *k = &w->keys[key];
        /* Of a get: the buffer has room for one byte more. */
        cleat_transfer_set(made, key, BUFFERS + key,
                           (uint64_t)b->bytes + (b->sized ? 1 : 0));
        k->owes = 1;
        k->reported = CLEAT_PENDING;
        k->value.state = b->held;
        k->value.whose = OTHERS;
        k->value.bytes = b->bytes;
        k->held_before = b->held == THERE;
        if (b->held == IN_PROGRESS) {
            k->value.until_ns = cleat_time_add(w->now_ns, discard_ns);
        }
    }
}

/* --- the store ----------------------------------------------------------- */

static bool is_taken(const struct world *w, const struct value *v)
{
    return v->state == THERE ||
           (v->state == IN_PROGRESS && v->until_ns > w->now_ns);
}

static enum cleat_status not_readable(const struct world *w,
                                      const struct value *v)
{
    return v->state == ABSENT || w->bounds->hides ? CLEAT_NOT_FOUND
                                                  : CLEAT_UNREADABLE;
}

/* What an operation comes to where nothing goes wrong; and does it. */
static enum cleat_status perform(struct world *w, uint32_t key, uint32_t what,
                                 bool effect)
{
    struct value *v = &w->keys[key].value;

    if (w->gone) { return CLEAT_PEER_LOST; }
    switch (what) {
    case CLEAT_TRANSFER_DO_PUT:
        if (is_taken(w, v)) {
            return w->bounds->masks    ? CLEAT_OK
                   : v->state == THERE ? CLEAT_EXISTS
                                       : CLEAT_UNREADABLE;
        }
        if (effect) { *v = (struct value){0, THERE, OURS, w->bounds->bytes}; }
        return CLEAT_OK;
    case CLEAT_TRANSFER_DO_REMOVE:
        if (v->state == IN_PROGRESS) { return CLEAT_UNREADABLE; }
        if (v->state == ABSENT) { return CLEAT_NOT_FOUND; }
        if (effect) { v->state = ABSENT; }
        return CLEAT_OK;
    default: break;
    }
    if (v->state != THERE) { return not_readable(w, v); }
    if (what == CLEAT_TRANSFER_DO_COMPARE && v->whose != OURS) {
        return v->bytes == w->bounds->bytes ? CLEAT_CORRUPT : CLEAT_SHORT;
    }
    return CLEAT_OK;
}

/* A writer is lost on its way: its key stays in progress. */
static void leave_in_progress(struct world *w, uint32_t key)
{
    struct value *v = &w->keys[key].value;

    if (w->gone || is_taken(w, v)) { return; }
    v->state = IN_PROGRESS;
    v->until_ns = cleat_time_add(w->now_ns, discard_ns);
}

/* --- what the machine asks for -------------------------------------------- */

static const char *operation_name(uint32_t what)
{
    static const char *const names[] = {"put",    "get",    "compare",
                                        "remove", "exists", "size"};
    return names[what];
}

static void check_sent(struct choose *c, struct world *w, uint32_t key,
                       uint32_t what)
{
    struct track *k = &w->keys[key];
    uint64_t bytes = cleat_transfer_key_bytes(machine(w), key);

    choose_check(c, cleat_transfer_buffer(machine(w), key) == BUFFERS + key,
                 "same-buffer-every-time");
    choose_check(c, !k->under_way, "never-hedges-a-put");
    choose_check(c, k->reported == CLEAT_PENDING,
                 "only-failed-keys-are-resent");
    choose_check(c, k->permanent == 0, "permanent-not-retried");
    choose_check(c,
                 what != CLEAT_TRANSFER_DO_REMOVE ||
                     w->bounds->kind == CLEAT_TRANSFER_REMOVE ||
                     w->bounds->mode == CLEAT_TRANSFER_REPLACE,
                 "only a replace removes");
    k->under_way = 1;
    if (what > CLEAT_TRANSFER_DO_GET) { return; }
    choose_check(c, k->owes, "only-failed-keys-are-resent");
    choose_check(c, w->bounds->sized || bytes == w->bounds->bytes,
                 "a call asks for the bytes that were told");
    if (k->sent > 0) {
        choose_mark(c, MARK_AGAIN);
        w->again_bytes += bytes;
    }
    k->sent = k->sent > 0 ? 2 : 1;
    k->looked = 0;
    k->read = NOTHING_READ;
}

static void take_commands(struct choose *c, struct world *w)
{
    struct cleat_transfer_command command;

    while (cleat_transfer_next(machine(w), &command)) {
        uint64_t bytes = 0;
        uint32_t count = 0;

        choose_check(c, command.call < CALLS, "two calls in flight");
        for (uint32_t key = cleat_transfer_first(machine(w), command.call);
             key != CLEAT_TRANSFER_NOBODY;
             key = cleat_transfer_next_key(machine(w), key)) {
            choose_note(c, "  call %u: %s %u", command.call,
                        operation_name(command.operation), key);
            bytes += cleat_transfer_key_bytes(machine(w), key);
            count++;
            check_sent(c, w, key, command.operation);
        }
        choose_check(c,
                     count == command.keys && count > 0 && count <= CALL_KEYS,
                     "a call has some keys, and no more than it may");
        choose_check(
            c,
            command.bytes ==
                (command.operation <= CLEAT_TRANSFER_DO_COMPARE ? bytes : 0),
            "a call says how many bytes move");
    }
    choose_check(c,
                 cleat_transfer_count(machine(w)).bytes_again == w->again_bytes,
                 "the bytes resent are exactly the failed keys'");
}

/* --- its reports ---------------------------------------------------------- */

/* A key is ok now: then it is so in the store, and where it was read. */
static void check_ok(struct choose *c, struct world *w, uint32_t key,
                     const struct cleat_transfer_report *report)
{
    const struct bounds *b = w->bounds;
    const struct track *k = &w->keys[key];
    bool readable = k->value.state == THERE;

    switch (b->kind) {
    case CLEAT_TRANSFER_PUT:
        choose_check(c, readable, "size-and-digest-match-before-ok");
        choose_check(
            c,
            b->mode == CLEAT_TRANSFER_KEEP ||
                (k->value.bytes == b->bytes && (k->value.whose == OURS)),
            "size-and-digest-match-before-ok");
        choose_check(c, (k->sent == 1 && !k->failed_put) || k->looked,
                     "a-retried-put-is-seen-before-it-is-ok");
        choose_check(c, b->verify == CLEAT_TRANSFER_VERIFY_RETRIED || k->looked,
                     "a put is looked at where that was asked");
        choose_check(c, report->bytes == b->bytes, "the report tells bytes");
        break;
    case CLEAT_TRANSFER_GET:
        choose_check(c, k->read == READ_RIGHT,
                     "size-and-digest-match-before-ok");
        choose_check(c, report->bytes == k->read_bytes,
                     "empty-missing-failed-differ");
        break;
    case CLEAT_TRANSFER_REMOVE:
        choose_check(c, k->value.state == ABSENT, "what was removed is gone");
        break;
    default:
        choose_check(c, (report->bytes == 1) == readable,
                     "it is said to exist when it can be read");
        break;
    }
}

/* A key has failed. */
static void check_failed(struct choose *c, struct world *w, uint32_t key,
                         const struct cleat_transfer_report *report)
{
    struct track *k = &w->keys[key];

    if (k->permanent != 0) {
        choose_check(c, report->status == k->permanent,
                     "permanent-not-retried");
        choose_mark(c, MARK_PERMANENT);
    }
    if (report->status == CLEAT_NOT_FOUND) {
        choose_check(c, k->value.state != THERE && !w->bounds->wait,
                     "empty-missing-failed-differ");
    }
    if (report->status == CLEAT_EXISTS) {
        choose_check(c, k->value.state == THERE,
                     "it exists when it is said to");
    }
    choose_check(c, report->bytes == 0, "what has failed has no bytes");
}

static void check_reports(struct choose *c, struct world *w)
{
    struct cleat_transfer_totals totals = cleat_transfer_count(machine(w));
    uint32_t ok = 0;
    uint32_t unknown = 0;
    uint32_t ended = 0;
    uint32_t lent = 0;

    for (uint32_t key = 0; key < KEYS; key++) {
        struct track *k = &w->keys[key];
        struct cleat_transfer_report report;

        cleat_transfer_look(machine(w), key, &report);
        choose_check(c, report.attempts <= w->bounds->attempts_max,
                     "no more attempts than the policy has");
        choose_check(
            c, report.lent == (k->under_way && report.status != CLEAT_PENDING),
            "a-lent-buffer-is-not-returned");
        if (k->permanent != 0) {
            choose_check(c, report.status != CLEAT_PENDING,
                         "permanent-not-retried");
        }
        if (report.status != k->reported) {
            choose_check(c, k->reported == CLEAT_PENDING,
                         "what has been reported stays so");
            k->reported = (int16_t)report.status;
            choose_note(c, "  %u ends: %s%s", key,
                        cleat_status_name(report.status),
                        report.unknown ? ", unknown" : "");
            if (report.status == CLEAT_OK) {
                check_ok(c, w, key, &report);
            } else {
                check_failed(c, w, key, &report);
            }
        }
        ok += report.status == CLEAT_OK;
        ended += report.status != CLEAT_PENDING;
        unknown += report.unknown;
        lent += report.lent;
    }
    choose_check(c,
                 totals.ok == ok && totals.unknown == unknown &&
                     totals.failed == ended - ok - unknown &&
                     totals.lent == lent,
                 "every-key-is-reported");
    choose_check(c, (status_of(w) == CLEAT_PENDING) == (ended < KEYS),
                 "every-key-is-reported");
    choose_check(c, (status_of(w) == CLEAT_OK) == (ok == KEYS),
                 "every-key-is-reported");
    choose_check(
        c, cleat_transfer_drained(machine(w)) == (ended == KEYS && lent == 0),
        "a-lent-buffer-is-not-returned");
}

static void check_time(struct choose *c, struct world *w)
{
    uint64_t deadline = cleat_transfer_deadline(machine(w));

    if (status_of(w) != CLEAT_PENDING) {
        choose_check(c, deadline == CLEAT_NEVER,
                     "nothing is due after the end");
        return;
    }
    choose_check(c, w->now_ns < ends_ns(w),
                 "a batch ends at its deadline at the latest");
    choose_check(c, deadline > w->now_ns && deadline <= ends_ns(w),
                 "every deadline that has come has been applied");
}

/* It is over, and nothing is lent: what was said to have failed without effect
 * has had none. */
static void check_end(struct choose *c, struct world *w)
{
    uint32_t whose = CLEAT_TRANSFER_NOBODY;
    enum cleat_status status = cleat_transfer_status(machine(w), &whose);

    for (uint32_t key = 0; key < KEYS; key++) {
        struct track *k = &w->keys[key];
        struct cleat_transfer_report report;
        bool changed = k->value.state == THERE && k->value.whose == OURS;

        cleat_transfer_look(machine(w), key, &report);
        if (report.status == CLEAT_OK) { continue; }
        if (k->held_before && k->value.state == ABSENT && !w->bounds->evicts) {
            changed = true;
        }
        choose_check(c, !changed || report.unknown || k->lied,
                     "what failed and is not unknown has had no effect");
        choose_check(c,
                     !report.unknown || w->bounds->kind == CLEAT_TRANSFER_PUT ||
                         w->bounds->kind == CLEAT_TRANSFER_REMOVE,
                     "only what changes something can be unknown");
    }
    if (status == CLEAT_OK) {
        choose_mark(c, MARK_OK);
    } else {
        choose_check(c, whose < KEYS && w->keys[whose].reported == status,
                     "the batch fails as its first key did");
    }
}

/* --- results -------------------------------------------------------------- */

/* What the result of an operation says about the key's bytes. */
static void note_result(struct world *w, uint32_t key, uint32_t what,
                        enum cleat_status status)
{
    struct track *k = &w->keys[key];

    switch (what) {
    case CLEAT_TRANSFER_DO_PUT:
        k->owes = status != CLEAT_OK;
        k->failed_put |= status != CLEAT_OK;
        break;
    case CLEAT_TRANSFER_DO_GET: k->owes = k->read != READ_RIGHT; break;
    case CLEAT_TRANSFER_DO_SIZE:
    case CLEAT_TRANSFER_DO_COMPARE:
        if (w->bounds->kind == CLEAT_TRANSFER_GET) { break; }
        if (status == CLEAT_OK && (w->bounds->mode == CLEAT_TRANSFER_KEEP ||
                                   k->value.bytes == w->bounds->bytes)) {
            k->looked = 1;
        } else {
            k->owes = 1;
        }
        break;
    default: break;
    }
    if (cleat_status_class(status) == CLEAT_CLASS_PERMANENT &&
        status != CLEAT_NOT_FOUND && status != CLEAT_EXISTS) {
        k->permanent = (int16_t)status;
    }
}

/* A get has been carried out, and says that: what is in the buffer now. */
static void read_into(struct world *w, uint32_t key, enum cleat_status status,
                      bool damaged, uint64_t *bytes)
{
    struct track *k = &w->keys[key];
    uint64_t asked = cleat_transfer_key_bytes(machine(w), key);

    *bytes = k->value.bytes;
    if (damaged) { *bytes = asked > 0 ? asked - 1 : asked + 1; }
    k->read = status == CLEAT_OK && *bytes == asked ? READ_RIGHT : READ_WRONG;
    k->read_bytes = (uint8_t)*bytes;
}

/* Carries one key's operation out, by a row of the table, and tells. */
static void answer(struct choose *c, struct world *w, uint32_t call,
                   uint32_t key, uint32_t what)
{
    bool reads = what == CLEAT_TRANSFER_DO_GET ||
                 what == CLEAT_TRANSFER_DO_COMPARE;
    uint8_t none = 0;
    /* When a call returns, late or never, is the model's move, not a row's. */
    const struct choose_fault *row = choose_fault_pick(
        c,
        FAULT_LATE | FAULT_OVERTAKEN | FAULT_STOPPED |
            (reads ? 0 : FAULT_PAYLOAD),
        w->calm ? &none : &w->faults_left);
    bool effect = (row->flags & FAULT_EFFECT) != 0;
    bool told = (row->flags & (FAULT_ANSWERS | FAULT_NOTICE)) != 0;
    bool unclear = !told ||
                   cleat_status_class(row->status) == CLEAT_CLASS_AMBIGUOUS;
    uint64_t bytes = 0;
    enum cleat_status status;

    if (effect && unclear && what == CLEAT_TRANSFER_DO_PUT &&
        choose(c, 2) == 1) {
        effect = false;
        leave_in_progress(w, key);
        choose_note(c, "  … and %u stays in progress", key);
    }
    status = perform(w, key, what, effect);
    if (row->status != CLEAT_OK && status != CLEAT_PEER_LOST) {
        if (effect && !unclear && row->status != CLEAT_OK) {
            w->keys[key].lied = 1;
        }
        /* A short read is told as success, of fewer bytes. */
        if ((row->flags & FAULT_DAMAGED) == 0 || row->status != CLEAT_SHORT ||
            what != CLEAT_TRANSFER_DO_GET || status != CLEAT_OK) {
            status = row->status;
        }
    }
    if (what == CLEAT_TRANSFER_DO_SIZE && status == CLEAT_OK) {
        bytes = w->keys[key].value.bytes;
    }
    if (what == CLEAT_TRANSFER_DO_GET) {
        read_into(w, key, status, (row->flags & FAULT_DAMAGED) != 0, &bytes);
    }
    if ((row->flags & FAULT_GONE) != 0) { w->gone = 1; }
    if (!told) { status = CLEAT_AMBIGUOUS; }
    if (status_of(w) == CLEAT_PENDING) { note_result(w, key, what, status); }
    for (int i = (row->flags & FAULT_TWICE) != 0 ? 2 : 1; told && i > 0; i--) {
        choose_note(c, "  %s %u: %s, %u bytes", operation_name(what), key,
                    cleat_status_name(status), (unsigned)bytes);
        choose_check(c,
                     cleat_transfer_told(machine(w), call, key, status, -1,
                                         bytes) == CLEAT_OK,
                     "a result is taken");
    }
}

/* What the budget may do while a call returns. */
static void check_budget(struct choose *c, struct world *w, uint32_t before,
                         uint32_t rounds_before)
{
    uint32_t after = w->budget.tokens;
    uint32_t rounds = cleat_transfer_count(machine(w)).rounds - rounds_before;

    choose_check(c, rounds <= 1, "one-charge-a-round");
    if (rounds == 1) {
        choose_check(c, before - after == COST || before - after == COST_FULL,
                     "one-charge-a-round");
    } else {
        choose_check(c,
                     after == before || after - before == GAIN ||
                         after - before == COST ||
                         after - before == COST_FULL ||
                         after == w->budget.tokens_max,
                     "what was taken is given back, and no more");
    }
}

/* A call has been carried out, now, and returns. */
static void give_result(struct choose *c, struct world *w, uint32_t call)
{
    struct cleat_transfer *t = machine(w);
    uint32_t keys[CALL_KEYS];
    uint32_t count = 0;
    uint32_t tokens = w->budget.tokens;
    uint32_t rounds = cleat_transfer_count(t).rounds;

    for (uint32_t key = cleat_transfer_first(t, call);
         key != CLEAT_TRANSFER_NOBODY; key = cleat_transfer_next_key(t, key)) {
        keys[count++] = key;
    }
    /* It may come together with the deadline. */
    if (!w->calm && status_of(w) == CLEAT_PENDING && choose(c, 2) == 1) {
        w->now_ns = cleat_transfer_deadline(t);
    }
    choose_note(c, "at %llu: call %u returns", (unsigned long long)w->now_ns,
                call);
    for (uint32_t i = 0; i < count; i++) {
        answer(c, w, call, keys[i], inside(w, keys[i])->operation);
    }
    if (status_of(w) != CLEAT_PENDING) { choose_mark(c, MARK_LENT); }
    choose_check(c,
                 cleat_transfer_returned(t, w->now_ns, call, &w->budget,
                                         CLEAT_NONE, 0) == CLEAT_OK,
                 "a call returns");
    for (uint32_t i = 0; i < count; i++) { w->keys[keys[i]].under_way = 0; }
    if (w->now_ns >= ends_ns(w)) { /* it was late */
        for (uint32_t i = 0; i < count; i++) { w->keys[keys[i]].permanent = 0; }
    }
    check_budget(c, w, tokens, rounds);
    choose_check(c,
                 cleat_transfer_returned(t, w->now_ns, call, NULL, CLEAT_NONE,
                                         0) == CLEAT_INVALID,
                 "a call returns once");
}

/* --- calm ----------------------------------------------------------------- */

/* Two waits of the policy, the time for which something may stay unreadable,
 * and two looks. */
static uint64_t calm_bound_ns(const struct world *w)
{
    (void)w;
    return SECONDS(2) + SECONDS(2) + discard_ns + 2 * pace_ns;
}

/* From here on nothing goes wrong: what has not ended, ends well. */
static void check_calm(struct choose *c, const struct world *from)
{
    static struct world calm;
    struct world *w = &calm;
    uint64_t until_ns;
    uint32_t events = 0;

    *w = *from;
    w->calm = 1;
    until_ns = cleat_time_add(w->now_ns, calm_bound_ns(w));
    choose_note(c, "  … calm from here on:");
    while (status_of(w) == CLEAT_PENDING) {
        bool returned = false;

        choose_check(c, events++ < 100, "in a calm it comes to rest");
        take_commands(c, w);
        for (uint32_t call = 0; call < CALLS && !returned; call++) {
            if (cleat_transfer_first(machine(w), call) !=
                CLEAT_TRANSFER_NOBODY) {
                give_result(c, w, call);
                check_reports(c, w);
                returned = true;
            }
        }
        if (!returned && status_of(w) == CLEAT_PENDING) {
            w->now_ns = cleat_transfer_deadline(machine(w));
            choose_check(c, w->now_ns <= until_ns || w->now_ns == ends_ns(w),
                         "in a calm it comes to rest within its bound");
            (void)cleat_transfer_tick(machine(w), w->now_ns);
            if (w->now_ns < ends_ns(w)) { check_reports(c, w); }
        }
    }
    for (uint32_t key = 0; key < KEYS && !w->gone; key++) {
        const struct track *k = &w->keys[key];
        struct cleat_transfer_report report;

        cleat_transfer_look(machine(w), key, &report);
        if (from->keys[key].reported != CLEAT_PENDING ||
            w->now_ns >= ends_ns(w) || k->meddled || k->lied) {
            continue;
        }
        choose_check(
            c,
            report.status == CLEAT_OK ||
                (report.status == CLEAT_EXISTS && w->bounds->held == THERE) ||
                (report.status == CLEAT_NOT_FOUND &&
                 k->value.state == ABSENT) ||
                (report.status == CLEAT_UNREADABLE &&
                 w->bounds->kind != CLEAT_TRANSFER_PUT &&
                 k->value.state == IN_PROGRESS),
            "in a calm everything ends well");
    }
}

/* --- moves ---------------------------------------------------------------- */

enum { RETURN, TIME, CANCEL, EVICT, MEDDLE };

struct move {
    uint8_t what;
    uint8_t which;
};

static uint32_t legal_moves(struct world *w, struct move *moves)
{
    uint32_t count = 0;

    for (uint8_t call = 0; call < CALLS; call++) {
        if (cleat_transfer_first(machine(w), call) != CLEAT_TRANSFER_NOBODY) {
            moves[count++] = (struct move){RETURN, call};
        }
    }
    if (status_of(w) != CLEAT_PENDING) { return count; }
    moves[count++] = (struct move){TIME, 0};
    if (w->cancels_left > 0) { moves[count++] = (struct move){CANCEL, 0}; }
    for (uint8_t key = 0; key < KEYS && w->faults_left > 0; key++) {
        if (w->bounds->evicts && w->keys[key].value.state == THERE &&
            w->keys[key].reported == CLEAT_PENDING) {
            moves[count++] = (struct move){EVICT, key};
        }
        if (w->bounds->meddlers && w->keys[key].reported == CLEAT_PENDING &&
            !is_taken(w, &w->keys[key].value)) {
            moves[count++] = (struct move){MEDDLE, key};
        }
    }
    return count;
}

static void pass_time(struct choose *c, struct world *w)
{
    w->now_ns = cleat_transfer_deadline(machine(w));
    if (choose(c, 2) == 1) {
        w->now_ns = cleat_time_add(w->now_ns, SECONDS(1));
    }
    choose_note(c, "at %llu: tick", (unsigned long long)w->now_ns);
    choose_check(c, cleat_transfer_tick(machine(w), w->now_ns) == CLEAT_OK,
                 "a tick is taken");
    choose_check(c,
                 cleat_transfer_tick(machine(w), w->now_ns - 1) ==
                     CLEAT_TIME_BACKWARDS,
                 "time that goes back is refused");
    if (status_of(w) == CLEAT_PENDING) { return; }
    choose_mark(c, MARK_DEADLINE);
    choose_check(c, w->now_ns >= ends_ns(w),
                 "time alone ends a batch at its deadline");
}

static void cancel(struct choose *c, struct world *w)
{
    w->cancels_left--;
    choose_note(c, "at %llu: cancel", (unsigned long long)w->now_ns);
    choose_check(c, cleat_transfer_cancel(machine(w), w->now_ns) == CLEAT_OK,
                 "a cancel is taken");
    choose_check(c, status_of(w) != CLEAT_PENDING, "a cancel ends it at once");
    choose_check(c, cleat_transfer_cancel(machine(w), w->now_ns) == CLEAT_STATE,
                 "a batch ends once");
    choose_mark(c, MARK_CANCELLED);
}

/* Somebody else puts a value of his: of another size, or of other bytes. */
static void meddle(struct choose *c, struct world *w, uint32_t key)
{
    struct track *k = &w->keys[key];

    w->faults_left--;
    k->meddled = 1;
    k->value = (struct value){0, THERE, OTHERS, w->bounds->bytes};
    if (choose(c, 2) == 1) { k->value.bytes++; }
    choose_note(c, "somebody puts %u, of %u bytes", key, k->value.bytes);
}

static void make(struct choose *c, struct world *w, struct move move)
{
    switch (move.what) {
    case RETURN: give_result(c, w, move.which); break;
    case TIME: pass_time(c, w); break;
    case CANCEL: cancel(c, w); break;
    case EVICT:
        w->faults_left--;
        w->keys[move.which].value.state = ABSENT;
        w->keys[move.which].meddled = 1;
        choose_note(c, "the store loses %u", move.which);
        break;
    default: meddle(c, w, move.which); break;
    }
}

static bool step(struct choose *c, void *state)
{
    struct world *w = state;
    struct move moves[CALLS + 2 + 2 * KEYS];
    uint8_t faults = w->faults_left;

    take_commands(c, w);
    check_time(c, w);
    if (cleat_transfer_drained(machine(w))) {
        check_end(c, w);
        return false;
    }
    make(c, w, moves[choose_any(c, legal_moves(w, moves))]);
    check_reports(c, w);
    check_time(c, w);
    if (faults != w->faults_left && status_of(w) == CLEAT_PENDING) {
        check_calm(c, w);
    }
    for (uint32_t key = 0; key < KEYS; key++) {
        if (w->keys[key].reported == CLEAT_TRANSIENT) {
            choose_mark(c, MARK_EXHAUSTED);
        }
    }
    return true;
}

/* --- the projection ------------------------------------------------------- */

enum { PART_BYTES = 4 + 2 + 2 + 8 + 8 + 8 + 8 + 4 + 14 };

static void put_key(unsigned char *at, const struct world *w, uint32_t key)
{
    const struct cleat_transfer_key *m = inside(w, key);
    const struct track *k = &w->keys[key];
    bool over = m->state >= STATE_ENDED;

    at = choose_put_u8(at, m->state);
    at = choose_put_u8(at, over ? 0 : m->operation);
    at = choose_put_u8(at, over ? m->flags & 1 : m->flags);
    at = choose_put_u8(at, over ? 0 : m->attempts);
    at = choose_put(at, &k->reported, 2);
    at = choose_put(at, &k->permanent, 2);
    at = choose_put_u64(at, over ? 0 : m->delay_ns);
    at = choose_put_time(at, over ? 0 : m->unseen_until_ns, w->now_ns);
    /* A value of unseen_until_ns that is no time: the last look. */
    at = choose_put_u64(at, over ? 0 : m->unseen_until_ns <= 1);
    at = choose_put_time(at, k->value.until_ns, w->now_ns);
    at = choose_put_u8(at, k->value.state);
    at = choose_put_u8(at, k->value.whose);
    at = choose_put_u8(at, k->value.bytes);
    at = choose_put_u8(at, m->unseen_until_ns == 0);
    at = choose_put_u8(at, k->under_way);
    at = choose_put_u8(at, k->sent);
    at = choose_put_u8(at, k->owes);
    at = choose_put_u8(at, k->looked);
    at = choose_put_u8(at, k->failed_put);
    at = choose_put_u8(at, k->lied);
    at = choose_put_u8(at, k->meddled);
    at = choose_put_u8(at, k->held_before);
    at = choose_put_u8(at, k->read);
    at = choose_put_u8(at, k->read_bytes);
    at = choose_put_u32(at, !over && w->bounds->sized &&
                                    m->operation == CLEAT_TRANSFER_DO_GET
                                ? (uint32_t)m->seen.bytes
                                : 0);
    (void)at;
}

static unsigned char *put_chain(unsigned char *at, const struct world *w,
                                uint32_t key)
{
    for (; key != CLEAT_TRANSFER_NOBODY; key = inside(w, key)->link) {
        put_key(at, w, key);
        at += PART_BYTES;
    }
    return choose_put_u8(at, 0xFF);
}

/* The keys are alike: they are told list by list, those in none sorted. */
static size_t project(const void *state, void *out)
{
    struct world *w = (struct world *)(uintptr_t)state;
    const struct cleat_transfer *t = machine(w);
    unsigned char parts[KEYS][PART_BYTES];
    unsigned char *at = out;
    uint32_t ended = 0;

    for (uint32_t i = 0; i < CLEAT_TRANSFER_OPERATIONS; i++) {
        at = put_chain(at, w, t->lists.due[i].first);
    }
    for (uint32_t i = 0; i < CALLS; i++) {
        at = put_chain(at, w, t->lists.flying[i].first);
    }
    for (uint32_t g = t->lists.waiting; g != CLEAT_TRANSFER_NOBODY;
         g = inside(w, g)->seen.group.next) {
        at = choose_put_time(at, inside(w, g)->moment_ns, w->now_ns);
        at = put_chain(at, w, g);
    }
    for (uint32_t key = 0; key < KEYS; key++) {
        unsigned char part[PART_BYTES];
        uint32_t k = ended;

        if (inside(w, key)->state != STATE_ENDED) { continue; }
        put_key(part, w, key);
        for (; k > 0 && memcmp(parts[k - 1], part, sizeof part) > 0; k--) {
            memcpy(parts[k], parts[k - 1], sizeof part);
        }
        memcpy(parts[k], part, sizeof part);
        ended++;
    }
    at = choose_put(at, parts, ended * sizeof parts[0]);
    at = choose_put_time(at, ends_ns(w), w->now_ns);
    at = choose_put_u32(at, w->budget.tokens);
    at = choose_put_u32(at, t->taken);
    at = choose_put_u32(at, (uint32_t)t->status);
    at = choose_put_u8(at, w->faults_left);
    at = choose_put_u8(at, w->cancels_left);
    at = choose_put_u8(at, w->gone);
    return (size_t)(at - (unsigned char *)out);
}

/* --- the shapes ----------------------------------------------------------- */

#define COMMON .attempts_max = 3, .begins_ns = SECONDS(5), .bytes = 4
#define PUTS .kind = CLEAT_TRANSFER_PUT
#define GETS .kind = CLEAT_TRANSFER_GET

/* clang-format off */
static const struct bounds put_create = {PUTS, .attempts_max = 2,
    .begins_ns = SECONDS(5), .bytes = 4, .mode = CLEAT_TRANSFER_CREATE,
    .deadline_ns = SECONDS(20), .faults = 2, .cancels = 1, .masks = 1};
static const struct bounds put_create_honest = {COMMON, PUTS,
    .mode = CLEAT_TRANSFER_CREATE, .deadline_ns = SECONDS(20),
    .faults = 2, .poor = 1};
static const struct bounds put_create_over = {COMMON, PUTS,
    .mode = CLEAT_TRANSFER_CREATE, .deadline_ns = SECONDS(8),
    .faults = 3, .cancels = 1, .masks = 1, .held = THERE};
static const struct bounds put_create_full = {COMMON, PUTS,
    .mode = CLEAT_TRANSFER_CREATE, .verify = CLEAT_TRANSFER_VERIFY_FULL,
    .deadline_ns = SECONDS(20), .faults = 2, .masks = 1, .meddlers = 1};
static const struct bounds put_replace = {COMMON, PUTS,
    .mode = CLEAT_TRANSFER_REPLACE, .deadline_ns = SECONDS(20),
    .faults = 2, .cancels = 1, .masks = 1, .held = THERE};
static const struct bounds put_replace_full = {COMMON, PUTS,
    .mode = CLEAT_TRANSFER_REPLACE, .verify = CLEAT_TRANSFER_VERIFY_FULL,
    .deadline_ns = SECONDS(20), .faults = 2, .masks = 1, .meddlers = 1};
static const struct bounds put_replace_honest = {COMMON, PUTS,
    .mode = CLEAT_TRANSFER_REPLACE, .verify = CLEAT_TRANSFER_VERIFY_FULL,
    .deadline_ns = SECONDS(20), .faults = 2, .meddlers = 1};
static const struct bounds put_replace_in_progress = {COMMON, PUTS,
    .mode = CLEAT_TRANSFER_REPLACE, .verify = CLEAT_TRANSFER_VERIFY_SIZE,
    .deadline_ns = SECONDS(30), .faults = 1, .masks = 1, .held = IN_PROGRESS};
static const struct bounds put_keep = {COMMON, PUTS,
    .mode = CLEAT_TRANSFER_KEEP, .deadline_ns = SECONDS(20),
    .faults = 2, .cancels = 1, .held = THERE};
static const struct bounds put_unseen = {COMMON, PUTS,
    .mode = CLEAT_TRANSFER_KEEP, .verify = CLEAT_TRANSFER_VERIFY_SIZE,
    .deadline_ns = SECONDS(30), .faults = 1, .masks = 1, .hides = 1,
    .held = IN_PROGRESS};
static const struct bounds put_evicts = {COMMON, PUTS,
    .mode = CLEAT_TRANSFER_CREATE, .verify = CLEAT_TRANSFER_VERIFY_SIZE,
    .deadline_ns = SECONDS(20), .faults = 2, .masks = 1, .hides = 1,
    .evicts = 1};
static const struct bounds get_exact = {COMMON, GETS,
    .deadline_ns = SECONDS(20), .faults = 3, .cancels = 1, .held = THERE};
static const struct bounds get_empty = {GETS, .attempts_max = 3,
    .begins_ns = SECONDS(5), .bytes = 0, .deadline_ns = SECONDS(20),
    .faults = 3, .held = THERE, .evicts = 1};
static const struct bounds get_sized = {COMMON, GETS, .sized = 1,
    .deadline_ns = SECONDS(20), .faults = 3, .held = THERE, .evicts = 1};
static const struct bounds get_wait = {COMMON, GETS, .wait = 1,
    .deadline_ns = SECONDS(8), .faults = 2, .meddlers = 1};
static const struct bounds get_in_progress = {COMMON, GETS, .sized = 1,
    .deadline_ns = SECONDS(20), .faults = 2, .held = IN_PROGRESS};
static const struct bounds removes = {COMMON, .kind = CLEAT_TRANSFER_REMOVE,
    .deadline_ns = SECONDS(20), .faults = 3, .cancels = 1, .held = THERE};
static const struct bounds exists = {COMMON, .kind = CLEAT_TRANSFER_EXISTS,
    .deadline_ns = SECONDS(20), .faults = 3, .cancels = 1, .held = THERE,
    .evicts = 1};
/* Everything within the last seconds of time. */
static const struct bounds near_the_end = {PUTS, .attempts_max = 3, .bytes = 4,
    .mode = CLEAT_TRANSFER_REPLACE, .begins_ns = UINT64_MAX - SECONDS(6),
    .deadline_ns = SECONDS(20), .faults = 2, .cancels = 1, .masks = 1};
/* clang-format on */

#define MARKED(sentence, with, reached)                                      \
    {                                                                        \
        .name = sentence, .state_bytes = sizeof(struct world), .init = init, \
        .step = step, .project = project, .arg = &(with), .steps_max = 200,  \
        .endless_fails = true, .marks = (reached)                            \
    }
#define TEST(sentence, with) MARKED(sentence, with, NULL)

static const struct choose_test tests[] = {
    MARKED("transfer-put-create-2-faults-masking-store", put_create, marks),
    TEST("transfer-put-create-2-faults-honest-store-poor-budget",
         put_create_honest),
    TEST("transfer-put-create-over-values-3-faults", put_create_over),
    TEST("transfer-put-create-verify-full-meddlers", put_create_full),
    TEST("transfer-put-replace-2-faults", put_replace),
    TEST("transfer-put-replace-verify-full-meddlers", put_replace_full),
    TEST("transfer-put-replace-honest-store-meddlers", put_replace_honest),
    TEST("transfer-put-replace-of-what-is-in-progress",
         put_replace_in_progress),
    TEST("transfer-put-keep-2-faults", put_keep),
    TEST("transfer-put-of-what-is-in-progress-unseen", put_unseen),
    TEST("transfer-put-verify-size-evicting-store", put_evicts),
    TEST("transfer-get-3-faults", get_exact),
    TEST("transfer-get-of-empty-values-evicting-store", get_empty),
    TEST("transfer-get-sized-3-faults-evicting-store", get_sized),
    TEST("transfer-get-waits-for-a-producer", get_wait),
    TEST("transfer-get-sized-of-what-is-in-progress", get_in_progress),
    TEST("transfer-remove-3-faults", removes),
    TEST("transfer-exists-3-faults", exists),
    TEST("transfer-put-near-the-end-of-time", near_the_end),
};

int main(int argc, char **argv)
{
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
