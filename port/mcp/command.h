/* Cleat: how a server process is started. SPDX-License-Identifier: Apache-2.0
 *
 * A definition's command, as what the system wants to have. The arguments go
 * to the program as they stand, through no shell. The environment is what the
 * config gives and six variables of ours, as in the protocol's own SDKs: HOME,
 * LOGNAME, PATH, SHELL, TERM, USER. */
#ifndef CLEAT_PORT_MCP_COMMAND_H
#define CLEAT_PORT_MCP_COMMAND_H

#include "server.h"

#define MCP_ENVIRONMENT_COUNT 6u
#define MCP_ENVIRONMENT_BYTES ((size_t)16384)

/* Those of ours that are set, as "NAME=value"; pointers into itself. */
struct mcp_environment {
    uint32_t count;
    char *variables[MCP_ENVIRONMENT_COUNT];
    char text[MCP_ENVIRONMENT_BYTES];
};

/* Reads them, once: another thread of the host may change its environment
 * later. A value that begins with "()" is a function of an old shell, and left
 * out.
 *   read   getenv, or what stands for it
 * Returns CLEAT_OK; CLEAT_LIMIT: they take more than MCP_ENVIRONMENT_BYTES. */
enum cleat_status mcp_environment_read(struct mcp_environment *environment,
                                       char *(*read)(const char *name),
                                       struct cleat_error *error);

/* All of it lies in the room that was given. */
struct mcp_command {
    const char *command; /* as in the config */
    char **argv;         /* NULL-terminated */
    char **envp;         /* the same */
    const char *folder;  /* NULL: ours */
    const char *search;  /* what PATH the program will have; NULL: none */
};

/* Writes the definition out.
 *   room            for texts; moved on
 *   pointers        room for pointers, pointers_count of them
 * Returns CLEAT_OK; CLEAT_LIMIT: it does not fit. */
enum cleat_status mcp_command_fill(const struct mcp_server *server,
                                   const struct mcp_environment *environment,
                                   struct mcp_room *room, char **pointers,
                                   size_t pointers_count,
                                   struct mcp_command *command,
                                   struct cleat_error *error);

/* Finds the program as execvp(3) does, but on the PATH that it will have and
 * from the folder that it begins in. A command with a slash is its path.
 *   folder   a descriptor; -1: ours
 *   path     where it lies, in the room
 * Returns CLEAT_OK; CLEAT_PERMANENT: it is not there, or may not be run;
 * CLEAT_LIMIT. */
enum cleat_status mcp_command_find(const struct mcp_command *command,
                                   int folder, struct mcp_room *room,
                                   const char **path,
                                   struct cleat_error *error);

/* Copies text for an error's line: whole UTF-8 characters, '?' for what is
 * none and for control characters, cut where `to` is full. NUL-terminated. */
void mcp_printable(char *to, size_t to_bytes, const char *text, size_t bytes);

#endif
