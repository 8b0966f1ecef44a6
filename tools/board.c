/* Cleat: what the processes of `cleat sync` tell each other besides the
 * protocol. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x31647261426c4331)

/* The digests begin on a page of their own, of any size that pages have. */
#define HEAD_BYTES ((sizeof(struct board_head) + 65535u) / 65536u * 65536u)

static size_t digests_bytes(uint32_t windows)
{
    return windows == 0 ? 1 : (size_t)windows * sizeof(uint32_t);
}

static bool map(struct board *board, int fd, uint32_t windows, int digests_prot)
{
    void *head;
    void *digests;

    head = mmap(NULL, HEAD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (head == MAP_FAILED) { return false; }
    digests = mmap(NULL, digests_bytes(windows), digests_prot, MAP_SHARED, fd,
                   (off_t)HEAD_BYTES);
    if (digests == MAP_FAILED) {
        (void)munmap(head, HEAD_BYTES);
        return false;
    }
    board->head = head;
    board->digests = digests;
    board->bytes = digests_bytes(windows);
    return true;
}

static bool has_room(int fd, uint32_t windows)
{
    struct stat about;

    return fstat(fd, &about) == 0 &&
           (uint64_t)about.st_size >= HEAD_BYTES + digests_bytes(windows);
}

/* Is it a board that a coordinator that was killed has left? */
static bool is_left(int fd)
{
    struct stat about;
    uint64_t magic = 0;

    return fstat(fd, &about) == 0 && S_ISREG(about.st_mode) &&
           pread(fd, &magic, sizeof magic, 0) == (ssize_t)sizeof magic &&
           magic == MAGIC;
}

/* A new file; or one that was left, in which engines that have outlived their
 * coordinator still look. Nothing else that has the name is touched. */
static int open_file(const char *path)
{
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int fd = open(path, flags | O_CREAT | O_EXCL, 0600);

    if (fd >= 0 || errno != EEXIST) { return fd; }
    fd = open(path, flags);
    if (fd >= 0 && is_left(fd)) { return fd; }
    if (fd >= 0) { (void)close(fd); }
    errno = EEXIST;
    return -1;
}

bool board_create(struct board *board, const char *path, uint32_t plan_digest,
                  uint32_t windows)
{
    size_t bytes = HEAD_BYTES + digests_bytes(windows);

    memset(board, 0, sizeof *board);
    board->fd = path == NULL ? memfd_create("cleat-board", MFD_CLOEXEC)
                             : open_file(path);
    if (board->fd < 0) { return false; }
    if (ftruncate(board->fd, (off_t)bytes) != 0 ||
        !map(board, board->fd, windows, PROT_READ | PROT_WRITE)) {
        int why = errno;

        if (path != NULL) { (void)unlink(path); }
        (void)close(board->fd);
        board->fd = -1;
        errno = why;
        return false;
    }
    memset(board->head, 0, sizeof *board->head);
    memset(board->digests, 0, board->bytes);
    board->head->plan_digest = plan_digest;
    board->head->windows = windows;
    /* The magic last: who sees it sees the rest. */
    atomic_thread_fence(memory_order_release);
    board->head->magic = MAGIC;
    return true;
}

void board_path(const struct board *board, char *path)
{
    (void)snprintf(path, 64, "/proc/%ld/fd/%d", (long)getpid(), board->fd);
}

enum cleat_status board_open(struct board *board, const char *path,
                             bool writes_digests, uint32_t plan_digest,
                             uint32_t windows)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool mapped = fd >= 0 && has_room(fd, windows) &&
                  map(board, fd, windows,
                      writes_digests ? PROT_READ | PROT_WRITE : PROT_READ);

    if (fd < 0) { return errno == ENOENT ? CLEAT_NOT_FOUND : CLEAT_IO; }
    (void)close(fd);
    board->fd = -1;
    if (!mapped) { return CLEAT_STATE; }
    if (board->head->magic != MAGIC ||
        board->head->plan_digest != plan_digest ||
        board->head->windows != windows) {
        board_close(board);
        return CLEAT_STATE;
    }
    return CLEAT_OK;
}

void board_close(struct board *board)
{
    if (board->head == NULL) { return; }
    (void)munmap(board->head, HEAD_BYTES);
    (void)munmap(board->digests, board->bytes);
    if (board->fd >= 0) { (void)close(board->fd); }
    memset(board, 0, sizeof *board);
    board->fd = -1;
}
