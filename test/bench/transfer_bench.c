/* Cleat: how fast batches go through a store. SPDX-License-Identifier:
 * Apache-2.0
 *
 *     transfer_bench [--quick]
 *
 * Values of 64 KiB to 4 MiB, 1 GiB of them, are put into the store in memory
 * and got from it through the blocking calls, with frames and digests. Beside
 * each: memcpy, the bare fused copy + CRC32C of the same bytes, value by value
 * (cleat_crc32c_copy_with, and the same past the caches), and the store's own
 * calls without a service; by as many threads. Then the same while a tenth of
 * all keys fail once, and what a small key costs, from 10 keys to 100 000.
 *
 * Everything lies in memory that has been written before, and each size runs
 * once unmeasured. All that is compared takes turns, and a ratio is the median
 * of the ratios of single turns, so that a noisy neighbour hits both. */
#define _GNU_SOURCE
#define CLEAT_DIGEST_DETECT
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cleat/local_store.h"
#include "cleat/memory_store.h"
#include "cleat/store_faults.h"

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

#define WORKING_SET_BYTES GIB
#define VALUE_BYTES_MIN (64 * KIB)
#define SMALL_BYTES 64u
#define KEYS_MAX 100000u
#define KEY_BYTES 12u /* with its NUL */
#define ROUNDS_MAX 64u
#define ROUNDS_AGAIN 9u /* quick ones */
#define THREADS_MAX 8u
#define COUNTERS (1u << 20)
#define BACKOFF_NS (10 * CLEAT_NS_PER_MS)

#define RATIO_MIN 0.80
#define BYTES_AGAIN_MAX 1.12
#define TIME_AGAIN_MAX 1.15
#define SMALL_NS_MAX 1000.0
#define DESCRIPTOR_BYTES_MAX 64u
#define LINEAR_MAX 2.0

static uint64_t now(void)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context);
}

_Noreturn static void give_up(const char *why)
{
    fprintf(stderr, "transfer_bench: %s\n", why);
    exit(1);
}

static void must(enum cleat_status status, const struct cleat_error *error)
{
    if (status != CLEAT_OK) { give_up(error->text); }
}

static int by_size(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;

    return (difference > 0) - (difference < 0);
}

static double median(const double *values, uint32_t count)
{
    double sorted[ROUNDS_MAX];

    memcpy(sorted, values, count * sizeof *values);
    qsort(sorted, count, sizeof *sorted, by_size);
    return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

/* The median of a[i] / b[i]. */
static double median_ratio(const double *a, const double *b, uint32_t count)
{
    double ratios[ROUNDS_MAX];

    for (uint32_t i = 0; i < count; i++) { ratios[i] = a[i] / b[i]; }
    return median(ratios, count);
}

static uint32_t bars_missed;

static const char *verdict(bool met)
{
    bars_missed += !met;
    return met ? "met" : "NOT MET";
}

/* ---- memory ------------------------------------------------------------- */

/* Zeroed, written, on large pages where the system gives them. */
static unsigned char *memory(size_t bytes)
{
    size_t large = 2 * MIB;
    unsigned char *all = mmap(NULL, bytes + large, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (all == MAP_FAILED) { give_up("no memory"); }
    all += (size_t)(-(uintptr_t)all % large);
    (void)madvise(all, bytes, MADV_HUGEPAGE);
    memset(all, 0, bytes);
    return all;
}

static size_t memory_available(void)
{
    FILE *file = fopen("/proc/meminfo", "r");
    char line[128];
    unsigned long long kib = 0;

    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1) { break; }
    }
    if (file != NULL) { (void)fclose(file); }
    return (size_t)kib * KIB;
}

/* ---- a scene ------------------------------------------------------------ */

struct scene {
    size_t bytes;        /* of the working set */
    unsigned char *from; /* the working set */
    unsigned char *to;   /* as much: where gets and bare copies go */
    unsigned char *block;
    size_t block_bytes;
    unsigned char *faults_block;
    char (*keys)[KEY_BYTES];
    struct cleat_transfer_value *values;
    struct cleat_store_item *items;
    struct cleat_store store;
    struct cleat_store unwell;
    struct cleat_local_store *local;
    struct cleat_local_store *local_unwell;
    enum cleat_digest_kind kind;
    uint32_t threads;
    _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
};

static struct scene scene;

