/* Cleat: the shared-memory transport. SPDX-License-Identifier: Apache-2.0
 *
 * One machine, one sender, up to receivers_max receivers; see
 * cleat/transport.h for what a transport does. Linux 5.1 or newer.
 *
 * Two memfds, made by the sender and passed with the ticket:
 *
 *   data   a head word and the slots. The sender alone can write: once it has
 *          mapped the memory, it seals it against all future writing
 *          (F_SEAL_FUTURE_WRITE), whoever opens or maps it and by whatever way,
 *          and against a change of size.
 *   acks   a cache line a receiver, which that receiver alone writes, and two
 *          bells, words that say nothing: whoever changes something rings, and
 *          whoever waits sleeps on a bell (futex). Every process can write
 *          here, and nobody believes what it reads.
 *
 * A receiver's first word in a generation claims its index: of several that
 * were told the same one, the first joins and every other `join` returns
 * CLEAT_INVALID, whatever has become of the first. A later generation is
 * claimed afresh.
 *
 * There are no locks and no file names, so kill -9 of any process at any
 * instant leaves nothing behind and blocks nobody: the memory is gone with the
 * last process that has it mapped.
 *
 * All memory is taken and touched when the sender is opened. A receiver maps it
 * at its first join, and keeps the mapping for as long as tickets name the same
 * segment.
 */
#ifndef CLEAT_MEMORY_H
#define CLEAT_MEMORY_H

#include "cleat/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_MEMORY_SLOTS_DEFAULT 3u
#define CLEAT_MEMORY_SLOTS_MAX 8u
#define CLEAT_MEMORY_BUCKET_BYTES_DEFAULT (UINT64_C(4) << 20)
#define CLEAT_MEMORY_RECEIVERS_DEFAULT 8u
#define CLEAT_MEMORY_RECEIVERS_MAX 1024u

enum cleat_memory_pages {
    CLEAT_MEMORY_PAGES_HUGE_IF_ALLOWED, /* the default: reserved huge pages, or
                                           transparent ones, or small ones */
    CLEAT_MEMORY_PAGES_SMALL
};

/* What kind of pages the slots got. */
enum cleat_memory_pages_got {
    CLEAT_MEMORY_GOT_SMALL,
    CLEAT_MEMORY_GOT_TRANSPARENT, /* the kernel was asked and allows it */
    CLEAT_MEMORY_GOT_RESERVED     /* from the reserved pool (hugetlb) */
};

struct cleat_memory_sender_config {
    uint64_t bucket_bytes;  /* the largest bucket. 0: 4 MiB */
    uint32_t slots_count;   /* 1 … 8. 0: 3. Slots × bucket_bytes that stay in
                               the last-level cache are the fastest */
    uint32_t receivers_max; /* 1 … 1024. 0: 8 */
    enum cleat_memory_pages pages;
};

struct cleat_memory_receiver_config {
    uint64_t segment_bytes_max; /* the largest data segment to accept. 0: no
                                   limit but the file's real size */
};

/* Bytes of block for each end. */
#define CLEAT_MEMORY_SENDER_BYTES 512u
#define CLEAT_MEMORY_RECEIVER_BYTES 512u

/* Opens a sender: makes, maps and touches both memfds.
 *   block   CLEAT_MEMORY_SENDER_BYTES bytes or more, aligned to 64 bytes; must
 *           stay where it is until the close
 *   out     filled; out->context is inside the block
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_LIMIT: the sizes overflow;
 * CLEAT_TOO_SMALL: the block, the bytes needed in error->offset; CLEAT_IO: the
 * system refused, its errno in error->port_code. On error nothing is held. */
enum cleat_status cleat_memory_sender_open(
    void *block, size_t bytes, const struct cleat_memory_sender_config *config,
    struct cleat_transport_sender *out, struct cleat_error *error);

/* What pages the slots lie in, for the log. */
enum cleat_memory_pages_got
cleat_memory_sender_pages(const struct cleat_transport_sender *sender);

/* What the transport's `acked` tells, and after `finish` too, until the next
 * prepare: what was acknowledged late. Statuses as there, but for CLEAT_STATE;
 * before the first prepare no receiver is in the group. */
enum cleat_status
cleat_memory_sender_acked(const struct cleat_transport_sender *sender,
                          uint32_t receiver, uint32_t *buckets_acked,
                          enum cleat_status *status);

/* Closes everything; a generation that runs is finished. The descriptors of
 * tickets made here are closed. Safe after a failed open that returned an
 * error with out zeroed, and twice. */
void cleat_memory_sender_close(struct cleat_transport_sender *sender);

/* Opens a receiver; it maps nothing before its first join.
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL. */
enum cleat_status
cleat_memory_receiver_open(void *block, size_t bytes,
                           const struct cleat_memory_receiver_config *config,
                           struct cleat_transport_receiver *out,
                           struct cleat_error *error);

/* Looks for bucket `bucket` without waiting: the next one, or one that the
 * sender has published ahead of it. *data stays as it is until that bucket is
 * acknowledged. Another thread than the receiver's may look, but not during a
 * join, a leave or the close.
 *   data, bytes, crc  as the transport's wait; bytes and crc may be NULL
 * Returns CLEAT_OK; CLEAT_PENDING: not published yet; CLEAT_GROUP_FAILED,
 * CLEAT_PEER_STALE, CLEAT_CORRUPT as the transport's wait; CLEAT_STATE when not
 * joined. */
enum cleat_status
cleat_memory_receiver_peek(const struct cleat_transport_receiver *receiver,
                           uint32_t bucket, const void **data, uint64_t *bytes,
                           uint32_t *crc);

void cleat_memory_receiver_close(struct cleat_transport_receiver *receiver);

#ifdef __cplusplus
}
#endif
#endif
