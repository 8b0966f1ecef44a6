/* Cleat: calls of Mooncake Store. SPDX-License-Identifier: Apache-2.0
 *
 * The items of a call are taken in windows of keys_max. Those of a window go
 * into one library call, or into several: where the staging memory does not
 * hold them all at once, or a key is there twice. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "state.h"

/* A call under way. */
struct work {
    self_t *self;
    struct slot *slot;
    struct cleat_store_call *call;
    const struct mooncake_replicate_config *replicate;
};

/* ---- items --------------------------------------------------------------- */

static bool has_payload(uint32_t operation)
{
    return operation == CLEAT_TRANSFER_DO_PUT ||
           operation == CLEAT_TRANSFER_DO_GET ||
           operation == CLEAT_TRANSFER_DO_COMPARE;
}

static size_t object_bytes(const struct cleat_store_item *item)
{
    return cleat_mooncake_header(item) + (size_t)item->bytes;
}

/* What it takes of the staging memory: objects there are aligned. */
static size_t staged_bytes(const struct cleat_store_item *item)
{
    return CLEAT_ALIGN_UP(object_bytes(item));
}

static enum cleat_status check_item(uint32_t operation,
                                    const struct cleat_store_item *item)
{
    if (item->key == NULL || item->key_bytes == 0 ||
        item->key_bytes > CLEAT_STORE_KEY_MAX ||
        memchr(item->key, '\0', item->key_bytes) != NULL) {
        return CLEAT_INVALID;
    }
    if (!has_payload(operation)) { return CLEAT_OK; }
    if ((item->payload == NULL && item->bytes != 0) ||
        item->bytes > SIZE_MAX / 2) {
        return CLEAT_INVALID;
    }
    return cleat_mooncake_is_raw(item) && item->bytes == 0 ? CLEAT_UNSUPPORTED
                                                           : CLEAT_OK;
}

/* An item that is not sent. */
static void refuse(struct cleat_store_item *item, enum cleat_status status,
                   int32_t code)
{
    item->status = status;
    item->code = code;
}

static void refuse_all(struct cleat_store_call *call, enum cleat_status status,
                       int32_t code)
{
    for (uint32_t i = 0; i < call->count; i++) {
        call->items[i].actual = 0;
        refuse(&call->items[i], status, code);
    }
}

static bool is_late(const struct work *work)
{
    return work->call->deadline_ns != CLEAT_NEVER &&
           work->call->deadline_ns <= cleat_mooncake_now_ns();
}

/* The library's word, in 32 bits. */
static int32_t code_of(int64_t result)
{
    if (result < INT32_MIN) { return INT32_MIN; }
    return result > INT32_MAX ? INT32_MAX : (int32_t)result;
}

static void failed(const struct work *work, struct cleat_store_item *item,
                   int32_t code)
{
    item->code = code;
    item->status = cleat_mooncake_meaning(work->self, work->call->operation,
                                          code);
}

/* ---- results ------------------------------------------------------------- */

/* Where the object of the n-th item of the library call lies. */
static unsigned char *object_of(const struct work *work, uint32_t n)
{
    return work->slot->buffers[n];
}

static bool is_direct(const struct work *work, uint32_t n,
                      const struct cleat_store_item *item)
{
    return object_of(work, n) + cleat_mooncake_header(item) == item->payload;
}

/* The size could not be told, of this key or of any. */
static bool is_untold(const struct work *work, int64_t bytes)
{
    enum cleat_status status;

    if (bytes >= 0) { return false; }
    status = cleat_mooncake_meaning(work->self, CLEAT_TRANSFER_DO_SIZE,
                                    code_of(bytes));
    return status != CLEAT_NOT_FOUND && status != CLEAT_UNREADABLE;
}

/* It is larger than the buffer, or the library means something else by -600;
 * say, that it has too much to do: then it says so of every key, and asking for
 * the size of each of them would take for ever. */
static void look_at_size(const struct work *work, struct cleat_store_item *item)
{
    bool compare = work->call->operation == CLEAT_TRANSFER_DO_COMPARE;
    int64_t bytes;

    if (work->slot->no_sizes || is_late(work)) { return; }
    bytes = work->self->library.get_size(work->self->store, item->key);
    work->slot->no_sizes = is_untold(work, bytes);
    if (bytes < 0 || (uint64_t)bytes <= object_bytes(item)) { return; }
    item->actual = (uint64_t)bytes - cleat_mooncake_header(item);
    item->status = compare ? CLEAT_CORRUPT : CLEAT_SHORT;
}

/* The library says so before it moves anything. */
static bool has_moved_nothing(int32_t code)
{
    return code == MOONCAKE_OBJECT_NOT_FOUND ||
           code == MOONCAKE_REPLICA_IS_NOT_READY ||
           code == MOONCAKE_INVALID_PARAMS;
}

