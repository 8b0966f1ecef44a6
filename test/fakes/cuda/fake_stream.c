/* Cleat: a CUDA driver without a GPU: streams and events.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A stream is a queue of operations. Nothing is done when it is enqueued:
 * queues advance when a stream or an event is queried, and then a seeded
 * choice says which one. So a missing wait shows as wrong bytes.
 *
 * What is ordered before what is known from clocks: a stream's clock holds,
 * for each stream, the number of the last operation there that comes before
 * what is enqueued next. Recording an event copies the clock, waiting for it
 * joins it. Two operations on the same bytes, one of them a write, and no
 * order between them: that is a slot reused while in flight. */
#include "fake_cuda.h"

#include <string.h>

enum op_kind {
    OP_COPY,
    OP_FILL,
    OP_RECORD,
    OP_WAIT,
    OP_WAIT_VALUE,
    OP_WRITE_VALUE,
    OP_FUNCTION,
    OP_WORK,
};

struct op {
    enum op_kind kind;
    bool at_head;      /* it has come to the head */
    bool begun;        /* of a copy: the garbage is there */
    bool hashed;       /* the source is the host's, `hash` is of it */
    uint32_t action;   /* enum fake_action */
    uint32_t flags;    /* of a wait for a value */
    uint32_t value32;  /* that, what is written, what is filled */
    uint32_t stream;   /* of a wait for an event */
    uint64_t sequence; /* there */
    uint64_t value;    /* of the action */
    uint64_t begins;   /* tick */
    uint64_t to;
    uint64_t from;
    uint64_t bytes;
    uint64_t hash;
    uint64_t turn; /* among all that was ever enqueued */
    CUhostFn function;
    void *argument;
    struct fake_work *work;
    struct fake_region regions[2];
    uint32_t region_count;
};

struct CUstream_st {
    bool alive;
    bool was; /* alive once */
    bool waits_for_default;
    bool captures;
    bool broken; /* the capture */
    CUstreamCaptureMode mode;
    pthread_t capturer;
    int device;
    int priority;
    uint32_t held;
    uint64_t enqueued; /* number of the last operation */
    uint64_t done;
    uint64_t clock[STREAMS_MAX];
    struct op ops[PENDING_MAX];
};

struct CUevent_st {
    bool alive;
    bool recorded;
    bool timed;
    int device;
    uint32_t stream;
    uint64_t sequence;
    uint64_t clock[STREAMS_MAX];
};

/* The first is the legacy default stream, whose handle is NULL. */
static struct CUstream_st streams[STREAMS_MAX];
static struct CUevent_st events[EVENTS_MAX];
static uint32_t used_streams = 1;
static uint64_t ticks;
static uint64_t turns;
static uint64_t randomness;
static uint32_t (*chooser)(void *arg, uint32_t n);
static void *chooser_arg;

static struct op *op_at(struct CUstream_st *stream, uint64_t sequence)
{
    return &stream->ops[sequence % PENDING_MAX];
}

static struct op *head_of(struct CUstream_st *stream)
{
    return stream->done < stream->enqueued ? op_at(stream, stream->done + 1)
                                           : NULL;
}

static uint32_t number_of(const struct CUstream_st *stream)
{
    return (uint32_t)(stream - streams);
}

static struct CUstream_st *stream_of(CUstream handle)
{
    struct CUstream_st *stream = handle == NULL ? &streams[0] : handle;

    if (handle == NULL) {
        stream->alive = true;
        stream->device = current_device();
        return stream;
    }
    if (stream < streams || stream >= streams + STREAMS_MAX) return NULL;
    return stream->alive ? stream : NULL;
}

static bool is_event(const struct CUevent_st *event)
{
    return event >= events && event < events + EVENTS_MAX && event->alive;
}

/* ---- the default stream --------------------------------------------------
 */

/* The CUDA driver API's "Stream synchronization behavior": what is put on the
 * legacy default stream first waits for all blocking streams of its context,
 * and then they wait for it. Streams made with CU_STREAM_NON_BLOCKING take no
 * part. */
static bool wait_for_each_other(const struct CUstream_st *a,
                                const struct CUstream_st *b)
{
    return a != b && a->device == b->device &&
           ((a == &streams[0] && b->waits_for_default) ||
            (b == &streams[0] && a->waits_for_default));
}

static bool waits_for_default(struct CUstream_st *stream, const struct op *op)
{
    for (uint32_t i = 0; i < used_streams; i++) {
        const struct op *other = head_of(&streams[i]);

        if (wait_for_each_other(stream, &streams[i]) && other != NULL &&
            other->turn < op->turn) {
            return true;
        }
    }
    return false;
}

/* ---- order ---------------------------------------------------------------
 */

static const struct fake_region *regions_of(const struct op *op,
                                            uint32_t *count)
{
    if (op->kind == OP_WORK) {
        *count = op->work->region_count;
        return op->work->regions;
    }
    *count = op->region_count;
    return op->regions;
}

