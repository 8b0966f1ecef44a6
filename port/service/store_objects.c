/* Cleat: what the two ends of a store transport share.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A record, little-endian:
 *
 *   0   magic, the bytes 'C' 'L' 'T' 'R'    32  u64 version
 *   4   u32 kind                            40  u64 bytes
 *   8   u32 index                           48  u32 crc
 *   12  u32 buckets                         52  i32 status
 *   16  u64 run                             56  u32 zero
 *   24  u64 generation                      60  u32 CRC32C of what is before
 */
#include "store_objects.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cleat/digest.h"

#define RECORD_MAGIC 0x52544C43u

/* Names in a call of a sweep. */
#define SWEEP_KEYS 256u
_Static_assert(STORE_BATCH_BYTES(SWEEP_KEYS) <= CLEAT_STORE_SWEEP_BYTES,
               "the caller's block holds them");

/* ---- records ------------------------------------------------------------ */

static void write_number(unsigned char *out, uint64_t number, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++) {
        out[i] = (unsigned char)(number >> (8 * i));
    }
}

static uint64_t read_number(const unsigned char *in, uint32_t bytes)
{
    uint64_t number = 0;

    for (uint32_t i = 0; i < bytes; i++) {
        number |= (uint64_t)in[i] << (8 * i);
    }
    return number;
}

void store_record_write(const struct store_record *record,
                        unsigned char out[STORE_RECORD_BYTES])
{
    memset(out, 0, STORE_RECORD_BYTES);
    write_number(out, RECORD_MAGIC, 4);
    write_number(out + 4, (uint64_t)record->kind, 4);
    write_number(out + 8, record->index, 4);
    write_number(out + 12, record->buckets, 4);
    write_number(out + 16, record->run, 8);
    write_number(out + 24, record->generation, 8);
    write_number(out + 32, record->version, 8);
    write_number(out + 40, record->bytes, 8);
    write_number(out + 48, record->crc, 4);
    write_number(out + 52, (uint32_t)record->status, 4);
    write_number(out + 60, cleat_crc32c(0, out, 60), 4);
}

bool store_record_read(const unsigned char in[STORE_RECORD_BYTES],
                       struct store_record *record)
{
    memset(record, 0, sizeof *record);
    if (read_number(in, 4) != RECORD_MAGIC ||
        read_number(in + 60, 4) != cleat_crc32c(0, in, 60)) {
        return false;
    }
    record->kind = (enum store_record_kind)read_number(in + 4, 4);
    record->index = (uint32_t)read_number(in + 8, 4);
    record->buckets = (uint32_t)read_number(in + 12, 4);
    record->run = read_number(in + 16, 8);
    record->generation = read_number(in + 24, 8);
    record->version = read_number(in + 32, 8);
    record->bytes = read_number(in + 40, 8);
    record->crc = (uint32_t)read_number(in + 48, 4);
    record->status = (int32_t)(uint32_t)read_number(in + 52, 4);
    return true;
}

/* ---- names -------------------------------------------------------------- */

bool store_job_is_sound(const char *job)
{
    size_t bytes = job == NULL ? 0 : strlen(job);

    return bytes >= 1 && bytes <= CLEAT_STORE_JOB_MAX && job[0] != '/' &&
           job[bytes - 1] != '/';
}

/* ---- batches ------------------------------------------------------------ */

void store_batch_init(struct store_batch *batch, void *block, uint32_t keys_max,
                      const struct cleat_store_transport *common)
{
    memset(batch, 0, sizeof *batch);
    batch->service = common->service;
    batch->clock = common->clock;
    batch->timeout_ns = common->timeout_ns;
    batch->believe_puts = common->believe_puts;
    batch->keys_max = keys_max;
    batch->record = block;
    batch->values = (struct cleat_transfer_value *)(void *)(batch->record +
                                                            STORE_RECORD_BYTES);
    batch->keys = (char(*)[STORE_KEY_BYTES])(void *)(batch->values + keys_max);
}

static struct cleat_transfer_value *add(struct store_batch *batch)
{
    struct cleat_transfer_value *value = &batch->values[batch->count];

    memset(value, 0, sizeof *value);
    value->key = batch->keys[batch->count++];
    return value;
}

