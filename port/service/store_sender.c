/* Cleat: the sender of a transport over a store.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Two threads: the user's, which calls the functions of the contract, and the
 * worker, a job that makes all calls that block. Commands go to the worker's
 * mailbox; what it has seen it leaves in words, each with the number of the
 * generation that it is about, and rings with a message to the user's mailbox
 * unless one lies there already. `live` says which generation goes on: whoever
 * works on another one is to end it. */
#include <string.h>

#include "store_objects.h"

/* What lies in the mailboxes. */
enum { COMMANDS = 0, NEWS = 1 };
enum { PREPARE = 1, PUBLISH, LOOK, CHANGED, WOKEN, ENDED };

/* Counts in words: from FAILED on, it is over, and the low byte is its status,
 * negated. */
#define FAILED UINT32_C(0xFFFFFF00)
#define READY 1u /* in the word of the generation */

/* How often a clean-up is begun, each call of which has its attempts. */
#define CLEARS_MAX 3u

/* The generation that the worker works on. */
struct work {
    struct store_epoch epoch;
    uint32_t number; /* 0: none */
    uint32_t receivers_count;
    uint32_t published; /* buckets that were begun to be put */
    uint32_t removed;   /* buckets whose objects are removed, from 0 */
    bool failed;
    bool begun; /* objects of it may be in the store */
};

struct cleat_transport_sender_context {
    struct store_end end;
    struct cleat_mailbox commands;
    struct cleat_mailbox news;
    uint64_t run;
    uint64_t sweep_ns;
    uint32_t receivers_max;
    uint32_t buckets_max;

    /* The user's. */
    uint64_t version;
    uint64_t generation;
    uint32_t number;
    uint32_t receivers_count;
    uint32_t published;
    bool running;

    /* Of both. */
    _Atomic uint32_t live;  /* the number of the generation; 0: none */
    _Atomic uint32_t told;  /* CHANGED lies in the user's mailbox */
    _Atomic uint32_t woken; /* WOKEN lies there */
    _Atomic uint32_t closing;
    _Atomic uint64_t until_ns; /* of the worker's calls */
    _Atomic uint64_t state;    /* the generation's word */
    _Atomic uint64_t *acked;   /* each receiver's */

    /* The worker's. */
    struct store_batch batch;
    struct work work;
    uint32_t *counts;       /* by receiver: acknowledged, or FAILED and more */
    unsigned char *gave_up; /* by receiver, from one look */
    uint64_t pause_ns;
    uint64_t look_ns; /* when to look next */
    struct store_recovery recovery;
    bool recovered;         /* what runs before this one have left */
    enum cleat_status left; /* CLEAT_OK, or why objects may be left */
};

/* ---- words and bells ---------------------------------------------------- */

static uint64_t word_of(uint32_t number, uint32_t count)
{
    return (uint64_t)number << 32 | count;
}

static uint32_t failed_as(enum cleat_status status)
{
    return FAILED + (uint32_t)(-(int32_t)store_told(status));
}

static enum cleat_status status_of(uint32_t count)
{
    return (enum cleat_status)(-(int32_t)(count - FAILED));
}

static uint64_t now_ns(const struct cleat_transport_sender_context *s)
{
    return store_now(&s->end);
}

/* Cannot fail but where the box is full, and then there is something in it. */
static void post(const struct cleat_mailbox *to, uint32_t kind)
{
    struct cleat_message message = {.kind = kind};

    (void)to->post(to->context, &message);
}

static void changed(struct cleat_transport_sender_context *s)
{
    if (atomic_exchange(&s->told, 1) == 0) { post(&s->news, CHANGED); }
}

/* ---- the worker: calls -------------------------------------------------- */

static enum cleat_status put_record(struct cleat_transport_sender_context *s,
                                    struct cleat_transfer_value *value,
                                    enum store_record_kind kind, uint32_t mode)
{
    const struct work *work = &s->work;
    const struct store_record record = {
        .kind = kind,
        .index = work->receivers_count,
        .buckets = s->buckets_max,
        .run = s->run,
        .generation = work->epoch.generation,
        .version = work->epoch.version,
    };

