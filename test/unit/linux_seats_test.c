/* Cleat: who sits down as a member when, on the coordinator's side: what comes
 * between the steps of filling a place. SPDX-License-Identifier: Apache-2.0
 *
 * Calls of the C library are caught here, and held or failed where a test
 * wants it. Started with an argument, this program is a worker. */
#define _GNU_SOURCE
#include "linux_view.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "cleat/linux.h"

#define MEMBERS_MAX 24u
#define PLACES_LEAST 16u /* for those who have not said hello */
#define HOLDS 20u

/* ---- calls that are caught -------------------------------------------------
 */

static void *next_of(const char *name)
{
    void *function = dlsym(RTLD_NEXT, name);

    if (function == NULL) { abort(); }
    return function;
}

#define NEXT(type, name, out)                       \
    do {                                            \
        void *function_ = next_of(name);            \
        memcpy(&(out), &function_, sizeof(type *)); \
    } while (0)

/* The clock may be put forward. */
static _Atomic int64_t later_s;

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int code = (int)syscall(SYS_clock_gettime, clock, now);

    if (clock == CLOCK_MONOTONIC) { now->tv_sec += atomic_load(&later_s); }
    return code;
}

/* A process is started only when the test lets it. */
static atomic_bool spawn_is_held;
static atomic_bool spawn_has_begun;
static _Atomic pid_t spawned;

typedef int spawn_function(pid_t *, const char *,
                           const posix_spawn_file_actions_t *,
                           const posix_spawnattr_t *, char *const[],
                           char *const[]);

int posix_spawn(pid_t *pid, const char *path,
                const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const argv[],
                char *const envp[])
{
    spawn_function *real = NULL;

    NEXT(spawn_function, "posix_spawn", real);
    atomic_store(&spawn_has_begun, true);
    while (atomic_load(&spawn_is_held)) { (void)sched_yield(); }
    int code = real(pid, path, actions, attributes, argv, envp);
    atomic_store(&spawned, code == 0 ? *pid : 0);
    return code;
}

/* The n-th addition to a set fails; 0: none. */
static atomic_uint addition_fails;

typedef int control_function(int, int, int, struct epoll_event *);

int epoll_ctl(int set, int operation, int fd, struct epoll_event *event)
{
    control_function *real = NULL;

    NEXT(control_function, "epoll_ctl", real);
    if (operation == EPOLL_CTL_ADD && atomic_load(&addition_fails) > 0 &&
        atomic_fetch_sub(&addition_fails, 1) == 1) {
        errno = ENOSPC;
        return -1;
    }
    return real(set, operation, fd, event);
}

/* Another coordinator begins to listen at the same path just before this one
 * does. */
static struct cleat_linux_workers *other_listener;
static const char *other_path;
static enum cleat_status other_status;

typedef int listen_function(int, int);

int listen(int fd, int backlog)
{
    struct cleat_linux_workers *other = other_listener;
    listen_function *real = NULL;

    NEXT(listen_function, "listen", real);
    other_listener = NULL;
    if (other != NULL) {
        other_status = cleat_linux_workers_listen(other, other_path, NULL);
    }
    return real(fd, backlog);
}

/* A child that has ended cannot be reaped yet, so many times; as of one that
 * is traced. What was reported as ready meanwhile is counted. */
static atomic_uint holds;
static atomic_uint reports;

typedef int wait_function(idtype_t, id_t, siginfo_t *, int);

int waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
    wait_function *real = NULL;

    NEXT(wait_function, "waitid", real);
    int code = real(type, id, info, options);
    if (code == 0 && info->si_pid != 0 && atomic_load(&holds) > 0) {
        (void)atomic_fetch_sub(&holds, 1);
        info->si_pid = 0;
    }
    return code;
}

static int count_report(int ready)
{
    if (ready > 0 && atomic_load(&holds) > 0) {
        (void)atomic_fetch_add(&reports, 1);
    }
    return ready;
}

