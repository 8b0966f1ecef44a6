/* Cleat: the NCCL transport, over the fake CUDA and NCCL.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each test is a process of its own with a world of its own: a sender and its
 * receivers, each with its device and its two threads. The fakes abort on
 * misuse: a call on a communicator in progress or from a second thread, a use
 * after an abort, an allocation or a free once sealed, a slot that is written
 * while in flight, any call after a sticky error. */
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cleat/digest.h"
#include "cleat/nccl.h"
#include "gpu_process.h"
#include "no_malloc.h"
#include "port/nccl/engine.h"

#define CUDA_LIBRARY CLEAT_FAKES "/lib/libcuda.so.1"
#define NCCL_LIBRARY CLEAT_FAKES "/lib/libnccl.so.2"
#define BUCKET_BYTES UINT64_C(20000)
#define BUCKETS 7u
#define RECEIVERS_MAX 3u

#define MS(n) ((n)*CLEAT_NS_PER_MS)

static uint64_t now_ns(void)
{
    struct timespec now = {0, 0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint64_t soon(void)
{
    return now_ns() + 20 * CLEAT_NS_PER_S;
}

/* ---- a job ---- */

struct receiver {
    struct cleat_transport_receiver transport;
    struct cleat_transport_ticket ticket;
    pthread_t thread;
    uint32_t index;
    uint32_t buckets;         /* to be received */
    uint32_t received;        /* and acknowledged */
    enum cleat_status joined; /* what join said */
    enum cleat_status ended;  /* what the first wait that failed said */
    bool runs;
    _Alignas(64) unsigned char block[CLEAT_NCCL_BYTES];
};

static struct cleat_transport_sender sender;
static struct receiver receivers[RECEIVERS_MAX];
static _Alignas(64) unsigned char sender_block[CLEAT_NCCL_BYTES];
static struct cleat_nccl_config config;
static uint64_t generation;

static void default_config(void)
{
    memset(&config, 0, sizeof config);
    config.cuda_library = CUDA_LIBRARY;
    config.nccl_library = NCCL_LIBRARY;
    config.bucket_bytes = BUCKET_BYTES;
    config.receivers_max = RECEIVERS_MAX;
    /* Nothing is late by accident. */
    config.bucket_ns = 20 * CLEAT_NS_PER_S;
    config.call_ns = 20 * CLEAT_NS_PER_S;
    config.revoke_ns = 20 * CLEAT_NS_PER_S;
    config.abort_ns = 20 * CLEAT_NS_PER_S;
    config.drain_ns = 20 * CLEAT_NS_PER_S;
}

/* Of an end that is open: what is inside a context of either kind. */
static struct nccl_engine *engine_of(void *context)
{
    return context;
}

/* From now on, of what never ends, an end waits as long for it, also of what it
 * is waiting for already; 0: as before. */
static void hurry(void *context, uint64_t bucket_ns, uint64_t abort_ns,
                  uint64_t drain_ns)
{
    struct nccl_engine *engine = engine_of(context);
    struct cleat_nccl_stop_config *stop = &engine->stop.config;

    nccl_lock(engine);
    if (bucket_ns != 0) { engine->config.bucket_ns = bucket_ns; }
    if (abort_ns != 0) { stop->abort_ns = abort_ns; }
    if (abort_ns != 0) { stop->revoke_ns = abort_ns; }
    if (drain_ns != 0) { stop->drain_ns = drain_ns; }
    if (abort_ns != 0 && (engine->stop.state == CLEAT_NCCL_REVOKING ||
                          engine->stop.state == CLEAT_NCCL_ABORTING)) {
        engine->stop.deadline_ns = now_ns() + abort_ns;
    }
    nccl_changed(engine);
    nccl_unlock(engine);
}

/* How long a call may take, from when the group has been formed. */
static void hurry_calls(void *context, uint64_t call_ns)
{
    struct nccl_engine *engine = engine_of(context);

    nccl_lock(engine);
    engine->config.call_ns = call_ns;
    nccl_unlock(engine);
}

/* How long one may take before that. */
static void hurry_start(void *context, uint64_t call_ns)
{
    struct nccl_engine *engine = engine_of(context);

    nccl_lock(engine);
    engine->stop.config.call_ns = call_ns;
    nccl_unlock(engine);
}

static void open_receiver(uint32_t i)
{
    struct cleat_nccl_config mine = config;

    mine.device = i + 1;
    receivers[i].index = i;
    must(cleat_nccl_receiver_open(receivers[i].block, sizeof receivers[i].block,
                                  &mine, &receivers[i].transport,
                                  NULL) == CLEAT_OK);
}

static void open_all(uint32_t count)
{
    must(cleat_nccl_sender_open(sender_block, sizeof sender_block, &config,
                                &sender, NULL) == CLEAT_OK);
    for (uint32_t i = 0; i < count; i++) { open_receiver(i); }
    fake_gpu_seal(); /* from now on nothing is made and nothing freed */
}

/* A sender and a receiver of which only one copies to or from the host, so that
 * a plan which counts copies means that one's: which of two ends is first is
 * nobody's to say. */
static void open_two(bool sender_copies)
{
    config.on_device = sender_copies;
    open_receiver(0);
    config.on_device = !sender_copies;
    open_all(0);
}

static void close_all(uint32_t count)
{
    fake_gpu_unseal();
    must(cleat_nccl_sender_close(&sender) == CLEAT_OK);
    for (uint32_t i = 0; i < count; i++) {
        must(cleat_nccl_receiver_close(&receivers[i].transport) == CLEAT_OK);
    }
    must(fake_gpu_counts().allocations == 0);
    must(fake_gpu_counts().host_allocations == 0);
    must(fake_gpu_counts().comms == 0);
    must(fake_gpu_counts().contexts == 0);
}

/* The bytes of a bucket, and how many: the last but one is empty, the last
 * short. */
static uint64_t bytes_of(uint32_t bucket)
{
    if (bucket + 2 == BUCKETS) { return 0; }
    return bucket + 1 == BUCKETS ? 77 : BUCKET_BYTES;
}

static unsigned char byte_of(uint32_t bucket, uint64_t i)
{
    return (unsigned char)(i * 31 + bucket * 7 + generation * 3 + (i >> 8));
}

/* What lies at an address of the device, or of the host. */
static void *seen(const void *data, uint64_t bytes)
{
    return config.on_device == 0
               ? (void *)(uintptr_t)data
               : fake_gpu_memory((uint64_t)(uintptr_t)data, bytes);
}

static bool is_bucket(uint32_t bucket, const unsigned char *data,
                      uint64_t bytes)
{
    if (bytes != bytes_of(bucket)) { return false; }
    for (uint64_t i = 0; i < bytes; i++) {
        if (data[i] != byte_of(bucket, i)) { return false; }
    }
    return true;
}

/* One bucket of a receiver's: waits, checks, acknowledges. */
static enum cleat_status receive_one(struct receiver *r)
{
    const struct cleat_transport_receiver *t = &r->transport;
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t crc = 0;
    enum cleat_status status = t->wait(t->context, r->received, soon(), &data,
                                       &bytes, &crc);

    if (status == CLEAT_OK && bytes != 0) { data = seen(data, bytes); }
    if (status == CLEAT_OK && cleat_crc32c(0, data, bytes) != crc) {
        status = CLEAT_CORRUPT;
    }
    if (status == CLEAT_OK) { must(is_bucket(r->received, data, bytes)); }
    if (status == CLEAT_OK || status == CLEAT_CORRUPT) {
        must(t->ack(t->context, r->received, status) == CLEAT_OK);
    } else {
        (void)t->ack(t->context, r->received, status);
    }
    return status;
}

static void *receiver_main(void *argument)
{
    struct receiver *r = argument;
    const struct cleat_transport_receiver *t = &r->transport;

    r->received = 0;
    r->ended = CLEAT_OK;
    r->joined = t->join(t->context, &r->ticket, r->index, soon());
    while (r->joined == CLEAT_OK && r->ended == CLEAT_OK &&
           r->received < r->buckets) {
        r->ended = receive_one(r);
        r->received += r->ended == CLEAT_OK;
    }
    return NULL;
}

/* As SCM_RIGHTS does: every receiver gets descriptors of its own. */
static struct cleat_transport_ticket
copy_of(const struct cleat_transport_ticket *ticket)
{
    struct cleat_transport_ticket copy = *ticket;

    for (uint32_t i = 0; i < copy.fds_count; i++) {
        copy.fds[i] = dup(ticket->fds[i]);
        must(copy.fds[i] >= 0);
    }
    return copy;
}

/* How many buckets a receiver takes before it stops of itself. */
static uint32_t appetite = BUCKETS;

static void begin_receiver(uint32_t i,
                           const struct cleat_transport_ticket *ticket)
{
    receivers[i].ticket = copy_of(ticket);
    receivers[i].buckets = appetite;
    receivers[i].runs = true;
    must(pthread_create(&receivers[i].thread, NULL, receiver_main,
                        &receivers[i]) == 0);
}

static void end_receiver(uint32_t i)
{
    if (receivers[i].runs) {
        must(pthread_join(receivers[i].thread, NULL) == 0);
    }
    receivers[i].runs = false;
}

/* How far all counted receivers are; false when one has given up. */
static bool all_acked(uint32_t count, uint32_t *lowest, enum cleat_status *said)
{
    *lowest = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t acked = 0;

        must(sender.acked(sender.context, i, &acked, said) == CLEAT_OK);
        if (*said != CLEAT_OK) { return false; }
        if (acked < *lowest) { *lowest = acked; }
    }
    return true;
}

static enum cleat_status publish(uint32_t bucket)
{
    uint32_t slot = bucket % sender.slots_count;
    uint64_t bytes = bytes_of(bucket);
    uint64_t bytes_max = 0;
    unsigned char *at;
    void *data = NULL;

    must(sender.slot(sender.context, slot, &data, &bytes_max) == CLEAT_OK);
    at = seen(data, BUCKET_BYTES);
    for (uint64_t i = 0; i < bytes; i++) { at[i] = byte_of(bucket, i); }
    return sender.publish(sender.context, slot, bucket, bytes,
                          cleat_crc32c(0, at, bytes));
}

/* Sends the first `buckets` to `count` receivers; what went wrong, if anything
 * did. */
static enum cleat_status send_some(uint32_t count, uint32_t buckets)
{
    enum cleat_status said = CLEAT_OK;
    uint32_t published = 0;
    uint32_t lowest = 0;

    while (lowest < buckets) {
        if (!all_acked(count, &lowest, &said)) { return said; }
        if (published < buckets && published - lowest < sender.slots_count) {
            said = publish(published);
            if (said != CLEAT_OK) { return said; }
            published++;
        } else if (lowest < buckets) {
            (void)sender.wait(sender.context, soon());
        }
    }
    return CLEAT_OK;
}

static enum cleat_status send_all(uint32_t count)
{
    return send_some(count, BUCKETS);
}

/* One generation, from prepare to finish and leave. Those receivers take part
 * whose bit is set in `who`; they are numbered without a gap. Returns what the
 * sender came to. */
static enum cleat_status run(uint32_t count, uint32_t who)
{
    struct cleat_transport_ticket ticket;
    enum cleat_status status;

    generation++;
    status = sender.prepare(sender.context, generation, count, &ticket);
    if (status != CLEAT_OK) { return status; }
    for (uint32_t i = 0; i < count; i++) {
        if ((who >> i & 1) != 0) { begin_receiver(i, &ticket); }
    }
    status = sender.group(sender.context, soon());
    if (status == CLEAT_OK) { status = send_all(count); }
    sender.finish(sender.context);
    for (uint32_t i = 0; i < count; i++) {
        if ((who >> i & 1) == 0) { continue; }
        end_receiver(i);
        receivers[i].transport.leave(receivers[i].transport.context);
    }
    return status;
}

static enum cleat_status run_all(uint32_t count)
{
    enum cleat_status status = run(count, (1u << count) - 1);

    for (uint32_t i = 0; status == CLEAT_OK && i < count; i++) {
        must(receivers[i].joined == CLEAT_OK);
        must(receivers[i].ended == CLEAT_OK);
        must(receivers[i].received == BUCKETS);
    }
    return status;
}

/* Whether a receiver was told that the group has failed: while it joined, or
 * while it waited. */
static bool has_failed(uint32_t i)
{
    return receivers[i].joined == CLEAT_GROUP_FAILED ||
           receivers[i].ended == CLEAT_GROUP_FAILED;
}

static struct cleat_nccl_account of_sender(void)
{
    struct cleat_nccl_account account;

    cleat_nccl_sender_account(&sender, &account);
    return account;
}

static struct cleat_nccl_account of_receiver(uint32_t i)
{
    struct cleat_nccl_account account;

    cleat_nccl_receiver_account(&receivers[i].transport, &account);
    return account;
}

/* ---- what goes well ---- */

static void goes_well(void)
{
    open_all(3);
    must(run_all(3) == CLEAT_OK);
    cleat_test_forbid_malloc(true);
    cleat_test_exempt_thread(true); /* this thread starts threads */
    must(run_all(3) == CLEAT_OK);
    must(run_all(3) == CLEAT_OK);
    /* One group served all three. */
    must(of_sender().builds == 1 && of_sender().ids == 1);
    must(of_sender().stops == 0 && of_receiver(2).builds == 1);
    must(strcmp(of_sender().state, "healthy") == 0);
    must(run_all(2) == CLEAT_OK); /* another number of them: another group */
    must(of_sender().builds == 2 && of_sender().stops == 1);
    cleat_test_exempt_thread(false);
    cleat_test_forbid_malloc(false);
    close_all(3);
}

static void broadcast(void)
{
    default_config();
    config.topology = CLEAT_NCCL_BROADCAST;
    goes_well();
}

static void fan_out(void)
{
    default_config();
    config.topology = CLEAT_NCCL_FAN_OUT;
    goes_well();
}

static void on_device(void)
{
    default_config();
    config.on_device = 1;
    goes_well();
}

static void slow_library(void)
{
    default_config();
    fake_gpu_plan("in_progress=9 seed=5 steps=1");
    goes_well();
}

static void every_byte_arrives_by_broadcast(void **state)
{
    (void)state;
    in_a_process(broadcast);
}

static void every_byte_arrives_by_fan_out(void **state)
{
    (void)state;
    in_a_process(fan_out);
}

static void every_byte_arrives_from_device_to_device(void **state)
{
    (void)state;
    in_a_process(on_device);
}

static void every_byte_arrives_when_the_library_takes_its_time(void **state)
{
    (void)state;
    in_a_process(slow_library);
}

static void one_slot(void)
{
    default_config();
    config.slots_count = 1;
    open_all(2);
    must(run_all(2) == CLEAT_OK);
    close_all(2);
}

static void one_slot_does(void **state)
{
    (void)state;
    in_a_process(one_slot);
}

static void unlike_slots(void)
{
    default_config();
    config.slots_count = 2;
    open_all(2);
    fake_gpu_unseal();
    must(cleat_nccl_sender_close(&sender) == CLEAT_OK);
    config.slots_count = CLEAT_NCCL_SLOTS_MAX;
    must(cleat_nccl_sender_open(sender_block, sizeof sender_block, &config,
                                &sender, NULL) == CLEAT_OK);
    fake_gpu_seal();
    must(run_all(2) == CLEAT_OK);
    close_all(2);
}

static void a_receiver_may_have_fewer_slots_than_the_sender(void **state)
{
    (void)state;
    in_a_process(unlike_slots);
}

static void without_revoke(void)
{
    default_config();
    config.nccl_library = CLEAT_FAKES "/nccl_2_19/libnccl.so.2";
    fake_gpu_attach_files(CUDA_LIBRARY, config.nccl_library);
    open_all(2);
    must(run_all(2) == CLEAT_OK);
    must(of_sender().version == 21903);
    close_all(2);
}

static void a_library_without_revoke_does(void **state)
{
    pid_t pid = fork();
    int ended = -1;

    (void)state;
    if (pid == 0) {
        (void)alarm(60);
        without_revoke();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &ended, 0), pid);
    assert_int_equal(ended, 0);
}

