/* Cleat: what the sub-commands of `cleat tools` have in common.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tools_session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cleat/linux.h"
#include "tools_print.h"

#define LINE_BYTES_MAX 4096u

/* Arguments and result of a call. */
#define CALL_BYTES ((size_t)2 << 20)

void cli_defaults(struct cli_setup *setup, const char *command)
{
    memset(setup, 0, sizeof *setup);
    setup->command = command;
    setup->timeout_ns = 30 * CLEAT_NS_PER_S;
    setup->attempts_max = 3;
}

/* ---- lines -------------------------------------------------------------- */

void cli_say(const char *command, const char *format, ...)
{
    char line[LINE_BYTES_MAX];
    struct cleat_text text = {line, 0};
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    text.bytes = strlen(line);
    /* Threads speak one at a time. */
    flockfile(stderr);
    fprintf(stderr, "%s: ", command);
    (void)cli_print_text(stderr, text, SIZE_MAX);
    fputc('\n', stderr);
    funlockfile(stderr);
}

int cli_finish_output(const char *command, int result)
{
    if (fflush(stdout) == 0 && ferror(stdout) == 0) { return result; }
    cli_say(command, "standard output: %s", strerror(errno));
    return TOOLS_EXIT_INPUT;
}

/* ---- a session ---------------------------------------------------------- */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Loading must be over, one way or the other, before the command stops
 * waiting, so that it can say which server failed and why. An attempt may take
 * half of the time, where there may be another: a slow first start is not cut
 * short, and a server that is silent is asked twice. */
static struct cleat_retry_policy make_policy(const struct cli_setup *setup,
                                             uint64_t load_ns)
{
    uint64_t deadline_ns = load_ns - load_ns / 16;
    struct cleat_retry_policy policy = {
        .base_ns = least(CLEAT_NS_PER_S, load_ns / 16),
        .max_ns = least(30 * CLEAT_NS_PER_S, load_ns / 8),
        .deadline_ns = deadline_ns,
        .attempt_timeout_ns = setup->attempts_max == 1 ? deadline_ns
                                                       : deadline_ns / 2,
        .attempts_max = (uint32_t)setup->attempts_max,
        .multiplier_thousandths = 2000,
        .jitter = CLEAT_RETRY_JITTER_PROPORTIONAL,
        .flags = CLEAT_RETRY_IDEMPOTENT};

    return policy;
}

static void make_config(struct cleat_local_tools_config *config,
                        const struct cleat_retry_policy *policy,
                        const struct cli_setup *setup,
                        const struct cli_needs *needs)
{
    memset(config, 0, sizeof *config);
    config->service.cache.policy = policy;
    config->service.cache.negative_ttl_ns = needs->negative_ns;
    /* What failed is told beside what did not: --policy is the command's. */
    config->service.policy = CLEAT_TOOL_POLICY_ANY;
    config->service.watch = needs->watch ? 1 : 0;
    config->service.slot_bytes = TOOLS_LIST_BYTES;
    config->service.callers_max = needs->callers_max;
    config->service.calls_max = needs->calls ? 1 : CLEAT_TOOL_CACHE_NOBODY;
    config->service.call_bytes = needs->calls ? CALL_BYTES : 0;
    config->mcp.era = setup->era;
    config->mcp.prefix = setup->prefix ? 1 : 0;
    config->mcp.tls_ca_file = setup->ca_file;
    config->mcp.connect_ns = least(5 * CLEAT_NS_PER_S,
                                   policy->attempt_timeout_ns / 2);
    config->mcp.request_ns = policy->attempt_timeout_ns -
                             policy->attempt_timeout_ns / 8;
    config->mcp.grace_ns = least(CLEAT_NS_PER_S,
                                 policy->attempt_timeout_ns / 8);
}

/* Called by the thread that waits for signals: whoever waits for the service
 * is told CLEAT_CANCELLED. */
static void stop(void *context)
{
    struct cli_session *session = context;

    if (atomic_exchange(&session->stopped, true)) { return; }
    (void)cleat_tool_service_close(session->service, 0);
}

