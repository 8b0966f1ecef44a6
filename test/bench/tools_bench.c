/* Cleat: how fast tool lists are got. SPDX-License-Identifier: Apache-2.0
 *
 * Hits of the tool service, one source a config: what a pin and a copy cost at
 * 1, 10 and 100 tools beside a bare memcpy of the same bytes, and how many of
 * them 1, 2, 4 and 8 threads make, beside the plain way: one mutex, a search by
 * path, a memcpy while it is held. Copies go into memory of their own, as those
 * of a trainer do: RING_BYTES are gone through in turn by each thread; or all
 * into one block, that stays in the cache. Each number is the best of several
 * rounds that take turns, so that a noisy neighbour hits all of them.
 *
 *     tools_bench [--rounds N] [--cold NODE NPM [LOADS]]
 *
 * --cold times loads of server-everything over stdio, from npm packages under
 * NPM, through port/mcp: from asking to the list, and to the end of its
 * process. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cleat/linux.h"
#include "cleat/tool_service.h"
#include "tool_loader.h"
#if defined(TOOLS_BENCH_COLD)
#include "cleat/local_tools.h"
#endif

#define ROUNDS_DEFAULT 7u
#define THREADS_MAX 8u
#define RING_BYTES ((size_t)64 << 20)
#define DEFINITION_BYTES 640u /* about what a tool of server-everything has */

enum { SIZES = 3, WIDTHS = 4 };
static const uint32_t sizes[SIZES] = {1, 10, 100};
static const uint32_t widths[WIDTHS] = {1, 2, 4, 8};
static const char path[] = "/home/trainer/config/tools/a";

static uint64_t now(void)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context);
}

_Noreturn static void give_up(const char *why)
{
    fprintf(stderr, "tools_bench: %s\n", why);
    exit(1);
}

/* ---- a service ---------------------------------------------------------- */

struct bench {
    struct cleat_threads threads;
    struct cleat_mailbox mailbox;
    struct cleat_mailbox *callers;
    struct tool_loader loader;
    struct cleat_tool_service *service;
    struct cleat_tool_list list; /* pinned */
    void *blocks;                /* all of its memory */
    size_t bytes;                /* of the list */
};

static void *take(size_t bytes)
{
    void *block = aligned_alloc(64, (bytes + 63) & ~(size_t)63);

    if (block == NULL) { give_up("no memory"); }
    return block;
}

static void open_bench(struct bench *bench, uint32_t tools)
{
    struct cleat_tool_service_config config = {
        .calls_max = CLEAT_TOOL_CACHE_NOBODY};
    struct cleat_linux_threads_config one = {1, 1};
    struct cleat_service_ports ports = {.clock = cleat_linux_clock()};
    struct cleat_loader loader;
    size_t bytes = cleat_tool_service_bytes(&config);
    uint32_t messages;
    uint32_t mailboxes;

    memset(bench, 0, sizeof *bench);
    cleat_tool_service_needs(&config, &messages, &mailboxes);
    bench->callers = calloc(mailboxes, sizeof *bench->callers);
    if (bench->callers == NULL ||
        cleat_linux_threads_init(take(cleat_linux_threads_bytes(&one)),
                                 cleat_linux_threads_bytes(&one), &one,
                                 &bench->threads, NULL) != CLEAT_OK ||
        cleat_linux_mailbox_init(take(cleat_linux_mailbox_bytes(messages)),
                                 cleat_linux_mailbox_bytes(messages), messages,
                                 &bench->mailbox, NULL) != CLEAT_OK) {
        give_up("no thread or mailbox");
    }
    for (uint32_t i = 0; i < mailboxes; i++) {
        if (cleat_linux_mailbox_init(take(cleat_linux_mailbox_bytes(1)),
                                     cleat_linux_mailbox_bytes(1), 1,
                                     &bench->callers[i], NULL) != CLEAT_OK) {
            give_up("no mailbox");
        }
    }
    bench->loader.mailbox = bench->mailbox;
    bench->loader.tools = tools;
    bench->loader.definition_bytes = DEFINITION_BYTES;
    ports.threads = bench->threads;
    ports.mailbox = bench->mailbox;
    loader = tool_loader_port(&bench->loader);
    if (!tool_loader_begin(&bench->loader) ||
        cleat_tool_service_init(take(bytes), bytes, &config, &ports,
                                bench->callers, &loader, 1, &bench->service,
                                NULL) != CLEAT_OK ||
        cleat_tools_get(bench->service, path, CLEAT_NEVER, &bench->list,
                        NULL) != CLEAT_OK) {
        give_up("no list");
    }
    bench->bytes = cleat_tool_list_bytes(&bench->list);
}

