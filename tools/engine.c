/* Cleat: `cleat engine`, an inference server without the inference.
 * SPDX-License-Identifier: Apache-2.0
 *
 * An example of an engine over cleat/local.h, and the one that the tests kill.
 * It has what a server has that matters to a weight update:
 *
 *   weights     two flat buffers (staged) or one (in place), with a tensor
 *               table over each; or, with --transport nccl, as much memory of
 *               the GPU (tools/weights_gpu.h)
 *   a KV cache  memory that it gives up for the update and takes again
 *   requests    a thread that serves all the time: it asks for admission,
 *               hashes a random window of the weights, and looks whether that
 *               is what the version that it claims to serve has there
 *
 * To attach a server of your own, keep main's order (memory, tensors, open,
 * threads, run, close), and put your server's pause, cache and resume in the
 * place of the functions under "what an update asks of us".
 */
#define _GNU_SOURCE
#define CLEAT_DIGEST_DETECT
#include "engine.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "board.h"
#include "carrier.h"
#include "cleat/local.h"
#include "job.h"
#include "strike.h"

#define COMMAND "cleat engine"

/* How long a request thread has nothing to do. Engines that share a few cores
 * must leave some of them to the update. */
#define IDLE_NS 1000000

/* How often the coordinator is told what has been served. */
#define STATS_NS (25 * CLEAT_NS_PER_MS)

#define DUMP_BUFFER_BYTES (UINT32_C(1) << 20)

/* One copy of the weights, and what is known of it. */
struct weights {
    struct cleat_tensor_sink sink;
    unsigned char *data; /* flat_bytes, laid out as the plan says; NULL: on the
                            GPU, and there is no table here */
    struct cleat_memory_tensor *table;
    struct cleat_memory_tensors tensors;
    uint32_t *digests; /* one a window, of `version` */
    uint64_t version;
};

struct engine {
    struct job job;
    struct carrier carrier;
    struct board board;
    struct board_seat *seat; /* on the board */
    struct strikes strikes;
    struct cleat_local_engine *local;
    struct cleat_worker *worker;
    struct weights weights[2]; /* which one is served: cleat_local_engine_live
                                */
    unsigned char *cache;
    uint64_t cache_bytes;

    pthread_t serving;
    atomic_bool ready; /* engine_start has been here */
    atomic_bool serving_ends;
    enum cleat_digest_kind digest;
    uint64_t random;
    const char *dump; /* file for the weights, when the board asks for it */
    void *dump_block;
    size_t dump_block_bytes;

    const char *board_path;
    const char *attach;
    uint64_t member;
    uint64_t orphan_timeout_ns;
    uint64_t cache_mib;
};

/* ------------------------------------------------- what an update asks of us
 */

/* How many there are. */
static uint32_t copies_of(const struct engine *engine)
{
    return engine->job.mode == JOB_STAGED ? 2 : 1;
}

/* Version 0. */
static enum cleat_status clear_weights(struct engine *engine, uint32_t copy)
{
    if (engine->carrier.weights != NULL) {
        return weights_gpu_clear(engine->carrier.weights, copy);
    }
    memset(engine->weights[copy].data, 0, engine->job.flat_bytes);
    return CLEAT_OK;
}

/* Bring-up: what must be ready before the first update. The memory is taken
 * now, so that no update finds that there is none. */
static enum cleat_status engine_start(void *context)
{
    struct engine *engine = context;
    uint32_t windows = cleat_plan_buckets(&engine->job.windows);
    enum cleat_status status = board_open(
        &engine->board, engine->board_path, false,
        cleat_plan_digest(&engine->job.plan), windows);

    /* An engine that attaches may be here before the coordinator is. */
    if (status == CLEAT_NOT_FOUND) { return CLEAT_TRANSIENT; }
    if (status == CLEAT_OK) {
        status = carrier_ready(&engine->carrier, CLEAT_NS_PER_S);
    }
    for (uint32_t i = 0; status == CLEAT_OK && i < copies_of(engine); i++) {
        status = clear_weights(engine, i);
    }
    if (status != CLEAT_OK) { return status; }
    engine->seat = &engine->board.head->seats[engine->member];
    memset(engine->cache, 0, engine->cache_bytes);
    atomic_store(&engine->ready, true);
    return CLEAT_OK;
}

/* Admission is closed already, and nobody is in: a server would let its
 * generation loop come to rest here. */
static enum cleat_status
engine_pause(void *context, const struct cleat_worker_command *command)
{
    (void)context;
    (void)command;
    return CLEAT_OK;
}

