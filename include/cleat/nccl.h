/* Cleat: buckets between GPUs, over NCCL. SPDX-License-Identifier: Apache-2.0
 *
 * A transport (cleat/transport.h) whose bytes travel from the sender's GPU to
 * the receivers' GPUs through NCCL, `libnccl.so.2`, 2.19 or newer, which is
 * loaded when an end is opened. NCCL carries payload and nothing else: who
 * belongs to the group, which generation it is, how long a bucket is and what
 * its CRC32C is, who has acknowledged what, go through shared memory that the
 * ticket brings (cleat/memory.h). So all members are processes of one machine
 * (or of one container that shares descriptors).
 *
 *  sender    fill ──▶ pinned slot ──▶ device slot
 *                                          ║ NCCL
 *  receiver  wait ◀── pinned slot ◀── device slot
 *
 * A bucket's slot is pinned memory of the host, as the contract of a transport
 * asks, staged through a slot on the device. CRC32C is taken by whoever fills
 * and by whoever receives, on the host's side of the staging.
 *
 * With `on_device` an end has no pinned slots: the `data` of the sender's
 * `slot` and of the receiver's `wait` is then an address of the device, as a
 * uint64_t in a pointer, for a source or a sink that copies there by itself
 * (with a cleat_cuda of its own on the same device). The sender's source must
 * have finished writing before `publish`, the sink reading before `ack`. Call
 * `slot` again before each bucket is written: it waits for the end of the
 * slot's earlier use, and whoever writes to an address that it has kept may
 * overwrite a bucket on its way. Nobody can take a CRC32C of it on the host:
 * give 0 and do not check, and say in the report that the digest was skipped.
 * The other ends may stage or not.
 *
 * Two threads a device are made by open. The *owner* makes every call of CUDA
 * and of NCCL, with communicators that do not block; the *reaper* makes
 * ncclCommAbort, which always blocks. Nobody else calls either library, so a
 * call that does not come back stops one of these threads and no caller: every
 * function here waits at most until its deadline, and says CLEAT_DEVICE_LOST
 * at once when the device is. port/nccl/README.md lists each call, why it may
 * hang, and what bounds it.
 *
 * The group is formed in `group` and `join`, and kept from one generation to
 * the next when every receiver has acknowledged every bucket, none had waited
 * for one that never came, and the next generation has as many receivers.
 * Otherwise it is left: revoked where the library can (2.28.7), aborted, and a
 * fresh one formed with a fresh id. A receiver that is given a ticket for a
 * group that it does not belong to (it was restarted meanwhile) says
 * CLEAT_GROUP_FAILED at once, and the next attempt has a fresh group.
 *
 * Whoever cannot join says so in the shared memory: `group` then ends at once
 * with CLEAT_GROUP_FAILED, `acked` tells which receiver it was and why, and
 * when the sender has called `finish` every other `join` ends with
 * CLEAT_GROUP_FAILED. Of several receivers that were told the same index the
 * first joins; the others are refused with CLEAT_INVALID before anything is
 * formed.
 *
 * The slots are registered with NCCL (ncclCommRegister) where that can be, so
 * that it may read and write them where they lie and needs no copies of its
 * own. That takes memory of cuMemCreate, which is what the slots are made of
 * where the device has it: NCCL registers memory of cuMemAlloc only when
 * NCCL_LEGACY_CUDA_REGISTER is set, and may hang in an abort then. NCCL wants
 * the buffers of all ranks registered or of none. So the ticket says which, and
 * a receiver that cannot do as it says refuses: that costs one attempt, and
 * from then on no rank of this sender's groups registers. Give all ends the
 * same configuration, library and environment (NCCL_LOCAL_REGISTER). Over a
 * network PXN makes it useless (NCCL_PXN_DISABLE). Nothing is deregistered: an
 * abort ends it.
 *
 * In a process there must be at most one end per group and at most one end per
 * device. Peers within a process use each other's slots by address; and in an
 * abort NCCL waits for all communicators of a device, but an end aborts only
 * its own. No end knows of another, so the caller must see to it.
 *
 * NCCL leaks a thread, a socket and some memory with each group that is formed,
 * so an end may form builds_max; then `prepare`, `group` and `join` return
 * CLEAT_LIMIT and the process must be restarted. The count is the end's:
 * closing it and opening another begins at 0 and gives no leaked thread back.
 *
 * Fork first, then open: an end's threads and the device's context are not
 * there in a child, which must call nothing here for an end of its parent's. A
 * child whose parent had used CUDA before the fork cannot use it at all.
 *
 * One dead receiver stops the group, for all: NCCL cannot go on without it. So
 * where the shared-memory transport drops a receiver, this one fails the
 * attempt, and the next is made with those that remain. What tells of it is
 * NCCL's work, which fails or is late. A receiver that dies when it has every
 * bucket and has not yet acknowledged them leaves no such work behind: this
 * transport does not notice. So whoever drives it holds a deadline for all
 * acknowledgements, as cleat/stream.h does (ack_timeout_ns), which is the usual
 * caller.
 *
 * CLEAT_DEVICE_LOST is terminal: no call into CUDA or NCCL is made any more,
 * also none that frees. The process should report it and leave by _exit, for
 * both libraries wait for the device at exit.
 *
 * Our code allocates nothing after open. NCCL allocates and starts threads in
 * every call on a communicator that does not block (ncclGroupEnd,
 * ncclCommInitRankConfig, ncclCommRevoke, ncclCommAbort) and in
 * ncclGetUniqueId; it raises RLIMIT_NOFILE.
 *
 * Of the environment NCCL reads, the host decides. Refused are
 * NCCL_COMM_BLOCKING, with which calls wait for peers that may be dead, and
 * NCCL_COMM_ID, which gives every group the same id; keep them out of nccl.conf
 * too, which NCCL reads by itself. Advised are NCCL_NVLS_ENABLE=0 (a rebuilt
 * group may hang on resources that differ between ranks) and NCCL_RAS_ENABLE=0
 * (a thread and a TCP port).
 */
