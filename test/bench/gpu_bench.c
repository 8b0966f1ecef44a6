/* Cleat: how fast weights travel between GPUs.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     gpu_bench [--quick] [--receivers N] [--topology broadcast|fan-out]
 *               [--bucket BYTES] [--bytes BYTES] [--turns N]
 *               [--deadline SECONDS] [--register never] [--cuda PATH]
 *               [--nccl PATH]
 *
 * A sender and N receivers, each a process with a device: by default as many
 * receivers as there are further devices, up to 8, and one, on the same
 * device, where there is a single one. In the same run and the same processes:
 *
 *   copies   from one place of a device to another, between pinned memory and
 *            the device, copy + CRC32C on one core
 *   bare     ncclBroadcast (or ncclSend and ncclRecv) of the same buckets, as
 *            many of them under way, with a communicator of its own that does
 *            not block and is polled
 *   ours     the transport of cleat/nccl.h under cleat/stream.h: on the device
 *            with the digest skipped, the slots as they are (which is what the
 *            bare one moves) and from and to weights on the device; and staged
 *            on the host, from and to weights there, digested at both ends
 *   staging  the sender's part of that: copy + CRC32C into pinned slots, and
 *            from there to the device
 *
 * Payload counts once: not once a receiver, and for a copy on the device not
 * once for reading and once for writing. A pass between processes lasts from
 * when the first begins until the last has everything. All that is compared
 * takes turns, and a ratio is the median of the ratios of single turns. Before
 * anything is measured, each way has brought the right bytes to where others
 * had been put.
 *
 * This process orders, and calls neither library: what does not come back by
 * its deadline is killed. Exit code 1 then, 2 when there is nothing to measure
 * with, and one line that says why. */
#define _GNU_SOURCE
#include "gpu_bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "port/cuda/driver.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

#define TURNS 9u
#define TURNS_QUICK 3u
#define BUCKETS_MIN (2 * SLOTS)
#define BUCKETS_MAX 4096u
#define PASS_SECONDS 1.0
#define PASS_SECONDS_QUICK 0.25
#define NCCL_DEVICE_BYTES GIB /* what NCCL may take of a device, a process */
/* Buckets that a process has on its device, and on the host: weights, and the
 * slots of two transports; weights, pinned ones, pinned slots. */
#define BUCKETS_HELD (3 * SLOTS)

/* ---- options ---- */

struct options {
    const char *cuda;
    const char *nccl;
    uint64_t bucket_bytes; /* 0: several */
    uint64_t bytes;        /* a pass; 0: what takes about a second */
    uint32_t receivers;    /* 0: as many as there are devices for */
    uint32_t topology;
    bool quick;
    bool never_registers;
};

static struct options options;

_Noreturn static void usage(const char *what)
{
    give_up(2,
            "%s; usage: [--quick] [--receivers 1..%u] [--topology "
            "broadcast|fan-out] [--bucket BYTES] [--bytes BYTES] [--turns "
            "1..%u] [--deadline SECONDS] [--register never] [--cuda PATH] "
            "[--nccl PATH]",
            what, RANKS_MAX - 1, TURNS_MAX);
}

/* A number, with K, M or G after it where that is allowed. */
static uint64_t number(const char *text, uint64_t min, uint64_t max, bool units)
{
    char *end = NULL;
    uint64_t value;
    unsigned shift = 0;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (units && (*end == 'K' || *end == 'M' || *end == 'G')) {
        shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 30;
        end++;
    }
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' ||
        value > max >> shift || value << shift < min) {
        give_up(2, "'%s' is not a number from %llu to %llu", text,
                (unsigned long long)min, (unsigned long long)max);
    }
    return value << shift;
}

static uint32_t topology_of(const char *name)
{
    if (strcmp(name, "broadcast") == 0) { return CLEAT_NCCL_BROADCAST; }
    if (strcmp(name, "fan-out") == 0) { return CLEAT_NCCL_FAN_OUT; }
    usage("the topology is neither broadcast nor fan-out");
}

