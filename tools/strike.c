/* Cleat: strikes the faults that `--fault` asked for, in the process that they
 * are meant for. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "strike.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* How long after its deadline a late answer leaves. */
#define LATE_NS (20 * CLEAT_NS_PER_MS)

int strikes_open(struct strikes *strikes, const char *command,
                 const struct option_texts *texts, uint64_t bucket_bytes,
                 bool on_host)
{
    bool corrupts = false;

    memset(strikes, 0, sizeof *strikes);
    for (size_t i = 0; i < texts->count; i++) {
        struct strike *strike = &strikes->all[strikes->count++];
        char why[FAULT_WHY_MAX];

        if (!fault_parse(texts->items[i], &strike->fault, why)) {
            return options_fail(command, "--fault %.64s: %s", texts->items[i],
                                why);
        }
        if (!on_host && fault_changes_bucket(&strike->fault)) {
            return options_fail(command, "--fault %.64s: " FAULT_NOT_ON_HOST,
                                texts->items[i]);
        }
        atomic_init(&strike->armed, strike->fault.bucket == 0);
        corrupts = corrupts || strike->fault.kind == FAULT_CORRUPT;
    }
    if (!corrupts) { return 0; }
    strikes->spare = mmap(NULL, bucket_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (strikes->spare == MAP_FAILED) {
        strikes->spare = NULL;
        return options_fail(command, "no memory for a spare bucket");
    }
    strikes->spare_bytes = bucket_bytes;
    return 0;
}

void strikes_close(struct strikes *strikes)
{
    if (strikes->spare != NULL) {
        (void)munmap(strikes->spare, strikes->spare_bytes);
    }
    strikes->spare = NULL;
}

uint32_t strikes_hold_bucket(const struct strikes *strikes)
{
    uint32_t first = 0;

    for (uint32_t i = 0; i < strikes->count; i++) {
        uint32_t bucket = strikes->all[i].fault.bucket;

        if (bucket > 1 && (first == 0 || bucket - 1 < first)) {
            first = bucket - 1;
        }
    }
    return first;
}

/* ------------------------------------------------------- what a fault does */

static uint64_t now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

static struct timespec timespec_of(uint64_t ns)
{
    struct timespec time;

    time.tv_sec = (time_t)(ns / CLEAT_NS_PER_S);
    time.tv_nsec = (long)(ns % CLEAT_NS_PER_S);
    return time;
}

static void sleep_for(uint64_t ns)
{
    struct timespec until = timespec_of(now_ns() + ns);

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0) {
    }
}

/* Stops this process, every thread of it, and has the kernel wake it: a timer
 * goes on while its process is stopped, and SIGCONT needs no receiver. It
 * repeats, so that a first one that comes before the stop does no harm. */
static void stop_for(uint64_t ns)
{
    struct sigevent event;
    struct itimerspec times = {timespec_of(ns), timespec_of(ns)};
    timer_t timer;

    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGCONT;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) { return; }
    if (timer_settime(timer, 0, &times, NULL) == 0) { (void)raise(SIGSTOP); }
    (void)timer_delete(timer);
}

static bool repeats(enum fault_kind kind)
{
    return kind == FAULT_PERMANENT;
}

/* Is it this one's turn? If so it is struck. */
static bool takes_turn(struct strike *strike)
{
    if (repeats(strike->fault.kind)) { return true; }
    return !atomic_exchange(&strike->struck, true);
}

/* What keeps a step, or a bucket, from being done. Returns what the step fails
 * with, or CLEAT_OK. */
