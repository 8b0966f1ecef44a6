/* Cleat: gather, step by step. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/gather.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define S CLEAT_NS_PER_S

enum { HANDLES = 4 };

/* A bring-up without chance: attempts of 10 s, waits of 2 s, 4 s, 4 s … */
static const struct cleat_retry_policy plain = {
    2 * S, 4 * S, 0, 0, 0, 10 * S, 5, 2000, CLEAT_RETRY_JITTER_NONE, 0};

struct fixture {
    uint64_t block[CLEAT_GATHER_BYTES(HANDLES) / sizeof(uint64_t)];
    struct cleat_gather *gather;
    char trace[1024]; /* what the machine asked for and said, in order */
};

static void begin(struct fixture *f, uint32_t handles, uint64_t timeout_s,
                  uint64_t now)
{
    struct cleat_gather_config config = {&plain, timeout_s * S, handles};

    memset(f, 0, sizeof *f);
    assert_int_equal(cleat_gather_begin(f->block, sizeof f->block, &config, now,
                                        &f->gather, NULL),
                     CLEAT_OK);
    assert_ptr_equal(f->gather, f->block);
}

static void say(struct fixture *f, const char *what)
{
    assert_true(strlen(f->trace) + strlen(what) < sizeof f->trace);
    strcat(f->trace, what);
}

/* Takes every command into the trace: "wait 0.1 until 10". */
static void take(struct fixture *f)
{
    struct cleat_gather_command command;
    char line[64];

    while (cleat_gather_next(f->gather, &command)) {
        snprintf(line, sizeof line, "wait %u.%u until %u\n", command.handle,
                 command.wait, (unsigned)(command.deadline_ns / S));
        say(f, line);
    }
}

static void result(struct fixture *f, uint64_t at_s, uint32_t handle,
                   uint32_t wait, enum cleat_status status)
{
    char line[64];

    snprintf(line, sizeof line, "%u: %u.%u %s\n", (unsigned)at_s, handle, wait,
             cleat_status_name(status));
    say(f, line);
    assert_int_equal(cleat_gather_result(f->gather, at_s * S, handle, wait,
                                         status, CLEAT_NONE, 0),
                     CLEAT_OK);
    take(f);
}

/* Ticks at the deadline, which must be at_s. */
static void tick(struct fixture *f, uint64_t at_s)
{
    char line[64];

    assert_int_equal(cleat_gather_deadline(f->gather), at_s * S);
    snprintf(line, sizeof line, "%u: tick\n", (unsigned)at_s);
    say(f, line);
    assert_int_equal(cleat_gather_tick(f->gather, at_s * S, 0), CLEAT_OK);
    take(f);
}

static enum cleat_status status_of(struct fixture *f)
{
    return cleat_gather_status(f->gather, NULL);
}

/* --- golden traces in virtual time ------------------------------------------
 */

static void bring_up_recovers_after_k_failures(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, 2, 600, 0);
    take(&f);
    result(&f, 3, 1, 1, CLEAT_OK);
    result(&f, 3, 0, 1, CLEAT_TRANSIENT);
    tick(&f, 5);
    result(&f, 6, 0, 2, CLEAT_AMBIGUOUS);
    tick(&f, 10);
    result(&f, 11, 0, 3, CLEAT_CAPACITY);
    tick(&f, 15);
    assert_int_equal(status_of(&f), CLEAT_PENDING);
    result(&f, 20, 0, 4, CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
    assert_string_equal(f.trace, "wait 0.1 until 10\n"
                                 "wait 1.1 until 10\n"
                                 "3: 1.1 OK\n"
                                 "3: 0.1 TRANSIENT\n"
                                 "5: tick\n"
                                 "wait 0.2 until 15\n"
                                 "6: 0.2 AMBIGUOUS\n"
                                 "10: tick\n"
                                 "wait 0.3 until 20\n"
                                 "11: 0.3 CAPACITY\n"
                                 "15: tick\n"
                                 "wait 0.4 until 25\n"
                                 "20: 0.4 OK\n");
    assert_int_equal(cleat_gather_deadline(f.gather), CLEAT_NEVER);
}

