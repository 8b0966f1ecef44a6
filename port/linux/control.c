/* Cleat: control frames as bytes. SPDX-License-Identifier: Apache-2.0 */
#include "control.h"

#include <string.h>

#include "cleat/digest.h"

#define MAGIC UINT32_C(0x63544C43) /* "CLTc" */
#define FLAGS_FDS 3u
#define CRC_AT 40u

/* One walk over a frame's members serves both directions, so that what is
 * written and what is read cannot differ. Past the end, or at a value out of
 * range, `bad` is set and stays. */
struct cursor {
    uint8_t *write;      /* NULL while reading */
    const uint8_t *read; /* NULL while writing */
    size_t at;
    size_t end;
    bool bad;
};

static void walk_bytes(struct cursor *cursor, uint8_t *value, size_t count)
{
    if (cursor->bad || cursor->end - cursor->at < count) {
        cursor->bad = true;
        return;
    }
    if (cursor->write != NULL) {
        memcpy(cursor->write + cursor->at, value, count);
    } else {
        memcpy(value, cursor->read + cursor->at, count);
    }
    cursor->at += count;
}

static void walk_u64_of(struct cursor *cursor, uint64_t *value, size_t count)
{
    uint8_t bytes[8] = {0};

    for (size_t i = 0; i < count; i++) {
        bytes[i] = (uint8_t)(*value >> (8 * i));
    }
    walk_bytes(cursor, bytes, count);
    if (cursor->write != NULL || cursor->bad) { return; }
    *value = 0;
    for (size_t i = 0; i < count; i++) {
        *value |= (uint64_t)bytes[i] << (8 * i);
    }
}

static void walk_u64(struct cursor *cursor, uint64_t *value)
{
    walk_u64_of(cursor, value, 8);
}

static void walk_u32(struct cursor *cursor, uint32_t *value)
{
    uint64_t wide = *value;

    walk_u64_of(cursor, &wide, 4);
    *value = (uint32_t)wide;
}

/* A value that must be ≤ max. */
static void walk_range(struct cursor *cursor, uint32_t *value, uint32_t max)
{
    walk_u32(cursor, value);
    if (*value > max) { cursor->bad = true; }
}

static void walk_step(struct cursor *cursor, enum cleat_sync_step *step)
{
    uint32_t value = (uint32_t)*step;

    walk_range(cursor, &value, CLEAT_SYNC_STEPS - 1);
    *step = (enum cleat_sync_step)value;
}

/* A status that is in the list: what is not in it has no meaning here. */
static void walk_status(struct cursor *cursor, enum cleat_status *status)
{
    uint32_t value = (uint32_t)(int32_t)*status;

    walk_u32(cursor, &value);
    *status = (enum cleat_status)(int32_t)value;
    if (strcmp(cleat_status_name(*status), "UNKNOWN") == 0) {
        cursor->bad = true;
    }
}

static void walk_holding(struct cursor *cursor,
                         enum cleat_sync_holding *holding)
{
    uint32_t value = (uint32_t)*holding;

    walk_range(cursor, &value, CLEAT_SYNC_TORN);
    *holding = (enum cleat_sync_holding)value;
}

static void walk_ticket(struct cursor *cursor, uint32_t *count, uint8_t *bytes)
{
    walk_range(cursor, count, CLEAT_TRANSPORT_TICKET_BYTES);
    if (!cursor->bad) { walk_bytes(cursor, bytes, *count); }
}

static void walk_hello(struct cursor *cursor, struct cleat_control_hello *hello)
{
    walk_u64(cursor, &hello->start_sequence);
    walk_status(cursor, &hello->status);
    walk_u32(cursor, &hello->member);
    walk_u64(cursor, &hello->hello.term_seen);
    walk_u64(cursor, &hello->hello.version);
    walk_range(cursor, &hello->hello.holding, CLEAT_SYNC_TORN);
    walk_u32(cursor, &hello->hello.pid);
    walk_u32(cursor, &hello->hello.layout);
}

static void walk_command(struct cursor *cursor,
                         struct cleat_control_command *command)
{
    walk_step(cursor, &command->step);
    walk_u32(cursor, &command->member);
    walk_u32(cursor, &command->attempt);
    walk_u32(cursor, &command->receiver_index);
    walk_u32(cursor, &command->receivers_count);
    walk_u64(cursor, &command->version);
    walk_u64(cursor, &command->timeout_ns);
    walk_ticket(cursor, &command->ticket_bytes_count, command->ticket_bytes);
}

static void walk_answer(struct cursor *cursor,
                        struct cleat_control_answer *answer)
{
    struct cleat_sync_answer *sync = &answer->answer.sync;

    walk_step(cursor, &sync->step);
    walk_u32(cursor, &sync->member);
    walk_status(cursor, &sync->status);
    walk_holding(cursor, &sync->holding);
    walk_u64(cursor, &sync->version);
    walk_u32(cursor, &sync->digest);
    walk_u32(cursor, &answer->answer.served);
    walk_u32(cursor, &answer->answer.torn_served);
    walk_u64(cursor, &answer->answer.lease_end_ns);
    walk_ticket(cursor, &answer->ticket_bytes_count, answer->ticket_bytes);
}

static void walk_stats(struct cursor *cursor, struct cleat_control_stats *stats)
{
    walk_u64(cursor, &stats->version);
    walk_u64(cursor, &stats->lease_end_ns);
    walk_range(cursor, &stats->holding, CLEAT_SYNC_TORN);
    walk_u32(cursor, &stats->served);
    walk_u32(cursor, &stats->torn_served);
}

