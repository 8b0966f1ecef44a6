/* Cleat: a whole job on one machine. SPDX-License-Identifier: Apache-2.0
 *
 * Everything that a trainer needs to keep the engines of its own machine up to
 * date, from parts that can each be used alone: worker processes and their
 * control channels (cleat/linux.h), shared memory (cleat/memory.h), the
 * transfer (cleat/stream.h) and the two services (cleat/service.h).
 *
 *     trainer's process                      each engine's process
 *       cleat_local_open   ─── starts ───▶     cleat_local_engine_open
 *       cleat_local_sync   ═══ weights ══▶     cleat_local_engine_run
 *       cleat_local_close  ─── ends ─────▶     cleat_local_engine_close
 *
 * A job that is put together otherwise (a coordinator in a process of its own,
 * engines that attach) uses cleat_local_trainer_* and cleat_local_engine_* for
 * the two ends of a transfer, and the rest as it likes.
 *
 * Both ends must have the same tensor table, in the same order, and the same
 * bucket size. Each says a digest of it before it is told to do anything
 * (cleat_tensors_layout), and a job's processes that say different ones are not
 * brought up; see cleat/linux.h. After open nothing here allocates.
 */
#ifndef CLEAT_LOCAL_H
#define CLEAT_LOCAL_H

#include "cleat/linux.h"
#include "cleat/linux_worker.h"
#include "cleat/memory.h"
#include "cleat/memory_tensors.h"
#include "cleat/plan.h"
#include "cleat/service.h"
#include "cleat/status.h"
#include "cleat/stream.h"
#include "cleat/sync.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_LOCAL_BUCKET_BYTES_DEFAULT (UINT32_C(4) << 20)

/* How a transfer is watched, for both ends. Zero means the default. */
struct cleat_local_transfer {
    uint32_t bucket_bytes; /* a multiple of CLEAT_PLAN_ALIGN. Default 4 MiB */
    uint32_t slots_count;  /* trainer. Default 3 */
    uint64_t silence_ns;   /* an end that hears nothing from the other for this
                              long gives it up. Default 10 s */
    uint32_t hold_bucket;  /* trainer: see cleat/stream.h */
    uint32_t skips_digest; /* 1: see cleat/stream.h; for both ends, or for
                              engines alone. The digests in the answers of the
                              step `send` are then 0: not told */
    cleat_stream_hook_fn *hook; /* NULL: none */
    void *hook_context;
};

/* ------------------------------------------------------------ an engine */

struct cleat_local_engine;

struct cleat_local_engine_config {
    /* The worker. Of its host's functions, prepare, group, transfer and
     * interrupt are this object's and must be NULL; commit is called once the
     * sinks have changed places, and when it fails they change back; finalize
     * once the transport was left. Its layout, where it is 0, is that of
     * `live`. */
    struct cleat_worker_config worker;

    /* Where the weights go. With `staged` a new version is received there
     * while the old one stays whole, and at commit the two change places: then
     * what was `staged` is served. Without (count is NULL) it is received in
     * place. */
    struct cleat_tensor_sink live;
    struct cleat_tensor_sink staged;

    struct cleat_local_transfer transfer;

    /* What buckets come by, used by this object alone; copied, and not closed
     * here. NULL: shared memory, of this object's own. */
    const struct cleat_transport_receiver *transport;
};

/* Bytes of block for an engine of this configuration; 0 without `live`. */
size_t cleat_local_engine_bytes(const struct cleat_local_engine_config *config);

/* Makes an engine and starts its threads.
 *   block   any alignment; owned by the caller, must outlive *out
 *   config  copied; what its members point to must outlive *out
 * Returns CLEAT_OK; CLEAT_INVALID, also when `live` and `staged` have not the
 * same table; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset; what cleat_worker_init returns. On error nothing is left. */
enum cleat_status cleat_local_engine_open(
    void *block, size_t bytes, const struct cleat_local_engine_config *config,
    struct cleat_local_engine **out, struct cleat_error *error);

/* Takes part in the job until it ends: cleat_worker_run. When the job has other
 * tensors that is at once, with CLEAT_PEER_DEVIANT; cleat_worker_sent_away has
 * the words. */
enum cleat_status cleat_local_engine_run(struct cleat_local_engine *engine);

/* The worker, for cleat_worker_admit and the like. */
struct cleat_worker *
cleat_local_engine_worker(struct cleat_local_engine *engine);

