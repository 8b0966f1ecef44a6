/* Cleat: the shared-memory transport. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleat/memory.h"

#define BUCKET_BYTES 8192u
#define SLOTS 2u

struct pair {
    _Alignas(64) unsigned char sender_block[CLEAT_MEMORY_SENDER_BYTES];
    _Alignas(64) unsigned char receiver_block[CLEAT_MEMORY_RECEIVER_BYTES];
    struct cleat_transport_sender sender;
    struct cleat_transport_receiver receiver;
    struct cleat_transport_ticket ticket;
};
static struct pair pair;

static int open_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;

    assert_non_null(directory);
    while (readdir(directory) != NULL) { count++; }
    closedir(directory);
    return count;
}

static void sender_open(struct pair *p)
{
    struct cleat_memory_sender_config config;
    struct cleat_error error;

    memset(&config, 0, sizeof config);
    config.bucket_bytes = BUCKET_BYTES;
    config.slots_count = SLOTS;
    config.receivers_max = 4;
    /* Huge ones round the file up, and a wrong ticket could still fit. */
    config.pages = CLEAT_MEMORY_PAGES_SMALL;
    assert_int_equal(cleat_memory_sender_open(p->sender_block,
                                              sizeof p->sender_block, &config,
                                              &p->sender, &error),
                     CLEAT_OK);
}

static void receiver_open(struct pair *p, uint64_t segment_bytes_max)
{
    struct cleat_memory_receiver_config config;

    memset(&config, 0, sizeof config);
    config.segment_bytes_max = segment_bytes_max;
    assert_int_equal(cleat_memory_receiver_open(p->receiver_block,
                                                sizeof p->receiver_block,
                                                &config, &p->receiver, NULL),
                     CLEAT_OK);
}

