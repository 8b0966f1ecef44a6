/* Cleat: batches over a Mooncake Store that fails. SPDX-License-Identifier:
 * Apache-2.0
 *
 * What only the fake can be told to do. Its clock runs 100 times as fast as the
 * world's: the 30 s for which Mooncake hides a key whose put has no end are 0.3
 * s here. Nothing says how long something took. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/fakes/mooncake/control.h"
#include "test/interop/mooncake_rig.h"

#define MIB ((size_t)1 << 20)
#define MS CLEAT_NS_PER_MS
#define LONG_MS 3600000u /* of the fake's: longer than any test takes */

static char path[] = "/tmp/cleat-mooncake-XXXXXX";
static struct fake_mooncake *fake;
static struct cleat_transfer_options create = {.mode = CLEAT_TRANSFER_CREATE};
static struct cleat_transfer_options replace = {.mode = CLEAT_TRANSFER_REPLACE};
static struct cleat_transfer_options keep = {.mode = CLEAT_TRANSFER_KEEP};

/* ---- what tests share ---------------------------------------------------- */

static void start_cluster(uint32_t scale, uint32_t discard_ms,
                          uint32_t client_ttl_ms)
{
    struct fake_mooncake_config config;

    if (fake != NULL) { fake_mooncake_end(fake, true); }
    memset(&config, 0, sizeof config);
    config.segment_bytes = RIG_SEGMENT_BYTES;
    config.time_scale = scale;
    config.discard_ms = discard_ms;
    config.client_ttl_ms = client_ttl_ms;
    fake = fake_mooncake_start(path, &config);
}

static int closed(void **state)
{
    (void)state;
    start_cluster(100, 0, 0);
    rig_reset();
    rig_mooncake.lib_path = FAKE_MOONCAKE_LIBRARY;
    rig_mooncake.local_hostname = "127.0.0.1:12400";
    rig_mooncake.segment_bytes = 0;
    rig_local.service.batch.discard_ns = 60 * CLEAT_NS_PER_S;
    return 0;
}

static int ready(void **state)
{
    (void)closed(state);
    rig_open();
    rig_ready();
    fake_mooncake_forget(fake);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    rig_close();
    fake_mooncake_end(fake, true);
    fake = NULL;
    return 0;
}

/* With other settings than those of `ready`. */
static void reopen(void)
{
    rig_close();
    rig_open();
    rig_ready();
    fake_mooncake_forget(fake);
}

static uint32_t rule(enum fake_mooncake_operation operation,
                     enum fake_mooncake_action action, const char *key,
                     uint32_t times, int32_t code, uint32_t argument)
{
    struct fake_mooncake_rule one;

    memset(&one, 0, sizeof one);
    one.operation = (uint32_t)operation;
    one.action = (uint32_t)action;
    one.key = key;
    one.times = times;
    one.code = code;
    one.argument = argument;
    return fake_mooncake_rule(fake, &one);
}

static struct fake_mooncake_facts facts(void)
{
    struct fake_mooncake_facts now;

    fake_mooncake_facts(fake, &now);
    return now;
}

static uint64_t keys_of(enum fake_mooncake_operation operation)
{
    return fake_mooncake_counts(fake, operation).keys;
}

static uint64_t calls_of(enum fake_mooncake_operation operation)
{
    return fake_mooncake_counts(fake, operation).calls;
}

/* On a cluster that forgets as late as that. */
static void restart(uint32_t discard_ms, uint32_t client_ttl_ms)
{
    rig_close();
    start_cluster(100, discard_ms, client_ttl_ms);
    rig_open();
    rig_ready();
    fake_mooncake_forget(fake);
}

/* What happens meanwhile does so when so many keys have been answered: a moment
 * of any clock may come too early on a machine that stands still. */
static void await_keys(enum fake_mooncake_operation operation, uint64_t keys)
{
    while (keys_of(operation) < keys) { (void)sched_yield(); }
}

static pthread_t meanwhile(void *(*happens)(void *))
{
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, happens, NULL), 0);
    return thread;
}

static uint64_t all_calls(void)
{
    uint64_t calls = 0;

    for (int i = 0; i < FAKE_OPERATIONS; i++) {
        calls += calls_of((enum fake_mooncake_operation)i);
    }
    return calls;
}

static void assert_reads(const char *key, const char *text)
{
    char got[256];

    if (rig_get(key, got, strlen(text)) != CLEAT_OK) {
        fail_msg("%s", rig.error.text);
    }
    assert_memory_equal(got, text, strlen(text));
}

static bool is_all(const unsigned char *bytes, size_t count, unsigned value)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != value) { return false; }
    }
    return true;
}

/* Twenty values with room for their frames, side by side. */
#define BATCH 20u
struct roomy {
    _Alignas(64) unsigned char room[CLEAT_FRAME_BYTES];
    unsigned char payload[960];
};
static struct roomy roomy[BATCH];
static char names[BATCH][16];
static struct cleat_transfer_value batch[BATCH];

