/* Cleat: writing a safetensors file. SPDX-License-Identifier: Apache-2.0
 *
 * Two passes over the table: one that checks it and counts the header's bytes,
 * one that writes. The header is the reference implementation's, byte for byte:
 * no spaces between, members in the order dtype, shape, data_offsets, and
 * spaces at the end up to a multiple of 8. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64 /* where off_t would have 32 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleat/safetensors.h"
#include "text.h"

/* The digits of 2^64 - 1. */
#define NUMBER_BYTES_MAX 20u

/* What fits a file beside the largest header. */
#define DATA_BYTES_MAX ((uint64_t)INT64_MAX - 8u - CLEAT_SAFETENSORS_HEADER_MAX)

struct writer {
    const char *path;
    const struct cleat_tensor_source *source;
    uint32_t *by_name; /* `count` of them */
    unsigned char *buffer;
    size_t buffer_bytes;
    size_t filled; /* of the buffer, not yet in the file */
    uint64_t at;   /* bytes put so far, in the buffer or in the file */
    uint32_t count;
    int file;
    bool counting; /* the first pass: nothing goes to the file */
    struct cleat_error *error;
};

/* ---- bytes into the file --------------------------------------------------
 */
static enum cleat_status flush(struct writer *writer)
{
    size_t done = 0;

    while (done < writer->filled) {
        ssize_t wrote = write(writer->file, writer->buffer + done,
                              writer->filled - done);

        if (wrote < 0 && errno == EINTR) { continue; }
        if (wrote <= 0) {
            uint64_t at = writer->at - writer->filled + done;

            return cleat_safetensors_fail_os(
                writer->error, wrote == 0 ? EIO : errno, at,
                "%s: byte %" PRIu64 ": cannot write",
                cleat_safetensors_path(writer->path).text, at);
        }
        done += (size_t)wrote;
    }
    writer->filled = 0;
    return CLEAT_OK;
}

static enum cleat_status put(struct writer *writer, const void *bytes,
                             size_t count)
{
    const unsigned char *from = bytes;

    if (writer->counting) {
        writer->at += count;
        return CLEAT_OK;
    }
    while (count > 0) {
        size_t room = writer->buffer_bytes - writer->filled;
        size_t take = count < room ? count : room;

        memcpy(writer->buffer + writer->filled, from, take);
        writer->filled += take;
        writer->at += take;
        from += take;
        count -= take;
        if (writer->filled == writer->buffer_bytes) {
            enum cleat_status status = flush(writer);

            if (status != CLEAT_OK) { return status; }
        }
    }
    return CLEAT_OK;
}

static enum cleat_status put_text(struct writer *writer, const char *text)
{
    return put(writer, text, strlen(text));
}

static enum cleat_status put_number(struct writer *writer, uint64_t number,
                                    const char *after)
{
    char text[NUMBER_BYTES_MAX + 4];

    snprintf(text, sizeof text, "%" PRIu64 "%s", number, after);
    return put_text(writer, text);
}

/* ---- the header -----------------------------------------------------------
 */
/* A name between quotes, escaped where JSON demands it. */
static enum cleat_status put_name(struct writer *writer,
                                  const struct cleat_tensor *tensor)
{
    enum cleat_status status = put_text(writer, "\"");
    uint32_t from = 0;

    for (uint32_t i = 0; i < tensor->name_bytes && status == CLEAT_OK; i++) {
        unsigned char letter = (unsigned char)tensor->name[i];
        char escape[8];

        if (letter >= 0x20 && letter != '"' && letter != '\\') { continue; }
        if (letter < 0x20) {
            snprintf(escape, sizeof escape, "\\u%04x", letter);
        } else {
            snprintf(escape, sizeof escape, "\\%c", letter);
        }
        status = put(writer, tensor->name + from, i - from);
        if (status == CLEAT_OK) { status = put_text(writer, escape); }
        from = i + 1;
    }
    if (status != CLEAT_OK) { return status; }
    status = put(writer, tensor->name + from, tensor->name_bytes - from);
    if (status != CLEAT_OK) { return status; }
    return put_text(writer, "\":{\"dtype\":\"");
}

