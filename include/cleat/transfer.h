/* Cleat: batches that lose nothing. SPDX-License-Identifier: Apache-2.0
 *
 * One batch of keys, put into a store or got from it. The machine cuts it into
 * calls, hands each key out again that failed, alone and with the same buffer,
 * and calls a key ok when its bytes are known to be there and the right ones.
 *
 *   a key    due ──CALL──▶ flying ──its result──▶ ok, failed, unknown
 *             ▲                      │
 *             └── waiting ◀── worth another attempt, or not seen yet
 *
 * A call is of one operation. What each key needs next:
 *
 *   put, create    EXISTS ─▶ PUT ─▶ seen
 *   put, replace   REMOVE ─▶ PUT ─▶ seen
 *   put, keep      PUT ─▶ seen
 *     seen         at once, where this was the first put of it and nobody
 *                  asked for more; else SIZE, or COMPARE after it where all of
 *                  it is to be read back. A put that has failed and is not
 *                  there is made again at once. One that has worked and is not
 *                  there, and one that is not readable, is made again slowly,
 *                  until discard_ns have passed, the last time at their end: a
 *                  store may keep a key whose writer was lost as "in progress"
 *                  for so long, and say that a put of it worked.
 *                  Another size or other bytes: replace, REMOVE and PUT again;
 *                  create, it is somebody else's: CLEAT_EXISTS, or
 *                  CLEAT_CORRUPT after as many looks; keep, ok
 *   get            GET, of exactly the bytes expected
 *   get, sized     SIZE ─▶ GET of that many; again where it has changed
 *   remove, exists REMOVE, EXISTS
 *
 * Where the first REMOVE or EXISTS meets a key that is there and cannot be read
 * yet, it is made again as slowly; after discard_ns the PUT goes out.
 *
 * Results are classified afresh each time. Transient: again, by the policy.
 * Ambiguous: the same, and a put is looked for before it is made again.
 * Capacity: again, by a slower policy. Permanent: failed. What a call says
 * nothing about is ambiguous. A key's attempts are those of its policy, over
 * all its operations; what is made again slowly counts as none, and costs
 * nothing.
 *
 * A put that was made again, or may have failed, is known by its size alone,
 * unless all of it is read back. A store that hides that a key is there
 * (CLEAT_TRANSFER_VERIFY_RETRIED believes a first put) is met by
 * CLEAT_TRANSFER_VERIFY_SIZE or FULL.
 *
 * A call of a store cannot be taken back: at the deadline, or at a cancel, the
 * batch ends at once, and keys that are in a call are *lent*: their buffers
 * are the store's until that call has returned.
 *
 * One retry budget may be shared by many batches. A call with keys that go out
 * again costs once, however many they are; one with keys that had gone out
 * again, and of which none has failed, gives it back.
 *
 * Every call that carries a time first applies the deadlines that are ≤ that
 * time. Times are absolute nanoseconds, and saturate. The work of all calls
 * together grows with the keys, and with the square of the calls that wait at
 * one time.
 *
 * Invariants: only-failed-keys-are-resent · same-buffer-every-time ·
 * a-retried-put-is-seen-before-it-is-ok · size-and-digest-match-before-ok ·
 * empty-missing-failed-differ · every-key-is-reported · permanent-not-retried ·
 * one-charge-a-round · never-hedges-a-put · a-lent-buffer-is-not-returned.
 */
#ifndef CLEAT_TRANSFER_H
#define CLEAT_TRANSFER_H

#include "cleat/retry.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CLEAT_TRANSFER_DEADLINE_NS_DEFAULT (180 * CLEAT_NS_PER_S)
#define CLEAT_TRANSFER_DISCARD_NS_DEFAULT (30 * CLEAT_NS_PER_S)
#define CLEAT_TRANSFER_PACE_NS_DEFAULT (2 * CLEAT_NS_PER_S)
#define CLEAT_TRANSFER_CALL_BYTES_MAX_DEFAULT (UINT64_C(256) << 20)
#define CLEAT_TRANSFER_CALL_KEYS_MAX_DEFAULT 400u
#define CLEAT_TRANSFER_CALLS_DEFAULT 4u
#define CLEAT_TRANSFER_CALLS_MAX 32u
#define CLEAT_TRANSFER_REREADS_DEFAULT 2u

