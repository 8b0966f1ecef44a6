/* Cleat: the cache of tool lists, step by step. SPDX-License-Identifier:
 * Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "cleat/tool_cache.h"

#define S CLEAT_NS_PER_S

enum { ENTRIES = 6, SLOTS = 3, WAITERS = 4 };

/* verl's waits, without chance: 30 s an attempt, 1 s and 2 s between three. */
static const struct cleat_retry_policy plain = {
    1 * S, 30 * S, 0, 0, CLEAT_NONE, 30 * S, 3, 2000, CLEAT_RETRY_JITTER_NONE,
    0};

struct fixture {
    uint64_t block[CLEAT_TOOL_CACHE_BYTES(ENTRIES, SLOTS, WAITERS) /
                   sizeof(uint64_t)];
    struct cleat_tool_cache *cache;
    struct cleat_tool_cache_answer answer;
    bool pinned[SLOTS];
    char trace[2048]; /* what the machine asked for and said, in order */
};

static struct cleat_tool_cache_config config_of_three(void)
{
    struct cleat_tool_cache_config config;

    memset(&config, 0, sizeof config);
    config.policy = &plain;
    config.entries_count = ENTRIES;
    config.slots_count = SLOTS;
    config.waiters_count = WAITERS;
    return config;
}

static void begin(struct fixture *f,
                  const struct cleat_tool_cache_config *config, uint64_t now)
{
    memset(f, 0, sizeof *f);
    assert_int_equal(cleat_tool_cache_begin(f->block, sizeof f->block, config,
                                            now, &f->cache, NULL),
                     CLEAT_OK);
    assert_ptr_equal(f->cache, f->block);
}

static void begin_plain(struct fixture *f)
{
    struct cleat_tool_cache_config config = config_of_three();

    begin(f, &config, 0);
}

static void say(struct fixture *f, const char *what)
{
    assert_true(strlen(f->trace) + strlen(what) < sizeof f->trace);
    strcat(f->trace, what);
}

static const char *time_text(uint64_t time, char text[24])
{
    if (time == CLEAT_NEVER) { return "ever"; }
    snprintf(text, 24, "%llu", (unsigned long long)(time / S));
    return text;
}

/* A wake, as a line of the trace. */
static void say_wake(struct fixture *f,
                     const struct cleat_tool_cache_command *wake)
{
    char line[96];

    if (wake->status == CLEAT_OK) {
        snprintf(line, sizeof line, "wake %u OK in %u%s\n", (unsigned)wake->tag,
                 wake->slot, wake->stale ? ", stale" : "");
    } else {
        assert_int_equal(wake->slot, CLEAT_TOOL_CACHE_NOBODY);
        snprintf(
            line, sizeof line, "wake %u %s after %u\n", (unsigned)wake->tag,
            cleat_status_name((enum cleat_status)wake->status), wake->attempts);
    }
    say(f, line);
}

/* Answers as the pins are. */
static void reclaim(struct fixture *f, uint32_t slot)
{
    char line[96];

    snprintf(line, sizeof line, "reclaim %u: %s\n", slot,
             f->pinned[slot] ? "no" : "yes");
    say(f, line);
    assert_int_equal(
        cleat_tool_cache_reclaimed(f->cache, slot, !f->pinned[slot]), CLEAT_OK);
}

/* Takes every command into the trace. */
static void take(struct fixture *f)
{
    struct cleat_tool_cache_command command;
    char line[96] = "";
    char until[24];

    while (cleat_tool_cache_next(f->cache, &command)) {
        switch (command.what) {
        case CLEAT_TOOL_CACHE_UNPUBLISH:
            snprintf(line, sizeof line, "unpublish %u\n", command.slot);
            break;
        case CLEAT_TOOL_CACHE_PUBLISH:
            snprintf(line, sizeof line, "publish %u in %u until %s\n",
                     (unsigned)command.key, command.slot,
                     time_text(command.until_ns, until));
            break;
        case CLEAT_TOOL_CACHE_WAKE: say_wake(f, &command); continue;
        case CLEAT_TOOL_CACHE_ABANDON:
            snprintf(line, sizeof line, "abandon %u\n", (unsigned)command.load);
            break;
        case CLEAT_TOOL_CACHE_RECLAIM: reclaim(f, command.slot); continue;
        default:
            assert_int_equal(command.what, CLEAT_TOOL_CACHE_LOAD);
            snprintf(line, sizeof line, "load %u: %u in %u until %s\n",
                     (unsigned)command.load, (unsigned)command.key,
                     command.slot, time_text(command.until_ns, until));
        }
        say(f, line);
    }
}

/* A lookup by `tag`, whose deadline is at until_s; then the commands. */
static enum cleat_status look(struct fixture *f, uint64_t at_s, uint64_t key,
                              uint64_t until_s, uint64_t tag)
{
    enum cleat_status status = cleat_tool_cache_lookup(
        f->cache, at_s * S, key, until_s * S, tag, &f->answer);
    char line[96];

    snprintf(line, sizeof line, "%u: %u asks for %u: %s%s\n", (unsigned)at_s,
             (unsigned)tag, (unsigned)key, cleat_status_name(status),
             f->answer.stale ? ", stale" : "");
    say(f, line);
    take(f);
    return status;
}

static void loaded_for(struct fixture *f, uint64_t at_s, uint64_t load,
                       enum cleat_status status, uint64_t ttl)
{
    char line[96];

    snprintf(line, sizeof line, "%u: %u %s\n", (unsigned)at_s, (unsigned)load,
             cleat_status_name(status));
    say(f, line);
    assert_int_equal(cleat_tool_cache_loaded(f->cache, at_s * S, load, status,
                                             ttl, CLEAT_NONE, 0),
                     CLEAT_OK);
    take(f);
}

static void loaded(struct fixture *f, uint64_t at_s, uint64_t load,
                   enum cleat_status status)
{
    loaded_for(f, at_s, load, status, CLEAT_NONE);
}

/* Ticks at the deadline, which must be at_s. */
static void tick(struct fixture *f, uint64_t at_s)
{
    char line[96];

    assert_int_equal(cleat_tool_cache_deadline(f->cache), at_s * S);
    snprintf(line, sizeof line, "%u: tick\n", (unsigned)at_s);
    say(f, line);
    assert_int_equal(cleat_tool_cache_tick(f->cache, at_s * S, 0), CLEAT_OK);
    take(f);
}

static void invalidate(struct fixture *f, uint64_t at_s, uint64_t key)
{
    char line[96];

    snprintf(line, sizeof line, "%u: invalidate %u\n", (unsigned)at_s,
             (unsigned)key);
    say(f, line);
    assert_int_equal(cleat_tool_cache_invalidate(f->cache, at_s * S, key),
                     CLEAT_OK);
    take(f);
}