/* ---- what goes wrong and is survived ---- */

/* After a fault the next attempt has a fresh group, and works. */
static void and_again(uint32_t count)
{
    uint32_t builds = of_sender().builds;

    must(run_all(count) == CLEAT_OK);
    must(of_sender().builds == builds + 1);
    must(strcmp(of_sender().state, "healthy") == 0);
    must(run_all(count) == CLEAT_OK);
    must(of_sender().builds == builds + 1);
}

static void garbled(void)
{
    enum cleat_status status;
    uint32_t corrupt;

    default_config();
    config.topology = CLEAT_NCCL_FAN_OUT;
    open_all(2);
    fake_gpu_plan("ncclRecv#5:garble");
    status = run(2, 3);
    must(status == CLEAT_CORRUPT || status == CLEAT_GROUP_FAILED);
    corrupt = receivers[0].ended == CLEAT_CORRUPT ? 0 : 1;
    must(receivers[corrupt].ended == CLEAT_CORRUPT);
    must(receivers[1 - corrupt].ended == CLEAT_GROUP_FAILED);
    for (uint32_t i = 0; i < 2; i++) { /* who leaves it, leaves the group */
        must(strcmp(of_receiver(i).state, "healthy") != 0);
    }
    and_again(2);
    close_all(2);
}

static void a_wrong_byte_is_found_and_fails_the_attempt(void **state)
{
    (void)state;
    in_a_process(garbled);
}

static void silent_death(void)
{
    default_config();
    open_all(3);
    must(run_all(3) == CLEAT_OK);
    /* The last one is dead for its peers; its process says nothing more. */
    must(fake_nccl_lose(3) == 1);
    hurry(sender.context, MS(400), 0, 0);
    must(run(3, 3) == CLEAT_GROUP_FAILED);
    must(has_failed(0));
    must(has_failed(1));
    must(of_sender().why == CLEAT_PEER_SILENT);
    hurry(sender.context, 20 * CLEAT_NS_PER_S, 0, 0);
    and_again(2);
    close_all(3);
}

static void a_peer_that_dies_in_silence_costs_a_deadline(void **state)
{
    (void)state;
    in_a_process(silent_death);
}

static void reset_death(void)
{
    default_config();
    fake_gpu_plan("death=reset:3");
    open_all(3);
    must(run_all(3) == CLEAT_OK);
    must(fake_nccl_lose(3) == 1);
    must(run(3, 3) == CLEAT_GROUP_FAILED);
    must(of_sender().code == 6 || of_receiver(0).code == 6); /* RemoteError */
    and_again(2);
    close_all(3);
}

static void a_peer_that_is_reset_is_told_by_the_library(void **state)
{
    (void)state;
    in_a_process(reset_death);
}

static void late_error(void)
{
    default_config();
    config.topology = CLEAT_NCCL_FAN_OUT; /* the sender alone sends */
    open_all(2);
    fake_gpu_plan("ncclSend#3:late=2");
    must(run(2, 3) == CLEAT_GROUP_FAILED);
    must(of_sender().code == 2); /* ncclSystemError */
    and_again(2);
    close_all(2);
}

static void an_error_that_comes_late_fails_the_attempt(void **state)
{
    (void)state;
    in_a_process(late_error);
}

static void failed_init(void)
{
    default_config();
    open_all(2);
    fake_gpu_plan("ncclCommInitRankConfig#1:fail=1"); /* of any of them */
    must(run(2, 3) == CLEAT_GROUP_FAILED);
    must(receivers[0].joined == CLEAT_GROUP_FAILED);
    must(receivers[1].joined == CLEAT_GROUP_FAILED);
    and_again(2);
    /* NCCL has left a group open on that thread, and it was ended. */
    must(of_sender().depth_leaked + of_receiver(0).depth_leaked +
             of_receiver(1).depth_leaked ==
         1);
    close_all(2);
}

static void a_failed_init_leaves_no_group_open(void **state)
{
    (void)state;
    in_a_process(failed_init);
}

/* Of the two ends, which abort by themselves, it is the first. */
static void failed_abort(void)
{
    bool is_the_senders;

    default_config();
    config.topology = CLEAT_NCCL_FAN_OUT;
    open_all(1);
    fake_gpu_plan("ncclSend#2:late=2 ncclCommAbort#1:fail=1");
    must(run(1, 1) == CLEAT_GROUP_FAILED);
    must(run(1, 1) == CLEAT_OK); /* it counts as gone all the same */
    is_the_senders = of_sender().depth_leaked == 1;
    must(of_sender().depth_leaked + of_receiver(0).depth_leaked == 1);
    /* … but what it had registered may be in use, and is not freed. */
    fake_gpu_unseal();
    must(cleat_nccl_sender_close(&sender) ==
         (is_the_senders ? CLEAT_DEVICE_LOST : CLEAT_OK));
    must(cleat_nccl_receiver_close(&receivers[0].transport) ==
         (is_the_senders ? CLEAT_OK : CLEAT_DEVICE_LOST));
}

