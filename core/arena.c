/* Cleat: one block, carved once. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/arena.h"

#include <string.h>

#include "assert.h"
#include "text.h"

enum { ARENA_INIT = 1, ARENA_SEALED = 2 };

#define POOL_END UINT32_MAX

enum cleat_status cleat_arena_init(struct cleat_arena *arena, void *block,
                                   size_t bytes, struct cleat_error *error)
{
    size_t skip;

    if (arena == NULL || block == NULL) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, arena == NULL ? 0 : 1, 0,
                            "arena: the arena and its block must be given");
    }
    skip = (size_t)(0u - (uintptr_t)block) & (CLEAT_ALIGN - 1u);
    if (skip > bytes) { skip = bytes; }
    arena->block = (unsigned char *)block + skip;
    arena->bytes = bytes - skip;
    arena->wanted = 0;
    arena->state = ARENA_INIT;
    arena->reserved = 0;
    CLEAT_ASSERT(arena->bytes <= bytes);
    CLEAT_ASSERT(arena->bytes == 0 ||
                 ((uintptr_t)arena->block & (CLEAT_ALIGN - 1u)) == 0);
    return CLEAT_OK;
}

size_t cleat_arena_bytes_wanted(const struct cleat_arena *arena)
{
    CLEAT_ASSERT(arena != NULL);
    CLEAT_ASSERT(arena->wanted % CLEAT_ALIGN == 0 || arena->wanted == SIZE_MAX);
    return arena->wanted > SIZE_MAX - (CLEAT_ALIGN - 1u)
               ? SIZE_MAX
               : arena->wanted + (CLEAT_ALIGN - 1u);
}

enum cleat_status cleat_arena_carve(struct cleat_arena *arena, size_t bytes,
                                    void **out, struct cleat_error *error)
{
    size_t start;
    size_t rounded;

    CLEAT_ASSERT(arena != NULL && out != NULL);
    CLEAT_ASSERT(arena->state == ARENA_INIT || arena->state == ARENA_SEALED);
    *out = NULL;
    if (arena->state != ARENA_INIT) {
        return CLEAT_REFUSE(error, CLEAT_SEALED, 0, 0,
                            "arena: nothing can be carved after the seal");
    }
    if (bytes == 0) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, 1, 0,
                            "arena: zero bytes were asked for");
    }
    start = arena->wanted;
    rounded = bytes > SIZE_MAX - (CLEAT_ALIGN - 1u) ? SIZE_MAX
                                                    : CLEAT_ALIGN_UP(bytes);
    /* Counted whether or not it fits: the total is what the caller needs. */
    arena->wanted = rounded > SIZE_MAX - start ? SIZE_MAX : start + rounded;
    if (start > arena->bytes || bytes > arena->bytes - start) {
        return CLEAT_REFUSE(error, CLEAT_TOO_SMALL, 1,
                            cleat_arena_bytes_wanted(arena),
                            "arena: the block is too small");
    }
    *out = arena->block + start;
    memset(*out, 0, bytes);
    return CLEAT_OK;
}

enum cleat_status cleat_arena_pool(struct cleat_arena *arena, uint32_t count,
                                   size_t slot_bytes, struct cleat_pool *pool,
                                   struct cleat_error *error)
{
    struct cleat_pool made;
    size_t stride;
    size_t links;
    void *memory;
    enum cleat_status status;

    CLEAT_ASSERT(arena != NULL && pool != NULL);
    memset(pool, 0, sizeof *pool);
    if (count == 0 || slot_bytes == 0) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, count == 0 ? 1 : 2, 0,
                            "pool: count and slot bytes must be 1 or more");
    }
    /* Where the links overflow, as in 32 bits they can, so do the slots: each
     * is larger than its link. */
    stride = CLEAT_ALIGN_UP(slot_bytes);
    links = CLEAT_ALIGN_UP((size_t)count * sizeof(uint32_t));
    if (count == POOL_END || stride < slot_bytes ||
        stride > (SIZE_MAX - links) / count) {
        return CLEAT_REFUSE(error, CLEAT_LIMIT, 1, 0,
                            "pool: count times slot bytes overflows");
    }
    status = cleat_arena_carve(arena, links + (size_t)count * stride, &memory,
                               error);
    if (status != CLEAT_OK) { return status; }
    memset(&made, 0, sizeof made);
    made.next = memory;
    made.slots = (unsigned char *)memory + links;
    made.slot_bytes = stride;
    made.count = count;
    for (uint32_t i = 0; i < count; i++) {
        made.next[i] = i + 1 < count ? i + 1 : POOL_END;
    }
    CLEAT_ASSERT(made.free_first == 0 && made.taken == 0);
    *pool = made;
    return CLEAT_OK;
}

void cleat_arena_seal(struct cleat_arena *arena)
{
    CLEAT_ASSERT(arena != NULL);
    CLEAT_ASSERT(arena->state == ARENA_INIT || arena->state == ARENA_SEALED);
    arena->state = ARENA_SEALED;
}

enum cleat_status cleat_pool_take(struct cleat_pool *pool, uint32_t *slot)
{
    CLEAT_ASSERT(pool != NULL && slot != NULL);
    CLEAT_ASSERT(pool->taken <= pool->count);
    if (pool->taken == pool->count) { return CLEAT_NO_SLOT; }
    *slot = pool->free_first;
    CLEAT_ASSERT(*slot < pool->count);
    pool->free_first = pool->next[*slot];
    pool->next[*slot] = *slot; /* links to itself: taken */
    pool->taken++;
    if (pool->taken > pool->taken_max) { pool->taken_max = pool->taken; }
    return CLEAT_OK;
}

enum cleat_status cleat_pool_give(struct cleat_pool *pool, uint32_t slot)
{
    CLEAT_ASSERT(pool != NULL);
    CLEAT_ASSERT(pool->taken <= pool->count);
    if (slot >= pool->count || pool->next[slot] != slot) {
        return CLEAT_INVALID;
    }
    pool->taken--;
    pool->next[slot] = pool->free_first;
    pool->free_first = slot;
    return CLEAT_OK;
}

void *cleat_pool_at(const struct cleat_pool *pool, uint32_t slot)
{
    CLEAT_ASSERT(pool != NULL && slot < pool->count);
    CLEAT_ASSERT(pool->next[slot] == slot);
    return pool->slots + (size_t)slot * pool->slot_bytes;
}
