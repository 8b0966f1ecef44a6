/* Cleat: the thread that reads configs. SPDX-License-Identifier: Apache-2.0
 *
 * Files may hang (a network's), so a thread of its own reads them, one config
 * after the other. It also looks whether the files that it has read are still
 * what they were, when inotify(7) says that something has happened in one of
 * their folders: a folder is watched, and not the file, because editors and
 * orchestrators put new files in the place of old ones. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hub.h"

#define EVENTS                                                              \
    (IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | \
     IN_ATTRIB | IN_ONLYDIR)
#define NOTICES_BYTES ((size_t)4096)

/* ---- files -------------------------------------------------------------- */

static struct hub_signature sign(const char *path)
{
    struct hub_signature signature = {0, 0, 0, 0};
    struct stat file;

    if (stat(path, &file) == 0) {
        signature.device = (uint64_t)file.st_dev;
        signature.inode = (uint64_t)file.st_ino;
        signature.bytes = (uint64_t)file.st_size;
        signature.changed_ns = (uint64_t)file.st_ctim.tv_sec * CLEAT_NS_PER_S +
                               (uint64_t)file.st_ctim.tv_nsec;
    }
    return signature;
}

static bool is_same(const struct hub_signature *a,
                    const struct hub_signature *b)
{
    return a->device == b->device && a->inode == b->inode &&
           a->bytes == b->bytes && a->changed_ns == b->changed_ns;
}

/* Watches the folder of a path; a folder is watched once, however often. */
static int watch_folder(const struct cleat_mcp *mcp, const char *path)
{
    char folder[HUB_PATH_BYTES];
    const char *slash = strrchr(path, '/');
    size_t bytes = slash == NULL ? 0 : (size_t)(slash - path);

    if (slash == NULL) {
        memcpy(folder, ".", 2);
    } else if (bytes == 0) {
        memcpy(folder, "/", 2);
    } else {
        memcpy(folder, path, bytes);
        folder[bytes] = '\0';
    }
    return inotify_add_watch(mcp->inotify_fd, folder, EVENTS);
}

static struct hub_file *find_file(struct hub_reader *reader, const char *path)
{
    for (uint32_t i = 0; i < HUB_FILES_MAX; i++) {
        if (strcmp(reader->files[i].path, path) == 0) {
            return &reader->files[i];
        }
    }
    return NULL;
}

/* Its folder's watch ends with the last file that lies there. */
static void forget_file(const struct cleat_mcp *mcp, struct hub_reader *reader,
                        struct hub_file *file)
{
    int folder = file->folder;
    bool needed = folder < 0 || file->path[0] == '\0';

    file->path[0] = '\0';
    file->folder = -1;
    for (uint32_t i = 0; i < HUB_FILES_MAX; i++) {
        needed = needed || reader->files[i].folder == folder;
    }
    if (!needed) { (void)inotify_rm_watch(mcp->inotify_fd, folder); }
}

/* A config, or what one names, is going to be read: from here on its changes
 * are noticed. The watch first, then the signature, then the reading: what
 * happens in between is seen. A file that is known keeps its signature until it
 * is looked at: another config may have been read from it before it changed. */
static void note_file(void *context, const char *path)
{
    struct cleat_mcp *mcp = context;
    struct hub_reader *reader = &mcp->reader;
    size_t bytes = strlen(path);

    if (bytes == 0 || bytes >= HUB_PATH_BYTES) { return; }
    struct hub_file *file = find_file(reader, path);
    if (file != NULL) {
        file->folder = watch_folder(mcp, path);
        return;
    }
    file = &reader->files[reader->files_next];
    reader->files_next = (reader->files_next + 1) % HUB_FILES_MAX;
    forget_file(mcp, reader, file);
    memcpy(file->path, path, bytes + 1);
    file->folder = watch_folder(mcp, path);
    file->signature = sign(path);
}

/* Whether a file is not what it was when it was first read or last looked at.
 */
