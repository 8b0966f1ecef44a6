/* Cleat: the sub-commands of `cleat tools`. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef CLEAT_TOOLS_TOOLS_COMMANDS_H
#define CLEAT_TOOLS_TOOLS_COMMANDS_H

/* Each: argv[0] is its own name. Returns the exit status (tools.h). */
int cli_list(int argc, char **argv);
int cli_call(int argc, char **argv);
int cli_watch(int argc, char **argv);

#endif
