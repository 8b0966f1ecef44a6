/* Cleat: buckets through slots. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/pipeline.h"

#include <string.h>

#include "assert.h"
#include "text.h"

CLEAT_STATIC_ASSERT(sizeof(struct cleat_pipeline) % sizeof(uint64_t) == 0,
                    "the receivers follow the header aligned");

/* A deadline that never comes is not due at any time, not even at the last. */
static bool due(uint64_t deadline_ns, uint64_t now_ns)
{
    return deadline_ns <= now_ns && deadline_ns != CLEAT_NEVER;
}

static uint64_t earlier(uint64_t a_ns, uint64_t b_ns)
{
    return a_ns < b_ns ? a_ns : b_ns;
}

/* ---- the sender's end ---- */

static struct cleat_pipeline_receiver *receivers_of(struct cleat_pipeline *p)
{
    CLEAT_ASSERT(p != NULL);
    CLEAT_ASSERT(p->receivers_count >= 1);
    return (struct cleat_pipeline_receiver *)(void *)(p + 1);
}

static const struct cleat_pipeline_receiver *
receiver_of(const struct cleat_pipeline *p, uint32_t receiver)
{
    CLEAT_ASSERT(p != NULL);
    CLEAT_ASSERT(receiver < p->receivers_count);
    return (const struct cleat_pipeline_receiver *)(const void *)(p + 1) +
           receiver;
}

/* True where two facts meet; at the entry and the exit of every event. */
static void check(const struct cleat_pipeline *p)
{
    CLEAT_ASSERT(p != NULL);
    CLEAT_ASSERT(p->acked_by_all <= p->publish_next);
    CLEAT_ASSERT(p->publish_next <= p->fill_next);
    CLEAT_ASSERT(p->fill_next <= p->buckets_count);
    CLEAT_ASSERT(p->fill_next - p->acked_by_all <= p->slots_count);
    CLEAT_ASSERT(p->slots_count >= 1);
    CLEAT_ASSERT(p->slots_count <= CLEAT_PIPELINE_SLOTS_MAX);
    CLEAT_ASSERT(p->drops_owed <= p->receivers_count);
    CLEAT_ASSERT(p->status <= CLEAT_PENDING);
    (void)p;
}

static void drop(struct cleat_pipeline *p, struct cleat_pipeline_receiver *r,
                 enum cleat_status why)
{
    CLEAT_ASSERT(r->status == CLEAT_PENDING);
    CLEAT_ASSERT(why < CLEAT_OK);
    r->status = (int16_t)why;
    r->deadline_ns = CLEAT_NEVER;
    r->drop_owed = 1;
    p->drops_owed++;
    CLEAT_ASSERT(p->drops_owed <= p->receivers_count);
}

/* Draws the conclusion from the receivers: how far all counted ones are, and
 * whether any is still counted. */
static void settle(struct cleat_pipeline *p)
{
    const struct cleat_pipeline_receiver *r = receivers_of(p);
    uint32_t acked_by_all = p->publish_next;
    bool counted = false;
    bool complete = false;

    CLEAT_ASSERT(p->status == CLEAT_PENDING);
    for (uint32_t i = 0; i < p->receivers_count; i++) {
        if (r[i].status == CLEAT_OK) { complete = true; }
        if (r[i].status != CLEAT_PENDING) { continue; }
        counted = true;
        if (r[i].acked < acked_by_all) { acked_by_all = r[i].acked; }
    }
    CLEAT_ASSERT(acked_by_all >= p->acked_by_all);
    CLEAT_ASSERT(acked_by_all <= p->publish_next);
    if (!counted) {
        p->status = complete ? CLEAT_OK : CLEAT_GROUP_FAILED;
    } else {
        p->acked_by_all = acked_by_all;
    }
}

/* Moves time on. CLEAT_OK: the event may be looked at. */
static enum cleat_status enter(struct cleat_pipeline *p, uint64_t now_ns)
{
    struct cleat_pipeline_receiver *r = receivers_of(p);
    uint64_t until_ns;

