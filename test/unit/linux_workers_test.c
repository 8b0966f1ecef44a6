/* Cleat: the coordinator's side, against workers made of frames by hand and
 * real processes that are killed and stopped. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Started with an argument, this program is such a process: see child_main. */
#define _GNU_SOURCE
#include "linux_view.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "cleat/linux.h"
#include "cleat/linux_worker.h"

#define MEMBERS 4u
#define LEASE_NS (60 * CLEAT_NS_PER_MS)
#define DRIFT_NS (20 * CLEAT_NS_PER_MS)

/* ---- what this program is as a child ---------------------------------------
 */

static void say_hello_by_hand(uint64_t number)
{
    struct cleat_channel_packet packet = peer_expect(CLEAT_LINUX_CHANNEL_FD,
                                                     CLEAT_CONTROL_START);
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_HELLO;
    frame.body.hello.start_sequence = packet.frame.sequence;
    frame.body.hello.member = packet.frame.body.start.member;
    frame.body.hello.hello.version = number;
    frame.body.hello.hello.holding = CLEAT_SYNC_WHOLE;
    (void)cleat_channel_send(CLEAT_LINUX_CHANNEL_FD, &frame, NULL);
}

static void answer_by_hand(enum cleat_sync_step step, uint32_t member)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_ANSWER;
    frame.term = 1;
    frame.epoch = 1;
    frame.body.answer.answer.sync.step = step;
    frame.body.answer.answer.sync.member = member;
    (void)cleat_channel_send(CLEAT_LINUX_CHANNEL_FD, &frame, NULL);
}

/* More than are read at once. */
static void say_much_by_hand(void)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_STATS;
    for (uint32_t i = 0; i < 100; i++) {
        (void)cleat_channel_send(CLEAT_LINUX_CHANNEL_FD, &frame, NULL);
    }
}

static int be_engine(enum cleat_worker_role role)
{
    static _Alignas(64) unsigned char block[CLEAT_WORKER_BYTES];
    struct cleat_worker_config config;
    struct cleat_worker *worker = NULL;

    memset(&config, 0, sizeof config);
    config.role = role;
    config.fd = CLEAT_LINUX_CHANNEL_FD;
    if (cleat_worker_init(block, sizeof block, &config, &worker, NULL) !=
        CLEAT_OK) {
        return 90;
    }
    enum cleat_status status = cleat_worker_run(worker);
    cleat_worker_close(worker);
    return status == CLEAT_OK ? 0 : 91;
}

/* Exits with how many descriptors it has: the folder's own, and two entries
 * of the folder that are none, left out. */
static int count_fds(void)
{
    return peer_count_fds() - 3;
}

/* 0 when no signal is blocked and SIGPIPE and SIGINT are not ignored. */
static int look_at_signals(void)
{
    sigset_t blocked;
    struct sigaction pipe_action;
    struct sigaction int_action;

    (void)sigprocmask(SIG_SETMASK, NULL, &blocked);
    (void)sigaction(SIGPIPE, NULL, &pipe_action);
    (void)sigaction(SIGINT, NULL, &int_action);
    return !sigisemptyset(&blocked) || pipe_action.sa_handler != SIG_DFL ||
           int_action.sa_handler != SIG_DFL || getpgrp() != getpid();
}

static int child_main(const char *what)
{
    (void)alarm(300); /* whatever becomes of the test */
    if (strcmp(what, "engine") == 0) { return be_engine(CLEAT_WORKER_ENGINE); }
    if (strcmp(what, "trainer") == 0) {
        return be_engine(CLEAT_WORKER_TRAINER);
    }
    if (strcmp(what, "fds") == 0) { return count_fds(); }
    if (strcmp(what, "signals") == 0) { return look_at_signals(); }
    if (strcmp(what, "words") == 0) { /* speaks and dies */
        say_hello_by_hand(5);
        say_much_by_hand();
        answer_by_hand(CLEAT_SYNC_PAUSE, 1);
        return 7;
    }
    if (strcmp(what, "hang-up") == 0) { /* closes, and lives on */
        say_hello_by_hand(5);
        (void)close(CLEAT_LINUX_CHANNEL_FD);
        for (;;) { (void)pause(); }
    }
    if (strcmp(what, "deaf") == 0) { /* does not end by itself */
        say_hello_by_hand(5);
        for (;;) { (void)pause(); }
    }
    if (strcmp(what, "parent") == 0) { /* has a child in its group */
        pid_t child = fork();
        if (child == 0) {
            (void)alarm(300);
            for (;;) { (void)pause(); }
        }
        say_hello_by_hand((uint64_t)child);
        for (;;) { (void)pause(); }
    }
    return 99;
}

/* ---- the bench
 * ------------------------------------------------------------------ */

struct bench {
    void *block;
    void *mailbox_block;
    struct cleat_mailbox mailbox;
    struct cleat_linux_workers *workers;
    struct cleat_worker_port port;
    int raw[MEMBERS]; /* ends of adopted workers that the test plays */
    int fds_before;
    int threads_before;
    struct cleat_linux_workers_config config;
};

static void begin_with(struct bench *bench, uint32_t messages_max)
{
    memset(bench, 0, sizeof *bench);
    bench->fds_before = peer_count_fds();
    bench->threads_before = peer_count_threads();
    bench->block = peer_block(CLEAT_LINUX_WORKERS_BYTES(MEMBERS));
    bench->mailbox_block = peer_block(CLEAT_LINUX_MAILBOX_BYTES(messages_max));
    assert_int_equal(
        cleat_linux_mailbox_init(bench->mailbox_block,
                                 CLEAT_LINUX_MAILBOX_BYTES(messages_max),
                                 messages_max, &bench->mailbox, NULL),
        CLEAT_OK);
    bench->config.members = MEMBERS;
    bench->config.trainers = 1;
    bench->config.mailbox = bench->mailbox;
    bench->config.lease_ns = LEASE_NS;
    bench->config.drift_ns = DRIFT_NS;
    bench->config.grace_ns = WATCHDOG_NS;
    bench->config.reap_ns = WATCHDOG_NS;
    for (uint32_t i = 0; i < MEMBERS; i++) { bench->raw[i] = -1; }
}

static void make(struct bench *bench)
{
    assert_int_equal(cleat_linux_workers_init(
                         bench->block, CLEAT_LINUX_WORKERS_BYTES(MEMBERS),
                         &bench->config, &bench->workers, NULL),
                     CLEAT_OK);
    bench->port = cleat_linux_workers_port(bench->workers);
}

static void begin(struct bench *bench)
{
    begin_with(bench, 64);
    make(bench);
}

/* Nothing of it is left: no child of ours either, dead or alive. */
static void end(struct bench *bench)
{
    assert_int_equal(cleat_linux_workers_close(bench->workers), CLEAT_OK);
    assert_int_equal(cleat_linux_workers_close(bench->workers), CLEAT_OK);
    cleat_linux_mailbox_close(&bench->mailbox);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        if (bench->raw[i] >= 0) { (void)close(bench->raw[i]); }
    }
    free(bench->block);
    free(bench->mailbox_block);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    peer_await_fds(bench->fds_before);
    peer_await_threads(bench->threads_before);
}

static void spawn(struct bench *bench, uint32_t member, const char *what)
{
    char path[] = "/proc/self/exe";
    char *argv[] = {path, (char *)(uintptr_t)what, NULL};

    assert_int_equal(cleat_linux_workers_spawn(bench->workers, member, path,
                                               argv, NULL, NULL),
                     CLEAT_OK);
}

static void adopt(struct bench *bench, uint32_t member)
{
    int pair[2];

    peer_pair(pair);
    assert_int_equal(
        cleat_linux_workers_adopt(bench->workers, member, pair[0], NULL),
        CLEAT_OK);
    bench->raw[member] = pair[1];
}

static enum cleat_status wait_ready(struct bench *bench, uint32_t member)
{
    return cleat_linux_worker_wait(bench->workers, member,
                                   peer_now_ns() + WATCHDOG_NS);
}

static struct cleat_message next_message(struct bench *bench)
{
    struct cleat_message message;

    assert_int_equal(bench->mailbox.wait(bench->mailbox.context,
                                         peer_now_ns() + WATCHDOG_NS, &message),
                     CLEAT_OK);
    return message;
}

