/* Cleat: a CUDA driver without a GPU: devices, contexts, texts, and the way to
 * every function by its name. SPDX-License-Identifier: Apache-2.0 */
#include "fake_cuda.h"

#include <cudaTypedefs.h>
#include <stdio.h>
#include <string.h>

#define STACK_MAX 8

/* Static room: the first use in a thread must not allocate. */
#define THREAD _Thread_local __attribute__((tls_model("initial-exec")))

static struct CUctx_st contexts[DEVICES_MAX];
static bool initialised;

static THREAD CUcontext current[STACK_MAX];
static THREAD uint32_t depth; /* of what is pushed */
static THREAD bool in_function;

/* ---- what the others ask -------------------------------------------------
 */

/* A context that was released to the last reference is no context. */
int current_device(void)
{
    const struct CUctx_st *context = current[depth];

    if (context == NULL || context->references == 0) return -1;
    return context->device;
}

uint32_t driver_version(void)
{
    return settings()->driver != 0 ? settings()->driver : FAKE_CUDA_VERSION;
}

bool is_initialised(void)
{
    return initialised;
}

void in_host_function(bool inside)
{
    in_function = inside;
}

bool is_in_host_function(void)
{
    return in_function;
}

void bus_id(int device, char *text, uint32_t bytes)
{
    (void)snprintf(text, bytes, "0000:%02X:00.0", (unsigned)device + 1);
}

void reset_devices(void)
{
    memset(contexts, 0, sizeof contexts);
    memset(current, 0, sizeof current);
    depth = 0;
    initialised = false;
}

static bool is_device(CUdevice device)
{
    uint32_t devices = settings()->devices;

    if (devices > DEVICES_MAX) devices = DEVICES_MAX;
    return device >= 0 && (uint32_t)device < devices;
}

/* ---- devices -------------------------------------------------------------
 */

/* cuda.h: the stub library that a toolkit brings for linking answers
 * CUDA_ERROR_STUB_LIBRARY, 34; a driver without a GPU CUDA_ERROR_NO_DEVICE,
 * 100. */
