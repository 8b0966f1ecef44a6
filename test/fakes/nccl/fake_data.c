/* Cleat: an NCCL without a GPU: operations. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Every operation is sends and receives between ranks, each over its channel
 * in the world, chunk by chunk, and done when both sides have come to it:
 * nothing is sent ahead. */
#define _GNU_SOURCE
#include "fake_nccl.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum operation {
    OPERATION_POINT_TO_POINT = 1,
    OPERATION_BROADCAST,
    OPERATION_REDUCE,
    OPERATION_ALL_REDUCE,
    OPERATION_REDUCE_SCATTER,
    OPERATION_ALL_GATHER,
    OPERATION_ALL_TO_ALL,
    OPERATION_GATHER,
    OPERATION_SCATTER,
};

static struct work works[WORKS_MAX];

/* ---- bytes ---------------------------------------------------------------
 */

static uint64_t size_of(ncclDataType_t type)
{
    static const uint64_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};

    return (unsigned)type < sizeof sizes / sizeof sizes[0] ? sizes[type] : 0;
}

static unsigned char *bytes_at(uint64_t at, uint64_t bytes)
{
    return cuda()->memory(at, bytes, NULL);
}

#define COMBINE(TYPE)                                                      \
    static void combine_##TYPE(void *to, const void *from, uint64_t count, \
                               ncclRedOp_t op)                             \
    {                                                                      \
        TYPE *a = to;                                                      \
        const TYPE *b = from;                                              \
                                                                           \
        for (uint64_t i = 0; i < count; i++) {                             \
            switch (op) {                                                  \
            case ncclProd: a[i] = (TYPE)(a[i] * b[i]); break;              \
            case ncclMax: a[i] = a[i] > b[i] ? a[i] : b[i]; break;         \
            case ncclMin: a[i] = a[i] < b[i] ? a[i] : b[i]; break;         \
            default: a[i] = (TYPE)(a[i] + b[i]); break;                    \
            }                                                              \
        }                                                                  \
    }

COMBINE(int8_t)
COMBINE(uint8_t)
COMBINE(uint32_t)
COMBINE(uint64_t)
COMBINE(float)
COMBINE(double)

/* Sums and products are the same bits for signed and unsigned; the largest
 * and the smallest are not, and are faked for the types below. */
static bool can_combine(ncclDataType_t type, ncclRedOp_t op)
{
    if (op > ncclMin) return false;
    if (type == ncclInt32 || type == ncclInt64) return op <= ncclProd;
    return type == ncclInt8 || type == ncclUint8 || type == ncclUint32 ||
           type == ncclUint64 || type == ncclFloat32 || type == ncclFloat64;
}

static void combine(unsigned char *to, const unsigned char *from,
                    uint64_t bytes, const struct part *part)
{
    const ncclDataType_t type = part->type;
    const ncclRedOp_t op = part->operation;
    const uint64_t count = bytes / size_of(type);

    switch (type) {
    case ncclInt8: combine_int8_t(to, from, count, op); break;
    case ncclUint8: combine_uint8_t(to, from, count, op); break;
    case ncclInt32:
    case ncclUint32: combine_uint32_t(to, from, count, op); break;
    case ncclInt64:
    case ncclUint64: combine_uint64_t(to, from, count, op); break;
    case ncclFloat32: combine_float(to, from, count, op); break;
    case ncclFloat64: combine_double(to, from, count, op); break;
    default: break;
    }
}

static void *room(uint64_t bytes)
{
    void *made = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return made == MAP_FAILED ? NULL : made;
}

/* ---- works ---------------------------------------------------------------
 */

static void free_work(struct work *work)
{
    if (work->source != NULL) {
        (void)munmap(work->source, work->source_bytes);
    }
    if (work->result != NULL) {
        (void)munmap(work->result, work->result_bytes);
    }
    work->source = NULL;
    work->result = NULL;
    work->used = false;
}

uint32_t works_of(const struct ncclComm *comm)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < WORKS_MAX; i++) {
        if (works[i].used && works[i].comm == comm) count++;
    }
    return count;
}

