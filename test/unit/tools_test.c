/* Cleat: lists of tools, text by text. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <string.h>

#include "cleat/tools.h"

/* What the layout costs, from the header: a head, and two numbers a text. */
enum { HEAD = 32, ENTRY = 9 * 8 };

#define TEXT(literal)                \
    (struct cleat_text)              \
    {                                \
        literal, sizeof(literal) - 1 \
    }

/* As servers send them. */
static const char search_json[] =
    "{\"name\":\"search\",\"title\":\"Search\",\"description\":\"Finds it.\","
    "\"inputSchema\":{\"type\":\"object\",\"$defs\":{\"q\":{}}},"
    "\"outputSchema\":{\"type\":\"array\"},\"annotations\":{\"a\":1}}";

struct fixture {
    uint64_t block[256];
    uint64_t other[256];
    struct cleat_tools_writer writer;
    const struct cleat_tools *list;
    struct cleat_error error;
};

static struct cleat_text slice(const char *of, const char *what)
{
    const char *at = strstr(of, what);

    assert_non_null(at);
    return (struct cleat_text){at, strlen(what)};
}

/* Its schemas inside its definition, its name with a prefix. */
static struct cleat_tool search_tool(void)
{
    static const char name[] = "web_search";
    struct cleat_tool tool;

    memset(&tool, 0, sizeof tool);
    tool.definition = TEXT(search_json);
    tool.name = TEXT(name);
    tool.wire_name = slice(name, "search");
    tool.title = TEXT("Search");
    tool.description = TEXT("Finds \xC3\xA9verything.");
    tool.input_schema = slice(search_json,
                              "{\"type\":\"object\",\"$defs\":{\"q\":{}}}");
    tool.output_schema = slice(search_json, "{\"type\":\"array\"}");
    tool.annotations = slice(search_json, "{\"a\":1}");
    tool.class_name = TEXT("verl.tools.mcp_search_tool.MCPSearchTool");
    return tool;
}

/* With a name, and nothing else. */
static struct cleat_tool named(const char *name)
{
    struct cleat_tool tool;

    memset(&tool, 0, sizeof tool);
    tool.name = (struct cleat_text){name, strlen(name)};
    return tool;
}

static void begin(struct fixture *f, size_t bytes)
{
    memset(f, 0xA5, sizeof *f);
    assert_int_equal(cleat_tools_begin(&f->writer, f->block, bytes,
                                       CLEAT_TOOLS_MCP, TEXT("web"), &f->error),
                     CLEAT_OK);
}

static void add(struct fixture *f, struct cleat_tool tool)
{
    assert_int_equal(cleat_tools_add(&f->writer, &tool, &f->error), CLEAT_OK);
}

static void end(struct fixture *f)
{
    assert_int_equal(cleat_tools_end(&f->writer, &f->list, &f->error),
                     CLEAT_OK);
    assert_ptr_equal(f->list, f->block);
}

static void assert_text(struct cleat_text got, struct cleat_text expected)
{
    assert_non_null(got.text);
    assert_int_equal(got.bytes, expected.bytes);
    if (expected.bytes > 0) {
        assert_memory_equal(got.text, expected.text, expected.bytes);
    }
}

static void assert_tool(const struct cleat_tools *list, uint32_t number,
                        struct cleat_tool expected)
{
    struct cleat_tool tool;

    cleat_tools_at(list, number, &tool);
    assert_text(tool.definition, expected.definition);
    assert_text(tool.name, expected.name);
    assert_text(tool.wire_name, expected.wire_name);
    assert_text(tool.title, expected.title);
    assert_text(tool.description, expected.description);
    assert_text(tool.input_schema, expected.input_schema);
    assert_text(tool.output_schema, expected.output_schema);
    assert_text(tool.annotations, expected.annotations);
    assert_text(tool.class_name, expected.class_name);
    assert_text(tool.server, TEXT("web"));
}

/* --- reading -----------------------------------------------------------------
 */

static void a_list_gives_back_what_was_written_in_its_order(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, sizeof f.block);
    add(&f, search_tool());
    add(&f, named("b"));
    add(&f, named("a"));
    end(&f);
    assert_int_equal(cleat_tools_count(f.list), 3);
    assert_int_equal(cleat_tools_left_out(f.list), 0);
    assert_false(cleat_tools_is_native(f.list));
    assert_tool(f.list, 0, search_tool());
    assert_tool(f.list, 1, named("b"));
    assert_tool(f.list, 2, named("a"));
}