static bool collide(const struct fake_region *a, const struct fake_region *b)
{
    return (a->write || b->write) && a->at < b->at + b->bytes &&
           b->at < a->at + a->bytes;
}

static bool ops_collide(const struct op *a, const struct op *b)
{
    uint32_t a_count;
    uint32_t b_count;
    const struct fake_region *a_regions = regions_of(a, &a_count);
    const struct fake_region *b_regions = regions_of(b, &b_count);

    for (uint32_t i = 0; i < a_count; i++) {
        for (uint32_t j = 0; j < b_count; j++) {
            if (collide(&a_regions[i], &b_regions[j])) return true;
        }
    }
    return false;
}

static bool collides(struct CUstream_st *stream, const struct op *op)
{
    for (uint32_t i = 0; i < used_streams; i++) {
        struct CUstream_st *other = &streams[i];

        if (other == stream) continue;
        for (uint64_t s = other->done + 1; s <= other->enqueued; s++) {
            if (stream->clock[i] >= s) continue; /* it comes before */
            if (ops_collide(op, op_at(other, s))) return true;
        }
    }
    return false;
}

static void join_clock(uint64_t *clock, const uint64_t *other)
{
    for (uint32_t i = 0; i < STREAMS_MAX; i++) {
        if (other[i] > clock[i]) clock[i] = other[i];
    }
}

static void join_default(struct CUstream_st *stream)
{
    for (uint32_t i = 0; i < used_streams; i++) {
        if (!wait_for_each_other(stream, &streams[i])) continue;
        join_clock(stream->clock, streams[i].clock);
        stream->clock[i] = streams[i].enqueued;
    }
}

/* ---- enqueueing ----------------------------------------------------------
 */

static void add_region(struct op *op, uint64_t at, uint64_t bytes, bool write)
{
    struct fake_region region = {at, bytes, write};

    if (bytes > 0) op->regions[op->region_count++] = region;
}

static struct op *append(struct CUstream_st *stream, const char *call,
                         const struct op *op)
{
    struct op *added;

    if (stream->enqueued - stream->done == PENDING_MAX) {
        misuse(call, "more than %d operations pending on a stream",
               PENDING_MAX);
        (void)drain();
    }
    if (stream->captures) {
        misuse(call, "on a stream that captures: a graph's work is not faked");
    }
    /* Work enqueued behind an NCCL call that is still in progress may run
     * before what that call will enqueue. */
    if (stream->held > 0 && op->kind != OP_WORK) {
        misuse(call, "enqueues behind NCCL work that is in progress: its place "
                     "on the stream is not yet taken");
    }
    join_default(stream);
    if (collides(stream, op)) {
        misuse(call, "touches bytes that work on another stream still uses, "
                     "and no event orders the two");
    }
    stream->enqueued++;
    stream->clock[number_of(stream)] = stream->enqueued;
    added = op_at(stream, stream->enqueued);
    *added = *op;
    added->turn = ++turns;
    return added;
}

static struct op plain(enum op_kind kind, const struct call *call)
{
    struct op op;

    memset(&op, 0, sizeof op);
    op.kind = kind;
    op.action = call->hit.action;
    op.value = call->hit.value;
    return op;
}

/* ---- doing ---------------------------------------------------------------
 */

static uint64_t hash_of(const unsigned char *bytes, uint64_t count)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    uint64_t word;

    for (; count >= sizeof word; count -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        hash = (hash ^ word) * UINT64_C(0x100000001b3);
        hash ^= hash >> 29;
        bytes += sizeof word;
    }
    for (; count > 0; count--) {
        hash = (hash ^ *bytes++) * UINT64_C(0x100000001b3);
    }
    return hash;
}

/* Freed under a copy: found by the free, unless that was lenient. */
static enum fake_step lose(const struct CUstream_st *stream)
{
    corrupt(stream->device, CUDA_ERROR_ILLEGAL_ADDRESS);
    return FAKE_BLOCKED;
}

static enum fake_step do_copy(struct CUstream_st *stream, struct op *op)
{
    struct place to = place_of(op->to, op->bytes);
    struct place from = place_of(op->from, op->bytes);

    if (to.host == NULL || from.host == NULL) return lose(stream);
    if (!op->begun) {
        op->begun = true;
        memset(to.host, FAKE_GARBAGE, op->bytes);
        return FAKE_MOVED;
    }
    if (op->hashed && hash_of(from.host, op->bytes) != op->hash) {
        misuse("cuMemcpyAsync", "its source was written while the copy was in "
                                "flight");
    }
    memcpy(to.host, from.host, op->bytes);
    if (op->action == FAKE_GARBLE) to.host[op->bytes / 2] ^= 1;
    counts()->copies++;
    counts()->copied_bytes += op->bytes;
    return FAKE_DONE;
}

static enum fake_step do_fill(struct CUstream_st *stream, const struct op *op)
{
    struct place to = place_of(op->to, op->bytes);

    if (to.host == NULL) return lose(stream);
    memset(to.host, (int)(op->value32 & 0xFF), op->bytes);
    return FAKE_DONE;
}

