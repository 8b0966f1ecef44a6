/* Cleat: the store in memory. SPDX-License-Identifier: Apache-2.0
 *
 * Values by key in one block of memory, which the caller gives: the embedded
 * default behind cleat/store.h. The block may be a mapping that several
 * processes of one machine share; then they share the store. Linux.
 *
 * Nothing in it waits, for nothing: there are no locks. A process that is
 * killed or stopped at any instruction blocks nobody, and what it had half made
 * cannot be seen. What a dead process has left is taken back by whoever next
 * finds the store full, or asks (cleat_memory_store_sweep); what a stopped one
 * holds stays its own until it goes on or dies (and what one holds that calls
 * exec in the middle of a put, until that ends). So a call ends long before any
 * deadline, and deadlines are not looked at.
 *
 * How. A value is written where nobody looks, then hung into the index by one
 * compare-and-swap of a word, and that is the moment in which all of it is
 * there. It is taken away by one such word too. Readers write nothing; they
 * copy, and look afterwards whether what they copied was still that value, by
 * the number of its place's generation, and whether it matches its digest.
 * What is in the block is not believed: every number that leads somewhere is
 * held to the block's bounds, every walk is bounded. (The index is the list of
 * M. Michael, "High Performance Dynamic Lock-Free Hash Tables and List-Based
 * Sets", 2002, with tagged links.)
 *
 * What each operation does, atomically with respect to all others:
 *
 *   PUT      CLEAT_OK: stored, whole. CLEAT_EXISTS: the key is there; the old
 *            value is kept. CLEAT_CAPACITY: no place, code
 *            CLEAT_MEMORY_STORE_FULL_KEYS or …_BYTES. CLEAT_LIMIT: larger than
 *            the whole store. CLEAT_INVALID: the frame contradicts itself.
 *            CLEAT_STATE: this process was forked since it attached. Of two
 *            puts of one key at once, one is OK and the other EXISTS
 *   GET      CLEAT_OK. CLEAT_NOT_FOUND. CLEAT_SHORT: it is of another size,
 *            shorter or longer; `actual` says which. CLEAT_CORRUPT: header or
 *            payload does not match its digest. CLEAT_INVALID: the value is
 *            sound, and of another dtype, shape or tag than demanded (a tag of
 *            0 demands none); item->frame says what it is. CLEAT_MALFORMED: a
 *            frame was expected, and raw bytes are there; CLEAT_UNSUPPORTED:
 *            a frame of a later version, or one that says that its payload
 *            has no digest (nobody here puts such)
 *   COMPARE  CLEAT_OK; CLEAT_CORRUPT: other bytes, another size, dtype, shape
 *            or tag, no frame, or one that cannot be used; the rest as GET
 *   SIZE     CLEAT_OK with `actual`; else as GET
 *   EXISTS   CLEAT_OK or CLEAT_NOT_FOUND
 *   REMOVE   CLEAT_OK or CLEAT_NOT_FOUND. Whoever reads the value at that
 *            moment still gets all of it, or CLEAT_NOT_FOUND
 *
 * and any of them: CLEAT_INVALID: a key of no or too many bytes, a payload
 * that is missing; CLEAT_UNSUPPORTED: CLEAT_STORE_DEVICE; CLEAT_TRANSIENT with
 * code CLEAT_MEMORY_STORE_BUSY: others came first, thousands of times in a
 * row; CLEAT_CORRUPT with code CLEAT_MEMORY_STORE_DAMAGED: somebody has
 * written over the index. A value put raw is got raw; a framed one that is got
 * raw comes with its header, and raw bytes that are a frame can be got as one.
 * Raw values have a digest too, kept beside them.
 *
 * `ready` is a put, a look, a get and a remove of a key of nobody else's, which
 * is removed also when the look or the get fails. Where the store is full
 * (CLEAT_CAPACITY) it says CLEAT_OK after the put: it does what it can do then,
 * for whoever gets and removes; a put still says CLEAT_CAPACITY.
 *
 * Memory. Entries and buckets take 80 bytes for each of keys_max. The rest is
 * cut into units of unit_bytes; a value takes as many *consecutive* ones as its
 * key (rounded up to 64 bytes), its header of 128 bytes and its bytes need.
 * They are found by next-fit. So half a unit is lost for each value on average,
 * and where values of many sizes come and go, a large one may find no place
 * although enough is free in pieces: keep a quarter free, or sizes equal. A
 * search looks at no unit twice: at a full store it costs some nanoseconds a
 * unit of 4 bytes of the map.
 * In a block of 128 MiB or more, which no cache holds, puts of 4 KiB and more
 * and gets of 64 KiB and more write past the caches.
 *
 * Any number of threads. Does not allocate. What this trusts: that whoever can
 * write the block is not malicious (digests are no signatures), and that a
 * shared mapping is not made smaller under its users.
 */