static void conclude_read(const struct work *work, uint32_t n,
                          struct cleat_store_item *item, int64_t result)
{
    bool compare = work->call->operation == CLEAT_TRANSFER_DO_COMPARE;
    bool touched = !compare && is_direct(work, n, item);

    if (result < 0) {
        failed(work, item, code_of(result));
        touched = touched && !has_moved_nothing(item->code);
        if (item->code == MOONCAKE_INVALID_PARAMS) { look_at_size(work, item); }
    } else {
        item->status = cleat_mooncake_read(work->self, item, compare,
                                           object_of(work, n), (uint64_t)result,
                                           &touched);
    }
    if (item->status != CLEAT_OK && touched && item->bytes != 0 &&
        (item->flags & CLEAT_STORE_DEVICE) == 0) {
        memset(item->payload, 0, (size_t)item->bytes);
    }
}

static void conclude_exists(const struct work *work,
                            struct cleat_store_item *item, int32_t result)
{
    if (result == 1) {
        item->status = CLEAT_OK;
    } else if (result == 0) {
        item->status = CLEAT_NOT_FOUND;
    } else {
        failed(work, item, result);
    }
}

static void conclude_size(const struct work *work,
                          struct cleat_store_item *item, int64_t result)
{
    uint64_t header = cleat_mooncake_header(item);

    if (result < 0) {
        failed(work, item, code_of(result));
    } else if ((uint64_t)result < header) {
        item->status = CLEAT_MALFORMED;
    } else {
        item->status = CLEAT_OK;
        item->actual = (uint64_t)result - header;
    }
}

static void conclude_change(const struct work *work,
                            struct cleat_store_item *item, int32_t result)
{
    if (result == MOONCAKE_OK) {
        item->status = CLEAT_OK;
    } else {
        failed(work, item, result);
    }
}

/* ---- library calls ------------------------------------------------------- */

static int put_some(const struct work *work)
{
    const struct library *library = &work->self->library;
    const struct slot *slot = work->slot;
    mooncake_store_batch_put_from_fn *put = library->batch_put_from;

    if (library->batch_upsert_from != NULL) {
        put = library->batch_upsert_from;
    }
    return put(work->self->store, slot->keys, slot->buffers, slot->sizes,
               slot->count, work->replicate, slot->codes);
}

static int carry_out(const struct work *work)
{
    const struct library *library = &work->self->library;
    const struct slot *slot = work->slot;

    switch (work->call->operation) {
    case CLEAT_TRANSFER_DO_PUT: return put_some(work);
    case CLEAT_TRANSFER_DO_EXISTS:
        return library->batch_is_exist(work->self->store, slot->keys,
                                       slot->count, slot->codes);
    case CLEAT_TRANSFER_DO_REMOVE:
        return library->batch_remove(work->self->store, slot->keys, slot->count,
                                     1, slot->codes);
    default:
        return library->batch_get_into(work->self->store, slot->keys,
                                       slot->buffers, slot->sizes, slot->count,
                                       slot->results);
    }
}

static void conclude(const struct work *work, uint32_t n)
{
    const struct slot *slot = work->slot;
    struct cleat_store_item *item = &work->call->items[slot->items[n]];

    switch (work->call->operation) {
    case CLEAT_TRANSFER_DO_PUT:
    case CLEAT_TRANSFER_DO_REMOVE:
        conclude_change(work, item, slot->codes[n]);
        break;
    case CLEAT_TRANSFER_DO_EXISTS:
        conclude_exists(work, item, slot->codes[n]);
        break;
    default: conclude_read(work, n, item, slot->results[n]); break;
    }
}

/* Sends what the slot has, and empties it. The library says -1 where it knows
 * nothing, and then has told nothing; what it has not told of a key is none of
 * its results. */
static void send(const struct work *work)
{
    struct slot *slot = work->slot;
    bool late = slot->count > 0 && is_late(work);
    int told;
    int code;

    for (uint32_t n = 0; n < slot->count; n++) {
        slot->codes[n] = CLEAT_MOONCAKE_UNTOLD;
        slot->results[n] = INT64_MIN;
    }
    code = slot->count > 0 && !late ? carry_out(work) : MOONCAKE_OK;
    told = code < 0 ? code : MOONCAKE_INTERNAL_ERROR;
    for (uint32_t n = 0; n < slot->count; n++) {
        if (late) {
            refuse(&work->call->items[slot->items[n]], CLEAT_TRANSIENT,
                   CLEAT_MOONCAKE_LATE);
            continue;
        }
        if (code != MOONCAKE_OK) {
            slot->codes[n] = told;
            slot->results[n] = told;
        }
        conclude(work, n);
    }
    slot->count = 0;
    cleat_mooncake_unstage(work->self, slot);
}

/* ---- filling one --------------------------------------------------------- */

