/* Cleat: what the transports of this folder have in common.
 * SPDX-License-Identifier: Apache-2.0
 *
 * All of it runs on the one talking thread (mcp.c), which waits in epoll. A
 * transport registers its descriptors there with a number that names it, and is
 * called back when one of them is ready. It tells what it hears through
 * mcp_tell_fn, synchronously.
 */
#ifndef CLEAT_PORT_MCP_WIRE_H
#define CLEAT_PORT_MCP_WIRE_H

#include "cleat/linux_child.h"
#include "command.h"
#include "engine.h"
#include "server.h"

/* `session`: the number that mcp.c gave when it opened the transport. */
typedef void mcp_tell_fn(void *context, uint32_t session,
                         const struct mcp_told_it *told);

/* epoll_event.data.u64: which descriptor of which transport. */
enum mcp_ready_kind { MCP_READY_WAKE, MCP_READY_STDIO, MCP_READY_HTTP };
#define MCP_READY(kind, session, which) \
    ((uint64_t)(kind) << 48 | (uint64_t)(session) << 32 | (uint32_t)(which))

/* ---- stdio.c: a server process ------------------------------------------ */

/* What all server processes are started with; the caller's. */
struct mcp_stdio_host {
    struct cleat_linux_child_maker *maker; /* for MCP_STDIO_FDS */
    struct mcp_environment environment;
    int epoll_fd;
    size_t message_bytes_max;
    size_t send_bytes; /* room for what waits to be read by the server: more
                          than the longest message */
    uint64_t grace_ns; /* of a shutdown that the server has brought about */
    mcp_tell_fn *tell;
    void *context;
};

/* The numbers of what a server process is given. */
#define MCP_STDIO_FDS \
    {                 \
        0, 1, 2       \
    }
#define MCP_STDIO_FDS_COUNT 3u

struct mcp_stdio; /* one a session */

size_t mcp_stdio_bytes(const struct mcp_stdio_host *host);

/* In a block aligned to 8 bytes; the host outlives it. */
struct mcp_stdio *mcp_stdio_init(void *block, uint32_t session,
                                 const struct mcp_stdio_host *host);

/* Starts the process, where none is left of the last one. MCP_OPENED or
 * MCP_CLOSED is told by a later tick, which is due at once. `server` and its
 * definition stay until the next open. */
void mcp_stdio_open(struct mcp_stdio *stdio, uint64_t now_ns,
                    const struct mcp_server *server);

/* Sends one message; it is copied. It may be called while something is told.
 * MCP_CLOSED is told by a later tick where the server does not read and the
 * room for what waits has run out. */
void mcp_stdio_send(struct mcp_stdio *stdio, uint64_t now_ns,
                    struct cleat_text body);

/* Ends the session: its stdin is closed at once, SIGTERM to the group half-way
 * to the deadline, SIGKILL to the group at it. It may be called while something
 * is told, and again with an earlier deadline. MCP_CLOSED is told once the
 * process is reaped (with CLEAT_OK), unless it was told before. */
void mcp_stdio_close(struct mcp_stdio *stdio, uint64_t now_ns,
                     uint64_t deadline_ns);

/* `which` as it came with the event. */
void mcp_stdio_ready(struct mcp_stdio *stdio, uint64_t now_ns, uint32_t which);
uint64_t mcp_stdio_deadline(const struct mcp_stdio *stdio);
void mcp_stdio_tick(struct mcp_stdio *stdio, uint64_t now_ns);

/* Nothing is left of a process, and nothing is to be told. MCP_CLOSED may be
 * told earlier: where a session is of no more use, its process is still to be
 * ended. */
bool mcp_stdio_is_closed(const struct mcp_stdio *stdio);

/* ---- http.c: streamable HTTP and the old HTTP+SSE ----------------------- */

struct mcp_http; /* one for all sessions: libcurl's multi handle */

struct mcp_http_config {
    int epoll_fd;
    uint32_t sessions_max;
    uint32_t exchanges_max; /* at once, over all sessions */
    size_t message_bytes_max;
    uint64_t connect_ns;
    const char *tls_ca_file;
    bool proxies;
    mcp_tell_fn *tell;
    void *context;
};

/* Bytes of block: for each exchange a few KB, and room for a body or an event,
 * message_bytes_max, which is touched only when something comes that needs it:
 * until then it costs address space. */
size_t mcp_http_bytes(const struct mcp_http_config *config);
/* In a block aligned to 64 bytes, which need not be cleared. libcurl allocates,
 * here and in its own calls; our code does not.
 *   config  copied; what it points to outlives it
 * Returns CLEAT_OK; CLEAT_UNSUPPORTED: libcurl does not start, or lacks TLS, a
 * resolver that does not block, or CURLOPT_QUICK_EXIT. */
enum cleat_status mcp_http_init(void *block,
                                const struct mcp_http_config *config,
                                struct mcp_http **out,
                                struct cleat_error *error);
/* A session's server; `server` and its definition stay until the next open of
 * that session. Nothing is told from within open, send, cancel and close, but
 * later, from within ready or a tick, which may be due at once. Whoever is told
 * something may send and cancel from within that. */
void mcp_http_open(struct mcp_http *http, uint32_t session,
                   const struct mcp_server *server);
/* Begins an exchange. What comes of it is told. The action's texts are copied
 * where they are needed longer. */
void mcp_http_send(struct mcp_http *http, uint64_t now_ns, uint32_t session,
                   const struct mcp_action *action);
/* Ends one, or (exchange 0) all of a session: nothing more is told of them. */
void mcp_http_cancel(struct mcp_http *http, uint32_t session,
                     uint64_t exchange);
void mcp_http_ready(struct mcp_http *http, uint64_t now_ns, int fd,
                    uint32_t events);
uint64_t mcp_http_deadline(const struct mcp_http *http);
void mcp_http_tick(struct mcp_http *http, uint64_t now_ns);
/* Ends all of it, at once; libcurl gives back what it has allocated. */
void mcp_http_close(struct mcp_http *http);

#endif
