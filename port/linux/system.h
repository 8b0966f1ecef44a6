/* Cleat: the few calls of Linux that this port makes in more than one place.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Included after _GNU_SOURCE has been defined. */
#ifndef CLEAT_PORT_LINUX_SYSTEM_H
#define CLEAT_PORT_LINUX_SYSTEM_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "cleat/status.h"

static inline uint64_t cleat_linux_now_ns(void)
{
    struct timespec now = {0, 0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline struct timespec cleat_linux_timespec(uint64_t time_ns)
{
    struct timespec time = {.tv_sec = (time_t)(time_ns / CLEAT_NS_PER_S),
                            .tv_nsec = (long)(time_ns % CLEAT_NS_PER_S)};

    return time;
}

/* How long from `now_ns` to `deadline_ns`; 0 when it has passed. */
static inline uint64_t cleat_linux_until(uint64_t now_ns, uint64_t deadline_ns)
{
    return deadline_ns > now_ns ? deadline_ns - now_ns : 0;
}

static inline uint64_t cleat_linux_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Closes *fd and makes it -1; -1 stays. What was closed is closed whatever
 * close() says, on Linux. */
static inline void cleat_linux_close(int *fd)
{
    if (*fd >= 0) { (void)close(*fd); }
    *fd = -1;
}

/* A condition variable whose timed wait is of CLOCK_MONOTONIC; 0 or errno. */
int cleat_linux_cond_init(pthread_cond_t *cond);

/* Waits until signalled or deadline_ns (CLEAT_NEVER: none). False when the
 * deadline came. */
bool cleat_linux_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock,
                           uint64_t deadline_ns);

/* A thread with every signal blocked, so that the host's handlers run on the
 * host's threads; 0 or errno. */
int cleat_linux_thread_start(pthread_t *thread, void *(*main_of_thread)(void *),
                             void *argument);

/* A descriptor, close-on-exec, that can be read when the process has ended; -1
 * and errno when there is none. */
int cleat_linux_pidfd_open(pid_t pid);

/* Fills *error with an errno value and what was being done; CLEAT_IO. */
enum cleat_status cleat_linux_io_error(struct cleat_error *error, int code,
                                       uint64_t index, const char *doing);

/* The same, naming a file: "<doing> <path>: <what errno means>". */
enum cleat_status cleat_linux_path_error(struct cleat_error *error,
                                         enum cleat_status status, int code,
                                         const char *doing, const char *path);

/* CLEAT_OK when the block is there, aligned and large enough. */
enum cleat_status cleat_linux_block_check(const void *block, size_t bytes,
                                          size_t bytes_needed,
                                          struct cleat_error *error);

#endif
