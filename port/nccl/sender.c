/* Cleat: the sender's end of the NCCL transport. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include <string.h>

#include "engine.h"
#include "ticket.h"

struct cleat_transport_sender_context {
    struct nccl_engine engine;
    struct cleat_transport_sender control; /* over shared memory */
    uint64_t generation;
    uint32_t receivers_count;
    uint32_t published;
    bool running; /* between prepare and finish */
    bool plain;   /* a receiver cannot register its slots: none does */
    bool reuses;  /* the group was formed in an earlier generation */
    _Alignas(64) unsigned char control_block[CLEAT_MEMORY_SENDER_BYTES];
};

_Static_assert(sizeof(struct cleat_transport_sender_context) <=
                   CLEAT_NCCL_BYTES,
               "CLEAT_NCCL_BYTES is enough");

/* ---- a generation's end ---- */

/* Every receiver has acknowledged every bucket, and there were some. Also asked
 * when the generation is over: a receiver that had nothing more to acknowledge,
 * and waited for a bucket that never came, says so when it leaves. */
static bool all_acked(const struct cleat_transport_sender_context *s)
{
    for (uint32_t i = 0; i < s->receivers_count; i++) {
        enum cleat_status status = CLEAT_OK;
        uint32_t buckets_acked = 0;

        if (cleat_memory_sender_acked(&s->control, i, &buckets_acked,
                                      &status) != CLEAT_OK ||
            status != CLEAT_OK || buckets_acked != s->published) {
            return false;
        }
    }
    return s->published != 0;
}

/* With the lock held. What was sent has been received by all, so our own end
 * of it is a matter of moments. */
static bool settles(struct nccl_engine *engine)
{
    uint64_t deadline_ns = cleat_time_add(nccl_now_ns(),
                                          engine->stop.config.call_ns);

    while (nccl_is_healthy(engine)) {
        while (engine->first != engine->next &&
               nccl_op_at(engine, engine->first)->state == NCCL_OP_DONE) {
            nccl_op_at(engine, engine->first)->state = NCCL_OP_FREE;
            engine->first++;
        }
        if (engine->first == engine->next) { return true; }
        if (!nccl_wait(engine, deadline_ns)) { return false; }
    }
    return false;
}

static void sender_finish(struct cleat_transport_sender_context *s)
{
    bool clean;

    if (!s->running) { return; }
    clean = all_acked(s);
    s->running = false;
    s->control.finish(s->control.context);
    nccl_lock(&s->engine);
    if (!clean || !settles(&s->engine)) {
        nccl_stop(&s->engine, CLEAT_GROUP_FAILED);
    }
    nccl_unlock(&s->engine);
}

/* ---- prepare ---- */

/* With the lock held: an id for a fresh group. */
static enum cleat_status take_id(struct nccl_engine *engine)
{
    engine->id_wanted = !engine->id_ready;
    engine->id_status = engine->id_ready ? CLEAT_OK : CLEAT_PENDING;
    nccl_changed(engine);
    while (engine->id_status == CLEAT_PENDING) {
        if (nccl_is_lost(engine)) { return CLEAT_DEVICE_LOST; }
        (void)nccl_wait(engine, CLEAT_NEVER); /* the machine's deadlines end
                                                 it: an id's call has one, and
                                                 so has what goes before it */
    }
    if (engine->id_status != CLEAT_OK) { return engine->id_status; }
    engine->id_ready = false;
    return CLEAT_OK;
}

/* With the lock held. */
static enum cleat_status choose_group(struct cleat_transport_sender_context *s,
                                      uint32_t ranks)
{
    struct nccl_engine *engine = &s->engine;
    enum cleat_status status;
    uint64_t epoch;

    if (nccl_is_lost(engine)) { return CLEAT_DEVICE_LOST; }
    s->reuses = nccl_is_healthy(engine) && engine->group.ranks == ranks;
    if (s->reuses) {
        engine->first = 0;
        engine->next = 0;
        return CLEAT_OK;
    }
    nccl_stop(engine, CLEAT_GROUP_FAILED);
    status = take_id(engine);
    if (status != CLEAT_OK) { return status; }
    /* Later than any group's of this machine, whoever formed it. */
    epoch = nccl_now_ns();
    if (epoch <= engine->group.epoch) { epoch = engine->group.epoch + 1; }
    engine->group.epoch = epoch;
    engine->group.id = engine->id_made;
    engine->group.ranks = ranks;
    engine->group.rank = 0;
    engine->group.topology = engine->config.topology;
    engine->group.registers = !s->plain && nccl_can_register(engine);
    return CLEAT_OK;
}

