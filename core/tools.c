/* Cleat: a list of tools, as one block. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/tools.h"

#include <string.h>

#include "assert.h"
#include "cleat/digest.h"
#include "text.h"

#define MAGIC 0x54544C43u /* "CLTT" */

/* Texts that an entry has of its own: all of a tool's but the server's name.
 * An entry is as many slices, in the order of the struct. */
#define TEXTS (offsetof(struct cleat_tool, server) / sizeof(struct cleat_text))
#define ENTRY_BYTES (TEXTS * sizeof(struct cleat_tools_slice))

/* So that the end of the next entry is always a number of 32 bits. */
#define BLOCK_MAX (UINT32_MAX - ENTRY_BYTES)

CLEAT_STATIC_ASSERT(sizeof(struct cleat_tool) ==
                        (TEXTS + 1) * sizeof(struct cleat_text),
                    "a tool is its texts, and nothing else");
CLEAT_STATIC_ASSERT(offsetof(struct cleat_tools, server) +
                            sizeof(struct cleat_tools_slice) ==
                        sizeof(struct cleat_tools),
                    "the entries' slices follow the server's");

/* Where a slice lies: number 0 is the server's, then come the entries'. */
static size_t slice_offset(size_t number)
{
    CLEAT_ASSERT(number <= UINT32_MAX / sizeof(struct cleat_tools_slice));
    CLEAT_ASSERT(TEXTS > 0);
    return offsetof(struct cleat_tools, server) +
           number * sizeof(struct cleat_tools_slice);
}

static struct cleat_tools_slice *slice_at(const struct cleat_tools *tools,
                                          size_t number)
{
    CLEAT_ASSERT(tools != NULL);
    CLEAT_ASSERT((uintptr_t)tools % sizeof(uint64_t) == 0);
    return (struct cleat_tools_slice *)((uintptr_t)tools +
                                        slice_offset(number));
}

/* All that a list of `count` tools has; also the number of the next one. */
static size_t slices_count(uint32_t count)
{
    CLEAT_ASSERT(count <= BLOCK_MAX / ENTRY_BYTES);
    return 1 + count * TEXTS;
}

static struct cleat_text text_at(const struct cleat_tools *tools, size_t number)
{
    const struct cleat_tools_slice *slice = slice_at(tools, number);
    struct cleat_text text = {(const char *)tools + slice->offset,
                              slice->bytes};

    CLEAT_ASSERT(slice->offset >= sizeof *tools);
    CLEAT_ASSERT(slice->bytes <= UINT32_MAX - slice->offset);
    return text;
}

void cleat_tools_at(const struct cleat_tools *tools, uint32_t number,
                    struct cleat_tool *tool)
{
    struct cleat_text *texts = (struct cleat_text *)(void *)tool;

    CLEAT_ASSERT(number < tools->count);
    CLEAT_ASSERT(tool != NULL);
    for (size_t i = 0; i < TEXTS; i++) {
        texts[i] = text_at(tools, slices_count(number) + i);
    }
    tool->server = text_at(tools, 0);
}

enum cleat_status cleat_tools_find(const struct cleat_tools *tools,
                                   const char *name, size_t bytes,
                                   uint32_t *number)
{
    struct cleat_tool tool;

    CLEAT_ASSERT(name != NULL || bytes == 0);
    CLEAT_ASSERT(number != NULL);
    for (uint32_t i = 0; bytes > 0 && i < tools->count; i++) {
        cleat_tools_at(tools, i, &tool);
        if (tool.name.bytes == bytes &&
            memcmp(tool.name.text, name, bytes) == 0) {
            *number = i;
            return CLEAT_OK;
        }
    }
    return CLEAT_NOT_FOUND;
}

/* Whether a block is there, and has room for that many bytes. */
static enum cleat_status check_block(const void *block, size_t bytes,
                                     size_t needed, struct cleat_error *error)
{
    CLEAT_ASSERT(sizeof(struct cleat_tools) % sizeof(uint64_t) == 0);
    CLEAT_ASSERT(ENTRY_BYTES % sizeof(uint64_t) == 0);
    if (block == NULL || (uintptr_t)block % sizeof(uint64_t) != 0) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, 1, 0,
                            "tools: a block aligned to 8 bytes is needed");
    }
    if (bytes < needed) {
        return CLEAT_REFUSE(error, CLEAT_TOO_SMALL, 2, needed,
                            "tools: the block is too small");
    }
    return CLEAT_OK;
}

