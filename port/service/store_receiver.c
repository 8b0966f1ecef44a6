/* Cleat: a receiver of a transport over a store.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Three threads: the user's, which calls the functions of the contract; the
 * fetcher, a job that looks for buckets and gets them into slots ahead of the
 * user; and the teller, a job that puts acknowledgements. Each has a mailbox,
 * and all that passes between them passes there, with the number of the
 * generation that it is about; but `live`, which says which one goes on. */
#include <string.h>

#include "store_objects.h"

/* What lies in the mailboxes. */
enum { NEWS = 0, FETCHES = 1, ACKS = 2 };
enum {
    JOIN = 1,
    RELEASE,
    ACK,
    LEAVE,
    LOOK,
    JOINED,
    CAME,
    OVER,
    FINISHED,
    WOKEN,
    ENDED
};

#define FETCH_KEYS 2u

/* An acknowledgement can be left by who is this far behind (see take_back). */
#define SENDER_SLOTS_MAX CLEAT_STORE_SLOTS_MAX
#define TAKE_BACK_MAX (2u * SENDER_SLOTS_MAX + 1u)

/* A generation, as its messages say it. */
struct joined {
    struct store_epoch epoch;
    uint32_t number; /* 0: none */
    uint32_t receiver;
};

enum fetch_state { FETCH_IDLE, FETCH_JOINS, FETCH_RUNS };

struct fetcher {
    struct store_batch batch;
    struct joined joined;
    enum fetch_state state;
    uint32_t next; /* bucket */
    uint32_t free; /* slots */
    uint64_t pause_ns;
    uint64_t look_ns;
};

struct teller {
    struct store_batch batch;
    struct joined joined;
    uint32_t told; /* buckets acknowledged */
    bool gave_up;
};

/* A bucket that lies in its slot. */
struct arrival {
    uint32_t bucket;
    uint32_t crc;
    uint64_t bytes;
};

struct cleat_transport_receiver_context {
    struct store_end end;
    struct cleat_mailbox news;
    struct cleat_mailbox fetches;
    struct cleat_mailbox acks;

    /* The user's. */
    struct joined joined;
    struct arrival arrivals[CLEAT_STORE_SLOTS_MAX]; /* by slot */
    uint32_t number;
    uint32_t came;             /* buckets, from 0 */
    uint32_t next;             /* to be handed out, or acknowledged */
    enum cleat_status over;    /* CLEAT_OK: it goes on */
    enum cleat_status joining; /* CLEAT_PENDING: the fetcher has not said */
    bool finished;             /* by the sender, and so over */
    bool in;                   /* between join and leave */

    /* Of all. */
    _Atomic uint32_t live;
    _Atomic uint32_t woken; /* WOKEN lies in the user's mailbox */
    _Atomic uint32_t closing;
    _Atomic uint64_t until_ns; /* of all calls */

    struct fetcher fetcher;
    struct teller teller;
};

static uint64_t now_ns(const struct cleat_transport_receiver_context *r)
{
    return store_now(&r->end);
}

static void post(const struct cleat_mailbox *to, uint32_t kind)
{
    struct cleat_message message = {.kind = kind};

    (void)to->post(to->context, &message);
}

/* ---- a generation in a message ------------------------------------------ */

static void write_joined(struct cleat_message *message,
                         const struct joined *joined)
{
    message->index = joined->number;
    message->body[0] = joined->epoch.run;
    message->body[1] = joined->epoch.generation;
    message->body[2] = joined->epoch.version;
    message->body[3] = joined->receiver;
}

static void read_joined(const struct cleat_transport_receiver_context *r,
                        const struct cleat_message *message,
                        struct joined *joined)
{
    joined->number = message->index;
    joined->epoch.job = r->end.job;
    joined->epoch.run = message->body[0];
    joined->epoch.generation = message->body[1];
    joined->epoch.version = message->body[2];
    joined->receiver = (uint32_t)message->body[3];
}

/* ---- the fetcher -------------------------------------------------------- */

/* Tells the user. There is room: what a generation has to say is less than the
 * box holds, and every join empties it. */
static void tell(struct cleat_transport_receiver_context *r,
                 struct cleat_message *message)
{
    message->index = r->fetcher.joined.number;
    (void)r->news.post(r->news.context, message);
}