/* Key `key` gets a value that is loaded at once; its slot. */
static uint32_t put(struct fixture *f, uint64_t at_s, uint64_t key,
                    uint64_t ttl)
{
    char before[sizeof f->trace];

    memcpy(before, f->trace, sizeof before);
    assert_int_equal(cleat_tool_cache_prefetch(f->cache, at_s * S, key),
                     CLEAT_OK);
    take(f);
    loaded_for(f, at_s, f->cache->counters.loads, CLEAT_OK, ttl);
    assert_int_equal(cleat_tool_cache_lookup(f->cache, at_s * S, key,
                                             CLEAT_NEVER, 0, &f->answer),
                     CLEAT_OK);
    memcpy(f->trace, before, sizeof before);
    return f->answer.slot;
}

#define expect(f, expected)                        \
    do {                                           \
        assert_string_equal((f)->trace, expected); \
        (f)->trace[0] = '\0';                      \
    } while (0)

/* --- the seed's own cases ---------------------------------------------------
 */

static void a_second_lookup_hits_and_asks_nobody(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    assert_int_equal(look(&f, 0, 7, 40, 1), CLEAT_PENDING);
    assert_int_equal(f.answer.waiter, 0);
    loaded(&f, 2, 1, CLEAT_OK);
    assert_int_equal(look(&f, 9, 7, 9, 2), CLEAT_OK); /* even with no time */
    assert_int_equal(f.answer.slot, 0);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "2: 1 OK\n"
               "publish 7 in 0 until ever\n"
               "wake 1 OK in 0\n"
               "9: 2 asks for 7: OK\n");
    assert_int_equal(cleat_tool_cache_deadline(f.cache), CLEAT_NEVER);
}

static void
a_failure_is_tried_again_after_exactly_one_and_two_seconds(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    loaded(&f, 3, 1, CLEAT_TRANSIENT);
    tick(&f, 4);
    loaded(&f, 5, 2, CLEAT_SHORT);
    tick(&f, 7);
    loaded(&f, 8, 3, CLEAT_OK);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "3: 1 TRANSIENT\n"
               "4: tick\n"
               "load 2: 7 in 0 until 34\n"
               "5: 2 SHORT\n"
               "7: tick\n"
               "load 3: 7 in 0 until 37\n"
               "8: 3 OK\n"
               "publish 7 in 0 until ever\n"
               "wake 1 OK in 0\n");
}

static void
the_last_failure_is_told_to_all_who_wait_and_leaves_nothing(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    loaded(&f, 3, 1, CLEAT_TRANSIENT);
    look(&f, 3, 7, 99, 2); /* during the backoff, in which nothing is held */
    tick(&f, 4);
    loaded(&f, 5, 2, CLEAT_AMBIGUOUS);
    tick(&f, 7);
    look(&f, 7, 7, 99, 3);
    loaded(&f, 8, 3, CLEAT_CAPACITY);
    assert_int_equal(cleat_tool_cache_deadline(f.cache), CLEAT_NEVER);
    assert_int_equal(cleat_tool_cache_invalidate(f.cache, 8 * S, 7),
                     CLEAT_NOT_FOUND);
    look(&f, 8, 7, 99, 4); /* loads anew */
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "3: 1 TRANSIENT\n"
               "3: 2 asks for 7: PENDING\n"
               "4: tick\n"
               "load 2: 7 in 0 until 34\n"
               "5: 2 AMBIGUOUS\n"
               "7: tick\n"
               "load 3: 7 in 0 until 37\n"
               "7: 3 asks for 7: PENDING\n"
               "8: 3 CAPACITY\n"
               "wake 1 CAPACITY after 3\n"
               "wake 2 CAPACITY after 3\n"
               "wake 3 CAPACITY after 3\n"
               "8: 4 asks for 7: PENDING\n"
               "load 4: 7 in 0 until 38\n");
}

static void a_permanent_failure_is_not_tried_again(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    loaded(&f, 3, 1, CLEAT_MALFORMED);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "3: 1 MALFORMED\n"
               "wake 1 MALFORMED after 1\n");
    assert_int_equal(cleat_tool_cache_deadline(f.cache), CLEAT_NEVER);
}

static void a_server_that_asks_to_be_left_alone_is(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    assert_int_equal(cleat_tool_cache_loaded(f.cache, 3 * S, 1, CLEAT_CAPACITY,
                                             CLEAT_NONE, 4 * S, 0),
                     CLEAT_OK);
    assert_int_equal(cleat_tool_cache_deadline(f.cache), 7 * S);
}

/* verl would hold its one lock for 3 × 30 + 1 + 2 seconds. */
static void
while_one_server_is_silent_for_93_seconds_others_hit_and_load(void **state)
{
    struct fixture f;
    uint64_t silent;

    (void)state;
    begin_plain(&f);
    put(&f, 0, 8, CLEAT_NONE);
    look(&f, 0, 7, 200, 1);
    silent = f.cache->counters.loads;
    for (uint64_t second = 1; second < 93; second++) {
        f.trace[0] = '\0';
        if (second == 30 || second == 61) {
            tick(&f, second);
            loaded(&f, second, silent, CLEAT_CANCELLED); /* killed */
        }
        if (second == 31 || second == 63) {
            tick(&f, second);
            silent = f.cache->counters.loads;
        }
        f.trace[0] = '\0';
        assert_int_equal(look(&f, second, 8, second, 2), CLEAT_OK);
        look(&f, second, 1000 + second, 200, 3);
        assert_non_null(strstr(f.trace, "load"));
        loaded(&f, second, f.cache->counters.loads, CLEAT_OK);
        assert_non_null(strstr(f.trace, "wake 3 OK"));
    }
    f.trace[0] = '\0';
    tick(&f, 93);
    expect(&f, "93: tick\n"
               "wake 1 PEER_SILENT after 3\n"
               "abandon 66\n");
    assert_int_equal(cleat_tool_cache_count(f.cache).failures, 3);
}

/* --- what the sketch in the seed got wrong -----------------------------------
 */

/* (a) A copy that fails after the load does not load again, and a result that
 * is told twice is refused, with no other effect. */
static void
a_value_that_has_come_stays_whatever_becomes_of_its_copies(void **state)
{
    unsigned char before[sizeof((struct fixture *)0)->block];
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    loaded(&f, 2, 1, CLEAT_OK);
    memcpy(before, f.block, sizeof before);
    assert_int_equal(cleat_tool_cache_loaded(f.cache, 3 * S, 1, CLEAT_TRANSIENT,
                                             CLEAT_NONE, CLEAT_NONE, 0),
                     CLEAT_INVALID);
    assert_memory_equal(before, f.block, sizeof before);
    assert_int_equal(look(&f, 3, 7, 99, 1), CLEAT_OK);
    assert_int_equal(cleat_tool_cache_count(f.cache).loads, 1);
}

/* (b) A loader that never says anything leaves nobody waiting, and the next
 * caller is served. */
