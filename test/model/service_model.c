/* Cleat: the services, switched wherever they can be. SPDX-License-Identifier:
 * Apache-2.0
 *
 * cleat_sync_run and cleat_bringup_run as they are, on fibres (fibres.h): every
 * schedule of three of them with up to two preemptions, one of which may be a
 * clock that runs ahead. What is at the other end is honest, and small: the
 * machines' own models do the rest. */
#include <stdio.h>

#include "cleat/service.h"
#include "fibres.h"

#define START_NS UINT64_C(1000000)

/* ------------------------------------------------------------------- sync */

enum { MEMBERS = 3, TRAINER = 0, REPLICAS = 2 };
enum { OLD = 1, NEW = 2, NEWER = 3, GUARD = 0xA5 };
#define ORDERS_MAX 24u

enum other { /* what the third fibre does, once, whenever it comes to it */
             OTHER_STOPS, /* cleat_sync_stop */
             OTHER_KILLS, /* a worker ends, and perhaps another takes its place
                           */
             OTHER_BABBLES, /* messages that mean nothing */
             OTHER_RUNS /* a second cleat_sync_run while the first is under way
                         */
};

struct sync_case {
    enum other other;
    uint8_t preemptions;
    uint8_t faults;      /* how many answers go wrong */
    uint8_t mailbox_max; /* messages */
    bool misnamed;       /* frames name another member than the channel */
    bool again;          /* a second update follows */
};

struct peer {
    bool alive;
    bool told_lost;
    bool expelling; /* and its end is not all told */
    bool closed;    /* a new process serves from its first commit on */
    bool paused;
    bool released;
    bool fenced;
    bool grouped;
    bool replaced;
    uint8_t version;
    uint8_t staged; /* 0: nothing whole */
    uint64_t prepared_epoch;
};

static struct sync_world {
    struct fibres_port port;
    struct fibres_mailbox mailbox;
    const struct sync_case *is;
    struct cleat_sync_service *service;
    struct peer peers[MEMBERS];
    struct cleat_sync_command orders[ORDERS_MAX];
    uint32_t orders_count;
    struct cleat_sync_command order; /* being carried out; else zero */
    uint8_t faults_left;
    bool over;       /* the last update has ended */
    bool other_done; /* the third fibre has */
    bool other_full; /* it waits for room in the mailbox */
    bool commit_sent;
    bool stop_failed_while_running;
    enum cleat_status stopped; /* what cleat_sync_stop said; PENDING: nothing */
    bool due;                  /* commands wait to leave, since due_ns */
    uint64_t due_ns;
    struct cleat_sync_report report;
    _Alignas(64) unsigned char block[2048];
} sync_world;

static struct sync_world *const w = &sync_world;

static bool serves(const struct peer *peer)
{
    return peer->alive && !peer->closed && !peer->paused && !peer->fenced;
}

/* ---- the worker port: orders to one queue, carried out by its own fibre */

static enum cleat_status port_send(struct cleat_worker_context *context,
                                   const struct cleat_sync_command *command)
{
    (void)context;
    fibres_check(fibres_holds_lock(), "commands-leave-with-the-lock-held");
    fibres_check(command->member < MEMBERS, "commands-go-to-members");
    fibres_note("%s to %u", cleat_sync_step_name(command->step),
                command->member);
    if (command->step == CLEAT_SYNC_COMMIT) { w->commit_sent = true; }
    fibres_check(!w->due || w->due_ns == fibres_now_ns() ||
                     fibres_time_ran_ahead(),
                 "who-is-woken-does-not-wait");
    w->due = false;
    if (command->step != CLEAT_SYNC_EXPEL && !w->peers[command->member].alive) {
        return CLEAT_PEER_LOST;
    }
    if (w->orders_count == ORDERS_MAX) { return CLEAT_NO_SLOT; }
    w->orders[w->orders_count++] = *command;
    return CLEAT_OK;
}

static enum cleat_status commit(struct peer *peer, uint8_t version)
{
    if (peer->staged == version) {
        peer->version = version;
        peer->staged = 0;
    }
    if (peer->version != version) { return CLEAT_STATE; }
    peer->fenced = false;
    peer->closed = false;
    return CLEAT_OK;
}

