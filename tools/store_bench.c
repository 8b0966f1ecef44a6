/* Cleat: `cleat store bench`. SPDX-License-Identifier: Apache-2.0
 *
 * Threads put and get values, each its share of the keys, with a store that
 * works and with one in which a share of the keys fails once: by turns, a few
 * times, the best of which count. Every value is compared. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "options.h"
#include "print.h"
#include "store.h"
#include "store_job.h"

#define COMMAND "cleat store bench"
#define KEYS_MAX 10000000u
#define THREADS_MAX 64u
#define KEY_BYTES 64u
#define ROUNDS 3u /* that are measured, after one that is not */
#define BATCH_KEYS 8192u

/* How long keys are removed after a signal. */
#define REMOVE_NS (2 * CLEAT_NS_PER_S)

static const char usage[] =
    "usage: cleat store bench --store STORE --keys N --bytes MIN..MAX\n"
    "                         [--threads T] [--fail-rate P] [OPTION]...\n"
    "Puts and gets N values, with a store that works, and with one in which a\n"
    "share of the keys fails once; prints how fast, and how many bytes were\n"
    "moved for each that had to be.\n"
    "\n"
    "  --store STORE       as in cleat store --help; memory is made large\n"
    "                      enough by itself\n"
    "  --keys N            how many values\n"
    "  --bytes MIN..MAX    of each, drawn between: 64K..1M\n"
    "  --threads T         that put and get at once (4)\n"
    "  --fail-rate P       share of the keys whose first put and whose first\n"
    "                      get fails: 0.1, or 10% (0)\n"
    "  --deadline-s S      of each batch (180)\n"
    "  --seed S            of what is drawn (1)\n"
    "  --report text|json  on standard output (text)\n"
    "\n"
    "Keys are cleat/bench/PID/ROUND/NUMBER; they are removed at the end.\n"
    "\n"
    "Exit: 0 all keys ok, 8 some failed, 9 the store is not ready, 2 bad "
    "input,\n"
    "128 + N signal N.\n";

/* How one pass over all keys went. */
struct pass {
    uint64_t put_ns;
    uint64_t get_ns;
    uint64_t sent;   /* bytes, by puts and gets */
    uint64_t failed; /* keys */
};

struct bench {
    const char *text;
    uint64_t keys;
    uint64_t bytes_min;
    uint64_t bytes_max;
    uint64_t threads;
    uint32_t fail_rate; /* in millionths */
    uint64_t seed;
    uint64_t deadline_ns;
    uint32_t json;
    struct store_spec spec;
    struct store_faults faults;

    char (*names)[KEY_BYTES];
    uint64_t *sizes;
    uint64_t *offsets;
    uint64_t bytes; /* of all values */
    unsigned char *source;
    unsigned char *sink;

    struct store_opened opened;
    /* Over the store as it is, and over the faults. */
    struct cleat_local_store *local[2];
    struct cleat_transfer_service *service[2];
    void *block[2];
    size_t block_bytes[2];
    struct cleat_clock clock;
    struct watch watch;
    _Atomic uint32_t services; /* that can be stopped */
    _Atomic uint32_t step;     /* enum store_step */
    atomic_bool removing;      /* that is not stopped at once */
    uint64_t stopped_ns;       /* of the thread that waits for signals */
    bool held;                 /* the store may still touch memory of ours */
    char error[CLEAT_ERROR_TEXT_MAX];
    pthread_mutex_t lock; /* of the error */
};

/* ---- values ------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static void *map(uint64_t bytes)
{
    void *at = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED) { return NULL; }
    (void)madvise(at, (size_t)bytes, MADV_HUGEPAGE);
    return at;
}

static uint64_t room_of(const struct bench *bench)
{
    return bench->bytes + 4096;
}

static void fill(struct bench *bench)
{
    uint64_t state = bench->seed;

    for (uint64_t at = 0; at + 8 <= room_of(bench); at += 8) {
        uint64_t word = draw(&state);

        memcpy(bench->source + at, &word, sizeof word);
    }
}

/* How much memory the system could give now; UINT64_MAX: not known. */
static uint64_t memory_free(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    uint64_t kib = UINT64_MAX / 1024;
    char line[128];

    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1) { break; }
    }
    if (file != NULL) { (void)fclose(file); }
    return kib * 1024;
}

