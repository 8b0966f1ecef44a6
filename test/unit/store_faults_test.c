/* Cleat: a store that misbehaves on demand. SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "choose/faults.h"
#include "cleat/memory_store.h"
#include "cleat/store_faults.h"

#define BLOCK_BYTES ((size_t)1 << 20)

static unsigned char *block; /* shared with children */
static _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
static _Alignas(64) unsigned char faults_block[16384];
static struct cleat_store inner;
static struct cleat_store store;

static int setup(void **state)
{
    (void)state;
    block = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED ||
           cleat_memory_store_init(block, BLOCK_BYTES, NULL, end, sizeof end,
                                   &inner, NULL) != CLEAT_OK;
}

static int teardown(void **state)
{
    (void)state;
    return munmap(block, BLOCK_BYTES);
}

static void make(const struct cleat_store_fault *rules, uint32_t count,
                 uint64_t seed)
{
    struct cleat_store_faults_config config = {rules, count, 1024, seed};
    struct cleat_error error;

    assert_int_equal(cleat_store_faults_init(faults_block, sizeof faults_block,
                                             &config, &inner, &store, &error),
                     CLEAT_OK);
}

/* One rule of this kind, always. */
static void always(enum cleat_store_fault_kind kind, uint64_t ns)
{
    struct cleat_store_fault rule;

    memset(&rule, 0, sizeof rule);
    rule.kind = (uint32_t)kind;
    rule.rate = CLEAT_STORE_FAULT_ALWAYS;
    rule.ns = ns;
    make(&rule, 1, 1);
}

static struct cleat_store_item item_of(const char *key, void *payload,
                                       uint64_t bytes)
{
    struct cleat_store_item item;

    memset(&item, 0, sizeof item);
    item.key = key;
    item.key_bytes = (uint32_t)strlen(key);
    item.payload = payload;
    item.bytes = bytes;
    item.status = CLEAT_PENDING;
    return item;
}

static enum cleat_status act_in(const struct cleat_store *in,
                                uint32_t operation, const char *key,
                                void *payload, uint64_t bytes)
{
    struct cleat_store_item item = item_of(key, payload, bytes);
    struct cleat_store_call call = {operation, 1, &item, CLEAT_NEVER};
    enum cleat_status status = in->call(in->context, &call);

    /* A call that fails says of no item that it knows. */
    assert_int_equal(status == CLEAT_OK, item.status != CLEAT_PENDING);
    return (enum cleat_status)item.status;
}

static enum cleat_status put(const char *key)
{
    return act_in(&store, CLEAT_TRANSFER_DO_PUT, key,
                  (void *)(uintptr_t) "12345", 5);
}

/* What the inner store has of it. */
static enum cleat_status there(const char *key)
{
    char got[5];

    return act_in(&inner, CLEAT_TRANSFER_DO_GET, key, got, 5);
}

static void every_kind_has_a_name_and_a_meaning(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < CLEAT_STORE_FAULTS; i++) {
        enum cleat_store_fault_kind kind = (enum cleat_store_fault_kind)i;
        const char *name = cleat_store_fault_name(kind);

        assert_true(strlen(name) > 2);
        assert_true(strlen(cleat_store_fault_meaning(kind)) > 2);
        assert_int_equal(cleat_store_fault_from_name(name, strlen(name)), kind);
        assert_int_equal(cleat_store_fault_from_name(name, strlen(name) - 1),
                         CLEAT_STORE_FAULT_NONE);
    }
    assert_string_equal(cleat_store_fault_name(CLEAT_STORE_FAULT_CRASH),
                        "crash-before-end");
    assert_int_equal(cleat_store_fault_from_name("ambiguous-put", 13),
                     CLEAT_STORE_FAULT_AMBIGUOUS_PUT);
    assert_string_equal(cleat_store_fault_name((enum cleat_store_fault_kind)99),
                        "unknown");
}

