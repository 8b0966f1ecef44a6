/* Cleat: whole jobs of real processes, through port/local.
 * SPDX-License-Identifier: Apache-2.0
 *
 * This program is the trainer, and run as `local_test engine …` each of its
 * engines. Engines serve all the time: they compare every byte with what the
 * version that they claim must have there, and keep accounts on a board in
 * shared memory. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cleat/local.h"
#include "no_malloc.h"

#define BUCKET_BYTES 4096u
#define ENGINES_MAX 4u
#define NEVER_BUCKET UINT32_MAX
#define WATCHDOG_S 100u

/* ------------------------------------------------------------ the tensors */

#define TENSORS 5u
static const struct {
    const char *name;
    enum cleat_dtype dtype;
    uint64_t elements;
    size_t bytes;
} shapes[TENSORS] = {{"larger.than.a.bucket", CLEAT_DTYPE_F32, 7001, 28004},
                     {"odd", CLEAT_DTYPE_U8, 12289, 12289},
                     {"empty", CLEAT_DTYPE_F32, 0, 0},
                     {"one", CLEAT_DTYPE_U8, 1, 1},
                     {"halves", CLEAT_DTYPE_BF16, 5000, 10000}};
#define BYTES_MAX 28004u
#define BUCKETS 13u /* 50294 bytes with their alignment, in 4096 each */

struct set {
    unsigned char data[TENSORS][BYTES_MAX];
    struct cleat_memory_tensor table[TENSORS];
    struct cleat_memory_tensors tensors;
};

/* What byte `at` of a tensor is in a version. */
static unsigned char byte_of(uint64_t version, uint32_t tensor, size_t at)
{
    uint64_t x = version * UINT64_C(0x9E3779B97F4A7C15) + tensor * 1000003u +
                 at * UINT64_C(0xBF58476D1CE4E5B9);

    return (unsigned char)(x >> 56 ^ x >> 17);
}

static void fill(struct set *set, uint64_t version)
{
    for (uint32_t t = 0; t < TENSORS; t++) {
        for (size_t i = 0; i < shapes[t].bytes; i++) {
            set->data[t][i] = byte_of(version, t, i);
        }
    }
}

static bool is_whole(const struct set *set, uint32_t count, uint64_t version)
{
    for (uint32_t t = 0; t < count; t++) {
        for (size_t i = 0; i < shapes[t].bytes; i++) {
            if (set->data[t][i] != byte_of(version, t, i)) { return false; }
        }
    }
    return true;
}

/* Other tables of the same sizes. */
static void name_otherwise(struct set *set)
{
    set->table[1].name = shapes[4].name;
    set->table[4].name = shapes[1].name;
}

static void type_otherwise(struct set *set)
{
    set->table[1].dtype = CLEAT_DTYPE_I8;
}

/* The first `count` of them. */
static enum cleat_status join(struct set *set, uint32_t count,
                              struct cleat_error *error)
{
    for (uint32_t t = 0; t < TENSORS; t++) {
        set->table[t] = (struct cleat_memory_tensor){
            .name = shapes[t].name,
            .dtype = shapes[t].dtype,
            .rank = 1,
            .shape = {shapes[t].elements},
            .data = set->data[t]};
    }
    return cleat_memory_tensors_init(&set->tensors, set->table, count, error);
}

/* -------------------------------------------------------------- the board */

/* What an engine is to do wrong, and when: member, version, bucket. */
struct order {
    _Atomic uint32_t member; /* 0: nobody */
    _Atomic uint64_t version;
    _Atomic uint32_t bucket;
    _Atomic uint32_t all;   /* every engine */
    _Atomic int32_t signal; /* 0: SIGKILL */
};

struct account {
    _Atomic uint64_t version; /* the last commit's */
    _Atomic uint64_t commits;
    _Atomic uint64_t whole; /* how often it looked and every byte was right */
    _Atomic uint64_t torn;  /* … and was not */
    _Atomic int32_t ended;  /* what cleat_local_engine_run said; 1: not yet */
};

struct board {
    struct order die;
    _Atomic uint32_t refuse_start;           /* so many times, by each */
    _Atomic uint32_t refuse_commit;          /* likewise */
    _Atomic uint32_t moments;                /* of buckets, in any process */
    struct account engines[1 + ENGINES_MAX]; /* by member */
};

static struct board *board;

static struct board *map_board(int fd)
{
    void *at = mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE,
                    MAP_SHARED, fd, 0);

    return at == MAP_FAILED ? NULL : at;
}

/* -------------------------------------------------------------- an engine */

struct engine {
    struct cleat_local_engine *local;
    struct set sets[2];
    uint32_t member; /* 0: not told yet */
    uint64_t version;
    uint32_t refused;
    uint32_t commits_refused;
    uint32_t count; /* tensors */
    atomic_bool over;
};

static struct engine engine;
static _Alignas(64) unsigned char engine_block[512 * 1024];

static struct account *account(void)
{
    return &board->engines[engine.member];
}

static enum cleat_status engine_start(void *context)
{
    (void)context;
    if (engine.refused < atomic_load(&board->refuse_start)) {
        engine.refused++;
        return CLEAT_TRANSIENT;
    }
    return CLEAT_OK;
}

/* The first command of an update: from here on it knows who it is. */
static enum cleat_status
engine_pause(void *context, const struct cleat_worker_command *command)
{
    (void)context;
    engine.member = command->member;
    engine.version = command->version;
    atomic_store(&account()->ended, 1);
    return CLEAT_OK;
}

