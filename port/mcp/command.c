/* Cleat: how a server process is started. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "command.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEARCH_DEFAULT "/usr/local/bin:/usr/bin:/bin"
#define SAID_BYTES 100u /* of a name, in an error's line */

/* ---- texts -------------------------------------------------------------- */

/* Bytes of the UTF-8 character at `text`; 0: it is none (RFC 3629). */
static size_t character(const unsigned char *text, size_t bytes)
{
    size_t length = text[0] < 0x80                       ? 1
                    : text[0] >= 0xC2 && text[0] <= 0xDF ? 2
                    : text[0] >= 0xE0 && text[0] <= 0xEF ? 3
                    : text[0] >= 0xF0 && text[0] <= 0xF4 ? 4
                                                         : 0;

    if (length > bytes) { return 0; }
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xC0) != 0x80) { return 0; }
    }
    bool forbidden = (text[0] == 0xE0 && text[1] < 0xA0) ||
                     (text[0] == 0xED && text[1] > 0x9F) ||
                     (text[0] == 0xF0 && text[1] < 0x90) ||
                     (text[0] == 0xF4 && text[1] > 0x8F);
    return forbidden ? 0 : length;
}

/* C0, DEL and C1. */
static bool is_control(const unsigned char *text)
{
    return text[0] < 0x20 || text[0] == 0x7F ||
           (text[0] == 0xC2 && text[1] < 0xA0);
}

void mcp_printable(char *to, size_t to_bytes, const char *text, size_t bytes)
{
    size_t written = 0;
    size_t length;

    for (size_t i = 0; i < bytes; i += length) {
        const unsigned char *at = (const unsigned char *)text + i;
        length = character(at, bytes - i);
        bool shown = length > 0 && !is_control(at);
        if (length == 0) { length = 1; }
        size_t needed = shown ? length : 1;
        if (written + needed >= to_bytes) { break; }
        if (shown) {
            memcpy(to + written, at, length);
        } else {
            to[written] = '?';
        }
        written += needed;
    }
    to[written] = '\0';
}

static enum cleat_status say_too_long(struct cleat_error *error)
{
    return cleat_error_set(error, CLEAT_LIMIT, 0, 0,
                           "the server's command, with its arguments and "
                           "environment, is longer than message_bytes_max");
}

/* ---- our environment ---------------------------------------------------- */

enum cleat_status mcp_environment_read(struct mcp_environment *environment,
                                       char *(*read)(const char *name),
                                       struct cleat_error *error)
{
    static const char *const names[MCP_ENVIRONMENT_COUNT] = {
        "HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"};
    size_t used = 0;

    environment->count = 0;
    for (uint32_t i = 0; i < MCP_ENVIRONMENT_COUNT; i++) {
        const char *value = read(names[i]);
        if (value == NULL || strncmp(value, "()", 2) == 0) { continue; }
        char *variable = environment->text + used;
        int bytes = snprintf(variable, MCP_ENVIRONMENT_BYTES - used, "%s=%s",
                             names[i], value);
        if (bytes < 0 || (size_t)bytes >= MCP_ENVIRONMENT_BYTES - used) {
            return cleat_error_set(error, CLEAT_LIMIT, 0, 0,
                                   "HOME, PATH and what else servers inherit "
                                   "take more than 16384 bytes");
        }
        environment->variables[environment->count++] = variable;
        used += (size_t)bytes + 1;
    }
    return CLEAT_OK;
}

/* ---- a definition, written out ------------------------------------------ */

/* Where the next pointer goes. */
struct pointers {
    char **next;
    size_t left;
};

static bool add_pointer(struct pointers *pointers, char *pointer)
{
    if (pointers->left == 0) { return false; }
    *pointers->next++ = pointer;
    pointers->left--;
    return true;
}

/* The room is ours, and so is what is taken into it. */
static char *own(const char *text)
{
    return (char *)(uintptr_t)text;
}

static bool fill_arguments(const struct mcp_server *server,
                           struct mcp_room *room, struct pointers *pointers,
                           struct mcp_command *command)
{
    struct cleat_json_value args;
    struct cleat_json_value value;
    struct cleat_json_cursor cursor;
    const char *text;

    command->argv = pointers->next;
    if (!add_pointer(pointers, own(command->command))) { return false; }
    if (mcp_server_find(server, "args", &args)) {
        cleat_json_open(server->json, &args, &cursor);
        while (cleat_json_next_item(server->json, &cursor, &value)) {
            if (mcp_server_take(server, &value, room, &text, NULL) !=
                    CLEAT_OK ||
                !add_pointer(pointers, own(text))) {
                return false;
            }
        }
    }
    return add_pointer(pointers, NULL);
}

/* "NAME=value" of one member: the two lie one behind the other in the room. */
static char *take_variable(const struct mcp_server *server,
                           const struct cleat_json_value *key,
                           const struct cleat_json_value *value,
                           struct mcp_room *room)
{
    const char *name;
    const char *text;
    size_t name_bytes;

