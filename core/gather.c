/* Cleat: waits for what has been started. SPDX-License-Identifier:
 * Apache-2.0 */
#include "cleat/gather.h"

#include <string.h>

#include "assert.h"
#include "text.h"

enum {
    HANDLE_DUE,     /* its WAIT is to be handed out */
    HANDLE_WAITING, /* until moment_ns */
    HANDLE_BACKOFF, /* until moment_ns */
    HANDLE_READY,
    HANDLE_FAILED
};

static struct cleat_gather_handle *at(const struct cleat_gather *gather,
                                      uint32_t handle)
{
    CLEAT_ASSERT(gather != NULL);
    CLEAT_ASSERT(handle < gather->handles_count);
    return (struct cleat_gather_handle *)(uintptr_t)(gather + 1) + handle;
}

size_t cleat_gather_bytes(uint32_t handles)
{
    size_t each = sizeof(struct cleat_gather_handle);

    CLEAT_ASSERT(each % sizeof(uint64_t) == 0);
    CLEAT_ASSERT(sizeof(struct cleat_gather) % sizeof(uint64_t) == 0);
    if (handles > (SIZE_MAX - sizeof(struct cleat_gather)) / each) {
        return SIZE_MAX;
    }
    return CLEAT_GATHER_BYTES(handles);
}

uint64_t cleat_gather_bound_ns(const struct cleat_gather_config *config)
{
    CLEAT_ASSERT(config != NULL);
    CLEAT_ASSERT(CLEAT_NONE == CLEAT_NEVER);
    return config->start_timeout_ns != 0
               ? config->start_timeout_ns
               : CLEAT_GATHER_START_TIMEOUT_NS_DEFAULT;
}

static bool is_sound(const struct cleat_gather_config *config)
{
    CLEAT_ASSERT(config != NULL);
    CLEAT_ASSERT(CLEAT_GATHER_NOBODY > 0);
    return config->handles_count != 0 &&
           config->handles_count != CLEAT_GATHER_NOBODY &&
           (config->policy == NULL ||
            cleat_retry_policy_check(config->policy) == CLEAT_OK);
}

enum cleat_status cleat_gather_begin(void *block, size_t bytes,
                                     const struct cleat_gather_config *config,
                                     uint64_t now_ns, struct cleat_gather **out,
                                     struct cleat_error *error)
{
    static const struct cleat_retry_policy bring_up = CLEAT_RETRY_BRING_UP;
    struct cleat_gather *gather = block;
    size_t needed = cleat_gather_bytes(config->handles_count);

    CLEAT_ASSERT(out != NULL);
    CLEAT_ASSERT(needed >= sizeof *gather);
    *out = NULL;
    if (block == NULL || (uintptr_t)block % sizeof(uint64_t) != 0 ||
        !is_sound(config)) {
        return CLEAT_REFUSE(
            error, CLEAT_INVALID, is_sound(config) ? 0 : 2, 0,
            "gather: a block aligned to 8 bytes, 1 handle or more "
            "and a sound policy are needed");
    }
    if (bytes < needed) {
        return CLEAT_REFUSE(error, CLEAT_TOO_SMALL, 1, needed,
                            "gather: the block is too small");
    }
    memset(gather, 0, needed);
    gather->policy = config->policy != NULL ? *config->policy : bring_up;
    gather->policy.flags |= CLEAT_RETRY_IDEMPOTENT;
    gather->policy.deadline_ns = cleat_gather_bound_ns(config);
    gather->deadline_ns = cleat_time_add(now_ns, gather->policy.deadline_ns);
    gather->now_ns = now_ns;
    gather->handles_count = config->handles_count;
    gather->status = CLEAT_PENDING;
    gather->failed = CLEAT_GATHER_NOBODY;
    for (uint32_t i = 0; i < gather->handles_count; i++) {
        cleat_retry_begin(&at(gather, i)->slot, &gather->policy, now_ns);
    }
    *out = gather;
    return CLEAT_OK;
}

