/* Cleat: workers that really hold versions and really serve.
 * SPDX-License-Identifier: Apache-2.0 */
#include "sync_peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool sync_pair_same(struct sync_pair a, struct sync_pair b)
{
    return a.term == b.term && a.epoch == b.epoch;
}

bool sync_pair_below(struct sync_pair a, struct sync_pair b)
{
    return a.term < b.term || (a.term == b.term && a.epoch < b.epoch);
}

uint32_t sync_version_digest(uint32_t version)
{
    return 0x1000u + version;
}

void sync_peer_start(struct sync_peer *peer, bool trainer, bool in_place,
                     bool child, uint32_t version)
{
    memset(peer, 0, sizeof *peer);
    peer->trainer = trainer;
    peer->in_place = in_place;
    peer->child = child;
    peer->lease_end_ns = CLEAT_NEVER;
    peer->cache = true;
    peer->cells[0] = peer->cells[1] = (uint8_t)version;
}

/* The bytes arrive: beside the old ones, or over them. */
static enum cleat_status receive(struct sync_peer *peer,
                                 struct sync_order order,
                                 enum sync_damage damage)
{
    uint8_t *to = peer->in_place ? peer->cells : peer->staged;
    bool wrong = damage == SYNC_FLIPPED || damage == SYNC_UNSEEN;

    if (!sync_pair_same(peer->grouped, order.pair)) { return CLEAT_STATE; }
    peer->digest = wrong ? 0xBADu : sync_version_digest(order.version);
    peer->dirty = peer->dirty || peer->in_place;
    to[0] = order.version;
    if (damage == SYNC_HALF) { return CLEAT_SHORT; }
    to[1] = wrong ? SYNC_PEER_GARBAGE : order.version;
    if (damage == SYNC_FLIPPED) { return CLEAT_CORRUPT; }
    peer->verified = order.pair;
    return CLEAT_OK;
}

static enum cleat_status commit(struct sync_peer *peer, struct sync_order order)
{
    if (sync_pair_same(peer->committed, order.pair)) { return CLEAT_OK; }
    if (!sync_pair_same(peer->verified, order.pair) || !peer->paused) {
        return CLEAT_STATE;
    }
    if (!peer->in_place) { memcpy(peer->cells, peer->staged, 2); }
    peer->dirty = false;
    peer->fenced = false;
    peer->committed = order.pair;
    return CLEAT_OK;
}

static void finalize(struct sync_peer *peer)
{
    const struct sync_pair none = {0, 0};

    memset(peer->staged, 0, sizeof peer->staged);
    peer->prepared = peer->grouped = peer->verified = none;
}

/* A trainer has nothing to lose but its place in the attempt. */
static enum cleat_status train(struct sync_peer *peer, struct sync_order order)
{
    switch (order.step) {
    case CLEAT_SYNC_PREPARE: peer->prepared = order.pair; return CLEAT_OK;
    case CLEAT_SYNC_GROUP:
        if (!sync_pair_same(peer->prepared, order.pair)) { break; }
        peer->grouped = order.pair;
        return CLEAT_OK;
    case CLEAT_SYNC_SEND:
        if (!sync_pair_same(peer->grouped, order.pair)) { break; }
        peer->digest = sync_version_digest(order.version);
        return CLEAT_OK;
    case CLEAT_SYNC_FINALIZE: finalize(peer); return CLEAT_OK;
    default: break;
    }
    return CLEAT_STATE;
}

enum cleat_status sync_peer_do(struct sync_peer *peer, struct sync_order order,
                               enum sync_damage damage)
{
    if (sync_pair_below(order.pair, peer->seen)) { return CLEAT_PEER_STALE; }
    peer->seen = order.pair;
    if (peer->trainer) { return train(peer, order); }
    switch (order.step) {
    case CLEAT_SYNC_PAUSE: peer->paused = true; return CLEAT_OK;
    case CLEAT_SYNC_RELEASE:
        if (!peer->paused) { return CLEAT_STATE; }
        peer->cache = false;
        return CLEAT_OK;
    case CLEAT_SYNC_PREPARE:
        finalize(peer);
        peer->prepared = order.pair;
        return CLEAT_OK;
    case CLEAT_SYNC_GROUP:
        if (!sync_pair_same(peer->prepared, order.pair)) { return CLEAT_STATE; }
        peer->grouped = order.pair;
        return CLEAT_OK;
    case CLEAT_SYNC_SEND: return receive(peer, order, damage);
    case CLEAT_SYNC_COMMIT: return commit(peer, order);
    case CLEAT_SYNC_FINALIZE: finalize(peer); return CLEAT_OK;
    case CLEAT_SYNC_FENCE: peer->fenced = true; return CLEAT_OK;
    case CLEAT_SYNC_RESTORE: peer->cache = true; return CLEAT_OK;
    case CLEAT_SYNC_RESUME:
        /* An engine that minds the gate and nothing else: whether it should
         * serve what it holds is for the machine to know. */
        if (peer->fenced) { return CLEAT_STATE; }
        peer->paused = false;
        return CLEAT_OK;
    default: return CLEAT_STATE;
    }
}

struct cleat_sync_answer sync_peer_answer(const struct sync_peer *peer,
                                          uint32_t member,
                                          struct sync_order order,
                                          enum cleat_status status)
{
    struct cleat_sync_answer answer;

    memset(&answer, 0, sizeof answer);
    answer.step = (enum cleat_sync_step)order.step;
    answer.member = member;
    answer.term = order.pair.term;
    answer.epoch = order.pair.epoch;
    answer.status = status;
    if (!peer->trainer) {
        bool torn = peer->dirty || peer->cells[0] != peer->cells[1];

        answer.holding = torn ? CLEAT_SYNC_TORN : CLEAT_SYNC_WHOLE;
        answer.version = torn ? 0 : peer->cells[0];
    }
    if (order.step == CLEAT_SYNC_SEND) { answer.digest = peer->digest; }
    return answer;
}

static bool lives(const struct sync_peer *peer, uint64_t now_ns)
{
    return !peer->trainer && !peer->dead && now_ns < peer->lease_end_ns;
}

bool sync_peer_serves(const struct sync_peer *peer, uint64_t now_ns)
{
    return lives(peer, now_ns) && !peer->stopped && !peer->paused &&
           !peer->fenced;
}

bool sync_peer_could_serve(const struct sync_peer *peer, uint64_t now_ns)
{
    /* One that stands still and wakes renews its lease, unless it is expelled.
     */
    bool lease = now_ns < peer->lease_end_ns ||
                 (peer->stopped && !peer->deaf && !peer->expelled);

    return !peer->trainer && !peer->dead && lease && !peer->fenced;
}

bool sync_peer_holds(const struct sync_peer *peer, uint32_t version)
{
    return peer->cells[0] == version && peer->cells[1] == version &&
           !peer->dirty;
}

void sync_peer_put_aside(struct sync_peer *peer, struct sync_order order)
{
    if (peer->inbox_count > 0) {
        const struct sync_order *last = &peer->inbox[peer->inbox_count - 1];

        if (last->step == order.step &&
            sync_pair_same(last->pair, order.pair)) {
            return;
        }
    }
    if (peer->inbox_count == SYNC_PEER_INBOX_MAX) {
        fprintf(stderr, "sync_peers: the inbox of a stopped peer is full\n");
        abort();
    }
    peer->inbox[peer->inbox_count++] = order;
}
