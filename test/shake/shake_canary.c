/* Cleat: a race that shaking must find. SPDX-License-Identifier: Apache-2.0
 *
 * A thread has next to nothing to do, and who started it takes for done, a
 * millisecond later, what it has not waited for. Exit 0: in one of the rounds
 * it was not done yet. Exit 1: it always was, as on an idle machine. */
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

enum { ROUNDS = 100, CALLS = 100 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool done;

static void *work(void *nothing)
{
    for (uint32_t i = 0; i < CALLS; i++) {
        (void)pthread_mutex_lock(&lock);
        (void)pthread_mutex_unlock(&lock);
    }
    atomic_store(&done, true);
    return nothing;
}

int main(void)
{
    for (uint32_t round = 0; round < ROUNDS; round++) {
        pthread_t thread;
        bool seen;

        atomic_store(&done, false);
        if (pthread_create(&thread, NULL, work, NULL) != 0) { return 2; }
        (void)usleep(1000);
        seen = atomic_load(&done);
        (void)pthread_join(thread, NULL);
        if (!seen) {
            (void)printf("found in round %u\n", (unsigned)round);
            return 0;
        }
    }
    (void)printf("not found in %u rounds\n", (unsigned)ROUNDS);
    return 1;
}
