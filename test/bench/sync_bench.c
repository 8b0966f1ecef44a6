/* Cleat: how fast weights travel through shared memory.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     sync_bench [--quick] [--mpi PROGRAM]
 *
 * Bytes *delivered* a second: receivers × payload / seconds. Four contenders
 * take turns, and the best of each counts, so that a noisy neighbour hits all:
 *
 *   memcpy, fused   one process, a copy without and with a digest
 *   ceiling         the receivers' processes, each making a fused copy of the
 *                   whole payload by itself, nobody waiting for anybody; and
 *                   the same with stores that go past the caches, which is
 *                   what a receiver's copies do
 *   MPI_Bcast       PROGRAM (mpi_bcast.c) under mpirun; no digests
 *   ours            a trainer and its receivers, each a process, over the
 *                   shared-memory transport; every byte digested twice
 *
 * Source and destination are touched before, for all of them. */
#define _GNU_SOURCE
#define CLEAT_DIGEST_DETECT
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cleat/memory.h"
#include "cleat/memory_tensors.h"
#include "cleat/stream.h"

#define MIB ((size_t)1 << 20)
#define PAYLOAD (256 * MIB)
#define RECEIVERS_MAX 4u
#define SLOTS CLEAT_MEMORY_SLOTS_DEFAULT
#define BUCKET_DEFAULT ((size_t)CLEAT_MEMORY_BUCKET_BYTES_DEFAULT)
#define PASSES 3 /* a turn: of each contender, the best counts */
#define MPI_FLAGS "--oversubscribe --allow-run-as-root"

/* A decoder layer of some hidden size, again and again: 7 matrices, 2 norms. */
#define HIDDEN ((uint64_t)1024)
#define LAYER_TENSORS 9u
static const uint64_t layer[LAYER_TENSORS][2] = {
    {HIDDEN, 1},    {HIDDEN, HIDDEN}, {HIDDEN, HIDDEN / 4},
    {HIDDEN, 256},  {HIDDEN, HIDDEN}, {HIDDEN, 1},
    {HIDDEN, 2816}, {HIDDEN, 2816},   {2816, HIDDEN}};
#define TENSORS_MAX 256u

static enum cleat_digest_kind digest_kind;

static uint64_t now_ns(struct cleat_clock_context *context)
{
    struct timespec t;

    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * CLEAT_NS_PER_S + (uint64_t)t.tv_nsec;
}
static const struct cleat_clock clock_monotonic = {NULL, now_ns};

static double seconds_since(uint64_t start_ns)
{
    return 1e-9 * (double)(now_ns(NULL) - start_ns);
}

static void die(const char *what)
{
    fprintf(stderr, "sync_bench: %s\n", what);
    exit(1);
}

static void must(bool condition, const char *what)
{
    if (!condition) { die(what); }
}

static void *memory(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    must(at != MAP_FAILED, "out of memory");
    return at;
}

static void put(int fd, const void *data, size_t bytes)
{
    must(write(fd, data, bytes) == (ssize_t)bytes, "a process is gone");
}

static bool get(int fd, void *data, size_t bytes)
{
    return read(fd, data, bytes) == (ssize_t)bytes;
}

/* ---- a table of tensors over one block ---- */

struct table {
    struct cleat_memory_tensor rows[TENSORS_MAX];
    char names[TENSORS_MAX][16];
    uint64_t ends[TENSORS_MAX];
    struct cleat_memory_tensors tensors;
    struct cleat_plan plan;
    uint64_t bytes;
};

