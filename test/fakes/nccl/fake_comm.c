/* Cleat: an NCCL without a GPU: communicators. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Ranks meet in the world, in a clique whose key comes from the unique id or,
 * for a child, from the parent's key and what the call was given: ranks that
 * give different things wait for each other for ever. */
#define _GNU_SOURCE
#include "fake_nccl.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REGISTRATIONS_MAX 1024
#define MAGIC 0xcafebeefu

struct unique_id {
    uint64_t magic;
    int64_t pid;
    uint64_t count;
    uint64_t seconds;
    uint64_t nanoseconds;
};

struct ncclWindow_vidmem {
    struct ncclComm *comm; /* NULL: free */
};

/* Whole pages, as NCCL's registration cache has them. */
struct registration {
    struct ncclComm *comm; /* NULL: free */
    uint64_t begins;
    uint64_t ends;
    uint32_t references;
};

static struct ncclComm comms[COMMS_MAX];
static uint32_t next_comm;
static struct ncclWindow_vidmem windows[REGISTRATIONS_MAX];
static struct registration registrations[REGISTRATIONS_MAX];
static uint64_t ids;

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ (hash >> 31);
}

static uint64_t hash_bytes(const void *bytes, size_t count)
{
    const unsigned char *byte = bytes;
    uint64_t hash = 1;

    for (size_t i = 0; i < count; i++) hash = mix(hash, byte[i]);
    return hash == 0 ? 1 : hash;
}

static void end_progress(struct ncclComm *comm);

struct ncclComm *comm_at(uint32_t index)
{
    return &comms[index];
}

bool is_comm(const struct ncclComm *comm)
{
    return comm >= comms && comm < comms + COMMS_MAX &&
           comm->state != STATE_NONE;
}

void reset_comms(void)
{
    for (uint32_t i = 0; i < next_comm; i++) end_progress(&comms[i]);
    memset(comms, 0, sizeof comms);
    memset(windows, 0, sizeof windows);
    memset(registrations, 0, sizeof registrations);
    next_comm = 0;
}

/* ---- the bootstrap root --------------------------------------------------
 */

/* What ncclGetUniqueId of 2.28.9 leaves behind: a detached thread, "NCCL
 * BootstrapR", that nobody can tell to stop, and the socket on which it
 * listens. Here it ends when it is told. */
static void *be_root(void *argument)
{
    const struct timespec pause = {0, 2000000};
    const struct fake_root *root = argument;
    int file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint64_t key = 0;
    bool done = false;

    (void)pthread_setname_np(pthread_self(), "NCCL BootstrapR");
    (void)listen(file, 1);
    while (!done) {
        (void)nanosleep(&pause, NULL);
        cuda()->lock();
        if (key == 0) key = root->key;
        done = root->key == 0 || root->key != key || FAKE_LOAD(root->done);
        cuda()->unlock();
    }
    (void)close(file);
    return NULL;
}

static void start_root(struct fake_root *root)
{
    pthread_attr_t detached;
    pthread_t thread;

    if (cuda()->world()->settings.real_roots == 0) return;
    (void)pthread_attr_init(&detached);
    (void)pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    (void)pthread_create(&thread, &detached, be_root, root);
    (void)pthread_attr_destroy(&detached);
}

static struct fake_root *take_root(struct fake_world *world, uint64_t key)
{
    for (uint32_t i = 0; i < FAKE_ROOTS_MAX; i++) {
        struct fake_root *root = &world->roots[i];

        if (root->key != 0 && !root->done) continue;
        root->key = key;
        root->done = false;
        root->process = cuda()->process();
        (void)__atomic_add_fetch(&cuda()->counts()->roots, 1, __ATOMIC_RELAXED);
        return root;
    }
    return NULL;
}

static void add_root(uint64_t key)
{
    struct fake_world *world = cuda()->world();
    struct fake_root *root;

    fake_world_lock(world);
    root = take_root(world, key);
    fake_world_unlock(world);
    if (root != NULL) start_root(root);
}

/* It ends when every rank has checked in, and not before: 2.28.9's
 * src/bootstrap.cc gives it no abort flag. */
static void end_root(uint64_t key)
{
    struct fake_world *world = cuda()->world();

    fake_world_lock(world);
    for (uint32_t i = 0; i < FAKE_ROOTS_MAX; i++) {
        struct fake_root *root = &world->roots[i];

        if (root->key != key || root->done) continue;
        FAKE_STORE(root->done, true);
        (void)__atomic_sub_fetch(&world->processes[root->process].counts.roots,
                                 1, __ATOMIC_RELAXED);
    }
    fake_world_unlock(world);
}

/* Where NCCL_COMM_ID says at which address ranks meet, every id is that one,
 * and none starts a root (2.28.9, src/bootstrap.cc). */
static bool is_told_where(ncclUniqueId *uniqueId)
{
    const char *address = getenv("NCCL_COMM_ID");

    if (address == NULL || *address == '\0') return false;
    memset(uniqueId, 0, sizeof *uniqueId);
    (void)snprintf(uniqueId->internal, sizeof uniqueId->internal, "%s",
                   address);
    return true;
}

