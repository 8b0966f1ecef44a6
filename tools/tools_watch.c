/* Cleat: `cleat tools watch`. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "tools_commands.h"
#include "tools_print.h"
#include "tools_session.h"

#define COMMAND "cleat tools watch"

/* How often the list is asked for. Mostly that is a hit, which costs nothing
 * and touches no server. */
#define TICK_NS 200000000

/* How long a get may wait for a server that does not answer, while others
 * change. */
#define GET_NS CLEAT_NS_PER_S

/* How long a server that failed is left alone. */
#define NEGATIVE_NS (2 * CLEAT_NS_PER_S)

static const char usage[] =
    "usage: " COMMAND " --config FILE [OPTION]...\n"
    "Prints each change of the tools that a config offers, a line each, until\n"
    "it is interrupted: when, which server, +added -removed ~changed.\n"
    "\n" TOOLS_USAGE
    "  --every-s S            how often servers are asked besides (10), which\n"
    "                         finds out those that died, and what changes in\n"
    "                         those that do not tell\n"
    "\n"
    "--timeout-s is for one server's list, each time. A server that fails is\n"
    "told, and asked again.\n"
    "\n"
    "Exit: 2 bad input, 130 (interrupted), 143 (terminated).\n";

/* What was last printed of a source. */
struct known {
    char name[64];
    const struct cleat_tools *tools; /* in `block`; NULL: never seen */
    enum cleat_status status;        /* CLEAT_PENDING: nothing printed yet */
    _Alignas(8) unsigned char block[TOOLS_LIST_BYTES];
};

struct setup {
    struct cli_setup common;
    uint64_t every_ns;
};

struct watching {
    const struct cli_setup *setup;
    struct cli_session session;
    struct known known[CLEAT_TOOL_SOURCES_MAX];
    struct known config; /* its `tools` are never there */
    uint32_t count;
    bool begun; /* the config was read once */
};

/* ---- lines -------------------------------------------------------------- */

static void begin_line(const struct known *known)
{
    struct timespec now;
    struct tm parts;
    char text[32];
    struct cleat_text name = {known->name, strlen(known->name)};

    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &parts);
    (void)strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    printf("%s.%03ldZ ", text, now.tv_nsec / 1000000);
    (void)cli_print_text(stdout, name, SIZE_MAX);
    fputc(':', stdout);
}

static void end_line(void)
{
    fputc('\n', stdout);
    (void)fflush(stdout);
}

static void print_name(char sign, struct cleat_text name)
{
    fputc(' ', stdout);
    if (sign != '\0') { fputc(sign, stdout); }
    (void)cli_print_text(stdout, name, SIZE_MAX);
}

static struct cleat_text name_of(const struct cleat_tool *tool)
{
    return tool->name.bytes != 0 ? tool->name : tool->class_name;
}

/* The tool of the same name; native entries without one are told apart by
 * their place. */
static bool find_same(const struct cleat_tools *tools, uint32_t number,
                      const struct cleat_tool *tool, struct cleat_tool *same)
{
    if (tool->name.bytes != 0) {
        if (cleat_tools_find(tools, tool->name.text, tool->name.bytes,
                             &number) != CLEAT_OK) {
            return false;
        }
    } else if (number >= cleat_tools_count(tools)) {
        return false;
    }
    cleat_tools_at(tools, number, same);
    return true;
}

static bool is_same(const struct cleat_tool *a, const struct cleat_tool *b)
{
    return a->definition.bytes == b->definition.bytes &&
           memcmp(a->definition.text, b->definition.text,
                  a->definition.bytes) == 0;
}

static void print_difference(const struct cleat_tools *old,
                             const struct cleat_tools *now)
{
    struct cleat_tool tool;
    struct cleat_tool same;

    for (uint32_t i = 0; i < cleat_tools_count(now); i++) {
        cleat_tools_at(now, i, &tool);
        if (!find_same(old, i, &tool, &same)) {
            print_name('+', name_of(&tool));
        } else if (!is_same(&tool, &same)) {
            print_name('~', name_of(&tool));
        }
    }
    for (uint32_t i = 0; i < cleat_tools_count(old); i++) {
        cleat_tools_at(old, i, &tool);
        if (!find_same(now, i, &tool, &same)) {
            print_name('-', name_of(&tool));
        }
    }
}

