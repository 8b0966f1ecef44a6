/* Cleat: YAML scalars as OmegaConf reads them. SPDX-License-Identifier:
 * Apache-2.0
 *
 * OmegaConf 2.2 resolves plain scalars as PyYAML does (YAML 1.1), without
 * timestamps and with floats that need no point before their exponent. What a
 * number is follows from the regular expressions there, and is written beside
 * each function here.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config.h"

/* The longest number that is written. */
#define DIGITS_MAX 512u

/* ---- matching ------------------------------------------------------------ */

/* Text that is being matched; `at` moves on over what was. */
struct match {
    const char *at;
    const char *end;
};

static int peek(const struct match *m)
{
    return m->at < m->end ? (unsigned char)*m->at : -1;
}

static bool take(struct match *m, const char *set)
{
    int c = peek(m);

    if (c <= 0 || strchr(set, c) == NULL) { return false; }
    m->at++;
    return true;
}

/* [set]*; whether there was one. */
static bool take_all(struct match *m, const char *set)
{
    const char *before = m->at;

    while (take(m, set)) {}
    return m->at > before;
}

static const char digits[] = "0123456789";
static const char digits_low[] = "0123456789_";

/* [0-9][0-9_]* */
static bool take_digits(struct match *m)
{
    if (!take(m, digits)) { return false; }
    take_all(m, digits_low);
    return true;
}

/* (:[0-5]?[0-9])+ */
static bool take_sixtieths(struct match *m)
{
    const char *before = m->at;

    while (peek(m) == ':') {
        struct match part = {m->at + 1, m->end};
        bool tens = take(&part, "012345");

        if (!take(&part, digits) && !tens) { break; }
        m->at = part.at;
    }
    return m->at > before;
}

static bool is_one_of(const char *text, size_t bytes, const char *const *words)
{
    for (; *words != NULL; words++) {
        if (strlen(*words) == bytes && memcmp(*words, text, bytes) == 0) {
            return true;
        }
    }
    return false;
}

/* [-+]?0b[0-1_]+ | [-+]?0[0-7_]+ | [-+]?(0|[1-9][0-9_]*)
 * | [-+]?0x[0-9a-fA-F_]+ | [-+]?[1-9][0-9_]*(:[0-5]?[0-9])+ */
static bool is_int(struct match m)
{
    take(&m, "-+");
    if (peek(&m) != '0') {
        return take_digits(&m) && (take_sixtieths(&m), m.at == m.end);
    }
    m.at++;
    if (m.at == m.end) { return true; }
    if (take(&m, "b")) { return take_all(&m, "01_") && m.at == m.end; }
    if (take(&m, "x")) {
        return take_all(&m, "0123456789abcdefABCDEF_") && m.at == m.end;
    }
    return take_all(&m, "01234567_") && m.at == m.end;
}

/* [eE][-+]?[0-9]+, where a sign may have to be there. */
static bool take_exponent(struct match *m, bool signed_too)
{
    if (!take(m, "eE")) { return false; }
    if (!take(m, "-+") && signed_too) { return false; }
    return take_all(m, digits);
}

static const char *const infinities[] = {".inf", ".Inf", ".INF", NULL};
static const char *const nans[] = {".nan", ".NaN", ".NAN", NULL};

/* \.[0-9_]+([eE][-+][0-9]+)? | \.(nan|NaN|NAN) */
static bool is_point_float(struct match m)
{
    if (is_one_of(m.at, (size_t)(m.end - m.at), nans)) { return true; }
    if (!take(&m, ".") || !take_all(&m, digits_low)) { return false; }
    return m.at == m.end || (take_exponent(&m, true) && m.at == m.end);
}

/* [-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?
 * | [-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
 * | [-+]?[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]* | [-+]?\.(inf|Inf|INF) */
