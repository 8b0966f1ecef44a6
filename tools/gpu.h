/* Cleat: `cleat gpu`. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TOOLS_GPU_H
#define CLEAT_TOOLS_GPU_H

/* Runs the sub-command; argv[0] is "gpu". Returns the exit status: 0, or 2
 * after one line on stderr for each library that cannot be used. */
int cleat_tool_gpu(int argc, char **argv);

#endif