static void a_silent_wait_is_waited_for_again_on_the_same_handle(void **state)
{
    struct cleat_gather_report report;
    struct fixture f;

    (void)state;
    begin(&f, 1, 600, 0);
    take(&f);
    tick(&f, 10);
    cleat_gather_look(f.gather, 0, &report);
    assert_int_equal(report.status, CLEAT_PENDING);
    assert_int_equal(report.last, CLEAT_PEER_SILENT);
    assert_int_equal(report.waits, 1);
    tick(&f, 12);
    result(&f, 13, 0, 2, CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
    assert_string_equal(f.trace, "wait 0.1 until 10\n"
                                 "10: tick\n"
                                 "12: tick\n"
                                 "wait 0.2 until 22\n"
                                 "13: 0.2 OK\n");
}

static void a_permanent_failure_ends_it_at_once_and_says_whose(void **state)
{
    struct cleat_gather_report report;
    uint32_t whose = 0;
    struct fixture f;

    (void)state;
    begin(&f, 3, 600, 0);
    take(&f);
    result(&f, 1, 0, 1, CLEAT_OK);
    result(&f, 2, 2, 1, CLEAT_PEER_LOST);
    assert_int_equal(cleat_gather_status(f.gather, &whose), CLEAT_PEER_LOST);
    assert_int_equal(whose, 2);
    cleat_gather_look(f.gather, 0, &report);
    assert_int_equal(report.status, CLEAT_OK);
    cleat_gather_look(f.gather, 1, &report);
    assert_int_equal(report.status, CLEAT_PENDING);
    cleat_gather_look(f.gather, 2, &report);
    assert_int_equal(report.status, CLEAT_PEER_LOST);
    assert_int_equal(report.last, CLEAT_PEER_LOST);
    /* What still comes changes nothing, and nothing is asked for. */
    result(&f, 3, 1, 1, CLEAT_PERMANENT);
    assert_int_equal(cleat_gather_status(f.gather, &whose), CLEAT_PEER_LOST);
    assert_int_equal(whose, 2);
    assert_int_equal(cleat_gather_deadline(f.gather), CLEAT_NEVER);
    assert_int_equal(cleat_gather_cancel(f.gather, 3 * S), CLEAT_STATE);
}

static void attempts_are_exhausted_and_the_last_failure_is_kept(void **state)
{
    struct cleat_gather_report report;
    uint32_t whose = 9;
    struct fixture f;

    (void)state;
    begin(&f, 1, 600, 0);
    take(&f);
    result(&f, 0, 0, 1, CLEAT_TRANSIENT);
    tick(&f, 2);
    result(&f, 2, 0, 2, CLEAT_TRANSIENT);
    tick(&f, 6);
    result(&f, 6, 0, 3, CLEAT_TRANSIENT);
    tick(&f, 10);
    result(&f, 10, 0, 4, CLEAT_TRANSIENT);
    tick(&f, 14);
    result(&f, 14, 0, 5, CLEAT_CORRUPT);
    assert_int_equal(cleat_gather_status(f.gather, &whose), CLEAT_EXHAUSTED);
    assert_int_equal(whose, 0);
    cleat_gather_look(f.gather, 0, &report);
    assert_int_equal(report.status, CLEAT_EXHAUSTED);
    assert_int_equal(report.last, CLEAT_CORRUPT);
    assert_int_equal(report.waits, 5);
}

/* --- time
 * ---------------------------------------------------------------------
 */

static void a_result_at_its_deadline_is_late_but_ready_is_ready(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, 2, 600, 0);
    take(&f);
    /* Late, hence silent, hence backing off: the error is not taken twice. */
    result(&f, 10, 0, 1, CLEAT_PERMANENT);
    assert_int_equal(status_of(&f), CLEAT_PENDING);
    result(&f, 10, 1, 1, CLEAT_OK);
    tick(&f, 12);
    result(&f, 13, 0, 1, CLEAT_TRANSIENT); /* of the wait given up */
    result(&f, 13, 0, 1, CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
}

static void the_start_timeout_ends_it(void **state)
{
    uint32_t whose = 9;
    struct fixture f;

    (void)state;
    begin(&f, 2, 15, 100 * S);
    take(&f);
    assert_int_equal(cleat_gather_tick(f.gather, 110 * S, 0), CLEAT_OK);
    assert_int_equal(cleat_gather_tick(f.gather, 112 * S, 0), CLEAT_OK);
    take(&f); /* their deadlines are cut to that of all */
    assert_string_equal(f.trace, "wait 0.1 until 110\n"
                                 "wait 1.1 until 110\n"
                                 "wait 0.2 until 115\n"
                                 "wait 1.2 until 115\n");
    assert_int_equal(
        cleat_gather_result(f.gather, 114 * S, 0, 2, CLEAT_OK, CLEAT_NONE, 0),
        CLEAT_OK);
    assert_int_equal(cleat_gather_deadline(f.gather), 115 * S);
    /* At the deadline even ready is late. */
    assert_int_equal(
        cleat_gather_result(f.gather, 115 * S, 1, 2, CLEAT_OK, CLEAT_NONE, 0),
        CLEAT_OK);
    assert_int_equal(cleat_gather_status(f.gather, &whose), CLEAT_DEADLINE);
    assert_int_equal(whose, 1);
}

static void commands_not_taken_do_not_hide_the_deadline(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, 1, 15, 0);
    assert_int_equal(cleat_gather_deadline(f.gather), 15 * S);
    assert_int_equal(cleat_gather_tick(f.gather, 15 * S, 0), CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_DEADLINE);
    take(&f);
    assert_string_equal(f.trace, "");
}

