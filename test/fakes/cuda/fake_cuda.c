/* Cleat: a CUDA driver without a GPU: what every call has in common.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "fake_cuda.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct fake_world *shared;
static pthread_mutex_t local = PTHREAD_MUTEX_INITIALIZER;
static pid_t self_pid;
static uint32_t self;
static bool sealed;

/* How often each rule's call was made in this process. */
static struct {
    uint32_t serial;
    uint32_t calls;
} made[FAKE_RULES_MAX];

static struct {
    CUresult code;   /* CUDA_SUCCESS: the context is whole */
    bool told;       /* a call has returned it */
    uint64_t number; /* among all that were */
} sticky[DEVICES_MAX];
static uint64_t stickies;

/* The number of the one that the thread was told of. */
static _Thread_local __attribute__((tls_model("initial-exec")))
uint64_t told[DEVICES_MAX];

/* ---- the world -----------------------------------------------------------
 */

__attribute__((constructor)) static void begin(void)
{
    const char *why = NULL;

    shared = fake_world_open(getenv("FAKE_GPU_WORLD"), getenv("FAKE_GPU"),
                             &why);
    if (shared == NULL) {
        (void)fprintf(stderr, "fake libcuda: no world: %s\n", why);
        abort();
    }
}

static void lock(void)
{
    pid_t pid;

    (void)pthread_mutex_lock(&local);
    pid = getpid();
    if (pid != self_pid) { /* the first call, or the first after fork() */
        fake_world_lock(shared);
        self = fake_world_join(shared);
        fake_world_unlock(shared);
        self_pid = pid;
    }
}

static void unlock(void)
{
    (void)pthread_mutex_unlock(&local);
}

struct fake_world *world(void)
{
    return shared;
}

struct fake_settings *settings(void)
{
    return &shared->settings;
}

static uint32_t process(void)
{
    return self;
}

struct fake_counts *counts(void)
{
    return &shared->processes[self].counts;
}

int64_t *used_of(int device)
{
    return &shared->processes[self].used[device];
}

bool released(void)
{
    return FAKE_LOAD(shared->processes[self].released) != 0;
}

void misuse(const char *call, const char *format, ...)
{
    va_list arguments;
    char text[300];

    counts()->misuses++;
    if (settings()->lenient != 0) return;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    (void)fprintf(stderr, "fake GPU: %s: %s\n", call, text);
    unlock(); /* others go on */
    abort();
}

/* ---- rules ---------------------------------------------------------------
 */

static bool applies(const struct fake_rule *rule, const char *call)
{
    const struct fake_process *here = &shared->processes[self];

    if (FAKE_LOAD(rule->serial) == 0 || strcmp(rule->call, call) != 0)
        return false;
    if (rule->process != FAKE_ANY && (uint32_t)rule->process != here->number) {
        return false;
    }
    return rule->rank == FAKE_ANY || rule->rank == here->rank;
}

static bool fires(uint32_t index, const char *call)
{
    const struct fake_rule *rule = &shared->rules[index];

    if (!applies(rule, call)) return false;
    if (made[index].serial != rule->serial) {
        made[index].serial = rule->serial;
        made[index].calls = 0;
    }
    made[index].calls++;
    if (made[index].calls < rule->first) return false;
    return rule->times == 0 || made[index].calls - rule->first < rule->times;
}

/* Others go on meanwhile. */
static void hang(uint64_t milliseconds)
{
    const struct timespec millisecond = {0, 1000000};
    uint64_t waited = 0;

    while (!released() && (milliseconds == 0 || waited < milliseconds)) {
        unlock();
        (void)nanosleep(&millisecond, NULL);
        waited++;
        lock();
    }
}

static struct fake_hit rule_for(const char *call)
{
    struct fake_hit hit = {FAKE_NOTHING, 0};

    for (uint32_t i = 0; i < FAKE_RULES_MAX; i++) {
        if (!fires(i, call)) continue;
        counts()->rules_fired++;
        if (shared->rules[i].action == FAKE_KILL) (void)raise(SIGKILL);
        if (shared->rules[i].action == FAKE_STOP) {
            unlock(); /* a stopped process holds up nobody but its peers */
            (void)raise(SIGSTOP);
            lock();
            continue;
        }
        if (shared->rules[i].action == FAKE_HANG) {
            hang(shared->rules[i].value);
            continue;
        }
        hit.action = shared->rules[i].action;
        hit.value = shared->rules[i].value;
    }
    return hit;
}

/* ---- sticky errors -------------------------------------------------------
 */

/* After the first twelve cuda.h says that the process is left in an
 * inconsistent state, that any further CUDA work returns the same error, and
 * that it "must be terminated and relaunched". The last seven are as final for
 * whoever meets them. */
