/* Cleat: the fake Mooncake Store, what its processes share.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "test/fakes/mooncake/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x656b61466d6f6f43)
#define ARENA_BYTES_DEFAULT ((uint64_t)2 << 30)
/* Beyond the file: a client holds the byte with its number, and the kernel
 * lets go of it when the client's process ends. */
#define LIFE_BYTES ((off_t)1 << 40)

void fake_abort(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("fake mooncake: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    va_end(arguments);
    abort();
}

void *fake_scratch(size_t bytes)
{
    void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (address == MAP_FAILED) { fake_abort("no memory"); }
    return address;
}

void fake_scratch_free(void *address, size_t bytes)
{
    munmap(address, bytes);
}

/* ---- the file ------------------------------------------------------------ */

static uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t file_bytes(uint64_t arena_units)
{
    return sizeof(struct fake_state) + arena_units +
           (uint64_t)FAKE_KEY_UNITS * FAKE_UNIT_BYTES +
           arena_units * FAKE_UNIT_BYTES;
}

static void map(struct fake_mooncake *fake, uint64_t bytes)
{
    void *address = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE,
                         MAP_SHARED, fake->file, 0);

    if (address == MAP_FAILED) {
        fake_abort("cannot map the cluster: %s", strerror(errno));
    }
    fake->bytes = (size_t)bytes;
    fake->state = address;
}

static void place(struct fake_mooncake *fake)
{
    fake->arena_map = (unsigned char *)(fake->state + 1);
    fake->keys = fake->arena_map + fake->state->arena_units;
    fake->arena = fake->keys + (size_t)FAKE_KEY_UNITS * FAKE_UNIT_BYTES;
}

bool fake_open(const char *path, struct fake_mooncake *out)
{
    struct stat status;

    out->file = open(path, O_RDWR | O_CLOEXEC);
    if (out->file < 0) { return false; }
    if (fstat(out->file, &status) != 0 ||
        (size_t)status.st_size < sizeof(struct fake_state)) {
        close(out->file);
        return false;
    }
    map(out, (uint64_t)status.st_size);
    if (out->state->magic != MAGIC) { fake_abort("%s is no cluster", path); }
    place(out);
    return true;
}

void fake_close(struct fake_mooncake *fake)
{
    munmap(fake->state, fake->bytes);
    close(fake->file);
}

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
    return value != 0 ? value : otherwise;
}

