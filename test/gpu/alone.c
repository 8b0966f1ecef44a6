/* Cleat: checks with one rank. SPDX-License-Identifier: Apache-2.0
 *
 * The engine of port/nccl, its owner, its reaper and its machine, with a group
 * of one. What it sends is sent to itself, in a group of ncclSend and ncclRecv:
 * a broadcast to nobody would be no kernel. So the engine's ncclBroadcast is
 * replaced. */
#define _GNU_SOURCE
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cuda.h>
#include <dlfcn.h>

#include "device.h"
#include "port/nccl/engine.h"

#define SLOTS 3u
#define GUARD 4096u /* bytes before and behind each destination */
#define GUARD_BYTE 0x5A

static struct nccl_engine engine;
static struct gpu_device device;
static uint64_t epoch;

static uint64_t bucket_bytes(uint64_t otherwise)
{
    return gpu_options.bucket_bytes != 0 ? gpu_options.bucket_bytes : otherwise;
}

/* ---- the engine, alone ---- */

static uint64_t destination(uint32_t slot)
{
    return cleat_cuda_slot(device.cuda, slot) + GUARD;
}

static ncclResult_t send_to_itself(const void *from, void *to, size_t count,
                                   ncclDataType_t type, int root,
                                   ncclComm_t comm, cudaStream_t stream)
{
    ncclResult_t result;
    uint32_t slot = 0;

    (void)to;
    while (slot + 1 < SLOTS &&
           cleat_cuda_slot(engine.cuda, slot) != (uint64_t)(uintptr_t)from) {
        slot++;
    }
    result = engine.nccl.p_ncclSend(from, count, type, root, comm, stream);
    if (result != ncclSuccess && result != ncclInProgress) { return result; }
    return engine.nccl.p_ncclRecv((void *)(uintptr_t)destination(slot), count,
                                  type, root, comm, stream);
}

static void open_all(const struct cleat_nccl_config *config)
{
    struct cleat_error error;

    memset(&error, 0, sizeof error);
    if (nccl_engine_open(&engine, config, &error) != CLEAT_OK) {
        gpu_fail(__FILE__, __LINE__, "the engine opens: %s", error.text);
    }
    nccl_lock(&engine);
    engine.nccl.p_ncclBroadcast = send_to_itself;
    nccl_unlock(&engine);
    gpu_device_open(&device,
                    &(struct gpu_device_config){
                        .slots_count = SLOTS,
                        .slot_bytes = config->bucket_bytes + 2 * GUARD,
                        .staging_bytes = config->bucket_bytes + 2 * GUARD});
}

static void close_all(void)
{
    must_be_ok(nccl_engine_close(&engine));
    must_be_ok(cleat_cuda_close(device.cuda));
}

/* Whatever may be late may be late by gpu_options.patience_ns. */
static struct cleat_nccl_config patient_config(uint64_t bytes)
{
    struct cleat_nccl_config config;

    memset(&config, 0, sizeof config);
    config.bucket_bytes = bytes;
    config.slots_count = SLOTS;
    config.bucket_ns = gpu_options.patience_ns;
    config.call_ns = gpu_options.patience_ns;
    config.revoke_ns = gpu_options.patience_ns;
    config.abort_ns = gpu_options.patience_ns;
    config.drain_ns = gpu_options.patience_ns;
    return config;
}

/* With the lock held: a fresh id. */
static void take_id(void)
{
    engine.id_wanted = true;
    engine.id_status = CLEAT_PENDING;
    nccl_changed(&engine);
    while (engine.id_status == CLEAT_PENDING) {
        must(!nccl_is_lost(&engine));
        (void)nccl_wait(&engine, CLEAT_NEVER);
    }
    must_be_ok(engine.id_status);
    engine.id_ready = false;
}

