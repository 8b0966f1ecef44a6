/* Cleat: a store, opened by what a user types. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "store_open.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "options.h"
#include "store_rows.h"
#ifdef CLEAT_TOOLS_MOONCAKE
#include "store_mooncake.h"
#endif

/* What a private store has room for where nothing is told, at least. */
#define MEMORY_KEYS_MIN UINT64_C(65536)
#define MEMORY_BYTES_MIN (UINT64_C(256) << 20)

#define STORE_BYTES_MIN UINT64_C(65536)
#define STORE_BYTES_MAX (UINT64_C(1) << 46)

/* ---- the string --------------------------------------------------------- */

enum word_kind { WORD_TEXT, WORD_AMOUNT, WORD_COUNT, WORD_FLAG };

struct word {
    const char *name;
    enum word_kind kind;
    size_t at; /* in struct store_spec */
    uint64_t min;
    uint64_t max;
};

#define WORD(name, kind, member, min, max)                        \
    {                                                             \
        name, kind, offsetof(struct store_spec, member), min, max \
    }

static const struct word memory_words[] = {
    WORD("shared", WORD_TEXT, shared, 0, 0),
    WORD("keys", WORD_COUNT, keys, 1, CLEAT_MEMORY_STORE_KEYS_MAX),
    WORD("bytes", WORD_AMOUNT, bytes, STORE_BYTES_MIN, STORE_BYTES_MAX),
};

static const struct word mooncake_words[] = {
    WORD("library", WORD_TEXT, library, 0, 0),
    WORD("master", WORD_TEXT, master, 0, 0),
    WORD("metadata", WORD_TEXT, metadata, 0, 0),
    WORD("hostname", WORD_TEXT, hostname, 0, 0),
    WORD("protocol", WORD_TEXT, protocol, 0, 0),
    WORD("device", WORD_TEXT, device, 0, 0),
    WORD("segment", WORD_AMOUNT, segment, 1, STORE_BYTES_MAX),
    WORD("local-buffer", WORD_AMOUNT, local_buffer, 1, STORE_BYTES_MAX),
    WORD("staging", WORD_AMOUNT, staging, 1, STORE_BYTES_MAX),
    WORD("replicas", WORD_COUNT, replicas, 1, 64),
    WORD("hard-pin", WORD_FLAG, hard_pin, 0, 0),
    WORD("soft-pin", WORD_FLAG, soft_pin, 0, 0),
};

#define WORDS_MAX 32u

/* Bytes shown of the name of an option that there is not. */
#define UNKNOWN_SHOWN_MAX 100u

struct words {
    const char *store;
    const struct word *each;
    size_t count;
};

static struct words words_of(enum store_kind kind)
{
    static const struct words memory = {
        "memory", memory_words, sizeof memory_words / sizeof memory_words[0]};
    static const struct words mooncake = {"mooncake", mooncake_words,
                                          sizeof mooncake_words /
                                              sizeof mooncake_words[0]};

    return kind == STORE_MOONCAKE ? mooncake : memory;
}

