/* Cleat: tool configs, good and bad. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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
static _Alignas(8) char scratch[1 << 17];
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
        if (strstr(error.text, CANARY) != NULL) { fail_msg("%s", error.text); }
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

/* An mcp entry that names s.json. */
#define MCP                                                 \
    "- class_name: a.Search\n"                              \
    "  config: {type: mcp, rate_limit: 120, timeout: 30}\n" \
    "  mcp:\n"                                              \
    "    mcp_servers_config_path: s.json\n"                 \
    "    tool_selected_list: [one, \"t\\xE9\"]\n"
#define NATIVE(name) "- {class_name: n." name ", config: {type: native}}\n"

/* What follows a server's own members where nothing else is said. */
#define TAIL                                                                 \
    "\"class_name\":null,\"select\":null,\"select_all\":true,\"rate_limit\"" \
    ":null,\"timeout_s\":null,\"prefix\":false}"

static void a_config_is_the_list_of_its_sources_in_their_order(void **state)
{
    static const char tail[] =
        "\"class_name\":\"a.Search\",\"select\":[\"one\",\"t\xC3\xA9\"],"
        "\"select_all\":false,\"rate_limit\":\"120\",\"timeout_s\":\"30\","
        "\"prefix\":false}";
    const struct cleat_tool_sources *sources;
    char expected[512];

    (void)state;
    write_file("s.json",
               "{\"mcpServers\": {\"Tavily Expert\": {\"url\": "
               "\"https://a.b/sse\", \"auth_token\": \"secret\"},\n"
               "\"local\": {\"command\": \"npx\", \"args\": [\"-y\", \"x\"], "
               "\"env\": {\"K\": \"secret\"}, \"timeout\": 5}}}");
    sources = good_yaml("tools:\n" NATIVE(
        "One") "- class_name: n.Two\n"
               "  config: {type: native, num_workers: 3}\n"
               "  tool_schema:\n"
               "    type: function\n"
               "    function: {name: two, strict: no}\n" MCP NATIVE("Three"));
    assert_int_equal(sources->count, 4);
    expect_name(sources, 0, "native");
    assert_int_equal(sources->sources[0].kind, CLEAT_TOOLS_NATIVE);
    expect_definition(
        sources, 0,
        "{\"native\":[{\"class_name\":\"n.One\",\"tool_schema\":null},"
        "{\"class_name\":\"n.Two\",\"tool_schema\":{\"type\":\"function\","
        "\"function\":{\"name\":\"two\",\"strict\":false}}}]}");
    expect_name(sources, 1, "Tavily Expert");
    assert_int_equal(sources->sources[1].kind, CLEAT_TOOLS_MCP);
    snprintf(expected, sizeof expected,
             "{\"server\":\"Tavily Expert\",\"url\":\"https://a.b/sse\","
             "\"transport\":\"sse\",\"headers\":{},\"token\":\"secret\",%s",
             tail);
    expect_definition(sources, 1, expected);
    expect_name(sources, 2, "local");
    snprintf(expected, sizeof expected,
             "{\"server\":\"local\",\"command\":\"npx\",\"args\":[\"-y\","
             "\"x\"],\"env\":{\"K\":\"secret\"},\"cwd\":null,%s",
             tail);
    expect_definition(sources, 2, expected);
    expect_definition(
        sources, 3,
        "{\"native\":[{\"class_name\":\"n.Three\",\"tool_schema\":null}]}");
}

static void a_file_of_servers_is_a_config_too(void **state)
{
    static const char *const texts[] = {
        "{\"mcpServers\":{\"a\":{\"command\":\"c\"}}}",
        " \n{\"servers\":{\"a\":{\"command\":\"c\"}},\"inputs\":[]}",
        "{\"a\":{\"command\":\"c\",\"args\":null,\"env\":null,\"url\":null}}",
        ("{\"mcpServers\":{\"a\":{\"type\":\"stdio\",\"command\":\"c\"},"
         "\"off\":{\"command\":\"x\",\"disabled\":true}}}")};

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const struct cleat_tool_sources *sources;

        write_file("s.json", texts[i]);
        sources = good("s.json");
        assert_int_equal(sources->count, 1);
        expect_name(sources, 0, "a");
        expect_definition(sources, 0,
                          "{\"server\":\"a\",\"command\":\"c\",\"args\":[],"
                          "\"env\":{},\"cwd\":null," TAIL);
    }
}

static void a_config_that_says_nothing_has_no_sources(void **state)
{
    static const char *const texts[] = {
        "",
        " \n\n",
        "# nothing\n",
        "null\n",
        "---\n",
        "tools:\n",
        "tools: []\n",
        "tools: null\nother: 1\n",
        "{}",
        " { } \n",
        "{\"mcpServers\":{}}",
        "{\"mcpServers\":{\"a\":{\"command\":\"c\",\"disabled\":true}}}"};

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(good_yaml(texts[i])->count, 0);
    }
}

static void every_form_of_no_selection_means_all_tools(void **state)
{
    static const char *const forms[] = {
        "", "tool_selected_list:", "tool_selected_list: null",
        "tool_selected_list: []", "tool_selected_list: {}"};

    (void)state;
    write_file("s.json", "{\"a\":{\"command\":\"c\"}}");
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char yaml[256];

        snprintf(yaml, sizeof yaml,
                 "tools:\n- class_name: a\n  config: {type: mcp}\n  mcp:\n"
                 "    mcp_servers_config_path: s.json\n    %s\n",
                 forms[i]);
        expect_definition(
            good_yaml(yaml), 0,
            "{\"server\":\"a\",\"command\":\"c\",\"args\":[],\"env\":{},"
            "\"cwd\":null,\"class_name\":\"a\",\"select\":null,"
            "\"select_all\":true,\"rate_limit\":null,\"timeout_s\":null,"
            "\"prefix\":false}");
    }
}

static void rates_and_time_outs_may_be_fractions_and_texts(void **state)
{
    static const struct {
        const char *config;
        uint64_t rate_micro;
        uint64_t timeout_ns;
    } rows[] = {{"rate_limit: 0.5, timeout: 1.5", 500000, 1500000000},
                {"rate_limit: 1e1, timeout: 120", 10000000, 120000000000},
                {"rate_limit: \"2\", timeout: \"${oc.env:CLEAT_TEST_UNSET,7}\"",
                 2000000, 7000000000},
                {"rate_limit: 017, timeout: ~", 15000000, CLEAT_NONE}};

    (void)state;
    write_file("s.json", "{\"a\":{\"command\":\"c\"}}");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char yaml[256];
        struct cleat_text text;
        struct mcp_server server;

        snprintf(yaml, sizeof yaml,
                 "tools:\n- class_name: a\n  config: {type: mcp, %s}\n"
                 "  mcp: {mcp_servers_config_path: s.json}\n",
                 rows[i].config);
        text = cleat_tool_source_definition(good_yaml(yaml), 0);
        assert_int_equal(mcp_server_open(&server, text.text, text.bytes, NULL),
                         CLEAT_OK);
        assert_true(server.has_rate);
        assert_true(server.rate_micro == rows[i].rate_micro);
        assert_true(server.timeout_ns == rows[i].timeout_ns);
    }
}

