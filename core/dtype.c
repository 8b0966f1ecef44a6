/* Cleat: names and sizes of elements. SPDX-License-Identifier: Apache-2.0 */
#include "cleat/dtype.h"

#include <string.h>

#include "assert.h"

/* One flat row a value: no pointers, hence no relocations. */
struct row {
    char name[8]; /* NUL-terminated; the longest name has 7 letters */
    uint8_t bytes;
};

static const struct row rows[CLEAT_DTYPE_END] = {
    [CLEAT_DTYPE_NONE] = {"NONE", 0},
#define ROW(name, value, bytes) [value] = {#name, (bytes)},
    CLEAT_DTYPE_LIST(ROW)
#undef ROW
};

/* The list has no gaps, so that every value has a row. */
#define ONE_MORE(dtype, value, size) +1
#define ROW_IS_VALUE(dtype, value, size)                                    \
    CLEAT_STATIC_ASSERT(sizeof(#dtype) <= sizeof rows[0].name, "too long"); \
    CLEAT_STATIC_ASSERT((value) < CLEAT_DTYPE_END, "not dense");
CLEAT_DTYPE_LIST(ROW_IS_VALUE)
CLEAT_STATIC_ASSERT((1 CLEAT_DTYPE_LIST(ONE_MORE)) == CLEAT_DTYPE_END,
                    "every value from 1 to the last has a row");
#undef ONE_MORE
#undef ROW_IS_VALUE

const char *cleat_dtype_name(enum cleat_dtype dtype)
{
    CLEAT_ASSERT(rows[CLEAT_DTYPE_F64].bytes == 8);
    CLEAT_ASSERT(rows[CLEAT_DTYPE_NONE].bytes == 0);
    if ((uint32_t)dtype >= CLEAT_DTYPE_END) { return "UNKNOWN"; }
    return rows[dtype].name;
}

enum cleat_dtype cleat_dtype_from_name(const char *name, size_t bytes)
{
    CLEAT_ASSERT(name != NULL || bytes == 0);
    CLEAT_ASSERT(rows[CLEAT_DTYPE_NONE].bytes == 0);
    if (bytes == 0 || bytes >= sizeof rows[0].name) { return CLEAT_DTYPE_NONE; }
    for (uint32_t i = 1; i < CLEAT_DTYPE_END; i++) {
        if (memcmp(rows[i].name, name, bytes) == 0 &&
            rows[i].name[bytes - 1] != '\0' && rows[i].name[bytes] == '\0') {
            return (enum cleat_dtype)i;
        }
    }
    return CLEAT_DTYPE_NONE;
}

uint32_t cleat_dtype_bytes(enum cleat_dtype dtype)
{
    CLEAT_ASSERT(rows[CLEAT_DTYPE_F64].bytes == 8);
    CLEAT_ASSERT(rows[CLEAT_DTYPE_NONE].bytes == 0);
    return (uint32_t)dtype < CLEAT_DTYPE_END ? rows[dtype].bytes : 0;
}

enum cleat_status cleat_dtype_tensor_bytes(enum cleat_dtype dtype,
                                           uint32_t rank, const uint64_t *shape,
                                           uint64_t *bytes)
{
    uint64_t product = cleat_dtype_bytes(dtype);
    bool overflows = false;

    CLEAT_ASSERT(bytes != NULL);
    CLEAT_ASSERT(shape != NULL || rank == 0);
    *bytes = 0;
    if (product == 0 || rank > CLEAT_RANK_MAX) { return CLEAT_INVALID; }
    for (uint32_t i = 0; i < rank; i++) {
        if (shape[i] == 0) { return CLEAT_OK; }
        overflows |= product > UINT64_MAX / shape[i];
        product *= shape[i];
    }
    if (overflows) { return CLEAT_LIMIT; }
    *bytes = product;
    return CLEAT_OK;
}