static enum cleat_status carry_out(struct peer *peer,
                                   const struct cleat_sync_command *order)
{
    bool of_attempt = peer->prepared_epoch == order->epoch;

    switch (order->step) {
    case CLEAT_SYNC_PAUSE: peer->paused = true; return CLEAT_OK;
    case CLEAT_SYNC_RELEASE:
        peer->released = true;
        return peer->paused ? CLEAT_OK : CLEAT_STATE;
    case CLEAT_SYNC_PREPARE:
        peer->prepared_epoch = order->epoch;
        peer->grouped = false;
        peer->staged = 0;
        return CLEAT_OK;
    case CLEAT_SYNC_GROUP:
        peer->grouped = of_attempt;
        return of_attempt ? CLEAT_OK : CLEAT_STATE;
    case CLEAT_SYNC_SEND:
        if (!of_attempt || !peer->grouped) { return CLEAT_STATE; }
        peer->staged = (uint8_t)order->version;
        return CLEAT_OK;
    case CLEAT_SYNC_COMMIT: return commit(peer, (uint8_t)order->version);
    case CLEAT_SYNC_FINALIZE:
        peer->staged = 0;
        peer->prepared_epoch = 0;
        return CLEAT_OK;
    case CLEAT_SYNC_FENCE: peer->fenced = true; return CLEAT_OK;
    case CLEAT_SYNC_RESTORE: peer->released = false; return CLEAT_OK;
    case CLEAT_SYNC_RESUME:
        if (peer->released || peer->fenced) { return CLEAT_STATE; }
        peer->paused = false;
        return CLEAT_OK;
    default: return CLEAT_UNSUPPORTED;
    }
}

static bool has_room_or_over(void *nothing)
{
    (void)nothing;
    return w->over || fibres_mailbox_has_room(&w->mailbox);
}

enum who { WORKERS, OTHER };

/* A port keeps what finds no room until there is some. */
static void post_surely(enum who by, uint32_t kind, uint32_t index,
                        const void *body, size_t bytes)
{
    struct cleat_mailbox mailbox = fibres_mailbox(&w->mailbox);
    struct cleat_message message = {.kind = kind, .index = index};

    if (bytes > 0) { memcpy(message.body, body, bytes); }
    while (mailbox.post(mailbox.context, &message) != CLEAT_OK && !w->over) {
        if (by == OTHER) { w->other_full = true; }
        (void)fibres_wait(has_room_or_over, NULL, CLEAT_NEVER);
        if (by == OTHER) { w->other_full = false; }
    }
}

static void post_answer(const struct cleat_sync_command *order,
                        enum cleat_status status)
{
    const struct peer *peer = &w->peers[order->member];
    struct cleat_worker_answer answer = {
        .sync = {.step = order->step,
                 .member = w->is->misnamed ? (order->member + 1) % MEMBERS
                                           : order->member,
                 .term = order->term,
                 .epoch = order->epoch,
                 .status = status,
                 .holding = CLEAT_SYNC_WHOLE,
                 .version = peer->version,
                 .digest = order->step == CLEAT_SYNC_SEND ? 7 : 0}};

    post_surely(WORKERS, CLEAT_WORKER_ANSWER, order->member, &answer,
                sizeof answer);
}

static void tell_lost(enum who by, uint32_t member)
{
    if (w->peers[member].told_lost) { return; }
    w->peers[member].told_lost = true;
    post_surely(by, CLEAT_WORKER_LOST, member, NULL, 0);
}

static void expel(const struct cleat_sync_command *order)
{
    struct peer *peer = &w->peers[order->member];

    peer->alive = false;
    peer->expelling = true;
    post_answer(order, CLEAT_OK);
    tell_lost(WORKERS, order->member);
    peer->expelling = false;
}

