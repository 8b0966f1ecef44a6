/* Cleat: tool configs. SPDX-License-Identifier: Apache-2.0
 *
 * The YAML of verl v0.5.0 … v0.7.1:
 *
 *     tools:
 *       - class_name: package.module.Class
 *         config: {type: native}
 *         tool_schema: {type: function, function: {name: …}}
 *       - class_name: package.module.Class
 *         config: {type: mcp, rate_limit: 120, timeout: 30}
 *         mcp: {mcp_servers_config_path: servers.json,
 *               tool_selected_list: [name]}
 *
 * Native entries that follow one another are one source; each server of an mcp
 * entry is one. What else an entry has is its class's own business. Or a JSON
 * file of servers: see servers.c.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "config.h"

/* ---- the scratch block --------------------------------------------------- */

/* YAML as JSON: quotes and brackets come to it, and what aliases and variables
 * stand for; and a scalar that is being read lies behind it. */
static size_t json_room(size_t bytes_max)
{
    return 3 * bytes_max + 4096;
}

/* Words for the keys of an object, of which each has four bytes or more. */
static size_t words_room(size_t bytes_max)
{
    return bytes_max / 4 + 16;
}

size_t mcp_config_scratch_bytes(size_t bytes_max)
{
    return 2 * words_room(bytes_max) * sizeof(uint32_t) + /* words, names */
           2 * (bytes_max + 8) +          /* the config, a file of servers */
           2 * json_room(bytes_max) + 16; /* JSON, and a string of it */
}

/* A config that is being read. */
struct config {
    const struct mcp_config_options *options;
    struct cleat_error *error;
    struct mcp_document document;
    struct mcp_sources sources;
    char *config_room;
    char *servers_room;
    char *json_room;
    uint32_t *names; /* of native tools: a hash and where it stands, each */
    size_t names_count;
    bool in_native; /* a run of native entries is under way */
};

static void carve(struct config *c, const struct mcp_config_options *options)
{
    size_t bytes = options->bytes_max + 8;
    uintptr_t at = ((uintptr_t)options->scratch + 7) & ~(uintptr_t)7;
    char *next;

    c->sources.words = (uint32_t *)at;
    c->sources.words_count = words_room(options->bytes_max);
    c->names = c->sources.words + c->sources.words_count;
    next = (char *)(c->names + words_room(options->bytes_max));
    c->config_room = next;
    c->servers_room = next + bytes;
    c->json_room = next + 2 * bytes;
    c->sources.string_bytes = json_room(options->bytes_max);
    c->sources.string = c->json_room + c->sources.string_bytes;
}

/* Whether a value is text that says something, without a NUL. */
static bool is_text(struct config *c, const struct cleat_json_value *value)
{
    size_t bytes;

    return value->type == CLEAT_JSON_STRING && value->bytes > 2 &&
           mcp_sources_decode(&c->sources, c->document.json, value, &bytes);
}

/* ---- native entries ------------------------------------------------------ */

static uint32_t hash_of(const char *text, size_t bytes)
{
    return (uint32_t)mcp_definition_key(text, bytes);
}

/* Refuses a name that an entry before has. Our JSON has one way to write it. */
static enum cleat_status check_name(struct config *c,
                                    const struct cleat_json_value *name)
{
    const char *json = c->document.json;
    uint32_t hash = hash_of(json + name->offset, name->bytes);

    for (size_t i = 0; i < c->names_count; i++) {
        size_t other = c->names[2 * i + 1];

        if (c->names[2 * i] == hash &&
            memcmp(json + other, json + name->offset, name->bytes) == 0) {
            return mcp_document_refuse(
                &c->document, CLEAT_EXISTS, name->offset, c->error,
                "tool_schema: the tool '%s' is there already",
                mcp_show_name(json + name->offset + 1, name->bytes - 2).text);
        }
    }
    if (2 * c->names_count + 2 > words_room(c->options->bytes_max)) {
        return mcp_document_refuse(&c->document, CLEAT_LIMIT, name->offset,
                                   c->error, "too many tools");
    }
    c->names[2 * c->names_count] = hash;
    c->names[2 * c->names_count + 1] = (uint32_t)name->offset;
    c->names_count++;
    return CLEAT_OK;
}

