/* Cleat: what all processes of `cleat sync` know of their job.
 * SPDX-License-Identifier: Apache-2.0 */
#include "job.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "board.h"

/* Bytes a second to each receiver. */
#define FLOOR_BYTES_PER_S (UINT64_C(64) << 20)

void job_defaults(struct job *job)
{
    memset(job, 0, sizeof *job);
    job->step_timeout_ns = 10 * CLEAT_NS_PER_S;
}

void *job_memory(size_t bytes)
{
    return calloc(1, bytes == 0 ? 1 : bytes);
}

/* The tensors' places, in both plans. */
static enum cleat_status add_tensors(struct job *job)
{
    for (uint32_t i = 0; i < job->tensors; i++) {
        struct cleat_tensor tensor;
        enum cleat_status status = job->source.describe(job->source.context, i,
                                                        &tensor);

        if (status == CLEAT_OK) {
            status = cleat_plan_add(&job->plan, tensor.bytes);
        }
        if (status == CLEAT_OK) {
            status = cleat_plan_add(&job->windows, tensor.bytes);
        }
        if (status != CLEAT_OK) { return status; }
        job->bytes += tensor.bytes;
    }
    cleat_plan_end(&job->plan);
    cleat_plan_end(&job->windows);
    job->flat_bytes = cleat_plan_flat_bytes(&job->plan);
    return CLEAT_OK;
}

/* Where each tensor starts: what the plan says of its first byte. */
static void find_starts(struct job *job)
{
    uint32_t windows = cleat_plan_buckets(&job->windows);

    for (uint32_t w = 0; w < windows; w++) {
        struct cleat_plan_piece piece;
        uint32_t cursor = 0;

        while (cleat_plan_next(&job->windows, w, &cursor, &piece)) {
            if (piece.tensor_offset != 0) { continue; }
            job->starts[piece.tensor] = (uint64_t)w * BOARD_WINDOW_BYTES +
                                        piece.bucket_offset;
        }
    }
}

static enum cleat_status plan_job(struct job *job, struct cleat_error *error)
{
    size_t plan_bytes = cleat_plan_bytes(job->tensors);
    enum cleat_status status;

    job->blocks[1] = job_memory(plan_bytes);
    job->blocks[2] = job_memory(plan_bytes);
    job->blocks[3] = job_memory((size_t)job->tensors * sizeof *job->starts);
    if (job->blocks[1] == NULL || job->blocks[2] == NULL ||
        job->blocks[3] == NULL) {
        return cleat_error_set(error, CLEAT_IO, 0, 0, "no memory for the plan");
    }
    job->starts = job->blocks[3];
    status = cleat_plan_begin(&job->plan, job->blocks[1], job->tensors,
                              job->bucket_bytes, error);
    if (status == CLEAT_OK) {
        status = cleat_plan_begin(&job->windows, job->blocks[2], job->tensors,
                                  BOARD_WINDOW_BYTES, error);
    }
    if (status != CLEAT_OK) { return status; }
    status = add_tensors(job);
    if (status != CLEAT_OK) {
        return cleat_error_set(error, status, 0, 0,
                               "the weights are too large to plan");
    }
    find_starts(job);
    return CLEAT_OK;
}

static enum cleat_status open_weights(struct job *job,
                                      struct cleat_error *error)
{
    size_t bytes = 0;
    enum cleat_status status = cleat_safetensors_bytes(job->weights, &bytes,
                                                       error);

    if (status != CLEAT_OK) { return status; }
    job->blocks[0] = job_memory(bytes);
    if (job->blocks[0] == NULL) {
        return cleat_error_set(error, CLEAT_IO, 0, bytes,
                               "no memory for the weights' table");
    }
    return cleat_safetensors_open(&job->file, job->weights, job->blocks[0],
                                  bytes, error);
}

int job_open(struct job *job, const char *command)
{
    struct cleat_error error;
    enum cleat_status status;

    assert(job->bucket_mib != 0);
    status = open_weights(job, &error);
    if (status == CLEAT_OK) {
        job->bucket_bytes = (uint32_t)(job->bucket_mib << 20);
        job->source = cleat_safetensors_source(&job->file);
        job->tensors = job->source.count(job->source.context);
        status = plan_job(job, &error);
        if (status != CLEAT_OK) { cleat_safetensors_close(&job->file); }
    }
    return status == CLEAT_OK ? 0 : options_fail(command, "%s", error.text);
}

void job_close(struct job *job)
{
    cleat_safetensors_close(&job->file);
    for (size_t i = 0; i < sizeof job->blocks / sizeof job->blocks[0]; i++) {
        free(job->blocks[i]);
        job->blocks[i] = NULL;
    }
}

uint64_t job_floor_ns(uint64_t bytes, uint64_t receivers)
{
    uint64_t ms = bytes / (FLOOR_BYTES_PER_S / 1000) + 1;

    return ms * receivers * CLEAT_NS_PER_MS;
}

uint32_t job_buckets(const struct job *job)
{
    uint32_t buckets = cleat_plan_buckets(&job->plan);

    return buckets == 0 ? 1 : buckets;
}

/* The plan's first bucket is its largest. */
uint32_t job_bucket_bytes(const struct job *job)
{
    return cleat_plan_buckets(&job->plan) == 0
               ? CLEAT_PLAN_ALIGN
               : cleat_plan_bucket_bytes(&job->plan, 0);
}

uint64_t job_bucket_ns(const struct job *job)
{
    return job->step_timeout_ns + job_floor_ns(job_bucket_bytes(job), 1);
}
