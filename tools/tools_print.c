/* Cleat: how `cleat tools` prints lists. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "tools_print.h"

#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cleat/json.h"

/* ------------------------------------------------------------------- text */

static struct cleat_text first_line(struct cleat_text text)
{
    size_t bytes = 0;

    while (bytes < text.bytes && text.text[bytes] != '\n' &&
           text.text[bytes] != '\r') {
        bytes++;
    }
    text.bytes = bytes;
    return text;
}

/* ------------------------------------------------------------------- JSON */

static struct cleat_text text_of(const char *text)
{
    struct cleat_text result = {text, strlen(text)};

    return result;
}

static void print_raw(FILE *file, struct cleat_text text)
{
    (void)fwrite(text.text, 1, text.bytes, file);
}

static bool same_text(struct cleat_text a, struct cleat_text b)
{
    return a.bytes == b.bytes && memcmp(a.text, b.text, a.bytes) == 0;
}

/* ------------------------------------------------------------------ table */

/* Columns for what is printed; SIZE_MAX where it is not a terminal. */
static size_t columns_of(FILE *file)
{
    struct winsize size;

    if (isatty(fileno(file)) == 0 ||
        ioctl(fileno(file), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) {
        return SIZE_MAX;
    }
    return size.ws_col;
}

/* A native entry may leave its schema, and so its name, to its class. */
static struct cleat_text shown_name(const struct cleat_tool *tool)
{
    return tool->name.bytes != 0 ? tool->name : tool->class_name;
}

static void print_cell(FILE *file, struct cleat_text text, size_t width)
{
    size_t printed = cli_print_text(file, text, SIZE_MAX);

    for (; printed < width + 2; printed++) { fputc(' ', file); }
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

void cli_print_table(FILE *file, const struct cleat_tool_list *list)
{
    size_t name_width = sizeof "NAME" - 1;
    size_t server_width = sizeof "SERVER" - 1;
    size_t columns = columns_of(file);
    uint32_t sources = 0;
    struct cleat_tool tool;

    for (uint32_t at = 0; cleat_tool_list_next(list, &at, &tool);) {
        name_width = larger(name_width, cli_count_letters(shown_name(&tool)));
        server_width = larger(server_width, cli_count_letters(tool.server));
    }
    if (list->tools > 0) {
        print_cell(file, text_of("NAME"), name_width);
        print_cell(file, text_of("SERVER"), server_width);
        fputs("DESCRIPTION\n", file);
    }
    for (uint32_t at = 0; cleat_tool_list_next(list, &at, &tool);) {
        size_t used = name_width + server_width + 4;

        print_cell(file, shown_name(&tool), name_width);
        print_cell(file, tool.server, server_width);
        (void)cli_print_text(file, first_line(tool.description),
                             columns > used ? columns - used : 0);
        fputc('\n', file);
    }
    for (uint32_t i = 0; i < list->count; i++) {
        sources += list->parts[i].tools != NULL ? 1u : 0u;
    }
    fprintf(file, "%" PRIu32 " tool%s of ", list->tools,
            list->tools == 1 ? "" : "s");
    if (sources < list->count) { fprintf(file, "%" PRIu32 " of ", sources); }
    fprintf(file, "%" PRIu32 " server%s\n", list->count,
            list->count == 1 ? "" : "s");
}

/* ----------------------------------------------------------------- models */

/* Where a walk over the tools of a list stands. */
struct place {
    uint32_t part;
    uint32_t number;
};

static bool is_native(const struct cleat_tool_list *list, uint32_t part)
{
    return list->sources->sources[part].kind == CLEAT_TOOLS_NATIVE;
}

/* The next tool that has a definition; *part is its source. */
static bool next_defined(const struct cleat_tool_list *list,
                         struct place *place, struct cleat_tool *tool,
                         uint32_t *part)
{
    for (; place->part < list->count; place->part++, place->number = 0) {
        const struct cleat_tools *tools = list->parts[place->part].tools;

        while (tools != NULL && place->number < cleat_tools_count(tools)) {
            cleat_tools_at(tools, place->number++, tool);
            *part = place->part;
            if (tool->definition.bytes != 0) { return true; }
        }
    }
    return false;
}

static void print_function(FILE *file, const struct cleat_tool *tool)
{
    fputs("{\"type\":\"function\",\"function\":{\"name\":", file);
    cli_print_json(file, tool->name);
    fputs(",\"description\":", file);
    cli_print_json(file, tool->description);
    fputs(",\"parameters\":", file);
    print_raw(file, tool->input_schema);
    fputs(",\"strict\":false}}", file);
}

void cli_print_openai(FILE *file, const struct cleat_tool_list *list)
{
    const char *between = "\n ";
    struct place place = {0, 0};
    struct cleat_tool tool;
    uint32_t part;

    fputc('[', file);
    while (next_defined(list, &place, &tool, &part)) {
        fputs(between, file);
        between = ",\n ";
        if (is_native(list, part)) {
            print_raw(file, tool.definition);
        } else {
            print_function(file, &tool);
        }
    }
    fputs(between[0] == ',' ? "\n]\n" : "]\n", file);
}

/* A definition with another name: all of it, but that one string. */
static void print_renamed(FILE *file, const struct cleat_tool *tool)
{
    const char *text = tool->definition.text;
    struct cleat_json_value root = {0, tool->definition.bytes,
                                    CLEAT_JSON_OBJECT};
    struct cleat_json_value name;

    if (same_text(tool->name, tool->wire_name) ||
        cleat_json_find(text, &root, "name", &name) != CLEAT_OK) {
        print_raw(file, tool->definition);
        return;
    }
    (void)fwrite(text, 1, name.offset, file);
    cli_print_json(file, tool->name);
    (void)fwrite(text + name.offset + name.bytes, 1,
                 tool->definition.bytes - name.offset - name.bytes, file);
}

static void print_as_mcp(FILE *file, const struct cleat_tool *tool)
{
    fputs("{\"name\":", file);
    cli_print_json(file, tool->name);
    fputs(",\"description\":", file);
    cli_print_json(file, tool->description);
    fputs(",\"inputSchema\":", file);
    if (tool->input_schema.bytes != 0) {
        print_raw(file, tool->input_schema);
    } else {
        fputs("{\"type\":\"object\"}", file);
    }
    fputc('}', file);
}

void cli_print_mcp(FILE *file, const struct cleat_tool_list *list)
{
    const char *between = "\n ";
    struct place place = {0, 0};
    struct cleat_tool tool;
    uint32_t part;

    fputs("{\"tools\":[", file);
    while (next_defined(list, &place, &tool, &part)) {
        fputs(between, file);
        between = ",\n ";
        if (is_native(list, part)) {
            print_as_mcp(file, &tool);
        } else {
            print_renamed(file, &tool);
        }
    }
    fputs(between[0] == ',' ? "\n]}\n" : "]}\n", file);
}

/* ----------------------------------------------------------------- report */

static double seconds(uint64_t ns)
{
    return (double)ns / (double)CLEAT_NS_PER_S;
}

static void print_source(FILE *file, const struct cli_report *report,
                         uint32_t i)
{
    const struct cleat_tool_failure *source = &report->sources.each[i];
    const struct cleat_tools *tools = NULL;
    enum cleat_status status = source->error.status;

    if (report->list != NULL && i < report->list->count) {
        tools = report->list->parts[i].tools;
        status = (enum cleat_status)report->list->parts[i].status;
    }
    fputs("{\"name\": ", file);
    cli_print_json(file, text_of(source->name));
    fprintf(file,
            ", \"status\": \"%s\", \"class\": \"%s\", \"attempts\": %" PRIu32
            ", \"seconds\": %.6f, \"tools\": %" PRIu32
            ", \"left_out\": %" PRIu32 ", \"digest\": %" PRIu32 ", \"error\": ",
            cleat_status_name(status),
            cleat_class_name(cleat_status_class(status)), source->attempts,
            seconds(source->elapsed_ns),
            tools == NULL ? 0 : cleat_tools_count(tools),
            tools == NULL ? 0 : cleat_tools_left_out(tools),
            tools == NULL ? 0 : cleat_tools_digest(tools));
    cli_print_json(file,
                   text_of(status == CLEAT_OK ? "" : cli_words_of(source)));
    fputc('}', file);
}

void cli_print_report(FILE *file, const struct cli_report *report)
{
    const struct cleat_tool_cache_counters *c = &report->counters;

    fputs("{\n  \"config\": ", file);
    cli_print_json(file, text_of(report->config));
    fprintf(file, ",\n  \"exit\": %d,\n  \"seconds\": %.6f,\n",
            report->exit_status, seconds(report->elapsed_ns));
    fprintf(file,
            "  \"threads\": %" PRIu64 ",\n  \"gets\": %" PRIu64
            ",\n  \"gets_failed\": %" PRIu64 ",\n  \"slowest_s\": %.6f,\n",
            report->threads, report->gets, report->gets_failed,
            seconds(report->slowest_ns));
    fprintf(file, "  \"tools\": %" PRIu32 ",\n  \"servers\": [",
            report->list == NULL ? 0 : report->list->tools);
    for (uint32_t i = 0; i < report->sources.count; i++) {
        fputs(i == 0 ? "\n    " : ",\n    ", file);
        print_source(file, report, i);
    }
    fprintf(file,
            "%s],\n  \"counters\": {\"hits\": %" PRIu64 ", \"stale\": %" PRIu64
            ", \"misses\": %" PRIu64 ", \"waits\": %" PRIu64
            ", \"loads\": %" PRIu64 ", \"failures\": %" PRIu64
            ", \"refreshes\": %" PRIu64 ", \"evictions\": %" PRIu64
            ", \"late\": %" PRIu64 ", \"invalidations\": %" PRIu64 "}\n}\n",
            report->sources.count == 0 ? "" : "\n  ", c->hits, c->stale,
            c->misses, c->waits, c->loads, c->failures, c->refreshes,
            c->evictions, c->late, c->invalidations);
}

void cli_print_counters(FILE *file, const struct cli_report *report)
{
    const struct cleat_tool_cache_counters *c = &report->counters;

    fprintf(file,
            "%" PRIu64 " gets on %" PRIu64 " threads in %.3f s, the slowest "
            "%.6f s; hits %" PRIu64 " stale %" PRIu64 " misses %" PRIu64
            " waits %" PRIu64 " loads %" PRIu64 " failures %" PRIu64
            " refreshes %" PRIu64 " evictions %" PRIu64 " late %" PRIu64
            " invalidations %" PRIu64 "\n",
            report->gets + report->gets_failed, report->threads,
            seconds(report->elapsed_ns), seconds(report->slowest_ns), c->hits,
            c->stale, c->misses, c->waits, c->loads, c->failures, c->refreshes,
            c->evictions, c->late, c->invalidations);
}