static void a_failed_abort_leaves_no_group_open(void **state)
{
    (void)state;
    in_a_process(failed_abort);
}

static void missing_rank(void)
{
    struct cleat_transport_ticket ticket;

    default_config();
    open_all(2);
    generation++;
    must(sender.prepare(sender.context, generation, 2, &ticket) == CLEAT_OK);
    must(sender.group(sender.context, now_ns() + MS(200)) == CLEAT_DEADLINE);
    sender.finish(sender.context);
    and_again(2);
    close_all(2);
}

static void a_rank_that_is_missing_costs_a_deadline(void **state)
{
    (void)state;
    in_a_process(missing_rank);
}

static void restarted(void)
{
    default_config();
    open_all(2);
    must(run_all(2) == CLEAT_OK);
    /* A new process in the place of the second. */
    fake_gpu_unseal();
    must(cleat_nccl_receiver_close(&receivers[1].transport) == CLEAT_OK);
    open_receiver(1);
    fake_gpu_seal();
    must(run(2, 3) < CLEAT_OK);
    must(receivers[1].joined == CLEAT_GROUP_FAILED);
    and_again(2);
    close_all(2);
}

static void who_is_new_does_not_wait_for_an_old_group(void **state)
{
    (void)state;
    in_a_process(restarted);
}

static void used_up(void)
{
    default_config();
    config.builds_max = 2;
    open_all(2);
    must(run_all(2) == CLEAT_OK);
    must(run_all(1) == CLEAT_OK);
    must(run(2, 3) == CLEAT_LIMIT);
    must(run(2, 3) == CLEAT_LIMIT);
    must(of_sender().ids == 2 && of_sender().builds == 2);
    must(fake_gpu_counts().unique_ids == 2);
    close_all(2);
}

static void groups_are_counted_and_end(void **state)
{
    (void)state;
    in_a_process(used_up);
}

/* ---- who cannot join ---- */

/* Nobody waits for a deadline, which is far: not the sender, whom `acked` tells
 * who it was and why, and not the other receivers. */
static void fails_for_all(uint32_t culprit, enum cleat_status why)
{
    struct cleat_transport_ticket ticket;
    enum cleat_status said = CLEAT_OK;
    uint32_t acked = 0;

    generation++;
    must(sender.prepare(sender.context, generation, 3, &ticket) == CLEAT_OK);
    for (uint32_t i = 0; i < 3; i++) { begin_receiver(i, &ticket); }
    must(sender.group(sender.context, soon()) == CLEAT_GROUP_FAILED);
    if (culprit < 3) {
        must(sender.acked(sender.context, culprit, &acked, &said) == CLEAT_OK);
        must(said == why && acked == 0);
    }
    sender.finish(sender.context);
    for (uint32_t i = 0; i < 3; i++) {
        end_receiver(i);
        must(receivers[i].joined == (i == culprit ? why : CLEAT_GROUP_FAILED));
        receivers[i].transport.leave(receivers[i].transport.context);
    }
}

static ncclResult_t init_fails(ncclComm_t *comm, int ranks, ncclUniqueId id,
                               int rank, ncclConfig_t *with)
{
    (void)comm;
    (void)ranks;
    (void)id;
    (void)rank;
    (void)with;
    return ncclSystemError;
}

static void receiver_init_fails(void)
{
    struct nccl_engine *engine;

    default_config();
    open_all(3);
    engine = engine_of(receivers[1].transport.context);
    engine->nccl.p_ncclCommInitRankConfig = init_fails;
    fails_for_all(1, CLEAT_GROUP_FAILED);
    must(of_receiver(1).code == ncclSystemError);
    engine->nccl.p_ncclCommInitRankConfig =
        engine_of(sender.context)->nccl.p_ncclCommInitRankConfig;
    and_again(3);
    close_all(3);
}

static void receiver_is_too_small(void)
{
    default_config();
    open_all(3);
    fake_gpu_unseal();
    must(cleat_nccl_receiver_close(&receivers[2].transport) == CLEAT_OK);
    config.bucket_bytes = BUCKET_BYTES / 2;
    open_receiver(2);
    fake_gpu_seal();
    fails_for_all(2, CLEAT_LIMIT);
    and_again(2);
    close_all(3);
}

static void receiver_is_used_up(void)
{
    default_config();
    open_all(3);
    fake_gpu_unseal();
    must(cleat_nccl_receiver_close(&receivers[0].transport) == CLEAT_OK);
    config.builds_max = 1;
    open_receiver(0);
    fake_gpu_seal();
    must(run_all(1) == CLEAT_OK);
    fails_for_all(0, CLEAT_LIMIT);
    close_all(3);
}

static void who_cannot_join_costs_no_deadline(void **state)
{
    (void)state;
    in_a_process(receiver_init_fails);
    in_a_process(receiver_is_too_small);
    in_a_process(receiver_is_used_up);
}

static void sender_init_fails(void)
{
    struct nccl_engine *engine;

    default_config();
    open_all(3);
    engine = engine_of(sender.context);
    engine->nccl.p_ncclCommInitRankConfig = init_fails;
    fails_for_all(3, CLEAT_OK);
    must(of_sender().code == ncclSystemError);
    engine->nccl.p_ncclCommInitRankConfig = engine_of(
                                                receivers[0].transport.context)
                                                ->nccl.p_ncclCommInitRankConfig;
    and_again(3);
    close_all(3);
}

static void a_sender_that_cannot_form_the_group_costs_no_deadline(void **state)
{
    (void)state;
    in_a_process(sender_init_fails);
}

static void one_index_twice(void)
{
    const struct cleat_transport_receiver *t = &receivers[1].transport;
    struct cleat_transport_ticket ticket;
    struct cleat_transport_ticket copy;
    enum cleat_status said = CLEAT_OK;
    uint32_t acked = 0;

    default_config();
    open_all(2);
    generation++;
    must(sender.prepare(sender.context, generation, 2, &ticket) == CLEAT_OK);
    copy = copy_of(&ticket);
    receivers[0].transport.wake(receivers[0].transport.context);
    must(receivers[0].transport.join(receivers[0].transport.context, &copy, 0,
                                     soon()) == CLEAT_PENDING);
    receivers[0].ticket = copy; /* its place is taken, the group to be formed */
    copy = copy_of(&ticket);
    must(t->join(t->context, &copy, 0, soon()) == CLEAT_INVALID);
    must(of_receiver(1).builds == 0);
    must(sender.acked(sender.context, 0, &acked, &said) == CLEAT_OK);
    must(said == CLEAT_OK); /* nothing was said in its name */
    /* With an index of its own it may take part; the first one goes on. */
    begin_receiver(1, &ticket);
    receivers[0].buckets = BUCKETS;
    must(pthread_create(&receivers[0].thread, NULL, receiver_main,
                        &receivers[0]) == 0);
    receivers[0].runs = true;
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    must(send_all(2) == CLEAT_OK);
    sender.finish(sender.context);
    for (uint32_t i = 0; i < 2; i++) {
        end_receiver(i);
        must(receivers[i].received == BUCKETS);
        receivers[i].transport.leave(receivers[i].transport.context);
    }
    must(run_all(2) == CLEAT_OK); /* the same indices in another generation */
    must(of_sender().builds == 1);
    close_all(2);
}

static void of_two_with_one_index_the_second_is_refused(void **state)
{
    (void)state;
    in_a_process(one_index_twice);
}

/* ---- who leaves early ---- */

enum { EARLY = 2 }; /* buckets of an attempt that is given up */

static void leave_all(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        receivers[i].transport.leave(receivers[i].transport.context);
    }
}

/* The last receiver waits for the bucket after EARLY, and is told `expected`.
 */
static void waits_in_vain(enum cleat_status expected)
{
    const struct cleat_transport_receiver *t = &receivers[1].transport;
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t crc = 0;

    must(t->wait(t->context, EARLY, soon(), &data, &bytes, &crc) == expected);
}

/* EARLY buckets reach two receivers, and then the sender gives up. */
static void sends_a_part(void)
{
    struct cleat_transport_ticket ticket;

    generation++;
    must(sender.prepare(sender.context, generation, 2, &ticket) == CLEAT_OK);
    appetite = EARLY;
    begin_receiver(0, &ticket);
    begin_receiver(1, &ticket);
    appetite = BUCKETS;
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    must(send_some(2, EARLY) == CLEAT_OK);
    end_receiver(0);
    end_receiver(1);
}

static void given_up(void)
{
    const struct cleat_transport_receiver *t = &receivers[1].transport;

    default_config();
    open_all(2);
    /* The sender finishes first. */
    sends_a_part();
    sender.finish(sender.context);
    waits_in_vain(CLEAT_GROUP_FAILED);
    leave_all(2);
    and_again(2);
    /* The receivers are told first, and acknowledge with an error … */
    sends_a_part();
    t->wake(t->context);
    waits_in_vain(CLEAT_PENDING);
    must(t->ack(t->context, EARLY, CLEAT_CANCELLED) == CLEAT_OK);
    leave_all(2);
    sender.finish(sender.context);
    must(strcmp(of_sender().state, "healthy") != 0);
    and_again(2);
    /* … or do so while the sender has finished already, or just leave. */
    sends_a_part();
    t->wake(t->context);
    waits_in_vain(CLEAT_PENDING);
    sender.finish(sender.context);
    must(t->ack(t->context, EARLY, CLEAT_CANCELLED) == CLEAT_OK);
    leave_all(2);
    and_again(2);
    sends_a_part();
    t->wake(t->context);
    waits_in_vain(CLEAT_PENDING);
    leave_all(2);
    sender.finish(sender.context);
    and_again(2);
    close_all(2);
}

static void a_group_that_one_has_left_is_not_counted_on(void **state)
{
    (void)state;
    in_a_process(given_up);
}

/* A receiver that says that it has given up is what a group cannot go on
 * without. */