/* No key, no call. */
#define CLEAT_TRANSFER_NOBODY UINT32_MAX

/* What a batch is for. */
enum cleat_transfer_kind {
    CLEAT_TRANSFER_PUT = 1,
    CLEAT_TRANSFER_GET,
    CLEAT_TRANSFER_REMOVE, /* of what is not there: ok */
    CLEAT_TRANSFER_EXISTS
};

/* What a put does about a value that is there already. */
enum cleat_transfer_mode {
    CLEAT_TRANSFER_CREATE,  /* fails with CLEAT_EXISTS; removes nothing */
    CLEAT_TRANSFER_REPLACE, /* removes it first; readers see neither meanwhile
                             */
    CLEAT_TRANSFER_KEEP     /* keeps it, whatever it is: ok */
};

/* Which puts are looked at before they are ok. One that was made again, or may
 * have failed, always is. */
enum cleat_transfer_verify {
    CLEAT_TRANSFER_VERIFY_RETRIED, /* only those: are they there, of that size
                                    */
    CLEAT_TRANSFER_VERIFY_SIZE,    /* all */
    CLEAT_TRANSFER_VERIFY_FULL     /* all, read back and compared; keep: only
                                      whether it is there */
};

/* What one call asks of the store. */
enum cleat_transfer_operation {
    CLEAT_TRANSFER_DO_PUT,
    CLEAT_TRANSFER_DO_GET,     /* into the key's buffer */
    CLEAT_TRANSFER_DO_COMPARE, /* read it, elsewhere, and compare it with the
                                  key's buffer: CLEAT_OK or CLEAT_CORRUPT */
    CLEAT_TRANSFER_DO_REMOVE,
    CLEAT_TRANSFER_DO_EXISTS, /* CLEAT_OK or CLEAT_NOT_FOUND */
    CLEAT_TRANSFER_DO_SIZE,   /* how many bytes can be read */
    CLEAT_TRANSFER_OPERATIONS
};

/* Zero means the default. */
struct cleat_transfer_config {
    const struct cleat_retry_policy *policy;   /* NULL: CLEAT_RETRY_DATA_PATH.
                                                  Copied. Its deadline_ns and
                                                  attempt_timeout_ns are not
                                                  used, CLEAT_RETRY_IDEMPOTENT
                                                  is taken as set, and more than
                                                  65535 attempts as no limit */
    const struct cleat_retry_policy *capacity; /* the same, of a full store.
                                                  NULL: CLEAT_RETRY_CAPACITY */
    uint64_t deadline_ns; /* of the batch, from begin. 0: 180 s. CLEAT_NONE */
    uint64_t discard_ns;  /* how long a put may stay unreadable. 0: 30 s.
                             CLEAT_NONE: not at all */
    uint64_t pace_ns; /* between two looks at what is not there yet. 0: 2 s */
    uint64_t call_bytes_max; /* 0: 256 MiB. A larger value goes alone */
    uint32_t call_keys_max;  /* 0: 400 */
    uint32_t calls_max;      /* in flight, 1 … 32. 0: 4 */
    uint32_t rereads_max; /* of a value that does not match its size or digest,
                             1 … 15. 0: 2 */
    uint32_t keys_count;  /* ≥ 1 */
    uint32_t kind;        /* enum cleat_transfer_kind; no default */
    uint32_t mode;        /* put: enum cleat_transfer_mode */
    uint32_t verify;      /* put: enum cleat_transfer_verify */
    uint32_t sized;       /* get, 1: sizes are not known; those given are what
                             the buffers hold */
    uint32_t wait;        /* get, 1: what is missing may still come */
};

/* One key. Not for reading. */
struct cleat_transfer_key {
    uint64_t buffer; /* the caller's, opaque */
    uint64_t bytes;  /* of its value; or of its buffer */
    union {
        uint64_t bytes; /* what the store said last */
        struct cleat_transfer_group {
            uint32_t last; /* of the keys that wait with this one */
            uint32_t next; /* the first of others that wait */
        } group;
    } seen;
    uint64_t moment_ns;
    uint64_t delay_ns;        /* the last backoff */
    uint64_t unseen_until_ns; /* 0: it is not being waited for */
    uint32_t link;
    int32_t code;
    uint16_t attempts;
    int16_t status;
    uint8_t operation; /* the next, or the one under way */
    uint8_t state;
    uint8_t call;
    uint8_t flags;
};

