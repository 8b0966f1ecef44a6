/* Cleat: what the buckets of `cleat sync` travel by.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "carrier.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "carrier_gpu.h"
#include "cleat/local.h"
#include "cleat/nccl.h"

#define PREFIX "store:"

/* Calls of the store that one process makes at once: a put or a get, a question
 * and an acknowledgement. */
#define CALLS 3u

/* The longest clean-up after everybody has ended, and wait for calls that have
 * not come back. */
#define SWEEP_NS (5 * CLEAT_NS_PER_S)
#define SWEEP_KEYS 256u
#define CLOSE_NS (2 * CLEAT_NS_PER_S)

/* Room for values that come and go, of one size, and for small ones. */
#define MAP_SPARE 3u
#define MAP_MIN (UINT64_C(1) << 20)
#define MAP_UNIT_BYTES 4096u

/* ---- options ------------------------------------------------------------ */

void carrier_defaults(struct carrier *carrier)
{
    memset(carrier, 0, sizeof *carrier);
    carrier->devices.items = carrier->devices_texts;
    carrier->devices.items_max = CARRIER_DEVICES_MAX;
    carrier->fd = -1;
}

static int refuse(const struct carrier *carrier, const char *command,
                  const char *why)
{
    return options_fail(command, "--transport %s: %s", carrier->transport, why);
}

static int check_job(const struct carrier *carrier, const char *command)
{
    const char *job = carrier->job_name;
    size_t bytes;

    if (job == NULL) { return 0; }
    bytes = strlen(job);
    if (bytes <= CLEAT_STORE_JOB_MAX && job[0] != '/' &&
        job[bytes - 1] != '/') {
        return 0;
    }
    return options_fail(command,
                        "--job %.100s: expected 1 to %u bytes, and no slash at "
                        "an end",
                        job, CLEAT_STORE_JOB_MAX);
}

static int parse_devices(struct carrier *carrier, const char *command)
{
    for (size_t i = 0; i < carrier->devices.count; i++) {
        const char *text = carrier->devices.items[i];
        uint64_t device;

        if (!options_count(text, &device) || device > INT32_MAX) {
            return options_fail(command,
                                "--device %.32s: expected the number of a "
                                "device",
                                text);
        }
        carrier->devices_given[i] = (uint32_t)device;
    }
    return 0;
}

static int parse_topology(struct carrier *carrier, const char *command)
{
    const char *topology = carrier->topology;

    if (topology == NULL || strcmp(topology, "broadcast") == 0) { return 0; }
    carrier->fans_out = strcmp(topology, "fan-out") == 0;
    if (carrier->fans_out) { return 0; }
    return options_fail(
        command, "--topology %.32s: expected broadcast or fan-out", topology);
}

static int parse_digest(struct carrier *carrier, const char *command)
{
    const char *digest = carrier->digest;

    if (digest == NULL || strcmp(digest, "on") == 0) { return 0; }
    carrier->skips_digest = strcmp(digest, "off") == 0;
    if (carrier->skips_digest) { return 0; }
    return options_fail(command, "--digest %.32s: expected on or off", digest);
}

/* What is said of GPUs where there are none. */
static int parse_other(const struct carrier *carrier, const char *command)
{
    const char *option = carrier->topology != NULL     ? "--topology"
                         : carrier->digest != NULL     ? "--digest"
                         : carrier->devices.count != 0 ? "--device"
                                                       : NULL;

    if (option == NULL) { return 0; }
    return options_fail(command, "%s: only with --transport nccl", option);
}

static int parse_nccl(struct carrier *carrier, const char *command)
{
    int result;

    if (!carrier->is_nccl) { return parse_other(carrier, command); }
    result = parse_topology(carrier, command);
    if (result == 0) { result = parse_digest(carrier, command); }
    return result == 0 ? parse_devices(carrier, command) : result;
}

