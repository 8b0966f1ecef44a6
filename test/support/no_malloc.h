/* Cleat: a heap that can be forbidden. SPDX-License-Identifier: Apache-2.0
 *
 * A test that links `cleat_test_no_malloc` replaces malloc, calloc, realloc,
 * free, posix_memalign, aligned_alloc and their kin for the whole process,
 * the C library's own calls included (posix_spawn's file actions, stdio's
 * buffers). While the heap is forbidden any of them writes one line to stderr
 * and aborts.
 *
 * Under a sanitizer nothing is replaced and nothing forbidden: its runtime
 * allocates when it likes, at the start of a thread for one. */
#ifndef CLEAT_TEST_NO_MALLOC_H
#define CLEAT_TEST_NO_MALLOC_H

#include <stdbool.h>

/* Forbids the heap to every thread of the process, or allows it again. */
void cleat_test_forbid_malloc(bool forbid);

/* Exempts the calling thread (a harness that allocates beside the library),
 * or ends the exemption. Calls nest. */
void cleat_test_exempt_thread(bool exempt);

/* Heap calls so far, of all threads, forbidden or not: a test that sees this
 * rise knows that the replacement is in place. */
unsigned long cleat_test_malloc_calls(void);

#endif