static int make_values(struct bench *bench)
{
    uint64_t state = bench->seed + 1;
    uint64_t span = bench->bytes_max - bench->bytes_min + 1;
    uint64_t needed;

    bench->names = malloc(bench->keys * sizeof *bench->names);
    bench->sizes = malloc(bench->keys * sizeof *bench->sizes);
    bench->offsets = malloc(bench->keys * sizeof *bench->offsets);
    if (bench->names == NULL || bench->sizes == NULL ||
        bench->offsets == NULL) {
        return options_fail(COMMAND, "--keys: no memory for so many");
    }
    for (uint64_t i = 0; i < bench->keys; i++) {
        bench->sizes[i] = bench->bytes_min + draw(&state) % span;
        bench->offsets[i] = bench->bytes;
        bench->bytes += (bench->sizes[i] + 63) / 64 * 64;
    }
    /* The values, what is got of them, and the store's. */
    needed = bench->bytes * (bench->spec.kind == STORE_MEMORY ? 3 : 2);
    if (needed > memory_free()) {
        return options_fail(COMMAND,
                            "%" PRIu64 " bytes of values need %" PRIu64
                            " of memory, and %" PRIu64 " are free",
                            bench->bytes, needed, memory_free());
    }
    bench->source = map(room_of(bench));
    bench->sink = map(room_of(bench));
    if (bench->source == NULL || bench->sink == NULL) {
        return options_fail(COMMAND, "%" PRIu64 " bytes of memory: %s",
                            bench->bytes, strerror(errno));
    }
    fill(bench);
    return 0;
}

/* ---- one thread's share ------------------------------------------------- */

struct share {
    struct bench *bench;
    struct cleat_transfer_service *service;
    uint32_t kind; /* enum cleat_transfer_kind */
    uint64_t first;
    uint64_t end;
    uint64_t sent;
    uint64_t failed;
    pthread_barrier_t *start;
    pthread_t thread;
};

static bool is_stopping(struct bench *bench)
{
    return atomic_load(&bench->watch.stopping);
}

static enum cleat_status send_batch(const struct share *share,
                                    struct cleat_transfer_value *values,
                                    uint32_t count,
                                    struct cleat_transfer_summary *summary,
                                    struct cleat_error *error)
{
    struct cleat_transfer_options options = {
        .deadline_ns = cleat_time_add(
            share->bench->clock.now_ns(share->bench->clock.context),
            share->bench->deadline_ns),
        .verify = store_verify(&share->bench->spec)};

    switch (share->kind) {
    case CLEAT_TRANSFER_PUT:
        return cleat_transfer_put(share->service, values, count, &options,
                                  summary, error);
    case CLEAT_TRANSFER_GET:
        return cleat_transfer_get(share->service, values, count, &options,
                                  summary, error);
    default:
        return cleat_transfer_remove(share->service, values, count, &options,
                                     summary, error);
    }
}

static uint32_t fill_batch(const struct share *share, uint64_t first,
                           struct cleat_transfer_value *values)
{
    struct bench *bench = share->bench;
    uint32_t count = 0;

    for (uint64_t i = first; i < share->end && count < BATCH_KEYS; i++) {
        struct cleat_transfer_value *value = &values[count++];
        unsigned char *memory = share->kind == CLEAT_TRANSFER_GET
                                    ? bench->sink
                                    : bench->source;

        memset(value, 0, sizeof *value);
        value->key = bench->names[i];
        if (share->kind == CLEAT_TRANSFER_REMOVE) { continue; }
        value->payload = memory + bench->offsets[i];
        value->bytes = bench->sizes[i];
    }
    return count;
}

