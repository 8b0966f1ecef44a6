/* Cleat: how a device's NCCL group is begun and left. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The machine of one device. It owns stopping, and nothing else: which epoch
 * there is and who belongs to it is the caller's (cleat/sync.h), which bytes
 * go where is the transport's.
 *
 *                build                  ready
 *   quiesced ───────────▶ building ─────────────▶ healthy
 *      ▲                     │ error, deadline       │ stop, error
 *      │                     │              ┌────────┤
 *      │                     ▼              │        ▼
 *      │                  aborting ◀────────┼──── revoking   (where NCCL can,
 *      │                     │              │                 and it said no
 *      │  idle               ▼ returned     │                 error; ≤ T1)
 *      └───────────────── draining          │
 *                            │              ▼
 *   any: a call that does not return, an abort later than T2, streams not idle
 *   after T3, a sticky error ───────────▶ lost, for ever
 *
 * The driver takes commands from `next`, makes the calls that they stand for,
 * and tells what came of them with `told`. At most one call is *inside* NCCL
 * for a device at any time, except that an id may be made while the reaper
 * aborts: the machine hands out nothing while it waits for `told`, and an
 * ordinary call asks for leave (`enter`). A call that is inside has a
 * deadline of its own. Nothing can be done about one that misses it, for
 * NCCL allows no second thread in a communicator: the device is lost.
 *
 * Whoever watches from another thread (under the owner's lock) calls `tick`:
 * so the device is called lost at the deadline even if the owner is stuck.
 *
 * Once lost there is no command and no leave any more: a call into a library
 * whose context is broken hangs, or does worse.
 *
 * Two leaks of NCCL are counted here: an id made starts a thread and a
 * listening socket that stay when not all ranks check in, so ids and builds
 * are at most builds_max an end; a call that failed may leave its thread's
 * group depth raised, so after every error UNWIND is commanded before anything
 * else.
 *
 * As the machines of core/: no I/O, no clock, no allocation; times are absolute
 * nanoseconds; every call first applies the deadlines that are ≤ its now_ns;
 * the block holds no pointer and may be copied.
 *
 * Invariants: never-hangs-past-its-bound · all-survivors-leave-the-old-group ·
 * no-call-after-lost · one-epoch-at-a-time · nothing-freed-on-a-fault-path ·
 * leaks-are-bounded.
 */
#ifndef CLEAT_PORT_NCCL_STOP_H
#define CLEAT_PORT_NCCL_STOP_H

#include "cleat/status.h"

#define CLEAT_NCCL_CALL_NS_DEFAULT (5 * CLEAT_NS_PER_S)
#define CLEAT_NCCL_REVOKE_NS_DEFAULT (2 * CLEAT_NS_PER_S)
#define CLEAT_NCCL_ABORT_NS_DEFAULT (10 * CLEAT_NS_PER_S)
#define CLEAT_NCCL_DRAIN_NS_DEFAULT (2 * CLEAT_NS_PER_S)
#define CLEAT_NCCL_BUILDS_DEFAULT 64u

/* A thread's group depth deeper than this is no leak that can be explained. */
#define CLEAT_NCCL_UNWIND_MAX 8u

/* Zero means the default. */
struct cleat_nccl_stop_config {
    uint64_t call_ns;    /* a call that must not block. Default 5 s */
    uint64_t revoke_ns;  /* T1. Default 2 s; CLEAT_NONE: never revoke */
    uint64_t abort_ns;   /* T2. Default 10 s */
    uint64_t drain_ns;   /* T3. Default 2 s */
    uint32_t builds_max; /* K, the first included. Default 64 */
    uint32_t can_revoke; /* 1: the library has ncclCommRevoke */
};

enum cleat_nccl_stop_state {
    CLEAT_NCCL_QUIESCED, /* no communicator on the device, nothing inside */
    CLEAT_NCCL_BUILDING, /* being formed, until its deadline */
    CLEAT_NCCL_HEALTHY,  /* work may be given */
    CLEAT_NCCL_REVOKING, /* no new work; told to stop, and polled */
    CLEAT_NCCL_ABORTING, /* to be aborted by the reaper, or being so */
    CLEAT_NCCL_DRAINING, /* aborted; the streams run dry */
    CLEAT_NCCL_LOST      /* terminal */
};

enum cleat_nccl_call {
    CLEAT_NCCL_NOTHING,
    CLEAT_NCCL_INIT,   /* make the communicators of the group */
    CLEAT_NCCL_POLL,   /* ask for their asynchronous state; PENDING: again */
    CLEAT_NCCL_REVOKE, /* revoke them */
    CLEAT_NCCL_ABORT,  /* the reaper: abort all of the device's communicators
                          in one group, then unwind its own thread; those that
                          do not exist are none */
    CLEAT_NCCL_DRAIN,  /* ask every stream of ours whether it is idle, without
                          waiting; PENDING: again */
    CLEAT_NCCL_UNWIND, /* end groups until there is none: tell how many, at
                          most CLEAT_NCCL_UNWIND_MAX */
    /* asked for with `enter`, never commanded: */
    CLEAT_NCCL_WORK, /* any call on the group; only while healthy */
    CLEAT_NCCL_ID    /* make a unique id */
};

struct cleat_nccl_stop_command {
    enum cleat_nccl_call call;
    uint64_t epoch;
    uint64_t deadline_ns; /* by when `told` must have come */
};