/* A key of a generation: <job>/<version>/<epoch>/, and `rest`. */
static struct cleat_transfer_value *add_of(struct store_batch *batch,
                                           const struct store_epoch *epoch,
                                           const char *rest)
{
    char *key = batch->keys[batch->count];

    (void)snprintf(
        key, STORE_KEY_BYTES, "%s/%" PRIu64 "/%016" PRIx64 "-%016" PRIx64 "/%s",
        epoch->job, epoch->version, epoch->generation, epoch->run, rest);
    return add(batch);
}

struct cleat_transfer_value *store_add_last(struct store_batch *batch,
                                            const char *job)
{
    (void)snprintf(batch->keys[batch->count], STORE_KEY_BYTES, "%s/last", job);
    return add(batch);
}

struct cleat_transfer_value *store_add_head(struct store_batch *batch,
                                            const struct store_epoch *epoch)
{
    return add_of(batch, epoch, "head");
}

struct cleat_transfer_value *store_add_bucket(struct store_batch *batch,
                                              const struct store_epoch *epoch,
                                              uint32_t bucket)
{
    char rest[16];

    (void)snprintf(rest, sizeof rest, "%" PRIu32, bucket);
    return add_of(batch, epoch, rest);
}

struct cleat_transfer_value *store_add_ack(struct store_batch *batch,
                                           const struct store_epoch *epoch,
                                           uint32_t receiver, uint32_t bucket)
{
    char rest[40];

    (void)snprintf(rest, sizeof rest, "ack/%" PRIu32 "/%" PRIu32, receiver,
                   bucket);
    return add_of(batch, epoch, rest);
}

struct cleat_transfer_value *store_add_gave_up(struct store_batch *batch,
                                               const struct store_epoch *epoch,
                                               uint32_t receiver)
{
    char rest[24];

    (void)snprintf(rest, sizeof rest, "gave-up/%" PRIu32, receiver);
    return add_of(batch, epoch, rest);
}

typedef enum cleat_status call_fn(struct cleat_transfer_service *service,
                                  struct cleat_transfer_value *values,
                                  uint32_t count,
                                  const struct cleat_transfer_options *options,
                                  struct cleat_transfer_summary *summary,
                                  struct cleat_error *error);

/* When a call ends at the latest. */
static uint64_t end_ns(const struct store_batch *batch, uint64_t until_ns)
{
    uint64_t own_ns = CLEAT_NEVER;

    if (batch->timeout_ns != 0) {
        own_ns = cleat_time_add(batch->clock.now_ns(batch->clock.context),
                                batch->timeout_ns);
    }
    if (own_ns > until_ns) { own_ns = until_ns; }
    if (batch->until_ns == NULL) { return own_ns; }
    until_ns = atomic_load(batch->until_ns);
    return own_ns < until_ns ? own_ns : until_ns;
}

static enum cleat_status call(struct store_batch *batch, call_fn *fn,
                              uint32_t mode, uint64_t until_ns)
{
    struct cleat_transfer_options options = {
        .deadline_ns = end_ns(batch, until_ns),
        .mode = mode,
        .verify = batch->believe_puts != 0 ? CLEAT_TRANSFER_VERIFY_RETRIED
                                           : CLEAT_TRANSFER_VERIFY_SIZE,
    };
    struct cleat_transfer_summary summary;
    uint32_t count = batch->count;
    enum cleat_status status;

    batch->count = 0;
    if (count == 0) { return CLEAT_OK; }
    memset(&summary, 0, sizeof summary);
    status = fn(batch->service, batch->values, count, &options, &summary, NULL);
    for (uint32_t i = 0; i < count; i++) {
        /* What was refused as a whole, was not filled. */
        if (summary.sent == 0) { batch->values[i].status = status; }
        if (batch->values[i].lent != 0) { batch->lent = true; }
    }
    return status;
}

enum cleat_status store_put(struct store_batch *batch, uint32_t mode,
                            uint64_t until_ns)
{
    return call(batch, cleat_transfer_put, mode, until_ns);
}

enum cleat_status store_get(struct store_batch *batch, uint64_t until_ns)
{
    return call(batch, cleat_transfer_get, 0, until_ns);
}

enum cleat_status store_exists(struct store_batch *batch, uint64_t until_ns)
{
    return call(batch, cleat_transfer_exists, 0, until_ns);
}

enum cleat_status store_remove(struct store_batch *batch, uint64_t until_ns)
{
    return call(batch, cleat_transfer_remove, 0, until_ns);
}