CUresult CUDAAPI cuInit(unsigned int Flags)
{
    struct call call;

    if (!enter(&call, "cuInit", NEED_NOTHING)) return call.code;
    if (Flags != 0) return leave(&call, CUDA_ERROR_INVALID_VALUE);
    if (settings()->init_code != 0) {
        return leave(&call, (CUresult)settings()->init_code);
    }
    if (settings()->devices == 0) return leave(&call, CUDA_ERROR_NO_DEVICE);
    initialised = true;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuDriverGetVersion(int *driverVersion)
{
    struct call call;

    if (!enter(&call, "cuDriverGetVersion", NEED_NOTHING)) return call.code;
    *driverVersion = (int)driver_version();
    return leave(&call, settings()->init_code == CUDA_ERROR_STUB_LIBRARY
                            ? CUDA_ERROR_STUB_LIBRARY
                            : CUDA_SUCCESS);
}

CUresult CUDAAPI cuDeviceGetCount(int *count)
{
    struct call call;

    if (!enter(&call, "cuDeviceGetCount", NEED_INIT)) return call.code;
    *count = (int)settings()->devices;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal)
{
    struct call call;

    if (!enter(&call, "cuDeviceGet", NEED_INIT)) return call.code;
    if (!is_device(ordinal)) return leave(&call, CUDA_ERROR_INVALID_DEVICE);
    *device = ordinal;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuDeviceGetName(char *name, int len, CUdevice dev)
{
    struct call call;

    if (!enter(&call, "cuDeviceGetName", NEED_INIT)) return call.code;
    if (!is_device(dev)) return leave(&call, CUDA_ERROR_INVALID_DEVICE);
    (void)snprintf(name, (size_t)len, "Fake GPU %d", dev);
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice dev)
{
    struct call call;

    if (!enter(&call, "cuDeviceGetUuid", NEED_INIT)) return call.code;
    if (!is_device(dev)) return leave(&call, CUDA_ERROR_INVALID_DEVICE);
    memset(uuid, 0xFA, sizeof *uuid);
    uuid->bytes[15] = (char)dev;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice dev)
{
    struct call call;

    if (!enter(&call, "cuDeviceTotalMem", NEED_INIT)) return call.code;
    if (!is_device(dev)) return leave(&call, CUDA_ERROR_INVALID_DEVICE);
    *bytes = settings()->memory_bytes;
    return leave(&call, CUDA_SUCCESS);
}

static int attribute_of(CUdevice_attribute attribute, CUdevice device)
{
    switch ((int)attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return 9;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return device + 1;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED: return 1;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return 132;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: return 3;
    default: return 0;
    }
}

CUresult CUDAAPI cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib,
                                      CUdevice dev)
{
    struct call call;

    if (!enter(&call, "cuDeviceGetAttribute", NEED_INIT)) return call.code;
    if (!is_device(dev)) return leave(&call, CUDA_ERROR_INVALID_DEVICE);
    if ((int)attrib <= 0 || attrib >= CU_DEVICE_ATTRIBUTE_MAX) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    *pi = attribute_of(attrib, dev);
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev)
{
    struct call call;

    if (!enter(&call, "cuDeviceGetPCIBusId", NEED_INIT)) return call.code;
    if (!is_device(dev)) return leave(&call, CUDA_ERROR_INVALID_DEVICE);
    bus_id(dev, pciBusId, (uint32_t)len);
    return leave(&call, CUDA_SUCCESS);
}

/* ---- contexts ------------------------------------------------------------
 */

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
    struct call call;

    if (!enter(&call, "cuDevicePrimaryCtxRetain", NEED_INIT))
        return spoiled(&call, pctx, sizeof *pctx);
    if (!is_device(dev)) return leave(&call, CUDA_ERROR_INVALID_DEVICE);
    contexts[dev].device = dev;
    contexts[dev].references++;
    counts()->contexts++;
    *pctx = &contexts[dev];
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice dev)
{
    struct call call;

    if (!enter_allocating(&call, "cuDevicePrimaryCtxRelease", NEED_INIT)) {
        return call.code;
    }
    if (!is_device(dev)) return leave(&call, CUDA_ERROR_INVALID_DEVICE);
    if (contexts[dev].references == 0) {
        return leave(&call, CUDA_ERROR_INVALID_CONTEXT);
    }
    if (contexts[dev].references == 1 && pending_on_device(dev) > 0) {
        misuse(call.name, "the last reference, with work pending");
    }
    contexts[dev].references--;
    counts()->contexts--;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags,
                                            int *active)
{
    struct call call;

    if (!enter(&call, "cuDevicePrimaryCtxGetState", NEED_INIT)) {
        return call.code;
    }
    if (!is_device(dev)) return leave(&call, CUDA_ERROR_INVALID_DEVICE);
    *flags = 0;
    *active = contexts[dev].references > 0;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxSetCurrent(CUcontext ctx)
{
    struct call call;

    if (!enter(&call, "cuCtxSetCurrent", NEED_INIT)) return call.code;
    if (ctx != NULL && ctx->references == 0) {
        return leave(&call, CUDA_ERROR_INVALID_CONTEXT);
    }
    current[depth] = ctx;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext *pctx)
{
    struct call call;

    if (!enter(&call, "cuCtxGetCurrent", NEED_INIT)) return call.code;
    *pctx = current[depth];
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice *device)
{
    struct call call;

    if (!enter(&call, "cuCtxGetDevice", NEED_CONTEXT)) return call.code;
    *device = current_device();
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext ctx)
{
    struct call call;

    if (!enter(&call, "cuCtxPushCurrent", NEED_INIT)) return call.code;
    if (ctx == NULL || ctx->references == 0 || depth + 1 == STACK_MAX) {
        return leave(&call, CUDA_ERROR_INVALID_CONTEXT);
    }
    current[++depth] = ctx;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext *pctx)
{
    struct call call;

    if (!enter(&call, "cuCtxPopCurrent", NEED_INIT)) return call.code;
    if (current[depth] == NULL) {
        return leave(&call, CUDA_ERROR_INVALID_CONTEXT);
    }
    if (pctx != NULL) *pctx = current[depth];
    current[depth] = NULL;
    if (depth > 0) depth--;
    return leave(&call, CUDA_SUCCESS);
}

CUresult CUDAAPI cuCtxSynchronize(void)
{
    struct call call;

    if (!enter(&call, "cuCtxSynchronize", NEED_CONTEXT)) return call.code;
    misuse(call.name, "waits for the device, for ever if it hangs");
    return leave(&call, drain() ? CUDA_SUCCESS : CUDA_ERROR_TIMEOUT);
}

/* ---- texts ---------------------------------------------------------------
 */

#define ERRORS(X)                                                       \
    X(CUDA_SUCCESS, "no error")                                         \
    X(CUDA_ERROR_INVALID_VALUE, "an argument is out of range")          \
    X(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")                        \
    X(CUDA_ERROR_NOT_INITIALIZED, "not initialised")                    \
    X(CUDA_ERROR_DEINITIALIZED, "the driver is shutting down")          \
    X(CUDA_ERROR_STUB_LIBRARY, "the library is a stub")                 \
    X(CUDA_ERROR_DEVICE_UNAVAILABLE, "the device is taken")             \
    X(CUDA_ERROR_NO_DEVICE, "no device")                                \
    X(CUDA_ERROR_INVALID_DEVICE, "no such device")                      \
    X(CUDA_ERROR_INVALID_CONTEXT, "no such context")                    \
    X(CUDA_ERROR_ECC_UNCORRECTABLE, "memory error that stays")          \
    X(CUDA_ERROR_NVLINK_UNCORRECTABLE, "NVLink error that stays")       \
    X(CUDA_ERROR_CONTAINED, "a contained error")                        \
    X(CUDA_ERROR_INVALID_HANDLE, "no such handle")                      \
    X(CUDA_ERROR_NOT_FOUND, "not found")                                \
    X(CUDA_ERROR_NOT_READY, "not ready")                                \
    X(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access")           \
    X(CUDA_ERROR_LAUNCH_TIMEOUT, "a kernel took too long")              \
    X(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context is destroyed")      \
    X(CUDA_ERROR_ASSERT, "an assertion on the device")                  \
    X(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "already registered")  \
    X(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "not registered")          \
    X(CUDA_ERROR_HARDWARE_STACK_ERROR, "a stack error")                 \
    X(CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction")         \
    X(CUDA_ERROR_MISALIGNED_ADDRESS, "a misaligned address")            \
    X(CUDA_ERROR_INVALID_ADDRESS_SPACE, "a wrong address space")        \
    X(CUDA_ERROR_INVALID_PC, "a wrong program counter")                 \
    X(CUDA_ERROR_LAUNCH_FAILED, "a launch failed")                      \
    X(CUDA_ERROR_TENSOR_MEMORY_LEAK, "tensor memory was not freed")     \
    X(CUDA_ERROR_NOT_PERMITTED, "not permitted")                        \
    X(CUDA_ERROR_NOT_SUPPORTED, "not supported")                        \
    X(CUDA_ERROR_SYSTEM_NOT_READY, "the system is not ready")           \
    X(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "driver parts do not match")   \
    X(CUDA_ERROR_MPS_CLIENT_TERMINATED, "the MPS client was ended")     \
    X(CUDA_ERROR_EXTERNAL_DEVICE, "an external device failed")          \
    X(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "while a stream captures") \
    X(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture is invalid")  \
    X(CUDA_ERROR_OPERATING_SYSTEM, "the operating system's")            \
    X(CUDA_ERROR_TIMEOUT, "timeout")                                    \
    X(CUDA_ERROR_UNKNOWN, "unknown error")

static const struct {
    CUresult code;
    const char *name;
    const char *text;
} errors[] = {
#define ROW(code, text) {code, #code, text},
    ERRORS(ROW)
#undef ROW
};

CUresult CUDAAPI cuGetErrorName(CUresult error, const char **pStr)
{
    *pStr = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].code == error) *pStr = errors[i].name;
    }
    return *pStr != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGetErrorString(CUresult error, const char **pStr)
{
    *pStr = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].code == error) *pStr = errors[i].text;
    }
    return *pStr != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- functions by name ---------------------------------------------------
 */