static void fill_batch(void)
{
    for (unsigned i = 0; i < BATCH; i++) {
        (void)snprintf(names[i], sizeof names[i], "b/%u", i);
        batch[i] = rig_value(names[i], roomy[i].payload,
                             sizeof roomy[i].payload);
        batch[i].flags = CLEAT_STORE_ROOM;
        rig_fill(roomy[i].payload, sizeof roomy[i].payload, i);
    }
}

static enum cleat_status put_batch(void)
{
    return cleat_transfer_put(rig.service, batch, BATCH, NULL, NULL,
                              &rig.error);
}

static enum cleat_status get_batch(void)
{
    for (unsigned i = 0; i < BATCH; i++) {
        memset(roomy[i].payload, '#', sizeof roomy[i].payload);
    }
    return cleat_transfer_get(rig.service, batch, BATCH, NULL, NULL,
                              &rig.error);
}

static void assert_batch(void)
{
    unsigned char expected[sizeof roomy[0].payload];

    for (unsigned i = 0; i < BATCH; i++) {
        rig_fill(expected, sizeof expected, i);
        assert_memory_equal(roomy[i].payload, expected, sizeof expected);
    }
}

/* ---- what always comes up ---------------------------------------------- */

static void what_works_at_once_is_sent_once(void **state)
{
    (void)state;
    fill_batch();
    assert_int_equal(put_batch(), CLEAT_OK);
    assert_int_equal(calls_of(FAKE_PUT), 1);
    assert_int_equal(keys_of(FAKE_PUT), BATCH);
    assert_int_equal(keys_of(FAKE_SIZE), BATCH); /* its word is not believed */
    assert_int_equal(get_batch(), CLEAT_OK);
    assert_int_equal(calls_of(FAKE_GET), 1);
    assert_batch();
}

static void r4_only_failed_keys_are_resent_from_the_same_memory(void **state)
{
    struct fake_mooncake_seen seen;
    uint64_t pointers[BATCH] = {0};
    unsigned again = 0;

    (void)state;
    fill_batch();
    (void)rule(FAKE_PUT, FAKE_ANSWER, "b/3", 1, -800, 0);
    (void)rule(FAKE_PUT, FAKE_ANSWER, "b/7", 2, -103, 0);
    (void)rule(FAKE_PUT, FAKE_ANSWER, "b/11", 1, -901, 0);
    assert_int_equal(put_batch(), CLEAT_OK);
    for (uint64_t i = 0; fake_mooncake_seen(fake, i, &seen); i++) {
        unsigned key;

        if (seen.operation != FAKE_PUT) { continue; }
        assert_int_equal(sscanf(seen.key, "b/%u", &key), 1);
        assert_int_equal(seen.pointer, (uintptr_t)&roomy[key]);
        assert_int_equal(seen.bytes, sizeof roomy[key]);
        if (pointers[key] != 0) {
            assert_true(key == 3 || key == 7 || key == 11);
            again++;
        }
        pointers[key] = seen.pointer;
    }
    assert_int_equal(again, 4);
    assert_int_equal(batch[3].attempts, 2);
    assert_int_equal(batch[7].attempts, 3);
    assert_int_equal(batch[0].attempts, 1);
    assert_int_equal(get_batch(), CLEAT_OK);
    assert_batch();
}

static void
r4_memory_is_registered_once_and_taken_back_on_every_path(void **state)
{
    uint64_t before = facts().registered;

    (void)state;
    fill_batch();
    (void)rule(FAKE_PUT, FAKE_ANSWER, "b/3", 2, -800, 0);
    assert_int_equal(put_batch(), CLEAT_OK);
    assert_int_equal(keys_of(FAKE_REGISTER), 1);
    assert_int_equal(facts().registered, before);
    (void)rule(FAKE_GET, FAKE_ANSWER, "b/5", 0, -800, 0);
    assert_int_not_equal(get_batch(), CLEAT_OK);
    assert_int_equal(keys_of(FAKE_REGISTER), 2);
    assert_int_equal(facts().registered, before);
}

static void r4_a_registration_that_fails_is_told(void **state)
{
    uint64_t before = facts().registered;

    (void)state;
    fill_batch();
    (void)rule(FAKE_REGISTER, FAKE_ANSWER, NULL, 1, -600, 0);
    assert_int_not_equal(put_batch(), CLEAT_OK);
    assert_int_equal(calls_of(FAKE_PUT), 0);
    assert_int_equal(facts().registered, before);
    assert_int_equal(put_batch(), CLEAT_OK);
}