static void without_rules_it_is_the_inner_store(void **state)
{
    char got[5];

    (void)state;
    make(NULL, 0, 1);
    assert_int_equal(put("a"), CLEAT_OK);
    assert_int_equal(put("a"), CLEAT_EXISTS);
    assert_int_equal(act_in(&store, CLEAT_TRANSFER_DO_GET, "a", got, 5),
                     CLEAT_OK);
    assert_int_equal(store.ready(store.context, 0, NULL), CLEAT_OK);
    assert_int_equal(store.value_bytes_max, inner.value_bytes_max);
    assert_null(store.lend);
}

/* What is said of a put, and whether it took effect. */
static void an_error_comes_with_its_effect_or_without(void **state)
{
    static const struct {
        enum cleat_store_fault_kind kind;
        enum cleat_status said;
        bool effect;
    } cases[] = {
        {CLEAT_STORE_FAULT_TRANSIENT, CLEAT_TRANSIENT, false},
        {CLEAT_STORE_FAULT_TRANSIENT_EFFECT, CLEAT_TRANSIENT, true},
        {CLEAT_STORE_FAULT_AMBIGUOUS, CLEAT_AMBIGUOUS, false},
        {CLEAT_STORE_FAULT_AMBIGUOUS_EFFECT, CLEAT_AMBIGUOUS, true},
        {CLEAT_STORE_FAULT_CAPACITY, CLEAT_CAPACITY, false},
        {CLEAT_STORE_FAULT_CAPACITY_EFFECT, CLEAT_CAPACITY, true},
        {CLEAT_STORE_FAULT_PERMANENT, CLEAT_PERMANENT, false},
        {CLEAT_STORE_FAULT_PERMANENT_EFFECT, CLEAT_PERMANENT, true},
        {CLEAT_STORE_FAULT_LOST, CLEAT_OK, false},
        {CLEAT_STORE_FAULT_SILENCE, CLEAT_PENDING, false},
        {CLEAT_STORE_FAULT_SILENCE_EFFECT, CLEAT_PENDING, true},
        {CLEAT_STORE_FAULT_LATE, CLEAT_OK, true},
        {CLEAT_STORE_FAULT_LATE_TRANSIENT, CLEAT_TRANSIENT, false},
    };
    char key[16];

    (void)state;
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        always(cases[i].kind, 1);
        snprintf(key, sizeof key, "%u", (unsigned)i);
        assert_int_equal(put(key), cases[i].said);
        assert_int_equal(there(key),
                         cases[i].effect ? CLEAT_OK : CLEAT_NOT_FOUND);
        assert_int_equal(cleat_store_faults_struck(&store, 0), 1);
    }
}

/* Each row of the fault table that means something to a call has a kind. */
static void every_row_of_the_fault_table_that_applies_has_a_kind(void **state)
{
    static const enum cleat_store_fault_kind kinds[CHOOSE_FAULTS] = {
        [CHOOSE_FAULT_TRANSIENT] = CLEAT_STORE_FAULT_TRANSIENT,
        [CHOOSE_FAULT_TRANSIENT_EFFECT] = CLEAT_STORE_FAULT_TRANSIENT_EFFECT,
        [CHOOSE_FAULT_AMBIGUOUS] = CLEAT_STORE_FAULT_AMBIGUOUS,
        [CHOOSE_FAULT_AMBIGUOUS_EFFECT] = CLEAT_STORE_FAULT_AMBIGUOUS_EFFECT,
        [CHOOSE_FAULT_CAPACITY] = CLEAT_STORE_FAULT_CAPACITY,
        [CHOOSE_FAULT_CAPACITY_EFFECT] = CLEAT_STORE_FAULT_CAPACITY_EFFECT,
        [CHOOSE_FAULT_PERMANENT] = CLEAT_STORE_FAULT_PERMANENT,
        [CHOOSE_FAULT_PERMANENT_EFFECT] = CLEAT_STORE_FAULT_PERMANENT_EFFECT,
        [CHOOSE_FAULT_SILENCE] = CLEAT_STORE_FAULT_SILENCE,
        [CHOOSE_FAULT_SILENCE_EFFECT] = CLEAT_STORE_FAULT_SILENCE_EFFECT,
        [CHOOSE_FAULT_LATE] = CLEAT_STORE_FAULT_LATE,
        [CHOOSE_FAULT_LATE_TRANSIENT] = CLEAT_STORE_FAULT_LATE_TRANSIENT,
        [CHOOSE_FAULT_SHORT] = CLEAT_STORE_FAULT_SHORT,
        [CHOOSE_FAULT_TORN] = CLEAT_STORE_FAULT_TORN,
        [CHOOSE_FAULT_CORRUPT] = CLEAT_STORE_FAULT_CORRUPT,
        [CHOOSE_FAULT_GONE_NOTICE] = CLEAT_STORE_FAULT_CRASH,
        [CHOOSE_FAULT_GONE_NOTICE_EFFECT] = CLEAT_STORE_FAULT_CRASH_EFFECT,
        [CHOOSE_FAULT_GONE] = CLEAT_STORE_FAULT_CRASH,
        [CHOOSE_FAULT_GONE_EFFECT] = CLEAT_STORE_FAULT_CRASH_EFFECT,
        [CHOOSE_FAULT_STOPPED] = CLEAT_STORE_FAULT_LATE,
    };

    (void)state;
    for (uint32_t i = 1; i < CHOOSE_FAULTS; i++) {
        uint32_t flags = choose_fault_row(i)->flags;

        /* A call returns once: nothing is told twice, or overtaken. */
        assert_int_equal(kinds[i] == CLEAT_STORE_FAULT_NONE,
                         (flags & (FAULT_TWICE | FAULT_OVERTAKEN)) != 0);
    }
}