/* Of keys; first: NOBODY where it is empty. */
struct cleat_transfer_list {
    uint32_t first;
    uint32_t last;
};

struct cleat_transfer_totals {
    uint64_t bytes_sent;  /* put, got or compared, by all calls */
    uint64_t bytes_again; /* of those: put or got another time */
    uint32_t ok;
    uint32_t failed;
    uint32_t unknown; /* failed, and may have taken effect */
    uint32_t lent;    /* of the failed and unknown: still in a call */
    uint32_t calls;
    uint32_t rounds; /* calls with keys that went out again by their policy */
};

/* A batch; its keys follow it. Not for reading. */
struct cleat_transfer {
    struct cleat_transfer_config config; /* defaults filled in */
    struct cleat_retry_policy policy[2]; /* data path, capacity */
    struct cleat_transfer_totals totals;
    uint64_t deadline_ns;
    uint64_t now_ns;
    struct cleat_transfer_lists {
        struct cleat_transfer_list due[CLEAT_TRANSFER_OPERATIONS];
        struct cleat_transfer_list flying[CLEAT_TRANSFER_CALLS_MAX];
        uint32_t waiting; /* the first group's first */
    } lists;
    uint32_t taken; /* of the budget, to be given back */
    int32_t status; /* PENDING until every key has ended */
    uint32_t first_failed;
};

#define CLEAT_TRANSFER_BYTES(keys)   \
    (sizeof(struct cleat_transfer) + \
     (size_t)(keys) * sizeof(struct cleat_transfer_key))

/* Bytes of block; SIZE_MAX where it does not fit. */
size_t cleat_transfer_bytes(uint32_t keys);

/* One call to be made. Its keys: cleat_transfer_first, cleat_transfer_next_key.
 */
struct cleat_transfer_command {
    uint64_t bytes; /* of all its keys; 0 where none move */
    uint32_t call;
    uint32_t operation; /* enum cleat_transfer_operation */
    uint32_t keys;
    uint32_t reserved;
};

/* What has become of a key. Its status:
 *   CLEAT_OK          its bytes are there, and the right ones; removed; asked
 *   CLEAT_PENDING     nothing yet
 *   CLEAT_AMBIGUOUS   no attempt or no time was left, or the caller cancelled,
 *                     and it may have taken effect. Where it cannot have:
 *   CLEAT_DEADLINE    … no time
 *   CLEAT_CANCELLED   … the caller
 *   as it failed last … no attempt
 *   CLEAT_UNREADABLE  there, or said to be, and not readable until discard_ns
 *                     had passed
 *   CLEAT_EXISTS      create: there is a value, somebody else's
 *   CLEAT_NOT_FOUND   get: there is none
 *   CLEAT_SHORT, CLEAT_CORRUPT  not of that size, or not those bytes, after
 *                     every reread
 *   CLEAT_TOO_SMALL   get, sized: the value is larger than the buffer
 *   any other         as the store said: not to be tried again */
struct cleat_transfer_report {
    enum cleat_status status;
    int32_t code;      /* the store's own, the last one */
    uint32_t attempts; /* the first, and each by a policy */
    bool lent;         /* its buffer is still in a call */
    bool unknown;      /* it has failed, and may have taken effect */
    uint64_t bytes; /* CLEAT_OK: put, as told; get, of the value; exists: 1 or
                       0. CLEAT_TOO_SMALL of a get, sized: of the value. Else 0
                       */
};

/* Begins a batch in the caller's block.
 *   block   8-byte aligned, `bytes` bytes, owned by the caller; may be moved
 *   config  copied, and its policies
 *   out     the batch: the block
 * Every key must then be told with cleat_transfer_set before the first
 * cleat_transfer_next.
 * Returns CLEAT_OK; CLEAT_INVALID: alignment (error->index 0), a count or a
 * choice out of range or an unsound policy (2); CLEAT_TOO_SMALL with the bytes
 * needed in error->offset. On error *out is NULL. */
enum cleat_status cleat_transfer_begin(
    void *block, size_t bytes, const struct cleat_transfer_config *config,
    uint64_t now_ns, struct cleat_transfer **out, struct cleat_error *error);

/* Tells a key's buffer and bytes.
 *   key     < keys_count
 *   buffer  opaque; comes back with every call that the key is in
 *   bytes   of the value as the store holds it; get, sized: of the buffer */