static void the_bound_is_the_start_timeout(void **state)
{
    struct cleat_gather_config config = {NULL, 0, 1};

    (void)state;
    assert_int_equal(cleat_gather_bound_ns(&config), 600 * S);
    config.start_timeout_ns = 7;
    assert_int_equal(cleat_gather_bound_ns(&config), 7);
    config.start_timeout_ns = CLEAT_NONE;
    assert_int_equal(cleat_gather_bound_ns(&config), CLEAT_NEVER);
}

static void times_near_the_end_saturate(void **state)
{
    struct cleat_gather_command command;
    struct fixture f;
    uint64_t now = UINT64_MAX - 5 * S;

    (void)state;
    begin(&f, 1, 600, now);
    assert_true(cleat_gather_next(f.gather, &command));
    assert_int_equal(command.deadline_ns, CLEAT_NEVER);
    assert_int_equal(cleat_gather_result(f.gather, now + S, 0, 1,
                                         CLEAT_TRANSIENT, CLEAT_NONE, 0),
                     CLEAT_OK);
    assert_int_equal(cleat_gather_deadline(f.gather), now + 3 * S);
    assert_int_equal(cleat_gather_tick(f.gather, now + 3 * S, 0), CLEAT_OK);
    assert_true(cleat_gather_next(f.gather, &command));
    assert_int_equal(cleat_gather_result(f.gather, now + 3 * S, 0, 2,
                                         CLEAT_TRANSIENT, CLEAT_NONE, 0),
                     CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_DEADLINE);
}

static void time_that_goes_back_is_refused(void **state)
{
    struct fixture f;
    struct fixture before;

    (void)state;
    begin(&f, 1, 600, 5 * S);
    take(&f);
    before = f;
    assert_int_equal(cleat_gather_tick(f.gather, 5 * S - 1, 0),
                     CLEAT_TIME_BACKWARDS);
    assert_int_equal(
        cleat_gather_result(f.gather, 5 * S - 1, 0, 1, CLEAT_OK, CLEAT_NONE, 0),
        CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_gather_cancel(f.gather, 5 * S - 1),
                     CLEAT_TIME_BACKWARDS);
    assert_memory_equal(f.block, before.block, sizeof f.block);
    assert_int_equal(cleat_gather_tick(f.gather, 5 * S, 0), CLEAT_OK);
}

/* --- the rest
 * -----------------------------------------------------------------
 */

static void a_hint_holds_a_wait_back(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, 1, 600, 0);
    take(&f);
    assert_int_equal(
        cleat_gather_result(f.gather, 1 * S, 0, 1, CLEAT_CAPACITY, 6 * S, 0),
        CLEAT_OK);
    assert_int_equal(cleat_gather_deadline(f.gather), 7 * S);
}

static void those_that_time_out_together_do_not_come_back_together(void **state)
{
    struct cleat_gather_config config = {NULL, 0, 2};
    struct cleat_gather_command command;
    struct fixture f;
    uint64_t first;

    (void)state;
    assert_int_equal(cleat_gather_begin(f.block, sizeof f.block, &config, 0,
                                        &f.gather, NULL),
                     CLEAT_OK);
    while (cleat_gather_next(f.gather, &command)) {
        assert_int_equal(command.deadline_ns, 30 * S);
    }
    assert_int_equal(cleat_gather_tick(f.gather, 30 * S, 12345), CLEAT_OK);
    first = cleat_gather_deadline(f.gather);
    assert_in_range(first, 31 * S, 32 * S); /* equal jitter over 2 s */
    assert_int_equal(cleat_gather_tick(f.gather, first, 12345), CLEAT_OK);
    assert_true(cleat_gather_next(f.gather, &command));
    assert_false(cleat_gather_next(f.gather, &command));
    assert_in_range(cleat_gather_deadline(f.gather), first + 1, 32 * S);
}

static void a_cancel_ends_it_and_is_nobodys_fault(void **state)
{
    uint32_t whose = 0;
    struct fixture f;

    (void)state;
    begin(&f, 2, 600, 0);
    take(&f);
    assert_int_equal(cleat_gather_cancel(f.gather, 1 * S), CLEAT_OK);
    assert_int_equal(cleat_gather_status(f.gather, &whose), CLEAT_CANCELLED);
    assert_int_equal(whose, CLEAT_GATHER_NOBODY);
    assert_int_equal(cleat_gather_cancel(f.gather, 1 * S), CLEAT_STATE);
    result(&f, 2, 0, 1, CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_CANCELLED);
}

