/* Cleat: the pipeline and its intakes against their invariants.
 * SPDX-License-Identifier: Apache-2.0
 *
 * One pipeline, up to three intakes, and between them a reference transport
 * that really holds what lies in each slot and what each receiver really has.
 * The order of all moves is chosen: which command is taken when, which fill
 * ends first, who works on a bucket, whose word is read, who wakes up. Time
 * passes only when nothing else can happen, or as a fault.
 *
 * A receiver works on a bucket in two moves, looking (arrived, VERIFY) and
 * keeping (APPLY, ACK), so that the sender may be anywhere in between. What it
 * is given is a row of the fault table. */
#include "choose.h"
#include "cleat/pipeline.h"
#include "faults.h"

#define RECEIVERS 3u
#define SLOTS 3u
#define ACK_TIMEOUT 10u
#define GENERATION 7u
#define EMPTY UINT8_MAX

struct bounds {
    uint32_t buckets;
    uint32_t receivers;
    uint32_t slots;
    uint64_t deadline_ns;
    uint8_t faults;
};

/* What one receiver really is. */
struct peer {
    struct cleat_intake intake;
    uint64_t owes_since; /* CLEAT_NEVER: it owes nothing that it knows of */
    uint32_t word;       /* buckets acknowledged where the sender can see it */
    int32_t word_status;
    uint32_t read;      /* what of it the sender has read */
    uint32_t overtaken; /* an old count that is still on its way, 0: none */
    uint32_t fault;     /* the row that it is acting out */
    uint8_t has;        /* buckets that it really holds, in order */
    uint8_t seen;       /* what it read when it verified: bucket, or EMPTY */
    bool looking;       /* between its two moves */
    bool gone;          /* will do nothing more */
    bool stopped;       /* until it is woken */
    bool notice;        /* its death will be told */
    bool late;          /* its word is seen only after the deadline */
    bool twice;         /* its word will be read once more */
    bool faulty;        /* something has been done to it */
};

struct world {
    _Alignas(64) unsigned char block[CLEAT_PIPELINE_BYTES(RECEIVERS)];
    struct peer peers[RECEIVERS];
    const struct bounds *bounds;
    uint64_t now;
    uint32_t published;
    uint8_t slot[SLOTS]; /* the bucket whose bytes lie in it */
    bool filling[SLOTS];
    uint8_t faults_left;
    bool sender_faulty; /* cancelled, or a fill failed */
    bool finished;      /* the sender has told the receivers */
};

enum mark {
    MARK_ALL,
    MARK_SOME,
    MARK_NONE,
    MARK_CANCELLED,
    MARK_FILL_FAILED,
    MARK_CORRUPT,
    MARK_SILENT,
    MARK_LOST,
    MARK_DEVIANT,
    MARK_STALE,
    MARK_OVERWRITTEN,
    MARK_OVERLAP,
    MARK_DEADLINE
};
#define MARKS                                                                 \
    "every receiver complete", "some receivers dropped",                      \
        "all receivers dropped", "cancelled", "a fill failed",                \
        "a wrong digest", "dropped for silence", "dropped by notice",         \
        "dropped for an impossible word", "an old generation's word refused", \
        "a dropped receiver saw its slot reused",                             \
        "a slot filled while another is worked on"
static const char *const marks[] = {MARKS, NULL};
static const char *const marks_deadline[] = {MARKS, "the whole deadline", NULL};

static struct cleat_pipeline *pipeline_of(struct world *w)
{
    return (struct cleat_pipeline *)(void *)w->block;
}

