/* Cleat: tool lists from MCP servers. SPDX-License-Identifier: Apache-2.0
 *
 * A loader (cleat/loader.h) that reads tool configs and speaks the Model
 * Context Protocol, as a client, over stdio, streamable HTTP and the old
 * HTTP+SSE, in both of its eras: 2024-11-05 … 2025-11-25 (initialize) and
 * 2026-07-28 (stateless).
 *
 * Configs: the YAML of verl v0.5.0 … v0.7.1 (native and mcp entries), or a JSON
 * file of MCP servers ("mcpServers"). A file whose first character that is no
 * space is '{' is JSON.
 *
 * One thread, made at open, does all the talking, to all servers at once; a
 * second one reads configs. Sessions stay open for the next request until
 * close, or until another server needs the place. Server processes run in a
 * process group of their own, which is killed at the deadline of their
 * shutdown.
 *
 * Our own code allocates nothing after open, and nothing at all where every
 * server is one of stdio, once configs are read. libcurl (HTTP, TLS, names) and
 * libfyaml (YAML) allocate inside their calls.
 *
 * Secrets (`auth_token`, header values, values of `env`) appear in no error,
 * event, list or trace.
 */
#ifndef CLEAT_MCP_H
#define CLEAT_MCP_H

#include "cleat/loader.h"
#include "cleat/mailbox.h"
#include "cleat/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cleat_mcp; /* lies at the start of the caller's block */

enum cleat_mcp_era {
    CLEAT_MCP_ERA_AUTO,   /* stdio: initialize first, and modern where that is
                             refused with -32022 or unknown (-32601); HTTP:
                             modern first, initialize where that is refused as
                             the protocol says */
    CLEAT_MCP_ERA_LEGACY, /* initialize, and nothing else */
    CLEAT_MCP_ERA_MODERN  /* 2026-07-28, and nothing else */
};

/* What a server asks of its client: elicitation/create. */
struct cleat_mcp_question {
    struct cleat_text server;
    struct cleat_text method; /* "elicitation/create" */
    struct cleat_text params; /* JSON */
};

/* Answers a server's question. Called on the talking thread: MUST NOT block
 * and MUST NOT call into Cleat.
 *   answer   gets the JSON of the result, {"action": "accept", …}
 * Returns CLEAT_OK with *answer_bytes; any error: the server is told that it
 * was declined. */
typedef enum cleat_status
cleat_mcp_answer_fn(void *context, const struct cleat_mcp_question *question,
                    char *answer, size_t answer_bytes_max,
                    size_t *answer_bytes);

/* Zero means the default. */
struct cleat_mcp_config {
    struct cleat_mailbox mailbox; /* gets enum cleat_loader_message. Required */

    uint32_t sessions_max;    /* servers at once; 0: 16, at most 64 */
    uint32_t requests_max;    /* requests under way at once; 0: 128 */
    size_t message_bytes_max; /* of one message from a server. 0: 1 MiB */
    size_t config_bytes_max;  /* of a config file. 0: 256 KiB */
    uint32_t pages_max;       /* of one list. 0: 64 */
    uint32_t tools_max;       /* of one list. 0: 1024 */

    uint32_t era;        /* enum cleat_mcp_era; default AUTO */
    uint32_t prefix;     /* 1: tools of MCP servers are named SERVER_TOOL */
    uint64_t connect_ns; /* TCP and TLS, name included. 0: 5 s */
    uint64_t request_ns; /* each answer of a server, initialize and every
                            page. 0: 20 s */
    uint64_t grace_ns;   /* of a server's shutdown, half after its stdin was
                            closed, half after SIGTERM. 0: 1 s */

    const char *client_name;    /* told to servers. NULL: "cleat" */
    const char *client_version; /* NULL: Cleat's */
    const char *tls_ca_file;    /* PEM; NULL: the system's */
    bool proxies;               /* honour http_proxy and its kin */

    cleat_mcp_answer_fn *answer; /* NULL: questions are refused */
    void *answer_context;
};

/* Bytes of block; 0 when a count is out of range. */
size_t cleat_mcp_bytes(const struct cleat_mcp_config *config);

/* Opens the loader, and starts its threads.
 *   block   aligned to CLEAT_LINUX_ALIGN; owned by the caller, outlives *out
 *   config  copied; its texts too
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset; CLEAT_IO: the system gives no thread or descriptor;
 * CLEAT_UNSUPPORTED: libcurl would not start. On error nothing is left. */
enum cleat_status cleat_mcp_open(void *block, size_t bytes,
                                 const struct cleat_mcp_config *config,
                                 struct cleat_mcp **out,
                                 struct cleat_error *error);

/* Ends every request with CLEAT_CANCELLED (their messages come), every session
 * and every server process, within grace_ns, and the threads. A server that
 * ignores its shutdown is killed with its group. Idempotent. */
void cleat_mcp_close(struct cleat_mcp *mcp);

/* The port, for cleat_tool_service_init. */
struct cleat_loader cleat_mcp_loader(struct cleat_mcp *mcp);

#ifdef __cplusplus
}
#endif
#endif
