/* Cleat: the parts of the NCCL transport by themselves, over the fake CUDA and
 * NCCL. SPDX-License-Identifier: Apache-2.0
 *
 * A device with its two threads, and groups of one rank. What is to go wrong
 * goes wrong in a function of the library that a test puts in the place of the
 * real one, under the lock, before the threads call it. */
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
#include <time.h>
#include <unistd.h>

#include "cleat/nccl.h"
#include "gpu_process.h"
#include "port/nccl/engine.h"
#include "port/nccl/ticket.h"

/* ---- a device ---- */

static struct nccl_engine engine;
static struct cleat_nccl_config config;

static void default_config(void)
{
    memset(&config, 0, sizeof config);
    config.cuda_library = CLEAT_FAKES "/lib/libcuda.so.1";
    config.nccl_library = CLEAT_FAKES "/lib/libnccl.so.2";
    config.bucket_bytes = 20000;
    /* Nothing is late by accident. */
    config.bucket_ns = 20 * CLEAT_NS_PER_S;
    config.call_ns = 20 * CLEAT_NS_PER_S;
    config.revoke_ns = 20 * CLEAT_NS_PER_S;
    config.abort_ns = 20 * CLEAT_NS_PER_S;
    config.drain_ns = 20 * CLEAT_NS_PER_S;
}

static void open_engine(void)
{
    must(nccl_engine_open(&engine, &config, NULL) == CLEAT_OK);
}

static void close_engine(void)
{
    must(nccl_engine_close(&engine) == CLEAT_OK);
    must(fake_gpu_counts().comms == 0);
    must(fake_gpu_counts().allocations == 0);
    must(fake_gpu_counts().host_allocations == 0);
    must(fake_gpu_counts().contexts == 0);
}

/* With the lock held. */
static void ask_for_an_id(void)
{
    engine.id_wanted = true;
    engine.id_status = CLEAT_PENDING;
    nccl_changed(&engine);
}

/* A group of this rank alone. */
static void form_alone(void)
{
    uint64_t deadline_ns = nccl_now_ns() + 20 * CLEAT_NS_PER_S;
    enum cleat_status status = CLEAT_PENDING;

    nccl_lock(&engine);
    ask_for_an_id();
    while (engine.id_status == CLEAT_PENDING) {
        (void)nccl_wait(&engine, CLEAT_NEVER);
    }
    must(engine.id_status == CLEAT_OK);
    engine.group.epoch = 1;
    engine.group.id = engine.id_made;
    engine.group.ranks = 1;
    while (status == CLEAT_PENDING) {
        status = nccl_form(&engine, deadline_ns);
        if (status == CLEAT_PENDING) { (void)nccl_wait(&engine, deadline_ns); }
    }
    must(status == CLEAT_OK);
    nccl_unlock(&engine);
}

/* Leaves the group, and waits for what comes of it: quiesced or lost. */
static uint8_t stop_and_wait(void)
{
    uint8_t state;

    nccl_lock(&engine);
    nccl_stop(&engine, CLEAT_CANCELLED);
    while (engine.stop.state != CLEAT_NCCL_QUIESCED &&
           engine.stop.state != CLEAT_NCCL_LOST) {
        (void)nccl_wait(&engine, CLEAT_NEVER);
    }
    state = engine.stop.state;
    nccl_unlock(&engine);
    return state;
}

/* A word between a test and what it has put in a library's place. */

static void say(uint32_t *word)
{
    __atomic_store_n(word, 1u, __ATOMIC_RELEASE);
}

static bool is_said(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE) != 0;
}

static void until_said(const uint32_t *word)
{
    struct timespec nap = {0, 100000};

    while (!is_said(word)) { (void)nanosleep(&nap, NULL); }
}

/* ---- tickets ---- */

static struct cleat_transport_ticket inner_ticket(void)
{
    struct cleat_transport_ticket inner;

    memset(&inner, 0, sizeof inner);
    inner.bytes_count = 40;
    for (uint32_t i = 0; i < inner.bytes_count; i++) {
        inner.bytes[i] = (unsigned char)(i + 1);
    }
    for (int i = 0; i < CLEAT_TRANSPORT_TICKET_FDS; i++) { inner.fds[i] = -1; }
    return inner;
}

static struct cleat_transport_ticket ticket_of_three(void)
{
    struct cleat_transport_ticket inner = inner_ticket();
    struct cleat_transport_ticket ticket;
    struct nccl_group group;

    memset(&group, 0, sizeof group);
    group.epoch = 0x0102030405060708;
    group.ranks = 3;
    group.topology = CLEAT_NCCL_FAN_OUT;
    group.registers = 1;
    memset(group.id.internal, 0x5A, sizeof group.id.internal);
    assert_true(nccl_ticket_write(&ticket, &group, true, 20000, &inner));
    return ticket;
}

