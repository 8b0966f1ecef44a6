/* Cleat: machines joined to their ports. SPDX-License-Identifier: Apache-2.0
 *
 * A machine decides, a port acts; a service is the loop between them, and
 * gives a trainer the blocking call that it wants:
 *
 *     cleat_bringup_run   waits for engines that have been started
 *     cleat_sync_run      takes one version to every replica
 *
 * All services share cleat_drive. It holds the service's lock while it feeds
 * the machine and hands its commands to the ports, and lets go of it only
 * where it waits, which is in one place: the mailbox, until a message or the
 * machine's deadline. Nothing here allocates, prints or starts a thread.
 */
#ifndef CLEAT_SERVICE_H
#define CLEAT_SERVICE_H

#include "cleat/clock.h"
#include "cleat/gather.h"
#include "cleat/mailbox.h"
#include "cleat/status.h"
#include "cleat/sync.h"
#include "cleat/threads.h"
#include "cleat/worker.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ events
 *
 * What a service tells about its progress, in the order in which it happens:
 * for a log, a trace, a progress bar. */

enum cleat_event_kind {
    CLEAT_EVENT_STEP = 1, /* a step has begun; CLEAT_SYNC_STEPS: at rest */
    CLEAT_EVENT_COMMAND,  /* a command was handed to its port */
    CLEAT_EVENT_ANSWER,   /* an answer came; it may be late or a duplicate */
    CLEAT_EVENT_LOST,     /* a worker is gone */
    CLEAT_EVENT_HELLO,    /* a worker has attached */
    CLEAT_EVENT_WAIT,     /* bring-up waits for a handle (again) */
    CLEAT_EVENT_WAITED    /* such a wait has ended */
};

struct cleat_event {
    enum cleat_event_kind kind;
    enum cleat_sync_step step;
    uint32_t member; /* or handle; CLEAT_SYNC_NOBODY: all */
    uint32_t attempt;
    enum cleat_status status; /* of an answer, or of handing a command over */
    uint32_t reserved;
    uint64_t now_ns;
    uint64_t term;
    uint64_t epoch;
    const struct cleat_worker_answer *answer; /* CLEAT_EVENT_ANSWER; else NULL.
                                                 Valid during the call */
};

/* Called on the thread that runs the service, with its lock held: it MUST NOT
 * call the service, and SHOULD return soon. */
typedef void cleat_event_fn(void *context, const struct cleat_event *event);

struct cleat_events {
    void *context;
    cleat_event_fn *tell; /* NULL: nobody listens */
};

/* What a service needs of the world. The structs are copied; what they point
 * to must outlive the service. */
struct cleat_service_ports {
    struct cleat_clock clock;
    struct cleat_threads threads;
    struct cleat_mailbox mailbox; /* this service's own, drained by it alone */
    struct cleat_events events;
};

/* ------------------------------------------------------------------- drive */

/* A machine, as the loop sees it. Each is called with the lock held. */
struct cleat_drive_machine {
    void *self;
    /* Applies the time, and hands every command that waits to its port.
     * Returns false once the machine is at rest: the loop ends. */
    bool (*dispatch)(void *self, uint64_t now_ns);
    /* When dispatch must be called again at the latest. */
    uint64_t (*deadline)(void *self);
    /* Gives it one message. Kinds that it does not know, it ignores. */
    void (*feed)(void *self, uint64_t now_ns,
                 const struct cleat_message *message);
};

/* Runs a machine to rest. Blocks the caller; takes the lock, and gives it
 * whenever it waits. Returns when dispatch says so. */
void cleat_drive(const struct cleat_service_ports *ports,
                 const struct cleat_drive_machine *machine);

/* -------------------------------------------------------------------- sync */

struct cleat_sync_service;

/* What came of one update. More is told by the machine itself:
 * cleat_sync_service_machine. */
struct cleat_sync_report {
    enum cleat_sync_outcome outcome;
    uint32_t attempts;
    uint64_t version;
    uint64_t term;
    uint64_t epoch;
    uint64_t started_ns;
    uint64_t ended_ns;
    uint32_t serving;              /* replicas, of the version that is served */
    uint32_t errors_count;         /* also those that an attempt outlived */
    struct cleat_sync_error first; /* the reason, where errors_count > 0 */
};

/* Bytes of block that a service for this configuration needs, its machine
 * included; 0 when a count is out of range. */
size_t cleat_sync_service_bytes(const struct cleat_sync_config *config);

