/* Cleat: the calls of a batch. SPDX-License-Identifier: Apache-2.0 */
#include "transfer_state.h"

static bool moves(uint32_t operation)
{
    return operation == CLEAT_TRANSFER_DO_PUT ||
           operation == CLEAT_TRANSFER_DO_GET ||
           operation == CLEAT_TRANSFER_DO_COMPARE;
}

/* ---- filling ------------------------------------------------------------- */

static void fill_frame(struct cleat_frame *frame,
                       const struct cleat_transfer_value *value)
{
    if (value->dtype == CLEAT_DTYPE_NONE) { return; }
    frame->dtype = (enum cleat_dtype)value->dtype;
    frame->rank = value->rank;
    memcpy(frame->shape, value->shape, value->rank * sizeof value->shape[0]);
}

static void fill_item(struct transfer_batch *batch, uint32_t operation,
                      uint32_t key, struct cleat_store_item *item)
{
    struct transfer_entry *entry = &batch->entries[key];
    const struct cleat_transfer_value *value = &batch->values[entry->value];
    uint64_t buffer = cleat_transfer_buffer(batch->machine, key);

    item->key = batch->text + entry->text;
    item->key_bytes = entry->key_bytes;
    item->flags = value->flags;
    item->payload = NULL;
    item->bytes = 0;
    memset(&item->frame, 0, sizeof item->frame);
    if (moves(operation)) {
        item->payload = (void *)(uintptr_t)buffer;
        item->bytes = cleat_transfer_key_bytes(batch->machine, key);
        /* Where nothing moves, nobody has looked at the value's shape. */
        fill_frame(&item->frame, value);
    }
    /* Before nothing there is no room. */
    if (buffer == 0) { item->flags &= ~(uint32_t)CLEAT_STORE_ROOM; }
    if (operation == CLEAT_TRANSFER_DO_GET && item->bytes > entry->touched) {
        entry->touched = item->bytes;
    }
    item->actual = 0;
    item->code = 0;
    item->status = CLEAT_PENDING;
}

/* Those that are alone with their key go to the end. */
void transfer_call_fill(struct transfer_batch *batch,
                        const struct cleat_transfer_command *command)
{
    struct transfer_call *call = &batch->calls[command->call];
    uint32_t key = cleat_transfer_first(batch->machine, command->call);
    uint32_t first = 0;
    uint32_t end = command->keys;

    while (key != TRANSFER_NOBODY) {
        uint32_t at = batch->entries[key].alone ? --end : first++;

        fill_item(batch, command->operation, key, &call->items[at]);
        call->keys[at] = key;
        key = cleat_transfer_next_key(batch->machine, key);
    }
    call->operation = command->operation;
    call->together = first;
    call->count = command->keys;
    call->deadline_ns = batch->deadline_ns;
    call->is = TRANSFER_HELD;
}

/* ---- on a thread of the pool --------------------------------------------- */

static void call_store(const struct transfer_batch *batch,
                       const struct transfer_call *call, uint32_t first,
                       uint32_t count)
{
    const struct cleat_store *store = &batch->service->store;
    struct cleat_store_call made = {.operation = call->operation,
                                    .count = count,
                                    .items = &call->items[first],
                                    .deadline_ns = call->deadline_ns};

    /* What a failure says nothing about is unknown, and so what it says of the
     * whole call is not more. */
    (void)store->call(store->context, &made);
}

static bool is_wanted(const struct transfer_batch *batch)
{
    bool wanted;

    transfer_lock(batch->service);
    wanted = batch->running;
    transfer_unlock(batch->service);
    return wanted;
}

static void make(struct transfer_batch *batch, struct transfer_call *call)
{
    const struct cleat_store *store = &batch->service->store;

    if (call->operation == TRANSFER_DO_READY) {
        call->status = (int32_t)store->ready(store->context, call->deadline_ns,
                                             &batch->error);
        return;
    }
    if (call->together > 0) { call_store(batch, call, 0, call->together); }
    for (uint32_t i = call->together; i < call->count; i++) {
        if (!is_wanted(batch)) { return; }
        call_store(batch, call, i, 1);
    }
}

/* Nobody knows what is in these buffers, and all were said to have failed: be
 * it of this call, or of one before it that this one was to look after. */
static void fill_late(const struct transfer_batch *batch,
                      const struct transfer_call *call)
{
    if (batch->kind != CLEAT_TRANSFER_GET) { return; }
    for (uint32_t i = 0; i < call->count; i++) {
        uint64_t touched = batch->entries[call->keys[i]].touched;
        uint64_t buffer = cleat_transfer_buffer(batch->machine, call->keys[i]);

        if (touched == 0 || (call->items[i].flags & CLEAT_STORE_DEVICE) != 0) {
            continue;
        }
        memset((void *)(uintptr_t)buffer, batch->service->fill,
               (size_t)touched);
    }
}

/* With the lock. */
static void wake_starving(struct cleat_transfer_service *service)
{
    for (uint32_t i = 0; service->starving > 0 && i < service->batches_max;
         i++) {
        if (service->batches[i].starving) {
            transfer_batch_wake(&service->batches[i]);
        }
    }
}

/* With the lock. */
static void end_call(struct transfer_batch *batch, struct transfer_call *call)
{
    call->is = TRANSFER_IDLE;
    batch->service->calls--;
    wake_starving(batch->service);
}