static void make_id(ncclUniqueId *uniqueId)
{
    struct unique_id id = {MAGIC, getpid(), ++ids, 0, 0};
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    id.seconds = (uint64_t)now.tv_sec;
    id.nanoseconds = (uint64_t)now.tv_nsec;
    memset(uniqueId, 0, sizeof *uniqueId);
    memcpy(uniqueId, &id, sizeof id);
}

/* Works without a driver. Each one starts a root: seen of 2.28.9, 50 ids left
 * 50 threads and 50 descriptors behind. */
ncclResult_t ncclGetUniqueId(ncclUniqueId *uniqueId)
{
    struct fake_hit hit = {FAKE_NOTHING, 0};
    bool rooted;

    if (uniqueId == NULL) return ncclInvalidArgument;
    if (cuda() != NULL) {
        cuda()->lock();
        cuda()->counts()->calls++;
        hit = cuda()->rule("ncclGetUniqueId");
    }
    rooted = !is_told_where(uniqueId);
    if (rooted) make_id(uniqueId);
    if (cuda() == NULL) return ncclSuccess;
    if (hit.action != FAKE_FAIL) cuda()->counts()->unique_ids++;
    if (hit.action != FAKE_FAIL && rooted) {
        add_root(hash_bytes(uniqueId, sizeof *uniqueId));
    }
    cuda()->unlock();
    return hit.action == FAKE_FAIL ? (ncclResult_t)hit.value : ncclSuccess;
}

/* ---- what a communicator has in its process ------------------------------
 */

static void *be_progress(void *argument)
{
    const struct timespec pause = {0, 1000000};
    const struct ncclComm *comm = argument;
    int file = eventfd(0, EFD_CLOEXEC);

    (void)pthread_setname_np(pthread_self(), "NCCL Progress");
    while (FAKE_LOAD(comm->progress_ends) == 0) {
        (void)nanosleep(&pause, NULL);
    }
    (void)close(file);
    return NULL;
}

/* NCCL 2.28.9 at init: starts proxy threads of its own, and raises the soft
 * RLIMIT_NOFILE to the hard one (src/misc/utils.cc, src/proxy.cc). */
static void start_progress(struct ncclComm *comm)
{
    struct rlimit files;

    if (cuda()->world()->settings.real_threads == 0) return;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    if (pthread_create(&comm->progress, NULL, be_progress, comm) == 0) {
        comm->progress_pid = (int32_t)getpid();
    }
}

/* ncclCommAbort and ncclCommDestroy join them. */
static void end_progress(struct ncclComm *comm)
{
    if (comm->progress_pid != (int32_t)getpid()) return;
    FAKE_STORE(comm->progress_ends, 1u);
    (void)pthread_join(comm->progress, NULL);
    comm->progress_pid = 0;
}

/* ---- cliques -------------------------------------------------------------
 */

bool is_member_gone(const struct fake_member *member)
{
    return member->presence == FAKE_GONE || member->presence == FAKE_LOST ||
           ((member->presence == FAKE_JOINED ||
             member->presence == FAKE_LEAVING) &&
            fake_process_gone(member->pid, member->started));
}

static bool is_over(const struct fake_clique *clique)
{
    for (int i = 0; i < clique->ranks; i++) {
        const struct fake_member *member = &clique->members[i];

        if (member->presence != FAKE_ABSENT && member->presence != FAKE_LEFT &&
            !is_member_gone(member)) {
            return false;
        }
    }
    return true;
}

static struct fake_clique *free_clique(struct fake_world *world)
{
    for (uint32_t i = 0; i < FAKE_CLIQUES_MAX; i++) {
        if (world->cliques[i].key == 0) return &world->cliques[i];
    }
    for (uint32_t i = 0; i < FAKE_CLIQUES_MAX; i++) {
        if (is_over(&world->cliques[i])) return &world->cliques[i];
    }
    return NULL;
}

static struct fake_clique *find_clique(uint64_t key, int ranks)
{
    struct fake_world *world = cuda()->world();
    struct fake_clique *clique;

    for (uint32_t i = 0; i < FAKE_CLIQUES_MAX; i++) {
        if (world->cliques[i].key == key) return &world->cliques[i];
    }
    clique = free_clique(world);
    if (clique == NULL) return NULL;
    if (clique->serial != 0) fake_clique_clear(clique); /* used before */
    clique->ranks = ranks;
    FAKE_STORE(clique->serial, ++world->cliques_made);
    FAKE_STORE(clique->key, key); /* last: its finder may be killed here */
    return clique;
}

/* The clique that it is in, unless all others took it for over. */
struct fake_clique *clique_of(const struct ncclComm *comm)
{
    if (comm->clique == NULL ||
        FAKE_LOAD(comm->clique->serial) != comm->serial) {
        return NULL;
    }
    return comm->clique;
}

static uint64_t host_hash(void)
{
    const char *host = getenv("NCCL_HOSTID");
    char name[256];

    if (host == NULL || *host == '\0') {
        if (gethostname(name, sizeof name) != 0) name[0] = '\0';
        name[sizeof name - 1] = '\0';
        host = name;
    }
    return hash_bytes(host, strlen(host));
}