static enum cleat_status
engine_commit(void *context, const struct cleat_worker_command *command)
{
    const struct set *live =
        &engine.sets[cleat_local_engine_live(engine.local)];

    (void)context;
    if (!is_whole(live, engine.count, command->version)) {
        atomic_fetch_add(&account()->torn, 1);
        return CLEAT_CORRUPT;
    }
    if (engine.commits_refused < atomic_load(&board->refuse_commit)) {
        engine.commits_refused++;
        return CLEAT_TRANSIENT;
    }
    atomic_fetch_add(&account()->commits, 1);
    atomic_store(&account()->version, command->version);
    return CLEAT_OK;
}

/* After a commit that failed, what would be served is the old version. */
static void look_after_commit(void *context, enum cleat_worker_moment moment,
                              const struct cleat_worker_command *command,
                              enum cleat_status status,
                              struct cleat_worker_fault *fault)
{
    const struct set *live =
        &engine.sets[cleat_local_engine_live(engine.local)];

    (void)context;
    (void)fault;
    if (moment == CLEAT_WORKER_AFTER && command->step == CLEAT_SYNC_COMMIT &&
        status != CLEAT_OK && is_whole(live, engine.count, command->version)) {
        atomic_fetch_add(&account()->torn, 1);
    }
}

static enum cleat_status strike(void *context, enum cleat_stream_moment moment,
                                uint32_t bucket, void **data, uint64_t bytes)
{
    const struct order *die = &board->die;

    (void)context;
    (void)data;
    (void)bytes;
    atomic_fetch_add(&board->moments, 1);
    if (moment == CLEAT_STREAM_DONE && atomic_load(&die->bucket) == bucket &&
        atomic_load(&die->version) == engine.version &&
        (atomic_load(&die->all) != 0 ||
         atomic_load(&die->member) == engine.member)) {
        int signal = atomic_load(&die->signal);

        (void)raise(signal == 0 ? SIGKILL : signal);
    }
    return CLEAT_OK;
}

/* Looks at all bytes, again and again, while it may serve. */
static void *serve(void *nothing)
{
    struct cleat_worker *worker = cleat_local_engine_worker(engine.local);

    (void)nothing;
    while (!atomic_load(&engine.over)) {
        uint64_t version = 0;
        bool whole;

        if (!cleat_worker_admit(worker, &version)) {
            (void)usleep(1000);
            continue;
        }
        whole = is_whole(&engine.sets[cleat_local_engine_live(engine.local)],
                         engine.count, version);
        cleat_worker_served(worker, !whole);
        atomic_fetch_add(whole ? &account()->whole : &account()->torn, 1);
        cleat_worker_leave(worker);
        (void)usleep(200);
    }
    return NULL;
}

/* What the trainer's tensors are. */
static uint32_t whole_layout(void)
{
    static struct set all;
    struct cleat_tensor_source source;
    uint32_t layout = 0;

    if (join(&all, TENSORS, NULL) != CLEAT_OK) { return 0; }
    source = cleat_memory_tensors_source(&all.tensors);
    (void)cleat_tensors_layout(&source, BUCKET_BYTES, &layout);
    return layout;
}

static int run_engine(char **argv)
{
    bool in_place = strcmp(argv[2], "in-place") == 0;
    int fd = open(argv[3], O_RDWR | O_CLOEXEC);
    struct cleat_local_engine_config config = {
        .worker = {.fd = CLEAT_LINUX_CHANNEL_FD,
                   .host = {.start = engine_start,
                            .pause = engine_pause,
                            .commit = engine_commit,
                            .intercept = look_after_commit}},
        .transfer = {.bucket_bytes = BUCKET_BYTES, .hook = strike}};
    struct cleat_error error;
    pthread_t server;
    enum cleat_status status;

    uint32_t count = strcmp(argv[2], "nothing") == 0 ? 0
                     : strcmp(argv[2], "fewer") == 0 ? TENSORS - 1
                                                     : TENSORS;

    engine.count = count;
    if (strcmp(argv[2], "leaves") == 0) { return 7; }
    if (strcmp(argv[2], "dumb") == 0) {
        for (;;) { (void)pause(); }
    }
    board = fd < 0 ? NULL : map_board(fd);
    if (board == NULL) { return 3; }
    for (uint32_t i = 0; i < 2; i++) {
        fill(&engine.sets[i], 0);
        if (join(&engine.sets[i], count, &error) != CLEAT_OK) { return 4; }
        if (strcmp(argv[2], "renamed") == 0) {
            name_otherwise(&engine.sets[i]);
        }
        if (strcmp(argv[2], "retyped") == 0) {
            type_otherwise(&engine.sets[i]);
        }
    }
    if (strcmp(argv[2], "bucketed") == 0) { config.transfer.bucket_bytes *= 2; }
    if (strcmp(argv[2], "fewer") == 0) {
        config.worker.layout = whole_layout();
    }
    config.live = cleat_memory_tensors_sink(&engine.sets[0].tensors);
    if (!in_place) {
        config.staged = cleat_memory_tensors_sink(&engine.sets[1].tensors);
    }
    if (cleat_local_engine_bytes(&config) > sizeof engine_block) { return 5; }
    status = cleat_local_engine_open(engine_block, sizeof engine_block, &config,
                                     &engine.local, &error);
    if (status != CLEAT_OK) {
        (void)fprintf(stderr, "engine: %s\n", error.text);
        return 6;
    }
    if (pthread_create(&server, NULL, serve, NULL) != 0) { return 8; }
    status = cleat_local_engine_run(engine.local);
    atomic_store(&account()->ended, (int32_t)status);
    atomic_store(&engine.over, true);
    (void)pthread_join(server, NULL);
    cleat_local_engine_close(engine.local);
    return status == CLEAT_OK ? 0 : 9;
}

/* ------------------------------------------------------------- the trainer */

static char self[4096];
static char board_path[64];
static struct set weights;
static _Alignas(64) unsigned char block[1024 * 1024];

