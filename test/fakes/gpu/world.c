/* Cleat: what the fake GPU libraries of all processes share.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x636c656174677075)

static void settle(struct fake_settings *settings)
{
    memset(settings, 0, sizeof *settings);
    settings->memory_bytes = UINT64_C(1) << 30;
    settings->seed = 1;
    settings->devices = 8;
    settings->steps = 4;
    settings->in_progress = 1;
    settings->death = FAKE_DEATH_SILENT;
}

/* ---- plans ---------------------------------------------------------------
 */

static bool read_number(const char *text, uint64_t *value)
{
    char *end;

    errno = 0;
    *value = strtoull(text, &end, 10);
    if (end == text || errno != 0 || *text == '-') return false;
    switch (*end) {
    case 'K': *value <<= 10; return end[1] == '\0';
    case 'M': *value <<= 20; return end[1] == '\0';
    case 'G': *value <<= 30; return end[1] == '\0';
    default: return *end == '\0';
    }
}

static bool read_death(struct fake_settings *settings, const char *text)
{
    uint64_t polls = 0;

    settings->death = FAKE_DEATH_SILENT;
    if (strcmp(text, "silent") == 0) return true;
    settings->death = FAKE_DEATH_RESET;
    if (strcmp(text, "reset") == 0) return true;
    if (strncmp(text, "reset:", 6) != 0 || !read_number(text + 6, &polls)) {
        return false;
    }
    settings->reset_polls = (uint32_t)polls;
    return true;
}

static bool read_setting(struct fake_settings *settings, const char *name,
                         const char *text)
{
    const struct {
        const char *name;
        uint32_t *value;
    } known[] = {
        {"devices", &settings->devices},
        {"driver", &settings->driver},
        {"init", &settings->init_code},
        {"steps", &settings->steps},
        {"manual", &settings->manual},
        {"in_progress", &settings->in_progress},
        {"lenient", &settings->lenient},
        {"real_roots", &settings->real_roots},
        {"real_threads", &settings->real_threads},
    };
    uint64_t value;

    if (strcmp(name, "death") == 0) return read_death(settings, text);
    if (!read_number(text, &value)) return false;
    if (strcmp(name, "memory") == 0) {
        settings->memory_bytes = value;
        return true;
    }
    if (strcmp(name, "seed") == 0) {
        settings->seed = value;
        return true;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(name, known[i].name) == 0) {
            *known[i].value = (uint32_t)value;
            return true;
        }
    }
    return false;
}

static bool read_action(struct fake_rule *rule, const char *text)
{
    static const char *const names[] = {
        "", "fail", "late", "delay", "never", "garble", "kill", "stop", "hang"};

    for (uint32_t i = 1; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i]) == 0) {
            rule->action = i;
            return true;
        }
    }
    return false;
}

/* Cuts `text` at the last `mark`; NULL when there is none. */
static char *cut(char *text, char mark)
{
    char *at = strrchr(text, mark);

    if (at == NULL) return NULL;
    *at = '\0';
    return at + 1;
}

static bool read_selector(struct fake_rule *rule, const char *text)
{
    uint64_t value;
    const char *equals = strchr(text, '=');

    if (equals == NULL || !read_number(equals + 1, &value)) return false;
    if (strncmp(text, "rank=", 5) == 0) {
        rule->rank = (int32_t)value;
        return true;
    }
    if (strncmp(text, "process=", 8) == 0) {
        rule->process = (int32_t)value;
        return true;
    }
    return false;
}

static bool read_rule(struct fake_rule *rule, char *text)
{
    uint64_t value = 1;
    char *part;

    memset(rule, 0, sizeof *rule);
    rule->first = 1;
    rule->times = 1;
    rule->process = FAKE_ANY;
    rule->rank = FAKE_ANY;
    while ((part = cut(text, '@')) != NULL) {
        if (!read_selector(rule, part)) return false;
    }
    part = cut(text, '*');
    if (part != NULL) {
        if (!read_number(part, &value)) return false;
        rule->times = (uint32_t)value;
    }
    part = cut(text, '=');
    if (part != NULL && !read_number(part, &rule->value)) return false;
    part = cut(text, ':');
    if (part == NULL || !read_action(rule, part)) return false;
    part = cut(text, '#');
    if (part != NULL) {
        if (!read_number(part, &value) || value == 0) return false;
        rule->first = (uint32_t)value;
    }
    if (strlen(text) >= FAKE_NAME_MAX || *text == '\0') return false;
    memcpy(rule->call, text, strlen(text) + 1);
    return true;
}

