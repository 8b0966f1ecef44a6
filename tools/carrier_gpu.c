/* Cleat: buckets of `cleat sync` between GPUs.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "carrier_gpu.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cleat/cuda.h"
#include "cleat/nccl.h"

#define LOOK_NAP_NS 1000000
#define MIB (1024.0 * 1024.0)

static int refuse(const char *command, const char *why)
{
    return options_fail(command, "--transport nccl: %s", why);
}

/* ---- what there is, and who gets what ----------------------------------- */

/* More slots than buckets would stay empty. */
static uint32_t slots_of(const struct job *job, uint32_t slots)
{
    return slots < job_buckets(job) ? slots : job_buckets(job);
}

static int check_devices(const struct carrier *carrier, uint32_t members,
                         const char *command)
{
    if (carrier->devices.count > members) {
        return options_fail(
            command, "--device: given %zu times, for %" PRIu32 " processes",
            carrier->devices.count, members);
    }
    for (uint32_t i = 0; i < members; i++) {
        uint32_t device = carrier_device(carrier, i);

        if (device >= carrier->devices_found) {
            return options_fail(command,
                                "--device %" PRIu32
                                ": the driver shows %" PRIu32
                                " devices, from 0 on",
                                device, carrier->devices_found);
        }
    }
    return 0;
}

/* What one process has on its device: slots, and weights. Only a trainer that
 * skips digests has its version there. */
static uint64_t memory_of(const struct carrier *carrier, const struct job *job,
                          uint32_t slots, uint32_t member)
{
    uint64_t copies = job->mode == JOB_STAGED ? 2 : 1;

    if (member == 0) { copies = carrier->skips_digest ? 1 : 0; }
    return slots_of(job, member == 0 ? slots : CLEAT_NCCL_SLOTS_DEFAULT) *
               (uint64_t)job_bucket_bytes(job) +
           copies * job->flat_bytes;
}

/* Of the first `members` of them. */
static uint64_t memory_on(const struct carrier *carrier, const struct job *job,
                          uint32_t slots, uint32_t members, uint32_t device)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < members; i++) {
        if (carrier_device(carrier, i) == device) {
            bytes += memory_of(carrier, job, slots, i);
        }
    }
    return bytes;
}

/* Takes the memory of all who will be started to use a device, and gives it
 * back: what is free is known to nobody without a context, and the processes
 * would find out one after the other, when the job has begun. Their contexts,
 * and what NCCL takes, are not in it. */
static int try_memory(uint32_t device, uint64_t needed, const char *command)
{
    static _Alignas(64) unsigned char block[CLEAT_CUDA_BYTES];
    struct cleat_cuda_config config = {
        .device = device, .slots_count = 1, .slot_bytes = needed};
    struct cleat_cuda *cuda = NULL;
    struct cleat_error error;
    enum cleat_status status;

    if (needed == 0) { return 0; }
    status = cleat_cuda_open(block, sizeof block, &config, &cuda, &error);
    if (status == CLEAT_OK) {
        if (cleat_cuda_close(cuda) == CLEAT_OK) { return 0; }
        return options_fail(
            command, "--transport nccl: device %" PRIu32 " is lost", device);
    }
    return options_fail(command,
                        "--transport nccl: the slots and the weights of all "
                        "its processes: %s",
                        error.text);
}

/* On each device that is used: first next to what it has when it is empty. Of
 * engines that attach it is not known which one they use. */
static int check_memory(const struct carrier *carrier, const struct job *job,
                        uint32_t slots, uint32_t members,
                        const struct cleat_cuda_info *info, const char *command)
{
    uint32_t started = carrier->attaches ? 1 : members;
    int result = 0;

    for (uint32_t d = 0; result == 0 && d < info->devices_count; d++) {
        uint64_t needed = memory_on(carrier, job, slots, started, d);

        if (d < CLEAT_CUDA_DEVICES_MAX && needed > info->devices[d].bytes) {
            return options_fail(command,
                                "--transport nccl: device %" PRIu32
                                " has %.1f MiB of memory in total, and the "
                                "slots and the weights of its processes need "
                                "%.1f MiB",
                                d, (double)info->devices[d].bytes / MIB,
                                (double)needed / MIB);
        }
        result = try_memory(d, needed, command);
    }
    return result;
}

/* Two members with one device; false when there are none. */
static bool find_shared(const struct carrier *carrier, uint32_t members,
                        uint32_t *one, uint32_t *other)
{
    for (*one = 0; *one < members; ++*one) {
        for (*other = *one + 1; *other < members; ++*other) {
            if (carrier_device(carrier, *one) ==
                carrier_device(carrier, *other)) {
                return true;
            }
        }
    }
    return false;
}

