/* Cleat: ranks that are processes, over the fake GPU libraries.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Started with arguments, this program is a rank: see be_rank. The test itself
 * only watches their world, kills, stops, and reads counters; where a rank has
 * to give up waiting, the test says when, by a seed of DEADLINE. */
#define _GNU_SOURCE
#include <cuda.h>
#include <nccl.h>
#include <sched.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "control.h"
#include "misuse.h"

#define RANKS 3
#define BYTES ((size_t)256 << 10)
#define DEADLINE 999
#define WATCHDOG_S 60

extern char **environ;

/* How a rank ends. */
enum end {
    END_WELL = 0,
    END_WRONG = 20, /* bytes, or a status that no case expects */
    END_REMOTE = 21,
    END_DEADLINE = 22,
};

/* ---- a rank --------------------------------------------------------------
 */

struct self {
    int rank;
    int ranks;
    ncclUniqueId id;
    int rounds;
    CUstream stream;
    CUdeviceptr from;
    CUdeviceptr to;
    unsigned char *pinned;
    ncclComm_t comm;
};

static void must(bool condition, const char *what)
{
    if (condition) return;
    (void)fprintf(stderr, "a rank: %s\n", what);
    _exit(END_WRONG);
}

static void prepare(struct self *self)
{
    CUcontext context;

    must(cuInit(0) == CUDA_SUCCESS, "cuInit");
    must(cuDevicePrimaryCtxRetain(&context, self->rank) == CUDA_SUCCESS,
         "retain");
    must(cuCtxSetCurrent(context) == CUDA_SUCCESS, "current");
    must(cuStreamCreate(&self->stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS,
         "stream");
    must(cuMemAlloc(&self->from, BYTES) == CUDA_SUCCESS, "memory");
    must(cuMemAlloc(&self->to, BYTES) == CUDA_SUCCESS, "memory");
    must(cuMemHostAlloc((void **)&self->pinned, BYTES, 0) == CUDA_SUCCESS,
         "pinned memory");
    fake_gpu_seal();
}

static bool is_late(void)
{
    return fake_gpu_settings().seed == DEADLINE;
}

/* Leaves, as what watches a group would: aborts. */
static void give_up(struct self *self, enum end end)
{
    if (ncclCommAbort(self->comm) != ncclSuccess) end = END_WRONG;
    if (cuStreamQuery(self->stream) != CUDA_SUCCESS) end = END_WRONG;
    _exit((int)end);
}

static void wait_for_call(struct self *self)
{
    ncclResult_t state = ncclInProgress;

    while (state == ncclInProgress) {
        must(ncclCommGetAsyncError(self->comm, &state) == ncclSuccess, "poll");
        if (is_late()) give_up(self, END_DEADLINE);
        (void)sched_yield();
    }
    if (state == ncclRemoteError) give_up(self, END_REMOTE);
    must(state == ncclSuccess, "a call failed");
}

static void wait_for_stream(struct self *self)
{
    CUresult code = CUDA_ERROR_NOT_READY;
    ncclResult_t state;

    while (code == CUDA_ERROR_NOT_READY) {
        code = cuStreamQuery(self->stream);
        must(ncclCommGetAsyncError(self->comm, &state) == ncclSuccess, "poll");
        if (code == CUDA_ERROR_NOT_READY && state == ncclRemoteError) {
            give_up(self, END_REMOTE);
        }
        if (code == CUDA_ERROR_NOT_READY && is_late()) {
            give_up(self, END_DEADLINE);
        }
        (void)sched_yield();
    }
    must(code == CUDA_SUCCESS, "a query failed");
}

static unsigned char byte_of(int round, size_t at)
{
    return (unsigned char)(at * 13 + (size_t)round * 101 + (at >> 9));
}

static void one_round(struct self *self, int round)
{
    ncclResult_t code;

    for (size_t i = 0; i < BYTES; i++) self->pinned[i] = byte_of(round, i);
    if (self->rank == 0) {
        must(cuMemcpyHtoDAsync(self->from, self->pinned, BYTES, self->stream) ==
                 CUDA_SUCCESS,
             "copy");
    }
    code = ncclBroadcast((void *)(uintptr_t)self->from,
                         (void *)(uintptr_t)self->to, BYTES, ncclUint8, 0,
                         self->comm, self->stream);
    must(code == ncclInProgress, "broadcast");
    wait_for_call(self);
    wait_for_stream(self);
    memset(self->pinned, 0, BYTES);
    must(cuMemcpyDtoHAsync(self->pinned, self->to, BYTES, self->stream) ==
             CUDA_SUCCESS,
         "copy back");
    wait_for_stream(self);
    for (size_t i = 0; i < BYTES; i++) {
        must(self->pinned[i] == byte_of(round, i), "a byte is wrong");
    }
}

static int be_rank(char **arguments)
{
    struct self self;
    ncclConfig_t how = NCCL_CONFIG_INITIALIZER;

    memset(&self, 0, sizeof self);
    self.rank = atoi(arguments[2]);
    self.ranks = atoi(arguments[3]);
    self.rounds = atoi(arguments[4]);
    for (size_t i = 0; i < sizeof self.id; i++) {
        unsigned value;

        must(sscanf(arguments[5] + 2 * i, "%2x", &value) == 1, "an id");
        self.id.internal[i] = (char)value;
    }
    fake_gpu_attach(CLEAT_FAKES "/lib");
    prepare(&self);
    how.blocking = 0;
    must(ncclCommInitRankConfig(&self.comm, self.ranks, self.id, self.rank,
                                &how) == ncclInProgress,
         "init");
    wait_for_call(&self);
    for (int round = 0; round < self.rounds; round++) one_round(&self, round);
    must(ncclCommFinalize(self.comm) == ncclInProgress, "finalize");
    wait_for_call(&self);
    must(ncclCommDestroy(self.comm) == ncclSuccess, "destroy");
    return END_WELL;
}

/* ---- the test ------------------------------------------------------------
 */

static char path[] = "/tmp/cleat-fake-ranks-XXXXXX";
static pid_t pids[RANKS];

static void start(int rank, int ranks, const char *rounds, const char *id)
{
    char rank_text[12];
    char ranks_text[12];
    char *arguments[] = {(char[]){"/proc/self/exe"},
                         (char[]){"rank"},
                         rank_text,
                         ranks_text,
                         (char *)(uintptr_t)rounds,
                         (char *)(uintptr_t)id,
                         NULL};

    (void)snprintf(rank_text, sizeof rank_text, "%d", rank);
    (void)snprintf(ranks_text, sizeof ranks_text, "%d", ranks);
    assert_int_equal(posix_spawn(&pids[rank], "/proc/self/exe", NULL, NULL,
                                 arguments, environ),
                     0);
}

static void start_all(const char *plan, int ranks, const char *rounds)
{
    char text[2 * sizeof(ncclUniqueId) + 1];
    ncclUniqueId id;

    fake_gpu_plan(plan);
    assert_int_equal(ncclGetUniqueId(&id), ncclSuccess);
    for (size_t i = 0; i < sizeof id; i++) {
        (void)snprintf(text + 2 * i, 3, "%02x", (unsigned char)id.internal[i]);
    }
    for (int i = 0; i < ranks; i++) start(i, ranks, rounds, text);
}

static void pause_a_little(void)
{
    const struct timespec pause = {0, 1000000};

    (void)nanosleep(&pause, NULL);
}

/* With a watchdog, for a rank that never ends is what may go wrong. */
static int end_of(int rank)
{
    int status = -1;

    for (int i = 0; i < WATCHDOG_S * 1000; i++) {
        if (waitpid(pids[rank], &status, WNOHANG) == pids[rank]) return status;
        pause_a_little();
    }
    fail_msg("rank %d never ends", rank);
    return -1;
}

static void ends_with(int rank, enum end end)
{
    int status = end_of(rank);

    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), end);
}

