/* Cleat: `cleat tools list`. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "tools_commands.h"
#include "tools_print.h"
#include "tools_session.h"

#define COMMAND "cleat tools list"
#define THREADS_MAX 256u

static const char usage[] =
    "usage: " COMMAND " --config FILE [OPTION]...\n"
    "Prints the tools that a config offers.\n"
    "\n" TOOLS_USAGE
    "  --format F             table (default); openai: what a model is given;\n"
    "                         mcp: what the servers sent\n"
    "  --policy P             all (default): a server that fails is a "
    "failure;\n"
    "                         any: one that works is enough\n"
    "  --report text|json     json: what came of it, in place of the list\n"
    "  --threads N            that ask at once, 1 to 256 (1)\n"
    "  --repeat N             how often each asks (1)\n"
    "  --stats                counters, on standard error\n"
    "\n"
    "Exit: 0, 2 bad input, 6 a server failed, 7 the deadline came first.\n";

enum list_format { FORMAT_TABLE, FORMAT_OPENAI, FORMAT_MCP };
enum list_policy { POLICY_ALL, POLICY_ANY };
enum list_report { REPORT_TEXT, REPORT_JSON };

struct setup {
    struct cli_setup common;
    uint32_t format;
    uint32_t policy;
    uint32_t report;
    uint64_t threads;
    uint64_t repeat;
    bool stats;
};

/* One thread that asks. */
struct asker {
    struct run *run;
    struct cleat_tool_list list; /* what its last get gave */
    struct cleat_error error;    /* of the first that failed */
    enum cleat_status status;
    uint64_t gets;
    uint64_t failed;
    uint64_t slowest_ns;
    pthread_t thread;
};

struct run {
    const struct setup *setup;
    struct cli_session session;
    pthread_barrier_t start;
    struct asker askers[THREADS_MAX];
};

/* ---- asking ------------------------------------------------------------- */

static void ask_once(struct asker *asker)
{
    struct cli_session *session = &asker->run->session;
    const struct cli_setup *setup = &asker->run->setup->common;
    uint64_t began_ns = cli_session_now(session);
    struct cleat_error error = {0};
    enum cleat_status status;
    uint64_t took_ns;

    cleat_tools_unpin(&asker->list);
    status = cleat_tools_get(session->service, setup->config,
                             cleat_time_add(began_ns, setup->timeout_ns),
                             &asker->list, &error);
    took_ns = cli_session_now(session) - began_ns;
    if (took_ns > asker->slowest_ns) { asker->slowest_ns = took_ns; }
    if (status == CLEAT_OK) {
        asker->gets++;
        return;
    }
    if (asker->failed++ == 0) {
        asker->status = status;
        asker->error = error;
    }
}

static void *ask(void *context)
{
    struct asker *asker = context;
    const struct run *run = asker->run;

    (void)pthread_barrier_wait(&asker->run->start);
    for (uint64_t i = 0; i < run->setup->repeat; i++) {
        ask_once(asker);
        /* It would be the same again, after as long a wait. */
        if (asker->failed != 0 || cli_session_stopping(&run->session)) {
            break;
        }
    }
    return NULL;
}

/* All threads ask; this one is the first of them. Returns 0, or 2. */
static int ask_all(struct run *run)
{
    uint32_t threads = (uint32_t)run->setup->threads;
    uint32_t started = 1;
    int error = pthread_barrier_init(&run->start, NULL, threads);

    for (uint32_t i = 0; i < threads; i++) { run->askers[i].run = run; }
    while (error == 0 && started < threads) {
        struct asker *asker = &run->askers[started];

        error = pthread_create(&asker->thread, NULL, ask, asker);
        if (error == 0) { started++; }
    }
    if (error != 0) {
        /* Those that were started wait at the barrier for ever; the process
         * ends without them. */
        cli_say(COMMAND, "--threads %" PRIu32 ": no thread: %s", threads,
                strerror(error));
        return TOOLS_EXIT_INPUT;
    }
    (void)ask(&run->askers[0]);
    for (uint32_t i = 1; i < threads; i++) {
        (void)pthread_join(run->askers[i].thread, NULL);
    }
    (void)pthread_barrier_destroy(&run->start);
    return 0;
}

/* ---- what came of it ---------------------------------------------------- */

/* The first asker that failed; NULL: none did. */
static const struct asker *find_failed(const struct run *run)
{
    for (uint64_t i = 0; i < run->setup->threads; i++) {
        if (run->askers[i].failed != 0) { return &run->askers[i]; }
    }
    return NULL;
}