static bool have_changed(struct hub_reader *reader)
{
    bool changed = false;

    for (uint32_t i = 0; i < HUB_FILES_MAX; i++) {
        struct hub_file *file = &reader->files[i];
        if (file->path[0] == '\0') { continue; }
        struct hub_signature now = sign(file->path);
        changed = changed || !is_same(&now, &file->signature);
        file->signature = now;
    }
    return changed;
}

void hub_reader_notice(struct cleat_mcp *mcp)
{
    _Alignas(struct inotify_event) char notices[NOTICES_BYTES];
    bool any = false;

    while (read(mcp->inotify_fd, notices, sizeof notices) > 0) { any = true; }
    if (!any) { return; }
    hub_lock(mcp);
    mcp->reader.look = true;
    (void)pthread_cond_signal(&mcp->reader.wake);
    hub_unlock(mcp);
}

/* ---- configs ------------------------------------------------------------ */

static void read_config(struct cleat_mcp *mcp, struct hub_request *request)
{
    struct cleat_loader_request *wanted = &request->wanted;
    struct mcp_config_options options;
    size_t bytes = 0;

    memset(&options, 0, sizeof options);
    options.bytes_max = mcp->config.config_bytes_max;
    options.prefix = mcp->config.prefix != 0;
    options.scratch = mcp->reader.scratch;
    options.scratch_bytes = mcp->reader.scratch_bytes;
    options.opening = note_file;
    options.opening_context = mcp;
    enum cleat_status status = mcp_config_read(
        mcp_texts_at(&mcp->texts, request->text).text, &options, wanted->block,
        wanted->bytes, &bytes, wanted->error);
    request->done.status = (int32_t)status;
    request->done.bytes = bytes;
}

/* The first config that waits, and is still wanted. With the lock. */
static struct hub_request *find_queued(struct cleat_mcp *mcp)
{
    struct hub_request *first = NULL;
    uint64_t now_ns = hub_now_ns(mcp);

    for (uint32_t i = 0; i < mcp->config.requests_max; i++) {
        struct hub_request *request = &mcp->requests[i];
        if (request->place == HUB_QUEUED && !request->cancelled &&
            now_ns < request->wanted.deadline_ns &&
            (first == NULL || request->order < first->order)) {
            first = request;
        }
    }
    return first;
}

/* One thing of what there is to do; false: there is nothing. With the lock,
 * which is given up meanwhile. */
static bool do_one(struct cleat_mcp *mcp)
{
    struct hub_reader *reader = &mcp->reader;
    struct hub_request *request = find_queued(mcp);

    if (request != NULL) {
        request->place = HUB_READING;
        hub_unlock(mcp);
        read_config(mcp, request);
        hub_lock(mcp);
        request->place = HUB_READ;
    } else if (reader->look) {
        reader->look = false;
        hub_unlock(mcp);
        bool changed = have_changed(reader);
        hub_lock(mcp);
        /* Whoever watches, or does so next, is told. */
        if (changed) { reader->changed = true; }
    } else {
        return false;
    }
    hub_poke(mcp);
    return true;
}

static void *reader_main(void *argument)
{
    struct cleat_mcp *mcp = argument;

    hub_lock(mcp);
    while (!mcp->closing) {
        if (!do_one(mcp)) {
            (void)pthread_cond_wait(&mcp->reader.wake, &mcp->lock);
        }
    }
    mcp->reader.gone = true;
    hub_unlock(mcp);
    hub_poke(mcp);
    return NULL;
}

int hub_reader_start(struct cleat_mcp *mcp)
{
    for (uint32_t i = 0; i < HUB_FILES_MAX; i++) {
        mcp->reader.files[i].path[0] = '\0';
        mcp->reader.files[i].folder = -1;
    }
    (void)pthread_cond_init(&mcp->reader.wake, NULL);
    int code = hub_thread_start(&mcp->reader.thread, reader_main, mcp);
    if (code != 0) { (void)pthread_cond_destroy(&mcp->reader.wake); }
    return code;
}

void hub_reader_join(struct cleat_mcp *mcp)
{
    (void)pthread_join(mcp->reader.thread, NULL);
    (void)pthread_cond_destroy(&mcp->reader.wake);
}