static bool has_message(struct bench *bench)
{
    struct cleat_message message;

    return bench->mailbox.wait(bench->mailbox.context, 0, &message) == CLEAT_OK;
}

/* Of so many members, in any order. */
static void expect_hellos(struct bench *bench, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(next_message(bench).kind, CLEAT_WORKER_HELLO);
    }
}

static void expect_message(struct bench *bench, uint32_t kind, uint32_t member)
{
    struct cleat_message message = next_message(bench);

    assert_int_equal(message.kind, kind);
    assert_int_equal(message.index, member);
}

static struct cleat_worker_answer
expect_answer(struct bench *bench, enum cleat_sync_step step, uint32_t member)
{
    struct cleat_message message = next_message(bench);
    struct cleat_worker_answer answer;

    assert_int_equal(message.kind, CLEAT_WORKER_ANSWER);
    assert_int_equal(message.index, member);
    memcpy(&answer, message.body, sizeof answer);
    assert_int_equal(answer.sync.step, step);
    assert_int_equal(answer.sync.member, member);
    return answer;
}

static enum cleat_status command(struct bench *bench, uint32_t member,
                                 enum cleat_sync_step step, uint64_t epoch)
{
    struct cleat_sync_command out = {.step = step,
                                     .member = member,
                                     .attempt = 1,
                                     .term = 1,
                                     .epoch = epoch,
                                     .version = 2,
                                     .deadline_ns = peer_now_ns() +
                                                    WATCHDOG_NS};

    return bench->port.send(bench->port.context, &out);
}

/* ---- a worker by hand
 * ------------------------------------------------------------- */

static void raw_hello_of(struct bench *bench, uint32_t member,
                         enum cleat_status status, uint32_t layout)
{
    struct cleat_channel_packet packet = peer_expect(bench->raw[member],
                                                     CLEAT_CONTROL_START);
    struct cleat_control_frame frame;

    assert_int_equal(packet.frame.body.start.member, member);
    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_HELLO;
    frame.body.hello.start_sequence = packet.frame.sequence;
    frame.body.hello.status = status;
    frame.body.hello.member = member;
    frame.body.hello.hello.term_seen = 70 + member;
    frame.body.hello.hello.version = 3;
    frame.body.hello.hello.holding = CLEAT_SYNC_WHOLE;
    frame.body.hello.hello.pid = 4000 + member;
    frame.body.hello.hello.layout = layout;
    peer_send(bench->raw[member], &frame);
}

static void raw_hello(struct bench *bench, uint32_t member,
                      enum cleat_status status)
{
    raw_hello_of(bench, member, status, 0);
}

static struct cleat_control_frame raw_answer(uint32_t member,
                                             enum cleat_sync_step step,
                                             uint64_t epoch,
                                             enum cleat_status status)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_ANSWER;
    frame.term = 1;
    frame.epoch = epoch;
    frame.body.answer.answer.sync.step = step;
    frame.body.answer.answer.sync.member = member;
    frame.body.answer.answer.sync.status = status;
    frame.body.answer.answer.sync.holding = CLEAT_SYNC_WHOLE;
    frame.body.answer.answer.sync.version = 2;
    return frame;
}

static void raw_ask(struct bench *bench, uint32_t member, uint64_t counter)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_LEASE_ASK;
    frame.body.lease.counter = counter;
    peer_send(bench->raw[member], &frame);
}

/* Says how much it has served, and waits until that has been read, and so has
 * everything before. */
static void raw_stats(struct bench *bench, uint32_t member, uint32_t served)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_STATS;
    frame.body.stats.version = 3;
    frame.body.stats.holding = CLEAT_SYNC_WHOLE;
    frame.body.stats.served = served;
    frame.body.stats.torn_served = 1;
    frame.body.stats.lease_end_ns = 77;
    peer_send(bench->raw[member], &frame);
    AWAIT_VIEW(bench, member, v.served == served);
}

static struct cleat_control_command
expect_command(struct bench *bench, uint32_t member, enum cleat_sync_step step)
{
    struct cleat_channel_packet packet = peer_expect(bench->raw[member],
                                                     CLEAT_CONTROL_COMMAND);

    cleat_channel_packet_close(&packet);
    assert_int_equal(packet.frame.body.command.step, step);
    return packet.frame.body.command;
}

/* ---- bring-up
 * ------------------------------------------------------------------------ */

static void a_child_says_hello_and_ends_when_told(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        spawn(&bench, i, i == 0 ? "trainer" : "engine");
    }
    for (uint32_t i = 0; i < MEMBERS; i++) {
        assert_int_equal(wait_ready(&bench, i), CLEAT_OK);
        assert_int_equal(wait_ready(&bench, i), CLEAT_OK); /* at once */
        struct cleat_linux_worker_view v = peer_view(bench.workers, i);
        assert_true(v.child && v.attached && v.ready && !v.reaped);
        assert_int_equal(v.hello.pid, v.pid);
        assert_int_equal(v.holding, CLEAT_SYNC_WHOLE);
    }
    expect_hellos(&bench, MEMBERS);
    assert_false(has_message(&bench));
    uint64_t begun_ns = peer_now_ns();
    end(&bench);
    /* They ended by themselves: the grace is longer than the watchdog. */
    assert_true(peer_now_ns() - begun_ns < WATCHDOG_NS);
}

static void each_wait_asks_once_and_says_what_was_said(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    adopt(&bench, 2);
    raw_hello(&bench, 2, CLEAT_TRANSIENT);
    assert_int_equal(wait_ready(&bench, 2), CLEAT_TRANSIENT);
    assert_false(peer_has(bench.raw[2], CLEAT_CONTROL_START));
    /* silence, and then the answer to the question of that silence */
    assert_int_equal(cleat_linux_worker_wait(bench.workers, 2,
                                             peer_now_ns() + CLEAT_NS_PER_MS),
                     CLEAT_PEER_SILENT);
    assert_false(peer_view(bench.workers, 2).ready);
    raw_hello(&bench, 2, CLEAT_OK);
    assert_int_equal(wait_ready(&bench, 2), CLEAT_OK);
    struct cleat_message message = next_message(&bench);
    struct cleat_worker_hello hello;
    memcpy(&hello, message.body, sizeof hello);
    assert_int_equal(message.kind, CLEAT_WORKER_HELLO);
    assert_int_equal(message.index, 2);
    assert_int_equal(hello.term_seen, 72);
    assert_int_equal(hello.version, 3);
    assert_int_equal(hello.pid, 4002);
    assert_int_equal(peer_view(bench.workers, 2).pid, 4002);
    end(&bench);
}

static void a_late_refusal_is_not_taken_for_the_next_answer(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    adopt(&bench, 1);
    assert_int_equal(cleat_linux_worker_wait(bench.workers, 1, 0),
                     CLEAT_PEER_SILENT);
    raw_hello(&bench, 1, CLEAT_TRANSIENT); /* to that one, too late */
    raw_stats(&bench, 1, 9);
    assert_int_equal(cleat_linux_worker_wait(bench.workers, 1, 0),
                     CLEAT_PEER_SILENT);
    end(&bench);
}

struct waiting {
    struct bench *bench;
    enum cleat_status status;
};

static void *wait_main(void *argument)
{
    struct waiting *waiting = argument;

    waiting->status = wait_ready(waiting->bench, 1);
    return NULL;
}

static void a_refusal_of_an_earlier_question_ends_no_wait(void **state)
{
    struct bench bench;
    struct waiting waiting = {&bench, CLEAT_PENDING};
    pthread_t thread;

    (void)state;
    begin(&bench);
    adopt(&bench, 1);
    assert_int_equal(cleat_linux_worker_wait(bench.workers, 1, 0),
                     CLEAT_PEER_SILENT);
    struct cleat_channel_packet first = peer_expect(bench.raw[1],
                                                    CLEAT_CONTROL_START);
    assert_int_equal(pthread_create(&thread, NULL, wait_main, &waiting), 0);
    struct cleat_channel_packet second = peer_expect(bench.raw[1],
                                                     CLEAT_CONTROL_START);
    struct cleat_control_frame frame;
    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_HELLO;
    frame.body.hello.member = 1;
    frame.body.hello.status = CLEAT_PERMANENT;
    frame.body.hello.start_sequence = first.frame.sequence;
    peer_send(bench.raw[1], &frame);
    raw_stats(&bench, 1, 5); /* it has been heard */
    frame.body.hello.status = CLEAT_TRANSIENT;
    frame.body.hello.start_sequence = second.frame.sequence;
    peer_send(bench.raw[1], &frame);
    (void)pthread_join(thread, NULL);
    assert_int_equal(waiting.status, CLEAT_TRANSIENT);
    end(&bench);
}

