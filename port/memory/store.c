/* Cleat: the store in memory. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#define CLEAT_DIGEST_DETECT
#include "cleat/memory_store.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store_table.h"

/* How often a get begins again when its value is taken away under it. */
#define GETS_MAX 1000u

/* What is compared goes through the cache in pieces. */
#define PIECE_BYTES ((size_t)64 * 1024)

struct cleat_store_context {
    struct store_table table;
    pid_t pid;
    _Atomic uint32_t canaries;
};
_Static_assert(sizeof(struct cleat_store_context) <=
                   CLEAT_MEMORY_STORE_END_BYTES,
               "an end holds it");

typedef struct cleat_store_context self_t;

/* ---- put ----------------------------------------------------------------- */

static bool is_raw(const struct cleat_store_item *item)
{
    return (item->flags & CLEAT_STORE_RAW) != 0;
}

static enum cleat_status failed(struct cleat_store_item *item,
                                enum cleat_status status, int32_t code)
{
    item->code = code;
    return status;
}

/* What the index says of a key that cannot be found or changed. */
static enum cleat_status not_seen(struct cleat_store_item *item,
                                  enum store_seen seen)
{
    switch (seen) {
    case STORE_BUSY:
        return failed(item, CLEAT_TRANSIENT, CLEAT_MEMORY_STORE_BUSY);
    case STORE_DAMAGED:
        return failed(item, CLEAT_CORRUPT, CLEAT_MEMORY_STORE_DAMAGED);
    default: return CLEAT_NOT_FOUND;
    }
}

/* Spoils what was written, where a test asks for it. */
static void spoil(const struct cleat_store_item *item, unsigned char *object,
                  uint64_t bytes)
{
    uint64_t header = is_raw(item) ? 0 : CLEAT_FRAME_BYTES;
    uint64_t half = (bytes - header) / 2;

    if ((item->flags & CLEAT_MEMORY_STORE_FLIP) != 0 && bytes != 0) {
        object[header + half < bytes ? header + half : 0] ^= 0x10;
    }
    if ((item->flags & CLEAT_MEMORY_STORE_TEAR) != 0) {
        memset(object + header + half, 0, (size_t)(bytes - header - half));
    }
    if ((item->flags & CLEAT_MEMORY_STORE_CRASH) != 0) { (void)raise(SIGKILL); }
}

/* Writes key, payload and header; the header last. */
static enum cleat_status write_value(self_t *self,
                                     const struct cleat_store_item *item,
                                     struct store_found *made)
{
    size_t header = is_raw(item) ? 0 : CLEAT_FRAME_BYTES;
    size_t bytes = (size_t)item->bytes;
    unsigned char encoded[CLEAT_FRAME_BYTES];
    struct cleat_frame frame;

    cleat_memory_table_write(made->key, item->key, made->key_bytes);
    made->crc = cleat_memory_table_write_crc(
        &self->table, made->object + header, item->payload, bytes);
    if (header != 0) {
        enum cleat_status status;

        frame = item->frame;
        frame.payload_bytes = item->bytes;
        frame.payload_crc = made->crc;
        frame.flags = 0;
        status = cleat_frame_encode(&frame, encoded, sizeof encoded, NULL);
        if (status != CLEAT_OK) { return status; }
        cleat_memory_table_write(made->object, encoded, sizeof encoded);
    } else {
        made->flags = STORE_ENTRY_RAW;
    }
    if (item->flags >= CLEAT_MEMORY_STORE_FLIP) {
        spoil(item, made->object, made->bytes);
    }
    cleat_memory_table_describe(&self->table, made);
    return CLEAT_OK;
}

/* Bytes that an object with a key of so many bytes can have at most. */
static uint64_t room_of(const struct store_shape *shape, uint32_t key_bytes)
{
    uint64_t key_room = (key_bytes + STORE_LINE_BYTES - 1) / STORE_LINE_BYTES *
                        STORE_LINE_BYTES;

    return (uint64_t)shape->units_count * shape->unit_bytes - key_room;
}