static void what_comes_short_or_wrong_leaves_a_zeroed_buffer(void **state)
{
    static const char zeros[5];
    struct cleat_store_item item;
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_GET, 1, &item,
                                    CLEAT_NEVER};
    char got[5];

    (void)state;
    make(NULL, 0, 1);
    assert_int_equal(put("a"), CLEAT_OK);
    for (uint32_t i = 0; i < 2; i++) {
        always(i ? CLEAT_STORE_FAULT_SHORT : CLEAT_STORE_FAULT_CORRUPT, 0);
        memset(got, 'x', sizeof got);
        item = item_of("a", got, 5);
        assert_int_equal(store.call(store.context, &call), CLEAT_OK);
        assert_int_equal(item.status, i ? CLEAT_SHORT : CLEAT_CORRUPT);
        assert_int_equal(item.actual, i ? 2 : 5);
        assert_memory_equal(got, zeros, 5);
        assert_int_equal(put("a"), CLEAT_EXISTS); /* of gets only */
    }
    always(CLEAT_STORE_FAULT_MISSING, 0);
    for (uint32_t operation = 0; operation < CLEAT_TRANSFER_OPERATIONS;
         operation++) {
        bool reads = operation != CLEAT_TRANSFER_DO_PUT &&
                     operation != CLEAT_TRANSFER_DO_REMOVE;

        if (reads) {
            assert_int_equal(act_in(&store, operation, "a", got, 5),
                             CLEAT_NOT_FOUND);
        }
    }
    always(CLEAT_STORE_FAULT_UNREADABLE, 0);
    assert_int_equal(act_in(&store, CLEAT_TRANSFER_DO_GET, "a", got, 5),
                     CLEAT_UNREADABLE);
    assert_int_equal(there("a"), CLEAT_OK);
}

static void what_is_stored_wrong_is_found_by_who_gets_it(void **state)
{
    (void)state;
    always(CLEAT_STORE_FAULT_CORRUPT_STORED, 0);
    assert_int_equal(put("flipped"), CLEAT_OK);
    assert_int_equal(there("flipped"), CLEAT_CORRUPT);
    always(CLEAT_STORE_FAULT_TORN, 0);
    assert_int_equal(put("torn"), CLEAT_OK);
    assert_int_equal(there("torn"), CLEAT_CORRUPT);
}

static void an_ambiguous_put_is_stored_or_not(void **state)
{
    uint32_t stored = 0;
    char key[16];

    (void)state;
    always(CLEAT_STORE_FAULT_AMBIGUOUS_PUT, 0);
    for (uint32_t i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "%u", (unsigned)i);
        assert_int_equal(put(key), CLEAT_AMBIGUOUS);
        stored += there(key) == CLEAT_OK;
    }
    assert_in_range(stored, 60, 140); /* of 200; six deviations */
}