enum cleat_status store_clear(struct store_batch *batch, uint64_t until_ns,
                              uint32_t *removed)
{
    uint32_t count = batch->count;
    enum cleat_status status = store_exists(batch, until_ns);

    if (status != CLEAT_OK) { return status; }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t to = batch->count;

        if (batch->values[i].actual == 0) { continue; }
        memmove(batch->keys[to], batch->keys[i], STORE_KEY_BYTES);
        (void)add(batch);
    }
    count = batch->count;
    status = store_remove(batch, until_ns);
    if (status == CLEAT_OK) { *removed += count; }
    return status;
}

bool store_drained(struct store_batch *batch, uint64_t until_ns)
{
    if (batch->until_ns != NULL && until_ns > atomic_load(batch->until_ns)) {
        until_ns = atomic_load(batch->until_ns);
    }
    if (batch->lent &&
        cleat_transfer_drain(batch->service, until_ns, NULL) == CLEAT_OK) {
        batch->lent = false;
    }
    return !batch->lent;
}

/* How many names a generation can have used: its head, a bucket's each, and for
 * each receiver that it gave up, and a bucket's each. */
static uint64_t names_of(const struct store_record *last)
{
    return (1 + (uint64_t)last->buckets) * (1 + (uint64_t)last->index);
}

/* Adds one of them. */
static void add_name(struct store_batch *batch, const struct store_epoch *epoch,
                     const struct store_record *last, uint64_t at)
{
    uint64_t each = 1 + (uint64_t)last->buckets;
    uint32_t receiver = (uint32_t)(at / each) - 1;
    uint32_t bucket = (uint32_t)(at % each) - 1;

    if (at == 0) {
        (void)store_add_head(batch, epoch);
    } else if (at < each) {
        (void)store_add_bucket(batch, epoch, bucket);
    } else if (at % each == 0) {
        (void)store_add_gave_up(batch, epoch, receiver);
    } else {
        (void)store_add_ack(batch, epoch, receiver, bucket);
    }
}

/* Clears them, from where it was; the head first. */
static enum cleat_status clear_all(struct store_batch *batch, const char *job,
                                   struct store_recovery *recovery,
                                   uint64_t until_ns, uint32_t *removed)
{
    const struct store_record *last = &recovery->last;
    const struct store_epoch epoch = {.job = job,
                                      .run = last->run,
                                      .generation = last->generation,
                                      .version = last->version};
    uint64_t all = names_of(last);

    while (recovery->at < all) {
        uint64_t at = recovery->at;
        enum cleat_status status;

        while (at < all && batch->count < batch->keys_max) {
            add_name(batch, &epoch, last, at++);
        }
        status = store_clear(batch, until_ns, removed);
        if (status != CLEAT_OK) { return status; }
        recovery->at = at;
    }
    return CLEAT_OK;
}

/* Whether a value could be had, if it were there. */
static bool is_damaged(enum cleat_status status)
{
    return status == CLEAT_SHORT || status == CLEAT_CORRUPT ||
           status == CLEAT_MALFORMED || status == CLEAT_INVALID;
}

/* Reads <job>/last. What it says is believed only as far as it can be. */
static enum cleat_status read_last(struct store_batch *batch, const char *job,
                                   struct store_recovery *recovery,
                                   uint64_t until_ns)
{
    struct store_record *last = &recovery->last;
    enum cleat_status status;

    store_carry(store_add_last(batch, job), batch->record, STORE_RECORD_BYTES);
    status = store_get(batch, until_ns);
    memset(recovery, 0, sizeof *recovery);
    if (status == CLEAT_OK && store_record_read(batch->record, last) &&
        last->kind == STORE_LAST && last->index <= CLEAT_STORE_RECEIVERS_MAX &&
        last->buckets <= CLEAT_STORE_BUCKETS_MAX) {
        recovery->known = true;
    }
    return is_damaged(status) ? CLEAT_OK : status;
}

enum cleat_status store_recover(struct store_batch *batch, const char *job,
                                struct store_recovery *recovery,
                                uint64_t until_ns, uint32_t *removed)
{
    enum cleat_status status = CLEAT_OK;

    if (!recovery->known) {
        status = read_last(batch, job, recovery, until_ns);
        if (status == CLEAT_NOT_FOUND) { return CLEAT_OK; }
    }
    if (status == CLEAT_OK && recovery->known) {
        status = clear_all(batch, job, recovery, until_ns, removed);
    }
    if (status != CLEAT_OK) { return status; }
    (void)store_add_last(batch, job);
    return store_clear(batch, until_ns, removed);
}