static void enter_clique(struct ncclComm *comm, struct fake_clique *clique)
{
    struct fake_member *member = &clique->members[comm->rank];
    const struct fake_process *here =
        &cuda()->world()->processes[cuda()->process()];

    memset(member, 0, sizeof *member);
    member->process = cuda()->process();
    member->pid = here->pid;
    member->started = here->started;
    member->host = host_hash();
    member->bus = (uint32_t)comm->device;
    FAKE_STORE(member->presence, (uint32_t)FAKE_JOINED);
    comm->clique = clique;
    comm->serial = clique->serial;
}

/* NCCL 2.28.9, src/bootstrap.cc: a root that is told of one rank twice, or of
 * two numbers of ranks, gives up; whoever came, and whoever comes, waits for
 * ever. So does who comes with an id that has been used. */
static bool join_locked(struct ncclComm *comm, uint64_t key)
{
    struct fake_clique *clique = find_clique(key, comm->ranks);

    comm->stuck = clique == NULL || clique->complete;
    if (comm->stuck) return clique != NULL;
    if (clique->ranks != comm->ranks ||
        clique->members[comm->rank].presence != FAKE_ABSENT) {
        FAKE_STORE(clique->broken, true);
        comm->stuck = true;
        return true;
    }
    enter_clique(comm, clique);
    return true;
}

static void join(struct ncclComm *comm, uint64_t key)
{
    struct fake_world *world = cuda()->world();
    bool has_room;

    comm->key = key;
    fake_world_lock(world);
    has_room = join_locked(comm, key);
    fake_world_unlock(world);
    if (!has_room) {
        cuda()->misuse("ncclCommInitRankConfig",
                       "more than %d groups alive in the world",
                       FAKE_CLIQUES_MAX);
    }
}

/* NCCL 2.28.9, src/init.cc: two ranks on one GPU of one host are refused,
 * "Duplicate GPU detected", invalid usage. Another NCCL_HOSTID makes another
 * host of it (src/misc/utils.cc reads it once a process; here each time, so
 * that one process can be several hosts), and from 2.30.3
 * NCCL_MULTI_RANK_GPU_ENABLE=1 allows it. */
static bool has_duplicates(const struct fake_clique *clique)
{
    const char *allowed = getenv("NCCL_MULTI_RANK_GPU_ENABLE");

    if (FAKE_NCCL_VERSION >= 23003 && allowed != NULL &&
        strcmp(allowed, "1") == 0) {
        return false;
    }
    for (int i = 0; i < clique->ranks; i++) {
        for (int j = 0; j < i; j++) {
            if (clique->members[i].bus == clique->members[j].bus &&
                clique->members[i].host == clique->members[j].host) {
                return true;
            }
        }
    }
    return false;
}

static bool is_everyone_there(const struct fake_clique *clique)
{
    for (int i = 0; i < clique->ranks; i++) {
        if (clique->members[i].presence != FAKE_JOINED ||
            is_member_gone(&clique->members[i])) {
            return false;
        }
    }
    return true;
}

bool is_complete(struct ncclComm *comm)
{
    struct fake_clique *clique = clique_of(comm);

    if (comm->stuck || clique == NULL || FAKE_LOAD(clique->broken)) {
        return false;
    }
    if (!FAKE_LOAD(clique->complete)) {
        if (!is_everyone_there(clique)) return false;
        FAKE_STORE(clique->duplicate, has_duplicates(clique));
        FAKE_STORE(clique->complete, true);
        end_root(clique->key);
    }
    if (clique->duplicate) {
        comm->async = ncclInvalidUsage;
        say(comm, "Duplicate GPU detected");
    }
    return true;
}

bool everyone_left(const struct ncclComm *comm)
{
    const struct fake_clique *clique = clique_of(comm);

    if (clique == NULL) return true;
    for (int i = 0; i < clique->ranks; i++) {
        if (clique->members[i].presence != FAKE_LEAVING &&
            clique->members[i].presence != FAKE_LEFT) {
            return false;
        }
    }
    return true;
}

bool everyone_registered(const struct ncclComm *comm)
{
    const struct fake_clique *clique = clique_of(comm);

    if (clique == NULL) return false;
    for (int i = 0; i < clique->ranks; i++) {
        if (FAKE_LOAD(clique->members[i].windows) < comm->windows) {
            return false;
        }
    }
    return true;
}

static void set_presence(const struct ncclComm *comm,
                         enum fake_presence presence)
{
    struct fake_clique *clique = clique_of(comm);

    if (clique == NULL || clique->members[comm->rank].presence == FAKE_LOST) {
        return;
    }
    FAKE_STORE(clique->members[comm->rank].presence, (uint32_t)presence);
}

/* ---- beginning -----------------------------------------------------------
 */

static struct ncclComm *new_comm(int ranks, int rank)
{
    struct ncclComm *comm;

