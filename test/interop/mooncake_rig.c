/* Cleat: a Mooncake Store with batches over it, for tests.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "test/interop/mooncake_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WATCHDOG_S 60u

struct cleat_mooncake_config rig_mooncake;
struct cleat_local_store_config rig_local;
struct rig rig;
struct cleat_transfer_value rig_last;

static const struct cleat_retry_policy soon = {.base_ns = CLEAT_NS_PER_MS,
                                               .max_ns = 10 * CLEAT_NS_PER_MS,
                                               .attempts_max = 4};

void rig_reset(void)
{
    memset(&rig_mooncake, 0, sizeof rig_mooncake);
    rig_mooncake.segment_bytes = RIG_SEGMENT_BYTES;
    rig_mooncake.staging_bytes = (uint64_t)8 << 20;
    memset(&rig_local, 0, sizeof rig_local);
    rig_local.service.batch.policy = &soon;
    rig_local.service.batch.capacity = &soon;
    rig_local.service.batch.pace_ns = 5 * CLEAT_NS_PER_MS;
    rig_local.service.batch.deadline_ns = WATCHDOG_S * CLEAT_NS_PER_S;
    rig_local.seed = 1;
}

uint64_t rig_in_s(uint64_t s)
{
    struct cleat_clock clock = cleat_linux_clock();

    return clock.now_ns(clock.context) + s * CLEAT_NS_PER_S;
}

static void *block_of(size_t bytes)
{
    void *block = aligned_alloc(CLEAT_ALIGN, CLEAT_ALIGN_UP(bytes));

    assert_true(bytes != 0);
    assert_non_null(block);
    return block;
}

void rig_open(void)
{
    size_t store_bytes = cleat_mooncake_bytes(&rig_mooncake);
    size_t local_bytes = cleat_local_store_bytes(&rig_local);

    memset(&rig, 0, sizeof rig);
    rig.store_block = block_of(store_bytes);
    rig.local_block = block_of(local_bytes);
    if (cleat_mooncake_open(rig.store_block, store_bytes, &rig_mooncake,
                            &rig.store, &rig.error) != CLEAT_OK ||
        cleat_local_store_open(rig.local_block, local_bytes, &rig_local,
                               &rig.store, &rig.local,
                               &rig.error) != CLEAT_OK) {
        fail_msg("%s", rig.error.text);
    }
    rig.service = cleat_local_store_service(rig.local);
}

void rig_ready(void)
{
    if (cleat_transfer_service_ready(rig.service, rig_in_s(120), &rig.error) !=
        CLEAT_OK) {
        fail_msg("%s", rig.error.text);
    }
}

void rig_close(void)
{
    if (rig.local == NULL) { return; }
    assert_int_equal(
        cleat_local_store_close(rig.local, rig_in_s(WATCHDOG_S), &rig.error),
        CLEAT_OK);
    assert_int_equal(cleat_mooncake_close(&rig.store, &rig.error), CLEAT_OK);
    free(rig.local_block);
    free(rig.store_block);
    memset(&rig, 0, sizeof rig);
}

const char *rig_key(const char *name)
{
    static char keys[16][128];
    static unsigned next;
    static long long run;
    char *key = keys[next++ % 16];

    if (run == 0) { run = (long long)time(NULL) * 100000 + getpid(); }
    (void)snprintf(key, sizeof keys[0], "cleat-test/%lld/%s", run, name);
    return key;
}

struct cleat_transfer_value rig_value(const char *key, void *payload,
                                      uint64_t bytes)
{
    struct cleat_transfer_value value;

    memset(&value, 0, sizeof value);
    value.key = key;
    value.payload = payload;
    value.bytes = bytes;
    value.status = 12345; /* of nobody */
    return value;
}

enum cleat_status rig_put(const char *key, const void *payload, uint64_t bytes,
                          const struct cleat_transfer_options *options)
{
    rig_last = rig_value(key, (void *)(uintptr_t)payload, bytes);
    return cleat_transfer_put(rig.service, &rig_last, 1, options, NULL,
                              &rig.error);
}

enum cleat_status rig_get(const char *key, void *payload, uint64_t bytes)
{
    rig_last = rig_value(key, payload, bytes);
    return cleat_transfer_get(rig.service, &rig_last, 1, NULL, NULL,
                              &rig.error);
}

void rig_fill(void *bytes, size_t count, unsigned seed)
{
    unsigned char *at = bytes;

    for (size_t i = 0; i < count; i++) {
        at[i] = (unsigned char)(i * 31 + (i >> 8) * 7 + seed);
    }
}
