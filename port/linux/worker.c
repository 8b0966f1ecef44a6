/* Cleat: the worker's side of the control channel. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Three threads. The host's, in cleat_worker_poll, carries out commands. Ours:
 * one that reads the channel always, keeps the lease, and sees the channel's
 * end at once, also while a callback of the host's takes long (`io`); and one
 * that moves data (`data`). While it runs only `io` closes channels, so nobody
 * reads or waits on a descriptor that has become another's. What a thread does
 * to a channel that is not the present one any more goes nowhere: each has a
 * number of its own, and what came over it remembers that. */
#define _GNU_SOURCE
#include "cleat/linux_worker.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "channel.h"
#include "cleat/linux.h"
#include "gate.h"
#include "lease.h"
#include "rules.h"
#include "system.h"

#define COMMANDS_MAX 32u
#define ARRIVALS_MAX (COMMANDS_MAX + 1u) /* and one START */
#define DELAYED_MAX 8u
#define PACKETS_AT_ONCE 64u

#define ORPHAN_TIMEOUT_NS (5 * CLEAT_NS_PER_S)
#define STATS_NS (100 * CLEAT_NS_PER_MS)
#define ASK_FIRST_NS (100 * CLEAT_NS_PER_MS) /* while the lease is unknown */
#define ASK_LEAST_NS CLEAT_NS_PER_MS
#define CONNECT_NS (20 * CLEAT_NS_PER_MS)

struct channel {
    int fd;            /* -1: none */
    bool heard;        /* a coordinator has spoken over it */
    bool refused;      /* and its last word was that the place is taken */
    uint64_t id;       /* 1 …; 0: none */
    uint64_t since_ns; /* when it became the present one */
    uint64_t sequence; /* of the last frame sent */
};

/* What came and waits for the host's thread. */
struct arrival {
    uint64_t channel_id;
    uint64_t received_ns;
    struct cleat_channel_packet packet;
};

/* An answer that is to be sent later (fault injection). */
struct delayed {
    bool taken;
    uint64_t due_ns;
    uint64_t channel_id;
    size_t bytes_count;
    uint32_t fds_count;
    int fds[CLEAT_TRANSPORT_TICKET_FDS]; /* our own copies */
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
};

struct cleat_worker {
    /* For serving threads, without the lock. */
    struct cleat_gate gate;
    _Atomic uint64_t version; /* changes only while nobody is in */
    _Atomic uint64_t lease_end_ns;
    _Atomic uint64_t served;
    _Atomic uint64_t torn_served;
    struct cleat_clock lease_clock;

    struct cleat_worker_host host;
    bool trainer;
    char path[CLEAT_CHANNEL_PATH_MAX + 1]; /* empty: none */
    uint64_t orphan_timeout_ns;
    uint64_t stats_ns;

    pthread_mutex_t lock;   /* of all that follows */
    pthread_cond_t control; /* something for the host's thread */
    pthread_cond_t left;    /* the last one left a closed gate */
    pthread_cond_t work;    /* something for the data thread */
    pthread_cond_t idle;    /* the data thread has done it */
    pthread_t io;
    pthread_t data;
    int wake_fd; /* ends what `io` waits for */

    bool closing;  /* our threads must end */
    bool stopped;  /* cleat_worker_stop */
    bool ended;    /* the coordinator has ended the job */
    bool unwanted; /* it has sent this worker away for good */
    bool orphaned; /* a channel has ended, and that is not dealt with yet */
    bool obeyed;   /* there was a coordinator: it gave a channel, or commands */
    bool crowded;  /* somebody listens, and has no room for who knocks */
    uint32_t member;
    uint32_t layout;
    struct cleat_control_close sent_away; /* status CLEAT_OK: it is not */
    uint64_t orphan_deadline_ns;
    uint64_t crowded_since_ns;

    /* Of the host's thread alone. */
    enum cleat_status start_status; /* of host.start; CLEAT_PENDING: not yet */
    uint64_t start_channel;         /* over which it was answered last */

    struct channel current;
    struct channel offered;
    uint64_t channels; /* the last number given */

    struct cleat_rules rules;
    uint64_t attempt_channel; /* over which prepare came */
    uint64_t seen_term; /* the highest pair that arrived, which may wait */
    uint64_t seen_epoch;
    uint64_t ended_term; /* attempts up to here are to end */
    uint64_t ended_epoch;

    struct cleat_lease lease;
    uint64_t ask_ns; /* from one ask to the next */
    uint64_t ask_due_ns;
    uint64_t stats_due_ns;
    uint64_t connect_due_ns;

    bool moving; /* the data thread has work, or a transfer runs */
    bool handed; /* it has not taken it yet */
    uint64_t moving_channel;
    struct cleat_worker_command moving_command;

    uint32_t arrivals_first;
    uint32_t arrivals_count;
    struct arrival arrivals[ARRIVALS_MAX];
    struct delayed delayed[DELAYED_MAX];
};

_Static_assert(sizeof(struct cleat_worker) <= CLEAT_WORKER_BYTES,
               "CLEAT_WORKER_BYTES");

/* ---- small things -------------------------------------------------------- */

static void lock(struct cleat_worker *worker)
{
    (void)pthread_mutex_lock(&worker->lock);
}

static void unlock(struct cleat_worker *worker)
{
    (void)pthread_mutex_unlock(&worker->lock);
}

static uint64_t lease_now(const struct cleat_worker *worker)
{
    return worker->lease_clock.now_ns(worker->lease_clock.context);
}

static void poke(struct cleat_worker *worker)
{
    uint64_t one = 1;

    /* It fails only when the counter is full, and then it is awake anyway. */
    ssize_t written = write(worker->wake_fd, &one, sizeof one);
    (void)written;
}

static bool is_over(const struct cleat_worker *worker)
{
    return worker->closing || worker->stopped || worker->ended ||
           worker->unwanted;
}

/* The gate follows from the state; called after every change of it. */
static void update_gate(struct cleat_worker *worker)
{
    if (cleat_rules_open(&worker->rules) && worker->current.fd >= 0 &&
        !is_over(worker)) {
        cleat_gate_open(&worker->gate);
    } else {
        cleat_gate_close(&worker->gate);
    }
}

static void interrupt_host(struct cleat_worker *worker)
{
    if (worker->host.interrupt != NULL) {
        worker->host.interrupt(worker->host.context);
    }
}

/* Must the attempt under way end? */
static bool is_cancelled(const struct cleat_worker *worker)
{
    const struct cleat_rules *rules = &worker->rules;

    return is_over(worker) || worker->attempt_channel != worker->current.id ||
           cleat_rules_below(rules->attempt_term, rules->attempt_epoch,
                             worker->seen_term, worker->seen_epoch) ||
           !cleat_rules_below(worker->ended_term, worker->ended_epoch,
                              rules->attempt_term, rules->attempt_epoch);
}