#ifndef CLEAT_MEMORY_STORE_H
#define CLEAT_MEMORY_STORE_H

#include "cleat/store.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_MEMORY_STORE_UNIT_BYTES_DEFAULT 1024u
#define CLEAT_MEMORY_STORE_PROCESSES_DEFAULT 64u
#define CLEAT_MEMORY_STORE_PROCESSES_MAX 1000u
#define CLEAT_MEMORY_STORE_KEYS_MAX ((1u << 24) - 2u)
/* The default of keys_max is one for so many bytes of the block. */
#define CLEAT_MEMORY_STORE_BYTES_A_KEY_DEFAULT 4096u

/* An item's `code`. */
enum cleat_memory_store_code {
    CLEAT_MEMORY_STORE_FULL_KEYS = 1, /* keys_max are there, or being put */
    CLEAT_MEMORY_STORE_FULL_BYTES,    /* no so many consecutive units */
    CLEAT_MEMORY_STORE_BUSY,
    CLEAT_MEMORY_STORE_DAMAGED
};

/* Flags of an item of a PUT beside those of cleat/store.h, for tests and fault
 * layers. Other stores do not know them. */
#define CLEAT_MEMORY_STORE_FLIP                                                \
    (1u << 29)                             /* a bit of what is stored is wrong \
                                            */
#define CLEAT_MEMORY_STORE_TEAR (1u << 30) /* its second half is zeros */
#define CLEAT_MEMORY_STORE_CRASH                  \
    (1u << 31) /* this process kills itself with  \
                  SIGKILL when all is written and \
                  nothing published */

/* Zero means the default. */
struct cleat_memory_store_config {
    uint32_t keys_max;   /* 1 … CLEAT_MEMORY_STORE_KEYS_MAX. 0: one for every
                            4 KiB of the block */
    uint32_t unit_bytes; /* 256 … 1 MiB, a power of two. 0: 1024 */
    uint32_t processes_max; /* attached at once, 1 … 1000. 0: 64 */
    uint32_t reserved;
};

/* Bytes of block that take config->keys_max values at once, whose bytes and
 * keys are `bytes` in all; 0 when a count is out of range or keys_max is 0.
 * What comes and goes needs more: see above. */
size_t cleat_memory_store_bytes(const struct cleat_memory_store_config *config,
                                uint64_t bytes);

/* What a process has of its own. */
#define CLEAT_MEMORY_STORE_END_BYTES 256u

/* Makes an empty store in a block and attaches to it. Whatever was in the block
 * is gone; nobody may be attached to it.
 *   block      aligned to 64; the caller's, outlives every attachment. Its
 *              pages are taken as they are first used
 *   bytes      of the block
 *   config     NULL: all defaults
 *   end        CLEAT_MEMORY_STORE_END_BYTES or more, aligned to 64, in memory
 *              of this process alone; stays where it is until the detach
 *   out        filled; out->context is inside `end`
 * Returns CLEAT_OK; CLEAT_INVALID with the argument in error->index;
 * CLEAT_TOO_SMALL: the block or the end, the bytes needed in error->offset. */
