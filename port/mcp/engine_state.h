/* Cleat: the state of an engine, and what its files share.
 * SPDX-License-Identifier: Apache-2.0
 *
 *   engine.c           the calls of engine.h, time, the order of actions
 *   engine_say.c       what is sent
 *   engine_hear.c      what is told, sorted
 *   engine_session.c   eras, the handshake, the channel for changes
 *   engine_work.c      operations
 */
#ifndef CLEAT_PORT_MCP_ENGINE_STATE_H
#define CLEAT_PORT_MCP_ENGINE_STATE_H

#include "cleat/retry.h"
#include "engine.h"
#include "listing.h"
#include "rpc.h"

#define MCP_MODERN_VERSION "2026-07-28"
#define MCP_LEGACY_VERSION "2025-11-25" /* the newest of the older era */

#define MCP_SESSION_BYTES_MAX 512u   /* of an Mcp-Session-Id */
#define MCP_ENDPOINT_BYTES_MAX 2048u /* of an old HTTP+SSE endpoint */
#define MCP_EVENT_ID_BYTES_MAX 128u  /* longer ones cannot be resumed from */
#define MCP_ID_BYTES_MAX                                                 \
    256u                       /* of a server's request: longer ones get \
                                  no answer */
#define MCP_NOISE_MAX 1000u    /* messages that are none, in one session */
#define MCP_RESUMPTIONS_MAX 2u /* GETs with Last-Event-ID, as the SDKs do */
#define MCP_ROUNDS_MAX 16u     /* of questions in one call */
#define MCP_QUEUE_MAX 256u
/* Each exchange is cancelled once: of operations, of the session and its
 * channel, and those that stand. */
#define MCP_CANCELS_MAX \
    (MCP_ENGINE_OPERATIONS_MAX + 2u + MCP_ENGINE_STANDING_MAX)
#define MCP_QUEUE_SPARE 160u /* kept for what must not be lost */

#define MCP_RETRY_NS (1u * CLEAT_NS_PER_S)    /* where a stream says none */
#define MCP_STANDING_NS (1u * CLEAT_NS_PER_S) /* then the stream is ended */
#define MCP_CHANNEL_NS                                       \
    (1u * CLEAT_NS_PER_S) /* a call waits for the channel on \
                             which questions come */

/* JSON-RPC 2.0, and MCP 2026-07-28, Error Codes. */
enum mcp_code {
    MCP_CODE_METHOD_NOT_FOUND = -32601,
    MCP_CODE_INVALID_PARAMS = -32602,
    MCP_CODE_HEADER_MISMATCH = -32020,
    MCP_CODE_CAPABILITY_MISSING = -32021,
    MCP_CODE_VERSION_UNSUPPORTED = -32022
};

enum mcp_era { MCP_ERA_UNKNOWN, MCP_ERA_LEGACY, MCP_ERA_MODERN };

/*   CLOSED ─▶ OPENING ─▶ DECIDING ─┬────────────── modern ────────────▶ READY
 *                          │  ▲    ├▶ PROBING ─────┘  │                ▲  │
 *                          │  └────┘ no verdict       │ legacy         │  │
 *                          ├▶ CONNECTING ─▶ GREETING ◀┘                │  │
 *                          └──────────────▶ GREETING ─▶ CONFIRMING ────┘  │
 *                                               ▲            session lost │
 *                                               └─────────────────────────┘
 *   any ─▶ LEAVING ─▶ CLOSING ─▶ CLOSED
 */
enum mcp_phase {
    MCP_PHASE_CLOSED,  /* no process, nothing said */
    MCP_PHASE_OPENING, /* MCP_OPENED is awaited */
    MCP_PHASE_DECIDING,
    MCP_PHASE_PROBING,    /* HTTP: one modern request is out, and shows the era
                           */
    MCP_PHASE_CONNECTING, /* old HTTP+SSE: the event `endpoint` is awaited */
    MCP_PHASE_GREETING,   /* initialize is out */
    MCP_PHASE_CONFIRMING, /* HTTP: notifications/initialized is out: requests
                             must not overtake it */
    MCP_PHASE_READY,
    MCP_PHASE_LEAVING, /* HTTP: DELETE is out */
    MCP_PHASE_CLOSING  /* MCP_CLOSED is awaited */
};

/* What the session itself says next. */
enum mcp_say {
    MCP_SAY_NOTHING,
    MCP_SAY_OPEN,
    MCP_SAY_DISCOVER,
    MCP_SAY_INITIALIZE,
    MCP_SAY_INITIALIZED,
    MCP_SAY_CONNECT,
    MCP_SAY_DELETE,
    MCP_SAY_CLOSE
};

