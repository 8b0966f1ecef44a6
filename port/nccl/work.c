/* Cleat: buckets through NCCL, step by step. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The owner's. A bucket's step is a few calls that do not wait; between two
 * steps the lock is free. Buckets are given to NCCL in their order, the same on
 * every rank, and the next only when NCCL has put the one before it on the
 * stream: until then no other call may be made on the communicator, and nothing
 * else may be put on that stream. */
#define _GNU_SOURCE
#include <string.h>

#include "engine.h"

enum side { SENDS, RECEIVES };

static enum side side_of(const struct nccl_engine *engine)
{
    return engine->built.rank == 0 ? SENDS : RECEIVES;
}

/* ---- the steps; called without the lock ---- */

struct step {
    struct nccl_engine *engine;
    struct nccl_op op; /* a copy */
    uint32_t slot;
    uint32_t before; /* the event between the two streams */
    uint32_t after;  /* the event behind it all */
};

/* Sender: from the pinned slot to the device's, where it is not yet. */
static enum cleat_status stage(struct step *step)
{
    struct cleat_cuda *cuda = step->engine->cuda;
    enum cleat_status status;

    if (step->engine->config.on_device != 0) { return CLEAT_OK; }
    status = cleat_cuda_copy(
        cuda, NCCL_COPY_STREAM, cleat_cuda_slot(cuda, step->slot),
        (uint64_t)(uintptr_t)cleat_cuda_staging(cuda, step->slot),
        step->op.bytes);

    if (status != CLEAT_OK) { return status; }
    return cleat_cuda_record(cuda, step->before, NCCL_COPY_STREAM);
}

static ncclResult_t send_or_receive(struct step *step)
{
    const struct nccl_engine *engine = step->engine;
    const struct nccl_library *library = &engine->nccl;
    void *slot = (void *)(uintptr_t)cleat_cuda_slot(engine->cuda, step->slot);
    cudaStream_t stream = cleat_cuda_stream(engine->cuda, NCCL_DATA_STREAM);
    size_t bytes = (size_t)step->op.bytes;
    ncclResult_t result = ncclSuccess;

    if (engine->built.topology == CLEAT_NCCL_BROADCAST) {
        return library->p_ncclBroadcast(slot, slot, bytes, ncclUint8, 0,
                                        engine->comm, stream);
    }
    if (side_of(engine) == RECEIVES) {
        return library->p_ncclRecv(slot, bytes, ncclUint8, 0, engine->comm,
                                   stream);
    }
    for (int peer = 1; result == ncclSuccess && peer < (int)engine->built.ranks;
         peer++) {
        if (!nccl_may_call(library)) { return ncclUnhandledCudaError; }
        result = library->p_ncclSend(slot, bytes, ncclUint8, peer, engine->comm,
                                     stream);
    }
    return result;
}

static enum cleat_status ask(struct step *step)
{
    struct nccl_engine *engine = step->engine;
    ncclResult_t state = ncclInProgress;
    ncclResult_t result = engine->nccl.p_ncclCommGetAsyncError(engine->comm,
                                                               &state);

    return nccl_judge(step->engine, result != ncclSuccess ? result : state);
}

/* One group for the bucket, whatever is in it. */
static enum cleat_status group(struct step *step)
{
    struct nccl_engine *engine = step->engine;
    const struct nccl_library *library = &engine->nccl;
    enum cleat_status status = CLEAT_OK;
    ncclResult_t result;
    ncclResult_t ended;

    if (side_of(engine) == SENDS && engine->config.on_device == 0) {
        status = cleat_cuda_after(engine->cuda, NCCL_DATA_STREAM, step->before);
    }
    if (status != CLEAT_OK) { return status; }
    if (!nccl_may_call(library)) { return CLEAT_DEVICE_LOST; }
    result = library->p_ncclGroupStart();
    if (result != ncclSuccess) { return nccl_judge(step->engine, result); }
    if (!nccl_may_call(library)) { return CLEAT_DEVICE_LOST; }
    result = send_or_receive(step);
    if (!nccl_may_call(library)) { return CLEAT_DEVICE_LOST; }
    ended = library->p_ncclGroupEnd(); /* also what has failed is ended */
    if (result == ncclSuccess || result == ncclInProgress) { result = ended; }
    status = nccl_judge(engine, result);
    return status == CLEAT_OK ? CLEAT_PENDING : status;
}

/* It is on the stream: an event goes behind it, or at the receiver behind the
 * copy to the host. */