bool works_run(const struct ncclComm *comm)
{
    for (uint32_t i = 0; i < WORKS_MAX; i++) {
        if (works[i].used && works[i].comm == comm && works[i].base.started) {
            return true;
        }
    }
    return false;
}

bool works_blocked(const struct ncclComm *comm)
{
    for (uint32_t i = 0; i < WORKS_MAX; i++) {
        struct work *work = &works[i];

        if (work->used && work->launched && work->comm == comm &&
            !work->base.started && cuda()->blocked(work->stream, &work->base)) {
            return true;
        }
    }
    return false;
}

void launch_works(struct ncclComm *comm)
{
    for (uint64_t order = comm->done + 1; order <= comm->ordered; order++) {
        for (uint32_t i = 0; i < WORKS_MAX; i++) {
            struct work *work = &works[i];

            if (!work->used || work->launched || work->comm != comm ||
                work->order != order) {
                continue;
            }
            work->launched = true;
            cuda()->hold(work->stream, false);
            cuda()->enqueue(work->stream, &work->base, "ncclGroupEnd");
        }
    }
}

/* Aborted: what has arrived stays, and the rest of the destination is
 * garbage. */
void drop_works(struct ncclComm *comm)
{
    for (uint32_t i = 0; i < WORKS_MAX; i++) {
        struct work *work = &works[i];

        if (!work->used || work->comm != comm) continue;
        if (work->launched) {
            cuda()->take_off(work->stream, &work->base);
        } else {
            cuda()->hold(work->stream, false);
        }
        free_work(work);
    }
}

void reset_works(void)
{
    for (uint32_t i = 0; i < WORKS_MAX; i++) {
        if (works[i].used) free_work(&works[i]);
    }
}

/* ---- parts ---------------------------------------------------------------
 */

static struct fake_channel *channel(const struct work *work, int from, int to)
{
    struct fake_clique *clique = clique_of(work->comm);

    return clique != NULL ? &clique->channels[from][to] : NULL;
}

static bool send_chunk(struct fake_channel *to, struct part *part,
                       const unsigned char *from)
{
    uint64_t left = part->bytes - part->moved;
    uint32_t count = left < FAKE_CHUNK ? (uint32_t)left : FAKE_CHUNK;

    if (count == 0 || FAKE_LOAD(to->filled) > 0) return false;
    memcpy(to->data, from + part->moved, count);
    FAKE_STORE(to->filled, count);
    part->moved += count;
    return true;
}

static bool step_send(struct work *work, struct part *part)
{
    struct fake_channel *to = channel(work, work->comm->rank, part->peer);
    const unsigned char *from;
    bool moved = false;
    uint64_t done;

    if (to == NULL) return false;
    done = FAKE_LOAD(to->done);
    if (done >= part->sequence) {
        part->done = true;
        return true;
    }
    if (done != part->sequence - 1) return false; /* another's turn */
    if (to->posted != part->sequence) {           /* nobody else writes it */
        to->bytes = part->bytes;
        to->kind = part->tag;
        to->registered = part->registered;
        FAKE_STORE(to->posted, part->sequence);
        moved = true;
    }
    from = part->copies ? work->source + part->from
                        : bytes_at(part->at, part->bytes);
    return (from != NULL && send_chunk(to, part, from)) || moved;
}

/* NCCL's user guide, "User Buffer Registration": if any rank passes a
 * registered buffer to a communication call, all must, "otherwise, mixing
 * registered and non-registered buffers can result in undefined behavior". */
static void check_registered(const struct work *work,
                             const struct fake_channel *from,
                             const struct part *part, int peer)
{
    if (from->registered == part->registered) return;
    cuda()->misuse("ncclRecv",
                   "the buffer of rank %d is %sregistered, that of rank %d is "
                   "%s: all ranks' buffers are registered, or none",
                   peer, from->registered ? "" : "not ", work->comm->rank,
                   part->registered ? "" : "not");
}