static void set_lock(struct fake_state *state)
{
    pthread_mutexattr_t attributes;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&state->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

static void link_free(struct fake_state *state)
{
    state->free_object = FAKE_NOBODY;
    for (uint32_t i = FAKE_OBJECTS; i-- > 0;) {
        if (state->objects[i].state == FAKE_OBJECT_FREE) {
            state->objects[i].next = state->free_object;
            state->free_object = i;
        }
    }
}

void fake_make(const char *path, const struct fake_mooncake_config *config,
               struct fake_mooncake *out)
{
    uint64_t arena = config->arena_bytes ? config->arena_bytes
                                         : ARENA_BYTES_DEFAULT;
    uint64_t units = arena / FAKE_UNIT_BYTES;
    struct fake_state *state;

    (void)unlink(path);
    out->file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (out->file < 0 || ftruncate(out->file, (off_t)file_bytes(units)) != 0) {
        fake_abort("cannot make %s: %s", path, strerror(errno));
    }
    map(out, file_bytes(units));
    state = out->state;
    state->arena_units = units;
    state->config = *config;
    state->config.lease_ms = or_default(config->lease_ms, 10000);
    state->config.client_ttl_ms = or_default(config->client_ttl_ms, 10000);
    state->config.discard_ms = or_default(config->discard_ms, 30000);
    state->config.watermark_permil = or_default(config->watermark_permil, 900);
    state->config.eviction_permil = or_default(config->eviction_permil, 50);
    state->origin_ns = clock_ns();
    state->facts.rpc_timeout_ms = -1;
    state->facts.rpc_connect_timeout_ms = -1;
    memset(state->buckets, 0xFF, sizeof state->buckets);
    link_free(state);
    set_lock(state);
    state->magic = MAGIC;
    place(out);
}

/* ---- the lock ------------------------------------------------------------ */

static void take_units(unsigned char *units, uint32_t first, uint32_t count,
                       unsigned char taken)
{
    memset(units + first, taken, count);
}

static uint32_t units_of(uint64_t bytes)
{
    return (uint32_t)((bytes + FAKE_UNIT_BYTES - 1) / FAKE_UNIT_BYTES);
}

static uint32_t bucket_of(uint64_t hash)
{
    return (uint32_t)(hash % FAKE_BUCKETS);
}

/* Whoever held the lock was killed. What an object says of itself is whole or
 * it is free; everything that is derived is derived again. */
static void repair(struct fake_mooncake *fake)
{
    struct fake_state *state = fake->state;

    memset(state->buckets, 0xFF, sizeof state->buckets);
    memset(state->key_map, 0, sizeof state->key_map);
    memset(fake->arena_map, 0, (size_t)state->arena_units);
    state->facts.objects = 0;
    state->facts.used_bytes = 0;
    for (uint32_t i = 0; i < FAKE_OBJECTS; i++) {
        struct fake_object *object = &state->objects[i];

        if (object->state == FAKE_OBJECT_FREE) { continue; }
        take_units(state->key_map, object->key_unit,
                   units_of(object->key_bytes), 1);
        if (object->segment != FAKE_NOBODY) {
            take_units(fake->arena_map, object->unit, units_of(object->bytes),
                       1);
            state->facts.objects++;
            state->facts.used_bytes += object->bytes;
        }
        object->next = state->buckets[bucket_of(object->hash)];
        state->buckets[bucket_of(object->hash)] = i;
    }
    link_free(state);
}

void fake_lock(struct fake_mooncake *fake)
{
    int error = pthread_mutex_lock(&fake->state->lock);

    if (error == EOWNERDEAD) {
        repair(fake);
        pthread_mutex_consistent(&fake->state->lock);
    } else if (error != 0) {
        fake_abort("the cluster's lock: %s", strerror(error));
    }
    fake_settle(fake);
}

void fake_unlock(struct fake_mooncake *fake)
{
    pthread_mutex_unlock(&fake->state->lock);
}

/* ---- objects ------------------------------------------------------------- */

/* FNV-1a, 64 bits. */
uint64_t fake_checksum(const unsigned char *bytes, uint64_t count)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (uint64_t i = 0; i < count; i++) {
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

bool fake_same_key(const struct fake_mooncake *fake,
                   const struct fake_object *object, const char *key)
{
    const unsigned char *stored = fake->keys +
                                  (size_t)object->key_unit * FAKE_UNIT_BYTES;

    return strlen(key) == object->key_bytes &&
           memcmp(stored, key, object->key_bytes) == 0;
}

struct fake_object *fake_find(struct fake_mooncake *fake, const char *key)
{
    struct fake_state *state = fake->state;
    uint64_t hash = fake_checksum((const unsigned char *)key, strlen(key));
    uint32_t index = state->buckets[bucket_of(hash)];

    for (; index != FAKE_NOBODY; index = state->objects[index].next) {
        struct fake_object *object = &state->objects[index];

        if ((object->state == FAKE_OBJECT_PROCESSING ||
             object->state == FAKE_OBJECT_COMPLETE) &&
            object->hash == hash && fake_same_key(fake, object, key)) {
            return object;
        }
    }
    return NULL;
}

/* The first `want` free units in a row from *cursor on, and then from the
 * beginning; FAKE_NOBODY: there are none. */
static uint32_t find_units(const unsigned char *units, uint32_t first,
                           uint32_t count, uint32_t want, uint32_t *cursor)
{
    uint32_t run = 0;
    uint32_t start = *cursor < count ? *cursor : 0;

    if (want > count) { return FAKE_NOBODY; }
    for (uint64_t step = 0; step < (uint64_t)count + want; step++) {
        uint32_t at = (uint32_t)((start + step) % count);

        if (at == 0) { run = 0; }
        run = units[first + at] == 0 ? run + 1 : 0;
        if (run == want) {
            *cursor = at + 1;
            return first + at + 1 - want;
        }
    }
    return FAKE_NOBODY;
}

/* Any segment that has room; another one each time. */
static bool place_bytes(struct fake_mooncake *fake, uint64_t bytes,
                        struct fake_object *object)
{
    struct fake_state *state = fake->state;

    for (uint32_t step = 0; step < FAKE_CLIENTS; step++) {
        uint32_t index = (uint32_t)((state->orders_made + step) % FAKE_CLIENTS);
        struct fake_client *client = &state->clients[index];

        if (client->life == FAKE_CLIENT_FREE || !client->mounted) { continue; }
        object->unit = find_units(fake->arena_map, client->unit, client->units,
                                  units_of(bytes), &client->cursor);
        if (object->unit != FAKE_NOBODY) {
            object->segment = index;
            take_units(fake->arena_map, object->unit, units_of(bytes), 1);
            state->facts.objects++;
            state->facts.used_bytes += bytes;
            return true;
        }
    }
    return false;
}

struct fake_object *fake_add(struct fake_mooncake *fake, const char *key,
                             uint64_t bytes, enum fake_object_state to,
                             bool with_bytes)
{
    struct fake_state *state = fake->state;
    uint32_t index = state->free_object;
    size_t key_bytes = strlen(key);
    uint32_t key_units = units_of(key_bytes);
    struct fake_object made;

    if (index == FAKE_NOBODY) { return NULL; }
    memset(&made, 0, sizeof made);
    made.segment = FAKE_NOBODY;
    made.key_bytes = (uint32_t)key_bytes;
    made.key_unit = find_units(state->key_map, 0, FAKE_KEY_UNITS, key_units,
                               &state->key_cursor);
    if (made.key_unit == FAKE_NOBODY ||
        (with_bytes && !place_bytes(fake, bytes, &made))) {
        return NULL;
    }
    take_units(state->key_map, made.key_unit, key_units, 1);
    memcpy(fake->keys + (size_t)made.key_unit * FAKE_UNIT_BYTES, key,
           key_bytes);
    made.bytes = bytes;
    made.hash = fake_checksum((const unsigned char *)key, key_bytes);
    made.begun_ms = fake_now_ms(state);
    made.order = ++state->orders_made;

    state->free_object = state->objects[index].next;
    made.next = state->buckets[bucket_of(made.hash)];
    state->objects[index] = made;
    state->buckets[bucket_of(made.hash)] = index;
    state->objects[index].state = to;
    return &state->objects[index];
}

void fake_drop(struct fake_mooncake *fake, struct fake_object *object)
{
    struct fake_state *state = fake->state;
    uint32_t index = (uint32_t)(object - state->objects);
    uint32_t *link = &state->buckets[bucket_of(object->hash)];

    object->state = FAKE_OBJECT_FREE;
    while (*link != index) { link = &state->objects[*link].next; }
    *link = object->next;
    take_units(state->key_map, object->key_unit, units_of(object->key_bytes),
               0);
    if (object->segment != FAKE_NOBODY) {
        take_units(fake->arena_map, object->unit, units_of(object->bytes), 0);
        state->facts.objects--;
        state->facts.used_bytes -= object->bytes;
    }
    object->next = state->free_object;
    state->free_object = index;
}

unsigned char *fake_bytes(const struct fake_mooncake *fake,
                          const struct fake_object *object)
{
    return fake->arena + (size_t)object->unit * FAKE_UNIT_BYTES;
}

/* ---- eviction ------------------------------------------------------------ */

static uint32_t count_objects(const struct fake_state *state)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < FAKE_OBJECTS; i++) {
        count += state->objects[i].state == FAKE_OBJECT_COMPLETE;
    }
    return count;
}

