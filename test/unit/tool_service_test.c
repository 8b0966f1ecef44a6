/* Cleat: the tool service, in virtual time. SPDX-License-Identifier:
 * Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tool_scene.h"

#define w scene_world

/* verl's numbers, without the jitter. */
#define EXACT                                                      \
    {                                                              \
        .base_ns = S, .max_ns = 30 * S, .deadline_ns = CLEAT_NONE, \
        .attempt_timeout_ns = 30 * S, .attempts_max = 3,           \
        .jitter = CLEAT_RETRY_JITTER_NONE                          \
    }
#define ONE_ATTEMPT                                                     \
    {                                                                   \
        .attempts_max = 1, .deadline_ns = CLEAT_NONE,                   \
        .attempt_timeout_ns = 30 * S, .jitter = CLEAT_RETRY_JITTER_NONE \
    }

/* clang-format off */
#define CONFIG(number, ...) {CLEAT_LOADER_CONFIG, 0, (number), {__VA_ARGS__}}
#define SOURCE(letter, number, ...) \
    {CLEAT_LOADER_SOURCE, (letter), (number), {__VA_ARGS__}}
#define LINES(...) .lines = {__VA_ARGS__}
#define PLAY(...) \
    do { \
        static const struct scene scene = {__VA_ARGS__}; \
        scene_play(&scene); \
    } while (0)
/* clang-format on */
#define TEST(sentence) static void sentence(void **nothing)
#define RUN(sentence) cmocka_unit_test(sentence)

/* A list is of these letters, each in this version. */
static bool is_of(const struct cleat_tool_list *list, const char *letters,
                  const char *versions)
{
    if (list->count != strlen(letters)) { return false; }
    for (uint32_t i = 0; i < list->count; i++) {
        if (tool_script_version(list->parts[i].tools, (uint8_t)letters[i]) !=
            (uint32_t)(versions[i] - '0')) {
            return false;
        }
    }
    return true;
}

/* Gets, looks and lets go. */
static void get_is(const char *path, const char *letters, const char *versions)
{
    struct cleat_tool_list list;

    check(scene_get(path, 100 * S, &list, NULL) == CLEAT_OK);
    check(is_of(&list, letters, versions));
    cleat_tools_unpin(&list);
}

static void get_says(const char *path, uint64_t timeout_ns,
                     enum cleat_status wanted, const char *text)
{
    struct cleat_tool_list list;
    struct cleat_error error = {0};
    enum cleat_status status = scene_get(path, timeout_ns, &list, &error);

    scene_check_says(status, wanted, &error, text);
    check(list.service == NULL && list.count == 0);
    cleat_tools_unpin(&list);
}

/* ---- hits --------------------------------------------------------------- */

static void act_second_get(void)
{
    struct cleat_tool_list list;
    struct cleat_tool_list again;
    uint32_t reads;

    check(scene_get("dir/ab", S, &list, NULL) == CLEAT_OK);
    check(is_of(&list, "ab", "11"));
    check(list.tools == 4 && !list.stale);
    check(w->script.configs == 1 && w->script.sources == 2);
    reads = w->clock_reads;
    check(scene_get("dir/ab", S, &again, NULL) == CLEAT_OK);
    check(w->clock_reads == reads);
    check(w->script.configs == 1 && w->script.sources == 2);
    check(again.parts[0].tools == list.parts[0].tools);
    check(again.parts[1].tools == list.parts[1].tools);
    check(again.sources == list.sources && again.tools == 4);
    cleat_tools_unpin(&list);
    cleat_tools_unpin(&again);
    cleat_tools_unpin(&again);
    /* Each get: the config and two sources. */
    check(scene_count().misses == 3 && scene_count().hits == 3);
    check(scene_count().loads == 3);
}

TEST(a_second_get_takes_no_load_and_reads_no_clock)
{
    (void)nothing;
    PLAY(.actors = {act_second_get});
}

static void act_paths(void)
{
    char path[80];
    struct cleat_tool_list list;

    for (uint32_t length = 1; length < 70; length++) {
        memset(path, '/', sizeof path);
        path[length - 1] = 'a';
        path[length] = '\0';
        for (uint32_t i = 0; i < 2; i++) {
            check(scene_get(path, S, &list, NULL) == CLEAT_OK);
            check(is_of(&list, "a", "1"));
            cleat_tools_unpin(&list);
        }
        check(w->script.configs == length);
    }
    /* One source, whatever the spelling of the config. */
    check(w->script.sources == 1);
}

TEST(a_path_of_any_length_hits_and_its_sources_are_shared)
{
    (void)nothing;
    PLAY(.config = {.slots_count = 100, .configs_max = 80},
         .actors = {act_paths});
}

static void act_many_paths(void)
{
    static const char *const paths[] = {"a", "b", "c", "ab"};

    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 4; i++) { get_is(paths[i], paths[i], "11"); }
    }
    check(w->script.configs == 4 && w->script.sources == 3);
}

TEST(more_paths_than_views_go_the_slow_way_and_load_nothing_again)
{
    (void)nothing;
    PLAY(.config = {.configs_max = 1}, .actors = {act_many_paths});
}

static void act_nothing(void)
{
    struct cleat_tool_list list;
    struct cleat_tool tool;
    uint32_t position = 0;

    check(scene_get(NULL, 0, &list, NULL) == CLEAT_OK && list.count == 0);
    check(scene_get("", 0, &list, NULL) == CLEAT_OK && list.count == 0);
    check(!cleat_tool_list_next(&list, &position, &tool));
    check(cleat_tool_list_bytes(&list) == 0);
    cleat_tools_unpin(&list);
    check(w->script.configs == 0);
    /* A config that names nothing is a config. */
    check(scene_get("dir/", S, &list, NULL) == CLEAT_OK && list.count == 0);
    check(list.sources != NULL && list.sources->count == 0);
    cleat_tools_unpin(&list);
    check(w->script.configs == 1);
    check(scene_get("dir/", S, &list, NULL) == CLEAT_OK);
    check(w->script.configs == 1);
    cleat_tools_unpin(&list);
}

