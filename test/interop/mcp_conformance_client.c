/* Cleat: the client that the MCP conformance suite runs.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     mcp_conformance_client URL
 *
 * in the environment that @modelcontextprotocol/conformance gives a client:
 *
 *   MCP_CONFORMANCE_SCENARIO          which one it is
 *   MCP_CONFORMANCE_PROTOCOL_VERSION  decides the era
 *   MCP_CONFORMANCE_CONTEXT           JSON; "toolCalls": what is to be called
 *
 * Writes a config that names URL, lists its tools and, unless the scenario is
 * about lists alone, calls every one of them: as the context says, or with
 * arguments made from its schema. All calls are under way at once. Questions of
 * the server are answered with the defaults of their schema. Exits 0 when all
 * of it worked, and adds a line "SCENARIO worked" or "SCENARIO failed" to the
 * file CLEAT_TEST_ENDED, since the suite asks less than that of some scenarios.
 *
 * CLEAT_TEST_BROKEN plants a bug, for the suite to find:
 *   schema     the schema that is sent back has a word changed
 *   nothing    no tool is called
 *   hidden     a tool that is not in the list is called as well
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleat/json.h"
#include "mcp_host.h"

#define TEXT_BYTES_MAX 65536u

static const char *environment(const char *name)
{
    const char *value = getenv(name);

    return value != NULL ? value : "";
}

static bool scenario_is(const char *name)
{
    return strcmp(environment("MCP_CONFORMANCE_SCENARIO"), name) == 0;
}

static bool is_broken(const char *how)
{
    return strcmp(environment("CLEAT_TEST_BROKEN"), how) == 0;
}

/* ---- text that grows ---------------------------------------------------- */

struct writer {
    char *text;
    size_t bytes;
    size_t bytes_max;
    bool full;
};

static void put(struct writer *writer, const char *text, size_t bytes)
{
    if (bytes > writer->bytes_max - writer->bytes) {
        writer->full = true;
        return;
    }
    memcpy(writer->text + writer->bytes, text, bytes);
    writer->bytes += bytes;
}

static void put_text(struct writer *writer, const char *text)
{
    put(writer, text, strlen(text));
}

static void put_value(struct writer *writer, const char *json,
                      const struct cleat_json_value *value)
{
    put(writer, json + value->offset, value->bytes);
}

/* ---- values that a schema allows ---------------------------------------- */

/* The property's default, or the first of its enum, or one of its type. */
static void put_allowed(struct writer *writer, const char *json,
                        const struct cleat_json_value *property)
{
    static const struct {
        const char *type;
        const char *value;
    } allowed[] = {
        {"string", "\"text\""}, {"number", "1.5"}, {"integer", "1"},
        {"boolean", "true"},    {"array", "[]"},   {"object", "{}"},
    };
    struct cleat_json_value found;
    struct cleat_json_cursor cursor;

    if (cleat_json_find(json, property, "default", &found) == CLEAT_OK) {
        put_value(writer, json, &found);
        return;
    }
    if (cleat_json_find(json, property, "enum", &found) == CLEAT_OK) {
        cleat_json_open(json, &found, &cursor);
        if (cleat_json_next_item(json, &cursor, &found)) {
            put_value(writer, json, &found);
            return;
        }
    }
    if (cleat_json_find(json, property, "type", &found) == CLEAT_OK) {
        for (size_t k = 0; k < sizeof allowed / sizeof allowed[0]; k++) {
            if (cleat_json_equals(json, &found, allowed[k].type)) {
                put_text(writer, allowed[k].value);
                return;
            }
        }
    }
    put_text(writer, "null");
}

/* An object with all the properties of a schema. */
static void put_object(struct writer *writer, const char *json,
                       const struct cleat_json_value *schema)
{
    struct cleat_json_value properties, name, property;
    struct cleat_json_cursor cursor;
    bool first = true;

    put_text(writer, "{");
    if (cleat_json_find(json, schema, "properties", &properties) == CLEAT_OK) {
        cleat_json_open(json, &properties, &cursor);
        while (cleat_json_next_member(json, &cursor, &name, &property)) {
            if (!first) { put_text(writer, ","); }
            first = false;
            put_value(writer, json, &name);
            put_text(writer, ":");
            put_allowed(writer, json, &property);
        }
    }
    put_text(writer, "}");
}

/* ---- questions ---------------------------------------------------------- */

