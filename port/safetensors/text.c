/* Cleat: error texts, and sorting without a heap. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Control characters would break the line; bytes above 0x7F are taken for
 * UTF-8. */
static void make_printable(char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7F) { *text = '?'; }
    }
}

/* The middle of a UTF-8 sequence. */
static bool is_continuation(char letter)
{
    return ((unsigned char)letter & 0xC0u) == 0x80u;
}

struct cleat_safetensors_text cleat_safetensors_path(const char *path)
{
    struct cleat_safetensors_text out;
    size_t bytes = strlen(path);

    if (bytes <= CLEAT_SAFETENSORS_PATH_SHOWN) {
        snprintf(out.text, sizeof out.text, "%s", path);
    } else {
        path += bytes - CLEAT_SAFETENSORS_PATH_SHOWN;
        while (is_continuation(*path)) { path++; }
        snprintf(out.text, sizeof out.text, "...%s", path);
    }
    make_printable(out.text);
    return out;
}

struct cleat_safetensors_text cleat_safetensors_name(const char *name,
                                                     size_t name_bytes)
{
    struct cleat_safetensors_text out;
    size_t shown = name_bytes;

    if (shown > CLEAT_SAFETENSORS_NAME_SHOWN) {
        shown = CLEAT_SAFETENSORS_NAME_SHOWN;
        while (shown > 0 && is_continuation(name[shown])) { shown--; }
    }
    for (size_t i = 0; i < shown; i++) {
        out.text[i] = name[i] != '\0' ? name[i] : '?';
    }
    out.text[shown] = '\0';
    if (shown < name_bytes) { memcpy(out.text + shown, "...", 4); }
    make_printable(out.text);
    return out;
}

enum cleat_status cleat_safetensors_fail(struct cleat_error *error,
                                         enum cleat_status status,
                                         uint64_t index, uint64_t offset,
                                         const char *format, ...)
{
    char text[CLEAT_ERROR_TEXT_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cleat_error_set(error, status, index, offset, text);
}

enum cleat_status cleat_safetensors_fail_os(struct cleat_error *error,
                                            int error_number, uint64_t offset,
                                            const char *format, ...)
{
    char text[CLEAT_ERROR_TEXT_MAX];
    char reason[64];
    va_list arguments;
    size_t written;
    enum cleat_status status = CLEAT_IO;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    written = strlen(text);
    snprintf(text + written, sizeof text - written, ": %s",
             strerror_r(error_number, reason, sizeof reason));
    if (error_number == ENOENT || error_number == ENOTDIR) {
        status = CLEAT_NOT_FOUND;
    }
    cleat_error_set(error, status, 0, offset, text);
    if (error != NULL) { error->port_code = error_number; }
    return status;
}

int cleat_safetensors_compare(const char *a, size_t a_bytes, const char *b,
                              size_t b_bytes)
{
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);

    if (order != 0) { return order; }
    return (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

/* Lets indices[root] sink to its place in a heap of `count`. */
static void sink(uint32_t *indices, uint32_t root, uint32_t count,
                 bool (*less)(const void *context, uint32_t a, uint32_t b),
                 const void *context)
{
    uint32_t value = indices[root];

    for (uint64_t child = 2 * (uint64_t)root + 1; child < count;
         child = 2 * child + 1) {
        if (child + 1 < count &&
            less(context, indices[child], indices[child + 1])) {
            child++;
        }
        if (!less(context, value, indices[child])) { break; }
        indices[root] = indices[child];
        root = (uint32_t)child;
    }
    indices[root] = value;
}

void cleat_safetensors_sort(uint32_t *indices, uint32_t count,
                            bool (*less)(const void *context, uint32_t a,
                                         uint32_t b),
                            const void *context)
{
    for (uint32_t root = count / 2; root > 0; root--) {
        sink(indices, root - 1, count, less, context);
    }
    for (uint32_t last = count; last > 1; last--) {
        uint32_t largest = indices[0];

        indices[0] = indices[last - 1];
        indices[last - 1] = largest;
        sink(indices, 0, last - 1, less, context);
    }
}
