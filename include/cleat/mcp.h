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
 * second one reads configs, one after the other. Sessions stay open for the
 * next request until close, or until another server needs the place: then the
 * one that has nothing to do and was used least recently is ended, one that is
 * watched last of all.
 *
 * Server processes. The command is looked for as execvp(3) does, on the PATH
 * that the process will have, from the folder that it begins in (`cwd`), and
 * started with its arguments as they stand, through no shell. Its environment
 * is `env` and, where that does not name them, our HOME, LOGNAME, PATH, SHELL,
 * TERM and USER, as they were at open. It leads a process group of its own,
 * which is killed with it. When a session ends its stdin is closed, half of
 * grace_ns later it gets SIGTERM, at the end of it SIGKILL. What it writes to
 * stderr is read always; the last line that says something becomes part of the
 * error when the server ends by itself. A server that does not read is given up
 * when 2 · message_bytes_max + 64 KiB wait for it.
 *
 * Calls wait for their server's rate_limit in the order in which they came; it
 * is the server's, whichever session and source the call is for. A call's
 * deadline is no later than the config's `timeout` after its turn has come.
 *
 * Watching a source keeps its session open, and opens it again 1 s to 60 s
 * after it was lost. Changes are told for the last 32 sources that were loaded
 * from or watched through a session. A watched source that was not loaded from
 * the present session (which had to give way, or was not there yet) is told
 * once, for it may have changed unheard. While anything is watched, changes of
 * the last 32 files that configs were read from are told too, with key 0, and
 * what has changed before is told when it begins to be; as far as inotify(7)
 * notices them: not what another machine does to a file system that both share.
 *
 * A server that hangs costs its own requests only. A file system that hangs,
 * where a server's `cwd`, PATH or program lies, holds up all servers and close
 * until it goes on; one where configs lie holds up configs and close.
 *
 * A host that forks does so before it opens a loader: in the child there are no
 * threads of it. There start and watch return CLEAT_STATE, cancel does nothing,
 * and close only lets go of the block.
 *
 * ${oc.env:NAME} is looked up in the environment when a config is read, on the
 * thread that reads it: while one is, the host must not change its environment.
 * With `proxies` libcurl looks up http_proxy and its kin there with each
 * request over HTTP, on the talking thread.
 *
 * Our own code allocates nothing after open. libcurl (HTTP, TLS, names) and
 * libfyaml (YAML) allocate inside their calls: talking to servers of stdio, and
 * configs of JSON, allocate nothing at all.
 *
 * Secrets (`auth_token`, header values, values of `env`, values in a URL's
 * query) appear in no error, event or trace; where a server's own words
 * repeat one, they are shown with "***" in its place. Values of less than four
 * bytes are no secrets.
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
    uint32_t requests_max;    /* requests under way at once; 0: 128, at most
                                 4096 */
    size_t message_bytes_max; /* of one message from a server; a call's tool,
                                 arguments and schema are at most half of it. 0:
                                 1 MiB; 4 KiB … 1 GiB */
    size_t config_bytes_max;  /* of a config file; the definitions of all
                                 requests under way, each counted once, are at
                                 most four times that; there is room for one
                                 more for each session and each watched source.
                                 0: 256 KiB; 1 KiB … 1 GiB */
    uint32_t pages_max;       /* of one list. 0: 64 */
    uint32_t tools_max;       /* of one list. 0: 1024 */

    uint32_t era;        /* enum cleat_mcp_era; default AUTO */
    uint32_t prefix;     /* 1: tools of MCP servers are named SERVER_TOOL, where
                            each byte of SERVER but letters, digits, '-' and '_'
                            is '_' */
    uint64_t connect_ns; /* TCP and TLS, name included. 0: 5 s */
    uint64_t request_ns; /* each answer of a server, initialize and every
                            page. 0: 20 s */
    uint64_t grace_ns;   /* of a server's shutdown, half after its stdin was
                            closed, half after SIGTERM. 0: 1 s */

    const char *client_name;    /* told to servers, at most 63 bytes. NULL:
                                   "cleat" */
    const char *client_version; /* the same. NULL: Cleat's */
    const char *tls_ca_file;    /* PEM, at most 1023 bytes; NULL: the system's
                                 */
    bool proxies;               /* honour http_proxy and its kin */

    cleat_mcp_answer_fn *answer; /* NULL: questions are refused */
    void *answer_context;
};

/* Bytes of block; 0 when a count is out of range. Most of it is room for
 * messages, one of message_bytes_max for each request and ten for each
 * session: address space, of which only what is used is ever touched. */
size_t cleat_mcp_bytes(const struct cleat_mcp_config *config);

/* Opens the loader, and starts its threads.
 *   block   aligned to CLEAT_LINUX_ALIGN; owned by the caller, outlives *out
 *   config  copied; its texts too
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset; CLEAT_LIMIT: the six variables that servers inherit take more
 * than 16 KiB; CLEAT_IO: the system gives no thread or descriptor, with errno
 * in port_code; CLEAT_UNSUPPORTED: libcurl would not start. On error nothing is
 * left. */
enum cleat_status cleat_mcp_open(void *block, size_t bytes,
                                 const struct cleat_mcp_config *config,
                                 struct cleat_mcp **out,
                                 struct cleat_error *error);

/* Ends every request with CLEAT_CANCELLED, every session and every server
 * process, within grace_ns, and the threads. The requests' messages come before
 * it returns, as far as the mailbox has room for them within grace_ns. A server
 * that ignores its shutdown is killed with its group; one that the system does
 * not let go is left after five seconds. A config that is being read is waited
 * for. After it start returns CLEAT_CANCELLED, for as long as the block is
 * there. Idempotent; NULL does nothing. */
void cleat_mcp_close(struct cleat_mcp *mcp);

/* The port, for cleat_tool_service_init. What it adds to cleat/loader.h:
 *  - start returns CLEAT_NO_SLOT where requests_max are under way or their
 *    definitions take all room; CLEAT_LIMIT for a definition longer than four
 *    times config_bytes_max or a path longer than 1023 bytes; CLEAT_INVALID for
 *    no id, kind or block; CLEAT_CANCELLED after close; CLEAT_STATE in a child
 *    that was forked since.
 *  - A request ends with CLEAT_NO_SLOT where every session had something to do
 *    until its deadline; CLEAT_DEADLINE where a call's turn had not come by
 *    then, a config had not been read, or no session had been asked for yet;
 *    CLEAT_PERMANENT where a server's command is not there or may not be run;
 *    CLEAT_TRANSIENT where the server ended; CLEAT_LIMIT where a message, or
 *    the name of a server or of a class, is too long; CLEAT_UNSUPPORTED where a
 *    native tool is called; else as the server, or the config, gives cause. A
 *    failed call that a server may have got is of an ambiguous class.
 *  - A mailbox that is full is tried again until it has room: no message is
 *    lost.
 *  - watch returns CLEAT_NO_SLOT beyond four sources a session; a native source
 *    never changes by itself. */
struct cleat_loader cleat_mcp_loader(struct cleat_mcp *mcp);

#ifdef __cplusplus
}
#endif
#endif
