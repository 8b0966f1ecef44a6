/* Cleat: the coordinator of `cleat sync`. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include "coordinator.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "board.h"
#include "cleat/arena.h"
#include "cleat/linux.h"
#include "cleat/service.h"
#include "report.h"
#include "trace.h"
#include "watch.h"

#define COMMAND "cleat sync"

/* A round ends when every serving engine has hashed this many windows. */
#define WINDOWS_A_ROUND 16u

#define LEASE_NS (2 * CLEAT_NS_PER_S)
#define REAP_NS (5 * CLEAT_NS_PER_S)
#define RETRY_NS_MAX (200 * CLEAT_NS_PER_MS)

/* Patience with an engine that serves, and with one that writes a dump. */
#define SERVE_NS (30 * CLEAT_NS_PER_S)
#define DUMP_NS (60 * CLEAT_NS_PER_S)

/* How long children may take to end that clean up in a store, or leave a group
 * of GPUs. */
#define CARRIER_GRACE_NS (5 * CLEAT_NS_PER_S)

#define THREADS_MAX 64u

/* What a member was last said to be given; all zero: nothing. */
struct said {
    uint64_t epoch;
    uint32_t attempt;
    uint32_t what; /* 1 more than the step; SAID_WAIT */
};

#define SAID_WAIT UINT32_MAX

/* Of all bytes of a version: as they were received last, and of the one that
 * is held since its commit. */
struct held_digest {
    uint32_t received;
    uint32_t held;
};

struct coordinator {
    struct sync_setup *setup;
    struct cleat_sync_config config;
    uint32_t members;

    /* What the arena holds. */
    void *threads_block;
    void *mailbox_block;
    void *bringup_mailbox_block;
    void *workers_block;
    void *service_block;
    void *bringup_block;
    struct held_digest *digests; /* by member */
    uint64_t *handles;           /* by member */
    int32_t *pids;               /* by member */
    struct report_replica *replicas;
    struct report_undo *undos;
    struct trace_event *trace_events;
    struct said *said; /* by member */

    struct cleat_threads threads;
    struct cleat_mailbox mailbox;
    struct cleat_mailbox bringup_mailbox;
    struct cleat_linux_workers *workers;
    struct cleat_sync_service *service;
    struct cleat_bringup *bringup;
    struct cleat_retry_policy policy;

    struct board board;
    char board_file[120]; /* with --listen; else empty */
    struct watch watch;
    struct trace trace;
    FILE *trace_file;
    bool trace_made; /* by us: there was no such file */
    bool dump_made;  /* the same of the folder */
    struct report report;
    uint64_t version; /* that is served; engines begin with 0 */
    bool updated;     /* a round has ended, and replicas served after it */
    bool mismatched;  /* a process has been given other weights */
    uint64_t started_ns;
};

/* ------------------------------------------------------------------ counts */

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static struct cleat_sync_config sync_config(const struct sync_setup *setup)
{
    uint64_t step_ns = setup->job.step_timeout_ns;
    uint64_t receivers = setup->replicas * setup->workers;
    uint64_t certain_ns = REAP_NS > LEASE_NS ? REAP_NS : LEASE_NS;
    struct cleat_sync_config config;

    memset(&config, 0, sizeof config);
    config.trainers = 1;
    config.replicas = (uint32_t)setup->replicas;
    config.workers = (uint32_t)setup->workers;
    config.replicas_min = (uint32_t)setup->replicas_min;
    config.attempts_max = (uint32_t)setup->attempts_max;
    config.step_timeout_ns = step_ns;
    config.retry_ns = step_ns / 5 < RETRY_NS_MAX ? step_ns / 5 : RETRY_NS_MAX;
    /* In prepare the trainer reads all of its weights once, for their digests,
     * and once more where it takes them to its GPU; in send all of them go to
     * every receiver; an end that hears nothing gives up before that. */
    config.step_ns[CLEAT_SYNC_PREPARE] =
        step_ns +
        job_floor_ns(setup->job.bytes, setup->carrier.skips_digest ? 2 : 1);
    config.step_ns[CLEAT_SYNC_SEND] = job_bucket_ns(&setup->job) +
                                      job_floor_ns(setup->job.bytes, receivers);
    /* Long enough to become certain: a killed child is reaped, or the last
     * lease of one that is no child has run out. */
    config.step_ns[CLEAT_SYNC_EXPEL] = step_ns > certain_ns ? step_ns
                                                            : certain_ns;
    config.step_ns[CLEAT_SYNC_EXPEL] += CLEAT_NS_PER_S;
    return config;
}

/* ------------------------------------------------------------------ memory */

/* A place in the arena. */
struct piece {
    size_t bytes;
    void **out;
};

static struct cleat_gather_config gather_config(struct coordinator *c)
{
    const struct sync_setup *setup = c->setup;
    struct cleat_retry_policy policy = CLEAT_RETRY_BRING_UP;
    struct cleat_gather_config config = {&c->policy, setup->start_timeout_ns,
                                         c->members};
    uint64_t attempt_ns = setup->start_timeout_ns / 4;

    policy.base_ns = 50 * CLEAT_NS_PER_MS;
    policy.max_ns = CLEAT_NS_PER_S;
    if (attempt_ns > setup->job.step_timeout_ns) {
        attempt_ns = setup->job.step_timeout_ns;
    }
    /* Nobody may ever attach; a wait for him should end soon after all else. */
    if (setup->listen != NULL && attempt_ns > CLEAT_NS_PER_S) {
        attempt_ns = CLEAT_NS_PER_S;
    }
    policy.attempt_timeout_ns = attempt_ns;
    c->policy = policy;
    return config;
}

