/* Cleat: an NCCL without a GPU: entry of every call, groups, jobs.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "fake_nccl.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(ncclUniqueId) == 128, "an id is 128 bytes");
_Static_assert(ncclInProgress == 7, "results are numbered as ever");

/* Static room: the first use in a thread must not allocate. */
#define THREAD _Thread_local __attribute__((tls_model("initial-exec")))

#define GROUPS_MAX 128

/* Of one thread, once it has begun one. */
struct group {
    ncclResult_t error; /* what a call in it returned */
    uint32_t count;
    struct item items[ITEMS_MAX];
};

static struct group groups[GROUPS_MAX];
static uint32_t used_groups;
static THREAD int depth;
static THREAD struct group *group;
static THREAD uint64_t answered; /* the loss that was this thread's answer */

static const struct fake_cuda *driver;

/* ---- entry ---------------------------------------------------------------
 */

/* Loading NCCL needs no driver: 2.28.9's libnccl.so.2 names no libcuda among
 * what it needs (readelf -d), and looks for one when it is to be used. */
static void find_driver(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    __typeof__(&fake_cuda) get;
    void *found;

    if (library == NULL) library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == NULL) return;
    found = dlsym(library, "fake_cuda");
    if (found != NULL) {
        memcpy(&get, &found, sizeof get);
        driver = get();
        if (driver->layout != FAKE_LAYOUT) {
            (void)fprintf(stderr, "fake libnccl: the fake libcuda is of "
                                  "another build\n");
            abort();
        }
        driver->before_free(is_registered);
    } else {
        (void)dlclose(library);
    }
}

const struct fake_cuda *cuda(void)
{
    if (driver == NULL) find_driver();
    return driver;
}

void say(struct ncclComm *comm, const char *text)
{
    (void)snprintf(comm->text, sizeof comm->text, "%s", text);
}

ncclResult_t refuse(struct call *call, ncclResult_t code, const char *what)
{
    driver->misuse(call->name, "%s", what);
    call->code = code;
    return code;
}

static bool is_busy(const struct ncclComm *comm)
{
    return comm->job != JOB_NONE;
}

/* NCCL's user guide, "Thread Safety": one thread at a time operates a
 * communicator. Here that is one thread for good, but for ending it, which may
 * be handed to another: whoever needs more says so (fake_nccl_hand_over). */
static bool is_right_thread(struct call *call, struct ncclComm *comm,
                            unsigned allow)
{
    pthread_t self = pthread_self();

    if (comm->ending) {
        (void)refuse(call, ncclInvalidArgument,
                     "called while another thread ends the communicator");
        return false;
    }
    if ((allow & ALLOW_OTHER) != 0) {
        comm->owner = self;
    } else if (!pthread_equal(comm->owner, self)) {
        (void)refuse(call, ncclInvalidUsage,
                     "called by a second thread; the communicator is "
                     "another's");
        return false;
    }
    return true;
}

static bool is_in_state(struct call *call, struct ncclComm *comm,
                        unsigned allow)
{
    /* Answered so by the library (NVIDIA/nccl#1734); a program that waits for
     * the end of a job, as nccl.h asks of one that does not block ("the caller
     * must poll"; user guide, "Fault Tolerance"), never sees it. */
    if (is_busy(comm) && (allow & ALLOW_BUSY) == 0) {
        (void)refuse(call, ncclInvalidArgument,
                     "called while an earlier call is in progress");
        return false;
    }
    if (!is_busy(comm) && comm->async != ncclSuccess &&
        (allow & ALLOW_FAILED) == 0) {
        /* User guide, "Asynchronous errors and error handling": only abort
         * may follow. It may have come between the caller's question and this
         * call. */
        if (comm->told) {
            (void)refuse(call, comm->async,
                         "called after an asynchronous error, which only "
                         "abort may follow");
        }
        call->code = comm->async;
        comm->told = true;
        return false;
    }
    /* NCCL 2.28.7, src/init.cc: what is revoked takes only destroy, abort,
     * split and shrink. */
    if (comm->state == STATE_REVOKED && (allow & ALLOW_REVOKED) == 0) {
        call->code = ncclInvalidUsage;
        return false;
    }
    if (comm->state == STATE_FINALIZED && (allow & ALLOW_FINALIZED) == 0) {
        (void)refuse(call, ncclInvalidUsage, "called after finalize");
        return false;
    }
    return true;
}