typedef int epoll_function(int, struct epoll_event *, int, int);

int epoll_wait(int set, struct epoll_event *events, int events_max, int timeout)
{
    epoll_function *real = NULL;

    NEXT(epoll_function, "epoll_wait", real);
    return count_report(real(set, events, events_max, timeout));
}

typedef int poll_function(struct pollfd *, nfds_t, const struct timespec *,
                          const sigset_t *);

int ppoll(struct pollfd *fds, nfds_t fds_count, const struct timespec *timeout,
          const sigset_t *signals)
{
    poll_function *real = NULL;

    NEXT(poll_function, "ppoll", real);
    return count_report(real(fds, fds_count, timeout, signals));
}

/* ---- workers by hand ----------------------------------------------------- */

static void say_hello(int fd, uint32_t member, uint64_t start_sequence,
                      uint64_t version)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_HELLO;
    frame.body.hello.start_sequence = start_sequence;
    frame.body.hello.member = member;
    frame.body.hello.hello.version = version;
    frame.body.hello.hello.pid = (uint32_t)getpid();
    frame.body.hello.hello.holding = CLEAT_SYNC_WHOLE;
    peer_send(fd, &frame);
}

static int knock(const char *path)
{
    int fd = cleat_channel_connect(path);

    assert_true(fd >= 0);
    return fd;
}

/* It is let in, and asked to say hello. */
static void expect_start(int fd)
{
    struct cleat_channel_packet packet = peer_expect(fd, CLEAT_CONTROL_START);

    assert_int_equal(packet.frame.sequence, 1);
}

static int attach(const char *path, uint32_t member, uint64_t version)
{
    int fd = knock(path);

    expect_start(fd);
    say_hello(fd, member, 1, version);
    return fd;
}

static void expect_end(int fd)
{
    struct cleat_channel_packet packet;
    bool ended = false;

    while (peer_next(fd, true, &packet, &ended)) {
        cleat_channel_packet_close(&packet);
    }
    assert_true(ended);
    (void)close(fd);
}

/* Attaches as member 1 and forks: the copy lives on when this one is killed,
 * and holds its channel. The copy's number is what it says to have. A launcher
 * leaves the channel to the copy and ends. */
static int attach_and_fork(const char *path, bool launches)
{
    struct cleat_channel_packet packet;
    bool ended = false;
    int fd = cleat_channel_connect(path);

    (void)alarm(300);
    if (fd < 0) { return 1; }
    pid_t copy = fork();
    if (copy < 0) { return 2; }
    if (copy > 0 && launches) { return 0; }
    if (copy > 0 || launches) {
        while (!peer_next(fd, true, &packet, &ended)) {}
        say_hello(fd, 1, packet.frame.sequence,
                  (uint64_t)(launches ? getpid() : copy));
    }
    (void)alarm(300);
    for (;;) { (void)pause(); }
}

static int child_main(int argc, char **argv)
{
    if (argc > 2) { return attach_and_fork(argv[2], argc > 3); }
    struct cleat_channel_packet packet = peer_expect(CLEAT_LINUX_CHANNEL_FD,
                                                     CLEAT_CONTROL_START);
    bool ended = false;

    (void)alarm(300);
    say_hello(CLEAT_LINUX_CHANNEL_FD, packet.frame.body.start.member,
              packet.frame.sequence, 1);
    while (peer_next(CLEAT_LINUX_CHANNEL_FD, true, &packet, &ended)) {
        if (packet.frame.kind == CLEAT_CONTROL_CLOSE) { return 0; }
    }
    return 0;
}

/* ---- the bench ----------------------------------------------------------- */

struct bench {
    uint32_t members;
    void *block;
    void *mailbox_block;
    struct cleat_mailbox mailbox;
    struct cleat_linux_workers *workers;
    struct cleat_worker_port port;
    char path[64];
    int fds_before;
    int threads_before;
};