static void answer_order(const struct cleat_sync_command *order)
{
    struct peer *peer = &w->peers[order->member];
    uint32_t fault = w->faults_left > 0 ? fibres_choose(5) : 0;
    enum cleat_status status;

    if (fault > 0) {
        w->faults_left--;
        fibres_note("fault %u at %s of %u", fault,
                    cleat_sync_step_name(order->step), order->member);
    }
    if (fault == 1) { return; } /* the command is lost */
    status = fault == 2   ? CLEAT_TRANSIENT
             : fault == 3 ? CLEAT_PERMANENT
                          : carry_out(peer, order);
    if (fault == 4) { return; } /* its answer is */
    post_answer(order, status);
}

static bool has_order_or_over(void *nothing)
{
    (void)nothing;
    return w->over || w->orders_count > 0;
}

static void workers_fibre(void *nothing)
{
    (void)nothing;
    while (!w->over) {
        (void)fibres_wait(has_order_or_over, NULL, CLEAT_NEVER);
        if (w->orders_count == 0) { continue; }
        w->order = w->orders[0];
        w->orders_count--;
        memmove(w->orders, w->orders + 1, w->orders_count * sizeof w->order);
        memset(&w->orders[w->orders_count], 0, sizeof w->order);
        if (w->order.step == CLEAT_SYNC_EXPEL) {
            expel(&w->order);
        } else if (w->peers[w->order.member].alive) {
            answer_order(&w->order);
        }
        memset(&w->order, 0, sizeof w->order);
    }
}

/* ---- the fibre that runs the service */

/* What is, against what the service says. */
static void check_rest(const struct cleat_sync_report *report,
                       enum cleat_status status, uint8_t old)
{
    const struct cleat_sync *machine = cleat_sync_service_machine(w->service);
    enum cleat_sync_outcome outcome = report->outcome;
    bool is_new = outcome == CLEAT_SYNC_COMMITTED ||
                  outcome == CLEAT_SYNC_DEGRADED;
    uint64_t version = is_new ? report->version : old;
    uint32_t serving = 0;

    fibres_note("%s", cleat_sync_outcome_name(outcome));
    fibres_check(!fibres_holds_lock(), "the-lock-is-given-at-the-end");
    fibres_check(outcome != CLEAT_SYNC_NOT_YET, "an-update-ends-decided");
    fibres_check(is_new == (status == CLEAT_OK), "ok-means-that-it-is-served");
    fibres_check((outcome == CLEAT_SYNC_RESTART) == (status == CLEAT_RESTART),
                 "restart-says-so");
    fibres_check(report->ended_ns - report->started_ns <=
                     cleat_sync_bound_ns(&machine->config),
                 "ends-within-its-bound");
    for (uint32_t r = 0; r < REPLICAS; r++) {
        enum cleat_sync_replica_state state = cleat_sync_replica_state(machine,
                                                                       r);
        const struct peer *peer = &w->peers[1 + r];

        serving += state == CLEAT_SYNC_SERVING ? 1 : 0;
        if (state == CLEAT_SYNC_SERVING) {
            fibres_check(!peer->alive || peer->replaced || serves(peer),
                         "who-is-said-to-serve-serves");
        } else {
            fibres_check(!serves(peer), "who-is-set-apart-does-not-serve");
        }
        fibres_check(!serves(peer) || peer->version == version,
                     "all-that-serve-serve-one-version");
    }
    fibres_check(serving == report->serving, "the-report-counts-who-serves");
    fibres_check((outcome == CLEAT_SYNC_COMMITTED) ==
                     (is_new && serving == REPLICAS),
                 "committed-means-all");
    fibres_check((outcome == CLEAT_SYNC_RESTART) == (serving == 0),
                 "restart-means-nobody");
    fibres_check(outcome != CLEAT_SYNC_ROLLED_BACK || !w->commit_sent,
                 "never-rolled-back-after-commit");
}

static enum cleat_status run_once(uint8_t old, uint8_t version)
{
    struct cleat_sync_request request = {version, old};
    struct cleat_error error;
    enum cleat_status status;

    w->commit_sent = false;
    status = cleat_sync_run(w->service, &request, &w->report, &error);
    if (status != CLEAT_STATE) { check_rest(&w->report, status, old); }
    return status;
}

