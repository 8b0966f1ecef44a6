/* Cleat: what YAML scalars say. SPDX-License-Identifier: Apache-2.0
 *
 * libfyaml tells where a scalar stands; what it says is worked out here, from
 * its own text, as PyYAML does it: libfyaml 0.7.12 loses or adds bytes in some
 * scalars of several lines.
 */
#include <string.h>

#include "config.h"

/* Text that is being read; `at` moves on. */
struct span {
    const char *at;
    const char *end;
};

static int peek(const struct span *s)
{
    return s->at < s->end ? (unsigned char)*s->at : -1;
}

/* A line's end, LF or CR LF. */
static bool take_break(struct span *s)
{
    if (peek(s) == '\r' && s->end - s->at >= 2 && s->at[1] == '\n') { s->at++; }
    if (peek(s) != '\n') { return false; }
    s->at++;
    return true;
}

static void skip_blanks(struct span *s)
{
    while (peek(s) == ' ' || peek(s) == '\t') { s->at++; }
}

static void put_breaks(struct mcp_json_out *out, size_t count)
{
    for (; count > 0; count--) { mcp_json_puts(out, "\n"); }
}

/* Empty lines, and the space before the next one that is not. Returns how many.
 */
static size_t skip_empty_lines(struct span *s)
{
    size_t count = 0;

    for (;;) {
        skip_blanks(s);
        if (!take_break(s)) { return count; }
        count++;
    }
}

/* ---- plain and quoted ---------------------------------------------------- */

/* Space, where it does not stand around a line's end: one such end becomes a
 * space, and more of them one end less. */
static void fold(struct span *s, struct mcp_json_out *out)
{
    const char *blanks = s->at;
    size_t breaks;

    skip_blanks(s);
    if (!take_break(s)) {
        mcp_json_put(out, blanks, (size_t)(s->at - blanks));
        return;
    }
    breaks = skip_empty_lines(s);
    if (breaks == 0) { mcp_json_puts(out, " "); }
    put_breaks(out, breaks);
}

