/* Cleat: `cleat store`. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TOOLS_STORE_H
#define CLEAT_TOOLS_STORE_H

/* Runs the command; argv[0] is "store". Returns its exit status. */
int cleat_tool_store(int argc, char **argv);

/* `cleat store bench`; argv[0] is "bench". */
int store_bench(int argc, char **argv);

#endif
