/* Cleat: any bytes, as JSON. SPDX-License-Identifier: Apache-2.0
 *
 * The first byte of the input chooses the depth limit, the rest is the text.
 * The check must agree with the reference on the verdict and on the place; a
 * valid text must be walkable to its end, every slice of it being valid by
 * itself, every string, number and duplicate key as the reference has it; and
 * a text that is not valid must be walkable too, without a byte read outside
 * it and in as many steps as it has bytes. */
#include "cleat/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_reference.h"

#define CHECK(x)                                                              \
    do {                                                                      \
        if (!(x)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #x); \
            abort();                                                          \
        }                                                                     \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_string(const char *text, const struct cleat_json_value *value)
{
    struct reference_text t = reference_decode(
        (const unsigned char *)text + value->offset, value->bytes);
    unsigned char *expected = malloc(4 * t.count + 1);
    size_t bytes = reference_encode(&t, expected);
    uint32_t options = CLEAT_JSON_ALLOW_NUL | CLEAT_JSON_REPLACE_LONE;
    struct cleat_error error;
    size_t got = 1;
    char *buffer = malloc(bytes + 1);

    CHECK(bytes + 1 <= value->bytes);
    CHECK(cleat_json_string(text, value, options, NULL, 0, &got, &error) ==
          CLEAT_TOO_SMALL);
    CHECK(got == 0 && error.offset == bytes + 1);
    CHECK(cleat_json_string(text, value, options, buffer, bytes, &got,
                            &error) == CLEAT_TOO_SMALL);
    CHECK(cleat_json_string(text, value, options, buffer, bytes + 1, &got,
                            &error) == CLEAT_OK);
    CHECK(got == bytes && memcmp(buffer, expected, bytes) == 0);
    CHECK(buffer[bytes] == '\0');
    CHECK((cleat_json_string(text, value, CLEAT_JSON_ALLOW_NUL, buffer,
                             bytes + 1, &got, NULL) == CLEAT_MALFORMED) ==
          t.has_lone);
    CHECK((cleat_json_string(text, value, CLEAT_JSON_REPLACE_LONE, buffer,
                             bytes + 1, &got, NULL) == CLEAT_MALFORMED) ==
          t.has_nul);
    memcpy(buffer, expected, bytes);
    buffer[bytes] = '\0';
    CHECK(cleat_json_equals(text, value, buffer) ==
          (!t.has_lone && !t.has_nul));
    buffer[bytes / 2] ^= 1;
    CHECK(!cleat_json_equals(text, value, buffer));
    free(t.points);
    free(expected);
    free(buffer);
}

static void check_number(const char *text, const struct cleat_json_value *value)
{
    char *copy = calloc(1, value->bytes + 1);
    uint64_t u = 1;
    int64_t i = 1;
    enum cleat_status status;

    memcpy(copy, text + value->offset, value->bytes);
    status = cleat_json_u64(text, value, &u, NULL);
    if (strspn(copy, "0123456789") != value->bytes) {
        CHECK(status == CLEAT_MALFORMED && u == 0);
    } else {
        errno = 0;
        CHECK((strtoull(copy, NULL, 10) == u && errno == 0)
                  ? status == CLEAT_OK
                  : status == CLEAT_LIMIT && u == 0);
    }
    status = cleat_json_i64(text, value, &i, NULL);
    if (strspn(copy, "-0123456789") != value->bytes) {
        CHECK(status == CLEAT_MALFORMED && i == 0);
    } else {
        errno = 0;
        CHECK((strtoll(copy, NULL, 10) == i && errno == 0)
                  ? status == CLEAT_OK
                  : status == CLEAT_LIMIT && i == 0);
    }
    free(copy);
}

/* Compares every pair of keys. */
static void check_keys(const char *text, const struct cleat_json_value *object)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;
    struct reference_text *keys = malloc((object->bytes + 1) *
                                         sizeof(struct reference_text));
    size_t *places = malloc((object->bytes + 1) * sizeof(size_t));
    size_t count = 0;
    size_t duplicate = SIZE_MAX;
    uint32_t *scratch;
    struct cleat_error error;
    enum cleat_status status;

    cleat_json_open(text, object, &cursor);
    while (cleat_json_next_member(text, &cursor, &key, &value)) {
        CHECK(key.type == CLEAT_JSON_STRING);
        places[count] = key.offset;
        keys[count] = reference_decode((const unsigned char *)text + key.offset,
                                       key.bytes);
        for (size_t i = 0; i < count && duplicate == SIZE_MAX; i++) {
            if (reference_same(&keys[i], &keys[count])) { duplicate = count; }
        }
        count++;
    }
    scratch = malloc((count + 1) * sizeof(uint32_t));
    status = cleat_json_unique_keys(text, object, scratch, count, &error);
    if (duplicate != SIZE_MAX && duplicate + 1 < count) {
        CHECK(status == CLEAT_EXISTS && error.index == duplicate);
    } else {
        CHECK(status == CLEAT_TOO_SMALL && error.offset == count + 1);
    }
    status = cleat_json_unique_keys(text, object, scratch, count + 1, &error);
    if (duplicate == SIZE_MAX) {
        CHECK(status == CLEAT_OK);
    } else {
        CHECK(status == CLEAT_EXISTS);
        CHECK(error.index == duplicate && error.offset == places[duplicate]);
    }
    for (size_t i = 0; i < count; i++) { free(keys[i].points); }
    free(keys);
    free(places);
    free(scratch);
}

