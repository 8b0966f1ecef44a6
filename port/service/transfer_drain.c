/* Cleat: until the store is ready, and until it has let go.
 * SPDX-License-Identifier: Apache-2.0 */
#include "transfer_state.h"

/* ---- ready --------------------------------------------------------------- */

/* Tries, one after the other. */
struct tries {
    struct transfer_batch *batch;
    struct cleat_retry_policy policy;
    struct cleat_retry_slot slot;
    uint64_t deadline_ns;
    uint32_t count;       /* that have come to their end */
    enum cleat_status is; /* how the last one ended */
    bool stopped;
};

static void begin_tries(struct tries *tries, struct transfer_batch *batch,
                        uint64_t deadline_ns)
{
    static const struct cleat_retry_policy standard = CLEAT_RETRY_BRING_UP;
    uint64_t now_ns = transfer_now_ns(batch->service);

    memset(tries, 0, sizeof *tries);
    tries->batch = batch;
    tries->policy = standard;
    tries->policy.deadline_ns = CLEAT_NONE;
    tries->deadline_ns = deadline_ns;
    cleat_retry_begin(&tries->slot, &tries->policy, now_ns);
    tries->slot.deadline_ns = deadline_ns;
    batch->calls[0].is = TRANSFER_IDLE;
}

/* Whether there is time left, and nobody has said stop. */
static bool has_time(const struct tries *tries)
{
    return !tries->stopped &&
           transfer_now_ns(tries->batch->service) < tries->deadline_ns;
}

/* Waits until then, or until a call has returned: whether one has. */
static bool await(struct tries *tries, uint64_t until_ns)
{
    uint32_t returned = 0;

    if (until_ns > tries->deadline_ns) { until_ns = tries->deadline_ns; }
    do {
        (void)transfer_batch_wait(tries->batch, until_ns, &returned,
                                  &tries->stopped);
    } while (returned == 0 && has_time(tries) &&
             transfer_now_ns(tries->batch->service) < until_ns);
    return returned != 0;
}

/* One try, on a thread. False: it has not come to its end. */
static bool try_once(struct tries *tries)
{
    struct transfer_batch *batch = tries->batch;
    struct cleat_transfer_service *service = batch->service;
    struct transfer_call *call = &batch->calls[0];
    bool taken = false;
    uint64_t now_ns;

    while (!taken && has_time(tries)) {
        now_ns = transfer_now_ns(service);
        call->operation = TRANSFER_DO_READY;
        call->deadline_ns = cleat_retry_attempt_deadline(
            &tries->slot, &tries->policy, now_ns);
        memset(&batch->error, 0, sizeof batch->error);
        transfer_lock(service);
        taken = transfer_call_submit(batch, 0);
        transfer_unlock(service);
        if (!taken) { (void)await(tries, now_ns + TRANSFER_AGAIN_NS); }
    }
    if (!taken || !await(tries, CLEAT_NEVER)) { return false; }
    tries->is = (enum cleat_status)call->status;
    tries->count++;
    return true;
}

/* Whether to try again: then the time to do so has come. */
static bool again(struct tries *tries)
{
    struct cleat_transfer_service *service = tries->batch->service;
    uint64_t until_ns = 0;
    uint64_t random;

    if (tries->is == CLEAT_OK) { return false; }
    transfer_lock(service);
    random = drive_draw(&service->random);
    transfer_unlock(service);
    if (cleat_retry_failed(&tries->slot, &tries->policy, NULL, tries->is,
                           CLEAT_NONE, random, transfer_now_ns(service),
                           &until_ns) != CLEAT_OK) {
        return false;
    }
    (void)await(tries, until_ns);
    return has_time(tries);
}

static enum cleat_status say_not_ready(const struct tries *tries, bool ended,
                                       struct cleat_error *error)
{
    const struct cleat_error *why = &tries->batch->error;

    if (tries->stopped) {
        return transfer_say(error, CLEAT_CANCELLED, 0,
                            "transfer: the wait for the store was stopped");
    }
    if (!ended) {
        return transfer_say(
            error, CLEAT_DEADLINE, tries->count,
            "transfer: the deadline came before the store had "
            "said whether it is ready; %u tries have failed%s"
            "%s",
            (unsigned)tries->count, tries->count > 0 ? ", the last with " : "",
            tries->count > 0 ? cleat_status_name(tries->is) : "");
    }
    (void)transfer_say(error, tries->is, tries->count,
                       "transfer: the store is not ready after %u tries: %s"
                       "%s%s",
                       (unsigned)tries->count, cleat_status_name(tries->is),
                       why->text[0] != '\0' ? ": " : "", why->text);
    if (error != NULL) { error->port_code = why->port_code; }
    return tries->is;
}

