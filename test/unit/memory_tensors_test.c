/* Cleat: tensors in plain memory. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cleat/memory_tensors.h"

static unsigned char weight[6 * 4];
static unsigned char bias[3];

static const struct cleat_memory_tensor table[] = {
    {"weight", CLEAT_DTYPE_F32, 2, {2, 3}, weight},
    {"bias", CLEAT_DTYPE_U8, 1, {3}, bias},
    {"empty", CLEAT_DTYPE_F64, 2, {0, UINT64_MAX}, NULL},
    {"scalar", CLEAT_DTYPE_I8, 0, {9}, bias},
};

static struct cleat_memory_tensors tensors;
static struct cleat_tensor_sink sink;
static struct cleat_tensor_source source;

static int join(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof weight; i++) {
        weight[i] = (unsigned char)(i * 7 + 1);
    }
    memset(bias, 0, sizeof bias);
    if (cleat_memory_tensors_init(&tensors, table, 4, NULL) != CLEAT_OK) {
        return 1;
    }
    sink = cleat_memory_tensors_sink(&tensors);
    source = cleat_memory_tensors_source(&tensors);
    return 0;
}

static void a_row_is_described_as_given(void **state)
{
    struct cleat_tensor tensor;

    (void)state;
    assert_int_equal(source.count(source.context), 4);
    assert_int_equal(source.describe(source.context, 0, &tensor), CLEAT_OK);
    assert_int_equal(tensor.name_bytes, 6);
    assert_memory_equal(tensor.name, "weight", 6);
    assert_int_equal(tensor.dtype, CLEAT_DTYPE_F32);
    assert_int_equal(tensor.rank, 2);
    assert_int_equal(tensor.shape[0], 2);
    assert_int_equal(tensor.shape[1], 3);
    assert_int_equal(tensor.shape[2], 0);
    assert_int_equal(tensor.bytes, 24);
    assert_int_equal(source.describe(source.context, 2, &tensor), CLEAT_OK);
    assert_int_equal(tensor.bytes, 0);
    assert_int_equal(source.describe(source.context, 3, &tensor), CLEAT_OK);
    assert_int_equal(tensor.bytes, 1);
    assert_int_equal(tensor.shape[0], 0); /* past the rank */
    assert_int_equal(source.describe(source.context, 4, &tensor),
                     CLEAT_INVALID);
}

static void reading_in_pieces_gives_the_digest_of_the_whole(void **state)
{
    unsigned char got[sizeof weight] = {0};
    uint32_t crc = 0;
    uint32_t only = 0;

    (void)state;
    assert_int_equal(source.read(source.context, 0, 0, 5, got, &crc), CLEAT_OK);
    assert_int_equal(source.read(source.context, 0, 5, 0, got + 5, &crc),
                     CLEAT_OK);
    assert_int_equal(source.read(source.context, 0, 5, 19, got + 5, &crc),
                     CLEAT_OK);
    assert_memory_equal(got, weight, sizeof weight);
    assert_int_equal(crc, cleat_crc32c(0, weight, sizeof weight));
    assert_int_equal(source.read(source.context, 0, 0, 24, NULL, &only),
                     CLEAT_OK);
    assert_int_equal(only, crc);
    memset(got, 0, sizeof got);
    assert_int_equal(source.read(source.context, 0, 0, 24, got, NULL),
                     CLEAT_OK);
    assert_memory_equal(got, weight, sizeof weight);
}

static void what_is_written_is_what_is_read_and_nothing_else(void **state)
{
    unsigned char before[sizeof weight];
    uint32_t crc = 17;
    uint32_t held = 17;

    (void)state;
    memcpy(before, weight, sizeof before);
    assert_int_equal(sink.write(sink.context, 0, 3, 4, "abcd", &crc), CLEAT_OK);
    assert_memory_equal(weight, before, 3);
    assert_memory_equal(weight + 3, "abcd", 4);
    assert_memory_equal(weight + 7, before + 7, sizeof weight - 7);
    assert_int_equal(crc, cleat_crc32c(17, "abcd", 4));
    assert_int_equal(sink.read(sink.context, 0, 3, 4, NULL, &held), CLEAT_OK);
    assert_int_equal(held, crc);
    assert_int_equal(sink.write(sink.context, 1, 0, 3, "xyz", NULL), CLEAT_OK);
    assert_memory_equal(bias, "xyz", 3);
}