    if (next_comm == COMMS_MAX) {
        cuda()->misuse("ncclCommInitRankConfig",
                       "more than %d communicators in a process", COMMS_MAX);
        return NULL;
    }
    comm = &comms[next_comm++];
    memset(comm, 0, sizeof *comm);
    comm->state = STATE_INIT;
    comm->rank = rank;
    comm->ranks = ranks;
    comm->device = cuda()->device();
    comm->owner = pthread_self();
    start_progress(comm);
    cuda()->world()->processes[cuda()->process()].rank = rank;
    cuda()->counts()->comms++;
    cuda()->counts()->comms_made++;
    return comm;
}

static bool is_config(const ncclConfig_t *config)
{
    return config == NULL || config->magic == MAGIC;
}

/* User guide, "Environment Variables": NCCL_COMM_BLOCKING, where it is set,
 * overrides what the configuration says (2.28.9, src/init.cc). */
static bool is_blocking(const ncclConfig_t *config, bool otherwise)
{
    const char *forced = getenv("NCCL_COMM_BLOCKING");

    if (forced != NULL && *forced != '\0') return strcmp(forced, "0") != 0;
    if (config == NULL || config->blocking == NCCL_CONFIG_UNDEF_INT) {
        return otherwise;
    }
    return config->blocking != 0;
}

static ncclResult_t init(struct call *call, ncclComm_t *out, const int *place,
                         const void *id, size_t bytes,
                         const ncclConfig_t *config)
{
    struct ncclComm *comm;

    if (out == NULL || place[0] < 1 || place[0] > FAKE_RANKS_MAX ||
        place[1] < 0 || place[1] >= place[0] || !is_config(config)) {
        return ncclInvalidArgument;
    }
    comm = new_comm(place[0], place[1]);
    if (comm == NULL) return ncclInternalError;
    comm->blocking = is_blocking(config, true);
    join(comm, hash_bytes(id, bytes));
    *out = comm;
    (void)begin_job(comm, JOB_INIT, &call->hit);
    return after_job(comm);
}

/* On a thread without a device it returns an error and leaves the thread's
 * group open, as 2.28.9 does. */
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int nranks,
                                    ncclUniqueId commId, int rank,
                                    ncclConfig_t *config)
{
    const int place[2] = {nranks, rank};
    struct call call;

    if (!enter(&call, "ncclCommInitRankConfig", NULL, ALLOW_NO_COMM | LEAKS)) {
        return call.code;
    }
    return leave(&call,
                 init(&call, comm, place, &commId, sizeof commId, config));
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId commId,
                              int rank)
{
    const int place[2] = {nranks, rank};
    struct call call;

    if (!enter(&call, "ncclCommInitRank", NULL, ALLOW_NO_COMM | LEAKS)) {
        return call.code;
    }
    return leave(&call, init(&call, comm, place, &commId, sizeof commId, NULL));
}

#if FAKE_NCCL_VERSION >= 22304
ncclResult_t ncclCommInitRankScalable(ncclComm_t *newcomm, int nranks,
                                      int myrank, int nId,
                                      ncclUniqueId *commIds,
                                      ncclConfig_t *config)
{
    const int place[2] = {nranks, myrank};
    struct call call;

    if (!enter(&call, "ncclCommInitRankScalable", NULL,
               ALLOW_NO_COMM | LEAKS)) {
        return call.code;
    }
    if (nId < 1 || nId > nranks || commIds == NULL) {
        return leave(&call, ncclInvalidArgument);
    }
    return leave(&call, init(&call, newcomm, place, commIds,
                             sizeof *commIds * (size_t)nId, config));
}
#endif

#if FAKE_NCCL_VERSION >= 21801
/* ---- children ------------------------------------------------------------
 */

static struct ncclComm *begin_child(struct ncclComm *parent, int ranks,
                                    int rank, const ncclConfig_t *config)
{
    struct ncclComm *child = new_comm(ranks, rank);

    if (child == NULL) return NULL;
    child->device = parent->device;
    child->blocking = is_blocking(config, parent->blocking);
    child->job = JOB_INIT; /* its own calls must wait for the parent's job */
    parent->child = child;
    return child;
}

/* With the color's members in the order of key, then of rank (nccl.h). */
static void join_split(struct ncclComm *comm, const struct fake_clique *clique)
{
    const struct fake_member *self = &clique->members[comm->rank];
    struct ncclComm *child = comm->child;

    child->ranks = 0;
    child->rank = 0;
    for (int i = 0; i < clique->ranks; i++) {
        const struct fake_member *other = &clique->members[i];

        if (other->color != self->color) continue;
        child->ranks++;
        if (other->key < self->key ||
            (other->key == self->key && i < comm->rank)) {
            child->rank++;
        }
    }
    comm->splitting = false;
    join(child, mix(mix(mix(comm->key, 2), comm->children),
                    (uint64_t)(int64_t)self->color));
}

static bool everyone_split(const struct ncclComm *comm,
                           const struct fake_clique *clique)
{
    for (int i = 0; i < clique->ranks; i++) {
        if (FAKE_LOAD(clique->members[i].splits) < comm->children) {
            return false;
        }
    }
    return true;
}