static void a_wait_ends_with_what_went_wrong(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_NOT_FOUND);
    assert_int_equal(wait_ready(&bench, MEMBERS), CLEAT_INVALID);
    adopt(&bench, 1);
    (void)close(bench.raw[1]);
    bench.raw[1] = -1;
    assert_int_equal(wait_ready(&bench, 1), CLEAT_PEER_LOST);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    adopt(&bench, 2);
    raw_hello(&bench, 2, CLEAT_PERMANENT);
    assert_int_equal(wait_ready(&bench, 2), CLEAT_PERMANENT);
    adopt(&bench, 3);
    struct cleat_channel_packet packet = peer_expect(bench.raw[3],
                                                     CLEAT_CONTROL_START);
    struct cleat_control_frame frame;
    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_HELLO;
    frame.body.hello.start_sequence = packet.frame.sequence;
    frame.body.hello.member = 2;
    peer_send(bench.raw[3], &frame);
    assert_int_equal(wait_ready(&bench, 3), CLEAT_PEER_DEVIANT);
    end(&bench);
}

/* ---- children
 * ------------------------------------------------------------------------- */

/* Spawns, waits for its end, and tells its exit code. */
static int exit_code_of(struct bench *bench, const char *what)
{
    spawn(bench, 1, what);
    expect_message(bench, CLEAT_WORKER_LOST, 1);
    AWAIT_VIEW(bench, 1, v.reaped);
    return peer_view(bench->workers, 1).exit_code;
}

static void a_child_has_four_descriptors_and_usual_signals(void **state)
{
    struct bench bench;
    sigset_t all;
    sigset_t before;
    struct sigaction ignore;
    struct sigaction usual;

    (void)state;
    begin(&bench);
    int leaked = dup(0); /* not close-on-exec */
    assert_int_equal(exit_code_of(&bench, "fds"), 4);
    (void)close(leaked);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    memset(&ignore, 0, sizeof ignore);
    ignore.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &ignore, &usual);
    spawn(&bench, 1, "signals");
    (void)sigaction(SIGPIPE, &usual, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    AWAIT_VIEW(&bench, 1, v.reaped);
    assert_int_equal(peer_view(bench.workers, 1).exit_code, 0);
    end(&bench);
}

static void what_a_child_said_before_it_died_is_heard_first(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    for (uint32_t i = 0; i < 20; i++) {
        spawn(&bench, 1, "words");
        expect_message(&bench, CLEAT_WORKER_HELLO, 1);
        (void)expect_answer(&bench, CLEAT_SYNC_PAUSE, 1);
        expect_message(&bench, CLEAT_WORKER_LOST, 1);
        AWAIT_VIEW(&bench, 1, v.reaped);
        assert_int_equal(peer_view(bench.workers, 1).exit_code, 7);
        assert_false(has_message(&bench)); /* told once */
    }
    end(&bench);
}

static void a_killed_child_is_lost_once_and_reaped(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    spawn(&bench, 1, "engine");
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    expect_message(&bench, CLEAT_WORKER_HELLO, 1);
    struct cleat_linux_worker_view before = peer_view(bench.workers, 1);
    assert_int_equal(kill(before.pid, SIGKILL), 0);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    AWAIT_VIEW(&bench, 1, v.reaped);
    struct cleat_linux_worker_view after = peer_view(bench.workers, 1);
    assert_int_equal(after.exit_signal, SIGKILL);
    assert_int_equal(after.exit_code, -1);
    assert_false(after.attached || after.ready);
    assert_int_equal(after.pid, before.pid);
    assert_int_equal(command(&bench, 1, CLEAT_SYNC_PAUSE, 1), CLEAT_PEER_LOST);
    assert_false(has_message(&bench));
    /* its place is free */
    spawn(&bench, 1, "engine");
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    end(&bench);
}

static void a_member_has_one_worker(void **state)
{
    struct bench bench;
    struct cleat_error error;
    int pair[2];
    char path[] = "/proc/self/exe";
    char missing[] = "/nonexistent/engine";
    char *argv[] = {path, NULL};

    (void)state;
    begin(&bench);
    peer_pair(pair);
    spawn(&bench, 1, "engine");
    assert_int_equal(
        cleat_linux_workers_spawn(bench.workers, 1, path, argv, NULL, &error),
        CLEAT_EXISTS);
    assert_int_equal(
        cleat_linux_workers_adopt(bench.workers, 1, pair[0], &error),
        CLEAT_EXISTS);
    assert_int_equal(cleat_linux_workers_adopt(bench.workers, 2, 2, &error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_linux_workers_spawn(bench.workers, MEMBERS, path,
                                               argv, NULL, &error),
                     CLEAT_INVALID);
    assert_int_equal(cleat_linux_workers_spawn(bench.workers, 2, missing, argv,
                                               NULL, &error),
                     CLEAT_IO);
    assert_int_equal(error.port_code, ENOENT);
    assert_int_equal(error.index, 2);
    assert_non_null(strstr(error.text, missing));
    /* and that leaves the place free */
    spawn(&bench, 2, "engine");
    assert_int_equal(wait_ready(&bench, 2), CLEAT_OK);
    (void)close(pair[0]);
    (void)close(pair[1]);
    end(&bench);
}

/* ---- expulsion
 * ---------------------------------------------------------------------------
 */

static void expect_expelled(struct bench *bench, uint32_t member)
{
    assert_int_equal(command(bench, member, CLEAT_SYNC_EXPEL, 9), CLEAT_OK);
    struct cleat_worker_answer answer = expect_answer(bench, CLEAT_SYNC_EXPEL,
                                                      member);
    assert_int_equal(answer.sync.status, CLEAT_OK);
    assert_int_equal(answer.sync.term, 1);
    assert_int_equal(answer.sync.epoch, 9);
    assert_int_equal(answer.sync.holding, CLEAT_SYNC_UNKNOWN);
}

static void an_expelled_child_is_dead_when_the_answer_comes(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    spawn(&bench, 1, "deaf");
    spawn(&bench, 2, "deaf");
    for (uint32_t i = 1; i < 3; i++) {
        assert_int_equal(wait_ready(&bench, i), CLEAT_OK);
    }
    expect_hellos(&bench, 2);
    assert_int_equal(kill(peer_view(bench.workers, 2).pid, SIGSTOP), 0);
    for (uint32_t i = 1; i < 3; i++) {
        int32_t pid = peer_view(bench.workers, i).pid;
        expect_expelled(&bench, i);
        assert_true(peer_view(bench.workers, i).reaped);
        assert_int_equal(kill(pid, 0), -1);
        expect_message(&bench, CLEAT_WORKER_LOST, i);
        /* once more, of one that is dead */
        expect_expelled(&bench, i);
    }
    assert_false(has_message(&bench));
    end(&bench);
}

/* 'Z' and 'X' are dead; so is a process that is not there. */
static bool is_running(pid_t pid)
{
    char path[64];
    char text[256] = "";

    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) { return false; }
    size_t count = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file);
    text[count] = '\0';
    const char *after_name = strrchr(text, ')');
    return after_name != NULL && after_name[2] != 'Z' && after_name[2] != 'X';
}

static void await_not_running(pid_t pid)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;

    while (is_running(pid)) {
        assert_true(peer_now_ns() < watchdog_ns);
        (void)sched_yield();
    }
}