/* cuda.h, CUstreamWaitValue_flags. */
static bool holds(const struct op *op)
{
    struct place place = place_of(op->to, sizeof(uint32_t));
    uint32_t now_there;

    if (place.host == NULL) return false;
    /* Aligned: that was checked. The host may be writing it. */
    now_there = FAKE_LOAD(*(uint32_t *)(void *)place.host);
    switch (op->flags & 3u) {
    case CU_STREAM_WAIT_VALUE_GEQ:
        return (int32_t)(now_there - op->value32) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ: return now_there == op->value32;
    case CU_STREAM_WAIT_VALUE_AND: return (now_there & op->value32) != 0;
    default: return ~(now_there | op->value32) != 0;
    }
}

static enum fake_step do_write(struct CUstream_st *stream, const struct op *op)
{
    struct place place = place_of(op->to, sizeof(uint32_t));

    if (place.host == NULL) return lose(stream);
    memcpy(place.host, &op->value32, sizeof op->value32);
    return FAKE_DONE;
}

/* cuda.h, cuLaunchHostFunc: it must make no CUDA call; that may return
 * CUDA_ERROR_NOT_PERMITTED. */
static enum fake_step do_function(const struct op *op)
{
    in_host_function(true);
    op->function(op->argument);
    in_host_function(false);
    return FAKE_DONE;
}

static enum fake_step do_op(struct CUstream_st *stream, struct op *op)
{
    switch (op->kind) {
    case OP_COPY: return do_copy(stream, op);
    case OP_FILL: return do_fill(stream, op);
    case OP_RECORD: return FAKE_DONE;
    case OP_WAIT:
        return streams[op->stream].done >= op->sequence ? FAKE_DONE
                                                        : FAKE_BLOCKED;
    case OP_WAIT_VALUE: return holds(op) ? FAKE_DONE : FAKE_BLOCKED;
    case OP_WRITE_VALUE: return do_write(stream, op);
    case OP_FUNCTION: return do_function(op);
    case OP_WORK: op->work->started = true; return op->work->advance(op->work);
    }
    return FAKE_BLOCKED;
}

static bool is_stalled(const struct op *op)
{
    return (op->action == FAKE_NEVER ||
            (op->work != NULL && op->work->never)) &&
           !released();
}

static bool may_begin(struct op *op)
{
    uint64_t delay = op->action == FAKE_DELAY ? op->value : 0;

    if (op->work != NULL) delay += op->work->delay;
    if (!op->at_head) {
        op->at_head = true;
        op->begins = ticks + delay;
    }
    return ticks >= op->begins && !is_stalled(op);
}

static enum fake_step advance(struct CUstream_st *stream)
{
    struct op *op = head_of(stream);
    enum fake_step step;

    if (op == NULL || is_corrupt(stream->device) ||
        waits_for_default(stream, op) || !may_begin(op)) {
        return FAKE_BLOCKED;
    }
    if (op->action == FAKE_LATE) { /* a kernel's error, found when it runs */
        corrupt(stream->device, (CUresult)op->value);
        return FAKE_BLOCKED;
    }
    step = do_op(stream, op);
    if (step == FAKE_DONE) stream->done++;
    return step;
}

/* ---- who advances --------------------------------------------------------
 */

uint32_t busy_streams(void)
{
    uint32_t busy = 0;

    for (uint32_t i = 0; i < used_streams; i++) {
        if (head_of(&streams[i]) != NULL) busy++;
    }
    return busy;
}

static struct CUstream_st *busy_stream(uint32_t index)
{
    for (uint32_t i = 0; i < used_streams; i++) {
        if (head_of(&streams[i]) != NULL && index-- == 0) return &streams[i];
    }
    return NULL;
}

bool step_stream(uint32_t index)
{
    struct CUstream_st *stream = busy_stream(index);

    return stream != NULL && advance(stream) != FAKE_BLOCKED;
}