/* The version is that at which this form of the function came. */
#define FUNCTIONS(X)                    \
    X(cuInit, 2000)                     \
    X(cuDriverGetVersion, 2020)         \
    X(cuDeviceGetCount, 2000)           \
    X(cuDeviceGet, 2000)                \
    X(cuDeviceGetName, 2000)            \
    X(cuDeviceGetUuid, 11040)           \
    X(cuDeviceTotalMem, 3020)           \
    X(cuDeviceGetAttribute, 2000)       \
    X(cuDeviceGetPCIBusId, 4010)        \
    X(cuDevicePrimaryCtxRetain, 7000)   \
    X(cuDevicePrimaryCtxRelease, 11000) \
    X(cuDevicePrimaryCtxGetState, 7000) \
    X(cuCtxSetCurrent, 4000)            \
    X(cuCtxGetCurrent, 4000)            \
    X(cuCtxGetDevice, 2000)             \
    X(cuCtxPushCurrent, 4000)           \
    X(cuCtxPopCurrent, 4000)            \
    X(cuCtxSynchronize, 2000)           \
    X(cuStreamCreate, 2000)             \
    X(cuStreamCreateWithPriority, 5050) \
    X(cuStreamDestroy, 4000)            \
    X(cuStreamQuery, 2000)              \
    X(cuStreamSynchronize, 2000)        \
    X(cuStreamWaitEvent, 3020)          \
    X(cuStreamWaitValue32, 11070)       \
    X(cuStreamWriteValue32, 11070)      \
    X(cuEventCreate, 2000)              \
    X(cuEventDestroy, 4000)             \
    X(cuEventQuery, 2000)               \
    X(cuEventRecord, 2000)              \
    X(cuEventSynchronize, 2000)         \
    X(cuLaunchHostFunc, 10000)          \
    X(cuMemAlloc, 3020)                 \
    X(cuMemFree, 3020)                  \
    X(cuMemGetInfo, 3020)               \
    X(cuMemGetAddressRange, 3020)       \
    X(cuMemHostAlloc, 2020)             \
    X(cuMemFreeHost, 2000)              \
    X(cuMemHostRegister, 6050)          \
    X(cuMemHostUnregister, 4000)        \
    X(cuMemHostGetDevicePointer, 3020)  \
    X(cuMemcpy, 4000)                   \
    X(cuMemcpyHtoD, 3020)               \
    X(cuMemcpyDtoH, 3020)               \
    X(cuMemcpyDtoD, 3020)               \
    X(cuMemsetD8, 3020)                 \
    X(cuMemcpyAsync, 4000)              \
    X(cuMemcpyPeerAsync, 4000)          \
    X(cuMemcpyHtoDAsync, 3020)          \
    X(cuMemcpyDtoHAsync, 3020)          \
    X(cuMemcpyDtoDAsync, 3020)          \
    X(cuMemsetD8Async, 3020)            \
    X(cuIpcGetMemHandle, 4010)          \
    X(cuIpcOpenMemHandle, 11000)        \
    X(cuIpcCloseMemHandle, 4010)        \
    X(cuGetErrorName, 6000)             \
    X(cuGetErrorString, 6000)           \
    FUNCTIONS_VMM(X)                    \
    FUNCTIONS_12(X)                     \
    FUNCTIONS_13(X)

