/* Cleat: one weight update over NCCL: the machine of `sync` and the machines
 * that leave groups, together. SPDX-License-Identifier: Apache-2.0
 *
 * A trainer and two engines, a process each. The real machine of cleat/sync.h
 * commands them; what a worker does with a command is decided by the real rules
 * of port/linux; and their group, send and finalize go through the ends of
 * nccl_ends.h, each over a real machine of port/nccl/stop.h. Calls of the
 * library fail, leave groups open, are late or never return; a process dies or
 * stands still; a device's streams never run dry; a bucket comes damaged; the
 * caller cancels. Several updates are made one after the other, so that groups
 * are kept, and processes that are gone are replaced. What may go wrong on a
 * control channel is sync_model's.
 *
 * One step of this model is one move of one thread, or one jump of time to the
 * next moment at which anything is due. Time goes on only when nobody has
 * anything to do at once: who is slow has been stopped, or its call has. */
#include <stdlib.h>

#include "cleat/sync.h"
#include "nccl_ends.h"
#include "port/linux/rules.h"

enum {
    MEMBERS_MAX = NCCL_ENDS,
    REPLICAS_MAX = NCCL_RECEIVERS,
    INBOX_MAX = 12,
    CLOSE = CLEAT_SYNC_START /* never commanded: the process is to end */
};

enum mark {
    MARK_COMMITTED,
    MARK_ROLLED_BACK,
    MARK_DEGRADED, /* with one engine RESTART */
    MARK_LOST_NAMED = NCCL_SEEN_COUNT,
    MARK_REPLACED,
    MARK_NEW_TRAINER,
    MARK_WOKEN,
    MARK_FREED,
    MARK_NOT_FREED
};

static const char *const reaches_outcomes[] = {"COMMITTED", "ROLLED_BACK",
                                               "DEGRADED", NULL};

static const char *const reaches_all[] = {
    "COMMITTED",
    "ROLLED_BACK",
    "RESTART",
    "revoked and then aborted",
    "a call that does not return",
    "an abort that does not return",
    "a sticky error",
    "open groups are ended",
    "a group is kept for the next update",
    "a group is formed after another was left",
    "a kept group is not the newcomer's",
    "a peer is found to be gone",
    "no build is left",
    "a lost device is named",
    "an engine is replaced",
    "a trainer is replaced",
    "who stood still wakes",
    "a process ends and frees everything",
    "a process ends and frees nothing",
    NULL};

/* Zero is the default where one is told. */
struct setting {
    uint64_t group_ns; /* the step's time; default 14 */
    uint64_t start_ns; /* default 100 */
    uint32_t builds_max;
    uint32_t can_revoke;
    uint8_t faults;
    uint8_t rounds;       /* updates; in the last one nothing new goes wrong */
    uint8_t replicas;     /* default 2 */
    uint8_t replicas_min; /* default 1 */
    uint8_t attempts_max; /* default 3 */
    bool times_end;       /* time ends before all is done */
};

/* A command, and what the port puts beside it. */
struct order {
    struct cleat_sync_command command;
    struct nccl_ticket ticket;
    uint8_t receivers_count;
    uint8_t index;
};

struct process {
    struct cleat_rules rules;
    struct order at; /* what its caller's thread is at */
    struct order inbox[INBOX_MAX];
    uint64_t since_ns; /* … since when */
    uint8_t inbox_count;
    uint8_t busy;
    uint8_t notice;    /* it has died, and that is not told yet */
    uint8_t struck;    /* it was not well when the update began, or since */
    uint8_t out;       /* it was dead when the update began */
    uint8_t told_lost; /* it has said in this update that its device is lost */
    uint64_t asked;    /* the epoch of the last prepare that was sent */
};

struct world {
    struct setting filled;
    const struct setting *set; /* that */
    struct cleat_sync *sync;
    struct nccl_ends ends;
    struct process process[MEMBERS_MAX];
    struct nccl_ticket ticket; /* what the trainer said to prepare */
    uint64_t begun_ns;
    uint64_t worst_ns;  /* the steps so far, each with its whole time */
    uint32_t seen_step; /* to see it change */
    uint8_t named;      /* bit m: an error names member m as lost */
    uint8_t gone;       /* bit m: member m was lost in this update */
    uint8_t limit;      /* somebody has no build left */
    uint8_t round;
    uint8_t version_old;
    uint8_t version_new;
    uint8_t rested; /* the outcome was looked at */
    uint8_t closing;
    _Alignas(64) unsigned char block[CLEAT_SYNC_BYTES(1, REPLICAS_MAX, 1)];
};

static uint64_t step_ns(const struct setting *set, uint32_t step)
{
    switch (step) {
    case CLEAT_SYNC_PREPARE: return 20;
    case CLEAT_SYNC_GROUP: return set->group_ns;
    case CLEAT_SYNC_SEND: return 16;
    case CLEAT_SYNC_FINALIZE: return 12;
    default: return 10;
    }
}

static struct cleat_sync_config config_of(const struct setting *set)
{
    struct cleat_sync_config config;

    memset(&config, 0, sizeof config);
    config.trainers = 1;
    config.replicas = set->replicas;
    config.workers = 1;
    config.replicas_min = set->replicas_min;
    config.attempts_max = set->attempts_max;
    config.retry_ns = CLEAT_NONE; /* no frame is lost here */
    for (uint32_t s = CLEAT_SYNC_PAUSE; s < CLEAT_SYNC_STEPS; s++) {
        config.step_ns[s] = step_ns(set, s);
    }
    return config;
}

static uint32_t members(const struct world *w)
{
    return 1u + w->set->replicas;
}

static bool is_over(const struct world *w)
{
    return cleat_sync_outcome(w->sync) != CLEAT_SYNC_NOT_YET;
}

static const struct cleat_sync_member *member_at(const struct world *w,
                                                 uint32_t i)
{
    return (const struct cleat_sync_member *)(const void *)(w->sync + 1) + i;
}

static enum cleat_sync_replica_state replica_state(const struct world *w,
                                                   uint32_t i)
{
    return cleat_sync_replica_state(w->sync, i - 1);
}

static bool is_well(const struct world *w, uint32_t i)
{
    const struct nccl_end *e = &w->ends.end[i];

    return e->dead == 0 && e->stopped == 0 && e->lost == 0 &&
           w->process[i].struck == 0;
}

