/* Cleat: batches, step by step. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/transfer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define S CLEAT_NS_PER_S
#define MS CLEAT_NS_PER_MS

enum { KEYS = 12, CODE = -800 };

/* Without chance: waits of 1 s, 2 s, 4 s; 4 attempts. A full store: 10 s, 20 s;
 * 3 attempts. */
static const struct cleat_retry_policy plain = {
    1 * S, 4 * S, 0, 0, 0, 0, 4, 2000, CLEAT_RETRY_JITTER_NONE, 0};
static const struct cleat_retry_policy full = {
    10 * S, 20 * S, 0, 0, 0, 0, 3, 2000, CLEAT_RETRY_JITTER_NONE, 0};

struct fixture {
    uint64_t block[CLEAT_TRANSFER_BYTES(KEYS) / sizeof(uint64_t)];
    struct cleat_transfer_config config;
    struct cleat_transfer *t;
    struct cleat_retry_budget *budget;
    uint64_t now;
};

/* A batch of `keys` keys of 100, 101, 102 … bytes; buffers 500, 501, … */
static void start(struct fixture *f)
{
    assert_int_equal(cleat_transfer_begin(f->block, sizeof f->block, &f->config,
                                          f->now, &f->t, NULL),
                     CLEAT_OK);
    assert_ptr_equal(f->t, f->block);
    for (uint32_t key = 0; key < f->config.keys_count; key++) {
        cleat_transfer_set(f->t, key, 500 + key, 100 + key);
    }
}

static void prepare(struct fixture *f, uint32_t kind, uint32_t keys)
{
    memset(f, 0, sizeof *f);
    f->config.kind = kind;
    f->config.keys_count = keys;
    f->config.policy = &plain;
    f->config.capacity = &full;
}

static void begin(struct fixture *f, uint32_t kind, uint32_t keys)
{
    prepare(f, kind, keys);
    start(f);
}

static void begin_put(struct fixture *f, uint32_t keys, uint32_t mode,
                      uint32_t verify)
{
    prepare(f, CLEAT_TRANSFER_PUT, keys);
    f->config.mode = mode;
    f->config.verify = verify;
    start(f);
}

/* The next call must be this one: "put 0 1 2", or "" for none. */
static struct cleat_transfer_command expect(struct fixture *f, const char *what)
{
    static const char *const names[] = {"put",    "get",    "compare",
                                        "remove", "exists", "size"};
    struct cleat_transfer_command command;
    char line[128] = "";
    size_t at = 0;

    if (cleat_transfer_next(f->t, &command)) {
        at = (size_t)snprintf(line, sizeof line, "%s",
                              names[command.operation]);
        for (uint32_t key = cleat_transfer_first(f->t, command.call);
             key != CLEAT_TRANSFER_NOBODY;
             key = cleat_transfer_next_key(f->t, key)) {
            at += (size_t)snprintf(line + at, sizeof line - at, " %u", key);
            assert_int_equal(cleat_transfer_buffer(f->t, key), 500 + key);
        }
    }
    assert_string_equal(line, what);
    return command;
}

static void tell(struct fixture *f, uint32_t call, uint32_t key,
                 enum cleat_status status, uint64_t bytes)
{
    assert_int_equal(cleat_transfer_told(f->t, call, key, status,
                                         status == CLEAT_OK ? 0 : CODE, bytes),
                     CLEAT_OK);
}

static void back(struct fixture *f, uint32_t call)
{
    assert_int_equal(
        cleat_transfer_returned(f->t, f->now, call, f->budget, CLEAT_NONE, 0),
        CLEAT_OK);
}

/* The next call must be `what`; all of its keys fare so. */
static void all(struct fixture *f, const char *what, enum cleat_status status)
{
    struct cleat_transfer_command command = expect(f, what);

    for (uint32_t key = cleat_transfer_first(f->t, command.call);
         key != CLEAT_TRANSFER_NOBODY;
         key = cleat_transfer_next_key(f->t, key)) {
        tell(f, command.call, key, status, 100 + key);
    }
    back(f, command.call);
}

/* Nothing is to be done before `at`; then it is. */
static void sleep_until(struct fixture *f, uint64_t at)
{
    (void)expect(f, "");
    assert_int_equal(cleat_transfer_deadline(f->t), at);
    assert_int_equal(cleat_transfer_tick(f->t, at - 1), CLEAT_OK);
    (void)expect(f, "");
    f->now = at;
    assert_int_equal(cleat_transfer_tick(f->t, at), CLEAT_OK);
}

static struct cleat_transfer_report look(struct fixture *f, uint32_t key)
{
    struct cleat_transfer_report report;

    cleat_transfer_look(f->t, key, &report);
    return report;
}

static enum cleat_status status_of(struct fixture *f)
{
    return cleat_transfer_status(f->t, NULL);
}

static struct cleat_transfer_totals totals(struct fixture *f)
{
    return cleat_transfer_count(f->t);
}

/* --- what always comes up ------------------------------------------------
 */

static void first_try_success_is_one_call_and_nothing_again(void **state)
{
    struct fixture f;
    uint32_t whose = 7;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 3);
    assert_int_equal(status_of(&f), CLEAT_PENDING);
    assert_int_equal(look(&f, 0).status, CLEAT_PENDING);
    all(&f, "get 0 1 2", CLEAT_OK);
    assert_int_equal(cleat_transfer_status(f.t, &whose), CLEAT_OK);
    assert_int_equal(whose, CLEAT_TRANSFER_NOBODY);
    assert_true(cleat_transfer_drained(f.t));
    assert_int_equal(totals(&f).bytes_sent, 100 + 101 + 102);
    assert_int_equal(totals(&f).bytes_again, 0);
    assert_int_equal(totals(&f).ok, 3);
    assert_int_equal(totals(&f).calls, 1);
    assert_int_equal(totals(&f).rounds, 0);
    for (uint32_t key = 0; key < 3; key++) {
        assert_int_equal(look(&f, key).status, CLEAT_OK);
        assert_int_equal(look(&f, key).attempts, 1);
        assert_int_equal(look(&f, key).bytes, 100 + key);
        assert_int_equal(look(&f, key).code, 0);
    }
    assert_int_equal(cleat_transfer_deadline(f.t), CLEAT_NEVER);
    (void)expect(&f, "");
}

static void a_batch_recovers_after_k_failures_at_exact_times(void **state)
{
    static const uint64_t moments[] = {1 * S, 3 * S, 7 * S};
    struct fixture f;

    (void)state;
    for (uint32_t k = 0; k <= 3; k++) {
        begin(&f, CLEAT_TRANSFER_GET, 2);
        for (uint32_t i = 0; i < k; i++) {
            all(&f, "get 0 1", CLEAT_TRANSIENT);
            sleep_until(&f, moments[i]);
        }
        all(&f, "get 0 1", CLEAT_OK);
        assert_int_equal(status_of(&f), CLEAT_OK);
        assert_int_equal(look(&f, 1).attempts, k + 1);
        assert_int_equal(totals(&f).rounds, k);
        assert_int_equal(totals(&f).bytes_again, 201 * k);
    }
}

static void r11_exhaustion_reports_every_failed_key_with_its_code(void **state)
{
    struct fixture f;
    uint32_t whose = 7;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 4);
    for (uint32_t i = 0; i < 4; i++) {
        struct cleat_transfer_command call = expect(&f, i == 0 ? "get 0 1 2 3"
                                                               : "get 1 3");

        if (i == 0) {
            tell(&f, call.call, 0, CLEAT_OK, 100);
            tell(&f, call.call, 2, CLEAT_OK, 102);
        }
        tell(&f, call.call, 1, CLEAT_TRANSIENT, 0);
        tell(&f, call.call, 3, CLEAT_PEER_SILENT, 0);
        back(&f, call.call);
        if (i < 3) { sleep_until(&f, f.now + (S << i)); }
    }
    /* No wait after the last. */
    assert_int_equal(cleat_transfer_status(f.t, &whose), CLEAT_TRANSIENT);
    assert_int_equal(whose, 1);
    assert_int_equal(f.now, 7 * S);
    assert_int_equal(look(&f, 1).status, CLEAT_TRANSIENT);
    assert_int_equal(look(&f, 3).status, CLEAT_PEER_SILENT);
    for (uint32_t key = 1; key < 4; key += 2) {
        assert_int_equal(look(&f, key).code, CODE);
        assert_int_equal(look(&f, key).attempts, 4);
        assert_int_equal(look(&f, key).bytes, 0);
        assert_false(look(&f, key).unknown);
    }
    assert_int_equal(totals(&f).ok, 2);
    assert_int_equal(totals(&f).failed, 2);
    assert_int_equal(totals(&f).unknown, 0);
}