static void r11_exhaustion_tells_every_failed_key(void **state)
{
    struct cleat_transfer_summary summary;

    (void)state;
    fill_batch();
    (void)rule(FAKE_PUT, FAKE_ANSWER, "b/1*", 0, -800, 0); /* 1, 10 … 19 */
    assert_int_not_equal(cleat_transfer_put(rig.service, batch, BATCH, NULL,
                                            &summary, &rig.error),
                         CLEAT_OK);
    for (unsigned i = 0; i < BATCH; i++) {
        bool failed = i == 1 || i >= 10;

        assert_int_equal(batch[i].status == CLEAT_OK, !failed);
        if (!failed) { continue; }
        assert_int_equal(batch[i].attempts, 4);
        assert_int_equal(batch[i].lent, 0);
    }
    assert_int_equal(summary.totals.ok, 9);
    assert_int_equal(summary.totals.failed + summary.totals.unknown, 11);
    assert_non_null(strstr(rig.error.text, "11"));
    assert_non_null(strstr(rig.error.text, "b/1"));
    assert_null(strstr(rig.error.text, "b/19")); /* five are named */
}

static void what_is_permanent_is_not_tried_again(void **state)
{
    (void)state;
    (void)rule(FAKE_PUT, FAKE_ANSWER, "k", 0, -1012, 0);
    assert_int_equal(rig_put("k", "x", 1, NULL), CLEAT_PERMANENT);
    assert_int_equal(rig_last.code, -1012);
    assert_int_equal(rig_last.attempts, 1);
    assert_int_equal(keys_of(FAKE_PUT), 1);
}

static void r13_an_unknown_code_is_tried_and_told_as_it_is(void **state)
{
    (void)state;
    (void)rule(FAKE_GET, FAKE_ANSWER, "k", 2, -4242, 0);
    (void)rule(FAKE_PUT, FAKE_ANSWER, "never", 0, -4243, 0);
    assert_int_equal(rig_put("k", "x", 1, NULL), CLEAT_OK);
    assert_reads("k", "x");
    assert_int_equal(rig_last.attempts, 3);
    assert_int_not_equal(rig_put("never", "x", 1, NULL), CLEAT_OK);
    assert_int_equal(rig_last.code == -4243 || rig_last.code == -704, 1);
    assert_int_equal(rig_last.attempts, 4);
}

/* ---- puts that lie ------------------------------------------------------- */

static void *discard_what_is_masked(void *unused)
{
    await_keys(FAKE_PUT, 1);
    fake_mooncake_advance(fake, LONG_MS);
    return unused;
}

static void
r6_a_put_masked_by_a_lost_writer_is_ok_after_the_discard_time(void **state)
{
    struct cleat_transfer_options options = create;
    pthread_t thread;

    (void)state;
    restart(LONG_MS, 0);
    options.verify = CLEAT_TRANSFER_VERIFY_SIZE;
    assert_true(fake_mooncake_plant(fake, "k", "half a valu", 11, false));
    thread = meanwhile(discard_what_is_masked);
    assert_int_equal(rig_put("k", "another's", 9, &options), CLEAT_OK);
    (void)pthread_join(thread, NULL);
    assert_true(keys_of(FAKE_PUT) > 1);
    assert_reads("k", "another's");
}

static void
r6_a_put_that_was_begun_and_not_ended_is_ok_after_it_too(void **state)
{
    (void)state;
    (void)rule(FAKE_PUT, FAKE_STAY, "k", 1, -901, 0);
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_OK);
    assert_reads("k", "mine");
}

static void *continue_and_discard(void *unused)
{
    await_keys(FAKE_PUT, BATCH);
    fake_mooncake_happen(fake, 0, FAKE_MASTER_CONTINUE, 0);
    await_keys(FAKE_PUT, (uint64_t)2 * BATCH);
    fake_mooncake_advance(fake, LONG_MS);
    return unused;
}

/* The whole story: the master stands still, the put times out, is begun later,
 * and the next one is masked. */
static void
r6_a_stalled_master_hides_a_key_and_the_put_is_ok_in_the_end(void **state)
{
    pthread_t thread;

    (void)state;
    restart(LONG_MS, 0);
    fill_batch();
    fake_mooncake_happen(fake, 0, FAKE_MASTER_STOP, 0);
    thread = meanwhile(continue_and_discard);
    assert_int_equal(
        cleat_transfer_put(rig.service, batch, BATCH, &keep, NULL, &rig.error),
        CLEAT_OK);
    (void)pthread_join(thread, NULL);
    assert_true(keys_of(FAKE_PUT) >= 3 * BATCH);
    assert_int_equal(get_batch(), CLEAT_OK);
    assert_batch();
}

static void r6_a_put_that_stays_hidden_is_unreadable_and_never_ok(void **state)
{
    struct cleat_transfer_options options = keep;

    (void)state;
    rig_close();
    start_cluster(1, LONG_MS, 0);
    rig_local.service.batch.discard_ns = 40 * MS;
    rig_open();
    rig_ready();
    assert_true(fake_mooncake_plant(fake, "k", "half a valu", 11, false));
    options.verify = CLEAT_TRANSFER_VERIFY_SIZE;
    assert_int_equal(rig_put("k", "mine", 4, &options), CLEAT_UNREADABLE);
    (void)rule(FAKE_PUT, FAKE_STAY, "k2", 1, -901, 0);
    assert_int_equal(rig_put("k2", "mine", 4, NULL), CLEAT_UNREADABLE);
    assert_int_equal(rig_put("other", "fine", 4, NULL), CLEAT_OK);
}