static void init(void *state, const void *arg)
{
    struct world *w = state;
    struct cleat_pipeline_config config;
    struct cleat_intake_config intake;
    struct cleat_pipeline *pipeline;

    w->bounds = arg;
    w->now = 1000;
    w->faults_left = w->bounds->faults;
    memset(w->slot, EMPTY, sizeof w->slot);
    memset(&config, 0, sizeof config);
    config.generation = GENERATION;
    config.ack_timeout_ns = ACK_TIMEOUT;
    config.deadline_ns = w->bounds->deadline_ns;
    config.buckets_count = w->bounds->buckets;
    config.slots_count = w->bounds->slots;
    config.receivers_count = w->bounds->receivers;
    (void)cleat_pipeline_begin(w->block, sizeof w->block, &config, w->now,
                               &pipeline, NULL);
    memset(&intake, 0, sizeof intake);
    intake.generation = GENERATION;
    intake.bucket_timeout_ns = CLEAT_NONE;
    intake.buckets_count = w->bounds->buckets;
    for (uint32_t i = 0; i < w->bounds->receivers; i++) {
        (void)cleat_intake_begin(&w->peers[i].intake, &intake, w->now);
        w->peers[i].owes_since = CLEAT_NEVER;
        w->peers[i].seen = EMPTY;
    }
}

static enum cleat_status standing(struct world *w, uint32_t i)
{
    return cleat_pipeline_receiver_status(pipeline_of(w), i, NULL);
}

static bool running(struct world *w)
{
    return cleat_pipeline_status(pipeline_of(w)) == CLEAT_PENDING;
}

/* ---- what must be true, always ---- */

static void check_receiver(struct choose *c, struct world *w, uint32_t i)
{
    struct peer *peer = &w->peers[i];
    enum cleat_status status = standing(w, i);
    uint32_t acked;

    (void)cleat_pipeline_receiver_status(pipeline_of(w), i, &acked);
    choose_check(c, acked <= peer->has, "complete-only-after-every-bucket");
    choose_check(c, status != CLEAT_OK || peer->has == w->bounds->buckets,
                 "complete-only-after-every-bucket");
    choose_check(c,
                 cleat_intake_status(&peer->intake) != CLEAT_OK ||
                     peer->has == w->bounds->buckets,
                 "complete-only-after-every-bucket");
    /* Who is counted and owes is not past its time; the machine wants to be
     * ticked by then. */
    if (running(w) && status == CLEAT_PENDING &&
        peer->owes_since != CLEAT_NEVER) {
        uint64_t until = peer->owes_since + ACK_TIMEOUT;

        choose_check(c, w->now < until,
                     "a-dead-receiver-delays-nobody-past-its-deadline");
        choose_check(c, cleat_pipeline_deadline(pipeline_of(w)) <= until,
                     "a-dead-receiver-delays-nobody-past-its-deadline");
    }
    choose_check(c,
                 status == CLEAT_PENDING || status == CLEAT_OK || peer->faulty,
                 "nobody is dropped who did nothing wrong");
}

static void check_all(struct choose *c, struct world *w)
{
    enum cleat_status status = cleat_pipeline_status(pipeline_of(w));
    uint32_t complete = 0;

    for (uint32_t i = 0; i < w->bounds->receivers; i++) {
        check_receiver(c, w, i);
        if (standing(w, i) == CLEAT_OK) { complete++; }
        choose_check(c, status != CLEAT_OK || standing(w, i) <= CLEAT_OK,
                     "complete-only-after-every-bucket");
    }
    choose_check(c, status != CLEAT_OK || complete > 0,
                 "complete-only-after-every-bucket");
    choose_check(c, status != CLEAT_GROUP_FAILED || complete == 0,
                 "who is complete is not forgotten");
    choose_check(c,
                 !running(w) || w->bounds->deadline_ns == 0 ||
                     w->now < w->bounds->deadline_ns,
                 "the whole deadline is kept");
}

/* ---- the sender's moves ---- */

