/* Cleat: batches put and got. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "transfer_scene.h"

#define S CLEAT_NS_PER_S
#define KEYS 10u
#define BYTES 96u

/* Backoffs that can be told: 1 s, 2 s, 4 s. */
static const struct cleat_retry_policy plain_policy = {
    .base_ns = S, .max_ns = 60 * S, .jitter = CLEAT_RETRY_JITTER_NONE};

static struct cleat_error error;
static struct cleat_transfer_summary summary;
static struct cleat_transfer_value values[2000];
static char names[2000][16];
static unsigned char memory[2000][BYTES];

static unsigned char byte_of(uint32_t value, uint32_t at)
{
    return (unsigned char)(value * 7 + at + 1);
}

/* Values k0, k1, … with memory of their own, which holds what they are. */
static void make_values(uint32_t count)
{
    memset(values, 0, sizeof values);
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(names[i], sizeof names[i], "k%u", (unsigned)i);
        values[i] = (struct cleat_transfer_value){
            .key = names[i], .payload = memory[i], .bytes = BYTES};
        for (uint32_t at = 0; at < BYTES; at++) {
            memory[i][at] = byte_of(i, at);
        }
    }
}

static void forget_memory(void)
{
    memset(memory, 0x11, sizeof memory);
}

static void check_memory(uint32_t value)
{
    for (uint32_t at = 0; at < BYTES; at++) {
        assert_int_equal(memory[value][at], byte_of(value, at));
    }
}

static bool is_all(const void *bytes, size_t count, unsigned char of)
{
    const unsigned char *at = bytes;

    for (size_t i = 0; i < count; i++) {
        if (at[i] != of) { return false; }
    }
    return true;
}

static enum cleat_status put(uint32_t count)
{
    return cleat_transfer_put(scene_service(), values, count, NULL, &summary,
                              &error);
}

static enum cleat_status get(uint32_t count)
{
    return cleat_transfer_get(scene_service(), values, count, NULL, &summary,
                              &error);
}

static void open_with(const struct cleat_store_fault *rules, uint32_t count)
{
    struct scene_config config = {
        .service = {.batch = {.policy = &plain_policy,
                              .capacity = &plain_policy}},
        .rules = rules,
        .rules_count = count};

    scene_open(&config);
}

static void open_plain(void)
{
    open_with(NULL, 0);
}

/* ---- what always comes up ---------------------------------------------- */

static void all_goes_well_at_the_first_try(void **state)
{
    (void)state;
    open_plain();
    make_values(KEYS);
    assert_int_equal(put(KEYS), CLEAT_OK);
    assert_int_equal(summary.totals.ok, KEYS);
    assert_int_equal(summary.bytes, KEYS * BYTES);
    assert_int_equal(summary.totals.bytes_again, 0);
    assert_int_equal(scene_count(CLEAT_TRANSFER_DO_PUT, NULL), KEYS);
    forget_memory();
    assert_int_equal(get(KEYS), CLEAT_OK);
    assert_int_equal(scene_count(CLEAT_TRANSFER_DO_GET, NULL), KEYS);
    for (uint32_t i = 0; i < KEYS; i++) {
        check_memory(i);
        assert_int_equal(values[i].status, CLEAT_OK);
        assert_int_equal(values[i].attempts, 1);
        assert_int_equal(values[i].actual, BYTES);
        assert_int_equal(values[i].lent, 0);
    }
    assert_int_equal(summary.started_ns, SCENE_START_NS);
    assert_int_equal(summary.ended_ns, SCENE_START_NS);
    assert_int_equal(summary.sent, 1);
    scene_close();
}

static void what_has_failed_is_made_again_and_works(void **state)
{
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_TRANSIENT,
         .operations = CLEAT_STORE_FAULT_PUTS,
         .key = "k3",
         .times = 2},
        {.kind = CLEAT_STORE_FAULT_TRANSIENT,
         .operations = CLEAT_STORE_FAULT_GETS,
         .key = "k4",
         .times = 3}};

    (void)state;
    open_with(rules, 2);
    make_values(KEYS);
    assert_int_equal(put(KEYS), CLEAT_OK);
    assert_int_equal(values[3].attempts, 3);
    assert_int_equal(values[2].attempts, 1);
    /* Backoffs of 1 s and 2 s. */
    assert_int_equal(summary.ended_ns - summary.started_ns, 3 * S);
    forget_memory();
    assert_int_equal(get(KEYS), CLEAT_OK);
    assert_int_equal(values[4].attempts, 4);
    assert_int_equal(summary.ended_ns - summary.started_ns, 7 * S);
    for (uint32_t i = 0; i < KEYS; i++) { check_memory(i); }
    scene_close();
}

static void r11_when_attempts_run_out_every_failed_key_is_reported(void **state)
{
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_TRANSIENT, .key = "k3"},
        {.kind = CLEAT_STORE_FAULT_TRANSIENT, .key = "k7"}};

    (void)state;
    open_with(rules, 2);
    make_values(KEYS);
    assert_int_equal(put(KEYS), CLEAT_TRANSIENT);
    for (uint32_t i = 0; i < KEYS; i++) {
        bool fails = i == 3 || i == 7;

        assert_int_equal(values[i].status, fails ? CLEAT_TRANSIENT : CLEAT_OK);
        if (fails) { assert_int_equal(values[i].code, 1); }
    }
    assert_int_equal(summary.totals.ok, KEYS - 2);
    assert_int_equal(summary.totals.failed + summary.totals.unknown, 2);
    assert_int_equal(summary.bytes, (KEYS - 2) * BYTES);
    assert_int_equal(error.status, CLEAT_TRANSIENT);
    assert_int_equal(error.index, 3);
    assert_int_equal(error.port_code, 1);
    assert_string_equal(error.text,
                        "transfer: put: 2 of 10 keys failed: 'k3' TRANSIENT "
                        "(1), 'k7' TRANSIENT (1)");
    scene_close();
}

static void r4_only_what_has_failed_is_sent_again(void **state)
{
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_TRANSIENT,
         .operations = CLEAT_STORE_FAULT_PUTS,
         .key = "k2",
         .times = 1},
        {.kind = CLEAT_STORE_FAULT_TRANSIENT,
         .operations = CLEAT_STORE_FAULT_PUTS,
         .key = "k5",
         .times = 2}};
    struct cleat_transfer_options options = {.mode = CLEAT_TRANSFER_KEEP};

    (void)state;
    open_with(rules, 2);
    make_values(KEYS);
    assert_int_equal(cleat_transfer_put(scene_service(), values, KEYS, &options,
                                        &summary, &error),
                     CLEAT_OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        assert_int_equal(scene_count(CLEAT_TRANSFER_DO_PUT, names[i]),
                         i == 2   ? 2
                         : i == 5 ? 3
                                  : 1);
    }
    assert_int_equal(summary.totals.bytes_again, 3 * BYTES);
    scene_close();
}

static void r4_what_is_sent_again_is_the_same_memory(void **state)
{
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_TRANSIENT,
         .operations = CLEAT_STORE_FAULT_PUTS | CLEAT_STORE_FAULT_GETS,
         .rate = 500000,
         .times = 2}};

    (void)state;
    open_with(rules, 1);
    make_values(KEYS);
    assert_int_equal(put(KEYS), CLEAT_OK);
    assert_int_equal(get(KEYS), CLEAT_OK);
    assert_true(scene_count(CLEAT_TRANSFER_DO_PUT, NULL) > KEYS);
    for (uint32_t i = 0; i < scene_items(); i++) {
        const struct scene_item *item = scene_item(i);
        unsigned number = 0;

        if (item->operation != CLEAT_TRANSFER_DO_PUT &&
            item->operation != CLEAT_TRANSFER_DO_GET) {
            assert_null(item->payload);
            continue;
        }
        assert_int_equal(sscanf(item->key, "k%u", &number), 1);
        assert_ptr_equal(item->payload, memory[number]);
        assert_int_equal(item->bytes, BYTES);
    }
    scene_close();
}

