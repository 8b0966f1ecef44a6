/* Cleat: what goes on beside an update: signals, and a progress bar.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "watch.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* How often the bar is drawn, and a stop repeated. */
#define TICK_NS 100000000
#define BAR_WIDTH 30u

/* Ends the thread. */
#define SIGNAL_END SIGUSR2

static sigset_t signals(void)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGNAL_END);
    return set;
}

void watch_block_signals(void)
{
    sigset_t set = signals();

    (void)sigaddset(&set, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
}

void watch_let_signals(void)
{
    sigset_t set = signals();

    (void)sigdelset(&set, SIGNAL_END);
    (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void clear_bar(void)
{
    fprintf(stderr, "\r\033[K");
    fflush(stderr);
}

static void draw_bar(const struct watch *watch)
{
    const char *what = atomic_load(&watch->what);
    uint32_t done = atomic_load(watch->done);
    uint32_t total = atomic_load(&watch->total);
    uint32_t filled = total == 0
                          ? BAR_WIDTH
                          : (uint32_t)((uint64_t)done * BAR_WIDTH / total);

    if (what == NULL) { return; }
    filled = filled < BAR_WIDTH ? filled : BAR_WIDTH;
    fprintf(stderr, "\r\033[K[");
    for (uint32_t i = 0; i < BAR_WIDTH; i++) {
        fputc(i < filled ? '#' : '-', stderr);
    }
    fprintf(stderr, "] %" PRIu32 " of %" PRIu32 " %s, %s", done, total,
            watch->unit != NULL ? watch->unit : "buckets", what);
    fflush(stderr);
}

static void *watch_thread(void *context)
{
    const struct timespec tick = {0, TICK_NS};
    struct watch *watch = context;
    sigset_t set = signals();

    for (;;) {
        int signal = sigtimedwait(&set, NULL, &tick);

        if (signal == SIGNAL_END && atomic_load(&watch->ending)) {
            return NULL;
        }
        /* One that somebody else sends means nothing. */
        if (signal > 0 && signal != SIGNAL_END) {
            int none = 0;

            (void)atomic_compare_exchange_strong(&watch->signal, &none, signal);
            atomic_store(&watch->stopping, true);
        }
        /* Again and again: what there was to stop may only now have begun. */
        if (atomic_load(&watch->stopping)) { watch->stop(watch->context); }
        if (watch->tick != NULL) { watch->tick(watch->context); }
        if (watch->bar) { draw_bar(watch); }
    }
}

bool watch_begin(struct watch *watch)
{
    atomic_store(&watch->ending, false);
    watch->bar = watch->done != NULL && isatty(STDERR_FILENO) != 0;
    watch->running = pthread_create(&watch->thread, NULL, watch_thread,
                                    watch) == 0;
    return watch->running;
}

void watch_end(struct watch *watch)
{
    if (!watch->running) { return; }
    atomic_store(&watch->ending, true);
    (void)pthread_kill(watch->thread, SIGNAL_END);
    (void)pthread_join(watch->thread, NULL);
    watch->running = false;
    if (watch->bar) { clear_bar(); }
}
