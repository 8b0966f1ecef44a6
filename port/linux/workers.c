/* Cleat: the coordinator's side of the control channel. SPDX-License-
 * Identifier: Apache-2.0
 *
 * One thread reads all channels, grants leases, notices deaths, reaps, and
 * posts. The callers' threads send. One lock guards everything; it is held for
 * system calls that do not block, and while a message is put in the mailbox. */
#define _GNU_SOURCE
#include "cleat/linux.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "channel.h"
#include "cleat/linux_child.h"
#include "lease.h"
#include "system.h"

#define FIXED_BYTES 16384u
#define MEMBER_BYTES 1024u

#define GUESTS_LEAST 16u /* places for guests; as many as members, if more */
#define ACCEPTS_AT_ONCE 16u
#define EVENTS_MAX 64
#define PACKETS_AT_ONCE 64u
#define LAST_WORDS_MAX 4096u /* read of a child that has ended */
#define LISTEN_BACKLOG 64
#define LOCK_SUFFIX ".cleat-lock"
#define LOCK_TRIES 100u

#define LEASE_NS (3 * CLEAT_NS_PER_S)
#define DRIFT_PART 20u
#define GRACE_NS CLEAT_NS_PER_S
#define REAP_NS (5 * CLEAT_NS_PER_S)
#define GUEST_NS (10 * CLEAT_NS_PER_S) /* before another may have its place */
#define LOOK_NS (10 * CLEAT_NS_PER_MS) /* between looks: it gives no notice */
#define LISTEN_AGAIN_NS (100 * CLEAT_NS_PER_MS) /* without descriptors */

#define SEAT_TAKEN (-1) /* beside 0 and errno */

/* What an event of epoll is about: the upper half of its data. */
enum source {
    SOURCE_WAKE,
    SOURCE_LISTEN,
    SOURCE_GUEST,
    SOURCE_CHANNEL,
    SOURCE_CHILD,
    SOURCE_PROCESS
};

/* Who was not taken as a member, last. */
struct sent_away {
    enum cleat_status status; /* CLEAT_OK: nobody */
    uint32_t layout;          /* as it said */
    uint32_t layout_of_job;
};

struct member {
    struct cleat_lease_book lease;  /* outlives one worker of this member */
    struct sent_away sent_away;     /* likewise */
    struct cleat_linux_child child; /* pid 0: not a child */
    int fd;                         /* its channel; -1: none */
    int process_fd;                 /* of one that came by itself; -1: none */
    bool look_again;                /* the child ended, and is held by others */
    bool reserved;                  /* a spawn is under way */
    bool came_by_itself;            /* over the socket that we listen on */
    bool used;                      /* it has or had a worker */
    bool lost;                      /* and that one's end is known */
    uint64_t sequence;              /* of the last frame sent */
    uint64_t incarnation;           /* counts its workers */

    /* Bring-up. */
    bool ready;
    bool start_fresh; /* the last START has not been waited for */
    bool start_answered;
    enum cleat_status start_status;
    enum cleat_status unwanted; /* not CLEAT_OK: it was sent away, and why */
    uint64_t start_sequence;
    struct cleat_worker_hello hello;

    /* Messages to be posted, in this order. */
    bool post_end; /* LOST of the worker before this one */
    bool post_hello;
    bool post_answer;
    bool post_expelled;
    bool post_lost;
    struct cleat_worker_answer answer;
    struct cleat_worker_answer expelled;

    bool expelling;
    uint64_t expel_until_ns; /* of a child: then it cannot be had */

    bool commanded;      /* it was sent a command */
    uint64_t asked_term; /* of the last prepare that was sent */
    uint64_t asked_epoch;

    uint32_t pid; /* as it said */
    uint32_t holding;
    uint32_t served;
    uint32_t torn_served;
    uint64_t version;
    uint64_t lease_end_ns;
    uint64_t heard;
    uint64_t frames_bad;
    uint64_t frames_unsent;
    uint64_t answers_dropped;
};

/* Somebody who has connected and not yet said who it is. */
struct guest {
    int fd;
    uint64_t since_ns;
    uint64_t sequence;
};
_Static_assert(sizeof(struct member) + GUESTS_LEAST * sizeof(struct guest) <=
                   MEMBER_BYTES,
               "a member, and guests beside one");

/* What member 0 said to prepare. */
struct kept_ticket {
    bool kept;
    uint64_t term;
    uint64_t epoch;
    uint32_t bytes_count;
    uint32_t fds_count;
    int fds[CLEAT_TRANSPORT_TICKET_FDS];
    uint8_t bytes[CLEAT_TRANSPORT_TICKET_BYTES];
};

struct cleat_linux_workers {
    struct cleat_linux_workers_config config;
    bool open;

    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t changed;
    uint64_t changes;
    pthread_t thread;
    bool closing;

    int epoll_fd;
    int wake_fd;
    int listen_fd;
    uint64_t listen_again_ns; /* not 0: it is not watched until then */
    bool full;                /* and that for want of places for guests */
    char path[CLEAT_CHANNEL_PATH_MAX + 1];
    dev_t path_device; /* of the socket file, so as to remove no other */
    ino_t path_inode;

    struct cleat_linux_child_maker *maker;
    _Alignas(64) unsigned char maker_block[CLEAT_LINUX_CHILD_MAKER_BYTES];
    struct kept_ticket ticket;
    struct member *members;
    struct guest *guests; /* guests_max of them */
    uint32_t guests_max;
};
_Static_assert(sizeof(struct cleat_linux_workers) <= FIXED_BYTES, "fixed part");
_Static_assert(sizeof(struct cleat_worker_answer) <= CLEAT_MESSAGE_BYTES,
               "answer in a message");
_Static_assert(sizeof(struct cleat_worker_hello) <= CLEAT_MESSAGE_BYTES,
               "hello in a message");

size_t cleat_linux_workers_bytes(uint32_t members)
{
    if (members == 0 || members > CLEAT_LINUX_WORKERS_MAX) { return 0; }
    return CLEAT_LINUX_WORKERS_BYTES(members);
}

/* ---- small things ----------------------------------------------------------
 */

static void lock(struct cleat_linux_workers *workers)
{
    (void)pthread_mutex_lock(&workers->lock);
}

static void unlock(struct cleat_linux_workers *workers)
{
    (void)pthread_mutex_unlock(&workers->lock);
}

static void poke(struct cleat_linux_workers *workers)
{
    uint64_t one = 1;
    ssize_t written = write(workers->wake_fd, &one, sizeof one);

    (void)written; /* a full counter wakes as well */
}

static void tell_changed(struct cleat_linux_workers *workers)
{
    workers->changes++;
    (void)pthread_cond_broadcast(&workers->changed);
}

static bool is_child(const struct member *member)
{
    return member->child.pid > 0;
}

/* Its expulsion is not answered yet. It is asked for once, so that whoever
 * sat down now would take the answer away. */
static bool is_being_expelled(const struct member *member)
{
    return member->expelling || member->post_expelled;
}

/* It has a worker, or is not rid of its last one. */
static bool is_taken(const struct member *member)
{
    return member->reserved || member->fd >= 0 || is_being_expelled(member) ||
           (is_child(member) && !member->child.reaped);
}

static int watch(struct cleat_linux_workers *workers, int operation, int fd,
                 enum source source, uint32_t index)
{
    struct epoll_event event;

    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    event.data.u64 = (uint64_t)source << 32 | index;
    return epoll_ctl(workers->epoll_fd, operation, fd, &event) == 0 ? 0 : errno;
}

/* Before a descriptor is closed: a process that the host has forked may hold a
 * copy of it, and then closing ours would end neither the watch nor the
 * channel. */