/* The call is over: its caller hears of it, or has gone. */
static void give_back(struct transfer_batch *batch, uint32_t index, bool begun)
{
    struct cleat_transfer_service *service = batch->service;
    struct transfer_call *call = &batch->calls[index];

    transfer_lock(service);
    if (batch->running) {
        end_call(batch, call);
        batch->returned |= UINT32_C(1) << index;
        batch->holders--;
        transfer_batch_wake(batch);
        transfer_unlock(service);
        return;
    }
    transfer_unlock(service);
    if (begun) { fill_late(batch, call); }
    transfer_lock(service);
    end_call(batch, call);
    service->stuck--;
    transfer_unlock(service);
    transfer_batch_leave(batch);
}

static void call_job(void *job, uint64_t index)
{
    struct transfer_batch *batch = job;
    struct transfer_call *call = &batch->calls[index];
    bool begun;

    transfer_lock(batch->service);
    begun = call->is == TRANSFER_QUEUED;
    if (begun) { call->is = TRANSFER_BEGUN; }
    transfer_unlock(batch->service);
    if (begun) { make(batch, call); }
    give_back(batch, (uint32_t)index, begun);
}

/* ---- on the caller's thread ---------------------------------------------- */

bool transfer_call_submit(struct transfer_batch *batch, uint32_t index)
{
    struct cleat_transfer_service *service = batch->service;
    const struct cleat_threads *threads = &service->ports.threads;
    struct transfer_call *call = &batch->calls[index];
    bool full = service->store.calls_max != 0 &&
                service->calls >= service->store.calls_max;
    bool taken = !full && threads->submit(threads->context, call_job, batch,
                                          index) == CLEAT_OK;

    if (taken) {
        call->is = TRANSFER_QUEUED;
        service->calls++;
        batch->holders++;
    }
    if (batch->starving == taken) {
        batch->starving = !taken;
        service->starving += taken ? UINT32_MAX : 1;
    }
    return taken;
}

/* What was found, where nothing was demanded. */
static void tell_found(struct transfer_batch *batch,
                       const struct transfer_call *call)
{
    for (uint32_t i = 0; i < call->count; i++) {
        const struct cleat_store_item *item = &call->items[i];
        uint32_t key = call->keys[i];
        struct cleat_transfer_value *value =
            &batch->values[batch->entries[key].value];
        struct cleat_transfer_report report;

        cleat_transfer_look(batch->machine, key, &report);
        if (report.status != CLEAT_OK || value->dtype != CLEAT_DTYPE_NONE ||
            (value->flags & CLEAT_STORE_RAW) != 0 ||
            item->frame.rank > CLEAT_RANK_MAX) {
            continue;
        }
        value->dtype = item->frame.dtype;
        value->rank = item->frame.rank;
        memcpy(value->shape, item->frame.shape, sizeof value->shape);
    }
}

static void hear(struct transfer_batch *batch, uint32_t index)
{
    struct cleat_transfer_service *service = batch->service;
    const struct transfer_call *call = &batch->calls[index];
    bool sizes = call->operation == CLEAT_TRANSFER_DO_GET ||
                 call->operation == CLEAT_TRANSFER_DO_SIZE;
    uint64_t now_ns;

    for (uint32_t i = 0; i < call->count; i++) {
        const struct cleat_store_item *item = &call->items[i];

        if (item->status > CLEAT_OK) { continue; }
        if (sizes) { batch->entries[call->keys[i]].actual = item->actual; }
        (void)cleat_transfer_told(batch->machine, index, call->keys[i],
                                  (enum cleat_status)item->status, item->code,
                                  item->actual);
    }
    now_ns = transfer_batch_now_ns(batch);
    transfer_lock(service);
    (void)cleat_transfer_returned(batch->machine, now_ns, index,
                                  &service->budget, CLEAT_NONE,
                                  drive_draw(&service->random));
    transfer_unlock(service);
    if (batch->tell && call->operation == CLEAT_TRANSFER_DO_GET) {
        tell_found(batch, call);
    }
}

void transfer_call_hear(struct transfer_batch *batch, uint32_t returned)
{
    for (uint32_t i = 0; returned != 0; i++, returned >>= 1) {
        if ((returned & 1) != 0) { hear(batch, i); }
    }
}

/* With the lock: the calls that no thread has begun, a bit each. */
static uint32_t take_back(struct transfer_batch *batch)
{
    struct cleat_transfer_service *service = batch->service;
    uint32_t calls = 0;

    for (uint32_t i = 0; i < service->config.calls_max; i++) {
        struct transfer_call *call = &batch->calls[i];

        if (call->is == TRANSFER_HELD) {
            call->is = TRANSFER_IDLE;
            calls |= UINT32_C(1) << i;
        } else if (call->is == TRANSFER_QUEUED) {
            call->is = TRANSFER_WITHDRAWN;
            calls |= UINT32_C(1) << i;
        }
    }
    batch->held = TRANSFER_NOBODY;
    if (batch->starving) {
        batch->starving = false;
        service->starving--;
    }
    return calls;
}

void transfer_call_withdraw(struct transfer_batch *batch)
{
    uint32_t calls;

    transfer_lock(batch->service);
    calls = take_back(batch);
    transfer_unlock(batch->service);
    for (uint32_t i = 0; calls != 0; i++, calls >>= 1) {
        const struct transfer_call *call = &batch->calls[i];

        if ((calls & 1) == 0) { continue; }
        /* Before the end of the batch, so that nothing counts as under way. */
        for (uint32_t k = 0; k < call->count; k++) {
            uint32_t key = call->keys[k];
            struct cleat_transfer_report report;

            cleat_transfer_look(batch->machine, key, &report);
            batch->entries[key].attempts = (uint16_t)report.attempts;
            (void)cleat_transfer_told(batch->machine, i, key, CLEAT_NO_SLOT,
                                      report.code, 0);
        }
        (void)cleat_transfer_returned(batch->machine, batch->told_ns, i, NULL,
                                      CLEAT_NONE, 0);
    }
}
