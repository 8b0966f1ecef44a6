/* Cleat: calls of tools, in virtual time. SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tool_scene.h"

#define w scene_world

/* clang-format off */
#define CALL(number, ...) {CLEAT_LOADER_CALL, 0, (number), {__VA_ARGS__}}
#define LINES(...) .lines = {__VA_ARGS__}
#define PLAY(...) \
    do { \
        static const struct scene scene = {__VA_ARGS__}; \
        scene_play(&scene); \
    } while (0)
/* clang-format on */
#define TEST(sentence) static void sentence(void **nothing)
#define RUN(sentence) cmocka_unit_test(sentence)

/* One call, and what came of it. */
struct outcome {
    enum cleat_status status;
    struct cleat_error error;
    size_t bytes;
    bool is_error;
    char result[64];
};

static struct outcome call(const struct cleat_tool_list *list, const char *name,
                           const char *arguments, uint64_t timeout_ns)
{
    struct outcome it;
    struct cleat_text text = {arguments, strlen(arguments)};

    memset(&it, 0, sizeof it);
    it.status = cleat_tools_call(w->service, list, name, text,
                                 cleat_time_add(fibres_now_ns(), timeout_ns),
                                 it.result, sizeof it.result - 1, &it.bytes,
                                 &it.is_error, &it.error);
    return it;
}

static void says(const struct outcome *it, enum cleat_status wanted,
                 const char *text)
{
    scene_check_says(it->status, wanted, &it->error, text);
    check(it->bytes == 0 || wanted == CLEAT_TOO_SMALL);
}

static void act_results(void)
{
    struct cleat_tool_list list;
    struct outcome it;

    check(scene_get("ab", S, &list, NULL) == CLEAT_OK);
    it = call(&list, "b.1", "{\"x\":1}", S);
    check(it.status == CLEAT_OK && !it.is_error);
    check(strcmp(it.result, "{\"content\":[]}") == 0 && it.bytes == 14);
    it = call(&list, "a.0", "{}", S);
    check(it.status == CLEAT_OK && it.is_error);
    check(strcmp(it.result, "{\"isError\":true}") == 0);
    check(scene_now() == 20 * MS);
    cleat_tools_unpin(&list);
}

TEST(a_call_gives_the_result_and_whether_the_tool_calls_it_an_error)
{
    (void)nothing;
    PLAY(.actors = {act_results},
         LINES(CALL(1, .after_ns = 10 * MS, .result = "{\"content\":[]}"),
               CALL(2, .after_ns = 10 * MS, .result = "{\"isError\":true}",
                    .is_error = true)));
}

static void act_refusals(void)
{
    static uint64_t block[512];
    struct cleat_tool_list list;
    struct cleat_tool_list copy;
    struct cleat_tool_list none;
    char arguments[200];
    struct outcome it;

    check(scene_get("aN", S, &list, NULL) == CLEAT_OK);
    it = call(&list, "b.0", "{}", S);
    says(&it, CLEAT_NOT_FOUND, "tools: there is no tool b.0 in the list");
    it = call(&list, "N.0", "{}", S);
    says(&it, CLEAT_UNSUPPORTED,
         "tools: N.0 is a native tool: its class is the trainer's to call");
    memset(arguments, ' ', sizeof arguments);
    arguments[129] = '\0';
    it = call(&list, "a.0", arguments, S);
    says(&it, CLEAT_LIMIT,
         "tools: the arguments of a.0 are longer than half of call_bytes");
    check(it.error.offset == 128);
    arguments[128] = '\0';
    it = call(&list, "a.0", arguments, S);
    check(it.status == CLEAT_OK);
    check(cleat_tool_list_copy(&list, block, sizeof block, &copy, NULL) ==
          CLEAT_OK);
    it = call(&copy, "a.0", "{}", S);
    check(it.status == CLEAT_INVALID);
    check(scene_get("", S, &none, NULL) == CLEAT_OK);
    it = call(&none, "a.0", "{}", S);
    check(it.status == CLEAT_INVALID);
    check(w->script.calls == 1);
    cleat_tools_unpin(&list);
}

