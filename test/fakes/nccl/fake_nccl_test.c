/* Cleat: the fake NCCL does what the real one is known to do.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Ranks are of one thread here, each on a device of its own: what is proved is
 * what a call does, not who runs when. Ranks that are processes are in
 * fake_ranks_test.c. */
#define _GNU_SOURCE
#include <cuda.h>
#include <dirent.h>
#include <dlfcn.h>
#include <nccl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "control.h"
#include "misuse.h"

#define RANKS 3
#define BYTES ((size_t)1 << 20)

struct rank {
    CUcontext context;
    CUstream stream;
    CUstream other;
    CUdeviceptr from;
    CUdeviceptr to;
    ncclComm_t comm;
};

static struct rank ranks[RANKS];

static void ok(CUresult code)
{
    assert_int_equal(code, CUDA_SUCCESS);
}

static void good(ncclResult_t code)
{
    assert_int_equal(code, ncclSuccess);
}

static void begun(ncclResult_t code)
{
    assert_int_equal(code, ncclInProgress);
}

static struct rank *use(int rank)
{
    ok(cuCtxSetCurrent(ranks[rank].context));
    return &ranks[rank];
}

static void *device(CUdeviceptr at)
{
    return (void *)(uintptr_t)at;
}

static unsigned char *bytes_of(CUdeviceptr at)
{
    return fake_gpu_memory(at, BYTES);
}

static ncclConfig_t config(void)
{
    ncclConfig_t made = NCCL_CONFIG_INITIALIZER;

    made.blocking = 0;
    return made;
}

static ncclResult_t state_of(ncclComm_t comm)
{
    ncclResult_t state = ncclNumResults;

    good(ncclCommGetAsyncError(comm, &state));
    return state;
}

/* Polls until it is in progress no more; what it is then. */
static ncclResult_t outcome(ncclComm_t comm)
{
    for (int polls = 0; polls < 1000; polls++) {
        ncclResult_t state = state_of(comm);

        if (state != ncclInProgress) return state;
    }
    return ncclInProgress;
}

/* The same where other threads have to come to it first. */
static ncclResult_t outcome_in_time(ncclComm_t comm)
{
    ncclResult_t state = ncclInProgress;

    while (state == ncclInProgress) state = state_of(comm);
    return state;
}

static ncclUniqueId new_id_of_all;

static ncclResult_t begin(int count, ncclUniqueId id, int rank)
{
    ncclConfig_t how = config();

    return ncclCommInitRankConfig(&use(rank)->comm, count, id, rank, &how);
}

static ncclUniqueId new_id(void)
{
    ncclUniqueId id;

    good(ncclGetUniqueId(&id));
    return id;
}

/* A communicator of the first `count` ranks. */
static void meet(int count)
{
    ncclUniqueId id = new_id();

    for (int i = 0; i < count; i++) begun(begin(count, id, i));
    for (int i = 0; i < count; i++) good(outcome(ranks[i].comm));
}

static void fill(unsigned char *bytes, size_t rank)
{
    for (size_t j = 0; j < BYTES; j++) {
        bytes[j] = (unsigned char)(j * 7 + rank * 50 + 1);
    }
}

static int set_up(void **state)
{
    (void)state;
    (void)unsetenv("NCCL_HOSTID");
    fake_gpu_reset();
    ok(cuInit(0));
    for (int i = 0; i < RANKS; i++) {
        ok(cuDevicePrimaryCtxRetain(&ranks[i].context, i));
        use(i);
        ok(cuStreamCreate(&ranks[i].stream, CU_STREAM_NON_BLOCKING));
        ok(cuStreamCreate(&ranks[i].other, CU_STREAM_NON_BLOCKING));
        ok(cuMemAlloc(&ranks[i].from, BYTES));
        ok(cuMemAlloc(&ranks[i].to, BYTES));
        fill(bytes_of(ranks[i].from), (size_t)i);
    }
    return 0;
}

static bool idle(int rank)
{
    return cuStreamQuery(use(rank)->stream) == CUDA_SUCCESS;
}

static void finish(int count)
{
    for (int i = 0; i < count; i++) good(outcome(ranks[i].comm));
    for (int polls = 0; polls < 10000; polls++) {
        bool all = true;

        for (int i = 0; i < count; i++) all = idle(i) && all;
        if (all) return;
    }
    fail_msg("the streams never became idle");
}

static ncclResult_t send(int rank, int peer, size_t count)
{
    struct rank *self = use(rank);

    return ncclSend(device(self->from), count, ncclUint8, peer, self->comm,
                    self->stream);
}

static ncclResult_t receive(int rank, int peer, size_t count)
{
    struct rank *self = use(rank);

    return ncclRecv(device(self->to), count, ncclUint8, peer, self->comm,
                    self->stream);
}

static ncclResult_t broadcast(int rank, size_t count)
{
    struct rank *self = use(rank);

    return ncclBroadcast(device(self->from), device(self->to), count, ncclUint8,
                         0, self->comm, self->stream);
}

/* ---- beginning -----------------------------------------------------------
 */

static void it_is_of_the_version_that_it_was_built_as(void **state)
{
    int version = 0;

    (void)state;
    good(ncclGetVersion(&version));
    assert_int_equal(version, NCCL_VERSION_CODE);
}

static void init_is_in_progress_until_everyone_is_there(void **state)
{
    ncclUniqueId id = new_id();

    (void)state;
    begun(begin(2, id, 0));
    assert_int_equal(outcome(ranks[0].comm), ncclInProgress);
    begun(begin(2, id, 1));
    good(outcome(ranks[0].comm));
    good(outcome(ranks[1].comm));
    assert_int_equal(fake_gpu_counts().comms, 2);
}

static void a_communicator_knows_its_place(void **state)
{
    int value = -1;

    (void)state;
    meet(2);
    good(ncclCommCount(ranks[1].comm, &value));
    assert_int_equal(value, 2);
    good(ncclCommUserRank(ranks[1].comm, &value));
    assert_int_equal(value, 1);
    good(ncclCommCuDevice(ranks[1].comm, &value));
    assert_int_equal(value, 1);
}

static void a_call_is_in_progress_for_as_many_polls_as_asked(void **state)
{
    (void)state;
    fake_gpu_plan("in_progress=5");
    begun(begin(1, new_id(), 0));
    for (int i = 0; i < 5; i++) {
        assert_int_equal(state_of(ranks[0].comm), ncclInProgress);
    }
    good(state_of(ranks[0].comm));
}

static void a_communicator_that_blocks_returns_when_it_is_done(void **state)
{
    struct rank *self = use(0);

    (void)state;
    good(ncclCommInitRank(&self->comm, 1, new_id(), 0));
    good(broadcast(0, 100));
    while (!idle(0)) {}
    assert_memory_equal(bytes_of(self->to), bytes_of(self->from), 100);
    good(ncclCommDestroy(self->comm));
}

static void the_environment_may_make_it_block(void **state)
{
    (void)state;
    (void)setenv("NCCL_COMM_BLOCKING", "1", 1);
    good(begin(1, new_id(), 0)); /* although it was asked not to */
    (void)unsetenv("NCCL_COMM_BLOCKING");
    good(broadcast(0, 100));
}

static void the_environment_may_make_all_ids_one(void **state)
{
    ncclUniqueId first;
    ncclUniqueId second;

    (void)state;
    (void)setenv("NCCL_COMM_ID", "127.0.0.1:12345", 1);
    first = new_id();
    second = new_id();
    (void)unsetenv("NCCL_COMM_ID");
    assert_memory_equal(&first, &second, sizeof first);
    assert_int_equal(fake_gpu_counts().roots, 0);
    assert_int_equal(fake_gpu_counts().unique_ids, 2);
}

static void two_ranks_on_one_gpu_are_refused(void **state)
{
    ncclUniqueId id = new_id();
    ncclConfig_t how = config();
    ncclComm_t second;

    (void)state;
    begun(begin(2, id, 0));
    begun(ncclCommInitRankConfig(&second, 2, id, 1, &how)); /* device 0 too */
    assert_int_equal(outcome(second), ncclInvalidUsage);
    assert_int_equal(outcome(ranks[0].comm), ncclInvalidUsage);
    assert_string_equal(ncclGetLastError(second), "Duplicate GPU detected");
    good(ncclCommAbort(second));
}

