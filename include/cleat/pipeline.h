/* Cleat: buckets through slots. SPDX-License-Identifier: Apache-2.0
 *
 * Two machines, one for each end of a transfer. The *pipeline* moves buckets 0,
 * 1, 2 … from one sender through a few slots to many receivers; the *intake* is
 * one receiver's side of it. Filling a slot, sending it and working on it
 * overlap: while the receivers copy bucket n, the sender fills n + 1.
 *
 *   a slot        free ──FILL──▶ filling ──filled──▶ full ──PUBLISH──▶ sent
 *                  ▲                                                    │
 *                  └──── acknowledged by every receiver not dropped ────┘
 *
 *   a receiver    counted ──┬── has acknowledged every bucket ──▶ complete
 *                           └── failed, lost, deviant or late ──▶ dropped
 *
 *   the pipeline  running ──┬── every receiver complete or dropped,
 *                           │   at least one complete ─────────▶ CLEAT_OK
 *                           ├── all dropped ─────────▶ CLEAT_GROUP_FAILED
 *                           └── a fill failed, cancel, deadline ─▶ that status
 *
 *   the intake    waiting ─▶ VERIFY ─▶ APPLY ─▶ ACK ─▶ waiting … ─▶ CLEAT_OK
 *                              └─ wrong digest ─▶ ACK(error) ─▶ that status
 *
 * Bucket n travels in slot n modulo slots_count. There is no resending: an
 * attempt that fails is made again as a whole, under a new generation.
 *
 * A receiver that owes an acknowledgement for ack_timeout_ns is dropped and
 * then delays nobody. It owes from when the bucket was published or from when
 * it acknowledged the one before, whichever came later, so one that is slow but
 * moves is kept.
 *
 * Every call that carries a time first applies the deadlines that are ≤ that
 * time: what comes at its deadline is late. Times are absolute nanoseconds.
 *
 * Invariants: slot-not-reused-before-acked · only-verified-buckets-apply ·
 * complete-only-after-every-bucket ·
 * a-dead-receiver-delays-nobody-past-its-deadline · stale-epoch-ignored.
 */
#ifndef CLEAT_PIPELINE_H
#define CLEAT_PIPELINE_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_PIPELINE_SLOTS_MAX 8u
#define CLEAT_PIPELINE_SLOTS_DEFAULT 3u
#define CLEAT_PIPELINE_ACK_TIMEOUT_NS_DEFAULT (10 * CLEAT_NS_PER_S)

struct cleat_pipeline_config {
    uint64_t generation;      /* names this attempt; answers to others are
                                 refused */
    uint64_t ack_timeout_ns;  /* how long a receiver may owe an acknowledgement.
                                 0: 10 s. CLEAT_NONE: for ever. */
    uint64_t deadline_ns;     /* of the whole transfer, absolute. 0: never */
    uint32_t buckets_count;   /* 0 is legal: the transfer is complete at once */
    uint32_t slots_count;     /* 1 … CLEAT_PIPELINE_SLOTS_MAX. 0: 3 */
    uint32_t receivers_count; /* ≥ 1 */
};

/* One receiver, as the sender sees it. Not for reading. */
struct cleat_pipeline_receiver {
    uint64_t deadline_ns; /* CLEAT_NEVER: it owes nothing */
    uint32_t acked;       /* buckets 0 … acked - 1 are acknowledged */
    int16_t status;       /* PENDING: counted; OK: complete; else dropped */
    uint16_t drop_owed;   /* the driver has not been told yet */
};

/* The pipeline; its receivers follow it in its block. Visible so that a block
 * can be sized; the members are not for reading. No pointers: a copy of the
 * block is a snapshot. */
struct cleat_pipeline {
    uint64_t generation;
    uint64_t ack_timeout_ns;
    uint64_t deadline_ns;
    uint64_t now_ns;
    uint32_t buckets_count;
    uint32_t slots_count;
    uint32_t receivers_count;
    uint32_t fill_next;    /* the next bucket to hand out for filling */
    uint32_t publish_next; /* the next bucket to hand out for publishing */
    uint32_t
        acked_by_all;    /* buckets below it are acknowledged by all counted */
    uint32_t drops_owed; /* receivers whose DROP has not been handed out */
    int32_t status;
    uint8_t filled[CLEAT_PIPELINE_SLOTS_MAX]; /* 1: its fill has ended well */
};

/* Bytes of block for up to `receivers` receivers; a constant expression. */
#define CLEAT_PIPELINE_BYTES(receivers) \
    (sizeof(struct cleat_pipeline) +    \
     (size_t)(receivers) * sizeof(struct cleat_pipeline_receiver))