    store_record_write(&record, s->batch.record);
    store_carry(value, s->batch.record, STORE_RECORD_BYTES);
    return store_put(&s->batch, mode, CLEAT_NEVER);
}

/* Makes room for one more key. */
static enum cleat_status clear_full(struct cleat_transport_sender_context *s,
                                    uint64_t until_ns)
{
    uint32_t removed = 0;

    return s->batch.count < s->batch.keys_max
               ? CLEAT_OK
               : store_clear(&s->batch, until_ns, &removed);
}

/* The first of a receiver's acknowledgements that may be there: the last one
 * that it has made may be put again by now, where the store was not sure of it;
 * with the next one it is settled. */
static uint32_t first_ack(const struct cleat_transport_sender_context *s,
                          uint32_t receiver)
{
    uint32_t count = s->counts[receiver];

    if (count > s->work.removed) { count = s->work.removed; }
    return count == 0 ? 0 : count - 1;
}

/* Removes all that the generation may have in the store, but its head. */
static enum cleat_status clear_rest(struct cleat_transport_sender_context *s,
                                    uint64_t until_ns)
{
    const struct work *work = &s->work;
    uint32_t removed = 0;
    enum cleat_status status = CLEAT_OK;

    for (uint32_t b = work->removed; status == CLEAT_OK && b < work->published;
         b++) {
        (void)store_add_bucket(&s->batch, &work->epoch, b);
        status = clear_full(s, until_ns);
    }
    for (uint32_t r = 0; status == CLEAT_OK && r < work->receivers_count; r++) {
        (void)store_add_gave_up(&s->batch, &work->epoch, r);
        status = clear_full(s, until_ns);
        for (uint32_t b = first_ack(s, r);
             status == CLEAT_OK && b < work->published; b++) {
            (void)store_add_ack(&s->batch, &work->epoch, r, b);
            status = clear_full(s, until_ns);
        }
    }
    if (status != CLEAT_OK) { return status; }
    return store_clear(&s->batch, until_ns, &removed);
}

static enum cleat_status
clear_generation(struct cleat_transport_sender_context *s, uint64_t until_ns)
{
    uint32_t removed = 0;
    enum cleat_status status;

    s->batch.count = 0;
    (void)store_add_head(&s->batch, &s->work.epoch);
    status = store_clear(&s->batch, until_ns, &removed);
    if (status == CLEAT_OK) { status = clear_rest(s, until_ns); }
    s->batch.count = 0;
    if (status != CLEAT_OK) { return status; }
    (void)store_add_last(&s->batch, s->end.job);
    return store_clear(&s->batch, until_ns, &removed);
}

/* Ends the worker's generation. What cannot be removed now, or is still being
 * put by a call that has not come back, is tried again before the next one
 * begins. */
static void end_generation(struct cleat_transport_sender_context *s)
{
    uint64_t start_ns = now_ns(s);
    uint64_t until_ns = cleat_time_add(start_ns, s->sweep_ns);
    bool drained;

    if (!s->work.begun) {
        s->work.number = 0;
        return;
    }
    drained = store_drained(&s->batch,
                            cleat_time_add(start_ns, s->sweep_ns / 2));
    for (uint32_t i = 0; i < CLEARS_MAX; i++) {
        s->left = clear_generation(s, until_ns);
        if (s->left == CLEAT_OK) { break; }
    }
    if (s->left == CLEAT_OK && !drained) { s->left = CLEAT_AMBIGUOUS; }
    s->work.number = 0;
    s->work.begun = s->left != CLEAT_OK;
}

/* ---- the worker: commands ----------------------------------------------- */

static void fail(struct cleat_transport_sender_context *s,
                 enum cleat_status status)
{
    s->work.failed = true;
    atomic_store(&s->state, word_of(s->work.number, failed_as(status)));
    changed(s);
}

/* What was left before is removed first: there is one generation's objects in
 * the store at most, and <job>/last tells which. */
static enum cleat_status clear_before(struct cleat_transport_sender_context *s)
{
    uint64_t until_ns = cleat_time_add(now_ns(s), s->sweep_ns);
    uint32_t removed = 0;