static enum cleat_status strike_before(struct strike *strike)
{
    switch (strike->fault.kind) {
    case FAULT_ERROR: return takes_turn(strike) ? CLEAT_TRANSIENT : CLEAT_OK;
    case FAULT_PERMANENT: return CLEAT_PERMANENT;
    case FAULT_KILL:
        if (takes_turn(strike)) { (void)raise(SIGKILL); }
        return CLEAT_OK;
    case FAULT_STOP:
        if (takes_turn(strike)) { (void)raise(SIGSTOP); }
        return CLEAT_OK;
    case FAULT_WAKE:
        if (takes_turn(strike)) { stop_for(strike->fault.ns); }
        return CLEAT_OK;
    case FAULT_SLOW:
        if (takes_turn(strike)) { sleep_for(strike->fault.ns); }
        return CLEAT_OK;
    default: return CLEAT_OK; /* strikes the answer */
    }
}

/* What happens to an answer. */
static void strike_answer(struct strike *strike,
                          const struct cleat_worker_command *command,
                          struct cleat_worker_fault *fault)
{
    uint64_t now = now_ns();

    switch (strike->fault.kind) {
    case FAULT_CORRUPT:
        if (takes_turn(strike)) { fault->corrupt = true; }
        break;
    case FAULT_LATE:
        if (takes_turn(strike)) {
            fault->delay_ns = command->deadline_ns > now
                                  ? command->deadline_ns - now + LATE_NS
                                  : LATE_NS;
        }
        break;
    case FAULT_DUPLICATE:
        if (takes_turn(strike)) { fault->duplicate = true; }
        break;
    case FAULT_LOST_ANSWER:
        if (takes_turn(strike)) { fault->drop = true; }
        break;
    default: break; /* strikes before */
    }
}

/* ------------------------------------------------------------ when it does */

void strikes_command(struct strikes *strikes, enum cleat_worker_moment moment,
                     const struct cleat_worker_command *command,
                     struct cleat_worker_fault *fault)
{
    for (uint32_t i = 0; i < strikes->count; i++) {
        struct strike *strike = &strikes->all[i];

        if (strike->fault.step != command->step) { continue; }
        if (moment == CLEAT_WORKER_AFTER && atomic_load(&strike->armed)) {
            strike_answer(strike, command, fault);
        }
        if (moment == CLEAT_WORKER_BEFORE && strike->fault.bucket == 0 &&
            fault->refuse == CLEAT_OK) {
            fault->refuse = strike_before(strike);
        }
    }
}

/* The first byte of a bucket always belongs to a tensor: gaps lie behind one.
 */
static void flip_bit(void *data)
{
    *(unsigned char *)data ^= 1u;
}

/* Corrupts a bucket: the sender's in its slot, where it may be written to; a
 * receiver's in a copy that takes its place. */
static void corrupt(struct strikes *strikes, enum cleat_stream_moment moment,
                    void **data, uint64_t bytes)
{
    if (bytes == 0) { return; }
    if (moment == CLEAT_STREAM_VERIFY && bytes <= strikes->spare_bytes) {
        memcpy(strikes->spare, *data, bytes);
        *data = strikes->spare;
        flip_bit(*data);
    } else if (moment == CLEAT_STREAM_PUBLISH) {
        flip_bit(*data);
    }
}

enum cleat_status strikes_bucket(struct strikes *strikes,
                                 enum cleat_stream_moment moment,
                                 uint32_t bucket, void **data, uint64_t bytes)
{
    bool first = moment == CLEAT_STREAM_FILL || moment == CLEAT_STREAM_VERIFY;
    bool last = moment == CLEAT_STREAM_PUBLISH || moment == CLEAT_STREAM_VERIFY;
    enum cleat_status status = CLEAT_OK;

    for (uint32_t i = 0; i < strikes->count && status == CLEAT_OK; i++) {
        struct strike *strike = &strikes->all[i];

        if (strike->fault.bucket != bucket + 1) { continue; }
        if (strike->fault.kind == FAULT_CORRUPT) {
            if (last && takes_turn(strike)) {
                corrupt(strikes, moment, data, bytes);
            }
            continue; /* never armed: the answer is left alone */
        }
        if (first) {
            atomic_store(&strike->armed, true);
            status = strike_before(strike);
        }
    }
    return status;
}