static void r6_a_put_that_worked_and_said_not_is_ok_and_made_once(void **state)
{
    (void)state;
    (void)rule(FAKE_PUT, FAKE_ANSWER_DONE, "k", 1, -901, 0);
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_OK);
    assert_int_equal(keys_of(FAKE_PUT), 1);
    assert_reads("k", "mine");
}

/* The remove is lost, the put masked, and the size is the same. */
static void
r6_old_bytes_of_the_same_size_are_found_by_reading_back(void **state)
{
    struct cleat_transfer_options options = replace;

    (void)state;
    assert_int_equal(rig_put("k", "old bytes", 9, NULL), CLEAT_OK);
    (void)rule(FAKE_REMOVE, FAKE_ANSWER, "k", 1, 0, 0);
    options.verify = CLEAT_TRANSFER_VERIFY_FULL;
    assert_int_equal(rig_put("k", "new bytes", 9, &options), CLEAT_OK);
    assert_int_equal(keys_of(FAKE_REMOVE), 2);
    assert_reads("k", "new bytes");
}

static void a_put_that_was_evicted_at_once_is_made_again(void **state)
{
    struct cleat_transfer_options options = create;

    (void)state;
    (void)rule(FAKE_PUT, FAKE_VANISH, "k", 1, 0, 0);
    options.verify = CLEAT_TRANSFER_VERIFY_SIZE;
    assert_int_equal(rig_put("k", "mine", 4, &options), CLEAT_OK);
    assert_int_equal(keys_of(FAKE_PUT), 2);
    assert_reads("k", "mine");
}

static void
what_is_evicted_after_it_was_ok_is_missing_and_not_empty(void **state)
{
    unsigned char got[4] = "####";

    (void)state;
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_OK);
    assert_true(fake_mooncake_evict(fake, "k"));
    assert_int_equal(rig_get("k", got, 4), CLEAT_NOT_FOUND);
    assert_int_equal(rig_last.code, -704);
}

/* ---- results that cannot be believed ------------------------------------- */

static void r1_a_batch_of_which_nothing_is_known_is_looked_after(void **state)
{
    (void)state;
    fill_batch();
    (void)rule(FAKE_PUT, FAKE_CALL_FAILS, NULL, 1, 0, 0);
    assert_int_equal(put_batch(), CLEAT_OK);
    assert_int_equal(keys_of(FAKE_SIZE), 2 * BATCH); /* none, and all */
    assert_int_equal(keys_of(FAKE_PUT), BATCH);
    assert_int_equal(get_batch(), CLEAT_OK);
    assert_batch();

    fake_mooncake_rules_clear(fake);
    assert_int_equal(cleat_transfer_remove(rig.service, batch, BATCH, NULL,
                                           NULL, &rig.error),
                     CLEAT_OK);
    fake_mooncake_forget(fake);
    (void)rule(FAKE_PUT, FAKE_CALL_FAILS_DONE, NULL, 1, 0, 0);
    assert_int_equal(put_batch(), CLEAT_OK);
    assert_int_equal(calls_of(FAKE_PUT), 1); /* they were there */
    (void)rule(FAKE_GET, FAKE_CALL_FAILS, NULL, 2, 0, 0);
    assert_int_equal(get_batch(), CLEAT_OK);
    assert_batch();
}

static void r1_a_result_that_is_not_written_is_no_success(void **state)
{
    unsigned char got[4];

    (void)state;
    (void)rule(FAKE_PUT, FAKE_SILENT, "k", 1, 0, 0);
    (void)rule(FAKE_GET, FAKE_SILENT, "k", 1, 0, 0);
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_OK);
    assert_true(keys_of(FAKE_SIZE) > 0);
    assert_reads("k", "mine");
    assert_int_equal(rig_last.attempts, 2);
    (void)rule(FAKE_GET, FAKE_SILENT, "k", 0, 0, 0);
    assert_int_not_equal(rig_get("k", got, 4), CLEAT_OK);
    assert_int_equal(rig_last.code, CLEAT_MOONCAKE_UNTOLD);
    assert_true(is_all(got, 4, 0));
}