/* A schema has a function with a name; nothing else is asked of it, for it is
 * handed on as it stands. */
static enum cleat_status check_schema(struct config *c,
                                      const struct cleat_json_value *schema)
{
    const char *json = c->document.json;
    struct cleat_json_value function;
    struct cleat_json_value value;

    if (cleat_json_find(json, schema, "function", &function) != CLEAT_OK ||
        function.type != CLEAT_JSON_OBJECT) {
        return mcp_document_refuse(
            &c->document, CLEAT_MALFORMED, schema->offset, c->error,
            "tool_schema: expected a mapping with a function");
    }
    if (cleat_json_find(json, &function, "description", &value) == CLEAT_OK &&
        value.type != CLEAT_JSON_STRING && value.type != CLEAT_JSON_NULL) {
        return mcp_document_refuse(
            &c->document, CLEAT_MALFORMED, value.offset, c->error,
            "tool_schema: function.description: expected text");
    }
    if (cleat_json_find(json, &function, "parameters", &value) == CLEAT_OK &&
        value.type != CLEAT_JSON_OBJECT && value.type != CLEAT_JSON_NULL) {
        return mcp_document_refuse(
            &c->document, CLEAT_MALFORMED, value.offset, c->error,
            "tool_schema: function.parameters: expected a mapping");
    }
    if (cleat_json_find(json, &function, "name", &value) != CLEAT_OK ||
        !is_text(c, &value)) {
        return mcp_document_refuse(
            &c->document, CLEAT_MALFORMED, function.offset, c->error,
            "tool_schema: function.name: expected a text");
    }
    return check_name(c, &value);
}

static void end_native(struct config *c)
{
    if (!c->in_native) { return; }
    mcp_json_puts(&c->sources.out, "]");
    mcp_sources_end(&c->sources, CLEAT_TOOLS_NATIVE);
    c->in_native = false;
}

/* Opens a run of native entries, or puts a comma into it. */
static bool begin_native(struct config *c)
{
    static const char name[] = "native";

    if (c->in_native) {
        mcp_json_puts(&c->sources.out, ",");
        return true;
    }
    if (!mcp_sources_begin(&c->sources, name, sizeof name - 1)) {
        return false;
    }
    mcp_sources_key(&c->sources, "native");
    mcp_json_puts(&c->sources.out, "[");
    c->in_native = true;
    return true;
}

static enum cleat_status add_native(struct config *c,
                                    const struct cleat_json_value *entry,
                                    const struct cleat_json_value *class_name)
{
    const char *json = c->document.json;
    struct cleat_json_value schema = {0, 0, CLEAT_JSON_NULL};
    enum cleat_status status = CLEAT_OK;

    cleat_json_find(json, entry, "tool_schema", &schema);
    if (schema.type != CLEAT_JSON_NULL) { status = check_schema(c, &schema); }
    if (status != CLEAT_OK) { return status; }
    if (!begin_native(c)) {
        return mcp_document_refuse(
            &c->document, CLEAT_LIMIT, entry->offset, c->error,
            "more than %u sources (CLEAT_TOOL_SOURCES_MAX)",
            CLEAT_TOOL_SOURCES_MAX);
    }
    mcp_json_puts(&c->sources.out, "{\"class_name\":");
    mcp_json_put(&c->sources.out, json + class_name->offset, class_name->bytes);
    mcp_json_puts(&c->sources.out, ",\"tool_schema\":");
    if (schema.type == CLEAT_JSON_NULL) {
        mcp_json_puts(&c->sources.out, "null");
    } else {
        mcp_json_put(&c->sources.out, json + schema.offset, schema.bytes);
    }
    mcp_json_puts(&c->sources.out, "}");
    return CLEAT_OK;
}

/* ---- mcp entries --------------------------------------------------------- */

