/* Cleat: one transfer of a whole tensor table. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Two blocking calls. cleat_stream_send joins the pipeline machine, a
 * transport's sender and a tensor source; cleat_stream_receive joins the intake
 * machine, a transport's receiver and a tensor sink. Both sides use the same
 * plan. Neither allocates, prints, or starts a thread.
 *
 *   sender                           receiver
 *     transport.prepare  ── ticket ──▶ transport.join
 *     cleat_stream_send  ═ buckets ══▶ cleat_stream_receive
 *     transport.finish                 transport.leave
 *
 * prepare, group, finish, join and leave are the caller's: they are steps of
 * the protocol around the transfer.
 *
 * A bucket's digest is CRC32C over its pieces, one after the other (see
 * cleat/plan.h); the report's digest is CRC32C over all buckets, that is over
 * all tensors' bytes in table order, the same on every side.
 *
 * With `skips_digest` no digest is taken or checked: for a transport whose
 * slots are not the host's to read (a device's). What `slot` and `wait` give is
 * then an address that only the source and the sink understand; they are called
 * with `crc` NULL, a bucket's length is all that is verified, buckets carry the
 * digest 0, and so does the report. Bytes that change on their way are not
 * noticed here: whoever skips digests must say so, and compare what arrived in
 * another way. A receiver may skip what its sender has digested, but not the
 * other way round.
 */
#ifndef CLEAT_STREAM_H
#define CLEAT_STREAM_H

#include "cleat/clock.h"
#include "cleat/digest.h"
#include "cleat/pipeline.h"
#include "cleat/plan.h"
#include "cleat/tensors.h"
#include "cleat/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What another thread may tell a running transfer. Zero at the start; written
 * only by cleat_stream_cancel and cleat_stream_lost, read by the transfer.
 * After either, wake the transport (`wake` of its sender or receiver). */
struct cleat_stream_signal {
    int32_t cancel; /* a status; 0: none */
};

/* Asks a transfer to end with `status`, an error: CLEAT_CANCELLED, or
 * CLEAT_PEER_LOST when the other side is known to be gone. The first one
 * counts. Any thread. */
void cleat_stream_cancel(struct cleat_stream_signal *signal,
                         enum cleat_status status);

/* Tells a sender that one receiver is gone: the others go on.
 *   lost   the array given to cleat_stream_send
 * Any thread. */
void cleat_stream_lost(uint32_t *lost, uint32_t receiver);

/* Where in the life of a bucket a hook is called. */
enum cleat_stream_moment {
    CLEAT_STREAM_FILL,    /* sender: before the bucket is read from its source;
                           *data is NULL */
    CLEAT_STREAM_PUBLISH, /* sender: its digest is made, nobody has it yet.
                           *data is the slot, which may be written to, but for
                           one that skips digests */
    CLEAT_STREAM_VERIFY,  /* receiver: it has come and nothing has read it. The
                             hook may point *data at other bytes, as many: what
                             is verified and applied is what *data points at;
                             not one that skips digests */
    CLEAT_STREAM_APPLY,   /* receiver in place: it is verified, and none of its
                             bytes has been copied over the live tensors. *data
                             is NULL */
    CLEAT_STREAM_DONE     /* sender: published; receiver: acknowledged. For
                             progress. *data is NULL */
};

/* A hook. It may block (then the transfer does), strike faults, and count.
 * Returns CLEAT_OK to go on; an error ends the transfer with it. */
typedef enum cleat_status cleat_stream_hook_fn(void *context,
                                               enum cleat_stream_moment moment,
                                               uint32_t bucket, void **data,
                                               uint64_t bytes);

/* What came of a transfer. */
struct cleat_stream_report {
    uint64_t bytes;         /* payload: read, or verified and applied */
    uint32_t buckets_count; /* published, or verified, applied and acknowledged
                             */
    uint32_t digest;        /* of all bytes; meaningful when all went. 0 when
                               digests were skipped */
    bool applied;           /* receiver in place: the first byte of the live
                               tensors may have been overwritten. Set before it
                               is; never cleared by the transfer */
};

