/* Cleat: a device, its owner and its reaper. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "engine.h"

#include <signal.h>
#include <string.h>
#include <time.h>

#include "check.h"

/* How long the owner sleeps between two looks at what does not tell of itself:
 * at first, and at last. */
#define LOOK_NS_MIN (20 * CLEAT_NS_PER_US)
#define LOOK_NS_MAX (CLEAT_NS_PER_MS)
/* At last while a bucket is on its way: 512 MiB cross NVLink in about 1.3 ms,
 * and what is seen late is time that the next one does not have. */
#define LOOK_NS_MOVING (50 * CLEAT_NS_PER_US)
/* The libraries' first calls. */
#define START_NS_DEFAULT (20 * CLEAT_NS_PER_S)
/* Nobody sleeps for longer without looking at the clock. */
#define SLEEP_NS_MAX (CLEAT_NS_PER_S)

uint64_t nccl_now_ns(void)
{
    struct timespec now = {0, 0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

void nccl_lock(struct nccl_engine *engine)
{
    (void)pthread_mutex_lock(&engine->lock);
}

void nccl_unlock(struct nccl_engine *engine)
{
    (void)pthread_mutex_unlock(&engine->lock);
}

/* One of our threads is outside of the libraries, and looks once in
 * SLEEP_NS_MAX at least. So when nobody has for much longer, the process was
 * stopped. */
uint64_t nccl_time(struct nccl_engine *engine)
{
    uint64_t now_ns = nccl_now_ns();
    uint64_t gap_ns = now_ns - engine->seen_ns;

    if (engine->seen_ns != 0 && gap_ns > 2 * SLEEP_NS_MAX) {
        cleat_nccl_stop_forgive(&engine->stop, gap_ns);
    }
    engine->seen_ns = now_ns;
    return now_ns;
}

void *nccl_place(const struct nccl_engine *engine, uint32_t slot)
{
    return engine->config.on_device == 0
               ? cleat_cuda_staging(engine->cuda, slot)
               : (void *)(uintptr_t)cleat_cuda_slot(engine->cuda, slot);
}

void nccl_changed(struct nccl_engine *engine)
{
    (void)pthread_cond_broadcast(&engine->changed);
}

bool nccl_is_lost(const struct nccl_engine *engine)
{
    return engine->stop.state == CLEAT_NCCL_LOST;
}

bool nccl_is_healthy(const struct nccl_engine *engine)
{
    return engine->stop.state == CLEAT_NCCL_HEALTHY &&
           engine->stop.epoch == engine->group.epoch;
}

/* The machine may have moved: what follows from it. Once a group has been
 * formed, the libraries have loaded and started what they need. */
static void follow(struct nccl_engine *engine, uint8_t before)
{
    if (engine->stop.state == before) { return; }
    if (engine->stop.state == CLEAT_NCCL_HEALTHY) {
        cleat_nccl_stop_pace(&engine->stop, engine->config.call_ns);
    }
    if (nccl_is_lost(engine)) { cleat_cuda_lose(engine->cuda); }
    if (engine->wakes != NULL) { engine->wakes->wake(engine->wakes->context); }
    nccl_changed(engine);
}

void nccl_tick(struct nccl_engine *engine)
{
    uint8_t before = engine->stop.state;

    (void)cleat_nccl_stop_tick(&engine->stop, nccl_time(engine));
    follow(engine, before);
}

struct nccl_op *nccl_op_at(struct nccl_engine *engine, uint32_t bucket)
{
    return &engine->ops[bucket % engine->config.slots_count];
}

static void sleep_until(struct nccl_engine *engine, uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / CLEAT_NS_PER_S),
                             .tv_nsec = (long)(until_ns % CLEAT_NS_PER_S)};

    (void)pthread_cond_timedwait(&engine->changed, &engine->lock, &until);
}

static uint64_t earlier(uint64_t a_ns, uint64_t b_ns)
{
    return a_ns < b_ns ? a_ns : b_ns;
}

/* A call that goes in tells nobody that it has a deadline: who sleeps for no
 * longer than such a call may take looks again before it comes. */
uint64_t nccl_look_ns(const struct nccl_engine *engine, uint64_t now_ns)
{
    uint64_t most_ns = earlier(SLEEP_NS_MAX, engine->stop.config.call_ns);

    return earlier(cleat_time_add(now_ns, most_ns),
                   cleat_nccl_stop_deadline(&engine->stop));
}