static void error_said(void)
{
    const struct cleat_transport_receiver *t = &receivers[1].transport;
    enum cleat_status said = CLEAT_OK;
    uint32_t lowest = 0;

    default_config();
    open_all(2);
    sends_a_part();
    must(t->ack(t->context, EARLY, CLEAT_PERMANENT) == CLEAT_OK);
    must(strcmp(of_sender().state, "healthy") == 0);
    must(!all_acked(2, &lowest, &said) && said == CLEAT_PERMANENT);
    must(strcmp(of_sender().state, "healthy") != 0);
    must(of_sender().stops == 1);
    must(publish(EARLY) == CLEAT_GROUP_FAILED);
    sender.finish(sender.context);
    leave_all(2);
    and_again(2);
    close_all(2);
}

static void a_receiver_that_gives_up_stops_the_group(void **state)
{
    (void)state;
    in_a_process(error_said);
}

/* Until what is in an end's first slot is on the stream. */
static void until_running(void *context)
{
    struct nccl_engine *engine = engine_of(context);
    struct timespec nap = {0, 100000};
    bool runs = false;

    while (!runs) {
        nccl_lock(engine);
        runs = engine->ops[0].state == NCCL_OP_RUNNING;
        nccl_unlock(engine);
        (void)nanosleep(&nap, NULL);
    }
}

/* An error of the communicator's while a bucket is on the stream, which a
 * receiver without room keeps there: long before the bucket's time is up. */
static void error_while_running(void)
{
    struct cleat_transport_ticket ticket;
    enum cleat_status said = CLEAT_OK;
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t lowest = 0;
    uint32_t crc = 0;

    default_config();
    config.bucket_ns = 1000 * CLEAT_NS_PER_S;
    config.slots_count = 1;
    open_all(1);
    generation++;
    must(sender.prepare(sender.context, generation, 1, &ticket) == CLEAT_OK);
    appetite = 0;
    begin_receiver(0, &ticket);
    appetite = BUCKETS;
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    end_receiver(0);
    must(receivers[0].joined == CLEAT_OK);
    must(publish(0) == CLEAT_OK); /* received, and never acknowledged */
    must(receivers[0].transport.wait(receivers[0].transport.context, 0, soon(),
                                     &data, &bytes, &crc) == CLEAT_OK);
    must(publish(1) == CLEAT_OK);
    until_running(sender.context);
    must(fake_nccl_fail(0, ncclRemoteError) == 1);
    while (all_acked(1, &lowest, &said)) {
        must(sender.wait(sender.context, soon()) == CLEAT_OK);
    }
    must(said == CLEAT_GROUP_FAILED);
    must(of_sender().code == ncclRemoteError);
    sender.finish(sender.context);
    leave_all(1);
    and_again(1);
    close_all(1);
}

static void an_error_while_a_bucket_is_on_its_way_ends_it(void **state)
{
    (void)state;
    in_a_process(error_while_running);
}

/* ---- how long what waits ---- */

static void earlier_deadline(void)
{
    const struct cleat_transport_receiver *t = &receivers[0].transport;
    struct cleat_transport_ticket ticket;
    struct cleat_transport_ticket copy;

    default_config();
    open_all(1);
    generation++;
    must(sender.prepare(sender.context, generation, 2, &ticket) == CLEAT_OK);
    copy = copy_of(&ticket);
    /* Nobody else comes; the first calls have no deadline at all. */
    sender.wake(sender.context);
    must(sender.group(sender.context, CLEAT_NEVER) == CLEAT_PENDING);
    t->wake(t->context);
    must(t->join(t->context, &copy, 0, CLEAT_NEVER) == CLEAT_PENDING);
    must(t->join(t->context, &copy, 0, now_ns() + MS(50)) == CLEAT_DEADLINE);
    /* The receiver has said that it is gone, before the sender's time is up. */
    must(sender.group(sender.context, now_ns()) == CLEAT_DEADLINE);
    sender.finish(sender.context);
    must(run_all(1) == CLEAT_OK);
    close_all(1);
}

static void a_call_that_goes_on_ends_at_its_own_deadline(void **state)
{
    (void)state;
    in_a_process(earlier_deadline);
}

static void woken_before(void)
{
    struct cleat_transport_ticket ticket;

    default_config();
    open_all(1);
    generation++;
    sender.wake(sender.context);
    must(sender.prepare(sender.context, generation, 1, &ticket) == CLEAT_OK);
    must(sender.group(sender.context, soon()) == CLEAT_PENDING);
    sender.finish(sender.context);
    must(run_all(1) == CLEAT_OK);
    sender.wake(sender.context);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    must(sender.wait(sender.context, soon()) == CLEAT_OK); /* that was it */
    begin_receiver(0, &ticket);
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    must(send_all(1) == CLEAT_OK);
    end_receiver(0);
    sender.finish(sender.context);
    leave_all(1);
    close_all(1);
}

static void a_wake_that_comes_early_is_kept(void **state)
{
    (void)state;
    in_a_process(woken_before);
}

/* The receiver has no room for bucket 1, so NCCL still reads it at the sender,
 * whose source is about to write there. */
static void slot_in_use(void)
{
    struct cleat_transport_ticket ticket;
    uint64_t bytes_max = 0;
    void *data = NULL;

    default_config();
    config.on_device = 1;
    config.slots_count = 1;
    config.bucket_ns = 1000 * CLEAT_NS_PER_S;
    open_all(1);
    must(fake_gpu_counts().host_allocations == 0);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    appetite = 0;
    begin_receiver(0, &ticket);
    appetite = BUCKETS;
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    end_receiver(0);
    must(publish(0) == CLEAT_OK);
    must(publish(1) == CLEAT_OK);
    until_running(sender.context);
    must(fake_nccl_fail(0, ncclRemoteError) == 1); /* else it would wait */
    must(sender.slot(sender.context, 0, &data, &bytes_max) ==
         CLEAT_GROUP_FAILED);
    sender.finish(sender.context);
    leave_all(1);
    and_again(1);
    close_all(1);
}

static void a_slot_on_the_device_is_given_when_nobody_reads_it(void **state)
{
    (void)state;
    in_a_process(slot_in_use);
}

/* The sender's bucket waits for room that nobody makes. */
static void no_room(void)
{
    const struct cleat_transport_receiver *t = &receivers[0].transport;
    struct cleat_transport_ticket ticket;
    enum cleat_status said = CLEAT_OK;
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t lowest = 0;
    uint32_t crc = 0;

    default_config();
    config.slots_count = 1;
    open_all(1);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    appetite = 0;
    begin_receiver(0, &ticket);
    appetite = BUCKETS;
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    end_receiver(0);
    must(publish(0) == CLEAT_OK);
    must(t->wait(t->context, 0, soon(), &data, &bytes, &crc) == CLEAT_OK);
    hurry(sender.context, MS(300), 0, 0);
    must(publish(1) == CLEAT_OK);
    while (all_acked(1, &lowest, &said)) {
        must(sender.wait(sender.context, soon()) == CLEAT_OK);
    }
    must(said == CLEAT_GROUP_FAILED);
    must(of_sender().why == CLEAT_PEER_SILENT);
    sender.finish(sender.context);
    hurry(sender.context, 20 * CLEAT_NS_PER_S, 0, 0);
    leave_all(1);
    and_again(1);
    close_all(1);
}

static void a_bucket_that_nobody_takes_costs_its_time(void **state)
{
    (void)state;
    in_a_process(no_room);
}

/* What comes beside a bucket says more bytes than a slot has. */
static void too_many_bytes(void)
{
    const struct cleat_transport_receiver *t = &receivers[0].transport;
    struct cleat_transport_ticket ticket;
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t crc = 0;

    default_config();
    open_all(1);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    appetite = 0;
    begin_receiver(0, &ticket);
    appetite = BUCKETS;
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    end_receiver(0);
    engine_of(receivers[0].transport.context)->config.bucket_bytes = 8;
    must(publish(0) == CLEAT_OK);
    must(t->wait(t->context, 0, soon(), &data, &bytes, &crc) ==
         CLEAT_PEER_DEVIANT);
    must(fake_gpu_counts().nccl_bytes == 0);
    leave_all(1);
    sender.finish(sender.context);
    engine_of(receivers[0].transport.context)->config.bucket_bytes =
        BUCKET_BYTES;
    and_again(1);
    close_all(1);
}

/* A sender that says of bucket 0 what is not so, and gives it to nobody. */
static void lies(struct nccl_descriptor said, uint64_t said_bytes)
{
    const struct cleat_transport_sender *control =
        engine_of(sender.context)->wakes;
    const struct cleat_transport_receiver *t = &receivers[0].transport;
    struct cleat_transport_ticket ticket;
    uint64_t before = fake_gpu_counts().nccl_bytes;
    const void *seen_data = NULL;
    uint64_t bytes = 0;
    void *data = NULL;
    uint32_t crc = 0;

    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    appetite = 0;
    begin_receiver(0, &ticket);
    appetite = BUCKETS;
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    end_receiver(0);
    said.epoch += engine_of(sender.context)->group.epoch;
    must(control->slot(control->context, 0, &data, &bytes) == CLEAT_OK);
    must(bytes == sizeof said);
    memcpy(data, &said, sizeof said);
    must(control->publish(control->context, 0, 0, said_bytes, 0) == CLEAT_OK);
    must(t->wait(t->context, 0, soon(), &seen_data, &bytes, &crc) ==
         CLEAT_PEER_DEVIANT);
    must(fake_gpu_counts().nccl_bytes == before);
    leave_all(1);
    sender.finish(sender.context);
    and_again(1);
}

static void lying_control(void)
{
    const struct nccl_descriptor later = {.bytes = 64, .epoch = 1};
    const struct nccl_descriptor earlier = {.bytes = 64, .epoch = UINT64_MAX};
    const struct nccl_descriptor more = {.bytes = BUCKET_BYTES + 1};
    const struct nccl_descriptor most = {.bytes = UINT64_MAX};
    const struct nccl_descriptor right = {.bytes = 64};

    default_config();
    open_all(1);
    lies(later, sizeof later);
    lies(earlier, sizeof earlier);
    lies(more, sizeof more);
    lies(most, sizeof most);
    lies(right, sizeof right - 1); /* half of what is to be said */
    lies(right, 0);
    close_all(1);
}

static void what_is_said_of_a_bucket_is_checked(void **state)
{
    (void)state;
    in_a_process(too_many_bytes);
    in_a_process(lying_control);
}