TEST(no_path_is_the_empty_list_and_an_empty_config_is_too)
{
    (void)nothing;
    PLAY(.actors = {act_nothing});
}

static void act_lists(void)
{
    struct cleat_tool_list list;
    struct cleat_tool tool;
    uint32_t position = 0;
    uint32_t source = 9;
    char names[32] = "";

    check(scene_get("ab", S, &list, NULL) == CLEAT_OK);
    while (cleat_tool_list_next(&list, &position, &tool)) {
        strncat(names, tool.name.text, tool.name.bytes);
    }
    check(strcmp(names, "a.0a.1b.0b.1") == 0 && position == 4);
    check(cleat_tool_list_find(&list, "b.1", &tool, &source) == CLEAT_OK);
    check(source == 1 && memcmp(tool.name.text, "b.1", 3) == 0);
    check(cleat_tool_list_find(&list, "a.0", &tool, NULL) == CLEAT_OK);
    check(cleat_tool_list_find(&list, "a.", &tool, NULL) == CLEAT_NOT_FOUND);
    check(cleat_tool_list_find(&list, "", &tool, NULL) == CLEAT_NOT_FOUND);
    cleat_tools_unpin(&list);
}

TEST(a_list_is_walked_over_all_sources_in_order_and_searched_by_name)
{
    (void)nothing;
    PLAY(.actors = {act_lists});
}

/* ---- isolation ---------------------------------------------------------- */

static void act_copy(void)
{
    static uint64_t one[512];
    static uint64_t other[512];
    struct cleat_tool_list list;
    struct cleat_tool_list copy;
    struct cleat_tool_list second;
    struct cleat_error error;
    size_t bytes;

    check(scene_get("ab", S, &list, NULL) == CLEAT_OK);
    bytes = cleat_tool_list_bytes(&list);
    check(bytes > 0 && bytes % 8 == 0 && bytes < sizeof one);
    check(cleat_tool_list_copy(&list, one, bytes - 1, &copy, &error) ==
          CLEAT_TOO_SMALL);
    check(error.offset == bytes && copy.count == 0);
    check(cleat_tool_list_copy(&list, (char *)one + 4, bytes, &copy, &error) ==
          CLEAT_INVALID);
    check(cleat_tool_list_copy(&list, one, bytes, &copy, NULL) == CLEAT_OK);
    check(cleat_tool_list_copy(&copy, other, sizeof other, &second, NULL) ==
          CLEAT_OK);
    check(is_of(&copy, "ab", "11") && is_of(&second, "ab", "11"));
    check(copy.tools == 4 && copy.service == NULL && copy.sources == NULL);
    /* What one caller does to its own copy, nobody else sees. */
    memset(one, 0xFF, sizeof one);
    check(is_of(&list, "ab", "11") && is_of(&second, "ab", "11"));
    cleat_tools_unpin(&copy);
    cleat_tools_unpin(&list);
    get_is("ab", "ab", "11");
    check(is_of(&second, "ab", "11"));
}

TEST(a_copy_changed_by_one_caller_is_not_seen_by_another)
{
    (void)nothing;
    PLAY(.actors = {act_copy});
}

static void act_pinned(void)
{
    struct cleat_tool_list first;
    struct cleat_tool_list second;
    struct cleat_tool_list third;
    struct cleat_tool_list copy;

    check(scene_get("a", S, &first, NULL) == CLEAT_OK);
    check(cleat_tools_reload(w->service, "a", true) == CLEAT_OK);
    check(scene_get("a", S, &second, NULL) == CLEAT_OK);
    check(is_of(&first, "a", "1") && is_of(&second, "a", "2"));
    /* Four slots are pinned, and the two that are left serve all others. */
    for (char letter = 'b'; letter < 'z'; letter++) {
        char path[2] = {letter, '\0'};

        get_is(path, path, "1");
        check(is_of(&first, "a", "1") && is_of(&second, "a", "2"));
    }
    check(scene_count().evictions == 2 * ('z' - 'b') - 2);
    cleat_tools_pin(&first, &third);
    cleat_tools_pin(&third, &third);
    cleat_tools_unpin(&first);
    check(first.count == 0);
    get_is("m", "m", "2");
    get_is("n", "n", "2");
    check(is_of(&third, "a", "1"));
    cleat_tools_unpin(&third);
    /* Now what was replaced gives way first. */
    check(scene_get("x", S, &third, NULL) == CLEAT_OK);
    check(scene_get("y", S, &copy, NULL) == CLEAT_OK);
    check(is_of(&second, "a", "2"));
    check(is_of(&third, "x", "2") || is_of(&third, "x", "1"));
    cleat_tools_unpin(&third);
    cleat_tools_unpin(&copy);
    cleat_tools_unpin(&second);
}

TEST(what_is_pinned_stays_readable_while_it_is_replaced_and_evicted)
{
    (void)nothing;
    PLAY(.config = {.slots_count = 6}, .actors = {act_pinned});
}

/* ---- waiting ------------------------------------------------------------ */

static void act_parallel(void)
{
    get_is("abc", "abc", "111");
    /* The config, and then the slowest of the three. */
    check(scene_now() == 10 * MS + 300 * MS);
}

TEST(sources_of_a_config_load_at_the_same_time)
{
    (void)nothing;
    PLAY(.actors = {act_parallel}, LINES(CONFIG(0, .after_ns = 10 * MS),
                                         SOURCE('a', 0, .after_ns = 100 * MS),
                                         SOURCE('b', 0, .after_ns = 300 * MS),
                                         SOURCE('c', 0, .after_ns = 200 * MS)));
}

static void act_shared_load(void)
{
    get_is("a", "a", "1");
    check(scene_now() == 50 * MS);
}

TEST(callers_that_come_together_share_one_load)
{
    (void)nothing;
    PLAY(.actors = {act_shared_load, act_shared_load},
         LINES(SOURCE('a', 0, .after_ns = 50 * MS)));
    assert_int_equal(scene_world->script.configs, 1);
    assert_int_equal(scene_world->script.sources, 1);
}

