/* Cleat: child processes. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "child.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "cleat/linux.h"
#include "system.h"

/* Linux 5.3 and 5.4; the C library may be older than the kernel. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#define WAIT_BY_PIDFD ((idtype_t)3) /* P_PIDFD */

/* Descriptors that a child inherits by chance have lower numbers than this,
 * mostly; slot_fd must not be one of 0 … CLEAT_LINUX_CHANNEL_FD. */
#define SLOT_FD_MIN 10

static int fill_actions(posix_spawn_file_actions_t *actions, int slot_fd)
{
    int code = posix_spawn_file_actions_addopen(actions, 0, "/dev/null",
                                                O_RDONLY, 0);

    if (code == 0) {
        code = posix_spawn_file_actions_adddup2(actions, slot_fd,
                                                CLEAT_LINUX_CHANNEL_FD);
    }
    if (code == 0) {
        code = posix_spawn_file_actions_addclosefrom_np(
            actions, CLEAT_LINUX_CHANNEL_FD + 1);
    }
    return code;
}

static int fill_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none;
    sigset_t usual;

    (void)sigemptyset(&none);
    (void)sigfillset(&usual);
    (void)sigdelset(&usual, SIGHUP); /* nohup is meant for children too */
    int code = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETPGROUP |
                                                        POSIX_SPAWN_SETSIGMASK |
                                                        POSIX_SPAWN_SETSIGDEF);
    if (code == 0) { code = posix_spawnattr_setpgroup(attributes, 0); }
    if (code == 0) { code = posix_spawnattr_setsigmask(attributes, &none); }
    if (code == 0) { code = posix_spawnattr_setsigdefault(attributes, &usual); }
    return code;
}

int cleat_child_maker_init(struct cleat_child_maker *maker, int idle_fd)
{
    memset(maker, 0, sizeof *maker);
    maker->idle_fd = idle_fd;
    maker->slot_fd = fcntl(idle_fd, F_DUPFD_CLOEXEC, SLOT_FD_MIN);
    /* EINVAL: not even SLOT_FD_MIN descriptors are allowed. */
    if (maker->slot_fd < 0) { return errno == EINVAL ? EMFILE : errno; }
    int code = posix_spawn_file_actions_init(&maker->actions);
    if (code != 0) {
        cleat_linux_close(&maker->slot_fd);
        return code;
    }
    code = posix_spawnattr_init(&maker->attributes);
    if (code == 0) {
        code = fill_actions(&maker->actions, maker->slot_fd);
        if (code == 0) { code = fill_attributes(&maker->attributes); }
        if (code != 0) { (void)posix_spawnattr_destroy(&maker->attributes); }
    }
    if (code != 0) {
        (void)posix_spawn_file_actions_destroy(&maker->actions);
        cleat_linux_close(&maker->slot_fd);
        return code;
    }
    (void)pthread_mutex_init(&maker->lock, NULL);
    return 0;
}

void cleat_child_maker_close(struct cleat_child_maker *maker)
{
    (void)posix_spawn_file_actions_destroy(&maker->actions);
    (void)posix_spawnattr_destroy(&maker->attributes);
    cleat_linux_close(&maker->slot_fd);
    (void)pthread_mutex_destroy(&maker->lock);
}

/* Starts it with the channel's end in the slot, and empties the slot again:
 * an end left there would hide the child's death. */
static int spawn_through_slot(struct cleat_child_maker *maker, const char *path,
                              char *const argv[], char *const envp[],
                              int channel_fd, pid_t *pid)
{
    int code = 0;

    if (dup3(channel_fd, maker->slot_fd, O_CLOEXEC) < 0) { code = errno; }
    (void)close(channel_fd);
    if (code == 0) {
        code = posix_spawn(pid, path, &maker->actions, &maker->attributes, argv,
                           envp);
    }
    (void)dup3(maker->idle_fd, maker->slot_fd, O_CLOEXEC);
    return code;
}

int cleat_child_start(struct cleat_child_maker *maker, const char *path,
                      char *const argv[], char *const envp[], int channel_fd,
                      struct cleat_child *child)
{
    pid_t pid = 0;

    memset(child, 0, sizeof *child);
    child->pidfd = -1;
    child->exit_code = -1;
    (void)pthread_mutex_lock(&maker->lock);
    int code = spawn_through_slot(maker, path, argv, envp, channel_fd, &pid);
    (void)pthread_mutex_unlock(&maker->lock);
    if (code != 0) { return code; }
    /* Nobody else reaps our children, so the number is still its own. */
    child->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (child->pidfd < 0) {
        code = errno;
        (void)kill(-pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
        return code;
    }
    child->pid = pid;
    return 0;
}

/* Where the host ignores SIGCHLD, or waits for all children itself, its number
 * may be another's before we have heard of its end: the descriptor knows. */
static bool is_gone(const struct cleat_child *child)
{
    return syscall(SYS_pidfd_send_signal, child->pidfd, 0, NULL, 0) != 0 &&
           errno == ESRCH;
}

void cleat_child_kill(const struct cleat_child *child)
{
    if (child->pid > 0 && !child->reaped && !is_gone(child)) {
        (void)kill(-child->pid, SIGKILL);
    }
}

static void note_end(struct cleat_child *child, const siginfo_t *info)
{
    child->reaped = true;
    cleat_linux_close(&child->pidfd);
    if (info->si_pid == 0) { return; } /* somebody else has reaped it */
    if (info->si_code == CLD_EXITED) {
        child->exit_code = info->si_status;
    } else {
        child->exit_signal = info->si_status;
    }
}

bool cleat_child_reap(struct cleat_child *child)
{
    siginfo_t info;

    if (child->pid <= 0 || child->reaped) { return child->reaped; }
    memset(&info, 0, sizeof info);
    int looked = waitid(WAIT_BY_PIDFD, (id_t)child->pidfd, &info,
                        WEXITED | WNOHANG | WNOWAIT);
    if (looked != 0 && errno != ECHILD) { return false; }
    if (looked == 0) {
        if (info.si_pid == 0) { return false; }
        (void)kill(-child->pid, SIGKILL);
        (void)waitid(WAIT_BY_PIDFD, (id_t)child->pidfd, &info,
                     WEXITED | WNOHANG);
    }
    note_end(child, &info);
    return true;
}

bool cleat_child_await(struct cleat_child *child, uint64_t deadline_ns)
{
    while (!cleat_child_reap(child)) {
        uint64_t now_ns = cleat_linux_now_ns();
        struct pollfd ended = {.fd = child->pidfd, .events = POLLIN};
        struct timespec left = cleat_linux_timespec(
            cleat_linux_until(now_ns, deadline_ns));
        if (child->pid <= 0 || now_ns >= deadline_ns) { return false; }
        (void)ppoll(&ended, 1, deadline_ns == CLEAT_NEVER ? NULL : &left, NULL);
    }
    return true;
}