    check(p);
    if (now_ns < p->now_ns) { return CLEAT_TIME_BACKWARDS; }
    if (p->status != CLEAT_PENDING) { return CLEAT_STATE; }
    p->now_ns = now_ns;
    /* What would have come after the transfer's own end did not happen. */
    until_ns = earlier(now_ns, p->deadline_ns);
    CLEAT_ASSERT(until_ns <= now_ns);
    for (uint32_t i = 0; i < p->receivers_count; i++) {
        if (due(r[i].deadline_ns, until_ns)) {
            drop(p, &r[i], CLEAT_PEER_SILENT);
        }
    }
    settle(p);
    if (p->status == CLEAT_PENDING && due(p->deadline_ns, now_ns)) {
        p->status = CLEAT_DEADLINE;
    }
    check(p);
    return p->status == CLEAT_PENDING ? CLEAT_OK : CLEAT_STATE;
}

size_t cleat_pipeline_bytes(uint32_t receivers)
{
    size_t each = sizeof(struct cleat_pipeline_receiver);
    size_t bytes = CLEAT_PIPELINE_BYTES(receivers);

    CLEAT_ASSERT(CLEAT_PIPELINE_BYTES(0) == sizeof(struct cleat_pipeline));
    CLEAT_ASSERT(each % sizeof(uint64_t) == 0);
    return (bytes - sizeof(struct cleat_pipeline)) / each == receivers
               ? bytes
               : SIZE_MAX;
}

enum cleat_status cleat_pipeline_begin(
    void *block, size_t bytes, const struct cleat_pipeline_config *config,
    uint64_t now_ns, struct cleat_pipeline **out, struct cleat_error *error)
{
    struct cleat_pipeline *p = block;
    size_t needed;

    CLEAT_ASSERT(config != NULL);
    CLEAT_ASSERT(out != NULL);
    if (block == NULL || config->receivers_count == 0 ||
        config->slots_count > CLEAT_PIPELINE_SLOTS_MAX) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, block == NULL ? 0 : 2, 0,
                            "pipeline: a block, 1 receiver or more and 8 "
                            "slots or fewer are needed");
    }
    needed = cleat_pipeline_bytes(config->receivers_count);
    if (bytes < needed) {
        return CLEAT_REFUSE(error, CLEAT_TOO_SMALL, 1, needed,
                            "pipeline: the block is too small");
    }
    memset(p, 0, needed);
    p->generation = config->generation;
    p->ack_timeout_ns = config->ack_timeout_ns != 0
                            ? config->ack_timeout_ns
                            : CLEAT_PIPELINE_ACK_TIMEOUT_NS_DEFAULT;
    p->deadline_ns = config->deadline_ns != 0 ? config->deadline_ns
                                              : CLEAT_NEVER;
    p->now_ns = now_ns;
    p->buckets_count = config->buckets_count;
    p->slots_count = config->slots_count != 0 ? config->slots_count
                                              : CLEAT_PIPELINE_SLOTS_DEFAULT;
    p->receivers_count = config->receivers_count;
    p->status = p->buckets_count == 0 ? CLEAT_OK : CLEAT_PENDING;
    for (uint32_t i = 0; i < p->receivers_count; i++) {
        receivers_of(p)[i].deadline_ns = CLEAT_NEVER;
        receivers_of(p)[i].status = (int16_t)p->status;
    }
    check(p);
    *out = p;
    return CLEAT_OK;
}

static void command_drop(struct cleat_pipeline *p,
                         struct cleat_pipeline_command *command)
{
    struct cleat_pipeline_receiver *r = receivers_of(p);
    uint32_t i = 0;

    while (i + 1 < p->receivers_count && r[i].drop_owed == 0) { i++; }
    CLEAT_ASSERT(r[i].drop_owed != 0);
    CLEAT_ASSERT(r[i].status < CLEAT_OK);
    CLEAT_ASSERT(p->drops_owed > 0);
    r[i].drop_owed = 0;
    p->drops_owed--;
    command->kind = CLEAT_PIPELINE_DROP;
    command->receiver = i;
    command->why = (enum cleat_status)r[i].status;
}