TEST(what_cannot_be_called_is_refused_without_a_call)
{
    (void)nothing;
    PLAY(.actors = {act_refusals});
}

static void act_failures(void)
{
    struct cleat_tool_list list;
    struct outcome it;

    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    it = call(&list, "a.0", "{}", S);
    says(&it, CLEAT_PEER_DEVIANT,
         "tool a.0 of a: no content in the result (PEER_DEVIANT)");
    it = call(&list, "a.0", "{}", S);
    says(&it, CLEAT_NO_SLOT, "tool a.0 of a: full (NO_SLOT)");
    it = call(&list, "a.0", "{}", S);
    says(&it, CLEAT_TOO_SMALL, "tool a.0 of a: 77 bytes of result (TOO_SMALL)");
    check(it.error.offset == 77);
    it = call(&list, "a.0", "{}", S);
    says(&it, CLEAT_TOO_SMALL,
         "tool a.0 of a: its result is larger than the block; it has taken "
         "effect (TOO_SMALL)");
    check(it.error.offset == 70 && it.bytes == 70);
    /* A call is made once, whatever came of it. */
    check(w->script.calls == 4);
    cleat_tools_unpin(&list);
}

TEST(a_call_that_fails_is_told_and_not_made_again)
{
    (void)nothing;
    PLAY(.actors = {act_failures},
         LINES(
             CALL(1, .status = CLEAT_PEER_DEVIANT,
                  .words = "no content in the result"),
             CALL(2, .refused = true, .status = CLEAT_NO_SLOT, .words = "full"),
             CALL(3, .status = CLEAT_TOO_SMALL, .words = "77 bytes of result"),
             CALL(4, .result = "1234567890123456789012345678901234567890"
                               "123456789012345678901234567890")));
}

static void act_too_late(void)
{
    struct cleat_tool_list list;
    struct outcome it;

    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    it = call(&list, "a.0", "{}", 2 * S);
    says(&it, CLEAT_DEADLINE,
         "tool a.0 of a: no result by the deadline; it may have taken effect "
         "(DEADLINE)");
    check(scene_now() == 2 * S && w->script.cancels == 1);
    /* Its record is taken until it has ended, and so is what it reads. */
    it = call(&list, "a.0", "{}", S);
    says(&it, CLEAT_NO_SLOT,
         "tools: calls_max calls are under way, or callers_max threads wait");
    cleat_tools_unpin(&list);
    check(cleat_tools_reload(w->service, "a", true) == CLEAT_OK);
    check(scene_get("b", S, &list, NULL) == CLEAT_OK);
    cleat_tools_unpin(&list);
    check(w->script.requests[0].request.tool.bytes == 3);
    check(memcmp(w->script.requests[0].request.tool.text, "a.0", 3) == 0);
    check(w->script.requests[0].request.schema.bytes == 2);
    scene_wait_until(7 * S);
    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    it = call(&list, "a.0", "{}", S);
    check(it.status == CLEAT_OK && strcmp(it.result, "{\"n\":2}") == 0);
    cleat_tools_unpin(&list);
}

TEST(a_call_past_its_deadline_keeps_what_it_uses_until_it_has_ended)
{
    (void)nothing;
    PLAY(.config = {.calls_max = 1, .slots_count = 3}, .actors = {act_too_late},
         LINES(CALL(1, .after_ns = 6 * S, .cancel_ns = CLEAT_NEVER,
                    .result = "{\"n\":1}"),
               CALL(2, .result = "{\"n\":2}")));
}

