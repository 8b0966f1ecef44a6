/* Cleat: the loader's state, and what its files share. SPDX-License-Identifier:
 * Apache-2.0
 *
 *   mcp.c        the public calls, and the talking thread
 *   requests.c   from a request to its end
 *   sessions.c   servers: one engine and one transport each
 *   follow.c     sources that are watched
 *   reader.c     the thread that reads configs, and looks at their files
 *
 * Everything belongs to the talking thread, but for what is said to be under
 * the lock, which any thread takes for moments, and what is the reader's. */
#ifndef CLEAT_PORT_MCP_HUB_H
#define CLEAT_PORT_MCP_HUB_H

#include <pthread.h>
#include <sys/types.h>

#include "cleat/clock.h"
#include "rate.h"
#include "texts.h"
#include "wire.h"

#define HUB_NOBODY UINT32_MAX
#define HUB_NAME_BYTES                                              \
    ((size_t)256)           /* of a server or a class, with its NUL \
                             */
#define HUB_SOURCES_MAX 32u /* whose changes a session tells */
#define HUB_WATCHES_A_SESSION 4u
#define HUB_FILES_MAX 32u
#define HUB_PATH_BYTES ((size_t)1024)
#define HUB_AGAIN_NS CLEAT_NS_PER_MS /* after a full mailbox */

/* ---- requests ----------------------------------------------------------- */

/* Who has it. */
enum hub_place {
    HUB_FREE,
    HUB_INBOX,   /* handed over */
    HUB_QUEUED,  /* a config, not begun */
    HUB_READING, /* the reader's */
    HUB_READ,
    HUB_TALKING /* the talking thread's */
};

/* How far the talking thread has got with it. */
enum hub_phase {
    HUB_PHASE_RATE,    /* waits for its server's rate limit */
    HUB_PHASE_SESSION, /* waits for its server's session */
    HUB_PHASE_RUNNING, /* with that session's engine */
    HUB_PHASE_ENDED    /* its message is to be posted */
};

struct hub_request {
    /* Under the lock. */
    enum hub_place place;
    bool cancelled;

    /* Fixed from the start to the end. */
    uint64_t order; /* of its arrival */
    struct cleat_loader_request wanted;
    uint32_t text; /* its definition, or path */

    /* The talking thread's. */
    bool ours; /* TALKING */
    enum hub_phase phase;
    struct mcp_server server;
    uint64_t session_key;
    uint64_t deadline_ns;          /* of the present phase */
    bool refused;                  /* SESSION: the last turn had none */
    uint32_t session;              /* RUNNING */
    bool overdue;                  /* taken back because its deadline came */
    struct mcp_rate_waiter waiter; /* RATE */
    char prefix[HUB_NAME_BYTES + 1];
    char class_name[HUB_NAME_BYTES];

    struct cleat_loader_done done;
};

/* ---- sessions ----------------------------------------------------------- */

enum hub_session_state {
    HUB_SESSION_EMPTY,
    HUB_SESSION_KEPT,  /* for its server; open or not */
    HUB_SESSION_ENDING /* for good: empty once it is closed */
};

struct hub_source {
    uint64_t key;
    bool changed; /* to be posted */
};

struct hub_session {
    enum hub_session_state state;
    uint64_t key;
    uint32_t text; /* the definition that it was opened with */
    struct mcp_server server;
    char name[HUB_NAME_BYTES];
    size_t name_bytes;
    bool open;        /* since MCP_OPEN, until MCP_CLOSED */
    bool open_wanted; /* MCP_OPEN waits for the last process's end */
    bool following;
    uint64_t following_ns; /* since when */
    uint64_t made;         /* which of all sessions it is */
    uint32_t requests;     /* under way */
    uint64_t used;
    struct hub_source sources[HUB_SOURCES_MAX]; /* a ring */
    uint32_t sources_count;
    uint32_t sources_next;
    void *engine_block;
    struct mcp_engine *engine; /* NULL: EMPTY */
    void *stdio_block;
    struct mcp_stdio *stdio; /* NULL: HTTP */
};

