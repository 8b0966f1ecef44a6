/* Cleat: config files, and the list of sources that is written.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"

/* ---- files --------------------------------------------------------------- */

static enum cleat_status fail_os(const struct mcp_document *document,
                                 struct cleat_error *error)
{
    int number = errno;
    char reason[64];
    enum cleat_status status = number == ENOENT || number == ENOTDIR
                                   ? CLEAT_NOT_FOUND
                                   : CLEAT_IO;

    mcp_config_fail(error, status, 0, "%s: %s", document->file.text,
                    strerror_r(number, reason, sizeof reason));
    if (error != NULL) { error->port_code = number; }
    return status;
}

/* Reads until the end, or one byte more than the file may have. */
static enum cleat_status read_all(struct mcp_document *document, int file,
                                  size_t bytes_max, char *room,
                                  struct cleat_error *error)
{
    size_t bytes = 0;
    ssize_t count = 1;

    while (count != 0 && bytes <= bytes_max) {
        count = read(file, room + bytes, bytes_max + 1 - bytes);
        if (count < 0 && errno != EINTR) { return fail_os(document, error); }
        if (count > 0) { bytes += (size_t)count; }
    }
    if (bytes > bytes_max) {
        return mcp_config_fail(error, CLEAT_LIMIT, bytes_max,
                               "%s: more than %zu bytes (config_bytes_max)",
                               document->file.text, bytes_max);
    }
    document->text = room;
    document->bytes = bytes;
    document->json = room;
    document->json_bytes = bytes;
    return CLEAT_OK;
}

enum cleat_status mcp_document_load(struct mcp_document *document,
                                    const char *path,
                                    const struct mcp_config_options *options,
                                    char *room, struct cleat_error *error)
{
    struct stat about;
    enum cleat_status status;
    int file;

    memset(document, 0, sizeof *document);
    document->path = path;
    document->file = mcp_show_path(path);
    if (options->opening != NULL) {
        options->opening(options->opening_context, path);
    }
    /* A FIFO would be waited for otherwise. */
    file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0) { return fail_os(document, error); }
    if (fstat(file, &about) != 0) {
        status = fail_os(document, error);
    } else if (!S_ISREG(about.st_mode)) {
        status = mcp_config_fail(error, CLEAT_UNSUPPORTED, 0,
                                 "%s: not a regular file", document->file.text);
    } else {
        status = read_all(document, file, options->bytes_max, room, error);
    }
    close(file);
    return status;
}

bool mcp_path_beside(const char *file, const char *path, size_t path_bytes,
                     char *to, size_t to_bytes)
{
    const char *slash = strrchr(file, '/');
    size_t folder = slash != NULL ? (size_t)(slash - file) + 1 : 0;

    if (path_bytes > 0 && path[0] == '/') { folder = 0; }
    if (path_bytes >= to_bytes || folder >= to_bytes - path_bytes) {
        return false;
    }
    memcpy(to, file, folder);
    memcpy(to + folder, path, path_bytes);
    to[folder + path_bytes] = '\0';
    return true;
}

/* ---- what is wrong, and where -------------------------------------------- */

static struct mcp_place place_in(const struct mcp_document *document,
                                 size_t offset)
{
    struct mcp_yaml_origin origin = {offset, {1, 1}};
    size_t bytes;

    if (!document->is_yaml) { return mcp_place_of(document->text, offset); }
    /* The same text gives the same JSON in the same block. */
    mcp_yaml_convert(document->path, document->text, document->bytes,
                     document->json, document->json_bytes_max, &bytes, &origin,
                     NULL);
    return origin.place;
}

enum cleat_status mcp_document_refuse(const struct mcp_document *document,
                                      enum cleat_status status, size_t offset,
                                      struct cleat_error *error,
                                      const char *format, ...)
{
    char text[CLEAT_ERROR_TEXT_MAX];
    va_list arguments;
    struct mcp_place place;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    place = place_in(document, offset);
    return mcp_config_fail(error, status, offset, "%s:%u:%u: %s",
                           document->file.text, place.line, place.column, text);
}

enum cleat_status mcp_document_check(struct mcp_document *document,
                                     struct cleat_error *error)
{
    struct cleat_error inner;
    enum cleat_status status = cleat_json_check(
        document->json, document->json_bytes, NULL, &document->root, &inner);

    if (status == CLEAT_OK) { return CLEAT_OK; }
    return mcp_document_refuse(document, status, (size_t)inner.offset, error,
                               "%s", inner.text);
}

