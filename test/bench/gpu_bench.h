/* Cleat: how fast weights travel between GPUs: what the processes of
 * gpu_bench say to each other. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TEST_GPU_BENCH_H
#define CLEAT_TEST_GPU_BENCH_H

#define CLEAT_DIGEST_DETECT
#include <time.h>

#include "cleat/cuda.h"
#include "cleat/digest.h"
#include "cleat/nccl.h"

#define SLOTS CLEAT_NCCL_SLOTS_DEFAULT
#define RANKS_MAX 9u /* a sender and eight receivers */

/* What bytes go through, and what is timed. The first four are ways from the
 * sender to every receiver, the others one process's own. */
enum way {
    WAY_BARE,   /* ncclBroadcast, with a communicator of its own */
    WAY_KEPT,   /* ours, on the device: the slots as they are */
    WAY_DEVICE, /* ours, on the device, from and to weights there */
    WAY_STAGED, /* ours, from and to weights on the host, digest on */
    WAY_COPY,   /* device to device, on one device */
    WAY_TO,     /* pinned memory to the device */
    WAY_FROM,   /* the device to pinned memory */
    WAY_DIGEST, /* copy + CRC32C on one core */
    WAY_STAGING /* copy + CRC32C into pinned slots and on to the device */
};
#define WAYS 9u
#define WAYS_BETWEEN 4u

enum work {
    WORK_OPEN,    /* everything that is needed is made */
    WORK_ID,      /* the sender's: makes an id for the bare communicator */
    WORK_MEET,    /* forms it */
    WORK_POISON,  /* receivers: where bytes will come to holds others */
    WORK_PREPARE, /* the sender's: a generation, its ticket */
    WORK_JOIN,    /* the group of a generation */
    WORK_PASS,    /* the buckets; timed */
    WORK_CHECK,   /* receivers: whether the right bytes have come */
    WORK_CLOSE    /* and the end of the process */
};

/* What a rank is started with. */
struct settings {
    const char *cuda; /* libraries; NULL: as the ports look for them */
    const char *nccl;
    uint64_t bucket_bytes;
    uint64_t step_ns; /* how long one order may take */
    uint32_t receivers;
    uint32_t topology;
    uint32_t rank; /* 0: the sender */
    uint32_t device;
    bool registers; /* NCCL is told of all slots ahead, the bare ones too */
    enum cleat_digest_kind digest;
};

struct order {
    enum work work;
    enum way way;
    uint64_t deadline_ns;
    uint64_t generation;
    uint32_t buckets;
    uint32_t reserved;
    unsigned char id[CLEAT_NCCL_ID_BYTES];
    struct cleat_transport_ticket ticket;
};

struct answer {
    enum cleat_status status;
    uint32_t digest;     /* of a staged pass */
    uint32_t registered; /* of a group: 1: its slots are registered */
    uint32_t reserved;
    uint64_t start_ns;
    uint64_t end_ns;
    unsigned char id[CLEAT_NCCL_ID_BYTES];
    struct cleat_transport_ticket ticket;
    char text[CLEAT_ERROR_TEXT_MAX];
};

static inline uint64_t now_ns(void)
{
    struct timespec now = {0, 0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* ---- one process (gpu_bench_rank.c) ---- */

/* Carries out orders until WORK_CLOSE; never returns. */
_Noreturn void rank_main(const struct settings *settings, int fd);

/* ---- all of them (gpu_bench_ranks.c) ---- */

/* How long an order may take. 120 */
extern uint32_t step_seconds;

static inline uint64_t step_ns(void)
{
    return step_seconds * CLEAT_NS_PER_S;
}

/* Ends every process, says why in one line, and exits. */
__attribute__((format(printf, 2, 3))) _Noreturn void
give_up(int code, const char *format, ...);

/* Starts the next process, which dies with this one; true in it, with its end
 * of a socket. */
bool ranks_begin(int *fd);

/* Ends them all and waits until they have ended. */
void ranks_end(void);

/* The message of a process that answers no order; gives up when none comes. */
void ranks_take(uint32_t rank, void *message, size_t bytes, const char *doing);

struct order ranks_order(enum work work, enum way way);

/* Has every rank in `whom` carry out an order; the answers are in answers[].
 * Gives up when one fails. */
#define SENDER 1u /* bit i: rank i */
#define RECEIVERS (~1u)
#define ALL (~0u)
extern struct answer answers[RANKS_MAX];
void ranks_give(uint32_t whom, struct order *order, const char *doing);

/* Sends a message, and with it the descriptors of its ticket; false: nobody is
 * there. Takes one, CLEAT_PENDING at the deadline; CLEAT_PEER_LOST.
 *   ticket  of the message, or NULL: it has none */
bool message_send(int fd, const void *message, size_t bytes,
                  const struct cleat_transport_ticket *ticket);
enum cleat_status message_take(int fd, void *message, size_t bytes,
                               struct cleat_transport_ticket *ticket,
                               uint64_t deadline_ns);

/* ---- what came of it (gpu_bench_table.c) ---- */

#define TURNS_MAX 64u
#define SIZES_MAX 4u

struct size {
    uint64_t bucket_bytes;
    uint32_t buckets[WAYS];        /* a pass */
    double rates[WAYS][TURNS_MAX]; /* GB/s */
};

struct results {
    uint32_t turns;
    uint32_t sizes_count;
    struct size sizes[SIZES_MAX];
};
extern struct results results;

extern const char *const way_names[WAYS];

/* The median of a way's rates by those of another, in the same turn. */
double ratio_of(const struct size *size, enum way a, enum way b);

void table_print(void);

#endif