static void command_publish(struct cleat_pipeline *p,
                            struct cleat_pipeline_command *command)
{
    struct cleat_pipeline_receiver *r = receivers_of(p);

    CLEAT_ASSERT(p->publish_next < p->fill_next);
    command->kind = CLEAT_PIPELINE_PUBLISH;
    command->bucket = p->publish_next;
    command->slot = p->publish_next % p->slots_count;
    CLEAT_ASSERT(p->filled[command->slot] == 1);
    CLEAT_ASSERT(p->status == CLEAT_PENDING);
    p->filled[command->slot] = 0;
    /* Whoever owed nothing owes from now on. */
    for (uint32_t i = 0; i < p->receivers_count; i++) {
        if (r[i].status == CLEAT_PENDING && r[i].acked == p->publish_next) {
            r[i].deadline_ns = cleat_time_add(p->now_ns, p->ack_timeout_ns);
        }
    }
    p->publish_next++;
}

bool cleat_pipeline_next(struct cleat_pipeline *p,
                         struct cleat_pipeline_command *command)
{
    check(p);
    CLEAT_ASSERT(command != NULL);
    memset(command, 0, sizeof *command);
    if (p->drops_owed != 0) {
        command_drop(p, command);
    } else if (p->status != CLEAT_PENDING) {
        return false;
    } else if (p->publish_next < p->fill_next &&
               p->filled[p->publish_next % p->slots_count] != 0) {
        command_publish(p, command);
    } else if (p->fill_next < p->buckets_count &&
               p->fill_next - p->acked_by_all < p->slots_count) {
        CLEAT_ASSERT(p->publish_next >= p->acked_by_all);
        command->kind = CLEAT_PIPELINE_FILL;
        command->bucket = p->fill_next;
        command->slot = p->fill_next % p->slots_count;
        CLEAT_ASSERT(p->filled[command->slot] == 0);
        p->fill_next++;
    } else {
        return false;
    }
    check(p);
    return true;
}

uint64_t cleat_pipeline_deadline(const struct cleat_pipeline *p)
{
    uint64_t deadline_ns = p->deadline_ns;

    check(p);
    if (p->status != CLEAT_PENDING) { return CLEAT_NEVER; }
    for (uint32_t i = 0; i < p->receivers_count; i++) {
        deadline_ns = earlier(deadline_ns, receiver_of(p, i)->deadline_ns);
    }
    CLEAT_ASSERT(deadline_ns > p->now_ns || p->deadline_ns <= p->now_ns ||
                 p->now_ns == CLEAT_NEVER);
    return deadline_ns;
}

enum cleat_status cleat_pipeline_tick(struct cleat_pipeline *p, uint64_t now_ns)
{
    CLEAT_ASSERT(p != NULL);
    return enter(p, now_ns);
}

enum cleat_status cleat_pipeline_filled(struct cleat_pipeline *p,
                                        uint64_t now_ns, uint32_t slot,
                                        enum cleat_status status)
{
    enum cleat_status entered = enter(p, now_ns);
    uint32_t ahead;

    if (entered != CLEAT_OK) { return entered; }
    if (slot >= p->slots_count || status > CLEAT_OK) { return CLEAT_INVALID; }
    /* Fills under way are those of buckets publish_next … fill_next - 1. */
    ahead = (slot + p->slots_count - p->publish_next % p->slots_count) %
            p->slots_count;
    if (ahead >= p->fill_next - p->publish_next || p->filled[slot] != 0) {
        return CLEAT_INVALID;
    }
    CLEAT_ASSERT(p->publish_next + ahead < p->fill_next);
    CLEAT_ASSERT((p->publish_next + ahead) % p->slots_count == slot);
    if (status != CLEAT_OK) {
        p->status = status;
    } else {
        p->filled[slot] = 1;
    }
    check(p);
    return CLEAT_OK;
}

