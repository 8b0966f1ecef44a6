/* Cleat: the arithmetic of serving leases. SPDX-License-Identifier: Apache-2.0
 *
 * Pure; times are arguments. The engine counts its lease from the moment at
 * which it *asked*, the coordinator from the later one at which it *granted*,
 * plus what the two clocks may drift apart in that time. So the engine's lease
 * has ended when the coordinator says that it has, however long the messages
 * took. (C. Gray, D. Cheriton: Leases, SOSP 1989.) */
#ifndef CLEAT_PORT_LINUX_LEASE_H
#define CLEAT_PORT_LINUX_LEASE_H

#include "cleat/status.h"

/* How many asks may be unanswered; the answer to an older one is ignored. */
#define CLEAT_LEASE_ASKS 16u

/* The engine's side. All zero: no lease. */
struct cleat_lease {
    uint64_t counter; /* of the last ask; never repeats */
    uint64_t asked_ns[CLEAT_LEASE_ASKS];
    uint64_t end_ns; /* serve only before this; 0: never */
};

/* Asks at `now_ns`; the counter that the ask carries. */
static inline uint64_t cleat_lease_ask(struct cleat_lease *lease,
                                       uint64_t now_ns)
{
    lease->counter++;
    lease->asked_ns[lease->counter % CLEAT_LEASE_ASKS] = now_ns;
    return lease->counter;
}

/* The ask with this counter was granted. False when it was none of the last
 * CLEAT_LEASE_ASKS, and then nothing changes. A lease never gets shorter. */
static inline bool cleat_lease_granted(struct cleat_lease *lease,
                                       uint64_t counter, uint64_t lease_ns)
{
    if (counter == 0 || counter > lease->counter ||
        lease->counter - counter >= CLEAT_LEASE_ASKS) {
        return false;
    }
    uint64_t end_ns = cleat_time_add(
        lease->asked_ns[counter % CLEAT_LEASE_ASKS], lease_ns);
    if (end_ns > lease->end_ns) { lease->end_ns = end_ns; }
    return true;
}

/* The coordinator has gone: its lease too, and the asks that it did not
 * answer. The counter goes on. */
static inline void cleat_lease_drop(struct cleat_lease *lease)
{
    uint64_t counter = lease->counter;

    *lease = (struct cleat_lease){.counter = counter + CLEAT_LEASE_ASKS};
}

static inline bool cleat_lease_holds(uint64_t end_ns, uint64_t now_ns)
{
    return now_ns < end_ns;
}

/* The coordinator's side, one a member. All zero: nothing granted. */
struct cleat_lease_book {
    uint64_t end_ns;       /* from here on it cannot serve for certain; 0: never
                              granted */
    bool revoked;          /* no more grants */
    uint64_t revoked_term; /* by a command of this term and epoch */
    uint64_t revoked_epoch;
};

/* May the ask that came at now_ns be granted? If so, it is. */
static inline bool cleat_lease_grant(struct cleat_lease_book *book,
                                     uint64_t now_ns, uint64_t lease_ns,
                                     uint64_t drift_ns)
{
    if (book->revoked) { return false; }
    uint64_t end_ns = cleat_time_add(cleat_time_add(now_ns, lease_ns),
                                     drift_ns);
    if (end_ns > book->end_ns) { book->end_ns = end_ns; }
    return true;
}

/* No grants from here on. A later {term, epoch} moves it up, an earlier one
 * changes nothing. */
static inline void cleat_lease_revoke(struct cleat_lease_book *book,
                                      uint64_t term, uint64_t epoch)
{
    bool later = term > book->revoked_term ||
                 (term == book->revoked_term && epoch >= book->revoked_epoch);

    if (!book->revoked || later) {
        book->revoked_term = term;
        book->revoked_epoch = epoch;
    }
    book->revoked = true;
}

/* A commit with this {term, epoch} has succeeded. It lifts the revocation only
 * when it is later: the answer to a commit that went before the fence may come
 * after it. */
static inline void cleat_lease_committed(struct cleat_lease_book *book,
                                         uint64_t term, uint64_t epoch)
{
    if (term > book->revoked_term ||
        (term == book->revoked_term && epoch > book->revoked_epoch)) {
        book->revoked = false;
    }
}

/* Is it certain that the last lease has ended? */
static inline bool cleat_lease_over(const struct cleat_lease_book *book,
                                    uint64_t now_ns)
{
    return now_ns >= book->end_ns;
}

#endif