enum cleat_pipeline_command_kind {
    CLEAT_PIPELINE_FILL,    /* write bucket `bucket` into slot `slot`, then call
                               cleat_pipeline_filled */
    CLEAT_PIPELINE_PUBLISH, /* let the receivers have it; no result is awaited,
                               a failure is a cleat_pipeline_stop */
    CLEAT_PIPELINE_DROP     /* receiver `receiver` is not counted any more */
};

struct cleat_pipeline_command {
    enum cleat_pipeline_command_kind kind;
    uint32_t slot;         /* FILL, PUBLISH */
    uint32_t bucket;       /* FILL, PUBLISH */
    uint32_t receiver;     /* DROP */
    enum cleat_status why; /* DROP: PEER_SILENT, PEER_LOST, PEER_DEVIANT, or
                              the error that it gave up with */
};

/* CLEAT_PIPELINE_BYTES as a function; SIZE_MAX where it does not fit. */
size_t cleat_pipeline_bytes(uint32_t receivers);

/* Starts an attempt in the caller's block, whatever was there before.
 *   block   aligned as a uint64_t
 *   bytes   of the block; CLEAT_PIPELINE_BYTES(receivers_count) or more
 *   out     the block as a pipeline
 * Returns CLEAT_OK; CLEAT_INVALID: no block, no receivers, or too many slots;
 * CLEAT_TOO_SMALL with the bytes needed in error->offset. */
enum cleat_status cleat_pipeline_begin(
    void *block, size_t bytes, const struct cleat_pipeline_config *config,
    uint64_t now_ns, struct cleat_pipeline **out, struct cleat_error *error);

/* Takes the next command, if there is one. Each is handed out once. FILL is
 * handed out for every free slot without waiting for other fills; PUBLISH in
 * the order of the buckets. After the end only DROPs are. */
bool cleat_pipeline_next(struct cleat_pipeline *pipeline,
                         struct cleat_pipeline_command *command);

/* When to call cleat_pipeline_tick if nothing else comes; CLEAT_NEVER after the
 * end. */
uint64_t cleat_pipeline_deadline(const struct cleat_pipeline *pipeline);

/* All calls below return CLEAT_TIME_BACKWARDS, with no effect, when now_ns is
 * less than one given before; and CLEAT_STATE, with no effect, when the
 * pipeline has ended, before the call or by a deadline that it applied. */

/* Applies the deadlines that are ≤ now_ns. Returns CLEAT_OK. */
enum cleat_status cleat_pipeline_tick(struct cleat_pipeline *pipeline,
                                      uint64_t now_ns);

/* The fill of a slot has ended.
 *   status   CLEAT_OK, or why it failed: that ends the transfer
 * Returns CLEAT_OK; CLEAT_INVALID, with no effect, when that slot was not being
 * filled or `status` is not an end. */
enum cleat_status cleat_pipeline_filled(struct cleat_pipeline *pipeline,
                                        uint64_t now_ns, uint32_t slot,
                                        enum cleat_status status);

/* A receiver has told how far it is.
 *   generation     the one in which it said so
 *   buckets_acked  how many buckets it has acknowledged, from 0; a number that
 *                  is not higher than one before changes nothing
 *   status         CLEAT_OK, or why it has given up: it is dropped
 * Returns CLEAT_OK; CLEAT_PEER_STALE, with no effect, for another generation;
 * CLEAT_PEER_DEVIANT when that many have not been published: it is dropped;
 * CLEAT_INVALID, with no effect, when there is no such receiver. */
enum cleat_status cleat_pipeline_acked(struct cleat_pipeline *pipeline,
                                       uint64_t now_ns, uint64_t generation,
                                       uint32_t receiver,
                                       uint32_t buckets_acked,
                                       enum cleat_status status);

/* A receiver is known to be gone; it is dropped with CLEAT_PEER_LOST, unless it
 * is complete. Returns CLEAT_OK; CLEAT_INVALID: there is no such receiver. */
enum cleat_status cleat_pipeline_lost(struct cleat_pipeline *pipeline,
                                      uint64_t now_ns, uint32_t receiver);

/* Ends the transfer: CLEAT_CANCELLED when the caller asks, otherwise the error
 * that a publish returned. Returns CLEAT_OK; CLEAT_INVALID when `status` is no
 * error. */
enum cleat_status cleat_pipeline_stop(struct cleat_pipeline *pipeline,
                                      uint64_t now_ns,
                                      enum cleat_status status);

/* CLEAT_PENDING while running. CLEAT_OK: every bucket has been acknowledged by
 * each receiver that is not dropped, and at least one is not.
 * CLEAT_GROUP_FAILED: all were dropped. CLEAT_DEADLINE: the whole transfer's
 * deadline. Otherwise the status of the failed fill or of
 * cleat_pipeline_stop. */
enum cleat_status cleat_pipeline_status(const struct cleat_pipeline *pipeline);

