/* Cleat: what is called of the CUDA driver. SPDX-License-Identifier: Apache-2.0
 *
 * The one list: the table of functions, their types and the names that are
 * looked up all come from it. The types are those of the toolkit's cuda.h, so a
 * call that does not fit does not compile; the names are what cuda.h makes of
 * them (cuMemAlloc is the symbol cuMemAlloc_v2). Left out is every function
 * that waits for the device, and every one whose plain name means an ABI that
 * only a driver of CUDA 13 has (cuCtxCreate, cuMemcpyBatchAsync,
 * cuEventElapsedTime, cuMemPrefetchAsync): a driver of CUDA 12 will do. */
#ifndef CLEAT_PORT_CUDA_SYMBOLS_H
#define CLEAT_PORT_CUDA_SYMBOLS_H

#include <cuda.h>

/* Without these a device cannot be opened. */
#define CUDA_REQUIRED(X)         \
    X(cuInit)                    \
    X(cuDriverGetVersion)        \
    X(cuDeviceGetCount)          \
    X(cuDeviceGet)               \
    X(cuDeviceGetName)           \
    X(cuDeviceGetAttribute)      \
    X(cuDeviceGetPCIBusId)       \
    X(cuDeviceTotalMem)          \
    X(cuDevicePrimaryCtxRetain)  \
    X(cuDevicePrimaryCtxRelease) \
    X(cuCtxSetCurrent)           \
    X(cuMemGetInfo)              \
    X(cuMemAlloc)                \
    X(cuMemFree)                 \
    X(cuMemHostAlloc)            \
    X(cuMemFreeHost)             \
    X(cuMemcpyAsync)             \
    X(cuStreamCreate)            \
    X(cuStreamDestroy)           \
    X(cuStreamQuery)             \
    X(cuStreamWaitEvent)         \
    X(cuEventCreate)             \
    X(cuEventDestroy)            \
    X(cuEventRecord)             \
    X(cuEventQuery)

/* Memory that two processes share, of CUDA 10.2. */
#define CUDA_OPTIONAL(X)              \
    X(cuMemGetAllocationGranularity)  \
    X(cuMemCreate)                    \
    X(cuMemRelease)                   \
    X(cuMemAddressReserve)            \
    X(cuMemAddressFree)               \
    X(cuMemMap)                       \
    X(cuMemUnmap)                     \
    X(cuMemSetAccess)                 \
    X(cuMemExportToShareableHandle)   \
    X(cuMemImportFromShareableHandle) \
    X(cuGetErrorName)

/* The symbol that cuda.h makes of a name. */
#define CUDA_SYMBOL_TEXT(symbol) #symbol
#define CUDA_SYMBOL(name) CUDA_SYMBOL_TEXT(name)

#endif
