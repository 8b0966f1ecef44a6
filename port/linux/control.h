/* Cleat: control frames as bytes. SPDX-License-Identifier: Apache-2.0
 *
 * What a coordinator and a worker say to each other, one frame a packet. Pure
 * functions over bytes; the sockets are in channel.h.
 *
 *   offset  0  u32  magic, "CLTc"
 *           4  u16  version, 2
 *           6  u16  kind
 *           8  u32  flags: bits 0-1, how many descriptors travel with it
 *          12  u32  length of the payload
 *          16  u64  term
 *          24  u64  epoch
 *          32  u64  sequence: counts the frames of one sender, from 1
 *          40  u32  CRC32C of bytes 0 … 39 and of the payload
 *          44       the payload, of a layout and length that follow from kind
 *
 * All little-endian. A frame is accepted only when it is what encoding the
 * decoded frame would give, byte for byte: nothing is ignored, nothing is
 * left over. */
#ifndef CLEAT_PORT_LINUX_CONTROL_H
#define CLEAT_PORT_LINUX_CONTROL_H

#include "cleat/status.h"
#include "cleat/sync.h"
#include "cleat/transport.h"
#include "cleat/worker.h"

#define CLEAT_CONTROL_VERSION 2u
#define CLEAT_CONTROL_HEADER_BYTES 44u
#define CLEAT_CONTROL_BYTES_MAX 1024u

enum cleat_control_kind {
    CLEAT_CONTROL_START = 1,   /* coordinator: say hello */
    CLEAT_CONTROL_HELLO,       /* worker: what I am */
    CLEAT_CONTROL_COMMAND,     /* coordinator: do a step */
    CLEAT_CONTROL_ANSWER,      /* worker: what came of it */
    CLEAT_CONTROL_LEASE_ASK,   /* worker: may I go on serving? */
    CLEAT_CONTROL_LEASE_GRANT, /* coordinator: yes, so long */
    CLEAT_CONTROL_STATS,       /* worker: what I have served so far */
    CLEAT_CONTROL_CLOSE,       /* coordinator: go, and why */
    CLEAT_CONTROL_KINDS        /* one more than the last */
};

struct cleat_control_start {
    uint32_t member; /* which the worker is, or CLEAT_SYNC_NOBODY: it says */
};

struct cleat_control_hello {
    uint64_t start_sequence; /* of the START frame that it answers */
    enum cleat_status status;
    uint32_t member;
    struct cleat_worker_hello hello;
};

/* The step's deadline travels as time left, so that clocks need not agree. */
struct cleat_control_command {
    enum cleat_sync_step step;
    uint32_t member;
    uint32_t attempt;
    uint32_t receiver_index;
    uint32_t receivers_count;
    uint64_t version;
    uint64_t timeout_ns;
    uint32_t ticket_bytes_count;
    uint8_t ticket_bytes[CLEAT_TRANSPORT_TICKET_BYTES];
};

struct cleat_control_answer {
    struct cleat_worker_answer answer; /* term and epoch are the frame's */
    uint32_t ticket_bytes_count;
    uint8_t ticket_bytes[CLEAT_TRANSPORT_TICKET_BYTES];
};

struct cleat_control_lease {
    uint64_t counter;  /* of the ask; a grant echoes it */
    uint64_t lease_ns; /* grant only */
};

/* Why a worker must go: CLEAT_OK, the job is over; else it cannot take part.
 */
struct cleat_control_close {
    enum cleat_status status;
    uint32_t layout; /* the job's; 0: not told */
};

struct cleat_control_stats {
    uint64_t version;
    uint64_t lease_end_ns;
    uint32_t holding;
    uint32_t served;
    uint32_t torn_served;
};

struct cleat_control_frame {
    enum cleat_control_kind kind;
    uint32_t fds_count; /* that travel with it, ≤ 2 */
    uint64_t term;
    uint64_t epoch;
    uint64_t sequence;
    union {
        struct cleat_control_start start;
        struct cleat_control_hello hello;
        struct cleat_control_command command;
        struct cleat_control_answer answer;
        struct cleat_control_lease lease; /* LEASE_ASK and LEASE_GRANT */
        struct cleat_control_stats stats;
        struct cleat_control_close close;
    } body;
};

/* Writes *frame into `bytes`, which holds CLEAT_CONTROL_BYTES_MAX bytes.
 *   bytes_count   filled: how many were written
 * Returns CLEAT_OK; CLEAT_INVALID when a member is outside its range. */
enum cleat_status cleat_control_encode(const struct cleat_control_frame *frame,
                                       uint8_t *bytes, size_t *bytes_count);

/* Reads a frame. Any bytes are safe.
 * Returns CLEAT_OK with *frame filled, unused members zero; CLEAT_SHORT: less
 * than its length says; CLEAT_LIMIT: more than CLEAT_CONTROL_BYTES_MAX;
 * CLEAT_CORRUPT: the digest does not match; CLEAT_UNSUPPORTED: another
 * version; CLEAT_MALFORMED: anything else. On error *frame is zero. */
enum cleat_status cleat_control_decode(const uint8_t *bytes, size_t bytes_count,
                                       struct cleat_control_frame *frame);

#endif