int carrier_parse(struct carrier *carrier, struct job *job, const char *command)
{
    char line[STORE_OPEN_LINE_BYTES];
    const char *spec = carrier->transport;
    int result = check_job(carrier, command);

    if (result != 0) { return result; }
    carrier->is_nccl = spec != NULL && strcmp(spec, "nccl") == 0;
    if (job->bucket_mib == 0) {
        job->bucket_mib = (carrier->is_nccl
                               ? CLEAT_NCCL_BUCKET_BYTES_DEFAULT
                               : CLEAT_LOCAL_BUCKET_BYTES_DEFAULT) >>
                          20;
    }
    result = parse_nccl(carrier, command);
    if (result != 0) { return result; }
    if (carrier->is_nccl || spec == NULL || strcmp(spec, "shm") == 0) {
        if (carrier->job_name == NULL) { return 0; }
        return options_fail(command, "--job: only with --transport store:SPEC");
    }
    if (strncmp(spec, PREFIX, strlen(PREFIX)) != 0) {
        return refuse(carrier, command,
                      "expected shm, nccl, or store: and a store, as in "
                      "store:memory");
    }
    if (carrier->job_name == NULL) { carrier->job_name = CARRIER_JOB_DEFAULT; }
    spec += strlen(PREFIX);
    carrier->is_store = true;
    carrier->own = strcmp(spec, "memory") == 0;
    if (carrier->own) { return 0; }
    if (!store_parse(spec, &carrier->spec, line)) {
        return refuse(carrier, command, line);
    }
    if (carrier->spec.kind == STORE_MEMORY) {
        return refuse(carrier, command,
                      "that is one process's memory: expected store:memory "
                      "alone, or memory:shared=NAME");
    }
    return 0;
}

uint32_t carrier_device(const struct carrier *carrier, uint32_t member)
{
    uint32_t given = (uint32_t)carrier->devices.count;

    if (given != 0) { return carrier->devices_given[member % given]; }
    return carrier->devices_found == 0 ? 0 : member % carrier->devices_found;
}

/* ---- the store ---------------------------------------------------------- */

/* What a store in memory needs for the job's objects. */
static uint64_t map_bytes(const struct job *job, uint32_t slots,
                          uint32_t receivers, uint32_t *keys)
{
    struct cleat_memory_store_config config = {.unit_bytes = MAP_UNIT_BYTES};
    uint64_t bucket = (uint64_t)job_bucket_bytes(job) + 2 * MAP_UNIT_BYTES;
    uint64_t acks = (uint64_t)receivers * (slots + 2) * 2 * MAP_UNIT_BYTES;
    uint64_t bytes = MAP_SPARE * ((slots + 1) * bucket + acks) + MAP_MIN;

    *keys = (slots + 4) * (receivers + 1) * 2 + 64;
    config.keys_max = *keys;
    return cleat_memory_store_bytes(&config, bytes);
}

static int no_memory(const char *command)
{
    return options_fail(command, "no shared memory for the store: %s",
                        strerror(errno));
}

static bool map_own(struct carrier *carrier, int fd, size_t bytes)
{
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (block == MAP_FAILED) { return false; }
    carrier->opened.kind = STORE_MEMORY;
    carrier->opened.block = block;
    carrier->opened.block_bytes = bytes;
    return true;
}

/* A memfd: it is gone with the last process that has it, however that ends. */
static int make_own(struct carrier *carrier, const struct job *job,
                    uint32_t slots, uint32_t receivers, const char *command)
{
    struct store_opened *opened = &carrier->opened;
    struct cleat_memory_store_config config = {.unit_bytes = MAP_UNIT_BYTES};
    size_t bytes = map_bytes(job, slots, receivers, &config.keys_max);
    struct cleat_error error;

    config.processes_max = receivers + 8 > CLEAT_MEMORY_STORE_PROCESSES_MAX
                               ? CLEAT_MEMORY_STORE_PROCESSES_MAX
                               : receivers + 8;
    carrier->fd = memfd_create("cleat-store", MFD_CLOEXEC);
    if (carrier->fd < 0 || ftruncate(carrier->fd, (off_t)bytes) != 0 ||
        !map_own(carrier, carrier->fd, bytes)) {
        return no_memory(command);
    }
    if (cleat_memory_store_init(opened->block, bytes, &config, opened->end,
                                sizeof opened->end, &opened->inner,
                                &error) != CLEAT_OK) {
        return options_fail(command, "%s", error.text);
    }
    opened->store = opened->inner;
    return 0;
}

static int open_own(struct carrier *carrier, const char *command)
{
    struct store_opened *opened = &carrier->opened;
    struct cleat_error error;
    struct stat about;
    int fd = carrier->map == NULL ? -1 : open(carrier->map, O_RDWR | O_CLOEXEC);
    bool mapped = fd >= 0 && fstat(fd, &about) == 0 && about.st_size > 0 &&
                  map_own(carrier, fd, (size_t)about.st_size);

    if (fd >= 0) { (void)close(fd); }
    if (!mapped) {
        return options_fail(command,
                            "--store-map %s: it is not there (the "
                            "coordinator makes it)",
                            carrier->map == NULL ? "" : carrier->map);
    }
    if (cleat_memory_store_attach(opened->block, opened->block_bytes,
                                  opened->end, sizeof opened->end,
                                  &opened->inner, &error) != CLEAT_OK) {
        return options_fail(command, "--store-map %s: %s", carrier->map,
                            error.text);
    }
    opened->store = opened->inner;
    return 0;
}

