/* Cleat: the few calls of Linux that this port makes in more than one place.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "system.h"

#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "cleat/linux.h"

/* Linux 5.3; the C library may be older than the kernel. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

int cleat_linux_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    int code = pthread_condattr_init(&attributes);

    if (code != 0) { return code; }
    code = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (code == 0) { code = pthread_cond_init(cond, &attributes); }
    (void)pthread_condattr_destroy(&attributes);
    return code;
}

bool cleat_linux_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock,
                           uint64_t deadline_ns)
{
    if (deadline_ns == CLEAT_NEVER) {
        (void)pthread_cond_wait(cond, lock);
        return true;
    }
    struct timespec until = cleat_linux_timespec(deadline_ns);
    return pthread_cond_timedwait(cond, lock, &until) != ETIMEDOUT;
}

int cleat_linux_thread_start(pthread_t *thread, void *(*main_of_thread)(void *),
                             void *argument)
{
    sigset_t all;
    sigset_t before;

    /* What a thread does itself (a file that became shorter under a mapping)
     * must reach the host's handler: blocked, it kills without a word. */
    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGBUS);
    (void)sigdelset(&all, SIGFPE);
    (void)sigdelset(&all, SIGILL);
    (void)sigdelset(&all, SIGSEGV);
    int code = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (code != 0) { return code; }
    code = pthread_create(thread, NULL, main_of_thread, argument);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

int cleat_linux_pidfd_open(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static const char *words_of(int code)
{
    const char *words = strerrordesc_np(code);

    return words != NULL ? words : "unknown error";
}

enum cleat_status cleat_linux_io_error(struct cleat_error *error, int code,
                                       uint64_t index, const char *doing)
{
    if (error == NULL) { return CLEAT_IO; }
    (void)cleat_error_set(error, CLEAT_IO, index, 0, "");
    (void)snprintf(error->text, sizeof error->text, "%s: %s", doing,
                   words_of(code));
    error->port_code = code;
    return CLEAT_IO;
}

enum cleat_status cleat_linux_path_error(struct cleat_error *error,
                                         enum cleat_status status, int code,
                                         const char *doing, const char *path)
{
    if (error == NULL) { return status; }
    (void)cleat_error_set(error, status, 0, 0, "");
    (void)snprintf(error->text, sizeof error->text, "%s %.120s: %s", doing,
                   path, words_of(code));
    error->port_code = code;
    return status;
}

enum cleat_status cleat_linux_block_check(const void *block, size_t bytes,
                                          size_t bytes_needed,
                                          struct cleat_error *error)
{
    if (block == NULL || (uintptr_t)block % CLEAT_LINUX_ALIGN != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 1, 0,
                               "the block must start at a multiple of 64");
    }
    if (bytes < bytes_needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 2, bytes_needed,
                               "the block is smaller than what it must hold");
    }
    return CLEAT_OK;
}