static void
a_loader_that_dies_without_a_word_leaves_nobody_waiting(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 500, 1);
    tick(&f, 30);
    tick(&f, 31);
    tick(&f, 61);
    tick(&f, 63);
    tick(&f, 93);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "30: tick\n"
               "abandon 1\n"
               "31: tick\n"
               "load 2: 7 in 1 until 61\n"
               "61: tick\n"
               "abandon 2\n"
               "63: tick\n"
               "load 3: 7 in 2 until 93\n"
               "93: tick\n"
               "wake 1 PEER_SILENT after 3\n"
               "abandon 3\n");
    loaded(&f, 99, 2, CLEAT_CANCELLED); /* its process has been killed */
    look(&f, 99, 7, 500, 2);
    loaded(&f, 100, 4, CLEAT_OK);
    expect(&f, "99: 2 CANCELLED\n"
               "99: 2 asks for 7: PENDING\n"
               "load 4: 7 in 1 until 129\n"
               "100: 4 OK\n"
               "publish 7 in 1 until ever\n"
               "wake 2 OK in 1\n");
}

/* (c) */
static void each_who_waits_waits_no_longer_than_it_said(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 5, 1);
    look(&f, 1, 7, 3, 2);
    look(&f, 2, 7, 90, 3);
    tick(&f, 3);
    tick(&f, 5);
    loaded(&f, 6, 1, CLEAT_OK);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "1: 2 asks for 7: PENDING\n"
               "2: 3 asks for 7: PENDING\n"
               "3: tick\n"
               "wake 2 DEADLINE after 1\n"
               "5: tick\n"
               "wake 1 DEADLINE after 1\n"
               "6: 1 OK\n"
               "publish 7 in 0 until ever\n"
               "wake 3 OK in 0\n");
}

/* (d) Whoever asks between a failure and the end of those who waited gets a
 * load of its own, not the old error. */
static void who_asks_after_a_failure_does_not_get_the_old_error(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    assert_int_equal(cleat_tool_cache_loaded(f.cache, 1 * S, 1, CLEAT_PERMANENT,
                                             CLEAT_NONE, CLEAT_NONE, 0),
                     CLEAT_OK);
    look(&f, 1, 7, 99, 2); /* before any WAKE has been taken */
    loaded(&f, 2, 2, CLEAT_OK);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "1: 2 asks for 7: PENDING\n"
               "wake 1 PERMANENT after 1\n"
               "load 2: 7 in 0 until 31\n"
               "2: 2 OK\n"
               "publish 7 in 0 until ever\n"
               "wake 2 OK in 0\n");
}

/* --- waiting -----------------------------------------------------------------
 */

static void a_result_that_comes_at_a_deadline_is_late(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 5, 1);
    loaded(&f, 5, 1, CLEAT_OK);
    look(&f, 5, 8, 99, 2);
    loaded(&f, 35, 2, CLEAT_OK);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "5: 1 OK\n"
               "publish 7 in 0 until ever\n"
               "wake 1 DEADLINE after 1\n"
               "5: 2 asks for 8: PENDING\n"
               "load 2: 8 in 1 until 35\n"
               "35: 2 OK\n"); /* tried again at 36 */
    assert_int_equal(cleat_tool_cache_deadline(f.cache), 36 * S);
    assert_int_equal(cleat_tool_cache_count(f.cache).late, 1);
}

static void a_cancelled_waiter_is_not_told_and_the_load_goes_on(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    look(&f, 0, 7, 99, 2);
    assert_int_equal(cleat_tool_cache_cancel(f.cache, 1 * S, 0), CLEAT_OK);
    assert_int_equal(cleat_tool_cache_cancel(f.cache, 1 * S, 0), CLEAT_STATE);
    loaded(&f, 2, 1, CLEAT_OK);
    assert_int_equal(cleat_tool_cache_cancel(f.cache, 2 * S, 1), CLEAT_STATE);
    assert_int_equal(cleat_tool_cache_cancel(f.cache, 2 * S, 99), CLEAT_STATE);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "0: 2 asks for 7: PENDING\n"
               "2: 1 OK\n"
               "publish 7 in 0 until ever\n"
               "wake 2 OK in 0\n");
}

static void a_waiter_that_has_ended_unheard_may_still_be_cancelled(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    f.trace[0] = '\0';
    assert_int_equal(cleat_tool_cache_loaded(f.cache, 1 * S, 1, CLEAT_OK,
                                             CLEAT_NONE, CLEAT_NONE, 0),
                     CLEAT_OK);
    assert_int_equal(cleat_tool_cache_cancel(f.cache, 1 * S, 0), CLEAT_OK);
    take(&f);
    expect(&f, "publish 7 in 0 until ever\n");
}

static void a_lookup_without_time_begins_nothing(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    assert_int_equal(look(&f, 5, 7, 5, 1), CLEAT_DEADLINE);
    assert_int_equal(look(&f, 5, 7, 0, 1), CLEAT_DEADLINE);
    assert_int_equal(f.answer.entry, CLEAT_TOOL_CACHE_NOBODY);
    assert_int_equal(f.answer.slot, CLEAT_TOOL_CACHE_NOBODY);
    assert_int_equal(f.answer.waiter, CLEAT_TOOL_CACHE_NOBODY);
    expect(&f, "5: 1 asks for 7: DEADLINE\n"
               "5: 1 asks for 7: DEADLINE\n");
}

static void
where_all_waiters_or_all_entries_are_taken_a_lookup_says_so(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    for (uint64_t i = 0; i < WAITERS; i++) {
        assert_int_equal(look(&f, 0, 7, 99, i), CLEAT_PENDING);
    }
    assert_int_equal(look(&f, 0, 7, 99, 9), CLEAT_NO_SLOT);
    assert_int_equal(cleat_tool_cache_cancel(f.cache, 0, 2), CLEAT_OK);
    for (uint64_t key = 1; key < ENTRIES; key++) {
        assert_int_equal(cleat_tool_cache_prefetch(f.cache, 0, key), CLEAT_OK);
    }
    assert_int_equal(cleat_tool_cache_prefetch(f.cache, 0, 99), CLEAT_NO_SLOT);
    assert_int_equal(look(&f, 0, 99, 99, 9), CLEAT_NO_SLOT);
    assert_int_equal(look(&f, 0, 7, 99, 9), CLEAT_PENDING);
    assert_int_equal(f.answer.waiter, 2);
}

static void
a_wake_tells_when_its_load_began_and_how_often_it_was_tried(void **state)
{
    struct cleat_tool_cache_command command;
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 3, 7, 99, 1);
    loaded(&f, 4, 1, CLEAT_TRANSIENT);
    tick(&f, 5);
    look(&f, 6, 7, 99, 2);
    assert_int_equal(cleat_tool_cache_loaded(f.cache, 7 * S, 2, CLEAT_OK,
                                             CLEAT_NONE, CLEAT_NONE, 0),
                     CLEAT_OK);
    assert_true(cleat_tool_cache_next(f.cache, &command)); /* PUBLISH */
    for (uint64_t tag = 1; tag <= 2; tag++) {
        assert_true(cleat_tool_cache_next(f.cache, &command));
        assert_int_equal(command.what, CLEAT_TOOL_CACHE_WAKE);
        assert_int_equal(command.tag, tag);
        assert_int_equal(command.began_ns, 3 * S);
        assert_int_equal(command.attempts, 2);
        assert_int_equal(command.entry, f.answer.entry);
    }
}

