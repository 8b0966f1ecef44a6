/* Cleat: batches put and got, blocking. SPDX-License-Identifier: Apache-2.0
 *
 * The transfer machine joined to a store: any number of threads put and get
 * batches of values by key, many at once.
 *
 *     struct cleat_transfer_value values[2] = {{…}, {…}};
 *
 *     status = cleat_transfer_put(service, values, 2, NULL, &report, &error);
 *
 * CLEAT_OK means that every value is in the store, or in its buffer, and is
 * the right one. Anything else comes with the state of each value in the
 * value itself. Calls are made on ports->threads; the service allocates
 * nothing.
 */
#ifndef CLEAT_TRANSFER_SERVICE_H
#define CLEAT_TRANSFER_SERVICE_H

#include "cleat/service.h"
#include "cleat/store.h"
#include "cleat/transfer.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cleat_transfer_service;

/* Zero means the default. */
struct cleat_transfer_service_config {
    /* Of every batch; keys_count, kind, mode, verify, sized and wait are not
     * read. */
    struct cleat_transfer_config batch;
    struct cleat_retry_budget budget; /* tokens_max 0: CLEAT_RETRY_BUDGET_AWS */
    uint32_t batches_max;             /* at once. 0: 16 */
    uint32_t keys_max;                /* of one batch. 0: 16384 */
    uint32_t on_failure; /* 0: what of a buffer was written by a get that has
                            failed is zeroed; 1: filled with 0xA5 */
    uint32_t names_max;  /* failed keys named in an error line. 0: 5 */
};

/* One value. What the service fills is last. */
struct cleat_transfer_value {
    const char *key;   /* NUL-terminated, 1 … CLEAT_STORE_KEY_MAX bytes */
    void *payload;     /* get: of at least `bytes` bytes; may be NULL for 0 */
    uint64_t bytes;    /* put: of the value; get: exactly these, or with
                          `sized` at most */
    uint32_t flags;    /* enum cleat_store_item_flags */
    uint32_t rank;     /* of a tensor: put, stored beside it; get, demanded */
    uint32_t dtype;    /* enum cleat_dtype; NONE: plain bytes, nothing is
                          demanded */
    uint32_t attempts; /* filled: and so are all that follow */
    uint64_t shape[CLEAT_RANK_MAX];
    uint64_t actual; /* bytes of the value; exists: 1 or 0 */
    int32_t status;  /* CLEAT_OK, or why not */
    int32_t code;    /* the store's own, the last one */
    uint32_t lent;   /* 1: the store may still touch the payload; see
                        cleat_transfer_drain */
    uint32_t reserved;
};

/* How far a batch has come; called on the thread that made the call, whenever a
 * call of the store has returned, with nothing held. It SHOULD return soon, and
 * MUST NOT call the service.
 *   ended  values that have ended, of `count` */
typedef void
cleat_transfer_progress_fn(void *context, uint32_t ended, uint32_t count,
                           const struct cleat_transfer_totals *totals);

/* How one batch is to be done. Zero means the default. */
struct cleat_transfer_options {
    cleat_transfer_progress_fn *progress; /* NULL: nobody listens */
    void *progress_context;
    uint64_t deadline_ns; /* absolute. 0: the configuration's, from now */
    uint32_t mode;        /* put: enum cleat_transfer_mode */
    uint32_t verify;      /* put: enum cleat_transfer_verify */
    uint32_t sized;       /* get: sizes are not known */
    uint32_t wait;        /* get: what is missing may still come */
};

/* What has come of a batch. */
struct cleat_transfer_summary {
    struct cleat_transfer_totals totals;
    uint64_t started_ns;
    uint64_t ended_ns;
    uint64_t bytes; /* of the values that are ok */
};

/* Bytes of block; 0 when a count is out of range. */
size_t cleat_transfer_service_bytes(
    const struct cleat_transfer_service_config *config);