static void another_host_id_makes_one_gpu_two(void **state)
{
    ncclUniqueId id = new_id();
    ncclConfig_t how = config();
    ncclComm_t second;

    (void)state;
    (void)setenv("NCCL_HOSTID", "h0", 1);
    begun(begin(2, id, 0));
    (void)setenv("NCCL_HOSTID", "h1", 1);
    begun(ncclCommInitRankConfig(&second, 2, id, 1, &how));
    good(outcome(second));
    good(outcome(ranks[0].comm));
}

static void two_that_were_told_one_rank_wait_for_ever(void **state)
{
    ncclUniqueId id = new_id();
    ncclConfig_t how = config();
    ncclComm_t second;

    (void)state;
    begun(begin(2, id, 0));
    use(1);
    begun(ncclCommInitRankConfig(&second, 2, id, 0, &how));
    use(2);
    begun(begin(2, id, 1));
    assert_int_equal(outcome(ranks[0].comm), ncclInProgress);
    assert_int_equal(outcome(second), ncclInProgress);
    good(ncclCommAbort(second)); /* what bounds it */
}

static void ranks_that_count_differently_wait_for_ever(void **state)
{
    ncclUniqueId id = new_id();

    (void)state;
    begun(begin(2, id, 0));
    begun(begin(3, id, 1));
    assert_int_equal(outcome(ranks[0].comm), ncclInProgress);
    assert_int_equal(outcome(ranks[1].comm), ncclInProgress);
}

static void a_used_id_is_no_id(void **state)
{
    ncclUniqueId id = new_id();

    (void)state;
    begun(begin(1, id, 0));
    good(outcome(ranks[0].comm));
    use(1);
    begun(begin(1, id, 0));
    assert_int_equal(outcome(ranks[0].comm), ncclInProgress);
}

static void init_checks_its_arguments(void **state)
{
    ncclConfig_t how = config();
    ncclUniqueId id = new_id();
    ncclComm_t comm;

    (void)state;
    use(0);
    assert_int_equal(ncclCommInitRankConfig(&comm, 2, id, 2, &how),
                     ncclInvalidArgument);
    assert_int_equal(ncclCommInitRankConfig(&comm, 0, id, 0, &how),
                     ncclInvalidArgument);
    how.magic = 0;
    assert_int_equal(ncclCommInitRankConfig(&comm, 1, id, 0, &how),
                     ncclInvalidArgument);
}

static void several_ids_make_one_communicator(void **state)
{
    ncclUniqueId ids[2] = {new_id(), new_id()};
    ncclConfig_t how = config();

    (void)state;
    for (int i = 0; i < 3; i++) {
        begun(ncclCommInitRankScalable(&use(i)->comm, 3, i, 2, ids, &how));
    }
    for (int i = 0; i < 3; i++) good(outcome(ranks[i].comm));
}

/* ---- what leaks ----------------------------------------------------------
 */

static void init_without_a_context(void *arg)
{
    (void)arg;
    (void)cuCtxSetCurrent(NULL);
    (void)ncclCommInitRank(&ranks[0].comm, 1, new_id(), 0);
}

static void a_call_without_a_context_is_misuse(void **state)
{
    (void)state;
    assert_true(misuse_aborts(init_without_a_context, NULL,
                              "without a current context"));
}

static void a_failed_init_leaves_its_group_open(void **state)
{
    (void)state;
    fake_gpu_plan("lenient=1");
    ok(cuCtxSetCurrent(NULL));
    assert_int_equal(ncclCommInitRank(&ranks[0].comm, 1, new_id(), 0),
                     ncclUnhandledCudaError);
    assert_int_equal(fake_nccl_group_depth(), 1);
    assert_int_equal(fake_gpu_counts().depth_leaks, 1);
    good(ncclGroupEnd());
    assert_int_equal(ncclGroupEnd(), ncclInvalidUsage);
}

static void in_a_leaked_group_nothing_is_launched(void **state)
{
    ncclConfig_t how = config();
    ncclComm_t none;

    (void)state;
    meet(2);
    fake_gpu_plan("ncclCommInitRankConfig:fail=1");
    assert_int_equal(ncclCommInitRankConfig(&none, 1, new_id(), 0, &how),
                     ncclUnhandledCudaError);
    good(send(0, 1, 10)); /* not in progress: queued */
    assert_int_equal(fake_gpu_pending(), 0);
    begun(ncclGroupEnd());
    assert_int_equal(ncclGroupEnd(), ncclInvalidUsage);
}

static void destroy_in_progress(void *arg)
{
    (void)arg;
    (void)begin(2, new_id(), 0);
    (void)ncclCommDestroy(ranks[0].comm);
}

static void destroying_in_progress_is_misuse_and_leaks_a_group(void **state)
{
    (void)state;
    assert_true(misuse_aborts(destroy_in_progress, NULL, "in progress"));
    fake_gpu_plan("lenient=1");
    begun(begin(2, new_id(), 0));
    assert_int_equal(ncclCommDestroy(ranks[0].comm), ncclInvalidArgument);
    assert_int_equal(fake_nccl_group_depth(), 1);
}

static void every_id_leaves_a_root_until_all_have_come(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++) (void)new_id();
    assert_int_equal(fake_gpu_counts().unique_ids, 10);
    assert_int_equal(fake_gpu_counts().roots, 10);
    meet(2);
    assert_int_equal(fake_gpu_counts().roots, 10); /* one more, and it ended */
}

static int entries_of(const char *folder)
{
    DIR *open_folder = opendir(folder);
    int count = 0;

    assert_non_null(open_folder);
    while (readdir(open_folder) != NULL) count++;
    (void)closedir(open_folder);
    return count;
}

static bool is_named(const char *thread, const char *name)
{
    char path[300];
    char found[32] = "";
    FILE *file;

    (void)snprintf(path, sizeof path, "/proc/self/task/%s/comm", thread);
    file = fopen(path, "r");
    if (file == NULL) return false;
    if (fgets(found, sizeof found, file) == NULL) found[0] = '\0';
    (void)fclose(file);
    return strncmp(found, name, strlen(name)) == 0;
}

/* By their name: one that was joined is there for a moment longer, and a
 * sanitizer has some of its own. */
static int threads_named(const char *name)
{
    DIR *open_folder = opendir("/proc/self/task");
    const struct dirent *entry;
    int count = 0;

    assert_non_null(open_folder);
    while ((entry = readdir(open_folder)) != NULL) {
        count += is_named(entry->d_name, name);
    }
    (void)closedir(open_folder);
    return count;
}

static void wait_until(const char *name, int threads, int files)
{
    const struct timespec pause = {0, 1000000};

    for (int i = 0; i < 30000; i++) {
        if (threads_named(name) == threads &&
            entries_of("/proc/self/fd") == files) {
            return;
        }
        (void)nanosleep(&pause, NULL);
    }
    fail_msg("%d threads and %d descriptors, not %d and %d",
             threads_named(name), entries_of("/proc/self/fd"), threads, files);
}

static void roots_may_be_real_threads_with_descriptors(void **state)
{
    int files = entries_of("/proc/self/fd");

    fake_gpu_plan("real_roots=1");
    for (int i = 0; i < 5; i++) (void)new_id();
    wait_until("NCCL BootstrapR", 5, files + 5);
    set_up(state); /* ends them, which the real library cannot */
    wait_until("NCCL BootstrapR", 0, files);
}

static void a_communicator_may_have_a_real_thread_until_it_ends(void **state)
{
    int files = entries_of("/proc/self/fd");
    struct rlimit before;
    struct rlimit after;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    after = before;
    after.rlim_cur = before.rlim_cur / 2;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &after), 0);
    fake_gpu_plan("real_threads=1");
    meet(2);
    wait_until("NCCL Progress", 2, files + 2);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &after), 0);
    assert_int_equal(after.rlim_cur, before.rlim_max);
    for (int i = 0; i < 2; i++) good(ncclCommAbort(use(i)->comm));
    assert_int_equal(entries_of("/proc/self/fd"), files); /* joined */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static void each_group_that_does_not_block_starts_a_thread(void **state)
{
    uint64_t before;

    (void)state;
    meet(2);
    before = fake_gpu_counts().group_threads;
    begun(send(0, 1, 10));
    begun(receive(1, 0, 10));
    finish(2);
    assert_int_equal(fake_gpu_counts().group_threads, before + 2);
}

/* ---- operations ----------------------------------------------------------
 */

static void a_broadcast_reaches_everyone_at_any_size(void **state)
{
    static const size_t sizes[] = {
        1, 100, FAKE_CHUNK - 1, FAKE_CHUNK, FAKE_CHUNK + 1, BYTES};

    (void)state;
    meet(3);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        for (int i = 0; i < 3; i++) begun(broadcast(i, sizes[s]));
        finish(3);
        for (int i = 0; i < 3; i++) {
            assert_memory_equal(bytes_of(ranks[i].to), bytes_of(ranks[0].from),
                                sizes[s]);
        }
    }
}

