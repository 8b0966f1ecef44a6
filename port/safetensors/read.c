/* Cleat: reading checkpoints. SPDX-License-Identifier: Apache-2.0 */
#define CLEAT_DIGEST_DETECT
#include "read.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* ---- the caller's block ---------------------------------------------------
 */
/* What is carved beside the table itself. */
struct parts {
    struct cleat_safetensors_entry *entries; /* with an index */
    uint32_t *sorted;
    char *kept; /* names that have escapes */
    size_t kept_bytes;
    char *name; /* one name, to look it up in the index */
    size_t name_bytes;
};

/* Carves `count` things of `bytes` each, at least one. What does not fit is
 * counted even so. */
static void *carve(struct cleat_arena *arena, size_t count, size_t bytes,
                   enum cleat_status *status, struct cleat_error *error)
{
    void *out;
    enum cleat_status now = cleat_arena_carve(
        arena, (count == 0 ? 1 : count) * bytes, &out, error);

    if (now != CLEAT_OK) { *status = now; }
    return out;
}

static enum cleat_status carve_table(struct cleat_arena *arena,
                                     struct cleat_safetensors *file,
                                     uint32_t tensors, uint32_t shards,
                                     struct cleat_error *error)
{
    enum cleat_status status = CLEAT_OK;

    file->rows = carve(arena, tensors, sizeof *file->rows, &status, error);
    file->order = carve(arena, tensors, sizeof *file->order, &status, error);
    file->shards = carve(arena, shards, sizeof *file->shards, &status, error);
    return status;
}

static enum cleat_status
carve_header(struct cleat_arena *arena, struct cleat_safetensors *file,
             const struct cleat_safetensors_header *header, struct parts *parts,
             struct cleat_error *error)
{
    enum cleat_status status = carve_table(arena, file, header->tensors_count,
                                           1, error);

    parts->kept_bytes = header->escaped_bytes;
    parts->kept = carve(arena, parts->kept_bytes, 1, &status, error);
    return status;
}

static enum cleat_status
carve_index(struct cleat_arena *arena, struct cleat_safetensors *file,
            const struct cleat_safetensors_index *index, struct parts *parts,
            struct cleat_error *error)
{
    enum cleat_status status = carve_table(arena, file, index->entries_count,
                                           index->shards_max, error);

    parts->entries = carve(arena, index->entries_count, sizeof *parts->entries,
                           &status, error);
    parts->sorted = carve(arena, index->entries_count, sizeof *parts->sorted,
                          &status, error);
    parts->kept_bytes = index->escaped_bytes;
    parts->kept = carve(arena, parts->kept_bytes, 1, &status, error);
    parts->name_bytes = index->name_max;
    parts->name = carve(arena, parts->name_bytes, 1, &status, error);
    return status;
}

static enum cleat_status too_small(const struct cleat_safetensors_text *label,
                                   const struct cleat_arena *arena,
                                   struct cleat_error *error)
{
    size_t bytes = cleat_arena_bytes_wanted(arena);

    return cleat_safetensors_fail(
        error, CLEAT_TOO_SMALL, 0, bytes,
        "%s: the block is too small; %zu bytes are needed", label->text, bytes);
}

/* An arena over nothing, to count what would be carved. */
static void begin_counting(struct cleat_arena *arena)
{
    (void)cleat_arena_init(arena, arena, 0, NULL);
}

static void begin_carving(struct cleat_arena *arena, void *block, size_t bytes)
{
    if (block == NULL || bytes == 0) {
        begin_counting(arena);
    } else {
        (void)cleat_arena_init(arena, block, bytes, NULL);
    }
}

/* ---- the table's order ----------------------------------------------------
 */
static bool row_is_less(const void *context, uint32_t a, uint32_t b)
{
    const struct cleat_safetensors_row *rows = context;

    if (rows[a].begin != rows[b].begin) {
        return rows[a].begin < rows[b].begin;
    }
    if (rows[a].end != rows[b].end) { return rows[a].end < rows[b].end; }
    return a < b;
}

/* Tensor after tensor, from the data's first byte to the last. */
static enum cleat_status
check_cover(const struct cleat_safetensors *file,
            const struct cleat_safetensors_header *header, uint32_t first,
            struct cleat_error *error)
{
    uint64_t expected = 0;

