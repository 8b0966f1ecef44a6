/* Cleat: the keys that `cleat store` is asked for. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "store_rows.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleat/store.h"
#include "print.h"
#include "store_files.h"

#define LINE_BYTES_MAX 8192u

/* The longest list of keys. */
#define LIST_BYTES_MAX ((size_t)1 << 30)

void store_say(const char *command, const char *format, ...)
{
    char line[LINE_BYTES_MAX];
    struct cleat_text text = {line, 0};
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    text.bytes = strlen(line);
    fprintf(stderr, "%s: ", command);
    (void)cli_print_text(stderr, text, SIZE_MAX);
    fputc('\n', stderr);
}

/* ---- rows --------------------------------------------------------------- */

/* Keys never move: they lie in pieces. */
#define TEXT_BYTES ((size_t)1 << 20)

struct store_text {
    struct store_text *next;
    size_t used;
    char text[TEXT_BYTES];
};

/* `bytes` is at most CLEAT_STORE_KEY_MAX + 1. */
static char *take_text(struct store_rows *rows, size_t bytes)
{
    char *at;

    if (rows->text == NULL || rows->text->used + bytes > TEXT_BYTES) {
        struct store_text *piece = malloc(sizeof *piece);

        if (piece == NULL) { return NULL; }
        piece->next = rows->text;
        piece->used = 0;
        rows->text = piece;
    }
    at = rows->text->text + rows->text->used;
    rows->text->used += bytes;
    return at;
}

static bool make_room(struct store_rows *rows)
{
    uint32_t room = rows->room == 0 ? 1024 : rows->room * 2;
    struct store_row *each;

    if (rows->count < rows->room) { return true; }
    each = realloc(rows->each, room * sizeof *each);
    if (each == NULL) { return false; }
    rows->each = each;
    rows->room = room;
    return true;
}

static int refuse(const char *command, const char *where, uint32_t line,
                  const char *what)
{
    if (command == NULL) { return STORE_EXIT_INPUT; }
    if (line == 0) {
        store_say(command, "%s: %s", where, what);
    } else {
        store_say(command, "%s: line %" PRIu32 ": %s", where, line, what);
    }
    return STORE_EXIT_INPUT;
}

int store_rows_add(const char *command, struct store_rows *rows,
                   const char *where, uint32_t line, const char *name,
                   size_t name_bytes, struct store_row **row)
{
    size_t bytes = rows->prefix_bytes + name_bytes;
    char *key;

    if (name_bytes == 0) {
        return refuse(command, where, line, "a key is empty");
    }
    if (memchr(name, '\0', name_bytes) != NULL) {
        return refuse(command, where, line, "a key has a NUL in it");
    }
    if (bytes > CLEAT_STORE_KEY_MAX) {
        char what[96];

        snprintf(what, sizeof what,
                 "a key of %zu bytes; at most %u, the prefix included", bytes,
                 CLEAT_STORE_KEY_MAX);
        return refuse(command, where, line, what);
    }
    if (rows->count == STORE_ROWS_MAX) {
        return refuse(command, where, line, "more than 16777216 keys");
    }
    key = make_room(rows) ? take_text(rows, bytes + 1) : NULL;
    if (key == NULL) { return refuse(command, where, line, "no memory"); }
    if (rows->prefix_bytes > 0) {
        memcpy(key, rows->prefix, rows->prefix_bytes);
    }
    memcpy(key + rows->prefix_bytes, name, name_bytes);
    key[bytes] = '\0';
    *row = &rows->each[rows->count++];
    memset(*row, 0, sizeof **row);
    (*row)->key = key;
    (*row)->name = key + rows->prefix_bytes;
    (*row)->line = line;
    return 0;
}

void store_rows_free(struct store_rows *rows)
{
    while (rows->text != NULL) {
        struct store_text *next = rows->text->next;

        free(rows->text);
        rows->text = next;
    }
    free(rows->each);
    rows->each = NULL;
    rows->count = 0;
    rows->room = 0;
}

/* ---- a list of keys ----------------------------------------------------- */