static bool comm_may(struct call *call, struct ncclComm *comm, unsigned allow)
{
    if (!is_comm(comm)) {
        (void)refuse(call, ncclInvalidArgument, "no communicator");
        return false;
    }
    if (comm->state == STATE_GONE) {
        (void)refuse(call, ncclInvalidArgument,
                     "called after the communicator was aborted or "
                     "destroyed");
        return false;
    }
    return is_right_thread(call, comm, allow) && is_in_state(call, comm, allow);
}

/* What another thread was told of may have been told while this one was on its
 * way here: it is this call's answer, and only the next one is misuse. */
static bool is_context_whole(struct call *call)
{
    bool heard;
    uint64_t loss = driver->lost(&heard);

    if (loss == 0) return true;
    if (heard || answered == loss) {
        (void)refuse(call, ncclUnhandledCudaError,
                     "called after the context was lost");
    }
    answered = loss;
    call->code = ncclUnhandledCudaError;
    return false;
}

static bool context_may(struct call *call, unsigned allow)
{
    if ((allow & ALLOW_NO_CONTEXT) != 0) return true;
    if (!is_context_whole(call)) return false;
    /* NCCL has the CUDA runtime in it, and takes the device of the thread's
     * current context (cudaGetDevice in src/init.cc). */
    if (driver->device() < 0) {
        driver->counts()->no_context++;
        (void)refuse(call, ncclUnhandledCudaError,
                     "called without a current context");
        return false;
    }
    return true;
}

static bool may(struct call *call, struct ncclComm *comm, unsigned allow)
{
    if (!context_may(call, allow)) return false;
    if ((allow & ALLOW_NO_COMM) == 0 && !comm_may(call, comm, allow)) {
        return false;
    }
    call->hit = driver->rule(call->name);
    if (call->hit.action != FAKE_FAIL) return true;
    call->code = (ncclResult_t)call->hit.value;
    return false;
}

bool enter(struct call *call, const char *name, struct ncclComm *comm,
           unsigned allow)
{
    memset(call, 0, sizeof *call);
    call->name = name;
    if (cuda() == NULL) { /* no driver: as without a GPU */
        call->code = ncclUnhandledCudaError;
        if ((allow & LEAKS) != 0) depth++;
        return false;
    }
    driver->lock();
    driver->counts()->calls++;
    if (may(call, comm, allow)) return true;
    if (depth > 0 && group != NULL) group->error = call->code;
    if ((allow & LEAKS) != 0) leak_depth();
    driver->unlock();
    return false;
}

ncclResult_t leave(struct call *call, ncclResult_t code)
{
    (void)call;
    driver->unlock();
    return code;
}

/* ---- groups --------------------------------------------------------------
 */

/* Calls that start a group of their own and return early on an error leave it
 * open: the thread's next calls are queued and never run. Seen of
 * ncclCommInitRankConfig without a device in 2.28.9: the next ncclGroupEnd()
 * returned success, and the one after that invalid usage; src/init.cc has the
 * same in Abort, Revoke and Destroy, up to 2.30.7. */
void leak_depth(void)
{
    depth++;
    driver->counts()->depth_leaks++;
}

int group_depth(void)
{
    return depth;
}

void start_group(void)
{
    depth++;
    if (group == NULL && used_groups < GROUPS_MAX) {
        group = &groups[used_groups++];
    }
}

struct item *add_item(enum item_kind kind, struct ncclComm *comm)
{
    struct item *item;

    if (group == NULL || group->count == ITEMS_MAX) {
        driver->misuse("ncclGroupStart",
                       "more than %d calls in a group, or "
                       "more than %d threads",
                       ITEMS_MAX, GROUPS_MAX);
        return NULL;
    }
    item = &group->items[group->count++];
    memset(item, 0, sizeof *item);
    item->kind = kind;
    item->comm = comm;
    return item;
}

