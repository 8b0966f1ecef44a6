/* Cleat: the transport contract. SPDX-License-Identifier: Apache-2.0
 *
 * A transport moves buckets of bytes from one sender to a fixed group of
 * receivers through a few slots that the sender owns. It knows nothing of
 * tensors, digests or retries: it carries a bucket's number, length and CRC32C
 * beside its bytes, and carries each receiver's acknowledgements back.
 *
 *  sender   prepare ─ ticket ─ group ─ { slot, publish, acked, wait } ─ finish
 *                        │ over the control channel
 *  receiver              └──▶ join ─ { wait, ack } ─ leave
 *
 * One prepare … finish is one *generation*: one attempt at one transfer. What
 * belongs to another generation than the newest MUST have no effect: a bucket
 * published in an older one is never handed to a receiver, and an
 * acknowledgement of an older one is never counted.
 *
 * Bucket n uses slot n modulo slots_count. Buckets are published in order,
 * 0, 1, 2 …, and each receiver acknowledges them in that order. The sender
 * MUST NOT write to a slot until every receiver that it still counts has
 * acknowledged the bucket in it; the pipeline machine sees to that.
 *
 * Of every function here:
 *   - Deadlines are absolute nanoseconds of CLOCK_MONOTONIC (cleat/clock.h). A
 *     wait MUST end at its deadline at the latest; nothing else may block.
 *   - It MUST NOT allocate, print, or change a signal's disposition.
 *   - All functions of one context are called by one thread at a time, but
 *     `wake`, which any thread MAY call at any time between the opening and the
 *     closing of the context.
 *   - What a peer wrote is untrusted: it MUST be checked before it is used as
 *     an index, a length or an address.
 *   - A peer that dies at any instruction MUST leave nothing behind that
 *     outlives the other processes, and MUST NOT block them past a deadline.
 */
#ifndef CLEAT_TRANSPORT_H
#define CLEAT_TRANSPORT_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What `prepare` makes and every receiver's `join` is given: an address of
 * the group. The control channel carries it unread, its bytes as bytes and
 * its descriptors as descriptors (SCM_RIGHTS).
 *
 * Who owns the descriptors: those that `prepare` returns stay the sender's,
 * lent until its `finish`. Those that came over a channel are the receiver's
 * caller's until `join`, which takes them whether or not it succeeds. */
#define CLEAT_TRANSPORT_TICKET_BYTES 192
#define CLEAT_TRANSPORT_TICKET_FDS 2
struct cleat_transport_ticket {
    uint8_t bytes[CLEAT_TRANSPORT_TICKET_BYTES];
    uint32_t bytes_count;                    /* how many of `bytes` are used */
    int32_t fds[CLEAT_TRANSPORT_TICKET_FDS]; /* unused ones are -1 */
    uint32_t fds_count;
};

/* The implementation's own. */
struct cleat_transport_sender_context;
struct cleat_transport_receiver_context;

struct cleat_transport_sender {
    struct cleat_transport_sender_context *context;
    uint32_t slots_count;    /* ≥ 1; constant while the context is open */
    uint32_t receivers_max;  /* ≥ 1; likewise */
    uint64_t slot_bytes_max; /* what one slot can hold; likewise */

    /* Starts a generation, ending the one before if it has not been finished.
     *   generation       never given before to this context
     *   receivers_count  1 … receivers_max; they are numbered from 0
     *   ticket           filled
     * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_IO, CLEAT_DEVICE_LOST or another
     * error of the implementation's documentation. */
    enum cleat_status (*prepare)(struct cleat_transport_sender_context *context,
                                 uint64_t generation, uint32_t receivers_count,
                                 struct cleat_transport_ticket *ticket);

    /* Forms the group on the sender's side, where the transport is one whose
     * members must all meet (a collective library); elsewhere it does nothing.
     * Called once after prepare, while the receivers join.
     * Returns CLEAT_OK; CLEAT_DEADLINE; CLEAT_GROUP_FAILED; CLEAT_PENDING when
     * a wake ended it: look at what the wake was for, and call again. */
    enum cleat_status (*group)(struct cleat_transport_sender_context *context,
                               uint64_t deadline_ns);

    /* Tells where slot `slot` (< slots_count) is: *data is writable by the
     * host's CPU and aligned to 64 bytes, *bytes_max its size. Valid until
     * finish, unless the implementation's documentation asks for a call before
     * each bucket. Returns CLEAT_OK; CLEAT_INVALID; what that documentation
     * adds. */
    enum cleat_status (*slot)(struct cleat_transport_sender_context *context,
                              uint32_t slot, void **data, uint64_t *bytes_max);