static void make_scene(void)
{
    size_t available = memory_available();
    size_t store = 0;
    struct cleat_memory_store_config config = {.keys_max = KEYS_MAX + 16};

    scene.bytes = WORKING_SET_BYTES;
    while (scene.bytes > 64 * MIB && 4 * scene.bytes > available) {
        scene.bytes /= 2;
    }
    store = cleat_memory_store_bytes(&config, scene.bytes + (uint64_t)KEYS_MAX *
                                                                SMALL_BYTES);
    scene.block_bytes = store;
    scene.block = memory(store);
    scene.from = memory(scene.bytes);
    scene.to = memory(scene.bytes);
    scene.faults_block = memory(cleat_store_faults_bytes(COUNTERS));
    scene.keys = (void *)memory(KEYS_MAX * sizeof *scene.keys);
    scene.values = (void *)memory(KEYS_MAX * sizeof *scene.values);
    scene.items = (void *)memory(KEYS_MAX * sizeof *scene.items);
    scene.kind = cleat_digest_detect();
    for (size_t i = 0; i < scene.bytes; i += sizeof(uint64_t)) {
        uint64_t word = (i + 1) * UINT64_C(0x9E3779B97F4A7C15);

        memcpy(scene.from + i, &word, sizeof word);
    }
    for (uint32_t i = 0; i < KEYS_MAX; i++) {
        (void)snprintf(scene.keys[i], KEY_BYTES, "layer.%05u", i % 100000u);
    }
    printf("working set: %zu MiB in each of three places%s\n",
           scene.bytes / MIB,
           scene.bytes < WORKING_SET_BYTES
               ? ": too little memory for 1024 MiB, so nothing below is judged "
                 "by it"
               : "");
}

static void make_store(uint32_t unit_bytes)
{
    struct cleat_memory_store_config config = {.keys_max = KEYS_MAX + 16,
                                               .unit_bytes = unit_bytes};
    struct cleat_error error;

    must(cleat_memory_store_init(scene.block, scene.block_bytes, &config,
                                 scene.end, sizeof scene.end, &scene.store,
                                 &error),
         &error);
}

/* The calls through the service run on so many threads. */
static struct cleat_local_store *open_local(const struct cleat_store *store,
                                            uint32_t threads)
{
    static const struct cleat_retry_policy policy = {
        .base_ns = BACKOFF_NS,
        .max_ns = BACKOFF_NS,
        .jitter = CLEAT_RETRY_JITTER_NONE};
    struct cleat_local_store_config config = {
        .service = {.batch = {.policy = &policy},
                    .budget = {.tokens = UINT32_MAX,
                               .tokens_max = UINT32_MAX,
                               .cost = 1,
                               .cost_transient = 1,
                               .gain = 1},
                    .batches_max = 1,
                    .keys_max = KEYS_MAX,
                    .key_bytes_max = KEYS_MAX * KEY_BYTES},
        .threads = {.threads = threads},
        .seed = 1};
    size_t bytes = cleat_local_store_bytes(&config);
    struct cleat_local_store *local;
    struct cleat_error error;

    must(cleat_local_store_open(memory(bytes), bytes, &config, store, &local,
                                &error),
         &error);
    must(cleat_transfer_service_ready(cleat_local_store_service(local),
                                      now() + 10 * CLEAT_NS_PER_S, &error),
         &error);
    return local;
}

static void close_local(struct cleat_local_store *local)
{
    struct cleat_error error;

    must(cleat_local_store_close(local, now() + 10 * CLEAT_NS_PER_S, &error),
         &error);
}

/* ---- what is measured --------------------------------------------------- */

enum what { MEMCPY, FUSED, COLD, STORE_PUT, STORE_GET, PUT, GET, WHATS };

static volatile uint32_t kept; /* so that nothing is optimised away */

/* The bare copies. */
static void copy_values(enum what what, size_t value_bytes, size_t first,
                        size_t end)
{
    uint32_t crc = 0;

    for (size_t i = first; i < end; i++) {
        unsigned char *to = scene.to + i * value_bytes;
        const unsigned char *from = scene.from + i * value_bytes;

        switch (what) {
        case FUSED:
            crc ^= cleat_crc32c_copy_with(scene.kind, 0, to, from, value_bytes);
            break;
        case COLD:
            crc ^= cleat_crc32c_copy_cold_with(scene.kind, 0, to, from,
                                               value_bytes);
            break;
        default: memcpy(to, from, value_bytes); break;
        }
    }
    kept = crc;
}

