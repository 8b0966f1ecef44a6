/* Cleat: the words of the transfer service. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>

#include "transfer_state.h"

/* Of a key that is named, at most so many bytes as it is written: a longer one
 * is shown by its beginning and its end. */
#define NAME_BYTES 48u
#define HEAD_BYTES 24u
#define TAIL_BYTES 16u

#define CUT "…"

const char *transfer_kind_name(uint32_t kind)
{
    switch (kind) {
    case CLEAT_TRANSFER_PUT: return "put";
    case CLEAT_TRANSFER_GET: return "get";
    case CLEAT_TRANSFER_REMOVE: return "remove";
    default: return "exists";
    }
}

enum cleat_status transfer_say(struct cleat_error *error,
                               enum cleat_status status, uint64_t index,
                               const char *format, ...)
{
    char line[CLEAT_ERROR_TEXT_MAX];
    va_list arguments;

    if (error == NULL) { return status; }
    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    return cleat_error_set(error, status, index, 0, line);
}

enum cleat_status transfer_say_no_place(struct cleat_transfer_service *service,
                                        struct cleat_error *error)
{
    bool closing;

    transfer_lock(service);
    closing = service->closing;
    transfer_unlock(service);
    if (closing) {
        return transfer_say(error, CLEAT_STATE, 0,
                            "transfer: the service is being closed");
    }
    return transfer_say(error, CLEAT_NO_SLOT, service->batches_max,
                        "transfer: batches_max, %u, are under way",
                        (unsigned)service->batches_max);
}

/* ---- keys ---------------------------------------------------------------- */

/* One byte of a key as it is written: itself, or \xNN. Returns how long. */
static size_t write_byte(char *out, char byte)
{
    static const char digits[] = "0123456789ABCDEF";
    unsigned char c = (unsigned char)byte;

    if (c >= 0x20 && c < 0x7F && c != '\'' && c != '\\') {
        out[0] = byte;
        return 1;
    }
    out[0] = '\\';
    out[1] = 'x';
    out[2] = digits[c >> 4];
    out[3] = digits[c & 15];
    return 4;
}

/* Of bytes [first, end), as many as fit `room`. Returns how long. */
static size_t write_some(char *out, size_t room, const char *key, size_t first,
                         size_t end)
{
    size_t used = 0;

    for (; first < end; first++) {
        char one[4];
        size_t bytes = write_byte(one, key[first]);

        if (used + bytes > room) { break; }
        memcpy(out + used, one, bytes);
        used += bytes;
    }
    return used;
}

/* A key, shortened, with nothing in it that a terminal or a log would take for
 * its own. `out` has NAME_BYTES and a NUL's place. */
static void write_key(char *out, const char *key)
{
    size_t bytes = key != NULL ? strnlen(key, CLEAT_STORE_KEY_MAX + 1) : 0;
    size_t plain = 0;
    size_t used;

    for (size_t i = 0; i < bytes && plain <= NAME_BYTES; i++) {
        char ignored[4];

        plain += write_byte(ignored, key[i]);
    }
    if (plain <= NAME_BYTES) {
        used = write_some(out, NAME_BYTES, key, 0, bytes);
    } else {
        size_t tail = bytes - (bytes < TAIL_BYTES / 4 ? bytes : TAIL_BYTES / 4);

        used = write_some(out, HEAD_BYTES, key, 0, bytes);
        memcpy(out + used, CUT, sizeof CUT - 1);
        used += sizeof CUT - 1;
        used += write_some(out + used, TAIL_BYTES, key, tail, bytes);
    }
    out[used] = '\0';
}

enum cleat_status transfer_say_value(const struct transfer_asked *asked,
                                     enum cleat_status status, uint32_t value,
                                     const char *what)
{
    char name[NAME_BYTES + 1];

    if (asked->error == NULL) { return status; }
    write_key(name, asked->values[value].key);
    return transfer_say(
        asked->error, status, value, "transfer: %s: value %u, key '%s': %s",
        transfer_kind_name(asked->kind), (unsigned)value, name, what);
}

/* ---- what has failed ----------------------------------------------------- */

/* One that has failed, as it is named: 'a' NOT_FOUND (-704). */
static size_t write_failed(char *out, size_t room,
                           const struct cleat_transfer_value *value)
{
    char name[NAME_BYTES + 1];
    char code[16] = "";

    write_key(name, value->key);
    if (value->code != 0) {
        (void)snprintf(code, sizeof code, " (%d)", (int)value->code);
    }
    return (size_t)snprintf(out, room, "'%s' %s%s", name,
                            cleat_status_name((enum cleat_status)value->status),
                            code);
}

enum cleat_status
transfer_say_failed(const struct cleat_transfer_service *service,
                    const struct transfer_asked *asked, uint32_t failed,
                    uint32_t first)
{
    const struct cleat_transfer_value *values = asked->values;
    enum cleat_status status = (enum cleat_status)values[first].status;
    char line[CLEAT_ERROR_TEXT_MAX];
    /* The last one is followed by at most this. */
    size_t room = sizeof line - sizeof ", " CUT;
    uint32_t named = 0;
    size_t used;

    if (asked->error == NULL) { return status; }
    used = (size_t)snprintf(
        line, sizeof line,
        "transfer: %s: %u of %u keys failed: ", transfer_kind_name(asked->kind),
        (unsigned)failed, (unsigned)asked->count);
    for (uint32_t i = first; i < asked->count && named < service->names_max;
         i++) {
        char one[128];
        size_t bytes;

        if (values[i].status == CLEAT_OK) { continue; }
        bytes = write_failed(one, sizeof one, &values[i]);
        if (used + bytes + 2 > room) { break; }
        if (named++ > 0) {
            memcpy(line + used, ", ", 2);
            used += 2;
        }
        memcpy(line + used, one, bytes);
        used += bytes;
    }
    if (named < failed) {
        memcpy(line + used, ", " CUT, sizeof ", " CUT - 1);
        used += sizeof ", " CUT - 1;
    }
    line[used] = '\0';
    (void)cleat_error_set(asked->error, status, first, 0, line);
    asked->error->port_code = values[first].code;
    return status;
}