static void begin(struct bench *bench, uint32_t members, uint32_t messages_max)
{
    struct cleat_linux_workers_config config;

    memset(bench, 0, sizeof *bench);
    memset(&config, 0, sizeof config);
    bench->members = members;
    bench->fds_before = peer_count_fds();
    bench->threads_before = peer_count_threads();
    bench->block = peer_block(CLEAT_LINUX_WORKERS_BYTES(members));
    bench->mailbox_block = peer_block(CLEAT_LINUX_MAILBOX_BYTES(messages_max));
    assert_int_equal(
        cleat_linux_mailbox_init(bench->mailbox_block,
                                 CLEAT_LINUX_MAILBOX_BYTES(messages_max),
                                 messages_max, &bench->mailbox, NULL),
        CLEAT_OK);
    config.members = members;
    config.trainers = 1;
    config.mailbox = bench->mailbox;
    config.grace_ns = WATCHDOG_NS;
    config.reap_ns = WATCHDOG_NS;
    assert_int_equal(cleat_linux_workers_init(
                         bench->block, CLEAT_LINUX_WORKERS_BYTES(members),
                         &config, &bench->workers, NULL),
                     CLEAT_OK);
    bench->port = cleat_linux_workers_port(bench->workers);
    (void)snprintf(bench->path, sizeof bench->path, "/tmp/cleat-seats-test-%d",
                   (int)getpid());
    (void)unlink(bench->path);
}

static void begin_listening(struct bench *bench, uint32_t members,
                            uint32_t messages_max)
{
    begin(bench, members, messages_max);
    assert_int_equal(
        cleat_linux_workers_listen(bench->workers, bench->path, NULL),
        CLEAT_OK);
}

static void finish(struct bench *bench)
{
    assert_int_equal(cleat_linux_workers_close(bench->workers), CLEAT_OK);
}

/* Nothing of it is left; what the test has opened itself is closed before. */
static void end(struct bench *bench)
{
    finish(bench);
    cleat_linux_mailbox_close(&bench->mailbox);
    free(bench->block);
    free(bench->mailbox_block);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    peer_await_fds(bench->fds_before);
    peer_await_threads(bench->threads_before);
}

static struct cleat_message next_message(struct bench *bench)
{
    struct cleat_message message;

    assert_int_equal(bench->mailbox.wait(bench->mailbox.context,
                                         peer_now_ns() + WATCHDOG_NS, &message),
                     CLEAT_OK);
    return message;
}

static void expect_message(struct bench *bench, uint32_t kind, uint32_t member)
{
    struct cleat_message message = next_message(bench);

    assert_int_equal(message.kind, kind);
    assert_int_equal(message.index, member);
}

static void expect_hello(struct bench *bench, uint32_t member, uint64_t version)
{
    struct cleat_message message = next_message(bench);
    struct cleat_worker_hello hello;

    assert_int_equal(message.kind, CLEAT_WORKER_HELLO);
    assert_int_equal(message.index, member);
    memcpy(&hello, message.body, sizeof hello);
    assert_int_equal(hello.version, version);
}

static enum cleat_status wait_ready(struct bench *bench, uint32_t member)
{
    return cleat_linux_worker_wait(bench->workers, member,
                                   peer_now_ns() + WATCHDOG_NS);
}

static enum cleat_status command(struct bench *bench, uint32_t member,
                                 enum cleat_sync_step step)
{
    struct cleat_sync_command out = {.step = step,
                                     .member = member,
                                     .attempt = 1,
                                     .term = 1,
                                     .epoch = 1,
                                     .version = 2,
                                     .deadline_ns = CLEAT_NEVER};

    return bench->port.send(bench->port.context, &out);
}

