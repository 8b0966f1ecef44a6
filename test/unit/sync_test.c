/* Cleat: one weight update, call by call. SPDX-License-Identifier: Apache-2.0
 *
 * What the calls refuse, what they tell, and what zero means. Whether an
 * update ends well is the model's business (test/model/sync_model.c), in which
 * order things happen that of the traces (sync_trace_test.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleat/sync.h"

enum { REPLICAS_MAX = 40, OLD = 7, NEW = 8 };

#define MS CLEAT_NS_PER_MS
#define SECOND CLEAT_NS_PER_S

struct job {
    _Alignas(8) unsigned char block[CLEAT_SYNC_BYTES(1, REPLICAS_MAX, 1)];
    struct cleat_sync_config config;
    struct cleat_sync *sync;
};

static struct cleat_sync_config small_config(void)
{
    struct cleat_sync_config config;

    memset(&config, 0, sizeof config);
    config.trainers = 1;
    config.replicas = 2;
    config.workers = 1;
    return config;
}

static void start(struct job *job, const struct cleat_sync_config *config)
{
    job->config = *config;
    assert_int_equal(cleat_sync_init(job->block, sizeof job->block, config,
                                     &job->sync, NULL),
                     CLEAT_OK);
    for (uint32_t r = 0; r < config->replicas; r++) {
        assert_int_equal(
            cleat_sync_hello(job->sync, cleat_sync_member_number(config, r, 0),
                             0, CLEAT_SYNC_WHOLE, OLD),
            CLEAT_OK);
    }
}

static enum cleat_status begin(struct job *job, uint64_t now_ns)
{
    const struct cleat_sync_request request = {NEW, OLD};

    return cleat_sync_begin(job->sync, now_ns, &request);
}

/* The answer "done" to a command; engines hold the new version from their
 * commit on. */
static struct cleat_sync_answer done(const struct job *job,
                                     const struct cleat_sync_command *command)
{
    struct cleat_sync_answer answer;
    bool committed = command->step == CLEAT_SYNC_COMMIT;
    uint64_t held = OLD;

    memset(&answer, 0, sizeof answer);
    (void)cleat_sync_member_holding(job->sync, command->member, &held);
    answer.step = command->step;
    answer.member = command->member;
    answer.term = command->term;
    answer.epoch = command->epoch;
    answer.holding = command->member == 0 ? CLEAT_SYNC_UNKNOWN
                                          : CLEAT_SYNC_WHOLE;
    answer.version = command->member == 0 ? 0 : committed ? NEW : held;
    return answer;
}

static void say(struct job *job, uint64_t now_ns,
                const struct cleat_sync_answer *answer)
{
    assert_int_equal(cleat_sync_answered(job->sync, now_ns, answer), CLEAT_OK);
}

static void do_it(struct job *job, uint64_t now_ns,
                  const struct cleat_sync_command *command)
{
    struct cleat_sync_answer answer = done(job, command);

    say(job, now_ns, &answer);
}

/* Takes all commands that wait, into `commands`; returns how many. */
static uint32_t take(struct job *job, struct cleat_sync_command *commands,
                     uint32_t max)
{
    uint32_t count = 0;

    while (count < max &&
           cleat_sync_next(job->sync, &commands[count]) == CLEAT_OK) {
        count++;
    }
    return count;
}

/* Everyone does everything, until `step` begins, or to the end. */
static void go_to(struct job *job, uint64_t now_ns, enum cleat_sync_step step)
{
    struct cleat_sync_command commands[REPLICAS_MAX + 1];

    while (cleat_sync_outcome(job->sync) == CLEAT_SYNC_NOT_YET &&
           job->sync->step != step) {
        uint32_t count = take(job, commands, REPLICAS_MAX + 1);

        assert_true(count > 0);
        for (uint32_t i = 0; i < count; i++) {
            do_it(job, now_ns, &commands[i]);
        }
    }
}

/* Nobody says anything, until `step` begins, or to the end. */
static void wait_for(struct job *job, enum cleat_sync_step step)
{
    struct cleat_sync_command commands[REPLICAS_MAX + 1];

    while (cleat_sync_outcome(job->sync) == CLEAT_SYNC_NOT_YET &&
           job->sync->step != step) {
        (void)take(job, commands, REPLICAS_MAX + 1);
        assert_int_equal(
            cleat_sync_tick(job->sync, cleat_sync_deadline(job->sync)),
            CLEAT_OK);
    }
}

/* ----------------------------------------------------------- configuration */

static void counts_out_of_range_are_refused(void **state)
{
    static const uint32_t bad[][3] = {
        {0, 1, 1},
        {1, 0, 1},
        {1, 1, 0},
        {CLEAT_SYNC_TRAINERS_MAX + 1, 1, 1},
        {1, CLEAT_SYNC_REPLICAS_MAX + 1, 1},
        {1, 1, CLEAT_SYNC_WORKERS_MAX + 1},
        {1, CLEAT_SYNC_REPLICAS_MAX, 1}, /* one member too many */
        {UINT32_MAX, UINT32_MAX, UINT32_MAX},
        {1, 65536, 65536}, /* their product overflows */
    };
    _Alignas(8) unsigned char block[CLEAT_SYNC_BYTES(1, 1, 1)];
    unsigned char untouched[sizeof block];

    (void)state;
    memset(block, 0xA5, sizeof block);
    memset(untouched, 0xA5, sizeof untouched);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct cleat_sync_config config = small_config();
        struct cleat_sync *sync = (struct cleat_sync *)(void *)block;
        struct cleat_error error;

        config.trainers = bad[i][0];
        config.replicas = bad[i][1];
        config.workers = bad[i][2];
        assert_int_equal(cleat_sync_bytes(&config), 0);
        assert_int_equal(
            cleat_sync_init(block, sizeof block, &config, &sync, &error),
            CLEAT_INVALID);
        assert_null(sync);
        assert_int_equal(error.status, CLEAT_INVALID);
        assert_int_equal(error.index, 2);
        assert_true(error.text[0] != '\0');
        assert_memory_equal(block, untouched, sizeof block);
    }
}

static void more_replicas_than_there_are_cannot_be_asked_for(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_error error;
    struct job job;

    (void)state;
    config.replicas_min = 3;
    assert_int_equal(cleat_sync_init(job.block, sizeof job.block, &config,
                                     &job.sync, &error),
                     CLEAT_INVALID);
    assert_null(job.sync);
    assert_int_equal(error.index, 2);
    config.replicas_min = 2;
    assert_int_equal(
        cleat_sync_init(job.block, sizeof job.block, &config, &job.sync, NULL),
        CLEAT_OK);
}

