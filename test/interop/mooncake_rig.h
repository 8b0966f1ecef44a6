/* Cleat: a Mooncake Store with batches over it, for tests.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Against our own library, or against a real one and a real master:
 *   CLEAT_MOONCAKE_LIB     path of libmooncake_store.so
 *   CLEAT_MOONCAKE_MASTER  host:port of a master that runs, or the path of a
 *                          mooncake_master, which is then started for the test
 */
#ifndef CLEAT_TEST_MOONCAKE_RIG_H
#define CLEAT_TEST_MOONCAKE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cleat/arena.h"
#include "cleat/local_store.h"
#include "cleat/mooncake.h"

/* All tests together: the store gives memory to the cluster, so that there is
 * some. */
#define RIG_SEGMENT_BYTES ((uint64_t)64 << 20)

struct rig {
    struct cleat_store store;
    struct cleat_local_store *local;
    struct cleat_transfer_service *service;
    void *store_block;
    void *local_block;
    struct cleat_error error;
};

/* What rigs are opened with; a test may change it before rig_open. */
extern struct cleat_mooncake_config rig_mooncake;
extern struct cleat_local_store_config rig_local;
extern struct rig rig;

/* The defaults of a test: short waits, so that none takes long. */
void rig_reset(void);
void rig_open(void);
void rig_ready(void);
void rig_close(void);

/* So many seconds from now. */
uint64_t rig_in_s(uint64_t s);

/* "name" with what no other run has before it; of one buffer of 16. */
const char *rig_key(const char *name);

struct cleat_transfer_value rig_value(const char *key, void *payload,
                                      uint64_t bytes);

/* One value, by default options or those given. */
enum cleat_status rig_put(const char *key, const void *payload, uint64_t bytes,
                          const struct cleat_transfer_options *options);
enum cleat_status rig_get(const char *key, void *payload, uint64_t bytes);
/* What became of that value. */
extern struct cleat_transfer_value rig_last;

/* Bytes that say which they are. */
void rig_fill(void *bytes, size_t count, unsigned seed);

/* The tests on the fake alone. Returns how many have failed. */
int mooncake_faults(void);

#endif
