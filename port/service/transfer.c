/* Cleat: batches put and got, blocking. SPDX-License-Identifier: Apache-2.0 */
#include "transfer_state.h"

#define BATCHES_DEFAULT 16u
#define KEYS_DEFAULT 16384u
#define NAMES_DEFAULT 5u
#define KEY_BYTES_DEFAULT 64u
#define BATCHES_MAX (UINT32_C(1) << 12)
#define KEYS_MAX (UINT32_C(1) << 24)
#define KEY_BYTES_MAX (UINT32_C(1) << 31)

#define FILL_ZERO 0u
#define FILL_POISON 0xA5u

/* ---- the block ----------------------------------------------------------- */

static uint32_t or_default(uint32_t value, uint32_t standard)
{
    return value != 0 ? value : standard;
}

/* Counts without a default left. */
static struct cleat_transfer_service_config
with_defaults(const struct cleat_transfer_service_config *config)
{
    static const struct cleat_retry_budget standard = CLEAT_RETRY_BUDGET_AWS;
    struct cleat_transfer_service_config full;
    struct cleat_transfer_config *batch = &full.batch;

    memset(&full, 0, sizeof full);
    if (config != NULL) { full = *config; }
    full.batches_max = or_default(full.batches_max, BATCHES_DEFAULT);
    full.keys_max = or_default(full.keys_max, KEYS_DEFAULT);
    full.names_max = or_default(full.names_max, NAMES_DEFAULT);
    if (full.key_bytes_max == 0 && full.keys_max <= KEYS_MAX) {
        full.key_bytes_max = full.keys_max * KEY_BYTES_DEFAULT +
                             CLEAT_STORE_KEY_MAX + 1;
    }
    if (full.budget.tokens_max == 0) { full.budget = standard; }
    batch->calls_max = or_default(batch->calls_max,
                                  CLEAT_TRANSFER_CALLS_DEFAULT);
    batch->call_keys_max = or_default(batch->call_keys_max,
                                      CLEAT_TRANSFER_CALL_KEYS_MAX_DEFAULT);
    if (batch->call_keys_max > full.keys_max) {
        batch->call_keys_max = full.keys_max;
    }
    return full;
}

static bool is_sound(const struct cleat_transfer_service_config *full)
{
    const struct cleat_transfer_config *batch = &full->batch;

    return full->batches_max <= BATCHES_MAX && full->keys_max <= KEYS_MAX &&
           full->key_bytes_max <= KEY_BYTES_MAX && full->on_failure <= 1 &&
           batch->calls_max <= CLEAT_TRANSFER_CALLS_MAX &&
           batch->rereads_max <= 15 &&
           (batch->policy == NULL ||
            cleat_retry_policy_check(batch->policy) == CLEAT_OK) &&
           (batch->capacity == NULL ||
            cleat_retry_policy_check(batch->capacity) == CLEAT_OK);
}

/* Places of a table of `count` keys: a power of two, half of them empty. */
static size_t table_places(uint32_t count)
{
    size_t places = 2;

    while (places < 2 * (size_t)count) { places *= 2; }
    return places;
}

/* The next part of the block: its place, if there is a block. */
static void *part(unsigned char *block, size_t *used, size_t bytes)
{
    void *at = block != NULL ? block + *used : NULL;

    *used += CLEAT_ALIGN_UP(bytes);
    return at;
}

/* The parts of one batch; its calls too, where there is a block. */
static void lay_out_batch(struct transfer_batch *batch, unsigned char *block,
                          size_t *used,
                          const struct cleat_transfer_service_config *full)
{
    size_t keys = full->keys_max;
    size_t call_keys = full->batch.call_keys_max;

    batch->calls = part(block, used,
                        full->batch.calls_max * sizeof *batch->calls);
    batch->machine_block = part(block, used,
                                cleat_transfer_bytes(full->keys_max));
    batch->entries = part(block, used, keys * sizeof *batch->entries);
    batch->key_of = part(block, used, keys * sizeof *batch->key_of);
    batch->table = part(block, used,
                        table_places(full->keys_max) * sizeof *batch->table);
    batch->text = part(block, used, full->key_bytes_max);
    batch->pieces = part(block, used, keys * sizeof *batch->pieces);
    for (uint32_t i = 0; i < full->batch.calls_max; i++) {
        void *items = part(block, used,
                           call_keys * sizeof(struct cleat_store_item));
        void *numbers = part(block, used, call_keys * sizeof(uint32_t));

        if (block == NULL) { continue; }
        memset(&batch->calls[i], 0, sizeof batch->calls[i]);
        batch->calls[i].items = items;
        batch->calls[i].keys = numbers;
    }
}

/* Gives each part its place, from `block` on. Returns the bytes of all. */
static size_t lay_out(unsigned char *block,
                      const struct cleat_transfer_service_config *full)
{
    struct cleat_transfer_service *service = (void *)block;
    struct transfer_batch nowhere;
    struct transfer_batch *batches;
    size_t used = CLEAT_ALIGN_UP(sizeof *service);

    batches = part(block, &used, full->batches_max * sizeof *batches);
    if (block != NULL) {
        memset(service, 0, sizeof *service);
        memset(batches, 0, full->batches_max * sizeof *batches);
        service->batches = batches;
    }
    for (uint32_t i = 0; i < full->batches_max; i++) {
        lay_out_batch(block != NULL ? &batches[i] : &nowhere, block, &used,
                      full);
    }
    return used;
}