static void print_names(const struct cleat_tools *tools)
{
    struct cleat_tool tool;

    for (uint32_t i = 0; i < cleat_tools_count(tools); i++) {
        cleat_tools_at(tools, i, &tool);
        print_name('\0', name_of(&tool));
    }
}

static void print_count(const struct cleat_tools *tools)
{
    uint32_t count = cleat_tools_count(tools);

    printf(" %" PRIu32 " tool%s", count, count == 1 ? "" : "s");
}

/* ---- what has changed --------------------------------------------------- */

static void remember(struct known *known, const struct cleat_tools *tools)
{
    known->status = CLEAT_OK;
    (void)cleat_tools_copy(tools, known->block, sizeof known->block,
                           &known->tools, NULL); /* it fits in a slot */
}

static void tell_list(struct known *known, const struct cleat_tools *tools)
{
    bool changed = known->tools == NULL || cleat_tools_digest(known->tools) !=
                                               cleat_tools_digest(tools);

    if (known->status == CLEAT_OK && !changed) { return; }
    begin_line(known);
    if (known->status != CLEAT_OK && known->status != CLEAT_PENDING) {
        fputs(" is back,", stdout);
    }
    print_count(tools);
    if (known->tools == NULL) {
        fputc(':', stdout);
        print_names(tools);
    } else if (changed) {
        fputc(':', stdout);
        print_difference(known->tools, tools);
    }
    end_line();
    remember(known, tools);
}

static void tell_failure(struct known *known,
                         const struct cleat_tool_failure *failure)
{
    enum cleat_status status = failure->error.status;
    const char *text = cli_words_of(failure);
    struct cleat_text words = {text, strlen(text)};

    if (known->status == status) { return; }
    known->status = status;
    begin_line(known);
    fputs(" failed: ", stdout);
    (void)cli_print_text(stdout, words, SIZE_MAX);
    if (failure->attempts != 0) {
        printf(" (%s after %" PRIu32 " attempt%s)", cleat_status_name(status),
               failure->attempts, failure->attempts == 1 ? "" : "s");
    }
    end_line();
}

static bool is_failed(enum cleat_status status)
{
    return status != CLEAT_OK && status != CLEAT_PENDING &&
           status != CLEAT_DEADLINE && status != CLEAT_CANCELLED;
}

/* The config has another number or order of sources than before. */
static bool is_other_config(const struct watching *watching,
                            const struct cli_sources *sources)
{
    if (watching->count != sources->count) { return true; }
    for (uint32_t i = 0; i < sources->count; i++) {
        if (strcmp(watching->known[i].name, sources->each[i].name) != 0) {
            return true;
        }
    }
    return false;
}

static void forget(struct watching *watching, const struct cli_sources *sources)
{
    for (uint32_t i = 0; i < sources->count; i++) {
        struct known *known = &watching->known[i];

        (void)snprintf(known->name, sizeof known->name, "%s",
                       sources->each[i].name);
        known->tools = NULL;
        known->status = CLEAT_PENDING;
    }
    watching->count = sources->count;
}

/* The config: once there is nothing else to go on with, its failure is the
 * command's; later it may be half-written, and is looked at again. */
static void tell_config(struct watching *watching,
                        const struct cli_sources *sources)
{
    struct known *config = &watching->config;

    if (is_failed(sources->config.error.status)) {
        (void)snprintf(config->name, sizeof config->name, "%s",
                       sources->config.name);
        tell_failure(config, &sources->config);
    } else if (is_failed(config->status)) {
        config->status = CLEAT_OK;
        begin_line(config);
        fputs(" is back", stdout);
        end_line();
    }
}