static void what_is_absent_has_no_bytes_and_is_not_null(void **state)
{
    struct cleat_text nothing = {NULL, 0};
    struct fixture f;

    (void)state;
    memset(&f, 0, sizeof f);
    assert_int_equal(cleat_tools_begin(&f.writer, f.block, sizeof f.block,
                                       CLEAT_TOOLS_NATIVE, nothing, NULL),
                     CLEAT_OK);
    add(&f, named("x"));
    end(&f);
    assert_true(cleat_tools_is_native(f.list));
    {
        struct cleat_tool tool;

        cleat_tools_at(f.list, 0, &tool);
        assert_text(tool.server, nothing);
        assert_text(tool.definition, nothing);
        assert_text(tool.class_name, nothing);
    }
}

static void a_list_of_nothing_is_a_list(void **state)
{
    uint32_t number = 7;
    struct fixture f;

    (void)state;
    begin(&f, sizeof f.block);
    end(&f);
    assert_int_equal(cleat_tools_count(f.list), 0);
    assert_int_equal(cleat_tools_bytes(f.list), HEAD + 3);
    assert_int_equal(cleat_tools_find(f.list, "x", 1, &number),
                     CLEAT_NOT_FOUND);
    assert_int_equal(cleat_tools_check(f.block, sizeof f.block, &f.list, NULL),
                     CLEAT_OK);
}

static void a_text_inside_another_is_stored_once(void **state)
{
    struct cleat_tool tool = search_tool();
    struct cleat_tool got;
    struct fixture f;

    (void)state;
    begin(&f, sizeof f.block);
    add(&f, tool);
    end(&f);
    assert_int_equal(cleat_tools_bytes(f.list),
                     HEAD + ENTRY + 3 + tool.definition.bytes +
                         tool.name.bytes + tool.title.bytes +
                         tool.description.bytes + tool.class_name.bytes);
    cleat_tools_at(f.list, 0, &got);
    assert_ptr_equal(got.input_schema.text - got.definition.text,
                     tool.input_schema.text - tool.definition.text);
    assert_ptr_equal(got.wire_name.text - got.name.text, 4);
}

static void a_text_from_elsewhere_is_stored_too(void **state)
{
    static const char schema[] = "{\"type\":\"object\"}";
    struct cleat_tool tool = named("x");
    struct fixture f;

    (void)state;
    tool.definition = TEXT("{}");
    tool.input_schema = TEXT(schema);
    /* It begins inside, and goes on behind. */
    tool.output_schema = (struct cleat_text){schema + 5, sizeof schema - 5};
    begin(&f, sizeof f.block);
    add(&f, tool);
    end(&f);
    assert_int_equal(cleat_tools_bytes(f.list), HEAD + ENTRY + 3 + 1 + 2 +
                                                    (sizeof schema - 1) +
                                                    (sizeof schema - 5));
    assert_tool(f.list, 0, tool);
}

static void a_tool_is_found_by_its_whole_name_only(void **state)
{
    struct cleat_tool classy = named("");
    struct fixture f;
    uint32_t number = 9;

    (void)state;
    classy.class_name = TEXT("a.B");
    begin(&f, sizeof f.block);
    add(&f, classy);
    add(&f, named("read"));
    add(&f, named("read_file"));
    end(&f);
    assert_int_equal(cleat_tools_find(f.list, "rea", 3, &number),
                     CLEAT_NOT_FOUND);
    assert_int_equal(cleat_tools_find(f.list, "Read", 4, &number),
                     CLEAT_NOT_FOUND);
    assert_int_equal(cleat_tools_find(f.list, "", 0, &number), CLEAT_NOT_FOUND);
    assert_int_equal(cleat_tools_find(f.list, NULL, 0, &number),
                     CLEAT_NOT_FOUND);
    assert_int_equal(number, 9);
    assert_int_equal(cleat_tools_find(f.list, "read_file", 9, &number),
                     CLEAT_OK);
    assert_int_equal(number, 2);
    assert_int_equal(cleat_tools_find(f.list, "read", 4, &number), CLEAT_OK);
    assert_int_equal(number, 1);
}