void fake_evict(struct fake_mooncake *fake)
{
    struct fake_state *state = fake->state;
    uint64_t now = fake_now_ms(state);
    uint64_t share =
        (uint64_t)count_objects(state) * state->config.eviction_permil + 999;
    uint64_t left = share / 1000;

    for (uint32_t step = 0; step < FAKE_OBJECTS && left > 0; step++) {
        uint32_t index = (state->evict_from + step) % FAKE_OBJECTS;
        struct fake_object *object = &state->objects[index];

        if (object->state == FAKE_OBJECT_COMPLETE && !object->pinned &&
            object->lease_ms <= now) {
            fake_drop(fake, object);
            left--;
            if (left == 0) { state->evict_from = index + 1; }
        }
    }
}

void fake_count_total(struct fake_state *state)
{
    struct fake_mooncake_facts *facts = &state->facts;

    facts->total_bytes = 0;
    for (uint32_t i = 0; i < FAKE_CLIENTS; i++) {
        const struct fake_client *client = &state->clients[i];

        if (client->life != FAKE_CLIENT_FREE && client->mounted) {
            facts->total_bytes += client->segment_bytes;
        }
    }
}

void fake_evict_above_watermark(struct fake_mooncake *fake)
{
    const struct fake_mooncake_facts *facts = &fake->state->facts;

    fake_count_total(fake->state);
    if (facts->used_bytes * 1000 >
        facts->total_bytes * fake->state->config.watermark_permil) {
        fake_evict(fake);
    }
}

