/* Cleat port contract: threads. SPDX-License-Identifier: Apache-2.0
 *
 * A service needs one lock, and threads that carry out calls that block. All
 * of it is made at initialisation; nothing here allocates.
 *
 * `context` is completed by the port.
 */
#ifndef CLEAT_THREADS_H
#define CLEAT_THREADS_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cleat_threads_context;

/* A call to be made on a worker thread. It MAY block until its deadline, and
 * MUST return soon after. `job` and `index` are the submitter's. */
typedef void cleat_job_fn(void *job, uint64_t index);

struct cleat_threads {
    struct cleat_threads_context *context;

    /* Takes and gives the service's lock. It MUST exclude every other thread
     * and MUST order memory as a mutex does. It MUST NOT be taken twice by
     * one thread; a service never does. */
    void (*lock)(struct cleat_threads_context *context);
    void (*unlock)(struct cleat_threads_context *context);

    /* Has fn(job, index) called once on a worker thread. MUST NOT block and
     * MUST NOT call fn before it returns on the caller's own thread.
     * Returns CLEAT_OK; CLEAT_NO_SLOT when the queue is full, and then fn is
     * not called. Any thread may call it. */
    enum cleat_status (*submit)(struct cleat_threads_context *context,
                                cleat_job_fn *fn, void *job, uint64_t index);
};

#ifdef __cplusplus
}
#endif
#endif
