/* Cleat: how fast weights travel between GPUs: one process of them.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Makes everything when it is told to open, then does what it is told and says
 * how long that took. It waits by asking, never in a call of a library, and
 * never past an order's deadline; whoever gave the order kills it when a call
 * does not come back. */
#define _GNU_SOURCE
#include "gpu_bench.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cleat/stream.h"
#include "port/nccl/library.h"

#define POISON 0xA5
#define IN_FLIGHT 16u /* copies on a stream at once */
#define IDLE_NS (600 * CLEAT_NS_PER_S)

enum end { END_DEVICE, END_STAGED, ENDS }; /* of a transport */

struct rank {
    struct settings settings;
    struct cleat_cuda *cuda; /* its slots are the weights on the device */
    struct nccl_library nccl;
    ncclComm_t comm;
    struct cleat_transport_sender senders[ENDS];
    struct cleat_transport_receiver receivers[ENDS];
    unsigned char *host;  /* the weights on the host: as many slots */
    uint64_t seen[SLOTS]; /* a receiver's slots on the device */
    struct order order;   /* the present one */
    struct answer *answer;
    _Alignas(64) unsigned char cuda_block[CLEAT_CUDA_BYTES];
    _Alignas(64) unsigned char ends[ENDS][CLEAT_NCCL_BYTES];
    _Alignas(8) unsigned char pipeline[CLEAT_PIPELINE_BYTES(RANKS_MAX)];
};

static struct rank self;

static uint64_t clock_now(struct cleat_clock_context *context)
{
    (void)context;
    return now_ns();
}
static const struct cleat_clock clock_monotonic = {NULL, clock_now};

static bool sends(void)
{
    return self.settings.rank == 0;
}

static size_t bucket_bytes(void)
{
    return (size_t)self.settings.bucket_bytes;
}

static unsigned char *host_at(uint32_t slot)
{
    return self.host + slot * bucket_bytes();
}

static enum cleat_status fail(enum cleat_status status, const char *text)
{
    (void)snprintf(self.answer->text, sizeof self.answer->text, "%s", text);
    return status;
}

static enum cleat_status pass_on(enum cleat_status status,
                                 const struct cleat_error *error)
{
    return status == CLEAT_OK ? CLEAT_OK : fail(status, error->text);
}

/* ---- waiting by asking ---- */

/* CLEAT_OK; CLEAT_PENDING: ask again. */
typedef enum cleat_status ask_fn(uint32_t what);

static enum cleat_status until(ask_fn *ask, uint32_t what, const char *doing)
{
    enum cleat_status status = ask(what);

    while (status == CLEAT_PENDING) {
        if (now_ns() >= self.order.deadline_ns) {
            status = CLEAT_DEADLINE;
            break;
        }
        (void)sched_yield();
        status = ask(what);
    }
    return status == CLEAT_OK ? CLEAT_OK : fail(status, doing);
}

static enum cleat_status ask_event(uint32_t event)
{
    return cleat_cuda_passed(self.cuda, event);
}

static enum cleat_status ask_stream(uint32_t stream)
{
    return cleat_cuda_idle(self.cuda, stream);
}

static enum cleat_status ask_nccl(uint32_t unused)
{
    ncclResult_t state = ncclInProgress;
    ncclResult_t result = self.nccl.p_ncclCommGetAsyncError(self.comm, &state);

    (void)unused;
    return nccl_meaning(result != ncclSuccess ? result : state);
}

/* ---- what the bytes are ---- */

/* Every word of every slot is another. */
static uint64_t word_of(uint32_t slot, size_t at)
{
    return ((uint64_t)slot << 40 | at) * UINT64_C(0x9E3779B97F4A7C15) + 1;
}

static void pattern_write(unsigned char *to, uint32_t slot)
{
    for (size_t at = 0; at < bucket_bytes(); at += sizeof(uint64_t)) {
        uint64_t word = word_of(slot, at);

        memcpy(to + at, &word, sizeof word);
    }
}

static bool pattern_is(const unsigned char *in, uint32_t slot)
{
    for (size_t at = 0; at < bucket_bytes(); at += sizeof(uint64_t)) {
        uint64_t word;

        memcpy(&word, in + at, sizeof word);
        if (word != word_of(slot, at)) { return false; }
    }
    return true;
}

