/* Cleat: what holds of every list of tools. SPDX-License-Identifier: Apache-2.0
 *
 * round-trip, one-flipped-bit-is-found, never-reads-past-the-end: blocks are
 * exactly as large as they are said to be, so that the address sanitizer sees
 * the byte behind. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleat/tools.h"

#define CHECK(x, ...)                                               \
    do {                                                            \
        if (!(x)) {                                                 \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #x); \
            fprintf(stderr, __VA_ARGS__);                           \
            fprintf(stderr, "\n");                                  \
            exit(1);                                                \
        }                                                           \
    } while (0)

static uint64_t random_state = 3;

static uint64_t random_u64(void)
{
    /* splitmix64 (Steele, Lea, Flood, 2014) */
    uint64_t z = (random_state += 0x9E3779B97F4A7C15u);

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static size_t below(size_t n)
{
    return (size_t)(random_u64() % n);
}

/* ---- the model: each text in memory of its own ----------------------------
 */

enum { TEXTS = 10, TOOLS_MAX = 12, WITHOUT = -1 };

struct model {
    struct cleat_text texts[TOOLS_MAX][TEXTS];
    size_t count;
    size_t left_out;
};

static struct cleat_text *text_of(struct cleat_tool *tool, size_t i)
{
    struct cleat_text *texts[TEXTS] = {
        &tool->definition,    &tool->name,        &tool->wire_name,
        &tool->title,         &tool->description, &tool->input_schema,
        &tool->output_schema, &tool->annotations, &tool->class_name,
        &tool->server};

    return texts[i];
}

static struct cleat_text keep(struct cleat_text text)
{
    char *copy = malloc(text.bytes + 1);

    CHECK(copy != NULL, "%zu bytes", text.bytes);
    if (text.bytes > 0) { memcpy(copy, text.text, text.bytes); }
    return (struct cleat_text){copy, text.bytes};
}

static void forget(struct model *model)
{
    for (size_t i = 0; i < model->count; i++) {
        for (size_t k = 0; k < TEXTS; k++) {
            free((void *)(uintptr_t)model->texts[i][k].text);
        }
    }
}

static int model_find(const struct model *model, struct cleat_text name)
{
    for (size_t i = 0; i < model->count && name.bytes > 0; i++) {
        struct cleat_text has = model->texts[i][1];

        if (has.bytes == name.bytes &&
            memcmp(has.text, name.text, name.bytes) == 0) {
            return (int)i;
        }
    }
    return WITHOUT;
}

/* ---- a random list ---------------------------------------------------------
 */

/* A text of its own, none at all, or a part of one before it. */
static struct cleat_text random_text(struct cleat_tool *tool, size_t i,
                                     char *space)
{
    struct cleat_text text = {NULL, 0};

    if (random_u64() % 5 == 0) { return text; }
    if (i > 0 && random_u64() % 3 == 0) {
        text = *text_of(tool, below(i));
        if (text.bytes > 0) {
            size_t from = below(text.bytes);

            text.text += from;
            text.bytes = below(text.bytes - from + 1);
        }
        return text;
    }
    text.text = space;
    text.bytes = below(i == 0 ? 200 : i == 1 ? 2 : 24);
    for (size_t k = 0; k < text.bytes; k++) {
        space[k] = (char)('a' + random_u64() % 8);
    }
    return text;
}

/* Adds a tool to the list and to the model, if its name allows. */
static void add_one(struct cleat_tools_writer *writer, struct model *model,
                    struct cleat_text server)
{
    char space[TEXTS][200];
    struct cleat_tool tool;
    struct cleat_error error;
    enum cleat_status status;
    int same;

    memset(&tool, 0, sizeof tool);
    for (size_t i = 0; i < TEXTS - 1; i++) {
        *text_of(&tool, i) = random_text(&tool, i, space[i]);
    }
    same = model_find(model, tool.name);
    status = cleat_tools_add(writer, &tool, &error);
    if (tool.name.bytes == 0 && tool.class_name.bytes == 0) {
        CHECK(status == CLEAT_INVALID, "%d", status);
        return;
    }
    if (same != WITHOUT) {
        CHECK(status == CLEAT_EXISTS, "%d", status);
        CHECK(error.index == (uint64_t)same, "%d", same);
        cleat_tools_leave_out(writer);
        model->left_out++;
        return;
    }
    CHECK(status == CLEAT_OK, "%s", cleat_status_name(status));
    tool.server = server;
    for (size_t i = 0; i < TEXTS; i++) {
        model->texts[model->count][i] = keep(*text_of(&tool, i));
    }
    model->count++;
}

static void *block_of(size_t bytes)
{
    void *block = malloc(bytes > 0 ? bytes : 1);

    CHECK(block != NULL, "%zu bytes", bytes);
    return block;
}

/* A list in a block that is exactly as large as it says. The model's texts are
 * the caller's to forget. */