enum cleat_status mcp_document_unique(const struct mcp_document *document,
                                      const struct cleat_json_value *object,
                                      struct mcp_sources *sources,
                                      struct cleat_error *error)
{
    struct cleat_error inner;
    enum cleat_status status = cleat_json_unique_keys(
        document->json, object, sources->words, sources->words_count, &inner);
    size_t key = (size_t)inner.offset + 1; /* behind its quote */
    size_t bytes = 0;

    if (status == CLEAT_OK) { return CLEAT_OK; }
    if (status != CLEAT_EXISTS) {
        return mcp_document_refuse(document, CLEAT_LIMIT, object->offset, error,
                                   "too many members");
    }
    while (document->json[key + bytes] != '"') {
        bytes += document->json[key + bytes] == '\\' ? 2 : 1;
    }
    return mcp_document_refuse(document, status, key - 1, error,
                               "the key '%s' is there already",
                               mcp_show_name(document->json + key, bytes).text);
}

/* ---- the list ------------------------------------------------------------ */

/* Where texts begin: behind as many sources as there may be. */
#define TEXTS                            \
    (sizeof(struct cleat_tool_sources) + \
     (CLEAT_TOOL_SOURCES_MAX - 1) * sizeof(struct cleat_tool_source))

void mcp_sources_open(struct mcp_sources *sources, void *block, size_t bytes)
{
    sources->out.text = block;
    sources->out.bytes = bytes <= UINT32_MAX ? bytes : UINT32_MAX;
    sources->out.used = TEXTS;
    sources->count = 0;
}

enum cleat_status mcp_sources_close(struct mcp_sources *sources,
                                    size_t *bytes_out,
                                    struct cleat_error *error)
{
    struct cleat_tool_sources *block = (void *)sources->out.text;
    size_t bytes = sources->count > 0 ? sources->out.used
                                      : sizeof(struct cleat_tool_sources);

    *bytes_out = 0;
    if (bytes > sources->out.bytes) {
        return mcp_config_fail(error, CLEAT_TOO_SMALL, bytes,
                               "the sources of the config need %zu bytes",
                               bytes);
    }
    memset(block, 0, sources->count > 0 ? TEXTS : bytes);
    block->bytes = (uint32_t)bytes;
    block->count = sources->count;
    memcpy(block->sources, sources->sources,
           sources->count * sizeof *sources->sources);
    *bytes_out = bytes;
    return CLEAT_OK;
}

bool mcp_sources_begin(struct mcp_sources *sources, const char *name,
                       size_t name_bytes)
{
    struct cleat_tool_source *source = &sources->sources[sources->count];

    if (sources->count == CLEAT_TOOL_SOURCES_MAX) { return false; }
    memset(source, 0, sizeof *source);
    source->name_offset = (uint32_t)sources->out.used;
    source->name_bytes = (uint32_t)name_bytes;
    mcp_json_put(&sources->out, name, name_bytes);
    source->definition_offset = (uint32_t)sources->out.used;
    mcp_json_puts(&sources->out, "{");
    sources->begun = false;
    return true;
}

void mcp_sources_end(struct mcp_sources *sources, enum cleat_tools_kind kind)
{
    struct cleat_tool_source *source = &sources->sources[sources->count++];

    mcp_json_puts(&sources->out, "}");
    source->kind = (uint32_t)kind;
    if (sources->out.used > sources->out.bytes) { return; }
    source->definition_bytes = (uint32_t)sources->out.used -
                               source->definition_offset;
    source->key = mcp_definition_key(sources->out.text +
                                         source->definition_offset,
                                     source->definition_bytes);
}

void mcp_sources_key(struct mcp_sources *sources, const char *key)
{
    mcp_json_puts(&sources->out, sources->begun ? ",\"" : "\"");
    mcp_json_puts(&sources->out, key);
    mcp_json_puts(&sources->out, "\":");
    sources->begun = true;
}

void mcp_sources_text(struct mcp_sources *sources, const char *text,
                      size_t bytes)
{
    mcp_json_puts(&sources->out, "\"");
    mcp_json_escaped(&sources->out, text, bytes);
    mcp_json_puts(&sources->out, "\"");
}

bool mcp_sources_decode(struct mcp_sources *sources, const char *json,
                        const struct cleat_json_value *string, size_t *bytes)
{
    return cleat_json_string(json, string, 0, sources->string,
                             sources->string_bytes, bytes, NULL) == CLEAT_OK;
}
