/* Cleat: threads whose every switch is a choice. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "fibres.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBRES_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define FIBRES_ASAN 1
#endif
#if defined(FIBRES_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define STACK_BYTES ((size_t)64 * 1024)
#define SWITCHES_MAX 20000u
/* Below the frame that switches: what it has spilled. */
#define FRAME_BYTES 256u

enum fibre_state { FIBRE_CAN_GO_ON, FIBRE_WAITS, FIBRE_ENDED };

struct fibre {
    /* What decides the future, besides stack and registers. */
    enum fibre_state state;
    bool (*ready)(void *context);
    void *ready_context;
    uint64_t deadline_ns; /* while it waits */
    uint64_t moment_ns;   /* the last one that was a time: a clock that runs
                             ahead comes to it */

    const char *name;
    void (*fn)(void *context);
    void *context;
    unsigned char *low; /* of the stack that is in use */
    ucontext_t place;
};

enum request { REQUEST_SWITCH, REQUEST_CHOOSE, REQUEST_FAIL };

static struct {
    struct choose *c;
    struct fibres_port *port;
    void *world;
    size_t world_bytes;
    uint64_t now_ns;
    uint32_t count;
    uint32_t current;
    uint32_t preemptions_left;
    uint32_t switches;
    uint32_t jumps;
    bool inside; /* a fibre runs */

    enum request request; /* why the scheduler has been come back to */
    uint32_t choice;      /* in: of how many; out: which */
    bool could_go_on;     /* whether a switch is a preemption */
    char sentence[CHOOSE_SENTENCE_MAX];

    struct fibre fibres[FIBRES_MAX];
    ucontext_t scheduler;
    void *scheduler_fake; /* of the address sanitizer */
    const void *scheduler_stack;
    size_t scheduler_stack_bytes;
} all;

static _Alignas(64) unsigned char stacks[FIBRES_MAX][STACK_BYTES];
static unsigned char projection[CHOOSE_PROJECTION_MAX];

/* ------------------------------------------------------------- switching */

static void entered_fibre(void *fake)
{
#if defined(FIBRES_ASAN)
    __sanitizer_finish_switch_fiber(fake, &all.scheduler_stack,
                                    &all.scheduler_stack_bytes);
#else
    (void)fake;
#endif
}

/* Back to the scheduler, until it goes on with this fibre. */
__attribute__((noinline)) static void leave_fibre(enum request request)
{
    struct fibre *fibre = &all.fibres[all.current];
    void *fake = NULL;

    all.request = request;
    all.inside = false;
    fibre->low = (unsigned char *)__builtin_frame_address(0) - FRAME_BYTES;
#if defined(FIBRES_ASAN)
    __sanitizer_start_switch_fiber(fibre->state == FIBRE_ENDED ? NULL : &fake,
                                   all.scheduler_stack,
                                   all.scheduler_stack_bytes);
#endif
    (void)swapcontext(&fibre->place, &all.scheduler);
    entered_fibre(fake);
}

static void begin_fibre(void)
{
    struct fibre *fibre = &all.fibres[all.current];

    entered_fibre(NULL);
    fibre->fn(fibre->context);
    fibre = &all.fibres[all.current];
    fibre->state = FIBRE_ENDED;
    all.could_go_on = false;
    for (;;) { leave_fibre(REQUEST_SWITCH); }
}

static void go_on_with(uint32_t index)
{
    all.current = index;
    all.inside = true;
#if defined(FIBRES_ASAN)
    __sanitizer_start_switch_fiber(&all.scheduler_fake, stacks[index],
                                   STACK_BYTES);
#endif
    (void)swapcontext(&all.scheduler, &all.fibres[index].place);
#if defined(FIBRES_ASAN)
    __sanitizer_finish_switch_fiber(all.scheduler_fake, NULL, NULL);
#endif
}

/* -------------------------------------------------------------- beginning */

void fibres_begin(struct choose *c, uint32_t preemptions_max,
                  struct fibres_port *port, void *world, size_t world_bytes,
                  uint64_t now_ns)
{
    all.c = c;
    all.port = port;
    all.world = world;
    all.world_bytes = world_bytes;
    all.now_ns = now_ns;
    all.count = 0;
    all.current = 0;
    all.preemptions_left = preemptions_max;
    all.switches = 0;
    all.jumps = 0;
    all.inside = false;
}

