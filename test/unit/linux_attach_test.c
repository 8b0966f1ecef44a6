/* Cleat: a worker that attaches or is asked to start, whatever time that takes
 * and whatever its coordinators do. SPDX-License-Identifier: Apache-2.0
 *
 * The worker's loop runs in the test's own thread, so that what it finds is
 * what the test has made so; time passes when the test moves it. */
#define _GNU_SOURCE
#include "linux_peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/un.h>

#include "cleat/linux.h"
#include "cleat/linux_worker.h"

#define PATIENCE_NS (3600 * CLEAT_NS_PER_S) /* of an orphan */
#define ENGINES 24u

/* ---- what stands in the place of the C library's functions --------------- */

static _Atomic uint64_t ahead_ns;
static _Atomic uint32_t sockets;

/* A thread that waits until some time is woken when something comes, and here
 * something always does. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    long result = syscall(SYS_clock_gettime, clock, now);

    if (result == 0 && clock == CLOCK_MONOTONIC) {
        now->tv_sec += (time_t)(atomic_load(&ahead_ns) / CLEAT_NS_PER_S);
    }
    return (int)result;
}

int socket(int domain, int type, int protocol)
{
    long fd = syscall(SYS_socket, domain, type, protocol);

    (void)atomic_fetch_add(&sockets, 1);
    return (int)fd;
}

static void pass(uint64_t duration_ns)
{
    (void)atomic_fetch_add(&ahead_ns, duration_ns);
}

/* ---- a worker and the place where it looks for a coordinator ------------- */

struct scene {
    struct cleat_worker_config config;
    void *block;
    struct cleat_worker *worker;
    char path[64];
    int listener;
    int fd; /* the coordinator's end */
    int fds_before;
    uint32_t starts;
    enum cleat_status start_says;
    void (*during_start)(struct scene *scene); /* once */
};

static enum cleat_status on_start(void *context)
{
    struct scene *scene = context;
    void (*during)(struct scene *) = scene->during_start;

    scene->starts++;
    scene->during_start = NULL;
    if (during != NULL) { during(scene); }
    return scene->start_says;
}

static void open_door(struct scene *scene, int queue)
{
    struct sockaddr_un address;

    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s",
                   scene->path);
    (void)unlink(scene->path);
    scene->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(
        bind(scene->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(scene->listener, queue), 0);
}

static void shut_door(struct scene *scene)
{
    (void)unlink(scene->path);
    (void)close(scene->listener);
    scene->listener = -1;
}

static void prepare(struct scene *scene, enum cleat_worker_role role)
{
    memset(scene, 0, sizeof *scene);
    atomic_store(&ahead_ns, 0);
    scene->fds_before = peer_count_fds();
    (void)snprintf(scene->path, sizeof scene->path, "/tmp/cleat-attach-test-%d",
                   (int)getpid());
    scene->fd = -1;
    scene->listener = -1;
    scene->config.role = role;
    scene->config.fd = -1;
    scene->config.socket_path = scene->path;
    scene->config.member = 4;
    scene->config.orphan_timeout_ns = PATIENCE_NS;
    scene->config.host.context = scene;
    scene->config.host.start = on_start;
    scene->block = peer_block(CLEAT_WORKER_BYTES);
}

static void make_worker(struct scene *scene)
{
    assert_int_equal(cleat_worker_init(scene->block, CLEAT_WORKER_BYTES,
                                       &scene->config, &scene->worker, NULL),
                     CLEAT_OK);
}

static void begin(struct scene *scene, enum cleat_worker_role role)
{
    prepare(scene, role);
    open_door(scene, 4);
    make_worker(scene);
}

/* One that was given its channel, as a child is. */
static void begin_with_channel(struct scene *scene, enum cleat_worker_role role)
{
    int pair[2];

    prepare(scene, role);
    peer_pair(pair);
    scene->fd = pair[0];
    scene->config.fd = pair[1];
    scene->config.socket_path = NULL;
    make_worker(scene);
}

