/* Cleat: the parts of an open Mooncake Store. SPDX-License-Identifier:
 * Apache-2.0
 *
 *   mooncake.c  open and close; the gate
 *   load.c      the library: its functions, its environment
 *   table.c     what its codes mean
 *   stage.c     the staging memory, and who has which part of it
 *   lend.c      what is registered with the library
 *   calls.c     the calls of cleat/store.h: items in, library calls out
 *   frames.c    headers and payloads, in whatever memory they go through
 *   ready.c     the set-up, and a key of nobody else's
 */
#ifndef CLEAT_MOONCAKE_STATE_H
#define CLEAT_MOONCAKE_STATE_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <time.h>

#include "abi.h"
#include "cleat/arena.h"
#include "cleat/digest.h"
#include "cleat/mooncake.h"

#define NOBODY UINT32_MAX
#define PAGE_BYTES ((size_t)4096)

/* The longest string of a configuration, with its NUL. */
#define STRING_BYTES 512u

/* ---- load.c -------------------------------------------------------------- */

/* The functions that are called. The newer ones may be NULL. */
struct library {
#define MEMBER(result, name, parameters) mooncake_store_##name##_fn *name;
    CLEAT_MOONCAKE_NEEDED(MEMBER)
    CLEAT_MOONCAKE_NEWER(MEMBER)
#undef MEMBER
};

/* Sets the environment, then loads the library. */
enum cleat_status
cleat_mooncake_load(const struct cleat_mooncake_config *config,
                    struct library *library, struct cleat_error *error);

/* ---- stage.c ------------------------------------------------------------- */

/* What a call has of the staging memory, or waits for; in its slot. */
struct share {
    unsigned char *start; /* NULL: nothing */
    size_t bytes;
    size_t used;
    uint32_t next; /* who came after it, or lies behind it */
};

struct stage {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned char *start;
    size_t bytes;
    size_t taken;
    uint32_t first; /* share that has the lowest part; NOBODY */
    uint32_t queue; /* share that waits, first come */
    uint32_t waiting;
};

/* ---- lend.c -------------------------------------------------------------- */

struct piece {
    uintptr_t start;
    size_t bytes;
    uint64_t used; /* when it was lent last: a number that grows */
    uint32_t lent; /* times; 0: kept */
    uint32_t reserved;
};

/* Pieces in the order of their starts. Registered ones do not overlap. */
struct pieces {
    struct piece *table;
    size_t longest; /* that there was since there was none */
    uint32_t count;
};

struct pool {
    pthread_mutex_t turn; /* one lend at a time: held over library calls */
    pthread_mutex_t lock; /* of the tables: held for a look or a change */
    struct pieces registered;
    struct pieces unjoined;
    uint64_t clock;
    uint32_t pieces_max; /* of each */
    uint32_t unnoted;    /* times that pieces are lent which are in no table;
                            while there are any, nothing more is registered */
};

/* ---- calls.c ------------------------------------------------------------- */

/* The library call that a call is filling. */
struct slot {
    struct share share;
    _Atomic bool taken;
    uint32_t count;
    uint32_t first; /* the first item of the call that can be in it */
    bool no_sizes;  /* a size was not told: no more are asked for */
    uint64_t rest;  /* bytes of the staging memory that the items of the window
                       that are to come could take; see wanted_bytes */
    const char **keys;
    void **buffers;
    size_t *sizes;
    int64_t *results;
    int *codes;
    uint32_t *items;   /* which of the call */
    uint32_t *buckets; /* of keys seen: 1 + the item; 0: none */
};

/* ---- all ----------------------------------------------------------------- */

/* In `gate`: calls under way, and: */
#define GATE_CLOSED (UINT32_C(1) << 31)
#define GATE_SET_UP (UINT32_C(1) << 30)
#define GATE_CALLS (GATE_SET_UP - 1)

struct cleat_store_context {
    struct library library;
    mooncake_store_t store;
    struct mooncake_replicate_config replicate;
    const struct mooncake_replicate_config *replicate_with; /* NULL: defaults */
    cleat_mooncake_classify_fn *classify;
    void *classify_context;