static void unwatch(const struct cleat_linux_workers *workers, int fd)
{
    (void)epoll_ctl(workers->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

static void end_channel(const struct cleat_linux_workers *workers, int *fd)
{
    if (*fd < 0) { return; }
    unwatch(workers, *fd);
    (void)shutdown(*fd, SHUT_RDWR);
    cleat_linux_close(fd);
}

static uint32_t index_of(const struct cleat_linux_workers *workers,
                         const struct member *member)
{
    return (uint32_t)(member - workers->members);
}

/* ---- sending ---------------------------------------------------------------
 */

static enum cleat_status send_frame(struct member *member,
                                    struct cleat_control_frame *frame,
                                    const int *fds)
{
    if (member->fd < 0) { return CLEAT_PEER_LOST; }
    frame->sequence = ++member->sequence;
    enum cleat_status status = cleat_channel_send(member->fd, frame, fds);
    if (status == CLEAT_OK || status == CLEAT_PEER_LOST) { return status; }
    member->frames_unsent++;
    return CLEAT_NO_SLOT;
}

static void send_start(struct cleat_linux_workers *workers,
                       struct member *member)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_START;
    frame.body.start.member = index_of(workers, member);
    (void)send_frame(member, &frame, NULL);
    member->start_sequence = frame.sequence;
    member->start_fresh = true;
    member->start_answered = false;
}

static void drop_ticket(struct kept_ticket *ticket)
{
    for (uint32_t i = 0; i < CLEAT_TRANSPORT_TICKET_FDS; i++) {
        cleat_linux_close(&ticket->fds[i]);
    }
    ticket->kept = false;
}

static bool was_asked(const struct member *member,
                      const struct cleat_sync_command *command)
{
    return member->asked_term == command->term &&
           member->asked_epoch == command->epoch;
}

/* Which receiver this is, of how many. */
static void number_receivers(const struct cleat_linux_workers *workers,
                             const struct cleat_sync_command *command,
                             struct cleat_control_command *out)
{
    uint32_t trainers = workers->config.trainers;

    if (command->step == CLEAT_SYNC_PREPARE) {
        out->receivers_count = command->receivers_count != 0
                                   ? command->receivers_count
                                   : workers->config.members - trainers;
        out->receiver_index = command->member < trainers
                                  ? 0
                                  : command->member - trainers;
        return;
    }
    for (uint32_t i = trainers; i < workers->config.members; i++) {
        if (!was_asked(&workers->members[i], command)) { continue; }
        if (i < command->member) { out->receiver_index++; }
        out->receivers_count++;
    }
    if (command->member < trainers) { out->receiver_index = 0; }
}

static void fill_command(const struct cleat_linux_workers *workers,
                         const struct cleat_sync_command *command,
                         struct cleat_control_frame *frame)
{
    struct cleat_control_command *out = &frame->body.command;
    const struct kept_ticket *ticket = &workers->ticket;

    memset(frame, 0, sizeof *frame);
    frame->kind = CLEAT_CONTROL_COMMAND;
    frame->term = command->term;
    frame->epoch = command->epoch;
    out->step = command->step;
    out->member = command->member;
    out->attempt = command->attempt;
    out->version = command->version;
    out->timeout_ns = command->deadline_ns == CLEAT_NEVER
                          ? CLEAT_NEVER
                          : cleat_linux_until(cleat_linux_now_ns(),
                                              command->deadline_ns);
    if (command->step == CLEAT_SYNC_PREPARE ||
        command->step == CLEAT_SYNC_GROUP || command->step == CLEAT_SYNC_SEND) {
        number_receivers(workers, command, out);
    }
    if (command->step == CLEAT_SYNC_GROUP && ticket->kept &&
        ticket->term == command->term && ticket->epoch == command->epoch) {
        frame->fds_count = ticket->fds_count;
        out->ticket_bytes_count = ticket->bytes_count;
        memcpy(out->ticket_bytes, ticket->bytes, ticket->bytes_count);
    }
}

/* What a command means to us, whether or not it arrives. */
static void note_command(struct cleat_linux_workers *workers,
                         struct member *member,
                         const struct cleat_sync_command *command)
{
    member->commanded = true;
    if (command->step == CLEAT_SYNC_PREPARE) {
        member->asked_term = command->term;
        member->asked_epoch = command->epoch;
        if (command->member == 0) { drop_ticket(&workers->ticket); }
    }
    if (command->step == CLEAT_SYNC_FINALIZE) { drop_ticket(&workers->ticket); }
    if (command->step == CLEAT_SYNC_FENCE) {
        cleat_lease_revoke(&member->lease, command->term, command->epoch);
    }
}

static void close_channel(const struct cleat_linux_workers *workers,
                          struct member *member)
{
    end_channel(workers, &member->fd);
    if (member->process_fd >= 0) { unwatch(workers, member->process_fd); }
    cleat_linux_close(&member->process_fd);
    member->ready = false;
}

/* Nobody waits for the messages of the one that is expelled but for the answer
 * to that, and its end. */
static void begin_expel(const struct cleat_linux_workers *workers,
                        struct member *member,
                        const struct cleat_sync_command *command)
{
    member->commanded = true;
    cleat_lease_revoke(&member->lease, command->term, command->epoch);
    memset(&member->expelled, 0, sizeof member->expelled);
    member->expelled.sync.step = CLEAT_SYNC_EXPEL;
    member->expelled.sync.member = command->member;
    member->expelled.sync.term = command->term;
    member->expelled.sync.epoch = command->epoch;
    member->post_expelled = false;
    member->expelling = true;
    member->expel_until_ns = cleat_time_add(cleat_linux_now_ns(),
                                            workers->config.reap_ns);
    if (is_child(member)) {
        cleat_linux_child_signal(&member->child, SIGKILL);
    } else if (member->fd >= 0) {
        close_channel(workers, member);
        member->lost = true;
        member->post_lost = true;
    }
}

static struct cleat_linux_workers *
of_context(struct cleat_worker_context *context)
{
    return (struct cleat_linux_workers *)(void *)context;
}

static enum cleat_status send_command(struct cleat_worker_context *context,
                                      const struct cleat_sync_command *command)
{
    struct cleat_linux_workers *workers = of_context(context);
    struct cleat_control_frame frame;
    enum cleat_status status = CLEAT_OK;

    if (command->member >= workers->config.members) { return CLEAT_INVALID; }
    struct member *member = &workers->members[command->member];
    lock(workers);
    if (command->step == CLEAT_SYNC_EXPEL) {
        begin_expel(workers, member, command);
    } else {
        note_command(workers, member, command);
        fill_command(workers, command, &frame);
        /* Who has not been told of its end means the worker before. */
        status = member->post_end
                     ? CLEAT_PEER_LOST
                     : send_frame(member, &frame, workers->ticket.fds);
    }
    unlock(workers);
    if (command->step == CLEAT_SYNC_EXPEL) { poke(workers); }
    return status;
}

struct cleat_worker_port
cleat_linux_workers_port(struct cleat_linux_workers *workers)
{
    struct cleat_worker_port port = {
        .context = (struct cleat_worker_context *)(void *)workers,
        .send = send_command};

    return port;
}

/* ---- what workers say
 * -------------------------------------------------------- */

static void hear_numbers(struct cleat_linux_workers *workers,
                         struct member *member, uint32_t holding,
                         uint64_t version)
{
    member->holding = holding;
    member->version = version;
    member->heard++;
    tell_changed(workers);
}

/* What all who take part must have alike, as far as it is known: as it was
 * given, or as the first of the others says who takes part already. */
static uint32_t layout_of_job(const struct cleat_linux_workers *workers,
                              uint32_t but)
{
    if (workers->config.layout != 0) { return workers->config.layout; }
    for (uint32_t i = 0; i < workers->config.members; i++) {
        const struct member *member = &workers->members[i];
        if (i != but && member->ready && member->hello.layout != 0) {
            return member->hello.layout;
        }
    }
    return 0;
}

/* May who says this hello be this member? CLEAT_OK or why not. */
static enum cleat_status may_be(const struct cleat_linux_workers *workers,
                                uint32_t index,
                                const struct cleat_worker_hello *hello)
{
    uint32_t wanted = layout_of_job(workers, index);

    return wanted == 0 || hello->layout == 0 || hello->layout == wanted
               ? CLEAT_OK
               : CLEAT_PEER_DEVIANT;
}

/* Says why to somebody who is not taken as member `index`, which need not
 * exist, and keeps it. The channel is still to be closed. */
static void tell_why(struct cleat_linux_workers *workers, int fd,
                     uint64_t sequence, uint32_t index, uint32_t layout,
                     enum cleat_status status)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_CLOSE;
    frame.sequence = sequence;
    frame.body.close.status = status;
    if (index < workers->config.members) {
        frame.body.close.layout = layout_of_job(workers, index);
        workers->members[index].sent_away = (struct sent_away){
            status, layout, frame.body.close.layout};
    }
    (void)cleat_channel_send(fd, &frame, NULL);
    tell_changed(workers);
}