#ifdef FAKE_CUDA_WITHOUT_VMM
#define FUNCTIONS_VMM(X)
#else
#define FUNCTIONS_VMM(X)                     \
    X(cuMemCreate, 10020)                    \
    X(cuMemRelease, 10020)                   \
    X(cuMemMap, 10020)                       \
    X(cuMemUnmap, 10020)                     \
    X(cuMemAddressReserve, 10020)            \
    X(cuMemAddressFree, 10020)               \
    X(cuMemSetAccess, 10020)                 \
    X(cuMemExportToShareableHandle, 10020)   \
    X(cuMemImportFromShareableHandle, 10020) \
    X(cuMemGetAllocationGranularity, 10020)  \
    X(cuMemRetainAllocationHandle, 11000)
#endif
#if FAKE_CUDA_VERSION >= 12000
#define FUNCTIONS_12(X) X(cuGetProcAddress, 12000)
#else
#define FUNCTIONS_12(X)
#endif
#if FAKE_CUDA_VERSION >= 13000
#define FUNCTIONS_13(X) X(cuMemcpyBatchAsync, 13000)
#else
#define FUNCTIONS_13(X)
#endif

typedef void (*function)(void);

static const struct {
    const char *name;
    int version;
    function function;
} functions[] = {
#define ROW(name, version) {#name, version, (function)name},
    FUNCTIONS(ROW)
#undef ROW
};

