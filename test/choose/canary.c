/* Cleat: the decision engine finds what is planted. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Every driver is given a bug that it must find; shrinking is given one whose
 * smallest string is known; pruning is compared with no pruning. */
#include <stdio.h>
#include <stdlib.h>

#include "choose.h"
#include "faults.h"

/* --- a machine with a planted bug ------------------------------------------
 * A lock of four digits, each of 0 … 3, tried one a step. A wrong digit starts
 * it over. It must never open; with `planted` it opens on 3 1 2 3. */

static const uint8_t combination[4] = {3, 1, 2, 3};

struct lock {
    uint8_t planted;
    uint8_t right; /* digits right so far */
    uint8_t tries;
};

static void lock_init(void *state, const void *arg)
{
    struct lock *lock = state;
    lock->planted = arg != NULL;
}

static bool lock_step(struct choose *c, void *state)
{
    struct lock *lock = state;
    uint32_t digit = choose(c, 4);

    choose_note(c, "digit %u", digit);
    lock->right = digit == combination[lock->right]
                      ? (uint8_t)(lock->right + 1)
                      : (uint8_t)(digit == combination[0]);
    choose_check(c, !lock->planted || lock->right < 4, "the lock stays shut");
    if (lock->right == 4) { lock->right = 0; }
    lock->tries++;
    return lock->tries < 12;
}

/* The same in the body form. */
static void lock_body(struct choose *c, const void *arg)
{
    struct lock lock;

    memset(&lock, 0, sizeof lock);
    lock_init(&lock, arg);
    while (lock_step(c, &lock)) {
        if (choose_seen(c, &lock, sizeof lock)) { return; }
    }
}

/* --- a toy to compare pruned with unpruned ---------------------------------
 * Three counters of 0 … 2, raised in any order. */

static bool counters_step(struct choose *c, void *state)
{
    uint8_t *counter = state;
    uint32_t which = choose_any(c, 3);
    bool more = false;

    if (counter[which] < 2) { counter[which]++; }
    if (choose(c, 2) == 1 && counter[which] > 0) { counter[which] = 2; }
    for (int i = 0; i < 3; i++) { more = more || counter[i] < 2; }
    return more;
}

static void no_init(void *state, const void *arg)
{
    (void)state;
    (void)arg;
}

static void counters_body(struct choose *c, const void *arg)
{
    uint8_t counter[3] = {0, 0, 0};

    (void)arg;
    for (int i = 0; i < 7; i++) {
        /* The remaining depth decides the future too. */
        uint8_t projection[4] = {counter[0], counter[1], counter[2],
                                 (uint8_t)i};
        if (choose_seen(c, projection, sizeof projection)) { return; }
        if (!counters_step(c, counter)) { return; }
    }
}

/* A walker on a ring of 6 that may stand still: it is back where it was. */
static bool ring_step(struct choose *c, void *state)
{
    uint8_t *at = state;
    *at = (uint8_t)((*at + choose(c, 2)) % 6);
    return *at != 5;
}

static bool assert_step(struct choose *c, void *state)
{
    uint8_t *steps = state;
    if (choose(c, 2) == 1) {
        /* What CLEAT_ASSERT does in a test build. */
        cleat_test_assert_failed("planted", __FILE__, __LINE__);
    }
    return ++*steps < 3;
}

static const char *const mark_names[] = {"a step", "what never happens", NULL};

static bool marks_step(struct choose *c, void *state)
{
    (void)state;
    (void)choose(c, 2);
    choose_mark(c, 0);
    return false;
}

/* Depth 3 reaches `deep` only by the shorter of two ways to the same state;
 * the longer way is met first. */
static bool detour_step(struct choose *c, void *state)
{
    uint8_t *at = state;

    switch (*at) {
    case 0: *at = choose(c, 2) == 0 ? 1 : 2; break; /* 1: the detour */
    case 1: *at = 2; break;
    case 2: *at = 3; break;
    default: choose_fail(c, "deep was reached");
    }
    return true;
}

static int failures;

static void expect(bool condition, const char *sentence)
{
    printf("%s: %s\n", condition ? "ok" : "FAILED", sentence);
    if (!condition) { failures++; }
}

static struct choose_outcome run(const struct choose_test *test,
                                 enum choose_driver driver, const char *string,
                                 bool unpruned)
{
    struct choose_options options;
    struct choose_outcome outcome;

    memset(&options, 0, sizeof options);
    options.driver = driver;
    options.seed = 1;
    options.executions = 20000;
    options.string = string;
    options.unpruned = unpruned;
    choose_run(test, &options, &outcome);
    return outcome;
}

static bool found(struct choose_outcome outcome, const char *string)
{
    bool same = outcome.failed && outcome.string != NULL &&
                (string == NULL || strcmp(outcome.string, string) == 0);

    if (!same) {
        printf("   %s: '%s', string '%s'\n",
               outcome.failed ? "failed" : "did not fail", outcome.sentence,
               outcome.string != NULL ? outcome.string : "none");
    }
    free(outcome.string);
    return same;
}

