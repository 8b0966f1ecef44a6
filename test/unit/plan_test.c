/* Cleat: the plan, by hand. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cleat/digest.h"
#include "cleat/plan.h"

static void expect_piece(const struct cleat_plan *plan, uint32_t bucket,
                         uint32_t *cursor, uint32_t tensor,
                         uint64_t tensor_offset, uint32_t bucket_offset,
                         uint32_t bytes)
{
    struct cleat_plan_piece piece;

    assert_true(cleat_plan_next(plan, bucket, cursor, &piece));
    assert_int_equal(piece.tensor, tensor);
    assert_int_equal(piece.tensor_offset, tensor_offset);
    assert_int_equal(piece.bucket_offset, bucket_offset);
    assert_int_equal(piece.bytes, bytes);
}

/* 100, 1000, 0, 300 and 256 bytes in buckets of 512: tensors start at flat
 * 0, 256, –, 1280 and 1792; the end is 2048. */
static void a_table_is_laid_out_as_by_hand(void **state)
{
    uint64_t block[5];
    struct cleat_plan plan;
    struct cleat_plan_piece piece;
    uint32_t cursor[4] = {0, 0, 0, 0};

    (void)state;
    assert_int_equal(sizeof block, CLEAT_PLAN_BYTES(5));
    assert_int_equal(cleat_plan_begin(&plan, block, 5, 512, NULL), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 100), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 1000), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 0), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 300), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 256), CLEAT_OK);
    cleat_plan_end(&plan);
    assert_int_equal(cleat_plan_buckets(&plan), 4);
    assert_int_equal(cleat_plan_flat_bytes(&plan), 2048);
    expect_piece(&plan, 0, &cursor[0], 0, 0, 0, 100);
    expect_piece(&plan, 0, &cursor[0], 1, 0, 256, 256);
    expect_piece(&plan, 1, &cursor[1], 1, 256, 0, 512);
    expect_piece(&plan, 2, &cursor[2], 1, 768, 0, 232);
    expect_piece(&plan, 2, &cursor[2], 3, 0, 256, 256);
    expect_piece(&plan, 3, &cursor[3], 3, 256, 0, 44);
    expect_piece(&plan, 3, &cursor[3], 4, 0, 256, 256);
    for (uint32_t k = 0; k < 4; k++) {
        assert_false(cleat_plan_next(&plan, k, &cursor[k], &piece));
        assert_int_equal(cleat_plan_bucket_bytes(&plan, k), 512);
    }
}

static void the_last_bucket_ends_with_its_last_piece(void **state)
{
    uint64_t block[2];
    struct cleat_plan plan;

    (void)state;
    assert_int_equal(cleat_plan_begin(&plan, block, 2, 256, NULL), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 257), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 0), CLEAT_OK);
    cleat_plan_end(&plan);
    assert_int_equal(cleat_plan_buckets(&plan), 2);
    assert_int_equal(cleat_plan_bucket_bytes(&plan, 0), 256);
    assert_int_equal(cleat_plan_bucket_bytes(&plan, 1), 1);
    assert_int_equal(cleat_plan_bucket_bytes(&plan, 2), 0);
    assert_int_equal(cleat_plan_bucket_bytes(&plan, UINT32_MAX), 0);
}

static void a_table_without_bytes_has_no_buckets(void **state)
{
    uint64_t block[3];
    struct cleat_plan plan;
    struct cleat_plan_piece piece;
    uint32_t cursor = 0;

    (void)state;
    assert_int_equal(cleat_plan_begin(&plan, NULL, 0, 256, NULL), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 1), CLEAT_NO_SLOT);
    cleat_plan_end(&plan);
    assert_int_equal(cleat_plan_buckets(&plan), 0);
    assert_int_equal(cleat_plan_flat_bytes(&plan), 0);
    assert_false(cleat_plan_next(&plan, 0, &cursor, &piece));
    assert_int_equal(cleat_plan_begin(&plan, block, 3, 256, NULL), CLEAT_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(cleat_plan_add(&plan, 0), CLEAT_OK);
    }
    cleat_plan_end(&plan);
    assert_int_equal(cleat_plan_tensors(&plan), 3);
    assert_int_equal(cleat_plan_buckets(&plan), 0);
    assert_false(cleat_plan_next(&plan, 0, &cursor, &piece));
}

static void a_cursor_that_is_none_finds_nothing(void **state)
{
    uint64_t block[2];
    struct cleat_plan plan;
    struct cleat_plan_piece piece;
    uint32_t cursor = 3;

    (void)state;
    assert_int_equal(cleat_plan_begin(&plan, block, 2, 256, NULL), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 100), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 100), CLEAT_OK);
    cleat_plan_end(&plan);
    assert_false(cleat_plan_next(&plan, 0, &cursor, &piece));
    cursor = UINT32_MAX;
    assert_false(cleat_plan_next(&plan, 0, &cursor, &piece));
    cursor = 1; /* that of the bucket before */
    assert_true(cleat_plan_next(&plan, 1, &cursor, &piece));
    assert_int_equal(piece.tensor, 1);
    cursor = 0;
    assert_false(cleat_plan_next(&plan, 2, &cursor, &piece));
    assert_false(cleat_plan_next(&plan, UINT32_MAX, &cursor, &piece));
}

