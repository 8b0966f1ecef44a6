/* Cleat: what the files of the transfer service share.
 * SPDX-License-Identifier: Apache-2.0
 *
 *   transfer.c        the block, its beginning; stop, count
 *   transfer_check.c  what a batch is made of; keys that are there twice
 *   transfer_range.c  the memory of its payloads: what overlaps, what is lent
 *   transfer_batch.c  a batch from its beginning to its end
 *   transfer_call.c   calls: how they are filled, made, and heard
 *   transfer_drain.c  ready; drain and close
 *   transfer_say.c    error texts
 *
 * A batch is a place in the block: a machine, what is known of its keys, and
 * its calls. The caller's thread alone touches it, without a lock, but for what
 * is marked below. A call is handed to a job with `submit` and comes back with
 * the lock: from the one to the other its items are the job's.
 *
 * Who is in a batch is counted by `holders`: its caller, and each call that has
 * a job. The last one out gives the place back; so it stays taken while a call
 * is under way, whose caller has long gone.
 *
 *   call   idle ─fill─▶ held ─submit─▶ queued ─job─▶ begun ─job─▶ idle
 *                        │               │                    (heard)
 *                        ▼ the batch ends ▼
 *                       idle          withdrawn ─job─▶ idle
 */
#ifndef CLEAT_PORT_SERVICE_TRANSFER_STATE_H
#define CLEAT_PORT_SERVICE_TRANSFER_STATE_H

#include <string.h>

#include "cleat/arena.h"
#include "cleat/transfer_service.h"
#include "drive.h"

#define TRANSFER_NOBODY CLEAT_TRANSFER_NOBODY

/* How soon a call that found no thread is tried again, if nobody says so
 * before. */
#define TRANSFER_AGAIN_NS CLEAT_NS_PER_MS

/* Beside enum cleat_transfer_operation: the store's `ready`. */
#define TRANSFER_DO_READY CLEAT_TRANSFER_OPERATIONS

/* One of the machine's keys. */
struct transfer_entry {
    uint64_t touched; /* get: as much of the payload may have been written */
    uint64_t actual;  /* what the store said last of its bytes */
    uint32_t value;   /* the first of the caller's that it stands for */
    uint32_t text;    /* its key, in the batch's `text` */
    uint32_t hash;
    uint16_t key_bytes;
    uint16_t attempts; /* when its call was withdrawn; 0: it was not */
    bool alone; /* another entry has the same key: not in one call with it */
};

/* Memory of payloads: [start, end). */
struct transfer_range {
    uint64_t start;
    uint64_t end;
    uint32_t value;
    uint32_t room;   /* it can be written before the payload */
    uint32_t device; /* of an accelerator */
    uint32_t lends;  /* it may go without a copy */
};
_Static_assert(2 * sizeof(struct transfer_range) <=
                   sizeof(struct cleat_transfer_key),
               "twice a batch's ranges fit its machine, which begins later");

/* Memory that the store was told of. */
struct transfer_piece {
    unsigned char *start;
    size_t bytes;
};

enum transfer_call_state {
    TRANSFER_IDLE,
    TRANSFER_HELD,     /* filled; no thread has taken it */
    TRANSFER_QUEUED,   /* a job will make it */
    TRANSFER_BEGUN,    /* the store has it */
    TRANSFER_WITHDRAWN /* its batch has ended: the job will not make it */
};

/* One call to the store. */
struct transfer_call {
    uint64_t deadline_ns;
    struct cleat_store_item *items;
    uint32_t *keys; /* which of the machine's, one an item */
    uint32_t operation;
    uint32_t together;           /* items, at first, that are one call */
    uint32_t count;              /* of all; those behind go one by one */
    int32_t status;              /* ready: what it said */
    enum transfer_call_state is; /* with the lock, once it was submitted */
};

struct transfer_batch {
    struct cleat_transfer_service *service;
    struct cleat_mailbox mailbox;
    struct cleat_transfer *machine;
    void *machine_block;
    struct transfer_entry *entries;
    uint32_t *key_of; /* one a value: the machine's key */
    uint64_t *table;  /* by key: hash above, 1 + entry below; 0: empty */
    char *text;
    struct transfer_piece *pieces;
    struct transfer_call *calls;

    struct cleat_transfer_value *values; /* the caller's, while it is here */
    uint32_t count;
    uint32_t entries_count; /* fewer, where a key is there several times */
    uint32_t text_bytes;
    uint32_t pieces_count;
    uint32_t kind;
    uint32_t tell;
    uint32_t held; /* the call that is held; NOBODY */
    uint64_t started_ns;
    uint64_t deadline_ns;
    uint64_t told_ns;  /* the latest time that the machine knows */
    uint64_t again_ns; /* when to submit again what is held */

