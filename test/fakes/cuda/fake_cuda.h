/* Cleat: the inside of the fake CUDA driver. SPDX-License-Identifier:
 * Apache-2.0
 *
 * fake_cuda.c     entry and exit of every call, rules, sticky errors, misuse
 * fake_device.c   devices, contexts, texts, cuGetProcAddress
 * fake_memory.c   device, pinned and virtual memory
 * fake_stream.c   streams, events, and how they advance */
#ifndef CLEAT_TEST_FAKE_CUDA_H
#define CLEAT_TEST_FAKE_CUDA_H

#include "../gpu/link.h"

#define DEVICES_MAX FAKE_DEVICES_MAX
#define STREAMS_MAX 64
#define EVENTS_MAX 1024
#define PENDING_MAX 2048
#define ALLOCATIONS_MAX 1024
#define PAGE_BYTES (UINT64_C(2) << 20) /* granularity of device memory */

/* ---- every call ------------------------------------------------------------
 */

enum need {
    NEED_NOTHING, /* works before cuInit and after a sticky error */
    NEED_INIT,
    NEED_CONTEXT,
};

struct call {
    const char *name; /* as in the source: without _v2 */
    CUresult code;    /* what it returns where enter() said no */
    struct fake_hit hit;
};

/* True: go on, with the lock held, and end with leave(). False: return
 * call->code; nothing is held. */
bool enter(struct call *call, const char *name, enum need need);
CUresult leave(struct call *call, CUresult code);

/* What such a call returns then: nothing says what is in its out-argument,
 * so there is garbage. */
CUresult spoiled(const struct call *call, void *out, uint64_t bytes);

/* The same for a call that a sealed process may not make. */
bool enter_allocating(struct call *call, const char *name, enum need need);

/* Says it and aborts; where the world is lenient it counts and returns. */
void misuse(const char *call, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

struct fake_world *world(void);
struct fake_settings *settings(void);
struct fake_counts *counts(void);
int64_t *used_of(int device); /* bytes that this process has there */
bool released(void);
bool is_sticky(CUresult code);

/* A device's context is corrupt: what came back is told at the next call. */
void corrupt(int device, CUresult code);
bool is_corrupt(int device);

/* ---- devices ---------------------------------------------------------------
 */

struct CUctx_st {
    int device;
    uint32_t references;
};

int current_device(void); /* -1: the thread has no current context */
void bus_id(int device, char *text, uint32_t bytes);
void reset_devices(void);
/* While it runs a host function a thread may call nothing. */
void in_host_function(bool inside);
bool is_in_host_function(void);
bool is_initialised(void);
uint32_t driver_version(void);

/* ---- memory ----------------------------------------------------------------
 */

enum memory_kind {
    MEMORY_FREE,
    MEMORY_DEVICE,     /* cuMemAlloc */
    MEMORY_IMPORTED,   /* cuIpcOpenMemHandle */
    MEMORY_RESERVED,   /* addresses without memory */
    MEMORY_MAPPED,     /* virtual memory, access not yet set */
    MEMORY_VIRTUAL,    /* virtual memory that may be used */
    MEMORY_PINNED,     /* cuMemHostAlloc */
    MEMORY_REGISTERED, /* cuMemHostRegister */
};

/* Where an address is; `host` is where the fake reads and writes it. */
struct place {
    enum memory_kind kind; /* MEMORY_FREE: pageable host memory */
    unsigned char *host;
    bool device;
    bool known; /* false: in no allocation, though in device addresses */
};

struct place place_of(uint64_t at, uint64_t bytes);
void *memory_of(uint64_t at, uint64_t bytes, bool *is_virtual);
/* The same with virtual memory that nobody mapped, and its end. */
CUresult allocate_virtual(uint64_t *at, uint64_t bytes);
CUresult release_virtual(uint64_t at);
void reset_memory(void);
/* Adds one who is asked before device memory is freed. */
void ask_before_free(bool (*is_registered)(uint64_t at, uint64_t bytes));

/* ---- streams ---------------------------------------------------------------
 */

/* A capture forbids it to the calling thread, and is over by it. */
bool capture_forbids(struct call *call);
/* Whether work that is not done touches those bytes. */
bool is_pending(uint64_t at, uint64_t bytes);
uint64_t pending(void);
uint64_t pending_on_device(int device);
void reset_streams(void);
uint32_t pump(uint32_t steps);
void poll(void);
bool drain(void); /* false: something never ends */
uint64_t now(void);
void tick(uint64_t ticks);
uint32_t busy_streams(void);
bool step_stream(uint32_t index);
void choose_with(uint32_t (*choose)(void *arg, uint32_t n), void *arg);
int stream_device(CUstream stream);
void enqueue_work(CUstream stream, struct fake_work *work, const char *call);
void take_off(CUstream stream, struct fake_work *work);
bool is_blocked(CUstream stream, const struct fake_work *work);
void hold(CUstream stream, bool held);

#endif
