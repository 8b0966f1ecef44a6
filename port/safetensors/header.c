/* Cleat: one file's header. SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "read.h"

/* The header's length comes first, in so many bytes. */
#define LENGTH_BYTES 8u

/* {"name": {"shape": [ … */
#define DEPTH_MAX 3u

static const char metadata_key[] = "__metadata__";

/* ---- keeping strings ------------------------------------------------------
 */
size_t cleat_safetensors_keep_bytes(const char *text,
                                    const struct cleat_json_value *string)
{
    if (memchr(text + string->offset, '\\', string->bytes) == NULL) {
        return 0;
    }
    return string->bytes; /* its quotes make room for the NUL */
}

enum cleat_status cleat_safetensors_keep(const char *text,
                                         const struct cleat_json_value *string,
                                         char **room, size_t *room_bytes,
                                         const char **out, uint32_t *out_bytes)
{
    size_t bytes = string->bytes - 2; /* between the quotes */
    enum cleat_status status;

    *out = text + string->offset + 1;
    *out_bytes = (uint32_t)bytes;
    if (bytes == 0) { return CLEAT_MALFORMED; }
    if (cleat_safetensors_keep_bytes(text, string) == 0) { return CLEAT_OK; }
    status = cleat_json_string(text, string, 0, *room, *room_bytes, &bytes,
                               NULL);
    if (status != CLEAT_OK) { return status; }
    *out = *room;
    *out_bytes = (uint32_t)bytes;
    *room += bytes + 1;
    *room_bytes -= bytes + 1;
    return CLEAT_OK;
}

/* ---- failing --------------------------------------------------------------
 */
/* A place in the JSON as a place in the file. */
static uint64_t in_file(size_t offset)
{
    return (uint64_t)offset + LENGTH_BYTES;
}

enum cleat_status cleat_safetensors_header_refuse(
    const struct cleat_safetensors_header *header,
    const struct cleat_json_value *key, enum cleat_status status,
    uint32_t number, struct cleat_error *error, const char *format, ...)
{
    char text[CLEAT_ERROR_TEXT_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cleat_safetensors_fail(
        error, status, number, in_file(key->offset),
        "%s: byte %" PRIu64 ": tensor '%s': %s", header->label.text,
        in_file(key->offset),
        cleat_safetensors_name(header->text + key->offset + 1, key->bytes - 2)
            .text,
        text);
}

/* ---- the file's shape -----------------------------------------------------
 */
static uint64_t little_endian(const unsigned char *bytes)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < LENGTH_BYTES; i++) {
        number |= (uint64_t)bytes[i] << (8 * i);
    }
    return number;
}

static enum cleat_status
check_lengths(const struct cleat_safetensors_mapping *mapping,
              uint64_t *header_bytes, struct cleat_error *error)
{
    const char *what = mapping->absent_bytes == 0 ? "file" : "head";
    uint64_t bytes;

    if (mapping->file_bytes < LENGTH_BYTES) {
        return cleat_safetensors_fail(
            error, CLEAT_MALFORMED, 0, mapping->file_bytes,
            "%s: byte %zu: the %s ends; expected 8 bytes of header length",
            mapping->label.text, mapping->file_bytes, what);
    }
    bytes = little_endian(mapping->file);
    if (bytes > CLEAT_SAFETENSORS_HEADER_MAX) {
        return cleat_safetensors_fail(
            error, CLEAT_LIMIT, 0, 0,
            "%s: byte 0: the header would have %" PRIu64
            " bytes; expected at most 100000000",
            mapping->label.text, bytes);
    }
    if (bytes > mapping->file_bytes - LENGTH_BYTES) {
        return cleat_safetensors_fail(
            error, CLEAT_MALFORMED, 0, mapping->file_bytes,
            "%s: byte %zu: the %s ends; expected %" PRIu64 " bytes of header",
            mapping->label.text, mapping->file_bytes, what, bytes);
    }
    if (bytes == 0 || mapping->file[LENGTH_BYTES] != '{') {
        return cleat_safetensors_fail(
            error, CLEAT_MALFORMED, 0, LENGTH_BYTES,
            "%s: byte 8: expected '{', the header's start",
            mapping->label.text);
    }
    *header_bytes = bytes;
    return CLEAT_OK;
}

static enum cleat_status check_json(struct cleat_safetensors_header *header,
                                    size_t header_bytes,
                                    struct cleat_error *error)
{
    static const struct cleat_json_limits limits = {0, DEPTH_MAX};
    struct cleat_error inner;
    enum cleat_status status = cleat_json_check(header->text, header_bytes,
                                                &limits, &header->root, &inner);

    if (status == CLEAT_OK) { return CLEAT_OK; }
    return cleat_safetensors_fail(
        error, status, 0, in_file((size_t)inner.offset),
        "%s: byte %" PRIu64 ": %s", header->label.text,
        in_file((size_t)inner.offset),
        status == CLEAT_LIMIT ? "nested too deeply; expected 3 levels at most"
                              : inner.text);
}