/* ---- what must be true of an update ---- */

static void name_errors(struct world *w)
{
    struct cleat_sync_error error;

    w->named = 0;
    for (uint32_t i = 0; cleat_sync_error_at(w->sync, i, &error) == CLEAT_OK;
         i++) {
        if (error.member < members(w) && (error.status == CLEAT_DEVICE_LOST ||
                                          error.status == CLEAT_PEER_LOST)) {
            w->named |= (uint8_t)(1u << error.member);
        }
    }
}

/* In the last update nothing goes wrong any more: all that are well serve the
 * new version, whatever has become of the others. */
static void check_progress(struct choose *c, const struct world *w)
{
    enum cleat_sync_outcome outcome = cleat_sync_outcome(w->sync);
    uint32_t well = 0;
    bool all_well = true;

    if (w->round != w->set->rounds || w->limit != 0 || w->set->times_end ||
        !is_well(w, 0)) {
        return;
    }
    for (uint32_t i = 1; i < members(w); i++) {
        well += is_well(w, i) ? 1u : 0u;
        all_well = all_well && (is_well(w, i) || w->process[i].out != 0);
    }
    if (well < w->set->replicas_min) { return; }
    choose_check(
        c, outcome == CLEAT_SYNC_COMMITTED || outcome == CLEAT_SYNC_DEGRADED,
        "healthy-survivors-commit");
    choose_check(c, !all_well || w->ends.now_ns == w->begun_ns,
                 "nobody-waits-for-a-deadline-while-all-are-well");
    for (uint32_t i = 1; i < members(w); i++) {
        choose_check(
            c, !is_well(w, i) || replica_state(w, i) == CLEAT_SYNC_SERVING,
            "healthy-survivors-commit");
    }
}

static void mark_outcome(struct choose *c, const struct world *w,
                         enum cleat_sync_outcome outcome)
{
    bool third = outcome == CLEAT_SYNC_DEGRADED ||
                 (outcome == CLEAT_SYNC_RESTART && w->set->replicas == 1);

    if (outcome == CLEAT_SYNC_COMMITTED) { choose_mark(c, MARK_COMMITTED); }
    if (outcome == CLEAT_SYNC_ROLLED_BACK) { choose_mark(c, MARK_ROLLED_BACK); }
    if (third) { choose_mark(c, MARK_DEGRADED); }
}

static void check_rest(struct choose *c, struct world *w)
{
    enum cleat_sync_outcome outcome = cleat_sync_outcome(w->sync);

    mark_outcome(c, w, outcome);
    choose_note(c, "[%llu] rest: %s", (unsigned long long)w->ends.now_ns,
                cleat_sync_outcome_name(outcome));
    for (uint32_t i = 0; i < members(w); i++) {
        bool lost = w->process[i].told_lost != 0 || (w->gone >> i & 1u) != 0;

        if (lost) { choose_mark(c, MARK_LOST_NAMED); }
        choose_check(c, !lost || (w->named >> i & 1u) != 0,
                     "who-is-lost-is-named");
        choose_check(c,
                     i == 0 || w->process[i].told_lost == 0 ||
                         replica_state(w, i) != CLEAT_SYNC_SERVING,
                     "who-is-lost-is-named");
    }
    choose_check(c,
                 outcome == CLEAT_SYNC_COMMITTED ||
                     cleat_sync_errors_count(w->sync) > 0 || w->round > 1,
                 "every-fault-schedule-ends-committed-or-says-why");
    check_progress(c, w);
    w->rested = 1;
}

static void after_call(struct choose *c, struct world *w)
{
    const struct cleat_sync *sync = w->sync;
    struct cleat_sync_config config = config_of(w->set);
    uint32_t seen = (uint32_t)sync->step | sync->attempt << 8 |
                    (uint32_t)sync->undone << 16 | (uint32_t)sync->doomed << 17;

    if (seen != w->seen_step) {
        w->seen_step = seen;
        if (sync->step != CLEAT_SYNC_STEPS) {
            w->worst_ns += step_ns(w->set, sync->step);
        }
    }
    name_errors(w);
    choose_check(
        c,
        w->worst_ns <= cleat_sync_bound_ns(&config) &&
            (w->rested != 0 || w->ends.now_ns - w->begun_ns <= w->worst_ns),
        "never-hangs-past-its-bound");
    if (is_over(w) && w->rested == 0) { check_rest(c, w); }
}

/* Once every bucket is verified: whoever has part in it and lives is in this
 * one group, or in none any more. */
static void check_commit(struct choose *c, const struct world *w)
{
    for (uint32_t i = 0; i < members(w); i++) {
        const struct nccl_end *e = &w->ends.end[i];
        bool part = i == 0 || replica_state(w, i) == CLEAT_SYNC_ACTIVE;

        if (!part || e->dead != 0 || e->stopped != 0 || e->lost != 0) {
            continue;
        }
        choose_check(c, e->comm == 0 || e->comm == w->ticket.group.epoch,
                     "all-survivors-leave-the-old-group");
    }
}

/* Who says that it is in the group is in this one, and all have met. */
static void check_grouped(struct choose *c, const struct world *w, uint32_t i,
                          uint32_t epoch)
{
    const struct nccl_end *e = &w->ends.end[i];

    choose_check(c, e->comm == epoch && e->met != 0, "one-epoch-at-a-time");
}

/* A finalize was carried out: who has not seen its generation end cleanly, by
 * what was really acknowledged, is not in its group any more. */
static void check_finalized(struct choose *c, const struct world *w, uint32_t i)
{
    const struct nccl_control *control = &w->ends.control;
    const struct nccl_end *e = &w->ends.end[i];
    bool in = e->machine.state == CLEAT_NCCL_HEALTHY ||
              e->machine.state == CLEAT_NCCL_BUILDING;
    bool clean = control->published != 0;

    if (!in || e->generation != control->generation) { return; }
    for (uint32_t r = 0; r < control->receivers_count; r++) {
        if (i == 0 || r == e->index) {
            clean = clean && control->ack[r] == ACK_GOOD;
        }
    }
    /* A group of before that it was not asked about. */
    if (i != 0 && e->machine.epoch != w->ticket.group.epoch) { return; }
    choose_check(c, clean, "all-survivors-leave-the-old-group");
}