static void tell_status(struct cleat_transport_receiver_context *r,
                        uint32_t kind, enum cleat_status status)
{
    struct cleat_message message = {.kind = kind};

    if (status != CLEAT_OK) { r->fetcher.state = FETCH_IDLE; }
    message.body[0] = (uint64_t)(int64_t)status;
    tell(r, &message);
}

static bool is_there(const struct cleat_transfer_value *value)
{
    return value->status == CLEAT_OK && value->actual != 0;
}

static bool is_gone(const struct cleat_transfer_value *value)
{
    return value->status == CLEAT_OK && value->actual == 0;
}

/* Whether another look may bring what this one has not. */
static bool may_pass(enum cleat_status status)
{
    return cleat_status_class(status) != CLEAT_CLASS_PERMANENT ||
           status == CLEAT_NOT_FOUND;
}

static void look_later(struct cleat_transport_receiver_context *r)
{
    struct fetcher *f = &r->fetcher;

    f->pause_ns = store_pause(&r->end, f->pause_ns);
    f->look_ns = cleat_time_add(now_ns(r), f->pause_ns);
}

static void look_now(struct fetcher *f)
{
    f->pause_ns = 0;
    f->look_ns = 0;
}

/* Hands over what has been got, if it is what was asked for. */
static void hand_over(struct cleat_transport_receiver_context *r,
                      const unsigned char *slot)
{
    struct fetcher *f = &r->fetcher;
    struct cleat_message message = {.kind = CAME};
    struct store_record record;

    if (!store_record_read(slot, &record) || record.kind != STORE_BUCKET ||
        record.index != f->next || record.run != f->joined.epoch.run ||
        record.generation != f->joined.epoch.generation ||
        record.bytes > r->end.common.bucket_bytes) {
        tell_status(r, OVER, CLEAT_CORRUPT);
        return;
    }
    message.body[0] = f->next;
    message.body[1] = record.bytes;
    message.body[2] = record.crc;
    f->next++;
    f->free--;
    look_now(f);
    tell(r, &message);
}

static void fetch(struct cleat_transport_receiver_context *r)
{
    struct fetcher *f = &r->fetcher;
    unsigned char *slot = store_slot(&r->end,
                                     f->next % r->end.common.slots_count);
    struct cleat_transfer_value *value = store_add_bucket(
        &f->batch, &f->joined.epoch, f->next);
    enum cleat_status status;

    store_carry(value, slot, STORE_RECORD_BYTES + r->end.common.bucket_bytes);
    value->flags = CLEAT_STORE_ROOM;
    status = store_get(&f->batch, CLEAT_NEVER);
    if (status == CLEAT_OK) {
        hand_over(r, slot);
    } else if (status == CLEAT_CORRUPT || status == CLEAT_SHORT ||
               !may_pass(status)) {
        tell_status(r, OVER, store_told(status));
    } else {
        look_later(r);
    }
}

/* One look: is the next bucket there, and does the generation go on? */
static void look_for_bucket(struct cleat_transport_receiver_context *r)
{
    struct fetcher *f = &r->fetcher;
    struct cleat_transfer_value *head = &f->batch.values[0];
    bool wants = f->free > 0;

    (void)store_add_head(&f->batch, &f->joined.epoch);
    if (wants) { (void)store_add_bucket(&f->batch, &f->joined.epoch, f->next); }
    (void)store_exists(&f->batch, CLEAT_NEVER);
    if (is_gone(head)) {
        tell_status(r, FINISHED, CLEAT_GROUP_FAILED);
    } else if (wants && is_there(&f->batch.values[1])) {
        fetch(r);
    } else if (!may_pass((enum cleat_status)head->status)) {
        tell_status(r, OVER, store_told((enum cleat_status)head->status));
    } else {
        look_later(r);
    }
}

static void look_for_head(struct cleat_transport_receiver_context *r)
{
    struct fetcher *f = &r->fetcher;
    struct cleat_transfer_value *head = store_add_head(&f->batch,
                                                       &f->joined.epoch);

    (void)store_exists(&f->batch, CLEAT_NEVER);
    if (is_there(head)) {
        f->state = FETCH_RUNS;
        look_now(f);
        tell_status(r, JOINED, CLEAT_OK);
    } else if (!may_pass((enum cleat_status)head->status)) {
        tell_status(r, JOINED, store_told((enum cleat_status)head->status));
    } else {
        look_later(r);
    }
}

