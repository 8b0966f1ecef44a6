/* Cleat: what a coordinator sees of a worker. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef CLEAT_TEST_LINUX_VIEW_H
#define CLEAT_TEST_LINUX_VIEW_H

#include "cleat/linux.h"
#include "linux_peer.h"

static inline struct cleat_linux_worker_view
peer_view(struct cleat_linux_workers *workers, uint32_t member)
{
    struct cleat_linux_worker_view out;

    assert_int_equal(cleat_linux_worker_look(workers, member, &out), CLEAT_OK);
    return out;
}

/* Waits until `condition`, which reads `v`, the member's view, is true. */
#define AWAIT_VIEW(bench, member, condition)                               \
    do {                                                                   \
        uint64_t seen_ = 0;                                                \
        for (;;) {                                                         \
            struct cleat_linux_worker_view v = peer_view((bench)->workers, \
                                                         member);          \
            if (condition) { break; }                                      \
            assert_int_equal(                                              \
                cleat_linux_workers_await((bench)->workers, &seen_,        \
                                          peer_now_ns() + WATCHDOG_NS),    \
                CLEAT_OK);                                                 \
        }                                                                  \
    } while (0)

#endif
