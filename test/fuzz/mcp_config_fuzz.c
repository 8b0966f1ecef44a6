/* Cleat: any bytes as a tool config. SPDX-License-Identifier: Apache-2.0
 *
 * The bytes are read as YAML, whatever they are, and as a config, by their
 * first character YAML or JSON. What is accepted is JSON, and definitions that
 * open, under their keys; what is refused says where.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "port/mcp/server.h"

#define BYTES_MAX ((size_t)16384)
#define JSON_MAX ((size_t)1 << 18)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char json[JSON_MAX];
static char scratch[JSON_MAX];
static _Alignas(8) unsigned char block[JSON_MAX];
static _Alignas(8) unsigned char list[JSON_MAX];

static void insist(bool holds, const char *what)
{
    if (holds) { return; }
    fprintf(stderr, "mcp_config_fuzz: %s\n", what);
    abort();
}

static void check_refusal(enum cleat_status status,
                          const struct cleat_error *error)
{
    insist(status < CLEAT_OK && error->status == status, "no status");
    insist(error->text[0] != '\0' && strchr(error->text, '\n') == NULL,
           "no line");
}

/* In a block of exactly its size, so that a sanitizer sees an overrun. */
static void read_yaml(const uint8_t *data, size_t size)
{
    char *text = malloc(size > 0 ? size : 1);
    size_t bytes = 0;
    struct cleat_error error;
    enum cleat_status status;

    insist(text != NULL, "no memory");
    if (size > 0) { memcpy(text, data, size); }
    status = mcp_yaml_to_json("text", text, size, json, sizeof json, &bytes,
                              &error);
    if (status == CLEAT_OK) {
        insist(cleat_json_check(json, bytes, NULL, NULL, NULL) == CLEAT_OK,
               "not JSON");
    } else {
        check_refusal(status, &error);
    }
    free(text);
}

static void check_source(const struct cleat_tool_sources *sources,
                         uint32_t number)
{
    struct cleat_text text = cleat_tool_source_definition(sources, number);
    struct mcp_server server;
    struct cleat_error error;
    const struct cleat_tools *tools;

    insist(mcp_server_open(&server, text.text, text.bytes, &error) == CLEAT_OK,
           "a definition that does not open");
    insist(mcp_definition_key(text.text, text.bytes) ==
               sources->sources[number].key,
           "another key");
    insist(mcp_server_session_key(&server) != 0, "no session key");
    if (!server.is_native) { return; }
    insist(mcp_native_list(&server, list, sizeof list, &error) == CLEAT_OK &&
               cleat_tools_check(list, sizeof list, &tools, &error) == CLEAT_OK,
           "no list");
}

static void read_config(const uint8_t *data, size_t size)
{
    struct mcp_config_options options;
    struct cleat_error error;
    int file = memfd_create("config", MFD_CLOEXEC);
    char path[64];
    size_t bytes;
    enum cleat_status status;

    insist(file >= 0 && write(file, data, size) == (ssize_t)size, "no file");
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    memset(&options, 0, sizeof options);
    options.bytes_max = BYTES_MAX;
    options.scratch = scratch;
    options.scratch_bytes = sizeof scratch;
    status = mcp_config_read(path, &options, block, sizeof block, &bytes,
                             &error);
    if (status == CLEAT_OK) {
        const struct cleat_tool_sources *sources = (const void *)block;

        insist(sources->bytes == bytes && bytes <= sizeof block, "its bytes");
        for (uint32_t i = 0; i < sources->count; i++) {
            check_source(sources, i);
        }
    } else {
        check_refusal(status, &error);
    }
    close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_yaml(data, size);
    read_config(data, size);
    return 0;
}