bool nccl_wait(struct nccl_engine *engine, uint64_t deadline_ns)
{
    uint64_t now_ns = nccl_now_ns();

    if (now_ns >= deadline_ns) { return false; }
    sleep_until(engine, earlier(deadline_ns, nccl_look_ns(engine, now_ns)));
    nccl_tick(engine);
    return true;
}

void nccl_stop(struct nccl_engine *engine, enum cleat_status why)
{
    uint8_t before = engine->stop.state;

    (void)cleat_nccl_stop_ask(&engine->stop, nccl_time(engine), why);
    follow(engine, before);
    nccl_changed(engine); /* the owner has something to do */
}

void nccl_told_of_work(struct nccl_engine *engine, enum cleat_status status)
{
    uint8_t before = engine->stop.state;

    (void)cleat_nccl_stop_told(&engine->stop, nccl_time(engine),
                               CLEAT_NCCL_WORK, status, 0);
    follow(engine, before);
}

static void forget(struct nccl_engine *engine)
{
    memset(engine->ops, 0, sizeof engine->ops);
    engine->first = 0;
    engine->next = 0;
}

/* How far the group is whose building has begun. */
static enum cleat_status formed(const struct nccl_engine *engine)
{
    if (engine->stop.state == CLEAT_NCCL_HEALTHY) { return CLEAT_OK; }
    if (engine->stop.state == CLEAT_NCCL_BUILDING) { return CLEAT_PENDING; }
    if (engine->stop.why == CLEAT_DEADLINE) { return CLEAT_DEADLINE; }
    return engine->built.registers != 0 && !nccl_can_register(engine)
               ? CLEAT_UNSUPPORTED
               : CLEAT_GROUP_FAILED;
}

enum cleat_status nccl_form(struct nccl_engine *engine, uint64_t deadline_ns)
{
    enum cleat_status status;

    nccl_tick(engine);
    if (nccl_is_lost(engine)) { return CLEAT_DEVICE_LOST; }
    if (engine->stop.epoch == engine->group.epoch) {
        status = formed(engine);
        /* A call after a wake may have an earlier deadline than the first. */
        if (status == CLEAT_PENDING && nccl_now_ns() >= deadline_ns) {
            nccl_stop(engine, CLEAT_DEADLINE);
            status = CLEAT_DEADLINE;
        }
        return status;
    }
    if (nccl_now_ns() >= deadline_ns) { return CLEAT_DEADLINE; }
    if (engine->stop.state != CLEAT_NCCL_QUIESCED) {
        nccl_stop(engine, CLEAT_GROUP_FAILED);
        return CLEAT_PENDING;
    }
    forget(engine);
    status = cleat_nccl_stop_build(&engine->stop, nccl_time(engine),
                                   engine->group.epoch, deadline_ns);
    if (status != CLEAT_OK) { return status; }
    engine->built = engine->group;
    nccl_changed(engine);
    return CLEAT_PENDING;
}

bool nccl_take_wake(struct nccl_engine *engine)
{
    bool woken = engine->woken;

    engine->woken = false;
    return woken;
}

bool nccl_can_register(const struct nccl_engine *engine)
{
    return engine->slots_can_register &&
           engine->nccl.p_ncclCommRegister != NULL &&
           __atomic_load_n(&engine->refuses, __ATOMIC_ACQUIRE) == 0;
}

/* ---- the calls that the machine commands ---- */

static enum cleat_status noted(struct nccl_engine *engine, ncclResult_t result)
{
    enum cleat_status status = nccl_meaning(result);

    if (status < CLEAT_OK) {
        __atomic_store_n(&engine->code, (int32_t)result, __ATOMIC_RELAXED);
    }
    return status;
}

static enum cleat_status call_drain(struct nccl_engine *engine)
{
    enum cleat_status status = CLEAT_OK;

    for (uint32_t i = 0; i < NCCL_STREAMS && status == CLEAT_OK; i++) {
        status = cleat_cuda_idle(engine->cuda, i);
    }
    return status;
}

enum cleat_status nccl_judge(struct nccl_engine *engine, ncclResult_t result)
{
    enum cleat_status status = noted(engine, result);

    /* NCCL does not say which error of CUDA's it was, and an abort in a broken
     * context hangs. */
    if (result == ncclUnhandledCudaError &&
        call_drain(engine) == CLEAT_DEVICE_LOST) {
        return CLEAT_DEVICE_LOST;
    }
    return status;
}