/* How long a caller's step may take. */
static void check_process(struct choose *c, const struct world *w, uint32_t i)
{
    const struct process *p = &w->process[i];
    const struct cleat_nccl_stop_config *config = &w->ends.config;
    uint64_t now = w->ends.now_ns;
    uint64_t until = p->at.command.deadline_ns;

    if (p->busy == 0 || w->ends.end[i].stopped != 0) { return; }
    switch ((uint32_t)p->at.command.step) {
    /* What is inside comes back, a group left open is ended, the id is made. */
    case CLEAT_SYNC_PREPARE: until = p->since_ns + 4 * config->call_ns; break;
    case CLEAT_SYNC_FINALIZE: until = p->since_ns + config->call_ns; break;
    case CLOSE:
        until = p->since_ns + cleat_nccl_stop_bound_ns(config) +
                config->call_ns;
        break;
    default: break;
    }
    choose_check(c, now <= until || p->since_ns > until,
                 "never-hangs-past-its-bound");
}

/* ---- a worker ---- */

/* An attempt is over for whoever is at it: its finalize has come, or something
 * newer (port/linux/worker.c: is_cancelled). */
static bool is_cancelled(const struct process *p)
{
    const struct cleat_sync_command *at = &p->at.command;
    bool cancelled = false;

    for (uint32_t i = 0; i < p->inbox_count; i++) {
        const struct cleat_sync_command *next = &p->inbox[i].command;

        cancelled = cancelled || (uint32_t)next->step == CLOSE ||
                    next->step == CLEAT_SYNC_FINALIZE ||
                    cleat_rules_below(at->term, at->epoch, next->term,
                                      next->epoch);
    }
    return cancelled;
}

static enum cleat_status group_step(struct choose *c, struct nccl_ends *ends,
                                    const struct process *p, uint32_t i,
                                    bool begins)
{
    uint64_t deadline_ns = p->at.command.deadline_ns;
    enum cleat_status status = i == 0 ? nccl_sender_group(c, ends, deadline_ns)
                                      : nccl_receiver_join(
                                            c, ends, i, &p->at.ticket,
                                            p->at.index, begins, deadline_ns);

    return status == CLEAT_PENDING && is_cancelled(p) ? CLEAT_CANCELLED
                                                      : status;
}

static enum cleat_status send_step(struct choose *c, struct nccl_ends *ends,
                                   const struct process *p, uint32_t i,
                                   bool begins)
{
    uint64_t deadline_ns = p->at.command.deadline_ns;
    enum cleat_status status =
        i == 0 ? nccl_sender_send(c, ends, begins, deadline_ns)
               : nccl_receiver_receive(c, ends, i, deadline_ns);

    if (status == CLEAT_PENDING && is_cancelled(p)) {
        if (i != 0) { nccl_receiver_gives_up(ends, i); }
        return CLEAT_CANCELLED;
    }
    return status;
}

/* Carries on with what it is at. CLEAT_PENDING: not done yet. */
static enum cleat_status carry_on(struct choose *c, struct nccl_ends *ends,
                                  const struct process *p, uint32_t i,
                                  bool begins, struct nccl_ticket *ticket)
{
    enum cleat_status status = CLEAT_OK;

    switch ((uint32_t)p->at.command.step) {
    case CLEAT_SYNC_PREPARE:
        if (i == 0) {
            status = nccl_sender_prepare(c, ends, (uint32_t)p->at.command.epoch,
                                         p->at.receivers_count, begins, ticket);
        }
        break;
    case CLEAT_SYNC_GROUP: status = group_step(c, ends, p, i, begins); break;
    case CLEAT_SYNC_SEND: status = send_step(c, ends, p, i, begins); break;
    case CLEAT_SYNC_FINALIZE:
        if (i == 0) {
            status = nccl_sender_finish(c, ends, begins);
        } else {
            nccl_receiver_leave(c, ends, i);
        }
        break;
    case CLOSE:
        if (begins && i != 0) { nccl_receiver_leave(c, ends, i); }
        status = nccl_end_close(c, ends, i);
        break;
    default: break;
    }
    /* port/local: a peer's trouble is this attempt's, not this worker's. */
    return cleat_status_band(status) == CLEAT_BAND_PEER ? CLEAT_GROUP_FAILED
                                                        : status;
}

/* The machine minds this answer: it waits for it, or the attempt that it
 * belongs to is being finalized. */
static bool is_heard(const struct world *w, uint32_t i,
                     const struct cleat_sync_command *command)
{
    const struct cleat_sync *sync = w->sync;

    if (is_over(w) || command->epoch != sync->epoch) { return false; }
    return (command->step == sync->step && member_at(w, i)->awaited) ||
           (sync->step == CLEAT_SYNC_FINALIZE && !sync->committing);
}

static void answer(struct choose *c, struct world *w, uint32_t i,
                   const struct cleat_sync_command *command,
                   enum cleat_status status)
{
    struct process *p = &w->process[i];
    struct cleat_sync_answer answer;

    memset(&answer, 0, sizeof answer);
    answer.step = command->step;
    answer.member = i;
    answer.term = command->term;
    answer.epoch = command->epoch;
    answer.status = status;
    answer.holding = p->rules.holding;
    answer.version = p->rules.version;
    choose_note(c, "[%llu] %u > %s epoch %llu: %s",
                (unsigned long long)w->ends.now_ns, i,
                cleat_sync_step_name(command->step),
                (unsigned long long)command->epoch, cleat_status_name(status));
    if (status == CLEAT_LIMIT) { w->limit = 1; }
    if (status == CLEAT_DEVICE_LOST && is_heard(w, i, command)) {
        p->told_lost = 1;
    }
    choose_check(
        c, cleat_sync_answered(w->sync, w->ends.now_ns, &answer) == CLEAT_OK,
        "an answer is taken");
    after_call(c, w);
}

static void closed(struct choose *c, struct world *w, uint32_t i)
{
    choose_mark(c, w->ends.end[i].freed != 0 ? MARK_FREED : MARK_NOT_FREED);
    choose_note(c, "[%llu] %u ends, %s", (unsigned long long)w->ends.now_ns, i,
                w->ends.end[i].freed != 0 ? "all is freed" : "nothing is");
    memset(w->process[i].inbox, 0, sizeof w->process[i].inbox);
    w->process[i].inbox_count = 0;
}

