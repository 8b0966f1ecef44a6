/* Cleat: memory registered with Mooncake Store. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Registered pieces do not overlap: the library refuses that. What is lent and
 * lies inside one, is counted there. What overlaps one that is lent and does
 * not lie inside it, is noted with those that are not joined, and its values
 * are staged. So is what finds no place among the registered ones; and where it
 * cannot be noted either, it is only counted: nothing else is then registered
 * until it is lent no more, for a piece around it would be taken for it. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "state.h"

/* ---- tables -------------------------------------------------------------- */

/* How many pieces begin at or before `start`. */
static uint32_t count_before(const struct pieces *pieces, uintptr_t start)
{
    uint32_t low = 0;
    uint32_t high = pieces->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (pieces->table[middle].start <= start) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The registered piece that holds all of it; or NULL. */
static struct piece *holder_of(const struct pieces *pieces, uintptr_t start,
                               size_t bytes)
{
    uint32_t before = count_before(pieces, start);
    struct piece *piece;

    if (before == 0) { return NULL; }
    piece = &pieces->table[before - 1];
    return start - piece->start <= piece->bytes &&
                   bytes <= piece->bytes - (start - piece->start)
               ? piece
               : NULL;
}

/* The first registered piece that shares a byte with it; or NULL. */
static struct piece *overlapped_by(const struct pieces *pieces, uintptr_t start,
                                   size_t bytes)
{
    uint32_t before = count_before(pieces, start);
    struct piece *piece = before > 0 ? &pieces->table[before - 1] : NULL;

    if (piece != NULL && start - piece->start < piece->bytes) { return piece; }
    if (before < pieces->count && pieces->table[before].start - start < bytes) {
        return &pieces->table[before];
    }
    return NULL;
}

/* Exactly this piece, among those that may overlap; or NULL. */
static struct piece *exactly(const struct pieces *pieces, uintptr_t start,
                             size_t bytes)
{
    for (uint32_t i = count_before(pieces, start);
         i > 0 && pieces->table[i - 1].start == start; i--) {
        if (pieces->table[i - 1].bytes == bytes) {
            return &pieces->table[i - 1];
        }
    }
    return NULL;
}

static void insert(struct pieces *pieces, const struct piece *piece)
{
    uint32_t at = count_before(pieces, piece->start);

    memmove(&pieces->table[at + 1], &pieces->table[at],
            (pieces->count - at) * sizeof *piece);
    pieces->table[at] = *piece;
    pieces->count++;
    if (piece->bytes > pieces->longest) { pieces->longest = piece->bytes; }
}

static void erase(struct pieces *pieces, struct piece *piece)
{
    size_t behind = (size_t)(pieces->table + pieces->count - (piece + 1));

    memmove(piece, piece + 1, behind * sizeof *piece);
    pieces->count--;
    if (pieces->count == 0) { pieces->longest = 0; }
}

/* ---- the library --------------------------------------------------------- */

static enum cleat_status refused(self_t *self, const char *doing, int code,
                                 struct cleat_error *error)
{
    enum cleat_status status = cleat_mooncake_meaning(
        self, CLEAT_MOONCAKE_SETUP, code);

    /* -600 of a registration is no matter of time. */
    if (status == CLEAT_OK || code == MOONCAKE_INVALID_PARAMS) {
        status = CLEAT_PERMANENT;
    }
    (void)cleat_error_set(error, status, 1, 0, "");
    if (error != NULL) {
        error->port_code = code;
        (void)snprintf(error->text, sizeof error->text,
                       "mooncake: memory cannot be %s: the library says %d, %s",
                       doing, code, cleat_mooncake_code_name(code));
    }
    return status;
}

/* Unregisters a piece that nobody lends, and forgets it. A library that refuses
 * has it no more, or will refuse the next piece there, which is told then. */
static enum cleat_status forget(self_t *self, struct piece *piece,
                                struct cleat_error *error)
{
    struct pool *pool = &self->pool;
    void *start = (void *)piece->start;
    int code;

    (void)pthread_mutex_lock(&pool->lock);
    erase(&pool->registered, piece);
    (void)pthread_mutex_unlock(&pool->lock);
    code = self->library.unregister_buffer(self->store, start);
    return code == MOONCAKE_OK ? CLEAT_OK
                               : refused(self, "unregistered", code, error);
}

/* The kept piece that was lent longest ago; or NULL. */
static struct piece *oldest_kept(const struct pieces *pieces)
{
    struct piece *oldest = NULL;

    for (uint32_t i = 0; i < pieces->count; i++) {
        struct piece *piece = &pieces->table[i];

        if (piece->lent == 0 &&
            (oldest == NULL || piece->used < oldest->used)) {
            oldest = piece;
        }
    }
    return oldest;
}

/* ---- on ------------------------------------------------------------------ */

static enum cleat_status add(self_t *self, struct pieces *pieces,
                             uintptr_t start, size_t bytes,
                             struct cleat_error *error)
{
    struct piece piece = {start, bytes, ++self->pool.clock, 1, 0};

    if (pieces->count >= self->pool.pieces_max) {
        return cleat_error_set(error, CLEAT_NO_SLOT, 1, 0,
                               "mooncake: as many pieces of memory are lent as "
                               "registrations_max allows");
    }
    (void)pthread_mutex_lock(&self->pool.lock);
    insert(pieces, &piece);
    (void)pthread_mutex_unlock(&self->pool.lock);
    return CLEAT_OK;
}

/* A piece that overlaps none and finds no place: every value in it can be
 * staged, unless it is one that is larger than the staging memory. */
static enum cleat_status leave_out(self_t *self, uintptr_t start, size_t bytes,
                                   struct cleat_error *error)
{
    struct pool *pool = &self->pool;

    if (bytes > self->stage.bytes) {
        return cleat_error_set(error, CLEAT_NO_SLOT, 1, 0,
                               "mooncake: as many pieces of memory are lent as "
                               "registrations_max allows, and this one is "
                               "larger than the staging memory");
    }
    if (pool->unjoined.count < pool->pieces_max) {
        return add(self, &pool->unjoined, start, bytes, error);
    }
    if (pool->unnoted == UINT32_MAX - pool->pieces_max) {
        return cleat_error_set(error, CLEAT_NO_SLOT, 1, 0,
                               "mooncake: memory is lent 2^32 - 1 times");
    }
    (void)pthread_mutex_lock(&pool->lock);
    pool->unnoted++;
    (void)pthread_mutex_unlock(&pool->lock);
    return CLEAT_OK;
}

/* Registers a piece that overlaps none. */
static enum cleat_status join(self_t *self, uintptr_t start, size_t bytes,
                              struct cleat_error *error)
{
    struct pieces *pieces = &self->pool.registered;
    int code;

    if (self->pool.unnoted > 0) { return leave_out(self, start, bytes, error); }
    if (pieces->count >= self->pool.pieces_max) {
        struct piece *kept = oldest_kept(pieces);
        enum cleat_status status;

        if (kept == NULL) { return leave_out(self, start, bytes, error); }
        status = forget(self, kept, error);
        if (status != CLEAT_OK) { return status; }
    }
    code = self->library.register_buffer(self->store, (void *)start, bytes);
    if (code != MOONCAKE_OK) {
        return refused(self, "registered", code, error);
    }
    return add(self, pieces, start, bytes, error);
}

static enum cleat_status lend_on(self_t *self, uintptr_t start, size_t bytes,
                                 struct cleat_error *error)
{
    struct pool *pool = &self->pool;
    struct piece *piece = exactly(&pool->unjoined, start, bytes);

    if (piece == NULL) { piece = holder_of(&pool->registered, start, bytes); }
    if (piece != NULL) {
        if (piece->lent == UINT32_MAX) {
            return cleat_error_set(error, CLEAT_NO_SLOT, 1, 0,
                                   "mooncake: this memory is lent 2^32 - 1 "
                                   "times");
        }
        (void)pthread_mutex_lock(&pool->lock);
        piece->lent++;
        piece->used = ++pool->clock;
        (void)pthread_mutex_unlock(&pool->lock);
        return CLEAT_OK;
    }
    for (;;) {
        enum cleat_status status;

        piece = overlapped_by(&pool->registered, start, bytes);
        if (piece == NULL) { return join(self, start, bytes, error); }
        if (piece->lent > 0) {
            return add(self, &pool->unjoined, start, bytes, error);
        }
        status = forget(self, piece, error);
        if (status != CLEAT_OK) { return status; }
    }
}

/* ---- off ----------------------------------------------------------------- */

static enum cleat_status lend_off(self_t *self, uintptr_t start, size_t bytes,
                                  struct cleat_error *error)
{
    struct pool *pool = &self->pool;
    struct piece *piece = exactly(&pool->unjoined, start, bytes);
    bool joined = piece == NULL;
    bool last;

    if (joined) { piece = holder_of(&pool->registered, start, bytes); }
    if (piece == NULL && pool->unnoted > 0) {
        (void)pthread_mutex_lock(&pool->lock);
        pool->unnoted--;
        (void)pthread_mutex_unlock(&pool->lock);
        return CLEAT_OK;
    }
    if (piece == NULL || piece->lent == 0) {
        return cleat_error_set(error, CLEAT_NOT_FOUND, 1, 0,
                               "mooncake: this memory is not lent");
    }
    (void)pthread_mutex_lock(&pool->lock);
    piece->lent--;
    last = piece->lent == 0;
    if (last && !joined) { erase(&pool->unjoined, piece); }
    (void)pthread_mutex_unlock(&pool->lock);
    if (last && joined && !self->keep_registered) {
        return forget(self, piece, error);
    }
    return CLEAT_OK;
}

/* ---- all ----------------------------------------------------------------- */

enum cleat_status cleat_mooncake_lend(struct cleat_store_context *self,
                                      void *start, size_t bytes, bool on,
                                      struct cleat_error *error)
{
    enum cleat_status status;

    if (bytes == 0) { return CLEAT_OK; }
    if (start == NULL || (uintptr_t)start > UINTPTR_MAX - bytes) {
        return cleat_error_set(error, CLEAT_INVALID, 1, 0,
                               "mooncake: no memory is lent");
    }
    if (!cleat_mooncake_enter(self, GATE_SET_UP)) {
        return cleat_error_set(error, CLEAT_STATE, 0, 0,
                               "mooncake: the store is not set up, or closed");
    }
    (void)pthread_mutex_lock(&self->pool.turn);
    status = on ? lend_on(self, (uintptr_t)start, bytes, error)
                : lend_off(self, (uintptr_t)start, bytes, error);
    (void)pthread_mutex_unlock(&self->pool.turn);
    cleat_mooncake_leave(self);
    return status;
}

/* Whether all of it lies in a piece that is lent and not registered. Whoever
 * lent that counts in no registered piece, so that one around these bytes can
 * be taken away under the call. */
static bool is_left_out(const struct pieces *unjoined, uintptr_t start,
                        size_t bytes)
{
    for (uint32_t i = count_before(unjoined, start); i > 0; i--) {
        const struct piece *piece = &unjoined->table[i - 1];

        if (start - piece->start >= unjoined->longest) { return false; }
        if (start - piece->start <= piece->bytes &&
            bytes <= piece->bytes - (start - piece->start)) {
            return true;
        }
    }
    return false;
}

bool cleat_mooncake_is_registered(self_t *self, const void *start, size_t bytes)
{
    const struct piece *piece;
    bool is;

    (void)pthread_mutex_lock(&self->pool.lock);
    piece = holder_of(&self->pool.registered, (uintptr_t)start, bytes);
    is = piece != NULL && piece->lent > 0 &&
         !is_left_out(&self->pool.unjoined, (uintptr_t)start, bytes);
    (void)pthread_mutex_unlock(&self->pool.lock);
    return is;
}

void cleat_mooncake_return_all(self_t *self)
{
    struct pieces *pieces = &self->pool.registered;

    while (pieces->count > 0) {
        (void)forget(self, &pieces->table[pieces->count - 1], NULL);
    }
    self->pool.unjoined.count = 0;
    self->pool.unjoined.longest = 0;
    self->pool.unnoted = 0;
    if (self->stage_registered) {
        (void)self->library.unregister_buffer(self->store, self->stage.start);
        self->stage_registered = false;
    }
}