static void r4_only_failed_keys_are_resent_from_the_same_buffers(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    begin_put(&f, 5, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_RETRIED);
    call = expect(&f, "put 0 1 2 3 4");
    assert_int_equal(call.bytes, 510);
    for (uint32_t key = 0; key < 5; key++) {
        tell(&f, call.call, key, key % 2 ? CLEAT_TRANSIENT : CLEAT_OK, 0);
    }
    back(&f, call.call);
    sleep_until(&f, 1 * S);
    /* expect() compares the buffers. */
    call = expect(&f, "put 1 3");
    assert_int_equal(call.bytes, 101 + 103);
    tell(&f, call.call, 1, CLEAT_OK, 0);
    tell(&f, call.call, 3, CLEAT_OK, 0);
    back(&f, call.call);
    all(&f, "size 1 3", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
    assert_int_equal(totals(&f).bytes_sent, 510 + 204);
    assert_int_equal(totals(&f).bytes_again, 204);
}

static void empty_missing_and_failed_are_three_things(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 3);
    for (uint32_t key = 0; key < 3; key++) {
        cleat_transfer_set(f.t, key, 500 + key, 0);
    }
    call = expect(&f, "get 0 1 2");
    assert_int_equal(call.bytes, 0);
    tell(&f, call.call, 0, CLEAT_OK, 0);
    tell(&f, call.call, 1, CLEAT_NOT_FOUND, 0);
    tell(&f, call.call, 2, CLEAT_PERMANENT, 0);
    back(&f, call.call);
    assert_int_equal(look(&f, 0).status, CLEAT_OK);
    assert_int_equal(look(&f, 0).bytes, 0);
    assert_int_equal(look(&f, 1).status, CLEAT_NOT_FOUND);
    assert_int_equal(look(&f, 2).status, CLEAT_PERMANENT);
    /* And it can be put. */
    begin_put(&f, 1, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_SIZE);
    cleat_transfer_set(f.t, 0, 500, 0);
    all(&f, "put 0", CLEAT_OK);
    call = expect(&f, "size 0");
    tell(&f, call.call, 0, CLEAT_OK, 0);
    back(&f, call.call);
    assert_int_equal(status_of(&f), CLEAT_OK);
}

/* --- results, by class -----------------------------------------------------
 */

static void a_permanent_failure_is_not_tried_again(void **state)
{
    static const enum cleat_status statuses[] = {
        CLEAT_PERMANENT, CLEAT_INVALID,   CLEAT_NOT_FOUND, CLEAT_LIMIT,
        CLEAT_PEER_LOST, CLEAT_CANCELLED, CLEAT_MALFORMED, CLEAT_EXISTS};
    struct fixture f;

    (void)state;
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        begin(&f, CLEAT_TRANSFER_GET, 1);
        all(&f, "get 0", statuses[i]);
        assert_int_equal(status_of(&f), statuses[i]);
        assert_int_equal(look(&f, 0).attempts, 1);
        assert_int_equal(totals(&f).failed, 1);
    }
}

static void a_mixed_batch_is_sorted_key_by_key(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    begin_put(&f, 5, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_RETRIED);
    call = expect(&f, "put 0 1 2 3 4");
    tell(&f, call.call, 0, CLEAT_OK, 0);
    tell(&f, call.call, 1, CLEAT_TRANSIENT, 0);
    tell(&f, call.call, 2, CLEAT_AMBIGUOUS, 0);
    tell(&f, call.call, 3, CLEAT_CAPACITY, 0);
    tell(&f, call.call, 4, CLEAT_PERMANENT, 0);
    back(&f, call.call);
    sleep_until(&f, 1 * S);
    /* What may have taken effect is looked for before it is made again. */
    all(&f, "put 1", CLEAT_OK);
    all(&f, "size 2 1", CLEAT_OK);
    sleep_until(&f, 10 * S);
    all(&f, "put 3", CLEAT_OK);
    all(&f, "size 3", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_PERMANENT);
    assert_int_equal(totals(&f).ok, 4);
    assert_int_equal(totals(&f).failed, 1);
}

static void a_full_store_is_waited_for_by_the_slower_policy(void **state)
{
    struct fixture f;

    (void)state;
    begin_put(&f, 1, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_RETRIED);
    all(&f, "put 0", CLEAT_CAPACITY);
    sleep_until(&f, 10 * S);
    all(&f, "put 0", CLEAT_CAPACITY);
    sleep_until(&f, 30 * S);
    all(&f, "put 0", CLEAT_CAPACITY);
    assert_int_equal(status_of(&f), CLEAT_CAPACITY);
    assert_int_equal(look(&f, 0).attempts, 3);
}

static void r5_codes_are_classified_afresh_each_round(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 1);
    all(&f, "get 0", CLEAT_TRANSIENT);
    sleep_until(&f, 1 * S);
    all(&f, "get 0", CLEAT_TRANSIENT);
    sleep_until(&f, 3 * S);
    all(&f, "get 0", CLEAT_NOT_FOUND);
    assert_int_equal(status_of(&f), CLEAT_NOT_FOUND);
    assert_int_equal(look(&f, 0).attempts, 3);
}

static void r1_what_a_call_says_nothing_about_is_ambiguous(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    /* A vector of results that is too short; then a call that failed whole. */
    begin_put(&f, 3, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_RETRIED);
    call = expect(&f, "put 0 1 2");
    tell(&f, call.call, 0, CLEAT_OK, 0);
    back(&f, call.call);
    sleep_until(&f, 1 * S);
    call = expect(&f, "size 1 2");
    back(&f, call.call);
    sleep_until(&f, 3 * S);
    call = expect(&f, "size 1 2");
    tell(&f, call.call, 1, CLEAT_OK, 101);
    tell(&f, call.call, 2, CLEAT_NOT_FOUND, 0);
    back(&f, call.call);
    all(&f, "put 2", CLEAT_OK);
    all(&f, "size 2", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
    assert_int_equal(totals(&f).bytes_again, 102);
}

static void
an_unknown_code_is_tried_again_boundedly_and_told_verbatim(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 1);
    for (int i = 0; i < 4; i++) {
        struct cleat_transfer_command call = expect(&f, "get 0");

        assert_int_equal(
            cleat_transfer_told(f.t, call.call, 0, CLEAT_AMBIGUOUS, -123456, 0),
            CLEAT_OK);
        back(&f, call.call);
        if (i < 3) { sleep_until(&f, f.now + (S << i)); }
    }
    assert_int_equal(status_of(&f), CLEAT_AMBIGUOUS);
    assert_int_equal(look(&f, 0).code, -123456);
    /* A get has no effect that could be unknown. */
    assert_false(look(&f, 0).unknown);
    assert_int_equal(totals(&f).failed, 1);
}

static void what_is_told_twice_counts_the_last_time(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 3);
    call = expect(&f, "get 0 1 2");
    tell(&f, call.call, 0, CLEAT_PERMANENT, 0);
    tell(&f, call.call, 0, CLEAT_OK, 100);
    tell(&f, call.call, 1, CLEAT_OK, 101);
    tell(&f, call.call, 1, CLEAT_NOT_FOUND, 0);
    tell(&f, call.call, 2, CLEAT_OK, 1);
    tell(&f, call.call, 2, CLEAT_OK, 102);
    assert_int_equal(look(&f, 1).status, CLEAT_PENDING);
    back(&f, call.call);
    assert_int_equal(look(&f, 0).status, CLEAT_OK);
    assert_int_equal(look(&f, 1).status, CLEAT_NOT_FOUND);
    assert_int_equal(look(&f, 2).status, CLEAT_OK);
}

