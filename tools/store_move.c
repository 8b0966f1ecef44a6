/* Cleat: what `cleat store` does to keys and to a folder of files.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store_job.h"

/* Files that are mapped at once: each of a get has a descriptor. */
#define PUT_FILES_MAX 1024u
#define GET_FILES_MAX 256u

/* Bytes of a get that are under way at once; a larger value goes alone. */
#define GET_BYTES_MAX (UINT64_C(1) << 30)

/* How often to ask for the size of a value that grows while it is got. */
#define GROWS_MAX 3u

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* A batch of rows has ended. */
static void ended(struct store_job *job, uint32_t count)
{
    job->base += count;
    atomic_store(&job->done, job->base);
}

void store_ask(struct store_job *job)
{
    for (uint32_t first = 0; first < job->rows.count;) {
        uint32_t count = least(job->rows.count - first, STORE_BATCH_KEYS);

        store_batch_begin(job);
        for (uint32_t i = 0; i < count; i++) {
            store_batch_add(job, first + i, NULL, 0);
        }
        store_batch_send(job, STORE_EXACT);
        first += count;
        ended(job, count);
    }
}

/* ---- put ---------------------------------------------------------------- */

struct put_file {
    const void *map;
    uint64_t bytes;
    struct store_stamp stamp;
};

static void add_file(struct store_job *job, int folder, uint32_t index,
                     struct put_file *file)
{
    struct store_row *row = &job->rows.each[index];
    char name[STORE_FILE_NAME_MAX + 1];
    int code;

    (void)store_file_name(row->name, name); /* it came from one */
    code = store_file_map(folder, name, &file->map, &file->bytes, &file->stamp);
    row->bytes = file->bytes;
    if (code != 0) {
        store_row_fail_file(row, code);
    } else if (file->bytes > job->opened.store.value_bytes_max) {
        store_row_fail(row, CLEAT_LIMIT, 0);
    } else {
        /* A put only reads it. */
        store_batch_add(job, index, (void *)(uintptr_t)file->map, file->bytes);
    }
}

/* What lies in the store may be neither the file of before nor that of now. */
static void look_again(struct store_job *job, int folder, uint32_t index,
                       const struct put_file *file)
{
    struct store_row *row = &job->rows.each[index];
    char name[STORE_FILE_NAME_MAX + 1];

    if (row->state != STORE_OK) { return; }
    (void)store_file_name(row->name, name);
    if (store_file_changed(folder, name, &file->stamp)) {
        store_row_fail_changed(job, row);
    }
}

static void put_files(struct store_job *job, int folder, uint32_t first,
                      uint32_t count, struct put_file *files)
{
    store_batch_begin(job);
    for (uint32_t i = 0; i < count; i++) {
        files[i].map = NULL;
        add_file(job, folder, first + i, &files[i]);
    }
    store_batch_send(job, STORE_EXACT);
    for (uint32_t i = 0; i < count; i++) {
        look_again(job, folder, first + i, &files[i]);
        if (!job->rows.each[first + i].lent) {
            store_file_unmap(files[i].map, files[i].bytes);
        }
    }
}

void store_put_folder(struct store_job *job)
{
    static struct put_file files[PUT_FILES_MAX];
    struct store_folder folder;
    int code = store_folder_open(&folder, job->from, false);

    for (uint32_t first = 0; first < job->rows.count;) {
        uint32_t count = least(job->rows.count - first, PUT_FILES_MAX);

        for (uint32_t i = 0; i < count && code != 0; i++) {
            store_row_fail_file(&job->rows.each[first + i], code);
        }
        if (code == 0) { put_files(job, folder.fd, first, count, files); }
        first += count;
        ended(job, count);
    }
    store_folder_close(&folder);
}

/* ---- get ---------------------------------------------------------------- */

/* Where values go. */
struct sink {
    struct store_folder *folder; /* NULL: nowhere */
    struct store_file files[GET_FILES_MAX];
};

static int make_place(const struct store_job *job, const struct sink *sink,
                      struct store_file *file, uint64_t bytes)
{
    struct store_going going = store_going(job);
    void *map;

    memset(file, 0, sizeof *file);
    file->fd = -1;
    if (store_may_go(job) != CLEAT_OK) { return ECANCELED; }
    if (sink->folder != NULL) {
        return store_file_make(file, sink->folder->fd, bytes, &going);
    }
    if (bytes == 0) { return 0; }
    map = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) { return errno; }
    file->map = map;
    file->bytes = (size_t)bytes;
    return 0;
}