static void r2_fewer_or_more_bytes_than_asked_are_no_success(void **state)
{
    unsigned char got[9];
    struct cleat_transfer_value raw = rig_value("raw", got, 9);

    (void)state;
    assert_int_equal(rig_put("k", "the bytes", 9, NULL), CLEAT_OK);
    (void)rule(FAKE_GET, FAKE_LESS, "k", 1, 0, 3);
    (void)rule(FAKE_GET, FAKE_MORE, "k", 1, 0, 3);
    assert_reads("k", "the bytes");
    (void)rule(FAKE_GET, FAKE_LESS, "k", 0, 0, 3);
    /* Its header came, and says that there are 9. */
    assert_int_equal(rig_get("k", got, 9), CLEAT_CORRUPT);
    assert_true(is_all(got, 9, 0));

    memcpy(got, "the bytes", 9);
    raw.flags = CLEAT_STORE_RAW;
    assert_int_equal(
        cleat_transfer_put(rig.service, &raw, 1, NULL, NULL, &rig.error),
        CLEAT_OK);
    (void)rule(FAKE_GET, FAKE_LESS, "raw", 1, 0, 3);
    (void)rule(FAKE_GET, FAKE_MORE, "raw", 1, 0, 3);
    assert_int_equal(
        cleat_transfer_get(rig.service, &raw, 1, NULL, NULL, &rig.error),
        CLEAT_OK);
    assert_memory_equal(got, "the bytes", 9);
    (void)rule(FAKE_GET, FAKE_LESS, "raw", 0, 0, 3);
    assert_int_equal(
        cleat_transfer_get(rig.service, &raw, 1, NULL, NULL, &rig.error),
        CLEAT_SHORT);
    assert_true(is_all(got, 9, 0));
}

static void r8_wrong_bits_are_read_again_and_never_called_good(void **state)
{
    unsigned char got[9];

    (void)state;
    assert_int_equal(rig_put("k", "the bytes", 9, NULL), CLEAT_OK);
    (void)rule(FAKE_GET, FAKE_FLIP_READ, "k", 1, 0, 64 * 8 + 3);
    assert_reads("k", "the bytes");
    assert_true(fake_mooncake_flip(fake, "k", 64 * 8 + 3));
    assert_int_equal(rig_get("k", got, 9), CLEAT_CORRUPT);
    assert_true(is_all(got, 9, 0));
    assert_int_equal(keys_of(FAKE_GET), 2 + 3); /* two rereads */
}

static void a_dirty_buffer_of_an_expired_lease_is_thrown_away(void **state)
{
    unsigned char got[960];

    (void)state;
    fill_batch();
    assert_int_equal(put_batch(), CLEAT_OK);
    (void)rule(FAKE_GET, FAKE_DIRTY, "b/4", 1, -707, 0);
    assert_int_equal(get_batch(), CLEAT_OK);
    assert_batch();
    assert_int_equal(batch[4].attempts, 2);
    (void)rule(FAKE_GET, FAKE_DIRTY, "b/4", 0, -707, 0);
    memset(got, '#', sizeof got);
    assert_int_not_equal(rig_get("b/4", got, sizeof got), CLEAT_OK);
    assert_int_equal(rig_last.code, -707);
    assert_true(is_all(got, sizeof got, 0));
    assert_int_not_equal(get_batch(), CLEAT_OK);
    assert_true(is_all(roomy[4].payload, sizeof roomy[4].payload, 0));
}

/* Below the service, which would zero it too. */
static void the_store_itself_zeroes_what_a_failed_get_has_written(void **state)
{
    struct cleat_store_item item;
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_GET, 1, &item,
                                    CLEAT_NEVER};

    (void)state;
    fill_batch();
    assert_int_equal(put_batch(), CLEAT_OK);
    assert_int_equal(rig.store.lend(rig.store.context, &roomy[4],
                                    sizeof roomy[4], true, &rig.error),
                     CLEAT_OK);
    memset(&item, 0, sizeof item);
    item.key = "b/4";
    item.key_bytes = 3;
    item.payload = roomy[4].payload;
    item.bytes = sizeof roomy[4].payload;
    item.flags = CLEAT_STORE_ROOM;
    item.status = CLEAT_PENDING;
    (void)rule(FAKE_GET, FAKE_DIRTY, "b/4", 1, -707, 0);
    assert_int_equal(rig.store.call(rig.store.context, &call), CLEAT_OK);
    assert_int_equal(item.code, -707);
    assert_int_not_equal(item.status, CLEAT_OK);
    assert_true(is_all(roomy[4].payload, sizeof roomy[4].payload, 0));
    assert_int_equal(rig.store.lend(rig.store.context, &roomy[4],
                                    sizeof roomy[4], false, &rig.error),
                     CLEAT_OK);
}

static void r5_each_round_is_classified_afresh(void **state)
{
    unsigned char got[4];

    (void)state;
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_OK);
    (void)rule(FAKE_GET, FAKE_ANSWER, "k", 2, -800, 0);
    (void)rule(FAKE_GET, FAKE_ANSWER, "k", 0, -704, 0);
    assert_int_equal(rig_get("k", got, 4), CLEAT_NOT_FOUND);
    assert_int_equal(rig_last.attempts, 3);
    assert_int_equal(rig_last.code, -704);
    assert_int_equal(keys_of(FAKE_GET), 3);
}

static void r3_the_library_is_never_given_a_key_twice(void **state)
{
    unsigned char got[3][4];
    struct cleat_transfer_value values[3];

    (void)state;
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_OK);
    for (int i = 0; i < 3; i++) { values[i] = rig_value("k", got[i], 4); }
    assert_int_equal(
        cleat_transfer_get(rig.service, values, 3, NULL, NULL, &rig.error),
        CLEAT_OK);
    assert_int_equal(keys_of(FAKE_GET), 1);
    for (int i = 0; i < 3; i++) { assert_memory_equal(got[i], "mine", 4); }
}

