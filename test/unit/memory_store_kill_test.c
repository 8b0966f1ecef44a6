/* Cleat: the store in memory, with users killed and stopped at random.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     memory_store_kill_test [seconds [seed]]
 *
 * Processes put, get, compare and remove values of a few keys in one shared
 * block, so that they are in each other's way all the time, while one after the
 * other is killed with SIGKILL, or stopped with SIGSTOP and woken later, up to
 * all but one of them at once. Whatever is got is whole and belongs to its key;
 * whoever is neither dead nor stopped gets on; and in the end every entry and
 * every unit comes back. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cleat/memory_store.h"

#define WORKERS 5u
#define KEYS 12u
#define VALUE_BYTES_MAX ((size_t)48 * 1024)
/* The store has an eighth: not enough for all values, so some do not fit. */
#define BLOCK_BYTES ((size_t)1 << 20)

struct counts {
    _Atomic uint64_t rounds, puts, gets, removes, existed, full, busy;
};

struct shared {
    _Alignas(4096) unsigned char block[BLOCK_BYTES];
    struct counts counts[WORKERS];
    _Atomic uint32_t stop;
    char wrong[256]; /* what a worker found */
};
static struct shared *shared;

static void must(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "memory_store_kill_test: %s (%s)\n", what,
                strerror(errno));
        exit(1);
    }
}