/* NCCL 2.28.9, src/group.cc: an invalid argument. */
static bool is_mixed(void)
{
    for (uint32_t i = 1; i < group->count; i++) {
        if (group->items[i].comm->blocking != group->items[0].comm->blocking) {
            return true;
        }
    }
    return false;
}

static ncclResult_t end_aborts(void)
{
    struct ncclComm *comms[ITEMS_MAX];
    struct fake_hit hits[ITEMS_MAX];
    uint32_t count = 0;

    for (uint32_t i = 0; i < group->count; i++) {
        if (group->items[i].kind != ITEM_ABORT) continue;
        comms[count] = group->items[i].comm;
        hits[count++] = group->items[i].hit;
    }
    group->count = 0; /* another thread's aborts are another group's */
    return count > 0 ? abort_comms(comms, count, hits) : ncclSuccess;
}

static ncclResult_t end_waits(void)
{
    ncclResult_t worst = ncclSuccess;

    for (uint32_t i = 0; i < group->count; i++) {
        struct ncclComm *comm = group->items[i].comm;

        if (group->items[i].kind == ITEM_ABORT || comm->state == STATE_GONE) {
            continue;
        }
        while (comm->blocking && is_busy(comm)) wait_a_little();
        if (is_busy(comm)) {
            worst = ncclInProgress;
        } else if (worst == ncclSuccess) {
            worst = comm->async;
        }
    }
    return worst;
}

static ncclResult_t run_group(struct call *call)
{
    ncclResult_t code = group->error;

    if (code == ncclSuccess && call->hit.action == FAKE_FAIL) {
        code = (ncclResult_t)call->hit.value;
    }
    if (code == ncclSuccess && is_mixed()) {
        code = refuse(call, ncclInvalidArgument,
                      "blocking and non-blocking communicators in one group");
    }
    if (code == ncclSuccess) {
        code = make_works(group->items, group->count, call);
    }
    if (code == ncclSuccess) code = end_waits();
    if (code == ncclSuccess || code == ncclInProgress) {
        ncclResult_t aborted = end_aborts();

        if (aborted != ncclSuccess) code = aborted;
    }
    group->count = 0;
    group->error = ncclSuccess;
    return code;
}

/* With the lock held, for a call that is a group of its own. */
ncclResult_t end_group(struct call *call)
{
    if (--depth > 0 || group == NULL) return ncclSuccess;
    return run_group(call);
}

ncclResult_t ncclGroupStart(void)
{
    depth++;
    if (cuda() == NULL) return ncclSuccess;
    driver->lock();
    depth--;
    start_group();
    driver->unlock();
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    struct call call;
    ncclResult_t code = ncclSuccess;

    if (depth == 0) return ncclInvalidUsage;
    if (cuda() == NULL) {
        depth--;
        return ncclSuccess;
    }
    memset(&call, 0, sizeof call);
    call.name = "ncclGroupEnd";
    driver->lock();
    driver->counts()->calls++;
    if (depth == 1 && group != NULL && group->count > 0) {
        call.hit = driver->rule(call.name);
    }
    code = end_group(&call);
    driver->unlock();
    return code;
}

#if FAKE_NCCL_VERSION >= 22203
ncclResult_t ncclGroupSimulateEnd(ncclSimInfo_t *simInfo)
{
    if (simInfo == NULL) return ncclInvalidArgument;
    if (depth == 0) return ncclInvalidUsage;
    simInfo->estimatedTime = 0;
    depth--;
    if (cuda() == NULL || group == NULL) return ncclSuccess;
    driver->lock();
    group->count = 0;
    group->error = ncclSuccess;
    driver->unlock();
    return ncclSuccess;
}
#endif

/* ---- jobs ----------------------------------------------------------------
 */

void wait_a_little(void)
{
    const struct timespec millisecond = {0, 1000000};

    driver->unlock();
    (void)nanosleep(&millisecond, NULL);
    driver->lock();
    driver->poll();
    for (uint32_t i = 0; i < COMMS_MAX; i++) {
        struct ncclComm *comm = comm_at(i);

        if (comm->state != STATE_NONE && comm->blocking) poll_job(comm);
    }
}