static uint64_t staging_at(uint32_t slot)
{
    return (uint64_t)(uintptr_t)cleat_cuda_staging(self.cuda, slot);
}

/* Copies a bucket and waits for it. */
static enum cleat_status copy(uint64_t to, uint64_t from)
{
    if (cleat_cuda_copy(self.cuda, 0, to, from, bucket_bytes()) != CLEAT_OK) {
        return fail(CLEAT_PERMANENT, "a copy was refused");
    }
    return until(ask_stream, 0, "a copy does not end");
}

/* ---- open and close ---- */

static enum cleat_status open_device(void)
{
    struct cleat_cuda_config config;
    struct cleat_error error;

    memset(&config, 0, sizeof config);
    config.lib_path = self.settings.cuda;
    config.device = self.settings.device;
    config.streams_count = 1;
    config.events_count = IN_FLIGHT;
    config.slots_count = SLOTS;
    config.staging_count = SLOTS;
    config.slot_bytes = self.settings.bucket_bytes;
    config.staging_bytes = self.settings.bucket_bytes;
    config.shareable = self.settings.registers; /* what NCCL registers is */
    return pass_on(cleat_cuda_open(self.cuda_block, sizeof self.cuda_block,
                                   &config, &self.cuda, &error),
                   &error);
}

static enum cleat_status open_end(enum end end)
{
    struct cleat_nccl_config config;
    struct cleat_error error;
    enum cleat_status status;

    memset(&config, 0, sizeof config);
    config.cuda_library = self.settings.cuda;
    config.nccl_library = self.settings.nccl;
    config.bucket_bytes = self.settings.bucket_bytes;
    config.slots_count = SLOTS;
    config.receivers_max = self.settings.receivers;
    config.device = self.settings.device;
    config.topology = self.settings.topology;
    config.on_device = end == END_DEVICE;
    config.register_slots = self.settings.registers
                                ? CLEAT_NCCL_REGISTER_IF_POSSIBLE
                                : CLEAT_NCCL_REGISTER_NEVER;
    config.bucket_ns = self.settings.step_ns;
    config.call_ns = self.settings.step_ns;
    status = sends()
                 ? cleat_nccl_sender_open(self.ends[end], sizeof self.ends[end],
                                          &config, &self.senders[end], &error)
                 : cleat_nccl_receiver_open(self.ends[end],
                                            sizeof self.ends[end], &config,
                                            &self.receivers[end], &error);
    return pass_on(status, &error);
}

/* The sender's weights, on the host and on the device. */
static enum cleat_status fill_weights(void)
{
    enum cleat_status status = CLEAT_OK;

    for (uint32_t slot = 0; slot < SLOTS && status == CLEAT_OK; slot++) {
        pattern_write(host_at(slot), slot);
        memcpy(cleat_cuda_staging(self.cuda, slot), host_at(slot),
               bucket_bytes());
        status = copy(cleat_cuda_slot(self.cuda, slot), staging_at(slot));
    }
    return status;
}

static enum cleat_status work_open(void)
{
    struct cleat_error error;
    enum cleat_status status = open_device();

    if (status != CLEAT_OK) { return status; }
    status = nccl_library_load(&self.nccl, self.settings.nccl, &error);
    if (status != CLEAT_OK) { return pass_on(status, &error); }
    self.host = mmap(NULL, SLOTS * bucket_bytes(), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (self.host == MAP_FAILED) { return fail(CLEAT_CAPACITY, "no memory"); }
    memset(self.host, POISON, SLOTS * bucket_bytes());
    for (uint32_t end = 0; end < ENDS; end++) {
        status = open_end((enum end)end);
        if (status != CLEAT_OK) { return status; }
    }
    if (cleat_cuda_use(self.cuda) != CLEAT_OK) {
        return fail(CLEAT_PERMANENT, "no context");
    }
    return sends() ? fill_weights() : CLEAT_OK;
}

static enum cleat_status work_close(void)
{
    for (uint32_t end = 0; end < ENDS; end++) {
        enum cleat_status status =
            sends() ? cleat_nccl_sender_close(&self.senders[end])
                    : cleat_nccl_receiver_close(&self.receivers[end]);

        if (status != CLEAT_OK) {
            return fail(status, "a transport was not closed");
        }
    }
    /* Each close takes the context away from its thread. */
    if (cleat_cuda_use(self.cuda) != CLEAT_OK ||
        self.nccl.p_ncclCommAbort(self.comm) != ncclSuccess ||
        cleat_cuda_close(self.cuda) != CLEAT_OK) {
        return fail(CLEAT_PERMANENT, "the device was not closed");
    }
    return CLEAT_OK;
}

/* ---- the bare communicator ---- */

static enum cleat_status work_id(void)
{
    ncclUniqueId id;