/* One thing sent over HTTP, and what has come back for it so far. */
struct mcp_exchange {
    uint64_t number; /* 0: none */
    uint64_t retry_after_ns;
    uint32_t http_status; /* 0: not yet */
    bool is_stream;
};

struct mcp_session {
    enum mcp_phase phase;
    enum mcp_say say;
    struct mcp_exchange exchange;
    uint64_t request; /* id that is awaited; 0: none */
    uint64_t deadline_ns;
    uint32_t number; /* of sessions so far */
    uint32_t probe;  /* PROBING: which work is; or WORKS_MAX: discover */
    bool has_tools;  /* legacy: what initialize said */
    bool worked;     /* something was answered as it should */
    bool decided;    /* the era was found out in this session */
    bool turned;     /* initialize's refusal turned it modern */
    uint32_t flips;  /* of the era */
    uint64_t channel_wait_ns; /* until when calls wait for the channel */
    enum cleat_status why;    /* initialize was refused so, and the old HTTP+SSE
                                 is tried */
    int32_t why_code;
    uint32_t noise;
    uint64_t heard; /* messages */
    char id[MCP_SESSION_BYTES_MAX];
    size_t id_bytes;
    char version[16]; /* legacy: what was agreed on */
    char endpoint[MCP_ENDPOINT_BYTES_MAX];
    size_t endpoint_bytes;
};

/* The channel on which changes, and over legacy HTTP questions, come: a modern
 * subscriptions/listen, a legacy GET, or the one stream of the old HTTP+SSE. */
enum mcp_channel_state {
    MCP_CHANNEL_OFF,
    MCP_CHANNEL_DUE,
    MCP_CHANNEL_SENT, /* its acknowledgement is awaited */
    MCP_CHANNEL_ON,
    MCP_CHANNEL_PAUSED, /* lost: again at `again_ns` */
    MCP_CHANNEL_NONE    /* the server has none */
};

struct mcp_channel {
    enum mcp_channel_state state;
    struct mcp_exchange exchange;
    uint64_t request; /* of subscriptions/listen */
    uint64_t again_ns;
    uint64_t deadline_ns; /* SENT */
    uint64_t retry_ns;
    struct cleat_retry_slot backoff;
    char event_id[MCP_EVENT_ID_BYTES_MAX];
    size_t event_id_bytes;
};

enum mcp_work_state {
    MCP_WORK_FREE,
    MCP_WORK_WAITING, /* for the session */
    MCP_WORK_DUE,     /* its request is to be sent */
    MCP_WORK_SENT,
    MCP_WORK_PAUSED, /* its stream has ended: GET at again_ns */
    MCP_WORK_RESUME, /* that GET is to be sent */
    MCP_WORK_ENDED   /* DONE is to be told */
};

/* Bytes kept between hearing and saying. */
struct mcp_kept {
    char *text;
    size_t bytes;
    bool there;
};

struct mcp_work {
    enum mcp_work_state state;
    bool is_call;
    uint64_t operation;
    uint64_t deadline_ns;
    union {
        struct mcp_list list;
        struct mcp_call call;
    } of;

    /* The request under way. */
    struct mcp_exchange exchange;
    uint64_t request;
    uint64_t request_deadline_ns;
    uint64_t heard_before; /* messages heard when it was sent */
    uint32_t session;      /* in which it was sent */
    uint64_t again_ns;
    uint64_t retry_ns;
    uint32_t resumptions;
    char event_id[MCP_EVENT_ID_BYTES_MAX];
    size_t event_id_bytes;

    /* What is done once. */
    bool resent;       /* in a new session */
    bool renegotiated; /* -32022 */
    bool realigned;    /* -32020 */
    bool restarted;    /* -32602 in the middle of a walk */

    /* A list; or a call whose tool is looked for, after -32020. */
    bool looking;
    bool walking; /* listing has begun */
    struct mcp_listing listing;
    struct mcp_kept cursor;

    /* A call that goes another round, or has a new schema. */
    uint32_t rounds;
    struct mcp_kept answers;
    struct mcp_kept state_echoed;
    struct mcp_kept schema;

    /* ENDED */
    enum cleat_status status;
    size_t bytes;
    uint64_t ttl_ns;
    uint64_t hint_ns;
    bool is_error;
};

/* Small things to be sent that nothing is awaited for. */
enum mcp_queued_what {
    MCP_QUEUED_CANCELLED, /* notifications/cancelled of a request */
    MCP_QUEUED_PONG,      /* {} for the request `id` */
    MCP_QUEUED_REFUSAL,   /* -32601 for it */
    MCP_QUEUED_ANSWER     /* `answer` for it */
};

struct mcp_queued {
    enum mcp_queued_what what;
    uint64_t number;
    char id[MCP_ID_BYTES_MAX];
    size_t id_bytes;
    struct mcp_kept answer;
};

