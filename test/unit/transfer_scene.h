/* Cleat: a scene for the transfer service. SPDX-License-Identifier: Apache-2.0
 *
 * Real threads, and a time that passes only where all wait: when nothing but
 * blocked calls is under way, a wait comes to its deadline at once. So a test
 * of an hour takes no time, and every deadline is an equality.
 *
 * The store is the one in memory, under the fault layer, under a spy that
 * writes down what it is asked, and can stand still. */
#ifndef CLEAT_TEST_TRANSFER_SCENE_H
#define CLEAT_TEST_TRANSFER_SCENE_H

#include <stdbool.h>
#include <stdint.h>

#include "cleat/store_faults.h"
#include "cleat/transfer_service.h"

#define SCENE_LOG_MAX 16384u
#define SCENE_THREADS 4u
#define SCENE_BATCHES 4u
#define SCENE_START_NS UINT64_C(1000000)

/* An item that the store was given. */
struct scene_item {
    uint32_t call; /* counted from 0 */
    uint32_t operation;
    char key[48];
    const void *payload;
    uint64_t bytes;
};

struct scene_config {
    struct cleat_transfer_service_config service;
    const struct cleat_store_fault *rules;
    uint32_t rules_count;
    uint32_t jobs_max;        /* submitted at once. 0: 64 */
    uint32_t store_calls_max; /* 0: no limit */
    bool lends;               /* the store has `lend` */
    bool unready;             /* the service has not waited for it yet */
};

void scene_open(const struct scene_config *config);
/* Lets go of what is blocked, drains, and looks whether all is as at first. */
void scene_close(void);

struct cleat_transfer_service *scene_service(void);
uint64_t scene_now_ns(void);

/* A call of that operation with that key, NULL: any, stands still until
 * scene_release, before it is carried out or, with `after`, when it was. */
void scene_block(uint32_t operation, const char *key, bool after);
/* Waits until it does. */
void scene_await_blocked(uint32_t count);
void scene_release(void);

/* When time comes to `at_ns`, `act` is called by who waits, once. */
void scene_at(uint64_t at_ns, void (*act)(void *of), void *of);

/* Calls in the store at one time, at most. */
uint32_t scene_most_calls(void);

/* What the store was given since the last scene_forget. */
uint32_t scene_calls(void);
uint32_t scene_items(void);
const struct scene_item *scene_item(uint32_t index);
/* How many items of an operation with a key; NULL: any. */
uint32_t scene_count(uint32_t operation, const char *key);
void scene_forget(void);

/* Memory that is lent now: pieces, and their bytes; and calls of `lend` by
 * which some was. The one numbered `fails`, from 1, is refused. */
uint32_t scene_lent(uint64_t *bytes);
uint32_t scene_lends(void);
void scene_refuse_lend(uint32_t fails);

/* How the store's `ready` fares from now on: `failures` times so, then well. */
void scene_unready(enum cleat_status status, uint32_t failures);
/* … stands still until scene_release. */
void scene_block_ready(void);
uint32_t scene_readies(void);

/* The values that the store holds, put and got beside the service. */
enum cleat_status scene_put_plain(const char *key, const void *bytes,
                                  uint64_t count);
enum cleat_status scene_get_plain(const char *key, void *bytes, uint64_t count);

#endif