enum cleat_status cleat_pipeline_acked(struct cleat_pipeline *p,
                                       uint64_t now_ns, uint64_t generation,
                                       uint32_t receiver,
                                       uint32_t buckets_acked,
                                       enum cleat_status status)
{
    enum cleat_status entered = enter(p, now_ns);
    struct cleat_pipeline_receiver *r;

    if (entered != CLEAT_OK) { return entered; }
    if (receiver >= p->receivers_count || status > CLEAT_OK) {
        return CLEAT_INVALID;
    }
    if (generation != p->generation) { return CLEAT_PEER_STALE; }
    r = &receivers_of(p)[receiver];
    if (r->status != CLEAT_PENDING) { return CLEAT_OK; }
    if (buckets_acked > p->publish_next) {
        drop(p, r, CLEAT_PEER_DEVIANT);
        settle(p);
        return CLEAT_PEER_DEVIANT;
    }
    CLEAT_ASSERT(r->acked <= p->publish_next);
    CLEAT_ASSERT(r->acked < p->buckets_count);
    if (buckets_acked > r->acked) {
        r->acked = buckets_acked;
        r->deadline_ns = buckets_acked < p->publish_next
                             ? cleat_time_add(now_ns, p->ack_timeout_ns)
                             : CLEAT_NEVER;
    }
    if (status != CLEAT_OK) {
        drop(p, r, status);
    } else if (r->acked == p->buckets_count) {
        r->status = CLEAT_OK;
    }
    settle(p);
    check(p);
    return CLEAT_OK;
}

enum cleat_status cleat_pipeline_lost(struct cleat_pipeline *p, uint64_t now_ns,
                                      uint32_t receiver)
{
    enum cleat_status entered = enter(p, now_ns);

    if (entered != CLEAT_OK) { return entered; }
    if (receiver >= p->receivers_count) { return CLEAT_INVALID; }
    if (receivers_of(p)[receiver].status == CLEAT_PENDING) {
        drop(p, &receivers_of(p)[receiver], CLEAT_PEER_LOST);
        settle(p);
    }
    check(p);
    return CLEAT_OK;
}

enum cleat_status cleat_pipeline_stop(struct cleat_pipeline *p, uint64_t now_ns,
                                      enum cleat_status status)
{
    enum cleat_status entered = enter(p, now_ns);

    if (entered != CLEAT_OK) { return entered; }
    if (status >= CLEAT_OK) { return CLEAT_INVALID; }
    p->status = status;
    check(p);
    return CLEAT_OK;
}

enum cleat_status cleat_pipeline_status(const struct cleat_pipeline *p)
{
    check(p);
    CLEAT_ASSERT(p->status != CLEAT_OK || p->publish_next == p->buckets_count);
    return (enum cleat_status)p->status;
}

enum cleat_status cleat_pipeline_receiver_status(const struct cleat_pipeline *p,
                                                 uint32_t receiver,
                                                 uint32_t *buckets_acked)
{
    const struct cleat_pipeline_receiver *r = receiver_of(p, receiver);

    CLEAT_ASSERT(r->acked <= p->publish_next);
    CLEAT_ASSERT(r->status != CLEAT_OK || r->acked == p->buckets_count);
    if (buckets_acked != NULL) { *buckets_acked = r->acked; }
    return (enum cleat_status)r->status;
}

uint32_t cleat_pipeline_acked_by_all(const struct cleat_pipeline *p)
{
    check(p);
    CLEAT_ASSERT(p->acked_by_all <= p->buckets_count);
    return p->acked_by_all;
}

/* ---- the receiver's end ---- */

/* What an intake is doing with the bucket that it is at. OWED: the command has
 * not been handed out. */
enum {
    INTAKE_WAITING,
    INTAKE_VERIFY_OWED,
    INTAKE_VERIFYING,
    INTAKE_APPLY_OWED,
    INTAKE_APPLYING,
    INTAKE_ACK_OWED,
    INTAKE_FAIL_OWED, /* status is an error that the sender must be told */
    INTAKE_ENDED
};