static bool fuzzing_finds(const struct choose_test *test, const char *string)
{
    uint8_t bytes[64];
    uint64_t x = 1;

    for (int i = 0; i < 20000; i++) {
        struct choose_options options;
        struct choose_outcome outcome;

        for (size_t k = 0; k < sizeof bytes; k++) {
            x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
            bytes[k] = (uint8_t)(x >> 56);
        }
        memset(&options, 0, sizeof options);
        options.driver = CHOOSE_FUZZED;
        options.bytes = bytes;
        options.bytes_count = sizeof bytes;
        choose_run(test, &options, &outcome);
        if (outcome.failed) { return found(outcome, string); }
    }
    return false;
}

static void each_driver_finds_the_planted_bug(void)
{
    const struct choose_test steps = {.name = "lock",
                                      .state_bytes = sizeof(struct lock),
                                      .init = lock_init,
                                      .step = lock_step,
                                      .arg = ""};
    const struct choose_test body = {
        .name = "lock-body", .body = lock_body, .arg = ""};

    expect(found(run(&steps, CHOOSE_EXHAUSTIVE, NULL, false), "3123"),
           "exhaustive-finds-it-and-shrinks-it-to-the-least-string");
    expect(found(run(&steps, CHOOSE_EXHAUSTIVE, NULL, true), "3123"),
           "exhaustive-unpruned-finds-it");
    expect(found(run(&steps, CHOOSE_RANDOM, NULL, false), "3123"),
           "random-finds-it-and-shrinks-it-to-the-least-string");
    expect(fuzzing_finds(&steps, "3123"),
           "fuzzed-finds-it-and-shrinks-it-to-the-least-string");
    expect(found(run(&steps, CHOOSE_REPLAYED, "0{4}13123", false), "3123"),
           "replayed-finds-it-and-shrinks-it-to-the-least-string");
    expect(!run(&steps, CHOOSE_REPLAYED, "3122", false).failed,
           "a-string-that-does-not-fail-does-not-fail");
    expect(found(run(&body, CHOOSE_EXHAUSTIVE, NULL, false), "3123"),
           "exhaustive-finds-it-in-a-body");
    expect(found(run(&body, CHOOSE_RANDOM, NULL, false), "3123"),
           "random-finds-it-in-a-body");
    expect(fuzzing_finds(&body, "3123"), "fuzzed-finds-it-in-a-body");
}

static void nothing_is_found_where_nothing_is(void)
{
    const struct choose_test steps = {.name = "lock",
                                      .state_bytes = sizeof(struct lock),
                                      .init = lock_init,
                                      .step = lock_step};
    const struct choose_test body = {.name = "lock-body", .body = lock_body};
    struct choose_outcome pruned = run(&steps, CHOOSE_EXHAUSTIVE, NULL, false);
    struct choose_outcome in_body = run(&body, CHOOSE_EXHAUSTIVE, NULL, false);

    expect(!pruned.failed && !pruned.unfinished && !in_body.failed,
           "exhaustive-ends-without-a-failure");
    expect(!run(&steps, CHOOSE_RANDOM, NULL, false).failed,
           "random-ends-without-a-failure");
    expect(!fuzzing_finds(&steps, NULL), "fuzzed-ends-without-a-failure");
    /* Tries 0: 1 state; 1: right 0, 1; 2: 0, 1, 2; 3 … 11: 0, 1, 2, 3. */
    expect(pruned.states == 1 + 2 + 3 + 9 * 4,
           "the-states-of-the-lock-are-those-counted-by-hand");
}

static void pruning_loses_no_state(void)
{
    const struct choose_test steps = {.name = "counters",
                                      .state_bytes = 3,
                                      .init = no_init,
                                      .step = counters_step};
    const struct choose_test body = {.name = "counters-body",
                                     .body = counters_body};
    const struct choose_test ring = {
        .name = "ring", .state_bytes = 1, .init = no_init, .step = ring_step};
    struct choose_outcome with = run(&steps, CHOOSE_EXHAUSTIVE, NULL, false);
    struct choose_outcome without = run(&steps, CHOOSE_EXHAUSTIVE, NULL, true);

    /* 27 combinations but the last, which is the end. */
    expect(with.states == 26, "the-states-of-the-counters-are-26");
    expect(with.states == without.states &&
               with.states_digest == without.states_digest,
           "pruned-and-unpruned-visit-the-same-set-of-states");
    expect(with.steps < without.steps / 4, "pruning-prunes");
    with = run(&body, CHOOSE_EXHAUSTIVE, NULL, false);
    without = run(&body, CHOOSE_EXHAUSTIVE, NULL, true);
    expect(with.states == without.states &&
               with.states_digest == without.states_digest &&
               with.executions < without.executions,
           "the-same-holds-for-a-body");
    with = run(&ring, CHOOSE_EXHAUSTIVE, NULL, false);
    without = run(&ring, CHOOSE_EXHAUSTIVE, NULL, true);
    expect(with.states == 5 && without.states == 5 &&
               with.states_digest == without.states_digest,
           "a-state-that-leads-to-itself-ends-both");
}