/* splitmix64 */
static uint64_t next_random(void)
{
    uint64_t z;

    if (randomness == 0) randomness = settings()->seed;
    randomness += UINT64_C(0x9e3779b97f4a7c15);
    z = randomness;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* One step of one stream: the chosen one's, or of the next that can move. */
static bool pump_once(void)
{
    uint32_t busy = busy_streams();
    uint32_t chosen;

    if (busy == 0) return false;
    if (chooser != NULL) return step_stream(chooser(chooser_arg, busy));
    chosen = (uint32_t)(next_random() % busy);
    for (uint32_t i = 0; i < busy; i++) {
        if (step_stream((chosen + i) % busy)) return true;
    }
    return false;
}

uint32_t pump(uint32_t steps)
{
    uint32_t moved = 0;

    for (uint32_t i = 0; i < steps; i++) {
        ticks++;
        if (pump_once()) moved++;
    }
    return moved;
}

void poll(void)
{
    counts()->polls++;
    ticks++;
    if (settings()->manual != 0) return;
    for (uint32_t i = 0; i < settings()->steps; i++) {
        if (!pump_once()) return;
    }
}

bool drain(void)
{
    for (uint32_t i = 0; i < 1000000 && busy_streams() > 0; i++) {
        ticks++;
        (void)pump_once();
    }
    return busy_streams() == 0;
}

uint64_t now(void)
{
    return ticks;
}

void tick(uint64_t count)
{
    ticks += count;
}

void choose_with(uint32_t (*choose)(void *arg, uint32_t n), void *arg)
{
    chooser = choose;
    chooser_arg = arg;
}

void reset_streams(void)
{
    for (uint32_t i = 0; i < used_streams; i++) {
        memset(&streams[i], 0, offsetof(struct CUstream_st, ops));
    }
    memset(events, 0, sizeof events);
    used_streams = 1;
    ticks = 0;
    turns = 0;
    randomness = 0;
    chooser = NULL;
}

/* ---- what the others ask -------------------------------------------------
 */

static bool touches(const struct op *op, uint64_t at, uint64_t bytes)
{
    const struct fake_region all = {at, bytes, true};
    uint32_t count;
    const struct fake_region *regions = regions_of(op, &count);

    for (uint32_t i = 0; i < count; i++) {
        if (collide(&regions[i], &all)) return true;
    }
    return false;
}

bool is_pending(uint64_t at, uint64_t bytes)
{
    for (uint32_t i = 0; i < used_streams; i++) {
        struct CUstream_st *stream = &streams[i];

        for (uint64_t s = stream->done + 1; s <= stream->enqueued; s++) {
            if (touches(op_at(stream, s), at, bytes)) return true;
        }
    }
    return false;
}

uint64_t pending(void)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < used_streams; i++) {
        count += streams[i].enqueued - streams[i].done;
    }
    return count;
}

uint64_t pending_on_device(int device)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < used_streams; i++) {
        if (streams[i].device != device) continue;
        count += streams[i].enqueued - streams[i].done;
    }
    return count;
}

int stream_device(CUstream handle)
{
    const struct CUstream_st *stream = stream_of(handle);

    return stream != NULL ? stream->device : -1;
}

void enqueue_work(CUstream handle, struct fake_work *work, const char *call)
{
    struct CUstream_st *stream = stream_of(handle);
    struct op op;

    memset(&op, 0, sizeof op);
    op.kind = OP_WORK;
    op.work = work;
    if (stream != NULL) (void)append(stream, call, &op);
}

void hold(CUstream handle, bool held)
{
    struct CUstream_st *stream = stream_of(handle);

    if (stream == NULL) return;
    if (held) {
        stream->held++;
    } else {
        stream->held--;
    }
}

/* Aborted work is over: what it was to write stays as it is. */
void take_off(CUstream handle, struct fake_work *work)
{
    struct CUstream_st *stream = stream_of(handle);
    uint64_t work_turn;

    if (stream == NULL) return;
    for (uint64_t s = stream->done + 1; s <= stream->enqueued; s++) {
        struct op *op = op_at(stream, s);

        if (op->kind != OP_WORK || op->work != work) continue;
        work_turn = op->turn;
        memset(op, 0, sizeof *op);
        op->kind = OP_RECORD;
        op->turn = work_turn;
    }
}

static bool never_reaches(struct CUstream_st *stream, uint64_t sequence,
                          uint32_t depth);

static bool never_ends(struct op *op, uint32_t depth)
{
    if (is_stalled(op)) return true;
    if (op->kind == OP_WAIT_VALUE) return !holds(op);
    if (op->kind != OP_WAIT) return false;
    return never_reaches(&streams[op->stream], op->sequence, depth + 1);
}

/* Something of a stream that the default stream takes part in never ends. */
static bool default_never_ends(struct CUstream_st *stream, uint64_t turn,
                               uint32_t depth)
{
    for (uint32_t i = 0; i < used_streams; i++) {
        struct CUstream_st *other = &streams[i];
        uint64_t s = other->done;

        if (!wait_for_each_other(stream, other)) continue;
        while (s < other->enqueued && op_at(other, s + 1)->turn < turn) s++;
        if (never_reaches(other, s, depth + 1)) return true;
    }
    return false;
}

/* Whether something up to there never ends by itself. A wait leads to another
 * stream, and so through no more streams than there are. */
static bool never_reaches(struct CUstream_st *stream, uint64_t sequence,
                          uint32_t depth)
{
    if (depth == STREAMS_MAX) return false;
    for (uint64_t s = stream->done + 1; s <= sequence; s++) {
        if (never_ends(op_at(stream, s), depth)) return true;
        if (default_never_ends(stream, op_at(stream, s)->turn, depth)) {
            return true;
        }
    }
    return false;
}

bool is_blocked(CUstream handle, const struct fake_work *work)
{
    struct CUstream_st *stream = stream_of(handle);
    uint64_t s;

    if (stream == NULL) return false;
    for (s = stream->done; s < stream->enqueued; s++) {
        if (op_at(stream, s + 1)->work == work) break;
    }
    if (s < stream->enqueued &&
        default_never_ends(stream, op_at(stream, s + 1)->turn, 0)) {
        return true;
    }
    return never_reaches(stream, s, 0);
}