bool cleat_gather_next(struct cleat_gather *gather,
                       struct cleat_gather_command *command)
{
    CLEAT_ASSERT(gather != NULL && command != NULL);
    CLEAT_ASSERT(gather->ready_count <= gather->handles_count);
    if (gather->status != CLEAT_PENDING) { return false; }
    for (uint32_t i = 0; i < gather->handles_count; i++) {
        struct cleat_gather_handle *handle = at(gather, i);
        if (handle->state != HANDLE_DUE) { continue; }
        handle->state = HANDLE_WAITING;
        handle->waits++;
        handle->moment_ns = cleat_retry_attempt_deadline(
            &handle->slot, &gather->policy, gather->now_ns);
        command->deadline_ns = handle->moment_ns;
        command->handle = i;
        command->wait = handle->waits;
        return true;
    }
    return false;
}

/* Whether something happens to the handle at its moment. */
static bool has_moment(const struct cleat_gather_handle *handle)
{
    CLEAT_ASSERT(handle != NULL);
    CLEAT_ASSERT(handle->state <= HANDLE_FAILED);
    return handle->state == HANDLE_WAITING || handle->state == HANDLE_BACKOFF;
}

uint64_t cleat_gather_deadline(const struct cleat_gather *gather)
{
    uint64_t deadline = gather->deadline_ns;

    CLEAT_ASSERT(gather->ready_count <= gather->handles_count);
    if (gather->status != CLEAT_PENDING) { return CLEAT_NEVER; }
    for (uint32_t i = 0; i < gather->handles_count; i++) {
        const struct cleat_gather_handle *handle = at(gather, i);
        if (has_moment(handle) && handle->moment_ns < deadline) {
            deadline = handle->moment_ns;
        }
    }
    CLEAT_ASSERT(deadline <= gather->deadline_ns);
    return deadline;
}

/* A handle has failed for good: so has the gathering. */
static void end(struct cleat_gather *gather, enum cleat_status status,
                uint32_t handle)
{
    CLEAT_ASSERT(gather->status == CLEAT_PENDING);
    CLEAT_ASSERT(status < CLEAT_OK);
    gather->status = status;
    gather->failed = handle;
    at(gather, handle)->state = HANDLE_FAILED;
}

/* The present wait of a handle has failed: again later, or the end. */
static void wait_failed(struct cleat_gather *gather, uint32_t i,
                        enum cleat_status status, uint64_t hint_ns,
                        uint64_t random)
{
    struct cleat_gather_handle *handle = at(gather, i);
    enum cleat_status verdict;

    CLEAT_ASSERT(handle->state == HANDLE_WAITING);
    handle->last = (int16_t)status;
    verdict = cleat_retry_failed(&handle->slot, &gather->policy, NULL, status,
                                 hint_ns, random, gather->now_ns,
                                 &handle->moment_ns);
    CLEAT_ASSERT((verdict == CLEAT_OK) == (handle->slot.attempts > 0));
    if (verdict == CLEAT_OK) {
        handle->state = handle->moment_ns > gather->now_ns ? HANDLE_BACKOFF
                                                           : HANDLE_DUE;
    } else {
        end(gather, verdict, i);
    }
}

/* The moment of a handle has come. */
static void moment_came(struct cleat_gather *gather, uint32_t i,
                        uint64_t random)
{
    struct cleat_gather_handle *handle = at(gather, i);

    CLEAT_ASSERT(handle->moment_ns <= gather->now_ns);
    CLEAT_ASSERT(has_moment(handle));
    if (handle->state == HANDLE_BACKOFF) {
        handle->state = HANDLE_DUE;
        return;
    }
    /* One number serves all handles: turned on by the golden ratio, so that
     * those which time out together do not come back together. */
    random += (uint64_t)(i * UINT32_C(2654435769)) << 32;
    wait_failed(gather, i, CLEAT_PEER_SILENT, CLEAT_NONE, random);
}