static int setup(void **state)
{
    (void)state;
    memset(&pair, 0, sizeof pair);
    sender_open(&pair);
    receiver_open(&pair, 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cleat_memory_sender_close(&pair.sender);
    cleat_memory_receiver_close(&pair.receiver);
    return 0;
}

/* As a control channel passes it: the descriptors are copies. */
static struct cleat_transport_ticket
passed(const struct cleat_transport_ticket *ticket)
{
    struct cleat_transport_ticket copy = *ticket;

    for (uint32_t i = 0; i < copy.fds_count; i++) {
        copy.fds[i] = dup(ticket->fds[i]);
        assert_true(copy.fds[i] >= 0);
    }
    return copy;
}

static void prepare(struct pair *p, uint64_t generation)
{
    assert_int_equal(
        p->sender.prepare(p->sender.context, generation, 4, &p->ticket),
        CLEAT_OK);
}

static enum cleat_status join_with(struct pair *p,
                                   const struct cleat_transport_ticket *ticket,
                                   uint32_t index)
{
    struct cleat_transport_ticket copy = passed(ticket);
    enum cleat_status status = p->receiver.join(p->receiver.context, &copy,
                                                index, CLEAT_NEVER);

    assert_int_equal(copy.fds[0], -1);
    assert_int_equal(copy.fds[1], -1);
    return status;
}

static void publish(struct pair *p, uint32_t bucket, const char *text)
{
    void *data;
    uint64_t bytes_max;

    assert_int_equal(
        p->sender.slot(p->sender.context, bucket % SLOTS, &data, &bytes_max),
        CLEAT_OK);
    assert_int_equal(bytes_max, BUCKET_BYTES);
    assert_int_equal((uintptr_t)data % 64, 0);
    memcpy(data, text, strlen(text) + 1);
    assert_int_equal(p->sender.publish(p->sender.context, bucket % SLOTS,
                                       bucket, strlen(text) + 1, bucket + 77),
                     CLEAT_OK);
}

static const void *expect_bucket(struct pair *p, uint32_t bucket,
                                 const char *text)
{
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t crc = 0;

    assert_int_equal(p->receiver.wait(p->receiver.context, bucket, CLEAT_NEVER,
                                      &data, &bytes, &crc),
                     CLEAT_OK);
    assert_int_equal(bytes, strlen(text) + 1);
    assert_memory_equal(data, text, bytes);
    assert_int_equal(crc, bucket + 77);
    return data;
}

static enum cleat_status wait_until(struct pair *p, uint32_t bucket,
                                    uint64_t deadline_ns)
{
    const void *data;
    uint64_t bytes;
    uint32_t crc;

    return p->receiver.wait(p->receiver.context, bucket, deadline_ns, &data,
                            &bytes, &crc);
}

static void expect_acked(struct pair *p, uint32_t receiver, uint32_t count,
                         enum cleat_status status)
{
    uint32_t buckets_acked = 99;
    enum cleat_status said = CLEAT_PENDING;

    assert_int_equal(
        p->sender.acked(p->sender.context, receiver, &buckets_acked, &said),
        status == CLEAT_PEER_DEVIANT ? CLEAT_PEER_DEVIANT : CLEAT_OK);
    assert_int_equal(buckets_acked, count);
    assert_int_equal(said, status);
}

static void a_bucket_ahead_of_the_next_can_be_looked_at(void **state)
{
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t crc = 0;

    (void)state;
    prepare(&pair, 1);
    assert_int_equal(
        cleat_memory_receiver_peek(&pair.receiver, 0, &data, &bytes, &crc),
        CLEAT_STATE);
    assert_int_equal(join_with(&pair, &pair.ticket, 2), CLEAT_OK);
    publish(&pair, 0, "zero");
    publish(&pair, 1, "one");
    assert_int_equal(
        cleat_memory_receiver_peek(&pair.receiver, 1, &data, &bytes, &crc),
        CLEAT_OK);
    assert_string_equal(data, "one");
    assert_int_equal(bytes, 4);
    assert_int_equal(crc, 78);
    assert_int_equal(
        cleat_memory_receiver_peek(&pair.receiver, 2, &data, NULL, NULL),
        CLEAT_PENDING);
    (void)expect_bucket(&pair, 0, "zero"); /* it is still the next */
    pair.sender.finish(pair.sender.context);
    assert_int_equal(
        cleat_memory_receiver_peek(&pair.receiver, 1, &data, NULL, NULL),
        CLEAT_GROUP_FAILED);
    prepare(&pair, 2);
    assert_int_equal(
        cleat_memory_receiver_peek(&pair.receiver, 1, &data, NULL, NULL),
        CLEAT_PEER_STALE);
}

static void buckets_travel_and_acknowledgements_come_back(void **state)
{
    (void)state;
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 2), CLEAT_OK);
    expect_acked(&pair, 2, 0, CLEAT_OK);
    publish(&pair, 0, "zero");
    publish(&pair, 1, "one");
    (void)expect_bucket(&pair, 0, "zero");
    assert_int_equal(pair.receiver.ack(pair.receiver.context, 0, CLEAT_OK),
                     CLEAT_OK);
    expect_acked(&pair, 2, 1, CLEAT_OK);
    expect_acked(&pair, 1, 0, CLEAT_OK);
    (void)expect_bucket(&pair, 1, "one");
    assert_int_equal(pair.receiver.ack(pair.receiver.context, 1, CLEAT_OK),
                     CLEAT_OK);
    publish(&pair, 2, "two");
    (void)expect_bucket(&pair, 2, "two");
    assert_int_equal(pair.receiver.ack(pair.receiver.context, 2, CLEAT_CORRUPT),
                     CLEAT_OK);
    expect_acked(&pair, 2, 0, CLEAT_CORRUPT);
    assert_int_equal(wait_until(&pair, 3, 0), CLEAT_STATE);
}

/* Neither the descriptors that are passed, nor what can be opened through
 * them, can change the data. */
static void a_receiver_cannot_write_to_the_data(void **state)
{
    char path[64];
    const void *data;
    int fd;

    (void)state;
    prepare(&pair, 1);
    fd = pair.ticket.fds[0];
    assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) ==
                MAP_FAILED);
    assert_int_equal(pwrite(fd, "x", 1, 4096), -1);
    assert_int_equal(ftruncate(fd, 0), -1);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fd = open(path, O_RDWR);
    if (fd >= 0) {
        assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                         0) == MAP_FAILED);
        assert_int_equal(pwrite(fd, "x", 1, 4096), -1);
        close(fd);
    }
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "data");
    data = expect_bucket(&pair, 0, "data");
    assert_int_equal(mprotect((void *)((uintptr_t)data & ~(uintptr_t)4095),
                              4096, PROT_READ | PROT_WRITE),
                     -1);
}