static void end(struct scene *scene)
{
    cleat_worker_close(scene->worker);
    if (scene->fd >= 0) { (void)close(scene->fd); }
    if (scene->listener >= 0) { shut_door(scene); }
    free(scene->block);
    assert_int_equal(peer_count_fds(), scene->fds_before);
}

static void let_in(struct scene *scene)
{
    struct pollfd knock = {.fd = scene->listener, .events = POLLIN};

    assert_int_equal(poll(&knock, 1, (int)(WATCHDOG_NS / CLEAT_NS_PER_MS)), 1);
    scene->fd = accept4(scene->listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(scene->fd >= 0);
}

/* Ends the channel, and returns when the worker has seen it. */
static void part(struct scene *scene)
{
    struct cleat_channel_packet packet;
    bool ended = false;

    assert_int_equal(shutdown(scene->fd, SHUT_WR), 0);
    while (peer_next(scene->fd, true, &packet, &ended)) {
        cleat_channel_packet_close(&packet);
    }
    assert_true(ended);
    (void)close(scene->fd);
    scene->fd = -1;
}

/* Nobody will be there after that either. */
static void leave(struct scene *scene)
{
    if (scene->listener >= 0) { shut_door(scene); }
    part(scene);
}

static void say_start(struct scene *scene, uint64_t sequence)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_START;
    frame.sequence = sequence;
    frame.body.start.member = CLEAT_SYNC_NOBODY;
    peer_send(scene->fd, &frame);
}

static void say_taken(struct scene *scene)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_CLOSE;
    frame.body.close.status = CLEAT_EXISTS;
    peer_send(scene->fd, &frame);
}

static void say_prepare(struct scene *scene, uint64_t epoch)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_COMMAND;
    frame.term = 1;
    frame.epoch = epoch;
    frame.body.command.step = CLEAT_SYNC_PREPARE;
    frame.body.command.member = 4;
    frame.body.command.version = 2;
    frame.body.command.timeout_ns = PATIENCE_NS;
    peer_send(scene->fd, &frame);
}

static void grant(struct scene *scene, uint64_t counter, uint64_t lease_ns)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_LEASE_GRANT;
    frame.body.lease.counter = counter;
    frame.body.lease.lease_ns = lease_ns;
    peer_send(scene->fd, &frame);
}

/* Returns when the worker has read all that was sent over this channel, which
 * had no lease so far. It is granted what it asked last: much older asks do not
 * count any more. */
static void await_read(struct scene *scene)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
    struct cleat_channel_packet packet;
    bool ended = false;

    while (cleat_worker_lease_end(scene->worker) == 0) {
        assert_true(peer_now_ns() < watchdog_ns);
        if (peer_next(scene->fd, false, &packet, &ended) &&
            packet.frame.kind == CLEAT_CONTROL_LEASE_ASK) {
            grant(scene, packet.frame.body.lease.counter, PATIENCE_NS);
        }
        (void)sched_yield();
    }
}

static enum cleat_status look(struct scene *scene)
{
    return cleat_worker_poll(scene->worker, 0);
}

static enum cleat_status look_until_started(struct scene *scene)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
    uint32_t before = scene->starts;
    enum cleat_status status = CLEAT_PENDING;

    while (scene->starts == before && status == CLEAT_PENDING) {
        /* a start may move the time */
        assert_true(peer_now_ns() < watchdog_ns);
        status = look(scene);
    }
    return status;
}

static bool find_hello(struct scene *scene, struct cleat_control_hello *hello)
{
    struct cleat_channel_packet packet;
    bool ended = false;

    while (peer_next(scene->fd, false, &packet, &ended)) {
        cleat_channel_packet_close(&packet);
        if (packet.frame.kind != CLEAT_CONTROL_HELLO) { continue; }
        *hello = packet.frame.body.hello;
        return true;
    }
    return false;
}

/* Lets the worker work until it says hello. */
static struct cleat_control_hello await_hello(struct scene *scene)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
    struct cleat_control_hello hello;

    while (!find_hello(scene, &hello)) {
        assert_true(peer_now_ns() < watchdog_ns);
        assert_int_equal(look(scene), CLEAT_PENDING);
    }
    return hello;
}

static void come(struct scene *scene, uint64_t sequence)
{
    open_door(scene, 4);
    let_in(scene);
    say_start(scene, sequence);
}

