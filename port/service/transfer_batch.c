/* Cleat: one batch, blocking. SPDX-License-Identifier: Apache-2.0 */
#include "transfer_state.h"

/* ---- places -------------------------------------------------------------- */

struct transfer_batch *
transfer_batch_take(struct cleat_transfer_service *service)
{
    struct transfer_batch *batch = NULL;

    transfer_lock(service);
    for (uint32_t i = 0;
         i < service->batches_max && batch == NULL && !service->closing; i++) {
        struct transfer_batch *at = &service->batches[i];

        if (at->holders == 0 && !at->waited_at) { batch = at; }
    }
    if (batch != NULL) {
        service->taken++;
        batch->holders = 1;
        batch->running = true;
        batch->stopped = false;
        batch->returned = 0;
        batch->held = TRANSFER_NOBODY;
        batch->pieces_count = 0;
    }
    transfer_unlock(service);
    return batch;
}

void transfer_batch_wake(struct transfer_batch *batch)
{
    struct cleat_message message = {.kind = CLEAT_WORKER_WAKE};

    if (batch->woken) { return; }
    /* A full box means that whoever waits is about to look anyway. */
    batch->woken = batch->mailbox.post(batch->mailbox.context, &message) ==
                   CLEAT_OK;
}

bool transfer_batch_wait(struct transfer_batch *batch, uint64_t deadline_ns,
                         uint32_t *returned, bool *stopped)
{
    struct cleat_message message;
    bool came = batch->mailbox.wait(batch->mailbox.context, deadline_ns,
                                    &message) == CLEAT_OK;

    transfer_lock(batch->service);
    if (came) { batch->woken = false; }
    if (returned != NULL) {
        *returned = batch->returned;
        batch->returned = 0;
    }
    if (stopped != NULL) { *stopped = batch->stopped; }
    transfer_unlock(batch->service);
    return came;
}

void transfer_batch_desert(struct transfer_batch *batch)
{
    struct cleat_transfer_service *service = batch->service;

    batch->running = false;
    batch->outlived = batch->holders > 1;
    if (!batch->outlived) { return; }
    service->outlived++;
    service->stuck += batch->holders - 1;
}

/* With the lock. */
static void wake_close(struct cleat_transfer_service *service)
{
    struct cleat_message message = {.kind = CLEAT_WORKER_WAKE};

    /* One that is full wakes who waits, all the same. */
    if (service->closing && service->taken == 0) {
        (void)service->ports.mailbox.post(service->ports.mailbox.context,
                                          &message);
    }
}

/* With the lock. */
static void wake_drains(struct cleat_transfer_service *service)
{
    for (uint32_t i = 0; i < service->batches_max; i++) {
        if (service->batches[i].waited_at) {
            transfer_batch_wake(&service->batches[i]);
        }
    }
}

void transfer_batch_leave(struct transfer_batch *batch)
{
    struct cleat_transfer_service *service = batch->service;
    bool last;

    transfer_lock(service);
    last = batch->holders == 1;
    if (!last) { batch->holders--; }
    transfer_unlock(service);
    if (!last) { return; }
    transfer_batch_unlend(batch);
    transfer_lock(service);
    batch->holders = 0;
    if (batch->outlived) {
        batch->outlived = false;
        service->outlived--;
        wake_drains(service);
    }
    service->taken--;
    wake_close(service);
    transfer_unlock(service);
}

/* ---- beginning ----------------------------------------------------------- */

static enum cleat_status check_asked(struct cleat_transfer_service *service,
                                     const struct transfer_asked *asked)
{
    const struct cleat_transfer_options *options = asked->options;
    bool ready;

    transfer_lock(service);
    ready = service->ready;
    transfer_unlock(service);
    if (!ready) {
        return transfer_say(asked->error, CLEAT_STATE, 0,
                            "transfer: %s: the store is not ready yet",
                            transfer_kind_name(asked->kind));
    }
    if (options->mode > CLEAT_TRANSFER_KEEP ||
        options->verify > CLEAT_TRANSFER_VERIFY_FULL) {
        return transfer_say(asked->error, CLEAT_INVALID, 0,
                            "transfer: %s: there is no mode %u, or no way %u "
                            "to verify",
                            transfer_kind_name(asked->kind),
                            (unsigned)options->mode, (unsigned)options->verify);
    }
    if (asked->count > service->keys_max) {
        return transfer_say(asked->error, CLEAT_LIMIT, service->keys_max,
                            "transfer: %s: %u values are more than keys_max, "
                            "%u",
                            transfer_kind_name(asked->kind),
                            (unsigned)asked->count,
                            (unsigned)service->keys_max);
    }
    if (asked->values == NULL && asked->count > 0) {
        return transfer_say(asked->error, CLEAT_INVALID, 0,
                            "transfer: %s: the values are NULL",
                            transfer_kind_name(asked->kind));
    }
    return CLEAT_OK;
}