enum cleat_status cleat_tools_copy(const struct cleat_tools *tools, void *block,
                                   size_t bytes,
                                   const struct cleat_tools **copy,
                                   struct cleat_error *error)
{
    enum cleat_status status = check_block(block, bytes, tools->bytes, error);

    CLEAT_ASSERT(tools->magic == MAGIC);
    CLEAT_ASSERT(copy != NULL);
    *copy = NULL;
    if (status == CLEAT_OK) { *copy = memcpy(block, tools, tools->bytes); }
    return status;
}

/* ---- checking ----------------------------------------------------------- */

/* Of all that follows the digest. */
static uint32_t digest_of(const struct cleat_tools *tools)
{
    size_t skip = offsetof(struct cleat_tools, bytes);

    CLEAT_ASSERT(tools->bytes >= sizeof *tools);
    CLEAT_ASSERT(skip == sizeof tools->magic + sizeof tools->digest);
    return cleat_crc32c(0, (const char *)tools + skip, tools->bytes - skip);
}

/* What is wrong with a block, if anything, and at which offset. */
static enum cleat_status look_over(const struct cleat_tools *tools,
                                   size_t bytes, size_t *offset)
{
    CLEAT_ASSERT(tools != NULL);
    CLEAT_ASSERT(offset != NULL);
    *offset = 0;
    if (bytes < sizeof *tools || tools->magic != MAGIC ||
        tools->bytes < sizeof *tools || tools->bytes > bytes) {
        return CLEAT_MALFORMED;
    }
    if (tools->digest != digest_of(tools)) { return CLEAT_CORRUPT; }
    if (tools->count > (tools->bytes - sizeof *tools) / ENTRY_BYTES) {
        return CLEAT_MALFORMED;
    }
    for (size_t i = 0; i < slices_count(tools->count); i++) {
        struct cleat_tools_slice slice = *slice_at(tools, i);

        *offset = slice_offset(i);
        if (slice.offset < sizeof *tools || slice.offset > tools->bytes ||
            slice.bytes > tools->bytes - slice.offset) {
            return CLEAT_MALFORMED;
        }
    }
    return CLEAT_OK;
}

enum cleat_status cleat_tools_check(const void *block, size_t bytes,
                                    const struct cleat_tools **tools,
                                    struct cleat_error *error)
{
    enum cleat_status status = check_block(block, bytes, 0, error);
    size_t offset;

    CLEAT_ASSERT(tools != NULL);
    *tools = NULL;
    if (status != CLEAT_OK) { return status; }
    status = look_over(block, bytes, &offset);
    if (status != CLEAT_OK) {
        return CLEAT_REFUSE(error, status, 0, offset,
                            "tools: the block is not a list");
    }
    *tools = block;
    CLEAT_ASSERT((*tools)->bytes <= bytes);
    return CLEAT_OK;
}

/* ---- writing ------------------------------------------------------------ */

static size_t plus(size_t a, size_t b)
{
    CLEAT_ASSERT(SIZE_MAX - a < b || a + b >= a);
    return a + b < a ? SIZE_MAX : a + b;
}

/* How far behind another text's beginning one begins. */
static size_t distance(struct cleat_text text, struct cleat_text host)
{
    CLEAT_ASSERT(text.text != NULL || text.bytes == 0);
    CLEAT_ASSERT(host.text != NULL || host.bytes == 0);
    return (uintptr_t)text.text - (uintptr_t)host.text;
}

static bool lies_in(struct cleat_text text, struct cleat_text host)
{
    size_t from = distance(text, host);

    CLEAT_ASSERT(from != 0 || text.text == host.text);
    CLEAT_ASSERT(distance(host, host) == 0);
    return from <= host.bytes && text.bytes <= host.bytes - from;
}

/* Stores `count` texts and their slices, those from number `first` on. A text
 * that lies in one before it goes with that. Where there is no room for all,
 * no more than free space has been written to. */