static uint32_t saturated(uint64_t value)
{
    return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

/* ---- sending ---------------------------------------------------------------
 */

/* A frame over a channel; one that cannot be sent is one lost on the way, and
 * the channel's end is seen by reading it. */
static void send_frame(struct channel *channel,
                       struct cleat_control_frame *frame)
{
    frame->sequence = ++channel->sequence;
    (void)cleat_channel_send(channel->fd, frame, NULL);
}

/* Half of what a channel takes is for answers, which come once: where the
 * coordinator has not read for long, nothing is asked and told anew. */
static bool is_half_full(const struct channel *channel)
{
    int bytes_unread = 0;
    int bytes_max = 0;
    socklen_t bytes = sizeof bytes_max;

    return ioctl(channel->fd, SIOCOUTQ, &bytes_unread) == 0 &&
           getsockopt(channel->fd, SOL_SOCKET, SO_SNDBUF, &bytes_max, &bytes) ==
               0 &&
           bytes_unread > bytes_max / 2;
}

static void send_ask(struct cleat_worker *worker)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_LEASE_ASK;
    frame.body.lease.counter = cleat_lease_ask(&worker->lease,
                                               lease_now(worker));
    send_frame(&worker->current, &frame);
}

static void send_stats(struct cleat_worker *worker)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = CLEAT_CONTROL_STATS;
    frame.term = worker->rules.term;
    frame.epoch = worker->rules.epoch;
    frame.body.stats.version = worker->rules.version;
    frame.body.stats.holding = (uint32_t)worker->rules.holding;
    frame.body.stats.lease_end_ns = atomic_load(&worker->lease_end_ns);
    frame.body.stats.served = saturated(atomic_load(&worker->served));
    frame.body.stats.torn_served = saturated(atomic_load(&worker->torn_served));
    send_frame(&worker->current, &frame);
}

/* Keeps encoded bytes for later. False when there is no room. */
static bool put_off(struct cleat_worker *worker, uint64_t due_ns,
                    const uint8_t *bytes, size_t bytes_count, const int *fds,
                    uint32_t fds_count)
{
    for (uint32_t i = 0; i < DELAYED_MAX; i++) {
        struct delayed *delayed = &worker->delayed[i];
        if (delayed->taken) { continue; }
        delayed->taken = true;
        delayed->due_ns = due_ns;
        delayed->channel_id = worker->current.id;
        delayed->bytes_count = bytes_count;
        delayed->fds_count = fds_count;
        memcpy(delayed->bytes, bytes, bytes_count);
        /* The host may close its own before that. */
        for (uint32_t j = 0; j < fds_count; j++) {
            delayed->fds[j] = fcntl(fds[j], F_DUPFD_CLOEXEC, 0);
        }
        return true;
    }
    return false;
}

static void drop_delayed(struct delayed *delayed)
{
    for (uint32_t j = 0; j < delayed->fds_count; j++) {
        cleat_linux_close(&delayed->fds[j]);
    }
    delayed->fds_count = 0;
    delayed->taken = false;
}

/* Sends what is due; when the next one is. */
static uint64_t send_delayed(struct cleat_worker *worker, uint64_t now_ns)
{
    uint64_t due_ns = CLEAT_NEVER;

    for (uint32_t i = 0; i < DELAYED_MAX; i++) {
        struct delayed *delayed = &worker->delayed[i];
        if (!delayed->taken) { continue; }
        if (delayed->due_ns > now_ns) {
            due_ns = cleat_linux_min(due_ns, delayed->due_ns);
            continue;
        }
        if (delayed->channel_id == worker->current.id) {
            (void)cleat_channel_send_bytes(worker->current.fd, delayed->bytes,
                                           delayed->bytes_count, delayed->fds,
                                           delayed->fds_count);
        }
        drop_delayed(delayed);
    }
    return due_ns;
}

/* Sends the answer to what came over channel `id`, as the fault wants it. */
static void reply(struct cleat_worker *worker, uint64_t id,
                  struct cleat_control_frame *frame, const int *fds,
                  const struct cleat_worker_fault *fault)
{
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
    size_t bytes_count = 0;

    if (fault->drop || id == 0 || id != worker->current.id) { return; }
    frame->sequence = ++worker->current.sequence;
    if (cleat_control_encode(frame, bytes, &bytes_count) != CLEAT_OK) {
        return;
    }
    if (fault->corrupt) { bytes[bytes_count - 1] ^= 0x10u; }
    uint32_t times = fault->duplicate ? 2 : 1;
    for (uint32_t i = 0; i < times; i++) {
        uint64_t due_ns = cleat_time_add(cleat_linux_now_ns(), fault->delay_ns);
        if (fault->delay_ns > 0 && put_off(worker, due_ns, bytes, bytes_count,
                                           fds, frame->fds_count)) {
            continue;
        }
        (void)cleat_channel_send_bytes(worker->current.fd, bytes, bytes_count,
                                       fds, frame->fds_count);
    }
    if (fault->delay_ns > 0) { poke(worker); }
}

/* ---- what arrives
 * ------------------------------------------------------------ */

static bool is_same_command(const struct cleat_control_frame *a,
                            const struct cleat_control_frame *b)
{
    return a->kind == b->kind && a->term == b->term && a->epoch == b->epoch &&
           a->body.command.step == b->body.command.step;
}

/* A step that is sent again and again waits here but once. */
static bool waits_already(const struct cleat_worker *worker,
                          const struct cleat_control_frame *frame)
{
    if (frame->kind != CLEAT_CONTROL_COMMAND ||
        !cleat_sync_step_idempotent(frame->body.command.step)) {
        return false;
    }
    for (uint32_t i = 0; i < worker->arrivals_count; i++) {
        uint32_t at = (worker->arrivals_first + i) % ARRIVALS_MAX;
        const struct arrival *arrival = &worker->arrivals[at];
        if (arrival->channel_id == worker->current.id &&
            is_same_command(&arrival->packet.frame, frame)) {
            return true;
        }
    }
    return false;
}

static struct arrival *arrival_at(struct cleat_worker *worker, uint32_t i)
{
    return &worker->arrivals[(worker->arrivals_first + i) % ARRIVALS_MAX];
}

/* Which of those that wait is a START; arrivals_count: none. */
static uint32_t find_start(struct cleat_worker *worker)
{
    uint32_t i = 0;

    while (i < worker->arrivals_count &&
           arrival_at(worker, i)->packet.frame.kind != CLEAT_CONTROL_START) {
        i++;
    }
    return i;
}

/* Keeps the packet for the host's thread. Of STARTs the newest counts, and
 * takes the place of one that waits; so there is room for one always. A command
 * without room is one lost on the way. */
static void keep(struct cleat_worker *worker,
                 struct cleat_channel_packet *packet)
{
    bool start = packet->frame.kind == CLEAT_CONTROL_START;
    uint32_t at = find_start(worker);
    bool one_waits = at < worker->arrivals_count;
    uint32_t commands = worker->arrivals_count - (one_waits ? 1 : 0);

    if (!start &&
        (commands == COMMANDS_MAX || waits_already(worker, &packet->frame))) {
        cleat_channel_packet_close(packet);
        return;
    }
    if (start && one_waits) {
        cleat_channel_packet_close(&arrival_at(worker, at)->packet);
    } else {
        at = worker->arrivals_count++;
    }
    struct arrival *kept = arrival_at(worker, at);
    kept->channel_id = worker->current.id;
    kept->received_ns = cleat_linux_now_ns();
    kept->packet = *packet;
    (void)pthread_cond_broadcast(&worker->control);
}