/* A slice is inside its parent and is, alone, a valid text of its type. */
static void check_slice(const char *text, const struct cleat_json_value *value,
                        size_t begin, size_t end)
{
    struct cleat_json_value again;

    CHECK(value->bytes >= 1 && value->offset >= begin);
    CHECK(value->offset + value->bytes <= end);
    CHECK(cleat_json_check(text + value->offset, value->bytes, NULL, &again,
                           NULL) == CLEAT_OK);
    CHECK(again.offset == 0 && again.bytes == value->bytes);
    CHECK(again.type == value->type);
    if (value->type == CLEAT_JSON_STRING) { check_string(text, value); }
    if (value->type == CLEAT_JSON_NUMBER) { check_number(text, value); }
    if (value->type == CLEAT_JSON_OBJECT) { check_keys(text, value); }
}

/* Walks the whole tree; returns how many values it has. */
static size_t walk(const char *text, const struct cleat_json_value *root)
{
    struct cleat_json_value open[CLEAT_JSON_DEPTH_MAX + 1];
    struct cleat_json_cursor cursors[CLEAT_JSON_DEPTH_MAX + 1];
    size_t depth = 0;
    size_t values = 1;
    size_t after = root->offset;

    check_slice(text, root, root->offset, root->offset + root->bytes);
    open[0] = *root;
    cleat_json_open(text, root, &cursors[0]);
    for (;;) {
        const struct cleat_json_value *in = &open[depth];
        struct cleat_json_value key = {0, 0, CLEAT_JSON_NULL};
        struct cleat_json_value value = {0, 0, CLEAT_JSON_NULL};
        bool more = in->type == CLEAT_JSON_OBJECT
                        ? cleat_json_next_member(text, &cursors[depth], &key,
                                                 &value)
                        : cleat_json_next_item(text, &cursors[depth], &value);

        if (!more) {
            if (depth == 0) { return values; }
            depth--;
            continue;
        }
        if (in->type == CLEAT_JSON_OBJECT) {
            check_slice(text, &key, after, in->offset + in->bytes);
            CHECK(value.offset >= key.offset + key.bytes);
        }
        check_slice(text, &value, after, in->offset + in->bytes);
        after = value.offset;
        values++;
        if (value.type >= CLEAT_JSON_ARRAY) {
            depth++;
            CHECK(depth <= CLEAT_JSON_DEPTH_MAX);
            open[depth] = value;
            cleat_json_open(text, &value, &cursors[depth]);
        }
    }
}

/* Every call over a text that nobody checked, as if it were of that type. */
static void walk_unchecked(const char *text, size_t bytes,
                           enum cleat_json_type type)
{
    struct cleat_json_value root = {0, bytes, type};
    struct cleat_json_value value;
    struct cleat_json_value key;
    struct cleat_json_cursor cursor;
    uint32_t scratch[16];
    char buffer[16];
    size_t got;
    uint64_t u;
    int64_t i;
    size_t steps = 0;

    cleat_json_open(text, &root, &cursor);
    while (cleat_json_next_item(text, &cursor, &value)) {
        CHECK(value.bytes >= 1 && value.offset + value.bytes <= bytes);
        cleat_json_u64(text, &value, &u, NULL);
        cleat_json_i64(text, &value, &i, NULL);
        cleat_json_string(text, &value, 0, buffer, sizeof buffer, &got, NULL);
        CHECK(++steps <= bytes);
    }
    cleat_json_open(text, &root, &cursor);
    while (cleat_json_next_member(text, &cursor, &key, &value)) {
        cleat_json_equals(text, &key, "name");
    }
    cleat_json_find(text, &root, "name", &value);
    cleat_json_unique_keys(text, &root, scratch, 16, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cleat_json_limits limits = {0, 0};
    struct cleat_json_value root = {7, 7, CLEAT_JSON_NULL};
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, {0}};
    struct reference r;
    enum cleat_status status;
    bool valid;
    char *text;

    if (size == 0) { return 0; }
    limits.depth_max = data[0] % 2 == 0 ? 0 : 1 + data[0] % 64u;
    size--;
    text = malloc(size); /* exactly: what lies behind it is not ours */
    if (size > 0) { memcpy(text, data + 1, size); }
    valid = reference_check(&r, text, size,
                            limits.depth_max == 0 ? CLEAT_JSON_DEPTH_MAX
                                                  : limits.depth_max);
    status = cleat_json_check(text, size, &limits, &root, &error);
    if (valid) {
        CHECK(status == CLEAT_OK);
        CHECK(walk(text, &root) == r.values);
    } else {
        CHECK(status == (r.too_deep ? CLEAT_LIMIT : CLEAT_MALFORMED));
        CHECK(error.status == status && error.offset == r.at);
        CHECK(root.offset == 7 && root.bytes == 7);
    }
    if (size > 1) {
        walk_unchecked(text, size, CLEAT_JSON_ARRAY);
        walk_unchecked(text, size, CLEAT_JSON_OBJECT);
        limits.bytes_max = size - 1;
        CHECK(cleat_json_check(text, size, &limits, &root, &error) ==
              CLEAT_LIMIT);
        CHECK(error.offset == size - 1);
    }
    free(text);
    return 0;
}