static void variables_are_put_in_their_places(void **state)
{
    (void)state;
    expect_definition(
        good_yaml("tools:\n"
                  "- class_name: ${oc.env:CLEAT_TEST_UNSET,a.B}\n"
                  "  config: {type: native}\n"
                  "  tool_schema:\n"
                  "    function:\n"
                  "      name: x\n"
                  "      description: It is ${oc.env:CLEAT_TEST_SET}.\n"),
        0,
        "{\"native\":[{\"class_name\":\"a.B\",\"tool_schema\":{\"function\":"
        "{\"name\":\"x\",\"description\":\"It is from the environment.\"}}}]}");
}

static void transports_are_told_or_follow_from_the_url(void **state)
{
    static const struct {
        const char *members;
        const char *expected;
    } rows[] = {
        {"\"url\":\"http://h\"", "http"},
        {"\"url\":\"http://h/mcp\"", "http"},
        {"\"url\":\"http://h/sse\"", "sse"},
        {"\"url\":\"https://h:8443/a/sse/?x=1\"", "sse"},
        {"\"url\":\"http://h/sse?x=/mcp\"", "sse"},
        {"\"url\":\"http://h/x?y=/sse\"", "http"},
        {"\"url\":\"http://sse\"", "http"},
        {"\"url\":\"http://h/nosse\"", "http"},
        {"\"url\":\"http://h/mcp\",\"auth_token\":\"t\"", "http"},
        {"\"url\":\"http://h/sse\",\"transport\":\"http\"", "http"},
        {"\"url\":\"http://h/x\",\"type\":\"sse\"", "sse"},
        {"\"url\":\"http://h/sse\",\"type\":\"streamable-http\"", "http"},
        {"\"url\":\"HTTP://[::1]:80/sse\",\"type\":\"streamableHttp\"",
         "http"}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[256];
        struct cleat_text definition;
        struct mcp_server server;

        snprintf(text, sizeof text, "{\"a\":{%s}}", rows[i].members);
        write_file("s.json", text);
        definition = cleat_tool_source_definition(good("s.json"), 0);
        assert_int_equal(
            mcp_server_open(&server, definition.text, definition.bytes, NULL),
            CLEAT_OK);
        assert_true(server.is_http);
        if (server.is_sse != (strcmp(rows[i].expected, "sse") == 0)) {
            fail_msg("%s", text);
        }
    }
}

static void sources_that_are_alike_have_one_definition(void **state)
{
    char first[512];
    const struct cleat_tool_sources *sources;
    struct cleat_text text;

    (void)state;
    write_file("s.json", "{\"a\":{\"url\":\"http://h/\",\"headers\":{\"X-A\":"
                         "\"\\u0041/\"},\"auth_token\":null}}");
    sources = good("s.json");
    text = cleat_tool_source_definition(sources, 0);
    snprintf(first, sizeof first, "%.*s", (int)text.bytes, text.text);
    assert_non_null(strstr(first, "\"X-A\":\"A/\""));
    write_file("s.json", "{ \"mcpServers\" : { \"\\u0061\" : { \"headers\" : {"
                         "\"X-A\": \"A\\/\"}, \"type\":\"http\",\n"
                         "\"description\":\"else\",\"url\":\"http://h/\"}}}");
    expect_definition(good("s.json"), 0, first);
}

/* ---- paths --------------------------------------------------------------- */

static void
a_relative_path_is_beside_its_file_or_in_the_working_directory(void **state)
{
    (void)state;
    write_file("s.json", "{\"working directory\":{\"command\":\"c\"}}");
    write_file("sub/t.yaml", "tools:\n" MCP);
    expect_name(good("sub/t.yaml"), 0, "working directory");
    write_file("sub/s.json", "{\"beside\":{\"command\":\"c\"}}");
    expect_name(good("sub/t.yaml"), 0, "beside");
    expect_name(good("./sub/t.yaml"), 0, "beside");
    unlink("sub/s.json");
    unlink("s.json");
    assert_int_equal(read_config("sub/t.yaml"), CLEAT_NOT_FOUND);
    assert_string_equal(error.text,
                        "sub/t.yaml:5:30: no file sub/s.json nor s.json");
    write_file("t.yaml", "tools:\n" MCP);
    assert_int_equal(read_config("t.yaml"), CLEAT_NOT_FOUND);
    assert_string_equal(error.text, "t.yaml:5:30: there is no file s.json");
}

static void an_absolute_path_is_looked_for_nowhere_else(void **state)
{
    char yaml[512];

    (void)state;
    snprintf(yaml, sizeof yaml,
             "tools:\n- class_name: a\n  config: {type: mcp}\n"
             "  mcp: {mcp_servers_config_path: %s/s.json}\n",
             folder);
    write_file("s.json", "{\"absolute\":{\"command\":\"c\"}}");
    write_file("sub/t.yaml", yaml);
    expect_name(good("sub/t.yaml"), 0, "absolute");
    unlink("s.json");
    assert_int_equal(read_config("sub/t.yaml"), CLEAT_NOT_FOUND);
    snprintf(yaml, sizeof yaml, "sub/t.yaml:4:34: there is no file %s/s.json",
             folder);
    assert_string_equal(error.text, yaml);
}

static void a_relative_cwd_becomes_absolute(void **state)
{
    char expected[512];

    (void)state;
    snprintf(expected, sizeof expected,
             "{\"server\":\"a\",\"command\":\"c\",\"args\":[],\"env\":{},"
             "\"cwd\":\"%s/sub\"," TAIL,
             folder);
    write_file("s.json", "{\"a\":{\"command\":\"c\",\"cwd\":\"sub\"}}");
    expect_definition(good("s.json"), 0, expected);
    write_file("s.json", "{\"a\":{\"command\":\"c\",\"cwd\":\"./sub\"}}");
    expect_definition(good("./s.json"), 0, expected);
    write_file("sub/s.json", "{\"a\":{\"command\":\"c\",\"cwd\":\"sub\"}}");
    expect_definition(good("sub/s.json"), 0, expected);
    write_file("sub/s.json", "{\"a\":{\"command\":\"c\",\"cwd\":\"no\"}}");
    assert_int_equal(read_config("sub/s.json"), CLEAT_NOT_FOUND);
    assert_string_equal(
        error.text,
        "sub/s.json:1:27: server 'a': cwd: no folder sub/no nor no");
    unlink("sub/s.json");
}

static void an_absolute_cwd_stays_as_it_is(void **state)
{
    (void)state;
    write_file("s.json", "{\"a\":{\"command\":\"c\",\"cwd\":\"/none/x\"}}");
    assert_int_equal(read_config("s.json"), CLEAT_NOT_FOUND);
    write_file("s.json", "{\"a\":{\"command\":\"c\",\"cwd\":\"/tmp\"}}");
    expect_definition(good("s.json"), 0,
                      "{\"server\":\"a\",\"command\":\"c\",\"args\":[],\"env\":"
                      "{},\"cwd\":\"/tmp\"," TAIL);
}

