/* Cleat: a test over the fake CUDA and NCCL that is a process of its own.
 * SPDX-License-Identifier: Apache-2.0
 *
 * So it has a world of its own, and nothing is left of a device that it lost.
 * Such a process has no cmocka: it says what is wrong and ends. */
#ifndef CLEAT_TEST_GPU_PROCESS_H
#define CLEAT_TEST_GPU_PROCESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "control.h"

#define must(condition) \
    ((condition) ? (void)0 : must_failed(#condition, __FILE__, __LINE__))

static inline void must_failed(const char *what, const char *file, int line)
{
    (void)fprintf(stderr, "%d: %s:%d: not true: %s\n", (int)getpid(), file,
                  line, what);
    _exit(1);
}

static inline void in_a_process(void (*body)(void))
{
    pid_t pid = fork();
    int ended = -1;

    if (pid == 0) {
        (void)alarm(60); /* a watchdog */
        fake_gpu_attach(CLEAT_FAKES "/lib");
        body();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &ended, 0), pid);
    assert_int_equal(ended, 0);
}

#endif
