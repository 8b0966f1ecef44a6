/* Cleat: device memory that two processes share. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include <string.h>

#include "device.h"

static CUmemAllocationProp prop_of(const struct cleat_cuda *cuda)
{
    CUmemAllocationProp prop;
    int rdma = 0;

    memset(&prop, 0, sizeof prop);
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = cuda->device;
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    if (cuda->driver.p_cuDeviceGetAttribute(
            &rdma, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
            cuda->device) == CUDA_SUCCESS &&
        rdma != 0) {
        prop.allocFlags.gpuDirectRDMACapable = 1;
    }
    return prop;
}

/* Reserves addresses, maps the handle there and lets the device write. */
static CUresult map(struct cleat_cuda *cuda, struct cuda_mapping *mapping,
                    uint64_t bytes)
{
    const struct cuda_driver *driver = &cuda->driver;
    CUmemAccessDesc access;
    CUresult code = driver->p_cuMemAddressReserve(&mapping->address,
                                                  (size_t)bytes, 0, 0, 0);

    if (code != CUDA_SUCCESS) { return code; }
    mapping->bytes = bytes;
    code = driver->p_cuMemMap(mapping->address, (size_t)bytes, 0,
                              mapping->handle, 0);
    if (code != CUDA_SUCCESS) { return code; }
    mapping->mapped = 1;
    memset(&access, 0, sizeof access);
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = cuda->device;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    return driver->p_cuMemSetAccess(mapping->address, (size_t)bytes, &access,
                                    1);
}

void cuda_mapping_end(struct cleat_cuda *cuda, struct cuda_mapping *mapping)
{
    const struct cuda_driver *driver = &cuda->driver;

    if (mapping->mapped != 0) {
        (void)driver->p_cuMemUnmap(mapping->address, (size_t)mapping->bytes);
    }
    if (mapping->bytes != 0) {
        (void)driver->p_cuMemAddressFree(mapping->address,
                                         (size_t)mapping->bytes);
    }
    if (mapping->created != 0) {
        (void)driver->p_cuMemRelease(mapping->handle);
    }
    memset(mapping, 0, sizeof *mapping);
}

/* What made a mapping has failed: takes back what there is of it, unless that
 * would be a call too many. */
static enum cleat_status undo(struct cleat_cuda *cuda,
                              struct cuda_mapping *mapping, CUresult code,
                              const char *doing, struct cleat_error *error)
{
    /* Here it is said of the memory, another device's, and not of ours. */
    enum cleat_status status = code == CUDA_ERROR_INVALID_DEVICE
                                   ? CLEAT_INVALID
                                   : cuda_means(cuda, code);

    if (status != CLEAT_DEVICE_LOST) { cuda_mapping_end(cuda, mapping); }
    (void)cuda_driver_error(&cuda->driver, code, doing, error);
    if (error != NULL) { error->status = status; }
    return status;
}

enum cleat_status cuda_mapping_make(struct cleat_cuda *cuda, uint64_t bytes,
                                    struct cuda_mapping *mapping,
                                    struct cleat_error *error)
{
    const struct cuda_driver *driver = &cuda->driver;
    CUmemAllocationProp prop = prop_of(cuda);
    size_t step = 0;
    CUresult code = driver->p_cuMemGetAllocationGranularity(
        &step, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);

    memset(mapping, 0, sizeof *mapping);
    if (code == CUDA_SUCCESS && step == 0) { code = CUDA_ERROR_NOT_SUPPORTED; }
    if (code != CUDA_SUCCESS) {
        return undo(cuda, mapping, code,
                    "granularity of memory that is to be shared", error);
    }
    bytes = (bytes + step - 1) / step * step;
    code = driver->p_cuMemCreate(&mapping->handle, (size_t)bytes, &prop, 0);
    if (code == CUDA_SUCCESS) {
        mapping->created = 1;
        code = map(cuda, mapping, bytes);
    }
    if (code != CUDA_SUCCESS) {
        return undo(cuda, mapping, code, "memory that is to be shared", error);
    }
    return CLEAT_OK;
}

enum cleat_status cleat_cuda_share(struct cleat_cuda *cuda, int *fd,
                                   uint64_t *bytes, uint64_t *distance)
{
    enum cleat_status status;

    if (cleat_cuda_lost(cuda, NULL)) { return CLEAT_DEVICE_LOST; }
    if (cuda->shared.mapped == 0) { return CLEAT_STATE; }
    *fd = -1;
    status = cuda_means(cuda, cuda->driver.p_cuMemExportToShareableHandle(
                                  fd, cuda->shared.handle,
                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    if (status != CLEAT_OK) { return status; }
    *bytes = cuda->shared.bytes;
    *distance = cuda->slot_distance;
    return CLEAT_OK;
}

enum cleat_status cleat_cuda_import(struct cleat_cuda *cuda, int fd,
                                    uint64_t bytes, uint64_t *address,
                                    struct cleat_error *error)
{
    struct cuda_mapping *mapping = &cuda->imports[cuda->imports_count];
    CUresult code;

    if (cleat_cuda_lost(cuda, NULL)) { return CLEAT_DEVICE_LOST; }
    if (fd < 0 || bytes == 0) {
        return cleat_error_set(error, CLEAT_INVALID, 1, 0,
                               "cuda: a descriptor and its bytes are needed");
    }
    if (!cuda_driver_shares(&cuda->driver)) {
        return cleat_error_set(error, CLEAT_UNSUPPORTED, 0, 0,
                               "cuda: this driver cannot share memory");
    }
    if (cuda->imports_count == CLEAT_CUDA_IMPORTS_MAX) {
        return cleat_error_set(error, CLEAT_NO_SLOT, 0, 0,
                               "cuda: 8 imports are the most");
    }
    memset(mapping, 0, sizeof *mapping);
    code = cuda->driver.p_cuMemImportFromShareableHandle(
        &mapping->handle, (void *)(intptr_t)fd,
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    if (code == CUDA_SUCCESS) {
        mapping->created = 1;
        code = map(cuda, mapping, bytes);
    }
    if (code != CUDA_SUCCESS) {
        return undo(cuda, mapping, code, "memory of another process", error);
    }
    cuda->imports_count++;
    *address = mapping->address;
    return CLEAT_OK;
}
