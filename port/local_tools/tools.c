/* Cleat: a trainer's tool lists, put together. SPDX-License-Identifier:
 * Apache-2.0 */
#include "cleat/local_tools.h"

#include <stdlib.h>
#include <string.h>

#include "cleat/arena.h"

struct cleat_local_tools {
    struct cleat_mailbox mailbox; /* the service's */
    struct cleat_threads threads;
    struct cleat_mcp *mcp;
    struct cleat_tool_service *service;
    struct cleat_mailbox *callers;
    uint32_t callers_count;
};

enum {
    PART_TOOLS,
    PART_CALLERS, /* the structs; their boxes follow */
    PART_BOXES,
    PART_MAILBOX,
    PART_THREADS,
    PART_MCP,
    PART_SERVICE,
    PARTS
};

/* The service's loop is the one job. */
static const struct cleat_linux_threads_config threads_config = {1, 1};

#define BOX_BYTES CLEAT_ALIGN_UP(CLEAT_LINUX_MAILBOX_BYTES(1))

struct layout {
    size_t bytes[PARTS];
    size_t needed; /* with what alignment may lose; 0: out of range */
    uint32_t messages_max;
    uint32_t callers_count;
};

static void lay_out(const struct cleat_local_tools_config *config,
                    struct layout *layout)
{
    size_t *bytes = layout->bytes;

    memset(layout, 0, sizeof *layout);
    bytes[PART_SERVICE] = cleat_tool_service_bytes(&config->service);
    if (bytes[PART_SERVICE] == 0) { return; }
    cleat_tool_service_needs(&config->service, &layout->messages_max,
                             &layout->callers_count);
    bytes[PART_TOOLS] = sizeof(struct cleat_local_tools);
    bytes[PART_CALLERS] = layout->callers_count * sizeof(struct cleat_mailbox);
    bytes[PART_BOXES] = layout->callers_count * BOX_BYTES;
    bytes[PART_MAILBOX] = cleat_linux_mailbox_bytes(layout->messages_max);
    bytes[PART_THREADS] = cleat_linux_threads_bytes(&threads_config);
    bytes[PART_MCP] = cleat_mcp_bytes(&config->mcp);
    layout->needed = CLEAT_ALIGN - 1;
    for (uint32_t i = 0; i < PARTS; i++) {
        if (bytes[i] == 0) {
            layout->needed = 0;
            return;
        }
        layout->needed += CLEAT_ALIGN_UP(bytes[i]);
    }
}

static struct cleat_local_tools_config
config_or_default(const struct cleat_local_tools_config *config)
{
    struct cleat_local_tools_config full;

    memset(&full, 0, sizeof full);
    if (config != NULL) { full = *config; }
    return full;
}

size_t cleat_local_tools_bytes(const struct cleat_local_tools_config *config)
{
    struct cleat_local_tools_config full = config_or_default(config);
    struct layout layout;

    lay_out(&full, &layout);
    return layout.needed;
}

/* ---- opening ------------------------------------------------------------ */

static const char *from_environment(void *nothing, const char *name)
{
    (void)nothing;
    return getenv(name);
}

static enum cleat_status open_ports(struct cleat_local_tools *tools,
                                    const struct layout *layout,
                                    unsigned char *const *parts,
                                    const struct cleat_local_tools_config *full,
                                    struct cleat_error *error)
{
    struct cleat_mcp_config mcp = full->mcp;
    enum cleat_status status = cleat_linux_mailbox_init(
        parts[PART_MAILBOX], layout->bytes[PART_MAILBOX], layout->messages_max,
        &tools->mailbox, error);

    tools->callers = (void *)parts[PART_CALLERS];
    memset(tools->callers, 0, layout->bytes[PART_CALLERS]);
    tools->callers_count = layout->callers_count;
    for (uint32_t i = 0; status == CLEAT_OK && i < tools->callers_count; i++) {
        status = cleat_linux_mailbox_init(parts[PART_BOXES] + i * BOX_BYTES,
                                          BOX_BYTES, 1, &tools->callers[i],
                                          error);
    }
    if (status != CLEAT_OK) { return status; }
    status = cleat_linux_threads_init(parts[PART_THREADS],
                                      layout->bytes[PART_THREADS],
                                      &threads_config, &tools->threads, error);
    if (status != CLEAT_OK) { return status; }
    mcp.mailbox = tools->mailbox;
    return cleat_mcp_open(parts[PART_MCP], layout->bytes[PART_MCP], &mcp,
                          &tools->mcp, error);
}