static void take_command(struct choose *c, struct world *w)
{
    struct cleat_pipeline_command command;
    bool any = cleat_pipeline_next(pipeline_of(w), &command);

    choose_check(c, any, "the model asked before");
    choose_note(c, "sender: command %d slot %u bucket %u receiver %u",
                (int)command.kind, command.slot, command.bucket,
                command.receiver);
    if (command.kind == CLEAT_PIPELINE_FILL) {
        uint8_t old = w->slot[command.slot];

        choose_check(c, command.slot == command.bucket % w->bounds->slots,
                     "bucket n travels in slot n modulo slots");
        choose_check(c, !w->filling[command.slot],
                     "slot-not-reused-before-acked");
        for (uint32_t i = 0; old != EMPTY && i < w->bounds->receivers; i++) {
            bool counted = standing(w, i) >= CLEAT_OK;

            choose_check(c, !counted || w->peers[i].word > old,
                         "slot-not-reused-before-acked");
            if (w->peers[i].looking) {
                choose_mark(c, w->peers[i].seen == old ? MARK_OVERWRITTEN
                                                       : MARK_OVERLAP);
            }
        }
        for (uint32_t i = 0; i < w->bounds->receivers; i++) {
            if (w->peers[i].looking) { choose_mark(c, MARK_OVERLAP); }
        }
        w->filling[command.slot] = true;
        w->slot[command.slot] = (uint8_t)command.bucket;
    } else if (command.kind == CLEAT_PIPELINE_PUBLISH) {
        choose_check(c,
                     !w->filling[command.slot] &&
                         w->slot[command.slot] == command.bucket,
                     "only what is filled is published");
        choose_check(c, command.bucket == w->published,
                     "buckets are published in order");
        for (uint32_t i = 0; i < w->bounds->receivers; i++) {
            struct peer *peer = &w->peers[i];

            if (peer->read == w->published) { peer->owes_since = w->now; }
        }
        w->published++;
    } else {
        choose_check(c,
                     standing(w, command.receiver) == command.why &&
                         command.why < CLEAT_OK,
                     "a drop tells why");
    }
}

static void end_fill(struct choose *c, struct world *w, uint32_t slot)
{
    enum cleat_status status = CLEAT_OK;

    if (w->faults_left > 0 && choose(c, 2) == 1) {
        w->faults_left--;
        w->sender_faulty = true;
        status = CLEAT_IO;
    }
    w->filling[slot] = false;
    choose_note(c, "sender: slot %u filled, %s", slot,
                cleat_status_name(status));
    choose_check(c,
                 cleat_pipeline_filled(pipeline_of(w), w->now, slot, status) ==
                     CLEAT_OK,
                 "a fill that was asked for is taken");
    if (status != CLEAT_OK) {
        choose_mark(c, MARK_FILL_FAILED);
        choose_check(c, cleat_pipeline_status(pipeline_of(w)) == CLEAT_IO,
                     "a failed fill ends the transfer");
    }
}

/* Reads a receiver's word, or an older one that was overtaken. */
static void read_word(struct choose *c, struct world *w, uint32_t i)
{
    struct peer *peer = &w->peers[i];
    enum cleat_status status = (enum cleat_status)peer->word_status;
    uint32_t count = peer->word;
    uint32_t before;
    uint32_t after;

    if (peer->overtaken != 0 && peer->read >= peer->overtaken) {
        count = peer->overtaken;
        status = CLEAT_OK;
        peer->overtaken = 0;
    } else if (peer->read == count) {
        peer->twice = false;
    }
    (void)cleat_pipeline_receiver_status(pipeline_of(w), i, &before);
    choose_note(c, "sender: reads of %u: %u, %s", i, count,
                cleat_status_name(status));
    choose_check(c,
                 cleat_pipeline_acked(pipeline_of(w), w->now, GENERATION, i,
                                      count, status) == CLEAT_OK,
                 "a word is taken");
    (void)cleat_pipeline_receiver_status(pipeline_of(w), i, &after);
    choose_check(c, after >= before, "an old word takes nothing back");
    if (count > peer->read) {
        peer->read = count;
        peer->owes_since = count < w->published ? w->now : CLEAT_NEVER;
    }
    if (status != CLEAT_OK) {
        peer->read = UINT32_MAX; /* nothing more to read */
        choose_check(c, standing(w, i) < CLEAT_OK, "who gives up is dropped");
    }
}

