/* Cleat: the store in memory. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cleat/memory_store.h"
#include "no_malloc.h"

#define BLOCK_BYTES ((size_t)4 << 20)

static _Alignas(4096) unsigned char block[BLOCK_BYTES];
static _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
static struct cleat_store store;

static void make(size_t bytes, uint32_t keys_max, uint32_t unit_bytes)
{
    struct cleat_memory_store_config config;
    struct cleat_error error;

    memset(&config, 0, sizeof config);
    config.keys_max = keys_max;
    config.unit_bytes = unit_bytes;
    memset(block, 0xEE, sizeof block);
    assert_int_equal(cleat_memory_store_init(block, bytes, &config, end,
                                             sizeof end, &store, &error),
                     CLEAT_OK);
}

static int setup(void **state)
{
    (void)state;
    make(BLOCK_BYTES, 2000, 256);
    return 0;
}

static struct cleat_store_item item_of(const char *key, void *payload,
                                       uint64_t bytes)
{
    struct cleat_store_item item;

    memset(&item, 0, sizeof item);
    item.key = key;
    item.key_bytes = (uint32_t)strlen(key);
    item.payload = payload;
    item.bytes = bytes;
    item.status = CLEAT_PENDING;
    return item;
}

static enum cleat_status do_item(uint32_t operation,
                                 struct cleat_store_item *item)
{
    struct cleat_store_call call = {operation, 1, item, CLEAT_NEVER};

    assert_int_equal(store.call(store.context, &call), CLEAT_OK);
    return (enum cleat_status)item->status;
}

static enum cleat_status put(const char *key, const void *payload,
                             uint64_t bytes)
{
    struct cleat_store_item item = item_of(key, (void *)(uintptr_t)payload,
                                           bytes);

    return do_item(CLEAT_TRANSFER_DO_PUT, &item);
}

static enum cleat_status get(const char *key, void *payload, uint64_t bytes)
{
    struct cleat_store_item item = item_of(key, payload, bytes);
    enum cleat_status status = do_item(CLEAT_TRANSFER_DO_GET, &item);

    if (status == CLEAT_OK) { assert_int_equal(item.actual, bytes); }
    return status;
}

static enum cleat_status ask(uint32_t operation, const char *key)
{
    struct cleat_store_item item = item_of(key, NULL, 0);

    return do_item(operation, &item);
}

static struct cleat_memory_store_view look(void)
{
    struct cleat_memory_store_view view;

    cleat_memory_store_look(&store, &view);
    return view;
}

/* Bytes that differ from place to place and from seed to seed. */
static void fill(unsigned char *bytes, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        bytes[i] = (unsigned char)(seed * 37 + i * 11 + (i >> 7));
    }
}

/* ---- values -------------------------------------------------------------- */

static void a_value_comes_back_as_it_was_put(void **state)
{
    static const size_t sizes[] = {1,    2,    63,    64,    65,    127,   128,
                                   129,  255,  256,   257,   767,   768,   769,
                                   4095, 4096, 65535, 65536, 65537, 300000};
    static unsigned char bytes[300000];
    static unsigned char got[300000];
    char key[32];

    (void)state;
    for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        snprintf(key, sizeof key, "value/%u", (unsigned)i);
        fill(bytes, sizes[i], i);
        assert_int_equal(put(key, bytes, sizes[i]), CLEAT_OK);
    }
    for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        snprintf(key, sizeof key, "value/%u", (unsigned)i);
        fill(bytes, sizes[i], i);
        assert_int_equal(get(key, got, sizes[i]), CLEAT_OK);
        assert_memory_equal(got, bytes, sizes[i]);
    }
}

/* Larger than caches are, it is written past them; neither the bytes nor the
 * digest that stands beside them are other ones. */
static void a_store_larger_than_caches_gives_back_what_was_put(void **state)
{
    static const size_t sizes[] = {0,    1,    4095,  4096,  4097,
                                   4159, 8192, 65535, 65536, 300001};
    const struct cleat_memory_store_config config = {.keys_max = 100};
    size_t bytes = ((size_t)128 << 20) + ((size_t)2 << 20);
    unsigned char *large = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                                0);
    static unsigned char from[300001];
    static unsigned char got[300001];
    char key[32];

    (void)state;
    assert_ptr_not_equal(large, MAP_FAILED);
    assert_int_equal(cleat_memory_store_init(large, bytes, &config, end,
                                             sizeof end, &store, NULL),
                     CLEAT_OK);
    assert_true((uint64_t)look().units_max * look().unit_bytes >= (uint64_t)128
                                                                      << 20);
    for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        snprintf(key, sizeof key, "value/%u", (unsigned)i);
        fill(from, sizes[i], i);
        assert_int_equal(put(key, from, sizes[i]), CLEAT_OK);
    }
    for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        snprintf(key, sizeof key, "value/%u", (unsigned)i);
        fill(from, sizes[i], i);
        assert_int_equal(get(key, got, sizes[i]), CLEAT_OK);
        assert_memory_equal(got, from, sizes[i]);
    }
    cleat_memory_store_detach(&store);
    assert_int_equal(munmap(large, bytes), 0);
}