/* NCCL refuses two ranks on one device of one host. Newer ones can be told to
 * take them; older ones, that each process is a host of its own, which makes
 * their buckets go through the network: never without being asked. */
static int check_shared(struct carrier *carrier, uint32_t members,
                        const struct cleat_nccl_info *info, const char *command)
{
    const char *several = getenv("NCCL_MULTI_RANK_GPU_ENABLE");
    uint32_t one;
    uint32_t other;

    if (!find_shared(carrier, members, &one, &other)) { return 0; }
    if (info->several_ranks != 0 && several != NULL &&
        strcmp(several, "1") == 0) {
        return 0;
    }
    carrier->hosts = carrier->devices.count != 0;
    if (carrier->hosts) {
        fprintf(stderr,
                "%s: device %" PRIu32
                " is given to several processes: each has an NCCL_HOSTID of "
                "its own, and buckets go through the network\n",
                command, carrier_device(carrier, one));
        return 0;
    }
    return options_fail(
        command,
        "--transport nccl: %" PRIu32 " processes and %" PRIu32
        " devices, and NCCL %" PRIu32 ".%" PRIu32 ".%" PRIu32
        " refuses two of one group on one device; to share a device, give "
        "--device once for each process, or --device 0 for all%s",
        members, carrier->devices_found, info->version / 10000,
        info->version % 10000 / 100, info->version % 100,
        info->several_ranks != 0 ? ", or set NCCL_MULTI_RANK_GPU_ENABLE=1"
                                 : "");
}

/* What the coordinator asks of the driver. */
struct look {
    struct carrier *carrier;
    const struct job *job;
    uint32_t slots;
    uint32_t members;
    const char *command;
    int result;
    atomic_bool done;
};

static int look_at(const struct look *look)
{
    static struct cleat_cuda_info cuda;
    struct carrier *carrier = look->carrier;
    const char *command = look->command;
    struct cleat_nccl_info nccl;
    struct cleat_error error;
    int result;

    if (cleat_cuda_look(NULL, &cuda, &error) != CLEAT_OK ||
        cleat_nccl_look(NULL, &nccl, &error) != CLEAT_OK) {
        return refuse(command, error.text);
    }
    carrier->devices_found = cuda.devices_count;
    if (cuda.devices_count == 0) {
        return refuse(command, CLEAT_CUDA_LIBRARY " shows no device");
    }
    result = check_devices(carrier, look->members, command);
    if (result == 0) {
        result = check_memory(carrier, look->job, look->slots, look->members,
                              &cuda, command);
    }
    if (result == 0) {
        result = check_shared(carrier, look->members, &nccl, command);
    }
    return result;
}

static void *look_thread(void *context)
{
    struct look *look = context;

    look->result = look_at(look);
    atomic_store(&look->done, true);
    return NULL;
}

/* A thread of the driver's, made meanwhile, takes no signal from us. */
static bool start_look(struct look *look, pthread_t *thread)
{
    sigset_t all;
    sigset_t before;
    int code;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    code = pthread_create(thread, NULL, look_thread, look);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code == 0;
}

/* A driver that is stuck does not come back, also not from exit. Nothing has
 * been made or started yet. */
static _Noreturn void leave_look(const struct look *look, uint64_t patience_ns)
{
    (void)options_fail(look->command,
                       "--transport nccl: " CLEAT_CUDA_LIBRARY
                       " or " CLEAT_NCCL_LIBRARY
                       " has not come back in %g s (--start-timeout-s)",
                       (double)patience_ns / (double)CLEAT_NS_PER_S);
    _exit(2);
}

int carrier_gpu_make(struct carrier *carrier, const struct job *job,
                     uint32_t slots, uint32_t members, uint64_t patience_ns,
                     const char *command)
{
    static struct look look; /* the thread's, too, who may outlive us */
    const struct timespec nap = {0, LOOK_NAP_NS};
    struct cleat_clock clock = cleat_linux_clock();
    uint64_t deadline_ns = clock.now_ns(clock.context) + patience_ns;
    pthread_t thread;

    if (members > CLEAT_NCCL_RECEIVERS_MAX + 1) {
        return options_fail(
            command, "--transport nccl: at most %u engines, not %" PRIu32,
            CLEAT_NCCL_RECEIVERS_MAX, members - 1);
    }
    look.carrier = carrier;
    look.job = job;
    look.slots = slots;
    look.members = members;
    look.command = command;
    if (!start_look(&look, &thread)) { return refuse(command, "no thread"); }
    while (!atomic_load(&look.done)) {
        if (clock.now_ns(clock.context) >= deadline_ns) {
            leave_look(&look, patience_ns);
        }
        (void)nanosleep(&nap, NULL);
    }
    (void)pthread_join(thread, NULL);
    return look.result;
}

