/* Cleat: JSON, checked and sliced. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/json.h"

#include <string.h>

#include "assert.h"
#include "text.h"

/* Short for what every call here does: the index says little, the offset
 * everything. */
static enum cleat_status refuse(struct cleat_error *error,
                                enum cleat_status status, size_t offset,
                                const char *why)
{
    CLEAT_ASSERT(status != CLEAT_OK);
    CLEAT_ASSERT(why != NULL);
    return cleat_error_set(error, status, 0, offset, why);
}

/* ---- the check ---------------------------------------------------------- */

/* A reader of the text. A rule that fails leaves `pos` at the byte that it
 * could not take, and says in `why` what is wrong. */
struct reader {
    const char *text;
    size_t pos;
    size_t end;
    bool too_deep;
    const char *why; /* not used with CLEAT_SMALL */
};

#define NO_BYTE (-1) /* the text has ended */

static int peek(const struct reader *r)
{
    CLEAT_ASSERT(r->pos <= r->end);
    CLEAT_ASSERT(r->text != NULL || r->end == 0);
    return r->pos < r->end ? (unsigned char)r->text[r->pos] : NO_BYTE;
}

static bool fail(struct reader *r, const char *why)
{
    CLEAT_ASSERT(r->pos <= r->end);
    CLEAT_ASSERT(why != NULL);
    if (why[0] != '\0') { r->why = why; }
    return false;
}

static bool is_digit(int c)
{
    CLEAT_ASSERT(c >= NO_BYTE);
    CLEAT_ASSERT(c <= 0xFF);
    return c >= '0' && c <= '9';
}