static void take_option(const char *name, const char *value)
{
    if (strcmp(name, "--receivers") == 0) {
        options.receivers = (uint32_t)number(value, 1, RANKS_MAX - 1, false);
    } else if (strcmp(name, "--topology") == 0) {
        options.topology = topology_of(value);
    } else if (strcmp(name, "--bucket") == 0) {
        options.bucket_bytes = number(value, 4096, 2 * GIB, true);
        options.bucket_bytes -= options.bucket_bytes % 4096;
    } else if (strcmp(name, "--bytes") == 0) {
        options.bytes = number(value, 1, UINT64_C(1) << 44, true);
    } else if (strcmp(name, "--turns") == 0) {
        results.turns = (uint32_t)number(value, 1, TURNS_MAX, false);
    } else if (strcmp(name, "--deadline") == 0) {
        step_seconds = (uint32_t)number(value, 1, 3600, false);
    } else if (strcmp(name, "--register") == 0) {
        if (strcmp(value, "never") != 0) { usage("--register is not never"); }
        options.never_registers = true;
    } else if (strcmp(name, "--cuda") == 0) {
        options.cuda = value;
    } else if (strcmp(name, "--nccl") == 0) {
        options.nccl = value;
    } else {
        usage("there is no such option");
    }
}

static void take_options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            options.quick = true;
        } else if (i + 1 < argc) {
            take_option(argv[i], argv[i + 1]);
            i++;
        } else {
            usage("there is no such option, or its value is missing");
        }
    }
    if (results.turns == 0) {
        results.turns = options.quick ? TURNS_QUICK : TURNS;
    }
}

/* ---- what there is to measure with ---- */

struct found {
    enum cleat_status status;
    struct cleat_cuda_info cuda;
    struct cleat_nccl_info nccl;
    uint64_t free_bytes[RANKS_MAX]; /* of each device that may be used */
    char text[2 * CLEAT_ERROR_TEXT_MAX + 2];
};

static enum cleat_status look_at_memory(struct found *found,
                                        struct cleat_error *error)
{
    struct cuda_driver driver;
    enum cleat_status status = cuda_driver_load(&driver, options.cuda, error);

    for (uint32_t i = 0;
         status == CLEAT_OK && i < found->cuda.devices_count && i < RANKS_MAX;
         i++) {
        CUdevice device = 0;
        CUcontext context = NULL;
        size_t free_bytes = 0;
        size_t total_bytes = 0;
        CUresult code = driver.p_cuDeviceGet(&device, (int)i);

        if (code == CUDA_SUCCESS) {
            code = driver.p_cuDevicePrimaryCtxRetain(&context, device);
        }
        if (code == CUDA_SUCCESS) { code = driver.p_cuCtxSetCurrent(context); }
        if (code == CUDA_SUCCESS) {
            code = driver.p_cuMemGetInfo(&free_bytes, &total_bytes);
        }
        if (code != CUDA_SUCCESS) {
            return cuda_driver_error(&driver, code, "asking for its memory",
                                     error);
        }
        (void)driver.p_cuCtxSetCurrent(NULL);
        (void)driver.p_cuDevicePrimaryCtxRelease(device);
        found->free_bytes[i] = free_bytes;
    }
    return status;
}

/* In a process of its own: the driver does not work on after a fork. */
static void look(struct found *found)
{
    struct cleat_error cuda;
    struct cleat_error nccl;
    enum cleat_status status = cleat_cuda_look(options.cuda, &found->cuda,
                                               &cuda);
    enum cleat_status other = cleat_nccl_look(options.nccl, &found->nccl,
                                              &nccl);

    if (status == CLEAT_OK) { status = look_at_memory(found, &cuda); }
    (void)snprintf(found->text, sizeof found->text, "%s%s%s",
                   status != CLEAT_OK ? cuda.text : "",
                   status != CLEAT_OK && other != CLEAT_OK ? "; " : "",
                   other != CLEAT_OK ? nccl.text : "");
    found->status = status != CLEAT_OK ? status : other;
}

static struct found find(void)
{
    static struct found found;
    int fd;

    if (ranks_begin(&fd)) {
        look(&found);
        _exit(message_send(fd, &found, sizeof found, NULL) ? 0 : 1);
    }
    ranks_take(0, &found, sizeof found, "looking for CUDA and NCCL");
    ranks_end();
    if (found.status != CLEAT_OK) { give_up(2, "%s", found.text); }
    return found;
}

static uint64_t host_bytes_available(void)
{
    FILE *file = fopen("/proc/meminfo", "r");
    char line[128];
    unsigned long long kib = 0;

    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1) { break; }
    }
    if (file != NULL) { (void)fclose(file); }
    return (uint64_t)kib << 10;
}

/* ---- where the processes are ---- */

struct scene {
    struct found found;
    uint32_t members; /* of a group */
    uint32_t devices; /* that are used */
    uint32_t ranks_a_device;
    bool shared;  /* one device has several */
    bool by_host; /* ... who pretend to be hosts of their own */
};

static struct scene scene;