/* A slot that a call may still write to is not used: nothing is looked for
 * until it has come back. */
static void fetcher_look(struct cleat_transport_receiver_context *r)
{
    struct fetcher *f = &r->fetcher;

    if (!store_drained(&f->batch, now_ns(r))) {
        look_later(r);
    } else if (f->state == FETCH_JOINS) {
        look_for_head(r);
    } else {
        look_for_bucket(r);
    }
}

static void fetcher_take(struct cleat_transport_receiver_context *r,
                         const struct cleat_message *message)
{
    struct fetcher *f = &r->fetcher;

    if (message->kind == JOIN && atomic_load(&r->live) == message->index) {
        read_joined(r, message, &f->joined);
        f->state = FETCH_JOINS;
        f->next = 0;
        f->free = r->end.common.slots_count;
        look_now(f);
    } else if (message->kind == RELEASE && message->index == f->joined.number) {
        f->free++;
        look_now(f);
    }
}

static void fetcher_work(void *job, uint64_t index)
{
    struct cleat_transport_receiver_context *r = job;
    struct fetcher *f = &r->fetcher;
    struct cleat_message message;

    (void)index;
    while (atomic_load(&r->closing) == 0) {
        uint64_t until_ns;

        if (atomic_load(&r->live) != f->joined.number) {
            f->state = FETCH_IDLE;
        }
        until_ns = f->state == FETCH_IDLE ? CLEAT_NEVER : f->look_ns;
        if (r->fetches.wait(r->fetches.context, until_ns, &message) ==
            CLEAT_OK) {
            fetcher_take(r, &message);
        } else {
            fetcher_look(r);
        }
    }
    post(&r->news, ENDED);
}

/* ---- the teller --------------------------------------------------------- */

/* What is not told, is of no use to the user, who need not wait for more. */
static void tell_over(struct cleat_transport_receiver_context *r,
                      uint32_t number, enum cleat_status status)
{
    struct cleat_message message = {.kind = OVER, .index = number};

    message.body[0] = (uint64_t)(int64_t)store_told(status);
    (void)r->news.post(r->news.context, &message);
}

static void put_ack(struct cleat_transport_receiver_context *r,
                    const struct cleat_message *message)
{
    struct teller *t = &r->teller;
    struct store_record record = {.kind = STORE_ACK};
    struct cleat_transfer_value *value;
    enum cleat_status status;

    read_joined(r, message, &t->joined);
    record.index = t->joined.receiver;
    record.run = t->joined.epoch.run;
    record.generation = t->joined.epoch.generation;
    record.version = t->joined.epoch.version;
    record.status = (int32_t)(int64_t)message->body[5];
    t->told = (uint32_t)message->body[4];
    if (record.status == CLEAT_OK) {
        value = store_add_ack(&t->batch, &t->joined.epoch, t->joined.receiver,
                              t->told++);
    } else {
        record.kind = STORE_GAVE_UP;
        t->gave_up = true;
        value = store_add_gave_up(&t->batch, &t->joined.epoch,
                                  t->joined.receiver);
    }
    if (!store_drained(&t->batch, now_ns(r) + r->end.common.timeout_ns)) {
        t->batch.count = 0;
        tell_over(r, t->joined.number, CLEAT_GROUP_FAILED);
        return;
    }
    store_record_write(&record, t->batch.record);
    store_carry(value, t->batch.record, STORE_RECORD_BYTES);
    status = store_put(&t->batch, CLEAT_TRANSFER_KEEP, CLEAT_NEVER);
    if (status != CLEAT_OK) { tell_over(r, t->joined.number, status); }
}

/* This receiver has left. The sender removes its head, then the rest: so when
 * the head is there still, what was put is the sender's to remove. When it is
 * not, what was put may have come after that. The sender is never further ahead
 * of anybody than its slots; and what is further back than twice as many, it
 * had seen, or was there before the head was gone. */