static enum cleat_status call_init(struct nccl_engine *engine)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;

    config.blocking = 0;
    engine->comm = NULL;
    return nccl_judge(engine,
                      engine->nccl.p_ncclCommInitRankConfig(
                          &engine->comm, (int)engine->built.ranks,
                          engine->built.id, (int)engine->built.rank, &config));
}

/* All slots at once: they lie side by side. On an error the group is not
 * formed, for NCCL wants the buffers of all ranks registered or of none. What
 * is registered stays so until the abort, which ends it. */
static enum cleat_status register_slots(struct nccl_engine *engine)
{
    uint32_t last = engine->config.slots_count - 1;
    uint64_t from = cleat_cuda_slot(engine->cuda, 0);
    uint64_t bytes = cleat_cuda_slot(engine->cuda, last) - from +
                     engine->config.bucket_bytes;
    void *handle = NULL;
    ncclResult_t result = engine->nccl.p_ncclCommRegister(
        engine->comm, (void *)(uintptr_t)from, (size_t)bytes, &handle);

    if (result != ncclSuccess) {
        __atomic_store_n(&engine->refuses, 1u, __ATOMIC_RELEASE);
        return nccl_judge(engine, result == ncclInProgress ? ncclInternalError
                                                           : result);
    }
    return CLEAT_OK;
}

static enum cleat_status call_poll(struct nccl_engine *engine)
{
    ncclResult_t state = ncclInProgress;
    ncclResult_t result;

    if (engine->comm == NULL) { return CLEAT_GROUP_FAILED; }
    result = engine->nccl.p_ncclCommGetAsyncError(engine->comm, &state);
    return nccl_judge(engine, result != ncclSuccess ? result : state);
}

/* Asks for the communicator that is being made; when it is ready, the slots are
 * registered, before anybody is told. */
static enum cleat_status call_poll_forming(struct nccl_engine *engine)
{
    enum cleat_status status = call_poll(engine);

    if (status != CLEAT_OK || engine->built.registers == 0) { return status; }
    return nccl_may_call(&engine->nccl) ? register_slots(engine)
                                        : CLEAT_DEVICE_LOST;
}

static enum cleat_status call_revoke(struct nccl_engine *engine)
{
    if (engine->comm == NULL) { return CLEAT_GROUP_FAILED; }
    return nccl_judge(engine, engine->nccl.p_ncclCommRevoke(
                                  engine->comm, NCCL_REVOKE_DEFAULT));
}

static enum cleat_status make_call(struct nccl_engine *engine,
                                   enum cleat_nccl_call call, bool forming,
                                   uint32_t *depth)
{
    switch (call) {
    case CLEAT_NCCL_INIT: return call_init(engine);
    case CLEAT_NCCL_POLL:
        return forming ? call_poll_forming(engine) : call_poll(engine);
    case CLEAT_NCCL_REVOKE: return call_revoke(engine);
    case CLEAT_NCCL_DRAIN: return call_drain(engine);
    default:
        NCCL_ASSERT(call == CLEAT_NCCL_UNWIND);
        *depth = nccl_unwind(&engine->nccl);
        return CLEAT_OK;
    }
}

/* Carries out the machine's next command; false when there is none. *again is
 * false when it was a question whose answer was "not yet". */
static bool obey(struct nccl_engine *engine, bool *again)
{
    struct cleat_nccl_stop_command command;
    enum cleat_status status;
    uint32_t depth = 0;
    uint8_t before = engine->stop.state;
    bool forming;

    if (cleat_nccl_stop_next(&engine->stop, nccl_time(engine), &command) !=
        CLEAT_OK) {
        follow(engine, before);
        return false;
    }
    follow(engine, before);
    if (command.call == CLEAT_NCCL_ABORT) {
        engine->reap = true;
        nccl_changed(engine);
        return true;
    }
    forming = engine->stop.state == CLEAT_NCCL_BUILDING;
    nccl_unlock(engine);
    status = make_call(engine, command.call, forming, &depth);
    nccl_lock(engine);
    before = engine->stop.state;
    (void)cleat_nccl_stop_told(&engine->stop, nccl_time(engine), command.call,
                               status, depth);
    follow(engine, before);
    *again = status != CLEAT_PENDING;
    return true;
}