static bool is_float(struct match m)
{
    if (is_point_float(m)) { return true; }
    take(&m, "-+");
    if (is_one_of(m.at, (size_t)(m.end - m.at), infinities)) { return true; }
    if (!take_digits(&m)) { return false; }
    if (take_sixtieths(&m)) {
        return take(&m, ".") && (take_all(&m, digits_low), m.at == m.end);
    }
    if (take(&m, ".")) {
        take_all(&m, digits_low);
        if (m.at == m.end) { return true; }
    }
    return take_exponent(&m, false) && m.at == m.end;
}

enum mcp_scalar_kind mcp_scalar_resolve(const char *text, size_t bytes)
{
    static const char *const nulls[] = {"~", "null", "Null", "NULL", "", NULL};
    static const char *const trues[] = {"yes",  "Yes", "YES", "true", "True",
                                        "TRUE", "on",  "On",  "ON",   NULL};
    static const char *const falses[] = {
        "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", NULL};
    static const char *const others[] = {"<<", "=", NULL};
    struct match m = {text, text + bytes};

    if (is_one_of(text, bytes, nulls)) { return MCP_SCALAR_NULL; }
    if (is_one_of(text, bytes, trues)) { return MCP_SCALAR_TRUE; }
    if (is_one_of(text, bytes, falses)) { return MCP_SCALAR_FALSE; }
    if (is_one_of(text, bytes, others)) { return MCP_SCALAR_OTHER; }
    if (is_int(m)) { return MCP_SCALAR_INT; }
    return is_float(m) ? MCP_SCALAR_FLOAT : MCP_SCALAR_STRING;
}

/* ---- numbers ------------------------------------------------------------- */

/* A number without its sign and underscores. */
struct plain {
    bool minus;
    char text[DIGITS_MAX + 1];
    size_t bytes;
};

static bool make_plain(const char *text, size_t bytes, struct plain *number)
{
    memset(number, 0, sizeof *number);
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '-' && i == 0) { number->minus = true; }
        if (text[i] == '_' || (i == 0 && strchr("-+", text[i]) != NULL)) {
            continue;
        }
        if (number->bytes == DIGITS_MAX) { return false; }
        number->text[number->bytes++] = text[i];
    }
    return true;
}

static const char too_long[] = "a number that is too long";

/* Digits of a base, colons between those of base 60. */
static bool sum_up(const char *text, uint64_t base, uint64_t *sum)
{
    uint64_t part = 0;

    *sum = 0;
    for (;; text++) {
        uint64_t digit = 0;

        if (*text == ':' || *text == '\0') {
            if (*sum > (UINT64_MAX - part) / 60) { return false; }
            *sum = *sum * 60 + part;
            part = 0;
            if (*text == '\0') { return true; }
            continue;
        }
        digit = *text <= '9' ? (uint64_t)(*text - '0')
                             : (uint64_t)((*text | 0x20) - 'a' + 10);
        if (part > (UINT64_MAX - digit) / base) { return false; }
        part = part * base + digit;
    }
}

/* A number that is not plain decimal. */
static const char *write_based(const struct plain *number, const char *text,
                               uint64_t base, struct mcp_json_out *out)
{
    char decimal[32];
    uint64_t sum;

    if (*text == '\0') { return "a number without digits"; }
    if (!sum_up(text, base, &sum)) { return too_long; }
    snprintf(decimal, sizeof decimal, "%s%llu",
             number->minus && sum != 0 ? "-" : "", (unsigned long long)sum);
    mcp_json_puts(out, decimal);
    return NULL;
}

const char *mcp_scalar_write_int(const char *text, size_t bytes,
                                 struct mcp_json_out *out)
{
    struct plain number;

    if (!make_plain(text, bytes, &number)) { return too_long; }
    if (number.text[0] == '0') {
        const char *rest = number.text + 1;

        if (*rest == 'b') { return write_based(&number, rest + 1, 2, out); }
        if (*rest == 'x') { return write_based(&number, rest + 1, 16, out); }
        return write_based(&number, number.text, 8, out);
    }
    if (strchr(number.text, ':') != NULL) {
        return write_based(&number, number.text, 10, out);
    }
    if (number.minus) { mcp_json_puts(out, "-"); }
    mcp_json_put(out, number.text, number.bytes);
    return NULL;
}