static void note_lost(struct cleat_linux_workers *workers,
                      struct member *member);

static void hear_hello(struct cleat_linux_workers *workers,
                       struct member *member,
                       const struct cleat_control_hello *hello)
{
    enum cleat_status allowed = may_be(workers, index_of(workers, member),
                                       &hello->hello);

    if (allowed != CLEAT_OK) {
        member->unwanted = allowed;
        tell_why(workers, member->fd, ++member->sequence,
                 index_of(workers, member), hello->hello.layout, allowed);
        note_lost(workers, member);
        return;
    }
    enum cleat_status status = hello->member == index_of(workers, member)
                                   ? hello->status
                                   : CLEAT_PEER_DEVIANT;

    if (hello->start_sequence == member->start_sequence) {
        member->start_answered = true;
        member->start_status = status;
    }
    if (status == CLEAT_OK) {
        member->hello = hello->hello;
        member->pid = hello->hello.pid;
        if (!member->ready) { member->post_hello = true; }
        member->ready = true;
    }
    hear_numbers(workers, member, hello->hello.holding, hello->hello.version);
}

/* Keeps the ticket and its descriptors, which are taken out of the packet. */
static void keep_ticket(struct cleat_linux_workers *workers,
                        struct cleat_channel_packet *packet)
{
    struct kept_ticket *ticket = &workers->ticket;
    const struct cleat_control_answer *answer = &packet->frame.body.answer;
    const struct member *sender = &workers->members[0];

    if (answer->answer.sync.member != 0 ||
        answer->answer.sync.step != CLEAT_SYNC_PREPARE ||
        answer->answer.sync.status != CLEAT_OK ||
        packet->frame.term != sender->asked_term ||
        packet->frame.epoch != sender->asked_epoch) {
        return;
    }
    drop_ticket(ticket);
    ticket->kept = true;
    ticket->term = packet->frame.term;
    ticket->epoch = packet->frame.epoch;
    ticket->bytes_count = answer->ticket_bytes_count;
    ticket->fds_count = packet->frame.fds_count;
    memcpy(ticket->bytes, answer->ticket_bytes, answer->ticket_bytes_count);
    memcpy(ticket->fds, packet->fds, sizeof ticket->fds);
    memset(packet->fds, 0xFF, sizeof packet->fds); /* -1 */
}

static bool post_all(const struct cleat_linux_workers *workers, uint32_t index);

static void hear_answer(struct cleat_linux_workers *workers,
                        struct member *member,
                        struct cleat_channel_packet *packet)
{
    const struct cleat_worker_answer *answer =
        &packet->frame.body.answer.answer;

    /* That somebody cannot serve any more is ours to say, never its own. */
    if (answer->sync.member != index_of(workers, member) ||
        answer->sync.step == CLEAT_SYNC_EXPEL) {
        member->frames_bad++;
        return;
    }
    keep_ticket(workers, packet);
    if (answer->sync.step == CLEAT_SYNC_COMMIT &&
        answer->sync.status == CLEAT_OK && !member->expelling) {
        cleat_lease_committed(&member->lease, answer->sync.term,
                              answer->sync.epoch);
    }
    /* One that came in the same turn goes first; it is overtaken only where the
     * mailbox has no room for it. */
    if (member->post_answer) {
        (void)post_all(workers, index_of(workers, member));
    }
    if (member->post_answer) { member->answers_dropped++; }
    member->answer = *answer;
    member->post_answer = true;
    member->served = answer->served;
    member->torn_served = answer->torn_served;
    member->lease_end_ns = answer->lease_end_ns;
    hear_numbers(workers, member, (uint32_t)answer->sync.holding,
                 answer->sync.version);
}

static void hear_stats(struct cleat_linux_workers *workers,
                       struct member *member,
                       const struct cleat_control_stats *stats)
{
    member->served = stats->served;
    member->torn_served = stats->torn_served;
    member->lease_end_ns = stats->lease_end_ns;
    hear_numbers(workers, member, stats->holding, stats->version);
}

static void hear_ask(const struct cleat_linux_workers *workers,
                     struct member *member,
                     const struct cleat_control_lease *ask)
{
    struct cleat_control_frame frame;
    const struct cleat_linux_workers_config *config = &workers->config;

    if (!cleat_lease_grant(&member->lease, cleat_linux_now_ns(),
                           config->lease_ns, config->drift_ns)) {
        return;
    }
    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_LEASE_GRANT;
    frame.body.lease.counter = ask->counter;
    frame.body.lease.lease_ns = config->lease_ns;
    (void)send_frame(member, &frame, NULL);
}

static void hear(struct cleat_linux_workers *workers, struct member *member,
                 struct cleat_channel_packet *packet)
{
    switch (packet->frame.kind) {
    case CLEAT_CONTROL_HELLO:
        hear_hello(workers, member, &packet->frame.body.hello);
        break;
    case CLEAT_CONTROL_ANSWER: hear_answer(workers, member, packet); break;
    case CLEAT_CONTROL_LEASE_ASK:
        hear_ask(workers, member, &packet->frame.body.lease);
        break;
    case CLEAT_CONTROL_STATS:
        hear_stats(workers, member, &packet->frame.body.stats);
        break;
    default: member->frames_bad++; break; /* what only we say */
    }
    cleat_channel_packet_close(packet);
}

/* ---- the end of a worker
 * -------------------------------------------------------- */

/* Its channel or its process has ended: told once. */
static void note_lost(struct cleat_linux_workers *workers,
                      struct member *member)
{
    close_channel(workers, member);
    if (!member->lost) { member->post_lost = true; }
    member->lost = true;
    tell_changed(workers);
}

/* Reads what has come, up to `packets_max`; the end of the channel too. */
static void read_channel(struct cleat_linux_workers *workers,
                         struct member *member, uint32_t packets_max)
{
    struct cleat_channel_packet packet;

    for (uint32_t i = 0; i < packets_max && member->fd >= 0; i++) {
        enum cleat_status status = cleat_channel_receive(member->fd, &packet);
        if (status == CLEAT_PENDING) { return; }
        if (status == CLEAT_PEER_LOST) {
            note_lost(workers, member);
        } else if (status == CLEAT_OK) {
            hear(workers, member, &packet);
        } else {
            member->frames_bad++;
        }
    }
}

/* A child may have ended. What it said before is heard before; what it said
 * while somebody else holds its end of the channel, is not. */
