/* Cleat: the pipeline and the intake, by hand. SPDX-License-Identifier:
 * Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cleat/pipeline.h"

static union {
    uint64_t align;
    unsigned char bytes[CLEAT_PIPELINE_BYTES(4)];
} block;

static struct cleat_pipeline *begin(const struct cleat_pipeline_config *config,
                                    uint64_t now_ns)
{
    struct cleat_pipeline *pipeline = NULL;

    assert_int_equal(cleat_pipeline_begin(block.bytes, sizeof block.bytes,
                                          config, now_ns, &pipeline, NULL),
                     CLEAT_OK);
    return pipeline;
}

static struct cleat_pipeline_config config_of(uint32_t buckets, uint32_t slots,
                                              uint32_t receivers,
                                              uint64_t ack_timeout_ns)
{
    struct cleat_pipeline_config config;

    memset(&config, 0, sizeof config);
    config.generation = 5;
    config.buckets_count = buckets;
    config.slots_count = slots;
    config.receivers_count = receivers;
    config.ack_timeout_ns = ack_timeout_ns;
    return config;
}

static void expect(struct cleat_pipeline *pipeline,
                   enum cleat_pipeline_command_kind kind, uint32_t slot,
                   uint32_t bucket)
{
    struct cleat_pipeline_command command;

    assert_true(cleat_pipeline_next(pipeline, &command));
    assert_int_equal(command.kind, kind);
    assert_int_equal(command.slot, slot);
    assert_int_equal(command.bucket, bucket);
}

static void expect_drop(struct cleat_pipeline *pipeline, uint32_t receiver,
                        enum cleat_status why)
{
    struct cleat_pipeline_command command;

    assert_true(cleat_pipeline_next(pipeline, &command));
    assert_int_equal(command.kind, CLEAT_PIPELINE_DROP);
    assert_int_equal(command.receiver, receiver);
    assert_int_equal(command.why, why);
}

static void expect_nothing(struct cleat_pipeline *pipeline)
{
    struct cleat_pipeline_command command;

    assert_false(cleat_pipeline_next(pipeline, &command));
}

/* Three buckets through two slots to two receivers, in the order in which the
 * header says that things happen. */
static void a_transfer_goes_as_the_header_says(void **state)
{
    struct cleat_pipeline_config config = config_of(3, 2, 2, 100);
    struct cleat_pipeline *pipeline = begin(&config, 1000);
    uint32_t acked = 9;

    (void)state;
    expect(pipeline, CLEAT_PIPELINE_FILL, 0, 0);
    expect(pipeline, CLEAT_PIPELINE_FILL, 1, 1);
    expect_nothing(pipeline);
    /* The second fill ends first: it waits for its turn. */
    assert_int_equal(cleat_pipeline_filled(pipeline, 1001, 1, CLEAT_OK), 0);
    expect_nothing(pipeline);
    assert_int_equal(cleat_pipeline_filled(pipeline, 1002, 0, CLEAT_OK), 0);
    assert_int_equal(cleat_pipeline_deadline(pipeline), CLEAT_NEVER);
    expect(pipeline, CLEAT_PIPELINE_PUBLISH, 0, 0);
    assert_int_equal(cleat_pipeline_deadline(pipeline), 1102);
    expect(pipeline, CLEAT_PIPELINE_PUBLISH, 1, 1);
    expect_nothing(pipeline);
    assert_int_equal(cleat_pipeline_acked(pipeline, 1010, 5, 0, 2, CLEAT_OK),
                     0);
    expect_nothing(pipeline); /* receiver 1 still reads slot 0 */
    assert_int_equal(cleat_pipeline_deadline(pipeline), 1102);
    assert_int_equal(cleat_pipeline_acked(pipeline, 1020, 5, 1, 1, CLEAT_OK),
                     0);
    assert_int_equal(cleat_pipeline_acked_by_all(pipeline), 1);
    assert_int_equal(cleat_pipeline_deadline(pipeline), 1120);
    expect(pipeline, CLEAT_PIPELINE_FILL, 0, 2);
    assert_int_equal(cleat_pipeline_filled(pipeline, 1021, 0, CLEAT_OK), 0);
    expect(pipeline, CLEAT_PIPELINE_PUBLISH, 0, 2);
    assert_int_equal(cleat_pipeline_acked(pipeline, 1030, 5, 1, 3, CLEAT_OK),
                     0);
    assert_int_equal(cleat_pipeline_receiver_status(pipeline, 1, &acked),
                     CLEAT_OK);
    assert_int_equal(acked, 3);
    assert_int_equal(cleat_pipeline_status(pipeline), CLEAT_PENDING);
    assert_int_equal(cleat_pipeline_acked(pipeline, 1031, 5, 0, 3, CLEAT_OK),
                     0);
    assert_int_equal(cleat_pipeline_status(pipeline), CLEAT_OK);
    assert_int_equal(cleat_pipeline_deadline(pipeline), CLEAT_NEVER);
    expect_nothing(pipeline);
    assert_int_equal(cleat_pipeline_acked(pipeline, 1032, 5, 0, 3, CLEAT_OK),
                     CLEAT_STATE);
}