/* A word of another generation, or an impossible one. */
static void read_rubbish(struct choose *c, struct world *w)
{
    uint32_t i = choose_any(c, w->bounds->receivers);
    unsigned char before[sizeof w->block];

    w->faults_left--;
    memcpy(before, w->block, sizeof before);
    if (choose_any(c, 2) == 0) {
        enum cleat_status status = choose_any(c, 2) == 0 ? CLEAT_OK
                                                         : CLEAT_CORRUPT;

        choose_note(c, "sender: an old generation's word of %u", i);
        choose_check(c,
                     cleat_pipeline_acked(pipeline_of(w), w->now,
                                          GENERATION - 1, i, w->published,
                                          status) == CLEAT_PEER_STALE,
                     "stale-epoch-ignored");
        choose_check(c, memcmp(before, w->block, sizeof before) == 0,
                     "stale-epoch-ignored");
        choose_mark(c, MARK_STALE);
        return;
    }
    choose_note(c, "sender: an impossible word of %u", i);
    if (standing(w, i) == CLEAT_PENDING) {
        w->peers[i].faulty = true;
        choose_check(c,
                     cleat_pipeline_acked(pipeline_of(w), w->now, GENERATION, i,
                                          w->published + 1,
                                          CLEAT_OK) == CLEAT_PEER_DEVIANT &&
                         standing(w, i) == CLEAT_PEER_DEVIANT,
                     "who says what cannot be is dropped");
        choose_mark(c, MARK_DEVIANT);
    }
}

static void tell_lost(struct choose *c, struct world *w, uint32_t i)
{
    bool counted = standing(w, i) == CLEAT_PENDING;

    w->peers[i].notice = false;
    choose_note(c, "sender: receiver %u is lost", i);
    choose_check(c, cleat_pipeline_lost(pipeline_of(w), w->now, i) == CLEAT_OK,
                 "a notice is taken");
    choose_check(c, !counted || standing(w, i) == CLEAT_PEER_LOST,
                 "who is lost is dropped");
    if (counted) { choose_mark(c, MARK_LOST); }
}

static void cancel(struct choose *c, struct world *w)
{
    w->faults_left--;
    w->sender_faulty = true;
    choose_note(c, "sender: cancelled");
    choose_check(c,
                 cleat_pipeline_stop(pipeline_of(w), w->now, CLEAT_CANCELLED) ==
                         CLEAT_OK &&
                     cleat_pipeline_status(pipeline_of(w)) == CLEAT_CANCELLED,
                 "a cancel ends it");
    choose_mark(c, MARK_CANCELLED);
}

/* ---- a receiver's moves ---- */

static struct cleat_intake_command command_of(struct choose *c,
                                              struct peer *peer,
                                              enum cleat_intake_command_kind k)
{
    struct cleat_intake_command command;

    choose_check(c, cleat_intake_next(&peer->intake, &command), "a command");
    choose_check(c, command.kind == k, "verify, then apply, then ack");
    return command;
}

static void write_word(struct choose *c, struct peer *peer,
                       const struct cleat_intake_command *ack, uint32_t flags)
{
    (void)c;
    if (ack->status != CLEAT_OK) {
        peer->word_status = ack->status;
        return;
    }
    if ((flags & FAULT_OVERTAKEN) != 0) { peer->overtaken = peer->word; }
    peer->word = ack->bucket + 1;
    peer->late = peer->late || (flags & FAULT_LATE) != 0;
    peer->twice = peer->twice || (flags & FAULT_TWICE) != 0;
}

