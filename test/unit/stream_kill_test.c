/* Cleat: real processes, killed and stopped in the middle of a transfer.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     stream_kill_test [rounds [seed]]
 *
 * Each round: one sender and three receivers, each a process; the ticket
 * travels over sockets. At a random moment one of them is killed with SIGKILL,
 * or stopped and woken when all is over; the others are told, as a coordinator
 * would tell them. Whoever then says that it is complete has every byte; nobody
 * hangs; nothing is left. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cleat/memory.h"
#include "cleat/memory_tensors.h"
#include "cleat/stream.h"

#define RECEIVERS 3u
#define MEMBERS (RECEIVERS + 1u) /* the last one is the sender */
#define BUCKET (64u * 1024u)
#define BYTES (96u * BUCKET)

/* How a member ends. */
enum { COMPLETE = 0, GAVE_UP = 10, WRONG_BYTES = 20, BROKEN = 21 };

static uint64_t now_ns(struct cleat_clock_context *context)
{
    struct timespec t;

    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * CLEAT_NS_PER_S + (uint64_t)t.tv_nsec;
}
static const struct cleat_clock clock_monotonic = {NULL, now_ns};

static uint64_t random_state = 1;

static uint64_t draw(uint64_t below)
{
    random_state ^= random_state << 13; /* Marsaglia's xorshift64 */
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

static void must(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "stream_kill_test: %s (%s)\n", what, strerror(errno));
        _exit(BROKEN);
    }
}

/* ---- what every member has ---- */

static unsigned char weights[BYTES];
static unsigned char received[BYTES];
static uint64_t plan_block[1];
static struct cleat_plan plan;
static struct cleat_memory_tensor row;
static struct cleat_memory_tensors tensors;

static void table_make(unsigned char *data)
{
    row.name = "all";
    row.dtype = CLEAT_DTYPE_U8;
    row.rank = 1;
    row.shape[0] = BYTES;
    row.data = data;
    must(cleat_memory_tensors_init(&tensors, &row, 1, NULL) == CLEAT_OK &&
             cleat_plan_begin(&plan, plan_block, 1, BUCKET, NULL) == CLEAT_OK &&
             cleat_plan_add(&plan, BYTES) == CLEAT_OK,
         "no table");
    cleat_plan_end(&plan);
}

/* Tells a member's transfer what its coordinator says: a byte below RECEIVERS
 * is a receiver that is lost, any other one means that the sender is. */
struct listener {
    int fd;
    struct cleat_stream_signal signal;
    uint32_t lost[RECEIVERS];
    const struct cleat_transport_sender *sender;
    const struct cleat_transport_receiver *receiver;
};

static void *listen_for_losses(void *context)
{
    struct listener *listener = context;
    unsigned char who;

    while (read(listener->fd, &who, 1) == 1) {
        if (listener->sender != NULL && who < RECEIVERS) {
            cleat_stream_lost(listener->lost, who);
            listener->sender->wake(listener->sender->context);
        } else if (listener->receiver != NULL && who >= RECEIVERS) {
            cleat_stream_cancel(&listener->signal, CLEAT_PEER_LOST);
            listener->receiver->wake(listener->receiver->context);
        }
    }
    return NULL;
}

static void listen_in_background(struct listener *listener)
{
    pthread_t thread;

    must(pthread_create(&thread, NULL, listen_for_losses, listener) == 0,
         "no thread");
    pthread_detach(thread);
}

/* ---- the ticket over a socket ---- */

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(2 * sizeof(int))];
};

static void ticket_send(int fd, const struct cleat_transport_ticket *ticket)
{
    union control control;
    struct iovec part = {(void *)(uintptr_t)ticket, sizeof *ticket};
    struct msghdr message;
    struct cmsghdr *header;

    memset(&message, 0, sizeof message);
    memset(&control, 0, sizeof control);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof ticket->fds);
    memcpy(CMSG_DATA(header), ticket->fds, sizeof ticket->fds);
    (void)sendmsg(fd, &message, MSG_NOSIGNAL); /* it may be dead already */
}

static bool ticket_receive(int fd, struct cleat_transport_ticket *ticket)
{
    union control control;
    struct iovec part = {ticket, sizeof *ticket};
    struct msghdr message;
    struct cmsghdr *header;

    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof *ticket) {
        return false;
    }
    header = CMSG_FIRSTHDR(&message);
    must(header != NULL, "a ticket without its descriptors");
    memcpy(ticket->fds, CMSG_DATA(header), sizeof ticket->fds);
    return true;
}

