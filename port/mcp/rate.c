/* Cleat: a rate limit. SPDX-License-Identifier: Apache-2.0 */
#include "rate.h"

#include <stddef.h>
#include <string.h>

#include "cleat/status.h"

/* Nanoseconds from one token to the next, times the rate in millionths. */
#define NS_TIMES_MICRO UINT64_C(1000000000000000)

_Static_assert(MCP_RATE_MICRO_MAX <= NS_TIMES_MICRO, "no token in no time");

void mcp_rate_init(struct mcp_rate *rate, uint64_t rate_micro)
{
    memset(rate, 0, sizeof *rate);
    rate->rate_micro = rate_micro < MCP_RATE_MICRO_MAX ? rate_micro
                                                       : MCP_RATE_MICRO_MAX;
    rate->waiting.next = &rate->waiting;
    rate->waiting.previous = &rate->waiting;
}

void mcp_rate_join(struct mcp_rate *rate, struct mcp_rate_waiter *waiter)
{
    waiter->next = &rate->waiting;
    waiter->previous = rate->waiting.previous;
    waiter->previous->next = waiter;
    rate->waiting.previous = waiter;
}

void mcp_rate_leave(struct mcp_rate_waiter *waiter)
{
    waiter->previous->next = waiter->next;
    waiter->next->previous = waiter->previous;
    waiter->next = NULL;
    waiter->previous = NULL;
}

bool mcp_rate_is_wanted(const struct mcp_rate *rate)
{
    return rate->waiting.next != &rate->waiting;
}

/* The bucket's debt after one more token, from a moment at which it lacks what
 * comes until `ns` and `part`. */
static void add_token(const struct mcp_rate *rate, uint64_t *ns, uint64_t *part)
{
    *ns = cleat_time_add(*ns, NS_TIMES_MICRO / rate->rate_micro);
    *part += NS_TIMES_MICRO % rate->rate_micro;
    if (*part >= rate->rate_micro) {
        *part -= rate->rate_micro;
        *ns = cleat_time_add(*ns, 1);
    }
}

/* When there is a token: when what it would make us wait for the bucket to be
 * full again is no more than the time that an empty one takes, which is one
 * second, or the time of one token where that is longer. */
static uint64_t token_ns(const struct mcp_rate *rate)
{
    uint64_t ns = rate->full_ns;
    uint64_t part = rate->full_part;

    if (rate->rate_micro > UINT64_C(1000000)) {
        add_token(rate, &ns, &part);
        if (ns != CLEAT_NEVER) {
            if (ns < CLEAT_NS_PER_S) { return 0; }
            ns -= CLEAT_NS_PER_S;
        }
    }
    return part > 0 ? cleat_time_add(ns, 1) : ns;
}

struct mcp_rate_waiter *mcp_rate_next(struct mcp_rate *rate, uint64_t now_ns)
{
    struct mcp_rate_waiter *first = rate->waiting.next;

    if (!mcp_rate_is_wanted(rate) || now_ns < token_ns(rate)) { return NULL; }
    if (rate->full_ns < now_ns) {
        rate->full_ns = now_ns;
        rate->full_part = 0;
    }
    add_token(rate, &rate->full_ns, &rate->full_part);
    mcp_rate_leave(first);
    return first;
}

uint64_t mcp_rate_deadline(const struct mcp_rate *rate)
{
    return mcp_rate_is_wanted(rate) ? token_ns(rate) : CLEAT_NEVER;
}