static void keys_of_every_length_are_kept_whole(void **state)
{
    static char key[CLEAT_STORE_KEY_MAX + 2];
    uint32_t got;

    (void)state;
    memset(key, 'k', CLEAT_STORE_KEY_MAX + 1);
    for (uint32_t length = 1; length <= CLEAT_STORE_KEY_MAX; length++) {
        key[length] = '\0';
        assert_int_equal(put(key, &length, sizeof length), CLEAT_OK);
        key[length] = 'k';
    }
    for (uint32_t length = 1; length <= CLEAT_STORE_KEY_MAX; length++) {
        key[length] = '\0';
        assert_int_equal(get(key, &got, sizeof got), CLEAT_OK);
        assert_int_equal(got, length);
        key[length - 1] = 'l'; /* the last byte counts */
        assert_int_equal(get(key, &got, sizeof got), CLEAT_NOT_FOUND);
        key[length - 1] = 'k';
        key[length] = 'k';
    }
}

static void empty_missing_and_failed_are_three_things(void **state)
{
    struct cleat_store_item item = item_of("empty", NULL, 0);
    unsigned char byte = 7;

    (void)state;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(get("empty", NULL, 0), CLEAT_OK);
    assert_int_equal(get("missing", NULL, 0), CLEAT_NOT_FOUND);
    assert_int_equal(get("empty", &byte, 1), CLEAT_SHORT);
    item.flags = CLEAT_MEMORY_STORE_FLIP;
    item.key = "wrong";
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    item.flags = 0;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_CORRUPT);
    item = item_of("raw", NULL, 0);
    item.flags = CLEAT_STORE_RAW;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_int_equal(item.actual, 0);
}

static void a_put_of_a_key_that_is_there_keeps_the_old_value(void **state)
{
    char got[4];

    (void)state;
    assert_int_equal(put("key", "old", 4), CLEAT_OK);
    assert_int_equal(put("key", "new", 4), CLEAT_EXISTS);
    assert_int_equal(put("key", "other size", 11), CLEAT_EXISTS);
    assert_int_equal(get("key", got, 4), CLEAT_OK);
    assert_string_equal(got, "old");
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "key"), CLEAT_OK);
    assert_int_equal(put("key", "new", 4), CLEAT_OK);
    assert_int_equal(get("key", got, 4), CLEAT_OK);
    assert_string_equal(got, "new");
}

static void a_get_wants_exactly_its_size(void **state)
{
    unsigned char got[8];
    unsigned char before[8];
    struct cleat_store_item item;

    (void)state;
    assert_int_equal(put("key", "12345", 5), CLEAT_OK);
    memset(before, 0xAA, sizeof before);
    for (uint64_t bytes = 0; bytes <= 8; bytes++) {
        for (uint32_t raw = 0; raw < 2; raw++) {
            memset(got, 0xAA, sizeof got);
            item = item_of("key", got, bytes);
            if (raw) { item.flags = CLEAT_STORE_RAW; }
            if (bytes == 5 && !raw) { continue; }
            assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item),
                             CLEAT_SHORT);
            assert_int_equal(item.actual, raw ? 128 + 5 : 5);
            assert_memory_equal(got, before, sizeof got);
        }
    }
}

static struct cleat_frame tensor_frame(void)
{
    struct cleat_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.dtype = CLEAT_DTYPE_F32;
    frame.rank = 2;
    frame.shape[0] = 2;
    frame.shape[1] = 3;
    frame.tag = 77;
    return frame;
}

static void a_tensor_comes_with_its_dtype_shape_and_tag(void **state)
{
    float values[6] = {1, 2, 3, 4, 5, 6};
    float got[6];
    struct cleat_store_item item = item_of("tensor", values, sizeof values);

    (void)state;
    item.frame = tensor_frame();
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    item = item_of("tensor", got, sizeof got);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_memory_equal(got, values, sizeof got);
    assert_int_equal(item.frame.dtype, CLEAT_DTYPE_F32);
    assert_int_equal(item.frame.rank, 2);
    assert_int_equal(item.frame.shape[0], 2);
    assert_int_equal(item.frame.shape[1], 3);
    assert_int_equal(item.frame.tag, 77);
    assert_int_equal(item.frame.payload_bytes, sizeof values);
    assert_int_equal(item.frame.payload_crc,
                     cleat_crc32c(0, values, sizeof values));
    /* What was found, demanded. */
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
}