/* False when the sender is lost before its ticket has come. */
static bool ticket_await(int socket, int notices,
                         struct cleat_transport_ticket *ticket)
{
    struct pollfd polled[2] = {{notices, POLLIN, 0}, {socket, POLLIN, 0}};
    unsigned char who;

    for (;;) {
        must(poll(polled, 2, -1) > 0, "no poll");
        if (polled[0].revents == 0) { return ticket_receive(socket, ticket); }
        if (read(notices, &who, 1) != 1 || who >= RECEIVERS) { return false; }
    }
}

/* ---- the members ---- */

static int sender_main(const int *sockets, int notices)
{
    static _Alignas(64) unsigned char block[CLEAT_MEMORY_SENDER_BYTES];
    static _Alignas(8) unsigned char machine[CLEAT_PIPELINE_BYTES(RECEIVERS)];
    static struct listener listener;
    struct cleat_memory_sender_config config;
    struct cleat_transport_sender transport;
    struct cleat_transport_ticket ticket;
    struct cleat_tensor_source source;
    struct cleat_stream_sending with;
    struct cleat_stream_result results[RECEIVERS];
    struct cleat_stream_report report;
    enum cleat_status status;

    memset(&config, 0, sizeof config);
    config.bucket_bytes = BUCKET;
    must(cleat_memory_sender_open(block, sizeof block, &config, &transport,
                                  NULL) == CLEAT_OK &&
             transport.prepare(transport.context, 1, RECEIVERS, &ticket) ==
                 CLEAT_OK,
         "no transport");
    table_make(weights);
    source = cleat_memory_tensors_source(&tensors);
    listener.fd = notices;
    listener.sender = &transport;
    listen_in_background(&listener);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        ticket_send(sockets[i], &ticket);
    }
    memset(&with, 0, sizeof with);
    with.transport = &transport;
    with.source = &source;
    with.plan = &plan;
    with.clock = &clock_monotonic;
    with.signal = &listener.signal;
    with.lost = listener.lost;
    with.block = machine;
    with.block_bytes = sizeof machine;
    with.generation = 1;
    with.ack_timeout_ns = CLEAT_NONE; /* a notice, or the watchdog */
    with.receivers_count = RECEIVERS;
    status = cleat_stream_send(&with, results, &report, NULL);
    transport.finish(transport.context);
    return status == CLEAT_OK ? COMPLETE : GAVE_UP;
}

static int receiver_main(uint32_t index, int socket, int notices, bool in_place)
{
    static _Alignas(64) unsigned char block[CLEAT_MEMORY_RECEIVER_BYTES];
    static const struct cleat_memory_receiver_config config;
    static struct listener listener;
    struct cleat_transport_receiver transport;
    struct cleat_transport_ticket ticket;
    struct cleat_tensor_sink sink;
    struct cleat_stream_receiving with;
    struct cleat_stream_report report;

    if (!ticket_await(socket, notices, &ticket)) { return GAVE_UP; }
    must(cleat_memory_receiver_open(block, sizeof block, &config, &transport,
                                    NULL) == CLEAT_OK,
         "no transport");
    if (transport.join(transport.context, &ticket, index, CLEAT_NEVER) !=
        CLEAT_OK) {
        return GAVE_UP;
    }
    table_make(received);
    sink = cleat_memory_tensors_sink(&tensors);
    listener.fd = notices;
    listener.receiver = &transport;
    listen_in_background(&listener);
    memset(&with, 0, sizeof with);
    with.transport = &transport;
    with.sink = &sink;
    with.plan = &plan;
    with.clock = &clock_monotonic;
    with.signal = &listener.signal;
    with.generation = 1;
    with.bucket_timeout_ns = CLEAT_NONE;
    with.in_place = in_place;
    if (cleat_stream_receive(&with, &report, NULL) != CLEAT_OK) {
        return GAVE_UP;
    }
    return memcmp(weights, received, BYTES) == 0 ? COMPLETE : WRONG_BYTES;
}

/* ---- a round ---- */

/* How all members of all rounds ended: a run that kills nobody in the middle
 * shows here. */
static unsigned long completed, gave_up, killed;

struct round {
    pid_t pids[MEMBERS];
    int notices[MEMBERS];
    int ends[MEMBERS]; /* how each ended: exit code, or -1: by a signal */
    int tickets[RECEIVERS][2];
};

