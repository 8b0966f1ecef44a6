/* Cleat: what a config says about one source. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A source's definition (cleat_tool_source_definition) is JSON text that
 * config.c writes and the rest of this folder reads:
 *
 *   native: {"native":[{"class_name":"…","tool_schema":{…}|null}, …]}
 *
 *   stdio:  {"server":"NAME","command":"…","args":["…"],"env":{"K":"V"},
 *            "cwd":"/abs"|null, …}
 *   HTTP:   {"server":"NAME","url":"https://…","transport":"http"|"sse",
 *            "headers":{"K":"V"},"token":"…"|null, …}
 *
 *   and for both of the latter "class_name":"…"|null, "select":["…"]|null,
 *   "select_all":true|false, "rate_limit":"120"|null (tokens a second, as
 *   written), "timeout_s":"30"|null (of a call), "prefix":true|false.
 *
 * "select_all" is false where the config's entry names several servers, each of
 * which may lack some of what is selected; then a selected name that this
 * server does not have is no error.
 *
 * It is complete: relative paths and interpolations are resolved, defaults are
 * written out, keys come in this order, so that two sources that are alike have
 * one definition. It holds secrets, and never leaves the process.
 */
#ifndef CLEAT_PORT_MCP_SERVER_H
#define CLEAT_PORT_MCP_SERVER_H

#include "cleat/json.h"
#include "cleat/loader.h"
#include "cleat/tools.h"

/* ---- config.c, yaml.c, servers.c ---------------------------------------- */

struct mcp_config_options {
    size_t bytes_max; /* of a file */
    bool prefix;
    /* Scratch for files and what becomes of them; `scratch_bytes` ≥
     * mcp_config_scratch_bytes(bytes_max). */
    void *scratch;
    size_t scratch_bytes;
    /* Called with each file that is going to be opened, as it will be opened,
     * the config itself first: whoever watches files wants to know. May be
     * NULL. */
    void (*opening)(void *context, const char *path);
    void *opening_context;
};

size_t mcp_config_scratch_bytes(size_t bytes_max);

/* Reads the config at `path`, and what it names, into a cleat_tool_sources in
 * the block: verl's YAML (config.c), or JSON of MCP servers (servers.c). Blocks
 * on files. libfyaml allocates, our code does not; it takes some 32 KiB of
 * stack.
 *   block   8-byte aligned
 * Returns CLEAT_OK; otherwise, with file, line, column and what was expected in
 * error->text, and no secret: CLEAT_NOT_FOUND: no such file, or no such
 * environment variable; CLEAT_MALFORMED; CLEAT_UNSUPPORTED: what OmegaConf
 * could read otherwise, interpolations but oc.env, OAuth, a file that is no
 * regular one; CLEAT_EXISTS: a key, a header or a native tool that comes
 * twice; CLEAT_LIMIT: too long, too deep, more than CLEAT_TOOL_SOURCES_MAX
 * sources; CLEAT_IO: the system refused, errno in error->port_code;
 * CLEAT_INVALID: the scratch is too small; CLEAT_TOO_SMALL with the bytes
 * needed in error->offset. On error nothing in the block is of use. */
enum cleat_status mcp_config_read(const char *path,
                                  const struct mcp_config_options *options,
                                  void *block, size_t bytes, size_t *bytes_out,
                                  struct cleat_error *error);

/* YAML as OmegaConf reads it (load, to_container(resolve=True)), written as
 * JSON: equal to what OmegaConf gives, or refused by line and column.
 *   file   for the error line
 * Returns as above. */
enum cleat_status mcp_yaml_to_json(const char *file, const char *text,
                                   size_t bytes, char *json, size_t json_bytes,
                                   size_t *json_bytes_out,
                                   struct cleat_error *error);

/* ---- server.c: a definition, opened ------------------------------------- */

struct mcp_server {
    const char *json; /* the definition */
    size_t bytes;
    struct cleat_json_value root;
    bool is_native;
    bool is_http;
    bool is_sse;
    bool prefix;
    bool select_all; /* every selected tool must be there */
    bool has_rate;
    uint64_t rate_micro; /* tokens a second, in millionths */
    uint64_t timeout_ns; /* of a call; CLEAT_NONE: none said */
};

/* Opens a definition that config.c has written. It stays where it is.
 * Returns CLEAT_OK; CLEAT_MALFORMED for any other text. */
enum cleat_status mcp_server_open(struct mcp_server *server, const char *json,
                                  size_t bytes, struct cleat_error *error);

/* A member of the definition, by its name ("command", "args", "url" …), over
 * which cleat_json_open and cleat_json_next_… walk with server->json.
 * Returns false where it is not there, or null. */
bool mcp_server_find(const struct mcp_server *server, const char *name,
                     struct cleat_json_value *value);

/* What is left of room for texts. */
struct mcp_room {
    char *at;
    size_t bytes;
};

/* Copies a string of the definition into the room, with a NUL behind it, and
 * moves the room on. config.c lets no NUL and no half character into a
 * definition.
 *   text        where it lies now
 *   text_bytes  without the NUL; may be NULL
 * Returns CLEAT_OK; CLEAT_TOO_SMALL, the room untouched and *text NULL;
 * CLEAT_MALFORMED for a value that is no string. */
enum cleat_status mcp_server_take(const struct mcp_server *server,
                                  const struct cleat_json_value *string,
                                  struct mcp_room *room, const char **text,
                                  size_t *text_bytes);

/* The same for a member by its name; CLEAT_NOT_FOUND where it is not there, or
 * null. */
enum cleat_status mcp_server_take_member(const struct mcp_server *server,
                                         const char *name,
                                         struct mcp_room *room,
                                         const char **text, size_t *text_bytes);

/* A JSON number, times ten to the power of `zeros`, cut to a whole one: "1.5"
 * and 6 are 1500000.
 * Returns false for one that is not above zero, or does not fit. */
bool mcp_server_scale(const char *text, size_t bytes, uint32_t zeros,
                      uint64_t *number);

/* A digest (64-bit FNV-1a, draft-eastlake-fnv; never 0) of all of it that
 * decides which session serves it: without class_name, select, select_all and
 * prefix. Sources that differ in those alone share one
 * process and one rate limit. */
uint64_t mcp_server_session_key(const struct mcp_server *server);

/* The key of a definition, for cleat_tool_source: the same digest over its
 * whole text. Never 0. */
uint64_t mcp_definition_key(const char *json, size_t bytes);

/* Builds the list of a native source, in the order of the config. A schema is
 * the tool's definition as it stands; name, description and parameters are
 * those of its "function". An entry without a schema has only its class.
 *   block   8-byte aligned
 * Returns CLEAT_OK, the list at the block's start; CLEAT_TOO_SMALL with the
 * bytes needed in error->offset; CLEAT_EXISTS: a name comes twice;
 * CLEAT_INVALID: a source that is not native, or a block as for
 * cleat_tools_begin. */
enum cleat_status mcp_native_list(const struct mcp_server *server, void *block,
                                  size_t bytes, struct cleat_error *error);

#endif