/* Forms a group of one with a fresh id, leaving the one before. */
static void form(void)
{
    enum cleat_status status;
    uint64_t deadline_ns = gpu_soon() + gpu_options.patience_ns;

    nccl_lock(&engine);
    nccl_stop(&engine, CLEAT_CANCELLED);
    take_id();
    engine.group.epoch = ++epoch;
    engine.group.id = engine.id_made;
    engine.group.ranks = 1;
    engine.group.rank = 0;
    engine.group.topology = CLEAT_NCCL_BROADCAST;
    status = nccl_form(&engine, deadline_ns);
    while (status == CLEAT_PENDING) { /* its deadline is the engine's */
        (void)nccl_wait(&engine, CLEAT_NEVER);
        status = nccl_form(&engine, deadline_ns);
    }
    must_be_ok(status);
    engine.first = 0;
    engine.next = 0;
    nccl_unlock(&engine);
}

/* Bucket n goes from slot n modulo SLOTS to its destination. */
static void send(uint32_t bucket, uint64_t bytes)
{
    struct nccl_op *op;

    nccl_lock(&engine);
    op = nccl_op_at(&engine, bucket);
    must(nccl_is_healthy(&engine) && bucket == engine.next &&
         op->state == NCCL_OP_FREE);
    memset(op, 0, sizeof *op);
    op->bucket = bucket;
    op->bytes = bytes;
    op->state = NCCL_OP_QUEUED;
    engine.next++;
    nccl_changed(&engine);
    nccl_unlock(&engine);
}

/* Waits until it has arrived; its deadline is the engine's. */
static void await(uint32_t bucket)
{
    struct nccl_op *op;

    nccl_lock(&engine);
    op = nccl_op_at(&engine, bucket);
    must(bucket == engine.first);
    while (op->state != NCCL_OP_DONE) {
        if (!nccl_is_healthy(&engine)) {
            gpu_fail(__FILE__, __LINE__,
                     "bucket %" PRIu32 " arrives: the group was left: %s, "
                     "code %" PRId32,
                     bucket,
                     cleat_status_name((enum cleat_status)engine.stop.why),
                     engine.code);
        }
        (void)nccl_wait(&engine, CLEAT_NEVER);
    }
    op->state = NCCL_OP_FREE;
    engine.first++;
    nccl_unlock(&engine);
}

/* ---- every byte, over poison ---- */

/* Odd lengths, an empty one, one byte, and what crosses a page. */
static uint64_t bytes_of(uint32_t bucket, uint64_t most)
{
    const uint64_t lengths[] = {most,     most - 1, 1,        77,
                                0,        4097,     most / 2, most / 3 + 1,
                                most - 7, 511,      most};
    uint64_t bytes = lengths[bucket % (sizeof lengths / sizeof lengths[0])];

    return bytes < most ? bytes : most;
}

static unsigned char byte_of(uint32_t bucket, uint64_t i)
{
    return (unsigned char)(bucket * 37 + i * 11 + (i >> 8) + (i >> 16));
}

/* Every byte of the destination is another than the one that is to come; the
 * guards around it and what is behind a short bucket are not to change. */
static void poison(uint32_t bucket, uint64_t most)
{
    uint64_t bytes = bytes_of(bucket, most);

    memset(device.host, GUARD_BYTE, most + 2 * GUARD);
    for (uint64_t i = 0; i < bytes; i++) {
        device.host[GUARD + i] = (unsigned char)~byte_of(bucket, i);
    }
    gpu_device_write(&device, destination(bucket % SLOTS) - GUARD,
                     most + 2 * GUARD);
}

static void fill(uint32_t bucket, uint64_t most)
{
    unsigned char *slot = nccl_place(&engine, bucket % SLOTS);
    uint64_t bytes = bytes_of(bucket, most);

    for (uint64_t i = 0; i < bytes; i++) { slot[i] = byte_of(bucket, i); }
    if (gpu_options.canary != 0 && bucket == 5) { slot[bytes / 2] ^= 1; }
}

static void compare(uint32_t bucket, uint64_t most)
{
    uint64_t bytes = bytes_of(bucket, most);

    memset(device.host, 0, most + 2 * GUARD);
    gpu_device_read(&device, destination(bucket % SLOTS) - GUARD,
                    most + 2 * GUARD);
    for (uint64_t i = 0; i < most + 2 * GUARD; i++) {
        bool inside = i >= GUARD && i < GUARD + bytes;

        if (device.host[i] !=
            (inside ? byte_of(bucket, i - GUARD) : GUARD_BYTE)) {
            gpu_fail(__FILE__, __LINE__,
                     "byte %" PRId64 " of bucket %" PRIu32 " (%" PRIu64
                     " bytes) is what was sent",
                     (int64_t)i - (int64_t)GUARD, bucket, bytes);
        }
    }
}

