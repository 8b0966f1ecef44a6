/* Cleat: a host of the loader of port/mcp, for test programs.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Goes through the loader's contract (cleat/loader.h) and nothing else. What
 * goes wrong is said on stderr.
 */
#ifndef CLEAT_TEST_MCP_HOST_H
#define CLEAT_TEST_MCP_HOST_H

#include "cleat/linux.h"
#include "cleat/mcp.h"

#define MCP_HOST_REQUESTS_MAX 64u
#define MCP_HOST_BLOCK_BYTES ((size_t)1 << 21)

/* One request, and how it ended. */
struct mcp_host_request {
    struct cleat_loader_request request;
    struct cleat_loader_done done;
    struct cleat_error error;
    bool ended;
    void *block; /* of MCP_HOST_BLOCK_BYTES */
};

struct mcp_host {
    struct cleat_mailbox mailbox;
    struct cleat_mcp *mcp;
    struct cleat_loader loader;
    struct cleat_clock clock;
    uint32_t count;      /* requests so far */
    uint64_t changes;    /* CLEAT_LOADER_CHANGED seen */
    uint64_t timeout_ns; /* of each request */
    bool is_quiet;       /* how a request failed is not said on stderr */
    void *mailbox_block;
    void *mcp_block;
    struct mcp_host_request requests[MCP_HOST_REQUESTS_MAX];
};

/* Opens the loader. The mailbox of *config is filled in here. */
bool mcp_host_open(struct mcp_host *host, struct cleat_mcp_config *config,
                   uint64_t timeout_ns);
void mcp_host_close(struct mcp_host *host);

/* Begin one; they end in any order. NULL: the loader has refused it. */
struct mcp_host_request *mcp_host_config(struct mcp_host *host,
                                         const char *path);
struct mcp_host_request *mcp_host_list(struct mcp_host *host,
                                       const struct cleat_tool_sources *sources,
                                       uint32_t number);
struct mcp_host_request *mcp_host_call(struct mcp_host *host,
                                       const struct cleat_tool_sources *sources,
                                       uint32_t number,
                                       const struct cleat_tool *tool,
                                       struct cleat_text arguments);

/* Waits for its end. False, and the reason is said, unless it is CLEAT_OK. */
bool mcp_host_await(struct mcp_host *host, struct mcp_host_request *request);

/* Waits until a source is told to have changed once more than `changes` times.
 */
bool mcp_host_await_change(struct mcp_host *host, uint64_t changes);

/* Whether a text is exactly that. */
bool mcp_text_is(struct cleat_text text, const char *other);

#endif
