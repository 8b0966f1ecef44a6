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
 *
 * A call of a store cannot be taken back. Where one is still under way at the
 * deadline, or at a stop, the caller gets its report all the same, and the
 * payloads in it are *lent*: they are the store's until it has returned, which
 * cleat_transfer_drain waits for. Nothing else of the caller's is: keys and
 * values may be freed when a batch has returned. A call that no thread has
 * begun yet is taken back, and lends nothing. While a batch's calls are under
 * way it counts as one of batches_max.
 *
 * Room. A batch takes, for each of keys_max, about 150 bytes and the key's own;
 * and for each key of its calls 148. They are touched as far as a batch is
 * large.
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
    uint32_t on_failure;    /* 0: what a get that has failed may have written of
                               its buffer is zeroed; 1: filled with 0xA5. Not
                               in memory of an accelerator */
    uint32_t names_max;     /* failed keys named in an error line, as far as it
                               holds them. 0: 5 */
    uint32_t key_bytes_max; /* of all keys of one batch, with their NULs. 0: 64
                               for each of keys_max, and 1024 */
    uint32_t reserved;
};

/* One value. What the service fills is last. */
struct cleat_transfer_value {
    const char *key;  /* NUL-terminated, 1 … CLEAT_STORE_KEY_MAX bytes */
    void *payload;    /* get: of at least `bytes` bytes; may be NULL for 0 */
    uint64_t bytes;   /* put: of the value; get: exactly these, or with
                         `sized` at most */
    uint32_t flags;   /* enum cleat_store_item_flags */
    uint32_t rank;    /* of a tensor: put, stored beside it; get, demanded */
    uint32_t dtype;   /* enum cleat_dtype; NONE: plain bytes, nothing is
                         demanded */
    uint32_t unknown; /* filled: 1: it has failed, and may have taken effect */
    uint64_t shape[CLEAT_RANK_MAX];

    /* Filled. */
    uint64_t actual;   /* bytes of the value in the store, as far as they are
                          known; exists: 1 or 0 */
    int32_t status;    /* as cleat_transfer_report has it */
    int32_t code;      /* the store's own, the last one */
    uint32_t attempts; /* the first, and each by a policy */
    uint32_t lent;     /* 1: the store may still touch the payload; see
                          cleat_transfer_drain */
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
    uint32_t verify;      /* put: enum cleat_transfer_verify; the store's own
                             verify_min, if that is more */
    uint32_t sized;       /* get: sizes are not known */
    uint32_t wait;        /* get: what is missing may still come */
    uint32_t tell;        /* get: of a value that demands nothing, dtype, rank
                             and shape become what was found */
    uint32_t reserved;
};

/* What has come of a batch. */
struct cleat_transfer_summary {
    struct cleat_transfer_totals totals; /* ok, failed, unknown, lent: values */
    uint64_t started_ns;
    uint64_t ended_ns;
    uint64_t bytes; /* of the values that are ok */
    uint32_t sent;  /* 0: it was refused as a whole, or had no values */
    uint32_t reserved;
};

/* Bytes of block; 0 when a count is out of range. */
size_t cleat_transfer_service_bytes(
    const struct cleat_transfer_service_config *config);

/* Mailboxes that a service of this configuration needs, and messages that each
 * must hold; zeros when a count is out of range. */
void cleat_transfer_service_needs(
    const struct cleat_transfer_service_config *config, uint32_t *batches_count,
    uint32_t *messages_max);

/* Makes the service in the caller's block.
 *   block    aligned to CLEAT_ALIGN, owned by the caller; outlives *out, and
 *            every call that is under way: cleat_transfer_drain
 *   ports    as many threads as calls are to be made at once; ports->mailbox
 *            is for cleat_transfer_service_close, for one message, and may be
 *            missing where that is not called; ports->events is not used
 *   batches  mailboxes, one a batch: cleat_transfer_service_needs; copied
 *   store    copied
 *   seed     of the jitter; any value
 * Returns CLEAT_OK; CLEAT_INVALID, with the argument in error->index: the
 * block's alignment (0), a number of the configuration (2), a function that is
 * missing (3, 4, 5); CLEAT_TOO_SMALL with the bytes needed in error->offset. On
 * error *out is NULL. */
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
 * call below is refused with CLEAT_STATE before that. Any thread; once it has
 * worked it is a question how the store fares.
 *   deadline_ns  absolute; kept, even if the store's own try goes on
 * Returns CLEAT_OK; else how the last try failed; CLEAT_DEADLINE where it has
 * not come to its end; CLEAT_CANCELLED: cleat_transfer_stop; CLEAT_NO_SLOT:
 * batches_max are under way. */
