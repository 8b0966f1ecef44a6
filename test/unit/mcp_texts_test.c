/* Cleat: texts that are held, and secrets that are hidden.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "port/mcp/command.h"
#include "port/mcp/secrets.h"
#include "port/mcp/texts.h"

/* ---- texts -------------------------------------------------------------- */

#define ENTRIES 4u
#define ROOM 32u

struct world {
    struct mcp_texts texts;
    struct mcp_texts_entry entries[ENTRIES];
    char room[ROOM];
};

static void begin(struct world *world)
{
    mcp_texts_init(&world->texts, world->entries, ENTRIES, world->room, ROOM);
}

static uint32_t hold(struct world *world, const char *text)
{
    struct cleat_text it = {text, strlen(text)};

    return mcp_texts_hold(&world->texts, it);
}

static void expect(struct world *world, uint32_t handle, const char *text)
{
    struct cleat_text it = mcp_texts_at(&world->texts, handle);

    assert_int_equal(it.bytes, strlen(text));
    assert_string_equal(it.text, text); /* a NUL behind it */
}

static void the_same_text_is_kept_once(void **state)
{
    struct world world;

    (void)state;
    begin(&world);
    uint32_t one = hold(&world, "one");
    uint32_t two = hold(&world, "two");
    assert_int_equal(hold(&world, "one"), one);
    assert_int_not_equal(one, two);
    mcp_texts_release(&world.texts, one);
    expect(&world, one, "one");
    mcp_texts_share(&world.texts, two);
    mcp_texts_release(&world.texts, two);
    expect(&world, two, "two");
    assert_int_equal(hold(&world, ""), hold(&world, ""));
}

static void room_that_is_let_go_is_used_again(void **state)
{
    struct world world;

    (void)state;
    begin(&world);
    uint32_t a = hold(&world, "0123456789"); /* 11 bytes of 32 */
    uint32_t b = hold(&world, "abcdefghij");
    uint32_t c = hold(&world, "ABCDEFGHI");
    assert_int_equal(hold(&world, "x"), MCP_TEXTS_NOTHING);
    mcp_texts_release(&world.texts, b);
    assert_int_equal(hold(&world, "more than fits"), MCP_TEXTS_NOTHING);
    uint32_t d = hold(&world, "just fits!");
    expect(&world, a, "0123456789");
    expect(&world, d, "just fits!");
    expect(&world, c, "ABCDEFGHI");
}

static void
there_are_no_more_texts_than_entries_nor_bytes_than_room(void **state)
{
    struct world world;
    char text[ROOM + 1];

    (void)state;
    begin(&world);
    memset(text, 'x', ROOM);
    text[ROOM] = '\0';
    assert_int_equal(hold(&world, text), MCP_TEXTS_NOTHING);
    text[ROOM - 1] = '\0';
    uint32_t all = hold(&world, text);
    expect(&world, all, text);
    assert_int_equal(hold(&world, ""), MCP_TEXTS_NOTHING);
    mcp_texts_release(&world.texts, all);
    for (uint32_t i = 0; i < ENTRIES; i++) {
        char one[2] = {(char)('a' + (int)i), '\0'};
        assert_int_not_equal(hold(&world, one), MCP_TEXTS_NOTHING);
    }
    assert_int_equal(hold(&world, "e"), MCP_TEXTS_NOTHING);
    assert_int_not_equal(hold(&world, "a"), MCP_TEXTS_NOTHING);
}

/* Held and let go at random: what is held never changes. */
static void what_is_held_never_changes(void **state)
{
    struct world world;
    uint32_t held[64];
    char texts[64][8];
    size_t count = 0;
    uint64_t seed = 88172645463325252u;

    (void)state;
    begin(&world);
    for (int step = 0; step < 20000; step++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        if (seed % 2 == 0 && count < 64) {
            size_t bytes = seed >> 8 & 7;
            memset(texts[count], 'a' + (int)(seed >> 16 & 3), bytes);
            texts[count][bytes % 8] = '\0';
            held[count] = hold(&world, texts[count]);
            if (held[count] != MCP_TEXTS_NOTHING) { count++; }
        } else if (count > 0) {
            size_t which = (size_t)(seed >> 8) % count;
            mcp_texts_release(&world.texts, held[which]);
            count--;
            held[which] = held[count];
            memcpy(texts[which], texts[count], 8);
        }
        for (size_t i = 0; i < count; i++) {
            expect(&world, held[i], texts[i]);
        }
    }
}

/* ---- secrets ------------------------------------------------------------ */

static void hide(const char *definition, const char *text, const char *expected)
{
    struct mcp_server server;
    char said[256];

    assert_int_equal(
        mcp_server_open(&server, definition, strlen(definition), NULL),
        CLEAT_OK);
    (void)snprintf(said, sizeof said, "%s", text);
    size_t bytes = mcp_secrets_hide(&server, said, strlen(said));
    assert_true(bytes <= strlen(text));
    said[bytes] = '\0';
    assert_string_equal(said, expected);
}

static const char http[] =
    "{\"server\":\"s\",\"url\":\"http://h/p?key=k3yk3y&x=1#f\",\"transport\":"
    "\"http\",\"headers\":{\"Authorization\":\"Bearer ab.cd\\u00e9\",\"X\":"
    "\"12\"},\"token\":\"t0k\\\"en\"}";
static const char stdio[] =
    "{\"server\":\"s\",\"command\":\"c\",\"args\":[\"argument\"],\"env\":{"
    "\"ONE\":\"s3cret\",\"TWO\":\"\",\"THREE\":\"yes\"}}";