static enum cleat_status finish(struct step *step)
{
    struct cleat_cuda *cuda = step->engine->cuda;
    enum cleat_status status;

    if (side_of(step->engine) == SENDS || step->engine->config.on_device != 0) {
        return cleat_cuda_record(cuda, step->after, NCCL_DATA_STREAM);
    }
    status = cleat_cuda_record(cuda, step->before, NCCL_DATA_STREAM);
    if (status == CLEAT_OK) {
        status = cleat_cuda_after(cuda, NCCL_COPY_STREAM, step->before);
    }
    if (status == CLEAT_OK) {
        status = cleat_cuda_copy(
            cuda, NCCL_COPY_STREAM,
            (uint64_t)(uintptr_t)cleat_cuda_staging(cuda, step->slot),
            cleat_cuda_slot(cuda, step->slot), step->op.bytes);
    }
    if (status == CLEAT_OK) {
        status = cleat_cuda_record(cuda, step->after, NCCL_COPY_STREAM);
    }
    return status;
}

static enum cleat_status ask_and_finish(struct step *step)
{
    enum cleat_status status = ask(step);

    return status == CLEAT_OK ? finish(step) : status;
}

/* Whether it has been passed; also whether a peer has been found to be gone. */
static enum cleat_status look(struct step *step)
{
    enum cleat_status status = cleat_cuda_passed(step->engine->cuda,
                                                 step->after);

    if (status != CLEAT_PENDING) { return status; }
    status = ask(step);
    return status < CLEAT_OK ? status : CLEAT_PENDING;
}

/* Gives the op to NCCL, if the communicator is well: after an error that has
 * come meanwhile nothing may be called but an abort. */
static enum cleat_status give(struct step *step, enum nccl_op_state *next)
{
    enum cleat_status status = ask(step);

    if (status != CLEAT_OK) { return status; }
    status = group(step);
    if (status == CLEAT_PENDING) { *next = NCCL_OP_GROUPED; }
    return status;
}

/* Makes the step of an op in this state; *next is where it goes when that
 * returns CLEAT_OK, or CLEAT_PENDING with *next another state. */
static enum cleat_status make_step(struct step *step, enum nccl_op_state *next)
{
    enum cleat_status status;

    *next = step->op.state;
    if (step->op.bytes == 0) { /* every rank knows that it is empty */
        *next = NCCL_OP_DONE;
        return CLEAT_OK;
    }
    switch (step->op.state) {
    case NCCL_OP_QUEUED:
        if (side_of(step->engine) == SENDS) {
            *next = NCCL_OP_STAGED;
            return stage(step);
        }
        return give(step, next);
    case NCCL_OP_STAGED: return give(step, next);
    case NCCL_OP_GROUPED:
        status = ask_and_finish(step);
        if (status == CLEAT_OK) { *next = NCCL_OP_RUNNING; }
        return status;
    default:
        status = look(step);
        if (status == CLEAT_OK) { *next = NCCL_OP_DONE; }
        return status;
    }
}

/* ---- which step is next; with the lock ---- */

/* What the sender has published as the next bucket. CLEAT_OK; CLEAT_PENDING;
 * why nothing will come any more. */
static enum cleat_status peek(const struct nccl_engine *engine,
                              struct nccl_descriptor *descriptor, uint32_t *crc)
{
    const void *data = NULL;
    uint64_t bytes = 0;
    enum cleat_status status = cleat_memory_receiver_peek(
        engine->fetches_from, engine->next, &data, &bytes, crc);

    memset(descriptor, 0, sizeof *descriptor);
    if (status != CLEAT_OK) { return status; }
    if (bytes != sizeof *descriptor) { return CLEAT_PEER_DEVIANT; }
    memcpy(descriptor, data, sizeof *descriptor);
    return descriptor->epoch == engine->group.epoch &&
                   descriptor->bytes <= engine->config.bucket_bytes
               ? CLEAT_OK
               : CLEAT_PEER_DEVIANT;
}

/* The receiver's: takes note of what the sender has published ahead. It looks
 * also when there is no room, for the sender may have given up. */