static void
a_demand_that_is_not_met_is_a_mismatch_and_writes_nothing(void **state)
{
    float values[6] = {1, 2, 3, 4, 5, 6};
    float got[6];
    struct cleat_store_item item = item_of("tensor", values, sizeof values);

    (void)state;
    item.frame = tensor_frame();
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    for (uint32_t which = 0; which < 5; which++) {
        float before[6];

        memset(got, 0x55, sizeof got);
        memcpy(before, got, sizeof got);
        item = item_of("tensor", got, sizeof got);
        item.frame = tensor_frame();
        if (which == 0) { item.frame.dtype = CLEAT_DTYPE_I32; }
        if (which == 1) { item.frame.rank = 1; }
        if (which == 2) { item.frame.shape[0] = 3; }
        if (which == 3) { item.frame.shape[1] = 2; }
        if (which == 4) { item.frame.tag = 78; }
        assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_INVALID);
        assert_memory_equal(got, before, sizeof got);
        assert_int_equal(item.frame.dtype, CLEAT_DTYPE_F32);
        assert_int_equal(item.frame.shape[0], 2);
        assert_int_equal(item.frame.shape[1], 3);
        assert_int_equal(item.actual, sizeof values);
        assert_int_equal(cleat_status_class(CLEAT_INVALID),
                         CLEAT_CLASS_PERMANENT);
    }
}

static void a_frame_that_contradicts_itself_is_not_put(void **state)
{
    float values[6] = {0};
    struct cleat_store_item item = item_of("tensor", values, sizeof values);

    (void)state;
    item.frame = tensor_frame();
    item.frame.shape[1] = 4;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_INVALID);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_EXISTS, "tensor"), CLEAT_NOT_FOUND);
    assert_int_equal(look().units, 0);
    assert_int_equal(look().held, 0);
}

static void what_is_put_raw_is_got_raw(void **state)
{
    char got[4];
    struct cleat_store_item item = item_of("raw", (void *)(uintptr_t) "abc", 4);

    (void)state;
    item.flags = CLEAT_STORE_RAW;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_SIZE, &item), CLEAT_OK);
    assert_int_equal(item.actual, 4);
    item.payload = got;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_memory_equal(got, "abc", 4);
    assert_int_equal(get("raw", got, 4), CLEAT_MALFORMED);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_SIZE, "raw"), CLEAT_MALFORMED);
    item.flags = 0;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_CORRUPT);
}

static void a_framed_value_got_raw_comes_with_its_header(void **state)
{
    unsigned char got[CLEAT_FRAME_BYTES + 5];
    struct cleat_frame frame;
    struct cleat_store_item item = item_of("key", got, sizeof got);

    (void)state;
    assert_int_equal(put("key", "12345", 5), CLEAT_OK);
    item.flags = CLEAT_STORE_RAW;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_int_equal(item.actual, sizeof got);
    assert_int_equal(cleat_frame_decode(got, sizeof got, &frame, NULL),
                     CLEAT_OK);
    assert_int_equal(frame.payload_bytes, 5);
    assert_int_equal(frame.payload_crc, cleat_crc32c(0, "12345", 5));
    assert_memory_equal(got + CLEAT_FRAME_BYTES, "12345", 5);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_OK);
    got[3] ^= 1;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_CORRUPT);
}

static void raw_bytes_that_are_a_frame_are_got_as_one(void **state)
{
    unsigned char bytes[CLEAT_FRAME_BYTES + 5];
    unsigned char got[5];
    struct cleat_frame frame;
    struct cleat_store_item item = item_of("key", bytes, sizeof bytes);

    (void)state;
    memset(&frame, 0, sizeof frame);
    frame.payload_bytes = 5;
    frame.payload_crc = cleat_crc32c(0, "54321", 5);
    memcpy(bytes + CLEAT_FRAME_BYTES, "54321", 5);
    assert_int_equal(cleat_frame_encode(&frame, bytes, sizeof bytes, NULL),
                     CLEAT_OK);
    item.flags = CLEAT_STORE_RAW;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(get("key", got, 5), CLEAT_OK);
    assert_memory_equal(got, "54321", 5);
    /* One of a later version; its header is digested as in this one. */
    bytes[4] = 2;
    uint32_t crc = cleat_crc32c(0, bytes, 124);
    for (uint32_t i = 0; i < 4; i++) {
        bytes[124 + i] = (unsigned char)(crc >> (8 * i));
    }
    item.key = "new";
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(get("new", got, 5), CLEAT_UNSUPPORTED);
    /* One without a digest. */
    frame.payload_crc = 0;
    frame.flags = CLEAT_FRAME_UNDIGESTED;
    assert_int_equal(cleat_frame_encode(&frame, bytes, sizeof bytes, NULL),
                     CLEAT_OK);
    item.key = "undigested";
    item.key_bytes = 10;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    memset(got, 0xAA, sizeof got);
    assert_int_equal(get("undigested", got, 5), CLEAT_UNSUPPORTED);
    assert_int_equal(got[0], 0xAA); /* nothing was written */
    item = item_of("undigested", (void *)(uintptr_t) "54321", 5);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_CORRUPT);
}

/* Where the value lies: the only place in the block with its bytes. */
static unsigned char *find_bytes(const void *bytes, size_t count)
{
    unsigned char *at = memmem(block, sizeof block, bytes, count);

    assert_non_null(at);
    return at;
}