/* Begins the machine. One whose deadline has passed ends at once. */
static enum cleat_status begin(struct transfer_batch *batch,
                               const struct transfer_asked *asked)
{
    const struct cleat_transfer_options *options = asked->options;
    struct cleat_transfer_config config = batch->service->config;
    uint64_t now_ns = transfer_now_ns(batch->service);
    enum cleat_status status;

    config.keys_count = batch->entries_count;
    config.kind = asked->kind;
    config.mode = options->mode;
    config.verify = transfer_verify(batch->service, options);
    config.sized = options->sized != 0;
    config.wait = options->wait != 0;
    batch->started_ns = now_ns;
    batch->told_ns = now_ns;
    if (options->deadline_ns == CLEAT_NEVER) {
        config.deadline_ns = CLEAT_NONE;
    } else if (options->deadline_ns > now_ns) {
        config.deadline_ns = options->deadline_ns - now_ns;
    } else if (options->deadline_ns != 0) {
        config.deadline_ns = 1;
        batch->told_ns = now_ns + 1;
    }
    batch->deadline_ns = cleat_time_add(now_ns, config.deadline_ns);
    status = cleat_transfer_begin(
        batch->machine_block, cleat_transfer_bytes(config.keys_count), &config,
        now_ns, &batch->machine, asked->error);
    if (status != CLEAT_OK) { return status; }
    for (uint32_t key = 0; key < batch->entries_count; key++) {
        const struct cleat_transfer_value *value =
            &asked->values[batch->entries[key].value];

        cleat_transfer_set(batch->machine, key,
                           (uint64_t)(uintptr_t)value->payload, value->bytes);
    }
    batch->values = asked->values;
    batch->count = asked->count;
    batch->kind = asked->kind;
    batch->tell = options->tell;
    return CLEAT_OK;
}

/* ---- the middle ---------------------------------------------------------- */

uint64_t transfer_batch_now_ns(struct transfer_batch *batch)
{
    uint64_t now_ns = transfer_now_ns(batch->service);

    if (now_ns < batch->told_ns) { now_ns = batch->told_ns; }
    if (now_ns >= batch->deadline_ns &&
        cleat_transfer_status(batch->machine, NULL) == CLEAT_PENDING) {
        transfer_call_withdraw(batch);
    }
    batch->told_ns = now_ns;
    return now_ns;
}

/* Tells the machine the time, or that it was stopped. False: it has ended. */
static bool advance(struct transfer_batch *batch, bool stopped)
{
    uint64_t now_ns = transfer_batch_now_ns(batch);

    (void)cleat_transfer_tick(batch->machine, now_ns);
    if (stopped &&
        cleat_transfer_status(batch->machine, NULL) == CLEAT_PENDING) {
        transfer_call_withdraw(batch);
        (void)cleat_transfer_cancel(batch->machine, now_ns);
    }
    return cleat_transfer_status(batch->machine, NULL) == CLEAT_PENDING;
}

/* Hands over what the machine wants made, as far as there are threads. */
static void dispatch(struct transfer_batch *batch)
{
    struct cleat_transfer_service *service = batch->service;
    struct cleat_transfer_command command;
    bool taken = true;

    while (taken) {
        if (batch->held == TRANSFER_NOBODY) {
            if (!cleat_transfer_next(batch->machine, &command)) { return; }
            transfer_call_fill(batch, &command);
            batch->held = command.call;
        }
        transfer_lock(service);
        taken = transfer_call_submit(batch, batch->held);
        transfer_unlock(service);
        if (taken) { batch->held = TRANSFER_NOBODY; }
    }
    batch->again_ns = cleat_time_add(batch->told_ns, TRANSFER_AGAIN_NS);
}

