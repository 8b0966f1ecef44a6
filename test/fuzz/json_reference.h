/* Cleat: JSON, slowly and obviously. SPDX-License-Identifier: Apache-2.0
 *
 * The grammar of RFC 8259, one function a production, recursive. What
 * core/json.c says is compared with what this says; they share no line. */
#ifndef CLEAT_TEST_JSON_REFERENCE_H
#define CLEAT_TEST_JSON_REFERENCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct reference {
    const unsigned char *text;
    size_t bytes;
    size_t at;
    unsigned depth_max;
    bool too_deep;
    size_t values; /* values seen, keys not counted */
};

static bool reference_value(struct reference *r, unsigned depth);

/* Takes the byte at hand if it is one of `set`. */
static bool reference_one_of(struct reference *r, const char *set)
{
    if (r->at == r->bytes || r->text[r->at] == 0) { return false; }
    if (strchr(set, r->text[r->at]) == NULL) { return false; }
    r->at++;
    return true;
}

static bool reference_between(struct reference *r, unsigned low, unsigned high)
{
    if (r->at == r->bytes) { return false; }
    if (r->text[r->at] < low || r->text[r->at] > high) { return false; }
    r->at++;
    return true;
}

static void reference_ws(struct reference *r)
{
    while (reference_one_of(r, " \t\n\r")) {}
}

static bool reference_literal(struct reference *r, const char *word)
{
    for (size_t i = 0; word[i] != 0; i++) {
        const char one[2] = {word[i], 0};

        if (!reference_one_of(r, one)) { return false; }
    }
    return true;
}

#define REFERENCE_DIGITS "0123456789"

static bool reference_number(struct reference *r)
{
    reference_one_of(r, "-");
    if (!reference_one_of(r, "0")) {
        if (!reference_one_of(r, "123456789")) { return false; }
        while (reference_one_of(r, REFERENCE_DIGITS)) {}
    }
    if (reference_one_of(r, ".")) {
        if (!reference_one_of(r, REFERENCE_DIGITS)) { return false; }
        while (reference_one_of(r, REFERENCE_DIGITS)) {}
    }
    if (reference_one_of(r, "eE")) {
        reference_one_of(r, "+-");
        if (!reference_one_of(r, REFERENCE_DIGITS)) { return false; }
        while (reference_one_of(r, REFERENCE_DIGITS)) {}
    }
    return true;
}

/* RFC 3629, section 4, as its ABNF stands there. */
static bool reference_utf8(struct reference *r)
{
#define TAIL(r) reference_between((r), 0x80, 0xBF)
    if (reference_between(r, 0xC2, 0xDF)) { return TAIL(r); }
    if (reference_between(r, 0xE0, 0xE0)) {
        return reference_between(r, 0xA0, 0xBF) && TAIL(r);
    }
    if (reference_between(r, 0xE1, 0xEC)) { return TAIL(r) && TAIL(r); }
    if (reference_between(r, 0xED, 0xED)) {
        return reference_between(r, 0x80, 0x9F) && TAIL(r);
    }
    if (reference_between(r, 0xEE, 0xEF)) { return TAIL(r) && TAIL(r); }
    if (reference_between(r, 0xF0, 0xF0)) {
        return reference_between(r, 0x90, 0xBF) && TAIL(r) && TAIL(r);
    }
    if (reference_between(r, 0xF1, 0xF3)) {
        return TAIL(r) && TAIL(r) && TAIL(r);
    }
    if (reference_between(r, 0xF4, 0xF4)) {
        return reference_between(r, 0x80, 0x8F) && TAIL(r) && TAIL(r);
    }
    return false;
#undef TAIL
}

static bool reference_string(struct reference *r)
{
    if (!reference_one_of(r, "\"")) { return false; }
    while (!reference_one_of(r, "\"")) {
        if (reference_one_of(r, "\\")) {
            if (reference_one_of(r, "u")) {
                for (int i = 0; i < 4; i++) {
                    if (!reference_one_of(r, "0123456789abcdefABCDEF")) {
                        return false;
                    }
                }
            } else if (!reference_one_of(r, "\"\\/bfnrt")) {
                return false;
            }
        } else if (!reference_between(r, 0x20, 0x7F) && !reference_utf8(r)) {
            return false;
        }
    }
    return true;
}

static bool reference_array(struct reference *r, unsigned depth)
{
    reference_one_of(r, "[");
    reference_ws(r);
    if (reference_one_of(r, "]")) { return true; }
    do {
        if (!reference_value(r, depth)) { return false; }
    } while (reference_one_of(r, ","));
    return reference_one_of(r, "]");
}

static bool reference_object(struct reference *r, unsigned depth)
{
    reference_one_of(r, "{");
    reference_ws(r);
    if (reference_one_of(r, "}")) { return true; }
    do {
        reference_ws(r);
        if (!reference_string(r)) { return false; }
        reference_ws(r);
        if (!reference_one_of(r, ":")) { return false; }
        if (!reference_value(r, depth)) { return false; }
    } while (reference_one_of(r, ","));
    return reference_one_of(r, "}");
}