static bool fail(char *line, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool fail(char *line, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(line, STORE_OPEN_LINE_BYTES, format, arguments);
    va_end(arguments);
    return false;
}

/* A list that is being written: ", " goes between. */
struct list {
    char *text;
    size_t bytes;
    size_t at;
};

static void list_add(struct list *list, const char *name, size_t bytes)
{
    if (list->at + bytes + 3 >= list->bytes) { return; }
    if (list->at > 0) {
        memcpy(list->text + list->at, ", ", 2);
        list->at += 2;
    }
    memcpy(list->text + list->at, name, bytes);
    list->at += bytes;
    list->text[list->at] = '\0';
}

void store_options(enum store_kind kind, char *line)
{
    struct words words = words_of(kind);
    struct list list = {line, STORE_OPEN_LINE_BYTES, 0};

    line[0] = '\0';
    for (size_t i = 0; i < words.count; i++) {
        list_add(&list, words.each[i].name, strlen(words.each[i].name));
    }
}

/* The string being read. What is taken from it is written, without its escapes,
 * to spec->text; that never grows longer than the string is. */
struct reader {
    const char *at;
    char *to;
    struct store_spec *spec;
    struct words words;
    bool given[WORDS_MAX];
    char unknown_text[256];
    struct list unknown;
    bool is_unknown; /* there is one */
    char *line;
};

static const struct word *find_word(const struct reader *reader,
                                    const char *name, size_t bytes,
                                    size_t *index)
{
    for (size_t i = 0; i < reader->words.count; i++) {
        const struct word *word = &reader->words.each[i];

        if (strlen(word->name) == bytes &&
            memcmp(word->name, name, bytes) == 0) {
            *index = i;
            return word;
        }
    }
    return NULL;
}

/* Up to a comma that is not escaped. */
static const char *take_value(struct reader *reader)
{
    const char *value = reader->to;

    while (*reader->at != '\0' && *reader->at != ',') {
        if (*reader->at == '\\' &&
            (reader->at[1] == ',' || reader->at[1] == '\\')) {
            reader->at++;
        }
        *reader->to++ = *reader->at++;
    }
    *reader->to++ = '\0';
    return value;
}

static bool take_number(struct reader *reader, const struct word *word,
                        const char *value, uint64_t *number)
{
    bool is_amount = word->kind == WORD_AMOUNT;

    if (is_amount ? !options_amount(value, number)
                  : !options_count(value, number)) {
        return fail(reader->line, "%s: %s=%s: expected %s", reader->words.store,
                    word->name, value,
                    is_amount ? "a size, as in 500M or 2G" : "a whole number");
    }
    if (*number < word->min || *number > word->max) {
        return fail(reader->line, "%s: %s=%s: must be %" PRIu64 " to %" PRIu64,
                    reader->words.store, word->name, value, word->min,
                    word->max);
    }
    return true;
}

static bool take_word(struct reader *reader, const struct word *word,
                      const char *value)
{
    unsigned char *to = (unsigned char *)reader->spec + word->at;
    uint64_t number = 0;
    bool on = true;

    if (word->kind == WORD_FLAG) {
        if (value != NULL) {
            return fail(reader->line, "%s: %s takes no value",
                        reader->words.store, word->name);
        }
        memcpy(to, &on, sizeof on);
        return true;
    }
    if (value == NULL || value[0] == '\0') {
        return fail(reader->line, "%s: %s needs a value, %s=…",
                    reader->words.store, word->name, word->name);
    }
    if (word->kind == WORD_TEXT) {
        memcpy(to, &value, sizeof value);
        return true;
    }
    if (!take_number(reader, word, value, &number)) { return false; }
    memcpy(to, &number, sizeof number);
    return true;
}

static bool take_option(struct reader *reader)
{
    const char *name = reader->at;
    size_t bytes = strcspn(name, "=,");
    const char *value = NULL;
    const struct word *word;
    size_t index = 0;

    if (bytes == 0) {
        return fail(reader->line, "%s: an option without a name",
                    reader->words.store);
    }
    reader->at += bytes;
    if (*reader->at == '=') {
        reader->at++;
        value = take_value(reader);
    }
    word = find_word(reader, name, bytes, &index);
    if (word == NULL) {
        reader->is_unknown = true;
        list_add(&reader->unknown, name,
                 bytes < UNKNOWN_SHOWN_MAX ? bytes : UNKNOWN_SHOWN_MAX);
        return true; /* they are told at the end, as far as there is room */
    }
    if (reader->given[index]) {
        return fail(reader->line, "%s: %s is given twice", reader->words.store,
                    word->name);
    }
    reader->given[index] = true;
    return take_word(reader, word, value);
}

static bool take_options(struct reader *reader)
{
    for (;;) {
        if (!take_option(reader)) { return false; }
        if (*reader->at == '\0') { break; }
        reader->at++; /* the comma */
    }
    if (reader->is_unknown) {
        char known[STORE_OPEN_LINE_BYTES];

        store_options(reader->spec->kind, known);
        return fail(reader->line, "%s has no option %s; it has %.600s",
                    reader->words.store, reader->unknown_text, known);
    }
    return true;
}

static bool check_name(const char *name, char *line)
{
    size_t bytes = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "abcdefghijklmnopqrstuvwxyz0123456789._-");

    if (name[0] != '.' && name[bytes] == '\0' &&
        bytes <= CLEAT_MEMORY_STORE_NAME_MAX) {
        return true;
    }
    return fail(line,
                "memory: shared=%.100s: expected 1 to 64 of A-Z a-z 0-9 . _ -, "
                "the first no dot",
                name);
}