/* ---- the ends ----------------------------------------------------------- */

/* Before the library is loaded, and while there is no other thread. What is
 * said from outside of the two last ones is left as it is. */
static void set_environment(const struct carrier *carrier)
{
    if (carrier->host != NULL) {
        (void)setenv("NCCL_HOSTID", carrier->host, 1);
    }
    (void)setenv("NCCL_NVLS_ENABLE", "0", 0);
    (void)setenv("NCCL_RAS_ENABLE", "0", 0);
}

static struct cleat_nccl_config configure(const struct carrier *carrier,
                                          const struct job *job, uint32_t slots)
{
    struct cleat_nccl_config config;

    memset(&config, 0, sizeof config);
    config.bucket_bytes = job_bucket_bytes(job);
    config.slots_count = slots_of(job, slots);
    config.device = carrier_device(carrier, 0);
    config.topology = carrier->fans_out ? CLEAT_NCCL_FAN_OUT
                                        : CLEAT_NCCL_BROADCAST;
    config.on_device = carrier->skips_digest ? 1 : 0;
    config.bucket_ns = job_bucket_ns(job);
    return config;
}

static struct weights_gpu_config
configure_weights(const struct carrier *carrier, const struct job *job)
{
    struct weights_gpu_config config = {
        .job = job,
        .device = carrier_device(carrier, 0),
        .copies = 1,
        .on_device = carrier->skips_digest,
    };

    return config;
}

/* Behind the transport's end, which has set the environment; without them that
 * is closed again. */
static int open_weights(struct carrier *carrier,
                        const struct weights_gpu_config *config,
                        const char *command)
{
    int result = weights_gpu_open(config, command, &carrier->weights);

    if (result != 0) { carrier_close(carrier, result); }
    return result;
}

static void *take_block(const char *command)
{
    void *block = aligned_alloc(64, CLEAT_NCCL_BYTES);

    if (block == NULL) { (void)refuse(command, "no memory"); }
    return block;
}

int carrier_gpu_open_sender(struct carrier *carrier, const struct job *job,
                            uint32_t slots, uint32_t receivers,
                            const char *command)
{
    struct cleat_nccl_config config = configure(carrier, job, slots);
    struct weights_gpu_config weights = configure_weights(carrier, job);
    void *block = take_block(command);
    struct cleat_error error;

    if (block == NULL) { return 2; }
    set_environment(carrier);
    config.receivers_max = receivers;
    if (cleat_nccl_sender_open(block, CLEAT_NCCL_BYTES, &config,
                               &carrier->sender, &error) != CLEAT_OK) {
        return refuse(command, error.text);
    }
    weights.sender = &carrier->sender;
    return carrier->skips_digest ? open_weights(carrier, &weights, command) : 0;
}

int carrier_gpu_open_receiver(struct carrier *carrier, const struct job *job,
                              const char *command)
{
    struct cleat_nccl_config config = configure(carrier, job,
                                                CLEAT_NCCL_SLOTS_DEFAULT);
    struct weights_gpu_config weights = configure_weights(carrier, job);
    void *block = take_block(command);
    struct cleat_error error;

    if (block == NULL) { return 2; }
    set_environment(carrier);
    if (cleat_nccl_receiver_open(block, CLEAT_NCCL_BYTES, &config,
                                 &carrier->receiver, &error) != CLEAT_OK) {
        return refuse(command, error.text);
    }
    weights.copies = job->mode == JOB_STAGED ? 2 : 1;
    weights.receiver = &carrier->receiver;
    return open_weights(carrier, &weights, command);
}

/* The blocks stay until the process ends. The weights are last: freeing waits
 * for all that is going on on the device, also for what a broken group has left
 * there. */
bool carrier_gpu_close(struct carrier *carrier)
{
    bool lost = weights_gpu_lost(carrier->weights);
    enum cleat_status sender = cleat_nccl_sender_close(&carrier->sender);
    enum cleat_status receiver = cleat_nccl_receiver_close(&carrier->receiver);

    if (lost || sender != CLEAT_OK || receiver != CLEAT_OK ||
        !weights_gpu_close(carrier->weights)) {
        return false;
    }
    carrier->weights = NULL;
    return true;
}