static enum cleat_status store(struct cleat_tools_writer *writer,
                               const struct cleat_text *texts, size_t first,
                               size_t count, struct cleat_error *error)
{
    struct cleat_tools_slice *slices = slice_at(writer->list, first);
    size_t room = writer->texts - slice_offset(first);
    size_t taken = count * sizeof *slices;
    size_t back = writer->texts + taken;

    CLEAT_ASSERT(writer->texts >= slice_offset(first));
    CLEAT_ASSERT(writer->texts <= writer->bytes);
    for (size_t i = 0; i < count; i++) {
        struct cleat_text text = texts[i];
        size_t host = 0;

        while (!lies_in(text, texts[host])) { host++; }
        CLEAT_ASSERT(host <= i);
        if (host == i) { taken = plus(taken, text.bytes); }
        if (taken > room) { continue; }
        slices[i].bytes = (uint32_t)text.bytes;
        slices[i].offset = (uint32_t)(back - taken);
        if (host != i) {
            slices[i].offset = slices[host].offset +
                               (uint32_t)distance(text, texts[host]);
        } else if (text.bytes > 0) {
            memcpy((char *)writer->list + slices[i].offset, text.text,
                   text.bytes);
        }
    }
    writer->wanted = plus(writer->wanted, taken);
    if (taken > room) {
        return check_block(writer->list, 0, writer->wanted, error);
    }
    writer->texts = back - taken;
    return CLEAT_OK;
}

enum cleat_status cleat_tools_begin(struct cleat_tools_writer *writer,
                                    void *block, size_t bytes,
                                    enum cleat_tools_kind kind,
                                    struct cleat_text server,
                                    struct cleat_error *error)
{
    size_t needed = plus(sizeof *writer->list, server.bytes);
    enum cleat_status status;

    CLEAT_ASSERT(writer != NULL);
    CLEAT_ASSERT(server.text != NULL || server.bytes == 0);
    if (bytes > BLOCK_MAX) { bytes = BLOCK_MAX; }
    status = check_block(block, bytes, needed, error);
    if (status != CLEAT_OK) { return status; }
    writer->list = block;
    writer->bytes = bytes;
    writer->texts = bytes;
    writer->wanted = slice_offset(0);
    memset(writer->list, 0, sizeof *writer->list);
    writer->list->kind = kind;
    return store(writer, &server, 0, 1, error);
}

enum cleat_status cleat_tools_add(struct cleat_tools_writer *writer,
                                  const struct cleat_tool *tool,
                                  struct cleat_error *error)
{
    struct cleat_tools *list = writer->list;
    enum cleat_status status;
    uint32_t same;

    CLEAT_ASSERT(tool != NULL);
    CLEAT_ASSERT(list->magic != MAGIC);
    if (tool->name.bytes == 0 && tool->class_name.bytes == 0) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, 1, 0,
                            "tools: a tool needs a name or a class");
    }
    if (cleat_tools_find(list, tool->name.text, tool->name.bytes, &same) ==
        CLEAT_OK) {
        return CLEAT_REFUSE(error, CLEAT_EXISTS, same, 0,
                            "tools: the name is there already");
    }
    status = store(writer, (const struct cleat_text *)(const void *)tool,
                   slices_count(list->count), TEXTS, error);
    if (status == CLEAT_OK) { list->count++; }
    CLEAT_ASSERT(slice_offset(slices_count(list->count)) <= writer->texts);
    return status;
}

void cleat_tools_leave_out(struct cleat_tools_writer *writer)
{
    CLEAT_ASSERT(writer != NULL);
    CLEAT_ASSERT(writer->list->magic != MAGIC);
    writer->list->left_out++;
}

enum cleat_status cleat_tools_end(struct cleat_tools_writer *writer,
                                  const struct cleat_tools **tools,
                                  struct cleat_error *error)
{
    struct cleat_tools *list = writer->list;
    struct cleat_tools_slice *slices = slice_at(list, 0);
    size_t count = slices_count(list->count);
    size_t gap = writer->texts - slice_offset(count);
    char *texts = (char *)list + writer->texts;
    enum cleat_status status = check_block(list, writer->bytes, writer->wanted,
                                           error);

    CLEAT_ASSERT(tools != NULL);
    CLEAT_ASSERT(list->magic != MAGIC);
    *tools = NULL;
    if (status != CLEAT_OK) { return status; }
    CLEAT_ASSERT(writer->bytes - gap == writer->wanted);
    memmove(texts - gap, texts, writer->bytes - writer->texts);
    for (size_t i = 0; i < count; i++) { slices[i].offset -= (uint32_t)gap; }
    list->magic = MAGIC;
    list->bytes = (uint32_t)writer->wanted;
    list->digest = digest_of(list);
    *tools = list;
    return CLEAT_OK;
}