static int count_entries(const char *path)
{
    DIR *folder = opendir(path);
    int count = 0;

    assert_non_null(folder);
    while (readdir(folder) != NULL) { count++; }
    (void)closedir(folder);
    return count;
}

struct before {
    int descriptors;
    int threads;
};

static struct before before;
static struct cleat_local *job; /* that is open */

static int setup(void **state)
{
    int fd;

    (void)state;
    (void)alarm(WATCHDOG_S);
    (void)snprintf(board_path, sizeof board_path, "/dev/shm/cleat-test-%ld",
                   (long)getpid());
    (void)unlink(board_path); /* of one that was killed, and had this number */
    fd = open(board_path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, sizeof(struct board)), 0);
    board = map_board(fd);
    assert_non_null(board);
    (void)close(fd);
    atomic_store(&board->die.bucket, NEVER_BUCKET);
    assert_int_equal(join(&weights, TENSORS, NULL), CLEAT_OK);
    before.descriptors = count_entries("/proc/self/fd");
    before.threads = count_entries("/proc/self/task");
    return 0;
}

/* Whatever came of it, nothing of it is left. */
static int teardown(void **state)
{
    (void)state;
    cleat_test_forbid_malloc(false);
    cleat_local_close(job); /* of a test that failed */
    job = NULL;
    (void)unlink(board_path);
    assert_int_equal(count_entries("/proc/self/fd"), before.descriptors);
    /* One that was joined may be listed for a moment longer. */
    while (count_entries("/proc/self/task") != before.threads) {
        (void)sched_yield();
    }
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    (void)munmap(board, sizeof *board);
    (void)alarm(0);
    return 0;
}

static char *argv_of(const char *mode)
{
    static char engine_word[] = "engine";
    static char mode_word[32];
    static char *argv[5];

    (void)snprintf(mode_word, sizeof mode_word, "%s", mode);
    argv[0] = self;
    argv[1] = engine_word;
    argv[2] = mode_word;
    argv[3] = board_path;
    argv[4] = NULL;
    return (char *)argv;
}

static struct cleat_local_config config_for(const char *mode, uint32_t replicas)
{
    struct cleat_local_config config = {
        .source = cleat_memory_tensors_source(&weights.tensors),
        .engine_path = self,
        .engine_argv = (char *const *)(void *)argv_of(mode),
        .replicas = replicas,
        .transfer = {.bucket_bytes = BUCKET_BYTES},
        .grace_ns = WATCHDOG_S * CLEAT_NS_PER_S};

    return config;
}

static struct cleat_local *open_job(const struct cleat_local_config *config)
{
    struct cleat_local *local = NULL;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};
    enum cleat_status status;

    assert_true(cleat_local_bytes(config) <= sizeof block);
    status = cleat_local_open(block, cleat_local_bytes(config), config, &local,
                              &error);
    if (status != CLEAT_OK) { print_error("open: %s\n", error.text); }
    assert_int_equal(status, CLEAT_OK);
    assert_non_null(local);
    job = local;
    return local;
}

static void close_job(struct cleat_local *local)
{
    job = NULL;
    cleat_local_close(local);
}

/* One update. Nothing of the library may allocate meanwhile; in the first one,
 * a sanitizer may still be starting the threads. */
static enum cleat_status sync_to(struct cleat_local *local, uint64_t version,
                                 struct cleat_sync_report *report,
                                 struct cleat_error *error)
{
    enum cleat_status status;

    fill(&weights, version);
    cleat_test_forbid_malloc(version > 1);
    status = cleat_local_sync(local, version, report, error);
    cleat_test_forbid_malloc(false);
    return status;
}

static void assert_committed(struct cleat_local *local, uint64_t version,
                             uint32_t replicas)
{
    struct cleat_sync_report report;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};
    enum cleat_status status = sync_to(local, version, &report, &error);

    if (status != CLEAT_OK) { print_error("sync: %s\n", error.text); }
    assert_int_equal(status, CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_COMMITTED);
    assert_int_equal(report.version, version);
    assert_int_equal(report.serving, replicas);
    assert_int_equal(report.errors_count, 0);
    for (uint32_t i = 1; i <= replicas; i++) {
        assert_int_equal(atomic_load(&board->engines[i].version), version);
    }
}

/* Waits until an engine has looked at its bytes while serving, `times` more. */
static void await_served(struct cleat_local *local, uint32_t member,
                         uint64_t times)
{
    const struct account *of = &board->engines[member];
    uint64_t until = atomic_load(&of->whole) + times;

    (void)local;
    while (atomic_load(&of->whole) < until && atomic_load(&of->torn) == 0) {
        (void)sched_yield();
    }
    assert_int_equal(atomic_load(&of->torn), 0);
}

static void assert_ended_well(uint32_t member)
{
    assert_int_equal(atomic_load(&board->engines[member].ended), CLEAT_OK);
    assert_int_equal(atomic_load(&board->engines[member].torn), 0);
}

/* Ends an engine, or waits until it has ended by itself, and was reaped. */
static void end_engine(struct cleat_local *local, uint32_t member, int with)
{
    struct cleat_linux_workers *workers = cleat_local_workers(local);
    struct cleat_linux_worker_view view;
    uint64_t seen = 0;

    assert_int_equal(cleat_linux_worker_look(workers, member, &view), CLEAT_OK);
    if (with != 0) { assert_int_equal(kill(view.pid, with), 0); }
    while (!view.reaped) {
        (void)cleat_linux_workers_await(workers, &seen, CLEAT_NEVER);
        (void)cleat_linux_worker_look(workers, member, &view);
    }
}

