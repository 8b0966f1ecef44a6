/* Cleat: a rate limit. SPDX-License-Identifier: Apache-2.0
 *
 * A token bucket: tokens come at an even rate, also below one a second, up to
 * as many as fit; what is asked for waits for its token, first come, first
 * served. It holds one second's tokens, and one at least; it begins full.
 *
 * Kept as the generic cell rate algorithm (ITU-T I.371), which is the same
 * bucket seen from the time at which it will be full again. That time is a
 * whole number of nanoseconds and a fraction whose denominator is the rate, so
 * that nothing is ever rounded off, however long it runs. */
#ifndef CLEAT_PORT_MCP_RATE_H
#define CLEAT_PORT_MCP_RATE_H

#include <stdbool.h>
#include <stdint.h>

/* One that waits: its owner's, unmoved while it waits. */
struct mcp_rate_waiter {
    struct mcp_rate_waiter *next;
    struct mcp_rate_waiter *previous;
};

struct mcp_rate {
    uint64_t rate_micro; /* tokens a second, in millionths; not 0 */
    uint64_t full_ns;    /* when it is full again … */
    uint64_t full_part;  /* … and this many parts of rate_micro later */
    struct mcp_rate_waiter waiting; /* the ring's own place */
};

/* A rate above this is taken as this: a token a nanosecond. */
#define MCP_RATE_MICRO_MAX UINT64_C(1000000000000000)

/* A full bucket; rate_micro is not 0. It must not be moved later. */
void mcp_rate_init(struct mcp_rate *rate, uint64_t rate_micro);

/* Stands in line, at its end. */
void mcp_rate_join(struct mcp_rate *rate, struct mcp_rate_waiter *waiter);

/* Leaves the line, wherever in it. */
void mcp_rate_leave(struct mcp_rate_waiter *waiter);

/* Whether anybody waits. */
bool mcp_rate_is_wanted(const struct mcp_rate *rate);

/* Takes a token for the first in line, who leaves it: that one, or NULL where
 * there is no token or nobody. */
struct mcp_rate_waiter *mcp_rate_next(struct mcp_rate *rate, uint64_t now_ns);

/* The first moment at which the first in line gets its token; CLEAT_NEVER:
 * nobody waits. */
uint64_t mcp_rate_deadline(const struct mcp_rate *rate);

#endif
