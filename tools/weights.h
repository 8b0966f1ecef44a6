/* Cleat: `cleat weights`. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TOOLS_WEIGHTS_H
#define CLEAT_TOOLS_WEIGHTS_H

/* Runs the sub-command; argv[0] is "weights". Returns the exit status: 0, or 2
 * after one line on stderr. */
int cleat_tool_weights(int argc, char **argv);

#endif