static void a_wait_ends_at_its_deadline_or_by_a_wake(void **state)
{
    (void)state;
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    assert_int_equal(wait_until(&pair, 0, 1), CLEAT_DEADLINE);
    assert_int_equal(pair.sender.wait(pair.sender.context, 1), CLEAT_DEADLINE);
    pair.receiver.wake(pair.receiver.context);
    assert_int_equal(wait_until(&pair, 0, CLEAT_NEVER), CLEAT_PENDING);
    assert_int_equal(wait_until(&pair, 0, 1), CLEAT_DEADLINE);
    pair.sender.wake(pair.sender.context);
    assert_int_equal(pair.sender.wait(pair.sender.context, 1), CLEAT_OK);
    assert_int_equal(pair.sender.wait(pair.sender.context, 1), CLEAT_DEADLINE);
    /* A change before the wait is not missed. */
    publish(&pair, 0, "zero");
    (void)expect_bucket(&pair, 0, "zero");
    assert_int_equal(pair.receiver.ack(pair.receiver.context, 0, CLEAT_OK),
                     CLEAT_OK);
    assert_int_equal(pair.sender.wait(pair.sender.context, 1), CLEAT_OK);
    assert_int_equal(pair.sender.wait(pair.sender.context, 1), CLEAT_DEADLINE);
}

static void *wait_for_wake(void *context)
{
    struct pair *p = context;

    return wait_until(p, 0, CLEAT_NEVER) == CLEAT_PENDING ? context : NULL;
}

static void another_thread_wakes_a_waiter(void **state)
{
    pthread_t thread;
    void *result;

    (void)state;
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_wake, &pair), 0);
    pair.receiver.wake(pair.receiver.context);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_non_null(result);
}

/* Until receiver 0 has acknowledged a bucket. */
static void *wait_for_acks(void *context)
{
    struct pair *p = context;
    enum cleat_status said;
    uint32_t count = 0;

    while (count == 0) {
        if (p->sender.wait(p->sender.context, CLEAT_NEVER) != CLEAT_OK ||
            p->sender.acked(p->sender.context, 0, &count, &said) != CLEAT_OK) {
            return NULL;
        }
    }
    return context;
}

/* The acknowledgement is written, and its process is gone: before it could ring
 * the bell; or, `rung`, when the sleeper's bit was cleared, and before the
 * system call that wakes it. */
static void acknowledge_and_die(bool rung)
{
    unsigned char *acks;
    _Atomic uint32_t *bell;
    _Atomic uint64_t *word;
    pthread_t thread;
    void *result;

    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "zero");
    acks = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
                pair.ticket.fds[1], 0);
    assert_true((void *)acks != MAP_FAILED);
    bell = (_Atomic uint32_t *)(void *)acks;
    word = (_Atomic uint64_t *)(void *)(acks + 2 * 64);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_acks, &pair), 0);
    while ((atomic_load(bell) & 1u) == 0) { (void)sched_yield(); }
    (void)atomic_fetch_add(word, 1);
    if (rung) {
        (void)atomic_fetch_add(bell, 2);
        (void)atomic_fetch_and(bell, ~UINT32_C(1));
    }
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_non_null(result);
    expect_acked(&pair, 0, 1, CLEAT_OK);
    munmap(acks, 4096);
}

static void
an_acknowledgement_is_seen_though_its_process_dies_before_it_wakes(void **state)
{
    (void)state;
    acknowledge_and_die(true);
}

static void
an_acknowledgement_is_seen_though_its_process_dies_before_it_rings(void **state)
{
    (void)state;
    acknowledge_and_die(false);
}

/* A receiver was stopped after it had looked at the generation and before it
 * wrote: what it finds then is the word of another. */
static void an_acknowledgement_does_not_write_over_another_word(void **state)
{
    volatile uint64_t *words;
    uint64_t other;

    (void)state;
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "zero");
    (void)expect_bucket(&pair, 0, "zero");
    words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
                 pair.ticket.fds[1], 0);
    assert_true((void *)(uintptr_t)words != MAP_FAILED);
    other = words[2 * 8] + (UINT64_C(1) << 32) + 5;
    words[2 * 8] = other;
    assert_int_equal(pair.receiver.ack(pair.receiver.context, 0, CLEAT_OK),
                     CLEAT_PEER_STALE);
    assert_true(words[2 * 8] == other);
    munmap((void *)(uintptr_t)words, 4096);
}

/* ---- an index is one receiver's ---- */