/* NCCL 2.28.9, src/group.cc: each group of a non-blocking communicator is run
 * by a thread of its own, and what began it returns ncclInProgress. */
ncclResult_t begin_job(struct ncclComm *comm, enum job job,
                       const struct fake_hit *hit)
{
    const struct fake_settings *settings = &driver->world()->settings;

    if (!comm->blocking) driver->counts()->group_threads++;
    comm->job = job;
    comm->polls = comm->blocking ? 0 : settings->in_progress;
    comm->job_never = hit->action == FAKE_NEVER;
    comm->late = hit->action == FAKE_LATE ? (ncclResult_t)hit->value
                                          : ncclSuccess;
    if (hit->action == FAKE_DELAY) comm->polls += (uint32_t)hit->value;
    return comm->blocking ? ncclSuccess : ncclInProgress;
}

ncclResult_t after_job(struct ncclComm *comm)
{
    if (depth > 0) {
        (void)add_item(ITEM_WAIT, comm);
        return ncclSuccess;
    }
    while (comm->blocking && is_busy(comm)) wait_a_little();
    return is_busy(comm) ? ncclInProgress : comm->async;
}

static bool can_end(struct ncclComm *comm)
{
    switch (comm->job) {
    case JOB_INIT: return is_complete(comm);
    case JOB_CHILD: return child_is_complete(comm);
    case JOB_REVOKE: return !cannot_stop(&comm, 1);
    /* Done when everyone is: a dead peer is waited for. */
    case JOB_FINALIZE: return works_of(comm) == 0 && everyone_left(comm);
    case JOB_WINDOW: return everyone_registered(comm);
    case JOB_NONE:
    case JOB_LAUNCH: break;
    }
    return true;
}

static void end_child(struct ncclComm *comm)
{
    if (comm->child != NULL) {
        comm->child->state = STATE_READY;
        comm->child->job = JOB_NONE;
    }
    /* Not valid before the parent's state says success. */
    if (comm->child_out != NULL) *comm->child_out = comm->child;
    comm->child = NULL;
    comm->child_out = NULL;
}

static void end_job(struct ncclComm *comm)
{
    enum job job = comm->job;

    comm->job = JOB_NONE;
    if (comm->late != ncclSuccess) {
        comm->async = comm->late;
        say(comm, "an error that a rule asked for");
        drop_works(comm);
        return;
    }
    switch (job) {
    case JOB_INIT: comm->state = STATE_READY; break;
    case JOB_LAUNCH: launch_works(comm); break;
    case JOB_CHILD: end_child(comm); break;
    case JOB_REVOKE:
        drop_works(comm);
        comm->state = STATE_REVOKED;
        comm->async = ncclSuccess;
        comm->told = false;
        break;
    case JOB_FINALIZE: comm->state = STATE_FINALIZED; break;
    case JOB_NONE:
    case JOB_WINDOW: break;
    }
}

void poll_job(struct ncclComm *comm)
{
    if (comm->job == JOB_NONE) return;
    if (comm->job_never && !driver->released()) return;
    if (comm->polls > 0) {
        comm->polls--;
        return;
    }
    if (comm->late != ncclSuccess || can_end(comm)) end_job(comm);
}

/* Does not block; on success it joins the thread that has run the group
 * (2.28.9, src/init.cc). */
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *asyncError)
{
    struct call call;

    if (!enter(&call, "ncclCommGetAsyncError", comm,
               ALLOW_BUSY | ALLOW_FAILED | ALLOW_NO_CONTEXT | ALLOW_REVOKED |
                   ALLOW_FINALIZED)) {
        return call.code;
    }
    driver->poll();
    poll_job(comm);
    *asyncError = is_busy(comm) ? ncclInProgress : comm->async;
    comm->told = !is_busy(comm) && comm->async != ncclSuccess;
    return leave(&call, ncclSuccess);
}

/* ---- what needs no communicator ------------------------------------------
 */