static void a_broadcast_may_be_in_place(void **state)
{
    (void)state;
    meet(2);
    for (int i = 0; i < 2; i++) {
        struct rank *self = use(i);

        begun(ncclBcast(device(self->from), BYTES / 4, ncclFloat32, 1,
                        self->comm, self->stream));
    }
    finish(2);
    assert_memory_equal(bytes_of(ranks[0].from), bytes_of(ranks[1].from),
                        BYTES);
    assert_int_equal(bytes_of(ranks[0].from)[0], 51);
}

static void a_group_of_sends_fans_out(void **state)
{
    (void)state;
    meet(3);
    good(ncclGroupStart());
    good(send(0, 1, BYTES));
    good(send(0, 2, 99));
    begun(ncclGroupEnd());
    begun(receive(1, 0, BYTES));
    begun(receive(2, 0, 99));
    finish(3);
    assert_memory_equal(bytes_of(ranks[1].to), bytes_of(ranks[0].from), BYTES);
    assert_memory_equal(bytes_of(ranks[2].to), bytes_of(ranks[0].from), 99);
    assert_int_equal(fake_gpu_counts().nccl_bytes, BYTES + 99);
}

static void a_group_exchanges_and_may_be_empty(void **state)
{
    (void)state;
    meet(2);
    for (int i = 0; i < 2; i++) {
        good(ncclGroupStart());
        good(ncclGroupStart());
        good(send(i, 1 - i, 5000));
        good(receive(i, 1 - i, 5000));
        good(ncclGroupEnd());
        begun(ncclGroupEnd());
    }
    finish(2);
    assert_memory_equal(bytes_of(ranks[0].to), bytes_of(ranks[1].from), 5000);
    assert_memory_equal(bytes_of(ranks[1].to), bytes_of(ranks[0].from), 5000);
    good(ncclGroupStart());
    good(ncclGroupEnd());
}

static void sends_and_receives_that_are_not_fused_deadlock(void **state)
{
    (void)state;
    meet(2);
    for (int i = 0; i < 2; i++) {
        begun(send(i, 1 - i, 10));
        good(outcome(ranks[i].comm));
        begun(receive(i, 1 - i, 10));
        good(outcome(ranks[i].comm));
    }
    assert_false(fake_gpu_drain());
}

static void an_empty_message_is_one_too(void **state)
{
    (void)state;
    meet(2);
    begun(send(0, 1, 0));
    good(outcome(ranks[0].comm));
    assert_false(fake_gpu_drain());
    begun(receive(1, 0, 0));
    finish(2);
}

static void nothing_is_done_before_all_sides_have_come_to_it(void **state)
{
    (void)state;
    meet(3);
    begun(broadcast(0, 10));
    begun(broadcast(1, 10));
    good(outcome(ranks[0].comm));
    good(outcome(ranks[1].comm));
    assert_false(fake_gpu_drain());
    assert_false(idle(0));
    begun(broadcast(2, 10));
    finish(3);
}

static void an_operation_waits_for_its_turn_on_the_stream(void **state)
{
    struct rank *self = use(1);

    (void)state;
    meet(2);
    fake_gpu_plan("cuMemsetD8Async:never");
    begun(send(0, 1, 10));
    use(1);
    ok(cuMemsetD8Async(self->to, 3, 10, self->stream));
    begun(receive(1, 0, 10));
    good(outcome(ranks[0].comm));
    good(outcome(ranks[1].comm));
    assert_false(fake_gpu_drain());
    fake_gpu_release();
    assert_true(fake_gpu_drain());
    assert_memory_equal(bytes_of(self->to), bytes_of(ranks[0].from), 10);
}

static void operations_of_one_communicator_keep_their_order(void **state)
{
    struct rank *self;

    (void)state;
    meet(2);
    self = use(1);
    begun(send(0, 1, 10));
    good(outcome(ranks[0].comm));
    begun(send(0, 1, 20));
    begun(receive(1, 0, 10));
    good(outcome(ranks[1].comm));
    use(1);
    begun(ncclRecv(device(self->from), 20, ncclUint8, 0, self->comm,
                   self->other));
    finish(2);
    assert_true(fake_gpu_drain());
    assert_memory_equal(bytes_of(self->from), bytes_of(ranks[0].from), 20);
}

/* Also where nothing but the order keeps the second one back. */
static void an_operation_never_overtakes_another(void **state)
{
    struct rank *self;

    (void)state;
    meet(3);
    begun(send(0, 1, 10));
    good(outcome(ranks[0].comm));
    self = use(0);
    begun(ncclSend(device(self->from), 10, ncclUint8, 2, self->comm,
                   self->other));
    begun(receive(2, 0, 10));
    good(outcome(ranks[0].comm));
    good(outcome(ranks[2].comm));
    assert_false(fake_gpu_drain());
    assert_false(idle(2));
    begun(receive(1, 0, 10));
    finish(3);
}

static void an_operation_may_be_late_or_never_begin(void **state)
{
    (void)state;
    meet(2);
    fake_gpu_plan("ncclSend#1:delay=100 ncclSend#2:never steps=0");
    begun(send(0, 1, 10));
    begun(receive(1, 0, 10));
    good(outcome(ranks[0].comm));
    good(outcome(ranks[1].comm));
    (void)fake_gpu_pump(20);
    assert_int_equal(bytes_of(ranks[1].to)[0], FAKE_GARBAGE);
    fake_gpu_tick(100);
    (void)fake_gpu_pump(20);
    assert_memory_equal(bytes_of(ranks[1].to), bytes_of(ranks[0].from), 10);
    begun(send(0, 1, 10));
    begun(receive(1, 0, 10));
    good(outcome(ranks[0].comm));
    good(outcome(ranks[1].comm));
    assert_false(fake_gpu_drain());
    fake_gpu_release();
    assert_true(fake_gpu_drain());
}

static void a_simulated_group_launches_nothing(void **state)
{
    ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;

    (void)state;
    meet(2);
    good(ncclGroupStart());
    good(send(0, 1, 10));
    good(ncclGroupSimulateEnd(&info));
    good(state_of(ranks[0].comm));
    assert_int_equal(ncclGroupEnd(), ncclInvalidUsage);
    assert_int_equal(fake_gpu_pending(), 0);
}

static void *be_a_rank(void *arg)
{
    const int rank = *(const int *)arg;
    struct rank *self = use(rank);

    begun(begin(2, new_id_of_all, rank));
    good(outcome_in_time(self->comm));
    for (int round = 0; round < 20; round++) {
        begun(broadcast(rank, 100000));
        good(outcome_in_time(self->comm));
        while (cuStreamQuery(self->stream) != CUDA_SUCCESS) {}
    }
    good(ncclCommAbort(self->comm));
    return NULL;
}

static void ranks_may_be_threads(void **state)
{
    static const int numbers[2] = {0, 1};
    pthread_t threads[2];

    (void)state;
    new_id_of_all = new_id();
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, be_a_rank,
                                        (void *)(uintptr_t)&numbers[i]),
                         0);
    }
    for (int i = 0; i < 2; i++) (void)pthread_join(threads[i], NULL);
    assert_memory_equal(bytes_of(ranks[1].to), bytes_of(ranks[0].from), 100000);
}

static void a_rank_sends_to_itself_only_in_one_group(void **state)
{
    (void)state;
    meet(1);
    good(ncclGroupStart());
    good(send(0, 0, BYTES));
    good(receive(0, 0, BYTES));
    begun(ncclGroupEnd());
    finish(1);
    assert_memory_equal(bytes_of(ranks[0].to), bytes_of(ranks[0].from), BYTES);
    assert_int_equal(send(0, 0, 10), ncclInvalidUsage);
}

static uint32_t *words(CUdeviceptr at)
{
    return (uint32_t *)(void *)bytes_of(at);
}

