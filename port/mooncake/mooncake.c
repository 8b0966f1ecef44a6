/* Cleat: opening and closing a Mooncake Store. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#define CLEAT_DIGEST_DETECT
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "state.h"

/* ---- the gate ------------------------------------------------------------ */

bool cleat_mooncake_enter(self_t *self, uint32_t bits)
{
    uint32_t before = atomic_fetch_add(&self->gate, 1);

    if ((before & GATE_CLOSED) == 0 && (before & bits) == bits &&
        self->pid == getpid()) {
        return true;
    }
    cleat_mooncake_leave(self);
    return false;
}

void cleat_mooncake_leave(self_t *self)
{
    (void)atomic_fetch_sub(&self->gate, 1);
}

void cleat_mooncake_hold_signals(sigset_t *before)
{
    sigset_t all;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, before);
}

void cleat_mooncake_release_signals(const sigset_t *before)
{
    (void)pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* ---- the block ----------------------------------------------------------- */

/* What a configuration comes to, and where its parts lie. */
struct layout {
    uint32_t calls_max;
    uint32_t keys_max;
    uint32_t buckets_count;
    uint32_t pieces_max;
    size_t slots;
    size_t slot_bytes; /* of what a slot points at */
    size_t arrays;
    size_t pieces;
    size_t stage;
    size_t stage_bytes;
    size_t bytes;
};

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
    return value != 0 ? value : otherwise;
}

/* False: a count is out of range. */
static bool lay_out(const struct cleat_mooncake_config *config,
                    struct layout *layout)
{
    uint64_t stage = config->staging_bytes != 0
                         ? config->staging_bytes
                         : CLEAT_MOONCAKE_STAGING_BYTES_DEFAULT;
    size_t keys;

    memset(layout, 0, sizeof *layout);
    layout->calls_max = or_default(config->calls_max,
                                   CLEAT_MOONCAKE_CALLS_DEFAULT);
    layout->keys_max = or_default(config->keys_max,
                                  CLEAT_MOONCAKE_KEYS_DEFAULT);
    layout->pieces_max = or_default(config->registrations_max,
                                    CLEAT_MOONCAKE_REGISTRATIONS_DEFAULT);
    if (layout->calls_max > CLEAT_MOONCAKE_CALLS_MAX ||
        layout->keys_max > CLEAT_MOONCAKE_KEYS_MAX ||
        layout->pieces_max > CLEAT_MOONCAKE_REGISTRATIONS_MAX ||
        stage > SIZE_MAX / 2) {
        return false;
    }
    keys = layout->keys_max;
    for (layout->buckets_count = 4; layout->buckets_count < 2 * keys;) {
        layout->buckets_count *= 2;
    }
    layout->slot_bytes = CLEAT_ALIGN_UP(
        keys * (sizeof(char *) + sizeof(void *) + sizeof(size_t) +
                sizeof(int64_t) + sizeof(int) + sizeof(uint32_t)) +
        layout->buckets_count * sizeof(uint32_t));
    if (layout->calls_max + (size_t)1 > SIZE_MAX / 4 / layout->slot_bytes) {
        return false;
    }
    layout->slots = CLEAT_ALIGN_UP(sizeof(struct cleat_store_context));
    layout->arrays = layout->slots +
                     CLEAT_ALIGN_UP((layout->calls_max + (size_t)1) *
                                    sizeof(struct slot));
    layout->pieces = layout->arrays +
                     (layout->calls_max + (size_t)1) * layout->slot_bytes;
    layout->stage = layout->pieces +
                    CLEAT_ALIGN_UP(2 * (size_t)layout->pieces_max *
                                   sizeof(struct piece));
    layout->stage_bytes = stage < CLEAT_MOONCAKE_STAGING_BYTES_MIN
                              ? CLEAT_MOONCAKE_STAGING_BYTES_MIN
                              : CLEAT_ALIGN_UP((size_t)stage);
    layout->bytes = layout->stage + PAGE_BYTES + layout->stage_bytes;
    return true;
}

