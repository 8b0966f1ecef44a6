/* Cleat: a machine that holds threads up, to be preloaded.
 * SPDX-License-Identifier: Apache-2.0
 *
 * With CLEAT_SHAKE=SEED in the environment, calls into the C library that other
 * threads or processes may see the effect of are held up before or after, at
 * random and mostly not at all. What a busy machine does once in a thousand
 * runs then happens often: a test that takes for done what another thread is
 * about to do fails, and so does a library that does.
 *
 * A thread has one of four moods for its life: often a little, rarely long, and
 * so on. The seed begins the numbers; it cannot bring an order of threads back.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct mood {
    uint32_t calls_of_1000;
    uint32_t delay_max_us;
};

static const struct mood moods[] = {
    {250, 300}, {30, 1000}, {15, 8000}, {5, 30000}};

#define MOODS (sizeof moods / sizeof moods[0])

static bool on;
static uint64_t seed;
static atomic_uint threads; /* of this process, so far */

struct shaken {
    pid_t process; /* a copy in a forked one draws anew */
    const struct mood *mood;
    uint64_t random;
};

static __thread __attribute__((tls_model("initial-exec"))) struct shaken shaken;

/* The kernel's own: what is held up is nobody's call but ours. */
static void sleep_us(uint64_t us)
{
    struct timespec delay = {(time_t)(us / 1000000),
                             (long)(us % 1000000) * 1000};

    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &delay, NULL);
}

/* splitmix64 (Steele, Lea and Flood, 2014) */
static uint64_t draw(uint64_t n)
{
    uint64_t z = shaken.random += UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return (z ^ z >> 31) % n;
}

static void get_up(pid_t process)
{
    shaken.process = process;
    shaken.random = seed * UINT64_C(0xD1342543DE82EF95) +
                    (uint64_t)process * UINT64_C(0x9E3779B1) +
                    atomic_fetch_add(&threads, 1) * UINT64_C(0x85EBCA6B);
    shaken.mood = &moods[draw(MOODS)];
}

static void hold_up(void)
{
    int code = errno;
    pid_t process;

    if (!on) { return; }
    process = getpid();
    if (shaken.process != process) { get_up(process); }
    if (draw(1000) < shaken.mood->calls_of_1000) {
        sleep_us(draw(shaken.mood->delay_max_us));
    }
    errno = code;
}

/* ---- the calls ----------------------------------------------------------- */

#define CALLS(CALL)                                                            \
    CALL(int, accept4,                                                         \
         (int fd, __SOCKADDR_ARG address, socklen_t *bytes, int flags),        \
         (fd, address, bytes, flags))                                          \
    CALL(int, bind, (int fd, __CONST_SOCKADDR_ARG address, socklen_t bytes),   \
         (fd, address, bytes))                                                 \
    CALL(int, close, (int fd), (fd))                                           \
    CALL(int, connect,                                                         \
         (int fd, __CONST_SOCKADDR_ARG address, socklen_t bytes),              \
         (fd, address, bytes))                                                 \
    CALL(int, epoll_ctl,                                                       \
         (int epoll, int what, int fd, struct epoll_event *event),             \
         (epoll, what, fd, event))                                             \
    CALL(int, epoll_wait,                                                      \
         (int epoll, struct epoll_event *events, int max, int timeout),        \
         (epoll, events, max, timeout))                                        \
    CALL(pid_t, fork, (void), ())                                              \
    CALL(int, kill, (pid_t process, int number), (process, number))            \
    CALL(int, listen, (int fd, int backlog), (fd, backlog))                    \
    CALL(int, poll, (struct pollfd * fds, nfds_t count, int timeout),          \
         (fds, count, timeout))                                                \
    CALL(int, ppoll,                                                           \
         (struct pollfd * fds, nfds_t count, const struct timespec *timeout,   \
          const sigset_t *mask),                                               \
         (fds, count, timeout, mask))                                          \
    CALL(int, pthread_cond_broadcast, (pthread_cond_t * changed), (changed))   \
    CALL(int, pthread_cond_signal, (pthread_cond_t * changed), (changed))      \
    CALL(int, pthread_join, (pthread_t thread, void **value), (thread, value)) \
    CALL(int, pthread_mutex_lock, (pthread_mutex_t * lock), (lock))            \
    CALL(int, pthread_mutex_unlock, (pthread_mutex_t * lock), (lock))          \
    CALL(ssize_t, read, (int fd, void *block, size_t bytes),                   \
         (fd, block, bytes))                                                   \
    CALL(ssize_t, recv, (int fd, void *block, size_t bytes, int flags),        \
         (fd, block, bytes, flags))                                            \
    CALL(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags),        \
         (fd, message, flags))                                                 \
    CALL(ssize_t, send, (int fd, const void *block, size_t bytes, int flags),  \
         (fd, block, bytes, flags))                                            \
    CALL(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags),  \
         (fd, message, flags))                                                 \
    CALL(int, waitid, (idtype_t type, id_t id, siginfo_t * info, int options), \
         (type, id, info, options))                                            \
    CALL(pid_t, waitpid, (pid_t process, int *status, int options),            \
         (process, status, options))                                           \
    CALL(ssize_t, write, (int fd, const void *block, size_t bytes),            \
         (fd, block, bytes))