static void the_digest_is_over_bucket_size_and_sizes(void **state)
{
    static const unsigned char wire[] = {
        0, 2, 0, 0, 0, 0, 0, 0, /* 512 */
        7, 0, 0, 0, 0, 0, 0, 0, /* 7 */
        0, 0, 0, 0, 0, 1, 0, 0, /* 2^40 */
    };
    uint64_t block[2];
    struct cleat_plan plan;

    (void)state;
    assert_int_equal(cleat_plan_begin(&plan, block, 2, 512, NULL), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 7), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, UINT64_C(1) << 40), CLEAT_OK);
    cleat_plan_end(&plan);
    cleat_plan_end(&plan);
    assert_int_equal(cleat_plan_digest(&plan),
                     cleat_crc32c(0, wire, sizeof wire));
}

static void what_cannot_be_a_plan_is_refused(void **state)
{
    static const struct {
        size_t shift; /* of the block */
        uint32_t bucket_bytes;
        uint64_t index;
        const char *text;
    } cases[] = {
        {0, 0, 3, "plan: bucket_bytes not a multiple of 256"},
        {0, 255, 3, "plan: bucket_bytes not a multiple of 256"},
        {0, 257, 3, "plan: bucket_bytes not a multiple of 256"},
        {0, UINT32_MAX, 3, "plan: bucket_bytes not a multiple of 256"},
        {4, 256, 1, "plan: no block aligned to 8 bytes"},
    };
    uint64_t block[3];
    struct cleat_plan plan;
    struct cleat_error error;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(cleat_plan_begin(&plan, (char *)block + cases[i].shift,
                                          2, cases[i].bucket_bytes, &error),
                         CLEAT_INVALID);
        assert_int_equal(error.index, cases[i].index);
        assert_string_equal(error.text, cases[i].text);
    }
    assert_int_equal(cleat_plan_begin(&plan, NULL, 1, 256, &error),
                     CLEAT_INVALID);
    assert_int_equal(
        cleat_plan_begin(&plan, block, 2, CLEAT_PLAN_BUCKET_BYTES_MAX, &error),
        CLEAT_OK);
}

static void a_refused_tensor_leaves_the_plan_as_before(void **state)
{
    uint64_t block[2];
    uint64_t flat_max = UINT64_C(256) * UINT32_MAX;
    struct cleat_plan plan;
    struct cleat_plan before;

    (void)state;
    assert_int_equal(cleat_plan_begin(&plan, block, 2, 256, NULL), CLEAT_OK);
    assert_int_equal(cleat_plan_add(&plan, 1), CLEAT_OK);
    before = plan;
    assert_int_equal(cleat_plan_add(&plan, flat_max - 255), CLEAT_LIMIT);
    assert_int_equal(cleat_plan_add(&plan, UINT64_MAX), CLEAT_LIMIT);
    assert_memory_equal(&plan, &before, sizeof plan);
    assert_int_equal(cleat_plan_add(&plan, flat_max - 256), CLEAT_OK);
    before = plan;
    assert_int_equal(cleat_plan_add(&plan, 0), CLEAT_NO_SLOT);
    assert_memory_equal(&plan, &before, sizeof plan);
    cleat_plan_end(&plan);
    assert_int_equal(cleat_plan_buckets(&plan), UINT32_MAX);
    assert_int_equal(cleat_plan_bucket_bytes(&plan, UINT32_MAX - 1), 256);
    before = plan;
    assert_int_equal(cleat_plan_add(&plan, 0), CLEAT_STATE);
    assert_memory_equal(&plan, &before, sizeof plan);
}

static void bytes_are_told_before(void **state)
{
    (void)state;
    assert_int_equal(cleat_plan_bytes(0), 0);
    assert_int_equal(cleat_plan_bytes(7), 56);
    assert_int_equal(cleat_plan_bytes(7), CLEAT_PLAN_BYTES(7));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_is_laid_out_as_by_hand),
        cmocka_unit_test(the_last_bucket_ends_with_its_last_piece),
        cmocka_unit_test(a_table_without_bytes_has_no_buckets),
        cmocka_unit_test(a_cursor_that_is_none_finds_nothing),
        cmocka_unit_test(the_digest_is_over_bucket_size_and_sizes),
        cmocka_unit_test(what_cannot_be_a_plan_is_refused),
        cmocka_unit_test(a_refused_tensor_leaves_the_plan_as_before),
        cmocka_unit_test(bytes_are_told_before),
    };

    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
