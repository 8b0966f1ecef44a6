/* Cleat: control frames, byte by byte. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "linux_peer.h"

#include <fcntl.h>

/* CRC32C one bit at a time, from the polynomial's definition. */
static uint32_t slow_crc(uint32_t crc, const uint8_t *bytes, size_t count)
{
    crc = ~crc;
    for (size_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0x82F63B78u : 0u);
        }
    }
    return ~crc;
}

/* Puts the right digest on bytes that were changed on purpose. */
static void seal(uint8_t *bytes, size_t count)
{
    uint32_t crc = slow_crc(0, bytes, 40);

    crc = slow_crc(crc, bytes + 44, count - 44);
    for (int i = 0; i < 4; i++) { bytes[40 + i] = (uint8_t)(crc >> (8 * i)); }
}

/* One frame of each kind, every member different from zero. */
static struct cleat_control_frame sample(enum cleat_control_kind kind)
{
    struct cleat_control_frame frame;

    memset(&frame, 0, sizeof frame);
    frame.kind = kind;
    frame.term = UINT64_MAX - 1;
    frame.epoch = 0x0102030405060708u;
    frame.sequence = 9;
    switch (kind) {
    case CLEAT_CONTROL_START: frame.body.start.member = 7; break;
    case CLEAT_CONTROL_HELLO:
        frame.body.hello.start_sequence = 5;
        frame.body.hello.status = CLEAT_TRANSIENT;
        frame.body.hello.member = 3;
        frame.body.hello.hello.term_seen = 11;
        frame.body.hello.hello.version = 12;
        frame.body.hello.hello.holding = CLEAT_SYNC_TORN;
        frame.body.hello.hello.pid = 4711;
        frame.body.hello.hello.layout = 0xCAFEF00Du;
        break;
    case CLEAT_CONTROL_COMMAND:
        frame.fds_count = 2;
        frame.body.command.step = CLEAT_SYNC_GROUP;
        frame.body.command.member = 2;
        frame.body.command.attempt = 3;
        frame.body.command.receiver_index = 1;
        frame.body.command.receivers_count = 4;
        frame.body.command.version = 5;
        frame.body.command.timeout_ns = CLEAT_NEVER;
        frame.body.command.ticket_bytes_count = CLEAT_TRANSPORT_TICKET_BYTES;
        memset(frame.body.command.ticket_bytes, 0xA5,
               CLEAT_TRANSPORT_TICKET_BYTES);
        break;
    case CLEAT_CONTROL_ANSWER:
        frame.fds_count = 1;
        frame.body.answer.answer.sync.step = CLEAT_SYNC_RESUME;
        frame.body.answer.answer.sync.member = 6;
        frame.body.answer.answer.sync.term = frame.term;
        frame.body.answer.answer.sync.epoch = frame.epoch;
        frame.body.answer.answer.sync.status = CLEAT_RESTART;
        frame.body.answer.answer.sync.holding = CLEAT_SYNC_WHOLE;
        frame.body.answer.answer.sync.version = 8;
        frame.body.answer.answer.sync.digest = 0xDEADBEEFu;
        frame.body.answer.answer.served = UINT32_MAX;
        frame.body.answer.answer.torn_served = 1;
        frame.body.answer.answer.lease_end_ns = 13;
        frame.body.answer.ticket_bytes_count = 3;
        memcpy(frame.body.answer.ticket_bytes, "abc", 3);
        break;
    case CLEAT_CONTROL_LEASE_ASK: frame.body.lease.counter = 21; break;
    case CLEAT_CONTROL_LEASE_GRANT:
        frame.body.lease.counter = 21;
        frame.body.lease.lease_ns = 22;
        break;
    case CLEAT_CONTROL_STATS:
        frame.body.stats.version = 1;
        frame.body.stats.lease_end_ns = 2;
        frame.body.stats.holding = CLEAT_SYNC_WHOLE;
        frame.body.stats.served = 3;
        frame.body.stats.torn_served = 4;
        break;
    case CLEAT_CONTROL_CLOSE:
        frame.body.close.status = CLEAT_PEER_DEVIANT;
        frame.body.close.layout = 0xFEEDBEEFu;
        break;
    case CLEAT_CONTROL_KINDS: break;
    }
    return frame;
}

static size_t encoded(enum cleat_control_kind kind, uint8_t *bytes)
{
    struct cleat_control_frame frame = sample(kind);
    size_t count = 0;

    assert_int_equal(cleat_control_encode(&frame, bytes, &count), CLEAT_OK);
    assert_true(count <= CLEAT_CONTROL_BYTES_MAX);
    return count;
}