static void a_childs_group_dies_with_it(void **state)
{
    struct bench bench;

    (void)state;
    begin_with(&bench, 64);
    bench.config.grace_ns = CLEAT_NONE;
    make(&bench);
    spawn(&bench, 1, "parent");
    spawn(&bench, 2, "parent");
    spawn(&bench, 3, "parent");
    pid_t grandchild[MEMBERS];
    for (uint32_t i = 1; i < 4; i++) {
        assert_int_equal(wait_ready(&bench, i), CLEAT_OK);
        grandchild[i] = (pid_t)peer_view(bench.workers, i).version;
        assert_true(is_running(grandchild[i]));
    }
    expect_hellos(&bench, 3);
    expect_expelled(&bench, 1);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    await_not_running(grandchild[1]);
    /* one that dies, while its own child holds the channel open */
    assert_int_equal(kill(peer_view(bench.workers, 2).pid, SIGKILL), 0);
    expect_message(&bench, CLEAT_WORKER_LOST, 2);
    await_not_running(grandchild[2]);
    /* and one that is there at the end */
    end(&bench);
    await_not_running(grandchild[3]);
}

static void a_child_that_hangs_up_is_lost_and_can_be_expelled(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    spawn(&bench, 1, "hang-up");
    expect_message(&bench, CLEAT_WORKER_HELLO, 1);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    assert_false(peer_view(bench.workers, 1).reaped);
    expect_expelled(&bench, 1);
    AWAIT_VIEW(&bench, 1, v.reaped);
    assert_false(has_message(&bench)); /* its loss was told already */
    end(&bench);
}

static void
one_that_is_no_child_is_expelled_when_its_lease_is_over(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    adopt(&bench, 1);
    raw_hello(&bench, 1, CLEAT_OK);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    expect_message(&bench, CLEAT_WORKER_HELLO, 1);
    uint64_t asked_ns = peer_now_ns();
    raw_ask(&bench, 1, 5);
    struct cleat_channel_packet grant = peer_expect(bench.raw[1],
                                                    CLEAT_CONTROL_LEASE_GRANT);
    assert_int_equal(grant.frame.body.lease.counter, 5);
    assert_int_equal(grant.frame.body.lease.lease_ns, LEASE_NS);
    uint64_t granted_end_ns = peer_view(bench.workers, 1).granted_end_ns;
    assert_true(granted_end_ns >= asked_ns + LEASE_NS + DRIFT_NS);
    expect_expelled(&bench, 1);
    assert_true(peer_now_ns() >= granted_end_ns);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    struct cleat_channel_packet packet;
    bool ended = false;
    while (peer_next(bench.raw[1], true, &packet, &ended)) {}
    assert_true(ended);
    assert_false(has_message(&bench));
    end(&bench);
}

static void one_that_never_had_a_lease_is_expelled_at_once(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    expect_expelled(&bench, 2); /* nobody was ever there */
    adopt(&bench, 3);
    expect_expelled(&bench, 3);
    expect_message(&bench, CLEAT_WORKER_LOST, 3);
    end(&bench);
}

static void a_lease_without_end_is_never_certain_to_be_over(void **state)
{
    struct bench bench;

    (void)state;
    begin_with(&bench, 64);
    bench.config.lease_ns = CLEAT_NEVER;
    make(&bench);
    adopt(&bench, 1);
    raw_ask(&bench, 1, 1);
    (void)peer_expect(bench.raw[1], CLEAT_CONTROL_LEASE_GRANT);
    assert_int_equal(command(&bench, 1, CLEAT_SYNC_EXPEL, 9), CLEAT_OK);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_EXPEL, 1).sync.status,
                     CLEAT_PEER_UNFENCED);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    end(&bench);
}

/* How many descriptors epolls of this process watch. */
static int count_watched(void)
{
    DIR *folder = opendir("/proc/self/fdinfo");
    char path[300];
    char line[256];
    int count = 0;

    assert_non_null(folder);
    for (struct dirent *entry = readdir(folder); entry != NULL;
         entry = readdir(folder)) {
        (void)snprintf(path, sizeof path, "/proc/self/fdinfo/%s",
                       entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "re");
        while (file != NULL && fgets(line, sizeof line, file) != NULL) {
            if (strncmp(line, "tfd:", 4) == 0) { count++; }
        }
        if (file != NULL) { (void)fclose(file); }
    }
    (void)closedir(folder);
    return count;
}

/* A process that a host forks and that executes nothing holds a copy of every
 * descriptor: it must keep alive neither a channel nor what watches it. */
static void a_copy_in_a_forked_process_keeps_nothing_open(void **state)
{
    struct bench bench;
    struct cleat_channel_packet packet;
    bool ended = false;
    int held[2];
    char byte = 0;

    (void)state;
    begin(&bench);
    int watched = count_watched();
    adopt(&bench, 1);
    spawn(&bench, 2, "deaf");
    assert_int_equal(wait_ready(&bench, 2), CLEAT_OK);
    expect_message(&bench, CLEAT_WORKER_HELLO, 2);
    assert_int_equal(count_watched(), watched + 3);
    assert_int_equal(pipe(held), 0);
    pid_t copy = fork();
    if (copy == 0) {
        (void)alarm(300);
        (void)close(held[1]);
        _exit(read(held[0], &byte, 1) == 0 ? 0 : 1);
    }
    assert_true(copy > 0);
    expect_expelled(&bench, 1);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    while (peer_next(bench.raw[1], true, &packet, &ended)) {}
    assert_true(ended);
    expect_expelled(&bench, 2);
    expect_message(&bench, CLEAT_WORKER_LOST, 2);
    assert_int_equal(count_watched(), watched);
    (void)close(held[0]);
    (void)close(held[1]);
    assert_int_equal(waitpid(copy, NULL, 0), copy);
    end(&bench);
}

/* The system reaps them then, and their numbers are given again at once. */
static void where_children_are_reaped_by_others_their_end_is_seen(void **state)
{
    struct bench bench;
    struct sigaction ignore;
    struct sigaction usual;

    (void)state;
    memset(&ignore, 0, sizeof ignore);
    ignore.sa_handler = SIG_IGN;
    (void)sigaction(SIGCHLD, &ignore, &usual);
    begin(&bench);
    spawn(&bench, 1, "words");
    expect_message(&bench, CLEAT_WORKER_HELLO, 1);
    (void)expect_answer(&bench, CLEAT_SYNC_PAUSE, 1);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    AWAIT_VIEW(&bench, 1, v.reaped);
    assert_int_equal(peer_view(bench.workers, 1).exit_code, -1);
    assert_int_equal(peer_view(bench.workers, 1).exit_signal, 0);
    spawn(&bench, 2, "deaf");
    expect_message(&bench, CLEAT_WORKER_HELLO, 2);
    expect_expelled(&bench, 2);
    assert_true(peer_view(bench.workers, 2).reaped);
    end(&bench);
    (void)sigaction(SIGCHLD, &usual, NULL);
}

/* ---- leases
 * ---------------------------------------------------------------------------------
 */

/* Asks, and tells whether it was granted. */
static bool asks_with_success(struct bench *bench, uint32_t member)
{
    static uint64_t counter;
    static uint32_t served = 1000;

    raw_ask(bench, member, ++counter);
    raw_stats(bench, member, ++served); /* the ask has been read by now */
    return peer_has(bench->raw[member], CLEAT_CONTROL_LEASE_GRANT);
}

static void say_and_await(struct bench *bench, uint32_t member,
                          enum cleat_sync_step step, uint64_t epoch,
                          enum cleat_status status)
{
    struct cleat_control_frame frame = raw_answer(member, step, epoch, status);

    peer_send(bench->raw[member], &frame);
    (void)expect_answer(bench, step, member);
}

static void a_fenced_worker_gets_no_lease_until_a_later_commit(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    adopt(&bench, 1);
    adopt(&bench, 2);
    assert_true(asks_with_success(&bench, 1));
    assert_true(asks_with_success(&bench, 2));
    assert_int_equal(command(&bench, 1, CLEAT_SYNC_FENCE, 5), CLEAT_OK);
    assert_false(asks_with_success(&bench, 1));
    assert_true(asks_with_success(&bench, 2)); /* which was not fenced */
    say_and_await(&bench, 1, CLEAT_SYNC_FENCE, 5, CLEAT_OK);
    /* a commit from before the fence, one that failed, another step */
    say_and_await(&bench, 1, CLEAT_SYNC_COMMIT, 5, CLEAT_OK);
    say_and_await(&bench, 1, CLEAT_SYNC_COMMIT, 6, CLEAT_STATE);
    say_and_await(&bench, 1, CLEAT_SYNC_PAUSE, 6, CLEAT_OK);
    assert_false(asks_with_success(&bench, 1));
    say_and_await(&bench, 1, CLEAT_SYNC_COMMIT, 6, CLEAT_OK);
    assert_true(asks_with_success(&bench, 1));
    end(&bench);
}