/* --- freshness ---------------------------------------------------------------
 */

static void a_value_is_fresh_as_long_as_its_server_said(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    loaded_for(&f, 1, 1, CLEAT_OK, 10 * S);
    assert_int_equal(look(&f, 10, 7, 10, 1), CLEAT_OK);
    assert_int_equal(look(&f, 11, 7, 11, 1), CLEAT_DEADLINE);
    look(&f, 11, 7, 99, 1);
    loaded_for(&f, 12, 2, CLEAT_OK, 10 * S);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "1: 1 OK\n"
               "publish 7 in 0 until 11\n"
               "wake 1 OK in 0\n"
               "10: 1 asks for 7: OK\n"
               "11: 1 asks for 7: DEADLINE\n"
               "11: 1 asks for 7: PENDING\n"
               "load 2: 7 in 1 until 41\n"
               "12: 2 OK\n"
               "unpublish 0\n"
               "publish 7 in 1 until 22\n"
               "wake 1 OK in 1\n");
}

static void what_a_server_says_is_clamped_and_the_default_is_not(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    loaded_for(&f, 0, 1, CLEAT_OK, 90000 * S);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "0: 1 OK\n"
               "publish 7 in 0 until 86400\n"
               "wake 1 OK in 0\n");
    config.ttl_max_ns = 5 * S;
    config.ttl_default_ns = 9 * S;
    begin(&f, &config, 0);
    look(&f, 0, 7, 99, 1);
    loaded_for(&f, 0, 1, CLEAT_OK, 6 * S);
    look(&f, 0, 8, 99, 1);
    loaded(&f, 0, 2, CLEAT_OK);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "0: 1 OK\n"
               "publish 7 in 0 until 5\n"
               "wake 1 OK in 0\n"
               "0: 1 asks for 8: PENDING\n"
               "load 2: 8 in 1 until 30\n"
               "0: 2 OK\n"
               "publish 8 in 1 until 9\n"
               "wake 1 OK in 1\n");
    config.ttl_max_ns = CLEAT_NONE;
    begin(&f, &config, 0);
    look(&f, 0, 7, 99, 1);
    loaded_for(&f, 0, 1, CLEAT_OK, 90000 * S);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "0: 1 OK\n"
               "publish 7 in 0 until 90000\n"
               "wake 1 OK in 0\n");
}

static void
what_is_stale_at_once_serves_those_who_wait_and_nobody_else(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    loaded_for(&f, 1, 1, CLEAT_OK, 0);
    assert_int_equal(look(&f, 1, 7, 1, 2), CLEAT_DEADLINE);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "1: 1 OK\n"
               "wake 1 OK in 0\n"
               "1: 2 asks for 7: DEADLINE\n");
}

static void a_stale_value_is_given_out_while_one_load_refreshes_it(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;

    (void)state;
    config.stale_max_ns = 10 * S;
    begin(&f, &config, 0);
    put(&f, 0, 7, 5 * S);
    assert_int_equal(look(&f, 5, 7, 5, 1), CLEAT_OK);
    assert_int_equal(look(&f, 6, 7, 6, 2), CLEAT_OK);
    loaded_for(&f, 7, 2, CLEAT_OK, 5 * S);
    assert_int_equal(look(&f, 7, 7, 7, 3), CLEAT_OK);
    assert_int_equal(look(&f, 21, 7, 21, 3), CLEAT_OK);
    loaded(&f, 21, 3, CLEAT_PERMANENT);
    assert_int_equal(look(&f, 22, 7, 22, 3), CLEAT_DEADLINE);
    look(&f, 22, 7, 99, 3);
    expect(&f, "5: 1 asks for 7: OK, stale\n"
               "load 2: 7 in 1 until 35\n"
               "6: 2 asks for 7: OK, stale\n"
               "7: 2 OK\n"
               "unpublish 0\n"
               "publish 7 in 1 until 12\n"
               "7: 3 asks for 7: OK\n"
               "21: 3 asks for 7: OK, stale\n"
               "load 3: 7 in 2 until 51\n"
               "21: 3 PERMANENT\n"
               "22: 3 asks for 7: DEADLINE\n"
               "22: 3 asks for 7: PENDING\n"
               "load 4: 7 in 2 until 52\n");
    assert_int_equal(cleat_tool_cache_count(f.cache).stale, 3);
    assert_int_equal(cleat_tool_cache_count(f.cache).refreshes, 3);
}

static void an_invalidated_value_is_taken_back_and_loaded_again(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    put(&f, 0, 7, CLEAT_NONE);
    invalidate(&f, 3, 7);
    look(&f, 4, 7, 99, 1);
    expect(&f, "3: invalidate 7\n"
               "unpublish 0\n"
               "4: 1 asks for 7: PENDING\n"
               "load 2: 7 in 1 until 34\n");
}

static void what_was_loaded_across_an_invalidation_is_loaded_again(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;

    (void)state;
    config.reloads_max = 2;
    begin(&f, &config, 0);
    look(&f, 0, 7, 99, 1);
    invalidate(&f, 1, 7);
    loaded(&f, 2, 1, CLEAT_OK);
    look(&f, 2, 7, 99, 2);
    invalidate(&f, 3, 7);
    loaded(&f, 4, 2, CLEAT_OK);
    invalidate(&f, 5, 7);
    loaded(&f, 6, 3, CLEAT_OK);
    assert_int_equal(look(&f, 6, 7, 6, 3), CLEAT_DEADLINE);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "1: invalidate 7\n"
               "2: 1 OK\n"
               "load 2: 7 in 1 until 32\n"
               "2: 2 asks for 7: PENDING\n"
               "3: invalidate 7\n"
               "4: 2 OK\n"
               "unpublish 0\n"
               "load 3: 7 in 2 until 34\n"
               "5: invalidate 7\n"
               "6: 3 OK\n"
               "unpublish 1\n"
               "wake 1 OK in 2, stale\n"
               "wake 2 OK in 2, stale\n"
               "6: 3 asks for 7: DEADLINE\n");
}

static void none_reloads_gives_out_what_came_as_stale(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;

    (void)state;
    config.reloads_max = CLEAT_TOOL_CACHE_NOBODY;
    begin(&f, &config, 0);
    look(&f, 0, 7, 99, 1);
    invalidate(&f, 1, 7);
    loaded(&f, 2, 1, CLEAT_OK);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "1: invalidate 7\n"
               "2: 1 OK\n"
               "wake 1 OK in 0, stale\n");
}