static void one_bucket_out(struct cleat_pipeline *pipeline, uint64_t now_ns)
{
    expect(pipeline, CLEAT_PIPELINE_FILL, 0, 0);
    assert_int_equal(cleat_pipeline_filled(pipeline, now_ns, 0, CLEAT_OK), 0);
    expect(pipeline, CLEAT_PIPELINE_PUBLISH, 0, 0);
}

static void an_ack_at_its_deadline_is_late(void **state)
{
    struct cleat_pipeline_config config = config_of(1, 1, 2, 100);
    struct cleat_pipeline *pipeline = begin(&config, 0);

    (void)state;
    one_bucket_out(pipeline, 50);
    assert_int_equal(cleat_pipeline_tick(pipeline, 149), CLEAT_OK);
    assert_int_equal(cleat_pipeline_acked(pipeline, 149, 5, 0, 1, CLEAT_OK),
                     CLEAT_OK);
    assert_int_equal(cleat_pipeline_acked(pipeline, 150, 5, 1, 1, CLEAT_OK),
                     CLEAT_STATE);
    expect_drop(pipeline, 1, CLEAT_PEER_SILENT);
    expect_nothing(pipeline);
    assert_int_equal(cleat_pipeline_status(pipeline), CLEAT_OK);
    assert_int_equal(cleat_pipeline_receiver_status(pipeline, 1, NULL),
                     CLEAT_PEER_SILENT);
}

static void when_all_are_dropped_the_group_has_failed(void **state)
{
    struct cleat_pipeline_config config = config_of(1, 1, 3, 100);
    struct cleat_pipeline *pipeline = begin(&config, 0);

    (void)state;
    one_bucket_out(pipeline, 0);
    assert_int_equal(cleat_pipeline_lost(pipeline, 1, 2), CLEAT_OK);
    assert_int_equal(cleat_pipeline_acked(pipeline, 2, 5, 0, 0, CLEAT_CORRUPT),
                     CLEAT_OK);
    assert_int_equal(cleat_pipeline_status(pipeline), CLEAT_PENDING);
    assert_int_equal(cleat_pipeline_acked(pipeline, 3, 5, 1, 2, CLEAT_OK),
                     CLEAT_PEER_DEVIANT);
    assert_int_equal(cleat_pipeline_status(pipeline), CLEAT_GROUP_FAILED);
    expect_drop(pipeline, 0, CLEAT_CORRUPT);
    expect_drop(pipeline, 1, CLEAT_PEER_DEVIANT);
    expect_drop(pipeline, 2, CLEAT_PEER_LOST);
    expect_nothing(pipeline);
}

/* A receiver's deadline comes before the whole one, or after it: what would
 * have come after the end did not happen. */