/* The bucket has come: its digest is looked at. */
static void look(struct choose *c, struct world *w, uint32_t i)
{
    struct peer *peer = &w->peers[i];
    uint8_t bucket = peer->has;
    const struct choose_fault *fault = choose_fault_pick(c, 0, &w->faults_left);
    uint8_t lies = w->slot[bucket % w->bounds->slots];
    bool good = lies == bucket && (fault->flags & FAULT_DAMAGED) == 0 &&
                !w->filling[bucket % w->bounds->slots];

    choose_note(c, "receiver %u: looks at bucket %u: %s", i, bucket,
                fault->name);
    peer->fault = (uint32_t)(fault - choose_fault_row(0));
    peer->faulty = peer->faulty || peer->fault != CHOOSE_FAULT_NONE;
    choose_check(c,
                 cleat_intake_arrived(&peer->intake, w->now, GENERATION - 1,
                                      bucket) == CLEAT_PEER_STALE,
                 "stale-epoch-ignored");
    choose_check(c,
                 cleat_intake_arrived(&peer->intake, w->now, GENERATION,
                                      bucket) == CLEAT_OK,
                 "the next bucket is taken");
    (void)command_of(c, peer, CLEAT_INTAKE_VERIFY);
    if (!good) {
        struct cleat_intake_command ack;

        choose_mark(c, MARK_CORRUPT);
        (void)cleat_intake_verified(&peer->intake, w->now, CLEAT_CORRUPT);
        ack = command_of(c, peer, CLEAT_INTAKE_ACK);
        choose_check(c, ack.status == CLEAT_CORRUPT,
                     "only-verified-buckets-apply");
        write_word(c, peer, &ack, 0);
        return;
    }
    peer->seen = lies;
    peer->looking = true;
    (void)cleat_intake_verified(&peer->intake, w->now, CLEAT_OK);
    peer->stopped = (fault->flags & FAULT_STOPPED) != 0;
    if ((fault->flags & FAULT_GONE) != 0) {
        peer->notice = (fault->flags & FAULT_NOTICE) != 0;
    }
    /* Neither effect nor answer: it hangs. */
    if ((fault->flags & (FAULT_EFFECT | FAULT_ANSWERS)) == 0) {
        peer->gone = true;
        peer->looking = false;
    }
}

/* What was verified is applied and acknowledged, as the fault lets it. */
static void keep(struct choose *c, struct world *w, uint32_t i)
{
    struct peer *peer = &w->peers[i];
    const struct choose_fault *fault = choose_fault_row(peer->fault);
    struct cleat_intake_command command = command_of(c, peer,
                                                     CLEAT_INTAKE_APPLY);
    bool same = w->slot[command.bucket % w->bounds->slots] == peer->seen &&
                peer->seen == command.bucket;
    enum cleat_status status = same ? CLEAT_OK : CLEAT_CORRUPT;

    choose_note(c, "receiver %u: keeps bucket %u", i, command.bucket);
    choose_check(c, peer->seen == command.bucket,
                 "only-verified-buckets-apply");
    /* A slot changes under a receiver only when it is not counted any more. */
    choose_check(c, same || standing(w, i) < CLEAT_OK || !running(w),
                 "slot-not-reused-before-acked");
    peer->looking = false;
    peer->seen = EMPTY;
    if (same && (fault->flags & FAULT_EFFECT) == 0) { status = fault->status; }
    if (same && (fault->flags & FAULT_ANSWERS) != 0) { status = fault->status; }
    if ((fault->flags & FAULT_GONE) != 0) {
        peer->gone = true;
        return;
    }
    choose_check(
        c, cleat_intake_applied(&peer->intake, w->now, status) == CLEAT_OK,
        "what was applied is taken");
    command = command_of(c, peer, CLEAT_INTAKE_ACK);
    choose_check(c, command.status == status, "the ack says what happened");
    if (status == CLEAT_OK) { peer->has++; }
    if ((fault->flags & FAULT_ANSWERS) == 0) {
        /* The answer is lost on the way; a later one covers it. */
        peer->fault = CHOOSE_FAULT_NONE;
        return;
    }
    write_word(c, peer, &command, fault->flags);
}

/* ---- whose turn ---- */