static bool take(struct cleat_worker *worker, struct arrival *arrival)
{
    if (worker->arrivals_count == 0) { return false; }
    *arrival = worker->arrivals[worker->arrivals_first];
    worker->arrivals_first = (worker->arrivals_first + 1) % ARRIVALS_MAX;
    worker->arrivals_count--;
    return true;
}

/* A START that came while another was carried out asks the same, and that one's
 * answer is asked for no more: this one is answered instead. */
static void take_newer_start(struct cleat_worker *worker,
                             struct arrival *arrival)
{
    uint32_t at = find_start(worker);

    if (at == worker->arrivals_count) { return; }
    cleat_channel_packet_close(&arrival->packet);
    *arrival = *arrival_at(worker, at);
    worker->arrivals_count--;
    for (; at < worker->arrivals_count; at++) {
        *arrival_at(worker, at) = *arrival_at(worker, at + 1);
    }
}

/* A command has arrived: does it end the attempt under way? That is known
 * before its turn has come. */
static void note_command(struct cleat_worker *worker,
                         const struct cleat_control_frame *frame)
{
    enum cleat_sync_step step = frame->body.command.step;

    if (cleat_rules_below(worker->seen_term, worker->seen_epoch, frame->term,
                          frame->epoch)) {
        worker->seen_term = frame->term;
        worker->seen_epoch = frame->epoch;
    }
    if ((step == CLEAT_SYNC_FINALIZE || step == CLEAT_SYNC_FENCE) &&
        cleat_rules_below(worker->ended_term, worker->ended_epoch, frame->term,
                          frame->epoch)) {
        worker->ended_term = frame->term;
        worker->ended_epoch = frame->epoch;
    }
}

/* The host's callbacks of an attempt may be waiting for something. */
static void interrupt_if_cancelled(struct cleat_worker *worker)
{
    if (worker->rules.stage == CLEAT_RULES_IDLE || !is_cancelled(worker)) {
        return;
    }
    unlock(worker);
    interrupt_host(worker);
    lock(worker);
}

/* Where the queue of those who knock is full there is somebody: the time until
 * that changes counts as little as that of a channel. */
static void note_crowd(struct cleat_worker *worker, bool crowded,
                       uint64_t now_ns)
{
    if (crowded == worker->crowded) { return; }
    worker->crowded = crowded;
    if (crowded) {
        worker->crowded_since_ns = now_ns;
        return;
    }
    worker->orphan_deadline_ns = cleat_time_add(
        worker->orphan_deadline_ns, now_ns - worker->crowded_since_ns);
    (void)pthread_cond_broadcast(&worker->control);
}

static void install(struct cleat_worker *worker, struct channel channel,
                    uint64_t now_ns)
{
    worker->current = channel;
    worker->current.since_ns = now_ns;
    note_crowd(worker, false, now_ns);
    if (worker->path[0] == '\0') { worker->obeyed = true; }
    worker->ask_due_ns = 0;
    worker->stats_due_ns = 0;
    update_gate(worker);
    (void)pthread_cond_broadcast(&worker->control);
}

static struct channel new_channel(struct cleat_worker *worker, int fd)
{
    return (struct channel){.fd = fd, .id = ++worker->channels};
}

static const struct channel no_channel = {.fd = -1};

/* The other end sees it at once, also where a process that the host has forked
 * holds a copy of the descriptor. */
static void end_channel(struct channel *channel)
{
    if (channel->fd >= 0) { (void)shutdown(channel->fd, SHUT_RDWR); }
    cleat_linux_close(&channel->fd);
    *channel = no_channel;
}

static void wait_anew(struct cleat_worker *worker, uint64_t now_ns)
{
    worker->orphan_deadline_ns = cleat_time_add(now_ns,
                                                worker->orphan_timeout_ns);
}

/* The present channel ends: how long it may take until there is a next one. It
 * is all the time again where a coordinator was there, however long that was,
 * as long as a start takes; where nobody spoke, it is what was left when the
 * channel began, for it has stood in a queue; and who was sent away has what is
 * left since it was first told so. */
static void become_orphan(struct cleat_worker *worker, uint64_t now_ns)
{
    const struct channel *lost = &worker->current;

    if (lost->refused) { return; }
    if (lost->heard || worker->path[0] == '\0') {
        wait_anew(worker, now_ns);
        worker->sent_away.status = CLEAT_OK;
        return;
    }
    worker->orphan_deadline_ns = cleat_time_add(worker->orphan_deadline_ns,
                                                now_ns - lost->since_ns);
}

/* The present channel has ended, or is given up for the one on offer. */
static void lose_channel(struct cleat_worker *worker)
{
    uint64_t now_ns = cleat_linux_now_ns();

    become_orphan(worker, now_ns);
    end_channel(&worker->current);
    worker->connect_due_ns = cleat_time_add(now_ns, CONNECT_NS);
    cleat_lease_drop(&worker->lease);
    atomic_store(&worker->lease_end_ns, 0);
    worker->ask_ns = ASK_FIRST_NS;
    cleat_rules_orphaned(&worker->rules);
    worker->orphaned = true;
    update_gate(worker);
    (void)pthread_cond_broadcast(&worker->control);
    (void)pthread_cond_broadcast(&worker->left);
    if (worker->offered.fd >= 0) {
        struct channel next = worker->offered;
        worker->offered = no_channel;
        install(worker, next, now_ns);
    }
    interrupt_if_cancelled(worker);
}

/* Only who takes part is given commands and leases. */
static void note_taken(struct cleat_worker *worker)
{
    worker->obeyed = true;
    worker->current.heard = true;
    worker->current.refused = false;
    worker->sent_away.status = CLEAT_OK;
}

static void hear_grant(struct cleat_worker *worker,
                       const struct cleat_control_lease *grant)
{
    note_taken(worker);
    if (!cleat_lease_granted(&worker->lease, grant->counter, grant->lease_ns)) {
        return;
    }
    atomic_store(&worker->lease_end_ns, worker->lease.end_ns);
    worker->ask_ns = grant->lease_ns / 3;
    if (worker->ask_ns < ASK_LEAST_NS) { worker->ask_ns = ASK_LEAST_NS; }
    /* When the last ask was sent this was not known yet. */
    uint64_t due_ns = cleat_time_add(cleat_linux_now_ns(), worker->ask_ns);
    worker->ask_due_ns = cleat_linux_min(worker->ask_due_ns, due_ns);
}

/* The job is over, or goes on without this worker. A place that is taken may
 * be free again soon: it may be another's who has just ended. */
static void hear_close(struct cleat_worker *worker,
                       const struct cleat_control_close *close)
{
    if (close->status == CLEAT_OK) {
        worker->ended = true;
    } else {
        if (worker->sent_away.status == CLEAT_OK) {
            wait_anew(worker, cleat_linux_now_ns());
        }
        worker->current.refused = true;
        worker->sent_away = *close;
        worker->unwanted = close->status != CLEAT_EXISTS;
    }
    update_gate(worker);
    (void)pthread_cond_broadcast(&worker->control);
    (void)pthread_cond_broadcast(&worker->left);
    interrupt_if_cancelled(worker);
}

