/* Cleat: what lies in the block of the store in memory.
 * SPDX-License-Identifier: Apache-2.0
 *
 *   0  head         what the store is: written once, digested
 *      processes    a word for each that is attached: who it is
 *      buckets      a link each: where a list of entries begins
 *      entries      64 bytes each: a value's state, link and place
 *      map          32 bits a unit: the entry that it belongs to; 0: free
 *      units        keys and values
 *
 * An entry's life; each arrow is one compare-and-swap of its state word, which
 * carries the generation of what is in it, who is at it, and how often that was
 * taken over from a dead one:
 *
 *   FREE ─▶ MAKING ─────────▶ LISTED ─▶ LEAVING ─▶ FREE, one generation later
 *             │ by its maker   any       any one         by that one
 *             └──────────────▶ LEAVING, where it was not published
 *
 * It is in the index when a link leads to it, which may be while it is MAKING
 * still: between the publication and the next instruction of its maker. Who
 * finds it there may make it LISTED, and who removes it must. It is removed
 * when its own link is marked; then whoever comes by unhooks it, and whoever
 * has made sure that it is unhooked makes it LEAVING.
 *
 * So after a death at any instruction: MAKING or LEAVING by a dead one, or
 * LISTED with a marked link, is what has to be finished; nothing else. */
#ifndef CLEAT_PORT_MEMORY_STORE_TABLE_H
#define CLEAT_PORT_MEMORY_STORE_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cleat/digest.h"
#include "cleat/memory_store.h"

#if ATOMIC_INT_LOCK_FREE != 2 || ATOMIC_LLONG_LOCK_FREE != 2
#error "shared memory needs lock-free 32-bit and 64-bit atomics"
#endif

#define STORE_LINE_BYTES 64u

/* Counts of a store, and where its parts begin. */
struct store_shape {
    uint64_t block_bytes;
    uint64_t processes_at;
    uint64_t buckets_at;
    uint64_t entries_at;
    uint64_t map_at;
    uint64_t units_at;
    uint32_t processes_count;
    uint32_t buckets_count; /* a power of two */
    uint32_t entries_count;
    uint32_t units_count;
    uint32_t unit_bytes;
    uint32_t reserved;
};

struct store_head;
struct store_entry;

/* A store as this process sees it. */
struct store_table {
    struct store_head *head;
    _Atomic uint64_t *processes;
    _Atomic uint64_t *buckets;
    struct store_entry *entries;
    _Atomic uint32_t *map;
    unsigned char *units;
    struct store_shape shape; /* ours: the block's is not read again */
    uint64_t identity;        /* ours in processes[slot] */
    uint32_t slot;
    enum cleat_digest_kind kind;
    bool cold; /* no cache holds the units, which are taken in turn */
};

enum store_seen { STORE_ABSENT, STORE_PRESENT, STORE_BUSY, STORE_DAMAGED };

enum store_entry_flags { STORE_ENTRY_RAW = 1 };

/* An entry as it was when it was in the index, or as it is being made. */
struct store_found {
    uint32_t index; /* from 1 */
    uint32_t key_bytes;
    uint32_t flags; /* enum store_entry_flags */
    uint32_t crc;   /* RAW: of the object */
    uint64_t bytes; /* of the object: header and payload */
    unsigned char *key;
    unsigned char *object; /* aligned to 64 */
    uint64_t state;
    uint64_t link;
    uint32_t hash;
    uint32_t units_first;
    uint32_t units_count;
    _Atomic uint64_t *before; /* the link that leads to it, or to nobody */
    uint64_t before_value;
};

/* ---- the table ---- */

/* Fills in a shape; false where a count is out of range or nothing fits.
 * `needed`: bytes that it takes at least, where it is those. */
bool cleat_memory_table_shape_of(const struct cleat_memory_store_config *config,
                                 uint64_t block_bytes,
                                 struct store_shape *shape, uint64_t *needed);