/* ---- watches ------------------------------------------------------------ */

struct hub_watch {
    /* Under the lock. */
    uint64_t key;
    uint32_t text; /* MCP_TEXTS_NOTHING: free */
    bool on;       /* what the caller wants */

    bool known; /* what follows is filled */
    bool native;
    struct mcp_server server;
    uint64_t session_key;
    uint64_t session_made; /* the session that tells its changes; 0: none */
    uint64_t again_ns;
    uint32_t failures;
};

/* ---- rate limits -------------------------------------------------------- */

struct hub_bucket {
    uint64_t key; /* of the session; 0: free */
    struct mcp_rate rate;
};

/* ---- configs and their files -------------------------------------------- */

/* One file as it was when it was read. All zero: it was not there. */
struct hub_signature {
    uint64_t device;
    uint64_t inode;
    uint64_t bytes;
    uint64_t changed_ns;
};

struct hub_file {
    char path[HUB_PATH_BYTES]; /* "": free */
    int folder;                /* the watch of its folder; -1: none */
    struct hub_signature signature;
};

struct hub_reader {
    pthread_t thread;
    pthread_cond_t wake;
    void *scratch;
    size_t scratch_bytes;
    struct hub_file files[HUB_FILES_MAX]; /* the reader's */
    uint32_t files_next;

    /* Under the lock. */
    bool look;    /* something has happened in a folder */
    bool changed; /* a file is not what it was, and nobody was told */
    bool gone;    /* the thread has ended, or is about to */
};

/* ---- all of it ---------------------------------------------------------- */

struct cleat_mcp {
    struct cleat_mcp_config config; /* no zero means a default here */
    struct cleat_clock clock;
    char client_name[64];
    char client_version[64];
    char tls_ca_file[HUB_PATH_BYTES];
    bool is_open;
    pid_t process; /* who has opened it: what was forked since has no threads */
    pthread_t thread;
    int epoll_fd;
    int wake_fd;
    int inotify_fd;

    pthread_mutex_t lock;
    bool closing;           /* with the lock */
    uint64_t orders;        /* with the lock */
    struct mcp_texts texts; /* with the lock; texts that are held may be read
                               without */
    struct hub_request *requests; /* config.requests_max */
    struct hub_watch *watches;
    uint32_t watches_count;

    uint64_t now_ns;
    bool ending;                  /* closing, as the talking thread knows it */
    uint64_t ended_ns;            /* when it no longer waits for anything */
    bool configs_changed;         /* to be posted */
    struct hub_session *sessions; /* config.sessions_max */
    uint64_t sessions_made;
    struct hub_bucket *buckets;
    uint32_t buckets_count;
    struct mcp_http *http;
    struct mcp_stdio_host host;
    char *out;
    size_t out_bytes;

    struct hub_reader reader;
};

/* What a call's tool, arguments and schema may be together. */
static inline size_t hub_call_bytes_max(const struct cleat_mcp_config *config)
{
    return config->message_bytes_max / 2;
}

static inline uint64_t hub_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t hub_now_ns(const struct cleat_mcp *mcp)
{
    return mcp->clock.now_ns(mcp->clock.context);
}

static inline void hub_lock(struct cleat_mcp *mcp)
{
    (void)pthread_mutex_lock(&mcp->lock);
}

static inline void hub_unlock(struct cleat_mcp *mcp)
{
    (void)pthread_mutex_unlock(&mcp->lock);
}

/* ---- mcp.c -------------------------------------------------------------- */

/* Has the talking thread look. Any thread. */
void hub_poke(const struct cleat_mcp *mcp);

/* Puts a message in the mailbox; false: it is full. */
bool hub_post(const struct cleat_mcp *mcp, uint32_t kind, const void *body,
              size_t bytes);

/* A thread with every signal blocked; 0 or errno. */
int hub_thread_start(pthread_t *thread, void *(*main_of_thread)(void *),
                     void *argument);

