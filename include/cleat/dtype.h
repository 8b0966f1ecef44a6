/* Cleat: what a tensor's elements are. SPDX-License-Identifier: Apache-2.0
 *
 * The names are those of the safetensors format's header ("dtype"), where
 * "F8_E4M3" and "F8_E5M2" are the two 8-bit floats of the OCP FP8 format and
 * "BF16" is the upper half of an F32. The values stand in stored frames and
 * in messages, so that a value, once given, never changes its meaning.
 */
#ifndef CLEAT_DTYPE_H
#define CLEAT_DTYPE_H

#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The most dimensions that a tensor has here. */
#define CLEAT_RANK_MAX 8u

/* X(NAME, value, bytes of one element). The one list. */
#define CLEAT_DTYPE_LIST(X) \
    X(BOOL, 1, 1)           \
    X(U8, 2, 1)             \
    X(I8, 3, 1)             \
    X(F8_E5M2, 4, 1)        \
    X(F8_E4M3, 5, 1)        \
    X(I16, 6, 2)            \
    X(U16, 7, 2)            \
    X(F16, 8, 2)            \
    X(BF16, 9, 2)           \
    X(I32, 10, 4)           \
    X(U32, 11, 4)           \
    X(F32, 12, 4)           \
    X(I64, 13, 8)           \
    X(U64, 14, 8)           \
    X(F64, 15, 8)

enum cleat_dtype {
    CLEAT_DTYPE_NONE = 0, /* not a tensor: plain bytes */
#define CLEAT_DTYPE_ENUM(name, value, bytes) CLEAT_DTYPE_##name = (value),
    CLEAT_DTYPE_LIST(CLEAT_DTYPE_ENUM)
#undef CLEAT_DTYPE_ENUM
        CLEAT_DTYPE_END /* one more than the largest value */
};

/* The safetensors name, "F8_E4M3"; "NONE" for CLEAT_DTYPE_NONE and "UNKNOWN"
 * for a value that is not in the list. Static storage. Never NULL. */
const char *cleat_dtype_name(enum cleat_dtype dtype);

/* The dtype of that exact name (upper case, as safetensors writes it);
 * CLEAT_DTYPE_NONE when there is none.
 *   name    `bytes` bytes, not NUL-terminated; may be NULL when bytes is 0 */
enum cleat_dtype cleat_dtype_from_name(const char *name, size_t bytes);

/* Bytes of one element, 1, 2, 4 or 8; 0 for CLEAT_DTYPE_NONE and for a value
 * that is not in the list. */
uint32_t cleat_dtype_bytes(enum cleat_dtype dtype);

/* Bytes of a whole tensor: the element's bytes times every dimension.
 *   rank    dimensions, 0 … CLEAT_RANK_MAX; 0 is a scalar, one element
 *   shape   `rank` dimensions, in elements; may be NULL when rank is 0. Where
 *           one of them is 0 the tensor has 0 bytes, however large the others
 *   bytes   the result
 * Returns CLEAT_OK; CLEAT_INVALID for a dtype without elements or a rank
 * above CLEAT_RANK_MAX; CLEAT_LIMIT when the product does not fit 64 bits.
 * On error *bytes is 0. */
enum cleat_status cleat_dtype_tensor_bytes(enum cleat_dtype dtype,
                                           uint32_t rank, const uint64_t *shape,
                                           uint64_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
