/* Cleat: Mooncake Store as a store. SPDX-License-Identifier: Apache-2.0
 *
 * The port behind cleat/store.h that speaks to a Mooncake Store cluster through
 * its C library, `libmooncake_store.so` (built with WITH_STORE_C_SHARED=ON),
 * which is looked up when a store is opened; nothing of it is needed to build
 * or to run what does not open one. Linux.
 *
 *     cleat_mooncake_open ──▶ ready ──▶ call, lend … ──▶ cleat_mooncake_close
 *
 * `ready` is one try: sets the client up where that has not worked yet, then
 * puts, looks for, sizes, gets, compares and removes a key of nobody else's.
 * Before the set-up has worked, nothing but the set-up is called (some
 * functions of the library end the process otherwise): `call` and `lend` say
 * CLEAT_STATE; so they do after the close, as long as the block is there, and
 * in a child after a fork. A cluster without memory is not ready:
 * CLEAT_CAPACITY. The set-up cannot be bounded: without a master it takes up to
 * 90 s. A try that fails removes its key; where the deadline comes before that,
 * the remove fails or the process is killed, the key, of 160 bytes, is left in
 * the cluster.
 *
 * What an operation is, and says:
 *
 *   PUT      batch_put_from. CLEAT_OK: the library says that it is stored, or
 *            that the key *is there already*; which of them, it does not say.
 *            The old bytes are then kept; and what is there may be another's
 *            put in progress, that EXISTS does not show, and that nobody will
 *            ever be able to read. So a put is to be looked after: verify_min
 *            of this store is CLEAT_TRANSFER_VERIFY_SIZE, unless its puts are
 *            upserts.
 *            CLEAT_UNREADABLE: another put of it is in progress.
 *            CLEAT_CAPACITY: no memory for it. CLEAT_INVALID: the frame
 *            contradicts itself
 *   GET      batch_get_into, of exactly the size. CLEAT_OK. CLEAT_NOT_FOUND.
 *            CLEAT_UNREADABLE: it is being put. CLEAT_SHORT: it is of another
 *            size, shorter or longer; `actual` says which; but
 *            CLEAT_PERMANENT with Mooncake's -600 for one that is longer, where
 *            the deadline has come, or a size asked for in this call could not
 *            be told. CLEAT_CORRUPT, CLEAT_INVALID (of another dtype, shape or
 *            tag than demanded), CLEAT_UNSUPPORTED: as the store in memory has
 *            them; but of a value that is longer, the frame is not looked at.
 *            CLEAT_MALFORMED: it is no frame. Mooncake does not tell whether it
 *            was put as one: it is CLEAT_CORRUPT, a damaged frame, where at
 *            least four of the first eight bytes are those of one
 *   COMPARE  the same, into the staging memory. CLEAT_CORRUPT: anything but
 *            this payload in a sound frame of this dtype, shape and tag (a
 *            dtype of CLEAT_DTYPE_NONE and a tag of 0 demand nothing)
 *   SIZE     get_size, less the frame, which is not looked at; CLEAT_MALFORMED:
 *            shorter than a frame. CLEAT_UNREADABLE: it is being put
 *   EXISTS   batch_is_exist. CLEAT_OK does not mean that it can be read: it is
 *            said for seconds of what was on a machine that is gone.
 *            CLEAT_NOT_FOUND is also said of what is being put
 *   REMOVE   remove, with force: leases are not heeded. CLEAT_UNREADABLE: it is
 *            being put, and stays
 *
 * and any of them: what its code is classified as (cleat_mooncake_classify),
 * with the code in item->code, or one of enum cleat_mooncake_code;
 * CLEAT_INVALID: a key of no or too many bytes, a payload that is missing;
 * CLEAT_UNSUPPORTED: device memory, where it cannot be used; a raw value of no
 * bytes, which Mooncake cannot hold (a framed one it can). A key given twice
 * among keys_max items of a call: a put of the second is CLEAT_EXISTS, and not
 * sent; others are sent in separate calls. A library call that says -1 tells
 * nothing of any key, and a result that it leaves unwritten nothing of one:
 * ambiguous for a put and a remove, else transient.
 *
 * Where a value lies. Framed, header and payload are one object. An item with
 * CLEAT_STORE_ROOM that is *lent*, with its room, goes out and comes in without
 * a copy. So does a raw item that is lent. Everything else goes through the
 * staging memory, which is registered once: a copy, fused with the digest.
 * Calls at once share it; one that needs more than is free is made in pieces,
 * or waits for its turn, first come, first served, until its deadline (its
 * items then say CLEAT_TRANSIENT with CLEAT_MOONCAKE_LATE: they were not sent).
 * What lies in lent memory is sent before a call waits. COMPARE always needs
 * the staging memory. A value that is larger than all of it, with its frame:
 * CLEAT_LIMIT with CLEAT_MOONCAKE_STAGING.
 * A part of it has another use as soon as the library's call has returned. It
 * is not known whether the library may still write into a buffer, or read it,
 * after a call that has failed half way (-1, -800, -901; its threads go on): if
 * it does, another call's value in that part is damaged. A framed value that is
 * got is then CLEAT_CORRUPT, and one that is put is so for whoever gets it or
 * compares it (CLEAT_TRANSFER_VERIFY_FULL); a raw one is not seen to be. The
 * same holds for lent memory after its call.
 *
 * lend registers memory with the library, and counts: what is lent twice, or
 * lies inside what is lent, is registered once. A piece that overlaps another
 * and does not lie inside it is taken note of and not registered (Mooncake
 * refuses it): its values are staged, and so are those of the other's that lie
 * in both. A piece that comes when registrations_max are registered is not
 * registered either, and its values are staged; CLEAT_NO_SLOT where it is
 * larger than the staging memory. With keep_registered pieces stay
 * registered when nobody lends them any more, until their place is needed:
 * only for memory that is never given back to the system while the store is
 * open.
 *
 * Device memory. A Mooncake without support for it takes a device pointer for a
 * host's, and there is no way to ask. So it is refused unless device_memory
 * says that it works; then for raw items that are lent: nobody here can write a
 * frame into it, digest it or zero it after a get that has failed.
 *
 * Threads and memory. Any number of threads. This port makes no threads and
 * allocates nothing; the library does both, at the open, in the set-up and in
 * its calls. Its threads made in the open and in `ready` block all signals.
 * setenv, at the open, allocates too. The library is never unloaded: its
 * threads outlive a store.
 *
 * What this trusts: the library. A digest is no signature.
 */
