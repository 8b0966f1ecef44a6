/* Cleat: child processes. SPDX-License-Identifier: Apache-2.0
 *
 * Each child leads a process group of its own and is known by a pidfd, so that
 * it is never mistaken for another process that got its number later. */
#ifndef CLEAT_PORT_LINUX_CHILD_H
#define CLEAT_PORT_LINUX_CHILD_H

#include <pthread.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/types.h>

#include "cleat/status.h"

/* With what children are started: made once, since the C library allocates
 * for it. File actions name descriptors by number; `slot_fd` is a number kept
 * for the child's end of its channel. */
struct cleat_child_maker {
    pthread_mutex_t lock; /* one child at a time passes through slot_fd */
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int idle_fd; /* what slot_fd is a copy of between children; the owner's */
    int slot_fd;
};

struct cleat_child {
    pid_t pid; /* 0: none. The group's number too */
    int pidfd; /* -1: none, or reaped */
    bool reaped;
    int exit_code;   /* once reaped: -1 when a signal ended it, or unknown */
    int exit_signal; /* once reaped: 0 when it exited, or unknown */
};

/* 0 or errno, and then nothing is left. */
int cleat_child_maker_init(struct cleat_child_maker *maker, int idle_fd);
void cleat_child_maker_close(struct cleat_child_maker *maker);

/* Starts `path` with `channel_fd` as its descriptor CLEAT_LINUX_CHANNEL_FD.
 * channel_fd is closed in every case. 0 with *child filled, or errno, and then
 * no process is left. */
int cleat_child_start(struct cleat_child_maker *maker, const char *path,
                      char *const argv[], char *const envp[], int channel_fd,
                      struct cleat_child *child);

/* Kills it and its group, if it has not been reaped. */
void cleat_child_kill(const struct cleat_child *child);

/* Reaps it, if it has ended: what is left of its group is killed first, while
 * the group's number is still its own. True when it is reaped now. */
bool cleat_child_reap(struct cleat_child *child);

/* Waits until it has ended or the deadline. True when it is reaped now. */
bool cleat_child_await(struct cleat_child *child, uint64_t deadline_ns);

#endif
