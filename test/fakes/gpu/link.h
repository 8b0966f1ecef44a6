/* Cleat: what the fake NCCL asks of the fake CUDA driver, and what a test asks
 * of each. SPDX-License-Identifier: Apache-2.0
 *
 * Each library exports one function of its own, fake_cuda() or fake_nccl(),
 * which gives a table of functions. Tests use control.h, which wraps both. */
#ifndef CLEAT_TEST_FAKE_GPU_LINK_H
#define CLEAT_TEST_FAKE_GPU_LINK_H

#include <cuda.h>

#include "world.h"

/* Sends and receives of one group, on one stream. */
#define FAKE_PARTS_MAX 128

/* What an operation on a stream reads or writes, in either memory. */
struct fake_region {
    uint64_t at;
    uint64_t bytes;
    bool write;
};

/* What became of the operation at the head of a stream. */
enum fake_step {
    FAKE_BLOCKED, /* nothing moved */
    FAKE_MOVED,
    FAKE_DONE,
};

/* An operation that the fake NCCL puts on a stream; it is the fake NCCL's and
 * stays where it is until it is done or taken off. */
struct fake_work {
    struct fake_region regions[FAKE_PARTS_MAX];
    uint32_t region_count;
    uint64_t delay; /* ticks, from when it comes to the head */
    bool never;
    enum fake_step (*advance)(struct fake_work *work);
    bool started; /* advance() was called: its kernel runs */
};

/* What the rules say about one call. */
struct fake_hit {
    uint32_t action; /* enum fake_action: never, fail, late, delay, garble */
    uint64_t value;
};

/* What the libraries and a test must have in common: one of another build, of
 * other headers, is refused. */
#define FAKE_LAYOUT                                                       \
    ((uint64_t)sizeof(struct fake_world) << 24 ^                          \
     (uint64_t)offsetof(struct fake_world, cliques) << 16 ^               \
     (uint64_t)offsetof(struct fake_world, roots) << 8 ^                  \
     (uint64_t)sizeof(struct fake_cuda) << 4 ^ sizeof(struct fake_nccl) ^ \
     (uint64_t)offsetof(struct fake_process, counts) << 40)

/* Called with the lock held, but for lock() and reset(). */
struct fake_cuda {
    uint64_t layout; /* FAKE_LAYOUT */
    /* --- for the fake NCCL --- */
    struct fake_world *(*world)(void);
    void (*lock)(void);
    void (*unlock)(void);
    uint32_t (*process)(void); /* index in world()->processes */
    struct fake_counts *(*counts)(void);
    struct fake_hit (*rule)(const char *call);
    /* The device of the calling thread's context, or -1. */
    int (*device)(void);
    /* The number of the sticky error that some thread was told of, or 0;
     * *heard: the calling thread was, and must call no more. */
    uint64_t (*lost)(bool *heard);
    int (*stream_device)(CUstream stream); /* or -1 */
    void (*enqueue)(CUstream stream, struct fake_work *work, const char *call);
    void (*take_off)(CUstream stream, struct fake_work *work);
    /* Whether what is before it on its stream never ends by itself. */
    bool (*blocked)(CUstream stream, const struct fake_work *work);
    /* NCCL work for this stream is under way: nothing may be enqueued. */
    void (*hold)(CUstream stream, bool held);
    /* Host address of device memory; NULL where that is not all ours. */
    void *(*memory)(uint64_t at, uint64_t bytes, bool *is_virtual);
    /* Asked before device memory is freed: whether it is registered. */
    void (*before_free)(bool (*is_registered)(uint64_t at, uint64_t bytes));
    /* Virtual memory of the device, as ncclMemAlloc gives it. */
    CUresult (*allocate)(uint64_t *at, uint64_t bytes);
    CUresult (*release)(uint64_t at);
    bool (*sealed)(void);
    void (*poll)(void); /* a tick, and the queues move on */
    bool (*released)(void);
    /* Says it and aborts; returns where the world is lenient. */
    void (*misuse)(const char *call, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
    void (*bus_id)(int device, char *text, uint32_t bytes);

    /* --- for tests --- */
    void (*reset)(void);
    void (*seal)(bool sealed);
    uint32_t (*pump)(uint32_t steps); /* how many moved something */
    uint32_t (*streams)(void);        /* with something pending */
    bool (*step)(uint32_t index);     /* of those; whether it moved */
    void (*choose)(uint32_t (*choose)(void *arg, uint32_t n), void *arg);
    uint64_t (*now)(void);
    void (*tick)(uint64_t ticks);
    uint64_t (*pending)(void); /* operations on all streams */
};

/* Called without the lock. */
struct fake_nccl {
    uint64_t layout; /* FAKE_LAYOUT */
    void (*reset)(void);
    int (*version)(void);
    int (*group_depth)(void); /* of the calling thread */
    /* The communicators of this process with this rank: their asynchronous
     * state is `code` from now on. How many there were. */
    uint32_t (*fail)(int rank, int code);
    /* That rank is dead to its peers, in every clique: for ranks that are
     * threads of one process. */
    uint32_t (*lose)(int rank);
    /* From now on the calling thread makes this communicator's calls. */
    void (*hand_over)(void *comm);
};

const struct fake_cuda *fake_cuda(void);
const struct fake_nccl *fake_nccl(void);

#endif
