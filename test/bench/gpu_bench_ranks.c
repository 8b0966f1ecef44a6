/* Cleat: how fast weights travel between GPUs: the processes, and what is
 * said to them. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "gpu_bench.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define REAP_NS (10 * CLEAT_NS_PER_S)

uint32_t step_seconds = 120;
struct answer answers[RANKS_MAX];

/* ---- the end ---- */

static struct {
    pid_t pid;
    int fd;
} ranks[RANKS_MAX];
static uint32_t ranks_count;

/* Nobody is left behind: what cannot be killed is told of. */
void ranks_end(void)
{
    uint64_t deadline_ns = now_ns() + REAP_NS;
    const struct timespec nap = {0, 1000000};

    for (uint32_t i = 0; i < ranks_count; i++) {
        if (ranks[i].pid > 0) { (void)kill(ranks[i].pid, SIGKILL); }
    }
    for (uint32_t i = 0; i < ranks_count; i++) {
        while (ranks[i].pid > 0 && waitpid(ranks[i].pid, NULL, WNOHANG) == 0) {
            if (now_ns() >= deadline_ns) {
                fprintf(stderr, "gpu_bench: process %d does not end\n",
                        (int)ranks[i].pid);
                break;
            }
            (void)nanosleep(&nap, NULL);
        }
        ranks[i].pid = 0;
        (void)close(ranks[i].fd);
    }
    ranks_count = 0;
}

_Noreturn void give_up(int code, const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    ranks_end();
    va_start(arguments, format);
    fprintf(stderr, "gpu_bench: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(code);
}

/* ---- messages with descriptors ---- */

union rights {
    char bytes[CMSG_SPACE(CLEAT_TRANSPORT_TICKET_FDS * sizeof(int))];
    struct cmsghdr align;
};

bool message_send(int fd, const void *message, size_t bytes,
                  const struct cleat_transport_ticket *ticket)
{
    struct iovec part = {(void *)(uintptr_t)message, bytes};
    size_t fds_bytes = 0;
    struct msghdr header;
    union rights rights;

    memset(&header, 0, sizeof header);
    memset(&rights, 0, sizeof rights);
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (ticket != NULL && ticket->fds_count != 0 && ticket->fds[0] >= 0) {
        struct cmsghdr *control;

        fds_bytes = ticket->fds_count * sizeof(int);
        header.msg_control = rights.bytes;
        header.msg_controllen = CMSG_SPACE(fds_bytes);
        control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(fds_bytes);
        memcpy(CMSG_DATA(control), ticket->fds, fds_bytes);
    }
    return sendmsg(fd, &header, MSG_NOSIGNAL) == (ssize_t)bytes;
}

/* Waits until there is something to be read. */
static enum cleat_status await(int fd, uint64_t deadline_ns)
{
    for (;;) {
        struct pollfd what = {fd, POLLIN, 0};
        uint64_t now = now_ns();
        int found;

        if (now >= deadline_ns) { return CLEAT_PENDING; }
        found = poll(&what, 1,
                     (int)((deadline_ns - now) / CLEAT_NS_PER_MS) + 1);
        if (found > 0) { return CLEAT_OK; }
        if (found < 0 && errno != EINTR) { return CLEAT_IO; }
    }
}

enum cleat_status message_take(int fd, void *message, size_t bytes,
                               struct cleat_transport_ticket *ticket,
                               uint64_t deadline_ns)
{
    struct iovec part = {message, bytes};
    struct msghdr header;
    struct cmsghdr *control;
    union rights rights;
    enum cleat_status status = await(fd, deadline_ns);

    if (status != CLEAT_OK) { return status; }
    memset(&header, 0, sizeof header);
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = rights.bytes;
    header.msg_controllen = sizeof rights.bytes;
    if (recvmsg(fd, &header, MSG_CMSG_CLOEXEC) != (ssize_t)bytes) {
        return CLEAT_PEER_LOST;
    }
    if (ticket == NULL) { return CLEAT_OK; }
    control = CMSG_FIRSTHDR(&header);
    for (uint32_t i = 0; i < CLEAT_TRANSPORT_TICKET_FDS; i++) {
        ticket->fds[i] = -1;
    }
    if (control != NULL && control->cmsg_type == SCM_RIGHTS) {
        memcpy(ticket->fds, CMSG_DATA(control),
               control->cmsg_len - CMSG_LEN(0));
    }
    return CLEAT_OK;
}

/* ---- children ---- */

bool ranks_begin(int *fd)
{
    pid_t parent = getpid();
    uint32_t i = ranks_count;
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
        give_up(1, "no socket: %s", strerror(errno));
    }
    fflush(stdout);
    ranks[i].pid = fork();
    if (ranks[i].pid < 0) { give_up(1, "no process: %s", strerror(errno)); }
    if (ranks[i].pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) { _exit(1); }
        for (uint32_t k = 0; k < i; k++) { (void)close(ranks[k].fd); }
        (void)close(ends[0]);
        *fd = ends[1];
        return true;
    }
    (void)close(ends[1]);
    ranks[i].fd = ends[0];
    ranks_count++;
    return false;
}