static void
who_is_told_after_an_invalidation_is_told_that_it_is_stale(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    f.trace[0] = '\0';
    assert_int_equal(cleat_tool_cache_loaded(f.cache, 1 * S, 1, CLEAT_OK,
                                             CLEAT_NONE, CLEAT_NONE, 0),
                     CLEAT_OK);
    invalidate(&f, 1, 7);
    expect(&f, "1: invalidate 7\n"
               "unpublish 0\n"
               "wake 1 OK in 0, stale\n");
}

static void what_is_not_known_cannot_be_invalidated(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    assert_int_equal(cleat_tool_cache_invalidate(f.cache, 0, 7),
                     CLEAT_NOT_FOUND);
    assert_int_equal(cleat_tool_cache_count(f.cache).invalidations, 0);
}

/* --- failures that are remembered --------------------------------------------
 */

static void a_failure_is_remembered_as_long_as_was_said(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;

    (void)state;
    config.negative_ttl_ns = 10 * S;
    begin(&f, &config, 0);
    look(&f, 0, 7, 99, 1);
    loaded(&f, 1, 1, CLEAT_PERMANENT);
    assert_int_equal(cleat_tool_cache_deadline(f.cache), 11 * S);
    assert_int_equal(look(&f, 2, 7, 99, 2), CLEAT_PERMANENT);
    assert_int_equal(f.answer.attempts, 1);
    assert_int_equal(cleat_tool_cache_prefetch(f.cache, 10 * S, 7),
                     CLEAT_PERMANENT);
    assert_int_equal(look(&f, 11, 7, 99, 2), CLEAT_PENDING);
    loaded(&f, 12, 2, CLEAT_PERMANENT);
    invalidate(&f, 13, 7);
    assert_int_equal(look(&f, 13, 7, 99, 2), CLEAT_PENDING);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "1: 1 PERMANENT\n"
               "wake 1 PERMANENT after 1\n"
               "2: 2 asks for 7: PERMANENT\n"
               "11: 2 asks for 7: PENDING\n"
               "load 2: 7 in 0 until 41\n"
               "12: 2 PERMANENT\n"
               "wake 2 PERMANENT after 1\n"
               "13: invalidate 7\n"
               "13: 2 asks for 7: PENDING\n"
               "load 3: 7 in 0 until 43\n");
}

static void
where_all_entries_are_taken_a_remembered_failure_gives_way(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;

    (void)state;
    config.negative_ttl_ns = 10 * S;
    config.entries_count = 4;
    begin(&f, &config, 0);
    for (uint64_t key = 1; key <= 4; key++) {
        assert_int_equal(cleat_tool_cache_prefetch(f.cache, 0, key), CLEAT_OK);
        take(&f);
        loaded(&f, 0, key, CLEAT_PERMANENT);
    }
    f.trace[0] = '\0';
    assert_int_equal(look(&f, 1, 9, 99, 1), CLEAT_PENDING);
    assert_int_equal(look(&f, 1, 1, 99, 1), CLEAT_PENDING);
    assert_int_equal(look(&f, 1, 4, 99, 1), CLEAT_PERMANENT);
    expect(&f, "1: 1 asks for 9: PENDING\n"
               "load 5: 9 in 0 until 31\n"
               "1: 1 asks for 1: PENDING\n"
               "load 6: 1 in 1 until 31\n"
               "1: 1 asks for 4: PERMANENT\n");
}

/* --- who gives way -----------------------------------------------------------
 */

static void the_least_recently_used_gives_way(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    for (uint64_t key = 0; key < SLOTS; key++) {
        assert_int_equal(put(&f, key, key, CLEAT_NONE), key);
    }
    assert_int_equal(cleat_tool_cache_used(f.cache, 0, 5), CLEAT_OK);
    look(&f, 4, 9, 99, 1);
    loaded(&f, 5, 4, CLEAT_OK);
    look(&f, 5, 8, 99, 1);
    expect(&f, "4: 1 asks for 9: PENDING\n"
               "reclaim 1: yes\n"
               "load 4: 9 in 1 until 34\n"
               "5: 4 OK\n"
               "publish 9 in 1 until ever\n"
               "wake 1 OK in 1\n"
               "5: 1 asks for 8: PENDING\n"
               "reclaim 2: yes\n"
               "load 5: 8 in 2 until 35\n");
    assert_int_equal(cleat_tool_cache_count(f.cache).evictions, 2);
    assert_int_equal(look(&f, 5, 1, 99, 2), CLEAT_PENDING);
}

static void what_was_replaced_gives_way_before_what_is_stale(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    put(&f, 0, 0, 5 * S);      /* slot 0, stale soonest */
    put(&f, 1, 1, CLEAT_NONE); /* slot 1 */
    invalidate(&f, 2, 1);
    put(&f, 2, 1, CLEAT_NONE); /* slot 2; what is in slot 1 is old */
    f.trace[0] = '\0';
    look(&f, 6, 8, 99, 1);
    loaded(&f, 6, 4, CLEAT_OK);
    look(&f, 6, 9, 99, 1);
    expect(&f, "6: 1 asks for 8: PENDING\n"
               "reclaim 1: yes\n"
               "load 4: 8 in 1 until 36\n"
               "6: 4 OK\n"
               "publish 8 in 1 until ever\n"
               "wake 1 OK in 1\n"
               "6: 1 asks for 9: PENDING\n"
               "reclaim 0: yes\n"
               "load 5: 9 in 0 until 36\n");
    assert_int_equal(cleat_tool_cache_count(f.cache).evictions, 1);
}

static void what_is_pinned_does_not_give_way(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    for (uint64_t key = 0; key < SLOTS; key++) { put(&f, 0, key, CLEAT_NONE); }
    f.pinned[0] = true;
    f.pinned[1] = true;
    look(&f, 1, 9, 99, 1);
    loaded(&f, 1, 4, CLEAT_PERMANENT);
    f.pinned[2] = true;
    put(&f, 1, 2, CLEAT_NONE);
    f.trace[0] = '\0';
    look(&f, 2, 9, 99, 2);
    expect(&f, "2: 2 asks for 9: PENDING\n"
               "reclaim 0: no\n"
               "reclaim 1: no\n"
               "reclaim 2: no\n");
}

static void where_nothing_gives_way_the_attempt_has_failed(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    for (uint64_t key = 0; key < SLOTS; key++) {
        f.pinned[put(&f, 0, key, CLEAT_NONE)] = true;
    }
    look(&f, 1, 9, 99, 1);
    f.trace[0] = '\0';
    tick(&f, 1);
    tick(&f, 2);
    expect(&f, "1: tick\n"
               "2: tick\n"
               "reclaim 0: no\n"
               "reclaim 1: no\n"
               "reclaim 2: no\n");
    tick(&f, 2);
    f.pinned[1] = false; /* meanwhile one is unpinned */
    tick(&f, 4);
    expect(&f, "2: tick\n"
               "4: tick\n"
               "reclaim 0: no\n"
               "reclaim 1: yes\n"
               "load 4: 9 in 1 until 34\n");
    loaded(&f, 5, 4, CLEAT_TRANSIENT);
    expect(&f, "5: 4 TRANSIENT\n"
               "wake 1 TRANSIENT after 3\n");
}