#ifndef CLEAT_MOONCAKE_H
#define CLEAT_MOONCAKE_H

#include "cleat/store.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_MOONCAKE_STAGING_BYTES_DEFAULT (UINT64_C(64) << 20)
#define CLEAT_MOONCAKE_STAGING_BYTES_MIN 4096u
#define CLEAT_MOONCAKE_LOCAL_BUFFER_BYTES_DEFAULT (UINT64_C(64) << 20)
#define CLEAT_MOONCAKE_CALLS_DEFAULT 8u
#define CLEAT_MOONCAKE_CALLS_MAX 1024u
#define CLEAT_MOONCAKE_KEYS_DEFAULT 400u
#define CLEAT_MOONCAKE_KEYS_MAX 65536u
#define CLEAT_MOONCAKE_REGISTRATIONS_DEFAULT 4096u
#define CLEAT_MOONCAKE_REGISTRATIONS_MAX (1u << 20)
#define CLEAT_MOONCAKE_RPC_TIMEOUT_MS_DEFAULT 10000u
#define CLEAT_MOONCAKE_RPC_CONNECT_TIMEOUT_MS_DEFAULT 5000u

/* The environment variable is left alone. */
#define CLEAT_MOONCAKE_UNTOUCHED UINT32_MAX

/* An item's `code` that is not Mooncake's. */
enum cleat_mooncake_code {
    CLEAT_MOONCAKE_LATE = 1,  /* not sent: its deadline came first */
    CLEAT_MOONCAKE_STAGING,   /* not sent: larger than the staging memory */
    CLEAT_MOONCAKE_DUPLICATE, /* not sent: its key was in this call already */
    CLEAT_MOONCAKE_BUSY,      /* not sent: calls_max are under way */
    CLEAT_MOONCAKE_UNTOLD = INT32_MIN /* the library has left its result as it
                                         was */
};

/* `operation` of a set-up, in a classification. */
#define CLEAT_MOONCAKE_SETUP ((uint32_t)CLEAT_TRANSFER_OPERATIONS)

/* Functions that no Mooncake exports as of this writing. Where a library has
 * them in the shape of port/mooncake/abi.h, they can be used. */
enum cleat_mooncake_newer {
    CLEAT_MOONCAKE_BATCH_REMOVE = 1, /* for REMOVE */
    CLEAT_MOONCAKE_UPSERT = 2        /* batch_upsert_from, for PUT: overwrites,
                                        also what is being put; so of the modes
                                        of a put only replace keeps its word */
};

/* What a failure means. Called wherever a code is classified, on any thread; it
 * MUST NOT block.
 *   operation  enum cleat_transfer_operation, or CLEAT_MOONCAKE_SETUP
 *   code       Mooncake's
 *   status     what the table says
 * Returns the status to be used; one that is no failure is not. */
typedef enum cleat_status cleat_mooncake_classify_fn(void *context,
                                                     uint32_t operation,
                                                     int32_t code,
                                                     enum cleat_status status);