static enum cleat_status
engine_release(void *context, const struct cleat_worker_command *command)
{
    struct engine *engine = context;

    (void)command;
    return madvise(engine->cache, engine->cache_bytes, MADV_DONTNEED) == 0
               ? CLEAT_OK
               : CLEAT_IO;
}

static enum cleat_status
engine_restore(void *context, const struct cleat_worker_command *command)
{
    struct engine *engine = context;

    (void)command;
    memset(engine->cache, 0, engine->cache_bytes);
    return CLEAT_OK;
}

/* The new version has been received, verified and put in its place. What it
 * should look like, the trainer has written on the board. */
static enum cleat_status
engine_commit(void *context, const struct cleat_worker_command *command)
{
    struct engine *engine = context;
    const struct board_head *head = engine->board.head;
    struct weights *live =
        &engine->weights[cleat_local_engine_live(engine->local)];

    if (atomic_load(&head->digests_version) != command->version) {
        return CLEAT_STATE;
    }
    memcpy(live->digests, engine->board.digests,
           head->windows * sizeof *live->digests);
    live->version = command->version;
    return CLEAT_OK;
}

/* Requests are admitted again as soon as this returns. */
static enum cleat_status
engine_resume(void *context, const struct cleat_worker_command *command)
{
    struct engine *engine = context;

    (void)command;
    atomic_fetch_add(&engine->seat->resumes, 1);
    return CLEAT_OK;
}

/* An engine whose device is lost can neither serve nor receive again, and if it
 * stayed it would be asked in update after update. The command in which the
 * device was lost may have been answered; none after it is, so that the engine
 * is dead and not quarantined. */
static void leave_if_lost(const struct engine *engine)
{
    if (weights_gpu_lost(engine->carrier.weights)) { carrier_leave(1); }
}

static void engine_intercept(void *context, enum cleat_worker_moment moment,
                             const struct cleat_worker_command *command,
                             enum cleat_status status,
                             struct cleat_worker_fault *fault)
{
    struct engine *engine = context;

    (void)status;
    if (moment == CLEAT_WORKER_BEFORE) { leave_if_lost(engine); }
    strikes_command(&engine->strikes, moment, command, fault);
}

static enum cleat_status engine_bucket(void *context,
                                       enum cleat_stream_moment moment,
                                       uint32_t bucket, void **data,
                                       uint64_t bytes)
{
    struct engine *engine = context;

    return strikes_bucket(&engine->strikes, moment, bucket, data, bytes);
}

/* ----------------------------------------------------------------- requests
 */

static uint32_t random_below(struct engine *engine, uint32_t count)
{
    uint64_t x = engine->random;

    /* xorshift64 (Marsaglia, Xorshift RNGs, 2003). */
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    engine->random = x;
    return count == 0 ? 0 : (uint32_t)(x % count);
}

/* What is there now: on the GPU, what is read back from it. */
static enum cleat_status hash_window(const struct engine *engine, uint32_t copy,
                                     uint32_t window, uint32_t *digest)
{
    uint64_t flat = (uint64_t)window * BOARD_WINDOW_BYTES;
    uint32_t bytes = job_window_bytes(&engine->job, window);

    if (engine->carrier.weights != NULL) {
        return weights_gpu_digest(engine->carrier.weights, copy, flat, bytes,
                                  digest);
    }
    *digest = cleat_crc32c_with(engine->digest, 0,
                                engine->weights[copy].data + flat, bytes);
    return CLEAT_OK;
}

/* One request, while admitted. Returns whether its bytes were those of the
 * version that is claimed. Who cannot read its weights any more does not
 * answer: it leaves. */
static bool answer_request(struct engine *engine, uint64_t version)
{
    uint32_t copy = cleat_local_engine_live(engine->local);
    const struct weights *live = &engine->weights[copy];
    uint32_t window = random_below(engine, engine->board.head->windows);
    uint32_t digest = 0;

    if (hash_window(engine, copy, window, &digest) != CLEAT_OK) {
        carrier_leave(1);
    }
    engine->cache[engine->random % engine->cache_bytes]++;
    if (live->version != version) { return false; }
    return engine->board.head->windows == 0 || digest == live->digests[window];
}

/* A dump is a request like any other: while it is in, the weights stay. */
static void answer_dump(struct engine *engine)
{
    const struct weights *live =
        &engine->weights[cleat_local_engine_live(engine->local)];
    struct cleat_tensor_source source = cleat_tensor_sink_source(&live->sink);
    struct cleat_error error;
    enum cleat_status status = cleat_safetensors_write(
        engine->dump, &source, engine->dump_block, engine->dump_block_bytes,
        &error);

    if (status != CLEAT_OK) { (void)options_fail(COMMAND, "%s", error.text); }
    atomic_store(&engine->seat->dump,
                 status == CLEAT_OK ? BOARD_DUMP_DONE : BOARD_DUMP_FAILED);
}