static void the_whole_deadline_ends_it(void **state)
{
    struct cleat_pipeline_config config = config_of(1, 1, 1, 100);
    struct cleat_pipeline *pipeline;

    (void)state;
    config.deadline_ns = 60;
    pipeline = begin(&config, 0);
    one_bucket_out(pipeline, 0);
    assert_int_equal(cleat_pipeline_deadline(pipeline), 60);
    assert_int_equal(cleat_pipeline_tick(pipeline, 5000), CLEAT_STATE);
    assert_int_equal(cleat_pipeline_status(pipeline), CLEAT_DEADLINE);
    assert_int_equal(cleat_pipeline_receiver_status(pipeline, 0, NULL),
                     CLEAT_PENDING);
    config.deadline_ns = 120;
    pipeline = begin(&config, 0);
    one_bucket_out(pipeline, 0);
    assert_int_equal(cleat_pipeline_tick(pipeline, 5000), CLEAT_STATE);
    assert_int_equal(cleat_pipeline_status(pipeline), CLEAT_GROUP_FAILED);
}

static void what_is_refused_has_no_effect(void **state)
{
    struct cleat_pipeline_config config = config_of(3, 2, 2, 100);
    struct cleat_pipeline *pipeline = begin(&config, 1000);
    unsigned char before[sizeof block.bytes];

    (void)state;
    expect(pipeline, CLEAT_PIPELINE_FILL, 0, 0);
    memcpy(before, block.bytes, sizeof before);
    assert_int_equal(cleat_pipeline_tick(pipeline, 999), CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_pipeline_filled(pipeline, 999, 0, CLEAT_OK),
                     CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_pipeline_filled(pipeline, 1000, 1, CLEAT_OK),
                     CLEAT_INVALID);
    assert_int_equal(cleat_pipeline_filled(pipeline, 1000, 2, CLEAT_OK),
                     CLEAT_INVALID);
    assert_int_equal(cleat_pipeline_filled(pipeline, 1000, 0, CLEAT_PENDING),
                     CLEAT_INVALID);
    assert_int_equal(cleat_pipeline_acked(pipeline, 1000, 4, 0, 0, CLEAT_OK),
                     CLEAT_PEER_STALE);
    assert_int_equal(cleat_pipeline_acked(pipeline, 1000, 5, 2, 0, CLEAT_OK),
                     CLEAT_INVALID);
    assert_int_equal(
        cleat_pipeline_acked(pipeline, 1000, 5, 0, 0, CLEAT_PENDING),
        CLEAT_INVALID);
    assert_int_equal(cleat_pipeline_lost(pipeline, 1000, 2), CLEAT_INVALID);
    assert_int_equal(cleat_pipeline_stop(pipeline, 1000, CLEAT_OK),
                     CLEAT_INVALID);
    assert_memory_equal(before, block.bytes, sizeof before);
    assert_int_equal(cleat_pipeline_filled(pipeline, 1000, 0, CLEAT_OK), 0);
    assert_int_equal(cleat_pipeline_filled(pipeline, 1000, 0, CLEAT_OK),
                     CLEAT_INVALID);
}

static void zero_means_the_default_that_the_header_tells(void **state)
{
    struct cleat_pipeline_config config = config_of(9, 0, 1, 0);
    struct cleat_pipeline *pipeline = begin(&config, 0);

    (void)state;
    assert_int_equal(CLEAT_PIPELINE_SLOTS_DEFAULT, 3);
    expect(pipeline, CLEAT_PIPELINE_FILL, 0, 0);
    expect(pipeline, CLEAT_PIPELINE_FILL, 1, 1);
    expect(pipeline, CLEAT_PIPELINE_FILL, 2, 2);
    expect_nothing(pipeline);
    assert_int_equal(cleat_pipeline_filled(pipeline, 0, 0, CLEAT_OK), 0);
    expect(pipeline, CLEAT_PIPELINE_PUBLISH, 0, 0);
    assert_int_equal(cleat_pipeline_deadline(pipeline),
                     UINT64_C(10000000000)); /* 10 s */
}