/* Makes the service, and its machine, in the caller's block.
 *   block    8-byte aligned; owned by the caller, must outlive *out
 *   workers  copied; gets the commands. Its messages come to ports->mailbox
 * Returns what cleat_sync_init does; CLEAT_INVALID when a function that is
 * needed is NULL. */
enum cleat_status cleat_sync_service_init(
    void *block, size_t bytes, const struct cleat_sync_config *config,
    const struct cleat_service_ports *ports,
    const struct cleat_worker_port *workers, struct cleat_sync_service **out,
    struct cleat_error *error);

/* Takes one version to every replica, and blocks until the update is at rest:
 * cleat_sync_bound_ns after its beginning at the latest, as far as the
 * scheduler lets it run. One thread at a time.
 *   request  copied
 *   report   filled in every case but CLEAT_INVALID and CLEAT_STATE
 * Returns CLEAT_OK when the outcome is COMMITTED or DEGRADED: the new version
 * is served. Else the first error's status when it is ROLLED_BACK, and
 * CLEAT_RESTART when it is RESTART, with a line in *error that says which step
 * of which member failed and why. CLEAT_STATE: an update is under way, or one
 * before ended with RESTART. CLEAT_INVALID: the two versions are the same. */
enum cleat_status cleat_sync_run(struct cleat_sync_service *service,
                                 const struct cleat_sync_request *request,
                                 struct cleat_sync_report *report,
                                 struct cleat_error *error);

/* Asks the update under way to go back; it ends soon after. Any thread, at any
 * time, but no signal handler. Returns CLEAT_OK: the new version will not be
 * served; CLEAT_STATE when there is none, or when it has been decided already:
 * nothing has changed. */
enum cleat_status cleat_sync_stop(struct cleat_sync_service *service);

/* The machine, for its accounts; read it only while no update is under way. */
const struct cleat_sync *
cleat_sync_service_machine(const struct cleat_sync_service *service);

/* ---------------------------------------------------------------- bring-up */

struct cleat_bringup;
struct cleat_waiter_context;

/* How to wait for something that has been started. */
struct cleat_waiter {
    struct cleat_waiter_context *context;

    /* Waits until `handle` is ready. Called on a worker thread, at any time by
     * several for different handles, and again for the same one after a wait
     * that has failed. MAY block until deadline_ns and MUST return soon after
     * it. MUST NOT start, create or register anything.
     *   hint_ns  *hint_ns: how long the other side asks to be left alone;
     *            CLEAT_NONE on entry: it does not
     * Returns CLEAT_OK: ready; any error: its class decides whether the wait
     * is made again. */
    enum cleat_status (*wait)(struct cleat_waiter_context *context,
                              uint64_t handle, uint64_t deadline_ns,
                              uint64_t *hint_ns);
};

/* Bytes of block for a bring-up of this configuration; 0 without a handle. */
size_t cleat_bringup_bytes(const struct cleat_gather_config *config);

/* Makes a bring-up in the caller's block.
 *   block   8-byte aligned; owned by the caller, must outlive *out and every
 *           wait that is still under way when cleat_bringup_run returns
 *   config  copied, its policy too
 *   ports   waits are made on ports->threads: as many at once as there are
 *           threads, the others in turn; ports->mailbox needs room for
 *           2 messages a handle
 *   seed    of the jitter; any value
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset. */
enum cleat_status cleat_bringup_init(void *block, size_t bytes,
                                     const struct cleat_gather_config *config,
                                     const struct cleat_service_ports *ports,
                                     const struct cleat_waiter *waiter,
                                     uint64_t seed, struct cleat_bringup **out,
                                     struct cleat_error *error);

/* Waits until every handle is ready, and blocks until then, until the first
 * permanent error, or until the configuration's time is up. Nothing is started
 * or created, and so nothing twice.
 *   handles  as many as the configuration says; copied
 * Returns CLEAT_OK; CLEAT_STATE while one is under way, or a wait of the last
 * one still is; else the error of the handle in error->index. */
enum cleat_status cleat_bringup_run(struct cleat_bringup *bringup,
                                    const uint64_t *handles,
                                    struct cleat_error *error);

/* Ends the bring-up under way with CLEAT_CANCELLED. Any thread. Returns
 * CLEAT_OK; CLEAT_STATE when there is none, or it has come to its end. */
enum cleat_status cleat_bringup_stop(struct cleat_bringup *bringup);

#ifdef __cplusplus
}
#endif
#endif