/* Accepts an elicitation, with the defaults of what it asks for (SEP-1034). */
static enum cleat_status answer(void *context,
                                const struct cleat_mcp_question *question,
                                char *text, size_t bytes_max, size_t *bytes)
{
    struct writer writer = {text, 0, bytes_max, false};
    struct cleat_json_value params, schema;
    const char *json = question->params.text;

    (void)context;
    if (!mcp_text_is(question->method, "elicitation/create") ||
        cleat_json_check(json, question->params.bytes, NULL, &params, NULL) !=
            CLEAT_OK ||
        cleat_json_find(json, &params, "requestedSchema", &schema) !=
            CLEAT_OK) {
        return CLEAT_UNSUPPORTED;
    }
    put_text(&writer, "{\"action\":\"accept\",\"content\":");
    put_object(&writer, json, &schema);
    put_text(&writer, "}");
    *bytes = writer.bytes;
    return writer.full ? CLEAT_TOO_SMALL : CLEAT_OK;
}

/* ---- calls -------------------------------------------------------------- */

struct client {
    struct mcp_host host;
    const struct cleat_tool_sources *sources;
    const struct cleat_tools *tools;
    struct mcp_host_request *calls[MCP_HOST_REQUESTS_MAX];
    uint32_t calls_count;
    char text[TEXT_BYTES_MAX]; /* of all arguments; they live as long as this */
    struct writer writer;
};

static struct client client;

static bool begin_call(const struct cleat_tool *tool,
                       struct cleat_text arguments)
{
    struct mcp_host_request *call = mcp_host_call(&client.host, client.sources,
                                                  0, tool, arguments);

    if (call == NULL) { return false; }
    client.calls[client.calls_count++] = call;
    return true;
}

static struct cleat_text written_since(size_t start)
{
    struct cleat_text text = {client.text + start, client.writer.bytes - start};

    return text;
}

/* Sends the schema of the first tool back to the second, as it came. */
static bool call_echo(void)
{
    struct cleat_tool focal, echo;
    size_t start = client.writer.bytes;
    char *found;

    if (cleat_tools_count(client.tools) != 2) { return false; }
    cleat_tools_at(client.tools, 0, &focal);
    cleat_tools_at(client.tools, 1, &echo);
    put_text(&client.writer, "{\"schema\":");
    put(&client.writer, focal.input_schema.text, focal.input_schema.bytes);
    put_text(&client.writer, "}");
    found = memmem(client.text + start, client.writer.bytes - start, "$defs",
                   5);
    if (is_broken("schema") && found != NULL) { found[1] = 'D'; }
    return begin_call(&echo, written_since(start));
}

/* What the context says, in its order. */
static bool call_told(const char *json, const struct cleat_json_value *told)
{
    struct cleat_json_cursor cursor;
    struct cleat_json_value item, name, arguments;

    cleat_json_open(json, told, &cursor);
    while (cleat_json_next_item(json, &cursor, &item)) {
        char wanted[256];
        size_t bytes;
        uint32_t number;
        struct cleat_tool tool;

        if (cleat_json_find(json, &item, "name", &name) != CLEAT_OK ||
            cleat_json_find(json, &item, "arguments", &arguments) != CLEAT_OK ||
            cleat_json_string(json, &name, 0, wanted, sizeof wanted, &bytes,
                              NULL) != CLEAT_OK ||
            cleat_tools_find(client.tools, wanted, bytes, &number) !=
                CLEAT_OK) {
            fprintf(stderr, "the context's tools are not those of the list\n");
            return false;
        }
        cleat_tools_at(client.tools, number, &tool);
        if (!begin_call(&tool, (struct cleat_text){json + arguments.offset,
                                                   arguments.bytes})) {
            return false;
        }
    }
    return true;
}

/* Every tool, with arguments made from its schema. */
static bool call_all(void)
{
    for (uint32_t k = 0; k < cleat_tools_count(client.tools); k++) {
        size_t start = client.writer.bytes;
        struct cleat_json_value schema;
        struct cleat_tool tool;

        cleat_tools_at(client.tools, k, &tool);
        if (cleat_json_check(tool.input_schema.text, tool.input_schema.bytes,
                             NULL, &schema, NULL) != CLEAT_OK) {
            fprintf(stderr, "a schema that is no JSON\n");
            return false;
        }
        put_object(&client.writer, tool.input_schema.text, &schema);
        if (!begin_call(&tool, written_since(start))) { return false; }
    }
    return true;
}

/* A list is not to be believed beyond what it holds: the bug of a client that
 * calls tools which were kept out of it. */
