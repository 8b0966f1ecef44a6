/* Cleat: what the processes of `cleat sync` tell each other besides the
 * protocol. SPDX-License-Identifier: Apache-2.0
 *
 * A piece of shared memory, made by the coordinator. The trainer writes into
 * it the digests of the version that it is about to send, window by window,
 * straight from its source: so what an engine serves is checked against
 * something that never went through the transport. Engines map the digests
 * read-only. Progress, what engines have served, and the order to dump are
 * here too. Nothing of the weight update itself depends on it.
 */
#ifndef CLEAT_TOOLS_BOARD_H
#define CLEAT_TOOLS_BOARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cleat/linux.h"

/* What is digested at once, and hashed by one request. */
#define BOARD_WINDOW_BYTES UINT32_C(65536)

enum board_dump {
    BOARD_DUMP_NO,
    BOARD_DUMP_WANTED,
    BOARD_DUMP_DONE,
    BOARD_DUMP_FAILED
};

/* One a member. */
struct board_seat {
    _Atomic uint64_t served; /* of all versions */
    _Atomic uint64_t torn;
    _Atomic uint32_t resumes; /* how often generation was resumed */
    _Atomic uint32_t dump;    /* enum board_dump */
};

struct board_head {
    uint64_t magic;
    uint32_t plan_digest; /* all processes have read the same table */
    uint32_t windows;
    _Atomic uint32_t buckets_sent; /* of the transfer under way */
    uint32_t reserved;
    _Atomic uint64_t digests_version; /* 0: there are none, or they change */
    struct board_seat seats[CLEAT_LINUX_WORKERS_MAX];
};

struct board {
    struct board_head *head;
    uint32_t *digests; /* `windows` of them, CRC32C */
    size_t bytes;
    int fd; /* the coordinator's; else -1 */
};

/* Makes one.
 *   path   of a file to make for it, in a place where no coordinator is at work
 *          (a board that lies there is used again); NULL: none, and processes
 *          of this machine find it at board_path
 * Returns false with errno set: EEXIST when something else lies there. */
bool board_create(struct board *board, const char *path, uint32_t plan_digest,
                  uint32_t windows);

/* Where the others find it; `path` has 64 bytes. */
void board_path(const struct board *board, char *path);

/* Maps one that the coordinator has made.
 *   writes_digests   true for the trainer
 * Returns CLEAT_OK; CLEAT_NOT_FOUND, CLEAT_IO with errno set; CLEAT_STATE when
 * it is not about the same table. */
enum cleat_status board_open(struct board *board, const char *path,
                             bool writes_digests, uint32_t plan_digest,
                             uint32_t windows);

/* Unmaps. Idempotent for a board that was zeroed. */
void board_close(struct board *board);

#endif