static void a_path_that_is_too_long_is_refused(void **state)
{
    char text[6000] = "{\"a\":{\"command\":\"c\",\"cwd\":\"sub";

    (void)state;
    /* Long enough that the working directory does not fit before it. */
    for (unsigned i = 0; i < 581; i++) { strcat(text, "/../sub"); }
    strcat(text, "\"}}");
    write_file("s.json", text);
    assert_int_equal(read_config("s.json"), CLEAT_LIMIT);
    assert_non_null(strstr(error.text, "cwd: a path that is too long"));
    text[strlen(text) - 3] = '\0';
    for (unsigned i = 0; i < 10; i++) { strcat(text, "/../sub"); }
    strcat(text, "\"}}");
    write_file("s.json", text);
    assert_int_equal(read_config("s.json"), CLEAT_LIMIT);
    snprintf(text, sizeof text,
             "tools:\n- class_name: a\n  config: {type: mcp}\n"
             "  mcp:\n    mcp_servers_config_path: ");
    for (unsigned i = 0; i < 1024; i++) { strcat(text, "abc/"); }
    write_file("t.yaml", text);
    assert_int_equal(read_config("t.yaml"), CLEAT_LIMIT);
}

static char opened[256];

static void note_opening(void *context, const char *path)
{
    assert_ptr_equal(context, opened);
    snprintf(opened + strlen(opened), sizeof opened - strlen(opened), "%s;",
             path);
}

static void each_file_is_told_before_it_is_opened(void **state)
{
    struct mcp_config_options options = options_of(BYTES_MAX);
    size_t bytes;

    (void)state;
    options.opening = note_opening;
    options.opening_context = opened;
    opened[0] = '\0';
    write_file("sub/t.yaml", "tools:\n" MCP);
    write_file("s.json", "{\"a\":{\"command\":\"c\"}}");
    assert_int_equal(mcp_config_read("sub/t.yaml", &options, block,
                                     sizeof block, &bytes, NULL),
                     CLEAT_OK);
    assert_string_equal(opened, "sub/t.yaml;sub/s.json;s.json;");
}

/* ---- bad configs --------------------------------------------------------- */

struct bad {
    const char *text;
    enum cleat_status status;
    const char *line; /* of the error, without the file's name */
};

static void check_bad(const char *path, const struct bad *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char expected[256];
        enum cleat_status status;

        write_file(path, rows[i].text);
        status = read_config(path);
        snprintf(expected, sizeof expected, "%s:%s", path, rows[i].line);
        if (status != rows[i].status || strcmp(error.text, expected) != 0) {
            fail_msg("%s\nsays %s: %s\ninstead of %s: %s", rows[i].text,
                     cleat_status_name(status), error.text,
                     cleat_status_name(rows[i].status), expected);
        }
    }
}

static void a_file_that_cannot_be_read_is_named(void **state)
{
    struct mcp_config_options options = options_of(64);
    size_t bytes;

    (void)state;
    assert_int_equal(read_config("none.yaml"), CLEAT_NOT_FOUND);
    assert_string_equal(error.text, "none.yaml: No such file or directory");
    options.bytes_max = BYTES_MAX;
    options.scratch_bytes = sizeof scratch;
    assert_int_equal(mcp_config_read("none.yaml", &options, block, sizeof block,
                                     &bytes, NULL),
                     CLEAT_NOT_FOUND);
    options = options_of(64);
    assert_int_equal(read_config("sub"), CLEAT_UNSUPPORTED);
    assert_string_equal(error.text, "sub: not a regular file");
    assert_int_equal(mkfifo("fifo", 0600), 0);
    assert_int_equal(read_config("fifo"), CLEAT_UNSUPPORTED);
    write_file("long.yaml", "# 3456789 123456789 123456789 123456789 "
                            "123456789 123456789 12345");
    assert_int_equal(mcp_config_read("long.yaml", &options, block, sizeof block,
                                     &bytes, &error),
                     CLEAT_LIMIT);
    assert_string_equal(error.text,
                        "long.yaml: more than 64 bytes (config_bytes_max)");
    write_file("long.yaml", "# 3456789 123456789 123456789 123456789 "
                            "123456789 123456789 1234");
    assert_int_equal(mcp_config_read("long.yaml", &options, block, sizeof block,
                                     &bytes, &error),
                     CLEAT_OK);
    options.scratch_bytes--;
    assert_int_equal(mcp_config_read("long.yaml", &options, block, sizeof block,
                                     &bytes, &error),
                     CLEAT_INVALID);
}

static void yaml_that_is_none_is_refused_by_line_and_column(void **state)
{
    static const struct bad rows[] = {
        {"tools: [\n", CLEAT_MALFORMED,
         "2:1: flow sequence without a closing bracket"},
        {"tools:\n  - a: \"" CANARY "\n", CLEAT_MALFORMED,
         "2:9: double-quoted scalar without closing quote"},
        {"tools:\n- a: \"\\q\"\n", CLEAT_MALFORMED, "2:7: invalid escape ..."},
        {"a: \x01", CLEAT_MALFORMED,
         "1:4: a character that YAML does not allow; expected an escape in "
         "double quotes"},
        {"a: \xC3", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \x80", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \xC0\x80", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \xC1\xBF", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \xE0\x80\x80", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \xE0\x9F\xBF", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \xED\xA0\x80", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \xF0\x8F\xBF\xBF", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \xF4\x90\x80\x80", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \xF5\x80\x80\x80", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \xE2\x80", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"a: \xC3(", CLEAT_MALFORMED, "1:4: not UTF-8"},
        {"just text\n", CLEAT_MALFORMED,
         "1:1: a value alone; expected a mapping"},
        {"a: 1\nb: 2\n\xC3\xA9: 1\na: 3\n", CLEAT_EXISTS,
         "4:1: a key that its mapping has already"},
        {"x: {\xC3\xA9: 1, k: 1, k: 2}\n", CLEAT_EXISTS,
         "1:17: a key that its mapping has already"},
        {"a: 1\n---\nb: 1\n", CLEAT_UNSUPPORTED, "2:1: a second document"},
        {"a: !thing x\n", CLEAT_UNSUPPORTED,
         "1:4: an unknown tag; expected !!str, !!int, !!float, !!bool, !!null, "
         "!!map or !!seq"},
        {"a: &x 1\n? b\n: 2\n", CLEAT_UNSUPPORTED,
         "2:1: a key with '?', which is not supported"},
        {"a: &x {k: 1}\nb:\n  <<: *x\n", CLEAT_UNSUPPORTED,
         "3:3: a merge key (<<) or '=', which is not supported"},
        {"a: *x\n", CLEAT_MALFORMED, "1:5: an alias of no anchor above"},
        {"a: &x [*x]\n", CLEAT_UNSUPPORTED,
         "1:9: an alias inside of what it names"},
        {"yes: 1\n", CLEAT_UNSUPPORTED,
         "1:1: a key that is read as a number, a boolean, null or more; "
         "expected text: quote it"},
        {"a: .inf\n", CLEAT_UNSUPPORTED,
         "1:4: an infinite number, or none, which JSON cannot say"},
        {"a:\tb\n", CLEAT_UNSUPPORTED, "1:3: a tab; expected spaces"},
        {"a: 1\nb: x ${tools}\n", CLEAT_UNSUPPORTED,
         "2:4: an interpolation that is not supported; expected "
         "${oc.env:NAME} or ${oc.env:NAME,default}"},
        {"a: ${oc.decode:" CANARY "}\n", CLEAT_UNSUPPORTED,
         "1:4: an interpolation that is not supported; expected "
         "${oc.env:NAME} or ${oc.env:NAME,default}"},
        {"a:\n  b: \"${oc.env:CLEAT_TEST_UNSET}\"\n", CLEAT_NOT_FOUND,
         "2:7: the environment variable CLEAT_TEST_UNSET is not set; expected "
         "it, or a default"}};

    (void)state;
    check_bad("t.yaml", rows, sizeof rows / sizeof *rows);
}