bool child_is_complete(struct ncclComm *comm)
{
    struct fake_clique *clique = clique_of(comm);

    if (comm->splitting) {
        if (clique == NULL || !everyone_split(comm, clique)) return false;
        if (comm->child == NULL) {
            comm->splitting = false;
            return true;
        }
        join_split(comm, clique);
    }
    return comm->child == NULL || is_complete(comm->child);
}

static ncclResult_t begin_child_job(struct call *call, struct ncclComm *comm,
                                    ncclComm_t *out)
{
    *out = NULL;
    comm->child_out = out;
    (void)begin_job(comm, JOB_CHILD, &call->hit);
    return after_job(comm);
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key,
                           ncclComm_t *newcomm, ncclConfig_t *config)
{
    struct fake_member *member;
    struct call call;

    if (!enter(&call, "ncclCommSplit", comm, ALLOW_REVOKED | LEAKS)) {
        return call.code;
    }
    if (newcomm == NULL || color < NCCL_SPLIT_NOCOLOR || !is_config(config) ||
        clique_of(comm) == NULL) {
        return leave(&call, ncclInvalidArgument);
    }
    comm->children++;
    comm->splitting = true;
    member = &clique_of(comm)->members[comm->rank];
    member->color = color;
    member->key = key;
    FAKE_STORE(member->splits, comm->children);
    comm->child = NULL;
    if (color != NCCL_SPLIT_NOCOLOR) {
        (void)begin_child(comm, comm->ranks, comm->rank, config);
    }
    return leave(&call, begin_child_job(&call, comm, newcomm));
}
#endif

#if FAKE_NCCL_VERSION >= 22703
static bool is_excluded(int rank, const int *excluded, int count)
{
    for (int i = 0; i < count; i++) {
        if (excluded[i] == rank) return true;
    }
    return false;
}

/* The survivors' number, and the new rank of `rank`. */
static int survivors(int ranks, int rank, const int *excluded, int count,
                     int *new_rank, uint64_t *hash)
{
    int survive = 0;

    for (int i = 0; i < ranks; i++) {
        if (is_excluded(i, excluded, count)) {
            *hash = mix(*hash, (uint64_t)i + 1);
            continue;
        }
        if (i == rank) *new_rank = survive;
        survive++;
    }
    return survive;
}

/* NCCL 2.27.3, src/init.cc: with NCCL_SHRINK_ABORT it waits for the streams in
 * the caller, even where the communicator does not block. Its parent must not
 * be destroyed afterwards (pytorch/pytorch#194775). */
static void stop_for_shrink(struct ncclComm *comm, const struct fake_hit *hit)
{
    while ((hit->action == FAKE_NEVER && !cuda()->released()) ||
           cannot_stop(&comm, 1)) {
        wait_a_little();
    }
    drop_works(comm);
    comm->async = ncclSuccess;
    comm->told = false;
    comm->shrunk = true;
}

/* NCCL 2.27.3: those who survive call it, all with the same list; the parent
 * must be idle and healthy, or the flag must be NCCL_SHRINK_ABORT (nccl.h). */
ncclResult_t ncclCommShrink(ncclComm_t comm, int *excludeRanksList,
                            int excludeRanksCount, ncclComm_t *newcomm,
                            ncclConfig_t *config, int shrinkFlags)
{
    const bool aborts = shrinkFlags == NCCL_SHRINK_ABORT;
    struct ncclComm *child;
    struct call call;
    uint64_t key;
    int rank = 0;
    int ranks;

    if (!enter(&call, "ncclCommShrink", comm,
               ALLOW_OTHER | ALLOW_REVOKED | LEAKS |
                   (aborts ? ALLOW_FAILED : 0u))) {
        return call.code;
    }
    if (newcomm == NULL || excludeRanksList == NULL || excludeRanksCount < 1 ||
        (shrinkFlags != NCCL_SHRINK_DEFAULT && !aborts) ||
        is_excluded(comm->rank, excludeRanksList, excludeRanksCount) ||
        !is_config(config)) {
        return leave(&call, ncclInvalidArgument);
    }
    if (aborts) {
        stop_for_shrink(comm, &call.hit);
        call.hit.action = FAKE_NOTHING;
    } else if (works_of(comm) > 0) {
        return leave(&call, refuse(&call, ncclInvalidUsage,
                                   "work is pending on the parent"));
    }
    comm->children++;
    key = mix(mix(comm->key, 3), comm->children);
    ranks = survivors(comm->ranks, comm->rank, excludeRanksList,
                      excludeRanksCount, &rank, &key);
    child = begin_child(comm, ranks, rank, config);
    if (child == NULL) return leave(&call, ncclInternalError);
    join(child, key);
    return leave(&call, begin_child_job(&call, comm, newcomm));
}
#endif

#if FAKE_NCCL_VERSION >= 22902
/* Newer than the header: as their documentation has them. */
ncclResult_t ncclCommGetUniqueId(ncclComm_t comm, ncclUniqueId *uniqueId);
ncclResult_t ncclCommGrow(ncclComm_t comm, int nRanks,
                          const ncclUniqueId *uniqueId, int rank,
                          ncclComm_t *newcomm, ncclConfig_t *config);

static uint64_t grown_key(const struct ncclComm *comm)
{
    return mix(mix(comm->key, 4), comm->children + 1);
}

