/* Cleat: after init the Linux port does not touch the heap.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Started with an argument, this program is a child that does its part. */
#define _GNU_SOURCE
#include "linux_peer.h"

#include <stdatomic.h>
#include <time.h>

#include "cleat/linux.h"
#include "cleat/linux_worker.h"
#include "no_malloc.h"

#define MEMBERS 2u

static _Alignas(
    64) unsigned char workers_block[CLEAT_LINUX_WORKERS_BYTES(MEMBERS)];
static _Alignas(64) unsigned char mailbox_block[CLEAT_LINUX_MAILBOX_BYTES(16)];
static _Alignas(
    64) unsigned char threads_block[CLEAT_LINUX_THREADS_BYTES(2, 4)];
static _Alignas(64) unsigned char worker_block[CLEAT_WORKER_BYTES];

static enum cleat_status on_transfer(void *context,
                                     const struct cleat_worker_command *command,
                                     uint32_t *digest)
{
    (void)context;
    (void)command;
    *digest = 1;
    return CLEAT_OK;
}

/* An engine or trainer; 0 when the coordinator has ended the job. */
static int be_worker(enum cleat_worker_role role)
{
    struct cleat_worker_config config;
    struct cleat_worker *worker = NULL;

    memset(&config, 0, sizeof config);
    config.role = role;
    config.fd = CLEAT_LINUX_CHANNEL_FD;
    config.host.transfer = on_transfer;
    if (cleat_worker_init(worker_block, sizeof worker_block, &config, &worker,
                          NULL) != CLEAT_OK) {
        return 90;
    }
    cleat_test_forbid_malloc(true);
    enum cleat_status status = cleat_worker_run(worker);
    cleat_test_forbid_malloc(false); /* the C library frees what threads had */
    cleat_worker_close(worker);
    return status == CLEAT_OK ? 0 : 91;
}

static struct cleat_linux_workers *workers;
static struct cleat_mailbox mailbox;
static struct cleat_threads threads;

static atomic_uint waited;

static void wait_job(void *job, uint64_t index)
{
    enum cleat_status *status = job;

    status[index] = cleat_linux_worker_wait(workers, (uint32_t)index,
                                            peer_now_ns() + WATCHDOG_NS);
    atomic_fetch_add(&waited, 1);
}

/* Until all have been waited for: the pool's threads may be late, and a worker
 * that has been expelled by then is not ready any more. */
static bool all_waited(void)
{
    const struct timespec nap = {0, 100000};
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;

    while (atomic_load(&waited) < MEMBERS) {
        if (peer_now_ns() >= watchdog_ns) { return false; }
        (void)nanosleep(&nap, NULL);
    }
    return true;
}

static bool spawn(uint32_t member, char *what)
{
    char path[] = "/proc/self/exe";
    char *argv[] = {path, what, NULL};

    return cleat_linux_workers_spawn(workers, member, path, argv, NULL, NULL) ==
           CLEAT_OK;
}

/* Waits for a message of one kind, of one member or of any; others are thrown
 * away. */
static bool next(uint32_t kind, uint32_t member)
{
    struct cleat_message message;

    while (mailbox.wait(mailbox.context, peer_now_ns() + WATCHDOG_NS,
                        &message) == CLEAT_OK) {
        if (message.kind == kind &&
            (member == CLEAT_SYNC_NOBODY || message.index == member)) {
            return true;
        }
    }
    return false;
}

static bool step(uint32_t member, enum cleat_sync_step step)
{
    struct cleat_worker_port port = cleat_linux_workers_port(workers);
    struct cleat_sync_command command = {.step = step,
                                         .member = member,
                                         .attempt = 1,
                                         .term = 1,
                                         .epoch = 1,
                                         .version = 1,
                                         .deadline_ns = peer_now_ns() +
                                                        WATCHDOG_NS};

    return port.send(port.context, &command) == CLEAT_OK &&
           next(CLEAT_WORKER_ANSWER, member);
}