    s->batch.count = 0;
    if (s->work.begun) { end_generation(s); }
    if (s->left != CLEAT_OK) { return s->left; }
    if (!store_drained(&s->batch, until_ns)) { return CLEAT_AMBIGUOUS; }
    if (!s->recovered) {
        enum cleat_status status = store_recover(
            &s->batch, s->end.job, &s->recovery, until_ns, &removed);

        s->batch.count = 0;
        if (status != CLEAT_OK) { return status; }
        s->recovered = true;
    }
    return CLEAT_OK;
}

static void begin_work(struct cleat_transport_sender_context *s,
                       const struct cleat_message *message)
{
    struct work *work = &s->work;

    memset(work, 0, sizeof *work);
    work->number = message->index;
    work->receivers_count = (uint32_t)message->body[0];
    work->epoch.job = s->end.job;
    work->epoch.run = s->run;
    work->epoch.generation = message->body[1];
    work->epoch.version = message->body[2];
    memset(s->counts, 0, s->receivers_max * sizeof *s->counts);
}

static void do_prepare(struct cleat_transport_sender_context *s,
                       const struct cleat_message *message)
{
    enum cleat_status status;

    if (atomic_load(&s->live) != message->index) { return; }
    status = clear_before(s);
    if (status != CLEAT_OK) {
        /* The work that is left stays known; it is tried again. */
        s->work.number = message->index;
        fail(s, status);
        return;
    }
    begin_work(s, message);
    s->work.begun = true;
    status = put_record(s, store_add_last(&s->batch, s->end.job), STORE_LAST,
                        CLEAT_TRANSFER_REPLACE);
    if (status == CLEAT_OK) {
        status = put_record(s, store_add_head(&s->batch, &s->work.epoch),
                            STORE_HEAD, CLEAT_TRANSFER_KEEP);
    }
    if (status != CLEAT_OK) {
        fail(s, status);
        return;
    }
    atomic_store(&s->state, word_of(s->work.number, READY));
    changed(s);
    s->pause_ns = 0;
    s->look_ns = 0;
}

/* Removes the objects of the buckets before `until`, and the acknowledgements
 * before their last. What cannot be removed is left for later. */
static void remove_buckets(struct cleat_transport_sender_context *s,
                           uint32_t until)
{
    struct work *work = &s->work;

    while (work->removed < until) {
        uint32_t bucket = work->removed;

        (void)store_add_bucket(&s->batch, &work->epoch, bucket);
        for (uint32_t r = 0; r < work->receivers_count; r++) {
            if (bucket == 0 || s->counts[r] <= bucket) { continue; }
            (void)store_add_ack(&s->batch, &work->epoch, r, bucket - 1);
        }
        if (store_remove(&s->batch, CLEAT_NEVER) != CLEAT_OK) { return; }
        work->removed++;
    }
}

static void do_publish(struct cleat_transport_sender_context *s,
                       const struct cleat_message *message)
{
    struct work *work = &s->work;
    const struct store_record record = {
        .kind = STORE_BUCKET,
        .index = (uint32_t)message->body[1],
        .crc = (uint32_t)message->body[3],
        .run = s->run,
        .generation = work->epoch.generation,
        .version = work->epoch.version,
        .bytes = message->body[2],
    };
    unsigned char *slot = store_slot(&s->end, (uint32_t)message->body[0]);
    uint32_t slots = s->end.common.slots_count;
    struct cleat_transfer_value *value;
    enum cleat_status status;

    if (message->index != work->number || work->failed ||
        atomic_load(&s->live) != work->number) {
        return;
    }
    /* Whoever still lacks the bucket that was in this slot is not counted. */
    if (record.index >= slots) { remove_buckets(s, record.index + 1 - slots); }
    store_record_write(&record, slot);
    value = store_add_bucket(&s->batch, &work->epoch, record.index);
    store_carry(value, slot, STORE_RECORD_BYTES + s->end.common.bucket_bytes);
    value->flags = CLEAT_STORE_ROOM;
    work->published = record.index + 1;
    status = store_put(&s->batch, CLEAT_TRANSFER_KEEP, CLEAT_NEVER);
    if (status != CLEAT_OK) { fail(s, status); }
    s->pause_ns = 0;
    s->look_ns = 0;
}

/* ---- the worker: acknowledgements --------------------------------------- */

