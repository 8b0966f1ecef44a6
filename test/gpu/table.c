/* Cleat: the table that the checks on a GPU end with. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A row is a line: name, result, versions, text, with tabs between. A check
 * that is made again replaces its row. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu.h"

#define ROWS_MAX 64u
#define ROW_BYTES 2048u

/* What the table has a row for, in this order. */
static const struct {
    const char *name;
    const char *title;
} wanted[] = {
    {"pipeline", "One rank, buckets over 3 slots, each through a kernel of "
                 "NCCL's: every byte over poison, guards whole"},
    {"rebuilds", "A group left and formed again, over and over: growth each "
                 "time"},
    {"stops", "ncclCommRevoke and ncclCommAbort, idle and with a kernel under "
              "way"},
    {"blocked", "Abort behind a blocked stream: the device is lost, by its "
                "deadline"},
    {"two", "Two processes on one GPU: every byte"},
    {"three", "Three processes on one GPU: every byte"},
    {"killed", "kill -9 of a receiver mid-bucket: the others go on"},
    {"stopped", "SIGSTOP of a receiver mid-bucket: the others go on, and it "
                "comes back"},
    {"share", "Device memory given to another process by descriptor: bytes, "
              "also after the giver's death"},
    {"sanitizer", "compute-sanitizer memcheck over `pipeline` and `two`"},
    {"sync", "`cleat sync --transport nccl`: a trainer and two engines on one "
             "GPU, digests on; and one of them killed"},
};

#define WANTED (sizeof wanted / sizeof wanted[0])

struct row {
    char line[ROW_BYTES];
    const char *name;
    const char *result;
    const char *versions;
    const char *text;
};

static struct row rows[ROWS_MAX];
static size_t rows_count;

/* One write, so that rows of two processes stay whole. */
void gpu_row(const char *name, const char *result, const char *versions,
             const char *text)
{
    char line[ROW_BYTES];
    FILE *file;
    int length;

    if (gpu_options.table == NULL) { return; }
    length = snprintf(line, sizeof line - 1, "%s\t%s\t%s\t%s", name, result,
                      versions, text);
    if (length >= (int)sizeof line - 1) { length = (int)sizeof line - 2; }
    for (int i = 0; i < length; i++) {
        if (line[i] == '\n' || line[i] == '|') { line[i] = ' '; }
    }
    line[length] = '\n';
    file = fopen(gpu_options.table, "a");
    must(file != NULL);
    must(fwrite(line, 1, (size_t)length + 1, file) == (size_t)length + 1);
    must(fclose(file) == 0);
}

static char *cut(char **at)
{
    char *field = *at;
    char *tab = strpbrk(field, "\t\n");

    if (tab == NULL) { return field; }
    *tab = '\0';
    *at = tab + 1;
    return field;
}

static void read_rows(void)
{
    FILE *file = gpu_options.table == NULL ? NULL
                                           : fopen(gpu_options.table, "r");

    while (file != NULL && rows_count < ROWS_MAX &&
           fgets(rows[rows_count].line, ROW_BYTES, file) != NULL) {
        struct row *row = &rows[rows_count++];
        char *at = row->line;

        row->name = cut(&at);
        row->result = cut(&at);
        row->versions = cut(&at);
        row->text = cut(&at);
    }
    if (file != NULL) { (void)fclose(file); }
}

static const struct row *row_of(const char *name)
{
    for (size_t i = rows_count; i > 0; i--) {
        if (strcmp(rows[i - 1].name, name) == 0) { return &rows[i - 1]; }
    }
    return NULL;
}

static bool was_made(const struct row *row)
{
    return row != NULL && strcmp(row->result, "skipped") != 0;
}

static size_t count_made(const struct row **one)
{
    size_t made = 0;

    for (size_t i = 0; i < WANTED; i++) {
        const struct row *row = row_of(wanted[i].name);

        if (*one == NULL || (was_made(row) && !was_made(*one))) { *one = row; }
        if (was_made(row)) { made++; }
    }
    return made;
}

static void write_heading(FILE *file, size_t made, const struct row *one)
{
    if (made == 0) {
        (void)fprintf(file, "**Not run on a GPU**: %s.\n\n",
                      one != NULL ? one->text : "no check was made");
        return;
    }
    (void)fprintf(file, "%zu of %zu checks made with %s.\n\n", made, WANTED,
                  one->versions);
}

/* What was not found is told once, above the rows. */
static const char *text_of(const struct row *row, const struct row *one)
{
    if (row == NULL) { return ""; }
    return !was_made(row) && strcmp(row->text, one->text) == 0 ? "" : row->text;
}

static void write_rows(FILE *file, const struct row *one)
{
    (void)fprintf(file, "| check | result | measured |\n|---|---|---|\n");
    for (size_t i = 0; i < WANTED; i++) {
        const struct row *row = row_of(wanted[i].name);

        (void)fprintf(file, "| %s | %s | %s |\n", wanted[i].title,
                      row != NULL ? row->result : "not run", text_of(row, one));
    }
}

bool gpu_write_table(const char *out)
{
    FILE *file = fopen(out, "w");
    const struct row *one = NULL;
    size_t made;

    must(file != NULL);
    read_rows();
    made = count_made(&one);
    write_heading(file, made, one);
    write_rows(file, one);
    must(fclose(file) == 0);
    write_heading(stdout, made, one);
    write_rows(stdout, one);
    return made != 0;
}