static const struct cleat_tools *random_list(struct model *model)
{
    static uint64_t room[2048];
    struct cleat_text server = {"a server", below(9)};
    struct cleat_tools_writer writer;
    const struct cleat_tools *list;
    const struct cleat_tools *copy;
    size_t tools = below(TOOLS_MAX + 1);

    memset(model, 0, sizeof *model);
    CHECK(cleat_tools_begin(&writer, room, sizeof room, CLEAT_TOOLS_MCP, server,
                            NULL) == CLEAT_OK,
          "begin");
    for (size_t i = 0; i < tools; i++) { add_one(&writer, model, server); }
    CHECK(cleat_tools_end(&writer, &list, NULL) == CLEAT_OK, "end");
    CHECK(cleat_tools_copy(list, block_of(cleat_tools_bytes(list)),
                           cleat_tools_bytes(list), &copy, NULL) == CLEAT_OK,
          "copy");
    memset(room, 0x5A, sizeof room);
    return copy;
}

static void drop(const struct cleat_tools *list)
{
    free((void *)(uintptr_t)list);
}

/* ---- the properties -------------------------------------------------------
 */

static void check_equal(const struct cleat_tools *list,
                        const struct model *model)
{
    CHECK(cleat_tools_count(list) == model->count, "%zu", model->count);
    CHECK(cleat_tools_left_out(list) == model->left_out, "%zu",
          model->left_out);
    for (uint32_t i = 0; i < model->count; i++) {
        struct cleat_tool tool;
        uint32_t number = UINT32_MAX;

        cleat_tools_at(list, i, &tool);
        for (size_t k = 0; k < TEXTS; k++) {
            struct cleat_text got = *text_of(&tool, k);
            struct cleat_text has = model->texts[i][k];

            CHECK(got.text != NULL, "tool %u, text %zu", i, k);
            CHECK(got.bytes == has.bytes, "tool %u, text %zu", i, k);
            CHECK(memcmp(got.text, has.text, has.bytes) == 0,
                  "tool %u, text %zu", i, k);
        }
        CHECK((cleat_tools_find(list, tool.name.text, tool.name.bytes,
                                &number) == CLEAT_OK) == (tool.name.bytes > 0),
              "tool %u", i);
        CHECK(tool.name.bytes == 0 || number == i, "tool %u", i);
    }
}

static void every_list_reads_back_as_it_was_written_wherever_it_lies(void)
{
    for (int i = 0; i < 3000; i++) {
        struct model model;
        const struct cleat_tools *list = random_list(&model);
        size_t bytes = cleat_tools_bytes(list);
        unsigned char *block = block_of(bytes);
        const struct cleat_tools *moved;

        check_equal(list, &model);
        memcpy(block, list, bytes);
        drop(list);
        CHECK(cleat_tools_check(block, bytes, &moved, NULL) == CLEAT_OK,
              "list %d", i);
        check_equal(moved, &model);
        drop(moved);
        forget(&model);
    }
}

static void every_flipped_bit_is_found(void)
{
    for (int i = 0; i < 60; i++) {
        struct model model;
        const struct cleat_tools *list = random_list(&model);
        size_t bytes = cleat_tools_bytes(list);
        unsigned char *block = (unsigned char *)(uintptr_t)list;

        for (size_t bit = 0; bit < 8 * bytes; bit++) {
            const struct cleat_tools *got;
            enum cleat_status status;

            block[bit / 8] ^= (unsigned char)(1u << (bit % 8));
            status = cleat_tools_check(block, bytes, &got, NULL);
            CHECK(status == CLEAT_CORRUPT ||
                      (bit < 12 * 8 && status == CLEAT_MALFORMED),
                  "list %d, bit %zu: %s", i, bit, cleat_status_name(status));
            block[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        }
        drop(list);
        forget(&model);
    }
}

static void every_truncation_is_refused_and_nothing_behind_it_is_read(void)
{
    for (int i = 0; i < 60; i++) {
        struct model model;
        const struct cleat_tools *list = random_list(&model);
        size_t bytes = cleat_tools_bytes(list);

        for (size_t cut = 0; cut < bytes; cut++) {
            unsigned char *block = block_of(cut);
            const struct cleat_tools *got;

            memcpy(block, list, cut);
            CHECK(cleat_tools_check(block, cut, &got, NULL) == CLEAT_MALFORMED,
                  "list %d cut to %zu bytes", i, cut);
            CHECK(got == NULL, "%zu bytes", cut);
            free(block);
        }
        drop(list);
        forget(&model);
    }
}

int main(void)
{
    every_list_reads_back_as_it_was_written_wherever_it_lies();
    every_flipped_bit_is_found();
    every_truncation_is_refused_and_nothing_behind_it_is_read();
    printf("tools: the properties hold\n");
    return 0;
}