/* Whether NCCL can be told of slots ahead: all ranks have to, or none. */
static bool can_register(void)
{
    const struct cleat_cuda_info *cuda = &scene.found.cuda;

    for (uint32_t i = 0; i < scene.devices; i++) {
        if (cuda->devices[i].memory_share == 0) { return false; }
    }
    return !options.never_registers && scene.found.nccl.registers != 0;
}

static void make_scene(void)
{
    uint32_t devices;
    uint32_t receivers;

    scene.found = find();
    devices = scene.found.cuda.devices_count;
    receivers = options.receivers;
    if (receivers == 0) { receivers = devices > 1 ? devices - 1 : 1; }
    if (receivers > RANKS_MAX - 1) { receivers = RANKS_MAX - 1; }
    scene.members = receivers + 1;
    scene.devices = devices < scene.members ? devices : scene.members;
    scene.ranks_a_device = (scene.members + scene.devices - 1) / scene.devices;
    scene.shared = scene.members > scene.devices;
    scene.by_host = scene.shared && scene.found.nccl.several_ranks == 0;
}

/* NCCL 2.28 refuses two ranks on one device of one host, but believes who says
 * that it is another host, and then goes over sockets; from 2.30.3 on it can be
 * asked. What the user has set stays. */
static void set_environment(uint32_t rank)
{
    static const char *const by_host[][2] = {
        {"NCCL_SOCKET_IFNAME", "lo"}, {"NCCL_IB_DISABLE", "1"},
        {"NCCL_P2P_DISABLE", "1"},    {"NCCL_SHM_DISABLE", "1"},
        {"NCCL_CUMEM_ENABLE", "0"},   {"NCCL_MAX_NCHANNELS", "8"},
        {"NCCL_ALGO", "Ring"},        {"NCCL_PROTO", "Simple"}};
    char host[32];

    (void)setenv("NCCL_NVLS_ENABLE", "0", 0);
    (void)setenv("NCCL_RAS_ENABLE", "0", 0);
    if (!scene.shared) { return; }
    if (!scene.by_host) {
        (void)setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
        return;
    }
    (void)snprintf(host, sizeof host, "gpu-bench-%u", rank);
    (void)setenv("NCCL_HOSTID", host, 1);
    for (size_t i = 0; i < sizeof by_host / sizeof by_host[0]; i++) {
        (void)setenv(by_host[i][0], by_host[i][1], 0);
    }
}

static const char *digest_name(enum cleat_digest_kind kind)
{
    switch (kind) {
    case CLEAT_DIGEST_WIDE: return "AVX-512 and VPCLMULQDQ";
    case CLEAT_DIGEST_HARDWARE: return "CRC instructions";
    default: return "tables";
    }
}

static void print_head(void)
{
    const struct cleat_cuda_info *cuda = &scene.found.cuda;
    const struct cleat_nccl_info *nccl = &scene.found.nccl;

    printf("driver of CUDA %u.%u; NCCL %u.%u.%u (%s, %s); %u x %s; digest: "
           "%s\n",
           cuda->driver / 1000, cuda->driver % 1000 / 10, nccl->version / 10000,
           nccl->version % 10000 / 100, nccl->version % 100,
           nccl->revoke != 0 ? "revoke" : "no revoke",
           nccl->group_abort != 0 ? "grouped abort" : "no grouped abort",
           cuda->devices_count, cuda->devices[0].name,
           digest_name(cleat_digest_detect()));
    printf("1 sender and %u receiver%s on %u device%s, %s, %u slots%s; %ld "
           "processors\n",
           scene.members - 1, scene.members > 2 ? "s" : "", scene.devices,
           scene.devices > 1 ? "s" : "",
           options.topology == CLEAT_NCCL_BROADCAST ? "broadcast" : "fan-out",
           SLOTS, can_register() ? " registered with NCCL" : "",
           sysconf(_SC_NPROCESSORS_ONLN));
    if (scene.shared) {
        printf("%u processes share a device (%s): their kernels take turns%s; "
               "only ratios mean anything\n",
               scene.ranks_a_device,
               scene.by_host ? "a NCCL_HOSTID each"
                             : "NCCL_MULTI_RANK_GPU_ENABLE=1",
               scene.by_host ? " and NCCL goes over sockets" : "");
    }
}

/* ---- a pass ---- */

static void close_ticket(const struct cleat_transport_ticket *ticket)
{
    for (uint32_t i = 0; i < CLEAT_TRANSPORT_TICKET_FDS; i++) {
        if (ticket->fds[i] >= 0) { (void)close(ticket->fds[i]); }
    }
}