/* --- get -------------------------------------------------------------------
 */

static void r2_a_get_of_other_bytes_is_no_success(void **state)
{
    static const uint64_t wrong[] = {99, 101, 0, UINT64_MAX};
    struct fixture f;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct cleat_transfer_command call;

        begin(&f, CLEAT_TRANSFER_GET, 1);
        call = expect(&f, "get 0");
        tell(&f, call.call, 0, CLEAT_OK, wrong[i]);
        back(&f, call.call);
        sleep_until(&f, 1 * S);
        all(&f, "get 0", CLEAT_OK);
        assert_int_equal(status_of(&f), CLEAT_OK);
        assert_int_equal(look(&f, 0).bytes, 100);
    }
}

static void r8_what_does_not_match_is_read_again_and_then_failed(void **state)
{
    static const enum cleat_status found[] = {CLEAT_CORRUPT, CLEAT_SHORT};
    struct fixture f;

    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        begin(&f, CLEAT_TRANSFER_GET, 1);
        all(&f, "get 0", found[i]);
        sleep_until(&f, 1 * S);
        all(&f, "get 0", found[i]);
        sleep_until(&f, 3 * S);
        all(&f, "get 0", found[i]);
        /* Two rereads, and attempts left. */
        assert_int_equal(status_of(&f), found[i]);
        assert_int_equal(look(&f, 0).attempts, 3);
        assert_int_equal(totals(&f).failed, 1);
    }
    prepare(&f, CLEAT_TRANSFER_GET, 1);
    f.config.rereads_max = 1;
    start(&f);
    all(&f, "get 0", CLEAT_CORRUPT);
    sleep_until(&f, 1 * S);
    all(&f, "get 0", CLEAT_CORRUPT);
    assert_int_equal(status_of(&f), CLEAT_CORRUPT);
}

static void r8_a_size_not_known_is_asked_fetched_and_checked_again(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 3);
    f.config.sized = 1;
    start(&f);
    call = expect(&f, "size 0 1 2");
    assert_int_equal(call.bytes, 0);
    tell(&f, call.call, 0, CLEAT_OK, 40);
    tell(&f, call.call, 1, CLEAT_OK, 0);
    tell(&f, call.call, 2, CLEAT_OK, 103);
    back(&f, call.call);
    /* The third's buffer holds 102. */
    assert_int_equal(look(&f, 2).status, CLEAT_TOO_SMALL);
    call = expect(&f, "get 0 1");
    assert_int_equal(call.bytes, 40);
    assert_int_equal(cleat_transfer_key_bytes(f.t, 0), 40);
    assert_int_equal(cleat_transfer_key_bytes(f.t, 1), 0);
    tell(&f, call.call, 0, CLEAT_OK, 41); /* it has grown */
    tell(&f, call.call, 1, CLEAT_OK, 0);
    back(&f, call.call);
    assert_int_equal(look(&f, 1).status, CLEAT_OK);
    sleep_until(&f, 1 * S);
    call = expect(&f, "size 0");
    tell(&f, call.call, 0, CLEAT_OK, 41);
    back(&f, call.call);
    call = expect(&f, "get 0");
    assert_int_equal(call.bytes, 41);
    tell(&f, call.call, 0, CLEAT_OK, 41);
    back(&f, call.call);
    assert_int_equal(look(&f, 0).status, CLEAT_OK);
    assert_int_equal(look(&f, 0).bytes, 41);
    assert_int_equal(look(&f, 1).bytes, 0);
    assert_int_equal(status_of(&f), CLEAT_TOO_SMALL);
}

static void what_is_missing_may_still_come_where_that_was_asked(void **state)
{
    struct fixture f;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 1);
    f.config.wait = 1;
    start(&f);
    /* Every 2 s, however often, and no attempt is spent. */
    for (uint32_t i = 1; i <= 50; i++) {
        all(&f, "get 0", i % 5 == 0 ? CLEAT_UNREADABLE : CLEAT_NOT_FOUND);
        sleep_until(&f, 2 * S * i);
    }
    all(&f, "get 0", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
    assert_int_equal(look(&f, 0).attempts, 1);
    assert_int_equal(totals(&f).rounds, 0);
    prepare(&f, CLEAT_TRANSFER_GET, 1);
    f.config.wait = 1;
    f.config.deadline_ns = 3 * S;
    start(&f);
    all(&f, "get 0", CLEAT_NOT_FOUND);
    sleep_until(&f, 2 * S);
    all(&f, "get 0", CLEAT_NOT_FOUND);
    sleep_until(&f, 3 * S);
    assert_int_equal(status_of(&f), CLEAT_DEADLINE);
    assert_int_equal(look(&f, 0).code, CODE);
    assert_int_equal(totals(&f).failed, 1);
}

static void a_get_of_what_is_in_progress_waits_until_discard(void **state)
{
    struct fixture f;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 1);
    f.config.discard_ns = 5 * S;
    start(&f);
    all(&f, "get 0", CLEAT_UNREADABLE);
    sleep_until(&f, 2 * S);
    all(&f, "get 0", CLEAT_UNREADABLE);
    sleep_until(&f, 4 * S);
    all(&f, "get 0", CLEAT_UNREADABLE);
    sleep_until(&f, 5 * S); /* the last time at their end */
    all(&f, "get 0", CLEAT_UNREADABLE);
    assert_int_equal(status_of(&f), CLEAT_UNREADABLE);
    assert_int_equal(totals(&f).failed, 1);
}

/* --- put -------------------------------------------------------------------
 */

static void r7_create_fails_where_there_is_a_value(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    begin_put(&f, 3, CLEAT_TRANSFER_CREATE, CLEAT_TRANSFER_VERIFY_RETRIED);
    call = expect(&f, "exists 0 1 2");
    tell(&f, call.call, 0, CLEAT_OK, 0);
    tell(&f, call.call, 1, CLEAT_NOT_FOUND, 0);
    tell(&f, call.call, 2, CLEAT_NOT_FOUND, 0);
    back(&f, call.call);
    call = expect(&f, "put 1 2");
    tell(&f, call.call, 1, CLEAT_OK, 0);
    tell(&f, call.call, 2, CLEAT_EXISTS, 0); /* since then */
    back(&f, call.call);
    assert_int_equal(look(&f, 0).status, CLEAT_EXISTS);
    assert_int_equal(look(&f, 1).status, CLEAT_OK);
    assert_int_equal(look(&f, 1).bytes, 101);
    assert_int_equal(look(&f, 2).status, CLEAT_EXISTS);
    assert_false(look(&f, 2).unknown);
    assert_int_equal(status_of(&f), CLEAT_EXISTS);
}

