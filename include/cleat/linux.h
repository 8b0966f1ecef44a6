/* Cleat: the Linux port, the coordinator's side.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A clock, worker threads, a mailbox, and the workers themselves: child
 * processes, processes that attach to a Unix socket, or threads of the
 * coordinator's own process. The other end is cleat/linux_worker.h. Needs Linux
 * 5.4 (waitid of a pidfd) and glibc 2.34 (children without our descriptors).
 *
 *     init ─▶ spawn, adopt, listen ─▶ wait (bring-up) ─▶ port ─▶ close
 *
 * Everything is made at init in the caller's block: threads, descriptors, the
 * attributes with which children are started. Nothing is allocated later. No
 * signal disposition is changed, no SIGPIPE is raised, and only children that
 * were spawned here are reaped. Our threads have all signals blocked
 * but those of a thread's own faults (SIGBUS, SIGFPE, SIGILL, SIGSEGV).
 *
 * A control channel is an AF_UNIX socket of type SOCK_SEQPACKET. It keeps
 * frames apart, so that a frame whose digest does not match costs that frame:
 * it is dropped and counted, a command or an answer lost on the way. The end
 * of the channel is seen at once. A packet of no bytes counts as its end.
 *
 * A host or a worker may fork. The copy has none of our threads and must call
 * nothing of these objects, not even to close them; and until it runs another
 * program or ends, it holds a copy of every descriptor. What a call ends is
 * ended there too. Not so by a death: while such a copy of a killed coordinator
 * lives, its workers see no end of their channels (they serve no longer than
 * their leases), and its path counts as listened at. The death of a child, or
 * of a process that attached, is seen all the same.
 */
#ifndef CLEAT_LINUX_H
#define CLEAT_LINUX_H

#include "cleat/clock.h"
#include "cleat/mailbox.h"
#include "cleat/status.h"
#include "cleat/threads.h"
#include "cleat/worker.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every block given to this port starts at a multiple of this many bytes. */
#define CLEAT_LINUX_ALIGN 64u

/* ---- clock ------------------------------------------------------------- */

/* CLOCK_MONOTONIC, in nanoseconds. Deadlines of this port are of it. */
struct cleat_clock cleat_linux_clock(void);

/* ---- threads ----------------------------------------------------------- */

struct cleat_linux_threads_config {
    uint32_t threads;  /* how many; ≤ CLEAT_LINUX_THREADS_MAX. Default 4 */
    uint32_t jobs_max; /* submitted and not begun; ≤ 65536. Default 64 */
};
#define CLEAT_LINUX_THREADS_MAX 256u

/* Bytes of block, as a constant expression of counts that are not zero. */
#define CLEAT_LINUX_THREADS_BYTES(threads, jobs_max) \
    (512u + (size_t)(threads)*8u + (size_t)(jobs_max)*24u)

/* The same, for a configuration; 0 when a count is out of range. */
size_t
cleat_linux_threads_bytes(const struct cleat_linux_threads_config *config);

/* Starts the threads.
 *   block    aligned to CLEAT_LINUX_ALIGN, at least
 *            cleat_linux_threads_bytes(config) bytes; must outlive *out
 *   config   copied; NULL: all defaults
 *   out      filled
 * Returns CLEAT_OK; CLEAT_INVALID: NULL, alignment, a count out of range;
 * CLEAT_TOO_SMALL with the bytes needed in error->offset; CLEAT_IO when the
 * system gives no thread (errno in port_code). On error nothing is left. */
enum cleat_status
cleat_linux_threads_init(void *block, size_t bytes,
                         const struct cleat_linux_threads_config *config,
                         struct cleat_threads *out, struct cleat_error *error);

/* Takes no more jobs, finishes those submitted, and ends the threads. What a
 * job waits for must end by itself. Not from a job. Idempotent. */
void cleat_linux_threads_close(struct cleat_threads *threads);

/* ---- mailbox ----------------------------------------------------------- */

#define CLEAT_LINUX_MAILBOX_MESSAGES_MAX 65536u
#define CLEAT_LINUX_MAILBOX_BYTES(messages_max) \
    (256u + (size_t)(messages_max) * sizeof(struct cleat_message))

/* The same; 0 when the count is out of range. */
size_t cleat_linux_mailbox_bytes(uint32_t messages_max);