void cleat_transfer_set(struct cleat_transfer *transfer, uint32_t key,
                        uint64_t buffer, uint64_t bytes);

/* The next call to be made, numbered 0 … calls_max - 1; that number is free
 * again when the call has returned. False: there is none now. */
bool cleat_transfer_next(struct cleat_transfer *transfer,
                         struct cleat_transfer_command *command);

/* The keys of a call that is under way, in the order in which their results may
 * be told; CLEAT_TRANSFER_NOBODY after the last. */
uint32_t cleat_transfer_first(const struct cleat_transfer *transfer,
                              uint32_t call);
uint32_t cleat_transfer_next_key(const struct cleat_transfer *transfer,
                                 uint32_t key);

/* What a key's call asks for: its buffer, and how many bytes. */
static inline uint64_t
cleat_transfer_buffer(const struct cleat_transfer *transfer, uint32_t key)
{
    return ((const struct cleat_transfer_key *)(const void *)(transfer +
                                                              1))[key]
        .buffer;
}
uint64_t cleat_transfer_key_bytes(const struct cleat_transfer *transfer,
                                  uint32_t key);

/* How one key of a call has fared. Nothing is concluded before the call has
 * returned; what is told twice, counts the last time. Of a key that is lent,
 * nothing is concluded.
 *   status  CLEAT_OK; CLEAT_NOT_FOUND; CLEAT_UNREADABLE: it is there, and
 *           cannot be read yet; CLEAT_EXISTS; or any other failure
 *   code    the store's own
 *   bytes   get, size: how many there are. A get of others than were asked for
 *           is CLEAT_SHORT, whatever it says
 * Returns CLEAT_OK; CLEAT_INVALID: the key is not in that call, or `status` is
 * none of a result. */
enum cleat_status cleat_transfer_told(struct cleat_transfer *transfer,
                                      uint32_t call, uint32_t key,
                                      enum cleat_status status, int32_t code,
                                      uint64_t bytes);

/* A call has returned; the keys of which nothing was told may have taken
 * effect. Late, of a batch that has ended, it only gives back what was lent.
 *   budget   of the store, or NULL: the same in every call of a batch
 *   hint_ns  what the store asks to wait; CLEAT_NONE: it does not
 *   random   uniform over 64 bits
 * Returns CLEAT_OK; CLEAT_INVALID: no such call is under way;
 * CLEAT_TIME_BACKWARDS. */
enum cleat_status cleat_transfer_returned(struct cleat_transfer *transfer,
                                          uint64_t now_ns, uint32_t call,
                                          struct cleat_retry_budget *budget,
                                          uint64_t hint_ns, uint64_t random);

/* When cleat_transfer_tick must be called at the latest; CLEAT_NEVER. */
uint64_t cleat_transfer_deadline(const struct cleat_transfer *transfer);

/* Applies the deadlines that are ≤ now_ns. Returns CLEAT_OK;
 * CLEAT_TIME_BACKWARDS. */
enum cleat_status cleat_transfer_tick(struct cleat_transfer *transfer,
                                      uint64_t now_ns);

/* Ends the batch: what has not ended, ends with CLEAT_CANCELLED. Returns
 * CLEAT_OK; CLEAT_STATE: it has ended; CLEAT_TIME_BACKWARDS. */
enum cleat_status cleat_transfer_cancel(struct cleat_transfer *transfer,
                                        uint64_t now_ns);

/* CLEAT_PENDING; CLEAT_OK: every key is ok; else how the first key that failed
 * did.
 *   key  that key, while pending too; CLEAT_TRANSFER_NOBODY: none has. May be
 *        NULL */
enum cleat_status cleat_transfer_status(const struct cleat_transfer *transfer,
                                        uint32_t *key);

/* Whether every buffer is the caller's again: the batch has ended, and no call
 * is under way. */
bool cleat_transfer_drained(const struct cleat_transfer *transfer);

/* What has become of `key`. */
void cleat_transfer_look(const struct cleat_transfer *transfer, uint32_t key,
                         struct cleat_transfer_report *report);

static inline struct cleat_transfer_totals
cleat_transfer_count(const struct cleat_transfer *transfer)
{
    return transfer->totals;
}

#ifdef __cplusplus
}
#endif
#endif