/* What libfyaml reads, but OmegaConf does not, or may read otherwise. */
static void yaml_that_could_mean_two_things_is_refused(void **state)
{
    static const struct bad rows[] = {
        {"a: !!seq {b: 1}\n", CLEAT_UNSUPPORTED,
         "1:10: a tag that does not fit"},
        {"a: !!set {x}\n", CLEAT_UNSUPPORTED, "1:10: a tag that does not fit"},
        {"a: !!int x\n", CLEAT_UNSUPPORTED,
         "1:10: a value that is not supported here; quote it"},
        {"a: =\n", CLEAT_UNSUPPORTED,
         "1:4: a value that is not supported here; quote it"},
        {"a: &x 1\nb: &x 2\n", CLEAT_EXISTS,
         "2:5: an anchor of that name is there already"},
        {"a: &x: 1\n", CLEAT_UNSUPPORTED,
         "1:4: the name of an anchor; expected letters, digits, - and _"},
        {"&a k: 1\n", CLEAT_UNSUPPORTED,
         "1:2: an anchor at a key, which is not supported"},
        {"a: &a x\n*a : 1\n", CLEAT_UNSUPPORTED,
         "2:2: an alias as a key, which is not supported"},
        {"a: |2\n  x\n", CLEAT_UNSUPPORTED,
         "1:5: an indentation indicator, which is not supported; expected "
         "'|', '>', with '-' or '+'"},
        {"a:\n  - >-\n  x\n", CLEAT_UNSUPPORTED,
         "3:3: not indented; expected more spaces before it"},
        {"- \n\"x\"\n", CLEAT_UNSUPPORTED,
         "2:1: not indented; expected more spaces before it"},
        {"--- [a]\n", CLEAT_UNSUPPORTED,
         "1:1: content on the line of '---'; expected it below"},
        {"%YAML 1.1\n---\na: 1\n", CLEAT_UNSUPPORTED,
         "1:1: a directive, which is not supported"},
        {"a: 1\n...\n", CLEAT_UNSUPPORTED,
         "2:1: '...', which is not supported"},
        {"k: {a\n  : 1}\n", CLEAT_UNSUPPORTED,
         "2:3: a ':' on another line than its key"},
        {"k: {\"a\n  b\": 1}\n", CLEAT_UNSUPPORTED,
         "1:6: a key on more than one line"},
        {"k: {[a]: 1}\n", CLEAT_UNSUPPORTED, "1:5: a key that is no text"},
        {"k: [a?b]\n", CLEAT_UNSUPPORTED,
         "1:6: a '?' in brackets; expected it in quotes"},
        {"k: [:a]\n", CLEAT_UNSUPPORTED,
         "1:5: a character that begins no plain text; expected quotes"},
        {"a: b\tc\n", CLEAT_UNSUPPORTED, "1:5: a tab; expected spaces"},
        {"a: \"\\ud83d\\ude00\"\n", CLEAT_UNSUPPORTED,
         "1:5: half a character; expected \\U and eight digits"},
        {"\"${x}\": 1\n", CLEAT_UNSUPPORTED, "1:2: an interpolation in a key"},
        {"a: \xC2\x85\n", CLEAT_MALFORMED,
         "1:4: a character that YAML does not allow; expected an escape in "
         "double quotes"},
        {"a: 1\rb: 2\n", CLEAT_MALFORMED,
         "1:5: a character that YAML does not allow; expected an escape in "
         "double quotes"},
        {"a: 1e999\n", CLEAT_UNSUPPORTED, "1:4: a number that is too large"},
        {"a: 0xfffffffffffffffff\n", CLEAT_UNSUPPORTED,
         "1:4: a number that is too long"},
        {"a: 18446744073709551615:1\n", CLEAT_UNSUPPORTED,
         "1:4: a number that is too long"},
        {"a: 0x_\n", CLEAT_UNSUPPORTED, "1:4: a number without digits"},
        {"a: 1:30.5\n", CLEAT_UNSUPPORTED,
         "1:4: a fraction in base 60, which is not supported: quote it"},
        {"a: ${oc.env:CLEAT_TEST_UNSET,1e3}\n", CLEAT_UNSUPPORTED,
         "1:4: a default that OmegaConf would write otherwise: quote it"},
        {"a: ${oc.env:CLEAT_TEST_UNSET,???}\n", CLEAT_UNSUPPORTED,
         "1:4: an interpolation that gives ?\?\?, which means missing"}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char json[256];
        char expected[256];
        size_t bytes;
        enum cleat_status status = mcp_yaml_to_json(
            "t", rows[i].text, strlen(rows[i].text), json, sizeof json, &bytes,
            &error);

        snprintf(expected, sizeof expected, "t:%s", rows[i].line);
        if (status != rows[i].status || strcmp(error.text, expected) != 0) {
            fail_msg("%s\nsays %s: %s", rows[i].text, cleat_status_name(status),
                     error.text);
        }
    }
}

/* By the rules of YAML for folding and chomping; libfyaml 0.7.12 itself reads
 * the last ones otherwise. */
static void scalars_of_several_lines_are_folded_and_chomped(void **state)
{
    static const struct {
        const char *text;
        const char *json;
    } rows[] = {
        {"a: b\n  c\n\n  d\n", "{\"a\":\"b c\\nd\"}"},
        {"a: 'b \n \n\n  c'' \n  '\n", "{\"a\":\"b\\n\\nc' \"}"},
        {"a: \"b\\\n  c\\n\\x41\\u00e9\\U0001F600 \\\n  \\ d\"\n",
         "{\"a\":\"bc\\nA\xC3\xA9\xF0\x9F\x98\x80  d\"}"},
        {"a: \"\\0\\a\\b\\e\\f\\r\\t\\v\\N\\_\\L\\P\\/\\\\\\\"\"\n",
         "{\"a\":\"\\u0000\\u0007\\b\\u001b\\f\\r\\t\\u000b\xC2\x85\xC2\xA0"
         "\xE2\x80\xA8\xE2\x80\xA9/\\\\\\\"\"}"},
        {"a: |\n  b\n   c\n\n  d\n\ne: f\n",
         "{\"a\":\"b\\n c\\n\\nd\\n\",\"e\":\"f\"}"},
        {"a: |-\n  b\n\n", "{\"a\":\"b\"}"},
        {"a: |+ # keep\n  b\n\n\n", "{\"a\":\"b\\n\\n\\n\"}"},
        {"a: >\n  b\n  c\n\n  d\n   e\n  f\n",
         "{\"a\":\"b c\\nd\\n e\\nf\\n\"}"},
        {"a: |\n\n  b", "{\"a\":\"\\nb\"}"},
        {"a: |\n  b\n ", "{\"a\":\"b\\n\"}"},
        {"a: |\n", "{\"a\":\"\"}"},
        {"- >\n   b\n\n    c\n   d\n", "[\"b\\n\\n c\\nd\\n\"]"},
        {"- \"b\r\n  \"\r\n- |\r\n  c\r\n", "[\"b \",\"c\\n\"]"},
        {"- \"\\ \n \n \"\n", "[\" \\n\"]"},
        {"- '\t# c'''' d\t'\n", "[\"\\t# c'' d\\t\"]"}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char json[256];
        size_t bytes = 0;
        enum cleat_status status = mcp_yaml_to_json(
            "t", rows[i].text, strlen(rows[i].text), json, sizeof json, &bytes,
            &error);

        if (status != CLEAT_OK || bytes != strlen(rows[i].json) ||
            memcmp(json, rows[i].json, bytes) != 0) {
            fail_msg("%s\nis %.*s%s", rows[i].text, (int)bytes, json,
                     status != CLEAT_OK ? error.text : "");
        }
    }
}