    for (uint32_t i = 0; i < header->tensors_count; i++) {
        uint32_t number = file->order[first + i];
        const struct cleat_safetensors_row *row = &file->rows[number];

        if (row->begin != expected) {
            return cleat_safetensors_fail(
                error, CLEAT_MALFORMED, number - first,
                header->data_start + row->begin,
                "%s: tensor '%s': %s: it starts at data byte %" PRIu64
                "; expected %" PRIu64,
                header->label.text,
                cleat_safetensors_name(row->name, row->name_bytes).text,
                row->begin < expected ? "overlap" : "hole", row->begin,
                expected);
        }
        expected = row->end;
    }
    if (expected != header->data_bytes) {
        return cleat_safetensors_fail(
            error, CLEAT_MALFORMED, 0, header->data_start + expected,
            "%s: byte %" PRIu64 ": %" PRIu64
            " bytes that belong to no tensor; expected the end of the file",
            header->label.text, header->data_start + expected,
            header->data_bytes - expected);
    }
    return CLEAT_OK;
}

static enum cleat_status arrange(struct cleat_safetensors *file,
                                 const struct cleat_safetensors_header *header,
                                 uint32_t first, struct cleat_error *error)
{
    for (uint32_t i = 0; i < header->tensors_count; i++) {
        file->order[first + i] = first + i;
    }
    cleat_safetensors_sort(file->order + first, header->tensors_count,
                           row_is_less, file->rows);
    return check_cover(file, header, first, error);
}

/* ---- a single file --------------------------------------------------------
 */
static bool name_is_less(const void *context, uint32_t a, uint32_t b)
{
    const struct cleat_safetensors_row *rows = context;
    int order = cleat_safetensors_compare(rows[a].name, rows[a].name_bytes,
                                          rows[b].name, rows[b].name_bytes);

    return order != 0 ? order < 0 : a < b;
}

/* file->order is free until the rows are arranged. */
static enum cleat_status
check_names_differ(struct cleat_safetensors *file,
                   const struct cleat_safetensors_header *header,
                   struct cleat_error *error)
{
    uint32_t *by_name = file->order;

    for (uint32_t i = 0; i < file->tensors_count; i++) { by_name[i] = i; }
    cleat_safetensors_sort(by_name, file->tensors_count, name_is_less,
                           file->rows);
    for (uint32_t i = 1; i < file->tensors_count; i++) {
        const struct cleat_safetensors_row *last = &file->rows[by_name[i - 1]];
        const struct cleat_safetensors_row *next = &file->rows[by_name[i]];

        if (cleat_safetensors_compare(last->name, last->name_bytes, next->name,
                                      next->name_bytes) == 0) {
            return cleat_safetensors_fail(
                error, CLEAT_EXISTS, by_name[i], 0,
                "%s: tensor '%s': this name comes twice", header->label.text,
                cleat_safetensors_name(next->name, next->name_bytes).text);
        }
    }
    return CLEAT_OK;
}

static enum cleat_status
read_rows(struct cleat_safetensors *file,
          const struct cleat_safetensors_header *header, struct parts *parts,
          struct cleat_error *error)
{
    struct cleat_safetensors_walk walk;

    cleat_safetensors_header_begin(header, &walk);
    for (file->tensors_count = 0;; file->tensors_count++) {
        struct cleat_safetensors_row row;
        struct cleat_json_value key;
        uint32_t number = walk.number;
        enum cleat_status status = cleat_safetensors_header_next(
            header, &walk, &key, &row, error);

        if (status == CLEAT_PENDING) { return CLEAT_OK; }
        if (status != CLEAT_OK) { return status; }
        if (cleat_safetensors_keep(header->text, &key, &parts->kept,
                                   &parts->kept_bytes, &row.name,
                                   &row.name_bytes) != CLEAT_OK) {
            return cleat_safetensors_header_refuse(
                header, &key, CLEAT_MALFORMED, number, error,
                "this cannot be a tensor's name");
        }
        file->rows[file->tensors_count] = row;
    }
}

static enum cleat_status
read_single(struct cleat_safetensors *file,
            const struct cleat_safetensors_mapping *mapping, bool mapped,
            struct cleat_arena *arena, struct cleat_error *error)
{
    struct cleat_safetensors_header header;
    struct parts parts;
    enum cleat_status status = cleat_safetensors_header_open(mapping, &header,
                                                             error);

    if (status != CLEAT_OK) { return status; }
    if (carve_header(arena, file, &header, &parts, NULL) != CLEAT_OK) {
        return too_small(&header.label, arena, error);
    }
    status = read_rows(file, &header, &parts, error);
    if (status != CLEAT_OK) { return status; }
    status = check_names_differ(file, &header, error);
    if (status != CLEAT_OK) { return status; }
    status = arrange(file, &header, 0, error);
    if (status != CLEAT_OK) { return status; }
    file->shards[0].file = mapping->file;
    file->shards[0].file_bytes = mapping->file_bytes;
    file->shards[0].data_start = header.data_start;
    file->shards[0].tensors_count = file->tensors_count;
    file->shards[0].mapped = mapped;
    file->shards_count = 1;
    return CLEAT_OK;
}

