/* Cleat: the admission gate. SPDX-License-Identifier: Apache-2.0
 *
 * One word: bit 0 says open, the rest counts who is in. Entering counts first
 * and looks afterwards, in one atomic step, so that whoever closes the gate
 * sees everyone whom it let in. */
#ifndef CLEAT_PORT_LINUX_GATE_H
#define CLEAT_PORT_LINUX_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define CLEAT_GATE_OPEN UINT64_C(1)
#define CLEAT_GATE_ONE UINT64_C(2)

struct cleat_gate {
    _Atomic uint64_t word;
};

static inline bool cleat_gate_is_open(const struct cleat_gate *gate)
{
    return (atomic_load(&gate->word) & CLEAT_GATE_OPEN) != 0;
}

static inline void cleat_gate_open(struct cleat_gate *gate)
{
    (void)atomic_fetch_or(&gate->word, CLEAT_GATE_OPEN);
}

static inline void cleat_gate_close(struct cleat_gate *gate)
{
    (void)atomic_fetch_and(&gate->word, ~CLEAT_GATE_OPEN);
}

/* Nobody is in. Final only once the gate has been closed. */
static inline bool cleat_gate_is_empty(const struct cleat_gate *gate)
{
    return atomic_load(&gate->word) < CLEAT_GATE_ONE;
}

/* Out again. True when the gate is closed and this was the last: whoever waits
 * for that is to be woken. */
static inline bool cleat_gate_leave(struct cleat_gate *gate)
{
    return atomic_fetch_sub(&gate->word, CLEAT_GATE_ONE) == CLEAT_GATE_ONE;
}

/* In, if it is open. When false, *wake says what leaving says. */
static inline bool cleat_gate_enter(struct cleat_gate *gate, bool *wake)
{
    *wake = false;
    /* A closed gate is seen without counting, so that the many who knock do
     * not keep the one who waits from finding it empty. */
    if (!cleat_gate_is_open(gate)) { return false; }
    if ((atomic_fetch_add(&gate->word, CLEAT_GATE_ONE) & CLEAT_GATE_OPEN) !=
        0) {
        return true;
    }
    *wake = cleat_gate_leave(gate);
    return false;
}

#endif