static void without_a_slot_all_attempts_long_it_says_so(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    for (uint64_t key = 0; key < SLOTS; key++) {
        f.pinned[put(&f, 0, key, CLEAT_NONE)] = true;
    }
    look(&f, 1, 9, 99, 1);
    tick(&f, 1);
    tick(&f, 2);
    tick(&f, 2);
    tick(&f, 4);
    f.trace[0] = '\0';
    tick(&f, 4);
    expect(&f, "4: tick\n"
               "wake 1 NO_SLOT after 3\n");
}

static void a_value_too_old_for_anyone_gives_way_to_its_own_load(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;

    (void)state;
    config.slots_count = 1;
    begin(&f, &config, 0);
    put(&f, 0, 7, 5 * S);
    look(&f, 5, 7, 99, 1);
    loaded(&f, 6, 2, CLEAT_OK);
    expect(&f, "5: 1 asks for 7: PENDING\n"
               "reclaim 0: yes\n"
               "load 2: 7 in 0 until 35\n"
               "6: 2 OK\n"
               "publish 7 in 0 until ever\n"
               "wake 1 OK in 0\n");
}

static void a_stale_value_that_serves_is_not_lost_to_its_refresh(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;

    (void)state;
    config.slots_count = 1;
    config.stale_max_ns = CLEAT_NONE;
    begin(&f, &config, 0);
    put(&f, 0, 7, 5 * S);
    look(&f, 5, 7, 99, 1);
    assert_int_equal(look(&f, 6, 7, 6, 2), CLEAT_OK);
    expect(&f, "5: 1 asks for 7: OK, stale\n"
               "6: 2 asks for 7: OK, stale\n");
}

static void an_abandoned_slot_is_reserved_until_its_late_result(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;

    (void)state;
    config.slots_count = 1;
    begin(&f, &config, 0);
    look(&f, 0, 7, 99, 1);
    tick(&f, 30);
    tick(&f, 31);
    expect(&f, "0: 1 asks for 7: PENDING\n"
               "load 1: 7 in 0 until 30\n"
               "30: tick\n"
               "abandon 1\n"
               "31: tick\n"); /* its slot is not there */
    tick(&f, 31);
    loaded(&f, 32, 1, CLEAT_OK); /* changes nothing else */
    assert_int_equal(look(&f, 32, 7, 32, 2), CLEAT_DEADLINE);
    tick(&f, 33);
    expect(&f, "31: tick\n"
               "32: 1 OK\n"
               "32: 2 asks for 7: DEADLINE\n"
               "33: tick\n"
               "load 2: 7 in 0 until 63\n");
}

/* --- the calls ---------------------------------------------------------------
 */

static void a_prefetch_loads_for_nobody_and_a_lookup_joins_it(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    assert_int_equal(cleat_tool_cache_prefetch(f.cache, 0, 7), CLEAT_OK);
    assert_int_equal(cleat_tool_cache_prefetch(f.cache, 0, 7), CLEAT_OK);
    take(&f);
    look(&f, 1, 7, 99, 1);
    loaded(&f, 2, 1, CLEAT_OK);
    assert_int_equal(cleat_tool_cache_prefetch(f.cache, 3 * S, 7), CLEAT_OK);
    take(&f);
    expect(&f, "load 1: 7 in 0 until 30\n"
               "1: 1 asks for 7: PENDING\n"
               "2: 1 OK\n"
               "publish 7 in 0 until ever\n"
               "wake 1 OK in 0\n");
}

static void commands_come_in_the_order_that_the_header_says(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;

    (void)state;
    config.slots_count = 2;
    begin(&f, &config, 0);
    put(&f, 0, 1, CLEAT_NONE);
    look(&f, 0, 2, 30, 1);
    look(&f, 0, 2, 99, 2);
    f.trace[0] = '\0';
    /* All at once: an invalidation, an abandonment, an end, a load. */
    assert_int_equal(cleat_tool_cache_invalidate(f.cache, 30 * S, 1), CLEAT_OK);
    assert_int_equal(cleat_tool_cache_prefetch(f.cache, 30 * S, 3), CLEAT_OK);
    take(&f);
    expect(&f, "unpublish 0\n"
               "wake 1 DEADLINE after 1\n"
               "abandon 2\n"
               "reclaim 0: yes\n"
               "load 3: 3 in 0 until 60\n");
}

static void while_an_answer_is_awaited_no_other_call_is_legal(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct cleat_tool_cache_command command;
    struct fixture f;

    (void)state;
    config.slots_count = 1;
    begin(&f, &config, 0);
    put(&f, 0, 1, CLEAT_NONE);
    assert_int_equal(cleat_tool_cache_reclaimed(f.cache, 0, true), CLEAT_STATE);
    assert_int_equal(cleat_tool_cache_prefetch(f.cache, 0, 2), CLEAT_OK);
    assert_true(cleat_tool_cache_next(f.cache, &command));
    assert_int_equal(command.what, CLEAT_TOOL_CACHE_RECLAIM);
    assert_false(cleat_tool_cache_next(f.cache, &command));
    assert_int_equal(cleat_tool_cache_tick(f.cache, 0, 0), CLEAT_STATE);
    assert_int_equal(look(&f, 0, 1, 9, 1), CLEAT_STATE);
    assert_int_equal(cleat_tool_cache_prefetch(f.cache, 0, 1), CLEAT_STATE);
    assert_int_equal(cleat_tool_cache_cancel(f.cache, 0, 0), CLEAT_STATE);
    assert_int_equal(cleat_tool_cache_invalidate(f.cache, 0, 1), CLEAT_STATE);
    assert_int_equal(cleat_tool_cache_reclaimed(f.cache, 1, true), CLEAT_STATE);
    assert_int_equal(
        cleat_tool_cache_reclaimed(f.cache, CLEAT_TOOL_CACHE_NOBODY, true),
        CLEAT_STATE);
    assert_int_equal(cleat_tool_cache_reclaimed(f.cache, 0, true), CLEAT_OK);
    assert_int_equal(cleat_tool_cache_reclaimed(f.cache, 0, true), CLEAT_STATE);
    assert_true(cleat_tool_cache_next(f.cache, &command));
    assert_int_equal(command.what, CLEAT_TOOL_CACHE_LOAD);
}