static bool is_blank(int c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

void mcp_yaml_plain(const char *text, size_t bytes, struct mcp_json_out *out)
{
    struct span s = {text, text + bytes};

    while (s.at < s.end) {
        if (is_blank(peek(&s))) {
            fold(&s, out);
        } else {
            mcp_json_put(out, s.at++, 1);
        }
    }
}

const char *mcp_yaml_single(const char *text, size_t bytes,
                            struct mcp_json_out *out)
{
    struct span s = {text, text + bytes};

    while (s.at < s.end) {
        if (is_blank(peek(&s))) {
            fold(&s, out);
            continue;
        }
        if (peek(&s) == '\'') {
            s.at++; /* the first of two */
            if (peek(&s) != '\'') { return "a ' that is not doubled"; }
        }
        mcp_json_put(out, s.at++, 1);
    }
    return NULL;
}

/* ---- double quotes ------------------------------------------------------- */

static void put_utf8(struct mcp_json_out *out, uint32_t c)
{
    char bytes[4];
    size_t count = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char marks[5] = {0, 0, 0xC0, 0xE0, 0xF0};

    for (size_t i = count - 1; i > 0; i--) {
        bytes[i] = (char)(0x80 | (c & 0x3F));
        c >>= 6;
    }
    bytes[0] = (char)(marks[count] | c);
    mcp_json_put(out, bytes, count);
}

/* So many hexadecimal digits, a character's number. */
static const char *take_number(struct span *s, size_t digits,
                               struct mcp_json_out *out)
{
    static const char values[] = "0123456789abcdef";
    uint32_t number = 0;

    for (size_t i = 0; i < digits; i++) {
        int c = peek(s);
        const char *value = c > 0 ? strchr(values, c | 0x20) : NULL;

        if (value == NULL || (c < '0' || (c > '9' && c < 'A'))) {
            return "an escape without its hexadecimal digits";
        }
        if (number > 0x10FFFF) { return "an escape beyond U+10FFFF"; }
        number = number << 4 | (uint32_t)(value - values);
        s->at++;
    }
    if (number > 0x10FFFF) { return "an escape beyond U+10FFFF"; }
    if (number >= 0xD800 && number <= 0xDFFF) {
        return "half a character; expected \\U and eight digits";
    }
    put_utf8(out, number);
    return NULL;
}

/* What stands behind a backslash. */
static const char *take_escape(struct span *s, struct mcp_json_out *out)
{
    static const char letters[] = "0abt\tnvfre \"/\\N_LP";
    static const uint32_t numbers[] = {0,   7,    8,    9,    9,      10,
                                       11,  12,   13,   27,   0x20,   '"',
                                       '/', '\\', 0x85, 0xA0, 0x2028, 0x2029};
    int c = peek(s);
    const char *letter = c > 0 ? strchr(letters, c) : NULL;

    if (take_break(s)) {
        put_breaks(out, skip_empty_lines(s));
        return NULL;
    }
    if (c < 0) { return "an unknown escape"; }
    s->at++;
    if (letter != NULL) {
        put_utf8(out, numbers[letter - letters]);
        return NULL;
    }
    switch (c) {
    case 'x': return take_number(s, 2, out);
    case 'u': return take_number(s, 4, out);
    case 'U': return take_number(s, 8, out);
    default: return "an unknown escape";
    }
}

const char *mcp_yaml_double(const char *text, size_t bytes,
                            struct mcp_json_out *out)
{
    struct span s = {text, text + bytes};
    const char *why = NULL;

    while (s.at < s.end && why == NULL) {
        if (is_blank(peek(&s))) {
            fold(&s, out);
        } else if (peek(&s) == '\\') {
            s.at++;
            why = take_escape(&s, out);
        } else if (peek(&s) == '"') {
            why = "a \" that is not escaped";
        } else {
            mcp_json_put(out, s.at++, 1);
        }
    }
    return why;
}

/* ---- block scalars ------------------------------------------------------- */

/* A block scalar that is being read. */
struct block {
    struct span s;
    size_t column; /* of s.at, from 0, counted up to indent */
    size_t indent;
    bool folded;
    char chomping; /* '-', '+', or 0 */
};

static void skip_indent(struct block *b)
{
    while (b->column < b->indent && peek(&b->s) == ' ') {
        b->s.at++;
        b->column++;
    }
}

/* Empty lines, and the indentation of the next. Returns how many. */
static size_t skip_block_breaks(struct block *b)
{
    size_t count = 0;

    skip_indent(b);
    while (take_break(&b->s)) {
        count++;
        b->column = 0;
        skip_indent(b);
    }
    return count;
}

/* The header: '|' or '>', the chomping, perhaps a comment. */
static void take_header(struct block *b)
{
    b->folded = peek(&b->s) == '>';
    b->s.at++;
    if (peek(&b->s) == '-' || peek(&b->s) == '+') { b->chomping = *b->s.at++; }
    while (b->s.at < b->s.end && *b->s.at != '\n') { b->s.at++; }
    take_break(&b->s);
}

/* Empty lines before the first that is not, which says how far all are
 * indented, unless an empty one goes further. Returns how many. */
static size_t find_indent(struct block *b)
{
    size_t breaks = 0;
    size_t column = 0;

    for (;;) {
        while (peek(&b->s) == ' ') {
            b->s.at++;
            column++;
        }
        if (column > b->indent) { b->indent = column; }
        if (!take_break(&b->s)) { break; }
        breaks++;
        column = 0;
    }
    b->column = column;
    return breaks;
}

static bool is_in_block(const struct block *b)
{
    return b->column == b->indent && b->s.at < b->s.end;
}

/* A line, without its end. */
static void take_line(struct block *b, struct mcp_json_out *out)
{
    const char *begin = b->s.at;
    const char *end;

    while (b->s.at < b->s.end && *b->s.at != '\n') { b->s.at++; }
    end = b->s.at;
    if (end > begin && end[-1] == '\r' && b->s.at < b->s.end) { end--; }
    mcp_json_put(out, begin, (size_t)(end - begin));
}

static bool is_space(int c)
{
    return c == ' ' || c == '\t';
}

size_t mcp_yaml_block(const char *text, size_t bytes, size_t header,
                      size_t indent_min, struct mcp_json_out *out)
{
    struct block b = {{text + header, text + bytes}, 0, indent_min, false, 0};
    size_t breaks;
    bool ended = false; /* the last line has an end */

    take_header(&b);
    breaks = find_indent(&b);
    while (is_in_block(&b)) {
        bool spaced = is_space(peek(&b.s));

        put_breaks(out, breaks);
        take_line(&b, out);
        ended = take_break(&b.s);
        b.column = 0;
        breaks = skip_block_breaks(&b);
        if (!is_in_block(&b)) { break; }
        if (!b.folded || spaced || is_space(peek(&b.s))) {
            mcp_json_puts(out, "\n");
        } else if (breaks == 0) {
            mcp_json_puts(out, " ");
        }
    }
    if (b.chomping != '-' && ended) { mcp_json_puts(out, "\n"); }
    if (b.chomping == '+') { put_breaks(out, breaks); }
    return (size_t)(b.s.at - text);
}