static enum cleat_status
sender_prepare(struct cleat_transport_sender_context *s, uint64_t generation,
               uint32_t receivers_count, struct cleat_transport_ticket *ticket)
{
    struct cleat_transport_ticket inner;
    enum cleat_status status;
    bool kept;

    if (receivers_count == 0 || ticket == NULL ||
        receivers_count > s->engine.config.receivers_max) {
        return CLEAT_INVALID;
    }
    sender_finish(s);
    kept = all_acked(s);
    status = s->control.prepare(s->control.context, generation, receivers_count,
                                &inner);
    if (status != CLEAT_OK) { return status; }
    nccl_lock(&s->engine);
    if (!kept) { nccl_stop(&s->engine, CLEAT_GROUP_FAILED); }
    status = choose_group(s, receivers_count + 1);
    if (status == CLEAT_OK &&
        !nccl_ticket_write(ticket, &s->engine.group, !s->reuses,
                           s->engine.config.bucket_bytes, &inner)) {
        status = CLEAT_LIMIT;
    }
    nccl_unlock(&s->engine);
    if (status != CLEAT_OK) {
        s->control.finish(s->control.context);
        return status;
    }
    s->generation = generation;
    s->receivers_count = receivers_count;
    s->published = 0;
    s->running = true;
    return CLEAT_OK;
}

/* What a receiver has said. One that cannot register its slots costs this
 * group, and from then on no rank does: NCCL wants all of them or none. */
static enum cleat_status hear(struct cleat_transport_sender_context *s,
                              uint32_t receiver, uint32_t *buckets_acked,
                              enum cleat_status *status)
{
    enum cleat_status result = s->control.acked(s->control.context, receiver,
                                                buckets_acked, status);

    s->plain = s->plain || *status == CLEAT_UNSUPPORTED;
    return result;
}

static bool has_lost_one(struct cleat_transport_sender_context *s)
{
    bool lost = false;

    for (uint32_t i = 0; i < s->receivers_count; i++) {
        enum cleat_status status = CLEAT_OK;
        uint32_t buckets_acked = 0;

        (void)hear(s, i, &buckets_acked, &status);
        lost = lost || status != CLEAT_OK;
    }
    return lost;
}

/* How far the group is; when something may have changed by itself at the
 * latest, in *until_ns. */
static enum cleat_status form(struct cleat_transport_sender_context *s,
                              uint64_t deadline_ns, uint64_t *until_ns)
{
    struct nccl_engine *engine = &s->engine;
    enum cleat_status status;

    nccl_lock(engine);
    status = nccl_form(engine, deadline_ns);
    if (status == CLEAT_PENDING && has_lost_one(s)) {
        nccl_stop(engine, CLEAT_GROUP_FAILED);
        status = CLEAT_GROUP_FAILED;
    }
    *until_ns = nccl_look_ns(engine, nccl_now_ns());
    if (*until_ns > deadline_ns) { *until_ns = deadline_ns; }
    if (status == CLEAT_PENDING && nccl_take_wake(engine)) { *until_ns = 0; }
    nccl_unlock(engine);
    /* Its own refusal, as a receiver's. */
    return status == CLEAT_UNSUPPORTED ? CLEAT_GROUP_FAILED : status;
}

/* Waits in the shared memory, where receivers say that they cannot join, and
 * which every move of the device's machine wakes. */
static enum cleat_status sender_group(struct cleat_transport_sender_context *s,
                                      uint64_t deadline_ns)
{
    enum cleat_status status = CLEAT_STATE;
    uint64_t until_ns = 0;

    if (!s->running) { return CLEAT_STATE; }
    do {
        if (until_ns != 0) {
            (void)s->control.wait(s->control.context, until_ns);
        }
        status = form(s, deadline_ns, &until_ns);
    } while (status == CLEAT_PENDING && until_ns != 0);
    return status;
}

/* ---- buckets ---- */