static void start_engine(struct cleat_local *local, uint32_t member,
                         const char *mode)
{
    char *const *argv = (char *const *)(void *)argv_of(mode);
    enum cleat_status status = CLEAT_EXISTS;

    /* Until the last one's end is told. */
    while (status == CLEAT_EXISTS) {
        status = cleat_linux_workers_spawn(cleat_local_workers(local), member,
                                           self, argv, NULL, NULL);
        (void)sched_yield();
    }
    assert_int_equal(status, CLEAT_OK);
}

static void bring_versions(const char *mode)
{
    struct cleat_local_config config = config_for(mode, 3);
    struct cleat_local *local = open_job(&config);

    for (uint64_t version = 1; version <= 6; version++) {
        assert_committed(local, version, 3);
        for (uint32_t i = 1; i <= 3; i++) { await_served(local, i, 2); }
    }
    close_job(local);
    for (uint32_t i = 1; i <= 3; i++) {
        assert_ended_well(i);
        assert_int_equal(atomic_load(&board->engines[i].commits), 6);
    }
}

static void staged_brings_every_version_to_every_engine(void **state)
{
    (void)state;
    bring_versions("staged");
}

static void in_place_brings_every_version_to_every_engine(void **state)
{
    (void)state;
    bring_versions("in-place");
}

static void a_commit_that_fails_leaves_the_old_version_in_place(void **state)
{
    struct cleat_local_config config = config_for("staged", 2);
    struct cleat_local *local = open_job(&config);
    struct cleat_sync_report report;

    (void)state;
    for (uint32_t times = 1; times <= 2; times++) {
        atomic_store(&board->refuse_commit, times);
        assert_int_equal(sync_to(local, times, &report, NULL), CLEAT_OK);
        assert_int_equal(report.outcome, CLEAT_SYNC_COMMITTED);
        await_served(local, 1, 2);
        await_served(local, 2, 2);
    }
    close_job(local);
    assert_ended_well(1);
    assert_ended_well(2);
}