ncclResult_t ncclCommGetUniqueId(ncclComm_t comm, ncclUniqueId *uniqueId)
{
    struct call call;
    uint64_t key;

    if (!enter(&call, "ncclCommGetUniqueId", comm, ALLOW_IDLE)) {
        return call.code;
    }
    key = grown_key(comm);
    memset(uniqueId, 0, sizeof *uniqueId);
    memcpy(uniqueId, &key, sizeof key);
    return leave(&call, ncclSuccess);
}

static ncclResult_t join_grown(struct call *call, const int *place,
                               const ncclUniqueId *id, ncclComm_t *out,
                               const ncclConfig_t *config)
{
    struct ncclComm *comm;
    uint64_t key;

    if (id == NULL || place[0] < 1 || place[0] > FAKE_RANKS_MAX ||
        place[1] < 0 || place[1] >= place[0]) {
        return ncclInvalidArgument;
    }
    memcpy(&key, id, sizeof key);
    comm = new_comm(place[0], place[1]);
    if (comm == NULL) return ncclInternalError;
    comm->blocking = is_blocking(config, true);
    join(comm, key);
    *out = comm;
    (void)begin_job(comm, JOB_INIT, &call->hit);
    return after_job(comm);
}

ncclResult_t ncclCommGrow(ncclComm_t comm, int nRanks,
                          const ncclUniqueId *uniqueId, int rank,
                          ncclComm_t *newcomm, ncclConfig_t *config)
{
    const int place[2] = {nRanks, rank};
    struct ncclComm *child;
    struct call call;

    if (!enter(&call, "ncclCommGrow", comm,
               ALLOW_OTHER | LEAKS |
                   (comm == NULL ? (unsigned)ALLOW_NO_COMM : 0u))) {
        return call.code;
    }
    if (newcomm == NULL || !is_config(config)) {
        return leave(&call, ncclInvalidArgument);
    }
    if (comm == NULL) {
        return leave(&call,
                     join_grown(&call, place, uniqueId, newcomm, config));
    }
    if (nRanks <= comm->ranks || nRanks > FAKE_RANKS_MAX) {
        return leave(&call, ncclInvalidArgument);
    }
    child = begin_child(comm, nRanks, comm->rank, config);
    if (child == NULL) return leave(&call, ncclInternalError);
    join(child, grown_key(comm));
    comm->children++;
    return leave(&call, begin_child_job(&call, comm, newcomm));
}
#endif

/* ---- ending --------------------------------------------------------------
 */

static void forget_registrations(const struct ncclComm *comm)
{
    for (uint32_t i = 0; i < REGISTRATIONS_MAX; i++) {
        if (registrations[i].comm == comm) {
            cuda()->counts()->registrations -= registrations[i].references;
            registrations[i].comm = NULL;
        }
        if (windows[i].comm == comm) {
            windows[i].comm = NULL;
            cuda()->counts()->windows--;
        }
    }
}

void end_comm(struct ncclComm *comm, enum fake_presence presence)
{
    if (comm->child != NULL) end_comm(comm->child, FAKE_GONE);
    drop_works(comm);
    forget_registrations(comm);
    end_progress(comm);
    set_presence(comm, presence);
    comm->state = STATE_GONE;
    comm->job = JOB_NONE;
    cuda()->counts()->comms--;
}

static bool is_among(const struct ncclComm *comm,
                     struct ncclComm *const *others, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (others[i] == comm) return true;
    }
    return false;
}

/* Stopping waits for the device (2.28.9, commDestroySync in src/init.cc): for
 * kernels behind what never ends, which cannot see that they are aborted, and
 * for the kernels of every other communicator on that device. So all of a
 * device go in one group, from 2.22 on (NVIDIA/nccl#1013,
 * pytorch/pytorch#119797). */
bool cannot_stop(struct ncclComm *const *stopped, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (works_blocked(stopped[i])) return true;
        for (uint32_t j = 0; j < next_comm; j++) {
            if (comms[j].device == stopped[i]->device &&
                comms[j].state != STATE_GONE &&
                !is_among(&comms[j], stopped, count) && works_run(&comms[j])) {
                return true;
            }
        }
    }
    return false;
}

static bool must_wait(struct ncclComm *const *aborted, uint32_t count,
                      const struct fake_hit *hits, uint64_t waited)
{
    for (uint32_t i = 0; i < count; i++) {
        if (hits[i].action == FAKE_NEVER && !cuda()->released()) return true;
        if (hits[i].action == FAKE_DELAY && waited < hits[i].value) {
            return true;
        }
    }
    return cannot_stop(aborted, count) && !cuda()->released();
}

/* Blocks, whatever the communicator was asked for (2.28.9, ncclCommAbort in
 * src/init.cc); what its kernels had written stays. Afterwards it is gone, also
 * after an error. */