/* FNV-1a, of 64 bits, folded. */
static uint32_t hash_of(const struct cleat_store_item *item)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (uint32_t i = 0; i < item->key_bytes; i++) {
        hash = (hash ^ (unsigned char)item->key[i]) * UINT64_C(0x100000001b3);
    }
    return (uint32_t)(hash ^ hash >> 32);
}

/* The bucket of the item's key: that of one with the same, or an empty one. */
static uint32_t *bucket_of(const struct work *work,
                           const struct cleat_store_item *item)
{
    uint32_t mask = work->self->buckets_count - 1;
    uint32_t at = hash_of(item) & mask;

    while (work->slot->buckets[at] != 0) {
        const struct cleat_store_item *other =
            &work->call->items[work->slot->buckets[at] - 1];

        if (other->key_bytes == item->key_bytes &&
            memcmp(other->key, item->key, item->key_bytes) == 0) {
            break;
        }
        at = (at + 1) & mask;
    }
    return &work->slot->buckets[at];
}

/* A call does not take more of the staging memory at once, so that others can
 * share in it; unless one value needs more. */
static size_t fair_bytes(const struct work *work)
{
    return work->self->stage.bytes / 4;
}

/* What item i may want of it; what lies in lent memory is counted too. */
static size_t possible_bytes(const struct work *work, uint32_t i)
{
    const struct cleat_store_item *item = &work->call->items[i];
    size_t bytes;

    if (item->status != CLEAT_PENDING || !has_payload(work->call->operation)) {
        return 0;
    }
    bytes = staged_bytes(item);
    return bytes < fair_bytes(work) ? bytes : fair_bytes(work);
}

/* What is wanted of it for an item that needs so much, and for those behind it.
 */
static size_t wanted_bytes(const struct work *work, size_t needed)
{
    size_t wanted = work->slot->rest < fair_bytes(work)
                        ? (size_t)work->slot->rest
                        : fair_bytes(work);

    return wanted > needed ? wanted : needed;
}

/* Takes a part of it. What is in the library call already does not wait with
 * this item, but is sent before. */
static bool take_part(const struct work *work, uint32_t i, size_t needed)
{
    struct slot *slot = work->slot;
    size_t wanted = wanted_bytes(work, needed);

    if (slot->count > 0) {
        if (cleat_mooncake_stage(work->self, slot, needed, wanted, 0)) {
            return true;
        }
        send(work);
        slot->first = i;
    }
    return cleat_mooncake_stage(work->self, slot, needed, wanted,
                                work->call->deadline_ns);
}

/* Where the object of item i goes through the staging memory; NULL: nowhere,
 * and the item says why. */
static unsigned char *stage(const struct work *work, uint32_t i)
{
    struct cleat_store_item *item = &work->call->items[i];
    struct share *share = &work->slot->share;
    size_t needed = staged_bytes(item);
    unsigned char *object;

    if (needed > work->self->stage.bytes) {
        refuse(item, CLEAT_LIMIT, CLEAT_MOONCAKE_STAGING);
        return NULL;
    }
    if (share->start != NULL && needed > share->bytes - share->used) {
        send(work);
        work->slot->first = i;
    }
    if (share->start == NULL && !take_part(work, i, needed)) {
        refuse(item, CLEAT_TRANSIENT, CLEAT_MOONCAKE_LATE);
        return NULL;
    }
    object = share->start + share->used;
    share->used += needed;
    return object;
}

/* The item's own memory, where the object can lie there; else NULL. */
static unsigned char *in_place(const struct work *work,
                               const struct cleat_store_item *item)
{
    size_t header = cleat_mooncake_header(item);
    unsigned char *object;

    if (work->call->operation == CLEAT_TRANSFER_DO_COMPARE ||
        item->payload == NULL ||
        (header != 0 && (item->flags & CLEAT_STORE_ROOM) == 0)) {
        return NULL;
    }
    object = (unsigned char *)item->payload - header;
    return cleat_mooncake_is_registered(work->self, object, object_bytes(item))
               ? object
               : NULL;
}

/* Where the object of item i goes; NULL: nowhere, and the item says why. */
static unsigned char *place(const struct work *work, uint32_t i)
{
    struct cleat_store_item *item = &work->call->items[i];
    unsigned char *object = in_place(work, item);
    enum cleat_status status = CLEAT_OK;

    if ((item->flags & CLEAT_STORE_DEVICE) != 0 &&
        (object == NULL || !work->self->device_memory ||
         !cleat_mooncake_is_raw(item))) {
        refuse(item, CLEAT_UNSUPPORTED, 0);
        return NULL;
    }
    if (object == NULL) { object = stage(work, i); }
    if (object != NULL && work->call->operation == CLEAT_TRANSFER_DO_PUT) {
        status = cleat_mooncake_write(work->self, item, object);
    }
    if (status != CLEAT_OK) {
        refuse(item, status, 0);
        return NULL;
    }
    return object;
}