static uint64_t next_random(uint64_t *random)
{
    *random ^= *random << 13; /* Marsaglia's xorshift64 */
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

/* ---- a worker ------------------------------------------------------------ */

/* A key's values have one length, so that a get knows it. */
static size_t bytes_of(uint32_t key)
{
    static const size_t bytes[KEYS] = {8,    100,   700,   1024,  3000,  4096,
                                       9000, 16384, 20000, 30000, 40000, 49152};
    return bytes[key];
}

/* The first eight bytes say what the others must be. */
static void fill(unsigned char *bytes, size_t count, uint64_t seed)
{
    uint64_t random = seed | 1;

    memcpy(bytes, &seed, 8);
    for (size_t i = 8; i + 8 <= count; i += 8) {
        uint64_t word = next_random(&random);

        memcpy(bytes + i, &word, 8);
    }
}

static bool is_whole(const unsigned char *bytes, size_t count, uint32_t key)
{
    static unsigned char expected[VALUE_BYTES_MAX];
    uint64_t seed;

    memcpy(&seed, bytes, 8);
    fill(expected, count, seed);
    return seed % KEYS == key && memcmp(bytes, expected, count / 8 * 8) == 0;
}

static void worker_fails(const char *what, uint32_t key, int status)
{
    snprintf(shared->wrong, sizeof shared->wrong, "%s: key %u, status %s", what,
             (unsigned)key, cleat_status_name((enum cleat_status)status));
    _exit(1);
}

static enum cleat_status act(struct cleat_store *store, uint32_t operation,
                             uint32_t key, unsigned char *bytes, bool raw)
{
    struct cleat_store_item item;
    struct cleat_store_call call = {operation, 1, &item, CLEAT_NEVER};
    char name[16];

    memset(&item, 0, sizeof item);
    item.key = name;
    item.key_bytes = (uint32_t)snprintf(name, sizeof name, "key/%u",
                                        (unsigned)key);
    item.payload = bytes;
    item.bytes = bytes_of(key);
    item.flags = raw ? CLEAT_STORE_RAW : 0;
    (void)store->call(store->context, &call);
    return (enum cleat_status)item.status;
}

static void work_once(struct cleat_store *store, struct counts *counts,
                      uint64_t *random)
{
    static unsigned char bytes[VALUE_BYTES_MAX];
    uint64_t drawn = next_random(random);
    uint32_t key = (uint32_t)(drawn % KEYS);
    uint32_t what = (uint32_t)(drawn >> 32) % 8;
    bool raw = key % 2 != 0;
    enum cleat_status status;

    if (what < 2) {
        fill(bytes, bytes_of(key), drawn / KEYS * KEYS + key);
        status = act(store, CLEAT_TRANSFER_DO_PUT, key, bytes, raw);
        counts->puts += status == CLEAT_OK;
        counts->existed += status == CLEAT_EXISTS;
        counts->full += status == CLEAT_CAPACITY;
        if (status != CLEAT_OK && status != CLEAT_EXISTS &&
            status != CLEAT_CAPACITY) {
            worker_fails("a put", key, status);
        }
    } else if (what == 2) {
        status = act(store, CLEAT_TRANSFER_DO_REMOVE, key, NULL, raw);
        counts->removes += status == CLEAT_OK;
        if (status != CLEAT_OK && status != CLEAT_NOT_FOUND) {
            worker_fails("a remove", key, status);
        }
    } else if (what == 3 && (drawn >> 40) % 64 == 0) {
        (void)cleat_memory_store_sweep(store);
    } else {
        status = act(store, CLEAT_TRANSFER_DO_GET, key, bytes, raw);
        counts->gets += status == CLEAT_OK;
        counts->busy += status == CLEAT_TRANSIENT;
        if (status != CLEAT_OK && status != CLEAT_NOT_FOUND &&
            status != CLEAT_TRANSIENT) {
            worker_fails("a get", key, status);
        }
        if (status == CLEAT_OK && !is_whole(bytes, bytes_of(key), key)) {
            worker_fails("a get: it is torn, or of another key", key, status);
        }
    }
    counts->rounds++;
}

static void worker_main(uint32_t who, uint64_t seed)
{
    static _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
    struct cleat_store store;
    struct cleat_error error;
    uint64_t random = seed * UINT64_C(0x9E3779B97F4A7C15) + who + 1;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (cleat_memory_store_attach(shared->block, BLOCK_BYTES, end, sizeof end,
                                  &store, &error) != CLEAT_OK) {
        worker_fails(error.text, 0, (int)error.status);
    }
    while (atomic_load(&shared->stop) == 0) {
        work_once(&store, &shared->counts[who], &random);
    }
    cleat_memory_store_detach(&store);
    _exit(0);
}

/* ---- who kills and stops ------------------------------------------------- */

static struct {
    pid_t pid;
    bool stopped;
} workers[WORKERS];

static unsigned long killed, stopped, awaited;

static void start(uint32_t who, uint64_t seed)
{
    workers[who].stopped = false;
    workers[who].pid = fork();
    must(workers[who].pid >= 0, "no process");
    if (workers[who].pid == 0) { worker_main(who, seed); }
}

static void must_be_well(void)
{
    if (shared->wrong[0] == '\0') { return; }
    fprintf(stderr, "memory_store_kill_test: %s\n", shared->wrong);
    exit(1);
}

static void kill_one(uint32_t who, uint64_t seed)
{
    int status = 0;

    kill(workers[who].pid, SIGKILL);
    must(waitpid(workers[who].pid, &status, 0) == workers[who].pid, "no child");
    must_be_well();
    must(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
         "a worker ended by itself");
    killed++;
    start(who, seed);
}

static void stop_or_wake(uint32_t who)
{
    uint32_t running = 0;

    for (uint32_t i = 0; i < WORKERS; i++) { running += !workers[i].stopped; }
    if (workers[who].stopped) {
        kill(workers[who].pid, SIGCONT);
        workers[who].stopped = false;
    } else if (running > 1) {
        kill(workers[who].pid, SIGSTOP);
        must(waitpid(workers[who].pid, NULL, WUNTRACED) == workers[who].pid,
             "no stop");
        must_be_well();
        workers[who].stopped = true;
        stopped++;
    }
}

/* Whoever runs gets on, or the watchdog barks. */
static void await_progress(void)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        uint64_t before = atomic_load(&shared->counts[i].rounds);

        while (!workers[i].stopped &&
               atomic_load(&shared->counts[i].rounds) < before + 20) {
            must_be_well();
            sched_yield();
        }
    }
    awaited++;
}

static void end_all(void)
{
    atomic_store(&shared->stop, 1);
    for (uint32_t i = 0; i < WORKERS; i++) {
        int status = 0;

        kill(workers[i].pid, SIGCONT);
        must(waitpid(workers[i].pid, &status, 0) == workers[i].pid, "no child");
        must_be_well();
        must(WIFEXITED(status) && WEXITSTATUS(status) == 0,
             "a worker did not end as it should");
    }
}