/* ---- how long one without a coordinator waits ----------------------------
 */

static const enum cleat_worker_role roles[] = {CLEAT_WORKER_ENGINE,
                                               CLEAT_WORKER_TRAINER};

static void be_slow_and_be_left(struct scene *scene)
{
    pass(2 * PATIENCE_NS);
    leave(scene);
}

static void who_takes_long_to_start_is_no_orphan(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct scene scene;

        begin(&scene, roles[i]);
        let_in(&scene);
        say_start(&scene, 1);
        scene.during_start = be_slow_and_be_left;
        assert_int_equal(look_until_started(&scene), CLEAT_PENDING);
        come(&scene, 2);
        struct cleat_control_hello hello = await_hello(&scene);
        assert_int_equal(hello.start_sequence, 2);
        assert_int_equal(hello.status, CLEAT_OK);
        assert_int_equal(scene.starts, 1);
        end(&scene);
    }
}

static void be_left_and_be_slow(struct scene *scene)
{
    leave(scene);
    pass(PATIENCE_NS - 60 * CLEAT_NS_PER_S);
}

static void one_that_is_left_in_its_start_ends_in_time(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct scene scene;

        begin(&scene, roles[i]);
        let_in(&scene);
        say_start(&scene, 1);
        pass(2 * PATIENCE_NS);
        scene.during_start = be_left_and_be_slow;
        assert_int_equal(look_until_started(&scene), CLEAT_PENDING);
        pass(60 * CLEAT_NS_PER_S);
        assert_int_equal(look(&scene), CLEAT_PEER_LOST);
        end(&scene);
    }
}

/* Returns when the worker has begun to knock so often from now on; what the
 * first of them finds may be of the time before. */
static void await_tries(uint32_t count)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
    uint32_t before = atomic_load(&sockets);

    while (atomic_load(&sockets) - before < count) {
        assert_true(peer_now_ns() < watchdog_ns);
        (void)sched_yield();
    }
}

static void
the_time_in_which_one_waits_to_be_let_in_does_not_count(void **state)
{
    struct scene scene;

    (void)state;
    begin(&scene, CLEAT_WORKER_ENGINE);
    for (int i = 0; i < 2; i++) {
        let_in(&scene);
        pass(2 * PATIENCE_NS); /* and not a word */
        leave(&scene);
        assert_int_equal(look(&scene), CLEAT_PENDING);
        pass(PATIENCE_NS / 2);
        await_tries(2);
        if (i == 0) { open_door(&scene, 4); }
    }
    assert_int_equal(look(&scene), CLEAT_PEER_LOST);
    end(&scene);
}

static void nor_does_that_in_which_the_queue_is_full(void **state)
{
    struct scene scene;
    int others[8];
    uint32_t count = 0;

    (void)state;
    prepare(&scene, CLEAT_WORKER_ENGINE);
    open_door(&scene, 1);
    while ((others[count] = cleat_channel_connect(scene.path)) >= 0) {
        count++;
        assert_true(count < 8);
    }
    assert_int_equal(errno, EAGAIN);
    make_worker(&scene);
    await_tries(2); /* the first has met a full queue */
    pass(2 * PATIENCE_NS);
    assert_int_equal(look(&scene), CLEAT_PENDING);
    await_tries(2);
    shut_door(&scene);
    await_tries(3); /* the second has met nobody */
    assert_int_equal(look(&scene), CLEAT_PENDING);
    pass(PATIENCE_NS);
    assert_int_equal(look(&scene), CLEAT_PEER_LOST);
    while (count > 0) { (void)close(others[--count]); }
    end(&scene);
}

/* ---- whose place is taken ------------------------------------------------ */

static void be_slow(struct scene *scene)
{
    (void)scene;
    pass(2 * PATIENCE_NS);
}

static void be_sent_away(struct scene *scene)
{
    (void)await_hello(scene);
    say_taken(scene);
    leave(scene);
    assert_int_equal(look(scene), CLEAT_PENDING);
    assert_int_equal(cleat_worker_sent_away(scene->worker, NULL), CLEAT_EXISTS);
}