/* The whole file, from malloc; NULL with errno. */
static char *read_all(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rbe");
    size_t room = 65536;
    char *text = file == NULL ? NULL : malloc(room);

    *bytes = 0;
    while (text != NULL) {
        size_t got = fread(text + *bytes, 1, room - *bytes, file);
        char *more;

        *bytes += got;
        if (got == 0) { break; }
        if (*bytes < room) { continue; }
        if (room >= LIST_BYTES_MAX) {
            errno = EFBIG;
            free(text);
            text = NULL;
            break;
        }
        more = realloc(text, room * 2);
        if (more == NULL) { free(text); }
        text = more;
        room *= 2;
    }
    if (text != NULL && ferror(file) != 0) {
        free(text);
        text = NULL;
    }
    if (file != NULL) {
        int code = errno;

        (void)fclose(file);
        errno = code;
    }
    return text;
}

int store_rows_read(const char *command, struct store_rows *rows,
                    const char *path)
{
    size_t bytes;
    char *text = read_all(path, &bytes);
    uint32_t line = 0;
    int result = 0;
    size_t at = 0;

    if (text == NULL) {
        store_say(command, "--keys-from %s: %s", path, strerror(errno));
        return STORE_EXIT_INPUT;
    }
    while (at < bytes && result == 0) {
        char *end = memchr(text + at, '\n', bytes - at);
        size_t here = end == NULL ? bytes - at : (size_t)(end - text) - at;
        struct store_row *row;

        line++;
        if (here > 0 && text[at + here - 1] == '\r') {
            result = refuse(command, path, line,
                            "ends in a carriage return; expected a newline "
                            "alone after each key");
            break;
        }
        result = store_rows_add(command, rows, path, line, text + at, here,
                                &row);
        at += here + 1;
    }
    free(text);
    return result;
}

/* ---- a folder ----------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    const struct store_row *left = a;
    const struct store_row *right = b;

    return strcmp(left->key, right->key);
}

static int scan_one(const char *command, struct store_rows *rows,
                    const char *folder, int at, const char *name)
{
    char key[STORE_FILE_NAME_MAX + 1];
    struct stat about;
    struct store_row *row;
    int result;

    if (fstatat(at, name, &about, 0) != 0 || !S_ISREG(about.st_mode)) {
        store_say(command, "%s/%s: not a regular file", folder, name);
        return STORE_EXIT_INPUT;
    }
    if (!store_file_key(name, key)) {
        store_say(command,
                  "%s/%s: not a key's file: %%, /, controls and a first dot "
                  "are written %%XX",
                  folder, name);
        return STORE_EXIT_INPUT;
    }
    if (faccessat(at, name, R_OK, AT_EACCESS) != 0) {
        store_say(command, "%s/%s: %s", folder, name, strerror(errno));
        return STORE_EXIT_INPUT;
    }
    result = store_rows_add(command, rows, folder, 0, key, strlen(key), &row);
    if (result == 0) { row->bytes = (uint64_t)about.st_size; }
    return result;
}

int store_rows_scan(const char *command, struct store_rows *rows,
                    const char *folder)
{
    DIR *directory = opendir(folder);
    int result = 0;

    if (directory == NULL) {
        store_say(command, "%s: %s", folder, strerror(errno));
        return STORE_EXIT_INPUT;
    }
    while (result == 0) {
        struct dirent *entry = readdir(directory);

        if (entry == NULL) { break; }
        if (strcmp(entry->d_name, ".") == 0 ||
            strcmp(entry->d_name, "..") == 0 ||
            strncmp(entry->d_name, STORE_HIDDEN, strlen(STORE_HIDDEN)) == 0) {
            continue;
        }
        result = scan_one(command, rows, folder, dirfd(directory),
                          entry->d_name);
    }
    (void)closedir(directory);
    if (result == 0 && rows->count > 0) {
        qsort(rows->each, rows->count, sizeof *rows->each, compare_names);
    }
    return result;
}

/* ---- two lists ---------------------------------------------------------- */

/* The rows by key; then by line. */
static int compare_rows(const void *a, const void *b)
{
    const struct store_row *left = *(struct store_row *const *)a;
    const struct store_row *right = *(struct store_row *const *)b;
    int order = strcmp(left->key, right->key);

    if (order != 0) { return order; }
    return left->line < right->line ? -1 : left->line > right->line;
}

static struct store_row **sorted(const struct store_rows *rows)
{
    struct store_row **order = malloc((rows->count + 1) * sizeof *order);

    if (order == NULL) { return NULL; }
    for (uint32_t i = 0; i < rows->count; i++) { order[i] = &rows->each[i]; }
    qsort(order, rows->count, sizeof *order, compare_rows);
    return order;
}