static void r8_the_honest_empty_value_comes_back_empty(void **state)
{
    struct cleat_transfer_options sized = {.sized = 1};
    unsigned char buffer[8];

    (void)state;
    open_plain();
    make_values(2);
    values[0].payload = NULL;
    values[0].bytes = 0;
    assert_int_equal(put(1), CLEAT_OK);
    assert_int_equal(get(1), CLEAT_OK);
    assert_int_equal(values[0].actual, 0);
    memset(buffer, 0x11, sizeof buffer);
    values[0].payload = buffer;
    values[0].bytes = sizeof buffer;
    assert_int_equal(
        cleat_transfer_get(scene_service(), values, 1, &sized, NULL, &error),
        CLEAT_OK);
    assert_int_equal(values[0].actual, 0);
    assert_true(is_all(buffer, sizeof buffer, 0x11));
    /* What is missing is not empty. */
    values[1].bytes = 0;
    assert_int_equal(get(2), CLEAT_SHORT);
    assert_int_equal(values[1].status, CLEAT_NOT_FOUND);
    scene_close();
}

/* ---- tensors, sizes ------------------------------------------------------ */

static void a_tensor_is_got_as_what_it_was_put(void **state)
{
    struct cleat_transfer_options tell = {.tell = 1};
    struct cleat_transfer_value *value = &values[0];

    (void)state;
    open_plain();
    make_values(1);
    value->dtype = CLEAT_DTYPE_F32;
    value->rank = 2;
    value->shape[0] = 4;
    value->shape[1] = 6;
    value->shape[5] = 99; /* behind the rank: nobody looks at it */
    assert_int_equal(put(1), CLEAT_OK);
    forget_memory();
    assert_int_equal(get(1), CLEAT_OK);
    check_memory(0);
    value->shape[0] = 6;
    value->shape[1] = 4;
    assert_int_equal(get(1), CLEAT_INVALID);
    assert_int_equal(value->status, CLEAT_INVALID);
    assert_int_equal(summary.sent, 1);
    assert_true(is_all(memory[0], BYTES, 0));
    value->dtype = CLEAT_DTYPE_I32;
    value->shape[0] = 4;
    value->shape[1] = 6;
    assert_int_equal(get(1), CLEAT_INVALID);
    assert_string_equal(error.text,
                        "transfer: get: 1 of 1 keys failed: 'k0' INVALID");
    /* Who demands nothing can learn what it is. */
    value->dtype = CLEAT_DTYPE_NONE;
    value->rank = 0;
    memset(value->shape, 0, sizeof value->shape);
    assert_int_equal(get(1), CLEAT_OK);
    assert_int_equal(value->dtype, CLEAT_DTYPE_NONE);
    assert_int_equal(
        cleat_transfer_get(scene_service(), values, 1, &tell, NULL, NULL),
        CLEAT_OK);
    assert_int_equal(value->dtype, CLEAT_DTYPE_F32);
    assert_int_equal(value->rank, 2);
    assert_int_equal(value->shape[0], 4);
    assert_int_equal(value->shape[1], 6);
    assert_int_equal(value->shape[2], 0);
    check_memory(0);
    scene_close();
}

static void a_get_of_a_size_gets_that_or_fails(void **state)
{
    (void)state;
    open_plain();
    make_values(2);
    assert_int_equal(put(2), CLEAT_OK);
    values[0].bytes = BYTES - 1;
    assert_int_equal(get(2), CLEAT_SHORT);
    assert_int_equal(values[0].status, CLEAT_SHORT);
    assert_int_equal(values[0].actual, BYTES);
    assert_int_equal(values[1].status, CLEAT_OK);
    scene_close();
}