/* How receiver `receiver` (< receivers_count) stands: CLEAT_PENDING: counted,
 * not complete; CLEAT_OK: it has every bucket; else why it was dropped.
 *   buckets_acked   out, may be NULL */
enum cleat_status
cleat_pipeline_receiver_status(const struct cleat_pipeline *pipeline,
                               uint32_t receiver, uint32_t *buckets_acked);

/* Buckets 0 … this - 1 have been acknowledged by every counted receiver. */
uint32_t cleat_pipeline_acked_by_all(const struct cleat_pipeline *pipeline);

/* ---- the receiver's end ---- */

#define CLEAT_INTAKE_BUCKET_TIMEOUT_NS_DEFAULT (10 * CLEAT_NS_PER_S)

struct cleat_intake_config {
    uint64_t generation;
    uint64_t bucket_timeout_ns; /* how long the next bucket may take, from the
                                   acknowledgement of the one before. 0: 10 s.
                                   CLEAT_NONE: for ever. */
    uint64_t deadline_ns;       /* of the whole transfer, absolute. 0: never */
    uint32_t buckets_count;     /* 0 is legal: complete at once */
};

/* One receiver's intake; the members are not for reading. */
struct cleat_intake {
    uint64_t generation;
    uint64_t bucket_timeout_ns;
    uint64_t deadline_ns;
    uint64_t bucket_deadline_ns;
    uint64_t now_ns;
    uint32_t buckets_count;
    uint32_t bucket;  /* the one expected or worked on */
    uint32_t applied; /* buckets whose APPLY was handed out */
    int32_t status;
    uint32_t state;
};

enum cleat_intake_command_kind {
    CLEAT_INTAKE_VERIFY, /* check the bucket's digest where nothing can be hurt:
                            in its slot, or while copying it aside; then
                            cleat_intake_verified */
    CLEAT_INTAKE_APPLY,  /* let it count: copy it over the live bytes, or keep
                            what was copied aside; then cleat_intake_applied */
    CLEAT_INTAKE_ACK     /* tell the sender `status`; no result is awaited */
};

struct cleat_intake_command {
    enum cleat_intake_command_kind kind;
    uint32_t bucket;
    enum cleat_status status; /* ACK */
};

/* Starts an attempt. Returns CLEAT_OK. */
enum cleat_status cleat_intake_begin(struct cleat_intake *intake,
                                     const struct cleat_intake_config *config,
                                     uint64_t now_ns);

/* Takes the next command, if there is one. After a failure that is one ACK with
 * the error. */
bool cleat_intake_next(struct cleat_intake *intake,
                       struct cleat_intake_command *command);

/* When to call cleat_intake_tick; CLEAT_NEVER after the end. */
uint64_t cleat_intake_deadline(const struct cleat_intake *intake);

/* As for the pipeline: CLEAT_TIME_BACKWARDS, and CLEAT_STATE after the end. */

enum cleat_status cleat_intake_tick(struct cleat_intake *intake,
                                    uint64_t now_ns);

/* A bucket has come. Returns CLEAT_OK; CLEAT_PEER_STALE, with no effect, for
 * another generation; CLEAT_EXISTS, with no effect, for one that came before;
 * CLEAT_PEER_DEVIANT for one that is not next: that ends the intake. */
enum cleat_status cleat_intake_arrived(struct cleat_intake *intake,
                                       uint64_t now_ns, uint64_t generation,
                                       uint32_t bucket);

/* VERIFY is done. CLEAT_CORRUPT, or any error, ends the intake.
 * Returns CLEAT_OK; CLEAT_INVALID, with no effect, when none was asked for. */
enum cleat_status cleat_intake_verified(struct cleat_intake *intake,
                                        uint64_t now_ns,
                                        enum cleat_status status);

/* APPLY is done; likewise. */
enum cleat_status cleat_intake_applied(struct cleat_intake *intake,
                                       uint64_t now_ns,
                                       enum cleat_status status);

/* Ends the intake: CLEAT_CANCELLED, CLEAT_PEER_LOST, or what the transport
 * said. Returns CLEAT_OK; CLEAT_INVALID when `status` is no error. */
enum cleat_status cleat_intake_stop(struct cleat_intake *intake,
                                    uint64_t now_ns, enum cleat_status status);

/* CLEAT_PENDING; CLEAT_OK: every bucket was verified, applied and acknowledged;
 * CLEAT_DEADLINE; CLEAT_PEER_SILENT: no next bucket in time; else the error. */
enum cleat_status cleat_intake_status(const struct cleat_intake *intake);

/* Buckets whose APPLY was handed out: when not 0, bytes may have been
 * applied. */
uint32_t cleat_intake_applied_count(const struct cleat_intake *intake);

#ifdef __cplusplus
}
#endif
#endif
