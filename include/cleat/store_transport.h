/* Cleat: a transport over a store. SPDX-License-Identifier: Apache-2.0
 *
 * What cleat/transport.h says, through any store of values by key
 * (cleat/store.h): so the sender and its receivers may be on different
 * machines, and have nothing in common but the store. Its objects, of which all
 * but the last are named once and never again:
 *
 *   <job>/<version>/<epoch>/head               there while a generation goes on
 *   <job>/<version>/<epoch>/<bucket>           a bucket, until all have it
 *   <job>/<version>/<epoch>/ack/<receiver>/<bucket>   it has verified it
 *   <job>/<version>/<epoch>/gave-up/<receiver>        and why
 *   <job>/last                                 what was begun last: for
 *                                              whoever has to clean up
 *
 * <epoch> is the generation and the sender's run, in hexadecimal. Each object
 * is framed, and its payload begins with a record of 64 bytes that says, under
 * a digest, of which generation, run and number it is: what is not what was
 * asked for is never handed out.
 *
 * A receiver waits for its producer: it looks for the next bucket again and
 * again, at intervals that grow from pace_min_ns to pace_max_ns and begin anew
 * with each that comes; and fetches one while the one before is being
 * verified. In the same way the sender looks for acknowledgements, one batch
 * for all receivers.
 *
 * Nothing is left. A bucket's objects are removed when all have acknowledged
 * it, the rest when the generation is finished. The head goes first: a receiver
 * that puts an acknowledgement later sees that it is gone, and takes it back.
 * What a sender that was killed has left is found through <job>/last, by the
 * next sender of that job's name or by cleat_store_transport_sweep. A name is
 * one job's at a time: two senders of one name clean up after each other.
 *
 * All that blocks (cleat/transfer_service.h) is called on jobs of its own, one
 * of a sender and two of a receiver, which run from open to close; the
 * functions of the contract post to their mailboxes. What differs from
 * transports in one memory:
 *   - publish and ack return before anybody can see it. When it cannot be put,
 *     the sender's `acked` says so of every receiver, and the receiver's next
 *     `wait`.
 *   - group waits until the store has the generation, and join for that too: a
 *     generation that is over cannot be told from one that has not begun, and
 *     is CLEAT_DEADLINE.
 *   - ack of a generation that is over is CLEAT_OK, and has no effect, where
 *     this end has not heard of that yet.
 *   - ack and publish are CLEAT_GROUP_FAILED when too many are under way.
 *   - What the store says is told as it is; but CLEAT_GROUP_FAILED where the
 *     status would mean that this end could never do it.
 *
 * Does not allocate.
 */
#ifndef CLEAT_STORE_TRANSPORT_H
#define CLEAT_STORE_TRANSPORT_H

#include "cleat/clock.h"
#include "cleat/mailbox.h"
#include "cleat/threads.h"
#include "cleat/transfer_service.h"
#include "cleat/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The longest job name. It must not begin or end with a slash. */
#define CLEAT_STORE_JOB_MAX 96u

#define CLEAT_STORE_SLOTS_DEFAULT 3u
#define CLEAT_STORE_SLOTS_MAX 8u
#define CLEAT_STORE_RECEIVERS_MAX 1024u
#define CLEAT_STORE_BUCKETS_MAX (1u << 20) /* of one generation */
#define CLEAT_STORE_TIMEOUT_NS_DEFAULT (5 * CLEAT_NS_PER_S)
#define CLEAT_STORE_SWEEP_NS_DEFAULT (2 * CLEAT_NS_PER_S)
#define CLEAT_STORE_PACE_MIN_NS_DEFAULT (CLEAT_NS_PER_MS / 5)
#define CLEAT_STORE_PACE_MAX_NS_DEFAULT (20 * CLEAT_NS_PER_MS)

/* Mailboxes of each end, and the messages that each must have room for. */
#define CLEAT_STORE_SENDER_MAILBOXES 2u
#define CLEAT_STORE_RECEIVER_MAILBOXES 3u
#define CLEAT_STORE_MESSAGES_MAX 64u

/* What the service must have room for. */
#define CLEAT_STORE_KEY_BYTES (CLEAT_STORE_JOB_MAX + 96u)
#define CLEAT_STORE_RECEIVER_KEYS 32u

/* Jobs of each end: threads that it keeps busy, beside those on which the
 * service makes its calls. */
#define CLEAT_STORE_SENDER_JOBS 1u
#define CLEAT_STORE_RECEIVER_JOBS 2u

/* What lies before a slot's bytes: room for a frame, and our record. */
#define CLEAT_STORE_SLOT_ROOM (CLEAT_FRAME_BYTES + 64u)

/* Bytes of memory for a slot that holds buckets of `bucket_bytes`. */
#define CLEAT_STORE_SLOT_BYTES(bucket_bytes) \
    (CLEAT_STORE_SLOT_ROOM + (((uint64_t)(bucket_bytes) + 63u) & ~UINT64_C(63)))