/* The life of a job, with the heap forbidden. What went wrong, or NULL. */
static const char *live(void)
{
    static enum cleat_status ready[MEMBERS];
    struct cleat_linux_worker_view view;

    cleat_test_forbid_malloc(true);
    if (!spawn(0, (char *)(uintptr_t) "trainer") ||
        !spawn(1, (char *)(uintptr_t) "engine")) {
        return "spawn";
    }
    for (uint64_t i = 0; i < MEMBERS; i++) {
        if (threads.submit(threads.context, wait_job, ready, i) != CLEAT_OK) {
            return "submit";
        }
    }
    for (uint32_t i = 0; i < MEMBERS; i++) { /* in any order */
        if (!next(CLEAT_WORKER_HELLO, CLEAT_SYNC_NOBODY)) { return "hello"; }
    }
    if (!all_waited()) { return "waiting"; }
    if (!step(1, CLEAT_SYNC_PAUSE) || !step(0, CLEAT_SYNC_PREPARE) ||
        !step(1, CLEAT_SYNC_PREPARE) || !step(0, CLEAT_SYNC_GROUP) ||
        !step(1, CLEAT_SYNC_GROUP) || !step(0, CLEAT_SYNC_SEND) ||
        !step(1, CLEAT_SYNC_SEND) || !step(1, CLEAT_SYNC_COMMIT) ||
        !step(1, CLEAT_SYNC_FINALIZE) || !step(1, CLEAT_SYNC_RESUME)) {
        return "a step";
    }
    if (!step(1, CLEAT_SYNC_EXPEL) || !next(CLEAT_WORKER_LOST, 1)) {
        return "expel";
    }
    if (!spawn(1, (char *)(uintptr_t) "engine") ||
        !next(CLEAT_WORKER_HELLO, 1)) {
        return "another spawn";
    }
    cleat_test_forbid_malloc(false);
    cleat_linux_threads_close(&threads);
    if (ready[0] != CLEAT_OK || ready[1] != CLEAT_OK) { return "wait"; }
    if (cleat_linux_workers_close(workers) != CLEAT_OK) { return "close"; }
    (void)cleat_linux_worker_look(workers, 0, &view);
    return view.exit_code == 0 ? NULL : "the trainer's end";
}

static void a_jobs_life_takes_nothing_from_the_heap(void **state)
{
    struct cleat_linux_threads_config config = {2, 4};
    struct cleat_linux_workers_config workers_config;

    (void)state;
    assert_int_equal(cleat_linux_mailbox_init(mailbox_block,
                                              sizeof mailbox_block, 16,
                                              &mailbox, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_linux_threads_init(threads_block,
                                              sizeof threads_block, &config,
                                              &threads, NULL),
                     CLEAT_OK);
    memset(&workers_config, 0, sizeof workers_config);
    workers_config.members = MEMBERS;
    workers_config.trainers = 1;
    workers_config.mailbox = mailbox;
    workers_config.grace_ns = WATCHDOG_NS;
    workers_config.reap_ns = WATCHDOG_NS;
    unsigned long calls = cleat_test_malloc_calls();
    assert_int_equal(cleat_linux_workers_init(workers_block,
                                              sizeof workers_block,
                                              &workers_config, &workers, NULL),
                     CLEAT_OK);
    assert_true(cleat_test_malloc_calls() > calls); /* it is counted */
    const char *wrong = live();
    cleat_test_forbid_malloc(false);
    cleat_linux_mailbox_close(&mailbox);
    if (wrong != NULL) { fail_msg("%s", wrong); }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_jobs_life_takes_nothing_from_the_heap),
    };

    if (argc > 1) {
        return be_worker(strcmp(argv[1], "engine") == 0 ? CLEAT_WORKER_ENGINE
                                                        : CLEAT_WORKER_TRAINER);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