static bool is_awaited(const struct cleat_transport_sender_context *s,
                       uint32_t receiver)
{
    return s->counts[receiver] < FAILED &&
           s->counts[receiver] < s->work.published;
}

static void set_count(struct cleat_transport_sender_context *s,
                      uint32_t receiver, uint32_t count)
{
    s->counts[receiver] = count;
    atomic_store(&s->acked[receiver], word_of(s->work.number, count));
    changed(s);
}

/* Why a receiver has given up. That it has, is known already. */
static void read_gave_up(struct cleat_transport_sender_context *s,
                         uint32_t receiver)
{
    enum cleat_status why = CLEAT_GROUP_FAILED;
    struct store_record record;

    store_carry(store_add_gave_up(&s->batch, &s->work.epoch, receiver),
                s->batch.record, STORE_RECORD_BYTES);
    if (store_drained(&s->batch, now_ns(s)) &&
        store_get(&s->batch, CLEAT_NEVER) == CLEAT_OK &&
        store_record_read(s->batch.record, &record) &&
        record.kind == STORE_GAVE_UP && record.run == s->run &&
        record.generation == s->work.epoch.generation &&
        record.index == receiver && record.status < CLEAT_OK &&
        record.status > -128) {
        why = (enum cleat_status)record.status;
        /* What is not in the list has no meaning here. */
        if (strcmp(cleat_status_name(why), "UNKNOWN") == 0) {
            why = CLEAT_PEER_DEVIANT;
        }
    }
    s->batch.count = 0;
    set_count(s, receiver, FAILED + (uint32_t)(-(int32_t)why));
}

static bool is_there(const struct cleat_transfer_value *value)
{
    return value->status == CLEAT_OK && value->actual != 0;
}

/* Until which bucket everybody who goes on has acknowledged. */
static uint32_t acked_by_all(const struct cleat_transport_sender_context *s)
{
    uint32_t least = s->work.published;

    for (uint32_t r = 0; r < s->work.receivers_count; r++) {
        if (s->counts[r] < least) { least = s->counts[r]; }
    }
    return least;
}

/* Asks for what each receiver may do next: acknowledge its next bucket, and
 * give up. Returns whether one has. */
static bool look_for_acks(struct cleat_transport_sender_context *s)
{
    const struct work *work = &s->work;
    bool news = false;
    uint32_t at = 0;

    for (uint32_t r = 0; r < work->receivers_count; r++) {
        if (s->counts[r] >= FAILED) { continue; }
        (void)store_add_gave_up(&s->batch, &work->epoch, r);
        if (is_awaited(s, r)) {
            (void)store_add_ack(&s->batch, &work->epoch, r, s->counts[r]);
        }
    }
    (void)store_exists(&s->batch, CLEAT_NEVER);
    for (uint32_t r = 0; r < work->receivers_count; r++) {
        s->gave_up[r] = 0;
        if (s->counts[r] >= FAILED) { continue; }
        s->gave_up[r] = is_there(&s->batch.values[at++]);
        if (is_awaited(s, r) && is_there(&s->batch.values[at++])) {
            set_count(s, r, s->counts[r] + 1);
            news = true;
        }
    }
    for (uint32_t r = 0; r < work->receivers_count; r++) {
        if (s->gave_up[r] != 0) {
            read_gave_up(s, r);
            news = true;
        }
    }
    return news;
}

static void look(struct cleat_transport_sender_context *s)
{
    if (look_for_acks(s)) {
        remove_buckets(s, acked_by_all(s));
        s->pause_ns = 0;
        s->look_ns = 0;
        return;
    }
    s->pause_ns = store_pause(&s->end, s->pause_ns);
    s->look_ns = cleat_time_add(now_ns(s), s->pause_ns);
}

/* ---- the worker's loop -------------------------------------------------- */

static bool is_working(const struct cleat_transport_sender_context *s)
{
    return s->work.number != 0 && !s->work.failed;
}

static void step(struct cleat_transport_sender_context *s)
{
    struct cleat_message message;
    uint64_t until_ns = is_working(s) ? s->look_ns : CLEAT_NEVER;

    if (s->commands.wait(s->commands.context, until_ns, &message) != CLEAT_OK) {
        look(s);
    } else if (message.kind == PREPARE) {
        do_prepare(s, &message);
    } else if (message.kind == PUBLISH) {
        do_publish(s, &message);
    }
}