#define DECLARE(type, name, parameters, arguments) \
    static type(*real_##name) parameters;
#define FIND(type, name, parameters, arguments) \
    *(void **)&real_##name = dlsym(RTLD_NEXT, #name);
#define DEFINE(type, name, parameters, arguments) \
    type name parameters                          \
    {                                             \
        type result;                              \
                                                  \
        if (real_##name == NULL) { find(); }      \
        hold_up();                                \
        result = real_##name arguments;           \
        hold_up();                                \
        return result;                            \
    }

CALLS(DECLARE)
static int (*real_pthread_create)(pthread_t *thread,
                                  const pthread_attr_t *attributes,
                                  void *(*run)(void *), void *argument);
static long (*real_syscall)(long number, ...);

/* All at once and before main: dlsym may take memory, which a test may have
 * forbidden by the time of a first call. */
static void find(void)
{
    CALLS(FIND)
    *(void **)&real_pthread_create = dlsym(RTLD_NEXT, "pthread_create");
    *(void **)&real_syscall = dlsym(RTLD_NEXT, "syscall");
}

__attribute__((constructor)) static void begin(void)
{
    const char *text = getenv("CLEAT_SHAKE");

    find();
    if (text == NULL) { return; }
    seed = strtoull(text, NULL, 10);
    on = true;
}

CALLS(DEFINE)

/* Futexes, pidfds and what else has no function of its own. */
long syscall(long number, ...)
{
    long of[6];
    long result;
    va_list list;

    va_start(list, number);
    for (uint32_t i = 0; i < 6; i++) { of[i] = va_arg(list, long); }
    va_end(list);
    if (real_syscall == NULL) { find(); }
    hold_up();
    result = real_syscall(number, of[0], of[1], of[2], of[3], of[4], of[5]);
    hold_up();
    return result;
}

/* A thread may begin long after the call that made it. Its two words are kept
 * here, for a program that may take no memory. */
struct start {
    void *(*run)(void *);
    void *argument;
};

enum { STARTS = 1 << 16 };

static void *run_late(void *words)
{
    struct start start = *(struct start *)words;

    hold_up();
    return start.run(start.argument);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                   void *(*run)(void *), void *argument)
{
    static struct start starts[STARTS];
    static atomic_uint count;
    struct start *start = &starts[atomic_fetch_add(&count, 1) % STARTS];
    int code;

    if (real_pthread_create == NULL) { find(); }
    start->run = run;
    start->argument = argument;
    hold_up();
    code = real_pthread_create(thread, attributes, run_late, start);
    hold_up();
    return code;
}
