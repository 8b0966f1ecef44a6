/* Cleat: the trainer's end of a transfer. SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "ends.h"

struct cleat_local_trainer {
    struct cleat_local_trainer_config config;
    struct cleat_worker *worker;
    struct cleat_transport_sender transport;
    struct cleat_plan plan;
    struct cleat_clock clock;
    struct cleat_stream_signal signal;
    struct cleat_stream_result *results; /* receivers_max */
    void *pipeline;                      /* CLEAT_PIPELINE_BYTES */
};

/* ------------------------------------------------------ the worker's host */

static enum cleat_status
trainer_prepare(void *context, const struct cleat_worker_command *command,
                struct cleat_transport_ticket *ticket)
{
    struct cleat_local_trainer *trainer = context;
    const struct cleat_worker_host *host = &trainer->config.worker.host;
    enum cleat_status status = host->prepare == NULL
                                   ? CLEAT_OK
                                   : host->prepare(host->context, command,
                                                   ticket);

    if (status != CLEAT_OK) { return status; }
    if (command->receivers_count > trainer->config.receivers_max) {
        return CLEAT_LIMIT;
    }
    return trainer->transport.prepare(trainer->transport.context,
                                      local_generation(command),
                                      command->receivers_count, ticket);
}

static enum cleat_status
trainer_group(void *context, const struct cleat_worker_command *command,
              struct cleat_transport_ticket *ticket)
{
    struct cleat_local_trainer *trainer = context;
    enum cleat_status status;

    (void)ticket; /* the trainer's own */
    do {
        status = trainer->transport.group(trainer->transport.context,
                                          command->deadline_ns);
    } while (status == CLEAT_PENDING &&
             !cleat_worker_cancelled(trainer->worker));
    if (status == CLEAT_PENDING) { status = CLEAT_CANCELLED; }
    return local_attempt_status(status);
}

static enum cleat_status
trainer_transfer(void *context, const struct cleat_worker_command *command,
                 uint32_t *digest)
{
    struct cleat_local_trainer *trainer = context;
    struct cleat_stream_sending sending = {
        .transport = &trainer->transport,
        .source = &trainer->config.source,
        .plan = &trainer->plan,
        .clock = &trainer->clock,
        .signal = &trainer->signal,
        .block = trainer->pipeline,
        .block_bytes = CLEAT_PIPELINE_BYTES(trainer->config.receivers_max),
        .generation = local_generation(command),
        .deadline_ns = command->deadline_ns,
        .ack_timeout_ns = local_silence_ns(&trainer->config.transfer),
        .receivers_count = command->receivers_count,
        .hold_bucket = trainer->config.transfer.hold_bucket,
        .skips_digest = trainer->config.transfer.skips_digest != 0,
        .hook = trainer->config.transfer.hook,
        .hook_context = trainer->config.transfer.hook_context,
    };
    struct cleat_stream_report report;
    enum cleat_status status;

    /* First cleared, then looked at: an interrupt in between is not lost. */
    local_signal_clear(&trainer->signal);
    if (cleat_worker_cancelled(trainer->worker)) { return CLEAT_CANCELLED; }
    status = cleat_stream_send(&sending, trainer->results, &report, NULL);
    *digest = report.digest;
    /* A version goes to all that take part, or the attempt has failed. */
    for (uint32_t i = 0; status == CLEAT_OK && i < command->receivers_count;
         i++) {
        if (trainer->results[i].status != CLEAT_OK) {
            status = CLEAT_GROUP_FAILED;
        }
    }
    return local_attempt_status(status);
}

static void trainer_interrupt(void *context)
{
    struct cleat_local_trainer *trainer = context;

    cleat_stream_cancel(&trainer->signal, CLEAT_CANCELLED);
    trainer->transport.wake(trainer->transport.context);
}

static enum cleat_status
trainer_finalize(void *context, const struct cleat_worker_command *command)
{
    struct cleat_local_trainer *trainer = context;
    const struct cleat_worker_host *host = &trainer->config.worker.host;

    trainer->transport.finish(trainer->transport.context);
    return host->finalize == NULL ? CLEAT_OK
                                  : host->finalize(host->context, command);
}

static enum cleat_status trainer_start(void *context)
{
    struct cleat_local_trainer *trainer = context;
    const struct cleat_worker_host *host = &trainer->config.worker.host;

    return host->start == NULL ? CLEAT_OK : host->start(host->context);
}

static void trainer_intercept(void *context, enum cleat_worker_moment moment,
                              const struct cleat_worker_command *command,
                              enum cleat_status status,
                              struct cleat_worker_fault *fault)
{
    struct cleat_local_trainer *trainer = context;
    const struct cleat_worker_host *host = &trainer->config.worker.host;

    host->intercept(host->context, moment, command, status, fault);
}

/* ---------------------------------------------------------------- opening */

struct parts {
    struct cleat_local_trainer *trainer;
    void *worker;
    void *sender;
    void *plan;
    void *results;
    void *pipeline;
};

static enum cleat_status carve(struct cleat_arena *arena,
                               const struct cleat_local_trainer_config *config,
                               struct parts *parts, struct cleat_error *error)
{
    size_t plan = CLEAT_PLAN_BYTES(
        config->source.count(config->source.context));
    struct {
        size_t bytes;
        void **out;
    } wanted[] = {
        {CLEAT_WORKER_BYTES, &parts->worker},
        {CLEAT_MEMORY_SENDER_BYTES, &parts->sender},
        {plan == 0 ? 1 : plan, &parts->plan},
        {config->receivers_max * sizeof(struct cleat_stream_result),
         &parts->results},
        {CLEAT_PIPELINE_BYTES(config->receivers_max), &parts->pipeline},
    };
    void *trainer = NULL;
    enum cleat_status first = cleat_arena_carve(arena, sizeof *parts->trainer,
                                                &trainer, error);