static void every_flipped_bit_is_found_and_the_buffer_zeroed(void **state)
{
    static const unsigned char zeros[16];
    unsigned char got[16];
    unsigned char *object;
    struct cleat_store_item item;

    (void)state;
    assert_int_equal(put("key", "the only place!", 16), CLEAT_OK);
    object = find_bytes("the only place!", 16) - CLEAT_FRAME_BYTES;
    for (uint32_t bit = 0; bit < 8 * (CLEAT_FRAME_BYTES + 16); bit++) {
        object[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        memset(got, 0, sizeof got);
        assert_int_equal(get("key", got, 16), CLEAT_CORRUPT);
        assert_memory_equal(got, zeros, sizeof got);
        item = item_of("key", (void *)(uintptr_t) "the only place!", 16);
        assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item),
                         CLEAT_CORRUPT);
        object[bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }
    assert_int_equal(get("key", got, 16), CLEAT_OK);
    item = item_of("raw", (void *)(uintptr_t) "another place !", 16);
    item.flags = CLEAT_STORE_RAW;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    object = find_bytes("another place !", 16);
    item.payload = got;
    for (uint32_t bit = 0; bit < 8 * 16; bit++) {
        object[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        memset(got, 0xAA, sizeof got);
        assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_CORRUPT);
        assert_memory_equal(got, zeros, sizeof got);
        object[bit / 8] ^= (unsigned char)(1u << (bit % 8));
    }
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
}

static void what_is_spoilt_on_purpose_is_found(void **state)
{
    static unsigned char bytes[5000];
    static unsigned char got[5000];
    struct cleat_store_item item = item_of("flip", bytes, sizeof bytes);

    (void)state;
    fill(bytes, sizeof bytes, 3);
    item.flags = CLEAT_MEMORY_STORE_FLIP;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    item.key = "tear";
    item.flags = CLEAT_MEMORY_STORE_TEAR;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(get("flip", got, sizeof got), CLEAT_CORRUPT);
    assert_int_equal(get("tear", got, sizeof got), CLEAT_CORRUPT);
}

static void a_comparison_finds_every_difference(void **state)
{
    static unsigned char bytes[200000]; /* more than one piece */
    static const size_t places[] = {0, 1, 65535, 65536, 131071, 199999};
    struct cleat_store_item item = item_of("key", bytes, sizeof bytes);

    (void)state;
    fill(bytes, sizeof bytes, 9);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_OK);
    for (uint32_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        bytes[places[i]] ^= 4;
        assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item),
                         CLEAT_CORRUPT);
        bytes[places[i]] ^= 4;
    }
    item.bytes--;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_CORRUPT);
    assert_int_equal(item.actual, sizeof bytes);
    item.bytes++;
    item.frame.dtype = CLEAT_DTYPE_U8;
    item.frame.rank = 1;
    item.frame.shape[0] = sizeof bytes;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_CORRUPT);
    item.key_bytes = 2;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item),
                     CLEAT_NOT_FOUND);
}

static void a_key_is_there_from_its_put_to_its_remove(void **state)
{
    struct cleat_store_item item = item_of("key", NULL, 0);

    (void)state;
    assert_int_equal(ask(CLEAT_TRANSFER_DO_EXISTS, "key"), CLEAT_NOT_FOUND);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_SIZE, "key"), CLEAT_NOT_FOUND);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "key"), CLEAT_NOT_FOUND);
    assert_int_equal(put("key", "12345", 5), CLEAT_OK);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_EXISTS, "key"), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_SIZE, &item), CLEAT_OK);
    assert_int_equal(item.actual, 5);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "key"), CLEAT_OK);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_EXISTS, "key"), CLEAT_NOT_FOUND);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, "key"), CLEAT_NOT_FOUND);
    assert_int_equal(look().units, 0);
}

static void a_call_answers_for_each_of_its_items(void **state)
{
    enum { COUNT = 100 };
    static struct cleat_store_item items[COUNT];
    static char keys[COUNT][16];
    static uint32_t values[COUNT];
    static uint32_t got[COUNT];
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_PUT, COUNT, items,
                                    CLEAT_NEVER};

    (void)state;
    for (uint32_t i = 0; i < COUNT; i++) {
        values[i] = i * i;
        /* Every seventh has no key; every tenth has that of the one before. */
        snprintf(keys[i], sizeof keys[i], "%u",
                 (unsigned)(i % 10 == 9 ? i - 1 : i));
        items[i] = item_of(i % 7 == 3 ? "" : keys[i], &values[i], 4);
    }
    assert_int_equal(store.call(store.context, &call), CLEAT_OK);
    for (uint32_t i = 0; i < COUNT; i++) {
        bool before = i % 10 == 9 && (i - 1) % 7 != 3;

        assert_int_equal(items[i].status, i % 7 == 3 ? CLEAT_INVALID
                                          : before   ? CLEAT_EXISTS
                                                     : CLEAT_OK);
        items[i].payload = &got[i];
    }
    call.operation = CLEAT_TRANSFER_DO_GET;
    assert_int_equal(store.call(store.context, &call), CLEAT_OK);
    for (uint32_t i = 0; i < COUNT; i++) {
        bool before = i % 10 == 9 && (i - 1) % 7 != 3;

        if (i % 7 == 3) {
            assert_int_equal(items[i].status, CLEAT_INVALID);
            continue;
        }
        assert_int_equal(items[i].status, CLEAT_OK);
        assert_int_equal(got[i], values[before ? i - 1 : i]);
    }
    call.operation = CLEAT_TRANSFER_OPERATIONS;
    assert_int_equal(store.call(store.context, &call), CLEAT_INVALID);
}