static void r7_replace_removes_first(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    begin_put(&f, 2, CLEAT_TRANSFER_REPLACE, CLEAT_TRANSFER_VERIFY_RETRIED);
    call = expect(&f, "remove 0 1");
    tell(&f, call.call, 0, CLEAT_OK, 0);
    tell(&f, call.call, 1, CLEAT_NOT_FOUND, 0);
    back(&f, call.call);
    call = expect(&f, "put 0 1");
    tell(&f, call.call, 0, CLEAT_OK, 0);
    tell(&f, call.call, 1, CLEAT_EXISTS, 0); /* somebody's, since then */
    back(&f, call.call);
    assert_int_equal(look(&f, 0).status, CLEAT_OK);
    sleep_until(&f, 1 * S);
    all(&f, "remove 1", CLEAT_OK);
    all(&f, "put 1", CLEAT_OK);
    all(&f, "size 1", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
}

static void r7_keep_keeps_what_is_there_whatever_it_is(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    begin_put(&f, 1, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_FULL);
    all(&f, "put 0", CLEAT_EXISTS);
    call = expect(&f, "size 0");
    tell(&f, call.call, 0, CLEAT_OK, 7);
    back(&f, call.call);
    assert_int_equal(status_of(&f), CLEAT_OK);
    assert_int_equal(look(&f, 0).bytes, 100);
}

/* The measured trap: the master stalls, the put may have been begun; a second
 * one is answered with success, and nobody can read it until 30 s later. */
static void
r6_a_masked_put_is_unreadable_until_discard_and_then_ok(void **state)
{
    struct fixture f;

    (void)state;
    begin_put(&f, 1, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_RETRIED);
    all(&f, "put 0", CLEAT_PEER_SILENT);
    sleep_until(&f, 1 * S);
    all(&f, "size 0", CLEAT_NOT_FOUND);
    for (uint64_t at = 1; at < 31; at += 2) {
        all(&f, "put 0", CLEAT_OK);
        all(&f, "size 0", at % 4 == 1 ? CLEAT_NOT_FOUND : CLEAT_UNREADABLE);
        sleep_until(&f, (at + 2) * S);
    }
    assert_int_equal(f.now, 31 * S);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
    /* One wait was the policy's; the slow ones cost nothing. */
    assert_int_equal(look(&f, 0).attempts, 2);
    assert_int_equal(totals(&f).rounds, 1);
    assert_int_equal(totals(&f).bytes_again, 1600);
}

static void r6_a_put_never_readable_is_said_to_be_so(void **state)
{
    struct fixture f;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_PUT, 1);
    f.config.mode = CLEAT_TRANSFER_KEEP;
    f.config.verify = CLEAT_TRANSFER_VERIFY_SIZE;
    f.config.discard_ns = 3 * S;
    start(&f);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_UNREADABLE);
    sleep_until(&f, 2 * S);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_UNREADABLE);
    sleep_until(&f, 3 * S);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_UNREADABLE);
    assert_int_equal(status_of(&f), CLEAT_UNREADABLE);
    assert_true(look(&f, 0).unknown);
    assert_int_equal(totals(&f).unknown, 1);
    /* Where nothing may stay unreadable, the first look decides. */
    f.config.discard_ns = CLEAT_NONE;
    f.now = 0;
    start(&f);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_NOT_FOUND);
    assert_int_equal(status_of(&f), CLEAT_UNREADABLE);
}

static void a_slow_call_still_leaves_one_put_after_discard(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_PUT, 1);
    f.config.mode = CLEAT_TRANSFER_KEEP;
    f.config.verify = CLEAT_TRANSFER_VERIFY_SIZE;
    f.config.discard_ns = 5 * S;
    start(&f);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_UNREADABLE);
    sleep_until(&f, 2 * S);
    all(&f, "put 0", CLEAT_OK);
    call = expect(&f, "size 0");
    f.now = 9 * S;
    tell(&f, call.call, 0, CLEAT_UNREADABLE, 0);
    back(&f, call.call);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
}

static void a_put_that_failed_and_is_not_there_goes_out_at_once(void **state)
{
    struct fixture f;

    (void)state;
    begin_put(&f, 1, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_RETRIED);
    all(&f, "put 0", CLEAT_AMBIGUOUS);
    sleep_until(&f, 1 * S);
    all(&f, "size 0", CLEAT_NOT_FOUND);
    all(&f, "put 0", CLEAT_AMBIGUOUS);
    sleep_until(&f, 3 * S);
    all(&f, "size 0", CLEAT_NOT_FOUND);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
}

static void a_put_of_another_size_is_replaced_or_not_ours(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    for (uint32_t mode = CLEAT_TRANSFER_CREATE; mode <= CLEAT_TRANSFER_REPLACE;
         mode++) {
        begin_put(&f, 1, mode, CLEAT_TRANSFER_VERIFY_RETRIED);
        all(&f, mode == CLEAT_TRANSFER_CREATE ? "exists 0" : "remove 0",
            CLEAT_NOT_FOUND);
        all(&f, "put 0", CLEAT_AMBIGUOUS);
        sleep_until(&f, 1 * S);
        call = expect(&f, "size 0");
        tell(&f, call.call, 0, CLEAT_OK, 99);
        back(&f, call.call);
        if (mode == CLEAT_TRANSFER_CREATE) {
            assert_int_equal(status_of(&f), CLEAT_EXISTS);
            continue;
        }
        sleep_until(&f, 3 * S);
        all(&f, "remove 0", CLEAT_OK);
        all(&f, "put 0", CLEAT_OK);
        all(&f, "size 0", CLEAT_OK);
        assert_int_equal(status_of(&f), CLEAT_OK);
    }
}

/* The old value is kept, by a store that says that the put has worked: it has
 * the same size, and only its bytes tell. */
static void a_stale_value_of_the_same_size_is_found_by_comparing(void **state)
{
    struct fixture f;

    (void)state;
    begin_put(&f, 1, CLEAT_TRANSFER_REPLACE, CLEAT_TRANSFER_VERIFY_FULL);
    all(&f, "remove 0", CLEAT_OK);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_OK);
    all(&f, "compare 0", CLEAT_CORRUPT);
    sleep_until(&f, 1 * S);
    all(&f, "remove 0", CLEAT_OK);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_OK);
    all(&f, "compare 0", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
    assert_int_equal(totals(&f).bytes_sent, 400);
    assert_int_equal(totals(&f).bytes_again, 100);
    /* A create removes nothing: it may be another's. */
    begin_put(&f, 1, CLEAT_TRANSFER_CREATE, CLEAT_TRANSFER_VERIFY_FULL);
    all(&f, "exists 0", CLEAT_NOT_FOUND);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_OK);
    all(&f, "compare 0", CLEAT_CORRUPT);
    sleep_until(&f, 1 * S);
    all(&f, "compare 0", CLEAT_CORRUPT);
    sleep_until(&f, 3 * S);
    all(&f, "compare 0", CLEAT_CORRUPT);
    assert_int_equal(status_of(&f), CLEAT_CORRUPT);
}

static void a_put_that_was_evicted_is_made_again(void **state)
{
    struct fixture f;

    (void)state;
    begin_put(&f, 1, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_FULL);
    begin_put(&f, 1, CLEAT_TRANSFER_REPLACE, CLEAT_TRANSFER_VERIFY_FULL);
    all(&f, "remove 0", CLEAT_NOT_FOUND);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_NOT_FOUND);
    sleep_until(&f, 2 * S);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_OK);
    all(&f, "compare 0", CLEAT_NOT_FOUND);
    sleep_until(&f, 4 * S);
    all(&f, "put 0", CLEAT_OK);
    all(&f, "size 0", CLEAT_OK);
    all(&f, "compare 0", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
}

static void anothers_put_in_progress_is_waited_for_before_ours(void **state)
{
    static const char *const first[] = {"exists 0", "remove 0"};
    struct fixture f;

    (void)state;
    for (uint32_t mode = CLEAT_TRANSFER_CREATE; mode <= CLEAT_TRANSFER_REPLACE;
         mode++) {
        prepare(&f, CLEAT_TRANSFER_PUT, 1);
        f.config.mode = mode;
        f.config.discard_ns = 3 * S;
        start(&f);
        all(&f, first[mode], CLEAT_UNREADABLE);
        sleep_until(&f, 2 * S);
        all(&f, first[mode], CLEAT_UNREADABLE);
        sleep_until(&f, 3 * S);
        all(&f, first[mode], CLEAT_UNREADABLE);
        /* It must have been thrown away; if not, the put is only said to have
         * worked: so it is looked at. */
        all(&f, "put 0", CLEAT_OK);
        all(&f, "size 0", CLEAT_OK);
        assert_int_equal(status_of(&f), CLEAT_OK);
        /* Or it comes. */
        f.now = 0;
        start(&f);
        all(&f, first[mode], CLEAT_UNREADABLE);
        sleep_until(&f, 2 * S);
        all(&f, first[mode], CLEAT_OK);
        if (mode == CLEAT_TRANSFER_CREATE) {
            assert_int_equal(status_of(&f), CLEAT_EXISTS);
        } else {
            all(&f, "put 0", CLEAT_OK);
            assert_int_equal(status_of(&f), CLEAT_OK);
        }
    }
}

