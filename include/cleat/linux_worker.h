/* Cleat: the Linux port, the worker's side. SPDX-License-Identifier: Apache-2.0
 *
 * How an inference engine or a trainer takes part in weight updates: it gives
 * callbacks that pause, receive, swap and resume, asks before it serves a
 * request, and runs the loop below. It may be a process of its own, a child of
 * the coordinator, or a thread in the coordinator's process.
 *
 *     init ─▶ run, on a thread of the host's; its serving threads meanwhile:
 *             while (admit) { serve; served; leave } ─▶ close
 *
 * What the worker keeps by itself, whatever the host's callbacks do:
 *  - A command whose {term, epoch} is below the highest seen is refused with
 *    CLEAT_PEER_STALE. It obeys one channel; a coordinator with a higher term
 *    replaces the one before.
 *  - Admission is open only while resumed, not fenced, not torn, attached, and
 *    within the lease. The lease is counted from when it was asked for.
 *  - pause and fence close admission first, and are done when those who were
 *    admitted have left.
 *  - An idempotent command that was done is answered with CLEAT_OK and not
 *    carried out again; an undo is carried out if its step was ever begun, and
 *    otherwise succeeds.
 *  - commit is carried out only when the transfer of that very {term, epoch,
 *    version} has ended with CLEAT_OK and was not finalized. It makes the
 *    worker hold the whole version, and lifts a fence. Otherwise it is
 *    CLEAT_STATE, or CLEAT_OK where that version is held whole already.
 *  - It says which tensors it has (config.layout) before it is told to do
 *    anything, and goes when the coordinator finds that they are not the job's:
 *    see cleat/linux.h.
 *  - When the channel ends: admission closes at once, the transfer is
 *    interrupted, what it left is finalized, and nothing resumes before a next
 *    coordinator says so. Without one, run ends after orphan_timeout_ns; that
 *    of a trainer ends at once, unless it attaches by itself and was not given
 *    a command yet: it then looks for a coordinator as an engine does.
 *  - Who has a channel is no orphan, however long its start takes; the time
 *    counts from the channel's end, and not while it waits to be let in.
 *
 *     step      needs                      does
 *     pause     –                          close, wait for leavers, host.pause
 *     release   paused                     host.release
 *     prepare   paused (engine), new pair  host.prepare
 *     group     prepared                   host.group
 *     send      grouped                    host.transfer, on the data thread
 *     commit    paused, transferred        host.commit, lift the fence
 *     finalize  –                          interrupt, wait, host.finalize
 *     fence     –                          close until a commit, wait
 *     restore   –                          host.restore, if released
 *     resume    whole, restored, no fence, host.resume, if paused; open
 *               attempt finalized
 *
 * "Needs" that are not met are answered with CLEAT_STATE, and trainers answer
 * engines' steps with CLEAT_UNSUPPORTED.
 *
 * Two threads and all descriptors are made at init, in the caller's block;
 * nothing is allocated later. No signal disposition is changed; our threads
 * have all signals blocked but those of a thread's own faults. A host that
 * forks finds in cleat/linux.h what that means.
 */
#ifndef CLEAT_LINUX_WORKER_H
#define CLEAT_LINUX_WORKER_H

#include "cleat/clock.h"
#include "cleat/status.h"
#include "cleat/sync.h"
#include "cleat/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cleat_worker; /* lies at the start of the caller's block */

#define CLEAT_WORKER_ALIGN 64u
#define CLEAT_WORKER_BYTES ((size_t)65536u)

/* A command, as the host sees it. */
struct cleat_worker_command {
    enum cleat_sync_step step;
    uint32_t member;
    uint32_t attempt;
    uint32_t receiver_index;  /* prepare, group, send: which receiver this is */
    uint32_t receivers_count; /* of how many. In prepare: of how many that are
                                 to take part, whoever of them is lost then */
    uint64_t term;
    uint64_t epoch;
    uint64_t version;
    uint64_t deadline_ns; /* absolute, CLOCK_MONOTONIC of this machine */
};

/* What an interceptor does to one command and its answer. All zero: nothing.
 */
struct cleat_worker_fault {
    enum cleat_status refuse; /* not CLEAT_OK: do not carry it out, and answer
                                 this. Before only */
    bool drop;                /* send no answer. After only, as what follows */
    bool duplicate;           /* send it twice */
    bool corrupt;             /* send it with one bit flipped */
    uint64_t delay_ns; /* send it this much later; other commands go on */
};

enum cleat_worker_moment {
    CLEAT_WORKER_BEFORE, /* the command has come; nothing has been done */
    CLEAT_WORKER_AFTER   /* the answer is about to be sent */
};

