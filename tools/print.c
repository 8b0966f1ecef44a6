/* Cleat: text of others, printed. SPDX-License-Identifier: Apache-2.0 */
#include "print.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>

#define NO_LETTER UINT32_MAX

/* ------------------------------------------------------------------- text */

/* The UTF-8 letter at the start of `bytes` > 0 bytes, by RFC 3629: *taken bytes
 * of it; NO_LETTER, and one byte, where there is none. */
static uint32_t letter_at(const char *text, size_t bytes, size_t *taken)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t more = at[0] < 0x80   ? 0
                  : at[0] < 0xC2 ? 4
                  : at[0] < 0xE0 ? 1
                  : at[0] < 0xF0 ? 2
                  : at[0] < 0xF5 ? 3
                                 : 4;
    uint32_t letter = more == 0 ? at[0] : at[0] & (0x3Fu >> more);

    *taken = 1;
    if (more == 4 || more >= bytes) { return NO_LETTER; }
    for (size_t i = 1; i <= more; i++) {
        if ((at[i] & 0xC0) != 0x80) { return NO_LETTER; }
        letter = letter << 6 | (at[i] & 0x3Fu);
    }
    if ((more == 2 && letter < 0x800) || (more == 3 && letter < 0x10000) ||
        (letter >= 0xD800 && letter < 0xE000) || letter > 0x10FFFF) {
        return NO_LETTER;
    }
    *taken = more + 1;
    return letter;
}

/* What a terminal would obey in place of showing it: controls, and what
 * changes the direction or the line. */
static bool is_shown(uint32_t letter)
{
    return letter != NO_LETTER && letter >= 0x20 &&
           !(letter >= 0x7F && letter < 0xA0) &&
           !(letter >= 0x2028 && letter <= 0x202E) &&
           !(letter >= 0x2066 && letter <= 0x2069) && letter != 0x200E &&
           letter != 0x200F && letter != 0x061C;
}

size_t cli_count_letters(struct cleat_text text)
{
    size_t letters = 0;
    size_t taken;

    for (size_t at = 0; at < text.bytes; at += taken) {
        (void)letter_at(text.text + at, text.bytes - at, &taken);
        letters++;
    }
    return letters;
}

size_t cli_print_text(FILE *file, struct cleat_text text, size_t columns_max)
{
    size_t letters = cli_count_letters(text);
    size_t shown = letters > columns_max && columns_max > 0 ? columns_max - 1
                                                            : letters;
    size_t at = 0;

    if (columns_max == 0) { return 0; }
    for (size_t i = 0; i < shown; i++) {
        size_t taken;
        uint32_t letter = letter_at(text.text + at, text.bytes - at, &taken);

        if (is_shown(letter)) {
            (void)fwrite(text.text + at, 1, taken, file);
        } else {
            fputc('?', file);
        }
        at += taken;
    }
    if (shown == letters) { return letters; }
    fputs("…", file);
    return shown + 1;
}

/* ------------------------------------------------------------------- JSON */

static void print_escaped(FILE *file, uint32_t letter)
{
    switch (letter) {
    case '"': fputs("\\\"", file); break;
    case '\\': fputs("\\\\", file); break;
    case '\n': fputs("\\n", file); break;
    case '\r': fputs("\\r", file); break;
    case '\t': fputs("\\t", file); break;
    default: fprintf(file, "\\u%04" PRIx32, letter); break;
    }
}

void cli_print_json(FILE *file, struct cleat_text text)
{
    size_t taken;

    fputc('"', file);
    for (size_t at = 0; at < text.bytes; at += taken) {
        uint32_t letter = letter_at(text.text + at, text.bytes - at, &taken);

        if (letter == NO_LETTER) {
            fputs("\\ufffd", file);
        } else if (letter < 0x20 || letter == '"' || letter == '\\' ||
                   !is_shown(letter)) {
            print_escaped(file, letter);
        } else {
            (void)fwrite(text.text + at, 1, taken, file);
        }
    }
    fputc('"', file);
}
