/* Cleat: the fake Mooncake Store, what its processes share.
 * SPDX-License-Identifier: Apache-2.0
 *
 * One file, mapped by all: a header, and behind it the objects, the maps of
 * what is taken, the keys, and the segments. Everything is under one robust
 * lock; who finds that its holder was killed puts the tables right.
 *
 * Nothing runs on its own. What time does by itself (a lost client expires, an
 * owner comes back to a new master, an event is due) is done by whoever takes
 * the lock next. */
#ifndef CLEAT_FAKE_MOONCAKE_CLUSTER_H
#define CLEAT_FAKE_MOONCAKE_CLUSTER_H

#include <pthread.h>

#include "test/fakes/mooncake/control.h"

#define FAKE_CLIENTS 64u
#define FAKE_RULES 64u
#define FAKE_EVENTS 16u
#define FAKE_SEEN 16384u
#define FAKE_OBJECTS 65536u
#define FAKE_BUCKETS 65536u
#define FAKE_UNIT_BYTES 256u
#define FAKE_KEY_UNITS ((32u << 20) / FAKE_UNIT_BYTES)
#define FAKE_NOBODY UINT32_MAX

#define FAKE_PING_MS 1000u

enum fake_master { FAKE_MASTER_RUNS, FAKE_MASTER_STOPPED, FAKE_MASTER_DEAD };

enum fake_object_state {
    FAKE_OBJECT_FREE,
    FAKE_OBJECT_PROCESSING,  /* begun, not ended */
    FAKE_OBJECT_COMPLETE,    /* can be read */
    FAKE_OBJECT_ASKED_PUT,   /* a stopped master was asked to begin it */
    FAKE_OBJECT_ASKED_REMOVE /* … to remove it */
};

struct fake_object {
    uint32_t state;
    uint32_t next;    /* in its bucket, or of the free ones */
    uint32_t segment; /* client; FAKE_NOBODY: it has no bytes */
    uint32_t pinned;  /* 1: hard */
    uint32_t key_unit;
    uint32_t key_bytes;
    uint32_t unit; /* of the arena */
    uint32_t checked;
    uint64_t bytes;
    uint64_t hash;
    uint64_t begun_ms;
    uint64_t lease_ms; /* until then */
    uint64_t order;    /* of its making: an identity too */
    uint64_t checksum;
};

enum fake_client_life {
    FAKE_CLIENT_FREE,
    FAKE_CLIENT_RUNS,
    FAKE_CLIENT_STOPPED,
    FAKE_CLIENT_DEAD
};

struct fake_client {
    uint32_t life;
    uint32_t mounted; /* its segment is known to the master */
    int32_t pid;      /* 0: nobody's process */
    uint32_t marked;  /* stopped or killed by an event, not found so */
    uint64_t segment_bytes;
    uint32_t unit; /* of the arena: where its segment begins */
    uint32_t units;
    uint32_t cursor;
    uint32_t registered;
    uint64_t lost_ms; /* since then the master hears nothing of it */
};

struct fake_rule {
    struct fake_mooncake_rule rule; /* key: see text */
    char text[128];
    uint32_t any;
    uint32_t seen;
    uint32_t fired;
};

struct fake_event {
    uint64_t at_ms;
    uint64_t argument;
    uint32_t event;
    uint32_t waits;
};

struct fake_state {
    uint64_t magic;
    pthread_mutex_t lock;
    struct fake_mooncake_config config;
    uint64_t arena_units;

    uint64_t skew_ms;
    uint64_t origin_ns;

    uint32_t master;
    uint32_t rules_count;
    uint64_t master_lost_ms;
    uint64_t master_began_ms;

    uint64_t calls_made;
    uint64_t orders_made;
    uint64_t seen_count;
    uint32_t calls_now;
    uint32_t released; /* how often */
    uint64_t device_start;
    uint64_t device_bytes;
    uint32_t free_object;
    uint32_t evict_from;
    uint32_t key_cursor;
    uint32_t reserved;

    struct fake_mooncake_facts facts;
    struct fake_mooncake_counts counts[FAKE_OPERATIONS];
    struct fake_client clients[FAKE_CLIENTS];
    struct fake_rule rules[FAKE_RULES];
    struct fake_event events[FAKE_EVENTS];
    uint32_t buckets[FAKE_BUCKETS];
    struct fake_object objects[FAKE_OBJECTS];
    struct fake_mooncake_seen seen[FAKE_SEEN];
    unsigned char key_map[FAKE_KEY_UNITS];
    /* Then: the arena's map, the keys, the arena. */
};

struct fake_mooncake {
    struct fake_state *state;
    unsigned char *arena_map;
    unsigned char *keys;
    unsigned char *arena;
    size_t bytes; /* mapped */
    int file;
};

/* Ends the process with a line on standard error, by SIGABRT. */
_Noreturn void fake_abort(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* Zeroed memory that is not the heap's: a test may look there for ours. */
void *fake_scratch(size_t bytes);
void fake_scratch_free(void *address, size_t bytes);

/* Maps a cluster; false: there is none. */
bool fake_open(const char *path, struct fake_mooncake *out);
void fake_close(struct fake_mooncake *fake);
void fake_make(const char *path, const struct fake_mooncake_config *config,
               struct fake_mooncake *out);

void fake_lock(struct fake_mooncake *fake);
void fake_unlock(struct fake_mooncake *fake);

/* With the lock held, all that follow. */
uint64_t fake_now_ms(const struct fake_state *state);

/* Waits, without the lock meanwhile where time is the world's, until then; or,
 * if told, until the master no longer is as it is. */
void fake_wait(struct fake_mooncake *fake, uint64_t until_ms,
               bool while_master_stands);
void fake_happen(struct fake_mooncake *fake, enum fake_mooncake_event event,
                 uint64_t argument);
/* All that time has brought. */
void fake_settle(struct fake_mooncake *fake);

/* A slot for a client; its bytes of segment are mounted. -1: no room. */
int fake_join(struct fake_mooncake *fake, int32_t pid, uint64_t segment_bytes);
void fake_leave(struct fake_mooncake *fake, uint32_t client);

struct fake_object *fake_find(struct fake_mooncake *fake, const char *key);
bool fake_same_key(const struct fake_mooncake *fake,
                   const struct fake_object *object, const char *key);
/* A new object with room for its bytes; NULL: there is none. Its state is the
 * one given, and `segment` may be FAKE_NOBODY for none. */
struct fake_object *fake_add(struct fake_mooncake *fake, const char *key,
                             uint64_t bytes, enum fake_object_state state,
                             bool with_bytes);
void fake_drop(struct fake_mooncake *fake, struct fake_object *object);
unsigned char *fake_bytes(const struct fake_mooncake *fake,
                          const struct fake_object *object);
/* Makes room: a share of what no lease and no pin protects. */
void fake_evict(struct fake_mooncake *fake);
void fake_evict_above_watermark(struct fake_mooncake *fake);
/* Brings the fact about the bytes of all segments up to date. */
void fake_count_total(struct fake_state *state);
uint64_t fake_checksum(const unsigned char *bytes, uint64_t count);

/* The rule for this key, or for a call with these keys, used once; NULL: none.
 */
const struct fake_mooncake_rule *
fake_rule_for_key(struct fake_state *state,
                  enum fake_mooncake_operation operation, const char *key);
const struct fake_mooncake_rule *
fake_rule_for_call(struct fake_state *state,
                   enum fake_mooncake_operation operation,
                   const char *const *keys, size_t count);

#endif
