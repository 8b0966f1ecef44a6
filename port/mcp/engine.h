/* Cleat: one conversation with one MCP server, without I/O.
 * SPDX-License-Identifier: Apache-2.0
 *
 * The engine decides what is said to a server and what its answers mean; it
 * touches no descriptor and reads no clock. A transport (stdio or HTTP) carries
 * out its actions and tells it what comes:
 *
 *     list, call, listen ─▶ ┌────────┐ ─▶ actions  mcp_engine_next, until false
 *     what the wire tells ─▶ │ engine │ ─▶ when     mcp_engine_deadline
 *                           └────────┘ ◀─ time     mcp_engine_tick
 *
 * An *exchange* is one thing said and all that comes back for it: over HTTP one
 * POST (or GET) with its response, however long that stream stays open. Over
 * stdio there is one wire for all, and exchange numbers only name what was
 * sent. Exchange numbers are not used twice in an engine's life.
 *
 * An *operation* is what the host wants: a list, a call. It ends in exactly
 * one DONE. Each has a deadline; time is applied before anything else.
 */
#ifndef CLEAT_PORT_MCP_ENGINE_H
#define CLEAT_PORT_MCP_ENGINE_H

#include "cleat/mcp.h"
#include "cleat/tools.h"

enum mcp_wire {
    MCP_WIRE_STDIO,
    MCP_WIRE_HTTP, /* streamable HTTP, and the old HTTP+SSE where the server
                      turns out to speak that */
    MCP_WIRE_SSE   /* the old HTTP+SSE from the start */
};

/* Replaces every secret of the server's definition in a text that the server
 * has sent, in place; the text does not grow. Called before such a text becomes
 * part of an error. Returns its new length. */
typedef size_t mcp_redact_fn(void *context, char *text, size_t bytes);

/* Zero means what it says, not the default: mcp.c fills the defaults in. All
 * that is pointed to outlives the engine. */
struct mcp_engine_config {
    enum mcp_wire wire;
    uint32_t era;        /* enum cleat_mcp_era */
    uint64_t request_ns; /* each answer but that of a call, which has the call's
                            deadline alone */
    uint64_t grace_ns;   /* how long the end of an HTTP session may take, before
                            MCP_CLOSE */
    uint32_t pages_max;
    uint32_t tools_max;
    size_t message_bytes_max;
    struct cleat_text server; /* the name in the config */
    const char *client_name;
    const char *client_version;
    cleat_mcp_answer_fn *answer; /* NULL: questions are refused, and the
                                    capability is not declared */
    void *answer_context;
    mcp_redact_fn *redact; /* NULL: there is nothing to hide */
    void *redact_context;
    bool follow; /* keep a channel for changes open, once the session is */
};

/* ---- what the host wants ------------------------------------------------ */

struct mcp_list {
    uint64_t deadline_ns;
    void *block; /* gets the cleat_tools; 8-byte aligned */
    size_t bytes;
    struct cleat_text prefix;     /* before each name; may be empty */
    struct cleat_text class_name; /* of the config's entry; may be empty */
    struct cleat_text selected; /* JSON array of names (as on the wire); empty:
                                   all. A name that no tool has is an error
                                   that lists what there is */
    bool selected_some; /* a name that no tool has is no error: another server
                           of the same entry may have it */
    struct cleat_error *error; /* not NULL */
};

struct mcp_call {
    uint64_t deadline_ns;
    struct cleat_text tool;      /* the name on the wire */
    struct cleat_text arguments; /* a JSON object, checked */
    struct cleat_text schema;    /* its input_schema where known (for headers
                                    mirrored from arguments); may be empty */
    void *block;                 /* gets the JSON of the result */
    size_t bytes;
    struct cleat_error *error; /* not NULL */
};

/* ---- what is to be done ------------------------------------------------- */

enum mcp_do {
    MCP_OPEN = 1, /* stdio: start the process. HTTP: nothing to do. Answered by
                     MCP_OPENED, or MCP_CLOSED */
    MCP_SEND,     /* `body` as exchange `exchange` */
    MCP_CANCEL,   /* HTTP: end that exchange; nothing more will be told about
                     it */
    MCP_CLOSE,    /* end the session: stdio: shut the process down; all
                     exchanges end. HTTP: end all of its exchanges. Answered by
                     MCP_CLOSED */
    MCP_DONE,     /* operation `operation` has ended */
    MCP_CHANGED   /* what the server offers is not what it was */
};

enum mcp_method { MCP_POST, MCP_GET, MCP_DELETE };

struct mcp_action {
    enum mcp_do what;
    /* MCP_SEND, MCP_CANCEL */
    uint64_t exchange;
    enum mcp_method method;     /* HTTP */
    struct cleat_text endpoint; /* HTTP: where to, as the server gave it
                                   (relative to the config's URL); empty: the
                                   config's URL */
    struct cleat_text headers;  /* HTTP: lines "Name: value\n", values checked,
                                   besides the config's, Accept and Content-Type
                                   */
    struct cleat_text body;     /* one JSON-RPC message, without a newline;
                                   empty: none. In the caller's out buffer */
    bool stream;                /* HTTP: a stream that may stay open for ever;
                                   no time-out but the engine's own */
    /* MCP_DONE */
    uint64_t operation;
    enum cleat_status status; /* *error is filled where it is none */
    size_t bytes;             /* CLEAT_OK: of the operation's block */
    uint64_t ttl_ns;          /* CLEAT_NONE: none said */
    uint64_t hint_ns;         /* CLEAT_NONE: none */
    bool is_error;            /* call: the result says isError */
};