static void each_kind_of_secret_is_hidden(void **state)
{
    (void)state;
    hide(stdio, "s3cret", "***");
    hide(stdio, "a s3cret, a s3crets3cret", "a ***, a ***");
    hide(http, "it was t0k\"en!", "it was ***!");
    hide(http, "Authorization: Bearer ab.cd\xc3\xa9.", "Authorization: ***.");
    hide(http, "just ab.cd\xc3\xa9.", "just ***.");
    hide(http, "GET /p?key=k3yk3y HTTP", "GET /p?key=*** HTTP");
}

static void what_is_no_secret_is_not(void **state)
{
    (void)state;
    hide(stdio, "yes, argument ONE", "yes, argument ONE");
    hide(http, "12 x=1 http://h/p", "12 x=1 http://h/p");
    hide(stdio, "", "");
}

static void a_secret_that_was_cut_is_hidden_too(void **state)
{
    (void)state;
    hide(stdio, "it is s3cr", "it is ***");
    hide(stdio, "it is s3cre", "it is ***");
    hide(stdio, "it is s3c", "it is s3c"); /* too short to be one */
    hide(http, "Bearer ab", "***");
}

static void a_secret_that_is_part_of_another_leaves_none_of_it(void **state)
{
    static const char inner[] =
        "{\"server\":\"s\",\"command\":\"c\",\"env\":{\"A\":\"abcdefgh\","
        "\"B\":\"abcdefghijklmnop\"}}";
    static const char overlapping[] =
        "{\"server\":\"s\",\"command\":\"c\",\"env\":{\"A\":\"aabaab\","
        "\"B\":\"aabaabaab\",\"C\":\"baabzz\"}}";

    (void)state;
    hide(inner, "bad abcdefghijklmnop", "bad ***");
    hide(inner, "bad abcdefgh!", "bad ***!");
    hide(overlapping, "is aabaabaab.", "is ***.");
    hide(overlapping, "is aabaabzz.", "is ***.");
}

static void a_line_of_a_secret_is_one(void **state)
{
    static const char lines[] =
        "{\"server\":\"s\",\"command\":\"c\",\"env\":{\"KEY\":"
        "\"-----BEGIN\\nFIRSTLINE\\r\\nLASTLINE\\n\"}}";

    (void)state;
    hide(lines, "exited: LASTLINE!", "exited: ***!");
    hide(lines, "exited: FIRSTLINE", "exited: ***");
    hide(lines, "exited: LAST", "exited: ***");
}

static void of_a_long_secret_the_beginning_is_looked_at(void **state)
{
    static char definition[20000];
    static char said[9000];
    struct mcp_server server;
    size_t used;

    (void)state;
    used = (size_t)snprintf(definition, sizeof definition,
                            "{\"server\":\"s\",\"command\":\"c\",\"env\":{"
                            "\"A\":\"");
    memset(definition + used, 'x', 10000);
    (void)snprintf(definition + used + 10000, 64, "\"}}");
    hide(definition, "exited with 3", "exited with 3");
    hide(definition, "it said xxxxxxxx", "it said ***");
    assert_int_equal(
        mcp_server_open(&server, definition, strlen(definition), NULL),
        CLEAT_OK);
    memset(said, 'x', sizeof said);
    assert_int_equal(mcp_secrets_hide(&server, said, sizeof said), 3);
    assert_memory_equal(said, "***", 3);
}

/* ---- texts for people --------------------------------------------------- */

static void print(const char *text, size_t bytes, size_t room,
                  const char *expected)
{
    char said[64];

    assert_true(room <= sizeof said);
    memset(said, 'x', sizeof said);
    mcp_printable(said, room, text, bytes);
    assert_string_equal(said, expected);
}

#define PRINT(text, expected) print(text, sizeof(text) - 1, 64, expected)

static void only_whole_characters_that_can_be_seen_are_printed(void **state)
{
    (void)state;
    PRINT("plain", "plain");
    PRINT("a\0b\tc\x1b[0m\x7f", "a?b?c?[0m?");
    PRINT("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80",
          "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
    PRINT("\xc2\x85", "?");                   /* a control character, C1 */
    PRINT("\xff \xc3", "? ?");                /* no characters */
    PRINT("\xed\xa0\x80", "???");             /* a surrogate */
    PRINT("\xc0\xaf \xe0\x80\xaf", "?? ???"); /* overlong */
    PRINT("\xf4\x90\x80\x80", "????");        /* beyond U+10FFFF */
    print("ab\xc3\xa9", 4, 4, "ab");          /* never half a one */
    print("ab\xc3\xa9", 4, 5, "ab\xc3\xa9");
    print("abc", 3, 1, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_text_is_kept_once),
        cmocka_unit_test(room_that_is_let_go_is_used_again),
        cmocka_unit_test(
            there_are_no_more_texts_than_entries_nor_bytes_than_room),
        cmocka_unit_test(what_is_held_never_changes),
        cmocka_unit_test(each_kind_of_secret_is_hidden),
        cmocka_unit_test(what_is_no_secret_is_not),
        cmocka_unit_test(a_secret_that_was_cut_is_hidden_too),
        cmocka_unit_test(a_secret_that_is_part_of_another_leaves_none_of_it),
        cmocka_unit_test(a_line_of_a_secret_is_one),
        cmocka_unit_test(of_a_long_secret_the_beginning_is_looked_at),
        cmocka_unit_test(only_whole_characters_that_can_be_seen_are_printed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
