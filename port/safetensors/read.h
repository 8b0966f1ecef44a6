/* Cleat: what the reader's files share. SPDX-License-Identifier: Apache-2.0
 *
 *     map.c      finds, opens and maps files
 *     header.c   one file's header, tensor by tensor
 *     index.c    which shard holds which tensor
 *     read.c     joins them: the public functions, the table's order */
#ifndef CLEAT_PORT_SAFETENSORS_READ_H
#define CLEAT_PORT_SAFETENSORS_READ_H

#include "cleat/arena.h"
#include "cleat/json.h"
#include "cleat/safetensors.h"
#include "text.h"

/* One tensor as its header has it. */
struct cleat_safetensors_row {
    const char *name; /* in a mapping, or in the caller's block */
    uint32_t name_bytes;
    uint32_t shard;
    enum cleat_dtype dtype;
    uint32_t rank;
    uint64_t begin; /* in the file's data */
    uint64_t end;
    uint64_t shape[CLEAT_TENSOR_RANK_MAX];
};

/* One file. */
struct cleat_safetensors_shard {
    const char *name; /* in the index; NULL for a single file */
    uint32_t name_bytes;
    uint32_t tensors_count; /* that the index gives to it */
    const unsigned char *file;
    size_t file_bytes;   /* that are here */
    uint64_t data_start; /* in the file */
    bool mapped;         /* by us, or the caller's memory */
};

/* ---- map.c ---- */
struct cleat_safetensors_mapping {
    const unsigned char *file;
    size_t file_bytes;
    struct cleat_safetensors_text label; /* what error texts call it */
    uint64_t absent_bytes;               /* that the file has behind these */
};

/* What a path turned out to be. */
struct cleat_safetensors_place {
    struct cleat_safetensors_mapping mapping; /* a safetensors file or an index
                                               */
    int folder;    /* descriptor of the index's folder; -1 without an index */
    bool is_index; /* what is mapped */
};

/* Maps what `path` means (see cleat_safetensors_bytes). On error nothing stays
 * open. */
enum cleat_status cleat_safetensors_find(const char *path,
                                         struct cleat_safetensors_place *place,
                                         struct cleat_error *error);

/* Maps a shard: a file of that name in `folder`, under the rules for links in
 * safetensors.h. */
enum cleat_status
cleat_safetensors_map_shard(int folder, const char *name,
                            struct cleat_safetensors_mapping *mapping,
                            struct cleat_error *error);

void cleat_safetensors_unmap(const void *file, size_t file_bytes);

/* ---- header.c ---- */
struct cleat_safetensors_header {
    struct cleat_safetensors_text label;
    const char *text; /* the JSON; it starts at byte 8 of the file */
    struct cleat_json_value root;
    uint64_t data_start; /* in the file */
    uint64_t data_bytes;
    uint32_t tensors_count;
    size_t escaped_bytes; /* room for all names that have escapes */
};

/* Checks a file's length, its header's and that it is JSON, and counts. */
enum cleat_status
cleat_safetensors_header_open(const struct cleat_safetensors_mapping *mapping,
                              struct cleat_safetensors_header *header,
                              struct cleat_error *error);

struct cleat_safetensors_walk {
    struct cleat_json_cursor cursor;
    uint32_t number; /* of the next tensor */
};

void cleat_safetensors_header_begin(
    const struct cleat_safetensors_header *header,
    struct cleat_safetensors_walk *walk);

/* The next tensor: `key` is its name, `row` all the rest. CLEAT_PENDING after
 * the last. */
enum cleat_status cleat_safetensors_header_next(
    const struct cleat_safetensors_header *header,
    struct cleat_safetensors_walk *walk, struct cleat_json_value *key,
    struct cleat_safetensors_row *row, struct cleat_error *error);

/* Fails about a tensor: "<label>: byte <of its key>: tensor '<key>': <text>".
 */
enum cleat_status
cleat_safetensors_header_refuse(const struct cleat_safetensors_header *header,
                                const struct cleat_json_value *key,
                                enum cleat_status status, uint32_t number,
                                struct cleat_error *error, const char *format,
                                ...) __attribute__((format(printf, 6, 7)));

/* A string of a checked text as it will be kept: where it lies if it has no
 * escapes, otherwise copied to *room, which moves on; `room_bytes` is what is
 * left there.
 * CLEAT_OK, CLEAT_MALFORMED for what cannot be kept (empty, a NUL, half a
 * surrogate pair), CLEAT_TOO_SMALL. */
enum cleat_status cleat_safetensors_keep(const char *text,
                                         const struct cleat_json_value *string,
                                         char **room, size_t *room_bytes,
                                         const char **out, uint32_t *out_bytes);

/* Room that cleat_safetensors_keep needs for a string: 0 without escapes. */
size_t cleat_safetensors_keep_bytes(const char *text,
                                    const struct cleat_json_value *string);

/* ---- index.c ---- */
struct cleat_safetensors_entry {
    const char *name;
    const char *file;
    uint32_t name_bytes;
    uint32_t file_bytes;
    uint32_t shard;
    uint32_t row; /* one more than the row that has it; 0: none yet */
};

struct cleat_safetensors_index {
    struct cleat_safetensors_text label;
    const char *text;
    struct cleat_json_value map; /* the weight_map */
    uint32_t entries_count;
    uint32_t shards_max;  /* no more than so many */
    size_t name_max;      /* bytes of the longest name, at most */
    size_t escaped_bytes; /* as in a header */
    /* In the caller's block: */
    struct cleat_safetensors_entry *entries;
    uint32_t *sorted; /* entries by name */
};

/* Checks that a file is an index, and counts. */
enum cleat_status
cleat_safetensors_index_open(const struct cleat_safetensors_mapping *mapping,
                             struct cleat_safetensors_index *index,
                             struct cleat_error *error);

/* Fills entries, sorted, and shards (by name; without files). `scratch` holds
 * entries_count words; names with escapes go to `room`. */
enum cleat_status
cleat_safetensors_index_read(struct cleat_safetensors_index *index,
                             uint32_t *scratch, char *room,
                             struct cleat_safetensors_shard *shards,
                             uint32_t *shards_count, struct cleat_error *error);

/* The entry of that name, or NULL. */
struct cleat_safetensors_entry *
cleat_safetensors_index_find(const struct cleat_safetensors_index *index,
                             const char *name, size_t name_bytes);

#endif