static bool add_rule(struct fake_world *world, char *text)
{
    struct fake_rule rule;

    if (!read_rule(&rule, text)) return false;
    for (uint32_t i = 0; i < FAKE_RULES_MAX; i++) {
        if (world->rules[i].serial == 0) {
            world->rules[i] = rule;
            FAKE_STORE(world->rules[i].serial, ++world->serial);
            return true;
        }
    }
    return false;
}

static bool read_item(struct fake_world *world, char *item)
{
    char *equals;

    if (strchr(item, ':') != NULL && strncmp(item, "death=", 6) != 0) {
        return add_rule(world, item);
    }
    equals = strchr(item, '=');
    if (equals == NULL) return false;
    *equals = '\0';
    return read_setting(&world->settings, item, equals + 1);
}

bool fake_world_plan(struct fake_world *world, const char *plan, char *fault)
{
    char item[100];
    char copy[100];

    while (*plan != '\0') {
        size_t length = strcspn(plan, " ;\t\n");
        size_t kept = length < sizeof item ? length : sizeof item - 1;

        memcpy(item, plan, kept);
        item[kept] = '\0';
        memcpy(copy, item, kept + 1);
        if (length > 0 && !read_item(world, item)) {
            memcpy(fault, copy, kept + 1);
            return false;
        }
        plan += length + (plan[length] != '\0');
    }
    return true;
}

/* ---- processes -----------------------------------------------------------
 */

/* The state letter and the start time of a process; false: there is none.
 * The command's name may hold anything, so reading starts behind its last
 * bracket. */
static bool look_at(int32_t pid, char *state, uint64_t *started)
{
    char path[40];
    char text[1024];
    char *at;
    int file;
    ssize_t got;

    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    got = read(file, text, sizeof text - 1);
    (void)close(file); /* leaves errno as it is */
    if (got <= 0) return false;
    text[got] = '\0';
    at = strrchr(text, ')');
    if (at == NULL || at[1] != ' ') return false;
    *state = at[2];
    at += 2;
    for (int field = 3; field < 22; field++) {
        at = strchr(at, ' ');
        if (at == NULL) return false;
        at++;
    }
    *started = strtoull(at, NULL, 10);
    return true;
}

bool fake_process_gone(int32_t pid, uint64_t started)
{
    char state;
    uint64_t now;

    errno = 0;
    /* Who has no descriptor left to look with has seen nobody die. */
    if (!look_at(pid, &state, &now)) return errno == ENOENT || errno == ESRCH;
    return state == 'Z' || state == 'X' || now != started;
}

uint64_t fake_world_used(const struct fake_world *world, uint32_t device)
{
    int64_t sum = 0;

    for (uint32_t i = 0; i < FAKE_PROCESSES_MAX; i++) {
        const struct fake_process *process = &world->processes[i];
        const int64_t used = FAKE_LOAD(process->used[device]);

        if (used != 0 && !fake_process_gone(process->pid, process->started)) {
            sum += used;
        }
    }
    return sum > 0 ? (uint64_t)sum : 0;
}

uint32_t fake_world_join(struct fake_world *world)
{
    int32_t self = (int32_t)getpid();
    uint32_t slot = FAKE_PROCESSES_MAX;
    char state;
    uint64_t started = 0;

    (void)look_at(self, &state, &started);
    for (uint32_t i = 0; i < FAKE_PROCESSES_MAX; i++) {
        struct fake_process *process = &world->processes[i];

        if (process->pid == self && process->started == started) return i;
        if (slot == FAKE_PROCESSES_MAX && process->pid == 0) slot = i;
    }
    for (uint32_t i = 0; slot == FAKE_PROCESSES_MAX && i < slot; i++) {
        struct fake_process *process = &world->processes[i];

        if (fake_process_gone(process->pid, process->started)) slot = i;
    }
    if (slot == FAKE_PROCESSES_MAX) {
        (void)fprintf(stderr, "fake GPU: more than %d processes\n",
                      FAKE_PROCESSES_MAX);
        abort();
    }
    memset(&world->processes[slot], 0, sizeof world->processes[slot]);
    world->processes[slot].pid = self;
    world->processes[slot].started = started;
    world->processes[slot].number = world->arrivals++;
    world->processes[slot].rank = -1;
    return slot;
}

/* ---- the world -----------------------------------------------------------
 */

static void make(struct fake_world *world)
{
    pthread_mutexattr_t robust;

    (void)pthread_mutexattr_init(&robust);
    (void)pthread_mutexattr_setpshared(&robust, PTHREAD_PROCESS_SHARED);
    (void)pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    (void)pthread_mutex_init(&world->lock, &robust);
    (void)pthread_mutexattr_destroy(&robust);
    settle(&world->settings);
    world->bytes_of_counts = (uint32_t)sizeof(struct fake_counts);
}