static struct pair other_end; /* its receiver is another of the same group */

static void who_comes_second_with_an_index_is_refused(void **state)
{
    (void)state;
    receiver_open(&other_end, 0);
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 2), CLEAT_OK);
    assert_int_equal(join_with(&other_end, &pair.ticket, 2), CLEAT_INVALID);
    publish(&pair, 0, "to the first");
    assert_int_equal(pair.receiver.ack(pair.receiver.context, 0, CLEAT_OK),
                     CLEAT_OK);
    assert_int_equal(
        other_end.receiver.ack(other_end.receiver.context, 0, CLEAT_IO),
        CLEAT_STATE);
    /* What the first has said stands, whoever asks for its place. */
    assert_int_equal(join_with(&other_end, &pair.ticket, 2), CLEAT_INVALID);
    expect_acked(&pair, 2, 1, CLEAT_OK);
    assert_int_equal(pair.receiver.ack(pair.receiver.context, 1, CLEAT_IO),
                     CLEAT_OK);
    assert_int_equal(join_with(&other_end, &pair.ticket, 2), CLEAT_INVALID);
    assert_int_equal(join_with(&pair, &pair.ticket, 2), CLEAT_INVALID);
    expect_acked(&pair, 2, 0, CLEAT_IO);
    assert_int_equal(join_with(&other_end, &pair.ticket, 3), CLEAT_OK);
    /* A later generation is claimed afresh, by whoever is there. */
    prepare(&pair, 2);
    assert_int_equal(join_with(&other_end, &pair.ticket, 2), CLEAT_OK);
    assert_int_equal(join_with(&pair, &pair.ticket, 2), CLEAT_INVALID);
    expect_acked(&pair, 2, 0, CLEAT_OK);
    cleat_memory_receiver_close(&other_end.receiver);
}

static void *claims(void *context)
{
    struct pair *p = context;

    return join_with(p, &pair.ticket, 1) == CLEAT_OK ? p : NULL;
}

static void of_two_that_claim_an_index_at_once_one_gets_it(void **state)
{
    (void)state;
    receiver_open(&other_end, 0);
    for (uint64_t generation = 1; generation <= 200; generation++) {
        pthread_t thread;
        void *mine;
        void *its;

        prepare(&pair, generation);
        assert_int_equal(pthread_create(&thread, NULL, claims, &other_end), 0);
        mine = claims(&pair);
        assert_int_equal(pthread_join(thread, &its), 0);
        assert_true((mine != NULL) != (its != NULL));
    }
    cleat_memory_receiver_close(&other_end.receiver);
}

static void what_is_acknowledged_late_can_be_read_until_the_next(void **state)
{
    enum cleat_status said = CLEAT_PENDING;
    uint32_t acked = 7;

    (void)state;
    assert_int_equal(cleat_memory_sender_acked(&pair.sender, 0, &acked, &said),
                     CLEAT_INVALID);
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "text");
    assert_int_equal(pair.receiver.ack(pair.receiver.context, 0, CLEAT_OK),
                     CLEAT_OK);
    pair.sender.finish(pair.sender.context);
    assert_int_equal(pair.sender.acked(pair.sender.context, 0, &acked, &said),
                     CLEAT_STATE);
    assert_int_equal(cleat_memory_sender_acked(&pair.sender, 0, &acked, &said),
                     CLEAT_OK);
    assert_int_equal(acked, 1);
    assert_int_equal(said, CLEAT_OK);
    assert_int_equal(
        pair.receiver.ack(pair.receiver.context, 1, CLEAT_CANCELLED), CLEAT_OK);
    assert_int_equal(cleat_memory_sender_acked(&pair.sender, 0, &acked, &said),
                     CLEAT_OK);
    assert_int_equal(said, CLEAT_CANCELLED);
    prepare(&pair, 2);
    assert_int_equal(cleat_memory_sender_acked(&pair.sender, 0, &acked, &said),
                     CLEAT_OK);
    assert_int_equal(said, CLEAT_OK);
}

static void a_receiver_that_waits_is_told_that_the_sender_finished(void **state)
{
    (void)state;
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    pair.sender.finish(pair.sender.context);
    pair.sender.finish(pair.sender.context);
    assert_int_equal(wait_until(&pair, 0, CLEAT_NEVER), CLEAT_GROUP_FAILED);
}