    if (self.nccl.p_ncclGetUniqueId(&id) != ncclSuccess) {
        return fail(CLEAT_GROUP_FAILED, "ncclGetUniqueId failed");
    }
    memcpy(self.answer->id, &id, sizeof id);
    return CLEAT_OK;
}

/* As the transport does with its own: all slots at once, at every rank. */
static enum cleat_status register_slots(void)
{
    uint64_t from = cleat_cuda_slot(self.cuda, 0);
    uint64_t bytes = cleat_cuda_slot(self.cuda, SLOTS - 1) - from +
                     self.settings.bucket_bytes;
    void *handle = NULL;

    if (!self.settings.registers) { return CLEAT_OK; }
    return self.nccl.p_ncclCommRegister(self.comm, (void *)(uintptr_t)from,
                                        (size_t)bytes, &handle) == ncclSuccess
               ? CLEAT_OK
               : fail(CLEAT_UNSUPPORTED, "ncclCommRegister failed");
}

static enum cleat_status work_meet(void)
{
    enum cleat_status status;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    ncclResult_t result;

    memcpy(&id, self.order.id, sizeof id);
    config.blocking = 0;
    result = self.nccl.p_ncclCommInitRankConfig(
        &self.comm, (int)self.settings.receivers + 1, id,
        (int)self.settings.rank, &config);
    if (nccl_meaning(result) < CLEAT_OK) {
        return fail(CLEAT_GROUP_FAILED, "ncclCommInitRankConfig failed");
    }
    status = until(ask_nccl, 0, "the ranks do not meet");
    return status == CLEAT_OK ? register_slots() : status;
}

static ncclResult_t bare_bucket(uint32_t slot)
{
    void *data = (void *)(uintptr_t)cleat_cuda_slot(self.cuda, slot);
    cudaStream_t stream = cleat_cuda_stream(self.cuda, 0);
    ncclResult_t result = ncclSuccess;

    if (self.settings.topology == CLEAT_NCCL_BROADCAST) {
        return self.nccl.p_ncclBroadcast(data, data, bucket_bytes(), ncclUint8,
                                         0, self.comm, stream);
    }
    if (!sends()) {
        return self.nccl.p_ncclRecv(data, bucket_bytes(), ncclUint8, 0,
                                    self.comm, stream);
    }
    for (uint32_t i = 1; i <= self.settings.receivers && result == ncclSuccess;
         i++) {
        result = self.nccl.p_ncclSend(data, bucket_bytes(), ncclUint8, (int)i,
                                      self.comm, stream);
    }
    return result;
}

/* As many buckets under way as there are slots, each in a group of its own,
 * which NCCL must have put on the stream before anything else is. */
static enum cleat_status bare_give(uint32_t slot)
{
    ncclResult_t result = self.nccl.p_ncclGroupStart();
    ncclResult_t ended;
    enum cleat_status status;

    if (result != ncclSuccess) { return fail(CLEAT_GROUP_FAILED, "no group"); }
    result = bare_bucket(slot);
    ended = self.nccl.p_ncclGroupEnd();
    if (nccl_meaning(result) < CLEAT_OK || nccl_meaning(ended) < CLEAT_OK) {
        return fail(CLEAT_GROUP_FAILED, "NCCL refuses a bucket");
    }
    status = until(ask_nccl, 0, "NCCL does not take a bucket");
    if (status != CLEAT_OK) { return status; }
    return cleat_cuda_record(self.cuda, slot, 0) == CLEAT_OK
               ? CLEAT_OK
               : fail(CLEAT_PERMANENT, "an event was refused");
}

static enum cleat_status pass_bare(void)
{
    for (uint32_t bucket = 0; bucket < self.order.buckets; bucket++) {
        enum cleat_status status = CLEAT_OK;

        if (bucket >= SLOTS) {
            status = until(ask_event, bucket % SLOTS, "a bucket does not come");
        }
        if (status == CLEAT_OK) { status = bare_give(bucket % SLOTS); }
        if (status != CLEAT_OK) { return status; }
    }
    return until(ask_stream, 0, "a bucket does not come");
}

/* ---- the ceilings ---- */

/* One bucket of a way that is this process's own, begun. */
static enum cleat_status begin_copy(enum way way, uint32_t bucket)
{
    uint32_t slot = bucket % SLOTS;
    uint64_t device = cleat_cuda_slot(self.cuda, slot);
    uint64_t to = device;
    uint64_t from = staging_at(slot);