/* ---- which strikes ------------------------------------------------------- */

#define MANY 1000u

/* Which of many keys fail at their first, second and third get: bits. */
static void pattern(unsigned char *failed, bool backwards)
{
    char key[16];

    memset(failed, 0, MANY);
    for (uint32_t time = 0; time < 3; time++) {
        for (uint32_t i = 0; i < MANY; i++) {
            uint32_t which = backwards ? MANY - 1 - i : i;

            snprintf(key, sizeof key, "many %u", (unsigned)which);
            if (act_in(&store, CLEAT_TRANSFER_DO_EXISTS, key, NULL, 0) ==
                CLEAT_TRANSIENT) {
                failed[which] |= (unsigned char)(1u << time);
            }
        }
    }
}

static uint32_t count(const unsigned char *failed, uint32_t bits)
{
    uint32_t counted = 0;

    for (uint32_t i = 0; i < MANY; i++) { counted += (failed[i] & bits) != 0; }
    return counted;
}

static struct cleat_store_fault transient(uint32_t rate, uint32_t times)
{
    struct cleat_store_fault rule;

    memset(&rule, 0, sizeof rule);
    rule.kind = CLEAT_STORE_FAULT_TRANSIENT;
    rule.rate = rate;
    rule.times = times;
    return rule;
}

/* Counters that no two keys share. */
static unsigned char large_block[sizeof faults_block + (1u << 22)];

static void make_large(const struct cleat_store_fault *rule, uint64_t seed)
{
    struct cleat_store_faults_config config = {rule, 1, 1u << 20, seed};

    assert_int_equal(cleat_store_faults_init(
                         (void *)(((uintptr_t)large_block + 7) & ~7ull),
                         sizeof large_block - 8, &config, &inner, &store, NULL),
                     CLEAT_OK);
}

static void a_run_repeats_itself_whatever_the_order(void **state)
{
    static unsigned char first[MANY];
    static unsigned char second[MANY];
    struct cleat_store_fault rule = transient(300000, 0);

    (void)state;
    make_large(&rule, 7);
    pattern(first, false);
    make_large(&rule, 7);
    pattern(second, true);
    assert_memory_equal(first, second, MANY);
    make_large(&rule, 8);
    pattern(second, false);
    assert_memory_not_equal(first, second, MANY);
    /* Of 1000, 300 each time; six deviations. */
    for (uint32_t time = 0; time < 3; time++) {
        assert_in_range(count(first, 1u << time), 213, 387);
    }
    assert_int_equal(cleat_store_faults_struck(&store, 0),
                     count(second, 1) + count(second, 2) + count(second, 4));
    assert_int_equal(cleat_store_faults_struck(&store, UINT32_MAX),
                     cleat_store_faults_struck(&store, 0));
    assert_int_equal(cleat_store_faults_struck(&store, 5), 0);
}

static void a_share_of_the_keys_fails_as_often_as_told(void **state)
{
    static unsigned char failed[MANY];
    struct cleat_store_fault rule = transient(100000, 1);

    (void)state;
    make_large(&rule, 3);
    pattern(failed, false);
    assert_in_range(count(failed, 1), 43, 157); /* of 1000; six deviations */
    assert_int_equal(count(failed, 6), 0);
    rule = transient(CLEAT_STORE_FAULT_ALWAYS, 2);
    make_large(&rule, 3);
    pattern(failed, false);
    assert_int_equal(count(failed, 1), MANY);
    assert_int_equal(count(failed, 2), MANY);
    assert_int_equal(count(failed, 4), 0);
}