/* Everything is whole, and everything comes back. */
static void check_end(void)
{
    static _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
    static unsigned char bytes[VALUE_BYTES_MAX];
    struct cleat_memory_store_view view;
    struct cleat_store store;
    uint32_t keys = 0;

    must(cleat_memory_store_attach(shared->block, BLOCK_BYTES, end, sizeof end,
                                   &store, NULL) == CLEAT_OK,
         "it cannot be attached to");
    (void)cleat_memory_store_sweep(&store);
    for (uint32_t key = 0; key < KEYS; key++) {
        enum cleat_status status = act(&store, CLEAT_TRANSFER_DO_GET, key,
                                       bytes, key % 2 != 0);

        must(status == CLEAT_NOT_FOUND ||
                 (status == CLEAT_OK && is_whole(bytes, bytes_of(key), key)),
             "a value is not whole in the end");
        keys += status == CLEAT_OK;
    }
    cleat_memory_store_look(&store, &view);
    must(view.keys == keys, "an entry is there that no key leads to");
    must(view.held == 0, "an entry is held by nobody");
    must(view.processes == 1, "a place among the processes is lost");
    for (uint32_t key = 0; key < KEYS; key++) {
        (void)act(&store, CLEAT_TRANSFER_DO_REMOVE, key, NULL, false);
    }
    cleat_memory_store_look(&store, &view);
    must(view.keys == 0 && view.units == 0, "units do not come back");
}

struct sums {
    unsigned long puts, gets, removes, full, busy;
};

static struct sums sums_of_all(void)
{
    struct sums sums = {0, 0, 0, 0, 0};

    for (uint32_t i = 0; i < WORKERS; i++) {
        sums.puts += (unsigned long)shared->counts[i].puts;
        sums.gets += (unsigned long)shared->counts[i].gets;
        sums.removes += (unsigned long)shared->counts[i].removes;
        sums.full += (unsigned long)shared->counts[i].full;
        sums.busy += (unsigned long)shared->counts[i].busy;
    }
    return sums;
}

/* Less would not prove anything: it takes longer where processors are short. */
static bool is_enough(void)
{
    struct sums sums = sums_of_all();

    return killed > 10 && stopped > 10 && awaited > 10 && sums.puts > 100 &&
           sums.gets > 100 && sums.removes > 100;
}

static void print_counts(uint64_t seed)
{
    struct sums sums = sums_of_all();

    printf("seed %lu: %lu killed, %lu stopped, %lu times all others got on; "
           "%lu puts, %lu gets, %lu removes, %lu times full, %lu times busy\n",
           (unsigned long)seed, killed, stopped, awaited, sums.puts, sums.gets,
           sums.removes, sums.full, sums.busy);
}

static unsigned long seconds_since(const struct timespec *begun)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (unsigned long)(now.tv_sec - begun->tv_sec);
}

static void make_store(void)
{
    static _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
    struct cleat_memory_store_config config;
    struct cleat_store store;

    memset(&config, 0, sizeof config);
    config.keys_max = KEYS + WORKERS;
    config.unit_bytes = 256;
    config.processes_max = WORKERS + 2;
    must(cleat_memory_store_init(shared->block, BLOCK_BYTES / 8, &config, end,
                                 sizeof end, &store, NULL) == CLEAT_OK,
         "no store");
    cleat_memory_store_detach(&store);
}

int main(int argc, char **argv)
{
    unsigned long seconds = argc > 1 ? strtoul(argv[1], NULL, 10) : 5;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    uint64_t random = seed * UINT64_C(0xD1342543DE82EF95) + 1;
    struct timespec begun;

    alarm((unsigned)seconds + 120); /* the watchdog */
    clock_gettime(CLOCK_MONOTONIC, &begun);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(shared != MAP_FAILED, "no memory");
    make_store();
    for (uint32_t i = 0; i < WORKERS; i++) { start(i, next_random(&random)); }
    while (seconds_since(&begun) < seconds || !is_enough()) {
        struct timespec moment = {0, (long)(next_random(&random) % 3000000)};
        uint64_t drawn = next_random(&random);
        uint32_t who = (uint32_t)(drawn % WORKERS);

        nanosleep(&moment, NULL); /* any moment will do */
        if ((drawn >> 32) % 3 == 0) {
            kill_one(who, next_random(&random));
        } else {
            stop_or_wake(who);
        }
        if ((drawn >> 40) % 4 == 0) { await_progress(); }
    }
    end_all();
    check_end();
    print_counts(seed);
    return 0;
}
