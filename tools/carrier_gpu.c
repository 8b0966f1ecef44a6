/* Cleat: buckets of `cleat sync` between GPUs.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "carrier_gpu.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleat/cuda.h"
#include "cleat/nccl.h"

static int refuse(const char *command, const char *why)
{
    return options_fail(command, "--transport nccl: %s", why);
}

/* ---- what there is, and who gets what ----------------------------------- */

static uint32_t buckets_of(const struct job *job)
{
    uint32_t buckets = cleat_plan_buckets(&job->plan);

    return buckets == 0 ? 1 : buckets;
}

/* More slots than buckets would stay empty. */
static uint32_t slots_of(const struct job *job, uint32_t slots)
{
    return slots < buckets_of(job) ? slots : buckets_of(job);
}

static uint64_t bucket_bytes_of(const struct job *job)
{
    return cleat_plan_buckets(&job->plan) == 0
               ? CLEAT_PLAN_ALIGN
               : cleat_plan_bucket_bytes(&job->plan, 0);
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

/* All slots of those who use a device, next to what it has when it is empty. */
static int check_memory(const struct carrier *carrier, const struct job *job,
                        uint32_t slots, uint32_t members,
                        const struct cleat_cuda_info *info, const char *command)
{
    for (uint32_t d = 0; d < info->devices_count && d < CLEAT_CUDA_DEVICES_MAX;
         d++) {
        uint64_t needed = 0;

        for (uint32_t i = 0; i < members; i++) {
            if (carrier_device(carrier, i) != d) { continue; }
            needed += slots_of(job, i == 0 ? slots : CLEAT_NCCL_SLOTS_DEFAULT) *
                      bucket_bytes_of(job);
        }
        if (needed > info->devices[d].bytes) {
            return options_fail(command,
                                "--transport nccl: device %" PRIu32
                                " has %" PRIu64
                                " bytes of memory, and the slots of its "
                                "processes need %" PRIu64,
                                d, info->devices[d].bytes, needed);
        }
    }
    return 0;
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
        " refuses two of one group on one device; --device says that it is "
        "meant%s",
        members, carrier->devices_found, info->version / 10000,
        info->version % 10000 / 100, info->version % 100,
        info->several_ranks != 0 ? ", or NCCL_MULTI_RANK_GPU_ENABLE=1" : "");
}

int carrier_gpu_make(struct carrier *carrier, const struct job *job,
                     uint32_t slots, uint32_t members, const char *command)
{
    static struct cleat_cuda_info cuda;
    struct cleat_nccl_info nccl;
    struct cleat_error error;
    int result;

    if (members > CLEAT_NCCL_RECEIVERS_MAX + 1) {
        return options_fail(
            command, "--transport nccl: at most %u engines, not %" PRIu32,
            CLEAT_NCCL_RECEIVERS_MAX, members - 1);
    }
    if (cleat_cuda_look(NULL, &cuda, &error) != CLEAT_OK ||
        cleat_nccl_look(NULL, &nccl, &error) != CLEAT_OK) {
        return refuse(command, error.text);
    }
    carrier->devices_found = cuda.devices_count;
    if (cuda.devices_count == 0) {
        return refuse(command, CLEAT_CUDA_LIBRARY " shows no device");
    }
    result = check_devices(carrier, members, command);
    if (result == 0) {
        result = check_memory(carrier, job, slots, members, &cuda, command);
    }
    if (result == 0) {
        result = check_shared(carrier, members, &nccl, command);
    }
    return result;
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
    config.bucket_bytes = bucket_bytes_of(job);
    config.slots_count = slots_of(job, slots);
    config.device = carrier_device(carrier, 0);
    config.topology = carrier->fans_out ? CLEAT_NCCL_FAN_OUT
                                        : CLEAT_NCCL_BROADCAST;
    config.bucket_ns = job->step_timeout_ns;
    return config;
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
    void *block = take_block(command);
    struct cleat_error error;

    if (block == NULL) { return 2; }
    set_environment(carrier);
    config.receivers_max = receivers;
    if (cleat_nccl_sender_open(block, CLEAT_NCCL_BYTES, &config,
                               &carrier->sender, &error) == CLEAT_OK) {
        return 0;
    }
    return refuse(command, error.text);
}

int carrier_gpu_open_receiver(struct carrier *carrier, const struct job *job,
                              const char *command)
{
    struct cleat_nccl_config config = configure(carrier, job,
                                                CLEAT_NCCL_SLOTS_DEFAULT);
    void *block = take_block(command);
    struct cleat_error error;

    if (block == NULL) { return 2; }
    set_environment(carrier);
    if (cleat_nccl_receiver_open(block, CLEAT_NCCL_BYTES, &config,
                                 &carrier->receiver, &error) == CLEAT_OK) {
        return 0;
    }
    return refuse(command, error.text);
}

/* The blocks stay until the process ends. */
bool carrier_gpu_close(struct carrier *carrier)
{
    enum cleat_status sender = cleat_nccl_sender_close(&carrier->sender);
    enum cleat_status receiver = cleat_nccl_receiver_close(&carrier->receiver);

    return sender == CLEAT_OK && receiver == CLEAT_OK;
}