/* ---- clients ------------------------------------------------------------- */

static struct flock life_of(uint32_t client, short kind)
{
    struct flock life;

    memset(&life, 0, sizeof life);
    life.l_type = kind;
    life.l_whence = SEEK_SET;
    life.l_start = LIFE_BYTES + (off_t)client;
    life.l_len = 1;
    return life;
}

static bool is_stopped(int32_t pid)
{
    char path[64];
    char line[512];
    const char *end;
    ssize_t count;
    int file;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) { return false; }
    count = read(file, line, sizeof line - 1);
    close(file);
    line[count > 0 ? count : 0] = '\0';
    end = strrchr(line, ')');
    return end != NULL && end[1] == ' ' && (end[2] == 'T' || end[2] == 't');
}

/* What has become of another process. */
static enum fake_client_life found_life(struct fake_mooncake *fake,
                                        uint32_t index)
{
    struct flock life = life_of(index, F_WRLCK);

    if (fcntl(fake->file, F_OFD_GETLK, &life) == 0 && life.l_type == F_UNLCK) {
        return FAKE_CLIENT_DEAD;
    }
    return is_stopped(fake->state->clients[index].pid) ? FAKE_CLIENT_STOPPED
                                                       : FAKE_CLIENT_RUNS;
}

static void unmount(struct fake_mooncake *fake, uint32_t index)
{
    struct fake_state *state = fake->state;

    for (uint32_t i = 0; i < FAKE_OBJECTS; i++) {
        if (state->objects[i].state != FAKE_OBJECT_FREE &&
            state->objects[i].segment == index) {
            fake_drop(fake, &state->objects[i]);
        }
    }
    state->clients[index].mounted = 0;
}

/* Where a segment of so many units fits between the others. */
static uint32_t find_segment(const struct fake_state *state, uint32_t units)
{
    uint32_t start = 0;

    for (uint32_t tries = 0; tries <= FAKE_CLIENTS; tries++) {
        bool moved = false;

        for (uint32_t i = 0; i < FAKE_CLIENTS; i++) {
            const struct fake_client *client = &state->clients[i];

            if (client->life != FAKE_CLIENT_FREE && client->units != 0 &&
                start < client->unit + client->units &&
                client->unit < start + units) {
                start = client->unit + client->units;
                moved = true;
            }
        }
        if (!moved) { break; }
    }
    return (uint64_t)start + units <= state->arena_units ? start : FAKE_NOBODY;
}

