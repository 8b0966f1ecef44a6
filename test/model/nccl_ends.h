/* Cleat: three ends of an NCCL transport, as plain as can be.
 * SPDX-License-Identifier: Apache-2.0
 *
 * What port/nccl does around its stopping machine: when a group is kept, left
 * and formed afresh (sender.c, receiver.c, engine.c), in virtual time, with the
 * machine itself (stop.c) as it is. Under it is a library that fails, leaves
 * groups open, is late and does not return, and of which is known what it
 * really holds. One bucket stands for all.
 *
 * Threads of a process are moves here: of its owner and its reaper
 * (nccl_end_moves), and of its caller, who asks again and again (the functions
 * that return CLEAT_PENDING). */
#ifndef CLEAT_TEST_NCCL_ENDS_H
#define CLEAT_TEST_NCCL_ENDS_H

#include "choose.h"
#include "cleat/status.h"
#include "port/nccl/stop.h"

enum { NCCL_ENDS = 3, NCCL_RECEIVERS = NCCL_ENDS - 1 };

enum nccl_op { OP_NONE, OP_QUEUED, OP_GIVEN, OP_DONE };

enum nccl_ack { ACK_NONE, ACK_GOOD, ACK_FAILED };

/* Which group. */
struct nccl_tag {
    uint32_t epoch; /* 0: none */
    uint8_t ranks;
    uint8_t rank;
};

struct nccl_ticket {
    struct nccl_tag group;
    uint32_t generation;
    bool fresh; /* to be formed; else it has been */
};

struct nccl_end {
    struct cleat_nccl_stop machine;

    /* The library and the device, as they are. */
    uint64_t left_ns;    /* since when its group is being left; NEVER: is not */
    uint64_t until_ns;   /* until when the call that is in it may be */
    uint32_t comm;       /* the epoch of its communicator; 0: none */
    uint32_t depth_seen; /* groups that were found open */
    uint8_t comm_ranks;
    uint8_t met;        /* all ranks of it have met */
    uint8_t given;      /* the bucket is on its stream */
    uint8_t complete;   /* … on those of all ranks */
    uint8_t inside;     /* enum cleat_nccl_call: the owner's, really */
    uint8_t stuck;      /* … for ever */
    uint8_t reaping;    /* an abort is in it, really */
    uint8_t reap_stuck; /* … for ever */
    uint8_t depth;      /* open groups of the owner's thread */
    uint8_t blocked;    /* its streams will never be idle */
    uint8_t errored;    /* a call on the communicator has failed */
    uint8_t lost;       /* the machine has said so */
    uint8_t freed;      /* everything was freed */
    uint8_t paced;      /* it has been in a group: the first calls are over */
    uint8_t ids;
    uint8_t builds;

    /* Between the machine and the caller. */
    struct nccl_tag group; /* that is to be, or is */
    uint64_t op_ns;        /* until when the bucket must have come */
    uint64_t settle_ns;    /* until when the sender waits for its own end */
    uint32_t generation;
    uint8_t op; /* enum nccl_op */
    uint8_t id_wanted;
    uint8_t id_ready;
    int8_t id_status;
    uint8_t running; /* sender: between prepare and finish */
    uint8_t reuses;  /* … in a group of an earlier generation */
    uint8_t joining; /* receiver */
    uint8_t joined;
    uint8_t failed; /* something has gone wrong in this generation */
    uint8_t acked;
    uint8_t index;

    /* The process; the model's to set. */
    uint8_t dead;
    uint8_t stopped;
    uint64_t stopped_ns; /* since when */
};

/* The memory that they share, in the present generation. */
struct nccl_control {
    uint32_t generation;
    uint32_t epoch_given; /* the group in which work was given; 0: none */
    uint8_t receivers_count;
    uint8_t published;
    uint8_t finished;
    uint8_t ack[NCCL_RECEIVERS]; /* enum nccl_ack */
};

struct nccl_ends {
    struct nccl_end end[NCCL_ENDS]; /* the first is the sender's */
    struct nccl_control control;
    struct cleat_nccl_stop_config config;
    uint64_t call_ns; /* a call after the first ones */
    uint64_t bucket_ns;
    uint64_t gap_ns; /* who has not looked for longer has been stopped */
    uint64_t now_ns;
    uint32_t clock;  /* the sender's epochs are times of the machine's clock:
                        later than any before, whoever made it */
    uint64_t formed; /* bit e: all ranks of the group of epoch e have met */
    uint8_t faults_left;
};