/* An exchange that nothing is awaited for: ended at `until_ns`, should the
 * server not end it. */
struct mcp_standing {
    uint64_t exchange; /* 0: free */
    uint64_t until_ns;
    bool queued; /* it carries a small thing; else its answer has come */
};

struct mcp_engine {
    struct mcp_engine_config config;
    uint64_t now_ns;
    uint64_t exchanges; /* numbers given out; ids of requests are the same */
    enum mcp_era era;   /* remembered */
    bool old_sse;       /* remembered, or configured */
    bool follow;
    bool open_wanted; /* by follow, until the session is lost */
    bool changed;     /* MCP_CHANGED is to be told */
    bool unheard;     /* something may have changed while no channel was open */
    struct mcp_session session;
    struct mcp_channel channel;
    struct mcp_work works[MCP_ENGINE_OPERATIONS_MAX];
    struct mcp_standing standing[MCP_ENGINE_STANDING_MAX];
    uint64_t cancels[MCP_CANCELS_MAX]; /* exchanges, for MCP_CANCEL */
    size_t cancels_count;
    struct mcp_queued queue[MCP_QUEUE_MAX];
    size_t queue_first;
    size_t queue_count;
    /* What is kept between hearing and saying lies at its start; the rest is
     * scratch. */
    char *stash;
    size_t stash_bytes;
    size_t stash_used;
    size_t stash_held; /* texts in it that are still wanted */
};

/* ---- engine.c ----------------------------------------------------------- */

bool mcp_engine_is_http(const struct mcp_engine *e);
bool mcp_engine_is_modern(const struct mcp_engine *e);
uint64_t mcp_engine_number(struct mcp_engine *e);
/* Puts something into the queue; NULL: there is no room. */
struct mcp_queued *mcp_engine_queue(struct mcp_engine *e,
                                    enum mcp_queued_what what, uint64_t number);
/* Nobody is there to get what is queued. */
void mcp_engine_forget(struct mcp_engine *e);
/* Ends an HTTP exchange from our side. */
void mcp_engine_cancel(struct mcp_engine *e, struct mcp_exchange *exchange);
/* An exchange whose answer has come: the server is given time to end it. */
void mcp_engine_stand(struct mcp_engine *e, struct mcp_exchange *exchange);

/* Keeps a copy of a text; false: there is no room. */
bool mcp_keep(struct mcp_engine *e, struct mcp_kept *kept,
              struct cleat_text text);
/* Keeps what has been written at the start of the scratch. */
void mcp_keep_scratch(struct mcp_engine *e, struct mcp_kept *kept,
                      size_t bytes);
void mcp_drop(struct mcp_engine *e, struct mcp_kept *kept);
char *mcp_scratch(const struct mcp_engine *e, size_t *bytes);

/* What a server has said, fit for an error: secrets replaced, one line, short.
 * NUL-terminated in `to`. */
void mcp_quote(struct mcp_engine *e, struct cleat_text text, char *to,
               size_t room);
/* The same for a JSON string. */
void mcp_quote_json(struct mcp_engine *e, const char *text,
                    const struct cleat_json_value *string, char *to,
                    size_t room);

/* ---- engine_session.c --------------------------------------------------- */

void mcp_session_opened(struct mcp_engine *e);
void mcp_session_closed(struct mcp_engine *e, enum cleat_status status,
                        struct cleat_text text);
/* Moves on: opens, decides, readies work and channel. */
void mcp_session_pump(struct mcp_engine *e);
void mcp_session_expire(struct mcp_engine *e);
/* The answer to what the session itself has asked. */
void mcp_session_result(struct mcp_engine *e, const struct mcp_rpc *rpc);
/* It was refused: http_status 0 where there was none; rpc may be NULL. */
void mcp_session_refused(struct mcp_engine *e, uint32_t http_status,
                         const struct mcp_rpc *rpc);
/* Its exchange has ended without an answer. */
void mcp_session_ended(struct mcp_engine *e, enum cleat_status status,
                       struct cleat_text text);
/* HTTP headers of its exchange. */
void mcp_session_response(struct mcp_engine *e, const struct mcp_told_it *told);
/* Ends every operation that waits for the session, or is under way in it, and
 * the session. `text` is cut to fit. */
void mcp_session_fail(struct mcp_engine *e, enum cleat_status status,
                      int32_t port_code, uint64_t hint_ns, const char *text);
/* The server has shown its era. */
void mcp_session_is_modern(struct mcp_engine *e);
void mcp_session_is_legacy(struct mcp_engine *e);
/* Whether the config lets the era be another one than the present. */
bool mcp_session_may_turn(const struct mcp_engine *e);
/* Over HTTP: what the protocol takes for a refusal of the era, or not. */
bool mcp_session_is_era_refusal(uint32_t http_status,
                                const struct mcp_rpc *rpc);