static void an_engine_killed_half_way_leaves_the_others_right(const char *mode)
{
    struct cleat_local_config config = config_for(mode, 3);
    struct cleat_local *local = open_job(&config);
    struct cleat_sync_report report;

    assert_committed(local, 1, 3);
    atomic_store(&board->die.member, 2);
    atomic_store(&board->die.version, 2);
    atomic_store(&board->die.bucket, BUCKETS / 2);
    assert_int_equal(sync_to(local, 2, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_DEGRADED);
    assert_int_equal(report.serving, 2);
    assert_true(report.errors_count > 0);
    assert_int_equal(atomic_load(&board->engines[1].version), 2);
    assert_int_equal(atomic_load(&board->engines[2].version), 1);
    assert_int_equal(atomic_load(&board->engines[3].version), 2);
    assert_int_equal(cleat_sync_replica_state(cleat_local_machine(local), 1),
                     CLEAT_SYNC_DEAD);
    await_served(local, 1, 2);
    await_served(local, 3, 2);
    /* And the job goes on with those that are left. */
    assert_int_equal(sync_to(local, 3, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_DEGRADED);
    assert_int_equal(report.serving, 2);
    assert_int_equal(atomic_load(&board->engines[3].version), 3);
    close_job(local);
    assert_ended_well(1);
    assert_ended_well(3);
}

static void an_engine_killed_half_way_staged(void **state)
{
    (void)state;
    an_engine_killed_half_way_leaves_the_others_right("staged");
}

static void an_engine_killed_half_way_in_place(void **state)
{
    (void)state;
    an_engine_killed_half_way_leaves_the_others_right("in-place");
}

/* In place, with no second attempt: what the others hold is neither version,
 * and they say so. */
static void who_was_half_written_over_does_not_serve(void **state)
{
    struct cleat_local_config config = config_for("in-place", 2);
    struct cleat_sync_report report;
    struct cleat_local *local;

    (void)state;
    config.attempts_max = 1;
    local = open_job(&config);
    assert_committed(local, 1, 2);
    atomic_store(&board->die.member, 2);
    atomic_store(&board->die.version, 2);
    atomic_store(&board->die.bucket, BUCKETS / 2);
    assert_int_equal(sync_to(local, 2, &report, NULL), CLEAT_RESTART);
    assert_int_equal(report.outcome, CLEAT_SYNC_RESTART);
    assert_int_equal(
        cleat_sync_member_holding(cleat_local_machine(local), 1, NULL),
        CLEAT_SYNC_TORN);
    close_job(local);
    assert_ended_well(1);
}

static void when_all_engines_are_killed_the_job_must_restart(void **state)
{
    struct cleat_local_config config = config_for("staged", 2);
    struct cleat_local *local = open_job(&config);
    struct cleat_sync_report report;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    assert_committed(local, 1, 2);
    atomic_store(&board->die.version, 2);
    atomic_store(&board->die.bucket, 1);
    atomic_store(&board->die.all, 1);
    assert_int_equal(sync_to(local, 2, &report, &error), CLEAT_RESTART);
    assert_int_equal(report.outcome, CLEAT_SYNC_RESTART);
    assert_int_equal(report.serving, 0);
    assert_int_equal(error.status, CLEAT_RESTART);
    assert_int_not_equal(error.text[0], 0);
    assert_int_equal(sync_to(local, 3, &report, &error), CLEAT_STATE);
    close_job(local);
}

static void an_engine_that_stands_still_is_set_apart(void **state)
{
    struct cleat_local_config config = config_for("in-place", 2);
    struct cleat_sync_report report;
    struct cleat_local *local;

    (void)state;
    config.step_timeout_ns = 10 * CLEAT_NS_PER_S;
    config.transfer.silence_ns = CLEAT_NS_PER_S;
    local = open_job(&config);
    atomic_store(&board->die.signal, SIGSTOP);
    atomic_store(&board->die.member, 1);
    atomic_store(&board->die.version, 1);
    atomic_store(&board->die.bucket, 1);
    assert_int_equal(sync_to(local, 1, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_DEGRADED);
    assert_true(report.attempts >= 2);
    assert_int_equal(atomic_load(&board->engines[2].version), 1);
    assert_int_equal(cleat_sync_replica_state(cleat_local_machine(local), 0),
                     CLEAT_SYNC_DEAD);
    await_served(local, 2, 2);
    close_job(local);
    assert_ended_well(2);
}

/* ---- tensors that are not the job's */

static enum cleat_status count_moment(void *context,
                                      enum cleat_stream_moment moment,
                                      uint32_t bucket, void **data,
                                      uint64_t bytes)
{
    (void)context;
    (void)moment;
    (void)bucket;
    (void)data;
    (void)bytes;
    atomic_fetch_add(&board->moments, 1);
    return CLEAT_OK;
}

/* Names permuted, a dtype of the same size, another bucket size, fewer. */
static void
engines_with_other_tensors_are_found_before_a_byte_moves(void **state)
{
    static const char *const modes[] = {"renamed", "retyped", "bucketed",
                                        "nothing"};

    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        struct cleat_local_config config = config_for(modes[i], 2);
        struct cleat_local *local = (void *)block;
        struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};
        char wanted[64];

        config.transfer.hook = count_moment;
        assert_int_equal(
            cleat_local_open(block, sizeof block, &config, &local, &error),
            CLEAT_PEER_DEVIANT);
        assert_null(local);
        assert_in_range(error.index, 1, 2);
        (void)snprintf(wanted, sizeof wanted, "is not the job's (0x%08x)",
                       (unsigned)whole_layout());
        assert_non_null(strstr(error.text, wanted));
        assert_int_equal(atomic_load(&board->moments), 0);
    }
}

static void one_that_comes_back_with_other_tensors_is_kept_out(void **state)
{
    struct cleat_local_config config = config_for("staged", 2);
    struct cleat_sync_report report;
    struct cleat_local *local;

    (void)state;
    local = open_job(&config);
    assert_committed(local, 1, 2);
    end_engine(local, 1, SIGKILL);
    start_engine(local, 1, "renamed");
    assert_int_equal(
        cleat_linux_worker_wait(cleat_local_workers(local), 1, CLEAT_NEVER),
        CLEAT_PEER_DEVIANT);
    end_engine(local, 1, 0); /* by itself */
    assert_int_equal(sync_to(local, 2, &report, NULL), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_DEGRADED);
    assert_int_equal(atomic_load(&board->engines[1].version), 1);
    assert_int_equal(atomic_load(&board->engines[2].version), 2);
    await_served(local, 2, 2);
    /* and one with the job's has its place again */
    start_engine(local, 1, "staged");
    assert_int_equal(
        cleat_linux_worker_wait(cleat_local_workers(local), 1, CLEAT_NEVER),
        CLEAT_OK);
    assert_committed(local, 3, 2);
    close_job(local);
    assert_ended_well(1);
    assert_ended_well(2);
}

static void an_engines_two_sinks_must_be_alike(void **state)
{
    static struct set other;
    struct cleat_local_engine_config config = {
        .live = cleat_memory_tensors_sink(&weights.tensors),
        .transfer = {.bucket_bytes = BUCKET_BYTES}};
    struct cleat_local_engine *local_engine = (void *)block;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    assert_int_equal(join(&other, TENSORS, NULL), CLEAT_OK);
    name_otherwise(&other);
    config.staged = cleat_memory_tensors_sink(&other.tensors);
    assert_int_equal(cleat_local_engine_open(block, sizeof block, &config,
                                             &local_engine, &error),
                     CLEAT_INVALID);
    assert_null(local_engine);
    assert_string_equal(error.text, "local: an engine's live and staged "
                                    "tensors must have the same table");
}

/* One that says it has the job's tensors and has not. Then nothing is served
 * that is not right, and the job goes on as it was. */
static void an_engine_with_fewer_tensors_gets_nothing(void **state)
{
    struct cleat_local_config config = config_for("fewer", 2);
    struct cleat_sync_report report;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};
    struct cleat_local *local;

    (void)state;
    config.attempts_max = 2;
    config.transfer.silence_ns = 200 * CLEAT_NS_PER_MS;
    local = open_job(&config);
    assert_int_not_equal(sync_to(local, 1, &report, &error), CLEAT_OK);
    assert_int_equal(report.outcome, CLEAT_SYNC_ROLLED_BACK);
    assert_int_equal(report.serving, 2);
    await_served(local, 1, 2);
    await_served(local, 2, 2);
    close_job(local);
    assert_ended_well(1);
    assert_ended_well(2);
}

static void a_table_without_tensors_goes_round_too(void **state)
{
    struct cleat_local_config config = config_for("nothing", 2);
    struct cleat_sync_report report;
    struct cleat_local *local;

    (void)state;
    assert_int_equal(join(&weights, 0, NULL), CLEAT_OK);
    local = open_job(&config);
    assert_committed(local, 1, 2);
    assert_committed(local, 2, 2);
    assert_int_equal(cleat_local_sync(local, 0, &report, NULL), CLEAT_INVALID);
    close_job(local);
    assert_ended_well(1);
}

/* ---- stopping */

struct watcher {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum cleat_sync_step step;
    bool seen;
};

static void watch(void *context, const struct cleat_event *event)
{
    struct watcher *watcher = context;

    (void)pthread_mutex_lock(&watcher->lock);
    if (event->kind == CLEAT_EVENT_STEP && event->step == watcher->step) {
        watcher->seen = true;
        (void)pthread_cond_broadcast(&watcher->changed);
    }
    (void)pthread_mutex_unlock(&watcher->lock);
}