ncclResult_t abort_comms(struct ncclComm *const *aborted, uint32_t count,
                         const struct fake_hit *hits)
{
    ncclResult_t code = ncclSuccess;
    uint64_t waited = 0;

    for (uint32_t i = 0; i < count; i++) aborted[i]->ending = true;
    while (must_wait(aborted, count, hits, waited)) {
        wait_a_little();
        waited++;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (hits[i].action == FAKE_LATE) code = (ncclResult_t)hits[i].value;
        if (aborted[i]->state == STATE_GONE) continue;
        end_comm(aborted[i], FAKE_GONE);
        cuda()->counts()->comms_aborted++;
    }
    return code;
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    struct item *item;
    struct call call;

    if (!enter(&call, "ncclCommAbort", comm,
               ALLOW_BUSY | ALLOW_FAILED | ALLOW_OTHER | ALLOW_REVOKED |
                   ALLOW_FINALIZED | LEAKS)) {
        return call.code;
    }
    start_group();
    item = add_item(ITEM_ABORT, comm);
    if (item != NULL) item->hit = call.hit;
    call.hit.action = FAKE_NOTHING; /* it is the abort's, not the group's */
    return leave(&call, end_group(&call));
}

#if FAKE_NCCL_VERSION >= 22807
/* NCCL 2.28.7, src/init.cc: ends the thread that runs a group, in the caller;
 * waits for the streams in a thread of its own, so that the caller can poll. An
 * invalid argument with flags, and where a revoke, a finalize or a destroy has
 * begun. */
ncclResult_t ncclCommRevoke(ncclComm_t comm, int revokeFlags)
{
    struct call call;

    if (!enter(&call, "ncclCommRevoke", comm,
               ALLOW_BUSY | ALLOW_FAILED | ALLOW_REVOKED | ALLOW_FINALIZED |
                   LEAKS)) {
        return call.code;
    }
    if (revokeFlags != NCCL_REVOKE_DEFAULT || comm->state == STATE_REVOKED ||
        comm->state == STATE_FINALIZED || comm->job == JOB_FINALIZE ||
        comm->job == JOB_REVOKE) {
        leak_depth(); /* it returns early */
        return leave(&call, ncclInvalidArgument);
    }
    (void)begin_job(comm, JOB_REVOKE, &call.hit);
    return leave(&call, after_job(comm));
}
#endif

/* User guide, "Finalizing a communicator": done when all that was begun is, and
 * so when every peer has come to it. */
ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    struct call call;

    if (!enter(&call, "ncclCommFinalize", comm, ALLOW_OTHER | LEAKS)) {
        return call.code;
    }
    set_presence(comm, FAKE_LEAVING);
    (void)begin_job(comm, JOB_FINALIZE, &call.hit);
    return leave(&call, after_job(comm));
}

static bool has_dead_peer(const struct ncclComm *comm)
{
    const struct fake_clique *clique = clique_of(comm);

    if (clique == NULL) return false;
    for (int i = 0; i < clique->ranks; i++) {
        if (is_member_gone(&clique->members[i])) return true;
    }
    return false;
}

/* Waits for what is pending, and so for the peers (user guide, "Destroying a
 * communicator": it is collective within a node). On a communicator whose call
 * is in progress it is an error, and leaves the thread's group open. */
ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    struct call call;

    if (!enter(&call, "ncclCommDestroy", comm,
               ALLOW_OTHER | ALLOW_REVOKED | ALLOW_FINALIZED | LEAKS)) {
        return call.code;
    }
    if (comm->shrunk) {
        (void)refuse(&call, ncclSuccess,
                     "destroys what was shrunk with abort: its peers may "
                     "never come; abort it");
    }
    if (has_dead_peer(comm)) {
        (void)refuse(&call, ncclSuccess,
                     "destroys a communicator with a dead peer, who is "
                     "waited for; abort it");
    }
    comm->ending = true;
    while ((works_of(comm) > 0 || call.hit.action == FAKE_NEVER) &&
           !cuda()->released()) {
        wait_a_little();
    }
    end_comm(comm, FAKE_LEFT);
    return leave(&call, ncclSuccess);
}

/* ---- what it is ----------------------------------------------------------
 */

#define ANY_STATE \
    (ALLOW_FAILED | ALLOW_REVOKED | ALLOW_FINALIZED | ALLOW_NO_CONTEXT)

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
    struct call call;

    if (!enter(&call, "ncclCommCount", comm, ANY_STATE)) return call.code;
    *count = comm->ranks;
    return leave(&call, ncclSuccess);
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device)
{
    struct call call;

    if (!enter(&call, "ncclCommCuDevice", comm, ANY_STATE)) return call.code;
    *device = comm->device;
    return leave(&call, ncclSuccess);
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    struct call call;

    if (!enter(&call, "ncclCommUserRank", comm, ANY_STATE)) return call.code;
    *rank = comm->rank;
    return leave(&call, ncclSuccess);
}

/* ---- buffers -------------------------------------------------------------
 */

bool is_registered_with(const struct ncclComm *comm, uint64_t at,
                        uint64_t bytes)
{
    for (uint32_t i = 0; i < REGISTRATIONS_MAX; i++) {
        if (registrations[i].comm == comm && registrations[i].begins <= at &&
            at + bytes <= registrations[i].ends) {
            return true;
        }
    }
    return false;
}