static void take_back(struct cleat_transport_receiver_context *r)
{
    struct teller *t = &r->teller;
    uint32_t from = t->told < TAKE_BACK_MAX ? 0 : t->told - TAKE_BACK_MAX;
    uint32_t removed = 0;

    if (t->joined.number == 0) { return; }
    (void)store_drained(&t->batch, now_ns(r) + r->end.common.timeout_ns);
    (void)store_add_head(&t->batch, &t->joined.epoch);
    (void)store_exists(&t->batch, CLEAT_NEVER);
    if (is_gone(&t->batch.values[0])) {
        for (uint32_t b = from; b < t->told; b++) {
            (void)store_add_ack(&t->batch, &t->joined.epoch, t->joined.receiver,
                                b);
        }
        if (t->gave_up) {
            (void)store_add_gave_up(&t->batch, &t->joined.epoch,
                                    t->joined.receiver);
        }
        (void)store_clear(&t->batch, CLEAT_NEVER, &removed);
        t->batch.count = 0;
    }
    t->joined.number = 0;
    t->told = 0;
    t->gave_up = false;
}

static void teller_work(void *job, uint64_t index)
{
    struct cleat_transport_receiver_context *r = job;
    struct cleat_message message;
    bool goes_on = true;

    (void)index;
    while (goes_on) {
        (void)r->acks.wait(r->acks.context, CLEAT_NEVER, &message);
        if (message.kind == ACK) { put_ack(r, &message); }
        if (message.kind == LEAVE || message.kind == ENDED) { take_back(r); }
        goes_on = message.kind != ENDED;
    }
    post(&r->news, ENDED);
}

/* ---- the user's functions ----------------------------------------------- */

static void receiver_leave(struct cleat_transport_receiver_context *r)
{
    if (!r->in) { return; }
    r->in = false;
    atomic_store(&r->live, 0);
    post(&r->fetches, LOOK);
    post(&r->acks, LEAVE);
}

static enum cleat_status status_in(const struct cleat_message *message)
{
    return (enum cleat_status)(int32_t)(int64_t)message->body[0];
}

/* Takes one message. Returns its kind, or 0 at the deadline. */
static uint32_t take_news(struct cleat_transport_receiver_context *r,
                          uint64_t deadline_ns)
{
    struct cleat_message message;

    if (r->news.wait(r->news.context, deadline_ns, &message) != CLEAT_OK) {
        return 0;
    }
    if (message.kind == WOKEN) { atomic_store(&r->woken, 0); }
    if (message.index != r->number) { return message.kind; }
    if (message.kind == JOINED) { r->joining = status_in(&message); }
    if (message.kind == OVER || message.kind == FINISHED) {
        r->over = status_in(&message);
        r->finished = message.kind == FINISHED;
    }
    if (message.kind == CAME && message.body[0] == r->came) {
        struct arrival *arrival =
            &r->arrivals[r->came % r->end.common.slots_count];

        arrival->bucket = r->came++;
        arrival->bytes = message.body[1];
        arrival->crc = (uint32_t)message.body[2];
    }
    return message.kind;
}

static enum cleat_status
read_ticket(const struct cleat_transport_receiver_context *r,
            const struct cleat_transport_ticket *ticket,
            struct store_record *record)
{
    size_t job_bytes = strlen(r->end.job);

    if (ticket->bytes_count != STORE_RECORD_BYTES + job_bytes ||
        !store_record_read(ticket->bytes, record) ||
        record->kind != STORE_TICKET || record->index == 0 ||
        memcmp(ticket->bytes + STORE_RECORD_BYTES, r->end.job, job_bytes) !=
            0) {
        return CLEAT_MALFORMED;
    }
    return record->bytes == r->end.common.bucket_bytes ? CLEAT_OK : CLEAT_LIMIT;
}

static enum cleat_status begin_join(struct cleat_transport_receiver_context *r,
                                    const struct store_record *record,
                                    uint32_t receiver_index)
{
    struct cleat_message message = {.kind = JOIN};
    enum cleat_status status;

    receiver_leave(r);
    r->number = r->number == UINT32_MAX ? 1 : r->number + 1;
    r->joined.number = r->number;
    r->joined.receiver = receiver_index;
    r->joined.epoch.run = record->run;
    r->joined.epoch.generation = record->generation;
    r->joined.epoch.version = record->version;
    r->came = 0;
    r->next = 0;
    r->over = CLEAT_OK;
    r->finished = false;
    r->joining = CLEAT_PENDING;
    write_joined(&message, &r->joined);
    atomic_store(&r->live, r->number);
    status = r->fetches.post(r->fetches.context, &message);
    if (status != CLEAT_OK) {
        atomic_store(&r->live, 0);
        return CLEAT_GROUP_FAILED;
    }
    r->in = true;
    return CLEAT_OK;
}