/* A name here is the one of the source, and the version says which form is
 * wanted; the exported name with its _v2 is for dlsym(). Of several forms only
 * the newest that cuda.h names is here, and so a version older than that one
 * is not sufficient. */
static CUdriverProcAddressQueryResult find(const char *symbol, int version,
                                           void **pfn)
{
    *pfn = NULL;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        if (strcmp(functions[i].name, symbol) != 0) continue;
        if (functions[i].version > version) {
            return CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
        }
        memcpy(pfn, &functions[i].function, sizeof *pfn);
        return CU_GET_PROC_ADDRESS_SUCCESS;
    }
    return CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
}

#if FAKE_CUDA_VERSION >= 12000
/* As cuda.h has it: what is not found is a success with no pointer, and
 * symbolStatus, which may be left out, says why; a version newer than the
 * driver's is an invalid value. */
CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **pfn,
                                  int cudaVersion, cuuint64_t flags,
                                  CUdriverProcAddressQueryResult *symbolStatus)
{
    CUdriverProcAddressQueryResult found;
    struct call call;

    (void)flags;
    if (!enter(&call, "cuGetProcAddress", NEED_NOTHING)) return call.code;
    if ((uint32_t)cudaVersion > driver_version()) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    found = find(symbol, cudaVersion, pfn);
    if (symbolStatus != NULL) *symbolStatus = found;
    return leave(&call, CUDA_SUCCESS);
}
#endif

/* The form of CUDA 11.3, which later drivers export too: what is not found is
 * an error (the driver API's reference of CUDA 11). */
#undef cuGetProcAddress
extern __typeof__(*(PFN_cuGetProcAddress_v11030)NULL) cuGetProcAddress;

CUresult CUDAAPI cuGetProcAddress(const char *symbol, void **pfn,
                                  int cudaVersion, cuuint64_t flags)
{
    struct call call;

    (void)flags;
    if (!enter(&call, "cuGetProcAddress", NEED_NOTHING)) return call.code;
    if ((uint32_t)cudaVersion > driver_version()) {
        return leave(&call, CUDA_ERROR_INVALID_VALUE);
    }
    return leave(&call,
                 find(symbol, cudaVersion, pfn) == CU_GET_PROC_ADDRESS_SUCCESS
                     ? CUDA_SUCCESS
                     : CUDA_ERROR_NOT_FOUND);
}