static bool is_ours(enum way way)
{
    return way == WAY_KEPT || way == WAY_DEVICE || way == WAY_STAGED;
}

/* Who makes a pass: one that is a process's own is made by the sender, but what
 * comes off a device by a receiver. */
static uint32_t makers(enum way way)
{
    if (way < WAYS_BETWEEN) { return ALL; }
    return way == WAY_FROM ? 1u << 1 : SENDER;
}

static uint64_t generation;

static void form_generation(enum way way, const char *doing)
{
    struct order order = ranks_order(WORK_PREPARE, way);

    order.generation = ++generation;
    ranks_give(SENDER, &order, doing);
    order.work = WORK_JOIN;
    order.ticket = answers[0].ticket;
    ranks_give(ALL, &order, doing);
    close_ticket(&order.ticket);
    if ((answers[0].registered != 0) != can_register()) {
        give_up(1,
                "the slots of ours are %sregistered, the bare ones are %s: "
                "--register never makes them alike",
                answers[0].registered != 0 ? "" : "not ",
                can_register() ? "" : "not");
    }
}

/* Seconds from when the first began until the last had everything. */
static double pass(enum way way, uint32_t buckets)
{
    struct order order = ranks_order(WORK_PASS, way);
    uint64_t start_ns = UINT64_MAX;
    uint64_t end_ns = 0;
    uint32_t whom = makers(way);

    if (is_ours(way)) { form_generation(way, way_names[way]); }
    order.buckets = buckets;
    order.generation = generation;
    ranks_give(whom, &order, way_names[way]);
    for (uint32_t i = 0; i < scene.members; i++) {
        if ((whom >> i & 1) == 0) { continue; }
        if (answers[i].start_ns < start_ns) { start_ns = answers[i].start_ns; }
        if (answers[i].end_ns > end_ns) { end_ns = answers[i].end_ns; }
        if (way == WAY_STAGED && answers[i].digest != answers[0].digest) {
            give_up(1, "a receiver has another digest: %s", way_names[way]);
        }
    }
    return end_ns > start_ns ? 1e-9 * (double)(end_ns - start_ns) : 1e-9;
}

/* A pass whose bytes are looked at. */
static void proven_pass(enum way way)
{
    struct order order = ranks_order(WORK_POISON, way);

    ranks_give(RECEIVERS, &order,
               "putting other bytes where weights will come");
    (void)pass(way, BUCKETS_MIN);
    order.work = WORK_CHECK;
    ranks_give(RECEIVERS, &order, way_names[way]);
}

/* ---- one size of buckets ---- */

static void open_ranks(uint64_t bucket_bytes)
{
    struct order order = ranks_order(WORK_OPEN, WAY_BARE);
    struct settings settings;

    memset(&settings, 0, sizeof settings);
    settings.cuda = options.cuda;
    settings.nccl = options.nccl;
    settings.bucket_bytes = bucket_bytes;
    settings.step_ns = step_ns();
    settings.receivers = scene.members - 1;
    settings.topology = options.topology;
    settings.registers = can_register();
    settings.digest = cleat_digest_detect();
    for (uint32_t i = 0; i < scene.members; i++) {
        int fd;

        if (ranks_begin(&fd)) {
            settings.rank = i;
            settings.device = i % scene.devices;
            set_environment(i);
            rank_main(&settings, fd);
        }
    }
    ranks_give(ALL, &order, "opening the device");
    order.work = WORK_ID;
    ranks_give(SENDER, &order, "making an id");
    order.work = WORK_MEET;
    memcpy(order.id, answers[0].id, sizeof order.id);
    ranks_give(ALL, &order, "forming the bare communicator");
}

static void close_ranks(void)
{
    struct order order = ranks_order(WORK_CLOSE, WAY_BARE);

    ranks_give(ALL, &order, "closing");
    ranks_end();
}

/* As many buckets as take about a pass's time; as many as were told of. */
static uint32_t buckets_for(uint64_t bucket_bytes, double bucket_seconds)
{
    double seconds = options.quick ? PASS_SECONDS_QUICK : PASS_SECONDS;
    double buckets = seconds / bucket_seconds;

    if (options.bytes != 0) {
        buckets = (double)((options.bytes + bucket_bytes - 1) / bucket_bytes);
        if (buckets < 1) { buckets = 1; }
    } else if (buckets < BUCKETS_MIN) {
        buckets = BUCKETS_MIN;
    }
    return buckets > BUCKETS_MAX ? BUCKETS_MAX : (uint32_t)buckets;
}