#ifndef CLEAT_NCCL_H
#define CLEAT_NCCL_H

#include "cleat/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_NCCL_LIBRARY "libnccl.so.2"

/* Versions of NCCL, as ncclGetVersion codes them (22809 is 2.28.9): the oldest
 * that is taken; since when several communicators can be aborted in one group;
 * since when a group may have several ranks on one GPU, where the environment
 * says NCCL_MULTI_RANK_GPU_ENABLE=1. cleat_nccl_look tells which of them a
 * library has reached: callers need none of these. */
#define CLEAT_NCCL_VERSION_MIN 21900
#define CLEAT_NCCL_GROUP_ABORT 22200
#define CLEAT_NCCL_SEVERAL_RANKS 23003

/* Of an ncclUniqueId. It is inside the ticket: callers do not need it. */
#define CLEAT_NCCL_ID_BYTES 128

#define CLEAT_NCCL_BUCKET_BYTES_DEFAULT (UINT64_C(512) << 20)
#define CLEAT_NCCL_SLOTS_DEFAULT 3u
#define CLEAT_NCCL_SLOTS_MAX 8u
#define CLEAT_NCCL_RECEIVERS_DEFAULT 8u
#define CLEAT_NCCL_RECEIVERS_MAX 64u

/* How a bucket gets to the receivers. */
enum cleat_nccl_topology {
    CLEAT_NCCL_BROADCAST, /* ncclBroadcast: each receiver passes it on, the
                             sender's link carries it once. The default */
    CLEAT_NCCL_FAN_OUT    /* one group of ncclSend from the sender to each: its
                             link carries it once a receiver */
};

/* Whether NCCL is told of the slots ahead (ncclCommRegister), so that it may
 * read and write them where they lie. It wants that of all ranks or of none: so
 * the sender decides, for all. */
enum cleat_nccl_register {
    CLEAT_NCCL_REGISTER_IF_POSSIBLE, /* the default */
    CLEAT_NCCL_REGISTER_NEVER
};

/* Zero means the default. An end with the defaults takes 3 slots of 512 MiB,
 * 1.5 GiB, on the device, and as much pinned memory of the host, which
 * `on_device` saves. What NCCL takes by itself comes on top. */