#define PIPELINE_BUCKETS 23u

static void pipeline(const struct gpu_found *found)
{
    uint64_t most = bucket_bytes(UINT64_C(64) << 20);
    struct cleat_nccl_config config = patient_config(most);
    struct cleat_nccl_account account;
    uint64_t begun_ns;
    uint64_t bytes = 0;

    (void)found;
    open_all(&config);
    form();
    begun_ns = gpu_now_ns();
    for (uint32_t b = 0; b < PIPELINE_BUCKETS + SLOTS; b++) {
        if (b >= SLOTS) {
            await(b - SLOTS);
            compare(b - SLOTS, most);
        }
        if (b < PIPELINE_BUCKETS) {
            poison(b, most);
            fill(b, most);
            send(b, bytes_of(b, most));
            bytes += bytes_of(b, most);
        }
    }
    gpu_tell("%u buckets, %" PRIu64 " bytes, compared in %.0f ms",
             PIPELINE_BUCKETS, bytes, gpu_ms(begun_ns, gpu_now_ns()));
    nccl_engine_account(&engine, &account);
    must(account.builds == 1 && account.stops == 0);
    must(account.depth_leaked == 0 && account.late == 0 && account.code == 0);
    close_all();
}

/* ---- rebuilds ---- */

#define WARM_UP 5u

/* What a group formed again may cost, at most. Of 2.28.9 it is known that an
 * id's bootstrap root is a thread and a descriptor, with 30 kB of memory, that
 * stay when not all ranks check in; of 2.27 that each group of calls that does
 * not block leaks host memory. A communicator that is not freed holds its
 * buffers: 4 MiB and more for each channel. */
#define SLACK 16.0 /* threads or descriptors that come once */
#define THREADS_EACH 1.0
#define FILES_EACH 1.0
#define HOST_MIB_EACH 2.0
#define DEVICE_MIB_EACH 4.0

struct counters {
    double threads;
    double files;
    double host_mib;
    double device_mib; /* not free */
};

static double entries(const char *folder)
{
    DIR *open = opendir(folder);
    double count = 0;

    must(open != NULL);
    while (readdir(open) != NULL) { count++; }
    (void)closedir(open);
    return count;
}