static void *work(void *context)
{
    struct share *share = context;
    struct bench *bench = share->bench;
    struct cleat_transfer_value *values = malloc(BATCH_KEYS * sizeof *values);

    (void)pthread_barrier_wait(share->start);
    for (uint64_t at = share->first; at < share->end;) {
        struct cleat_transfer_summary summary = {0};
        struct cleat_error error = {0};
        uint32_t count = values == NULL ? 0 : fill_batch(share, at, values);

        if (count == 0 ||
            (is_stopping(bench) && share->kind != CLEAT_TRANSFER_REMOVE)) {
            share->failed += share->end - at;
            break;
        }
        if (send_batch(share, values, count, &summary, &error) != CLEAT_OK) {
            uint64_t failed = summary.totals.failed + summary.totals.unknown;

            share->failed += summary.sent == 0 ? count : failed;
            (void)pthread_mutex_lock(&bench->lock);
            memcpy(bench->error, error.text, sizeof bench->error);
            (void)pthread_mutex_unlock(&bench->lock);
        }
        share->sent += summary.totals.bytes_sent;
        at += count;
        if (is_stopping(bench) && summary.totals.ok == 0) { break; }
    }
    free(values);
    return NULL;
}

/* All threads do one thing to all keys. Returns false when there is no thread.
 */
static bool do_all(struct bench *bench, uint32_t which, uint32_t kind,
                   struct pass *pass, uint64_t *ns)
{
    static struct share shares[THREADS_MAX];
    static pthread_barrier_t start; /* outlives a failure */
    uint64_t began_ns;
    uint32_t threads = (uint32_t)bench->threads;

    (void)pthread_barrier_init(&start, NULL, threads + 1);
    for (uint32_t i = 0; i < threads; i++) {
        shares[i] = (struct share){
            .bench = bench,
            .service = bench->service[which],
            .kind = kind,
            .first = bench->keys * i / threads,
            .end = bench->keys * (i + 1) / threads,
            .start = &start,
        };
        int code = pthread_create(&shares[i].thread, NULL, work, &shares[i]);

        if (code != 0) {
            errno = code;
            return false; /* the others wait for ever; the process ends */
        }
    }
    (void)pthread_barrier_wait(&start);
    began_ns = bench->clock.now_ns(bench->clock.context);
    for (uint32_t i = 0; i < threads; i++) {
        (void)pthread_join(shares[i].thread, NULL);
        pass->failed += shares[i].failed;
        pass->sent += shares[i].sent;
    }
    *ns = bench->clock.now_ns(bench->clock.context) - began_ns;
    (void)pthread_barrier_destroy(&start);
    return true;
}

/* ---- rounds ------------------------------------------------------------- */

static uint64_t count_wrong(const struct bench *bench)
{
    uint64_t wrong = 0;

    for (uint64_t i = 0; i < bench->keys; i++) {
        wrong += memcmp(bench->source + bench->offsets[i],
                        bench->sink + bench->offsets[i],
                        (size_t)bench->sizes[i]) != 0
                     ? 1u
                     : 0u;
    }
    return wrong;
}

/* Keys of its own, so that each fails once anew. */
static bool run_round(struct bench *bench, uint32_t round, uint32_t which,
                      struct pass *pass)
{
    uint64_t unused_ns;
    struct pass removed = {0};

    memset(pass, 0, sizeof *pass);
    memset(bench->sink, 0, (size_t)bench->bytes);
    for (uint64_t i = 0; i < bench->keys; i++) {
        snprintf(bench->names[i], KEY_BYTES,
                 "cleat/bench/%ld/%" PRIu32 "/%" PRIu64, (long)getpid(), round,
                 i);
    }
    if (!do_all(bench, which, CLEAT_TRANSFER_PUT, pass, &pass->put_ns) ||
        !do_all(bench, which, CLEAT_TRANSFER_GET, pass, &pass->get_ns)) {
        return false;
    }
    atomic_store(&bench->removing, true);
    /* After a stop a put may be under way still: not to be removed before it
     * has come. */
    for (uint32_t i = 0; i < atomic_load(&bench->services); i++) {
        uint64_t end_ns = cleat_time_add(
            bench->clock.now_ns(bench->clock.context), REMOVE_NS);

        (void)cleat_transfer_drain(bench->service[i], end_ns, NULL);
    }
    if (!do_all(bench, 0, CLEAT_TRANSFER_REMOVE, &removed, &unused_ns)) {
        return false;
    }
    atomic_store(&bench->removing, false);
    if (pass->failed == 0) { pass->failed = removed.failed; }
    if (pass->failed == 0 && !is_stopping(bench)) {
        pass->failed = count_wrong(bench);
        if (pass->failed > 0) {
            snprintf(bench->error, sizeof bench->error,
                     "values are not what was put");
        }
    }
    return true;
}