static void hear(struct cleat_worker *worker,
                 struct cleat_channel_packet *packet)
{
    switch (packet->frame.kind) {
    case CLEAT_CONTROL_START:
        worker->current.heard = true;
        keep(worker, packet);
        return;
    case CLEAT_CONTROL_COMMAND:
        note_taken(worker);
        note_command(worker, &packet->frame);
        keep(worker, packet);
        interrupt_if_cancelled(worker);
        return;
    case CLEAT_CONTROL_LEASE_GRANT:
        hear_grant(worker, &packet->frame.body.lease);
        break;
    case CLEAT_CONTROL_CLOSE:
        hear_close(worker, &packet->frame.body.close);
        break;
    default: break; /* what only a worker says */
    }
    cleat_channel_packet_close(packet);
}

static void read_current(struct cleat_worker *worker)
{
    struct cleat_channel_packet packet;
    uint64_t id = worker->current.id;

    for (uint32_t i = 0; i < PACKETS_AT_ONCE; i++) {
        if (worker->current.fd < 0 || worker->current.id != id) { return; }
        enum cleat_status status = cleat_channel_receive(worker->current.fd,
                                                         &packet);
        if (status == CLEAT_PENDING) { return; }
        if (status == CLEAT_PEER_LOST) {
            lose_channel(worker);
            return;
        }
        if (status == CLEAT_OK) { hear(worker, &packet); }
    }
}

static void fill_hello(const struct cleat_worker *worker,
                       const struct cleat_control_frame *start,
                       enum cleat_status status,
                       struct cleat_control_frame *frame)
{
    memset(frame, 0, sizeof *frame);
    frame->kind = CLEAT_CONTROL_HELLO;
    frame->term = start->term;
    frame->epoch = start->epoch;
    frame->body.hello.start_sequence = start->sequence;
    frame->body.hello.status = status;
    frame->body.hello.member = worker->member;
    frame->body.hello.hello.term_seen = worker->rules.term;
    frame->body.hello.hello.version = worker->rules.version;
    frame->body.hello.hello.holding = (uint32_t)worker->rules.holding;
    frame->body.hello.hello.pid = (uint32_t)getpid();
    frame->body.hello.hello.layout = worker->layout;
}

static void fill_answer(const struct cleat_worker *worker,
                        const struct cleat_worker_command *command,
                        enum cleat_status status, uint32_t digest,
                        struct cleat_control_frame *frame)
{
    struct cleat_worker_answer *answer = &frame->body.answer.answer;

    memset(frame, 0, sizeof *frame);
    frame->kind = CLEAT_CONTROL_ANSWER;
    frame->term = command->term;
    frame->epoch = command->epoch;
    answer->sync.step = command->step;
    answer->sync.member = command->member;
    answer->sync.status = status;
    answer->sync.holding = worker->rules.holding;
    answer->sync.version = worker->rules.version;
    answer->sync.digest = digest;
    answer->served = saturated(atomic_load(&worker->served));
    answer->torn_served = saturated(atomic_load(&worker->torn_served));
    answer->lease_end_ns = atomic_load(&worker->lease_end_ns);
}

static struct cleat_worker_command
as_command(const struct cleat_control_frame *frame, uint64_t received_ns)
{
    const struct cleat_control_command *in = &frame->body.command;

    return (struct cleat_worker_command){
        .step = in->step,
        .member = in->member,
        .attempt = in->attempt,
        .receiver_index = in->receiver_index,
        .receivers_count = in->receivers_count,
        .term = frame->term,
        .epoch = frame->epoch,
        .version = in->version,
        .deadline_ns = cleat_time_add(received_ns, in->timeout_ns)};
}

static struct cleat_sync_command
as_sync(const struct cleat_worker_command *command)
{
    return (struct cleat_sync_command){.step = command->step,
                                       .member = command->member,
                                       .attempt = command->attempt,
                                       .term = command->term,
                                       .epoch = command->epoch,
                                       .version = command->version,
                                       .deadline_ns = command->deadline_ns};
}

/* What the one on offer says. Its first command decides. */
static void hear_offered(struct cleat_worker *worker,
                         struct cleat_channel_packet *packet)
{
    struct cleat_control_frame frame;

    if (packet->frame.kind == CLEAT_CONTROL_START) {
        fill_hello(worker, &packet->frame, CLEAT_OK, &frame);
        send_frame(&worker->offered, &frame);
    } else if (packet->frame.kind == CLEAT_CONTROL_COMMAND &&
               packet->frame.term > worker->seen_term) {
        lose_channel(worker); /* which makes this the present one */
        hear(worker, packet);
        return;
    } else if (packet->frame.kind == CLEAT_CONTROL_COMMAND) {
        struct cleat_worker_command command = as_command(&packet->frame, 0);
        fill_answer(worker, &command, CLEAT_PEER_STALE, 0, &frame);
        send_frame(&worker->offered, &frame);
    } else if (packet->frame.kind == CLEAT_CONTROL_CLOSE) {
        end_channel(&worker->offered);
    }
    cleat_channel_packet_close(packet);
}

static void read_offered(struct cleat_worker *worker)
{
    struct cleat_channel_packet packet;
    uint64_t id = worker->offered.id;

    for (uint32_t i = 0; i < PACKETS_AT_ONCE; i++) {
        if (worker->offered.fd < 0 || worker->offered.id != id) { return; }
        enum cleat_status status = cleat_channel_receive(worker->offered.fd,
                                                         &packet);
        if (status == CLEAT_PENDING) { return; }
        if (status == CLEAT_PEER_LOST) {
            end_channel(&worker->offered);
            return;
        }
        if (status == CLEAT_OK) { hear_offered(worker, &packet); }
    }
}

/* ---- the io thread
 * ------------------------------------------------------------ */

/* A trainer that was given commands ends with its coordinator, and looks for no
 * other. */
static bool wants_to_connect(const struct cleat_worker *worker)
{
    return worker->path[0] != '\0' && !(worker->trainer && worker->obeyed);
}

static void connect_again(struct cleat_worker *worker, uint64_t now_ns)
{
    if (worker->current.fd >= 0 || !wants_to_connect(worker) ||
        is_over(worker) || now_ns < worker->connect_due_ns) {
        return;
    }
    worker->connect_due_ns = cleat_time_add(now_ns, CONNECT_NS);
    int fd = cleat_channel_connect(worker->path);
    note_crowd(worker, fd < 0 && errno == EAGAIN, now_ns);
    if (fd >= 0) { install(worker, new_channel(worker, fd), now_ns); }
}

/* Does what is due now; when something is due next. */
static uint64_t do_due(struct cleat_worker *worker)
{
    uint64_t now_ns = cleat_linux_now_ns();
    uint64_t due_ns = send_delayed(worker, now_ns);

    connect_again(worker, now_ns);
    if (worker->current.fd < 0) {
        return wants_to_connect(worker)
                   ? cleat_linux_min(due_ns, worker->connect_due_ns)
                   : due_ns;
    }
    if (worker->trainer) { return due_ns; }
    if (worker->ask_due_ns <= now_ns) {
        if (!is_half_full(&worker->current)) { send_ask(worker); }
        worker->ask_due_ns = cleat_time_add(now_ns, worker->ask_ns);
    }
    if (worker->stats_due_ns <= now_ns) {
        if (!is_half_full(&worker->current)) { send_stats(worker); }
        worker->stats_due_ns = cleat_time_add(now_ns, worker->stats_ns);
    }
    due_ns = cleat_linux_min(due_ns, worker->ask_due_ns);
    return cleat_linux_min(due_ns, worker->stats_due_ns);
}