static void table_make(struct table *table, unsigned char *data, size_t bucket)
{
    uint64_t at = 0;
    uint32_t count = 0;

    memset(table, 0, sizeof *table);
    must(cleat_plan_begin(&table->plan, table->ends, TENSORS_MAX,
                          (uint32_t)bucket, NULL) == CLEAT_OK,
         "no plan");
    for (;; count++) {
        const uint64_t *shape = layer[count % LAYER_TENSORS];
        uint64_t bytes = 2 * shape[0] * shape[1];

        must(count < TENSORS_MAX, "the table is too small");
        if (at + bytes > PAYLOAD) { break; }
        snprintf(table->names[count], sizeof table->names[0], "t.%u", count);
        table->rows[count].name = table->names[count];
        table->rows[count].dtype = CLEAT_DTYPE_BF16;
        table->rows[count].rank = 2;
        table->rows[count].shape[0] = shape[0];
        table->rows[count].shape[1] = shape[1];
        table->rows[count].data = data + at;
        must(cleat_plan_add(&table->plan, bytes) == CLEAT_OK, "no plan");
        at += bytes;
    }
    cleat_plan_end(&table->plan);
    table->bytes = at;
    must(cleat_memory_tensors_init(&table->tensors, table->rows, count, NULL) ==
             CLEAT_OK,
         "no tensors");
}

/* ---- ours, and the ceiling ---- */

enum work { WORK_RECEIVE, WORK_COPY, WORK_COPY_COLD };

/* What a receiver's process is told to do. */
struct order {
    enum work work;
    uint64_t generation;
    struct cleat_transport_ticket ticket;
};

struct team {
    unsigned char *weights;
    uint32_t receivers;
    size_t bucket;
    pid_t pids[RECEIVERS_MAX];
    int orders[RECEIVERS_MAX];
    int answers[RECEIVERS_MAX]; /* "ready", then the digest, come back */
    struct table table;
    struct cleat_transport_sender sender;
    uint64_t generation;
    uint32_t weights_digest;
    _Alignas(64) unsigned char block[CLEAT_MEMORY_SENDER_BYTES];
    _Alignas(8) unsigned char pipeline[CLEAT_PIPELINE_BYTES(RECEIVERS_MAX)];
};

/* One process copies by itself. */
static void copy_once(enum work work, unsigned char *to,
                      const unsigned char *from, int answers)
{
    uint32_t crc = 0;

    for (size_t at = 0; at < PAYLOAD; at += BUCKET_DEFAULT) {
        crc = work == WORK_COPY
                  ? cleat_crc32c_copy_with(digest_kind, crc, to + at, from + at,
                                           BUCKET_DEFAULT)
                  : cleat_crc32c_copy_cold_with(digest_kind, crc, to + at,
                                                from + at, BUCKET_DEFAULT);
    }
    put(answers, &crc, sizeof crc);
}

static void receive_once(struct cleat_transport_receiver *receiver,
                         struct table *table, struct order *order,
                         uint32_t index, int answers)
{
    struct cleat_tensor_sink sink = cleat_memory_tensors_sink(&table->tensors);
    struct cleat_stream_receiving with;
    struct cleat_stream_report report;
    struct cleat_error error;

    /* A channel would have passed them; here they were inherited. */
    for (int i = 0; i < 2; i++) {
        order->ticket.fds[i] = dup(order->ticket.fds[i]);
    }
    must(receiver->join(receiver->context, &order->ticket, index,
                        CLEAT_NEVER) == CLEAT_OK,
         "a receiver could not join");
    put(answers, "j", 1);
    memset(&with, 0, sizeof with);
    with.transport = receiver;
    with.sink = &sink;
    with.plan = &table->plan;
    with.clock = &clock_monotonic;
    with.generation = order->generation;
    with.digest_kind = digest_kind;
    if (cleat_stream_receive(&with, &report, &error) != CLEAT_OK) {
        die(error.text);
    }
    receiver->leave(receiver->context);
    put(answers, &report.digest, sizeof report.digest);
}