static void act_waits(void)
{
    struct cleat_tool_list list;
    struct outcome it;

    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    it = call(&list, "a.0", "{}", 100 * S);
    says(&it, CLEAT_CANCELLED, "tools: the service is closed");
    check(scene_now() == S);
    it = call(&list, "a.0", "{}", 100 * S);
    says(&it, CLEAT_CANCELLED, "tools: the service is closed");
    scene_wait_until(5 * S);
    cleat_tools_unpin(&list);
}

static void act_closes(void)
{
    scene_wait_until(S);
    check(cleat_tool_service_close(w->service, CLEAT_NEVER) == CLEAT_OK);
    check(scene_now() == 2 * S);
    scene_wait_until(4 * S);
}

TEST(close_ends_a_call_and_waits_for_its_end)
{
    (void)nothing;
    PLAY(.closes_itself = true, .actors = {act_waits, act_closes},
         LINES(CALL(0, .after_ns = 50 * S, .cancel_ns = S)));
}

static void act_calls(void)
{
    struct cleat_tool_list list;
    struct outcome it;

    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    it = call(&list, "a.0", "{}", 100 * S);
    check(it.status == CLEAT_OK && scene_now() == 3 * S);
    cleat_tools_unpin(&list);
}

static void act_gets(void)
{
    struct cleat_tool_list list;

    scene_wait_until(S);
    check(scene_get("b", S, &list, NULL) == CLEAT_OK && scene_now() == S);
    cleat_tools_unpin(&list);
}

TEST(a_call_under_way_keeps_nobody_else_waiting)
{
    (void)nothing;
    PLAY(.actors = {act_calls, act_gets},
         LINES(CALL(0, .after_ns = 3 * S, .result = "{}")));
}

static void act_first_call(void)
{
    struct cleat_tool_list list;
    struct outcome it;

    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    it = call(&list, "a.0", "{}", 100 * S);
    check(it.status == CLEAT_OK && strcmp(it.result, "{\"n\":1}") == 0);
    check(scene_now() == 3 * S);
    /* One whose result is as large as the block. */
    it = call(&list, "a.0", "{}", S);
    check(it.status == CLEAT_OK && it.bytes == 63);
    cleat_tools_unpin(&list);
}

static void act_second_call(void)
{
    struct cleat_tool_list list;
    struct outcome it;

    scene_wait_until(S);
    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    it = call(&list, "a.1", "{}", 100 * S);
    check(it.status == CLEAT_OK && strcmp(it.result, "{\"n\":2}") == 0);
    check(scene_now() == 2 * S);
    cleat_tools_unpin(&list);
}

TEST(each_of_two_calls_gets_its_own_result)
{
    (void)nothing;
    PLAY(.actors = {act_first_call, act_second_call},
         LINES(CALL(1, .after_ns = 3 * S, .result = "{\"n\":1}"),
               CALL(2, .after_ns = S, .result = "{\"n\":2}"),
               CALL(3, .result = "12345678901234567890123456789012345678901234"
                                 "5678901234567890123")));
}

static void act_none(void)
{
    struct cleat_tool_list list;
    struct outcome it;

    check(scene_get("a", S, &list, NULL) == CLEAT_OK);
    it = call(&list, "a.0", "{}", S);
    check(it.status == CLEAT_NO_SLOT && w->script.calls == 0);
    cleat_tools_unpin(&list);
}

TEST(a_service_without_calls_makes_none)
{
    (void)nothing;
    PLAY(.config = {.calls_max = CLEAT_TOOL_CACHE_NOBODY},
         .actors = {act_none});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(a_call_gives_the_result_and_whether_the_tool_calls_it_an_error),
        RUN(what_cannot_be_called_is_refused_without_a_call),
        RUN(a_call_that_fails_is_told_and_not_made_again),
        RUN(a_call_past_its_deadline_keeps_what_it_uses_until_it_has_ended),
        RUN(close_ends_a_call_and_waits_for_its_end),
        RUN(a_call_under_way_keeps_nobody_else_waiting),
        RUN(each_of_two_calls_gets_its_own_result),
        RUN(a_service_without_calls_makes_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
