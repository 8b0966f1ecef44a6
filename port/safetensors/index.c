/* Cleat: which shard holds which tensor. SPDX-License-Identifier: Apache-2.0
 *
 *     {"metadata": …, "weight_map": {"<tensor>": "<file name>", …}}
 */
#include <inttypes.h>
#include <string.h>

#include "read.h"

/* The longest name of a file that Linux has (NAME_MAX). */
#define FILE_NAME_MAX 255u

static enum cleat_status fail_at(const struct cleat_safetensors_index *index,
                                 enum cleat_status status, size_t offset,
                                 struct cleat_error *error, const char *what)
{
    return cleat_safetensors_fail(error, status, 0, offset, "%s: byte %zu: %s",
                                  index->label.text, offset, what);
}

/* Finds the weight_map, which comes once. */
static enum cleat_status find_map(struct cleat_safetensors_index *index,
                                  const struct cleat_json_value *root,
                                  struct cleat_error *error)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;
    bool found = false;

    cleat_json_open(index->text, root, &cursor);
    while (cleat_json_next_member(index->text, &cursor, &key, &value)) {
        if (!cleat_json_equals(index->text, &key, "weight_map")) { continue; }
        if (found) {
            return fail_at(index, CLEAT_EXISTS, key.offset, error,
                           "weight_map comes twice");
        }
        found = true;
        index->map = value;
    }
    if (!found || index->map.type != CLEAT_JSON_OBJECT) {
        return fail_at(index, CLEAT_MALFORMED,
                       found ? index->map.offset : root->offset, error,
                       "expected an object with an object 'weight_map'");
    }
    return CLEAT_OK;
}

static bool same_slice(const char *text, const struct cleat_json_value *a,
                       const struct cleat_json_value *b)
{
    return a->bytes == b->bytes &&
           memcmp(text + a->offset, text + b->offset, a->bytes) == 0;
}

static enum cleat_status count_entries(struct cleat_safetensors_index *index,
                                       struct cleat_error *error)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;
    struct cleat_json_value last = {0, 0, CLEAT_JSON_NULL};

    index->entries_count = 0;
    index->shards_max = 0;
    index->name_max = 0;
    index->escaped_bytes = 0;
    cleat_json_open(index->text, &index->map, &cursor);
    while (cleat_json_next_member(index->text, &cursor, &key, &value)) {
        if (value.type != CLEAT_JSON_STRING) {
            return fail_at(index, CLEAT_MALFORMED, value.offset, error,
                           "weight_map: expected the name of a file");
        }
        index->entries_count++;
        if (key.bytes > index->name_max) { index->name_max = key.bytes; }
        index->escaped_bytes +=
            cleat_safetensors_keep_bytes(index->text, &key) +
            cleat_safetensors_keep_bytes(index->text, &value);
        /* Neighbours are mostly in one shard. Counting the changes bounds the
         * number of shards without remembering their names. */
        if (!same_slice(index->text, &value, &last)) { index->shards_max++; }
        last = value;
    }
    return CLEAT_OK;
}

enum cleat_status
cleat_safetensors_index_open(const struct cleat_safetensors_mapping *mapping,
                             struct cleat_safetensors_index *index,
                             struct cleat_error *error)
{
    struct cleat_json_value root;
    struct cleat_error inner;
    enum cleat_status status;

    memset(index, 0, sizeof *index);
    index->label = mapping->label;
    index->text = (const char *)mapping->file;
    if (mapping->file_bytes > CLEAT_SAFETENSORS_HEADER_MAX) {
        return fail_at(index, CLEAT_LIMIT, mapping->file_bytes, error,
                       "an index has at most 100000000 bytes");
    }
    status = cleat_json_check(index->text, mapping->file_bytes, NULL, &root,
                              &inner);
    if (status != CLEAT_OK) {
        return fail_at(index, status, (size_t)inner.offset, error, inner.text);
    }
    status = find_map(index, &root, error);
    if (status != CLEAT_OK) { return status; }
    return count_entries(index, error);
}

/* ---- reading --------------------------------------------------------------
 */
static enum cleat_status read_entries(struct cleat_safetensors_index *index,
                                      char *room, struct cleat_error *error)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;
    struct cleat_safetensors_entry *entry = index->entries;
    size_t room_bytes = index->escaped_bytes;

    cleat_json_open(index->text, &index->map, &cursor);
    for (; cleat_json_next_member(index->text, &cursor, &key, &value);
         entry++) {
        if (cleat_safetensors_keep(index->text, &key, &room, &room_bytes,
                                   &entry->name,
                                   &entry->name_bytes) != CLEAT_OK) {
            return fail_at(index, CLEAT_MALFORMED, key.offset, error,
                           "weight_map: this cannot be a tensor's name");
        }
        if (cleat_safetensors_keep(index->text, &value, &room, &room_bytes,
                                   &entry->file,
                                   &entry->file_bytes) != CLEAT_OK) {
            return fail_at(index, CLEAT_MALFORMED, value.offset, error,
                           "weight_map: this cannot be the name of a file");
        }
    }
    return CLEAT_OK;
}