/* What the host does. A NULL function does nothing and succeeds, except that
 * a NULL transfer is CLEAT_UNSUPPORTED. Each is called by the thread in
 * cleat_worker_run, one at a time, where nothing else is said, SHOULD return
 * by command->deadline_ns, and returns CLEAT_OK or an error, which is the
 * answer. A step that failed may be asked for again, and is then undone as if
 * it had succeeded. */
struct cleat_worker_host {
    void *context;

    /* Bring-up: everything that must be ready before the first update. It may
     * take as long as the coordinator's patience lasts; what it says answers
     * all asking in that time. Called again after an error when the coordinator
     * asks again; not after CLEAT_OK, nor, over one channel, after an error of
     * CLEAT_CLASS_PERMANENT, which is the answer from then on. A transient
     * error means "not yet". */
    enum cleat_status (*start)(void *context);

    /* Admission is closed and nobody is in. */
    enum cleat_status (*pause)(void *context,
                               const struct cleat_worker_command *command);

    /* Gives up, and takes again, what can be rebuilt: a KV cache. */
    enum cleat_status (*release)(void *context,
                                 const struct cleat_worker_command *command);
    enum cleat_status (*restore)(void *context,
                                 const struct cleat_worker_command *command);

    /* Makes ready for one attempt. The sender (member 0) fills *ticket, whose
     * descriptors stay its own, lent until finalize; another leaves it empty,
     * as it comes. */
    enum cleat_status (*prepare)(void *context,
                                 const struct cleat_worker_command *command,
                                 struct cleat_transport_ticket *ticket);

    /* Joins the group that the sender's ticket names. A descriptor that is
     * still in it afterwards is closed; one that was taken is set to -1. */
    enum cleat_status (*group)(void *context,
                               const struct cleat_worker_command *command,
                               struct cleat_transport_ticket *ticket);

    /* Sends or receives everything. On the data thread, while run goes on. It
     * MUST return soon after `interrupt`, which it can tell from
     * cleat_worker_cancelled. Before the first byte is applied over a version
     * that is being served, it calls cleat_worker_torn.
     *   digest   of all bytes sent or received; 0: not told */
    enum cleat_status (*transfer)(void *context,
                                  const struct cleat_worker_command *command,
                                  uint32_t *digest);

    /* Ends what `group` or `transfer` waits for; what they see then in
     * cleat_worker_cancelled is true. Any thread, at any time between init and
     * close, several at once; MUST NOT block. */
    void (*interrupt)(void *context);

    /* Serves the new version from now on. On an error nothing has changed: what
     * was held before is still what would be served. May be asked for again
     * after an error. */
    enum cleat_status (*commit)(void *context,
                                const struct cleat_worker_command *command);

    /* Ends the attempt and gives back what it held, after success and failure
     * alike. No transfer is running. At the end of the channel too: then the
     * step is finalize, the rest as in the attempt's prepare. */
    enum cleat_status (*finalize)(void *context,
                                  const struct cleat_worker_command *command);

    /* Admission opens when it has returned CLEAT_OK. */
    enum cleat_status (*resume)(void *context,
                                const struct cleat_worker_command *command);

    /* For fault injection: sees every command, also CLEAT_SYNC_START, before
     * it is carried out and its answer before it is sent. By the thread in
     * run, and for the answer to send by the data thread, both perhaps at
     * once. It may sleep and may end the process.
     *   status   before: CLEAT_OK; after: the answer
     *   fault    all zero */
    void (*intercept)(void *context, enum cleat_worker_moment moment,
                      const struct cleat_worker_command *command,
                      enum cleat_status status,
                      struct cleat_worker_fault *fault);
};

enum cleat_worker_role { CLEAT_WORKER_ENGINE, CLEAT_WORKER_TRAINER };

/* Zero means the default. */
struct cleat_worker_config {
    enum cleat_worker_role role; /* default: engine */

    /* How it reaches the coordinator. Either `fd`, a connected SOCK_SEQPACKET
     * Unix socket (a spawned child: CLEAT_LINUX_CHANNEL_FD), which is the
     * worker's from here on; or, when socket_path is not NULL, a path to
     * connect to, again and again while nobody listens and after a coordinator
     * has gone, each time for orphan_timeout_ns. A trainer goes to no other
     * than the one whose first command it was given. */
    int fd;
    const char *socket_path; /* at most 107 bytes; copied */
    uint32_t member;         /* told to whom it attaches; with `fd` it is the
                                coordinator who tells */

    uint64_t orphan_timeout_ns; /* default 5 s */
    uint64_t stats_ns; /* how often served counts are sent. Default 100 ms */

    /* What must be alike in all processes of the job: cleat_tensors_layout of
     * the tensors that it sends or receives into. Default 0: not told, and not
     * compared. */
    uint32_t layout;

    uint64_t version; /* what it holds, whole, to begin with. Default 0 */
    bool torn;        /* it holds nothing whole to begin with */
    bool closed;      /* admission begins closed, until the first resume */