static void the_bytes_are_told_before_and_the_macro_agrees(void **state)
{
    static const uint32_t counts[][3] = {
        {1, 1, 1}, {1, 4, 1}, {2, 3, 5}, {1024, 1024, 3}, {1, 4095, 1}};

    (void)state;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        struct cleat_sync_config config = small_config();

        config.trainers = counts[i][0];
        config.replicas = counts[i][1];
        config.workers = counts[i][2];
        assert_int_equal(
            cleat_sync_bytes(&config),
            CLEAT_SYNC_BYTES(counts[i][0], counts[i][1], counts[i][2]));
    }
}

static void one_byte_too_few_tells_how_many_are_needed(void **state)
{
    struct cleat_sync_config config = small_config();
    size_t bytes = cleat_sync_bytes(&config);
    unsigned char *block = malloc(bytes);
    struct cleat_sync *sync = NULL;
    struct cleat_error error;

    (void)state;
    assert_non_null(block);
    memset(block, 0xA5, bytes);
    assert_int_equal(cleat_sync_init(block, bytes - 1, &config, &sync, &error),
                     CLEAT_TOO_SMALL);
    assert_null(sync);
    assert_int_equal(error.offset, bytes);
    assert_int_equal(block[0], 0xA5);
    assert_int_equal(cleat_sync_init(block, bytes, &config, &sync, &error),
                     CLEAT_OK);
    assert_ptr_equal(sync, block);
    free(block);
}

/* The header, its comments' line ends and stars taken for spaces. */
static const char *header_text(void)
{
    static char text[64 * 1024];
    char *to = text;
    size_t bytes;
    FILE *file = fopen(CLEAT_TEST_SOURCE_DIR "/include/cleat/sync.h", "r");

    assert_non_null(file);
    bytes = fread(text, 1, sizeof text - 1, file);
    assert_int_equal(fclose(file), 0);
    text[bytes] = '\0';
    for (const char *from = text; *from != '\0'; from++) {
        bool space = *from == ' ' || *from == '\n' || *from == '*';

        if (!space) {
            *to++ = *from;
        } else if (to > text && to[-1] != ' ') {
            *to++ = ' ';
        }
    }
    *to = '\0';
    return text;
}

/* The number that stands after `words` in the header. */
static uint64_t header_number(const char *words)
{
    const char *at = strstr(header_text(), words);

    assert_non_null(at);
    return strtoull(at + strlen(words), NULL, 10);
}

static void zero_means_the_default_that_the_header_tells(void **state)
{
    uint64_t step_ns =
        header_number("the moment at which it begins. Default ") * SECOND;
    uint64_t retry_ns = header_number("sent last. Default ") * MS;
    uint64_t attempts = header_number("the first included. Default ");
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command command;
    struct job job;

    (void)state;
    assert_int_equal(step_ns, 10 * SECOND);
    assert_int_equal(retry_ns, 500 * MS);
    assert_int_equal(attempts, 3);
    assert_int_equal(header_number("fewer serving is a failure. Default "), 1);

    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    assert_int_equal(command.deadline_ns, 1 + step_ns);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_NOT_FOUND);
    assert_int_equal(cleat_sync_deadline(job.sync), 1 + retry_ns);

    /* One of two that fails is not too many; the third attempt is the last. */
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_lost(job.sync, 1, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_NOT_YET);
    for (uint64_t i = 0; i < attempts; i++) {
        struct cleat_sync_answer answer;

        go_to(&job, 1, CLEAT_SYNC_PREPARE);
        assert_int_equal(job.sync->attempt, i + 1);
        assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
        assert_int_equal(command.attempt, i + 1);
        answer = done(&job, &command);
        answer.status = CLEAT_TRANSIENT;
        say(&job, 1, &answer);
        assert_int_equal(job.sync->step, CLEAT_SYNC_FINALIZE);
    }
    go_to(&job, 1, CLEAT_SYNC_PREPARE);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_ROLLED_BACK);
}

/* ------------------------------------------------------------------- bound */

/* The header's sum, by hand, for steps of 1, 2, 4, 8 … seconds. */
static void the_bound_is_the_sum_of_the_steps(void **state)
{
    struct cleat_sync_config config = small_config();
    uint64_t one[CLEAT_SYNC_STEPS] = {0};
    uint64_t sum;

    (void)state;
    /* pause, release, 3 × (prepare, group, send, finalize), commit, restore,
     * resume, 3 × (fence, expel): 2 + 12 + 3 + 6 steps of 10 s. */
    assert_int_equal(cleat_sync_bound_ns(&config), 23 * 10 * SECOND);
    config.step_timeout_ns = 7;
    config.attempts_max = 1;
    assert_int_equal(cleat_sync_bound_ns(&config), (2 + 4 + 3 + 6) * 7);

    config.attempts_max = 5;
    for (unsigned s = CLEAT_SYNC_PAUSE; s < CLEAT_SYNC_STEPS; s++) {
        one[s] = config.step_ns[s] = UINT64_C(1) << s;
    }
    sum = one[CLEAT_SYNC_PAUSE] + one[CLEAT_SYNC_RELEASE] +
          5 * (one[CLEAT_SYNC_PREPARE] + one[CLEAT_SYNC_GROUP] +
               one[CLEAT_SYNC_SEND] + one[CLEAT_SYNC_FINALIZE]) +
          one[CLEAT_SYNC_COMMIT] + one[CLEAT_SYNC_RESTORE] +
          one[CLEAT_SYNC_RESUME] +
          3 * (one[CLEAT_SYNC_FENCE] + one[CLEAT_SYNC_EXPEL]);
    assert_int_equal(cleat_sync_bound_ns(&config), sum);

    /* A bring-up step is none of an update's. */
    config.step_ns[CLEAT_SYNC_START] = CLEAT_NEVER;
    assert_int_equal(cleat_sync_bound_ns(&config), sum);
}

static void the_bound_saturates(void **state)
{
    struct cleat_sync_config config = small_config();

    (void)state;
    config.step_ns[CLEAT_SYNC_SEND] = CLEAT_NEVER;
    assert_true(cleat_sync_bound_ns(&config) == CLEAT_NEVER);
    config.step_ns[CLEAT_SYNC_SEND] = CLEAT_NEVER / 2;
    assert_true(cleat_sync_bound_ns(&config) == CLEAT_NEVER);
    config.step_ns[CLEAT_SYNC_SEND] = 0;
    config.attempts_max = UINT32_MAX;
    config.step_timeout_ns = UINT64_C(1) << 29;
    assert_true(cleat_sync_bound_ns(&config) < CLEAT_NEVER);
    config.step_timeout_ns = UINT64_C(1) << 30;
    assert_true(cleat_sync_bound_ns(&config) == CLEAT_NEVER);
}