bool is_registered(uint64_t at, uint64_t bytes)
{
    for (uint32_t i = 0; i < REGISTRATIONS_MAX; i++) {
        if (registrations[i].comm != NULL &&
            registrations[i].begins < at + bytes &&
            at < registrations[i].ends) {
            return true;
        }
    }
    return false;
}

#if FAKE_NCCL_VERSION >= 21901
/* NCCL's src/register/register.cc: local, waits for nothing, and remembers
 * whole pages; what lies within a range that is there has the same handle, and
 * another reference. Any device memory is accepted. That of cuMemAlloc has no
 * effect (NCCL_LEGACY_CUDA_REGISTER is off), and NCCL_LOCAL_REGISTER=0 leaves
 * everything out: the handle is NULL then. */
static struct registration *remember(struct ncclComm *comm, uint64_t at,
                                     uint64_t bytes)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t begins = at & ~(page - 1);
    const uint64_t ends = (at + bytes + page - 1) & ~(page - 1);
    struct registration *free_one = NULL;

    for (uint32_t i = 0; i < REGISTRATIONS_MAX; i++) {
        struct registration *there = &registrations[i];

        if (there->comm == comm && there->begins <= begins &&
            ends <= there->ends) {
            there->references++;
            return there;
        }
        if (there->comm == NULL && free_one == NULL) free_one = there;
    }
    if (free_one == NULL) return NULL;
    free_one->comm = comm;
    free_one->begins = begins;
    free_one->ends = ends;
    free_one->references = 1;
    return free_one;
}

static bool is_registering_off(void)
{
    const char *on = getenv("NCCL_LOCAL_REGISTER");

    return on != NULL && strcmp(on, "0") == 0;
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *buff, size_t size,
                              void **handle)
{
    const uint64_t at = (uint64_t)(uintptr_t)buff;
    bool is_virtual = false;
    struct call call;

    if (!enter(&call, "ncclCommRegister", comm, ALLOW_IDLE)) return call.code;
    if (handle == NULL || size == 0) return leave(&call, ncclInvalidArgument);
    if (cuda()->memory(at, size, &is_virtual) == NULL) {
        return leave(&call,
                     refuse(&call, ncclInvalidArgument,
                            "registers what is not whole device memory"));
    }
    *handle = NULL;
    if (is_registering_off()) return leave(&call, ncclSuccess);
    *handle = remember(comm, at, size);
    if (*handle == NULL) return leave(&call, ncclInternalError);
    cuda()->counts()->registrations++;
    if (!is_virtual) cuda()->counts()->plain_registrations++;
    return leave(&call, ncclSuccess);
}

/* A handle that is NULL is none; one that is not known is invalid usage. */
ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle)
{
    struct registration *there = handle;
    struct call call;

    if (!enter(&call, "ncclCommDeregister", comm, ALLOW_REVOKED)) {
        return call.code;
    }
    if (handle == NULL) return leave(&call, ncclSuccess);
    if (there < registrations || there >= registrations + REGISTRATIONS_MAX ||
        there->comm != comm) {
        return leave(&call, ncclInvalidUsage);
    }
    if (works_of(comm) > 0) {
        (void)refuse(&call, ncclInvalidUsage,
                     "deregisters while work is pending");
    }
    cuda()->counts()->registrations--;
    if (--there->references == 0) there->comm = NULL;
    return leave(&call, ncclSuccess);
}
#endif

#if FAKE_NCCL_VERSION >= 22703
/* NCCL 2.27.3, user guide, "Window Registration": all ranks together; virtual
 * memory, and aligned as nccl.h says. */
ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void *buff, size_t size,
                                    ncclWindow_t *win, int winFlags)
{
    bool is_virtual = false;
    struct call call;

    (void)winFlags;
    if (!enter(&call, "ncclCommWindowRegister", comm, ALLOW_IDLE)) {
        return call.code;
    }
    if (win == NULL || (uintptr_t)buff % NCCL_WIN_REQUIRED_ALIGNMENT != 0 ||
        cuda()->memory((uint64_t)(uintptr_t)buff, size, &is_virtual) == NULL ||
        !is_virtual || clique_of(comm) == NULL) {
        return leave(&call, ncclInvalidArgument);
    }
    for (uint32_t i = 0; i < REGISTRATIONS_MAX; i++) {
        if (windows[i].comm != NULL) continue;
        windows[i].comm = comm;
        *win = &windows[i];
        cuda()->counts()->windows++;
        comm->windows++;
        FAKE_STORE(clique_of(comm)->members[comm->rank].windows, comm->windows);
        (void)begin_job(comm, JOB_WINDOW, &call.hit);
        return leave(&call, after_job(comm));
    }
    return leave(&call, ncclInternalError);
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t win)
{
    struct call call;

    if (!enter(&call, "ncclCommWindowDeregister", comm, ALLOW_REVOKED)) {
        return call.code;
    }
    if (win < windows || win >= windows + REGISTRATIONS_MAX ||
        win->comm != comm) {
        return leave(&call, ncclInvalidArgument);
    }
    win->comm = NULL;
    cuda()->counts()->windows--;
    return leave(&call, ncclSuccess);
}
#endif
