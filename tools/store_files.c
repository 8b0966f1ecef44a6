/* Cleat: files that appear whole or not at all. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64 /* where off_t would have 32 */
#include "store_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* How many hidden names are tried; one that exists was left by a process that
 * was killed. */
#define HIDDEN_TRIES_MAX 1000u

/* A file's space is taken in pieces: a stop waits for one at most. */
#define SPACE_BYTES (UINT64_C(64) << 20)

static void next_hidden(struct store_file *file)
{
    static unsigned count; /* of this process's one thread that writes files */

    snprintf(file->hidden, sizeof file->hidden, STORE_HIDDEN "%ld-%u",
             (long)getpid(), count++);
}

static int make_hidden(struct store_file *file, int folder)
{
    for (unsigned i = 0; i < HIDDEN_TRIES_MAX; i++) {
        next_hidden(file);
        file->fd = openat(folder, file->hidden,
                          O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0666);
        if (file->fd >= 0) {
            file->named = true;
            return 0;
        }
        if (errno != EEXIST) { break; }
    }
    return errno;
}

static int make(struct store_file *file, int folder)
{
    /* One without a name can only be given one through /proc. */
    if (access("/proc/self/fd", X_OK) == 0) {
        file->fd = openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
        if (file->fd >= 0) { return 0; }
        if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) {
            return errno;
        }
    }
    return make_hidden(file, folder);
}

/* Takes a file's space. */
static int take_space(int fd, uint64_t bytes, const struct store_going *going)
{
    for (uint64_t at = 0; at < bytes;) {
        uint64_t left = bytes - at;
        uint64_t piece = left < SPACE_BYTES ? left : SPACE_BYTES;
        int code;

        if (!going->goes_on(going->context)) { return ECANCELED; }
        code = posix_fallocate(fd, (off_t)at, (off_t)piece);
        if (code != 0) { return code; }
        at += piece;
    }
    return 0;
}

int store_file_make(struct store_file *file, int folder, uint64_t bytes,
                    const struct store_going *going)
{
    int code;

    memset(file, 0, sizeof *file);
    file->fd = -1;
    if (bytes > INT64_MAX || bytes > SIZE_MAX / 2) { return EFBIG; }
    code = make(file, folder);
    if (code != 0) { return code; }
    file->bytes = (size_t)bytes;
    if (bytes == 0) { return 0; }
    /* What is mapped must be there: a full disk would be a signal later. */
    code = take_space(file->fd, bytes, going);
    if (code == 0) {
        file->map = mmap(NULL, file->bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                         file->fd, 0);
        if (file->map != MAP_FAILED) { return 0; }
        code = errno;
        file->map = NULL;
    }
    store_file_drop(file, folder, false);
    return code;
}

static int link_hidden(struct store_file *file, int folder)
{
    char link[40];

    if (file->named) { return 0; }
    snprintf(link, sizeof link, "/proc/self/fd/%d", file->fd);
    for (unsigned i = 0; i < HIDDEN_TRIES_MAX; i++) {
        next_hidden(file);
        if (linkat(AT_FDCWD, link, folder, file->hidden, AT_SYMLINK_FOLLOW) ==
            0) {
            file->named = true;
            return 0;
        }
        if (errno != EEXIST) { break; }
    }
    return errno;
}

/* The rename would put a file in a device's place. */
static int check_place(int folder, const char *name)
{
    struct stat about;

    if (fstatat(folder, name, &about, AT_SYMLINK_NOFOLLOW) != 0) { return 0; }
    if (S_ISDIR(about.st_mode)) { return EISDIR; }
    return S_ISREG(about.st_mode) || S_ISLNK(about.st_mode) ? 0 : EEXIST;
}