/* ---- shards ---------------------------------------------------------------
 */
/* A shard that is being read. */
struct shard_reading {
    struct cleat_safetensors *file;
    struct cleat_safetensors_header header;
    const struct cleat_safetensors_index *index;
    const struct parts *parts;
    uint32_t shard;
    struct cleat_error *error;
};

/* The index's entry for a tensor of this shard's header; it gives the name,
 * too. */
static enum cleat_status claim_entry(const struct shard_reading *reading,
                                     const struct cleat_json_value *key,
                                     uint32_t number,
                                     struct cleat_safetensors_row *row)
{
    const struct cleat_safetensors_header *header = &reading->header;
    struct cleat_safetensors_entry *entry = NULL;
    char *room = reading->parts->name;
    size_t room_bytes = reading->parts->name_bytes;
    const char *name;
    uint32_t name_bytes;

    /* A name that does not fit there is longer than all in the index. */
    if (cleat_safetensors_keep(header->text, key, &room, &room_bytes, &name,
                               &name_bytes) == CLEAT_OK) {
        entry = cleat_safetensors_index_find(reading->index, name, name_bytes);
    }
    if (entry == NULL) {
        return cleat_safetensors_header_refuse(header, key, CLEAT_MALFORMED,
                                               number, reading->error,
                                               "it is not in the index");
    }
    if (entry->shard != reading->shard) {
        return cleat_safetensors_header_refuse(
            header, key, CLEAT_MALFORMED, number, reading->error,
            "the index puts it in '%s'",
            cleat_safetensors_name(entry->file, entry->file_bytes).text);
    }
    if (entry->row != 0) {
        return cleat_safetensors_header_refuse(header, key, CLEAT_EXISTS,
                                               number, reading->error,
                                               "this name comes twice");
    }
    entry->row = reading->file->tensors_count + 1;
    row->name = entry->name;
    row->name_bytes = entry->name_bytes;
    row->shard = reading->shard;
    return CLEAT_OK;
}

/* Every row has claimed an entry of its own: are there as many as the index
 * has for this shard? */
static enum cleat_status check_all_claimed(const struct shard_reading *reading,
                                           uint32_t rows_count)
{
    if (rows_count == reading->file->shards[reading->shard].tensors_count) {
        return CLEAT_OK;
    }
    for (uint32_t i = 0; i < reading->index->entries_count; i++) {
        const struct cleat_safetensors_entry *entry =
            &reading->index->entries[i];

        if (entry->shard != reading->shard || entry->row != 0) { continue; }
        return cleat_safetensors_fail(
            reading->error, CLEAT_MALFORMED, i, 0,
            "%s: tensor '%s': the index puts it here; it is not in this file",
            reading->header.label.text,
            cleat_safetensors_name(entry->name, entry->name_bytes).text);
    }
    return CLEAT_OK;
}

static enum cleat_status read_shard_rows(struct shard_reading *reading)
{
    struct cleat_safetensors *file = reading->file;
    struct cleat_safetensors_walk walk;
    uint32_t first = file->tensors_count;
    enum cleat_status status;

    cleat_safetensors_header_begin(&reading->header, &walk);
    for (;; file->tensors_count++) {
        struct cleat_safetensors_row row;
        struct cleat_json_value key;
        uint32_t number = walk.number;

        status = cleat_safetensors_header_next(&reading->header, &walk, &key,
                                               &row, reading->error);
        if (status == CLEAT_PENDING) { break; }
        if (status != CLEAT_OK) { return status; }
        /* Each row claims another entry, so that there are never more rows
         * than entries. */
        status = claim_entry(reading, &key, number, &row);
        if (status != CLEAT_OK) { return status; }
        file->rows[file->tensors_count] = row;
    }
    status = check_all_claimed(reading, file->tensors_count - first);
    if (status != CLEAT_OK) { return status; }
    return arrange(file, &reading->header, first, reading->error);
}

static enum cleat_status read_shard(struct shard_reading *reading, int folder)
{
    struct cleat_safetensors_shard *shard =
        &reading->file->shards[reading->shard];
    struct cleat_safetensors_mapping mapping;
    char name[256]; /* NAME_MAX, which the index was checked for, and a NUL */
    enum cleat_status status;

