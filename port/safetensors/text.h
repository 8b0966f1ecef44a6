/* Cleat: what the safetensors port's files share. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef CLEAT_PORT_SAFETENSORS_TEXT_H
#define CLEAT_PORT_SAFETENSORS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cleat/status.h"

/* How much of a file's path and of a name in a file an error text shows. */
#define CLEAT_SAFETENSORS_PATH_SHOWN 60u
#define CLEAT_SAFETENSORS_NAME_SHOWN 44u

/* Room for that, three dots and a NUL. */
struct cleat_safetensors_text {
    char text[64];
};

/* The end of a path, or the start of a name, fit to be printed in one line:
 * control characters become '?'. */
struct cleat_safetensors_text cleat_safetensors_path(const char *path);
struct cleat_safetensors_text cleat_safetensors_name(const char *name,
                                                     size_t name_bytes);

/* cleat_error_set with a formatted text. */
enum cleat_status
cleat_safetensors_fail(struct cleat_error *error, enum cleat_status status,
                       uint64_t index, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* The same for a call of the operating system's that failed: ": <what errno
 * says>" is appended, errno goes to error->port_code, and the status is
 * CLEAT_NOT_FOUND for ENOENT and ENOTDIR, otherwise CLEAT_IO. */
enum cleat_status cleat_safetensors_fail_os(struct cleat_error *error,
                                            int error_number, uint64_t offset,
                                            const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Compares two names as bytes, a shorter one that is a start of the other
 * first. */
int cleat_safetensors_compare(const char *a, size_t a_bytes, const char *b,
                              size_t b_bytes);

/* Sorts 0 … count-1, which `indices` holds, so that less(context, a, b) never
 * holds for a later a and an earlier b. In place, without recursion, in
 * O(count log count) always (heapsort). */
void cleat_safetensors_sort(uint32_t *indices, uint32_t count,
                            bool (*less)(const void *context, uint32_t a,
                                         uint32_t b),
                            const void *context);

#endif