static void fill_items(size_t value_bytes, uint32_t count, bool put)
{
    for (uint32_t i = 0; i < count; i++) {
        struct cleat_store_item *item = &scene.items[i];

        memset(item, 0, sizeof *item);
        item->key = scene.keys[i];
        item->key_bytes = (uint32_t)strlen(scene.keys[i]);
        item->payload = (put ? scene.from : scene.to) + i * value_bytes;
        item->bytes = value_bytes;
    }
}

static void call_store(uint32_t operation, uint32_t first, uint32_t end)
{
    for (uint32_t i = first; i < end;
         i += CLEAT_TRANSFER_CALL_KEYS_MAX_DEFAULT) {
        uint32_t count = end - i < CLEAT_TRANSFER_CALL_KEYS_MAX_DEFAULT
                             ? end - i
                             : CLEAT_TRANSFER_CALL_KEYS_MAX_DEFAULT;
        struct cleat_store_call call = {operation, count, &scene.items[i],
                                        CLEAT_NEVER};

        (void)scene.store.call(scene.store.context, &call);
    }
}

/* One thread's part of what needs no service. */
struct part {
    pthread_t thread;
    enum what what;
    size_t value_bytes;
    uint32_t first;
    uint32_t end;
};

static pthread_barrier_t start_line;

static void run_part(const struct part *part)
{
    switch (part->what) {
    case STORE_PUT:
        call_store(CLEAT_TRANSFER_DO_EXISTS, part->first, part->end);
        call_store(CLEAT_TRANSFER_DO_PUT, part->first, part->end);
        break;
    case STORE_GET:
        call_store(CLEAT_TRANSFER_DO_GET, part->first, part->end);
        break;
    default:
        copy_values(part->what, part->value_bytes, part->first, part->end);
        break;
    }
}

static void *part_main(void *context)
{
    const struct part *part = context;

    (void)pthread_barrier_wait(&start_line);
    run_part(part);
    (void)pthread_barrier_wait(&start_line);
    return NULL;
}

/* Nanoseconds of all parts together. */
static uint64_t run_parts(enum what what, size_t value_bytes, uint32_t count)
{
    struct part parts[THREADS_MAX];
    uint32_t threads = scene.threads;
    uint64_t began;
    uint64_t took;

    for (uint32_t i = 0; i < threads; i++) {
        parts[i].what = what;
        parts[i].value_bytes = value_bytes;
        parts[i].first = (uint32_t)((uint64_t)count * i / threads);
        parts[i].end = (uint32_t)((uint64_t)count * (i + 1) / threads);
    }
    (void)pthread_barrier_init(&start_line, NULL, threads);
    for (uint32_t i = 1; i < threads; i++) {
        if (pthread_create(&parts[i].thread, NULL, part_main, &parts[i]) != 0) {
            give_up("no thread");
        }
    }
    (void)pthread_barrier_wait(&start_line);
    began = now();
    run_part(&parts[0]);
    (void)pthread_barrier_wait(&start_line);
    took = now() - began;
    for (uint32_t i = 1; i < threads; i++) {
        (void)pthread_join(parts[i].thread, NULL);
    }
    (void)pthread_barrier_destroy(&start_line);
    return took;
}

static void fill_values(size_t value_bytes, uint32_t count, bool put)
{
    for (uint32_t i = 0; i < count; i++) {
        struct cleat_transfer_value *value = &scene.values[i];

        memset(value, 0, sizeof *value);
        value->key = scene.keys[i];
        value->payload = (put ? scene.from : scene.to) + i * value_bytes;
        value->bytes = value_bytes;
    }
}

/* Nanoseconds of one batch. */
static uint64_t run_batch(struct cleat_local_store *local, enum what what,
                          uint32_t count,
                          struct cleat_transfer_summary *summary)
{
    struct cleat_transfer_service *service = cleat_local_store_service(local);
    struct cleat_error error;
    enum cleat_status status;
    uint64_t began = now();

    status = what == PUT ? cleat_transfer_put(service, scene.values, count,
                                              NULL, summary, &error)
                         : cleat_transfer_get(service, scene.values, count,
                                              NULL, summary, &error);
    began = now() - began;
    must(status, &error);
    return began;
}

static void empty_store(size_t value_bytes, uint32_t count)
{
    fill_items(value_bytes, count, true);
    call_store(CLEAT_TRANSFER_DO_REMOVE, 0, count);
}

static void check_items(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (scene.items[i].status != CLEAT_OK) {
            give_up("a call of the store has failed");
        }
    }
}

