/* Cleat: the keys that `cleat store` is asked for. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef CLEAT_TOOLS_STORE_ROWS_H
#define CLEAT_TOOLS_STORE_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cleat/dtype.h"
#include "cleat/status.h"

/* How the commands end. */
enum store_exit {
    STORE_EXIT_OK = 0,
    STORE_EXIT_INPUT = 2,
    STORE_EXIT_KEYS = 8, /* some keys failed */
    STORE_EXIT_NOT_READY = 9,
    STORE_EXIT_SIGNAL = 128 /* plus its number */
};

/* What has become of a key. */
enum store_state {
    STORE_UNTOLD, /* nothing yet */
    STORE_OK,
    STORE_FAILED, /* without effect, as far as can be */
    STORE_UNKNOWN /* it has failed, and may have taken effect */
};

struct store_row {
    const char *key;  /* in the store; NUL-terminated */
    const char *name; /* the end of it: without the prefix */
    uint64_t bytes;   /* of the value, where they are known before */
    uint64_t offset;  /* of a tensor: in its file */
    uint64_t shape[CLEAT_RANK_MAX];
    uint32_t rank;
    uint32_t dtype; /* enum cleat_dtype */
    uint32_t line;  /* of the list of keys that it comes from; 0: none */

    uint32_t state; /* enum store_state */
    int32_t status; /* enum cleat_status */
    int32_t code;   /* the store's own, or errno */
    uint32_t attempts;
    uint64_t actual; /* bytes; EXISTS: 1 or 0 */
    bool lent;       /* its memory is still the store's */
    bool file;       /* it is the file that failed, and `code` is errno */
};

/* At most so many keys in one command. */
#define STORE_ROWS_MAX ((uint32_t)1 << 24)

struct store_text; /* a piece of the keys' text */

struct store_rows {
    struct store_row *each;
    uint32_t count;
    uint32_t room;
    const char *prefix;
    size_t prefix_bytes;
    struct store_text *text;
};

/* Adds a row for prefix + name. `row` becomes it; where it lies may change with
 * the next one. `where` and `line`, for the error: the file that names it; line
 * 0 is not told.
 * Returns 0; 2 after one line on stderr, none where `command` is NULL: the key
 * is empty, too long or has a NUL in it, or there are too many. */
int store_rows_add(const char *command, struct store_rows *rows,
                   const char *where, uint32_t line, const char *name,
                   size_t name_bytes, struct store_row **row);

/* Adds a row for each line of a file. Returns as above. */
int store_rows_read(const char *command, struct store_rows *rows,
                    const char *path);

/* Adds a row for each file of a folder, by name, with its size. Returns as
 * above; also where there is something that is not a file, or whose name is not
 * that of a key. Hidden files that this command makes are not looked at. */
int store_rows_scan(const char *command, struct store_rows *rows,
                    const char *folder);

/* Whether no key comes twice. Returns 0, or 2 after one line. */
int store_rows_check(const char *command, const struct store_rows *rows,
                     const char *where);

/* Keeps of `all` the rows that are in `wanted`, in the order of `all`. Returns
 * 0; 2 after one line, where one of `wanted` is not in `all`, or comes twice.
 * `where` names the list, `from` what `all` comes from. */
int store_rows_keep(const char *command, struct store_rows *all,
                    const struct store_rows *wanted, const char *where,
                    const char *from);

void store_rows_free(struct store_rows *rows);

/* ---- names of files ----------------------------------------------------- */

/* The longest name of a file that Linux has. */
#define STORE_FILE_NAME_MAX 255u

/* The file's name for a key: the bytes of the key, but `/`, `%`, controls, 0x7F
 * and a dot at its start as `%` and two upper-case hex digits. So no name is
 * hidden, or leads elsewhere, and two keys never share one.
 *   name   STORE_FILE_NAME_MAX + 1 bytes
 * False where it would be longer. */
bool store_file_name(const char *key, char *name);

/* The key of such a name: false where store_file_name would not have made it.
 *   key   STORE_FILE_NAME_MAX + 1 bytes; what is not NUL-terminated cannot be
 */
bool store_file_key(const char *name, char *key);

/* One line on stderr, "<command>: <text>", for what keys may be in. */
void store_say(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