/* Whether a wake has interrupted the join of this very ticket. */
static bool is_joining(const struct cleat_transport_receiver_context *r,
                       const struct store_record *record,
                       uint32_t receiver_index)
{
    return r->in && r->joining == CLEAT_PENDING &&
           r->joined.receiver == receiver_index &&
           r->joined.epoch.run == record->run &&
           r->joined.epoch.generation == record->generation &&
           r->joined.epoch.version == record->version;
}

static enum cleat_status
receiver_join(struct cleat_transport_receiver_context *r,
              struct cleat_transport_ticket *ticket, uint32_t receiver_index,
              uint64_t deadline_ns)
{
    struct store_record record;
    enum cleat_status status;

    status = read_ticket(r, ticket, &record);
    if (status == CLEAT_OK && receiver_index >= record.index) {
        status = CLEAT_INVALID;
    }
    if (status == CLEAT_OK && !is_joining(r, &record, receiver_index)) {
        status = begin_join(r, &record, receiver_index);
    } else if (status != CLEAT_OK) {
        receiver_leave(r);
    }
    if (status != CLEAT_OK) { return status; }
    while (r->joining == CLEAT_PENDING) {
        uint32_t kind = take_news(r, deadline_ns);

        if (kind == WOKEN) { return CLEAT_PENDING; }
        if (kind == 0) {
            receiver_leave(r);
            return CLEAT_DEADLINE;
        }
    }
    if (r->joining != CLEAT_OK) { receiver_leave(r); }
    return r->joining;
}

/* Need the user wait no more for the next bucket? */
static bool has_end(const struct cleat_transport_receiver_context *r)
{
    return r->over != CLEAT_OK || r->came > r->next;
}

static enum cleat_status
receiver_wait(struct cleat_transport_receiver_context *r, uint32_t bucket,
              uint64_t deadline_ns, const void **data, uint64_t *bytes,
              uint32_t *crc)
{
    uint32_t slot = bucket % r->end.common.slots_count;
    uint32_t kind;

    if (!r->in || r->joining != CLEAT_OK || bucket != r->next) {
        return CLEAT_STATE;
    }
    /* All that has been said is heard first: it may be over. */
    do {
        kind = take_news(r, has_end(r) ? 0 : deadline_ns);
        if (kind == WOKEN) { return CLEAT_PENDING; }
    } while (kind != 0);
    if (!has_end(r)) { return CLEAT_DEADLINE; }
    if (r->over != CLEAT_OK) { return r->over; }
    *data = store_slot(&r->end, slot) + STORE_RECORD_BYTES;
    *bytes = r->arrivals[slot].bytes;
    *crc = r->arrivals[slot].crc;
    return CLEAT_OK;
}

static enum cleat_status
receiver_ack(struct cleat_transport_receiver_context *r, uint32_t bucket,
             enum cleat_status status)
{
    struct cleat_message message = {.kind = ACK};

    if (!r->in || r->joining != CLEAT_OK || bucket != r->next) {
        return CLEAT_STATE;
    }
    if (status > CLEAT_OK || status <= -128 ||
        (status == CLEAT_OK && bucket >= r->came)) {
        return CLEAT_STATE;
    }
    if (r->finished) { return CLEAT_PEER_STALE; }
    write_joined(&message, &r->joined);
    message.body[4] = bucket;
    message.body[5] = (uint64_t)(int64_t)status;
    if (r->acks.post(r->acks.context, &message) != CLEAT_OK) {
        return CLEAT_GROUP_FAILED;
    }
    r->next++;
    if (status != CLEAT_OK) {
        receiver_leave(r);
        return CLEAT_OK;
    }
    message.kind = RELEASE;
    /* When this is lost, a slot is; the queue is longer than they are many. */
    (void)r->fetches.post(r->fetches.context, &message);
    return CLEAT_OK;
}

static void receiver_wake(struct cleat_transport_receiver_context *r)
{
    if (atomic_exchange(&r->woken, 1) == 0) { post(&r->news, WOKEN); }
}

/* ---- opening and closing ------------------------------------------------ */

#define CONTEXT_BYTES \
    ((sizeof(struct cleat_transport_receiver_context) + 63) & ~(size_t)63)