/* A message for `sequence` is there, and is what is expected. */
static bool is_posted(const struct work *work, const struct fake_channel *from,
                      const struct part *part, int peer, uint64_t sequence)
{
    if (from == NULL || FAKE_LOAD(from->posted) != sequence) return false;
    check_registered(work, from, part, peer);
    if (from->bytes == part->bytes && from->kind == part->tag) return true;
    cuda()->misuse("ncclRecv",
                   "rank %d sends %llu bytes (operation %llx), rank %d expects "
                   "%llu (operation %llx): counts, types or order differ",
                   peer, (unsigned long long)from->bytes,
                   (unsigned long long)from->kind, work->comm->rank,
                   (unsigned long long)part->bytes,
                   (unsigned long long)part->tag);
    return false;
}

static void finish_receive(struct work *work, struct fake_channel *from,
                           uint64_t sequence, uint64_t bytes)
{
    (void)work;
    FAKE_STORE(from->done, sequence);
    cuda()->counts()->nccl_bytes += bytes;
}

static bool step_receive(struct work *work, struct part *part)
{
    struct fake_channel *from = channel(work, part->peer, work->comm->rank);
    unsigned char *to;
    bool moved = false;

    if (!is_posted(work, from, part, part->peer, part->sequence)) return false;
    if (FAKE_LOAD(from->filled) > 0) {
        to = bytes_at(part->at, part->bytes);
        if (to == NULL) return false;
        memcpy(to + part->moved, from->data, from->filled);
        part->moved += from->filled;
        FAKE_STORE(from->filled, 0u);
        moved = true;
    }
    if (part->moved < part->bytes) return moved;
    if (work->garble && part->bytes > 0) {
        bytes_at(part->at, part->bytes)[part->bytes / 2] ^= 1;
        work->garble = false;
    }
    finish_receive(work, from, part->sequence, part->bytes);
    part->done = true;
    return true;
}

static bool step_copy(struct part *part)
{
    unsigned char *to = bytes_at(part->at, part->bytes);
    const unsigned char *from = bytes_at(part->from, part->bytes);

    if (part->bytes > 0 && to != NULL && from != NULL) {
        memmove(to, from, part->bytes);
    }
    part->done = true;
    return true;
}

/* The result so far, of the ranks before part->peer, in work->result. */
static void add_to_result(struct work *work, const struct part *part,
                          const unsigned char *from, uint64_t offset,
                          uint64_t bytes)
{
    if (part->peer == 0) {
        memcpy(work->result + offset, from, bytes);
    } else {
        combine(work->result + offset, from, bytes, part);
    }
}

static bool end_rank(struct work *work, struct part *part)
{
    unsigned char *to;

    part->moved = 0;
    part->peer++;
    if (part->peer < work->comm->ranks) return true;
    to = bytes_at(part->at, part->bytes);
    if (to != NULL) memcpy(to, work->result, part->bytes);
    part->done = true;
    return true;
}

static bool step_reduce(struct work *work, struct part *part)
{
    struct fake_channel *from = channel(work, part->peer, work->comm->rank);
    const uint64_t sequence = work->sequences[part->peer];

    if (part->peer == work->comm->rank) {
        add_to_result(work, part, work->source + part->from, 0, part->bytes);
        return end_rank(work, part);
    }
    if (!is_posted(work, from, part, part->peer, sequence)) return false;
    if (FAKE_LOAD(from->filled) > 0) {
        add_to_result(work, part, from->data, part->moved, from->filled);
        part->moved += from->filled;
        FAKE_STORE(from->filled, 0u);
    } else if (part->bytes > 0) {
        return false;
    }
    if (part->moved < part->bytes) return true;
    finish_receive(work, from, sequence, part->bytes);
    return end_rank(work, part);
}

static bool step_part(struct work *work, struct part *part)
{
    switch (part->kind) {
    case PART_SEND: return step_send(work, part);
    case PART_RECEIVE: return step_receive(work, part);
    case PART_COPY: return step_copy(part);
    case PART_REDUCE: return step_reduce(work, part);
    }
    return false;
}