static void whose_place_is_taken_asks_for_it_from_when_it_is_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct scene scene;

        begin(&scene, roles[i]);
        let_in(&scene);
        say_start(&scene, 1);
        scene.during_start = be_slow;
        assert_int_equal(look_until_started(&scene), CLEAT_PENDING);
        be_sent_away(&scene);
        pass(PATIENCE_NS / 2);
        come(&scene, 2);
        be_sent_away(&scene);
        pass(PATIENCE_NS / 2);
        assert_int_equal(look(&scene), CLEAT_EXISTS);
        end(&scene);
    }
}

static void who_was_taken_after_all_waits_for_a_next_coordinator(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct scene scene;

        begin(&scene, roles[i]);
        let_in(&scene);
        say_start(&scene, 1);
        be_sent_away(&scene);
        come(&scene, 2);
        (void)await_hello(&scene); /* and nothing is to be done for long */
        pass(2 * PATIENCE_NS);
        leave(&scene);
        assert_int_equal(look(&scene), CLEAT_PENDING);
        assert_int_equal(cleat_worker_sent_away(scene.worker, NULL), CLEAT_OK);
        pass(PATIENCE_NS);
        assert_int_equal(look(&scene), CLEAT_PEER_LOST);
        end(&scene);
    }
}

/* ---- whose a trainer is -------------------------------------------------- */

static void a_trainer_goes_to_no_other_after_its_first_command(void **state)
{
    struct scene scene;

    (void)state;
    begin(&scene, CLEAT_WORKER_TRAINER);
    for (uint64_t i = 1; i <= 3; i++) {
        let_in(&scene);
        say_start(&scene, i);
        assert_int_equal(await_hello(&scene).start_sequence, i);
        if (i < 3) { part(&scene); }
    }
    say_prepare(&scene, 1);
    part(&scene);
    assert_int_equal(look(&scene), CLEAT_PEER_LOST);
    cleat_worker_close(scene.worker);
    struct pollfd knock = {.fd = scene.listener, .events = POLLIN};
    assert_int_equal(poll(&knock, 1, 0), 0);
    end(&scene);
}

static void
one_that_was_given_a_channel_does_so_from_the_beginning(void **state)
{
    struct scene scene;

    (void)state;
    begin_with_channel(&scene, CLEAT_WORKER_TRAINER);
    say_start(&scene, 1);
    (void)await_hello(&scene);
    part(&scene);
    assert_int_equal(look(&scene), CLEAT_PEER_LOST);
    end(&scene);
}

/* ---- being asked again and again ----------------------------------------- */

static void meet_forty_coordinators(struct scene *scene)
{
    for (uint64_t i = 2; i <= 41; i++) {
        part(scene);
        let_in(scene);
        say_start(scene, i);
    }
    await_read(scene);
}

static void of_those_who_asked_during_a_start_the_last_is_answered(void **state)
{
    struct scene scene;
    struct cleat_control_hello hello;

    (void)state;
    begin(&scene, CLEAT_WORKER_ENGINE);
    let_in(&scene);
    say_start(&scene, 1);
    scene.during_start = meet_forty_coordinators;
    assert_int_equal(look_until_started(&scene), CLEAT_PENDING);
    assert_int_equal(look(&scene), CLEAT_PENDING);
    assert_true(find_hello(&scene, &hello));
    assert_int_equal(hello.start_sequence, 41);
    assert_int_equal(scene.starts, 1);
    end(&scene);
}

static void be_given_forty_commands(struct scene *scene)
{
    for (uint64_t i = 1; i <= 40; i++) { say_prepare(scene, i); }
    say_start(scene, 2);
    await_read(scene);
}

static void commands_leave_room_for_a_start(void **state)
{
    struct scene scene;
    struct cleat_control_hello hello;

    (void)state;
    begin_with_channel(&scene, CLEAT_WORKER_ENGINE);
    say_start(&scene, 1);
    scene.during_start = be_given_forty_commands;
    assert_int_equal(look_until_started(&scene), CLEAT_PENDING);
    hello.start_sequence = 0;
    while (find_hello(&scene, &hello)) {}
    assert_int_equal(hello.start_sequence, 2);
    end(&scene);
}