/* What the third fibre did decides what may have come of it. */
static void check_first(enum cleat_status status)
{
    bool quiet = w->faults_left == w->is->faults && !fibres_time_ran_ahead();

    switch (w->is->other) {
    case OTHER_STOPS:
        fibres_check(w->stopped != CLEAT_OK || status != CLEAT_OK,
                     "what-was-stopped-is-not-committed");
        fibres_check(!w->stop_failed_while_running ||
                         w->report.outcome != CLEAT_SYNC_ROLLED_BACK || !quiet,
                     "a-stop-that-came-too-late-changes-nothing");
        fibres_check(!quiet || w->stopped == CLEAT_OK ||
                         w->report.outcome == CLEAT_SYNC_COMMITTED,
                     "a-stop-that-failed-changes-nothing");
        fibres_check(!quiet || w->stopped != CLEAT_OK ||
                         w->report.outcome == CLEAT_SYNC_ROLLED_BACK,
                     "a-stopped-update-goes-back");
        break;
    case OTHER_BABBLES:
    case OTHER_RUNS:
        fibres_check(!quiet || w->report.outcome == CLEAT_SYNC_COMMITTED,
                     "nothing-wrong-means-committed");
        break;
    default: break;
    }
}

/* A service that is woken needs no time while everybody answers. */
static bool needs_no_time(void)
{
    return w->faults_left == w->is->faults && !fibres_time_ran_ahead();
}

static bool is_other_done(void *nothing)
{
    (void)nothing;
    return w->other_done || w->other_full;
}

static void run_again(uint8_t old)
{
    bool whole = w->other_done;
    enum cleat_status status;

    for (uint32_t i = 0; i < MEMBERS; i++) {
        whole = whole && w->peers[i].alive;
    }
    fibres_note("again");
    status = run_once(old, NEWER);
    fibres_check(status != CLEAT_STATE, "one-update-follows-another");
    fibres_check(!whole || fibres_time_ran_ahead() ||
                     w->report.outcome == CLEAT_SYNC_COMMITTED,
                 "who-attached-meanwhile-takes-part-in-the-next");
}

static void service_fibre(void *nothing)
{
    enum cleat_status status = run_once(OLD, NEW);

    (void)nothing;
    fibres_check(!needs_no_time() || fibres_now_ns() == START_NS,
                 "who-is-woken-does-not-wait");
    (void)fibres_wait(is_other_done, NULL, CLEAT_NEVER);
    if (status != CLEAT_STATE) {
        check_first(status);
        if (w->is->again && status != CLEAT_RESTART) {
            run_again(status == CLEAT_OK ? NEW : OLD);
        }
    }
    w->over = true;
}

/* ---- the third fibre */

static bool is_under_way(void)
{
    return cleat_sync_service_machine(w->service)->step != CLEAT_SYNC_STEPS;
}

static void stop(void)
{
    bool before = is_under_way();
    bool after;

    w->stopped = cleat_sync_stop(w->service);
    after = is_under_way();
    fibres_note("stop: %s", cleat_status_name(w->stopped));
    fibres_check(w->stopped == CLEAT_OK || w->stopped == CLEAT_STATE,
                 "stop-says-ok-or-state");
    w->due_ns = fibres_now_ns();
    w->due = w->stopped == CLEAT_OK &&
             cleat_sync_deadline(cleat_sync_service_machine(w->service)) <=
                 w->due_ns;
    w->stop_failed_while_running = before && after &&
                                   w->stopped == CLEAT_STATE && w->commit_sent;
}

static bool is_told(void *peer)
{
    return !((const struct peer *)peer)->expelling;
}

/* A worker ends; perhaps a new process comes in its place. */
static void kill_one(void)
{
    uint32_t member = fibres_choose(2); /* the trainer, or an engine */
    bool comes_back = w->is->again && fibres_choose(2) == 1;
    struct peer *peer = &w->peers[member];

    fibres_note("%u ends", member);
    peer->alive = false;
    tell_lost(OTHER, member);
    if (comes_back) {
        struct cleat_worker_hello hello = {.version = OLD,
                                           .holding = CLEAT_SYNC_WHOLE};

        while (!fibres_wait(is_told, peer, CLEAT_NEVER)) {}
        fibres_note("another %u comes", member);
        *peer = (struct peer){
            .alive = true, .replaced = true, .closed = true, .version = OLD};
        post_surely(OTHER, CLEAT_WORKER_HELLO, member, &hello, sizeof hello);
    }
}

