/* Cleat: how tests command the fake GPU libraries. SPDX-License-Identifier:
 * Apache-2.0
 *
 * In the process that loads the fakes: fake_gpu_attach(), and then everything
 * here. In a process that only watches others (a test that starts them):
 * fake_gpu_watch(), and then what says so. What plans can say is in world.h.
 *
 * Test code only: every call aborts, with a line, where it cannot do what it
 * was asked for. */
#ifndef CLEAT_TEST_FAKE_GPU_CONTROL_H
#define CLEAT_TEST_FAKE_GPU_CONTROL_H

#include "world.h"

/* Loads the fakes from `folder`, which has libcuda.so.1 and libnccl.so.2, or
 * finds them where they are loaded from there. */
void fake_gpu_attach(const char *folder);
/* The same for one of them each; NULL: not that one. */
void fake_gpu_attach_files(const char *libcuda, const char *libnccl);

/* What dlopen() gave, for dlsym(). */
void *fake_gpu_libcuda(void);
void *fake_gpu_libnccl(void);

/* Maps the world at `path`, and makes it with `plan` if it is not there. For
 * a process without the fakes. */
void fake_gpu_watch(const char *path, const char *plan);

/* ---- both ------------------------------------------------------------------
 */

/* Adds settings and rules, as world.h says. */
void fake_gpu_plan(const char *plan);

/* A copy of the settings as they are. */
struct fake_settings fake_gpu_settings(void);

/* Of the process with that pid; false: it has not come to the world. */
bool fake_gpu_counts_of(pid_t pid, struct fake_counts *counts);

/* What never ends in that process does from now on; its calls that never
 * return do. */
void fake_gpu_release_process(pid_t pid);

/* ---- with the fakes loaded -------------------------------------------------
 */

/* As it was when the libraries were loaded, but for threads' pushed contexts;
 * no other process may be in the world. */
void fake_gpu_reset(void);

struct fake_counts fake_gpu_counts(void); /* this process's */
void fake_gpu_release(void);              /* this process's */

/* From now on, allocating and freeing is misuse; or no more. */
void fake_gpu_seal(void);
void fake_gpu_unseal(void);

/* Lets up to `steps` operations move on, each a tick; how many did. */
uint32_t fake_gpu_pump(uint32_t steps);
/* Pumps until nothing is pending; false: something never ends. */
bool fake_gpu_drain(void);

/* Streams with something pending, and one step of one of them: for a caller
 * that decides. */
uint32_t fake_gpu_streams(void);
bool fake_gpu_step(uint32_t stream);
/* From now on `choose` says which of n streams advances. NULL: the seed. */
void fake_gpu_choose(uint32_t (*choose)(void *arg, uint32_t n), void *arg);

uint64_t fake_gpu_pending(void); /* operations, on all streams */
uint64_t fake_gpu_now(void);     /* ticks: each poll and each pump is one */
void fake_gpu_tick(uint64_t ticks);

/* Where the bytes of device memory are for the host: whole, or abort. */
void *fake_gpu_memory(uint64_t at, uint64_t bytes);

/* Communicators of this process of that rank fail with `code`; how many. */
uint32_t fake_nccl_fail(int rank, int code);
/* That rank is dead to its peers: for ranks that are threads. How many
 * communicators it was in. */
uint32_t fake_nccl_lose(int rank);
/* How deep in groups the calling thread is, leaks included. */
int fake_nccl_group_depth(void);
/* The calling thread makes this ncclComm_t's calls from now on. */
void fake_nccl_hand_over(void *comm);

#endif
