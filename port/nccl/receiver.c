/* Cleat: a receiver's end of the NCCL transport. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include <string.h>

#include "engine.h"
#include "ticket.h"

/* How often a receiver that is joining looks whether the sender has given up:
 * shared memory tells nobody who waits for something else too. */
#define LOOK_NS (2 * CLEAT_NS_PER_MS)

struct cleat_transport_receiver_context {
    struct nccl_engine engine;
    struct cleat_transport_receiver control; /* over shared memory */
    bool joining; /* the group is being formed, also after a wake */
    bool joined;
    bool asked; /* the bucket was handed out, and not yet acknowledged */
    bool wants; /* the next bucket was waited for, and has not come */
    enum cleat_status failed; /* what has gone wrong in this generation */
    uint32_t acked;
    _Alignas(64) unsigned char control_block[CLEAT_MEMORY_RECEIVER_BYTES];
};

_Static_assert(sizeof(struct cleat_transport_receiver_context) <=
                   CLEAT_NCCL_BYTES,
               "CLEAT_NCCL_BYTES is enough");

/* With the lock held: everything that came was acknowledged, something did, and
 * nothing more was waited for. */
static bool is_clean(const struct cleat_transport_receiver_context *r)
{
    return r->joined && r->failed == CLEAT_OK && !r->wants && r->acked != 0 &&
           r->engine.first == r->engine.next && nccl_is_healthy(&r->engine);
}

/* With the lock held: the generation is over. Who leaves it whole keeps the
 * group. Anybody else leaves that too, and says so to the sender, which must
 * not count on it for the next generation; it has no effect on one that knows
 * already, or is elsewhere. */
static void leave(struct cleat_transport_receiver_context *r)
{
    struct nccl_engine *engine = &r->engine;
    bool clean = is_clean(r);

    if (!r->joined && !r->joining) { return; }
    if (!clean) {
        (void)r->control.ack(r->control.context, r->acked,
                             r->failed != CLEAT_OK ? r->failed
                                                   : CLEAT_CANCELLED);
    }
    r->joined = false;
    r->joining = false;
    engine->fetches_from = NULL;
    r->control.leave(r->control.context);
    if (!clean) { nccl_stop(engine, CLEAT_GROUP_FAILED); }
}

static void receiver_leave(struct cleat_transport_receiver_context *r)
{
    nccl_lock(&r->engine);
    leave(r);
    nccl_unlock(&r->engine);
}

/* With the lock held: takes the place in the generation that a ticket tells of.
 * From then on the sender can be told what goes wrong. */
static enum cleat_status take_place(struct cleat_transport_receiver_context *r,
                                    const struct cleat_transport_ticket *inner,
                                    uint32_t receiver_index)
{
    struct cleat_transport_ticket ticket = *inner;
    enum cleat_status status = r->control.join(r->control.context, &ticket,
                                               receiver_index, 0);

    r->joining = status == CLEAT_OK;
    r->failed = CLEAT_OK;
    r->asked = false;
    r->wants = false;
    r->acked = 0;
    return status;
}

/* With the lock held: what this end thinks of the group that it is to belong
 * to. CLEAT_PENDING: it is to be formed; CLEAT_OK: we are in it. */
static enum cleat_status accept(struct nccl_engine *engine,
                                const struct nccl_group *group, bool fresh,
                                uint32_t units)
{
    if (units > nccl_bucket_units(engine->config.bucket_bytes)) {
        return CLEAT_LIMIT;
    }
    if (group->rank >= group->ranks) { return CLEAT_INVALID; }
    if (nccl_is_lost(engine)) { return CLEAT_DEVICE_LOST; }
    if (nccl_is_healthy(engine) &&
        memcmp(&engine->group, group, sizeof *group) == 0) {
        engine->first = 0;
        engine->next = 0;
        return CLEAT_OK;
    }
    if (!fresh) { return CLEAT_GROUP_FAILED; } /* formed without us */
    if (group->epoch <= engine->stop.epoch) { return CLEAT_PEER_STALE; }
    if (group->registers != 0 && !nccl_can_register(engine)) {
        return CLEAT_UNSUPPORTED;
    }
    engine->group = *group;
    return CLEAT_PENDING;
}