/* A value and the space around it. */
static bool reference_value(struct reference *r, unsigned depth)
{
    bool good;
    int c;

    reference_ws(r);
    r->values++;
    c = r->at < r->bytes ? r->text[r->at] : -1;
    if ((c == '[' || c == '{') && depth == r->depth_max) {
        r->too_deep = true;
        return false;
    }
    switch (c) {
    case '[': good = reference_array(r, depth + 1); break;
    case '{': good = reference_object(r, depth + 1); break;
    case '"': good = reference_string(r); break;
    case 't': good = reference_literal(r, "true"); break;
    case 'f': good = reference_literal(r, "false"); break;
    case 'n': good = reference_literal(r, "null"); break;
    default: good = reference_number(r); break;
    }
    if (good) { reference_ws(r); }
    return good;
}

/* Whether the whole text is valid; if not, r.at is the first byte that cannot
 * stand where it stands. */
static bool reference_check(struct reference *r, const void *text, size_t bytes,
                            unsigned depth_max)
{
    memset(r, 0, sizeof *r);
    r->text = text;
    r->bytes = bytes;
    r->depth_max = depth_max;
    return reference_value(r, 0) && r->at == bytes;
}

/* ---- strings ------------------------------------------------------------ */

/* A string as code points; surrogates that have no partner stay alone. */
struct reference_text {
    uint32_t *points;
    size_t count;
    bool has_lone;
    bool has_nul;
};

static uint32_t reference_hex4(const unsigned char *digits)
{
    char four[5] = {0};

    memcpy(four, digits, 4);
    return (uint32_t)strtoul(four, NULL, 16);
}

/* Decodes a valid string, quotes included. The caller frees `points`. */
static struct reference_text reference_decode(const unsigned char *s,
                                              size_t bytes)
{
    struct reference_text t = {malloc((bytes + 1) * sizeof(uint32_t)), 0, false,
                               false};
    size_t kept = 0;

    for (size_t i = 1; i + 1 < bytes;) {
        uint32_t c = s[i];

        if (c == '\\' && s[i + 1] == 'u') {
            c = reference_hex4(s + i + 2);
            i += 6;
        } else if (c == '\\') {
            const char *from = "\"\\/bfnrt";
            const char *to = "\"\\/\b\f\n\r\t";

            c = (unsigned char)to[strchr(from, s[i + 1]) - from];
            i += 2;
        } else if (c < 0x80) {
            i += 1;
        } else if (c < 0xE0) {
            c = (c & 0x1Fu) << 6 | (s[i + 1] & 0x3Fu);
            i += 2;
        } else if (c < 0xF0) {
            c = (c & 0x0Fu) << 12 | (s[i + 1] & 0x3Fu) << 6 |
                (s[i + 2] & 0x3Fu);
            i += 3;
        } else {
            c = (c & 0x07u) << 18 | (s[i + 1] & 0x3Fu) << 12 |
                (s[i + 2] & 0x3Fu) << 6 | (s[i + 3] & 0x3Fu);
            i += 4;
        }
        t.points[t.count++] = c;
    }
    /* Join the pairs, in a second pass. */
    for (size_t i = 0; i < t.count; i++) {
        uint32_t c = t.points[i];

        if (c >= 0xD800 && c <= 0xDBFF && i + 1 < t.count &&
            t.points[i + 1] >= 0xDC00 && t.points[i + 1] <= 0xDFFF) {
            c = 0x10000 + (c - 0xD800) * 0x400 + (t.points[i + 1] - 0xDC00);
            i++;
        } else if (c >= 0xD800 && c <= 0xDFFF) {
            t.has_lone = true;
        }
        if (c == 0) { t.has_nul = true; }
        t.points[kept++] = c;
    }
    t.count = kept;
    return t;
}

static bool reference_same(const struct reference_text *a,
                           const struct reference_text *b)
{
    return a->count == b->count &&
           memcmp(a->points, b->points, a->count * sizeof(uint32_t)) == 0;
}

/* As UTF-8, lone surrogates as U+FFFD. Returns the bytes written; `out` has
 * room for four a point. */
static size_t reference_encode(const struct reference_text *t,
                               unsigned char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < t->count; i++) {
        uint32_t c = t->points[i];

        if (c >= 0xD800 && c <= 0xDFFF) { c = 0xFFFD; }
        if (c < 0x80) {
            out[n++] = (unsigned char)c;
        } else if (c < 0x800) {
            out[n++] = (unsigned char)(0xC0 + c / 64);
            out[n++] = (unsigned char)(0x80 + c % 64);
        } else if (c < 0x10000) {
            out[n++] = (unsigned char)(0xE0 + c / 4096);
            out[n++] = (unsigned char)(0x80 + c / 64 % 64);
            out[n++] = (unsigned char)(0x80 + c % 64);
        } else {
            out[n++] = (unsigned char)(0xF0 + c / 262144);
            out[n++] = (unsigned char)(0x80 + c / 4096 % 64);
            out[n++] = (unsigned char)(0x80 + c / 64 % 64);
            out[n++] = (unsigned char)(0x80 + c % 64);
        }
    }
    return n;
}

#endif