/* Zero means the default. Strings are copied by the open. */
struct cleat_mooncake_config {
    const char *lib_path;        /* as for dlopen. NULL: "libmooncake_store.so"
                                  */
    const char *local_hostname;  /* how others reach this process, with or
                                    without a port (then 12300 … 14300 are
                                    tried). NULL: "127.0.0.1" */
    const char *metadata_server; /* NULL: "P2PHANDSHAKE" */
    const char *master;          /* NULL: "127.0.0.1:50051" */
    const char *protocol;        /* NULL: "tcp" */
    const char *device;          /* NULL: "" */
    uint64_t segment_bytes;      /* of its memory that this process gives to the
                                    cluster, taken by the library. 0: none; then
                                    another process must give some */
    uint64_t local_buffer_bytes; /* of the library's own. 0: 64 MiB */
    uint64_t staging_bytes; /* of the block, for values that are copied. 0: 64
                               MiB; less than 4096: 4096 */
    uint32_t replicas;      /* asked for; Mooncake makes as many as it can, and
                               does not say how many. 0: 1 */
    uint32_t soft_pin;      /* 1: not evicted while others can be */
    uint32_t hard_pin;      /* 1: never evicted; without it a value that was put
                               may be gone at any time */
    uint32_t calls_max;     /* at once, 1 … 1024. 0: 8 */
    uint32_t keys_max;      /* of one library call, 1 … 65536; calls with more
                               are made in pieces. 0: 400 */
    uint32_t registrations_max; /* pieces registered at once, lent and kept, 1 …
                                   2^20. 0: 4096 */
    uint32_t keep_registered;   /* 1: see above */
    uint32_t device_memory;     /* 1: the library was built for it; see above */
    uint32_t newer;             /* enum cleat_mooncake_newer */
    /* The environment variables MC_RPC_TIMEOUT_MS (0: 10 s),
     * MC_RPC_CONNECT_TIMEOUT_MS (0: 5 s) and MC_TCP_STATUS_TIMEOUT_SEC (0: left
     * alone, which is 30 s), which the library reads: set before it is loaded,
     * where they are not set. CLEAT_MOONCAKE_UNTOUCHED: left alone. */
    uint32_t rpc_timeout_ms;
    uint32_t rpc_connect_timeout_ms;
    uint32_t tcp_status_timeout_s;
    cleat_mooncake_classify_fn *classify; /* NULL: the table */
    void *classify_context;
};

/* Bytes of block; 0 when a count is out of range. The staging memory is the
 * most of it. */
size_t cleat_mooncake_bytes(const struct cleat_mooncake_config *config);

/* Loads the library and makes a client, that is not set up. Not while other
 * threads read the environment (see the time-outs).
 *   block   aligned to CLEAT_ALIGN, the caller's; stays where it is until the
 *           close has said CLEAT_OK
 *   bytes   of the block
 *   config  NULL: all defaults
 *   out     filled; out->context is inside the block
 * Returns CLEAT_OK; CLEAT_INVALID: an argument (its position in error->index)
 * or a member out of range; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset; CLEAT_NOT_FOUND: there is no such library; CLEAT_UNSUPPORTED:
 * it is there and cannot be loaded, say because it needs one that is not there,
 * or has not every function, with the path
 * and the symbol or the loader's words in error->text; CLEAT_PERMANENT: it
 * makes no client; CLEAT_IO: the environment could not be set, errno in
 * error->port_code. On error nothing is held but the library. */
enum cleat_status
cleat_mooncake_open(void *block, size_t bytes,
                    const struct cleat_mooncake_config *config,
                    struct cleat_store *out, struct cleat_error *error);

/* Ends a store: from here on nothing more is begun. When no call is under way,
 * unregisters what is registered and destroys the client, which takes a second
 * or more. Does not wait for calls. Any thread; one at a time.
 * Returns CLEAT_OK: the block is the caller's again, and must not be given away
 * while somebody may still call through a copy of the store (a transfer service
 * has one); also after an open that failed, and twice. CLEAT_STATE: calls are
 * under way, as many as error->index says, that may still touch the block and
 * what they were given: close again later, or never. In a child after a fork:
 * CLEAT_OK, and nothing is called. */
enum cleat_status cleat_mooncake_close(struct cleat_store *store,
                                       struct cleat_error *error);

/* What is going on; each number is right, all together need not be. */
struct cleat_mooncake_view {
    uint64_t staging_bytes;
    uint64_t staging_taken;
    uint32_t calls;      /* under way, in the port */
    uint32_t waiting;    /* of those: for staging memory */
    uint32_t registered; /* pieces, without the staging memory */
    uint32_t kept;       /* of those: that nobody lends now */
    uint32_t unjoined;   /* lent and not registered: they overlap others, or
                            there was no place */
    uint32_t set_up;     /* 1: the set-up has worked */
};

/* Any thread, until the close. Not in a child after a fork: it takes a lock
 * that another thread may have held. */
void cleat_mooncake_look(const struct cleat_store *store,
                         struct cleat_mooncake_view *view);

/* What the table says of a code: every code of Mooncake Store of August 2026,
 * and every other.
 *   operation  enum cleat_transfer_operation or CLEAT_MOONCAKE_SETUP
 *   code       a negative result, or one that is positive and has no meaning
 * Returns a failure, or CLEAT_OK for 0: worth another attempt, transient;
 * possibly done all the same, ambiguous; memory or a queue is full, capacity;
 * else permanent. A code that is not known is ambiguous for what changes the
 * store, and transient for what does not. */
enum cleat_status cleat_mooncake_classify(uint32_t operation, int32_t code);

/* Its name as Mooncake has it, "RPC_TIMEOUT", or in lower case one of enum
 * cleat_mooncake_code; "unknown". Static storage. */
const char *cleat_mooncake_code_name(int32_t code);

#ifdef __cplusplus
}
#endif
#endif