static void what_is_no_item_is_refused(void **state)
{
    static char key[CLEAT_STORE_KEY_MAX + 2];
    char byte = 0;
    struct cleat_store_item item;

    (void)state;
    memset(key, 'k', CLEAT_STORE_KEY_MAX + 1);
    for (uint32_t operation = 0; operation < CLEAT_TRANSFER_OPERATIONS;
         operation++) {
        item = item_of(key, &byte, 1);
        assert_int_equal(do_item(operation, &item), CLEAT_INVALID);
        item = item_of("", &byte, 1);
        assert_int_equal(do_item(operation, &item), CLEAT_INVALID);
        item = item_of("a", &byte, 1);
        item.key = NULL;
        assert_int_equal(do_item(operation, &item), CLEAT_INVALID);
        item = item_of("a", &byte, 1);
        item.key_bytes = 2; /* its NUL */
        assert_int_equal(do_item(operation, &item), CLEAT_INVALID);
    }
    for (uint32_t operation = CLEAT_TRANSFER_DO_PUT;
         operation <= CLEAT_TRANSFER_DO_COMPARE; operation++) {
        item = item_of("a", NULL, 1);
        assert_int_equal(do_item(operation, &item), CLEAT_INVALID);
        item = item_of("a", &byte, 1);
        item.flags = CLEAT_STORE_DEVICE;
        assert_int_equal(do_item(operation, &item), CLEAT_UNSUPPORTED);
    }
    assert_int_equal(look().keys, 0);
}

/* ---- bounds -------------------------------------------------------------- */

static uint32_t put_many(const char *name, uint64_t bytes, int32_t *code)
{
    static unsigned char payload[70000];
    char key[32];

    for (uint32_t i = 0;; i++) {
        struct cleat_store_item item;

        snprintf(key, sizeof key, "%s/%u", name, (unsigned)i);
        fill(payload, bytes, i);
        item = item_of(key, payload, bytes);
        if (do_item(CLEAT_TRANSFER_DO_PUT, &item) != CLEAT_OK) {
            assert_int_equal(item.status, CLEAT_CAPACITY);
            assert_int_equal(ask(CLEAT_TRANSFER_DO_EXISTS, key),
                             CLEAT_NOT_FOUND);
            *code = item.code;
            return i;
        }
    }
}

static void check_many(const char *name, uint64_t bytes, uint32_t count,
                       bool remove)
{
    static unsigned char payload[70000];
    static unsigned char got[70000];
    char key[32];

    for (uint32_t i = 0; i < count; i++) {
        snprintf(key, sizeof key, "%s/%u", name, (unsigned)i);
        fill(payload, bytes, i);
        assert_int_equal(get(key, got, bytes), CLEAT_OK);
        assert_memory_equal(got, payload, bytes);
        if (remove) {
            assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, key), CLEAT_OK);
        }
    }
}

static void a_full_store_says_so_and_holds_nothing_half_made(void **state)
{
    struct cleat_memory_store_view view;
    int32_t code = 0;

    (void)state;
    for (uint32_t round = 0; round < 3; round++) {
        uint32_t keys = put_many("small", 8, &code);

        assert_int_equal(keys, 2000);
        assert_int_equal(code, CLEAT_MEMORY_STORE_FULL_KEYS);
        view = look();
        assert_int_equal(view.keys, 2000);
        assert_int_equal(view.held, 0);
        assert_int_equal(view.value_bytes, 2000 * 8);
        check_many("small", 8, keys, true);
        assert_int_equal(look().keys, 0);
        assert_int_equal(look().units, 0);
    }
    for (uint32_t round = 0; round < 3; round++) {
        uint32_t units = (64 + 128 + 70000 + 255) / 256;
        uint32_t keys = put_many("large", 70000, &code);

        /* It begins to look where the last search ended, so the room before
         * and behind that place may both be a little short of a value. */
        assert_in_range(keys, look().units_max / units - 1,
                        look().units_max / units);
        assert_int_equal(code, CLEAT_MEMORY_STORE_FULL_BYTES);
        view = look();
        assert_int_equal(view.keys, keys);
        assert_int_equal(view.held, 0);
        assert_int_equal(view.units, keys * units);
        assert_true(view.units_run < units);
        check_many("large", 70000, keys, true);
        assert_int_equal(look().units, 0);
    }
}

static void the_largest_value_fits_an_empty_store_with_any_key(void **state)
{
    static unsigned char payload[BLOCK_BYTES];
    static char key[CLEAT_STORE_KEY_MAX + 1];
    struct cleat_store_item item;

    (void)state;
    memset(key, 'k', CLEAT_STORE_KEY_MAX);
    item = item_of(key, payload, store.value_bytes_max);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(put("k", "", 1), CLEAT_CAPACITY);
    assert_int_equal(ask(CLEAT_TRANSFER_DO_REMOVE, key), CLEAT_OK);
    item = item_of(key, payload, store.value_bytes_max + 1);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_LIMIT);
    item = item_of(key, payload, UINT64_MAX);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_LIMIT);
    item = item_of(key, payload, UINT64_MAX - 64);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_LIMIT);
    assert_int_equal(look().units, 0);
}