/* Adds a round to the best. */
static void take_best(struct pass *best, const struct pass *pass, bool first)
{
    best->failed += pass->failed;
    if (first || pass->put_ns < best->put_ns) { best->put_ns = pass->put_ns; }
    if (first || pass->get_ns < best->get_ns) { best->get_ns = pass->get_ns; }
    if (first || pass->sent > best->sent) { best->sent = pass->sent; }
}

static bool is_over(struct bench *bench, const struct pass *pass)
{
    return pass->failed > 0 || is_stopping(bench);
}

static int run_rounds(struct bench *bench, struct pass *best)
{
    uint32_t kinds = bench->fail_rate > 0 ? 2 : 1;

    for (uint32_t round = 0; round <= ROUNDS * kinds; round++) {
        uint32_t which = round == 0 ? 0 : (round - 1) % kinds;
        struct pass pass;

        if (!run_round(bench, round, which, &pass)) {
            store_say(COMMAND, "--threads: no thread: %s", strerror(errno));
            return STORE_EXIT_INPUT;
        }
        if (round > 0 || pass.failed > 0) {
            take_best(&best[which], &pass, round <= kinds);
        }
        if (is_over(bench, &pass)) { break; }
    }
    return 0;
}

/* ---- the report --------------------------------------------------------- */

static double per_s(uint64_t count, uint64_t ns)
{
    return ns == 0 ? 0 : (double)count * (double)CLEAT_NS_PER_S / (double)ns;
}

static uint64_t payload_of(const struct bench *bench)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < bench->keys; i++) { sum += bench->sizes[i]; }
    return sum;
}

static double ratio(uint64_t a, uint64_t b)
{
    return b == 0 ? 0 : (double)a / (double)b;
}

static void json_pass(const struct bench *bench, const char *name,
                      const struct pass *pass, uint64_t bytes)
{
    printf("  \"%s\": {\"put_gb_per_s\": %.3f, \"get_gb_per_s\": %.3f, "
           "\"put_keys_per_s\": %.0f, \"get_keys_per_s\": %.0f, "
           "\"put_s\": %.6f, \"get_s\": %.6f, \"bytes_moved\": %" PRIu64
           ", \"moved_of_ideal\": %.4f, \"failed\": %" PRIu64 "},\n",
           name, per_s(bytes, pass->put_ns) / 1e9,
           per_s(bytes, pass->get_ns) / 1e9, per_s(bench->keys, pass->put_ns),
           per_s(bench->keys, pass->get_ns), (double)pass->put_ns / 1e9,
           (double)pass->get_ns / 1e9, pass->sent, ratio(pass->sent, 2 * bytes),
           pass->failed);
}

static void text_pass(const struct bench *bench, const char *name,
                      const struct pass *pass, uint64_t bytes)
{
    printf("%-14s  %8.2f  %8.2f  %11.0f  %11.0f  %15.4f\n", name,
           per_s(bytes, pass->put_ns) / 1e9, per_s(bytes, pass->get_ns) / 1e9,
           per_s(bench->keys, pass->put_ns), per_s(bench->keys, pass->get_ns),
           ratio(pass->sent, 2 * bytes));
}