static void ends_killed(int rank)
{
    int status = end_of(rank);

    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static struct fake_counts counts_of(int rank)
{
    struct fake_counts counts;

    memset(&counts, 0, sizeof counts);
    (void)fake_gpu_counts_of(pids[rank], &counts); /* it may not be there yet */
    return counts;
}

/* Until that rank has asked `polls` times more: it is alive and waits. */
static void wait_for_polls(int rank, uint64_t polls)
{
    uint64_t until = counts_of(rank).polls + polls;

    for (int i = 0; i < WATCHDOG_S * 1000; i++) {
        if (counts_of(rank).polls >= until) return;
        assert_int_equal(waitpid(pids[rank], NULL, WNOHANG), 0);
        pause_a_little();
    }
    fail_msg("rank %d does not poll", rank);
}

static void wait_for_bytes(int rank, uint64_t bytes)
{
    for (int i = 0; i < WATCHDOG_S * 1000; i++) {
        if (counts_of(rank).nccl_bytes >= bytes) return;
        pause_a_little();
    }
    fail_msg("rank %d receives nothing", rank);
}

static int set_up(void **state)
{
    const int file = (memcpy(path + sizeof path - 7, "XXXXXX", 6),
                      mkstemp(path));

    (void)state;
    if (file < 0) return -1;
    (void)close(file);
    (void)setenv("FAKE_GPU_WORLD", path, 1);
    fake_gpu_watch(path, "");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)unlink(path);
    return 0;
}