/* Reads `count` times `part`, between `head` and `tail`. */
static enum cleat_status repeat(const char *head, const char *part,
                                unsigned count, const char *tail)
{
    static char text[8192];
    static char json[16384];
    size_t bytes;

    strcpy(text, head);
    for (unsigned i = 0; i < count; i++) { strcat(text, part); }
    strcat(text, tail);
    return mcp_yaml_to_json("t", text, strlen(text), json, sizeof json, &bytes,
                            &error);
}

static enum cleat_status anchors(unsigned count)
{
    char text[2048] = "";

    for (unsigned i = 0; i < count; i++) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "- &a%u x\n",
                 i);
    }
    return repeat(text, "", 0, "");
}

static void keys_numbers_and_anchors_have_limits(void **state)
{
    (void)state;
    assert_int_equal(repeat("", "k", 1000, ": 1\n"), CLEAT_OK);
    assert_int_equal(repeat("", "k", 1001, ": 1\n"), CLEAT_LIMIT);
    assert_string_equal(error.text, "t:1:1: a key of more than 1000 bytes");
    assert_int_equal(repeat("a: ", "9", 512, "\n"), CLEAT_OK);
    assert_int_equal(repeat("a: ", "9", 513, "\n"), CLEAT_UNSUPPORTED);
    assert_int_equal(repeat("a: 0.", "9", 510, "\n"), CLEAT_OK);
    assert_int_equal(repeat("a: 0.", "9", 511, "\n"), CLEAT_UNSUPPORTED);
    assert_int_equal(anchors(64), CLEAT_OK);
    assert_int_equal(anchors(65), CLEAT_LIMIT);
    assert_string_equal(error.text, "t:65:4: more than 64 anchors");
}

static void a_config_that_is_none_is_refused_by_line_and_column(void **state)
{
    static const struct bad rows[] = {
        {"- a\n", CLEAT_MALFORMED, "1:1: expected a mapping with 'tools'"},
        {"tool: []\n", CLEAT_MALFORMED, "1:1: expected a mapping with 'tools'"},
        {"tools: {}\n", CLEAT_MALFORMED, "1:8: tools: expected a list"},
        {"tools:\n- " CANARY "\n", CLEAT_MALFORMED,
         "2:3: tools: expected a mapping with class_name and config"},
        {"tools:\n- config: {type: native}\n", CLEAT_MALFORMED,
         "2:3: class_name: expected the path of a class"},
        {"tools:\n- {class_name: 3, config: {type: native}}\n", CLEAT_MALFORMED,
         "2:3: class_name: expected the path of a class"},
        {"tools:\n- class_name: a\n", CLEAT_MALFORMED,
         "2:3: config: expected a mapping with a type"},
        {"tools:\n- class_name: a\n  config: {}\n", CLEAT_MALFORMED,
         "3:11: config.type: expected native or mcp"},
        {"tools:\n- class_name: a\n  config:\n    x: 1\n    type: " CANARY "\n",
         CLEAT_MALFORMED, "5:11: config.type: expected native or mcp"},
        {"tools:\n- class_name: a\n  config: {type: native}\n"
         "  tool_schema: text\n",
         CLEAT_MALFORMED,
         "4:16: tool_schema: expected a mapping with a function"},
        {"tools:\n- class_name: a\n  config: {type: native}\n"
         "  tool_schema: {function: {name: ''}}\n",
         CLEAT_MALFORMED, "4:27: tool_schema: function.name: expected a text"},
        {"tools:\n- class_name: a\n  config: {type: native}\n"
         "  tool_schema: {function: {name: a, description: 1}}\n",
         CLEAT_MALFORMED,
         "4:50: tool_schema: function.description: expected text"},
        {"tools:\n- class_name: a\n  config: {type: native}\n"
         "  tool_schema: {function: {name: a, parameters: 1}}\n",
         CLEAT_MALFORMED,
         "4:49: tool_schema: function.parameters: expected a mapping"},
        {"tools:\n"
         "- {class_name: a, config: &c {type: native},\n"
         "   tool_schema: &s {function: {name: twice}}}\n" NATIVE(
             "B") "- {class_name: c, config: *c, tool_schema: *s}\n",
         CLEAT_EXISTS, "5:45: tool_schema: the tool 'twice' is there already"},
        {"tools:\n- class_name: a\n  config: {type: mcp}\n", CLEAT_MALFORMED,
         "2:3: mcp: expected a mapping with mcp_servers_config_path"},
        {"tools:\n- class_name: a\n  config: {type: mcp}\n  mcp: {a: 1}\n",
         CLEAT_MALFORMED,
         "4:8: mcp.mcp_servers_config_path: expected the path of a JSON file"},
        {"tools:\n- class_name: a\n  config: {type: mcp, rate_limit: 0}\n"
         "  mcp: {mcp_servers_config_path: s.json}\n",
         CLEAT_MALFORMED,
         "3:35: config.rate_limit: expected a number above 0 (a second)"},
        {"tools:\n- class_name: a\n  config: {type: mcp, timeout: " CANARY
         "}\n  mcp: {mcp_servers_config_path: s.json}\n",
         CLEAT_MALFORMED,
         "3:32: config.timeout: expected a number above 0 (of seconds)"},
        {"tools:\n- class_name: a\n  config: {type: mcp, timeout: true}\n"
         "  mcp: {mcp_servers_config_path: s.json}\n",
         CLEAT_MALFORMED,
         "3:32: config.timeout: expected a number above 0 (of seconds)"},
        {"tools:\n- class_name: a\n  config: {type: mcp}\n"
         "  mcp: {mcp_servers_config_path: s.json, tool_selected_list: x}\n",
         CLEAT_MALFORMED,
         "4:62: mcp.tool_selected_list: expected a list of names"},
        {"tools:\n- class_name: a\n  config: {type: mcp}\n  mcp:\n"
         "    mcp_servers_config_path: s.json\n"
         "    tool_selected_list:\n    - one\n    - 2\n",
         CLEAT_MALFORMED,
         "8:7: mcp.tool_selected_list: expected a list of names"}};

    (void)state;
    check_bad("t.yaml", rows, sizeof rows / sizeof *rows);
}