static void a_block_of_the_bytes_told_takes_all_values(void **state)
{
    static const struct {
        uint32_t keys;
        uint32_t unit;
        uint32_t bytes; /* of each */
    } cases[] = {{1, 256, 0},    {1, 1u << 20, 5},     {3, 256, 65},
                 {100, 0, 1},    {100, 512, 7000},     {57, 4096, 20000},
                 {1000, 256, 3}, {16, 1u << 16, 60000}};
    struct cleat_memory_store_config config;
    int32_t code = 0;

    (void)state;
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t bytes;

        memset(&config, 0, sizeof config);
        config.keys_max = cases[i].keys;
        config.unit_bytes = cases[i].unit;
        /* A key is "told/" and a number. */
        bytes = cleat_memory_store_bytes(&config, (uint64_t)cases[i].keys *
                                                      (cases[i].bytes + 5 + 4));
        assert_in_range(bytes, 1, BLOCK_BYTES);
        make(bytes, cases[i].keys, cases[i].unit);
        assert_int_equal(put_many("told", cases[i].bytes, &code),
                         cases[i].keys);
        assert_int_equal(code, CLEAT_MEMORY_STORE_FULL_KEYS);
        assert_int_equal(block[bytes], 0xEE);
    }
    config.keys_max = 0;
    assert_int_equal(cleat_memory_store_bytes(&config, 5), 0);
    config.keys_max = CLEAT_MEMORY_STORE_KEYS_MAX + 1;
    assert_int_equal(cleat_memory_store_bytes(&config, 5), 0);
    config.keys_max = 5;
    assert_int_equal(cleat_memory_store_bytes(&config, UINT64_MAX), 0);
    config.unit_bytes = 257;
    assert_int_equal(cleat_memory_store_bytes(&config, 5), 0);
}

