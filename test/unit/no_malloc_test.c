/* Cleat: the forbidden heap is really forbidden. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "no_malloc.h"

static void *volatile kept;

static void call_malloc(void)
{
    kept = malloc(10);
}

static void call_calloc(void)
{
    kept = calloc(3, 10);
}

static void call_realloc(void)
{
    kept = realloc(kept, 1000);
}

static void call_aligned(void)
{
    kept = aligned_alloc(64, 128);
}

static void call_posix(void)
{
    void *block = NULL;

    if (posix_memalign(&block, 64, 128) != 0) { _exit(3); }
    kept = block;
}

static void call_free(void)
{
    free(kept);
}

/* The C library allocates inside this one. */
static void call_file_actions(void)
{
    posix_spawn_file_actions_t actions;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
}

static void *thread_mallocs(void *argument)
{
    kept = malloc(10);
    return argument;
}

static void call_nothing(void)
{
}

/* Runs `call` in a child with the heap forbidden; the signal that ended it,
 * 0 when none did. */
static int signal_of(void (*call)(void))
{
    struct rlimit none = {0, 0};
    int status = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL);
        close(2); /* its one line is not news here */
        cleat_test_forbid_malloc(true);
        call();
        _exit(0);
    }
    assert_true(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void any_heap_call_aborts_while_forbidden(void **state)
{
    (void)state;
    kept = malloc(1);
    assert_int_equal(signal_of(call_malloc), SIGABRT);
    assert_int_equal(signal_of(call_calloc), SIGABRT);
    assert_int_equal(signal_of(call_realloc), SIGABRT);
    assert_int_equal(signal_of(call_aligned), SIGABRT);
    assert_int_equal(signal_of(call_posix), SIGABRT);
    assert_int_equal(signal_of(call_free), SIGABRT);
    free(kept);
    kept = NULL;
}

static void the_c_librarys_own_allocation_aborts_too(void **state)
{
    (void)state;
    assert_int_equal(signal_of(call_file_actions), SIGABRT);
}

static void nothing_aborts_without_a_heap_call(void **state)
{
    (void)state;
    assert_int_equal(signal_of(call_nothing), 0);
}

static void a_heap_call_works_and_is_counted_while_allowed(void **state)
{
    unsigned long before = cleat_test_malloc_calls();

    (void)state;
    call_malloc();
    assert_non_null(kept);
    free(kept);
    kept = NULL;
    assert_true(cleat_test_malloc_calls() >= before + 2);
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *wait_then_malloc(void *argument)
{
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return thread_mallocs(argument);
}

static void call_in_another_thread(void)
{
    pthread_t thread;

    cleat_test_forbid_malloc(false); /* making a thread allocates */
    pthread_mutex_lock(&gate);
    if (pthread_create(&thread, NULL, wait_then_malloc, NULL) != 0) {
        _exit(3);
    }
    cleat_test_forbid_malloc(true);
    pthread_mutex_unlock(&gate);
    pthread_join(thread, NULL);
}

static void another_threads_heap_call_aborts_too(void **state)
{
    (void)state;
    assert_int_equal(signal_of(call_in_another_thread), SIGABRT);
}

static void call_exempted(void)
{
    cleat_test_exempt_thread(true);
    call_malloc();
    cleat_test_exempt_thread(false);
}

static void an_exempted_thread_may_allocate(void **state)
{
    (void)state;
    assert_int_equal(signal_of(call_exempted), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_heap_call_aborts_while_forbidden),
        cmocka_unit_test(the_c_librarys_own_allocation_aborts_too),
        cmocka_unit_test(nothing_aborts_without_a_heap_call),
        cmocka_unit_test(a_heap_call_works_and_is_counted_while_allowed),
        cmocka_unit_test(another_threads_heap_call_aborts_too),
        cmocka_unit_test(an_exempted_thread_may_allocate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