static bool is_space(int c)
{
    CLEAT_ASSERT(c >= NO_BYTE);
    CLEAT_ASSERT(c <= 0xFF);
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(struct reader *r)
{
    while (is_space(peek(r))) { r->pos++; }
    CLEAT_ASSERT(r->pos <= r->end);
    CLEAT_ASSERT(!is_space(peek(r)));
}

/* 0 … 15, or -1. */
static int hex_value(int c)
{
    CLEAT_ASSERT(c >= NO_BYTE);
    CLEAT_ASSERT(c <= 0xFF);
    if (is_digit(c)) { return c - '0'; }
    c |= 0x20; /* lower case; NO_BYTE stays what it is */
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The character that an escape of one letter stands for, or -1. */
static int escape_value(int letter)
{
    static const char letters[] = "\"\\/bfnrt";
    static const char meant[] = "\"\\/\b\f\n\r\t";

    CLEAT_ASSERT(sizeof letters == sizeof meant);
    CLEAT_ASSERT(letter >= NO_BYTE && letter <= 0xFF);
    for (uint32_t i = 0; i + 1 < sizeof letters; i++) {
        if (letters[i] == letter) { return meant[i]; }
    }
    return -1;
}

/* What follows a backslash. */
static bool take_escape(struct reader *r)
{
    CLEAT_ASSERT(peek(r) == '\\');
    r->pos++;
    if (peek(r) != 'u') {
        if (escape_value(peek(r)) < 0) {
            return fail(r, CLEAT_TEXT("json: bad escape"));
        }
        r->pos++;
        return true;
    }
    r->pos++;
    for (uint32_t i = 0; i < 4; i++) {
        if (hex_value(peek(r)) < 0) {
            return fail(r, CLEAT_TEXT("json: bad escape"));
        }
        r->pos++;
    }
    CLEAT_ASSERT(r->text[r->pos - 5] == 'u');
    return true;
}

/* A character of two to four bytes: the table of RFC 3629, section 4. Only
 * the second byte's range depends on the first. */
static bool take_utf8(struct reader *r)
{
    int first = peek(r);
    int low = 0x80;
    int high = 0xBF;
    int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;

    CLEAT_ASSERT(first >= 0x80);
    CLEAT_ASSERT(first <= 0xFF);
    if (first < 0xC2 || first > 0xF4) {
        return fail(r, CLEAT_TEXT("json: bad UTF-8"));
    }
    if (first == 0xE0) { low = 0xA0; }
    if (first == 0xED) { high = 0x9F; }
    if (first == 0xF0) { low = 0x90; }
    if (first == 0xF4) { high = 0x8F; }
    for (r->pos++; more > 0; more--, r->pos++) {
        int c = peek(r);

        if (c < low || c > high) {
            return fail(r, CLEAT_TEXT("json: bad UTF-8"));
        }
        low = 0x80;
        high = 0xBF;
    }
    return true;
}

static bool take_string(struct reader *r)
{
    bool good = true;

    CLEAT_ASSERT(peek(r) == '"');
    r->pos++;
    while (good && peek(r) != '"') {
        int c = peek(r);

        if (c < 0x20) {
            return fail(r,
                        CLEAT_TEXT("json: a string with no end, or a control "
                                   "character in it"));
        }
        if (c == '\\') {
            good = take_escape(r);
        } else if (c >= 0x80) {
            good = take_utf8(r);
        } else {
            r->pos++;
        }
    }
    if (good) { r->pos++; }
    CLEAT_ASSERT(!good || r->text[r->pos - 1] == '"');
    return good;
}

static bool take_digits(struct reader *r)
{
    if (!is_digit(peek(r))) {
        return fail(r, CLEAT_TEXT("json: expected a digit"));
    }
    while (is_digit(peek(r))) { r->pos++; }
    CLEAT_ASSERT(is_digit((unsigned char)r->text[r->pos - 1]));
    CLEAT_ASSERT(!is_digit(peek(r)));
    return true;
}

static bool take_number(struct reader *r)
{
    CLEAT_ASSERT(peek(r) == '-' || is_digit(peek(r)));
    CLEAT_ASSERT(!r->too_deep);
    if (peek(r) == '-') { r->pos++; }
    if (peek(r) == '0') {
        r->pos++;
    } else if (!take_digits(r)) {
        return false;
    }
    if (peek(r) == '.') {
        r->pos++;
        if (!take_digits(r)) { return false; }
    }
    if ((peek(r) | 0x20) == 'e') {
        r->pos++;
        if (peek(r) == '+' || peek(r) == '-') { r->pos++; }
        return take_digits(r);
    }
    return true;
}

static bool take_word(struct reader *r, const char *word)
{
    CLEAT_ASSERT(word[0] != '\0');
    CLEAT_ASSERT(peek(r) == word[0]);
    for (; *word != '\0'; word++, r->pos++) {
        if (peek(r) != *word) {
            return fail(r, CLEAT_TEXT("json: expected a value"));
        }
    }
    return true;
}

/* Any value but an array or an object. */
static bool take_scalar(struct reader *r)
{
    CLEAT_ASSERT(peek(r) != '[' && peek(r) != '{');
    CLEAT_ASSERT(!r->too_deep);
    switch (peek(r)) {
    case '"': return take_string(r);
    case 'n': return take_word(r, "null");
    case 't': return take_word(r, "true");
    case 'f': return take_word(r, "false");
    default: break;
    }
    if (peek(r) != '-' && !is_digit(peek(r))) {
        return fail(r, CLEAT_TEXT("json: expected a value"));
    }
    return take_number(r);
}

static bool take_key_and_colon(struct reader *r)
{
    CLEAT_ASSERT(!is_space(peek(r)));
    CLEAT_ASSERT(!r->too_deep);
    if (peek(r) != '"') { return fail(r, CLEAT_TEXT("json: expected a key")); }
    if (!take_string(r)) { return false; }
    skip_space(r);
    if (peek(r) != ':') { return fail(r, CLEAT_TEXT("json: expected ':'")); }
    r->pos++;
    return true;
}

/* What may come next: a set. */
enum { VALUE = 1, KEY = 2, COMMA = 4, END = 8 };

/* The arrays and objects that are open: bit 0 is the innermost, set for an
 * object. */
struct nesting {
    uint64_t objects;
    uint32_t depth;
    uint32_t depth_max;
    uint32_t expect;
};

static bool take_opening(struct reader *r, struct nesting *open, bool object)
{
    CLEAT_ASSERT(open->depth <= open->depth_max);
    CLEAT_ASSERT(peek(r) == (object ? '{' : '['));
    r->too_deep = open->depth == open->depth_max;
    if (r->too_deep) { return fail(r, CLEAT_TEXT("json: nested too deeply")); }
    r->pos++;
    open->depth++;
    open->objects = (open->objects << 1) | object;
    open->expect = (object ? KEY : VALUE) | END;
    return true;
}

/* Takes one step of the grammar. */
static bool take_step(struct reader *r, struct nesting *open)
{
    bool in_object = open->objects & 1u;
    uint32_t expect = open->expect;
    int c;

    CLEAT_ASSERT(open->depth > 0 || expect == VALUE);
    CLEAT_ASSERT(open->depth <= CLEAT_JSON_DEPTH_MAX);
    skip_space(r);
    c = peek(r);
    open->expect = COMMA | END;
    if ((expect & END) && c == (in_object ? '}' : ']')) {
        r->pos++;
        open->objects >>= 1;
        open->depth--;
        return true;
    }
    if (expect & COMMA) {
        if (c != ',') {
            return fail(r, CLEAT_TEXT("json: expected ',' or the end"));
        }
        r->pos++;
        open->expect = in_object ? KEY : VALUE;
        return true;
    }
    if (expect & KEY) {
        open->expect = VALUE;
        return take_key_and_colon(r);
    }
    if (c == '[' || c == '{') { return take_opening(r, open, c == '{'); }
    return take_scalar(r);
}

/* By its first byte. */
static enum cleat_json_type type_of(char first)
{
    CLEAT_ASSERT(first != ' ' && first != ',');
    CLEAT_ASSERT(first != ']' && first != '}');
    switch (first) {
    case 'n': return CLEAT_JSON_NULL;
    case 'f': return CLEAT_JSON_FALSE;
    case 't': return CLEAT_JSON_TRUE;
    case '"': return CLEAT_JSON_STRING;
    case '[': return CLEAT_JSON_ARRAY;
    case '{': return CLEAT_JSON_OBJECT;
    default: return CLEAT_JSON_NUMBER;
    }
}

/* Takes a whole value, the space before it left out of the slice. */
static bool take_value(struct reader *r, uint32_t depth_max,
                       struct cleat_json_value *value)
{
    struct nesting open = {0, 0, depth_max, VALUE};
    size_t start;

    CLEAT_ASSERT(depth_max >= 1 && depth_max <= CLEAT_JSON_DEPTH_MAX);
    skip_space(r);
    start = r->pos;
    do {
        if (!take_step(r, &open)) { return false; }
    } while (open.depth > 0);
    CLEAT_ASSERT(r->pos > start && r->pos <= r->end);
    value->offset = start;
    value->bytes = r->pos - start;
    value->type = type_of(r->text[start]);
    return true;
}

enum cleat_status cleat_json_check(const char *text, size_t bytes,
                                   const struct cleat_json_limits *limits,
                                   struct cleat_json_value *root,
                                   struct cleat_error *error)
{
    struct reader r = {text, 0, bytes, false, ""};
    struct cleat_json_value found;
    uint32_t depth_max = CLEAT_JSON_DEPTH_MAX;

    CLEAT_ASSERT(text != NULL || bytes == 0);
    if (limits != NULL) {
        if (limits->depth_max > CLEAT_JSON_DEPTH_MAX) {
            return refuse(error, CLEAT_INVALID, 0,
                          CLEAT_TEXT("json: depth_max must be 64 or less"));
        }
        if (limits->bytes_max != 0 && bytes > limits->bytes_max) {
            return refuse(error, CLEAT_LIMIT, limits->bytes_max,
                          CLEAT_TEXT("json: the text is too long"));
        }
        if (limits->depth_max != 0) { depth_max = limits->depth_max; }
    }
    if (take_value(&r, depth_max, &found)) {
        skip_space(&r);
        if (r.pos == bytes) {
            if (root != NULL) { *root = found; }
            return CLEAT_OK;
        }
        fail(&r, CLEAT_TEXT("json: bytes after the value"));
    }
    CLEAT_ASSERT(r.pos <= bytes);
    return refuse(error, r.too_deep ? CLEAT_LIMIT : CLEAT_MALFORMED, r.pos,
                  r.why);
}

/* ---- the walk ----------------------------------------------------------- */

void cleat_json_open(const char *text, const struct cleat_json_value *container,
                     struct cleat_json_cursor *cursor)
{
    CLEAT_ASSERT(text != NULL && container != NULL);
    CLEAT_ASSERT(cursor != NULL);
    (void)text;
    cursor->next = container->offset;
    cursor->end = container->offset;
    if (container->type >= CLEAT_JSON_ARRAY && container->bytes >= 2) {
        cursor->next += 1;
        cursor->end += container->bytes - 1;
    }
    CLEAT_ASSERT(cursor->next <= cursor->end);
}

/* The next value; in an object, keys and values take turns. */
bool cleat_json_next_item(const char *text, struct cleat_json_cursor *cursor,
                          struct cleat_json_value *item)
{
    struct reader r = {text, cursor->next, cursor->end, false, ""};
    bool found;

    CLEAT_ASSERT(text != NULL && item != NULL);
    skip_space(&r);
    if (peek(&r) == ',' || peek(&r) == ':') { r.pos++; }
    found = take_value(&r, CLEAT_JSON_DEPTH_MAX, item);
    cursor->next = found ? r.pos : r.end;
    CLEAT_ASSERT(cursor->next <= cursor->end);
    return found;
}

bool cleat_json_next_member(const char *text, struct cleat_json_cursor *cursor,
                            struct cleat_json_value *key,
                            struct cleat_json_value *value)
{
    CLEAT_ASSERT(key != NULL && value != NULL);
    CLEAT_ASSERT(key != value);
    return cleat_json_next_item(text, cursor, key) &&
           cleat_json_next_item(text, cursor, value);
}

enum cleat_status cleat_json_find(const char *text,
                                  const struct cleat_json_value *object,
                                  const char *name,
                                  struct cleat_json_value *value)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value found;

    CLEAT_ASSERT(object != NULL && name != NULL && value != NULL);
    if (object->type != CLEAT_JSON_OBJECT) { return CLEAT_NOT_FOUND; }
    cleat_json_open(text, object, &cursor);
    while (cleat_json_next_member(text, &cursor, &key, &found)) {
        if (cleat_json_equals(text, &key, name)) {
            *value = found;
            return CLEAT_OK;
        }
    }
    CLEAT_ASSERT(cursor.next == cursor.end);
    return CLEAT_NOT_FOUND;
}

/* ---- strings ------------------------------------------------------------ */

/* Gives a string's UTF-8, byte by byte. A lone surrogate comes out in the
 * three bytes that its number would have, which no UTF-8 text contains, so
 * that keys compare right; or as U+FFFD if `replace` is set. */
struct decoder {
    const char *text;
    size_t pos;
    size_t end;       /* of the string, or of what it stands in */
    uint32_t pending; /* bytes still to give of a character, the next lowest */
    bool replace;
    bool lone; /* the last character was a lone surrogate */
};

/* Begins at the string whose opening quote is at `offset`. */
static void decode_from(struct decoder *d, const char *text, size_t offset,
                        size_t end)
{
    CLEAT_ASSERT(text != NULL);
    CLEAT_ASSERT(offset < end);
    memset(d, 0, sizeof *d);
    d->text = text;
    d->pos = offset + 1;
    d->end = end;
}

static int next_raw(struct decoder *d)
{
    CLEAT_ASSERT(d->pos <= d->end);
    CLEAT_ASSERT(d->text != NULL);
    return d->pos < d->end ? (unsigned char)d->text[d->pos++] : NO_BYTE;
}

/* The code unit of four hexadecimal digits. */
static uint32_t next_unit(struct decoder *d)
{
    uint32_t unit = 0;

    CLEAT_ASSERT(d->pos <= d->end);
    for (uint32_t i = 0; i < 4; i++) {
        unit = (unit << 4) | ((uint32_t)hex_value(next_raw(d)) & 15u);
    }
    CLEAT_ASSERT(unit <= 0xFFFF);
    CLEAT_ASSERT(d->pos <= d->end);
    return unit;
}

/* The character of "\u…", the "\u" already taken: RFC 8259, section 7. */
static uint32_t next_escaped(struct decoder *d)
{
    uint32_t unit = next_unit(d);
    size_t after = d->pos;

    CLEAT_ASSERT(unit <= 0xFFFF);
    CLEAT_ASSERT(d->pending == 0);
    if (unit < 0xD800 || unit > 0xDFFF) { return unit; }
    if (unit < 0xDC00 && next_raw(d) == '\\' && next_raw(d) == 'u') {
        uint32_t low = next_unit(d);

        if (low >= 0xDC00 && low <= 0xDFFF) {
            return 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
        }
    }
    d->pos = after;
    d->lone = !d->replace;
    return d->replace ? 0xFFFD : unit;
}

/* The first byte of a character; the others become pending. */
static int begin_utf8(struct decoder *d, uint32_t c)
{
    CLEAT_ASSERT(d->pending == 0);
    CLEAT_ASSERT(c <= 0x10FFFF);
    if (c < 0x80) { return (int)c; }
    d->pending = 0x80 | (c & 0x3F);
    if (c < 0x800) { return (int)(0xC0 | (c >> 6)); }
    d->pending = (d->pending << 8) | 0x80 | ((c >> 6) & 0x3F);
    if (c < 0x10000) { return (int)(0xE0 | (c >> 12)); }
    d->pending = (d->pending << 8) | 0x80 | ((c >> 12) & 0x3F);
    return (int)(0xF0 | (c >> 18));
}

/* The next byte; NO_BYTE at the closing quote. */
static int next_byte(struct decoder *d)
{
    int c = (int)(d->pending & 0xFF);

    CLEAT_ASSERT(d->pos <= d->end);
    CLEAT_ASSERT((d->pending & 0x80) == (d->pending != 0 ? 0x80 : 0));
    if (d->pending != 0) {
        d->pending >>= 8;
        return c;
    }
    d->lone = false;
    c = next_raw(d);
    if (c == '"') { return NO_BYTE; }
    if (c != '\\') { return c; }
    c = next_raw(d);
    return c == 'u' ? begin_utf8(d, next_escaped(d)) : escape_value(c);
}

bool cleat_json_equals(const char *text, const struct cleat_json_value *string,
                       const char *name)
{
    struct decoder d;
    int c;

    CLEAT_ASSERT(string != NULL);
    CLEAT_ASSERT(name != NULL);
    if (string->type != CLEAT_JSON_STRING) { return false; }
    decode_from(&d, text, string->offset, string->offset + string->bytes);
    for (c = next_byte(&d); c > 0; c = next_byte(&d)) {
        if ((unsigned char)*name++ != c) { return false; }
    }
    return c == NO_BYTE && *name == '\0';
}

enum cleat_status cleat_json_string(const char *text,
                                    const struct cleat_json_value *string,
                                    uint32_t options, char *buffer,
                                    size_t buffer_bytes, size_t *out_bytes,
                                    struct cleat_error *error)
{
    struct decoder d;
    size_t count = 0;

    CLEAT_ASSERT(string != NULL && out_bytes != NULL);
    CLEAT_ASSERT(buffer != NULL || buffer_bytes == 0);
    *out_bytes = 0;
    if (string->type != CLEAT_JSON_STRING) {
        return refuse(error, CLEAT_MALFORMED, string->offset,
                      CLEAT_TEXT("json: expected a string"));
    }
    decode_from(&d, text, string->offset, string->offset + string->bytes);
    d.replace = (options & CLEAT_JSON_REPLACE_LONE) != 0;
    for (;;) {
        size_t at = d.pos;
        int c = next_byte(&d);

        if (c == NO_BYTE) { break; }
        if (d.lone || (c == 0 && !(options & CLEAT_JSON_ALLOW_NUL))) {
            return refuse(error, CLEAT_MALFORMED, at,
                          CLEAT_TEXT("json: a NUL or half a character"));
        }
        if (count < buffer_bytes) { buffer[count] = (char)c; }
        count++;
    }
    if (count >= buffer_bytes) {
        return refuse(error, CLEAT_TOO_SMALL, count + 1,
                      CLEAT_TEXT("json: the buffer is too small"));
    }
    buffer[count] = '\0';
    *out_bytes = count;
    return CLEAT_OK;
}

/* ---- numbers ------------------------------------------------------------ */

enum cleat_status cleat_json_u64(const char *text,
                                 const struct cleat_json_value *value,
                                 uint64_t *number, struct cleat_error *error)
{
    uint64_t sum = 0;
    bool overflows = false;

    CLEAT_ASSERT(text != NULL && value != NULL);
    CLEAT_ASSERT(number != NULL);
    *number = 0;
    for (size_t i = 0; i < value->bytes; i++) {
        uint32_t digit = (uint32_t)(text[value->offset + i] - '0');

        if (value->type != CLEAT_JSON_NUMBER || digit > 9) {
            return refuse(error, CLEAT_MALFORMED, value->offset,
                          CLEAT_TEXT("json: expected a whole number"));
        }
        overflows |= sum > UINT64_MAX / 10;
        sum = sum * 10 + digit;
        overflows |= sum < digit;
    }
    if (overflows) {
        return refuse(error, CLEAT_LIMIT, value->offset,
                      CLEAT_TEXT("json: the number is too large"));
    }
    *number = sum;
    return CLEAT_OK;
}

enum cleat_status cleat_json_i64(const char *text,
                                 const struct cleat_json_value *value,
                                 int64_t *number, struct cleat_error *error)
{
    struct cleat_json_value digits = *value;
    size_t minus = text[value->offset] == '-' ? 1 : 0;
    uint64_t size;
    enum cleat_status status;

    CLEAT_ASSERT(number != NULL);
    CLEAT_ASSERT(value->bytes >= 1);
    *number = 0;
    digits.offset += minus;
    digits.bytes -= minus;
    status = cleat_json_u64(text, &digits, &size, error);
    if (size > (uint64_t)INT64_MAX + minus) {
        return refuse(error, CLEAT_LIMIT, digits.offset,
                      CLEAT_TEXT("json: the number is too large"));
    }
    /* Two steps, because -INT64_MIN is no int64_t. */
    *number = minus && size > 0 ? -(int64_t)(size - 1) - 1 : (int64_t)size;
    return status;
}

/* ---- duplicate keys ----------------------------------------------------- */

/* FNV-1a (draft-eastlake-fnv), 32 bits, of the key without its escapes. */
static uint32_t hash_key(const char *text, size_t offset, size_t end)
{
    uint32_t hash = 2166136261u;
    struct decoder d;

    CLEAT_ASSERT(text[offset] == '"');
    decode_from(&d, text, offset, end);
    for (int c = next_byte(&d); c != NO_BYTE; c = next_byte(&d)) {
        hash = (hash ^ (uint32_t)c) * 16777619u;
    }
    CLEAT_ASSERT(d.pos <= d.end && d.pending == 0);
    return hash;
}

static bool same_key(const char *text, size_t a, size_t b, size_t end)
{
    struct decoder in_a;
    struct decoder in_b;
    int c;

    CLEAT_ASSERT(a != b);
    CLEAT_ASSERT(a < end && b < end);
    decode_from(&in_a, text, a, end);
    decode_from(&in_b, text, b, end);
    do {
        c = next_byte(&in_a);
        if (c != next_byte(&in_b)) { return false; }
    } while (c != NO_BYTE);
    CLEAT_ASSERT(in_a.pending == 0 && in_b.pending == 0);
    return true;
}

/* Puts a key into the hash table; false when it is there already. A word is
 * the offset of a key, which is never 0: a bracket comes before it. */
static bool insert_key(const char *text, size_t offset, size_t end,
                       uint32_t *scratch, uint32_t count)
{
    uint32_t hash = hash_key(text, offset, end);
    uint32_t slot = (uint32_t)(((uint64_t)hash * count) >> 32);

    CLEAT_ASSERT(offset != 0 && offset < end);
    CLEAT_ASSERT(slot < count);
    CLEAT_ASSERT(count >= 2);
    /* The caller keeps one word free, so that this ends. */
    while (scratch[slot] != 0) {
        if (same_key(text, scratch[slot], offset, end)) { return false; }
        slot = slot + 1 < count ? slot + 1 : 0;
    }
    scratch[slot] = (uint32_t)offset;
    return true;
}

enum cleat_status cleat_json_unique_keys(const char *text,
                                         const struct cleat_json_value *object,
                                         uint32_t *scratch,
                                         size_t scratch_count,
                                         struct cleat_error *error)
{
    size_t end = object->offset + object->bytes;
    uint32_t count = scratch_count < UINT32_MAX ? (uint32_t)scratch_count
                                                : UINT32_MAX;
    uint32_t members = 0;
    struct cleat_json_cursor cursor;
    struct cleat_json_value key;
    struct cleat_json_value value;

    CLEAT_ASSERT(scratch != NULL || scratch_count == 0);
    CLEAT_ASSERT(end > object->offset);
    if (object->type != CLEAT_JSON_OBJECT) { return CLEAT_OK; }
    if (end - 1 >= UINT32_MAX) {
        return refuse(error, CLEAT_LIMIT, UINT32_MAX,
                      CLEAT_TEXT("json: the text is too long"));
    }
    if (count > 0) { memset(scratch, 0, count * sizeof *scratch); }
    cleat_json_open(text, object, &cursor);
    for (; cleat_json_next_member(text, &cursor, &key, &value); members++) {
        /* Where the words run out, the rest is only counted. */
        if (members + 1 < count && key.type == CLEAT_JSON_STRING &&
            !insert_key(text, key.offset, end, scratch, count)) {
            return cleat_error_set(
                error, CLEAT_EXISTS, members, key.offset,
                CLEAT_TEXT("json: the key is there already"));
        }
    }
    if (members >= count) {
        return refuse(error, CLEAT_TOO_SMALL, (size_t)members + 1,
                      CLEAT_TEXT("json: more members than scratch words"));
    }
    return CLEAT_OK;
}
