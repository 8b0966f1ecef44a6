/* Cleat port contract: the mailbox. SPDX-License-Identifier: Apache-2.0
 *
 * One bounded queue of small messages, from any thread to the one thread that
 * drives a service. It is the only place where a service waits.
 *
 * `context` is completed by the port.
 */
#ifndef CLEAT_MAILBOX_H
#define CLEAT_MAILBOX_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_MESSAGE_BYTES 72u

struct cleat_message {
    uint32_t kind;  /* says what `body` holds; given by the service's header */
    uint32_t index; /* which member, handle or call */
    uint64_t body[CLEAT_MESSAGE_BYTES / 8];
};

struct cleat_mailbox_context;

struct cleat_mailbox {
    struct cleat_mailbox_context *context;

    /* Puts a copy of *message at the end. Any thread MAY call it, but no
     * signal handler. It MUST NOT block for longer than the copy takes.
     * Returns CLEAT_OK; CLEAT_NO_SLOT when the box is full, and then nothing
     * was put. */
    enum cleat_status (*post)(struct cleat_mailbox_context *context,
                              const struct cleat_message *message);

    /* Takes the first message, waiting for one until deadline_ns (absolute;
     * CLEAT_NEVER: for ever; a time that has passed: not at all). Messages
     * MUST come in the order in which each thread posted them. One thread at
     * a time MAY call it.
     * Returns CLEAT_OK with *message filled; CLEAT_DEADLINE. */
    enum cleat_status (*wait)(struct cleat_mailbox_context *context,
                              uint64_t deadline_ns,
                              struct cleat_message *message);
};

#ifdef __cplusplus
}
#endif
#endif