/* --- copying -----------------------------------------------------------------
 */

static void a_copy_is_isolated_and_reads_the_same_elsewhere(void **state)
{
    const struct cleat_tools *copy;
    struct fixture f;
    size_t bytes;

    (void)state;
    begin(&f, sizeof f.block);
    add(&f, named("first"));
    add(&f, search_tool());
    end(&f);
    bytes = cleat_tools_bytes(f.list);
    assert_int_equal(cleat_tools_copy(f.list, f.other, bytes, &copy, NULL),
                     CLEAT_OK);
    assert_ptr_equal(copy, f.other);
    memset(f.block, 0, sizeof f.block);
    assert_tool(copy, 0, named("first"));
    assert_tool(copy, 1, search_tool());
}

static void a_copy_needs_its_room_and_an_aligned_block(void **state)
{
    const struct cleat_tools *copy;
    struct fixture f;

    (void)state;
    begin(&f, sizeof f.block);
    add(&f, search_tool());
    end(&f);
    copy = f.list;
    assert_int_equal(cleat_tools_copy(f.list, f.other,
                                      cleat_tools_bytes(f.list) - 1, &copy,
                                      &f.error),
                     CLEAT_TOO_SMALL);
    assert_null(copy);
    assert_int_equal(f.error.offset, cleat_tools_bytes(f.list));
    assert_int_equal(
        cleat_tools_copy(f.list, NULL, sizeof f.other, &copy, NULL),
        CLEAT_INVALID);
    assert_int_equal(cleat_tools_copy(f.list, (char *)f.other + 4,
                                      sizeof f.other - 4, &copy, NULL),
                     CLEAT_INVALID);
    assert_int_equal(((unsigned char *)f.other)[4], 0xA5);
}

/* --- writing -----------------------------------------------------------------
 */

static void a_name_is_in_a_list_once(void **state)
{
    struct cleat_tool again = search_tool();
    struct cleat_tool classy = named("");
    struct fixture f;
    size_t bytes;

    (void)state;
    classy.class_name = TEXT("a.B");
    begin(&f, sizeof f.block);
    add(&f, classy);
    add(&f, classy); /* two that have no name do not have the same one */
    add(&f, search_tool());
    bytes = f.writer.wanted;
    again.title = TEXT("Another");
    assert_int_equal(cleat_tools_add(&f.writer, &again, &f.error),
                     CLEAT_EXISTS);
    assert_int_equal(f.error.index, 2);
    cleat_tools_leave_out(&f.writer);
    cleat_tools_leave_out(&f.writer);
    end(&f);
    assert_int_equal(cleat_tools_count(f.list), 3);
    assert_int_equal(cleat_tools_left_out(f.list), 2);
    assert_int_equal(cleat_tools_bytes(f.list), bytes);
    assert_tool(f.list, 2, search_tool());
}

static void a_tool_has_a_name_or_a_class(void **state)
{
    struct cleat_tool tool = named("");
    struct fixture f;

    (void)state;
    tool.definition = TEXT("{}");
    begin(&f, sizeof f.block);
    assert_int_equal(cleat_tools_add(&f.writer, &tool, &f.error),
                     CLEAT_INVALID);
    tool.class_name = TEXT("a.B");
    add(&f, tool);
    end(&f);
    assert_int_equal(cleat_tools_count(f.list), 1);
}