/* Decides how long passes are: those that are compared are equally long. */
static void choose_buckets(struct size *size)
{
    double seconds[WAYS_BETWEEN]; /* a bucket */

    for (uint32_t way = 0; way < WAYS_BETWEEN; way++) {
        seconds[way] = pass((enum way)way, BUCKETS_MIN) / BUCKETS_MIN;
        if (way != WAY_STAGED && seconds[way] > seconds[WAY_BARE]) {
            seconds[WAY_BARE] = seconds[way];
        }
    }
    for (uint32_t way = 0; way < WAYS; way++) {
        bool host = way == WAY_STAGED || way > WAY_COPY;

        size->buckets[way] = buckets_for(size->bucket_bytes,
                                         seconds[host ? WAY_STAGED : WAY_BARE]);
    }
}

/* In this order: what is kept are the bytes of the pass before it. */
static void prove(void)
{
    proven_pass(WAY_BARE);
    proven_pass(WAY_DEVICE);
    proven_pass(WAY_KEPT);
    proven_pass(WAY_STAGED);
}

static void measure(struct size *size)
{
    open_ranks(size->bucket_bytes);
    prove();
    choose_buckets(size);
    for (uint32_t turn = 0; turn < results.turns; turn++) {
        for (uint32_t way = 0; way < WAYS; way++) {
            uint32_t buckets = size->buckets[way];
            double seconds = pass((enum way)way, buckets);

            size->rates[way][turn] = 1e-9 * (double)size->bucket_bytes *
                                     buckets / seconds;
        }
    }
    close_ranks();
}

/* ---- which sizes ---- */

/* Of the device that has the least of it. */
static uint64_t device_bytes_free(void)
{
    uint64_t bytes = scene.found.free_bytes[0];

    for (uint32_t i = 1; i < scene.devices; i++) {
        if (scene.found.free_bytes[i] < bytes) {
            bytes = scene.found.free_bytes[i];
        }
    }
    return bytes;
}

static bool fits(uint64_t bucket_bytes, uint64_t spare_bytes)
{
    uint64_t held = BUCKETS_HELD * bucket_bytes;

    return (held + spare_bytes) * scene.ranks_a_device <= device_bytes_free() &&
           held * scene.members <= host_bytes_available() / 10 * 9;
}

static void add_size(uint64_t bucket_bytes)
{
    results.sizes[results.sizes_count++].bucket_bytes = bucket_bytes;
}

static void choose_sizes(void)
{
    uint64_t bucket = CLEAT_NCCL_BUCKET_BYTES_DEFAULT;
    uint64_t held = BUCKETS_HELD * options.bucket_bytes;

    if (options.bucket_bytes != 0) {
        if (!fits(options.bucket_bytes, 0)) {
            give_up(2,
                    "buckets of %llu bytes need %llu bytes of each device and "
                    "%llu of the host: %llu and %llu are free",
                    (unsigned long long)options.bucket_bytes,
                    (unsigned long long)(held * scene.ranks_a_device),
                    (unsigned long long)(held * scene.members),
                    (unsigned long long)device_bytes_free(),
                    (unsigned long long)host_bytes_available());
        }
        add_size(options.bucket_bytes);
        return;
    }
    if (!options.quick) {
        for (bucket = 64 * MIB; bucket < CLEAT_NCCL_BUCKET_BYTES_DEFAULT;
             bucket *= 2) {
            if (fits(bucket, NCCL_DEVICE_BYTES)) { add_size(bucket); }
        }
    } else if (scene.shared) {
        bucket = 64 * MIB; /* slow, and not what is asked of it */
    }
    if (fits(bucket, NCCL_DEVICE_BYTES)) { add_size(bucket); }
    if (results.sizes_count == 0) {
        give_up(2,
                "not enough memory: %llu MiB are free on a device, %llu MiB on "
                "the host; give a smaller --bucket",
                (unsigned long long)(device_bytes_free() / MIB),
                (unsigned long long)(host_bytes_available() / MIB));
    }
}

int main(int argc, char **argv)
{
    take_options(argc, argv);
    make_scene();
    choose_sizes();
    print_head();
    printf("payload counts once: not once a receiver, not once for reading and "
           "once for writing\n");
    fflush(stdout);
    for (uint32_t i = 0; i < results.sizes_count; i++) {
        struct size *size = &results.sizes[i];

        measure(size);
        printf("buckets of %llu KiB: every way brought the right bytes; ours "
               "%.1f %% of bare NCCL\n",
               (unsigned long long)(size->bucket_bytes >> 10),
               100 * ratio_of(size, WAY_KEPT, WAY_BARE));
        fflush(stdout);
    }
    table_print();
    return 0;
}