/* What an end knows of the bucket that a slot was used for before. */
static void another_in_its_slot(void)
{
    const struct cleat_transport_receiver *t = &receivers[0].transport;
    struct nccl_engine *engine;
    struct cleat_transport_ticket ticket;
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t crc = 0;

    default_config();
    open_all(1);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    appetite = 0;
    begin_receiver(0, &ticket);
    appetite = BUCKETS;
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    end_receiver(0);
    engine = engine_of(t->context);
    nccl_lock(engine);
    engine->ops[0].bucket = engine->config.slots_count;
    engine->ops[0].state = NCCL_OP_DONE;
    nccl_unlock(engine);
    /* Nobody sends bucket 0. */
    must(t->wait(t->context, 0, now_ns() + MS(50), &data, &bytes, &crc) ==
         CLEAT_DEADLINE);
    leave_all(1);
    sender.finish(sender.context);
    and_again(1);
    close_all(1);
}

static void another_bucket_in_the_slot_is_not_the_one(void **state)
{
    (void)state;
    in_a_process(another_in_its_slot);
}

/* ---- which group is kept ---- */

/* The receiver has the first of two buckets, and has not said that it will not
 * take the other. */
static void half_a_generation(void)
{
    struct cleat_transport_ticket ticket;

    default_config();
    open_all(1);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    appetite = 1;
    begin_receiver(0, &ticket);
    appetite = BUCKETS;
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    must(publish(0) == CLEAT_OK);
    must(publish(1) == CLEAT_OK);
    end_receiver(0);
    must(receivers[0].received == 1);
    sender.finish(sender.context);
    must(strcmp(of_sender().state, "healthy") != 0);
    must(of_sender().stops == 1);
    leave_all(1);
    and_again(1);
    close_all(1);
}

static void after_half_a_generation_no_group_is_kept(void **state)
{
    (void)state;
    in_a_process(half_a_generation);
}

static void other_number(void)
{
    struct cleat_transport_ticket ticket;

    default_config();
    open_all(2);
    must(run_all(2) == CLEAT_OK);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    must(strcmp(of_sender().state, "healthy") != 0); /* before `group` */
    must(of_sender().stops == 1);
    sender.finish(sender.context);
    and_again(1);
    close_all(2);
}

static void to_prepare_another_group_is_to_leave_the_old_one(void **state)
{
    (void)state;
    in_a_process(other_number);
}

/* A clock that is behind the epoch of the last group. */
static void epochs_rise(void)
{
    const uint64_t far = UINT64_MAX / 2;
    struct cleat_transport_ticket ticket;
    struct nccl_engine *engine;

    default_config();
    open_all(1);
    engine = engine_of(sender.context);
    nccl_lock(engine);
    engine->group.epoch = far;
    nccl_unlock(engine);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    must(engine->group.epoch == far + 1);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    must(engine->group.epoch == far + 2);
    sender.finish(sender.context);
    and_again(1);
    close_all(1);
}

static void no_two_groups_have_one_epoch(void **state)
{
    (void)state;
    in_a_process(epochs_rise);
}

/* A receiver that waited in vain joins anew, and has not left. The sender, to
 * whom it looked as if all had what there was, counts on its group. */
static void joins_without_leaving(void)
{
    const struct cleat_transport_receiver *t = &receivers[1].transport;
    struct cleat_transport_ticket ticket;
    struct cleat_transport_ticket copy;

    default_config();
    open_all(2);
    sends_a_part();
    t->wake(t->context);
    waits_in_vain(CLEAT_PENDING);
    sender.finish(sender.context);
    must(sender.prepare(sender.context, ++generation, 2, &ticket) == CLEAT_OK);
    must(of_sender().ids == 1); /* the old one */
    copy = copy_of(&ticket);
    must(t->join(t->context, &copy, 1, soon()) == CLEAT_GROUP_FAILED);
    must(strcmp(of_receiver(1).state, "healthy") != 0);
    sender.finish(sender.context);
    leave_all(2);
    and_again(2);
    close_all(2);
}

static void who_joins_anew_leaves_first(void **state)
{
    (void)state;
    in_a_process(joins_without_leaving);
}

/* A device that is lost while its group is kept. */
static void joins_lost(void)
{
    const struct cleat_transport_receiver *t = &receivers[0].transport;
    struct cleat_transport_ticket ticket;
    struct cleat_transport_ticket copy;
    enum cleat_status said = CLEAT_OK;
    uint32_t acked = 0;

    default_config();
    open_all(1);
    must(run_all(1) == CLEAT_OK);
    cleat_nccl_receiver_lose(t);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    copy = copy_of(&ticket);
    must(t->join(t->context, &copy, 0, soon()) == CLEAT_DEVICE_LOST);
    must(sender.acked(sender.context, 0, &acked, &said) == CLEAT_OK);
    must(said == CLEAT_DEVICE_LOST); /* the sender knows why */
    sender.finish(sender.context);
    must(cleat_nccl_receiver_close(&receivers[0].transport) ==
         CLEAT_DEVICE_LOST);
}

static void who_joins_with_a_lost_device_says_so(void **state)
{
    (void)state;
    in_a_process(joins_lost);
}

/* ---- where a bucket lies on the device ---- */

/* A receiver that has been handed bucket 0 and does not acknowledge it, while
 * the sender, which must not, sends one more than there are slots. */
static void stays_in_place(void)
{
    const struct cleat_transport_receiver *t = &receivers[0].transport;
    const uint32_t slots = 3;
    struct cleat_transport_ticket ticket;
    struct timespec nap = {0, 100000};
    const unsigned char *data;
    const void *handed = NULL;
    uint64_t bytes = 0;
    uint64_t at;
    uint32_t crc = 0;

    open_all(1);
    generation++;
    must(sender.prepare(sender.context, generation, 1, &ticket) == CLEAT_OK);
    appetite = 0;
    begin_receiver(0, &ticket);
    appetite = BUCKETS;
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    end_receiver(0);
    for (uint32_t i = 0; i < slots; i++) { must(publish(i) == CLEAT_OK); }
    must(t->wait(t->context, 0, soon(), &handed, &bytes, &crc) == CLEAT_OK);
    must(publish(slots) == CLEAT_OK);
    data = handed;
    at = cleat_nccl_receiver_device(t, data);
    must(at != 0 && bytes == BUCKET_BYTES);
    must((at == (uintptr_t)data) == (config.on_device != 0));
    must(cleat_nccl_receiver_device(t, data + 7) == at + 7);
    must(cleat_nccl_receiver_device(t, data + BUCKET_BYTES - 1) ==
         at + BUCKET_BYTES - 1);
    must(cleat_nccl_receiver_device(t, data + BUCKET_BYTES) == 0);
    must(cleat_nccl_receiver_device(t, data - 1) == 0);
    must(cleat_nccl_receiver_device(t, NULL) == 0);
    for (uint32_t i = 0; i < 200; i++) {
        must(is_bucket(0, fake_gpu_memory(at, bytes), bytes));
        (void)nanosleep(&nap, NULL);
    }
    for (uint32_t i = 0; i < slots; i++) {
        must(t->ack(t->context, i, CLEAT_OK) == CLEAT_OK);
        must(t->wait(t->context, i + 1, soon(), &handed, &bytes, &crc) ==
             CLEAT_OK);
        must(is_bucket(
            i + 1,
            fake_gpu_memory(cleat_nccl_receiver_device(t, handed), bytes),
            bytes));
    }
    must(cleat_nccl_receiver_device(t, handed) == at); /* the same slot */
    leave_all(1);
    sender.finish(sender.context);
    close_all(1);
}

static void stays_in_place_staged(void)
{
    default_config();
    stays_in_place();
}

static void stays_in_place_on_device(void)
{
    default_config();
    config.on_device = 1;
    stays_in_place();
}

static void a_bucket_stays_on_the_device_until_it_is_acknowledged(void **state)
{
    (void)state;
    in_a_process(stays_in_place_staged);
    in_a_process(stays_in_place_on_device);
}

/* ---- registered slots ---- */

static uint32_t registered(uint32_t count)
{
    uint32_t sum = of_sender().registered;

    for (uint32_t i = 0; i < count; i++) { sum += of_receiver(i).registered; }
    return sum;
}

static void all_register(void)
{
    default_config();
    open_all(2);
    must(registered(2) == 0); /* there is no group */
    must(run_all(2) == CLEAT_OK);
    must(registered(2) == 3 && fake_gpu_counts().registrations == 3);
    must(run_all(1) == CLEAT_OK);
    close_all(2); /* an abort ends it; nothing else does */
    must(fake_gpu_counts().registrations == 0);
}

static void sender_does_not_register(void)
{
    default_config();
    open_all(1);
    fake_gpu_unseal();
    must(cleat_nccl_sender_close(&sender) == CLEAT_OK);
    config.register_slots = CLEAT_NCCL_REGISTER_NEVER;
    must(cleat_nccl_sender_open(sender_block, sizeof sender_block, &config,
                                &sender, NULL) == CLEAT_OK);
    fake_gpu_seal();
    must(run_all(1) == CLEAT_OK);
    must(registered(1) == 0 && fake_gpu_counts().registrations == 0);
    close_all(1);
}

static void receiver_does_not_register(void)
{
    default_config();
    open_all(2);
    fake_gpu_unseal();
    must(cleat_nccl_receiver_close(&receivers[1].transport) == CLEAT_OK);
    config.register_slots = CLEAT_NCCL_REGISTER_NEVER;
    open_receiver(1);
    fake_gpu_seal();
    must(run(2, 3) == CLEAT_GROUP_FAILED);
    must(receivers[0].joined == CLEAT_GROUP_FAILED);
    must(receivers[1].joined == CLEAT_GROUP_FAILED);
    must(run_all(2) == CLEAT_OK);
    must(registered(2) == 0 && fake_gpu_counts().registrations == 0);
    close_all(2);
}

static void registering_fails(void)
{
    default_config();
    open_all(2);
    fake_gpu_plan("ncclCommRegister#1:fail=2"); /* of any of them */
    must(run(2, 3) < CLEAT_OK || receivers[0].joined < CLEAT_OK ||
         receivers[1].joined < CLEAT_OK);
    must(run_all(2) == CLEAT_OK);
    must(registered(2) == 0 && fake_gpu_counts().registrations == 0);
    close_all(2);
}

static void slots_are_registered_by_all_or_by_none(void **state)
{
    (void)state;
    in_a_process(all_register);
    in_a_process(sender_does_not_register);
    in_a_process(receiver_does_not_register);
    in_a_process(registering_fails);
}