static void a_block_is_there_and_aligned(void **state)
{
    struct fixture f;

    (void)state;
    assert_int_equal(cleat_tools_begin(&f.writer, NULL, sizeof f.block,
                                       CLEAT_TOOLS_MCP, TEXT("web"), &f.error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_tools_begin(&f.writer, (char *)f.block + 1,
                                       sizeof f.block - 1, CLEAT_TOOLS_MCP,
                                       TEXT("web"), &f.error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_tools_begin(&f.writer, f.block, HEAD + 2,
                                       CLEAT_TOOLS_MCP, TEXT("web"), &f.error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(f.error.offset, HEAD + 3);
    assert_int_equal(cleat_tools_begin(&f.writer, f.block, 0, CLEAT_TOOLS_MCP,
                                       TEXT("web"), &f.error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(f.error.offset, HEAD + 3);
}

/* Every size of block from the smallest that can begin. */
static void a_block_that_is_too_small_says_what_would_be_enough(void **state)
{
    struct cleat_tool tools[3] = {named("one"), search_tool(), named("three")};
    struct fixture f;
    size_t whole;

    (void)state;
    begin(&f, sizeof f.block);
    for (int i = 0; i < 3; i++) { add(&f, tools[i]); }
    end(&f);
    whole = cleat_tools_bytes(f.list);
    for (size_t bytes = HEAD + 3; bytes < whole; bytes++) {
        bool refused = false;

        begin(&f, bytes);
        for (int i = 0; i < 3; i++) {
            refused |= cleat_tools_add(&f.writer, &tools[i], &f.error) ==
                       CLEAT_TOO_SMALL;
        }
        assert_true(refused);
        assert_true(f.error.offset <= whole && f.error.offset > bytes);
        f.list = (const void *)&f;
        assert_int_equal(cleat_tools_end(&f.writer, &f.list, &f.error),
                         CLEAT_TOO_SMALL);
        assert_int_equal(f.error.offset, whole);
        assert_null(f.list);
        assert_int_equal(((unsigned char *)f.block)[bytes], 0xA5);
    }
    begin(&f, whole);
    for (int i = 0; i < 3; i++) { add(&f, tools[i]); }
    end(&f);
    assert_tool(f.list, 1, search_tool());
}

static void a_tool_that_does_not_fit_leaves_the_others_as_they_are(void **state)
{
    struct cleat_tool wide = named("wide");
    static char much[4096];
    struct fixture f;
    uint32_t number;

    (void)state;
    memset(much, 'x', sizeof much);
    wide.description = (struct cleat_text){much, sizeof much};
    begin(&f, sizeof f.block);
    add(&f, search_tool());
    assert_int_equal(cleat_tools_add(&f.writer, &wide, &f.error),
                     CLEAT_TOO_SMALL);
    add(&f, named("small"));
    assert_int_equal(
        cleat_tools_find((const void *)f.block, "wide", 4, &number),
        CLEAT_NOT_FOUND);
    assert_tool((const void *)f.block, 0, search_tool());
    assert_tool((const void *)f.block, 1, named("small"));
}

static void a_text_longer_than_any_memory_is_refused(void **state)
{
    struct cleat_tool tool = named("x");
    struct fixture f;

    (void)state;
    begin(&f, sizeof f.block);
    tool.title = (struct cleat_text){"t", SIZE_MAX - 1};
    tool.description = (struct cleat_text){"d", SIZE_MAX - 2};
    assert_int_equal(cleat_tools_add(&f.writer, &tool, &f.error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(f.error.offset, SIZE_MAX);
    assert_int_equal(cleat_tools_add(&f.writer, &tool, &f.error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(f.error.offset, SIZE_MAX);
}

/* --- checking ----------------------------------------------------------------
 */

/* CRC32C, one bit at a time: the test's own. */
static uint32_t model_crc(const unsigned char *data, size_t bytes)
{
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1u) ? 0x82F63B78u : 0);
        }
    }
    return ~crc;
}

/* The numbers of a list: 0 magic, 1 digest, 2 bytes, 3 count, 6 and 7 the
 * server's slice, then the entries'. */
static uint32_t number_at(const struct fixture *f, size_t at)
{
    uint32_t number;

    memcpy(&number, (const char *)f->block + 4 * at, sizeof number);
    return number;
}

/* Sets a number of a sound list of two tools, gives it a digest that is right,
 * and expects that answer. */
static void expect(size_t at, uint32_t value, enum cleat_status status,
                   uint64_t offset)
{
    struct fixture f;
    uint32_t bytes;
    uint32_t crc;

    begin(&f, sizeof f.block);
    add(&f, search_tool());
    add(&f, named("b"));
    end(&f);
    bytes = number_at(&f, 2);
    memcpy((char *)f.block + 4 * at, &value, sizeof value);
    crc = model_crc((unsigned char *)f.block + 8, bytes - 8);
    memcpy((char *)f.block + 4, &crc, sizeof crc);
    assert_int_equal(cleat_tools_check(f.block, bytes, &f.list, &f.error),
                     status);
    if (status == CLEAT_OK) { return; }
    assert_null(f.list);
    assert_int_equal(f.error.status, status);
    assert_int_equal(f.error.offset, offset);
}

static void a_block_that_lies_is_refused_where_it_lies(void **state)
{
    uint32_t whole;
    struct fixture f;

    (void)state;
    begin(&f, sizeof f.block);
    add(&f, search_tool());
    add(&f, named("b"));
    end(&f);
    whole = number_at(&f, 2);
    expect(3, 2, CLEAT_OK, 0); /* as it was */
    expect(0, 0, CLEAT_MALFORMED, 0);
    expect(2, HEAD - 1, CLEAT_MALFORMED, 0);
    expect(2, 0, CLEAT_MALFORMED, 0);
    expect(2, whole + 1, CLEAT_MALFORMED, 0);
    expect(2, UINT32_MAX, CLEAT_MALFORMED, 0);
    expect(2, whole - 1, CLEAT_CORRUPT, 0);
    expect(3, UINT32_MAX, CLEAT_MALFORMED, 0);
    expect(3, (whole - HEAD) / ENTRY + 1, CLEAT_MALFORMED, 0);
    expect(6, HEAD - 1, CLEAT_MALFORMED, 24);
    expect(6, 0, CLEAT_MALFORMED, 24);
    expect(6, whole + 1, CLEAT_MALFORMED, 24);
    expect(6, UINT32_MAX, CLEAT_MALFORMED, 24);
    expect(7, whole, CLEAT_MALFORMED, 24);
    expect(7, UINT32_MAX, CLEAT_MALFORMED, 24);
    expect(8 + 18 * 2 - 2, whole + 1, CLEAT_MALFORMED, 32 + 8 * 17);
    expect(8 + 18 * 2 - 1, UINT32_MAX, CLEAT_MALFORMED, 32 + 8 * 17);
    expect(8 + 2, HEAD, CLEAT_OK, 0); /* a text elsewhere, but inside */
}

static void a_list_of_another_digest_is_corrupt(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, sizeof f.block);
    add(&f, search_tool());
    end(&f);
    assert_int_equal(
        cleat_tools_digest(f.list),
        model_crc((unsigned char *)f.block + 8, cleat_tools_bytes(f.list) - 8));
    ((unsigned char *)f.block)[20] ^= 1; /* how many are left out */
    assert_int_equal(
        cleat_tools_check(f.block, sizeof f.block, &f.list, &f.error),
        CLEAT_CORRUPT);
    assert_null(f.list);
}

static void a_block_without_a_list_is_refused(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, sizeof f.block);
    add(&f, search_tool());
    /* It has not been ended. */
    assert_int_equal(cleat_tools_check(f.block, sizeof f.block, &f.list, NULL),
                     CLEAT_MALFORMED);
    assert_int_equal(cleat_tools_check(NULL, 0, &f.list, NULL), CLEAT_INVALID);
    assert_int_equal(cleat_tools_check((char *)f.block + 4, 64, &f.list, NULL),
                     CLEAT_INVALID);
    assert_int_equal(cleat_tools_check(f.block, 0, &f.list, NULL),
                     CLEAT_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_gives_back_what_was_written_in_its_order),
        cmocka_unit_test(what_is_absent_has_no_bytes_and_is_not_null),
        cmocka_unit_test(a_list_of_nothing_is_a_list),
        cmocka_unit_test(a_text_inside_another_is_stored_once),
        cmocka_unit_test(a_text_from_elsewhere_is_stored_too),
        cmocka_unit_test(a_tool_is_found_by_its_whole_name_only),
        cmocka_unit_test(a_copy_is_isolated_and_reads_the_same_elsewhere),
        cmocka_unit_test(a_copy_needs_its_room_and_an_aligned_block),
        cmocka_unit_test(a_name_is_in_a_list_once),
        cmocka_unit_test(a_tool_has_a_name_or_a_class),
        cmocka_unit_test(a_block_is_there_and_aligned),
        cmocka_unit_test(a_block_that_is_too_small_says_what_would_be_enough),
        cmocka_unit_test(
            a_tool_that_does_not_fit_leaves_the_others_as_they_are),
        cmocka_unit_test(a_text_longer_than_any_memory_is_refused),
        cmocka_unit_test(a_block_that_lies_is_refused_where_it_lies),
        cmocka_unit_test(a_list_of_another_digest_is_corrupt),
        cmocka_unit_test(a_block_without_a_list_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
