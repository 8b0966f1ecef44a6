/* Cleat: the inside of the fake NCCL. SPDX-License-Identifier: Apache-2.0
 *
 * fake_nccl.c   entry of every call, groups, jobs, what needs no communicator
 * fake_comm.c   communicators: how they begin, where they meet, how they end
 * fake_data.c   operations: parts of a work on a stream, through channels
 *
 * A call on a non-blocking communicator starts a job; the job is done in the
 * polls that follow. What a group launches is one work for each communicator
 * and stream, put on its stream when the job is done. */
#ifndef CLEAT_TEST_FAKE_NCCL_H
#define CLEAT_TEST_FAKE_NCCL_H

#include <nccl.h>
#include <pthread.h>
#include <stdint.h>

#include "../gpu/link.h"

#define COMMS_MAX 1024
#define WORKS_MAX 128
#define ITEMS_MAX 256

/* 2.28.9 unless another is asked for; the codes are those of nccl.h. */
#ifndef FAKE_NCCL_VERSION
#define FAKE_NCCL_VERSION 22809
#endif

/* From 2.30.3 a result more, and so ncclNumResults is another number. */
#define RESULT_TIMEOUT 8

enum state {
    STATE_NONE,
    STATE_INIT, /* until everyone is there */
    STATE_READY,
    STATE_REVOKED,
    STATE_FINALIZED,
    STATE_GONE, /* aborted or destroyed */
};

enum job {
    JOB_NONE,
    JOB_INIT,
    JOB_LAUNCH,
    JOB_REVOKE,
    JOB_FINALIZE,
    JOB_CHILD, /* split, shrink, grow */
    JOB_WINDOW,
};

enum part_kind {
    PART_SEND,
    PART_RECEIVE,
    PART_COPY,   /* to oneself */
    PART_REDUCE, /* receives from everyone, in the order of ranks */
};

struct part {
    enum part_kind kind;
    bool done;
    bool copies;     /* PART_SEND of a reduction: from the copy of the source */
    bool registered; /* its buffer is, where that is compared */
    int peer;
    uint64_t at;   /* address that is sent from, or received into */
    uint64_t from; /* PART_COPY: address; of a reduction: offset in the
                      copy of the source */
    uint64_t bytes;
    uint64_t moved;
    uint64_t sequence;   /* on its channel */
    uint64_t tag;        /* what both sides must agree upon */
    ncclDataType_t type; /* PART_REDUCE */
    ncclRedOp_t operation;
};

struct work {
    struct fake_work base; /* first: the driver gives it back */
    bool used;
    bool launched;
    bool begun;
    bool garble;
    struct ncclComm *comm;
    CUstream stream;
    uint64_t order; /* among the works of its communicator */
    uint32_t part_count;
    struct part parts[FAKE_PARTS_MAX];
    /* Of a reduction: what is one's own, as it was, and the result so far;
     * one in a group. */
    uint64_t source_at;
    unsigned char *source;
    unsigned char *result;
    uint64_t source_bytes;
    uint64_t result_bytes;
    uint64_t sequences[FAKE_RANKS_MAX];
};

struct ncclComm {
    enum state state;
    enum job job;
    uint32_t polls;    /* that the job still takes */
    bool job_never;    /* until released */
    ncclResult_t late; /* what the job ends with */
    ncclResult_t async;
    bool told; /* of that, by an answer: until then nobody can know */
    bool blocking;
    bool shrunk; /* with abort: never destroyed after that */
    bool ending; /* in a call that ends it */
    int device;
    int rank;
    int ranks;
    pthread_t owner; /* the thread that calls */
    struct fake_clique *clique;
    uint64_t serial; /* of the clique */
    uint64_t key;
    bool stuck; /* its bootstrap will never end */
    uint32_t children;
    uint32_t reset_polls;
    uint64_t ordered; /* works so far */
    uint64_t done;    /* of them */
    uint64_t sent[FAKE_RANKS_MAX];
    uint64_t received[FAKE_RANKS_MAX];
    struct ncclComm *child; /* that the job makes */
    ncclComm_t *child_out;
    bool splitting;
    uint32_t windows;
    pthread_t progress;   /* the thread that moves its data over the network */
    int32_t progress_pid; /* whose thread it is; 0: none */
    uint32_t progress_ends;
    char text[160]; /* of ncclGetLastError */
};