static void a_result_of_no_wait_is_refused(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, 2, 600, 0);
    assert_int_equal(
        cleat_gather_result(f.gather, 0, 0, 1, CLEAT_OK, CLEAT_NONE, 0),
        CLEAT_INVALID); /* not taken yet */
    take(&f);
    assert_int_equal(
        cleat_gather_result(f.gather, 0, 2, 1, CLEAT_OK, CLEAT_NONE, 0),
        CLEAT_INVALID);
    assert_int_equal(
        cleat_gather_result(f.gather, 0, 0, 0, CLEAT_OK, CLEAT_NONE, 0),
        CLEAT_INVALID);
    assert_int_equal(
        cleat_gather_result(f.gather, 0, 0, 2, CLEAT_OK, CLEAT_NONE, 0),
        CLEAT_INVALID);
    assert_int_equal(
        cleat_gather_result(f.gather, 0, 0, 1, CLEAT_PENDING, CLEAT_NONE, 0),
        CLEAT_INVALID);
}

static void ready_twice_is_ready_once(void **state)
{
    struct fixture f;

    (void)state;
    begin(&f, 2, 600, 0);
    take(&f);
    result(&f, 1, 0, 1, CLEAT_OK);
    result(&f, 1, 0, 1, CLEAT_OK);
    result(&f, 1, 0, 1, CLEAT_PERMANENT);
    assert_int_equal(status_of(&f), CLEAT_PENDING);
    result(&f, 2, 1, 1, CLEAT_OK);
    assert_int_equal(status_of(&f), CLEAT_OK);
}

static void the_bytes_are_told_before(void **state)
{
    struct cleat_gather_config config = {&plain, 0, HANDLES};
    struct cleat_gather *gather = NULL;
    struct cleat_error error;
    struct fixture f;

    (void)state;
    assert_int_equal(cleat_gather_bytes(HANDLES), CLEAT_GATHER_BYTES(HANDLES));
    assert_int_equal(cleat_gather_begin(f.block,
                                        CLEAT_GATHER_BYTES(HANDLES) - 1,
                                        &config, 0, &gather, &error),
                     CLEAT_TOO_SMALL);
    assert_null(gather);
    assert_int_equal(error.index, 1);
    assert_int_equal(error.offset, CLEAT_GATHER_BYTES(HANDLES));
    assert_int_equal(cleat_gather_begin(f.block, CLEAT_GATHER_BYTES(HANDLES),
                                        &config, 0, &gather, &error),
                     CLEAT_OK);
}

static void bad_arguments_are_refused(void **state)
{
    struct cleat_retry_policy wrong = plain;
    const struct {
        struct cleat_gather_config config;
        bool block;
        size_t shift; /* of the block */
        uint64_t index;
    } cases[] = {
        {{&plain, 0, 0}, true, 0, 2},
        {{&plain, 0, CLEAT_GATHER_NOBODY}, true, 0, 2},
        {{&wrong, 0, 1}, true, 0, 2},
        {{&plain, 0, 1}, false, 0, 0},
        {{&plain, 0, 1}, true, 4, 0},
    };
    struct fixture f;

    (void)state;
    wrong.multiplier_thousandths = 1;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        void *block = cases[i].block ? (char *)f.block + cases[i].shift : NULL;
        struct cleat_gather *gather = (struct cleat_gather *)(void *)f.block;
        struct cleat_error error;

        assert_int_equal(
            cleat_gather_begin(block, sizeof f.block - cases[i].shift,
                               &cases[i].config, 0, &gather, &error),
            CLEAT_INVALID);
        assert_int_equal(error.index, cases[i].index);
        assert_null(gather);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bring_up_recovers_after_k_failures),
        cmocka_unit_test(a_silent_wait_is_waited_for_again_on_the_same_handle),
        cmocka_unit_test(a_permanent_failure_ends_it_at_once_and_says_whose),
        cmocka_unit_test(attempts_are_exhausted_and_the_last_failure_is_kept),
        cmocka_unit_test(a_result_at_its_deadline_is_late_but_ready_is_ready),
        cmocka_unit_test(the_start_timeout_ends_it),
        cmocka_unit_test(commands_not_taken_do_not_hide_the_deadline),
        cmocka_unit_test(the_bound_is_the_start_timeout),
        cmocka_unit_test(times_near_the_end_saturate),
        cmocka_unit_test(time_that_goes_back_is_refused),
        cmocka_unit_test(a_hint_holds_a_wait_back),
        cmocka_unit_test(
            those_that_time_out_together_do_not_come_back_together),
        cmocka_unit_test(a_cancel_ends_it_and_is_nobodys_fault),
        cmocka_unit_test(a_result_of_no_wait_is_refused),
        cmocka_unit_test(ready_twice_is_ready_once),
        cmocka_unit_test(the_bytes_are_told_before),
        cmocka_unit_test(bad_arguments_are_refused),
    };

    return cmocka_run_group_tests_name("gather", tests, NULL, NULL);
}
