/* Cleat: a whole job on one machine. SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ends.h"

#define START_TIMEOUT_DEFAULT_NS (UINT64_C(30) * CLEAT_NS_PER_S)
#define TRAINERS 1u /* this process */

struct cleat_local {
    struct cleat_local_config config;
    struct cleat_linux_workers *workers;
    struct cleat_threads threads;
    struct cleat_mailbox sync_mailbox;
    struct cleat_mailbox bringup_mailbox;
    struct cleat_local_trainer *trainer;
    struct cleat_bringup *bringup;
    struct cleat_sync_service *sync;
    uint64_t *handles; /* of bring-up: the member numbers */
    uint64_t version;  /* being served */
};

struct part {
    size_t bytes;
    void *at;
};

enum {
    PART_LOCAL,
    PART_WORKERS,
    PART_THREADS,
    PART_SYNC_MAILBOX,
    PART_BRINGUP_MAILBOX,
    PART_TRAINER,
    PART_BRINGUP,
    PART_SYNC,
    PART_HANDLES,
    PARTS
};

static uint32_t members_of(const struct cleat_local_config *config)
{
    return TRAINERS + config->replicas;
}

static struct cleat_local_trainer_config
trainer_config(const struct cleat_local_config *config)
{
    struct cleat_local_trainer_config trainer = {
        .source = config->source,
        .receivers_max = config->replicas,
        .transfer = config->transfer,
        .transport = config->transport,
    };

    return trainer;
}

/* Bring-up asks an engine again sooner than the standard policy does: it runs
 * on this machine. */
static struct cleat_retry_policy bringup_policy(void)
{
    struct cleat_retry_policy policy = CLEAT_RETRY_BRING_UP;

    policy.base_ns = CLEAT_NS_PER_S / 5;
    policy.max_ns = 2 * CLEAT_NS_PER_S;
    policy.attempt_timeout_ns = 5 * CLEAT_NS_PER_S;
    return policy;
}

static struct cleat_gather_config
bringup_config(const struct cleat_local_config *config)
{
    struct cleat_gather_config gather = {
        .start_timeout_ns = config->start_timeout_ns != 0
                                ? config->start_timeout_ns
                                : START_TIMEOUT_DEFAULT_NS,
        .handles_count = members_of(config),
    };

    return gather;
}

static struct cleat_sync_config
sync_config(const struct cleat_local_config *config)
{
    struct cleat_sync_config sync = {
        .trainers = TRAINERS,
        .replicas = config->replicas,
        .workers = 1,
        .replicas_min = config->replicas_min,
        .attempts_max = config->attempts_max,
        .step_timeout_ns = config->step_timeout_ns,
    };

    return sync;
}

/* The trainer's worker takes one thread for good, each wait of bring-up one
 * for a while. */
static struct cleat_linux_threads_config
threads_config(const struct cleat_local_config *config)
{
    uint32_t wanted = members_of(config) + 1;
    struct cleat_linux_threads_config threads = {
        .threads = wanted < CLEAT_LINUX_THREADS_MAX ? wanted
                                                    : CLEAT_LINUX_THREADS_MAX,
        .jobs_max = wanted,
    };

    return threads;
}

static bool config_is_complete(const struct cleat_local_config *config)
{
    return config->source.count != NULL && config->engine_path != NULL &&
           config->engine_argv != NULL && config->replicas >= 1 &&
           config->replicas <= CLEAT_LINUX_WORKERS_MAX - TRAINERS;
}

static enum cleat_status carve(struct cleat_arena *arena,
                               const struct cleat_local_config *config,
                               struct part *parts, struct cleat_error *error)
{
    uint32_t members = members_of(config);
    struct cleat_linux_threads_config threads = threads_config(config);
    struct cleat_local_trainer_config trainer = trainer_config(config);
    struct cleat_gather_config bringup = bringup_config(config);
    struct cleat_sync_config sync = sync_config(config);
    enum cleat_status first = CLEAT_OK;

    parts[PART_LOCAL].bytes = sizeof(struct cleat_local);
    parts[PART_WORKERS].bytes = cleat_linux_workers_bytes(members);
    parts[PART_THREADS].bytes = cleat_linux_threads_bytes(&threads);
    parts[PART_SYNC_MAILBOX].bytes = cleat_linux_mailbox_bytes(members * 4);
    parts[PART_BRINGUP_MAILBOX].bytes = cleat_linux_mailbox_bytes(members * 2);
    parts[PART_TRAINER].bytes = cleat_local_trainer_bytes(&trainer);
    parts[PART_BRINGUP].bytes = cleat_bringup_bytes(&bringup);
    parts[PART_SYNC].bytes = cleat_sync_service_bytes(&sync);
    parts[PART_HANDLES].bytes = members * sizeof(uint64_t);
    for (unsigned i = 0; i < PARTS; i++) {
        enum cleat_status status = cleat_arena_carve(arena, parts[i].bytes,
                                                     &parts[i].at, error);

        if (first == CLEAT_OK) { first = status; }
    }
    return first;
}