static void a_frame_has_the_bytes_that_the_layout_says(void **state)
{
    /* Written down from the table in control.h. */
    uint8_t wanted[60] = {
        'C',  'L',  'T',  'c',  2,    0,    6,    0,    /* magic version kind */
        0,    0,    0,    0,    16,   0,    0,    0,    /* flags length */
        0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, /* term */
        8,    7,    6,    5,    4,    3,    2,    1,    /* epoch */
        9,    0,    0,    0,    0,    0,    0,    0,    /* sequence */
        0,    0,    0,    0,                            /* digest, below */
        21,   0,    0,    0,    0,    0,    0,    0,    /* counter */
        22,   0,    0,    0,    0,    0,    0,    0};   /* lease */
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];

    (void)state;
    seal(wanted, sizeof wanted);
    assert_int_equal(encoded(CLEAT_CONTROL_LEASE_GRANT, bytes), sizeof wanted);
    assert_memory_equal(bytes, wanted, sizeof wanted);
}

static void every_kind_is_read_as_it_was_written(void **state)
{
    (void)state;
    for (uint32_t kind = 1; kind < CLEAT_CONTROL_KINDS; kind++) {
        struct cleat_control_frame in = sample((enum cleat_control_kind)kind);
        struct cleat_control_frame out;
        uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
        uint8_t again[CLEAT_CONTROL_BYTES_MAX];
        size_t count = encoded((enum cleat_control_kind)kind, bytes);
        size_t count_again = 0;

        memset(&out, 0xEE, sizeof out);
        assert_int_equal(cleat_control_decode(bytes, count, &out), CLEAT_OK);
        assert_memory_equal(&out, &in, sizeof in);
        assert_int_equal(cleat_control_encode(&out, again, &count_again),
                         CLEAT_OK);
        assert_int_equal(count_again, count);
        assert_memory_equal(again, bytes, count);
    }
}

static void assert_refused(const uint8_t *bytes, size_t count)
{
    struct cleat_control_frame frame;
    struct cleat_control_frame nothing;

    memset(&nothing, 0, sizeof nothing);
    memset(&frame, 0xEE, sizeof frame);
    assert_int_not_equal(cleat_control_decode(bytes, count, &frame), CLEAT_OK);
    assert_memory_equal(&frame, &nothing, sizeof frame);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    for (uint32_t kind = 1; kind < CLEAT_CONTROL_KINDS; kind++) {
        uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
        size_t count = encoded((enum cleat_control_kind)kind, bytes);

        for (size_t cut = 0; cut < count; cut++) {
            /* An exact copy, so that a read past its end is seen. */
            uint8_t *exact = malloc(cut == 0 ? 1 : cut);
            assert_non_null(exact);
            memcpy(exact, bytes, cut);
            assert_refused(exact, cut);
            /* Also when the digest is right for what is left. */
            if (cut >= 44) {
                seal(exact, cut);
                assert_refused(exact, cut);
            }
            free(exact);
        }
    }
}

