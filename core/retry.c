/* Cleat: when to try again. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/retry.h"

#include "assert.h"

CLEAT_STATIC_ASSERT(sizeof(struct cleat_retry_slot) <= 32,
                    "a retry slot is at most 32 bytes");

enum {
    ATTEMPTS_DEFAULT = 4,
    MULTIPLIER_DEFAULT = 2000,
    MULTIPLIER_MIN = 1000,
    MULTIPLIER_MAX = 1000000,
    CERTAIN_MAX = 1000,
    SPREAD_MAX = 2000,
    RETRIED_CLASSES = 1 << CLEAT_CLASS_TRANSIENT | 1 << CLEAT_CLASS_CAPACITY,
    FLAGS_ALL = CLEAT_RETRY_IDEMPOTENT | CLEAT_RETRY_HINT_EXACT
};

/* The two halves of a jitter's value. */
static uint32_t certain_of(uint32_t jitter)
{
    CLEAT_ASSERT((CLEAT_RETRY_JITTER_FLAGS & CERTAIN_MAX) == 0);
    return jitter & UINT16_MAX & ~(uint32_t)CLEAT_RETRY_JITTER_FLAGS;
}

static uint32_t spread_of(uint32_t jitter)
{
    CLEAT_ASSERT(jitter >> 16 <= UINT16_MAX);
    return jitter >> 16;
}

/* Kept out of line: on a machine of 32 bits each is larger than its calls. */
#define SHARED __attribute__((noinline)) static

enum cleat_status
cleat_retry_policy_check(const struct cleat_retry_policy *policy)
{
    uint32_t multiplier = policy->multiplier_thousandths;

    CLEAT_ASSERT(policy != NULL);
    CLEAT_ASSERT(sizeof *policy == 64);
    if (multiplier == 0) { multiplier = MULTIPLIER_DEFAULT; }
    return multiplier >= MULTIPLIER_MIN && multiplier <= MULTIPLIER_MAX &&
                   certain_of(policy->jitter) <= CERTAIN_MAX &&
                   spread_of(policy->jitter) <= SPREAD_MAX &&
                   (policy->flags & ~(uint32_t)FLAGS_ALL) == 0
               ? CLEAT_OK
               : CLEAT_INVALID;
}

/* Zero is the default. CLEAT_NONE stays what it is: as a time, never. */
SHARED uint64_t resolved(uint64_t value, uint32_t standard_ms)
{
    CLEAT_ASSERT(standard_ms > 0);
    CLEAT_ASSERT(standard_ms * CLEAT_NS_PER_MS < CLEAT_NONE);
    return value != 0 ? value : standard_ms * CLEAT_NS_PER_MS;
}

/* The same for what CLEAT_NONE makes nothing. */
SHARED uint64_t or_nothing(uint64_t value, uint32_t standard_ms)
{
    value = resolved(value, standard_ms);
    CLEAT_ASSERT(value > 0);
    return value == CLEAT_NONE ? 0 : value;
}

SHARED uint64_t least(uint64_t a, uint64_t b)
{
    uint64_t smaller = a < b ? a : b;

    CLEAT_ASSERT(smaller <= a && smaller <= b);
    CLEAT_ASSERT(smaller == a || smaller == b);
    return smaller;
}

/* `start` and a duration of a policy. */
SHARED uint64_t later(uint64_t start, uint64_t value, uint32_t standard_ms)
{
    uint64_t until = cleat_time_add(start, resolved(value, standard_ms));

    CLEAT_ASSERT(standard_ms > 0);
    CLEAT_ASSERT(until > start || until == CLEAT_NEVER);
    return until;
}

/* x · thousandths / 1000, cut, saturating. Digit by digit, since a 64-bit
 * division is a library call where registers have 32 bits. */
SHARED uint64_t scaled(uint64_t x, uint32_t thousandths)
{
    const uint64_t whole = x;
    uint32_t rest = 0;
    uint64_t low;
    uint64_t high;

    CLEAT_ASSERT(thousandths <= MULTIPLIER_MAX);
    for (int i = 0; i < 4; i++) { /* x becomes its quotient by 1000 */
        rest = rest << 16 | (uint32_t)(x >> 48);
        x = x << 16 | rest / 1000;
        rest %= 1000;
    }
    CLEAT_ASSERT(rest < 1000);
    low = (x & UINT32_MAX) * thousandths + rest * thousandths / 1000;
    high = (x >> 32) * thousandths + (low >> 32);
    x = high > UINT32_MAX ? UINT64_MAX : high << 32 | (low & UINT32_MAX);
    CLEAT_ASSERT(thousandths < 1000 || x >= whole);
    CLEAT_ASSERT(thousandths > 1000 || x <= whole);
    (void)whole;
    return x;
}