/* Everyone takes all the time there is, and answers in the last nanosecond of
 * each step, or never: the first attempt fails in its last step, the second one
 * commits, and each of three fences has somebody to expel. */
static void the_longest_update_takes_the_bound(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[4];
    uint64_t nanoseconds = 0; /* those that the answers came too early */
    uint64_t now_ns = 5;
    struct job job;

    (void)state;
    config.replicas = 3;
    config.replicas_min = 2;
    config.attempts_max = 2;
    config.retry_ns = CLEAT_NONE;
    for (unsigned s = CLEAT_SYNC_PAUSE; s < CLEAT_SYNC_STEPS; s++) {
        config.step_ns[s] = (UINT64_C(1) << s) * SECOND;
    }
    start(&job, &config);
    assert_int_equal(begin(&job, now_ns), CLEAT_OK);
    while (cleat_sync_outcome(job.sync) == CLEAT_SYNC_NOT_YET) {
        uint32_t count = take(&job, commands, 4);
        uint64_t deadline_ns = commands[0].deadline_ns;
        enum cleat_sync_step step = commands[0].step;

        assert_true(count > 0);
        for (uint32_t i = 0; i < count && step != CLEAT_SYNC_FENCE; i++) {
            struct cleat_sync_answer answer = done(&job, &commands[i]);

            if (step == CLEAT_SYNC_SEND && answer.member == 0 &&
                commands[i].attempt == 1) {
                answer.status = CLEAT_TRANSIENT;
            } else if ((step == CLEAT_SYNC_PAUSE && answer.member == 1) ||
                       (step == CLEAT_SYNC_RESUME && answer.member == 2)) {
                answer.status = CLEAT_PERMANENT;
            }
            now_ns = deadline_ns - 1;
            say(&job, now_ns, &answer);
        }
        if (step == CLEAT_SYNC_FENCE) {
            now_ns = deadline_ns;
            assert_int_equal(cleat_sync_tick(job.sync, now_ns), CLEAT_OK);
        } else {
            nanoseconds++;
        }
    }
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_RESTART);
    assert_int_equal(now_ns - 5 + nanoseconds, cleat_sync_bound_ns(&config));
}

/* ------------------------------------------------------------ hello, terms */

static void hello_refuses_what_makes_no_sense(void **state)
{
    struct cleat_sync_config config = small_config();
    struct job job;

    (void)state;
    start(&job, &config);
    assert_int_equal(cleat_sync_hello(job.sync, 3, 0, CLEAT_SYNC_WHOLE, OLD),
                     CLEAT_INVALID);
    assert_int_equal(
        cleat_sync_hello(job.sync, CLEAT_SYNC_NOBODY, 0, CLEAT_SYNC_WHOLE, OLD),
        CLEAT_INVALID);
    assert_int_equal(
        cleat_sync_hello(job.sync, 1, UINT64_MAX, CLEAT_SYNC_WHOLE, OLD),
        CLEAT_INVALID);
    assert_int_equal(
        cleat_sync_hello(job.sync, 1, 0, (enum cleat_sync_holding)257, OLD),
        CLEAT_INVALID);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_hello(job.sync, 1, 0, CLEAT_SYNC_WHOLE, OLD),
                     CLEAT_STATE);
}

static void the_term_exceeds_every_term_that_was_seen(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command command;
    uint64_t epoch;
    struct job job;

    (void)state;
    start(&job, &config);
    assert_int_equal(cleat_sync_hello(job.sync, 1, 41, CLEAT_SYNC_WHOLE, OLD),
                     CLEAT_OK);
    assert_int_equal(cleat_sync_hello(job.sync, 2, 12, CLEAT_SYNC_WHOLE, OLD),
                     CLEAT_OK);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    assert_int_equal(command.term, 42);
    do_it(&job, 1, &command);
    go_to(&job, 1, CLEAT_SYNC_COMMIT);
    epoch = job.sync->epoch;
    assert_true(epoch > command.epoch);
    go_to(&job, 1, CLEAT_SYNC_STEPS);

    /* The same term goes on, with a higher epoch … */
    assert_int_equal(
        cleat_sync_begin(job.sync, 2, &(struct cleat_sync_request){9, NEW}),
        CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    assert_int_equal(command.term, 42);
    assert_true(command.epoch > epoch);
    do_it(&job, 2, &command);
    assert_int_equal(cleat_sync_cancel(job.sync, 2), CLEAT_OK);
    go_to(&job, 2, CLEAT_SYNC_STEPS);

    /* … until somebody reports another as high. */
    assert_int_equal(cleat_sync_hello(job.sync, 2, 42, CLEAT_SYNC_WHOLE, NEW),
                     CLEAT_OK);
    assert_int_equal(
        cleat_sync_begin(job.sync, 3, &(struct cleat_sync_request){9, NEW}),
        CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    assert_int_equal(command.term, 43);
}

static void an_epoch_that_wraps_takes_the_next_term(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command command;
    struct job job;

    (void)state;
    start(&job, &config);
    job.sync->term = 5;
    job.sync->epoch = UINT64_MAX;
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    assert_int_equal(command.term, 6);
    assert_int_equal(command.epoch, 0);
    do_it(&job, 1, &command);
    go_to(&job, 1, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_COMMITTED);
}

static void a_new_process_in_a_dead_ones_place_takes_part(void **state)
{
    struct cleat_sync_config config = small_config();
    struct job job;

    (void)state;
    config.step_timeout_ns = SECOND;
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_lost(job.sync, 1, 1), CLEAT_OK);
    go_to(&job, 1, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_DEGRADED);
    assert_int_equal(cleat_sync_replica_state(job.sync, 0), CLEAT_SYNC_DEAD);
    assert_int_equal(cleat_sync_hello(job.sync, 1, 0, CLEAT_SYNC_UNKNOWN, 0),
                     CLEAT_OK);
    assert_int_equal(cleat_sync_replica_state(job.sync, 0),
                     CLEAT_SYNC_QUARANTINED);
    assert_int_equal(
        cleat_sync_begin(job.sync, 2, &(struct cleat_sync_request){NEW, OLD}),
        CLEAT_OK);
    go_to(&job, 2, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_COMMITTED);
    assert_int_equal(cleat_sync_replica_state(job.sync, 0), CLEAT_SYNC_SERVING);
}

static void a_dead_replica_is_whole_again_when_all_its_workers_are(void **state)
{
    struct cleat_sync_config config = small_config();
    struct job job;

    (void)state;
    config.workers = 2;
    start(&job, &config);
    for (uint32_t m = 2; m <= 4; m += 2) {
        assert_int_equal(
            cleat_sync_hello(job.sync, m, 0, CLEAT_SYNC_WHOLE, OLD), CLEAT_OK);
    }
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_lost(job.sync, 1, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_lost(job.sync, 1, 2), CLEAT_OK);
    go_to(&job, 1, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_replica_state(job.sync, 0), CLEAT_SYNC_DEAD);
    assert_int_equal(cleat_sync_hello(job.sync, 2, 0, CLEAT_SYNC_UNKNOWN, 0),
                     CLEAT_OK);
    assert_int_equal(cleat_sync_replica_state(job.sync, 0), CLEAT_SYNC_DEAD);
    assert_int_equal(cleat_sync_hello(job.sync, 1, 0, CLEAT_SYNC_UNKNOWN, 0),
                     CLEAT_OK);
    assert_int_equal(cleat_sync_replica_state(job.sync, 0),
                     CLEAT_SYNC_QUARANTINED);
}

/* ------------------------------------------------------------------- calls */

static void an_update_begins_only_at_rest_and_with_two_versions(void **state)
{
    const struct cleat_sync_request same = {OLD, OLD};
    struct cleat_sync_config config = small_config();
    struct job job;

    (void)state;
    start(&job, &config);
    assert_int_equal(cleat_sync_begin(job.sync, 1, &same), CLEAT_INVALID);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_NOT_YET);
    assert_true(cleat_sync_deadline(job.sync) == CLEAT_NEVER);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(begin(&job, 1), CLEAT_STATE);
    wait_for(&job, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_RESTART);
    assert_int_equal(begin(&job, UINT64_MAX / 2), CLEAT_STATE);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_RESTART);
}