/* Of CUDA, what the port does not give out. */
static void *cuda_symbol(const char *name)
{
    void *library = dlopen(CLEAT_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    void *symbol;

    must(library != NULL);
    symbol = dlsym(library, name);
    must(symbol != NULL);
    return symbol;
}

#define TEXT_OF(symbol) #symbol
#define NAME_OF(name) TEXT_OF(name)

static struct counters count(void)
{
    static __typeof__(&cuMemGetInfo) get_info;
    struct counters counters;
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long long pages[2] = {0, 0};
    size_t free_bytes = 0;
    size_t all_bytes = 0;
    const double mib = (double)(1 << 20);

    if (get_info == NULL) {
        void *symbol = cuda_symbol(NAME_OF(cuMemGetInfo));

        memcpy(&get_info, &symbol, sizeof symbol);
    }
    must(file != NULL);
    must(fscanf(file, "%llu %llu", &pages[0], &pages[1]) == 2);
    (void)fclose(file);
    must(get_info(&free_bytes, &all_bytes) == CUDA_SUCCESS);
    counters.threads = entries("/proc/self/task");
    counters.files = entries("/proc/self/fd");
    counters.host_mib = (double)pages[1] * (double)sysconf(_SC_PAGESIZE) / mib;
    counters.device_mib = (double)(all_bytes - free_bytes) / mib;
    return counters;
}

static void leave(void)
{
    nccl_lock(&engine);
    nccl_stop(&engine, CLEAT_CANCELLED);
    while (engine.stop.state != CLEAT_NCCL_QUIESCED) {
        must(!nccl_is_lost(&engine));
        (void)nccl_wait(&engine, CLEAT_NEVER);
    }
    nccl_unlock(&engine);
}

static void rebuild(uint64_t most)
{
    form();
    send(0, most);
    await(0);
    leave();
    for (int i = 0; gpu_options.canary != 0 && i < 2; i++) {
        must(dup(STDOUT_FILENO) >= 0);
    }
}

static void rebuilds(const struct gpu_found *found)
{
    uint64_t most = bucket_bytes(UINT64_C(1) << 20);
    struct cleat_nccl_config config = patient_config(most);
    const double times = (double)gpu_options.rebuilds;
    struct cleat_nccl_account account;
    struct counters before;
    struct counters after;
    uint64_t begun_ns;
    uint64_t ended_ns;

    (void)found;
    must(gpu_options.rebuilds > 0);
    config.builds_max = gpu_options.rebuilds + WARM_UP;
    open_all(&config);
    for (uint32_t i = 0; i < WARM_UP; i++) { rebuild(most); }
    before = count();
    begun_ns = gpu_now_ns();
    for (uint32_t i = 0; i < gpu_options.rebuilds; i++) { rebuild(most); }
    ended_ns = gpu_now_ns();
    after = count();
    nccl_engine_account(&engine, &account);
    must(account.builds == config.builds_max && account.late == 0);
    gpu_tell("%.0f times, %.1f ms each; growth each time: %.2f threads, %.2f "
             "descriptors, %.3f MiB of the host's memory, %.3f MiB of the "
             "device's; group levels that NCCL left open: %" PRIu32,
             times, gpu_ms(begun_ns, ended_ns) / times,
             (after.threads - before.threads) / times,
             (after.files - before.files) / times,
             (after.host_mib - before.host_mib) / times,
             (after.device_mib - before.device_mib) / times,
             account.depth_leaked);
    must(after.threads - before.threads <= THREADS_EACH * times + SLACK);
    must(after.files - before.files <= FILES_EACH * times + SLACK);
    must(after.host_mib - before.host_mib <= HOST_MIB_EACH * times + SLACK);
    must(after.device_mib - before.device_mib <=
         DEVICE_MIB_EACH * times + SLACK);
    close_all();
}

/* ---- revoke and abort, timed ---- */

#define BURST 24u

static struct nccl_library library;

static bool is_begun(ncclResult_t result)
{
    return result == ncclSuccess || result == ncclInProgress;
}

static void await_comm(ncclComm_t comm)
{
    const struct timespec pause = {0, 20000};
    uint64_t deadline_ns = gpu_soon();
    ncclResult_t state = ncclInProgress;

    while (state == ncclInProgress) {
        must(gpu_now_ns() < deadline_ns);
        (void)nanosleep(&pause, NULL);
        must(library.p_ncclCommGetAsyncError(comm, &state) == ncclSuccess);
    }
    must(state == ncclSuccess);
}

static ncclComm_t make_comm(void)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t comm = NULL;
    ncclUniqueId id;

    config.blocking = 0;
    must(library.p_ncclGetUniqueId(&id) == ncclSuccess);
    must(is_begun(library.p_ncclCommInitRankConfig(&comm, 1, id, 0, &config)));
    await_comm(comm);
    return comm;
}

static void send_once(ncclComm_t comm, uint64_t bytes)
{
    cudaStream_t stream = cleat_cuda_stream(device.cuda, 0);
    void *from = (void *)(uintptr_t)cleat_cuda_slot(device.cuda, 0);
    void *to = (void *)(uintptr_t)cleat_cuda_slot(device.cuda, 1);

    must(library.p_ncclGroupStart() == ncclSuccess);
    must(is_begun(library.p_ncclSend(from, bytes, ncclUint8, 0, comm, stream)));
    must(is_begun(library.p_ncclRecv(to, bytes, ncclUint8, 0, comm, stream)));
    must(is_begun(library.p_ncclGroupEnd()));
    await_comm(comm);
}