/* Makes a mailbox for 1 … CLEAT_LINUX_MAILBOX_MESSAGES_MAX messages.
 *   block   as above, must outlive *out
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset; CLEAT_IO. */
enum cleat_status cleat_linux_mailbox_init(void *block, size_t bytes,
                                           uint32_t messages_max,
                                           struct cleat_mailbox *out,
                                           struct cleat_error *error);

/* Ends it; nobody may be in post or wait, or call them later. Idempotent. */
void cleat_linux_mailbox_close(struct cleat_mailbox *mailbox);

/* ---- workers ----------------------------------------------------------- */

struct cleat_linux_workers; /* lies at the start of the caller's block */

#define CLEAT_LINUX_WORKERS_MAX 1024u

/* The descriptor on which a spawned child finds its control channel. */
#define CLEAT_LINUX_CHANNEL_FD 3

/* Zero means the default, but for the two counts and the mailbox. */
struct cleat_linux_workers_config {
    uint32_t members;  /* 1 … CLEAT_LINUX_WORKERS_MAX: T + R·W */
    uint32_t trainers; /* T: members 0 … T-1; the rest are receivers. Must be
                          1 … members */
    struct cleat_mailbox mailbox; /* gets enum cleat_worker_message; outlives
                                     the object */

    /* How long an engine may serve after it asked for leave to. It asks three
     * times in each. Default 3 s. */
    uint64_t lease_ns;

    /* What two clocks may differ by in the course of one lease. A lease counts
     * as over this long after it ends by our clock. Default lease_ns / 20. */
    uint64_t drift_ns;

    /* How long cleat_linux_workers_close lets children end by themselves.
     * Default 1 s; CLEAT_NONE: not at all. */
    uint64_t grace_ns;

    /* How long after SIGKILL a child may take to become reapable, before it
     * counts as one that cannot be had. Default 5 s. */
    uint64_t reap_ns;

    /* What all workers must have alike, cleat_tensors_layout of their tensors.
     * Default 0: what the first worker says that takes part now and says it,
     * in the order of member numbers, so that the first trainer's word counts
     * where it has come.
     *
     * A worker that says another one in its hello is sent away and told why,
     * before it was given a command, and so before a byte of a tensor moved:
     * it is not there for an update, whatever the transport. Who says none
     * (0) is not compared. Its wait (bring-up) ends with CLEAT_PEER_DEVIANT,
     * which is permanent: a job whose processes were given different tensors
     * must be started otherwise. For one that attaches, nothing happens to the
     * job: the place stays free for a worker that fits. The same goes for one
     * that takes the place of another in a job that has begun. That the
     * comparison is made here and not by each worker before it joins a group
     * costs no attempt and pauses nobody; and the hello is what every worker
     * says, at its start, after a restart and when it attaches. */
    uint32_t layout;
    uint32_t reserved;
};

#define CLEAT_LINUX_WORKERS_BYTES(members) \
    ((size_t)16384u + (size_t)(members)*1024u)

/* The same; 0 when the count is out of range. */
size_t cleat_linux_workers_bytes(uint32_t members);

/* Makes the object and starts its one thread.
 *   block   aligned to CLEAT_LINUX_ALIGN, at least
 *           cleat_linux_workers_bytes(config->members) bytes; must outlive it
 * Returns CLEAT_OK; CLEAT_INVALID with the argument's number in error->index;
 * CLEAT_TOO_SMALL with the bytes needed in error->offset; CLEAT_IO with errno
 * in port_code. On error *out is NULL and nothing is left. */
enum cleat_status cleat_linux_workers_init(
    void *block, size_t bytes, const struct cleat_linux_workers_config *config,
    struct cleat_linux_workers **out, struct cleat_error *error);

