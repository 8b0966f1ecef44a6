/* Cleat: the CUDA driver, loaded. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "driver.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum cleat_status cuda_refuse(struct cleat_error *error,
                              enum cleat_status status, uint64_t index,
                              uint64_t offset, int32_t code, const char *format,
                              ...)
{
    char text[CLEAT_ERROR_TEXT_MAX];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    (void)cleat_error_set(error, status, index, offset, text);
    if (error != NULL) { error->port_code = code; }
    return status;
}

enum cleat_status cleat_cuda_meaning(int32_t code)
{
    switch (code) {
    case CUDA_SUCCESS: return CLEAT_OK;
    case CUDA_ERROR_NOT_READY: return CLEAT_PENDING;
    case CUDA_ERROR_OUT_OF_MEMORY:
    case CUDA_ERROR_MPS_SERVER_NOT_READY:
    case CUDA_ERROR_MPS_MAX_CLIENTS_REACHED:
    case CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED: return CLEAT_CAPACITY;
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_HANDLE: return CLEAT_INVALID;
    case CUDA_ERROR_STUB_LIBRARY:
    case CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER:
    case CUDA_ERROR_PEER_ACCESS_UNSUPPORTED:
    case CUDA_ERROR_NOT_PERMITTED:
    case CUDA_ERROR_NOT_SUPPORTED: return CLEAT_UNSUPPORTED;
    case CUDA_ERROR_NOT_INITIALIZED:
    case CUDA_ERROR_MAP_FAILED:
    case CUDA_ERROR_UNMAP_FAILED:
    case CUDA_ERROR_ALREADY_MAPPED:
    case CUDA_ERROR_NOT_MAPPED:
    case CUDA_ERROR_OPERATING_SYSTEM: /* a wrong descriptor, a limit */
    case CUDA_ERROR_ILLEGAL_STATE:
    case CUDA_ERROR_NOT_FOUND:
    case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: /* of the host's graphs */
    case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED:
    case CUDA_ERROR_STREAM_CAPTURE_MERGE:
    case CUDA_ERROR_STREAM_CAPTURE_UNMATCHED:
    case CUDA_ERROR_STREAM_CAPTURE_UNJOINED:
    case CUDA_ERROR_STREAM_CAPTURE_ISOLATION:
    case CUDA_ERROR_STREAM_CAPTURE_IMPLICIT:
    case CUDA_ERROR_CAPTURED_EVENT:
    case CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD:
    case CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED:
    case CUDA_ERROR_PEER_ACCESS_NOT_ENABLED:
    case CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED:
    case CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED:
    case CUDA_ERROR_TIMEOUT: return CLEAT_PERMANENT;
    default: return CLEAT_DEVICE_LOST; /* what is not understood too */
    }
}

const char *cuda_driver_error_name(const struct cuda_driver *driver,
                                   CUresult code)
{
    const char *name = NULL;

    if (driver->p_cuGetErrorName == NULL ||
        driver->p_cuGetErrorName(code, &name) != CUDA_SUCCESS || name == NULL) {
        return "error";
    }
    return name;
}

enum cleat_status cuda_driver_error(const struct cuda_driver *driver,
                                    CUresult code, const char *doing,
                                    struct cleat_error *error)
{
    return cuda_refuse(error, cleat_cuda_meaning((int32_t)code), 0, 0,
                       (int32_t)code, "cuda: %s: %s (%d)", doing,
                       cuda_driver_error_name(driver, code), (int)code);
}

bool cuda_driver_shares(const struct cuda_driver *driver)
{
    return driver->p_cuMemGetAllocationGranularity != NULL &&
           driver->p_cuMemCreate != NULL && driver->p_cuMemRelease != NULL &&
           driver->p_cuMemAddressReserve != NULL &&
           driver->p_cuMemAddressFree != NULL && driver->p_cuMemMap != NULL &&
           driver->p_cuMemUnmap != NULL && driver->p_cuMemSetAccess != NULL &&
           driver->p_cuMemExportToShareableHandle != NULL &&
           driver->p_cuMemImportFromShareableHandle != NULL;
}

/* Copies the address found to a member of the table: a function pointer, for
 * which ISO C has no cast from void *. */
static bool found(void *handle, const char *symbol, void *member)
{
    void *address = dlsym(handle, symbol);

    memcpy(member, &address, sizeof address);
    return address != NULL;
}

/* Fills the required part of the table, by names whose form is the same in
 * every driver that has them; NULL, or the first that is not there. */