/* ---- a cluster that is full, or not there -------------------------------- */

static void a_full_store_is_met_by_a_policy_of_its_own(void **state)
{
    static const struct cleat_retry_policy patient = {
        .base_ns = MS, .max_ns = 4 * MS, .attempts_max = 7};

    (void)state;
    rig_local.service.batch.capacity = &patient;
    reopen();
    (void)rule(FAKE_PUT, FAKE_ANSWER, "k", 6, -200, 0); /* data path: 4 */
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_OK);
    assert_int_equal(rig_last.attempts, 7);
    (void)rule(FAKE_PUT, FAKE_ANSWER, "k2", 0, -200, 0);
    assert_int_equal(rig_put("k2", "mine", 4, NULL), CLEAT_CAPACITY);
    assert_int_equal(rig_last.attempts, 7);
    assert_int_equal(rig_last.code, -200);
}

static void a_killed_master_that_comes_back_costs_only_attempts(void **state)
{
    static const struct cleat_retry_policy stubborn = {
        .base_ns = 10 * MS, .max_ns = 10 * MS, .attempts_max = 1000};

    (void)state;
    rig_local.service.batch.policy = &stubborn;
    rig_local.service.batch.capacity = &stubborn;
    reopen();
    fill_batch();
    fake_mooncake_happen(fake, 0, FAKE_MASTER_KILL, 0);
    fake_mooncake_happen(fake, 20000, FAKE_MASTER_RESTART, 0);
    assert_int_equal(put_batch(), CLEAT_OK);
    assert_int_equal(get_batch(), CLEAT_OK);
    assert_batch();
}

static void *let_go_of_the_owner(void *unused)
{
    await_keys(FAKE_GET, 1);
    fake_mooncake_advance(fake, LONG_MS);
    return unused;
}

static void an_owner_that_is_killed_takes_its_values_with_it(void **state)
{
    static const struct cleat_retry_policy stubborn = {
        .base_ns = 10 * MS, .max_ns = 10 * MS, .attempts_max = 1000};
    unsigned char got[4];
    pthread_t thread;

    (void)state;
    rig_local.service.batch.policy = &stubborn;
    restart(0, LONG_MS);
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_OK);
    fake_mooncake_happen(fake, 0, FAKE_OWNER_KILL, 0);
    thread = meanwhile(let_go_of_the_owner);
    /* -800 until the master lets go of it, and then for good: */
    assert_int_equal(rig_get("k", got, 4), CLEAT_NOT_FOUND);
    (void)pthread_join(thread, NULL);
    assert_true(rig_last.attempts > 1);
    assert_int_equal(rig_last.code, -704);
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_CAPACITY);
    fake_mooncake_happen(fake, 0, FAKE_SEGMENT_JOIN, RIG_SEGMENT_BYTES);
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_OK);
}

static void r14_nothing_reaches_the_library_before_it_is_ready(void **state)
{
    (void)state;
    rig_open();
    fill_batch();
    assert_int_equal(put_batch(), CLEAT_STATE);
    assert_int_equal(get_batch(), CLEAT_STATE);
    assert_int_equal(cleat_transfer_exists(rig.service, batch, BATCH, NULL,
                                           NULL, &rig.error),
                     CLEAT_STATE);
    assert_int_equal(all_calls(), 0); /* a batch call would be a crash */
    rig_ready();
    assert_int_equal(put_batch(), CLEAT_OK);
}

static void r15_setup_may_fail_a_few_times(void **state)
{
    (void)state;
    (void)rule(FAKE_SETUP, FAKE_ANSWER, NULL, 1, -600, 0);
    (void)rule(FAKE_SETUP, FAKE_ANSWER, NULL, 1, -1, 0);
    rig_open();
    /* Each is worth another try: the service would wait, and try again. */
    for (int i = 0; i < 2; i++) {
        enum cleat_status status = rig.store.ready(rig.store.context,
                                                   rig_in_s(60), &rig.error);
        enum cleat_class class = cleat_status_class(status);

        assert_true(class == CLEAT_CLASS_TRANSIENT ||
                    class == CLEAT_CLASS_AMBIGUOUS);
        assert_int_equal(facts().handles, 0);
        assert_int_equal(calls_of(FAKE_PUT), 0);
    }
    rig_ready();
    assert_int_equal(calls_of(FAKE_SETUP), 3);
    assert_int_equal(facts().handles, 1);
    assert_int_equal(calls_of(FAKE_PUT), 1); /* the canary */
}

static void *join_late(void *unused)
{
    await_keys(FAKE_PUT, 1);
    fake_mooncake_happen(fake, 0, FAKE_SEGMENT_JOIN, RIG_SEGMENT_BYTES);
    return unused;
}