static void three_processes_broadcast_and_end(void **state)
{
    (void)state;
    start_all("", 3, "3");
    for (int i = 0; i < 3; i++) ends_with(i, END_WELL);
    assert_int_equal(counts_of(1).nccl_bytes, 3 * BYTES);
    assert_int_equal(counts_of(2).comms, 0);
    assert_int_equal(counts_of(0).unpinned_copies, 0);
}

/* P2P, NVLink and shared memory never report it. */
static void a_killed_rank_is_never_reported_to_the_others(void **state)
{
    (void)state;
    start_all("", 3, "1000000");
    wait_for_bytes(2, 2 * BYTES);
    (void)kill(pids[2], SIGKILL);
    ends_killed(2);
    for (int i = 0; i < 2; i++) wait_for_polls(i, 500);
    fake_gpu_plan("seed=999"); /* their own deadline */
    for (int i = 0; i < 2; i++) ends_with(i, END_DEADLINE);
    assert_int_equal(counts_of(0).comms_aborted, 1);
}

/* A socket that the kernel closes is seen at once; rank 1, which gets its
 * bytes from rank 0 alone, sees rank 0 leave. */
static void a_killed_rank_is_reported_by_a_reset(void **state)
{
    (void)state;
    start_all("death=reset:3", 3, "1000000");
    wait_for_bytes(2, 2 * BYTES);
    (void)kill(pids[2], SIGKILL);
    ends_killed(2);
    for (int i = 0; i < 2; i++) ends_with(i, END_REMOTE);
}

static void a_killed_root_is_reported_by_a_reset(void **state)
{
    (void)state;
    start_all("death=reset:3", 3, "1000000");
    wait_for_bytes(1, 2 * BYTES);
    (void)kill(pids[0], SIGKILL);
    ends_killed(0);
    for (int i = 1; i < 3; i++) ends_with(i, END_REMOTE);
}

static void a_zombie_is_dead_too(void **state)
{
    (void)state;
    start_all("death=reset", 3, "1000000");
    wait_for_bytes(2, BYTES);
    (void)kill(pids[2], SIGKILL); /* not waited for before the others end */
    for (int i = 0; i < 2; i++) ends_with(i, END_REMOTE);
    ends_killed(2);
}

/* Stops itself: the others, who end some time, are to wait for it. */
static void wait_for_stop(int rank)
{
    int status = 0;

    for (int i = 0; i < WATCHDOG_S * 1000; i++) {
        if (waitpid(pids[rank], &status, WNOHANG | WUNTRACED) == pids[rank]) {
            assert_true(WIFSTOPPED(status));
            return;
        }
        pause_a_little();
    }
    fail_msg("rank %d does not stop", rank);
}

static void a_stopped_rank_is_not_dead(void **state)
{
    (void)state;
    start_all("death=reset ncclBroadcast#3:stop@rank=2", 3, "40");
    wait_for_stop(2);
    for (int i = 0; i < 2; i++) wait_for_polls(i, 200);
    (void)kill(pids[2], SIGCONT);
    for (int i = 0; i < 3; i++) ends_with(i, END_WELL);
}

