/* Cleat: the framer of lines. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "port/mcp/lines.h"

#define LINE_MAX 16u
#define SAID_MAX 512u

/* What came out: each line between brackets; '!' where one was too long, the
 * count of what is left behind it. */
struct said {
    char text[SAID_MAX];
    size_t bytes;
};

static void say(struct said *said, const char *text, size_t bytes)
{
    assert_true(said->bytes + bytes < SAID_MAX);
    memcpy(said->text + said->bytes, text, bytes);
    said->bytes += bytes;
    said->text[said->bytes] = '\0';
}

/* Feeds a stream in pieces of `piece` bytes. */
static void feed(const char *stream, size_t bytes, size_t piece,
                 struct said *said)
{
    char room[MCP_LINES_BYTES(LINE_MAX)];
    struct mcp_lines lines;
    struct cleat_text line;
    size_t fed = 0;
    enum cleat_status status = CLEAT_PENDING;

    memset(said, 0, sizeof *said);
    mcp_lines_init(&lines, room, LINE_MAX);
    while (fed < bytes && status != CLEAT_LIMIT) {
        size_t free_bytes;
        char *to = mcp_lines_room(&lines, &free_bytes);
        size_t now = bytes - fed < piece ? bytes - fed : piece;
        assert_true(free_bytes > 0);
        if (now > free_bytes) { now = free_bytes; }
        memcpy(to, stream + fed, now);
        mcp_lines_filled(&lines, now);
        fed += now;
        status = mcp_lines_next(&lines, &line);
        while (status == CLEAT_OK) {
            say(said, "[", 1);
            say(said, line.text, line.bytes);
            say(said, "]", 1);
            status = mcp_lines_next(&lines, &line);
        }
    }
    if (status == CLEAT_LIMIT) {
        size_t free_bytes;
        say(said, "!", 1);
        (void)mcp_lines_room(&lines, &free_bytes);
        assert_int_equal(free_bytes, 0);
        assert_int_equal(mcp_lines_next(&lines, &line), CLEAT_LIMIT);
    } else if (mcp_lines_rest(&lines) > 0) {
        say(said, "+", 1);
    }
}

/* In all pieces it must be the same. */
static void expect(const char *stream, size_t bytes, const char *expected,
                   size_t expected_bytes)
{
    struct said said;

    for (size_t piece = 1; piece <= bytes; piece++) {
        feed(stream, bytes, piece, &said);
        assert_int_equal(said.bytes, expected_bytes);
        assert_memory_equal(said.text, expected, expected_bytes);
    }
}

#define EXPECT(stream, expected) \
    expect(stream, sizeof(stream) - 1, expected, sizeof(expected) - 1)

static void lines_end_in_lf_or_in_cr_lf(void **state)
{
    (void)state;
    EXPECT("one\ntwo\r\n\n\r\nfive\n", "[one][two][][][five]");
}

static void only_the_cr_before_the_lf_is_left_out(void **state)
{
    (void)state;
    EXPECT("a\rb\n\r\r\nc\r\r\n", "[a\rb][\r][c\r]");
}

static void
a_nul_and_a_byte_that_is_no_character_are_bytes_of_the_line(void **state)
{
    (void)state;
    EXPECT("a\0b\n\xff\xfe\n", "[a\0b][\xff\xfe]");
}

static void what_has_not_ended_is_no_line(void **state)
{
    (void)state;
    EXPECT("done\nhalf", "[done]+");
    EXPECT("half\r", "+");
    EXPECT("done\n", "[done]");
}

static void a_line_of_just_the_limit_passes_however_it_ends(void **state)
{
    (void)state;
    EXPECT("0123456789abcdef\n", "[0123456789abcdef]");
    EXPECT("0123456789abcdef\r\nx\n", "[0123456789abcdef][x]");
    EXPECT("0123456789abcdef\r", "+");
    EXPECT("0123456789abcdef", "+");
}

static void one_byte_more_is_too_long_however_it_ends(void **state)
{
    (void)state;
    EXPECT("x\n0123456789abcdefg\n", "[x]!");
    EXPECT("x\n0123456789abcdefg\r\n", "[x]!");
    EXPECT("x\n0123456789abcdef\r\r\n", "[x]!");
    EXPECT("x\n0123456789abcdefg", "[x]!");
    EXPECT("x\n0123456789abcdef\rg\n", "[x]!");
}

static void what_comes_behind_one_that_is_too_long_is_not_read(void **state)
{
    (void)state;
    EXPECT("0123456789abcdefghijklmnopqrstuvwxyz\nx\n", "!");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_end_in_lf_or_in_cr_lf),
        cmocka_unit_test(only_the_cr_before_the_lf_is_left_out),
        cmocka_unit_test(
            a_nul_and_a_byte_that_is_no_character_are_bytes_of_the_line),
        cmocka_unit_test(what_has_not_ended_is_no_line),
        cmocka_unit_test(a_line_of_just_the_limit_passes_however_it_ends),
        cmocka_unit_test(one_byte_more_is_too_long_however_it_ends),
        cmocka_unit_test(what_comes_behind_one_that_is_too_long_is_not_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