/* ---- counting -------------------------------------------------------------
 */
/* Its values are text, and nothing else is asked of them. */
static enum cleat_status
check_metadata(const struct cleat_safetensors_header *header,
               const struct cleat_json_value *metadata,
               struct cleat_error *error)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value = *metadata;
    bool good = metadata->type == CLEAT_JSON_OBJECT;

    cleat_json_open(header->text, metadata, &cursor);
    while (good &&
           cleat_json_next_member(header->text, &cursor, &key, &value)) {
        good = value.type == CLEAT_JSON_STRING;
    }
    if (good) { return CLEAT_OK; }
    return cleat_safetensors_fail(
        error, CLEAT_MALFORMED, 0, in_file(value.offset),
        "%s: byte %" PRIu64 ": __metadata__: expected %s", header->label.text,
        in_file(value.offset),
        metadata->type == CLEAT_JSON_OBJECT ? "text" : "an object of texts");
}

static enum cleat_status count_members(struct cleat_safetensors_header *header,
                                       struct cleat_error *error)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;
    bool metadata = false;

    header->tensors_count = 0;
    header->escaped_bytes = 0;
    cleat_json_open(header->text, &header->root, &cursor);
    while (cleat_json_next_member(header->text, &cursor, &key, &value)) {
        enum cleat_status status;

        if (!cleat_json_equals(header->text, &key, metadata_key)) {
            header->tensors_count++;
            header->escaped_bytes += cleat_safetensors_keep_bytes(header->text,
                                                                  &key);
            continue;
        }
        if (metadata) {
            return cleat_safetensors_fail(
                error, CLEAT_EXISTS, 0, in_file(key.offset),
                "%s: byte %" PRIu64 ": __metadata__ comes twice",
                header->label.text, in_file(key.offset));
        }
        metadata = true;
        status = check_metadata(header, &value, error);
        if (status != CLEAT_OK) { return status; }
    }
    return CLEAT_OK;
}

enum cleat_status
cleat_safetensors_header_open(const struct cleat_safetensors_mapping *mapping,
                              struct cleat_safetensors_header *header,
                              struct cleat_error *error)
{
    uint64_t header_bytes = 0;
    enum cleat_status status = check_lengths(mapping, &header_bytes, error);

    if (status != CLEAT_OK) { return status; }
    header->label = mapping->label;
    header->text = (const char *)mapping->file + LENGTH_BYTES;
    header->data_start = LENGTH_BYTES + header_bytes;
    header->data_bytes = mapping->file_bytes - header->data_start +
                         mapping->absent_bytes;
    status = check_json(header, (size_t)header_bytes, error);
    if (status != CLEAT_OK) { return status; }
    return count_members(header, error);
}

/* ---- one tensor -----------------------------------------------------------
 */
/* A tensor that is being read. */
struct reading {
    const struct cleat_safetensors_header *header;
    const struct cleat_json_value *key;
    uint32_t number;
    struct cleat_error *error;
};

#define REFUSE(reading, status, ...)                                   \
    cleat_safetensors_header_refuse((reading)->header, (reading)->key, \
                                    (status), (reading)->number,       \
                                    (reading)->error, __VA_ARGS__)

static enum cleat_status read_dtype(const struct reading *reading,
                                    const struct cleat_json_value *value,
                                    struct cleat_safetensors_row *row)
{
    const char *name = reading->header->text + value->offset + 1;

    if (value->type != CLEAT_JSON_STRING) {
        return REFUSE(reading, CLEAT_MALFORMED, "dtype: expected text");
    }
    row->dtype = cleat_dtype_from_name(name, value->bytes - 2);
    if (row->dtype == CLEAT_DTYPE_NONE) {
        return REFUSE(reading, CLEAT_MALFORMED, "dtype '%s' is not known",
                      cleat_safetensors_name(name, value->bytes - 2).text);
    }
    return CLEAT_OK;
}

/* An array of at most `numbers_max` numbers in plain digits. CLEAT_LIMIT for
 * more. */
static enum cleat_status read_numbers(const struct reading *reading,
                                      const struct cleat_json_value *value,
                                      const char *member, uint32_t numbers_max,
                                      uint64_t *numbers, uint32_t *count)
{
    const char *text = reading->header->text;
    struct cleat_json_cursor cursor;
    struct cleat_json_value item;

    *count = 0;
    if (value->type != CLEAT_JSON_ARRAY) {
        return REFUSE(reading, CLEAT_MALFORMED, "%s: expected an array",
                      member);
    }
    cleat_json_open(text, value, &cursor);
    while (cleat_json_next_item(text, &cursor, &item)) {
        if (*count == numbers_max) {
            return REFUSE(reading, CLEAT_LIMIT,
                          "%s: expected at most %" PRIu32 " numbers", member,
                          numbers_max);
        }
        if (cleat_json_u64(text, &item, &numbers[*count], NULL) != CLEAT_OK) {
            return REFUSE(
                reading, CLEAT_MALFORMED,
                "%s: '%s': expected plain digits, below 2^64", member,
                cleat_safetensors_name(text + item.offset, item.bytes).text);
        }
        ++*count;
    }
    return CLEAT_OK;
}