static void tell_sources(struct watching *watching,
                         const struct cleat_tool_list *list,
                         const struct cli_sources *sources)
{
    for (uint32_t i = 0; i < sources->count; i++) {
        if (i < list->count && list->parts[i].tools != NULL) {
            tell_list(&watching->known[i], list->parts[i].tools);
        } else if (is_failed(sources->each[i].error.status)) {
            tell_failure(&watching->known[i], &sources->each[i]);
        }
    }
}

/* Asks once, and prints what is not as it was. Returns 0; or the exit status
 * where it makes no sense to go on. */
static int look(struct watching *watching)
{
    const struct cli_session *session = &watching->session;
    const char *config = watching->setup->config;
    struct cleat_error error = {0};
    struct cleat_tool_list list;
    struct cli_sources sources;
    uint64_t until_ns = cleat_time_add(cli_session_now(session), GET_NS);
    enum cleat_status status = cleat_tools_get(session->service, config,
                                               until_ns, &list, &error);

    if (status == CLEAT_CANCELLED) { return 0; }
    cli_ask_why(session, config, &sources);
    if (!watching->begun &&
        (is_failed(sources.config.error.status) || status == CLEAT_EXISTS)) {
        return cli_fail_get(session, watching->setup, status, &error);
    }
    if (status == CLEAT_EXISTS) {
        /* Two servers have come to offer one name: nobody is to blame. */
        sources.config.error = error;
        (void)snprintf(sources.config.name, sizeof sources.config.name, "%s",
                       config);
    }
    if (sources.config.error.status == CLEAT_OK && sources.count > 0) {
        if (is_other_config(watching, &sources)) { forget(watching, &sources); }
        watching->begun = true;
    }
    tell_config(watching, &sources);
    tell_sources(watching, &list, &sources);
    cleat_tools_unpin(&list);
    return 0;
}

/* ---- the command -------------------------------------------------------- */

/* Has every server asked again, when it is time to. */
static void ask_again(const struct watching *watching, uint64_t every_ns,
                      uint64_t *next_ns)
{
    const struct cli_session *session = &watching->session;
    uint64_t now_ns = cli_session_now(session);

    if (now_ns < *next_ns) { return; }
    *next_ns = cleat_time_add(now_ns, every_ns);
    (void)cleat_tools_reload(session->service, watching->setup->config, true);
}

static int run_watch(const struct setup *setup)
{
    static struct watching watching; /* the process runs one */
    const struct timespec tick = {0, TICK_NS};
    struct cli_needs needs = {.load_ns = setup->common.timeout_ns,
                              .negative_ns = NEGATIVE_NS,
                              .callers_max = 1,
                              .watch = true};
    uint64_t next_ns;
    int result;

    watching.setup = &setup->common;
    result = cli_session_open(&watching.session, &setup->common, &needs);
    if (result != 0) { return result; }
    next_ns = cleat_time_add(watching.session.began_ns, setup->every_ns);
    while (result == 0 && !cli_session_stopping(&watching.session)) {
        result = look(&watching);
        if (result == 0) { result = cli_finish_output(COMMAND, 0); }
        if (result == 0) { (void)nanosleep(&tick, NULL); }
        ask_again(&watching, setup->every_ns, &next_ns);
    }
    return cli_session_close(&watching.session, result);
}

int cli_watch(int argc, char **argv)
{
    struct setup setup = {.every_ns = 10 * CLEAT_NS_PER_S};
    struct option table[] = {TOOLS_OPTIONS(&setup.common),
                             {.name = "every-s",
                              .kind = OPTION_SECONDS,
                              .to = &setup.every_ns,
                              .min = CLEAT_NS_PER_S / 10,
                              .max = 86400 * CLEAT_NS_PER_S}};
    struct options options = {.command = COMMAND,
                              .table = table,
                              .count = sizeof table / sizeof table[0]};
    int result;

    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    cli_defaults(&setup.common, COMMAND);
    result = options_parse(&options, argc, argv);
    return result != 0 ? result : run_watch(&setup);
}
