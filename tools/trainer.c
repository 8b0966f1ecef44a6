/* Cleat: `cleat trainer`, a trainer without the training.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The sender's end of `cleat sync`: a checkpoint file, from which version after
 * version is made (tools/version.h) and sent. Before it sends one it writes the
 * digests of all its windows on the board, straight from the source, so that
 * engines can tell whether what they serve is what was meant. With --transport
 * nccl --digest off it has the version on the GPU, as a trainer has its
 * weights, and sends it from there.
 */
#define _GNU_SOURCE
#include "trainer.h"

#include <stdio.h>
#include <string.h>

#include "board.h"
#include "carrier.h"
#include "cleat/local.h"
#include "job.h"
#include "strike.h"
#include "version.h"

#define COMMAND "cleat trainer"

struct trainer {
    struct job job;
    struct carrier carrier;
    struct board board;
    struct strikes strikes;
    struct version_source versions;
    uint64_t version_loaded; /* on the GPU; 0: none */
    struct cleat_local_trainer *local;
    const char *board_path;
    uint64_t slots;
    uint64_t receivers;
};

/* ------------------------------------------------- what an update asks of us
 */

/* Bring-up. */
static enum cleat_status trainer_start(void *context)
{
    struct trainer *trainer = context;

    return carrier_ready(&trainer->carrier, CLEAT_NS_PER_S);
}

/* Once a version: what every window of it looks like. */
static enum cleat_status digest_version(struct trainer *trainer)
{
    struct board_head *head = trainer->board.head;
    uint64_t version = trainer->versions.version;

    if (atomic_load(&head->digests_version) == version) { return CLEAT_OK; }
    atomic_store(&head->digests_version, 0);
    for (uint32_t w = 0; w < head->windows; w++) {
        enum cleat_status status = version_digest(&trainer->versions, w,
                                                  &trainer->board.digests[w]);

        if (status != CLEAT_OK) { return status; }
    }
    atomic_store(&head->digests_version, version);
    return CLEAT_OK;
}

/* Likewise: to the GPU, where it is sent from there. */
static enum cleat_status load_version(struct trainer *trainer)
{
    struct cleat_tensor_source source = version_source(&trainer->versions);
    uint64_t version = trainer->versions.version;
    enum cleat_status status;

    if (trainer->carrier.weights == NULL ||
        trainer->version_loaded == version) {
        return CLEAT_OK;
    }
    trainer->version_loaded = 0;
    status = weights_gpu_load(trainer->carrier.weights, &source);
    if (status == CLEAT_OK) { trainer->version_loaded = version; }
    return status;
}

static enum cleat_status
trainer_prepare(void *context, const struct cleat_worker_command *command,
                struct cleat_transport_ticket *ticket)
{
    struct trainer *trainer = context;
    enum cleat_status status;

    (void)ticket;
    trainer->versions.version = command->version;
    if (trainer->carrier.is_store) {
        cleat_store_sender_version(&trainer->carrier.sender, command->version);
    }
    atomic_store(&trainer->board.head->buckets_sent, 0);
    status = digest_version(trainer);
    return status == CLEAT_OK ? load_version(trainer) : status;
}

static void trainer_intercept(void *context, enum cleat_worker_moment moment,
                              const struct cleat_worker_command *command,
                              enum cleat_status status,
                              struct cleat_worker_fault *fault)
{
    struct trainer *trainer = context;

    (void)status;
    strikes_command(&trainer->strikes, moment, command, fault);
}

static enum cleat_status trainer_bucket(void *context,
                                        enum cleat_stream_moment moment,
                                        uint32_t bucket, void **data,
                                        uint64_t bytes)
{
    struct trainer *trainer = context;

    if (moment == CLEAT_STREAM_DONE) {
        atomic_store(&trainer->board.head->buckets_sent, bucket + 1);
    }
    return strikes_bucket(&trainer->strikes, moment, bucket, data, bytes);
}

/* ------------------------------------------------------------------ set-up */

static struct cleat_local_trainer_config configure(struct trainer *trainer)
{
    struct cleat_local_trainer_config config;