static void a_put_refused_as_in_progress_is_made_again_slowly(void **state)
{
    struct fixture f;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_PUT, 1);
    f.config.mode = CLEAT_TRANSFER_KEEP;
    f.config.discard_ns = 3 * S;
    start(&f);
    all(&f, "put 0", CLEAT_UNREADABLE);
    sleep_until(&f, 2 * S);
    all(&f, "put 0", CLEAT_UNREADABLE);
    sleep_until(&f, 3 * S);
    all(&f, "put 0", CLEAT_UNREADABLE);
    assert_int_equal(status_of(&f), CLEAT_UNREADABLE);
    assert_false(look(&f, 0).unknown);
    assert_int_equal(totals(&f).failed, 1);
}

static void what_may_have_taken_effect_is_not_said_to_have_failed(void **state)
{
    struct fixture f;

    (void)state;
    /* No attempt left. */
    begin_put(&f, 1, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_RETRIED);
    all(&f, "put 0", CLEAT_PEER_SILENT);
    for (int i = 0; i < 3; i++) {
        sleep_until(&f, f.now + (S << i));
        all(&f, "size 0", CLEAT_TRANSIENT);
    }
    assert_int_equal(status_of(&f), CLEAT_AMBIGUOUS);
    assert_true(look(&f, 0).unknown);
    assert_int_equal(totals(&f).unknown, 1);
    assert_int_equal(totals(&f).failed, 0);
    /* A permanent failure keeps its name, and is unknown all the same. */
    begin_put(&f, 1, CLEAT_TRANSFER_KEEP, CLEAT_TRANSFER_VERIFY_RETRIED);
    all(&f, "put 0", CLEAT_PEER_SILENT);
    sleep_until(&f, 1 * S);
    all(&f, "size 0", CLEAT_PERMANENT);
    assert_int_equal(status_of(&f), CLEAT_PERMANENT);
    assert_true(look(&f, 0).unknown);
    /* A replace has removed what was there. */
    begin_put(&f, 1, CLEAT_TRANSFER_REPLACE, CLEAT_TRANSFER_VERIFY_RETRIED);
    all(&f, "remove 0", CLEAT_OK);
    assert_int_equal(cleat_transfer_cancel(f.t, 0), CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_AMBIGUOUS);
    assert_true(look(&f, 0).unknown);
}

/* --- remove, exists --------------------------------------------------------
 */

static void a_remove_of_what_is_not_there_is_ok(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_REMOVE, 3);
    f.config.discard_ns = 1 * S;
    start(&f);
    call = expect(&f, "remove 0 1 2");
    assert_int_equal(call.bytes, 0);
    tell(&f, call.call, 0, CLEAT_OK, 0);
    tell(&f, call.call, 1, CLEAT_NOT_FOUND, 0);
    tell(&f, call.call, 2, CLEAT_UNREADABLE, 0);
    back(&f, call.call);
    sleep_until(&f, 1 * S);
    all(&f, "remove 2", CLEAT_UNREADABLE);
    assert_int_equal(look(&f, 0).status, CLEAT_OK);
    assert_int_equal(look(&f, 1).status, CLEAT_OK);
    assert_int_equal(look(&f, 1).bytes, 0);
    assert_int_equal(status_of(&f), CLEAT_UNREADABLE);
    assert_int_equal(totals(&f).bytes_sent, 0);
}

static void exists_is_answered_with_1_or_0(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    begin(&f, CLEAT_TRANSFER_EXISTS, 4);
    call = expect(&f, "exists 0 1 2 3");
    tell(&f, call.call, 0, CLEAT_OK, 0);
    tell(&f, call.call, 1, CLEAT_NOT_FOUND, 0);
    tell(&f, call.call, 2, CLEAT_UNREADABLE, 0); /* cannot be read: no */
    tell(&f, call.call, 3, CLEAT_TRANSIENT, 0);
    back(&f, call.call);
    sleep_until(&f, 1 * S);
    all(&f, "exists 3", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
    assert_int_equal(look(&f, 0).bytes, 1);
    assert_int_equal(look(&f, 1).bytes, 0);
    assert_int_equal(look(&f, 2).bytes, 0);
    assert_int_equal(look(&f, 3).bytes, 1);
}

/* --- limits -----------------------------------------------------------------
 */

static void r12_a_call_has_no_more_keys_and_bytes_than_it_may(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 9);
    f.config.call_keys_max = 3;
    f.config.call_bytes_max = 250;
    f.config.calls_max = 5;
    start(&f);
    cleat_transfer_set(f.t, 2, 502, 251); /* larger than a call may be */
    cleat_transfer_set(f.t, 3, 503, 0);
    cleat_transfer_set(f.t, 4, 504, 125);
    cleat_transfer_set(f.t, 5, 505, 125);
    cleat_transfer_set(f.t, 6, 506, 1);
    call = expect(&f, "get 0 1");
    assert_int_equal(call.bytes, 201);
    assert_int_equal(call.call, 0);
    call = expect(&f, "get 2");
    assert_int_equal(call.bytes, 251);
    call = expect(&f, "get 3 4 5");
    assert_int_equal(call.bytes, 250);
    (void)expect(&f, "get 6 7 8");
    (void)expect(&f, "");
    assert_int_equal(totals(&f).calls, 4);
}

static void r12_no_more_calls_than_allowed_are_in_flight(void **state)
{
    struct fixture f;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 5);
    f.config.call_keys_max = 1;
    f.config.calls_max = 2;
    start(&f);
    (void)expect(&f, "get 0");
    assert_int_equal(expect(&f, "get 1").call, 1);
    (void)expect(&f, "");
    tell(&f, 0, 0, CLEAT_OK, 100);
    back(&f, 0);
    /* The number is free again. */
    assert_int_equal(expect(&f, "get 2").call, 0);
    (void)expect(&f, "");
}

static void the_defaults_are_those_of_the_header(void **state)
{
    static const struct cleat_retry_policy data = CLEAT_RETRY_DATA_PATH;
    static const struct cleat_retry_policy capacity = CLEAT_RETRY_CAPACITY;
    struct fixture f;
    struct fixture spelt;
    const uint64_t random = UINT64_C(0xC0FFEE) << 40;

    (void)state;
    memset(&f, 0, sizeof f);
    f.config.kind = CLEAT_TRANSFER_GET;
    f.config.keys_count = 2;
    spelt = f;
    spelt.config.policy = &data;
    spelt.config.capacity = &capacity;
    spelt.config.deadline_ns = CLEAT_TRANSFER_DEADLINE_NS_DEFAULT;
    spelt.config.discard_ns = CLEAT_TRANSFER_DISCARD_NS_DEFAULT;
    spelt.config.pace_ns = CLEAT_TRANSFER_PACE_NS_DEFAULT;
    spelt.config.call_bytes_max = CLEAT_TRANSFER_CALL_BYTES_MAX_DEFAULT;
    spelt.config.call_keys_max = CLEAT_TRANSFER_CALL_KEYS_MAX_DEFAULT;
    spelt.config.calls_max = CLEAT_TRANSFER_CALLS_DEFAULT;
    spelt.config.rereads_max = CLEAT_TRANSFER_REREADS_DEFAULT;
    start(&f);
    start(&spelt);
    assert_int_equal(f.t->config.deadline_ns, 180 * S);
    assert_int_equal(f.t->config.discard_ns, 30 * S);
    assert_int_equal(f.t->config.pace_ns, 2 * S);
    assert_int_equal(f.t->config.call_bytes_max, 268435456);
    assert_int_equal(f.t->config.call_keys_max, 400);
    assert_int_equal(f.t->config.calls_max, 4);
    assert_int_equal(f.t->config.rereads_max, 2);
    assert_memory_equal(&f.t->config, &spelt.t->config, sizeof f.t->config);
    assert_int_equal(f.t->policy[1].base_ns, capacity.base_ns);
    assert_int_equal(f.t->policy[1].max_ns, capacity.max_ns);
    assert_int_equal(f.t->policy[1].attempts_max, capacity.attempts_max);
    /* The policies: the same waits, to the end of the attempts. */
    for (int i = 0; i < 6; i++) {
        struct fixture *both[] = {&f, &spelt};

        for (int k = 0; k < 2; k++) {
            struct cleat_transfer_command call;

            if (!cleat_transfer_next(both[k]->t, &call)) { continue; }
            for (uint32_t key = cleat_transfer_first(both[k]->t, call.call);
                 key != CLEAT_TRANSFER_NOBODY;
                 key = cleat_transfer_next_key(both[k]->t, key)) {
                tell(both[k], call.call, key,
                     key == 0 ? CLEAT_TRANSIENT : CLEAT_CAPACITY, 0);
            }
            assert_int_equal(cleat_transfer_returned(both[k]->t, both[k]->now,
                                                     call.call, NULL,
                                                     CLEAT_NONE, random),
                             CLEAT_OK);
        }
        assert_int_equal(cleat_transfer_deadline(f.t),
                         cleat_transfer_deadline(spelt.t));
        f.now = spelt.now = cleat_transfer_deadline(f.t);
        if (f.now == CLEAT_NEVER) { break; }
        (void)cleat_transfer_tick(f.t, f.now);
        (void)cleat_transfer_tick(spelt.t, f.now);
    }
}

