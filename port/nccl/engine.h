/* Cleat: a device, its owner and its reaper. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Everything here but what is marked `owner` is under the lock. The lock is
 * never held in a call of CUDA or NCCL, nor in anything else that may wait. */
#ifndef CLEAT_PORT_NCCL_ENGINE_H
#define CLEAT_PORT_NCCL_ENGINE_H

#include <pthread.h>

#include "cleat/cuda.h"
#include "cleat/memory.h"
#include "library.h"
#include "stop.h"

/* What goes over the shared memory with each bucket. */
struct nccl_descriptor {
    uint64_t bytes;
    uint64_t epoch;
};

/* A bucket on its way, in slot bucket % slots_count. */
enum nccl_op_state {
    NCCL_OP_FREE,
    NCCL_OP_QUEUED,  /* asked for */
    NCCL_OP_STAGED,  /* sender: the copy to the device has been begun */
    NCCL_OP_GROUPED, /* given to NCCL, which is putting it on the stream */
    NCCL_OP_RUNNING, /* on the stream, and an event after it */
    NCCL_OP_DONE
};

struct nccl_op {
    uint64_t bytes;
    uint64_t deadline_ns; /* from when its turn has come; 0: not yet */
    uint32_t bucket;
    uint32_t crc;
    enum nccl_op_state state;
};

enum { NCCL_COPY_STREAM, NCCL_DATA_STREAM, NCCL_STREAMS };

struct nccl_group {
    uint64_t epoch; /* 0: none */
    ncclUniqueId id;
    uint32_t ranks;
    uint32_t rank; /* the sender's is 0 */
    uint32_t topology;
    uint32_t registers; /* 1: every rank registers its slots */
};

struct nccl_engine {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* anything, for anybody */
    pthread_t owner;
    pthread_t reaper;
    bool closing;
    bool reap;  /* an abort is asked for */
    bool woken; /* the caller is */
    bool leaks; /* an abort has failed: what it should have freed may be used */
    struct nccl_library nccl;
    struct cleat_cuda *cuda;
    struct cleat_nccl_config config;
    struct cleat_nccl_stop stop;
    uint64_t seen_ns;        /* when somebody looked last */
    int32_t code;            /* the last error */
    bool slots_can_register; /* they are of memory that NCCL registers */
    uint32_t refuses;        /* atomic; 1: NCCL has refused to register them */

    struct nccl_group group; /* that is to be */
    struct nccl_group built; /* that is; changes only while quiesced */
    ncclComm_t comm;         /* owner; the reaper's while it aborts */

    /* An id, made ahead or asked for. */
    bool id_wanted;
    bool id_ready;
    enum cleat_status id_status; /* CLEAT_PENDING while wanted */
    ncclUniqueId id_made;

    /* Buckets first … next - 1 are on their way, in that order. */
    uint32_t first;
    uint32_t next;
    struct nccl_op ops[CLEAT_NCCL_SLOTS_MAX];

    /* The receiver's: what the sender has published is fetched ahead. */
    const struct cleat_transport_receiver *fetches_from; /* NULL: nothing */
    enum cleat_status fetch_status;

    /* The sender's: to be woken when something has gone wrong. */
    const struct cleat_transport_sender *wakes;

    _Alignas(64) unsigned char cuda_block[CLEAT_CUDA_BYTES];
};

uint64_t nccl_now_ns(void);

/* Opens libraries, device and threads. Statuses as cleat_nccl_sender_open. */
enum cleat_status nccl_engine_open(struct nccl_engine *engine,
                                   const struct cleat_nccl_config *config,
                                   struct cleat_error *error);

/* As cleat_nccl_sender_close. */
enum cleat_status nccl_engine_close(struct nccl_engine *engine);

/* As cleat_nccl_sender_lose. */
void nccl_engine_lose(struct nccl_engine *engine);

void nccl_engine_account(struct nccl_engine *engine,
                         struct cleat_nccl_account *account);

/* Where a slot's bytes are for whoever fills and reads it. */
void *nccl_place(const struct nccl_engine *engine, uint32_t slot);

/* ---- with the lock held ---- */

void nccl_lock(struct nccl_engine *engine);
void nccl_unlock(struct nccl_engine *engine);

/* The time, for the device's machine. */
uint64_t nccl_time(struct nccl_engine *engine);

/* Something has changed: whoever waits looks. */
void nccl_changed(struct nccl_engine *engine);

/* Applies the deadlines of the device's machine. */
void nccl_tick(struct nccl_engine *engine);

/* The place of a bucket on its way. */
struct nccl_op *nccl_op_at(struct nccl_engine *engine, uint32_t bucket);

/* Waits, without the lock, until something has changed or deadline_ns has come
 * or a deadline of the device's machine, which is then applied. False when
 * deadline_ns has come. */
bool nccl_wait(struct nccl_engine *engine, uint64_t deadline_ns);

/* When whoever waits must look again at the latest, whatever it waits for. */
uint64_t nccl_look_ns(const struct nccl_engine *engine, uint64_t now_ns);

bool nccl_is_lost(const struct nccl_engine *engine);
bool nccl_is_healthy(const struct nccl_engine *engine);

/* The group is to be left, and what was on its way is forgotten. */
void nccl_stop(struct nccl_engine *engine, enum cleat_status why);

/* Forms engine->group, once the one before it has been left: a look at how far
 * it is. CLEAT_PENDING: call again when something has changed; CLEAT_OK: it is
 * formed; CLEAT_DEADLINE; CLEAT_GROUP_FAILED; CLEAT_UNSUPPORTED: the slots
 * cannot be registered; CLEAT_LIMIT; CLEAT_PEER_STALE; CLEAT_DEVICE_LOST. */
enum cleat_status nccl_form(struct nccl_engine *engine, uint64_t deadline_ns);

/* Whether the caller has been woken; not a second time. */
bool nccl_take_wake(struct nccl_engine *engine);

/* Whether this end may belong to a group whose slots are registered. */
bool nccl_can_register(const struct nccl_engine *engine);

/* The owner's work has come back: with CLEAT_OK or CLEAT_PENDING, or with an
 * error that ends the group, or with CLEAT_DEVICE_LOST. */
void nccl_told_of_work(struct nccl_engine *engine, enum cleat_status status);

/* ---- the owner's work (work.c) ---- */

/* The owner's, without the lock: what a result means, and CLEAT_DEVICE_LOST
 * when it comes of a broken context. */
enum cleat_status nccl_judge(struct nccl_engine *engine, ncclResult_t result);

/* What has come is asked for, and what is on its way is moved on by a step.
 * True when something was done; the lock was given up meanwhile. */
bool nccl_work(struct nccl_engine *engine);

/* Whether a bucket is on its way. */
bool nccl_is_moving(const struct nccl_engine *engine);

/* Whether there is something that has to be looked at again soon. */
bool nccl_is_working(const struct nccl_engine *engine);

#endif