size_t cleat_mooncake_bytes(const struct cleat_mooncake_config *config)
{
    static const struct cleat_mooncake_config defaults;
    struct layout layout;

    return lay_out(config != NULL ? config : &defaults, &layout) ? layout.bytes
                                                                 : 0;
}

/* Cuts a slot's arrays out of its bytes; the widest come first. */
static void cut_slot(struct slot *slot, const struct layout *layout,
                     unsigned char *at)
{
    size_t keys = layout->keys_max;

    slot->share.next = NOBODY;
    slot->keys = (const char **)(void *)at;
    at += keys * sizeof *slot->keys;
    slot->buffers = (void **)(void *)at;
    at += keys * sizeof *slot->buffers;
    slot->sizes = (size_t *)(void *)at;
    at += keys * sizeof *slot->sizes;
    slot->results = (int64_t *)(void *)at;
    at += keys * sizeof *slot->results;
    slot->codes = (int *)(void *)at;
    at += keys * sizeof *slot->codes;
    slot->items = (uint32_t *)(void *)at;
    at += keys * sizeof *slot->items;
    slot->buckets = (uint32_t *)(void *)at;
}

static void cut(self_t *self, const struct layout *layout)
{
    unsigned char *block = (unsigned char *)self;
    uintptr_t stage = (uintptr_t)(block + layout->stage);

    self->calls_max = layout->calls_max;
    self->keys_max = layout->keys_max;
    self->buckets_count = layout->buckets_count;
    self->slots = (struct slot *)(void *)(block + layout->slots);
    for (uint32_t i = 0; i <= layout->calls_max; i++) {
        cut_slot(&self->slots[i], layout,
                 block + layout->arrays + i * layout->slot_bytes);
    }
    self->pool.pieces_max = layout->pieces_max;
    self->pool.registered.table = (struct piece *)(void *)(block +
                                                           layout->pieces);
    self->pool.unjoined.table = self->pool.registered.table +
                                layout->pieces_max;
    self->stage.start = block + layout->stage +
                        (PAGE_BYTES - stage % PAGE_BYTES) % PAGE_BYTES;
    self->stage.bytes = layout->stage_bytes;
    self->stage.first = NOBODY;
    self->stage.queue = NOBODY;
}

/* ---- locks --------------------------------------------------------------- */

static int init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    int code = pthread_condattr_init(&attributes);

    if (code != 0) { return code; }
    code = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (code == 0) { code = pthread_cond_init(cond, &attributes); }
    (void)pthread_condattr_destroy(&attributes);
    return code;
}

static int init_locks(self_t *self)
{
    int code = pthread_mutex_init(&self->ready_lock, NULL);

    if (code == 0) { code = pthread_mutex_init(&self->stage.lock, NULL); }
    if (code == 0) { code = pthread_mutex_init(&self->pool.turn, NULL); }
    if (code == 0) { code = pthread_mutex_init(&self->pool.lock, NULL); }
    if (code == 0) { code = init_cond(&self->ready_changed); }
    if (code == 0) { code = init_cond(&self->stage.changed); }
    return code;
}

static void destroy_locks(self_t *self)
{
    (void)pthread_cond_destroy(&self->stage.changed);
    (void)pthread_cond_destroy(&self->ready_changed);
    (void)pthread_mutex_destroy(&self->pool.lock);
    (void)pthread_mutex_destroy(&self->pool.turn);
    (void)pthread_mutex_destroy(&self->stage.lock);
    (void)pthread_mutex_destroy(&self->ready_lock);
}

/* ---- configuration ------------------------------------------------------- */

/* Copies a string; false: too long. */
static bool copy_string(char out[STRING_BYTES], const char *string,
                        const char *otherwise)
{
    const char *from = string != NULL ? string : otherwise;
    size_t bytes = strnlen(from, STRING_BYTES);

    if (bytes == STRING_BYTES) { return false; }
    memcpy(out, from, bytes + 1);
    return true;
}

