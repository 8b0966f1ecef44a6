/* Cleat: a strict, allocation-free JSON reader. SPDX-License-Identifier:
 * Apache-2.0
 *
 * RFC 8259, nothing more and nothing less, in two passes over a text that
 * stays where it is:
 *
 *     cleat_json_check     proves the whole text valid, once
 *     cleat_json_open …    walks over it: a value is a slice of the text,
 *                          and nothing is copied until it is asked for
 *
 *     struct cleat_json_value root, key, value;
 *     struct cleat_json_cursor cursor;
 *
 *     status = cleat_json_check(text, bytes, NULL, &root, &error);
 *     if (status != CLEAT_OK) { … error.offset is the first bad byte … }
 *     cleat_json_open(text, &root, &cursor);
 *     while (cleat_json_next_member(text, &cursor, &key, &value)) {
 *         if (cleat_json_equals(text, &key, "name")) { … }
 *     }
 *
 * Strict: one value, no byte-order mark, no trailing bytes, no comments, UTF-8
 * checked everywhere (RFC 3629: no overlong forms, no surrogates). An escaped
 * lone surrogate ("\ud800") is valid JSON, so it passes the check, and is
 * refused when the string is asked for. Duplicate keys are valid too, and are
 * found by cleat_json_unique_keys.
 *
 * The walk trusts that the text was checked and is unchanged: over another
 * text its answers mean nothing. It still reads nothing outside the text, and
 * ends. A walk visits a nested value once on each level above it that is
 * walked too: a text of n bytes costs at most n × depth.
 */
#ifndef CLEAT_JSON_H
#define CLEAT_JSON_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The deepest nesting that can be asked for, one bit of state a level. */
#define CLEAT_JSON_DEPTH_MAX 64u

/* All zero is the default. */
struct cleat_json_limits {
    size_t bytes_max;   /* of the whole text. 0: no limit */
    uint32_t depth_max; /* arrays and objects inside one another, 1 …
                           CLEAT_JSON_DEPTH_MAX. 0: CLEAT_JSON_DEPTH_MAX */
};

enum cleat_json_type {
    CLEAT_JSON_NULL,
    CLEAT_JSON_FALSE,
    CLEAT_JSON_TRUE,
    CLEAT_JSON_NUMBER,
    CLEAT_JSON_STRING,
    CLEAT_JSON_ARRAY,
    CLEAT_JSON_OBJECT
};

/* A slice of the text: a string with its quotes, an array or object with its
 * brackets, never any space around it. */
struct cleat_json_value {
    size_t offset; /* in the text */
    size_t bytes;  /* 1 or more */
    enum cleat_json_type type;
};

/* Where a walk over one array or object stands. Not for reading. */
struct cleat_json_cursor {
    size_t next;
    size_t end;
};

/* Validates a whole text.
 *   text     `bytes` bytes, not NUL-terminated; may be NULL when bytes is 0
 *   limits   NULL: the defaults
 *   root     the text's value without the space around it; may be NULL
 * Returns CLEAT_OK; otherwise with error->offset:
 *   CLEAT_MALFORMED  the first byte that no valid text has there, after the
 *                    bytes before it; `bytes` where the text ends too early
 *   CLEAT_LIMIT      bytes_max, for a text that is longer; or the bracket
 *                    that opens one level too many
 *   CLEAT_INVALID    depth_max is above CLEAT_JSON_DEPTH_MAX
 * On error *root is untouched. */
enum cleat_status cleat_json_check(const char *text, size_t bytes,
                                   const struct cleat_json_limits *limits,
                                   struct cleat_json_value *root,
                                   struct cleat_error *error);

/* Begins a walk over an array's items or an object's members. Any other value
 * is walked as if it were an empty one. */
void cleat_json_open(const char *text, const struct cleat_json_value *container,
                     struct cleat_json_cursor *cursor);

/* The next item of an array. Returns false after the last. */
bool cleat_json_next_item(const char *text, struct cleat_json_cursor *cursor,
                          struct cleat_json_value *item);

/* The next member of an object, in the order of the text. Returns false after
 * the last. */
bool cleat_json_next_member(const char *text, struct cleat_json_cursor *cursor,
                            struct cleat_json_value *key,
                            struct cleat_json_value *value);

/* The first member of that name.
 *   name   NUL-terminated UTF-8
 * Returns CLEAT_OK; CLEAT_NOT_FOUND, also for a value that is no object; then
 * *value is untouched. */
enum cleat_status cleat_json_find(const char *text,
                                  const struct cleat_json_value *object,
                                  const char *name,
                                  struct cleat_json_value *value);

/* Whether a string, its escapes undone, is exactly `name` (NUL-terminated
 * UTF-8). False for a value that is no string. */
bool cleat_json_equals(const char *text, const struct cleat_json_value *string,
                       const char *name);

/* What cleat_json_string lets pass; 0: nothing. */
#define CLEAT_JSON_ALLOW_NUL 1u    /* U+0000, which hides a C string's end */
#define CLEAT_JSON_REPLACE_LONE 2u /* a lone surrogate becomes U+FFFD */

/* Copies a string, its escapes undone, as UTF-8, and puts a NUL behind it.
 *   options       CLEAT_JSON_…
 *   buffer        may be NULL when buffer_bytes is 0
 *   buffer_bytes  room there; the value's `bytes` is always enough
 *   out_bytes     bytes written, without the NUL
 * Returns CLEAT_OK; CLEAT_TOO_SMALL with the bytes needed in error->offset,
 * the buffer then full of the string's beginning, without a NUL;
 * CLEAT_MALFORMED, with the place in error->offset, for a NUL or a lone
 * surrogate not allowed, or a value that is no string: then the buffer holds
 * nothing of use. On error *out_bytes is 0. */
enum cleat_status cleat_json_string(const char *text,
                                    const struct cleat_json_value *string,
                                    uint32_t options, char *buffer,
                                    size_t buffer_bytes, size_t *out_bytes,
                                    struct cleat_error *error);

/* A number that is written in plain digits: no sign, fraction or exponent.
 * Returns CLEAT_OK; CLEAT_MALFORMED for anything else; CLEAT_LIMIT when it
 * does not fit. error->offset is where its digits begin. On error *number is
 * 0. */
enum cleat_status cleat_json_u64(const char *text,
                                 const struct cleat_json_value *value,
                                 uint64_t *number, struct cleat_error *error);

/* The same with an optional minus sign; "-0" is 0. */
enum cleat_status cleat_json_i64(const char *text,
                                 const struct cleat_json_value *value,
                                 int64_t *number, struct cleat_error *error);

/* Looks for two members of one object whose keys, escapes undone, are the
 * same. Objects inside it are not looked into.
 *   scratch         `scratch_count` words, which are overwritten: a hash table
 *                   of the keys; may be NULL when scratch_count is 0. One word
 *                   more than there are members is enough; twice as many is
 *                   fast. Keys chosen by an enemy can cost scratch_count²
 *                   comparisons.
 * Returns CLEAT_OK; CLEAT_EXISTS with the second key's place in error->offset
 * and its number (from 0) in error->index; CLEAT_TOO_SMALL with the words
 * needed in error->offset, unless a duplicate was found before they ran out;
 * CLEAT_LIMIT for an object that goes beyond 4 GiB. Anything but an object has
 * no keys: CLEAT_OK. */
enum cleat_status cleat_json_unique_keys(const char *text,
                                         const struct cleat_json_value *object,
                                         uint32_t *scratch,
                                         size_t scratch_count,
                                         struct cleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