    if (mcp_server_take(server, key, room, &name, &name_bytes) != CLEAT_OK ||
        mcp_server_take(server, value, room, &text, NULL) != CLEAT_OK) {
        return NULL;
    }
    char *variable = own(name);
    variable[name_bytes] = '=';
    return variable;
}

static bool is_same_name(const char *variable, const char *other)
{
    size_t bytes = strcspn(variable, "=") + 1;

    return strncmp(variable, other, bytes) == 0;
}

static bool is_given(char *const *given, size_t count, const char *variable)
{
    for (size_t i = 0; i < count; i++) {
        if (is_same_name(variable, given[i])) { return true; }
    }
    return false;
}

/* The config's own first; ours where it has none of that name. */
static bool fill_environment(const struct mcp_server *server,
                             const struct mcp_environment *environment,
                             struct mcp_room *room, struct pointers *pointers,
                             struct mcp_command *command)
{
    struct cleat_json_value env;
    struct cleat_json_value key;
    struct cleat_json_value value;
    struct cleat_json_cursor cursor;

    command->envp = pointers->next;
    if (mcp_server_find(server, "env", &env)) {
        cleat_json_open(server->json, &env, &cursor);
        while (cleat_json_next_member(server->json, &cursor, &key, &value)) {
            char *variable = take_variable(server, &key, &value, room);
            if (variable == NULL || !add_pointer(pointers, variable)) {
                return false;
            }
        }
    }
    size_t given = (size_t)(pointers->next - command->envp);
    for (uint32_t i = 0; i < environment->count; i++) {
        char *variable = environment->variables[i];
        if (!is_given(command->envp, given, variable) &&
            !add_pointer(pointers, variable)) {
            return false;
        }
    }
    return add_pointer(pointers, NULL);
}

static const char *find_search(char *const *envp)
{
    for (; *envp != NULL; envp++) {
        if (strncmp(*envp, "PATH=", 5) == 0) { return *envp + 5; }
    }
    return NULL;
}

enum cleat_status mcp_command_fill(const struct mcp_server *server,
                                   const struct mcp_environment *environment,
                                   struct mcp_room *room, char **pointers,
                                   size_t pointers_count,
                                   struct mcp_command *command,
                                   struct cleat_error *error)
{
    struct pointers left = {pointers, pointers_count};

    memset(command, 0, sizeof *command);
    if (mcp_server_take_member(server, "command", room, &command->command,
                               NULL) != CLEAT_OK) {
        return say_too_long(error);
    }
    if (mcp_server_take_member(server, "cwd", room, &command->folder, NULL) ==
        CLEAT_TOO_SMALL) {
        return say_too_long(error);
    }
    if (!fill_arguments(server, room, &left, command) ||
        !fill_environment(server, environment, room, &left, command)) {
        return say_too_long(error);
    }
    command->search = find_search(command->envp);
    return CLEAT_OK;
}

/* ---- the program -------------------------------------------------------- */

static enum cleat_status say_not_run(const char *command, const char *why,
                                     int code, struct cleat_error *error)
{
    char said[SAID_BYTES];

    mcp_printable(said, sizeof said, command, strlen(command));
    (void)cleat_error_set(error, CLEAT_PERMANENT, 0, 0, "");
    if (error != NULL) {
        (void)snprintf(error->text, sizeof error->text, "command \"%s\" %s",
                       said, why);
        error->port_code = code;
    }
    return CLEAT_PERMANENT;
}

static bool is_program(int folder, const char *path, bool *refused)
{
    struct stat file;

    if (fstatat(folder, path, &file, 0) != 0 || !S_ISREG(file.st_mode)) {
        return false;
    }
    if (faccessat(folder, path, X_OK, 0) == 0) { return true; }
    *refused = true;
    return false;
}

/* "<place>/<command>" in the room; an empty place is the folder itself. False
 * where it does not fit. */
static bool join(const char *place, size_t place_bytes, const char *command,
                 const struct mcp_room *room)
{
    int bytes = snprintf(room->at, room->bytes, "%.*s%s%s", (int)place_bytes,
                         place, place_bytes > 0 ? "/" : "./", command);

    return bytes >= 0 && (size_t)bytes < room->bytes;
}

enum cleat_status mcp_command_find(const struct mcp_command *command,
                                   int folder, struct mcp_room *room,
                                   const char **path, struct cleat_error *error)
{
    const char *place = command->search != NULL ? command->search
                                                : SEARCH_DEFAULT;
    bool refused = false;

    *path = command->command;
    if (folder < 0) { folder = AT_FDCWD; }
    if (strchr(command->command, '/') != NULL) {
        if (is_program(folder, *path, &refused)) { return CLEAT_OK; }
        place = NULL;
    }
    while (place != NULL && command->command[0] != '\0') {
        size_t bytes = strcspn(place, ":");
        if (!join(place, bytes, command->command, room)) {
            return say_too_long(error);
        }
        if (is_program(folder, room->at, &refused)) {
            *path = room->at;
            return CLEAT_OK;
        }
        place = place[bytes] == ':' ? place + bytes + 1 : NULL;
    }
    return refused
               ? say_not_run(command->command, "may not be run", EACCES, error)
               : say_not_run(command->command, "was not found", ENOENT, error);
}