/* The place of everything but the units, for so many of each. */
void cleat_memory_table_shape_place(struct store_shape *shape);

/* Makes an empty one. */
void cleat_memory_table_make(void *block, const struct store_shape *shape);
/* Reads the block's shape. */
enum cleat_status cleat_memory_table_shape(const void *block, uint64_t bytes,
                                           struct store_shape *shape);
/* Fills in the table, without a place among the processes. */
void cleat_memory_table_see(struct store_table *table, void *block,
                            const struct store_shape *shape);

uint32_t cleat_memory_table_hash(const struct store_table *table,
                                 const char *key, uint32_t key_bytes);

/* Looks a key up; writes nothing. */
enum store_seen cleat_memory_table_find(const struct store_table *table,
                                        uint32_t hash, const char *key,
                                        uint32_t key_bytes,
                                        struct store_found *found);
/* Has what a find of this hash will touch brought nearer, in three stages, of
 * which each looks at what the one before has brought. */
#define STORE_FETCH_STAGES 3u
void cleat_memory_table_fetch(const struct store_table *table, uint32_t hash,
                              uint32_t stage);
/* Whether what was found is there still, hence was all the time since. */
bool cleat_memory_table_still(const struct store_table *table,
                              const struct store_found *found);

/* Takes an entry and units for a key and an object of that size, which nobody
 * sees. Returns 0 or enum cleat_memory_store_code. */
int32_t cleat_memory_table_begin(struct store_table *table, uint32_t hash,
                                 uint32_t key_bytes, uint64_t bytes,
                                 struct store_found *made);
/* Writes down what it has become: bytes, flags, crc, key. */
void cleat_memory_table_describe(struct store_table *table,
                                 const struct store_found *made);
/* Publishes it under its key, in one moment. STORE_ABSENT: it is there now;
 * otherwise it is not, and STORE_PRESENT: another one is. */
enum store_seen cleat_memory_table_publish(struct store_table *table,
                                           const char *key,
                                           const struct store_found *made);
/* Gives back what was begun and not published. */
void cleat_memory_table_abandon(struct store_table *table,
                                const struct store_found *made);

/* Removes a key. STORE_PRESENT: it was there. */
enum store_seen cleat_memory_table_remove(struct store_table *table,
                                          uint32_t hash, const char *key,
                                          uint32_t key_bytes);

uint32_t cleat_memory_table_sweep(struct store_table *table);
void cleat_memory_table_look(const struct store_table *table,
                             struct cleat_memory_store_view *view);

/* ---- processes ---- */

/* Takes a place among the processes; false when there is none. */
bool cleat_memory_table_join(struct store_table *table);
void cleat_memory_table_leave(struct store_table *table);
/* Has that one ended? Nobody: yes. `judged`: what was found out before of a
 * few, all zero at first. */
#define STORE_JUDGED 16u
struct store_judged {
    uint64_t identity[STORE_JUDGED];
    bool dead[STORE_JUDGED];
};
bool cleat_memory_table_dead(const struct store_table *table, uint64_t identity,
                             struct store_judged *judged);
/* Of the PID and the time namespace, which the times of /proc depend on; 0: not
 * known. */
uint64_t cleat_memory_table_namespace(void);
/* Finishes what a former process at our slot has left. */
uint32_t cleat_memory_table_inherit(struct store_table *table);

/* ---- bytes that another may be writing ---- */

/* Copies out of, and into, the block. */
void cleat_memory_table_read(void *to, const unsigned char *from, size_t bytes);
void cleat_memory_table_write(unsigned char *to, const void *from,
                              size_t bytes);
uint32_t cleat_memory_table_read_crc(const struct store_table *table, void *to,
                                     const unsigned char *from, size_t bytes);
uint32_t cleat_memory_table_write_crc(const struct store_table *table,
                                      unsigned char *to, const void *from,
                                      size_t bytes);
bool cleat_memory_table_equal(const unsigned char *at, const void *bytes,
                              size_t bytes_count);

#endif