static void start_member(struct round *round, uint32_t who, bool in_place)
{
    int notices[2];
    int sockets[RECEIVERS];
    int end;

    must(pipe(notices) == 0, "no pipe");
    round->pids[who] = fork();
    must(round->pids[who] >= 0, "no process");
    if (round->pids[who] != 0) {
        close(notices[0]);
        round->notices[who] = notices[1];
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(60); /* the watchdog */
    close(notices[1]);
    for (uint32_t k = 0; k < MEMBERS; k++) {
        if (round->notices[k] >= 0) { close(round->notices[k]); }
    }
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        sockets[i] = round->tickets[i][1];
        if (who != RECEIVERS) { close(round->tickets[i][1]); }
    }
    end = who == RECEIVERS ? sender_main(sockets, notices[0])
                           : receiver_main(who, round->tickets[who][0],
                                           notices[0], in_place);
    _exit(end);
}

static void tell_all(const struct round *round, uint32_t about)
{
    unsigned char who = (unsigned char)about;

    for (uint32_t i = 0; i < MEMBERS; i++) {
        if (i != about) { (void)!write(round->notices[i], &who, 1); }
    }
}

static void reap(struct round *round, uint32_t who)
{
    int status = 0;

    must(waitpid(round->pids[who], &status, 0) == round->pids[who],
         "a member cannot be reaped");
    round->ends[who] = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void strike(struct round *round, uint32_t victim, bool stop)
{
    struct timespec moment = {0, (long)draw(3000000)};
    siginfo_t info;

    nanosleep(&moment, NULL); /* any moment will do */
    kill(round->pids[victim], stop ? SIGSTOP : SIGKILL);
    if (stop) { /* until it stands still, or has ended before */
        must(waitid(P_PID, (id_t)round->pids[victim], &info,
                    WSTOPPED | WEXITED | WNOWAIT) == 0,
             "a member cannot be stopped");
    }
    tell_all(round, victim);
}

static const char *check_round(const struct round *round, uint32_t victim,
                               bool stop)
{
    for (uint32_t i = 0; i < MEMBERS; i++) {
        if (round->ends[i] == WRONG_BYTES) { return "the bytes are wrong"; }
        if (round->ends[i] == BROKEN) { return "a member is broken"; }
        if (i == victim) { continue; }
        if (round->ends[i] < 0) { return "a member hung or crashed"; }
        if (victim != RECEIVERS && round->ends[i] != COMPLETE) {
            return "one receiver's end took another one with it";
        }
    }
    if (stop && round->ends[victim] < 0) {
        return "who was stopped and woken hung or crashed";
    }
    return NULL;
}

static const char *run_round(void)
{
    struct round round;
    uint32_t victim = (uint32_t)draw(MEMBERS);
    bool stop = draw(3) == 0;
    bool in_place = draw(2) == 0;

    memset(round.notices, -1, sizeof round.notices);
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, round.tickets[i]) == 0,
             "no sockets");
    }
    for (uint32_t i = 0; i < MEMBERS; i++) {
        start_member(&round, i, in_place);
    }
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        close(round.tickets[i][0]);
        close(round.tickets[i][1]);
    }
    strike(&round, victim, stop);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        if (i != victim) { reap(&round, i); }
    }
    if (stop) {
        kill(round.pids[victim], SIGCONT);
        /* Whoever it waits for may be long gone. */
        (void)!write(round.notices[victim], "\377\0\1\2", 4);
    }
    reap(&round, victim);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        close(round.notices[i]);
        completed += round.ends[i] == COMPLETE;
        gave_up += round.ends[i] == GAVE_UP;
        killed += round.ends[i] < 0;
    }
    return check_round(&round, victim, stop);
}

static int open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;

    must(directory != NULL, "no /proc");
    while (readdir(directory) != NULL) { count++; }
    closedir(directory);
    return count;
}

int main(int argc, char **argv)
{
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 120;
    unsigned long seed = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    int before;

    signal(SIGPIPE, SIG_IGN);
    random_state = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (uint32_t i = 0; i < BYTES; i++) {
        weights[i] = (unsigned char)(i * 7 + (i >> 9));
    }
    before = open_descriptors();
    for (unsigned long i = 0; i < rounds; i++) {
        const char *failure = run_round();

        if (failure != NULL) {
            fprintf(stderr, "stream_kill_test: round %lu of seed %lu: %s\n", i,
                    seed, failure);
            return 1;
        }
    }
    must(open_descriptors() == before, "descriptors are left");
    must(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD,
         "processes are left");
    printf("%lu rounds, seed %lu: %lu members completed, %lu gave up, %lu were "
           "killed\n",
           rounds, seed, completed, gave_up, killed);
    return 0;
}
