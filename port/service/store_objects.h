/* Cleat: what the two ends of a store transport share.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Names of objects, the record that each begins with, batches of calls. */
#ifndef CLEAT_PORT_SERVICE_STORE_OBJECTS_H
#define CLEAT_PORT_SERVICE_STORE_OBJECTS_H

#include <stdatomic.h>

#include "cleat/store_transport.h"

/* ---- records ------------------------------------------------------------ */

#define STORE_RECORD_BYTES 64u

enum store_record_kind {
    STORE_TICKET = 1,
    STORE_LAST,
    STORE_HEAD,
    STORE_BUCKET,
    STORE_ACK,
    STORE_GAVE_UP
};

/* A number that is not used is 0. */
struct store_record {
    enum store_record_kind kind;
    uint32_t index;   /* bucket; receiver; receivers_count */
    uint32_t buckets; /* buckets_max, of TICKET and LAST */
    uint32_t crc;     /* BUCKET: as the sender was told; TICKET: slots_count */
    int32_t status;   /* GAVE_UP */
    uint64_t run;
    uint64_t generation;
    uint64_t version;
    uint64_t bytes; /* BUCKET: of its data; TICKET: bucket_bytes */
};

void store_record_write(const struct store_record *record,
                        unsigned char out[STORE_RECORD_BYTES]);

/* False: it is damaged, or none of ours. */
bool store_record_read(const unsigned char in[STORE_RECORD_BYTES],
                       struct store_record *record);

/* ---- names -------------------------------------------------------------- */

/* The longest: job, version, epoch, "gave-up" or "ack", and two numbers. */
#define STORE_KEY_BYTES CLEAT_STORE_KEY_BYTES

/* What every object of a generation has in its name. */
struct store_epoch {
    const char *job;
    uint64_t run;
    uint64_t generation;
    uint64_t version;
};

bool store_job_is_sound(const char *job);

/* ---- batches ------------------------------------------------------------ */

/* Calls of the service with a few keys, one after the other, by one thread. */
struct store_batch {
    struct cleat_transfer_service *service;
    struct cleat_clock clock;
    struct cleat_transfer_value *values; /* keys_max */
    char (*keys)[STORE_KEY_BYTES];       /* keys_max */
    unsigned char *record; /* for one to be put or got; stays after the call */
    uint32_t keys_max;
    uint32_t count;
    uint32_t believe_puts;
    bool lent; /* a payload was still in a call when its batch ended */
    uint64_t timeout_ns;
    _Atomic uint64_t *until_ns; /* no call goes on after it; NULL: none */
};

#define STORE_BATCH_BYTES(keys_max) \
    (STORE_RECORD_BYTES +           \
     (size_t)(keys_max) *           \
         (sizeof(struct cleat_transfer_value) + STORE_KEY_BYTES))

/* Makes one in a block of that many bytes, aligned to 8; what is lent of it
 * stays lent until it is drained. */
void store_batch_init(struct store_batch *batch, void *block, uint32_t keys_max,
                      const struct cleat_store_transport *common);

/* Adds a key to the next call; there must be room. */
struct cleat_transfer_value *store_add_last(struct store_batch *batch,
                                            const char *job);
struct cleat_transfer_value *store_add_head(struct store_batch *batch,
                                            const struct store_epoch *epoch);
struct cleat_transfer_value *store_add_bucket(struct store_batch *batch,
                                              const struct store_epoch *epoch,
                                              uint32_t bucket);
struct cleat_transfer_value *store_add_ack(struct store_batch *batch,
                                           const struct store_epoch *epoch,
                                           uint32_t receiver, uint32_t bucket);
struct cleat_transfer_value *store_add_gave_up(struct store_batch *batch,
                                               const struct store_epoch *epoch,
                                               uint32_t receiver);

/* Each makes one call of the keys added, which are none then, until
 * timeout_ns from now, or until_ns if that is sooner. Returns CLEAT_OK, or the
 * status of the first that failed; each has its own in `values`. */
enum cleat_status store_put(struct store_batch *batch, uint32_t mode,
                            uint64_t until_ns);
enum cleat_status store_get(struct store_batch *batch, uint64_t until_ns);
enum cleat_status store_exists(struct store_batch *batch, uint64_t until_ns);
enum cleat_status store_remove(struct store_batch *batch, uint64_t until_ns);

/* Gives a value its payload. */
static inline void store_carry(struct cleat_transfer_value *value,
                               void *payload, uint64_t bytes)
{
    value->payload = payload;
    value->bytes = bytes;
}

/* Removes those of the keys added that are there, in two calls; adds up how
 * many. Returns CLEAT_OK: none of them is. */
enum cleat_status store_clear(struct store_batch *batch, uint64_t until_ns,
                              uint32_t *removed);

/* Is nothing lent any more? Waits for it until until_ns. */
bool store_drained(struct store_batch *batch, uint64_t until_ns);

/* How far what <job>/last names has been looked through; zero: not at all. So
 * a clean-up that time cuts off goes on where it was. */
struct store_recovery {
    bool known; /* what `last` said */
    struct store_record last;
    uint64_t at; /* of all names that the generation can have used */
};

/* Removes what the generation that <job>/last names has left, and that object
 * too. Returns CLEAT_OK: there is nothing, or nothing that can be known. */
enum cleat_status store_recover(struct store_batch *batch, const char *job,
                                struct store_recovery *recovery,
                                uint64_t until_ns, uint32_t *removed);

/* ---- both ends ---------------------------------------------------------- */

/* Everything the ends have in common, defaults filled in. */
struct store_end {
    struct cleat_store_transport common;
    uint64_t slot_stride;
    char job[CLEAT_STORE_JOB_MAX + 1];
};

/* Returns the argument's number in error->index. */
enum cleat_status store_end_init(struct store_end *end,
                                 const struct cleat_store_transport *common,
                                 uint32_t mailboxes_count,
                                 struct cleat_error *error);

static inline uint64_t store_now(const struct store_end *end)
{
    return end->common.clock.now_ns(end->common.clock.context);
}

/* Where a slot's record begins; its data is STORE_RECORD_BYTES further. */
unsigned char *store_slot(const struct store_end *end, uint32_t slot);

/* The status as an end may tell it: not one that means "never". */
enum cleat_status store_told(enum cleat_status status);

/* The next pause: twice as long, within the bounds. 0 gives the shortest. */
uint64_t store_pause(const struct store_end *end, uint64_t pause_ns);

#endif