static bool parse_kind(const char *text, size_t bytes, struct store_spec *spec,
                       char *line)
{
    if (bytes == strlen("memory") && memcmp(text, "memory", bytes) == 0) {
        spec->kind = STORE_MEMORY;
        return true;
    }
    if (bytes == strlen("mooncake") && memcmp(text, "mooncake", bytes) == 0) {
        spec->kind = STORE_MOONCAKE;
        return true;
    }
    return fail(line,
                "%.*s: there is no such store; expected memory or "
                "mooncake",
                bytes < 100 ? (int)bytes : 100, text);
}

bool store_parse(const char *text, struct store_spec *spec, char *line)
{
    size_t kind_bytes = strcspn(text, ":");
    struct reader reader = {.spec = spec, .line = line};

    memset(spec, 0, sizeof *spec);
    line[0] = '\0';
    if (strlen(text) >= STORE_OPEN_TEXT_BYTES) {
        return fail(line, "the string has more than %u bytes",
                    STORE_OPEN_TEXT_BYTES - 1);
    }
    if (!parse_kind(text, kind_bytes, spec, line)) { return false; }
    if (text[kind_bytes] == '\0') { return true; }
    reader.at = text + kind_bytes + 1;
    reader.to = spec->text;
    reader.words = words_of(spec->kind);
    reader.unknown = (struct list){reader.unknown_text,
                                   sizeof reader.unknown_text, 0};
    if (!take_options(&reader)) { return false; }
    if (spec->shared == NULL) { return true; }
    spec->kind = STORE_SHARED;
    return check_name(spec->shared, line);
}

uint32_t store_verify(const struct store_spec *spec)
{
    return spec->kind == STORE_MOONCAKE ? CLEAT_TRANSFER_VERIFY_SIZE
                                        : CLEAT_TRANSFER_VERIFY_RETRIED;
}

/* ---- faults ------------------------------------------------------------- */

static void fault_names(char *line)
{
    struct list list = {line, STORE_OPEN_LINE_BYTES, 0};

    for (uint32_t i = CLEAT_STORE_FAULT_NONE + 1; i < CLEAT_STORE_FAULTS; i++) {
        const char *name = cleat_store_fault_name(
            (enum cleat_store_fault_kind)i);

        list_add(&list, name, strlen(name));
    }
}

/* Copies what is up to the next colon; false where it does not fit. */
static bool cut(const char **at, char *to, size_t to_bytes)
{
    size_t bytes = strcspn(*at, ":");

    if (bytes >= to_bytes) { return false; }
    memcpy(to, *at, bytes);
    to[bytes] = '\0';
    *at += bytes + ((*at)[bytes] == ':' ? 1 : 0);
    return true;
}

/* A share in millionths. */
static bool parse_rate(char *text, uint32_t *rate)
{
    size_t bytes = strlen(text);
    uint64_t scale = CLEAT_STORE_FAULT_ALWAYS;
    uint64_t value;

    if (bytes > 1 && text[bytes - 1] == '%') {
        text[bytes - 1] = '\0';
        scale /= 100;
    }
    if (!options_decimal(text, scale, &value) ||
        value > CLEAT_STORE_FAULT_ALWAYS) {
        return false;
    }
    /* Less than a millionth is not nothing. */
    if (value == 0 && strspn(text, "0.") != strlen(text)) { value = 1; }
    *rate = (uint32_t)value;
    return true;
}

static bool parse_time(char *text, uint64_t *ns)
{
    static const struct {
        const char *name;
        uint64_t ns;
    } units[] = {{"ns", 1},
                 {"us", CLEAT_NS_PER_US},
                 {"ms", CLEAT_NS_PER_MS},
                 {"s", CLEAT_NS_PER_S}};
    size_t digits = strspn(text, "0123456789.");

    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(text + digits, units[i].name) == 0) {
            text[digits] = '\0';
            return options_decimal(text, units[i].ns, ns) && *ns > 0;
        }
    }
    return false;
}

static bool parse_argument(const char **at, struct cleat_store_fault *rule)
{
    char word[32];
    uint64_t times;

    if (strncmp(*at, "key=", 4) == 0) {
        rule->key = *at + 4;
        *at += strlen(*at);
        return rule->key[0] != '\0';
    }
    if (!cut(at, word, sizeof word)) { return false; }
    if (options_count(word, &times)) {
        rule->times = (uint32_t)times;
        return times > 0 && times <= UINT32_MAX;
    }
    return parse_time(word, &rule->ns);
}