static void act_leaves(void)
{
    get_says("a", 5 * S, CLEAT_DEADLINE,
             "a: server a: not there by the deadline");
    check(scene_now() == 5 * S);
    scene_wait_until(20 * S);
    /* The load went on. */
    get_is("a", "a", "1");
    check(scene_now() == 20 * S && w->script.sources == 1);
}

static void act_stays(void)
{
    scene_wait_until(1 * S);
    get_is("a", "a", "1");
    check(scene_now() == 9 * S);
}

TEST(each_waits_no_longer_than_it_said_and_the_load_goes_on)
{
    (void)nothing;
    PLAY(.actors = {act_leaves, act_stays},
         LINES(SOURCE('a', 0, .after_ns = 9 * S)));
}

static void act_config_late(void)
{
    get_says("dir/a", 5 * S, CLEAT_DEADLINE, "a: not there by the deadline");
    check(scene_now() == 5 * S);
    get_says("dir/a", 0, CLEAT_DEADLINE, "a: not there by the deadline");
    check(scene_now() == 5 * S && w->script.configs == 1);
}

TEST(a_config_that_does_not_come_is_not_waited_for_either)
{
    (void)nothing;
    PLAY(.actors = {act_config_late}, LINES(CONFIG(0, .after_ns = 9 * S)));
}

/* verl: a dead server costs 3 · 30 + 1 + 2 s, in which every other config
 * waits. */
static void act_silent(void)
{
    get_says("dir/a", CLEAT_NEVER - 2 * S, CLEAT_PEER_SILENT,
             "a: server a: nothing came of it within 29.9 s (PEER_SILENT), 3 "
             "attempts in 93.0 s");
    check(scene_now() == 93 * S);
    check(w->script.sources >= 3);
}

static void act_beside_silent(void)
{
    uint32_t reads;

    get_is("b", "b", "1");
    check(scene_now() == 0);
    for (uint64_t second = 1; second < 93; second++) {
        char path[2] = {(char)('b' + second % 3), '\0'};

        scene_wait_until(second * S);
        reads = w->clock_reads;
        get_is("b", "b", "1");
        check(w->clock_reads == reads);
        get_is(path, path, "1");
        check(scene_now() == second * S);
    }
}

TEST(while_a_server_is_silent_for_93_s_others_hit_and_load_at_once)
{
    (void)nothing;
    PLAY(.policy = EXACT, .actors = {act_silent, act_beside_silent},
         LINES(SOURCE('a', 0, .after_ns = CLEAT_NEVER)));
}

static void act_backoff(void)
{
    get_is("a", "a", "2");
    check(scene_now() == 10 * MS);
    check(w->script.sources == 2 && w->script.configs == 1);
    check(scene_count().failures == 1);
}

TEST(one_failure_then_success_waits_exactly_once)
{
    (void)nothing;
    PLAY(.policy = {.base_ns = 10 * MS,
                    .attempts_max = 3,
                    .jitter = CLEAT_RETRY_JITTER_NONE},
         .actors = {act_backoff},
         LINES(SOURCE('a', 1, .status = CLEAT_TRANSIENT)));
}

static void act_hint(void)
{
    get_is("a", "a", "2");
    check(scene_now() == 3 * S);
}

TEST(a_server_that_asks_to_be_left_alone_is)
{
    (void)nothing;
    PLAY(.policy = EXACT, .actors = {act_hint},
         LINES(SOURCE('a', 1, .status = CLEAT_TRANSIENT, .hint_ns = 3 * S)));
}

static void act_late(void)
{
    struct cleat_tool_list list;

    get_is("a", "a", "2");
    check(scene_now() == 31 * S);
    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    scene_wait_until(50 * S); /* in which the first load ends, well */
    check(scene_count().late == 1);
    check(is_of(&list, "a", "2"));
    cleat_tools_unpin(&list);
    get_is("a", "a", "2");
}

TEST(a_late_result_changes_nothing)
{
    (void)nothing;
    PLAY(.policy = EXACT, .actors = {act_late},
         LINES(SOURCE('a', 1, .after_ns = 40 * S, .cancel_ns = CLEAT_NEVER)));
}

static void act_at_its_time(void)
{
    get_says("a", 100 * S, CLEAT_PEER_SILENT,
             "a: server a: nothing came of it within 29.9 s (PEER_SILENT), 1 "
             "attempt in 30.0 s");
    check(scene_now() == 30 * S && scene_count().late == 1);
}

TEST(a_result_at_the_very_deadline_of_its_attempt_is_late)
{
    (void)nothing;
    PLAY(.policy = ONE_ATTEMPT, .actors = {act_at_its_time},
         LINES(SOURCE('a', 0, .after_ns = 30 * S, .cancel_ns = CLEAT_NEVER)));
}

/* ---- failures ----------------------------------------------------------- */

static void act_words(void)
{
    get_says("dir/tools/ab", 100 * S, CLEAT_TRANSIENT,
             "ab: server b: exited with 1: no such module (TRANSIENT), 3 "
             "attempts in 3.0 s");
    check(scene_now() == 3 * S);
    /* Nothing is left behind of it. */
    get_is("dir/tools/ab", "ab", "14");
}

TEST(a_failure_says_which_source_why_how_often_and_how_long)
{
    (void)nothing;
    PLAY(.policy = EXACT, .actors = {act_words},
         LINES(SOURCE('b', 4, .status = CLEAT_OK),
               SOURCE('b', 0, .status = CLEAT_TRANSIENT,
                      .words = "exited with 1: no such module")));
}

static void act_config_words(void)
{
    struct cleat_tool_failure failures[2];

    get_says("dir/ab", 100 * S, CLEAT_MALFORMED,
             "dir/ab:3:7: a mapping was expected (MALFORMED), 1 attempt in 0.0 "
             "s");
    check(cleat_tools_why(w->service, "dir/ab", failures, 2) == 1);
    check(failures[0].source == CLEAT_TOOL_CACHE_NOBODY);
    check(failures[0].error.status == CLEAT_MALFORMED);
    check(strcmp(failures[0].name, "ab") == 0);
    check(strcmp(failures[0].error.text,
                 "dir/ab:3:7: a mapping was expected") == 0);
    check(failures[0].attempts == 1);
    get_says("dir/ab", 100 * S, CLEAT_NOT_FOUND,
             "ab: there is no such thing (NOT_FOUND), 1 attempt in 0.0 s");
}