static void every_flipped_bit_is_refused(void **state)
{
    (void)state;
    for (uint32_t kind = 1; kind < CLEAT_CONTROL_KINDS; kind++) {
        uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
        size_t count = encoded((enum cleat_control_kind)kind, bytes);

        for (size_t bit = 0; bit < 8 * count; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_refused(bytes, count);
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
}

static void bytes_left_over_are_refused(void **state)
{
    (void)state;
    for (uint32_t kind = 1; kind < CLEAT_CONTROL_KINDS; kind++) {
        uint8_t bytes[CLEAT_CONTROL_BYTES_MAX + 8];
        size_t count = encoded((enum cleat_control_kind)kind, bytes);

        bytes[count] = 0;
        assert_refused(bytes, count + 1);
        seal(bytes, count + 1);
        assert_refused(bytes, count + 1);
        /* and when the length says so too */
        size_t length = count + 1 - 44;
        bytes[12] = (uint8_t)length;
        bytes[13] = (uint8_t)(length >> 8);
        seal(bytes, count + 1);
        assert_refused(bytes, count + 1);
    }
}

static void a_frame_above_one_kibibyte_is_a_limit(void **state)
{
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX + 1];
    struct cleat_control_frame frame;

    (void)state;
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(cleat_control_decode(bytes, sizeof bytes, &frame),
                     CLEAT_LIMIT);
}

/* Sets 32 bits at `at` of a sample, with the right digest, and decodes. */
static enum cleat_status with_u32(enum cleat_control_kind kind, size_t at,
                                  uint32_t value)
{
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
    struct cleat_control_frame frame;
    size_t count = encoded(kind, bytes);

    for (int i = 0; i < 4; i++) {
        bytes[at + (size_t)i] = (uint8_t)(value >> (8 * i));
    }
    seal(bytes, count);
    return cleat_control_decode(bytes, count, &frame);
}

static void a_value_out_of_range_is_malformed(void **state)
{
    (void)state;
    /* magic; version; kind 0 and one too many */
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 0, 1), CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 4, 1 | 8u << 16),
                     CLEAT_UNSUPPORTED);
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 4, 3 | 8u << 16),
                     CLEAT_UNSUPPORTED);
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 4, 2), CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 4, 2 | 9u << 16),
                     CLEAT_MALFORMED);
    /* flags: three descriptors, or a bit that means nothing */
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 8, 3), CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 8, 4), CLEAT_MALFORMED);
    /* length */
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 12, 1), CLEAT_MALFORMED);
    /* hello: a status that is none; a holding that is none */
    assert_int_equal(with_u32(CLEAT_CONTROL_HELLO, 44 + 8, 2), CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_HELLO, 44 + 32, 3),
                     CLEAT_MALFORMED);
    /* close: a status that is none, and one that is no reason to go */
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 44, 2), CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 44, CLEAT_PENDING),
                     CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_CLOSE, 44, CLEAT_OK), CLEAT_OK);
    /* command: step; ticket longer than can be */
    assert_int_equal(with_u32(CLEAT_CONTROL_COMMAND, 44, CLEAT_SYNC_STEPS),
                     CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_COMMAND, 44 + 36, 193),
                     CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_COMMAND, 44 + 36, 191),
                     CLEAT_MALFORMED);
    /* answer: step, status, holding, ticket */
    assert_int_equal(with_u32(CLEAT_CONTROL_ANSWER, 44, CLEAT_SYNC_STEPS),
                     CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_ANSWER, 44 + 8, (uint32_t)-101),
                     CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_ANSWER, 44 + 12, 3),
                     CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_ANSWER, 44 + 44, 4),
                     CLEAT_MALFORMED);
    assert_int_equal(with_u32(CLEAT_CONTROL_STATS, 44 + 16, 3),
                     CLEAT_MALFORMED);
}

static void what_cannot_be_read_cannot_be_written(void **state)
{
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
    size_t count = 77;
    struct cleat_control_frame frame = sample(CLEAT_CONTROL_COMMAND);

    (void)state;
    frame.body.command.ticket_bytes_count = CLEAT_TRANSPORT_TICKET_BYTES + 1;
    assert_int_equal(cleat_control_encode(&frame, bytes, &count),
                     CLEAT_INVALID);
    frame = sample(CLEAT_CONTROL_COMMAND);
    frame.fds_count = 3;
    assert_int_equal(cleat_control_encode(&frame, bytes, &count),
                     CLEAT_INVALID);
    frame = sample(CLEAT_CONTROL_CLOSE);
    frame.kind = CLEAT_CONTROL_KINDS;
    assert_int_equal(cleat_control_encode(&frame, bytes, &count),
                     CLEAT_INVALID);
    assert_int_equal(count, 77);
}

/* ---- over a socket ------------------------------------------------------- */

static void descriptors_travel_and_close_on_exec(void **state)
{
    int pair[2];
    int fds[2] = {-1, -1};
    struct cleat_control_frame frame = sample(CLEAT_CONTROL_COMMAND);

    (void)state;
    int before = peer_count_fds();
    peer_pair(pair);
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(cleat_channel_send(pair[0], &frame, fds), CLEAT_OK);
    struct cleat_channel_packet packet = peer_expect(pair[1],
                                                     CLEAT_CONTROL_COMMAND);
    assert_memory_equal(&packet.frame, &frame, sizeof frame);
    assert_int_equal(write(packet.fds[1], "x", 1), 1);
    char byte = 0;
    assert_int_equal(read(fds[0], &byte, 1), 1);
    assert_int_equal(byte, 'x');
    assert_int_equal(fcntl(packet.fds[0], F_GETFD), FD_CLOEXEC);
    assert_int_equal(fcntl(packet.fds[1], F_GETFD), FD_CLOEXEC);
    cleat_channel_packet_close(&packet);
    for (int i = 0; i < 2; i++) {
        (void)close(pair[i]);
        (void)close(fds[i]);
    }
    assert_int_equal(peer_count_fds(), before);
}