static enum cleat_status put_tensor(struct writer *writer,
                                    const struct cleat_tensor *tensor,
                                    uint64_t from)
{
    enum cleat_status status = put_name(writer, tensor);

    if (status != CLEAT_OK) { return status; }
    status = put_text(writer, cleat_dtype_name(tensor->dtype));
    if (status != CLEAT_OK) { return status; }
    status = put_text(writer, "\",\"shape\":[");
    for (uint32_t i = 0; i < tensor->rank && status == CLEAT_OK; i++) {
        status = put_number(writer, tensor->shape[i],
                            i + 1 < tensor->rank ? "," : "");
    }
    if (status != CLEAT_OK) { return status; }
    status = put_text(writer, "],\"data_offsets\":[");
    if (status != CLEAT_OK) { return status; }
    status = put_number(writer, from, ",");
    if (status != CLEAT_OK) { return status; }
    return put_number(writer, from + tensor->bytes, "]}");
}

/* The whole header; *data_bytes becomes what follows it. */
static enum cleat_status put_header(struct writer *writer, uint64_t *data_bytes)
{
    enum cleat_status status = put_text(writer, "{");
    uint64_t from = 0;

    for (uint32_t i = 0; i < writer->count && status == CLEAT_OK; i++) {
        struct cleat_tensor tensor;

        status = writer->source->describe(writer->source->context, i, &tensor);
        if (status != CLEAT_OK) { return status; }
        if (tensor.bytes > DATA_BYTES_MAX - from) {
            return cleat_safetensors_fail(
                writer->error, CLEAT_LIMIT, i, 0,
                "%s: the tensors' bytes do not fit a file",
                cleat_safetensors_path(writer->path).text);
        }
        if (i > 0) { status = put_text(writer, ","); }
        if (status == CLEAT_OK) { status = put_tensor(writer, &tensor, from); }
        from += tensor.bytes;
    }
    if (status != CLEAT_OK) { return status; }
    *data_bytes = from;
    return put_text(writer, "}");
}

/* ---- the table ------------------------------------------------------------
 */
/* Whether bytes are UTF-8 as RFC 3629 has it: no overlong form, no surrogate,
 * nothing above U+10FFFF. */
static bool is_utf8(const char *text, size_t bytes)
{
    size_t at = 0;

    while (at < bytes) {
        unsigned char lead = (unsigned char)text[at++];
        unsigned char low = 0x80;
        unsigned char high = 0xBF;
        unsigned more;

        if (lead < 0x80) { continue; }
        if (lead < 0xC2 || lead > 0xF4) { return false; }
        more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
        if (lead == 0xE0) { low = 0xA0; }
        if (lead == 0xED) { high = 0x9F; }
        if (lead == 0xF0) { low = 0x90; }
        if (lead == 0xF4) { high = 0x8F; }
        for (; more > 0; more--) {
            if (at == bytes || (unsigned char)text[at] < low ||
                (unsigned char)text[at] > high) {
                return false;
            }
            at++;
            low = 0x80;
            high = 0xBF;
        }
    }
    return true;
}

static struct cleat_tensor described(const struct writer *writer,
                                     uint32_t index)
{
    struct cleat_tensor tensor;

    /* check_rows has seen every row; a source's table does not change. */
    (void)writer->source->describe(writer->source->context, index, &tensor);
    return tensor;
}

static bool name_is_less(const void *context, uint32_t a, uint32_t b)
{
    struct cleat_tensor left = described(context, a);
    struct cleat_tensor right = described(context, b);
    int order = cleat_safetensors_compare(left.name, left.name_bytes,
                                          right.name, right.name_bytes);

    return order != 0 ? order < 0 : a < b;
}

static enum cleat_status refuse_name(const struct writer *writer,
                                     enum cleat_status status, uint32_t index,
                                     const struct cleat_tensor *tensor,
                                     const char *what)
{
    return cleat_safetensors_fail(
        writer->error, status, index, 0, "%s: tensor '%s': %s",
        cleat_safetensors_path(writer->path).text,
        cleat_safetensors_name(tensor->name, tensor->name_bytes).text, what);
}