static void a_descriptor_is_64_bytes_and_a_size_is_told_before(void **state)
{
    (void)state;
    assert_int_equal(sizeof(struct cleat_transfer_key), 64);
    assert_int_equal(cleat_transfer_bytes(1), CLEAT_TRANSFER_BYTES(1));
    assert_int_equal(cleat_transfer_bytes(1000) - cleat_transfer_bytes(0),
                     64000);
}

static void what_begin_is_given_is_looked_over(void **state)
{
    static const struct cleat_retry_policy unsound = {0, 0, 0,   0, 0,
                                                      0, 0, 999, 0, 0};
    struct fixture f;
    struct cleat_transfer_config good;
    struct cleat_transfer_config bad[10];
    struct cleat_error error;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_PUT, 2);
    good = f.config;
    for (size_t i = 0; i < 10; i++) { bad[i] = good; }
    bad[0].keys_count = 0;
    bad[1].keys_count = UINT32_MAX;
    bad[2].kind = 0;
    bad[3].kind = CLEAT_TRANSFER_EXISTS + 1;
    bad[4].mode = CLEAT_TRANSFER_KEEP + 1;
    bad[5].verify = CLEAT_TRANSFER_VERIFY_FULL + 1;
    bad[6].calls_max = CLEAT_TRANSFER_CALLS_MAX + 1;
    bad[7].rereads_max = 16;
    bad[8].policy = &unsound;
    bad[9].capacity = &unsound;
    for (size_t i = 0; i < 10; i++) {
        f.t = (struct cleat_transfer *)(void *)f.block;
        assert_int_equal(cleat_transfer_begin(f.block, sizeof f.block, &bad[i],
                                              0, &f.t, &error),
                         CLEAT_INVALID);
        assert_null(f.t);
        assert_int_equal(error.index, 2);
    }
    assert_int_equal(
        cleat_transfer_begin((char *)f.block + 4, 4096, &good, 0, &f.t, &error),
        CLEAT_INVALID);
    assert_int_equal(error.index, 0);
    assert_int_equal(cleat_transfer_begin(NULL, 4096, &good, 0, &f.t, NULL),
                     CLEAT_INVALID);
    assert_int_equal(cleat_transfer_begin(f.block, CLEAT_TRANSFER_BYTES(2) - 1,
                                          &good, 0, &f.t, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, CLEAT_TRANSFER_BYTES(2));
    assert_null(f.t);
    assert_int_equal(cleat_transfer_begin(f.block, CLEAT_TRANSFER_BYTES(2),
                                          &good, 0, &f.t, &error),
                     CLEAT_OK);
}

/* --- deadline, cancel, what is lent ----------------------------------------
 */

static void at_the_deadline_keys_in_a_call_are_lent(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;
    uint32_t whose = 7;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_PUT, 4);
    f.config.mode = CLEAT_TRANSFER_KEEP;
    f.config.call_keys_max = 2;
    f.config.calls_max = 2;
    f.config.deadline_ns = 10 * S;
    start(&f);
    call = expect(&f, "put 0 1");
    (void)expect(&f, "put 2 3");
    tell(&f, call.call, 0, CLEAT_OK, 0);
    tell(&f, call.call, 1, CLEAT_CAPACITY, 0);
    back(&f, call.call);
    assert_int_equal(cleat_transfer_deadline(f.t), 10 * S);
    assert_int_equal(cleat_transfer_tick(f.t, 10 * S), CLEAT_OK);
    /* The second might have come later than the deadline: it ended at once. */
    assert_int_equal(cleat_transfer_status(f.t, &whose), CLEAT_CAPACITY);
    assert_int_equal(whose, 1);
    assert_int_equal(look(&f, 0).status, CLEAT_OK);
    for (uint32_t key = 2; key < 4; key++) {
        assert_int_equal(look(&f, key).status, CLEAT_AMBIGUOUS);
        assert_true(look(&f, key).lent);
        assert_true(look(&f, key).unknown);
    }
    assert_int_equal(totals(&f).lent, 2);
    assert_false(cleat_transfer_drained(f.t));
    assert_int_equal(cleat_transfer_deadline(f.t), CLEAT_NEVER);
    /* Late, it changes nothing but that. */
    f.now = 99 * S;
    tell(&f, 1, 2, CLEAT_OK, 0);
    back(&f, 1);
    assert_int_equal(look(&f, 2).status, CLEAT_AMBIGUOUS);
    assert_false(look(&f, 2).lent);
    assert_int_equal(totals(&f).lent, 0);
    assert_true(cleat_transfer_drained(f.t));
}

static void a_result_at_the_deadline_is_late(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 2);
    f.config.call_keys_max = 1;
    f.config.deadline_ns = 10 * S;
    start(&f);
    call = expect(&f, "get 0");
    tell(&f, call.call, 0, CLEAT_OK, 100);
    f.now = 10 * S - 1;
    back(&f, call.call);
    call = expect(&f, "get 1");
    tell(&f, call.call, 1, CLEAT_OK, 101);
    f.now = 10 * S;
    back(&f, call.call);
    assert_int_equal(look(&f, 0).status, CLEAT_OK);
    assert_int_equal(look(&f, 1).status, CLEAT_DEADLINE);
    assert_int_equal(totals(&f).failed, 1);
    assert_true(cleat_transfer_drained(f.t));
}

static void
r10_a_deadline_shorter_than_the_backoff_ends_it_at_once(void **state)
{
    struct fixture f;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 1);
    f.config.deadline_ns = 1 * S;
    start(&f);
    all(&f, "get 0", CLEAT_TRANSIENT);
    assert_int_equal(status_of(&f), CLEAT_TRANSIENT);
    assert_int_equal(f.now, 0);
}

static void r10_a_cancel_ends_a_batch_that_waits(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 2);
    all(&f, "get 0 1", CLEAT_TRANSIENT);
    assert_int_equal(cleat_transfer_cancel(f.t, S / 2), CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_CANCELLED);
    assert_int_equal(look(&f, 1).status, CLEAT_CANCELLED);
    assert_int_equal(totals(&f).failed, 2);
    assert_true(cleat_transfer_drained(f.t));
    assert_int_equal(cleat_transfer_cancel(f.t, S), CLEAT_STATE);
    (void)expect(&f, "");
    /* What was not under way and had no effect says so. */
    begin_put(&f, 2, CLEAT_TRANSFER_CREATE, CLEAT_TRANSFER_VERIFY_RETRIED);
    (void)expect(&f, "exists 0 1");
    assert_int_equal(cleat_transfer_cancel(f.t, 0), CLEAT_OK);
    assert_int_equal(look(&f, 0).status, CLEAT_CANCELLED);
    assert_true(look(&f, 0).lent);
    assert_false(look(&f, 0).unknown);
}