static void time_that_goes_back_is_an_error_without_effect(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command command;
    struct cleat_sync_answer answer;
    unsigned char before[sizeof(struct job)];
    struct job job;

    (void)state;
    memset(&job, 0, sizeof job);
    start(&job, &config);
    assert_int_equal(cleat_sync_tick(job.sync, 100), CLEAT_OK);
    assert_int_equal(begin(&job, 99), CLEAT_TIME_BACKWARDS);
    assert_true(cleat_sync_deadline(job.sync) == CLEAT_NEVER);
    assert_int_equal(begin(&job, 100), CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    answer = done(&job, &command);
    memcpy(before, &job, sizeof job);
    assert_int_equal(cleat_sync_tick(job.sync, 99), CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_sync_answered(job.sync, 99, &answer),
                     CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_sync_lost(job.sync, 99, 1), CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_sync_cancel(job.sync, 99), CLEAT_TIME_BACKWARDS);
    assert_memory_equal(before, &job, sizeof job);
    assert_int_equal(cleat_sync_tick(job.sync, 100), CLEAT_OK);
}

static void an_answer_that_is_none_is_refused_without_effect(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command command;
    struct cleat_sync_answer good;
    struct cleat_sync_answer bad;
    unsigned char before[sizeof(struct job)];
    struct job job;

    (void)state;
    memset(&job, 0, sizeof job);
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    good = done(&job, &command);
    memcpy(before, &job, sizeof job);
    bad = good;
    bad.member = 3;
    assert_int_equal(cleat_sync_answered(job.sync, 2, &bad), CLEAT_INVALID);
    bad = good;
    bad.step = CLEAT_SYNC_STEPS;
    assert_int_equal(cleat_sync_answered(job.sync, 2, &bad), CLEAT_INVALID);
    bad.step = (enum cleat_sync_step)UINT32_MAX;
    assert_int_equal(cleat_sync_answered(job.sync, 2, &bad), CLEAT_INVALID);
    bad = good;
    bad.status = CLEAT_PENDING;
    assert_int_equal(cleat_sync_answered(job.sync, 2, &bad), CLEAT_INVALID);
    bad.status = (enum cleat_status)(CLEAT_RESTART - 1);
    assert_int_equal(cleat_sync_answered(job.sync, 2, &bad), CLEAT_INVALID);
    bad = good;
    bad.holding = (enum cleat_sync_holding)257;
    assert_int_equal(cleat_sync_answered(job.sync, 2, &bad), CLEAT_INVALID);
    assert_int_equal(cleat_sync_lost(job.sync, 2, 3), CLEAT_INVALID);
    assert_memory_equal(before, &job, sizeof job);
    say(&job, 2, &good);
}

static void
answers_of_another_term_epoch_step_or_member_change_nothing(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[2];
    struct cleat_sync_answer answer;
    unsigned char before[sizeof(struct job)];
    struct job job;

    (void)state;
    memset(&job, 0, sizeof job);
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(take(&job, commands, 2), 2);
    assert_int_equal(cleat_sync_tick(job.sync, 1), CLEAT_OK);
    memcpy(before, &job, sizeof job);
    answer = done(&job, &commands[0]);
    answer.term++;
    say(&job, 1, &answer);
    answer = done(&job, &commands[0]);
    answer.epoch--;
    answer.status = CLEAT_PERMANENT;
    say(&job, 1, &answer);
    answer = done(&job, &commands[0]);
    answer.step = CLEAT_SYNC_RELEASE;
    say(&job, 1, &answer);
    answer = done(&job, &commands[0]);
    answer.member = 0; /* the trainer has nothing to pause */
    say(&job, 1, &answer);
    assert_memory_equal(before, &job, sizeof job);
    answer = done(&job, &commands[0]);
    say(&job, 1, &answer);
    memcpy(before, &job, sizeof job);
    say(&job, 1, &answer);
    assert_memory_equal(before, &job, sizeof job);
}

/* Whatever call comes at the deadline, the deadline comes first. */
static void what_comes_at_its_deadline_is_late(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[2];
    struct cleat_sync_answer answer;
    struct cleat_sync_error error;

    (void)state;
    config.step_timeout_ns = 1000;
    for (int call = 0; call < 3; call++) {
        struct job job;

        start(&job, &config);
        assert_int_equal(begin(&job, 0), CLEAT_OK);
        assert_int_equal(take(&job, commands, 2), 2);
        answer = done(&job, &commands[0]);
        say(&job, 999, &answer);
        answer = done(&job, &commands[1]);
        if (call == 0) { say(&job, 1000, &answer); }
        if (call == 1) {
            assert_int_equal(cleat_sync_lost(job.sync, 1000, 2), CLEAT_OK);
        }
        if (call == 2) {
            assert_int_equal(cleat_sync_cancel(job.sync, 1000), CLEAT_OK);
        }
        assert_int_equal(cleat_sync_error_at(job.sync, 0, &error), CLEAT_OK);
        assert_int_equal(error.step, CLEAT_SYNC_PAUSE);
        assert_int_equal(error.member, 2);
        assert_int_equal(error.status, CLEAT_PEER_SILENT);
        assert_int_equal(cleat_sync_replica_state(job.sync, 1),
                         CLEAT_SYNC_FAILED);
    }
}

static void a_cancel_is_taken_until_commit_begins(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_error error;
    struct job job;

    (void)state;
    start(&job, &config);
    assert_int_equal(cleat_sync_cancel(job.sync, 1), CLEAT_STATE);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    go_to(&job, 1, CLEAT_SYNC_SEND);
    assert_int_equal(cleat_sync_cancel(job.sync, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_cancel(job.sync, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_errors_count(job.sync), 1);
    assert_int_equal(cleat_sync_error_at(job.sync, 0, &error), CLEAT_OK);
    assert_int_equal(error.member, CLEAT_SYNC_NOBODY);
    assert_int_equal(error.status, CLEAT_CANCELLED);
    go_to(&job, 1, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_ROLLED_BACK);
    assert_int_equal(cleat_sync_cancel(job.sync, 1), CLEAT_STATE);

    for (enum cleat_sync_step step = CLEAT_SYNC_COMMIT; step < CLEAT_SYNC_STEPS;
         step++) {
        if (step == CLEAT_SYNC_FENCE || step == CLEAT_SYNC_EXPEL) { continue; }
        start(&job, &config);
        assert_int_equal(begin(&job, 1), CLEAT_OK);
        go_to(&job, 1, step);
        assert_int_equal(cleat_sync_cancel(job.sync, 1), CLEAT_STATE);
        assert_int_equal(cleat_sync_errors_count(job.sync), 0);
        go_to(&job, 1, CLEAT_SYNC_STEPS);
        assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_COMMITTED);
    }
}

/* With nothing sent there is nothing to undo. */
static void a_cancel_before_any_command_left_undoes_nothing(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command command;
    struct job job;

    (void)state;
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_cancel(job.sync, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_NOT_FOUND);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_ROLLED_BACK);

    /* One has been told to pause, so one is told to resume. */
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    assert_int_equal(cleat_sync_cancel(job.sync, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    assert_int_equal(command.step, CLEAT_SYNC_RESUME);
    assert_int_equal(command.member, 1);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_NOT_FOUND);
}

static void a_loss_is_taken_once_and_remembered_at_rest(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_error error;
    struct job job;

    (void)state;
    start(&job, &config);
    assert_int_equal(cleat_sync_lost(job.sync, 1, 2), CLEAT_OK);
    assert_int_equal(cleat_sync_errors_count(job.sync), 0);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_errors_count(job.sync), 1);
    assert_int_equal(cleat_sync_lost(job.sync, 1, 2), CLEAT_OK);
    assert_int_equal(cleat_sync_errors_count(job.sync), 1);
    assert_int_equal(cleat_sync_error_at(job.sync, 0, &error), CLEAT_OK);
    assert_int_equal(error.step, CLEAT_SYNC_PAUSE);
    assert_int_equal(error.member, 2);
    assert_int_equal(error.status, CLEAT_PEER_LOST);
    go_to(&job, 1, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_DEGRADED);
    assert_int_equal(cleat_sync_replica_state(job.sync, 1), CLEAT_SYNC_DEAD);

    /* Without its trainer an update is over before anything leaves. */
    start(&job, &config);
    assert_int_equal(cleat_sync_lost(job.sync, 1, 0), CLEAT_OK);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_ROLLED_BACK);
    assert_int_equal(cleat_sync_errors_count(job.sync), 1);
}

