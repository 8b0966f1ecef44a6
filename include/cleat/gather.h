/* Cleat: waits for what has been started. SPDX-License-Identifier: Apache-2.0
 *
 * N things (engines, actors, processes) have been started by the caller, who
 * holds a handle of each. The machine waits until all of them are ready. When a
 * wait fails for a passing reason it waits again, on the same handle; it has no
 * command that creates anything. When one fails for good, the whole gathering
 * ends at once, with that error and that handle.
 *
 *   a handle    due ──WAIT──▶ waiting ──CLEAT_OK──▶ ready
 *                ▲              │
 *                │              ├── transient, ambiguous, capacity, or
 *                │              │   silent until its deadline ──▶ backing off
 *                └──────────────│─── when the backoff is over ────────┘
 *                               └── permanent, cancelled, no attempt or no
 *                                   time left ──▶ the gathering ends
 *
 *   gathering   CLEAT_PENDING ──┬── every handle ready ──▶ CLEAT_OK
 *                               ├── a handle failed ─────▶ its error
 *                               ├── start_timeout_ns ────▶ CLEAT_DEADLINE
 *                               └── cancel ──────────────▶ CLEAT_CANCELLED
 *
 * Waiting has no effect on what is waited for, so that it may always be done
 * again; that is why an ambiguous failure, and silence, are waited out here.
 *
 * A wait is named by its number on its handle, 1, 2, 3 …, and a result says
 * which wait it is of. The result of a wait that has been given up is taken
 * when it says CLEAT_OK: that something is ready is true whichever wait found
 * it out. Any other late result changes nothing, a permanent one included,
 * since it may come from the giving up itself; if it is about the handle, the
 * next wait will meet it too.
 *
 * Every call that carries a time first applies the deadlines that are ≤ that
 * time. Times are absolute nanoseconds, and saturate.
 *
 * Invariants: same-handle-never-recreated · permanent-fails-fast ·
 * all-or-first-error · bounded-in-time.
 */
#ifndef CLEAT_GATHER_H
#define CLEAT_GATHER_H

#include "cleat/retry.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_GATHER_START_TIMEOUT_NS_DEFAULT (600 * CLEAT_NS_PER_S)

/* No handle. */
#define CLEAT_GATHER_NOBODY UINT32_MAX

struct cleat_gather_config {
    /* How each handle is waited for: attempts, their time-out, and the backoff
     * between them; copied. Its deadline_ns is not used, and CLEAT_RETRY_
     * IDEMPOTENT is taken as set. NULL: CLEAT_RETRY_BRING_UP. */
    const struct cleat_retry_policy *policy;
    uint64_t start_timeout_ns; /* for all, from begin. 0: 600 s. CLEAT_NONE:
                                  none; the attempts alone then end it */
    uint32_t handles_count;    /* ≥ 1 */
};

/* One handle. Not for reading. */
struct cleat_gather_handle {
    struct cleat_retry_slot slot;
    uint64_t moment_ns; /* the wait's deadline, or the backoff's end */
    uint32_t waits;     /* begun; the number of the present one */
    int16_t last;       /* the last failure; 0: none */
    uint16_t state;
};

/* The machine; its handles follow it in its block. Visible so that a block can
 * be sized; the members are not for reading. No pointers: a copy of the block
 * is a snapshot. */
struct cleat_gather {
    struct cleat_retry_policy policy;
    uint64_t deadline_ns;
    uint64_t now_ns;
    uint32_t handles_count;
    uint32_t ready_count;
    int32_t status;
    uint32_t failed; /* the handle that ended it, or CLEAT_GATHER_NOBODY */
};

/* Bytes of block for up to `handles` handles; a constant expression. */
#define CLEAT_GATHER_BYTES(handles) \
    (sizeof(struct cleat_gather) +  \
     (size_t)(handles) * sizeof(struct cleat_gather_handle))

/* Wait until `handle` is ready, fails, or `deadline_ns` has come; then say so
 * by cleat_gather_result. It is the only command there is. */
