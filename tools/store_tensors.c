/* Cleat: a safetensors file in a store. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#define CLEAT_DIGEST_DETECT
#include "store_tensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8u
#define TRAILER_BYTES 16u
#define HEAD_BYTES_MAX \
    (LENGTH_BYTES + CLEAT_SAFETENSORS_HEADER_MAX + TRAILER_BYTES)

static const char not_a_head[] = "its header is not one of a file";

static const char magic[4] = {'C', 'L', 'T', 'S'};

static void put_number(unsigned char *to, uint64_t number, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        to[i] = (unsigned char)(number >> (8 * i));
    }
}

static uint64_t get_number(const unsigned char *from, unsigned bytes)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < bytes; i++) {
        number |= (uint64_t)from[i] << (8 * i);
    }
    return number;
}

static uint32_t digest(uint32_t crc, const void *from, uint64_t bytes)
{
    return cleat_crc32c_with(cleat_digest_detect(), crc, from, (size_t)bytes);
}

static bool is_header(const struct store_row *row)
{
    return row->dtype == CLEAT_DTYPE_NONE;
}

/* The store may still write to what is lent. */
static void give_back(struct store_job *job, void *head, bool lent)
{
    if (lent) {
        job->kept = head;
    } else {
        free(head);
    }
}

/* ---- a file's rows ------------------------------------------------------ */

/* Of a file of `bytes` bytes, the first `here` of which are mapped. */
static enum cleat_status open_file(struct store_tensors *tensors,
                                   const char *name, const void *map,
                                   uint64_t here, uint64_t bytes,
                                   struct cleat_error *error)
{
    enum cleat_status status = cleat_safetensors_open_head(
        &tensors->file, name, map, (size_t)here, bytes, NULL, 0, error);

    if (status == CLEAT_TOO_SMALL) {
        size_t needed = (size_t)error->offset;

        tensors->block = malloc(needed);
        if (tensors->block == NULL) {
            return cleat_error_set(error, CLEAT_CAPACITY, 0, needed,
                                   "no memory for its table");
        }
        status = cleat_safetensors_open_head(&tensors->file, name, map,
                                             (size_t)here, bytes,
                                             tensors->block, needed, error);
    }
    if (status != CLEAT_OK) { return status; }
    tensors->map = map;
    tensors->bytes = bytes;
    tensors->data_at = LENGTH_BYTES + get_number(map, LENGTH_BYTES);
    return CLEAT_OK;
}

static void close_file(struct store_tensors *tensors)
{
    if (tensors->map != NULL) { cleat_safetensors_close(&tensors->file); }
    free(tensors->block);
    tensors->map = NULL;
    tensors->block = NULL;
}

/* They cover the data in their order, with neither holes nor overlap. */
static int add_tensors(struct store_job *job, const char *command,
                       struct store_tensors *tensors, const char *where)
{
    struct cleat_tensor_source source = cleat_safetensors_source(
        &tensors->file);
    uint32_t count = source.count(source.context);
    uint64_t at = tensors->data_at;

    for (uint32_t i = 0; i < count; i++) {
        struct cleat_tensor tensor;
        struct store_row *row;
        int result;

        (void)source.describe(source.context, i, &tensor);
        result = store_rows_add(command, &job->rows, where, 0, tensor.name,
                                tensor.name_bytes, &row);
        if (result != 0) { return result; }
        row->dtype = tensor.dtype;
        row->rank = tensor.rank;
        memcpy(row->shape, tensor.shape, sizeof row->shape);
        row->bytes = tensor.bytes;
        row->offset = at;
        at += tensor.bytes;
    }
    return 0;
}

static int add_header(struct store_job *job, const char *where)
{
    struct store_row *row;

    return store_rows_add(job->command, &job->rows, where, 0, STORE_HEADER_NAME,
                          strlen(STORE_HEADER_NAME), &row);
}

int store_tensors_open(struct store_job *job, struct store_tensors *tensors)
{
    struct cleat_error error = {0};
    const void *map;
    uint64_t bytes;
    int result;
    int code;

    memset(tensors, 0, sizeof *tensors);
    code = store_file_map(AT_FDCWD, job->from, &map, &bytes, &tensors->stamp);
    if (code != 0) {
        store_say(job->command, "--from %s: %s", job->from,
                  code == EINVAL ? "neither a file nor a folder"
                                 : strerror(code));
        return STORE_EXIT_INPUT;
    }
    if (open_file(tensors, job->from, map, bytes, bytes, &error) != CLEAT_OK) {
        store_say(job->command, "%s", error.text);
        close_file(tensors);
        store_file_unmap(map, bytes);
        return STORE_EXIT_INPUT;
    }
    result = add_tensors(job, job->command, tensors, job->from);
    if (result == 0) { result = add_header(job, job->from); }
    if (result != 0) { store_tensors_close(job, tensors); }
    return result;
}

void store_tensors_close(struct store_job *job, struct store_tensors *tensors)
{
    const void *map = tensors->map;

    close_file(tensors);
    if (!job->held) { store_file_unmap(map, tensors->bytes); }
}

