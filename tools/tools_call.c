/* Cleat: `cleat tools call`. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cleat/json.h"
#include "tools_commands.h"
#include "tools_print.h"
#include "tools_session.h"

#define COMMAND "cleat tools call"
#define RESULT_BYTES ((size_t)2 << 20)

static const char usage[] =
    "usage: " COMMAND " --config FILE NAME [--args JSON] [OPTION]...\n"
    "Calls a tool, once, and prints the JSON of its result.\n"
    "\n" TOOLS_USAGE "  --args JSON            an object ({})\n"
    "\n"
    "Finding the tool takes at most half of --timeout-s. A call is never made\n"
    "again: one that missed the deadline may have taken effect.\n"
    "\n"
    "Exit: 0, 1 the tool reported an error (its JSON is printed), 2 bad "
    "input,\n"
    "6 the server failed, 7 the deadline came first.\n";

struct setup {
    struct cli_setup common;
    const char *name;
    const char *arguments;
};

struct call {
    const struct setup *setup;
    struct cli_session session;
    struct cleat_tool_list list;
    uint64_t deadline_ns;
};

/* ---- finding the tool --------------------------------------------------- */

/* "there are: a, b, …" */
static void say_unknown(const struct call *call)
{
    char names[1024];
    size_t used = 0;
    struct cleat_tool tool;

    names[0] = '\0';
    for (uint32_t at = 0; cleat_tool_list_next(&call->list, &at, &tool);) {
        int added = tool.name.bytes == 0
                        ? 0 /* its class knows it */
                        : snprintf(names + used, sizeof names - used, "%s%.*s",
                                   used == 0 ? "" : ", ", (int)tool.name.bytes,
                                   tool.name.text);

        if (added < 0 || (size_t)added >= sizeof names - used) {
            names[used] = '\0';
            cli_say(COMMAND, "%s: there is no such tool; there are: %s, …",
                    call->setup->name, names);
            return;
        }
        used += (size_t)added;
    }
    cli_say(COMMAND, "%s: there is no such tool; there %s%s", call->setup->name,
            used == 0 ? "is none" : "are: ", names);
}

/* The tool is in no list. Where a server failed it may have been there. */
static int judge_unknown(const struct call *call)
{
    struct cli_sources sources;
    int result;

    cli_ask_why(&call->session, call->setup->common.config, &sources);
    result = cli_judge_parts(COMMAND, &call->list, &sources);
    say_unknown(call);
    return result != TOOLS_EXIT_OK ? result : TOOLS_EXIT_INPUT;
}

static int find_tool(struct call *call)
{
    const struct cli_setup *setup = &call->setup->common;
    struct cleat_error error = {0};
    struct cleat_tool tool;
    enum cleat_status status = cleat_tools_get(
        call->session.service, setup->config,
        cleat_time_add(call->session.began_ns, setup->timeout_ns / 2),
        &call->list, &error);

    if (status != CLEAT_OK) {
        return cli_fail_get(&call->session, setup, status, &error);
    }
    status = cleat_tool_list_find(&call->list, call->setup->name, &tool, NULL);
    return status == CLEAT_OK ? 0 : judge_unknown(call);
}

/* ---- the call ----------------------------------------------------------- */

static int judge(const struct call *call, enum cleat_status status,
                 const struct cleat_error *error)
{
    /* The service says so itself of one that missed the deadline. */
    bool perhaps = status != CLEAT_DEADLINE &&
                   cleat_status_class(status) == CLEAT_CLASS_AMBIGUOUS;

    if (status == CLEAT_CANCELLED) { return TOOLS_EXIT_SERVER; }
    if (error->text[0] != '\0') {
        cli_say(COMMAND, "%s%s", error->text,
                perhaps ? "; it may have taken effect" : "");
    } else {
        cli_say(COMMAND, "%s: %s (%s)", call->setup->name,
                cleat_status_sentence(status), cleat_status_name(status));
    }
    switch (status) {
    case CLEAT_DEADLINE:
    case CLEAT_PEER_SILENT: return TOOLS_EXIT_DEADLINE;
    case CLEAT_UNSUPPORTED: return TOOLS_EXIT_INPUT; /* a native tool */
    default: return TOOLS_EXIT_SERVER;
    }
}

static int call_tool(struct call *call)
{
    static _Alignas(8) char result[RESULT_BYTES];
    const char *text = call->setup->arguments;
    struct cleat_text arguments = {text, strlen(text)};
    struct cleat_error error = {0};
    size_t bytes = 0;
    bool is_error = false;
    enum cleat_status status = cleat_tools_call(
        call->session.service, &call->list, call->setup->name, arguments,
        call->deadline_ns, result, sizeof result, &bytes, &is_error, &error);

    if (status != CLEAT_OK) { return judge(call, status, &error); }
    (void)fwrite(result, 1, bytes, stdout);
    fputc('\n', stdout);
    return cli_finish_output(COMMAND,
                             is_error ? TOOLS_EXIT_TOOL : TOOLS_EXIT_OK);
}

/* ---- the command -------------------------------------------------------- */

static int run_call(const struct setup *setup)
{
    struct call call = {.setup = setup};
    struct cli_needs needs = {.load_ns = setup->common.timeout_ns / 2,
                              .callers_max = 1,
                              .calls = true};
    int result = cli_session_open(&call.session, &setup->common, &needs);

    if (result != 0) { return result; }
    call.deadline_ns = cleat_time_add(call.session.began_ns,
                                      setup->common.timeout_ns);
    result = find_tool(&call);
    if (result == 0) { result = call_tool(&call); }
    cleat_tools_unpin(&call.list);
    return cli_session_close(&call.session, result);
}

/* The arguments are not repeated in an error: they are the caller's. */
static int check_arguments(const char *arguments)
{
    struct cleat_json_value root;
    struct cleat_error error = {0};

    if (cleat_json_check(arguments, strlen(arguments), NULL, &root, &error) !=
        CLEAT_OK) {
        return options_fail(
            COMMAND, "--args: expected a JSON object; byte %" PRIu64 ": %s",
            error.offset, error.text);
    }
    if (root.type != CLEAT_JSON_OBJECT) {
        return options_fail(COMMAND, "--args: expected a JSON object");
    }
    return 0;
}

int cli_call(int argc, char **argv)
{
    struct setup setup = {.arguments = "{}"};
    struct option table[] = {
        TOOLS_OPTIONS(&setup.common),
        {.name = "args", .kind = OPTION_TEXT, .to = &setup.arguments},
    };
    struct options options = {.command = COMMAND,
                              .table = table,
                              .count = sizeof table / sizeof table[0],
                              .operands = &setup.name,
                              .operands_min = 1,
                              .operands_max = 1,
                              .operands_name = "NAME"};
    int result;

    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    cli_defaults(&setup.common, COMMAND);
    result = options_parse(&options, argc, argv);
    if (result == 0) { result = check_arguments(setup.arguments); }
    return result != 0 ? result : run_call(&setup);
}