static void be_asked_again(struct scene *scene)
{
    for (uint64_t i = 2; i <= 5; i++) { say_start(scene, i); }
    await_read(scene);
}

/* A start that fails after more time than a wait of bring-up has: each wait
 * asks, and only the answer to the last counts. */
static void a_start_that_fails_for_good_is_made_and_told_once(void **state)
{
    struct scene scene;
    int next[2];

    (void)state;
    begin_with_channel(&scene, CLEAT_WORKER_ENGINE);
    scene.start_says = CLEAT_PERMANENT;
    scene.during_start = be_asked_again;
    say_start(&scene, 1);
    struct cleat_control_hello hello = await_hello(&scene);
    assert_int_equal(hello.start_sequence, 5);
    assert_int_equal(hello.status, CLEAT_PERMANENT);
    /* the last wait was over by then, and the next one asks */
    say_start(&scene, 6);
    hello = await_hello(&scene);
    assert_int_equal(hello.start_sequence, 6);
    assert_int_equal(hello.status, CLEAT_PERMANENT);
    assert_int_equal(scene.starts, 1);
    /* a next coordinator may find the cause removed */
    part(&scene);
    peer_pair(next);
    assert_int_equal(cleat_worker_attach(scene.worker, next[1]), CLEAT_OK);
    scene.fd = next[0];
    scene.start_says = CLEAT_OK;
    say_start(&scene, 1);
    assert_int_equal(await_hello(&scene).status, CLEAT_OK);
    assert_int_equal(scene.starts, 2);
    end(&scene);
}

static void a_start_that_fails_for_now_is_made_again_when_asked(void **state)
{
    struct scene scene;

    (void)state;
    begin_with_channel(&scene, CLEAT_WORKER_ENGINE);
    scene.start_says = CLEAT_TRANSIENT;
    scene.during_start = be_asked_again;
    say_start(&scene, 1);
    struct cleat_control_hello hello = await_hello(&scene);
    assert_int_equal(hello.start_sequence, 5);
    assert_int_equal(hello.status, CLEAT_TRANSIENT);
    assert_int_equal(scene.starts, 1);
    scene.start_says = CLEAT_OK;
    say_start(&scene, 6);
    assert_int_equal(await_hello(&scene).status, CLEAT_OK);
    assert_int_equal(scene.starts, 2);
    end(&scene);
}

/* ---- leases -------------------------------------------------------------- */

/* Counts what comes between: in a third of this lease one report is due at
 * most, and in the time of the first ask, without lease, four are. */
static void a_short_lease_is_asked_for_in_time_from_the_first_on(void **state)
{
    struct scene scene;
    struct cleat_channel_packet packet;
    uint32_t reports = 0;
    bool ended = false;

    (void)state;
    prepare(&scene, CLEAT_WORKER_ENGINE);
    scene.config.stats_ns = 24 * CLEAT_NS_PER_MS;
    open_door(&scene, 4);
    make_worker(&scene);
    let_in(&scene);
    for (;;) {
        assert_true(peer_next(scene.fd, true, &packet, &ended));
        if (packet.frame.kind == CLEAT_CONTROL_STATS &&
            packet.frame.body.stats.lease_end_ns != 0) {
            reports++;
        }
        if (packet.frame.kind != CLEAT_CONTROL_LEASE_ASK) { continue; }
        if (cleat_worker_lease_end(scene.worker) != 0) { break; }
        grant(&scene, packet.frame.body.lease.counter, 3 * CLEAT_NS_PER_MS);
    }
    assert_true(reports <= 1);
    end(&scene);
}

/* ---- many at once, with a coordinator ------------------------------------ */

static pthread_barrier_t all; /* the engines and the test */

static enum cleat_status start_with_all(void *context)
{
    (void)context;
    (void)pthread_barrier_wait(&all); /* all are in their start */
    (void)pthread_barrier_wait(&all); /* and it has taken its time */
    return CLEAT_OK;
}

static void *run_engine(void *worker)
{
    (void)cleat_worker_run(worker);
    return NULL;
}