enum cleat_status
cleat_transfer_service_ready(struct cleat_transfer_service *service,
                             uint64_t deadline_ns, struct cleat_error *error)
{
    struct transfer_batch *batch = transfer_batch_take(service);
    enum cleat_status status = CLEAT_OK;
    struct tries tries;
    bool ended;

    if (batch == NULL) { return transfer_say_no_place(service, error); }
    begin_tries(&tries, batch, deadline_ns);
    do {
        ended = try_once(&tries);
    } while (ended && again(&tries));
    if (!ended || tries.is != CLEAT_OK) {
        status = say_not_ready(&tries, ended, error);
    }
    transfer_lock(service);
    if (status == CLEAT_OK) { service->ready = true; }
    if (batch->starving) {
        batch->starving = false;
        service->starving--;
    }
    if (batch->calls[0].is == TRANSFER_QUEUED) {
        batch->calls[0].is = TRANSFER_WITHDRAWN;
    }
    transfer_batch_desert(batch);
    transfer_unlock(service);
    transfer_batch_leave(batch);
    return status;
}

/* ---- drain --------------------------------------------------------------- */

/* With the lock: a mailbox at which nobody waits. Free places first: they have
 * no other use for it. */
static struct transfer_batch *
find_mailbox(struct cleat_transfer_service *service)
{
    struct transfer_batch *found = NULL;

    for (uint32_t i = 0; i < service->batches_max; i++) {
        struct transfer_batch *batch = &service->batches[i];

        if (batch->waited_at || batch->running) { continue; }
        if (found == NULL || !batch->outlived) { found = batch; }
    }
    return found;
}

enum cleat_status cleat_transfer_drain(struct cleat_transfer_service *service,
                                       uint64_t deadline_ns,
                                       struct cleat_error *error)
{
    struct transfer_batch *batch = NULL;
    bool came = true;
    uint32_t outlived;
    uint32_t stuck;

    transfer_lock(service);
    outlived = service->outlived;
    if (outlived > 0) { batch = find_mailbox(service); }
    if (batch != NULL) { batch->waited_at = true; }
    while (batch != NULL && outlived > 0 && came) {
        transfer_unlock(service);
        came = transfer_batch_wait(batch, deadline_ns, NULL, NULL);
        transfer_lock(service);
        outlived = service->outlived;
    }
    if (batch != NULL) { batch->waited_at = false; }
    stuck = service->stuck;
    transfer_unlock(service);
    if (outlived == 0) { return CLEAT_OK; }
    return transfer_say(error, batch == NULL ? CLEAT_NO_SLOT : CLEAT_DEADLINE,
                        stuck, "transfer: %u calls have not returned",
                        (unsigned)stuck);
}

/* ---- close --------------------------------------------------------------- */

enum cleat_status
cleat_transfer_service_close(struct cleat_transfer_service *service,
                             uint64_t deadline_ns, struct cleat_error *error)
{
    const struct cleat_mailbox *mailbox = &service->ports.mailbox;
    struct cleat_message message;
    bool came = true;
    uint32_t taken;
    uint32_t calls;

    if (mailbox->post == NULL || mailbox->wait == NULL) {
        return transfer_say(error, CLEAT_INVALID, 0,
                            "transfer: a service without a mailbox of its own "
                            "cannot be closed");
    }
    transfer_lock(service);
    service->closing = true;
    transfer_unlock(service);
    cleat_transfer_stop(service);
    do {
        transfer_lock(service);
        taken = service->taken;
        calls = service->calls;
        transfer_unlock(service);
        if (taken == 0) { return CLEAT_OK; }
        came = mailbox->wait(mailbox->context, deadline_ns, &message) ==
               CLEAT_OK;
    } while (came);
    return transfer_say(error, CLEAT_DEADLINE, calls,
                        "transfer: %u calls, of %u batches, have not returned",
                        (unsigned)calls, (unsigned)taken);
}