/* With the lock held: why the group cannot be used. */
static enum cleat_status broken(struct nccl_engine *engine)
{
    if (nccl_is_lost(engine)) { return CLEAT_DEVICE_LOST; }
    return nccl_is_healthy(engine) ? CLEAT_OK : CLEAT_GROUP_FAILED;
}

/* With the lock held: waits until NCCL has read what the slot was used for
 * before. The receivers have it, so that is a matter of moments. */
static enum cleat_status free_slot(struct nccl_engine *engine, uint32_t slot)
{
    uint64_t deadline_ns = cleat_time_add(nccl_now_ns(),
                                          engine->stop.config.call_ns);

    while (nccl_is_healthy(engine) && engine->ops[slot].state != NCCL_OP_FREE) {
        if (engine->first != engine->next &&
            nccl_op_at(engine, engine->first)->state == NCCL_OP_DONE) {
            nccl_op_at(engine, engine->first)->state = NCCL_OP_FREE;
            engine->first++;
        } else if (!nccl_wait(engine, deadline_ns)) {
            nccl_stop(engine, CLEAT_GROUP_FAILED);
        }
    }
    return engine->ops[slot].state == NCCL_OP_FREE ? CLEAT_OK : broken(engine);
}

/* Where the source writes to the device itself, it is told of a slot that is
 * free; a pinned one is, once the receivers have what was in it. */
static enum cleat_status sender_slot(struct cleat_transport_sender_context *s,
                                     uint32_t slot, void **data,
                                     uint64_t *bytes_max)
{
    enum cleat_status status = CLEAT_OK;

    if (slot >= s->engine.config.slots_count) { return CLEAT_INVALID; }
    if (s->running && s->engine.config.on_device != 0) {
        nccl_lock(&s->engine);
        status = free_slot(&s->engine, slot);
        nccl_unlock(&s->engine);
    }
    *data = nccl_place(&s->engine, slot);
    *bytes_max = s->engine.config.bucket_bytes;
    return status;
}

/* With the lock held: asks for a bucket, once its slot is free. */
static enum cleat_status enqueue(struct nccl_engine *engine, uint32_t bucket,
                                 uint64_t bytes)
{
    struct nccl_op *op = nccl_op_at(engine, bucket);
    enum cleat_status status = free_slot(engine,
                                         bucket % engine->config.slots_count);

    if (status == CLEAT_OK) { status = broken(engine); }
    if (status != CLEAT_OK) { return status; }
    memset(op, 0, sizeof *op);
    op->bucket = bucket;
    op->bytes = bytes;
    op->state = NCCL_OP_QUEUED;
    engine->next++;
    nccl_changed(engine);
    return CLEAT_OK;
}

static enum cleat_status
sender_publish(struct cleat_transport_sender_context *s, uint32_t slot,
               uint32_t bucket, uint64_t bytes, uint32_t crc)
{
    struct nccl_descriptor descriptor;
    enum cleat_status status;
    uint64_t bytes_max = 0;
    void *data = NULL;

    if (!s->running) { return CLEAT_STATE; }
    if (bucket != s->published || bytes > s->engine.config.bucket_bytes ||
        slot != bucket % s->engine.config.slots_count) {
        return CLEAT_INVALID;
    }
    nccl_lock(&s->engine);
    status = enqueue(&s->engine, bucket, bytes);
    descriptor.bytes = bytes;
    descriptor.epoch = s->engine.group.epoch;
    nccl_unlock(&s->engine);
    if (status != CLEAT_OK) { return status; }
    status = s->control.slot(s->control.context, slot, &data, &bytes_max);
    if (status == CLEAT_OK) {
        memcpy(data, &descriptor, sizeof descriptor);
        status = s->control.publish(s->control.context, slot, bucket,
                                    sizeof descriptor, crc);
    }
    if (status == CLEAT_OK) { s->published++; }
    return status;
}

static enum cleat_status sender_acked(struct cleat_transport_sender_context *s,
                                      uint32_t receiver,
                                      uint32_t *buckets_acked,
                                      enum cleat_status *status)
{
    enum cleat_status result = hear(s, receiver, buckets_acked, status);
    enum cleat_status why;

    if (result == CLEAT_INVALID || result == CLEAT_STATE) { return result; }
    nccl_lock(&s->engine);
    /* Without one of its members the group cannot go on. */
    if (*status != CLEAT_OK) { nccl_stop(&s->engine, CLEAT_GROUP_FAILED); }
    why = broken(&s->engine);
    nccl_unlock(&s->engine);
    if (*status != CLEAT_OK) { return result; }
    if (why != CLEAT_OK && *buckets_acked != s->published) {
        *buckets_acked = 0;
        *status = why;
    }
    return CLEAT_OK;
}