static void a_bound_on_steps_hides_nothing(void)
{
    struct choose_test detour = {.name = "detour",
                                 .state_bytes = 1,
                                 .init = no_init,
                                 .step = detour_step,
                                 .steps_max = 3,
                                 .cut = true};
    const struct choose_test lock = {.name = "lock",
                                     .state_bytes = sizeof(struct lock),
                                     .init = lock_init,
                                     .step = lock_step,
                                     .steps_max = 5};

    expect(found(run(&detour, CHOOSE_EXHAUSTIVE, NULL, false), "1"),
           "a-state-met-again-with-more-steps-left-is-expanded-again");
    detour.steps_max = 2;
    expect(!run(&detour, CHOOSE_EXHAUSTIVE, NULL, false).failed,
           "no-execution-is-longer-than-steps_max");
    expect(found(run(&lock, CHOOSE_EXHAUSTIVE, NULL, false), "-"),
           "an-execution-that-does-not-come-to-rest-fails");
}

static void what_else_fails(void)
{
    const struct choose_test ring = {.name = "ring",
                                     .state_bytes = 1,
                                     .init = no_init,
                                     .step = ring_step,
                                     .endless_fails = true};
    const struct choose_test asserts = {.name = "asserts",
                                        .state_bytes = 1,
                                        .init = no_init,
                                        .step = assert_step};
    const struct choose_test marks = {.name = "marks",
                                      .state_bytes = 1,
                                      .init = no_init,
                                      .step = marks_step,
                                      .marks = mark_names};
    struct choose_outcome outcome;

    expect(found(run(&ring, CHOOSE_EXHAUSTIVE, NULL, false), "-"),
           "an-execution-without-end-fails");
    expect(found(run(&ring, CHOOSE_REPLAYED, "1", false), "-"),
           "an-execution-without-end-fails-when-replayed");
    expect(found(run(&asserts, CHOOSE_EXHAUSTIVE, NULL, false), "1"),
           "an-assertion-fails-the-test");
    outcome = run(&marks, CHOOSE_EXHAUSTIVE, NULL, false);
    expect(outcome.failed && outcome.marked[0] == 2 &&
               strcmp(outcome.sentence, "never reached: what never happens") ==
                   0,
           "a-mark-never-reached-fails-the-test");
    expect(run(&marks, CHOOSE_REPLAYED, "3!", false).failed,
           "a-string-that-is-none-is-refused");
}

/* Many choices, a failure that needs two of them: both survive shrinking, all
 * else goes. Values of 36 and more are written in brackets. */
static bool pair_step(struct choose *c, void *state)
{
    uint8_t *at = state;
    uint32_t value = choose(c, 100);

    at[1] = (uint8_t)(at[1] + (value >= 40));
    choose_check(c, at[1] < 2, "at most one is 40 or more");
    return ++at[0] < 60;
}

static void shrinking_yields_the_known_string(void)
{
    const struct choose_test pair = {
        .name = "pair", .state_bytes = 2, .init = no_init, .step = pair_step};

    expect(found(run(&pair, CHOOSE_RANDOM, NULL, false), "[40][40]"),
           "shrinking-leaves-the-two-that-matter-at-their-least");
    expect(found(run(&pair, CHOOSE_REPLAYED, "0{30}[99]z{4}[77]", false),
                 "[40][40]"),
           "the-string-with-runs-and-brackets-is-read");
}

static void the_fault_table_is_whole(void)
{
    const struct choose_fault *benign = choose_fault_row(0);
    uint32_t either = 0;

    expect(benign->status == CLEAT_OK &&
               benign->flags == (FAULT_EFFECT | FAULT_ANSWERS),
           "row-0-of-the-faults-is-benign");
    for (uint32_t i = 1; i < CHOOSE_FAULTS; i++) {
        const struct choose_fault *row = choose_fault_row(i);
        if ((row->flags & FAULT_ANSWERS) != 0 &&
            (row->flags & FAULT_GONE) != 0) {
            either++;
        }
    }
    expect(either == 0, "no-row-answers-after-it-is-gone");
}

int main(void)
{
    each_driver_finds_the_planted_bug();
    nothing_is_found_where_nothing_is();
    pruning_loses_no_state();
    a_bound_on_steps_hides_nothing();
    what_else_fails();
    shrinking_yields_the_known_string();
    the_fault_table_is_whole();
    printf("%s\n", failures == 0 ? "all as it should be" : "FAILED");
    return failures == 0 ? 0 : 1;
}