/* ---- put ---------------------------------------------------------------- */

static void *at_offset(const struct store_tensors *tensors, uint64_t offset)
{
    return (unsigned char *)(uintptr_t)tensors->map + offset;
}

static void add_row(struct store_job *job, uint32_t index, void *payload,
                    uint64_t bytes)
{
    if (bytes > job->opened.store.value_bytes_max) {
        store_row_fail(&job->rows.each[index], CLEAT_LIMIT, 0);
    } else {
        store_batch_add(job, index, payload, bytes);
    }
}

static void ended(struct store_job *job, uint32_t count)
{
    job->base += count;
    atomic_store(&job->done, job->base);
}

/* Digests on to `end`, which is never before where it has come to. */
static void digest_to(struct store_tensors *tensors, uint64_t end)
{
    tensors->crc = digest(tensors->crc, at_offset(tensors, tensors->crc_at),
                          end - tensors->crc_at);
    tensors->crc_at = end;
}

static void put_header(struct store_job *job, struct store_tensors *tensors,
                       uint32_t index)
{
    size_t bytes = (size_t)tensors->data_at;
    unsigned char *head = malloc(bytes + TRAILER_BYTES);

    if (head == NULL) {
        store_row_fail(&job->rows.each[index], CLEAT_CAPACITY, ENOMEM);
        return;
    }
    digest_to(tensors, tensors->bytes);
    memcpy(head, tensors->map, bytes);
    memcpy(head + bytes, magic, sizeof magic);
    put_number(head + bytes + 4, tensors->crc, 4);
    put_number(head + bytes + 8, tensors->bytes - tensors->data_at, 8);
    /* Nobody is told that tensors are there which are of no file. */
    if (store_file_changed(AT_FDCWD, job->from, &tensors->stamp)) {
        store_row_fail_changed(job, &job->rows.each[index]);
        job->rows.each[index].state = STORE_FAILED;
        free(head);
        return;
    }
    job->rows.each[index].bytes = bytes + TRAILER_BYTES;
    store_batch_begin(job);
    add_row(job, index, head, bytes + TRAILER_BYTES);
    store_batch_send(job, STORE_EXACT);
    give_back(job, head, job->rows.each[index].lent);
}

/* Sends the tensors among the rows from `first` on; returns the next. */
static uint32_t put_some(struct store_job *job, struct store_tensors *tensors,
                         uint32_t first)
{
    uint32_t next = first;
    uint64_t end = tensors->crc_at;

    store_batch_begin(job);
    while (next < job->rows.count && next - first < STORE_BATCH_KEYS &&
           !is_header(&job->rows.each[next])) {
        const struct store_row *row = &job->rows.each[next];

        add_row(job, next, at_offset(tensors, row->offset), row->bytes);
        end = row->offset + row->bytes;
        next++;
    }
    store_batch_send(job, STORE_EXACT);
    ended(job, next - first);
    /* While it is in memory; what follows may be larger than that is. */
    if (is_header(&job->rows.each[job->rows.count - 1])) {
        digest_to(tensors, end);
    }
    return next;
}

void store_put_tensors(struct store_job *job, struct store_tensors *tensors)
{
    uint32_t next = 0;

    tensors->crc_at = tensors->data_at;
    while (next < job->rows.count) {
        if (is_header(&job->rows.each[next])) {
            put_header(job, tensors, next++);
            ended(job, 1);
        } else {
            next = put_some(job, tensors, next);
        }
    }
}

/* ---- get ---------------------------------------------------------------- */

/* The header's value, from malloc; NULL where its row has failed. */
static unsigned char *get_head(struct store_job *job, uint64_t *bytes)
{
    struct store_row *row = &job->rows.each[0];
    unsigned char *head;

    store_batch_begin(job);
    store_batch_add(job, 0, NULL, 0);
    store_batch_send(job, STORE_SIZED);
    if (row->state != STORE_OK && row->status != CLEAT_TOO_SMALL) {
        return NULL;
    }
    *bytes = row->actual;
    row->bytes = row->actual;
    if (*bytes > HEAD_BYTES_MAX) {
        store_row_fail(row, CLEAT_LIMIT, 0);
        return NULL;
    }
    head = malloc((size_t)*bytes + 1);
    if (head == NULL) {
        store_row_fail(row, CLEAT_CAPACITY, ENOMEM);
        return NULL;
    }
    store_batch_begin(job);
    store_batch_add(job, 0, head, *bytes);
    store_batch_send(job, STORE_EXACT);
    if (row->state == STORE_OK) { return head; }
    give_back(job, head, row->lent);
    return NULL;
}

static void refuse_head(struct store_job *job, enum cleat_status status,
                        const char *what)
{
    snprintf(job->error, sizeof job->error, "%s", what);
    store_row_fail(&job->rows.each[0], status, 0);
}

/* The rows of the tensors, if the head is that of a file of `bytes` bytes.
 * Nothing is made before: what a head says may be anything. */