static bool fetch(struct nccl_engine *engine)
{
    struct nccl_op *op = nccl_op_at(engine, engine->next);
    struct nccl_descriptor descriptor;
    enum cleat_status status;
    uint32_t crc = 0;

    if (engine->fetches_from == NULL || engine->fetch_status != CLEAT_OK) {
        return false;
    }
    status = peek(engine, &descriptor, &crc);
    if (status < CLEAT_OK) {
        engine->fetch_status = status;
        nccl_changed(engine);
        return true;
    }
    if (status == CLEAT_PENDING || op->state != NCCL_OP_FREE) { return false; }
    memset(op, 0, sizeof *op);
    op->bucket = engine->next;
    op->bytes = descriptor.bytes;
    op->crc = crc;
    op->state = NCCL_OP_QUEUED;
    engine->next++;
    return true;
}

/* The op to be staged, or given to NCCL: the first that is not on the stream,
 * so that none overtakes another. NULL: none. */
static struct nccl_op *pick_waiting(struct nccl_engine *engine)
{
    for (uint32_t b = engine->first; b != engine->next; b++) {
        struct nccl_op *op = nccl_op_at(engine, b);

        if (op->state == NCCL_OP_QUEUED && side_of(engine) == SENDS) {
            return op;
        }
    }
    for (uint32_t b = engine->first; b != engine->next; b++) {
        struct nccl_op *op = nccl_op_at(engine, b);

        if (op->state < NCCL_OP_RUNNING) { return op; }
    }
    return NULL;
}

/* The first that is on the stream; NULL: none. */
static struct nccl_op *pick_running(struct nccl_engine *engine)
{
    for (uint32_t b = engine->first; b != engine->next; b++) {
        struct nccl_op *op = nccl_op_at(engine, b);

        if (op->state == NCCL_OP_RUNNING) { return op; }
    }
    return NULL;
}

bool nccl_is_moving(const struct nccl_engine *engine)
{
    if (engine->stop.state != CLEAT_NCCL_HEALTHY) { return false; }
    for (uint32_t b = engine->first; b != engine->next; b++) {
        uint32_t slot = b % engine->config.slots_count;

        if (engine->ops[slot].state != NCCL_OP_DONE) { return true; }
    }
    return false;
}

bool nccl_is_working(const struct nccl_engine *engine)
{
    if (engine->stop.state != CLEAT_NCCL_HEALTHY) { return false; }
    return (engine->fetches_from != NULL && engine->fetch_status == CLEAT_OK) ||
           nccl_is_moving(engine);
}

/* Once those before it have come, its turn has: from then on its time runs.
 * False when that is over. */
static bool is_in_time(struct nccl_engine *engine, struct nccl_op *op,
                       uint64_t now_ns)
{
    uint32_t turn = engine->first;

    while (turn != op->bucket &&
           nccl_op_at(engine, turn)->state == NCCL_OP_DONE) {
        turn++;
    }
    if (turn != op->bucket) { return true; }
    if (op->deadline_ns == 0) {
        op->deadline_ns = cleat_time_add(now_ns, engine->config.bucket_ns);
    }
    return now_ns < op->deadline_ns;
}

/* Moves an op on by a step; false when it stays where it is. */
static bool move(struct nccl_engine *engine, struct nccl_op *op,
                 uint64_t now_ns)
{
    enum nccl_op_state was = op->state;
    enum nccl_op_state next = was;
    enum cleat_status status;
    struct step step;

    if (!is_in_time(engine, op, now_ns)) {
        nccl_stop(engine, CLEAT_PEER_SILENT);
        return true;
    }
    if (cleat_nccl_stop_enter(&engine->stop, now_ns, CLEAT_NCCL_WORK) !=
        CLEAT_OK) {
        return false;
    }
    memset(&step, 0, sizeof step);
    step.engine = engine;
    step.op = *op;
    step.slot = op->bucket % engine->config.slots_count;
    step.before = 2 * step.slot;
    step.after = 2 * step.slot + 1;
    nccl_unlock(engine);
    status = make_step(&step, &next);
    nccl_lock(engine);
    nccl_told_of_work(engine, status);
    if (status < CLEAT_OK || !nccl_is_healthy(engine) || op->state != was) {
        return true;
    }
    op->state = next;
    if (next == NCCL_OP_DONE) { nccl_changed(engine); }
    return next != was;
}

bool nccl_work(struct nccl_engine *engine)
{
    struct nccl_op *op;
    bool did;

    if (!nccl_is_healthy(engine)) { return false; }
    did = fetch(engine);
    op = pick_waiting(engine);
    if (op != NULL) { did = move(engine, op, nccl_time(engine)) || did; }
    if (!nccl_is_healthy(engine)) { return true; }
    op = pick_running(engine);
    if (op != NULL) { did = move(engine, op, nccl_time(engine)) || did; }
    return did;
}
