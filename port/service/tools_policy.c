/* Cleat: how tool lists are fetched, as verl's variables say it.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Numbers are read as Python's int() and float() read them: spaces around, a
 * sign, underscores between digits; "inf" and "nan" are refused, and digits
 * are those of ASCII. */
#include "tools_state.h"

enum { RETRIES, TIMEOUT, BACKOFF_BASE, BACKOFF_MAX, VARIABLES };

static const char *const names[VARIABLES] = {
    "VERL_TOOL_CACHE_INIT_RETRIES", "VERL_TOOL_CACHE_INIT_TIMEOUT_S",
    "VERL_TOOL_CACHE_INIT_BACKOFF_BASE_S",
    "VERL_TOOL_CACHE_INIT_BACKOFF_MAX_S"};

/* A decimal number: digits · 10^exponent. */
struct decimal {
    uint64_t digits;
    int32_t exponent;
    bool negative;
    bool whole; /* without a point and an exponent */
};

#define EXPONENT_MAX 100000

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1C && c <= 0x1F);
}

/* One digit more, and where it stands. */
static void add_digit(struct decimal *number, char digit, bool behind_point)
{
    bool fits = number->digits <= (UINT64_MAX - 9) / 10;

    if (fits) {
        number->digits = number->digits * 10 + (uint64_t)(digit - '0');
    }
    if (fits == behind_point && number->exponent > -EXPONENT_MAX &&
        number->exponent < EXPONENT_MAX) {
        number->exponent += behind_point ? -1 : 1;
    }
}

/* Digits, with single underscores between them. Returns how many characters; 0:
 * there is no digit. */
static size_t read_digits(const char *text, struct decimal *number,
                          bool behind_point)
{
    size_t i = 0;

    while (is_digit(text[i]) ||
           (i > 0 && text[i] == '_' && is_digit(text[i + 1]))) {
        if (text[i] != '_') { add_digit(number, text[i], behind_point); }
        i++;
    }
    return i;
}

/* The number behind an 'e'. Returns how many characters; 0: it is none. */
static size_t read_exponent(const char *text, int32_t *exponent)
{
    struct decimal number = {0, 0, text[0] == '-', true};
    size_t sign = text[0] == '-' || text[0] == '+' ? 1 : 0;
    size_t digits = read_digits(text + sign, &number, false);
    int32_t value = EXPONENT_MAX;

    if (digits == 0) { return 0; }
    if (number.exponent == 0 && number.digits < EXPONENT_MAX) {
        value = (int32_t)number.digits;
    }
    *exponent += number.negative ? -value : value;
    return sign + digits;
}

static bool read_number(const char *text, struct decimal *number)
{
    size_t before;
    size_t behind = 0;

    memset(number, 0, sizeof *number);
    number->whole = true;
    while (is_space(*text)) { text++; }
    number->negative = *text == '-';
    if (*text == '-' || *text == '+') { text++; }
    before = read_digits(text, number, false);
    text += before;
    if (*text == '.') {
        number->whole = false;
        behind = read_digits(++text, number, true);
        text += behind;
    }
    if (before + behind == 0) { return false; }
    if (*text == 'e' || *text == 'E') {
        size_t bytes = read_exponent(++text, &number->exponent);

        if (bytes == 0) { return false; }
        number->whole = false;
        text += bytes;
    }
    while (is_space(*text)) { text++; }
    return *text == '\0';
}

/* The number times 10^places, cut, at most UINT64_MAX; a negative one is 0. */
static uint64_t scaled(const struct decimal *number, int32_t places)
{
    int32_t exponent = number->exponent + places;
    uint64_t value = number->negative ? 0 : number->digits;

    for (; exponent > 0 && value > 0; exponent--) {
        if (value > UINT64_MAX / 10) { return UINT64_MAX; }
        value *= 10;
    }
    for (; exponent < 0 && value > 0; exponent++) { value /= 10; }
    return value;
}

static uint64_t at_least(uint64_t value, uint64_t least)
{
    return value > least ? value : least;
}

/* No wait at all: neither a base of 0 nor a cap of 0 lets one grow. */
static void set(struct cleat_retry_policy *policy, uint32_t variable,
                const struct decimal *number)
{
    uint64_t ns = scaled(number, 9);
    uint64_t count = at_least(scaled(number, 0), 1);

    switch (variable) {
    case RETRIES:
        policy->attempts_max = count < CLEAT_RETRY_UNLIMITED
                                   ? (uint32_t)count
                                   : CLEAT_RETRY_UNLIMITED;
        break;
    case TIMEOUT:
        policy->attempt_timeout_ns = at_least(ns, CLEAT_NS_PER_S / 10);
        break;
    case BACKOFF_BASE:
        policy->base_ns = ns == CLEAT_NONE ? CLEAT_NONE - 1 : ns;
        if (ns == 0) { policy->base_ns = CLEAT_NONE; }
        break;
    default:
        policy->max_ns = ns;
        if (ns == 0) { policy->base_ns = CLEAT_NONE; }
        break;
    }
}

enum cleat_status
cleat_tool_policy_read(struct cleat_retry_policy *policy,
                       const char *(*read)(void *context, const char *name),
                       void *context, struct cleat_error *error)
{
    struct cleat_retry_policy changed = *policy;
    bool any = false;

    for (uint32_t i = 0; i < VARIABLES; i++) {
        const char *text = read(context, names[i]);
        struct decimal number;

        if (text == NULL) { continue; }
        if (!read_number(text, &number) || (i == RETRIES && !number.whole)) {
            return tool_service_say(error, CLEAT_MALFORMED, i, 0,
                                    "%s: \"%.40s\" is no %s", names[i], text,
                                    i == RETRIES ? "whole number"
                                                 : "number of seconds");
        }
        set(&changed, i, &number);
        any = true;
    }
    if (any) { changed.jitter = CLEAT_RETRY_JITTER_NONE; }
    *policy = changed;
    return CLEAT_OK;
}