static void a_cancel_at_the_deadline_is_late(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 1);
    assert_int_equal(cleat_transfer_cancel(f.t, 180 * S), CLEAT_STATE);
    assert_int_equal(status_of(&f), CLEAT_DEADLINE);
}

static void times_near_saturation_still_end(void **state)
{
    struct fixture f;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 2);
    f.now = UINT64_MAX - 2 * S;
    start(&f);
    assert_int_equal(cleat_transfer_deadline(f.t), CLEAT_NEVER);
    all(&f, "get 0 1", CLEAT_TRANSIENT);
    sleep_until(&f, UINT64_MAX - S);
    all(&f, "get 0 1", CLEAT_UNREADABLE);
    (void)expect(&f, "");
    assert_int_equal(cleat_transfer_deadline(f.t), CLEAT_NEVER);
    assert_int_equal(status_of(&f), CLEAT_PENDING);
    assert_int_equal(cleat_transfer_tick(f.t, UINT64_MAX), CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_DEADLINE);
    /* Sizes saturate too. */
    f.now = 0;
    start(&f);
    f.config.call_bytes_max = CLEAT_NONE;
    start(&f);
    cleat_transfer_set(f.t, 0, 500, UINT64_MAX - 1);
    (void)expect(&f, "get 0");
    (void)expect(&f, "get 1");
}

static void time_that_goes_back_is_refused(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 1);
    call = expect(&f, "get 0");
    tell(&f, call.call, 0, CLEAT_OK, 100);
    assert_int_equal(cleat_transfer_tick(f.t, 5), CLEAT_OK);
    assert_int_equal(cleat_transfer_tick(f.t, 4), CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_transfer_cancel(f.t, 4), CLEAT_TIME_BACKWARDS);
    assert_int_equal(
        cleat_transfer_returned(f.t, 4, call.call, NULL, CLEAT_NONE, 0),
        CLEAT_TIME_BACKWARDS);
    assert_int_equal(status_of(&f), CLEAT_PENDING);
    f.now = 5;
    back(&f, call.call);
    assert_int_equal(status_of(&f), CLEAT_OK);
}

static void results_of_what_was_not_asked_are_refused(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 2);
    f.config.call_keys_max = 1;
    start(&f);
    assert_int_equal(cleat_transfer_told(f.t, 0, 0, CLEAT_OK, 0, 100),
                     CLEAT_INVALID);
    assert_int_equal(cleat_transfer_returned(f.t, 0, 0, NULL, CLEAT_NONE, 0),
                     CLEAT_INVALID);
    call = expect(&f, "get 0");
    assert_int_equal(cleat_transfer_told(f.t, call.call + 1, 0, CLEAT_OK, 0, 1),
                     CLEAT_INVALID);
    assert_int_equal(cleat_transfer_told(f.t, call.call, 1, CLEAT_OK, 0, 101),
                     CLEAT_INVALID);
    assert_int_equal(cleat_transfer_told(f.t, call.call, 2, CLEAT_OK, 0, 101),
                     CLEAT_INVALID);
    assert_int_equal(
        cleat_transfer_told(f.t, call.call, UINT32_MAX, CLEAT_OK, 0, 101),
        CLEAT_INVALID);
    assert_int_equal(
        cleat_transfer_told(f.t, call.call, 0, CLEAT_PENDING, 0, 100),
        CLEAT_INVALID);
    for (uint32_t other = 1; other < 40; other++) {
        assert_int_equal(
            cleat_transfer_returned(f.t, 0, other, NULL, CLEAT_NONE, 0),
            CLEAT_INVALID);
    }
    tell(&f, call.call, 0, CLEAT_OK, 100);
    back(&f, call.call);
    assert_int_equal(
        cleat_transfer_returned(f.t, 0, call.call, NULL, CLEAT_NONE, 0),
        CLEAT_INVALID);
}

static void a_copy_of_the_block_is_a_snapshot(void **state)
{
    struct fixture f;
    struct fixture copy;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 3);
    all(&f, "get 0 1 2", CLEAT_TRANSIENT);
    copy = f;
    copy.t = (struct cleat_transfer *)(void *)copy.block;
    memset(f.block, 0xA5, sizeof f.block);
    sleep_until(&copy, 1 * S);
    all(&copy, "get 0 1 2", CLEAT_OK);
    assert_int_equal(status_of(&copy), CLEAT_OK);
}

/* --- hints and budgets ------------------------------------------------------
 */

static void a_hint_of_the_store_makes_the_wait_longer(void **state)
{
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    begin(&f, CLEAT_TRANSFER_GET, 1);
    call = expect(&f, "get 0");
    tell(&f, call.call, 0, CLEAT_TRANSIENT, 0);
    assert_int_equal(cleat_transfer_returned(f.t, 0, call.call, NULL, 4 * S, 0),
                     CLEAT_OK);
    sleep_until(&f, 4 * S);
    all(&f, "get 0", CLEAT_OK);
}

static void a_round_costs_once_however_many_keys(void **state)
{
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_AWS;
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 10);
    f.budget = &budget;
    start(&f);
    all(&f, "get 0 1 2 3 4 5 6 7 8 9", CLEAT_TRANSIENT);
    assert_int_equal(budget.tokens, 490000);
    sleep_until(&f, 1 * S);
    /* Keys that have come unequally far, of several classes: once. */
    call = expect(&f, "get 0 1 2 3 4 5 6 7 8 9");
    for (uint32_t key = 0; key < 10; key++) {
        tell(&f, call.call, key, key % 2 ? CLEAT_CAPACITY : CLEAT_CORRUPT, 0);
    }
    back(&f, call.call);
    assert_int_equal(budget.tokens, 480000);
    assert_int_equal(totals(&f).rounds, 2);
    sleep_until(&f, 3 * S);
    all(&f, "get 0 2 4 6 8", CLEAT_OK);
    /* What the last round took is given back by the first that has worked. */
    assert_int_equal(budget.tokens, 490000);
    sleep_until(&f, 11 * S);
    all(&f, "get 1 3 5 7 9", CLEAT_OK);
    assert_int_equal(budget.tokens, 491000);
    assert_int_equal(status_of(&f), CLEAT_OK);
}

static void one_that_is_exhausted_does_not_pay_for_the_others(void **state)
{
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_AWS;
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    prepare(&f, CLEAT_TRANSFER_GET, 2);
    f.budget = &budget;
    f.config.call_keys_max = 2;
    start(&f);
    /* The first is at its last attempt, the second at its first. */
    call = expect(&f, "get 0 1");
    tell(&f, call.call, 0, CLEAT_TRANSIENT, 0);
    tell(&f, call.call, 1, CLEAT_UNREADABLE, 0);
    back(&f, call.call);
    sleep_until(&f, 1 * S);
    all(&f, "get 0", CLEAT_TRANSIENT);
    sleep_until(&f, 2 * S);
    all(&f, "get 1", CLEAT_UNREADABLE);
    f.now = 3 * S;
    (void)cleat_transfer_tick(f.t, f.now);
    all(&f, "get 0", CLEAT_TRANSIENT);
    f.now = 7 * S;
    (void)cleat_transfer_tick(f.t, f.now);
    budget.tokens = 100000;
    call = expect(&f, "get 0 1");
    tell(&f, call.call, 0, CLEAT_TRANSIENT, 0);
    tell(&f, call.call, 1, CLEAT_TRANSIENT, 0);
    back(&f, call.call);
    assert_int_equal(look(&f, 0).status, CLEAT_TRANSIENT);
    assert_int_equal(look(&f, 1).status, CLEAT_PENDING);
    assert_int_equal(budget.tokens, 90000);
}