struct stopper {
    struct watcher *watcher;
    struct cleat_local *local;
    enum cleat_status status;
};

static void *stop_when_seen(void *context)
{
    struct stopper *stopper = context;
    struct watcher *watcher = stopper->watcher;

    (void)pthread_mutex_lock(&watcher->lock);
    while (!watcher->seen) {
        (void)pthread_cond_wait(&watcher->changed, &watcher->lock);
    }
    (void)pthread_mutex_unlock(&watcher->lock);
    stopper->status = cleat_local_stop(stopper->local);
    return NULL;
}

static void an_update_that_is_stopped_goes_back_or_was_decided(void **state)
{
    static const enum cleat_sync_step steps[] = {
        CLEAT_SYNC_PAUSE, CLEAT_SYNC_PREPARE, CLEAT_SYNC_SEND,
        CLEAT_SYNC_COMMIT};
    struct watcher watcher = {.lock = PTHREAD_MUTEX_INITIALIZER,
                              .changed = PTHREAD_COND_INITIALIZER};
    struct cleat_local_config config = config_for("staged", 2);
    struct cleat_local *local;
    uint64_t version = 1;

    (void)state;
    config.events = (struct cleat_events){&watcher, watch};
    watcher.step = CLEAT_SYNC_STEPS;
    local = open_job(&config);
    for (uint32_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct stopper stopper = {&watcher, local, CLEAT_PENDING};
        struct cleat_sync_report report;
        struct cleat_error error;
        enum cleat_status status;
        pthread_t thread;

        (void)pthread_mutex_lock(&watcher.lock);
        watcher.step = steps[i];
        watcher.seen = false;
        (void)pthread_mutex_unlock(&watcher.lock);
        assert_int_equal(
            pthread_create(&thread, NULL, stop_when_seen, &stopper), 0);
        /* The stopper's thread may allocate as it begins and ends. */
        fill(&weights, version);
        status = cleat_local_sync(local, version, &report, &error);
        (void)pthread_join(thread, NULL);
        if (stopper.status == CLEAT_OK) {
            assert_int_equal(status, CLEAT_CANCELLED);
            assert_int_equal(report.outcome, CLEAT_SYNC_ROLLED_BACK);
            assert_int_equal(report.serving, 2);
        } else {
            assert_int_equal(stopper.status, CLEAT_STATE);
            assert_int_equal(report.outcome, CLEAT_SYNC_COMMITTED);
        }
        version++;
        assert_committed(local, version, 2);
        version++;
    }
    assert_int_equal(cleat_local_stop(local), CLEAT_STATE);
    close_job(local);
    assert_ended_well(1);
    assert_ended_well(2);
}

/* ---- opening */

static void engines_that_are_not_ready_at_first_are_waited_for(void **state)
{
    struct cleat_local_config config = config_for("staged", 2);
    struct cleat_local *local;

    (void)state;
    atomic_store(&board->refuse_start, 2);
    local = open_job(&config);
    assert_committed(local, 1, 2);
    close_job(local);
}

static void without_the_engines_program_nothing_opens(void **state)
{
    struct cleat_local_config config = config_for("staged", 3);
    struct cleat_local *local = (void *)block;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    config.engine_path = "/nonexistent/engine";
    assert_int_equal(
        cleat_local_open(block, sizeof block, &config, &local, &error),
        CLEAT_IO);
    assert_null(local);
    assert_int_equal(error.status, CLEAT_IO);
    assert_int_equal(error.port_code, ENOENT);
    assert_int_equal(error.index, 1);
    assert_non_null(strstr(error.text, "/nonexistent/engine"));
}

static void an_engine_that_ends_at_once_is_named(void **state)
{
    struct cleat_local_config config = config_for("leaves", 3);
    struct cleat_local *local = (void *)block;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    assert_int_equal(
        cleat_local_open(block, sizeof block, &config, &local, &error),
        CLEAT_PEER_LOST);
    assert_null(local);
    assert_in_range(error.index, 1, 3);
}

static void an_engine_that_never_speaks_is_named_when_time_is_up(void **state)
{
    struct cleat_local_config config = config_for("dumb", 2);
    struct cleat_local *local = (void *)block;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    config.start_timeout_ns = 6 * CLEAT_NS_PER_S;
    config.grace_ns = 0; /* they end by no word */
    assert_int_equal(
        cleat_local_open(block, sizeof block, &config, &local, &error),
        CLEAT_DEADLINE);
    assert_null(local);
    assert_in_range(error.index, 1, 2);
}

/* A block that ends where it can be seen to be written beyond. */
static void the_bytes_told_are_enough_at_any_alignment(void **state)
{
    struct cleat_local_config config = config_for("staged", 2);
    size_t bytes = cleat_local_bytes(&config);

    (void)state;
    config.engine_path = "/nonexistent/engine";
    assert_true(bytes > 0 && bytes + 128 < sizeof block);
    for (size_t skip = 0; skip < 64; skip++) {
        struct cleat_local *local;
        struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

        memset(block, 0x5A, sizeof block);
        assert_int_equal(
            cleat_local_open(block + skip, bytes, &config, &local, &error),
            CLEAT_IO);
        for (size_t i = 0; i < skip; i++) { assert_int_equal(block[i], 0x5A); }
        for (size_t i = skip + bytes; i < sizeof block; i++) {
            assert_int_equal(block[i], 0x5A);
        }
    }
}