static enum cleat_status put(self_t *self, struct cleat_store_item *item,
                             uint32_t hash)
{
    struct store_table *table = &self->table;
    uint64_t header = is_raw(item) ? 0 : CLEAT_FRAME_BYTES;
    struct store_found found;
    enum cleat_status status;
    enum store_seen seen;
    int32_t code;

    seen = cleat_memory_table_find(table, hash, item->key, item->key_bytes,
                                   &found);
    if (seen == STORE_PRESENT) { return CLEAT_EXISTS; }
    if (seen != STORE_ABSENT) { return not_seen(item, seen); }
    if (item->bytes > room_of(&table->shape, item->key_bytes) - header) {
        return failed(item, CLEAT_LIMIT, CLEAT_MEMORY_STORE_FULL_BYTES);
    }
    code = cleat_memory_table_begin(table, hash, item->key_bytes,
                                    header + item->bytes, &found);
    if (code != 0) { return failed(item, CLEAT_CAPACITY, code); }
    status = write_value(self, item, &found);
    if (status == CLEAT_OK) {
        seen = cleat_memory_table_publish(table, item->key, &found);
        if (seen == STORE_ABSENT) { return CLEAT_OK; }
        status = seen == STORE_PRESENT ? CLEAT_EXISTS : not_seen(item, seen);
    }
    cleat_memory_table_abandon(table, &found);
    return status;
}

/* ---- get, compare, size -------------------------------------------------- */

/* The header of a value that was found; CLEAT_OK: it is the frame of as many
 * bytes as there are behind it. */
static enum cleat_status read_header(const struct store_found *found,
                                     struct cleat_frame *frame)
{
    unsigned char encoded[CLEAT_FRAME_BYTES];
    enum cleat_status status;

    if (found->bytes < CLEAT_FRAME_BYTES) { return CLEAT_MALFORMED; }
    cleat_memory_table_read(encoded, found->object, sizeof encoded);
    status = cleat_frame_decode(encoded, sizeof encoded, frame, NULL);
    if (status != CLEAT_OK) {
        /* What was put framed was a frame. */
        return (found->flags & STORE_ENTRY_RAW) == 0 ? CLEAT_CORRUPT : status;
    }
    return frame->payload_bytes == found->bytes - CLEAT_FRAME_BYTES
               ? CLEAT_OK
               : CLEAT_CORRUPT;
}

/* Whether the frame is what an item demands. */
static bool is_demanded(const struct cleat_frame *demanded,
                        const struct cleat_frame *frame)
{
    if (demanded->tag != 0 && demanded->tag != frame->tag) { return false; }
    return demanded->dtype == CLEAT_DTYPE_NONE ||
           (demanded->dtype == frame->dtype && demanded->rank == frame->rank &&
            memcmp(demanded->shape, frame->shape,
                   demanded->rank * sizeof demanded->shape[0]) == 0);
}

/* The digest of payload that lies at `at`, while it is copied to `to`; or
 * compared with it, when `compare`: then *same is told. */
static uint32_t pass(self_t *self, const unsigned char *at, void *to,
                     size_t bytes, bool compare, bool *same)
{
    uint32_t crc = 0;

    if (!compare) {
        return cleat_memory_table_read_crc(&self->table, to, at, bytes);
    }
    for (size_t i = 0; i < bytes; i += PIECE_BYTES) {
        size_t piece = bytes - i < PIECE_BYTES ? bytes - i : PIECE_BYTES;

        crc = cleat_crc32c_with(self->table.kind, crc,
                                (const unsigned char *)to + i, piece);
        *same = *same && cleat_memory_table_equal(
                             at + i, (const unsigned char *)to + i, piece);
    }
    return crc;
}