/* It holds what nobody else serves. */
static void
one_that_takes_anothers_place_gets_no_lease_until_its_first_commit(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    adopt(&bench, 1);
    (void)close(bench.raw[1]);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    adopt(&bench, 1); /* before any command: one as good as the other */
    assert_true(asks_with_success(&bench, 1));
    assert_int_equal(command(&bench, 1, CLEAT_SYNC_PAUSE, 5), CLEAT_OK);
    (void)close(bench.raw[1]);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    adopt(&bench, 1);
    assert_false(asks_with_success(&bench, 1));
    say_and_await(&bench, 1, CLEAT_SYNC_PAUSE, 6, CLEAT_OK);
    assert_false(asks_with_success(&bench, 1));
    (void)close(bench.raw[1]); /* nor the next one after it */
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    adopt(&bench, 1);
    assert_false(asks_with_success(&bench, 1));
    say_and_await(&bench, 1, CLEAT_SYNC_COMMIT, 7, CLEAT_OK);
    assert_true(asks_with_success(&bench, 1));
    end(&bench);
}

/* ---- commands
 * ---------------------------------------------------------------------------------
 */

static void a_command_arrives_as_it_was_given(void **state)
{
    struct bench bench;
    struct cleat_sync_command out = {.step = CLEAT_SYNC_PAUSE,
                                     .member = 3,
                                     .attempt = 2,
                                     .term = UINT64_MAX,
                                     .epoch = 7,
                                     .version = 8,
                                     .deadline_ns = CLEAT_NEVER};

    (void)state;
    begin(&bench);
    adopt(&bench, 3);
    assert_int_equal(bench.port.send(bench.port.context, &out), CLEAT_OK);
    struct cleat_channel_packet packet = peer_expect(bench.raw[3],
                                                     CLEAT_CONTROL_COMMAND);
    const struct cleat_control_command *in = &packet.frame.body.command;
    assert_int_equal(packet.frame.term, UINT64_MAX);
    assert_int_equal(packet.frame.epoch, 7);
    assert_int_equal(in->step, CLEAT_SYNC_PAUSE);
    assert_int_equal(in->member, 3);
    assert_int_equal(in->attempt, 2);
    assert_int_equal(in->version, 8);
    assert_int_equal(in->timeout_ns, CLEAT_NEVER);
    /* the time left, and none when it is over */
    out.deadline_ns = peer_now_ns() + WATCHDOG_NS;
    assert_int_equal(bench.port.send(bench.port.context, &out), CLEAT_OK);
    assert_in_range(expect_command(&bench, 3, CLEAT_SYNC_PAUSE).timeout_ns, 1,
                    WATCHDOG_NS);
    out.deadline_ns = 1;
    assert_int_equal(bench.port.send(bench.port.context, &out), CLEAT_OK);
    assert_int_equal(expect_command(&bench, 3, CLEAT_SYNC_PAUSE).timeout_ns, 0);
    /* to nobody */
    out.member = 2;
    assert_int_equal(bench.port.send(bench.port.context, &out),
                     CLEAT_PEER_LOST);
    out.member = MEMBERS;
    assert_int_equal(bench.port.send(bench.port.context, &out), CLEAT_INVALID);
    end(&bench);
}

static void an_answer_arrives_as_it_was_given(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    adopt(&bench, 2);
    struct cleat_control_frame frame = raw_answer(2, CLEAT_SYNC_SEND, 4,
                                                  CLEAT_CORRUPT);
    frame.body.answer.answer.sync.holding = CLEAT_SYNC_TORN;
    frame.body.answer.answer.sync.digest = 0xABCDu;
    frame.body.answer.answer.served = 11;
    frame.body.answer.answer.torn_served = 12;
    frame.body.answer.answer.lease_end_ns = 13;
    peer_send(bench.raw[2], &frame);
    struct cleat_worker_answer answer = expect_answer(&bench, CLEAT_SYNC_SEND,
                                                      2);
    assert_int_equal(answer.sync.term, 1);
    assert_int_equal(answer.sync.epoch, 4);
    assert_int_equal(answer.sync.status, CLEAT_CORRUPT);
    assert_int_equal(answer.sync.holding, CLEAT_SYNC_TORN);
    assert_int_equal(answer.sync.version, 2);
    assert_int_equal(answer.sync.digest, 0xABCDu);
    assert_int_equal(answer.served, 11);
    assert_int_equal(answer.torn_served, 12);
    assert_int_equal(answer.lease_end_ns, 13);
    struct cleat_linux_worker_view v = peer_view(bench.workers, 2);
    assert_int_equal(v.served, 11);
    assert_int_equal(v.torn_served, 12);
    assert_int_equal(v.lease_end_ns, 13);
    assert_int_equal(v.version, 2);
    end(&bench);
}

static void
receivers_are_numbered_without_those_who_were_not_asked(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    for (uint32_t i = 0; i < MEMBERS; i++) { adopt(&bench, i); }
    /* In prepare, the most that there can be. */
    for (uint32_t i = 0; i < MEMBERS; i++) {
        assert_int_equal(command(&bench, i, CLEAT_SYNC_PREPARE, 1), CLEAT_OK);
        struct cleat_control_command in = expect_command(&bench, i,
                                                         CLEAT_SYNC_PREPARE);
        assert_int_equal(in.receivers_count, 3);
        assert_int_equal(in.receiver_index, i == 0 ? 0 : i - 1);
    }
    /* In the next attempt, member 2 takes no part. */
    for (uint32_t i = 0; i < MEMBERS; i++) {
        if (i == 2) { continue; }
        assert_int_equal(command(&bench, i, CLEAT_SYNC_PREPARE, 2), CLEAT_OK);
        (void)expect_command(&bench, i, CLEAT_SYNC_PREPARE);
    }
    static const uint32_t wanted[MEMBERS] = {0, 0, 0, 1};
    for (uint32_t i = 0; i < MEMBERS; i++) {
        if (i == 2) { continue; }
        for (uint32_t s = CLEAT_SYNC_GROUP; s <= CLEAT_SYNC_SEND; s++) {
            assert_int_equal(command(&bench, i, (enum cleat_sync_step)s, 2),
                             CLEAT_OK);
            struct cleat_control_command in = expect_command(
                &bench, i, (enum cleat_sync_step)s);
            assert_int_equal(in.receivers_count, 2);
            assert_int_equal(in.receiver_index, wanted[i]);
        }
    }
    end(&bench);
}

static void answer_prepare_with_ticket(struct bench *bench, uint64_t epoch,
                                       uint32_t member, const int *fds)
{
    struct cleat_control_frame frame = raw_answer(member, CLEAT_SYNC_PREPARE,
                                                  epoch, CLEAT_OK);

    frame.fds_count = 2;
    frame.body.answer.ticket_bytes_count = 6;
    memcpy(frame.body.answer.ticket_bytes, "ticket", 6);
    assert_int_equal(cleat_channel_send(bench->raw[member], &frame, fds),
                     CLEAT_OK);
    (void)expect_answer(bench, CLEAT_SYNC_PREPARE, member);
}

/* Sends group to a member; its packet. */
static struct cleat_channel_packet group(struct bench *bench, uint32_t member,
                                         uint64_t epoch)
{
    assert_int_equal(command(bench, member, CLEAT_SYNC_GROUP, epoch), CLEAT_OK);
    return peer_expect(bench->raw[member], CLEAT_CONTROL_COMMAND);
}

