/* Cleat: an engine's end of a transfer. SPDX-License-Identifier: Apache-2.0 */
#define CLEAT_DIGEST_DETECT
#include <stdatomic.h>
#include <string.h>

#include "ends.h"

struct cleat_local_engine {
    struct cleat_local_engine_config config;
    struct cleat_worker *worker;
    struct cleat_transport_receiver transport;
    struct cleat_plan plan;
    struct cleat_clock clock;
    struct cleat_stream_signal signal;
    atomic_uint live; /* the sink that is served: 0 or 1 */
};

static bool in_place(const struct cleat_local_engine *engine)
{
    return engine->config.staged.count == NULL;
}

/* The sink that a new version is received into. */
static const struct cleat_tensor_sink *
incoming(const struct cleat_local_engine *engine)
{
    bool second = atomic_load_explicit(&engine->live, memory_order_relaxed);

    return in_place(engine) || second ? &engine->config.live
                                      : &engine->config.staged;
}

/* Tells the worker that its version is torn before it is. */
static enum cleat_status engine_bucket(void *context,
                                       enum cleat_stream_moment moment,
                                       uint32_t bucket, void **data,
                                       uint64_t bytes)
{
    struct cleat_local_engine *engine = context;
    const struct cleat_local_transfer *transfer = &engine->config.transfer;

    if (moment == CLEAT_STREAM_APPLY) { cleat_worker_torn(engine->worker); }
    return transfer->hook == NULL ? CLEAT_OK
                                  : transfer->hook(transfer->hook_context,
                                                   moment, bucket, data, bytes);
}

/* ------------------------------------------------------ the worker's host */

static enum cleat_status
engine_group(void *context, const struct cleat_worker_command *command,
             struct cleat_transport_ticket *ticket)
{
    struct cleat_local_engine *engine = context;
    enum cleat_status status;

    do {
        status = engine->transport.join(engine->transport.context, ticket,
                                        command->receiver_index,
                                        command->deadline_ns);
    } while (status == CLEAT_PENDING &&
             !cleat_worker_cancelled(engine->worker));
    if (status == CLEAT_PENDING) { status = CLEAT_CANCELLED; }
    return local_attempt_status(status);
}

static enum cleat_status
engine_transfer(void *context, const struct cleat_worker_command *command,
                uint32_t *digest)
{
    struct cleat_local_engine *engine = context;
    struct cleat_stream_receiving receiving = {
        .transport = &engine->transport,
        .sink = incoming(engine),
        .plan = &engine->plan,
        .clock = &engine->clock,
        .signal = &engine->signal,
        .generation = local_generation(command),
        .deadline_ns = command->deadline_ns,
        .bucket_timeout_ns = local_silence_ns(&engine->config.transfer),
        .digest_kind = cleat_digest_detect(),
        .in_place = in_place(engine),
        .skips_digest = engine->config.transfer.skips_digest != 0,
        .hook = engine_bucket,
        .hook_context = engine,
    };
    struct cleat_stream_report report;
    enum cleat_status status;

    /* First cleared, then looked at: an interrupt in between is not lost. */
    local_signal_clear(&engine->signal);
    if (cleat_worker_cancelled(engine->worker)) { return CLEAT_CANCELLED; }
    status = cleat_stream_receive(&receiving, &report, NULL);
    *digest = report.digest;
    return local_attempt_status(status);
}

static void engine_interrupt(void *context)
{
    struct cleat_local_engine *engine = context;

    cleat_stream_cancel(&engine->signal, CLEAT_CANCELLED);
    engine->transport.wake(engine->transport.context);
}

static void change_places(struct cleat_local_engine *engine)
{
    if (in_place(engine)) { return; }
    (void)atomic_fetch_xor_explicit(&engine->live, 1, memory_order_release);
}

/* Whoever fails to commit holds the old version still, by its own account: so
 * that is what it must serve, if it is ever told to resume. */