    parts->trainer = trainer;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        enum cleat_status status = cleat_arena_carve(arena, wanted[i].bytes,
                                                     wanted[i].out, error);

        if (first == CLEAT_OK) { first = status; }
    }
    return first;
}

size_t
cleat_local_trainer_bytes(const struct cleat_local_trainer_config *config)
{
    struct cleat_arena arena;
    struct parts parts;
    unsigned char none;

    if (config->source.count == NULL) { return 0; }
    (void)cleat_arena_init(&arena, &none, 0, NULL);
    (void)carve(&arena, config, &parts, NULL);
    return cleat_arena_bytes_wanted(&arena);
}

static struct cleat_worker_config
worker_config(struct cleat_local_trainer *trainer)
{
    struct cleat_worker_config config = trainer->config.worker;

    config.role = CLEAT_WORKER_TRAINER;
    memset(&config.host, 0, sizeof config.host);
    config.host.context = trainer;
    config.host.start = trainer_start;
    config.host.prepare = trainer_prepare;
    config.host.group = trainer_group;
    config.host.transfer = trainer_transfer;
    config.host.interrupt = trainer_interrupt;
    config.host.finalize = trainer_finalize;
    if (trainer->config.worker.host.intercept != NULL) {
        config.host.intercept = trainer_intercept;
    }
    return config;
}

/* Shared memory for the plan's own buckets: a small model needs no large ones.
 * Its first bucket is its largest; without any, one of the least size. */
static struct cleat_memory_sender_config
memory_config(const struct cleat_local_trainer *trainer)
{
    uint32_t buckets = cleat_plan_buckets(&trainer->plan);
    uint32_t slots = trainer->config.transfer.slots_count;
    struct cleat_memory_sender_config config = {
        .bucket_bytes = buckets == 0
                            ? CLEAT_PLAN_ALIGN
                            : cleat_plan_bucket_bytes(&trainer->plan, 0),
        .slots_count = slots == 0 ? CLEAT_MEMORY_SLOTS_DEFAULT : slots,
        .receivers_max = trainer->config.receivers_max,
    };

    if (config.slots_count <= CLEAT_MEMORY_SLOTS_MAX &&
        buckets < config.slots_count) {
        config.slots_count = buckets == 0 ? 1 : buckets;
    }
    return config;
}

/* One that was given is the caller's. */
static enum cleat_status open_transport(struct cleat_local_trainer *trainer,
                                        void *block, struct cleat_error *error)
{
    struct cleat_memory_sender_config memory;

    if (trainer->config.transport != NULL) {
        trainer->transport = *trainer->config.transport;
        return CLEAT_OK;
    }
    memory = memory_config(trainer);
    return cleat_memory_sender_open(block, CLEAT_MEMORY_SENDER_BYTES, &memory,
                                    &trainer->transport, error);
}

static void close_transport(struct cleat_local_trainer *trainer)
{
    if (trainer->config.transport == NULL) {
        cleat_memory_sender_close(&trainer->transport);
    }
}

static enum cleat_status open_parts(struct cleat_local_trainer *trainer,
                                    const struct parts *parts,
                                    struct cleat_error *error)
{
    const struct cleat_local_transfer *transfer = &trainer->config.transfer;
    struct cleat_worker_config worker;
    enum cleat_status status = local_plan(&trainer->plan, parts->plan,
                                          &trainer->config.source,
                                          local_bucket_bytes(transfer), error);

    if (status != CLEAT_OK) { return status; }
    status = local_layout(&trainer->config.source, transfer,
                          &trainer->config.worker.layout, error);
    if (status != CLEAT_OK) { return status; }
    status = open_transport(trainer, parts->sender, error);
    if (status != CLEAT_OK) { return status; }
    worker = worker_config(trainer);
    status = cleat_worker_init(parts->worker, CLEAT_WORKER_BYTES, &worker,
                               &trainer->worker, error);
    if (status != CLEAT_OK) { close_transport(trainer); }
    return status;
}

enum cleat_status cleat_local_trainer_open(
    void *block, size_t bytes, const struct cleat_local_trainer_config *config,
    struct cleat_local_trainer **out, struct cleat_error *error)
{
    struct cleat_arena arena;
    struct parts parts;
    enum cleat_status status = cleat_arena_init(&arena, block, bytes, error);

    *out = NULL;
    if (config->receivers_max == 0 || config->source.count == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "local: a tensor source and 1 receiver or more "
                               "must be given");
    }
    if (status != CLEAT_OK) { return status; }
    status = carve(&arena, config, &parts, error);
    if (status != CLEAT_OK) {
        if (error != NULL) { error->offset = cleat_arena_bytes_wanted(&arena); }
        return status;
    }
    parts.trainer->config = *config;
    parts.trainer->clock = cleat_linux_clock();
    parts.trainer->results = parts.results;
    parts.trainer->pipeline = parts.pipeline;
    status = open_parts(parts.trainer, &parts, error);
    if (status == CLEAT_OK) { *out = parts.trainer; }
    return status;
}

enum cleat_status cleat_local_trainer_run(struct cleat_local_trainer *trainer)
{
    return cleat_worker_run(trainer->worker);
}

struct cleat_worker *
cleat_local_trainer_worker(struct cleat_local_trainer *trainer)
{
    return trainer->worker;
}

void cleat_local_trainer_close(struct cleat_local_trainer *trainer)
{
    if (trainer == NULL) { return; }
    cleat_worker_close(trainer->worker);
    close_transport(trainer);
}
