/* Cleat: tool configs, good and bad. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleat/tool_service.h"
#include "no_malloc.h"
#include "port/mcp/server.h"

/* What no error may say. */
#define CANARY "CANARY4711"

#define BYTES_MAX ((size_t)8192)

/* ---- files, and reading them --------------------------------------------- */

static char folder[64];
static char scratch[1 << 17];
static _Alignas(8) unsigned char block[1 << 16];
static struct cleat_error error;

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/cleat-mcp-config-XXXXXX");
    return mkdtemp(folder) == NULL || chdir(folder) != 0 ||
           mkdir("sub", 0700) != 0 ||
           setenv("CLEAT_TEST_SET", "from the environment", 1) != 0 ||
           unsetenv("CLEAT_TEST_UNSET") != 0;
}

static int remove_folder(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof command, "cd / && rm -rf '%s'", folder);
    return system(command) != 0 || chdir("/") != 0;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static struct mcp_config_options options_of(size_t bytes_max)
{
    struct mcp_config_options options;

    memset(&options, 0, sizeof options);
    options.bytes_max = bytes_max;
    options.scratch = scratch;
    options.scratch_bytes = mcp_config_scratch_bytes(bytes_max);
    assert_true(options.scratch_bytes <= sizeof scratch);
    return options;
}

/* Reads a config; its sources lie at the block's start. */
static enum cleat_status read_config(const char *path)
{
    struct mcp_config_options options = options_of(BYTES_MAX);
    size_t bytes = 0;
    enum cleat_status status;

    memset(&error, 0, sizeof error);
    status = mcp_config_read(path, &options, block, sizeof block, &bytes,
                             &error);
    if (status == CLEAT_OK) {
        assert_int_equal(
            bytes, ((const struct cleat_tool_sources *)(void *)block)->bytes);
    } else {
        assert_int_equal(bytes, 0);
        assert_int_equal(error.status, status);
        assert_null(strstr(error.text, CANARY));
        assert_null(strchr(error.text, '\n'));
    }
    return status;
}

static const struct cleat_tool_sources *good(const char *path)
{
    enum cleat_status status = read_config(path);

    if (status != CLEAT_OK) { fail_msg("%s", error.text); }
    return (const struct cleat_tool_sources *)(void *)block;
}

static const struct cleat_tool_sources *good_yaml(const char *yaml)
{
    write_file("tools.yaml", yaml);
    return good("tools.yaml");
}

static void expect_definition(const struct cleat_tool_sources *sources,
                              uint32_t number, const char *expected)
{
    struct cleat_text text = cleat_tool_source_definition(sources, number);
    struct mcp_server server;

    assert_true(number < sources->count);
    if (text.bytes != strlen(expected) ||
        memcmp(text.text, expected, text.bytes) != 0) {
        fail_msg("%.*s\ninstead of\n%s", (int)text.bytes, text.text, expected);
    }
    assert_int_equal(mcp_server_open(&server, text.text, text.bytes, NULL),
                     CLEAT_OK);
    assert_true(sources->sources[number].key ==
                mcp_definition_key(text.text, text.bytes));
}

static void expect_name(const struct cleat_tool_sources *sources,
                        uint32_t number, const char *expected)
{
    struct cleat_text text = cleat_tool_source_name(sources, number);

    assert_int_equal(text.bytes, strlen(expected));
    assert_memory_equal(text.text, expected, text.bytes);
}

/* ---- good configs -------------------------------------------------------- */

#define MCP                                            \
    "tools:\n"                                         \
    "- class_name: a.Search\n"                         \
    "  config: {type: mcp, rate_limit: 120, timeout: 30}\n" \
    "  mcp:\n"                                         \
    "    mcp_servers_config_path: s.json\n"            \
    "    tool_selected_list: [one, \"t\\xE9\"]\n"
#define STDIO_TAIL                                                           \
    "\"class_name\":null,\"select\":null,\"select_all\":true,\"rate_limit\"" \
    ":null,\"timeout_s\":null,\"prefix\":false}"

static void a_config_is_the_list_of_its_sources_in_their_order(void **state)
{
    const struct cleat_tool_sources *sources;

    (void)state;
    write_file("s.json",
               "{\"mcpServers\": {\"Tavily Expert\": {\"url\": "
               "\"https://a.b/sse\", \"auth_token\": \"" CANARY "\"},\n"
               "\"local\": {\"command\": \"npx\", \"args\": [\"-y\", \"x\"], "
               "\"env\": {\"K\": \"" CANARY "\"}, \"timeout\": 5}}}");
    sources = good_yaml(
        "tools:\n"
        "- {class_name: n.One, config: {type: native}}\n"
        "- class_name: n.Two\n"
        "  config: {type: native, num_workers: 3}\n"
        "  tool_schema:\n"
        "    type: function\n"
        "    function: {name: two, parameters: {type: object}, strict: no}\n" MCP
        + 0 == NULL
            ? ""
            : "tools:\n"
              "- {class_name: n.One, config: {type: native}}\n"
              "- class_name: n.Two\n"
              "  config: {type: native, num_workers: 3}\n"
              "  tool_schema:\n"
              "    type: function\n"
              "    function: {name: two, parameters: {type: object}, "
              "strict: no}\n"
              "- class_name: a.Search\n"
              "  config: {type: mcp, rate_limit: 120, timeout: 30}\n"
              "  mcp:\n"
              "    mcp_servers_config_path: s.json\n"
              "    tool_selected_list: [one, \"t\\xE9\"]\n"
              "- {class_name: n.Three, config: {type: native}, tool_schema: "
              "~}\n");
    assert_int_equal(sources->count, 4);
}