static void go_on(struct choose *c, struct world *w, uint32_t i, bool begins)
{
    struct process *p = &w->process[i];
    struct cleat_sync_command command = p->at.command;
    uint32_t epoch = p->at.ticket.group.epoch;
    struct nccl_ticket ticket;
    enum cleat_status status;

    memset(&ticket, 0, sizeof ticket);
    status = carry_on(c, &w->ends, p, i, begins, &ticket);
    if (status == CLEAT_PENDING) { return; }
    memset(&p->at, 0, sizeof p->at);
    p->busy = 0;
    p->since_ns = 0;
    if ((uint32_t)command.step == CLOSE) {
        closed(c, w, i);
        return;
    }
    cleat_rules_after(&p->rules, &command, status);
    if (command.step == CLEAT_SYNC_FINALIZE) { check_finalized(c, w, i); }
    if (command.step == CLEAT_SYNC_GROUP && status == CLEAT_OK) {
        check_grouped(c, w, i, epoch);
    }
    if (command.step == CLEAT_SYNC_PREPARE && i == 0 && status == CLEAT_OK &&
        command.epoch == w->sync->epoch) {
        w->ticket = ticket;
    }
    answer(c, w, i, &command, status);
}

/* Its caller's thread takes the next command. */
static void take(struct choose *c, struct world *w, uint32_t i)
{
    struct process *p = &w->process[i];
    struct order order = p->inbox[0];
    enum cleat_status status = CLEAT_OK;

    p->inbox_count--;
    memmove(&p->inbox[0], &p->inbox[1], p->inbox_count * sizeof order);
    memset(&p->inbox[p->inbox_count], 0, sizeof order);
    if ((uint32_t)order.command.step != CLOSE &&
        cleat_rules_before(&p->rules, &order.command, &status) ==
            CLEAT_RULES_ANSWER) {
        answer(c, w, i, &order.command, status);
        return;
    }
    p->at = order;
    p->busy = 1;
    p->since_ns = w->ends.now_ns;
    go_on(c, w, i, true);
}

/* Whether what it is at can go on: tried on a copy. */
static bool can_go_on(const struct world *w, uint32_t i)
{
    struct nccl_ends copy = w->ends;
    struct nccl_ticket ticket;
    enum cleat_status status = carry_on(NULL, &copy, &w->process[i], i, false,
                                        &ticket);

    return status != CLEAT_PENDING || memcmp(&copy, &w->ends, sizeof copy) != 0;
}

/* ---- the coordinator's port ---- */

static void put_in(struct choose *c, struct world *w, uint32_t i,
                   const struct order *order)
{
    struct process *p = &w->process[i];

    if (w->ends.end[i].dead != 0) { return; }
    choose_check(c, p->inbox_count < INBOX_MAX, "the model has room");
    p->inbox[p->inbox_count++] = *order;
}

static void dies(struct world *w, uint32_t i)
{
    struct process *p = &w->process[i];

    memset(&p->at, 0, sizeof p->at);
    memset(p->inbox, 0, sizeof p->inbox);
    p->inbox_count = 0;
    p->busy = 0;
    p->since_ns = 0;
    p->struck = 1;
    w->ends.end[i].dead = 1;
    w->ends.end[i].stopped = 0;
}

/* It is our child: killed and reaped. */
static void expel(struct choose *c, struct world *w,
                  const struct cleat_sync_command *command)
{
    dies(w, command->member);
    w->process[command->member].notice = 0;
    answer(c, w, command->member, command, CLEAT_OK);
}

/* port/linux/workers.c: which receiver this is, of how many. */
static void number_receivers(const struct world *w, struct order *order)
{
    if (order->command.step == CLEAT_SYNC_PREPARE) {
        order->receivers_count = (uint8_t)order->command.receivers_count;
        return;
    }
    for (uint32_t i = 1; i < members(w); i++) {
        if (w->process[i].asked != order->command.epoch) { continue; }
        order->receivers_count++;
        if (i < order->command.member) { order->index++; }
    }
}

static void send_command(struct choose *c, struct world *w,
                         const struct cleat_sync_command *command)
{
    uint32_t i = command->member;
    struct order order;

    memset(&order, 0, sizeof order);
    order.command = *command;
    choose_note(c, "[%llu] %u < %s epoch %llu deadline %llu",
                (unsigned long long)w->ends.now_ns, i,
                cleat_sync_step_name(command->step),
                (unsigned long long)command->epoch,
                (unsigned long long)command->deadline_ns);
    if (command->step == CLEAT_SYNC_EXPEL) {
        expel(c, w, command);
        return;
    }
    if (command->step == CLEAT_SYNC_PREPARE) {
        w->process[i].asked = command->epoch;
    }
    choose_check(c,
                 w->process[i].told_lost == 0 ||
                     (command->step != CLEAT_SYNC_PREPARE &&
                      command->step != CLEAT_SYNC_GROUP &&
                      command->step != CLEAT_SYNC_SEND),
                 "no-call-after-lost");
    if (command->step == CLEAT_SYNC_COMMIT) { check_commit(c, w); }
    if (command->step == CLEAT_SYNC_GROUP ||
        command->step == CLEAT_SYNC_PREPARE) {
        number_receivers(w, &order);
    }
    if (command->step == CLEAT_SYNC_GROUP) { order.ticket = w->ticket; }
    put_in(c, w, i, &order);
}

/* All that is to be sent now. */
static void send_commands(struct choose *c, struct world *w)
{
    struct cleat_sync_command commands[MEMBERS_MAX];
    uint32_t count = 0;

    while (count < members(w) &&
           cleat_sync_next(w->sync, &commands[count]) == CLEAT_OK) {
        count++;
    }
    for (uint32_t i = 0; i < count; i++) { send_command(c, w, &commands[i]); }
}