static bool is_read(struct cleat_transport_ticket ticket)
{
    struct cleat_transport_ticket inner;
    struct nccl_group group;
    bool fresh = false;
    uint32_t units = 0;
    bool ours = nccl_ticket_read(&ticket, &group, &fresh, &units, &inner);

    if (!ours) { assert_int_equal(inner.bytes_count, 0); }
    return ours;
}

/* With another byte in that place. */
static bool is_read_with(uint32_t at, unsigned char byte)
{
    struct cleat_transport_ticket ticket = ticket_of_three();

    assert_int_not_equal(ticket.bytes[at], byte);
    ticket.bytes[at] = byte;
    return is_read(ticket);
}

static void a_ticket_says_what_was_written(void **state)
{
    struct cleat_transport_ticket expected = inner_ticket();
    struct cleat_transport_ticket ticket = ticket_of_three();
    struct cleat_transport_ticket inner;
    struct nccl_group group;
    bool fresh = false;
    uint32_t units = 0;

    (void)state;
    assert_true(nccl_ticket_read(&ticket, &group, &fresh, &units, &inner));
    assert_true(fresh);
    assert_int_equal(units, 5); /* 20000 bytes, in units of 4096 */
    assert_true(group.epoch == 0x0102030405060708);
    assert_int_equal(group.ranks, 3);
    assert_int_equal(group.topology, CLEAT_NCCL_FAN_OUT);
    assert_int_equal(group.registers, 1);
    assert_int_equal(group.id.internal[127], 0x5A);
    assert_int_equal(inner.bytes_count, expected.bytes_count);
    assert_memory_equal(inner.bytes, expected.bytes, expected.bytes_count);
}

static void every_field_of_a_ticket_is_checked(void **state)
{
    struct cleat_transport_ticket ticket = ticket_of_three();

    (void)state;
    assert_true(is_read(ticket));
    for (uint32_t i = 0; i < 4; i++) { /* what it is */
        assert_false(is_read_with(i, 0));
    }
    assert_false(is_read_with(4, 1)); /* its version: an older one */
    assert_false(is_read_with(4, 3));
    assert_false(is_read_with(5, 1));
    assert_false(is_read_with(6, 2));   /* no such topology */
    assert_false(is_read_with(7, 4));   /* no such flag */
    assert_false(is_read_with(16, 1));  /* a group of one, */
    assert_false(is_read_with(16, 0));  /* of none, */
    assert_false(is_read_with(17, 1));  /* and of more than there may be */
    assert_false(is_read_with(18, 39)); /* not as long as it says */
    assert_false(is_read_with(18, 41));
    assert_false(is_read_with(19, 1));
    assert_true(is_read_with(16, 2)); /* a sender and one receiver */
    memset(ticket.bytes + 8, 0, 8);   /* no epoch */
    assert_false(is_read(ticket));
    ticket = ticket_of_three();
    ticket.bytes_count = 151; /* not even a head */
    assert_false(is_read(ticket));
    ticket.bytes_count = CLEAT_TRANSPORT_TICKET_BYTES + 1;
    assert_false(is_read(ticket));
}

/* ---- the library ---- */

static uint32_t levels; /* of groups that are open; UINT32_MAX: for ever */

static ncclResult_t ends_a_level(void)
{
    if (levels == 0) { return ncclInvalidUsage; }
    if (levels != UINT32_MAX) { levels--; }
    return ncclSuccess;
}

static uint32_t unwound(uint32_t open)
{
    struct nccl_library library;

    memset(&library, 0, sizeof library);
    library.p_ncclGroupEnd = ends_a_level;
    levels = open;
    return nccl_unwind(&library);
}

static void groups_are_ended_until_there_is_none(void **state)
{
    (void)state;
    assert_int_equal(unwound(0), 0);
    assert_int_equal(unwound(1), 1);
    assert_int_equal(unwound(3), 3);
    assert_int_equal(levels, 0);
    assert_int_equal(unwound(UINT32_MAX), CLEAT_NCCL_UNWIND_MAX);
}

static struct cleat_nccl_info info_of_version(const char *version)
{
    struct cleat_error error;
    struct cleat_nccl_info info;

    assert_int_equal(setenv("CLEAT_TEST_NCCL_VERSION", version, 1), 0);
    assert_int_equal(cleat_nccl_look(CLEAT_NCCL_EARLY, &info, &error),
                     CLEAT_OK);
    return info;
}

static void
a_function_is_taken_from_a_library_that_has_its_final_form(void **state)
{
    (void)state;
    assert_true(info_of_version("22807").revoke);
    assert_false(info_of_version("22806").revoke);
    assert_true(info_of_version("22807").group_abort);
    assert_true(info_of_version("21901").registers);
    assert_false(info_of_version("21901").revoke);
}

/* ---- opening and closing ---- */