/* Nanoseconds of one turn. What is put before it is got, is removed after. */
static uint64_t run_once(enum what what, size_t value_bytes, uint32_t count)
{
    bool put = what == PUT || what == STORE_PUT;
    struct cleat_transfer_summary summary;
    uint64_t took;

    if (what <= COLD) { return run_parts(what, value_bytes, count); }
    if (what >= PUT) {
        fill_values(value_bytes, count, put);
        took = run_batch(scene.local, what, count, &summary);
    } else {
        fill_items(value_bytes, count, put);
        took = run_parts(what, value_bytes, count);
        check_items(count);
    }
    if (!put) { empty_store(value_bytes, count); }
    return took;
}

/* ---- large values ------------------------------------------------------- */

static void check_got(size_t bytes)
{
    if (memcmp(scene.from, scene.to, bytes) != 0) {
        give_up("other bytes were got than were put");
    }
}

static void judge(const char *what, size_t value_bytes, double ratio)
{
    printf("  %s, %zu KiB, %u thread%s: %.0f %% of the bare fused copy (bar: "
           "%.0f %%): %s\n",
           what, value_bytes / KIB, scene.threads, scene.threads > 1 ? "s" : "",
           100 * ratio, 100 * RATIO_MIN, verdict(ratio >= RATIO_MIN));
}

static void measure_size(size_t value_bytes, uint32_t rounds)
{
    static double ns[WHATS][ROUNDS_MAX];
    uint32_t count = (uint32_t)(scene.bytes / value_bytes);
    double bytes = (double)value_bytes * count;
    double put;
    double get;

    for (uint32_t round = 0; round <= rounds; round++) {
        for (enum what what = MEMCPY; what < WHATS; what++) {
            uint64_t took = run_once(what, value_bytes, count);

            /* The first turn warms up. */
            if (round > 0) { ns[what][round - 1] = (double)took; }
            if (what == GET && round == 0) { check_got(scene.bytes); }
        }
    }
    printf("%4zu KiB", value_bytes / KIB);
    for (enum what what = MEMCPY; what < WHATS; what++) {
        printf(" %9.2f", bytes / median(ns[what], rounds));
    }
    put = median_ratio(ns[FUSED], ns[PUT], rounds);
    get = median_ratio(ns[FUSED], ns[GET], rounds);
    printf(" %8.0f %% %3.0f %%", 100 * put, 100 * get);
    printf(" %7.0f %% %3.0f %%\n",
           100 * median_ratio(ns[COLD], ns[PUT], rounds),
           100 * median_ratio(ns[COLD], ns[GET], rounds));
    judge("put", value_bytes, put);
    judge("get", value_bytes, get);
    (void)fflush(stdout);
}

static void measure_sizes(uint32_t threads, uint32_t rounds, bool quick)
{
    scene.threads = threads;
    make_store(0);
    scene.local = open_local(&scene.store, threads);
    printf("\nGB/s, %u thread%s, medians of %u turns\n"
           "   value    memcpy     fused      cold store put store get       "
           "put       get  of fused: put get  of cold: put get\n",
           threads, threads > 1 ? "s" : "", rounds);
    for (size_t value = VALUE_BYTES_MIN; value <= 4 * MIB; value *= 4) {
        if (!quick || value == VALUE_BYTES_MIN || value == MIB) {
            measure_size(value, rounds);
        }
    }
    close_local(scene.local);
}

/* ---- a tenth fails ------------------------------------------------------ */

/* Every key, once more: the layer forgets what it has struck. */
static void make_unwell(uint64_t seed)
{
    /* Nothing is stored by a put that fails; a get that fails has moved all
     * its bytes. */
    static const struct cleat_store_fault rules[] = {
        {.kind = CLEAT_STORE_FAULT_TRANSIENT,
         .operations = CLEAT_STORE_FAULT_PUTS,
         .rate = CLEAT_STORE_FAULT_ALWAYS / 10,
         .times = 1},
        {.kind = CLEAT_STORE_FAULT_TRANSIENT_EFFECT,
         .operations = CLEAT_STORE_FAULT_GETS,
         .rate = CLEAT_STORE_FAULT_ALWAYS / 10,
         .times = 1}};
    struct cleat_store_faults_config config = {.rules = rules,
                                               .rules_count = 2,
                                               .counters_count = COUNTERS,
                                               .seed = seed};
    struct cleat_error error;

    must(cleat_store_faults_init(scene.faults_block,
                                 cleat_store_faults_bytes(COUNTERS), &config,
                                 &scene.store, &scene.unwell, &error),
         &error);
}