static uint32_t messages_max(const struct coordinator *c)
{
    return least(c->members * 16 + 64, CLEAT_LINUX_MAILBOX_MESSAGES_MAX);
}

static struct cleat_linux_threads_config
threads_config(const struct coordinator *c)
{
    struct cleat_linux_threads_config config = {least(c->members, THREADS_MAX),
                                                c->members * 2};

    return config;
}

/* Carves everything, or only counts, where the arena has no room: then the
 * first refusal is returned and all are counted. */
static enum cleat_status carve(struct coordinator *c, struct cleat_arena *arena,
                               struct cleat_error *error)
{
    struct cleat_linux_threads_config threads = threads_config(c);
    struct cleat_gather_config gather = gather_config(c);
    size_t mailbox = cleat_linux_mailbox_bytes(messages_max(c));
    size_t events = c->setup->trace == NULL ? 1 : TRACE_EVENTS_MAX;
    void *at[7] = {NULL};
    const struct piece pieces[] = {
        {cleat_linux_threads_bytes(&threads), &c->threads_block},
        {mailbox, &c->mailbox_block},
        {mailbox, &c->bringup_mailbox_block},
        {cleat_linux_workers_bytes(c->members), &c->workers_block},
        {cleat_sync_service_bytes(&c->config), &c->service_block},
        {cleat_bringup_bytes(&gather), &c->bringup_block},
        {c->members * sizeof *c->digests, &at[0]},
        {c->members * sizeof *c->handles, &at[1]},
        {c->members * sizeof *c->pids, &at[2]},
        {c->config.replicas * sizeof *c->replicas, &at[3]},
        {c->members * 3 * sizeof *c->undos, &at[4]},
        {events * sizeof *c->trace_events, &at[5]},
        {c->members * sizeof *c->said, &at[6]},
    };
    enum cleat_status first = CLEAT_OK;

    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        enum cleat_status status = cleat_arena_carve(arena, pieces[i].bytes,
                                                     pieces[i].out, error);

        if (first == CLEAT_OK) { first = status; }
    }
    c->digests = at[0];
    c->handles = at[1];
    c->pids = at[2];
    c->replicas = at[3];
    c->undos = at[4];
    c->trace_events = at[5];
    c->said = at[6];
    return first;
}

/* All memory of the coordinator, in one block, before anything is started. */
static int take_memory(struct coordinator *c)
{
    unsigned char none;
    struct cleat_arena arena;
    struct cleat_error error;
    size_t bytes = (size_t)c->setup->arena_bytes;
    size_t needed;
    void *block;

    (void)cleat_arena_init(&arena, &none, 0, NULL);
    (void)carve(c, &arena, NULL);
    needed = cleat_arena_bytes_wanted(&arena);
    if (bytes != 0 && bytes < needed) {
        return options_fail(COMMAND,
                            "--arena-bytes %zu: the arena must have at least "
                            "%zu bytes",
                            bytes, needed);
    }
    block = job_memory(bytes != 0 ? bytes : needed);
    if (block == NULL) {
        return options_fail(COMMAND, "no memory for an arena of %zu bytes",
                            bytes != 0 ? bytes : needed);
    }
    (void)cleat_arena_init(&arena, block, bytes != 0 ? bytes : needed, &error);
    if (carve(c, &arena, &error) != CLEAT_OK) {
        return options_fail(COMMAND, "%s", error.text);
    }
    cleat_arena_seal(&arena);
    return 0;
}

/* ------------------------------------------------------------------ events */