enum move {
    MOVE_COMMAND,
    MOVE_FILLED,
    MOVE_READ,
    MOVE_LOST,
    MOVE_LOOK,
    MOVE_KEEP,
    MOVE_WAKE,
    MOVE_FINISH,
    MOVE_TIME,
    MOVE_RUBBISH,
    MOVE_CANCEL,
    MOVE_SLOW
};

struct moves {
    struct {
        enum move move;
        uint32_t index;
    } list[32];
    uint32_t count;
    bool busy; /* one that must happen before time may pass */
};

static void may(struct moves *moves, enum move move, uint32_t index)
{
    moves->list[moves->count].move = move;
    moves->list[moves->count].index = index;
    moves->count++;
    moves->busy = moves->busy || move < MOVE_WAKE;
}

static bool has_command(const struct world *w)
{
    struct world copy = *w;
    struct cleat_pipeline_command command;

    return cleat_pipeline_next(pipeline_of(&copy), &command);
}

static void receiver_moves(struct world *w, uint32_t i, struct moves *moves)
{
    struct peer *peer = &w->peers[i];
    bool unread = peer->read != UINT32_MAX &&
                  (peer->word > peer->read || peer->word_status != 0 ||
                   peer->twice || (peer->overtaken != 0));

    if (running(w) && unread && !peer->late) { may(moves, MOVE_READ, i); }
    if (running(w) && peer->notice) { may(moves, MOVE_LOST, i); }
    if (peer->gone) { return; }
    if (peer->stopped) {
        may(moves, MOVE_WAKE, i);
    } else if (peer->looking) {
        may(moves, MOVE_KEEP, i);
    } else if (!w->finished && peer->has < w->published &&
               cleat_intake_status(&peer->intake) == CLEAT_PENDING) {
        may(moves, MOVE_LOOK, i);
    }
}

static void all_moves(struct world *w, struct moves *moves)
{
    moves->count = 0;
    moves->busy = false;
    if (has_command(w)) { may(moves, MOVE_COMMAND, 0); }
    for (uint32_t slot = 0; running(w) && slot < w->bounds->slots; slot++) {
        if (w->filling[slot]) { may(moves, MOVE_FILLED, slot); }
    }
    for (uint32_t i = 0; i < w->bounds->receivers; i++) {
        receiver_moves(w, i, moves);
    }
    if (!running(w) && !w->finished) { may(moves, MOVE_FINISH, 0); }
    if (running(w) && w->faults_left > 0) {
        may(moves, MOVE_RUBBISH, 0);
        may(moves, MOVE_CANCEL, 0);
        if (moves->busy) { may(moves, MOVE_SLOW, 0); }
    }
    if (running(w) && !moves->busy) { may(moves, MOVE_TIME, 0); }
}

/* To the next deadline, or by a little less when that is the fault. */
static void pass_time(struct choose *c, struct world *w)
{
    uint64_t until = cleat_pipeline_deadline(pipeline_of(w));

    choose_check(c, until != CLEAT_NEVER && until > w->now,
                 "a machine that waits says until when");
    choose_check(c, cleat_pipeline_tick(pipeline_of(w), until - 1) == CLEAT_OK,
                 "nothing happens before its deadline");
    w->now = until;
    (void)cleat_pipeline_tick(pipeline_of(w), w->now);
    choose_note(c, "time: %u", (unsigned)w->now);
    for (uint32_t i = 0; i < w->bounds->receivers; i++) {
        w->peers[i].late = false;
        if (standing(w, i) == CLEAT_PEER_SILENT) {
            choose_mark(c, MARK_SILENT);
        }
    }
}

/* Everything was slower than it may be: who is dropped for it did nothing
 * wrong but be slow. */
static void slow(struct choose *c, struct world *w)
{
    w->faults_left--;
    for (uint32_t i = 0; i < w->bounds->receivers; i++) {
        w->peers[i].faulty = true;
    }
    if (cleat_pipeline_deadline(pipeline_of(w)) != CLEAT_NEVER) {
        pass_time(c, w);
    }
}