/* Waits until a channel can be read, a poke, or due_ns. */
static void wait_for_something(struct cleat_worker *worker, uint64_t due_ns)
{
    struct pollfd fds[3] = {{.fd = worker->wake_fd, .events = POLLIN},
                            {.fd = worker->current.fd, .events = POLLIN},
                            {.fd = worker->offered.fd, .events = POLLIN}};
    uint64_t until_ns = cleat_linux_until(cleat_linux_now_ns(), due_ns);
    struct timespec timeout = cleat_linux_timespec(until_ns);
    uint64_t pokes = 0;

    unlock(worker);
    (void)ppoll(fds, 3, due_ns == CLEAT_NEVER ? NULL : &timeout, NULL);
    lock(worker);
    ssize_t got = read(worker->wake_fd, &pokes, sizeof pokes);
    (void)got; /* it does not block, and the number means nothing */
}

static void *io_main(void *argument)
{
    struct cleat_worker *worker = argument;

    lock(worker);
    while (!worker->closing) {
        wait_for_something(worker, do_due(worker));
        read_current(worker);
        read_offered(worker);
    }
    unlock(worker);
    return NULL;
}

/* ---- the data thread
 * ------------------------------------------------------------ */

static struct cleat_worker_fault
intercept(struct cleat_worker *worker, enum cleat_worker_moment moment,
          const struct cleat_worker_command *command, enum cleat_status status)
{
    struct cleat_worker_fault fault;

    memset(&fault, 0, sizeof fault);
    if (worker->host.intercept != NULL) {
        worker->host.intercept(worker->host.context, moment, command, status,
                               &fault);
    }
    return fault;
}

/* Answers a command, from the thread that has carried it out. */
static void answer_command(struct cleat_worker *worker, uint64_t id,
                           const struct cleat_worker_command *command,
                           enum cleat_status status, uint32_t digest,
                           const struct cleat_transport_ticket *ticket)
{
    struct cleat_control_frame frame;
    const int *fds = NULL;
    struct cleat_worker_fault fault = intercept(worker, CLEAT_WORKER_AFTER,
                                                command, status);

    lock(worker);
    fill_answer(worker, command, status, digest, &frame);
    if (ticket != NULL && status == CLEAT_OK) {
        frame.fds_count = ticket->fds_count;
        frame.body.answer.ticket_bytes_count = ticket->bytes_count;
        memcpy(frame.body.answer.ticket_bytes, ticket->bytes,
               ticket->bytes_count);
        fds = ticket->fds;
    }
    reply(worker, id, &frame, fds, &fault);
    unlock(worker);
}

static void move(struct cleat_worker *worker)
{
    struct cleat_worker_command command = worker->moving_command;
    uint64_t id = worker->moving_channel;
    enum cleat_status status = CLEAT_CANCELLED;
    uint32_t digest = 0;

    worker->handed = false;
    bool wanted = !is_cancelled(worker);
    unlock(worker);
    if (wanted && worker->host.transfer == NULL) {
        status = CLEAT_UNSUPPORTED;
    } else if (wanted) {
        status = worker->host.transfer(worker->host.context, &command, &digest);
    }
    lock(worker);
    struct cleat_sync_command sync = as_sync(&command);
    cleat_rules_after(&worker->rules, &sync, status);
    worker->moving = false;
    (void)pthread_cond_broadcast(&worker->idle);
    unlock(worker);
    answer_command(worker, id, &command, status, digest, NULL);
    lock(worker);
}

static void *data_main(void *argument)
{
    struct cleat_worker *worker = argument;

    lock(worker);
    while (!worker->closing) {
        if (worker->handed) {
            move(worker);
        } else {
            (void)pthread_cond_wait(&worker->work, &worker->lock);
        }
    }
    unlock(worker);
    return NULL;
}

/* ---- the host's thread
 * ------------------------------------------------------------ */

/* Ends the transfer, if one runs. CLEAT_OK, or CLEAT_DEADLINE when it does not
 * end. Called and returns with the lock. */
static enum cleat_status end_transfer(struct cleat_worker *worker,
                                      uint64_t deadline_ns)
{
    if (!worker->moving) { return CLEAT_OK; }
    unlock(worker);
    interrupt_host(worker);
    lock(worker);
    while (worker->moving &&
           cleat_linux_cond_wait(&worker->idle, &worker->lock, deadline_ns)) {}
    return worker->moving ? CLEAT_DEADLINE : CLEAT_OK;
}

/* Ends an attempt that no coordinator will finalize any more. Called and
 * returns with the lock. */
static enum cleat_status end_attempt(struct cleat_worker *worker)
{
    const struct cleat_rules *rules = &worker->rules;
    uint64_t deadline_ns = cleat_time_add(cleat_linux_now_ns(),
                                          worker->orphan_timeout_ns);

    enum cleat_status status = end_transfer(worker, deadline_ns);
    if (status != CLEAT_OK || rules->stage == CLEAT_RULES_IDLE) {
        return status;
    }
    struct cleat_worker_command command = {.step = CLEAT_SYNC_FINALIZE,
                                           .member = worker->member,
                                           .attempt = rules->attempt,
                                           .term = rules->attempt_term,
                                           .epoch = rules->attempt_epoch,
                                           .version = rules->attempt_version,
                                           .deadline_ns = deadline_ns};
    struct cleat_sync_command sync = as_sync(&command);
    unlock(worker);
    if (worker->host.finalize != NULL) {
        status = worker->host.finalize(worker->host.context, &command);
    }
    lock(worker);
    cleat_rules_after(&worker->rules, &sync, status);
    return status;
}

/* Waits until those who were admitted have left. */
static enum cleat_status wait_until_left(struct cleat_worker *worker,
                                         uint64_t id, uint64_t deadline_ns)
{
    while (!cleat_gate_is_empty(&worker->gate)) {
        if (is_over(worker) || worker->current.id != id) {
            return CLEAT_CANCELLED;
        }
        if (!cleat_linux_cond_wait(&worker->left, &worker->lock, deadline_ns) &&
            !cleat_gate_is_empty(&worker->gate)) {
            return CLEAT_DEADLINE;
        }
    }
    return CLEAT_OK;
}

typedef enum cleat_status host_fn(void *context,
                                  const struct cleat_worker_command *command);

static enum cleat_status call(struct cleat_worker *worker, host_fn *fn,
                              const struct cleat_worker_command *command)
{
    return fn == NULL ? CLEAT_OK : fn(worker->host.context, command);
}

static enum cleat_status
call_with_ticket(struct cleat_worker *worker,
                 const struct cleat_worker_command *command,
                 struct cleat_transport_ticket *ticket)
{
    enum cleat_status (*fn)(void *, const struct cleat_worker_command *,
                            struct cleat_transport_ticket *) =
        command->step == CLEAT_SYNC_PREPARE ? worker->host.prepare
                                            : worker->host.group;

    return fn == NULL ? CLEAT_OK : fn(worker->host.context, command, ticket);
}

