/* Cleat: a heap that can be forbidden. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "no_malloc.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

static atomic_bool forbidden;
static atomic_ulong calls;
static _Thread_local unsigned exemptions;

void cleat_test_exempt_thread(bool exempt)
{
    exemptions = exempt ? exemptions + 1 : exemptions - 1;
}

unsigned long cleat_test_malloc_calls(void)
{
    return atomic_load(&calls);
}

#ifndef SANITIZED
static void check(const char *name)
{
    static const char before[] = "heap call while forbidden: ";

    atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    if (!atomic_load(&forbidden) || exemptions > 0) { return; }
    atomic_store(&forbidden, false); /* abort may allocate */
    if (write(2, before, sizeof before - 1) < 0 ||
        write(2, name, strlen(name)) < 0 || write(2, "\n", 1) < 0) {
        abort();
    }
    abort();
}

/* glibc's own names for its allocator. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *block, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void *block);

void *malloc(size_t bytes)
{
    check("malloc");
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    check("calloc");
    return __libc_calloc(count, bytes);
}

void *realloc(void *block, size_t bytes)
{
    check("realloc");
    return __libc_realloc(block, bytes);
}

void *reallocarray(void *block, size_t count, size_t bytes)
{
    check("reallocarray");
    if (bytes != 0 && count > SIZE_MAX / bytes) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_realloc(block, count * bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
    check("memalign");
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    check("aligned_alloc");
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    void *block;

    check("posix_memalign");
    block = __libc_memalign(alignment, bytes);
    if (block == NULL) { return ENOMEM; }
    *out = block;
    return 0;
}

void free(void *block)
{
    if (block == NULL) { return; }
    check("free");
    __libc_free(block);
}

#endif

void cleat_test_forbid_malloc(bool forbid)
{
    atomic_store(&forbidden, forbid);
}
