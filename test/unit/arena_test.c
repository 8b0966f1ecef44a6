/* Cleat: one block, carved once. SPDX-License-Identifier: Apache-2.0
 *
 * sealed-means-sealed, every-slot-comes-back, size-is-told-before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdalign.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cleat/arena.h"

static uint64_t random_state = 3;

static uint64_t random_u64(void)
{
    /* splitmix64 (Steele, Lea, Flood, 2014) */
    uint64_t z = (random_state += 0x9E3779B97F4A7C15u);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

#define BLOCK_BYTES ((size_t)16384)
static alignas(64) unsigned char block[BLOCK_BYTES];

/* ---- carving ------------------------------------------------------------- */

static void carvings_are_aligned_zeroed_apart_and_inside(void **state)
{
    (void)state;
    for (size_t shift = 0; shift < 2 * CLEAT_ALIGN; shift++) {
        struct cleat_arena arena;
        unsigned char *after = block + shift;
        size_t bytes = BLOCK_BYTES - 2 * shift;
        void *out;

        memset(block, 0xA5, sizeof block);
        assert_int_equal(cleat_arena_init(&arena, block + shift, bytes, NULL),
                         CLEAT_OK);
        for (;;) {
            size_t wanted = 1 + random_u64() % 300;
            unsigned char *carved;

            if (cleat_arena_carve(&arena, wanted, &out, NULL) != CLEAT_OK) {
                break;
            }
            carved = out;
            assert_int_equal((uintptr_t)carved % CLEAT_ALIGN, 0);
            assert_true(carved >= after);
            assert_true(carved + wanted <= block + shift + bytes);
            for (size_t i = 0; i < wanted; i++) {
                assert_int_equal(carved[i], 0);
            }
            memset(carved, 0xA5, wanted);
            after = carved + wanted;
        }
        for (size_t i = 0; i < sizeof block; i++) {
            assert_int_equal(block[i], 0xA5);
        }
    }
}

static void a_block_too_small_is_told_the_size_that_is_enough(void **state)
{
    (void)state;
    for (int round = 0; round < 300; round++) {
        struct cleat_arena arena;
        struct cleat_error error;
        size_t bytes[6];
        size_t enough;
        size_t shift = random_u64() % CLEAT_ALIGN;
        void *out;

        for (int i = 0; i < 6; i++) { bytes[i] = 1 + random_u64() % 900; }
        /* Too small: every carve is refused, and the last refusal knows all. */
        assert_int_equal(cleat_arena_init(&arena, block, 0, NULL), CLEAT_OK);
        for (int i = 0; i < 6; i++) {
            assert_int_equal(cleat_arena_carve(&arena, bytes[i], &out, &error),
                             CLEAT_TOO_SMALL);
            assert_null(out);
        }
        enough = (size_t)error.offset;
        assert_int_equal(enough, cleat_arena_bytes_wanted(&arena));
        /* What it told is enough, at every alignment of the block. */
        assert_int_equal(cleat_arena_init(&arena, block + shift, enough, NULL),
                         CLEAT_OK);
        for (int i = 0; i < 6; i++) {
            assert_int_equal(cleat_arena_carve(&arena, bytes[i], &out, &error),
                             CLEAT_OK);
        }
        assert_int_equal(cleat_arena_bytes_wanted(&arena), enough);
    }
}