struct again {
    double well_ns[ROUNDS_MAX];
    double unwell_ns[ROUNDS_MAX]; /* less the backoff */
    double bytes[ROUNDS_MAX];     /* moved, of the ideal */
    double keys[ROUNDS_MAX];      /* that failed, of all */
};

static void turn_unwell(enum what what, uint32_t count, uint32_t round,
                        struct again *again)
{
    double ideal = (double)count * (double)VALUE_BYTES_MIN;
    struct cleat_transfer_summary summary;
    uint64_t took;

    fill_values(VALUE_BYTES_MIN, count, what == PUT);
    took = run_batch(scene.local, what, count, &summary);
    again->well_ns[round] = (double)took;
    if (what == PUT) { empty_store(VALUE_BYTES_MIN, count); }
    fill_values(VALUE_BYTES_MIN, count, what == PUT);
    took = run_batch(scene.local_unwell, what, count, &summary);
    again->unwell_ns[round] = (double)took - (double)BACKOFF_NS;
    again->bytes[round] = (double)summary.totals.bytes_sent / ideal;
    again->keys[round] = (double)summary.totals.bytes_again / ideal;
}

static void judge_again(const char *what, const struct again *again,
                        uint32_t rounds)
{
    double bytes = median(again->bytes, rounds);
    double time = median_ratio(again->unwell_ns, again->well_ns, rounds);
    double took = median(again->unwell_ns, rounds) + (double)BACKOFF_NS;

    printf("%6s %10.1f ms %10.1f ms %13.0f %% %11.1f %%\n", what,
           median(again->well_ns, rounds) / 1e6, took / 1e6,
           100 * (double)BACKOFF_NS / took, 100 * median(again->keys, rounds));
    printf("  %s: bytes moved %.3f x the ideal (bar: %.2f): %s\n", what, bytes,
           BYTES_AGAIN_MAX, verdict(bytes <= BYTES_AGAIN_MAX));
    printf("  %s: time %.2f x, and the backoff (bar: %.2f): %s\n", what, time,
           TIME_AGAIN_MAX, verdict(time <= TIME_AGAIN_MAX));
}

static void measure_again(uint32_t rounds)
{
    static struct again put;
    static struct again get;
    uint32_t count = (uint32_t)(scene.bytes / VALUE_BYTES_MIN);

    make_store(0);
    make_unwell(1);
    scene.local = open_local(&scene.store, 1);
    scene.local_unwell = open_local(&scene.unwell, 1);
    for (uint32_t round = 0; round <= rounds; round++) {
        make_unwell(round + 1);
        turn_unwell(PUT, count, round > 0 ? round - 1 : 0, &put);
        memset(scene.to, 0, scene.bytes);
        turn_unwell(GET, count, round > 0 ? round - 1 : 0, &get);
        check_got(scene.bytes);
        empty_store(VALUE_BYTES_MIN, count);
    }
    printf("\na tenth of %u keys of 64 KiB fails once; one backoff of %.0f ms, "
           "one thread, medians of %u turns\n"
           "        none fails      a tenth     backoff share  sent again\n",
           count, (double)BACKOFF_NS / 1e6, rounds);
    judge_again("put", &put, rounds);
    judge_again("get", &get, rounds);
    close_local(scene.local);
    close_local(scene.local_unwell);
}

/* ---- small keys --------------------------------------------------------- */

struct small {
    double bare[ROUNDS_MAX];
    double put[ROUNDS_MAX];
    double get[ROUNDS_MAX];
};

/* Nanoseconds a key; small batches are made again and again. */
static void turn_small(uint32_t count, uint32_t round, struct small *small)
{
    uint32_t times = count < 10000 ? 10000 / count : 1;
    struct cleat_transfer_summary summary;
    uint64_t put = 0;
    uint64_t get = 0;
    uint64_t bare;

    for (uint32_t i = 0; i < times; i++) {
        fill_values(SMALL_BYTES, count, true);
        put += run_batch(scene.local, PUT, count, &summary);
        fill_values(SMALL_BYTES, count, false);
        get += run_batch(scene.local, GET, count, &summary);
        empty_store(SMALL_BYTES, count);
    }
    bare = now();
    for (uint32_t i = 0; i < times; i++) {
        copy_values(FUSED, SMALL_BYTES, 0, count);
    }
    bare = now() - bare;
    small->put[round] = (double)put / ((double)count * times);
    small->get[round] = (double)get / ((double)count * times);
    small->bare[round] = (double)bare / ((double)count * times);
}