bool is_sticky(CUresult code)
{
    switch ((int)code) {
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_TENSOR_MEMORY_LEAK:
    case CUDA_ERROR_MPS_CLIENT_TERMINATED:
    case CUDA_ERROR_EXTERNAL_DEVICE:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_INVALID_CONTEXT:
    case CUDA_ERROR_DEINITIALIZED:
    case CUDA_ERROR_UNKNOWN: return true;
    default: return false;
    }
}

void corrupt(int device, CUresult code)
{
    if (device >= 0 && sticky[device].code == CUDA_SUCCESS) {
        sticky[device].code = code;
        sticky[device].number = ++stickies;
    }
}

static void tell(int device)
{
    sticky[device].told = true;
    told[device] = sticky[device].number;
}

bool is_corrupt(int device)
{
    return device >= 0 && sticky[device].code != CUDA_SUCCESS;
}

static uint64_t is_lost(bool *heard)
{
    int device = current_device();

    *heard = false;
    if (device < 0 || !sticky[device].told) return 0;
    *heard = told[device] == sticky[device].number;
    return sticky[device].number;
}

/* cuda.h: a call may return errors of earlier, asynchronous launches. So the
 * first call after one returns it, in each thread, for one may be on its way
 * into the driver when another is told; whoever calls once more has not
 * understood it. */
static bool meets_sticky(struct call *call)
{
    int device = current_device();

    if (!is_corrupt(device)) return false;
    if (told[device] == sticky[device].number) {
        misuse(call->name, "called after the context was lost (error %d)",
               (int)sticky[device].code);
    }
    tell(device);
    call->code = sticky[device].code;
    return true;
}

static bool is_failed(struct call *call)
{
    int device = current_device();

    call->hit = rule_for(call->name);
    if (call->hit.action != FAKE_FAIL) return false;
    call->code = (CUresult)call->hit.value;
    if (device >= 0 && is_sticky(call->code)) {
        corrupt(device, call->code);
        tell(device);
    }
    return true;
}

/* ---- entry and exit ------------------------------------------------------
 */

static bool has_needs(struct call *call, enum need need)
{
    if (need >= NEED_INIT && !is_initialised()) {
        call->code = CUDA_ERROR_NOT_INITIALIZED;
        return false;
    }
    /* cuda.h, CUDA_ERROR_INVALID_CONTEXT: no context is bound to the thread. */
    if (need == NEED_CONTEXT && current_device() < 0) {
        counts()->no_context++;
        call->code = CUDA_ERROR_INVALID_CONTEXT;
        return false;
    }
    return need == NEED_NOTHING || !meets_sticky(call);
}

bool enter(struct call *call, const char *name, enum need need)
{
    if (is_in_host_function()) {
        misuse(name, "called in a host function, where no call may be made");
        call->code = CUDA_ERROR_NOT_PERMITTED;
        return false;
    }
    lock();
    call->name = name;
    call->code = CUDA_SUCCESS;
    counts()->calls++;
    if (has_needs(call, need) && !is_failed(call)) return true;
    unlock();
    return false;
}

CUresult spoiled(const struct call *call, void *out, uint64_t bytes)
{
    if (out != NULL) memset(out, FAKE_GARBAGE, bytes);
    return call->code;
}

bool enter_allocating(struct call *call, const char *name, enum need need)
{
    if (!enter(call, name, need)) return false;
    if (capture_forbids(call)) {
        unlock();
        return false;
    }
    counts()->allocating_calls++;
    if (sealed) misuse(name, "allocates or frees after init");
    return true;
}

CUresult leave(struct call *call, CUresult code)
{
    (void)call;
    unlock();
    return code;
}

/* ---- the table -----------------------------------------------------------
 */

static bool is_sealed(void)
{
    return sealed;
}

static void set_sealed(bool value)
{
    lock();
    sealed = value;
    unlock();
}

static void reset(void)
{
    lock();
    reset_streams();
    reset_memory();
    reset_devices();
    memset(sticky, 0, sizeof sticky);
    memset(made, 0, sizeof made);
    sealed = false;
    fake_world_lock(shared);
    fake_world_reset(shared);
    fake_world_unlock(shared);
    unlock();
}

static const struct fake_cuda table = {
    .layout = FAKE_LAYOUT,
    .world = world,
    .lock = lock,
    .unlock = unlock,
    .process = process,
    .counts = counts,
    .rule = rule_for,
    .device = current_device,
    .lost = is_lost,
    .stream_device = stream_device,
    .enqueue = enqueue_work,
    .take_off = take_off,
    .blocked = is_blocked,
    .hold = hold,
    .memory = memory_of,
    .before_free = ask_before_free,
    .allocate = allocate_virtual,
    .release = release_virtual,
    .sealed = is_sealed,
    .poll = poll,
    .released = released,
    .misuse = misuse,
    .bus_id = bus_id,
    .reset = reset,
    .seal = set_sealed,
    .pump = pump,
    .streams = busy_streams,
    .step = step_stream,
    .choose = choose_with,
    .now = now,
    .tick = tick,
    .pending = pending,
};

const struct fake_cuda *fake_cuda(void)
{
    return &table;
}