static void a_block_of_one_byte_less_is_refused(void **state)
{
    struct cleat_arena arena;
    struct cleat_error error;
    void *out;

    (void)state;
    assert_int_equal(cleat_arena_init(&arena, block, 64 + 100, NULL), CLEAT_OK);
    assert_int_equal(cleat_arena_carve(&arena, 1, &out, NULL), CLEAT_OK);
    assert_int_equal(cleat_arena_carve(&arena, 100, &out, NULL), CLEAT_OK);
    assert_ptr_equal(out, block + 64);
    assert_int_equal(cleat_arena_init(&arena, block, 64 + 99, NULL), CLEAT_OK);
    assert_int_equal(cleat_arena_carve(&arena, 1, &out, NULL), CLEAT_OK);
    assert_int_equal(cleat_arena_carve(&arena, 100, &out, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, 64 + 128 + 63);
    assert_null(out);
    /* A refusal is final: what is smaller does not slip in behind it. */
    assert_int_equal(cleat_arena_carve(&arena, 1, &out, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, 64 + 128 + 64 + 63);
}

static void no_size_overflows(void **state)
{
    struct cleat_arena arena;
    struct cleat_pool pool;
    struct cleat_error error;
    void *out;

    (void)state;
    for (size_t less = 0; less < 130; less++) {
        assert_int_equal(cleat_arena_init(&arena, block, BLOCK_BYTES, NULL),
                         CLEAT_OK);
        assert_int_equal(
            cleat_arena_carve(&arena, SIZE_MAX - less, &out, &error),
            CLEAT_TOO_SMALL);
        assert_true(error.offset >= SIZE_MAX - less);
        assert_int_equal(cleat_arena_carve(&arena, 1, &out, &error),
                         CLEAT_TOO_SMALL);
        assert_true(error.offset >= SIZE_MAX - less);
    }
    assert_int_equal(cleat_arena_init(&arena, block, BLOCK_BYTES, NULL),
                     CLEAT_OK);
    assert_int_equal(
        cleat_arena_pool(&arena, UINT32_MAX - 1, SIZE_MAX / 2, &pool, &error),
        CLEAT_LIMIT);
    assert_int_equal(cleat_arena_pool(&arena, 2, SIZE_MAX - 10, &pool, &error),
                     CLEAT_LIMIT);
    assert_int_equal(cleat_arena_pool(&arena, UINT32_MAX, 1, &pool, &error),
                     CLEAT_LIMIT);
    /* Nothing was taken or counted by what was impossible. */
    assert_int_equal(cleat_arena_bytes_wanted(&arena), 63);
}

static void what_makes_no_sense_is_invalid(void **state)
{
    struct cleat_arena arena;
    struct cleat_pool pool;
    struct cleat_error error;
    void *out = block;

    (void)state;
    assert_int_equal(cleat_arena_init(NULL, block, 1, &error), CLEAT_INVALID);
    assert_int_equal(error.index, 0);
    assert_int_equal(cleat_arena_init(&arena, NULL, 1, &error), CLEAT_INVALID);
    assert_int_equal(error.index, 1);
    assert_int_equal(cleat_arena_init(&arena, block, BLOCK_BYTES, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_arena_carve(&arena, 0, &out, &error), CLEAT_INVALID);
    assert_null(out);
    assert_int_equal(cleat_arena_pool(&arena, 0, 1, &pool, &error),
                     CLEAT_INVALID);
    assert_int_equal(error.index, 1);
    assert_int_equal(cleat_arena_pool(&arena, 1, 0, &pool, &error),
                     CLEAT_INVALID);
    assert_int_equal(error.index, 2);
    assert_int_equal(cleat_arena_bytes_wanted(&arena), 63);
}

static void sealed_means_sealed(void **state)
{
    struct cleat_arena arena;
    struct cleat_pool pool;
    struct cleat_error error;
    size_t wanted;
    void *out;

    (void)state;
    assert_int_equal(cleat_arena_init(&arena, block, BLOCK_BYTES, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_arena_carve(&arena, 10, &out, NULL), CLEAT_OK);
    wanted = cleat_arena_bytes_wanted(&arena);
    cleat_arena_seal(&arena);
    cleat_arena_seal(&arena);
    out = block;
    assert_int_equal(cleat_arena_carve(&arena, 1, &out, &error), CLEAT_SEALED);
    assert_null(out);
    assert_int_equal(cleat_arena_carve(&arena, SIZE_MAX, &out, &error),
                     CLEAT_SEALED);
    assert_int_equal(cleat_arena_pool(&arena, 1, 1, &pool, &error),
                     CLEAT_SEALED);
    assert_int_equal(pool.count, 0);
    assert_int_equal(cleat_arena_bytes_wanted(&arena), wanted);
}

/* ---- pools --------------------------------------------------------------- */

static void a_pool_takes_what_its_constant_says(void **state)
{
    (void)state;
    for (uint32_t count = 1; count <= 40; count++) {
        for (size_t bytes = 1; bytes <= 200; bytes += 9) {
            struct cleat_arena arena;
            struct cleat_pool pool;
            size_t told = CLEAT_POOL_BYTES(count, bytes);

            assert_true(told <= BLOCK_BYTES);
            assert_int_equal(cleat_arena_init(&arena, block, told, NULL),
                             CLEAT_OK);
            assert_int_equal(
                cleat_arena_pool(&arena, count, bytes, &pool, NULL), CLEAT_OK);
            assert_int_equal(cleat_arena_bytes_wanted(&arena), told + 63);
            assert_int_equal(cleat_arena_init(&arena, block, told - 1, NULL),
                             CLEAT_OK);
            assert_int_equal(
                cleat_arena_pool(&arena, count, bytes, &pool, NULL),
                CLEAT_TOO_SMALL);
        }
    }
}

/* The constant is one: it sizes a static array. */
static unsigned char fixed[CLEAT_POOL_BYTES(3, 100) + CLEAT_ALIGN];

static void slots_are_aligned_apart_and_inside(void **state)
{
    struct cleat_arena arena;
    struct cleat_pool pool;
    uint32_t slots[3];

    (void)state;
    assert_int_equal(cleat_arena_init(&arena, fixed, sizeof fixed, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_arena_pool(&arena, 3, 100, &pool, NULL), CLEAT_OK);
    for (int i = 0; i < 3; i++) {
        unsigned char *at;

        assert_int_equal(cleat_pool_take(&pool, &slots[i]), CLEAT_OK);
        at = cleat_pool_at(&pool, slots[i]);
        assert_int_equal((uintptr_t)at % CLEAT_ALIGN, 0);
        assert_true(at >= fixed && at + 100 <= fixed + sizeof fixed);
        memset(at, 0x10 + i, 100);
    }
    for (int i = 0; i < 3; i++) {
        unsigned char *at = cleat_pool_at(&pool, slots[i]);

        for (int k = 0; k < 100; k++) { assert_int_equal(at[k], 0x10 + i); }
    }
}

/* Every sequence of DEPTH calls over three slots: take, or give one of five
 * indices (two of which do not exist), against a set of taken slots. */
#define SLOTS 3u
#define CALLS 6u
#define DEPTH 8u

static void run_calls(struct cleat_pool *pool, uint32_t sequence)
{
    bool taken[SLOTS] = {false};
    uint32_t count = 0;
    uint32_t count_max = 0;

    for (uint32_t i = 0; i < DEPTH; i++, sequence /= CALLS) {
        uint32_t call = sequence % CALLS;
        uint32_t slot = call - 1 < SLOTS ? call - 1
                        : call == 4      ? SLOTS
                                         : UINT32_MAX;

        if (call == 0) {
            uint32_t got = 99;
            enum cleat_status status = cleat_pool_take(pool, &got);

            if (count == SLOTS) {
                assert_int_equal(status, CLEAT_NO_SLOT);
                assert_int_equal(got, 99);
                continue;
            }
            assert_int_equal(status, CLEAT_OK);
            assert_true(got < SLOTS && !taken[got]);
            taken[got] = true;
            count++;
            if (count > count_max) { count_max = count; }
        } else if (slot < SLOTS && taken[slot]) {
            assert_int_equal(cleat_pool_give(pool, slot), CLEAT_OK);
            taken[slot] = false;
            count--;
        } else {
            assert_int_equal(cleat_pool_give(pool, slot), CLEAT_INVALID);
        }
        assert_int_equal(pool->taken, count);
        assert_int_equal(pool->taken_max, count_max);
    }
    /* Every slot comes back. */
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        assert_int_equal(cleat_pool_give(pool, slot),
                         taken[slot] ? CLEAT_OK : CLEAT_INVALID);
    }
    for (uint32_t i = 0; i < SLOTS; i++) {
        uint32_t got;

        assert_int_equal(cleat_pool_take(pool, &got), CLEAT_OK);
    }
}

static void every_slot_comes_back(void **state)
{
    uint32_t sequences = 1;

    (void)state;
    for (uint32_t i = 0; i < DEPTH; i++) { sequences *= CALLS; }
    for (uint32_t sequence = 0; sequence < sequences; sequence++) {
        struct cleat_arena arena;
        struct cleat_pool pool;

        assert_int_equal(cleat_arena_init(&arena, block, 1024, NULL), CLEAT_OK);
        assert_int_equal(cleat_arena_pool(&arena, SLOTS, 1, &pool, NULL),
                         CLEAT_OK);
        run_calls(&pool, sequence);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(carvings_are_aligned_zeroed_apart_and_inside),
        cmocka_unit_test(a_block_too_small_is_told_the_size_that_is_enough),
        cmocka_unit_test(a_block_of_one_byte_less_is_refused),
        cmocka_unit_test(no_size_overflows),
        cmocka_unit_test(what_makes_no_sense_is_invalid),
        cmocka_unit_test(sealed_means_sealed),
        cmocka_unit_test(a_pool_takes_what_its_constant_says),
        cmocka_unit_test(slots_are_aligned_apart_and_inside),
        cmocka_unit_test(every_slot_comes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