static uint64_t next_ns(const struct transfer_batch *batch)
{
    uint64_t deadline_ns = cleat_transfer_deadline(batch->machine);

    return batch->held != TRANSFER_NOBODY && batch->again_ns < deadline_ns
               ? batch->again_ns
               : deadline_ns;
}

static void tell_progress(const struct transfer_batch *batch,
                          const struct cleat_transfer_options *options)
{
    struct cleat_transfer_totals totals = cleat_transfer_count(batch->machine);
    uint32_t ended = totals.ok + totals.failed + totals.unknown;

    if (options->progress == NULL) { return; }
    if (ended == batch->entries_count) { ended = batch->count; }
    options->progress(options->progress_context, ended, batch->count, &totals);
}

static void run(struct transfer_batch *batch,
                const struct cleat_transfer_options *options)
{
    bool stopped = false;
    uint32_t returned;

    while (advance(batch, stopped)) {
        dispatch(batch);
        (void)transfer_batch_wait(batch, next_ns(batch), &returned, &stopped);
        if (returned == 0) { continue; }
        transfer_call_hear(batch, returned);
        tell_progress(batch, options);
    }
}

/* ---- the end ------------------------------------------------------------- */

/* Hears what has returned, and then nothing any more. */
static void end_hearing(struct transfer_batch *batch)
{
    struct cleat_transfer_service *service = batch->service;
    uint32_t returned;

    do {
        transfer_lock(service);
        returned = batch->returned;
        batch->returned = 0;
        if (returned == 0) { transfer_batch_desert(batch); }
        transfer_unlock(service);
        transfer_call_hear(batch, returned);
    } while (returned != 0);
}

/* What a failed get leaves, unless the store may still touch it. */
static void spoil(const struct transfer_batch *batch,
                  const struct transfer_entry *entry,
                  const struct cleat_transfer_value *value)
{
    if (entry->touched == 0 || value->lent ||
        (value->flags & CLEAT_STORE_DEVICE) != 0) {
        return;
    }
    memset(value->payload, batch->service->fill, (size_t)entry->touched);
}

/* A get of a key that another value has got. */
static void copy(const struct transfer_batch *batch,
                 const struct cleat_transfer_value *from,
                 struct cleat_transfer_value *to)
{
    if (to->actual > 0) {
        memcpy(to->payload, from->payload, (size_t)to->actual);
    }
    if (batch->tell) {
        to->dtype = from->dtype;
        to->rank = from->rank;
        memcpy(to->shape, from->shape, sizeof to->shape);
    }
}

/* What was withdrawn has ended by its deadline, or by a stop. */
static void look(const struct transfer_batch *batch, uint32_t key,
                 struct cleat_transfer_report *report)
{
    const struct transfer_entry *entry = &batch->entries[key];

    cleat_transfer_look(batch->machine, key, report);
    if (entry->attempts == 0) { return; }
    report->attempts = entry->attempts;
    if (report->status == CLEAT_NO_SLOT) {
        report->status = batch->told_ns >= batch->deadline_ns ? CLEAT_DEADLINE
                                                              : CLEAT_CANCELLED;
    }
}

static void fill_value(struct transfer_batch *batch, uint32_t index,
                       const struct cleat_transfer_report *report,
                       struct cleat_transfer_totals *totals)
{
    const struct transfer_entry *entry = &batch->entries[batch->key_of[index]];
    struct cleat_transfer_value *value = &batch->values[index];
    bool first = entry->value == index;
    bool get = batch->kind == CLEAT_TRANSFER_GET;
    bool ok = report->status == CLEAT_OK;

    value->actual = ok ? report->bytes : entry->actual;
    value->status = (int32_t)report->status;
    value->code = report->code;
    value->attempts = report->attempts;
    value->lent = first && report->lent;
    value->unknown = report->unknown;
    if (first) {
        if (get && !ok) { spoil(batch, entry, value); }
        return;
    }
    totals->ok += ok;
    totals->failed += !ok && !report->unknown;
    totals->unknown += report->unknown;
    if (get && ok) { copy(batch, &batch->values[entry->value], value); }
}