static int open_parts(struct cli_session *session,
                      const struct cli_setup *setup,
                      const struct cleat_local_tools_config *config)
{
    struct cleat_error error = {0};
    enum cleat_status status = cleat_local_tools_open(
        session->block, session->bytes, config, &session->tools, &error);

    if (status != CLEAT_OK) {
        cli_say(setup->command, "%s", error.text);
        return TOOLS_EXIT_INPUT;
    }
    session->service = cleat_local_tools_service(session->tools);
    session->watch.stop = stop;
    session->watch.context = session;
    if (!watch_begin(&session->watch)) {
        cleat_local_tools_close(session->tools);
        cli_say(setup->command, "no thread: %s", strerror(errno));
        return TOOLS_EXIT_INPUT;
    }
    return 0;
}

int cli_session_open(struct cli_session *session, const struct cli_setup *setup,
                     const struct cli_needs *needs)
{
    struct cleat_retry_policy policy = make_policy(setup, needs->load_ns);
    struct cleat_local_tools_config config;
    int result;

    if (setup->ca_file != NULL && access(setup->ca_file, R_OK) != 0) {
        return options_fail(setup->command, "--ca-file %s: %s", setup->ca_file,
                            strerror(errno));
    }
    memset(session, 0, sizeof *session);
    session->clock = cleat_linux_clock();
    session->began_ns = cli_session_now(session);
    make_config(&config, &policy, setup, needs);
    session->bytes = cleat_local_tools_bytes(&config);
    session->block = mmap(NULL, session->bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (session->bytes == 0 || session->block == MAP_FAILED) {
        cli_say(setup->command, "%zu bytes of memory: %s", session->bytes,
                strerror(errno));
        return TOOLS_EXIT_INPUT;
    }
    watch_block_signals();
    result = open_parts(session, setup, &config);
    if (result != 0) { (void)munmap(session->block, session->bytes); }
    return result;
}

int cli_session_close(struct cli_session *session, int result)
{
    int signal;

    /* From here on nobody else closes the service. */
    watch_end(&session->watch);
    signal = atomic_load(&session->watch.signal);
    cleat_local_tools_close(session->tools);
    (void)munmap(session->block, session->bytes);
    return signal != 0 ? TOOLS_EXIT_SIGNAL + signal : result;
}

bool cli_session_stopping(const struct cli_session *session)
{
    return atomic_load(&session->watch.stopping);
}

uint64_t cli_session_now(const struct cli_session *session)
{
    return session->clock.now_ns(session->clock.context);
}

/* ---- failures ----------------------------------------------------------- */

void cli_ask_why(const struct cli_session *session, const char *config,
                 struct cli_sources *sources)
{
    struct cleat_tool_failure all[1 + CLEAT_TOOL_SOURCES_MAX];
    uint32_t count = cleat_tools_why(session->service, config, all,
                                     1 + CLEAT_TOOL_SOURCES_MAX);
    uint32_t first = 0;

    memset(sources, 0, sizeof *sources);
    if (count > 0 && all[0].source == CLEAT_TOOL_CACHE_NOBODY) {
        sources->config = all[first++];
    }
    sources->count = count - first;
    memcpy(sources->each, &all[first], sources->count * sizeof all[0]);
}

/* The loader's words begin with the server's name, mostly. */
static const char *without_name(const char *text, const char *name)
{
    size_t bytes = strlen(name);

    return strncmp(text, name, bytes) == 0 && text[bytes] == ':' &&
                   text[bytes + 1] == ' '
               ? text + bytes + 2
               : text;
}

const char *cli_words_of(const struct cleat_tool_failure *failure)
{
    return failure->error.text[0] != '\0'
               ? without_name(failure->error.text, failure->name)
               : cleat_status_sentence(failure->error.status);
}

void cli_say_failure(const char *command,
                     const struct cleat_tool_failure *failure)
{
    const char *status = cleat_status_name(failure->error.status);
    double seconds = (double)failure->elapsed_ns / (double)CLEAT_NS_PER_S;

    if (failure->attempts == 0) {
        cli_say(command, "server %s: %s (%s)", failure->name,
                cli_words_of(failure), status);
        return;
    }
    cli_say(command, "server %s: %s (%s after %" PRIu32 " attempt%s, %.1f s)",
            failure->name, cli_words_of(failure), status, failure->attempts,
            failure->attempts == 1 ? "" : "s", seconds);
}

static int exit_of(enum cleat_status status)
{
    switch (status) {
    case CLEAT_OK: return TOOLS_EXIT_OK;
    case CLEAT_DEADLINE:
    case CLEAT_PENDING: return TOOLS_EXIT_DEADLINE;
    case CLEAT_NOT_FOUND: return TOOLS_EXIT_INPUT; /* a tool was selected */
    default: return TOOLS_EXIT_SERVER;
    }
}

/* Bad input stays until somebody mends it, and what failed says more than what
 * was only slow. */
static int worse_exit(int a, int b)
{
    static const int order[] = {TOOLS_EXIT_INPUT, TOOLS_EXIT_SERVER,
                                TOOLS_EXIT_DEADLINE};

    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        if (a == order[i] || b == order[i]) { return order[i]; }
    }
    return TOOLS_EXIT_OK;
}