/* ---- requests.c --------------------------------------------------------- */

/* Takes over what other threads have handed over, read and cancelled. */
void hub_requests_take(struct cleat_mcp *mcp);
/* Ends what is overdue, gives tokens and sessions. */
void hub_requests_move(struct cleat_mcp *mcp);
/* An operation has ended. */
void hub_requests_done(struct cleat_mcp *mcp, const struct mcp_action *action);
/* Those of a session that is no more. */
void hub_requests_lost(struct cleat_mcp *mcp, uint32_t session);
/* Ends all that no engine has. */
void hub_requests_end(struct cleat_mcp *mcp);
/* Posts what has ended. Returns false where something is left to be posted. */
bool hub_requests_post(struct cleat_mcp *mcp);
bool hub_requests_are_left(struct cleat_mcp *mcp);
uint64_t hub_requests_deadline(struct cleat_mcp *mcp);

/* ---- sessions.c --------------------------------------------------------- */

enum hub_claim { HUB_CLAIM_REQUEST, HUB_CLAIM_WATCH };

/* What transports tell. */
void hub_session_told(void *context, uint32_t session,
                      const struct mcp_told_it *told);
/* The session of that server, made where there is none and a place is free, or
 * kept by one that has nothing to do; one that is watched only gives way to a
 * request. NULL: not now.
 *   *ending   sessions that are being ended and nobody has claimed: is counted
 *             down where one of them will do */
struct hub_session *hub_session_claim(struct cleat_mcp *mcp, uint64_t key,
                                      uint32_t text,
                                      const struct mcp_server *server,
                                      enum hub_claim why, uint32_t *ending);
/* Whether a request would get one now: there is one of that server, a place is
 * free, or one has nothing to do. */
bool hub_session_may_be_had(struct cleat_mcp *mcp, uint64_t key);
uint32_t hub_sessions_ending(const struct cleat_mcp *mcp);
struct hub_session *hub_session_find(struct cleat_mcp *mcp, uint64_t key);
/* Carries out what the engine wants. */
void hub_session_pump(struct cleat_mcp *mcp, struct hub_session *session);
/* A source that is loaded from it. */
void hub_session_remember(struct hub_session *session, uint64_t source);
/* One that is watched. Where it was not loaded from this session, it may have
 * changed while there was another one, or none: that is told. */
void hub_session_watch(struct hub_session *session, uint64_t source);
void hub_session_changed(struct hub_session *session);
void hub_sessions_tick(struct cleat_mcp *mcp);
void hub_sessions_end(struct cleat_mcp *mcp);
/* Posts changes. Returns false where there was one: if it is left it is tried
 * again, and if not its session can give way now. */
bool hub_sessions_post(struct cleat_mcp *mcp);
bool hub_sessions_are_left(const struct cleat_mcp *mcp);
uint64_t hub_sessions_deadline(const struct cleat_mcp *mcp);
/* Copies the server's name; false: it is too long. */
bool hub_server_name(const struct mcp_server *server, char *name,
                     size_t *bytes);

/* ---- follow.c ----------------------------------------------------------- */

void hub_watches_move(struct cleat_mcp *mcp);
/* A session that was followed is lost. */
void hub_watches_lost(struct cleat_mcp *mcp, const struct hub_session *session);
bool hub_watches_want(const struct cleat_mcp *mcp, uint64_t session_key);
/* Whether a caller wants any. With the lock; any thread. */
bool hub_watches_wanted(const struct cleat_mcp *mcp);
uint64_t hub_watches_deadline(const struct cleat_mcp *mcp);

/* ---- reader.c ----------------------------------------------------------- */

/* Starts and stops the reader's thread. */
int hub_reader_start(struct cleat_mcp *mcp);
void hub_reader_join(struct cleat_mcp *mcp);
/* Something has happened in a folder. */
void hub_reader_notice(struct cleat_mcp *mcp);

#endif
