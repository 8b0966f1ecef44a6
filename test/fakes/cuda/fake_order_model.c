/* Cleat: the fake CUDA driver under every order in which streams can advance.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Three streams: one brings bytes to a slot, one takes them on from there, one
 * has nothing to do with it. Which of them advances is a choice, each time;
 * twice a choice may fall on one that cannot. */
#include <cuda.h>
#include <string.h>

#include "choose/choose.h"
#include "control.h"

#define BYTES 64u
#define VAIN_MAX 2u
#define STEPS_MAX 64u

struct job {
    CUstream brings;
    CUstream takes;
    CUstream other;
    CUevent brought;
    CUdeviceptr slot;
    CUdeviceptr taken;
    CUdeviceptr apart;
    unsigned char *source;
};

/* Whose turn it is: a choice, and in the end one after the other. */
struct turns {
    struct choose *c;
    uint32_t vain;
    uint32_t next;
};

static uint32_t whose(void *arg, uint32_t n)
{
    struct turns *turns = arg;

    if (turns->vain >= VAIN_MAX) return turns->next++ % n;
    return choose_any(turns->c, n);
}

static bool made(CUresult code)
{
    return code == CUDA_SUCCESS;
}

static bool open_job(struct job *job)
{
    CUcontext context;
    void *source = NULL;
    bool all;

    memset(job, 0, sizeof *job);
    fake_gpu_reset();
    all = made(cuInit(0)) && made(cuDevicePrimaryCtxRetain(&context, 0)) &&
          made(cuCtxSetCurrent(context)) &&
          made(cuStreamCreate(&job->brings, CU_STREAM_NON_BLOCKING)) &&
          made(cuStreamCreate(&job->takes, CU_STREAM_NON_BLOCKING)) &&
          made(cuStreamCreate(&job->other, CU_STREAM_NON_BLOCKING)) &&
          made(cuEventCreate(&job->brought, CU_EVENT_DISABLE_TIMING)) &&
          made(cuMemAlloc(&job->slot, BYTES)) &&
          made(cuMemAlloc(&job->taken, BYTES)) &&
          made(cuMemAlloc(&job->apart, BYTES)) &&
          made(cuMemHostAlloc(&source, BYTES, CU_MEMHOSTALLOC_PORTABLE));
    job->source = source;
    for (uint32_t i = 0; all && i < BYTES; i++) {
        job->source[i] = (unsigned char)(i * 7 + 1);
    }
    return all;
}

static bool enqueue(const struct job *job, bool waits)
{
    return made(
               cuMemcpyHtoDAsync(job->slot, job->source, BYTES, job->brings)) &&
           made(cuEventRecord(job->brought, job->brings)) &&
           (!waits || made(cuStreamWaitEvent(job->takes, job->brought, 0))) &&
           made(cuMemcpyDtoDAsync(job->taken, job->slot, BYTES, job->takes)) &&
           made(cuMemsetD8Async(job->apart, 0x5A, BYTES, job->other));
}

static void run(struct choose *c, bool waits)
{
    struct turns turns = {c, 0, 0};
    struct job job;
    bool ready = open_job(&job);

    if (!waits) fake_gpu_plan("lenient=1");
    choose_check(c, ready && enqueue(&job, waits), "the job begins");
    fake_gpu_choose(whose, &turns);
    for (uint32_t i = 0; i < STEPS_MAX && fake_gpu_pending() > 0; i++) {
        if (fake_gpu_pump(1) == 0) turns.vain++;
    }
    fake_gpu_choose(NULL, NULL);
    choose_check(c, fake_gpu_pending() == 0, "everything comes to its end");
    choose_check(
        c, memcmp(fake_gpu_memory(job.taken, BYTES), job.source, BYTES) == 0,
        "what was brought is what was taken");
    choose_check(c, *(unsigned char *)fake_gpu_memory(job.apart, 1) == 0x5A,
                 "the third stream has done its own");
    choose_check(c, !waits || fake_gpu_counts().misuses == 0,
                 "an event that is waited for is order enough");
}

static void with_a_wait(struct choose *c, const void *arg)
{
    (void)arg;
    run(c, true);
}

static void without(struct choose *c, const void *arg)
{
    (void)arg;
    run(c, false);
}

int main(int argc, char **argv)
{
    static const struct choose_test tests[] = {
        {.name = "in-every-order-what-is-waited-for-is-there",
         .body = with_a_wait,
         .random_executions = 1000},
        {.name = "without-a-wait-some-order-takes-what-is-not-there",
         .body = without,
         .canary = true},
    };

    fake_gpu_attach_files(CLEAT_FAKES "/lib/libcuda.so.1", NULL);
    return choose_main(argc, argv, tests, sizeof tests / sizeof tests[0]);
}