/* Memory is the process's, which ends soon. */
static void close_bench(struct bench *bench)
{
    cleat_tools_unpin(&bench->list);
    (void)cleat_tool_service_close(bench->service, CLEAT_NEVER);
    tool_loader_end(&bench->loader);
    cleat_linux_threads_close(&bench->threads);
}

/* ---- what is measured --------------------------------------------------- */

/* The plain way. */
struct plain {
    pthread_mutex_t lock;
    struct {
        char path[64];
        const void *block;
        size_t bytes;
    } lists[16];
};

static struct plain plain = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void plain_get(const char *wanted, void *block)
{
    (void)pthread_mutex_lock(&plain.lock);
    for (uint32_t i = 0; i < 16; i++) {
        if (strcmp(plain.lists[i].path, wanted) != 0) { continue; }
        memcpy(block, plain.lists[i].block, plain.lists[i].bytes);
        break;
    }
    (void)pthread_mutex_unlock(&plain.lock);
}

static void plain_fill(const struct bench *bench)
{
    for (uint32_t i = 0; i < 16; i++) {
        (void)snprintf(plain.lists[i].path, sizeof plain.lists[i].path,
                       "/home/trainer/config/tools/%u", (unsigned)i);
    }
    (void)snprintf(plain.lists[7].path, sizeof plain.lists[7].path, "%s", path);
    plain.lists[7].block = bench->list.parts[0].tools;
    plain.lists[7].bytes = cleat_tools_bytes(bench->list.parts[0].tools);
}

enum what { PIN, COPYING, PLAIN, COPY_ALONE, MEMCPY, WHATS };

/* A memcpy that nothing sees through. */
static void *(*volatile copy_bytes)(void *, const void *, size_t) = memcpy;

/* Where the next copy goes. */
struct target {
    unsigned char *memory;
    size_t bytes; /* of it that are used; 0: always the same block */
    size_t at;
};

static void *next_block(struct target *target, size_t bytes)
{
    unsigned char *block = target->memory + target->at;

    if (target->bytes == 0) { return target->memory; }
    target->at += (bytes + 63) & ~(size_t)63;
    if (target->at + bytes > target->bytes) { target->at = 0; }
    return block;
}

static void once(struct bench *bench, enum what what, struct target *target)
{
    void *block = what != PIN ? next_block(target, bench->bytes) : NULL;
    struct cleat_tool_list list;
    struct cleat_tool_list copy;

    switch (what) {
    case PIN:
        if (cleat_tools_get(bench->service, path, 0, &list, NULL) != CLEAT_OK) {
            give_up("a hit was none");
        }
        cleat_tools_unpin(&list);
        break;
    case COPYING:
        if (cleat_tools_get(bench->service, path, 0, &list, NULL) != CLEAT_OK) {
            give_up("a hit was none");
        }
        (void)cleat_tool_list_copy(&list, block, bench->bytes, &copy, NULL);
        cleat_tools_unpin(&list);
        break;
    case PLAIN: plain_get(path, block); break;
    case COPY_ALONE:
        (void)cleat_tool_list_copy(&bench->list, block, bench->bytes, &copy,
                                   NULL);
        break;
    default:
        (void)copy_bytes(block, bench->list.parts[0].tools,
                         cleat_tools_bytes(bench->list.parts[0].tools));
        break;
    }
}

/* Nanoseconds each. */
static double time_of(struct bench *bench, enum what what,
                      struct target *target, uint64_t for_ns)
{
    uint64_t count = 0;
    uint64_t began = now();
    uint64_t ended;

    do {
        for (uint32_t i = 0; i < 1000; i++) { once(bench, what, target); }
        count += 1000;
        ended = now();
    } while (ended - began < for_ns);
    return (double)(ended - began) / (double)count;
}

static void keep_least(double *best, double value)
{
    if (*best == 0 || value < *best) { *best = value; }
}

/* ---- one thread --------------------------------------------------------- */

static void print_sizes(const struct bench *benches, double best[SIZES][WHATS],
                        const char *where)
{
    printf("copies go %s\n"
           "  tools   bytes     pin   copying hit   copy alone    memcpy   "
           "mutex + memcpy   copying hit : memcpy\n",
           where);
    for (uint32_t s = 0; s < SIZES; s++) {
        printf("%7u %7zu %7.1f %13.1f %12.1f %9.1f %16.1f %22.2f\n",
               (unsigned)sizes[s], benches[s].bytes, best[s][PIN],
               best[s][COPYING], best[s][COPY_ALONE], best[s][MEMCPY],
               best[s][PLAIN], best[s][COPYING] / best[s][MEMCPY]);
    }
    printf("  pin, 100 tools : 1 tool = %.2f\n\n",
           best[SIZES - 1][PIN] / best[0][PIN]);
}