static void a_sized_get_asks_and_takes_what_there_is(void **state)
{
    struct cleat_transfer_options sized = {.sized = 1};

    (void)state;
    open_plain();
    make_values(3);
    values[1].bytes = 10;
    assert_int_equal(put(3), CLEAT_OK);
    scene_forget();
    forget_memory();
    values[1].bytes = BYTES;
    values[2].bytes = BYTES - 1;
    assert_int_equal(cleat_transfer_get(scene_service(), values, 3, &sized,
                                        &summary, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(values[0].actual, BYTES);
    check_memory(0);
    assert_int_equal(values[1].actual, 10);
    assert_int_equal(memory[1][9], byte_of(1, 9));
    assert_int_equal(memory[1][10], 0x11);
    assert_int_equal(values[2].status, CLEAT_TOO_SMALL);
    assert_int_equal(values[2].actual, BYTES);
    assert_true(is_all(memory[2], BYTES, 0x11));
    assert_int_equal(summary.bytes, BYTES + 10);
    assert_int_equal(scene_count(CLEAT_TRANSFER_DO_GET, "k2"), 0);
    scene_close();
}

static void produce(void *of)
{
    const struct cleat_transfer_value *value = of;

    /* Framed, as the service does it. */
    assert_int_equal(scene_put_plain(value->key, value->payload, value->bytes),
                     CLEAT_OK);
}

static void a_get_that_waits_gets_what_comes_later(void **state)
{
    struct cleat_transfer_options wait = {.wait = 1};
    unsigned char made[BYTES];
    struct cleat_transfer_value made_value;

    (void)state;
    open_plain();
    make_values(1);
    memcpy(made, memory[0], BYTES);
    made_value = values[0];
    made_value.payload = made;
    forget_memory();
    scene_at(SCENE_START_NS + 3 * S, produce, &made_value);
    assert_int_equal(
        cleat_transfer_get(scene_service(), values, 1, &wait, &summary, &error),
        CLEAT_OK);
    check_memory(0);
    /* Looked for every 2 s. */
    assert_int_equal(summary.ended_ns - summary.started_ns, 4 * S);
    scene_close();
}

static void a_get_that_waits_in_vain_ends_at_its_deadline(void **state)
{
    struct cleat_transfer_options wait = {
        .wait = 1, .deadline_ns = SCENE_START_NS + 7 * S};

    (void)state;
    open_plain();
    make_values(1);
    assert_int_equal(
        cleat_transfer_get(scene_service(), values, 1, &wait, &summary, &error),
        CLEAT_DEADLINE);
    assert_int_equal(summary.ended_ns, SCENE_START_NS + 7 * S);
    assert_int_equal(values[0].lent, 0);
    scene_close();
}

/* ---- modes --------------------------------------------------------------- */

static void r7_a_put_does_with_what_is_there_what_its_mode_says(void **state)
{
    struct cleat_transfer_options options = {0};
    unsigned char old[BYTES];
    unsigned char is[BYTES];

    (void)state;
    open_plain();
    make_values(2);
    memset(old, 0x77, sizeof old);
    assert_int_equal(scene_put_plain("k0", old, BYTES), CLEAT_OK);
    assert_int_equal(put(2), CLEAT_EXISTS);
    assert_int_equal(values[0].status, CLEAT_EXISTS);
    assert_int_equal(values[1].status, CLEAT_OK);
    assert_int_equal(summary.sent, 1);
    options.mode = CLEAT_TRANSFER_KEEP;
    assert_int_equal(
        cleat_transfer_put(scene_service(), values, 1, &options, NULL, NULL),
        CLEAT_OK);
    assert_int_equal(scene_get_plain("k0", is, BYTES), CLEAT_OK);
    assert_memory_equal(is, old, BYTES);
    options.mode = CLEAT_TRANSFER_REPLACE;
    options.verify = CLEAT_TRANSFER_VERIFY_FULL;
    assert_int_equal(
        cleat_transfer_put(scene_service(), values, 1, &options, NULL, NULL),
        CLEAT_OK);
    assert_int_equal(scene_get_plain("k0", is, BYTES), CLEAT_OK);
    assert_memory_equal(is, memory[0], BYTES);
    assert_int_equal(scene_count(CLEAT_TRANSFER_DO_COMPARE, "k0"), 1);
    scene_close();
}

static void removes_and_questions_work(void **state)
{
    (void)state;
    open_plain();
    make_values(3);
    assert_int_equal(put(2), CLEAT_OK);
    assert_int_equal(
        cleat_transfer_exists(scene_service(), values, 3, NULL, NULL, NULL),
        CLEAT_OK);
    assert_int_equal(values[0].actual, 1);
    assert_int_equal(values[1].actual, 1);
    assert_int_equal(values[2].actual, 0);
    assert_int_equal(
        cleat_transfer_remove(scene_service(), values, 3, NULL, &summary, NULL),
        CLEAT_OK);
    assert_int_equal(summary.bytes, 0);
    assert_int_equal(
        cleat_transfer_exists(scene_service(), values, 3, NULL, NULL, NULL),
        CLEAT_OK);
    assert_int_equal(values[0].actual + values[1].actual, 0);
    scene_close();
}

static void a_question_does_not_look_at_a_shape(void **state)
{
    (void)state;
    open_plain();
    make_values(2);
    values[0].dtype = CLEAT_DTYPE_F32;
    values[0].rank = UINT32_MAX;
    values[1].dtype = UINT32_MAX;
    values[1].rank = 200;
    assert_int_equal(
        cleat_transfer_exists(scene_service(), values, 2, NULL, NULL, NULL),
        CLEAT_OK);
    assert_int_equal(
        cleat_transfer_remove(scene_service(), values, 2, NULL, NULL, NULL),
        CLEAT_OK);
    scene_close();
}

/* ---- keys that are there twice ------------------------------------------- */

static void r3_a_put_of_one_key_twice_is_refused(void **state)
{
    (void)state;
    open_plain();
    make_values(KEYS);
    values[7].key = "k2";
    assert_int_equal(put(KEYS), CLEAT_EXISTS);
    assert_int_equal(error.index, 7);
    assert_string_equal(error.text, "transfer: put: value 7, key 'k2': the "
                                    "batch puts this key twice");
    assert_int_equal(summary.sent, 0);
    assert_int_equal(scene_items(), 0);
    scene_close();
}

static void r3_a_get_by_several_fetches_once_and_copies(void **state)
{
    (void)state;
    open_plain();
    make_values(KEYS);
    assert_int_equal(put(KEYS), CLEAT_OK);
    forget_memory();
    scene_forget();
    values[4].key = "k1";
    values[9].key = "k1";
    assert_int_equal(get(KEYS), CLEAT_OK);
    assert_int_equal(scene_count(CLEAT_TRANSFER_DO_GET, "k1"), 1);
    assert_int_equal(summary.totals.ok, KEYS);
    assert_int_equal(summary.bytes, KEYS * BYTES);
    assert_memory_equal(memory[4], memory[1], BYTES);
    assert_memory_equal(memory[9], memory[1], BYTES);
    check_memory(1);
    scene_close();
}

static void who_asks_for_something_else_of_a_key_is_answered_apart(void **state)
{
    (void)state;
    open_plain();
    make_values(4);
    values[0].dtype = CLEAT_DTYPE_U8;
    values[0].rank = 1;
    values[0].shape[0] = BYTES;
    assert_int_equal(put(1), CLEAT_OK);
    forget_memory();
    scene_forget();
    for (uint32_t i = 1; i < 4; i++) { values[i].key = "k0"; }
    values[1].bytes = BYTES / 2;
    values[2].dtype = CLEAT_DTYPE_I8;
    values[2].rank = 1;
    values[2].shape[0] = BYTES;
    assert_int_equal(get(4), CLEAT_SHORT);
    assert_int_equal(error.index, 1);
    assert_int_equal(values[0].status, CLEAT_OK);
    assert_int_equal(values[1].status, CLEAT_SHORT);
    assert_int_equal(values[2].status, CLEAT_INVALID);
    assert_int_equal(values[3].status, CLEAT_OK);
    check_memory(0);
    assert_memory_equal(memory[3], memory[0], BYTES);
    assert_int_equal(summary.totals.ok, 2);
    assert_int_equal(summary.totals.failed, 2);
    /* No call of the store has one key twice. */
    for (uint32_t i = 0; i < scene_items(); i++) {
        for (uint32_t k = 0; k < i; k++) {
            assert_true(scene_item(i)->call != scene_item(k)->call);
        }
    }
    scene_close();
}

static void who_asks_for_another_size_of_a_key_is_answered_apart(void **state)
{
    (void)state;
    open_plain();
    make_values(2);
    assert_int_equal(put(1), CLEAT_OK);
    forget_memory();
    values[1].key = "k0";
    values[1].bytes = BYTES / 2;
    assert_int_equal(get(2), CLEAT_SHORT);
    assert_int_equal(values[0].status, CLEAT_OK);
    assert_int_equal(values[1].status, CLEAT_SHORT);
    check_memory(0);
    scene_close();
}

static void a_failed_get_fails_for_all_who_asked(void **state)
{
    (void)state;
    open_plain();
    make_values(3);
    values[1].key = "k0";
    values[2].key = "k0";
    assert_int_equal(get(3), CLEAT_NOT_FOUND);
    assert_int_equal(summary.totals.failed, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(values[i].status, CLEAT_NOT_FOUND);
    }
    scene_close();
}

static void what_is_asked_twice_is_asked_once(void **state)
{
    (void)state;
    open_plain();
    make_values(3);
    assert_int_equal(put(1), CLEAT_OK);
    values[1].key = "k0";
    assert_int_equal(
        cleat_transfer_exists(scene_service(), values, 3, NULL, NULL, NULL),
        CLEAT_OK);
    assert_int_equal(values[0].actual, 1);
    assert_int_equal(values[1].actual, 1);
    assert_int_equal(values[2].actual, 0);
    scene_forget();
    assert_int_equal(
        cleat_transfer_remove(scene_service(), values, 3, NULL, &summary, NULL),
        CLEAT_OK);
    assert_int_equal(summary.totals.ok, 3);
    assert_int_equal(scene_count(CLEAT_TRANSFER_DO_REMOVE, "k0"), 1);
    scene_close();
}

static void a_thousand_keys_are_told_apart(void **state)
{
    (void)state;
    open_plain();
    make_values(2000);
    assert_int_equal(put(2000), CLEAT_OK);
    assert_int_equal(summary.totals.calls, 10); /* 5 to look, 5 to put */
    forget_memory();
    assert_int_equal(get(2000), CLEAT_OK);
    for (uint32_t i = 0; i < 2000; i++) { check_memory(i); }
    scene_close();
}

/* ---- memory that overlaps ------------------------------------------------ */

static unsigned char place[4096];

static void at(uint32_t value, size_t start, size_t bytes, uint32_t flags)
{
    values[value].payload = place + start;
    values[value].bytes = bytes;
    values[value].flags = flags;
}

static void gets_into_memory_that_overlaps_are_refused(void **state)
{
    (void)state;
    open_plain();
    make_values(4);
    /* Neighbours, not in their order. */
    at(0, 300, 100, 0);
    at(1, 100, 100, 0);
    at(2, 200, 100, 0);
    at(3, 400, 0, 0);
    assert_int_equal(get(4), CLEAT_NOT_FOUND);
    assert_int_equal(summary.sent, 1);
    scene_forget();
    at(1, 100, 101, 0);
    assert_int_equal(get(4), CLEAT_INVALID);
    assert_int_equal(error.index, 2);
    assert_string_equal(error.text, "transfer: get: the memory of values 1 and "
                                    "2 overlaps");
    at(1, 0, 1000, 0);
    assert_int_equal(get(4), CLEAT_INVALID);
    /* A header may be put before it. */
    at(0, 1000, 100, 0);
    at(1, 1000 + 100 + 127, 100, CLEAT_STORE_ROOM);
    assert_int_equal(get(2), CLEAT_INVALID);
    assert_int_equal(error.index, 1);
    assert_int_equal(scene_items(), 0);
    assert_int_equal(summary.sent, 0);
    at(1, 1000 + 100 + 128, 100, CLEAT_STORE_ROOM);
    assert_int_equal(get(2), CLEAT_NOT_FOUND);
    scene_close();
}

static void puts_may_share_memory_but_not_header_room(void **state)
{
    (void)state;
    open_plain();
    make_values(3);
    at(0, 1000, 100, 0);
    at(1, 1050, 100, 0);
    assert_int_equal(put(2), CLEAT_OK);
    names[0][0] = 'a';
    names[1][0] = 'a';
    at(1, 1050, 100, CLEAT_STORE_ROOM);
    assert_int_equal(put(2), CLEAT_INVALID);
    assert_int_equal(error.index, 1);
    assert_string_equal(error.text, "transfer: put: the memory of values 0 and "
                                    "1 overlaps, header room included");
    at(1, 1228, 100, CLEAT_STORE_ROOM);
    assert_int_equal(put(2), CLEAT_OK);
    /* Room of nobody: it is raw. */
    names[0][0] = 'b';
    names[1][0] = 'b';
    at(1, 1050, 100, CLEAT_STORE_ROOM | CLEAT_STORE_RAW);
    assert_int_equal(put(2), CLEAT_OK);
    scene_close();
}

static void many_pieces_of_memory_in_any_order_are_told_apart(void **state)
{
    uint32_t order[1000];
    uint32_t random = 1;

    (void)state;
    open_plain();
    make_values(1000);
    for (uint32_t i = 0; i < 1000; i++) { order[i] = i; }
    for (uint32_t i = 999; i > 0; i--) {
        uint32_t k;
        uint32_t other;

        random = random * 1103515245u + 12345u;
        k = random / 65536 % (i + 1);
        other = order[k];
        order[k] = order[i];
        order[i] = other;
    }
    for (uint32_t i = 0; i < 1000; i++) {
        values[i].payload = (unsigned char *)memory + order[i] * 4u;
        values[i].bytes = 4;
    }
    assert_int_equal(get(1000), CLEAT_NOT_FOUND);
    assert_int_equal(summary.totals.failed, 1000);
    values[500].bytes = 5;
    assert_int_equal(get(1000), CLEAT_INVALID);
    scene_close();
}

/* ---- what is refused ----------------------------------------------------- */

struct refusal {
    const char *text;
    enum cleat_status status;
    uint32_t index;
    uint32_t kind; /* 0: a put */
    void (*spoil)(struct cleat_transfer_value *value);
    struct cleat_transfer_options options;
};

static char long_key[CLEAT_STORE_KEY_MAX + 2];

static void empty_key(struct cleat_transfer_value *value)
{
    value->key = "";
}

static void no_key(struct cleat_transfer_value *value)
{
    value->key = NULL;
}

static void too_long_a_key(struct cleat_transfer_value *value)
{
    memset(long_key, 'x', sizeof long_key - 1);
    value->key = long_key;
}

static void odd_key(struct cleat_transfer_value *value)
{
    value->key = "a\n'\x1B[31m\\\xC3\xA9";
    value->flags = 1u << 7;
}

static void no_payload(struct cleat_transfer_value *value)
{
    value->payload = NULL;
}

static void beyond(struct cleat_transfer_value *value)
{
    value->bytes = UINT64_MAX;
}

static void before(struct cleat_transfer_value *value)
{
    value->payload = (void *)(uintptr_t)100;
    value->flags = CLEAT_STORE_ROOM;
}

static void large(struct cleat_transfer_value *value)
{
    value->bytes = UINT64_C(1) << 40;
}

static void other_bytes(struct cleat_transfer_value *value)
{
    value->dtype = CLEAT_DTYPE_F64;
    value->rank = 1;
    value->shape[0] = BYTES / 8 + 1;
}

static void no_dtype(struct cleat_transfer_value *value)
{
    value->dtype = CLEAT_DTYPE_END;
}

static void deep(struct cleat_transfer_value *value)
{
    value->dtype = CLEAT_DTYPE_U8;
    value->rank = 9;
}

static void rank_of_nothing(struct cleat_transfer_value *value)
{
    value->rank = 1;
}

static void raw_tensor(struct cleat_transfer_value *value)
{
    value->dtype = CLEAT_DTYPE_U8;
    value->rank = 1;
    value->shape[0] = BYTES;
    value->flags = CLEAT_STORE_RAW;
}

static void nothing(struct cleat_transfer_value *value)
{
    (void)value;
}

static void what_cannot_be_is_refused_and_nothing_sent(void **state)
{
#define K "transfer: put: value 2, key 'k2': "
    static const struct refusal refusals[] = {
        {"transfer: put: value 2, key '': its key is empty",
         CLEAT_INVALID,
         2,
         0,
         empty_key,
         {0}},
        {"transfer: put: value 2, key '': its key is NULL",
         CLEAT_INVALID,
         2,
         0,
         no_key,
         {0}},
        {"transfer: put: value 2, key 'xxxxxxxxxxxxxxxxxxxxxxxx…xxxx': its key "
         "is longer than 1023 bytes",
         CLEAT_INVALID,
         2,
         0,
         too_long_a_key,
         {0}},
        {"transfer: put: value 2, key 'a\\x0A\\x27\\x1B[31m\\x5C\\xC3\\xA9': "
         "it has a flag that there is none",
         CLEAT_INVALID,
         2,
         0,
         odd_key,
         {0}},
        {K "its payload is NULL", CLEAT_INVALID, 2, 0, no_payload, {0}},
        {K "its payload goes beyond the address space",
         CLEAT_INVALID,
         2,
         0,
         beyond,
         {0}},
        {K "its payload goes beyond the address space",
         CLEAT_INVALID,
         2,
         0,
         before,
         {0}},
        {K "it is larger than the store takes", CLEAT_LIMIT, 2, 0, large, {0}},
        {K "its bytes are not those of its dtype and shape",
         CLEAT_INVALID,
         2,
         0,
         other_bytes,
         {0}},
        {K "its dtype, rank or shape is none",
         CLEAT_INVALID,
         2,
         0,
         no_dtype,
         {0}},
        {K "its dtype, rank or shape is none", CLEAT_INVALID, 2, 0, deep, {0}},
        {K "it has a rank and no dtype",
         CLEAT_INVALID,
         2,
         0,
         rank_of_nothing,
         {0}},
        {K "raw bytes have no dtype", CLEAT_INVALID, 2, 0, raw_tensor, {0}},
        {"transfer: get: value 2, key 'k2': its bytes are not those of its "
         "dtype and shape",
         CLEAT_INVALID,
         2,
         CLEAT_TRANSFER_GET,
         other_bytes,
         {.sized = 1}},
        {"transfer: put: there is no mode 3, or no way 0 to verify",
         CLEAT_INVALID,
         0,
         0,
         nothing,
         {.mode = 3}},
        {"transfer: put: there is no mode 0, or no way 3 to verify",
         CLEAT_INVALID,
         0,
         0,
         nothing,
         {.verify = 3}},
    };
#undef K
    (void)state;
    open_plain();
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *r = &refusals[i];

        make_values(KEYS);
        values[2].status = 12345;
        r->spoil(&values[2]);
        assert_int_equal(
            (r->kind != 0 ? cleat_transfer_get : cleat_transfer_put)(
                scene_service(), values, KEYS, &r->options, &summary, &error),
            r->status);
        assert_string_equal(error.text, r->text);
        assert_int_equal(error.status, r->status);
        assert_int_equal(error.index, r->index);
        assert_int_equal(summary.sent, 0);
        assert_int_equal(values[2].status, 12345);
    }
    assert_int_equal(scene_items(), 0);
    scene_close();
}

static void limits_are_kept(void **state)
{
    struct scene_config config = {
        .service = {.keys_max = 4, .key_bytes_max = 9, .batches_max = 1}};

    (void)state;
    scene_open(&config);
    make_values(KEYS);
    assert_int_equal(put(5), CLEAT_LIMIT);
    assert_int_equal(error.index, 4);
    assert_string_equal(error.text,
                        "transfer: put: 5 values are more than keys_max, 4");
    assert_int_equal(put(4), CLEAT_LIMIT);
    assert_int_equal(error.index, 3);
    assert_int_equal(put(3), CLEAT_OK);
    /* No values are well, and their array is not looked at. */
    assert_int_equal(
        cleat_transfer_put(scene_service(), NULL, 0, NULL, &summary, &error),
        CLEAT_OK);
    assert_int_equal(summary.sent, 0);
    assert_int_equal(
        cleat_transfer_put(scene_service(), NULL, 1, NULL, &summary, &error),
        CLEAT_INVALID);
    scene_close();
}

static void a_block_is_refused_before_anything_is_made(void **state)
{
    struct cleat_transfer_service_config config = {.keys_max = 8};
    static const struct cleat_retry_policy odd = {.multiplier_thousandths = 1};
    struct cleat_transfer_service *service = (void *)&config;
    struct cleat_service_ports ports = {0};
    struct cleat_store store = {0};

    (void)state;
    assert_true(cleat_transfer_service_bytes(&config) > 0);
    assert_true(cleat_transfer_service_bytes(NULL) > 0);
    assert_int_equal(cleat_transfer_service_init(place, sizeof place, &config,
                                                 &ports, NULL, &store, 0,
                                                 &service, &error),
                     CLEAT_INVALID);
    assert_int_equal(error.index, 3);
    assert_null(service);
    config.keys_max = UINT32_MAX;
    assert_int_equal(cleat_transfer_service_bytes(&config), 0);
    config.keys_max = 8;
    config.batch.calls_max = 33;
    assert_int_equal(cleat_transfer_service_bytes(&config), 0);
    config.batch.calls_max = 1;
    config.on_failure = 2;
    assert_int_equal(cleat_transfer_service_bytes(&config), 0);
    config.on_failure = 1;
    config.batch.policy = &odd;
    assert_int_equal(cleat_transfer_service_bytes(&config), 0);
}

/* ---- a caller in a thread of its own ------------------------------------- */

struct caller {
    pthread_t thread;
    uint32_t kind;
    uint32_t first;
    uint32_t count;
    struct cleat_transfer_options options;
    struct cleat_transfer_summary summary;
    struct cleat_error error;
    enum cleat_status status;
};

static void *run_caller(void *of)
{
    struct caller *caller = of;

    caller->status = (caller->kind == CLEAT_TRANSFER_PUT   ? cleat_transfer_put
                      : caller->kind == CLEAT_TRANSFER_GET ? cleat_transfer_get
                                                           : NULL)(
        scene_service(), &values[caller->first], caller->count,
        &caller->options, &caller->summary, &caller->error);
    return NULL;
}

static void start(struct caller *caller)
{
    assert_int_equal(pthread_create(&caller->thread, NULL, run_caller, caller),
                     0);
}

static void await(struct caller *caller)
{
    assert_int_equal(pthread_join(caller->thread, NULL), 0);
}

static void count_calls(uint32_t calls, uint32_t stuck)
{
    uint32_t are[2];

    cleat_transfer_service_count(scene_service(), &are[0], &are[1]);
    assert_int_equal(are[0], calls);
    assert_int_equal(are[1], stuck);
}

/* ---- what outlives its batch --------------------------------------------- */

static void at_the_deadline_the_caller_gets_its_report(void **state)
{
    struct scene_config config = {
        .service = {.batches_max = 1, .on_failure = 1}, .lends = true};
    struct cleat_transfer_options options = {.deadline_ns = SCENE_START_NS +
                                                            5 * S};
    uint64_t bytes;

    (void)state;
    scene_open(&config);
    make_values(2);
    values[0].flags = CLEAT_STORE_RAW; /* and so it may go without a copy */
    values[1].flags = CLEAT_STORE_RAW;
    assert_int_equal(put(2), CLEAT_OK);
    scene_block(CLEAT_TRANSFER_DO_GET, "k1", true);
    assert_int_equal(cleat_transfer_get(scene_service(), values, 2, &options,
                                        &summary, &error),
                     CLEAT_DEADLINE);
    assert_int_equal(summary.ended_ns, SCENE_START_NS + 5 * S);
    assert_int_equal(summary.totals.lent, 2);
    assert_int_equal(values[1].status, CLEAT_DEADLINE);
    assert_int_equal(values[1].lent, 1);
    count_calls(1, 1);
    /* Keys and values are the caller's again; the place and the payload are
     * not. */
    memset(names, 0, sizeof names);
    memset(values, 0xFF, sizeof values);
    assert_int_equal(scene_lent(&bytes), 1);
    assert_int_equal(bytes, 2 * BYTES);
    make_values(1);
    assert_int_equal(put(1), CLEAT_NO_SLOT);
    assert_string_equal(error.text, "transfer: batches_max, 1, are under way");
    assert_int_equal(
        cleat_transfer_drain(scene_service(), SCENE_START_NS + 6 * S, &error),
        CLEAT_DEADLINE);
    assert_int_equal(error.index, 1);
    assert_string_equal(error.text, "transfer: 1 calls have not returned");
    assert_int_equal(scene_now_ns(), SCENE_START_NS + 6 * S);
    scene_release();
    assert_int_equal(cleat_transfer_drain(scene_service(), CLEAT_NEVER, NULL),
                     CLEAT_OK);
    /* It had said that it failed: so no value is left in its memory. */
    assert_true(is_all(memory[1], BYTES, 0xA5));
    count_calls(0, 0);
    assert_int_equal(scene_lent(&bytes), 0);
    values[0].flags = CLEAT_STORE_RAW;
    assert_int_equal(get(1), CLEAT_OK);
    scene_close();
}

static void ask_in_vain_from_now_on(void *nothing, uint32_t ended,
                                    uint32_t count,
                                    const struct cleat_transfer_totals *totals)
{
    (void)nothing;
    (void)ended;
    (void)count;
    (void)totals;
    if (scene_count(CLEAT_TRANSFER_DO_GET, "k0") > 0) {
        scene_block(CLEAT_TRANSFER_DO_SIZE, "k0", false);
    }
}

/* What an attempt has left in the buffer, while the next one is at its
 * question. */
static void no_question_at_the_end_keeps_what_was_got_before(void **state)
{
    static _Alignas(64) unsigned char wide[256 + BYTES];
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_TRANSIENT_EFFECT,
         .operations = CLEAT_STORE_FAULT_GETS,
         .key = "k0"}};
    struct cleat_transfer_options options = {
        .deadline_ns = SCENE_START_NS + 5 * S,
        .sized = 1,
        .progress = ask_in_vain_from_now_on};

    (void)state;
    open_with(rules, 1);
    make_values(1);
    /* It comes without a copy. */
    values[0].payload = wide + 256;
    values[0].flags = CLEAT_STORE_ROOM;
    memset(wide, 0x11, sizeof wide);
    assert_int_equal(put(1), CLEAT_OK);
    assert_int_equal(cleat_transfer_get(scene_service(), values, 1, &options,
                                        &summary, &error),
                     CLEAT_DEADLINE);
    assert_int_equal(values[0].lent, 1);
    scene_release();
    assert_int_equal(cleat_transfer_drain(scene_service(), CLEAT_NEVER, NULL),
                     CLEAT_OK);
    assert_true(is_all(wide + 256, BYTES, 0));
    scene_close();
}