static int check_sorted(const char *command, struct store_row *const *order,
                        uint32_t count, const char *where)
{
    for (uint32_t i = 1; i < count; i++) {
        if (strcmp(order[i - 1]->key, order[i]->key) == 0) {
            store_say(command,
                      "%s: lines %" PRIu32 " and %" PRIu32 " are the same key",
                      where, order[i - 1]->line, order[i]->line);
            return STORE_EXIT_INPUT;
        }
    }
    return 0;
}

int store_rows_check(const char *command, const struct store_rows *rows,
                     const char *where)
{
    struct store_row **order = sorted(rows);
    int result;

    if (order == NULL) { return refuse(command, where, 0, "no memory"); }
    result = check_sorted(command, order, rows->count, where);
    free(order);
    return result;
}

/* Marks, in `line`, the rows that are wanted. */
static int mark(const char *command, struct store_row *const *all,
                uint32_t all_count, struct store_row *const *wanted,
                uint32_t wanted_count, const char *where, const char *from)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < wanted_count; i++) {
        while (at < all_count && strcmp(all[at]->key, wanted[i]->key) < 0) {
            at++;
        }
        if (at == all_count || strcmp(all[at]->key, wanted[i]->key) != 0) {
            store_say(command, "%s: line %" PRIu32 ": %s has no %s", where,
                      wanted[i]->line, from, wanted[i]->name);
            return STORE_EXIT_INPUT;
        }
        all[at]->line = wanted[i]->line;
    }
    return 0;
}

int store_rows_keep(const char *command, struct store_rows *all,
                    const struct store_rows *wanted, const char *where,
                    const char *from)
{
    struct store_row **of_all = sorted(all);
    struct store_row **of_wanted = sorted(wanted);
    uint32_t kept = 0;
    int result;

    if (of_all == NULL || of_wanted == NULL) {
        result = refuse(command, where, 0, "no memory");
    } else {
        result = check_sorted(command, of_wanted, wanted->count, where);
    }
    if (result == 0) {
        result = mark(command, of_all, all->count, of_wanted, wanted->count,
                      where, from);
    }
    for (uint32_t i = 0; i < all->count && result == 0; i++) {
        if (all->each[i].line != 0) { all->each[kept++] = all->each[i]; }
    }
    if (result == 0) { all->count = kept; }
    free(of_all);
    free(of_wanted);
    return result;
}

/* ---- names of files ----------------------------------------------------- */

static bool is_plain(const char *key, size_t at)
{
    unsigned char letter = (unsigned char)key[at];

    return letter >= 0x20 && letter != 0x7F && letter != '/' && letter != '%' &&
           !(letter == '.' && at == 0);
}

bool store_file_name(const char *key, char *name)
{
    static const char digits[] = "0123456789ABCDEF";
    size_t to = 0;

    for (size_t at = 0; key[at] != '\0'; at++) {
        unsigned char letter = (unsigned char)key[at];
        size_t needed = is_plain(key, at) ? 1 : 3;

        if (to + needed > STORE_FILE_NAME_MAX) { return false; }
        if (needed == 1) {
            name[to++] = key[at];
        } else {
            name[to++] = '%';
            name[to++] = digits[letter >> 4];
            name[to++] = digits[letter & 15];
        }
    }
    name[to] = '\0';
    return to > 0;
}

static int digit_of(char letter)
{
    if (letter >= '0' && letter <= '9') { return letter - '0'; }
    return letter >= 'A' && letter <= 'F' ? letter - 'A' + 10 : -1;
}

bool store_file_key(const char *name, char *key)
{
    char again[STORE_FILE_NAME_MAX + 1];
    size_t to = 0;

    if (strlen(name) > STORE_FILE_NAME_MAX) { return false; }
    for (size_t at = 0; name[at] != '\0'; at++) {
        if (name[at] != '%') {
            key[to++] = name[at];
            continue;
        }
        if (digit_of(name[at + 1]) < 0 || digit_of(name[at + 2]) < 0) {
            return false;
        }
        key[to] = (char)(digit_of(name[at + 1]) << 4 | digit_of(name[at + 2]));
        if (key[to++] == '\0') { return false; }
        at += 2;
    }
    key[to] = '\0';
    return store_file_name(key, again) && strcmp(again, name) == 0;
}