static void report_json(const struct bench *bench, const struct pass *best,
                        uint64_t bytes, int result)
{
    struct cleat_text text = {bench->text, strlen(bench->text)};
    bool is_failing = bench->fail_rate > 0;

    printf("{\n  \"store\": ");
    cli_print_json(stdout, text);
    printf(",\n  \"exit\": %d,\n  \"keys\": %" PRIu64 ",\n  \"bytes\": %" PRIu64
           ",\n  \"threads\": %" PRIu64 ",\n  \"fail_rate\": %.6f,\n",
           result, bench->keys, bytes, bench->threads,
           (double)bench->fail_rate / CLEAT_STORE_FAULT_ALWAYS);
    json_pass(bench, "without", &best[0], bytes);
    if (is_failing) { json_pass(bench, "with", &best[1], bytes); }
    printf("  \"put_time_ratio\": %.4f,\n  \"get_time_ratio\": %.4f\n}\n",
           is_failing ? ratio(best[1].put_ns, best[0].put_ns) : 1.0,
           is_failing ? ratio(best[1].get_ns, best[0].get_ns) : 1.0);
}

static void report_text(const struct bench *bench, const struct pass *best,
                        uint64_t bytes)
{
    char name[32];

    printf("%" PRIu64 " keys of %" PRIu64 " to %" PRIu64 " bytes, %" PRIu64
           " in all, %" PRIu64 " threads, best of %u\n",
           bench->keys, bench->bytes_min, bench->bytes_max, bytes,
           bench->threads, ROUNDS);
    printf("%-14s  %8s  %8s  %11s  %11s  %15s\n", "", "put GB/s", "get GB/s",
           "put keys/s", "get keys/s", "bytes moved");
    text_pass(bench, "no failures", &best[0], bytes);
    if (bench->fail_rate == 0) { return; }
    snprintf(name, sizeof name, "%.4g%% fail once",
             (double)bench->fail_rate / (CLEAT_STORE_FAULT_ALWAYS / 100.0));
    text_pass(bench, name, &best[1], bytes);
    printf("time with failures: put %.3f, get %.3f of without, the waiting "
           "included\n",
           ratio(best[1].put_ns, best[0].put_ns),
           ratio(best[1].get_ns, best[0].get_ns));
}

static int report(const struct bench *bench, const struct pass *best)
{
    uint64_t failed = best[0].failed + best[1].failed;
    uint64_t bytes = payload_of(bench);
    int result = failed > 0 ? STORE_EXIT_KEYS : 0;

    if (bench->json != 0) {
        report_json(bench, best, bytes, result);
    } else {
        report_text(bench, best, bytes);
    }
    if (failed > 0) {
        store_say(COMMAND, "%" PRIu64 " keys failed: %s", failed, bench->error);
    }
    return result;
}

/* ---- open --------------------------------------------------------------- */

static void stop(void *context)
{
    struct bench *bench = context;
    uint64_t now_ns = bench->clock.now_ns(bench->clock.context);
    uint32_t services = atomic_load(&bench->services);
    uint32_t step = STORE_OPENING;

    /* A store that is being made cannot be stopped. */
    if (atomic_compare_exchange_strong(&bench->step, &step, STORE_LEAVING)) {
        _exit(STORE_EXIT_SIGNAL + atomic_load(&bench->watch.signal));
    }
    if (bench->stopped_ns == 0) { bench->stopped_ns = now_ns; }
    if (atomic_load(&bench->removing) &&
        now_ns - bench->stopped_ns < REMOVE_NS) {
        return;
    }
    for (uint32_t i = 0; i < services; i++) {
        cleat_transfer_stop(bench->service[i]);
    }
}

/* Whatever comes now can be stopped. */
static void be_open(struct bench *bench)
{
    uint32_t step = STORE_OPENING;

    if (!atomic_compare_exchange_strong(&bench->step, &step, STORE_OPEN)) {
        for (;;) { (void)pause(); } /* the process is ending */
    }
}