/* The sender leaves: whoever still waits is told. */
static void finish(struct choose *c, struct world *w)
{
    w->finished = true;
    for (uint32_t i = 0; i < w->bounds->receivers; i++) {
        struct peer *peer = &w->peers[i];

        if (peer->gone || peer->looking ||
            cleat_intake_status(&peer->intake) != CLEAT_PENDING) {
            continue;
        }
        choose_check(c,
                     cleat_intake_stop(&peer->intake, w->now,
                                       CLEAT_GROUP_FAILED) == CLEAT_OK,
                     "an intake is told");
    }
}

static void at_rest(struct choose *c, struct world *w)
{
    enum cleat_status status = cleat_pipeline_status(pipeline_of(w));
    uint32_t complete = 0;

    choose_check(c, !running(w), "it comes to rest");
    for (uint32_t i = 0; i < w->bounds->receivers; i++) {
        if (standing(w, i) == CLEAT_OK) { complete++; }
        choose_check(c,
                     w->peers[i].faulty || w->sender_faulty ||
                         status == CLEAT_DEADLINE ||
                         (standing(w, i) == CLEAT_OK &&
                          cleat_intake_status(&w->peers[i].intake) == CLEAT_OK),
                     "who is well is complete, whatever the others do");
    }
    if (status == CLEAT_DEADLINE) { choose_mark(c, MARK_DEADLINE); }
    if (status == CLEAT_GROUP_FAILED) { choose_mark(c, MARK_NONE); }
    if (status == CLEAT_OK) {
        choose_mark(c, complete == w->bounds->receivers ? MARK_ALL : MARK_SOME);
    }
}

static void make(struct choose *c, struct world *w, enum move move,
                 uint32_t index)
{
    switch (move) {
    case MOVE_COMMAND: take_command(c, w); break;
    case MOVE_FILLED: end_fill(c, w, index); break;
    case MOVE_READ: read_word(c, w, index); break;
    case MOVE_LOST: tell_lost(c, w, index); break;
    case MOVE_LOOK: look(c, w, index); break;
    case MOVE_KEEP: keep(c, w, index); break;
    case MOVE_WAKE: w->peers[index].stopped = false; break;
    case MOVE_FINISH: finish(c, w); break;
    case MOVE_TIME: pass_time(c, w); break;
    case MOVE_RUBBISH: read_rubbish(c, w); break;
    case MOVE_CANCEL: cancel(c, w); break;
    case MOVE_SLOW: slow(c, w); break;
    }
}

static bool step(struct choose *c, void *state)
{
    struct world *w = state;
    struct moves moves;
    uint32_t chosen;

    all_moves(w, &moves);
    if (moves.count == 0) {
        at_rest(c, w);
        return false;
    }
    chosen = choose_any(c, moves.count);
    make(c, w, moves.list[chosen].move, moves.list[chosen].index);
    check_all(c, w);
    return true;
}

/* ---- what decides the future ---- */

#define PEER_BYTES 64u

static size_t project_peer(const struct world *w, uint32_t i,
                           unsigned char *out)
{
    const struct peer *peer = &w->peers[i];
    const struct cleat_pipeline_receiver *r =
        (const struct cleat_pipeline_receiver
             *)(const void *)(w->block + sizeof(struct cleat_pipeline)) +
        i;
    unsigned char *at = out;

    at = choose_put_time(at, r->deadline_ns, w->now);
    at = choose_put_time(at,
                         peer->owes_since == CLEAT_NEVER
                             ? CLEAT_NEVER
                             : peer->owes_since + ACK_TIMEOUT,
                         w->now);
    at = choose_put_u8(at, r->acked);
    at = choose_put_u8(at, (uint32_t)r->status & 255u);
    at = choose_put_u8(at, r->drop_owed);
    at = choose_put_u8(at, (uint32_t)peer->intake.status & 255u);
    at = choose_put_u8(at, peer->intake.state);
    at = choose_put_u8(at, peer->intake.bucket);
    at = choose_put_u8(at, peer->word);
    at = choose_put_u8(at, (uint32_t)peer->word_status & 255u);
    at = choose_put_u8(at, peer->read & 255u);
    at = choose_put_u8(at, peer->overtaken);
    at = choose_put_u8(at, peer->looking ? peer->fault : 0);
    at = choose_put_u8(at, peer->has);
    at = choose_put_u8(at, peer->seen);
    at = choose_put_u8(
        at, (uint32_t)peer->looking | (uint32_t)peer->gone << 1 |
                (uint32_t)peer->stopped << 2 | (uint32_t)peer->notice << 3 |
                (uint32_t)peer->late << 4 | (uint32_t)peer->twice << 5 |
                (uint32_t)peer->faulty << 6);
    return (size_t)(at - out);
}