void fibres_add(const char *name, void (*fn)(void *context), void *context)
{
    struct fibre *fibre = &all.fibres[all.count];
    unsigned char *stack = stacks[all.count];

    if (all.count == FIBRES_MAX) { abort(); }
#if defined(FIBRES_ASAN)
    __asan_unpoison_memory_region(stack, STACK_BYTES);
#endif
    memset(fibre, 0, sizeof *fibre);
    fibre->name = name;
    fibre->fn = fn;
    fibre->context = context;
    fibre->low = stack + STACK_BYTES;
    fibre->deadline_ns = UINT64_MAX;
    fibre->moment_ns = UINT64_MAX;
    (void)getcontext(&fibre->place);
    fibre->place.uc_stack.ss_sp = stack;
    fibre->place.uc_stack.ss_size = STACK_BYTES;
    fibre->place.uc_link = NULL;
    makecontext(&fibre->place, begin_fibre, 0);
    all.count++;
}

/* -------------------------------------------------------------- scheduling */

static bool can_go_on(const struct fibre *fibre)
{
    if (fibre->state != FIBRE_WAITS) { return fibre->state == FIBRE_CAN_GO_ON; }
    return fibre->ready(fibre->ready_context) ||
           fibre->deadline_ns <= all.now_ns;
}

/* The earliest moment after now that somebody waits for; with `any`, or that
 * somebody waited for before. */
static uint64_t next_moment(bool any)
{
    uint64_t moment_ns = UINT64_MAX;

    for (uint32_t i = 0; i < all.count; i++) {
        const struct fibre *fibre = &all.fibres[i];
        uint64_t of_ns = any ? fibre->moment_ns : fibre->deadline_ns;

        if (fibre->state == FIBRE_ENDED ||
            (!any && fibre->state != FIBRE_WAITS)) {
            continue;
        }
        if (of_ns > all.now_ns && of_ns < moment_ns) { moment_ns = of_ns; }
    }
    return moment_ns;
}

/* What a switch leaves of a fibre's registers. */
static unsigned char *put_registers(unsigned char *p, const struct fibre *fibre)
{
#if defined(__x86_64__)
    return choose_put(p, fibre->place.uc_mcontext.gregs,
                      sizeof fibre->place.uc_mcontext.gregs);
#else
    return choose_put(p, &fibre->place.uc_mcontext,
                      sizeof fibre->place.uc_mcontext);
#endif
}

static size_t project(void)
{
    unsigned char *p = projection;
    unsigned char *end = projection + sizeof projection;

    p = choose_put_u64(p, all.now_ns);
    p = choose_put_u8(p, all.preemptions_left);
    p = choose_put_u8(p, all.jumps);
    p = choose_put_u8(p, all.current);
    p = choose_put_u8(p, all.could_go_on);
    p = choose_put(p, all.world, all.world_bytes);
    for (uint32_t i = 0; i < all.count; i++) {
        const struct fibre *fibre = &all.fibres[i];
        unsigned char *top = stacks[i] + STACK_BYTES;
        size_t bytes = fibre->low < stacks[i] ? STACK_BYTES
                                              : (size_t)(top - fibre->low);

        if (fibre->state == FIBRE_ENDED) { bytes = 0; }
        if ((size_t)(end - p) < bytes + 64 + sizeof fibre->place.uc_mcontext) {
            choose_fail(all.c, "the fibres' stacks do not fit a projection");
        }
        p = choose_put_u8(p, fibre->state);
        if (fibre->state == FIBRE_ENDED) { continue; }
        p = choose_put(p, &fibre->ready, sizeof fibre->ready);
        p = choose_put_time(p, fibre->deadline_ns, all.now_ns);
        p = choose_put_time(p, fibre->moment_ns, all.now_ns);
        p = put_registers(p, fibre);
        if (bytes > 0) { p = choose_put(p, top - bytes, bytes); }
    }
    return (size_t)(p - projection);
}

static void note_all_wait(void)
{
    for (uint32_t i = 0; i < all.count; i++) {
        choose_note(all.c, "  %s: %s", all.fibres[i].name,
                    all.fibres[i].state == FIBRE_ENDED ? "has ended" : "waits");
    }
}

/* Nobody can go on: time passes. False: all have ended. */
static bool let_time_pass(void)
{
    uint64_t moment_ns = next_moment(false);
    bool ended = true;

    for (uint32_t i = 0; i < all.count; i++) {
        ended = ended && all.fibres[i].state == FIBRE_ENDED;
    }
    if (ended) { return false; }
    if (moment_ns == UINT64_MAX) {
        note_all_wait();
        choose_fail(all.c, "somebody waits for ever");
    }
    all.now_ns = moment_ns;
    choose_note(all.c, "time comes to %llu", (unsigned long long)moment_ns);
    return true;
}