TEST(a_config_that_cannot_be_read_fails_at_once_in_its_own_words)
{
    (void)nothing;
    PLAY(.policy = EXACT, .actors = {act_config_words},
         LINES(CONFIG(1, .status = CLEAT_MALFORMED,
                      .words = "dir/ab:3:7: a mapping was expected"),
               CONFIG(2, .status = CLEAT_NOT_FOUND)));
}

static void act_refused(void)
{
    get_is("a", "a", "3");
    check(scene_now() == 3 * S);
    get_says("b", 100 * S, CLEAT_PERMANENT,
             "b: server b: no such command (PERMANENT), 1 attempt in 0.0 s");
}

TEST(a_start_that_is_refused_is_a_failed_attempt)
{
    (void)nothing;
    PLAY(.policy = EXACT, .actors = {act_refused},
         LINES(SOURCE('a', 1, .refused = true, .status = CLEAT_NO_SLOT,
                      .words = "full"),
               SOURCE('a', 2, .refused = true, .status = CLEAT_NO_SLOT,
                      .words = "full"),
               SOURCE('b', 0, .refused = true, .status = CLEAT_PERMANENT,
                      .words = "no such command")));
}

static void act_first_failure_decides(void)
{
    get_says("abc", 100 * S, CLEAT_PERMANENT,
             "abc: server b: no such command (PERMANENT), 1 attempt in 2.0 s");
    check(scene_now() == 2 * S);
    /* The others go on, for whoever asks next. */
    scene_wait_until(20 * S);
    get_is("ac", "ac", "11");
    check(scene_now() == 20 * S);
}

TEST(with_all_the_first_failure_ends_the_get_and_the_others_load_on)
{
    (void)nothing;
    PLAY(.policy = EXACT, .actors = {act_first_failure_decides},
         LINES(SOURCE('a', 0, .after_ns = 9 * S),
               SOURCE('b', 0, .after_ns = 2 * S, .status = CLEAT_PERMANENT,
                      .words = "no such command"),
               SOURCE('c', 0, .after_ns = S)));
}

static void act_any(void)
{
    struct cleat_tool_list list;
    struct cleat_tool_list again;
    struct cleat_tool tool;
    uint32_t position = 0;
    uint32_t count = 0;

    check(scene_get("abcB", 10 * S, &list, NULL) == CLEAT_OK);
    check(scene_now() == 10 * S);
    check(list.count == 4 && list.tools == 4);
    check(list.parts[0].tools == NULL &&
          list.parts[0].status == CLEAT_DEADLINE);
    check(list.parts[1].tools == NULL &&
          list.parts[1].status == CLEAT_PERMANENT);
    check(tool_script_version(list.parts[2].tools, 'c') == 1);
    check(tool_script_version(list.parts[3].tools, 'B') == 1);
    while (cleat_tool_list_next(&list, &position, &tool)) { count++; }
    check(count == 4);
    check(cleat_tool_list_find(&list, "c.1", &tool, NULL) == CLEAT_OK);
    cleat_tools_pin(&list, &again);
    cleat_tools_unpin(&list);
    check(tool_script_version(again.parts[2].tools, 'c') == 1);
    cleat_tools_unpin(&again);
    get_says("ab", S, CLEAT_PERMANENT,
             "ab: server b: no such command (PERMANENT), 1 attempt in 2.0 s");
    get_says("a", S, CLEAT_DEADLINE, "a: server a: not there by the deadline");
}

TEST(with_any_what_is_there_is_given_out_and_one_deadline_hides_no_other)
{
    (void)nothing;
    PLAY(.config = {.policy = CLEAT_TOOL_POLICY_ANY,
                    .cache = {.negative_ttl_ns = 100 * S}},
         .policy = EXACT, .actors = {act_any},
         LINES(SOURCE('a', 0, .after_ns = CLEAT_NEVER),
               SOURCE('b', 0, .after_ns = 2 * S, .status = CLEAT_PERMANENT,
                      .words = "no such command")));
}

static void act_negative(void)
{
    get_says("a", S, CLEAT_PERMANENT,
             "a: server a: no such command (PERMANENT), 1 attempt in 0.0 s");
    scene_wait_until(9 * S);
    get_says("a", S, CLEAT_PERMANENT,
             "a: server a: no such command (PERMANENT), 1 attempt in 0.0 s");
    check(w->script.sources == 1);
    scene_wait_until(10 * S);
    get_is("a", "a", "2");
}

TEST(a_failure_is_remembered_for_as_long_as_was_said)
{
    (void)nothing;
    PLAY(.config = {.cache = {.negative_ttl_ns = 10 * S}}, .policy = EXACT,
         .actors = {act_negative},
         LINES(SOURCE('a', 1, .status = CLEAT_PERMANENT,
                      .words = "no such command")));
}

static void act_why(void)
{
    struct cleat_tool_failure failures[5];

    check(cleat_tools_why(w->service, "abcN", failures, 5) == 0);
    check(cleat_tools_why(w->service, NULL, failures, 5) == 0);
    get_says("abcN", 2 * S, CLEAT_DEADLINE,
             "abcN: server b: not there by the deadline; so far: exited");
    check(cleat_tools_why(w->service, "abcN", failures, 5) == 4);
    for (uint32_t i = 0; i < 4; i++) {
        char name[2] = {"abcN"[i], '\0'};

        check(failures[i].source == i);
        check(strcmp(failures[i].name, name) == 0);
    }
    check(failures[0].error.status == CLEAT_OK && failures[0].attempts == 1);
    check(failures[0].elapsed_ns == S && failures[0].error.text[0] == '\0');
    check(failures[1].error.status == CLEAT_PENDING);
    check(strcmp(failures[1].error.text, "exited") == 0);
    check(failures[1].attempts == 2 && failures[1].elapsed_ns == 2 * S);
    check(failures[2].error.status == CLEAT_PENDING);
    check(failures[2].attempts == 1 && failures[2].elapsed_ns == 2 * S);
    check(failures[3].error.status == CLEAT_OK);
    check(cleat_tools_why(w->service, "abcN", failures, 2) == 2);
}