static void a_put_that_is_under_way_at_the_deadline_is_unknown(void **state)
{
    struct cleat_transfer_options options = {.deadline_ns = SCENE_START_NS +
                                                            5 * S};
    unsigned char is[BYTES];

    (void)state;
    open_plain();
    make_values(1);
    scene_block(CLEAT_TRANSFER_DO_PUT, "k0", false);
    assert_int_equal(cleat_transfer_put(scene_service(), values, 1, &options,
                                        &summary, &error),
                     CLEAT_AMBIGUOUS);
    assert_int_equal(summary.totals.unknown, 1);
    assert_int_equal(values[0].lent, 1);
    scene_release();
    assert_int_equal(cleat_transfer_drain(scene_service(), CLEAT_NEVER, NULL),
                     CLEAT_OK);
    assert_int_equal(scene_get_plain("k0", is, BYTES), CLEAT_OK);
    scene_close();
}

/* Five calls and four threads: the fifth waits for one. */
static void what_no_thread_has_begun_is_taken_back(void **state)
{
    struct scene_config config = {
        .service = {.batch = {.calls_max = 5, .call_keys_max = 1}}};
    struct cleat_transfer_options options = {.deadline_ns = SCENE_START_NS + S};
    uint32_t lent = 0;

    (void)state;
    scene_open(&config);
    make_values(6);
    assert_int_equal(put(6), CLEAT_OK);
    scene_forget();
    scene_block(CLEAT_TRANSFER_DO_GET, NULL, false);
    assert_int_equal(cleat_transfer_get(scene_service(), values, 6, &options,
                                        &summary, &error),
                     CLEAT_DEADLINE);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(values[i].status, CLEAT_DEADLINE);
        assert_int_equal(values[i].attempts, 1);
        lent += values[i].lent;
    }
    assert_int_equal(lent, SCENE_THREADS);
    assert_int_equal(summary.totals.lent, SCENE_THREADS);
    count_calls(5, 5);
    scene_release();
    assert_int_equal(cleat_transfer_drain(scene_service(), CLEAT_NEVER, NULL),
                     CLEAT_OK);
    assert_int_equal(scene_items(), SCENE_THREADS);
    scene_close();
}