static void servers_that_are_none_are_refused_by_line_and_column(void **state)
{
    static const struct bad rows[] = {
        {"{\"mcpServers\": \"" CANARY "\"}", CLEAT_MALFORMED,
         "1:16: mcpServers: expected an object of servers"},
        {"{\n \"a\": {\"command\": \"c\",}\n}", CLEAT_MALFORMED,
         "2:23: json: expected a key"},
        {"{\"a\": {\"command\": \"c\"}} x", CLEAT_MALFORMED,
         "1:25: json: bytes after the value"},
        {"{\"a\": \"" CANARY "\"}", CLEAT_MALFORMED,
         "1:7: server 'a': expected an object with a command or a url"},
        {"{\"a\": {\"command\": \"c\", \"url\": \"http://h\"}}",
         CLEAT_MALFORMED,
         "1:7: server 'a': both command and url; expected one"},
        {"{\"a\":\n {\"env\": {\"K\": \"" CANARY "\"}}}", CLEAT_MALFORMED,
         "2:2: server 'a': neither command nor url; expected one"},
        {"{\"mcpServers\":{\"a\":{\"command\":\"c\"},\n\"a\":{}}}",
         CLEAT_EXISTS, "2:1: the key 'a' is there already"},
        {"{\"mcpServers\":{},\"mcpServers\":{}}", CLEAT_EXISTS,
         "1:18: the key 'mcpServers' is there already"},
        {"{\"a\":{\"command\":\"c\",\"command\":\"d\"}}", CLEAT_EXISTS,
         "1:21: the key 'command' is there already"},
        {"{\"a\":{\"command\":\"c\",\"env\":{\"K\":\"" CANARY
         "\",\"K\":\"\"}}}",
         CLEAT_EXISTS, "1:45: the key 'K' is there already"},
        {"{\"\":{\"command\":\"c\"}}", CLEAT_MALFORMED,
         "1:2: a server's name; expected 1 to 128 bytes, none of them a "
         "control character"},
        {"{\"a\\u0007\":{\"command\":\"c\"}}", CLEAT_MALFORMED,
         "1:2: a server's name; expected 1 to 128 bytes, none of them a "
         "control character"},
        {"{\"a\":{\"command\":\"\"}}", CLEAT_MALFORMED,
         "1:17: server 'a': command: empty; expected a text"},
        {"{\"a\":{\"command\":[\"" CANARY "\"]}}", CLEAT_MALFORMED,
         "1:17: server 'a': command: expected a string"},
        {"{\"a\":{\"command\":\"c\\u0000" CANARY "\"}}", CLEAT_MALFORMED,
         "1:17: server 'a': command: a NUL or half a character"},
        {"{\"a\":{\"command\":\"${" CANARY "}\"}}", CLEAT_UNSUPPORTED,
         "1:17: server 'a': command: \"${\": nothing is put in its place "
         "here; expected the value itself"},
        {"{\"a\":{\"command\":\"c\",\"args\":\"" CANARY "\"}}", CLEAT_MALFORMED,
         "1:28: server 'a': args: expected an array of strings"},
        {"{\"a\":{\"command\":\"c\",\"args\":[\"x\", 5]}}", CLEAT_MALFORMED,
         "1:34: server 'a': args: expected a string"},
        {"{\"a\":{\"command\":\"c\",\"args\":[\"${input:" CANARY "}\"]}}",
         CLEAT_UNSUPPORTED,
         "1:29: server 'a': args: \"${\": nothing is put in its place here; "
         "expected the value itself"},
        {"{\"a\":{\"command\":\"c\",\"env\":[\"" CANARY "\"]}}",
         CLEAT_MALFORMED,
         "1:27: server 'a': env: expected an object of strings"},
        {"{\"a\":{\"command\":\"c\",\"env\":{\"K\":"
         "4711}}}",
         CLEAT_MALFORMED, "1:32: server 'a': env: expected a string"},
        {"{\"a\":{\"command\":\"c\",\"env\":{\"A=B\":\"" CANARY "\"}}}",
         CLEAT_MALFORMED,
         "1:28: server 'a': env: a name that is empty, or has '=' in it"},
        {"{\"a\":{\"command\":\"c\",\"env\":{\"K\":\"${env:" CANARY "}\"}}}",
         CLEAT_UNSUPPORTED,
         "1:32: server 'a': env: \"${\": nothing is put in its place here; "
         "expected the value itself"},
        {"{\"a\":{\"command\":\"c\",\"env\":{\"${K}\":\"v\"}}}",
         CLEAT_UNSUPPORTED,
         "1:28: server 'a': env: \"${\": nothing is put in its place here; "
         "expected the value itself"},
        {"{\"a\":{\"command\":\"c\",\"cwd\":7}}", CLEAT_MALFORMED,
         "1:27: server 'a': cwd: expected a string"},
        {"{\"a\":{\"command\":\"c\",\"type\":\"sse\"}}", CLEAT_MALFORMED,
         "1:28: server 'a': type: expected stdio, for there is a command"},
        {"{\"a\":{\"url\":\"http://h\",\"transport\":\"stdio\"}}",
         CLEAT_MALFORMED,
         "1:36: server 'a': transport: expected http, streamable-http or sse, "
         "for there is a url"},
        {"{\"a\":{\"url\":\"http://h\",\"type\":\"" CANARY "\"}}",
         CLEAT_MALFORMED,
         "1:31: server 'a': type: expected stdio, http, streamable-http or "
         "sse"},
        {"{\"a\":{\"url\":5}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a string"},
        {"{\"a\":{\"url\":\"\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: empty; expected a text"},
        {"{\"a\":{\"url\":\"http://${H}\"}}", CLEAT_UNSUPPORTED,
         "1:13: server 'a': url: \"${\": nothing is put in its place here; "
         "expected the value itself"},
        {"{\"a\":{\"url\":\"http://h\",\"headers\":{\"X\":\"${H}\"}}}",
         CLEAT_UNSUPPORTED,
         "1:39: server 'a': headers: \"${\": nothing is put in its place here; "
         "expected the value itself"},
        {"{\"a\":{\"url\":\"http://h\",\"headers\":[]}}", CLEAT_MALFORMED,
         "1:34: server 'a': headers: expected an object of strings"},
        {"{\"a\":{\"url\":\"http://h\",\"auth_token\":\"${H}\"}}",
         CLEAT_UNSUPPORTED,
         "1:37: server 'a': auth_token: \"${\": nothing is put in its place "
         "here; "
         "expected the value itself"},
        {"{\"a\":{\"command\":\"c\",\"cwd\":\"${H}\"}}", CLEAT_UNSUPPORTED,
         "1:27: server 'a': cwd: \"${\": nothing is put in its place here; "
         "expected the value itself"},
        {"{\"a\":{\"command\":\"c\",\"cwd\":\"\"}}", CLEAT_MALFORMED,
         "1:27: server 'a': cwd: empty; expected a text"},
        {"{\"a\":{\"url\":\"ftp://" CANARY "\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected http:// or https://"},
        {"{\"a\":{\"url\":\"http://user:" CANARY "@h/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: a user in the URL; expected auth_token or "
         "headers"},
        {"{\"a\":{\"url\":\"http:///" CANARY "\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://h:0/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://h:65536/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://h!80/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://h:/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://h:8x/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://[]/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://[::1x:80/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://[::1]x/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://h:123456/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://[::1/\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: expected a host, and perhaps a port, behind "
         "the scheme"},
        {"{\"a\":{\"url\":\"http://h/a b\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: a character that no URL has; expected it as "
         "%XX"},
        {"{\"a\":{\"url\":\"http://h/#x\"}}", CLEAT_MALFORMED,
         "1:13: server 'a': url: a fragment ('#')"},
        {"{\"a\":{\"url\":\"http://h\",\"auth\":\"oauth\"}}", CLEAT_UNSUPPORTED,
         "1:31: server 'a': auth: OAuth and the like are not supported; "
         "expected a bearer token"},
        {"{\"a\":{\"url\":\"http://h\",\"auth\":{\"t\":\"" CANARY "\"}}}",
         CLEAT_UNSUPPORTED,
         "1:31: server 'a': auth: OAuth and the like are not supported; "
         "expected a bearer token"},
        {"{\"a\":{\"url\":\"http://h\",\"auth_token\":\"" CANARY " \"}}",
         CLEAT_MALFORMED,
         "1:37: server 'a': auth_token: a character that no token has"},
        {"{\"a\":{\"url\":\"http://h\",\"auth_token\":\"" CANARY
         "\",\"auth\":\"" CANARY "\"}}",
         CLEAT_EXISTS,
         "1:57: server 'a': both auth and auth_token; expected one"},
        {"{\"a\":{\"url\":\"http://h\",\"auth_token\":\"x\",\"headers\":{"
         "\"authorization\":\"" CANARY "\"}}}",
         CLEAT_EXISTS,
         "1:52: server 'a': headers: Authorization, besides a token"},
        {"{\"a\":{\"url\":\"http://h\",\"headers\":{\"X-A\":\"" CANARY
         "\",\"x-a\":\"\"}}}",
         CLEAT_EXISTS, "1:54: server 'a': headers: 'x-a' is there already"},
        {"{\"a\":{\"url\":\"http://h\",\"headers\":{\"X A\":\"" CANARY "\"}}}",
         CLEAT_MALFORMED,
         "1:35: server 'a': headers: not a header's name; expected letters, "
         "digits, -"},
        {"{\"a\":{\"url\":\"http://h\",\"headers\":{\"Content-Length\":\"1\"}}"
         "}",
         CLEAT_MALFORMED,
         "1:35: server 'a': headers: a header that the client sets itself"},
        {"{\"a\":{\"url\":\"http://h\",\"headers\":{\"mcp-session-id\":\"1\"}}"
         "}",
         CLEAT_MALFORMED,
         "1:35: server 'a': headers: a header that the client sets itself"},
        {"{\"a\":{\"url\":\"http://h\",\"headers\":{\"X\":\"" CANARY
         "\\r\\nY: 1\"}}}",
         CLEAT_MALFORMED,
         "1:39: server 'a': headers: a value with a character that no header "
         "has"},
        {"{\"a\":{\"url\":\"http://h\",\"headers\":{\"X\":\" " CANARY "\"}}}",
         CLEAT_MALFORMED,
         "1:39: server 'a': headers: a value with space around it"},
        {"{\"a\":{\"command\":\"c\",\"disabled\":\"no\"}}", CLEAT_MALFORMED,
         "1:32: server 'a': disabled: expected true or false"}};

    (void)state;
    check_bad("s.json", rows, sizeof rows / sizeof *rows);
}