    memset(&config, 0, sizeof config);
    config.source = trainer->carrier.weights != NULL
                        ? weights_gpu_source(trainer->carrier.weights)
                        : version_source(&trainer->versions);
    config.receivers_max = (uint32_t)trainer->receivers;
    config.transfer.bucket_bytes = trainer->job.bucket_bytes;
    config.transfer.slots_count = (uint32_t)trainer->slots;
    config.transfer.silence_ns = job_bucket_ns(&trainer->job);
    config.transfer.hold_bucket = strikes_hold_bucket(&trainer->strikes);
    config.transfer.skips_digest = trainer->carrier.skips_digest ? 1 : 0;
    config.transfer.hook = trainer_bucket;
    config.transfer.hook_context = trainer;
    config.transport = carrier_sender(&trainer->carrier);
    config.worker.fd = CLEAT_LINUX_CHANNEL_FD;
    config.worker.host.context = trainer;
    config.worker.host.start = trainer_start;
    config.worker.host.prepare = trainer_prepare;
    config.worker.host.intercept = trainer_intercept;
    return config;
}

static int run(struct trainer *trainer)
{
    struct cleat_local_trainer_config config = configure(trainer);
    size_t bytes = cleat_local_trainer_bytes(&config);
    void *block = job_memory(bytes);
    struct cleat_error error;
    enum cleat_status status;

    if (block == NULL) { return options_fail(COMMAND, "no memory"); }
    if (cleat_local_trainer_open(block, bytes, &config, &trainer->local,
                                 &error) != CLEAT_OK) {
        (void)options_fail(COMMAND, "%s (a trainer is started by cleat sync)",
                           error.text);
        carrier_close(&trainer->carrier, 2);
        return 2;
    }
    status = cleat_local_trainer_run(trainer->local);
    /* A thread may be in a call that does not come back. */
    if (weights_gpu_lost(trainer->carrier.weights)) {
        carrier_leave(status == CLEAT_OK ? 0 : 1);
    }
    cleat_local_trainer_close(trainer->local);
    carrier_close(&trainer->carrier, status == CLEAT_OK ? 0 : 1);
    return status == CLEAT_OK ? 0 : 1;
}

static const char usage[] =
    "usage: cleat trainer --weights FILE|DIR --receivers N --board PATH\n"
    "                     [OPTION]...\n"
    "The sender of cleat sync, which starts it with its control channel as\n"
    "descriptor 3. --mode, --bucket-mib, --slots, --step-timeout-s, --fault,\n"
    "--transport, --topology, --digest and --job are as for cleat sync;\n"
    "--store-map PATH is where the coordinator has store:memory; --device N "
    "is\n"
    "this process's own (0), --nccl-host TEXT what to set NCCL_HOSTID to.\n";

int cleat_tool_trainer(int argc, char **argv)
{
    static struct trainer trainer;
    const char *items[FAULTS_MAX];
    struct option_texts faults = {items, FAULTS_MAX, 0};
    struct option table[] = {
        JOB_OPTIONS(&trainer.job),
        CARRIER_OPTIONS(&trainer.carrier),
        CARRIER_MAP_OPTION(&trainer.carrier),
        {.name = "board",
         .kind = OPTION_TEXT,
         .to = &trainer.board_path,
         .required = true},
        {.name = "slots",
         .kind = OPTION_COUNT,
         .to = &trainer.slots,
         .min = 1,
         .max = CLEAT_MEMORY_SLOTS_MAX},
        {.name = "receivers",
         .kind = OPTION_COUNT,
         .to = &trainer.receivers,
         .min = 1,
         .max = CLEAT_MEMORY_RECEIVERS_MAX,
         .required = true},
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
    job_defaults(&trainer.job);
    carrier_defaults(&trainer.carrier);
    trainer.slots = CLEAT_MEMORY_SLOTS_DEFAULT;
    result = options_parse(&options, argc, argv);
    if (result == 0) {
        result = carrier_parse(&trainer.carrier, &trainer.job, COMMAND);
    }
    if (result == 0) { result = job_open(&trainer.job, COMMAND); }
    if (result == 0) {
        result = strikes_open(&trainer.strikes, COMMAND, &faults,
                              trainer.job.bucket_bytes,
                              !trainer.carrier.skips_digest);
    }
    if (result != 0) { return result; }
    trainer.versions.job = &trainer.job;
    if (board_open(&trainer.board, trainer.board_path, true,
                   cleat_plan_digest(&trainer.job.plan),
                   cleat_plan_buckets(&trainer.job.windows)) != CLEAT_OK) {
        return options_fail(COMMAND,
                            "--board %s: it is not there, or about "
                            "other weights",
                            trainer.board_path);
    }
    result = carrier_open_sender(&trainer.carrier, &trainer.job,
                                 (uint32_t)trainer.slots,
                                 (uint32_t)trainer.receivers, COMMAND);
    return result == 0 ? run(&trainer) : result;
}