static bool copy_strings(self_t *self,
                         const struct cleat_mooncake_config *config)
{
    return copy_string(self->local_hostname, config->local_hostname,
                       "127.0.0.1") &&
           copy_string(self->metadata_server, config->metadata_server,
                       "P2PHANDSHAKE") &&
           copy_string(self->master, config->master, "127.0.0.1:50051") &&
           copy_string(self->protocol, config->protocol, "tcp") &&
           copy_string(self->device, config->device, "");
}

static void configure(self_t *self, const struct cleat_mooncake_config *config)
{
    self->segment_bytes = config->segment_bytes;
    self->local_buffer_bytes = config->local_buffer_bytes;
    if (self->local_buffer_bytes == 0) {
        self->local_buffer_bytes = CLEAT_MOONCAKE_LOCAL_BUFFER_BYTES_DEFAULT;
    }
    self->classify = config->classify;
    self->classify_context = config->classify_context;
    self->keep_registered = config->keep_registered != 0;
    self->device_memory = config->device_memory != 0;
    self->replicate.replica_num = or_default(config->replicas, 1);
    self->replicate.with_soft_pin = config->soft_pin != 0;
    self->replicate.with_hard_pin = config->hard_pin != 0;
    /* The library's own where they are what is asked for: the structure is the
     * part of its interface that has changed already. */
    if (self->replicate.replica_num > 1 || config->soft_pin != 0 ||
        config->hard_pin != 0) {
        self->replicate_with = &self->replicate;
    }
}

/* A number that no other open of any process has. */
static void make_unique(self_t *self)
{
    ssize_t got = getrandom(self->unique, sizeof self->unique, GRND_NONBLOCK);

    if (got != (ssize_t)sizeof self->unique) {
        self->unique[0] = cleat_mooncake_now_ns();
        self->unique[1] = (uint64_t)(uintptr_t)self;
    }
    self->unique[1] ^= (uint64_t)self->pid << 40;
}

/* ---- open and close ------------------------------------------------------ */

static enum cleat_status check_open(void *block, size_t bytes,
                                    const struct cleat_mooncake_config *config,
                                    struct layout *layout,
                                    const struct cleat_store *out,
                                    struct cleat_error *error)
{
    uint32_t newer = CLEAT_MOONCAKE_BATCH_REMOVE | CLEAT_MOONCAKE_UPSERT;

    if (out == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "mooncake: no result is given");
    }
    if (block == NULL || (uintptr_t)block % CLEAT_ALIGN != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "mooncake: the block is not aligned to 64 "
                               "bytes");
    }
    if (!lay_out(config, layout) || (config->newer & ~newer) != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "mooncake: at most 1024 calls, 65536 keys and "
                               "1048576 registrations; newer is 0 to 3");
    }
    if (bytes < layout->bytes) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, layout->bytes,
                               "mooncake: the block is too small");
    }
    return CLEAT_OK;
}

/* Loads the library and makes a client, in a block that is cut. */
static enum cleat_status make_client(self_t *self,
                                     const struct cleat_mooncake_config *config,
                                     struct cleat_error *error)
{
    enum cleat_status status;
    sigset_t before;

    cleat_mooncake_hold_signals(&before);
    status = cleat_mooncake_load(config, &self->library, error);
    if (status == CLEAT_OK) { self->store = self->library.create(); }
    cleat_mooncake_release_signals(&before);
    if (status == CLEAT_OK && self->store == NULL) {
        status = cleat_error_set(error, CLEAT_PERMANENT, 0, 0,
                                 "mooncake: the library makes no client");
    }
    return status;
}