/* Wherever it is stopped: the others' calls return, and wait for it. */
static void a_stopped_rank_holds_up_no_poll(void **state)
{
    (void)state;
    start_all("", 3, "1000000");
    wait_for_bytes(2, BYTES);
    for (int i = 0; i < 30; i++) {
        (void)kill(pids[2], SIGSTOP);
        for (int j = 0; j < 2; j++) wait_for_polls(j, 20);
        (void)kill(pids[2], SIGCONT);
        wait_for_polls(2, 1 + (uint64_t)i);
    }
    fake_gpu_plan("seed=999");
    for (int i = 0; i < 3; i++) (void)end_of(i);
}

static void those_that_remain_meet_again(void **state)
{
    (void)state;
    start_all("death=reset", 3, "1000000");
    wait_for_bytes(2, BYTES);
    (void)kill(pids[2], SIGKILL);
    for (int i = 0; i < 2; i++) ends_with(i, END_REMOTE);
    ends_killed(2);
    start_all("", 2, "3");
    for (int i = 0; i < 2; i++) ends_with(i, END_WELL);
}

static void a_missing_rank_is_waited_for(void **state)
{
    (void)state;
    start_all("ncclCommInitRankConfig:kill@process=1", 3, "1");
    for (int i = 0, killed = 0; killed == 0; i = (i + 1) % 3) {
        int status;

        if (waitpid(pids[i], &status, WNOHANG) == pids[i]) {
            assert_true(WIFSIGNALED(status));
            pids[i] = 0;
            killed = 1;
        }
        pause_a_little();
    }
    for (int i = 0; i < 3; i++) {
        if (pids[i] != 0) wait_for_polls(i, 200);
    }
    fake_gpu_plan("seed=999");
    for (int i = 0; i < 3; i++) {
        if (pids[i] != 0) ends_with(i, END_DEADLINE);
    }
}

static void a_rule_kills_the_rank_that_it_names(void **state)
{
    (void)state;
    start_all("death=reset ncclBroadcast#2:kill@rank=1", 3, "1000000");
    ends_killed(1);
    ends_with(0, END_REMOTE);
    ends_with(2, END_REMOTE);
    assert_int_equal(counts_of(0).rules_fired, 0);
}

static void an_abort_that_never_returns_is_released_from_outside(void **state)
{
    (void)state;
    start_all("death=reset ncclCommAbort:never@rank=0", 3, "1000000");
    wait_for_bytes(2, BYTES);
    (void)kill(pids[2], SIGKILL);
    ends_killed(2);
    wait_for_polls(0, 200);
    while (counts_of(0).rules_fired == 0) pause_a_little();
    assert_int_equal(waitpid(pids[0], NULL, WNOHANG), 0);
    fake_gpu_release_process(pids[0]);
    ends_with(0, END_REMOTE);
    ends_with(1, END_REMOTE);
}

/* Killed anywhere, also with the world's lock held. */
static void a_rank_killed_anywhere_harms_no_other_world(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 30; i++) {
        start_all("death=reset", 2, "1000000");
        wait_for_polls(1, 1 + i * 7 % 64);
        (void)kill(pids[1], SIGKILL);
        ends_killed(1);
        fake_gpu_plan("seed=999"); /* it may have been killed in init */
        (void)end_of(0);
        fake_gpu_plan("seed=1");
    }
    start_all("", 3, "2");
    for (int i = 0; i < 3; i++) ends_with(i, END_WELL);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        WITH(three_processes_broadcast_and_end),
        WITH(a_killed_rank_is_never_reported_to_the_others),
        WITH(a_killed_rank_is_reported_by_a_reset),
        WITH(a_killed_root_is_reported_by_a_reset),
        WITH(a_zombie_is_dead_too),
        WITH(a_stopped_rank_is_not_dead),
        WITH(a_stopped_rank_holds_up_no_poll),
        WITH(those_that_remain_meet_again),
        WITH(a_missing_rank_is_waited_for),
        WITH(a_rule_kills_the_rank_that_it_names),
        WITH(an_abort_that_never_returns_is_released_from_outside),
        WITH(a_rank_killed_anywhere_harms_no_other_world),
    };

    if (argc == 6 && strcmp(argv[1], "rank") == 0) return be_rank(argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