/* A thread's stack that no machine has room for. */
static void no_threads(void)
{
    struct cleat_error error;
    pthread_attr_t attributes;

    default_config();
    must(pthread_attr_init(&attributes) == 0);
    must(pthread_attr_setstacksize(&attributes, (SIZE_MAX >> 1) & ~0xFFFFul) ==
         0);
    must(pthread_setattr_default_np(&attributes) == 0);
    must(nccl_engine_open(&engine, &config, &error) == CLEAT_IO);
    must(strstr(error.text, "gives no thread") != NULL);
    must(fake_gpu_counts().contexts == 0);
    must(fake_gpu_counts().allocations == 0);
    must(fake_gpu_counts().host_allocations == 0);
    must(fake_gpu_counts().streams == 0 && fake_gpu_counts().events == 0);
}

static void an_open_that_gets_no_thread_leaves_nothing(void **state)
{
    (void)state;
    in_a_process(no_threads);
}

static uint32_t went_in;

static ncclResult_t id_hangs(ncclUniqueId *id)
{
    (void)id;
    say(&went_in);
    while (pause() != 0) {}
    return ncclInternalError;
}

static void close_while_inside(void)
{
    default_config();
    config.call_ns = CLEAT_NS_PER_S;
    config.start_ns = CLEAT_NS_PER_S;
    open_engine();
    nccl_lock(&engine);
    engine.nccl.p_ncclGetUniqueId = id_hangs;
    ask_for_an_id();
    nccl_unlock(&engine);
    until_said(&went_in);
    must(nccl_engine_close(&engine) == CLEAT_DEVICE_LOST);
    must(fake_gpu_counts().contexts == 1); /* nothing was freed */
}

static void a_close_ends_though_a_call_does_not_return(void **state)
{
    (void)state;
    in_a_process(close_while_inside);
}

static void close_lets_go(void)
{
    struct cleat_transport_sender control;

    memset(&control, 0, sizeof control);
    default_config();
    open_engine();
    nccl_engine_lose(&engine);
    nccl_lock(&engine);
    engine.wakes = &control; /* it has no wake: a call would be seen */
    nccl_unlock(&engine);
    must(nccl_engine_close(&engine) == CLEAT_DEVICE_LOST);
    /* The threads may live for ever, the caller's control does not. */
    nccl_lock(&engine);
    must(engine.wakes == NULL && engine.fetches_from == NULL);
    nccl_unlock(&engine);
}

static void a_close_lets_go_of_what_is_the_callers(void **state)
{
    (void)state;
    in_a_process(close_lets_go);
}

/* ---- the threads ---- */

static sigset_t owners_mask;
static sigset_t reapers_mask;
static ncclResult_t (*real_id)(ncclUniqueId *id);
static ncclResult_t (*real_abort)(ncclComm_t comm);

static ncclResult_t id_of_the_owner(ncclUniqueId *id)
{
    must(pthread_sigmask(SIG_BLOCK, NULL, &owners_mask) == 0);
    return real_id(id);
}

static ncclResult_t abort_of_the_reaper(ncclComm_t comm)
{
    must(pthread_sigmask(SIG_BLOCK, NULL, &reapers_mask) == 0);
    return real_abort(comm);
}

/* All but those that a fault of the thread's own raises. */
static void blocks_what_is_the_hosts(const sigset_t *mask)
{
    for (int s = 1; s <= SIGRTMAX; s++) {
        bool own = s == SIGBUS || s == SIGFPE || s == SIGILL || s == SIGSEGV;
        bool nobodys = s == SIGKILL || s == SIGSTOP || (s > 31 && s < SIGRTMIN);

        if (!nobodys) { must(sigismember(mask, s) == (own ? 0 : 1)); }
    }
}

static void masks(void)
{
    sigset_t before;
    sigset_t after;

    default_config();
    must(pthread_sigmask(SIG_BLOCK, NULL, &before) == 0);
    open_engine();
    must(pthread_sigmask(SIG_BLOCK, NULL, &after) == 0);
    nccl_lock(&engine);
    real_id = engine.nccl.p_ncclGetUniqueId;
    engine.nccl.p_ncclGetUniqueId = id_of_the_owner;
    real_abort = engine.nccl.p_ncclCommAbort;
    engine.nccl.p_ncclCommAbort = abort_of_the_reaper;
    nccl_unlock(&engine);
    form_alone();
    close_engine();
    blocks_what_is_the_hosts(&owners_mask);
    blocks_what_is_the_hosts(&reapers_mask);
    for (int s = 1; s < 32; s++) { /* and ours is as it was */
        must(sigismember(&before, s) == sigismember(&after, s));
    }
}

static void the_threads_take_no_signal_of_the_hosts(void **state)
{
    (void)state;
    in_a_process(masks);
}

/* ---- after an abort ---- */

static uint32_t busy_stream;