TEST(why_tells_of_every_source_how_its_last_load_went)
{
    (void)nothing;
    PLAY(.policy = EXACT, .actors = {act_why},
         LINES(SOURCE('a', 0, .after_ns = S),
               SOURCE('b', 1, .status = CLEAT_TRANSIENT, .words = "exited"),
               SOURCE('b', 2, .after_ns = CLEAT_NEVER),
               SOURCE('c', 0, .after_ns = CLEAT_NEVER)));
}

static void act_long_words(void)
{
    struct cleat_tool_list list;
    struct cleat_error error;

    check(scene_get("ab", S, &list, &error) == CLEAT_PERMANENT);
    check(strlen(error.text) < CLEAT_ERROR_TEXT_MAX);
    check(strstr(error.text, "(PERMANENT), 1 attempt in 0.0 s") != NULL);
    check(strchr(error.text, '\n') == NULL);
    check(strncmp(error.text, "ab: server b: one line two ", 27) == 0);
}

TEST(an_error_is_one_line_and_its_end_is_never_cut_off)
{
    (void)nothing;
    PLAY(.actors = {act_long_words},
         LINES(SOURCE('b', 0, .status = CLEAT_PERMANENT,
                      .words = "one line\ntwo \xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6"
                               "\xE2\x80\xA6\xE2\x80\xA6\xE2\x80\xA6")));
}

static void act_same_name(void)
{
    get_says("dir/ade", S, CLEAT_EXISTS,
             "ade: tool same is offered by both d and e");
    get_is("ad", "ad", "11");
    get_is("ea", "ea", "11");
    get_says("aa", S, CLEAT_EXISTS, "aa: tool a.0 is offered by both a and a");
    /* Looked for, and not found twice: no list with it was ever shown. */
    get_says("dir/ade", S, CLEAT_EXISTS,
             "ade: tool same is offered by both d and e");
}

TEST(a_name_that_two_sources_offer_names_both)
{
    (void)nothing;
    PLAY(.actors = {act_same_name});
}

static void act_too_many(void)
{
    char path[1100];
    struct cleat_tool_list list;
    struct cleat_error error;

    get_says("dir/a", S, CLEAT_LIMIT,
             "a: 17 sources, at most 16 (LIMIT), 1 attempt in 0.0 s");
    check(w->script.sources == 0);
    memset(path, 'a', sizeof path);
    path[1024] = '\0';
    check(scene_get(path, S, &list, &error) == CLEAT_LIMIT);
    check(w->script.configs == 1);
    path[1023] = '\0';
    check(scene_get(path, S, &list, &error) == CLEAT_LIMIT);
    check(w->script.configs == 2);
}

TEST(more_than_16_sources_or_1023_bytes_of_path_are_too_many)
{
    (void)nothing;
    PLAY(.many = 17, .actors = {act_too_many});
}

static void act_sixteen(void)
{
    get_is("abcdfghijklmnopq", "abcdfghijklmnopq", "1111111111111111");
    get_is("abcdfghijklmnopq", "abcdfghijklmnopq", "1111111111111111");
    check(w->script.sources == 16);
}

TEST(sixteen_sources_are_not_too_many)
{
    (void)nothing;
    PLAY(.config = {.slots_count = 20}, .actors = {act_sixteen});
}

/* ---- when there is no room ---------------------------------------------- */

static void act_takes_the_place(void)
{
    get_is("b", "b", "1");
    get_is("a", "a", "1");
    check(scene_now() == 5 * S);
}

static void act_finds_none(void)
{
    struct cleat_tool_list list;

    scene_wait_until(S);
    get_says("c", S, CLEAT_NO_SLOT,
             "c: it must be waited for, and callers_max threads wait already "
             "(NO_SLOT)");
    check(scene_now() == S);
    /* Who needs not wait needs no place: by a view, and by a lookup. */
    get_is("b", "b", "1");
    check(cleat_tools_reload(w->service, "none", true) == CLEAT_NOT_FOUND);
    check(scene_get("b", 0, &list, NULL) == CLEAT_OK);
    cleat_tools_unpin(&list);
    scene_wait_until(6 * S);
    get_is("c", "c", "1");
}

TEST(where_all_places_are_taken_who_must_wait_is_told_and_hits_go_on)
{
    (void)nothing;
    PLAY(.config = {.callers_max = 1},
         .actors = {act_takes_the_place, act_finds_none},
         LINES(SOURCE('a', 0, .after_ns = 5 * S)));
}

static void act_all_pinned(void)
{
    struct cleat_tool_list list;

    check(scene_get("ab", S, &list, NULL) == CLEAT_OK);
    get_says("c", 100 * S, CLEAT_NO_SLOT,
             "c: every slot is taken (NO_SLOT), 3 attempts in 3.0 s");
    check(scene_now() == 3 * S);
    cleat_tools_unpin(&list);
    get_is("c", "c", "1");
    check(scene_now() == 3 * S);
}

TEST(where_all_is_pinned_a_load_waits_for_room_as_its_policy_says)
{
    (void)nothing;
    PLAY(.config = {.slots_count = 3}, .policy = EXACT,
         .actors = {act_all_pinned});
}

/* ---- freshness ---------------------------------------------------------- */

static void act_reload(void)
{
    check(cleat_tools_reload(w->service, "ab", false) == CLEAT_NOT_FOUND);
    check(cleat_tools_reload(w->service, "", false) == CLEAT_NOT_FOUND);
    get_is("ab", "ab", "11");
    check(cleat_tools_reload(w->service, "ab", false) == CLEAT_OK);
    get_is("ab", "ab", "11");
    check(w->script.configs == 2 && w->script.sources == 2);
    check(cleat_tools_reload(w->service, "ab", true) == CLEAT_OK);
    get_is("ab", "ab", "22");
    check(w->script.configs == 3 && w->script.sources == 4);
    get_is("a", "a", "2");
}

TEST(a_reload_reads_the_config_again_and_its_sources_where_that_is_wanted)
{
    (void)nothing;
    PLAY(.actors = {act_reload});
}