static void a_range_outside_its_tensor_is_refused_without_effect(void **state)
{
    static const struct {
        uint32_t index;
        uint64_t offset;
        size_t bytes;
    } outside[] = {
        {0, 24, 1},
        {0, 25, 0},
        {0, 0, 25},
        {0, 1, 24},
        {0, UINT64_MAX, 1},
        {0, 1, SIZE_MAX},
        {0, UINT64_MAX, SIZE_MAX},
        {2, 0, 1},
        {4, 0, 0},
        {UINT32_MAX, 0, 1},
    };
    unsigned char before[sizeof weight];
    unsigned char got[64];
    unsigned char untouched[64];
    uint32_t crc = 99;

    (void)state;
    memcpy(before, weight, sizeof before);
    memset(got, 0x5A, sizeof got);
    memset(untouched, 0x5A, sizeof untouched);
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        assert_int_equal(source.read(source.context, outside[i].index,
                                     outside[i].offset, outside[i].bytes, got,
                                     &crc),
                         CLEAT_INVALID);
        assert_int_equal(sink.write(sink.context, outside[i].index,
                                    outside[i].offset, outside[i].bytes, got,
                                    &crc),
                         CLEAT_INVALID);
    }
    assert_int_equal(sink.write(sink.context, 0, 0, 1, NULL, &crc),
                     CLEAT_INVALID);
    assert_int_equal(crc, 99);
    assert_memory_equal(weight, before, sizeof weight);
    assert_memory_equal(got, untouched, sizeof got);
    /* The end of a tensor is a legal place for nothing. */
    assert_int_equal(source.read(source.context, 0, 24, 0, got, &crc),
                     CLEAT_OK);
    assert_int_equal(source.read(source.context, 2, 0, 0, NULL, &crc),
                     CLEAT_OK);
    assert_int_equal(sink.write(sink.context, 2, 0, 0, NULL, &crc), CLEAT_OK);
    assert_int_equal(crc, 99);
}

static void a_row_that_cannot_be_a_tensor_is_refused(void **state)
{
    static const struct {
        struct cleat_memory_tensor row;
        enum cleat_status status;
        const char *text;
    } cases[] = {
        {{NULL, CLEAT_DTYPE_U8, 1, {3}, bias},
         CLEAT_INVALID,
         "memory tensors: row 1: it has no name"},
        {{"", CLEAT_DTYPE_U8, 1, {3}, bias},
         CLEAT_INVALID,
         "memory tensors: row 1: it has no name"},
        {{"a", CLEAT_DTYPE_NONE, 1, {3}, bias},
         CLEAT_INVALID,
         "memory tensors: row 1: its dtype has no elements"},
        {{"a", CLEAT_DTYPE_END, 1, {3}, bias},
         CLEAT_INVALID,
         "memory tensors: row 1: its dtype has no elements"},
        {{"a", CLEAT_DTYPE_U8, 9, {3}, bias},
         CLEAT_INVALID,
         "memory tensors: row 1: it has more than 8 dimensions"},
        {{"a", CLEAT_DTYPE_U8, 1, {3}, NULL},
         CLEAT_INVALID,
         "memory tensors: row 1: it has no data"},
        {{"a",
          CLEAT_DTYPE_U16,
          2,
          {UINT64_C(1) << 32, UINT64_C(1) << 31},
          bias},
         CLEAT_LIMIT,
         "memory tensors: row 1: its bytes do not fit memory"},
    };
    struct cleat_memory_tensor rows[2];
    struct cleat_memory_tensors made;
    struct cleat_error error;

    (void)state;
    rows[0] = table[0];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rows[1] = cases[i].row;
        assert_int_equal(cleat_memory_tensors_init(&made, rows, 2, &error),
                         cases[i].status);
        assert_int_equal(error.index, 1);
        assert_string_equal(error.text, cases[i].text);
    }
    assert_int_equal(cleat_memory_tensors_init(&made, NULL, 1, &error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_memory_tensors_init(&made, NULL, 0, &error),
                     CLEAT_OK);
    source = cleat_memory_tensors_source(&made);
    assert_int_equal(source.count(source.context), 0);
}

static void a_name_of_65536_bytes_is_refused(void **state)
{
    static char name[65537];
    struct cleat_memory_tensor row = table[0];
    struct cleat_memory_tensors made;
    struct cleat_error error;

    (void)state;
    memset(name, 'n', 65535);
    row.name = name;
    assert_int_equal(cleat_memory_tensors_init(&made, &row, 1, &error),
                     CLEAT_OK);
    name[65535] = 'n';
    assert_int_equal(cleat_memory_tensors_init(&made, &row, 1, &error),
                     CLEAT_LIMIT);
    assert_string_equal(
        error.text,
        "memory tensors: row 0: its name is longer than 65535 bytes");
}