    uint64_t segment_bytes;
    uint64_t local_buffer_bytes;
    char local_hostname[STRING_BYTES];
    char metadata_server[STRING_BYTES];
    char master[STRING_BYTES];
    char protocol[STRING_BYTES];
    char device[STRING_BYTES];

    pid_t pid;
    _Atomic uint32_t gate;
    _Atomic uint32_t canaries;
    uint64_t unique[2]; /* of this open alone */
    pthread_mutex_t ready_lock;
    pthread_cond_t ready_changed;
    bool trying;           /* under ready_lock: somebody makes a try */
    bool client_set_up;    /* the library says so; written by who tries */
    bool stage_registered; /* the same */

    bool keep_registered;
    bool device_memory;
    enum cleat_digest_kind digest;
    uint32_t calls_max;
    uint32_t keys_max;
    uint32_t buckets_count; /* a power of two */
    struct slot *slots;     /* calls_max, and that of a try */
    struct stage stage;
    struct pool pool;
};

typedef struct cleat_store_context self_t;

/* A call may begin: it counts, until it has left.
 *   bits  of the gate that must be set */
bool cleat_mooncake_enter(self_t *self, uint32_t bits);
void cleat_mooncake_leave(self_t *self);

static inline uint64_t cleat_mooncake_now_ns(void)
{
    struct timespec now = {0, 0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Waits on a condition of CLOCK_MONOTONIC; false: until the deadline. */
bool cleat_mooncake_wait(pthread_cond_t *changed, pthread_mutex_t *lock,
                         uint64_t deadline_ns);

/* Threads that are made between the two block all signals. */
void cleat_mooncake_hold_signals(sigset_t *before);
void cleat_mooncake_release_signals(const sigset_t *before);

/* The table's word, or the user's. */
enum cleat_status cleat_mooncake_meaning(const self_t *self, uint32_t operation,
                                         int32_t code);

/* Takes a part of the staging memory: `wanted` bytes, or fewer where so many
 * are not free, and `needed` at the least; in turn.
 * False: not before the deadline. */
bool cleat_mooncake_stage(self_t *self, struct slot *slot, size_t needed,
                          size_t wanted, uint64_t deadline_ns);
void cleat_mooncake_unstage(self_t *self, struct slot *slot);

/* Whether all of it is lent and registered, and stays so as long as those who
 * lend it do. */
bool cleat_mooncake_is_registered(self_t *self, const void *start,
                                  size_t bytes);

enum cleat_status cleat_mooncake_lend(struct cleat_store_context *self,
                                      void *start, size_t bytes, bool on,
                                      struct cleat_error *error);

/* Unregisters everything, before the end. */
void cleat_mooncake_return_all(self_t *self);

enum cleat_status cleat_mooncake_call(struct cleat_store_context *self,
                                      struct cleat_store_call *call);

/* The same without the gate, and with one item that nobody else knows of: it is
 * not pinned. */
enum cleat_status cleat_mooncake_one(self_t *self, uint32_t operation,
                                     struct cleat_store_item *item,
                                     uint64_t deadline_ns);

enum cleat_status cleat_mooncake_ready(struct cleat_store_context *self,
                                       uint64_t deadline_ns,
                                       struct cleat_error *error);

/* ---- frames.c ------------------------------------------------------------ */

static inline bool cleat_mooncake_is_raw(const struct cleat_store_item *item)
{
    return (item->flags & CLEAT_STORE_RAW) != 0;
}

static inline size_t cleat_mooncake_header(const struct cleat_store_item *item)
{
    return cleat_mooncake_is_raw(item) ? 0 : CLEAT_FRAME_BYTES;
}

/* Writes the object: into `object`, or, where that is the item's own memory,
 * only the header before its payload.
 * Returns CLEAT_OK; CLEAT_INVALID: the frame contradicts itself. */
enum cleat_status cleat_mooncake_write(const self_t *self,
                                       const struct cleat_store_item *item,
                                       unsigned char *object);

/* Makes of an object of `found` bytes in `object`, which has room for those
 * that were expected, the item's payload: or compares it.
 *   *touched  whether the payload was written
 * Returns as GET and COMPARE of cleat/mooncake.h. */
enum cleat_status cleat_mooncake_read(const self_t *self,
                                      struct cleat_store_item *item,
                                      bool compare, const unsigned char *object,
                                      uint64_t found, bool *touched);

#endif