static void judge_small(uint32_t count, double put, double get)
{
    printf("  %u keys: overhead a key %.0f ns put, %.0f ns get (bar: < %.0f): "
           "%s\n",
           count, put, get, SMALL_NS_MAX,
           verdict(put < SMALL_NS_MAX && get < SMALL_NS_MAX));
}

static void measure_small(uint32_t rounds)
{
    static const uint32_t counts[] = {10, 100, 1000, 10000, 100000};
    static struct small small;
    double least[2] = {0, 0};
    double most[2] = {0, 0};
    double few[2] = {0, 0};
    double both[2] = {0, 0};

    make_store(256);
    scene.local = open_local(&scene.store, 1);
    printf("\nvalues of %u bytes, ns a key, medians of %u turns\n"
           "    keys     bare      put      get   overhead: put      get\n",
           SMALL_BYTES, rounds);
    for (uint32_t i = 0; i < 5; i++) {
        double bare;

        for (uint32_t round = 0; round <= rounds; round++) {
            turn_small(counts[i], round > 0 ? round - 1 : 0, &small);
        }
        bare = median(small.bare, rounds);
        both[0] = median(small.put, rounds);
        both[1] = median(small.get, rounds);
        printf("%8u %8.1f %8.1f %8.1f %15.1f %8.1f\n", counts[i], bare, both[0],
               both[1], both[0] - bare, both[1] - bare);
        if (i == 0) { memcpy(few, both, sizeof few); }
        /* Before that, what a batch costs is most of what a key does. */
        if (counts[i] < 1000) { continue; }
        judge_small(counts[i], both[0] - bare, both[1] - bare);
        for (uint32_t k = 0; k < 2; k++) {
            if (least[k] == 0 || both[k] < least[k]) { least[k] = both[k]; }
            if (both[k] > most[k]) { most[k] = both[k]; }
        }
    }
    printf("  a batch costs about %.0f us to put (two calls: are they there, "
           "put them), %.0f us to get (one),\n"
           "  each handed to a thread and heard of again; the rest is for each "
           "key\n",
           (few[0] - both[0]) * counts[0] / 1e3,
           (few[1] - both[1]) * counts[0] / 1e3);
    printf("  linear: from 1000 to 100000 keys, a key costs up to %.2f x as "
           "much as another batch's to put, %.2f x to get (bar: %.1f): %s\n",
           most[0] / least[0], most[1] / least[1], LINEAR_MAX,
           verdict(most[0] <= LINEAR_MAX * least[0] &&
                   most[1] <= LINEAR_MAX * least[1]));
    close_local(scene.local);
}

static void measure_descriptors(void)
{
    printf("\n  descriptor of a key in a batch: %zu bytes (bar: %u): %s\n"
           "  a value as the caller tells it, shape and report included: %zu "
           "bytes\n",
           sizeof(struct cleat_transfer_key), DESCRIPTOR_BYTES_MAX,
           verdict(sizeof(struct cleat_transfer_key) <= DESCRIPTOR_BYTES_MAX),
           sizeof(struct cleat_transfer_value));
}

int main(int argc, char **argv)
{
    bool quick = argc == 2 && strcmp(argv[1], "--quick") == 0;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t rounds = quick ? 5 : 9;

    if (argc > 1 && !quick) { give_up("usage: transfer_bench [--quick]"); }
    if (processors > (long)THREADS_MAX) { processors = THREADS_MAX; }
    make_scene();
    printf("%ld processors; digest: %s\n", sysconf(_SC_NPROCESSORS_ONLN),
           scene.kind == CLEAT_DIGEST_WIDE       ? "AVX-512 and VPCLMULQDQ"
           : scene.kind == CLEAT_DIGEST_HARDWARE ? "CRC instructions"
                                                 : "tables");
    measure_sizes(1, rounds, quick);
    if (processors > 1 && !quick) {
        measure_sizes((uint32_t)processors, rounds, quick);
    }
    measure_again(ROUNDS_AGAIN);
    measure_small(rounds);
    measure_descriptors();
    printf("\n%s\n",
           bars_missed == 0 ? "every bar is met" : "NOT every bar is met");
    return 0;
}