/* What both ends need. */
struct cleat_store_transport {
    /* Ready before the first prepare or join. Takes as many keys a batch as
     * cleat_store_sender_keys says (a receiver: CLEAT_STORE_RECEIVER_KEYS), of
     * CLEAT_STORE_KEY_BYTES each, and as many batches at once as there are
     * jobs. Its batch.pace_ns is how long it waits where something is being
     * put at that moment: 5 ms, say, where others wait 2 s. */
    struct cleat_transfer_service *service;
    struct cleat_clock clock;
    /* Where the jobs run. The lock is not used. */
    struct cleat_threads threads;
    const struct cleat_mailbox *mailboxes; /* copied; each for one use */
    const char *job;                       /* copied; the same at both ends */
    /* slots_count · CLEAT_STORE_SLOT_BYTES(bucket_bytes) bytes, aligned to 64,
     * the caller's until the close; after that too, while the service says that
     * something is lent (cleat_transfer_drain). */
    void *slots;
    uint64_t bucket_bytes; /* ≥ 1; the same at both ends: the size of every
                              object but the last bucket's last bytes */
    uint32_t slots_count;  /* 1 … 8. 0: 3 */
    uint32_t believe_puts; /* 1: a put that the store says has worked is not
                              looked for */
    uint64_t timeout_ns;   /* of one call of the service, with its attempts.
                              0: 5 s */
    uint64_t pace_min_ns;  /* between two looks for what is not there. 0:
                              0.2 ms */
    uint64_t pace_max_ns;  /* 0: 20 ms */
};

struct cleat_store_sender_config {
    struct cleat_store_transport common;
    uint64_t run;           /* drawn for this sender: no two of a job's name
                               have the same */
    uint64_t sweep_ns;      /* the longest clean-up. 0: 2 s */
    uint32_t receivers_max; /* 1 … 1024 */
    uint32_t buckets_max;   /* of one generation, 1 … 1048576 */
};

/* The most keys that a sender asks for in one batch. */
uint32_t cleat_store_sender_keys(uint32_t receivers_max);

/* Bytes of block; 0 when a count is out of range. */
size_t cleat_store_sender_bytes(const struct cleat_store_sender_config *config);

/* Opens a sender, and starts its job. The store is not spoken to before the
 * first prepare.
 *   block   aligned to 64; the caller's, stays where it is until the close
 *   config  copied
 *   out     filled; out->context is inside the block
 * prepare returns CLEAT_NO_SLOT in addition: more is under way than the mailbox
 * holds.
 * Returns CLEAT_OK; CLEAT_INVALID with the argument in error->index;
 * CLEAT_TOO_SMALL: the block, the bytes needed in error->offset; CLEAT_NO_SLOT:
 * the threads take no job. */
enum cleat_status cleat_store_sender_open(
    void *block, size_t bytes, const struct cleat_store_sender_config *config,
    struct cleat_transport_sender *out, struct cleat_error *error);

/* The version that the next generations carry in their names; 0 until told. By
 * the thread that calls prepare, before it. */
void cleat_store_sender_version(const struct cleat_transport_sender *sender,
                                uint64_t version);

/* Finishes, cleans up, and ends the job; takes timeout_ns and 2 · sweep_ns at
 * most. Safe after an open that failed, and twice. Returns CLEAT_OK; else why
 * objects may be left, for a sweep. */
enum cleat_status
cleat_store_sender_close(struct cleat_transport_sender *sender);

struct cleat_store_receiver_config {
    struct cleat_store_transport common;
};

size_t
cleat_store_receiver_bytes(const struct cleat_store_receiver_config *config);

/* As for a sender. */
enum cleat_status cleat_store_receiver_open(
    void *block, size_t bytes, const struct cleat_store_receiver_config *config,
    struct cleat_transport_receiver *out, struct cleat_error *error);

/* Leaves, and ends the jobs; takes 2 · timeout_ns at most. Safe after an open
 * that failed, and twice. */
void cleat_store_receiver_close(struct cleat_transport_receiver *receiver);

#define CLEAT_STORE_SWEEP_BYTES 98304u

/* Removes what a job of this name has left, where no sender of it is at work.
 * It looks for each name that the job can have used: 256 in a call, 1 and 1 for
 * each receiver, times 1 and 1 for each bucket. What its deadline cuts off, a
 * later call begins again; a sender, which does the same in its first prepares,
 * goes on where it was.
 *   block        CLEAT_STORE_SWEEP_BYTES bytes, aligned to 64; the call's, and
 *                after it too while the service has lent something
 *                (cleat_transfer_drain)
 *   service      ready, and takes 256 keys a batch
 *   deadline_ns  absolute
 *   removed      how many objects there were; may be NULL
 * Blocks. Returns CLEAT_OK: none is left; CLEAT_INVALID: the name; else why not
 * all could be removed. */
enum cleat_status
cleat_store_transport_sweep(void *block, struct cleat_transfer_service *service,
                            const char *job, uint64_t deadline_ns,
                            uint32_t *removed, struct cleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