static void act_ttl(void)
{
    uint32_t reads;

    get_is("ab", "ab", "11");
    scene_wait_until(10 * S - 1);
    reads = w->clock_reads;
    get_is("ab", "ab", "11");
    check(w->clock_reads == reads + 1);
    scene_wait_until(10 * S);
    get_is("ab", "ab", "21");
    check(w->script.configs == 1);
}

TEST(a_list_is_fresh_for_as_long_as_its_server_says_to_the_nanosecond)
{
    (void)nothing;
    PLAY(.actors = {act_ttl}, LINES(SOURCE('a', 0, .ttl_ns = 10 * S)));
}

static void act_stale(void)
{
    struct cleat_tool_list list;

    get_is("a", "a", "1");
    scene_wait_until(12 * S);
    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    check(list.stale && is_of(&list, "a", "1"));
    check(scene_now() == 12 * S);
    cleat_tools_unpin(&list);
    scene_wait_until(13 * S);
    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    check(!list.stale && is_of(&list, "a", "2"));
    cleat_tools_unpin(&list);
    check(scene_count().refreshes == 1);
}

TEST(a_stale_list_is_given_out_while_one_load_refreshes_it)
{
    (void)nothing;
    PLAY(.config = {.cache = {.stale_max_ns = 5 * S}}, .actors = {act_stale},
         LINES(SOURCE('a', 1, .ttl_ns = 10 * S),
               SOURCE('a', 2, .after_ns = S)));
}

static void act_zero_ttl(void)
{
    get_is("a", "a", "1");
    get_is("a", "a", "2");
}

TEST(a_list_that_is_stale_at_once_is_given_to_those_who_waited)
{
    (void)nothing;
    PLAY(.actors = {act_zero_ttl}, LINES(SOURCE('a', 0, .ttl_ns = CLEAT_NONE)));
}

/* ---- changes ------------------------------------------------------------ */

static void act_watch(void)
{
    get_is("az", "az", "11");
    check(w->script.watched['a'] == 1 && w->script.watched['z'] == 1);
    tool_script_tell_changed(&w->script, tool_script_key('z'));
    scene_wait_until(S);
    /* It has been fetched before anybody asked. */
    check(w->script.versions['z'] == 2 && w->script.versions['a'] == 1);
    get_is("az", "az", "12");
    check(w->script.watched['a'] == 1 && w->script.watched['z'] == 1);
    tool_script_tell_changed(&w->script, 0);
    scene_wait_until(2 * S);
    check(w->script.configs == 2);
    /* Of a source that nobody knows. */
    tool_script_tell_changed(&w->script, 5);
    get_is("az", "az", "12");
    check(w->script.sources == 3);
}

TEST(what_is_watched_is_fetched_when_it_changes)
{
    (void)nothing;
    PLAY(.config = {.watch = 1}, .actors = {act_watch});
}

static void act_configs(void)
{
    get_is("a", "a", "1");
    get_is("bc", "bc", "11");
    get_is("d", "d", "1");
    check(w->script.configs == 3);
    tool_script_tell_changed(&w->script, 0);
    scene_wait_until(S);
    check(w->script.configs == 6 && w->script.sources == 4);
    /* Wherever a config lies now, its sources are found in it. */
    for (uint32_t i = 0; i < 4; i++) {
        tool_script_tell_changed(&w->script,
                                 tool_script_key((uint8_t) "abcd"[i]));
    }
    scene_wait_until(2 * S);
    check(w->script.sources == 8);
    get_is("bc", "bc", "22");
    get_is("a", "a", "2");
    get_is("d", "d", "2");
    check(w->script.sources == 8 && w->script.configs == 6);
}

TEST(when_configs_change_each_one_that_is_known_is_read_again)
{
    (void)nothing;
    PLAY(.config = {.watch = 1, .slots_count = 16}, .actors = {act_configs});
}

static void act_no_watch(void)
{
    struct cleat_tool_list list;

    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    check(w->script.watched['a'] == 0);
    tool_script_tell_changed(&w->script, tool_script_key('a'));
    scene_wait_until(S);
    check(w->script.versions['a'] == 1);
    get_is("a", "a", "2");
    check(is_of(&list, "a", "1"));
    cleat_tools_unpin(&list);
}

TEST(what_is_not_watched_is_fetched_when_somebody_asks)
{
    (void)nothing;
    PLAY(.actors = {act_no_watch});
}

static void act_unwatch(void)
{
    get_is("a", "a", "1");
    tool_script_tell_changed(&w->script, tool_script_key('a'));
    scene_wait_until(S);
    get_is("a", "a", "2");
    check(w->script.watched['a'] == 1);
    for (char letter = 'b'; letter < 'h'; letter++) {
        char path[2] = {letter, '\0'};

        get_is(path, path, "1");
        check(w->script.watched[(uint8_t)letter] == 1);
    }
    check(w->script.watched['a'] == 0 && w->script.watched['b'] == 0);
}

TEST(a_source_is_watched_once_and_no_longer_than_its_list_is_there)
{
    (void)nothing;
    PLAY(.config = {.watch = 1, .slots_count = 4}, .actors = {act_unwatch});
}

static void act_storm(void)
{
    struct cleat_tool_list list;

    check(scene_get("a", 100 * S, &list, NULL) == CLEAT_OK);
    /* The first, and three more; what came of the last is called stale. */
    check(scene_now() == 4 * S && w->script.versions['a'] == 4);
    check(is_of(&list, "a", "4") && list.stale);
    cleat_tools_unpin(&list);
}

static void act_changes(void)
{
    for (uint64_t i = 0; i < 40; i++) {
        scene_wait_until(i * 100 * MS + 50 * MS);
        tool_script_tell_changed(&w->script, tool_script_key('a'));
    }
}

TEST(a_storm_of_changes_while_a_list_loads_costs_three_loads_more)
{
    (void)nothing;
    PLAY(.config = {.cache = {.stale_max_ns = 100 * S}},
         .actors = {act_storm, act_changes},
         LINES(SOURCE('a', 0, .after_ns = S)));
}

/* ---- paths of one hash -------------------------------------------------- */

/* A path of 16 bytes with the hash of another: the service's hash (see
 * tools_state.h) is undone and done again. */