static bool dump_is_wanted(const struct engine *engine)
{
    return engine->dump != NULL &&
           atomic_load(&engine->seat->dump) == BOARD_DUMP_WANTED;
}

static void serve_once(struct engine *engine)
{
    uint64_t version;
    bool whole;

    if (!atomic_load(&engine->ready) ||
        !cleat_worker_admit(engine->worker, &version)) {
        return;
    }
    if (dump_is_wanted(engine)) { answer_dump(engine); }
    whole = answer_request(engine, version);
    cleat_worker_served(engine->worker, !whole);
    cleat_worker_leave(engine->worker);
    atomic_fetch_add(&engine->seat->served, 1);
    atomic_fetch_add(&engine->seat->torn, whole ? 0 : 1);
}

static void *serve(void *context)
{
    struct engine *engine = context;
    const struct timespec idle = {0, IDLE_NS};

    while (!atomic_load(&engine->serving_ends)) {
        leave_if_lost(engine);
        serve_once(engine);
        (void)nanosleep(&idle, NULL);
    }
    return NULL;
}

/* ------------------------------------------------------------------ set-up */

static void *map_memory(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes == 0 ? 1 : bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) { return NULL; }
    (void)madvise(memory, bytes, MADV_HUGEPAGE); /* faster, where allowed */
    return memory;
}

/* The names of a safetensors file do not end in NUL; those of arrays do. */
static const char *copy_name(const struct cleat_tensor *tensor)
{
    char *name = job_memory((size_t)tensor->name_bytes + 1);

    if (name != NULL) { memcpy(name, tensor->name, tensor->name_bytes); }
    return name;
}

/* A table over a flat buffer, or over the other one when there is one: the
 * names are shared. */
static int make_table(struct engine *engine, struct weights *weights,
                      const struct weights *other)
{
    const struct job *job = &engine->job;

    for (uint32_t i = 0; i < job->tensors; i++) {
        struct cleat_memory_tensor *row = &weights->table[i];
        struct cleat_tensor tensor;

        (void)job->source.describe(job->source.context, i, &tensor);
        row->name = other != NULL ? other->table[i].name : copy_name(&tensor);
        row->dtype = tensor.dtype;
        row->rank = tensor.rank;
        memcpy(row->shape, tensor.shape, sizeof row->shape);
        row->data = weights->data + job->starts[i];
        if (row->name == NULL) {
            return options_fail(COMMAND, "no memory for the tensor table");
        }
    }
    return 0;
}

/* Version 0, with which every engine begins, is all zeros. */
static void digest_zeros(const struct engine *engine, struct weights *weights)
{
    static const unsigned char zeros[BOARD_WINDOW_BYTES];
    uint32_t windows = cleat_plan_buckets(&engine->job.windows);

    for (uint32_t w = 0; w < windows; w++) {
        weights->digests[w] = cleat_crc32c_with(
            engine->digest, 0, zeros, job_window_bytes(&engine->job, w));
    }
}

static int no_memory(const struct engine *engine)
{
    return options_fail(COMMAND,
                        "no memory for %" PRIu64 " bytes of "
                        "weights",
                        engine->job.flat_bytes);
}

/* In memory of the host. */
static int make_host(struct engine *engine, struct weights *weights,
                     const struct weights *other)
{
    uint32_t tensors = engine->job.tensors;
    struct cleat_error error;
    int result;

    weights->data = map_memory(engine->job.flat_bytes);
    weights->table = job_memory(tensors * sizeof *weights->table);
    if (weights->data == NULL || weights->table == NULL) {
        return no_memory(engine);
    }
    result = make_table(engine, weights, other);
    if (result != 0) { return result; }
    if (cleat_memory_tensors_init(&weights->tensors, weights->table, tensors,
                                  &error) != CLEAT_OK) {
        return options_fail(COMMAND, "%s", error.text);
    }
    weights->sink = cleat_memory_tensors_sink(&weights->tensors);
    return 0;
}

