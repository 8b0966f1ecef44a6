/* Cleat: the other end of a control channel, by hand. SPDX-License-Identifier:
 * Apache-2.0
 *
 * For tests of one side against frames that the test itself sends and reads.
 * Nothing here waits longer than the watchdog, which fails the test. */
#ifndef CLEAT_TEST_LINUX_PEER_H
#define CLEAT_TEST_LINUX_PEER_H

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "port/linux/channel.h"

#define WATCHDOG_NS (60 * CLEAT_NS_PER_S)
#define PEER_NAME_BYTES 64u

static inline uint64_t peer_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Two connected ends, as a coordinator makes them. */
static inline void peer_pair(int pair[2])
{
    assert_int_equal(
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
}

/* Open descriptors of this process, for a comparison of before and after. */
static inline int peer_count_fds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;

    assert_non_null(folder);
    while (readdir(folder) != NULL) { count++; }
    (void)closedir(folder);
    return count;
}

/* What another thread has accepted is open until that thread has seen its
 * end. */
static inline void peer_await_fds(int wanted)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;

    while (peer_count_fds() != wanted) {
        if (peer_now_ns() > watchdog_ns) { fail_msg("a descriptor is left"); }
        (void)sched_yield();
    }
}

static inline int peer_count_threads(void)
{
    DIR *folder = opendir("/proc/self/task");
    int count = 0;

    assert_non_null(folder);
    while (readdir(folder) != NULL) { count++; }
    (void)closedir(folder);
    return count;
}

/* A thread that has been joined may be listed for a moment longer. */
static inline void peer_await_threads(int wanted)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;

    while (peer_count_threads() != wanted) {
        if (peer_now_ns() > watchdog_ns) { fail_msg("a thread is left"); }
        (void)sched_yield();
    }
}

/* Leaves its name among the threads of this process. */
static inline void *peer_tell_name(void *path)
{
    (void)snprintf(path, PEER_NAME_BYTES, "/proc/self/task/%ld",
                   (long)syscall(SYS_gettid));
    return NULL;
}

/* A sanitizer starts a thread of its own beside the program's first one: this
 * makes it do so before anything is counted, and waits until the other is not
 * counted any more. */
static inline void peer_warm_up(void)
{
    char path[PEER_NAME_BYTES] = "";
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
    pthread_t thread;

    if (pthread_create(&thread, NULL, peer_tell_name, path) != 0) { return; }
    (void)pthread_join(thread, NULL);
    while (access(path, F_OK) == 0 && peer_now_ns() < watchdog_ns) {
        (void)sched_yield();
    }
}

/* The next packet of any kind; false when there is none now and `wait` is
 * false, or at the end of the channel (then *ended). */
static inline bool peer_next(int fd, bool wait,
                             struct cleat_channel_packet *packet, bool *ended)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;

    *ended = false;
    for (;;) {
        enum cleat_status status = cleat_channel_receive(fd, packet);
        if (status == CLEAT_OK) { return true; }
        if (status == CLEAT_PEER_LOST) {
            *ended = true;
            return false;
        }
        if (status == CLEAT_PENDING && !wait) { return false; }
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        (void)poll(&readable, 1, 1000);
        if (peer_now_ns() > watchdog_ns) { fail_msg("no frame came"); }
    }
}

/* The next packet of one kind; others are thrown away. */
static inline struct cleat_channel_packet
peer_expect(int fd, enum cleat_control_kind kind)
{
    uint64_t watchdog_ns = peer_now_ns() + WATCHDOG_NS;
    struct cleat_channel_packet packet;
    bool ended = false;

    for (;;) {
        if (!peer_next(fd, true, &packet, &ended)) {
            fail_msg("the channel ended while a frame was waited for");
        }
        if (packet.frame.kind == kind) { return packet; }
        cleat_channel_packet_close(&packet);
        if (peer_now_ns() > watchdog_ns) { fail_msg("no such frame came"); }
    }
}

/* Is one of that kind there now? Others are thrown away. */
static inline bool peer_has(int fd, enum cleat_control_kind kind)
{
    struct cleat_channel_packet packet;
    bool ended = false;

    while (peer_next(fd, false, &packet, &ended)) {
        cleat_channel_packet_close(&packet);
        if (packet.frame.kind == kind) { return true; }
    }
    return false;
}

static inline void peer_send(int fd, const struct cleat_control_frame *frame)
{
    assert_int_equal(cleat_channel_send(fd, frame, NULL), CLEAT_OK);
}

/* A block for an object, zeroed, aligned as the port wants it. */
static inline void *peer_block(size_t bytes)
{
    void *block = NULL;

    assert_int_equal(posix_memalign(&block, 64, bytes), 0);
    memset(block, 0, bytes);
    return block;
}

#endif