int fake_join(struct fake_mooncake *fake, int32_t pid, uint64_t segment_bytes)
{
    struct fake_state *state = fake->state;
    uint32_t units = (uint32_t)(segment_bytes / FAKE_UNIT_BYTES);
    uint32_t unit = units ? find_segment(state, units) : 0;

    if (unit == FAKE_NOBODY) { return -1; }
    for (uint32_t i = 0; i < FAKE_CLIENTS; i++) {
        struct fake_client *client = &state->clients[i];
        struct flock life = life_of(i, F_WRLCK);

        if (client->life != FAKE_CLIENT_FREE ||
            (pid != 0 && fcntl(fake->file, F_OFD_SETLK, &life) != 0)) {
            continue;
        }
        memset(client, 0, sizeof *client);
        client->pid = pid;
        client->segment_bytes = segment_bytes;
        client->unit = unit;
        client->units = units;
        client->mounted = units != 0;
        client->lost_ms = UINT64_MAX;
        client->life = FAKE_CLIENT_RUNS;
        return (int)i;
    }
    return -1;
}

void fake_leave(struct fake_mooncake *fake, uint32_t index)
{
    struct fake_client *client = &fake->state->clients[index];
    struct flock life = life_of(index, F_UNLCK);

    unmount(fake, index);
    fake->state->facts.registered -= client->registered;
    client->life = FAKE_CLIENT_FREE;
    (void)fcntl(fake->file, F_OFD_SETLK, &life);
}

static void set_life(struct fake_mooncake *fake, uint32_t index,
                     enum fake_client_life life)
{
    struct fake_client *client = &fake->state->clients[index];

    if (client->life == life || client->life == FAKE_CLIENT_DEAD) { return; }
    client->life = life;
    if (life == FAKE_CLIENT_RUNS) {
        client->lost_ms = UINT64_MAX;
    } else if (client->lost_ms == UINT64_MAX) {
        client->lost_ms = fake_now_ms(fake->state);
    }
}

/* A client that has been silent for too long has no segment any more; one that
 * runs has it back, empty, as soon as it hears of that. */
static void settle_client(struct fake_mooncake *fake, uint32_t index)
{
    struct fake_state *state = fake->state;
    struct fake_client *client = &state->clients[index];
    uint64_t now = fake_now_ms(state);

    if (client->pid != 0 && client->pid != getpid() && !client->marked) {
        set_life(fake, index, found_life(fake, index));
    }
    if (client->lost_ms != UINT64_MAX && state->master == FAKE_MASTER_RUNS &&
        now - client->lost_ms >= state->config.client_ttl_ms) {
        if (client->mounted) { unmount(fake, index); }
        if (client->life == FAKE_CLIENT_DEAD && client->pid != getpid()) {
            state->facts.registered -= client->registered;
            state->facts.handles -= client->pid != 0;
            client->life = FAKE_CLIENT_FREE;
        }
    }
    if (client->life == FAKE_CLIENT_RUNS && client->units != 0 &&
        !client->mounted && state->master == FAKE_MASTER_RUNS &&
        now - state->master_began_ms >= FAKE_PING_MS) {
        client->mounted = 1;
        client->cursor = 0;
    }
}

/* ---- time and what it brings --------------------------------------------- */

uint64_t fake_now_ms(const struct fake_state *state)
{
    uint64_t scale = state->config.time_scale;

    return state->skew_ms +
           (clock_ns() - state->origin_ns) / 1000 * scale / 1000;
}

static struct fake_object *oldest_asked(struct fake_state *state)
{
    struct fake_object *oldest = NULL;

    for (uint32_t i = 0; i < FAKE_OBJECTS; i++) {
        struct fake_object *object = &state->objects[i];

        if ((object->state == FAKE_OBJECT_ASKED_PUT ||
             object->state == FAKE_OBJECT_ASKED_REMOVE) &&
            (oldest == NULL || object->order < oldest->order)) {
            oldest = object;
        }
    }
    return oldest;
}