static enum cleat_status check_rows(const struct writer *writer)
{
    static const char metadata[] = "__metadata__";

    for (uint32_t i = 0; i < writer->count; i++) {
        struct cleat_tensor tensor;
        uint64_t bytes = 0;
        enum cleat_status status = writer->source->describe(
            writer->source->context, i, &tensor);

        if (status != CLEAT_OK) {
            return cleat_safetensors_fail(
                writer->error, status, i, 0,
                "%s: tensor %" PRIu32 ": its source cannot describe it",
                cleat_safetensors_path(writer->path).text, i);
        }
        if (tensor.name_bytes == 0 ||
            cleat_safetensors_compare(tensor.name, tensor.name_bytes, metadata,
                                      sizeof metadata - 1) == 0) {
            return refuse_name(writer, CLEAT_INVALID, i, &tensor,
                               "this cannot be a tensor's name");
        }
        if (!is_utf8(tensor.name, tensor.name_bytes)) {
            return refuse_name(writer, CLEAT_INVALID, i, &tensor,
                               "its name is not UTF-8");
        }
        if (cleat_dtype_tensor_bytes(tensor.dtype, tensor.rank, tensor.shape,
                                     &bytes) != CLEAT_OK ||
            bytes != tensor.bytes) {
            return refuse_name(writer, CLEAT_INVALID, i, &tensor,
                               "its bytes do not follow from dtype and shape");
        }
    }
    return CLEAT_OK;
}

static enum cleat_status check_names_differ(const struct writer *writer)
{
    for (uint32_t i = 0; i < writer->count; i++) { writer->by_name[i] = i; }
    cleat_safetensors_sort(writer->by_name, writer->count, name_is_less,
                           writer);
    for (uint32_t i = 1; i < writer->count; i++) {
        struct cleat_tensor last = described(writer, writer->by_name[i - 1]);
        struct cleat_tensor next = described(writer, writer->by_name[i]);

        if (cleat_safetensors_compare(last.name, last.name_bytes, next.name,
                                      next.name_bytes) == 0) {
            return refuse_name(writer, CLEAT_EXISTS, writer->by_name[i], &next,
                               "two tensors have this name");
        }
    }
    return CLEAT_OK;
}

/* The first pass: the header's bytes, padded, and the data's. */
static enum cleat_status measure(struct writer *writer, uint64_t *header_bytes,
                                 uint64_t *data_bytes)
{
    enum cleat_status status;

    writer->counting = true;
    status = put_header(writer, data_bytes);
    if (status != CLEAT_OK) { return status; }
    *header_bytes = (writer->at + 7) / 8 * 8;
    writer->at = 0;
    writer->counting = false;
    if (*header_bytes > CLEAT_SAFETENSORS_HEADER_MAX) {
        return cleat_safetensors_fail(
            writer->error, CLEAT_LIMIT, 0, 0,
            "%s: the header would have %" PRIu64
            " bytes, and at most 100000000 are allowed",
            cleat_safetensors_path(writer->path).text, *header_bytes);
    }
    return CLEAT_OK;
}

/* ---- the file -------------------------------------------------------------
 */
static enum cleat_status write_data(struct writer *writer)
{
    for (uint32_t i = 0; i < writer->count; i++) {
        struct cleat_tensor tensor = described(writer, i);
        uint64_t offset = 0;

        while (offset < tensor.bytes) {
            size_t room = writer->buffer_bytes - writer->filled;
            uint64_t left = tensor.bytes - offset;
            size_t take = left < room ? (size_t)left : room;
            enum cleat_status status = writer->source->read(
                writer->source->context, i, offset, take,
                writer->buffer + writer->filled, NULL);

            if (status != CLEAT_OK) {
                return refuse_name(writer, status, i, &tensor,
                                   "its source cannot read it");
            }
            writer->filled += take;
            writer->at += take;
            offset += take;
            if (writer->filled < writer->buffer_bytes) { continue; }
            status = flush(writer);
            if (status != CLEAT_OK) { return status; }
        }
    }
    return flush(writer);
}

