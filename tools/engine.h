/* Cleat: `cleat engine`. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TOOLS_ENGINE_H
#define CLEAT_TOOLS_ENGINE_H

/* Runs the sub-command; argv[0] is "engine". Returns the exit status. */
int cleat_tool_engine(int argc, char **argv);

#endif