static void babble(void)
{
    static const struct {
        uint32_t kind;
        uint32_t index;
    } words[] = {{0, 0},
                 {77, 1},
                 {CLEAT_WORKER_ANSWER, MEMBERS},
                 {CLEAT_WORKER_ANSWER, UINT32_MAX},
                 {CLEAT_WORKER_ANSWER, 1}, /* whose body is all ones */
                 {CLEAT_WORKER_LOST, MEMBERS},
                 {CLEAT_WORKER_HELLO, MEMBERS},
                 {CLEAT_WORKER_HELLO, 2}, /* the same */
                 {CLEAT_WORKER_WAKE, 1}};
    uint32_t word = fibres_choose(sizeof words / sizeof words[0]);
    unsigned char ones[CLEAT_MESSAGE_BYTES];

    memset(ones, 0xFF, sizeof ones);
    post_surely(OTHER, words[word].kind, words[word].index, ones, sizeof ones);
}

/* With a request that is refused, so that it never begins one itself. */
static void run_meanwhile(void)
{
    struct cleat_sync_request request = {NEW, NEW};
    struct cleat_sync_report report;
    bool before = is_under_way();
    enum cleat_status status = cleat_sync_run(w->service, &request, &report,
                                              NULL);

    fibres_note("run: %s", cleat_status_name(status));
    fibres_check(status == CLEAT_STATE || status == CLEAT_INVALID,
                 "a-run-that-is-refused-says-so");
    fibres_check(status == CLEAT_STATE || !before || !is_under_way(),
                 "one-update-at-a-time");
}

static void other_fibre(void *nothing)
{
    (void)nothing;
    switch (w->is->other) {
    case OTHER_STOPS: stop(); break;
    case OTHER_KILLS: kill_one(); break;
    case OTHER_BABBLES: babble(); break;
    case OTHER_RUNS: run_meanwhile(); break;
    }
    w->other_done = true;
}

static struct cleat_service_ports sync_ports(void)
{
    struct cleat_service_ports ports = {.clock = fibres_clock(),
                                        .threads = fibres_threads(),
                                        .mailbox = fibres_mailbox(&w->mailbox)};

    return ports;
}

static void sync_body(struct choose *c, const void *arg)
{
    static const struct cleat_sync_config config = {
        .trainers = 1, .replicas = REPLICAS, .workers = 1, .attempts_max = 2};
    struct cleat_worker_port workers = {NULL, port_send};
    size_t bytes = cleat_sync_service_bytes(&config);
    struct cleat_service_ports ports;
    struct cleat_error error;

    memset(w, 0, sizeof *w);
    w->is = arg;
    w->mailbox.messages_max = w->is->mailbox_max;
    w->faults_left = w->is->faults;
    w->stopped = CLEAT_PENDING;
    /* They have said hello, whatever room there is later. */
    for (uint32_t i = 0; i < MEMBERS; i++) {
        struct cleat_worker_hello hello = {.version = OLD,
                                           .holding = CLEAT_SYNC_WHOLE};
        struct cleat_message *message = &w->mailbox.messages[i];

        w->peers[i] = (struct peer){.alive = true, .version = OLD};
        message->kind = CLEAT_WORKER_HELLO;
        message->index = i;
        memcpy(message->body, &hello, sizeof hello);
    }
    w->mailbox.count = MEMBERS;
    fibres_begin(c, w->is->preemptions, &w->port, w, sizeof *w, START_NS);
    ports = sync_ports();
    choose_check(c,
                 cleat_sync_service_init(w->block, bytes, &config, &ports,
                                         &workers, &w->service,
                                         &error) == CLEAT_OK,
                 "the service begins");
    fibres_add("service", service_fibre, NULL);
    fibres_add("workers", workers_fibre, NULL);
    fibres_add("other", other_fibre, NULL);
    memset(w->block + bytes, GUARD, sizeof w->block - bytes);
    if (!fibres_run()) { return; }
    choose_check(c, w->port.lock_owner == 0, "the-lock-is-free-at-the-end");
    for (size_t i = bytes; i < sizeof w->block; i++) {
        choose_check(c, w->block[i] == GUARD, "nothing-beyond-the-block");
    }
    choose_mark(c, (uint32_t)w->report.outcome - 1);
}