/* The key of an object, as a string of its own. */
static char *key_of(const struct fake_mooncake *fake,
                    const struct fake_object *object)
{
    char *key = fake_scratch((size_t)object->key_bytes + 1);

    memcpy(key, fake->keys + (size_t)object->key_unit * FAKE_UNIT_BYTES,
           object->key_bytes);
    key[object->key_bytes] = '\0';
    return key;
}

/* A master that was stopped does what it had been asked, though nobody waits
 * for it any more. */
static void do_what_was_asked(struct fake_mooncake *fake)
{
    struct fake_object *asked;

    while ((asked = oldest_asked(fake->state)) != NULL) {
        char *key = key_of(fake, asked);
        bool put = asked->state == FAKE_OBJECT_ASKED_PUT;
        size_t key_bytes = asked->key_bytes;
        uint64_t bytes = asked->bytes;
        struct fake_object *there = fake_find(fake, key);

        fake_drop(fake, asked);
        if (put && there == NULL) {
            (void)fake_add(fake, key, bytes, FAKE_OBJECT_PROCESSING, true);
        } else if (!put && there != NULL &&
                   there->state == FAKE_OBJECT_COMPLETE) {
            fake_drop(fake, there);
        }
        fake_scratch_free(key, key_bytes + 1);
    }
}

static void forget_everything(struct fake_mooncake *fake)
{
    struct fake_state *state = fake->state;

    for (uint32_t i = 0; i < FAKE_OBJECTS; i++) {
        if (state->objects[i].state != FAKE_OBJECT_FREE) {
            fake_drop(fake, &state->objects[i]);
        }
    }
    for (uint32_t i = 0; i < FAKE_CLIENTS; i++) {
        state->clients[i].mounted = 0;
    }
}

static void set_master(struct fake_mooncake *fake, enum fake_master master)
{
    struct fake_state *state = fake->state;

    if (state->master == FAKE_MASTER_RUNS && master != FAKE_MASTER_RUNS) {
        state->master_lost_ms = fake_now_ms(state);
    }
    state->master = master;
}

static void set_owner(struct fake_mooncake *fake, uint64_t client,
                      enum fake_client_life life)
{
    if (client >= FAKE_CLIENTS ||
        fake->state->clients[client].life == FAKE_CLIENT_FREE) {
        fake_abort("there is no client %llu", (unsigned long long)client);
    }
    fake->state->clients[client].marked = 1;
    set_life(fake, (uint32_t)client, life);
}

void fake_happen(struct fake_mooncake *fake, enum fake_mooncake_event event,
                 uint64_t argument)
{
    struct fake_state *state = fake->state;

    switch (event) {
    case FAKE_MASTER_STOP: set_master(fake, FAKE_MASTER_STOPPED); break;
    case FAKE_MASTER_KILL: set_master(fake, FAKE_MASTER_DEAD); break;
    case FAKE_MASTER_CONTINUE:
        set_master(fake, FAKE_MASTER_RUNS);
        do_what_was_asked(fake);
        break;
    case FAKE_MASTER_RESTART:
        forget_everything(fake);
        state->master_began_ms = fake_now_ms(state);
        set_master(fake, FAKE_MASTER_RUNS);
        break;
    case FAKE_OWNER_STOP: set_owner(fake, argument, FAKE_CLIENT_STOPPED); break;
    case FAKE_OWNER_CONTINUE:
        set_owner(fake, argument, FAKE_CLIENT_RUNS);
        break;
    case FAKE_OWNER_KILL: set_owner(fake, argument, FAKE_CLIENT_DEAD); break;
    case FAKE_SEGMENT_JOIN:
        if (fake_join(fake, 0, argument) < 0) {
            fake_abort("no room for a segment of %llu bytes",
                       (unsigned long long)argument);
        }
        break;
    }
}

/* The event that is due first, if it is by then. */
static struct fake_event *due(struct fake_state *state, uint64_t by_ms)
{
    struct fake_event *first = NULL;