static enum cleat_status
engine_commit(void *context, const struct cleat_worker_command *command)
{
    struct cleat_local_engine *engine = context;
    const struct cleat_worker_host *host = &engine->config.worker.host;
    enum cleat_status status = CLEAT_OK;

    change_places(engine);
    if (host->commit != NULL) { status = host->commit(host->context, command); }
    if (status != CLEAT_OK) { change_places(engine); }
    return status;
}

static enum cleat_status
engine_finalize(void *context, const struct cleat_worker_command *command)
{
    struct cleat_local_engine *engine = context;
    const struct cleat_worker_host *host = &engine->config.worker.host;

    engine->transport.leave(engine->transport.context);
    return host->finalize == NULL ? CLEAT_OK
                                  : host->finalize(host->context, command);
}

/* The host's own functions, called with the host's own context. */
#define FORWARD(name)                                                       \
    static enum cleat_status engine_##name(                                 \
        void *context, const struct cleat_worker_command *command)          \
    {                                                                       \
        struct cleat_local_engine *engine = context;                        \
        const struct cleat_worker_host *host = &engine->config.worker.host; \
                                                                            \
        return host->name == NULL ? CLEAT_OK                                \
                                  : host->name(host->context, command);     \
    }
FORWARD(pause)
FORWARD(release)
FORWARD(restore)
FORWARD(resume)

static enum cleat_status engine_start(void *context)
{
    struct cleat_local_engine *engine = context;
    const struct cleat_worker_host *host = &engine->config.worker.host;

    return host->start == NULL ? CLEAT_OK : host->start(host->context);
}

static void engine_intercept(void *context, enum cleat_worker_moment moment,
                             const struct cleat_worker_command *command,
                             enum cleat_status status,
                             struct cleat_worker_fault *fault)
{
    struct cleat_local_engine *engine = context;
    const struct cleat_worker_host *host = &engine->config.worker.host;

    host->intercept(host->context, moment, command, status, fault);
}

/* ---------------------------------------------------------------- opening */

struct parts {
    struct cleat_local_engine *engine;
    void *worker;
    void *receiver;
    void *plan;
};

/* Carves what an engine needs; a null arena's block only counts. */
static enum cleat_status carve(struct cleat_arena *arena,
                               const struct cleat_local_engine_config *config,
                               struct parts *parts, struct cleat_error *error)
{
    size_t plan = CLEAT_PLAN_BYTES(config->live.count(config->live.context));
    void *engine = NULL;
    enum cleat_status first = cleat_arena_carve(arena, sizeof *parts->engine,
                                                &engine, error);
    enum cleat_status status[3];

    parts->engine = engine;
    status[0] = cleat_arena_carve(arena, CLEAT_WORKER_BYTES, &parts->worker,
                                  error);
    status[1] = cleat_arena_carve(arena, CLEAT_MEMORY_RECEIVER_BYTES,
                                  &parts->receiver, error);
    status[2] = cleat_arena_carve(arena, plan == 0 ? 1 : plan, &parts->plan,
                                  error);
    for (unsigned i = 0; i < 3 && first == CLEAT_OK; i++) { first = status[i]; }
    return first;
}

size_t cleat_local_engine_bytes(const struct cleat_local_engine_config *config)
{
    struct cleat_arena arena;
    struct parts parts;
    unsigned char none;

    if (config->live.count == NULL) { return 0; }
    (void)cleat_arena_init(&arena, &none, 0, NULL);
    (void)carve(&arena, config, &parts, NULL);
    return cleat_arena_bytes_wanted(&arena);
}

static struct cleat_worker_config
worker_config(struct cleat_local_engine *engine)
{
    struct cleat_worker_config config = engine->config.worker;

    config.role = CLEAT_WORKER_ENGINE;
    memset(&config.host, 0, sizeof config.host);
    config.host.context = engine;
    config.host.start = engine_start;
    config.host.pause = engine_pause;
    config.host.release = engine_release;
    config.host.restore = engine_restore;
    config.host.group = engine_group;
    config.host.transfer = engine_transfer;
    config.host.interrupt = engine_interrupt;
    config.host.commit = engine_commit;
    config.host.finalize = engine_finalize;
    config.host.resume = engine_resume;
    if (engine->config.worker.host.intercept != NULL) {
        config.host.intercept = engine_intercept;
    }
    return config;
}

