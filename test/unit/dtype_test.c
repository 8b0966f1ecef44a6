/* Cleat: names and sizes of elements. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cleat/dtype.h"

/* The safetensors format's names, and the bytes that its readers count. */
static const struct {
    const char *name;
    uint32_t value;
    uint32_t bytes;
} expected[] = {
    {"BOOL", 1, 1},    {"U8", 2, 1},   {"I8", 3, 1},   {"F8_E5M2", 4, 1},
    {"F8_E4M3", 5, 1}, {"I16", 6, 2},  {"U16", 7, 2},  {"F16", 8, 2},
    {"BF16", 9, 2},    {"I32", 10, 4}, {"U32", 11, 4}, {"F32", 12, 4},
    {"I64", 13, 8},    {"U64", 14, 8}, {"F64", 15, 8},
};
#define COUNT (sizeof expected / sizeof expected[0])

static void the_list_is_that_of_safetensors_and_its_values_are_fixed(void **s)
{
    (void)s;
    assert_int_equal(CLEAT_DTYPE_END, COUNT + 1);
    for (size_t i = 0; i < COUNT; i++) {
        enum cleat_dtype dtype = (enum cleat_dtype)expected[i].value;

        assert_string_equal(cleat_dtype_name(dtype), expected[i].name);
        assert_int_equal(cleat_dtype_bytes(dtype), expected[i].bytes);
        assert_int_equal(
            cleat_dtype_from_name(expected[i].name, strlen(expected[i].name)),
            dtype);
    }
}

static void a_value_outside_the_list_has_no_name_and_no_bytes(void **s)
{
    (void)s;
    assert_string_equal(cleat_dtype_name(CLEAT_DTYPE_NONE), "NONE");
    assert_int_equal(cleat_dtype_bytes(CLEAT_DTYPE_NONE), 0);
    assert_string_equal(cleat_dtype_name(CLEAT_DTYPE_END), "UNKNOWN");
    assert_int_equal(cleat_dtype_bytes(CLEAT_DTYPE_END), 0);
    assert_string_equal(cleat_dtype_name((enum cleat_dtype)255), "UNKNOWN");
    assert_int_equal(cleat_dtype_bytes((enum cleat_dtype)255), 0);
}

static void only_the_exact_name_is_the_name(void **s)
{
    static const char *const wrong[] = {
        "",         "B",    "F3",    "F322",   "f32",      "F32 ",
        " F32",     "F8",   "NONE",  "F8_E4M", "F8_E4M33", "F8_E4M3X",
        "BFLOAT16", "I128", "BF16 ", "C64",    "F8_E8M0",  "UNKNOWN",
    };

    (void)s;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(cleat_dtype_from_name(wrong[i], strlen(wrong[i])),
                         CLEAT_DTYPE_NONE);
    }
    assert_int_equal(cleat_dtype_from_name(NULL, 0), CLEAT_DTYPE_NONE);
    /* A name with a NUL in it is not the name before the NUL. */
    assert_int_equal(cleat_dtype_from_name("F32\0", 4), CLEAT_DTYPE_NONE);
    assert_int_equal(cleat_dtype_from_name("F32\0\0\0\0", 7), CLEAT_DTYPE_NONE);
}

static void a_tensor_has_the_product_of_its_dimensions(void **s)
{
    const uint64_t shape[8] = {2, 3, 4, 5, 6, 7, 8, 9};
    uint64_t bytes = 0;

    (void)s;
    assert_int_equal(cleat_dtype_tensor_bytes(CLEAT_DTYPE_F32, 0, NULL, &bytes),
                     CLEAT_OK);
    assert_int_equal(bytes, 4);
    assert_int_equal(
        cleat_dtype_tensor_bytes(CLEAT_DTYPE_BF16, 2, shape, &bytes), CLEAT_OK);
    assert_int_equal(bytes, 12);
    assert_int_equal(
        cleat_dtype_tensor_bytes(CLEAT_DTYPE_F64, 8, shape, &bytes), CLEAT_OK);
    assert_int_equal(bytes, 2903040);
}

static void a_zero_dimension_empties_a_tensor_however_large_the_rest(void **s)
{
    const uint64_t last[3] = {UINT64_MAX, UINT64_MAX, 0};
    const uint64_t first[3] = {0, UINT64_MAX, UINT64_MAX};
    uint64_t bytes = 1;

    (void)s;
    assert_int_equal(cleat_dtype_tensor_bytes(CLEAT_DTYPE_F64, 3, last, &bytes),
                     CLEAT_OK);
    assert_int_equal(bytes, 0);
    bytes = 1;
    assert_int_equal(
        cleat_dtype_tensor_bytes(CLEAT_DTYPE_F64, 3, first, &bytes), CLEAT_OK);
    assert_int_equal(bytes, 0);
}

static void a_product_beyond_64_bits_is_refused(void **s)
{
    const uint64_t fits[2] = {(uint64_t)1 << 60, 15};
    const uint64_t not [2] = {(uint64_t)1 << 60, 16};
    const uint64_t wraps[4] = {(uint64_t)1 << 32, (uint64_t)1 << 32, 1, 7};
    const uint64_t exactly[1] = {UINT64_MAX};
    uint64_t bytes = 1;

    (void)s;
    assert_int_equal(cleat_dtype_tensor_bytes(CLEAT_DTYPE_U8, 2, fits, &bytes),
                     CLEAT_OK);
    assert_true(bytes == (uint64_t)15 << 60);
    assert_int_equal(cleat_dtype_tensor_bytes(CLEAT_DTYPE_U8, 2, not, &bytes),
                     CLEAT_LIMIT);
    assert_int_equal(bytes, 0);
    assert_int_equal(cleat_dtype_tensor_bytes(CLEAT_DTYPE_U8, 4, wraps, &bytes),
                     CLEAT_LIMIT);
    assert_int_equal(bytes, 0);
    assert_int_equal(
        cleat_dtype_tensor_bytes(CLEAT_DTYPE_I8, 1, exactly, &bytes), CLEAT_OK);
    assert_true(bytes == UINT64_MAX);
    assert_int_equal(
        cleat_dtype_tensor_bytes(CLEAT_DTYPE_I16, 1, exactly, &bytes),
        CLEAT_LIMIT);
}

static void a_dtype_without_elements_or_a_ninth_dimension_is_refused(void **s)
{
    const uint64_t shape[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    uint64_t bytes = 1;

    (void)s;
    assert_int_equal(
        cleat_dtype_tensor_bytes(CLEAT_DTYPE_NONE, 1, shape, &bytes),
        CLEAT_INVALID);
    assert_int_equal(bytes, 0);
    assert_int_equal(
        cleat_dtype_tensor_bytes(CLEAT_DTYPE_END, 1, shape, &bytes),
        CLEAT_INVALID);
    assert_int_equal(cleat_dtype_tensor_bytes(CLEAT_DTYPE_U8, 9, shape, &bytes),
                     CLEAT_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            the_list_is_that_of_safetensors_and_its_values_are_fixed),
        cmocka_unit_test(a_value_outside_the_list_has_no_name_and_no_bytes),
        cmocka_unit_test(only_the_exact_name_is_the_name),
        cmocka_unit_test(a_tensor_has_the_product_of_its_dimensions),
        cmocka_unit_test(
            a_zero_dimension_empties_a_tensor_however_large_the_rest),
        cmocka_unit_test(a_product_beyond_64_bits_is_refused),
        cmocka_unit_test(
            a_dtype_without_elements_or_a_ninth_dimension_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
