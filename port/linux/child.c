/* Cleat: child processes. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "cleat/linux_child.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "cleat/linux.h"
#include "system.h"

/* Linux 5.1 and 5.4; the C library may be older than the kernel. */
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#define WAIT_BY_PIDFD ((idtype_t)3) /* P_PIDFD */

#define HELD_NS (10 * CLEAT_NS_PER_MS) /* between looks at one that is held */

/* Slots must not have a number that a child knows something by. */
#define SLOT_FD_MIN (CLEAT_LINUX_CHILD_FD_MAX + 1)

/* Actions that are made once can only name descriptors by number: each thing
 * that a child is given passes through a slot, a number kept for it. */
struct cleat_linux_child_maker {
    pthread_mutex_t lock; /* one child at a time passes through the slots */
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_t actions_elsewhere; /* in a folder of its own */
    posix_spawnattr_t attributes;
    uint32_t fds_count;
    int fds[CLEAT_LINUX_CHILD_FDS_MAX]; /* in the child */
    int idle_fd; /* /dev/null, what slots are copies of between children */
    int slots[CLEAT_LINUX_CHILD_FDS_MAX];
    int folder_slot;
};
_Static_assert(sizeof(struct cleat_linux_child_maker) <=
                   CLEAT_LINUX_CHILD_MAKER_BYTES,
               "maker");

/* ---- what children are started with ------------------------------------- */

static int fill_fds(const struct cleat_linux_child_maker *maker,
                    posix_spawn_file_actions_t *actions)
{
    int highest = 2;
    int code = posix_spawn_file_actions_addopen(actions, 0, "/dev/null",
                                                O_RDONLY, 0);

    for (uint32_t i = 0; i < maker->fds_count && code == 0; i++) {
        if (maker->fds[i] > highest) { highest = maker->fds[i]; }
        code = posix_spawn_file_actions_adddup2(actions, maker->slots[i],
                                                maker->fds[i]);
    }
    if (code == 0) {
        code = posix_spawn_file_actions_addclosefrom_np(actions, highest + 1);
    }
    return code;
}

/* One set of actions; 0 or errno, and then none is left. */
static int make_actions(const struct cleat_linux_child_maker *maker,
                        bool elsewhere, posix_spawn_file_actions_t *actions)
{
    int code = posix_spawn_file_actions_init(actions);

    if (code != 0) { return code; }
    if (elsewhere) {
        code = posix_spawn_file_actions_addfchdir_np(actions,
                                                     maker->folder_slot);
    }
    if (code == 0) { code = fill_fds(maker, actions); }
    if (code != 0) { (void)posix_spawn_file_actions_destroy(actions); }
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

static int make_attributes(posix_spawnattr_t *attributes)
{
    int code = posix_spawnattr_init(attributes);

    if (code != 0) { return code; }
    code = fill_attributes(attributes);
    if (code != 0) { (void)posix_spawnattr_destroy(attributes); }
    return code;
}

static int make_slot(int idle_fd, int *slot)
{
    *slot = fcntl(idle_fd, F_DUPFD_CLOEXEC, SLOT_FD_MIN);
    if (*slot >= 0) { return 0; }
    /* EINVAL: not even SLOT_FD_MIN descriptors are allowed. */
    return errno == EINVAL ? EMFILE : errno;
}

static int make_slots(struct cleat_linux_child_maker *maker)
{
    maker->idle_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (maker->idle_fd < 0) { return errno; }
    int code = make_slot(maker->idle_fd, &maker->folder_slot);
    for (uint32_t i = 0; i < maker->fds_count && code == 0; i++) {
        code = make_slot(maker->idle_fd, &maker->slots[i]);
    }
    return code;
}

static void close_slots(struct cleat_linux_child_maker *maker)
{
    for (uint32_t i = 0; i < CLEAT_LINUX_CHILD_FDS_MAX; i++) {
        cleat_linux_close(&maker->slots[i]);
    }
    cleat_linux_close(&maker->folder_slot);
    cleat_linux_close(&maker->idle_fd);
}

/* What the C library allocates for; 0 or errno, and then none is left. */
static int make_sets(struct cleat_linux_child_maker *maker)
{
    int code = make_actions(maker, false, &maker->actions);

    if (code != 0) { return code; }
    code = make_actions(maker, true, &maker->actions_elsewhere);
    if (code == 0) {
        code = make_attributes(&maker->attributes);
        if (code != 0) {
            (void)posix_spawn_file_actions_destroy(&maker->actions_elsewhere);
        }
    }
    if (code != 0) { (void)posix_spawn_file_actions_destroy(&maker->actions); }
    return code;
}

static enum cleat_status check_fds(const int *fds, uint32_t fds_count,
                                   struct cleat_error *error)
{
    bool good = fds != NULL && fds_count > 0 &&
                fds_count <= CLEAT_LINUX_CHILD_FDS_MAX;

    for (uint32_t i = 0; good && i < fds_count; i++) {
        good = fds[i] >= 0 && fds[i] <= CLEAT_LINUX_CHILD_FD_MAX;
    }
    return good ? CLEAT_OK
                : cleat_error_set(error, CLEAT_INVALID, 3, 0,
                                  "a child is given 1 to 4 descriptors, with "
                                  "numbers 0 to 9");
}

enum cleat_status cleat_linux_child_maker_init(
    void *block, size_t bytes, const int *fds, uint32_t fds_count,
    struct cleat_linux_child_maker **out, struct cleat_error *error)
{
    if (out == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 5, 0, "out is NULL");
    }
    *out = NULL;
    enum cleat_status status = check_fds(fds, fds_count, error);
    if (status != CLEAT_OK) { return status; }
    status = cleat_linux_block_check(block, bytes,
                                     CLEAT_LINUX_CHILD_MAKER_BYTES, error);
    if (status != CLEAT_OK) { return status; }

    struct cleat_linux_child_maker *maker = block;
    memset(maker, 0, sizeof *maker);
    memset(maker->slots, 0xFF, sizeof maker->slots); /* -1 */
    maker->folder_slot = -1;
    maker->fds_count = fds_count;
    memcpy(maker->fds, fds, fds_count * sizeof *fds);
    int code = make_slots(maker);
    if (code == 0) { code = make_sets(maker); }
    if (code != 0) {
        close_slots(maker);
        return cleat_linux_io_error(error, code, 0,
                                    "making what children are started with");
    }
    (void)pthread_mutex_init(&maker->lock, NULL);
    *out = maker;
    return CLEAT_OK;
}

