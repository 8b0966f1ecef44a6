/* Cleat: workers that really hold versions and really serve.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The other side of the `sync` machine, as plain as can be: what a worker
 * holds is two buckets, each with the label of its version; whether it serves
 * is asked of what is, never of what anyone believes. */
#ifndef CLEAT_TEST_SYNC_PEERS_H
#define CLEAT_TEST_SYNC_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cleat/sync.h"

#define SYNC_PEER_GARBAGE 255u /* the label of damaged bytes */
#define SYNC_PEER_INBOX_MAX 12u

/* What distinguishes one attempt from another. */
struct sync_pair {
    uint64_t term;
    uint64_t epoch;
};

struct sync_order {
    struct sync_pair pair;
    uint8_t step;
    uint8_t version;
};

/* How the bytes of a send arrive. */
enum sync_damage {
    SYNC_ALL,     /* every one, as sent */
    SYNC_HALF,    /* the first bucket only */
    SYNC_FLIPPED, /* all, some of them wrong, and the receiver finds it */
    SYNC_UNSEEN   /* the same, and only the digest tells */
};

struct sync_peer {
    /* what it is */
    bool trainer;
    bool in_place;
    bool child; /* ours to kill; of another only a lease can be waited for */
    /* how it is */
    bool dead;
    bool stopped; /* stands still; its inbox fills; it may wake */
    bool deaf;    /* nothing reaches it and it reaches nobody; it lives on */
    bool expelled;
    uint64_t lease_end_ns; /* NEVER while it is renewed */
    /* an engine */
    bool paused;
    bool cache;
    bool fenced; /* the admission gate is closed */
    bool dirty;  /* in place: written over since the last commit */
    uint8_t cells[2];
    uint8_t staged[2];
    uint32_t digest; /* of what the last send brought */
    struct sync_pair seen;
    struct sync_pair prepared;
    struct sync_pair grouped;
    struct sync_pair verified;
    struct sync_pair committed;
    struct sync_order inbox[SYNC_PEER_INBOX_MAX];
    uint8_t inbox_count;
};

bool sync_pair_same(struct sync_pair a, struct sync_pair b);
bool sync_pair_below(struct sync_pair a, struct sync_pair b);

/* The digest that a version's bytes have. */
uint32_t sync_version_digest(uint32_t version);

/* A fresh worker: serving `version`, its cache there, its gate open. */
void sync_peer_start(struct sync_peer *peer, bool trainer, bool in_place,
                     bool child, uint32_t version);

/* Carries out one order; the rules of an engine. Returns what it would answer.
 */
enum cleat_status sync_peer_do(struct sync_peer *peer, struct sync_order order,
                               enum sync_damage damage);

/* It would have answered so. */
struct cleat_sync_answer sync_peer_answer(const struct sync_peer *peer,
                                          uint32_t member,
                                          struct sync_order order,
                                          enum cleat_status status);

/* Serves at this moment. */
bool sync_peer_serves(const struct sync_peer *peer, uint64_t now_ns);

/* Can serve, now or later, if it is told to resume or wakes: its process
 * lives, its gate is open, its lease is not over for good. */
bool sync_peer_could_serve(const struct sync_peer *peer, uint64_t now_ns);

/* Holds one whole version, this one. */
bool sync_peer_holds(const struct sync_peer *peer, uint32_t version);

/* Puts an order aside while the peer stands still; the same order as the last
 * one is put aside once. */
void sync_peer_put_aside(struct sync_peer *peer, struct sync_order order);

#endif