static void an_older_generation_has_no_effect(void **state)
{
    struct cleat_transport_ticket first;

    (void)state;
    prepare(&pair, 1);
    first = pair.ticket;
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "zero");
    (void)expect_bucket(&pair, 0, "zero");
    prepare(&pair, 2);
    assert_int_equal(pair.receiver.ack(pair.receiver.context, 0, CLEAT_OK),
                     CLEAT_PEER_STALE);
    assert_int_equal(wait_until(&pair, 0, CLEAT_NEVER), CLEAT_PEER_STALE);
    expect_acked(&pair, 0, 0, CLEAT_OK);
    assert_int_equal(join_with(&pair, &first, 0), CLEAT_PEER_STALE);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "again");
    (void)expect_bucket(&pair, 0, "again");
    assert_int_equal(
        pair.sender.prepare(pair.sender.context, 2, 4, &pair.ticket),
        CLEAT_INVALID);
}

/* What any process that has the descriptor could write there. */
static void a_word_that_cannot_be_is_not_believed(void **state)
{
    volatile uint64_t *words;
    uint64_t tag;

    (void)state;
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
                 pair.ticket.fds[1], 0);
    assert_true((void *)(uintptr_t)words != MAP_FAILED);
    tag = words[2 * 8] >> 32 << 32;
    publish(&pair, 0, "zero");
    words[2 * 8] = tag | 2;
    expect_acked(&pair, 0, 0, CLEAT_PEER_DEVIANT);
    words[2 * 8] = tag | 0xFFFFFF00u;
    expect_acked(&pair, 0, 0, CLEAT_PEER_DEVIANT);
    words[2 * 8] = tag | (0xFFFFFF00u + 200u); /* no status has this number */
    expect_acked(&pair, 0, 0, CLEAT_PEER_DEVIANT);
    words[2 * 8] = (tag + (UINT64_C(1) << 32)) | 1;
    expect_acked(&pair, 0, 0, CLEAT_OK);
    words[2 * 8] = tag | 1;
    expect_acked(&pair, 0, 1, CLEAT_OK);
    munmap((void *)(uintptr_t)words, 4096);
}

static void a_damaged_frame_is_found(void **state)
{
    void *data;
    uint64_t bytes_max;

    (void)state;
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "zero");
    (void)pair.sender.slot(pair.sender.context, 0, &data, &bytes_max);
    for (uint32_t i = 0; i < 32; i++) { /* the whole header */
        unsigned char *byte = (unsigned char *)data - 256 + i;

        *byte ^= 1;
        assert_int_equal(wait_until(&pair, 0, CLEAT_NEVER), CLEAT_CORRUPT);
        *byte ^= 1;
    }
    (void)expect_bucket(&pair, 0, "zero");
}

static enum cleat_status join_altered(size_t at, uint32_t value)
{
    struct cleat_transport_ticket ticket = pair.ticket;

    memcpy(ticket.bytes + at, &value, sizeof value);
    return join_with(&pair, &ticket, 0);
}

/* A ticket is magic, version, generation (8), bucket bytes (8), tag, slots,
 * receivers, receivers at most: no number in it is believed beyond what the
 * files bear out. */
static void a_ticket_is_checked_against_the_files(void **state)
{
    static const uint32_t sizes[] = {0, 16384, 0x7FFFFFFF, UINT32_MAX};
    int before;

    (void)state;
    prepare(&pair, 1);
    before = open_descriptors();
    assert_int_equal(join_altered(0, 1), CLEAT_MALFORMED);
    assert_int_equal(join_altered(4, 2), CLEAT_MALFORMED);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_int_equal(join_altered(16, sizes[i]), CLEAT_MALFORMED);
    }
    assert_int_equal(join_altered(20, 1), CLEAT_MALFORMED);
    assert_int_equal(join_altered(24, 0), CLEAT_MALFORMED);
    assert_int_equal(join_altered(24, 9), CLEAT_PEER_STALE);
    assert_int_equal(join_altered(28, 0), CLEAT_MALFORMED);
    assert_int_equal(join_altered(28, SLOTS + 1), CLEAT_MALFORMED);
    assert_int_equal(join_altered(28, UINT32_MAX), CLEAT_MALFORMED);
    assert_int_equal(join_altered(32, 0), CLEAT_MALFORMED);
    assert_int_equal(join_altered(32, 5), CLEAT_MALFORMED);
    assert_int_equal(join_altered(36, 1025), CLEAT_MALFORMED);
    assert_int_equal(join_altered(36, 200), CLEAT_MALFORMED);
    assert_int_equal(join_with(&pair, &pair.ticket, 4), CLEAT_INVALID);
    pair.ticket.bytes_count--;
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_MALFORMED);
    pair.ticket.bytes_count++;
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    assert_int_equal(open_descriptors(), before);
}