static void act_stop(void *of)
{
    (void)of;
    cleat_transfer_stop(scene_service());
}

static void a_stop_ends_every_batch(void **state)
{
    struct cleat_transfer_options wait = {.wait = 1,
                                          .deadline_ns = CLEAT_NEVER};

    (void)state;
    open_plain();
    make_values(2);
    scene_at(SCENE_START_NS + 5 * S, act_stop, NULL);
    assert_int_equal(
        cleat_transfer_get(scene_service(), values, 2, &wait, &summary, &error),
        CLEAT_CANCELLED);
    assert_int_equal(summary.ended_ns, SCENE_START_NS + 5 * S);
    assert_int_equal(values[0].status, CLEAT_CANCELLED);
    assert_int_equal(values[1].status, CLEAT_CANCELLED);
    /* What begins later is not touched. */
    assert_int_equal(put(2), CLEAT_OK);
    scene_close();
}

static void a_stop_lends_what_is_in_a_call(void **state)
{
    struct caller caller = {.kind = CLEAT_TRANSFER_PUT, .count = 1};

    (void)state;
    open_plain();
    make_values(1);
    caller.options.deadline_ns = CLEAT_NEVER;
    scene_block(CLEAT_TRANSFER_DO_PUT, "k0", true);
    start(&caller);
    scene_await_blocked(1);
    cleat_transfer_stop(scene_service());
    await(&caller);
    assert_int_equal(caller.status, CLEAT_AMBIGUOUS);
    assert_int_equal(values[0].lent, 1);
    count_calls(1, 1);
    scene_close();
}