    if (way == WAY_COPY) {
        from = cleat_cuda_slot(self.cuda, (bucket + 1) % SLOTS);
    } else if (way == WAY_FROM) {
        to = staging_at(slot);
        from = device;
    } else if (way == WAY_STAGING) {
        (void)cleat_crc32c_copy_with(self.settings.digest, 0,
                                     cleat_cuda_staging(self.cuda, slot),
                                     host_at(slot), bucket_bytes());
    }
    return cleat_cuda_copy(self.cuda, 0, to, from, bucket_bytes());
}

static enum cleat_status pass_copies(enum way way)
{
    uint32_t in_flight = way == WAY_STAGING ? SLOTS : IN_FLIGHT;

    for (uint32_t bucket = 0; bucket < self.order.buckets; bucket++) {
        uint32_t event = bucket % in_flight;
        enum cleat_status status = CLEAT_OK;

        if (bucket >= in_flight) {
            status = until(ask_event, event, "a copy does not end");
        }
        if (status != CLEAT_OK) { return status; }
        if (begin_copy(way, bucket) != CLEAT_OK ||
            cleat_cuda_record(self.cuda, event, 0) != CLEAT_OK) {
            return fail(CLEAT_PERMANENT, "a copy was refused");
        }
    }
    return until(ask_stream, 0, "a copy does not end");
}

static enum cleat_status pass_digest(void)
{
    uint32_t crc = 0;

    for (uint32_t bucket = 0; bucket < self.order.buckets; bucket++) {
        crc = cleat_crc32c_copy_with(
            self.settings.digest, crc,
            cleat_cuda_staging(self.cuda, bucket % SLOTS),
            host_at(bucket % SLOTS), bucket_bytes());
    }
    self.answer->digest = crc; /* so that it is needed */
    return CLEAT_OK;
}

/* ---- ours ---- */

/* One tensor as long as the payload, of which bucket b is slot b % SLOTS of the
 * weights: they lie on the device or on the host, or are not touched. */
static uint32_t tensors_count(struct cleat_tensors_context *context)
{
    (void)context;
    return 1;
}

static enum cleat_status tensors_describe(struct cleat_tensors_context *context,
                                          uint32_t index,
                                          struct cleat_tensor *out)
{
    (void)context;
    if (index != 0) { return CLEAT_INVALID; }
    memset(out, 0, sizeof *out);
    out->name = "weights";
    out->name_bytes = 7;
    out->dtype = CLEAT_DTYPE_U8;
    out->rank = 1;
    out->bytes = self.order.buckets * self.settings.bucket_bytes;
    out->shape[0] = out->bytes;
    return CLEAT_OK;
}

/* Both ends cut the tensor into whole buckets. */
static bool is_bucket(uint32_t index, uint64_t offset, size_t bytes)
{
    return index == 0 && bytes == bucket_bytes() &&
           offset % self.settings.bucket_bytes == 0 &&
           offset / self.settings.bucket_bytes < self.order.buckets;
}

static uint32_t slot_of(uint64_t offset)
{
    return (uint32_t)(offset / self.settings.bucket_bytes % SLOTS);
}

static enum cleat_status weights_read(struct cleat_tensors_context *context,
                                      uint32_t index, uint64_t offset,
                                      size_t bytes, void *to, uint32_t *crc)
{
    uint32_t slot = slot_of(offset);

    (void)context;
    if (!is_bucket(index, offset, bytes)) { return CLEAT_INVALID; }
    if (self.order.way == WAY_KEPT) { return CLEAT_OK; }
    if (self.order.way == WAY_DEVICE) {
        return copy((uint64_t)(uintptr_t)to, cleat_cuda_slot(self.cuda, slot));
    }
    *crc = cleat_crc32c_copy_with(self.settings.digest, *crc, to, host_at(slot),
                                  bytes);
    return CLEAT_OK;
}

static enum cleat_status weights_write(struct cleat_tensors_context *context,
                                       uint32_t index, uint64_t offset,
                                       size_t bytes, const void *from,
                                       uint32_t *crc)
{
    uint32_t slot = slot_of(offset);

    (void)context;
    if (!is_bucket(index, offset, bytes)) { return CLEAT_INVALID; }
    if (self.order.way == WAY_STAGED) {
        *crc = cleat_crc32c_copy_cold_with(self.settings.digest, *crc,
                                           host_at(slot), from, bytes);
        return CLEAT_OK;
    }
    self.seen[slot] = (uint64_t)(uintptr_t)from;
    if (self.order.way == WAY_KEPT) { return CLEAT_OK; }
    return copy(cleat_cuda_slot(self.cuda, slot), self.seen[slot]);
}

static enum end end_of(enum way way)
{
    return way == WAY_STAGED ? END_STAGED : END_DEVICE;
}

static enum cleat_status work_prepare(void)
{
    struct cleat_transport_sender *sender =
        &self.senders[end_of(self.order.way)];
    enum cleat_status status = sender->prepare(
        sender->context, self.order.generation, self.settings.receivers,
        &self.answer->ticket);