bool store_faults_add(struct store_faults *faults, const char *text, char *line)
{
    struct cleat_store_fault rule = {.kind = CLEAT_STORE_FAULT_NONE};
    const char *at = text;
    char word[32];

    if (cut(&at, word, sizeof word)) {
        rule.kind = cleat_store_fault_from_name(word, strlen(word));
    }
    if (rule.kind == CLEAT_STORE_FAULT_NONE) {
        char names[STORE_OPEN_LINE_BYTES];

        fault_names(names);
        return fail(line, "%.100s: no such fault; expected one of %.700s", text,
                    names);
    }
    if (!cut(&at, word, sizeof word) || !parse_rate(word, &rule.rate)) {
        return fail(
            line,
            "%.100s: expected %s:RATE, a share from 0 to 1 or a "
            "percentage",
            text,
            cleat_store_fault_name((enum cleat_store_fault_kind)rule.kind));
    }
    while (*at != '\0') {
        if (!parse_argument(&at, &rule)) {
            return fail(line,
                        "%.100s: after the rate expected TIMES, a time as in "
                        "500ms, or key=KEY",
                        text);
        }
    }
    if (text[strlen(text) - 1] == ':' && rule.key == NULL) {
        return fail(line, "%.100s: nothing after the last colon", text);
    }
    if (rule.rate == 0) { return true; }
    if (faults->count == CLEAT_STORE_FAULTS_RULES_MAX) {
        return fail(line, "%.100s: at most %u faults", text,
                    CLEAT_STORE_FAULTS_RULES_MAX);
    }
    faults->rules[faults->count++] = rule;
    return true;
}

/* ---- open --------------------------------------------------------------- */

static void *map_block(size_t bytes, char *line)
{
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (block != MAP_FAILED) { return block; }
    (void)fail(line, "%zu bytes of memory: %s", bytes, strerror(errno));
    return NULL;
}

/* Bad input stays so; what is not there may come. */
static int exit_of(enum cleat_status status)
{
    switch (status) {
    case CLEAT_INVALID:
    case CLEAT_TOO_SMALL:
    case CLEAT_LIMIT:
    case CLEAT_UNSUPPORTED: return STORE_EXIT_INPUT;
    default: return STORE_EXIT_NOT_READY;
    }
}

static int open_memory(struct store_opened *opened,
                       const struct store_spec *spec, char *line)
{
    struct cleat_memory_store_config config = {
        .keys_max = (uint32_t)spec->keys};
    struct cleat_error error = {0};
    enum cleat_status status;
    size_t bytes = (size_t)spec->bytes;

    if (bytes == 0) {
        uint64_t keys = spec->keys_hint + 16; /* and canaries */
        uint64_t values = spec->bytes_hint + spec->bytes_hint / 4;

        if (keys < MEMORY_KEYS_MIN) { keys = MEMORY_KEYS_MIN; }
        if (values < MEMORY_BYTES_MIN) { values = MEMORY_BYTES_MIN; }
        if (config.keys_max == 0) {
            config.keys_max = keys < CLEAT_MEMORY_STORE_KEYS_MAX
                                  ? (uint32_t)keys
                                  : CLEAT_MEMORY_STORE_KEYS_MAX;
        }
        bytes = cleat_memory_store_bytes(&config, values);
        if (bytes == 0) {
            (void)fail(line, "memory: so much does not fit; give bytes=SIZE");
            return STORE_EXIT_INPUT;
        }
    }
    opened->block = map_block(bytes, line);
    if (opened->block == NULL) { return STORE_EXIT_NOT_READY; }
    opened->block_bytes = bytes;
    status = cleat_memory_store_init(opened->block, bytes, &config, opened->end,
                                     sizeof opened->end, &opened->inner,
                                     &error);
    if (status == CLEAT_OK) { return 0; }
    (void)fail(line, "%s", error.text);
    return exit_of(status);
}