static void tables_have_equal_digests_when_they_say_the_same(void **state)
{
    struct cleat_memory_tensor other[4];
    struct cleat_memory_tensors made;
    struct cleat_tensor_source different;
    uint32_t digest;
    uint32_t changed;
    uint64_t bytes;

    (void)state;
    memcpy(other, table, sizeof other);
    assert_int_equal(cleat_tensors_digest(&source, &digest, &bytes), CLEAT_OK);
    assert_int_equal(bytes, 24 + 3 + 0 + 1);
    assert_int_equal(cleat_memory_tensors_init(&made, other, 4, NULL),
                     CLEAT_OK);
    different = cleat_memory_tensors_source(&made);
    other[3].shape[0] = 5; /* past the rank: says nothing */
    assert_int_equal(cleat_tensors_digest(&different, &changed, NULL),
                     CLEAT_OK);
    assert_int_equal(changed, digest);
    other[0].name = "weighs";
    assert_int_equal(cleat_tensors_digest(&different, &changed, NULL),
                     CLEAT_OK);
    assert_int_not_equal(changed, digest);
    other[0] = table[0];
    other[1].dtype = CLEAT_DTYPE_I8;
    assert_int_equal(cleat_tensors_digest(&different, &changed, NULL),
                     CLEAT_OK);
    assert_int_not_equal(changed, digest);
    other[1] = table[1];
    other[0].shape[0] = 3;
    other[0].shape[1] = 2;
    assert_int_equal(cleat_tensors_digest(&different, &changed, NULL),
                     CLEAT_OK);
    assert_int_not_equal(changed, digest);
}

/* CRC32C one bit at a time, from the polynomial's definition. */
static uint32_t slow_crc(uint32_t crc, const unsigned char *bytes, size_t count)
{
    crc = ~crc;
    for (size_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0x82F63B78u : 0u);
        }
    }
    return ~crc;
}

static uint32_t slow_number(uint32_t crc, uint64_t number)
{
    unsigned char wire[8];

    for (int i = 0; i < 8; i++) {
        wire[i] = (unsigned char)(number >> (8 * i));
    }
    return slow_crc(crc, wire, sizeof wire);
}

static void a_layout_is_the_table_and_the_size_of_buckets(void **state)
{
    uint32_t wanted = 0;
    uint32_t layout = 0;

    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        wanted = slow_number(wanted, strlen(table[i].name));
        wanted = slow_number(wanted, (uint64_t)table[i].dtype);
        wanted = slow_number(wanted, table[i].rank);
        for (uint32_t k = 0; k < CLEAT_TENSOR_RANK_MAX; k++) {
            wanted = slow_number(wanted,
                                 k < table[i].rank ? table[i].shape[k] : 0);
        }
        wanted = slow_crc(wanted, (const unsigned char *)table[i].name,
                          strlen(table[i].name));
    }
    assert_int_equal(cleat_tensors_layout(&source, 0xFFFFFF00u, &layout),
                     CLEAT_OK);
    assert_int_equal(layout, slow_number(wanted, 0xFFFFFF00u));
    assert_int_equal(cleat_tensors_layout(&source, 256, &layout), CLEAT_OK);
    assert_int_equal(layout, slow_number(wanted, 256));
}

/* Four bytes change a CRC32C to any value: there is a table, of one scalar,
 * whose digest with its bucket size is 0. */
static void a_layout_is_never_zero(void **state)
{
    struct cleat_memory_tensor row = {
        .name = "alna", .dtype = CLEAT_DTYPE_U8, .data = bias};
    struct cleat_memory_tensors made;
    struct cleat_tensor_source one;
    uint32_t layout = 0;
    uint32_t found = 0;

    (void)state;
    assert_int_equal(cleat_memory_tensors_init(&made, &row, 1, NULL), CLEAT_OK);
    one = cleat_memory_tensors_source(&made);
    assert_int_equal(cleat_tensors_digest(&one, &found, NULL), CLEAT_OK);
    assert_int_equal(slow_number(found, 754688), 0);
    assert_int_equal(cleat_tensors_layout(&one, 754688, &layout), CLEAT_OK);
    assert_int_equal(layout, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_row_is_described_as_given, join),
        cmocka_unit_test_setup(reading_in_pieces_gives_the_digest_of_the_whole,
                               join),
        cmocka_unit_test_setup(what_is_written_is_what_is_read_and_nothing_else,
                               join),
        cmocka_unit_test_setup(
            a_range_outside_its_tensor_is_refused_without_effect, join),
        cmocka_unit_test_setup(a_row_that_cannot_be_a_tensor_is_refused, join),
        cmocka_unit_test_setup(a_name_of_65536_bytes_is_refused, join),
        cmocka_unit_test_setup(tables_have_equal_digests_when_they_say_the_same,
                               join),
        cmocka_unit_test_setup(a_layout_is_the_table_and_the_size_of_buckets,
                               join),
        cmocka_unit_test_setup(a_layout_is_never_zero, join),
    };

    return cmocka_run_group_tests_name("memory_tensors", tests, NULL, NULL);
}