/* Receivers are alike: which one is which decides nothing. */
static unsigned char *project_peers(const struct world *w, unsigned char *out)
{
    unsigned char peers[RECEIVERS][PEER_BYTES];
    size_t bytes = 0;

    memset(peers, 0, sizeof peers);
    for (uint32_t i = 0; i < w->bounds->receivers; i++) {
        bytes = project_peer(w, i, peers[i]);
        for (uint32_t k = i; k > 0 && memcmp(peers[k - 1], peers[k], bytes) > 0;
             k--) {
            unsigned char swap[PEER_BYTES];

            memcpy(swap, peers[k], PEER_BYTES);
            memcpy(peers[k], peers[k - 1], PEER_BYTES);
            memcpy(peers[k - 1], swap, PEER_BYTES);
        }
    }
    for (uint32_t i = 0; i < w->bounds->receivers; i++) {
        out = choose_put(out, peers[i], bytes);
    }
    return out;
}

static size_t project(const void *state, void *out)
{
    const struct world *w = state;
    const struct cleat_pipeline *p =
        (const struct cleat_pipeline *)(const void *)w->block;
    unsigned char *at = out;

    at = choose_put_u8(at, (uint32_t)p->status & 255u);
    at = choose_put_time(at, p->deadline_ns, w->now);
    at = choose_put_u8(at, p->fill_next);
    at = choose_put_u8(at, p->publish_next);
    at = choose_put_u8(at, p->acked_by_all);
    at = choose_put(at, p->filled, SLOTS);
    at = choose_put(at, w->slot, SLOTS);
    at = choose_put(at, w->filling, SLOTS);
    at = choose_put_u8(at, w->published);
    at = choose_put_u8(at, w->faults_left);
    at = choose_put_u8(at,
                       (uint32_t)w->sender_faulty | (uint32_t)w->finished << 1);
    at = project_peers(w, at);
    return (size_t)(at - (unsigned char *)out);
}

/* More buckets than slots, so that each slot is used again. */
static const struct bounds three_once = {5, 3, 3, 0, 1};
static const struct bounds three_twice = {4, 3, 3, 0, 2};
static const struct bounds two_thrice = {4, 2, 2, 0, 3};
static const struct bounds one_slot = {3, 3, 1, 0, 2};
static const struct bounds deadline = {4, 2, 3, 1015, 2};

#define TEST(name_, bounds_, marks_, slow_)                                    \
    {                                                                          \
        .name = name_, .state_bytes = sizeof(struct world), .init = init,      \
        .step = step, .project = project, .arg = &(bounds_), .steps_max = 400, \
        .endless_fails = true, .marks = (marks_), .slow = (slow_)              \
    }
static const struct choose_test tests[] = {
    TEST("pipeline-3-slots-3-receivers-1-fault", three_once, marks, false),
    TEST("pipeline-3-slots-3-receivers-2-faults", three_twice, marks, true),
    TEST("pipeline-2-slots-2-receivers-3-faults", two_thrice, marks, false),
    TEST("pipeline-1-slot-3-receivers-2-faults", one_slot, NULL, false),
    TEST("pipeline-3-slots-2-receivers-a-deadline", deadline, marks_deadline,
         false)};

int main(int argc, char **argv)
{
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
