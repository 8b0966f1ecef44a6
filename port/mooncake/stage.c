/* Cleat: the staging memory of Mooncake Store. SPDX-License-Identifier:
 * Apache-2.0
 *
 * One block, of which each call has at most one part at a time and gives it
 * back before it asks for another; so whoever waits is served in the end, as
 * long as library calls return. The parts are a list in the order of their
 * addresses, those that wait another, in the order of their coming. */
#define _GNU_SOURCE
#include "state.h"

bool cleat_mooncake_wait(pthread_cond_t *changed, pthread_mutex_t *lock,
                         uint64_t deadline_ns)
{
    struct timespec until;

    if (deadline_ns == CLEAT_NEVER) {
        (void)pthread_cond_wait(changed, lock);
        return true;
    }
    if (deadline_ns <= cleat_mooncake_now_ns()) { return false; }
    until.tv_sec = (time_t)(deadline_ns / CLEAT_NS_PER_S);
    until.tv_nsec = (long)(deadline_ns % CLEAT_NS_PER_S);
    (void)pthread_cond_timedwait(changed, lock, &until);
    return true;
}

static struct share *share_of(self_t *self, uint32_t slot)
{
    return &self->slots[slot].share;
}

/* The link that leads to `slot`, or the list's end. */
static uint32_t *link_to(self_t *self, uint32_t *first, uint32_t slot)
{
    uint32_t *link = first;

    while (*link != NOBODY && *link != slot) {
        link = &share_of(self, *link)->next;
    }
    return link;
}

/* The largest hole, and the link at which its part goes into the list. */
static size_t largest_hole(self_t *self, unsigned char **start, uint32_t **link)
{
    struct stage *stage = &self->stage;
    unsigned char *end = stage->start;
    uint32_t *at = &stage->first;
    size_t largest = 0;

    for (;;) {
        unsigned char *next = *at == NOBODY ? stage->start + stage->bytes
                                            : share_of(self, *at)->start;

        if ((size_t)(next - end) > largest) {
            largest = (size_t)(next - end);
            *start = end;
            *link = at;
        }
        if (*at == NOBODY) { return largest; }
        end = next + share_of(self, *at)->bytes;
        at = &share_of(self, *at)->next;
    }
}

/* Takes a part, where there is a hole for it. */
static bool take(self_t *self, uint32_t slot, size_t needed, size_t wanted)
{
    struct share *share = share_of(self, slot);
    unsigned char *start = NULL;
    uint32_t *link = NULL;
    size_t hole = largest_hole(self, &start, &link);

    if (hole < needed || link == NULL) { return false; }
    share->start = start;
    share->bytes = wanted < hole ? wanted : hole;
    share->used = 0;
    share->next = *link;
    *link = slot;
    self->stage.taken += share->bytes;
    return true;
}

/* Waits in the queue until it is first and there is a hole. */
static bool wait_for(self_t *self, uint32_t slot, size_t needed, size_t wanted,
                     uint64_t deadline_ns)
{
    struct stage *stage = &self->stage;
    bool in_time = true;
    bool taken = false;

    share_of(self, slot)->next = NOBODY;
    *link_to(self, &stage->queue, NOBODY) = slot;
    stage->waiting++;
    while (!taken && in_time) {
        if (stage->queue == slot) {
            uint32_t behind = share_of(self, slot)->next;

            taken = take(self, slot, needed, wanted);
            if (taken) { stage->queue = behind; }
        }
        if (!taken) {
            in_time = cleat_mooncake_wait(&stage->changed, &stage->lock,
                                          deadline_ns);
        }
    }
    if (!taken) {
        *link_to(self, &stage->queue, slot) = share_of(self, slot)->next;
    }
    stage->waiting--;
    (void)pthread_cond_broadcast(&stage->changed); /* another is first now */
    return taken;
}

bool cleat_mooncake_stage(self_t *self, struct slot *slot, size_t needed,
                          size_t wanted, uint64_t deadline_ns)
{
    struct stage *stage = &self->stage;
    uint32_t index = (uint32_t)(slot - self->slots);
    bool taken;

    (void)pthread_mutex_lock(&stage->lock);
    taken = stage->queue == NOBODY && take(self, index, needed, wanted);
    if (!taken) { taken = wait_for(self, index, needed, wanted, deadline_ns); }
    (void)pthread_mutex_unlock(&stage->lock);
    return taken;
}

void cleat_mooncake_unstage(self_t *self, struct slot *slot)
{
    struct stage *stage = &self->stage;
    uint32_t index = (uint32_t)(slot - self->slots);

    if (slot->share.start == NULL) { return; }
    (void)pthread_mutex_lock(&stage->lock);
    *link_to(self, &stage->first, index) = slot->share.next;
    stage->taken -= slot->share.bytes;
    slot->share.start = NULL;
    (void)pthread_cond_broadcast(&stage->changed);
    (void)pthread_mutex_unlock(&stage->lock);
}