/* A number above zero, as a number or as text (a variable gives text). */
static enum cleat_status read_number(struct config *c,
                                     const struct cleat_json_value *map,
                                     const char *name, uint32_t zeros,
                                     struct cleat_text *number)
{
    const char *json = c->document.json;
    struct cleat_json_value value;
    uint64_t scaled;
    size_t quotes;

    number->text = NULL;
    number->bytes = 0;
    if (cleat_json_find(json, map, name, &value) != CLEAT_OK ||
        value.type == CLEAT_JSON_NULL) {
        return CLEAT_OK;
    }
    quotes = value.type == CLEAT_JSON_STRING ? 1 : 0;
    number->text = json + value.offset + quotes;
    number->bytes = value.bytes - 2 * quotes;
    if ((quotes == 1 || value.type == CLEAT_JSON_NUMBER) &&
        cleat_json_check(number->text, number->bytes, NULL, NULL, NULL) ==
            CLEAT_OK &&
        mcp_server_scale(number->text, number->bytes, zeros, &scaled)) {
        return CLEAT_OK;
    }
    return mcp_document_refuse(&c->document, CLEAT_MALFORMED, value.offset,
                               c->error,
                               "config.%s: expected a number above 0%s", name,
                               zeros == 6 ? " (a second)" : " (of seconds)");
}

/* The list of names; absent, null and empty mean all. */
static enum cleat_status read_select(struct config *c,
                                     const struct cleat_json_value *mcp,
                                     struct mcp_entry *entry)
{
    const char *json = c->document.json;
    struct cleat_json_value list;
    struct cleat_json_value item = {0, 0, CLEAT_JSON_STRING};
    struct cleat_json_cursor cursor;
    bool good = true;
    uint32_t count = 0;

    if (cleat_json_find(json, mcp, "tool_selected_list", &list) != CLEAT_OK ||
        list.type == CLEAT_JSON_NULL) {
        return CLEAT_OK;
    }
    cleat_json_open(json, &list, &cursor);
    while (good && cleat_json_next_item(json, &cursor, &item)) {
        good = is_text(c, &item);
        count++;
    }
    if (good && count == 0 && list.type >= CLEAT_JSON_ARRAY) {
        return CLEAT_OK;
    }
    if (good && list.type == CLEAT_JSON_ARRAY) {
        entry->select = list;
        return CLEAT_OK;
    }
    return mcp_document_refuse(
        &c->document, CLEAT_MALFORMED,
        list.type == CLEAT_JSON_ARRAY ? item.offset : list.offset, c->error,
        "mcp.tool_selected_list: expected a list of names");
}

/* Loads the file of servers: beside the config, or else from the working
 * directory. */
static enum cleat_status load_servers(struct config *c,
                                      const struct cleat_json_value *value,
                                      struct mcp_document *servers,
                                      char path[PATH_MAX])
{
    const char *named = c->sources.string;
    struct mcp_shown beside;
    size_t bytes;
    enum cleat_status status;

    if (!mcp_sources_decode(&c->sources, c->document.json, value, &bytes) ||
        !mcp_path_beside(c->document.path, named, bytes, path, PATH_MAX)) {
        return mcp_document_refuse(&c->document, CLEAT_LIMIT, value->offset,
                                   c->error,
                                   "mcp.mcp_servers_config_path: a path that "
                                   "is too long, or has a NUL in it");
    }
    status = mcp_document_load(servers, path, c->options, c->servers_room,
                               c->error);
    if (status != CLEAT_NOT_FOUND) { return status; }
    if (strcmp(path, named) == 0) {
        return mcp_document_refuse(&c->document, status, value->offset,
                                   c->error, "there is no file %s",
                                   mcp_show_path(path).text);
    }
    beside = mcp_show_path(path);
    memcpy(path, named, bytes + 1);
    status = mcp_document_load(servers, path, c->options, c->servers_room,
                               c->error);
    if (status != CLEAT_NOT_FOUND) { return status; }
    return mcp_document_refuse(&c->document, status, value->offset, c->error,
                               "no file %s nor %s", beside.text,
                               mcp_show_path(path).text);
}

static enum cleat_status read_entry(struct config *c,
                                    const struct cleat_json_value *config,
                                    const struct cleat_json_value *mcp,
                                    struct mcp_entry *entry)
{
    enum cleat_status status = read_number(c, config, "rate_limit", 6,
                                           &entry->rate_limit);