static void the_senders_ticket_goes_to_all_until_finalize(void **state)
{
    struct bench bench;
    int fds[2];

    (void)state;
    begin(&bench);
    assert_int_equal(pipe(fds), 0);
    for (uint32_t i = 0; i < 3; i++) {
        adopt(&bench, i);
        assert_int_equal(command(&bench, i, CLEAT_SYNC_PREPARE, 1), CLEAT_OK);
        (void)expect_command(&bench, i, CLEAT_SYNC_PREPARE);
    }
    int before = peer_count_fds();
    /* of another attempt, and of another member: not the sender's */
    answer_prepare_with_ticket(&bench, 7, 0, fds);
    answer_prepare_with_ticket(&bench, 1, 1, fds);
    assert_int_equal(peer_count_fds(), before);
    struct cleat_channel_packet packet = group(&bench, 2, 1);
    assert_int_equal(packet.frame.fds_count, 0);
    assert_int_equal(packet.frame.body.command.ticket_bytes_count, 0);
    /* the sender's, and its duplicate */
    answer_prepare_with_ticket(&bench, 1, 0, fds);
    answer_prepare_with_ticket(&bench, 1, 0, fds);
    assert_int_equal(peer_count_fds(), before + 2);
    for (uint32_t i = 0; i < 3; i++) {
        packet = group(&bench, i, 1);
        assert_int_equal(packet.frame.fds_count, 2);
        assert_int_equal(packet.frame.body.command.ticket_bytes_count, 6);
        assert_memory_equal(packet.frame.body.command.ticket_bytes, "ticket",
                            6);
        assert_int_equal(write(packet.fds[1], "z", 1), 1);
        char byte = 0;
        assert_int_equal(read(fds[0], &byte, 1), 1);
        cleat_channel_packet_close(&packet);
    }
    assert_int_equal(command(&bench, 0, CLEAT_SYNC_FINALIZE, 1), CLEAT_OK);
    assert_int_equal(peer_count_fds(), before);
    packet = group(&bench, 2, 1);
    assert_int_equal(packet.frame.fds_count, 0);
    /* and one that is kept at the end is closed */
    assert_int_equal(command(&bench, 0, CLEAT_SYNC_PREPARE, 2), CLEAT_OK);
    answer_prepare_with_ticket(&bench, 2, 0, fds);
    (void)close(fds[0]);
    (void)close(fds[1]);
    end(&bench);
}

static void bad_frames_cost_nothing_but_themselves(void **state)
{
    struct bench bench;
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
    size_t count = 0;

    (void)state;
    begin(&bench);
    adopt(&bench, 1);
    struct cleat_control_frame frame = raw_answer(1, CLEAT_SYNC_PAUSE, 1,
                                                  CLEAT_OK);
    assert_int_equal(cleat_control_encode(&frame, bytes, &count), CLEAT_OK);
    bytes[count - 1] ^= 1; /* a flipped bit */
    assert_int_equal(
        cleat_channel_send_bytes(bench.raw[1], bytes, count, NULL, 0),
        CLEAT_OK);
    assert_int_equal(send(bench.raw[1], "garbage", 7, 0), 7);
    frame.body.answer.answer.sync.member = 2; /* somebody else's answer */
    peer_send(bench.raw[1], &frame);
    memset(&frame.body, 0, sizeof frame.body);
    frame.kind = CLEAT_CONTROL_CLOSE; /* what a worker does not say */
    peer_send(bench.raw[1], &frame);
    say_and_await(&bench, 1, CLEAT_SYNC_PAUSE, 1, CLEAT_OK);
    assert_int_equal(peer_view(bench.workers, 1).frames_bad, 4);
    assert_false(has_message(&bench));
    end(&bench);
}

static void a_worker_that_reads_nothing_blocks_nobody(void **state)
{
    struct bench bench;
    enum cleat_status status = CLEAT_OK;
    uint64_t sent = 0;

    (void)state;
    begin(&bench);
    adopt(&bench, 1);
    while (status == CLEAT_OK) {
        status = command(&bench, 1, CLEAT_SYNC_PAUSE, ++sent);
        assert_true(sent < 1000000);
    }
    assert_int_equal(status, CLEAT_NO_SLOT);
    assert_int_equal(peer_view(bench.workers, 1).frames_unsent, 1);
    /* it is still heard */
    say_and_await(&bench, 1, CLEAT_SYNC_PAUSE, 1, CLEAT_OK);
    end(&bench);
}

/* ---- a full mailbox
 * ---------------------------------------------------------------------- */

static void a_full_mailbox_loses_no_hello_and_no_loss(void **state)
{
    struct bench bench;
    uint32_t hellos = 0;
    uint32_t losses = 0;
    uint32_t expelled = 0;

    (void)state;
    begin_with(&bench, 1);
    make(&bench);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        adopt(&bench, i);
        raw_hello(&bench, i, CLEAT_OK);
        assert_int_equal(wait_ready(&bench, i), CLEAT_OK);
    }
    for (uint32_t i = 0; i < 3; i++) {
        (void)close(bench.raw[i]);
        bench.raw[i] = -1;
        AWAIT_VIEW(&bench, i, !v.attached);
    }
    assert_int_equal(command(&bench, 3, CLEAT_SYNC_EXPEL, 1), CLEAT_OK);
    bool said_hello[MEMBERS] = {false};
    bool gone[MEMBERS] = {false};
    for (uint32_t i = 0; i < 2 * MEMBERS + 1; i++) {
        struct cleat_message message = next_message(&bench);
        assert_true(message.index < MEMBERS);
        if (message.kind == CLEAT_WORKER_HELLO) {
            hellos++;
            assert_false(gone[message.index]);
            said_hello[message.index] = true;
        } else if (message.kind == CLEAT_WORKER_LOST) {
            losses++;
            assert_true(said_hello[message.index]);
            gone[message.index] = true;
        } else {
            assert_int_equal(message.kind, CLEAT_WORKER_ANSWER);
            assert_int_equal(message.index, 3);
            assert_false(gone[3]); /* the answer comes before */
            expelled++;
        }
    }
    assert_int_equal(hellos, MEMBERS);
    assert_int_equal(losses, MEMBERS);
    assert_int_equal(expelled, 1);
    assert_false(has_message(&bench));
    end(&bench);
}

static void a_full_mailbox_keeps_the_last_answer(void **state)
{
    struct bench bench;

    (void)state;
    begin_with(&bench, 1);
    make(&bench);
    adopt(&bench, 1);
    for (uint64_t epoch = 1; epoch <= 4; epoch++) {
        struct cleat_control_frame frame = raw_answer(1, CLEAT_SYNC_PAUSE,
                                                      epoch, CLEAT_OK);
        peer_send(bench.raw[1], &frame);
        raw_stats(&bench, 1, 100 + (uint32_t)epoch);
    }
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_PAUSE, 1).sync.epoch, 1);
    assert_int_equal(expect_answer(&bench, CLEAT_SYNC_PAUSE, 1).sync.epoch, 4);
    assert_int_equal(peer_view(bench.workers, 1).answers_dropped, 2);
    end(&bench);
}

/* ---- attaching
 * ------------------------------------------------------------------------------
 */

static void test_path(char *path, size_t bytes)
{
    (void)snprintf(path, bytes, "/tmp/cleat-workers-test-%d", (int)getpid());
    (void)unlink(path); /* of one that was killed, and had this number */
}

/* Connects as member `member`; the end, after its hello was sent. */
static int attach_with(const char *path, uint32_t member, uint32_t layout)
{
    int fd = cleat_channel_connect(path);

    assert_true(fd >= 0);
    struct cleat_channel_packet packet = peer_expect(fd, CLEAT_CONTROL_START);
    assert_int_equal(packet.frame.body.start.member, CLEAT_SYNC_NOBODY);
    struct cleat_control_frame frame;
    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_HELLO;
    frame.body.hello.start_sequence = packet.frame.sequence;
    frame.body.hello.member = member;
    frame.body.hello.hello.holding = CLEAT_SYNC_WHOLE;
    frame.body.hello.hello.pid = 77;
    frame.body.hello.hello.layout = layout;
    peer_send(fd, &frame);
    return fd;
}

static int attach(const char *path, uint32_t member)
{
    return attach_with(path, member, 0);
}

static void expect_end(int fd)
{
    struct cleat_channel_packet packet;
    bool ended = false;

    while (peer_next(fd, true, &packet, &ended)) {}
    assert_true(ended);
    (void)close(fd);
}

/* It is told why, once, and nothing else. */
static void expect_sent_away(int fd, enum cleat_status status, uint32_t layout)
{
    struct cleat_channel_packet packet;
    bool ended = false;

    assert_true(peer_next(fd, true, &packet, &ended));
    assert_int_equal(packet.frame.kind, CLEAT_CONTROL_CLOSE);
    assert_int_equal(packet.frame.body.close.status, status);
    assert_int_equal(packet.frame.body.close.layout, layout);
    assert_false(peer_next(fd, true, &packet, &ended));
    assert_true(ended);
    (void)close(fd);
}