/* The other end of a worker's channel, after its hello. */
static int adopt(struct bench *bench, uint32_t member)
{
    int pair[2];

    peer_pair(pair);
    assert_int_equal(
        cleat_linux_workers_adopt(bench->workers, member, pair[0], NULL),
        CLEAT_OK);
    struct cleat_channel_packet packet = peer_expect(pair[1],
                                                     CLEAT_CONTROL_START);
    say_hello(pair[1], member, packet.frame.sequence, 1);
    assert_int_equal(wait_ready(bench, member), CLEAT_OK);
    expect_message(bench, CLEAT_WORKER_HELLO, member);
    return pair[1];
}

/* All that was done at other descriptors before has been seen when this has
 * been read. */
static void turn(struct bench *bench, uint32_t member, int fd)
{
    struct cleat_control_frame frame;
    uint64_t heard = peer_view(bench->workers, member).heard;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_STATS;
    for (uint32_t i = 0; i < 3; i++) {
        peer_send(fd, &frame);
        AWAIT_VIEW(bench, member, v.heard == heard + i + 1);
    }
}

static enum cleat_status spawn(struct bench *bench, uint32_t member)
{
    char path[] = "/proc/self/exe";
    char *argv[] = {path, path, NULL};

    return cleat_linux_workers_spawn(bench->workers, member, path, argv, NULL,
                                     NULL);
}

/* ---- a place that is filled ---------------------------------------------- */

struct spawning {
    struct bench *bench;
    enum cleat_status status;
};

static void *spawn_member_1(void *argument)
{
    struct spawning *spawning = argument;

    spawning->status = spawn(spawning->bench, 1);
    return NULL;
}