static void measure_sizes(uint32_t rounds)
{
    static struct bench benches[SIZES];
    static const char *const wheres[] = {
        "into memory of their own, 64 MiB in turn", "into one block"};
    double best[2][SIZES][WHATS] = {{{0}}};
    struct target target = {take(RING_BYTES), RING_BYTES, 0};

    memset(target.memory, 0, RING_BYTES);
    for (uint32_t s = 0; s < SIZES; s++) { open_bench(&benches[s], sizes[s]); }
    for (uint32_t turn = 0; turn < 2 * rounds; turn++) {
        uint32_t where = turn % 2;

        target.bytes = where == 0 ? RING_BYTES : 0;
        target.at = 0;
        for (uint32_t s = 0; s < SIZES; s++) {
            plain_fill(&benches[s]);
            for (enum what what = PIN; what < WHATS; what++) {
                keep_least(
                    &best[where][s][what],
                    time_of(&benches[s], what, &target, 20 * CLEAT_NS_PER_MS));
            }
        }
    }
    printf("one thread, ns a list, best of %u rounds; ", (unsigned)rounds);
    for (uint32_t where = 0; where < 2; where++) {
        print_sizes(benches, best[where], wheres[where]);
    }
    free(target.memory);
    for (uint32_t s = 0; s < SIZES; s++) { close_bench(&benches[s]); }
}

/* ---- several ------------------------------------------------------------ */

struct runner {
    pthread_t thread;
    struct bench *bench;
    enum what what;
    uint64_t count;
};

static atomic_bool runs;
static pthread_barrier_t start_line;

static void *run(void *context)
{
    struct runner *runner = context;
    struct target target = {take(RING_BYTES), RING_BYTES, 0};
    uint64_t count = 0;

    memset(target.memory, 0, RING_BYTES);
    (void)pthread_barrier_wait(&start_line);
    while (atomic_load_explicit(&runs, memory_order_relaxed)) {
        once(runner->bench, runner->what, &target);
        count++;
    }
    runner->count = count;
    free(target.memory);
    return NULL;
}

/* Millions a second, of all threads together. */
static double rate_of(struct bench *bench, enum what what, uint32_t threads)
{
    struct runner runners[THREADS_MAX];
    uint64_t count = 0;
    uint64_t began;
    uint64_t took;

    (void)pthread_barrier_init(&start_line, NULL, threads + 1);
    atomic_store(&runs, true);
    for (uint32_t i = 0; i < threads; i++) {
        runners[i].bench = bench;
        runners[i].what = what;
        if (pthread_create(&runners[i].thread, NULL, run, &runners[i]) != 0) {
            give_up("no thread");
        }
    }
    (void)pthread_barrier_wait(&start_line);
    began = now();
    (void)usleep(100000);
    atomic_store(&runs, false);
    took = now() - began;
    for (uint32_t i = 0; i < threads; i++) {
        (void)pthread_join(runners[i].thread, NULL);
        count += runners[i].count;
    }
    (void)pthread_barrier_destroy(&start_line);
    return (double)count * 1e3 / (double)took;
}

static void measure_threads(uint32_t rounds)
{
    static const char *const names[] = {"pin", "copying hit", "mutex + memcpy"};
    static struct bench bench;
    double best[3][WIDTHS] = {{0}};

    open_bench(&bench, 10);
    plain_fill(&bench);
    for (uint32_t round = 0; round < rounds; round++) {
        for (uint32_t t = 0; t < WIDTHS; t++) {
            for (enum what what = PIN; what <= PLAIN; what++) {
                double rate = rate_of(&bench, what, widths[t]);

                if (rate > best[what][t]) { best[what][t] = rate; }
            }
        }
    }
    printf("10 tools (%zu bytes), millions of lists a second on %ld "
           "processors, best of %u rounds\n  threads          ",
           bench.bytes, sysconf(_SC_NPROCESSORS_ONLN), (unsigned)rounds);
    for (uint32_t t = 0; t < WIDTHS; t++) {
        printf("%9u", (unsigned)widths[t]);
    }
    for (uint32_t what = 0; what < 3; what++) {
        printf("\n  %-17s", names[what]);
        for (uint32_t t = 0; t < WIDTHS; t++) {
            printf("%9.2f", best[what][t]);
        }
    }
    printf("\n  copying : mutex  ");
    for (uint32_t t = 0; t < WIDTHS; t++) {
        printf("%9.2f", best[COPYING][t] / best[PLAIN][t]);
    }
    printf("\n\n");
    close_bench(&bench);
}