static void sender_work(void *job, uint64_t index)
{
    struct cleat_transport_sender_context *s = job;

    (void)index;
    while (atomic_load(&s->closing) == 0) {
        if (s->work.number != 0 && atomic_load(&s->live) != s->work.number) {
            end_generation(s);
        }
        step(s);
    }
    /* What was under way has been cut off; there is time for the rest. */
    atomic_store(&s->until_ns, CLEAT_NEVER);
    if (s->work.begun) { end_generation(s); }
    post(&s->news, ENDED);
}

/* ---- the user's functions ----------------------------------------------- */

static enum cleat_status sender_slot(struct cleat_transport_sender_context *s,
                                     uint32_t slot, void **data,
                                     uint64_t *bytes_max)
{
    if (slot >= s->end.common.slots_count) { return CLEAT_INVALID; }
    *data = store_slot(&s->end, slot) + STORE_RECORD_BYTES;
    *bytes_max = s->end.common.bucket_bytes;
    return CLEAT_OK;
}

static void sender_finish(struct cleat_transport_sender_context *s)
{
    if (!s->running) { return; }
    s->running = false;
    atomic_store(&s->live, 0);
    post(&s->commands, LOOK);
}

static void write_ticket(const struct cleat_transport_sender_context *s,
                         struct cleat_transport_ticket *ticket)
{
    size_t job_bytes = strlen(s->end.job);
    const struct store_record record = {
        .kind = STORE_TICKET,
        .index = s->receivers_count,
        .buckets = s->buckets_max,
        .crc = s->end.common.slots_count,
        .run = s->run,
        .generation = s->generation,
        .version = s->version,
        .bytes = s->end.common.bucket_bytes,
    };

    memset(ticket, 0, sizeof *ticket);
    store_record_write(&record, ticket->bytes);
    memcpy(ticket->bytes + STORE_RECORD_BYTES, s->end.job, job_bytes);
    ticket->bytes_count = (uint32_t)(STORE_RECORD_BYTES + job_bytes);
    for (uint32_t i = 0; i < CLEAT_TRANSPORT_TICKET_FDS; i++) {
        ticket->fds[i] = -1;
    }
}

static enum cleat_status
sender_prepare(struct cleat_transport_sender_context *s, uint64_t generation,
               uint32_t receivers_count, struct cleat_transport_ticket *ticket)
{
    struct cleat_message message = {.kind = PREPARE};
    enum cleat_status status;

    if (receivers_count == 0 || receivers_count > s->receivers_max ||
        ticket == NULL || (s->number != 0 && generation == s->generation)) {
        return CLEAT_INVALID;
    }
    sender_finish(s);
    s->number = s->number == UINT32_MAX ? 1 : s->number + 1;
    message.index = s->number;
    message.body[0] = receivers_count;
    message.body[1] = generation;
    message.body[2] = s->version;
    atomic_store(&s->live, s->number);
    status = s->commands.post(s->commands.context, &message);
    if (status != CLEAT_OK) {
        atomic_store(&s->live, 0);
        return status;
    }
    s->generation = generation;
    s->receivers_count = receivers_count;
    s->published = 0;
    s->running = true;
    write_ticket(s, ticket);
    return CLEAT_OK;
}

/* Takes one message. Returns what ended the wait: CHANGED, WOKEN, ENDED, or 0
 * at the deadline. */
static uint32_t take_news(struct cleat_transport_sender_context *s,
                          uint64_t deadline_ns)
{
    struct cleat_message message;

    if (s->news.wait(s->news.context, deadline_ns, &message) != CLEAT_OK) {
        return 0;
    }
    /* Before anybody looks at what it was about. */
    if (message.kind == CHANGED) { atomic_store(&s->told, 0); }
    if (message.kind == WOKEN) { atomic_store(&s->woken, 0); }
    return message.kind;
}

/* CLEAT_PENDING: the worker is not that far. */
static enum cleat_status
sender_state(const struct cleat_transport_sender_context *s)
{
    uint64_t word = atomic_load(&s->state);

    if (word >> 32 != s->number) { return CLEAT_PENDING; }
    return (uint32_t)word == READY ? CLEAT_OK : status_of((uint32_t)word);
}

