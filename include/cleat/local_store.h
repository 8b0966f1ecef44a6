/* Cleat: batches put and got, put together. SPDX-License-Identifier: Apache-2.0
 *
 * Threads, mailboxes and the transfer service (cleat/transfer_service.h) over a
 * store of the caller's choice, in one block of memory:
 *
 *     size_t bytes = cleat_local_store_bytes(NULL);
 *     struct cleat_local_store *store;
 *
 *     cleat_local_store_open(malloc(bytes), bytes, NULL, &memory, &store,
 *                            &error);
 *     service = cleat_local_store_service(store);
 *     cleat_transfer_service_ready(service, deadline_ns, &error);
 *     cleat_transfer_put(service, values, count, NULL, NULL, &error);
 *     cleat_local_store_close(store, deadline_ns, &error);
 *
 * Nothing here allocates.
 */
#ifndef CLEAT_LOCAL_STORE_H
#define CLEAT_LOCAL_STORE_H

#include "cleat/linux.h"
#include "cleat/store.h"
#include "cleat/transfer_service.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cleat_local_store;

/* Zero means the default. */
struct cleat_local_store_config {
    struct cleat_transfer_service_config service;
    /* As many threads as calls of the store are made at once, of all batches
     * together. 0: 4, and 256 jobs that wait for one. */
    struct cleat_linux_threads_config threads;
    uint64_t seed; /* of the jitter of retries. 0: of this moment, so that the
                      processes of one job differ */
};

/* Bytes of block; 0 when a number of the configuration is out of range. */
size_t cleat_local_store_bytes(const struct cleat_local_store_config *config);

/* Opens everything, and starts the threads. The store is not spoken to: see
 * cleat_transfer_service_ready.
 *   block   any alignment and content; owned by the caller, outlives *out
 *   config  copied; NULL: all defaults
 *   store   copied; what it is made of must outlive *out
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset; what cleat_linux_threads_init and cleat_transfer_service_init
 * return. On error nothing is left. */
enum cleat_status cleat_local_store_open(
    void *block, size_t bytes, const struct cleat_local_store_config *config,
    const struct cleat_store *store, struct cleat_local_store **out,
    struct cleat_error *error);

/* The service, for every call of cleat/transfer_service.h. */
struct cleat_transfer_service *
cleat_local_store_service(struct cleat_local_store *store);

/* Ends every batch under way (CLEAT_CANCELLED), waits for their callers and for
 * the calls that are still in the store (cleat_transfer_service_close), and
 * ends the threads. NULL does nothing.
 * Returns CLEAT_OK: the block is the caller's again; CLEAT_DEADLINE: a call had
 * not returned by deadline_ns (how many, in error->index), and the block is
 * still used: close it again, or leave it be until the process ends. */
enum cleat_status cleat_local_store_close(struct cleat_local_store *store,
                                          uint64_t deadline_ns,
                                          struct cleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