static void look_at_child(struct cleat_linux_workers *workers,
                          struct member *member)
{
    if (!is_child(member) || member->child.reaped) { return; }
    unwatch(workers, member->child.pidfd);
    /* Who traces it (a debugger) may hold it, and its descriptor says all the
     * time that it has ended. */
    member->look_again = !cleat_linux_child_reap(&member->child);
    if (member->look_again) { return; }
    read_channel(workers, member, LAST_WORDS_MAX);
    note_lost(workers, member);
}

/* When to look again. */
static uint64_t look_at_held(struct cleat_linux_workers *workers,
                             struct member *member, uint64_t now_ns)
{
    if (member->look_again) { look_at_child(workers, member); }
    return member->look_again ? cleat_time_add(now_ns, LOOK_NS) : CLEAT_NEVER;
}

/* The process that came by itself may have ended, while one that it has forked
 * holds the channel. */
static void look_at_process(struct cleat_linux_workers *workers,
                            struct member *member)
{
    struct pollfd ended = {.fd = member->process_fd, .events = POLLIN};

    /* What was reported may be the end of the one before. */
    if (member->process_fd < 0 || poll(&ended, 1, 0) != 1) { return; }
    read_channel(workers, member, LAST_WORDS_MAX);
    note_lost(workers, member);
}

static void end_expel(struct member *member, enum cleat_status status)
{
    member->expelled.sync.status = status;
    member->expelling = false;
    member->post_expelled = true;
}

/* Is it certain by now that the expelled one cannot serve? When to look again
 * if not. */
static uint64_t look_at_expelled(struct member *member, uint64_t now_ns)
{
    if (!member->expelling) { return CLEAT_NEVER; }
    if (!is_child(member)) {
        if (member->lease.end_ns == CLEAT_NEVER) {
            end_expel(member, CLEAT_PEER_UNFENCED);
            return CLEAT_NEVER;
        }
        if (!cleat_lease_over(&member->lease, now_ns)) {
            return member->lease.end_ns;
        }
        end_expel(member, CLEAT_OK);
        return CLEAT_NEVER;
    }
    if (member->child.reaped) {
        end_expel(member, CLEAT_OK);
        return CLEAT_NEVER;
    }
    if (now_ns < member->expel_until_ns) { return member->expel_until_ns; }
    end_expel(member, CLEAT_PEER_UNFENCED);
    return CLEAT_NEVER;
}

/* ---- posting
 * -------------------------------------------------------------------- */

static bool post(const struct cleat_linux_workers *workers, uint32_t kind,
                 uint32_t index, const void *body, size_t body_bytes)
{
    const struct cleat_mailbox *mailbox = &workers->config.mailbox;
    struct cleat_message message;

    memset(&message, 0, sizeof message);
    message.kind = kind;
    message.index = index;
    if (body_bytes > 0) { memcpy(message.body, body, body_bytes); }
    return mailbox->post(mailbox->context, &message) == CLEAT_OK;
}

static bool post_answer(const struct cleat_linux_workers *workers,
                        uint32_t index,
                        const struct cleat_worker_answer *answer)
{
    return post(workers, CLEAT_WORKER_ANSWER, index, answer, sizeof *answer);
}

/* Posts what there is to be posted of a member, in order. False when the
 * mailbox is full. */
static bool post_all(const struct cleat_linux_workers *workers, uint32_t index)
{
    struct member *member = &workers->members[index];

    if (member->post_end) {
        if (!post(workers, CLEAT_WORKER_LOST, index, NULL, 0)) { return false; }
        member->post_end = false;
    }
    if (member->post_hello) {
        if (!post(workers, CLEAT_WORKER_HELLO, index, &member->hello,
                  sizeof member->hello)) {
            return false;
        }
        member->post_hello = false;
    }
    if (member->post_answer) {
        if (!post_answer(workers, index, &member->answer)) { return false; }
        member->post_answer = false;
    }
    if (member->post_expelled) {
        if (!post_answer(workers, index, &member->expelled)) { return false; }
        member->post_expelled = false;
    }
    if (member->post_lost && !member->expelling) {
        if (!post(workers, CLEAT_WORKER_LOST, index, NULL, 0)) { return false; }
        member->post_lost = false;
    }
    return true;
}

/* ---- the thread
 * --------------------------------------------------------------------- */

/* Gives a member a worker. */
static void install(struct cleat_linux_workers *workers, struct member *member,
                    int fd, uint64_t sequence)
{
    struct cleat_lease_book lease = member->lease;
    struct sent_away sent_away = member->sent_away;
    bool late = member->commanded;
    bool end = member->post_end || member->post_lost;
    uint64_t incarnation = member->incarnation + 1;

    memset(member, 0, sizeof *member);
    /* The last worker's lease may still run, and is waited for when the
     * member is expelled. One that takes the place of another in a job that
     * has begun holds what nobody else serves: no lease before its first
     * commit. */
    member->lease.end_ns = lease.end_ns;
    member->lease.revoked = late;
    member->sent_away = sent_away;
    member->commanded = late;
    /* Of what the mailbox has no room for, the last one's end stays to be told,
     * and nothing that it said. */
    member->post_end = end;
    member->incarnation = incarnation;
    member->process_fd = -1;
    member->child.pidfd = -1;
    member->child.exit_code = -1;
    member->fd = fd;
    member->sequence = sequence;
    member->used = true;
    tell_changed(workers);
}

static void send_away(const struct cleat_linux_workers *workers,
                      struct guest *guest)
{
    end_channel(workers, &guest->fd);
}

/* A place that is free, or that of the guest which has said nothing for
 * longest, if that is long enough. NULL: none, and when there will be one. */
static struct guest *find_place(struct cleat_linux_workers *workers,
                                uint64_t now_ns, uint64_t *due_ns)
{
    struct guest *oldest = &workers->guests[0];

    for (uint32_t i = 0; i < workers->guests_max; i++) {
        struct guest *guest = &workers->guests[i];
        if (guest->fd < 0) { return guest; }
        if (guest->since_ns < oldest->since_ns) { oldest = guest; }
    }
    *due_ns = cleat_time_add(oldest->since_ns, GUEST_NS);
    return now_ns >= *due_ns ? oldest : NULL;
}

static void read_guest(struct cleat_linux_workers *workers,
                       struct guest *guest);

static void welcome(struct cleat_linux_workers *workers, struct guest *guest,
                    int fd, uint64_t now_ns)
{
    struct cleat_control_frame frame;
    uint32_t place = (uint32_t)(guest - workers->guests);

    read_guest(workers, guest); /* it may have said who it is just now */
    send_away(workers, guest);
    *guest = (struct guest){.fd = fd, .since_ns = now_ns, .sequence = 1};
    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_START;
    frame.sequence = 1;
    frame.body.start.member = CLEAT_SYNC_NOBODY;
    if (watch(workers, EPOLL_CTL_ADD, fd, SOURCE_GUEST, place) != 0 ||
        cleat_channel_send(fd, &frame, NULL) != CLEAT_OK) {
        send_away(workers, guest);
    }
}

/* Who knocks cannot be let in, and would be reported again at once, for ever.
 */
static void pause_listening(struct cleat_linux_workers *workers,
                            uint64_t until_ns, bool full)
{
    unwatch(workers, workers->listen_fd);
    workers->listen_again_ns = until_ns;
    workers->full = full;
}