/* --------------------------------------------------------------- bring-up */

enum { HANDLES = 2, START_TIMEOUT_NS = 1000 };

struct bringup_case {
    uint8_t preemptions;
    uint8_t odd; /* how many waits do something else than succeed at once */
    uint8_t threads;
    uint8_t jobs_max;
    uint8_t mailbox_max;
    bool stops; /* a fibre calls cleat_bringup_stop, once, at any moment */
};

static struct bringup_world {
    struct fibres_port port;
    struct fibres_mailbox mailbox;
    const struct bringup_case *is;
    struct cleat_bringup *bringup;
    uint8_t odd_left;
    uint8_t run;       /* 1, 2: what cleat_bringup_run was last called for */
    uint8_t waits_run; /* the newest run that a wait was made for */
    uint8_t cancelled; /* runs that ended so */
    bool all_well;     /* every wait succeeded at once */
    bool stopper_done;
    enum cleat_status stopped; /* what cleat_bringup_stop said */
    uint64_t stopped_ns;
    uint8_t waiting[HANDLES];  /* waits under way */
    uint8_t ready_in[HANDLES]; /* the run in which a wait said CLEAT_OK */
    uint8_t never_in[HANDLES]; /* the run in which one said PERMANENT */
    _Alignas(64) unsigned char block[512];
} bringup_world;

static struct bringup_world *const b = &bringup_world;

static bool never(void *nothing)
{
    (void)nothing;
    return false;
}

static enum cleat_status wait_for(uint32_t index, uint8_t run,
                                  uint64_t deadline_ns)
{
    uint32_t odd = b->odd_left > 0 ? fibres_choose(5) : 0;

    if (odd > 0) {
        b->odd_left--;
        b->all_well = false;
        fibres_note("odd wait %u for %u", odd, index);
    }
    switch (odd) {
    case 1: return CLEAT_TRANSIENT;
    case 2: /* nothing in time */
        (void)fibres_wait(never, NULL, deadline_ns);
        return CLEAT_PEER_SILENT;
    case 3: b->never_in[index] = run; return CLEAT_PERMANENT;
    case 4: /* long after it was given up */
        (void)fibres_wait(never, NULL, deadline_ns + 150);
        break;
    default: break;
    }
    b->ready_in[index] = run;
    return CLEAT_OK;
}

/* A handle is 10 · the run + its index. */
static enum cleat_status waiter_wait(struct cleat_waiter_context *context,
                                     uint64_t handle, uint64_t deadline_ns,
                                     uint64_t *hint_ns)
{
    uint32_t index = (uint32_t)(handle % 10);
    uint8_t run = (uint8_t)(handle / 10);
    enum cleat_status status;

    (void)context;
    fibres_check(!fibres_holds_lock(), "nobody-waits-with-the-lock-held");
    fibres_check(index < HANDLES && run >= 1 && run <= b->run,
                 "handles-are-the-caller's");
    fibres_check(run >= b->waits_run, "no-wait-for-a-handle-of-before");
    fibres_check(*hint_ns == CLEAT_NONE, "no-hint-to-begin-with");
    fibres_check(b->waiting[index] == 0, "one-wait-at-a-time-for-a-handle");
    b->waits_run = run;
    b->waiting[index] = 1;
    fibres_yield();
    status = wait_for(index, run, deadline_ns);
    b->waiting[index] = 0;
    return status;
}

static void check_run(enum cleat_status status, const struct cleat_error *error,
                      uint64_t took_ns)
{
    bool well = b->all_well && !fibres_time_ran_ahead() &&
                b->is->jobs_max >= HANDLES && b->is->mailbox_max >= 2 * HANDLES;

    for (uint32_t i = 0; i < HANDLES && status == CLEAT_OK; i++) {
        fibres_check(b->ready_in[i] == b->run, "ready-means-in-this-run");
    }
    fibres_check(status == CLEAT_OK || error->status == status,
                 "the-error-says-the-same");
    fibres_check(
        status != CLEAT_PERMANENT ||
            (error->index < HANDLES && b->never_in[error->index] == b->run),
        "a-permanent-error-is-of-this-run");
    fibres_check(took_ns <= START_TIMEOUT_NS, "a-bring-up-ends-in-time");
    fibres_check(!well || status == CLEAT_OK || status == CLEAT_CANCELLED,
                 "nothing-wrong-means-ready");
    fibres_check(!well || took_ns == 0, "who-is-woken-does-not-wait");
}