/* Acknowledgements ring in the shared memory; what goes wrong here wakes it.
 * The machine's deadlines are looked after too: the owner may be stuck. */
static enum cleat_status sender_wait(struct cleat_transport_sender_context *s,
                                     uint64_t deadline_ns)
{
    enum cleat_status status;
    uint64_t until_ns;
    bool woken;

    nccl_lock(&s->engine);
    nccl_tick(&s->engine);
    until_ns = nccl_look_ns(&s->engine, nccl_now_ns());
    woken = nccl_take_wake(&s->engine);
    nccl_unlock(&s->engine);
    if (woken) { return CLEAT_OK; }
    if (until_ns > deadline_ns) { until_ns = deadline_ns; }
    status = s->control.wait(s->control.context, until_ns);
    if (status != CLEAT_DEADLINE || until_ns == deadline_ns) { return status; }
    nccl_lock(&s->engine);
    nccl_tick(&s->engine);
    nccl_unlock(&s->engine);
    return CLEAT_OK;
}

static void sender_wake(struct cleat_transport_sender_context *s)
{
    nccl_lock(&s->engine);
    s->engine.woken = true;
    nccl_changed(&s->engine);
    nccl_unlock(&s->engine);
    s->control.wake(s->control.context);
}

/* ---- open and close ---- */

enum cleat_status cleat_nccl_sender_open(void *block, size_t bytes,
                                         const struct cleat_nccl_config *config,
                                         struct cleat_transport_sender *out,
                                         struct cleat_error *error)
{
    struct cleat_transport_sender_context *s = block;
    struct cleat_memory_sender_config control;
    enum cleat_status status = nccl_block_check(block, bytes, config, out,
                                                error);

    if (status != CLEAT_OK) { return status; }
    memset(out, 0, sizeof *out);
    memset(s, 0, sizeof *s);
    memset(&control, 0, sizeof control);
    control.bucket_bytes = sizeof(struct nccl_descriptor);
    control.slots_count = config->slots_count != 0 ? config->slots_count
                                                   : CLEAT_NCCL_SLOTS_DEFAULT;
    control.receivers_max = config->receivers_max != 0
                                ? config->receivers_max
                                : CLEAT_NCCL_RECEIVERS_DEFAULT;
    control.pages = CLEAT_MEMORY_PAGES_SMALL;
    status = cleat_memory_sender_open(s->control_block, sizeof s->control_block,
                                      &control, &s->control, error);
    if (status != CLEAT_OK) { return status; }
    status = nccl_engine_open(&s->engine, config, error);
    if (status != CLEAT_OK) {
        cleat_memory_sender_close(&s->control);
        return status;
    }
    nccl_lock(&s->engine);
    s->engine.wakes = &s->control;
    nccl_unlock(&s->engine);
    out->context = s;
    out->slots_count = s->engine.config.slots_count;
    out->receivers_max = s->engine.config.receivers_max;
    out->slot_bytes_max = s->engine.config.bucket_bytes;
    out->prepare = sender_prepare;
    out->group = sender_group;
    out->slot = sender_slot;
    out->publish = sender_publish;
    out->acked = sender_acked;
    out->wait = sender_wait;
    out->wake = sender_wake;
    out->finish = sender_finish;
    return CLEAT_OK;
}

enum cleat_status cleat_nccl_sender_close(struct cleat_transport_sender *sender)
{
    struct cleat_transport_sender_context *s;
    enum cleat_status status;

    if (sender == NULL || sender->context == NULL) { return CLEAT_OK; }
    s = sender->context;
    sender_finish(s);
    status = nccl_engine_close(&s->engine);
    cleat_memory_sender_close(&s->control);
    sender->context = NULL;
    return status;
}

void cleat_nccl_sender_lose(const struct cleat_transport_sender *sender)
{
    nccl_engine_lose(&sender->context->engine);
}

void cleat_nccl_sender_account(const struct cleat_transport_sender *sender,
                               struct cleat_nccl_account *account)
{
    nccl_engine_account(&sender->context->engine, account);
}
