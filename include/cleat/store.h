/* Cleat port contract: a store of values by key. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The transfer service hands whole calls to this port, on threads of its own,
 * several at once. A call is of one operation over some keys, and says of each
 * key how it fared. What a value looks like inside the store is a frame
 * (cleat/frame.h) with the payload behind it, one object a key; or the payload
 * as it is, where framing is off. Whether that takes a copy is the port's
 * business.
 *
 * `context` is completed by the port.
 */
#ifndef CLEAT_STORE_H
#define CLEAT_STORE_H

#include "cleat/frame.h"
#include "cleat/status.h"
#include "cleat/transfer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The longest key, without its NUL. */
#define CLEAT_STORE_KEY_MAX 1023u

enum cleat_store_item_flags {
    /* The CLEAT_FRAME_BYTES bytes before `payload` belong to it and may be
     * overwritten: a framed value can go out, and come in, without a copy. */
    CLEAT_STORE_ROOM = 1,
    /* `payload` is memory of an accelerator. */
    CLEAT_STORE_DEVICE = 2,
    /* No frame: the bytes as they are. */
    CLEAT_STORE_RAW = 4
};

/* One key of a call. */
struct cleat_store_item {
    const char *key;    /* 1 … CLEAT_STORE_KEY_MAX bytes, NUL-terminated */
    void *payload;      /* PUT, COMPARE: read; GET: written; else NULL */
    uint64_t bytes;     /* of the payload; GET: exactly these are expected */
    uint32_t flags;     /* enum cleat_store_item_flags */
    uint32_t key_bytes; /* without the NUL */
    /* PUT: what the frame says of dtype, shape and tag. GET: what it must say;
     * a dtype of CLEAT_DTYPE_NONE asks nothing. Its payload_bytes and
     * payload_crc are the port's to fill in. GET: becomes what was found. Not
     * for RAW. */
    struct cleat_frame frame;

    /* Filled by the port. */
    uint64_t actual; /* GET, SIZE: bytes of the payload in the store; not
                        counting the frame */
    int32_t code;    /* the store's own */
    int32_t status;  /* as cleat_transfer_told has it; CLEAT_PENDING on entry,
                        and where nothing is known */
};

struct cleat_store_call {
    uint32_t operation; /* enum cleat_transfer_operation */
    uint32_t count;
    struct cleat_store_item *items;
    uint64_t deadline_ns; /* the call SHOULD have returned by then */
};

struct cleat_store_context;

/* What a store does not take, of items that move bytes. */
enum cleat_store_refuses {
    CLEAT_STORE_NO_DEVICE = 1,       /* CLEAT_STORE_DEVICE */
    CLEAT_STORE_NO_EMPTY_RAW = 2,    /* CLEAT_STORE_RAW of no bytes */
    CLEAT_STORE_NO_FRAMED_DEVICE = 4 /* CLEAT_STORE_DEVICE without RAW */
};

/* The limits are there so that what cannot be put is refused before anything is
 * removed for it. */
struct cleat_store {
    struct cleat_store_context *context;
    uint64_t value_bytes_max;  /* the largest payload; CLEAT_NONE: no limit
                                  known */
    uint64_t staged_bytes_max; /* the largest that is neither ROOM nor RAW, and
                                  the largest for COMPARE. 0: as
                                  value_bytes_max */
    uint32_t calls_max;        /* calls that it can take at once. 0: any number
                                */
    uint32_t refuses;          /* enum cleat_store_refuses */
    uint32_t verify_min;       /* enum cleat_transfer_verify: how its puts are
                                  looked at, at least */
    uint32_t reserved;

    /* Carries a call out. MAY block, and MUST return in the end. MUST NOT keep
     * anything of the call. A GET that fails MUST NOT leave the payload as if
     * it had worked: what of it was written is zeroed. A GET of a framed value
     * MUST have compared its digest. A PUT that fails with a class other than
     * ambiguous MUST NOT have stored anything that can be read.
     * Returns CLEAT_OK: each item has its status; otherwise items that still
     * say CLEAT_PENDING are unknown. */
    enum cleat_status (*call)(struct cleat_store_context *context,
                              struct cleat_store_call *call);

    /* Says that [start, start + bytes) will be read and written by calls, until
     * it is said no more. May be NULL. Returns CLEAT_OK, or why calls over it
     * would fail. Overlapping pieces are the port's to join. Pieces are given
     * of what may go without a copy: ROOM, with the room, and RAW. SHOULD
     * return soon: a batch waits for it beside its deadline. Any thread, and
     * several at once. */
    enum cleat_status (*lend)(struct cleat_store_context *context, void *start,
                              size_t bytes, bool on, struct cleat_error *error);

    /* Is it ready: has a put, a look and a get of a key of nobody else's
     * worked, and a remove. Blocks until deadline_ns at the latest. Nothing
     * else may be called before it has said CLEAT_OK. */
    enum cleat_status (*ready)(struct cleat_store_context *context,
                               uint64_t deadline_ns, struct cleat_error *error);
};

#ifdef __cplusplus
}
#endif
#endif