/* Makes an id when one is wanted; false when nothing was done. */
static bool make_id(struct nccl_engine *engine)
{
    uint8_t before = engine->stop.state;
    enum cleat_status status;
    ncclUniqueId id;

    if (!engine->id_wanted) { return false; }
    status = cleat_nccl_stop_enter(&engine->stop, nccl_time(engine),
                                   CLEAT_NCCL_ID);
    follow(engine, before);
    if (status == CLEAT_STATE) { return false; }
    if (status == CLEAT_OK) {
        nccl_unlock(engine);
        status = noted(engine, engine->nccl.p_ncclGetUniqueId(&id));
        nccl_lock(engine);
        before = engine->stop.state;
        (void)cleat_nccl_stop_told(&engine->stop, nccl_time(engine),
                                   CLEAT_NCCL_ID, status, 0);
        follow(engine, before);
    }
    engine->id_wanted = false;
    engine->id_status = status;
    if (status == CLEAT_OK) {
        engine->id_made = id;
        engine->id_ready = true;
    }
    nccl_changed(engine);
    return true;
}

/* ---- the threads ---- */

/* NCCL takes the device from the thread's context. Returns with the lock. */
static void begin_thread(struct nccl_engine *engine)
{
    enum cleat_status status = cleat_cuda_serve(engine->cuda);
    uint8_t before;

    nccl_lock(engine);
    before = engine->stop.state;
    if (status != CLEAT_OK) {
        (void)cleat_nccl_stop_lose(&engine->stop, nccl_time(engine),
                                   CLEAT_DEVICE_LOST);
    }
    follow(engine, before);
}

static void *owner_main(void *argument)
{
    struct nccl_engine *engine = argument;
    uint64_t look_ns = LOOK_NS_MIN;

    begin_thread(engine);
    while (!engine->closing) {
        bool again = true;
        bool did = obey(engine, &again);

        did = make_id(engine) || did;
        did = nccl_work(engine) || did;
        if (did && again) {
            look_ns = LOOK_NS_MIN;
            continue;
        }
        if (did || nccl_is_working(engine)) {
            sleep_until(engine, nccl_now_ns() + look_ns);
            look_ns = earlier(2 * look_ns, nccl_is_moving(engine)
                                               ? LOOK_NS_MOVING
                                               : LOOK_NS_MAX);
        } else {
            look_ns = LOOK_NS_MIN;
            (void)nccl_wait(engine, CLEAT_NEVER);
        }
    }
    nccl_unlock(engine);
    return NULL;
}

/* Aborts every communicator of the device in one group, where the library can;
 * there is one. Returns how many groups were left open on this thread. */
static enum cleat_status call_abort(struct nccl_engine *engine, uint32_t *depth)
{
    const struct nccl_library *library = &engine->nccl;
    bool grouped = library->version >= CLEAT_NCCL_GROUP_ABORT;
    ncclResult_t result = ncclSuccess;
    ncclResult_t ended = ncclSuccess;

    if (engine->comm == NULL) { return CLEAT_OK; }
    if (grouped) { result = library->p_ncclGroupStart(); }
    if (result == ncclSuccess) {
        if (!nccl_may_call(library)) { return CLEAT_DEVICE_LOST; }
        result = library->p_ncclCommAbort(engine->comm);
        if (grouped && nccl_may_call(library)) {
            ended = library->p_ncclGroupEnd();
        }
    }
    engine->comm = NULL; /* gone, whatever was returned */
    if (result == ncclSuccess) { result = ended; }
    if (result != ncclSuccess) { *depth = nccl_unwind(library); }
    return noted(engine, result);
}

static void *reaper_main(void *argument)
{
    struct nccl_engine *engine = argument;

    begin_thread(engine);
    while (!engine->closing) {
        if (engine->reap) {
            uint32_t depth = 0;
            uint8_t before;
            enum cleat_status status;

            engine->reap = false;
            nccl_unlock(engine);
            status = call_abort(engine, &depth);
            nccl_lock(engine);
            engine->leaks = engine->leaks || status != CLEAT_OK;
            before = engine->stop.state;
            (void)cleat_nccl_stop_told(&engine->stop, nccl_time(engine),
                                       CLEAT_NCCL_ABORT, status, depth);
            follow(engine, before);
        } else {
            (void)nccl_wait(engine, CLEAT_NEVER);
        }
    }
    nccl_unlock(engine);
    return NULL;
}

/* A thread with every signal blocked, so that the host's handlers run on the
 * host's threads; but those that tell of a fault of the thread's own, which
 * blocked would end the process without a word. NCCL's threads inherit it. */