static void no_buckets_are_complete_at_once(void **state)
{
    struct cleat_pipeline_config config = config_of(0, 3, 2, 100);
    struct cleat_pipeline *pipeline = begin(&config, 7);

    (void)state;
    assert_int_equal(cleat_pipeline_status(pipeline), CLEAT_OK);
    assert_int_equal(cleat_pipeline_receiver_status(pipeline, 1, NULL),
                     CLEAT_OK);
    expect_nothing(pipeline);
}

static void a_bad_block_or_config_is_refused(void **state)
{
    struct cleat_pipeline_config config = config_of(1, 1, 4, 0);
    struct cleat_pipeline *pipeline;
    struct cleat_error error;

    (void)state;
    assert_int_equal(CLEAT_PIPELINE_BYTES(4), cleat_pipeline_bytes(4));
    assert_int_equal(cleat_pipeline_begin(block.bytes,
                                          CLEAT_PIPELINE_BYTES(4) - 1, &config,
                                          0, &pipeline, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, CLEAT_PIPELINE_BYTES(4));
    assert_int_equal(
        cleat_pipeline_begin(NULL, 4096, &config, 0, &pipeline, &error),
        CLEAT_INVALID);
    config.slots_count = CLEAT_PIPELINE_SLOTS_MAX + 1;
    assert_int_equal(cleat_pipeline_begin(block.bytes, sizeof block.bytes,
                                          &config, 0, &pipeline, &error),
                     CLEAT_INVALID);
    config.slots_count = 1;
    config.receivers_count = 0;
    assert_int_equal(cleat_pipeline_begin(block.bytes, sizeof block.bytes,
                                          &config, 0, &pipeline, &error),
                     CLEAT_INVALID);
}

/* Near the end of time a deadline that would be past it never comes, and the
 * last moment is a time like any other. */
static void times_saturate(void **state)
{
    struct cleat_pipeline_config config = config_of(1, 1, 1, 100);
    struct cleat_pipeline *pipeline = begin(&config, UINT64_MAX - 50);

    (void)state;
    one_bucket_out(pipeline, UINT64_MAX - 50);
    assert_int_equal(cleat_pipeline_deadline(pipeline), CLEAT_NEVER);
    assert_int_equal(cleat_pipeline_tick(pipeline, UINT64_MAX), CLEAT_OK);
    assert_int_equal(
        cleat_pipeline_acked(pipeline, UINT64_MAX, 5, 0, 1, CLEAT_OK),
        CLEAT_OK);
    assert_int_equal(cleat_pipeline_status(pipeline), CLEAT_OK);
}

/* The last bucket has the highest number that there is. */
static void bucket_numbers_do_not_wrap(void **state)
{
    struct cleat_pipeline_config config = config_of(UINT32_MAX, 8, 1, 100);
    struct cleat_pipeline *pipeline = begin(&config, 0);

    (void)state;
    pipeline->fill_next = UINT32_MAX - 1;
    pipeline->publish_next = UINT32_MAX - 1;
    pipeline->acked_by_all = UINT32_MAX - 1;
    ((struct cleat_pipeline_receiver *)(void *)(pipeline + 1))->acked =
        UINT32_MAX - 1;
    expect(pipeline, CLEAT_PIPELINE_FILL, (UINT32_MAX - 1) % 8, UINT32_MAX - 1);
    expect_nothing(pipeline);
    assert_int_equal(
        cleat_pipeline_filled(pipeline, 1, (UINT32_MAX - 1) % 8, CLEAT_OK),
        CLEAT_OK);
    expect(pipeline, CLEAT_PIPELINE_PUBLISH, (UINT32_MAX - 1) % 8,
           UINT32_MAX - 1);
    assert_int_equal(
        cleat_pipeline_acked(pipeline, 2, 5, 0, UINT32_MAX, CLEAT_OK),
        CLEAT_OK);
    assert_int_equal(cleat_pipeline_status(pipeline), CLEAT_OK);
}

/* ---- the intake ---- */

static struct cleat_intake intake_of(uint32_t buckets, uint64_t timeout_ns,
                                     uint64_t deadline_ns, uint64_t now_ns)
{
    struct cleat_intake_config config;
    struct cleat_intake intake;

    memset(&config, 0, sizeof config);
    config.generation = 5;
    config.buckets_count = buckets;
    config.bucket_timeout_ns = timeout_ns;
    config.deadline_ns = deadline_ns;
    assert_int_equal(cleat_intake_begin(&intake, &config, now_ns), CLEAT_OK);
    return intake;
}

static void expect_intake(struct cleat_intake *intake,
                          enum cleat_intake_command_kind kind, uint32_t bucket,
                          enum cleat_status status)
{
    struct cleat_intake_command command;

    assert_true(cleat_intake_next(intake, &command));
    assert_int_equal(command.kind, kind);
    assert_int_equal(command.bucket, bucket);
    assert_int_equal(command.status, status);
}

static void expect_no_intake(struct cleat_intake *intake)
{
    struct cleat_intake_command command;

    assert_false(cleat_intake_next(intake, &command));
}

static void take_one(struct cleat_intake *intake, uint64_t now_ns,
                     uint32_t bucket)
{
    assert_int_equal(cleat_intake_arrived(intake, now_ns, 5, bucket), CLEAT_OK);
    expect_intake(intake, CLEAT_INTAKE_VERIFY, bucket, CLEAT_OK);
    expect_no_intake(intake);
    assert_int_equal(cleat_intake_applied(intake, now_ns, CLEAT_OK),
                     CLEAT_INVALID);
    assert_int_equal(cleat_intake_verified(intake, now_ns, CLEAT_OK), CLEAT_OK);
    expect_intake(intake, CLEAT_INTAKE_APPLY, bucket, CLEAT_OK);
    assert_int_equal(cleat_intake_applied(intake, now_ns, CLEAT_OK), CLEAT_OK);
    expect_intake(intake, CLEAT_INTAKE_ACK, bucket, CLEAT_OK);
}

static void an_intake_verifies_applies_and_acknowledges(void **state)
{
    struct cleat_intake intake = intake_of(2, 100, 0, 1000);

    (void)state;
    assert_int_equal(cleat_intake_deadline(&intake), 1100);
    take_one(&intake, 1050, 0);
    assert_int_equal(cleat_intake_deadline(&intake), 1150);
    assert_int_equal(cleat_intake_arrived(&intake, 1060, 5, 0), CLEAT_EXISTS);
    assert_int_equal(cleat_intake_arrived(&intake, 1060, 4, 1),
                     CLEAT_PEER_STALE);
    expect_no_intake(&intake);
    take_one(&intake, 1149, 1);
    assert_int_equal(cleat_intake_status(&intake), CLEAT_OK);
    assert_int_equal(cleat_intake_applied_count(&intake), 2);
    assert_int_equal(cleat_intake_tick(&intake, 5000), CLEAT_STATE);
    expect_no_intake(&intake);
}

static void a_wrong_digest_ends_it_before_anything_is_applied(void **state)
{
    struct cleat_intake intake = intake_of(2, 100, 0, 0);

    (void)state;
    assert_int_equal(cleat_intake_arrived(&intake, 1, 5, 0), CLEAT_OK);
    expect_intake(&intake, CLEAT_INTAKE_VERIFY, 0, CLEAT_OK);
    assert_int_equal(cleat_intake_verified(&intake, 2, CLEAT_CORRUPT),
                     CLEAT_OK);
    expect_intake(&intake, CLEAT_INTAKE_ACK, 0, CLEAT_CORRUPT);
    expect_no_intake(&intake);
    assert_int_equal(cleat_intake_status(&intake), CLEAT_CORRUPT);
    assert_int_equal(cleat_intake_applied_count(&intake), 0);
}

static void no_next_bucket_in_time_is_silence(void **state)
{
    struct cleat_intake intake = intake_of(2, 100, 500, 0);

    (void)state;
    assert_int_equal(cleat_intake_tick(&intake, 99), CLEAT_OK);
    assert_int_equal(cleat_intake_arrived(&intake, 100, 5, 0), CLEAT_STATE);
    assert_int_equal(cleat_intake_status(&intake), CLEAT_PEER_SILENT);
    expect_intake(&intake, CLEAT_INTAKE_ACK, 0, CLEAT_PEER_SILENT);
    expect_no_intake(&intake);
}

/* Working takes as long as it takes, but for the whole deadline. */
static void only_the_whole_deadline_bounds_the_work(void **state)
{
    struct cleat_intake intake = intake_of(2, 100, 500, 0);

    (void)state;
    assert_int_equal(cleat_intake_arrived(&intake, 1, 5, 0), CLEAT_OK);
    expect_intake(&intake, CLEAT_INTAKE_VERIFY, 0, CLEAT_OK);
    assert_int_equal(cleat_intake_deadline(&intake), 500);
    assert_int_equal(cleat_intake_verified(&intake, 400, CLEAT_OK), CLEAT_OK);
    expect_intake(&intake, CLEAT_INTAKE_APPLY, 0, CLEAT_OK);
    assert_int_equal(cleat_intake_applied(&intake, 500, CLEAT_OK), CLEAT_STATE);
    assert_int_equal(cleat_intake_status(&intake), CLEAT_DEADLINE);
    assert_int_equal(cleat_intake_applied_count(&intake), 1);
    expect_intake(&intake, CLEAT_INTAKE_ACK, 0, CLEAT_DEADLINE);
}

static void a_bucket_out_of_order_ends_it(void **state)
{
    struct cleat_intake intake = intake_of(3, 100, 0, 0);

    (void)state;
    assert_int_equal(cleat_intake_arrived(&intake, 1, 5, 1),
                     CLEAT_PEER_DEVIANT);
    assert_int_equal(cleat_intake_status(&intake), CLEAT_PEER_DEVIANT);
    expect_intake(&intake, CLEAT_INTAKE_ACK, 0, CLEAT_PEER_DEVIANT);
    expect_no_intake(&intake);
}

static void an_intake_is_stopped_and_its_time_does_not_go_back(void **state)
{
    struct cleat_intake intake = intake_of(3, 0, 0, 50);

    (void)state;
    assert_int_equal(cleat_intake_deadline(&intake),
                     50 + UINT64_C(10000000000));
    assert_int_equal(cleat_intake_tick(&intake, 49), CLEAT_TIME_BACKWARDS);
    assert_int_equal(cleat_intake_stop(&intake, 50, CLEAT_PENDING),
                     CLEAT_INVALID);
    assert_int_equal(cleat_intake_stop(&intake, 51, CLEAT_PEER_LOST), CLEAT_OK);
    expect_intake(&intake, CLEAT_INTAKE_ACK, 0, CLEAT_PEER_LOST);
    assert_int_equal(cleat_intake_deadline(&intake), CLEAT_NEVER);
    intake = intake_of(0, 0, 0, 0);
    assert_int_equal(cleat_intake_status(&intake), CLEAT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_transfer_goes_as_the_header_says),
        cmocka_unit_test(an_ack_at_its_deadline_is_late),
        cmocka_unit_test(when_all_are_dropped_the_group_has_failed),
        cmocka_unit_test(the_whole_deadline_ends_it),
        cmocka_unit_test(what_is_refused_has_no_effect),
        cmocka_unit_test(zero_means_the_default_that_the_header_tells),
        cmocka_unit_test(no_buckets_are_complete_at_once),
        cmocka_unit_test(a_bad_block_or_config_is_refused),
        cmocka_unit_test(times_saturate),
        cmocka_unit_test(bucket_numbers_do_not_wrap),
        cmocka_unit_test(an_intake_verifies_applies_and_acknowledges),
        cmocka_unit_test(a_wrong_digest_ends_it_before_anything_is_applied),
        cmocka_unit_test(no_next_bucket_in_time_is_silence),
        cmocka_unit_test(only_the_whole_deadline_bounds_the_work),
        cmocka_unit_test(a_bucket_out_of_order_ends_it),
        cmocka_unit_test(an_intake_is_stopped_and_its_time_does_not_go_back)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