static enum cleat_status
open_service(struct cleat_local_tools *tools, const struct layout *layout,
             unsigned char *const *parts,
             const struct cleat_local_tools_config *full,
             const struct cleat_retry_policy *policy, struct cleat_error *error)
{
    struct cleat_tool_service_config config = full->service;
    struct cleat_loader loader = cleat_mcp_loader(tools->mcp);
    struct cleat_service_ports ports;
    uint64_t seed = full->seed;

    memset(&ports, 0, sizeof ports);
    ports.clock = cleat_linux_clock();
    ports.threads = tools->threads;
    ports.mailbox = tools->mailbox;
    if (seed == 0) {
        /* Processes that began at one moment lie at different addresses. */
        seed = ports.clock.now_ns(ports.clock.context) ^ (uintptr_t)&ports;
    }
    config.cache.policy = policy;
    return cleat_tool_service_init(
        parts[PART_SERVICE], layout->bytes[PART_SERVICE], &config, &ports,
        tools->callers, &loader, seed, &tools->service, error);
}

enum cleat_status cleat_local_tools_open(
    void *block, size_t bytes, const struct cleat_local_tools_config *config,
    struct cleat_local_tools **out, struct cleat_error *error)
{
    struct cleat_local_tools_config full = config_or_default(config);
    struct cleat_retry_policy policy = CLEAT_RETRY_TOOLS;
    unsigned char *parts[PARTS];
    struct cleat_local_tools *tools;
    enum cleat_status status = CLEAT_OK;
    struct layout layout;
    size_t used;

    *out = NULL;
    lay_out(&full, &layout);
    if (block == NULL || layout.needed == 0) {
        return cleat_error_set(error, CLEAT_INVALID, block == NULL ? 0 : 2, 0,
                               "local tools: a block, and counts and sizes in "
                               "their range, are needed");
    }
    if (bytes < layout.needed) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, layout.needed,
                               "local tools: the block is too small");
    }
    if (full.service.cache.policy != NULL) {
        policy = *full.service.cache.policy;
    }
    if (full.environment) {
        status = cleat_tool_policy_read(&policy, from_environment, NULL, error);
    }
    if (status != CLEAT_OK) { return status; }
    used = (size_t)(-(uintptr_t)block % CLEAT_ALIGN);
    for (uint32_t i = 0; i < PARTS; i++) {
        parts[i] = (unsigned char *)block + used;
        used += CLEAT_ALIGN_UP(layout.bytes[i]);
    }
    tools = (void *)parts[PART_TOOLS];
    memset(tools, 0, sizeof *tools);
    status = open_ports(tools, &layout, parts, &full, error);
    if (status == CLEAT_OK) {
        status = open_service(tools, &layout, parts, &full, &policy, error);
    }
    if (status != CLEAT_OK) {
        cleat_local_tools_close(tools);
        return status;
    }
    *out = tools;
    return CLEAT_OK;
}

struct cleat_tool_service *
cleat_local_tools_service(struct cleat_local_tools *tools)
{
    return tools->service;
}

/* ---- closing ------------------------------------------------------------ */

/* The loader ends every request, and the service sees the ends: each needs the
 * other for it. What was never opened is still zero. */
void cleat_local_tools_close(struct cleat_local_tools *tools)
{
    if (tools == NULL) { return; }
    if (tools->service != NULL) {
        (void)cleat_tool_service_close(tools->service, 0);
    }
    if (tools->mcp != NULL) { cleat_mcp_close(tools->mcp); }
    if (tools->service != NULL) {
        (void)cleat_tool_service_close(tools->service, CLEAT_NEVER);
    }
    if (tools->threads.context != NULL) {
        cleat_linux_threads_close(&tools->threads);
    }
    for (uint32_t i = 0; i < tools->callers_count; i++) {
        cleat_linux_mailbox_close(&tools->callers[i]);
    }
    cleat_linux_mailbox_close(&tools->mailbox);
}