static void
an_expulsion_is_answered_though_the_place_is_being_filled(void **state)
{
    struct bench bench;
    struct spawning spawning = {&bench, CLEAT_OK};
    struct cleat_message full = {.kind = UINT32_MAX};
    struct cleat_worker_answer answer;
    pthread_t thread;

    (void)state;
    begin(&bench, 2, 1);
    (void)close(adopt(&bench, 1));
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    /* the answer cannot be told before the new process is there */
    assert_int_equal(bench.mailbox.post(bench.mailbox.context, &full),
                     CLEAT_OK);
    atomic_store(&spawn_has_begun, false);
    atomic_store(&spawn_is_held, true);
    assert_int_equal(pthread_create(&thread, NULL, spawn_member_1, &spawning),
                     0);
    while (!atomic_load(&spawn_has_begun)) { (void)sched_yield(); }
    assert_int_equal(command(&bench, 1, CLEAT_SYNC_EXPEL), CLEAT_OK);
    atomic_store(&spawn_is_held, false);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(spawning.status, CLEAT_EXISTS);
    assert_int_not_equal(atomic_load(&spawned), 0);
    assert_int_equal(waitpid(atomic_load(&spawned), NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    expect_message(&bench, UINT32_MAX, 0);
    struct cleat_message message = next_message(&bench);
    assert_int_equal(message.kind, CLEAT_WORKER_ANSWER);
    assert_int_equal(message.index, 1);
    memcpy(&answer, message.body, sizeof answer);
    assert_int_equal(answer.sync.step, CLEAT_SYNC_EXPEL);
    assert_int_equal(answer.sync.status, CLEAT_OK);
    /* and then the place is free */
    while (spawn(&bench, 1) == CLEAT_EXISTS) { (void)sched_yield(); }
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    expect_hello(&bench, 1, 1);
    end(&bench);
}

/* Is an ask for a lease granted? */
static bool is_granted(struct bench *bench, uint32_t member, int fd)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_LEASE_ASK;
    frame.body.lease.counter = 1;
    peer_send(fd, &frame);
    turn(bench, member, fd);
    return peer_has(fd, CLEAT_CONTROL_LEASE_GRANT);
}

static void a_failure_to_fill_a_place_leaves_it_as_it_was(void **state)
{
    struct bench bench;
    struct cleat_error error;
    int pair[2];

    (void)state;
    begin(&bench, 2, 64);
    int fd = adopt(&bench, 1);
    assert_int_equal(command(&bench, 1, CLEAT_SYNC_PAUSE), CLEAT_OK);
    (void)close(fd);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    /* the first thing cannot be watched, or the second */
    peer_pair(pair);
    atomic_store(&addition_fails, 1);
    assert_int_equal(
        cleat_linux_workers_adopt(bench.workers, 1, pair[0], &error), CLEAT_IO);
    assert_int_equal(error.port_code, ENOSPC);
    (void)close(pair[0]);
    (void)close(pair[1]);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_PEER_LOST);
    atomic_store(&addition_fails, 2);
    assert_int_equal(spawn(&bench, 1), CLEAT_IO);
    assert_int_equal(waitpid(atomic_load(&spawned), NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_PEER_LOST);
    /* one that takes the place of another gets no lease yet, all the same */
    fd = adopt(&bench, 1);
    assert_false(is_granted(&bench, 1, fd));
    finish(&bench);
    (void)close(fd);
    end(&bench);
}

/* ---- those who have not said hello --------------------------------------- */

static void as_many_as_the_job_has_may_take_long_to_say_hello(void **state)
{
    struct bench bench;
    int fds[MEMBERS_MAX];

    (void)state;
    begin_listening(&bench, MEMBERS_MAX, 64);
    for (uint32_t i = 0; i < MEMBERS_MAX; i++) {
        fds[i] = knock(bench.path);
        expect_start(fds[i]);
    }
    atomic_store(&later_s, 3600);
    for (uint32_t i = 0; i < MEMBERS_MAX; i++) {
        say_hello(fds[i], i, 1, 7);
        assert_int_equal(wait_ready(&bench, i), CLEAT_OK);
        expect_hello(&bench, i, 7);
    }
    finish(&bench);
    atomic_store(&later_s, 0);
    for (uint32_t i = 0; i < MEMBERS_MAX; i++) { (void)close(fds[i]); }
    end(&bench);
}

static void
who_comes_when_all_places_are_taken_waits_for_a_free_one(void **state)
{
    struct bench bench;
    int fds[PLACES_LEAST];

    (void)state;
    begin_listening(&bench, 4, 64);
    int witness = adopt(&bench, 3);
    for (uint32_t i = 0; i < PLACES_LEAST; i++) {
        fds[i] = knock(bench.path);
        expect_start(fds[i]);
    }
    int late = knock(bench.path);
    int later = knock(bench.path);
    turn(&bench, 3, witness);
    assert_false(peer_has(late, CLEAT_CONTROL_START));
    /* one says hello, another hangs up */
    say_hello(fds[0], 0, 1, 7);
    expect_hello(&bench, 0, 7);
    expect_start(late);
    say_hello(late, 1, 1, 8);
    expect_hello(&bench, 1, 8);
    expect_start(later);
    int latest = knock(bench.path);
    turn(&bench, 3, witness);
    assert_false(peer_has(latest, CLEAT_CONTROL_START));
    (void)close(fds[5]);
    expect_start(latest);
    say_hello(latest, 2, 1, 9);
    expect_hello(&bench, 2, 9);
    finish(&bench);
    for (uint32_t i = 0; i < PLACES_LEAST; i++) {
        if (i != 5) { expect_end(fds[i]); }
    }
    expect_end(late);
    expect_end(later);
    expect_end(latest);
    (void)close(witness);
    end(&bench);
}

static void
the_first_of_those_who_say_nothing_gives_way_in_the_end(void **state)
{
    struct bench bench;
    int fds[PLACES_LEAST + 1];

    (void)state;
    begin_listening(&bench, PLACES_LEAST + 2, 64);
    int witness = adopt(&bench, PLACES_LEAST + 1);
    /* with the others below, as many as there are members */
    int more = knock(bench.path);
    expect_start(more);
    for (uint32_t i = 0; i < PLACES_LEAST + 1; i++) {
        fds[i] = knock(bench.path);
        expect_start(fds[i]);
    }
    atomic_store(&later_s, 3600);
    turn(&bench, PLACES_LEAST + 1, witness);
    /* however old, nobody goes as long as nobody comes */
    for (uint32_t i = 0; i < PLACES_LEAST + 1; i++) {
        assert_false(peer_has(fds[i], CLEAT_CONTROL_CLOSE));
    }
    int late = knock(bench.path);
    expect_start(late);
    expect_end(more);
    say_hello(late, 0, 1, 9);
    expect_hello(&bench, 0, 9);
    for (uint32_t i = 1; i < PLACES_LEAST + 1; i++) {
        say_hello(fds[i], i, 1, 7);
        assert_int_equal(wait_ready(&bench, i), CLEAT_OK);
        expect_hello(&bench, i, 7);
    }
    finish(&bench);
    atomic_store(&later_s, 0);
    for (uint32_t i = 0; i < PLACES_LEAST + 1; i++) { expect_end(fds[i]); }
    (void)close(late);
    (void)close(witness);
    end(&bench);
}

/* ---- a full mailbox ------------------------------------------------------ */

static void who_attaches_gets_the_place_though_the_mailbox_is_full(void **state)
{
    struct bench bench;

    (void)state;
    begin_listening(&bench, 2, 1);
    for (uint64_t version = 1; version <= 2; version++) {
        int fd = attach(bench.path, 1, version);
        AWAIT_VIEW(&bench, 1, v.ready && v.version == version);
        (void)close(fd);
        AWAIT_VIEW(&bench, 1, !v.attached);
    }
    int fd = attach(bench.path, 1, 3);
    AWAIT_VIEW(&bench, 1, v.ready && v.version == 3);
    /* who knows the first one only means that one */
    assert_int_equal(command(&bench, 1, CLEAT_SYNC_PAUSE), CLEAT_PEER_LOST);
    expect_hello(&bench, 1, 1);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    expect_hello(&bench, 1, 3);
    assert_false(peer_has(fd, CLEAT_CONTROL_COMMAND));
    assert_int_equal(command(&bench, 1, CLEAT_SYNC_PAUSE), CLEAT_OK);
    struct cleat_channel_packet packet = peer_expect(fd, CLEAT_CONTROL_COMMAND);
    assert_int_equal(packet.frame.body.command.step, CLEAT_SYNC_PAUSE);
    finish(&bench);
    (void)close(fd);
    end(&bench);
}

/* ---- two at one path ----------------------------------------------------- */

static void of_two_that_begin_to_listen_at_once_one_does(void **state)
{
    struct bench bench;
    struct bench other;
    char lock_file[80];

    (void)state;
    begin(&other, 2, 64);
    begin(&bench, 2, 64);
    (void)snprintf(lock_file, sizeof lock_file, "%s.cleat-lock", bench.path);
    /* a lock that was left behind is none */
    int left = open(lock_file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(left >= 0);
    (void)close(left);
    other_path = bench.path;
    other_status = CLEAT_CANCELLED;
    other_listener = other.workers;
    assert_int_equal(
        cleat_linux_workers_listen(bench.workers, bench.path, NULL), CLEAT_OK);
    assert_int_equal(other_status, CLEAT_EXISTS);
    assert_int_equal(access(lock_file, F_OK), -1);
    int fd = attach(bench.path, 1, 1);
    expect_hello(&bench, 1, 1);
    finish(&bench);
    assert_int_equal(access(bench.path, F_OK), -1);
    (void)close(fd);
    end(&bench);
    end(&other);
}

/* ---- processes ----------------------------------------------------------- */

static void the_death_of_one_that_has_forked_is_seen(void **state)
{
    struct bench bench;
    char path[] = "/proc/self/exe";
    pid_t pid = 0;

    (void)state;
    begin_listening(&bench, 2, 64);
    char *argv[] = {path, path, bench.path, NULL};
    assert_int_equal(posix_spawn(&pid, path, NULL, NULL, argv, environ), 0);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    pid_t copy = (pid_t)peer_view(bench.workers, 1).version;
    expect_hello(&bench, 1, (uint64_t)copy);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    assert_int_equal(kill(copy, 0), 0); /* and holds what it held */
    /* the place is free */
    int fd = attach(bench.path, 1, 2);
    expect_hello(&bench, 1, 2);
    assert_int_equal(kill(copy, SIGKILL), 0);
    finish(&bench);
    (void)close(fd);
    end(&bench);
}

static void who_connected_may_end_where_another_serves(void **state)
{
    struct bench bench;
    char path[] = "/proc/self/exe";
    pid_t launcher = 0;
    siginfo_t info;

    (void)state;
    begin_listening(&bench, 2, 64);
    char *argv[] = {path, path, bench.path, path, NULL};
    assert_int_equal(posix_spawn(&launcher, path, NULL, NULL, argv, environ),
                     0);
    /* ended, and not reaped: that can be noticed */
    assert_int_equal(waitid(P_PID, (id_t)launcher, &info, WEXITED | WNOWAIT),
                     0);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    pid_t server = (pid_t)peer_view(bench.workers, 1).version;
    expect_hello(&bench, 1, (uint64_t)server);
    int fd = attach(bench.path, 0, 2); /* some looks of the thread later */
    expect_hello(&bench, 0, 2);
    assert_true(peer_view(bench.workers, 1).ready);
    assert_int_equal(kill(server, SIGKILL), 0);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    assert_int_equal(waitpid(launcher, NULL, 0), launcher);
    finish(&bench);
    (void)close(fd);
    end(&bench);
}

static void a_look_at_a_process_takes_no_descriptor_that_is_short(void **state)
{
    struct bench bench;
    char path[] = "/proc/self/exe";
    struct rlimit usual;
    struct rlimit few;
    pid_t pid = 0;

    (void)state;
    begin_listening(&bench, 2, 64);
    int next = dup(0); /* the lowest that is free */
    (void)close(next);
    int before = peer_count_fds();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    few = usual;
    few.rlim_cur = (rlim_t)(2 * next);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    char *argv[] = {path, path, bench.path, NULL};
    assert_int_equal(posix_spawn(&pid, path, NULL, NULL, argv, environ), 0);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    pid_t copy = (pid_t)peer_view(bench.workers, 1).version;
    assert_int_equal(peer_count_fds(), before + 1);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(kill(copy, SIGKILL), 0);
    expect_hello(&bench, 1, (uint64_t)copy);
    expect_message(&bench, CLEAT_WORKER_LOST, 1);
    end(&bench);
}

static void a_path_where_only_a_forked_copy_listens_is_taken_over(void **state)
{
    struct bench bench;
    struct sockaddr_un address;
    int held[2];
    char byte = 0;

    (void)state;
    begin(&bench, 2, 64);
    assert_int_equal(pipe2(held, O_CLOEXEC), 0);
    pid_t listener = fork();
    if (listener == 0) { /* listens, forks and ends; the copy holds it all */
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        memset(&address, 0, sizeof address);
        address.sun_family = AF_UNIX;
        (void)snprintf(address.sun_path, sizeof address.sun_path, "%s",
                       bench.path);
        (void)alarm(300);
        if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
            listen(fd, 8) != 0) {
            _exit(1);
        }
        if (fork() != 0) { _exit(0); }
        (void)alarm(300);
        (void)close(held[1]);
        _exit(read(held[0], &byte, 1) == 0 ? 0 : 1);
    }
    int how = 1;
    assert_int_equal(waitpid(listener, &how, 0), listener);
    assert_int_equal(how, 0);
    assert_int_equal(
        cleat_linux_workers_listen(bench.workers, bench.path, NULL), CLEAT_OK);
    int fd = attach(bench.path, 1, 1);
    expect_hello(&bench, 1, 1);
    (void)close(held[0]);
    (void)close(held[1]);
    finish(&bench);
    (void)close(fd);
    end(&bench);
}

static void
a_copy_in_a_forked_process_keeps_nobody_waiting_at_the_door(void **state)
{
    struct bench bench;
    int held[2];
    char byte = 0;

    (void)state;
    begin_listening(&bench, 2, 64);
    assert_int_equal(pipe2(held, O_CLOEXEC), 0);
    pid_t copy = fork();
    if (copy == 0) {
        (void)alarm(300);
        (void)close(held[1]);
        _exit(read(held[0], &byte, 1) == 0 ? 0 : 1);
    }
    assert_true(copy > 0);
    int fds[PLACES_LEAST + 1];
    for (uint32_t i = 0; i < PLACES_LEAST + 1; i++) {
        fds[i] = knock(bench.path);
    }
    expect_start(fds[PLACES_LEAST - 1]);
    assert_int_equal(cleat_linux_workers_close(bench.workers), CLEAT_OK);
    for (uint32_t i = 0; i < PLACES_LEAST + 1; i++) { expect_end(fds[i]); }
    (void)close(held[0]);
    (void)close(held[1]);
    assert_int_equal(waitpid(copy, NULL, 0), copy);
    end(&bench);
}

static void
a_child_that_is_held_by_a_tracer_is_looked_at_now_and_then(void **state)
{
    struct bench bench;

    (void)state;
    begin(&bench, 2, 64);
    assert_int_equal(spawn(&bench, 1), CLEAT_OK);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    expect_hello(&bench, 1, 1);
    atomic_store(&reports, 0);
    atomic_store(&holds, HOLDS);
    assert_int_equal(kill(peer_view(bench.workers, 1).pid, SIGKILL), 0);
    expect_message(&bench, CLEAT_WORKER_LOST, 1); /* its channel has ended */
    AWAIT_VIEW(&bench, 1, v.reaped);
    assert_int_equal(peer_view(bench.workers, 1).exit_signal, SIGKILL);
    assert_int_equal(atomic_load(&holds), 0);
    assert_true(atomic_load(&reports) < HOLDS / 2);
    /* the same while it is waited for at the end */
    assert_int_equal(spawn(&bench, 1), CLEAT_OK);
    assert_int_equal(wait_ready(&bench, 1), CLEAT_OK);
    atomic_store(&reports, 0);
    atomic_store(&holds, HOLDS);
    end(&bench);
    assert_int_equal(atomic_load(&holds), 0);
    assert_true(atomic_load(&reports) < HOLDS / 2);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            an_expulsion_is_answered_though_the_place_is_being_filled),
        cmocka_unit_test(a_failure_to_fill_a_place_leaves_it_as_it_was),
        cmocka_unit_test(as_many_as_the_job_has_may_take_long_to_say_hello),
        cmocka_unit_test(
            who_comes_when_all_places_are_taken_waits_for_a_free_one),
        cmocka_unit_test(
            the_first_of_those_who_say_nothing_gives_way_in_the_end),
        cmocka_unit_test(
            who_attaches_gets_the_place_though_the_mailbox_is_full),
        cmocka_unit_test(of_two_that_begin_to_listen_at_once_one_does),
        cmocka_unit_test(the_death_of_one_that_has_forked_is_seen),
        cmocka_unit_test(who_connected_may_end_where_another_serves),
        cmocka_unit_test(a_look_at_a_process_takes_no_descriptor_that_is_short),
        cmocka_unit_test(a_path_where_only_a_forked_copy_listens_is_taken_over),
        cmocka_unit_test(
            a_copy_in_a_forked_process_keeps_nobody_waiting_at_the_door),
        cmocka_unit_test(
            a_child_that_is_held_by_a_tracer_is_looked_at_now_and_then),
    };

    if (argc > 1) { return child_main(argc, argv); }
    peer_warm_up();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
