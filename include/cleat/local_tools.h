/* Cleat: a trainer's tool lists, put together. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Threads, mailboxes, the MCP loader (cleat/mcp.h) and the tool service
 * (cleat/tool_service.h) in one block of memory:
 *
 *     size_t bytes = cleat_local_tools_bytes(NULL);
 *     struct cleat_local_tools *tools;
 *
 *     cleat_local_tools_open(malloc(bytes), bytes, NULL, &tools, &error);
 *     cleat_tools_get(cleat_local_tools_service(tools), "tools.yaml", …);
 *     cleat_local_tools_close(tools);
 *
 * The block is large, for the longest message from each of many servers at
 * once, and most of it is never touched: it costs addresses, not memory.
 *
 * A host that forks does so first, and opens this afterwards: in a child there
 * are no threads of it, and nobody to load anything. What was open before must
 * not be used there, nor closed.
 *
 * What allocates is said in cleat/mcp.h; nothing else does after open.
 */
#ifndef CLEAT_LOCAL_TOOLS_H
#define CLEAT_LOCAL_TOOLS_H

#include "cleat/linux.h"
#include "cleat/mcp.h"
#include "cleat/tool_service.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cleat_local_tools;

/* Zero means the default. */
struct cleat_local_tools_config {
    struct cleat_tool_service_config service;
    struct cleat_mcp_config mcp; /* its mailbox is not read */
    uint64_t seed;    /* of the jitter of retries. 0: of this moment, so that
                         the processes of one job differ */
    bool environment; /* verl's variables change the policy:
                         cleat_tool_policy_read. Default: they do not */
};

/* Bytes of block; 0 when a number of the configuration is out of range. */
size_t cleat_local_tools_bytes(const struct cleat_local_tools_config *config);

/* Opens everything, and starts its threads: one for the service, two for the
 * loader. No config is read and no server is spoken to before somebody asks.
 *   block   any alignment and content; owned by the caller, outlives *out and
 *           every list that is pinned. What is not used is not touched
 *   config  copied, its policy and texts too; NULL: all defaults
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_MALFORMED: a variable of the
 * environment; CLEAT_TOO_SMALL with the bytes needed in error->offset; what
 * cleat_mcp_open and cleat_tool_service_init return. On error nothing is left.
 */
enum cleat_status cleat_local_tools_open(
    void *block, size_t bytes, const struct cleat_local_tools_config *config,
    struct cleat_local_tools **out, struct cleat_error *error);

/* The service, for every call of cleat/tool_service.h. */
struct cleat_tool_service *
cleat_local_tools_service(struct cleat_local_tools *tools);

/* Ends the service (whoever waits gets CLEAT_CANCELLED), every session and
 * server process, and the threads. Lists that are still pinned stay readable;
 * callers that are still waiting are waited for. NULL does nothing. */
void cleat_local_tools_close(struct cleat_local_tools *tools);

#ifdef __cplusplus
}
#endif
#endif
