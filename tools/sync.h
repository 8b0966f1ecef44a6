/* Cleat: `cleat sync`. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TOOLS_SYNC_H
#define CLEAT_TOOLS_SYNC_H

/* Runs the sub-command; argv[0] is "sync". Returns the exit status. */
int cleat_tool_sync(int argc, char **argv);

#endif
