/* Cleat: NCCL, loaded. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "library.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stop.h"

_Static_assert(sizeof(ncclUniqueId) == CLEAT_NCCL_ID_BYTES, "an id's size");
_Static_assert(ncclSuccess == 0 && ncclInvalidUsage == 5 &&
                   ncclRemoteError == 6 && ncclInProgress == 7,
               "the results' numbers are part of the ABI");

enum cleat_status nccl_refuse(struct cleat_error *error,
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

enum cleat_status nccl_meaning(ncclResult_t result)
{
    if (result == ncclSuccess) { return CLEAT_OK; }
    return result == ncclInProgress ? CLEAT_PENDING : CLEAT_GROUP_FAILED;
}

bool nccl_may_call(const struct nccl_library *library)
{
    return library->cuda == NULL || !cleat_cuda_lost(library->cuda, NULL);
}

uint32_t nccl_unwind(const struct nccl_library *library)
{
    uint32_t depth = 0;

    while (depth < CLEAT_NCCL_UNWIND_MAX && nccl_may_call(library) &&
           library->p_ncclGroupEnd() != ncclInvalidUsage) {
        depth++;
    }
    return depth;
}

/* Copies the address found to a member of the table: a function pointer, for
 * which ISO C has no cast from void *. */
static bool found(void *handle, const char *symbol, void *member)
{
    void *address = dlsym(handle, symbol);

    memcpy(member, &address, sizeof address);
    return address != NULL;
}

/* Fills the required part; NULL, or the first symbol that is not there. */
static const char *look_up(struct nccl_library *library)
{
    const char *missing = NULL;

#define NCCL_LOOK(name)                                       \
    if (!found(library->handle, #name, &library->p_##name) && \
        missing == NULL) {                                    \
        missing = #name;                                      \
    }
    NCCL_REQUIRED(NCCL_LOOK)
#undef NCCL_LOOK
    return missing;
}

static void look_up_optional(struct nccl_library *library)
{
#define NCCL_LOOK(name, since)                                   \
    if (library->version >= (since)) {                           \
        (void)found(library->handle, #name, &library->p_##name); \
    }
    NCCL_OPTIONAL(NCCL_LOOK)
#undef NCCL_LOOK
}

/* What NCCL takes from the environment over what it is told, and what would
 * break with it: NCCL_COMM_BLOCKING makes calls wait for peers that may be
 * dead, NCCL_COMM_ID gives every group the same id, so that one who comes late
 * from an old group meets the new one. */
static enum cleat_status look_around(struct cleat_error *error)
{
    const char *blocking = getenv("NCCL_COMM_BLOCKING");
    const char *id = getenv("NCCL_COMM_ID");

    if (blocking != NULL && blocking[0] != '\0' && strcmp(blocking, "0") != 0) {
        return nccl_refuse(error, CLEAT_UNSUPPORTED, 0, 0, 0,
                           "nccl: NCCL_COMM_BLOCKING=%.40s is in the "
                           "environment: calls that wait for peers have no "
                           "deadline; unset it",
                           blocking);
    }
    if (id != NULL && id[0] != '\0') {
        return nccl_refuse(error, CLEAT_UNSUPPORTED, 0, 0, 0,
                           "nccl: NCCL_COMM_ID=%.40s is in the environment: "
                           "every group would have the same id; unset it",
                           id);
    }
    return CLEAT_OK;
}

static enum cleat_status examine(struct nccl_library *library, const char *path,
                                 struct cleat_error *error)
{
    const char *missing = look_up(library);
    ncclResult_t result;

    if (missing != NULL) {
        return nccl_refuse(error, CLEAT_UNSUPPORTED, 0, 0, 0,
                           "nccl: %s was found, but has no %s: NCCL %d.%d or "
                           "newer is needed",
                           path, missing, CLEAT_NCCL_VERSION_MIN / 10000,
                           CLEAT_NCCL_VERSION_MIN % 10000 / 100);
    }
    result = library->p_ncclGetVersion(&library->version);
    if (result != ncclSuccess) {
        return nccl_refuse(error, CLEAT_UNSUPPORTED, 0, 0, (int32_t)result,
                           "nccl: %s does not tell its version (%d)", path,
                           (int)result);
    }
    if (library->version < CLEAT_NCCL_VERSION_MIN) {
        return nccl_refuse(
            error, CLEAT_UNSUPPORTED, 0, 0, library->version,
            "nccl: %s is NCCL %d.%d.%d; %d.%d or newer is needed", path,
            library->version / 10000, library->version % 10000 / 100,
            library->version % 100, CLEAT_NCCL_VERSION_MIN / 10000,
            CLEAT_NCCL_VERSION_MIN % 10000 / 100);
    }
    look_up_optional(library);
    return CLEAT_OK;
}

enum cleat_status nccl_library_load(struct nccl_library *library,
                                    const char *path, struct cleat_error *error)
{
    enum cleat_status status;

    memset(library, 0, sizeof *library);
    status = look_around(error);
    if (status != CLEAT_OK) { return status; }
    if (path == NULL) { path = CLEAT_NCCL_LIBRARY; }
    library->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library->handle == NULL) {
        const char *why = dlerror();

        return nccl_refuse(error, CLEAT_UNSUPPORTED, 0, 0, 0,
                           "nccl: %s was not loaded: %.120s", path,
                           why != NULL ? why : "unknown");
    }
    status = examine(library, path, error);
    if (status != CLEAT_OK) {
        (void)dlclose(library->handle);
        memset(library, 0, sizeof *library);
    }
    return status;
}

/* ---- what there is ---- */

enum cleat_status cleat_nccl_look(const char *path,
                                  struct cleat_nccl_info *info,
                                  struct cleat_error *error)
{
    struct nccl_library library;
    enum cleat_status status = nccl_library_load(&library, path, error);

    memset(info, 0, sizeof *info);
    if (status != CLEAT_OK) { return status; }
    info->version = (uint32_t)library.version;
    info->revoke = library.p_ncclCommRevoke != NULL;
    info->group_abort = library.version >= CLEAT_NCCL_GROUP_ABORT;
    info->several_ranks = library.version >= CLEAT_NCCL_SEVERAL_RANKS;
    info->registers = library.p_ncclCommRegister != NULL;
    return CLEAT_OK;
}