/* Puts kernels on the stream; false when they were done before they could be
 * stopped. */
static bool burst(ncclComm_t comm, uint64_t bytes)
{
    for (uint32_t i = 0; i < BURST; i++) { send_once(comm, bytes); }
    return cleat_cuda_idle(device.cuda, 0) == CLEAT_PENDING;
}

static void time_one(bool revokes, bool busy, uint64_t bytes)
{
    ncclComm_t comm = make_comm();
    bool under_way = false;
    uint64_t at_ns;
    uint64_t revoked_ns;
    uint64_t aborted_ns;

    send_once(comm, bytes); /* the first one loads the kernel */
    gpu_await_idle(device.cuda, 0);
    if (busy) { under_way = burst(comm, bytes); }
    at_ns = gpu_now_ns();
    if (revokes) {
        must(is_begun(library.p_ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT)));
        await_comm(comm);
    }
    revoked_ns = gpu_now_ns();
    must(is_begun(library.p_ncclCommAbort(comm))); /* gone, either way */
    aborted_ns = gpu_now_ns();
    gpu_await_idle(device.cuda, 0);
    if (revokes) {
        gpu_tell("revoke %s %.2f ms, then abort %.2f ms",
                 !busy       ? "idle"
                 : under_way ? "under way"
                             : "under way (but it had ended)",
                 gpu_ms(at_ns, revoked_ns), gpu_ms(revoked_ns, aborted_ns));
    } else {
        gpu_tell("abort %s %.2f ms",
                 !busy       ? "idle"
                 : under_way ? "under way"
                             : "under way (but it had ended)",
                 gpu_ms(revoked_ns, aborted_ns));
    }
}

static void stops(const struct gpu_found *found)
{
    uint64_t bytes = bucket_bytes(UINT64_C(256) << 20);
    struct cleat_error error;

    (void)found;
    memset(&error, 0, sizeof error);
    if (nccl_library_load(&library, NULL, &error) != CLEAT_OK) {
        gpu_fail(__FILE__, __LINE__, "NCCL loads: %s", error.text);
    }
    gpu_device_open(&device,
                    &(struct gpu_device_config){.slots_count = 2,
                                                .slot_bytes = bytes,
                                                .staging_bytes = 4096});
    if (library.p_ncclCommRevoke != NULL) {
        time_one(true, false, bytes);
        time_one(true, true, bytes);
    } else {
        gpu_tell("this NCCL has no ncclCommRevoke");
    }
    time_one(false, false, bytes);
    time_one(false, true, bytes);
    gpu_tell("group levels that NCCL left open: %" PRIu32,
             nccl_unwind(&library));
    must_be_ok(cleat_cuda_close(device.cuda));
}

/* ---- abort behind a blocked stream ---- */

/* From now on NCCL's stream waits for the word on the host to be 1. */
static uint32_t *block_stream(void)
{
    static __typeof__(&cuStreamWaitValue32) wait_value;
    void *symbol = cuda_symbol(NAME_OF(cuStreamWaitValue32));
    CUstream stream = cleat_cuda_stream(engine.cuda, NCCL_DATA_STREAM);
    uint32_t *word = (uint32_t *)(void *)device.host;
    CUresult code;

    memcpy(&wait_value, &symbol, sizeof symbol);
    *word = gpu_options.canary;
    code = wait_value(stream, (CUdeviceptr)(uintptr_t)word, 1,
                      CU_STREAM_WAIT_VALUE_GEQ);
    if (code == CUDA_ERROR_NOT_SUPPORTED) {
        gpu_skip("looked for cuStreamWaitValue32; the driver does not support "
                 "it on device 0");
    }
    must(code == CUDA_SUCCESS);
    return word;
}

struct end {
    uint64_t stopped_ns;             /* when the group was */
    uint64_t lost_ns;                /* when the device was */
    enum cleat_nccl_stop_state last; /* what it was before that */
};

static struct end end;