static enum cleat_status read_offsets(const struct reading *reading,
                                      const struct cleat_json_value *value,
                                      struct cleat_safetensors_row *row)
{
    uint64_t numbers[2];
    uint32_t count;
    enum cleat_status status = read_numbers(reading, value, "data_offsets", 2,
                                            numbers, &count);

    if (status != CLEAT_OK) { return status; }
    if (count != 2) {
        return REFUSE(reading, CLEAT_MALFORMED,
                      "data_offsets: expected two numbers");
    }
    row->begin = numbers[0];
    row->end = numbers[1];
    return CLEAT_OK;
}

/* The members that a tensor has, each once. */
static const char *const members[] = {"dtype", "shape", "data_offsets"};
#define MEMBERS_COUNT 3u

static enum cleat_status read_members(const struct reading *reading,
                                      const struct cleat_json_value *tensor,
                                      struct cleat_safetensors_row *row)
{
    const char *text = reading->header->text;
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;
    bool seen[MEMBERS_COUNT] = {false, false, false};

    cleat_json_open(text, tensor, &cursor);
    while (cleat_json_next_member(text, &cursor, &key, &value)) {
        enum cleat_status status = CLEAT_OK;
        uint32_t which = 0;

        while (which < MEMBERS_COUNT &&
               !cleat_json_equals(text, &key, members[which])) {
            which++;
        }
        if (which == MEMBERS_COUNT || seen[which]) {
            return REFUSE(
                reading, CLEAT_MALFORMED, "'%s' %s",
                cleat_safetensors_name(text + key.offset + 1, key.bytes - 2)
                    .text,
                which == MEMBERS_COUNT ? "is not expected" : "comes twice");
        }
        seen[which] = true;
        switch (which) {
        case 0: status = read_dtype(reading, &value, row); break;
        case 1:
            status = read_numbers(reading, &value, members[which],
                                  CLEAT_TENSOR_RANK_MAX, row->shape,
                                  &row->rank);
            break;
        default: status = read_offsets(reading, &value, row); break;
        }
        if (status != CLEAT_OK) { return status; }
    }
    for (uint32_t i = 0; i < MEMBERS_COUNT; i++) {
        if (!seen[i]) {
            return REFUSE(reading, CLEAT_MALFORMED, "%s is missing",
                          members[i]);
        }
    }
    return CLEAT_OK;
}

static enum cleat_status check_bytes(const struct reading *reading,
                                     const struct cleat_safetensors_row *row)
{
    uint64_t bytes;

    if (row->end < row->begin) {
        return REFUSE(reading, CLEAT_MALFORMED,
                      "data_offsets: %" PRIu64 " comes before %" PRIu64,
                      row->end, row->begin);
    }
    if (cleat_dtype_tensor_bytes(row->dtype, row->rank, row->shape, &bytes) !=
        CLEAT_OK) {
        return REFUSE(reading, CLEAT_LIMIT,
                      "shape: its bytes do not fit 64 bits");
    }
    if (row->end - row->begin != bytes) {
        return REFUSE(reading, CLEAT_MALFORMED,
                      "data_offsets: %" PRIu64
                      " bytes; dtype and shape need %" PRIu64,
                      row->end - row->begin, bytes);
    }
    if (row->end > reading->header->data_bytes) {
        return REFUSE(reading, CLEAT_MALFORMED,
                      "truncated: it ends at data byte %" PRIu64
                      ", the file at %" PRIu64,
                      row->end, reading->header->data_bytes);
    }
    return CLEAT_OK;
}

void cleat_safetensors_header_begin(
    const struct cleat_safetensors_header *header,
    struct cleat_safetensors_walk *walk)
{
    walk->number = 0;
    cleat_json_open(header->text, &header->root, &walk->cursor);
}

enum cleat_status cleat_safetensors_header_next(
    const struct cleat_safetensors_header *header,
    struct cleat_safetensors_walk *walk, struct cleat_json_value *key,
    struct cleat_safetensors_row *row, struct cleat_error *error)
{
    struct reading reading = {header, key, walk->number, error};
    struct cleat_json_value value;
    enum cleat_status status;

    memset(row, 0, sizeof *row);
    do {
        if (!cleat_json_next_member(header->text, &walk->cursor, key, &value)) {
            return CLEAT_PENDING;
        }
    } while (cleat_json_equals(header->text, key, metadata_key));
    walk->number++;
    if (value.type != CLEAT_JSON_OBJECT) {
        return REFUSE(&reading, CLEAT_MALFORMED, "expected an object");
    }
    status = read_members(&reading, &value, row);
    if (status != CLEAT_OK) { return status; }
    return check_bytes(&reading, row);
}
