/* Cleat: the list of a config's own tools. SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "server.h"

/* One entry of a native source. */
struct native {
    struct cleat_json_value class_name;
    struct cleat_json_value schema; /* null: none */
    struct cleat_json_value name;   /* bytes 0: none, as of those below */
    struct cleat_json_value description;
    struct cleat_json_value parameters;
};

/* A member that is not null. */
static void find(const struct mcp_server *server,
                 const struct cleat_json_value *object, const char *name,
                 struct cleat_json_value *value)
{
    memset(value, 0, sizeof *value);
    if (cleat_json_find(server->json, object, name, value) != CLEAT_OK ||
        value->type == CLEAT_JSON_NULL) {
        value->bytes = 0;
    }
}

static void read_native(const struct mcp_server *server,
                        const struct cleat_json_value *entry,
                        struct native *native)
{
    struct cleat_json_value function;

    find(server, entry, "class_name", &native->class_name);
    find(server, entry, "tool_schema", &native->schema);
    find(server, &native->schema, "function", &function);
    find(server, &function, "name", &native->name);
    find(server, &function, "description", &native->description);
    find(server, &function, "parameters", &native->parameters);
}

static struct cleat_text slice(const struct mcp_server *server,
                               const struct cleat_json_value *value)
{
    struct cleat_text text = {server->json + value->offset, value->bytes};

    return text;
}

/* Room that a string needs to be decoded: none where it has no escape. */
static size_t room_for(const struct mcp_server *server,
                       const struct cleat_json_value *string)
{
    struct cleat_text text = slice(server, string);

    return text.bytes > 0 && memchr(text.text, '\\', text.bytes) != NULL
               ? text.bytes
               : 0;
}

/* What a string says: in the definition itself, or decoded into the room. Where
 * there is none, as it is written, which is longer. */
static struct cleat_text say(const struct mcp_server *server,
                             const struct cleat_json_value *string,
                             struct mcp_room *room)
{
    struct cleat_text text = slice(server, string);

    if (text.bytes == 0) { return text; }
    text.text++;
    text.bytes -= 2;
    if (room_for(server, string) == 0 || room->bytes == 0) { return text; }
    text.text = room->at;
    cleat_json_string(server->json, string,
                      CLEAT_JSON_ALLOW_NUL | CLEAT_JSON_REPLACE_LONE, room->at,
                      room->bytes, &text.bytes, NULL);
    room->at += text.bytes + 1;
    room->bytes -= text.bytes + 1;
    return text;
}

static enum cleat_status add(const struct mcp_server *server,
                             const struct native *native, struct mcp_room room,
                             struct cleat_tools_writer *writer,
                             struct cleat_error *error)
{
    struct cleat_tool tool;

    memset(&tool, 0, sizeof tool);
    tool.definition = slice(server, &native->schema);
    tool.input_schema = slice(server, &native->parameters);
    tool.name = say(server, &native->name, &room);
    tool.wire_name = tool.name;
    tool.description = say(server, &native->description, &room);
    tool.class_name = say(server, &native->class_name, &room);
    return cleat_tools_add(writer, &tool, error);
}

/* The most room that one entry needs for its strings. */
static size_t most_room(const struct mcp_server *server,
                        const struct cleat_json_value *entries)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value entry;
    struct native native;
    size_t most = 0;

    cleat_json_open(server->json, entries, &cursor);
    while (cleat_json_next_item(server->json, &cursor, &entry)) {
        size_t room;

        read_native(server, &entry, &native);
        room = room_for(server, &native.class_name) +
               room_for(server, &native.name) +
               room_for(server, &native.description);
        if (room > most) { most = room; }
    }
    return most;
}

static enum cleat_status write_list(const struct mcp_server *server,
                                    const struct cleat_json_value *entries,
                                    struct mcp_room room, void *block,
                                    size_t bytes, struct cleat_error *error)
{
    static const struct cleat_text name = {"native", 6};
    struct cleat_tools_writer writer;
    const struct cleat_tools *tools;
    struct cleat_json_cursor cursor;
    struct cleat_json_value entry;
    struct native native;
    enum cleat_status status = cleat_tools_begin(
        &writer, block, bytes, CLEAT_TOOLS_NATIVE, name, error);

    if (status != CLEAT_OK) { return status; }
    cleat_json_open(server->json, entries, &cursor);
    while (cleat_json_next_item(server->json, &cursor, &entry)) {
        read_native(server, &entry, &native);
        status = add(server, &native, room, &writer, error);
        /* Where there is too little room, the end says how much there is of
         * all. */
        if (status != CLEAT_OK && status != CLEAT_TOO_SMALL) { return status; }
    }
    return cleat_tools_end(&writer, &tools, error);
}

enum cleat_status mcp_native_list(const struct mcp_server *server, void *block,
                                  size_t bytes, struct cleat_error *error)
{
    struct cleat_json_value entries;
    size_t wanted;
    struct mcp_room room = {NULL, 0};
    enum cleat_status status;

    if (!server->is_native || !mcp_server_find(server, "native", &entries)) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "mcp: not a native source");
    }
    /* Strings are decoded in the end of the block, which the list leaves free.
     */
    wanted = most_room(server, &entries);
    if (wanted <= bytes) {
        room.at = (char *)block + bytes - wanted;
        room.bytes = wanted;
        bytes -= wanted;
    }
    /* Without room for them it cannot hold the list, in which they lie too. */
    status = write_list(server, &entries, room, block, bytes, error);
    if (status == CLEAT_TOO_SMALL && error != NULL) { error->offset += wanted; }
    return status;
}