static int put_in_place(struct store_file *file, int folder, const char *name,
                        bool durable)
{
    int code = check_place(folder, name);

    if (code != 0) { return code; }
    if (durable && fsync(file->fd) != 0) { return errno; }
    code = link_hidden(file, folder);
    if (code != 0) { return code; }
    if (renameat(folder, file->hidden, folder, name) != 0) { return errno; }
    file->named = false;
    /* A file system that cannot is left alone. */
    if (durable) { (void)fsync(folder); }
    return 0;
}

int store_file_publish(struct store_file *file, int folder, const char *name,
                       bool durable)
{
    int code = put_in_place(file, folder, name, durable);

    store_file_drop(file, folder, false);
    return code;
}

void store_file_drop(struct store_file *file, int folder, bool lent)
{
    if (file->map != NULL && !lent) { (void)munmap(file->map, file->bytes); }
    file->map = NULL;
    if (file->named) { (void)unlinkat(folder, file->hidden, 0); }
    file->named = false;
    if (file->fd >= 0) { (void)close(file->fd); }
    file->fd = -1;
}

static struct store_stamp stamp_of(const struct stat *about)
{
    struct store_stamp stamp = {.device = (uint64_t)about->st_dev,
                                .inode = (uint64_t)about->st_ino,
                                .bytes = (uint64_t)about->st_size,
                                .written = about->st_mtim};

    return stamp;
}

bool store_file_changed(int folder, const char *name,
                        const struct store_stamp *stamp)
{
    struct stat about;
    struct store_stamp now;

    if (fstatat(folder, name, &about, 0) != 0) { return false; }
    now = stamp_of(&about);
    return now.device == stamp->device && now.inode == stamp->inode &&
           (now.bytes != stamp->bytes ||
            now.written.tv_sec != stamp->written.tv_sec ||
            now.written.tv_nsec != stamp->written.tv_nsec);
}

int store_file_map(int folder, const char *name, const void **map,
                   uint64_t *bytes, struct store_stamp *stamp)
{
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat about;
    int code = 0;

    *map = NULL;
    *bytes = 0;
    memset(stamp, 0, sizeof *stamp);
    if (fd < 0) { return errno; }
    memset(&about, 0, sizeof about);
    if (fstat(fd, &about) != 0) {
        code = errno;
    } else if (!S_ISREG(about.st_mode)) {
        code = EINVAL;
    } else if (about.st_size == 0) {
        char byte;

        /* A file that does not say how large it is. */
        if (read(fd, &byte, 1) != 0) { code = EINVAL; }
    } else {
        void *at = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, fd,
                        0);

        if (at == MAP_FAILED) {
            code = errno;
        } else {
            *map = at;
            *bytes = (uint64_t)about.st_size;
        }
    }
    *stamp = stamp_of(&about);
    (void)close(fd);
    return code;
}

void store_file_unmap(const void *map, uint64_t bytes)
{
    /* munmap takes what mmap gave, and mmap gave it without const. */
    if (map != NULL) { (void)munmap((void *)(uintptr_t)map, (size_t)bytes); }
}

static char guard_line[128];

static void on_short_file(int number)
{
    ssize_t written = write(STDERR_FILENO, guard_line, strlen(guard_line));

    (void)written; /* there is nobody to tell */
    _exit(128 + number);
}

void store_files_guard(const char *command)
{
    struct sigaction action;

    snprintf(guard_line, sizeof guard_line,
             "%.60s: a file became shorter while it was read\n", command);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_short_file;
    (void)sigaction(SIGBUS, &action, NULL);
}

int store_folder_open(struct store_folder *folder, const char *path,
                      bool make_it)
{
    folder->path = path;
    int code;

    folder->made = make_it && mkdir(path, 0777) == 0;
    code = make_it && !folder->made && errno != EEXIST ? errno : 0;
    folder->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder->fd >= 0) { return 0; }
    return errno == ENOENT && code != 0 ? code : errno;
}

void store_folder_close(struct store_folder *folder)
{
    if (folder->fd < 0) { return; }
    (void)close(folder->fd);
    folder->fd = -1;
    if (folder->made) { (void)rmdir(folder->path); }
}
