/* Cleat: one block, carved once. SPDX-License-Identifier: Apache-2.0
 *
 * The host owns one block of memory. At start-up it is carved into what the
 * machines need, and then sealed; after that nothing can fail for memory, and
 * the only shortage there is is "no free slot".
 *
 *     init ──carve, pool──▶ init ──seal──▶ sealed     (there is no way back)
 *
 * How large the block must be is told before: each machine has
 * `cleat_<machine>_bytes(&config)` and a constant expression in capitals, and
 * an arena that is too small says in `error->offset` how many bytes of block
 * would have been enough for all that has been asked so far.
 *
 * An arena is not thread-safe. The structs are visible so that a caller can
 * size them; their members are not for reading.
 */
#ifndef CLEAT_ARENA_H
#define CLEAT_ARENA_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every carving starts at a multiple of this many bytes. */
#define CLEAT_ALIGN 64u
#define CLEAT_ALIGN_UP(bytes) \
    (((bytes) + (size_t)(CLEAT_ALIGN - 1)) & ~(size_t)(CLEAT_ALIGN - 1))

/* What a pool of `count` slots of `bytes` bytes each takes of an arena. */
#define CLEAT_POOL_BYTES(count, bytes)                    \
    (CLEAT_ALIGN_UP((size_t)(count) * sizeof(uint32_t)) + \
     (size_t)(count)*CLEAT_ALIGN_UP(bytes))

struct cleat_arena {
    unsigned char *block;
    size_t bytes;  /* of the block */
    size_t wanted; /* bytes asked for so far, those refused included */
    uint32_t state;
    uint32_t reserved;
};

/* `count` slots of one size, counted. Slots are named by index, never by
 * pointer, so that a block that holds one can be copied. */
struct cleat_pool {
    uint32_t *next; /* free list; a taken slot links to itself */
    unsigned char *slots;
    size_t slot_bytes;
    uint32_t count;
    uint32_t free_first;
    uint32_t taken;
    uint32_t taken_max; /* the high-water mark */
};

/* Starts an arena over the caller's block, which must outlive it.
 *   block   any address; the first 0…63 bytes are lost to alignment
 *   bytes   of the block
 * Returns CLEAT_OK; CLEAT_INVALID when arena or block is NULL. */
enum cleat_status cleat_arena_init(struct cleat_arena *arena, void *block,
                                   size_t bytes, struct cleat_error *error);

/* Carves `bytes` zeroed bytes, aligned to CLEAT_ALIGN, into *out.
 * Returns CLEAT_OK; CLEAT_TOO_SMALL when the block cannot hold them, with the
 * bytes that the whole block needs so far in error->offset, and later carves
 * are counted in even so; CLEAT_SEALED after cleat_arena_seal; CLEAT_INVALID
 * for zero bytes. On error *out is NULL and nothing is taken. */
enum cleat_status cleat_arena_carve(struct cleat_arena *arena, size_t bytes,
                                    void **out, struct cleat_error *error);

/* Carves a pool of `count` slots (≥ 1) of `slot_bytes` bytes (≥ 1) each.
 * Returns what cleat_arena_carve does; CLEAT_LIMIT when the product does not
 * fit a size_t or there are 2^32 - 1 slots. On error *pool has no slots. */
enum cleat_status cleat_arena_pool(struct cleat_arena *arena, uint32_t count,
                                   size_t slot_bytes, struct cleat_pool *pool,
                                   struct cleat_error *error);

/* Ends initialisation. Idempotent. */
void cleat_arena_seal(struct cleat_arena *arena);

/* Bytes of block that all that was carved or refused so far needs, at the
 * worst alignment of the block. */
size_t cleat_arena_bytes_wanted(const struct cleat_arena *arena);

/* Takes a free slot: *slot becomes its index, 0 … count-1.
 * Returns CLEAT_OK or CLEAT_NO_SLOT. */
enum cleat_status cleat_pool_take(struct cleat_pool *pool, uint32_t *slot);

/* Gives a taken slot back. Returns CLEAT_OK; CLEAT_INVALID for an index that
 * does not exist or is not taken, with no effect. */
enum cleat_status cleat_pool_give(struct cleat_pool *pool, uint32_t slot);

/* The bytes of a slot, aligned to CLEAT_ALIGN; `slot` must be taken. */
void *cleat_pool_at(const struct cleat_pool *pool, uint32_t slot);

#ifdef __cplusplus
}
#endif
#endif