/* Gets or compares the raw object, of which a header may be the beginning. */
static enum cleat_status read_raw(self_t *self, struct cleat_store_item *item,
                                  const struct store_found *found, bool compare,
                                  bool *touched)
{
    struct cleat_frame frame;
    unsigned char *payload = item->payload;
    uint32_t crc = found->crc;
    size_t header = 0;
    bool same = true;

    item->actual = found->bytes;
    if (item->bytes != found->bytes) {
        return compare ? CLEAT_CORRUPT : CLEAT_SHORT;
    }
    *touched = !compare;
    if ((found->flags & STORE_ENTRY_RAW) == 0) {
        enum cleat_status status = read_header(found, &frame);

        if (status != CLEAT_OK) { return status; }
        header = CLEAT_FRAME_BYTES;
        crc = frame.payload_crc;
        (void)pass(self, found->object, payload, header, compare, &same);
        payload += header;
    }
    if (pass(self, found->object + header, payload,
             (size_t)item->bytes - header, compare, &same) != crc) {
        return CLEAT_CORRUPT;
    }
    return same ? CLEAT_OK : CLEAT_CORRUPT;
}

static enum cleat_status read_framed(self_t *self,
                                     struct cleat_store_item *item,
                                     const struct store_found *found,
                                     bool compare, bool *touched,
                                     struct cleat_frame *frame)
{
    enum cleat_status status = read_header(found, frame);
    bool same = true;
    uint32_t crc;

    if (status == CLEAT_OK && (frame->flags & CLEAT_FRAME_UNDIGESTED) != 0) {
        status = CLEAT_UNSUPPORTED; /* nobody could say that it is whole */
    }
    if (status != CLEAT_OK) { return compare ? CLEAT_CORRUPT : status; }
    item->actual = frame->payload_bytes;
    if (!is_demanded(&item->frame, frame)) {
        return compare ? CLEAT_CORRUPT : CLEAT_INVALID;
    }
    if (item->bytes != frame->payload_bytes) {
        return compare ? CLEAT_CORRUPT : CLEAT_SHORT;
    }
    *touched = !compare;
    crc = pass(self, found->object + CLEAT_FRAME_BYTES, item->payload,
               (size_t)item->bytes, compare, &same);
    status = cleat_frame_match(frame, item->bytes, crc, NULL);
    return status == CLEAT_OK && !same ? CLEAT_CORRUPT : status;
}

static enum cleat_status read_size(struct cleat_store_item *item,
                                   const struct store_found *found)
{
    struct cleat_frame frame;
    enum cleat_status status = CLEAT_OK;

    item->actual = found->bytes;
    if (!is_raw(item)) {
        status = read_header(found, &frame);
        item->actual = status == CLEAT_OK ? frame.payload_bytes : 0;
    }
    return status;
}

/* GET, COMPARE, SIZE, EXISTS: what is said of a value is said only when it was
 * there from the look at its entry to the end. */
static enum cleat_status read_value(self_t *self, uint32_t operation,
                                    struct cleat_store_item *item,
                                    uint32_t hash)
{
    const struct store_table *table = &self->table;
    bool compare = operation == CLEAT_TRANSFER_DO_COMPARE;
    enum cleat_status status = CLEAT_TRANSIENT;
    struct cleat_frame frame;
    bool touched = false;
    bool sound = false;

    memset(&frame, 0, sizeof frame);
    for (uint32_t i = 0; i < GETS_MAX && !sound; i++) {
        struct store_found found;
        enum store_seen seen = cleat_memory_table_find(table, hash, item->key,
                                                       item->key_bytes, &found);

        if (seen != STORE_PRESENT) {
            status = not_seen(item, seen);
            item->actual = 0;
            break;
        }
        if (operation == CLEAT_TRANSFER_DO_EXISTS) { return CLEAT_OK; }
        if (operation == CLEAT_TRANSFER_DO_SIZE) {
            status = read_size(item, &found);
        } else if (is_raw(item)) {
            status = read_raw(self, item, &found, compare, &touched);
        } else {
            status = read_framed(self, item, &found, compare, &touched, &frame);
        }
        sound = cleat_memory_table_still(table, &found);
        if (!sound) {
            item->actual = 0;
            status = failed(item, CLEAT_TRANSIENT, CLEAT_MEMORY_STORE_BUSY);
        }
    }
    if (sound) {
        item->code = 0;
        if (operation == CLEAT_TRANSFER_DO_GET && !is_raw(item) &&
            (status == CLEAT_OK || status == CLEAT_INVALID)) {
            item->frame = frame;
        }
    }
    if (touched && status != CLEAT_OK && item->bytes != 0) {
        memset(item->payload, 0, (size_t)item->bytes);
    }
    return status;
}

