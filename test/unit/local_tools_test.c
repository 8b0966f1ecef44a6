/* Cleat: a trainer's tool lists, put together. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cleat/local_tools.h"

#define S CLEAT_NS_PER_S
#define WATCHDOG_S 60u

static const char yaml[] =
    "tools:\n"
    "  - class_name: verl.tools.gsm8k_tool.Gsm8kTool\n"
    "    config: {type: native}\n"
    "    tool_schema:\n"
    "      type: function\n"
    "      function:\n"
    "        name: calc_gsm8k_reward\n"
    "        description: A tool for calculating the reward of gsm8k\n"
    "        parameters:\n"
    "          type: object\n"
    "          properties:\n"
    "            answer: {type: string, description: The answer}\n"
    "          required: [answer]\n";

static uint64_t in(uint64_t ns)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context) + ns;
}

/* A block that begins `off` bytes behind an aligned address. */
static unsigned char *block_of(size_t bytes, size_t off)
{
    unsigned char *block = aligned_alloc(64, (bytes + 127) & ~(size_t)63);

    assert_non_null(block);
    return block + off;
}

static void a_native_config_is_listed_from_a_block_of_any_alignment(void **it)
{
    char file[] = "/tmp/cleat_local_tools_XXXXXX";
    size_t bytes = cleat_local_tools_bytes(NULL);
    unsigned char *block = block_of(bytes, 8);
    struct cleat_local_tools *tools;
    struct cleat_tool_list list;
    struct cleat_tool tool;
    struct cleat_error error;
    int descriptor = mkstemp(file);
    char path[64];

    (void)it;
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, yaml, sizeof yaml - 1), sizeof yaml - 1);
    (void)close(descriptor);
    assert_int_equal(cleat_local_tools_open(block, bytes, NULL, &tools, &error),
                     CLEAT_OK);
    assert_int_equal(cleat_tools_get(cleat_local_tools_service(tools), file,
                                     in(30 * S), &list, &error),
                     CLEAT_OK);
    assert_int_equal(list.tools, 1);
    assert_int_equal(
        cleat_tool_list_find(&list, "calc_gsm8k_reward", &tool, NULL),
        CLEAT_OK);
    assert_memory_equal(tool.class_name.text, "verl.tools.gsm8k_tool.Gsm8kTool",
                        tool.class_name.bytes);
    cleat_tools_unpin(&list);
    (void)unlink(file);
    /* A hit does not touch the file. */
    assert_int_equal(cleat_tools_get(cleat_local_tools_service(tools), file, 0,
                                     &list, &error),
                     CLEAT_OK);
    (void)snprintf(path, sizeof path, "%s.none", file);
    cleat_tools_unpin(&list);
    assert_int_equal(cleat_tools_get(cleat_local_tools_service(tools), path,
                                     in(30 * S), &list, &error),
                     CLEAT_NOT_FOUND);
    assert_non_null(strstr(error.text, ".none"));
    cleat_local_tools_close(tools);
    free(block - 8);
}

static void what_is_pinned_outlives_the_close(void **it)
{
    char file[] = "/tmp/cleat_local_tools_XXXXXX";
    size_t bytes = cleat_local_tools_bytes(NULL);
    unsigned char *block = block_of(bytes, 0);
    struct cleat_local_tools *tools;
    struct cleat_tool_list list;
    struct cleat_tool tool;
    struct cleat_error error;
    int descriptor = mkstemp(file);

    (void)it;
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, yaml, sizeof yaml - 1), sizeof yaml - 1);
    (void)close(descriptor);
    assert_int_equal(cleat_local_tools_open(block, bytes, NULL, &tools, &error),
                     CLEAT_OK);
    assert_int_equal(cleat_tools_get(cleat_local_tools_service(tools), file,
                                     in(30 * S), &list, &error),
                     CLEAT_OK);
    cleat_local_tools_close(tools);
    assert_int_equal(
        cleat_tool_list_find(&list, "calc_gsm8k_reward", &tool, NULL),
        CLEAT_OK);
    cleat_tools_unpin(&list);
    (void)unlink(file);
    free(block);
}

static void what_cannot_be_opened_says_why_and_leaves_nothing(void **it)
{
    struct cleat_local_tools_config config;
    size_t bytes = cleat_local_tools_bytes(NULL);
    unsigned char *block = block_of(bytes, 0);
    struct cleat_local_tools *tools;
    struct cleat_error error;

    (void)it;
    memset(&config, 0, sizeof config);
    assert_int_equal(cleat_local_tools_bytes(&config), bytes);
    assert_int_equal(
        cleat_local_tools_open(block, bytes - 1, &config, &tools, &error),
        CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
    assert_null(tools);
    assert_int_equal(
        cleat_local_tools_open(NULL, bytes, &config, &tools, &error),
        CLEAT_INVALID);
    config.environment = true;
    assert_int_equal(setenv("VERL_TOOL_CACHE_INIT_TIMEOUT_S", "soon", 1), 0);
    assert_int_equal(
        cleat_local_tools_open(block, bytes, &config, &tools, &error),
        CLEAT_MALFORMED);
    assert_string_equal(error.text, "VERL_TOOL_CACHE_INIT_TIMEOUT_S: \"soon\" "
                                    "is no number of seconds");
    assert_int_equal(setenv("VERL_TOOL_CACHE_INIT_TIMEOUT_S", "2", 1), 0);
    assert_int_equal(
        cleat_local_tools_open(block, bytes, &config, &tools, &error),
        CLEAT_OK);
    cleat_local_tools_close(tools);
    cleat_local_tools_close(NULL);
    config.service.slots_count = UINT32_MAX;
    assert_int_equal(cleat_local_tools_bytes(&config), 0);
    assert_int_equal(
        cleat_local_tools_open(block, bytes, &config, &tools, &error),
        CLEAT_INVALID);
    free(block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            a_native_config_is_listed_from_a_block_of_any_alignment),
        cmocka_unit_test(what_is_pinned_outlives_the_close),
        cmocka_unit_test(what_cannot_be_opened_says_why_and_leaves_nothing),
    };

    (void)alarm(WATCHDOG_S);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