static enum cleat_status write_all(struct writer *writer, uint64_t header_bytes)
{
    unsigned char length[8];
    uint64_t data_bytes;
    enum cleat_status status;

    for (unsigned i = 0; i < sizeof length; i++) {
        length[i] = (unsigned char)(header_bytes >> (8 * i));
    }
    status = put(writer, length, sizeof length);
    if (status != CLEAT_OK) { return status; }
    status = put_header(writer, &data_bytes);
    while (status == CLEAT_OK && writer->at < sizeof length + header_bytes) {
        status = put_text(writer, " ");
    }
    if (status != CLEAT_OK) { return status; }
    return write_data(writer);
}

/* The hidden name's own bytes at most, and how many of them are tried: one that
 * exists was left by a process that was killed. */
#define HIDDEN_BYTES_MAX 64u
#define HIDDEN_ATTEMPTS_MAX 1000u

/* Where the file is made before it has its name. */
struct place {
    char folder[PATH_MAX];
    char hidden[PATH_MAX]; /* the file's name until it is renamed */
    bool named;            /* whether it has that name now */
};

static enum cleat_status find_place(const struct writer *writer,
                                    struct place *place)
{
    const char *slash = strrchr(writer->path, '/');
    const char *name = slash == NULL ? writer->path : slash + 1;
    size_t folder_bytes = (size_t)(name - writer->path);
    struct stat there;
    bool exists = stat(writer->path, &there) == 0;

    if (exists && S_ISDIR(there.st_mode)) {
        return cleat_safetensors_fail_os(
            writer->error, EISDIR, 0, "%s: cannot create",
            cleat_safetensors_path(writer->path).text);
    }
    /* The rename would put a file in a device's place. */
    if (exists && !S_ISREG(there.st_mode)) {
        return cleat_safetensors_fail(
            writer->error, CLEAT_INVALID, 0, 0,
            "%s: exists, and is not a regular file",
            cleat_safetensors_path(writer->path).text);
    }
    if (name[0] == '\0') {
        return cleat_safetensors_fail(
            writer->error, CLEAT_INVALID, 0, 0, "%s: not the name of a file",
            cleat_safetensors_path(writer->path).text);
    }
    if (strlen(writer->path) + HIDDEN_BYTES_MAX >= PATH_MAX) {
        return cleat_safetensors_fail_os(
            writer->error, ENAMETOOLONG, 0, "%s: cannot create",
            cleat_safetensors_path(writer->path).text);
    }
    memcpy(place->folder, writer->path, folder_bytes);
    place->folder[folder_bytes] = '\0';
    for (unsigned attempt = 0; attempt < HIDDEN_ATTEMPTS_MAX; attempt++) {
        snprintf(place->hidden, sizeof place->hidden,
                 "%.*s.cleat-%ld-%" PRIxPTR "-%u", (int)folder_bytes,
                 writer->path, (long)getpid(), (uintptr_t)place, attempt);
        if (access(place->hidden, F_OK) != 0) { break; }
    }
    if (folder_bytes == 0) { memcpy(place->folder, ".", 2); }
    place->named = false;
    return CLEAT_OK;
}

/* An unnamed file where the file system has them, so that even a killed process
 * leaves nothing; a hidden one elsewhere. */