enum cleat_status
cleat_store_transport_sweep(void *block, struct cleat_transfer_service *service,
                            const char *job, uint64_t deadline_ns,
                            uint32_t *removed, struct cleat_error *error)
{
    const struct cleat_store_transport common = {.service = service};
    struct store_recovery recovery = {0};
    uint32_t none = 0;
    struct store_batch batch;
    enum cleat_status status;

    if (block == NULL || service == NULL || !store_job_is_sound(job)) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "store transport: a block, a service and a "
                               "job's name of 1 to 96 bytes are needed");
    }
    store_batch_init(&batch, block, SWEEP_KEYS, &common);
    if (removed == NULL) { removed = &none; }
    *removed = 0;
    status = store_recover(&batch, job, &recovery, deadline_ns, removed);
    if (status == CLEAT_OK) { return CLEAT_OK; }
    return cleat_error_set(error, status, 0, 0,
                           "store transport: what a job has left in the store "
                           "could not all be removed");
}

/* ---- both ends ---------------------------------------------------------- */

static bool is_complete(const struct cleat_store_transport *common,
                        uint32_t mailboxes_count)
{
    if (common->service == NULL || common->clock.now_ns == NULL ||
        common->threads.submit == NULL || common->mailboxes == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < mailboxes_count; i++) {
        if (common->mailboxes[i].post == NULL ||
            common->mailboxes[i].wait == NULL) {
            return false;
        }
    }
    return true;
}

enum cleat_status store_end_init(struct store_end *end,
                                 const struct cleat_store_transport *common,
                                 uint32_t mailboxes_count,
                                 struct cleat_error *error)
{
    struct cleat_store_transport *c = &end->common;

    if (!is_complete(common, mailboxes_count)) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "store transport: a service, a clock, threads "
                               "and mailboxes are needed");
    }
    if (!store_job_is_sound(common->job)) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "store transport: a job's name has 1 to 96 "
                               "bytes and no slash at its ends");
    }
    *c = *common;
    if (c->slots_count == 0) { c->slots_count = CLEAT_STORE_SLOTS_DEFAULT; }
    if (c->timeout_ns == 0) { c->timeout_ns = CLEAT_STORE_TIMEOUT_NS_DEFAULT; }
    if (c->pace_min_ns == 0) {
        c->pace_min_ns = CLEAT_STORE_PACE_MIN_NS_DEFAULT;
    }
    if (c->pace_max_ns == 0) {
        c->pace_max_ns = CLEAT_STORE_PACE_MAX_NS_DEFAULT;
    }
    if (c->slots == NULL || (uintptr_t)c->slots % 64 != 0 ||
        c->slots_count < 1 || c->slots_count > CLEAT_STORE_SLOTS_MAX ||
        c->bucket_bytes == 0 || c->bucket_bytes > UINT64_C(1) << 40 ||
        c->pace_min_ns > c->pace_max_ns) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "store transport: 1 to 8 slots aligned to 64 "
                               "bytes, of buckets of 1 byte to 1 TiB, and "
                               "paces that do not shrink are needed");
    }
    end->slot_stride = CLEAT_STORE_SLOT_BYTES(c->bucket_bytes);
    (void)snprintf(end->job, sizeof end->job, "%s", common->job);
    c->job = end->job;
    return CLEAT_OK;
}

unsigned char *store_slot(const struct store_end *end, uint32_t slot)
{
    return (unsigned char *)end->common.slots + slot * end->slot_stride +
           CLEAT_FRAME_BYTES;
}

enum cleat_status store_told(enum cleat_status status)
{
    if (status == CLEAT_PERMANENT ||
        cleat_status_class(status) != CLEAT_CLASS_PERMANENT) {
        return status == CLEAT_DEADLINE ? CLEAT_GROUP_FAILED
               : status == CLEAT_SHORT  ? CLEAT_CORRUPT
                                        : status;
    }
    return is_damaged(status) ? CLEAT_CORRUPT : CLEAT_GROUP_FAILED;
}

uint64_t store_pause(const struct store_end *end, uint64_t pause_ns)
{
    uint64_t max_ns = end->common.pace_max_ns;

    if (pause_ns == 0) { return end->common.pace_min_ns; }
    return pause_ns > max_ns / 2 ? max_ns : pause_ns * 2;
}
