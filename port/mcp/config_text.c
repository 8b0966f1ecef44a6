/* Cleat: error lines of configs, and text that is written.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "config.h"

/* ---- error lines --------------------------------------------------------- */

#define PATH_SHOWN 48u
#define NAME_SHOWN 44u

static bool is_continuation(char letter)
{
    return ((unsigned char)letter & 0xC0u) == 0x80u;
}

/* Bytes above 0x7F are taken for UTF-8. */
static void make_printable(char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7F) { *text = '?'; }
    }
}

struct mcp_shown mcp_show_path(const char *path)
{
    struct mcp_shown shown;
    size_t bytes = strlen(path);

    if (bytes <= PATH_SHOWN) {
        memcpy(shown.text, path, bytes + 1);
    } else {
        path += bytes - PATH_SHOWN;
        while (is_continuation(*path)) { path++; }
        snprintf(shown.text, sizeof shown.text, "...%s", path);
    }
    make_printable(shown.text);
    return shown;
}

struct mcp_shown mcp_show_name(const char *name, size_t bytes)
{
    struct mcp_shown shown;
    size_t count = bytes;

    if (count > NAME_SHOWN) {
        count = NAME_SHOWN;
        while (count > 0 && is_continuation(name[count])) { count--; }
    }
    for (size_t i = 0; i < count; i++) {
        shown.text[i] = name[i] != '\0' ? name[i] : '?';
    }
    strcpy(shown.text + count, count < bytes ? "..." : "");
    make_printable(shown.text);
    return shown;
}

enum cleat_status mcp_config_fail(struct cleat_error *error,
                                  enum cleat_status status, uint64_t offset,
                                  const char *format, ...)
{
    char text[CLEAT_ERROR_TEXT_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cleat_error_set(error, status, 0, offset, text);
}

struct mcp_place mcp_place_of(const char *text, size_t offset)
{
    struct mcp_place place = {1, 1};

    for (size_t i = 0; i < offset; i++) {
        if (text[i] == '\n') {
            place.line++;
            place.column = 1;
        } else if (!is_continuation(text[i])) {
            place.column++;
        }
    }
    return place;
}

/* ---- UTF-8 --------------------------------------------------------------- */

/* Bytes of the character at `text`; 0: none is there. */
static size_t utf8_length(const unsigned char *text, size_t bytes)
{
    unsigned char first = text[0];
    size_t length = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;

    if (first >= 0x80 && (first < 0xC2 || first > 0xF4)) { return 0; }
    if (length > bytes) { return 0; }
    for (size_t i = 1; i < length; i++) {
        if (!is_continuation((char)text[i])) { return 0; }
    }
    if (length < 3) { return length; }
    /* Overlong forms, surrogates, and what is beyond U+10FFFF. */
    if ((first == 0xE0 && text[1] < 0xA0) ||
        (first == 0xED && text[1] > 0x9F) ||
        (first == 0xF0 && text[1] < 0x90) ||
        (first == 0xF4 && text[1] > 0x8F)) {
        return 0;
    }
    return length;
}

size_t mcp_utf8_valid(const char *text, size_t bytes)
{
    size_t at = 0;

    while (at < bytes) {
        size_t length = utf8_length((const unsigned char *)text + at,
                                    bytes - at);

        if (length == 0) { break; }
        at += length;
    }
    return at;
}

/* ---- writing ------------------------------------------------------------- */

void mcp_json_put(struct mcp_json_out *out, const char *text, size_t bytes)
{
    if (out->used <= out->bytes && bytes <= out->bytes - out->used) {
        memcpy(out->text + out->used, text, bytes);
    }
    out->used = bytes <= SIZE_MAX - out->used ? out->used + bytes : SIZE_MAX;
}

void mcp_json_puts(struct mcp_json_out *out, const char *text)
{
    mcp_json_put(out, text, strlen(text));
}

static void put_escape(struct mcp_json_out *out, unsigned char letter)
{
    static const char letters[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    static const char digits[] = "0123456789abcdef";
    char escape[6] = {'\\', 'u', '0', '0'};

    for (size_t i = 0; letters[i] != '\0'; i += 2) {
        if ((unsigned char)letters[i] == letter) {
            escape[1] = letters[i + 1];
            mcp_json_put(out, escape, 2);
            return;
        }
    }
    escape[4] = digits[letter >> 4];
    escape[5] = digits[letter & 15];
    mcp_json_put(out, escape, 6);
}

void mcp_json_escaped(struct mcp_json_out *out, const char *text, size_t bytes)
{
    size_t done = 0;

    for (size_t i = 0; i < bytes; i++) {
        unsigned char letter = (unsigned char)text[i];

        if (letter >= 0x20 && letter != '"' && letter != '\\') { continue; }
        mcp_json_put(out, text + done, i - done);
        put_escape(out, letter);
        done = i + 1;
    }
    mcp_json_put(out, text + done, bytes - done);
}
