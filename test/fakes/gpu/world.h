/* Cleat: what the fake GPU libraries of all processes share.
 * SPDX-License-Identifier: Apache-2.0
 *
 * One file, mapped by every process that loads the fakes and by a test that
 * watches them: settings, rules, counters, and where ranks meet. Its name is
 * in FAKE_GPU_WORLD; without it a process has a world of its own, which its
 * forked children share. FAKE_GPU holds a plan (below), read by whoever
 * makes the world.
 *
 * A plan is settings and rules, separated by blanks or semicolons.
 *
 *   devices=8        GPUs that a process sees
 *   memory=1G        of each (K, M, G)
 *   driver=0         as cuDriverGetVersion says it; 0: of what it was built as
 *   init=0           what cuInit returns (34: the stub library, 100: no GPU)
 *   steps=4          how far one poll advances the queues
 *   manual=0         1: polls advance nothing, only the test does
 *   seed=1           of the choice which queue advances
 *   in_progress=1    polls that say ncclInProgress after each NCCL call
 *   death=silent     what a dead rank's peers see: silent (P2P, NVLink and
 *                    shared memory never report a dead peer) or reset:N (a
 *                    socket does: ncclRemoteError after N polls)
 *   lenient=0        1: misuse is counted and answered as by the real
 *                    libraries, not by abort()
 *   real_roots=0     1: the bootstrap roots that NCCL leaks are real threads
 *                    with a listening socket each
 *   real_threads=0   1: a communicator has a real thread and a descriptor, and
 *                    the first one raises the process's limit of descriptors
 *
 *   CALL#K:ACTION[=V][*TIMES][@process=P][@rank=R]
 *
 * is a rule: from the K-th call of CALL in a process on, TIMES times (1; 0:
 * for ever), ACTION happens. Process P is the P-th to come to the world, rank
 * R is one whose latest communicator has that rank. CALL is a name as in the
 * source (cuMemAlloc, not cuMemAlloc_v2).
 *
 *   fail=E    the call returns E and has no effect
 *   late=E    what the call enqueued fails with E when it is its turn; of an
 *             NCCL call: E is what ncclCommGetAsyncError says in the end
 *   delay=N   what was enqueued begins N ticks later; ncclInProgress for N
 *             polls more; ncclCommAbort returns N milliseconds later
 *   never     what was enqueued never ends, the call never returns, until
 *             the test releases it
 *   hang=N    the call itself returns N milliseconds later; without N, when
 *             the test releases it. Of any call, also one that never blocks
 *   garble    one byte of what arrives is wrong
 *   kill      the process kills itself with SIGKILL
 *   stop      the process stops itself with SIGSTOP
 *
 * A process has a lock of its own for what is its own. What ranks do to each
 * other while they work goes through words that one side writes (FAKE_STORE)
 * and the other reads (FAKE_LOAD), so that a stopped process holds up nobody.
 * The world's lock is for coming, meeting and plans.
 *
 * Test code only. */
#ifndef CLEAT_TEST_FAKE_GPU_WORLD_H
#define CLEAT_TEST_FAKE_GPU_WORLD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FAKE_RANKS_MAX 16
#define FAKE_CLIQUES_MAX 64
#define FAKE_PROCESSES_MAX 256
#define FAKE_RULES_MAX 32
#define FAKE_DEVICES_MAX 16
#define FAKE_ROOTS_MAX 1024
#define FAKE_NAME_MAX 40
#define FAKE_CHUNK 32768u
#define FAKE_ANY (-1)

/* What a slot holds before its bytes come, and after they never came. */
#define FAKE_GARBAGE 0xA5

#define FAKE_LOAD(word) __atomic_load_n(&(word), __ATOMIC_ACQUIRE)
#define FAKE_STORE(word, value) \
    __atomic_store_n(&(word), (value), __ATOMIC_RELEASE)

enum fake_death {
    FAKE_DEATH_SILENT,
    FAKE_DEATH_RESET,
};

enum fake_action {
    FAKE_NOTHING,
    FAKE_FAIL,
    FAKE_LATE,
    FAKE_DELAY,
    FAKE_NEVER,
    FAKE_GARBLE,
    FAKE_KILL,
    FAKE_STOP,
    FAKE_HANG,
};

struct fake_settings {
    uint64_t memory_bytes;
    uint64_t seed;
    uint32_t devices;
    uint32_t driver;
    uint32_t init_code;
    uint32_t steps;
    uint32_t manual;
    uint32_t in_progress;
    uint32_t death; /* enum fake_death */
    uint32_t reset_polls;
    uint32_t lenient;
    uint32_t real_roots;
    uint32_t real_threads;
};

struct fake_rule {
    char call[FAKE_NAME_MAX];
    uint32_t serial; /* 0: free */
    uint32_t first;  /* call, from 1 */
    uint32_t times;  /* 0: for ever */
    uint32_t action; /* enum fake_action */
    int32_t process; /* or FAKE_ANY */
    int32_t rank;    /* or FAKE_ANY */
    uint64_t value;
};