static void a_rule_may_be_of_one_item_or_key_or_operation(void **state)
{
    struct cleat_store_fault rules[3];
    char got[5];

    (void)state;
    memset(rules, 0, sizeof rules);
    rules[0].kind = CLEAT_STORE_FAULT_TRANSIENT;
    rules[0].item = 3;
    rules[0].operations = CLEAT_STORE_FAULT_PUTS;
    rules[1].kind = CLEAT_STORE_FAULT_PERMANENT;
    rules[1].key = "b";
    rules[2].kind = CLEAT_STORE_FAULT_CAPACITY;
    rules[2].rate = CLEAT_STORE_FAULT_ALWAYS;
    rules[2].item = 5; /* of all puts, those that others strike included */
    make(rules, 3, 1);
    assert_int_equal(put("a"), CLEAT_OK);
    assert_int_equal(put("b"), CLEAT_PERMANENT);
    assert_int_equal(act_in(&store, CLEAT_TRANSFER_DO_GET, "a", got, 5),
                     CLEAT_OK);
    assert_int_equal(put("c"), CLEAT_TRANSIENT);
    assert_int_equal(put("bb"), CLEAT_OK);
    assert_int_equal(put("c"), CLEAT_CAPACITY);
    assert_int_equal(put("c"), CLEAT_OK);
    assert_int_equal(act_in(&store, CLEAT_TRANSFER_DO_GET, "b", got, 5),
                     CLEAT_PERMANENT);
}

static void what_is_not_struck_goes_through_together_and_in_order(void **state)
{
    struct cleat_store_item items[8];
    struct cleat_store_call call = {CLEAT_TRANSFER_DO_PUT, 8, items,
                                    CLEAT_NEVER};
    struct cleat_store_fault rules[2];
    static char keys[8][4];

    (void)state;
    memset(rules, 0, sizeof rules);
    rules[0].kind = CLEAT_STORE_FAULT_TRANSIENT;
    rules[0].key = "k2";
    rules[1].kind = CLEAT_STORE_FAULT_SILENCE;
    rules[1].key = "k5";
    rules[1].ns = 1;
    make(rules, 2, 1);
    for (uint32_t i = 0; i < 8; i++) {
        snprintf(keys[i], sizeof keys[i], "k%u", (unsigned)i);
        items[i] = item_of(keys[i], (void *)(uintptr_t) "12345", 5);
    }
    assert_int_equal(store.call(store.context, &call), CLEAT_AMBIGUOUS);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(items[i].status, i == 2   ? CLEAT_TRANSIENT
                                          : i == 5 ? CLEAT_PENDING
                                                   : CLEAT_OK);
        assert_int_equal(there(keys[i]),
                         i == 2 || i == 5 ? CLEAT_NOT_FOUND : CLEAT_OK);
    }
}