/* With the lock held: a new ticket. As accept. */
static enum cleat_status begin(struct cleat_transport_receiver_context *r,
                               struct cleat_transport_ticket *ticket,
                               uint32_t receiver_index)
{
    struct cleat_transport_ticket inner;
    struct nccl_group group;
    enum cleat_status status;
    bool fresh = false;
    uint32_t units = 0;
    bool ours = nccl_ticket_read(ticket, &group, &fresh, &units, &inner);

    leave(r);
    /* Takes the descriptors; refuses what is not a ticket of its own, as is
     * what came with none of ours. */
    status = take_place(r, &inner, receiver_index);
    if (!ours) { return CLEAT_MALFORMED; }
    if (status != CLEAT_OK) { return status; }
    group.rank = receiver_index + 1;
    return accept(&r->engine, &group, fresh, units);
}

/* With the lock held: waits until the group is formed, or until the sender has
 * given up. */
static enum cleat_status form(struct cleat_transport_receiver_context *r,
                              uint64_t deadline_ns)
{
    struct nccl_engine *engine = &r->engine;

    for (;;) {
        enum cleat_status status = nccl_form(engine, deadline_ns);
        uint64_t look_ns = nccl_now_ns() + LOOK_NS;
        const void *data = NULL;

        if (status != CLEAT_PENDING || nccl_take_wake(engine)) {
            return status;
        }
        status = cleat_memory_receiver_peek(&r->control, 0, &data, NULL, NULL);
        if (status < CLEAT_OK) { return status; }
        (void)nccl_wait(engine, look_ns < deadline_ns ? look_ns : deadline_ns);
    }
}

static enum cleat_status
receiver_join(struct cleat_transport_receiver_context *r,
              struct cleat_transport_ticket *ticket, uint32_t receiver_index,
              uint64_t deadline_ns)
{
    struct nccl_engine *engine = &r->engine;
    enum cleat_status status = CLEAT_PENDING;
    bool goes_on;

    nccl_lock(engine);
    goes_on = r->joining && ticket->fds_count != 0 && ticket->fds[0] < 0;
    if (!goes_on) { status = begin(r, ticket, receiver_index); }
    if (status == CLEAT_PENDING) { status = form(r, deadline_ns); }
    if (status == CLEAT_OK) {
        r->joining = false;
        r->joined = true;
        engine->fetch_status = CLEAT_OK;
        engine->fetches_from = &r->control;
        nccl_changed(engine);
    } else if (status != CLEAT_PENDING) {
        r->failed = status;
        leave(r);
    }
    nccl_unlock(engine);
    /* The sender has been told; the next group will be another. */
    return status == CLEAT_UNSUPPORTED ? CLEAT_GROUP_FAILED : status;
}

/* With the lock held: why no bucket will come. */
static enum cleat_status broken(const struct nccl_engine *engine)
{
    if (nccl_is_lost(engine)) { return CLEAT_DEVICE_LOST; }
    if (engine->fetch_status != CLEAT_OK) { return engine->fetch_status; }
    return nccl_is_healthy(engine) ? CLEAT_OK : CLEAT_GROUP_FAILED;
}

static enum cleat_status
receiver_wait(struct cleat_transport_receiver_context *r, uint32_t bucket,
              uint64_t deadline_ns, const void **data, uint64_t *bytes,
              uint32_t *crc)
{
    struct nccl_engine *engine = &r->engine;
    const struct nccl_op *op = nccl_op_at(engine, bucket);
    enum cleat_status status = CLEAT_OK;

    nccl_lock(engine);
    if (!r->joined || bucket != r->acked) { status = CLEAT_STATE; }
    r->wants = r->wants || status == CLEAT_OK;
    while (status == CLEAT_OK &&
           (op->state != NCCL_OP_DONE || op->bucket != bucket)) {
        status = broken(engine);
        if (status == CLEAT_OK && engine->woken) {
            engine->woken = false;
            status = CLEAT_PENDING;
        } else if (status == CLEAT_OK && !nccl_wait(engine, deadline_ns)) {
            status = CLEAT_DEADLINE;
        }
    }
    if (status == CLEAT_OK) {
        r->asked = true;
        r->wants = false;
        *data = nccl_place(engine, bucket % engine->config.slots_count);
        *bytes = op->bytes;
        *crc = op->crc;
    } else if (status != CLEAT_PENDING && status != CLEAT_DEADLINE &&
               status != CLEAT_STATE && r->failed == CLEAT_OK) {
        r->failed = status;
    }
    nccl_unlock(engine);
    return status;
}

