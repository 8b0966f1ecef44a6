/* Cleat: batches put and got, put together. SPDX-License-Identifier: Apache-2.0
 */
#include "cleat/local_store.h"

#include <string.h>

#include "cleat/arena.h"

#define JOBS_DEFAULT 256u

struct cleat_local_store {
    struct cleat_mailbox mailbox; /* the service's own, to be closed at */
    struct cleat_threads threads;
    struct cleat_transfer_service *service;
    struct cleat_mailbox *batches;
    uint32_t batches_count;
};

enum {
    PART_STORE,
    PART_BATCHES, /* the structs; their boxes follow */
    PART_BOXES,
    PART_MAILBOX,
    PART_THREADS,
    PART_SERVICE,
    PARTS
};

struct layout {
    size_t bytes[PARTS];
    size_t needed; /* with what alignment may lose; 0: out of range */
    size_t box_bytes;
    uint32_t batches_count;
    uint32_t messages_max;
};

static void lay_out(const struct cleat_local_store_config *config,
                    struct layout *layout)
{
    size_t *bytes = layout->bytes;

    memset(layout, 0, sizeof *layout);
    bytes[PART_SERVICE] = cleat_transfer_service_bytes(&config->service);
    if (bytes[PART_SERVICE] == 0) { return; }
    cleat_transfer_service_needs(&config->service, &layout->batches_count,
                                 &layout->messages_max);
    layout->box_bytes = CLEAT_ALIGN_UP(
        cleat_linux_mailbox_bytes(layout->messages_max));
    bytes[PART_STORE] = sizeof(struct cleat_local_store);
    bytes[PART_BATCHES] = layout->batches_count * sizeof(struct cleat_mailbox);
    bytes[PART_BOXES] = layout->batches_count * layout->box_bytes;
    bytes[PART_MAILBOX] = cleat_linux_mailbox_bytes(1);
    bytes[PART_THREADS] = cleat_linux_threads_bytes(&config->threads);
    layout->needed = CLEAT_ALIGN - 1;
    for (uint32_t i = 0; i < PARTS; i++) {
        if (bytes[i] == 0) {
            layout->needed = 0;
            return;
        }
        layout->needed += CLEAT_ALIGN_UP(bytes[i]);
    }
}

static struct cleat_local_store_config
config_or_default(const struct cleat_local_store_config *config)
{
    struct cleat_local_store_config full;

    memset(&full, 0, sizeof full);
    if (config != NULL) { full = *config; }
    if (full.threads.jobs_max == 0) { full.threads.jobs_max = JOBS_DEFAULT; }
    return full;
}

size_t cleat_local_store_bytes(const struct cleat_local_store_config *config)
{
    struct cleat_local_store_config full = config_or_default(config);
    struct layout layout;

    lay_out(&full, &layout);
    return layout.needed;
}

/* ---- opening ------------------------------------------------------------- */

static enum cleat_status open_ports(struct cleat_local_store *self,
                                    const struct layout *layout,
                                    unsigned char *const *parts,
                                    const struct cleat_local_store_config *full,
                                    struct cleat_error *error)
{
    enum cleat_status status = cleat_linux_mailbox_init(
        parts[PART_MAILBOX], layout->bytes[PART_MAILBOX], 1, &self->mailbox,
        error);

    self->batches = (void *)parts[PART_BATCHES];
    memset(self->batches, 0, layout->bytes[PART_BATCHES]);
    self->batches_count = layout->batches_count;
    for (uint32_t i = 0; status == CLEAT_OK && i < self->batches_count; i++) {
        status = cleat_linux_mailbox_init(
            parts[PART_BOXES] + i * layout->box_bytes, layout->box_bytes,
            layout->messages_max, &self->batches[i], error);
    }
    if (status != CLEAT_OK) { return status; }
    return cleat_linux_threads_init(parts[PART_THREADS],
                                    layout->bytes[PART_THREADS], &full->threads,
                                    &self->threads, error);
}

static enum cleat_status
open_service(struct cleat_local_store *self, const struct layout *layout,
             unsigned char *const *parts,
             const struct cleat_local_store_config *full,
             const struct cleat_store *store, struct cleat_error *error)
{
    struct cleat_service_ports ports;
    uint64_t seed = full->seed;

    memset(&ports, 0, sizeof ports);
    ports.clock = cleat_linux_clock();
    ports.threads = self->threads;
    ports.mailbox = self->mailbox;
    if (seed == 0) {
        /* Processes that began at one moment lie at different addresses. */
        seed = ports.clock.now_ns(ports.clock.context) ^ (uintptr_t)&ports;
    }
    return cleat_transfer_service_init(
        parts[PART_SERVICE], layout->bytes[PART_SERVICE], &full->service,
        &ports, self->batches, store, seed, &self->service, error);
}

/* What was never opened is still zero. */
static void tear_down(struct cleat_local_store *self)
{
    if (self->threads.context != NULL) {
        cleat_linux_threads_close(&self->threads);
    }
    for (uint32_t i = 0; i < self->batches_count; i++) {
        cleat_linux_mailbox_close(&self->batches[i]);
    }
    cleat_linux_mailbox_close(&self->mailbox);
}

enum cleat_status cleat_local_store_open(
    void *block, size_t bytes, const struct cleat_local_store_config *config,
    const struct cleat_store *store, struct cleat_local_store **out,
    struct cleat_error *error)
{
    struct cleat_local_store_config full = config_or_default(config);
    unsigned char *parts[PARTS];
    struct cleat_local_store *self;
    enum cleat_status status;
    struct layout layout;
    size_t used;

    *out = NULL;
    lay_out(&full, &layout);
    if (block == NULL || layout.needed == 0) {
        return cleat_error_set(error, CLEAT_INVALID, block == NULL ? 0 : 2, 0,
                               "local store: a block, and counts in their "
                               "range, are needed");
    }
    if (bytes < layout.needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, layout.needed,
                               "local store: the block is too small");
    }
    used = (size_t)(-(uintptr_t)block % CLEAT_ALIGN);
    for (uint32_t i = 0; i < PARTS; i++) {
        parts[i] = (unsigned char *)block + used;
        used += CLEAT_ALIGN_UP(layout.bytes[i]);
    }
    self = (void *)parts[PART_STORE];
    memset(self, 0, sizeof *self);
    status = open_ports(self, &layout, parts, &full, error);
    if (status == CLEAT_OK) {
        status = open_service(self, &layout, parts, &full, store, error);
    }
    if (status != CLEAT_OK) {
        tear_down(self);
        return status;
    }
    *out = self;
    return CLEAT_OK;
}

struct cleat_transfer_service *
cleat_local_store_service(struct cleat_local_store *store)
{
    return store->service;
}

/* ---- closing ------------------------------------------------------------- */

enum cleat_status cleat_local_store_close(struct cleat_local_store *store,
                                          uint64_t deadline_ns,
                                          struct cleat_error *error)
{
    enum cleat_status status;

    if (store == NULL) { return CLEAT_OK; }
    status = cleat_transfer_service_close(store->service, deadline_ns, error);
    if (status != CLEAT_OK) { return status; }
    tear_down(store);
    return CLEAT_OK;
}
