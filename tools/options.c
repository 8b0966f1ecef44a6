/* Cleat: the command line of the `cleat` command. SPDX-License-Identifier:
 * Apache-2.0 */
#include "options.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)

/* Room for a path, and for what is wrong with it. */
#define LINE_BYTES_MAX 8192u

int options_fail(const char *command, const char *format, ...)
{
    char line[LINE_BYTES_MAX];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    /* What was typed may hold anything; what is printed is one line. */
    for (char *at = line; *at != '\0'; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7F) { *at = '?'; }
    }
    fprintf(stderr, "%s: %s\n", command, line);
    return 2;
}

static bool is_digit(char letter)
{
    return letter >= '0' && letter <= '9';
}

/* value = value * 10 + digit, or false. */
static bool push_digit(uint64_t *value, char digit)
{
    return !__builtin_mul_overflow(*value, 10u, value) &&
           !__builtin_add_overflow(*value, (uint64_t)(digit - '0'), value);
}

bool options_count(const char *text, uint64_t *value)
{
    uint64_t sum = 0;

    if (text[0] == '\0' || (text[0] == '0' && text[1] != '\0')) {
        return false;
    }
    for (; *text != '\0'; text++) {
        if (!is_digit(*text) || !push_digit(&sum, *text)) { return false; }
    }
    *value = sum;
    return true;
}

/* The first `bytes` letters of `text`, as options_decimal. */
static bool decimal(const char *text, size_t bytes, uint64_t scale,
                    uint64_t *value)
{
    uint64_t sum = 0;
    size_t at = 0;

    for (; at < bytes && is_digit(text[at]); at++) {
        if (!push_digit(&sum, text[at])) { return false; }
    }
    if (at == 0 || __builtin_mul_overflow(sum, scale, &sum)) { return false; }
    if (at < bytes && text[at] == '.') {
        if (++at == bytes) { return false; }
        /* The scales are powers of ten: the division is exact until it has
         * reached what is cut. */
        for (; at < bytes && is_digit(text[at]); at++) {
            scale /= 10;
            if (__builtin_add_overflow(sum, (uint64_t)(text[at] - '0') * scale,
                                       &sum)) {
                return false;
            }
        }
    }
    if (at != bytes) { return false; }
    *value = sum;
    return true;
}

bool options_decimal(const char *text, uint64_t scale, uint64_t *value)
{
    return decimal(text, strlen(text), scale, value);
}

bool options_amount(const char *text, uint64_t *value)
{
    size_t bytes = strlen(text);
    uint64_t scale = 1;

    switch (bytes == 0 ? '\0' : toupper((unsigned char)text[bytes - 1])) {
    case 'K': scale = UINT64_C(1000); break;
    case 'M': scale = UINT64_C(1000000); break;
    case 'G':
    case 'B': scale = UINT64_C(1000000000); break;
    case 'T': scale = UINT64_C(1000000000000); break;
    default: break;
    }
    return decimal(text, scale == 1 ? bytes : bytes - 1, scale, value);
}

static bool choose(const char *choices, const char *value, uint32_t *position)
{
    size_t bytes = strlen(value);

    for (uint32_t i = 0;; i++) {
        size_t here = strcspn(choices, "|");

        if (here == bytes && memcmp(choices, value, bytes) == 0) {
            *position = i;
            return true;
        }
        if (choices[here] == '\0') { return false; }
        choices += here + 1;
    }
}

/* Prints a bound as it would be typed. */
static int out_of_range(const char *command, const struct option *option,
                        const char *value)
{
    uint64_t unit = option->kind == OPTION_SECONDS ? NS_PER_S : 1;
    int digits = option->kind == OPTION_SECONDS ? 3 : 0;
    double min = (double)option->min / (double)unit;
    double max = (double)option->max / (double)unit;

    if (option->max == 0) {
        return options_fail(command, "--%s %s: must be at least %.*f",
                            option->name, value, digits, min);
    }
    return options_fail(command, "--%s %s: must be %.*f to %.*f", option->name,
                        value, digits, min, digits, max);
}

static int take_number(const char *command, const struct option *option,
                       const char *value)
{
    uint64_t number = 0;

    if (option->kind == OPTION_COUNT && !options_count(value, &number)) {
        return options_fail(command, "--%s %s: expected a whole number",
                            option->name, value);
    }
    if (option->kind == OPTION_AMOUNT && !options_amount(value, &number)) {
        return options_fail(command,
                            "--%s %s: expected a number, then K, M, G, B, T or "
                            "nothing, as in 500M",
                            option->name, value);
    }
    if (option->kind == OPTION_SECONDS &&
        !options_decimal(value, NS_PER_S, &number)) {
        return options_fail(command,
                            "--%s %s: expected seconds, as in 10 or "
                            "0.25",
                            option->name, value);
    }
    if (number < option->min || (option->max != 0 && number > option->max)) {
        return out_of_range(command, option, value);
    }
    memcpy(option->to, &number, sizeof number);
    return 0;
}

