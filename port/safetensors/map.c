/* Cleat: finding, opening and mapping. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64 /* where off_t would have 32 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "read.h"

/* Without O_NONBLOCK a pipe that somebody put there would be waited for. */
#define OPEN_FLAGS (O_RDONLY | O_CLOEXEC | O_NONBLOCK)

static enum cleat_status fail_open(const struct cleat_safetensors_text *label,
                                   int error_number, struct cleat_error *error)
{
    return cleat_safetensors_fail_os(error, error_number, 0, "%s: cannot open",
                                     label->text);
}

/* Maps an open file; mapping->label is set. Closes `file` in any case. */
static enum cleat_status map_open(int file,
                                  struct cleat_safetensors_mapping *mapping,
                                  struct cleat_error *error)
{
    struct stat facts;
    void *bytes = NULL;
    enum cleat_status status = CLEAT_OK;

    mapping->file = NULL;
    mapping->file_bytes = 0;
    mapping->absent_bytes = 0;
    if (fstat(file, &facts) != 0) {
        status = fail_open(&mapping->label, errno, error);
    } else if (!S_ISREG(facts.st_mode)) {
        status = cleat_safetensors_fail(error, CLEAT_MALFORMED, 0, 0,
                                        "%s: not a regular file",
                                        mapping->label.text);
    } else if ((uint64_t)facts.st_size > SIZE_MAX) {
        status = cleat_safetensors_fail(error, CLEAT_LIMIT, 0, 0,
                                        "%s: larger than the address space",
                                        mapping->label.text);
    } else if (facts.st_size > 0) {
        bytes = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_SHARED, file,
                     0);
        if (bytes == MAP_FAILED) {
            status = cleat_safetensors_fail_os(
                error, errno, 0, "%s: cannot map", mapping->label.text);
        } else {
            mapping->file = bytes;
            mapping->file_bytes = (size_t)facts.st_size;
        }
    }
    (void)close(file);
    return status;
}

void cleat_safetensors_unmap(const void *file, size_t file_bytes)
{
    /* munmap takes what mmap gave, and mmap gave it without const. */
    if (file_bytes != 0) { (void)munmap((void *)(uintptr_t)file, file_bytes); }
}

/* ---- shards ---------------------------------------------------------------
 */
/* "../../blobs/" and hex digits: how a snapshot in the hub's cache refers to
 * its files. */
static bool is_hub_link(const char *target)
{
    static const char blobs[] = "../../blobs/";
    const char *name = target + sizeof blobs - 1;

    if (strncmp(target, blobs, sizeof blobs - 1) != 0) { return false; }
    return name[0] != '\0' && name[strspn(name, "0123456789abcdef")] == '\0';
}

/* Follows one link, if it is of a kind that may be. -1 with errno; EXDEV for
 * one that may not. */
static int open_link(int folder, const char *name)
{
    char target[PATH_MAX];
    ssize_t bytes = readlinkat(folder, name, target, sizeof target - 1);

    if (bytes < 0) { return -1; }
    target[bytes] = '\0';
    if (strchr(target, '/') != NULL && !is_hub_link(target)) {
        errno = EXDEV;
        return -1;
    }
    return openat(folder, target, OPEN_FLAGS | O_NOFOLLOW);
}

static enum cleat_status map_beside(int folder, const char *name,
                                    struct cleat_safetensors_mapping *mapping,
                                    struct cleat_error *error)
{
    int file = openat(folder, name, OPEN_FLAGS | O_NOFOLLOW);

    if (file < 0 && errno == ELOOP) { file = open_link(folder, name); }
    if (file < 0 && (errno == EXDEV || errno == ELOOP)) {
        return cleat_safetensors_fail(
            error, CLEAT_MALFORMED, 0, 0,
            "%s: a symbolic link that leaves its folder, which is not followed",
            mapping->label.text);
    }
    if (file < 0) { return fail_open(&mapping->label, errno, error); }
    return map_open(file, mapping, error);
}

enum cleat_status
cleat_safetensors_map_shard(int folder, const char *name,
                            struct cleat_safetensors_mapping *mapping,
                            struct cleat_error *error)
{
    enum cleat_status status;

    mapping->label = cleat_safetensors_path(name);
    status = map_beside(folder, name, mapping, error);
    if (status == CLEAT_NOT_FOUND) {
        return cleat_safetensors_fail_os(error, ENOENT, 0,
                                         "%s: named by the index; cannot open",
                                         mapping->label.text);
    }
    return status;
}

/* ---- what a path means ----------------------------------------------------
 */
static struct cleat_safetensors_text label_in(const char *folder,
                                              const char *name)
{
    char joined[PATH_MAX + 64];

    snprintf(joined, sizeof joined, "%s/%s", folder, name);
    return cleat_safetensors_path(joined);
}

static bool ends_in(const char *text, const char *end)
{
    size_t bytes = strlen(text);
    size_t end_bytes = strlen(end);

    return bytes >= end_bytes && strcmp(text + bytes - end_bytes, end) == 0;
}

/* A folder: its index, or else its single file. `folder` stays open only with
 * an index. */
static enum cleat_status find_in_folder(const char *path,
                                        struct cleat_safetensors_place *place,
                                        struct cleat_error *error)
{
    static const char *const names[] = {CLEAT_SAFETENSORS_INDEX,
                                        CLEAT_SAFETENSORS_SINGLE};
    enum cleat_status status = CLEAT_NOT_FOUND;

    for (size_t i = 0; i < 2 && status == CLEAT_NOT_FOUND; i++) {
        place->is_index = i == 0;
        place->mapping.label = label_in(path, names[i]);
        status = map_beside(place->folder, names[i], &place->mapping, error);
    }
    if (status == CLEAT_NOT_FOUND) {
        return cleat_safetensors_fail_os(
            error, ENOENT, 0, "%s: neither %s nor %s in this folder",
            cleat_safetensors_path(path).text, names[0], names[1]);
    }
    return status;
}

/* The folder that a file's path names. */
static int open_folder_of(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t bytes = slash == NULL ? 0 : (size_t)(slash - path) + 1;

    if (bytes >= sizeof folder) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(folder, path, bytes);
    memcpy(folder + bytes, ".", 2);
    return open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static enum cleat_status find_file(const char *path,
                                   struct cleat_safetensors_place *place,
                                   struct cleat_error *error)
{
    int file = open(path, OPEN_FLAGS);
    enum cleat_status status;

    place->mapping.label = cleat_safetensors_path(path);
    place->is_index = ends_in(path, ".json");
    if (file < 0) { return fail_open(&place->mapping.label, errno, error); }
    status = map_open(file, &place->mapping, error);
    if (status != CLEAT_OK || !place->is_index) { return status; }
    place->folder = open_folder_of(path);
    if (place->folder >= 0) { return CLEAT_OK; }
    status = fail_open(&place->mapping.label, errno, error);
    cleat_safetensors_unmap(place->mapping.file, place->mapping.file_bytes);
    return status;
}

enum cleat_status cleat_safetensors_find(const char *path,
                                         struct cleat_safetensors_place *place,
                                         struct cleat_error *error)
{
    enum cleat_status status;

    place->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (place->folder < 0) { return find_file(path, place, error); }
    status = find_in_folder(path, place, error);
    if (status != CLEAT_OK || !place->is_index) {
        (void)close(place->folder);
        place->folder = -1;
    }
    return status;
}