/* True where two facts meet; at the entry and the exit of every event. */
static void intake_check(const struct cleat_intake *in)
{
    CLEAT_ASSERT(in != NULL);
    CLEAT_ASSERT(in->state <= INTAKE_ENDED);
    CLEAT_ASSERT(in->bucket <= in->buckets_count);
    CLEAT_ASSERT(in->applied - in->bucket <= 1);
    CLEAT_ASSERT(in->status <= CLEAT_PENDING);
    CLEAT_ASSERT((in->status == CLEAT_PENDING) ==
                 (in->state < INTAKE_FAIL_OWED));
    CLEAT_ASSERT(in->status != CLEAT_OK || in->applied == in->buckets_count);
    (void)in;
}

static void intake_fail(struct cleat_intake *in, enum cleat_status status)
{
    CLEAT_ASSERT(in->status == CLEAT_PENDING);
    CLEAT_ASSERT(status < CLEAT_OK);
    in->status = status;
    in->state = INTAKE_FAIL_OWED;
}

static void intake_expect(struct cleat_intake *in, uint32_t bucket)
{
    CLEAT_ASSERT(bucket <= in->buckets_count);
    CLEAT_ASSERT(bucket == in->applied);
    in->bucket = bucket;
    in->bucket_deadline_ns = cleat_time_add(in->now_ns, in->bucket_timeout_ns);
    in->state = INTAKE_WAITING;
    if (bucket == in->buckets_count) {
        in->status = CLEAT_OK;
        in->state = INTAKE_ENDED;
    }
}

static enum cleat_status intake_enter(struct cleat_intake *in, uint64_t now_ns)
{
    intake_check(in);
    if (now_ns < in->now_ns) { return CLEAT_TIME_BACKWARDS; }
    if (in->status != CLEAT_PENDING) { return CLEAT_STATE; }
    in->now_ns = now_ns;
    if (in->state == INTAKE_WAITING && due(in->bucket_deadline_ns, now_ns) &&
        in->bucket_deadline_ns < in->deadline_ns) {
        intake_fail(in, CLEAT_PEER_SILENT);
    } else if (due(in->deadline_ns, now_ns)) {
        intake_fail(in, CLEAT_DEADLINE);
    }
    intake_check(in);
    return in->status == CLEAT_PENDING ? CLEAT_OK : CLEAT_STATE;
}

enum cleat_status cleat_intake_begin(struct cleat_intake *in,
                                     const struct cleat_intake_config *config,
                                     uint64_t now_ns)
{
    CLEAT_ASSERT(in != NULL);
    CLEAT_ASSERT(config != NULL);
    memset(in, 0, sizeof *in);
    in->generation = config->generation;
    in->bucket_timeout_ns = config->bucket_timeout_ns != 0
                                ? config->bucket_timeout_ns
                                : CLEAT_INTAKE_BUCKET_TIMEOUT_NS_DEFAULT;
    in->deadline_ns = config->deadline_ns != 0 ? config->deadline_ns
                                               : CLEAT_NEVER;
    in->now_ns = now_ns;
    in->buckets_count = config->buckets_count;
    in->status = CLEAT_PENDING;
    intake_expect(in, 0);
    intake_check(in);
    return CLEAT_OK;
}

bool cleat_intake_next(struct cleat_intake *in,
                       struct cleat_intake_command *command)
{
    CLEAT_ASSERT(in != NULL);
    CLEAT_ASSERT(command != NULL);
    command->bucket = in->bucket;
    command->status = CLEAT_OK;
    switch (in->state) {
    case INTAKE_VERIFY_OWED:
        command->kind = CLEAT_INTAKE_VERIFY;
        in->state = INTAKE_VERIFYING;
        return true;
    case INTAKE_APPLY_OWED:
        command->kind = CLEAT_INTAKE_APPLY;
        CLEAT_ASSERT(in->applied == in->bucket);
        in->state = INTAKE_APPLYING;
        in->applied++;
        return true;
    case INTAKE_ACK_OWED:
        command->kind = CLEAT_INTAKE_ACK;
        CLEAT_ASSERT(in->applied == in->bucket + 1);
        intake_expect(in, in->bucket + 1);
        return true;
    case INTAKE_FAIL_OWED:
        command->kind = CLEAT_INTAKE_ACK;
        CLEAT_ASSERT(in->status < CLEAT_OK);
        command->status = (enum cleat_status)in->status;
        in->state = INTAKE_ENDED;
        return true;
    default: return false;
    }
}