bool mcp_session_is_modern_error(uint32_t http_status,
                                 const struct mcp_rpc *rpc);
/* What -32022 says is supported. */
void mcp_session_supported(const struct mcp_rpc *rpc, bool *modern,
                           bool *legacy);
/* The HTTP session is lost: a new one is begun, unless that is done. */
void mcp_session_again(struct mcp_engine *e, uint32_t number);
void mcp_session_end(struct mcp_engine *e);
/* At once: without a word to the server, and without a word to operations. */
void mcp_session_close(struct mcp_engine *e);
/* Asks the host's handler what the server asks. The answer, checked JSON, is
 * written to `to`; where there is none, that it was declined.
 *   params   of elicitation/create
 * Returns false where it does not fit. */
bool mcp_ask(struct mcp_engine *e, struct cleat_text params, char *to,
             size_t room, size_t *bytes);

void mcp_channel_response(struct mcp_engine *e, const struct mcp_told_it *told);
void mcp_channel_event(struct mcp_engine *e, const struct mcp_told_it *told);
void mcp_channel_acknowledged(struct mcp_engine *e, bool honoured);
void mcp_channel_lost(struct mcp_engine *e);
/* Its exchange has ended; CLEAT_OK: as it should. */
void mcp_channel_ended(struct mcp_engine *e, enum cleat_status status,
                       struct cleat_text text);
void mcp_channel_refused(struct mcp_engine *e, uint32_t http_status,
                         const struct mcp_rpc *rpc);
void mcp_channel_off(struct mcp_engine *e);

/* ---- engine_work.c ------------------------------------------------------ */

void mcp_work_result(struct mcp_engine *e, struct mcp_work *w,
                     const struct mcp_rpc *rpc);
void mcp_work_refused(struct mcp_engine *e, struct mcp_work *w,
                      uint32_t http_status, const struct mcp_rpc *rpc);
void mcp_work_response(struct mcp_engine *e, struct mcp_work *w,
                       const struct mcp_told_it *told);
/* Its exchange has ended without an answer. */
void mcp_work_ended(struct mcp_engine *e, struct mcp_work *w,
                    enum cleat_status status, struct cleat_text text);
void mcp_work_expire(struct mcp_engine *e, struct mcp_work *w);
/* Ends it: the text is prefixed with the server's name. */
void mcp_work_fail(struct mcp_engine *e, struct mcp_work *w,
                   enum cleat_status status, int32_t port_code,
                   uint64_t hint_ns, const char *text);
void mcp_work_abandon(struct mcp_engine *e, struct mcp_work *w);
/* Nothing more is wanted of its request: cancelled where the protocol has a
 * way. */
void mcp_work_withdraw(struct mcp_engine *e, struct mcp_work *w);
/* To be sent (again), in the present session once it is ready. */
void mcp_work_again(struct mcp_engine *e, struct mcp_work *w);
/* The list of a server that has no tools. */
void mcp_work_nothing(struct mcp_engine *e, struct mcp_work *w);
bool mcp_work_is_open(const struct mcp_work *w); /* not free, not ended */
/* A request of it is out, or its answer is being resumed. */
bool mcp_work_is_out(const struct mcp_work *w);
const char *mcp_work_method(const struct mcp_work *w);
/* How a failure without effect is told for what may have had one. */
enum cleat_status mcp_work_status(const struct mcp_work *w,
                                  enum cleat_status status);
/* The class of a JSON-RPC error, for what may be asked again. */
enum cleat_status mcp_rpc_status(int64_t code);
/* Its code, for error->port_code; 0 where there is none that fits. */
int32_t mcp_rpc_port_code(const struct mcp_rpc *rpc);
/* The class of an HTTP status that is no success. */
enum cleat_status mcp_http_status(uint32_t http_status);

/* ---- engine_say.c ------------------------------------------------------- */

/* Fills the action for what is sent next. Returns false where it does not fit
 * into the caller's room. */
bool mcp_say_session(struct mcp_engine *e, struct mcp_out *out,
                     struct mcp_action *action);
bool mcp_say_channel(struct mcp_engine *e, struct mcp_out *out,
                     struct mcp_action *action);
bool mcp_say_work(struct mcp_engine *e, struct mcp_work *w, struct mcp_out *out,
                  struct mcp_action *action);
bool mcp_say_queued(struct mcp_engine *e, struct mcp_queued *queued,
                    struct mcp_out *out, struct mcp_action *action);

/* ---- engine_hear.c ------------------------------------------------------ */

void mcp_hear(struct mcp_engine *e, const struct mcp_told_it *told);

#endif