static void plain_memory(void)
{
    default_config();
    config.cuda_library = CLEAT_FAKES "/cuda_without_vmm/libcuda.so.1";
    fake_gpu_attach_files(config.cuda_library, NCCL_LIBRARY);
    open_all(1);
    must(run_all(1) == CLEAT_OK);
    must(registered(1) == 0 && fake_gpu_counts().registrations == 0);
    close_all(1);
}

static void slots_of_plain_memory_are_not_registered(void **state)
{
    pid_t pid = fork();
    int ended = -1;

    (void)state;
    if (pid == 0) {
        (void)alarm(60);
        plain_memory();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &ended, 0), pid);
    assert_int_equal(ended, 0);
}

/* ---- what others have found out ---- */

static void told_of_a_loss(void)
{
    const struct cleat_transport_receiver *t = &receivers[1].transport;
    struct cleat_transport_ticket ticket;

    default_config();
    open_all(2);
    sends_a_part();
    cleat_nccl_receiver_lose(t);
    waits_in_vain(CLEAT_DEVICE_LOST);
    must(strcmp(of_receiver(1).state, "lost") == 0);
    leave_all(2);
    sender.finish(sender.context);
    must(run_all(1) == CLEAT_OK); /* without it */
    cleat_nccl_sender_lose(&sender);
    must(sender.prepare(sender.context, ++generation, 1, &ticket) ==
         CLEAT_DEVICE_LOST);
    must(cleat_nccl_sender_close(&sender) == CLEAT_DEVICE_LOST);
    must(cleat_nccl_receiver_close(&receivers[1].transport) ==
         CLEAT_DEVICE_LOST);
}

static void a_device_that_the_caller_calls_lost_is_lost(void **state)
{
    (void)state;
    in_a_process(told_of_a_loss);
}

/* ---- what loses the device ---- */

/* The sender's device is lost: everything says so, nothing is called. */
static void sender_is_lost(void)
{
    struct cleat_transport_ticket ticket;
    uint32_t acked = 0;
    enum cleat_status said = CLEAT_OK;

    must(strcmp(of_sender().state, "lost") == 0);
    must(cleat_cuda_lost(engine_of(sender.context)->cuda, NULL));
    must(sender.prepare(sender.context, ++generation, 1, &ticket) ==
         CLEAT_DEVICE_LOST);
    must(sender.publish(sender.context, 0, 0, 0, 0) == CLEAT_STATE);
    must(sender.acked(sender.context, 0, &acked, &said) == CLEAT_STATE);
    sender.finish(sender.context);
    must(cleat_nccl_sender_close(&sender) == CLEAT_DEVICE_LOST);
}

/* Waits until the machine has come to rest. */
static void until_lost(void)
{
    struct timespec nap = {0, 1000000};

    for (uint32_t i = 0; i < 20000; i++) {
        if (strcmp(of_sender().state, "lost") == 0) { return; }
        must(strcmp(of_sender().state, "quiesced") != 0);
        (void)nanosleep(&nap, NULL);
    }
    must_failed("the device is lost in time", __FILE__, __LINE__);
}

/* A generation with one receiver that the sender's device does not survive:
 * the receiver hears of it only afterwards. That the group has failed is known
 * before the device is: what never ends is hurried only then. */
static void run_into(enum cleat_status expected)
{
    struct cleat_transport_ticket ticket;

    generation++;
    must(sender.prepare(sender.context, generation, 1, &ticket) == CLEAT_OK);
    begin_receiver(0, &ticket);
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    must(send_all(1) == expected);
    hurry(sender.context, 0, MS(400), MS(400));
    until_lost();
    sender.finish(sender.context);
    end_receiver(0);
    must(has_failed(0));
    sender_is_lost();
}

static void abort_hangs(void)
{
    default_config();
    config.topology = CLEAT_NCCL_FAN_OUT;
    open_all(1);
    fake_gpu_plan("ncclSend#2:late=2 ncclCommAbort#1:never");
    run_into(CLEAT_GROUP_FAILED);
}

static void an_abort_that_does_not_return_loses_the_device(void **state)
{
    (void)state;
    in_a_process(abort_hangs);
}

static void blocked_stream(void)
{
    default_config();
    config.topology = CLEAT_NCCL_FAN_OUT;
    open_all(1);
    fake_gpu_plan("ncclSend#1:never");
    hurry(sender.context, MS(400), 0, 0);
    run_into(CLEAT_GROUP_FAILED);
}

static void a_stream_that_stays_blocked_loses_the_device(void **state)
{
    (void)state;
    in_a_process(blocked_stream);
}

/* The engine is the first of the sender's context. */
static struct nccl_library *library_of_sender(void)
{
    return &((struct nccl_engine *)(void *)sender.context)->nccl;
}

static ncclResult_t id_hangs(ncclUniqueId *id)
{
    (void)id;
    while (pause() != 0) {}
    return ncclInternalError;
}

static void call_hangs_when_preparing(void)
{
    struct cleat_transport_ticket ticket;

    default_config();
    open_all(1);
    hurry_start(sender.context, MS(300));
    library_of_sender()->p_ncclGetUniqueId = id_hangs;
    must(sender.prepare(sender.context, ++generation, 1, &ticket) ==
         CLEAT_DEVICE_LOST);
    sender_is_lost();
}

static ncclResult_t send_hangs(const void *from, size_t count,
                               ncclDataType_t type, int peer, ncclComm_t comm,
                               cudaStream_t stream)
{
    (void)from;
    (void)count;
    (void)type;
    (void)peer;
    (void)comm;
    (void)stream;
    while (pause() != 0) {}
    return ncclInternalError;
}

static void call_hangs_when_sending(void)
{
    default_config();
    config.topology = CLEAT_NCCL_FAN_OUT;
    open_all(1);
    hurry_calls(sender.context, MS(300));
    library_of_sender()->p_ncclSend = send_hangs;
    run_into(CLEAT_DEVICE_LOST);
}

static ncclResult_t register_hangs(const ncclComm_t comm, void *from,
                                   size_t bytes, void **handle)
{
    (void)comm;
    (void)from;
    (void)bytes;
    (void)handle;
    while (pause() != 0) {}
    return ncclInternalError;
}

static void call_hangs_when_registering(void)
{
    struct cleat_transport_ticket ticket;

    default_config();
    open_all(1);
    library_of_sender()->p_ncclCommRegister = register_hangs;
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    hurry_start(sender.context, MS(300));
    begin_receiver(0, &ticket);
    must(sender.group(sender.context, soon()) == CLEAT_DEVICE_LOST);
    sender.finish(sender.context);
    end_receiver(0);
    must(receivers[0].joined < CLEAT_OK || receivers[0].ended < CLEAT_OK);
    sender_is_lost();
}

static void a_call_that_does_not_return_loses_the_device(void **state)
{
    (void)state;
    in_a_process(call_hangs_when_registering);
    in_a_process(call_hangs_when_preparing);
    in_a_process(call_hangs_when_sending);
}

static void sticky(void)
{
    /* The sender is a process of its own here: a sticky error ends all that
     * its process can do. */
    struct cleat_transport_ticket ticket;
    uint64_t bytes_max = 0;
    void *data = NULL;
    uint32_t acked = 0;
    enum cleat_status said = CLEAT_OK;

    default_config();
    open_two(true);
    generation++;
    must(sender.prepare(sender.context, generation, 1, &ticket) == CLEAT_OK);
    begin_receiver(0, &ticket);
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    fake_gpu_plan("cuMemcpyAsync#1:late=700");
    must(sender.slot(sender.context, 0, &data, &bytes_max) == CLEAT_OK);
    memset(data, 1, 64);
    must(sender.publish(sender.context, 0, 0, 64, 0) == CLEAT_OK);
    while (said == CLEAT_OK) {
        must(sender.acked(sender.context, 0, &acked, &said) == CLEAT_OK);
        if (said == CLEAT_OK) { (void)sender.wait(sender.context, soon()); }
    }
    until_lost();
    must(of_sender().code == 700);
    sender.finish(sender.context);
    end_receiver(0);
    sender_is_lost();
}

static void a_sticky_error_loses_the_device_at_once(void **state)
{
    (void)state;
    in_a_process(sticky);
}

/* ---- what the loss of a device ends ---- */

static uint32_t calls_after;
static bool held = true;

static ncclResult_t start_is_held(void)
{
    struct timespec nap = {0, 1000000};

    while (__atomic_load_n(&held, __ATOMIC_ACQUIRE)) {
        (void)nanosleep(&nap, NULL);
    }
    return ncclSuccess;
}

static ncclResult_t counts_send(const void *from, size_t count,
                                ncclDataType_t type, int peer, ncclComm_t comm,
                                cudaStream_t stream)
{
    (void)from;
    (void)count;
    (void)type;
    (void)peer;
    (void)comm;
    (void)stream;
    (void)__atomic_add_fetch(&calls_after, 1, __ATOMIC_SEQ_CST);
    return ncclSuccess;
}

static ncclResult_t counts_end(void)
{
    (void)__atomic_add_fetch(&calls_after, 1, __ATOMIC_SEQ_CST);
    return ncclInvalidUsage;
}

/* A step of several calls, of which the first comes back after the device has
 * been called lost. */
static void comes_back_late(void)
{
    struct timespec nap = {0, 1000000};

    default_config();
    config.topology = CLEAT_NCCL_FAN_OUT;
    open_all(1);
    hurry_calls(sender.context, MS(300));
    library_of_sender()->p_ncclGroupStart = start_is_held;
    library_of_sender()->p_ncclSend = counts_send;
    library_of_sender()->p_ncclGroupEnd = counts_end;
    run_into(CLEAT_DEVICE_LOST);
    __atomic_store_n(&held, false, __ATOMIC_RELEASE);
    for (uint32_t i = 0; i < 50; i++) { (void)nanosleep(&nap, NULL); }
    must(__atomic_load_n(&calls_after, __ATOMIC_SEQ_CST) == 0);
}

static void after_a_loss_no_call_follows_in_a_step(void **state)
{
    (void)state;
    in_a_process(comes_back_late);
}

/* The process is stopped inside a call that does not hang, for longer than the
 * call may take: nobody was there to see whether it came back. */

static ncclResult_t (*real_end)(void);

