/* Cleat: how tests command the fake GPU libraries. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "control.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "link.h"

static const struct fake_cuda *cuda;
static const struct fake_nccl *nccl;
static void *libcuda;
static void *libnccl;
static struct fake_world *watched;

_Noreturn static void give_up(const char *what, const char *why)
{
    (void)fprintf(stderr, "fake GPU: %s: %s\n", what, why);
    abort();
}

/* The function of that name, as an object pointer. */
static void *load(const char *path, const char *symbol, void **library)
{
    void *found;

    *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (*library == NULL) give_up(path, dlerror());
    found = dlsym(*library, symbol);
    if (found == NULL) give_up(path, "is not a fake");
    return found;
}

void fake_gpu_attach_files(const char *cuda_path, const char *nccl_path)
{
    __typeof__(&fake_cuda) get_cuda;
    __typeof__(&fake_nccl) get_nccl;
    void *found;

    if (cuda_path != NULL) {
        found = load(cuda_path, "fake_cuda", &libcuda);
        memcpy(&get_cuda, &found, sizeof get_cuda);
        cuda = get_cuda();
        if (cuda->layout != FAKE_LAYOUT) {
            give_up(cuda_path, "is of another build");
        }
    }
    if (nccl_path != NULL) {
        found = load(nccl_path, "fake_nccl", &libnccl);
        memcpy(&get_nccl, &found, sizeof get_nccl);
        nccl = get_nccl();
        if (nccl->layout != FAKE_LAYOUT) {
            give_up(nccl_path, "is of another build");
        }
    }
}

void fake_gpu_attach(const char *folder)
{
    char cuda_path[4096];
    char nccl_path[4096];

    (void)snprintf(cuda_path, sizeof cuda_path, "%s/libcuda.so.1", folder);
    (void)snprintf(nccl_path, sizeof nccl_path, "%s/libnccl.so.2", folder);
    fake_gpu_attach_files(cuda_path, nccl_path);
}

void *fake_gpu_libcuda(void)
{
    return libcuda;
}

void *fake_gpu_libnccl(void)
{
    return libnccl;
}

void fake_gpu_watch(const char *path, const char *plan)
{
    const char *why = NULL;

    watched = fake_world_open(path, plan, &why);
    if (watched == NULL) give_up(path, why);
}

/* ---- both ----------------------------------------------------------------
 */

/* A watcher only reads, but for plans. */
static struct fake_world *begin(void)
{
    if (cuda != NULL) {
        cuda->lock();
        return cuda->world();
    }
    if (watched == NULL) give_up("no world", "attach or watch first");
    return watched;
}

static void end(void)
{
    if (cuda != NULL) cuda->unlock();
}

void fake_gpu_plan(const char *plan)
{
    char fault[100];
    struct fake_world *world = begin();
    bool read;

    fake_world_lock(world);
    read = fake_world_plan(world, plan, fault);
    fake_world_unlock(world);
    end();
    if (!read) give_up("a plan", fault);
}

struct fake_settings fake_gpu_settings(void)
{
    struct fake_settings settings = begin()->settings;

    end();
    return settings;
}

static struct fake_process *process_of(struct fake_world *world, pid_t pid)
{
    for (uint32_t i = 0; i < FAKE_PROCESSES_MAX; i++) {
        if (world->processes[i].pid == pid) return &world->processes[i];
    }
    return NULL;
}

bool fake_gpu_counts_of(pid_t pid, struct fake_counts *counts)
{
    const struct fake_process *process = process_of(begin(), pid);

    if (process != NULL) *counts = process->counts;
    end();
    return process != NULL;
}

void fake_gpu_release_process(pid_t pid)
{
    struct fake_process *process = process_of(begin(), pid);

    if (process != NULL) FAKE_STORE(process->released, 1u);
    end();
    if (process == NULL) give_up("release", "no such process in the world");
}

/* ---- with the fakes loaded -----------------------------------------------
 */

static void needs_cuda(void)
{
    if (cuda == NULL) give_up("libcuda.so.1", "attach first");
}

static void needs_nccl(void)
{
    if (nccl == NULL) give_up("libnccl.so.2", "attach first");
}

void fake_gpu_reset(void)
{
    needs_cuda();
    if (nccl != NULL) nccl->reset();
    cuda->reset();
}

struct fake_counts fake_gpu_counts(void)
{
    struct fake_counts counts;

    needs_cuda();
    cuda->lock();
    counts = *cuda->counts();
    cuda->unlock();
    return counts;
}

void fake_gpu_release(void)
{
    needs_cuda();
    cuda->lock();
    FAKE_STORE(cuda->world()->processes[cuda->process()].released, 1u);
    cuda->unlock();
}

void fake_gpu_seal(void)
{
    needs_cuda();
    cuda->seal(true);
}

void fake_gpu_unseal(void)
{
    needs_cuda();
    cuda->seal(false);
}

uint32_t fake_gpu_pump(uint32_t steps)
{
    uint32_t moved;

    needs_cuda();
    cuda->lock();
    moved = cuda->pump(steps);
    cuda->unlock();
    return moved;
}

bool fake_gpu_drain(void)
{
    for (uint32_t still = 0; still < 10000; still++) {
        if (fake_gpu_pending() == 0) return true;
        if (fake_gpu_pump(1) > 0) still = 0;
    }
    return false;
}

uint32_t fake_gpu_streams(void)
{
    uint32_t streams;

    needs_cuda();
    cuda->lock();
    streams = cuda->streams();
    cuda->unlock();
    return streams;
}

bool fake_gpu_step(uint32_t stream)
{
    bool moved;

    needs_cuda();
    cuda->lock();
    moved = cuda->step(stream);
    cuda->unlock();
    return moved;
}

void fake_gpu_choose(uint32_t (*choose)(void *arg, uint32_t n), void *arg)
{
    needs_cuda();
    cuda->lock();
    cuda->choose(choose, arg);
    cuda->unlock();
}

uint64_t fake_gpu_pending(void)
{
    uint64_t pending;

    needs_cuda();
    cuda->lock();
    pending = cuda->pending();
    cuda->unlock();
    return pending;
}

uint64_t fake_gpu_now(void)
{
    uint64_t now;

    needs_cuda();
    cuda->lock();
    now = cuda->now();
    cuda->unlock();
    return now;
}

void fake_gpu_tick(uint64_t ticks)
{
    needs_cuda();
    cuda->lock();
    cuda->tick(ticks);
    cuda->unlock();
}

void *fake_gpu_memory(uint64_t at, uint64_t bytes)
{
    void *memory;

    needs_cuda();
    cuda->lock();
    memory = cuda->memory(at, bytes, NULL);
    cuda->unlock();
    if (memory == NULL) give_up("memory", "is not whole device memory");
    return memory;
}

uint32_t fake_nccl_fail(int rank, int code)
{
    needs_nccl();
    return nccl->fail(rank, code);
}

uint32_t fake_nccl_lose(int rank)
{
    needs_nccl();
    return nccl->lose(rank);
}

int fake_nccl_group_depth(void)
{
    needs_nccl();
    return nccl->group_depth();
}

void fake_nccl_hand_over(void *comm)
{
    needs_nccl();
    nccl->hand_over(comm);
}