/* A worker that is lost when its replica is out of the update already. */
static void who_takes_no_part_fails_no_attempt(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[2];
    struct cleat_sync_answer answer;
    struct job job;

    (void)state;
    config.attempts_max = 1;
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(take(&job, commands, 2), 2);
    answer = done(&job, &commands[0]);
    answer.status = CLEAT_PERMANENT;
    say(&job, 1, &answer);
    answer = done(&job, &commands[1]);
    say(&job, 1, &answer);
    go_to(&job, 1, CLEAT_SYNC_SEND);
    assert_int_equal(cleat_sync_lost(job.sync, 1, 1), CLEAT_OK);
    assert_int_equal(job.sync->step, CLEAT_SYNC_SEND);
    go_to(&job, 1, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_DEGRADED);
}

/* A replica is its workers: when one has failed, the step waits for none of
 * the others, and all of them are fenced. */
static void a_replica_that_has_failed_is_not_waited_for(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[4];
    struct cleat_sync_answer answer;
    struct job job;

    (void)state;
    config.workers = 2;
    config.replicas = 2;
    start(&job, &config);
    for (uint32_t w = 2; w <= 4; w += 2) {
        assert_int_equal(
            cleat_sync_hello(job.sync, w, 0, CLEAT_SYNC_WHOLE, OLD), CLEAT_OK);
    }
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    assert_int_equal(take(&job, commands, 4), 4);
    do_it(&job, 1, &commands[2]);
    do_it(&job, 1, &commands[3]);
    answer = done(&job, &commands[0]);
    answer.status = CLEAT_PERMANENT;
    say(&job, 1, &answer);
    assert_int_equal(job.sync->step, CLEAT_SYNC_RELEASE);
    go_to(&job, 1, CLEAT_SYNC_FENCE);
    assert_int_equal(take(&job, commands, 4), 2);
    assert_int_equal(commands[0].member, 1);
    assert_int_equal(commands[1].member, 2);
}