struct cleat_gather_command {
    uint64_t deadline_ns;
    uint32_t handle; /* 0 … handles_count - 1 */
    uint32_t wait;   /* its number on this handle, from 1; echoed */
};

/* What has become of a handle. */
struct cleat_gather_report {
    enum cleat_status status; /* CLEAT_OK: ready; CLEAT_PENDING: not yet; the
                                 error, at the handle that ended it */
    enum cleat_status last;   /* its last failure, CLEAT_OK: none */
    uint32_t waits;           /* begun */
};

/* CLEAT_GATHER_BYTES as a function; SIZE_MAX where it does not fit. */
size_t cleat_gather_bytes(uint32_t handles);

/* The longest from begin until it ends, when cleat_gather_tick comes at each
 * deadline: start_timeout_ns. */
uint64_t cleat_gather_bound_ns(const struct cleat_gather_config *config);

/* Begins in the caller's block, whatever was there before.
 *   block   aligned as a uint64_t; owned by the caller
 *   bytes   of the block; CLEAT_GATHER_BYTES(handles_count) or more
 *   config  copied
 *   out     the block as a machine
 * Returns CLEAT_OK; CLEAT_INVALID: no block or one not so aligned, no handles
 * or CLEAT_GATHER_NOBODY of them, or a policy that cleat_retry_policy_check
 * refuses, with the argument's position (block 0, config 2) in error->index;
 * CLEAT_TOO_SMALL with the bytes needed in error->offset. On error *out is NULL
 * and the block is untouched. */
enum cleat_status cleat_gather_begin(void *block, size_t bytes,
                                     const struct cleat_gather_config *config,
                                     uint64_t now_ns, struct cleat_gather **out,
                                     struct cleat_error *error);

/* Takes the next command, if there is one. Its deadline counts from the latest
 * time told, so take all there are after each call that tells one. */
bool cleat_gather_next(struct cleat_gather *gather,
                       struct cleat_gather_command *command);

/* When to call cleat_gather_tick if nothing else comes; CLEAT_NEVER after the
 * end. */
uint64_t cleat_gather_deadline(const struct cleat_gather *gather);

/* The calls below return CLEAT_TIME_BACKWARDS, with no effect, when now_ns is
 * less than one given before. `random` is uniform over 64 bits, and used where
 * a backoff begins. */

/* Applies the deadlines that are ≤ now_ns. Returns CLEAT_OK. */
enum cleat_status cleat_gather_tick(struct cleat_gather *gather,
                                    uint64_t now_ns, uint64_t random);

/* A wait has ended.
 *   wait     its number, as in the command
 *   status   CLEAT_OK: ready; else why the wait failed
 *   hint_ns  how long the other side asks to be left alone; CLEAT_NONE: it
 *            does not
 * Returns CLEAT_OK, also for a result that changes nothing: of a wait given up
 * or answered before, or after the end; CLEAT_INVALID, with no effect: no such
 * handle, a wait never begun, or a status that is no end. */
enum cleat_status cleat_gather_result(struct cleat_gather *gather,
                                      uint64_t now_ns, uint32_t handle,
                                      uint32_t wait, enum cleat_status status,
                                      uint64_t hint_ns, uint64_t random);

/* Ends it with CLEAT_CANCELLED. Returns CLEAT_OK; CLEAT_STATE when it has
 * ended, before the call or by a deadline that the call applied. */
enum cleat_status cleat_gather_cancel(struct cleat_gather *gather,
                                      uint64_t now_ns);

/* CLEAT_PENDING, CLEAT_OK, or why it ended: the first error. *handle, when
 * handle is not NULL, becomes whose error it is: CLEAT_GATHER_NOBODY unless a
 * handle failed; at CLEAT_DEADLINE the first handle that was not ready. */
enum cleat_status cleat_gather_status(const struct cleat_gather *gather,
                                      uint32_t *handle);

/* What has become of `handle` < handles_count. */
void cleat_gather_look(const struct cleat_gather *gather, uint32_t handle,
                       struct cleat_gather_report *report);

#ifdef __cplusplus
}
#endif
#endif