static bool call_hidden(void)
{
    struct cleat_tool tool = {
        .wire_name = {"invalid_empty_header", strlen("invalid_empty_header")},
        .input_schema = {"{}", 2},
    };

    return begin_call(&tool, (struct cleat_text){"{\"value\":\"x\"}", 13});
}

static bool call(void)
{
    const char *context = environment("MCP_CONFORMANCE_CONTEXT");
    struct cleat_json_value root, told;
    bool good = true;

    client.writer = (struct writer){client.text, 0, sizeof client.text, false};
    if (scenario_is("json-schema-ref-no-deref") || is_broken("nothing")) {
        return true; /* its server has a list, and nothing behind it */
    }
    if (scenario_is("json-schema-2020-12-preservation")) {
        good = call_echo();
    } else if (cleat_json_check(context, strlen(context), NULL, &root, NULL) ==
                   CLEAT_OK &&
               cleat_json_find(context, &root, "toolCalls", &told) ==
                   CLEAT_OK) {
        good = call_told(context, &told);
    } else {
        good = call_all();
    }
    if (is_broken("hidden") && scenario_is("http-invalid-tool-headers")) {
        good = call_hidden() && good;
    }
    for (uint32_t k = 0; k < client.calls_count; k++) {
        good = mcp_host_await(&client.host, client.calls[k]) && good;
        if (client.calls[k]->done.is_error) {
            fprintf(stderr, "call %u: the tool failed\n", k);
            good = false;
        }
    }
    return good && !client.writer.full;
}

/* ---- from a URL to a list ----------------------------------------------- */

static bool read_config(const char *url)
{
    char path[] = "/tmp/cleat-test-XXXXXX";
    struct mcp_host_request *config;
    int fd = mkstemp(path);
    bool good;

    if (fd < 0 ||
        dprintf(fd, "{\"mcpServers\":{\"conformance\":{\"url\":\"%s\"}}}",
                url) < 0) {
        perror(path);
        return false;
    }
    config = mcp_host_config(&client.host, path);
    good = mcp_host_await(&client.host, config);
    close(fd);
    unlink(path);
    if (!good) { return false; }
    client.sources = config->block;
    if (client.sources->count != 1) {
        fprintf(stderr, "%u sources\n", client.sources->count);
        return false;
    }
    return true;
}

static bool list(void)
{
    struct mcp_host_request *request;
    struct cleat_error error = {0};

    /* The server's questions come on a channel that is kept open. */
    if (scenario_is("elicitation-sep1034-client-defaults") &&
        client.host.loader.watch(
            client.host.loader.context, client.sources->sources[0].key,
            cleat_tool_source_definition(client.sources, 0),
            true) != CLEAT_OK) {
        fprintf(stderr, "watch was refused\n");
        return false;
    }
    request = mcp_host_list(&client.host, client.sources, 0);
    if (!mcp_host_await(&client.host, request)) { return false; }
    if (cleat_tools_check(request->block, (size_t)request->done.bytes,
                          &client.tools, &error) != CLEAT_OK) {
        fprintf(stderr, "the list: %s\n", error.text);
        return false;
    }
    return true;
}

static void tell_end(bool good)
{
    FILE *file = fopen(environment("CLEAT_TEST_ENDED"), "a");

    if (file == NULL) { return; }
    /* One write: others add their lines at the same time. */
    fprintf(file, "%s %s\n", environment("MCP_CONFORMANCE_SCENARIO"),
            good ? "worked" : "failed");
    fclose(file);
}

int main(int argc, char **argv)
{
    const char *version = environment("MCP_CONFORMANCE_PROTOCOL_VERSION");
    struct cleat_mcp_config config = {
        .client_name = "cleat-conformance",
        .answer = answer,
        .era = strcmp(version, "2026-07-28") >= 0 ? CLEAT_MCP_ERA_MODERN
                                                  : CLEAT_MCP_ERA_LEGACY,
    };
    bool good;

    if (argc != 2) {
        fprintf(stderr, "usage: mcp_conformance_client URL\n");
        return 2;
    }
    if (version[0] == '\0' || getenv("CLEAT_TEST_ERA_AUTO") != NULL) {
        config.era = CLEAT_MCP_ERA_AUTO;
    }
    if (!mcp_host_open(&client.host, &config, 20 * CLEAT_NS_PER_S)) {
        return 1;
    }
    good = read_config(argv[1]) && list() && call();
    mcp_host_close(&client.host);
    tell_end(good);
    return good ? 0 : 1;
}