static int take_text(const char *command, const struct option *option,
                     const char *value)
{
    if (value[0] == '\0') {
        return options_fail(command, "--%s: the value is empty", option->name);
    }
    if (option->kind == OPTION_TEXTS) {
        struct option_texts *texts = option->to;

        if (texts->count == texts->items_max) {
            return options_fail(command, "--%s %s: at most %zu of them",
                                option->name, value, texts->items_max);
        }
        texts->items[texts->count++] = value;
        return 0;
    }
    memcpy(option->to, &value, sizeof value);
    return 0;
}

static int take(const char *command, const struct option *option,
                const char *value)
{
    uint32_t position = 0;

    switch (option->kind) {
    case OPTION_FLAG: *(bool *)option->to = true; return 0;
    case OPTION_TEXT:
    case OPTION_TEXTS: return take_text(command, option, value);
    case OPTION_CHOICE:
        if (!choose(option->choices, value, &position)) {
            return options_fail(command, "--%s %s: expected %s", option->name,
                                value, option->choices);
        }
        memcpy(option->to, &position, sizeof position);
        return 0;
    case OPTION_COUNT:
    case OPTION_AMOUNT:
    case OPTION_SECONDS: break;
    }
    return take_number(command, option, value);
}

static struct option *find(const struct options *options, const char *name,
                           size_t name_bytes)
{
    for (size_t i = 0; i < options->count; i++) {
        if (strlen(options->table[i].name) == name_bytes &&
            memcmp(options->table[i].name, name, name_bytes) == 0) {
            return &options->table[i];
        }
    }
    return NULL;
}

static int take_operand(struct options *options, const char *operand)
{
    if (operand[0] == '\0') {
        return options_fail(options->command, "an argument is empty");
    }
    if (options->operands_given == options->operands_max) {
        return options_fail(options->command, "%s: unexpected argument",
                            operand);
    }
    options->operands[options->operands_given++] = operand;
    return 0;
}

/* One option, argv[*at], and its value, which may be the next argument. */
static int take_option(struct options *options, int argc, char **argv, int *at)
{
    const char *name = argv[*at] + 2;
    size_t name_bytes = strcspn(name, "=");
    const char *value = name[name_bytes] == '=' ? name + name_bytes + 1 : NULL;
    struct option *option = find(options, name, name_bytes);

    if (option == NULL) {
        return options_fail(options->command, "--%.*s: there is no such option",
                            (int)name_bytes, name);
    }
    if (option->kind == OPTION_FLAG) {
        if (value != NULL) {
            return options_fail(options->command, "--%s: takes no value",
                                option->name);
        }
    } else if (value == NULL) {
        if (*at + 1 == argc) {
            return options_fail(options->command, "--%s: needs a value",
                                option->name);
        }
        value = argv[++*at];
    }
    if (option->given != 0 && option->kind != OPTION_TEXTS) {
        return options_fail(options->command, "--%s: given twice",
                            option->name);
    }
    option->given++;
    return take(options->command, option, value);
}

static int check_complete(const struct options *options)
{
    for (size_t i = 0; i < options->count; i++) {
        if (options->table[i].required && options->table[i].given == 0) {
            return options_fail(options->command, "--%s: must be given",
                                options->table[i].name);
        }
    }
    if (options->operands_given < options->operands_min) {
        return options_fail(options->command, "%s: must be given",
                            options->operands_name);
    }
    return 0;
}

int options_parse(struct options *options, int argc, char **argv)
{
    bool ended = false;

    for (int i = 1; i < argc; i++) {
        int result = 0;

        if (!ended && strcmp(argv[i], "--") == 0) {
            ended = true;
        } else if (!ended && argv[i][0] == '-' && argv[i][1] == '-') {
            result = take_option(options, argc, argv, &i);
        } else if (!ended && argv[i][0] == '-' && argv[i][1] != '\0') {
            result = options_fail(options->command,
                                  "%s: there is no such option", argv[i]);
        } else {
            result = take_operand(options, argv[i]);
        }
        if (result != 0) { return result; }
    }
    return check_complete(options);
}