static void time_that_goes_back_is_refused_without_effect(void **state)
{
    unsigned char before[sizeof((struct fixture *)0)->block];
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 9, 7, 99, 1);
    assert_int_equal(cleat_tool_cache_tick(f.cache, 9 * S, 0), CLEAT_OK);
    memcpy(before, f.block, sizeof before);
    assert_int_equal(cleat_tool_cache_tick(f.cache, 9 * S - 1, 0),
                     CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_tool_cache_loaded(f.cache, 9 * S - 1, 1, CLEAT_OK,
                                             CLEAT_NONE, CLEAT_NONE, 0),
                     CLEAT_TIME_BACKWARDS);
    assert_int_equal(look(&f, 8, 7, 99, 1), CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_tool_cache_prefetch(f.cache, 0, 7),
                     CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_tool_cache_cancel(f.cache, 0, 0),
                     CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_tool_cache_invalidate(f.cache, 0, 7),
                     CLEAT_TIME_BACKWARDS);
    assert_memory_equal(before, f.block, sizeof before);
}

static void a_result_that_nobody_awaits_is_refused(void **state)
{
    struct fixture f;

    (void)state;
    begin_plain(&f);
    look(&f, 0, 7, 99, 1);
    assert_int_equal(cleat_tool_cache_loaded(f.cache, 0, 2, CLEAT_OK,
                                             CLEAT_NONE, CLEAT_NONE, 0),
                     CLEAT_INVALID);
    assert_int_equal(cleat_tool_cache_loaded(f.cache, 0, 0, CLEAT_OK,
                                             CLEAT_NONE, CLEAT_NONE, 0),
                     CLEAT_INVALID);
    assert_int_equal(cleat_tool_cache_loaded(f.cache, 0, 1, CLEAT_PENDING,
                                             CLEAT_NONE, CLEAT_NONE, 0),
                     CLEAT_INVALID);
    assert_int_equal(cleat_tool_cache_used(f.cache, SLOTS, 1), CLEAT_INVALID);
}

static void what_is_missing_from_the_block_or_the_config_is_told(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct cleat_retry_policy unsound = plain;
    struct cleat_tool_cache *cache;
    struct cleat_error error;
    struct fixture f;
    size_t bytes = cleat_tool_cache_bytes(&config);

    (void)state;
    assert_int_equal(bytes, CLEAT_TOOL_CACHE_BYTES(ENTRIES, SLOTS, WAITERS));
    cache = (void *)&f;
    assert_int_equal(
        cleat_tool_cache_begin(f.block, bytes - 1, &config, 0, &cache, &error),
        CLEAT_TOO_SMALL);
    assert_null(cache);
    assert_int_equal(error.offset, bytes);
    assert_int_equal(
        cleat_tool_cache_begin(NULL, bytes, &config, 0, &cache, &error),
        CLEAT_INVALID);
    assert_int_equal(error.index, 0);
    assert_int_equal(cleat_tool_cache_begin((char *)f.block + 4, bytes, &config,
                                            0, &cache, &error),
                     CLEAT_INVALID);
    for (int i = 0; i < 4; i++) {
        config = config_of_three();
        unsound.multiplier_thousandths = 1;
        if (i == 0) { config.slots_count = 0; }
        if (i == 1) { config.waiters_count = 0; }
        if (i == 2) { config.entries_count = SLOTS - 1; }
        if (i == 3) { config.policy = &unsound; }
        assert_int_equal(cleat_tool_cache_begin(f.block, SIZE_MAX, &config, 0,
                                                &cache, &error),
                         CLEAT_INVALID);
        assert_null(cache);
        assert_int_equal(error.index, 2);
    }
}

/* The numbers of the header: a load is tried 3 times, 30 s each, 1 s and 2 s
 * apart, 20 % more or less; 24 h; 3 reloads; never stale; nothing remembered.
 */
static void zero_means_the_defaults_of_the_header(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct fixture f;
    uint64_t wait;

    (void)state;
    config.policy = NULL;
    begin(&f, &config, 0);
    look(&f, 0, 7, 900, 1);
    for (int i = 1; i <= 3; i++) {
        invalidate(&f, 0, 7);
        loaded(&f, 0, (uint64_t)i, CLEAT_OK);
        assert_null(strstr(f.trace, "wake"));
    }
    invalidate(&f, 0, 7);
    f.trace[0] = '\0';
    loaded(&f, 0, 4, CLEAT_OK);
    assert_non_null(strstr(f.trace, "wake 1 OK"));

    begin(&f, &config, 0);
    look(&f, 0, 7, 900, 1);
    assert_int_equal(cleat_tool_cache_deadline(f.cache), 30 * S);
    assert_int_equal(cleat_tool_cache_tick(f.cache, 30 * S, UINT64_MAX / 3),
                     CLEAT_OK);
    take(&f);
    wait = cleat_tool_cache_deadline(f.cache) - 30 * S;
    assert_in_range(wait, 800 * CLEAT_NS_PER_MS, 1200 * CLEAT_NS_PER_MS);
    assert_int_equal(
        cleat_tool_cache_tick(f.cache, cleat_tool_cache_deadline(f.cache), 0),
        CLEAT_OK);
    take(&f);
    assert_int_equal(
        cleat_tool_cache_tick(f.cache, cleat_tool_cache_deadline(f.cache), 0),
        CLEAT_OK);
    wait = cleat_tool_cache_deadline(f.cache) - 60 * S - wait;
    assert_in_range(wait, 1600 * CLEAT_NS_PER_MS, 2400 * CLEAT_NS_PER_MS);
    take(&f);
    assert_int_equal(
        cleat_tool_cache_tick(f.cache, cleat_tool_cache_deadline(f.cache), 0),
        CLEAT_OK);
    take(&f);
    f.trace[0] = '\0';
    assert_int_equal(
        cleat_tool_cache_tick(f.cache, cleat_tool_cache_deadline(f.cache), 0),
        CLEAT_OK);
    take(&f);
    expect(&f, "wake 1 PEER_SILENT after 3\n"
               "abandon 3\n");
    assert_int_equal(cleat_tool_cache_deadline(f.cache), CLEAT_NEVER);
}

static void the_counters_tell_what_has_happened(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct cleat_tool_cache_counters counters;
    struct fixture f;

    (void)state;
    config.slots_count = 1;
    config.stale_max_ns = CLEAT_NONE;
    begin(&f, &config, 0);
    look(&f, 0, 7, 99, 1); /* a miss that waits */
    look(&f, 0, 7, 99, 2); /* another */
    look(&f, 0, 8, 0, 3);  /* a miss that cannot */
    loaded(&f, 1, 1, CLEAT_TRANSIENT);
    tick(&f, 2);
    loaded(&f, 3, 2, CLEAT_OK);
    look(&f, 3, 7, 99, 1); /* a hit */
    assert_int_equal(cleat_tool_cache_used(f.cache, 0, 10), CLEAT_OK);
    look(&f, 4, 8, 99, 1);       /* evicts */
    tick(&f, 34);                /* silent */
    loaded(&f, 34, 3, CLEAT_OK); /* late */
    tick(&f, 35);
    loaded_for(&f, 35, 4, CLEAT_OK, 1 * S);
    look(&f, 36, 8, 99, 1); /* a stale hit, refreshed */
    invalidate(&f, 36, 8);
    counters = cleat_tool_cache_count(f.cache);
    assert_int_equal(counters.hits, 12);
    assert_int_equal(counters.stale, 1);
    assert_int_equal(counters.misses, 4);
    assert_int_equal(counters.waits, 3);
    assert_int_equal(counters.loads, 4);
    assert_int_equal(counters.failures, 3); /* it had no slot */
    assert_int_equal(counters.refreshes, 1);
    assert_int_equal(counters.evictions, 1);
    assert_int_equal(counters.late, 1);
    assert_int_equal(counters.invalidations, 1);
}