ncclResult_t ncclGetVersion(int *version)
{
    if (version == NULL) return ncclInvalidArgument;
    *version = FAKE_NCCL_VERSION;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    switch ((int)result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled CUDA error";
    case ncclSystemError: return "unhandled system error";
    case ncclInternalError: return "internal error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or network error";
    case ncclInProgress: return "operation in progress";
    case RESULT_TIMEOUT:
        return FAKE_NCCL_VERSION >= 23003 ? "timeout" : "unknown result code";
    default: return "unknown result code";
    }
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return is_comm(comm) ? comm->text : "";
}

#if FAKE_NCCL_VERSION >= 21901
/* Memory of cuMemCreate's kind, shareable (2.19, src/allocator.cc). Waits for
 * the device, as every allocation may. */
ncclResult_t ncclMemAlloc(void **ptr, size_t size)
{
    struct call call;
    uint64_t at = 0;
    CUresult code;

    if (!enter(&call, "ncclMemAlloc", NULL, ALLOW_NO_COMM)) return call.code;
    driver->counts()->allocating_calls++;
    if (driver->sealed()) {
        return leave(&call,
                     refuse(&call, ncclInvalidUsage, "allocates after init"));
    }
    code = driver->allocate(&at, size);
    if (code != CUDA_SUCCESS) return leave(&call, ncclUnhandledCudaError);
    *ptr = (void *)(uintptr_t)at;
    return leave(&call, ncclSuccess);
}

ncclResult_t ncclMemFree(void *ptr)
{
    struct call call;

    if (!enter(&call, "ncclMemFree", NULL, ALLOW_NO_COMM)) return call.code;
    driver->counts()->allocating_calls++;
    if (driver->sealed()) {
        return leave(&call,
                     refuse(&call, ncclInvalidUsage, "frees after init"));
    }
    if (driver->pending() > 0) {
        (void)refuse(&call, ncclInvalidUsage,
                     "waits for the device, where work is pending");
    }
    if (driver->release((uint64_t)(uintptr_t)ptr) != CUDA_SUCCESS) {
        return leave(&call, ncclUnhandledCudaError);
    }
    return leave(&call, ncclSuccess);
}

#endif

/* ---- for tests -----------------------------------------------------------
 */

static void reset(void)
{
    if (cuda() == NULL) return;
    driver->lock();
    reset_works();
    reset_comms();
    memset(groups, 0, sizeof groups);
    depth = 0;
    driver->unlock();
}

static int version(void)
{
    return FAKE_NCCL_VERSION;
}

static uint32_t fail(int rank, int code)
{
    uint32_t count = 0;

    driver->lock();
    for (uint32_t i = 0; i < COMMS_MAX; i++) {
        struct ncclComm *comm = comm_at(i);

        if (comm->state == STATE_NONE || comm->state == STATE_GONE ||
            comm->rank != rank) {
            continue;
        }
        comm->async = (ncclResult_t)code;
        say(comm, "an error that a test asked for");
        count++;
    }
    driver->unlock();
    return count;
}

static uint32_t lose(int rank)
{
    struct fake_world *world = driver->world();
    uint32_t count = 0;

    driver->lock();
    for (uint32_t i = 0; i < FAKE_CLIQUES_MAX; i++) {
        struct fake_clique *clique = &world->cliques[i];

        if (clique->key == 0 || clique->members[rank].presence != FAKE_JOINED) {
            continue;
        }
        FAKE_STORE(clique->members[rank].presence, (uint32_t)FAKE_LOST);
        count++;
    }
    driver->unlock();
    return count;
}

static void hand_over(void *comm)
{
    driver->lock();
    if (is_comm(comm)) ((struct ncclComm *)comm)->owner = pthread_self();
    driver->unlock();
}

static const struct fake_nccl table = {
    .layout = FAKE_LAYOUT,
    .reset = reset,
    .version = version,
    .group_depth = group_depth,
    .fail = fail,
    .lose = lose,
    .hand_over = hand_over,
};

const struct fake_nccl *fake_nccl(void)
{
    return &table;
}