enum cleat_status
cleat_memory_store_init(void *block, size_t bytes,
                        const struct cleat_memory_store_config *config,
                        void *end, size_t end_bytes, struct cleat_store *out,
                        struct cleat_error *error);

/* Attaches to a store that was made in this block, by this process or another,
 * wherever it is mapped here. A child attaches anew after a fork; what it has
 * from its parent reads, and does not put or remove.
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL: the end; CLEAT_MALFORMED:
 * no store of this version, or one whose header is damaged or does not fit
 * `bytes`; CLEAT_NO_SLOT: processes_max are attached; CLEAT_UNSUPPORTED: it was
 * made in another PID or time namespace, where processes cannot be told to be
 * dead. */
enum cleat_status cleat_memory_store_attach(void *block, size_t bytes,
                                            void *end, size_t end_bytes,
                                            struct cleat_store *out,
                                            struct cleat_error *error);

/* Ends an attachment; its calls must have returned. The store stays. Twice does
 * nothing. A process that ends without it is found to be dead. */
void cleat_memory_store_detach(struct cleat_store *store);

/* What is in it now; exact when nobody changes it meanwhile. */
struct cleat_memory_store_view {
    uint64_t value_bytes; /* of all values, without frames and keys */
    uint64_t unit_bytes;
    uint32_t keys_max;
    uint32_t keys; /* that can be read */
    uint32_t held; /* more entries: being put or removed, or left by the dead */
    uint32_t units_max;
    uint32_t units;      /* taken */
    uint32_t units_run;  /* the longest free run */
    uint32_t processes;  /* attached, or dead and not yet noticed */
    uint32_t unreadable; /* of `keys`: their place is not inside the block */
};

/* Looks at every entry and unit. Any thread. */
void cleat_memory_store_look(const struct cleat_store *store,
                             struct cleat_memory_store_view *view);

/* Takes back what dead processes have left: values half put, values half
 * removed, places of processes. Costs a look at every entry. Any thread.
 * Returns how many entries came back. */
uint32_t cleat_memory_store_sweep(const struct cleat_store *store);

/* ---- a block that processes find by name --------------------------------- */

#define CLEAT_MEMORY_STORE_NAME_MAX 64u

/* A named mapping. Visible so that a caller can hold one. */
struct cleat_memory_store_shared {
    void *block;
    size_t bytes;
    bool made; /* by this call; else it was there */
};

/* Attaches to the store of that name, the file /dev/shm/cleat-store-NAME; where
 * there is none, makes it first, whole, so that nobody ever finds half of one.
 * All its memory is taken then.
 *   name     1 … 64 of A-Z a-z 0-9 . _ -, not beginning with a dot
 *   bytes    of a new one; 0: it must be there. An existing one is taken as it
 *            is
 *   config   of a new one; NULL: all defaults
 *   end      as above
 *   shared   filled
 * Returns CLEAT_OK; CLEAT_INVALID: the name, an argument; CLEAT_NOT_FOUND: it
 * is not there, and bytes is 0; CLEAT_PERMANENT: the file is not a plain one of
 * this user, for nobody else, so it is not opened; CLEAT_MALFORMED and the
 * rest as cleat_memory_store_attach; CLEAT_CAPACITY: not so much shared memory;
 * CLEAT_IO with errno in port_code. On error nothing is held. */
enum cleat_status
cleat_memory_store_open(const char *name, size_t bytes,
                        const struct cleat_memory_store_config *config,
                        void *end, size_t end_bytes, struct cleat_store *out,
                        struct cleat_memory_store_shared *shared,
                        struct cleat_error *error);

/* Detaches, and unmaps. The store stays for others and by its name. Safe after
 * an open that failed, and twice. */
void cleat_memory_store_close(struct cleat_store *store,
                              struct cleat_memory_store_shared *shared);

/* Removes the name; who has the store open keeps it. Its memory is free when
 * the last one has closed it.
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_NOT_FOUND; CLEAT_PERMANENT: as above;
 * CLEAT_IO. */
enum cleat_status cleat_memory_store_unlink(const char *name,
                                            struct cleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