/* Why a child says nothing any more. */
_Noreturn static void gone(uint32_t i, const char *doing)
{
    const struct timespec nap = {0, 1000000};
    uint64_t deadline_ns = now_ns() + REAP_NS;
    const char *who = i == 0 ? "the sender" : "a receiver";
    int status = 0;

    while (waitpid(ranks[i].pid, &status, WNOHANG) == 0) {
        if (now_ns() >= deadline_ns) {
            give_up(1, "%s says nothing any more: %s", who, doing);
        }
        (void)nanosleep(&nap, NULL);
    }
    ranks[i].pid = 0;
    if (WIFSIGNALED(status)) {
        give_up(1, "%s was ended by signal %d: %s", who, WTERMSIG(status),
                doing);
    }
    give_up(1, "%s has exited with %d: %s", who, WEXITSTATUS(status), doing);
}

void ranks_take(uint32_t rank, void *message, size_t bytes, const char *doing)
{
    enum cleat_status status = message_take(ranks[rank].fd, message, bytes,
                                            NULL, now_ns() + step_ns());

    if (status == CLEAT_PENDING) {
        give_up(1, "the deadline of %u s has passed: %s", step_seconds, doing);
    }
    if (status != CLEAT_OK) { gone(rank, doing); }
}

/* ---- orders and answers ---- */

/* Who has ended, of those that are polled: who is gone counts before who
 * complains of it. */
static void look_for_the_gone(const struct pollfd *fds, const char *doing)
{
    for (uint32_t i = 0; i < ranks_count; i++) {
        if ((fds[i].revents & POLLHUP) != 0 && (fds[i].revents & POLLIN) == 0) {
            gone(i, doing);
        }
    }
}

/* Waits until one of `waiting` has answered or is gone; false at the
 * deadline. */
static bool poll_ranks(uint32_t waiting, uint64_t deadline_ns,
                       struct pollfd *fds)
{
    uint64_t now = now_ns();

    for (uint32_t i = 0; i < ranks_count; i++) {
        fds[i].fd = (waiting >> i & 1) != 0 ? ranks[i].fd : -1;
        fds[i].events = POLLIN;
        fds[i].revents = 0;
    }
    if (now >= deadline_ns) { return false; }
    if (poll(fds, ranks_count,
             (int)((deadline_ns - now) / CLEAT_NS_PER_MS) + 1) < 0) {
        for (uint32_t i = 0; i < ranks_count; i++) { fds[i].revents = 0; }
        return errno == EINTR;
    }
    return true;
}

/* Of those who have failed, who is to be told of: a group that fails or a
 * silence is what the others see of it. */
static void tell_failure(uint32_t failed, const char *doing)
{
    uint32_t who = RANKS_MAX;

    for (uint32_t i = 0; i < ranks_count; i++) {
        bool own = answers[i].status != CLEAT_GROUP_FAILED &&
                   answers[i].status != CLEAT_DEADLINE;

        if ((failed >> i & 1) == 0) { continue; }
        if (who == RANKS_MAX || own) { who = i; }
    }
    if (who == RANKS_MAX) { return; }
    give_up(1, "%s: %s: %s (%s)", who == 0 ? "the sender" : "a receiver", doing,
            answers[who].text, cleat_status_name(answers[who].status));
}

/* Takes the answers of those in `waiting`, and ends the run when one has
 * failed: once the others have said why, too. */
static void take_answers(uint32_t waiting, uint64_t deadline_ns,
                         const char *doing)
{
    struct pollfd fds[RANKS_MAX];
    uint32_t failed = 0;

    while (waiting != 0 && poll_ranks(waiting, deadline_ns, fds)) {
        look_for_the_gone(fds, doing);
        for (uint32_t i = 0; i < ranks_count; i++) {
            if (fds[i].revents == 0) { continue; }
            if (message_take(ranks[i].fd, &answers[i], sizeof answers[i],
                             &answers[i].ticket,
                             now_ns() + REAP_NS) != CLEAT_OK) {
                gone(i, doing);
            }
            waiting &= ~(1u << i);
            if (answers[i].status == CLEAT_OK) { continue; }
            failed |= 1u << i;
            deadline_ns = cleat_time_add(now_ns(), REAP_NS);
        }
    }
    tell_failure(failed, doing);
    if (waiting != 0) {
        give_up(1, "the deadline of %u s has passed: %s", step_seconds, doing);
    }
}

void ranks_give(uint32_t whom, struct order *order, const char *doing)
{
    whom &= (1u << ranks_count) - 1;
    order->deadline_ns = cleat_time_add(now_ns(), step_ns());
    for (uint32_t i = 0; i < ranks_count; i++) {
        if ((whom >> i & 1) != 0 &&
            !message_send(ranks[i].fd, order, sizeof *order, &order->ticket)) {
            gone(i, doing);
        }
    }
    /* They stop by themselves at the deadline, and say more of it. */
    take_answers(whom, cleat_time_add(order->deadline_ns, CLEAT_NS_PER_S),
                 doing);
}

struct order ranks_order(enum work work, enum way way)
{
    struct order order;

    memset(&order, 0, sizeof order);
    order.work = work;
    order.way = way;
    order.ticket.fds[0] = -1;
    order.ticket.fds[1] = -1;
    return order;
}