static void deviant_and_damaged_answers_are_found(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[3];
    struct cleat_sync_error error;
    struct job job;

    (void)state;
    /* It says that it has committed, and holds something else. */
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    go_to(&job, 1, CLEAT_SYNC_COMMIT);
    assert_int_equal(take(&job, commands, 2), 2);
    for (uint32_t i = 0; i < 2; i++) {
        struct cleat_sync_answer answer = done(&job, &commands[i]);

        answer.version = i == 0 ? NEW : OLD;
        say(&job, 1, &answer);
    }
    assert_int_equal(cleat_sync_error_at(job.sync, 0, &error), CLEAT_OK);
    assert_int_equal(error.status, CLEAT_PEER_DEVIANT);
    assert_int_equal(error.member, 2);
    go_to(&job, 1, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_DEGRADED);
    assert_int_equal(cleat_sync_replica_state(job.sync, 1),
                     CLEAT_SYNC_QUARANTINED);

    /* Everyone is content, and yet the bytes differ. A digest of 0 is none. */
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    go_to(&job, 1, CLEAT_SYNC_SEND);
    assert_int_equal(take(&job, commands, 3), 3);
    for (uint32_t i = 0; i < 3; i++) {
        static const uint32_t digests[] = {0xABCD, 0, 0xABCE};
        struct cleat_sync_answer answer = done(&job, &commands[i]);

        answer.digest = digests[i];
        say(&job, 1, &answer);
    }
    assert_int_equal(job.sync->step, CLEAT_SYNC_FINALIZE);
    assert_int_equal(cleat_sync_errors_count(job.sync), 1);
    assert_int_equal(cleat_sync_error_at(job.sync, 0, &error), CLEAT_OK);
    assert_int_equal(error.status, CLEAT_CORRUPT);
    assert_int_equal(error.member, 2);
    go_to(&job, 1, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_COMMITTED);
}

/* What makes an attempt fail for good may be told while it is finalized, and
 * is kept once. */
static void a_late_permanent_error_is_kept_once(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[3];
    struct cleat_sync_answer answer;
    struct job job;

    (void)state;
    start(&job, &config);
    for (uint64_t round = 1; round <= 2; round++) {
        assert_int_equal(
            cleat_sync_begin(job.sync, round,
                             &(struct cleat_sync_request){NEW, OLD}),
            CLEAT_OK);
        go_to(&job, round, CLEAT_SYNC_GROUP);
        assert_int_equal(take(&job, commands, 3), 3);
        answer = done(&job, &commands[2]);
        answer.status = CLEAT_TRANSIENT;
        say(&job, round, &answer);
        assert_int_equal(job.sync->step, CLEAT_SYNC_FINALIZE);
        answer = done(&job, &commands[1]);
        answer.status = CLEAT_PERMANENT;
        say(&job, round, &answer);
        assert_int_equal(cleat_sync_errors_count(job.sync), 2);
        assert_int_equal(cleat_sync_replica_state(job.sync, 0),
                         CLEAT_SYNC_FAILED);
        say(&job, round, &answer);
        assert_int_equal(cleat_sync_errors_count(job.sync), 2);
        go_to(&job, round, CLEAT_SYNC_STEPS);
        assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_DEGRADED);
    }
}

/* ---------------------------------------------------------------- commands */

static void a_command_tells_how_many_receivers_take_part(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[8];
    struct job job;

    (void)state;
    start(&job, &config);
    assert_int_equal(begin(&job, 0), CLEAT_OK);
    assert_int_equal(take(&job, commands, 8), 2);
    assert_int_equal(commands[0].receivers_count, 2);
    /* The second replica says nothing, and is left out. */
    do_it(&job, 0, &commands[0]);
    assert_int_equal(cleat_sync_tick(job.sync, cleat_sync_deadline(job.sync)),
                     CLEAT_OK);
    go_to(&job, commands[0].deadline_ns, CLEAT_SYNC_PREPARE);
    assert_int_equal(take(&job, commands, 8), 2); /* the trainer, a replica */
    assert_int_equal(commands[0].receivers_count, 1);
    assert_int_equal(commands[1].receivers_count, 1);
}

static void what_is_idempotent_is_sent_again_and_nothing_else(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[8];
    struct job job;

    (void)state;
    config.retry_ns = 100;
    config.step_timeout_ns = 250;
    start(&job, &config);
    assert_int_equal(begin(&job, 0), CLEAT_OK);
    assert_int_equal(cleat_sync_deadline(job.sync), 0); /* commands wait */
    assert_int_equal(take(&job, commands, 8), 2);
    assert_int_equal(cleat_sync_deadline(job.sync), 100);
    assert_int_equal(cleat_sync_tick(job.sync, 99), CLEAT_OK);
    assert_int_equal(take(&job, commands, 8), 0);
    assert_int_equal(cleat_sync_tick(job.sync, 100), CLEAT_OK);
    assert_int_equal(take(&job, commands, 8), 2);
    assert_int_equal(commands[1].step, CLEAT_SYNC_PAUSE);
    assert_int_equal(commands[1].deadline_ns, 250);
    assert_int_equal(cleat_sync_tick(job.sync, 200), CLEAT_OK);
    assert_int_equal(take(&job, commands, 8), 2);
    assert_int_equal(cleat_sync_deadline(job.sync), 250);

    start(&job, &config);
    assert_int_equal(begin(&job, 0), CLEAT_OK);
    go_to(&job, 0, CLEAT_SYNC_SEND);
    assert_int_equal(take(&job, commands, 8), 3);
    assert_int_equal(cleat_sync_deadline(job.sync), 250);
    assert_int_equal(cleat_sync_tick(job.sync, 249), CLEAT_OK);
    assert_int_equal(take(&job, commands, 8), 0);
}

static void with_no_retry_nothing_is_sent_again(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[8];
    struct cleat_sync_answer answer;
    struct cleat_sync_error error;
    struct job job;

    (void)state;
    config.retry_ns = CLEAT_NONE;
    start(&job, &config);
    assert_int_equal(begin(&job, 0), CLEAT_OK);
    assert_int_equal(take(&job, commands, 8), 2);
    assert_int_equal(cleat_sync_deadline(job.sync), 10 * SECOND);
    /* A transient error is not the end of it: the step's deadline is, and the
     * error is told once. */
    answer = done(&job, &commands[0]);
    answer.status = CLEAT_TRANSIENT;
    say(&job, 1, &answer);
    assert_int_equal(cleat_sync_tick(job.sync, 9 * SECOND), CLEAT_OK);
    assert_int_equal(take(&job, commands, 8), 0);
    assert_int_equal(cleat_sync_tick(job.sync, 10 * SECOND), CLEAT_OK);
    assert_int_equal(cleat_sync_errors_count(job.sync), 2);
    assert_int_equal(cleat_sync_error_at(job.sync, 0, &error), CLEAT_OK);
    assert_int_equal(error.status, CLEAT_TRANSIENT);
    assert_int_equal(cleat_sync_error_at(job.sync, 1, &error), CLEAT_OK);
    assert_int_equal(error.status, CLEAT_PEER_SILENT);
}