/* The contract of cleat/worker.h over these workers. What it adds:
 *  - The ticket in member 0's answer to prepare is kept, with its descriptors,
 *    and goes with every group command of that {term, epoch}. It is dropped
 *    with that attempt's finalize.
 *  - Receivers are numbered: receiver_index counts the members ≥ trainers that
 *    were sent prepare with this {term, epoch}, in the order of their numbers,
 *    and receivers_count is how many. In prepare itself, when it is not yet
 *    known who will be asked, they are member - trainers and
 *    members - trainers: the most that there can be.
 *  - A full mailbox loses no loss, hello or expulsion: they are posted as soon
 *    as there is room. Of answers, the last of each member is kept likewise.
 *    When another worker attaches in its place meanwhile, only the loss is
 *    kept of the one before. Until that has been posted, a command to the
 *    member is meant for the one before: CLEAT_PEER_LOST.
 *  - A member's end is told once as CLEAT_WORKER_LOST, whether its process or
 *    its channel ended first, and after what it said before. When it was being
 *    expelled, the answer to that comes first. Of one that attached, the
 *    process that said hello counts, where it is the one that connected and
 *    can be known (not in a container of its own); that takes a descriptor,
 *    and is left out where more than half of those allowed are taken.
 *  - An expelled child and its process group are killed; the answer comes when
 *    the child is reaped, or CLEAT_PEER_UNFENCED after reap_ns. What has left
 *    the group by itself (setsid) is not followed. A child that the system or
 *    the host reaps before us (SIGCHLD ignored, a wait for any child) counts as
 *    reaped, how it ended unknown; what it left of its group is then not
 *    killed, for the group's number may be another's. An expelled worker that
 *    is not our child loses its channel at once, and the answer comes when its
 *    last lease has run out; it holds none when it was never granted one. A
 *    lease that never ends (lease_ns CLEAT_NEVER) is CLEAT_PEER_UNFENCED.
 *  - Leases are granted by the object's own thread, always. A member that was
 *    sent fence or is being expelled gets none until it answers, with
 *    CLEAT_OK, a commit of a later {term, epoch}. Nor does a worker that takes
 *    the place of one which had been sent a command, until its first commit.
 * Never fails. */
struct cleat_worker_port
cleat_linux_workers_port(struct cleat_linux_workers *workers);

/* Starts a child process for a member that has none: not attached before, or
 * lost and (a child) reaped. The child is the leader of a process group of its
 * own, has no signal blocked, /dev/null as standard input, our standard output
 * and error, the control channel as descriptor CLEAT_LINUX_CHANNEL_FD, and no
 * other descriptor.
 *   path   the program; not searched for
 *   argv   NULL-terminated, argv[0] included
 *   envp   NULL-terminated; NULL: our own environment
 * Any thread. Returns CLEAT_OK; CLEAT_INVALID; CLEAT_EXISTS when the member
 * has a worker, when the end of its last one could not be posted yet, or when
 * it is being expelled, also where that began during the call; CLEAT_IO with
 * errno in port_code. On error no process is left. */
enum cleat_status cleat_linux_workers_spawn(struct cleat_linux_workers *workers,
                                            uint32_t member, const char *path,
                                            char *const argv[],
                                            char *const envp[],
                                            struct cleat_error *error);

/* Takes the coordinator's end of a connected SOCK_SEQPACKET Unix socket whose
 * other end belongs to a worker that is not our child, or that is a thread of
 * this process. The descriptor is ours from here on, on success only; it must
 * not be in use elsewhere, for its connection is shut down at the end.
 * Any thread. Returns CLEAT_OK; CLEAT_INVALID, also for a descriptor that is
 * no such socket; CLEAT_EXISTS as for a child; CLEAT_IO. */
enum cleat_status cleat_linux_workers_adopt(struct cleat_linux_workers *workers,
                                            uint32_t member, int fd,
                                            struct cleat_error *error);

/* Lets workers attach to a Unix socket at `path`; each names its member. One
 * that names a member which has a worker, or none that exists, or that has
 * another layout than the job, is sent away and told why.
 *
 * Who has connected may take as long as it likes to say hello: an engine says
 * it when it has started. There is room for as many of them as there are
 * members, and 16 at least. When it is full, who comes next waits until one of
 * them has said hello or gone, or else until the one that came first has said
 * nothing for 10 s: that one is put out then, and may come again.
 *
 * A socket file that nobody listens on any more is replaced. The file gets
 * mode 0600 and is removed by cleat_linux_workers_close. While it is made, a
 * file of that name with ".cleat-lock" after it is locked.
 *   path   at most 107 bytes; copied
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_LIMIT: path too long; CLEAT_STATE:
 * it listens already; CLEAT_EXISTS: somebody listens there, or begins to at
 * this moment, or the file is no socket; CLEAT_IO with errno in port_code. */