static int open_service(struct bench *bench, uint32_t which,
                        const struct cleat_store *store)
{
    struct cleat_local_store_config config;
    struct cleat_error error = {0};
    uint32_t threads = (uint32_t)bench->threads;
    enum cleat_status status;

    memset(&config, 0, sizeof config);
    config.service.keys_max = BATCH_KEYS;
    config.service.batches_max = threads + 1;
    config.threads.threads = threads > 4 ? threads : 4;
    config.threads.jobs_max = 32 * (threads + 1);
    config.seed = bench->seed;
    bench->block_bytes[which] = cleat_local_store_bytes(&config);
    bench->block[which] = map(bench->block_bytes[which]);
    if (bench->block[which] == NULL ||
        cleat_local_store_open(bench->block[which], bench->block_bytes[which],
                               &config, store, &bench->local[which],
                               &error) != CLEAT_OK) {
        store_say(COMMAND, "%s",
                  bench->block[which] == NULL ? strerror(errno) : error.text);
        return STORE_EXIT_NOT_READY;
    }
    bench->service[which] = cleat_local_store_service(bench->local[which]);
    atomic_store(&bench->services, which + 1);
    status = cleat_transfer_service_ready(
        bench->service[which],
        cleat_time_add(bench->clock.now_ns(bench->clock.context),
                       bench->deadline_ns),
        &error);
    if (status == CLEAT_OK) { return 0; }
    if (status != CLEAT_CANCELLED) {
        store_say(COMMAND, "--store %s: not ready: %s", bench->text,
                  error.text[0] != '\0' ? error.text
                                        : cleat_status_sentence(status));
    }
    return STORE_EXIT_NOT_READY;
}

static int open_all(struct bench *bench)
{
    char line[STORE_OPEN_LINE_BYTES];
    int result;

    bench->spec.keys_hint = bench->keys;
    bench->spec.bytes_hint = bench->bytes + bench->keys * KEY_BYTES;
    bench->faults.keys = bench->keys;
    result = store_open(&bench->opened, &bench->spec, &bench->faults, line);
    be_open(bench);
    if (result != 0) {
        store_say(COMMAND, "--store %s: %s", bench->text, line);
        return result;
    }
    result = open_service(bench, 0, &bench->opened.inner);
    if (result == 0 && bench->fail_rate > 0) {
        result = open_service(bench, 1, &bench->opened.store);
    }
    return result;
}

/* Returns whether everything is ours again. */
static bool close_all(struct bench *bench)
{
    uint64_t end_ns = cleat_time_add(bench->clock.now_ns(bench->clock.context),
                                     2 * CLEAT_NS_PER_S);
    bool is_ours = true;
    struct cleat_error error;

    for (uint32_t i = 0; i < 2; i++) {
        if (cleat_local_store_close(bench->local[i], end_ns, &error) !=
            CLEAT_OK) {
            is_ours = false;
        } else if (bench->block[i] != NULL) {
            (void)munmap(bench->block[i], bench->block_bytes[i]);
        }
    }
    if (is_ours) { store_close(&bench->opened); }
    return is_ours;
}

static void free_values(struct bench *bench)
{
    if (bench->source != NULL) {
        (void)munmap(bench->source, (size_t)room_of(bench));
    }
    if (bench->sink != NULL) {
        (void)munmap(bench->sink, (size_t)room_of(bench));
    }
    free(bench->names);
    free(bench->sizes);
    free(bench->offsets);
}

static int run(struct bench *bench)
{
    struct pass best[2] = {{0}};
    int signal;
    int result;

    bench->clock = cleat_linux_clock();
    watch_block_signals();
    (void)pthread_mutex_init(&bench->lock, NULL);
    bench->watch.stop = stop;
    bench->watch.context = bench;
    if (!watch_begin(&bench->watch)) {
        store_say(COMMAND, "no thread: %s", strerror(errno));
        return STORE_EXIT_NOT_READY;
    }
    result = open_all(bench);
    if (result == 0) { result = run_rounds(bench, best); }
    watch_end(&bench->watch);
    signal = atomic_load(&bench->watch.signal);
    bench->held = !close_all(bench);
    if (signal != 0) { return STORE_EXIT_SIGNAL + signal; }
    watch_let_signals(); /* nobody may be reading the report */
    return result != 0 ? result : report(bench, best);
}