static void engines_attach_and_name_themselves(void **state)
{
    struct bench bench;
    char path[64];
    struct stat file;

    (void)state;
    test_path(path, sizeof path);
    begin(&bench);
    assert_int_equal(cleat_linux_workers_listen(bench.workers, path, NULL),
                     CLEAT_OK);
    assert_int_equal(cleat_linux_workers_listen(bench.workers, path, NULL),
                     CLEAT_STATE);
    assert_int_equal(lstat(path, &file), 0);
    assert_int_equal(file.st_mode & 0777, 0600);
    bench.raw[2] = attach(path, 2);
    assert_int_equal(wait_ready(&bench, 2), CLEAT_OK);
    expect_message(&bench, CLEAT_WORKER_HELLO, 2);
    assert_false(peer_view(bench.workers, 2).child);
    assert_int_equal(peer_view(bench.workers, 2).pid, 77);
    assert_int_equal(command(&bench, 2, CLEAT_SYNC_PAUSE, 1), CLEAT_OK);
    (void)expect_command(&bench, 2, CLEAT_SYNC_PAUSE);
    assert_true(asks_with_success(&bench, 2));
    /* a second one of that name, and one of no member: sent away */
    assert_int_equal(cleat_linux_worker_sent_away(bench.workers, 2, NULL),
                     CLEAT_OK);
    expect_sent_away(attach(path, 2), CLEAT_EXISTS, 0);
    expect_sent_away(attach(path, MEMBERS), CLEAT_NOT_FOUND, 0);
    expect_sent_away(attach(path, UINT32_MAX), CLEAT_NOT_FOUND, 0);
    struct cleat_error error;
    assert_int_equal(cleat_linux_worker_sent_away(bench.workers, 2, &error),
                     CLEAT_EXISTS);
    assert_int_equal(error.index, 2);
    assert_string_equal(error.text, "a second worker came as member 2");
    /* the first one is as it was */
    assert_true(peer_view(bench.workers, 2).attached);
    assert_int_equal(command(&bench, 2, CLEAT_SYNC_RELEASE, 1), CLEAT_OK);
    (void)expect_command(&bench, 2, CLEAT_SYNC_RELEASE);
    /* gone, and back */
    (void)close(bench.raw[2]);
    expect_message(&bench, CLEAT_WORKER_LOST, 2);
    bench.raw[2] = attach(path, 2);
    expect_message(&bench, CLEAT_WORKER_HELLO, 2);
    /* who says nothing is no member, and goes at the end */
    int silent = cleat_channel_connect(path);
    (void)peer_expect(silent, CLEAT_CONTROL_START);
    assert_int_equal(cleat_linux_workers_close(bench.workers), CLEAT_OK);
    expect_end(silent);
    /* an attached one is not told that the job is over */
    assert_false(peer_has(bench.raw[2], CLEAT_CONTROL_CLOSE));
    assert_int_equal(lstat(path, &file), -1);
    end(&bench);
}

/* ---- what all must have alike
 * ------------------------------------------------------------------ */

static void expect_other_layout(struct bench *bench, uint32_t member,
                                const char *wanted)
{
    struct cleat_error error;

    assert_int_equal(wait_ready(bench, member), CLEAT_PEER_DEVIANT);
    assert_int_equal(
        cleat_linux_worker_sent_away(bench->workers, member, &error),
        CLEAT_PEER_DEVIANT);
    assert_int_equal(error.index, member);
    assert_string_equal(error.text, wanted);
    assert_false(peer_view(bench->workers, member).attached);
}

static void one_with_other_tensors_is_sent_away_before_any_command(void **state)
{
    struct bench bench;

    (void)state;
    begin_with(&bench, 64);
    bench.config.layout = 0x1234ABCD;
    make(&bench);
    for (uint32_t i = 0; i < MEMBERS; i++) { adopt(&bench, i); }
    raw_hello_of(&bench, 0, CLEAT_OK, 0x1234ABCD);
    assert_int_equal(wait_ready(&bench, 0), CLEAT_OK);
    expect_message(&bench, CLEAT_WORKER_HELLO, 0);
    raw_hello_of(&bench, 1, CLEAT_OK, 0x1234ABCE);
    expect_other_layout(&bench, 1,
                        "member 1 was not taken: its tensor table or bucket "
                        "size (digest 0x1234abce) is not the job's "
                        "(0x1234abcd)");
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    /* one that does not say is not compared */
    raw_hello_of(&bench, 2, CLEAT_OK, 0);
    assert_int_equal(wait_ready(&bench, 2), CLEAT_OK);
    expect_message(&bench, CLEAT_WORKER_HELLO, 2);
    /* nor does it help not to be ready */
    raw_hello_of(&bench, 3, CLEAT_TRANSIENT, 1);
    assert_int_equal(wait_ready(&bench, 3), CLEAT_PEER_DEVIANT);
    expect_message(&bench, CLEAT_WORKER_LOST, 3);
    /* nothing reaches those two any more, and they were told why */
    assert_int_equal(command(&bench, 1, CLEAT_SYNC_PREPARE, 1),
                     CLEAT_PEER_LOST);
    expect_sent_away(bench.raw[1], CLEAT_PEER_DEVIANT, 0x1234ABCD);
    expect_sent_away(bench.raw[3], CLEAT_PEER_DEVIANT, 0x1234ABCD);
    bench.raw[3] = -1;
    /* the place is free for another, which is compared likewise */
    adopt(&bench, 1);
    raw_hello_of(&bench, 1, CLEAT_OK, 0x1234ABCF);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_PEER_DEVIANT);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    (void)close(bench.raw[1]);
    adopt(&bench, 1);
    raw_hello_of(&bench, 1, CLEAT_OK, 0x1234ABCD);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    expect_message(&bench, CLEAT_WORKER_HELLO, 1);
    end(&bench);
}

static void without_a_layout_given_the_first_that_is_there_counts(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench);
    for (uint32_t i = 0; i < MEMBERS; i++) { adopt(&bench, i); }
    raw_hello_of(&bench, 3, CLEAT_OK, 0); /* says nothing, decides nothing */
    assert_int_equal(wait_ready(&bench, 3), CLEAT_OK);
    raw_hello_of(&bench, 2, CLEAT_TRANSIENT, 5); /* is not there yet */
    assert_int_equal(wait_ready(&bench, 2), CLEAT_TRANSIENT);
    raw_hello_of(&bench, 0, CLEAT_OK, 7);
    assert_int_equal(wait_ready(&bench, 0), CLEAT_OK);
    raw_hello_of(&bench, 1, CLEAT_OK, 8);
    expect_other_layout(&bench, 1,
                        "member 1 was not taken: its tensor table or bucket "
                        "size (digest 0x00000008) is not the job's "
                        "(0x00000007)");
    (void)close(bench.raw[1]);
    adopt(&bench, 1);
    raw_hello_of(&bench, 1, CLEAT_OK, 7);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    /* a word that was good once may be said again */
    raw_stats(&bench, 1, 5);
    end(&bench);
}

static void who_attaches_with_other_tensors_leaves_the_place_free(void **state)
{
    struct bench bench;
    struct cleat_error error;
    char path[64];

    (void)state;
    test_path(path, sizeof path);
    begin_with(&bench, 64);
    bench.config.layout = 7;
    make(&bench);
    assert_int_equal(cleat_linux_workers_listen(bench.workers, path, NULL),
                     CLEAT_OK);
    expect_sent_away(attach_with(path, 2, 8), CLEAT_PEER_DEVIANT, 7);
    assert_int_equal(cleat_linux_worker_sent_away(bench.workers, 2, &error),
                     CLEAT_PEER_DEVIANT);
    assert_false(peer_view(bench.workers, 2).attached);
    bench.raw[2] = attach_with(path, 2, 7);
    assert_int_equal(wait_ready(&bench, 2), CLEAT_OK);
    expect_message(&bench, CLEAT_WORKER_HELLO, 2); /* and no loss before it */
    assert_int_equal(command(&bench, 2, CLEAT_SYNC_PAUSE, 1), CLEAT_OK);
    (void)expect_command(&bench, 2, CLEAT_SYNC_PAUSE);
    /* one that comes back otherwise than it was is kept out */
    (void)close(bench.raw[2]);
    expect_message(&bench, CLEAT_WORKER_LOST, 2);
    expect_sent_away(attach_with(path, 2, 9), CLEAT_PEER_DEVIANT, 7);
    bench.raw[2] = attach_with(path, 2, 7);
    expect_message(&bench, CLEAT_WORKER_HELLO, 2);
    end(&bench);
}

