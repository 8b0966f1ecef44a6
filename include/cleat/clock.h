/* Cleat: the clock contract. SPDX-License-Identifier: Apache-2.0
 *
 * Machines never read a clock; whoever drives them does, through this.
 */
#ifndef CLEAT_CLOCK_H
#define CLEAT_CLOCK_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The implementation's own; NULL where it needs none. */
struct cleat_clock_context;

/* now_ns: nanoseconds since a fixed moment of the implementation's choosing.
 *   MUST never go back, as seen by all threads together.
 *   MUST be the clock that the ports' waits are bounded by: on Linux,
 *   CLOCK_MONOTONIC.
 *   MUST return less than CLEAT_NEVER.
 *   MUST NOT block or allocate.
 *   MAY be called by any thread, by several at once. */
struct cleat_clock {
    struct cleat_clock_context *context;
    uint64_t (*now_ns)(struct cleat_clock_context *context);
};

#ifdef __cplusplus
}
#endif
#endif
