/* Cleat: safetensors files and indices from anybody. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Bytes that start with '{' are read as an index, all others as a file. What is
 * accepted must keep the promises of cleat/safetensors.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleat/safetensors.h"
#include "port/safetensors/read.h"

#define CHECK(x)                                                              \
    do {                                                                      \
        if (!(x)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #x); \
            abort();                                                          \
        }                                                                     \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Where a file's data starts, as the format has it; `bytes` if nowhere. */
static size_t data_at(const uint8_t *data, size_t bytes)
{
    uint64_t header = 0;

    if (bytes < 8) { return bytes; }
    for (unsigned i = 0; i < 8; i++) { header |= (uint64_t)data[i] << 8 * i; }
    return header > bytes - 8 ? bytes : (size_t)header + 8;
}

/* A refusal has a line; what fits in it has no line break. */
static void check_error(enum cleat_status status,
                        const struct cleat_error *error)
{
    CHECK(status < CLEAT_OK);
    CHECK(error->status == status);
    CHECK(error->text[0] != '\0');
    CHECK(strchr(error->text, '\n') == NULL);
}

static void check_file(const uint8_t *data, size_t bytes)
{
    struct cleat_safetensors file;
    struct cleat_tensor_source source;
    struct cleat_error error;
    struct cleat_tensor last = {0};
    uint64_t covered = 0;
    uint64_t whole;
    enum cleat_status status;
    void *block;
    size_t told;

    status = cleat_safetensors_open_memory(&file, "f\n", data, bytes, NULL, 0,
                                           &error);
    check_error(status, &error);
    if (status != CLEAT_TOO_SMALL) { return; }
    told = (size_t)error.offset;
    CHECK(told <= 64 * bytes + 4096); /* memory grows with the input only */
    block = malloc(told);
    CHECK(block != NULL);
    status = cleat_safetensors_open_memory(&file, "f\n", data, bytes, block,
                                           told, &error);
    if (status != CLEAT_OK) {
        CHECK(status != CLEAT_TOO_SMALL);
        check_error(status, &error);
        free(block);
        return;
    }
    source = cleat_safetensors_source(&file);
    for (uint32_t i = 0; i < source.count(source.context); i++) {
        struct cleat_tensor tensor;
        uint32_t crc = 0;

        CHECK(source.describe(source.context, i, &tensor) == CLEAT_OK);
        CHECK(tensor.name_bytes > 0);
        CHECK(memchr(tensor.name, '\0', tensor.name_bytes) == NULL);
        CHECK(cleat_dtype_tensor_bytes(tensor.dtype, tensor.rank, tensor.shape,
                                       &whole) == CLEAT_OK);
        CHECK(whole == tensor.bytes);
        CHECK(source.read(source.context, i, 0, (size_t)whole, NULL, &crc) ==
              CLEAT_OK);
        CHECK(source.read(source.context, i, 0, (size_t)whole + 1, NULL,
                          &crc) == CLEAT_INVALID);
        CHECK(i == 0 ||
              cleat_safetensors_compare(last.name, last.name_bytes, tensor.name,
                                        tensor.name_bytes) != 0);
        covered += whole;
        last = tensor;
    }
    CHECK(covered <= bytes);
    cleat_safetensors_close(&file);
    free(block);
}

/* The first head_bytes bytes, and how many there are in all, are judged as the
 * file is, and what of the data is among them is read. */
