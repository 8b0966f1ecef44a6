/* Cleat: what the buckets of `cleat sync` travel by.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     --transport shm          shared memory
 *     --transport nccl         from GPU to GPU (tools/carrier_gpu.h), in the
 *                              pattern of --topology, each process on the
 *                              device that --device names; engines have their
 *                              weights there (tools/weights_gpu.h)
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
#include "weights_gpu.h"

#define CARRIER_JOB_DEFAULT "cleat-sync"
#define CARRIER_DEVICES_MAX 65u /* a trainer's, and 64 engines' */

struct carrier {
    /* As given: rows of an option table. */
    const char *transport; /* NULL: shm */
    const char *job_name;  /* without a store NULL */
    const char *map;       /* of a trainer or an engine: the job's own memory */

    const char *topology;        /* NULL: broadcast */
    struct option_texts devices; /* the coordinator's: of all, the trainer
                                    first; else this process's own */
    const char *digest;          /* NULL: on */
    const char *host; /* of a trainer or an engine: what to set NCCL_HOSTID to;
                         NULL: nothing */

    bool is_nccl;
    bool fans_out;     /* --topology fan-out */
    bool skips_digest; /* --digest off */
    bool attaches;     /* the coordinator's: engines come by themselves, and
                          may have their memory already */
    bool hosts;        /* the coordinator's: each is given a `host` */
    uint32_t devices_found; /* the coordinator's */
    uint32_t devices_given[CARRIER_DEVICES_MAX];
    const char *devices_texts[CARRIER_DEVICES_MAX];

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
    struct weights_gpu *weights; /* of an end with is_nccl: an engine's; a
                                    trainer's that skips digests. Else NULL */
};

/* Rows of an option table; `map` for those who are started. */
#define CARRIER_OPTIONS(carrier)                                               \
    {.name = "transport", .kind = OPTION_TEXT, .to = &(carrier)->transport},   \
        {.name = "topology", .kind = OPTION_TEXT, .to = &(carrier)->topology}, \
        {.name = "digest", .kind = OPTION_TEXT, .to = &(carrier)->digest},     \
        {.name = "device", .kind = OPTION_TEXTS, .to = &(carrier)->devices},   \
    {                                                                          \
        .name = "job", .kind = OPTION_TEXT, .to = &(carrier)->job_name         \
    }
#define CARRIER_MAP_OPTION(carrier)                                     \
    {.name = "nccl-host", .kind = OPTION_TEXT, .to = &(carrier)->host}, \
    {                                                                   \
        .name = "store-map", .kind = OPTION_TEXT, .to = &(carrier)->map \
    }

void carrier_defaults(struct carrier *carrier);

/* Reads the options, and says how large the job's buckets are unless that was
 * told. Returns 0, or 2 after one line on stderr. */
int carrier_parse(struct carrier *carrier, struct job *job,
                  const char *command);

/* Which device a member is to use: what was given, again from the start where
 * members are more; the member's number, likewise, where nothing was. */
uint32_t carrier_device(const struct carrier *carrier, uint32_t member);

/* The coordinator's: opens the store, and makes one of the job's own first; or
 * looks for the GPUs, which is for before anything else is made: a driver that
 * does not come back in patience_ns ends the process. Returns 0; 2 or 9 after
 * one line on stderr, as store_open has it. */
int carrier_make(struct carrier *carrier, const struct job *job, uint32_t slots,
                 uint32_t receivers, uint64_t patience_ns, const char *command);

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

/* Closes; cleans up as a sender. Idempotent. With a device that is lost it does
 * not return: the process leaves at once, with `result`. */
void carrier_close(struct carrier *carrier, int result);

/* That end of carrier_close: the device is lost. Any thread; does not return.
 */
_Noreturn void carrier_leave(int result);

#endif