/* Which sink is served: 0, the one configured as live, or 1. Between
 * cleat_worker_admit and cleat_worker_leave it stays the same. */
uint32_t cleat_local_engine_live(const struct cleat_local_engine *engine);

/* Ends the threads and closes everything. NULL does nothing. */
void cleat_local_engine_close(struct cleat_local_engine *engine);

/* ------------------------------------------------------------ a trainer */

struct cleat_local_trainer;

struct cleat_local_trainer_config {
    /* The worker. Of its host's functions, group, transfer and interrupt are
     * this object's and must be NULL; prepare is called before the transport
     * is made ready, finalize once the transport has finished. Its layout,
     * where it is 0, is that of `source`. */
    struct cleat_worker_config worker;

    struct cleat_tensor_source source; /* read while a version is sent */
    uint32_t receivers_max;            /* 1 … 1024 */
    struct cleat_local_transfer transfer;

    /* As for an engine. Its slots hold the plan's first bucket, the largest;
     * transfer.slots_count is not used. */
    const struct cleat_transport_sender *transport;
};

/* As for an engine; 0 bytes without `source`. Opening takes the shared memory:
 * slots_count buckets. Returns in addition what cleat_memory_sender_open does.
 */
size_t
cleat_local_trainer_bytes(const struct cleat_local_trainer_config *config);
enum cleat_status cleat_local_trainer_open(
    void *block, size_t bytes, const struct cleat_local_trainer_config *config,
    struct cleat_local_trainer **out, struct cleat_error *error);
enum cleat_status cleat_local_trainer_run(struct cleat_local_trainer *trainer);
struct cleat_worker *
cleat_local_trainer_worker(struct cleat_local_trainer *trainer);
void cleat_local_trainer_close(struct cleat_local_trainer *trainer);

/* ---------------------------------------------------------------- a job */

struct cleat_local;

/* The trainer's side. Zero means the default but where nothing is said. */
struct cleat_local_config {
    struct cleat_tensor_source source; /* the trainer's tensors; required */
    const char *engine_path;           /* the engines' program; required */
    char *const *engine_argv; /* its arguments, NULL-terminated; required. It
                                 finds its channel at CLEAT_LINUX_CHANNEL_FD */
    uint32_t replicas;        /* 1 … 1023; required */
    uint32_t replicas_min;    /* as in cleat/sync.h */
    uint32_t attempts_max;
    uint32_t reserved;
    uint64_t step_timeout_ns;
    uint64_t start_timeout_ns; /* until all engines are up. Default 30 s */
    uint64_t seed;             /* of the jitter of bring-up */
    struct cleat_local_transfer transfer;
    struct cleat_events events;
    const struct cleat_transport_sender *transport; /* as for a trainer */
    uint64_t grace_ns; /* for engines to end by themselves, as in cleat/linux.h;
                          then they are killed. Default 1 s */
};

size_t cleat_local_bytes(const struct cleat_local_config *config);

/* Starts the engines and waits until each is ready. The trainer is this
 * process: a thread made here sends.
 *   block   any alignment; owned by the caller, must outlive *out
 *   config  copied; what its members point to must outlive *out
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset; CLEAT_IO; or why an engine did not come up (error->index: its
 * member number), CLEAT_PEER_DEVIANT among others: its tensors are not those of
 * `source`, or its bucket size another. On error no process, thread or
 * descriptor is left. */
enum cleat_status cleat_local_open(void *block, size_t bytes,
                                   const struct cleat_local_config *config,
                                   struct cleat_local **out,
                                   struct cleat_error *error);

/* Takes the tensors as they are now to every engine, as `version`: not 0, with
 * which engines begin, and no version of before. The caller leaves the tensors
 * alone until it returns. CLEAT_INVALID, also for version 0; else see
 * cleat_sync_run. */
enum cleat_status cleat_local_sync(struct cleat_local *local, uint64_t version,
                                   struct cleat_sync_report *report,
                                   struct cleat_error *error);

/* cleat_sync_stop. Any thread. */
enum cleat_status cleat_local_stop(struct cleat_local *local);

/* The machine and the workers, for their accounts. */
const struct cleat_sync *cleat_local_machine(const struct cleat_local *local);
struct cleat_linux_workers *cleat_local_workers(struct cleat_local *local);

/* Ends the engines and everything else; takes little longer than grace_ns at
 * most, and 5 s more where one does not end though it was killed. NULL does
 * nothing. */
void cleat_local_close(struct cleat_local *local);

#ifdef __cplusplus
}
#endif
#endif