static void reductions_combine_in_the_order_of_ranks(void **state)
{
    (void)state;
    meet(3);
    for (int i = 0; i < 3; i++) {
        uint32_t *from = words(ranks[i].from);

        for (uint32_t j = 0; j < BYTES / 4; j++) {
            from[j] = j * (uint32_t)(i + 1);
        }
    }
    for (int i = 0; i < 3; i++) {
        struct rank *self = use(i);

        begun(ncclAllReduce(device(self->from), device(self->to), BYTES / 4,
                            ncclUint32, ncclSum, self->comm, self->stream));
    }
    finish(3);
    for (int i = 0; i < 3; i++) {
        const uint32_t *to = words(ranks[i].to);

        for (uint32_t j = 0; j < BYTES / 4; j++) {
            assert_int_equal(to[j], 6 * j);
        }
    }
    for (int i = 0; i < 3; i++) { /* in place, to one */
        struct rank *self = use(i);

        begun(ncclReduce(device(self->from), device(self->from), 1000,
                         ncclUint32, ncclMax, 1, self->comm, self->stream));
    }
    finish(3);
    assert_int_equal(words(ranks[1].from)[999], 3 * 999);
    assert_int_equal(words(ranks[0].from)[999], 999);
}

static void a_reduce_scatter_leaves_each_rank_its_block(void **state)
{
    (void)state;
    meet(2);
    for (int i = 0; i < 2; i++) {
        struct rank *self = use(i);

        words(self->from)[0] = 10u + (uint32_t)i;
        words(self->from)[1] = 20u + (uint32_t)i;
        begun(ncclReduceScatter(device(self->from), device(self->to), 1,
                                ncclUint32, ncclSum, self->comm, self->stream));
    }
    finish(2);
    assert_int_equal(words(ranks[0].to)[0], 21);
    assert_int_equal(words(ranks[1].to)[0], 41);
}

static void gathers_and_scatters_put_blocks_in_the_order_of_ranks(void **state)
{
    const size_t block = 40000;

    (void)state;
    meet(3);
    for (int i = 0; i < 3; i++) {
        struct rank *self = use(i);

        begun(ncclAllGather(device(self->from), device(self->to), block,
                            ncclUint8, self->comm, self->stream));
    }
    finish(3);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) {
            assert_memory_equal(bytes_of(ranks[i].to) + block * (size_t)j,
                                bytes_of(ranks[j].from), block);
        }
    }
    for (int i = 0; i < 3; i++) {
        struct rank *self = use(i);

        begun(ncclAlltoAll(device(self->from), device(self->to), block,
                           ncclUint8, self->comm, self->stream));
    }
    finish(3);
    assert_memory_equal(bytes_of(ranks[2].to) + block,
                        bytes_of(ranks[1].from) + 2 * block, block);
    for (int i = 0; i < 3; i++) {
        struct rank *self = use(i);

        begun(ncclScatter(device(self->from), device(self->to), block,
                          ncclUint8, 2, self->comm, self->stream));
    }
    finish(3);
    assert_memory_equal(bytes_of(ranks[1].to), bytes_of(ranks[2].from) + block,
                        block);
    for (int i = 0; i < 3; i++) {
        struct rank *self = use(i);

        begun(ncclGather(device(self->from), device(self->to), block, ncclUint8,
                         0, self->comm, self->stream));
    }
    finish(3);
    assert_memory_equal(bytes_of(ranks[0].to) + 2 * block,
                        bytes_of(ranks[2].from), block);
}

static void a_garbled_message_differs_in_one_byte(void **state)
{
    int differ = 0;

    (void)state;
    meet(2);
    fake_gpu_plan("ncclRecv:garble");
    begun(send(0, 1, 1000));
    begun(receive(1, 0, 1000));
    finish(2);
    for (int i = 0; i < 1000; i++) {
        differ += bytes_of(ranks[1].to)[i] != bytes_of(ranks[0].from)[i];
    }
    assert_int_equal(differ, 1);
}

/* ---- misuse --------------------------------------------------------------
 */

static void call_in_progress(void *arg)
{
    (void)arg;
    (void)send(0, 1, 10);
    (void)send(0, 1, 10);
}

static void a_call_on_a_communicator_in_progress_is_misuse(void **state)
{
    (void)state;
    meet(2);
    assert_true(misuse_aborts(call_in_progress, NULL, "in progress"));
    fake_gpu_plan("lenient=1");
    begun(send(0, 1, 10));
    assert_int_equal(send(0, 1, 10), ncclInvalidArgument);
}

static void enqueue_behind(void *arg)
{
    (void)arg;
    (void)send(0, 1, 10);
    (void)cuMemsetD8Async(ranks[0].to, 1, 1, ranks[0].stream);
}

static void work_behind_a_call_in_progress_is_misuse(void **state)
{
    (void)state;
    meet(2);
    assert_true(misuse_aborts(enqueue_behind, NULL, "in progress"));
}

static void differ(void *arg)
{
    (void)send(0, 1, 10);
    if (*(int *)arg == 0) (void)receive(1, 0, 11);
    if (*(int *)arg == 1) (void)broadcast(1, 10);
    (void)outcome(ranks[0].comm);
    (void)outcome(ranks[1].comm);
    (void)fake_gpu_drain();
}

static void sides_that_differ_in_count_or_order_are_misuse(void **state)
{
    (void)state;
    meet(2);
    for (int i = 0; i < 2; i++) {
        assert_true(misuse_aborts(differ, &i, "differ"));
    }
}

static void use_aborted(void *arg)
{
    ncclResult_t state;

    (void)ncclCommAbort(ranks[0].comm);
    if (*(int *)arg == 0) (void)send(0, 1, 10);
    if (*(int *)arg == 1) (void)ncclCommGetAsyncError(ranks[0].comm, &state);
    if (*(int *)arg == 2) (void)ncclCommAbort(ranks[0].comm);
    if (*(int *)arg == 3) (void)ncclCommDestroy(ranks[0].comm);
}

static void use_after_abort_is_misuse(void **state)
{
    (void)state;
    meet(2);
    use(0);
    for (int i = 0; i < 4; i++) {
        assert_true(misuse_aborts(use_aborted, &i, "aborted or destroyed"));
    }
}

static void *call_from_another(void *arg)
{
    ncclResult_t state;

    (void)cuCtxSetCurrent(ranks[0].context);
    if (*(int *)arg == 0) (void)ncclCommGetAsyncError(ranks[0].comm, &state);
    if (*(int *)arg == 1) (void)send(0, 1, 10);
    if (*(int *)arg == 2) {
        fake_nccl_hand_over(ranks[0].comm);
        (void)send(0, 1, 10);
    }
    if (*(int *)arg == 3) (void)ncclCommAbort(ranks[0].comm);
    return NULL;
}

static void from_another(void *arg)
{
    pthread_t thread;

    (void)pthread_create(&thread, NULL, call_from_another, arg);
    (void)pthread_join(thread, NULL);
}

static void a_call_from_a_second_thread_is_misuse_but_for_its_end(void **state)
{
    int how = 0;

    (void)state;
    meet(2);
    assert_true(misuse_aborts(from_another, &how, "second thread"));
    how = 1;
    assert_true(misuse_aborts(from_another, &how, "second thread"));
    how = 2;
    assert_true(misuse_is_fine(from_another, &how));
    how = 3;
    assert_true(misuse_is_fine(from_another, &how));
}

static void reuse_the_slot(void *arg)
{
    struct rank *self = use(0);

    (void)arg;
    (void)send(0, 1, 10);
    (void)outcome(self->comm);
    (void)cuMemsetD8Async(self->from, 1, 1, self->other);
}

static void writing_what_is_being_sent_is_misuse(void **state)
{
    (void)state;
    meet(2);
    assert_true(misuse_aborts(reuse_the_slot, NULL, "no event orders"));
}

static void use_host_memory(void *arg)
{
    static char host[10];

    (void)arg;
    (void)ncclSend(host, 10, ncclUint8, 1, ranks[0].comm, ranks[0].stream);
}

static void sending_host_memory_is_misuse(void **state)
{
    (void)state;
    meet(2);
    use(0);
    assert_true(misuse_aborts(use_host_memory, NULL, "device memory"));
}

static void call_after_loss(void *arg)
{
    (void)arg;
    (void)cuStreamQuery(ranks[0].stream);
    (void)ncclCommAbort(ranks[0].comm);
}

static void a_call_after_the_context_is_lost_is_misuse(void **state)
{
    (void)state;
    meet(2);
    use(0);
    fake_gpu_plan("cuStreamQuery:fail=700");
    assert_true(misuse_aborts(call_after_loss, NULL, "context was lost"));
}

static void *abort_unheard(void *arg)
{
    (void)cuCtxSetCurrent(ranks[0].context);
    for (int i = 0; i < *(int *)arg; i++) {
        if (ncclCommAbort(ranks[0].comm) != ncclUnhandledCudaError) _exit(1);
    }
    return NULL;
}

