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
#include <time.h>

/* How hidden names begin. */
#define STORE_HIDDEN ".cleat-store-"

struct store_file {
    int fd; /* -1: none */
    void *map;
    size_t bytes;
    bool named; /* it has its hidden name */
    char hidden[64];
};

/* Whether what takes long is to go on. */
struct store_going {
    bool (*goes_on)(const void *context);
    const void *context;
};

/* Makes a file of `bytes` bytes in a folder, whose space is taken at once, and
 * maps it; an empty one is not mapped. Returns 0, or errno with nothing left;
 * ECANCELED: it was not to go on. */
int store_file_make(struct store_file *file, int folder, uint64_t bytes,
                    const struct store_going *going);

/* Unmaps it and puts it in its place, over a file that is there.
 *   durable  it is on the disk before
 * Returns 0, or errno; then it is gone. */
int store_file_publish(struct store_file *file, int folder, const char *name,
                       bool durable);

/* Throws it away. Where its memory is lent, it stays mapped. Idempotent. */
void store_file_drop(struct store_file *file, int folder, bool lent);

/* What a file was when it was mapped. */
struct store_stamp {
    uint64_t device;
    uint64_t inode;
    uint64_t bytes;
    struct timespec written;
};

/* Maps a file for reading: *bytes of it, NULL where it is empty. Returns 0, or
 * errno; EINVAL: it is not a regular file, or does not say how large it is. */
int store_file_map(int folder, const char *name, const void **map,
                   uint64_t *bytes, struct store_stamp *stamp);

/* Whether it has been written to since; one of that name that has taken its
 * place is another file. */
bool store_file_changed(int folder, const char *name,
                        const struct store_stamp *stamp);
void store_file_unmap(const void *map, uint64_t bytes);

/* What is mapped of a file that becomes shorter is a signal, SIGBUS, to whoever
 * reads it. From here on that ends the process with one line, and 128 + 7. */
void store_files_guard(const char *command);

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