static int open_spec(struct carrier *carrier, const char *command)
{
    char line[STORE_OPEN_LINE_BYTES];
    int result = store_open(&carrier->opened, &carrier->spec, NULL, line);

    if (result != 0) { (void)refuse(carrier, command, line); }
    return result;
}

int carrier_make(struct carrier *carrier, const struct job *job, uint32_t slots,
                 uint32_t receivers, uint64_t patience_ns, const char *command)
{
    uint32_t keys;

    if (carrier->is_nccl) {
        return carrier_gpu_make(carrier, job, slots, receivers + 1, patience_ns,
                                command);
    }
    if (!carrier->is_store) { return 0; }
    if (carrier->own) {
        return make_own(carrier, job, slots, receivers, command);
    }
    if (carrier->spec.kind == STORE_SHARED && carrier->spec.bytes == 0) {
        carrier->spec.bytes = map_bytes(job, slots, receivers, &keys);
    }
    return open_spec(carrier, command);
}

bool carrier_path(const struct carrier *carrier, char *path)
{
    if (carrier->fd < 0) { return false; }
    (void)snprintf(path, 64, "/proc/%ld/fd/%d", (long)getpid(), carrier->fd);
    return true;
}

uint32_t carrier_objects(const struct carrier *carrier)
{
    struct cleat_memory_store_view view;

    if (!carrier->is_store ||
        (!carrier->own && carrier->spec.kind == STORE_MOONCAKE)) {
        return UINT32_MAX;
    }
    cleat_memory_store_look(&carrier->opened.inner, &view);
    return view.keys;
}

/* ---- what an end needs -------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context);
}

static void *memory(size_t bytes)
{
    size_t rounded = (bytes + 63) & ~(size_t)63;
    void *block = aligned_alloc(64, rounded);

    if (block != NULL) { memset(block, 0, rounded); }
    return block;
}

/* Threads and mailboxes for the service. Retries are quick, and an update's own
 * time ends them. */
static enum cleat_status open_service(struct carrier *carrier, uint32_t keys,
                                      struct cleat_error *error)
{
    struct cleat_retry_policy policy = CLEAT_RETRY_DATA_PATH;
    struct cleat_local_store_config config = {
        .service = {.batch = {.pace_ns = 5 * CLEAT_NS_PER_MS},
                    .batches_max = 4,
                    .keys_max = keys,
                    .key_bytes_max = keys * CLEAT_STORE_KEY_BYTES},
        .threads = {.threads = CALLS + 1, .jobs_max = 64},
    };
    size_t bytes;

    policy.base_ns = 2 * CLEAT_NS_PER_MS;
    policy.max_ns = 100 * CLEAT_NS_PER_MS;
    policy.attempts_max = 8;
    config.service.batch.policy = &policy;
    bytes = cleat_local_store_bytes(&config);
    carrier->local_block = memory(bytes);
    if (carrier->local_block == NULL) {
        return cleat_error_set(error, CLEAT_IO, 0, bytes,
                               "no memory for the store's service");
    }
    return cleat_local_store_open(carrier->local_block, bytes, &config,
                                  &carrier->opened.store, &carrier->local,
                                  error);
}

static enum cleat_status open_jobs(struct carrier *carrier, uint32_t jobs,
                                   uint32_t mailboxes,
                                   struct cleat_error *error)
{
    struct cleat_linux_threads_config config = {jobs, 8};
    size_t threads_bytes = cleat_linux_threads_bytes(&config);
    size_t mailbox_bytes = cleat_linux_mailbox_bytes(CLEAT_STORE_MESSAGES_MAX);
    enum cleat_status status = cleat_linux_threads_init(
        memory(threads_bytes), threads_bytes, &config, &carrier->threads,
        error);

    for (uint32_t i = 0; status == CLEAT_OK && i < mailboxes; i++) {
        status = cleat_linux_mailbox_init(memory(mailbox_bytes), mailbox_bytes,
                                          CLEAT_STORE_MESSAGES_MAX,
                                          &carrier->mailboxes[i], error);
    }
    return status;
}