static void lose_in_two_threads(void *arg)
{
    pthread_t thread;

    (void)cuStreamQuery(ranks[0].stream);
    (void)pthread_create(&thread, NULL, abort_unheard, arg);
    (void)pthread_join(thread, NULL);
}

/* It may have been on its way when the other one was told. */
static void
a_loss_that_another_thread_heard_of_is_the_next_call_s_answer(void **state)
{
    int calls = 1;

    (void)state;
    meet(2);
    use(0);
    fake_gpu_plan("cuStreamQuery:fail=700");
    assert_true(misuse_is_fine(lose_in_two_threads, &calls));
    calls = 2;
    assert_true(misuse_aborts(lose_in_two_threads, &calls, "context was lost"));
}

static void allocate_sealed(void *arg)
{
    void *memory;

    (void)arg;
    (void)ncclMemAlloc(&memory, 100);
}

static void allocating_behind_the_seal_is_misuse(void **state)
{
    (void)state;
    use(0);
    assert_true(misuse_is_fine(allocate_sealed, NULL));
    fake_gpu_seal();
    assert_true(misuse_aborts(allocate_sealed, NULL, "after init"));
}

/* ---- errors --------------------------------------------------------------
 */

static void a_dead_peer_is_never_reported(void **state)
{
    (void)state;
    meet(2);
    assert_int_equal(fake_nccl_lose(1), 1);
    begun(send(0, 1, BYTES));
    good(outcome(ranks[0].comm));
    assert_false(fake_gpu_drain());
    good(state_of(ranks[0].comm));
    assert_false(idle(0));
}

static void a_reset_is_reported_after_its_polls(void **state)
{
    int polls = 0;

    (void)state;
    fake_gpu_plan("death=reset:7 steps=1");
    meet(2);
    assert_int_equal(fake_nccl_lose(1), 1);
    begun(send(0, 1, BYTES));
    good(outcome(ranks[0].comm));
    while (state_of(ranks[0].comm) == ncclSuccess) {
        polls++;
        assert_true(polls < 100);
    }
    assert_int_equal(state_of(ranks[0].comm), ncclRemoteError);
    assert_in_range(polls, 6, 12);
    assert_false(idle(0)); /* its kernel runs on */
    good(ncclCommAbort(ranks[0].comm));
    assert_true(idle(0));
}

static void call_after_error(void *arg)
{
    (void)arg;
    (void)send(0, 1, 10);
}

static void after_an_asynchronous_error_only_abort_may_follow(void **state)
{
    (void)state;
    meet(2);
    assert_int_equal(fake_nccl_fail(0, ncclSystemError), 1);
    assert_int_equal(state_of(ranks[0].comm), ncclSystemError);
    good(state_of(ranks[1].comm)); /* the others know nothing */
    assert_true(misuse_aborts(call_after_error, NULL, "asynchronous error"));
    use(0);
    good(ncclCommAbort(ranks[0].comm));
}

/* No order of questions and calls can rule that out. */
static void an_error_after_the_question_is_the_next_call_s_answer(void **state)
{
    (void)state;
    meet(2);
    good(state_of(ranks[0].comm));
    assert_int_equal(fake_nccl_fail(0, ncclSystemError), 1);
    assert_int_equal(send(0, 1, 10), ncclSystemError);
    assert_true(misuse_aborts(call_after_error, NULL, "asynchronous error"));
    use(0);
    good(ncclCommAbort(ranks[0].comm));
}

static void what_fails_late_was_begun_and_never_enqueued(void **state)
{
    (void)state;
    meet(2);
    fake_gpu_plan("ncclGroupEnd:late=2");
    good(ncclGroupStart());
    good(send(0, 1, 10));
    begun(ncclGroupEnd());
    assert_int_equal(outcome(ranks[0].comm), ncclSystemError);
    assert_int_equal(fake_gpu_pending(), 0);
    use(0);
    ok(cuMemsetD8Async(ranks[0].from, 1, 1, ranks[0].stream));
}

static void init_can_run_out_of_memory(void **state)
{
    (void)state;
    fake_gpu_plan("ncclCommInitRankConfig:late=1");
    begun(begin(1, new_id(), 0));
    assert_int_equal(outcome(ranks[0].comm), ncclUnhandledCudaError);
    good(ncclCommAbort(ranks[0].comm));
}

static void a_group_whose_call_failed_launches_nothing(void **state)
{
    (void)state;
    meet(3);
    fake_gpu_plan("ncclSend#2:fail=3");
    good(ncclGroupStart());
    good(send(0, 1, 10));
    assert_int_equal(send(0, 2, 10), ncclInternalError);
    assert_int_equal(ncclGroupEnd(), ncclInternalError);
    good(state_of(ranks[0].comm));
    assert_int_equal(fake_gpu_pending(), 0);
}

/* ---- ending --------------------------------------------------------------
 */

static void abort_ends_what_runs_and_leaves_garbage(void **state)
{
    (void)state;
    meet(2);
    begun(receive(1, 0, BYTES));
    good(outcome(ranks[1].comm));
    assert_false(fake_gpu_drain());
    good(ncclCommAbort(ranks[1].comm));
    assert_true(idle(1));
    assert_int_equal(bytes_of(ranks[1].to)[0], FAKE_GARBAGE);
    assert_int_equal(bytes_of(ranks[1].to)[BYTES - 1], FAKE_GARBAGE);
    assert_int_equal(fake_gpu_counts().comms, 1);
    assert_int_equal(fake_gpu_counts().comms_aborted, 1);
}

static void abort_ends_an_init_that_waits(void **state)
{
    (void)state;
    begun(begin(2, new_id(), 0));
    assert_int_equal(outcome(ranks[0].comm), ncclInProgress);
    good(ncclCommAbort(ranks[0].comm));
    assert_int_equal(fake_gpu_counts().comms, 0);
}

/* Aborts from a thread of its own, and says when it is back. */
static atomic_int returned;

static void *abort_first(void *arg)
{
    (void)arg;
    (void)cuCtxSetCurrent(ranks[0].context);
    (void)ncclCommAbort(ranks[0].comm);
    atomic_store(&returned, 1);
    return NULL;
}

/* It is called and has not come back within 30 ms of the fake's time, which
 * goes on only while it waits: not a measurement. */
static pthread_t abort_in_a_thread(void)
{
    const struct timespec pause = {0, 1000000};
    uint64_t begin_polls = fake_gpu_counts().polls;
    pthread_t thread;

    atomic_store(&returned, 0);
    assert_int_equal(pthread_create(&thread, NULL, abort_first, NULL), 0);
    while (fake_gpu_counts().polls < begin_polls + 30 &&
           atomic_load(&returned) == 0) {
        (void)nanosleep(&pause, NULL);
    }
    return thread;
}

/* In the fake's time, of which a poll is a tick. */
static void an_abort_may_take_long(void **state)
{
    uint64_t begin_polls;

    (void)state;
    meet(2);
    fake_gpu_plan("ncclCommAbort:delay=50");
    begin_polls = fake_gpu_counts().polls;
    good(ncclCommAbort(use(0)->comm));
    assert_true(fake_gpu_counts().polls >= begin_polls + 50);
}

static void an_abort_may_never_return(void **state)
{
    pthread_t thread;

    (void)state;
    meet(2);
    fake_gpu_plan("ncclCommAbort:never");
    thread = abort_in_a_thread();
    assert_int_equal(atomic_load(&returned), 0);
    fake_gpu_release();
    (void)pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&returned), 1);
}

static void an_abort_hangs_behind_a_blocked_stream(void **state)
{
    struct rank *self;
    pthread_t thread;
    uint32_t *flag;

    (void)state;
    meet(2);
    self = use(0);
    ok(cuMemHostAlloc((void **)&flag, sizeof *flag, 0));
    ok(cuStreamWaitValue32(self->stream, (CUdeviceptr)(uintptr_t)flag, 1,
                           CU_STREAM_WAIT_VALUE_EQ));
    begun(send(0, 1, 10));
    good(outcome(self->comm));
    thread = abort_in_a_thread();
    assert_int_equal(atomic_load(&returned), 0);
    ok(cuStreamWriteValue32(self->other, (CUdeviceptr)(uintptr_t)flag, 1, 0));
    (void)pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&returned), 1);
}