/* ---- calls --------------------------------------------------------------- */

static enum cleat_status take_away(self_t *self, struct cleat_store_item *item,
                                   uint32_t hash)
{
    enum store_seen seen = cleat_memory_table_remove(
        &self->table, hash, item->key, item->key_bytes);

    return seen == STORE_PRESENT ? CLEAT_OK : not_seen(item, seen);
}

static bool has_payload(uint32_t operation)
{
    return operation == CLEAT_TRANSFER_DO_PUT ||
           operation == CLEAT_TRANSFER_DO_GET ||
           operation == CLEAT_TRANSFER_DO_COMPARE;
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
    if ((item->flags & CLEAT_STORE_DEVICE) != 0) { return CLEAT_UNSUPPORTED; }
    if ((item->payload == NULL && item->bytes != 0) || item->bytes > SIZE_MAX) {
        return CLEAT_INVALID;
    }
    return CLEAT_OK;
}

static enum cleat_status carry_out(self_t *self, uint32_t operation,
                                   struct cleat_store_item *item, uint32_t hash)
{
    switch (operation) {
    case CLEAT_TRANSFER_DO_PUT: return put(self, item, hash);
    case CLEAT_TRANSFER_DO_REMOVE: return take_away(self, item, hash);
    default: return read_value(self, operation, item, hash);
    }
}

/* Items that are looked at together: in a store larger than the caches a key
 * costs four misses one after the other, which those of many keys can share. */
#define TOGETHER 16u

