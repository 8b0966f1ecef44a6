/* Cleat: the digest against published vectors. SPDX-License-Identifier:
 * Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#define CLEAT_DIGEST_DETECT
#include "cleat/digest.h"

/* Every kind that this machine can run. Two of them may be the same code. */
static enum cleat_digest_kind kind_at(unsigned i)
{
    const enum cleat_digest_kind best = cleat_digest_detect();
    const enum cleat_digest_kind kinds[4] = {
        CLEAT_DIGEST_PORTABLE, CLEAT_DIGEST_BUILD, best,
        /* What is better than the hardware's has that as well. */
        best == CLEAT_DIGEST_WIDE ? CLEAT_DIGEST_HARDWARE : best};

    return kinds[i];
}
#define KINDS 4

static void expect(const void *data, size_t bytes, uint32_t crc)
{
    unsigned char copy[64];

    assert_true(bytes <= sizeof copy);
    assert_int_equal(cleat_crc32c(0, data, bytes), crc);
    memset(copy, 0xA5, sizeof copy);
    assert_int_equal(cleat_crc32c_copy(0, copy, data, bytes), crc);
    assert_memory_equal(copy, data, bytes);
    for (unsigned k = 0; k < KINDS; k++) {
        assert_int_equal(cleat_crc32c_with(kind_at(k), 0, data, bytes), crc);
        memset(copy, 0xA5, sizeof copy);
        assert_int_equal(
            cleat_crc32c_copy_with(kind_at(k), 0, copy, data, bytes), crc);
        assert_memory_equal(copy, data, bytes);
        memset(copy, 0xA5, sizeof copy);
        assert_int_equal(
            cleat_crc32c_copy_cold_with(kind_at(k), 0, copy, data, bytes), crc);
        assert_memory_equal(copy, data, bytes);
    }
}

static void the_vectors_of_rfc_3720_b4_come_out(void **state)
{
    /* An iSCSI SCSI Read (10) command PDU. */
    static const unsigned char read_10[48] = {
        0x01, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    0, 0, 0, 0,
        0x14, 0,    0, 0, 0, 0, 4, 0, 0, 0, 0, 0x14, 0, 0, 0, 0x18,
        0x28, 0,    0, 0, 0, 0, 0, 0, 2, 0, 0, 0,    0, 0, 0, 0};
    unsigned char data[32];

    (void)state;
    memset(data, 0, 32);
    expect(data, 32, 0x8A9136AAu);
    memset(data, 0xFF, 32);
    expect(data, 32, 0x62A8AB43u);
    for (unsigned i = 0; i < 32; i++) { data[i] = (unsigned char)i; }
    expect(data, 32, 0x46DD794Eu);
    for (unsigned i = 0; i < 32; i++) { data[i] = (unsigned char)(31 - i); }
    expect(data, 32, 0x113FDB5Cu);
    expect(read_10, sizeof read_10, 0xD9963A56u);
}

static void the_check_value_of_the_nine_digits_comes_out(void **state)
{
    (void)state;
    expect("123456789", 9, 0xE3069283u);
}

static void nothing_has_digest_zero_and_changes_none(void **state)
{
    (void)state;
    assert_int_equal(cleat_crc32c(0, NULL, 0), 0);
    assert_int_equal(cleat_crc32c(0xE3069283u, NULL, 0), 0xE3069283u);
    assert_int_equal(cleat_crc32c_copy(0xE3069283u, NULL, NULL, 0),
                     0xE3069283u);
    for (unsigned k = 0; k < KINDS; k++) {
        assert_int_equal(cleat_crc32c_with(kind_at(k), 7, NULL, 0), 7);
        assert_int_equal(cleat_crc32c_copy_with(kind_at(k), 7, NULL, NULL, 0),
                         7);
        assert_int_equal(
            cleat_crc32c_copy_cold_with(kind_at(k), 7, NULL, NULL, 0), 7);
    }
}

static void combining_with_nothing_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(cleat_crc32c_combine(0xE3069283u, 0, 0), 0xE3069283u);
    assert_int_equal(cleat_crc32c_combine(0, 0xE3069283u, 9), 0xE3069283u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vectors_of_rfc_3720_b4_come_out),
        cmocka_unit_test(the_check_value_of_the_nine_digits_comes_out),
        cmocka_unit_test(nothing_has_digest_zero_and_changes_none),
        cmocka_unit_test(combining_with_nothing_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