static int start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    sigset_t all;
    sigset_t before;
    int code;

    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGBUS);
    (void)sigdelset(&all, SIGFPE);
    (void)sigdelset(&all, SIGILL);
    (void)sigdelset(&all, SIGSEGV);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(thread, NULL, run, argument);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

/* ---- open and close ---- */

static enum cleat_status with_defaults(struct cleat_nccl_config *config,
                                       struct cleat_error *error)
{
    if (config->bucket_bytes == 0) {
        config->bucket_bytes = CLEAT_NCCL_BUCKET_BYTES_DEFAULT;
    }
    if (config->slots_count == 0) {
        config->slots_count = CLEAT_NCCL_SLOTS_DEFAULT;
    }
    if (config->receivers_max == 0) {
        config->receivers_max = CLEAT_NCCL_RECEIVERS_DEFAULT;
    }
    if (config->bucket_ns == 0) { config->bucket_ns = 10 * CLEAT_NS_PER_S; }
    if (config->call_ns == 0) { config->call_ns = CLEAT_NCCL_CALL_NS_DEFAULT; }
    if (config->start_ns == 0) { config->start_ns = START_NS_DEFAULT; }
    if (config->slots_count > CLEAT_NCCL_SLOTS_MAX ||
        config->receivers_max > CLEAT_NCCL_RECEIVERS_MAX ||
        config->topology > CLEAT_NCCL_FAN_OUT || config->on_device > 1 ||
        config->register_slots > CLEAT_NCCL_REGISTER_NEVER ||
        config->bucket_bytes > UINT64_C(1) << 40) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "nccl: at most 8 slots of 1 TiB and 64 "
                               "receivers; a topology and a way to register "
                               "of the list");
    }
    return CLEAT_OK;
}

static struct cleat_cuda_config
device_config(const struct cleat_nccl_config *config)
{
    struct cleat_cuda_config cuda;

    memset(&cuda, 0, sizeof cuda);
    cuda.lib_path = config->cuda_library;
    cuda.device = config->device;
    cuda.streams_count = NCCL_STREAMS;
    cuda.events_count = 2 * config->slots_count;
    cuda.slots_count = config->slots_count;
    cuda.staging_count = config->on_device == 0 ? config->slots_count : 0;
    cuda.slot_bytes = config->bucket_bytes;
    cuda.staging_bytes = config->bucket_bytes;
    return cuda;
}

/* NCCL registers memory of cuMemCreate; that of cuMemAlloc only when its
 * environment says so, and then it may hang in an abort. So the slots are of
 * the first kind, where the device has it. */
static enum cleat_status open_device(struct nccl_engine *engine,
                                     struct cleat_error *error)
{
    struct cleat_cuda_config cuda = device_config(&engine->config);
    enum cleat_status status;

    cuda.shareable = engine->config.register_slots != CLEAT_NCCL_REGISTER_NEVER;
    status = cleat_cuda_open(engine->cuda_block, sizeof engine->cuda_block,
                             &cuda, &engine->cuda, error);
    if (cuda.shareable != 0 &&
        (status == CLEAT_UNSUPPORTED || status == CLEAT_PERMANENT)) {
        cuda.shareable = 0;
        status = cleat_cuda_open(engine->cuda_block, sizeof engine->cuda_block,
                                 &cuda, &engine->cuda, error);
    }
    engine->slots_can_register = cuda.shareable != 0;
    engine->nccl.cuda = engine->cuda;
    return status;
}

static void init_machine(struct nccl_engine *engine)
{
    struct cleat_nccl_stop_config config;

    memset(&config, 0, sizeof config);
    config.call_ns = engine->config.start_ns > engine->config.call_ns
                         ? engine->config.start_ns
                         : engine->config.call_ns;
    config.revoke_ns = engine->config.revoke_ns;
    config.abort_ns = engine->config.abort_ns;
    config.drain_ns = engine->config.drain_ns;
    config.builds_max = engine->config.builds_max;
    config.can_revoke = engine->nccl.p_ncclCommRevoke != NULL;
    (void)cleat_nccl_stop_init(&engine->stop, &config);
}