/* What became of one receiver. */
struct cleat_stream_result {
    enum cleat_status status; /* CLEAT_OK: acknowledged every bucket. PENDING:
                                 the transfer ended before. Else why it was
                                 dropped */
    uint32_t buckets_acked;
};

struct cleat_stream_sending {
    const struct cleat_transport_sender *transport;
    const struct cleat_tensor_source *source;
    const struct cleat_plan *plan;
    const struct cleat_clock *clock;
    struct cleat_stream_signal *signal; /* NULL: cannot be cancelled */
    uint32_t *lost; /* receivers_count flags, zero; NULL: no notices */
    void *block;    /* CLEAT_PIPELINE_BYTES(receivers_count) bytes,
                       aligned as a uint64_t; the call's own meanwhile */
    size_t block_bytes;
    uint64_t generation;        /* the one given to prepare */
    uint64_t deadline_ns;       /* of the whole transfer. 0: never */
    uint64_t ack_timeout_ns;    /* as in the pipeline's config; 0: its default.
                                   Longer than a fill and its hooks take: what
                                   came meanwhile is looked at after it */
    uint32_t receivers_count;   /* those numbered below it are sent to; at most
                                   as many as were prepared for */
    uint32_t hold_bucket;       /* before this bucket is filled, every bucket
                                   before it is acknowledged by every receiver
                                   still counted. 0: no such bucket */
    bool skips_digest;          /* see the top of this file */
    cleat_stream_hook_fn *hook; /* NULL: none */
    void *hook_context;
};

/* Sends every bucket of the plan to every receiver; blocks until each has
 * acknowledged all or was dropped.
 *   sending   the plan has ended; the source has its tensors; the transport is
 *             between prepare and finish
 *   results   receivers_count of them, out
 *   report    out
 * Returns CLEAT_OK when at least one receiver is complete; CLEAT_GROUP_FAILED
 * when all were dropped; CLEAT_DEADLINE; the status of the cancel, of a hook,
 * of the source (error->index: the tensor) or of the transport;
 * CLEAT_TOO_SMALL: the block, or a slot smaller than a bucket;
 * CLEAT_INVALID. */
enum cleat_status cleat_stream_send(const struct cleat_stream_sending *sending,
                                    struct cleat_stream_result *results,
                                    struct cleat_stream_report *report,
                                    struct cleat_error *error);

struct cleat_stream_receiving {
    const struct cleat_transport_receiver *transport;
    const struct cleat_tensor_sink *sink;
    const struct cleat_plan *plan;
    const struct cleat_clock *clock;
    struct cleat_stream_signal *signal; /* NULL: cannot be cancelled */
    uint64_t generation;                /* the one that the sender prepared */
    uint64_t deadline_ns;               /* of the whole transfer. 0: never */
    uint64_t bucket_timeout_ns; /* as in the intake's config; 0: its default */
    enum cleat_digest_kind digest_kind; /* for checking in the slot */
    bool in_place;              /* the sink holds the live tensors: each bucket
                                   is verified in its slot before the first of
                                   its bytes is copied, and again while they
                                   are. Otherwise the sink is a staging area:
                                   one pass */
    bool skips_digest;          /* see the top of this file. In place then: a
                                   bucket's length is verified before it is
                                   copied, its bytes are not */
    cleat_stream_hook_fn *hook; /* NULL: none */
    void *hook_context;
};

/* Receives every bucket of the plan into the sink; blocks until all are
 * acknowledged. Nothing counts that was not verified (as far as digests are not
 * skipped): after an error the staging area holds rubbish, and live tensors are
 * torn if report->applied.
 *   receiving  the transport has joined
 *   report     out
 * Returns CLEAT_OK; CLEAT_CORRUPT: a bucket does not match its digest or its
 * length (error->index: the bucket); CLEAT_DEADLINE; CLEAT_PEER_SILENT: no next
 * bucket in time; CLEAT_GROUP_FAILED: the sender has finished without us;
 * CLEAT_PEER_STALE; the status of the cancel, of a hook, or of the sink. The
 * sender has been told, wherever the transport still can. */
enum cleat_status
cleat_stream_receive(const struct cleat_stream_receiving *receiving,
                     struct cleat_stream_report *report,
                     struct cleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