/* ---- the command line --------------------------------------------------- */

/* MIN..MAX, or one number for both. */
static bool parse_range(const char *text, uint64_t *min, uint64_t *max)
{
    const char *dots = strstr(text, "..");
    char first[32];
    size_t bytes = dots == NULL ? strlen(text) : (size_t)(dots - text);

    if (bytes >= sizeof first) { return false; }
    memcpy(first, text, bytes);
    first[bytes] = '\0';
    if (!options_amount(first, min)) { return false; }
    *max = *min;
    return (dots == NULL || options_amount(dots + 2, max)) && *min <= *max &&
           *max <= UINT64_C(1) << 40;
}

static bool add_failures(struct bench *bench, const char *rate, char *line)
{
    char text[64];

    snprintf(text, sizeof text, "transient:%.40s:1", rate);
    if (strchr(rate, ':') != NULL ||
        !store_faults_add(&bench->faults, text, line)) {
        return false;
    }
    if (bench->faults.count > 0) {
        bench->faults.rules[0].operations = CLEAT_STORE_FAULT_PUTS |
                                            CLEAT_STORE_FAULT_GETS;
        bench->fail_rate = bench->faults.rules[0].rate;
    }
    return true;
}

static int parse(struct bench *bench, int argc, char **argv)
{
    char line[STORE_OPEN_LINE_BYTES];
    const char *range = NULL;
    const char *rate = NULL;
    struct option table[] = {
        {.name = "store",
         .kind = OPTION_TEXT,
         .to = &bench->text,
         .required = true},
        {.name = "keys",
         .kind = OPTION_AMOUNT,
         .to = &bench->keys,
         .min = 1,
         .max = KEYS_MAX,
         .required = true},
        {.name = "bytes", .kind = OPTION_TEXT, .to = &range, .required = true},
        {.name = "threads",
         .kind = OPTION_COUNT,
         .to = &bench->threads,
         .min = 1,
         .max = THREADS_MAX},
        {.name = "fail-rate", .kind = OPTION_TEXT, .to = &rate},
        {.name = "deadline-s",
         .kind = OPTION_SECONDS,
         .to = &bench->deadline_ns,
         .min = CLEAT_NS_PER_MS,
         .max = UINT64_C(86400) * CLEAT_NS_PER_S},
        {.name = "seed", .kind = OPTION_COUNT, .to = &bench->seed},
        {.name = "report",
         .kind = OPTION_CHOICE,
         .to = &bench->json,
         .choices = "text|json"},
    };
    struct options options = {.command = COMMAND,
                              .table = table,
                              .count = sizeof table / sizeof table[0]};
    int result = options_parse(&options, argc, argv);

    if (result != 0) { return result; }
    if (!parse_range(range, &bench->bytes_min, &bench->bytes_max)) {
        return options_fail(
            COMMAND, "--bytes %s: expected MIN..MAX, as in 64K..1M", range);
    }
    if (rate != NULL && !add_failures(bench, rate, line)) {
        return options_fail(COMMAND,
                            "--fail-rate %s: expected a share from 0 to 1, or "
                            "a percentage",
                            rate);
    }
    bench->faults.seed = bench->seed;
    if (!store_parse(bench->text, &bench->spec, line)) {
        return options_fail(COMMAND, "--store %s", line);
    }
    return 0;
}

int store_bench(int argc, char **argv)
{
    static struct bench bench; /* large, and one */
    int result;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        }
    }
    bench.threads = 4;
    bench.seed = 1;
    bench.deadline_ns = CLEAT_TRANSFER_DEADLINE_NS_DEFAULT;
    result = parse(&bench, argc, argv);
    if (result == 0) { result = make_values(&bench); }
    if (result == 0) { result = run(&bench); }
    /* A call of the store's is still under way on a thread of ours. */
    if (bench.held) {
        if (fflush(stdout) != 0) {
            result = options_fail(COMMAND, "standard output: %s",
                                  strerror(errno));
        }
        _exit(result);
    }
    free_values(&bench);
    return result;
}