static void
an_abort_hangs_until_the_host_writes_what_is_waited_for(void **state)
{
    struct rank *self;
    pthread_t thread;
    uint32_t *flag;

    (void)state;
    meet(2);
    self = use(0);
    ok(cuMemHostAlloc((void **)&flag, sizeof *flag, 0));
    ok(cuStreamWaitValue32(self->stream, (CUdeviceptr)(uintptr_t)flag, 1,
                           CU_STREAM_WAIT_VALUE_GEQ));
    begun(send(0, 1, 10));
    good(outcome(self->comm));
    thread = abort_in_a_thread();
    assert_int_equal(atomic_load(&returned), 0);
    FAKE_STORE(*flag, 1u);
    (void)pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&returned), 1);
}

/* A stream that waits for one that waits for the default stream. */
static void an_abort_hangs_behind_the_default_stream(void **state)
{
    struct rank *self;
    CUstream blocking;
    pthread_t thread;
    CUevent event;

    (void)state;
    meet(2);
    self = use(0);
    ok(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    ok(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    fake_gpu_plan("cuMemsetD8Async#1:never");
    ok(cuMemsetD8Async(self->to, 1, 1, NULL));
    ok(cuEventRecord(event, blocking));
    ok(cuStreamWaitEvent(self->stream, event, 0));
    begun(send(0, 1, 10));
    good(outcome(self->comm));
    thread = abort_in_a_thread();
    assert_int_equal(atomic_load(&returned), 0);
    fake_gpu_release();
    (void)pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&returned), 1);
}

/* An event in between leads to what is blocked, or, once it is done, to
 * nothing. */
static void an_abort_hangs_behind_a_wait_for_a_blocked_stream(void **state)
{
    struct rank *self;
    pthread_t thread;
    CUevent events[2];

    (void)state;
    meet(2);
    self = use(0);
    fake_gpu_plan("cuMemsetD8Async#2:never steps=0");
    for (int i = 0; i < 2; i++) {
        ok(cuEventCreate(&events[i], 0));
        ok(cuMemsetD8Async(self->to, 1, 1, self->other));
        ok(cuEventRecord(events[i], self->other));
    }
    (void)fake_gpu_pump(2); /* the first event is done */
    ok(cuStreamWaitEvent(self->stream, events[0], 0));
    begun(send(0, 1, 10));
    good(outcome(self->comm));
    good(ncclCommAbort(self->comm));
    meet(2);
    ok(cuStreamWaitEvent(use(0)->stream, events[1], 0));
    begun(send(0, 1, 10));
    good(outcome(self->comm));
    thread = abort_in_a_thread();
    assert_int_equal(atomic_load(&returned), 0);
    fake_gpu_release();
    (void)pthread_join(thread, NULL);
}

/* Two communicators of rank 0, both with a kernel that hangs. */
static ncclComm_t hang_two(void)
{
    ncclComm_t first;

    meet(2);
    begun(send(0, 1, 10));
    good(outcome(ranks[0].comm));
    first = ranks[0].comm;
    meet(2);
    begun(ncclSend(device(use(0)->from), 10, ncclUint8, 1, ranks[0].comm,
                   ranks[0].other));
    good(outcome(ranks[0].comm));
    assert_false(fake_gpu_drain());
    return first;
}

static void an_abort_waits_for_other_kernels_of_the_device(void **state)
{
    pthread_t thread;

    (void)state;
    (void)hang_two();
    thread = abort_in_a_thread();
    assert_int_equal(atomic_load(&returned), 0);
    fake_gpu_release();
    (void)pthread_join(thread, NULL);
}

static void all_communicators_of_a_device_are_aborted_in_one_group(void **state)
{
    ncclComm_t first = hang_two();

    (void)state;
    use(0);
    good(ncclGroupStart());
    good(ncclCommAbort(first));
    good(ncclCommAbort(ranks[0].comm));
    assert_int_equal(fake_gpu_counts().comms_aborted, 0);
    good(ncclGroupEnd());
    assert_int_equal(fake_gpu_counts().comms_aborted, 2);
    assert_true(idle(0));
}

static void a_revoke_can_be_polled(void **state)
{
    (void)state;
    meet(2);
    begun(send(0, 1, 10));
    good(outcome(ranks[0].comm));
    assert_false(fake_gpu_drain());
    begun(ncclCommRevoke(ranks[0].comm, NCCL_REVOKE_DEFAULT));
    good(outcome(ranks[0].comm));
    assert_true(idle(0));
    assert_int_equal(send(0, 1, 10), ncclInvalidUsage);
    assert_int_equal(ncclCommFinalize(ranks[0].comm), ncclInvalidUsage);
    assert_int_equal(ncclCommRevoke(ranks[0].comm, 0), ncclInvalidArgument);
    while (ncclGroupEnd() != ncclInvalidUsage) {} /* early returns leak */
    good(ncclCommAbort(ranks[0].comm));
}

static void a_revoke_ends_a_call_in_progress(void **state)
{
    (void)state;
    meet(2);
    fake_gpu_plan("ncclGroupEnd:never");
    good(ncclGroupStart());
    good(send(0, 1, 10));
    begun(ncclGroupEnd());
    assert_int_equal(outcome(ranks[0].comm), ncclInProgress);
    begun(ncclCommRevoke(ranks[0].comm, 0));
    good(outcome(ranks[0].comm));
    assert_int_equal(fake_gpu_pending(), 0);
}

static void a_revoke_takes_no_flags(void **state)
{
    (void)state;
    meet(1);
    assert_int_equal(ncclCommRevoke(ranks[0].comm, 1), ncclInvalidArgument);
}

static void a_revoke_may_never_end_and_the_poller_lives_on(void **state)
{
    (void)state;
    meet(2);
    fake_gpu_plan("ncclCommRevoke:never");
    begun(ncclCommRevoke(ranks[0].comm, 0));
    assert_int_equal(outcome(ranks[0].comm), ncclInProgress);
    good(ncclCommAbort(ranks[0].comm));
}

static void finalize_is_done_when_everyone_has_come_to_it(void **state)
{
    (void)state;
    meet(2);
    begun(ncclCommFinalize(ranks[0].comm));
    assert_int_equal(outcome(ranks[0].comm), ncclInProgress);
    use(1);
    begun(ncclCommFinalize(ranks[1].comm));
    good(outcome(ranks[0].comm));
    good(outcome(ranks[1].comm));
    good(ncclCommDestroy(ranks[1].comm));
    use(0);
    good(ncclCommDestroy(ranks[0].comm));
    assert_int_equal(fake_gpu_counts().comms, 0);
}

static void destroy_with_dead(void *arg)
{
    (void)arg;
    (void)ncclCommDestroy(ranks[0].comm);
}

static void destroying_with_a_dead_peer_is_misuse(void **state)
{
    (void)state;
    meet(2);
    use(0);
    assert_int_equal(fake_nccl_lose(1), 1);
    assert_true(misuse_aborts(destroy_with_dead, NULL, "dead peer"));
}

/* ---- children ------------------------------------------------------------
 */

static void the_survivors_shrink(void **state)
{
    int excluded = 1;
    ncclComm_t children[RANKS] = {NULL, NULL, NULL};
    int value;

    (void)state;
    meet(3);
    assert_int_equal(fake_nccl_lose(1), 1);
    for (int i = 0; i < 3; i += 2) {
        use(i);
        begun(ncclCommShrink(ranks[i].comm, &excluded, 1, &children[i], NULL,
                             NCCL_SHRINK_DEFAULT));
        assert_null(children[i]); /* not before the parent says success */
    }
    for (int i = 0; i < 3; i += 2) good(outcome(ranks[i].comm));
    good(ncclCommCount(children[2], &value));
    assert_int_equal(value, 2);
    good(ncclCommUserRank(children[2], &value));
    assert_int_equal(value, 1);
}

static void a_shrink_with_abort_ends_what_runs(void **state)
{
    int excluded = 1;
    ncclComm_t child = NULL;

    (void)state;
    meet(2);
    begun(send(0, 1, 10));
    good(outcome(ranks[0].comm));
    assert_false(fake_gpu_drain());
    begun(ncclCommShrink(ranks[0].comm, &excluded, 1, &child, NULL,
                         NCCL_SHRINK_ABORT));
    good(outcome(ranks[0].comm));
    assert_true(idle(0));
    assert_non_null(child);
    /* The parent must be aborted: its peers may never come to a destroy. */
    assert_true(misuse_aborts(destroy_with_dead, NULL, "shrunk"));
    good(ncclCommAbort(ranks[0].comm));
}

static void survivors_that_exclude_differently_wait_for_ever(void **state)
{
    int one = 1;
    int two[2] = {1, 0};
    ncclComm_t children[2];

    (void)state;
    meet(3);
    begun(ncclCommShrink(use(0)->comm, &one, 1, &children[0], NULL, 0));
    begun(ncclCommShrink(use(2)->comm, two, 2, &children[1], NULL, 0));
    assert_int_equal(outcome(ranks[0].comm), ncclInProgress);
}