/* ---- streams -------------------------------------------------------------
 */

static struct CUstream_st *free_stream(void)
{
    for (uint32_t i = 1; i < STREAMS_MAX; i++) {
        if (!streams[i].was) return &streams[i];
    }
    for (uint32_t i = 1; i < STREAMS_MAX; i++) {
        if (!streams[i].alive) return &streams[i];
    }
    return NULL;
}

static CUresult make_stream(CUstream *phStream, unsigned int flags,
                            int priority)
{
    struct CUstream_st *stream = free_stream();

    if ((flags & ~(unsigned)CU_STREAM_NON_BLOCKING) != 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (stream == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
    stream->alive = true;
    stream->was = true;
    stream->device = current_device();
    stream->priority = priority;
    stream->waits_for_default = (flags & CU_STREAM_NON_BLOCKING) == 0;
    if (stream->waits_for_default) counts()->default_streams++;
    if (number_of(stream) >= used_streams) {
        used_streams = number_of(stream) + 1;
    }
    counts()->streams++;
    *phStream = stream;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
    struct call call;

    if (!enter_allocating(&call, "cuStreamCreate", NEED_CONTEXT)) {
        return spoiled(&call, phStream, sizeof *phStream);
    }
    return leave(&call, make_stream(phStream, Flags, 0));
}

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *phStream,
                                            unsigned int flags, int priority)
{
    struct call call;

    if (!enter_allocating(&call, "cuStreamCreateWithPriority", NEED_CONTEXT)) {
        return spoiled(&call, phStream, sizeof *phStream);
    }
    return leave(&call, make_stream(phStream, flags, priority));
}

CUresult CUDAAPI cuStreamDestroy(CUstream hStream)
{
    struct CUstream_st *stream;
    struct call call;

    if (!enter_allocating(&call, "cuStreamDestroy", NEED_CONTEXT)) {
        return call.code;
    }
    stream = hStream == NULL ? NULL : stream_of(hStream);
    if (stream == NULL) {
        misuse(call.name, "ends what is not, or is no more");
        return leave(&call, CUDA_ERROR_INVALID_HANDLE);
    }
    if (stream->enqueued > stream->done) {
        misuse(call.name, "work is pending on it");
    }
    stream->alive = false;
    counts()->streams--;
    if (stream->waits_for_default) counts()->default_streams--;
    stream->waits_for_default = false;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuStreamQuery(CUstream hStream)
{
    struct CUstream_st *stream;
    struct call call;

    if (!enter(&call, "cuStreamQuery", NEED_CONTEXT)) return call.code;
    stream = stream_of(hStream);
    if (stream == NULL) return leave(&call, CUDA_ERROR_INVALID_HANDLE);
    if (capture_forbids(&call)) return leave(&call, call.code);
    poll();
    return leave(&call, stream->done == stream->enqueued
                            ? CUDA_SUCCESS
                            : CUDA_ERROR_NOT_READY);
}

CUresult CUDAAPI cuStreamSynchronize(CUstream hStream)
{
    struct call call;

    (void)hStream;
    if (!enter(&call, "cuStreamSynchronize", NEED_CONTEXT)) return call.code;
    misuse(call.name, "waits for the device, for ever if it hangs");
    return leave(&call, drain() ? CUDA_SUCCESS : CUDA_ERROR_TIMEOUT);
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream hStream, CUevent hEvent,
                                   unsigned int Flags)
{
    struct CUstream_st *stream;
    struct call call;
    struct op op;

    if (!enter(&call, "cuStreamWaitEvent", NEED_CONTEXT)) return call.code;
    stream = stream_of(hStream);
    if (stream == NULL || !is_event(hEvent) || Flags != 0) {
        return leave(&call, CUDA_ERROR_INVALID_HANDLE);
    }
    /* cuda.h, cuEventRecord: before it an event captures an empty set of work;
     * the driver would wait for nothing. */
    if (!hEvent->recorded) {
        misuse(call.name, "the event was never recorded, so nothing is "
                          "ordered");
        return leave(&call, CUDA_SUCCESS);
    }
    op = plain(OP_WAIT, &call);
    op.stream = hEvent->stream;
    op.sequence = hEvent->sequence;
    (void)append(stream, call.name, &op);
    join_clock(stream->clock, hEvent->clock);
    return leave(&call, CUDA_SUCCESS);
}

static CUresult with_value(enum op_kind kind, const struct call *call,
                           CUstream handle, CUdeviceptr at, const uint32_t *of)
{
    struct CUstream_st *stream = stream_of(handle);
    struct op op = plain(kind, call);
    struct place place = place_of(at, sizeof(uint32_t));

    if (stream == NULL) return CUDA_ERROR_INVALID_HANDLE;
    if (at % sizeof(uint32_t) != 0 || !place.known) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    op.to = at;
    op.value32 = of[0];
    op.flags = of[1];
    (void)append(stream, call->name, &op);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamWaitValue32(CUstream stream, CUdeviceptr addr,
                                     cuuint32_t value, unsigned int flags)
{
    const uint32_t of[2] = {value, flags};
    struct call call;

    if (!enter(&call, "cuStreamWaitValue32", NEED_CONTEXT)) return call.code;
    return leave(&call, with_value(OP_WAIT_VALUE, &call, stream, addr, of));
}

CUresult CUDAAPI cuStreamWriteValue32(CUstream stream, CUdeviceptr addr,
                                      cuuint32_t value, unsigned int flags)
{
    const uint32_t of[2] = {value, flags};
    struct call call;

    if (!enter(&call, "cuStreamWriteValue32", NEED_CONTEXT)) return call.code;
    return leave(&call, with_value(OP_WRITE_VALUE, &call, stream, addr, of));
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    struct CUstream_st *stream;
    struct call call;
    struct op op;

    if (!enter(&call, "cuLaunchHostFunc", NEED_CONTEXT)) return call.code;
    stream = stream_of(hStream);
    if (stream == NULL) return leave(&call, CUDA_ERROR_INVALID_HANDLE);
    op = plain(OP_FUNCTION, &call);
    op.function = fn;
    op.argument = userData;
    (void)append(stream, call.name, &op);
    return leave(&call, CUDA_SUCCESS);
}

/* ---- capture -------------------------------------------------------------
 */

/* Of the calling thread: cuda.h, cuThreadExchangeStreamCaptureMode. */
static _Thread_local __attribute__((tls_model("initial-exec")))
CUstreamCaptureMode capture_mode;

static bool forbids(const struct CUstream_st *stream)
{
    const bool mine = pthread_equal(stream->capturer, pthread_self());

    if (!stream->captures || capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED) {
        return false;
    }
    if (mine) return stream->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
    return capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
           stream->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
}

/* cuda.h: in the default mode a thread "is prohibited from potentially unsafe
 * API calls" while any other captures in that mode. Queries and allocations
 * are such: they return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, and the capture
 * is invalidated (pytorch/pytorch#104487). */
bool capture_forbids(struct call *call)
{
    bool any = false;

    for (uint32_t i = 0; i < used_streams; i++) {
        if (!forbids(&streams[i])) continue;
        streams[i].broken = true;
        any = true;
    }
    if (any) call->code = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return any;
}

CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    CUstreamCaptureMode before = capture_mode;
    struct call call;

    if (!enter(&call, "cuThreadExchangeStreamCaptureMode", NEED_INIT)) {
        return call.code;
    }
    if (*mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    capture_mode = *mode;
    *mode = before;
    counts()->capture_modes++;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuStreamBeginCapture(CUstream hStream,
                                      CUstreamCaptureMode mode)
{
    struct CUstream_st *stream;
    struct call call;

    if (!enter(&call, "cuStreamBeginCapture", NEED_CONTEXT)) return call.code;
    stream = hStream == NULL ? NULL : stream_of(hStream);
    if (stream == NULL || stream->captures) { /* not the default stream */
        return leave(&call, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    stream->captures = true;
    stream->broken = false;
    stream->mode = mode;
    stream->capturer = pthread_self();
    return leave(&call, CUDA_SUCCESS);
}

/* The graph is empty: what is put on such a stream is not faked. */
CUresult CUDAAPI cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
    static char empty;
    struct CUstream_st *stream;
    struct call call;

    if (!enter(&call, "cuStreamEndCapture", NEED_CONTEXT)) return call.code;
    stream = hStream == NULL ? NULL : stream_of(hStream);
    if (stream == NULL || !stream->captures) {
        return leave(&call, CUDA_ERROR_ILLEGAL_STATE);
    }
    stream->captures = false;
    *phGraph = stream->broken ? NULL : (CUgraph)(void *)&empty;
    return leave(&call, stream->broken ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                                       : CUDA_SUCCESS);
}

/* ---- events --------------------------------------------------------------
 */

CUresult CUDAAPI cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
    struct call call;

    if (!enter_allocating(&call, "cuEventCreate", NEED_CONTEXT)) {
        return spoiled(&call, phEvent, sizeof *phEvent);
    }
    for (uint32_t i = 0; i < EVENTS_MAX; i++) {
        if (events[i].alive) continue;
        memset(&events[i], 0, sizeof events[i]);
        events[i].alive = true;
        events[i].timed = (Flags & CU_EVENT_DISABLE_TIMING) == 0;
        events[i].device = current_device();
        counts()->events++;
        if (events[i].timed) counts()->timed_events++;
        *phEvent = &events[i];
        return leave(&call, CUDA_SUCCESS);
    }
    return leave(&call, CUDA_ERROR_OUT_OF_MEMORY);
}

CUresult CUDAAPI cuEventDestroy(CUevent hEvent)
{
    struct call call;

    if (!enter_allocating(&call, "cuEventDestroy", NEED_CONTEXT)) {
        return call.code;
    }
    if (!is_event(hEvent)) {
        misuse(call.name, "ends what is not, or is no more");
        return leave(&call, CUDA_ERROR_INVALID_HANDLE);
    }
    hEvent->alive = false;
    counts()->events--;
    if (hEvent->timed) counts()->timed_events--;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuEventRecord(CUevent hEvent, CUstream hStream)
{
    struct CUstream_st *stream;
    struct call call;
    struct op op;

    if (!enter(&call, "cuEventRecord", NEED_CONTEXT)) return call.code;
    stream = stream_of(hStream);
    if (stream == NULL || !is_event(hEvent)) {
        return leave(&call, CUDA_ERROR_INVALID_HANDLE);
    }
    if (stream->device != hEvent->device) {
        return leave(&call, CUDA_ERROR_INVALID_HANDLE);
    }
    op = plain(OP_RECORD, &call);
    (void)append(stream, call.name, &op);
    hEvent->recorded = true;
    hEvent->stream = number_of(stream);
    hEvent->sequence = stream->enqueued;
    memcpy(hEvent->clock, stream->clock, sizeof hEvent->clock);
    return leave(&call, CUDA_SUCCESS);
}

/* cuda.h: an event that was never recorded captures nothing, and is complete.
 */
CUresult CUDAAPI cuEventQuery(CUevent hEvent)
{
    struct call call;
    bool complete;

    if (!enter(&call, "cuEventQuery", NEED_CONTEXT)) return call.code;
    if (!is_event(hEvent)) return leave(&call, CUDA_ERROR_INVALID_HANDLE);
    if (capture_forbids(&call)) return leave(&call, call.code);
    poll();
    complete = !hEvent->recorded ||
               streams[hEvent->stream].done >= hEvent->sequence;
    return leave(&call, complete ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}

CUresult CUDAAPI cuEventSynchronize(CUevent hEvent)
{
    struct call call;

    (void)hEvent;
    if (!enter(&call, "cuEventSynchronize", NEED_CONTEXT)) return call.code;
    misuse(call.name, "waits for the device, for ever if it hangs");
    return leave(&call, drain() ? CUDA_SUCCESS : CUDA_ERROR_TIMEOUT);
}

/* ---- copies --------------------------------------------------------------
 */

/* The driver API's "API synchronization behavior": an asynchronous copy of
 * pageable memory may wait. It is counted. */
static bool is_pageable(const struct place *place)
{
    return !place->device && place->kind == MEMORY_FREE;
}

static CUresult copy(const struct call *call, CUstream handle, uint64_t to,
                     uint64_t from, uint64_t bytes)
{
    struct CUstream_st *stream = stream_of(handle);
    struct place to_place = place_of(to, bytes);
    struct place from_place = place_of(from, bytes);
    struct op op = plain(OP_COPY, call);

    if (stream == NULL) return CUDA_ERROR_INVALID_HANDLE;
    if (bytes == 0) return CUDA_SUCCESS;
    if (!to_place.known || !from_place.known) return CUDA_ERROR_INVALID_VALUE;
    if (is_pageable(&to_place) || is_pageable(&from_place)) {
        counts()->unpinned_copies++;
    }
    op.to = to;
    op.from = from;
    op.bytes = bytes;
    op.hashed = !from_place.device;
    add_region(&op, to, bytes, true);
    add_region(&op, from, bytes, false);
    /* Of the source only where nothing pending writes it first. */
    if (op.hashed && is_pending(from, bytes)) op.hashed = false;
    if (op.hashed) op.hash = hash_of(from_place.host, bytes);
    (void)append(stream, call->name, &op);
    return CUDA_SUCCESS;
}

/* Which side must be device memory; the unified form takes any. */
static CUresult copy_between(const struct call *call, CUstream stream,
                             uint64_t to, uint64_t from, uint64_t bytes,
                             const bool *device)
{
    if (bytes > 0 &&
        ((device[0] && place_of(to, bytes).kind == MEMORY_FREE) ||
         (device[1] && place_of(from, bytes).kind == MEMORY_FREE))) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    return copy(call, stream, to, from, bytes);
}

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src,
                               size_t ByteCount, CUstream hStream)
{
    struct call call;

    if (!enter(&call, "cuMemcpyAsync", NEED_CONTEXT)) return call.code;
    return leave(&call, copy(&call, hStream, dst, src, ByteCount));
}

CUresult CUDAAPI cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext,
                                   CUdeviceptr srcDevice, CUcontext srcContext,
                                   size_t ByteCount, CUstream hStream)
{
    struct call call;

    (void)dstContext;
    (void)srcContext;
    if (!enter(&call, "cuMemcpyPeerAsync", NEED_CONTEXT)) return call.code;
    return leave(&call, copy(&call, hStream, dstDevice, srcDevice, ByteCount));
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr dstDevice, const void *srcHost,
                                   size_t ByteCount, CUstream hStream)
{
    static const bool device[2] = {true, false};
    struct call call;

    if (!enter(&call, "cuMemcpyHtoDAsync", NEED_CONTEXT)) return call.code;
    return leave(&call,
                 copy_between(&call, hStream, dstDevice,
                              (uint64_t)(uintptr_t)srcHost, ByteCount, device));
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void *dstHost, CUdeviceptr srcDevice,
                                   size_t ByteCount, CUstream hStream)
{
    static const bool device[2] = {false, true};
    struct call call;

    if (!enter(&call, "cuMemcpyDtoHAsync", NEED_CONTEXT)) return call.code;
    return leave(&call,
                 copy_between(&call, hStream, (uint64_t)(uintptr_t)dstHost,
                              srcDevice, ByteCount, device));
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr dstDevice, CUdeviceptr srcDevice,
                                   size_t ByteCount, CUstream hStream)
{
    static const bool device[2] = {true, true};
    struct call call;

    if (!enter(&call, "cuMemcpyDtoDAsync", NEED_CONTEXT)) return call.code;
    return leave(&call, copy_between(&call, hStream, dstDevice, srcDevice,
                                     ByteCount, device));
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc,
                                 size_t N, CUstream hStream)
{
    struct CUstream_st *stream;
    struct call call;
    struct op op;

    if (!enter(&call, "cuMemsetD8Async", NEED_CONTEXT)) return call.code;
    stream = stream_of(hStream);
    if (stream == NULL) return leave(&call, CUDA_ERROR_INVALID_HANDLE);
    if (N == 0) return leave(&call, CUDA_SUCCESS);
    if (place_of(dstDevice, N).kind == MEMORY_FREE) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    op = plain(OP_FILL, &call);
    op.to = dstDevice;
    op.bytes = N;
    op.value32 = uc;
    add_region(&op, dstDevice, N, true);
    (void)append(stream, call.name, &op);
    return leave(&call, CUDA_SUCCESS);
}

#if FAKE_CUDA_VERSION >= 13000
CUresult CUDAAPI cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs,
                                    size_t *sizes, size_t count,
                                    CUmemcpyAttributes *attrs,
                                    size_t *attrsIdxs, size_t numAttrs,
                                    CUstream hStream)
{
    CUresult code = CUDA_SUCCESS;
    struct call call;

    (void)attrs;
    if (!enter(&call, "cuMemcpyBatchAsync", NEED_CONTEXT)) return call.code;
    if (count == 0 || numAttrs == 0 || numAttrs > count || attrsIdxs[0] != 0 ||
        hStream == NULL) { /* cuda.h: not the default stream */
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    for (size_t i = 0; i < count && code == CUDA_SUCCESS; i++) {
        code = copy(&call, hStream, dsts[i], srcs[i], sizes[i]);
    }
    return leave(&call, code);
}
#endif

/* ---- copies that wait ----------------------------------------------------
 */

static CUresult copy_and_wait(const struct call *call, uint64_t to,
                              uint64_t from, uint64_t bytes)
{
    CUresult code;

    misuse(call->name, "waits for the copy, for ever if the device hangs");
    code = copy(call, NULL, to, from, bytes);
    if (code != CUDA_SUCCESS) return code;
    return drain() ? CUDA_SUCCESS : CUDA_ERROR_TIMEOUT;
}

CUresult CUDAAPI cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount)
{
    struct call call;

    if (!enter(&call, "cuMemcpy", NEED_CONTEXT)) return call.code;
    return leave(&call, copy_and_wait(&call, dst, src, ByteCount));
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr dstDevice, const void *srcHost,
                              size_t ByteCount)
{
    struct call call;

    if (!enter(&call, "cuMemcpyHtoD", NEED_CONTEXT)) return call.code;
    return leave(&call, copy_and_wait(&call, dstDevice,
                                      (uint64_t)(uintptr_t)srcHost, ByteCount));
}

CUresult CUDAAPI cuMemcpyDtoH(void *dstHost, CUdeviceptr srcDevice,
                              size_t ByteCount)
{
    struct call call;

    if (!enter(&call, "cuMemcpyDtoH", NEED_CONTEXT)) return call.code;
    return leave(&call, copy_and_wait(&call, (uint64_t)(uintptr_t)dstHost,
                                      srcDevice, ByteCount));
}

CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr dstDevice, CUdeviceptr srcDevice,
                              size_t ByteCount)
{
    struct call call;

    if (!enter(&call, "cuMemcpyDtoD", NEED_CONTEXT)) return call.code;
    return leave(&call, copy_and_wait(&call, dstDevice, srcDevice, ByteCount));
}

CUresult CUDAAPI cuMemsetD8(CUdeviceptr dstDevice, unsigned char uc, size_t N)
{
    bool is_virtual;
    struct call call;
    void *to;

    if (!enter(&call, "cuMemsetD8", NEED_CONTEXT)) return call.code;
    misuse(call.name, "waits for the device, for ever if it hangs");
    to = memory_of(dstDevice, N, &is_virtual);
    if (to == NULL) return leave(&call, CUDA_ERROR_INVALID_VALUE);
    memset(to, uc, N);
    return leave(&call, CUDA_SUCCESS);
}