    return status == CLEAT_OK ? CLEAT_OK : fail(status, "no generation");
}

/* CLEAT_PENDING: it was woken, and is to be asked again. */
static enum cleat_status join(enum end end)
{
    if (sends()) {
        return self.senders[end].group(self.senders[end].context,
                                       self.order.deadline_ns);
    }
    return self.receivers[end].join(self.receivers[end].context,
                                    &self.order.ticket, self.settings.rank - 1,
                                    self.order.deadline_ns);
}

static enum cleat_status work_join(void)
{
    enum end end = end_of(self.order.way);
    struct cleat_nccl_account account;
    enum cleat_status status = join(end);

    while (status == CLEAT_PENDING && now_ns() < self.order.deadline_ns) {
        status = join(end);
    }
    if (sends()) {
        cleat_nccl_sender_account(&self.senders[end], &account);
        self.answer->registered = account.registered;
    }
    return status == CLEAT_OK ? CLEAT_OK : fail(status, "no group");
}

/* A plan of that one tensor. */
static enum cleat_status make_plan(struct cleat_plan *plan, uint64_t *block)
{
    uint64_t bytes = self.order.buckets * self.settings.bucket_bytes;
    enum cleat_status status = cleat_plan_begin(
        plan, block, 1, (uint32_t)self.settings.bucket_bytes, NULL);

    if (status == CLEAT_OK) { status = cleat_plan_add(plan, bytes); }
    cleat_plan_end(plan);
    return status == CLEAT_OK ? CLEAT_OK : fail(status, "no plan");
}

static enum cleat_status send_all(const struct cleat_plan *plan)
{
    static const struct cleat_tensor_source source = {
        NULL, tensors_count, tensors_describe, weights_read};
    const struct cleat_transport_sender *sender =
        &self.senders[end_of(self.order.way)];
    struct cleat_stream_result ended[RANKS_MAX];
    struct cleat_stream_sending with;
    struct cleat_stream_report report;
    struct cleat_error error;
    enum cleat_status status;

    memset(&with, 0, sizeof with);
    with.transport = sender;
    with.source = &source;
    with.plan = plan;
    with.clock = &clock_monotonic;
    with.block = self.pipeline;
    with.block_bytes = sizeof self.pipeline;
    with.generation = self.order.generation;
    with.deadline_ns = self.order.deadline_ns;
    with.ack_timeout_ns = self.settings.step_ns;
    with.receivers_count = self.settings.receivers;
    with.skips_digest = self.order.way != WAY_STAGED;
    status = cleat_stream_send(&with, ended, &report, &error);
    self.answer->end_ns = now_ns();
    self.answer->digest = report.digest;
    for (uint32_t i = 0; status == CLEAT_OK && i < with.receivers_count; i++) {
        if (ended[i].status != CLEAT_OK) {
            status = ended[i].status;
            (void)cleat_error_set(&error, status, i, 0,
                                  "a receiver was dropped");
        }
    }
    sender->finish(sender->context);
    return pass_on(status, &error);
}

static enum cleat_status receive_all(const struct cleat_plan *plan)
{
    static const struct cleat_tensor_sink sink = {
        NULL, tensors_count, tensors_describe, NULL, weights_write};
    const struct cleat_transport_receiver *receiver =
        &self.receivers[end_of(self.order.way)];
    struct cleat_stream_receiving with;
    struct cleat_stream_report report;
    struct cleat_error error;
    enum cleat_status status;