/* The parts of a float. */
struct parts {
    const char *whole; /* digits, none of them a leading zero */
    size_t whole_bytes;
    const char *fraction;
    size_t fraction_bytes;
    const char *exponent; /* with its sign */
    size_t exponent_bytes;
    bool point;
};

static void split(const char *text, struct parts *parts)
{
    memset(parts, 0, sizeof *parts);
    while (text[0] == '0' && text[1] >= '0' && text[1] <= '9') { text++; }
    parts->whole = text;
    parts->whole_bytes = strspn(text, digits);
    text += parts->whole_bytes;
    parts->point = *text == '.';
    if (parts->point) { text++; }
    parts->fraction = text;
    parts->fraction_bytes = strspn(text, digits);
    text += parts->fraction_bytes;
    if (*text != '\0') { text++; }
    parts->exponent = text;
    parts->exponent_bytes = strlen(text);
}

/* Whether the number is beyond a double. The point is left out: it would
 * depend on the host's locale. */
static bool is_infinite(const struct parts *parts)
{
    char text[DIGITS_MAX + 32];
    long exponent = strtol(parts->exponent, NULL, 10);

    /* Digits at most; beyond that the digits that there are change nothing. */
    if (exponent > 100000) { exponent = 100000; }
    if (exponent < -100000) { exponent = -100000; }
    snprintf(text, sizeof text, "%.*s%.*se%ld", (int)parts->whole_bytes,
             parts->whole, (int)parts->fraction_bytes, parts->fraction,
             exponent - (long)parts->fraction_bytes);
    return isinf(strtod(text, NULL));
}

const char *mcp_scalar_write_float(const char *text, size_t bytes,
                                   struct mcp_json_out *out)
{
    struct plain number;
    struct parts parts;

    if (!make_plain(text, bytes, &number)) { return too_long; }
    if (is_one_of(number.text, number.bytes, infinities) ||
        is_one_of(number.text, number.bytes, nans)) {
        return "an infinite number, or none, which JSON cannot say";
    }
    if (strchr(number.text, ':') != NULL) {
        return "a fraction in base 60, which is not supported: quote it";
    }
    split(number.text, &parts);
    if (parts.whole_bytes + parts.fraction_bytes == 0) {
        return "a number without digits";
    }
    if (is_infinite(&parts)) { return "a number that is too large"; }
    if (number.minus) { mcp_json_puts(out, "-"); }
    mcp_json_put(out, parts.whole, parts.whole_bytes);
    if (parts.whole_bytes == 0) { mcp_json_puts(out, "0"); }
    if (parts.point) { mcp_json_puts(out, "."); }
    mcp_json_put(out, parts.fraction, parts.fraction_bytes);
    if (parts.point && parts.fraction_bytes == 0) { mcp_json_puts(out, "0"); }
    if (parts.exponent_bytes > 0) {
        mcp_json_puts(out, "e");
        mcp_json_put(out, parts.exponent, parts.exponent_bytes);
    }
    return NULL;
}

/* ---- interpolations --------------------------------------------------------
 *
 * OmegaConf's grammar, as far as ${oc.env:NAME} and ${oc.env:NAME,default} need
 * it. The default is a token of that grammar where all of it is one, and then
 * the text that Python's str() gives for it; otherwise it stands as it is. */

static const char letters_low[] = "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ_";

static const char unsupported[] = "an interpolation that is not supported; "
                                  "expected ${oc.env:NAME} or "
                                  "${oc.env:NAME,default}";

static bool is_word(const char *text, size_t bytes, const char *word)
{
    return bytes == strlen(word) && strncasecmp(text, word, bytes) == 0;
}

/* Words that are no text in the grammar. */
static bool is_reserved(const char *text, size_t bytes)
{
    return is_word(text, bytes, "null") || is_word(text, bytes, "true") ||
           is_word(text, bytes, "false") || is_word(text, bytes, "inf") ||
           is_word(text, bytes, "nan");
}

