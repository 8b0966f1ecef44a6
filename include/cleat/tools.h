/* Cleat: a list of tools, as one block. SPDX-License-Identifier: Apache-2.0
 *
 * What one tool source (a server, or a run of native entries of a config)
 * offers, in one relocatable block: it holds offsets and no pointers, so that
 * a copy of its bytes is a copy of the list. A writer fills it once; from then
 * on it never changes, and any number of threads read it.
 *
 *     struct cleat_tools     count, bytes, digest …
 *     entries                one a tool, in the order of the source
 *     texts                  names, descriptions, and each tool's definition
 *                            exactly as it came, in which the schemas lie
 *
 * Numbers inside are of the machine's own byte order: the block is for memory,
 * not for files.
 */
#ifndef CLEAT_TOOLS_H
#define CLEAT_TOOLS_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A text inside a list: where it begins, from the list's first byte on. Not
 * for reading. */
struct cleat_tools_slice {
    uint32_t offset;
    uint32_t bytes;
};

/* A list, read-only, 8-byte aligned, with everything that follows it in its
 * block. Not for reading. */
struct cleat_tools {
    uint32_t magic;
    uint32_t digest; /* CRC32C of all bytes behind it */
    uint32_t bytes;  /* of the whole block */
    uint32_t count;
    uint32_t kind; /* enum cleat_tools_kind */
    uint32_t left_out;
    struct cleat_tools_slice server; /* the source's name; the entries follow,
                                        each as many slices as it has texts */
};

enum cleat_tools_kind {
    CLEAT_TOOLS_NATIVE = 1, /* entries of the config itself */
    CLEAT_TOOLS_MCP         /* what an MCP server listed */
};

/* UTF-8, not NUL-terminated. What is absent has no bytes; text is never NULL
 * in what a list gives out. */
struct cleat_text {
    const char *text;
    size_t bytes;
};

/* One tool. Its texts lie in the list, and live as long as it does. */
struct cleat_tool {
    struct cleat_text definition;    /* JSON as it came: the server's tool
                                        object, or a config's tool_schema */
    struct cleat_text name;          /* what a model calls it */
    struct cleat_text wire_name;     /* what its server calls it: the end of
                                        `name` where names get a prefix */
    struct cleat_text title;         /* for people; may be absent */
    struct cleat_text description;   /* may be absent */
    struct cleat_text input_schema;  /* JSON, inside `definition` */
    struct cleat_text output_schema; /* the same; may be absent */
    struct cleat_text annotations;   /* the same; may be absent */
    struct cleat_text class_name;    /* of the config's entry; may be absent */
    struct cleat_text server;        /* the source's name; the same for all */
};

/* How many tools, bytes of block, digest of all of it; how many tools of the
 * source are not in the list (not selected ones do not count): a name given
 * twice by one server, a header annotation that is not allowed; whether they
 * are a config's own. */
static inline uint32_t cleat_tools_count(const struct cleat_tools *tools)
{
    return tools->count;
}
static inline size_t cleat_tools_bytes(const struct cleat_tools *tools)
{
    return tools->bytes;
}
static inline uint32_t cleat_tools_digest(const struct cleat_tools *tools)
{
    return tools->digest;
}
static inline uint32_t cleat_tools_left_out(const struct cleat_tools *tools)
{
    return tools->left_out;
}
static inline bool cleat_tools_is_native(const struct cleat_tools *tools)
{
    return tools->kind == CLEAT_TOOLS_NATIVE;
}

/* Fills *tool with the tool of that number < cleat_tools_count(tools). */
void cleat_tools_at(const struct cleat_tools *tools, uint32_t number,
                    struct cleat_tool *tool);

/* Looks for a tool by `name`, exactly, in the order of the list.
 *   name   `bytes` bytes of UTF-8; a tool without a name is never found
 * Returns CLEAT_OK with *number; CLEAT_NOT_FOUND, *number untouched. */
enum cleat_status cleat_tools_find(const struct cleat_tools *tools,
                                   const char *name, size_t bytes,
                                   uint32_t *number);

/* Copies a list: one memcpy, after which the copy is the caller's own.
 *   block   8-byte aligned, `bytes` bytes
 * Returns CLEAT_OK; CLEAT_TOO_SMALL, with the bytes needed in error->offset;
 * CLEAT_INVALID for a block that is NULL or not aligned. On error *copy is
 * NULL. */
enum cleat_status cleat_tools_copy(const struct cleat_tools *tools, void *block,
                                   size_t bytes,
                                   const struct cleat_tools **copy,
                                   struct cleat_error *error);

/* Looks a block over that comes from elsewhere: every offset lies inside it,
 * the digest is right. Reads nothing outside `bytes`.
 * Returns CLEAT_OK with *tools; CLEAT_INVALID as above; CLEAT_MALFORMED or
 * CLEAT_CORRUPT with the place in error->offset. On error *tools is NULL. */
enum cleat_status cleat_tools_check(const void *block, size_t bytes,
                                    const struct cleat_tools **tools,
                                    struct cleat_error *error);

/* ---- writing ------------------------------------------------------------ */

/* A list that is being written. Entries grow from the front of the block,
 * texts from its back; the end moves them together. Not for reading. */
struct cleat_tools_writer {
    struct cleat_tools *list; /* at the block's start */
    size_t bytes;             /* of the block */
    size_t texts;             /* where they begin */
    size_t wanted;            /* bytes, by all that was added, refused or not */
};

/* Begins a list in the caller's block.
 *   block   8-byte aligned, owned by the caller; of 4 GiB or more the end is
 *           not used
 *   server  the source's name, copied
 * Returns CLEAT_OK; CLEAT_INVALID: NULL or not aligned; CLEAT_TOO_SMALL with
 * the bytes needed in error->offset. */
enum cleat_status cleat_tools_begin(struct cleat_tools_writer *writer,
                                    void *block, size_t bytes,
                                    enum cleat_tools_kind kind,
                                    struct cleat_text server,
                                    struct cleat_error *error);

/* Adds a tool; its texts are copied.
 *   tool   `server` is not read. A text that lies inside one that stands
 *          before it in the struct is stored once: a schema in the definition,
 *          a wire_name in the name; each may also come from elsewhere
 * Returns CLEAT_OK; CLEAT_EXISTS: a tool of that name is in the list already
 * (its number in error->index; nothing is added; the end counts it as left
 * out if `cleat_tools_leave_out` is told); CLEAT_INVALID: a tool without a
 * name and without a class; CLEAT_TOO_SMALL with the bytes that the block
 * would need so far in error->offset: nothing is added, and more may be, to
 * learn how large a block is enough for all of them. */
enum cleat_status cleat_tools_add(struct cleat_tools_writer *writer,
                                  const struct cleat_tool *tool,
                                  struct cleat_error *error);

/* Counts a tool of the source that is not in the list. */
void cleat_tools_leave_out(struct cleat_tools_writer *writer);

/* Ends the list: moves it together, and makes its digest.
 *   tools   at the block's start
 * Returns CLEAT_OK; CLEAT_TOO_SMALL, with the bytes needed in error->offset,
 * when a tool was refused for lack of room; then there is no list. */
enum cleat_status cleat_tools_end(struct cleat_tools_writer *writer,
                                  const struct cleat_tools **tools,
                                  struct cleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
