/* Cleat: `cleat trainer`. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TOOLS_TRAINER_H
#define CLEAT_TOOLS_TRAINER_H

/* Runs the sub-command; argv[0] is "trainer". Returns the exit status. */
int cleat_tool_trainer(int argc, char **argv);

#endif