/* Of one process, since it came or since the last reset. */
struct fake_counts {
    uint64_t calls;           /* of either library */
    uint64_t polls;           /* queries of a stream, an event, a comm */
    uint64_t misuses;         /* where lenient; else there is at most one */
    uint64_t no_context;      /* calls that needed a current context */
    uint64_t unpinned_copies; /* asynchronous, from or to such host memory */
    uint64_t capture_modes; /* cuThreadExchangeStreamCaptureMode: a thread that
                               serves makes it once, and no call before its
                               first work */
    uint64_t copies;
    uint64_t copied_bytes;
    uint64_t allocations; /* alive, device memory of any kind */
    uint64_t allocated_bytes;
    uint64_t host_allocations; /* alive: pinned or registered */
    uint64_t handles;          /* of virtual memory: references not released */
    uint64_t reservations;     /* of addresses: alive */
    uint64_t mappings;         /* of virtual memory: alive */
    uint64_t rdma_handles;     /* ever: made for GPUDirect RDMA */
    uint64_t allocating_calls; /* ever: those that a seal forbids */
    uint64_t streams;          /* alive */
    uint64_t default_streams;  /* of them: those that wait for the default
                                  stream, and it for them */
    uint64_t events;           /* alive */
    uint64_t timed_events;     /* of them: those that record the time */
    uint64_t contexts;         /* references to primary contexts */
    uint64_t comms;            /* alive */
    uint64_t comms_made;
    uint64_t comms_aborted;
    uint64_t unique_ids;
    uint64_t roots;         /* bootstrap roots alive: a thread and a
                               descriptor each in the real library */
    uint64_t group_threads; /* NCCL starts one for each non-blocking group */
    uint64_t registrations; /* alive, each reference */
    uint64_t plain_registrations; /* ever, of memory that is not virtual */
    uint64_t windows;             /* alive */
    uint64_t depth_leaks; /* calls that left their thread's group open */
    uint64_t nccl_bytes;  /* received */
    uint64_t rules_fired;
};

struct fake_process {
    int32_t pid;       /* 0: free */
    uint32_t number;   /* the number-th to come */
    uint64_t started;  /* as /proc/PID/stat has it */
    int32_t rank;      /* of the latest communicator, or -1 */
    uint32_t released; /* raised by a test: what never ends does */
    /* Bytes of each device: negative in a child that has freed its parent's. */
    int64_t used[FAKE_DEVICES_MAX];
    struct fake_counts counts;
};

enum fake_presence {
    FAKE_ABSENT,
    FAKE_JOINED,
    FAKE_LEAVING, /* has finalized */
    FAKE_LEFT,    /* destroyed */
    FAKE_GONE,    /* aborted */
    FAKE_LOST,    /* dead because a test said so */
};

struct fake_member {
    uint32_t presence; /* enum fake_presence */
    uint32_t process;  /* index in processes */
    int32_t pid;
    uint64_t started;
    uint64_t host; /* hash of NCCL_HOSTID or of the host's name */
    uint32_t bus;
    uint32_t windows; /* registered so far: a collective call */
    int32_t color;    /* of its latest split */
    int32_t key;
    uint32_t splits;
};

/* From one rank to another: one message at a time, a chunk at a time. */
struct fake_channel {
    uint64_t posted; /* number of the message that the sender has begun */
    uint64_t done;   /* number of the last that was received whole */
    uint64_t bytes;
    uint64_t kind;       /* what operation, on what: the same on both sides */
    uint32_t filled;     /* of data[] */
    uint32_t registered; /* the sender's buffer is */
    unsigned char data[FAKE_CHUNK];
};

struct fake_clique {
    uint64_t key; /* 0: free */
    uint64_t serial;
    int32_t ranks;
    uint32_t root; /* that its bootstrap uses, or FAKE_ROOTS_MAX */
    bool broken;   /* its bootstrap root has given up */
    bool complete; /* everyone was there at once */
    bool duplicate;
    struct fake_member members[FAKE_RANKS_MAX];
    struct fake_channel channels[FAKE_RANKS_MAX][FAKE_RANKS_MAX];
};

struct fake_root {
    uint64_t key; /* of its unique id; 0: free */
    uint32_t process;
    bool done;
};

struct fake_world {
    uint64_t magic;
    uint32_t bytes_of_counts;
    uint32_t serial;
    uint64_t cliques_made;
    uint32_t arrivals;
    pthread_mutex_t lock; /* robust: its holder may be killed */
    struct fake_settings settings;
    struct fake_rule rules[FAKE_RULES_MAX];
    struct fake_process processes[FAKE_PROCESSES_MAX];
    struct fake_root roots[FAKE_ROOTS_MAX];
    struct fake_clique cliques[FAKE_CLIQUES_MAX];
};

/* Maps the world of that name, made if it is not there; NULL or "": one of
 * this process and its children. NULL when that cannot be done: `why` says
 * it. `plan` is for a world that is made now. */
struct fake_world *fake_world_open(const char *path, const char *plan,
                                   const char **why);
void fake_world_close(struct fake_world *world);

void fake_world_lock(struct fake_world *world);
void fake_world_unlock(struct fake_world *world);

/* The rest is called with the lock held. */

/* As it was when it was made, without a plan; processes stay. */
void fake_world_reset(struct fake_world *world);

/* Reads a plan; false: what it could not read is in `fault` (100 bytes). */
bool fake_world_plan(struct fake_world *world, const char *plan, char *fault);

/* Without members, ready for another use; a chunk's bytes stay. */
void fake_clique_clear(struct fake_clique *clique);

/* Bytes of that device that its processes have; one that ended has none. */
uint64_t fake_world_used(const struct fake_world *world, uint32_t device);

/* This process's index, which it gets at its first call. */
uint32_t fake_world_join(struct fake_world *world);

/* Whether that process is no more: reaped or not. A stopped one is there. */
bool fake_process_gone(int32_t pid, uint64_t started);

#endif
