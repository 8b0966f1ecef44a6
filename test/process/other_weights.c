/* Cleat: one engine of a job finds another file under its weights' path, to be
 * preloaded. SPDX-License-Identifier: Apache-2.0
 *
 * CLEAT_TEST_WEIGHTS is the path, CLEAT_TEST_OTHER what member 2 finds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

typedef int open_fn(const char *path, int flags, ...);

/* Is this `cleat engine … --member 2 …`? */
static bool is_member_2(open_fn *real)
{
    static const char needle[] = "--member\0002";
    char words[4096];
    int fd = real("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t count = fd < 0 ? 0 : read(fd, words, sizeof words);

    if (fd >= 0) { (void)close(fd); }
    return count > 0 &&
           memmem(words, (size_t)count, needle, sizeof needle) != NULL;
}

/* The library is built for large files, so this is the one it calls. */
int open64(const char *path, int flags, ...)
{
    const char *weights = getenv("CLEAT_TEST_WEIGHTS");
    const char *other = getenv("CLEAT_TEST_OTHER");
    open_fn *real = NULL;
    mode_t mode = 0;

    *(void **)&real = dlsym(RTLD_NEXT, "open64");
    if ((flags & O_CREAT) != 0) {
        va_list more;

        va_start(more, flags);
        mode = (mode_t)va_arg(more, unsigned);
        va_end(more);
    }
    if (weights != NULL && other != NULL && strcmp(path, weights) == 0 &&
        is_member_2(real)) {
        path = other;
    }
    return real(path, flags, mode);
}