/* Makes the service in the caller's block.
 *   block    aligned to CLEAT_ALIGN, owned by the caller, outlives *out
 *   ports    as many threads as calls are to be made at once; ports->mailbox
 *            is not used
 *   batches  batches_max mailboxes, one a batch, with room for
 *            2 · calls_max + 2 messages each; copied
 *   store    copied
 *   seed     of the jitter; any value
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset. */
enum cleat_status
cleat_transfer_service_init(void *block, size_t bytes,
                            const struct cleat_transfer_service_config *config,
                            const struct cleat_service_ports *ports,
                            const struct cleat_mailbox *batches,
                            const struct cleat_store *store, uint64_t seed,
                            struct cleat_transfer_service **out,
                            struct cleat_error *error);

/* Waits until the store is ready: a put, a look and a get of a key of its own
 * have worked, again and again by CLEAT_RETRY_BRING_UP until deadline_ns. Every
 * call below is refused with CLEAT_STATE before that.
 * Returns CLEAT_OK; else how the last try failed. */
enum cleat_status
cleat_transfer_service_ready(struct cleat_transfer_service *service,
                             uint64_t deadline_ns, struct cleat_error *error);

/* Puts, gets, removes values; asks whether they exist. Each blocks until the
 * batch has ended, by options->deadline_ns at the latest. Any thread.
 *   values   `count` of them; what is filled is filled in every case but
 *            CLEAT_INVALID, CLEAT_EXISTS of a key given twice, CLEAT_LIMIT,
 *            CLEAT_NO_SLOT and CLEAT_STATE: then nothing was sent
 *   options  NULL: all defaults
 *   summary  filled likewise; may be NULL
 * A get of one key by several values fetches it once and copies it. A put of
 * one key twice is refused.
 * Returns CLEAT_OK: all are ok; CLEAT_INVALID: a key that is empty, too long or
 * NULL, a tensor whose bytes are not those of its shape, two gets into memory
 * that overlaps, with the value in error->index; CLEAT_EXISTS: a put names a
 * key twice; CLEAT_LIMIT: more than keys_max; CLEAT_NO_SLOT: batches_max are
 * under way; CLEAT_STATE: not ready; else the status of the first value that
 * failed, with how many did and the first names in error->text. */
enum cleat_status cleat_transfer_put(
    struct cleat_transfer_service *service, struct cleat_transfer_value *values,
    uint32_t count, const struct cleat_transfer_options *options,
    struct cleat_transfer_summary *summary, struct cleat_error *error);
enum cleat_status cleat_transfer_get(
    struct cleat_transfer_service *service, struct cleat_transfer_value *values,
    uint32_t count, const struct cleat_transfer_options *options,
    struct cleat_transfer_summary *summary, struct cleat_error *error);
enum cleat_status cleat_transfer_remove(
    struct cleat_transfer_service *service, struct cleat_transfer_value *values,
    uint32_t count, const struct cleat_transfer_options *options,
    struct cleat_transfer_summary *summary, struct cleat_error *error);
enum cleat_status cleat_transfer_exists(
    struct cleat_transfer_service *service, struct cleat_transfer_value *values,
    uint32_t count, const struct cleat_transfer_options *options,
    struct cleat_transfer_summary *summary, struct cleat_error *error);

/* Ends every batch under way with CLEAT_CANCELLED. Any thread. */
void cleat_transfer_stop(struct cleat_transfer_service *service);

/* Waits until no payload is lent any more, by deadline_ns at the latest.
 * Returns CLEAT_OK; CLEAT_DEADLINE, with the calls that have not returned in
 * error->index. */
enum cleat_status cleat_transfer_drain(struct cleat_transfer_service *service,
                                       uint64_t deadline_ns,
                                       struct cleat_error *error);

/* Calls that are under way in the store, and of those the ones that have
 * outlived their batch. Any thread. */
void cleat_transfer_service_count(struct cleat_transfer_service *service,
                                  uint32_t *calls, uint32_t *stuck);

#ifdef __cplusplus
}
#endif
#endif