static void no_layer_is_made_of_rules_that_cannot_be(void **state)
{
    struct cleat_store_fault rules[2];
    struct cleat_store_faults_config config = {rules, 2, 0, 1};
    struct cleat_error error;
    struct cleat_store out;

    (void)state;
    for (uint32_t which = 0; which < 5; which++) {
        rules[0] = transient(5, 0);
        rules[1] = transient(5, 0);
        if (which == 0) { rules[1].kind = CLEAT_STORE_FAULT_NONE; }
        if (which == 1) { rules[1].kind = CLEAT_STORE_FAULTS; }
        if (which == 2) { rules[1].rate = 0; }
        if (which == 3) { rules[1].rate = CLEAT_STORE_FAULT_ALWAYS + 1; }
        if (which == 4) {
            rules[1].kind = CLEAT_STORE_FAULT_SHORT;
            rules[1].operations = CLEAT_STORE_FAULT_PUTS;
        }
        assert_int_equal(cleat_store_faults_init(large_block,
                                                 sizeof large_block, &config,
                                                 &inner, &out, &error),
                         CLEAT_INVALID);
        assert_int_equal(error.index, 1);
        assert_null(out.call);
    }
    rules[1] = rules[0];
    assert_int_equal(cleat_store_faults_init(large_block, 1000, &config, &inner,
                                             &out, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, cleat_store_faults_bytes(0));
    config.counters_count = 1000;
    assert_int_equal(cleat_store_faults_bytes(1000), 0);
    assert_int_equal(cleat_store_faults_init(large_block, sizeof large_block,
                                             &config, &inner, &out, &error),
                     CLEAT_INVALID);
    config.counters_count = 0;
    config.rules_count = CLEAT_STORE_FAULTS_RULES_MAX + 1;
    assert_int_equal(cleat_store_faults_init(large_block, sizeof large_block,
                                             &config, &inner, &out, &error),
                     CLEAT_INVALID);
}

/* ---- silence, and the end ------------------------------------------------ */

static void *put_in_silence(void *status)
{
    *(enum cleat_status *)status = put("silent");
    return NULL;
}

static void a_silence_without_end_ends_when_it_is_told_to(void **state)
{
    enum cleat_status status = CLEAT_OK;
    pthread_t thread;

    (void)state;
    always(CLEAT_STORE_FAULT_SILENCE, 0);
    assert_int_equal(pthread_create(&thread, NULL, put_in_silence, &status), 0);
    while (cleat_store_faults_struck(&store, 0) == 0) { sched_yield(); }
    cleat_store_faults_wake(&store);
    pthread_join(thread, NULL);
    assert_int_equal(status, CLEAT_PENDING);
    assert_int_equal(put("silent"), CLEAT_PENDING); /* at once */
    assert_int_equal(there("silent"), CLEAT_NOT_FOUND);
}

static int ends_by(enum cleat_store_fault_kind kind, uint32_t operation)
{
    int status = 0;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        static _Alignas(64) unsigned char mine[CLEAT_MEMORY_STORE_END_BYTES];
        char payload[6] = "12345";

        if (cleat_memory_store_attach(block, BLOCK_BYTES, mine, sizeof mine,
                                      &inner, NULL) != CLEAT_OK) {
            _exit(1);
        }
        always(kind, 0);
        (void)act_in(&store, operation, "child", payload, 5);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static void a_crash_comes_before_the_end_of_a_put_or_after(void **state)
{
    struct cleat_memory_store_view view;

    (void)state;
    assert_int_equal(ends_by(CLEAT_STORE_FAULT_CRASH, CLEAT_TRANSFER_DO_PUT),
                     SIGKILL);
    assert_int_equal(there("child"), CLEAT_NOT_FOUND);
    cleat_memory_store_look(&inner, &view);
    assert_int_equal(view.held, 1); /* it was in the middle */
    assert_int_equal(cleat_memory_store_sweep(&inner), 1);
    assert_int_equal(
        ends_by(CLEAT_STORE_FAULT_CRASH_EFFECT, CLEAT_TRANSFER_DO_PUT),
        SIGKILL);
    assert_int_equal(there("child"), CLEAT_OK);
    assert_int_equal(ends_by(CLEAT_STORE_FAULT_CRASH, CLEAT_TRANSFER_DO_REMOVE),
                     SIGKILL);
    assert_int_equal(there("child"), CLEAT_OK);
    assert_int_equal(
        ends_by(CLEAT_STORE_FAULT_CRASH_EFFECT, CLEAT_TRANSFER_DO_REMOVE),
        SIGKILL);
    assert_int_equal(there("child"), CLEAT_NOT_FOUND);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(every_kind_has_a_name_and_a_meaning),
        TEST(without_rules_it_is_the_inner_store),
        TEST(an_error_comes_with_its_effect_or_without),
        TEST(every_row_of_the_fault_table_that_applies_has_a_kind),
        TEST(what_comes_short_or_wrong_leaves_a_zeroed_buffer),
        TEST(what_is_stored_wrong_is_found_by_who_gets_it),
        TEST(an_ambiguous_put_is_stored_or_not),
        TEST(a_run_repeats_itself_whatever_the_order),
        TEST(a_share_of_the_keys_fails_as_often_as_told),
        TEST(a_rule_may_be_of_one_item_or_key_or_operation),
        TEST(what_is_not_struck_goes_through_together_and_in_order),
        TEST(no_layer_is_made_of_rules_that_cannot_be),
        TEST(a_silence_without_end_ends_when_it_is_told_to),
        TEST(a_crash_comes_before_the_end_of_a_put_or_after),
    };

    return cmocka_run_group_tests_name("store_faults", tests, NULL, NULL);
}