static void too_few_bytes_say_how_many_are_needed(void **state)
{
    struct cleat_local_config config = config_for("staged", 2);
    size_t bytes = cleat_local_bytes(&config);
    struct cleat_local *local = (void *)block;
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};

    (void)state;
    /* At the worst alignment 63 bytes are lost before the first part; and the
     * last one is counted to a multiple of 64. */
    assert_int_equal(
        cleat_local_open(block + 1, bytes - 64, &config, &local, &error),
        CLEAT_TOO_SMALL);
    assert_null(local);
    assert_int_equal(error.offset, bytes);
    assert_int_equal(cleat_local_open(block, 1, &config, &local, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
}

static void what_is_missing_is_refused(void **state)
{
    struct cleat_local_config config = config_for("staged", 2);
    struct cleat_local_config bad[6] = {config, config, config,
                                        config, config, config};
    struct cleat_local *local = (void *)block;
    struct cleat_error error;

    (void)state;
    bad[0].source.count = NULL;
    bad[1].engine_path = NULL;
    bad[2].engine_argv = NULL;
    bad[3].replicas = 0;
    bad[4].replicas = 1024;
    bad[5].replicas = UINT32_MAX;
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(cleat_local_bytes(&bad[i]), 0);
        local = (void *)block;
        assert_int_equal(
            cleat_local_open(block, sizeof block, &bad[i], &local, &error),
            CLEAT_INVALID);
        assert_null(local);
    }
    assert_int_equal(cleat_local_open(NULL, 0, &config, &local, &error),
                     CLEAT_INVALID);
    config.replicas_min = 3;
    assert_int_equal(
        cleat_local_open(block, sizeof block, &config, &local, &error),
        CLEAT_INVALID);
    config.replicas_min = 0;
    config.transfer.bucket_bytes = 100; /* no multiple of 256 */
    assert_int_equal(
        cleat_local_open(block, sizeof block, &config, &local, &error),
        CLEAT_INVALID);
    cleat_local_close(NULL);
}