/* With the lock held, at every move of the machine, whoever made it. */
static void note_move(struct cleat_transport_sender_context *context)
{
    (void)context;
    if (nccl_is_lost(&engine)) {
        end.lost_ns = gpu_now_ns();
        return;
    }
    if (end.last == CLEAT_NCCL_HEALTHY) { end.stopped_ns = gpu_now_ns(); }
    end.last = (enum cleat_nccl_stop_state)engine.stop.state;
}

static const struct cleat_transport_sender notes = {.wake = note_move};

static void note_moves(void)
{
    nccl_lock(&engine);
    end.last = (enum cleat_nccl_stop_state)engine.stop.state;
    engine.wakes = &notes;
    nccl_unlock(&engine);
}

static void await_lost(void)
{
    nccl_lock(&engine);
    while (!nccl_is_lost(&engine)) {
        must(!nccl_is_healthy(&engine) ||
             nccl_op_at(&engine, 1)->state != NCCL_OP_DONE);
        /* Left without trouble: it was not blocked. */
        must(engine.stop.state != CLEAT_NCCL_QUIESCED);
        (void)nccl_wait(&engine, CLEAT_NEVER);
    }
    nccl_unlock(&engine);
}

/* Whether the abort comes back once the stream goes on. */
static bool comes_back(uint32_t late)
{
    const struct timespec pause = {0, 1000000};
    struct cleat_nccl_account account;
    uint64_t deadline_ns = gpu_soon();

    do {
        nccl_engine_account(&engine, &account);
        if (account.late != late) { return true; }
        (void)nanosleep(&pause, NULL);
    } while (gpu_now_ns() < deadline_ns);
    return false;
}

static void blocked(const struct gpu_found *found)
{
    uint64_t most = bucket_bytes(UINT64_C(1) << 20);
    struct cleat_nccl_config config = patient_config(most);
    struct cleat_nccl_account account;
    uint64_t begun_ns;
    uint64_t freed_ns;
    uint32_t *word;

    (void)found;
    /* None of these can be kept, nor the bucket's own below. */
    config.revoke_ns = CLEAT_NS_PER_S;
    config.abort_ns = 2 * CLEAT_NS_PER_S;
    config.drain_ns = CLEAT_NS_PER_S;
    open_all(&config);
    form();
    send(0, most); /* loads the kernel, which may wait for the device */
    await(0);
    nccl_lock(&engine);
    engine.config.bucket_ns = CLEAT_NS_PER_S;
    nccl_unlock(&engine);
    word = block_stream();
    note_moves();
    begun_ns = gpu_now_ns();
    send(1, most);
    await_lost();
    nccl_engine_account(&engine, &account);
    must(strcmp(account.state, "lost") == 0);
    gpu_tell("lost %.2f s after the bucket was given and %.2f s after the "
             "group was stopped (at most %.0f s), while %s",
             gpu_ms(begun_ns, end.lost_ns) / 1000,
             gpu_ms(end.stopped_ns, end.lost_ns) / 1000,
             (double)cleat_nccl_stop_bound_ns(&engine.stop.config) /
                 (double)CLEAT_NS_PER_S,
             cleat_nccl_stop_state_name(end.last));
    /* Terminal, said at once, and nothing is freed. */
    must(cleat_cuda_lost(engine.cuda, NULL));
    must(cleat_cuda_idle(engine.cuda, 0) == CLEAT_DEVICE_LOST);
    __atomic_store_n(word, 1, __ATOMIC_RELEASE);
    freed_ns = gpu_now_ns();
    if (end.last == CLEAT_NCCL_ABORTING) {
        bool back = comes_back(account.late);

        gpu_tell("ncclCommAbort %s %.0f ms after the stream went on",
                 back ? "came back" : "had not come back",
                 gpu_ms(freed_ns, gpu_now_ns()));
    }
    must(nccl_engine_close(&engine) == CLEAT_DEVICE_LOST);
}

const struct gpu_check gpu_alone_checks[] = {
    {"pipeline", "one rank, every byte", pipeline},
    {"rebuilds", "a group formed again, over and over", rebuilds},
    {"stops", "ncclCommRevoke and ncclCommAbort, timed", stops},
    {"blocked", "abort behind a blocked stream", blocked},
    {NULL, NULL, NULL},
};
