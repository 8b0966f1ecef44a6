/* Cleat: the vocabulary of results keeps its rules. SPDX-License-Identifier:
 * Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <string.h>

#include "cleat/status.h"

/* What a caller must be able to rely on, written down once more by hand. */
static const struct {
    int value;
    const char *name;
    enum cleat_class class_of_status;
} expected[] = {
    {0, "OK", CLEAT_CLASS_DONE},
    {1, "PENDING", CLEAT_CLASS_PENDING},
    {-1, "INVALID", CLEAT_CLASS_PERMANENT},
    {-2, "MALFORMED", CLEAT_CLASS_PERMANENT},
    {-3, "LIMIT", CLEAT_CLASS_PERMANENT},
    {-4, "TOO_SMALL", CLEAT_CLASS_PERMANENT},
    {-5, "SEALED", CLEAT_CLASS_PERMANENT},
    {-6, "NO_SLOT", CLEAT_CLASS_CAPACITY},
    {-7, "NOT_FOUND", CLEAT_CLASS_PERMANENT},
    {-8, "EXISTS", CLEAT_CLASS_PERMANENT},
    {-9, "UNSUPPORTED", CLEAT_CLASS_PERMANENT},
    {-10, "STATE", CLEAT_CLASS_PERMANENT},
    {-11, "TIME_BACKWARDS", CLEAT_CLASS_PERMANENT},
    {-12, "IO", CLEAT_CLASS_PERMANENT},
    {-13, "SHORT", CLEAT_CLASS_TRANSIENT},
    {-14, "CORRUPT", CLEAT_CLASS_TRANSIENT},
    {-15, "TRANSIENT", CLEAT_CLASS_TRANSIENT},
    {-16, "AMBIGUOUS", CLEAT_CLASS_AMBIGUOUS},
    {-17, "CAPACITY", CLEAT_CLASS_CAPACITY},
    {-18, "PERMANENT", CLEAT_CLASS_PERMANENT},
    {-19, "DEADLINE", CLEAT_CLASS_AMBIGUOUS},
    {-20, "EXHAUSTED", CLEAT_CLASS_PERMANENT},
    {-21, "CANCELLED", CLEAT_CLASS_CANCELLED},
    {-22, "UNREADABLE", CLEAT_CLASS_AMBIGUOUS},
    {-40, "PEER_LOST", CLEAT_CLASS_PERMANENT},
    {-41, "PEER_SILENT", CLEAT_CLASS_AMBIGUOUS},
    {-42, "PEER_STALE", CLEAT_CLASS_PERMANENT},
    {-43, "PEER_UNFENCED", CLEAT_CLASS_PERMANENT},
    {-44, "PEER_DEVIANT", CLEAT_CLASS_PERMANENT},
    {-60, "GROUP_FAILED", CLEAT_CLASS_TRANSIENT},
    {-80, "DEVICE_LOST", CLEAT_CLASS_PERMANENT},
    {-100, "RESTART", CLEAT_CLASS_PERMANENT},
};
#define COUNT (sizeof expected / sizeof expected[0])

#define ONE_MORE(name, value, band, class, sentence) +1u

static void every_status_has_its_value_name_and_class(void **state)
{
    (void)state;
    assert_int_equal(0u CLEAT_STATUS_LIST(ONE_MORE), COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        enum cleat_status status = (enum cleat_status)expected[i].value;

        assert_string_equal(cleat_status_name(status), expected[i].name);
        assert_int_equal(cleat_status_class(status),
                         expected[i].class_of_status);
        for (size_t k = 0; k < i; k++) {
            assert_int_not_equal(expected[i].value, expected[k].value);
            assert_string_not_equal(expected[i].name, expected[k].name);
        }
    }
}

/* The values are given out in blocks, one a band. */
static enum cleat_band band_of_block(int value)
{
    return value > -40    ? CLEAT_BAND_OPERATION
           : value > -60  ? CLEAT_BAND_PEER
           : value > -80  ? CLEAT_BAND_GROUP
           : value > -100 ? CLEAT_BAND_DEVICE
                          : CLEAT_BAND_JOB;
}

static void a_status_lies_in_the_block_of_its_band(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(
            cleat_status_band((enum cleat_status)expected[i].value),
            band_of_block(expected[i].value));
    }
    assert_true(CLEAT_BAND_OPERATION < CLEAT_BAND_PEER &&
                CLEAT_BAND_PEER < CLEAT_BAND_GROUP &&
                CLEAT_BAND_GROUP < CLEAT_BAND_DEVICE &&
                CLEAT_BAND_DEVICE < CLEAT_BAND_JOB);
}

static void a_sentence_is_lower_case_and_has_no_full_stop(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        const char *sentence = cleat_status_sentence(
            (enum cleat_status)expected[i].value);
#if defined(CLEAT_SMALL) && CLEAT_SMALL
        assert_string_equal(sentence, "");
#else
        assert_true(islower((unsigned char)sentence[0]));
        assert_null(strchr(sentence, '.'));
        assert_null(strchr(sentence, '\n'));
#endif
    }
}