static enum cleat_status sender_group(struct cleat_transport_sender_context *s,
                                      uint64_t deadline_ns)
{
    if (!s->running) { return CLEAT_STATE; }
    for (;;) {
        enum cleat_status status = sender_state(s);
        uint32_t why;

        if (status != CLEAT_PENDING) { return status; }
        why = take_news(s, deadline_ns);
        if (why == WOKEN) { return CLEAT_PENDING; }
        if (why == 0) { return CLEAT_DEADLINE; }
    }
}

static enum cleat_status
sender_publish(struct cleat_transport_sender_context *s, uint32_t slot,
               uint32_t bucket, uint64_t bytes, uint32_t crc)
{
    struct cleat_message message = {.kind = PUBLISH, .index = s->number};
    enum cleat_status status;

    if (!s->running) { return CLEAT_STATE; }
    if (bucket >= s->buckets_max) { return CLEAT_LIMIT; }
    if (bucket != s->published || slot != bucket % s->end.common.slots_count ||
        bytes > s->end.common.bucket_bytes) {
        return CLEAT_INVALID;
    }
    status = sender_state(s);
    if (status != CLEAT_OK && status != CLEAT_PENDING) { return status; }
    message.body[0] = slot;
    message.body[1] = bucket;
    message.body[2] = bytes;
    message.body[3] = crc;
    if (s->commands.post(s->commands.context, &message) != CLEAT_OK) {
        return CLEAT_GROUP_FAILED;
    }
    s->published++;
    return CLEAT_OK;
}

static enum cleat_status sender_acked(struct cleat_transport_sender_context *s,
                                      uint32_t receiver,
                                      uint32_t *buckets_acked,
                                      enum cleat_status *status)
{
    enum cleat_status state;
    uint64_t word;

    *buckets_acked = 0;
    *status = CLEAT_OK;
    if (receiver >= s->receivers_count) { return CLEAT_INVALID; }
    if (!s->running) { return CLEAT_STATE; }
    state = sender_state(s);
    word = atomic_load(&s->acked[receiver]);
    if (word >> 32 == s->number) {
        if ((uint32_t)word >= FAILED) {
            *status = status_of((uint32_t)word);
            return CLEAT_OK;
        }
        *buckets_acked = (uint32_t)word;
    }
    if (state < CLEAT_OK) { *status = state; }
    return CLEAT_OK;
}

static enum cleat_status sender_wait(struct cleat_transport_sender_context *s,
                                     uint64_t deadline_ns)
{
    return take_news(s, deadline_ns) == 0 ? CLEAT_DEADLINE : CLEAT_OK;
}

static void sender_wake(struct cleat_transport_sender_context *s)
{
    if (atomic_exchange(&s->woken, 1) == 0) { post(&s->news, WOKEN); }
}

/* ---- opening and closing ------------------------------------------------ */

static bool counts_are_sound(const struct cleat_store_sender_config *config)
{
    return config->receivers_max >= 1 &&
           config->receivers_max <= CLEAT_STORE_RECEIVERS_MAX &&
           config->buckets_max >= 1 &&
           config->buckets_max <= CLEAT_STORE_BUCKETS_MAX;
}

uint32_t cleat_store_sender_keys(uint32_t receivers_max)
{
    return receivers_max < 128 ? 256 : receivers_max * 2;
}

struct parts {
    size_t acked;
    size_t counts;
    size_t gave_up;
    size_t batch;
    size_t all;
};

static struct parts parts_of(uint32_t receivers_max)
{
    const size_t words = ((size_t)receivers_max + 7) & ~(size_t)7;
    struct parts parts;

    parts.acked = (sizeof(struct cleat_transport_sender_context) + 63) &
                  ~(size_t)63;
    parts.counts = parts.acked + words * sizeof(_Atomic uint64_t);
    parts.gave_up = parts.counts + words * sizeof(uint32_t);
    parts.batch = parts.gave_up + words;
    parts.all = parts.batch +
                STORE_BATCH_BYTES(cleat_store_sender_keys(receivers_max));
    return parts;
}

