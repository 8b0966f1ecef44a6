/* Cleat: `cleat tools`. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TOOLS_TOOLS_H
#define CLEAT_TOOLS_TOOLS_H

/* Runs the sub-command; argv[0] is "tools". Returns the exit status:
 *   0   it worked
 *   1   call: the tool itself reported an error
 *   2   bad input, after one line on stderr; or this build has no port/mcp
 *   6   a server failed
 *   7   the deadline came first
 *   128 + n   signal n (INT, TERM, HUP) ended it */
int cleat_tool_tools(int argc, char **argv);

#endif