static void make_lock(struct nccl_engine *engine)
{
    pthread_condattr_t attributes;

    (void)pthread_mutex_init(&engine->lock, NULL);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&engine->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

static void end_threads(struct nccl_engine *engine, bool owner, bool reaper)
{
    nccl_lock(engine);
    engine->closing = true;
    nccl_changed(engine);
    nccl_unlock(engine);
    if (owner) { (void)pthread_join(engine->owner, NULL); }
    if (reaper) { (void)pthread_join(engine->reaper, NULL); }
    (void)pthread_cond_destroy(&engine->changed);
    (void)pthread_mutex_destroy(&engine->lock);
}

static enum cleat_status start_threads(struct nccl_engine *engine,
                                       struct cleat_error *error)
{
    int code;

    make_lock(engine);
    code = start(&engine->owner, owner_main, engine);
    if (code == 0) {
        code = start(&engine->reaper, reaper_main, engine);
        if (code == 0) { return CLEAT_OK; }
        end_threads(engine, true, false);
    } else {
        end_threads(engine, false, false);
    }
    return nccl_refuse(error, CLEAT_IO, 0, 0, code,
                       "nccl: the system gives no thread (%d)", code);
}

enum cleat_status nccl_engine_open(struct nccl_engine *engine,
                                   const struct cleat_nccl_config *config,
                                   struct cleat_error *error)
{
    enum cleat_status status;

    memset(engine, 0, sizeof *engine);
    engine->config = *config;
    status = with_defaults(&engine->config, error);
    if (status != CLEAT_OK) { return status; }
    status = nccl_library_load(&engine->nccl, config->nccl_library, error);
    if (status != CLEAT_OK) { return status; }
    status = open_device(engine, error);
    if (status != CLEAT_OK) { return status; }
    init_machine(engine);
    status = start_threads(engine, error);
    if (status != CLEAT_OK) { (void)cleat_cuda_close(engine->cuda); }
    return status;
}

/* Leaves the group, as long as that takes. */
static bool leaves(struct nccl_engine *engine)
{
    while (!nccl_is_lost(engine) && engine->stop.state != CLEAT_NCCL_QUIESCED) {
        nccl_stop(engine, CLEAT_CANCELLED);
        (void)nccl_wait(engine, CLEAT_NEVER);
    }
    /* A call that is inside comes back, or its deadline does. */
    while (!nccl_is_lost(engine) && engine->stop.inside != CLEAT_NCCL_NOTHING) {
        (void)nccl_wait(engine, CLEAT_NEVER);
    }
    return !nccl_is_lost(engine);
}

enum cleat_status nccl_engine_close(struct nccl_engine *engine)
{
    bool left;

    nccl_lock(engine);
    engine->wakes = NULL;
    engine->fetches_from = NULL;
    engine->id_wanted = false;
    left = leaves(engine);
    if (!left) { engine->closing = true; }
    nccl_changed(engine);
    nccl_unlock(engine);
    if (!left) {
        /* One of them may never end. */
        (void)pthread_detach(engine->owner);
        (void)pthread_detach(engine->reaper);
        return CLEAT_DEVICE_LOST;
    }
    end_threads(engine, true, true);
    return engine->leaks ? CLEAT_DEVICE_LOST : cleat_cuda_close(engine->cuda);
}

void nccl_engine_lose(struct nccl_engine *engine)
{
    uint8_t before;

    nccl_lock(engine);
    before = engine->stop.state;
    (void)cleat_nccl_stop_lose(&engine->stop, nccl_time(engine),
                               CLEAT_DEVICE_LOST);
    follow(engine, before);
    nccl_unlock(engine);
}

void nccl_engine_account(struct nccl_engine *engine,
                         struct cleat_nccl_account *account)
{
    int32_t code = 0;

    memset(account, 0, sizeof *account);
    nccl_lock(engine);
    nccl_tick(engine);
    account->state = cleat_nccl_stop_state_name(
        (enum cleat_nccl_stop_state)engine->stop.state);
    account->why = (enum cleat_status)engine->stop.why;
    account->version = (uint32_t)engine->nccl.version;
    account->builds = engine->stop.builds;
    account->ids = engine->stop.ids;
    account->stops = engine->stop.stops;
    account->depth_leaked = engine->stop.depth_leaked;
    account->late = engine->stop.late;
    account->registered = engine->stop.state == CLEAT_NCCL_HEALTHY &&
                          engine->built.registers != 0;
    account->code = __atomic_load_n(&engine->code, __ATOMIC_RELAXED);
    if (cleat_cuda_lost(engine->cuda, &code) && code != 0) {
        account->code = code;
    }
    nccl_unlock(engine);
}
