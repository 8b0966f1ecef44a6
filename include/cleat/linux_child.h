/* Cleat: child processes of the Linux port. SPDX-License-Identifier: Apache-2.0
 *
 * Each child leads a process group of its own and is known by a pidfd, so that
 * it is never mistaken for another process that got its number later. What
 * children are started with is made once, in the caller's block, since the C
 * library allocates for it; starting one allocates nothing. Needs Linux 5.4
 * (waitid of a pidfd) and glibc 2.34 (children without our descriptors).
 */
#ifndef CLEAT_LINUX_CHILD_H
#define CLEAT_LINUX_CHILD_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How many descriptors a child is given at most, and their numbers there. */
#define CLEAT_LINUX_CHILD_FDS_MAX 4u
#define CLEAT_LINUX_CHILD_FD_MAX 9

struct cleat_linux_child_maker; /* lies at the start of the caller's block */

#define CLEAT_LINUX_CHILD_MAKER_BYTES 1024u

/* One child. All zero: none; the caller's own, to be moved as it likes. */
struct cleat_linux_child {
    int32_t pid; /* 0: none. The group's number too */
    int pidfd;   /* readable when it has ended; -1: none, or reaped */
    bool reaped;
    int exit_code;   /* once reaped: -1 when a signal ended it, or unknown */
    int exit_signal; /* once reaped: 0 when it exited, or unknown */
};

/* Makes what children are started with.
 *   block      aligned to CLEAT_LINUX_ALIGN, CLEAT_LINUX_CHILD_MAKER_BYTES
 *   fds        the numbers, 0 … CLEAT_LINUX_CHILD_FD_MAX, that what a child is
 *              given has there. Where 0 is not among them it reads /dev/null
 *              there; 1 and 2 are ours where they are not; above 2 and above
 *              the highest of them it has no descriptor
 *   fds_count  1 … CLEAT_LINUX_CHILD_FDS_MAX
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset; CLEAT_IO with errno in port_code. On error nothing is left. */
enum cleat_status cleat_linux_child_maker_init(
    void *block, size_t bytes, const int *fds, uint32_t fds_count,
    struct cleat_linux_child_maker **out, struct cleat_error *error);

/* Ends it; children stay. */
void cleat_linux_child_maker_close(struct cleat_linux_child_maker *maker);

/* Starts a child: no signal blocked or ignored (but SIGHUP, as it is with us),
 * leader of a group of its own. Any thread; one at a time gets through. Blocks
 * until the program runs.
 *   path    the program; not searched for; relative to the folder
 *   argv    NULL-terminated, argv[0] included
 *   envp    NULL-terminated
 *   fds     what it is given, as many as were said at init; the caller's, and
 *           to be closed by it
 *   folder  a descriptor of the folder that it begins in; -1: ours
 * Returns CLEAT_OK with *child filled; CLEAT_IO with errno in port_code, and
 * then no process is left. */
enum cleat_status cleat_linux_child_start(struct cleat_linux_child_maker *maker,
                                          const char *path, char *const argv[],
                                          char *const envp[], const int *fds,
                                          int folder,
                                          struct cleat_linux_child *child,
                                          struct cleat_error *error);

/* Sends a signal to it and all of its group, if it has not been reaped. */
void cleat_linux_child_signal(const struct cleat_linux_child *child,
                              int signal_number);

/* Reaps it, if it has ended: what is left of its group is killed first, while
 * the group's number is still its own. A child that the host or the system
 * reaped counts as reaped, how it ended unknown. Closes the pidfd. True when it
 * is reaped now. */
bool cleat_linux_child_reap(struct cleat_linux_child *child);

/* Waits until it has ended or the deadline. True when it is reaped now. */
bool cleat_linux_child_await(struct cleat_linux_child *child,
                             uint64_t deadline_ns);

#ifdef __cplusplus
}
#endif
#endif