/* Who besides the current fibre can go on; when nobody can, time passes. */
static uint32_t find_others(uint32_t *others)
{
    uint32_t count = 0;

    do {
        for (uint32_t i = 0; i < all.count; i++) {
            if ((i != all.current || !all.could_go_on) &&
                can_go_on(&all.fibres[i])) {
                others[count++] = i;
            }
        }
    } while (count == 0 && !all.could_go_on && let_time_pass());
    return count;
}

/* The state as bytes was not there before. A stack that the address sanitizer
 * keeps elsewhere cannot be looked at. */
static bool is_new(void)
{
#if defined(FIBRES_ASAN)
    (void)project;
    return true;
#else
    return !choose_seen(all.c, projection, project());
#endif
}

enum picked { PICKED, PICKED_SEEN, PICKED_NOBODY };

static enum picked pick(uint32_t *next)
{
    for (;;) {
        uint32_t others[FIBRES_MAX];
        uint32_t count = find_others(others);
        uint32_t stay = all.could_go_on ? 1 : 0;
        bool budget = all.preemptions_left > 0;
        bool jump = budget && next_moment(true) != UINT64_MAX;
        uint32_t choice = 0;

        if (count + stay == 0) { return PICKED_NOBODY; }
        if (stay == 1 && !budget) { count = 0; }
        if (count + stay + (jump ? 1u : 0u) > 1) {
            if (!is_new()) { return PICKED_SEEN; }
            choice = choose(all.c, count + stay + (jump ? 1u : 0u));
        }
        if (choice < stay) {
            *next = all.current;
            return PICKED;
        }
        if (choice < count + stay) {
            all.preemptions_left -= stay;
            *next = others[choice - stay];
            return PICKED;
        }
        all.preemptions_left--;
        all.jumps++;
        all.now_ns = next_moment(true);
        choose_note(all.c, "time runs ahead to %llu",
                    (unsigned long long)all.now_ns);
    }
}

/* Goes on with a fibre until it can be switched away from. */
static void run_fibre(uint32_t index)
{
    if (index != all.current) {
        choose_note(all.c, "%s goes on", all.fibres[index].name);
    }
    all.fibres[index].state = FIBRE_CAN_GO_ON;
    go_on_with(index);
    while (all.request == REQUEST_CHOOSE) {
        all.choice = choose(all.c, all.choice);
        go_on_with(index);
    }
    if (all.request == REQUEST_FAIL) { choose_fail(all.c, "%s", all.sentence); }
    if (++all.switches > SWITCHES_MAX) {
        choose_fail(all.c, "it did not come to rest");
    }
}

bool fibres_run(void)
{
    uint32_t next = 0;
    enum picked picked;

    all.could_go_on = false;
    while ((picked = pick(&next)) == PICKED) { run_fibre(next); }
    return picked == PICKED_NOBODY;
}

/* -------------------------------------------------------------- in a fibre */

uint64_t fibres_now_ns(void)
{
    return all.now_ns;
}

bool fibres_time_ran_ahead(void)
{
    return all.jumps > 0;
}

uint32_t fibres_choose(uint32_t n)
{
    all.choice = n;
    leave_fibre(REQUEST_CHOOSE);
    all.inside = true;
    return all.choice;
}

void fibres_yield(void)
{
    all.could_go_on = true;
    leave_fibre(REQUEST_SWITCH);
}

bool fibres_wait(bool (*ready)(void *context), void *context,
                 uint64_t deadline_ns)
{
    struct fibre *fibre = &all.fibres[all.current];

    fibre->deadline_ns = deadline_ns;
    if (deadline_ns != UINT64_MAX) { fibre->moment_ns = deadline_ns; }
    if (ready(context) || deadline_ns <= all.now_ns) {
        fibres_yield();
        return ready(context);
    }
    fibre->state = FIBRE_WAITS;
    fibre->ready = ready;
    fibre->ready_context = context;
    all.could_go_on = false;
    leave_fibre(REQUEST_SWITCH);
    return ready(context);
}

_Noreturn static void fail(const char *sentence)
{
    if (!all.inside) { choose_fail(all.c, "%s", sentence); }
    (void)snprintf(all.sentence, sizeof all.sentence, "%s", sentence);
    for (;;) { leave_fibre(REQUEST_FAIL); }
}

void fibres_check_that(bool condition, const char *sentence)
{
    if (!condition) { fail(sentence); }
}

void fibres_note(const char *format, ...)
{
    char line[256];
    va_list arguments;

    if (!choose_noting(all.c)) { return; }
    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    choose_note(all.c, "%s: %s", all.fibres[all.current].name, line);
}