/* When to look again. */
static uint64_t look_at_listener(struct cleat_linux_workers *workers,
                                 uint64_t now_ns)
{
    uint64_t due_ns = workers->listen_again_ns;

    if (due_ns == 0) { return CLEAT_NEVER; }
    bool again = workers->full ? find_place(workers, now_ns, &due_ns) != NULL
                               : now_ns >= due_ns;
    if (!again) { return due_ns; }
    workers->full = false;
    if (watch(workers, EPOLL_CTL_ADD, workers->listen_fd, SOURCE_LISTEN, 0) !=
        0) {
        workers->listen_again_ns = cleat_time_add(now_ns, LISTEN_AGAIN_NS);
        return workers->listen_again_ns;
    }
    workers->listen_again_ns = 0;
    return CLEAT_NEVER;
}

/* A guest is put out only for somebody who is there. */
static void accept_guests(struct cleat_linux_workers *workers, uint64_t now_ns)
{
    for (uint32_t i = 0; i < ACCEPTS_AT_ONCE && workers->listen_fd >= 0; i++) {
        uint64_t due_ns = 0;
        struct guest *place = find_place(workers, now_ns, &due_ns);
        if (place == NULL) {
            pause_listening(workers, due_ns, true);
            return;
        }
        int fd = accept4(workers->listen_fd, NULL, NULL,
                         SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
                errno == ENOBUFS) {
                pause_listening(workers,
                                cleat_time_add(now_ns, LISTEN_AGAIN_NS), false);
            }
            return;
        }
        welcome(workers, place, fd, now_ns);
    }
}

/* May the guest that says this hello have the place it names? */
static enum cleat_status may_sit(const struct cleat_linux_workers *workers,
                                 const struct cleat_control_hello *hello)
{
    if (hello->member >= workers->config.members) { return CLEAT_NOT_FOUND; }
    if (is_taken(&workers->members[hello->member])) { return CLEAT_EXISTS; }
    return may_be(workers, hello->member, &hello->hello);
}

/* The process at the other end of a connection: who called connect, or listen;
 * 0: it is not to be known (it lives in a container), or is this one. */
static pid_t find_process(int fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
                   peer.pid > 0 && peer.pid != getpid()
               ? peer.pid
               : 0;
}

/* Are more than half of the descriptors taken? A new one has the lowest number
 * that is free. */
static bool is_scarce(int fd)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
           (rlim_t)fd >= limit.rlim_cur / 2;
}

/* Watches the process that said hello, if it is the one that connected: a
 * launcher may end before those to whom it gave the channel. Where it is not
 * watched, only the channel's end tells of its death. False: it is dead. */
static bool watch_process(struct cleat_linux_workers *workers,
                          struct member *member, uint32_t pid_said)
{
    pid_t process = find_process(member->fd);

    if (process == 0 || (uint32_t)process != pid_said) { return true; }
    member->process_fd = cleat_linux_pidfd_open(process);
    if (member->process_fd < 0) { return errno != ESRCH; }
    if (is_scarce(member->process_fd) ||
        watch(workers, EPOLL_CTL_ADD, member->process_fd, SOURCE_PROCESS,
              index_of(workers, member)) != 0) {
        cleat_linux_close(&member->process_fd);
    }
    return true;
}

/* The guest has said hello: it becomes the member it names, if it may. Where it
 * may not, that place stays free for another. */
static void seat(struct cleat_linux_workers *workers, struct guest *guest,
                 struct cleat_channel_packet *packet)
{
    const struct cleat_control_hello *hello = &packet->frame.body.hello;
    uint32_t index = hello->member;
    int fd = guest->fd;

    if (packet->frame.kind != CLEAT_CONTROL_HELLO) {
        send_away(workers, guest);
        return;
    }
    enum cleat_status status = may_sit(workers, hello);
    if (status != CLEAT_OK) {
        tell_why(workers, fd, guest->sequence + 1, index, hello->hello.layout,
                 status);
        send_away(workers, guest);
        return;
    }
    if (watch(workers, EPOLL_CTL_MOD, fd, SOURCE_CHANNEL, index) != 0) {
        send_away(workers, guest);
        return;
    }
    struct member *member = &workers->members[index];
    (void)post_all(workers, index);
    install(workers, member, fd, guest->sequence);
    member->start_sequence = guest->sequence;
    member->start_fresh = true;
    member->came_by_itself = true;
    guest->fd = -1;
    hear_hello(workers, member, hello);
    if (!watch_process(workers, member, hello->hello.pid)) {
        note_lost(workers, member);
    }
}

/* Asks and counts that come before the hello are of no use: an engine asks
 * again. */
static void read_guest(struct cleat_linux_workers *workers, struct guest *guest)
{
    struct cleat_channel_packet packet;

    for (uint32_t i = 0; i < PACKETS_AT_ONCE && guest->fd >= 0; i++) {
        enum cleat_status status = cleat_channel_receive(guest->fd, &packet);
        if (status == CLEAT_PENDING) { return; }
        if (status == CLEAT_PEER_LOST) {
            send_away(workers, guest);
        } else if (status == CLEAT_OK) {
            if (packet.frame.kind != CLEAT_CONTROL_LEASE_ASK &&
                packet.frame.kind != CLEAT_CONTROL_STATS) {
                seat(workers, guest, &packet);
            }
            cleat_channel_packet_close(&packet);
        }
    }
}

static void handle_event(struct cleat_linux_workers *workers, uint64_t data,
                         uint64_t now_ns)
{
    uint32_t index = (uint32_t)data;
    uint64_t pokes = 0;
    ssize_t got = 0;

    switch ((enum source)(data >> 32)) {
    case SOURCE_WAKE:
        got = read(workers->wake_fd, &pokes, sizeof pokes);
        (void)got; /* it does not block, and the number means nothing */
        break;
    case SOURCE_LISTEN: accept_guests(workers, now_ns); break;
    case SOURCE_GUEST: read_guest(workers, &workers->guests[index]); break;
    case SOURCE_CHANNEL:
        read_channel(workers, &workers->members[index], PACKETS_AT_ONCE);
        break;
    case SOURCE_CHILD: look_at_child(workers, &workers->members[index]); break;
    case SOURCE_PROCESS:
        look_at_process(workers, &workers->members[index]);
        break;
    }
}

/* Does what is due and posts what can be; when to look again. */
static uint64_t attend(struct cleat_linux_workers *workers)
{
    uint64_t now_ns = cleat_linux_now_ns();
    uint64_t due_ns = look_at_listener(workers, now_ns);

    for (uint32_t i = 0; i < workers->config.members; i++) {
        struct member *member = &workers->members[i];
        due_ns = cleat_linux_min(due_ns, look_at_held(workers, member, now_ns));
        due_ns = cleat_linux_min(due_ns, look_at_expelled(member, now_ns));
        if (!post_all(workers, i)) {
            due_ns = cleat_linux_min(due_ns, cleat_time_add(now_ns, LOOK_NS));
        }
    }
    return due_ns;
}

/* Milliseconds to wait, rounded up; -1: for ever. */
static int epoll_timeout(uint64_t due_ns)
{
    if (due_ns == CLEAT_NEVER) { return -1; }
    uint64_t left_ns = cleat_linux_until(cleat_linux_now_ns(), due_ns);
    uint64_t left_ms = (left_ns + CLEAT_NS_PER_MS - 1) / CLEAT_NS_PER_MS;
    return left_ms > 60000 ? 60000 : (int)left_ms;
}

static void *thread_main(void *argument)
{
    struct cleat_linux_workers *workers = argument;
    struct epoll_event events[EVENTS_MAX];

    lock(workers);
    while (!workers->closing) {
        int timeout = epoll_timeout(attend(workers));
        unlock(workers);
        int count = epoll_wait(workers->epoll_fd, events, EVENTS_MAX, timeout);
        lock(workers);
        uint64_t now_ns = cleat_linux_now_ns();
        for (int i = 0; i < count && !workers->closing; i++) {
            handle_event(workers, events[i].data.u64, now_ns);
        }
    }
    unlock(workers);
    return NULL;
}