static void
what_is_wrong_in_a_file_that_a_config_names_is_said_of_that_file(void **state)
{
    (void)state;
    write_file("t.yaml", "tools:\n" MCP);
    write_file("s.json", "{\"a\":\n  {}}");
    assert_int_equal(read_config("t.yaml"), CLEAT_MALFORMED);
    assert_string_equal(error.text, "s.json:2:3: server 'a': neither command "
                                    "nor url; expected one");
    write_file("s.json", "tools: []");
    assert_int_equal(read_config("t.yaml"), CLEAT_MALFORMED);
}

/* ---- limits -------------------------------------------------------------- */

static void a_server_too_many_is_refused(void **state)
{
    char text[2048] = "{";

    (void)state;
    for (unsigned i = 0; i < CLEAT_TOOL_SOURCES_MAX; i++) {
        snprintf(text + strlen(text), sizeof text - strlen(text),
                 "%s\"s%u\":{\"command\":\"c\"}", i > 0 ? "," : "", i);
    }
    strcat(text, "}");
    write_file("s.json", text);
    assert_int_equal(good("s.json")->count, CLEAT_TOOL_SOURCES_MAX);
    text[strlen(text) - 1] = '\0';
    strcat(text, ",\"more\":{\"command\":\"c\"}}");
    write_file("s.json", text);
    assert_int_equal(read_config("s.json"), CLEAT_LIMIT);
    assert_non_null(strstr(error.text, "server 'more': more than 16 sources "
                                       "(CLEAT_TOOL_SOURCES_MAX)"));
}

static void a_native_run_too_many_is_refused(void **state)
{
    char text[4096] = "tools:\n";

    (void)state;
    write_file("s.json", "{\"a\":{\"command\":\"c\"}}");
    for (unsigned i = 0; i < CLEAT_TOOL_SOURCES_MAX / 2; i++) {
        strcat(text, NATIVE("A") NATIVE("B") MCP);
    }
    write_file("t.yaml", text);
    assert_int_equal(good("t.yaml")->count, CLEAT_TOOL_SOURCES_MAX);
    strcat(text, NATIVE("C"));
    write_file("t.yaml", text);
    assert_int_equal(read_config("t.yaml"), CLEAT_LIMIT);
}

static void a_bomb_of_aliases_is_refused(void **state)
{
    static const char bomb[] =
        "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
        "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
        "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n";

    (void)state;
    write_file("t.yaml", bomb);
    assert_int_equal(read_config("t.yaml"), CLEAT_LIMIT);
    assert_string_equal(error.text, "t.yaml: more than 28672 bytes as JSON, "
                                    "with its aliases and variables");
}

/* `levels` sequences inside one another, as flow or by way of aliases. */
static void nest(char *text, unsigned levels, bool by_aliases)
{
    *text = '\0';
    if (by_aliases) {
        strcpy(text, "a: &a [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]"
                     "]]]]]]]]]\nb: ");
        levels -= 30;
    } else {
        strcpy(text, "b: ");
    }
    for (unsigned i = 1; i < levels; i++) { strcat(text, "["); }
    strcat(text, by_aliases ? "*a" : "");
    for (unsigned i = 1; i < levels; i++) { strcat(text, "]"); }
}

static void what_is_nested_too_deeply_is_refused(void **state)
{
    (void)state;
    for (int by_aliases = 0; by_aliases < 2; by_aliases++) {
        char text[1024];
        char json[1024];
        size_t bytes;

        nest(text, 64, by_aliases != 0);
        assert_int_equal(mcp_yaml_to_json("t", text, strlen(text), json,
                                          sizeof json, &bytes, &error),
                         CLEAT_OK);
        nest(text, 65, by_aliases != 0);
        assert_int_equal(mcp_yaml_to_json("t", text, strlen(text), json,
                                          sizeof json, &bytes, &error),
                         CLEAT_LIMIT);
    }
}