static uint64_t undone(uint64_t value, uint64_t shift)
{
    for (uint64_t x = value, i = 0; i < 64 / shift + 1; i++) {
        value = x ^ value >> shift;
    }
    return value;
}

static bool same_hash(char *path, const char *other, uint64_t first)
{
    const uint64_t factor = UINT64_C(0x9E3779B97F4A7C15);
    uint64_t inverse = factor;
    uint64_t words[2];
    uint64_t hash = 16;
    uint64_t mine = 16;

    for (uint32_t i = 0; i < 6; i++) { inverse *= 2 - factor * inverse; }
    memcpy(words, other, 16);
    hash = (hash ^ words[0]) * factor;
    hash ^= hash >> 29;
    hash ^= words[1];
    mine = (mine ^ first) * factor;
    mine ^= mine >> 29;
    words[0] = first;
    words[1] = mine ^ hash;
    check(undone(hash ^ hash >> 29, 29) == hash && inverse * factor == 1);
    memcpy(path, words, 16);
    path[16] = '\0';
    for (uint32_t i = 0; i < 16; i++) {
        if (path[i] == '\0' || (path[i] == '/' && i > 8)) { return false; }
    }
    return true;
}

static void act_collision(void)
{
    const char *other = "/////////////d/a";
    char path[20];
    uint64_t first = UINT64_C(0x2F2F2F2F2F2F2F2F);
    struct cleat_tool_list list;
    struct cleat_error error;

    while (!same_hash(path, other, first)) { first++; }
    /* What else is known is in nobody's way. */
    get_is("b", "b", "1");
    for (uint32_t round = 0; round < 3; round++) {
        enum cleat_status status;

        get_is(other, "a", "1");
        /* A config of many odd letters, and of no other path. */
        status = scene_get(path, S, &list, &error);
        check(status == CLEAT_LIMIT && w->script.configs == 3 + round);
    }
}

TEST(two_paths_of_one_hash_are_two_configs)
{
    (void)nothing;
    PLAY(.actors = {act_collision},
         LINES(CONFIG(1, .status = CLEAT_OK), CONFIG(2, .status = CLEAT_OK),
               CONFIG(0, .status = CLEAT_LIMIT, .words = "too many")));
}

/* ---- the end ------------------------------------------------------------ */

static void act_is_cancelled(void)
{
    struct cleat_tool_list list;

    check(scene_get("b", S, &list, NULL) == CLEAT_OK);
    get_says("a", 100 * S, CLEAT_CANCELLED, "tools: the service is closed");
    check(scene_now() == S);
    /* What is pinned stays. */
    check(is_of(&list, "b", "1"));
    get_says("b", 100 * S, CLEAT_CANCELLED, "tools: the service is closed");
    check(cleat_tools_reload(w->service, "b", true) == CLEAT_CANCELLED);
    scene_wait_until(100 * S);
    check(is_of(&list, "b", "1"));
    cleat_tools_unpin(&list);
}

static void act_closes(void)
{
    scene_wait_until(S);
    /* A load that ignores its cancel. */
    check(cleat_tool_service_close(w->service, fibres_now_ns()) ==
          CLEAT_DEADLINE);
    check(cleat_tool_service_close(w->service, fibres_now_ns() + S) ==
          CLEAT_DEADLINE);
    check(scene_now() == 2 * S);
    check(cleat_tool_service_close(w->service, CLEAT_NEVER) == CLEAT_OK);
    check(scene_now() == 7 * S);
    check(cleat_tool_service_close(w->service, 0) == CLEAT_OK);
    scene_wait_until(99 * S);
}

TEST(close_cancels_who_waits_and_waits_for_loads_until_its_deadline)
{
    (void)nothing;
    PLAY(.closes_itself = true, .actors = {act_is_cancelled, act_closes},
         LINES(SOURCE('a', 0, .after_ns = 7 * S, .cancel_ns = CLEAT_NEVER)));
}

/* ---- beginning ---------------------------------------------------------- */

static enum cleat_status no_start(struct cleat_loader_context *context,
                                  const struct cleat_loader_request *request)
{
    (void)context;
    (void)request;
    return CLEAT_NO_SLOT;
}

static void no_cancel(struct cleat_loader_context *context, uint64_t id)
{
    (void)context;
    (void)id;
}

static void no_lock(struct cleat_threads_context *context)
{
    (void)context;
}

static enum cleat_status no_submit(struct cleat_threads_context *context,
                                   cleat_job_fn *fn, void *job, uint64_t index)
{
    (void)context;
    (void)fn;
    (void)job;
    (void)index;
    return CLEAT_NO_SLOT;
}

static enum cleat_status no_post(struct cleat_mailbox_context *context,
                                 const struct cleat_message *message)
{
    (void)context;
    (void)message;
    return CLEAT_NO_SLOT;
}

static enum cleat_status no_wait(struct cleat_mailbox_context *context,
                                 uint64_t deadline_ns,
                                 struct cleat_message *message)
{
    (void)context;
    (void)deadline_ns;
    (void)message;
    return CLEAT_DEADLINE;
}

static uint64_t no_time(struct cleat_clock_context *context)
{
    (void)context;
    return 1;
}

