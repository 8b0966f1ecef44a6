/* Cleat: the store in memory, by name. SPDX-License-Identifier: Apache-2.0
 *
 * The file is made without a name (O_TMPFILE), filled in, and then given its
 * name: so whoever finds it finds all of it, whatever becomes of its maker. */
#define _GNU_SOURCE
#include "cleat/memory_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER "/dev/shm"
#define PATH_BYTES (sizeof FOLDER + 32 + CLEAT_MEMORY_STORE_NAME_MAX)

/* How often to look again where the name comes and goes. */
#define TRIES_MAX 100u

/* The least that is taken at a time, and how often it is tried. */
#define PIECE_BYTES ((size_t)256 * 1024)
#define PIECE_TRIES_MAX 1000u

/* How every error's text begins. */
#define SAYS "memory store: "

static enum cleat_status refused(struct cleat_error *error,
                                 enum cleat_status status, const char *path,
                                 const char *text)
{
    int code = errno;
    char line[CLEAT_ERROR_TEXT_MAX];
    size_t room = sizeof line - sizeof SAYS - strlen(path) - 2;

    snprintf(line, sizeof line, SAYS "%s: %.*s", path, (int)room, text);
    (void)cleat_error_set(error, status, 0, 0, line);
    if (error != NULL) { error->port_code = code; }
    return status;
}

/* Writes the file's path; false where the name is not one. */
static bool path_of(const char *name, char *path)
{
    size_t bytes;

    if (name == NULL || name[0] == '.') { return false; }
    bytes = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                         "abcdefghijklmnopqrstuvwxyz0123456789._-");
    if (bytes == 0 || bytes > CLEAT_MEMORY_STORE_NAME_MAX ||
        name[bytes] != '\0') {
        return false;
    }
    snprintf(path, PATH_BYTES, FOLDER "/cleat-store-%s", name);
    return true;
}

static enum cleat_status bad_name(struct cleat_error *error)
{
    return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                           "memory store: a name has 1 to 64 of the characters "
                           "A-Z a-z 0-9 . _ - and does not begin with a dot");
}

/* Whether it is ours, and nobody else's to write. */
static bool is_ours(const struct stat *about)
{
    return S_ISREG(about->st_mode) && about->st_uid == geteuid() &&
           (about->st_mode & 077) == 0;
}

static enum cleat_status map(int fd, size_t bytes,
                             struct cleat_memory_store_shared *shared)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (at == MAP_FAILED) { return CLEAT_IO; }
    /* Only speed is lost where the kernel does not give them. */
    (void)madvise(at, bytes, MADV_HUGEPAGE);
    shared->block = at;
    shared->bytes = bytes;
    return CLEAT_OK;
}

static void unmap(struct cleat_memory_store_shared *shared)
{
    if (shared->block != NULL) { (void)munmap(shared->block, shared->bytes); }
    memset(shared, 0, sizeof *shared);
}

struct opening {
    const char *path;
    size_t bytes;
    const struct cleat_memory_store_config *config;
    void *end;
    size_t end_bytes;
    struct cleat_store *out;
    struct cleat_memory_store_shared *shared;
    struct cleat_error *error;
};

/* Attaches to what is mapped, or unmaps it. */
static enum cleat_status attach(const struct opening *o)
{
    struct cleat_error error;
    enum cleat_status status;

    memset(&error, 0, sizeof error);
    status = cleat_memory_store_attach(o->shared->block, o->shared->bytes,
                                       o->end, o->end_bytes, o->out, &error);
    if (status == CLEAT_OK) { return CLEAT_OK; }
    unmap(o->shared);
    errno = 0;
    return refused(o->error, status, o->path, error.text + strlen(SAYS));
}

/* Attaches to what is there. CLEAT_NOT_FOUND: it is not. */
static enum cleat_status open_there(const struct opening *o)
{
    enum cleat_status status;
    struct stat about;
    int fd = open(o->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd < 0) {
        if (errno == ENOENT) { return CLEAT_NOT_FOUND; }
        return errno == ELOOP || errno == EACCES || errno == ENXIO ||
                       errno == EISDIR
                   ? refused(o->error, CLEAT_PERMANENT, o->path,
                             "it is not a plain file of this user")
                   : refused(o->error, CLEAT_IO, o->path, "it does not open");
    }
    if (fstat(fd, &about) != 0 || !is_ours(&about)) {
        (void)close(fd);
        errno = 0;
        return refused(o->error, CLEAT_PERMANENT, o->path,
                       "it is not a plain file of this user, closed to all "
                       "others");
    }
    status = about.st_size > 0 ? map(fd, (size_t)about.st_size, o->shared)
                               : CLEAT_MALFORMED;
    (void)close(fd);
    if (status != CLEAT_OK) {
        return refused(o->error, status, o->path,
                       status == CLEAT_IO ? "it cannot be mapped"
                                          : "it is empty");
    }
    return attach(o);
}