static void expect_malformed_fds(int first, int second, uint32_t count)
{
    struct cleat_transport_ticket ticket = pair.ticket;

    ticket.fds[0] = first;
    ticket.fds[1] = second;
    ticket.fds_count = count;
    assert_int_equal(
        pair.receiver.join(pair.receiver.context, &ticket, 0, CLEAT_NEVER),
        CLEAT_MALFORMED);
}

/* A file that its owner could make shorter would be a trap. */
static void
only_sealed_memory_is_mapped_and_descriptors_close_once(void **state)
{
    int before = open_descriptors();
    int unsealed;

    (void)state;
    prepare(&pair, 1);
    expect_malformed_fds(open("/dev/zero", O_RDWR), open("/dev/zero", O_RDWR),
                         2);
    unsealed = memfd_create("unsealed", MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(unsealed, 1 << 20), 0);
    expect_malformed_fds(unsealed, dup(pair.ticket.fds[1]), 2);
    expect_malformed_fds(dup(pair.ticket.fds[1]), dup(pair.ticket.fds[0]), 2);
    expect_malformed_fds(dup(pair.ticket.fds[0]), -1, 1);
    expect_malformed_fds(-1, -1, 0);
    assert_int_equal(open_descriptors(), before);
}

static int mappings_of_memfds(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    int count = 0;

    assert_non_null(maps);
    while (fgets(line, sizeof line, maps) != NULL) {
        if (strstr(line, "memfd:cleat") != NULL) { count++; }
    }
    fclose(maps);
    return count;
}

static void a_mapping_is_kept_while_the_segment_is_the_same(void **state)
{
    const void *first;
    const void *second;
    int mapped;

    (void)state;
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "first");
    first = expect_bucket(&pair, 0, "first");
    mapped = mappings_of_memfds();
    prepare(&pair, 2);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "second");
    second = expect_bucket(&pair, 0, "second");
    assert_ptr_equal(first, second);
    assert_int_equal(mappings_of_memfds(), mapped);
    /* A new trainer: a new segment. */
    cleat_memory_sender_close(&pair.sender);
    sender_open(&pair);
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "third");
    (void)expect_bucket(&pair, 0, "third");
    assert_int_equal(mappings_of_memfds(), mapped);
}

static void a_receiver_outlives_its_sender(void **state)
{
    (void)state;
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_OK);
    publish(&pair, 0, "zero");
    cleat_memory_sender_close(&pair.sender);
    assert_int_equal(wait_until(&pair, 0, CLEAT_NEVER), CLEAT_GROUP_FAILED);
    pair.receiver.leave(pair.receiver.context);
    pair.receiver.wake(pair.receiver.context);
}

static void opening_and_closing_leaves_nothing(void **state)
{
    int descriptors = open_descriptors();
    int mapped = mappings_of_memfds();

    (void)state;
    for (int i = 0; i < 20; i++) {
        struct pair other;

        memset(&other, 0, sizeof other);
        sender_open(&other);
        receiver_open(&other, 0);
        prepare(&other, 1);
        assert_int_equal(join_with(&other, &other.ticket, 0), CLEAT_OK);
        cleat_memory_sender_close(&other.sender);
        cleat_memory_sender_close(&other.sender);
        cleat_memory_receiver_close(&other.receiver);
        cleat_memory_receiver_close(&other.receiver);
    }
    assert_int_equal(open_descriptors(), descriptors);
    assert_int_equal(mappings_of_memfds(), mapped);
}

static void a_segment_larger_than_allowed_is_refused(void **state)
{
    (void)state;
    cleat_memory_receiver_close(&pair.receiver);
    receiver_open(&pair, 4096);
    prepare(&pair, 1);
    assert_int_equal(join_with(&pair, &pair.ticket, 0), CLEAT_LIMIT);
}