static void what_is_not_in_the_list_is_the_worst(void **state)
{
    static const int strangers[] = {2, 100, -23, -39, -45, -59, -79, -99, -101};

    (void)state;
    for (size_t i = 0; i < sizeof strangers / sizeof strangers[0]; i++) {
        enum cleat_status status = (enum cleat_status)strangers[i];

        assert_string_equal(cleat_status_name(status), "UNKNOWN");
        assert_string_equal(cleat_status_sentence(status), "");
        assert_int_equal(cleat_status_band(status), CLEAT_BAND_JOB);
        assert_int_equal(cleat_status_class(status), CLEAT_CLASS_PERMANENT);
    }
    assert_string_equal(cleat_band_name((enum cleat_band)5), "unknown");
    assert_string_equal(cleat_class_name((enum cleat_class)7), "unknown");
}

static void bands_and_classes_have_their_names(void **state)
{
    static const char *const bands[] = {"operation", "peer", "group", "device",
                                        "job"};
    static const char *const classes[] = {"done",      "pending",  "transient",
                                          "ambiguous", "capacity", "permanent",
                                          "cancelled"};

    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        assert_string_equal(cleat_band_name((enum cleat_band)i), bands[i]);
    }
    for (unsigned i = 0; i < 7; i++) {
        assert_string_equal(cleat_class_name((enum cleat_class)i), classes[i]);
    }
}

static void an_error_tells_what_it_was_given(void **state)
{
    struct cleat_error error;

    (void)state;
    memset(&error, 0xA5, sizeof error);
    assert_int_equal(
        cleat_error_set(&error, CLEAT_SHORT, 7, UINT64_MAX, "file: cut"),
        CLEAT_SHORT);
    assert_int_equal(error.status, CLEAT_SHORT);
    assert_int_equal(error.port_code, 0);
    assert_int_equal(error.index, 7);
    assert_true(error.offset == UINT64_MAX);
    assert_string_equal(error.text, "file: cut");
    assert_int_equal(cleat_error_set(NULL, CLEAT_IO, 0, 0, "nobody asked"),
                     CLEAT_IO);
}

static void a_text_too_long_is_cut_and_still_ends(void **state)
{
    struct {
        struct cleat_error error;
        char behind;
    } cell;
    char text[CLEAT_ERROR_TEXT_MAX + 10];

    (void)state;
    for (size_t bytes = CLEAT_ERROR_TEXT_MAX - 2;
         bytes <= CLEAT_ERROR_TEXT_MAX + 2; bytes++) {
        size_t kept = bytes < CLEAT_ERROR_TEXT_MAX ? bytes
                                                   : CLEAT_ERROR_TEXT_MAX - 1;

        memset(text, 'x', bytes);
        text[bytes] = '\0';
        memset(&cell, 0xA5, sizeof cell);
        cleat_error_set(&cell.error, CLEAT_IO, 0, 0, text);
        assert_int_equal(strlen(cell.error.text), kept);
        assert_memory_equal(cell.error.text, text, kept);
        assert_int_equal((unsigned char)cell.behind, 0xA5);
    }
}

static void times_add_up_to_never_at_most(void **state)
{
    (void)state;
    assert_true(cleat_time_add(2, 3) == 5);
    assert_true(cleat_time_add(0, 0) == 0);
    assert_true(cleat_time_add(CLEAT_NEVER, 0) == CLEAT_NEVER);
    assert_true(cleat_time_add(0, CLEAT_NEVER) == CLEAT_NEVER);
    assert_true(cleat_time_add(CLEAT_NEVER, CLEAT_NEVER) == CLEAT_NEVER);
    assert_true(cleat_time_add(CLEAT_NEVER - 1, 1) == CLEAT_NEVER);
    assert_true(cleat_time_add(CLEAT_NEVER - 1, 2) == CLEAT_NEVER);
    assert_true(cleat_time_add(CLEAT_NEVER - 2, 1) == CLEAT_NEVER - 1);
    assert_true(cleat_time_add(CLEAT_NEVER / 2 + 1, CLEAT_NEVER / 2 + 1) ==
                CLEAT_NEVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_its_value_name_and_class),
        cmocka_unit_test(a_status_lies_in_the_block_of_its_band),
        cmocka_unit_test(a_sentence_is_lower_case_and_has_no_full_stop),
        cmocka_unit_test(what_is_not_in_the_list_is_the_worst),
        cmocka_unit_test(bands_and_classes_have_their_names),
        cmocka_unit_test(an_error_tells_what_it_was_given),
        cmocka_unit_test(a_text_too_long_is_cut_and_still_ends),
        cmocka_unit_test(times_add_up_to_never_at_most),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