enum cleat_status
cleat_mooncake_open(void *block, size_t bytes,
                    const struct cleat_mooncake_config *config,
                    struct cleat_store *out, struct cleat_error *error)
{
    static const struct cleat_mooncake_config defaults;
    struct layout layout;
    self_t *self = block;
    enum cleat_status status;
    int code;

    if (config == NULL) { config = &defaults; }
    if (out != NULL) { memset(out, 0, sizeof *out); }
    status = check_open(block, bytes, config, &layout, out, error);
    if (status != CLEAT_OK) { return status; }
    memset(block, 0, layout.stage);
    cut(self, &layout);
    configure(self, config);
    self->pid = getpid();
    self->digest = cleat_digest_detect();
    make_unique(self);
    if (!copy_strings(self, config)) {
        return cleat_error_set(error, CLEAT_INVALID, 2, STRING_BYTES - 1,
                               "mooncake: a string is longer than 511 bytes");
    }
    code = init_locks(self);
    if (code != 0) {
        status = cleat_error_set(error, CLEAT_IO, 0, 0,
                                 "mooncake: a lock cannot be made");
        if (error != NULL) { error->port_code = code; }
        return status;
    }
    status = make_client(self, config, error);
    if (status != CLEAT_OK) {
        destroy_locks(self);
        return status;
    }
    out->context = self;
    out->value_bytes_max = CLEAT_NONE;
    out->staged_bytes_max = self->stage.bytes - CLEAT_FRAME_BYTES;
    out->calls_max = self->calls_max;
    out->refuses = CLEAT_STORE_NO_EMPTY_RAW | CLEAT_STORE_NO_FRAMED_DEVICE;
    if (!self->device_memory) { out->refuses |= CLEAT_STORE_NO_DEVICE; }
    /* Where the library says OK of what is there already, no put is believed;
     * an upsert overwrites that. */
    if (self->library.batch_upsert_from == NULL) {
        out->verify_min = CLEAT_TRANSFER_VERIFY_SIZE;
    }
    out->call = cleat_mooncake_call;
    out->lend = cleat_mooncake_lend;
    out->ready = cleat_mooncake_ready;
    return CLEAT_OK;
}

enum cleat_status cleat_mooncake_close(struct cleat_store *store,
                                       struct cleat_error *error)
{
    self_t *self = store != NULL ? store->context : NULL;
    uint32_t calls;

    if (self == NULL) { return CLEAT_OK; }
    if (self->pid == getpid()) {
        calls = atomic_fetch_or(&self->gate, GATE_CLOSED) & GATE_CALLS;
        if (calls > 0) {
            return cleat_error_set(error, CLEAT_STATE, calls, 0,
                                   "mooncake: calls are under way that may "
                                   "still touch the block");
        }
        cleat_mooncake_return_all(self);
        self->library.destroy(self->store);
        self->store = NULL;
        destroy_locks(self);
    }
    memset(store, 0, sizeof *store);
    return CLEAT_OK;
}

void cleat_mooncake_look(const struct cleat_store *store,
                         struct cleat_mooncake_view *view)
{
    self_t *self = store->context;
    uint32_t gate = atomic_load(&self->gate);

    memset(view, 0, sizeof *view);
    view->calls = gate & GATE_CALLS;
    view->set_up = (gate & GATE_SET_UP) != 0;
    (void)pthread_mutex_lock(&self->stage.lock);
    view->staging_bytes = self->stage.bytes;
    view->staging_taken = self->stage.taken;
    view->waiting = self->stage.waiting;
    (void)pthread_mutex_unlock(&self->stage.lock);
    (void)pthread_mutex_lock(&self->pool.lock);
    view->registered = self->pool.registered.count;
    view->unjoined = self->pool.unjoined.count + self->pool.unnoted;
    for (uint32_t i = 0; i < self->pool.registered.count; i++) {
        view->kept += self->pool.registered.table[i].lent == 0;
    }
    (void)pthread_mutex_unlock(&self->pool.lock);
}