/* Mooncake takes a client into a cluster that has no memory. */
static void r15_a_cluster_without_memory_is_ready_when_some_joins(void **state)
{
    struct fake_mooncake_config config = {.time_scale = 100};
    struct fake_mooncake_seen seen;
    char keys[16][FAKE_KEY_SHOWN];
    unsigned canaries = 0;
    pthread_t thread;

    (void)state;
    fake_mooncake_end(fake, true);
    fake = fake_mooncake_start(path, &config);
    rig_open();
    thread = meanwhile(join_late);
    rig_ready();
    (void)pthread_join(thread, NULL);
    for (uint64_t i = 0; fake_mooncake_seen(fake, i, &seen); i++) {
        if (seen.operation != FAKE_PUT || canaries == 16) { continue; }
        for (unsigned k = 0; k < canaries; k++) {
            assert_string_not_equal(keys[k], seen.key); /* never the same */
        }
        memcpy(keys[canaries++], seen.key, FAKE_KEY_SHOWN);
    }
    assert_true(canaries > 1);
    assert_int_equal(facts().objects, 0); /* and none is left */
    assert_int_equal(rig_put("k", "mine", 4, NULL), CLEAT_OK);
}

static void r16_time_outs_are_set_before_the_library_is_loaded(void **state)
{
    (void)state;
    assert_int_equal(facts().rpc_timeout_ms,
                     CLEAT_MOONCAKE_RPC_TIMEOUT_MS_DEFAULT);
    assert_int_equal(facts().rpc_connect_timeout_ms,
                     CLEAT_MOONCAKE_RPC_CONNECT_TIMEOUT_MS_DEFAULT);
}

static void
r17_a_library_that_lacks_a_function_is_named_with_its_path(void **state)
{
    size_t bytes;
    void *block;
    struct cleat_store store;
    struct cleat_error error;

    (void)state;
    rig_mooncake.lib_path = FAKE_MOONCAKE_LIBRARY_MISSING;
    bytes = cleat_mooncake_bytes(&rig_mooncake);
    block = aligned_alloc(CLEAT_ALIGN, CLEAT_ALIGN_UP(bytes));
    assert_non_null(block);
    assert_int_equal(
        cleat_mooncake_open(block, bytes, &rig_mooncake, &store, &error),
        CLEAT_UNSUPPORTED);
    assert_non_null(strstr(error.text, FAKE_MOONCAKE_LIBRARY_MISSING));
    assert_non_null(strstr(error.text, "mooncake_store_batch_is_exist"));
    free(block);
}

static void r17_a_library_that_has_only_what_is_needed_is_enough(void **state)
{
    (void)state;
    rig_mooncake.lib_path = FAKE_MOONCAKE_LIBRARY_NEEDED;
    rig_open();
    rig_ready();
    fill_batch();
    assert_int_equal(put_batch(), CLEAT_OK);
    assert_int_equal(get_batch(), CLEAT_OK);
    assert_batch();
}

static void r18_device_memory_never_reaches_the_library(void **state)
{
    static unsigned char memory[4096];
    struct cleat_transfer_value value = rig_value("k", memory, sizeof memory);

    (void)state;
    fake_mooncake_device(fake, memory, sizeof memory);
    value.flags = CLEAT_STORE_DEVICE | CLEAT_STORE_RAW;
    assert_int_equal(
        cleat_transfer_put(rig.service, &value, 1, NULL, NULL, &rig.error),
        CLEAT_UNSUPPORTED);
    assert_int_equal(
        cleat_transfer_get(rig.service, &value, 1, NULL, NULL, &rig.error),
        CLEAT_UNSUPPORTED);
    assert_int_equal(calls_of(FAKE_PUT), 0);
    assert_int_equal(calls_of(FAKE_GET), 0);
}

/* ---- limits and ends ----------------------------------------------------- */

static void r12_a_library_call_has_no_more_keys_than_it_may(void **state)
{
    static struct cleat_transfer_value values[1000];
    static char keys[1000][16];
    static uint64_t bytes[1000];
    struct fake_mooncake_seen seen;
    uint64_t call = 0;
    unsigned in_it = 0;

    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "%u", i);
        values[i] = rig_value(keys[i], &bytes[i], 8);
    }
    assert_int_equal(
        cleat_transfer_put(rig.service, values, 1000, NULL, NULL, &rig.error),
        CLEAT_OK);
    for (uint64_t i = 0; fake_mooncake_seen(fake, i, &seen); i++) {
        in_it = seen.call == call ? in_it + 1 : 1;
        call = seen.call;
        assert_true(in_it <= 400);
    }
    assert_true(facts().calls_at_once <= 4);
    assert_int_equal(facts().replicas_none, 0);
}

/* A put of a value that the service has, and a call that does not come back. */
static void *release_when_drained(void *argument)
{
    (void)argument;
    while (facts().held != 0) { fake_mooncake_release(fake); }
    return NULL;
}