/* Marks; those before are the model's. */
enum nccl_seen {
    NCCL_SEEN_REVOKED = 3,
    NCCL_SEEN_STUCK,
    NCCL_SEEN_ABORT_STUCK,
    NCCL_SEEN_STICKY,
    NCCL_SEEN_UNWOUND,
    NCCL_SEEN_REUSED,
    NCCL_SEEN_FRESH_AGAIN,
    NCCL_SEEN_NOT_OURS,
    NCCL_SEEN_REMOTE_ERROR,
    NCCL_SEEN_LIMIT,
    NCCL_SEEN_COUNT
};

/* A process begins; stands still; carries on where it was. */
void nccl_end_begin(struct nccl_ends *w, uint32_t i);
void nccl_end_stops(struct nccl_ends *w, uint32_t i);
void nccl_end_wakes(struct choose *c, struct nccl_ends *w, uint32_t i);

/* ---- its owner and its reaper */

enum nccl_move {
    NCCL_OBEY,   /* carries out the machine's next command */
    NCCL_ASK,    /* … asks again what has not changed, and that goes wrong */
    NCCL_ID,     /* makes an id */
    NCCL_WORK,   /* gives the bucket to NCCL, or looks whether it is done */
    NCCL_BACK,   /* a slow call comes back */
    NCCL_REAPED, /* a slow abort does */
    NCCL_REMOTE, /* it is found that a peer is gone */
    NCCL_MOVES
};

/* Whether this move can be made now. */
bool nccl_end_can(const struct nccl_ends *w, uint32_t i, enum nccl_move move);
void nccl_end_move(struct choose *c, struct nccl_ends *w, uint32_t i,
                   enum nccl_move move);

/* When it must be looked at, and the look: deadlines are applied. */
uint64_t nccl_end_deadline(const struct nccl_ends *w, uint32_t i);
void nccl_end_tick(struct choose *c, struct nccl_ends *w, uint32_t i);

/* What must be true of it at any time. */
void nccl_end_check(struct choose *c, const struct nccl_ends *w, uint32_t i);
/* After each move: what the checks have to remember. */
void nccl_end_watch(struct choose *c, struct nccl_ends *w, uint32_t i);

/* ---- its caller: the transport's functions. CLEAT_PENDING: ask again */

enum cleat_status nccl_sender_prepare(struct choose *c, struct nccl_ends *w,
                                      uint32_t generation,
                                      uint32_t receivers_count, bool begins,
                                      struct nccl_ticket *ticket);
enum cleat_status nccl_sender_group(struct choose *c, struct nccl_ends *w,
                                    uint64_t deadline_ns);
enum cleat_status nccl_sender_send(struct choose *c, struct nccl_ends *w,
                                   bool begins, uint64_t deadline_ns);
enum cleat_status nccl_sender_finish(struct choose *c, struct nccl_ends *w,
                                     bool begins);
enum cleat_status nccl_receiver_join(struct choose *c, struct nccl_ends *w,
                                     uint32_t i,
                                     const struct nccl_ticket *ticket,
                                     uint32_t index, bool begins,
                                     uint64_t deadline_ns);
enum cleat_status nccl_receiver_receive(struct choose *c, struct nccl_ends *w,
                                        uint32_t i, uint64_t deadline_ns);
/* It gives up: the sender is told. */
void nccl_receiver_gives_up(struct nccl_ends *w, uint32_t i);
void nccl_receiver_leave(struct choose *c, struct nccl_ends *w, uint32_t i);
enum cleat_status nccl_end_close(struct choose *c, struct nccl_ends *w,
                                 uint32_t i);

/* Whether the end is in a group that works. */
bool nccl_end_healthy(const struct nccl_end *e);

/* For the projection: an end, and an epoch as seen from the latest. */
unsigned char *nccl_epoch_put(unsigned char *at, const struct nccl_ends *w,
                              uint64_t epoch);
unsigned char *nccl_end_put(unsigned char *at, const struct nccl_ends *w,
                            uint32_t i);

#endif