static void say(const struct coordinator *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* One line of --verbose, after the seconds since the start. */
static void say(const struct coordinator *c, const char *format, ...)
{
    struct cleat_clock clock = cleat_linux_clock();
    uint64_t ns = clock.now_ns(clock.context) - c->started_ns;
    va_list arguments;

    fprintf(stderr, "[%6.3f] " COMMAND ": ",
            (double)ns / (double)CLEAT_NS_PER_S);
    va_start(arguments, format);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    (void)fputc('\n', stderr);
}

/* A command that gets no answer is sent again and again; only the first time
 * is worth a line. */
static bool is_new(struct coordinator *c, const struct cleat_event *event)
{
    struct said now = {event->epoch, event->attempt, (uint32_t)event->step + 1};
    struct said *last;

    if (event->kind == CLEAT_EVENT_WAIT) {
        now = (struct said){.what = SAID_WAIT};
    }
    if (event->member >= c->members) { return true; }
    last = &c->said[event->member];
    if (last->epoch == now.epoch && last->attempt == now.attempt &&
        last->what == now.what) {
        return false;
    }
    *last = now;
    return true;
}

static void say_event(struct coordinator *c, const struct cleat_event *event)
{
    const char *step = event->step < CLEAT_SYNC_STEPS
                           ? cleat_sync_step_name(event->step)
                           : "rest";
    char name[48];

    report_member_name(&c->config, event->member, name);
    switch (event->kind) {
    case CLEAT_EVENT_STEP:
        say(c, "step %s, attempt %" PRIu32 ", epoch %" PRIu64, step,
            event->attempt, event->epoch);
        break;
    case CLEAT_EVENT_COMMAND:
        if (is_new(c, event)) { say(c, "%s to %s", step, name); }
        break;
    case CLEAT_EVENT_WAIT:
        if (is_new(c, event)) { say(c, "waiting for %s", name); }
        break;
    case CLEAT_EVENT_LOST: say(c, "%s is gone", name); break;
    case CLEAT_EVENT_ANSWER:
        if (event->status == CLEAT_OK) { break; }
        say(c, "%s of %s: %s", step, name, cleat_status_name(event->status));
        break;
    default: break;
    }
}

/* Into the report, and said at once. */
static void add_error(struct coordinator *c, enum cleat_sync_step step,
                      uint32_t member, enum cleat_status status,
                      const char *message)
{
    char name[48];

    report_add_error(&c->report, step, member, status, message);
    if (!c->setup->verbose) { return; }
    report_member_name(&c->config, member, name);
    say(c, "error: %s of %s: %s", report_step_name(step), name,
        cleat_status_name(status));
}

static void on_event(void *context, const struct cleat_event *event)
{
    struct coordinator *c = context;

    if (c->setup->trace != NULL) { trace_add(&c->trace, event); }
    if (c->setup->verbose) { say_event(c, event); }
    if (event->kind == CLEAT_EVENT_STEP) {
        atomic_store(&c->watch.what, event->step < CLEAT_SYNC_STEPS
                                         ? cleat_sync_step_name(event->step)
                                         : NULL);
    }
    if (event->kind == CLEAT_EVENT_ANSWER && event->status == CLEAT_OK &&
        event->member < c->members) {
        struct held_digest *digest = &c->digests[event->member];

        if (event->step == CLEAT_SYNC_SEND) {
            digest->received = event->answer->sync.digest;
        } else if (event->step == CLEAT_SYNC_COMMIT) {
            digest->held = digest->received;
        }
    }
}

/* A signal has come. */
static void stop_all(void *context)
{
    struct coordinator *c = context;

    (void)cleat_bringup_stop(c->bringup);
    (void)cleat_sync_stop(c->service);
}

static bool stopping(struct coordinator *c)
{
    return atomic_load(&c->watch.stopping);
}

/* ----------------------------------------------------------------- opening */

static struct cleat_service_ports ports(struct coordinator *c,
                                        const struct cleat_mailbox *mailbox)
{
    struct cleat_service_ports all;

    memset(&all, 0, sizeof all);
    all.clock = cleat_linux_clock();
    all.threads = c->threads;
    all.mailbox = *mailbox;
    all.events.context = c;
    all.events.tell = on_event;
    return all;
}

static enum cleat_status wait_for_worker(struct cleat_waiter_context *context,
                                         uint64_t handle, uint64_t deadline_ns,
                                         uint64_t *hint_ns)
{
    struct coordinator *c = (void *)context;

    (void)hint_ns;
    return cleat_linux_worker_wait(c->workers, (uint32_t)handle, deadline_ns);
}

static enum cleat_status open_services(struct coordinator *c,
                                       struct cleat_error *error)
{
    struct cleat_service_ports sync_ports = ports(c, &c->mailbox);
    struct cleat_service_ports bringup_ports = ports(c, &c->bringup_mailbox);
    struct cleat_worker_port port = cleat_linux_workers_port(c->workers);
    struct cleat_gather_config gather = gather_config(c);
    struct cleat_waiter waiter = {(void *)c, wait_for_worker};
    enum cleat_status status = cleat_sync_service_init(
        c->service_block, cleat_sync_service_bytes(&c->config), &c->config,
        &sync_ports, &port, &c->service, error);

    if (status != CLEAT_OK) { return status; }
    return cleat_bringup_init(c->bringup_block, cleat_bringup_bytes(&gather),
                              &gather, &bringup_ports, &waiter, c->setup->seed,
                              &c->bringup, error);
}

static enum cleat_status open_ports(struct coordinator *c,
                                    struct cleat_error *error)
{
    struct cleat_linux_threads_config threads = threads_config(c);
    struct cleat_linux_workers_config workers;
    size_t mailbox_bytes = cleat_linux_mailbox_bytes(messages_max(c));
    enum cleat_status status = cleat_linux_threads_init(
        c->threads_block, cleat_linux_threads_bytes(&threads), &threads,
        &c->threads, error);

    if (status != CLEAT_OK) { return status; }
    status = cleat_linux_mailbox_init(c->mailbox_block, mailbox_bytes,
                                      messages_max(c), &c->mailbox, error);
    if (status != CLEAT_OK) { return status; }
    status = cleat_linux_mailbox_init(c->bringup_mailbox_block, mailbox_bytes,
                                      messages_max(c), &c->bringup_mailbox,
                                      error);
    if (status != CLEAT_OK) { return status; }
    memset(&workers, 0, sizeof workers);
    workers.members = c->members;
    workers.trainers = c->config.trainers;
    workers.mailbox = c->mailbox;
    workers.lease_ns = LEASE_NS;
    workers.reap_ns = REAP_NS;
    status = cleat_tensors_layout(&c->setup->job.source,
                                  c->setup->job.bucket_bytes, &workers.layout);
    if (status != CLEAT_OK) {
        return cleat_error_set(error, status, 0, 0,
                               "the weights' table cannot be read");
    }
    if (c->setup->carrier.is_store || c->setup->carrier.is_nccl) {
        workers.grace_ns = CARRIER_GRACE_NS;
    }
    return cleat_linux_workers_init(c->workers_block,
                                    cleat_linux_workers_bytes(c->members),
                                    &workers, &c->workers, error);
}

static int open_board(struct coordinator *c)
{
    const char *path = NULL;

    if (c->setup->listen != NULL) {
        (void)snprintf(c->board_file, sizeof c->board_file, "%.107s.board",
                       c->setup->listen);
        path = c->board_file;
    }
    if (!board_create(&c->board, path, cleat_plan_digest(&c->setup->job.plan),
                      cleat_plan_buckets(&c->setup->job.windows))) {
        c->board_file[0] = '\0'; /* not ours */
        if (path != NULL) {
            return options_fail(COMMAND, "--listen %s: %s.board: %s",
                                c->setup->listen, c->setup->listen,
                                strerror(errno));
        }
        return options_fail(COMMAND, "no shared memory for the board: %s",
                            strerror(errno));
    }
    return 0;
}

static int open_dump(struct coordinator *c)
{
    const char *path = c->setup->dump;
    struct stat there;

    if (path == NULL) { return 0; }
    c->dump_made = mkdir(path, 0777) == 0;
    if (c->dump_made) { return 0; }
    /* Or is it a folder already? */
    if (errno == EEXIST && stat(path, &there) == 0) {
        errno = S_ISDIR(there.st_mode) ? 0 : ENOTDIR;
    }
    if (errno == 0 && access(path, W_OK | X_OK) == 0) { return 0; }
    return options_fail(COMMAND, "--dump %s: %s", path, strerror(errno));
}

/* What is there is emptied when the trace is written, not before. Without
 * O_NONBLOCK a pipe that nobody reads would be waited for. */
static int open_trace(struct coordinator *c)
{
    const int flags = O_WRONLY | O_CLOEXEC | O_NONBLOCK;
    const char *path = c->setup->trace;
    int fd;

    if (path == NULL) { return 0; }
    fd = open(path, flags | O_CREAT | O_EXCL, 0666);
    c->trace_made = fd >= 0;
    if (fd < 0 && errno == EEXIST) { fd = open(path, flags); }
    if (fd >= 0) {
        (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
        c->trace_file = fdopen(fd, "w");
    }
    if (c->trace_file == NULL) {
        return options_fail(COMMAND, "--trace %s: %s", path, strerror(errno));
    }
    c->trace.events = c->trace_events;
    c->trace.events_max = TRACE_EVENTS_MAX;
    return 0;
}

/* Nothing was started, so nothing is left. */
static void remove_files(struct coordinator *c)
{
    if (c->trace_file != NULL) { (void)fclose(c->trace_file); }
    if (c->trace_made) { (void)unlink(c->setup->trace); }
    if (c->dump_made) { (void)rmdir(c->setup->dump); }
}

static int make_carrier(struct coordinator *c)
{
    c->setup->carrier.attaches = c->setup->listen != NULL;
    return carrier_make(&c->setup->carrier, &c->setup->job,
                        (uint32_t)c->setup->slots, c->members - 1,
                        c->setup->start_timeout_ns, COMMAND);
}

static int open_all(struct coordinator *c)
{
    struct cleat_error error;
    enum cleat_status status;
    int result = take_memory(c);

    if (result == 0) { result = open_dump(c); }
    if (result == 0) { result = open_trace(c); }
    if (result != 0) { return result; }
    status = open_ports(c, &error);
    if (status == CLEAT_OK) { status = open_services(c, &error); }
    /* Who listens is the only coordinator here, and the board is its own. */
    if (status == CLEAT_OK && c->setup->listen != NULL) {
        status = cleat_linux_workers_listen(c->workers, c->setup->listen,
                                            &error);
    }
    if (status != CLEAT_OK) { return options_fail(COMMAND, "%s", error.text); }
    result = open_board(c);
    if (result == 0 && !c->setup->carrier.is_nccl) { result = make_carrier(c); }
    if (result != 0) { return result; }
    c->watch.stop = stop_all;
    c->watch.context = c;
    c->watch.done = &c->board.head->buckets_sent;
    c->watch.total = cleat_plan_buckets(&c->setup->job.plan);
    if (!watch_begin(&c->watch)) {
        return options_fail(COMMAND, "no thread to watch for signals with");
    }
    return 0;
}

/* --------------------------------------------------------------- children */

#define PROGRAM_MAX 4096u
#define ARGUMENTS_MAX (48u + 2u * FAULTS_MAX)

/* A child's command line. */
struct arguments {
    char *argv[ARGUMENTS_MAX];
    uint32_t count;
    char numbers[12][48];
    uint32_t numbers_count;
    char faults[FAULTS_MAX][FAULT_TEXT_MAX];
    char board[128];
    char map[64];
    char host[32];
    char dump[4096];
};

/* argv is not const for historical reasons only; nobody writes to it. */
static void add_text(struct arguments *all, const char *text)
{
    all->argv[all->count++] = (char *)(uintptr_t)text;
}

static void add_option(struct arguments *all, const char *name,
                       const char *value)
{
    add_text(all, name);
    add_text(all, value);
}

static void add_count(struct arguments *all, const char *name, uint64_t value)
{
    char *text = all->numbers[all->numbers_count++];

    (void)snprintf(text, sizeof all->numbers[0], "%" PRIu64, value);
    add_option(all, name, text);
}

/* How many of a character a text ends with. */
static size_t count_last(const char *text, char last)
{
    size_t bytes = strlen(text);
    size_t count = 0;

    while (count < bytes && text[bytes - 1 - count] == last) { count++; }
    return count;
}

static void add_seconds(struct arguments *all, const char *name, uint64_t ns)
{
    char *text = all->numbers[all->numbers_count++];

    (void)snprintf(text, sizeof all->numbers[0], "%" PRIu64 ".%09" PRIu64,
                   ns / CLEAT_NS_PER_S, ns % CLEAT_NS_PER_S);
    text[strlen(text) - count_last(text, '0')] = '\0';
    text[strlen(text) - count_last(text, '.')] = '\0';
    add_option(all, name, text);
}

/* The faults of one member. A replica's strike at its first worker. */
static void add_faults(struct arguments *all, const struct coordinator *c,
                       uint32_t member)
{
    for (uint32_t i = 0; i < c->setup->faults_count; i++) {
        const struct fault *fault = &c->setup->faults[i];
        uint32_t whose = fault->who == FAULT_TRAINER
                             ? 0
                             : cleat_sync_member_number(&c->config, fault->who,
                                                        0);

        if (whose != member) { continue; }
        fault_print(fault, all->faults[i]);
        add_option(all, "--fault", all->faults[i]);
    }
}

static void add_common(struct arguments *all, const struct coordinator *c,
                       const char *command)
{
    const struct sync_setup *setup = c->setup;

    memset(all, 0, sizeof *all);
    board_path(&c->board, all->board);
    if (c->board_file[0] != '\0') {
        (void)snprintf(all->board, sizeof all->board, "%s", c->board_file);
    }
    add_text(all, "cleat");
    add_text(all, command);
    add_option(all, "--weights", setup->job.weights);
    add_option(all, "--board", all->board);
    add_option(all, "--mode",
               setup->job.mode == JOB_STAGED ? "staged" : "in-place");
    add_count(all, "--bucket-mib", setup->job.bucket_mib);
    add_seconds(all, "--step-timeout-s", setup->job.step_timeout_ns);
    if (setup->carrier.is_nccl) {
        add_option(all, "--transport", setup->carrier.transport);
    }
    if (!setup->carrier.is_store) { return; }
    add_option(all, "--transport", setup->carrier.transport);
    add_option(all, "--job", setup->carrier.job_name);
    if (carrier_path(&setup->carrier, all->map)) {
        add_option(all, "--store-map", all->map);
    }
}

/* Which GPU, and how it is used. */
static void add_device(struct arguments *all, const struct coordinator *c,
                       uint32_t member)
{
    const struct carrier *carrier = &c->setup->carrier;

    if (!carrier->is_nccl) { return; }
    if (carrier->topology != NULL) {
        add_option(all, "--topology", carrier->topology);
    }
    if (carrier->digest != NULL) {
        add_option(all, "--digest", carrier->digest);
    }
    add_count(all, "--device", carrier_device(carrier, member));
    if (carrier->hosts) {
        (void)snprintf(all->host, sizeof all->host, "cleat-%" PRIu32, member);
        add_option(all, "--nccl-host", all->host);
    }
}

static void trainer_arguments(struct arguments *all,
                              const struct coordinator *c)
{
    add_common(all, c, "trainer");
    add_count(all, "--slots", c->setup->slots);
    add_count(all, "--receivers", c->members - 1);
    add_device(all, c, 0);
    add_faults(all, c, 0);
}

static void engine_arguments(struct arguments *all, const struct coordinator *c,
                             uint32_t member)
{
    add_common(all, c, "engine");
    add_count(all, "--member", member);
    add_device(all, c, member);
    add_count(all, "--seed", c->setup->seed);
    add_seconds(all, "--orphan-timeout-s", c->setup->orphan_timeout_ns);
    if (c->setup->dump != NULL && (member - 1) % c->config.workers == 0) {
        (void)snprintf(all->dump, sizeof all->dump,
                       "%s/replica-%" PRIu32 ".safetensors", c->setup->dump,
                       cleat_sync_replica_of(&c->config, member));
        add_option(all, "--dump", all->dump);
    }
    add_faults(all, c, member);
}

/* As a shell reads it. */
static void print_word(FILE *file, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./=:,+-";

    if (word[0] != '\0' && word[strspn(word, plain)] == '\0') {
        fputs(word, file);
        return;
    }
    fputc('\'', file);
    for (; *word != '\0'; word++) {
        if (*word == '\'') {
            fputs("'\\''", file);
        } else {
            fputc(*word, file);
        }
    }
    fputc('\'', file);
}

/* Where our own program is; `program` has PROGRAM_MAX bytes. */
static bool find_program(char *program)
{
    ssize_t bytes = readlink("/proc/self/exe", program, PROGRAM_MAX - 1);

    program[bytes < 0 ? 0 : bytes] = '\0';
    return bytes >= 0;
}

/* The commands that the members to be waited for are started with. */
static void say_commands(const struct coordinator *c)
{
    char program[PROGRAM_MAX];

    if (!find_program(program)) { (void)strcpy(program, "cleat"); }
    fprintf(stderr,
            COMMAND ": waiting for members 1 to %" PRIu32
                    "; to be started in this folder with\n",
            c->members - 1);
    for (uint32_t i = 1; i < c->members; i++) {
        struct arguments all;

        engine_arguments(&all, c, i);
        add_option(&all, "--attach", c->setup->listen);
        fputs("  ", stderr);
        print_word(stderr, program);
        for (uint32_t a = 1; a < all.count; a++) {
            fputc(' ', stderr);
            print_word(stderr, all.argv[a]);
        }
        fputs(" &\n", stderr);
    }
}

static enum cleat_status start_child(struct coordinator *c, uint32_t member,
                                     struct cleat_error *error)
{
    struct arguments all;
    char program[PROGRAM_MAX];

    if (!find_program(program)) {
        return cleat_error_set(error, CLEAT_IO, member, 0,
                               "/proc/self/exe cannot be read");
    }
    if (member == 0) {
        trainer_arguments(&all, c);
    } else {
        engine_arguments(&all, c, member);
    }
    return cleat_linux_workers_spawn(c->workers, member, program, all.argv,
                                     NULL, error);
}

static enum cleat_status start_children(struct coordinator *c,
                                        struct cleat_error *error)
{
    bool attach = c->setup->listen != NULL;
    enum cleat_status status = CLEAT_OK;

    if (attach) { say_commands(c); }
    for (uint32_t i = 0; status == CLEAT_OK && i < (attach ? 1 : c->members);
         i++) {
        status = start_child(c, i, error);
        error->index = i;
    }
    return status;
}

/* Somebody came as this member and was not taken: says why. */
static bool say_sent_away(struct coordinator *c, uint32_t member)
{
    struct cleat_error error;

    if (cleat_linux_worker_sent_away(c->workers, member, &error) == CLEAT_OK) {
        return false;
    }
    (void)options_fail(COMMAND, "%s", error.text);
    return true;
}

/* All of them up, or the reason why not in the report. That one which was
 * started here has other weights is no failure of the job but bad input. */
static bool bring_up(struct coordinator *c)
{
    struct cleat_error error;
    enum cleat_status status;
    uint32_t member = CLEAT_SYNC_NOBODY;

    memset(&error, 0, sizeof error);
    status = start_children(c, &error);
    if (status == CLEAT_OK) {
        for (uint32_t i = 0; i < c->members; i++) { c->handles[i] = i; }
        status = cleat_bringup_run(c->bringup, c->handles, &error);
    } else {
        (void)options_fail(COMMAND, "%s", error.text);
    }
    if (status == CLEAT_OK) { return true; }
    if (status != CLEAT_CANCELLED && error.index < c->members) {
        member = (uint32_t)error.index;
    }
    if (status == CLEAT_PEER_DEVIANT) {
        c->mismatched = say_sent_away(c, member);
    } else {
        /* Whoever was still missing, these have come. */
        for (uint32_t i = 0; i < c->members; i++) { (void)say_sent_away(c, i); }
    }
    add_error(c, CLEAT_SYNC_START, member, status, NULL);
    c->report.outcome = CLEAT_SYNC_RESTART;
    return false;
}

/* ---------------------------------------------------------------- accounts */

static struct cleat_linux_worker_view look(struct coordinator *c,
                                           uint32_t member)
{
    struct cleat_linux_worker_view view;

    memset(&view, 0, sizeof view);
    (void)cleat_linux_worker_look(c->workers, member, &view);
    return view;
}

/* A replica that has gone since the update no more serves its version. */
static void account_lost(struct coordinator *c, uint32_t member)
{
    add_error(c, CLEAT_SYNC_STEPS, member, CLEAT_PEER_LOST,
              "it has ended since the update");
    c->report.outcome = report_worse(c->report.outcome, CLEAT_SYNC_DEGRADED);
}

/* What a replica is, from all its workers. */
static void account_replica(struct coordinator *c, uint32_t r)
{
    struct report_replica *replica = &c->report.replicas[r];
    const struct cleat_sync *machine = cleat_sync_service_machine(c->service);

    memset(replica, 0, sizeof *replica);
    replica->state = cleat_sync_replica_state(machine, r);
    for (uint32_t w = 0; w < c->config.workers; w++) {
        uint32_t member = cleat_sync_member_number(&c->config, r, w);
        struct cleat_linux_worker_view view = look(c, member);
        uint64_t version = view.holding == CLEAT_SYNC_WHOLE ? view.version : 0;

        if (w == 0) {
            replica->pid = view.pid;
            replica->version = version;
            replica->digest = version == 0 ? 0 : c->digests[member].held;
        }
        if (version != replica->version) { replica->version = 0; }
        replica->served += view.served;
        replica->torn_served += view.torn_served;
        if (!view.attached && replica->state == CLEAT_SYNC_SERVING) {
            replica->state = CLEAT_SYNC_DEAD;
            if (c->updated) { account_lost(c, member); }
        }
    }
}

/* Too few that are left are as bad after an update as in it. */
static void account_few(struct coordinator *c)
{
    uint32_t serving = 0;

    for (uint32_t r = 0; r < c->config.replicas; r++) {
        serving += c->report.replicas[r].state == CLEAT_SYNC_SERVING ? 1u : 0u;
    }
    if (serving < c->config.replicas_min) {
        c->report.outcome = CLEAT_SYNC_RESTART;
    }
}

/* Serving what it should not fails the run, whatever else went well. */
static void account_torn(struct coordinator *c)
{
    for (uint32_t r = 0; r < c->config.replicas; r++) {
        if (c->report.replicas[r].torn_served == 0) { continue; }
        add_error(c, CLEAT_SYNC_STEPS,
                  cleat_sync_member_number(&c->config, r, 0), CLEAT_CORRUPT,
                  "it served bytes that were not wholly of the version "
                  "it claimed");
        c->report.outcome = CLEAT_SYNC_RESTART;
    }
}

static void account_undos(struct coordinator *c)
{
    static const enum cleat_sync_step steps[] = {
        CLEAT_SYNC_FINALIZE, CLEAT_SYNC_RESTORE, CLEAT_SYNC_RESUME};
    const struct cleat_sync *machine = cleat_sync_service_machine(c->service);

    c->report.undos_count = 0;
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
        for (uint32_t i = 0; i < c->members; i++) {
            enum cleat_status status = cleat_sync_undo_at(machine, steps[s], i);
            struct report_undo *undo = &c->report.undos[c->report.undos_count];

            if (status == CLEAT_NOT_FOUND) { continue; }
            undo->step = steps[s];
            undo->member = i;
            undo->status = status;
            c->report.undos_count++;
        }
    }
}

static void account_round(struct coordinator *c,
                          const struct cleat_sync_report *round)
{
    const struct cleat_sync *machine = cleat_sync_service_machine(c->service);
    struct cleat_sync_error error;

    c->report.outcome = report_worse(c->report.outcome, round->outcome);
    c->report.version = round->version;
    c->report.taken = false;
    c->report.elapsed_ns += round->ended_ns - round->started_ns;
    c->report.bound_ns = cleat_time_add(c->report.bound_ns,
                                        cleat_sync_bound_ns(&c->config));
    c->report.attempts += round->attempts;
    c->report.epoch = round->epoch;
    if (round->outcome == CLEAT_SYNC_COMMITTED ||
        round->outcome == CLEAT_SYNC_DEGRADED) {
        c->report.bytes_delivered += c->setup->job.bytes * round->serving *
                                     c->config.workers;
        c->version = round->version;
        c->report.taken = true;
    }
    for (uint32_t i = 0; cleat_sync_error_at(machine, i, &error) == CLEAT_OK;
         i++) {
        add_error(c, error.step, error.member, error.status, NULL);
    }
    account_undos(c);
}

/* ------------------------------------------------------------------ rounds */

static bool replica_serves(struct coordinator *c, uint32_t member)
{
    return cleat_sync_replica_state(
               cleat_sync_service_machine(c->service),
               cleat_sync_replica_of(&c->config, member)) == CLEAT_SYNC_SERVING;
}

/* The first engine that should serve and has not done enough of it. */
static uint32_t find_idle(struct coordinator *c)
{
    for (uint32_t i = c->config.trainers; i < c->members; i++) {
        struct cleat_linux_worker_view view;

        if (!replica_serves(c, i)) { continue; }
        view = look(c, i);
        if (view.attached &&
            (view.version != c->version || view.served < WINDOWS_A_ROUND)) {
            return i;
        }
    }
    return CLEAT_SYNC_NOBODY;
}

/* Until every serving engine has hashed enough of what it serves now. */
static void await_serving(struct coordinator *c)
{
    struct cleat_clock clock = cleat_linux_clock();
    uint64_t end_ns = cleat_time_add(clock.now_ns(clock.context), SERVE_NS);
    uint64_t seen = 0;
    uint32_t idle = find_idle(c);

    while (idle != CLEAT_SYNC_NOBODY) {
        uint64_t now_ns = clock.now_ns(clock.context);
        uint64_t look_ns = now_ns + 100 * CLEAT_NS_PER_MS;

        if (now_ns >= end_ns) {
            add_error(c, CLEAT_SYNC_STEPS, idle, CLEAT_PEER_SILENT,
                      "it has not served what it should in time");
            c->report.outcome = CLEAT_SYNC_RESTART;
            return;
        }
        (void)cleat_linux_workers_await(c->workers, &seen, look_ns);
        idle = find_idle(c);
    }
}

/* All were up, and were told to stop before the first update: there was nothing
 * to take back. */
static void account_cancelled(struct coordinator *c)
{
    add_error(c, CLEAT_SYNC_PAUSE, CLEAT_SYNC_NOBODY, CLEAT_CANCELLED, NULL);
    c->report.outcome = CLEAT_SYNC_ROLLED_BACK;
}

/* One version to all. Returns whether there may be a next one. */
static bool run_round(struct coordinator *c, uint64_t version)
{
    struct cleat_sync_request request = {version, c->version};
    struct cleat_sync_report round;
    struct cleat_error error;
    enum cleat_status status = cleat_sync_run(c->service, &request, &round,
                                              &error);

    if (status == CLEAT_STATE || status == CLEAT_INVALID) {
        /* Neither can be: one update at a time, of ever new versions. */
        (void)options_fail(COMMAND, "%s", error.text);
        c->report.outcome = CLEAT_SYNC_RESTART;
        return false;
    }
    account_round(c, &round);
    if (round.outcome != CLEAT_SYNC_RESTART) {
        c->updated = true;
        await_serving(c);
    }
    return c->report.outcome != CLEAT_SYNC_RESTART;
}

/* ------------------------------------------------------------------- dumps */

static enum board_dump dump_state(struct coordinator *c, uint32_t member)
{
    return (enum board_dump)atomic_load(&c->board.head->seats[member].dump);
}

/* Has the engine written its dump, or gone? */
static bool dump_is_over(struct coordinator *c, uint32_t member)
{
    return dump_state(c, member) != BOARD_DUMP_WANTED ||
           !look(c, member).attached;
}

static void await_dump(struct coordinator *c, uint32_t replica)
{
    struct cleat_clock clock = cleat_linux_clock();
    uint64_t end_ns = cleat_time_add(
        clock.now_ns(clock.context),
        DUMP_NS + job_floor_ns(c->setup->job.bytes, c->config.replicas));
    uint32_t member = cleat_sync_member_number(&c->config, replica, 0);
    uint64_t seen = 0;

    while (!dump_is_over(c, member) && !stopping(c) &&
           clock.now_ns(clock.context) < end_ns) {
        (void)cleat_linux_workers_await(c->workers, &seen,
                                        clock.now_ns(clock.context) +
                                            20 * CLEAT_NS_PER_MS);
    }
    if (dump_state(c, member) != BOARD_DUMP_DONE) {
        add_error(c, CLEAT_SYNC_STEPS, member, CLEAT_IO,
                  "its dump could not be written");
        c->report.outcome = CLEAT_SYNC_RESTART;
    }
}

/* Each serving engine writes what it serves. */
static void dump_all(struct coordinator *c)
{
    for (uint32_t r = 0; r < c->config.replicas; r++) {
        uint32_t member = cleat_sync_member_number(&c->config, r, 0);

        if (replica_serves(c, member) && look(c, member).attached) {
            atomic_store(&c->board.head->seats[member].dump, BOARD_DUMP_WANTED);
        }
    }
    for (uint32_t r = 0; r < c->config.replicas; r++) {
        uint32_t member = cleat_sync_member_number(&c->config, r, 0);

        if (dump_state(c, member) != BOARD_DUMP_NO) { await_dump(c, r); }
    }
}

/* Not of what was there before, when the caller has taken it all back. */
static bool wants_dumps(struct coordinator *c)
{
    enum cleat_sync_outcome outcome = c->report.outcome;

    return c->setup->dump != NULL && outcome != CLEAT_SYNC_RESTART &&
           !(outcome == CLEAT_SYNC_ROLLED_BACK && stopping(c));
}

/* ------------------------------------------------------------------ ending */

/* The processes have been ended. After RESTART, then, nobody serves; after any
 * other outcome what they were until then is told. */
static void account_end(struct coordinator *c, bool up,
                        enum cleat_status closed)
{
    if (c->report.outcome != CLEAT_SYNC_RESTART) { return; }
    for (uint32_t r = 0; r < c->config.replicas; r++) {
        struct report_replica *replica = &c->report.replicas[r];

        if (up && replica->state != CLEAT_SYNC_SERVING) { continue; }
        replica->state = closed == CLEAT_OK ? CLEAT_SYNC_DEAD
                                            : CLEAT_SYNC_UNFENCED;
    }
}

static void kill_all(struct coordinator *c)
{
    struct cleat_worker_port port = cleat_linux_workers_port(c->workers);
    struct cleat_sync_command expel = {.step = CLEAT_SYNC_EXPEL};

    for (expel.member = 0; expel.member < c->members; expel.member++) {
        (void)port.send(port.context, &expel);
    }
}

static void close_all(struct coordinator *c)
{
    watch_end(&c->watch);
    if (c->threads.context != NULL) { cleat_linux_threads_close(&c->threads); }
    if (c->mailbox.context != NULL) { cleat_linux_mailbox_close(&c->mailbox); }
    if (c->bringup_mailbox.context != NULL) {
        cleat_linux_mailbox_close(&c->bringup_mailbox);
    }
    if (c->setup->carrier.is_store) { carrier_close(&c->setup->carrier, 0); }
    board_close(&c->board);
    if (c->board_file[0] != '\0') { (void)unlink(c->board_file); }
}

static void write_trace(struct coordinator *c)
{
    if (c->trace_file == NULL) { return; }
    (void)ftruncate(fileno(c->trace_file), 0); /* if it is a file */
    if (!trace_write(&c->trace, c->trace_file, &c->config, c->pids)) {
        (void)options_fail(COMMAND, "--trace %s: it could not be written",
                           c->setup->trace);
    }
    (void)fclose(c->trace_file);
    c->trace_file = NULL;
}

static void print_report(struct coordinator *c)
{
    if (c->setup->report == 1) {
        report_json(stdout, &c->report);
    } else {
        report_text(stdout, &c->report);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        (void)options_fail(COMMAND, "the report could not be written: %s",
                           strerror(errno));
    }
}

/* Whom the faults of `any` were drawn for. */
static void say_drawn(const struct coordinator *c)
{
    for (uint32_t i = 0; i < c->setup->faults_count; i++) {
        const struct fault *fault = &c->setup->faults[i];

        if (c->setup->drawn[i] == NULL || fault->who == FAULT_ANY) { continue; }
        fprintf(stderr, COMMAND ": --fault %s strikes ", c->setup->drawn[i]);
        if (fault->who == FAULT_TRAINER) {
            fputs("the trainer\n", stderr);
        } else {
            fprintf(stderr, "replica %" PRIu32 "\n", fault->who);
        }
    }
}

/* What a trainer that was killed has left in the store. */
static void sweep(struct coordinator *c)
{
    struct carrier *carrier = &c->setup->carrier;
    uint32_t objects;

    if (!carrier->is_store) { return; }
    carrier_sweep(carrier, COMMAND);
    objects = carrier_objects(carrier);
    if (c->setup->verbose && objects != UINT32_MAX) {
        say(c, "objects left in the store: %" PRIu32, objects);
    }
}

/* Runs the whole job; `c` is open. */
static void run_job(struct coordinator *c)
{
    bool up = bring_up(c);
    bool more = up;
    enum cleat_status closed;

    for (uint64_t round = 1; more && round <= c->setup->rounds; round++) {
        if (stopping(c)) {
            if (round == 1) { account_cancelled(c); }
            break;
        }
        more = run_round(c, round);
    }
    if (up && wants_dumps(c)) { dump_all(c); }
    for (uint32_t r = 0; r < c->config.replicas; r++) { account_replica(c, r); }
    if (up) { account_few(c); }
    for (uint32_t i = 0; i < c->members; i++) { c->pids[i] = look(c, i).pid; }
    account_torn(c);
    watch_end(&c->watch);
    if (!up) { kill_all(c); }
    /* Waits that a failed bring-up has left end now, each with its worker. */
    cleat_linux_threads_close(&c->threads);
    closed = cleat_linux_workers_close(c->workers);
    c->workers = NULL;
    sweep(c);
    account_end(c, up, closed);
}

int coordinator_run(struct sync_setup *setup)
{
    static struct coordinator c;
    bool reports = false;
    int result;

    memset(&c, 0, sizeof c);
    c.setup = setup;
    c.started_ns = cleat_linux_clock().now_ns(cleat_linux_clock().context);
    c.board.fd = -1;
    c.config = sync_config(setup);
    c.members = 1 + c.config.replicas * c.config.workers;
    /* While a signal still ends us: a driver may be stuck. */
    if (setup->carrier.is_nccl) {
        result = make_carrier(&c);
        if (result != 0) { return result; }
    }
    watch_block_signals();
    result = open_all(&c);
    if (result == 0) {
        c.report.config = c.config;
        c.report.bytes = setup->job.bytes;
        c.report.transport = setup->carrier.transport;
        c.report.skips_digest = setup->carrier.skips_digest;
        c.report.replicas = c.replicas;
        c.report.undos = c.undos;
        say_drawn(&c);
        run_job(&c);
        reports = !c.mismatched;
        result = reports ? report_exit_code(c.report.outcome) : 2;
        if (reports) { write_trace(&c); }
    } else {
        (void)cleat_linux_workers_close(c.workers);
    }
    if (!reports) { remove_files(&c); }
    close_all(&c);
    if (reports) { print_report(&c); }
    return result;
}