/* Item i goes into the library call; what does not fit with those that are in
 * it already, sends them first. */
static void add(const struct work *work, uint32_t i)
{
    struct cleat_store_item *item = &work->call->items[i];
    struct slot *slot = work->slot;
    uint32_t *bucket = bucket_of(work, item);
    unsigned char *object = NULL;

    if (*bucket != 0) {
        if (work->call->operation == CLEAT_TRANSFER_DO_PUT) {
            refuse(item, CLEAT_EXISTS, CLEAT_MOONCAKE_DUPLICATE);
            return;
        }
        if (*bucket - 1 >= slot->first) {
            send(work);
            slot->first = i;
        }
    }
    *bucket = i + 1;
    if (has_payload(work->call->operation)) {
        object = place(work, i);
        if (object == NULL) { return; }
        slot->buffers[slot->count] = object;
        slot->sizes[slot->count] = object_bytes(item);
    }
    slot->keys[slot->count] = item->key;
    slot->items[slot->count] = i;
    slot->count++;
}

static void call_window(const struct work *work, uint32_t from, uint32_t to)
{
    struct slot *slot = work->slot;

    memset(slot->buckets, 0,
           work->self->buckets_count * sizeof slot->buckets[0]);
    slot->first = from;
    slot->rest = 0;
    for (uint32_t i = from; i < to; i++) {
        slot->rest += possible_bytes(work, i);
    }
    for (uint32_t i = from; i < to; i++) {
        size_t possible = possible_bytes(work, i);

        if (work->call->items[i].status == CLEAT_PENDING) { add(work, i); }
        slot->rest -= possible;
    }
    send(work);
}

/* ---- calls --------------------------------------------------------------- */

/* Those of which the library has no batch. */
static void call_one(const struct work *work, struct cleat_store_item *item)
{
    const struct library *library = &work->self->library;

    if (is_late(work)) {
        refuse(item, CLEAT_TRANSIENT, CLEAT_MOONCAKE_LATE);
    } else if (work->call->operation == CLEAT_TRANSFER_DO_SIZE) {
        conclude_size(work, item,
                      library->get_size(work->self->store, item->key));
    } else {
        conclude_change(work, item,
                        library->remove(work->self->store, item->key, 1));
    }
}

static bool is_single(const struct work *work)
{
    return work->call->operation == CLEAT_TRANSFER_DO_SIZE ||
           (work->call->operation == CLEAT_TRANSFER_DO_REMOVE &&
            work->self->library.batch_remove == NULL);
}

static void call_all(const struct work *work)
{
    struct cleat_store_call *call = work->call;
    uint32_t window = work->self->keys_max;

    work->slot->no_sizes = false;
    for (uint32_t i = 0; i < call->count; i++) {
        enum cleat_status status = check_item(call->operation, &call->items[i]);

        call->items[i].actual = 0;
        refuse(&call->items[i], status == CLEAT_OK ? CLEAT_PENDING : status, 0);
        if (status == CLEAT_OK && is_single(work)) {
            call_one(work, &call->items[i]);
        }
    }
    if (is_single(work)) { return; }
    for (uint32_t from = 0; from < call->count;) {
        uint32_t to = call->count - from < window ? call->count : from + window;

        call_window(work, from, to);
        from = to;
    }
}

static struct slot *take_slot(self_t *self)
{
    for (uint32_t i = 0; i < self->calls_max; i++) {
        if (!atomic_exchange(&self->slots[i].taken, true)) {
            return &self->slots[i];
        }
    }
    return NULL;
}

enum cleat_status cleat_mooncake_call(struct cleat_store_context *self,
                                      struct cleat_store_call *call)
{
    struct work work = {self, NULL, call, self->replicate_with};

    if (call->operation >= CLEAT_TRANSFER_OPERATIONS) { return CLEAT_INVALID; }
    if (!cleat_mooncake_enter(self, GATE_SET_UP)) {
        refuse_all(call, CLEAT_STATE, 0);
        return CLEAT_OK;
    }
    work.slot = take_slot(self);
    if (work.slot != NULL) {
        call_all(&work);
        atomic_store(&work.slot->taken, false);
    } else {
        refuse_all(call, CLEAT_NO_SLOT, CLEAT_MOONCAKE_BUSY);
    }
    cleat_mooncake_leave(self);
    return CLEAT_OK;
}

enum cleat_status cleat_mooncake_one(self_t *self, uint32_t operation,
                                     struct cleat_store_item *item,
                                     uint64_t deadline_ns)
{
    struct cleat_store_call call = {operation, 1, item, deadline_ns};
    struct work work = {self, &self->slots[self->calls_max], &call, NULL};

    call_all(&work);
    return (enum cleat_status)item->status;
}
