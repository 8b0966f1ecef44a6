/* Cleat: the strings of the fake Mooncake Store. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A cluster is a file that is mapped by everyone who takes part: the processes
 * that have loaded our libmooncake_store.so, and the test that pulls the
 * strings. A library finds it by FAKE_MOONCAKE_CLUSTER=PATH in the environment
 * of its setup; else the master's address is taken as the path where it begins
 * with '/', and as /dev/shm/fake-mooncake-ADDRESS where it does not.
 *
 * Time is the cluster's own, in milliseconds. With time_scale 0 it moves only
 * when it is told to, and when a call has to wait: a call that takes 30 s takes
 * no time, and the clock has moved by exactly 30 000 when it returns. With
 * another scale it runs so many times as fast as the world's.
 *
 * Whatever a test does wrong with these functions ends it with a line.
 */
#ifndef CLEAT_FAKE_MOONCAKE_CONTROL_H
#define CLEAT_FAKE_MOONCAKE_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fake_mooncake;

#define FAKE_KEY_SHOWN 72u

/* Zero means the default: that of mooncake_master where it has one. */
struct fake_mooncake_config {
    uint64_t segment_bytes;    /* of an owner that is nobody's process. 0: no
                                  such owner */
    uint64_t arena_bytes;      /* of all segments together. 0: 2 GiB */
    uint32_t time_scale;       /* 0: time stands still */
    uint32_t lease_ms;         /* 0: 10 000 */
    uint32_t client_ttl_ms;    /* 0: 10 000 */
    uint32_t discard_ms;       /* of a put without an end. 0: 30 000 */
    uint32_t watermark_permil; /* 0: 900 */
    uint32_t eviction_permil;  /* 0: 50 */
};

/* What a library is asked for. */
enum fake_mooncake_operation {
    FAKE_SETUP,
    FAKE_PUT, /* put, put_from, batch_put_from */
    FAKE_UPSERT,
    FAKE_GET,
    FAKE_EXIST,
    FAKE_SIZE,
    FAKE_REMOVE,
    FAKE_REGISTER,
    FAKE_UNREGISTER,
    FAKE_OPERATIONS
};

/* What becomes of it where a rule applies. */
enum fake_mooncake_action {
    FAKE_ANSWER,      /* `code`, and nothing is done */
    FAKE_ANSWER_DONE, /* it is done, and yet `code` */
    FAKE_STAY,        /* put: begun and never ended, and `code` */
    FAKE_DIRTY,       /* get: half of the buffer is written, and `code` */
    FAKE_LESS,        /* get: `argument` bytes fewer are written, and said */
    FAKE_MORE,        /* get: `argument` bytes more are said */
    FAKE_FLIP_READ,   /* get: bit `argument` of what is written is wrong */
    FAKE_VANISH,      /* put: works, and is evicted at once */
    FAKE_SILENT,      /* its result in a batch is not written */
    FAKE_DIE,         /* put: SIGKILL, begun and never ended */
    FAKE_CALL_FAILS,  /* of the whole call: -1, nothing done */
    FAKE_CALL_FAILS_DONE, /* of the whole call: -1, and yet it is done */
    FAKE_CALL_WAITS,      /* of the whole call: `argument` ms */
    FAKE_CALL_HELD        /* of the whole call: until fake_mooncake_release */
};

struct fake_mooncake_rule {
    uint32_t operation;
    uint32_t action;
    const char *key;   /* NULL: any; with '*' at its end: all that begin so */
    uint32_t skip;     /* so many are left alone first */
    uint32_t times;    /* 0: for good */
    int32_t code;      /* of the store; for FAKE_SETUP too */
    uint32_t argument; /* see the action */
};

/* What can happen to a cluster. */
enum fake_mooncake_event {
    FAKE_MASTER_STOP,     /* as SIGSTOP does: it answers nobody */
    FAKE_MASTER_CONTINUE, /* and now does what it was asked meanwhile */
    FAKE_MASTER_KILL,     /* connections are refused */
    FAKE_MASTER_RESTART,  /* it knows no key; owners are back within 1 s */
    FAKE_OWNER_STOP,      /* of the client `argument` */
    FAKE_OWNER_CONTINUE,
    FAKE_OWNER_KILL,
    FAKE_SEGMENT_JOIN /* an owner that is nobody's process, of `argument`
                         bytes */
};