/* Every source has failed, or is not there yet: a line each. */
static int fail_sources(const struct cli_setup *setup,
                        const struct cli_sources *sources)
{
    int result = TOOLS_EXIT_OK;

    for (uint32_t i = 0; i < sources->count; i++) {
        enum cleat_status status = sources->each[i].error.status;

        if (status == CLEAT_OK) { continue; }
        cli_say_failure(setup->command, &sources->each[i]);
        result = worse_exit(result, exit_of(status));
    }
    return result;
}

int cli_judge_parts(const char *command, const struct cleat_tool_list *list,
                    const struct cli_sources *sources)
{
    int result = TOOLS_EXIT_OK;

    for (uint32_t i = 0; i < list->count; i++) {
        enum cleat_status status = (enum cleat_status)list->parts[i].status;

        if (list->parts[i].tools != NULL) { continue; }
        if (i < sources->count) {
            struct cleat_tool_failure failure = sources->each[i];

            failure.error.status = status;
            cli_say_failure(command, &failure);
        }
        result = worse_exit(result, exit_of(status));
    }
    return result;
}

static uint32_t count_failed(const struct cli_sources *sources)
{
    uint32_t failed = 0;

    for (uint32_t i = 0; i < sources->count; i++) {
        failed += sources->each[i].error.status != CLEAT_OK ? 1u : 0u;
    }
    return failed;
}

int cli_fail_get(const struct cli_session *session,
                 const struct cli_setup *setup, enum cleat_status status,
                 const struct cleat_error *error)
{
    struct cli_sources sources;

    /* The signal says enough: no line, and cli_session_close the status. */
    if (status == CLEAT_CANCELLED) { return TOOLS_EXIT_SERVER; }
    cli_ask_why(session, setup->config, &sources);
    if (status == CLEAT_DEADLINE) {
        cli_say(setup->command, "not there after %.1f s",
                (double)setup->timeout_ns / (double)CLEAT_NS_PER_S);
        (void)fail_sources(setup, &sources);
        return TOOLS_EXIT_DEADLINE;
    }
    if (sources.config.error.status != CLEAT_OK) {
        cli_say(setup->command, "%s",
                sources.config.error.text[0] != '\0' ? sources.config.error.text
                                                     : error->text);
        return TOOLS_EXIT_INPUT;
    }
    if (status == CLEAT_EXISTS && !setup->prefix) {
        cli_say(setup->command, "%s (--prefix tells them apart)", error->text);
        return TOOLS_EXIT_INPUT;
    }
    if (count_failed(&sources) == 0) {
        cli_say(setup->command, "%s", error->text);
        return TOOLS_EXIT_INPUT;
    }
    return fail_sources(setup, &sources);
}