static void begin(struct choose *c, struct world *w)
{
    struct cleat_sync_request request = {w->version_new, w->version_old};

    w->round++;
    if (w->round == w->set->rounds) { w->ends.faults_left = 0; }
    w->begun_ns = w->ends.now_ns;
    w->worst_ns = 0;
    w->seen_step = UINT32_MAX;
    w->rested = 0;
    w->gone = 0;
    for (uint32_t i = 0; i < members(w); i++) {
        const struct nccl_end *e = &w->ends.end[i];
        struct process *p = &w->process[i];

        p->told_lost = 0;
        p->out = i != 0 && replica_state(w, i) == CLEAT_SYNC_DEAD;
        p->struck = e->dead != 0 || e->stopped != 0 || e->lost != 0 ||
                    e->inside != 0 || e->reaping != 0 || e->blocked != 0 ||
                    p->busy != 0 || p->inbox_count != 0;
    }
    choose_note(c, "[%llu] update %u", (unsigned long long)w->ends.now_ns,
                w->round);
    choose_check(
        c, cleat_sync_begin(w->sync, w->ends.now_ns, &request) == CLEAT_OK,
        "an update begins");
    after_call(c, w);
}

/* A new process in the place of one that is gone. */
static void replace(struct choose *c, struct world *w, uint32_t i)
{
    struct process *p = &w->process[i];

    choose_mark(c, i == 0 ? MARK_NEW_TRAINER : MARK_REPLACED);
    choose_note(c, "[%llu] %u is a new process",
                (unsigned long long)w->ends.now_ns, i);
    nccl_end_begin(&w->ends, i);
    memset(p, 0, sizeof *p);
    p->rules.trainer = i == 0;
    choose_check(
        c, cleat_sync_hello(w->sync, i, 0, CLEAT_SYNC_UNKNOWN, 0) == CLEAT_OK,
        "hello at rest");
}

static void all_close(struct choose *c, struct world *w)
{
    struct order order;

    memset(&order, 0, sizeof order);
    order.command.deadline_ns = CLEAT_NEVER;
    w->closing = 1;
    for (uint32_t i = 0; i < members(w); i++) { put_in(c, w, i, &order); }
}

/* The update is over: another, or the end. A trainer that stands still may be
 * replaced; without one there is no other update. */
static void goes_on(struct choose *c, struct world *w)
{
    struct nccl_end *trainer = &w->ends.end[0];

    if (w->round == w->set->rounds ||
        cleat_sync_outcome(w->sync) == CLEAT_SYNC_RESTART) {
        all_close(c, w);
        return;
    }
    if (trainer->stopped != 0 && choose(c, 2) == 1) {
        dies(w, 0);
        (void)cleat_sync_lost(w->sync, w->ends.now_ns, 0);
    }
    for (uint32_t i = 0; i < members(w); i++) {
        if (w->ends.end[i].dead == 0 || w->process[i].notice != 0 ||
            choose(c, 2) == 1) {
            continue;
        }
        replace(c, w, i);
    }
    if (trainer->dead != 0) {
        all_close(c, w);
        return;
    }
    if (cleat_sync_outcome(w->sync) == CLEAT_SYNC_COMMITTED ||
        cleat_sync_outcome(w->sync) == CLEAT_SYNC_DEGRADED) {
        w->version_old = w->version_new;
    }
    w->version_new = w->version_old == 1 ? 2 : 1;
    begin(c, w);
}

/* ---- moves ---- */

enum {
    TAKE = NCCL_MOVES, /* a worker takes a command */
    GO_ON,             /* … carries on with one */
    NOTICE,            /* a death is told */
    WAKE,
    DIE,
    STAND_STILL,
    BLOCK,
    COMMAND, /* the coordinator's */
    CANCEL,
    NEXT,
    TIME,
    MOVES
};

struct move {
    uint8_t what;
    uint8_t member;
};

/* Moves that are made before time goes on; the others may wait. */
static bool is_prompt(uint32_t what)
{
    return what == NCCL_OBEY || what == NCCL_ID || what == NCCL_WORK ||
           what == TAKE || what == GO_ON || what == NOTICE || what == COMMAND;
}

/* Processes that end have nothing to do with each other any more: they end one
 * after the other, the trainer first. */
static bool is_its_turn(const struct world *w, uint32_t i)
{
    bool turn = true;

    if ((uint32_t)w->process[i].inbox[0].command.step != CLOSE) { return true; }
    for (uint32_t k = 0; k < members(w); k++) {
        const struct process *p = &w->process[k];
        bool ends = p->busy != 0 || (k == 0 && p->inbox_count != 0);

        turn = turn && (k == i || w->ends.end[k].stopped != 0 || !ends);
    }
    return turn;
}

static uint32_t process_moves(const struct world *w, uint8_t i,
                              struct move *moves)
{
    const struct nccl_end *e = &w->ends.end[i];
    const struct process *p = &w->process[i];
    uint32_t count = 0;

    if (e->dead != 0) {
        if (p->notice != 0) { moves[count++] = (struct move){NOTICE, i}; }
        return count;
    }
    if (e->freed != 0) { return 0; }
    if (e->stopped != 0) {
        moves[count++] = (struct move){WAKE, i};
        return count;
    }
    for (uint8_t m = 0; m < NCCL_MOVES; m++) {
        if (nccl_end_can(&w->ends, i, (enum nccl_move)m)) {
            moves[count++] = (struct move){m, i};
        }
    }
    if (p->busy == 0 && p->inbox_count > 0 && is_its_turn(w, i)) {
        moves[count++] = (struct move){TAKE, i};
    }
    if (p->busy != 0 && can_go_on(w, i)) {
        moves[count++] = (struct move){GO_ON, i};
    }
    if (w->ends.faults_left != 0) {
        moves[count++] = (struct move){DIE, i};
        moves[count++] = (struct move){STAND_STILL, i};
        if (e->comm != 0 && e->blocked == 0 && e->lost == 0) {
            moves[count++] = (struct move){BLOCK, i};
        }
    }
    return count;
}

static uint64_t next_time(const struct world *w)
{
    uint64_t next = w->closing != 0 ? CLEAT_NEVER
                                    : cleat_sync_deadline(w->sync);

    for (uint32_t i = 0; i < members(w); i++) {
        const struct nccl_end *e = &w->ends.end[i];
        const struct process *p = &w->process[i];
        uint64_t due = nccl_end_deadline(&w->ends, i);

        if (due < next) { next = due; }
        if (e->dead != 0 || e->stopped != 0 || p->busy == 0) { continue; }
        due = p->at.command.step == CLEAT_SYNC_FINALIZE
                  ? e->settle_ns
                  : p->at.command.deadline_ns;
        if (p->at.command.step != CLEAT_SYNC_PREPARE && due < next &&
            due > w->ends.now_ns) {
            next = due;
        }
    }
    return next;
}