/* 0 | [1-9](_?[0-9])* */
static bool take_unsigned(struct match *m)
{
    if (take(m, "0")) { return true; }
    if (!take(m, "123456789")) { return false; }
    for (;;) {
        struct match next = *m;

        take(&next, "_");
        if (!take(&next, digits)) { return true; }
        *m = next;
    }
}

/* Whether all of it is a FLOAT of the grammar. Some that are none are called
 * one too ("1.__2"): they are refused for nothing. */
static bool is_grammar_float(struct match m)
{
    bool whole;
    bool point;

    take(&m, "-+");
    if (is_word(m.at, (size_t)(m.end - m.at), "inf") ||
        is_word(m.at, (size_t)(m.end - m.at), "nan")) {
        return true;
    }
    whole = take_unsigned(&m);
    point = take(&m, ".");
    if (point) { take_all(&m, digits_low); }
    if (!whole && !point) { return false; }
    if (m.at == m.end) { return point; }
    if (!take(&m, "eE")) { return false; }
    take(&m, "-+");
    return take_all(&m, digits_low) && m.at == m.end;
}

/* Whether Python's repr() of a float is the text itself: few digits, no
 * exponent, no zero too many. */
static bool is_shortest(struct match m)
{
    const char *begin;
    size_t whole;
    size_t fraction;

    take(&m, "-");
    begin = m.at;
    if (!take_all(&m, digits) || !take(&m, ".")) { return false; }
    whole = (size_t)(m.at - begin) - 1;
    fraction = (size_t)(m.end - m.at);
    if (!take_all(&m, digits) || m.at != m.end) { return false; }
    return whole + fraction <= 15 && (*begin != '0' || whole == 1) &&
           (m.end[-1] != '0' || fraction == 1) &&
           !(*begin == '0' && fraction > 3 &&
             memcmp(m.end - fraction, "0000", 4) == 0);
}

/* The default that stands between `text` and its end. */
static const char *write_default(const char *text, size_t bytes,
                                 struct mcp_json_out *out, bool *is_none)
{
    struct match m = {text, text + bytes};
    struct match number = m;

    if (is_word(text, bytes, "null")) {
        *is_none = true;
        mcp_json_puts(out, "None");
        return NULL;
    }
    if (is_word(text, bytes, "true") || is_word(text, bytes, "false")) {
        mcp_json_puts(out, is_word(text, bytes, "true") ? "True" : "False");
        return NULL;
    }
    take(&number, "-+");
    if (take_unsigned(&number) && number.at == number.end) {
        return mcp_scalar_write_int(text, bytes, out);
    }
    if (is_grammar_float(m) && !is_shortest(m)) {
        return "a default that OmegaConf would write otherwise: quote it";
    }
    mcp_json_escaped(out, text, bytes);
    return NULL;
}

/* 'text' or "text", without anything to be undone in it. */
static bool take_quoted(struct match *m, const char **text, size_t *bytes)
{
    int quote = peek(m);

    *text = ++m->at;
    while (m->at < m->end && *m->at != quote) {
        if ((unsigned char)*m->at < 0x20 || *m->at == '\\' || *m->at == '$') {
            return false;
        }
        m->at++;
    }
    *bytes = (size_t)(m->at - *text);
    return take(m, quote == '"' ? "\"" : "'");
}

/* Unquoted text up to the brace; spaces at its end do not belong to it, unless
 * behind a colon, whose token they are part of. */
static bool take_unquoted(struct match *m, const char **text, size_t *bytes)
{
    const char *end = m->at;

    *text = m->at;
    while (m->at < m->end && *m->at != '}') {
        char letter = *m->at;

        if (!take(m, digits) && !take(m, letters_low) &&
            !take(m, "/-+.%*@?|: ")) {
            return false;
        }
        if (letter == ':') { take_all(m, " "); }
        if (letter != ' ') { end = m->at; }
    }
    *bytes = (size_t)(end - *text);
    return *bytes > 0;
}