/* What a reduction sends is read before anything is written. */
static void copy_source(struct work *work)
{
    const unsigned char *from = bytes_at(work->source_at, work->source_bytes);

    if (work->source_bytes == 0) return;
    work->source = room(work->source_bytes);
    work->result = room(work->source_bytes);
    work->result_bytes = work->source_bytes;
    if (work->source != NULL && from != NULL) {
        memcpy(work->source, from, work->source_bytes);
    }
}

/* A slot's old bytes must never pass for new ones: nothing says what a
 * destination holds before an operation has ended. */
static void begin_work(struct work *work)
{
    unsigned char *at;

    work->begun = true;
    copy_source(work);
    for (uint32_t i = 0; i < work->part_count; i++) {
        const struct part *part = &work->parts[i];

        if (part->kind == PART_RECEIVE && part->bytes > 0) {
            at = bytes_at(part->at, part->bytes);
            if (at != NULL) memset(at, FAKE_GARBAGE, part->bytes);
        }
    }
}

/* A peer's socket that is reset is reported, at once, as ncclRemoteError
 * (nccl.h; 2.28.9, src/misc/socket.cc). Over NVLink, P2P and shared memory
 * nothing ever is (NVIDIA/nccl#279). */
static void look_for_dead(struct work *work)
{
    const struct fake_settings *settings = &cuda()->world()->settings;
    const struct fake_clique *clique = clique_of(work->comm);

    if (settings->death != FAKE_DEATH_RESET || clique == NULL) return;
    for (uint32_t i = 0; i < work->part_count; i++) {
        const struct part *part = &work->parts[i];

        if (part->done || part->kind == PART_COPY ||
            !is_member_gone(&clique->members[part->peer])) {
            continue;
        }
        if (work->comm->reset_polls++ < settings->reset_polls) return;
        if (work->comm->async == ncclSuccess) {
            work->comm->async = ncclRemoteError;
            say(work->comm, "connection reset by a peer");
        }
        return;
    }
}

static bool is_lost(const struct work *work)
{
    const struct fake_clique *clique = clique_of(work->comm);

    return clique == NULL ||
           clique->members[work->comm->rank].presence == FAKE_LOST;
}

/* Works of one communicator run in the order in which they were launched, on
 * whatever streams (user guide, "CUDA Stream Semantics"). */
static enum fake_step advance(struct fake_work *base)
{
    struct work *work = (struct work *)base;
    bool moved = !work->begun;
    bool done = true;

    if (is_lost(work) || work->order != work->comm->done + 1) {
        base->started = work->begun;
        return FAKE_BLOCKED;
    }
    if (moved) begin_work(work);
    for (uint32_t i = 0; i < work->part_count; i++) {
        struct part *part = &work->parts[i];

        if (!part->done && step_part(work, part)) moved = true;
        if (!part->done) done = false;
    }
    if (done) {
        work->comm->done++;
        free_work(work);
        return FAKE_DONE;
    }
    if (!moved) look_for_dead(work);
    return moved ? FAKE_MOVED : FAKE_BLOCKED;
}

/* ---- launching -----------------------------------------------------------
 */

/* A send to oneself without its receive is refused as invalid usage, not
 * waited for (2.28.9, src/enqueue.cc). */
static bool is_self_matched(const struct item *items, uint32_t count,
                            const struct ncclComm *comm)
{
    uint32_t sends = 0;
    uint32_t receives = 0;

    for (uint32_t i = 0; i < count; i++) {
        const struct part *part = &items[i].part;

        if (items[i].kind != ITEM_PART || items[i].comm != comm ||
            part->peer != comm->rank) {
            continue;
        }
        if (part->kind == PART_SEND) sends++;
        if (part->kind == PART_RECEIVE) receives++;
    }
    return sends == receives;
}

static struct work *work_for(const struct item *item)
{
    struct work *free_one = NULL;

    for (uint32_t i = 0; i < WORKS_MAX; i++) {
        struct work *work = &works[i];

        if (!work->used) {
            free_one = work;
        } else if (!work->launched && work->comm == item->comm &&
                   work->stream == item->stream) {
            return work;
        }
    }
    if (free_one == NULL) {
        cuda()->misuse("ncclGroupEnd", "more than %d groups pending",
                       WORKS_MAX);
        return NULL;
    }
    memset(free_one, 0, sizeof *free_one);
    free_one->used = true;
    free_one->comm = item->comm;
    free_one->stream = item->stream;
    free_one->order = ++item->comm->ordered;
    free_one->base.advance = advance;
    cuda()->hold(item->stream, true);
    return free_one;
}

