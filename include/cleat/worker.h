/* Cleat port contract: how a coordinator reaches its workers.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The sync service hands each command of the machine to this port, and gets
 * what comes of it as messages in its mailbox: answers, losses, the certainty
 * that a process cannot serve. Nothing is returned by the call itself but
 * whether the command could be handed over.
 *
 * `context` is completed by the port.
 */
#ifndef CLEAT_WORKER_H
#define CLEAT_WORKER_H

#include "cleat/mailbox.h"
#include "cleat/status.h"
#include "cleat/sync.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Kinds of message that the port posts; `index` is the member. */
enum cleat_worker_message {
    CLEAT_WORKER_ANSWER = 1, /* body: struct cleat_worker_answer */
    CLEAT_WORKER_LOST,       /* body: empty. Its channel or process has ended */
    CLEAT_WORKER_HELLO,      /* body: struct cleat_worker_hello */
    CLEAT_WORKER_WAKE        /* body: empty. Somebody cancels; look */
};

/* What a worker says when it attaches. */
struct cleat_worker_hello {
    uint64_t term_seen; /* the highest term that it has obeyed, 0: none */
    uint64_t version;   /* held, when holding is CLEAT_SYNC_WHOLE */
    uint32_t holding;   /* enum cleat_sync_holding */
    uint32_t pid;
    uint32_t layout; /* cleat_tensors_layout of what it sends or receives into;
                        0: not told */
    uint32_t reserved;
};

/* What a worker says to a command, and what it has served so far. */
struct cleat_worker_answer {
    struct cleat_sync_answer sync;
    uint32_t served;      /* requests served under `sync.version`, saturating */
    uint32_t torn_served; /* of all: not wholly of the version claimed */
    uint64_t lease_end_ns; /* after this it does not serve; 0: no lease */
};

struct cleat_worker_context;

struct cleat_worker_port {
    struct cleat_worker_context *context;

    /* Hands over a command. MUST NOT block, MUST NOT call back, and MUST be
     * safe from the one thread that drives the service while the port's own
     * threads run. The answer, if any, comes as a message that echoes step,
     * term and epoch. For CLEAT_SYNC_EXPEL no message goes to the worker: the
     * port makes certain that it cannot serve any more (a child is killed and
     * reaped; of another the lease is not renewed and has run out) and then
     * posts a CLEAT_WORKER_ANSWER itself, with CLEAT_OK; where it never can be
     * certain it posts CLEAT_PEER_UNFENCED. From CLEAT_SYNC_FENCE on it MUST
     * NOT renew the lease until that worker answers a later commit.
     * Returns CLEAT_OK; CLEAT_PEER_LOST when the worker is known to be gone
     * (the service then reports it lost); CLEAT_NO_SLOT when the channel is
     * full: nothing was sent, and it counts as a command lost on the way. */
    enum cleat_status (*send)(struct cleat_worker_context *context,
                              const struct cleat_sync_command *command);
};

#ifdef __cplusplus
}
#endif
#endif