    /* With the lock. */
    uint32_t holders;  /* 0: the place is free, if nobody waits at it */
    uint32_t returned; /* calls to be heard, a bit each */
    bool running;      /* its caller hears calls */
    bool outlived;     /* it has gone, and calls had not returned */
    bool waited_at;    /* somebody waits at the mailbox for something else */
    bool woken;        /* there is a message in the mailbox */
    bool stopped;
    bool starving;            /* it holds a call */
    struct cleat_error error; /* ready: a job's, like a call's items */
};

struct cleat_transfer_service {
    struct cleat_service_ports ports;
    struct cleat_store store;
    struct cleat_transfer_config config; /* of every batch; counts without a
                                            default left */
    struct cleat_retry_policy policies[2];
    struct transfer_batch *batches;
    uint32_t batches_max;
    uint32_t keys_max;
    uint32_t key_bytes_max;
    uint32_t names_max;
    uint32_t table_salt;
    unsigned char fill; /* what a failed get leaves */

    /* With the lock. */
    bool ready;
    struct cleat_retry_budget budget;
    uint64_t random;
    bool closing;
    uint32_t taken;    /* places: batches, and tries to be ready */
    uint32_t calls;    /* under way */
    uint32_t stuck;    /* of those, without a caller */
    uint32_t outlived; /* batches */
    uint32_t starving;
};

/* What a caller asks for, and where to tell it. */
struct transfer_asked {
    struct cleat_transfer_value *values;
    uint32_t count;
    uint32_t kind;
    const struct cleat_transfer_options *options; /* never NULL */
    struct cleat_transfer_summary *summary;
    struct cleat_error *error;
};

static inline void transfer_lock(const struct cleat_transfer_service *service)
{
    service->ports.threads.lock(service->ports.threads.context);
}

static inline void transfer_unlock(const struct cleat_transfer_service *service)
{
    service->ports.threads.unlock(service->ports.threads.context);
}

/* How a put is looked at. */
static inline uint32_t
transfer_verify(const struct cleat_transfer_service *service,
                const struct cleat_transfer_options *options)
{
    return options->verify > service->store.verify_min
               ? options->verify
               : service->store.verify_min;
}

static inline uint64_t
transfer_now_ns(const struct cleat_transfer_service *service)
{
    return drive_now_ns(&service->ports);
}

/* transfer_check.c: fills entries, key_of, table and text of a batch. */
enum cleat_status transfer_batch_check(struct transfer_batch *batch,
                                       const struct transfer_asked *asked);

/* transfer_range.c: refuses what overlaps; tells the store, or not again. */
enum cleat_status transfer_batch_lend(struct transfer_batch *batch,
                                      const struct transfer_asked *asked);
void transfer_batch_unlend(struct transfer_batch *batch);

/* transfer_batch.c. A place, whose caller is in it; NULL: there is none, or the
 * service is being closed. */
struct transfer_batch *
transfer_batch_take(struct cleat_transfer_service *service);
/* With the lock: makes who waits at its mailbox look again. */
void transfer_batch_wake(struct transfer_batch *batch);
/* Waits for that until deadline_ns, without the lock. What has come of it may
 * be NULL: calls to be heard, a bit each, and whether the batch was stopped.
 * False: the time has come first. */
bool transfer_batch_wait(struct transfer_batch *batch, uint64_t deadline_ns,
                         uint32_t *returned, bool *stopped);
/* The time, for the machine. Where that ends the batch, what no thread has
 * begun is taken back before. */
uint64_t transfer_batch_now_ns(struct transfer_batch *batch);
/* The caller hears nothing any more, and stays to look at what there is. With
 * the lock. */
void transfer_batch_desert(struct transfer_batch *batch);
/* The caller, or a call that was deserted, leaves. Without the lock. */
void transfer_batch_leave(struct transfer_batch *batch);

/* transfer_call.c. Fills a call with what the machine commands. */
void transfer_call_fill(struct transfer_batch *batch,
                        const struct cleat_transfer_command *command);
/* With the lock: hands it to a thread. False: there is none. */
bool transfer_call_submit(struct transfer_batch *batch, uint32_t call);
/* Tells the machine what came of calls, a bit each. */
void transfer_call_hear(struct transfer_batch *batch, uint32_t returned);
/* Takes back what no thread has begun: its keys have not been out. The machine
 * does not know such a thing, and is told that there was no place for them. */
void transfer_call_withdraw(struct transfer_batch *batch);

/* transfer_say.c */
enum cleat_status transfer_say(struct cleat_error *error,
                               enum cleat_status status, uint64_t index,
                               const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* About a value: its number and key come first. */
enum cleat_status transfer_say_value(const struct transfer_asked *asked,
                                     enum cleat_status status, uint32_t value,
                                     const char *what);
enum cleat_status
transfer_say_failed(const struct cleat_transfer_service *service,
                    const struct transfer_asked *asked, uint32_t failed,
                    uint32_t first);
enum cleat_status transfer_say_no_place(struct cleat_transfer_service *service,
                                        struct cleat_error *error);
const char *transfer_kind_name(uint32_t kind);

#endif