/* An assertion in core fails the execution from the stack it began on. */
void cleat_test_assert_failed(const char *expression, const char *file,
                              int line)
{
    char sentence[CHOOSE_SENTENCE_MAX];

    (void)snprintf(sentence, sizeof sentence, "assertion failed: %s (%s:%d)",
                   expression, file, line);
    if (all.c != NULL) { fail(sentence); }
    (void)fprintf(stderr, "%s\n", sentence);
    abort();
}

/* ---------------------------------------------------------------- the ports */

static uint64_t clock_now(struct cleat_clock_context *context)
{
    (void)context;
    return all.now_ns;
}

struct cleat_clock fibres_clock(void)
{
    struct cleat_clock clock = {NULL, clock_now};

    return clock;
}

bool fibres_holds_lock(void)
{
    return all.port->lock_owner == all.current + 1;
}

static bool lock_is_free(void *context)
{
    return ((const struct fibres_port *)context)->lock_owner == 0;
}

static void port_lock(struct cleat_threads_context *context)
{
    struct fibres_port *port = (void *)context;

    fibres_check(!fibres_holds_lock(), "the-lock-is-never-taken-twice");
    /* Between the look and the taking another may have got it. */
    while (!fibres_wait(lock_is_free, port, UINT64_MAX)) {}
    port->lock_owner = all.current + 1;
}

static void port_unlock(struct cleat_threads_context *context)
{
    struct fibres_port *port = (void *)context;

    fibres_check(fibres_holds_lock(), "only-who-took-the-lock-gives-it");
    port->lock_owner = 0;
    fibres_yield();
}

static enum cleat_status port_submit(struct cleat_threads_context *context,
                                     cleat_job_fn *fn, void *job,
                                     uint64_t index)
{
    struct fibres_port *port = (void *)context;

    fibres_yield();
    if (port->jobs_count == port->jobs_max) { return CLEAT_NO_SLOT; }
    port->jobs[port->jobs_count++] = (struct fibres_job){fn, job, index};
    return CLEAT_OK;
}

struct cleat_threads fibres_threads(void)
{
    struct cleat_threads threads = {(void *)all.port, port_lock, port_unlock,
                                    port_submit};

    return threads;
}

static bool has_job(void *context)
{
    const struct fibres_port *port = context;

    return port->jobs_count > 0 || port->closing;
}

void fibres_work(void *nothing)
{
    struct fibres_port *port = all.port;

    (void)nothing;
    for (;;) {
        struct fibres_job job;

        while (!fibres_wait(has_job, port, UINT64_MAX)) {}
        if (port->jobs_count == 0) { return; }
        job = port->jobs[0];
        port->jobs_count--;
        memmove(port->jobs, port->jobs + 1,
                port->jobs_count * sizeof port->jobs[0]);
        memset(&port->jobs[port->jobs_count], 0, sizeof port->jobs[0]);
        port->jobs_running++;
        job.fn(job.job, job.index);
        port->jobs_running--;
        fibres_check(!fibres_holds_lock(), "the-lock-is-given-at-the-end");
    }
}

static enum cleat_status box_post(struct cleat_mailbox_context *context,
                                  const struct cleat_message *message)
{
    struct fibres_mailbox *box = (void *)context;

    fibres_yield();
    if (box->count >= box->messages_max) { return CLEAT_NO_SLOT; }
    box->messages[box->count++] = *message;
    return CLEAT_OK;
}

static bool has_message(void *context)
{
    return ((const struct fibres_mailbox *)context)->count > 0;
}

bool fibres_mailbox_has_room(void *mailbox)
{
    const struct fibres_mailbox *box = mailbox;

    return box->count < box->messages_max;
}

static enum cleat_status box_wait(struct cleat_mailbox_context *context,
                                  uint64_t deadline_ns,
                                  struct cleat_message *message)
{
    struct fibres_mailbox *box = (void *)context;

    fibres_check(deadline_ns == 0 || !fibres_holds_lock(),
                 "nobody-waits-with-the-lock-held");
    if (!fibres_wait(has_message, box, deadline_ns)) { return CLEAT_DEADLINE; }
    *message = box->messages[0];
    box->count--;
    memmove(box->messages, box->messages + 1,
            box->count * sizeof box->messages[0]);
    memset(&box->messages[box->count], 0, sizeof box->messages[0]);
    return CLEAT_OK;
}

struct cleat_mailbox fibres_mailbox(struct fibres_mailbox *mailbox)
{
    struct cleat_mailbox out = {(void *)mailbox, box_post, box_wait};

    return out;
}