/* On the GPU, where the carrier has taken the memory. */
static int make_weights(struct engine *engine, uint32_t copy)
{
    struct weights *weights = &engine->weights[copy];
    uint32_t windows = cleat_plan_buckets(&engine->job.windows);

    weights->digests = job_memory(windows * sizeof *weights->digests);
    if (weights->digests == NULL) { return no_memory(engine); }
    digest_zeros(engine, weights);
    if (engine->carrier.weights != NULL) {
        weights->sink = weights_gpu_sink(engine->carrier.weights, copy);
        return 0;
    }
    return make_host(engine, weights, copy == 0 ? NULL : &engine->weights[0]);
}

static int make_memory(struct engine *engine)
{
    int result = 0;

    for (uint32_t i = 0; result == 0 && i < copies_of(engine); i++) {
        result = make_weights(engine, i);
    }
    if (result != 0) { return result; }
    engine->cache_bytes = engine->cache_mib << 20;
    engine->cache = map_memory(engine->cache_bytes);
    engine->dump_block_bytes = CLEAT_SAFETENSORS_WRITE_BYTES(
        engine->job.tensors, DUMP_BUFFER_BYTES);
    if (engine->dump != NULL) {
        engine->dump_block = job_memory(engine->dump_block_bytes);
    }
    if (engine->cache == NULL ||
        (engine->dump != NULL && engine->dump_block == NULL)) {
        return options_fail(COMMAND, "no memory for the cache");
    }
    return 0;
}

static struct cleat_local_engine_config configure(struct engine *engine)
{
    struct cleat_local_engine_config config;

    memset(&config, 0, sizeof config);
    config.live = engine->weights[0].sink;
    if (copies_of(engine) == 2) { config.staged = engine->weights[1].sink; }
    config.transfer.bucket_bytes = engine->job.bucket_bytes;
    config.transfer.silence_ns = job_bucket_ns(&engine->job);
    config.transfer.skips_digest = engine->carrier.skips_digest ? 1 : 0;
    config.transfer.hook = engine_bucket;
    config.transfer.hook_context = engine;

    config.transport = carrier_receiver(&engine->carrier);
    config.worker.fd = CLEAT_LINUX_CHANNEL_FD;
    config.worker.socket_path = engine->attach;
    config.worker.member = (uint32_t)engine->member;
    config.worker.orphan_timeout_ns = engine->orphan_timeout_ns;
    config.worker.stats_ns = STATS_NS;
    config.worker.host.context = engine;
    config.worker.host.start = engine_start;
    config.worker.host.pause = engine_pause;
    config.worker.host.release = engine_release;
    config.worker.host.restore = engine_restore;
    config.worker.host.commit = engine_commit;
    config.worker.host.resume = engine_resume;
    config.worker.host.intercept = engine_intercept;
    return config;
}

static int open_local(struct engine *engine)
{
    struct cleat_local_engine_config config = configure(engine);
    size_t bytes = cleat_local_engine_bytes(&config);
    struct cleat_error error;
    void *block = job_memory(bytes);

    if (block == NULL) { return options_fail(COMMAND, "no memory"); }
    if (cleat_local_engine_open(block, bytes, &config, &engine->local,
                                &error) != CLEAT_OK) {
        return options_fail(COMMAND, "%s%s", error.text,
                            engine->attach == NULL
                                ? " (an engine is started by cleat sync, or "
                                  "with --attach PATH)"
                                : "");
    }
    engine->worker = cleat_local_engine_worker(engine->local);
    return 0;
}

/* An engine that attaches waits for coordinator after coordinator; that none
 * comes after a job is its regular end. */
static int say_orphaned(struct engine *engine)
{
    double s = (double)engine->orphan_timeout_ns / (double)CLEAT_NS_PER_S;

    if (atomic_load(&engine->ready)) {
        fprintf(stderr,
                COMMAND ": the coordinator has gone and no other came in %g s"
                        "\n",
                s);
        return 0;
    }
    (void)options_fail(COMMAND, "--attach %s: no coordinator in %g s",
                       engine->attach, s);
    return 1;
}

/* Why it ended before its job. What cleat sync has started, cleat sync speaks
 * for. */
static int say_end(struct engine *engine, enum cleat_status status)
{
    struct cleat_error error;
    bool sent_away = cleat_worker_sent_away(engine->worker, &error) == status;

    if (engine->attach == NULL) { return sent_away ? 2 : 1; }
    if (!sent_away) { return say_orphaned(engine); }
    return options_fail(COMMAND, "--attach %s: %s", engine->attach, error.text);
}

