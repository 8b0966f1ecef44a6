/* Cleat: a Mooncake Store, opened by what a user types.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "store_mooncake.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "cleat/mooncake.h"
#include "store_rows.h"

/* A value with its frame must fit the staging memory where it is copied, and
 * tensors of a gigabyte are common. Its pages are taken as they are used. */
#define STAGING_BYTES (UINT64_C(1) << 30)

static struct cleat_mooncake_config config_of(const struct store_spec *spec)
{
    struct cleat_mooncake_config config = {
        .lib_path = spec->library,
        .local_hostname = spec->hostname,
        .metadata_server = spec->metadata,
        .master = spec->master,
        .protocol = spec->protocol,
        .device = spec->device,
        .segment_bytes = spec->segment,
        .local_buffer_bytes = spec->local_buffer,
        .staging_bytes = spec->staging != 0 ? spec->staging : STAGING_BYTES,
        .replicas = (uint32_t)spec->replicas,
        .soft_pin = spec->soft_pin ? 1 : 0,
        .hard_pin = spec->hard_pin ? 1 : 0};

    return config;
}

/* What is wrong with the string or the library stays so. */
static int exit_of(enum cleat_status status)
{
    switch (status) {
    case CLEAT_INVALID:
    case CLEAT_NOT_FOUND:
    case CLEAT_UNSUPPORTED: return STORE_EXIT_INPUT;
    default: return STORE_EXIT_NOT_READY;
    }
}

int store_mooncake_open(struct store_opened *opened,
                        const struct store_spec *spec, char *line)
{
    struct cleat_mooncake_config config = config_of(spec);
    struct cleat_error error = {0};
    enum cleat_status status;
    void *block;

    opened->block_bytes = cleat_mooncake_bytes(&config);
    block = mmap(NULL, opened->block_bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (opened->block_bytes == 0 || block == MAP_FAILED) {
        (void)snprintf(line, STORE_OPEN_LINE_BYTES,
                       "mooncake: %zu bytes of memory: %s", opened->block_bytes,
                       strerror(opened->block_bytes == 0 ? EINVAL : errno));
        return STORE_EXIT_INPUT;
    }
    opened->block = block;
    status = cleat_mooncake_open(block, opened->block_bytes, &config,
                                 &opened->inner, &error);
    if (status == CLEAT_OK) { return 0; }
    (void)snprintf(line, STORE_OPEN_LINE_BYTES, "%s", error.text);
    return exit_of(status);
}

bool store_mooncake_close(struct store_opened *opened)
{
    return opened->inner.call == NULL ||
           cleat_mooncake_close(&opened->inner, NULL) == CLEAT_OK;
}