static bool is_ready(struct cleat_linux_workers *workers, uint32_t member)
{
    struct cleat_linux_worker_view view;

    assert_int_equal(cleat_linux_worker_look(workers, member, &view), CLEAT_OK);
    return view.ready;
}

static void many_engines_may_start_slowly_at_one_time(void **state)
{
    struct scene scenes[ENGINES];
    pthread_t threads[ENGINES];
    struct cleat_mailbox mailbox;
    struct cleat_linux_workers *workers = NULL;
    struct cleat_linux_workers_config config;
    size_t mailbox_bytes = cleat_linux_mailbox_bytes(1024);
    size_t workers_bytes = cleat_linux_workers_bytes(ENGINES + 1);
    void *mailbox_block = peer_block(mailbox_bytes);
    void *workers_block = peer_block(workers_bytes);

    (void)state;
    assert_int_equal(pthread_barrier_init(&all, NULL, ENGINES + 1), 0);
    assert_int_equal(cleat_linux_mailbox_init(mailbox_block, mailbox_bytes,
                                              1024, &mailbox, NULL),
                     CLEAT_OK);
    memset(&config, 0, sizeof config);
    config.members = ENGINES + 1;
    config.trainers = 1;
    config.mailbox = mailbox;
    assert_int_equal(cleat_linux_workers_init(workers_block, workers_bytes,
                                              &config, &workers, NULL),
                     CLEAT_OK);
    for (uint32_t i = 0; i < ENGINES; i++) {
        prepare(&scenes[i], CLEAT_WORKER_ENGINE);
        scenes[i].config.host.start = start_with_all;
        scenes[i].config.member = i + 1;
    }
    assert_int_equal(cleat_linux_workers_listen(workers, scenes[0].path, NULL),
                     CLEAT_OK);
    for (uint32_t i = 0; i < ENGINES; i++) {
        make_worker(&scenes[i]);
        assert_int_equal(
            pthread_create(&threads[i], NULL, run_engine, scenes[i].worker), 0);
    }
    (void)pthread_barrier_wait(&all);
    pass(2 * PATIENCE_NS);
    (void)pthread_barrier_wait(&all);
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
    for (uint32_t i = 1; i <= ENGINES; i++) {
        while (!is_ready(workers, i)) {
            if (peer_now_ns() > watchdog_ns) { fail_msg("%u is lost", i); }
            (void)sched_yield();
        }
    }
    for (uint32_t i = 0; i < ENGINES; i++) {
        cleat_worker_stop(scenes[i].worker);
        (void)pthread_join(threads[i], NULL);
        cleat_worker_close(scenes[i].worker);
        free(scenes[i].block);
    }
    (void)cleat_linux_workers_close(workers);
    cleat_linux_mailbox_close(&mailbox);
    (void)pthread_barrier_destroy(&all);
    free(workers_block);
    free(mailbox_block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_takes_long_to_start_is_no_orphan),
        cmocka_unit_test(one_that_is_left_in_its_start_ends_in_time),
        cmocka_unit_test(
            the_time_in_which_one_waits_to_be_let_in_does_not_count),
        cmocka_unit_test(nor_does_that_in_which_the_queue_is_full),
        cmocka_unit_test(whose_place_is_taken_asks_for_it_from_when_it_is_told),
        cmocka_unit_test(who_was_taken_after_all_waits_for_a_next_coordinator),
        cmocka_unit_test(a_trainer_goes_to_no_other_after_its_first_command),
        cmocka_unit_test(
            one_that_was_given_a_channel_does_so_from_the_beginning),
        cmocka_unit_test(
            of_those_who_asked_during_a_start_the_last_is_answered),
        cmocka_unit_test(commands_leave_room_for_a_start),
        cmocka_unit_test(a_start_that_fails_for_good_is_made_and_told_once),
        cmocka_unit_test(a_start_that_fails_for_now_is_made_again_when_asked),
        cmocka_unit_test(a_short_lease_is_asked_for_in_time_from_the_first_on),
        cmocka_unit_test(many_engines_may_start_slowly_at_one_time),
    };

    peer_warm_up();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
