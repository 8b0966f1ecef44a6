/* Cleat: the loader of port/mcp, driven by a script. SPDX-License-Identifier:
 * Apache-2.0
 *
 *     mcp_peer [auto|legacy|modern]
 *
 * Reads commands from standard input, one a line, and answers each with one
 * line, and those that it says follow. Texts are hex, "-" where there is none.
 *
 *     config PATH        ok COUNT, then a line a source: NAME
 *     list N             ok COUNT LEFT_OUT TTL_NS|none, then a line a tool:
 *                        DEFINITION NAME WIRE_NAME TITLE DESCRIPTION INPUT
 *                        OUTPUT ANNOTATIONS SERVER
 *     call N NAME JSON   ok IS_ERROR RESULT. NAME is one of the last list
 *     watch N on|off     ok
 *     change             waits for a change that was not told about yet: ok
 *     (any)              failed STATUS TEXT
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mcp_host.h"

#define LINE_BYTES_MAX 65536

static struct mcp_host host;
static const struct cleat_tool_sources *sources;
static const struct cleat_tools *tools; /* of the last list */
static uint64_t changes_told;

static void print_hex(struct cleat_text text)
{
    if (text.bytes == 0) {
        printf("-");
    } else {
        for (size_t i = 0; i < text.bytes; i++) {
            printf("%02x", (unsigned char)text.text[i]);
        }
    }
}

static bool ended_well(struct mcp_host_request *request)
{
    if (mcp_host_await(&host, request)) { return true; }
    if (request == NULL) {
        printf("failed NO_SLOT refused\n");
    } else {
        printf("failed %s %s\n",
               cleat_status_name((enum cleat_status)request->done.status),
               request->error.text);
    }
    return false;
}

static void read_config(const char *path)
{
    struct mcp_host_request *request = mcp_host_config(&host, path);

    if (!ended_well(request)) { return; }
    sources = request->block;
    printf("ok %" PRIu32 "\n", sources->count);
    for (uint32_t k = 0; k < sources->count; k++) {
        print_hex(cleat_tool_source_name(sources, k));
        printf("\n");
    }
}

static void print_tool(const struct cleat_tool *tool)
{
    const struct cleat_text texts[] = {
        tool->definition,    tool->name,        tool->wire_name,
        tool->title,         tool->description, tool->input_schema,
        tool->output_schema, tool->annotations, tool->server,
    };

    for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
        if (k != 0) { printf(" "); }
        print_hex(texts[k]);
    }
    printf("\n");
}

static void list(uint32_t number)
{
    struct mcp_host_request *request = mcp_host_list(&host, sources, number);
    struct cleat_error error = {0};
    struct cleat_tool tool;

    if (!ended_well(request)) { return; }
    if (cleat_tools_check(request->block, (size_t)request->done.bytes, &tools,
                          &error) != CLEAT_OK) {
        printf("failed CORRUPT %s\n", error.text);
        return;
    }
    printf("ok %" PRIu32 " %" PRIu32, cleat_tools_count(tools),
           cleat_tools_left_out(tools));
    if (request->done.ttl_ns == CLEAT_NONE) {
        printf(" none\n");
    } else {
        printf(" %" PRIu64 "\n", request->done.ttl_ns);
    }
    for (uint32_t k = 0; k < cleat_tools_count(tools); k++) {
        cleat_tools_at(tools, k, &tool);
        print_tool(&tool);
    }
}

static void call(uint32_t number, const char *name, const char *json)
{
    struct cleat_text arguments = {json, strlen(json)};
    struct mcp_host_request *request;
    struct cleat_tool tool;
    uint32_t found;

    if (tools == NULL ||
        cleat_tools_find(tools, name, strlen(name), &found) != CLEAT_OK) {
        /* Said as it is, so that the server's own answer is seen. */
        memset(&tool, 0, sizeof tool);
        tool.wire_name.text = name;
        tool.wire_name.bytes = strlen(name);
    } else {
        cleat_tools_at(tools, found, &tool);
    }
    request = mcp_host_call(&host, sources, number, &tool, arguments);
    if (!ended_well(request)) { return; }
    printf("ok %" PRIu32 " ", request->done.is_error);
    print_hex((struct cleat_text){request->block, (size_t)request->done.bytes});
    printf("\n");
}

static void watch(uint32_t number, bool on)
{
    enum cleat_status status = host.loader.watch(
        host.loader.context, sources->sources[number].key,
        cleat_tool_source_definition(sources, number), on);

    if (status == CLEAT_OK) {
        printf("ok\n");
    } else {
        printf("failed %s\n", cleat_status_name(status));
    }
}

static void await_change(void)
{
    if (mcp_host_await_change(&host, changes_told)) {
        changes_told++;
        printf("ok\n");
    } else {
        printf("failed DEADLINE no change was told\n");
    }
}

/* The next word of a line, ended by a NUL; "" where there is none. */
static char *word(char **line)
{
    char *start = *line;
    char *end = strchr(start, ' ');

    if (end == NULL) {
        *line = start + strlen(start);
    } else {
        *end = '\0';
        *line = end + 1;
    }
    return start;
}

static uint32_t source_number(char **line)
{
    uint32_t number = (uint32_t)strtoul(word(line), NULL, 10);

    if (sources == NULL || number >= sources->count) {
        fprintf(stderr, "mcp_peer: no source of that number\n");
        exit(2);
    }
    return number;
}

static void obey(char *line)
{
    const char *command = word(&line);

    if (strcmp(command, "config") == 0) {
        read_config(line);
    } else if (strcmp(command, "list") == 0) {
        list(source_number(&line));
    } else if (strcmp(command, "call") == 0) {
        uint32_t number = source_number(&line);
        const char *name = word(&line);

        call(number, name, line);
    } else if (strcmp(command, "watch") == 0) {
        uint32_t number = source_number(&line);

        watch(number, strcmp(line, "on") == 0);
    } else if (strcmp(command, "change") == 0) {
        await_change();
    } else {
        fprintf(stderr, "mcp_peer: what is \"%s\"?\n", command);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    static char line[LINE_BYTES_MAX];
    const char *era = argc > 1 ? argv[1] : "auto";
    struct cleat_mcp_config config = {
        .era = strcmp(era, "legacy") == 0   ? CLEAT_MCP_ERA_LEGACY
               : strcmp(era, "modern") == 0 ? CLEAT_MCP_ERA_MODERN
                                            : CLEAT_MCP_ERA_AUTO,
    };

    if (!mcp_host_open(&host, &config, 60 * CLEAT_NS_PER_S)) { return 1; }
    host.is_quiet = true; /* it is said on stdout */
    while (fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        obey(line);
        fflush(stdout);
    }
    mcp_host_close(&host);
    return 0;
}
