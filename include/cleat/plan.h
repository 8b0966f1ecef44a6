/* Cleat: tensors packed into buckets. SPDX-License-Identifier: Apache-2.0
 *
 * Weights travel in buckets of one size. The plan says which bytes of which
 * tensor lie where in which bucket; it follows from the tensors' sizes in table
 * order and the bucket size alone, so every rank computes the same one.
 *
 * The tensors are laid into one flat address space, in table order, each at the
 * next multiple of CLEAT_PLAN_ALIGN; bucket k is flat bytes
 * [k * bucket_bytes, (k + 1) * bucket_bytes). So a tensor that is larger than
 * what is left of a bucket is cut, and the tail of a bucket is filled by the
 * next tensor:
 *
 *     flat    0        256                            B                    2B
 *     tensor  |0000····|111111111111111111111111111111|1111111···|2222222|
 *     bucket  |<----------------- bucket 0 ---------->|<---- bucket 1 -->|
 *
 * A piece is a tensor's share of a bucket. The gaps (·) between pieces, at most
 * CLEAT_PLAN_ALIGN - 1 bytes each, carry nothing: a bucket's digest is over its
 * pieces, one after the other. Every bucket but the last is bucket_bytes long,
 * the last ends with its last piece, and none is empty.
 *
 * Nothing is stored a bucket: 8 bytes a tensor, and any bucket is found by a
 * binary search.
 *
 *     begin ──add, add, …──▶ end ──▶ buckets, bucket_bytes, next (any thread)
 *
 * Invariants: covers-every-byte-once · bucket-never-overflows ·
 * same-on-every-rank.
 */
#ifndef CLEAT_PLAN_H
#define CLEAT_PLAN_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tensors start at multiples of this many bytes, and a bucket is a multiple of
 * it: what the CUDA allocator aligns to. */
#define CLEAT_PLAN_ALIGN 256u

/* The largest bucket: what a multiple of the alignment can be in 32 bits. */
#define CLEAT_PLAN_BUCKET_BYTES_MAX (UINT32_MAX - (CLEAT_PLAN_ALIGN - 1u))

/* Bytes of block for a plan of `tensors_max` tensors. */
#define CLEAT_PLAN_BYTES(tensors_max) ((size_t)(tensors_max) * sizeof(uint64_t))

/* Visible so that a caller can hold one; the members are not for reading. */
struct cleat_plan {
    uint64_t *ends; /* flat address after each tensor; the caller's block */
    uint64_t flat_max;
    uint32_t bucket_bytes;
    uint32_t tensors_max;
    uint32_t tensors;
    uint32_t buckets;
    uint32_t digest;
    uint32_t state;
};

/* Bytes [tensor_offset, tensor_offset + bytes) of a tensor lie at
 * [bucket_offset, bucket_offset + bytes) of a bucket. bytes ≥ 1. */
struct cleat_plan_piece {
    uint64_t tensor_offset;
    uint32_t tensor; /* index in the table */
    uint32_t bucket_offset;
    uint32_t bytes;
};

/* CLEAT_PLAN_BYTES as a function: SIZE_MAX where it does not fit a size_t. */
static inline size_t cleat_plan_bytes(uint32_t tensors_max)
{
    size_t bytes;

    return __builtin_mul_overflow((size_t)tensors_max, sizeof(uint64_t), &bytes)
               ? SIZE_MAX
               : bytes;
}

/* Starts a plan.
 *   plan          out
 *   block         CLEAT_PLAN_BYTES(tensors_max) bytes, aligned as a uint64_t,
 *                 must outlive the plan; may be NULL when tensors_max is 0
 *   tensors_max   how many tensors will be added at most
 *   bucket_bytes  a multiple of CLEAT_PLAN_ALIGN, CLEAT_PLAN_ALIGN …
 *                 CLEAT_PLAN_BUCKET_BYTES_MAX
 * Returns CLEAT_OK; CLEAT_INVALID with the argument's position in
 * error->index. */
enum cleat_status cleat_plan_begin(struct cleat_plan *plan, void *block,
                                   uint32_t tensors_max, uint32_t bucket_bytes,
                                   struct cleat_error *error);

/* Adds the next tensor of the table.
 *   tensor_bytes   0 is legal: such a tensor has no pieces
 * Returns CLEAT_OK; CLEAT_NO_SLOT when there are tensors_max already;
 * CLEAT_LIMIT when the plan would need more than UINT32_MAX buckets or 2^64
 * flat bytes; CLEAT_STATE after cleat_plan_end. On error the plan is as
 * before. */
enum cleat_status cleat_plan_add(struct cleat_plan *plan,
                                 uint64_t tensor_bytes);

/* Ends the adding; from here on the plan is only read. Idempotent. */
void cleat_plan_end(struct cleat_plan *plan);

/* What was added, in tensors. */
static inline uint32_t cleat_plan_tensors(const struct cleat_plan *plan)
{
    return plan->tensors;
}

/* The number of buckets, and the flat address after the last byte; both 0 for
 * no bytes at all. The plan must have ended. */
static inline uint32_t cleat_plan_buckets(const struct cleat_plan *plan)
{
    return plan->buckets;
}

static inline uint64_t cleat_plan_flat_bytes(const struct cleat_plan *plan)
{
    return plan->tensors == 0 ? 0 : plan->ends[plan->tensors - 1];
}

/* CRC32C over the bucket size and then each tensor's size, each as 8 bytes,
 * little end first: different plans have equal digests once in 2^32. The plan
 * must have ended. */
static inline uint32_t cleat_plan_digest(const struct cleat_plan *plan)
{
    return plan->digest;
}

/* The bytes of bucket `bucket`: the configured size, less for the last; 0 when
 * there is no such bucket. */
uint32_t cleat_plan_bucket_bytes(const struct cleat_plan *plan,
                                 uint32_t bucket);

/* The next piece of a bucket, in the order of bucket_offset.
 *   bucket   any value; one that does not exist has no pieces
 *   cursor   0 for the first piece, then what the last call left there; one
 *            cursor serves one bucket
 *   piece    out; untouched when there is none
 * Returns whether there was one. */
bool cleat_plan_next(const struct cleat_plan *plan, uint32_t bucket,
                     uint32_t *cursor, struct cleat_plan_piece *piece);

#ifdef __cplusplus
}
#endif
#endif