size_t cleat_local_bytes(const struct cleat_local_config *config)
{
    struct cleat_arena arena;
    struct part parts[PARTS];
    unsigned char none;

    if (!config_is_complete(config)) { return 0; }
    (void)cleat_arena_init(&arena, &none, 0, NULL);
    (void)carve(&arena, config, parts, NULL);
    return cleat_arena_bytes_wanted(&arena);
}

/* ---------------------------------------------------------------- opening */

static enum cleat_status wait_for_worker(struct cleat_waiter_context *context,
                                         uint64_t handle, uint64_t deadline_ns,
                                         uint64_t *hint_ns)
{
    struct cleat_linux_workers *workers = (void *)context;

    (void)hint_ns;
    return cleat_linux_worker_wait(workers, (uint32_t)handle, deadline_ns);
}

static void run_trainer(void *job, uint64_t index)
{
    struct cleat_local *local = job;

    (void)index;
    (void)cleat_local_trainer_run(local->trainer);
}

/* The trainer is a worker like any other, on a thread of this process. */
static enum cleat_status open_trainer(struct cleat_local *local,
                                      const struct part *part,
                                      struct cleat_error *error)
{
    struct cleat_local_trainer_config config = trainer_config(&local->config);
    enum cleat_status status;
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        int code = errno;

        (void)cleat_error_set(error, CLEAT_IO, 0, 0,
                              "local: no socket pair for the trainer");
        if (error != NULL) { error->port_code = code; }
        return CLEAT_IO;
    }
    config.worker.fd = ends[1];
    status = cleat_local_trainer_open(part->at, part->bytes, &config,
                                      &local->trainer, error);
    if (status != CLEAT_OK) {
        (void)close(ends[0]);
        (void)close(ends[1]);
        return status;
    }
    status = cleat_linux_workers_adopt(local->workers, 0, ends[0], error);
    if (status != CLEAT_OK) {
        (void)close(ends[0]);
        return status;
    }
    status = local->threads.submit(local->threads.context, run_trainer, local,
                                   0);
    return status;
}

static enum cleat_status open_ports(struct cleat_local *local,
                                    const struct part *parts,
                                    struct cleat_error *error)
{
    uint32_t members = members_of(&local->config);
    struct cleat_linux_threads_config threads = threads_config(&local->config);
    struct cleat_linux_workers_config workers = {
        .members = members,
        .trainers = TRAINERS,
        .grace_ns = local->config.grace_ns};
    enum cleat_status status;

    status = cleat_linux_mailbox_init(parts[PART_SYNC_MAILBOX].at,
                                      parts[PART_SYNC_MAILBOX].bytes,
                                      members * 4, &local->sync_mailbox, error);
    if (status != CLEAT_OK) { return status; }
    status = cleat_linux_mailbox_init(
        parts[PART_BRINGUP_MAILBOX].at, parts[PART_BRINGUP_MAILBOX].bytes,
        members * 2, &local->bringup_mailbox, error);
    if (status != CLEAT_OK) { return status; }
    status = cleat_linux_threads_init(parts[PART_THREADS].at,
                                      parts[PART_THREADS].bytes, &threads,
                                      &local->threads, error);
    if (status != CLEAT_OK) { return status; }
    workers.mailbox = local->sync_mailbox;
    status = local_layout(&local->config.source, &local->config.transfer,
                          &workers.layout, error);
    if (status != CLEAT_OK) { return status; }
    return cleat_linux_workers_init(parts[PART_WORKERS].at,
                                    parts[PART_WORKERS].bytes, &workers,
                                    &local->workers, error);
}

static enum cleat_status open_services(struct cleat_local *local,
                                       const struct part *parts,
                                       struct cleat_error *error)
{
    struct cleat_retry_policy policy = bringup_policy();
    struct cleat_gather_config bringup = bringup_config(&local->config);
    struct cleat_sync_config sync = sync_config(&local->config);
    struct cleat_worker_port port = cleat_linux_workers_port(local->workers);
    struct cleat_waiter waiter = {(void *)local->workers, wait_for_worker};
    struct cleat_service_ports ports = {
        .clock = cleat_linux_clock(),
        .threads = local->threads,
        .mailbox = local->bringup_mailbox,
        .events = local->config.events,
    };
    enum cleat_status status;