static void r10_an_empty_budget_refuses_every_key_of_a_round(void **state)
{
    struct cleat_retry_budget aws = CLEAT_RETRY_BUDGET_AWS;
    struct cleat_retry_budget grpc = CLEAT_RETRY_BUDGET_GRPC;
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    aws.tokens = 4999;
    grpc.tokens = 6000;
    for (int i = 0; i < 2; i++) {
        prepare(&f, CLEAT_TRANSFER_GET, 3);
        f.budget = i == 0 ? &aws : &grpc;
        start(&f);
        call = expect(&f, "get 0 1 2");
        tell(&f, call.call, 0, CLEAT_TRANSIENT, 0);
        tell(&f, call.call, 1, CLEAT_CAPACITY, 0);
        tell(&f, call.call, 2, CLEAT_AMBIGUOUS, 0);
        back(&f, call.call);
        assert_int_equal(status_of(&f), CLEAT_TRANSIENT);
        assert_int_equal(totals(&f).failed, 3);
        assert_int_equal(totals(&f).rounds, 0);
    }
    assert_int_equal(aws.tokens, 4999);
    /* Every failure costs, but a round is one. */
    assert_int_equal(grpc.tokens, 5000);
}

static void a_budget_for_one_is_enough_for_a_round(void **state)
{
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_AWS;
    struct fixture f;
    struct cleat_transfer_command call;

    (void)state;
    budget.tokens = 10000;
    prepare(&f, CLEAT_TRANSFER_GET, 3);
    f.budget = &budget;
    start(&f);
    call = expect(&f, "get 0 1 2");
    tell(&f, call.call, 0, CLEAT_TRANSIENT, 0);
    tell(&f, call.call, 1, CLEAT_CAPACITY, 0);
    tell(&f, call.call, 2, CLEAT_AMBIGUOUS, 0);
    back(&f, call.call);
    assert_int_equal(budget.tokens, 0);
    sleep_until(&f, 1 * S);
    all(&f, "get 0 2", CLEAT_OK);
    sleep_until(&f, 10 * S);
    all(&f, "get 1", CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
}

static void
a_first_success_adds_the_gain_and_permanent_ones_nothing(void **state)
{
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_GRPC;
    struct fixture f;

    (void)state;
    budget.tokens = 1000;
    prepare(&f, CLEAT_TRANSFER_GET, 3);
    f.budget = &budget;
    start(&f);
    all(&f, "get 0 1 2", CLEAT_OK);
    assert_int_equal(budget.tokens, 1100);
    f.now = 0;
    start(&f);
    all(&f, "get 0 1 2", CLEAT_NOT_FOUND);
    assert_int_equal(budget.tokens, 1100);
    /* What comes late neither. */
    start(&f);
    (void)expect(&f, "get 0 1 2");
    f.now = 500 * S;
    for (uint32_t key = 0; key < 3; key++) { tell(&f, 0, key, CLEAT_OK, 0); }
    back(&f, 0);
    assert_int_equal(budget.tokens, 1100);
}

static void batches_share_a_budget(void **state)
{
    struct cleat_retry_budget budget = CLEAT_RETRY_BUDGET_AWS;
    struct fixture a;
    struct fixture b;

    (void)state;
    budget.tokens = 15000;
    prepare(&a, CLEAT_TRANSFER_GET, 1);
    prepare(&b, CLEAT_TRANSFER_GET, 1);
    a.budget = b.budget = &budget;
    start(&a);
    start(&b);
    all(&a, "get 0", CLEAT_TRANSIENT);
    all(&b, "get 0", CLEAT_TRANSIENT);
    assert_int_equal(status_of(&a), CLEAT_PENDING);
    assert_int_equal(status_of(&b), CLEAT_TRANSIENT);
    sleep_until(&a, 1 * S);
    all(&a, "get 0", CLEAT_OK);
    assert_int_equal(budget.tokens, 15000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_try_success_is_one_call_and_nothing_again),
        cmocka_unit_test(a_batch_recovers_after_k_failures_at_exact_times),
        cmocka_unit_test(r11_exhaustion_reports_every_failed_key_with_its_code),
        cmocka_unit_test(r4_only_failed_keys_are_resent_from_the_same_buffers),
        cmocka_unit_test(empty_missing_and_failed_are_three_things),
        cmocka_unit_test(a_permanent_failure_is_not_tried_again),
        cmocka_unit_test(a_mixed_batch_is_sorted_key_by_key),
        cmocka_unit_test(a_full_store_is_waited_for_by_the_slower_policy),
        cmocka_unit_test(r5_codes_are_classified_afresh_each_round),
        cmocka_unit_test(r1_what_a_call_says_nothing_about_is_ambiguous),
        cmocka_unit_test(
            an_unknown_code_is_tried_again_boundedly_and_told_verbatim),
        cmocka_unit_test(what_is_told_twice_counts_the_last_time),
        cmocka_unit_test(r2_a_get_of_other_bytes_is_no_success),
        cmocka_unit_test(r8_what_does_not_match_is_read_again_and_then_failed),
        cmocka_unit_test(
            r8_a_size_not_known_is_asked_fetched_and_checked_again),
        cmocka_unit_test(what_is_missing_may_still_come_where_that_was_asked),
        cmocka_unit_test(a_get_of_what_is_in_progress_waits_until_discard),
        cmocka_unit_test(r7_create_fails_where_there_is_a_value),
        cmocka_unit_test(r7_replace_removes_first),
        cmocka_unit_test(r7_keep_keeps_what_is_there_whatever_it_is),
        cmocka_unit_test(
            r6_a_masked_put_is_unreadable_until_discard_and_then_ok),
        cmocka_unit_test(r6_a_put_never_readable_is_said_to_be_so),
        cmocka_unit_test(a_slow_call_still_leaves_one_put_after_discard),
        cmocka_unit_test(a_put_that_failed_and_is_not_there_goes_out_at_once),
        cmocka_unit_test(a_put_of_another_size_is_replaced_or_not_ours),
        cmocka_unit_test(a_stale_value_of_the_same_size_is_found_by_comparing),
        cmocka_unit_test(a_put_that_was_evicted_is_made_again),
        cmocka_unit_test(anothers_put_in_progress_is_waited_for_before_ours),
        cmocka_unit_test(a_put_refused_as_in_progress_is_made_again_slowly),
        cmocka_unit_test(what_may_have_taken_effect_is_not_said_to_have_failed),
        cmocka_unit_test(a_remove_of_what_is_not_there_is_ok),
        cmocka_unit_test(exists_is_answered_with_1_or_0),
        cmocka_unit_test(r12_a_call_has_no_more_keys_and_bytes_than_it_may),
        cmocka_unit_test(r12_no_more_calls_than_allowed_are_in_flight),
        cmocka_unit_test(the_defaults_are_those_of_the_header),
        cmocka_unit_test(a_descriptor_is_64_bytes_and_a_size_is_told_before),
        cmocka_unit_test(what_begin_is_given_is_looked_over),
        cmocka_unit_test(at_the_deadline_keys_in_a_call_are_lent),
        cmocka_unit_test(a_result_at_the_deadline_is_late),
        cmocka_unit_test(
            r10_a_deadline_shorter_than_the_backoff_ends_it_at_once),
        cmocka_unit_test(r10_a_cancel_ends_a_batch_that_waits),
        cmocka_unit_test(a_cancel_at_the_deadline_is_late),
        cmocka_unit_test(times_near_saturation_still_end),
        cmocka_unit_test(time_that_goes_back_is_refused),
        cmocka_unit_test(results_of_what_was_not_asked_are_refused),
        cmocka_unit_test(a_copy_of_the_block_is_a_snapshot),
        cmocka_unit_test(a_hint_of_the_store_makes_the_wait_longer),
        cmocka_unit_test(a_round_costs_once_however_many_keys),
        cmocka_unit_test(one_that_is_exhausted_does_not_pay_for_the_others),
        cmocka_unit_test(r10_an_empty_budget_refuses_every_key_of_a_round),
        cmocka_unit_test(a_budget_for_one_is_enough_for_a_round),
        cmocka_unit_test(
            a_first_success_adds_the_gain_and_permanent_ones_nothing),
        cmocka_unit_test(batches_share_a_budget),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