static void call_some(self_t *self, uint32_t operation,
                      struct cleat_store_item *items, uint32_t count,
                      bool forked)
{
    uint32_t hashes[TOGETHER];

    for (uint32_t i = 0; i < count; i++) {
        items[i].code = 0;
        items[i].actual = 0;
        items[i].status = check_item(operation, &items[i]);
        if (items[i].status == CLEAT_OK && forked) {
            items[i].status = CLEAT_STATE;
        }
        hashes[i] = 0;
        if (items[i].status != CLEAT_OK) { continue; }
        hashes[i] = cleat_memory_table_hash(&self->table, items[i].key,
                                            items[i].key_bytes);
    }
    for (uint32_t stage = 0; count > 1 && stage < STORE_FETCH_STAGES; stage++) {
        for (uint32_t i = 0; i < count; i++) {
            cleat_memory_table_fetch(&self->table, hashes[i], stage);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        if (items[i].status != CLEAT_OK) { continue; }
        items[i].status = carry_out(self, operation, &items[i], hashes[i]);
    }
}

static enum cleat_status store_call(struct cleat_store_context *self,
                                    struct cleat_store_call *call)
{
    bool changes = call->operation == CLEAT_TRANSFER_DO_PUT ||
                   call->operation == CLEAT_TRANSFER_DO_REMOVE;
    bool forked = changes && self->pid != getpid();

    if (call->operation >= CLEAT_TRANSFER_OPERATIONS) { return CLEAT_INVALID; }
    for (uint32_t i = 0; i < call->count; i += TOGETHER) {
        uint32_t count = call->count - i < TOGETHER ? call->count - i
                                                    : TOGETHER;

        call_some(self, call->operation, &call->items[i], count, forked);
    }
    return CLEAT_OK;
}

static enum cleat_status one(self_t *self, uint32_t operation,
                             struct cleat_store_item *item)
{
    struct cleat_store_call call = {operation, 1, item, CLEAT_NEVER};

    (void)store_call(self, &call);
    return (enum cleat_status)item->status;
}

/* A look at a key that was put, and a get; then it is removed, however they
 * have fared. */
static enum cleat_status look_and_remove(self_t *self,
                                         struct cleat_store_item *item)
{
    enum cleat_status status = one(self, CLEAT_TRANSFER_DO_EXISTS, item);
    enum cleat_status removed;
    int32_t code;

    if (status == CLEAT_OK) { status = one(self, CLEAT_TRANSFER_DO_GET, item); }
    code = item->code;
    removed = one(self, CLEAT_TRANSFER_DO_REMOVE, item);
    if (status == CLEAT_OK) { return removed; }
    item->code = code;
    return status;
}

/* A put, a look, a get and a remove of a key of nobody else's: not of another
 * attachment of this process (the slot), and not of an earlier one with its
 * number, which was killed in between (the time of its start). A store that is
 * full is ready: who gets, and who removes, can go on. */
static enum cleat_status store_ready(struct cleat_store_context *self,
                                     uint64_t deadline_ns,
                                     struct cleat_error *error)
{
    struct cleat_store_item item;
    enum cleat_status status;
    uint64_t payload = 0;
    char key[64];

    (void)deadline_ns; /* it does not wait */
    memset(&item, 0, sizeof item);
    item.key = key;
    item.key_bytes = (uint32_t)snprintf(
        key, sizeof key, "cleat/ready/%016" PRIx64 "/%u/%u",
        self->table.identity, (unsigned)self->table.slot,
        (unsigned)atomic_fetch_add(&self->canaries, 1));
    item.payload = &payload;
    item.bytes = sizeof payload;
    status = one(self, CLEAT_TRANSFER_DO_PUT, &item);
    if (status == CLEAT_CAPACITY) { return CLEAT_OK; }
    if (status == CLEAT_OK) { status = look_and_remove(self, &item); }
    if (status != CLEAT_OK) {
        (void)cleat_error_set(error, status, 0, 0,
                              "memory store: a key of its own could not be "
                              "put, seen, got and removed");
        if (error != NULL) { error->port_code = item.code; }
    }
    return status;
}

/* ---- making and attaching ------------------------------------------------ */

static enum cleat_status check_end(const void *block, const void *end,
                                   size_t end_bytes,
                                   const struct cleat_store *out,
                                   struct cleat_error *error)
{
    if (block == NULL || (uintptr_t)block % STORE_LINE_BYTES != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "memory store: the block is not aligned to 64 "
                               "bytes");
    }
    if (end == NULL || (uintptr_t)end % STORE_LINE_BYTES != 0 || out == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "memory store: an end aligned to 64 bytes and a "
                               "result are needed");
    }
    if (end_bytes < CLEAT_MEMORY_STORE_END_BYTES) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 4,
                               CLEAT_MEMORY_STORE_END_BYTES,
                               "memory store: the end is too small");
    }
    return CLEAT_OK;
}

static enum cleat_status attach(void *block, const struct store_shape *shape,
                                void *end, struct cleat_store *out,
                                struct cleat_error *error)
{
    self_t *self = end;

    memset(self, 0, sizeof *self);
    self->pid = getpid();
    self->table.kind = cleat_digest_detect();
    cleat_memory_table_see(&self->table, block, shape);
    if (!cleat_memory_table_join(&self->table)) {
        return cleat_error_set(error, CLEAT_NO_SLOT, 0, shape->processes_count,
                               "memory store: as many processes are attached "
                               "as it was made for");
    }
    out->context = self;
    out->value_bytes_max = room_of(shape, CLEAT_STORE_KEY_MAX) -
                           CLEAT_FRAME_BYTES;
    out->calls_max = UINT32_MAX;
    out->refuses = CLEAT_STORE_NO_DEVICE;
    out->call = store_call;
    out->ready = store_ready;
    return CLEAT_OK;
}