TEST(a_service_tells_what_it_lacks_before_it_begins)
{
    static _Alignas(64) unsigned char block[65536];
    struct cleat_tool_service_config config = {.callers_max = 2,
                                               .configs_max = 1,
                                               .slots_count = 2,
                                               .slot_bytes = 512,
                                               .calls_max = 1,
                                               .call_bytes = 512};
    struct cleat_loader loader = {NULL, no_start, no_cancel, NULL};
    struct cleat_mailbox callers[3] = {{NULL, no_post, no_wait},
                                       {NULL, no_post, no_wait},
                                       {NULL, no_post, no_wait}};
    struct cleat_service_ports ports = {
        .clock = {NULL, no_time},
        .threads = {NULL, no_lock, no_lock, no_submit},
        .mailbox = {NULL, no_post, no_wait}};
    struct cleat_tool_service *service;
    struct cleat_error error;
    size_t bytes = cleat_tool_service_bytes(&config);
    uint32_t messages;
    uint32_t mailboxes;

    (void)nothing;
    assert_in_range(bytes, 1, sizeof block);
    cleat_tool_service_needs(&config, &messages, &mailboxes);
    assert_int_equal(mailboxes, 3);
    assert_in_range(messages, 2 + 1 + 1, 64);
#define INIT(at, size)                                                       \
    cleat_tool_service_init((at), (size), &config, &ports, callers, &loader, \
                            1, &service, &error)
    assert_int_equal(INIT(block, bytes - 1), CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
    assert_null(service);
    assert_int_equal(INIT(block + 8, bytes), CLEAT_INVALID);
    /* Sound, but that nobody runs it. */
    assert_int_equal(INIT(block, bytes), CLEAT_NO_SLOT);
    loader.cancel = NULL;
    assert_int_equal(INIT(block, bytes), CLEAT_INVALID);
    loader.cancel = no_cancel;
    ports.mailbox.wait = NULL;
    assert_int_equal(INIT(block, bytes), CLEAT_INVALID);
    ports.mailbox.wait = no_wait;
    config.entries_count = 1;
    assert_int_equal(cleat_tool_service_bytes(&config), 0);
    assert_int_equal(INIT(block, sizeof block), CLEAT_INVALID);
    config.entries_count = 0;
    config.slots_count = 65537;
    assert_int_equal(cleat_tool_service_bytes(&config), 0);
    config.slots_count = UINT32_MAX;
    assert_int_equal(cleat_tool_service_bytes(&config), 0);
    config.slots_count = 2;
    config.slot_bytes = SIZE_MAX;
    assert_int_equal(cleat_tool_service_bytes(&config), 0);
    config.slot_bytes = 512;
    config.policy = 2;
    assert_int_equal(cleat_tool_service_bytes(&config), 0);
    config.policy = 0;
    config.cache.policy = &(const struct cleat_retry_policy){.flags = 77};
    assert_int_equal(INIT(block, sizeof block), CLEAT_INVALID);
}

TEST(the_defaults_are_those_of_the_header)
{
    struct cleat_tool_service_config config = {.policy = CLEAT_TOOL_POLICY_ALL,
                                               .callers_max = 64,
                                               .configs_max = 16,
                                               .slots_count = 32,
                                               .entries_count = 64,
                                               .slot_bytes = 256 << 10,
                                               .calls_max = 16,
                                               .call_bytes = 256 << 10};
    struct cleat_tool_service_config none = {
        .calls_max = CLEAT_TOOL_CACHE_NOBODY};
    size_t bytes = cleat_tool_service_bytes(&config);

    (void)nothing;
    assert_int_equal(cleat_tool_service_bytes(NULL), bytes);
    assert_in_range(bytes - cleat_tool_service_bytes(&none), 16 * (256 << 10),
                    16 * (257 << 10));
    config.calls_max = 17;
    assert_true(cleat_tool_service_bytes(&config) > bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(a_second_get_takes_no_load_and_reads_no_clock),
        RUN(a_path_of_any_length_hits_and_its_sources_are_shared),
        RUN(more_paths_than_views_go_the_slow_way_and_load_nothing_again),
        RUN(no_path_is_the_empty_list_and_an_empty_config_is_too),
        RUN(a_list_is_walked_over_all_sources_in_order_and_searched_by_name),
        RUN(a_copy_changed_by_one_caller_is_not_seen_by_another),
        RUN(what_is_pinned_stays_readable_while_it_is_replaced_and_evicted),
        RUN(sources_of_a_config_load_at_the_same_time),
        RUN(callers_that_come_together_share_one_load),
        RUN(each_waits_no_longer_than_it_said_and_the_load_goes_on),
        RUN(a_config_that_does_not_come_is_not_waited_for_either),
        RUN(while_a_server_is_silent_for_93_s_others_hit_and_load_at_once),
        RUN(one_failure_then_success_waits_exactly_once),
        RUN(a_server_that_asks_to_be_left_alone_is),
        RUN(a_late_result_changes_nothing),
        RUN(a_result_at_the_very_deadline_of_its_attempt_is_late),
        RUN(a_failure_says_which_source_why_how_often_and_how_long),
        RUN(a_config_that_cannot_be_read_fails_at_once_in_its_own_words),
        RUN(a_start_that_is_refused_is_a_failed_attempt),
        RUN(with_all_the_first_failure_ends_the_get_and_the_others_load_on),
        RUN(with_any_what_is_there_is_given_out_and_one_deadline_hides_no_other),
        RUN(a_failure_is_remembered_for_as_long_as_was_said),
        RUN(why_tells_of_every_source_how_its_last_load_went),
        RUN(an_error_is_one_line_and_its_end_is_never_cut_off),
        RUN(a_name_that_two_sources_offer_names_both),
        RUN(more_than_16_sources_or_1023_bytes_of_path_are_too_many),
        RUN(sixteen_sources_are_not_too_many),
        RUN(where_all_places_are_taken_who_must_wait_is_told_and_hits_go_on),
        RUN(where_all_is_pinned_a_load_waits_for_room_as_its_policy_says),
        RUN(a_reload_reads_the_config_again_and_its_sources_where_that_is_wanted),
        RUN(a_list_is_fresh_for_as_long_as_its_server_says_to_the_nanosecond),
        RUN(a_stale_list_is_given_out_while_one_load_refreshes_it),
        RUN(a_list_that_is_stale_at_once_is_given_to_those_who_waited),
        RUN(what_is_watched_is_fetched_when_it_changes),
        RUN(when_configs_change_each_one_that_is_known_is_read_again),
        RUN(what_is_not_watched_is_fetched_when_somebody_asks),
        RUN(a_source_is_watched_once_and_no_longer_than_its_list_is_there),
        RUN(a_storm_of_changes_while_a_list_loads_costs_three_loads_more),
        RUN(two_paths_of_one_hash_are_two_configs),
        RUN(close_cancels_who_waits_and_waits_for_loads_until_its_deadline),
        RUN(a_service_tells_what_it_lacks_before_it_begins),
        RUN(the_defaults_are_those_of_the_header),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