/* The waiting that a step needs before the host's part. With the lock. */
static enum cleat_status
wait_for_step(struct cleat_worker *worker, uint64_t id,
              const struct cleat_worker_command *command)
{
    switch (command->step) {
    case CLEAT_SYNC_PAUSE:
    case CLEAT_SYNC_FENCE:
        return wait_until_left(worker, id, command->deadline_ns);
    case CLEAT_SYNC_FINALIZE: return end_transfer(worker, command->deadline_ns);
    default: return CLEAT_OK;
    }
}

/* The host's part of a step. Without the lock. */
static enum cleat_status do_step(struct cleat_worker *worker,
                                 const struct cleat_worker_command *command,
                                 bool pausing,
                                 struct cleat_transport_ticket *ticket)
{
    const struct cleat_worker_host *host = &worker->host;

    switch (command->step) {
    case CLEAT_SYNC_PAUSE: return call(worker, host->pause, command);
    case CLEAT_SYNC_RELEASE: return call(worker, host->release, command);
    case CLEAT_SYNC_PREPARE:
    case CLEAT_SYNC_GROUP: return call_with_ticket(worker, command, ticket);
    case CLEAT_SYNC_COMMIT: return call(worker, host->commit, command);
    case CLEAT_SYNC_FINALIZE: return call(worker, host->finalize, command);
    case CLEAT_SYNC_RESTORE: return call(worker, host->restore, command);
    case CLEAT_SYNC_RESUME:
        return pausing ? call(worker, host->resume, command) : CLEAT_OK;
    default: return CLEAT_OK;
    }
}

/* What becomes of the state by a step that was carried out. With the lock. */
static void note_step(struct cleat_worker *worker, uint64_t id,
                      const struct cleat_sync_command *sync,
                      enum cleat_status status)
{
    cleat_rules_after(&worker->rules, sync, status);
    if (worker->current.id != id) { cleat_rules_orphaned(&worker->rules); }
    if (sync->step == CLEAT_SYNC_COMMIT && status == CLEAT_OK) {
        atomic_store(&worker->version, sync->version);
        atomic_store(&worker->served, 0);
    }
    update_gate(worker);
}

/* Carries a command out, if the rules say so. False when the data thread has
 * it now and will answer. */
static bool carry_out(struct cleat_worker *worker, uint64_t id,
                      const struct cleat_worker_command *command,
                      struct cleat_transport_ticket *ticket,
                      enum cleat_status *status)
{
    struct cleat_sync_command sync = as_sync(command);

    lock(worker);
    /* What an earlier attempt has left, because its finalize failed. */
    if (command->step == CLEAT_SYNC_PREPARE &&
        cleat_rules_below(worker->rules.attempt_term,
                          worker->rules.attempt_epoch, command->term,
                          command->epoch)) {
        (void)end_attempt(worker);
    }
    /* It has waited its turn, and its coordinator is gone: it counts for
     * nothing any more, least of all a resume. */
    if (worker->current.id != id) {
        *status = CLEAT_CANCELLED;
        unlock(worker);
        return true;
    }
    bool pausing = worker->rules.pausing;
    enum cleat_rules_verdict verdict = cleat_rules_before(&worker->rules, &sync,
                                                          status);
    update_gate(worker);
    if (verdict == CLEAT_RULES_ANSWER) {
        unlock(worker);
        return true;
    }
    if (command->step == CLEAT_SYNC_PREPARE) { worker->attempt_channel = id; }
    if (command->step == CLEAT_SYNC_SEND) {
        worker->moving = true;
        worker->handed = true;
        worker->moving_channel = id;
        worker->moving_command = *command;
        (void)pthread_cond_signal(&worker->work);
        unlock(worker);
        return false;
    }
    *status = wait_for_step(worker, id, command);
    unlock(worker);
    if (*status == CLEAT_OK) {
        *status = do_step(worker, command, pausing, ticket);
    }
    lock(worker);
    /* A finalize that could not even begin leaves the attempt as it is. */
    note_step(worker, id, &sync, *status);
    unlock(worker);
    return true;
}

static void ask_now(struct cleat_worker *worker)
{
    lock(worker);
    worker->ask_due_ns = 0;
    unlock(worker);
    poke(worker);
}

static bool is_ticket(const struct cleat_transport_ticket *ticket)
{
    return ticket->bytes_count <= CLEAT_TRANSPORT_TICKET_BYTES &&
           ticket->fds_count <= CLEAT_TRANSPORT_TICKET_FDS;
}

static void handle_command(struct cleat_worker *worker, struct arrival *arrival)
{
    const struct cleat_control_command *in =
        &arrival->packet.frame.body.command;
    struct cleat_worker_command command = as_command(&arrival->packet.frame,
                                                     arrival->received_ns);
    struct cleat_transport_ticket ticket;
    bool answers = true;

    memset(&ticket, 0, sizeof ticket);
    memset(ticket.fds, 0xFF, sizeof ticket.fds); /* -1 */
    if (command.step == CLEAT_SYNC_GROUP) {
        ticket.bytes_count = in->ticket_bytes_count;
        memcpy(ticket.bytes, in->ticket_bytes, in->ticket_bytes_count);
        ticket.fds_count = arrival->packet.frame.fds_count;
        memcpy(ticket.fds, arrival->packet.fds, sizeof ticket.fds);
        memset(arrival->packet.fds, 0xFF, sizeof arrival->packet.fds);
    }
    enum cleat_status status =
        intercept(worker, CLEAT_WORKER_BEFORE, &command, CLEAT_OK).refuse;
    if (status == CLEAT_OK) {
        answers = carry_out(worker, arrival->channel_id, &command, &ticket,
                            &status);
    }
    if (command.step == CLEAT_SYNC_GROUP) {
        for (uint32_t i = 0; i < CLEAT_TRANSPORT_TICKET_FDS; i++) {
            cleat_linux_close(&ticket.fds[i]);
        }
    }
    if (!answers) { return; }
    bool carries = command.step == CLEAT_SYNC_PREPARE && is_ticket(&ticket);
    answer_command(worker, arrival->channel_id, &command, status, 0,
                   carries ? &ticket : NULL);
    if (command.step == CLEAT_SYNC_RESUME) { ask_now(worker); }
}

static void note_member(struct cleat_worker *worker,
                        const struct cleat_control_frame *start)
{
    if (start->body.start.member != CLEAT_SYNC_NOBODY) {
        worker->member = start->body.start.member;
    }
}

/* A START over this channel wants to know: is the host ready? It is asked again
 * but where it is, or has said to this coordinator that it will never be. */
static enum cleat_status start_host(struct cleat_worker *worker, uint64_t id)
{
    enum cleat_status last = worker->start_status;
    bool for_good = cleat_status_class(last) == CLEAT_CLASS_PERMANENT;

    if (last == CLEAT_OK || (for_good && worker->start_channel == id)) {
        return last;
    }
    worker->start_status = worker->host.start == NULL
                               ? CLEAT_OK
                               : worker->host.start(worker->host.context);
    return worker->start_status;
}