static void drop_place(const struct sink *sink, struct store_file *file,
                       bool lent)
{
    store_file_drop(file, sink->folder != NULL ? sink->folder->fd : -1, lent);
}

/* A value has come: under its name. */
static void keep_place(const struct sink *sink, struct store_row *row,
                       struct store_file *file)
{
    char name[STORE_FILE_NAME_MAX + 1];
    int code = 0;

    if (sink->folder == NULL) {
        drop_place(sink, file, false);
        return;
    }
    (void)store_file_name(row->name, name); /* it has been seen to fit */
    /* It may have become shorter since it was asked for its size. */
    if (row->actual < file->bytes &&
        ftruncate(file->fd, (off_t)row->actual) != 0) {
        code = errno;
        drop_place(sink, file, false);
    }
    if (code == 0) {
        code = store_file_publish(file, sink->folder->fd, name, false);
    }
    if (code != 0) { store_row_fail_file(row, code); }
}

/* Gets `count` rows whose sizes are known to be row->bytes, or were. */
static void get_places(struct store_job *job, struct sink *sink,
                       const uint32_t *rows, uint32_t count)
{
    store_batch_begin(job);
    for (uint32_t i = 0; i < count; i++) {
        struct store_row *row = &job->rows.each[rows[i]];
        int code = make_place(job, sink, &sink->files[i], row->bytes);

        row->state = STORE_UNTOLD;
        if (code == ECANCELED) {
            store_row_fail(row, store_may_go(job), 0);
        } else if (code != 0) {
            store_row_fail_file(row, code);
        } else {
            store_batch_add(job, rows[i], sink->files[i].map, row->bytes);
        }
    }
    store_batch_send(job, STORE_SIZED);
    for (uint32_t i = 0; i < count; i++) {
        struct store_row *row = &job->rows.each[rows[i]];

        if (row->state == STORE_OK) {
            keep_place(sink, row, &sink->files[i]);
        } else {
            drop_place(sink, &sink->files[i], row->lent);
        }
    }
}

static bool has_grown(const struct store_row *row)
{
    return row->state != STORE_OK && row->status == CLEAT_TOO_SMALL &&
           row->actual > row->bytes;
}

static void get_known(struct store_job *job, struct sink *sink,
                      const uint32_t *rows, uint32_t count)
{
    get_places(job, sink, rows, count);
    for (uint32_t i = 0; i < count; i++) {
        struct store_row *row = &job->rows.each[rows[i]];

        for (uint32_t k = 0; k < GROWS_MAX && has_grown(row); k++) {
            row->bytes = row->actual;
            get_places(job, sink, &rows[i], 1);
        }
    }
    ended(job, count);
}

/* Asks for sizes: a get into no bytes at all says that it is too small, and how
 * large the value is. Fills `rows` with those that can be got. */
static uint32_t ask_sizes(struct store_job *job, uint32_t first, uint32_t count,
                          uint32_t *rows)
{
    uint32_t known = 0;

    store_batch_begin(job);
    for (uint32_t i = 0; i < count; i++) {
        store_batch_add(job, first + i, NULL, 0);
    }
    store_batch_send(job, STORE_SIZED);
    for (uint32_t i = 0; i < count; i++) {
        struct store_row *row = &job->rows.each[first + i];

        row->bytes = row->actual;
        if (row->state == STORE_OK || row->status == CLEAT_TOO_SMALL) {
            rows[known++] = first + i;
        }
    }
    atomic_store(&job->done, job->base);
    ended(job, count - known);
    return known;
}

void store_get_folder(struct store_job *job, struct store_folder *to)
{
    static struct sink sink;
    static uint32_t rows[STORE_BATCH_KEYS];

    sink.folder = to;
    for (uint32_t first = 0; first < job->rows.count;) {
        uint32_t count = least(job->rows.count - first, STORE_BATCH_KEYS);
        uint32_t known = ask_sizes(job, first, count, rows);

        for (uint32_t at = 0; at < known;) {
            uint64_t bytes = job->rows.each[rows[at]].bytes;
            uint32_t together = 1;

            while (at + together < known && together < GET_FILES_MAX) {
                uint64_t more = job->rows.each[rows[at + together]].bytes;

                if (bytes > GET_BYTES_MAX || more > GET_BYTES_MAX - bytes) {
                    break;
                }
                bytes += more;
                together++;
            }
            get_known(job, &sink, rows + at, together);
            at += together;
        }
        first += count;
    }
}