size_t cleat_memory_store_bytes(const struct cleat_memory_store_config *config,
                                uint64_t bytes)
{
    struct store_shape shape;
    uint64_t needed;
    uint64_t units;

    if (config->keys_max == 0 ||
        !cleat_memory_table_shape_of(config, 0, &shape, &needed)) {
        return 0;
    }
    /* Each key rounded up to a line, each value to a unit. */
    units = bytes / shape.unit_bytes + 1 +
            (CLEAT_FRAME_BYTES + STORE_LINE_BYTES - 1 + shape.unit_bytes - 1) *
                (uint64_t)shape.entries_count / shape.unit_bytes;
    needed += units * (shape.unit_bytes + 4u);
    if (bytes > SIZE_MAX / 4 || needed > SIZE_MAX / 2 ||
        units > UINT32_MAX / 2) {
        return 0;
    }
    return ((size_t)needed + STORE_LINE_BYTES - 1) / STORE_LINE_BYTES *
           STORE_LINE_BYTES;
}

enum cleat_status
cleat_memory_store_init(void *block, size_t bytes,
                        const struct cleat_memory_store_config *config,
                        void *end, size_t end_bytes, struct cleat_store *out,
                        struct cleat_error *error)
{
    static const struct cleat_memory_store_config defaults;
    struct store_shape shape;
    uint64_t needed = 0;
    enum cleat_status status;

    if (out != NULL) { memset(out, 0, sizeof *out); }
    status = check_end(block, end, end_bytes, out, error);
    if (status != CLEAT_OK) { return status; }
    if (!cleat_memory_table_shape_of(config != NULL ? config : &defaults, bytes,
                                     &shape, &needed)) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "memory store: at most 16777214 keys and 1000 "
                               "processes; units are a power of two from 256 "
                               "to 1048576 bytes");
    }
    if (bytes < needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, needed,
                               "memory store: the block is too small for so "
                               "many keys");
    }
    cleat_memory_table_make(block, &shape);
    return attach(block, &shape, end, out, error);
}

enum cleat_status cleat_memory_store_attach(void *block, size_t bytes,
                                            void *end, size_t end_bytes,
                                            struct cleat_store *out,
                                            struct cleat_error *error)
{
    struct store_shape shape;
    enum cleat_status status;

    if (out != NULL) { memset(out, 0, sizeof *out); }
    status = check_end(block, end, end_bytes, out, error);
    if (status != CLEAT_OK) { return status; }
    status = cleat_memory_table_shape(block, bytes, &shape);
    if (status == CLEAT_UNSUPPORTED) {
        return cleat_error_set(error, status, 0, 0,
                               "memory store: it was made in another PID or "
                               "time namespace");
    }
    if (status != CLEAT_OK) {
        return cleat_error_set(error, status, 0, 0,
                               "memory store: there is no store of this "
                               "version in the block, or its head is damaged");
    }
    return attach(block, &shape, end, out, error);
}

void cleat_memory_store_detach(struct cleat_store *store)
{
    if (store == NULL || store->context == NULL) { return; }
    if (store->context->pid == getpid()) {
        cleat_memory_table_leave(&store->context->table);
    }
    memset(store, 0, sizeof *store);
}

void cleat_memory_store_look(const struct cleat_store *store,
                             struct cleat_memory_store_view *view)
{
    cleat_memory_table_look(&store->context->table, view);
}

uint32_t cleat_memory_store_sweep(const struct cleat_store *store)
{
    return store->context->pid == getpid()
               ? cleat_memory_table_sweep(&store->context->table)
               : 0;
}
