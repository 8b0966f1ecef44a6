/* Cleat: NCCL, loaded. SPDX-License-Identifier: Apache-2.0
 *
 * One list, as port/cuda/symbols.h: types from the real nccl.h, names from the
 * same macro. Left out are ncclCommDestroy and ncclCommFinalize, which wait for
 * peers, ncclMemAlloc and ncclMemFree, which wait for the device, and the
 * collective ways to a new group (Split, Shrink, Grow): membership is agreed
 * over our own channel, and a fresh ncclCommInitRankConfig needs nobody who may
 * be dead. */
#ifndef CLEAT_PORT_NCCL_LIBRARY_H
#define CLEAT_PORT_NCCL_LIBRARY_H

#include <nccl.h>

#include "cleat/cuda.h"
#include "cleat/nccl.h"

/* X(name) */
#define NCCL_REQUIRED(X)      \
    X(ncclGetVersion)         \
    X(ncclGetUniqueId)        \
    X(ncclCommInitRankConfig) \
    X(ncclCommGetAsyncError)  \
    X(ncclCommAbort)          \
    X(ncclGroupStart)         \
    X(ncclGroupEnd)           \
    X(ncclSend)               \
    X(ncclRecv)               \
    X(ncclBroadcast)

/* X(name, since): taken only from a library of that version or newer. */
#define NCCL_OPTIONAL(X)       \
    X(ncclCommRegister, 21901) \
    X(ncclCommRevoke, 22807)

struct nccl_library {
    void *handle;
    int version;                   /* 22809: 2.28.9 */
    const struct cleat_cuda *cuda; /* whose loss ends all calls; NULL: none */
#define NCCL_MEMBER(name) __typeof__(&name) p_##name;
#define NCCL_MEMBER_SINCE(name, since) __typeof__(&name) p_##name;
    NCCL_REQUIRED(NCCL_MEMBER)
    NCCL_OPTIONAL(NCCL_MEMBER_SINCE)
#undef NCCL_MEMBER
#undef NCCL_MEMBER_SINCE
};

/* Loads it.
 *   library  NULL: CLEAT_NCCL_LIBRARY
 * Returns CLEAT_OK; CLEAT_UNSUPPORTED: what was looked for and what was found
 * in the text. On error nothing stays loaded. */
enum cleat_status nccl_library_load(struct nccl_library *library,
                                    const char *path,
                                    struct cleat_error *error);

/* cleat_error_set with a format. */
enum cleat_status nccl_refuse(struct cleat_error *error,
                              enum cleat_status status, uint64_t index,
                              uint64_t offset, int32_t code, const char *format,
                              ...) __attribute__((format(printf, 6, 7)));

/* What a result means: CLEAT_OK; CLEAT_PENDING for ncclInProgress;
 * CLEAT_GROUP_FAILED for everything else: no error of a communicator is
 * survived by it. */
enum cleat_status nccl_meaning(ncclResult_t result);

/* Whether another call may follow the one before, in a step of several: not
 * once the device has been called lost. */
bool nccl_may_call(const struct nccl_library *library);

/* Ends groups of the calling thread until NCCL says that there is none.
 * Returns how many there were, at most CLEAT_NCCL_UNWIND_MAX. */
uint32_t nccl_unwind(const struct nccl_library *library);

#endif