    if (status == CLEAT_OK) {
        status = read_number(c, config, "timeout", 9, &entry->timeout_s);
    }
    if (status == CLEAT_OK) { status = read_select(c, mcp, entry); }
    return status;
}

static enum cleat_status add_mcp(struct config *c,
                                 const struct cleat_json_value *tool,
                                 const struct cleat_json_value *config,
                                 const struct cleat_json_value *class_name)
{
    const char *json = c->document.json;
    char path[PATH_MAX];
    struct cleat_json_value mcp;
    struct cleat_json_value value;
    struct mcp_document servers;
    struct mcp_entry entry;
    enum cleat_status status;

    memset(&entry, 0, sizeof entry);
    entry.json = json;
    entry.class_name = *class_name;
    if (cleat_json_find(json, tool, "mcp", &mcp) != CLEAT_OK ||
        mcp.type != CLEAT_JSON_OBJECT) {
        return mcp_document_refuse(&c->document, CLEAT_MALFORMED, tool->offset,
                                   c->error,
                                   "mcp: expected a mapping with "
                                   "mcp_servers_config_path");
    }
    status = read_entry(c, config, &mcp, &entry);
    if (status != CLEAT_OK) { return status; }
    if (cleat_json_find(json, &mcp, "mcp_servers_config_path", &value) !=
            CLEAT_OK ||
        !is_text(c, &value)) {
        return mcp_document_refuse(&c->document, CLEAT_MALFORMED, mcp.offset,
                                   c->error,
                                   "mcp.mcp_servers_config_path: expected the "
                                   "path of a JSON file");
    }
    status = load_servers(c, &value, &servers, path);
    if (status == CLEAT_OK) { status = mcp_document_check(&servers, c->error); }
    if (status != CLEAT_OK) { return status; }
    return mcp_servers_add(&servers, &entry, &c->sources, c->error);
}

/* ---- entries ------------------------------------------------------------- */

/* config.type. */
static enum cleat_status read_type(struct config *c,
                                   const struct cleat_json_value *tool,
                                   struct cleat_json_value *config,
                                   bool *is_mcp)
{
    const char *json = c->document.json;
    struct cleat_json_value type;

    if (cleat_json_find(json, tool, "config", config) != CLEAT_OK ||
        config->type != CLEAT_JSON_OBJECT) {
        return mcp_document_refuse(&c->document, CLEAT_MALFORMED, tool->offset,
                                   c->error,
                                   "config: expected a mapping with a type");
    }
    if (cleat_json_find(json, config, "type", &type) != CLEAT_OK) {
        type = *config;
    }
    *is_mcp = cleat_json_equals(json, &type, "mcp");
    if (*is_mcp || cleat_json_equals(json, &type, "native")) {
        return CLEAT_OK;
    }
    return mcp_document_refuse(&c->document, CLEAT_MALFORMED, type.offset,
                               c->error, "config.type: expected native or mcp");
}

static enum cleat_status add_tool(struct config *c,
                                  const struct cleat_json_value *tool)
{
    const char *json = c->document.json;
    struct cleat_json_value class_name;
    struct cleat_json_value config;
    bool is_mcp = false;
    enum cleat_status status;

    if (tool->type != CLEAT_JSON_OBJECT) {
        return mcp_document_refuse(&c->document, CLEAT_MALFORMED, tool->offset,
                                   c->error,
                                   "tools: expected a mapping with "
                                   "class_name and config");
    }
    if (cleat_json_find(json, tool, "class_name", &class_name) != CLEAT_OK ||
        !is_text(c, &class_name)) {
        return mcp_document_refuse(&c->document, CLEAT_MALFORMED, tool->offset,
                                   c->error,
                                   "class_name: expected the path of a class");
    }
    status = read_type(c, tool, &config, &is_mcp);
    if (status != CLEAT_OK) { return status; }
    if (!is_mcp) { return add_native(c, tool, &class_name); }
    end_native(c);
    return add_mcp(c, tool, &config, &class_name);
}