    /* Makes the first `bytes` bytes (≤ slot_bytes_max) of slot `slot` visible
     * to all receivers as bucket `bucket`. Everything that the caller wrote
     * before is visible to a receiver that is handed the bucket.
     *   slot    bucket modulo slots_count
     *   bucket  one more than that of the last publish; the first is 0
     *   crc     the CRC32C that the receiver is told
     * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_STATE outside a generation;
     * CLEAT_LIMIT: more buckets than it can count; CLEAT_GROUP_FAILED,
     * CLEAT_DEVICE_LOST. */
    enum cleat_status (*publish)(struct cleat_transport_sender_context *context,
                                 uint32_t slot, uint32_t bucket, uint64_t bytes,
                                 uint32_t crc);

    /* Tells how far receiver `receiver` (< receivers_count) has come.
     *   buckets_acked  how many it has acknowledged as good, from 0; 0 with an
     *                  error
     *   status         CLEAT_OK, or why it has given up; never OK again then
     * Never blocks. Returns CLEAT_OK; CLEAT_INVALID; CLEAT_STATE;
     * CLEAT_PEER_DEVIANT when what it wrote is impossible (more buckets than
     * were published), with *status the same and *buckets_acked 0. */
    enum cleat_status (*acked)(struct cleat_transport_sender_context *context,
                               uint32_t receiver, uint32_t *buckets_acked,
                               enum cleat_status *status);

    /* Waits until something may have changed since the last wait returned: an
     * acknowledgement, a failure, or a wake. A change between that return and
     * this call MUST end the wait at once. It MAY end for no reason.
     * Returns CLEAT_OK: read `acked` of all; CLEAT_DEADLINE. */
    enum cleat_status (*wait)(struct cleat_transport_sender_context *context,
                              uint64_t deadline_ns);

    /* Ends the present wait or group, or the next one if there is none now.
     * Any thread. */
    void (*wake)(struct cleat_transport_sender_context *context);

    /* Ends the generation: a receiver that still waits is told
     * CLEAT_GROUP_FAILED. Idempotent. */
    void (*finish)(struct cleat_transport_sender_context *context);
};

struct cleat_transport_receiver {
    struct cleat_transport_receiver_context *context;

    /* Joins the generation that the ticket names, leaving the one before.
     *   ticket          its descriptors are taken in every case: on return they
     *                   are -1, whatever the answer
     *   receiver_index  which receiver of the group this is
     * Returns CLEAT_OK; CLEAT_MALFORMED: not a ticket of this transport;
     * CLEAT_LIMIT: larger than this receiver was opened for; CLEAT_INVALID:
     * the index is not in the group, or (where the transport can tell) another
     * has joined with it; CLEAT_PEER_STALE: the generation is over;
     * CLEAT_DEADLINE, CLEAT_IO, CLEAT_GROUP_FAILED; CLEAT_PENDING as the
     * sender's group (the ticket is kept: call `join` again with the same
     * ticket, whose descriptors are -1). */
    enum cleat_status (*join)(struct cleat_transport_receiver_context *context,
                              struct cleat_transport_ticket *ticket,
                              uint32_t receiver_index, uint64_t deadline_ns);

    /* Waits for bucket `bucket`: the one after the last acknowledged.
     *   data   *data: its bytes, readable by the host's CPU, until the ack.
     *          The bytes of a receiver that the sender has stopped counting
     *          may change under it: what is not verified is not to be used.
     *   bytes  how many
     *   crc    what the sender said their CRC32C is
     * Returns CLEAT_OK; CLEAT_DEADLINE; CLEAT_PENDING when a wake ended it;
     * CLEAT_GROUP_FAILED when the sender has finished without it;
     * CLEAT_PEER_STALE when the sender is in another generation;
     * CLEAT_CORRUPT when what surrounds the bucket is damaged; CLEAT_STATE
     * when not joined or `bucket` is not the next. */
    enum cleat_status (*wait)(struct cleat_transport_receiver_context *context,
                              uint32_t bucket, uint64_t deadline_ns,
                              const void **data, uint64_t *bytes,
                              uint32_t *crc);

    /* Acknowledges bucket `bucket`, the one that `wait` handed out last: with
     * CLEAT_OK its slot may be used again; with an error this receiver has
     * given up, and nothing follows but leave. An error MAY also be given
     * before any bucket came.
     * Returns CLEAT_OK; CLEAT_PEER_STALE, with no effect, when the sender is
     * in another generation; CLEAT_STATE. Never blocks. */
    enum cleat_status (*ack)(struct cleat_transport_receiver_context *context,
                             uint32_t bucket, enum cleat_status status);

    /* Ends the present wait or join, or the next one if there is none now.
     * Any thread. */
    void (*wake)(struct cleat_transport_receiver_context *context);

    /* Leaves the generation. Idempotent. Never blocks. */
    void (*leave)(struct cleat_transport_receiver_context *context);
};

#ifdef __cplusplus
}
#endif
#endif