static void a_deadline_that_has_passed_sends_nothing(void **state)
{
    struct cleat_transfer_options options = {.deadline_ns = SCENE_START_NS};

    (void)state;
    open_plain();
    make_values(2);
    assert_int_equal(cleat_transfer_put(scene_service(), values, 2, &options,
                                        &summary, &error),
                     CLEAT_DEADLINE);
    assert_int_equal(values[1].status, CLEAT_DEADLINE);
    assert_int_equal(summary.totals.failed, 2);
    assert_int_equal(scene_items(), 0);
    scene_close();
}

static void several_may_wait_until_all_is_drained(void **state)
{
    struct cleat_transfer_options options = {.deadline_ns = SCENE_START_NS + S};
    struct caller callers[2];

    (void)state;
    open_plain();
    make_values(2);
    memset(callers, 0, sizeof callers);
    scene_block(CLEAT_TRANSFER_DO_EXISTS, "k0", false);
    for (uint32_t i = 0; i < 2; i++) {
        values[i].key = "k0";
        assert_int_equal(cleat_transfer_put(scene_service(), &values[i], 1,
                                            &options, &summary, &error),
                         CLEAT_DEADLINE);
        options.deadline_ns += S;
    }
    count_calls(2, 2);
    assert_int_equal(
        cleat_transfer_drain(scene_service(), options.deadline_ns, &error),
        CLEAT_DEADLINE);
    assert_int_equal(error.index, 2);
    scene_close();
}

/* ---- memory that the store is told of ------------------------------------ */

