/* Cleat: the command line of the `cleat` command. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Options are long, `--name value` or `--name=value`; a flag takes no value;
 * `--` ends them. A sub-command has one table of them:
 *
 *     uint64_t replicas = 4;
 *     uint32_t mode = 0;
 *     struct option table[] = {
 *         {.name = "replicas", .kind = OPTION_COUNT, .to = &replicas,
 *          .min = 1, .max = 64},
 *         {.name = "mode", .kind = OPTION_CHOICE, .to = &mode,
 *          .choices = "staged|in-place"},
 *     };
 *     struct options options = {.command = "cleat sync", .table = table,
 *                               .count = sizeof table / sizeof table[0]};
 *     if (options_parse(&options, argc, argv) != 0) { return 2; }
 *
 * What is not given keeps what the variable held: that is the default. Every
 * error is one line on stderr that names the command and the option.
 */
#ifndef CLEAT_TOOLS_OPTIONS_H
#define CLEAT_TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_kind {
    OPTION_FLAG,    /* bool: becomes true */
    OPTION_TEXT,    /* const char *: the value itself, not empty */
    OPTION_TEXTS,   /* struct option_texts: may be given again and again */
    OPTION_COUNT,   /* uint64_t: plain digits */
    OPTION_AMOUNT,  /* uint64_t: digits, a fraction, then K, M, G (or B) or T
                       for powers of 1000: "500M", "1.5B" */
    OPTION_SECONDS, /* uint64_t nanoseconds: seconds, with a fraction or
                       without: "10", "0.25" */
    OPTION_CHOICE   /* uint32_t: the position in `choices`, from 0 */
};

struct option_texts {
    const char **items; /* the caller's array */
    size_t items_max;
    size_t count;
};

struct option {
    const char *name; /* without its dashes */
    enum option_kind kind;
    void *to;            /* what the kind says */
    uint64_t min;        /* of a number, inclusive (seconds: in nanoseconds) */
    uint64_t max;        /* the same; 0: no limit */
    const char *choices; /* "staged|in-place" */
    bool required;
    uint32_t given; /* out: how often it was given */
};

struct options {
    const char *command; /* what an error line starts with */
    struct option *table;
    size_t count;
    const char **operands;     /* for what is not an option; may be NULL */
    size_t operands_min;       /* how many are needed */
    size_t operands_max;       /* how many there may be; size of `operands` */
    const char *operands_name; /* "FILE|DIR", for the error line */
    size_t operands_given;     /* out */
};

/* Parses argv[1] … argv[argc - 1]; argv[0] is the sub-command's own name.
 * Returns 0; 2 after one line on stderr (unknown, repeated, missing or
 * malformed option, one too many or too few operands). On error the variables
 * hold what came before the error. */
int options_parse(struct options *options, int argc, char **argv);

/* One line on stderr, "<command>: <text>\n", with '?' for each control
 * character of the text. Returns 2, the exit status for bad input or usage. */
int options_fail(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Digits only, no sign, no spaces, no leading zero but "0" itself. False when
 * it is anything else or does not fit. */
bool options_count(const char *text, uint64_t *value);

/* Digits and an optional fraction, times `scale`; what is finer than 1 is cut.
 * ("0.25", 1000000000) is 250000000. False for anything else, and when the
 * result does not fit. */
bool options_decimal(const char *text, uint64_t scale, uint64_t *value);

/* options_decimal with an optional last letter K, M, G, B or T, either case. */
bool options_amount(const char *text, uint64_t *value);

#endif