struct cleat_nccl_config {
    const char *cuda_library; /* NULL: libcuda.so.1 */
    const char *nccl_library; /* NULL: libnccl.so.2 */
    uint64_t bucket_bytes;    /* the largest bucket, as much device memory and
                                 as much pinned memory a slot. 512 MiB */
    uint32_t slots_count;     /* ≤ 8. 3 */
    uint32_t receivers_max;   /* sender: 1 … 64. 8 */
    uint32_t device;          /* the CUDA device, counted among those that
                                 CUDA_VISIBLE_DEVICES leaves. 0 */
    uint32_t topology;        /* sender: enum cleat_nccl_topology */
    uint32_t builds_max;      /* groups, and ids, that this end may use up,
                                 from its opening on. 64 */
    uint32_t on_device;       /* 1: no staging on the host; see above */
    uint32_t register_slots;  /* enum cleat_nccl_register */
    uint64_t bucket_ns; /* how long NCCL may take for one bucket, from when all
                           before it have come: at the sender also for the
                           slowest receiver to have a slot for it. 10 s */
    uint64_t call_ns;   /* how long a call that must not block may take, before
                           the device counts as lost. 5 s */
    uint64_t start_ns;  /* the same until the first group has been formed: the
                           libraries load code and start threads in it. 20 s */
    uint64_t revoke_ns; /* how long to wait for ncclCommRevoke. 2 s;
                           CLEAT_NONE: it is not used */
    uint64_t abort_ns;  /* how long for ncclCommAbort, before the device counts
                           as lost. 10 s */
    uint64_t drain_ns;  /* how long until the streams are idle after it,
                           likewise. 2 s */
};

/* Bytes of block for either end. */
#define CLEAT_NCCL_BYTES 16384u

/* Opens an end: loads both libraries, opens the device, makes the slots, starts
 * the two threads. May take as long as the driver likes.
 *   block   aligned to 64, at least CLEAT_NCCL_BYTES; must stay where it is
 *           until close, and for ever when close says CLEAT_DEVICE_LOST
 *   config  copied
 *   out     filled
 * Returns CLEAT_OK; what cleat_cuda_open returns;
 *   CLEAT_INVALID      with the argument's number in error->index
 *   CLEAT_TOO_SMALL    with the bytes needed in error->offset
 *   CLEAT_UNSUPPORTED  a library was not found, is too old, or lacks a symbol,
 *                      or the environment forbids it: the text names what was
 *                      looked for and found
 *   CLEAT_IO           no thread, no shared memory
 * On error nothing is held but loaded libraries.
 *
 * Of the contract's functions:
 *   prepare  CLEAT_LIMIT: builds_max; CLEAT_GROUP_FAILED: no id could be made;
 *            CLEAT_DEVICE_LOST. Waits for ncclGetUniqueId, which talks to
 *            nobody, at most call_ns and, while an abort is going on, no longer
 *   group    CLEAT_LIMIT, CLEAT_DEVICE_LOST in addition. Waits for the group
 *            before it to be left, too
 *   slot     with on_device between prepare and finish: waits, at most call_ns,
 *            for the end of what the slot was used for before, as its caller
 *            will write to the device at once. To be called before each bucket
 *            then. CLEAT_GROUP_FAILED, CLEAT_DEVICE_LOST
 *   publish  waits, at most call_ns, for the end of what its slot was used for
 *            before
 *   acked    CLEAT_GROUP_FAILED or CLEAT_DEVICE_LOST in *status, of every
 *            receiver, when the group is broken
 *   join     CLEAT_LIMIT also for larger buckets than this end was opened for;
 *            CLEAT_PEER_STALE: the receiver has belonged to a newer group;
 *            CLEAT_DEVICE_LOST
 *   wait     CLEAT_DEVICE_LOST in addition
 *   finish   waits, at most call_ns, for the end of what all have received
 *
 * What is behind a CLEAT_GROUP_FAILED or CLEAT_DEVICE_LOST, with NCCL's or
 * CUDA's own code, is in cleat_nccl_sender_account and
 * cleat_nccl_receiver_account. An end that was told by another end, and
 * not by a library, may have the code 0: look at all. Two ranks on one device
 * of one host, for one, are CLEAT_GROUP_FAILED of `group` and `join`, with the
 * code 5, ncclInvalidUsage. */