static void add_region(struct work *work, uint64_t at, uint64_t bytes,
                       bool write)
{
    const struct fake_region region = {at, bytes, write};

    if (bytes == 0 || at == 0) return;
    for (uint32_t i = 0; i < work->base.region_count; i++) {
        if (memcmp(&work->base.regions[i].at, &at, sizeof at) == 0 &&
            work->base.regions[i].bytes == bytes &&
            work->base.regions[i].write == write) {
            return;
        }
    }
    if (work->base.region_count == FAKE_PARTS_MAX) return;
    work->base.regions[work->base.region_count++] = region;
}

static void number_part(struct work *work, struct part *part)
{
    struct ncclComm *comm = work->comm;

    if (part->kind == PART_SEND) part->sequence = ++comm->sent[part->peer];
    if (part->kind == PART_RECEIVE) {
        part->sequence = ++comm->received[part->peer];
    }
    for (int i = 0; part->kind == PART_REDUCE && i < comm->ranks; i++) {
        if (i != comm->rank) work->sequences[i] = ++comm->received[i];
    }
}

static void use_regions(struct work *work, const struct item *item)
{
    const struct part *part = &item->part;

    add_region(work, item->source_at, item->source_bytes, false);
    if (part->kind == PART_COPY) {
        add_region(work, part->from, part->bytes, false);
    }
    if (!part->copies) {
        add_region(work, part->at, part->bytes, part->kind != PART_SEND);
    }
}

static void apply_hit(struct work *work, const struct fake_hit *hit)
{
    if (hit->action == FAKE_DELAY) work->base.delay = hit->value;
    if (hit->action == FAKE_NEVER) work->base.never = true;
    if (hit->action == FAKE_GARBLE) work->garble = true;
}

static bool add_part(const struct item *item)
{
    struct work *work = work_for(item);
    struct part *part;

    if (work == NULL) return false;
    if (work->part_count == FAKE_PARTS_MAX ||
        (item->source_bytes > 0 && work->source_bytes > 0)) {
        cuda()->misuse("ncclGroupEnd",
                       "more than %d sends and receives, or "
                       "more than one reduction, in a group",
                       FAKE_PARTS_MAX);
        return false;
    }
    part = &work->parts[work->part_count++];
    *part = item->part;
    if (item->source_bytes > 0) {
        work->source_at = item->source_at;
        work->source_bytes = item->source_bytes;
    }
    number_part(work, part);
    use_regions(work, item);
    apply_hit(work, &item->hit);
    return true;
}

/* The job that launches; an error that a rule gives a call of the group is
 * the job's. */
static void begin_launch(struct ncclComm *comm, const struct item *items,
                         uint32_t count, const struct call *call)
{
    struct fake_hit hit = call->hit;

    for (uint32_t i = 0; i < count; i++) {
        if (items[i].comm == comm && items[i].hit.action == FAKE_LATE) {
            hit = items[i].hit;
        }
    }
    (void)begin_job(comm, JOB_LAUNCH, &hit);
    if (comm->blocking) poll_job(comm);
}