static void receiver_main(uint32_t index, const unsigned char *weights,
                          size_t bucket, int orders, int answers)
{
    static _Alignas(64) unsigned char block[CLEAT_MEMORY_RECEIVER_BYTES];
    static const struct cleat_memory_receiver_config config;
    static struct table table;
    struct cleat_transport_receiver receiver;
    struct order order;
    unsigned char *data = memory(PAYLOAD);

    memset(data, 1, PAYLOAD);
    table_make(&table, data, bucket);
    must(cleat_memory_receiver_open(block, sizeof block, &config, &receiver,
                                    NULL) == CLEAT_OK,
         "no receiver");
    while (get(orders, &order, sizeof order)) {
        if (order.work == WORK_RECEIVE) {
            receive_once(&receiver, &table, &order, index, answers);
        } else {
            copy_once(order.work, data, weights, answers);
        }
    }
    cleat_memory_receiver_close(&receiver);
    exit(0);
}

static void team_start(struct team *team, unsigned char *weights,
                       uint32_t receivers, size_t bucket)
{
    struct cleat_memory_sender_config config;
    struct cleat_error error;

    memset(team, 0, sizeof *team);
    memset(&config, 0, sizeof config);
    team->weights = weights;
    team->receivers = receivers;
    team->bucket = bucket;
    team->weights_digest = cleat_crc32c_with(digest_kind, 0, weights, PAYLOAD);
    table_make(&team->table, weights, bucket);
    config.bucket_bytes = bucket;
    config.slots_count = SLOTS;
    if (cleat_memory_sender_open(team->block, sizeof team->block, &config,
                                 &team->sender, &error) != CLEAT_OK) {
        die(error.text);
    }
    for (uint32_t i = 0; i < receivers; i++) {
        int orders[2];
        int answers[2];

        must(pipe2(orders, O_CLOEXEC) == 0 && pipe2(answers, O_CLOEXEC) == 0,
             "no pipes");
        fflush(stdout);
        team->pids[i] = fork();
        must(team->pids[i] >= 0, "no process");
        if (team->pids[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (uint32_t k = 0; k < i; k++) { close(team->orders[k]); }
            close(orders[1]);
            close(answers[0]);
            receiver_main(i, weights, bucket, orders[0], answers[1]);
        }
        close(orders[0]);
        close(answers[1]);
        team->orders[i] = orders[1];
        team->answers[i] = answers[0];
    }
}

static void team_order(const struct team *team, const struct order *order)
{
    for (uint32_t i = 0; i < team->receivers; i++) {
        put(team->orders[i], order, sizeof *order);
    }
}

/* Each receiver's digest comes back. */
static void team_answers(const struct team *team, uint32_t digest)
{
    for (uint32_t i = 0; i < team->receivers; i++) {
        uint32_t answer;

        must(get(team->answers[i], &answer, sizeof answer) && answer == digest,
             "a receiver holds other bytes");
    }
}

static double copy_pass(struct team *team, enum work work)
{
    uint64_t start_ns;
    struct order order;

    memset(&order, 0, sizeof order);
    order.work = work;
    start_ns = now_ns(NULL);
    team_order(team, &order);
    team_answers(team, team->weights_digest);
    return seconds_since(start_ns);
}

/* Everybody has joined, the clock starts; everybody has acknowledged the last
 * bucket, and the clock stops. */
static double team_pass(struct team *team)
{
    struct cleat_tensor_source source = cleat_memory_tensors_source(
        &team->table.tensors);
    struct cleat_stream_result results[RECEIVERS_MAX];
    struct cleat_stream_sending with;
    struct cleat_stream_report report;
    struct cleat_error error;
    struct order order;
    uint64_t start_ns;
    double seconds;
    char joined;

    memset(&order, 0, sizeof order);
    order.work = WORK_RECEIVE;
    order.generation = ++team->generation;
    must(team->sender.prepare(team->sender.context, order.generation,
                              team->receivers, &order.ticket) == CLEAT_OK,
         "no generation");
    team_order(team, &order);
    for (uint32_t i = 0; i < team->receivers; i++) {
        must(get(team->answers[i], &joined, 1), "a receiver is gone");
    }
    memset(&with, 0, sizeof with);
    with.transport = &team->sender;
    with.source = &source;
    with.plan = &team->table.plan;
    with.clock = &clock_monotonic;
    with.block = team->pipeline;
    with.block_bytes = sizeof team->pipeline;
    with.generation = order.generation;
    with.receivers_count = team->receivers;
    start_ns = now_ns(NULL);
    if (cleat_stream_send(&with, results, &report, &error) != CLEAT_OK) {
        die(error.text);
    }
    seconds = seconds_since(start_ns);
    for (uint32_t i = 0; i < team->receivers; i++) {
        must(results[i].status == CLEAT_OK, "a receiver was dropped");
    }
    team_answers(team, report.digest);
    team->sender.finish(team->sender.context);
    return seconds;
}

static void team_stop(struct team *team)
{
    for (uint32_t i = 0; i < team->receivers; i++) {
        int status = 0;

        close(team->orders[i]);
        close(team->answers[i]);
        waitpid(team->pids[i], &status, 0);
        must(status == 0, "a receiver failed");
    }
    cleat_memory_sender_close(&team->sender);
}

/* ---- the baseline ---- */

/* Seconds of its best pass; 0 when it could not run. */
static double mpi_run(const char *program, uint32_t receivers, size_t bucket,
                      int passes)
{
    char command[1024];
    double seconds = 0;
    FILE *out;

    if (program == NULL) { return 0; }
    snprintf(command, sizeof command, "mpirun %s -n %u '%s' %zu %zu %d",
             MPI_FLAGS, receivers + 1, program, (size_t)PAYLOAD, bucket,
             passes);
    fflush(stdout);
    out = popen(command, "r");
    if (out == NULL) { return 0; }
    if (fscanf(out, "%lf", &seconds) != 1) { seconds = 0; }
    if (pclose(out) != 0) { seconds = 0; }
    return seconds;
}

/* ---- a cell of the table ---- */

struct cell { /* delivered GB/s */
    double ceiling;
    double cold; /* the ceiling past the caches */
    double mpi;
    double ours;
};

static void keep_best(double *best, double bytes, double seconds)
{
    double rate = seconds > 0 ? 1e-9 * bytes / seconds : 0;

    if (rate > *best) { *best = rate; }
}

static struct cell measure(unsigned char *weights, const char *mpi,
                           uint32_t receivers, size_t bucket, int turns)
{
    static struct team team;
    struct cell cell = {0, 0, 0, 0};
    double bytes = (double)PAYLOAD * receivers;

    team_start(&team, weights, receivers, bucket);
    (void)team_pass(&team); /* warms up */
    for (int turn = 0; turn < turns; turn++) {
        for (int pass = 0; pass < PASSES; pass++) {
            keep_best(&cell.ceiling, bytes, copy_pass(&team, WORK_COPY));
            keep_best(&cell.ours, (double)team.table.bytes * receivers,
                      team_pass(&team));
            keep_best(&cell.cold, bytes, copy_pass(&team, WORK_COPY_COLD));
        }
        keep_best(&cell.mpi, bytes, mpi_run(mpi, receivers, bucket, PASSES));
    }
    team_stop(&team);
    return cell;
}

static void print_cell(uint32_t receivers, size_t bucket,
                       const struct cell *cell)
{
    printf("%9u %6zu MiB %9.2f %7.2f %10.2f %7.2f %11.0f %%", receivers,
           bucket / MIB, cell->ceiling, cell->cold, cell->mpi, cell->ours,
           100 * cell->ours / cell->ceiling);
    if (cell->mpi > 0) {
        printf(" %13.2f", cell->ours / cell->mpi);
    } else {
        printf(" %13s", "-");
    }
    printf("\n");
    fflush(stdout);
}

static void print_copies(unsigned char *weights)
{
    unsigned char *to = memory(PAYLOAD);
    double copy = 0;
    double fused = 0;
    volatile uint32_t crc = 0;

    memset(to, 1, PAYLOAD);
    for (int i = 0; i < 3; i++) {
        uint64_t start_ns = now_ns(NULL);

        for (size_t at = 0; at < PAYLOAD; at += BUCKET_DEFAULT) {
            memcpy(to + at, weights + at, BUCKET_DEFAULT);
        }
        keep_best(&copy, PAYLOAD, seconds_since(start_ns));
        start_ns = now_ns(NULL);
        for (size_t at = 0; at < PAYLOAD; at += BUCKET_DEFAULT) {
            crc = cleat_crc32c_copy_with(digest_kind, crc, to + at,
                                         weights + at, BUCKET_DEFAULT);
        }
        keep_best(&fused, PAYLOAD, seconds_since(start_ns));
    }
    printf("one process: memcpy %.2f GB/s, copy + digest %.2f GB/s (%zu MiB, "
           "in pieces of %zu)\n",
           copy, fused, PAYLOAD / MIB, BUCKET_DEFAULT / MIB);
    munmap(to, PAYLOAD);
}

static const char *pages_of_slots(void)
{
    static _Alignas(64) unsigned char block[CLEAT_MEMORY_SENDER_BYTES];
    static const struct cleat_memory_sender_config config;
    struct cleat_transport_sender sender;
    enum cleat_memory_pages_got got;

    must(cleat_memory_sender_open(block, sizeof block, &config, &sender,
                                  NULL) == CLEAT_OK,
         "no shared memory");
    got = cleat_memory_sender_pages(&sender);
    cleat_memory_sender_close(&sender);
    switch (got) {
    case CLEAT_MEMORY_GOT_RESERVED: return "reserved huge pages";
    case CLEAT_MEMORY_GOT_TRANSPARENT: return "transparent huge pages";
    default: return "small pages";
    }
}

int main(int argc, char **argv)
{
    static const uint32_t receivers[] = {1, 2, 4};
    const char *mpi = NULL;
    bool quick = false;
    struct cell cell = {0, 0, 0, 0};
    unsigned char *weights;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            quick = true;
        } else if (strcmp(argv[i], "--mpi") == 0 && i + 1 < argc) {
            mpi = argv[++i];
        } else {
            fprintf(stderr,
                    "sync_bench: '%s' is neither --quick nor --mpi "
                    "PROGRAM\n",
                    argv[i]);
            return 2;
        }
    }
    digest_kind = cleat_digest_detect();
    weights = memory(PAYLOAD);
    for (size_t i = 0; i < PAYLOAD; i += sizeof(uint64_t)) {
        uint64_t word = i * UINT64_C(0x9E3779B97F4A7C15);

        memcpy(weights + i, &word, sizeof word);
    }
    print_copies(weights);
    printf("%ld processors; %u slots in %s; mpirun %s\n",
           sysconf(_SC_NPROCESSORS_ONLN), SLOTS, pages_of_slots(), MPI_FLAGS);
    printf("delivered GB/s (receivers x payload / seconds), best of turns;\n"
           "ceiling: as many copies + digests that wait for nobody, cold: the "
           "same\npast the caches:\n");
    printf("receivers     bucket   ceiling    cold  MPI_Bcast    ours  of "
           "ceiling  of MPI_Bcast\n");
    if (!quick) {
        for (size_t r = 0; r < 3; r++) {
            for (size_t bucket = MIB; bucket <= 64 * MIB; bucket *= 2) {
                if (receivers[r] == 4 && bucket == BUCKET_DEFAULT) { continue; }
                cell = measure(weights, mpi, receivers[r], bucket, 2);
                print_cell(receivers[r], bucket, &cell);
            }
        }
    }
    cell = measure(weights, mpi, 4, BUCKET_DEFAULT, 3);
    print_cell(4, BUCKET_DEFAULT, &cell);
    if (cell.mpi > 0) {
        printf("ratio to MPI_Bcast: %.2f\n", cell.ours / cell.mpi);
    } else {
        printf("ratio to MPI_Bcast: not measured (no mpirun, or it failed)\n");
    }
    return 0;
}
