/* Cleat: a fuzzer must find this. SPDX-License-Identifier: Apache-2.0 */
#include "choose.h"

/* Five choices of sixteen open it. */
static void lock_body(struct choose *c, const void *arg)
{
    static const uint32_t combination[] = {3, 14, 1, 5, 9};

    (void)arg;
    for (size_t i = 0; i < 5; i++) {
        if (choose(c, 16) != combination[i]) { return; }
    }
    choose_fail(c, "the lock is open");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const struct choose_test lock = {.name = "lock", .body = lock_body};

    return choose_fuzz(&lock, bytes, count);
}