enum cleat_status
cleat_transfer_service_ready(struct cleat_transfer_service *service,
                             uint64_t deadline_ns, struct cleat_error *error);

/* Puts, gets, removes values; asks whether they exist. Each blocks until the
 * batch has ended, by options->deadline_ns at the latest. Any thread.
 *   values   `count` of them. What is filled is filled in every case but a
 *            refusal: then nothing was sent, the values are as they were, and
 *            summary->sent is 0
 *   options  NULL: all defaults
 *   summary  filled; may be NULL
 * Of a remove and a question only keys are looked at.
 * A get of one key by several values that ask for the same fetches it once and
 * copies it; a value that asks for something else of that key (bytes, dtype,
 * shape, RAW), or is memory of an accelerator, is fetched by itself. A remove
 * or a question of one key by several is made once.
 * Returns CLEAT_OK: all are ok (so are none). Refused, with the value in
 * error->index:
 *   CLEAT_INVALID  a key that is empty, too long or NULL; a payload that is
 *                  NULL, or beyond the address space; a tensor whose bytes are
 *                  not those of its shape (get, sized: whose shape is larger
 *                  than the buffer); a flag, a dtype, a mode or a way to verify
 *                  that there is none; two gets into memory that overlaps, or
 *                  a put with header room that overlaps another's memory
 *   CLEAT_EXISTS   a put names a key twice
 *   CLEAT_LIMIT    more than keys_max, or key_bytes_max; a put of more than the
 *                  store's value_bytes_max; a put, or a get of a size, of more
 *                  than its staged_bytes_max where a copy is needed: without
 *                  ROOM and RAW, or to be compared (VERIFY_FULL)
 *   CLEAT_UNSUPPORTED  memory of an accelerator, or raw values of no bytes,
 *                  which the store does not take; VERIFY_FULL of memory of an
 *                  accelerator
 *   CLEAT_NO_SLOT  batches_max are under way
 *   CLEAT_STATE    not ready, or being closed
 *   any            as the store did not take the payloads (its `lend`)
 * else the status of the first value that failed, which is in error->index,
 * its code, and how many did and the first names in error->text. */
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

/* Ends every batch under way, and every wait until the store is ready, with
 * CLEAT_CANCELLED. What begins later is not touched. Any thread. */
void cleat_transfer_stop(struct cleat_transfer_service *service);

/* Waits until no payload is lent any more, and no try to be ready goes on that
 * its caller has left, by deadline_ns at the latest. Any thread. Returns
 * CLEAT_OK; CLEAT_DEADLINE, with the calls that have not returned in
 * error->index; CLEAT_NO_SLOT: as many threads are in calls of this header as
 * there are mailboxes. */
enum cleat_status cleat_transfer_drain(struct cleat_transfer_service *service,
                                       uint64_t deadline_ns,
                                       struct cleat_error *error);

/* Ends it: no batch begins any more (CLEAT_STATE), each that is under way is
 * stopped, and each call of the store and each caller waited for, by
 * deadline_ns at the latest. Waits at ports->mailbox. One thread at a time,
 * while no other is in a drain; again, after CLEAT_DEADLINE.
 * Returns CLEAT_OK: the service is at rest and its block the caller's;
 * CLEAT_DEADLINE, with the calls that have not returned in error->index;
 * CLEAT_INVALID: ports->mailbox is missing. */
enum cleat_status
cleat_transfer_service_close(struct cleat_transfer_service *service,
                             uint64_t deadline_ns, struct cleat_error *error);

/* Calls that are under way, in the store or on their way to it, and of those
 * the ones that have outlived their batch. Any thread. */
void cleat_transfer_service_count(struct cleat_transfer_service *service,
                                  uint32_t *calls, uint32_t *stuck);

#ifdef __cplusplus
}
#endif
#endif
