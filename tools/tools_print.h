/* Cleat: how `cleat tools` prints lists. SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLEAT_TOOLS_TOOLS_PRINT_H
#define CLEAT_TOOLS_TOOLS_PRINT_H

#include <stdio.h>

#include "cleat/tool_service.h"
#include "print.h"
#include "tools_session.h"

/* A table: name, server, the first line of the description. */
void cli_print_table(FILE *file, const struct cleat_tool_list *list);

/* The JSON array that verl hands a model, with each schema whole. */
void cli_print_openai(FILE *file, const struct cleat_tool_list *list);

/* {"tools": […]}, each definition as its server sent it. */
void cli_print_mcp(FILE *file, const struct cleat_tool_list *list);

/* What a run of `cleat tools list` came to. */
struct cli_report {
    const char *config;
    const struct cleat_tool_list *list; /* NULL: there is none */
    struct cli_sources sources;
    struct cleat_tool_cache_counters counters;
    uint64_t elapsed_ns;
    uint64_t slowest_ns; /* of all gets */
    uint64_t gets;       /* that gave a list */
    uint64_t gets_failed;
    uint64_t threads;
    int exit_status;
};

void cli_print_report(FILE *file, const struct cli_report *report);

/* One line of counters. */
void cli_print_counters(FILE *file, const struct cli_report *report);

#endif