static void descriptors_of_a_bad_frame_are_closed(void **state)
{
    int pair[2];
    int fds[2] = {-1, -1};
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
    struct cleat_channel_packet packet;

    (void)state;
    peer_pair(pair);
    assert_int_equal(pipe(fds), 0);
    int before = peer_count_fds();
    size_t count = encoded(CLEAT_CONTROL_COMMAND, bytes);
    /* a flipped bit */
    bytes[count - 1] ^= 1;
    assert_int_equal(cleat_channel_send_bytes(pair[0], bytes, count, fds, 2),
                     CLEAT_OK);
    assert_int_equal(cleat_channel_receive(pair[1], &packet), CLEAT_CORRUPT);
    bytes[count - 1] ^= 1;
    /* fewer descriptors than it says, and more */
    assert_int_equal(cleat_channel_send_bytes(pair[0], bytes, count, fds, 1),
                     CLEAT_OK);
    assert_int_equal(cleat_channel_receive(pair[1], &packet), CLEAT_MALFORMED);
    count = encoded(CLEAT_CONTROL_CLOSE, bytes);
    assert_int_equal(cleat_channel_send_bytes(pair[0], bytes, count, fds, 2),
                     CLEAT_OK);
    assert_int_equal(cleat_channel_receive(pair[1], &packet), CLEAT_MALFORMED);
    /* the channel lives on */
    assert_int_equal(cleat_channel_send_bytes(pair[0], bytes, count, NULL, 0),
                     CLEAT_OK);
    assert_int_equal(cleat_channel_receive(pair[1], &packet), CLEAT_OK);
    assert_int_equal(peer_count_fds(), before);
    for (int i = 0; i < 2; i++) {
        (void)close(pair[i]);
        (void)close(fds[i]);
    }
}

static void a_packet_that_is_too_long_costs_that_packet(void **state)
{
    int pair[2];
    uint8_t bytes[4096];
    struct cleat_channel_packet packet;

    (void)state;
    peer_pair(pair);
    memset(bytes, 0x43, sizeof bytes);
    assert_int_equal(send(pair[0], bytes, sizeof bytes, 0), sizeof bytes);
    struct cleat_control_frame frame = sample(CLEAT_CONTROL_CLOSE);
    peer_send(pair[0], &frame);
    assert_int_equal(cleat_channel_receive(pair[1], &packet), CLEAT_MALFORMED);
    assert_int_equal(cleat_channel_receive(pair[1], &packet), CLEAT_OK);
    assert_int_equal(cleat_channel_receive(pair[1], &packet), CLEAT_PENDING);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void the_last_words_of_one_who_did_not_listen_are_heard(void **state)
{
    int pair[2];
    struct cleat_channel_packet packet;
    struct cleat_control_frame frame = sample(CLEAT_CONTROL_STATS);

    (void)state;
    peer_pair(pair);
    peer_send(pair[1], &frame); /* never read: its close is a reset */
    peer_send(pair[0], &frame);
    (void)close(pair[0]);
    assert_int_equal(cleat_channel_receive(pair[1], &packet), CLEAT_OK);
    assert_int_equal(cleat_channel_receive(pair[1], &packet), CLEAT_PEER_LOST);
    assert_int_equal(cleat_channel_send(pair[1], &frame, NULL),
                     CLEAT_PEER_LOST);
    (void)close(pair[1]);
}

static void a_full_channel_takes_nothing_and_says_so(void **state)
{
    int pair[2];
    struct cleat_channel_packet packet;
    struct cleat_control_frame frame = sample(CLEAT_CONTROL_STATS);
    uint64_t sent = 0;
    uint64_t received = 0;

    (void)state;
    peer_pair(pair);
    while (cleat_channel_send(pair[0], &frame, NULL) == CLEAT_OK) {
        frame.sequence = ++sent + 1;
        assert_true(sent < 1000000);
    }
    assert_int_equal(cleat_channel_send(pair[0], &frame, NULL), CLEAT_NO_SLOT);
    while (cleat_channel_receive(pair[1], &packet) == CLEAT_OK) { received++; }
    assert_int_equal(received, sent);
    assert_int_equal(cleat_channel_send(pair[0], &frame, NULL), CLEAT_OK);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_has_the_bytes_that_the_layout_says),
        cmocka_unit_test(every_kind_is_read_as_it_was_written),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(bytes_left_over_are_refused),
        cmocka_unit_test(a_frame_above_one_kibibyte_is_a_limit),
        cmocka_unit_test(a_value_out_of_range_is_malformed),
        cmocka_unit_test(what_cannot_be_read_cannot_be_written),
        cmocka_unit_test(descriptors_travel_and_close_on_exec),
        cmocka_unit_test(descriptors_of_a_bad_frame_are_closed),
        cmocka_unit_test(a_packet_that_is_too_long_costs_that_packet),
        cmocka_unit_test(the_last_words_of_one_who_did_not_listen_are_heard),
        cmocka_unit_test(a_full_channel_takes_nothing_and_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