static enum cleat_status bring_up(uint8_t run)
{
    uint64_t handles[HANDLES] = {run * 10u, run * 10u + 1};
    uint64_t started_ns = fibres_now_ns();
    struct cleat_error error = {CLEAT_OK, 0, 0, 0, ""};
    enum cleat_status status;

    b->run = run;
    status = cleat_bringup_run(b->bringup, handles, &error);
    fibres_note("run %u: %s", run, cleat_status_name(status));
    fibres_check(!fibres_holds_lock(), "the-lock-is-given-at-the-end");
    if (status == CLEAT_STATE) { return status; }
    if (status == CLEAT_CANCELLED) { b->cancelled++; }
    fibres_check(status != CLEAT_CANCELLED || fibres_time_ran_ahead() ||
                     fibres_now_ns() == b->stopped_ns,
                 "who-is-woken-does-not-wait");
    check_run(status, &error, fibres_now_ns() - started_ns);
    return status;
}

static bool jobs_have_ended(void *nothing)
{
    (void)nothing;
    return b->port.jobs_count == 0 && b->port.jobs_running == 0;
}

static bool is_stopper_done(void *nothing)
{
    (void)nothing;
    return b->stopper_done;
}

/* A second run at once after the first: waits of that one may be under way
 * still, and until they have ended there is none. Where all went well, they
 * have: the first one has heard of each. */
static void bringup_fibre(void *nothing)
{
    bool well = bring_up(1) == CLEAT_OK && b->all_well &&
                !fibres_time_ran_ahead();
    bool idle = well || jobs_have_ended(NULL);

    if (bring_up(2) == CLEAT_STATE) {
        fibres_check(!idle, "without-a-wait-under-way-a-run-begins");
        (void)fibres_wait(jobs_have_ended, NULL, CLEAT_NEVER);
        fibres_check(bring_up(2) != CLEAT_STATE, "one-run-follows-another");
    }
    (void)fibres_wait(is_stopper_done, nothing, CLEAT_NEVER);
    fibres_check(b->cancelled == (b->stopped == CLEAT_OK ? 1 : 0),
                 "what-was-stopped-is-cancelled");
    b->port.closing = true;
}

static void stopper_fibre(void *nothing)
{
    (void)nothing;
    b->stopped_ns = fibres_now_ns();
    b->stopped = cleat_bringup_stop(b->bringup);
    fibres_note("stop: %s", cleat_status_name(b->stopped));
    fibres_check(b->stopped == CLEAT_OK || b->stopped == CLEAT_STATE,
                 "stop-says-ok-or-state");
    b->stopper_done = true;
}

static void bringup_body(struct choose *c, const void *arg)
{
    static const struct cleat_retry_policy policy = {
        .base_ns = 10,
        .attempt_timeout_ns = 100,
        .attempts_max = 3,
        .jitter = CLEAT_RETRY_JITTER_NONE};
    struct cleat_gather_config config = {&policy, START_TIMEOUT_NS, HANDLES};
    struct cleat_waiter waiter = {NULL, waiter_wait};
    struct cleat_service_ports ports;
    enum cleat_status status;

    memset(b, 0, sizeof *b);
    b->is = arg;
    b->mailbox.messages_max = b->is->mailbox_max;
    b->port.jobs_max = b->is->jobs_max;
    b->odd_left = b->is->odd;
    b->all_well = true;
    b->stopped = CLEAT_PENDING;
    b->stopper_done = !b->is->stops;
    fibres_begin(c, b->is->preemptions, &b->port, b, sizeof *b, START_NS);
    ports = (struct cleat_service_ports){
        .clock = fibres_clock(),
        .threads = fibres_threads(),
        .mailbox = fibres_mailbox(&b->mailbox)};
    status = cleat_bringup_init(b->block, sizeof b->block, &config, &ports,
                                &waiter, 1, &b->bringup, NULL);
    choose_check(c, status == CLEAT_OK, "the service begins");
    fibres_add("service", bringup_fibre, NULL);
    for (uint32_t i = 0; i < b->is->threads; i++) {
        fibres_add(i == 0 ? "thread 0" : "thread 1", fibres_work, NULL);
    }
    if (b->is->stops) { fibres_add("stopper", stopper_fibre, NULL); }
    if (!fibres_run()) { return; }
    choose_check(c, b->port.lock_owner == 0, "the-lock-is-free-at-the-end");
    choose_mark(c, 0);
}