    memcpy(name, shard->name, shard->name_bytes);
    name[shard->name_bytes] = '\0';
    status = cleat_safetensors_map_shard(folder, name, &mapping,
                                         reading->error);
    if (status != CLEAT_OK) { return status; }
    shard->file = mapping.file;
    shard->file_bytes = mapping.file_bytes;
    shard->mapped = true;
    status = cleat_safetensors_header_open(&mapping, &reading->header,
                                           reading->error);
    if (status != CLEAT_OK) { return status; }
    shard->data_start = reading->header.data_start;
    return read_shard_rows(reading);
}

static enum cleat_status
read_sharded(struct cleat_safetensors *file,
             const struct cleat_safetensors_place *place,
             struct cleat_arena *arena, struct cleat_error *error)
{
    struct cleat_safetensors_index index;
    struct parts parts;
    struct shard_reading reading;
    enum cleat_status status = cleat_safetensors_index_open(&place->mapping,
                                                            &index, error);

    if (status != CLEAT_OK) { return status; }
    if (carve_index(arena, file, &index, &parts, NULL) != CLEAT_OK) {
        return too_small(&index.label, arena, error);
    }
    index.entries = parts.entries;
    index.sorted = parts.sorted;
    status = cleat_safetensors_index_read(&index, file->order, parts.kept,
                                          file->shards, &file->shards_count,
                                          error);
    if (status != CLEAT_OK) { return status; }
    reading.file = file;
    reading.index = &index;
    reading.parts = &parts;
    reading.error = error;
    for (uint32_t i = 0; i < file->shards_count; i++) {
        reading.shard = i;
        status = read_shard(&reading, place->folder);
        if (status != CLEAT_OK) { return status; }
    }
    return CLEAT_OK;
}

/* ---- opening and closing --------------------------------------------------
 */
static void close_place(const struct cleat_safetensors_place *place)
{
    if (place->folder >= 0) { (void)close(place->folder); }
}

enum cleat_status cleat_safetensors_bytes(const char *path, size_t *bytes,
                                          struct cleat_error *error)
{
    struct cleat_safetensors_place place;
    struct cleat_safetensors file;
    struct cleat_safetensors_header header;
    struct cleat_safetensors_index index;
    struct parts parts;
    struct cleat_arena arena;
    enum cleat_status status;

    if (path == NULL || bytes == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, path == NULL ? 0 : 1, 0,
                               "safetensors: path and bytes must be given");
    }
    status = cleat_safetensors_find(path, &place, error);
    if (status != CLEAT_OK) { return status; }
    begin_counting(&arena);
    if (place.is_index) {
        status = cleat_safetensors_index_open(&place.mapping, &index, error);
        if (status == CLEAT_OK) {
            (void)carve_index(&arena, &file, &index, &parts, NULL);
        }
    } else {
        status = cleat_safetensors_header_open(&place.mapping, &header, error);
        if (status == CLEAT_OK) {
            (void)carve_header(&arena, &file, &header, &parts, NULL);
        }
    }
    cleat_safetensors_unmap(place.mapping.file, place.mapping.file_bytes);
    close_place(&place);
    if (status == CLEAT_OK) { *bytes = cleat_arena_bytes_wanted(&arena); }
    return status;
}

enum cleat_status cleat_safetensors_open(struct cleat_safetensors *file,
                                         const char *path, void *block,
                                         size_t block_bytes,
                                         struct cleat_error *error)
{
    struct cleat_safetensors_place place;
    struct cleat_arena arena;
    enum cleat_status status;

    if (file == NULL || path == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, file == NULL ? 0 : 1, 0,
                               "safetensors: file and path must be given");
    }
    memset(file, 0, sizeof *file);
    status = cleat_safetensors_find(path, &place, error);
    if (status != CLEAT_OK) { return status; }
    begin_carving(&arena, block, block_bytes);
    file->digest = cleat_digest_detect();
    if (place.is_index) {
        file->index = place.mapping.file;
        file->index_bytes = place.mapping.file_bytes;
        status = read_sharded(file, &place, &arena, error);
    } else {
        status = read_single(file, &place.mapping, true, &arena, error);
        if (status != CLEAT_OK) {
            cleat_safetensors_unmap(place.mapping.file,
                                    place.mapping.file_bytes);
        }
    }
    close_place(&place);
    if (status != CLEAT_OK) { cleat_safetensors_close(file); }
    return status;
}

enum cleat_status
cleat_safetensors_open_memory(struct cleat_safetensors *file, const char *name,
                              const void *data, size_t data_bytes, void *block,
                              size_t block_bytes, struct cleat_error *error)
{
    return cleat_safetensors_open_head(file, name, data, data_bytes, data_bytes,
                                       block, block_bytes, error);
}

