/* Cleat: what the sub-commands of `cleat tools` have in common.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A session is the tool service over port/mcp in one block of memory, taken
 * once, before anything runs; and the thread that waits for signals.
 */
#ifndef CLEAT_TOOLS_TOOLS_SESSION_H
#define CLEAT_TOOLS_TOOLS_SESSION_H

#include <stdatomic.h>

#include "cleat/local_tools.h"
#include "options.h"
#include "watch.h"

enum cli_exit {
    TOOLS_EXIT_OK = 0,
    TOOLS_EXIT_TOOL = 1, /* the tool itself reported an error */
    TOOLS_EXIT_INPUT = 2,
    TOOLS_EXIT_SERVER = 6,
    TOOLS_EXIT_DEADLINE = 7,
    TOOLS_EXIT_SIGNAL = 128 /* plus its number */
};

/* The options that all of them take. */
struct cli_setup {
    const char *command; /* "cleat tools list": what a line starts with */
    const char *config;
    const char *ca_file;
    uint64_t timeout_ns;
    uint64_t attempts_max;
    uint32_t era; /* enum cleat_mcp_era */
    bool prefix;
};

#define TOOLS_OPTIONS(setup)                                             \
    {.name = "config",                                                   \
     .kind = OPTION_TEXT,                                                \
     .to = &(setup)->config,                                             \
     .required = true},                                                  \
        {.name = "timeout-s",                                            \
         .kind = OPTION_SECONDS,                                         \
         .to = &(setup)->timeout_ns,                                     \
         .min = CLEAT_NS_PER_S / 10,                                     \
         .max = 86400 * CLEAT_NS_PER_S},                                 \
        {.name = "attempts-max",                                         \
         .kind = OPTION_COUNT,                                           \
         .to = &(setup)->attempts_max,                                   \
         .min = 1,                                                       \
         .max = 1000},                                                   \
        {.name = "era",                                                  \
         .kind = OPTION_CHOICE,                                          \
         .to = &(setup)->era,                                            \
         .choices = "auto|legacy|modern"},                               \
        {.name = "prefix", .kind = OPTION_FLAG, .to = &(setup)->prefix}, \
    {                                                                    \
        .name = "ca-file", .kind = OPTION_TEXT, .to = &(setup)->ca_file  \
    }

/* The same for --help. */
#define TOOLS_USAGE                                                          \
    "  --config FILE          verl's YAML, or JSON with mcpServers\n"        \
    "  --timeout-s S          how long the command waits in all (30)\n"      \
    "  --attempts-max N       of each server, the first included (3)\n"      \
    "  --era E                auto (default); legacy: initialize; modern:\n" \
    "                         2026-07-28\n"                                  \
    "  --prefix               tools of MCP servers are named SERVER_TOOL\n"  \
    "  --ca-file FILE         certificates to trust, PEM (the system's)\n"

void cli_defaults(struct cli_setup *setup, const char *command);

/* The largest list of one source that the command takes. */
#define TOOLS_LIST_BYTES ((size_t)1 << 20)

/* How the parts of a session differ between the sub-commands. */
struct cli_needs {
    uint64_t load_ns;     /* how long loading may take in all */
    uint64_t negative_ns; /* how long a failure is remembered; 0: not at all */
    uint32_t callers_max; /* threads that wait at once */
    bool calls;           /* tools are called */
    bool watch;           /* sources are watched */
};

struct cli_session {
    struct watch watch;
    struct cleat_local_tools *tools;
    struct cleat_tool_service *service;
    struct cleat_clock clock;
    void *block;
    size_t bytes;
    uint64_t began_ns;
    atomic_bool stopped;
};

/* Takes the memory and starts the threads. Returns 0; 2 after one line on
 * stderr, and then nothing is left. */
int cli_session_open(struct cli_session *session, const struct cli_setup *setup,
                     const struct cli_needs *needs);

/* Ends every server. Returns `result`, or what says that a signal has ended
 * it. */
int cli_session_close(struct cli_session *session, int result);

/* Has a signal come? */
bool cli_session_stopping(const struct cli_session *session);

uint64_t cli_session_now(const struct cli_session *session);

/* One line on stderr, "<command>: <text>": whatever the text holds, what could
 * move a terminal's cursor is '?'. */
void cli_say(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- failures ----------------------------------------------------------- */

/* What is known of the config and its sources. */
struct cli_sources {
    struct cleat_tool_failure each[CLEAT_TOOL_SOURCES_MAX];
    struct cleat_tool_failure config; /* CLEAT_OK: it was read */
    uint32_t count;
};

void cli_ask_why(const struct cli_session *session, const char *config,
                 struct cli_sources *sources);

/* One line for a source that failed: which, why, after how many attempts and
 * how long. */
void cli_say_failure(const char *command,
                     const struct cleat_tool_failure *failure);

/* Says why a get failed, a line a source, and returns the exit status. */
int cli_fail_get(const struct cli_session *session,
                 const struct cli_setup *setup, enum cleat_status status,
                 const struct cleat_error *error);

/* Why it failed, without its name. */
const char *cli_words_of(const struct cleat_tool_failure *failure);

/* Says which parts of a list failed, a line each. Returns the exit status;
 * TOOLS_EXIT_OK: none did. */
int cli_judge_parts(const char *command, const struct cleat_tool_list *list,
                    const struct cli_sources *sources);

/* The last line of a command that prints: was all of it written? Returns
 * `result`, or 2 after one line. */
int cli_finish_output(const char *command, int result);

#endif