static ncclResult_t end_is_stopped(void)
{
    static uint32_t ends;

    if (__atomic_add_fetch(&ends, 1, __ATOMIC_SEQ_CST) == 1) {
        (void)raise(SIGSTOP); /* of this thread first */
    }
    return real_end();
}

static void stopped_inside(void)
{
    default_config();
    open_all(1);
    hurry_calls(sender.context, 6 * CLEAT_NS_PER_S);
    real_end = library_of_sender()->p_ncclGroupEnd;
    library_of_sender()->p_ncclGroupEnd = end_is_stopped;
    must(run_all(1) == CLEAT_OK);
    must(of_sender().stops == 0 && of_receiver(0).stops == 0);
    close_all(1);
}

static void a_process_that_was_stopped_has_lost_no_device(void **state)
{
    struct timespec longer = {7, 0}; /* than a call may take */
    pid_t pid = fork();
    int ended = -1;

    (void)state;
    if (pid == 0) {
        (void)alarm(60);
        fake_gpu_attach(CLEAT_FAKES "/lib");
        stopped_inside();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &ended, WUNTRACED), pid);
    assert_true(WIFSTOPPED(ended));
    (void)nanosleep(&longer, NULL);
    assert_int_equal(kill(pid, SIGCONT), 0);
    assert_int_equal(waitpid(pid, &ended, 0), pid);
    assert_int_equal(ended, 0);
}

/* A group's end that fails, though everything in it was taken; and one that is
 * ended because something in it was not. */

static uint32_t fails_left = 1;

static ncclResult_t end_fails(void)
{
    ncclResult_t result = real_end();

    if (__atomic_exchange_n(&fails_left, 0, __ATOMIC_SEQ_CST) == 0) {
        return result;
    }
    return ncclSystemError;
}

static __typeof__(&ncclSend) real_send;

static ncclResult_t send_fails(const void *from, size_t count,
                               ncclDataType_t type, int peer, ncclComm_t comm,
                               cudaStream_t stream)
{
    if (__atomic_exchange_n(&fails_left, 0, __ATOMIC_SEQ_CST) == 0) {
        return real_send(from, count, type, peer, comm, stream);
    }
    return ncclSystemError;
}

static void no_level_is_left_open(void)
{
    must(run(1, 1) == CLEAT_GROUP_FAILED);
    must(has_failed(0));
    must(of_sender().code == ncclSystemError);
    and_again(1);
    must(of_sender().depth_leaked == 0);
    close_all(1);
}

static void groups_end_fails(void)
{
    default_config();
    open_all(1);
    real_end = library_of_sender()->p_ncclGroupEnd;
    library_of_sender()->p_ncclGroupEnd = end_fails;
    no_level_is_left_open();
}

static void send_in_group_fails(void)
{
    default_config();
    config.topology = CLEAT_NCCL_FAN_OUT;
    open_all(1);
    real_send = library_of_sender()->p_ncclSend;
    library_of_sender()->p_ncclSend = send_fails;
    no_level_is_left_open();
}

static void
a_group_of_calls_that_fails_is_ended_and_fails_the_attempt(void **state)
{
    (void)state;
    in_a_process(groups_end_fails);
    in_a_process(send_in_group_fails);
}

/* The machine by itself, in times of its own. */

static struct cleat_nccl_stop forming_from_1000_to_2000(void)
{
    const struct cleat_nccl_stop_config with = {
        .call_ns = 10, .abort_ns = 100, .drain_ns = 50};
    struct cleat_nccl_stop_command command;
    struct cleat_nccl_stop stop;

    assert_int_equal(cleat_nccl_stop_init(&stop, &with), CLEAT_OK);
    assert_int_equal(cleat_nccl_stop_build(&stop, 1000, 1, 2000), CLEAT_OK);
    assert_int_equal(cleat_nccl_stop_next(&stop, 1000, &command), CLEAT_OK);
    assert_int_equal(command.call, CLEAT_NCCL_INIT);
    assert_int_equal(command.deadline_ns, 1010);
    return stop;
}

static void a_gap_puts_off_what_is_inside_and_not_the_forming(void **state)
{
    struct cleat_nccl_stop stop = forming_from_1000_to_2000();

    (void)state;
    cleat_nccl_stop_forgive(&stop, 500);
    assert_int_equal(cleat_nccl_stop_deadline(&stop), 1510);
    assert_int_equal(cleat_nccl_stop_tick(&stop, 1509), CLEAT_OK);
    assert_int_equal(cleat_nccl_stop_tick(&stop, 1510), CLEAT_DEVICE_LOST);
    cleat_nccl_stop_forgive(&stop, 500); /* lost is lost */
    assert_int_equal(stop.state, CLEAT_NCCL_LOST);
    assert_int_equal(cleat_nccl_stop_deadline(&stop), CLEAT_NEVER);
    stop = forming_from_1000_to_2000();
    assert_int_equal(
        cleat_nccl_stop_told(&stop, 1001, CLEAT_NCCL_INIT, CLEAT_PENDING, 0),
        CLEAT_OK);
    cleat_nccl_stop_forgive(&stop, 500);
    assert_int_equal(cleat_nccl_stop_tick(&stop, 1999), CLEAT_OK);
    assert_int_equal(stop.state, CLEAT_NCCL_BUILDING);
    assert_int_equal(cleat_nccl_stop_tick(&stop, 2000), CLEAT_OK);
    assert_int_equal(stop.state, CLEAT_NCCL_ABORTING);
    cleat_nccl_stop_forgive(&stop, 30);
    assert_int_equal(cleat_nccl_stop_tick(&stop, 2129), CLEAT_OK);
    assert_int_equal(cleat_nccl_stop_tick(&stop, 2130), CLEAT_DEVICE_LOST);
}

static void a_pace_is_that_of_the_calls_after_it(void **state)
{
    struct cleat_nccl_stop stop = forming_from_1000_to_2000();
    struct cleat_nccl_stop_command command;

    (void)state;
    cleat_nccl_stop_pace(&stop, 70);
    assert_int_equal(cleat_nccl_stop_deadline(&stop), 1010);
    assert_int_equal(
        cleat_nccl_stop_told(&stop, 1001, CLEAT_NCCL_INIT, CLEAT_PENDING, 0),
        CLEAT_OK);
    assert_int_equal(cleat_nccl_stop_next(&stop, 1002, &command), CLEAT_OK);
    assert_int_equal(command.call, CLEAT_NCCL_POLL);
    assert_int_equal(command.deadline_ns, 1072);
}

/* NCCL says that it is an error of CUDA's, and CUDA that it is one that lasts:
 * an abort would hang. */
static uint32_t aborts_made; /* the sender's: its receiver may leave in peace */

static ncclResult_t counts_abort(ncclComm_t comm)
{
    (void)comm;
    (void)__atomic_add_fetch(&aborts_made, 1, __ATOMIC_SEQ_CST);
    return ncclSuccess;
}

static void behind_an_error(void)
{
    default_config();
    config.topology = CLEAT_NCCL_FAN_OUT;
    open_all(1);
    library_of_sender()->p_ncclCommAbort = counts_abort;
    fake_gpu_plan("ncclSend#2:late=1 cuStreamQuery#1:fail=700");
    run_into(CLEAT_DEVICE_LOST);
    must(__atomic_load_n(&aborts_made, __ATOMIC_SEQ_CST) == 0);
}

static void what_nccl_says_of_cuda_is_looked_into(void **state)
{
    (void)state;
    in_a_process(behind_an_error);
}

/* The copy to the host never ends; NCCL's own stream is idle. */
static void stuck_copy(void)
{
    struct timespec nap = {0, 1000000};
    struct cleat_transport_ticket ticket;

    default_config();
    open_two(false);
    hurry(receivers[0].transport.context, 0, 0, MS(400));
    fake_gpu_plan("cuMemcpyAsync#1:never");
    must(sender.prepare(sender.context, ++generation, 1, &ticket) == CLEAT_OK);
    begin_receiver(0, &ticket);
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    must(publish(0) == CLEAT_OK);
    until_running(receivers[0].transport.context);
    sender.finish(sender.context);
    end_receiver(0);
    must(receivers[0].ended == CLEAT_GROUP_FAILED);
    must(receivers[0].received == 0);
    leave_all(1);
    while (strcmp(of_receiver(0).state, "lost") != 0) {
        must(strcmp(of_receiver(0).state, "quiesced") != 0);
        (void)nanosleep(&nap, NULL);
    }
}

static void a_copy_that_stays_stuck_loses_the_device(void **state)
{
    (void)state;
    in_a_process(stuck_copy);
}

/* How the reaper aborts: in a group, from 2.22 on. */

static ncclResult_t (*real_start)(void);
static uint32_t starts;

static ncclResult_t counts_start(void)
{
    (void)__atomic_add_fetch(&starts, 1, __ATOMIC_SEQ_CST);
    return real_start();
}

static void aborts(uint32_t expected)
{
    struct nccl_library *library;

    open_all(1);
    must(run_all(1) == CLEAT_OK);
    library = &engine_of(receivers[0].transport.context)->nccl;
    real_start = library->p_ncclGroupStart;
    library->p_ncclGroupStart = counts_start;
    close_all(1);
    must(starts == expected);
}

static void aborts_in_a_group(void)
{
    default_config();
    aborts(1);
}

static void aborts_alone(void)
{
    default_config();
    config.nccl_library = CLEAT_FAKES "/nccl_2_19/libnccl.so.2";
    fake_gpu_attach_files(CUDA_LIBRARY, config.nccl_library);
    aborts(0);
}

static void an_abort_is_a_group_where_the_library_has_that(void **state)
{
    pid_t pid;
    int ended = -1;

    (void)state;
    in_a_process(aborts_in_a_group);
    pid = fork();
    if (pid == 0) {
        (void)alarm(60);
        aborts_alone();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &ended, 0), pid);
    assert_int_equal(ended, 0);
}

/* ---- tickets ---- */

static enum cleat_status joins(struct cleat_transport_ticket *ticket,
                               uint32_t index)
{
    const struct cleat_transport_receiver *t = &receivers[0].transport;
    struct cleat_transport_ticket copy = copy_of(ticket);
    enum cleat_status status = t->join(t->context, &copy, index,
                                       now_ns() + MS(50));

    must(copy.fds[0] == -1 && copy.fds[1] == -1);
    t->leave(t->context);
    return status;
}

