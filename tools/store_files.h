/* Cleat: files that appear whole or not at all. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A file is made without a name where the file system has such files, with a
 * hidden one elsewhere; filled through a mapping; and then put in its place.
 */
#ifndef CLEAT_TOOLS_STORE_FILES_H
#define CLEAT_TOOLS_STORE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How hidden names begin. */
#define STORE_HIDDEN ".cleat-store-"

struct store_file {
    int fd; /* -1: none */
    void *map;
    size_t bytes;
    bool named; /* it has its hidden name */
    char hidden[64];
};

/* Makes a file of `bytes` bytes in a folder, whose space is taken at once, and
 * maps it; an empty one is not mapped. Returns 0, or errno with nothing left.
 */
int store_file_make(struct store_file *file, int folder, uint64_t bytes);

/* Unmaps it and puts it in its place, over a file that is there.
 *   durable  it is on the disk before
 * Returns 0, or errno; then it is gone. */
int store_file_publish(struct store_file *file, int folder, const char *name,
                       bool durable);

/* Throws it away. Where its memory is lent, it stays mapped. Idempotent. */
void store_file_drop(struct store_file *file, int folder, bool lent);

/* Maps a file for reading: *bytes of it, NULL where it is empty. Returns 0, or
 * errno; EINVAL: it is not a regular file. */
int store_file_map(int folder, const char *name, const void **map,
                   uint64_t *bytes);
void store_file_unmap(const void *map, uint64_t bytes);

/* A folder to be written to. */
struct store_folder {
    int fd; /* -1: not open */
    bool made;
    const char *path;
};

/* Opens it; makes it where it is not there and `make` says so. Returns 0, or
 * errno. */
int store_folder_open(struct store_folder *folder, const char *path, bool make);

/* Closes it, and removes it where it was made and is empty. */
void store_folder_close(struct store_folder *folder);

#endif
