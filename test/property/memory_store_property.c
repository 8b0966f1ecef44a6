/* Cleat: the store in memory against a map. SPDX-License-Identifier: Apache-2.0
 *
 *     memory_store_property [histories [seed]]
 *
 * Random operations on stores of many shapes, each compared with what a plain
 * table of keys and bytes says; and, since nobody else is there, exactly so: a
 * put finds no place just when no free run of units is long enough, or every
 * entry is taken; as many units are taken as the values need, never more; no
 * value is changed by another's coming and going. */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleat/memory_store.h"

#define BLOCK_BYTES ((size_t)256 * 1024)
#define KEYS 64u
#define VALUE_BYTES_MAX 40000u

#define CHECK(x)                                                            \
    do {                                                                    \
        if (!(x)) {                                                         \
            fprintf(stderr, "%s:%d: %s: history %lu, seed %lu\n", __FILE__, \
                    __LINE__, #x, history, (unsigned long)seed);            \
            exit(1);                                                        \
        }                                                                   \
    } while (0)

static unsigned long history;
static uint64_t seed = 1;
static uint64_t random_state;

static uint32_t draw(uint32_t below)
{
    random_state ^= random_state << 13; /* Marsaglia's xorshift64 */
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) * below >> 32);
}

/* ---- the model: a table ----------------------------------------------------
 */

struct row {
    char key[CLEAT_STORE_KEY_MAX + 1];
    bool there;
    bool raw;
    uint32_t bytes;
    uint32_t dtype; /* and shape: one dimension */
    uint32_t what;  /* its bytes */
};
static struct row rows[KEYS];
static struct cleat_memory_store_config config;

static void fill(const struct row *row, unsigned char *bytes)
{
    for (uint32_t i = 0; i < row->bytes; i++) {
        bytes[i] = (unsigned char)(row->what * 2654435761u >> (i % 23)) ^
                   (unsigned char)i;
    }
}

/* By the words of the header file. */
static uint32_t units_of(const struct row *row)
{
    size_t key = (strlen(row->key) + 63) / 64 * 64;
    size_t all = key + (row->raw ? 0 : 128) + row->bytes;

    return (uint32_t)((all + config.unit_bytes - 1) / config.unit_bytes);
}

static void check_counts(const struct cleat_store *store)
{
    struct cleat_memory_store_view view;
    uint32_t keys = 0;
    uint32_t units = 0;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < KEYS; i++) {
        if (!rows[i].there) { continue; }
        keys++;
        units += units_of(&rows[i]);
        bytes += rows[i].bytes;
    }
    cleat_memory_store_look(store, &view);
    CHECK(view.keys == keys);
    CHECK(view.units == units);
    CHECK(view.value_bytes == bytes);
    CHECK(view.held == 0);
    CHECK(view.unreadable == 0);
}

/* ---- operations -----------------------------------------------------------
 */

static unsigned char payload[VALUE_BYTES_MAX];
static unsigned char expected[VALUE_BYTES_MAX];
static unsigned long done[8];

static enum cleat_status act(const struct cleat_store *store,
                             uint32_t operation, struct row *row,
                             struct cleat_store_item *item)
{
    struct cleat_store_call call = {operation, 1, item, CLEAT_NEVER};

    memset(item, 0, sizeof *item);
    item->key = row->key;
    item->key_bytes = (uint32_t)strlen(row->key);
    item->payload = payload;
    item->bytes = row->bytes;
    item->flags = row->raw ? CLEAT_STORE_RAW : 0;
    if (row->dtype != 0) {
        item->frame.dtype = CLEAT_DTYPE_U8;
        item->frame.rank = 1;
        item->frame.shape[0] = row->bytes;
    }
    CHECK(store->call(store->context, &call) == CLEAT_OK);
    return (enum cleat_status)item->status;
}

static void put(const struct cleat_store *store, struct row *row)
{
    struct cleat_memory_store_view view;
    struct cleat_store_item item;
    struct row new = *row;
    enum cleat_status status;
    uint32_t keys = 0;

    new.raw = draw(3) == 0;
    new.bytes = draw(4) == 0 ? draw(VALUE_BYTES_MAX) : draw(1500);
    if (draw(8) == 0) { new.bytes = 0; }
    new.dtype = new.raw ? 0 : draw(2);
    new.what = draw(UINT32_MAX);
    new.there = true;
    fill(&new, payload);
    for (uint32_t i = 0; i < KEYS; i++) { keys += rows[i].there; }
    cleat_memory_store_look(store, &view);
    status = act(store, CLEAT_TRANSFER_DO_PUT, &new, &item);
    if (row->there) {
        CHECK(status == CLEAT_EXISTS);
        done[0]++;
    } else if (keys == config.keys_max) {
        CHECK(status == CLEAT_CAPACITY);
        CHECK(item.code == CLEAT_MEMORY_STORE_FULL_KEYS);
        done[1]++;
    } else if (view.units_run < units_of(&new)) {
        CHECK(status == CLEAT_CAPACITY);
        CHECK(item.code == CLEAT_MEMORY_STORE_FULL_BYTES);
        done[2]++;
    } else {
        CHECK(status == CLEAT_OK);
        *row = new;
        done[3]++;
    }
}

