/* Cleat: what all processes of `cleat sync` know of their job.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The coordinator, the trainer and every engine read the same options and the
 * same tensor table, and from them make the same plan.
 */
#ifndef CLEAT_TOOLS_JOB_H
#define CLEAT_TOOLS_JOB_H

#include "cleat/plan.h"
#include "cleat/safetensors.h"
#include "options.h"

enum job_mode { JOB_STAGED, JOB_IN_PLACE };

#define JOB_BUCKET_MIB_MAX 1024u

struct job {
    /* As given; job_defaults fills them. */
    const char *weights;
    uint64_t bucket_mib; /* 0: not given; carrier_parse has a default */
    uint64_t step_timeout_ns;
    uint32_t mode; /* enum job_mode */

    /* As read; job_open fills them. */
    struct cleat_safetensors file;
    struct cleat_tensor_source source; /* of the file */
    uint32_t tensors;
    uint32_t bucket_bytes;
    uint64_t bytes;      /* of all tensors */
    uint64_t flat_bytes; /* of the plan's address space */
    uint64_t *starts;    /* where in it each tensor starts */
    struct cleat_plan plan;
    struct cleat_plan windows; /* the same space in BOARD_WINDOW_BYTES */
    void *blocks[4];
};

/* Rows of an option table, for what every process is given. */
#define JOB_OPTIONS(job)                                  \
    {.name = "weights",                                   \
     .kind = OPTION_TEXT,                                 \
     .to = &(job)->weights,                               \
     .required = true},                                   \
        {.name = "bucket-mib",                            \
         .kind = OPTION_COUNT,                            \
         .to = &(job)->bucket_mib,                        \
         .min = 1,                                        \
         .max = JOB_BUCKET_MIB_MAX},                      \
        {.name = "mode",                                  \
         .kind = OPTION_CHOICE,                           \
         .to = &(job)->mode,                              \
         .choices = "staged|in-place"},                   \
    {                                                     \
        .name = "step-timeout-s", .kind = OPTION_SECONDS, \
        .to = &(job)->step_timeout_ns, .min = 1000000,    \
        .max = UINT64_C(86400000000000)                   \
    }

void job_defaults(struct job *job);

/* Reads the weights' table and makes the plan, of buckets of bucket_mib, which
 * is not 0: see carrier_parse. Returns 0, or 2 after one line on stderr that
 * starts with `command`. */
int job_open(struct job *job, const char *command);
void job_close(struct job *job);

/* How long moving `bytes` to so many receivers may take before it counts as
 * failed, beside what a step may take anyway. */
uint64_t job_floor_ns(uint64_t bytes, uint64_t receivers);

/* How many buckets there are, and bytes of the largest: of weights without
 * bytes, one that is as small as one can be. After job_open. */
uint32_t job_buckets(const struct job *job);
uint32_t job_bucket_bytes(const struct job *job);

/* How long an end may hear nothing of a bucket: a step's timeout, and what the
 * largest bucket may take. After job_open. */
uint64_t job_bucket_ns(const struct job *job);

/* Bytes of window `window` of the flat address space. */
static inline uint32_t job_window_bytes(const struct job *job, uint32_t window)
{
    return cleat_plan_bucket_bytes(&job->windows, window);
}

/* `bytes` zeroed bytes for the life of the process, or NULL. */
void *job_memory(size_t bytes);

#endif
