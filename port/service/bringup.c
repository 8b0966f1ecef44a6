/* Cleat: waiting for what has been started, blocking. SPDX-License-Identifier:
 * Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cleat/arena.h"
#include "drive.h"

/* The one kind of message of this service; index: the handle. */
enum { BRINGUP_WAITED = 16 };

struct waited {
    uint64_t hint_ns;
    uint32_t wait;
    int32_t status;
};

/* What a handle's worker thread is to do, guarded by the service's lock. */
struct handle {
    uint64_t value; /* the caller's */
    uint64_t deadline_ns;
    uint32_t wait; /* the newest; a thread that ends an older one makes it */
    bool busy;     /* a job has been submitted for it and has not ended */
};

struct cleat_bringup {
    struct cleat_service_ports ports;
    struct cleat_waiter waiter;
    struct cleat_gather_config config;
    struct cleat_retry_policy policy;
    struct cleat_gather *machine; /* NULL before the first run */
    void *machine_block;
    struct handle *handles;
    uint64_t random;
    bool running;
    bool more; /* waits that are due were left to the next dispatch */
};

#define BRINGUP_BYTES CLEAT_ALIGN_UP(sizeof(struct cleat_bringup))

size_t cleat_bringup_bytes(const struct cleat_gather_config *config)
{
    if (config->handles_count == 0) { return 0; }
    return BRINGUP_BYTES +
           CLEAT_ALIGN_UP(CLEAT_GATHER_BYTES(config->handles_count)) +
           config->handles_count * sizeof(struct handle);
}

enum cleat_status cleat_bringup_init(void *block, size_t bytes,
                                     const struct cleat_gather_config *config,
                                     const struct cleat_service_ports *ports,
                                     const struct cleat_waiter *waiter,
                                     uint64_t seed, struct cleat_bringup **out,
                                     struct cleat_error *error)
{
    static const struct cleat_retry_policy standard = CLEAT_RETRY_BRING_UP;
    struct cleat_bringup *bringup = block;
    size_t needed = cleat_bringup_bytes(config);

    *out = NULL;
    if (needed == 0 || !drive_ports_complete(ports) || waiter->wait == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, needed == 0 ? 2 : 3, 0,
                               "bring-up: a handle and every function of its "
                               "ports must be given");
    }
    if (config->policy != NULL &&
        cleat_retry_policy_check(config->policy) != CLEAT_OK) {
        return cleat_error_set(error, CLEAT_INVALID, 2, 0,
                               "bring-up: a number of its policy is out of "
                               "range");
    }
    if (bytes < needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, needed,
                               "bring-up: the block is too small");
    }
    memset(block, 0, needed);
    bringup->ports = *ports;
    bringup->waiter = *waiter;
    bringup->config = *config;
    bringup->policy = config->policy != NULL ? *config->policy : standard;
    bringup->config.policy = &bringup->policy;
    bringup->machine_block = (unsigned char *)block + BRINGUP_BYTES;
    bringup->handles =
        (void *)((unsigned char *)bringup->machine_block +
                 CLEAT_ALIGN_UP(CLEAT_GATHER_BYTES(config->handles_count)));
    bringup->random = seed;
    *out = bringup;
    return CLEAT_OK;
}

static uint64_t draw(struct cleat_bringup *bringup)
{
    return drive_draw(&bringup->random);
}

/* ---- on a worker thread ---- */

static void post_waited(struct cleat_bringup *bringup, uint32_t handle,
                        const struct waited *waited)
{
    struct cleat_message message = {.kind = BRINGUP_WAITED, .index = handle};

    _Static_assert(sizeof *waited <= CLEAT_MESSAGE_BYTES,
                   "the result of a wait fits a message");
    memcpy(message.body, waited, sizeof *waited);
    /* A full box loses it; the wait then counts as silent and is made again.
     */
    (void)bringup->ports.mailbox.post(bringup->ports.mailbox.context, &message);
}

/* Waits for one handle, and once more for each wait that was asked for in the
 * meantime: a handle has one thread at a time. A result is told with the lock
 * held, so that who hears the last one finds nobody busy. */
static void wait_job(void *job, uint64_t index)
{
    struct cleat_bringup *bringup = job;
    const struct cleat_threads *threads = &bringup->ports.threads;
    struct handle *handle = &bringup->handles[index];
    struct waited waited;
    uint32_t done = 0;

    threads->lock(threads->context);
    while (bringup->running && handle->wait != done) {
        uint64_t value = handle->value;
        uint64_t deadline_ns = handle->deadline_ns;

        done = handle->wait;
        threads->unlock(threads->context);
        waited.wait = done;
        waited.hint_ns = CLEAT_NONE;
        waited.status = (int32_t)bringup->waiter.wait(
            bringup->waiter.context, value, deadline_ns, &waited.hint_ns);
        threads->lock(threads->context);
        post_waited(bringup, (uint32_t)index, &waited);
    }
    handle->busy = false;
    threads->unlock(threads->context);
}

/* ---- on the thread that runs the service, with the lock held ---- */

static void tell(struct cleat_bringup *bringup, enum cleat_event_kind kind,
                 uint64_t now_ns, uint32_t handle, uint32_t wait,
                 enum cleat_status status)
{
    struct cleat_event event = {.kind = kind,
                                .step = CLEAT_SYNC_START,
                                .member = handle,
                                .attempt = wait,
                                .status = status,
                                .now_ns = now_ns};

    drive_tell(&bringup->ports, &event);
}