static void time_passes(struct choose *c, struct world *w)
{
    uint64_t next = next_time(w);

    choose_check(c, next > w->ends.now_ns, "time goes on");
    w->ends.now_ns = next;
    for (uint32_t i = 0; i < members(w); i++) { nccl_end_tick(c, &w->ends, i); }
    choose_check(c, cleat_sync_tick(w->sync, w->ends.now_ns) == CLEAT_OK,
                 "time goes on");
    after_call(c, w);
}

static void tell_notice(struct choose *c, struct world *w, uint32_t i)
{
    choose_note(c, "[%llu] %u is lost", (unsigned long long)w->ends.now_ns, i);
    w->process[i].notice = 0;
    if (!is_over(w) && !member_at(w, i)->lost) {
        w->gone |= (uint8_t)(1u << i);
    }
    choose_check(c, cleat_sync_lost(w->sync, w->ends.now_ns, i) == CLEAT_OK,
                 "a loss is taken");
    after_call(c, w);
}

static void cancel(struct choose *c, struct world *w)
{
    bool late = w->sync->committing;

    choose_note(c, "[%llu] cancelled", (unsigned long long)w->ends.now_ns);
    w->ends.faults_left--;
    choose_check(c,
                 cleat_sync_cancel(w->sync, w->ends.now_ns) ==
                     (late ? CLEAT_STATE : CLEAT_OK),
                 "a cancel after commit is ignored");
    after_call(c, w);
}

/* Something befalls a process. */
static void strikes(struct choose *c, struct world *w, struct move move)
{
    struct nccl_end *e = &w->ends.end[move.member];

    w->ends.faults_left--;
    w->process[move.member].struck = 1;
    choose_note(c, "[%llu] %u %s", (unsigned long long)w->ends.now_ns,
                move.member,
                move.what == DIE           ? "dies"
                : move.what == STAND_STILL ? "stands still"
                                           : "will never be idle again");
    if (move.what == DIE) {
        dies(w, move.member);
        w->process[move.member].notice = 1;
    } else if (move.what == STAND_STILL) {
        nccl_end_stops(&w->ends, move.member);
    } else {
        e->blocked = 1;
    }
}

static void wake(struct choose *c, struct world *w, uint32_t i)
{
    choose_mark(c, MARK_WOKEN);
    choose_note(c, "[%llu] %u wakes", (unsigned long long)w->ends.now_ns, i);
    w->process[i].struck = 1;
    if (w->process[i].busy != 0) { w->process[i].since_ns = w->ends.now_ns; }
    nccl_end_wakes(c, &w->ends, i);
}

static void make(struct choose *c, struct world *w, struct move move)
{
    switch (move.what) {
    case TAKE: take(c, w, move.member); break;
    case GO_ON: go_on(c, w, move.member, false); break;
    case NOTICE: tell_notice(c, w, move.member); break;
    case WAKE: wake(c, w, move.member); break;
    case DIE:
    case STAND_STILL:
    case BLOCK: strikes(c, w, move); break;
    case COMMAND: send_commands(c, w); break;
    case CANCEL: cancel(c, w); break;
    case NEXT: goes_on(c, w); break;
    case TIME: time_passes(c, w); break;
    default:
        nccl_end_move(c, &w->ends, move.member, (enum nccl_move)move.what);
        break;
    }
}

static uint32_t all_moves(const struct world *w, struct move *moves)
{
    uint32_t count = 0;
    bool prompt = false;

    for (uint8_t i = 0; i < members(w); i++) {
        count += process_moves(w, i, moves + count);
    }
    if (w->closing == 0 && !is_over(w)) {
        if (cleat_sync_deadline(w->sync) <= w->ends.now_ns) {
            moves[count++] = (struct move){COMMAND, 0};
        }
        if (w->ends.faults_left != 0 && !w->sync->cancelled) {
            moves[count++] = (struct move){CANCEL, 0};
        }
    }
    if (w->closing == 0 && is_over(w)) {
        moves[count++] = (struct move){NEXT, 0};
    }
    for (uint32_t i = 0; i < count; i++) {
        prompt = prompt || is_prompt(moves[i].what);
    }
    if (!prompt && next_time(w) != CLEAT_NEVER) {
        moves[count++] = (struct move){TIME, 0};
    }
    return count;
}

static bool is_fault(uint32_t what)
{
    return what == DIE || what == STAND_STILL || what == BLOCK ||
           what == CANCEL || what == NCCL_ASK;
}

/* Puts the faults before all else. Returns how many there are. */
static uint32_t faults_first(struct move *moves, uint32_t count)
{
    uint32_t faults = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct move move = moves[i];

        if (!is_fault(move.what)) { continue; }
        moves[i] = moves[faults];
        moves[faults++] = move;
    }
    return faults;
}

static void check_end(struct choose *c, const struct world *w)
{
    choose_check(c, w->closing != 0 || w->set->times_end,
                 "every-fault-schedule-ends-committed-or-says-why");
    for (uint32_t i = 0; i < members(w); i++) {
        const struct nccl_end *e = &w->ends.end[i];

        choose_check(c,
                     e->dead != 0 || e->stopped != 0 || e->lost != 0 ||
                         e->freed != 0 || w->set->times_end,
                     "all-survivors-leave-the-old-group");
    }
}

static bool step(struct choose *c, void *state)
{
    struct world *w = state;
    struct move moves[MEMBERS_MAX * MOVES + 4];
    uint32_t faults;
    uint32_t count;
    uint32_t odd;

    if (w->round == 0) {
        begin(c, w);
        return true;
    }
    count = all_moves(w, moves);
    faults = faults_first(moves, count);
    if (faults == count) {
        check_end(c, w);
        return false;
    }
    odd = choose(c, faults + 1);
    make(c, w,
         odd > 0 ? moves[odd - 1]
                 : moves[faults + choose_any(c, count - faults)]);
    for (uint32_t i = 0; i < members(w); i++) {
        if (w->ends.end[i].dead != 0 || w->ends.end[i].stopped != 0) {
            continue;
        }
        nccl_end_watch(c, &w->ends, i);
        nccl_end_check(c, &w->ends, i);
        check_process(c, w, i);
    }
    return true;
}