uint64_t cleat_intake_deadline(const struct cleat_intake *in)
{
    CLEAT_ASSERT(in != NULL);
    CLEAT_ASSERT(in->state <= INTAKE_ENDED);
    if (in->status != CLEAT_PENDING) { return CLEAT_NEVER; }
    return in->state == INTAKE_WAITING
               ? earlier(in->deadline_ns, in->bucket_deadline_ns)
               : in->deadline_ns;
}

enum cleat_status cleat_intake_tick(struct cleat_intake *in, uint64_t now_ns)
{
    CLEAT_ASSERT(in != NULL);
    return intake_enter(in, now_ns);
}

enum cleat_status cleat_intake_arrived(struct cleat_intake *in, uint64_t now_ns,
                                       uint64_t generation, uint32_t bucket)
{
    enum cleat_status entered = intake_enter(in, now_ns);

    if (entered != CLEAT_OK) { return entered; }
    if (generation != in->generation) { return CLEAT_PEER_STALE; }
    if (bucket > in->bucket) {
        intake_fail(in, CLEAT_PEER_DEVIANT);
        return CLEAT_PEER_DEVIANT;
    }
    if (bucket < in->bucket || in->state != INTAKE_WAITING) {
        return CLEAT_EXISTS;
    }
    CLEAT_ASSERT(bucket < in->buckets_count);
    in->state = INTAKE_VERIFY_OWED;
    intake_check(in);
    return CLEAT_OK;
}

/* The end of what was asked for in `state`, and what comes after it. */
static enum cleat_status intake_did(struct cleat_intake *in, uint64_t now_ns,
                                    enum cleat_status status, uint32_t state,
                                    uint32_t next)
{
    enum cleat_status entered = intake_enter(in, now_ns);

    CLEAT_ASSERT(state == INTAKE_VERIFYING || state == INTAKE_APPLYING);
    CLEAT_ASSERT(next == state + 1);
    if (entered != CLEAT_OK) { return entered; }
    if (in->state != state || status > CLEAT_OK) { return CLEAT_INVALID; }
    if (status != CLEAT_OK) {
        intake_fail(in, status);
    } else {
        in->state = next;
    }
    return CLEAT_OK;
}

enum cleat_status cleat_intake_verified(struct cleat_intake *in,
                                        uint64_t now_ns,
                                        enum cleat_status status)
{
    CLEAT_ASSERT(in != NULL);
    return intake_did(in, now_ns, status, INTAKE_VERIFYING, INTAKE_APPLY_OWED);
}

enum cleat_status cleat_intake_applied(struct cleat_intake *in, uint64_t now_ns,
                                       enum cleat_status status)
{
    CLEAT_ASSERT(in != NULL);
    return intake_did(in, now_ns, status, INTAKE_APPLYING, INTAKE_ACK_OWED);
}

enum cleat_status cleat_intake_stop(struct cleat_intake *in, uint64_t now_ns,
                                    enum cleat_status status)
{
    enum cleat_status entered = intake_enter(in, now_ns);

    if (entered != CLEAT_OK) { return entered; }
    if (status >= CLEAT_OK) { return CLEAT_INVALID; }
    intake_fail(in, status);
    return CLEAT_OK;
}

enum cleat_status cleat_intake_status(const struct cleat_intake *in)
{
    intake_check(in);
    return (enum cleat_status)in->status;
}

uint32_t cleat_intake_applied_count(const struct cleat_intake *in)
{
    CLEAT_ASSERT(in != NULL);
    CLEAT_ASSERT(in->applied <= in->buckets_count);
    return in->applied;
}