/* ---- what the wire tells ------------------------------------------------ */

enum mcp_told {
    MCP_OPENED = 1, /* the process runs; HTTP: at once */
    MCP_MESSAGE,    /* stdio: one line. HTTP: a body of application/json, whole,
                       or the data of one SSE event. `text` */
    MCP_RESPONSE,   /* HTTP: status and headers of an exchange, before anything
                       else about it */
    MCP_EVENT,      /* HTTP: an SSE event that is no message: `event`, `text`;
                       an empty one with an id primes resumption */
    MCP_END,    /* HTTP: the exchange has ended as it should. stdio: never */
    MCP_FAILED, /* the exchange has ended otherwise: `status`, `text`.
                   CLEAT_TRANSIENT: the server has got nothing of it (refused,
                   name not found); CLEAT_SHORT or CLEAT_AMBIGUOUS: it may have;
                   a permanent one: it will fail again */
    MCP_CLOSED  /* the session's process or connection is gone: `status`,
                   `text` (for example "exited with 1: <last line of
                   stderr>") */
};

struct mcp_told_it {
    enum mcp_told what;
    uint64_t exchange;
    struct cleat_text text;   /* valid during the call */
    struct cleat_text event;  /* MCP_EVENT, and MCP_MESSAGE of a stream: the
                                 event's name ("message" where it has none) */
    struct cleat_text id;     /* the event's id; empty: it has none */
    uint64_t retry_ns;        /* the stream's `retry`; CLEAT_NONE: none said */
    enum cleat_status status; /* MCP_FAILED, MCP_CLOSED */
    /* MCP_RESPONSE */
    uint32_t http_status;
    bool is_stream;            /* text/event-stream */
    bool is_json;              /* application/json */
    struct cleat_text session; /* Mcp-Session-Id; empty: none */
    uint64_t retry_after_ns;   /* Retry-After; CLEAT_NONE: none */
};

/* ---- the engine --------------------------------------------------------- */

#define MCP_ENGINE_OPERATIONS_MAX 64u
/* Exchanges under way at once: one for each operation, and these: the session's
 * own, its channel's, and some that nothing is awaited for. */
#define MCP_ENGINE_STANDING_MAX 4u
#define MCP_ENGINE_EXCHANGES_MORE (2u + MCP_ENGINE_STANDING_MAX)

struct mcp_engine; /* engine_state.h; the caller only needs its size */

size_t mcp_engine_bytes(const struct mcp_engine_config *config);

/* Room for what mcp_engine_next writes.
 *   call_bytes   the most that tool, arguments and schema of one call are
 *                together; a larger call ends with CLEAT_LIMIT */
size_t mcp_engine_out_bytes(const struct mcp_engine_config *config,
                            size_t call_bytes);

/* Makes an engine in the caller's block (8-byte aligned). Nothing is said to
 * the server before the first operation. */
struct mcp_engine *mcp_engine_init(void *block,
                                   const struct mcp_engine_config *config,
                                   uint64_t now_ns);

/* Begin an operation. `list` and `call` are copied; what they point to stays
 * the caller's, unchanged, until DONE. Returns CLEAT_OK, CLEAT_NO_SLOT. */
enum cleat_status mcp_engine_list(struct mcp_engine *engine, uint64_t now_ns,
                                  uint64_t operation,
                                  const struct mcp_list *list);
enum cleat_status mcp_engine_call(struct mcp_engine *engine, uint64_t now_ns,
                                  uint64_t operation,
                                  const struct mcp_call *call);

/* Keep a channel for changes open from now on (or no longer). `on` opens the
 * session where it is not open; once that is lost (MCP_CLOSED) it is opened
 * again by the next operation, or the next call of this. A channel that is lost
 * alone is opened again by the engine, after a backoff. Whatever may have
 * changed unheard is told with MCP_CHANGED once the channel is open again. */
void mcp_engine_follow(struct mcp_engine *engine, uint64_t now_ns, bool on);

/* The host does not want it any more: DONE with CLEAT_CANCELLED is next. */
void mcp_engine_abandon(struct mcp_engine *engine, uint64_t now_ns,
                        uint64_t operation);

/* Ends the conversation: DONE for each operation, DELETE where there is an
 * HTTP session, MCP_CLOSE. */
void mcp_engine_end(struct mcp_engine *engine, uint64_t now_ns);

void mcp_engine_tell(struct mcp_engine *engine, uint64_t now_ns,
                     const struct mcp_told_it *told);

/* The next action. After each call of the others, all are to be taken before
 * the next thing is told.
 *   out  room for what is to be sent: at least mcp_engine_out_bytes of the
 *        largest call; texts of the action lie in it and in the engine
 * Returns false when there is none. */
bool mcp_engine_next(struct mcp_engine *engine, char *out, size_t out_bytes,
                     struct mcp_action *action);

uint64_t mcp_engine_deadline(const struct mcp_engine *engine);
void mcp_engine_tick(struct mcp_engine *engine, uint64_t now_ns);

/* Whether a new operation would be begun at once: no session is being ended.
 * One that is given all the same waits for that. After MCP_CLOSED the engine is
 * fresh again, and remembers its server's era. */
bool mcp_engine_idle(const struct mcp_engine *engine);

#endif
