/* Cleat: tensors packed into buckets. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/plan.h"

#include "assert.h"
#include "cleat/digest.h"
#include "text.h"

enum { PLAN_ADDING = 1, PLAN_ENDED = 2 };

/* A number as it is digested. */
static uint32_t plan_digest_number(uint32_t crc, uint64_t number)
{
    unsigned char wire[8];

    for (unsigned i = 0; i < sizeof wire; i++) {
        wire[i] = (unsigned char)(number >> (8 * i));
    }
    return cleat_crc32c(crc, wire, sizeof wire);
}

enum cleat_status cleat_plan_begin(struct cleat_plan *plan, void *block,
                                   uint32_t tensors_max, uint32_t bucket_bytes,
                                   struct cleat_error *error)
{
    CLEAT_ASSERT(plan != NULL);
    if ((block == NULL && tensors_max != 0) ||
        (uintptr_t)block % sizeof(uint64_t) != 0) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, 1, 0,
                            "plan: no block aligned to 8 bytes");
    }
    if (bucket_bytes == 0 || bucket_bytes % CLEAT_PLAN_ALIGN != 0) {
        return CLEAT_REFUSE(error, CLEAT_INVALID, 3, 0,
                            "plan: bucket_bytes not a multiple of 256");
    }
    plan->ends = block;
    /* What UINT32_MAX buckets hold; below 2^64 for every bucket size. */
    plan->flat_max = (uint64_t)bucket_bytes * UINT32_MAX;
    plan->bucket_bytes = bucket_bytes;
    plan->tensors_max = tensors_max;
    plan->tensors = 0;
    plan->buckets = 0;
    plan->digest = plan_digest_number(0, bucket_bytes);
    plan->state = PLAN_ADDING;
    CLEAT_ASSERT(plan->flat_max % CLEAT_PLAN_ALIGN == 0);
    CLEAT_ASSERT(plan->flat_max >= bucket_bytes);
    return CLEAT_OK;
}

/* The flat address after tensors 0 … count-1. */
static uint64_t plan_end(const struct cleat_plan *plan, uint32_t count)
{
    CLEAT_ASSERT(plan->tensors <= plan->tensors_max);
    CLEAT_ASSERT(count <= plan->tensors);
    return count == 0 ? 0 : plan->ends[count - 1];
}

/* Where tensor `tensor` starts: the next multiple after the one before. Cannot
 * overflow: flat_max is such a multiple and no end exceeds it. */
static uint64_t plan_start(const struct cleat_plan *plan, uint32_t tensor)
{
    uint64_t end = plan_end(plan, tensor);

    CLEAT_ASSERT(end <= plan->flat_max);
    CLEAT_ASSERT(plan->flat_max <= UINT64_MAX - CLEAT_PLAN_ALIGN);
    return (end + (CLEAT_PLAN_ALIGN - 1u)) & ~(uint64_t)(CLEAT_PLAN_ALIGN - 1u);
}

enum cleat_status cleat_plan_add(struct cleat_plan *plan, uint64_t tensor_bytes)
{
    uint64_t end;

    CLEAT_ASSERT(plan != NULL);
    CLEAT_ASSERT(plan->tensors <= plan->tensors_max);
    if (plan->state != PLAN_ADDING) { return CLEAT_STATE; }
    if (plan->tensors == plan->tensors_max) { return CLEAT_NO_SLOT; }
    /* A tensor of no bytes takes no address, so that no gap follows it. */
    end = plan_end(plan, plan->tensors);
    if (tensor_bytes != 0) {
        end = plan_start(plan, plan->tensors);
        if (tensor_bytes > plan->flat_max - end) { return CLEAT_LIMIT; }
        end += tensor_bytes;
    }
    plan->ends[plan->tensors] = end;
    plan->tensors++;
    plan->digest = plan_digest_number(plan->digest, tensor_bytes);
    return CLEAT_OK;
}

void cleat_plan_end(struct cleat_plan *plan)
{
    uint64_t flat_bytes;

    CLEAT_ASSERT(plan != NULL);
    CLEAT_ASSERT(plan->state == PLAN_ADDING || plan->state == PLAN_ENDED);
    flat_bytes = plan_end(plan, plan->tensors);
    plan->buckets = (uint32_t)(flat_bytes / plan->bucket_bytes);
    if (flat_bytes % plan->bucket_bytes != 0) { plan->buckets++; }
    plan->state = PLAN_ENDED;
}

uint32_t cleat_plan_bucket_bytes(const struct cleat_plan *plan, uint32_t bucket)
{
    uint64_t left;

    CLEAT_ASSERT(plan != NULL);
    CLEAT_ASSERT(plan->state == PLAN_ENDED);
    if (bucket >= plan->buckets) { return 0; }
    left = plan_end(plan, plan->tensors) -
           (uint64_t)bucket * plan->bucket_bytes;
    return left < plan->bucket_bytes ? (uint32_t)left : plan->bucket_bytes;
}

/* The first tensor that ends after flat address `flat`; there is one. */
static uint32_t plan_find(const struct cleat_plan *plan, uint64_t flat)
{
    uint32_t low = 0;
    uint32_t high = plan->tensors;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (plan->ends[middle] > flat) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    CLEAT_ASSERT(low < plan->tensors);
    CLEAT_ASSERT(plan->ends[low] > flat);
    CLEAT_ASSERT(low == 0 || plan->ends[low - 1] <= flat);
    return low;
}

bool cleat_plan_next(const struct cleat_plan *plan, uint32_t bucket,
                     uint32_t *cursor, struct cleat_plan_piece *piece)
{
    uint64_t base = (uint64_t)bucket * plan->bucket_bytes;
    uint64_t limit = base + cleat_plan_bucket_bytes(plan, bucket);
    uint64_t from = base;
    uint64_t start;
    uint32_t tensor;

    CLEAT_ASSERT(cursor != NULL);
    CLEAT_ASSERT(piece != NULL);
    CLEAT_ASSERT(plan->state == PLAN_ENDED);
    if (*cursor > plan->tensors) { return false; }
    /* The cursor is one more than the tensor of the last piece: what comes
     * next belongs to the first tensor that ends after that one. */
    if (plan_end(plan, *cursor) > from) { from = plan_end(plan, *cursor); }
    if (from >= limit) { return false; }
    tensor = plan_find(plan, from);
    start = plan_start(plan, tensor);
    if (from < start) { from = start; }
    if (limit > plan->ends[tensor]) { limit = plan->ends[tensor]; }
    if (from >= limit) { return false; }
    piece->tensor = tensor;
    piece->tensor_offset = from - start;
    piece->bucket_offset = (uint32_t)(from - base);
    piece->bytes = (uint32_t)(limit - from);
    CLEAT_ASSERT(piece->bytes <= plan->bucket_bytes - piece->bucket_offset);
    *cursor = tensor + 1;
    return true;
}