/* Both sinks are of the job's tensors, in the same order. */
static enum cleat_status check_staged(const struct cleat_local_engine *engine,
                                      struct cleat_error *error)
{
    struct cleat_tensor_source live = cleat_tensor_sink_source(
        &engine->config.live);
    struct cleat_tensor_source staged;
    uint32_t digests[2] = {0, 0};
    enum cleat_status status;

    if (in_place(engine)) { return CLEAT_OK; }
    staged = cleat_tensor_sink_source(&engine->config.staged);
    status = cleat_tensors_digest(&live, &digests[0], NULL);
    if (status == CLEAT_OK) {
        status = cleat_tensors_digest(&staged, &digests[1], NULL);
    }
    if (status == CLEAT_OK && digests[0] != digests[1]) {
        status = CLEAT_INVALID;
    }
    return status == CLEAT_OK
               ? CLEAT_OK
               : cleat_error_set(error, status, 2, 0,
                                 "local: an engine's live and staged tensors "
                                 "must have the same table");
}

/* One that was given is the caller's. */
static void close_transport(struct cleat_local_engine *engine)
{
    if (engine->config.transport == NULL) {
        cleat_memory_receiver_close(&engine->transport);
    }
}

enum cleat_status cleat_local_engine_open(
    void *block, size_t bytes, const struct cleat_local_engine_config *config,
    struct cleat_local_engine **out, struct cleat_error *error)
{
    struct cleat_tensor_source table;
    struct cleat_memory_receiver_config memory = {0};
    struct cleat_worker_config worker;
    struct cleat_arena arena;
    struct parts parts;
    struct cleat_local_engine *engine;
    enum cleat_status status = cleat_arena_init(&arena, block, bytes, error);

    *out = NULL;
    if (config->live.count == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "local: an engine's live tensors must be given");
    }
    if (status != CLEAT_OK) { return status; }
    status = carve(&arena, config, &parts, error);
    if (status != CLEAT_OK) {
        if (error != NULL) { error->offset = cleat_arena_bytes_wanted(&arena); }
        return status;
    }
    engine = parts.engine;
    engine->config = *config;
    engine->clock = cleat_linux_clock();
    table = cleat_tensor_sink_source(&engine->config.live);
    status = local_plan(&engine->plan, parts.plan, &table,
                        local_bucket_bytes(&config->transfer), error);
    if (status == CLEAT_OK) { status = check_staged(engine, error); }
    if (status == CLEAT_OK) {
        status = local_layout(&table, &config->transfer,
                              &engine->config.worker.layout, error);
    }
    if (status != CLEAT_OK) { return status; }
    if (config->transport != NULL) {
        engine->transport = *config->transport;
    } else {
        status = cleat_memory_receiver_open(parts.receiver,
                                            CLEAT_MEMORY_RECEIVER_BYTES,
                                            &memory, &engine->transport, error);
        if (status != CLEAT_OK) { return status; }
    }
    worker = worker_config(engine);
    status = cleat_worker_init(parts.worker, CLEAT_WORKER_BYTES, &worker,
                               &engine->worker, error);
    if (status != CLEAT_OK) {
        close_transport(engine);
        return status;
    }
    *out = engine;
    return CLEAT_OK;
}

enum cleat_status cleat_local_engine_run(struct cleat_local_engine *engine)
{
    return cleat_worker_run(engine->worker);
}

struct cleat_worker *
cleat_local_engine_worker(struct cleat_local_engine *engine)
{
    return engine->worker;
}

uint32_t cleat_local_engine_live(const struct cleat_local_engine *engine)
{
    return atomic_load_explicit(&engine->live, memory_order_acquire);
}

void cleat_local_engine_close(struct cleat_local_engine *engine)
{
    if (engine == NULL) { return; }
    cleat_worker_close(engine->worker);
    close_transport(engine);
}