static enum cleat_status create(struct writer *writer, struct place *place)
{
    writer->file = -1;
    if (access("/proc/self/fd", X_OK) == 0) { /* or it could not be linked */
        writer->file = open(place->folder, O_TMPFILE | O_RDWR | O_CLOEXEC,
                            0666);
    } else {
        errno = EOPNOTSUPP;
    }
    if (writer->file < 0 &&
        (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        writer->file = open(place->hidden,
                            O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0666);
        place->named = writer->file >= 0;
    }
    if (writer->file < 0) {
        return cleat_safetensors_fail_os(
            writer->error, errno, 0, "%s: cannot create",
            cleat_safetensors_path(writer->path).text);
    }
    return CLEAT_OK;
}

/* Takes the space first, so that a disk that is too full says so at once. */
static enum cleat_status reserve(struct writer *writer, uint64_t bytes)
{
    if (fallocate(writer->file, 0, 0, (off_t)bytes) == 0 ||
        (errno != ENOSPC && errno != EDQUOT && errno != EFBIG)) {
        return CLEAT_OK; /* or it cannot be told: writing will tell */
    }
    return cleat_safetensors_fail_os(
        writer->error, errno, bytes, "%s: no room for %" PRIu64 " bytes",
        cleat_safetensors_path(writer->path).text, bytes);
}

/* Gives the unnamed file the hidden name: only a rename replaces what is
 * there. */
static int name_it(const struct writer *writer, struct place *place)
{
    char link[40];

    if (place->named) { return 0; }
    snprintf(link, sizeof link, "/proc/self/fd/%d", writer->file);
    if (linkat(AT_FDCWD, link, AT_FDCWD, place->hidden, AT_SYMLINK_FOLLOW) !=
        0) {
        return -1;
    }
    place->named = true;
    return 0;
}

/* A renamed file is there after a crash only when its folder is on the disk
 * too. A file system that cannot is left alone. */
static void sync_folder(const struct place *place)
{
    int folder = open(place->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (folder < 0) { return; }
    (void)fsync(folder);
    (void)close(folder);
}

static enum cleat_status publish(struct writer *writer, struct place *place)
{
    if (fsync(writer->file) != 0 || name_it(writer, place) != 0 ||
        rename(place->hidden, writer->path) != 0) {
        return cleat_safetensors_fail_os(
            writer->error, errno, writer->at, "%s: cannot finish",
            cleat_safetensors_path(writer->path).text);
    }
    place->named = false;
    sync_folder(place);
    return CLEAT_OK;
}

static enum cleat_status write_file(struct writer *writer)
{
    struct place place;
    uint64_t header_bytes;
    uint64_t data_bytes;
    enum cleat_status status = measure(writer, &header_bytes, &data_bytes);

    if (status != CLEAT_OK) { return status; }
    status = find_place(writer, &place);
    if (status != CLEAT_OK) { return status; }
    status = create(writer, &place);
    if (status != CLEAT_OK) { return status; }
    status = reserve(writer, 8 + header_bytes + data_bytes);
    if (status == CLEAT_OK) { status = write_all(writer, header_bytes); }
    if (status == CLEAT_OK) { status = publish(writer, &place); }
    (void)close(writer->file);
    if (place.named) { (void)unlink(place.hidden); }
    return status;
}

enum cleat_status
cleat_safetensors_write(const char *path,
                        const struct cleat_tensor_source *source, void *block,
                        size_t block_bytes, struct cleat_error *error)
{
    struct writer writer = {.path = path, .source = source, .error = error};
    size_t least;
    size_t skip;
    enum cleat_status status;

    if (path == NULL || source == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, path == NULL ? 0 : 1, 0,
                               "safetensors: path and source must be given");
    }
    writer.count = source->count(source->context);
    least = CLEAT_SAFETENSORS_WRITE_BYTES(writer.count,
                                          CLEAT_SAFETENSORS_BUFFER_MIN);
    if (block == NULL || block_bytes < least) {
        return cleat_safetensors_fail(
            error, CLEAT_TOO_SMALL, 3, least,
            "%s: a block of %zu bytes is needed to write %" PRIu32 " tensors",
            cleat_safetensors_path(path).text, least, writer.count);
    }
    skip = (size_t)(0u - (uintptr_t)block) % sizeof(uint32_t);
    writer.by_name = (uint32_t *)(void *)((unsigned char *)block + skip);
    writer.buffer = (unsigned char *)(writer.by_name + writer.count);
    writer.buffer_bytes = block_bytes - skip - writer.count * sizeof(uint32_t);
    status = check_rows(&writer);
    if (status != CLEAT_OK) { return status; }
    status = check_names_differ(&writer);
    if (status != CLEAT_OK) { return status; }
    return write_file(&writer);
}
