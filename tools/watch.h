/* Cleat: what goes on beside an update: signals, and a progress bar.
 * SPDX-License-Identifier: Apache-2.0
 *
 * One thread. Its process has the signals blocked everywhere, so that no
 * handler ever runs and no call is interrupted.
 */
#ifndef CLEAT_TOOLS_WATCH_H
#define CLEAT_TOOLS_WATCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct watch {
    /* The caller's. Called on the watching thread, again and again once a
     * signal has asked the command to stop. */
    void (*stop)(void *context);
    /* The same, ten times a second from the beginning on; NULL: nothing. */
    void (*tick)(void *context);
    void *context;

    /* For the bar, where standard error is a terminal. */
    const _Atomic uint32_t *done; /* of `total`; NULL: there is no bar */
    _Atomic uint32_t total;
    const char *unit;         /* of what; NULL: buckets */
    const char *_Atomic what; /* the step; NULL: draw nothing */

    atomic_bool stopping; /* a signal has come */
    atomic_int signal;    /* which came first; 0: none */
    atomic_bool ending;   /* watch_end has been called */
    pthread_t thread;
    bool running;
    bool bar;
};

/* Blocks SIGINT, SIGTERM, SIGHUP and SIGPIPE in this thread, and so in all
 * that it starts. Before any thread is started. */
void watch_block_signals(void);

/* Lets the first three end the process, as they did before: for what takes long
 * and has nothing left to stop. After watch_end. */
void watch_let_signals(void);

/* Starts the thread. Returns false when there is none to be had. */
bool watch_begin(struct watch *watch);

/* Ends it, and takes the bar away. Idempotent. */
void watch_end(struct watch *watch);

#endif