static enum cleat_status
receiver_ack(struct cleat_transport_receiver_context *r, uint32_t bucket,
             enum cleat_status status)
{
    struct nccl_engine *engine = &r->engine;
    enum cleat_status result = CLEAT_STATE;

    nccl_lock(engine);
    if (r->joined && bucket == r->acked && (r->asked || status != CLEAT_OK)) {
        result = r->control.ack(r->control.context, bucket, status);
        if (r->failed == CLEAT_OK) {
            r->failed = status != CLEAT_OK ? status : result;
        }
    }
    if (result == CLEAT_OK && status == CLEAT_OK) {
        nccl_op_at(engine, bucket)->state = NCCL_OP_FREE;
        engine->first++;
        r->acked++;
        r->asked = false;
        nccl_changed(engine); /* there is room for another */
    }
    nccl_unlock(engine);
    return result;
}

static void receiver_wake(struct cleat_transport_receiver_context *r)
{
    nccl_lock(&r->engine);
    r->engine.woken = true;
    nccl_changed(&r->engine);
    nccl_unlock(&r->engine);
}

/* ---- open and close ---- */

enum cleat_status cleat_nccl_receiver_open(
    void *block, size_t bytes, const struct cleat_nccl_config *config,
    struct cleat_transport_receiver *out, struct cleat_error *error)
{
    struct cleat_transport_receiver_context *r = block;
    struct cleat_memory_receiver_config control;
    enum cleat_status status = nccl_block_check(block, bytes, config, out,
                                                error);

    if (status != CLEAT_OK) { return status; }
    memset(out, 0, sizeof *out);
    memset(r, 0, sizeof *r);
    memset(&control, 0, sizeof control);
    status = cleat_memory_receiver_open(r->control_block,
                                        sizeof r->control_block, &control,
                                        &r->control, error);
    if (status != CLEAT_OK) { return status; }
    status = nccl_engine_open(&r->engine, config, error);
    if (status != CLEAT_OK) {
        cleat_memory_receiver_close(&r->control);
        return status;
    }
    out->context = r;
    out->join = receiver_join;
    out->wait = receiver_wait;
    out->ack = receiver_ack;
    out->wake = receiver_wake;
    out->leave = receiver_leave;
    return CLEAT_OK;
}

enum cleat_status
cleat_nccl_receiver_close(struct cleat_transport_receiver *receiver)
{
    struct cleat_transport_receiver_context *r;
    enum cleat_status status;

    if (receiver == NULL || receiver->context == NULL) { return CLEAT_OK; }
    r = receiver->context;
    receiver_leave(r);
    status = nccl_engine_close(&r->engine);
    cleat_memory_receiver_close(&r->control);
    receiver->context = NULL;
    return status;
}

uint64_t
cleat_nccl_receiver_device(const struct cleat_transport_receiver *receiver,
                           const void *data)
{
    const struct nccl_engine *engine = &receiver->context->engine;
    uintptr_t at = (uintptr_t)data;

    for (uint32_t slot = 0; slot < engine->config.slots_count; slot++) {
        uintptr_t from = (uintptr_t)nccl_place(engine, slot);

        if (at >= from && at - from < engine->config.bucket_bytes) {
            return cleat_cuda_slot(engine->cuda, slot) + (at - from);
        }
    }
    return 0;
}

void cleat_nccl_receiver_lose(const struct cleat_transport_receiver *receiver)
{
    nccl_engine_lose(&receiver->context->engine);
}

void cleat_nccl_receiver_account(
    const struct cleat_transport_receiver *receiver,
    struct cleat_nccl_account *account)
{
    nccl_engine_account(&receiver->context->engine, account);
}
