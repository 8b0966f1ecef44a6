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
#define CUDA_REQUIRED(X)          \
    X(cuInit)                     \
    X(cuDriverGetVersion)         \
    X(cuDeviceGetCount)           \
    X(cuDeviceGet)                \
    X(cuDeviceGetName)            \
    X(cuDeviceGetAttribute)       \
    X(cuDeviceGetPCIBusId)        \
    X(cuDeviceTotalMem)           \
    X(cuDevicePrimaryCtxRetain)   \
    X(cuDevicePrimaryCtxRelease)  \
    X(cuDevicePrimaryCtxGetState) \
    X(cuCtxGetCurrent)            \
    X(cuCtxSetCurrent)            \
    X(cuMemGetInfo)               \
    X(cuMemAlloc)                 \
    X(cuMemFree)                  \
    X(cuMemHostAlloc)             \
    X(cuMemFreeHost)              \
    X(cuMemcpyAsync)              \
    X(cuStreamCreate)             \
    X(cuStreamDestroy)            \
    X(cuStreamQuery)              \
    X(cuStreamWaitEvent)          \
    X(cuEventCreate)              \
    X(cuEventDestroy)             \
    X(cuEventRecord)              \
    X(cuEventQuery)

/* X(name, version): the driver is asked for these by cuGetProcAddress, in the
 * form that the function has had since that version of CUDA, which is the one
 * that cuda.h declares. Memory that two processes share, the host's captures of
 * graphs, and names of codes. */
#define CUDA_OPTIONAL(X)                        \
    X(cuMemGetAllocationGranularity, 10020)     \
    X(cuMemCreate, 10020)                       \
    X(cuMemRelease, 10020)                      \
    X(cuMemAddressReserve, 10020)               \
    X(cuMemAddressFree, 10020)                  \
    X(cuMemMap, 10020)                          \
    X(cuMemUnmap, 10020)                        \
    X(cuMemSetAccess, 10020)                    \
    X(cuMemExportToShareableHandle, 10020)      \
    X(cuMemImportFromShareableHandle, 10020)    \
    X(cuThreadExchangeStreamCaptureMode, 10010) \
    X(cuGetErrorName, 6000)

/* The symbol that cuda.h makes of a name. */
#define CUDA_SYMBOL_TEXT(symbol) #symbol
#define CUDA_SYMBOL(name) CUDA_SYMBOL_TEXT(name)

#endif