#define FETCH_BATCH_BYTES STORE_BATCH_BYTES(FETCH_KEYS)
#define TELL_BATCH_BYTES STORE_BATCH_BYTES(CLEAT_STORE_RECEIVER_KEYS)
_Static_assert(TAKE_BACK_MAX + 1 <= CLEAT_STORE_RECEIVER_KEYS,
               "what is taken back fits a batch");
_Static_assert(FETCH_BATCH_BYTES % 8 == 0, "what follows it is aligned");

size_t
cleat_store_receiver_bytes(const struct cleat_store_receiver_config *config)
{
    (void)config;
    return CONTEXT_BYTES + FETCH_BATCH_BYTES + TELL_BATCH_BYTES;
}

static void fill_out(struct cleat_transport_receiver_context *r,
                     struct cleat_transport_receiver *out)
{
    out->context = r;
    out->join = receiver_join;
    out->wait = receiver_wait;
    out->ack = receiver_ack;
    out->wake = receiver_wake;
    out->leave = receiver_leave;
}

/* Until `count` jobs have ended. */
static void await_ends(struct cleat_transport_receiver_context *r,
                       uint32_t count)
{
    while (count > 0) {
        if (take_news(r, CLEAT_NEVER) == ENDED) { count--; }
    }
}

static void close_jobs(struct cleat_transport_receiver_context *r,
                       uint32_t count)
{
    struct cleat_message end = {.kind = ENDED};

    atomic_store(&r->live, 0);
    /* One that is under way, and what comes after it. */
    atomic_store(&r->until_ns,
                 cleat_time_add(now_ns(r), 2 * r->end.common.timeout_ns));
    atomic_store(&r->closing, 1);
    post(&r->fetches, LOOK);
    while (count == 2 && r->acks.post(r->acks.context, &end) != CLEAT_OK) {
        (void)take_news(r, now_ns(r) + r->end.common.pace_max_ns);
    }
    await_ends(r, count);
}

enum cleat_status cleat_store_receiver_open(
    void *block, size_t bytes, const struct cleat_store_receiver_config *config,
    struct cleat_transport_receiver *out, struct cleat_error *error)
{
    struct cleat_transport_receiver_context *r = block;
    size_t bytes_needed = cleat_store_receiver_bytes(config);
    const struct cleat_threads *threads = &config->common.threads;
    enum cleat_status status;

    memset(out, 0, sizeof *out);
    if (block == NULL || (uintptr_t)block % 64 != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "store transport: a block aligned to 64 bytes "
                               "is needed");
    }
    if (bytes < bytes_needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, bytes_needed,
                               "store transport: the block is too small");
    }
    memset(r, 0, bytes_needed);
    status = store_end_init(&r->end, &config->common,
                            CLEAT_STORE_RECEIVER_MAILBOXES, error);
    if (status != CLEAT_OK) { return status; }
    atomic_store(&r->until_ns, CLEAT_NEVER);
    r->news = r->end.common.mailboxes[NEWS];
    r->fetches = r->end.common.mailboxes[FETCHES];
    r->acks = r->end.common.mailboxes[ACKS];
    store_batch_init(&r->fetcher.batch, (unsigned char *)block + CONTEXT_BYTES,
                     FETCH_KEYS, &r->end.common);
    store_batch_init(&r->teller.batch,
                     (unsigned char *)block + CONTEXT_BYTES + FETCH_BATCH_BYTES,
                     CLEAT_STORE_RECEIVER_KEYS, &r->end.common);
    r->fetcher.batch.until_ns = &r->until_ns;
    r->teller.batch.until_ns = &r->until_ns;
    status = threads->submit(threads->context, fetcher_work, r, 0);
    if (status == CLEAT_OK) {
        status = threads->submit(threads->context, teller_work, r, 0);
        if (status != CLEAT_OK) { close_jobs(r, 1); }
    }
    if (status != CLEAT_OK) {
        return cleat_error_set(error, status, 2, 0,
                               "store transport: no thread for its jobs");
    }
    fill_out(r, out);
    return CLEAT_OK;
}

void cleat_store_receiver_close(struct cleat_transport_receiver *receiver)
{
    struct cleat_transport_receiver_context *r;

    if (receiver == NULL || receiver->context == NULL) { return; }
    r = receiver->context;
    receiver->context = NULL;
    receiver_leave(r);
    close_jobs(r, 2);
}