/* One key of one call, as the library was given it and as it answered. */
struct fake_mooncake_seen {
    uint64_t call; /* calls of all clients, in their order */
    uint64_t pointer;
    uint64_t bytes;
    uint64_t at_ms;
    int64_t result;
    uint32_t operation;
    uint32_t client;
    char key[FAKE_KEY_SHOWN];
};

struct fake_mooncake_counts {
    uint64_t calls;
    uint64_t keys;
    uint64_t bytes;
};

/* The whole cluster's. */
struct fake_mooncake_facts {
    uint64_t objects;
    uint64_t used_bytes;
    uint64_t total_bytes;   /* of the mounted segments */
    uint64_t calls_at_once; /* the most that there were */
    uint64_t registered;    /* buffers, now */
    uint64_t handles;       /* set up and not destroyed, now */
    uint64_t held;          /* calls that wait for fake_mooncake_release */
    uint64_t replicas_none; /* puts that asked for no replica */
    int64_t rpc_timeout_ms; /* MC_RPC_TIMEOUT_MS when the last library was
                               loaded; -1: not set */
    int64_t rpc_connect_timeout_ms; /* MC_RPC_CONNECT_TIMEOUT_MS, likewise */
    uint64_t local_buffer_bytes;    /* of the last setup */
    char hostname[128];             /* of the last setup */
};

/* Makes a cluster with a running master; an older file is replaced. */
struct fake_mooncake *
fake_mooncake_start(const char *path,
                    const struct fake_mooncake_config *config);

/* Takes part in one that is there. */
struct fake_mooncake *fake_mooncake_attach(const char *path);

/* Ends this process's part; and with `file` the cluster's file. */
void fake_mooncake_end(struct fake_mooncake *fake, bool file);

uint64_t fake_mooncake_now_ms(struct fake_mooncake *fake);
void fake_mooncake_advance(struct fake_mooncake *fake, uint64_t ms);

/* Lets something happen, now or delay_ms from now; 16 wait at most. */
void fake_mooncake_happen(struct fake_mooncake *fake, uint64_t delay_ms,
                          enum fake_mooncake_event event, uint64_t argument);

/* Adds a rule after those that are there. The first one that applies to a key
 * does; one that is used up is passed over. Returns its number. */
uint32_t fake_mooncake_rule(struct fake_mooncake *fake,
                            const struct fake_mooncake_rule *rule);
uint32_t fake_mooncake_fired(struct fake_mooncake *fake, uint32_t rule);
void fake_mooncake_rules_clear(struct fake_mooncake *fake);

/* Lets the calls go that FAKE_CALL_HELD holds. */
void fake_mooncake_release(struct fake_mooncake *fake);

/* Memory that the library must not be given, as if it were an accelerator's. */
void fake_mooncake_device(struct fake_mooncake *fake, const void *start,
                          size_t bytes);

/* Plants a value, and takes one away. `whole` false: as if its writer had been
 * lost. Plant: false where it does not fit or the key is there. */
bool fake_mooncake_plant(struct fake_mooncake *fake, const char *key,
                         const void *value, size_t bytes, bool whole);
bool fake_mooncake_evict(struct fake_mooncake *fake, const char *key);

/* A bit of what is stored, from its first byte on. False: there is no such. */
bool fake_mooncake_flip(struct fake_mooncake *fake, const char *key,
                        uint64_t bit);

/* The bytes that are stored, readable or not; -1: there is no such key. At most
 * `bytes` of them into `value`, which may be NULL. */
int64_t fake_mooncake_look(struct fake_mooncake *fake, const char *key,
                           void *value, size_t bytes);

struct fake_mooncake_counts
fake_mooncake_counts(struct fake_mooncake *fake,
                     enum fake_mooncake_operation operation);
void fake_mooncake_facts(struct fake_mooncake *fake,
                         struct fake_mooncake_facts *facts);

/* What was seen since the last forget, oldest first; false: no more. Only the
 * last 16384 are kept. */
bool fake_mooncake_seen(struct fake_mooncake *fake, uint64_t index,
                        struct fake_mooncake_seen *seen);
void fake_mooncake_forget(struct fake_mooncake *fake);

#endif