static void a_split_makes_one_of_each_color(void **state)
{
    ncclComm_t children[RANKS];
    const int colors[RANKS] = {7, NCCL_SPLIT_NOCOLOR, 7};
    int value;

    (void)state;
    meet(3);
    for (int i = 0; i < 3; i++) {
        begun(
            ncclCommSplit(use(i)->comm, colors[i], 10 - i, &children[i], NULL));
    }
    for (int i = 0; i < 3; i++) (void)outcome(ranks[i].comm); /* each comes */
    for (int i = 0; i < 3; i++) good(outcome(ranks[i].comm));
    assert_null(children[1]);
    good(ncclCommCount(children[0], &value));
    assert_int_equal(value, 2);
    good(ncclCommUserRank(children[0], &value));
    assert_int_equal(value, 1); /* the smaller key comes first */
}

/* ---- buffers -------------------------------------------------------------
 */

static void
registrations_are_counted_and_end_with_their_communicator(void **state)
{
    void *handles[2];

    (void)state;
    meet(1);
    for (int i = 0; i < 2; i++) {
        good(ncclCommRegister(ranks[0].comm, device(ranks[0].from), BYTES,
                              &handles[i]));
    }
    assert_int_equal(fake_gpu_counts().registrations, 2);
    good(ncclCommDeregister(ranks[0].comm, handles[0]));
    assert_int_equal(fake_gpu_counts().registrations, 1);
    good(ncclCommAbort(ranks[0].comm));
    assert_int_equal(fake_gpu_counts().registrations, 0);
}

static void registering_finds_what_is_registered(void **state)
{
    void *whole;
    void *part;
    void *memory;

    (void)state;
    meet(1);
    good(ncclCommRegister(ranks[0].comm, device(ranks[0].from), BYTES, &whole));
    good(ncclCommRegister(ranks[0].comm, device(ranks[0].from + 5000), 100,
                          &part));
    assert_ptr_equal(part, whole);
    assert_int_equal(fake_gpu_counts().plain_registrations, 2);
    good(ncclCommDeregister(ranks[0].comm, part));
    good(ncclCommDeregister(ranks[0].comm, whole));
    assert_int_equal(ncclCommDeregister(ranks[0].comm, whole),
                     ncclInvalidUsage);
    good(ncclCommDeregister(ranks[0].comm, NULL));
    good(ncclMemAlloc(&memory, 100)); /* virtual */
    good(ncclCommRegister(ranks[0].comm, memory, 100, &whole));
    assert_int_equal(fake_gpu_counts().plain_registrations, 2);
    assert_int_equal(fake_gpu_counts().registrations, 1);
}

static void registering_can_fail_and_can_be_switched_off(void **state)
{
    void *handle = NULL;

    (void)state;
    meet(1);
    fake_gpu_plan("ncclCommRegister#1:fail=1");
    assert_int_equal(
        ncclCommRegister(ranks[0].comm, device(ranks[0].from), BYTES, &handle),
        ncclUnhandledCudaError);
    (void)setenv("NCCL_LOCAL_REGISTER", "0", 1);
    handle = device(ranks[0].from);
    good(
        ncclCommRegister(ranks[0].comm, device(ranks[0].from), BYTES, &handle));
    (void)unsetenv("NCCL_LOCAL_REGISTER");
    assert_null(handle);
    assert_int_equal(fake_gpu_counts().registrations, 0);
}

static void register_freed(void *arg)
{
    void *handle;

    (void)arg;
    meet(1);
    ok(cuMemFree(ranks[0].to));
    (void)ncclCommRegister(ranks[0].comm, device(ranks[0].to), BYTES, &handle);
}

static void free_registered(void *arg)
{
    void *handle;

    (void)arg;
    meet(1);
    good(ncclCommRegister(ranks[0].comm, device(ranks[0].to + 8192), 10,
                          &handle));
    (void)cuMemFree(ranks[0].to);
}

static void free_deregistered(void *arg)
{
    void *handles[2];

    (void)arg;
    meet(1);
    for (int i = 0; i < 2; i++) {
        good(ncclCommRegister(ranks[0].comm, device(ranks[0].to), BYTES,
                              &handles[i]));
    }
    for (int i = 0; i < 2; i++) {
        good(ncclCommDeregister(ranks[0].comm, handles[i]));
    }
    ok(cuMemFree(ranks[0].to));
    good(ncclCommRegister(ranks[0].comm, device(ranks[0].from), BYTES,
                          &handles[0]));
    good(ncclCommAbort(ranks[0].comm));
    ok(cuMemFree(ranks[0].from));
}

static void deregister_pending(void *arg)
{
    void *handle;

    (void)arg;
    meet(2);
    good(ncclCommRegister(use(0)->comm, device(ranks[0].from), BYTES, &handle));
    begun(send(0, 1, 10));
    good(outcome(ranks[0].comm));
    (void)ncclCommDeregister(ranks[0].comm, handle);
}

static void
registered_memory_is_not_freed_nor_freed_memory_registered(void **state)
{
    (void)state;
    assert_true(misuse_aborts(register_freed, NULL, "registers what is not"));
    assert_true(misuse_aborts(free_registered, NULL, "frees memory that is"));
    assert_true(misuse_aborts(deregister_pending, NULL, "is pending"));
    assert_true(misuse_is_fine(free_deregistered, NULL));
}

/* Of the ranks whose bit is set the buffers are registered. */
static void transfer_registered(void *arg)
{
    const unsigned which = *(const unsigned *)arg;
    void *handle;

    meet(2);
    if ((which & 1) != 0) {
        good(ncclCommRegister(use(0)->comm, device(ranks[0].from), BYTES,
                              &handle));
    }
    if ((which & 2) != 0) {
        good(ncclCommRegister(use(1)->comm, device(ranks[1].to), BYTES,
                              &handle));
    }
    begun(send(0, 1, 10));
    begun(receive(1, 0, 10));
    finish(2);
}

static void buffers_are_registered_by_all_ranks_or_by_none(void **state)
{
    unsigned which[] = {0, 1, 2, 3};

    (void)state;
    assert_true(misuse_is_fine(transfer_registered, &which[0]));
    assert_true(
        misuse_aborts(transfer_registered, &which[1], "that of rank 1 is not"));
    assert_true(misuse_aborts(transfer_registered, &which[2],
                              "rank 0 is not registered"));
    assert_true(misuse_is_fine(transfer_registered, &which[3]));
}

static void a_window_is_virtual_memory_registered_by_all(void **state)
{
    ncclWindow_t window[2];
    void *memory[2];

    (void)state;
    meet(2);
    assert_int_equal(ncclCommWindowRegister(use(0)->comm, device(ranks[0].from),
                                            BYTES, &window[0], 0),
                     ncclInvalidArgument); /* not virtual */
    for (int i = 0; i < 2; i++) {
        use(i);
        good(ncclMemAlloc(&memory[i], 100));
    }
    begun(ncclCommWindowRegister(use(0)->comm, memory[0], 100, &window[0], 0));
    assert_int_equal(outcome(ranks[0].comm), ncclInProgress);
    begun(ncclCommWindowRegister(use(1)->comm, memory[1], 100, &window[1], 0));
    good(outcome(ranks[0].comm));
    good(outcome(ranks[1].comm));
    good(ncclCommWindowDeregister(use(0)->comm, window[0]));
    good(ncclMemFree(memory[0]));
}

/* ---- versions ------------------------------------------------------------
 */

static void *variant(const char *folder, int version)
{
    ncclResult_t (*get)(int *);
    char path[4096];
    void *library;
    void *found;
    int is = 0;

    (void)snprintf(path, sizeof path, "%s/%s/libnccl.so.2", CLEAT_FAKES,
                   folder);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    found = dlsym(library, "ncclGetVersion");
    assert_non_null(found);
    memcpy(&get, &found, sizeof get);
    good(get(&is));
    assert_int_equal(is, version);
    return library;
}

static void has(void *library, const char *symbols, bool there)
{
    char name[64];

    while (*symbols != '\0') {
        size_t length = strcspn(symbols, " ");

        memcpy(name, symbols, length);
        name[length] = '\0';
        if ((dlsym(library, name) != NULL) != there) {
            fail_msg("%s is %sthere", name, there ? "not " : "");
        }
        symbols += length + (symbols[length] == ' ');
    }
}