static void at_the_end_of_time_nothing_leaves_and_all_ends(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command command;
    struct job job;
    int ticks = 0;

    (void)state;
    start(&job, &config);
    assert_int_equal(begin(&job, UINT64_MAX - 1), CLEAT_OK);
    assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_OK);
    assert_true(command.deadline_ns == CLEAT_NEVER);
    while (cleat_sync_outcome(job.sync) == CLEAT_SYNC_NOT_YET) {
        assert_true(ticks++ < 20);
        assert_int_equal(cleat_sync_tick(job.sync, UINT64_MAX), CLEAT_OK);
        assert_int_equal(cleat_sync_next(job.sync, &command), CLEAT_NOT_FOUND);
    }
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_RESTART);
}

/* A copy of the block elsewhere goes on as the block itself does. */
static void a_copy_of_the_block_is_a_snapshot(void **state)
{
    struct cleat_sync_config config = small_config();
    struct job job;
    struct job copy;

    (void)state;
    memset(&job, 0, sizeof job);
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    go_to(&job, 1, CLEAT_SYNC_SEND);
    memcpy(&copy, &job, sizeof copy);
    copy.sync = (struct cleat_sync *)(void *)copy.block;
    go_to(&job, 5, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(copy.sync), CLEAT_SYNC_NOT_YET);
    go_to(&copy, 5, CLEAT_SYNC_STEPS);
    assert_memory_equal(job.block, copy.block, sizeof job.block);
}

/* ---------------------------------------------------------------- accounts */

static void more_errors_than_are_kept_are_counted(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_error error;
    struct job job;

    (void)state;
    config.replicas = REPLICAS_MAX;
    start(&job, &config);
    assert_int_equal(begin(&job, 0), CLEAT_OK);
    assert_int_equal(cleat_sync_tick(job.sync, 10 * SECOND), CLEAT_OK);
    assert_int_equal(cleat_sync_errors_count(job.sync), REPLICAS_MAX);
    for (uint32_t i = 0; i < CLEAT_SYNC_ERRORS_MAX; i++) {
        assert_int_equal(cleat_sync_error_at(job.sync, i, &error), CLEAT_OK);
        assert_int_equal(error.member, i + 1);
        assert_int_equal(error.step, CLEAT_SYNC_PAUSE);
    }
    assert_int_equal(
        cleat_sync_error_at(job.sync, CLEAT_SYNC_ERRORS_MAX, &error),
        CLEAT_NOT_FOUND);
    wait_for(&job, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_outcome(job.sync), CLEAT_SYNC_RESTART);
    /* silent in pause, in fence and in expel; the last one once more, when all
     * that are left are set apart */
    assert_int_equal(cleat_sync_errors_count(job.sync), 4 * REPLICAS_MAX);
    assert_int_equal(cleat_sync_error_at(job.sync, 0, &error), CLEAT_OK);
    assert_int_equal(error.member, 1);
    for (uint32_t r = 0; r < REPLICAS_MAX; r++) {
        assert_int_equal(cleat_sync_replica_state(job.sync, r),
                         CLEAT_SYNC_UNFENCED);
    }
}

static void an_undo_tells_how_it_went(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[3];
    struct cleat_sync_answer answer;
    struct job job;

    (void)state;
    config.attempts_max = 1;
    start(&job, &config);
    assert_int_equal(cleat_sync_undo_at(job.sync, CLEAT_SYNC_FINALIZE, 0),
                     CLEAT_NOT_FOUND);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    go_to(&job, 1, CLEAT_SYNC_FINALIZE);
    assert_int_equal(cleat_sync_undo_at(job.sync, CLEAT_SYNC_FINALIZE, 1),
                     CLEAT_NOT_FOUND);
    assert_int_equal(take(&job, commands, 3), 3);
    for (uint32_t m = 0; m < 3; m++) {
        assert_int_equal(cleat_sync_undo_at(job.sync, CLEAT_SYNC_FINALIZE, m),
                         CLEAT_PENDING);
    }
    answer = done(&job, &commands[1]);
    answer.status = CLEAT_IO;
    say(&job, 1, &answer);
    answer = done(&job, &commands[0]);
    say(&job, 1, &answer);
    assert_int_equal(cleat_sync_lost(job.sync, 1, 2), CLEAT_OK);
    assert_int_equal(cleat_sync_undo_at(job.sync, CLEAT_SYNC_FINALIZE, 0),
                     CLEAT_OK);
    assert_int_equal(cleat_sync_undo_at(job.sync, CLEAT_SYNC_FINALIZE, 1),
                     CLEAT_IO);
    assert_int_equal(cleat_sync_undo_at(job.sync, CLEAT_SYNC_FINALIZE, 2),
                     CLEAT_PEER_LOST);
    assert_int_equal(cleat_sync_undo_at(job.sync, CLEAT_SYNC_RESUME, 1),
                     CLEAT_NOT_FOUND);
    assert_int_equal(cleat_sync_undo_at(job.sync, CLEAT_SYNC_SEND, 1),
                     CLEAT_NOT_FOUND);
    go_to(&job, 1, CLEAT_SYNC_STEPS);

    /* The next update begins with none owed. */
    start(&job, &config);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    go_to(&job, 1, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_undo_at(job.sync, CLEAT_SYNC_RESUME, 1),
                     CLEAT_OK);
    assert_int_equal(
        cleat_sync_begin(job.sync, 2, &(struct cleat_sync_request){9, NEW}),
        CLEAT_OK);
    assert_int_equal(cleat_sync_undo_at(job.sync, CLEAT_SYNC_RESUME, 1),
                     CLEAT_NOT_FOUND);
}