size_t cleat_store_sender_bytes(const struct cleat_store_sender_config *config)
{
    return counts_are_sound(config) ? parts_of(config->receivers_max).all : 0;
}

static enum cleat_status check(const void *block, size_t bytes,
                               const struct cleat_store_sender_config *config,
                               struct cleat_error *error)
{
    if (block == NULL || (uintptr_t)block % 64 != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "store transport: a block aligned to 64 bytes "
                               "is needed");
    }
    if (!counts_are_sound(config)) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "store transport: 1 to 1024 receivers, and 1 to "
                               "1048576 buckets");
    }
    if (bytes < cleat_store_sender_bytes(config)) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1,
                               cleat_store_sender_bytes(config),
                               "store transport: the block is too small");
    }
    return CLEAT_OK;
}

static void lay_out(struct cleat_transport_sender_context *s,
                    const struct cleat_store_sender_config *config)
{
    unsigned char *block = (unsigned char *)s;
    struct parts parts = parts_of(config->receivers_max);

    s->run = config->run;
    s->receivers_max = config->receivers_max;
    s->buckets_max = config->buckets_max;
    s->sweep_ns = config->sweep_ns != 0 ? config->sweep_ns
                                        : CLEAT_STORE_SWEEP_NS_DEFAULT;
    s->commands = s->end.common.mailboxes[COMMANDS];
    s->news = s->end.common.mailboxes[NEWS];
    s->acked = (_Atomic uint64_t *)(void *)(block + parts.acked);
    s->counts = (uint32_t *)(void *)(block + parts.counts);
    s->gave_up = block + parts.gave_up;
    store_batch_init(&s->batch, block + parts.batch,
                     cleat_store_sender_keys(config->receivers_max),
                     &s->end.common);
    atomic_store(&s->until_ns, CLEAT_NEVER);
    s->batch.until_ns = &s->until_ns;
}

static void fill_out(struct cleat_transport_sender_context *s,
                     struct cleat_transport_sender *out)
{
    out->context = s;
    out->slots_count = s->end.common.slots_count;
    out->receivers_max = s->receivers_max;
    out->slot_bytes_max = s->end.common.bucket_bytes;
    out->prepare = sender_prepare;
    out->group = sender_group;
    out->slot = sender_slot;
    out->publish = sender_publish;
    out->acked = sender_acked;
    out->wait = sender_wait;
    out->wake = sender_wake;
    out->finish = sender_finish;
}

enum cleat_status cleat_store_sender_open(
    void *block, size_t bytes, const struct cleat_store_sender_config *config,
    struct cleat_transport_sender *out, struct cleat_error *error)
{
    struct cleat_transport_sender_context *s = block;
    const struct cleat_threads *threads = &config->common.threads;
    enum cleat_status status;

    memset(out, 0, sizeof *out);
    status = check(block, bytes, config, error);
    if (status != CLEAT_OK) { return status; }
    memset(s, 0, cleat_store_sender_bytes(config));
    status = store_end_init(&s->end, &config->common,
                            CLEAT_STORE_SENDER_MAILBOXES, error);
    if (status != CLEAT_OK) { return status; }
    lay_out(s, config);
    status = threads->submit(threads->context, sender_work, s, 0);
    if (status != CLEAT_OK) {
        return cleat_error_set(error, status, 2, 0,
                               "store transport: no thread for its job");
    }
    fill_out(s, out);
    return CLEAT_OK;
}

void cleat_store_sender_version(const struct cleat_transport_sender *sender,
                                uint64_t version)
{
    sender->context->version = version;
}

enum cleat_status
cleat_store_sender_close(struct cleat_transport_sender *sender)
{
    struct cleat_transport_sender_context *s;

    if (sender == NULL || sender->context == NULL) { return CLEAT_OK; }
    s = sender->context;
    sender->context = NULL;
    sender_finish(s);
    /* A call that is under way ends in its time; none is begun any more, until
     * the worker has seen that it is to end. */
    atomic_store(&s->until_ns, now_ns(s));
    atomic_store(&s->closing, 1);
    post(&s->commands, LOOK);
    while (take_news(s, CLEAT_NEVER) != ENDED) {}
    return s->left;
}
