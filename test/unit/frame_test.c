/* Cleat: frames, field by field. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <string.h>

#include "cleat/frame.h"

/* CRC32C, one bit at a time: the test's own. */
static uint32_t model_crc(const unsigned char *data, size_t bytes)
{
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1u) ? 0x82F63B78u : 0);
        }
    }
    return ~crc;
}

/* Gives a header that was tampered with a digest that is right. */
static void seal(unsigned char header[CLEAT_FRAME_BYTES])
{
    uint32_t crc = model_crc(header, 124);

    for (unsigned i = 0; i < 4; i++) {
        header[124 + i] = (unsigned char)(crc >> (8 * i));
    }
}

static const unsigned char twelve[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

/* A BF16 tensor of 2 × 3 that holds the bytes 0 … 11, written by hand; the
 * digests were computed bit by bit, elsewhere. */
static const unsigned char tensor_header[CLEAT_FRAME_BYTES] = {
    [0] = 'C', 'L',          'T',  'F',  1,    0,    128,  0,
    [10] = 9,  [11] = 2,     0xBA, 0xAA, 0x83, 0x53, 12,   [24] = 0x88,
    0x77,      0x66,         0x55, 0x44, 0x33, 0x22, 0x11, [32] = 2,
    [40] = 3,  [124] = 0xC2, 0xBB, 0x0E, 0x78};
static const unsigned char empty_header[CLEAT_FRAME_BYTES] = {
    [0] = 'C', 'L', 'T', 'F', 1, 0, 128, [124] = 0x4D, 0x6B, 0x52, 0x3C};

static struct cleat_frame tensor_frame(void)
{
    struct cleat_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.payload_bytes = 12;
    frame.tag = 0x1122334455667788u;
    frame.shape[0] = 2;
    frame.shape[1] = 3;
    frame.rank = 2;
    frame.dtype = CLEAT_DTYPE_BF16;
    frame.payload_crc = 0x5383AABAu;
    return frame;
}

static void the_bytes_of_a_header_are_those_of_the_table(void **state)
{
    struct cleat_frame frame = tensor_frame();
    struct cleat_frame zero;
    unsigned char out[CLEAT_FRAME_BYTES];

    (void)state;
    assert_int_equal(cleat_frame_encode(&frame, out, sizeof out, NULL),
                     CLEAT_OK);
    assert_memory_equal(out, tensor_header, sizeof out);
    memset(&zero, 0, sizeof zero);
    assert_int_equal(cleat_frame_encode(&zero, out, sizeof out, NULL),
                     CLEAT_OK);
    assert_memory_equal(out, empty_header, sizeof out);
}

static void a_header_reads_back_as_it_was_written(void **state)
{
    struct cleat_frame expected = tensor_frame();
    struct cleat_frame frame;

    (void)state;
    assert_int_equal(
        cleat_frame_decode(tensor_header, sizeof tensor_header, &frame, NULL),
        CLEAT_OK);
    assert_memory_equal(&frame, &expected, sizeof frame);
    assert_int_equal(cleat_frame_verify(&frame, CLEAT_DIGEST_BUILD, twelve,
                                        sizeof twelve, NULL),
                     CLEAT_OK);
}

static void empty_missing_and_failed_are_three_things(void **state)
{
    static const unsigned char nothing[CLEAT_FRAME_BYTES];
    unsigned char broken[CLEAT_FRAME_BYTES];
    struct cleat_frame frame;
    struct cleat_error error;

    (void)state;
    assert_int_equal(
        cleat_frame_decode(empty_header, sizeof empty_header, &frame, NULL),
        CLEAT_OK);
    assert_int_equal(frame.payload_bytes, 0);
    assert_int_equal(
        cleat_frame_verify(&frame, CLEAT_DIGEST_BUILD, NULL, 0, NULL),
        CLEAT_OK);
    assert_int_equal(cleat_frame_decode(NULL, 0, &frame, &error), CLEAT_SHORT);
    assert_int_equal(error.offset, CLEAT_FRAME_BYTES);
    assert_int_equal(
        cleat_frame_decode(nothing, sizeof nothing, &frame, &error),
        CLEAT_MALFORMED);
    assert_int_equal(error.offset, 0);
    memcpy(broken, empty_header, sizeof broken);
    broken[50] ^= 1;
    assert_int_equal(cleat_frame_decode(broken, sizeof broken, &frame, &error),
                     CLEAT_CORRUPT);
    assert_int_equal(error.offset, 124);
}

/* Sets one byte of a sound header, seals it, and expects that answer. */
static void expect(size_t at, unsigned char byte, enum cleat_status status,
                   uint64_t offset)
{
    unsigned char header[CLEAT_FRAME_BYTES];
    struct cleat_frame frame;
    struct cleat_frame zero;
    struct cleat_error error;

    memcpy(header, tensor_header, sizeof header);
    header[at] = byte;
    seal(header);
    memset(&zero, 0, sizeof zero);
    memset(&frame, 0xA5, sizeof frame);
    assert_int_equal(cleat_frame_decode(header, sizeof header, &frame, &error),
                     status);
    assert_int_equal(error.status, status);
    assert_int_equal(error.offset, offset);
    assert_memory_equal(&frame, &zero, sizeof frame);
}

static void a_sealed_header_that_lies_is_refused_where_it_lies(void **state)
{
    (void)state;
    expect(0, 'c', CLEAT_MALFORMED, 0);
    expect(3, 'G', CLEAT_MALFORMED, 3);
    expect(4, 2, CLEAT_UNSUPPORTED, 4);
    expect(4, 0, CLEAT_UNSUPPORTED, 4);
    expect(5, 1, CLEAT_UNSUPPORTED, 4);
    expect(6, 64, CLEAT_MALFORMED, 4);
    expect(7, 1, CLEAT_MALFORMED, 4);
    expect(8, 2, CLEAT_UNSUPPORTED, 8);
    expect(9, 1, CLEAT_UNSUPPORTED, 8);
    expect(8, 1, CLEAT_MALFORMED, 12); /* undigested, with a digest */
    expect(10, 16, CLEAT_UNSUPPORTED, 10);
    expect(10, 255, CLEAT_UNSUPPORTED, 10);
    expect(10, 0, CLEAT_MALFORMED, 11);  /* plain bytes have no rank */
    expect(10, 12, CLEAT_MALFORMED, 16); /* F32 takes 24 bytes */
    expect(11, 9, CLEAT_MALFORMED, 11);
    expect(11, 255, CLEAT_MALFORMED, 11);
    expect(11, 1, CLEAT_MALFORMED, 32); /* a dimension behind the rank */
    expect(11, 3, CLEAT_MALFORMED, 16); /* a third dimension of 0 */
    expect(16, 13, CLEAT_MALFORMED, 16);
    expect(23, 1, CLEAT_MALFORMED, 16);
    expect(32, 3, CLEAT_MALFORMED, 16);
    expect(47, 0x80, CLEAT_MALFORMED, 16); /* the product overflows */
    expect(95, 1, CLEAT_MALFORMED, 32);
    expect(96, 1, CLEAT_MALFORMED, 96);
    expect(123, 1, CLEAT_MALFORMED, 120);
}

static void expect_refusal(const struct cleat_frame *frame, uint64_t index)
{
    unsigned char out[CLEAT_FRAME_BYTES];
    unsigned char before[CLEAT_FRAME_BYTES];
    struct cleat_error error;

    memset(out, 0xA5, sizeof out);
    memcpy(before, out, sizeof out);
    assert_int_equal(cleat_frame_encode(frame, out, sizeof out, &error),
                     CLEAT_INVALID);
    assert_int_equal(error.index, index);
    assert_memory_equal(out, before, sizeof out);
}

static void a_frame_that_contradicts_itself_is_not_written(void **state)
{
    struct cleat_frame frame = tensor_frame();

    (void)state;
    frame.payload_bytes = 11;
    expect_refusal(&frame, 0);
    frame = tensor_frame();
    frame.shape[7] = 1;
    expect_refusal(&frame, 2);
    frame = tensor_frame();
    frame.rank = 9;
    expect_refusal(&frame, 3);
    frame = tensor_frame();
    frame.dtype = CLEAT_DTYPE_NONE;
    expect_refusal(&frame, 3);
    frame = tensor_frame();
    frame.dtype = CLEAT_DTYPE_END;
    expect_refusal(&frame, 4);
    frame = tensor_frame();
    frame.flags = 2;
    expect_refusal(&frame, 5);
    frame = tensor_frame();
    frame.flags = CLEAT_FRAME_UNDIGESTED;
    expect_refusal(&frame, 6);
    memset(&frame, 0, sizeof frame);
    frame.payload_crc = 1;
    expect_refusal(&frame, 6);
}

static void a_header_is_not_written_into_less_room_than_it_takes(void **state)
{
    struct cleat_frame frame = tensor_frame();
    unsigned char out[CLEAT_FRAME_BYTES];
    struct cleat_error error;

    (void)state;
    memset(out, 0xA5, sizeof out);
    assert_int_equal(
        cleat_frame_encode(&frame, out, CLEAT_FRAME_BYTES - 1, &error),
        CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, CLEAT_FRAME_BYTES);
    assert_int_equal(out[0], 0xA5);
    assert_int_equal(cleat_frame_encode(&frame, NULL, 0, &error),
                     CLEAT_TOO_SMALL);
}

static void a_payload_is_compared_in_length_and_in_digest(void **state)
{
    struct cleat_frame frame = tensor_frame();
    unsigned char other[13];
    struct cleat_error error;

    (void)state;
    memcpy(other, twelve, sizeof twelve);
    other[12] = 0;
    assert_int_equal(cleat_frame_match(&frame, 12, 0x5383AABAu, &error),
                     CLEAT_OK);
    assert_int_equal(cleat_frame_match(&frame, 12, 0x5383AABBu, &error),
                     CLEAT_CORRUPT);
    assert_int_equal(error.index, 2);
    assert_int_equal(cleat_frame_match(&frame, 11, 0x5383AABAu, &error),
                     CLEAT_SHORT);
    assert_int_equal(error.index, 1);
    assert_int_equal(error.offset, 12);
    assert_int_equal(cleat_frame_match(&frame, 13, 0x5383AABAu, &error),
                     CLEAT_MALFORMED);
    assert_int_equal(error.offset, 12);
    assert_int_equal(
        cleat_frame_verify(&frame, CLEAT_DIGEST_PORTABLE, other, 12, &error),
        CLEAT_OK);
    assert_int_equal(
        cleat_frame_verify(&frame, CLEAT_DIGEST_PORTABLE, other, 11, &error),
        CLEAT_SHORT);
    assert_int_equal(
        cleat_frame_verify(&frame, CLEAT_DIGEST_PORTABLE, other, 13, &error),
        CLEAT_MALFORMED);
    other[5] ^= 0x10;
    assert_int_equal(
        cleat_frame_verify(&frame, CLEAT_DIGEST_PORTABLE, other, 12, &error),
        CLEAT_CORRUPT);
}

static void an_undigested_payload_is_compared_in_length_only(void **state)
{
    struct cleat_frame frame = tensor_frame();
    unsigned char out[CLEAT_FRAME_BYTES];

    (void)state;
    frame.flags = CLEAT_FRAME_UNDIGESTED;
    frame.payload_crc = 0;
    assert_int_equal(cleat_frame_encode(&frame, out, sizeof out, NULL),
                     CLEAT_OK);
    assert_int_equal(out[8], 1);
    assert_int_equal(cleat_frame_decode(out, sizeof out, &frame, NULL),
                     CLEAT_OK);
    assert_int_equal(frame.flags, CLEAT_FRAME_UNDIGESTED);
    assert_int_equal(cleat_frame_match(&frame, 12, 0xDEADBEEFu, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_frame_match(&frame, 11, 0, NULL), CLEAT_SHORT);
    assert_int_equal(cleat_frame_verify(&frame, CLEAT_DIGEST_BUILD, twelve,
                                        sizeof twelve, NULL),
                     CLEAT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bytes_of_a_header_are_those_of_the_table),
        cmocka_unit_test(a_header_reads_back_as_it_was_written),
        cmocka_unit_test(empty_missing_and_failed_are_three_things),
        cmocka_unit_test(a_sealed_header_that_lies_is_refused_where_it_lies),
        cmocka_unit_test(a_frame_that_contradicts_itself_is_not_written),
        cmocka_unit_test(a_header_is_not_written_into_less_room_than_it_takes),
        cmocka_unit_test(a_payload_is_compared_in_length_and_in_digest),
        cmocka_unit_test(an_undigested_payload_is_compared_in_length_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