static void say_left_out(const struct cleat_tool_list *list)
{
    struct cleat_tool tool;

    for (uint32_t i = 0; i < list->count; i++) {
        const struct cleat_tools *tools = list->parts[i].tools;
        uint32_t left_out = tools == NULL ? 0 : cleat_tools_left_out(tools);
        struct cleat_text name = cleat_tool_source_name(list->sources, i);

        if (left_out == 0) { continue; }
        cli_say(COMMAND,
                "server %.*s: %" PRIu32 " tool%s left out: a name given "
                "twice, or a header annotation that is not allowed",
                (int)name.bytes, name.text, left_out, left_out == 1 ? "" : "s");
    }
    for (uint32_t at = 0; cleat_tool_list_next(list, &at, &tool);) {
        if (tool.definition.bytes != 0) { continue; }
        cli_say(COMMAND, "%.*s: its schema is made by its class, not here",
                (int)tool.class_name.bytes, tool.class_name.text);
    }
}

static void print_list(const struct setup *setup,
                       const struct cleat_tool_list *list)
{
    switch ((enum list_format)setup->format) {
    case FORMAT_TABLE: cli_print_table(stdout, list); break;
    case FORMAT_OPENAI: cli_print_openai(stdout, list); break;
    case FORMAT_MCP: cli_print_mcp(stdout, list); break;
    }
}

static void fill_report(struct run *run, struct cli_report *report)
{
    report->config = run->setup->common.config;
    report->threads = run->setup->threads;
    report->elapsed_ns = cli_session_now(&run->session) - run->session.began_ns;
    for (uint64_t i = 0; i < run->setup->threads; i++) {
        const struct asker *asker = &run->askers[i];

        report->gets += asker->gets;
        report->gets_failed += asker->failed;
        if (asker->slowest_ns > report->slowest_ns) {
            report->slowest_ns = asker->slowest_ns;
        }
    }
    cli_ask_why(&run->session, run->setup->common.config, &report->sources);
    cleat_tool_service_count(run->session.service, &report->counters);
}

/* Says what came of it. Returns the exit status. */
static int tell(struct run *run)
{
    const struct setup *setup = run->setup;
    const struct asker *failed = find_failed(run);
    struct cli_report report = {0};
    int result;

    fill_report(run, &report);
    if (failed != NULL) {
        result = cli_fail_get(&run->session, &setup->common, failed->status,
                              &failed->error);
        if (failed->status == CLEAT_CANCELLED) { return result; }
    } else {
        report.list = &run->askers[0].list;
        result = cli_judge_parts(COMMAND, report.list, &report.sources);
        if (setup->policy == POLICY_ANY) { result = TOOLS_EXIT_OK; }
    }
    report.exit_status = result;
    if (setup->report == REPORT_JSON) {
        if (result != TOOLS_EXIT_INPUT) { cli_print_report(stdout, &report); }
    } else if (result == TOOLS_EXIT_OK) {
        say_left_out(report.list);
        print_list(setup, report.list);
    }
    if (setup->stats) { cli_print_counters(stderr, &report); }
    return cli_finish_output(COMMAND, result);
}

/* ---- the command -------------------------------------------------------- */

static int run_list(const struct setup *setup)
{
    static struct run run; /* the process runs one */
    struct cli_needs needs = {
        .load_ns = setup->common.timeout_ns,
        /* So that threads that ask together hear of the same failure. */
        .negative_ns = setup->common.timeout_ns,
        .callers_max = (uint32_t)setup->threads};
    int result;

    run.setup = setup;
    result = cli_session_open(&run.session, &setup->common, &needs);
    if (result != 0) { return result; }
    result = ask_all(&run);
    if (result == 0) { result = tell(&run); }
    for (uint64_t i = 0; i < setup->threads; i++) {
        cleat_tools_unpin(&run.askers[i].list);
    }
    return cli_session_close(&run.session, result);
}

static int parse(struct setup *setup, int argc, char **argv)
{
    struct option table[] = {
        TOOLS_OPTIONS(&setup->common),
        {.name = "format",
         .kind = OPTION_CHOICE,
         .to = &setup->format,
         .choices = "table|openai|mcp"},
        {.name = "policy",
         .kind = OPTION_CHOICE,
         .to = &setup->policy,
         .choices = "all|any"},
        {.name = "report",
         .kind = OPTION_CHOICE,
         .to = &setup->report,
         .choices = "text|json"},
        {.name = "threads",
         .kind = OPTION_COUNT,
         .to = &setup->threads,
         .min = 1,
         .max = THREADS_MAX},
        {.name = "repeat",
         .kind = OPTION_COUNT,
         .to = &setup->repeat,
         .min = 1,
         .max = UINT64_C(1000000000)},
        {.name = "stats", .kind = OPTION_FLAG, .to = &setup->stats},
    };
    struct options options = {.command = COMMAND,
                              .table = table,
                              .count = sizeof table / sizeof table[0]};

    return options_parse(&options, argc, argv);
}

int cli_list(int argc, char **argv)
{
    struct setup setup = {.threads = 1, .repeat = 1};
    int result;

    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    cli_defaults(&setup.common, COMMAND);
    result = parse(&setup, argc, argv);
    return result != 0 ? result : run_list(&setup);
}