/* U(0, width): width · fraction / 2^32. */
SHARED uint64_t drawn(uint64_t width, uint32_t fraction)
{
    uint64_t low = (width & UINT32_MAX) * fraction >> 32;

    low += (width >> 32) * fraction;
    CLEAT_ASSERT(low < width || width == 0);
    CLEAT_ASSERT(fraction > 0 || low == 0);
    return low;
}

/* The delay d with its jitter. */
static uint64_t jittered(const struct cleat_retry_policy *policy, uint64_t d,
                         uint32_t fraction)
{
    uint32_t jitter = policy->jitter != 0 ? policy->jitter
                                          : CLEAT_RETRY_JITTER_FULL;
    uint64_t width = scaled(d, spread_of(jitter));

    CLEAT_ASSERT(certain_of(jitter) <= CERTAIN_MAX);
    CLEAT_ASSERT(spread_of(jitter) <= SPREAD_MAX);
    if (jitter == CLEAT_RETRY_JITTER_ADDITIVE) {
        width = or_nothing(policy->spread_ns, 1000);
    }
    return cleat_time_add(scaled(d, certain_of(jitter)),
                          drawn(width, fraction));
}

/* The next delay. The slot's is what it grows from, 0 when there was none; it
 * becomes what the one after it grows from. */
SHARED uint64_t next_delay(struct cleat_retry_slot *slot,
                           const struct cleat_retry_policy *policy,
                           uint32_t fraction)
{
    uint32_t multiplier = policy->multiplier_thousandths;
    uint64_t base = or_nothing(policy->base_ns, 100);
    uint64_t delay = slot->delay_ns;
    bool decorrelated = policy->jitter == CLEAT_RETRY_JITTER_DECORRELATED;

    if (multiplier == 0) { multiplier = MULTIPLIER_DEFAULT; }
    if (decorrelated) {
        multiplier = 3000;
        if (delay == 0) { delay = base; }
    }
    delay = scaled(delay, multiplier);
    /* Another policy may have begun lower; and an empty range is its lower
     * end, not zero. */
    if (delay < base) { delay = base; }
    CLEAT_ASSERT(delay >= base);
    if (decorrelated) { delay = base + drawn(delay - base, fraction); }
    slot->delay_ns = least(delay, resolved(policy->max_ns, 5000));
    CLEAT_ASSERT(slot->delay_ns <= delay);
    return jittered(policy, slot->delay_ns, fraction);
}

void cleat_retry_begin(struct cleat_retry_slot *slot,
                       const struct cleat_retry_policy *policy, uint64_t now_ns)
{
    CLEAT_ASSERT(slot != NULL && policy != NULL);
    slot->deadline_ns = later(now_ns, policy->deadline_ns, 180000);
    slot->now_ns = now_ns;
    slot->delay_ns = 0;
    slot->attempts = 1;
    slot->taken = 0;
    CLEAT_ASSERT(slot->deadline_ns >= now_ns);
}

uint64_t cleat_retry_attempt_deadline(const struct cleat_retry_slot *slot,
                                      const struct cleat_retry_policy *policy,
                                      uint64_t start_ns)
{
    CLEAT_ASSERT(slot != NULL && policy != NULL);
    CLEAT_ASSERT(slot->deadline_ns > 0);
    return least(slot->deadline_ns,
                 later(start_ns, policy->attempt_timeout_ns, 60000));
}

/* When the next attempt would begin. */
static uint64_t next_attempt(struct cleat_retry_slot *slot,
                             const struct cleat_retry_policy *policy,
                             uint64_t hint_ns, uint32_t fraction)
{
    uint64_t delay = next_delay(slot, policy, fraction);

    CLEAT_ASSERT(slot->delay_ns <= resolved(policy->max_ns, 5000));
    if (hint_ns != CLEAT_NONE) {
        if ((policy->flags & CLEAT_RETRY_HINT_EXACT) != 0) {
            delay = hint_ns;
            slot->delay_ns = 0; /* the backoff starts over */
        } else if (hint_ns > delay) {
            delay = least(hint_ns, later(delay, policy->hint_max_ns, 5000));
        }
    }
    CLEAT_ASSERT(delay == hint_ns || hint_ns == CLEAT_NONE || delay > 0);
    return cleat_time_add(slot->now_ns, delay);
}