/* The block. Not for reading but by tests. */
struct cleat_nccl_stop {
    struct cleat_nccl_stop_config config;
    uint64_t now_ns;
    uint64_t deadline_ns; /* of the state; CLEAT_NEVER: none */
    uint64_t inside_ns;   /* of the owner's call that is inside */
    uint64_t epoch;       /* of the group, or of the last one */
    uint8_t state;        /* enum cleat_nccl_stop_state */
    uint8_t inside;       /* enum cleat_nccl_call: the owner's */
    bool reaping;         /* the reaper's abort is inside */
    bool begun;           /* the state's first command was taken */
    bool unwind;          /* is owed */
    int8_t why;           /* what began the last stop, or lost the device */
    uint32_t builds;
    uint32_t ids;
    uint32_t stops;        /* groups left, whatever for */
    uint32_t depth_leaked; /* group levels found open after an error */
    uint32_t late;         /* results that came too late to matter */
};

/* Fills the block: quiesced. CLEAT_INVALID when can_revoke is not 0 or 1. */
enum cleat_status
cleat_nccl_stop_init(struct cleat_nccl_stop *stop,
                     const struct cleat_nccl_stop_config *config);

/* From now on a call that goes in may take call_ns, which is not 0: for a
 * driver whose first calls take longer than those after them. */
void cleat_nccl_stop_pace(struct cleat_nccl_stop *stop, uint64_t call_ns);

/* Whoever would have looked has not run for gap_ns: a process that was stopped
 * is no witness that a call does not come back, or a stream does not run dry.
 * So as much later is it called late. To be told before anything else that
 * comes after such a gap; the forming of a group, whose deadline is the
 * caller's, is not put off. */
void cleat_nccl_stop_forgive(struct cleat_nccl_stop *stop, uint64_t gap_ns);

/* The longest from a stop to quiesced or lost, when tick comes at each
 * deadline: T1 + T2 + T3, saturating. */
uint64_t cleat_nccl_stop_bound_ns(const struct cleat_nccl_stop_config *config);

/* In every call below: CLEAT_TIME_BACKWARDS, with no effect, for a now_ns
 * before one given earlier; CLEAT_DEVICE_LOST once lost. */

/* A group is to be formed for an epoch.
 *   epoch        higher than any before
 *   deadline_ns  absolute; a group that is not ready then is stopped
 * Returns CLEAT_OK: INIT follows; CLEAT_STATE when the old group has not been
 * left; CLEAT_PEER_STALE for an old epoch; CLEAT_DEADLINE when that has passed;
 * CLEAT_LIMIT: builds_max groups were built, the process must be restarted. */
enum cleat_status cleat_nccl_stop_build(struct cleat_nccl_stop *stop,
                                        uint64_t now_ns, uint64_t epoch,
                                        uint64_t deadline_ns);

/* The group is to be left: a fault, a peer's end, or the caller's wish.
 *   why  for the account; the first of a stop is kept
 * Returns CLEAT_OK, also when it is being left or there is none. */
enum cleat_status cleat_nccl_stop_ask(struct cleat_nccl_stop *stop,
                                      uint64_t now_ns, enum cleat_status why);

/* A sticky error was seen, by whatever call. Returns CLEAT_OK. */
enum cleat_status cleat_nccl_stop_lose(struct cleat_nccl_stop *stop,
                                       uint64_t now_ns, enum cleat_status why);

/* Leave to make a call of the owner's: CLEAT_NCCL_WORK or CLEAT_NCCL_ID.
 * Returns CLEAT_OK: the call is inside until `told`; CLEAT_STATE: not now;
 * CLEAT_LIMIT: builds_max ids were made; CLEAT_INVALID for another call. */
enum cleat_status cleat_nccl_stop_enter(struct cleat_nccl_stop *stop,
                                        uint64_t now_ns,
                                        enum cleat_nccl_call call);

/* Takes the next command. Returns CLEAT_OK with *command filled: it is inside
 * until `told`; CLEAT_NOT_FOUND when there is none now. */
enum cleat_status cleat_nccl_stop_next(struct cleat_nccl_stop *stop,
                                       uint64_t now_ns,
                                       struct cleat_nccl_stop_command *command);

/* A call has returned.
 *   call    what was taken or entered
 *   status  CLEAT_OK; CLEAT_PENDING where the call says so; an error;
 *           CLEAT_DEVICE_LOST for a sticky one
 *   depth   UNWIND, and ABORT for the reaper's thread: group levels that were
 *           found open; else 0
 * Returns CLEAT_OK, also when it comes too late to matter (counted);
 * CLEAT_INVALID for a status that is no result. */
enum cleat_status cleat_nccl_stop_told(struct cleat_nccl_stop *stop,
                                       uint64_t now_ns,
                                       enum cleat_nccl_call call,
                                       enum cleat_status status,
                                       uint32_t depth);

/* Time has passed. */
enum cleat_status cleat_nccl_stop_tick(struct cleat_nccl_stop *stop,
                                       uint64_t now_ns);

/* When tick must be called at the latest; CLEAT_NEVER: nothing is due. */
uint64_t cleat_nccl_stop_deadline(const struct cleat_nccl_stop *stop);

/* "quiesced", "lost" … Static storage; "unknown" outside the enum. */
const char *cleat_nccl_stop_state_name(enum cleat_nccl_stop_state state);

#endif