static void check_head(const uint8_t *data, size_t bytes, size_t head_bytes)
{
    size_t block_bytes = 64 * bytes + 4096;
    void *blocks[2] = {malloc(block_bytes), malloc(block_bytes)};
    uint8_t *head = malloc(head_bytes == 0 ? 1 : head_bytes);
    struct cleat_safetensors file;
    struct cleat_safetensors part;
    struct cleat_error error;
    enum cleat_status status;

    CHECK(blocks[0] != NULL && blocks[1] != NULL && head != NULL);
    memcpy(head, data, head_bytes);
    status = cleat_safetensors_open_memory(&file, "f", data, bytes, blocks[0],
                                           block_bytes, &error);
    CHECK(cleat_safetensors_open_head(&part, "f", head, head_bytes, bytes,
                                      blocks[1], block_bytes,
                                      &error) == status);
    if (status == CLEAT_OK) {
        struct cleat_tensor_source whole = cleat_safetensors_source(&file);
        struct cleat_tensor_source source = cleat_safetensors_source(&part);
        size_t at = data_at(data, bytes);

        for (uint32_t i = 0; i < source.count(source.context); i++) {
            struct cleat_tensor tensor;
            uint32_t crc = 0;
            uint32_t expected = 0;
            bool here;

            CHECK(source.describe(source.context, i, &tensor) == CLEAT_OK);
            at += (size_t)tensor.bytes;
            here = tensor.bytes == 0 || at <= head_bytes;
            CHECK(source.read(source.context, i, 0, (size_t)tensor.bytes, NULL,
                              &crc) == (here ? CLEAT_OK : CLEAT_STATE));
            CHECK(whole.read(whole.context, i, 0, (size_t)tensor.bytes, NULL,
                             &expected) == CLEAT_OK);
            CHECK(crc == (here ? expected : 0));
        }
        CHECK(at == bytes);
        cleat_safetensors_close(&part);
        cleat_safetensors_close(&file);
    } else {
        check_error(status, &error);
    }
    free(head);
    free(blocks[0]);
    free(blocks[1]);
}

static void check_index(const uint8_t *data, size_t bytes)
{
    struct cleat_safetensors_mapping mapping = {data, bytes, {"index"}, 0};
    struct cleat_safetensors_index index;
    struct cleat_safetensors_shard *shards;
    struct cleat_error error;
    enum cleat_status status;
    uint32_t *words;
    uint32_t shards_count = 0;
    char *room;

    status = cleat_safetensors_index_open(&mapping, &index, &error);
    if (status != CLEAT_OK) {
        check_error(status, &error);
        return;
    }
    CHECK(index.escaped_bytes <= bytes && index.name_max <= bytes);
    CHECK(index.shards_max <= index.entries_count);
    index.entries = calloc((size_t)index.entries_count + 1,
                           sizeof *index.entries);
    index.sorted = calloc((size_t)index.entries_count + 1, sizeof *words);
    words = calloc((size_t)index.entries_count + 1, sizeof *words);
    shards = calloc((size_t)index.shards_max + 1, sizeof *shards);
    room = malloc(index.escaped_bytes + 1);
    CHECK(index.entries != NULL && index.sorted != NULL && words != NULL &&
          shards != NULL && room != NULL);
    status = cleat_safetensors_index_read(&index, words, room, shards,
                                          &shards_count, &error);
    if (status != CLEAT_OK) {
        check_error(status, &error);
    } else {
        CHECK(shards_count <= index.shards_max);
        for (uint32_t i = 0; i < shards_count; i++) {
            CHECK(memchr(shards[i].name, '/', shards[i].name_bytes) == NULL);
            CHECK(shards[i].name_bytes >= 1 && shards[i].name_bytes <= 255);
        }
        for (uint32_t i = 0; i < index.entries_count; i++) {
            CHECK(cleat_safetensors_index_find(&index, index.entries[i].name,
                                               index.entries[i].name_bytes) ==
                  &index.entries[i]);
        }
    }
    free(room);
    free(shards);
    free(words);
    free(index.sorted);
    free(index.entries);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    /* Exactly as large as it is, so that a sanitizer sees every byte beyond. */
    uint8_t *copy = calloc(1, bytes == 0 ? 1 : bytes);

    CHECK(copy != NULL);
    if (bytes > 0) { memcpy(copy, data, bytes); }
    if (bytes > 0 && data[0] == '{') {
        check_index(copy, bytes);
    } else {
        check_file(copy, bytes);
        check_head(copy, bytes, data_at(copy, bytes));
        check_head(copy, bytes, bytes - (bytes - data_at(copy, bytes)) / 2);
    }
    free(copy);
    return 0;
}