    for (uint32_t i = 0; i < FAKE_EVENTS; i++) {
        struct fake_event *event = &state->events[i];

        if (event->waits && event->at_ms <= by_ms &&
            (first == NULL || event->at_ms < first->at_ms)) {
            first = event;
        }
    }
    return first;
}

static void settle_clients(struct fake_mooncake *fake)
{
    for (uint32_t i = 0; i < FAKE_CLIENTS; i++) {
        if (fake->state->clients[i].life != FAKE_CLIENT_FREE) {
            settle_client(fake, i);
        }
    }
}

void fake_settle(struct fake_mooncake *fake)
{
    struct fake_event *event;

    settle_clients(fake);
    while ((event = due(fake->state, fake_now_ms(fake->state))) != NULL) {
        event->waits = 0;
        fake_happen(fake, (enum fake_mooncake_event)event->event,
                    event->argument);
        settle_clients(fake);
    }
}

/* Time that stands still, moved from event to event. */
static void move_time(struct fake_mooncake *fake, uint64_t until_ms,
                      bool while_master_stands)
{
    struct fake_state *state = fake->state;
    uint32_t master = state->master;

    while (state->skew_ms < until_ms &&
           (!while_master_stands || state->master == master)) {
        struct fake_event *event = due(state, until_ms);

        state->skew_ms = event != NULL ? event->at_ms : until_ms;
        fake_settle(fake);
    }
}

static void let_time_pass(struct fake_mooncake *fake, uint64_t until_ms,
                          bool while_master_stands)
{
    static const struct timespec moment = {0, 500000};
    uint32_t master = fake->state->master;

    while (fake_now_ms(fake->state) < until_ms &&
           (!while_master_stands || fake->state->master == master)) {
        fake_unlock(fake);
        nanosleep(&moment, NULL);
        fake_lock(fake);
    }
}

void fake_wait(struct fake_mooncake *fake, uint64_t until_ms,
               bool while_master_stands)
{
    if (fake->state->config.time_scale == 0) {
        move_time(fake, until_ms, while_master_stands);
    } else {
        let_time_pass(fake, until_ms, while_master_stands);
    }
}

/* ---- rules --------------------------------------------------------------- */

bool fake_is_of_call(uint32_t action)
{
    return action >= FAKE_CALL_FAILS;
}

static bool is_about(const struct fake_rule *rule, const char *key)
{
    size_t count = strlen(rule->text);

    if (rule->any) { return true; }
    if (count > 0 && rule->text[count - 1] == '*') {
        return strncmp(rule->text, key, count - 1) == 0;
    }
    return strcmp(rule->text, key) == 0;
}

static bool is_about_one(const struct fake_rule *rule, const char *const *keys,
                         size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (is_about(rule, keys[i])) { return true; }
    }
    return false;
}

static bool is_of_call(const struct fake_rule *rule)
{
    return rule->rule.action >= FAKE_CALL_FAILS;
}

static const struct fake_mooncake_rule *
rule_for(struct fake_state *state, enum fake_mooncake_operation operation,
         const char *const *keys, size_t count, bool of_call)
{
    for (uint32_t i = 0; i < state->rules_count; i++) {
        struct fake_rule *rule = &state->rules[i];

        if (rule->rule.operation != (uint32_t)operation ||
            is_of_call(rule) != of_call ||
            (rule->rule.times != 0 && rule->fired >= rule->rule.times) ||
            !is_about_one(rule, keys, count)) {
            continue;
        }
        rule->seen++;
        if (rule->seen > rule->rule.skip) {
            rule->fired++;
            return &rule->rule;
        }
    }
    return NULL;
}

const struct fake_mooncake_rule *
fake_rule_for_key(struct fake_state *state,
                  enum fake_mooncake_operation operation, const char *key)
{
    return rule_for(state, operation, &key, 1, false);
}

const struct fake_mooncake_rule *
fake_rule_for_call(struct fake_state *state,
                   enum fake_mooncake_operation operation,
                   const char *const *keys, size_t count)
{
    return rule_for(state, operation, keys, count, true);
}