static void get(const struct cleat_store *store, struct row *row)
{
    struct cleat_store_item item;
    enum cleat_status status = act(store, CLEAT_TRANSFER_DO_GET, row, &item);

    if (!row->there) {
        CHECK(status == CLEAT_NOT_FOUND);
        return;
    }
    CHECK(status == CLEAT_OK);
    CHECK(item.actual == row->bytes);
    fill(row, expected);
    CHECK(memcmp(payload, expected, row->bytes) == 0);
    CHECK(act(store, CLEAT_TRANSFER_DO_COMPARE, row, &item) == CLEAT_OK);
    CHECK(act(store, CLEAT_TRANSFER_DO_SIZE, row, &item) == CLEAT_OK);
    CHECK(item.actual == row->bytes);
    done[4]++;
}

static void take_away(const struct cleat_store *store, struct row *row)
{
    struct cleat_store_item item;

    CHECK(act(store, CLEAT_TRANSFER_DO_REMOVE, row, &item) ==
          (row->there ? CLEAT_OK : CLEAT_NOT_FOUND));
    done[5] += row->there;
    row->there = false;
}

/* ---- a history ------------------------------------------------------------
 */

static void make_rows(void)
{
    memset(rows, 0, sizeof rows);
    for (uint32_t i = 0; i < KEYS; i++) {
        uint32_t length = draw(4) ? 8 + draw(60)
                                  : 8 + draw(CLEAT_STORE_KEY_MAX - 7);

        memset(rows[i].key, 'k', length);
        /* No two are the same; some begin alike, some end alike. */
        snprintf(rows[i].key + (draw(2) ? 0 : length - 8), 9, "%08x", i);
        rows[i].key[length] = '\0';
        for (uint32_t k = 0; k < length; k++) {
            if (rows[i].key[k] == '\0') { rows[i].key[k] = 'k'; }
        }
    }
}

static void run_history(void)
{
    static _Alignas(64) unsigned char block[BLOCK_BYTES];
    static _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
    struct cleat_store store;
    uint32_t operations = 200 + draw(800);

    memset(&config, 0, sizeof config);
    config.keys_max = draw(2) ? 1 + draw(KEYS) : KEYS + draw(100);
    config.unit_bytes = 256u << draw(5);
    CHECK(cleat_memory_store_init(block, BLOCK_BYTES / (1 + draw(2)), &config,
                                  end, sizeof end, &store, NULL) == CLEAT_OK);
    make_rows();
    for (uint32_t i = 0; i < operations; i++) {
        struct row *row = &rows[draw(KEYS)];

        switch (draw(8)) {
        case 0:
        case 1:
        case 2: put(&store, row); break;
        case 3:
        case 4: take_away(&store, row); break;
        default: get(&store, row); break;
        }
        if (i % 16 == 0) { check_counts(&store); }
    }
    for (uint32_t i = 0; i < KEYS; i++) { get(&store, &rows[i]); }
    for (uint32_t i = 0; i < KEYS; i++) { take_away(&store, &rows[i]); }
    check_counts(&store);
    cleat_memory_store_detach(&store);
}

int main(int argc, char **argv)
{
    unsigned long histories = argc > 1 ? strtoul(argv[1], NULL, 10) : 1500;

    if (argc > 2) { seed = strtoull(argv[2], NULL, 10); }
    for (history = 0; history < histories; history++) {
        random_state = (seed + history) * UINT64_C(0x9E3779B97F4A7C15) + 1;
        run_history();
    }
    printf("%lu histories: %lu puts, %lu existed, %lu times no entry, %lu "
           "times no units, %lu gets, %lu removes\n",
           histories, done[3], done[0], done[1], done[2], done[4], done[5]);
    for (uint32_t i = 0; i < 6; i++) { CHECK(done[i] > histories); }
    return 0;
}