static void fill(struct setting *set, const struct setting *told)
{
    *set = *told;
    if (set->group_ns == 0) { set->group_ns = 14; }
    if (set->start_ns == 0) { set->start_ns = 100; }
    if (set->replicas == 0) { set->replicas = REPLICAS_MAX; }
    if (set->replicas_min == 0) { set->replicas_min = 1; }
    if (set->attempts_max == 0) { set->attempts_max = 3; }
}

/* Each with its own time, so that one taken for another shows. */
static struct cleat_nccl_stop_config stop_config(const struct setting *set)
{
    struct cleat_nccl_stop_config config;

    memset(&config, 0, sizeof config);
    config.call_ns = 5; /* the first ones */
    config.revoke_ns = 2;
    config.abort_ns = 5;
    config.drain_ns = 3;
    config.builds_max = set->builds_max;
    config.can_revoke = set->can_revoke;
    return config;
}

static void init(void *state, const void *arg)
{
    struct world *w = state;
    const struct setting *set = &w->filled;
    struct cleat_sync_config config;

    fill(&w->filled, arg);
    w->set = set;
    config = config_of(set);
    w->ends.config = stop_config(set);
    w->ends.call_ns = 4;
    w->ends.bucket_ns = 6;
    w->ends.gap_ns = 2;
    w->ends.now_ns = set->start_ns;
    w->ends.faults_left = set->faults;
    w->version_old = 1;
    w->version_new = 2;
    if (cleat_sync_init(w->block, sizeof w->block, &config, &w->sync, NULL) !=
        CLEAT_OK) {
        cleat_test_assert_failed("init", __FILE__, __LINE__);
    }
    for (uint32_t i = 0; i < MEMBERS_MAX; i++) {
        nccl_end_begin(&w->ends, i);
        if (i >= members(w)) {
            w->ends.end[i].dead = 1;
            continue;
        }
        w->process[i].rules.trainer = i == 0;
        w->process[i].rules.holding = CLEAT_SYNC_WHOLE;
        w->process[i].rules.version = 1;
        w->process[i].rules.resumed = true;
        (void)cleat_sync_hello(w->sync, i, 0, CLEAT_SYNC_WHOLE, 1);
    }
}

/* ---- what decides the future: times from now, epochs from the present one,
 * the two engines sorted ---- */

static unsigned char *put_pair(unsigned char *at, const struct world *w,
                               uint64_t epoch)
{
    return choose_put_u8(at, epoch == 0 ? 255
                             : w->sync->epoch - epoch > 200
                                 ? 254
                                 : (uint32_t)(w->sync->epoch - epoch));
}

static unsigned char *put_order(unsigned char *at, const struct world *w,
                                const struct order *order)
{
    const struct cleat_sync_command *command = &order->command;

    at = choose_put_u8(at, command->step);
    at = put_pair(at, w, command->epoch);
    at = choose_put_time(at, command->deadline_ns, w->ends.now_ns);
    at = choose_put_u8(at, (uint32_t)(order->receivers_count |
                                      order->ticket.group.ranks << 2 |
                                      order->ticket.fresh << 5));
    return nccl_epoch_put(at, &w->ends, order->ticket.group.epoch);
}

static unsigned char *put_process(unsigned char *at, const struct world *w,
                                  uint32_t i)
{
    const struct process *p = &w->process[i];
    const struct cleat_rules *r = &p->rules;
    bool steps = p->at.command.step == CLEAT_SYNC_PREPARE ||
                 p->at.command.step == CLEAT_SYNC_FINALIZE ||
                 (uint32_t)p->at.command.step == CLOSE;

    at = choose_put_u8(at, (uint32_t)(p->busy | p->notice << 1 |
                                      p->struck << 2 | p->told_lost << 3 |
                                      (p->asked == w->sync->epoch) << 4 |
                                      p->out << 5));
    at = choose_put_u8(at, p->inbox_count);
    at = choose_put_u8(at, (uint32_t)(r->fenced | r->resumed << 1 |
                                      r->pausing << 2 | r->paused << 3 |
                                      r->releasing << 4 | r->released << 5));
    at = choose_put_u8(at, r->holding);
    at = choose_put_u8(at, r->stage);
    at = put_pair(at, w, r->epoch);
    at = put_pair(at, w, r->attempt_epoch);
    at = choose_put_u8(at, (uint32_t)(r->version | r->attempt_version << 4));
    if (p->busy != 0) {
        at = put_order(at, w, &p->at);
        at = choose_put_u64(at, steps ? w->ends.now_ns - p->since_ns : 0);
    }
    for (uint32_t k = 0; k < p->inbox_count; k++) {
        at = put_order(at, w, &p->inbox[k]);
    }
    return at;
}

static unsigned char *put_member(unsigned char *at, const struct world *w,
                                 uint32_t i)
{
    const struct cleat_sync_member *m = member_at(w, i);
    const struct nccl_control *control = &w->ends.control;
    const struct nccl_end *e = &w->ends.end[i];
    bool here = i != 0 && e->generation == control->generation;

    at = choose_put_u8(at, (uint32_t)m->version);
    at = choose_put_time(at, m->resend_ns, w->ends.now_ns);
    at = choose_put(at, &m->sent, sizeof m->sent);
    at = choose_put_u8(at,
                       (uint32_t)(m->holding | m->awaited << 2 | m->lost << 3 |
                                  m->expel << 4 | m->never << 5));
    at = choose_put_u8(at, (w->named >> i & 1u) | (w->gone >> i & 1u) << 1u |
                               (m->answer != 0 ? 4u : 0u));
    at = choose_put_u8(at, here ? control->ack[e->index] : 0);
    at = choose_put_u8(at, i != 0 ? (uint32_t)replica_state(w, i) : 0);
    at = put_process(at, w, i);
    return nccl_end_put(at, &w->ends, i);
}

enum { RECORD_BYTES = 320 };