static void a_room_as_large_as_was_asked_for_is_enough(void **state)
{
    struct mcp_config_options options = options_of(BYTES_MAX);
    static _Alignas(8) unsigned char copy[4096];
    size_t bytes = 0;

    (void)state;
    write_file("s.json", "{\"a\":{\"command\":\"c\"},\"b\":{\"url\":"
                         "\"http://h\"}}");
    for (size_t room = 0; bytes == 0; room++) {
        enum cleat_status status;

        assert_true(room < sizeof copy);
        memset(copy, 0xA5, sizeof copy);
        status = mcp_config_read("s.json", &options, copy, room, &bytes,
                                 &error);
        for (size_t i = room; i < sizeof copy; i++) {
            assert_int_equal(copy[i], 0xA5);
        }
        if (status == CLEAT_OK) {
            assert_int_equal(bytes, room);
            break;
        }
        assert_int_equal(status, CLEAT_TOO_SMALL);
        assert_int_equal(bytes, 0);
        assert_true(error.offset > room);
    }
    assert_int_equal(error.offset, bytes);
    assert_memory_equal(copy, good("s.json"), bytes);
}

static void yaml_says_how_large_its_json_is(void **state)
{
    static const char text[] = "a: &x [1, {b: c, d: 'e''s'}]\nf: *x\ng: |\n  "
                               "h\n  i\nk: \"\\L\\L\\L\"\n";
    static const char expected[] =
        "{\"a\":[1,{\"b\":\"c\",\"d\":\"e's\"}],\"f\":[1,{\"b\":\"c\",\"d\":"
        "\"e's\"}],\"g\":\"h\\ni\\n\",\"k\":\"\xE2\x80\xA8\xE2\x80\xA8"
        "\xE2\x80\xA8\"}";
    char around[1024];
    char *json = around + 256;
    size_t enough = 0;

    (void)state;
    for (size_t room = 0; room < 512; room++) {
        size_t bytes = 0;
        enum cleat_status status;

        memset(around, 'z', sizeof around);
        status = mcp_yaml_to_json("t", text, sizeof text - 1, json, room,
                                  &bytes, &error);
        for (size_t i = 0; i < sizeof around; i++) {
            if (i < 256 || i >= 256 + room) {
                assert_int_equal(around[i], 'z');
            }
        }
        if (status == CLEAT_OK) {
            assert_true(enough == 0 || enough <= room);
            enough = enough == 0 ? room : enough;
            assert_int_equal(bytes, sizeof expected - 1);
            assert_memory_equal(json, expected, bytes);
        } else {
            assert_int_equal(status, CLEAT_TOO_SMALL);
            assert_true(enough == 0 && error.offset > room);
        }
    }
    assert_true(enough > 0 && error.offset <= enough);
}

/* ---- secrets, and the heap ----------------------------------------------- */

static const char secret_json[] =
    "{\"mcpServers\":{\"a\":{\"command\":\"" CANARY "\",\"args\":[\"" CANARY
    "\"],\"env\":{\"K\":\"" CANARY "\"},\"cwd\":null},\"b\":{\"url\":"
    "\"http://h/?k=" CANARY "\",\"headers\":{\"X\":\"" CANARY
    "\"},\"auth_token\":\"" CANARY "\"}}}";
static const char secret_yaml[] =
    "k: ${oc.env:CLEAT_TEST_UNSET, " CANARY "}\n"
    "l: \"${oc.env:CLEAT_TEST_UNSET, '" CANARY "'}\"\n"
    "tools:\n- class_name: a\n  config: {type: native, key: " CANARY "}\n"
    "  other: |\n    " CANARY "\n";

/* Reads a text, good or bad; the reader of it looks for the canary. */
static void try_text(const char *path, const char *text)
{
    write_file(path, text);
    read_config(path);
}

/* Reads the text with a byte put in, changed or left out, at every place. */
static void spoil(const char *path, const char *text, const char *bytes)
{
    size_t length = strlen(text);
    char spoiled[1024];

    assert_true(length + 2 <= sizeof spoiled);
    for (size_t i = 0; i < length; i++) {
        memcpy(spoiled, text, i);
        strcpy(spoiled + i, text + i + 1);
        try_text(path, spoiled);
        for (const char *byte = bytes; *byte != '\0'; byte++) {
            spoiled[i] = *byte;
            strcpy(spoiled + i + 1, text + i);
            try_text(path, spoiled);
            strcpy(spoiled + i + 1, text + i + 1);
            try_text(path, spoiled);
        }
    }
}

static void no_error_says_a_secret_whatever_is_wrong(void **state)
{
    (void)state;
    write_file("s.json", secret_json);
    assert_int_equal(good("s.json")->count, 2);
    assert_int_equal(good_yaml(secret_yaml)->count, 1);
    spoil("s.json", secret_json, "\"{}:,\\x7");
    spoil("t.yaml", secret_yaml, "\"'\n :-{}[],#&*!|%@\\$x");
}

static void json_is_read_without_the_heap(void **state)
{
    unsigned long before;

    (void)state;
    write_file("s.json", secret_json);
    cleat_test_forbid_malloc(true);
    before = cleat_test_malloc_calls();
    (void)good("s.json");
    assert_int_equal(cleat_test_malloc_calls(), before);
    cleat_test_forbid_malloc(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_config_is_the_list_of_its_sources_in_their_order),
        cmocka_unit_test(a_file_of_servers_is_a_config_too),
        cmocka_unit_test(a_config_that_says_nothing_has_no_sources),
        cmocka_unit_test(every_form_of_no_selection_means_all_tools),
        cmocka_unit_test(rates_and_time_outs_may_be_fractions_and_texts),
        cmocka_unit_test(variables_are_put_in_their_places),
        cmocka_unit_test(transports_are_told_or_follow_from_the_url),
        cmocka_unit_test(sources_that_are_alike_have_one_definition),
        cmocka_unit_test(
            a_relative_path_is_beside_its_file_or_in_the_working_directory),
        cmocka_unit_test(an_absolute_path_is_looked_for_nowhere_else),
        cmocka_unit_test(a_relative_cwd_becomes_absolute),
        cmocka_unit_test(an_absolute_cwd_stays_as_it_is),
        cmocka_unit_test(a_path_that_is_too_long_is_refused),
        cmocka_unit_test(each_file_is_told_before_it_is_opened),
        cmocka_unit_test(a_file_that_cannot_be_read_is_named),
        cmocka_unit_test(yaml_that_is_none_is_refused_by_line_and_column),
        cmocka_unit_test(yaml_that_could_mean_two_things_is_refused),
        cmocka_unit_test(scalars_of_several_lines_are_folded_and_chomped),
        cmocka_unit_test(keys_numbers_and_anchors_have_limits),
        cmocka_unit_test(a_config_that_is_none_is_refused_by_line_and_column),
        cmocka_unit_test(servers_that_are_none_are_refused_by_line_and_column),
        cmocka_unit_test(
            what_is_wrong_in_a_file_that_a_config_names_is_said_of_that_file),
        cmocka_unit_test(a_server_too_many_is_refused),
        cmocka_unit_test(a_native_run_too_many_is_refused),
        cmocka_unit_test(a_bomb_of_aliases_is_refused),
        cmocka_unit_test(what_is_nested_too_deeply_is_refused),
        cmocka_unit_test(a_room_as_large_as_was_asked_for_is_enough),
        cmocka_unit_test(yaml_says_how_large_its_json_is),
        cmocka_unit_test(no_error_says_a_secret_whatever_is_wrong),
        cmocka_unit_test(json_is_read_without_the_heap),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