/* ---- entry -----------------------------------------------------------------
 */

/* NULL: no fake driver, which is no driver. */
const struct fake_cuda *cuda(void);

enum allow {
    ALLOW_IDLE = 0,       /* only when no job is under way */
    ALLOW_BUSY = 1,       /* also then */
    ALLOW_FAILED = 2,     /* also after an asynchronous error it was told */
    ALLOW_OTHER = 4,      /* hands over to the calling thread */
    ALLOW_NO_CONTEXT = 8, /* needs no current context */
    ALLOW_NO_COMM = 16,   /* takes no communicator */
    ALLOW_REVOKED = 32,   /* also after a revoke */
    ALLOW_FINALIZED = 64, /* also after a finalize */
    LEAKS = 128,          /* an error leaves the thread's group open */
};

struct call {
    const char *name;
    ncclResult_t code;
    struct fake_hit hit;
};

/* True: go on, with the lock held, and end with leave(). False: return
 * call->code; nothing is held. */
bool enter(struct call *call, const char *name, struct ncclComm *comm,
           unsigned allow);
ncclResult_t leave(struct call *call, ncclResult_t code);
/* The misuse, and what the real library answers. */
ncclResult_t refuse(struct call *call, ncclResult_t code, const char *what);

void leak_depth(void);
int group_depth(void);
void say(struct ncclComm *comm, const char *text);

/* A job begins: what the rules say of it is in `hit`. */
ncclResult_t begin_job(struct ncclComm *comm, enum job job,
                       const struct fake_hit *hit);
/* What was begun outside a group waits here where it blocks. */
ncclResult_t after_job(struct ncclComm *comm);
/* Lets the job go on by one poll. */
void poll_job(struct ncclComm *comm);
/* Waits a millisecond without the lock, and polls. */
void wait_a_little(void);

/* What a group holds back until it ends. */
enum item_kind {
    ITEM_PART,
    ITEM_WAIT, /* something blocks until this communicator's job is done */
    ITEM_ABORT,
};

struct item {
    enum item_kind kind;
    struct ncclComm *comm;
    CUstream stream;
    struct fake_hit hit;
    struct part part;
    /* Of a reduction's first part. */
    uint64_t source_at;
    uint64_t source_bytes;
};

struct item *add_item(enum item_kind kind, struct ncclComm *comm);
void start_group(void);
ncclResult_t end_group(struct call *call);

/* ---- communicators ---------------------------------------------------------
 */

bool is_comm(const struct ncclComm *comm);
struct ncclComm *comm_at(uint32_t index);
void end_comm(struct ncclComm *comm, enum fake_presence presence);
/* Whether the job of init or of a child can end now. */
bool is_complete(struct ncclComm *comm);
bool child_is_complete(struct ncclComm *comm);
bool everyone_left(const struct ncclComm *comm);
bool everyone_registered(const struct ncclComm *comm);
bool is_member_gone(const struct fake_member *member);
struct fake_clique *clique_of(const struct ncclComm *comm);
ncclResult_t abort_comms(struct ncclComm *const *comms, uint32_t count,
                         const struct fake_hit *hits);
/* Stopping now would wait for what never ends. */
bool cannot_stop(struct ncclComm *const *comms, uint32_t count);
/* Whether that is within what was registered with it. */
bool is_registered_with(const struct ncclComm *comm, uint64_t at,
                        uint64_t bytes);
bool is_registered(uint64_t at, uint64_t bytes); /* in part, with any */
void reset_comms(void);

/* ---- operations ------------------------------------------------------------
 */

/* Makes works of a group's parts; they wait for the communicators' jobs. */
ncclResult_t make_works(const struct item *items, uint32_t count,
                        struct call *call);
void launch_works(struct ncclComm *comm);
void drop_works(struct ncclComm *comm);
uint32_t works_of(const struct ncclComm *comm);
/* Whether one of its works runs, or waits behind what never ends. */
bool works_run(const struct ncclComm *comm);
bool works_blocked(const struct ncclComm *comm);
void reset_works(void);

#endif