/* ---- who takes part
 * -------------------------------------------------------------------- */

static enum cleat_status say_taken(struct cleat_error *error, uint32_t member)
{
    return cleat_error_set(error, CLEAT_EXISTS, member, 0,
                           "the member has a worker, or the end of its last "
                           "one is not told yet");
}

/* Who starts a worker can try again, and what the last one said is told first;
 * one that attaches would be sent away. */
static bool reserve(struct cleat_linux_workers *workers, struct member *member)
{
    lock(workers);
    bool reserved = !is_taken(member) && !member->post_hello &&
                    !member->post_answer && !member->post_lost;
    if (reserved) { member->reserved = true; }
    unlock(workers);
    return reserved;
}

/* What a worker is watched by; 0 or errno, and then it is not watched. */
static int watch_worker(struct cleat_linux_workers *workers, uint32_t index,
                        int fd, const struct cleat_linux_child *child)
{
    int code = watch(workers, EPOLL_CTL_ADD, fd, SOURCE_CHANNEL, index);

    if (code == 0 && child != NULL) {
        code = watch(workers, EPOLL_CTL_ADD, child->pidfd, SOURCE_CHILD, index);
        if (code != 0) { unwatch(workers, fd); }
    }
    return code;
}

/* Fills a reserved member; errno or SEAT_TAKEN when it is as before. The lock
 * is held throughout: what is reported of who is watched is about who sits
 * there. */
static int take_seat(struct cleat_linux_workers *workers, struct member *member,
                     int fd, const struct cleat_linux_child *child)
{
    lock(workers);
    /* Since it was reserved, the last one may have been expelled. */
    int code = is_being_expelled(member)
                   ? SEAT_TAKEN
                   : watch_worker(workers, index_of(workers, member), fd,
                                  child);
    if (code == 0) {
        install(workers, member, fd, 0);
        if (child != NULL) { member->child = *child; }
        send_start(workers, member);
    }
    unlock(workers);
    return code;
}

/* 0, errno or SEAT_TAKEN. */
static int start_child(struct cleat_linux_workers *workers,
                       struct member *member, const char *path,
                       char *const argv[], char *const envp[])
{
    struct cleat_linux_child child;
    struct cleat_error error = {.port_code = 0};
    int pair[2] = {-1, -1};

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                   pair) != 0) {
        return errno;
    }
    (void)cleat_linux_child_start(workers->maker, path, argv, envp, &pair[1],
                                  -1, &child, &error);
    (void)close(pair[1]);
    int code = error.port_code;
    if (code == 0) {
        code = take_seat(workers, member, pair[0], &child);
        if (code != 0) {
            cleat_linux_child_signal(&child, SIGKILL);
            (void)cleat_linux_child_await(&child, CLEAT_NEVER);
        }
    }
    if (code != 0) { (void)close(pair[0]); }
    return code;
}

/* Nobody has come to the reserved seat. */
static void unreserve(struct cleat_linux_workers *workers,
                      struct member *member)
{
    lock(workers);
    member->reserved = false;
    tell_changed(workers);
    unlock(workers);
}

enum cleat_status cleat_linux_workers_spawn(struct cleat_linux_workers *workers,
                                            uint32_t member, const char *path,
                                            char *const argv[],
                                            char *const envp[],
                                            struct cleat_error *error)
{
    if (workers == NULL || member >= workers->config.members) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0, "no such member");
    }
    if (path == NULL || argv == NULL || argv[0] == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "a program and its name must be given");
    }
    if (!reserve(workers, &workers->members[member])) {
        return say_taken(error, member);
    }
    int code = start_child(workers, &workers->members[member], path, argv,
                           envp != NULL ? envp : environ);
    if (code == 0) { return CLEAT_OK; }
    unreserve(workers, &workers->members[member]);
    if (code == SEAT_TAKEN) { return say_taken(error, member); }
    (void)cleat_linux_path_error(error, CLEAT_IO, code, "cannot start", path);
    if (error != NULL) { error->index = member; }
    return CLEAT_IO;
}

enum cleat_status cleat_linux_workers_adopt(struct cleat_linux_workers *workers,
                                            uint32_t member, int fd,
                                            struct cleat_error *error)
{
    if (workers == NULL || member >= workers->config.members) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0, "no such member");
    }
    if (!cleat_channel_is_one(fd)) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "fd is not a connected SOCK_SEQPACKET Unix "
                               "socket");
    }
    if (!reserve(workers, &workers->members[member])) {
        return say_taken(error, member);
    }
    int code = cleat_channel_take(fd)
                   ? take_seat(workers, &workers->members[member], fd, NULL)
                   : errno;
    if (code == 0) { return CLEAT_OK; }
    unreserve(workers, &workers->members[member]);
    if (code == SEAT_TAKEN) { return say_taken(error, member); }
    return cleat_linux_io_error(error, code, member, "watching a channel");
}

/* ---- listening
 * -------------------------------------------------------------------------- */

static void fill_address(struct sockaddr_un *address, const char *path)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, strlen(path));
}

/* Does a socket file lie there that nobody listens on any more? Who has ended
 * does not, though a process that it forked may hold a copy of the socket. */
static bool is_stale(const char *path)
{
    struct stat file;

    if (lstat(path, &file) != 0 || !S_ISSOCK(file.st_mode)) { return false; }
    int fd = cleat_channel_connect(path);
    bool stale = fd < 0 && errno == ECONNREFUSED;
    if (fd >= 0) {
        pid_t process = find_process(fd);
        stale = process != 0 && kill(process, 0) != 0 && errno == ESRCH;
    }
    cleat_linux_close(&fd);
    return stale;
}

static int bind_to(int fd, const char *path)
{
    struct sockaddr_un address;

    fill_address(&address, path);
    return bind(fd, (const struct sockaddr *)&address, sizeof address) == 0
               ? 0
               : errno;
}

/* Between bind and listen a socket refuses like one that nobody listens on any
 * more, and two may find the same stale file. So who sets one up at a path
 * holds this lock, of a file beside it that goes with it. */
struct path_lock {
    int fd;
    char file[CLEAT_CHANNEL_PATH_MAX + sizeof LOCK_SUFFIX];
};