static void an_end_with_too_little_says_how_much_it_needs(void **state)
{
    struct cleat_local_engine_config engine_config = {
        .live = cleat_memory_tensors_sink(&weights.tensors),
        .transfer = {.bucket_bytes = BUCKET_BYTES}};
    struct cleat_local_trainer_config trainer_config = {
        .source = cleat_memory_tensors_source(&weights.tensors),
        .receivers_max = 3,
        .transfer = {.bucket_bytes = BUCKET_BYTES}};
    size_t engine_bytes = cleat_local_engine_bytes(&engine_config);
    size_t trainer_bytes = cleat_local_trainer_bytes(&trainer_config);
    struct cleat_local_engine *local_engine;
    struct cleat_local_trainer *trainer;
    struct cleat_error error;

    (void)state;
    assert_int_equal(cleat_local_engine_open(block + 1, engine_bytes - 64,
                                             &engine_config, &local_engine,
                                             &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, engine_bytes);
    assert_int_equal(cleat_local_trainer_open(block + 1, trainer_bytes - 64,
                                              &trainer_config, &trainer,
                                              &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, trainer_bytes);
    /* Enough of it, but no channel: nothing is left open. */
    engine_config.worker.fd = -1;
    trainer_config.worker.fd = -1;
    assert_int_equal(cleat_local_engine_open(block + 1, engine_bytes,
                                             &engine_config, &local_engine,
                                             &error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_local_trainer_open(block + 1, trainer_bytes,
                                              &trainer_config, &trainer,
                                              &error),
                     CLEAT_INVALID);
    trainer_config.receivers_max = 0;
    assert_int_equal(cleat_local_trainer_open(block, sizeof block,
                                              &trainer_config, &trainer,
                                              &error),
                     CLEAT_INVALID);
    trainer_config.source.count = NULL;
    assert_int_equal(cleat_local_trainer_bytes(&trainer_config), 0);
    engine_config.live.count = NULL;
    assert_int_equal(cleat_local_engine_bytes(&engine_config), 0);
    assert_int_equal(cleat_local_engine_open(block, sizeof block,
                                             &engine_config, &local_engine,
                                             &error),
                     CLEAT_INVALID);
    cleat_local_engine_close(NULL);
    cleat_local_trainer_close(NULL);
}

/* ---- closing while somebody waits */

struct waiter {
    struct cleat_linux_workers *workers;
    atomic_bool waits;
    enum cleat_status status;
};

static void *wait_for_ever(void *context)
{
    struct waiter *waiter = context;

    atomic_store(&waiter->waits, true);
    waiter->status = cleat_linux_worker_wait(waiter->workers, 0, CLEAT_NEVER);
    return NULL;
}

static void closing_ends_every_wait(void **state)
{
    static _Alignas(
        64) unsigned char workers_block[CLEAT_LINUX_WORKERS_BYTES(2)];
    static _Alignas(
        64) unsigned char mailbox_block[CLEAT_LINUX_MAILBOX_BYTES(8)];
    struct cleat_linux_workers_config config = {.members = 2, .trainers = 1};
    struct waiter waiter = {.status = CLEAT_PENDING};
    struct cleat_linux_workers *workers;
    pthread_t thread;
    int pair[2];

    (void)state;
    assert_int_equal(cleat_linux_mailbox_init(mailbox_block,
                                              sizeof mailbox_block, 8,
                                              &config.mailbox, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_linux_workers_init(workers_block,
                                              sizeof workers_block, &config,
                                              &workers, NULL),
                     CLEAT_OK);
    assert_int_equal(
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(cleat_linux_workers_adopt(workers, 0, pair[0], NULL),
                     CLEAT_OK);
    waiter.workers = workers;
    assert_int_equal(pthread_create(&thread, NULL, wait_for_ever, &waiter), 0);
    while (!atomic_load(&waiter.waits)) { (void)sched_yield(); }
    assert_int_equal(cleat_linux_workers_close(workers), CLEAT_OK);
    (void)pthread_join(thread, NULL);
    assert_int_equal(waiter.status, CLEAT_CANCELLED);
    assert_int_equal(cleat_linux_worker_wait(workers, 0, CLEAT_NEVER),
                     CLEAT_CANCELLED);
    cleat_linux_mailbox_close(&config.mailbox);
    (void)close(pair[1]);
}

static void *run_trainer_end(void *context)
{
    (void)cleat_local_trainer_run(context);
    return NULL;
}

/* Who puts a job together otherwise has the comparison too: a trainer says what
 * it has, unless its host has said something else. */
static void a_trainer_says_what_tensors_it_has(void **state)
{
    static _Alignas(
        64) unsigned char workers_block[CLEAT_LINUX_WORKERS_BYTES(2)];
    static _Alignas(
        64) unsigned char mailbox_block[CLEAT_LINUX_MAILBOX_BYTES(8)];

    (void)state;
    for (uint32_t said = 0; said < 2; said++) {
        struct cleat_linux_workers_config config = {.members = 2,
                                                    .trainers = 1};
        struct cleat_local_trainer_config trainer_config = {
            .source = cleat_memory_tensors_source(&weights.tensors),
            .receivers_max = 1,
            .transfer = {.bucket_bytes = BUCKET_BYTES}};
        struct cleat_linux_worker_view view;
        struct cleat_linux_workers *workers;
        struct cleat_local_trainer *trainer;
        pthread_t thread;
        int pair[2];

        assert_int_equal(cleat_linux_mailbox_init(mailbox_block,
                                                  sizeof mailbox_block, 8,
                                                  &config.mailbox, NULL),
                         CLEAT_OK);
        assert_int_equal(cleat_linux_workers_init(workers_block,
                                                  sizeof workers_block, &config,
                                                  &workers, NULL),
                         CLEAT_OK);
        assert_int_equal(
            socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        trainer_config.worker.fd = pair[1];
        trainer_config.worker.layout = said;
        assert_int_equal(cleat_local_trainer_open(block, sizeof block,
                                                  &trainer_config, &trainer,
                                                  NULL),
                         CLEAT_OK);
        assert_int_equal(cleat_linux_workers_adopt(workers, 0, pair[0], NULL),
                         CLEAT_OK);
        assert_int_equal(
            pthread_create(&thread, NULL, run_trainer_end, trainer), 0);
        assert_int_equal(cleat_linux_worker_wait(workers, 0, CLEAT_NEVER),
                         CLEAT_OK);
        assert_int_equal(cleat_linux_worker_look(workers, 0, &view), CLEAT_OK);
        assert_int_equal(view.hello.layout, said == 0 ? whole_layout() : said);
        assert_int_equal(cleat_linux_workers_close(workers), CLEAT_OK);
        (void)pthread_join(thread, NULL);
        cleat_local_trainer_close(trainer);
        cleat_linux_mailbox_close(&config.mailbox);
    }
}

/* Leaves its name among the threads of this process. */
static void *tell_name(void *context)
{
    (void)snprintf(context, sizeof board_path, "/proc/self/task/%ld",
                   (long)syscall(SYS_gettid));
    return NULL;
}

/* A sanitizer starts a thread of its own with the first one: before anything is
 * counted, and that first one must not be counted either. */
static int start_sanitizer(void **state)
{
    char name[sizeof board_path] = "";
    pthread_t thread;

    (void)state;
    (void)alarm(WATCHDOG_S);
    if (pthread_create(&thread, NULL, tell_name, name) != 0 ||
        pthread_join(thread, NULL) != 0) {
        return -1;
    }
    while (access(name, F_OK) == 0) { (void)sched_yield(); }
    return 0;
}

#define JOB_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        JOB_TEST(staged_brings_every_version_to_every_engine),
        JOB_TEST(in_place_brings_every_version_to_every_engine),
        JOB_TEST(a_commit_that_fails_leaves_the_old_version_in_place),
        JOB_TEST(an_engine_killed_half_way_staged),
        JOB_TEST(an_engine_killed_half_way_in_place),
        JOB_TEST(who_was_half_written_over_does_not_serve),
        JOB_TEST(when_all_engines_are_killed_the_job_must_restart),
        JOB_TEST(an_engine_that_stands_still_is_set_apart),
        JOB_TEST(engines_with_other_tensors_are_found_before_a_byte_moves),
        JOB_TEST(one_that_comes_back_with_other_tensors_is_kept_out),
        JOB_TEST(an_engines_two_sinks_must_be_alike),
        JOB_TEST(a_trainer_says_what_tensors_it_has),
        JOB_TEST(an_engine_with_fewer_tensors_gets_nothing),
        JOB_TEST(a_table_without_tensors_goes_round_too),
        JOB_TEST(an_update_that_is_stopped_goes_back_or_was_decided),
        JOB_TEST(engines_that_are_not_ready_at_first_are_waited_for),
        JOB_TEST(without_the_engines_program_nothing_opens),
        JOB_TEST(an_engine_that_ends_at_once_is_named),
        JOB_TEST(an_engine_that_never_speaks_is_named_when_time_is_up),
        JOB_TEST(the_bytes_told_are_enough_at_any_alignment),
        JOB_TEST(too_few_bytes_say_how_many_are_needed),
        JOB_TEST(what_is_missing_is_refused),
        JOB_TEST(an_end_with_too_little_says_how_much_it_needs),
        JOB_TEST(closing_ends_every_wait),
    };
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);

    if (length <= 0) { return 2; }
    if (argc == 4 && strcmp(argv[1], "engine") == 0) {
        return run_engine(argv);
    }
    return cmocka_run_group_tests(tests, start_sanitizer, NULL);
}