    /* The clock of the lease; now_ns NULL: CLOCK_MONOTONIC. Waits and
     * deadlines are of CLOCK_MONOTONIC in any case. */
    struct cleat_clock lease_clock;

    struct cleat_worker_host host;
};

/* Makes a worker and starts its two threads.
 *   block   aligned to CLEAT_WORKER_ALIGN, at least CLEAT_WORKER_BYTES; must
 *           outlive it
 *   config  copied
 * Returns CLEAT_OK; CLEAT_INVALID with the argument's number in error->index
 * (a descriptor that is no such socket included); CLEAT_LIMIT: path too long;
 * CLEAT_TOO_SMALL with the bytes needed in error->offset; CLEAT_IO with errno
 * in port_code. That nobody listens at socket_path is no error. On error *out
 * is NULL, nothing is left and config->fd is still the caller's. */
enum cleat_status cleat_worker_init(void *block, size_t bytes,
                                    const struct cleat_worker_config *config,
                                    struct cleat_worker **out,
                                    struct cleat_error *error);

/* Carries out commands until deadline_ns (absolute; CLEAT_NEVER: until there
 * is nothing more to wait for), and at least those that have come. One thread
 * at a time.
 * Returns CLEAT_PENDING: call again; CLEAT_OK: the coordinator has ended the
 * job; CLEAT_PEER_LOST: there is no coordinator, and has not been one for
 * orphan_timeout_ns (a trainer that was its own: at once); CLEAT_CANCELLED:
 * cleat_worker_stop was called; or why the coordinator has sent it away, as
 * cleat_worker_sent_away has it: CLEAT_PEER_DEVIANT and CLEAT_NOT_FOUND at
 * once, CLEAT_EXISTS orphan_timeout_ns after it was first told so, for until
 * then the place is asked for again. Admission is closed after all but the
 * first. */
enum cleat_status cleat_worker_poll(struct cleat_worker *worker,
                                    uint64_t deadline_ns);

/* cleat_worker_poll, until it says something else than CLEAT_PENDING. */
enum cleat_status cleat_worker_run(struct cleat_worker *worker);

/* Why the last coordinator that it came to has sent it away.
 *   error   filled when it was: one line; may be NULL
 * Any thread. Returns CLEAT_OK: it has not, or has taken it since;
 * CLEAT_PEER_DEVIANT: the job has other tensors, or buckets of another size;
 * CLEAT_EXISTS: the job has a worker with its member number; CLEAT_NOT_FOUND:
 * the job has no such member; with error->index the member. */
enum cleat_status cleat_worker_sent_away(struct cleat_worker *worker,
                                         struct cleat_error *error);

/* Has run and poll return CLEAT_CANCELLED soon, from now on, and closes
 * admission. Any thread. */
void cleat_worker_stop(struct cleat_worker *worker);

/* Offers a connection of a further coordinator. It is asked nothing and obeyed
 * in nothing until its first command: with a higher term than any seen, it
 * replaces the present one, as if that had ended; otherwise it is refused with
 * CLEAT_PEER_STALE. Without a present coordinator it is the present one.
 *   fd   as in the configuration; the worker's on success
 * Any thread. Returns CLEAT_OK; CLEAT_INVALID; CLEAT_NO_SLOT: one is on offer
 * already. */
enum cleat_status cleat_worker_attach(struct cleat_worker *worker, int fd);

/* Interrupts what runs, ends the threads, closes every descriptor. Nobody may
 * be in another call, or admitted. Idempotent; NULL does nothing. */
void cleat_worker_close(struct cleat_worker *worker);

/* ---- for serving threads: lock-free, cheap, any thread ------------------ */

/* May a request be served now? When true, the weights stay as they are, and
 * pause waits, until cleat_worker_leave.
 *   version   filled when true: what is served; may be NULL */
bool cleat_worker_admit(struct cleat_worker *worker, uint64_t *version);
void cleat_worker_leave(struct cleat_worker *worker);

/* A request was served, before leave. `torn`: its bytes were not wholly of the
 * version that admit told. */
void cleat_worker_served(struct cleat_worker *worker, bool torn);

/* When the lease ends, by the lease's clock: an answer to a request carries it
 * with the version, and who receives it later than that drops it. 0: none. */
uint64_t cleat_worker_lease_end(const struct cleat_worker *worker);

/* ---- for the host's callbacks ------------------------------------------- */

/* What is held is not one whole version any more; admission closes. Any
 * thread. Until a commit. */
void cleat_worker_torn(struct cleat_worker *worker);

/* Must the present prepare, group or transfer end? Any thread. */
bool cleat_worker_cancelled(struct cleat_worker *worker);

/* What is held, for a host that wants to show it. *version may be NULL. */
enum cleat_sync_holding cleat_worker_holding(struct cleat_worker *worker,
                                             uint64_t *version);

#ifdef __cplusplus
}
#endif
#endif