static void r4_memory_is_lent_once_and_taken_back_at_the_end(void **state)
{
    struct scene_config config = {.lends = true};
    uint64_t bytes;

    (void)state;
    scene_open(&config);
    make_values(5);
    at(0, 1000, 100, CLEAT_STORE_RAW);
    at(1, 1100, 50, CLEAT_STORE_RAW);  /* touches */
    at(2, 1120, 100, CLEAT_STORE_RAW); /* overlaps */
    at(3, 2000, 10, CLEAT_STORE_ROOM);
    at(4, 3000, 10, 0); /* a copy of it goes: it is not lent */
    assert_int_equal(put(5), CLEAT_OK);
    assert_int_equal(scene_lends(), 2);
    assert_int_equal(scene_lent(&bytes), 0);
    assert_int_equal(
        cleat_transfer_remove(scene_service(), values, 5, NULL, NULL, NULL),
        CLEAT_OK);
    assert_int_equal(scene_lends(), 2);
    scene_forget();
    scene_refuse_lend(2);
    assert_int_equal(put(4), CLEAT_UNSUPPORTED);
    assert_string_equal(error.text,
                        "transfer: put: the store does not take the payloads' "
                        "memory: UNSUPPORTED: not this memory");
    assert_int_equal(summary.sent, 0);
    assert_int_equal(scene_items(), 0);
    assert_int_equal(scene_lent(&bytes), 0);
    scene_close();
}

/* ---- threads and calls that are short ------------------------------------ */

static void no_key_is_lost_where_there_is_no_thread(void **state)
{
    struct scene_config config = {
        .service = {.batch = {.call_keys_max = 3, .calls_max = 8}},
        .jobs_max = 1};

    (void)state;
    scene_open(&config);
    make_values(100);
    assert_int_equal(put(100), CLEAT_OK);
    assert_int_equal(summary.totals.ok, 100);
    assert_int_equal(summary.totals.bytes_again, 0);
    assert_int_equal(scene_count(CLEAT_TRANSFER_DO_PUT, NULL), 100);
    assert_int_equal(get(100), CLEAT_OK);
    scene_close();
}

static void r12_a_store_gets_no_more_calls_than_it_takes(void **state)
{
    struct scene_config config = {
        .service = {.batch = {.call_keys_max = 3, .calls_max = 8}},
        .store_calls_max = 2};

    (void)state;
    scene_open(&config);
    make_values(200);
    assert_int_equal(put(200), CLEAT_OK);
    assert_in_range(scene_most_calls(), 1, 2);
    scene_close();
}

static void who_waits_for_a_thread_in_vain_has_sent_nothing(void **state)
{
    static const struct cleat_retry_policy once = {.attempts_max = 1};
    struct scene_config config = {.service = {.batch = {.capacity = &once}},
                                  .store_calls_max = 1};
    struct cleat_transfer_options options = {.deadline_ns = SCENE_START_NS + S};
    struct caller caller = {.kind = CLEAT_TRANSFER_GET, .count = 1};

    (void)state;
    scene_open(&config);
    make_values(2);
    caller.options.deadline_ns = CLEAT_NEVER;
    scene_block(CLEAT_TRANSFER_DO_GET, "k0", false);
    start(&caller);
    scene_await_blocked(1);
    assert_int_equal(cleat_transfer_put(scene_service(), &values[1], 1,
                                        &options, &summary, &error),
                     CLEAT_DEADLINE);
    assert_int_equal(values[1].status, CLEAT_DEADLINE);
    assert_int_equal(values[1].attempts, 1);
    assert_int_equal(values[1].lent, 0);
    assert_int_equal(summary.totals.failed, 1);
    scene_at(SCENE_START_NS + S + 500, act_stop, NULL);
    options.deadline_ns = CLEAT_NEVER;
    assert_int_equal(scene_count(CLEAT_TRANSFER_DO_PUT, NULL), 0);
    assert_int_equal(cleat_transfer_put(scene_service(), &values[1], 1,
                                        &options, &summary, &error),
                     CLEAT_CANCELLED);
    assert_int_equal(values[1].status, CLEAT_CANCELLED);
    assert_int_equal(values[1].attempts, 1);
    assert_int_equal(scene_count(CLEAT_TRANSFER_DO_EXISTS, NULL), 0);
    await(&caller);
    assert_int_equal(caller.status, CLEAT_CANCELLED);
    count_calls(1, 1);
    scene_close();
}

/* ---- the budget that all share ------------------------------------------- */

static void r10_all_batches_share_one_budget(void **state)
{
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_TRANSIENT, .key = "k0"}};
    struct scene_config config = {
        .service = {.batch = {.policy = &plain_policy},
                    .budget = {.tokens = 2000,
                               .tokens_max = 2000,
                               .cost = 1000,
                               .cost_transient = 1000}},
        .rules = rules,
        .rules_count = 1};

    (void)state;
    scene_open(&config);
    make_values(1);
    assert_int_equal(get(1), CLEAT_TRANSIENT);
    assert_int_equal(values[0].attempts, 3);
    assert_int_equal(get(1), CLEAT_TRANSIENT);
    assert_int_equal(values[0].attempts, 1);
    scene_close();
}

/* ---- ready --------------------------------------------------------------- */

static void r14_nothing_is_asked_of_a_store_that_is_not_ready(void **state)
{
    struct scene_config config = {.unready = true};

    (void)state;
    scene_open(&config);
    make_values(1);
    assert_int_equal(put(1), CLEAT_STATE);
    assert_string_equal(error.text,
                        "transfer: put: the store is not ready yet");
    assert_int_equal(get(1), CLEAT_STATE);
    assert_int_equal(scene_items(), 0);
    assert_int_equal(scene_readies(), 0);
    scene_unready(CLEAT_TRANSIENT, 3);
    assert_int_equal(
        cleat_transfer_service_ready(scene_service(), CLEAT_NEVER, &error),
        CLEAT_OK);
    assert_int_equal(scene_readies(), 4);
    /* Equal jitter: waits of 1 … 2, 2 … 4 and 4 … 8 s. */
    assert_in_range(scene_now_ns() - SCENE_START_NS, 7 * S, 14 * S);
    assert_int_equal(put(1), CLEAT_OK);
    scene_close();
}

static void r15_a_store_that_is_never_ready_is_said_to_be_so(void **state)
{
    struct scene_config config = {.unready = true};

    (void)state;
    scene_open(&config);
    make_values(1);
    scene_unready(CLEAT_TRANSIENT, 1000);
    assert_int_equal(cleat_transfer_service_ready(
                         scene_service(), SCENE_START_NS + S / 2, &error),
                     CLEAT_TRANSIENT);
    assert_string_equal(error.text,
                        "transfer: the store is not ready after 1 tries: "
                        "TRANSIENT: no segment is there");
    assert_int_equal(error.port_code, -200);
    assert_int_equal(put(1), CLEAT_STATE);
    scene_unready(CLEAT_PERMANENT, 1000);
    assert_int_equal(
        cleat_transfer_service_ready(scene_service(), CLEAT_NEVER, &error),
        CLEAT_PERMANENT);
    assert_int_equal(scene_readies(), 2);
    scene_close();
}

static void a_store_that_stands_still_does_not_hold_who_waits(void **state)
{
    struct scene_config config = {.unready = true};

    (void)state;
    scene_open(&config);
    make_values(1);
    scene_block_ready();
    assert_int_equal(cleat_transfer_service_ready(
                         scene_service(), SCENE_START_NS + 9 * S, &error),
                     CLEAT_DEADLINE);
    assert_int_equal(scene_now_ns(), SCENE_START_NS + 9 * S);
    count_calls(1, 1);
    assert_int_equal(put(1), CLEAT_STATE);
    scene_at(SCENE_START_NS + 10 * S, act_stop, NULL);
    assert_int_equal(
        cleat_transfer_service_ready(scene_service(), CLEAT_NEVER, &error),
        CLEAT_CANCELLED);
    scene_release();
    assert_int_equal(cleat_transfer_drain(scene_service(), CLEAT_NEVER, NULL),
                     CLEAT_OK);
    assert_int_equal(
        cleat_transfer_service_ready(scene_service(), CLEAT_NEVER, &error),
        CLEAT_OK);
    scene_close();
}

