/* Cleat: who is attached to a store in memory, and who of them is dead.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A process is its number and the time at which it started, so that a later one
 * with the same number is told from it (proc(5), /proc/PID/stat, members 1, 3,
 * 20 and 22). Another PID namespace shows other numbers, another time namespace
 * other times (time_namespaces(7)): of both, the store is for one. A zombie
 * that has one thread left is dead: that thread is the zombie. */
#define _GNU_SOURCE
#include "store_table.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PID_BITS 22 /* Linux: at most 4194304 */
#define PID_MASK ((UINT64_C(1) << PID_BITS) - 1)

struct stat_line {
    char state;
    uint64_t threads;
    uint64_t started; /* clock ticks since boot; 0: not known */
};

/* "/proc/PID/stat"; `path` has 32 bytes. */
static void stat_path(uint64_t pid, char *path)
{
    char digits[20];
    size_t count = 0;
    size_t at = 6;

    memcpy(path, "/proc/", 6);
    do {
        digits[count++] = (char)('0' + pid % 10);
        pid /= 10;
    } while (pid != 0);
    while (count > 0) { path[at++] = digits[--count]; }
    memcpy(path + at, "/stat", 6);
}

/* The number in member `member` of a line whose member 3 starts at `text`. */
static uint64_t member_of(const char *text, int member)
{
    uint64_t number = 0;

    for (int i = 3; i < member; i++) {
        text = strchr(text, ' ');
        if (text == NULL) { return 0; }
        text++;
    }
    while (*text >= '0' && *text <= '9') {
        number = number * 10 + (uint64_t)(*text++ - '0');
    }
    return number;
}

/* Returns 0, or errno. */
static int stat_read(uint64_t pid, struct stat_line *line)
{
    char path[32];
    char text[1024];
    const char *after_name;
    ssize_t bytes;
    int fd;

    memset(line, 0, sizeof *line);
    stat_path(pid, path);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) { return errno; }
    bytes = read(fd, text, sizeof text - 1);
    (void)close(fd);
    if (bytes <= 0) { return ESRCH; }
    text[bytes] = '\0';
    /* The name may have anything in it, but not behind its last bracket. */
    after_name = strrchr(text, ')');
    if (after_name == NULL || after_name[1] == '\0') { return EINVAL; }
    line->state = after_name[2];
    line->threads = member_of(after_name + 2, 20);
    line->started = member_of(after_name + 2, 22);
    return 0;
}

static uint64_t identity_of(uint64_t pid, uint64_t started)
{
    return started << PID_BITS | pid;
}

static bool is_dead(uint64_t identity)
{
    uint64_t pid = identity & PID_MASK;
    uint64_t started = identity >> PID_BITS;
    struct stat_line line;
    int error;

    if (identity == 0 || pid == 0) { return true; }
    if (kill((pid_t)pid, 0) != 0 && errno == ESRCH) { return true; }
    error = stat_read(pid, &line);
    if (error == ENOENT || error == ESRCH) {
        return kill((pid_t)pid, 0) != 0 && errno == ESRCH;
    }
    if (error != 0 || started == 0) { return false; } /* cannot be told */
    return identity_of(pid, line.started) != identity ||
           ((line.state == 'Z' || line.state == 'X') && line.threads <= 1);
}

/* A namespace's number, of 32 bits; 0: not known, or no such kind. */
static uint64_t number_of(const char *path)
{
    struct stat about;

    return stat(path, &about) == 0 ? (uint64_t)about.st_ino : 0;
}

uint64_t cleat_memory_table_namespace(void)
{
    return number_of("/proc/self/ns/pid") << 32 ^
           number_of("/proc/self/ns/time");
}

bool cleat_memory_table_dead(const struct store_table *t, uint64_t identity,
                             struct store_judged *judged)
{
    uint32_t at = (uint32_t)(identity % STORE_JUDGED);

    if (identity == t->identity) { return false; }
    if (identity == 0) { return true; }
    if (judged->identity[at] != identity) {
        judged->identity[at] = identity;
        judged->dead[at] = is_dead(identity);
    }
    return judged->dead[at];
}

bool cleat_memory_table_join(struct store_table *t)
{
    struct stat_line line;
    uint64_t pid = (uint64_t)getpid();

    (void)stat_read(pid, &line);
    t->identity = identity_of(pid, line.started);
    for (uint32_t slot = 0; slot < t->shape.processes_count; slot++) {
        uint64_t was = atomic_load(&t->processes[slot]);

        if (was == t->identity || (was != 0 && !is_dead(was))) { continue; }
        if (!atomic_compare_exchange_strong(&t->processes[slot], &was,
                                            t->identity)) {
            continue;
        }
        t->slot = slot;
        (void)cleat_memory_table_inherit(t);
        return true;
    }
    return false;
}

void cleat_memory_table_leave(struct store_table *t)
{
    uint64_t identity = t->identity;

    (void)atomic_compare_exchange_strong(&t->processes[t->slot], &identity, 0);
}