static void tickets(void)
{
    struct cleat_transport_ticket old;
    struct cleat_transport_ticket ticket;
    struct cleat_transport_ticket bad;
    struct receiver *small = &receivers[2];

    default_config();
    open_all(1);
    must(run_all(1) == CLEAT_OK);
    must(sender.prepare(sender.context, 101, 2, &old) == CLEAT_OK);
    old = copy_of(&old);
    must(sender.prepare(sender.context, 102, 2, &ticket) == CLEAT_OK);
    must(joins(&ticket, 2) == CLEAT_INVALID);
    bad = ticket;
    bad.bytes[0] ^= 1;
    must(joins(&bad, 0) == CLEAT_MALFORMED);
    bad = ticket;
    bad.bytes_count--;
    must(joins(&bad, 0) == CLEAT_MALFORMED);
    bad = ticket;
    bad.bytes[16] = 0xFF; /* ranks */
    bad.bytes[17] = 0xFF;
    must(joins(&bad, 0) == CLEAT_MALFORMED);
    must(joins(&old, 0) == CLEAT_PEER_STALE);  /* a generation that is over */
    must(joins(&ticket, 0) == CLEAT_DEADLINE); /* nobody else comes */
    must(joins(&ticket, 0) == CLEAT_INVALID);  /* not a second time */
    fake_gpu_unseal();
    config.bucket_bytes = BUCKET_BYTES / 2;
    config.device = 4;
    must(cleat_nccl_receiver_open(small->block, sizeof small->block, &config,
                                  &small->transport, NULL) == CLEAT_OK);
    bad = copy_of(&ticket);
    must(small->transport.join(small->transport.context, &bad, 1, soon()) ==
         CLEAT_LIMIT);
    must(cleat_nccl_receiver_close(&small->transport) == CLEAT_OK);
    close_all(1);
}

static void a_ticket_is_checked(void **state)
{
    (void)state;
    in_a_process(tickets);
}

/* ---- waking ---- */

static void woken(void)
{
    const struct cleat_transport_receiver *t = &receivers[0].transport;
    struct cleat_transport_ticket ticket;
    struct cleat_transport_ticket copy;
    const void *data;
    uint64_t bytes;
    uint32_t crc;

    default_config();
    open_all(1);
    generation++;
    must(sender.prepare(sender.context, generation, 1, &ticket) == CLEAT_OK);
    copy = copy_of(&ticket);
    sender.wake(sender.context);
    must(sender.group(sender.context, soon()) == CLEAT_PENDING);
    t->wake(t->context);
    must(t->join(t->context, &copy, 0, soon()) == CLEAT_PENDING);
    must(copy.fds[0] == -1);
    /* Both are called again, and meet. */
    must(t->join(t->context, &copy, 0, soon()) == CLEAT_OK);
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    t->wake(t->context);
    must(t->wait(t->context, 0, soon(), &data, &bytes, &crc) == CLEAT_PENDING);
    must(t->wait(t->context, 0, now_ns() + MS(20), &data, &bytes, &crc) ==
         CLEAT_DEADLINE);
    must(t->wait(t->context, 1, soon(), &data, &bytes, &crc) == CLEAT_STATE);
    must(t->ack(t->context, 0, CLEAT_OK) == CLEAT_STATE);
    sender.wake(sender.context);
    must(sender.wait(sender.context, soon()) == CLEAT_OK);
    sender.finish(sender.context);
    must(t->wait(t->context, 0, soon(), &data, &bytes, &crc) ==
         CLEAT_GROUP_FAILED);
    t->leave(t->context);
    must(run_all(1) == CLEAT_OK);
    close_all(1);
}

static void a_wake_ends_a_wait_and_it_can_go_on(void **state)
{
    (void)state;
    in_a_process(woken);
}

/* ---- opening ---- */

static void refuses(enum cleat_status status, const char *words)
{
    struct cleat_error error;

    must(cleat_nccl_sender_open(sender_block, sizeof sender_block, &config,
                                &sender, &error) == status);
    if (strstr(error.text, words) == NULL) {
        (void)fprintf(stderr, "'%s' is not in '%s'\n", words, error.text);
        _exit(1);
    }
    must(cleat_nccl_receiver_open(receivers[0].block, sizeof receivers[0].block,
                                  &config, &receivers[0].transport,
                                  &error) == status);
    must(strstr(error.text, words) != NULL);
    must(fake_gpu_counts().contexts == 0);
    must(cleat_nccl_sender_close(&sender) == CLEAT_OK);
}

static void bad_input(void)
{
    default_config();
    config.nccl_library = CLEAT_FAKES "/nccl_2_18/libnccl.so.2";
    refuses(CLEAT_UNSUPPORTED, "NCCL 2.18.6; 2.19 or newer");
    default_config();
    config.nccl_library = "libnccl-none.so.2";
    refuses(CLEAT_UNSUPPORTED, "libnccl-none.so.2");
    default_config();
    config.cuda_library = "libcuda-none.so.1";
    refuses(CLEAT_UNSUPPORTED, "libcuda-none.so.1");
    default_config();
    config.device = 8;
    refuses(CLEAT_INVALID, "no device 8: the driver shows 8");
    default_config();
    config.bucket_bytes = UINT64_C(1) << 30;
    fake_gpu_plan("memory=1G");
    refuses(CLEAT_CAPACITY, "3072.0 MiB are needed");
    default_config();
    config.slots_count = 9;
    refuses(CLEAT_INVALID, "8 slots");
    default_config();
    config.topology = 2;
    refuses(CLEAT_INVALID, "topology");
    default_config();
    config.register_slots = 2;
    refuses(CLEAT_INVALID, "register");
    default_config();
    must(setenv("NCCL_COMM_BLOCKING", "1", 1) == 0);
    refuses(CLEAT_UNSUPPORTED, "NCCL_COMM_BLOCKING=1");
    must(setenv("NCCL_COMM_BLOCKING", "0", 1) == 0);
    must(setenv("NCCL_COMM_ID", "host:1", 1) == 0);
    refuses(CLEAT_UNSUPPORTED, "NCCL_COMM_ID=host:1");
    must(unsetenv("NCCL_COMM_ID") == 0);
    must(cleat_nccl_sender_open(sender_block, 100, &config, &sender, NULL) ==
         CLEAT_TOO_SMALL);
}

static void what_cannot_be_opened_is_told_in_words(void **state)
{
    (void)state;
    in_a_process(bad_input);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_arrives_by_broadcast),
        cmocka_unit_test(every_byte_arrives_by_fan_out),
        cmocka_unit_test(every_byte_arrives_from_device_to_device),
        cmocka_unit_test(every_byte_arrives_when_the_library_takes_its_time),
        cmocka_unit_test(one_slot_does),
        cmocka_unit_test(a_receiver_may_have_fewer_slots_than_the_sender),
        cmocka_unit_test(a_library_without_revoke_does),
        cmocka_unit_test(a_wrong_byte_is_found_and_fails_the_attempt),
        cmocka_unit_test(a_peer_that_dies_in_silence_costs_a_deadline),
        cmocka_unit_test(a_peer_that_is_reset_is_told_by_the_library),
        cmocka_unit_test(an_error_that_comes_late_fails_the_attempt),
        cmocka_unit_test(a_failed_init_leaves_no_group_open),
        cmocka_unit_test(a_failed_abort_leaves_no_group_open),
        cmocka_unit_test(a_rank_that_is_missing_costs_a_deadline),
        cmocka_unit_test(who_is_new_does_not_wait_for_an_old_group),
        cmocka_unit_test(groups_are_counted_and_end),
        cmocka_unit_test(who_cannot_join_costs_no_deadline),
        cmocka_unit_test(a_sender_that_cannot_form_the_group_costs_no_deadline),
        cmocka_unit_test(of_two_with_one_index_the_second_is_refused),
        cmocka_unit_test(a_group_that_one_has_left_is_not_counted_on),
        cmocka_unit_test(a_receiver_that_gives_up_stops_the_group),
        cmocka_unit_test(an_error_while_a_bucket_is_on_its_way_ends_it),
        cmocka_unit_test(a_call_that_goes_on_ends_at_its_own_deadline),
        cmocka_unit_test(a_wake_that_comes_early_is_kept),
        cmocka_unit_test(a_slot_on_the_device_is_given_when_nobody_reads_it),
        cmocka_unit_test(a_bucket_that_nobody_takes_costs_its_time),
        cmocka_unit_test(what_is_said_of_a_bucket_is_checked),
        cmocka_unit_test(another_bucket_in_the_slot_is_not_the_one),
        cmocka_unit_test(after_half_a_generation_no_group_is_kept),
        cmocka_unit_test(to_prepare_another_group_is_to_leave_the_old_one),
        cmocka_unit_test(no_two_groups_have_one_epoch),
        cmocka_unit_test(who_joins_anew_leaves_first),
        cmocka_unit_test(who_joins_with_a_lost_device_says_so),
        cmocka_unit_test(a_bucket_stays_on_the_device_until_it_is_acknowledged),
        cmocka_unit_test(slots_are_registered_by_all_or_by_none),
        cmocka_unit_test(slots_of_plain_memory_are_not_registered),
        cmocka_unit_test(a_device_that_the_caller_calls_lost_is_lost),
        cmocka_unit_test(an_abort_that_does_not_return_loses_the_device),
        cmocka_unit_test(a_stream_that_stays_blocked_loses_the_device),
        cmocka_unit_test(a_call_that_does_not_return_loses_the_device),
        cmocka_unit_test(a_sticky_error_loses_the_device_at_once),
        cmocka_unit_test(after_a_loss_no_call_follows_in_a_step),
        cmocka_unit_test(a_process_that_was_stopped_has_lost_no_device),
        cmocka_unit_test(
            a_group_of_calls_that_fails_is_ended_and_fails_the_attempt),
        cmocka_unit_test(a_gap_puts_off_what_is_inside_and_not_the_forming),
        cmocka_unit_test(a_pace_is_that_of_the_calls_after_it),
        cmocka_unit_test(what_nccl_says_of_cuda_is_looked_into),
        cmocka_unit_test(a_copy_that_stays_stuck_loses_the_device),
        cmocka_unit_test(an_abort_is_a_group_where_the_library_has_that),
        cmocka_unit_test(a_ticket_is_checked),
        cmocka_unit_test(a_wake_ends_a_wait_and_it_can_go_on),
        cmocka_unit_test(what_cannot_be_opened_is_told_in_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