/* ---- cold --------------------------------------------------------------- */

#if defined(TOOLS_BENCH_COLD)
#define LOADS_MAX 100u

static int by_size(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;

    return (difference > 0) - (difference < 0);
}

static double median(double *values, uint32_t count)
{
    qsort(values, count, sizeof *values, by_size);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

/* Writes the config, where it is to be removed. */
static void write_config(char *file, const char *node, const char *npm)
{
    int descriptor = mkstemp(file);
    FILE *out = descriptor >= 0 ? fdopen(descriptor, "w") : NULL;

    if (out == NULL) { give_up("no file for the config"); }
    fprintf(out,
            "{\"mcpServers\": {\"everything\": {\"command\": \"%s\", \"args\": "
            "[\"%s/node_modules/@modelcontextprotocol/server-everything/dist/"
            "index.js\", \"stdio\"]}}}\n",
            node, npm);
    if (fclose(out) != 0) { give_up("no room for the config"); }
}

static uint32_t load_once(const char *file, void *block, size_t bytes,
                          double *total_ms, double *listed_ms)
{
    struct cleat_local_tools_config config;
    struct cleat_local_tools *tools;
    struct cleat_tool_list list;
    struct cleat_error error;
    uint64_t began = now();
    uint64_t listed;
    uint32_t count;

    memset(&config, 0, sizeof config);
    if (cleat_local_tools_open(block, bytes, &config, &tools, &error) !=
            CLEAT_OK ||
        cleat_tools_get(cleat_local_tools_service(tools), file,
                        now() + 60 * CLEAT_NS_PER_S, &list,
                        &error) != CLEAT_OK) {
        give_up(error.text);
    }
    listed = now();
    count = list.tools;
    cleat_tools_unpin(&list);
    cleat_local_tools_close(tools);
    *listed_ms = (double)(listed - began) / 1e6;
    *total_ms = (double)(now() - began) / 1e6;
    return count;
}

static void measure_cold(const char *node, const char *npm, uint32_t loads)
{
    char file[] = "/tmp/cleat_tools_bench_XXXXXX";
    size_t bytes = cleat_local_tools_bytes(NULL);
    void *block = take(bytes);
    double total[LOADS_MAX];
    double listed[LOADS_MAX];
    uint32_t tools = 0;

    write_config(file, node, npm);
    /* The first fills the caches. */
    (void)load_once(file, block, bytes, &total[0], &listed[0]);
    for (uint32_t i = 0; i < loads; i++) {
        tools = load_once(file, block, bytes, &total[i], &listed[i]);
        printf("load cleat %u %.1f %.1f %u\n", (unsigned)(i + 1), total[i],
               listed[i], (unsigned)tools);
    }
    (void)unlink(file);
    printf("cold_load cleat loads=%u tools=%u total_ms=%.1f listed_ms=%.1f ",
           (unsigned)loads, (unsigned)tools, median(total, loads),
           median(listed, loads));
    printf("listed_ms_min=%.1f listed_ms_max=%.1f\n", listed[0],
           listed[loads - 1]);
    free(block);
}
#endif

int main(int argc, char **argv)
{
    uint32_t rounds = ROUNDS_DEFAULT;
    int at = 1;

    if (argc > 2 && strcmp(argv[1], "--rounds") == 0) {
        rounds = (uint32_t)strtoul(argv[2], NULL, 10);
        if (rounds == 0) { give_up("--rounds: at least 1"); }
        at = 3;
    }
#if defined(TOOLS_BENCH_COLD)
    if (argc >= at + 3 && strcmp(argv[at], "--cold") == 0) {
        unsigned long loads = argc > at + 3 ? strtoul(argv[at + 3], NULL, 10)
                                            : 5;

        if (loads == 0 || loads > LOADS_MAX) { give_up("--cold: 1 … 100"); }
        measure_cold(argv[at + 1], argv[at + 2], (uint32_t)loads);
        return 0;
    }
#endif
    if (at != argc) {
        give_up("usage: tools_bench [--rounds N] [--cold NODE NPM [LOADS]]");
    }
    measure_sizes(rounds);
    measure_threads(rounds);
    return 0;
}
