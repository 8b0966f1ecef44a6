/* Cleat: scenes of the tool service in virtual time. SPDX-License-Identifier:
 * Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tool_scene.h"

static struct scene_world world;
struct scene_world *const scene_world = &world;

static _Alignas(64) unsigned char block[SCENE_BLOCK_BYTES];

/* ---- the ports ---------------------------------------------------------- */

static uint64_t counted_now(struct cleat_clock_context *context)
{
    (void)context;
    world.clock_reads++;
    return fibres_now_ns();
}

static void decide(struct tool_script *script,
                   const struct cleat_loader_request *request, uint8_t letter,
                   struct tool_script_step *step)
{
    uint32_t attempt = request->kind == CLEAT_LOADER_CONFIG ? script->configs
                       : request->kind == CLEAT_LOADER_CALL
                           ? script->calls
                           : script->versions[letter];

    for (uint32_t i = 0; i < SCENE_LINES_MAX; i++) {
        const struct scene_line *line = &world.scene->lines[i];

        if (line->kind == request->kind &&
            (line->letter == 0 || line->letter == letter) &&
            (line->attempt == 0 || line->attempt == attempt)) {
            *step = line->step;
            return;
        }
    }
    step->result = "{}";
}

/* ---- the actors --------------------------------------------------------- */

static void act(void *actor)
{
    world.scene->actors[(uintptr_t)actor]();
    if (--world.actors_left > 0) { return; }
    if (!world.scene->closes_itself) {
        check(cleat_tool_service_close(world.service, CLEAT_NEVER) == CLEAT_OK);
    }
    for (uint32_t i = 0; i < TOOL_SCRIPT_LETTERS; i++) {
        check(world.script.watched[i] == 0);
    }
    world.port.closing = true;
    tool_script_end(&world.script);
}

uint64_t scene_now(void)
{
    return fibres_now_ns() - SCENE_START_NS;
}

static bool never(void *nothing)
{
    (void)nothing;
    return false;
}

void scene_wait_until(uint64_t moment_ns)
{
    (void)fibres_wait(never, NULL, SCENE_START_NS + moment_ns);
}

enum cleat_status scene_get(const char *path, uint64_t timeout_ns,
                            struct cleat_tool_list *list,
                            struct cleat_error *error)
{
    return cleat_tools_get(world.service, path,
                           cleat_time_add(fibres_now_ns(), timeout_ns), list,
                           error);
}

struct cleat_tool_cache_counters scene_count(void)
{
    struct cleat_tool_cache_counters counters;

    cleat_tool_service_count(world.service, &counters);
    return counters;
}

void scene_check_says(enum cleat_status status, enum cleat_status wanted,
                      const struct cleat_error *error, const char *text)
{
    char sentence[CHOOSE_SENTENCE_MAX];
    bool good = status == wanted && error->status == wanted &&
                strcmp(error->text, text) == 0;

    (void)snprintf(sentence, sizeof sentence, "%s \"%s\" is %s \"%s\"",
                   cleat_status_name(status), error->text,
                   cleat_status_name(wanted), text);
    fibres_check(good, sentence);
}

/* ---- playing ------------------------------------------------------------ */

static void body(struct choose *c, const void *arg)
{
    static struct cleat_retry_policy none;
    const struct scene *scene = arg;
    struct cleat_tool_service_config config = scene->config;
    struct cleat_mailbox boxes[SCENE_CALLERS_MAX + 1];
    struct cleat_loader loader = tool_script_loader(&world.script);
    struct cleat_service_ports ports;
    enum cleat_status status;

    memset(&world, 0, sizeof world);
    world.scene = scene;
    world.mailbox.messages_max = FIBRES_MAILBOX_MAX;
    world.port.jobs_max = 1;
    world.script.mailbox = &world.mailbox;
    world.script.decide = decide;
    world.script.tools = scene->tools;
    world.script.many = scene->many;
    if (memcmp(&scene->policy, &none, sizeof none) != 0) {
        config.cache.policy = &scene->policy;
    }
    if (config.callers_max == 0) { config.callers_max = SCENE_CALLERS_MAX; }
    if (config.slots_count == 0) { config.slots_count = 8; }
    if (config.slot_bytes == 0) { config.slot_bytes = 2048; }
    if (config.calls_max == 0) { config.calls_max = 2; }
    if (config.call_bytes == 0) { config.call_bytes = 256; }
    fibres_begin(c, 0, &world.port, &world, sizeof world, SCENE_START_NS);
    for (uint32_t i = 0; i <= SCENE_CALLERS_MAX; i++) {
        world.boxes[i].messages_max = 1;
        boxes[i] = fibres_mailbox(&world.boxes[i]);
    }
    ports = (struct cleat_service_ports){
        .clock = {NULL, counted_now},
        .threads = tool_script_threads(),
        .mailbox = fibres_mailbox(&world.mailbox)};
    status = cleat_tool_service_init(block, sizeof block, &config, &ports,
                                     boxes, &loader, 1, &world.service, NULL);
    choose_check(c, status == CLEAT_OK, "the service begins");
    fibres_add("service", fibres_work, NULL);
    fibres_add("loader", tool_script_fibre, &world.script);
    for (uint32_t i = 0; i < SCENE_ACTORS_MAX; i++) {
        if (scene->actors[i] == NULL) { continue; }
        world.actors_left++;
        fibres_add(i == 0 ? "first" : "second", act, (void *)(uintptr_t)i);
    }
    (void)fibres_run();
    choose_check(c, world.port.lock_owner == 0, "the-lock-is-free-at-the-end");
}

void scene_play(const struct scene *scene)
{
    struct choose_test test = {.name = "scene", .body = body, .arg = scene};
    struct choose_options options = {
        .driver = CHOOSE_REPLAYED, .string = "", .no_shrink = true};
    struct choose_outcome outcome;

    choose_run(&test, &options, &outcome);
    free(outcome.string);
    if (outcome.failed) { fail_msg("%s", outcome.sentence); }
}