ncclResult_t make_works(const struct item *items, uint32_t count,
                        struct call *call)
{
    for (uint32_t i = 0; i < count; i++) {
        if (items[i].kind == ITEM_PART &&
            !is_self_matched(items, count, items[i].comm)) {
            return ncclInvalidUsage;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        if (items[i].kind == ITEM_PART && !add_part(&items[i])) {
            return ncclInternalError;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        if (items[i].kind == ITEM_PART && items[i].comm->job == JOB_NONE) {
            begin_launch(items[i].comm, items, count, call);
        }
    }
    return ncclSuccess;
}

/* ---- the calls -----------------------------------------------------------
 */

/* One call's arguments, of whatever operation. */
struct data {
    enum operation operation;
    uint64_t send;
    uint64_t receive;
    uint64_t bytes; /* of one block */
    int root;       /* or peer */
    ncclDataType_t type;
    ncclRedOp_t reduction;
    struct ncclComm *comm;
    CUstream stream;
    struct fake_hit hit;
};

static void put(const struct data *data, enum part_kind kind, int peer,
                uint64_t at, uint64_t from)
{
    struct item *item = add_item(ITEM_PART, data->comm);

    if (item == NULL) return;
    item->stream = data->stream;
    item->hit = data->hit;
    item->part.kind = kind;
    item->part.peer = peer;
    item->part.at = at;
    item->part.from = from;
    item->part.bytes = data->bytes;
    item->part.type = data->type;
    item->part.operation = data->reduction;
    item->part.copies = kind == PART_SEND &&
                        (data->operation == OPERATION_REDUCE ||
                         data->operation == OPERATION_ALL_REDUCE ||
                         data->operation == OPERATION_REDUCE_SCATTER);
    item->part.tag = (uint64_t)data->operation << 40 |
                     (uint64_t)data->reduction << 32 |
                     (uint64_t)data->type << 16 | (uint64_t)data->root;
    if (data->operation == OPERATION_POINT_TO_POINT) {
        item->part.tag &= ~(uint64_t)0xFFFF; /* each side names the other */
    }
    if (data->operation == OPERATION_POINT_TO_POINT ||
        data->operation == OPERATION_BROADCAST) {
        item->part.registered = is_registered_with(data->comm, at, data->bytes);
    }
}

/* The same bytes in the same place: nothing to copy. */
static void put_copy(const struct data *data, uint64_t at, uint64_t from)
{
    if (at != from) put(data, PART_COPY, data->comm->rank, at, from);
}

/* Blocks of `bytes`: to everybody (or nobody), from everybody (or nobody). */
static void put_blocks(const struct data *data, bool sends, bool receives,
                       const bool *steps)
{
    const int rank = data->comm->rank;
    const uint64_t send_step = steps[0] ? data->bytes : 0;
    const uint64_t receive_step = steps[1] ? data->bytes : 0;

    for (int i = 0; i < data->comm->ranks; i++) {
        const uint64_t from = data->send + send_step * (uint64_t)i;
        const uint64_t to = data->receive + receive_step * (uint64_t)i;

        if (i == rank) {
            if (sends && receives) put_copy(data, to, from);
            continue;
        }
        if (sends) put(data, PART_SEND, i, from, 0);
        if (receives) put(data, PART_RECEIVE, i, to, 0);
    }
}

static void put_broadcast(const struct data *data)
{
    if (data->comm->rank != data->root) {
        put(data, PART_RECEIVE, data->root, data->receive, 0);
        return;
    }
    for (int i = 0; i < data->comm->ranks; i++) {
        if (i != data->root) put(data, PART_SEND, i, data->send, 0);
    }
    put_copy(data, data->receive, data->send);
}

/* Of a copy of the source, in blocks where each rank keeps one. */
static void put_reduction(const struct data *data, bool blocks)
{
    const struct ncclComm *comm = data->comm;
    const uint64_t step = blocks ? data->bytes : 0;
    struct item *item;
    uint32_t first;

    item = add_item(ITEM_PART, data->comm); /* takes the copy */
    if (item == NULL) return;
    item->stream = data->stream;
    item->hit = data->hit;
    item->part.kind = PART_COPY;
    item->part.peer = comm->rank;
    item->source_at = data->send;
    item->source_bytes = blocks ? data->bytes * (uint64_t)comm->ranks
                                : data->bytes;
    for (first = 0; first < (uint32_t)comm->ranks; first++) {
        const bool wanted = data->operation != OPERATION_REDUCE ||
                            (int)first == data->root;

        if (!wanted) continue;
        put(data, (int)first == comm->rank ? PART_REDUCE : PART_SEND,
            (int)first == comm->rank ? 0 : (int)first, data->receive,
            step * first);
    }
}

static void put_parts(const struct data *data)
{
    static const bool sends[2] = {true, false};
    static const bool receives[2] = {false, true};
    static const bool both[2] = {true, true};
    const bool is_root = data->comm->rank == data->root;

    switch (data->operation) {
    case OPERATION_BROADCAST: put_broadcast(data); break;
    case OPERATION_REDUCE:
    case OPERATION_ALL_REDUCE: put_reduction(data, false); break;
    case OPERATION_REDUCE_SCATTER: put_reduction(data, true); break;
    case OPERATION_ALL_GATHER: put_blocks(data, true, true, receives); break;
    case OPERATION_ALL_TO_ALL: put_blocks(data, true, true, both); break;
    case OPERATION_GATHER:
        if (is_root) {
            put_blocks(data, false, true, receives);
            put_copy(data, data->receive + data->bytes * (uint64_t)data->root,
                     data->send);
        } else {
            put(data, PART_SEND, data->root, data->send, 0);
        }
        break;
    case OPERATION_SCATTER:
        if (is_root) {
            put_blocks(data, true, false, sends);
            put_copy(data, data->receive,
                     data->send + data->bytes * (uint64_t)data->root);
        } else {
            put(data, PART_RECEIVE, data->root, data->receive, 0);
        }
        break;
    case OPERATION_POINT_TO_POINT: break;
    }
}

/* The blocks that an operation reads and writes: 0 where it does not. */
static void extents(const struct data *data, uint64_t *read, uint64_t *write)
{
    const uint64_t all = data->bytes * (uint64_t)data->comm->ranks;
    const bool is_root = data->comm->rank == data->root;

    *read = data->bytes;
    *write = data->bytes;
    switch (data->operation) {
    case OPERATION_POINT_TO_POINT:
        if (data->send == 0) *read = 0;
        if (data->receive == 0) *write = 0;
        break;
    case OPERATION_BROADCAST:
        if (!is_root) *read = 0;
        break;
    case OPERATION_REDUCE:
        if (!is_root) *write = 0;
        break;
    case OPERATION_REDUCE_SCATTER: *read = all; break;
    case OPERATION_ALL_GATHER: *write = all; break;
    case OPERATION_ALL_TO_ALL:
        *read = all;
        *write = all;
        break;
    case OPERATION_GATHER: *write = is_root ? all : 0; break;
    case OPERATION_SCATTER: *read = is_root ? all : 0; break;
    case OPERATION_ALL_REDUCE: break;
    }
}

static const char *fault_in(const struct data *data)
{
    uint64_t read;
    uint64_t write;

    extents(data, &read, &write);
    if (cuda()->stream_device(data->stream) != data->comm->device) {
        return "the stream is not of the communicator's device";
    }
    if ((read > 0 && bytes_at(data->send, read) == NULL) ||
        (write > 0 && bytes_at(data->receive, write) == NULL)) {
        return "a buffer is not whole device memory";
    }
    return NULL;
}

static ncclResult_t run(const char *name, struct data *data)
{
    const char *fault;
    struct call call;

    if (!enter(&call, name, data->comm, ALLOW_IDLE)) return call.code;
    data->bytes *= size_of(data->type);
    data->hit = call.hit;
    if (size_of(data->type) == 0 || data->root < 0 ||
        data->root >= data->comm->ranks) {
        return leave(&call, ncclInvalidArgument);
    }
    fault = fault_in(data);
    if (fault != NULL) {
        return leave(&call, refuse(&call, ncclInvalidArgument, fault));
    }
    start_group();
    if (data->operation == OPERATION_POINT_TO_POINT) {
        if (data->send != 0) put(data, PART_SEND, data->root, data->send, 0);
        if (data->receive != 0) {
            put(data, PART_RECEIVE, data->root, data->receive, 0);
        }
    } else if (data->bytes > 0) {
        put_parts(data);
    }
    call.hit.action = FAKE_NOTHING; /* it is the part's, not the group's */
    return leave(&call, end_group(&call));
}

static struct data make(enum operation operation, const void *send,
                        void *receive, size_t count, ncclDataType_t type)
{
    struct data data;

    memset(&data, 0, sizeof data);
    data.operation = operation;
    data.send = (uint64_t)(uintptr_t)send;
    data.receive = (uint64_t)(uintptr_t)receive;
    data.bytes = count;
    data.type = type;
    return data;
}

static struct data with(struct data data, int root, ncclComm_t comm,
                        cudaStream_t stream)
{
    data.root = root;
    data.comm = comm;
    data.stream = stream;
    return data;
}

static ncclResult_t reduce(const char *name, struct data *data, ncclRedOp_t op)
{
    if (!can_combine(data->type, op)) return ncclInvalidArgument;
    data->reduction = op;
    return run(name, data);
}

ncclResult_t ncclSend(const void *sendbuff, size_t count,
                      ncclDataType_t datatype, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_POINT_TO_POINT, sendbuff, NULL, count, datatype), peer,
        comm, stream);