static void what_a_member_holds_is_its_last_word(void **state)
{
    struct cleat_sync_config config = small_config();
    struct cleat_sync_command commands[3];
    uint64_t version = 0;
    struct job job;

    (void)state;
    start(&job, &config);
    assert_int_equal(cleat_sync_member_holding(job.sync, 0, NULL),
                     CLEAT_SYNC_UNKNOWN);
    assert_int_equal(cleat_sync_member_holding(job.sync, 1, &version),
                     CLEAT_SYNC_WHOLE);
    assert_int_equal(version, OLD);
    assert_int_equal(begin(&job, 1), CLEAT_OK);
    go_to(&job, 1, CLEAT_SYNC_SEND);
    assert_int_equal(take(&job, commands, 3), 3);
    for (uint32_t i = 0; i < 3; i++) {
        struct cleat_sync_answer answer = done(&job, &commands[i]);

        if (i == 1) {
            answer.holding = CLEAT_SYNC_TORN; /* an error tells it as well */
            answer.status = CLEAT_SHORT;
        }
        say(&job, 1, &answer);
    }
    assert_int_equal(cleat_sync_member_holding(job.sync, 1, NULL),
                     CLEAT_SYNC_TORN);
    go_to(&job, 1, CLEAT_SYNC_STEPS);
    assert_int_equal(cleat_sync_member_holding(job.sync, 1, &version),
                     CLEAT_SYNC_WHOLE);
    assert_int_equal(version, NEW);
}

static void members_are_numbered_trainers_first(void **state)
{
    struct cleat_sync_config config = small_config();

    (void)state;
    config.trainers = 3;
    config.replicas = 4;
    config.workers = 2;
    assert_int_equal(cleat_sync_member_number(&config, 0, 0), 3);
    assert_int_equal(cleat_sync_member_number(&config, 3, 1), 10);
    assert_int_equal(cleat_sync_replica_of(&config, 2), CLEAT_SYNC_NOBODY);
    assert_int_equal(cleat_sync_replica_of(&config, 3), 0);
    assert_int_equal(cleat_sync_replica_of(&config, 10), 3);
}

/* Who gets a step's command, and whether it may be sent
 * again. */
static void the_steps_are_what_the_table_says(void **state)
{
    static const struct {
        const char *name;
        bool trainers;
        bool engines;
        bool idempotent;
    } table[CLEAT_SYNC_STEPS] = {
        {"start", true, true, false},   {"pause", false, true, true},
        {"release", false, true, true}, {"prepare", true, true, false},
        {"group", true, true, false},   {"send", true, true, false},
        {"commit", false, true, true},  {"finalize", true, true, true},
        {"fence", false, true, true},   {"expel", false, false, false},
        {"restore", false, true, true}, {"resume", false, true, true},
    };

    (void)state;
    for (unsigned s = 0; s < CLEAT_SYNC_STEPS; s++) {
        enum cleat_sync_step step = (enum cleat_sync_step)s;

        assert_string_equal(cleat_sync_step_name(step), table[s].name);
        assert_int_equal(cleat_sync_step_to_trainers(step), table[s].trainers);
        assert_int_equal(cleat_sync_step_to_engines(step), table[s].engines);
        assert_int_equal(cleat_sync_step_idempotent(step), table[s].idempotent);
    }
    for (int i = 0; i < 2; i++) {
        enum cleat_sync_step none = i == 0 ? CLEAT_SYNC_STEPS
                                           : (enum cleat_sync_step)1000;

        assert_string_equal(cleat_sync_step_name(none), "rest");
        assert_false(cleat_sync_step_to_trainers(none));
        assert_false(cleat_sync_step_to_engines(none));
        assert_false(cleat_sync_step_idempotent(none));
    }
}

static void outcomes_and_states_have_names(void **state)
{
    static const char *const outcomes[] = {"NOT_YET", "COMMITTED", "DEGRADED",
                                           "ROLLED_BACK", "RESTART"};
    static const char *const states[] = {"serving",     "active", "failed",
                                         "quarantined", "dead",   "unfenced"};

    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        assert_string_equal(cleat_sync_outcome_name((enum cleat_sync_outcome)i),
                            outcomes[i]);
    }
    for (unsigned i = 0; i < 6; i++) {
        assert_string_equal(
            cleat_sync_replica_state_name((enum cleat_sync_replica_state)i),
            states[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_out_of_range_are_refused),
        cmocka_unit_test(more_replicas_than_there_are_cannot_be_asked_for),
        cmocka_unit_test(the_bytes_are_told_before_and_the_macro_agrees),
        cmocka_unit_test(one_byte_too_few_tells_how_many_are_needed),
        cmocka_unit_test(zero_means_the_default_that_the_header_tells),
        cmocka_unit_test(the_bound_is_the_sum_of_the_steps),
        cmocka_unit_test(the_bound_saturates),
        cmocka_unit_test(the_longest_update_takes_the_bound),
        cmocka_unit_test(hello_refuses_what_makes_no_sense),
        cmocka_unit_test(the_term_exceeds_every_term_that_was_seen),
        cmocka_unit_test(an_epoch_that_wraps_takes_the_next_term),
        cmocka_unit_test(a_new_process_in_a_dead_ones_place_takes_part),
        cmocka_unit_test(
            a_dead_replica_is_whole_again_when_all_its_workers_are),
        cmocka_unit_test(an_update_begins_only_at_rest_and_with_two_versions),
        cmocka_unit_test(time_that_goes_back_is_an_error_without_effect),
        cmocka_unit_test(an_answer_that_is_none_is_refused_without_effect),
        cmocka_unit_test(
            answers_of_another_term_epoch_step_or_member_change_nothing),
        cmocka_unit_test(what_comes_at_its_deadline_is_late),
        cmocka_unit_test(a_cancel_is_taken_until_commit_begins),
        cmocka_unit_test(a_cancel_before_any_command_left_undoes_nothing),
        cmocka_unit_test(a_loss_is_taken_once_and_remembered_at_rest),
        cmocka_unit_test(who_takes_no_part_fails_no_attempt),
        cmocka_unit_test(a_replica_that_has_failed_is_not_waited_for),
        cmocka_unit_test(deviant_and_damaged_answers_are_found),
        cmocka_unit_test(a_late_permanent_error_is_kept_once),
        cmocka_unit_test(a_command_tells_how_many_receivers_take_part),
        cmocka_unit_test(what_is_idempotent_is_sent_again_and_nothing_else),
        cmocka_unit_test(with_no_retry_nothing_is_sent_again),
        cmocka_unit_test(at_the_end_of_time_nothing_leaves_and_all_ends),
        cmocka_unit_test(a_copy_of_the_block_is_a_snapshot),
        cmocka_unit_test(more_errors_than_are_kept_are_counted),
        cmocka_unit_test(an_undo_tells_how_it_went),
        cmocka_unit_test(what_a_member_holds_is_its_last_word),
        cmocka_unit_test(members_are_numbered_trainers_first),
        cmocka_unit_test(the_steps_are_what_the_table_says),
        cmocka_unit_test(outcomes_and_states_have_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