static void a_copy_of_the_block_goes_on_by_itself(void **state)
{
    struct fixture one;
    struct fixture two;

    (void)state;
    begin_plain(&one);
    look(&one, 0, 7, 99, 1);
    memcpy(&two, &one, sizeof two);
    two.cache = (struct cleat_tool_cache *)(void *)two.block;
    loaded(&one, 1, 1, CLEAT_OK);
    one.trace[0] = two.trace[0] = '\0';
    loaded(&two, 2, 1, CLEAT_PERMANENT);
    expect(&two, "2: 1 PERMANENT\n"
                 "wake 1 PERMANENT after 1\n");
    assert_int_equal(look(&one, 2, 7, 2, 1), CLEAT_OK);
}

static void the_end_of_time_is_never_reached(void **state)
{
    struct cleat_tool_cache_config config = config_of_three();
    struct cleat_tool_cache_command command;
    uint64_t start = UINT64_MAX - 10 * S;
    struct fixture f;

    (void)state;
    config.negative_ttl_ns = 100 * S;
    begin(&f, &config, start);
    assert_int_equal(
        cleat_tool_cache_lookup(f.cache, start, 7, CLEAT_NEVER, 1, &f.answer),
        CLEAT_PENDING);
    assert_true(cleat_tool_cache_next(f.cache, &command));
    assert_int_equal(command.until_ns, CLEAT_NEVER);
    assert_int_equal(cleat_tool_cache_deadline(f.cache), CLEAT_NEVER);
    assert_int_equal(cleat_tool_cache_tick(f.cache, UINT64_MAX - 1, 0),
                     CLEAT_OK);
    assert_false(cleat_tool_cache_next(f.cache, &command));
    assert_int_equal(cleat_tool_cache_loaded(f.cache, UINT64_MAX - 1, 1,
                                             CLEAT_OK, 100 * S, CLEAT_NONE, 0),
                     CLEAT_OK);
    assert_true(cleat_tool_cache_next(f.cache, &command));
    assert_int_equal(command.what, CLEAT_TOOL_CACHE_PUBLISH);
    assert_int_equal(command.until_ns, CLEAT_NEVER);
    assert_true(cleat_tool_cache_next(f.cache, &command));
    assert_int_equal(command.what, CLEAT_TOOL_CACHE_WAKE);
    assert_int_equal(command.status, CLEAT_OK);
    assert_int_equal(
        cleat_tool_cache_lookup(f.cache, UINT64_MAX - 1, 7, 0, 1, &f.answer),
        CLEAT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_lookup_hits_and_asks_nobody),
        cmocka_unit_test(
            a_failure_is_tried_again_after_exactly_one_and_two_seconds),
        cmocka_unit_test(
            the_last_failure_is_told_to_all_who_wait_and_leaves_nothing),
        cmocka_unit_test(a_permanent_failure_is_not_tried_again),
        cmocka_unit_test(a_server_that_asks_to_be_left_alone_is),
        cmocka_unit_test(
            while_one_server_is_silent_for_93_seconds_others_hit_and_load),
        cmocka_unit_test(
            a_value_that_has_come_stays_whatever_becomes_of_its_copies),
        cmocka_unit_test(
            a_loader_that_dies_without_a_word_leaves_nobody_waiting),
        cmocka_unit_test(each_who_waits_waits_no_longer_than_it_said),
        cmocka_unit_test(who_asks_after_a_failure_does_not_get_the_old_error),
        cmocka_unit_test(a_result_that_comes_at_a_deadline_is_late),
        cmocka_unit_test(a_cancelled_waiter_is_not_told_and_the_load_goes_on),
        cmocka_unit_test(
            a_waiter_that_has_ended_unheard_may_still_be_cancelled),
        cmocka_unit_test(a_lookup_without_time_begins_nothing),
        cmocka_unit_test(
            where_all_waiters_or_all_entries_are_taken_a_lookup_says_so),
        cmocka_unit_test(
            a_wake_tells_when_its_load_began_and_how_often_it_was_tried),
        cmocka_unit_test(a_value_is_fresh_as_long_as_its_server_said),
        cmocka_unit_test(what_a_server_says_is_clamped_and_the_default_is_not),
        cmocka_unit_test(
            what_is_stale_at_once_serves_those_who_wait_and_nobody_else),
        cmocka_unit_test(
            a_stale_value_is_given_out_while_one_load_refreshes_it),
        cmocka_unit_test(an_invalidated_value_is_taken_back_and_loaded_again),
        cmocka_unit_test(
            what_was_loaded_across_an_invalidation_is_loaded_again),
        cmocka_unit_test(none_reloads_gives_out_what_came_as_stale),
        cmocka_unit_test(
            who_is_told_after_an_invalidation_is_told_that_it_is_stale),
        cmocka_unit_test(what_is_not_known_cannot_be_invalidated),
        cmocka_unit_test(a_failure_is_remembered_as_long_as_was_said),
        cmocka_unit_test(
            where_all_entries_are_taken_a_remembered_failure_gives_way),
        cmocka_unit_test(the_least_recently_used_gives_way),
        cmocka_unit_test(what_was_replaced_gives_way_before_what_is_stale),
        cmocka_unit_test(what_is_pinned_does_not_give_way),
        cmocka_unit_test(where_nothing_gives_way_the_attempt_has_failed),
        cmocka_unit_test(without_a_slot_all_attempts_long_it_says_so),
        cmocka_unit_test(a_value_too_old_for_anyone_gives_way_to_its_own_load),
        cmocka_unit_test(a_stale_value_that_serves_is_not_lost_to_its_refresh),
        cmocka_unit_test(an_abandoned_slot_is_reserved_until_its_late_result),
        cmocka_unit_test(a_prefetch_loads_for_nobody_and_a_lookup_joins_it),
        cmocka_unit_test(commands_come_in_the_order_that_the_header_says),
        cmocka_unit_test(while_an_answer_is_awaited_no_other_call_is_legal),
        cmocka_unit_test(time_that_goes_back_is_refused_without_effect),
        cmocka_unit_test(a_result_that_nobody_awaits_is_refused),
        cmocka_unit_test(what_is_missing_from_the_block_or_the_config_is_told),
        cmocka_unit_test(zero_means_the_defaults_of_the_header),
        cmocka_unit_test(the_counters_tell_what_has_happened),
        cmocka_unit_test(a_copy_of_the_block_goes_on_by_itself),
        cmocka_unit_test(the_end_of_time_is_never_reached),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