/* *made: it is new, or whoever was to make it was killed over that; there is no
 * magic in it before it is finished. */
static struct fake_world *map(int file, bool *made, const char **why)
{
    struct fake_world *world;
    struct stat status;

    *why = "its file cannot be read or enlarged";
    if (fstat(file, &status) != 0) return NULL;
    if (status.st_size == 0 && ftruncate(file, sizeof *world) != 0) return NULL;
    *why = "its file has another size: it is of another build";
    if (status.st_size != 0 && (size_t)status.st_size != sizeof *world) {
        return NULL;
    }
    *why = "its file cannot be mapped";
    world = mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED, file,
                 0);
    if (world == MAP_FAILED) return NULL;
    /* Mostly holes: reading ahead would fill memory with zeroes. */
    (void)madvise(world, sizeof *world, MADV_RANDOM);
    *made = world->magic == 0;
    if (*made) make(world);
    *why = "its file is none of a world";
    return *made || world->magic == MAGIC ? world : NULL;
}

struct fake_world *fake_world_open(const char *path, const char *plan,
                                   const char **why)
{
    static char fault[100];
    struct fake_world *world;
    bool made;
    int file;

    if (path == NULL || *path == '\0') {
        file = memfd_create("fake-gpu-world", MFD_CLOEXEC);
    } else {
        file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    }
    *why = "its file cannot be opened";
    if (file < 0) return NULL;
    while (flock(file, LOCK_EX) != 0 && errno == EINTR) {}
    /* Others find it finished. */
    world = map(file, &made, why);
    if (world != NULL && made) {
        if (plan == NULL || fake_world_plan(world, plan, fault)) {
            world->magic = MAGIC;
        } else {
            *why = fault;
            world = NULL;
        }
    }
    (void)flock(file, LOCK_UN);
    (void)close(file);
    return world;
}

void fake_world_close(struct fake_world *world)
{
    (void)munmap(world, sizeof *world);
}

/* Without waiting in the kernel: who is woken there and killed before it has
 * the lock takes the wake-up with it, and others would sleep for ever. */
static int try_again_and_again(pthread_mutex_t *lock)
{
    const struct timespec pause = {0, 50000};
    int code = pthread_mutex_trylock(lock);

    for (uint32_t tries = 0; code == EBUSY; tries++) {
        if (tries < 100) {
            (void)sched_yield();
        } else {
            (void)nanosleep(&pause, NULL);
        }
        code = pthread_mutex_trylock(lock);
    }
    return code;
}

void fake_world_lock(struct fake_world *world)
{
    int code = try_again_and_again(&world->lock);

    /* What a killed process was writing is its own; the rest is whole. */
    if (code == EOWNERDEAD) code = pthread_mutex_consistent(&world->lock);
    if (code != 0) {
        (void)fprintf(stderr, "fake GPU: the world's lock: error %d\n", code);
        abort();
    }
}

void fake_world_unlock(struct fake_world *world)
{
    (void)pthread_mutex_unlock(&world->lock);
}

/* Whoever clears it may be killed over that: a clique that has a serial is
 * cleared once more, and so that is what goes last. Until then it is one that
 * is nobody's. */
void fake_clique_clear(struct fake_clique *clique)
{
    FAKE_STORE(clique->serial, UINT64_MAX);
    for (uint32_t from = 0; from < FAKE_RANKS_MAX; from++) {
        for (uint32_t to = 0; to < FAKE_RANKS_MAX; to++) {
            memset(&clique->channels[from][to], 0,
                   offsetof(struct fake_channel, data));
        }
    }
    clique->ranks = 0;
    clique->root = 0;
    clique->broken = false;
    clique->complete = false;
    clique->duplicate = false;
    memset(clique->members, 0, sizeof clique->members);
    FAKE_STORE(clique->key, UINT64_C(0));
    FAKE_STORE(clique->serial, UINT64_C(0));
}

void fake_world_reset(struct fake_world *world)
{
    settle(&world->settings);
    memset(world->rules, 0, sizeof world->rules);
    memset(world->roots, 0, sizeof world->roots);
    for (uint32_t i = 0; i < FAKE_CLIQUES_MAX; i++) {
        if (world->cliques[i].key != 0) fake_clique_clear(&world->cliques[i]);
    }
    for (uint32_t i = 0; i < FAKE_PROCESSES_MAX; i++) {
        struct fake_process *process = &world->processes[i];

        memset(&process->counts, 0, sizeof process->counts);
        memset(process->used, 0, sizeof process->used);
        process->rank = -1;
        process->released = 0;
    }
}