size_t
cleat_transfer_service_bytes(const struct cleat_transfer_service_config *config)
{
    struct cleat_transfer_service_config full = with_defaults(config);

    return is_sound(&full) ? lay_out(NULL, &full) : 0;
}

void cleat_transfer_service_needs(
    const struct cleat_transfer_service_config *config, uint32_t *batches_count,
    uint32_t *messages_max)
{
    struct cleat_transfer_service_config full = with_defaults(config);
    bool sound = is_sound(&full);

    *batches_count = sound ? full.batches_max : 0;
    /* What has come is in the batch: one message makes its caller look. */
    *messages_max = sound ? 1 : 0;
}

/* ---- beginning ----------------------------------------------------------- */

static enum cleat_status
check_arguments(const void *block, size_t bytes, size_t needed,
                const struct cleat_service_ports *ports,
                const struct cleat_mailbox *batches, uint32_t batches_max,
                const struct cleat_store *store, struct cleat_error *error)
{
    bool boxes = batches != NULL;

    if (needed == 0) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "transfer: a number of the configuration is out "
                               "of range, or a policy unsound");
    }
    for (uint32_t i = 0; boxes && i < batches_max; i++) {
        boxes = batches[i].post != NULL && batches[i].wait != NULL;
    }
    if (ports->clock.now_ns == NULL || ports->threads.lock == NULL ||
        ports->threads.unlock == NULL || ports->threads.submit == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "transfer: a function of its clock or threads "
                               "is missing");
    }
    if (!boxes) {
        return cleat_error_set(error, CLEAT_INVALID, 4, 0,
                               "transfer: batches_max mailboxes are needed");
    }
    if (store == NULL || store->call == NULL || store->ready == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 5, 0,
                               "transfer: a function of its store is missing");
    }
    if (block == NULL || (uintptr_t)block % CLEAT_ALIGN != 0) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "transfer: a block aligned to 64 bytes is "
                               "needed");
    }
    if (bytes < needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, needed,
                               "transfer: the service's block is too small");
    }
    return CLEAT_OK;
}

/* What a batch's machine is begun with. */
static void fill_config(struct cleat_transfer_service *service,
                        const struct cleat_transfer_config *batch)
{
    service->config = *batch;
    if (batch->policy != NULL) {
        service->policies[0] = *batch->policy;
        service->config.policy = &service->policies[0];
    }
    if (batch->capacity != NULL) {
        service->policies[1] = *batch->capacity;
        service->config.capacity = &service->policies[1];
    }
    if (service->config.deadline_ns == 0) {
        service->config.deadline_ns = CLEAT_TRANSFER_DEADLINE_NS_DEFAULT;
    }
}

enum cleat_status
cleat_transfer_service_init(void *block, size_t bytes,
                            const struct cleat_transfer_service_config *config,
                            const struct cleat_service_ports *ports,
                            const struct cleat_mailbox *batches,
                            const struct cleat_store *store, uint64_t seed,
                            struct cleat_transfer_service **out,
                            struct cleat_error *error)
{
    struct cleat_transfer_service_config full = with_defaults(config);
    size_t needed = cleat_transfer_service_bytes(config);
    struct cleat_transfer_service *service = block;
    enum cleat_status status;

    *out = NULL;
    status = check_arguments(block, bytes, needed, ports, batches,
                             full.batches_max, store, error);
    if (status != CLEAT_OK) { return status; }
    (void)lay_out(block, &full);
    service->ports = *ports;
    service->store = *store;
    fill_config(service, &full.batch);
    service->batches_max = full.batches_max;
    service->keys_max = full.keys_max;
    service->key_bytes_max = full.key_bytes_max;
    service->names_max = full.names_max;
    service->fill = full.on_failure != 0 ? FILL_POISON : FILL_ZERO;
    service->budget = full.budget;
    service->random = seed;
    service->table_salt = (uint32_t)drive_draw(&service->random);
    for (uint32_t i = 0; i < full.batches_max; i++) {
        service->batches[i].service = service;
        service->batches[i].mailbox = batches[i];
    }
    *out = service;
    return CLEAT_OK;
}

/* ---- what else may be asked ---------------------------------------------- */

void cleat_transfer_stop(struct cleat_transfer_service *service)
{
    transfer_lock(service);
    for (uint32_t i = 0; i < service->batches_max; i++) {
        struct transfer_batch *batch = &service->batches[i];

        if (!batch->running) { continue; }
        batch->stopped = true;
        transfer_batch_wake(batch);
    }
    transfer_unlock(service);
}

void cleat_transfer_service_count(struct cleat_transfer_service *service,
                                  uint32_t *calls, uint32_t *stuck)
{
    transfer_lock(service);
    *calls = service->calls;
    *stuck = service->stuck;
    transfer_unlock(service);
}