static bool add_rows(struct store_job *job, const unsigned char *head,
                     uint64_t head_bytes, uint64_t bytes)
{
    struct store_tensors tensors = {0};
    struct cleat_error error = {0};
    enum cleat_status status = open_file(&tensors, job->rows.each[0].key, head,
                                         head_bytes, bytes, &error);
    bool is_one = false;

    if (status != CLEAT_OK || tensors.data_at != head_bytes) {
        refuse_head(job,
                    status == CLEAT_CAPACITY ? CLEAT_CAPACITY : CLEAT_MALFORMED,
                    status != CLEAT_OK ? error.text : not_a_head);
    } else if (add_tensors(job, NULL, &tensors, "") != 0) {
        job->rows.count = 1;
        refuse_head(job, CLEAT_MALFORMED, "a tensor's name cannot be a key");
    } else {
        is_one = true;
    }
    close_file(&tensors);
    return is_one;
}

/* Makes the file as it was, but for its tensors' bytes. */
static bool make_file(struct store_job *job, struct store_tensors *tensors,
                      struct store_file *file, int folder,
                      const unsigned char *head, uint64_t bytes)
{
    struct store_going going = store_going(job);
    uint64_t data_bytes = get_number(head + bytes - 8, 8);
    uint64_t head_bytes = bytes - TRAILER_BYTES;
    int code;

    if (data_bytes > INT64_MAX - head_bytes ||
        data_bytes > SIZE_MAX / 2 - head_bytes) {
        refuse_head(job, CLEAT_MALFORMED, not_a_head);
        return false;
    }
    if (!add_rows(job, head, head_bytes, head_bytes + data_bytes)) {
        return false;
    }
    code = store_file_make(file, folder, head_bytes + data_bytes, &going);
    if (code != 0) {
        job->rows.count = 1; /* none of them was asked for */
        snprintf(job->error, sizeof job->error, "--to: %s", strerror(code));
        if (code == ECANCELED) {
            store_row_fail(&job->rows.each[0], store_may_go(job), 0);
        } else {
            store_row_fail_file(&job->rows.each[0], code);
        }
        return false;
    }
    memcpy(file->map, head, (size_t)head_bytes);
    tensors->map = file->map;
    tensors->bytes = file->bytes;
    tensors->data_at = head_bytes;
    atomic_store(&job->watch.total, job->rows.count);
    return true;
}

/* Gets every tensor to its place. Returns whether all have come. */
static bool get_tensors(struct store_job *job, struct store_tensors *tensors,
                        bool *lent)
{
    bool is_whole = true;

    ended(job, 1);
    for (uint32_t first = 1; first < job->rows.count;) {
        uint32_t next = first;

        store_batch_begin(job);
        while (next < job->rows.count && next - first < STORE_BATCH_KEYS) {
            const struct store_row *row = &job->rows.each[next];

            store_batch_add(job, next, at_offset(tensors, row->offset),
                            row->bytes);
            next++;
        }
        store_batch_send(job, STORE_EXACT);
        ended(job, next - first);
        for (; first < next; first++) {
            const struct store_row *row = &job->rows.each[first];

            is_whole = is_whole && row->state == STORE_OK;
            *lent = *lent || row->lent;
        }
    }
    return is_whole;
}

static void finish(struct store_job *job, struct store_tensors *tensors,
                   struct store_file *file, struct store_folder *folder,
                   const char *name, uint32_t crc)
{
    int code;

    if (digest(0, at_offset(tensors, tensors->data_at),
               tensors->bytes - tensors->data_at) != crc) {
        refuse_head(job, CLEAT_CORRUPT,
                    "the tensors are not those that their header was put with");
        return;
    }
    code = store_file_publish(file, folder->fd, name, true);
    if (code == 0) { return; }
    snprintf(job->error, sizeof job->error, "--to: %s", strerror(code));
    store_row_fail_file(&job->rows.each[0], code);
}

static void get_file(struct store_job *job, struct store_folder *folder,
                     const char *name, const unsigned char *head,
                     uint64_t bytes)
{
    struct store_tensors tensors = {0};
    struct store_file file = {.fd = -1};
    bool lent = false;

    if (make_file(job, &tensors, &file, folder->fd, head, bytes) &&
        get_tensors(job, &tensors, &lent)) {
        finish(job, &tensors, &file, folder, name,
               (uint32_t)get_number(head + bytes - 12, 4));
    }
    store_file_drop(&file, folder->fd, lent);
}

int store_get_tensors_begin(struct store_job *job)
{
    return add_header(job, "--to");
}

void store_get_tensors(struct store_job *job, struct store_folder *folder,
                       const char *name)
{
    unsigned char *head;
    uint64_t bytes = 0;

    head = get_head(job, &bytes);
    if (head == NULL) { return; }
    if (bytes < LENGTH_BYTES + TRAILER_BYTES ||
        memcmp(head + bytes - TRAILER_BYTES, magic, sizeof magic) != 0) {
        refuse_head(job, CLEAT_MALFORMED,
                    "it was not put by cleat store from a safetensors file");
    } else {
        get_file(job, folder, name, head, bytes);
    }
    free(head);
}
