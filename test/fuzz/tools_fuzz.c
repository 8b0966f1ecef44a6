/* Cleat: any bytes as a list of tools. SPDX-License-Identifier: Apache-2.0
 *
 * What is accepted must lie, with every text of every tool, inside the bytes
 * that were given, and must be copied and found in as it is. Mutated bytes
 * seldom have the right digest, so each input is tried a second time with
 * magic, length and digest put right. */
#include <stdlib.h>
#include <string.h>

#include "cleat/digest.h"
#include "cleat/tools.h"

#define CHECK(x)               \
    do {                       \
        if (!(x)) { abort(); } \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void check_text(const struct cleat_tools *list, struct cleat_text text)
{
    const char *start = (const char *)list;
    volatile char last;

    CHECK(text.text >= start);
    CHECK(text.text <= start + cleat_tools_bytes(list));
    CHECK(text.bytes <= cleat_tools_bytes(list) - (size_t)(text.text - start));
    if (text.bytes > 0) { last = text.text[text.bytes - 1]; }
    (void)last;
}

static void check_tool(const struct cleat_tools *list, uint32_t i)
{
    struct cleat_tool tool;
    uint32_t number = UINT32_MAX;

    cleat_tools_at(list, i, &tool);
    check_text(list, tool.definition);
    check_text(list, tool.name);
    check_text(list, tool.wire_name);
    check_text(list, tool.title);
    check_text(list, tool.description);
    check_text(list, tool.input_schema);
    check_text(list, tool.output_schema);
    check_text(list, tool.annotations);
    check_text(list, tool.class_name);
    check_text(list, tool.server);
    if (cleat_tools_find(list, tool.name.text, tool.name.bytes, &number) ==
        CLEAT_OK) {
        CHECK(number <= i);
    } else {
        CHECK(tool.name.bytes == 0 && number == UINT32_MAX);
    }
}

static void check(const void *block, size_t count)
{
    const struct cleat_tools *list = block;
    const struct cleat_tools *copy;
    struct cleat_error error;
    void *other;

    if (cleat_tools_check(block, count, &list, &error) != CLEAT_OK) {
        CHECK(list == NULL && error.status < CLEAT_OK);
        CHECK(error.offset <= count);
        return;
    }
    CHECK(list == block && cleat_tools_bytes(list) <= count);
    for (uint32_t i = 0; i < cleat_tools_count(list); i++) {
        check_tool(list, i);
    }
    other = malloc(cleat_tools_bytes(list));
    CHECK(other != NULL);
    CHECK(cleat_tools_copy(list, other, cleat_tools_bytes(list), &copy, NULL) ==
          CLEAT_OK);
    CHECK(memcmp(copy, list, cleat_tools_bytes(list)) == 0);
    free(other);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    unsigned char *block = calloc(count > 0 ? count : 1, 1);
    uint32_t sealed[3] = {0x54544C43u, 0, (uint32_t)count};

    CHECK(block != NULL);
    if (count > 0) { memcpy(block, bytes, count); }
    check(block, count);
    if (count >= sizeof sealed) {
        memcpy(block, sealed, sizeof sealed);
        sealed[1] = cleat_crc32c(0, block + 8, count - 8);
        memcpy(block, sealed, sizeof sealed);
        check(block, count);
    }
    free(block);
    return 0;
}