    memset(&with, 0, sizeof with);
    with.transport = receiver;
    with.sink = &sink;
    with.plan = plan;
    with.clock = &clock_monotonic;
    with.generation = self.order.generation;
    with.deadline_ns = self.order.deadline_ns;
    with.bucket_timeout_ns = self.settings.step_ns;
    with.digest_kind = self.settings.digest;
    with.skips_digest = self.order.way != WAY_STAGED;
    status = cleat_stream_receive(&with, &report, &error);
    self.answer->end_ns = now_ns();
    self.answer->digest = report.digest;
    receiver->leave(receiver->context);
    return pass_on(status, &error);
}

static enum cleat_status pass_ours(void)
{
    struct cleat_plan plan;
    uint64_t block = 0;
    enum cleat_status status = make_plan(&plan, &block);

    if (status != CLEAT_OK) { return status; }
    return sends() ? send_all(&plan) : receive_all(&plan);
}

static enum cleat_status work_pass(void)
{
    enum cleat_status status;

    self.answer->start_ns = now_ns();
    switch (self.order.way) {
    case WAY_BARE: status = pass_bare(); break;
    case WAY_KEPT:
    case WAY_DEVICE:
    case WAY_STAGED: return pass_ours(); /* has looked at the clock */
    case WAY_DIGEST: status = pass_digest(); break;
    default: status = pass_copies(self.order.way); break;
    }
    self.answer->end_ns = now_ns();
    return status;
}

/* ---- whether the bytes have come ---- */

/* Where slot `slot` of what comes by a way lies on the device. */
static uint64_t came_to(uint32_t slot)
{
    return self.order.way == WAY_KEPT ? self.seen[slot]
                                      : cleat_cuda_slot(self.cuda, slot);
}

static enum cleat_status work_poison(void)
{
    enum cleat_status status = CLEAT_OK;

    if (self.order.way == WAY_STAGED) {
        memset(self.host, POISON, SLOTS * bucket_bytes());
        return CLEAT_OK;
    }
    for (uint32_t slot = 0; slot < SLOTS && status == CLEAT_OK; slot++) {
        memset(cleat_cuda_staging(self.cuda, slot), POISON, bucket_bytes());
        status = copy(came_to(slot), staging_at(slot));
    }
    return status;
}

static enum cleat_status work_check(void)
{
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        const unsigned char *in = cleat_cuda_staging(self.cuda, slot);
        enum cleat_status status = CLEAT_OK;

        if (self.order.way == WAY_STAGED) {
            in = host_at(slot);
        } else {
            memset(cleat_cuda_staging(self.cuda, slot), 0, bucket_bytes());
            status = copy(staging_at(slot), came_to(slot));
        }
        if (status != CLEAT_OK) { return status; }
        if (!pattern_is(in, slot)) {
            return fail(CLEAT_CORRUPT, "other bytes have come than were sent");
        }
    }
    return CLEAT_OK;
}

/* ---- orders ---- */

static enum cleat_status carry_out(void)
{
    switch (self.order.work) {
    case WORK_OPEN: return work_open();
    case WORK_ID: return work_id();
    case WORK_MEET: return work_meet();
    case WORK_POISON: return work_poison();
    case WORK_PREPARE: return work_prepare();
    case WORK_JOIN: return work_join();
    case WORK_PASS: return work_pass();
    case WORK_CHECK: return work_check();
    default: return work_close();
    }
}

_Noreturn void rank_main(const struct settings *settings, int fd)
{
    static struct answer answer;

    self.settings = *settings;
    self.answer = &answer;
    for (;;) {
        if (message_take(fd, &self.order, sizeof self.order, &self.order.ticket,
                         now_ns() + IDLE_NS) != CLEAT_OK) {
            _exit(1);
        }
        memset(&answer, 0, sizeof answer);
        answer.ticket.fds[0] = -1;
        answer.ticket.fds[1] = -1;
        answer.status = carry_out();
        if (!message_send(fd, &answer, sizeof answer, &answer.ticket)) {
            _exit(1);
        }
        /* Both libraries wait for the device in an exit of the C library. */
        if (self.order.work == WORK_CLOSE) { _exit(0); }
    }
}