static void r10_at_the_deadline_what_is_in_a_call_is_lent(void **state)
{
    static unsigned char payload[CLEAT_FRAME_BYTES + 64];
    struct cleat_transfer_options options = {0};
    struct cleat_transfer_value value = rig_value(
        "k", payload + CLEAT_FRAME_BYTES, 64);
    uint32_t calls;
    uint32_t stuck;
    pthread_t thread;

    (void)state;
    (void)rule(FAKE_PUT, FAKE_CALL_HELD, "k", 1, 0, 0);
    value.flags = CLEAT_STORE_ROOM;
    /* Longer where a machine stood still, and the call was not made. */
    for (uint64_t s = 1; facts().held == 0; s *= 2) {
        assert_true(s <= 64);
        options.deadline_ns = rig_in_s(s);
        assert_int_not_equal(cleat_transfer_put(rig.service, &value, 1,
                                                &options, NULL, &rig.error),
                             CLEAT_OK);
    }
    assert_int_equal(value.lent, 1);
    cleat_transfer_service_count(rig.service, &calls, &stuck);
    assert_int_equal(calls, 1);
    assert_int_equal(stuck, 1);
    assert_int_equal(cleat_transfer_drain(rig.service, rig_in_s(0), &rig.error),
                     CLEAT_DEADLINE);
    assert_int_equal(rig.error.index, 1);
    assert_int_equal(pthread_create(&thread, NULL, release_when_drained, NULL),
                     0);
    assert_int_equal(
        cleat_transfer_drain(rig.service, rig_in_s(60), &rig.error), CLEAT_OK);
    pthread_join(thread, NULL);
    /* The memory is ours again, and nothing of it is registered. */
    assert_int_equal(facts().registered, 1); /* the staging memory */
}

static void r14_the_client_is_destroyed_once_and_nothing_follows(void **state)
{
    (void)state;
    assert_int_equal(facts().handles, 1);
    rig_close(); /* the fake ends the process where a call follows */
    assert_int_equal(facts().handles, 0);
    assert_int_equal(facts().registered, 0);
}

int mooncake_faults(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, ready, finish)
#define CLOSED(name) cmocka_unit_test_setup_teardown(name, closed, finish)
    const struct CMUnitTest tests[] = {
        TEST(what_works_at_once_is_sent_once),
        TEST(r4_only_failed_keys_are_resent_from_the_same_memory),
        TEST(r4_memory_is_registered_once_and_taken_back_on_every_path),
        TEST(r4_a_registration_that_fails_is_told),
        TEST(r11_exhaustion_tells_every_failed_key),
        TEST(what_is_permanent_is_not_tried_again),
        TEST(r13_an_unknown_code_is_tried_and_told_as_it_is),
        TEST(r6_a_put_masked_by_a_lost_writer_is_ok_after_the_discard_time),
        TEST(r6_a_put_that_was_begun_and_not_ended_is_ok_after_it_too),
        TEST(r6_a_stalled_master_hides_a_key_and_the_put_is_ok_in_the_end),
        TEST(r6_a_put_that_stays_hidden_is_unreadable_and_never_ok),
        TEST(r6_a_put_that_worked_and_said_not_is_ok_and_made_once),
        TEST(r6_old_bytes_of_the_same_size_are_found_by_reading_back),
        TEST(a_put_that_was_evicted_at_once_is_made_again),
        TEST(what_is_evicted_after_it_was_ok_is_missing_and_not_empty),
        TEST(r1_a_batch_of_which_nothing_is_known_is_looked_after),
        TEST(r1_a_result_that_is_not_written_is_no_success),
        TEST(r2_fewer_or_more_bytes_than_asked_are_no_success),
        TEST(r8_wrong_bits_are_read_again_and_never_called_good),
        TEST(a_dirty_buffer_of_an_expired_lease_is_thrown_away),
        TEST(the_store_itself_zeroes_what_a_failed_get_has_written),
        TEST(r5_each_round_is_classified_afresh),
        TEST(r3_the_library_is_never_given_a_key_twice),
        TEST(a_full_store_is_met_by_a_policy_of_its_own),
        TEST(a_killed_master_that_comes_back_costs_only_attempts),
        TEST(an_owner_that_is_killed_takes_its_values_with_it),
        CLOSED(r14_nothing_reaches_the_library_before_it_is_ready),
        CLOSED(r15_setup_may_fail_a_few_times),
        CLOSED(r15_a_cluster_without_memory_is_ready_when_some_joins),
        TEST(r16_time_outs_are_set_before_the_library_is_loaded),
        CLOSED(r17_a_library_that_lacks_a_function_is_named_with_its_path),
        CLOSED(r17_a_library_that_has_only_what_is_needed_is_enough),
        TEST(r18_device_memory_never_reaches_the_library),
        TEST(r12_a_library_call_has_no_more_keys_than_it_may),
        TEST(r10_at_the_deadline_what_is_in_a_call_is_lent),
        TEST(r14_the_client_is_destroyed_once_and_nothing_follows),
    };
#undef TEST
#undef CLOSED
    int file = mkstemp(path);

    if (file < 0) { return 1; }
    (void)close(file);
    setenv("FAKE_MOONCAKE_CLUSTER", path, 1);
    return cmocka_run_group_tests_name("a Mooncake Store that fails", tests,
                                       NULL, NULL);
}