    return run("ncclSend", &data);
}

ncclResult_t ncclRecv(void *recvbuff, size_t count, ncclDataType_t datatype,
                      int peer, ncclComm_t comm, cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_POINT_TO_POINT, NULL, recvbuff, count, datatype), peer,
        comm, stream);

    return run("ncclRecv", &data);
}

ncclResult_t ncclBroadcast(const void *sendbuff, void *recvbuff, size_t count,
                           ncclDataType_t datatype, int root, ncclComm_t comm,
                           cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_BROADCAST, sendbuff, recvbuff, count, datatype), root,
        comm, stream);

    return run("ncclBroadcast", &data);
}

ncclResult_t ncclBcast(void *buff, size_t count, ncclDataType_t datatype,
                       int root, ncclComm_t comm, cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_BROADCAST, buff, buff, count, datatype), root, comm,
        stream);

    return run("ncclBcast", &data);
}

ncclResult_t ncclReduce(const void *sendbuff, void *recvbuff, size_t count,
                        ncclDataType_t datatype, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_REDUCE, sendbuff, recvbuff, count, datatype), root, comm,
        stream);

    return reduce("ncclReduce", &data, op);
}

ncclResult_t ncclAllReduce(const void *sendbuff, void *recvbuff, size_t count,
                           ncclDataType_t datatype, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_ALL_REDUCE, sendbuff, recvbuff, count, datatype), 0,
        comm, stream);

    return reduce("ncclAllReduce", &data, op);
}

