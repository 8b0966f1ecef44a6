/* Cleat: the Linux clock. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "cleat/linux.h"

#include "system.h"

static uint64_t clock_now_ns(struct cleat_clock_context *context)
{
    (void)context;
    return cleat_linux_now_ns();
}

struct cleat_clock cleat_linux_clock(void)
{
    struct cleat_clock clock = {.context = NULL, .now_ns = clock_now_ns};

    return clock;
}