static void no_store_is_made_where_none_can_be(void **state)
{
    struct cleat_memory_store_config config;
    struct cleat_error error;
    struct cleat_store out;

    (void)state;
    memset(&config, 0, sizeof config);
    assert_int_equal(cleat_memory_store_init(block + 8, 65536, &config, end,
                                             sizeof end, &out, &error),
                     CLEAT_INVALID);
    assert_int_equal(error.index, 0);
    assert_int_equal(cleat_memory_store_init(NULL, 65536, &config, end,
                                             sizeof end, &out, &error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_memory_store_init(block, 65536, &config, end + 8,
                                             sizeof end, &out, &error),
                     CLEAT_INVALID);
    assert_int_equal(error.index, 3);
    assert_int_equal(cleat_memory_store_init(block, 65536, &config, end,
                                             sizeof end, NULL, &error),
                     CLEAT_INVALID);
    assert_int_equal(
        cleat_memory_store_init(block, 65536, &config, end, 255, &out, &error),
        CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, CLEAT_MEMORY_STORE_END_BYTES);
    assert_int_equal(cleat_memory_store_init(block, 0, &config, end, sizeof end,
                                             &out, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(cleat_memory_store_init(block, error.offset, NULL, end,
                                             sizeof end, &out, NULL),
                     CLEAT_OK);
    config.keys_max = 1000;
    assert_int_equal(cleat_memory_store_init(block, 100, &config, end,
                                             sizeof end, &out, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(cleat_memory_store_init(block, error.offset - 1, &config,
                                             end, sizeof end, &out, &error),
                     CLEAT_TOO_SMALL);
    assert_null(out.call);
    assert_int_equal(cleat_memory_store_init(block, error.offset, &config, end,
                                             sizeof end, &out, &error),
                     CLEAT_OK);
    config.keys_max = CLEAT_MEMORY_STORE_KEYS_MAX + 1;
    assert_int_equal(cleat_memory_store_init(block, 65536, &config, end,
                                             sizeof end, &out, &error),
                     CLEAT_INVALID);
    assert_int_equal(error.index, 2);
    config.keys_max = 0;
    config.processes_max = CLEAT_MEMORY_STORE_PROCESSES_MAX + 1;
    assert_int_equal(cleat_memory_store_init(block, 65536, &config, end,
                                             sizeof end, &out, &error),
                     CLEAT_INVALID);
    config.processes_max = 0;
    for (uint32_t unit = 1; unit <= 300; unit++) {
        if (unit == 256) { continue; }
        config.unit_bytes = unit;
        assert_int_equal(cleat_memory_store_init(block, 65536, &config, end,
                                                 sizeof end, &out, &error),
                         CLEAT_INVALID);
    }
    config.unit_bytes = 2u << 20;
    assert_int_equal(cleat_memory_store_init(block, BLOCK_BYTES, &config, end,
                                             sizeof end, &out, &error),
                     CLEAT_INVALID);
}

static void a_store_is_ready_and_its_canary_leaves_nothing(void **state)
{
    struct cleat_error error;
    int32_t code;

    (void)state;
    assert_int_equal(store.ready(store.context, 0, &error), CLEAT_OK);
    assert_int_equal(look().keys, 0);
    assert_int_equal(look().units, 0);
    (void)put_many("full", 8, &code);
    assert_int_equal(store.ready(store.context, 0, &error), CLEAT_OK);
}

static void the_defaults_are_those_of_the_header(void **state)
{
    struct cleat_memory_store_view view;

    (void)state;
    make(BLOCK_BYTES, 0, 0);
    view = look();
    assert_int_equal(view.keys_max,
                     BLOCK_BYTES / CLEAT_MEMORY_STORE_BYTES_A_KEY_DEFAULT);
    assert_int_equal(view.unit_bytes, CLEAT_MEMORY_STORE_UNIT_BYTES_DEFAULT);
    assert_int_equal(view.processes, 1);
    assert_int_equal(view.units_run, view.units_max);
    assert_true(view.units_max * view.unit_bytes >
                BLOCK_BYTES - BLOCK_BYTES / 20);
}

static void nothing_is_taken_from_the_heap(void **state)
{
    static unsigned char bytes[100000];
    enum cleat_status status[6];
    struct cleat_store_item item = item_of("key", bytes, sizeof bytes);
    struct cleat_error error;

    (void)state;
    cleat_test_forbid_malloc(true);
    (void)cleat_memory_store_init(block, BLOCK_BYTES, NULL, end, sizeof end,
                                  &store, &error);
    status[0] = store.ready(store.context, 0, &error);
    status[1] = do_item(CLEAT_TRANSFER_DO_PUT, &item);
    status[2] = do_item(CLEAT_TRANSFER_DO_GET, &item);
    status[3] = do_item(CLEAT_TRANSFER_DO_COMPARE, &item);
    status[4] = do_item(CLEAT_TRANSFER_DO_SIZE, &item);
    status[5] = do_item(CLEAT_TRANSFER_DO_REMOVE, &item);
    (void)cleat_memory_store_sweep(&store);
    (void)look();
    cleat_memory_store_detach(&store);
    cleat_test_forbid_malloc(false);
    for (uint32_t i = 0; i < 6; i++) { assert_int_equal(status[i], CLEAT_OK); }
}

/* ---- threads ------------------------------------------------------------- */

#define THREADS 4u
#define KEYS 8u
#define SELF_BYTES_MAX 3000u

struct worker {
    pthread_t thread;
    uint64_t random;
    uint64_t puts, gets, removes, wrong, other;
};

static uint64_t next_random(uint64_t *random)
{
    *random ^= *random << 13; /* Marsaglia's xorshift64 */
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

/* A value that says of every byte what it must be: its length comes from the
 * key, so that a get knows it, its first 8 bytes are the seed of the others. */
static void self_fill(unsigned char *bytes, size_t count, uint64_t seed)
{
    memcpy(bytes, &seed, 8);
    for (size_t i = 8; i < count; i++) {
        bytes[i] = (unsigned char)((seed >> (i % 8)) + i);
    }
}

static bool self_check(const unsigned char *bytes, size_t count, uint64_t key)
{
    unsigned char expected[SELF_BYTES_MAX];
    uint64_t seed;

    memcpy(&seed, bytes, 8);
    self_fill(expected, count, seed);
    return seed % KEYS == key && memcmp(bytes, expected, count) == 0;
}

static void *work(void *context)
{
    struct worker *worker = context;
    unsigned char bytes[SELF_BYTES_MAX];
    char key[16];

    for (uint32_t i = 0; i < 4000; i++) {
        uint64_t random = next_random(&worker->random);
        uint64_t which = random % KEYS;
        size_t count = 16 + which * 400;
        struct cleat_store_item item;
        struct cleat_store_call call = {0, 1, &item, CLEAT_NEVER};

        snprintf(key, sizeof key, "key %u", (unsigned)which);
        item = item_of(key, bytes, count);
        if (which % 2) { item.flags = CLEAT_STORE_RAW; }
        switch ((random >> 32) % 4) {
        case 0:
            self_fill(bytes, count, random - random % KEYS + which);
            call.operation = CLEAT_TRANSFER_DO_PUT;
            (void)store.call(store.context, &call);
            worker->puts += item.status == CLEAT_OK;
            worker->other += item.status != CLEAT_OK &&
                             item.status != CLEAT_EXISTS;
            break;
        case 1:
            call.operation = CLEAT_TRANSFER_DO_REMOVE;
            (void)store.call(store.context, &call);
            worker->removes += item.status == CLEAT_OK;
            worker->other += item.status != CLEAT_OK &&
                             item.status != CLEAT_NOT_FOUND;
            break;
        default:
            call.operation = CLEAT_TRANSFER_DO_GET;
            (void)store.call(store.context, &call);
            worker->gets += item.status == CLEAT_OK;
            worker->wrong += item.status == CLEAT_OK &&
                             !self_check(bytes, count, which);
            worker->other += item.status != CLEAT_OK &&
                             item.status != CLEAT_NOT_FOUND;
            break;
        }
    }
    return NULL;
}

static void threads_that_put_get_and_remove_see_whole_values_only(void **state)
{
    static struct worker workers[THREADS];
    uint64_t puts = 0;
    uint64_t removes = 0;
    uint64_t gets = 0;

    (void)state;
    make(65536, 64, 256);
    memset(workers, 0, sizeof workers);
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i].random = i + 1;
        assert_int_equal(
            pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].wrong, 0);
        assert_int_equal(workers[i].other, 0);
        puts += workers[i].puts;
        removes += workers[i].removes;
        gets += workers[i].gets;
    }
    assert_true(gets > 0 && puts > KEYS);
    assert_int_equal(look().keys, puts - removes);
    assert_int_equal(look().held, 0);
    for (uint32_t i = 0; i < KEYS; i++) {
        char key[16];

        snprintf(key, sizeof key, "key %u", (unsigned)i);
        (void)ask(CLEAT_TRANSFER_DO_REMOVE, key);
    }
    assert_int_equal(look().keys, 0);
    assert_int_equal(look().units, 0);
}

struct race {
    pthread_t thread;
    pthread_barrier_t *barrier;
    uint32_t ok[200];
    uint32_t value;
};

static void *put_at_once(void *context)
{
    struct race *race = context;

    for (uint32_t i = 0; i < 200; i++) {
        char key[16];
        struct cleat_store_item item;
        struct cleat_store_call call = {CLEAT_TRANSFER_DO_PUT, 1, &item,
                                        CLEAT_NEVER};

        snprintf(key, sizeof key, "race %u", (unsigned)i);
        item = item_of(key, &race->value, sizeof race->value);
        pthread_barrier_wait(race->barrier);
        (void)store.call(store.context, &call);
        race->ok[i] = item.status == CLEAT_OK       ? 1
                      : item.status == CLEAT_EXISTS ? 0
                                                    : 99;
    }
    return NULL;
}

static void
of_puts_of_one_key_at_once_one_works_and_its_value_stays(void **state)
{
    static struct race races[3];
    pthread_barrier_t barrier;

    (void)state;
    pthread_barrier_init(&barrier, NULL, 3);
    for (uint32_t i = 0; i < 3; i++) {
        races[i].barrier = &barrier;
        races[i].value = i;
        assert_int_equal(
            pthread_create(&races[i].thread, NULL, put_at_once, &races[i]), 0);
    }
    for (uint32_t i = 0; i < 3; i++) { pthread_join(races[i].thread, NULL); }
    pthread_barrier_destroy(&barrier);
    for (uint32_t i = 0; i < 200; i++) {
        char key[16];
        uint32_t got = 99;

        snprintf(key, sizeof key, "race %u", (unsigned)i);
        assert_int_equal(races[0].ok[i] + races[1].ok[i] + races[2].ok[i], 1);
        assert_int_equal(get(key, &got, sizeof got), CLEAT_OK);
        assert_in_range(got, 0, 2);
        assert_int_equal(races[got].ok[i], 1);
    }
    assert_int_equal(look().held, 0);
    assert_int_equal(look().units, 200);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, setup)
    const struct CMUnitTest tests[] = {
        TEST(a_value_comes_back_as_it_was_put),
        TEST(a_store_larger_than_caches_gives_back_what_was_put),
        TEST(keys_of_every_length_are_kept_whole),
        TEST(empty_missing_and_failed_are_three_things),
        TEST(a_put_of_a_key_that_is_there_keeps_the_old_value),
        TEST(a_get_wants_exactly_its_size),
        TEST(a_tensor_comes_with_its_dtype_shape_and_tag),
        TEST(a_demand_that_is_not_met_is_a_mismatch_and_writes_nothing),
        TEST(a_frame_that_contradicts_itself_is_not_put),
        TEST(what_is_put_raw_is_got_raw),
        TEST(a_framed_value_got_raw_comes_with_its_header),
        TEST(raw_bytes_that_are_a_frame_are_got_as_one),
        TEST(every_flipped_bit_is_found_and_the_buffer_zeroed),
        TEST(what_is_spoilt_on_purpose_is_found),
        TEST(a_comparison_finds_every_difference),
        TEST(a_key_is_there_from_its_put_to_its_remove),
        TEST(a_call_answers_for_each_of_its_items),
        TEST(what_is_no_item_is_refused),
        TEST(a_full_store_says_so_and_holds_nothing_half_made),
        TEST(the_largest_value_fits_an_empty_store_with_any_key),
        TEST(a_block_of_the_bytes_told_takes_all_values),
        TEST(no_store_is_made_where_none_can_be),
        TEST(a_store_is_ready_and_its_canary_leaves_nothing),
        TEST(the_defaults_are_those_of_the_header),
        TEST(nothing_is_taken_from_the_heap),
        TEST(threads_that_put_get_and_remove_see_whole_values_only),
        TEST(of_puts_of_one_key_at_once_one_works_and_its_value_stays),
    };

    return cmocka_run_group_tests_name("memory_store", tests, NULL, NULL);
}