static enum cleat_status open_slots(struct carrier *carrier,
                                    const struct job *job, uint32_t slots,
                                    struct cleat_error *error)
{
    carrier->slots_bytes = slots *
                           CLEAT_STORE_SLOT_BYTES(job_bucket_bytes(job));
    carrier->slots = memory(carrier->slots_bytes);
    if (carrier->slots != NULL) { return CLEAT_OK; }
    return cleat_error_set(error, CLEAT_IO, 0, carrier->slots_bytes,
                           "no memory for the slots");
}

static enum cleat_status open_end(struct carrier *carrier,
                                  const struct job *job, uint32_t slots,
                                  uint32_t keys, uint32_t jobs,
                                  uint32_t mailboxes, struct cleat_error *error)
{
    enum cleat_status status = open_service(carrier, keys, error);

    if (status == CLEAT_OK) {
        status = open_jobs(carrier, jobs, mailboxes, error);
    }
    if (status == CLEAT_OK) { status = open_slots(carrier, job, slots, error); }
    return status;
}

static struct cleat_store_transport
common(struct carrier *carrier, const struct job *job, uint32_t slots)
{
    struct cleat_store_transport all = {
        .service = cleat_local_store_service(carrier->local),
        .clock = cleat_linux_clock(),
        .threads = carrier->threads,
        .mailboxes = carrier->mailboxes,
        .job = carrier->job_name,
        .slots = carrier->slots,
        .bucket_bytes = job_bucket_bytes(job),
        .slots_count = slots,
        .timeout_ns = job->step_timeout_ns,
    };

    return all;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static enum cleat_status open_sender(struct carrier *carrier,
                                     const struct job *job, uint32_t slots,
                                     uint32_t receivers,
                                     struct cleat_error *error)
{
    struct cleat_store_sender_config config = {.receivers_max = receivers,
                                               .buckets_max = job_buckets(job)};
    size_t bytes = cleat_store_sender_bytes(&config);
    void *block = memory(bytes);
    enum cleat_status status;

    slots = least(slots, job_buckets(job));
    if (block == NULL ||
        getrandom(&config.run, sizeof config.run, 0) != sizeof config.run) {
        return cleat_error_set(error, CLEAT_IO, 0, 0,
                               "no memory, or no random number");
    }
    status = open_end(carrier, job, slots, cleat_store_sender_keys(receivers),
                      CLEAT_STORE_SENDER_JOBS, CLEAT_STORE_SENDER_MAILBOXES,
                      error);
    if (status != CLEAT_OK) { return status; }
    config.common = common(carrier, job, slots);
    return cleat_store_sender_open(block, bytes, &config, &carrier->sender,
                                   error);
}

static enum cleat_status open_receiver(struct carrier *carrier,
                                       const struct job *job,
                                       struct cleat_error *error)
{
    uint32_t slots = least(CLEAT_STORE_SLOTS_DEFAULT, job_buckets(job));
    struct cleat_store_receiver_config config;
    size_t bytes = 0;
    void *block;
    enum cleat_status status = open_end(
        carrier, job, slots, CLEAT_STORE_RECEIVER_KEYS,
        CLEAT_STORE_RECEIVER_JOBS, CLEAT_STORE_RECEIVER_MAILBOXES, error);

    if (status != CLEAT_OK) { return status; }
    config.common = common(carrier, job, slots);
    bytes = cleat_store_receiver_bytes(&config);
    block = memory(bytes);
    if (block == NULL) {
        return cleat_error_set(error, CLEAT_IO, 0, bytes, "no memory");
    }
    return cleat_store_receiver_open(block, bytes, &config, &carrier->receiver,
                                     error);
}

static int open_store_for(struct carrier *carrier, const char *command)
{
    return carrier->own ? open_own(carrier, command)
                        : open_spec(carrier, command);
}

static int told(enum cleat_status status, const struct cleat_error *error,
                const char *command)
{
    return status == CLEAT_OK ? 0 : options_fail(command, "%s", error->text);
}

int carrier_open_sender(struct carrier *carrier, const struct job *job,
                        uint32_t slots, uint32_t receivers, const char *command)
{
    struct cleat_error error;
    int result;

    if (carrier->is_nccl) {
        return carrier_gpu_open_sender(carrier, job, slots, receivers, command);
    }
    if (!carrier->is_store) { return 0; }
    result = open_store_for(carrier, command);
    if (result != 0) { return result; }
    return told(open_sender(carrier, job, slots, receivers, &error), &error,
                command);
}

int carrier_open_receiver(struct carrier *carrier, const struct job *job,
                          const char *command)
{
    struct cleat_error error;
    int result;

    if (carrier->is_nccl) {
        return carrier_gpu_open_receiver(carrier, job, command);
    }
    if (!carrier->is_store) { return 0; }
    result = open_store_for(carrier, command);
    if (result != 0) { return result; }
    return told(open_receiver(carrier, job, &error), &error, command);
}

/* A store that is ready is told where the slots are. */
static enum cleat_status lend(struct carrier *carrier)
{
    const struct cleat_store *store = &carrier->opened.store;
    enum cleat_status status;

    if (carrier->lent || store->lend == NULL) { return CLEAT_OK; }
    status = store->lend(store->context, carrier->slots, carrier->slots_bytes,
                         true, NULL);
    carrier->lent = status == CLEAT_OK;
    return status;
}

enum cleat_status carrier_ready(struct carrier *carrier, uint64_t patience_ns)
{
    enum cleat_status status;

    if (!carrier->is_store) { return CLEAT_OK; }
    status = cleat_transfer_service_ready(
        cleat_local_store_service(carrier->local), now_ns() + patience_ns,
        NULL);
    if (status == CLEAT_OK) { status = lend(carrier); }
    if (status == CLEAT_OK || status == CLEAT_PERMANENT) { return status; }
    return CLEAT_TRANSIENT;
}

const struct cleat_transport_sender *
carrier_sender(const struct carrier *carrier)
{
    return carrier->is_store || carrier->is_nccl ? &carrier->sender : NULL;
}

const struct cleat_transport_receiver *
carrier_receiver(const struct carrier *carrier)
{
    return carrier->is_store || carrier->is_nccl ? &carrier->receiver : NULL;
}

/* ---- the end ------------------------------------------------------------ */

static enum cleat_status sweep(struct carrier *carrier, void *block,
                               struct cleat_error *error)
{
    uint64_t until_ns = now_ns() + SWEEP_NS;
    struct cleat_transfer_service *service;
    enum cleat_status status = open_service(carrier, SWEEP_KEYS, error);

    if (status != CLEAT_OK) { return status; }
    service = cleat_local_store_service(carrier->local);
    status = cleat_transfer_service_ready(service, until_ns, error);
    if (status != CLEAT_OK) { return status; }
    return cleat_store_transport_sweep(block, service, carrier->job_name,
                                       until_ns, NULL, error);
}

/* The block stays where something may be lent: until the process ends. */
void carrier_sweep(struct carrier *carrier, const char *command)
{
    struct cleat_error error;
    void *block;

    if (!carrier->is_store || carrier->opened.store.call == NULL) { return; }
    block = memory(CLEAT_STORE_SWEEP_BYTES);
    if (block == NULL) {
        (void)options_fail(command, "no memory to clean up the store with");
    } else if (sweep(carrier, block, &error) == CLEAT_OK) {
        free(block);
    } else {
        (void)options_fail(command, "%s", error.text);
    }
}

/* What a call that has not come back may touch stays until the process ends. */
static void close_store(struct carrier *carrier)
{
    struct store_opened *opened = &carrier->opened;
    bool returned = true;

    (void)cleat_store_sender_close(&carrier->sender);
    cleat_store_receiver_close(&carrier->receiver);
    if (carrier->threads.context != NULL) {
        cleat_linux_threads_close(&carrier->threads);
    }
    if (carrier->local != NULL) {
        returned = cleat_local_store_close(carrier->local, now_ns() + CLOSE_NS,
                                           NULL) == CLEAT_OK;
        carrier->local = NULL;
    }
    if (!returned) { return; }
    if (carrier->lent) {
        (void)opened->store.lend(opened->store.context, carrier->slots,
                                 carrier->slots_bytes, false, NULL);
        carrier->lent = false;
    }
    store_close(opened);
    if (carrier->fd >= 0) { (void)close(carrier->fd); }
    carrier->fd = -1;
}

/* At exit the driver and NCCL would wait for the device. */
void carrier_leave(int result)
{
    static const char text[] =
        "cleat: the GPU is lost, and the process leaves at once\n";

    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    _exit(result);
}

void carrier_close(struct carrier *carrier, int result)
{
    if (!carrier->is_nccl) {
        close_store(carrier);
    } else if (!carrier_gpu_close(carrier)) {
        carrier_leave(result);
    }
}