enum cleat_status
cleat_linux_workers_listen(struct cleat_linux_workers *workers,
                           const char *path, struct cleat_error *error);

/* Bring-up: waits until the member has said hello. Each call asks it anew,
 * once; the worker is not started again. Blocks; for worker threads, one at a
 * time for each member.
 *   deadline_ns  absolute; CLEAT_NEVER: none
 * Returns CLEAT_OK: it is ready (at once, when it was); the status that it
 * said hello with, when that is an error; CLEAT_PEER_LOST: its channel or
 * process has ended; CLEAT_PEER_SILENT: the deadline came; CLEAT_PEER_DEVIANT:
 * it claims to be another member, or has another layout than the job (then
 * cleat_linux_worker_sent_away says so); CLEAT_NOT_FOUND: nobody was started or
 * adopted for this member, and nothing listens; CLEAT_CANCELLED: the object is
 * being closed, or was; CLEAT_INVALID. */
enum cleat_status cleat_linux_worker_wait(struct cleat_linux_workers *workers,
                                          uint32_t member,
                                          uint64_t deadline_ns);

/* Who came to be this member and was not taken, last.
 *   error   filled when there was one: a line with both layouts; error->index
 *           the member; may be NULL
 * Any thread. Returns CLEAT_OK: nobody; CLEAT_PEER_DEVIANT: its layout is not
 * the job's; CLEAT_EXISTS: the member had a worker; CLEAT_INVALID. */
enum cleat_status
cleat_linux_worker_sent_away(struct cleat_linux_workers *workers,
                             uint32_t member, struct cleat_error *error);

/* What is known of a member now. */
struct cleat_linux_worker_view {
    bool child;    /* a process that was spawned here */
    bool attached; /* its channel is open */
    bool ready;    /* it has said hello with CLEAT_OK on this channel */
    bool reaped;   /* a child that has ended and was reaped */
    int32_t pid;   /* of the child, or as it said in its hello; 0: not known;
                      the last one's, after it ended */
    int32_t exit_code;   /* of a reaped child that exited; else -1 */
    int32_t exit_signal; /* that ended a reaped child; else 0 */
    uint32_t holding;    /* enum cleat_sync_holding, as last heard */
    uint32_t served;     /* under `version`, as last heard */
    uint32_t torn_served;
    uint64_t version;        /* as last heard; 0: not heard */
    uint64_t lease_end_ns;   /* by the worker's clock, as last heard; 0: none */
    uint64_t granted_end_ns; /* ours: after this, it cannot serve; 0: none */
    uint64_t heard;          /* how many times the four above were heard */
    uint64_t frames_bad;     /* received and dropped: digest, format, member */
    uint64_t frames_unsent;  /* not sent, because the channel was full */
    uint64_t answers_dropped;        /* overtaken while the mailbox was full */
    struct cleat_worker_hello hello; /* the last one that said CLEAT_OK */
};

/* Fills *view. Any thread. Returns CLEAT_OK or CLEAT_INVALID. */
enum cleat_status cleat_linux_worker_look(struct cleat_linux_workers *workers,
                                          uint32_t member,
                                          struct cleat_linux_worker_view *view);

/* Waits until something in a view may have changed since the call before: for
 * a caller that waits for numbers to rise.
 *   seen   in: what the last call gave, 0 at first; out: for the next call
 * Any thread. Returns CLEAT_OK; CLEAT_DEADLINE; CLEAT_CANCELLED, as above. */
enum cleat_status cleat_linux_workers_await(struct cleat_linux_workers *workers,
                                            uint64_t *seen,
                                            uint64_t deadline_ns);

/* Ends everything: tells children and adopted workers that the job is over,
 * closes every channel, lets children end for grace_ns, kills the groups of
 * those that did not, reaps all, ends the thread, removes the socket. Leaves
 * no descriptor, thread, child or file. Idempotent; NULL does nothing.
 * cleat_linux_worker_wait and cleat_linux_workers_await may be under way on
 * other threads, and be called still: they end at once, and the block must stay
 * until they have returned. Nobody may be in another call.
 * Returns CLEAT_OK; CLEAT_PEER_UNFENCED when a killed child could not be
 * reaped within reap_ns (and then that one is left). */
enum cleat_status
cleat_linux_workers_close(struct cleat_linux_workers *workers);

#ifdef __cplusplus
}
#endif
#endif