static bool is_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* False: another sets one up there now. Where no such lock can be had at all
 * (a network's file system), it goes on without. */
static bool lock_path(struct path_lock *path_lock, const char *path)
{
    struct stat held;
    struct stat there;

    (void)snprintf(path_lock->file, sizeof path_lock->file, "%s%s", path,
                   LOCK_SUFFIX);
    for (uint32_t i = 0; i < LOCK_TRIES; i++) {
        path_lock->fd = open(path_lock->file,
                             O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
                             S_IRUSR | S_IWUSR);
        if (path_lock->fd < 0) { return true; }
        if (flock(path_lock->fd, LOCK_EX | LOCK_NB) != 0) {
            bool other = errno == EWOULDBLOCK;
            if (!other) { (void)unlink(path_lock->file); }
            cleat_linux_close(&path_lock->fd);
            return !other;
        }
        if (fstat(path_lock->fd, &held) == 0 &&
            lstat(path_lock->file, &there) == 0 &&
            is_same_file(&held, &there)) {
            return true;
        }
        /* Who had it has removed it. */
        cleat_linux_close(&path_lock->fd);
    }
    return true;
}

/* By name: a copy in a process that the host forks meanwhile holds it too. */
static void unlock_path(struct path_lock *path_lock)
{
    if (path_lock->fd < 0) { return; }
    (void)unlink(path_lock->file);
    (void)flock(path_lock->fd, LOCK_UN);
    cleat_linux_close(&path_lock->fd);
}

/* Binds, listens, and tells which file that made; 0 or errno. */
static int bind_and_listen(int fd, const char *path, struct stat *file)
{
    /* The file gets the socket's mode at bind: never more, not for a moment. */
    if (fchmod(fd, S_IRUSR | S_IWUSR) != 0) { return errno; }
    int code = bind_to(fd, path);
    if (code == EADDRINUSE && is_stale(path)) {
        (void)unlink(path);
        code = bind_to(fd, path);
    }
    if (code != 0) { return code; }
    if (lstat(path, file) == 0 && listen(fd, LISTEN_BACKLOG) == 0) { return 0; }
    code = errno;
    (void)unlink(path);
    return code;
}

static int set_up_listener(int fd, const char *path, struct stat *file)
{
    struct path_lock path_lock;

    if (!lock_path(&path_lock, path)) { return EADDRINUSE; }
    int code = bind_and_listen(fd, path, file);
    unlock_path(&path_lock);
    return code;
}

static int install_listener(struct cleat_linux_workers *workers, int fd,
                            const char *path, const struct stat *file)
{
    lock(workers);
    int code = watch(workers, EPOLL_CTL_ADD, fd, SOURCE_LISTEN, 0);
    if (code == 0) {
        workers->listen_fd = fd;
        workers->path_device = file->st_dev;
        workers->path_inode = file->st_ino;
        memcpy(workers->path, path, strlen(path) + 1);
        tell_changed(workers);
    }
    unlock(workers);
    return code;
}

enum cleat_status
cleat_linux_workers_listen(struct cleat_linux_workers *workers,
                           const char *path, struct cleat_error *error)
{
    struct stat file;

    if (workers == NULL || path == NULL || path[0] == '\0') {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0, "no path");
    }
    if (strnlen(path, CLEAT_CHANNEL_PATH_MAX + 1) > CLEAT_CHANNEL_PATH_MAX) {
        return cleat_error_set(error, CLEAT_LIMIT, 2, 0,
                               "the socket's path is longer than 107 bytes");
    }
    lock(workers);
    bool listening = workers->listen_fd >= 0;
    unlock(workers);
    if (listening) {
        return cleat_error_set(error, CLEAT_STATE, 0, 0, "it listens already");
    }
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int code = fd < 0 ? errno : set_up_listener(fd, path, &file);
    if (code != 0) {
        cleat_linux_close(&fd);
        return cleat_linux_path_error(
            error, code == EADDRINUSE ? CLEAT_EXISTS : CLEAT_IO, code,
            "cannot listen at", path);
    }
    code = install_listener(workers, fd, path, &file);
    if (code == 0) { return CLEAT_OK; }
    (void)unlink(path);
    (void)close(fd);
    return cleat_linux_io_error(error, code, 0, "watching a socket");
}

/* The file goes, if it is still the one that was made here; and who waits to be
 * let in is turned away, also where a process that the host has forked holds a
 * copy of the socket. */
static void end_listening(struct cleat_linux_workers *workers)
{
    struct stat file;
    int fd = -1;

    if (workers->listen_fd < 0) { return; }
    if (lstat(workers->path, &file) == 0 &&
        file.st_dev == workers->path_device &&
        file.st_ino == workers->path_inode) {
        (void)unlink(workers->path);
    }
    (void)shutdown(workers->listen_fd, SHUT_RDWR);
    do {
        cleat_linux_close(&fd);
        fd = accept4(workers->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    } while (fd >= 0);
    cleat_linux_close(&workers->listen_fd);
}

/* ---- waiting and looking
 * ------------------------------------------------------------------ */

/* Where one wait for a member stands. */
struct wait_state {
    bool asked;
    uint64_t sequence; /* of the START that is this wait's */
    uint64_t incarnation;
};

/* Asks the worker to say hello, once for each wait; the START of its arrival
 * serves the first one. */
static void ask(struct cleat_linux_workers *workers, struct member *member,
                struct wait_state *wait)
{
    if (wait->asked && wait->incarnation == member->incarnation) { return; }
    if (!member->start_fresh) { send_start(workers, member); }
    member->start_fresh = false;
    wait->asked = true;
    wait->sequence = member->start_sequence;
    wait->incarnation = member->incarnation;
}

static enum cleat_status how_it_stands(struct cleat_linux_workers *workers,
                                       struct member *member,
                                       struct wait_state *wait)
{
    if (workers->closing) { return CLEAT_CANCELLED; }
    if (member->ready) { return CLEAT_OK; }
    if (member->unwanted != CLEAT_OK) { return member->unwanted; }
    if (member->used && member->lost) { return CLEAT_PEER_LOST; }
    if (!member->used) {
        return workers->listen_fd >= 0 || member->reserved ? CLEAT_PENDING
                                                           : CLEAT_NOT_FOUND;
    }
    ask(workers, member, wait);
    return member->start_answered && member->start_sequence == wait->sequence
               ? member->start_status
               : CLEAT_PENDING;
}

enum cleat_status cleat_linux_worker_wait(struct cleat_linux_workers *workers,
                                          uint32_t member, uint64_t deadline_ns)
{
    struct wait_state wait = {false, 0, 0};
    bool in_time = true;

    if (workers == NULL || member >= workers->config.members) {
        return CLEAT_INVALID;
    }
    lock(workers);
    enum cleat_status status = how_it_stands(workers, &workers->members[member],
                                             &wait);
    while (status == CLEAT_PENDING && in_time) {
        in_time = cleat_linux_cond_wait(&workers->changed, &workers->lock,
                                        deadline_ns);
        status = how_it_stands(workers, &workers->members[member], &wait);
    }
    unlock(workers);
    return status == CLEAT_PENDING ? CLEAT_PEER_SILENT : status;
}

enum cleat_status cleat_linux_worker_look(struct cleat_linux_workers *workers,
                                          uint32_t member,
                                          struct cleat_linux_worker_view *view)
{
    if (workers == NULL || view == NULL || member >= workers->config.members) {
        return CLEAT_INVALID;
    }
    lock(workers);
    const struct member *of = &workers->members[member];
    *view = (struct cleat_linux_worker_view){
        .child = is_child(of),
        .attached = of->fd >= 0,
        .ready = of->ready,
        .reaped = of->child.reaped,
        .pid = is_child(of) ? (int32_t)of->child.pid : (int32_t)of->pid,
        .exit_code = of->child.exit_code,
        .exit_signal = of->child.exit_signal,
        .holding = of->holding,
        .served = of->served,
        .torn_served = of->torn_served,
        .version = of->version,
        .lease_end_ns = of->lease_end_ns,
        .granted_end_ns = of->lease.end_ns,
        .heard = of->heard,
        .frames_bad = of->frames_bad,
        .frames_unsent = of->frames_unsent,
        .answers_dropped = of->answers_dropped,
        .hello = of->hello};
    unlock(workers);
    return CLEAT_OK;
}

enum cleat_status
cleat_linux_worker_sent_away(struct cleat_linux_workers *workers,
                             uint32_t member, struct cleat_error *error)
{
    char line[CLEAT_ERROR_TEXT_MAX];

    if (workers == NULL || member >= workers->config.members) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0, "no such member");
    }
    lock(workers);
    struct sent_away last = workers->members[member].sent_away;
    unlock(workers);
    if (last.status == CLEAT_OK) { return CLEAT_OK; }
    if (last.status == CLEAT_PEER_DEVIANT) {
        (void)snprintf(line, sizeof line,
                       "member %" PRIu32 " was not taken: its tensor table or "
                       "bucket size (digest 0x%08" PRIx32
                       ") is not the job's (0x%08" PRIx32 ")",
                       member, last.layout, last.layout_of_job);
    } else {
        (void)snprintf(line, sizeof line,
                       "a second worker came as member %" PRIu32, member);
    }
    return cleat_error_set(error, last.status, member, 0, line);
}