static void who_knocks_while_descriptors_are_short_is_let_in_later(void **state)
{
    struct bench bench;
    struct sockaddr_un address;
    struct rlimit usual;
    struct rlimit none;

    (void)state;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    test_path(address.sun_path, sizeof address.sun_path);
    begin(&bench);
    assert_int_equal(
        cleat_linux_workers_listen(bench.workers, address.sun_path, NULL),
        CLEAT_OK);
    adopt(&bench, 1);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int next = dup(fd); /* the lowest that is free */
    (void)close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    none = usual;
    none.rlim_cur = (rlim_t)next;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address),
                     0);
    raw_stats(&bench, 1, 5); /* comes after it, and is heard all the same */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
    (void)peer_expect(fd, CLEAT_CONTROL_START);
    (void)close(fd);
    end(&bench);
}

static void a_stale_socket_is_replaced_and_nothing_else(void **state)
{
    struct bench bench;
    struct bench other;
    char path[64];
    struct cleat_error error;
    char long_path[120];

    (void)state;
    test_path(path, sizeof path);
    begin(&bench);
    /* left behind by one that was killed */
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    (void)close(fd);
    assert_int_equal(cleat_linux_workers_listen(bench.workers, path, NULL),
                     CLEAT_OK);
    /* somebody listens there */
    begin(&other);
    assert_int_equal(cleat_linux_workers_listen(other.workers, path, &error),
                     CLEAT_EXISTS);
    assert_non_null(strstr(error.text, path));
    end(&other);
    assert_int_equal(access(path, F_OK), 0);
    /* a file that is not ours is neither taken nor removed */
    assert_int_equal(unlink(path), 0);
    fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    end(&bench);
    begin(&bench);
    assert_int_equal(cleat_linux_workers_listen(bench.workers, path, &error),
                     CLEAT_EXISTS);
    memset(long_path, 'p', sizeof long_path);
    long_path[108] = '\0';
    assert_int_equal(
        cleat_linux_workers_listen(bench.workers, long_path, &error),
        CLEAT_LIMIT);
    assert_int_equal(
        cleat_linux_workers_listen(bench.workers, "/nonexistent/x", &error),
        CLEAT_IO);
    assert_int_equal(error.port_code, ENOENT);
    end(&bench);
    assert_int_equal(unlink(path), 0);
}

/* ---- the end
 * ----------------------------------------------------------------------------------
 */

static void stubborn_children_are_killed_after_the_grace(void **state)
{
    struct bench bench;

    (void)state;
    begin_with(&bench, 64);
    bench.config.grace_ns = 30 * CLEAT_NS_PER_MS;
    make(&bench);
    spawn(&bench, 0, "trainer");
    spawn(&bench, 1, "deaf");
    spawn(&bench, 2, "engine");
    spawn(&bench, 3, "hang-up");
    for (uint32_t i = 0; i < MEMBERS; i++) { (void)wait_ready(&bench, i); }
    assert_int_equal(kill(peer_view(bench.workers, 2).pid, SIGSTOP), 0);
    end(&bench);
}

static void a_bad_configuration_is_refused_and_leaves_nothing(void **state)
{
    struct bench bench;
    struct cleat_error error;
    struct cleat_linux_workers *workers = NULL;
    size_t bytes = CLEAT_LINUX_WORKERS_BYTES(MEMBERS);

    (void)state;
    begin_with(&bench, 4);
    int fds = peer_count_fds();
    assert_int_equal(cleat_linux_workers_bytes(MEMBERS), bytes);
    assert_int_equal(cleat_linux_workers_bytes(0), 0);
    assert_int_equal(cleat_linux_workers_bytes(CLEAT_LINUX_WORKERS_MAX + 1), 0);
    assert_int_equal(cleat_linux_workers_init(bench.block, bytes - 1,
                                              &bench.config, &workers, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, bytes);
    struct cleat_linux_workers_config config = bench.config;
    config.trainers = 0;
    assert_int_equal(
        cleat_linux_workers_init(bench.block, bytes, &config, &workers, &error),
        CLEAT_INVALID);
    config.trainers = MEMBERS + 1;
    assert_int_equal(
        cleat_linux_workers_init(bench.block, bytes, &config, &workers, &error),
        CLEAT_INVALID);
    config = bench.config;
    config.mailbox.post = NULL;
    assert_int_equal(
        cleat_linux_workers_init(bench.block, bytes, &config, &workers, &error),
        CLEAT_INVALID);
    assert_null(workers);
    assert_int_equal(cleat_linux_workers_close(NULL), CLEAT_OK);
    assert_int_equal(peer_count_fds(), fds);
    peer_await_threads(bench.threads_before);
    cleat_linux_mailbox_close(&bench.mailbox);
    free(bench.block);
    free(bench.mailbox_block);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_says_hello_and_ends_when_told),
        cmocka_unit_test(each_wait_asks_once_and_says_what_was_said),
        cmocka_unit_test(a_late_refusal_is_not_taken_for_the_next_answer),
        cmocka_unit_test(a_refusal_of_an_earlier_question_ends_no_wait),
        cmocka_unit_test(a_wait_ends_with_what_went_wrong),
        cmocka_unit_test(a_child_has_four_descriptors_and_usual_signals),
        cmocka_unit_test(what_a_child_said_before_it_died_is_heard_first),
        cmocka_unit_test(a_killed_child_is_lost_once_and_reaped),
        cmocka_unit_test(a_member_has_one_worker),
        cmocka_unit_test(an_expelled_child_is_dead_when_the_answer_comes),
        cmocka_unit_test(a_childs_group_dies_with_it),
        cmocka_unit_test(a_child_that_hangs_up_is_lost_and_can_be_expelled),
        cmocka_unit_test(
            one_that_is_no_child_is_expelled_when_its_lease_is_over),
        cmocka_unit_test(one_that_never_had_a_lease_is_expelled_at_once),
        cmocka_unit_test(a_lease_without_end_is_never_certain_to_be_over),
        cmocka_unit_test(a_copy_in_a_forked_process_keeps_nothing_open),
        cmocka_unit_test(where_children_are_reaped_by_others_their_end_is_seen),
        cmocka_unit_test(a_fenced_worker_gets_no_lease_until_a_later_commit),
        cmocka_unit_test(
            one_that_takes_anothers_place_gets_no_lease_until_its_first_commit),
        cmocka_unit_test(a_command_arrives_as_it_was_given),
        cmocka_unit_test(an_answer_arrives_as_it_was_given),
        cmocka_unit_test(
            receivers_are_numbered_without_those_who_were_not_asked),
        cmocka_unit_test(the_senders_ticket_goes_to_all_until_finalize),
        cmocka_unit_test(bad_frames_cost_nothing_but_themselves),
        cmocka_unit_test(a_worker_that_reads_nothing_blocks_nobody),
        cmocka_unit_test(a_full_mailbox_loses_no_hello_and_no_loss),
        cmocka_unit_test(a_full_mailbox_keeps_the_last_answer),
        cmocka_unit_test(engines_attach_and_name_themselves),
        cmocka_unit_test(
            one_with_other_tensors_is_sent_away_before_any_command),
        cmocka_unit_test(without_a_layout_given_the_first_that_is_there_counts),
        cmocka_unit_test(who_attaches_with_other_tensors_leaves_the_place_free),
        cmocka_unit_test(
            who_knocks_while_descriptors_are_short_is_let_in_later),
        cmocka_unit_test(a_stale_socket_is_replaced_and_nothing_else),
        cmocka_unit_test(stubborn_children_are_killed_after_the_grace),
        cmocka_unit_test(a_bad_configuration_is_refused_and_leaves_nothing),
    };

    if (argc > 1) { return child_main(argv[1]); }
    peer_warm_up();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