static bool name_is_less(const void *context, uint32_t a, uint32_t b)
{
    const struct cleat_safetensors_entry *entries = context;
    int order = cleat_safetensors_compare(
        entries[a].name, entries[a].name_bytes, entries[b].name,
        entries[b].name_bytes);

    return order != 0 ? order < 0 : a < b;
}

static bool file_is_less(const void *context, uint32_t a, uint32_t b)
{
    const struct cleat_safetensors_entry *entries = context;
    int order = cleat_safetensors_compare(
        entries[a].file, entries[a].file_bytes, entries[b].file,
        entries[b].file_bytes);

    return order != 0 ? order < 0 : a < b;
}

static enum cleat_status
check_names_differ(const struct cleat_safetensors_index *index,
                   struct cleat_error *error)
{
    for (uint32_t i = 1; i < index->entries_count; i++) {
        const struct cleat_safetensors_entry *last =
            &index->entries[index->sorted[i - 1]];
        const struct cleat_safetensors_entry *next =
            &index->entries[index->sorted[i]];

        if (cleat_safetensors_compare(last->name, last->name_bytes, next->name,
                                      next->name_bytes) == 0) {
            return cleat_safetensors_fail(
                error, CLEAT_EXISTS, index->sorted[i], 0,
                "%s: tensor '%s': comes twice in the weight_map",
                index->label.text,
                cleat_safetensors_name(next->name, next->name_bytes).text);
        }
    }
    return CLEAT_OK;
}

/* A file name and no path: nothing outside the folder can be meant by it. */
static enum cleat_status check_file(const struct cleat_safetensors_index *index,
                                    const struct cleat_safetensors_entry *entry,
                                    struct cleat_error *error)
{
    bool dots = (entry->file_bytes == 1 && entry->file[0] == '.') ||
                (entry->file_bytes == 2 && memcmp(entry->file, "..", 2) == 0);

    if (!dots && memchr(entry->file, '/', entry->file_bytes) == NULL &&
        memchr(entry->file, '\0', entry->file_bytes) == NULL &&
        entry->file_bytes <= FILE_NAME_MAX) {
        return CLEAT_OK;
    }
    return cleat_safetensors_fail(
        error, CLEAT_MALFORMED, (uint64_t)(entry - index->entries), 0,
        "%s: weight_map: '%s': expected the name of a file in the same folder",
        index->label.text,
        cleat_safetensors_name(entry->file, entry->file_bytes).text);
}

/* Numbers the shards in the order of their names. */
static enum cleat_status
number_shards(const struct cleat_safetensors_index *index,
              const uint32_t *by_file, struct cleat_safetensors_shard *shards,
              uint32_t *shards_count, struct cleat_error *error)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < index->entries_count; i++) {
        struct cleat_safetensors_entry *entry = &index->entries[by_file[i]];
        enum cleat_status status;

        if (count == 0 ||
            cleat_safetensors_compare(shards[count - 1].name,
                                      shards[count - 1].name_bytes, entry->file,
                                      entry->file_bytes) != 0) {
            status = check_file(index, entry, error);
            if (status != CLEAT_OK) { return status; }
            shards[count].name = entry->file;
            shards[count].name_bytes = entry->file_bytes;
            shards[count].tensors_count = 0;
            count++;
        }
        entry->shard = count - 1;
        shards[count - 1].tensors_count++;
    }
    *shards_count = count;
    return CLEAT_OK;
}

enum cleat_status
cleat_safetensors_index_read(struct cleat_safetensors_index *index,
                             uint32_t *scratch, char *room,
                             struct cleat_safetensors_shard *shards,
                             uint32_t *shards_count, struct cleat_error *error)
{
    enum cleat_status status = read_entries(index, room, error);

    if (status != CLEAT_OK) { return status; }
    for (uint32_t i = 0; i < index->entries_count; i++) {
        index->sorted[i] = i;
        scratch[i] = i;
    }
    cleat_safetensors_sort(index->sorted, index->entries_count, name_is_less,
                           index->entries);
    status = check_names_differ(index, error);
    if (status != CLEAT_OK) { return status; }
    cleat_safetensors_sort(scratch, index->entries_count, file_is_less,
                           index->entries);
    return number_shards(index, scratch, shards, shards_count, error);
}

struct cleat_safetensors_entry *
cleat_safetensors_index_find(const struct cleat_safetensors_index *index,
                             const char *name, size_t name_bytes)
{
    uint32_t low = 0;
    uint32_t high = index->entries_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct cleat_safetensors_entry *entry =
            &index->entries[index->sorted[middle]];
        int order = cleat_safetensors_compare(name, name_bytes, entry->name,
                                              entry->name_bytes);

        if (order == 0) { return entry; }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}