enum cleat_status cleat_linux_workers_await(struct cleat_linux_workers *workers,
                                            uint64_t *seen,
                                            uint64_t deadline_ns)
{
    bool in_time = true;

    lock(workers);
    while (workers->changes == *seen && in_time && !workers->closing) {
        in_time = cleat_linux_cond_wait(&workers->changed, &workers->lock,
                                        deadline_ns);
    }
    enum cleat_status status = workers->closing            ? CLEAT_CANCELLED
                               : workers->changes == *seen ? CLEAT_DEADLINE
                                                           : CLEAT_OK;
    *seen = workers->changes;
    unlock(workers);
    return status;
}

/* ---- beginning and end
 * ---------------------------------------------------------------------- */

static enum cleat_status
check_config(const struct cleat_linux_workers_config *config,
             struct cleat_error *error)
{
    if (config == NULL || cleat_linux_workers_bytes(config->members) == 0) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "config: members must be 1 to 1024");
    }
    if (config->trainers == 0 || config->trainers > config->members) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "config: trainers must be 1 to members");
    }
    if (config->mailbox.post == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "config: a mailbox must be given");
    }
    return CLEAT_OK;
}

static void fill(struct cleat_linux_workers *workers,
                 const struct cleat_linux_workers_config *config)
{
    struct cleat_linux_workers_config *full = &workers->config;

    memset(workers, 0, cleat_linux_workers_bytes(config->members));
    *full = *config;
    if (full->lease_ns == 0) { full->lease_ns = LEASE_NS; }
    if (full->drift_ns == 0) { full->drift_ns = full->lease_ns / DRIFT_PART; }
    if (full->grace_ns == 0) { full->grace_ns = GRACE_NS; }
    if (full->grace_ns == CLEAT_NONE) { full->grace_ns = 0; }
    if (full->reap_ns == 0) { full->reap_ns = REAP_NS; }
    workers->members = (struct member *)(void *)((unsigned char *)workers +
                                                 FIXED_BYTES);
    workers->guests = (struct guest *)(void *)(workers->members +
                                               full->members);
    workers->guests_max = full->members > GUESTS_LEAST ? full->members
                                                       : GUESTS_LEAST;
    for (uint32_t i = 0; i < full->members; i++) {
        workers->members[i].fd = -1;
        workers->members[i].process_fd = -1;
        workers->members[i].child.pidfd = -1;
        workers->members[i].child.exit_code = -1;
    }
    for (uint32_t i = 0; i < workers->guests_max; i++) {
        workers->guests[i].fd = -1;
    }
    for (uint32_t i = 0; i < CLEAT_TRANSPORT_TICKET_FDS; i++) {
        workers->ticket.fds[i] = -1;
    }
    workers->epoll_fd = -1;
    workers->wake_fd = -1;
    workers->listen_fd = -1;
}

static int open_descriptors(struct cleat_linux_workers *workers)
{
    workers->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (workers->epoll_fd < 0) { return errno; }
    workers->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (workers->wake_fd < 0) { return errno; }
    return watch(workers, EPOLL_CTL_ADD, workers->wake_fd, SOURCE_WAKE, 0);
}

static void close_descriptors(struct cleat_linux_workers *workers)
{
    cleat_linux_close(&workers->epoll_fd);
    cleat_linux_close(&workers->wake_fd);
}

/* Condition, lock, children's attributes and the thread; 0 or errno, and then
 * none of them is left. */
static int start_thread(struct cleat_linux_workers *workers)
{
    static const int channel_fd = CLEAT_LINUX_CHANNEL_FD;
    struct cleat_error error = {.port_code = 0};

    if (cleat_linux_child_maker_init(workers->maker_block,
                                     sizeof workers->maker_block, &channel_fd,
                                     1, &workers->maker, &error) != CLEAT_OK) {
        return error.port_code;
    }
    int code = cleat_linux_cond_init(&workers->changed);
    if (code == 0) {
        (void)pthread_mutex_init(&workers->lock, NULL);
        code = cleat_linux_thread_start(&workers->thread, thread_main, workers);
        if (code != 0) {
            (void)pthread_mutex_destroy(&workers->lock);
            (void)pthread_cond_destroy(&workers->changed);
        }
    }
    if (code != 0) { cleat_linux_child_maker_close(workers->maker); }
    return code;
}

enum cleat_status cleat_linux_workers_init(
    void *block, size_t bytes, const struct cleat_linux_workers_config *config,
    struct cleat_linux_workers **out, struct cleat_error *error)
{
    if (out == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 4, 0, "out is NULL");
    }
    *out = NULL;
    enum cleat_status status = check_config(config, error);
    if (status != CLEAT_OK) { return status; }
    status = cleat_linux_block_check(
        block, bytes, cleat_linux_workers_bytes(config->members), error);
    if (status != CLEAT_OK) { return status; }

    struct cleat_linux_workers *workers = block;
    fill(workers, config);
    int code = open_descriptors(workers);
    if (code == 0) { code = start_thread(workers); }
    if (code != 0) {
        close_descriptors(workers);
        return cleat_linux_io_error(error, code, 0, "making a coordinator");
    }
    workers->open = true;
    *out = workers;
    return CLEAT_OK;
}

static void stop_thread(struct cleat_linux_workers *workers)
{
    lock(workers);
    workers->closing = true;
    tell_changed(workers);
    unlock(workers);
    poke(workers);
    (void)pthread_join(workers->thread, NULL);
}

/* Says to those who are the job's that it is over, and to all others nothing:
 * an engine that attached waits for a next coordinator. */
static void say_close(const struct cleat_linux_workers *workers)
{
    struct cleat_control_frame frame;

    for (uint32_t i = 0; i < workers->config.members; i++) {
        struct member *member = &workers->members[i];
        if (member->fd < 0) { continue; }
        memset(&frame, 0, sizeof frame);
        frame.kind = CLEAT_CONTROL_CLOSE;
        if (!member->came_by_itself) { (void)send_frame(member, &frame, NULL); }
        close_channel(workers, member);
    }
}

/* Waits for all children; those that do not end by themselves are killed. */
static enum cleat_status end_children(struct cleat_linux_workers *workers)
{
    enum cleat_status status = CLEAT_OK;
    uint64_t until_ns = cleat_time_add(cleat_linux_now_ns(),
                                       workers->config.grace_ns);

    for (uint32_t i = 0; i < workers->config.members; i++) {
        if (!cleat_linux_child_await(&workers->members[i].child, until_ns)) {
            cleat_linux_child_signal(&workers->members[i].child, SIGKILL);
        }
    }
    until_ns = cleat_time_add(cleat_linux_now_ns(), workers->config.reap_ns);
    for (uint32_t i = 0; i < workers->config.members; i++) {
        struct cleat_linux_child *child = &workers->members[i].child;
        if (child->pid > 0 && !cleat_linux_child_await(child, until_ns)) {
            cleat_linux_close(&child->pidfd);
            status = CLEAT_PEER_UNFENCED;
        }
    }
    return status;
}

enum cleat_status cleat_linux_workers_close(struct cleat_linux_workers *workers)
{
    if (workers == NULL || !workers->open) { return CLEAT_OK; }
    workers->open = false;
    stop_thread(workers);
    end_listening(workers);
    for (uint32_t i = 0; i < workers->guests_max; i++) {
        send_away(workers, &workers->guests[i]);
    }
    say_close(workers);
    drop_ticket(&workers->ticket);
    enum cleat_status status = end_children(workers);
    cleat_linux_child_maker_close(workers->maker);
    close_descriptors(workers);
    /* The lock and the condition hold nothing, and stay: whoever waited may
     * not have left yet. */
    return status;
}
