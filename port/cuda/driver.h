/* Cleat: the CUDA driver, loaded. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_PORT_CUDA_DRIVER_H
#define CLEAT_PORT_CUDA_DRIVER_H

#include "cleat/cuda.h"
#include "symbols.h"

struct cuda_driver {
    void *handle;
    int version; /* 12040: of CUDA 12.4 */
#define CUDA_MEMBER(name) __typeof__(&name) p_##name;
#define CUDA_MEMBER_SINCE(name, since) __typeof__(&name) p_##name;
    CUDA_REQUIRED(CUDA_MEMBER)
    CUDA_OPTIONAL(CUDA_MEMBER_SINCE)
#undef CUDA_MEMBER
#undef CUDA_MEMBER_SINCE
};

/* The oldest driver that has all of CUDA_REQUIRED with the meaning that the
 * code relies on. */
#define CUDA_DRIVER_MIN 11040

/* Loads the driver and starts it (cuInit).
 *   library  NULL: CLEAT_CUDA_LIBRARY
 * Returns CLEAT_OK; CLEAT_UNSUPPORTED, what was looked for and what was found
 * in the text; CLEAT_DEVICE_LOST. On error nothing stays loaded that was not
 * started. */
enum cleat_status cuda_driver_load(struct cuda_driver *driver,
                                   const char *library,
                                   struct cleat_error *error);

/* Whether it has all that sharing memory needs. */
bool cuda_driver_shares(const struct cuda_driver *driver);

/* The driver's name for a code, or "error". */
const char *cuda_driver_error_name(const struct cuda_driver *driver,
                                   CUresult code);

/* Fills *error: "cuda: <doing>: <name> (<code>)". Returns cleat_cuda_meaning of
 * the code. */
enum cleat_status cuda_driver_error(const struct cuda_driver *driver,
                                    CUresult code, const char *doing,
                                    struct cleat_error *error);

/* cleat_error_set with a format. */
enum cleat_status cuda_refuse(struct cleat_error *error,
                              enum cleat_status status, uint64_t index,
                              uint64_t offset, int32_t code, const char *format,
                              ...) __attribute__((format(printf, 6, 7)));

#endif
