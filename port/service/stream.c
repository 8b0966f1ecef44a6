/* Cleat: one transfer of a whole tensor table. SPDX-License-Identifier:
 * Apache-2.0 */
#include "cleat/stream.h"

#include <string.h>

/* ---- what other threads may say ---- */

void cleat_stream_cancel(struct cleat_stream_signal *signal,
                         enum cleat_status status)
{
    int32_t none = 0;
    int32_t asked = status < CLEAT_OK ? (int32_t)status : CLEAT_CANCELLED;

    (void)__atomic_compare_exchange_n(&signal->cancel, &none, asked, false,
                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

void cleat_stream_lost(uint32_t *lost, uint32_t receiver)
{
    __atomic_store_n(&lost[receiver], 1u, __ATOMIC_SEQ_CST);
}

static enum cleat_status cancelled(const struct cleat_stream_signal *signal)
{
    if (signal == NULL) { return CLEAT_OK; }
    return (enum cleat_status)__atomic_load_n(&signal->cancel,
                                              __ATOMIC_SEQ_CST);
}

/* ---- the sender ---- */

struct send {
    const struct cleat_stream_sending *with;
    struct cleat_pipeline *pipeline;
    struct cleat_stream_report *report;
    struct cleat_error *error;
    uint32_t *crcs; /* by slot, from the fill to the publish */
    bool holding;   /* `command` is a fill that waits for acknowledgements */
    struct cleat_pipeline_command command;
};

static uint64_t now(const struct cleat_clock *clock)
{
    return clock->now_ns(clock->context);
}

static enum cleat_status hook_at(const struct cleat_stream_sending *with,
                                 enum cleat_stream_moment moment,
                                 uint32_t bucket, void *data, uint64_t bytes)
{
    if (with->hook == NULL) { return CLEAT_OK; }
    return with->hook(with->hook_context, moment, bucket, &data, bytes);
}

/* Reads a bucket's pieces into its slot. */
static enum cleat_status fill_pieces(const struct send *send, uint32_t bucket,
                                     unsigned char *data, uint32_t *crc,
                                     uint64_t *bytes)
{
    const struct cleat_tensor_source *source = send->with->source;
    struct cleat_plan_piece piece;
    uint32_t cursor = 0;

    while (cleat_plan_next(send->with->plan, bucket, &cursor, &piece)) {
        enum cleat_status status = source->read(
            source->context, piece.tensor, piece.tensor_offset, piece.bytes,
            data + piece.bucket_offset, send->with->skips_digest ? NULL : crc);

        if (status != CLEAT_OK) {
            return cleat_error_set(send->error, status, piece.tensor,
                                   piece.tensor_offset,
                                   "stream: a tensor could not be read");
        }
        *bytes += piece.bytes;
    }
    return CLEAT_OK;
}

static enum cleat_status fill(struct send *send,
                              const struct cleat_pipeline_command *command)
{
    const struct cleat_transport_sender *transport = send->with->transport;
    uint64_t bytes_max = 0;
    uint64_t bytes = 0;
    uint32_t crc = 0;
    void *data = NULL;
    enum cleat_status status = hook_at(send->with, CLEAT_STREAM_FILL,
                                       command->bucket, NULL, 0);

    if (status != CLEAT_OK) { return status; }
    status = transport->slot(transport->context, command->slot, &data,
                             &bytes_max);
    if (status != CLEAT_OK) { return status; }
    status = fill_pieces(send, command->bucket, data, &crc, &bytes);
    if (status != CLEAT_OK) { return status; }
    send->crcs[command->slot] = crc;
    /* Without digests all are 0, and so is what they combine to. */
    send->report->digest = cleat_crc32c_combine(send->report->digest, crc,
                                                bytes);
    send->report->bytes += bytes;
    return hook_at(send->with, CLEAT_STREAM_PUBLISH, command->bucket, data,
                   cleat_plan_bucket_bytes(send->with->plan, command->bucket));
}

static void publish(struct send *send,
                    const struct cleat_pipeline_command *command)
{
    const struct cleat_transport_sender *transport = send->with->transport;
    enum cleat_status status = transport->publish(
        transport->context, command->slot, command->bucket,
        cleat_plan_bucket_bytes(send->with->plan, command->bucket),
        send->crcs[command->slot]);

    if (status == CLEAT_OK) {
        send->report->buckets_count++;
        status = hook_at(send->with, CLEAT_STREAM_DONE, command->bucket, NULL,
                         0);
    }
    if (status != CLEAT_OK) {
        (void)cleat_pipeline_stop(send->pipeline, now(send->with->clock),
                                  status);
    }
}

/* Tells the machine what has come: notices, and how far each receiver is. */
static void feed(struct send *send)
{
    const struct cleat_stream_sending *with = send->with;
    const struct cleat_transport_sender *transport = with->transport;
    uint64_t now_ns = now(with->clock);
    enum cleat_status status = cancelled(with->signal);

    if (status != CLEAT_OK) {
        (void)cleat_pipeline_stop(send->pipeline, now_ns, status);
    }
    for (uint32_t i = 0; i < with->receivers_count; i++) {
        uint32_t buckets_acked = 0;

        /* An impossible acknowledgement comes with PEER_DEVIANT in status. */
        (void)transport->acked(transport->context, i, &buckets_acked, &status);
        (void)cleat_pipeline_acked(send->pipeline, now_ns, with->generation, i,
                                   buckets_acked, status);
        /* After what it acknowledged: who has every bucket is not lost. */
        if (with->lost != NULL &&
            __atomic_load_n(&with->lost[i], __ATOMIC_SEQ_CST) != 0) {
            (void)cleat_pipeline_lost(send->pipeline, now_ns, i);
        }
    }
}

/* Carries out one command, or waits until there may be one. */
static void step(struct send *send)
{
    const struct cleat_transport_sender *transport = send->with->transport;
    struct cleat_pipeline_command *command = &send->command;

    if (send->holding && cleat_pipeline_acked_by_all(send->pipeline) >=
                             send->with->hold_bucket) {
        send->holding = false;
    } else if (send->holding || !cleat_pipeline_next(send->pipeline, command)) {
        (void)transport->wait(transport->context,
                              cleat_pipeline_deadline(send->pipeline));
        return;
    } else if (command->kind == CLEAT_PIPELINE_FILL &&
               command->bucket == send->with->hold_bucket &&
               command->bucket != 0) {
        send->holding = true;
        return;
    }
    if (command->kind == CLEAT_PIPELINE_FILL) {
        enum cleat_status status = fill(send, command);

        (void)cleat_pipeline_filled(send->pipeline, now(send->with->clock),
                                    command->slot, status);
    } else if (command->kind == CLEAT_PIPELINE_PUBLISH) {
        publish(send, command);
    }
    /* DROP needs no hand: whoever is not counted any more is not waited for,
     * and the results say why. */
}

static enum cleat_status send_begin(struct send *send)
{
    const struct cleat_stream_sending *with = send->with;
    struct cleat_pipeline_config config;
    uint32_t largest = cleat_plan_bucket_bytes(with->plan, 0);

    if (with->receivers_count > with->transport->receivers_max) {
        return cleat_error_set(send->error, CLEAT_INVALID, 0,
                               with->transport->receivers_max,
                               "stream: more receivers than the transport has "
                               "places for");
    }
    if (with->transport->slot_bytes_max < largest) {
        return cleat_error_set(send->error, CLEAT_TOO_SMALL, 0, largest,
                               "stream: a bucket of the plan does not fit a "
                               "slot of the transport");
    }
    memset(&config, 0, sizeof config);
    config.generation = with->generation;
    config.ack_timeout_ns = with->ack_timeout_ns;
    config.deadline_ns = with->deadline_ns;
    config.buckets_count = cleat_plan_buckets(with->plan);
    config.slots_count = with->transport->slots_count;
    config.receivers_count = with->receivers_count;
    return cleat_pipeline_begin(with->block, with->block_bytes, &config,
                                now(with->clock), &send->pipeline, send->error);
}

enum cleat_status cleat_stream_send(const struct cleat_stream_sending *sending,
                                    struct cleat_stream_result *results,
                                    struct cleat_stream_report *report,
                                    struct cleat_error *error)
{
    uint32_t crcs[CLEAT_PIPELINE_SLOTS_MAX] = {0};
    struct cleat_error local;
    struct send send;
    enum cleat_status status;

    memset(report, 0, sizeof *report);
    memset(&send, 0, sizeof send);
    send.with = sending;
    send.report = report;
    send.error = error != NULL ? error : &local;
    send.error->status = CLEAT_OK;
    send.crcs = crcs;
    status = send_begin(&send);
    if (status != CLEAT_OK) { return status; }
    while (cleat_pipeline_status(send.pipeline) == CLEAT_PENDING) {
        feed(&send);
        if (cleat_pipeline_status(send.pipeline) == CLEAT_PENDING) {
            step(&send);
        }
    }
    for (uint32_t i = 0; i < sending->receivers_count; i++) {
        results[i].status = cleat_pipeline_receiver_status(
            send.pipeline, i, &results[i].buckets_acked);
    }
    status = cleat_pipeline_status(send.pipeline);
    /* The tensor that could not be read is told by whoever saw it. */
    if (status != CLEAT_OK && send.error->status != status) {
        (void)cleat_error_set(send.error, status,
                              cleat_pipeline_acked_by_all(send.pipeline), 0,
                              "stream: the transfer ended before every bucket "
                              "was acknowledged");
    }
    return status;
}

/* ---- the receiver ---- */

/* The bucket that is being worked on. */
struct arrival {
    const void *data;
    uint64_t bytes;
    uint32_t crc;
};

struct receive {
    const struct cleat_stream_receiving *with;
    struct cleat_stream_report *report;
    struct cleat_error *error;
    struct cleat_intake intake;
    struct arrival arrival;
    uint32_t bucket; /* expected or worked on */
};

static enum cleat_status receive_hook(const struct receive *receive,
                                      enum cleat_stream_moment moment,
                                      void **data, uint64_t bytes)
{
    if (receive->with->hook == NULL) { return CLEAT_OK; }
    return receive->with->hook(receive->with->hook_context, moment,
                               receive->bucket, data, bytes);
}

static enum cleat_status agree(const struct receive *receive, uint32_t crc)
{
    if (receive->with->skips_digest || crc == receive->arrival.crc) {
        return CLEAT_OK;
    }
    return cleat_error_set(receive->error, CLEAT_CORRUPT, receive->bucket, 0,
                           "stream: a bucket does not match its digest");
}

/* Digests the bucket where it lies. */
static enum cleat_status digest_slot(const struct receive *receive)
{
    struct cleat_plan_piece piece;
    uint32_t cursor = 0;
    uint32_t crc = 0;

    while (cleat_plan_next(receive->with->plan, receive->bucket, &cursor,
                           &piece)) {
        crc = cleat_crc32c_with(receive->with->digest_kind, crc,
                                (const unsigned char *)receive->arrival.data +
                                    piece.bucket_offset,
                                piece.bytes);
    }
    return agree(receive, crc);
}

/* Copies the bucket to the sink; the digest is of what was copied. */
static enum cleat_status copy_to_sink(const struct receive *receive)
{
    const struct cleat_tensor_sink *sink = receive->with->sink;
    struct cleat_plan_piece piece;
    uint32_t cursor = 0;
    uint32_t crc = 0;

    while (cleat_plan_next(receive->with->plan, receive->bucket, &cursor,
                           &piece)) {
        enum cleat_status status = sink->write(
            sink->context, piece.tensor, piece.tensor_offset, piece.bytes,
            (const unsigned char *)receive->arrival.data + piece.bucket_offset,
            receive->with->skips_digest ? NULL : &crc);

        if (status != CLEAT_OK) {
            return cleat_error_set(receive->error, status, piece.tensor,
                                   piece.tensor_offset,
                                   "stream: a tensor could not be written");
        }
    }
    return agree(receive, crc);
}

static enum cleat_status verify(struct receive *receive)
{
    void *data = (void *)(uintptr_t)receive->arrival.data;
    enum cleat_status status = receive_hook(receive, CLEAT_STREAM_VERIFY, &data,
                                            receive->arrival.bytes);

    if (status != CLEAT_OK) { return status; }
    receive->arrival.data = data;
    if (receive->arrival.bytes !=
        cleat_plan_bucket_bytes(receive->with->plan, receive->bucket)) {
        return cleat_error_set(receive->error, CLEAT_CORRUPT, receive->bucket,
                               receive->arrival.bytes,
                               "stream: a bucket is not as long as the plan "
                               "says");
    }
    if (!receive->with->in_place) { return copy_to_sink(receive); }
    return receive->with->skips_digest ? CLEAT_OK : digest_slot(receive);
}

static enum cleat_status apply(struct receive *receive)
{
    struct cleat_plan_piece piece;
    enum cleat_status status = CLEAT_OK;
    uint32_t cursor = 0;
    uint64_t bytes = 0;

    if (receive->with->in_place) {
        void *none = NULL;

        status = receive_hook(receive, CLEAT_STREAM_APPLY, &none, 0);
        if (status != CLEAT_OK) { return status; }
        receive->report->applied = true;
        status = copy_to_sink(receive);
    }
    if (status != CLEAT_OK) { return status; }
    while (cleat_plan_next(receive->with->plan, receive->bucket, &cursor,
                           &piece)) {
        bytes += piece.bytes;
    }
    if (!receive->with->skips_digest) {
        receive->report->digest = cleat_crc32c_combine(
            receive->report->digest, receive->arrival.crc, bytes);
    }
    receive->report->bytes += bytes;
    return CLEAT_OK;
}

static void acknowledge(struct receive *receive,
                        const struct cleat_intake_command *command)
{
    const struct cleat_transport_receiver *transport = receive->with->transport;
    enum cleat_status status = transport->ack(transport->context,
                                              command->bucket, command->status);

    if (command->status != CLEAT_OK) { return; }
    if (status == CLEAT_OK) {
        void *none = NULL;

        status = receive_hook(receive, CLEAT_STREAM_DONE, &none, 0);
        receive->report->buckets_count++;
        receive->bucket++;
    }
    if (status != CLEAT_OK) {
        (void)cleat_intake_stop(&receive->intake, now(receive->with->clock),
                                status);
    }
}

static void carry_out(struct receive *receive,
                      const struct cleat_intake_command *command)
{
    enum cleat_status status;

    switch (command->kind) {
    case CLEAT_INTAKE_VERIFY:
        status = verify(receive);
        (void)cleat_intake_verified(&receive->intake, now(receive->with->clock),
                                    status);
        break;
    case CLEAT_INTAKE_APPLY:
        status = apply(receive);
        (void)cleat_intake_applied(&receive->intake, now(receive->with->clock),
                                   status);
        break;
    case CLEAT_INTAKE_ACK: acknowledge(receive, command); break;
    }
}

/* Waits for the next bucket, or for why there is none. */
static void await(struct receive *receive)
{
    const struct cleat_stream_receiving *with = receive->with;
    const struct cleat_transport_receiver *transport = with->transport;
    struct arrival *arrival = &receive->arrival;
    enum cleat_status status = transport->wait(
        transport->context, receive->bucket,
        cleat_intake_deadline(&receive->intake), &arrival->data,
        &arrival->bytes, &arrival->crc);

    if (status == CLEAT_OK) {
        (void)cleat_intake_arrived(&receive->intake, now(with->clock),
                                   with->generation, receive->bucket);
    } else if (status == CLEAT_DEADLINE || status == CLEAT_PENDING) {
        (void)cleat_intake_tick(&receive->intake, now(with->clock));
    } else {
        (void)cleat_intake_stop(&receive->intake, now(with->clock), status);
    }
}

enum cleat_status
cleat_stream_receive(const struct cleat_stream_receiving *receiving,
                     struct cleat_stream_report *report,
                     struct cleat_error *error)
{
    struct cleat_intake_config config;
    struct cleat_intake_command command;
    struct cleat_error local;
    struct receive receive;
    enum cleat_status status;

    memset(report, 0, sizeof *report);
    memset(&receive, 0, sizeof receive);
    receive.with = receiving;
    receive.report = report;
    receive.error = error != NULL ? error : &local;
    receive.error->status = CLEAT_OK;
    memset(&config, 0, sizeof config);
    config.generation = receiving->generation;
    config.bucket_timeout_ns = receiving->bucket_timeout_ns;
    config.deadline_ns = receiving->deadline_ns;
    config.buckets_count = cleat_plan_buckets(receiving->plan);
    (void)cleat_intake_begin(&receive.intake, &config, now(receiving->clock));
    for (;;) {
        status = cancelled(receiving->signal);
        if (status != CLEAT_OK) {
            (void)cleat_intake_stop(&receive.intake, now(receiving->clock),
                                    status);
        }
        if (cleat_intake_next(&receive.intake, &command)) {
            carry_out(&receive, &command);
        } else if (cleat_intake_status(&receive.intake) == CLEAT_PENDING) {
            await(&receive);
        } else {
            break;
        }
    }
    status = cleat_intake_status(&receive.intake);
    if (status != CLEAT_OK && receive.error->status != status) {
        (void)cleat_error_set(receive.error, status, receive.bucket, 0,
                              "stream: the transfer ended before every bucket "
                              "had come");
    }
    return status;
}