    bringup.policy = &policy;
    status = cleat_bringup_init(
        parts[PART_BRINGUP].at, parts[PART_BRINGUP].bytes, &bringup, &ports,
        &waiter, local->config.seed, &local->bringup, error);
    if (status != CLEAT_OK) { return status; }
    ports.mailbox = local->sync_mailbox;
    return cleat_sync_service_init(parts[PART_SYNC].at, parts[PART_SYNC].bytes,
                                   &sync, &ports, &port, &local->sync, error);
}

/* All workers up. When the reason why not is that one has other tensors, it
 * says which. */
static enum cleat_status bring_up(struct cleat_local *local,
                                  struct cleat_error *error)
{
    struct cleat_error why;
    enum cleat_status status = cleat_bringup_run(local->bringup, local->handles,
                                                 &why);

    if (status == CLEAT_PEER_DEVIANT) {
        (void)cleat_linux_worker_sent_away(local->workers, (uint32_t)why.index,
                                           &why);
    }
    if (status != CLEAT_OK && error != NULL) { *error = why; }
    return status;
}

static enum cleat_status start_engines(struct cleat_local *local,
                                       struct cleat_error *error)
{
    const struct cleat_local_config *config = &local->config;

    local->handles[0] = 0;
    for (uint32_t i = TRAINERS; i < members_of(config); i++) {
        enum cleat_status status = cleat_linux_workers_spawn(
            local->workers, i, config->engine_path, config->engine_argv, NULL,
            error);

        if (status != CLEAT_OK) { return status; }
        local->handles[i] = i;
    }
    return bring_up(local, error);
}

enum cleat_status cleat_local_open(void *block, size_t bytes,
                                   const struct cleat_local_config *config,
                                   struct cleat_local **out,
                                   struct cleat_error *error)
{
    struct cleat_arena arena;
    struct part parts[PARTS];
    struct cleat_local *local;
    enum cleat_status status = cleat_arena_init(&arena, block, bytes, error);

    *out = NULL;
    if (!config_is_complete(config)) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "local: a source, the engines' program and its "
                               "arguments, and 1 … 1023 replicas must be "
                               "given");
    }
    if (status != CLEAT_OK) { return status; }
    status = carve(&arena, config, parts, error);
    if (status != CLEAT_OK) {
        if (error != NULL) { error->offset = cleat_arena_bytes_wanted(&arena); }
        return status;
    }
    cleat_arena_seal(&arena);
    local = parts[PART_LOCAL].at;
    local->config = *config;
    local->handles = parts[PART_HANDLES].at;
    status = open_ports(local, parts, error);
    if (status == CLEAT_OK) { status = open_services(local, parts, error); }
    if (status == CLEAT_OK) {
        status = open_trainer(local, &parts[PART_TRAINER], error);
    }
    if (status == CLEAT_OK) { status = start_engines(local, error); }
    if (status != CLEAT_OK) {
        cleat_local_close(local);
        return status;
    }
    *out = local;
    return CLEAT_OK;
}

/* --------------------------------------------------------------- the calls */

enum cleat_status cleat_local_sync(struct cleat_local *local, uint64_t version,
                                   struct cleat_sync_report *report,
                                   struct cleat_error *error)
{
    struct cleat_sync_request request = {.version = version,
                                         .version_old = local->version};
    enum cleat_status status;

    if (version == 0) {
        return cleat_error_set(error, CLEAT_INVALID, 1, 0,
                               "local: engines begin with version 0; a new one "
                               "is any other");
    }
    status = cleat_sync_run(local->sync, &request, report, error);
    if (status == CLEAT_OK) { local->version = version; }
    return status;
}

enum cleat_status cleat_local_stop(struct cleat_local *local)
{
    return cleat_sync_stop(local->sync);
}

const struct cleat_sync *cleat_local_machine(const struct cleat_local *local)
{
    return cleat_sync_service_machine(local->sync);
}

struct cleat_linux_workers *cleat_local_workers(struct cleat_local *local)
{
    return local->workers;
}

/* In the order in which each part is done with the next. What was never opened
 * is still zero. */
void cleat_local_close(struct cleat_local *local)
{
    if (local == NULL) { return; }
    if (local->workers != NULL) { cleat_linux_workers_close(local->workers); }
    if (local->threads.context != NULL) {
        cleat_linux_threads_close(&local->threads);
    }
    cleat_local_trainer_close(local->trainer);
    if (local->bringup_mailbox.context != NULL) {
        cleat_linux_mailbox_close(&local->bringup_mailbox);
    }
    if (local->sync_mailbox.context != NULL) {
        cleat_linux_mailbox_close(&local->sync_mailbox);
    }
}
