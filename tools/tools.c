/* Cleat: `cleat tools`. SPDX-License-Identifier: Apache-2.0 */
#include "tools.h"

#include <stdio.h>
#include <string.h>

#include "options.h"
#include "tools_commands.h"

static const char usage[] =
    "usage: cleat tools list  --config FILE [OPTION]...\n"
    "       cleat tools call  --config FILE NAME [--args JSON] [OPTION]...\n"
    "       cleat tools watch --config FILE [OPTION]...\n"
    "The tools that a config offers: its own, and those of its MCP servers.\n"
    "Each has its --help.\n"
    "\n"
    "Exit: 0 it worked, 1 the tool called reported an error, 2 bad input,\n"
    "6 a server failed, 7 the deadline came first, 128 + N signal N.\n";

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"list", cli_list},
    {"call", cli_call},
    {"watch", cli_watch},
};

int cleat_tool_tools(int argc, char **argv)
{
    if (argc < 2) {
        return options_fail("cleat tools", "expected list, call or watch");
    }
    if (strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    return options_fail("cleat tools", "%s: expected list, call or watch",
                        argv[1]);
}
