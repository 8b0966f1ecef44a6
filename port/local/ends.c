/* Cleat: what both ends of a transfer share. SPDX-License-Identifier:
 * Apache-2.0 */
#include "ends.h"

#define SILENCE_DEFAULT_NS (UINT64_C(10) * CLEAT_NS_PER_S)

void local_signal_clear(struct cleat_stream_signal *signal)
{
    __atomic_store_n(&signal->cancel, 0, __ATOMIC_SEQ_CST);
}

uint64_t local_silence_ns(const struct cleat_local_transfer *transfer)
{
    return transfer->silence_ns != 0 ? transfer->silence_ns
                                     : SILENCE_DEFAULT_NS;
}

uint32_t local_bucket_bytes(const struct cleat_local_transfer *transfer)
{
    return transfer->bucket_bytes != 0 ? transfer->bucket_bytes
                                       : CLEAT_LOCAL_BUCKET_BYTES_DEFAULT;
}

enum cleat_status local_plan(struct cleat_plan *plan, void *block,
                             const struct cleat_tensor_source *table,
                             uint32_t bucket_bytes, struct cleat_error *error)
{
    uint32_t count = table->count(table->context);
    enum cleat_status status = cleat_plan_begin(plan, block, count,
                                                bucket_bytes, error);

    for (uint32_t i = 0; status == CLEAT_OK && i < count; i++) {
        struct cleat_tensor tensor;

        status = table->describe(table->context, i, &tensor);
        if (status == CLEAT_OK) { status = cleat_plan_add(plan, tensor.bytes); }
        if (status != CLEAT_OK) {
            (void)cleat_error_set(error, status, i, 0,
                                  "local: a tensor cannot be planned");
        }
    }
    if (status == CLEAT_OK) { cleat_plan_end(plan); }
    return status;
}

enum cleat_status local_layout(const struct cleat_tensor_source *table,
                               const struct cleat_local_transfer *transfer,
                               uint32_t *layout, struct cleat_error *error)
{
    enum cleat_status status = CLEAT_OK;

    if (*layout == 0) {
        status = cleat_tensors_layout(table, local_bucket_bytes(transfer),
                                      layout);
    }
    if (status != CLEAT_OK) {
        (void)cleat_error_set(error, status, 0, 0,
                              "local: the tensor table cannot be read");
    }
    return status;
}

enum cleat_status local_attempt_status(enum cleat_status status)
{
    return cleat_status_band(status) == CLEAT_BAND_PEER ? CLEAT_GROUP_FAILED
                                                        : status;
}