static void bad_arguments_are_refused(void **state)
{
    struct cleat_memory_sender_config config;
    struct cleat_memory_receiver_config receiver;
    struct cleat_transport_sender sender;
    struct cleat_transport_receiver other;
    struct cleat_error error;
    struct pair p;

    (void)state;
    memset(&config, 0, sizeof config);
    memset(&receiver, 0, sizeof receiver);
    assert_int_equal(
        cleat_memory_sender_open(p.sender_block, 511, &config, &sender, &error),
        CLEAT_TOO_SMALL);
    assert_int_equal(error.offset, CLEAT_MEMORY_SENDER_BYTES);
    assert_int_equal(cleat_memory_sender_open(p.sender_block + 1, 512, &config,
                                              &sender, &error),
                     CLEAT_INVALID);
    config.slots_count = 9;
    assert_int_equal(
        cleat_memory_sender_open(p.sender_block, 512, &config, &sender, &error),
        CLEAT_INVALID);
    config.slots_count = 0;
    config.bucket_bytes = UINT64_MAX;
    assert_int_equal(
        cleat_memory_sender_open(p.sender_block, 512, &config, &sender, &error),
        CLEAT_LIMIT);
    assert_int_equal(cleat_memory_receiver_open(p.receiver_block, 511,
                                                &receiver, &other, &error),
                     CLEAT_TOO_SMALL);
    assert_int_equal(
        pair.sender.prepare(pair.sender.context, 1, 0, &pair.ticket),
        CLEAT_INVALID);
    assert_int_equal(
        pair.sender.prepare(pair.sender.context, 1, 5, &pair.ticket),
        CLEAT_INVALID);
    assert_int_equal(pair.sender.publish(pair.sender.context, 0, 0, 1, 0),
                     CLEAT_STATE);
    prepare(&pair, 1);
    assert_int_equal(pair.sender.publish(pair.sender.context, 1, 0, 1, 0),
                     CLEAT_INVALID);
    assert_int_equal(pair.sender.publish(pair.sender.context, 1, 1, 1, 0),
                     CLEAT_INVALID);
    assert_int_equal(
        pair.sender.publish(pair.sender.context, 0, 0, BUCKET_BYTES + 1, 0),
        CLEAT_INVALID);
}

static void zero_means_the_default_that_the_header_tells(void **state)
{
    struct cleat_memory_sender_config config;
    struct cleat_transport_sender sender;
    _Alignas(64) unsigned char block[CLEAT_MEMORY_SENDER_BYTES];

    (void)state;
    memset(&config, 0, sizeof config);
    assert_int_equal(
        cleat_memory_sender_open(block, sizeof block, &config, &sender, NULL),
        CLEAT_OK);
    assert_int_equal(sender.slots_count, 3);
    assert_int_equal(sender.receivers_max, 8);
    assert_int_equal(sender.slot_bytes_max, 4 << 20);
    cleat_memory_sender_close(&sender);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_bucket_ahead_of_the_next_can_be_looked_at),
        TEST(buckets_travel_and_acknowledgements_come_back),
        TEST(a_receiver_cannot_write_to_the_data),
        TEST(a_wait_ends_at_its_deadline_or_by_a_wake),
        TEST(another_thread_wakes_a_waiter),
        TEST(
            an_acknowledgement_is_seen_though_its_process_dies_before_it_wakes),
        TEST(
            an_acknowledgement_is_seen_though_its_process_dies_before_it_rings),
        TEST(an_acknowledgement_does_not_write_over_another_word),
        TEST(who_comes_second_with_an_index_is_refused),
        TEST(of_two_that_claim_an_index_at_once_one_gets_it),
        TEST(what_is_acknowledged_late_can_be_read_until_the_next),
        TEST(a_receiver_that_waits_is_told_that_the_sender_finished),
        TEST(an_older_generation_has_no_effect),
        TEST(a_word_that_cannot_be_is_not_believed),
        TEST(a_damaged_frame_is_found),
        TEST(a_ticket_is_checked_against_the_files),
        TEST(only_sealed_memory_is_mapped_and_descriptors_close_once),
        TEST(a_mapping_is_kept_while_the_segment_is_the_same),
        TEST(a_receiver_outlives_its_sender),
        TEST(opening_and_closing_leaves_nothing),
        TEST(a_segment_larger_than_allowed_is_refused),
        TEST(bad_arguments_are_refused),
        TEST(zero_means_the_default_that_the_header_tells)};

    alarm(60); /* the watchdog: nothing here may hang */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
