/* Cleat: when a Mooncake Store is ready. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

#define KEY_BYTES 96u
#define PAYLOAD_BYTES 32u

static enum cleat_status not_ready(struct cleat_error *error,
                                   enum cleat_status status, int32_t code,
                                   const char *what)
{
    (void)cleat_error_set(error, status, 0, 0, "");
    if (error != NULL) {
        error->port_code = code;
        (void)snprintf(error->text, sizeof error->text,
                       "mooncake: %s: %" PRId32 ", %s", what, code,
                       cleat_mooncake_code_name(code));
    }
    return status;
}

/* ---- the set-up ---------------------------------------------------------- */

/* A library that registered the memory in a set-up before this one has not
 * forgotten it. */
static enum cleat_status set_up(self_t *self, struct cleat_error *error)
{
    const struct library *library = &self->library;
    sigset_t before;
    int code = MOONCAKE_OK;

    if (!self->client_set_up) {
        cleat_mooncake_hold_signals(&before);
        code = library->setup(self->store, self->local_hostname,
                              self->metadata_server, self->segment_bytes,
                              self->local_buffer_bytes, self->protocol,
                              self->device, self->master);
        cleat_mooncake_release_signals(&before);
        if (code != MOONCAKE_OK) {
            return not_ready(
                error, cleat_mooncake_meaning(self, CLEAT_MOONCAKE_SETUP, code),
                code, "the client cannot be set up");
        }
        self->client_set_up = true;
    }
    code = library->register_buffer(self->store, self->stage.start,
                                    self->stage.bytes);
    if (code != MOONCAKE_OK) {
        return not_ready(
            error, cleat_mooncake_meaning(self, CLEAT_MOONCAKE_SETUP, code),
            code, "the staging memory cannot be registered");
    }
    self->stage_registered = true;
    (void)atomic_fetch_or(&self->gate, GATE_SET_UP);
    return CLEAT_OK;
}

/* ---- a key of nobody else's ---------------------------------------------- */

struct canary {
    struct cleat_store_item item;
    char key[KEY_BYTES];
    unsigned char payload[PAYLOAD_BYTES];
    unsigned char found[PAYLOAD_BYTES];
};

static void make_canary(self_t *self, struct canary *canary)
{
    uint32_t number = atomic_fetch_add(&self->canaries, 1);

    memset(canary, 0, sizeof *canary);
    canary->item.key = canary->key;
    canary->item.key_bytes = (uint32_t)snprintf(
        canary->key, sizeof canary->key,
        "cleat/ready/%016" PRIx64 "%016" PRIx64 "/%" PRIu32, self->unique[0],
        self->unique[1], number);
    canary->item.bytes = PAYLOAD_BYTES;
    for (uint32_t i = 0; i < PAYLOAD_BYTES; i++) {
        canary->payload[i] = (unsigned char)(self->unique[i / 8 % 2] >>
                                             i % 8 * 8);
        canary->payload[i] ^= (unsigned char)(number + i);
    }
}

/* What is asked of it, in turn. */
static const struct step {
    uint32_t operation;
    const char *failed;
} steps[] = {
    {CLEAT_TRANSFER_DO_PUT, "a key of its own cannot be put"},
    {CLEAT_TRANSFER_DO_EXISTS, "a key of its own is not there"},
    {CLEAT_TRANSFER_DO_SIZE, "a key of its own cannot be sized"},
    {CLEAT_TRANSFER_DO_GET, "a key of its own cannot be got"},
    {CLEAT_TRANSFER_DO_REMOVE, "a key of its own cannot be removed"},
};

/* Another look may see it: what was put is no proof of what was seen. */
static enum cleat_status status_of(const struct canary *canary,
                                   enum cleat_status status, uint32_t operation)
{
    const struct cleat_store_item *item = &canary->item;

    if (status == CLEAT_NOT_FOUND) { return CLEAT_UNREADABLE; }
    if (status != CLEAT_OK) { return status; }
    if (operation == CLEAT_TRANSFER_DO_SIZE && item->actual != PAYLOAD_BYTES) {
        return CLEAT_SHORT;
    }
    if (operation == CLEAT_TRANSFER_DO_GET &&
        memcmp(canary->found, canary->payload, PAYLOAD_BYTES) != 0) {
        return CLEAT_CORRUPT;
    }
    return CLEAT_OK;
}

/* Whether a try that has failed there may leave its key. */
static bool may_be_there(uint32_t operation, enum cleat_status status)
{
    if (operation == CLEAT_TRANSFER_DO_PUT) {
        return cleat_status_class(status) == CLEAT_CLASS_AMBIGUOUS;
    }
    return operation != CLEAT_TRANSFER_DO_REMOVE;
}

static enum cleat_status try_canary(self_t *self, uint64_t deadline_ns,
                                    struct cleat_error *error)
{
    struct canary canary;

    make_canary(self, &canary);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        bool gets = steps[i].operation == CLEAT_TRANSFER_DO_GET;
        enum cleat_status status;
        int32_t code;

        canary.item.payload = gets ? canary.found : canary.payload;
        memset(&canary.item.frame, 0, sizeof canary.item.frame);
        status = status_of(&canary,
                           cleat_mooncake_one(self, steps[i].operation,
                                              &canary.item, deadline_ns),
                           steps[i].operation);
        if (status == CLEAT_OK) { continue; }
        code = canary.item.code;
        if (may_be_there(steps[i].operation, status)) {
            (void)cleat_mooncake_one(self, CLEAT_TRANSFER_DO_REMOVE,
                                     &canary.item, deadline_ns);
        }
        return not_ready(error, status, code, steps[i].failed);
    }
    return CLEAT_OK;
}

/* ---- one try ------------------------------------------------------------- */

/* One at a time. False: somebody else's lasts until the deadline. */
static bool begin(self_t *self, uint64_t deadline_ns)
{
    bool in_time = true;

    (void)pthread_mutex_lock(&self->ready_lock);
    while (self->trying && in_time) {
        in_time = cleat_mooncake_wait(&self->ready_changed, &self->ready_lock,
                                      deadline_ns);
    }
    in_time = !self->trying && (deadline_ns == CLEAT_NEVER ||
                                cleat_mooncake_now_ns() < deadline_ns);
    if (in_time) { self->trying = true; }
    (void)pthread_mutex_unlock(&self->ready_lock);
    return in_time;
}

static void end(self_t *self)
{
    (void)pthread_mutex_lock(&self->ready_lock);
    self->trying = false;
    (void)pthread_cond_broadcast(&self->ready_changed);
    (void)pthread_mutex_unlock(&self->ready_lock);
}

enum cleat_status cleat_mooncake_ready(struct cleat_store_context *self,
                                       uint64_t deadline_ns,
                                       struct cleat_error *error)
{
    enum cleat_status status = CLEAT_OK;

    if (!cleat_mooncake_enter(self, 0)) {
        return cleat_error_set(error, CLEAT_STATE, 0, 0,
                               "mooncake: the store is closed, or of another "
                               "process");
    }
    if (begin(self, deadline_ns)) {
        if ((atomic_load(&self->gate) & GATE_SET_UP) == 0) {
            status = set_up(self, error);
        }
        if (status == CLEAT_OK) {
            status = try_canary(self, deadline_ns, error);
        }
        end(self);
    } else {
        status = cleat_error_set(error, CLEAT_DEADLINE, 1, 0,
                                 "mooncake: the deadline came before the store "
                                 "could be tried");
    }
    cleat_mooncake_leave(self);
    return status;
}