static void older_and_newer_libraries_have_what_was_there_then(void **state)
{
    void *library = variant("nccl_2_18", 21806);

    (void)state;
    has(library, "ncclCommSplit ncclCommFinalize ncclCommAbort", true);
    has(library, "ncclMemAlloc ncclCommRegister ncclCommShrink", false);
    library = variant("nccl_2_19", 21903);
    has(library, "ncclMemAlloc ncclCommRegister", true);
    has(library,
        "ncclCommRevoke ncclCommShrink ncclCommWindowRegister "
        "ncclCommInitRankScalable ncclAlltoAll",
        false);
    library = variant("nccl_2_30", 23007);
    has(library, "ncclCommRevoke ncclCommGrow ncclCommGetUniqueId", true);
    has(fake_gpu_libnccl(), "ncclCommRevoke ncclCommShrink", true);
    has(fake_gpu_libnccl(), "ncclCommGrow ncclCommGetUniqueId", false);
}

#define FIND(name)                                         \
    __typeof__(&name) p_##name;                            \
    do {                                                   \
        void *found_##name = dlsym(library, #name);        \
        assert_non_null(found_##name);                     \
        memcpy(&p_##name, &found_##name, sizeof p_##name); \
    } while (0)

/* Newer than the header. */
ncclResult_t ncclCommGetUniqueId(ncclComm_t comm, ncclUniqueId *id);
ncclResult_t ncclCommGrow(ncclComm_t comm, int ranks_count,
                          const ncclUniqueId *id, int rank, ncclComm_t *newcomm,
                          ncclConfig_t *how);

static void a_communicator_grows_from_2_29(void **state)
{
    void *library = variant("nccl_2_30", 23007);
    ncclConfig_t how = config();
    ncclResult_t is = ncclInProgress;
    ncclComm_t child = NULL;
    ncclComm_t comm;
    ncclComm_t joined;
    ncclUniqueId id;
    int count = 0;

    (void)state;
    FIND(ncclGetUniqueId);
    FIND(ncclCommInitRankConfig);
    FIND(ncclCommGetAsyncError);
    FIND(ncclCommGetUniqueId);
    FIND(ncclCommGrow);
    FIND(ncclCommCount);
    FIND(ncclCommAbort);
    use(0);
    good(p_ncclGetUniqueId(&id));
    begun(p_ncclCommInitRankConfig(&comm, 1, id, 0, &how));
    while (is == ncclInProgress) good(p_ncclCommGetAsyncError(comm, &is));
    good(is);
    good(p_ncclCommGetUniqueId(comm, &id));
    begun(p_ncclCommGrow(comm, 2, &id, -1, &child, NULL));
    for (int i = 0; i < 100; i++) good(p_ncclCommGetAsyncError(comm, &is));
    begun(is); /* the new one is not there */
    use(1);
    begun(p_ncclCommGrow(NULL, 2, &id, 1, &joined, &how));
    for (int i = 0; i < 3; i++) {
        good(p_ncclCommGetAsyncError(joined, &is));
        good(p_ncclCommGetAsyncError(comm, &is));
    }
    good(is);
    good(p_ncclCommCount(child, &count));
    assert_int_equal(count, 2);
    good(p_ncclCommAbort(joined));
}

#define WITH(test) cmocka_unit_test_setup(test, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(it_is_of_the_version_that_it_was_built_as),
        WITH(init_is_in_progress_until_everyone_is_there),
        WITH(a_communicator_knows_its_place),
        WITH(a_call_is_in_progress_for_as_many_polls_as_asked),
        WITH(a_communicator_that_blocks_returns_when_it_is_done),
        WITH(the_environment_may_make_it_block),
        WITH(the_environment_may_make_all_ids_one),
        WITH(two_ranks_on_one_gpu_are_refused),
        WITH(another_host_id_makes_one_gpu_two),
        WITH(two_that_were_told_one_rank_wait_for_ever),
        WITH(ranks_that_count_differently_wait_for_ever),
        WITH(a_used_id_is_no_id),
        WITH(init_checks_its_arguments),
        WITH(several_ids_make_one_communicator),
        WITH(a_call_without_a_context_is_misuse),
        WITH(a_failed_init_leaves_its_group_open),
        WITH(in_a_leaked_group_nothing_is_launched),
        WITH(destroying_in_progress_is_misuse_and_leaks_a_group),
        WITH(every_id_leaves_a_root_until_all_have_come),
        WITH(roots_may_be_real_threads_with_descriptors),
        WITH(a_communicator_may_have_a_real_thread_until_it_ends),
        WITH(each_group_that_does_not_block_starts_a_thread),
        WITH(a_broadcast_reaches_everyone_at_any_size),
        WITH(a_broadcast_may_be_in_place),
        WITH(a_group_of_sends_fans_out),
        WITH(a_group_exchanges_and_may_be_empty),
        WITH(sends_and_receives_that_are_not_fused_deadlock),
        WITH(an_empty_message_is_one_too),
        WITH(nothing_is_done_before_all_sides_have_come_to_it),
        WITH(an_operation_waits_for_its_turn_on_the_stream),
        WITH(operations_of_one_communicator_keep_their_order),
        WITH(an_operation_never_overtakes_another),
        WITH(an_operation_may_be_late_or_never_begin),
        WITH(a_simulated_group_launches_nothing),
        WITH(ranks_may_be_threads),
        WITH(a_rank_sends_to_itself_only_in_one_group),
        WITH(reductions_combine_in_the_order_of_ranks),
        WITH(a_reduce_scatter_leaves_each_rank_its_block),
        WITH(gathers_and_scatters_put_blocks_in_the_order_of_ranks),
        WITH(a_garbled_message_differs_in_one_byte),
        WITH(a_call_on_a_communicator_in_progress_is_misuse),
        WITH(work_behind_a_call_in_progress_is_misuse),
        WITH(sides_that_differ_in_count_or_order_are_misuse),
        WITH(use_after_abort_is_misuse),
        WITH(a_call_from_a_second_thread_is_misuse_but_for_its_end),
        WITH(writing_what_is_being_sent_is_misuse),
        WITH(sending_host_memory_is_misuse),
        WITH(a_call_after_the_context_is_lost_is_misuse),
        WITH(a_loss_that_another_thread_heard_of_is_the_next_call_s_answer),
        WITH(allocating_behind_the_seal_is_misuse),
        WITH(a_dead_peer_is_never_reported),
        WITH(a_reset_is_reported_after_its_polls),
        WITH(after_an_asynchronous_error_only_abort_may_follow),
        WITH(an_error_after_the_question_is_the_next_call_s_answer),
        WITH(what_fails_late_was_begun_and_never_enqueued),
        WITH(init_can_run_out_of_memory),
        WITH(a_group_whose_call_failed_launches_nothing),
        WITH(abort_ends_what_runs_and_leaves_garbage),
        WITH(abort_ends_an_init_that_waits),
        WITH(an_abort_may_take_long),
        WITH(an_abort_may_never_return),
        WITH(an_abort_hangs_behind_a_blocked_stream),
        WITH(an_abort_hangs_until_the_host_writes_what_is_waited_for),
        WITH(an_abort_hangs_behind_the_default_stream),
        WITH(an_abort_hangs_behind_a_wait_for_a_blocked_stream),
        WITH(an_abort_waits_for_other_kernels_of_the_device),
        WITH(all_communicators_of_a_device_are_aborted_in_one_group),
        WITH(a_revoke_can_be_polled),
        WITH(a_revoke_ends_a_call_in_progress),
        WITH(a_revoke_takes_no_flags),
        WITH(a_revoke_may_never_end_and_the_poller_lives_on),
        WITH(finalize_is_done_when_everyone_has_come_to_it),
        WITH(destroying_with_a_dead_peer_is_misuse),
        WITH(the_survivors_shrink),
        WITH(a_shrink_with_abort_ends_what_runs),
        WITH(survivors_that_exclude_differently_wait_for_ever),
        WITH(a_split_makes_one_of_each_color),
        WITH(registrations_are_counted_and_end_with_their_communicator),
        WITH(registering_finds_what_is_registered),
        WITH(registering_can_fail_and_can_be_switched_off),
        WITH(registered_memory_is_not_freed_nor_freed_memory_registered),
        WITH(buffers_are_registered_by_all_ranks_or_by_none),
        WITH(a_window_is_virtual_memory_registered_by_all),
        WITH(older_and_newer_libraries_have_what_was_there_then),
        WITH(a_communicator_grows_from_2_29),
    };

    fake_gpu_attach(CLEAT_FAKES "/lib");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