static enum cleat_status add_tools(struct config *c)
{
    const char *json = c->document.json;
    struct cleat_json_cursor cursor;
    struct cleat_json_value tools;
    struct cleat_json_value tool;
    enum cleat_status status = CLEAT_OK;

    if (c->document.root.type != CLEAT_JSON_OBJECT ||
        cleat_json_find(json, &c->document.root, "tools", &tools) != CLEAT_OK) {
        if (c->document.json_bytes == 2 && json[0] == '{') { return CLEAT_OK; }
        return mcp_document_refuse(&c->document, CLEAT_MALFORMED,
                                   c->document.root.offset, c->error,
                                   "expected a mapping with 'tools'");
    }
    if (tools.type != CLEAT_JSON_ARRAY && tools.type != CLEAT_JSON_NULL) {
        return mcp_document_refuse(&c->document, CLEAT_MALFORMED, tools.offset,
                                   c->error, "tools: expected a list");
    }
    cleat_json_open(json, &tools, &cursor);
    while (status == CLEAT_OK && cleat_json_next_item(json, &cursor, &tool)) {
        status = add_tool(c, &tool);
    }
    end_native(c);
    return status;
}

/* ---- the whole ----------------------------------------------------------- */

static enum cleat_status read_yaml(struct config *c)
{
    struct mcp_document *document = &c->document;
    enum cleat_status status;

    document->is_yaml = true;
    document->json = c->json_room;
    document->json_bytes_max = json_room(c->options->bytes_max);
    status = mcp_yaml_to_json(document->path, document->text, document->bytes,
                              document->json, document->json_bytes_max,
                              &document->json_bytes, c->error);
    if (status == CLEAT_TOO_SMALL) {
        return mcp_config_fail(c->error, CLEAT_LIMIT, document->json_bytes_max,
                               "%s: more than %zu bytes as JSON, with its "
                               "aliases and variables",
                               document->file.text, document->json_bytes_max);
    }
    if (status == CLEAT_OK) { status = mcp_document_check(document, c->error); }
    return status == CLEAT_OK ? add_tools(c) : status;
}

/* Whether the first character that is no space opens a JSON object; behind a
 * byte-order mark it is one as well, to be refused as what it is. */
static bool is_json(const struct mcp_document *document)
{
    static const char mark[] = {'\xEF', '\xBB', '\xBF'};
    bool marked = document->bytes >= sizeof mark &&
                  memcmp(document->text, mark, sizeof mark) == 0;

    for (size_t i = marked ? sizeof mark : 0; i < document->bytes; i++) {
        if (strchr(" \t\r\n", document->text[i]) == NULL ||
            document->text[i] == '\0') {
            return document->text[i] == '{';
        }
    }
    return false;
}

static enum cleat_status read_json(struct config *c)
{
    static const struct mcp_entry entry;
    enum cleat_status status = mcp_document_check(&c->document, c->error);

    if (status != CLEAT_OK) { return status; }
    return mcp_servers_add(&c->document, &entry, &c->sources, c->error);
}

enum cleat_status mcp_config_read(const char *path,
                                  const struct mcp_config_options *options,
                                  void *block, size_t bytes, size_t *bytes_out,
                                  struct cleat_error *error)
{
    struct config c;
    enum cleat_status status;

    memset(&c, 0, sizeof c);
    *bytes_out = 0;
    if (options->scratch_bytes < mcp_config_scratch_bytes(options->bytes_max)) {
        return mcp_config_fail(error, CLEAT_INVALID, 0,
                               "the scratch for configs is too small");
    }
    c.options = options;
    c.error = error;
    carve(&c, options);
    c.sources.prefix = options->prefix;
    mcp_sources_open(&c.sources, block, bytes);
    status = mcp_document_load(&c.document, path, options, c.config_room,
                               error);
    if (status != CLEAT_OK) { return status; }
    status = is_json(&c.document) ? read_json(&c) : read_yaml(&c);
    if (status != CLEAT_OK) { return status; }
    return mcp_sources_close(&c.sources, bytes_out, error);
}