/* ------------------------------------------------------------------ the list
 */

static const char *const sync_marks[] = {"COMMITTED", NULL};
static const char *const bringup_marks[] = {"its end", NULL};

#define SYNC(title, slowness, ...)                                          \
    {                                                                       \
        .name = (title), .body = sync_body,                                 \
        .arg = &(const struct sync_case){__VA_ARGS__}, .marks = sync_marks, \
        slowness                                                            \
    }
#define BRINGUP(title, slowness, ...)                     \
    {                                                     \
        .name = (title), .body = bringup_body,            \
        .arg = &(const struct bringup_case){__VA_ARGS__}, \
        .marks = bringup_marks, slowness                  \
    }
#define SLOW .slow = true
#define QUICK .slow = false

/* clang-format off */
static const struct choose_test tests[] = {
    SYNC("sync-stopped-at-any-moment", QUICK,
         .other = OTHER_STOPS, .preemptions = 2, .mailbox_max = 8),
    SYNC("sync-stopped-with-a-mailbox-of-one", QUICK,
         .other = OTHER_STOPS, .preemptions = 1, .mailbox_max = 1),
    SYNC("sync-stopped-while-an-answer-goes-wrong", QUICK,
         .other = OTHER_STOPS, .faults = 1, .mailbox_max = 2),
    SYNC("sync-a-worker-ends-at-any-moment", SLOW,
         .other = OTHER_KILLS, .preemptions = 2, .mailbox_max = 8),
    SYNC("sync-a-worker-is-replaced-at-any-moment", QUICK,
         .other = OTHER_KILLS, .preemptions = 1, .mailbox_max = 8,
         .again = true),
    SYNC("sync-a-worker-is-replaced-with-a-mailbox-of-one", QUICK,
         .other = OTHER_KILLS, .mailbox_max = 1, .again = true),
    SYNC("sync-what-means-nothing-changes-nothing", QUICK,
         .other = OTHER_BABBLES, .preemptions = 1, .mailbox_max = 2),
    SYNC("sync-who-speaks-is-what-the-channel-says", QUICK,
         .other = OTHER_BABBLES, .mailbox_max = 8, .misnamed = true),
    SYNC("sync-one-update-at-a-time", SLOW,
         .other = OTHER_RUNS, .preemptions = 2, .mailbox_max = 8),
    BRINGUP("bring-up-with-two-threads", SLOW,
            .preemptions = 2, .odd = 1, .threads = 2, .jobs_max = 2,
            .mailbox_max = 4),
    BRINGUP("bring-up-with-two-odd-waits", SLOW,
            .preemptions = 1, .odd = 2, .threads = 2, .jobs_max = 2,
            .mailbox_max = 4),
    BRINGUP("bring-up-stopped-at-any-moment", QUICK,
            .preemptions = 2, .odd = 1, .threads = 1, .jobs_max = 2,
            .mailbox_max = 4, .stops = true),
    BRINGUP("bring-up-with-a-queue-of-one", QUICK,
            .preemptions = 1, .odd = 1, .threads = 2, .jobs_max = 1,
            .mailbox_max = 4),
    BRINGUP("bring-up-with-a-mailbox-of-one", QUICK,
            .preemptions = 1, .odd = 1, .threads = 2, .jobs_max = 2,
            .mailbox_max = 1),
};
/* clang-format on */

int main(int argc, char **argv)
{
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