/* Serves until the job ends, or its coordinator is gone for good. */
static int run(struct engine *engine)
{
    enum cleat_status status;
    int result = 0;

    if (pthread_create(&engine->serving, NULL, serve, engine) != 0) {
        return options_fail(COMMAND, "no thread to serve with");
    }
    status = cleat_local_engine_run(engine->local);
    /* A thread may be in a call that does not come back. */
    if (weights_gpu_lost(engine->carrier.weights)) {
        carrier_leave(status == CLEAT_OK ? 0 : 1);
    }
    atomic_store(&engine->serving_ends, true);
    (void)pthread_join(engine->serving, NULL);
    if (status != CLEAT_OK) { result = say_end(engine, status); }
    cleat_local_engine_close(engine->local);
    carrier_close(&engine->carrier, result);
    return result;
}

static const char usage[] =
    "usage: cleat engine --weights FILE|DIR --member N --board PATH "
    "[OPTION]...\n"
    "An engine: serves, and takes part in weight updates. cleat sync starts\n"
    "engines by itself; by hand they attach to cleat sync --listen PATH.\n"
    "\n"
    "  --weights FILE|DIR    whose tensor table it has\n"
    "  --member N            1 and up: worker W of replica R of a job with\n"
    "                        WORKERS of each is 1 + R * WORKERS + W\n"
    "  --attach PATH         the coordinator's socket; else descriptor 3\n"
    "  --board PATH          the coordinator's board: the socket's path and\n"
    "                        .board\n"
    "  --mode, --bucket-mib, --step-timeout-s, --orphan-timeout-s,\n"
    "  --fault, --seed, --transport, --topology, --digest, --job\n"
    "                        as for cleat sync\n"
    "  --store-map PATH      where the coordinator has store:memory\n"
    "  --device N            its own, with --transport nccl (0)\n"
    "  --nccl-host TEXT      what to set NCCL_HOSTID to\n"
    "  --cache-mib N         of the KV cache (16)\n"
    "  --dump FILE           for the weights, when cleat sync asks\n"
    "\n"
    "Exit: 0 the job has ended, or its coordinator has gone after the engine\n"
    "attached and no other came; 1 there was no coordinator, or one that had\n"
    "started the engine has gone; 2 bad input.\n";

int cleat_tool_engine(int argc, char **argv)
{
    static struct engine engine;
    const char *items[FAULTS_MAX];
    struct option_texts faults = {items, FAULTS_MAX, 0};
    struct option table[] = {
        JOB_OPTIONS(&engine.job),
        CARRIER_OPTIONS(&engine.carrier),
        CARRIER_MAP_OPTION(&engine.carrier),
        {.name = "member",
         .kind = OPTION_COUNT,
         .to = &engine.member,
         .min = 1,
         .max = CLEAT_LINUX_WORKERS_MAX - 1,
         .required = true},
        {.name = "attach", .kind = OPTION_TEXT, .to = &engine.attach},
        {.name = "board",
         .kind = OPTION_TEXT,
         .to = &engine.board_path,
         .required = true},
        {.name = "orphan-timeout-s",
         .kind = OPTION_SECONDS,
         .to = &engine.orphan_timeout_ns,
         .min = 1000000},
        {.name = "cache-mib",
         .kind = OPTION_COUNT,
         .to = &engine.cache_mib,
         .min = 1,
         .max = 1048576},
        {.name = "dump", .kind = OPTION_TEXT, .to = &engine.dump},
        {.name = "seed", .kind = OPTION_COUNT, .to = &engine.random},
        {.name = "fault", .kind = OPTION_TEXTS, .to = &faults},
    };
    struct options options = {.command = COMMAND,
                              .table = table,
                              .count = sizeof table / sizeof table[0]};
    int result;

    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    job_defaults(&engine.job);
    carrier_defaults(&engine.carrier);
    engine.orphan_timeout_ns = 5 * CLEAT_NS_PER_S;
    engine.cache_mib = 16;
    engine.digest = cleat_digest_detect();
    result = options_parse(&options, argc, argv);
    engine.random = (engine.random + engine.member) * 2 + 1; /* never 0 */
    if (result == 0) {
        result = carrier_parse(&engine.carrier, &engine.job, COMMAND);
    }
    if (result == 0) { result = job_open(&engine.job, COMMAND); }
    if (result == 0) {
        result = strikes_open(&engine.strikes, COMMAND, &faults,
                              engine.job.bucket_bytes,
                              !engine.carrier.skips_digest);
    }
    if (result == 0) {
        result = carrier_open_receiver(&engine.carrier, &engine.job, COMMAND);
    }
    if (result != 0) { return result; }
    result = make_memory(&engine);
    if (result == 0) { result = open_local(&engine); }
    if (result == 0) { return run(&engine); }
    carrier_close(&engine.carrier, result);
    return result;
}