static void walk_close(struct cursor *cursor, struct cleat_control_close *close)
{
    walk_status(cursor, &close->status);
    walk_u32(cursor, &close->layout);
    if (close->status > CLEAT_OK) { cursor->bad = true; } /* no reason */
}

static void walk_body(struct cursor *cursor, struct cleat_control_frame *frame)
{
    switch (frame->kind) {
    case CLEAT_CONTROL_START:
        walk_u32(cursor, &frame->body.start.member);
        break;
    case CLEAT_CONTROL_HELLO: walk_hello(cursor, &frame->body.hello); break;
    case CLEAT_CONTROL_COMMAND:
        walk_command(cursor, &frame->body.command);
        break;
    case CLEAT_CONTROL_ANSWER: walk_answer(cursor, &frame->body.answer); break;
    case CLEAT_CONTROL_LEASE_ASK:
        walk_u64(cursor, &frame->body.lease.counter);
        break;
    case CLEAT_CONTROL_LEASE_GRANT:
        walk_u64(cursor, &frame->body.lease.counter);
        walk_u64(cursor, &frame->body.lease.lease_ns);
        break;
    case CLEAT_CONTROL_STATS: walk_stats(cursor, &frame->body.stats); break;
    case CLEAT_CONTROL_CLOSE: walk_close(cursor, &frame->body.close); break;
    case CLEAT_CONTROL_KINDS:
    default: cursor->bad = true; break;
    }
}

/* Everything before the digest. The version is told apart so that the caller
 * can say which of the two it was. */
static void walk_header(struct cursor *cursor,
                        struct cleat_control_frame *frame, uint32_t *version,
                        uint32_t *length)
{
    uint32_t magic = MAGIC;
    uint32_t kind_and_version = *version | (uint32_t)frame->kind << 16;

    walk_u32(cursor, &magic);
    walk_u32(cursor, &kind_and_version);
    walk_range(cursor, &frame->fds_count, CLEAT_TRANSPORT_TICKET_FDS);
    walk_u32(cursor, length);
    walk_u64(cursor, &frame->term);
    walk_u64(cursor, &frame->epoch);
    walk_u64(cursor, &frame->sequence);
    *version = kind_and_version & 0xFFFFu;
    frame->kind = (enum cleat_control_kind)(kind_and_version >> 16);
    if (magic != MAGIC) { cursor->bad = true; }
}

static uint32_t digest_of(const uint8_t *bytes, size_t bytes_count)
{
    uint32_t crc = cleat_crc32c(0, bytes, CRC_AT);

    return cleat_crc32c(crc, bytes + CLEAT_CONTROL_HEADER_BYTES,
                        bytes_count - CLEAT_CONTROL_HEADER_BYTES);
}

enum cleat_status cleat_control_encode(const struct cleat_control_frame *frame,
                                       uint8_t *bytes, size_t *bytes_count)
{
    struct cleat_control_frame copy = *frame; /* the walk may not write to it */
    uint32_t version = CLEAT_CONTROL_VERSION;
    struct cursor body = {.write = bytes,
                          .at = CLEAT_CONTROL_HEADER_BYTES,
                          .end = CLEAT_CONTROL_BYTES_MAX};
    struct cursor head = {.write = bytes, .end = CLEAT_CONTROL_HEADER_BYTES};

    walk_body(&body, &copy);
    uint32_t length = (uint32_t)(body.at - CLEAT_CONTROL_HEADER_BYTES);
    walk_header(&head, &copy, &version, &length);
    if (body.bad || head.bad) { return CLEAT_INVALID; }
    uint32_t crc = digest_of(bytes, body.at);
    walk_u32(&head, &crc);
    *bytes_count = body.at;
    return CLEAT_OK;
}

static enum cleat_status decode_into(const uint8_t *bytes, size_t bytes_count,
                                     struct cleat_control_frame *frame)
{
    uint32_t version = 0;
    uint32_t length = 0;
    uint32_t crc = 0;
    struct cursor cursor = {.read = bytes, .end = bytes_count};

    if (bytes_count > CLEAT_CONTROL_BYTES_MAX) { return CLEAT_LIMIT; }
    if (bytes_count < CLEAT_CONTROL_HEADER_BYTES) { return CLEAT_SHORT; }
    struct cursor digest = {.read = bytes, .at = CRC_AT, .end = bytes_count};
    walk_u32(&digest, &crc);
    walk_header(&cursor, frame, &version, &length);
    cursor.at = CLEAT_CONTROL_HEADER_BYTES;
    if (digest_of(bytes, bytes_count) != crc) {
        return length > bytes_count - CLEAT_CONTROL_HEADER_BYTES
                   ? CLEAT_SHORT
                   : CLEAT_CORRUPT;
    }
    if (!cursor.bad && version != CLEAT_CONTROL_VERSION) {
        return CLEAT_UNSUPPORTED;
    }
    if (length != bytes_count - CLEAT_CONTROL_HEADER_BYTES) {
        return CLEAT_MALFORMED;
    }
    if (!cursor.bad) { walk_body(&cursor, frame); }
    return !cursor.bad && cursor.at == bytes_count ? CLEAT_OK : CLEAT_MALFORMED;
}

enum cleat_status cleat_control_decode(const uint8_t *bytes, size_t bytes_count,
                                       struct cleat_control_frame *frame)
{
    memset(frame, 0, sizeof *frame);
    enum cleat_status status = decode_into(bytes, bytes_count, frame);
    if (status != CLEAT_OK) {
        memset(frame, 0, sizeof *frame);
        return status;
    }
    if (frame->kind == CLEAT_CONTROL_ANSWER) {
        frame->body.answer.answer.sync.term = frame->term;
        frame->body.answer.answer.sync.epoch = frame->epoch;
    }
    return CLEAT_OK;
}
