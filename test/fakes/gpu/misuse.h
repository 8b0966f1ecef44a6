/* Cleat: what ends a process, in a child of a test's. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef CLEAT_TEST_FAKE_GPU_MISUSE_H
#define CLEAT_TEST_FAKE_GPU_MISUSE_H

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* How a child ended, and what it had said by then. */
struct misuse_end {
    int status; /* as waitpid has it */
    char said[2000];
};

/* Runs `act` in a forked child, with nothing but its end to tell of it. */
static inline struct misuse_end misuse_run(void (*act)(void *), void *arg)
{
    const struct rlimit none = {0, 0};
    struct misuse_end end;
    size_t used = 0;
    ssize_t got;
    int ends[2];
    pid_t child;

    memset(&end, 0, sizeof end);
    end.status = -1;
    (void)fflush(NULL);
    if (pipe(ends) != 0) return end;
    child = fork();
    if (child == 0) {
        (void)setrlimit(RLIMIT_CORE, &none);
        (void)signal(SIGABRT, SIG_DFL); /* a test's own handler would stay */
        (void)signal(SIGSEGV, SIG_DFL);
        (void)dup2(ends[1], STDERR_FILENO);
        (void)close(ends[0]);
        act(arg);
        _exit(0);
    }
    (void)close(ends[1]);
    while (used < sizeof end.said - 1 &&
           (got = read(ends[0], end.said + used, sizeof end.said - 1 - used)) >
               0) {
        used += (size_t)got;
    }
    (void)close(ends[0]);
    (void)waitpid(child, &end.status, 0);
    return end;
}

/* Whether it was ended by abort(), having said `text`. */
static inline bool misuse_aborts(void (*act)(void *), void *arg,
                                 const char *text)
{
    struct misuse_end end = misuse_run(act, arg);
    bool aborted = WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGABRT;

    if (aborted && strstr(end.said, text) != NULL) return true;
    (void)fprintf(stderr, "expected \"%s\", status %d, said: %s\n", text,
                  end.status, end.said);
    return false;
}

static inline bool misuse_is_killed(void (*act)(void *), void *arg)
{
    struct misuse_end end = misuse_run(act, arg);

    return WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGKILL;
}

static inline bool misuse_is_fine(void (*act)(void *), void *arg)
{
    struct misuse_end end = misuse_run(act, arg);
    bool fine = WIFEXITED(end.status) && WEXITSTATUS(end.status) == 0;

    if (!fine) {
        (void)fprintf(stderr, "status %d, said: %s\n", end.status, end.said);
    }
    return fine;
}

#endif