/* What the budget says to a failure that is to be tried again (`may` is
 * CLEAT_OK), or that could have been but for `may`. */
static enum cleat_status budgeted(struct cleat_retry_slot *slot,
                                  struct cleat_retry_budget *budget,
                                  uint32_t cost, enum cleat_status may)
{
    uint32_t tokens = budget->tokens;
    uint32_t left = tokens > cost ? tokens - cost : 0;

    CLEAT_ASSERT(tokens <= budget->tokens_max);
    if (budget->charge_every_failure != 0) {
        budget->tokens = left;
        return left > budget->floor ? may : CLEAT_EXHAUSTED;
    }
    if (may != CLEAT_OK) { return may; }
    if (tokens < cost) { return CLEAT_EXHAUSTED; }
    budget->tokens = left;
    slot->taken = cost;
    CLEAT_ASSERT(left + cost == tokens);
    return CLEAT_OK;
}

/* Whether there is another attempt. */
SHARED enum cleat_status decide(struct cleat_retry_slot *slot,
                                const struct cleat_retry_policy *policy,
                                struct cleat_retry_budget *budget,
                                enum cleat_status status, uint64_t until_ns)
{
    enum cleat_class class_of_status = cleat_status_class(status);
    uint32_t attempts_max = policy->attempts_max;
    enum cleat_status may = CLEAT_OK;

    CLEAT_ASSERT(slot->attempts > 0);
    CLEAT_ASSERT(class_of_status >= CLEAT_CLASS_TRANSIENT);
    /* The flag is the class's bit. */
    if (((RETRIED_CLASSES | (policy->flags & CLEAT_RETRY_IDEMPOTENT)) >>
             class_of_status &
         1) == 0) {
        return status;
    }
    if (attempts_max == 0) { attempts_max = ATTEMPTS_DEFAULT; }
    if (until_ns >= slot->deadline_ns) { may = CLEAT_DEADLINE; }
    if (slot->attempts >= attempts_max) { may = CLEAT_EXHAUSTED; }
    if (budget == NULL) { return may; }
    return budgeted(slot, budget,
                    class_of_status == CLEAT_CLASS_CAPACITY
                        ? budget->cost
                        : budget->cost_transient,
                    may);
}

enum cleat_status cleat_retry_failed(struct cleat_retry_slot *slot,
                                     const struct cleat_retry_policy *policy,
                                     struct cleat_retry_budget *budget,
                                     enum cleat_status status, uint64_t hint_ns,
                                     uint64_t random, uint64_t now_ns,
                                     uint64_t *wait_until_ns)
{
    enum cleat_status decided;
    uint64_t until_ns;

    CLEAT_ASSERT(slot != NULL && policy != NULL && wait_until_ns != NULL);
    if (slot->attempts == 0) { return CLEAT_STATE; }
    if (status >= CLEAT_OK) { return CLEAT_INVALID; }
    if (now_ns < slot->now_ns) { return CLEAT_TIME_BACKWARDS; }
    slot->now_ns = now_ns;
    until_ns = next_attempt(slot, policy, hint_ns, (uint32_t)(random >> 32));
    CLEAT_ASSERT(until_ns >= now_ns);
    decided = decide(slot, policy, budget, status, until_ns);
    if (decided == CLEAT_OK) {
        slot->attempts++;
        *wait_until_ns = until_ns;
        CLEAT_ASSERT(until_ns < slot->deadline_ns);
    } else {
        slot->attempts = 0;
    }
    return decided;
}

enum cleat_status cleat_retry_succeeded(struct cleat_retry_slot *slot,
                                        struct cleat_retry_budget *budget)
{
    uint32_t back;
    uint32_t room;

    CLEAT_ASSERT(slot != NULL);
    if (slot->attempts == 0) { return CLEAT_STATE; }
    slot->attempts = 0;
    if (budget == NULL) { return CLEAT_OK; }
    CLEAT_ASSERT(budget->tokens <= budget->tokens_max);
    back = slot->taken != 0 ? slot->taken : budget->gain;
    room = budget->tokens_max - budget->tokens;
    budget->tokens += back < room ? back : room;
    CLEAT_ASSERT(budget->tokens <= budget->tokens_max);
    return CLEAT_OK;
}