void cleat_linux_child_maker_close(struct cleat_linux_child_maker *maker)
{
    (void)posix_spawn_file_actions_destroy(&maker->actions);
    (void)posix_spawn_file_actions_destroy(&maker->actions_elsewhere);
    (void)posix_spawnattr_destroy(&maker->attributes);
    close_slots(maker);
    (void)pthread_mutex_destroy(&maker->lock);
}

/* ---- a child ------------------------------------------------------------ */

static int fill_slots(const struct cleat_linux_child_maker *maker,
                      const int *fds, int folder)
{
    for (uint32_t i = 0; i < maker->fds_count; i++) {
        if (dup3(fds[i], maker->slots[i], O_CLOEXEC) < 0) { return errno; }
    }
    if (folder >= 0 && dup3(folder, maker->folder_slot, O_CLOEXEC) < 0) {
        return errno;
    }
    return 0;
}

/* A channel's end left in a slot would hide the child's death. */
static void empty_slots(const struct cleat_linux_child_maker *maker)
{
    for (uint32_t i = 0; i < maker->fds_count; i++) {
        (void)dup3(maker->idle_fd, maker->slots[i], O_CLOEXEC);
    }
    (void)dup3(maker->idle_fd, maker->folder_slot, O_CLOEXEC);
}

static int spawn_through_slots(struct cleat_linux_child_maker *maker,
                               const char *path, char *const argv[],
                               char *const envp[], const int *fds, int folder,
                               pid_t *pid)
{
    (void)pthread_mutex_lock(&maker->lock);
    int code = fill_slots(maker, fds, folder);
    if (code == 0) {
        code = posix_spawn(pid, path,
                           folder >= 0 ? &maker->actions_elsewhere
                                       : &maker->actions,
                           &maker->attributes, argv, envp);
    }
    empty_slots(maker);
    (void)pthread_mutex_unlock(&maker->lock);
    return code;
}

enum cleat_status cleat_linux_child_start(struct cleat_linux_child_maker *maker,
                                          const char *path, char *const argv[],
                                          char *const envp[], const int *fds,
                                          int folder,
                                          struct cleat_linux_child *child,
                                          struct cleat_error *error)
{
    pid_t pid = 0;

    memset(child, 0, sizeof *child);
    child->pidfd = -1;
    child->exit_code = -1;
    int code = spawn_through_slots(maker, path, argv, envp, fds, folder, &pid);
    if (code != 0) {
        return cleat_linux_io_error(error, code, 0, "starting a child");
    }
    /* Where nobody else reaps our children, the number is still its own. */
    child->pidfd = cleat_linux_pidfd_open(pid);
    if (child->pidfd < 0) {
        code = errno;
        /* ESRCH: the host has reaped it, and the number may be another's. */
        if (code != ESRCH) { (void)kill(-pid, SIGKILL); }
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
        return cleat_linux_io_error(error, code, 0, "watching a child");
    }
    child->pid = pid;
    return CLEAT_OK;
}

/* Where the host ignores SIGCHLD, or waits for all children itself, its number
 * may be another's before we have heard of its end: the descriptor knows. */
static bool is_gone(const struct cleat_linux_child *child)
{
    return syscall(SYS_pidfd_send_signal, child->pidfd, 0, NULL, 0) != 0 &&
           errno == ESRCH;
}

void cleat_linux_child_signal(const struct cleat_linux_child *child,
                              int signal_number)
{
    if (child->pid > 0 && !child->reaped && !is_gone(child)) {
        (void)kill(-child->pid, signal_number);
    }
}

static void note_end(struct cleat_linux_child *child, const siginfo_t *info)
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

bool cleat_linux_child_reap(struct cleat_linux_child *child)
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

bool cleat_linux_child_await(struct cleat_linux_child *child,
                             uint64_t deadline_ns)
{
    while (!cleat_linux_child_reap(child)) {
        uint64_t now_ns = cleat_linux_now_ns();
        struct pollfd ended = {.fd = child->pidfd, .events = POLLIN};
        if (child->pid <= 0 || now_ns >= deadline_ns) { return false; }
        /* Who traces it (a debugger) may hold it after its end, and gives no
         * notice. */
        bool held = poll(&ended, 1, 0) > 0;
        uint64_t until_ns = held
                                ? cleat_linux_min(deadline_ns, now_ns + HELD_NS)
                                : deadline_ns;
        struct timespec left = cleat_linux_timespec(
            cleat_linux_until(now_ns, until_ns));
        (void)ppoll(&ended, held ? 0 : 1,
                    until_ns == CLEAT_NEVER ? NULL : &left, NULL);
    }
    return true;
}