enum cleat_status cleat_nccl_sender_open(void *block, size_t bytes,
                                         const struct cleat_nccl_config *config,
                                         struct cleat_transport_sender *out,
                                         struct cleat_error *error);
enum cleat_status cleat_nccl_receiver_open(
    void *block, size_t bytes, const struct cleat_nccl_config *config,
    struct cleat_transport_receiver *out, struct cleat_error *error);

/* Where on the device a byte of a bucket lies, for a sink whose weights are
 * there: it has the bucket checked on the host, and copies it from one place of
 * the device to another (with a cleat_cuda of its own on the same device)
 * instead of back over the bus.
 *   data  what `wait` has pointed at, or an address after it in the same slot
 * Returns the address on the device, which holds the same bytes until `ack`: a
 * slot is received into again only after that, so a sink must have finished
 * reading before. With `on_device` it is the address itself. 0 when `data`
 * lies in no slot. Any thread, between open and close.
 *
 * A sender needs no such function: one whose weights are on the device is
 * opened with `on_device`, and `slot` then gives the address to copy to. */
uint64_t
cleat_nccl_receiver_device(const struct cleat_transport_receiver *receiver,
                           const void *data);

/* Leaves the group, ends the threads and frees everything. Waits at most
 * revoke_ns + abort_ns + drain_ns, and then for the driver to free.
 * Returns CLEAT_OK; CLEAT_DEVICE_LOST: nothing was freed, a thread may still be
 * inside a library, or an abort has failed and left one using the slots; leave
 * by _exit. Closing twice is CLEAT_OK. */
enum cleat_status
cleat_nccl_sender_close(struct cleat_transport_sender *sender);
enum cleat_status
cleat_nccl_receiver_close(struct cleat_transport_receiver *receiver);

/* The caller has learnt, from a cleat_cuda of its own on the same device, that
 * the device is lost: from now on it is so here too, as if the port had found
 * it. Any thread, between open and close. Waits for nothing. */
void cleat_nccl_sender_lose(const struct cleat_transport_sender *sender);
void cleat_nccl_receiver_lose(const struct cleat_transport_receiver *receiver);

/* What has become of the group, for a log or a report. Any thread, between open
 * and close. Waits for nothing. */
struct cleat_nccl_account {
    const char *state;     /* "quiesced", "building", "healthy", "revoking",
                              "aborting", "draining", "lost". Static */
    enum cleat_status why; /* what the last stop began with, or CLEAT_OK */
    uint32_t version;      /* of NCCL: 22809 is 2.28.9 */
    uint32_t builds;       /* groups formed or tried */
    uint32_t ids;          /* ids made: each has leaked a thread and a socket */
    uint32_t stops;        /* groups left */
    uint32_t depth_leaked; /* group levels that NCCL had left open */
    uint32_t late;         /* results that came after their deadline */
    uint32_t registered;   /* 1: all ranks of this group have registered their
                              slots */
    int32_t code;          /* the last error of NCCL's or CUDA's; 0: none */
};
void cleat_nccl_sender_account(const struct cleat_transport_sender *sender,
                               struct cleat_nccl_account *account);
void cleat_nccl_receiver_account(
    const struct cleat_transport_receiver *receiver,
    struct cleat_nccl_account *account);

/* ---- what there is ---- */

struct cleat_nccl_info {
    uint32_t version;       /* 22809: 2.28.9 */
    uint32_t revoke;        /* 1: ncclCommRevoke: a stop that can be polled */
    uint32_t group_abort;   /* 1: several communicators aborted in one group */
    uint32_t several_ranks; /* 1: several ranks on one GPU, if asked for */
    uint32_t registers;     /* 1: ncclCommRegister: slots read in place */
};

/* Loads the library and looks. No GPU is needed.
 *   library  NULL: CLEAT_NCCL_LIBRARY
 * Returns CLEAT_OK; CLEAT_UNSUPPORTED as cleat_nccl_sender_open. */
enum cleat_status cleat_nccl_look(const char *library,
                                  struct cleat_nccl_info *info,
                                  struct cleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