static void handle_start(struct cleat_worker *worker, struct arrival *arrival)
{
    const struct cleat_control_frame *start = &arrival->packet.frame;
    struct cleat_control_frame frame;
    struct cleat_worker_command command = {
        .step = CLEAT_SYNC_START, .term = start->term, .epoch = start->epoch};

    lock(worker);
    note_member(worker, start);
    command.member = worker->member;
    unlock(worker);
    enum cleat_status refused =
        intercept(worker, CLEAT_WORKER_BEFORE, &command, CLEAT_OK).refuse;
    enum cleat_status status = refused == CLEAT_OK
                                   ? start_host(worker, arrival->channel_id)
                                   : refused;
    struct cleat_worker_fault fault = intercept(worker, CLEAT_WORKER_AFTER,
                                                &command, status);
    lock(worker);
    take_newer_start(worker, arrival);
    note_member(worker, start);
    if (refused == CLEAT_OK) { worker->start_channel = arrival->channel_id; }
    fill_hello(worker, start, status, &frame);
    reply(worker, arrival->channel_id, &frame, NULL, &fault);
    unlock(worker);
}

static void handle(struct cleat_worker *worker, struct arrival *arrival)
{
    if (arrival->packet.frame.kind == CLEAT_CONTROL_START) {
        handle_start(worker, arrival);
    } else {
        handle_command(worker, arrival);
    }
    cleat_channel_packet_close(&arrival->packet);
}

/* A channel has ended: what came over it and was not begun is forgotten, what
 * was begun is ended. */
static void settle(struct cleat_worker *worker)
{
    struct arrival arrival;
    uint32_t count = worker->arrivals_count;

    worker->orphaned = false;
    for (uint32_t i = 0; i < count && take(worker, &arrival); i++) {
        if (arrival.channel_id != worker->current.id || is_over(worker)) {
            cleat_channel_packet_close(&arrival.packet);
            continue;
        }
        *arrival_at(worker, worker->arrivals_count++) = arrival;
    }
    (void)end_attempt(worker);
}

/* Is there nothing more to wait for? CLEAT_PENDING when there is; until when
 * at most. */
static enum cleat_status how_it_stands(const struct cleat_worker *worker,
                                       uint64_t *until_ns)
{
    *until_ns = CLEAT_NEVER;
    if (worker->stopped || worker->closing) { return CLEAT_CANCELLED; }
    if (worker->ended) { return CLEAT_OK; }
    if (worker->unwanted) { return worker->sent_away.status; }
    if (worker->current.fd >= 0 || worker->crowded) { return CLEAT_PENDING; }
    bool at_once = worker->trainer && worker->obeyed;
    if (at_once || cleat_linux_now_ns() >= worker->orphan_deadline_ns) {
        return worker->sent_away.status != CLEAT_OK ? worker->sent_away.status
                                                    : CLEAT_PEER_LOST;
    }
    *until_ns = worker->orphan_deadline_ns;
    return CLEAT_PENDING;
}

enum cleat_status cleat_worker_poll(struct cleat_worker *worker,
                                    uint64_t deadline_ns)
{
    struct arrival arrival;
    uint64_t until_ns = CLEAT_NEVER;
    enum cleat_status status = CLEAT_PENDING;

    lock(worker);
    for (;;) {
        if (worker->orphaned) {
            settle(worker);
            continue;
        }
        status = how_it_stands(worker, &until_ns);
        if (status != CLEAT_PENDING) {
            settle(worker);
            break;
        }
        if (take(worker, &arrival)) {
            unlock(worker);
            handle(worker, &arrival);
            lock(worker);
            continue;
        }
        if (cleat_linux_now_ns() >= deadline_ns) { break; }
        (void)cleat_linux_cond_wait(&worker->control, &worker->lock,
                                    cleat_linux_min(deadline_ns, until_ns));
    }
    unlock(worker);
    return status;
}

enum cleat_status cleat_worker_run(struct cleat_worker *worker)
{
    enum cleat_status status = CLEAT_PENDING;

    while (status == CLEAT_PENDING) {
        status = cleat_worker_poll(worker, CLEAT_NEVER);
    }
    return status;
}

/* `line` has CLEAT_ERROR_TEXT_MAX bytes. */
static void say_why(const struct cleat_control_close *why, uint32_t member,
                    uint32_t layout, char *line)
{
    switch (why->status) {
    case CLEAT_PEER_DEVIANT:
        (void)snprintf(line, CLEAT_ERROR_TEXT_MAX,
                       "its tensor table or bucket size (digest 0x%08" PRIx32
                       ") is not the job's (0x%08" PRIx32 ")",
                       layout, why->layout);
        break;
    case CLEAT_EXISTS:
        (void)snprintf(line, CLEAT_ERROR_TEXT_MAX,
                       "the job has a member %" PRIu32 " already", member);
        break;
    case CLEAT_NOT_FOUND:
        (void)snprintf(line, CLEAT_ERROR_TEXT_MAX,
                       "the job has no member %" PRIu32, member);
        break;
    default:
        (void)snprintf(line, CLEAT_ERROR_TEXT_MAX,
                       "the job does not want it: %s",
                       cleat_status_name(why->status));
        break;
    }
}

enum cleat_status cleat_worker_sent_away(struct cleat_worker *worker,
                                         struct cleat_error *error)
{
    char line[CLEAT_ERROR_TEXT_MAX];

    lock(worker);
    struct cleat_control_close why = worker->sent_away;
    uint32_t member = worker->member;
    unlock(worker);
    if (why.status == CLEAT_OK) { return CLEAT_OK; }
    say_why(&why, member, worker->layout, line);
    return cleat_error_set(error, why.status, member, 0, line);
}

/* Nothing is waited for any more, and nobody gets in. */
static void call_it_a_day(struct cleat_worker *worker, bool closing)
{
    lock(worker);
    worker->stopped = true;
    worker->closing = closing;
    update_gate(worker);
    (void)pthread_cond_broadcast(&worker->control);
    (void)pthread_cond_broadcast(&worker->left);
    (void)pthread_cond_broadcast(&worker->work);
    interrupt_if_cancelled(worker);
    unlock(worker);
    poke(worker);
}

void cleat_worker_stop(struct cleat_worker *worker)
{
    call_it_a_day(worker, false);
}

enum cleat_status cleat_worker_attach(struct cleat_worker *worker, int fd)
{
    enum cleat_status status = CLEAT_OK;

    if (!cleat_channel_is_one(fd)) { return CLEAT_INVALID; }
    lock(worker);
    if (worker->offered.fd >= 0) {
        status = CLEAT_NO_SLOT;
    } else if (!cleat_channel_take(fd)) {
        status = CLEAT_INVALID;
    } else if (worker->current.fd < 0) {
        install(worker, new_channel(worker, fd), cleat_linux_now_ns());
    } else {
        worker->offered = new_channel(worker, fd);
    }
    unlock(worker);
    poke(worker);
    return status;
}

/* ---- for serving threads and callbacks
 * ---------------------------------------------- */

/* The last one has left a closed gate. The lock, so that who looks and then
 * waits does not miss it. */
static void tell_left(struct cleat_worker *worker)
{
    lock(worker);
    (void)pthread_cond_broadcast(&worker->left);
    unlock(worker);
}