/* Applies the deadlines that are ≤ now_ns. */
static void apply(struct cleat_gather *gather, uint64_t now_ns, uint64_t random)
{
    bool late = gather->deadline_ns <= now_ns;

    CLEAT_ASSERT(now_ns >= gather->now_ns);
    CLEAT_ASSERT(gather->ready_count <= gather->handles_count);
    gather->now_ns = now_ns;
    for (uint32_t i = 0;
         i < gather->handles_count && gather->status == CLEAT_PENDING; i++) {
        struct cleat_gather_handle *handle = at(gather, i);
        if (late && handle->state != HANDLE_READY) {
            end(gather, CLEAT_DEADLINE, i);
        } else if (has_moment(handle) && handle->moment_ns <= now_ns) {
            moment_came(gather, i, random);
        }
    }
}

enum cleat_status cleat_gather_tick(struct cleat_gather *gather,
                                    uint64_t now_ns, uint64_t random)
{
    CLEAT_ASSERT(gather != NULL);
    CLEAT_ASSERT(gather->status <= CLEAT_PENDING);
    if (now_ns < gather->now_ns) { return CLEAT_TIME_BACKWARDS; }
    apply(gather, now_ns, random);
    return CLEAT_OK;
}

/* A handle is ready, and perhaps the last that was not. */
static void became_ready(struct cleat_gather *gather,
                         struct cleat_gather_handle *handle)
{
    CLEAT_ASSERT(handle->state != HANDLE_FAILED);
    if (handle->state == HANDLE_READY) { return; }
    handle->state = HANDLE_READY;
    gather->ready_count++;
    CLEAT_ASSERT(gather->ready_count <= gather->handles_count);
    if (gather->ready_count == gather->handles_count) {
        gather->status = CLEAT_OK;
    }
}

enum cleat_status cleat_gather_result(struct cleat_gather *gather,
                                      uint64_t now_ns, uint32_t handle,
                                      uint32_t wait, enum cleat_status status,
                                      uint64_t hint_ns, uint64_t random)
{
    struct cleat_gather_handle *of;

    CLEAT_ASSERT(gather != NULL);
    CLEAT_ASSERT(gather->status <= CLEAT_PENDING);
    if (handle >= gather->handles_count) { return CLEAT_INVALID; }
    of = at(gather, handle);
    if (wait == 0 || wait > of->waits || status > CLEAT_OK) {
        return CLEAT_INVALID;
    }
    if (now_ns < gather->now_ns) { return CLEAT_TIME_BACKWARDS; }
    apply(gather, now_ns, random);
    if (gather->status != CLEAT_PENDING) { return CLEAT_OK; }
    if (status == CLEAT_OK) {
        became_ready(gather, of);
    } else if (of->state == HANDLE_WAITING && wait == of->waits) {
        wait_failed(gather, handle, status, hint_ns, random);
    }
    return CLEAT_OK;
}

enum cleat_status cleat_gather_cancel(struct cleat_gather *gather,
                                      uint64_t now_ns)
{
    CLEAT_ASSERT(gather != NULL);
    CLEAT_ASSERT(gather->status <= CLEAT_PENDING);
    if (now_ns < gather->now_ns) { return CLEAT_TIME_BACKWARDS; }
    apply(gather, now_ns, 0);
    if (gather->status != CLEAT_PENDING) { return CLEAT_STATE; }
    gather->status = CLEAT_CANCELLED;
    return CLEAT_OK;
}

enum cleat_status cleat_gather_status(const struct cleat_gather *gather,
                                      uint32_t *handle)
{
    CLEAT_ASSERT(gather != NULL);
    CLEAT_ASSERT(gather->failed == CLEAT_GATHER_NOBODY ||
                 gather->failed < gather->handles_count);
    if (handle != NULL) { *handle = gather->failed; }
    return (enum cleat_status)gather->status;
}

void cleat_gather_look(const struct cleat_gather *gather, uint32_t handle,
                       struct cleat_gather_report *report)
{
    const struct cleat_gather_handle *of = at(gather, handle);

    CLEAT_ASSERT(report != NULL);
    CLEAT_ASSERT(of->state <= HANDLE_FAILED);
    report->status = CLEAT_PENDING;
    if (of->state == HANDLE_READY) { report->status = CLEAT_OK; }
    if (of->state == HANDLE_FAILED) {
        report->status = (enum cleat_status)gather->status;
    }
    report->last = (enum cleat_status)of->last;
    report->waits = of->waits;
}