static const char *look_up(struct cuda_driver *driver)
{
    const char *missing = NULL;

#define CUDA_LOOK(name)                                                 \
    if (!found(driver->handle, CUDA_SYMBOL(name), &driver->p_##name) && \
        missing == NULL) {                                              \
        missing = CUDA_SYMBOL(name);                                    \
    }
    CUDA_REQUIRED(CUDA_LOOK)
#undef CUDA_LOOK
    return missing;
}

/* As cuGetProcAddress was in CUDA 11.3, under its plain name; 12.0 added a
 * last argument, and the symbol cuGetProcAddress_v2. */
typedef CUresult(CUDAAPI *get_address_11)(const char *symbol, void **address,
                                          int version, cuuint64_t flags);
typedef CUresult(CUDAAPI *get_address_12)(
    const char *symbol, void **address, int version, cuuint64_t flags,
    CUdriverProcAddressQueryResult *result);

struct addresses {
    void *handle;
    get_address_11 get_11; /* NULL: a driver without it */
    get_address_12 get_12;
};

/* Asks the driver; where it has no such function to be asked by, or does not
 * know the name, the library. */
static void ask(const struct addresses *addresses, const char *name,
                const char *symbol, int since, void *member)
{
    CUdriverProcAddressQueryResult result = CU_GET_PROC_ADDRESS_SUCCESS;
    CUresult code = CUDA_ERROR_NOT_FOUND;
    void *address = NULL;

    if (addresses->get_12 != NULL) {
        code = addresses->get_12(name, &address, since,
                                 CU_GET_PROC_ADDRESS_DEFAULT, &result);
    } else if (addresses->get_11 != NULL) {
        code = addresses->get_11(name, &address, since,
                                 CU_GET_PROC_ADDRESS_DEFAULT);
    }
    if (code != CUDA_SUCCESS || result != CU_GET_PROC_ADDRESS_SUCCESS ||
        address == NULL) {
        (void)found(addresses->handle, symbol, member);
        return;
    }
    memcpy(member, &address, sizeof address);
}

/* Fills the optional part. Neither way needs a driver that has been started. */
static void look_up_optional(struct cuda_driver *driver)
{
    struct addresses addresses = {driver->handle, NULL, NULL};

    (void)found(driver->handle, "cuGetProcAddress_v2", &addresses.get_12);
    (void)found(driver->handle, "cuGetProcAddress", &addresses.get_11);
#define CUDA_LOOK(name, since) \
    ask(&addresses, #name, CUDA_SYMBOL(name), since, &driver->p_##name);
    CUDA_OPTIONAL(CUDA_LOOK)
#undef CUDA_LOOK
}

static enum cleat_status start(struct cuda_driver *driver, const char *library,
                               struct cleat_error *error)
{
    CUresult code = driver->p_cuInit(0);

    if (code == CUDA_ERROR_STUB_LIBRARY) {
        return cuda_refuse(error, CLEAT_UNSUPPORTED, 0, 0, (int32_t)code,
                           "cuda: %s is the toolkit's stub, not a driver: "
                           "cuInit says STUB_LIBRARY (34)",
                           library);
    }
    if (code == CUDA_ERROR_NO_DEVICE) {
        return cuda_refuse(error, CLEAT_UNSUPPORTED, 0, 0, (int32_t)code,
                           "cuda: %s finds no device: cuInit says NO_DEVICE "
                           "(100)",
                           library);
    }
    if (code != CUDA_SUCCESS) {
        (void)cuda_driver_error(driver, code, "cuInit", error);
        if (error != NULL) { error->status = CLEAT_UNSUPPORTED; }
        return CLEAT_UNSUPPORTED;
    }
    code = driver->p_cuDriverGetVersion(&driver->version);
    if (code != CUDA_SUCCESS) {
        return cuda_driver_error(driver, code, "cuDriverGetVersion", error);
    }
    if (driver->version < CUDA_DRIVER_MIN) {
        return cuda_refuse(error, CLEAT_UNSUPPORTED, 0, 0, 0,
                           "cuda: %s is a driver of CUDA %d.%d; %d.%d or newer "
                           "is needed",
                           library, driver->version / 1000,
                           driver->version % 1000 / 10, CUDA_DRIVER_MIN / 1000,
                           CUDA_DRIVER_MIN % 1000 / 10);
    }
    return CLEAT_OK;
}

enum cleat_status cuda_driver_load(struct cuda_driver *driver,
                                   const char *library,
                                   struct cleat_error *error)
{
    const char *missing;

    memset(driver, 0, sizeof *driver);
    if (library == NULL) { library = CLEAT_CUDA_LIBRARY; }
    driver->handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (driver->handle == NULL) {
        const char *why = dlerror();

        return cuda_refuse(error, CLEAT_UNSUPPORTED, 0, 0, 0,
                           "cuda: no driver: %s was not loaded: %.120s",
                           library, why != NULL ? why : "unknown");
    }
    missing = look_up(driver);
    if (missing != NULL) {
        (void)dlclose(driver->handle); /* nothing in it has run */
        memset(driver, 0, sizeof *driver);
        return cuda_refuse(error, CLEAT_UNSUPPORTED, 0, 0, 0,
                           "cuda: %s was found, but has no %s: a newer driver "
                           "is needed",
                           library, missing);
    }
    look_up_optional(driver);
    return start(driver, library, error);
}