/* Gives the file its name. CLEAT_EXISTS: another one has it. */
static enum cleat_status give_name(int fd, const struct opening *o)
{
    char self[32];

    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, self, AT_FDCWD, o->path, AT_SYMLINK_FOLLOW) == 0) {
        return CLEAT_OK;
    }
    if (errno == EEXIST) { return CLEAT_EXISTS; }
    return refused(o->error, CLEAT_IO, o->path,
                   "the file cannot be given its name");
}

/* Takes all the memory. Before Linux 6.10 any signal ends that, and all that
 * the call had taken is given back: then half as much is tried at a time, which
 * is sooner done. The first call is for all, so that a size that can never be
 * is refused before anything is taken. Returns 0 or an errno. */
static int take(int fd, size_t bytes)
{
    size_t piece = bytes;
    size_t at = 0;
    uint32_t tries = 0;

    while (at < bytes) {
        size_t now = bytes - at < piece ? bytes - at : piece;
        int code = posix_fallocate(fd, (off_t)at, (off_t)now);

        if (code == 0) {
            at += now;
            tries = 0;
        } else if (code != EINTR) {
            return code;
        } else if (piece > PIECE_BYTES) {
            piece = (piece / 2 + PIECE_BYTES - 1) / PIECE_BYTES * PIECE_BYTES;
        } else if (++tries == PIECE_TRIES_MAX) {
            return code;
        }
    }
    return 0;
}

static enum cleat_status fill(int fd, const struct opening *o)
{
    enum cleat_status status;
    int code = take(fd, o->bytes);

    if (code != 0) {
        errno = code;
        return code == ENOSPC || code == ENOMEM
                   ? refused(o->error, CLEAT_CAPACITY, o->path,
                             "there is not so much shared memory")
                   : refused(o->error, CLEAT_IO, o->path,
                             "its memory cannot be taken");
    }
    if (map(fd, o->bytes, o->shared) != CLEAT_OK) {
        return refused(o->error, CLEAT_IO, o->path, "it cannot be mapped");
    }
    o->shared->made = true;
    status = cleat_memory_store_init(o->shared->block, o->bytes, o->config,
                                     o->end, o->end_bytes, o->out, o->error);
    if (status == CLEAT_OK) {
        status = give_name(fd, o);
        if (status != CLEAT_OK) { cleat_memory_store_detach(o->out); }
    }
    if (status != CLEAT_OK) { unmap(o->shared); }
    return status;
}

static enum cleat_status make(const struct opening *o)
{
    enum cleat_status status;
    int fd = open(FOLDER, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0) {
        return refused(o->error, CLEAT_IO, o->path,
                       "there is no shared memory to make it in");
    }
    (void)fchmod(fd, 0600); /* whatever the umask */
    status = fill(fd, o);
    (void)close(fd);
    return status;
}

enum cleat_status
cleat_memory_store_open(const char *name, size_t bytes,
                        const struct cleat_memory_store_config *config,
                        void *end, size_t end_bytes, struct cleat_store *out,
                        struct cleat_memory_store_shared *shared,
                        struct cleat_error *error)
{
    char path[PATH_BYTES];
    struct opening opening = {path,      bytes, config, end,
                              end_bytes, out,   shared, error};
    enum cleat_status status = CLEAT_EXISTS;

    if (out != NULL) { memset(out, 0, sizeof *out); }
    if (shared != NULL) { memset(shared, 0, sizeof *shared); }
    if (out == NULL || shared == NULL || bytes > SIZE_MAX / 4) {
        return cleat_error_set(error, CLEAT_INVALID, bytes > SIZE_MAX / 4, 0,
                               "memory store: a result, a mapping and a size "
                               "that can be are needed");
    }
    if (!path_of(name, path)) { return bad_name(error); }
    for (uint32_t i = 0; i < TRIES_MAX && status == CLEAT_EXISTS; i++) {
        status = open_there(&opening);
        if (status != CLEAT_NOT_FOUND) { return status; }
        if (bytes == 0) {
            errno = ENOENT;
            return refused(error, CLEAT_NOT_FOUND, path, "it is not there");
        }
        status = make(&opening);
    }
    if (status == CLEAT_EXISTS) {
        errno = EEXIST;
        return refused(error, CLEAT_TRANSIENT, path,
                       "others make and unlink it all the time");
    }
    return status;
}

void cleat_memory_store_close(struct cleat_store *store,
                              struct cleat_memory_store_shared *shared)
{
    cleat_memory_store_detach(store);
    if (shared != NULL) { unmap(shared); }
}

enum cleat_status cleat_memory_store_unlink(const char *name,
                                            struct cleat_error *error)
{
    char path[PATH_BYTES];
    struct stat about;

    if (!path_of(name, path)) { return bad_name(error); }
    if (lstat(path, &about) != 0) {
        return refused(error, errno == ENOENT ? CLEAT_NOT_FOUND : CLEAT_IO,
                       path, "it is not there");
    }
    if (!is_ours(&about)) {
        errno = 0;
        return refused(error, CLEAT_PERMANENT, path,
                       "it is not a plain file of this user, closed to all "
                       "others");
    }
    if (unlink(path) != 0) {
        return refused(error, errno == ENOENT ? CLEAT_NOT_FOUND : CLEAT_IO,
                       path, "it cannot be removed");
    }
    return CLEAT_OK;
}
