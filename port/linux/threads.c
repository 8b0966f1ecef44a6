/* Cleat: worker threads and the lock, on Linux. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "cleat/linux.h"

#include <string.h>

#include "system.h"

#define THREADS_DEFAULT 4u
#define JOBS_DEFAULT 64u
#define JOBS_MAX 65536u

struct job {
    cleat_job_fn *fn;
    void *job;
    uint64_t index;
};

struct cleat_threads_context {
    pthread_mutex_t service; /* what lock and unlock take and give */
    pthread_mutex_t lock;    /* of all that follows */
    pthread_cond_t changed;
    uint32_t jobs_max;
    uint32_t jobs_first;
    uint32_t jobs_count;
    uint32_t threads;
    bool closing;
    struct job *jobs;    /* ring of jobs_max */
    pthread_t *pthreads; /* of `threads` */
};

/* What the public constant expression reserves for the struct is enough. */
_Static_assert(sizeof(struct cleat_threads_context) <= 512u, "fixed part");
_Static_assert(sizeof(struct job) <= 24u, "job");
_Static_assert(sizeof(pthread_t) <= 8u, "pthread_t");

static struct cleat_linux_threads_config
with_defaults(const struct cleat_linux_threads_config *config)
{
    struct cleat_linux_threads_config out = {0, 0};

    if (config != NULL) { out = *config; }
    if (out.threads == 0) { out.threads = THREADS_DEFAULT; }
    if (out.jobs_max == 0) { out.jobs_max = JOBS_DEFAULT; }
    return out;
}

size_t
cleat_linux_threads_bytes(const struct cleat_linux_threads_config *config)
{
    struct cleat_linux_threads_config full = with_defaults(config);

    if (full.threads > CLEAT_LINUX_THREADS_MAX || full.jobs_max > JOBS_MAX) {
        return 0;
    }
    return CLEAT_LINUX_THREADS_BYTES(full.threads, full.jobs_max);
}

static void threads_lock(struct cleat_threads_context *context)
{
    (void)pthread_mutex_lock(&context->service);
}

static void threads_unlock(struct cleat_threads_context *context)
{
    (void)pthread_mutex_unlock(&context->service);
}

static enum cleat_status threads_submit(struct cleat_threads_context *context,
                                        cleat_job_fn *fn, void *job,
                                        uint64_t index)
{
    enum cleat_status status = CLEAT_NO_SLOT;

    (void)pthread_mutex_lock(&context->lock);
    if (!context->closing && context->jobs_count < context->jobs_max) {
        uint32_t last = (context->jobs_first + context->jobs_count) %
                        context->jobs_max;
        context->jobs[last] = (struct job){
            .fn = fn, .job = job, .index = index};
        context->jobs_count++;
        (void)pthread_cond_signal(&context->changed);
        status = CLEAT_OK;
    }
    (void)pthread_mutex_unlock(&context->lock);
    return status;
}

/* Waits for a job; false when there is none and none will come. */
static bool take_job(struct cleat_threads_context *context, struct job *job)
{
    (void)pthread_mutex_lock(&context->lock);
    while (context->jobs_count == 0 && !context->closing) {
        (void)pthread_cond_wait(&context->changed, &context->lock);
    }
    bool taken = context->jobs_count > 0;
    if (taken) {
        *job = context->jobs[context->jobs_first];
        context->jobs_first = (context->jobs_first + 1) % context->jobs_max;
        context->jobs_count--;
    }
    (void)pthread_mutex_unlock(&context->lock);
    return taken;
}

static void *worker_main(void *argument)
{
    struct cleat_threads_context *context = argument;
    struct job job;

    while (take_job(context, &job)) { job.fn(job.job, job.index); }
    return NULL;
}

/* Ends the threads that were started, and what they were started with. */
static void tear_down(struct cleat_threads_context *context)
{
    (void)pthread_mutex_lock(&context->lock);
    context->closing = true;
    (void)pthread_cond_broadcast(&context->changed);
    (void)pthread_mutex_unlock(&context->lock);
    for (uint32_t i = 0; i < context->threads; i++) {
        (void)pthread_join(context->pthreads[i], NULL);
    }
    (void)pthread_cond_destroy(&context->changed);
    (void)pthread_mutex_destroy(&context->lock);
    (void)pthread_mutex_destroy(&context->service);
}

static struct cleat_threads_context *
lay_out(void *block, size_t bytes,
        const struct cleat_linux_threads_config *full)
{
    struct cleat_threads_context *context = block;
    unsigned char *next = (unsigned char *)block + 512u;

    memset(block, 0, bytes);
    context->jobs = (struct job *)(void *)next;
    next += (size_t)full->jobs_max * sizeof(struct job);
    context->pthreads = (pthread_t *)(void *)next;
    context->jobs_max = full->jobs_max;
    return context;
}

enum cleat_status
cleat_linux_threads_init(void *block, size_t bytes,
                         const struct cleat_linux_threads_config *config,
                         struct cleat_threads *out, struct cleat_error *error)
{
    struct cleat_linux_threads_config full = with_defaults(config);
    size_t bytes_needed = cleat_linux_threads_bytes(&full);

    if (out == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 4, 0, "out is NULL");
    }
    if (bytes_needed == 0) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "threads: at most 256 threads, 65536 jobs");
    }
    enum cleat_status status = cleat_linux_block_check(block, bytes,
                                                       bytes_needed, error);
    if (status != CLEAT_OK) { return status; }

    struct cleat_threads_context *context = lay_out(block, bytes_needed, &full);
    (void)pthread_mutex_init(&context->service, NULL);
    (void)pthread_mutex_init(&context->lock, NULL);
    int code = cleat_linux_cond_init(&context->changed);
    if (code != 0) {
        (void)pthread_mutex_destroy(&context->lock);
        (void)pthread_mutex_destroy(&context->service);
        return cleat_linux_io_error(error, code, 0, "condition variable");
    }
    while (context->threads < full.threads) {
        code = cleat_linux_thread_start(&context->pthreads[context->threads],
                                        worker_main, context);
        if (code != 0) {
            tear_down(context);
            return cleat_linux_io_error(error, code, 0, "starting a thread");
        }
        context->threads++;
    }
    *out = (struct cleat_threads){.context = context,
                                  .lock = threads_lock,
                                  .unlock = threads_unlock,
                                  .submit = threads_submit};
    return CLEAT_OK;
}

void cleat_linux_threads_close(struct cleat_threads *threads)
{
    if (threads == NULL || threads->context == NULL) { return; }
    tear_down(threads->context);
    threads->context = NULL;
}
