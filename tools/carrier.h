/* Cleat: what the buckets of `cleat sync` travel by.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     --transport shm          shared memory
 *     --transport store:SPEC   a store, as tools/store_open.h has it; with the
 *                              SPEC `memory`, one of this job alone, that
 *                              processes find as they find the board
 *
 * The coordinator, the trainer and each engine have one. With shared memory it
 * holds nothing.
 */
#ifndef CLEAT_TOOLS_CARRIER_H
#define CLEAT_TOOLS_CARRIER_H

#include "cleat/local_store.h"
#include "cleat/store_transport.h"
#include "job.h"
#include "store_open.h"

#define CARRIER_JOB_DEFAULT "cleat-sync"

struct carrier {
    /* As given: rows of an option table. */
    const char *transport; /* NULL: shm */
    const char *job_name;
    const char *map; /* of a trainer or an engine: the job's own memory */

    bool is_store;
    bool own; /* store:memory */
    int fd;   /* of that, in the coordinator; else -1 */
    struct store_spec spec;
    struct store_opened opened;
    struct cleat_local_store *local;
    void *local_block;
    void *slots;
    size_t slots_bytes;
    bool lent;
    struct cleat_threads threads;
    struct cleat_mailbox mailboxes[3];
    struct cleat_transport_sender sender;
    struct cleat_transport_receiver receiver;
};

/* Rows of an option table; `map` for those who are started. */
#define CARRIER_OPTIONS(carrier)                                             \
    {.name = "transport", .kind = OPTION_TEXT, .to = &(carrier)->transport}, \
    {                                                                        \
        .name = "job", .kind = OPTION_TEXT, .to = &(carrier)->job_name       \
    }
#define CARRIER_MAP_OPTION(carrier)                                     \
    {                                                                   \
        .name = "store-map", .kind = OPTION_TEXT, .to = &(carrier)->map \
    }

void carrier_defaults(struct carrier *carrier);

/* Reads the options. Returns 0, or 2 after one line on stderr. */
int carrier_parse(struct carrier *carrier, const char *command);

/* The coordinator's: opens the store, and makes one of the job's own first.
 * Returns 0; 2 or 9 after one line on stderr, as store_open has it. */
int carrier_make(struct carrier *carrier, const struct job *job, uint32_t slots,
                 uint32_t receivers, const char *command);

/* Where the others find it; `path` has 64 bytes. False: there is none. */
bool carrier_path(const struct carrier *carrier, char *path);

/* The coordinator's, when everybody has ended: removes what is left. */
void carrier_sweep(struct carrier *carrier, const char *command);

/* How many objects a store in memory has; UINT32_MAX where that is not known.
 */
uint32_t carrier_objects(const struct carrier *carrier);

/* The trainer's and an engine's ends. Return 0, or 2 or 9 after one line. */
int carrier_open_sender(struct carrier *carrier, const struct job *job,
                        uint32_t slots, uint32_t receivers,
                        const char *command);
int carrier_open_receiver(struct carrier *carrier, const struct job *job,
                          const char *command);

/* At bring-up: is the store ready? CLEAT_TRANSIENT: not yet. */
enum cleat_status carrier_ready(struct carrier *carrier, uint64_t patience_ns);

/* NULL: shared memory. */
const struct cleat_transport_sender *
carrier_sender(const struct carrier *carrier);
const struct cleat_transport_receiver *
carrier_receiver(const struct carrier *carrier);

/* Closes; cleans up as a sender. Idempotent. */
void carrier_close(struct carrier *carrier);

#endif
