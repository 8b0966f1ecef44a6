/* Cleat: finding the library of Mooncake Store. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "state.h"

/* ---- the environment ----------------------------------------------------- */

/* A time-out of the library's: what the user chose, or the default; the
 * environment's own comes before both. */
static enum cleat_status set_timeout(const char *name, uint32_t chosen,
                                     uint32_t otherwise,
                                     struct cleat_error *error)
{
    uint32_t value = chosen != 0 ? chosen : otherwise;
    char text[16];

    if (value == CLEAT_MOONCAKE_UNTOUCHED) { return CLEAT_OK; }
    (void)snprintf(text, sizeof text, "%u", (unsigned)value);
    if (setenv(name, text, 0) == 0) { return CLEAT_OK; }
    (void)cleat_error_set(error, CLEAT_IO, 2, 0, "");
    if (error != NULL) {
        error->port_code = errno;
        (void)snprintf(error->text, sizeof error->text,
                       "mooncake: the environment variable %s cannot be set",
                       name);
    }
    return CLEAT_IO;
}

static enum cleat_status
set_environment(const struct cleat_mooncake_config *config,
                struct cleat_error *error)
{
    enum cleat_status status;

    status = set_timeout("MC_RPC_TIMEOUT_MS", config->rpc_timeout_ms,
                         CLEAT_MOONCAKE_RPC_TIMEOUT_MS_DEFAULT, error);
    if (status != CLEAT_OK) { return status; }
    status = set_timeout("MC_RPC_CONNECT_TIMEOUT_MS",
                         config->rpc_connect_timeout_ms,
                         CLEAT_MOONCAKE_RPC_CONNECT_TIMEOUT_MS_DEFAULT, error);
    if (status != CLEAT_OK) { return status; }
    return set_timeout("MC_TCP_STATUS_TIMEOUT_SEC",
                       config->tcp_status_timeout_s, CLEAT_MOONCAKE_UNTOUCHED,
                       error);
}

/* ---- the library --------------------------------------------------------- */

/* Whether there is such a library: one with a path is a file. One without is
 * searched for; what was not found is then the first name in the loader's
 * words, and it may be that of a library which this one needs. */
static bool is_there(const char *path, const char *words)
{
    static const char other[] = "Error loading shared library ";
    size_t bytes = strlen(path);

    if (strchr(path, '/') != NULL) { return access(path, F_OK) == 0; }
    if (words == NULL) { return false; }
    if (strncmp(words, other, sizeof other - 1) == 0) {
        words += sizeof other - 1;
    }
    return strncmp(words, path, bytes) != 0 || words[bytes] != ':';
}

/* The loader's words name the path that it tried. */
static enum cleat_status cannot_load(const char *path,
                                     struct cleat_error *error)
{
    const char *words = dlerror();
    bool there = is_there(path, words);
    enum cleat_status status = there ? CLEAT_UNSUPPORTED : CLEAT_NOT_FOUND;

    (void)cleat_error_set(error, status, 2, 0, "");
    if (error != NULL) {
        (void)snprintf(error->text, sizeof error->text,
                       "mooncake: %s cannot be loaded: %s", path,
                       words != NULL ? words : "no reason given");
    }
    return status;
}

static enum cleat_status lacks(const char *path, const char *symbol,
                               struct cleat_error *error)
{
    (void)cleat_error_set(error, CLEAT_UNSUPPORTED, 2, 0, "");
    if (error != NULL) {
        (void)snprintf(error->text, sizeof error->text,
                       "mooncake: the library %s has no %s", path, symbol);
    }
    return CLEAT_UNSUPPORTED;
}

/* A function's address as POSIX has it: through a pointer to the pointer. */
#define FIND(handle, out, name) \
    (*(void **)(void *)&(out) = dlsym((handle), "mooncake_store_" #name))

static enum cleat_status find_all(void *handle, const char *path,
                                  struct library *library, uint32_t newer,
                                  struct cleat_error *error)
{
#define NEED(result, name, parameters)                      \
    if (FIND(handle, library->name, name) == NULL) {        \
        return lacks(path, "mooncake_store_" #name, error); \
    }
    CLEAT_MOONCAKE_NEEDED(NEED)
#undef NEED
    if ((newer & CLEAT_MOONCAKE_BATCH_REMOVE) != 0) {
        (void)FIND(handle, library->batch_remove, batch_remove);
    }
    if ((newer & CLEAT_MOONCAKE_UPSERT) != 0) {
        (void)FIND(handle, library->batch_upsert_from, batch_upsert_from);
    }
    return CLEAT_OK;
}

enum cleat_status
cleat_mooncake_load(const struct cleat_mooncake_config *config,
                    struct library *library, struct cleat_error *error)
{
    const char *path = config->lib_path != NULL ? config->lib_path
                                                : "libmooncake_store.so";
    enum cleat_status status = set_environment(config, error);
    void *handle;

    memset(library, 0, sizeof *library);
    if (status != CLEAT_OK) { return status; }
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) { return cannot_load(path, error); }
    return find_all(handle, path, library, config->newer, error);
}