enum cleat_status
cleat_safetensors_open_head(struct cleat_safetensors *file, const char *name,
                            const void *head, size_t head_bytes,
                            uint64_t file_bytes, void *block,
                            size_t block_bytes, struct cleat_error *error)
{
    struct cleat_safetensors_mapping mapping;
    struct cleat_arena arena;
    enum cleat_status status;

    if (file == NULL || name == NULL || (head == NULL && head_bytes != 0)) {
        return cleat_error_set(
            error, CLEAT_INVALID, 0, 0,
            "safetensors: file, name and its bytes must be given");
    }
    if (file_bytes < head_bytes) {
        return cleat_error_set(
            error, CLEAT_INVALID, 0, head_bytes,
            "safetensors: file_bytes is less than head_bytes");
    }
    memset(file, 0, sizeof *file);
    mapping.file = head;
    mapping.file_bytes = head_bytes;
    mapping.absent_bytes = file_bytes - head_bytes;
    mapping.label = cleat_safetensors_path(name);
    begin_carving(&arena, block, block_bytes);
    file->digest = cleat_digest_detect();
    status = read_single(file, &mapping, false, &arena, error);
    if (status != CLEAT_OK) { cleat_safetensors_close(file); }
    return status;
}

void cleat_safetensors_close(struct cleat_safetensors *file)
{
    for (uint32_t i = 0; i < file->shards_count; i++) {
        if (file->shards[i].mapped) {
            cleat_safetensors_unmap(file->shards[i].file,
                                    file->shards[i].file_bytes);
        }
    }
    cleat_safetensors_unmap(file->index, file->index_bytes);
    memset(file, 0, sizeof *file);
}

/* ---- the source -----------------------------------------------------------
 */
static const struct cleat_safetensors_row *
row_at(struct cleat_tensors_context *context, uint32_t index)
{
    const struct cleat_safetensors *file =
        (struct cleat_safetensors *)(void *)context;

    return index < file->tensors_count ? &file->rows[file->order[index]] : NULL;
}

static uint32_t count_tensors(struct cleat_tensors_context *context)
{
    return ((struct cleat_safetensors *)(void *)context)->tensors_count;
}

static enum cleat_status describe(struct cleat_tensors_context *context,
                                  uint32_t index, struct cleat_tensor *out)
{
    const struct cleat_safetensors_row *row = row_at(context, index);

    if (row == NULL) { return CLEAT_INVALID; }
    out->name = row->name;
    out->name_bytes = row->name_bytes;
    out->dtype = row->dtype;
    out->rank = row->rank;
    memcpy(out->shape, row->shape, sizeof out->shape);
    out->bytes = row->end - row->begin;
    return CLEAT_OK;
}

/* From this size on the bytes are written past the caches: they are a bucket's,
 * and whoever reads them next runs on another core. */
#define BULK_BYTES ((size_t)64 * 1024)

static enum cleat_status read_range(struct cleat_tensors_context *context,
                                    uint32_t index, uint64_t offset,
                                    size_t bytes, void *to, uint32_t *crc)
{
    const struct cleat_safetensors *file =
        (struct cleat_safetensors *)(void *)context;
    const struct cleat_safetensors_row *row = row_at(context, index);
    const struct cleat_safetensors_shard *shard;
    const unsigned char *from;
    uint64_t at;

    if (row == NULL || offset > row->end - row->begin ||
        bytes > row->end - row->begin - offset) {
        return CLEAT_INVALID;
    }
    if (bytes == 0) { return CLEAT_OK; }
    shard = &file->shards[row->shard];
    at = shard->data_start + row->begin + offset;
    if (at > shard->file_bytes || bytes > shard->file_bytes - at) {
        return CLEAT_STATE; /* opened by its head */
    }
    from = shard->file + at;
    if (crc == NULL) {
        if (to != NULL) { memcpy(to, from, bytes); }
    } else if (to == NULL) {
        *crc = cleat_crc32c_with(file->digest, *crc, from, bytes);
    } else if (bytes >= BULK_BYTES) {
        *crc = cleat_crc32c_copy_cold_with(file->digest, *crc, to, from, bytes);
    } else {
        *crc = cleat_crc32c_copy_with(file->digest, *crc, to, from, bytes);
    }
    return CLEAT_OK;
}

struct cleat_tensor_source
cleat_safetensors_source(struct cleat_safetensors *file)
{
    struct cleat_tensor_source source;

    source.context = (struct cleat_tensors_context *)(void *)file;
    source.count = count_tensors;
    source.describe = describe;
    source.read = read_range;
    return source;
}
