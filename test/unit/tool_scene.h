/* Cleat: scenes of the tool service in virtual time. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A scene is a few actors, each on a fibre, a service and a scripted loader
 * (tool_script.h). Nobody is preempted, and time passes only when all wait: a
 * scene has one course, and its times are equalities. */
#ifndef CLEAT_TEST_TOOL_SCENE_H
#define CLEAT_TEST_TOOL_SCENE_H

#include "model/tool_script.h"

#define SCENE_START_NS UINT64_C(1000000)
#define SCENE_ACTORS_MAX 2u
#define SCENE_CALLERS_MAX 4u
#define SCENE_LINES_MAX 4u
#define SCENE_BLOCK_BYTES ((size_t)1 << 20)

#define MS CLEAT_NS_PER_MS
#define S CLEAT_NS_PER_S

/* What comes of a request; the first line that fits decides, else all is
 * well, at once. */
struct scene_line {
    uint32_t kind;    /* enum cleat_loader_kind */
    uint8_t letter;   /* 0: any */
    uint32_t attempt; /* counted from 1 in the scene; 0: any */
    struct tool_script_step step;
};

struct scene {
    struct cleat_tool_service_config config;
    struct cleat_retry_policy policy; /* of the config, unless all zero */
    struct scene_line lines[SCENE_LINES_MAX]; /* those with a kind */
    uint32_t tools;                           /* of a source; 0: 2 */
    uint32_t many; /* sources of a config; 0: as its path says */
    void (*actors[SCENE_ACTORS_MAX])(void);
    bool closes_itself; /* an actor closes the service */
};

struct scene_world {
    struct fibres_port port;
    struct fibres_mailbox mailbox;
    struct fibres_mailbox boxes[SCENE_CALLERS_MAX + 1];
    struct tool_script script;
    const struct scene *scene;
    struct cleat_tool_service *service;
    uint32_t actors_left;
    uint32_t clock_reads;
    uint32_t marks[8]; /* the actors' own */
};

extern struct scene_world *const scene_world;

/* Plays a scene; fails the cmocka test with the sentence that did not hold. */
void scene_play(const struct scene *scene);

/* --- for actors --- */

uint64_t scene_now(void); /* since the scene's start */
void scene_wait_until(uint64_t moment_ns);
enum cleat_status scene_get(const char *path, uint64_t timeout_ns,
                            struct cleat_tool_list *list,
                            struct cleat_error *error);
struct cleat_tool_cache_counters scene_count(void);

#define check(condition) fibres_check((condition), #condition)
/* A status is what it should be, and so is the text. */
void scene_check_says(enum cleat_status status, enum cleat_status wanted,
                      const struct cleat_error *error, const char *text);

#endif