bool cleat_worker_admit(struct cleat_worker *worker, uint64_t *version)
{
    bool wake = false;
    bool in = cleat_gate_enter(&worker->gate, &wake);

    if (in && !cleat_lease_holds(atomic_load(&worker->lease_end_ns),
                                 lease_now(worker))) {
        in = false;
        wake = cleat_gate_leave(&worker->gate);
    }
    if (wake) { tell_left(worker); }
    if (in && version != NULL) { *version = atomic_load(&worker->version); }
    return in;
}

void cleat_worker_leave(struct cleat_worker *worker)
{
    if (cleat_gate_leave(&worker->gate)) { tell_left(worker); }
}

void cleat_worker_served(struct cleat_worker *worker, bool torn)
{
    (void)atomic_fetch_add(&worker->served, 1);
    if (torn) { (void)atomic_fetch_add(&worker->torn_served, 1); }
}

uint64_t cleat_worker_lease_end(const struct cleat_worker *worker)
{
    return atomic_load(&worker->lease_end_ns);
}

void cleat_worker_torn(struct cleat_worker *worker)
{
    lock(worker);
    cleat_rules_torn(&worker->rules);
    update_gate(worker);
    unlock(worker);
}

bool cleat_worker_cancelled(struct cleat_worker *worker)
{
    lock(worker);
    bool cancelled = is_cancelled(worker);
    unlock(worker);
    return cancelled;
}

enum cleat_sync_holding cleat_worker_holding(struct cleat_worker *worker,
                                             uint64_t *version)
{
    lock(worker);
    enum cleat_sync_holding holding = worker->rules.holding;
    if (version != NULL) { *version = worker->rules.version; }
    unlock(worker);
    return holding;
}

/* ---- beginning and end
 * ----------------------------------------------------------------- */

static enum cleat_status check_config(const struct cleat_worker_config *config,
                                      struct cleat_error *error)
{
    if (config == NULL || (config->role != CLEAT_WORKER_ENGINE &&
                           config->role != CLEAT_WORKER_TRAINER)) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "config: role must be engine or trainer");
    }
    if (config->socket_path != NULL) {
        size_t length = strnlen(config->socket_path,
                                CLEAT_CHANNEL_PATH_MAX + 1);
        if (length > CLEAT_CHANNEL_PATH_MAX) {
            return cleat_error_set(error, CLEAT_LIMIT, 3, 0,
                                   "socket_path is longer than 107 bytes");
        }
        if (length == 0) {
            return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                                   "socket_path is empty");
        }
    } else if (!cleat_channel_is_one(config->fd)) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "fd is not a connected SOCK_SEQPACKET Unix "
                               "socket");
    }
    return CLEAT_OK;
}

static void fill(struct cleat_worker *worker,
                 const struct cleat_worker_config *config)
{
    memset(worker, 0, sizeof *worker);
    worker->host = config->host;
    worker->trainer = config->role == CLEAT_WORKER_TRAINER;
    worker->lease_clock = config->lease_clock.now_ns != NULL
                              ? config->lease_clock
                              : cleat_linux_clock();
    worker->orphan_timeout_ns = config->orphan_timeout_ns != 0
                                    ? config->orphan_timeout_ns
                                    : ORPHAN_TIMEOUT_NS;
    worker->stats_ns = config->stats_ns != 0 ? config->stats_ns : STATS_NS;
    worker->member = config->member;
    worker->layout = config->layout;
    worker->ask_ns = ASK_FIRST_NS;
    worker->start_status = CLEAT_PENDING;
    wait_anew(worker, cleat_linux_now_ns());
    worker->rules.trainer = worker->trainer;
    worker->rules.holding = config->torn ? CLEAT_SYNC_TORN : CLEAT_SYNC_WHOLE;
    worker->rules.version = config->version;
    worker->rules.resumed = !config->closed;
    atomic_store(&worker->version, config->version);
    worker->wake_fd = -1;
    worker->current = no_channel;
    worker->offered = no_channel;
}

/* Locks, conditions and the descriptor that wakes; 0 or errno, and then none
 * is left. */
static int make_waits(struct cleat_worker *worker)
{
    pthread_cond_t *conds[] = {&worker->control, &worker->left, &worker->work,
                               &worker->idle};
    uint32_t made = 0;
    int code = 0;

    while (made < 4 && code == 0) {
        code = cleat_linux_cond_init(conds[made]);
        if (code == 0) { made++; }
    }
    if (code == 0) {
        worker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (worker->wake_fd < 0) { code = errno; }
    }
    if (code == 0) { code = pthread_mutex_init(&worker->lock, NULL); }
    if (code != 0) {
        cleat_linux_close(&worker->wake_fd);
        while (made > 0) { (void)pthread_cond_destroy(conds[--made]); }
    }
    return code;
}

static void unmake_waits(struct cleat_worker *worker)
{
    cleat_linux_close(&worker->wake_fd);
    (void)pthread_cond_destroy(&worker->control);
    (void)pthread_cond_destroy(&worker->left);
    (void)pthread_cond_destroy(&worker->work);
    (void)pthread_cond_destroy(&worker->idle);
    (void)pthread_mutex_destroy(&worker->lock);
}

static int start_threads(struct cleat_worker *worker)
{
    int code = cleat_linux_thread_start(&worker->data, data_main, worker);

    if (code != 0) { return code; }
    code = cleat_linux_thread_start(&worker->io, io_main, worker);
    if (code != 0) {
        call_it_a_day(worker, true);
        (void)pthread_join(worker->data, NULL);
    }
    return code;
}

enum cleat_status cleat_worker_init(void *block, size_t bytes,
                                    const struct cleat_worker_config *config,
                                    struct cleat_worker **out,
                                    struct cleat_error *error)
{
    if (out == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 4, 0, "out is NULL");
    }
    *out = NULL;
    enum cleat_status status = cleat_linux_block_check(
        block, bytes, CLEAT_WORKER_BYTES, error);
    if (status == CLEAT_OK) { status = check_config(config, error); }
    if (status != CLEAT_OK) { return status; }

    struct cleat_worker *worker = block;
    fill(worker, config);
    int code = make_waits(worker);
    if (code != 0) {
        return cleat_linux_io_error(error, code, 0, "making a worker");
    }
    if (config->socket_path != NULL) {
        memcpy(worker->path, config->socket_path, strlen(config->socket_path));
    } else if (!cleat_channel_take(config->fd)) {
        code = errno;
    } else {
        install(worker, new_channel(worker, config->fd), cleat_linux_now_ns());
    }
    if (code == 0) { code = start_threads(worker); }
    if (code != 0) {
        unmake_waits(worker);
        return cleat_linux_io_error(error, code, 0, "making a worker");
    }
    *out = worker;
    return CLEAT_OK;
}

void cleat_worker_close(struct cleat_worker *worker)
{
    struct arrival arrival;

    if (worker == NULL || worker->wake_fd < 0) { return; }
    call_it_a_day(worker, true);
    (void)pthread_join(worker->io, NULL);
    (void)pthread_join(worker->data, NULL);
    while (take(worker, &arrival)) {
        cleat_channel_packet_close(&arrival.packet);
    }
    for (uint32_t i = 0; i < DELAYED_MAX; i++) {
        drop_delayed(&worker->delayed[i]);
    }
    end_channel(&worker->current);
    end_channel(&worker->offered);
    unmake_waits(worker);
}
