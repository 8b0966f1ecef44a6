/* Cleat: `cleat sync`, the command line. SPDX-License-Identifier: Apache-2.0 */
#include "sync.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cleat/linux.h"
#include "cleat/memory.h"
#include "coordinator.h"
#include "options.h"

#define COMMAND "cleat sync"

/* The trainer is one, the rest are engines. */
#define ENGINES_MAX (CLEAT_LINUX_WORKERS_MAX - 1u)

#define MS CLEAT_NS_PER_MS
#define DAY_NS (UINT64_C(86400) * CLEAT_NS_PER_S)

static const char usage[] =
    "usage: cleat sync --weights FILE|DIR [OPTION]...\n"
    "Takes a checkpoint from one process to the engines' processes.\n"
    "\n"
    "  --weights FILE|DIR     safetensors, one file or a folder of shards\n"
    "  --replicas N           inference replicas (4)\n"
    "  --workers N            processes of each (1)\n"
    "  --replicas-min N       fewer serving is a failure (1)\n"
    "  --mode M               staged (default): the new version beside the\n"
    "                         old; in-place: over it\n"
    "  --bucket-mib N         of one transfer slot (4; with nccl 512)\n"
    "  --slots N              how many, 1 to 8 (3)\n"
    "  --attempts-max N       the first included (3)\n"
    "  --step-timeout-s S     of each step (10)\n"
    "  --start-timeout-s S    until all are up (30)\n"
    "  --orphan-timeout-s S   an engine without coordinator ends (5)\n"
    "  --rounds N             versions in a row (1)\n"
    "  --fault STEP:WHO:KIND  what goes wrong, as in send@3:1:kill; may be\n"
    "                         given again and again\n"
    "  --seed S               of what is drawn (1)\n"
    "  --report text|json     on standard output (text)\n"
    "  --trace FILE           for Perfetto or about:tracing\n"
    "  --dump DIR             each serving engine writes "
    "replica-N.safetensors\n"
    "  --transport T          shm (default): shared memory; nccl: from GPU to\n"
    "                         GPU, by libcuda.so.1 and libnccl.so.2 (cleat "
    "gpu\n"
    "                         info), where engines keep their weights and\n"
    "                         serve from; store:SPEC: a store, as cleat store\n"
    "                         has it, or store:memory, one of this job alone\n"
    "  --job NAME             with a store: what this job's objects begin "
    "with,\n"
    "                         one job's at a time (cleat-sync)\n"
    "  --topology T           with nccl: broadcast (default): engines pass "
    "on;\n"
    "                         fan-out: the trainer sends to each\n"
    "  --digest on|off        with nccl: off: no CRC32C of buckets is taken "
    "or\n"
    "                         checked, and they do not touch the host; of "
    "what\n"
    "                         engines serve, random windows are hashed all "
    "the\n"
    "                         same; send@K:WHO:corrupt, of a bucket, needs "
    "on\n"
    "                         (on)\n"
    "  --device N             with nccl: the trainer's; given again: the "
    "first\n"
    "                         engine's, and so on, from the first again when\n"
    "                         processes are more. Default: the trainer's 0, "
    "the\n"
    "                         first engine's 1, and so on. One for several\n"
    "                         processes sets their NCCL_HOSTID apart, and\n"
    "                         buckets go through the network\n"
    "  --listen PATH          wait for engines that attach to this Unix\n"
    "                         socket, in place of starting them\n"
    "  --verbose              a line for every step, command and failure, "
    "with\n"
    "                         the seconds since the start; failures without\n"
    "                         an answer are told at the end of their round\n"
    "  --arena-bytes N        the coordinator's memory (what it needs)\n"
    "\n"
    "Exit: 0 COMMITTED, 3 DEGRADED, 4 ROLLED_BACK, 5 RESTART, 2 bad input,\n"
    "9 the store is not there.\n";

static void set_defaults(struct sync_setup *setup)
{
    memset(setup, 0, sizeof *setup);
    job_defaults(&setup->job);
    carrier_defaults(&setup->carrier);
    setup->replicas = 4;
    setup->workers = 1;
    setup->replicas_min = 1;
    setup->slots = CLEAT_MEMORY_SLOTS_DEFAULT;
    setup->attempts_max = 3;
    setup->start_timeout_ns = 30 * CLEAT_NS_PER_S;
    setup->orphan_timeout_ns = 5 * CLEAT_NS_PER_S;
    setup->rounds = 1;
    setup->seed = 1;
}