/* Tells each value, and all of them together. */
static enum cleat_status tell(struct transfer_batch *batch,
                              const struct transfer_asked *asked)
{
    struct cleat_transfer_summary *summary = asked->summary;
    bool moves = asked->kind == CLEAT_TRANSFER_PUT ||
                 asked->kind == CLEAT_TRANSFER_GET;
    uint32_t first = TRANSFER_NOBODY;

    summary->totals = cleat_transfer_count(batch->machine);
    for (uint32_t i = 0; i < batch->count; i++) {
        struct cleat_transfer_report report;

        look(batch, batch->key_of[i], &report);
        fill_value(batch, i, &report, &summary->totals);
        if (report.status != CLEAT_OK) {
            if (first == TRANSFER_NOBODY) { first = i; }
        } else if (moves) {
            summary->bytes += batch->values[i].actual;
        }
    }
    summary->sent = 1;
    summary->started_ns = batch->started_ns;
    summary->ended_ns = batch->told_ns;
    if (first == TRANSFER_NOBODY) { return CLEAT_OK; }
    return transfer_say_failed(batch->service, asked,
                               summary->totals.failed + summary->totals.unknown,
                               first);
}

static enum cleat_status make(struct cleat_transfer_service *service,
                              const struct transfer_asked *asked)
{
    enum cleat_status status = check_asked(service, asked);
    struct transfer_batch *batch;

    if (status != CLEAT_OK || asked->count == 0) { return status; }
    batch = transfer_batch_take(service);
    if (batch == NULL) { return transfer_say_no_place(service, asked->error); }
    status = transfer_batch_check(batch, asked);
    if (status == CLEAT_OK) { status = transfer_batch_lend(batch, asked); }
    if (status == CLEAT_OK) { status = begin(batch, asked); }
    if (status == CLEAT_OK) {
        run(batch, asked->options);
        end_hearing(batch);
        status = tell(batch, asked);
    } else {
        transfer_lock(service);
        transfer_batch_desert(batch);
        transfer_unlock(service);
    }
    transfer_batch_leave(batch);
    return status;
}

static enum cleat_status
transfer(struct cleat_transfer_service *service, uint32_t kind,
         struct cleat_transfer_value *values, uint32_t count,
         const struct cleat_transfer_options *options,
         struct cleat_transfer_summary *summary, struct cleat_error *error)
{
    static const struct cleat_transfer_options none;
    struct cleat_transfer_summary nowhere;
    struct transfer_asked asked = {.values = values,
                                   .count = count,
                                   .kind = kind,
                                   .options = options != NULL ? options : &none,
                                   .summary = summary != NULL ? summary
                                                              : &nowhere,
                                   .error = error};

    memset(asked.summary, 0, sizeof *asked.summary);
    return make(service, &asked);
}

enum cleat_status cleat_transfer_put(
    struct cleat_transfer_service *service, struct cleat_transfer_value *values,
    uint32_t count, const struct cleat_transfer_options *options,
    struct cleat_transfer_summary *summary, struct cleat_error *error)
{
    return transfer(service, CLEAT_TRANSFER_PUT, values, count, options,
                    summary, error);
}

enum cleat_status cleat_transfer_get(
    struct cleat_transfer_service *service, struct cleat_transfer_value *values,
    uint32_t count, const struct cleat_transfer_options *options,
    struct cleat_transfer_summary *summary, struct cleat_error *error)
{
    return transfer(service, CLEAT_TRANSFER_GET, values, count, options,
                    summary, error);
}

enum cleat_status cleat_transfer_remove(
    struct cleat_transfer_service *service, struct cleat_transfer_value *values,
    uint32_t count, const struct cleat_transfer_options *options,
    struct cleat_transfer_summary *summary, struct cleat_error *error)
{
    return transfer(service, CLEAT_TRANSFER_REMOVE, values, count, options,
                    summary, error);
}

enum cleat_status cleat_transfer_exists(
    struct cleat_transfer_service *service, struct cleat_transfer_value *values,
    uint32_t count, const struct cleat_transfer_options *options,
    struct cleat_transfer_summary *summary, struct cleat_error *error)
{
    return transfer(service, CLEAT_TRANSFER_EXISTS, values, count, options,
                    summary, error);
}