static unsigned char *put_world(unsigned char *at, const struct world *w)
{
    const struct cleat_sync *sync = w->sync;
    const struct nccl_control *control = &w->ends.control;
    uint32_t good = 0;
    uint32_t bad = 0;

    for (uint32_t i = 0; i < control->receivers_count; i++) {
        good += control->ack[i] == ACK_GOOD ? 1u : 0u;
        bad += control->ack[i] == ACK_FAILED ? 1u : 0u;
    }
    at = choose_put_u8(
        at, (uint32_t)(w->ends.faults_left | (w->round == w->set->rounds) << 4 |
                       w->closing << 5 | w->rested << 6 | w->limit << 7));
    at = choose_put_u8(at, w->set->rounds - w->round);
    at = choose_put_u8(at, (uint32_t)(w->version_old | w->version_new << 4));
    at = choose_put_u32(at, (uint32_t)w->worst_ns);
    at = choose_put_u64(at, w->set->times_end ? w->ends.now_ns : 0);
    at = choose_put_u8(at, w->ends.now_ns > w->begun_ns);
    at = choose_put_u8(at, sync->step);
    at = choose_put_u8(at, (uint32_t)(sync->outcome | sync->attempt << 4));
    at = choose_put_u8(
        at, (uint32_t)(sync->attempt_failed | sync->trainer_failed << 1 |
                       sync->cancelled << 2 | sync->committing << 3 |
                       sync->undone << 4 | sync->doomed << 5 |
                       (sync->errors_count > 0) << 6));
    at = choose_put_time(at, sync->deadline_ns, w->ends.now_ns);
    at = choose_put_u8(at, good | bad << 4);
    at = choose_put_u8(at, (uint32_t)(control->receivers_count |
                                      control->published << 2 |
                                      control->finished << 3));
    at = put_pair(at, w, control->generation);
    at = nccl_epoch_put(at, &w->ends, control->epoch_given);
    at = choose_put_u8(at,
                       (uint32_t)(w->ends.formed << 3 >> w->ends.clock & 15));
    at = nccl_epoch_put(at, &w->ends, w->ticket.group.epoch);
    at = put_pair(at, w, w->ticket.generation);
    return choose_put_u8(
        at, (uint32_t)(w->ticket.group.ranks | w->ticket.fresh << 4));
}

static size_t project(const void *state, void *out)
{
    const struct world *w = state;
    const struct cleat_sync_replica *replicas =
        (const struct cleat_sync_replica *)(const void *)member_at(w,
                                                                   members(w));
    unsigned char records[REPLICAS_MAX][RECORD_BYTES];
    unsigned char *at = put_world(out, w);
    uint32_t first;

    at = put_member(at, w, 0);
    memset(records, 0, sizeof records);
    for (uint32_t r = 0; r < w->set->replicas; r++) {
        unsigned char *to = put_member(records[r], w, r + 1);

        to = choose_put_u8(to, replicas[r].fenced);
        if (to > records[r] + RECORD_BYTES) { abort(); }
    }
    first = memcmp(records[0], records[1], RECORD_BYTES) <= 0 ? 0 : 1;
    at = choose_put(at, records[first], RECORD_BYTES);
    at = choose_put(at, records[1 - first], RECORD_BYTES);
    return (size_t)(at - (unsigned char *)out);
}

/* ---- tests ---- */

#define TEST(sentence, reaches, ...)                                          \
    .name = (sentence), .state_bytes = sizeof(struct world), .init = init,    \
    .step = step, .project = project, .steps_max = 4000,                      \
    .endless_fails = true, .marks = (reaches), .arg = &(const struct setting) \
    {                                                                         \
        __VA_ARGS__                                                           \
    }

static const struct choose_test tests[] = {
    {TEST("three-ranks-one-fault-anywhere", reaches_outcomes, .builds_max = 64,
          .can_revoke = 1, .faults = 1, .rounds = 3)},
    {TEST("three-ranks-one-fault-without-revoke", NULL, .builds_max = 64,
          .faults = 1, .rounds = 3)},
    {TEST("three-ranks-one-fault-two-builds-a-process", NULL, .builds_max = 2,
          .can_revoke = 1, .faults = 1, .rounds = 3)},
    {TEST("three-ranks-one-fault-both-must-serve", NULL, .builds_max = 64,
          .can_revoke = 1, .faults = 1, .rounds = 3, .replicas_min = 2)},
    {TEST("three-ranks-one-fault-little-time-to-form-a-group", NULL,
          .builds_max = 64, .can_revoke = 1, .faults = 1, .rounds = 3,
          .group_ns = 3)},
    {TEST("three-ranks-one-fault-near-the-end-of-time", NULL, .builds_max = 64,
          .can_revoke = 1, .faults = 1, .rounds = 2, .times_end = true,
          .start_ns = UINT64_MAX - 20)},
    {TEST("two-ranks-two-faults-anywhere", NULL, .replicas = 1,
          .builds_max = 64, .can_revoke = 1, .faults = 2, .rounds = 3)},
    {TEST("two-ranks-two-faults-two-builds-a-process", reaches_all,
          .replicas = 1, .builds_max = 2, .can_revoke = 1, .faults = 2,
          .rounds = 2)},
    {TEST("three-ranks-two-faults-anywhere", NULL, .builds_max = 64,
          .can_revoke = 1, .faults = 2, .rounds = 2),
     .slow = true},
};

/* Too large for every combination: the random driver's. */
static const struct choose_test large[] = {
    {TEST("three-ranks-many-faults-in-many-updates", NULL, .builds_max = 64,
          .can_revoke = 1, .faults = 8, .rounds = 5)},
    {TEST("three-ranks-many-faults-few-builds", NULL, .builds_max = 4,
          .faults = 8, .rounds = 5)},
};

int main(int argc, char **argv)
{
    enum {
        SMALL = sizeof tests / sizeof tests[0],
        ALL = SMALL + sizeof large / sizeof large[0]
    };
    struct choose_test all[ALL];
    size_t count = SMALL;

    memcpy(all, tests, sizeof tests);
    memcpy(all + SMALL, large, sizeof large);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--random") == 0 ||
            strcmp(argv[i], "--replay") == 0 ||
            strcmp(argv[i], "--fuzz") == 0) {
            count = ALL;
        }
    }
    return choose_main(argc, argv, all, count);
}