static void begin_wait(struct cleat_bringup *bringup, uint64_t now_ns,
                       const struct cleat_gather_command *command)
{
    const struct cleat_threads *threads = &bringup->ports.threads;
    struct handle *handle = &bringup->handles[command->handle];

    handle->deadline_ns = command->deadline_ns;
    handle->wait = command->wait;
    tell(bringup, CLEAT_EVENT_WAIT, now_ns, command->handle, command->wait,
         CLEAT_PENDING);
    if (handle->busy) { return; }
    handle->busy = true;
    if (threads->submit(threads->context, wait_job, bringup, command->handle) !=
        CLEAT_OK) {
        handle->busy = false;
        (void)cleat_gather_result(bringup->machine, now_ns, command->handle,
                                  command->wait, CLEAT_NO_SLOT, CLEAT_NONE,
                                  draw(bringup));
    }
}

static bool bringup_dispatch(void *self, uint64_t now_ns)
{
    struct cleat_bringup *bringup = self;
    struct cleat_gather_command command;

    (void)cleat_gather_tick(bringup->machine, now_ns, draw(bringup));
    /* A wait that finds no room may be due again at once, by a policy without
     * backoff; and room comes only when the lock is given. */
    bringup->more = true;
    for (uint32_t i = 0; bringup->more && i <= bringup->config.handles_count;
         i++) {
        bringup->more = cleat_gather_next(bringup->machine, &command);
        if (bringup->more) { begin_wait(bringup, now_ns, &command); }
    }
    return cleat_gather_status(bringup->machine, NULL) == CLEAT_PENDING;
}

static uint64_t bringup_deadline(void *self)
{
    const struct cleat_bringup *bringup = self;

    return bringup->more ? 0 : cleat_gather_deadline(bringup->machine);
}

static void bringup_feed(void *self, uint64_t now_ns,
                         const struct cleat_message *message)
{
    struct cleat_bringup *bringup = self;
    struct waited waited;

    if (message->kind != BRINGUP_WAITED) { return; }
    memcpy(&waited, message->body, sizeof waited);
    tell(bringup, CLEAT_EVENT_WAITED, now_ns, message->index, waited.wait,
         (enum cleat_status)waited.status);
    (void)cleat_gather_result(bringup->machine, now_ns, message->index,
                              waited.wait, (enum cleat_status)waited.status,
                              waited.hint_ns, draw(bringup));
}

/* ---- the calls ---- */

static enum cleat_status begin_run(struct cleat_bringup *bringup,
                                   const uint64_t *handles)
{
    uint32_t count = bringup->config.handles_count;
    enum cleat_status status;

    if (bringup->running) { return CLEAT_STATE; }
    for (uint32_t i = 0; i < count; i++) {
        if (bringup->handles[i].busy) { return CLEAT_STATE; }
    }
    for (uint32_t i = 0; i < count; i++) {
        bringup->handles[i] = (struct handle){.value = handles[i]};
    }
    status = cleat_gather_begin(
        bringup->machine_block, CLEAT_GATHER_BYTES(count), &bringup->config,
        drive_now_ns(&bringup->ports), &bringup->machine, NULL);
    bringup->running = status == CLEAT_OK;
    return status;
}

/* What waits of earlier runs have said is not of this one, and would take the
 * room of what is: those have all ended, and none of its own are made yet. */
static void empty_mailbox(struct cleat_bringup *bringup)
{
    const struct cleat_mailbox *mailbox = &bringup->ports.mailbox;
    struct cleat_message message;

    while (mailbox->wait(mailbox->context, 0, &message) == CLEAT_OK) {}
}

static enum cleat_status end_run(struct cleat_bringup *bringup,
                                 struct cleat_error *error)
{
    uint32_t handle = CLEAT_GATHER_NOBODY;
    enum cleat_status status = cleat_gather_status(bringup->machine, &handle);
    struct cleat_gather_report report = {0};
    char line[CLEAT_ERROR_TEXT_MAX];

    bringup->running = false;
    if (status == CLEAT_OK) { return CLEAT_OK; }
    if (handle == CLEAT_GATHER_NOBODY) {
        return cleat_error_set(error, status, handle, 0,
                               "bring-up: the caller cancelled");
    }
    cleat_gather_look(bringup->machine, handle, &report);
    (void)snprintf(line, sizeof line,
                   "bring-up: handle %" PRIu32 " is not ready after %" PRIu32
                   " waits: %s (%s)",
                   handle, report.waits, cleat_status_name(status),
                   cleat_status_name(report.last));
    return cleat_error_set(error, status, handle, 0, line);
}

enum cleat_status cleat_bringup_run(struct cleat_bringup *bringup,
                                    const uint64_t *handles,
                                    struct cleat_error *error)
{
    const struct cleat_threads *threads = &bringup->ports.threads;
    struct cleat_drive_machine machine = {bringup, bringup_dispatch,
                                          bringup_deadline, bringup_feed};
    enum cleat_status status;

    threads->lock(threads->context);
    status = begin_run(bringup, handles);
    threads->unlock(threads->context);
    if (status != CLEAT_OK) {
        return cleat_error_set(error, status, 0, 0,
                               "bring-up: one is under way, or a wait of the "
                               "last one has not ended yet");
    }
    empty_mailbox(bringup);
    cleat_drive(&bringup->ports, &machine);
    threads->lock(threads->context);
    status = end_run(bringup, error);
    threads->unlock(threads->context);
    return status;
}

enum cleat_status cleat_bringup_stop(struct cleat_bringup *bringup)
{
    const struct cleat_threads *threads = &bringup->ports.threads;
    enum cleat_status status = CLEAT_STATE;

    threads->lock(threads->context);
    if (bringup->running) {
        status = cleat_gather_cancel(bringup->machine,
                                     drive_now_ns(&bringup->ports));
    }
    threads->unlock(threads->context);
    if (status == CLEAT_OK) { drive_wake(&bringup->ports); }
    return status;
}