ncclResult_t ncclReduceScatter(const void *sendbuff, void *recvbuff,
                               size_t recvcount, ncclDataType_t datatype,
                               ncclRedOp_t op, ncclComm_t comm,
                               cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_REDUCE_SCATTER, sendbuff, recvbuff, recvcount, datatype),
        0, comm, stream);

    return reduce("ncclReduceScatter", &data, op);
}

ncclResult_t ncclAllGather(const void *sendbuff, void *recvbuff,
                           size_t sendcount, ncclDataType_t datatype,
                           ncclComm_t comm, cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_ALL_GATHER, sendbuff, recvbuff, sendcount, datatype), 0,
        comm, stream);

    return run("ncclAllGather", &data);
}

#if FAKE_NCCL_VERSION >= 22803
ncclResult_t ncclAlltoAll(const void *sendbuff, void *recvbuff, size_t count,
                          ncclDataType_t datatype, ncclComm_t comm,
                          cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_ALL_TO_ALL, sendbuff, recvbuff, count, datatype), 0,
        comm, stream);

    return run("ncclAlltoAll", &data);
}

ncclResult_t ncclGather(const void *sendbuff, void *recvbuff, size_t count,
                        ncclDataType_t datatype, int root, ncclComm_t comm,
                        cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_GATHER, sendbuff, recvbuff, count, datatype), root, comm,
        stream);

    return run("ncclGather", &data);
}

ncclResult_t ncclScatter(const void *sendbuff, void *recvbuff, size_t count,
                         ncclDataType_t datatype, int root, ncclComm_t comm,
                         cudaStream_t stream)
{
    struct data data = with(
        make(OPERATION_SCATTER, sendbuff, recvbuff, count, datatype), root,
        comm, stream);

    return run("ncclScatter", &data);
}
#endif