/* The communicator is gone, and a stream has something to do that never ends.
 */
static ncclResult_t abort_leaves_work(ncclComm_t comm)
{
    ncclResult_t result = real_abort(comm);

    fake_gpu_plan("cuMemcpyAsync#1:never");
    must(cleat_cuda_copy(
             engine.cuda, busy_stream, cleat_cuda_slot(engine.cuda, 0),
             (uint64_t)(uintptr_t)cleat_cuda_staging(engine.cuda, 0),
             64) == CLEAT_OK);
    return result;
}

static void stays_busy(void)
{
    default_config();
    config.drain_ns = 300 * CLEAT_NS_PER_MS;
    open_engine();
    nccl_lock(&engine);
    real_abort = engine.nccl.p_ncclCommAbort;
    engine.nccl.p_ncclCommAbort = abort_leaves_work;
    /* Without a group around it, it is over when it returns. */
    engine.nccl.version = CLEAT_NCCL_GROUP_ABORT - 1;
    nccl_unlock(&engine);
    form_alone();
    must(stop_and_wait() == CLEAT_NCCL_LOST);
    must(nccl_engine_close(&engine) == CLEAT_DEVICE_LOST);
}

static void copy_stream_stays_busy(void)
{
    busy_stream = NCCL_COPY_STREAM;
    stays_busy();
}

static void data_stream_stays_busy(void)
{
    busy_stream = NCCL_DATA_STREAM;
    stays_busy();
}

static void each_stream_is_asked_whether_it_has_run_dry(void **state)
{
    (void)state;
    in_a_process(copy_stream_stays_busy);
    in_a_process(data_stream_stays_busy);
}

/* ---- a step whose group goes away ---- */

static uint32_t given; /* the bucket is NCCL's */
static uint32_t asked; /* and its end was asked for */
static uint32_t goes_on;
static __typeof__(&ncclBroadcast) real_broadcast;
static __typeof__(&ncclCommGetAsyncError) real_state;

static ncclResult_t broadcast_is_noted(const void *from, void *to, size_t count,
                                       ncclDataType_t type, int root,
                                       ncclComm_t comm, cudaStream_t stream)
{
    say(&given);
    return real_broadcast(from, to, count, type, root, comm, stream);
}

/* The first question after that is answered when the test lets it, and with
 * how it ends. */
static ncclResult_t state_is_held(ncclComm_t comm, ncclResult_t *state)
{
    ncclResult_t result = ncclSuccess;

    if (!is_said(&given) || is_said(&asked)) { return real_state(comm, state); }
    say(&asked);
    until_said(&goes_on);
    do {
        result = real_state(comm, state);
    } while (result == ncclSuccess && *state == ncclInProgress);
    return result;
}

static void step_ends_late(void)
{
    default_config();
    open_engine();
    nccl_lock(&engine);
    real_broadcast = engine.nccl.p_ncclBroadcast;
    engine.nccl.p_ncclBroadcast = broadcast_is_noted;
    real_state = engine.nccl.p_ncclCommGetAsyncError;
    engine.nccl.p_ncclCommGetAsyncError = state_is_held;
    nccl_unlock(&engine);
    form_alone();
    nccl_lock(&engine);
    engine.ops[0].bytes = 64;
    engine.ops[0].state = NCCL_OP_QUEUED;
    engine.next = 1;
    nccl_changed(&engine);
    nccl_unlock(&engine);
    until_said(&asked);
    nccl_lock(&engine);
    must(engine.ops[0].state == NCCL_OP_GROUPED);
    nccl_stop(&engine, CLEAT_CANCELLED);
    nccl_unlock(&engine);
    say(&goes_on);
    must(stop_and_wait() == CLEAT_NCCL_QUIESCED);
    nccl_lock(&engine);
    must(engine.ops[0].state == NCCL_OP_GROUPED); /* as when it was stopped */
    nccl_unlock(&engine);
    close_engine();
}

static void no_bucket_moves_on_in_a_group_that_is_left(void **state)
{
    (void)state;
    in_a_process(step_ends_late);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_ticket_says_what_was_written),
        cmocka_unit_test(every_field_of_a_ticket_is_checked),
        cmocka_unit_test(groups_are_ended_until_there_is_none),
        cmocka_unit_test(
            a_function_is_taken_from_a_library_that_has_its_final_form),
        cmocka_unit_test(an_open_that_gets_no_thread_leaves_nothing),
        cmocka_unit_test(a_close_ends_though_a_call_does_not_return),
        cmocka_unit_test(a_close_lets_go_of_what_is_the_callers),
        cmocka_unit_test(the_threads_take_no_signal_of_the_hosts),
        cmocka_unit_test(each_stream_is_asked_whether_it_has_run_dry),
        cmocka_unit_test(no_bucket_moves_on_in_a_group_that_is_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