static int parse(struct sync_setup *setup, struct option_texts *faults,
                 int argc, char **argv)
{
    struct option table[] = {
        JOB_OPTIONS(&setup->job),
        CARRIER_OPTIONS(&setup->carrier),
        {.name = "replicas",
         .kind = OPTION_COUNT,
         .to = &setup->replicas,
         .min = 1,
         .max = ENGINES_MAX},
        {.name = "workers",
         .kind = OPTION_COUNT,
         .to = &setup->workers,
         .min = 1,
         .max = ENGINES_MAX},
        {.name = "replicas-min",
         .kind = OPTION_COUNT,
         .to = &setup->replicas_min,
         .min = 1,
         .max = ENGINES_MAX},
        {.name = "slots",
         .kind = OPTION_COUNT,
         .to = &setup->slots,
         .min = 1,
         .max = CLEAT_MEMORY_SLOTS_MAX},
        {.name = "attempts-max",
         .kind = OPTION_COUNT,
         .to = &setup->attempts_max,
         .min = 1,
         .max = 1000},
        {.name = "start-timeout-s",
         .kind = OPTION_SECONDS,
         .to = &setup->start_timeout_ns,
         .min = MS,
         .max = DAY_NS},
        {.name = "orphan-timeout-s",
         .kind = OPTION_SECONDS,
         .to = &setup->orphan_timeout_ns,
         .min = MS,
         .max = DAY_NS},
        {.name = "rounds",
         .kind = OPTION_COUNT,
         .to = &setup->rounds,
         .min = 1,
         .max = 1000000},
        {.name = "fault", .kind = OPTION_TEXTS, .to = faults},
        {.name = "seed", .kind = OPTION_COUNT, .to = &setup->seed},
        {.name = "report",
         .kind = OPTION_CHOICE,
         .to = &setup->report,
         .choices = "text|json"},
        {.name = "trace", .kind = OPTION_TEXT, .to = &setup->trace},
        {.name = "dump", .kind = OPTION_TEXT, .to = &setup->dump},
        {.name = "listen", .kind = OPTION_TEXT, .to = &setup->listen},
        {.name = "verbose", .kind = OPTION_FLAG, .to = &setup->verbose},
        {.name = "arena-bytes",
         .kind = OPTION_COUNT,
         .to = &setup->arena_bytes,
         .min = 1},
    };
    struct options options = {.command = COMMAND,
                              .table = table,
                              .count = sizeof table / sizeof table[0]};

    return options_parse(&options, argc, argv);
}

/* What one option says about another. */
static int check_counts(const struct sync_setup *setup)
{
    if (setup->replicas * setup->workers > ENGINES_MAX) {
        return options_fail(COMMAND,
                            "--replicas %" PRIu64 " --workers %" PRIu64
                            ": at most %u engines in all",
                            setup->replicas, setup->workers, ENGINES_MAX);
    }
    if (setup->replicas_min > setup->replicas) {
        return options_fail(COMMAND,
                            "--replicas-min %" PRIu64 ": more than the %" PRIu64
                            " of --replicas",
                            setup->replicas_min, setup->replicas);
    }
    if (setup->listen != NULL && strlen(setup->listen) > 107) {
        return options_fail(COMMAND,
                            "--listen %.32s...: a Unix socket's path has at "
                            "most 107 bytes",
                            setup->listen);
    }
    return 0;
}

static int refuse_fault(const char *text, const char *why)
{
    char quoted[FAULT_TEXT_MAX];

    fault_quote(text, quoted);
    return options_fail(COMMAND, "--fault %s: %s", quoted, why);
}

static int read_faults(struct sync_setup *setup,
                       const struct option_texts *texts)
{
    for (size_t i = 0; i < texts->count; i++) {
        char why[FAULT_WHY_MAX];

        if (!fault_parse(texts->items[i], &setup->faults[i], why)) {
            return refuse_fault(texts->items[i], why);
        }
    }
    setup->faults_count = (uint32_t)texts->count;
    return 0;
}

static int check_faults(struct sync_setup *setup,
                        const struct option_texts *texts)
{
    uint32_t buckets = cleat_plan_buckets(&setup->job.plan);
    uint64_t random = setup->seed;

    for (uint32_t i = 0; i < setup->faults_count; i++) {
        struct fault *fault = &setup->faults[i];
        char why[FAULT_WHY_MAX];

        if (!fault_check(fault, (uint32_t)setup->replicas, buckets, why)) {
            return refuse_fault(texts->items[i], why);
        }
        if (setup->carrier.skips_digest && fault_changes_bucket(fault)) {
            return refuse_fault(texts->items[i], FAULT_NOT_ON_HOST);
        }
        if (setup->listen != NULL && fault->who != FAULT_TRAINER) {
            return refuse_fault(texts->items[i],
                                "an engine that attaches is given its faults "
                                "itself");
        }
        if (fault->who == FAULT_ANY) { setup->drawn[i] = texts->items[i]; }
        fault_draw(fault, (uint32_t)setup->replicas, &random);
    }
    return 0;
}

int cleat_tool_sync(int argc, char **argv)
{
    static struct sync_setup setup;
    const char *items[FAULTS_MAX];
    struct option_texts faults = {items, FAULTS_MAX, 0};
    int result;

    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    set_defaults(&setup);
    result = parse(&setup, &faults, argc, argv);
    if (result == 0) { result = check_counts(&setup); }
    if (result == 0) {
        result = carrier_parse(&setup.carrier, &setup.job, COMMAND);
    }
    if (result == 0) { result = read_faults(&setup, &faults); }
    if (result == 0) { result = job_open(&setup.job, COMMAND); }
    if (result != 0) { return result; }
    result = check_faults(&setup, &faults);
    if (result == 0) { result = coordinator_run(&setup); }
    job_close(&setup.job);
    return result;
}