/* ---- what is told -------------------------------------------------------- */

static void r11_an_error_names_some_and_fits_its_line(void **state)
{
    struct scene_config config = {.service = {.names_max = 100}};

    (void)state;
    open_plain();
    make_values(KEYS);
    values[1].key = "a key with a name that goes on and on, to be told in part";
    assert_int_equal(get(KEYS), CLEAT_NOT_FOUND);
    assert_string_equal(
        error.text,
        "transfer: get: 10 of 10 keys failed: 'k0' NOT_FOUND, 'a key with a "
        "name that g…part' NOT_FOUND, 'k2' NOT_FOUND, 'k3' NOT_FOUND, 'k4' "
        "NOT_FOUND, …");
    scene_close();
    /* As many as there is room for. */
    scene_open(&config);
    make_values(2000);
    assert_int_equal(get(2000), CLEAT_NOT_FOUND);
    assert_true(strlen(error.text) < CLEAT_ERROR_TEXT_MAX);
    assert_true(strlen(error.text) > CLEAT_ERROR_TEXT_MAX - 24);
    assert_string_equal(error.text + strlen(error.text) - 5, ", …");
    assert_non_null(strstr(error.text, "'k6' NOT_FOUND"));
    /* Nobody asked for words. */
    assert_int_equal(
        cleat_transfer_get(scene_service(), values, 1, NULL, NULL, NULL),
        CLEAT_NOT_FOUND);
    scene_close();
}

struct progress {
    uint32_t times;
    uint32_t ended;
    uint32_t count;
};

static void see_progress(void *context, uint32_t ended, uint32_t count,
                         const struct cleat_transfer_totals *totals)
{
    struct progress *progress = context;

    assert_true(ended >= progress->ended);
    assert_true(totals->ok <= ended);
    progress->times++;
    progress->ended = ended;
    progress->count = count;
}

static void progress_is_told_to_the_end(void **state)
{
    struct scene_config config = {.service = {.batch = {.call_keys_max = 4}}};
    struct progress progress = {0, 0, 0};
    struct cleat_transfer_options options = {.progress = see_progress,
                                             .progress_context = &progress,
                                             .mode = CLEAT_TRANSFER_KEEP};

    (void)state;
    scene_open(&config);
    make_values(40);
    assert_int_equal(
        cleat_transfer_put(scene_service(), values, 40, &options, NULL, NULL),
        CLEAT_OK);
    assert_in_range(progress.times, 1, 10);
    assert_int_equal(progress.ended, 40);
    assert_int_equal(progress.count, 40);
    for (uint32_t i = 0; i < 40; i += 2) { values[i + 1].key = names[i]; }
    progress = (struct progress){0, 0, 0};
    assert_int_equal(
        cleat_transfer_get(scene_service(), values, 40, &options, NULL, NULL),
        CLEAT_OK);
    assert_int_equal(progress.ended, 40);
    scene_close();
}

static void a_failed_get_leaves_zeros_or_poison(void **state)
{
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_CORRUPT, .key = "k0"}};

    (void)state;
    for (uint32_t poison = 0; poison < 2; poison++) {
        struct scene_config config = {.service = {.on_failure = poison},
                                      .rules = rules,
                                      .rules_count = 1};

        scene_open(&config);
        make_values(2);
        assert_int_equal(put(1), CLEAT_OK);
        forget_memory();
        assert_int_equal(get(1), CLEAT_CORRUPT);
        assert_true(is_all(memory[0], BYTES, poison ? 0xA5 : 0));
        assert_true(is_all(memory[1], BYTES, 0x11));
        scene_close();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_goes_well_at_the_first_try),
        cmocka_unit_test(what_has_failed_is_made_again_and_works),
        cmocka_unit_test(
            r11_when_attempts_run_out_every_failed_key_is_reported),
        cmocka_unit_test(r4_only_what_has_failed_is_sent_again),
        cmocka_unit_test(r4_what_is_sent_again_is_the_same_memory),
        cmocka_unit_test(r8_the_honest_empty_value_comes_back_empty),
        cmocka_unit_test(a_tensor_is_got_as_what_it_was_put),
        cmocka_unit_test(a_get_of_a_size_gets_that_or_fails),
        cmocka_unit_test(a_sized_get_asks_and_takes_what_there_is),
        cmocka_unit_test(a_get_that_waits_gets_what_comes_later),
        cmocka_unit_test(a_get_that_waits_in_vain_ends_at_its_deadline),
        cmocka_unit_test(r7_a_put_does_with_what_is_there_what_its_mode_says),
        cmocka_unit_test(removes_and_questions_work),
        cmocka_unit_test(a_question_does_not_look_at_a_shape),
        cmocka_unit_test(r3_a_put_of_one_key_twice_is_refused),
        cmocka_unit_test(r3_a_get_by_several_fetches_once_and_copies),
        cmocka_unit_test(
            who_asks_for_something_else_of_a_key_is_answered_apart),
        cmocka_unit_test(who_asks_for_another_size_of_a_key_is_answered_apart),
        cmocka_unit_test(a_failed_get_fails_for_all_who_asked),
        cmocka_unit_test(what_is_asked_twice_is_asked_once),
        cmocka_unit_test(a_thousand_keys_are_told_apart),
        cmocka_unit_test(gets_into_memory_that_overlaps_are_refused),
        cmocka_unit_test(puts_may_share_memory_but_not_header_room),
        cmocka_unit_test(many_pieces_of_memory_in_any_order_are_told_apart),
        cmocka_unit_test(what_cannot_be_is_refused_and_nothing_sent),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(a_block_is_refused_before_anything_is_made),
        cmocka_unit_test(at_the_deadline_the_caller_gets_its_report),
        cmocka_unit_test(no_question_at_the_end_keeps_what_was_got_before),
        cmocka_unit_test(a_put_that_is_under_way_at_the_deadline_is_unknown),
        cmocka_unit_test(what_no_thread_has_begun_is_taken_back),
        cmocka_unit_test(a_stop_ends_every_batch),
        cmocka_unit_test(a_stop_lends_what_is_in_a_call),
        cmocka_unit_test(a_deadline_that_has_passed_sends_nothing),
        cmocka_unit_test(several_may_wait_until_all_is_drained),
        cmocka_unit_test(r4_memory_is_lent_once_and_taken_back_at_the_end),
        cmocka_unit_test(no_key_is_lost_where_there_is_no_thread),
        cmocka_unit_test(r12_a_store_gets_no_more_calls_than_it_takes),
        cmocka_unit_test(who_waits_for_a_thread_in_vain_has_sent_nothing),
        cmocka_unit_test(r10_all_batches_share_one_budget),
        cmocka_unit_test(r14_nothing_is_asked_of_a_store_that_is_not_ready),
        cmocka_unit_test(r15_a_store_that_is_never_ready_is_said_to_be_so),
        cmocka_unit_test(a_store_that_stands_still_does_not_hold_who_waits),
        cmocka_unit_test(r11_an_error_names_some_and_fits_its_line),
        cmocka_unit_test(progress_is_told_to_the_end),
        cmocka_unit_test(a_failed_get_leaves_zeros_or_poison),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