static int open_shared(struct store_opened *opened,
                       const struct store_spec *spec, char *line)
{
    struct cleat_memory_store_config config = {
        .keys_max = (uint32_t)spec->keys,
        .processes_max = CLEAT_MEMORY_STORE_PROCESSES_MAX};
    struct cleat_error error = {0};
    enum cleat_status status = cleat_memory_store_open(
        spec->shared, (size_t)spec->bytes, &config, opened->end,
        sizeof opened->end, &opened->inner, &opened->shared, &error);

    if (status == CLEAT_OK) { return 0; }
    if (status == CLEAT_NOT_FOUND) {
        (void)fail(line,
                   "memory: there is no store of the name %s; bytes=SIZE makes "
                   "it",
                   spec->shared);
        return STORE_EXIT_NOT_READY;
    }
    opened->crowded = status == CLEAT_NO_SLOT;
    (void)fail(line, "%s", error.text);
    return exit_of(status);
}

static int open_mooncake(struct store_opened *opened,
                         const struct store_spec *spec, char *line)
{
#ifdef CLEAT_TOOLS_MOONCAKE
    return store_mooncake_open(opened, spec, line);
#else
    (void)opened;
    (void)spec;
    (void)fail(line, "mooncake: this build has no port/mooncake: it needs "
                     "CLEAT_MOONCAKE=ON");
    return STORE_EXIT_INPUT;
#endif
}

static int open_inner(struct store_opened *opened,
                      const struct store_spec *spec, char *line)
{
    switch (spec->kind) {
    case STORE_SHARED: return open_shared(opened, spec, line);
    case STORE_MOONCAKE: return open_mooncake(opened, spec, line);
    case STORE_MEMORY: break;
    }
    return open_memory(opened, spec, line);
}

/* Of how often a key has come by: enough that few keys share one. */
static uint32_t counters_for(uint64_t keys)
{
    uint32_t count = CLEAT_STORE_FAULTS_COUNTERS_DEFAULT;

    while (count < keys * 16 && count < UINT32_C(1) << 28) { count *= 2; }
    return count;
}

static int add_faults(struct store_opened *opened,
                      const struct store_faults *faults, char *line)
{
    struct cleat_store_faults_config config = {
        .rules = faults->rules,
        .rules_count = faults->count,
        .counters_count = counters_for(faults->keys),
        .seed = faults->seed};
    struct cleat_error error = {0};

    opened->layer_bytes = cleat_store_faults_bytes(config.counters_count);
    opened->layer = map_block(opened->layer_bytes, line);
    if (opened->layer == NULL) { return STORE_EXIT_NOT_READY; }
    if (cleat_store_faults_init(opened->layer, opened->layer_bytes, &config,
                                &opened->inner, &opened->store,
                                &error) == CLEAT_OK) {
        return 0;
    }
    (void)fail(line, "fault %" PRIu64 ": %s", error.index + 1, error.text);
    return STORE_EXIT_INPUT;
}

int store_open(struct store_opened *opened, const struct store_spec *spec,
               const struct store_faults *faults, char *line)
{
    int result;

    memset(opened, 0, sizeof *opened);
    opened->kind = spec->kind;
    line[0] = '\0';
    result = open_inner(opened, spec, line);
    if (result == 0) { opened->store = opened->inner; }
    if (result == 0 && faults != NULL && faults->count > 0) {
        result = add_faults(opened, faults, line);
    }
    if (result != 0) {
        bool crowded = opened->crowded;

        store_close(opened);
        opened->crowded = crowded;
    }
    return result;
}

void store_wake(const struct store_opened *opened)
{
    if (opened->layer != NULL && opened->store.call != NULL) {
        cleat_store_faults_wake(&opened->store);
    }
}

/* Returns whether what it has mapped is ours again. */
static bool close_inner(struct store_opened *opened)
{
    if (opened->inner.call == NULL) { return true; }
    switch (opened->kind) {
    case STORE_MEMORY: cleat_memory_store_detach(&opened->inner); break;
    case STORE_SHARED:
        cleat_memory_store_close(&opened->inner, &opened->shared);
        break;
    case STORE_MOONCAKE:
#ifdef CLEAT_TOOLS_MOONCAKE
        return store_mooncake_close(opened);
#else
        break;
#endif
    }
    return true;
}

void store_close(struct store_opened *opened)
{
    bool is_ours = close_inner(opened);

    if (is_ours && opened->block != NULL) {
        (void)munmap(opened->block, opened->block_bytes);
    }
    if (is_ours && opened->layer != NULL) {
        (void)munmap(opened->layer, opened->layer_bytes);
    }
    memset(opened, 0, sizeof *opened);
}