static const char *write_variable(const char *name, size_t bytes,
                                  struct match *m, struct mcp_json_out *out,
                                  bool *is_none)
{
    char terminated[128];
    const char *value;
    const char *text = NULL;
    size_t text_bytes = 0;
    bool quoted = false;

    if (bytes >= sizeof terminated || is_reserved(name, bytes)) {
        return unsupported;
    }
    memcpy(terminated, name, bytes);
    terminated[bytes] = '\0';
    if (take(m, ",")) {
        take_all(m, " ");
        quoted = peek(m) == '\'' || peek(m) == '"';
        if (quoted ? !take_quoted(m, &text, &text_bytes)
                   : !take_unquoted(m, &text, &text_bytes)) {
            return unsupported;
        }
        take_all(m, " ");
    }
    if (!take(m, "}")) { return unsupported; }
    value = getenv(terminated);
    if (value != NULL) {
        if (mcp_utf8_valid(value, strlen(value)) != strlen(value)) {
            return "an environment variable that is not UTF-8";
        }
        mcp_json_escaped(out, value, strlen(value));
        return NULL;
    }
    if (text == NULL) { return ""; }
    if (!quoted) { return write_default(text, text_bytes, out, is_none); }
    mcp_json_escaped(out, text, text_bytes);
    return NULL;
}

/* One interpolation, which begins at m. */
static const char *write_one(struct match *m, struct mcp_json_out *out,
                             bool *is_none, struct mcp_shown *name)
{
    static const char resolver[] = "oc.env";
    const char *begin;
    size_t bytes;

    *is_none = false;
    m->at += 2;
    take_all(m, " ");
    bytes = sizeof resolver - 1;
    if ((size_t)(m->end - m->at) < bytes || memcmp(m->at, resolver, bytes)) {
        return unsupported;
    }
    m->at += bytes;
    take_all(m, " ");
    if (!take(m, ":")) { return unsupported; }
    take_all(m, " ");
    begin = m->at;
    if (!take(m, letters_low)) { return unsupported; }
    while (take(m, letters_low) || take(m, digits)) {}
    bytes = (size_t)(m->at - begin);
    take_all(m, " ");
    *name = mcp_show_name(begin, bytes);
    return write_variable(begin, bytes, m, out, is_none);
}

/* Whether "${" is at m. */
static bool at_interpolation(const struct match *m)
{
    return m->end - m->at >= 2 && m->at[0] == '$' && m->at[1] == '{';
}

/* Backslashes before "${" stand for half as many; one that is left over makes
 * it text. Returns true if an interpolation follows. */
static bool take_backslashes(struct match *m, struct mcp_json_out *out)
{
    const char *begin = m->at;
    size_t count;

    take_all(m, "\\");
    count = (size_t)(m->at - begin);
    if (!at_interpolation(m)) {
        mcp_json_escaped(out, begin, count);
        return false;
    }
    mcp_json_escaped(out, begin, count / 2);
    if (count % 2 == 0) { return true; }
    mcp_json_escaped(out, m->at, 2);
    m->at += 2;
    return false;
}

const char *mcp_scalar_write_interpolated(const char *text, size_t bytes,
                                          struct mcp_json_out *out,
                                          struct mcp_shown *name)
{
    struct match m = {text, text + bytes};
    size_t start = out->used;
    bool whole = false;
    bool is_none = false;

    mcp_json_puts(out, "\"");
    while (m.at < m.end) {
        const char *before = m.at;

        if (take_backslashes(&m, out)) {
            bool first = m.at == text;
            const char *why = write_one(&m, out, &is_none, name);

            if (why != NULL) { return why; }
            whole = first && m.at == m.end;
        } else if (m.at == before) {
            mcp_json_escaped(out, m.at++, 1);
        }
    }
    if (whole && is_none) {
        out->used = start;
        mcp_json_puts(out, "null");
        return NULL;
    }
    mcp_json_puts(out, "\"");
    if (out->used <= out->bytes && out->used - start == 5 &&
        memcmp(out->text + start, "\"???\"", 5) == 0) {
        return "an interpolation that gives ???, which means missing";
    }
    return NULL;
}
