/* Cleat: what the readers of configs share. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef CLEAT_PORT_MCP_CONFIG_H
#define CLEAT_PORT_MCP_CONFIG_H

#include "cleat/tool_service.h"
#include "server.h"

/* ---- config_text.c: error lines, and text that is written ---------------- */

/* A name or path, fit to be printed in one line: control characters become
 * '?', and what is long is cut, a path at its start, a name at its end. */
struct mcp_shown {
    char text[64];
};

struct mcp_shown mcp_show_path(const char *path);
struct mcp_shown mcp_show_name(const char *name, size_t bytes);

/* cleat_error_set with a formatted text. */
enum cleat_status mcp_config_fail(struct cleat_error *error,
                                  enum cleat_status status, uint64_t offset,
                                  const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Counted from 1; a column is a character. */
struct mcp_place {
    uint32_t line;
    uint32_t column;
};

struct mcp_place mcp_place_of(const char *text, size_t offset);

/* How many bytes from `text` on are UTF-8 (RFC 3629). */
size_t mcp_utf8_valid(const char *text, size_t bytes);

/* Text that is written into a block. `used` goes on counting where the block
 * has ended. */
struct mcp_json_out {
    char *text;
    size_t bytes;
    size_t used;
};

void mcp_json_put(struct mcp_json_out *out, const char *text, size_t bytes);
void mcp_json_puts(struct mcp_json_out *out, const char *text);

/* The inside of a JSON string, escaped as little as RFC 8259 asks for.
 *   text   UTF-8 */
void mcp_json_escaped(struct mcp_json_out *out, const char *text, size_t bytes);

/* ---- yaml.c -------------------------------------------------------------- */

/* What in a YAML text gave the JSON at `offset`. */
struct mcp_yaml_origin {
    size_t offset;
    struct mcp_place place;
};

/* mcp_yaml_to_json, which also finds an origin; NULL: none. */
enum cleat_status mcp_yaml_convert(const char *file, const char *text,
                                   size_t bytes, char *json, size_t json_bytes,
                                   size_t *json_bytes_out,
                                   struct mcp_yaml_origin *origin,
                                   struct cleat_error *error);

/* ---- yaml_text.c: what scalars say, as PyYAML reads them ----------------- */

/* Each writes what the text between two marks of a scalar says: a plain one,
 * and what stands between quotes. None gets longer by more than half.
 * The latter two return NULL, or why it cannot be read. */
void mcp_yaml_plain(const char *text, size_t bytes, struct mcp_json_out *out);
const char *mcp_yaml_single(const char *text, size_t bytes,
                            struct mcp_json_out *out);
const char *mcp_yaml_double(const char *text, size_t bytes,
                            struct mcp_json_out *out);

/* Writes what a block scalar says.
 *   header       the place of its '|' or '>' in `text`; no digit follows it
 *   indent_min   columns that its lines have before them at least
 * Returns where it ends. */
size_t mcp_yaml_block(const char *text, size_t bytes, size_t header,
                      size_t indent_min, struct mcp_json_out *out);

/* ---- scalar.c: what a plain scalar is, and what its text becomes --------- */

enum mcp_scalar_kind {
    MCP_SCALAR_STRING,
    MCP_SCALAR_NULL,
    MCP_SCALAR_FALSE,
    MCP_SCALAR_TRUE,
    MCP_SCALAR_INT,
    MCP_SCALAR_FLOAT,
    MCP_SCALAR_OTHER /* a merge key, or "=" */
};

enum mcp_scalar_kind mcp_scalar_resolve(const char *text, size_t bytes);

/* Writes a number as JSON that reads back equal. Returns NULL, or why it
 * cannot be written. */
const char *mcp_scalar_write_int(const char *text, size_t bytes,
                                 struct mcp_json_out *out);
const char *mcp_scalar_write_float(const char *text, size_t bytes,
                                   struct mcp_json_out *out);

/* Writes a string that contains "${", its interpolations carried out: a JSON
 * string, or null.
 *   name        of the environment variable that is not set, if that is why
 * Returns NULL, or why not. */
const char *mcp_scalar_write_interpolated(const char *text, size_t bytes,
                                          struct mcp_json_out *out,
                                          struct mcp_shown *name);

/* ---- document.c: files, and the list of sources that is written ---------- */

/* A file that was read, and the JSON that it is or gave. */
struct mcp_document {
    struct mcp_shown file;
    const char *path;
    const char *text; /* of the file */
    size_t bytes;
    char *json; /* of YAML, or `text` itself */
    size_t json_bytes;
    size_t json_bytes_max; /* of the block that YAML's JSON is in */
    struct cleat_json_value root;
    bool is_yaml;
};

/* Reads a file into `room`.
 * Returns CLEAT_OK; CLEAT_NOT_FOUND, CLEAT_LIMIT for one of more than bytes_max
 * bytes, CLEAT_UNSUPPORTED for one that is no file, CLEAT_IO, with the path in
 * error->text. */
enum cleat_status mcp_document_load(struct mcp_document *document,
                                    const char *path,
                                    const struct mcp_config_options *options,
                                    char *room, struct cleat_error *error);

/* Checks a document that is JSON. */
enum cleat_status mcp_document_check(struct mcp_document *document,
                                     struct cleat_error *error);

/* Fails with "FILE:LINE:COLUMN: " and the words.
 *   offset   in the document's JSON */
enum cleat_status mcp_document_refuse(const struct mcp_document *document,
                                      enum cleat_status status, size_t offset,
                                      struct cleat_error *error,
                                      const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Puts a relative path behind the folder that `file` is in. False when it does
 * not fit. */
bool mcp_path_beside(const char *file, const char *path, size_t path_bytes,
                     char *to, size_t to_bytes);

/* A list of sources that is being written. */
struct mcp_sources {
    struct mcp_json_out out; /* the block */
    uint32_t count;
    struct cleat_tool_source sources[CLEAT_TOOL_SOURCES_MAX];
    bool begun; /* the definition has a member */

    bool prefix;
    uint32_t *words; /* for cleat_json_unique_keys */
    size_t words_count;
    char *string; /* for what a JSON string says: as long as any file */
    size_t string_bytes;
};

void mcp_sources_open(struct mcp_sources *sources, void *block, size_t bytes);

/* Returns CLEAT_OK with the block's bytes; CLEAT_TOO_SMALL with the bytes
 * needed in error->offset. */
enum cleat_status mcp_sources_close(struct mcp_sources *sources,
                                    size_t *bytes_out,
                                    struct cleat_error *error);

/* Begins a source, whose definition is what is written until its end. False
 * when there are too many. */
bool mcp_sources_begin(struct mcp_sources *sources, const char *name,
                       size_t name_bytes);
void mcp_sources_end(struct mcp_sources *sources, enum cleat_tools_kind kind);

/* A member's key, with what comes before and behind it. */
void mcp_sources_key(struct mcp_sources *sources, const char *key);

/* A JSON string. */
void mcp_sources_text(struct mcp_sources *sources, const char *text,
                      size_t bytes);

/* Refuses an object that has one key twice. */
enum cleat_status mcp_document_unique(const struct mcp_document *document,
                                      const struct cleat_json_value *object,
                                      struct mcp_sources *sources,
                                      struct cleat_error *error);

/* What a JSON string says, into sources->string, NUL-terminated. False for one
 * with half a character or a NUL in it. */
bool mcp_sources_decode(struct mcp_sources *sources, const char *json,
                        const struct cleat_json_value *string, size_t *bytes);

/* ---- servers.c ----------------------------------------------------------- */

/* What an mcp entry of a config says about all its servers; all zero for a file
 * of servers alone. */
struct mcp_entry {
    const char *json; /* where the values lie, and the numbers */
    struct cleat_json_value class_name; /* bytes 0: none */
    struct cleat_json_value select;     /* the same; an array of strings */
    struct cleat_text rate_limit;       /* a number; empty: none */
    struct cleat_text timeout_s;        /* the same */
};

/* Adds each server of a document that was checked, in its order. */
enum cleat_status mcp_servers_add(const struct mcp_document *document,
                                  const struct mcp_entry *entry,
                                  struct mcp_sources *sources,
                                  struct cleat_error *error);

/* Why a URL is none that we open; NULL: it is one. */
const char *mcp_url_fault(const char *url, size_t bytes);

#endif
