/* Cleat: tool lists for a trainer's threads. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The tool_cache machine joined to a loader: any number of threads ask for the
 * tools of a config, by its path, and each waits no longer than it says.
 *
 *     struct cleat_tool_list list;
 *
 *     status = cleat_tools_get(service, "tools.yaml", deadline_ns, &list,
 *                              &error);
 *     for (uint32_t i = 0; cleat_tool_list_next(&list, &i, &tool);) { … }
 *     cleat_tools_unpin(&list);
 *
 * A list is a set of pins, one a source of the config, in its order. Pinning
 * copies nothing; what is pinned never changes and never goes away, whatever is
 * loaded meanwhile. A hit takes no lock, reads no file, and (where nothing in
 * it can go stale by time) no clock; a miss waits on a mailbox of its own.
 *
 * All sources of a config are looked up at once, so that they load in parallel.
 * With CLEAT_TOOL_POLICY_ALL the first one that fails for good ends the get,
 * and the others go on loading for whoever asks next.
 *
 * One thread, a job on ports->threads from init to close, drives the machine.
 * The service allocates nothing.
 *
 * It is of the process that made it. In a child that was forked since no thread
 * drives it: none of these calls is to be made there, but what was pinned can
 * still be read.
 */
#ifndef CLEAT_TOOL_SERVICE_H
#define CLEAT_TOOL_SERVICE_H

#include "cleat/loader.h"
#include "cleat/service.h"
#include "cleat/tool_cache.h"
#include "cleat/tools.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cleat_tool_service;

/* The most sources that one config may have. */
#define CLEAT_TOOL_SOURCES_MAX 16u

/* What a source that failed does to a get. */
enum cleat_tool_policy {
    CLEAT_TOOL_POLICY_ALL, /* the get fails with it (as in verl) */
    CLEAT_TOOL_POLICY_ANY  /* the others are given out, unless all failed */
};

/* Zero means the default. */
struct cleat_tool_service_config {
    /* Freshness and failure, as in cleat/tool_cache.h; its counts are not
     * read: they follow from those below. */
    struct cleat_tool_cache_config cache;
    uint32_t policy;      /* enum cleat_tool_policy; default ALL */
    uint32_t watch;       /* 1: sources in use are watched; a change is fetched
                             before anybody asks. Default 0: what the loader
                             tells by itself is fetched when somebody asks */
    uint32_t callers_max; /* threads in a get or a call that has to wait, at
                             once. 0: 64 */
    uint32_t configs_max; /* paths with hits that take no lock. 0: 16 */
    uint32_t slots_count; /* values held: one a source and one a config, each
                             of which a list pins at the same time. 0: 32 */
    uint32_t entries_count; /* 0: twice slots_count */
    size_t slot_bytes;      /* the largest value. 0: 256 KiB */
    uint32_t calls_max; /* tool calls at once. 0: 16. CLEAT_TOOL_CACHE_NOBODY:
                           none */
    size_t call_bytes;  /* arguments, at most half of it, and result of a call.
                           0: 256 KiB */
};

/* One source of a list. */
struct cleat_tool_part {
    const struct cleat_tools *tools; /* NULL where it failed */
    int32_t status;                  /* CLEAT_OK, or how it failed */
    uint32_t slot;                   /* not for reading */
};

/* The tools of a config. Owned by the caller, filled by get; it may be moved,
 * not copied: cleat_tools_pin makes a second one. */
struct cleat_tool_list {
    struct cleat_tool_service *service;       /* NULL: a copy, or empty */
    const struct cleat_tool_sources *sources; /* the config, pinned too; NULL in
                                                 a copy */
    uint32_t config_slot;                     /* not for reading */
    uint32_t count;                           /* sources */
    uint32_t tools;                           /* in all of them */
    bool stale; /* something in it is not fresh, and is being refreshed */
    struct cleat_tool_part parts[CLEAT_TOOL_SOURCES_MAX];
};

/* How a source was loaded, or why it failed: for cleat_tools_why. */
struct cleat_tool_failure {
    struct cleat_error error; /* its status, and the loader's words */
    uint32_t source;          /* its number in the config; CLEAT_TOOL_CACHE_
                                 NOBODY: the config itself could not be read */
    uint32_t attempts;
    uint64_t elapsed_ns; /* from the first attempt's begin */
    char name[64];       /* the source's; cut */
};

/* Bytes of block; 0 when a count is out of range: more than 65536 of anything,
 * fewer entries than slots, values or calls of more than 1 GiB. */
size_t cleat_tool_service_bytes(const struct cleat_tool_service_config *config);

/* What else a service of this configuration needs.
 *   messages_max  room of ports->mailbox: for all that can end at once, and
 *                 some that tells of changes
 *   mailboxes     one a caller that waits, and one for close; room for one
 *                 message in each */
void cleat_tool_service_needs(const struct cleat_tool_service_config *config,
                              uint32_t *messages_max, uint32_t *mailboxes);

/* Makes the service in the caller's block and submits its one job.
 *   block    aligned to CLEAT_ALIGN; owned by the caller, outlives *out
 *   config   copied; NULL: all defaults
 *   ports    ports->mailbox is this service's own; ports->threads has one
 *            thread to spare until close, and its lock is held for short
 *            moments. Events are not told
 *   callers  copied
 *   loader   copied; its messages come to ports->mailbox
 *   seed     of the jitter; any value
 * Returns CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL with the bytes needed in
 * error->offset; CLEAT_NO_SLOT: the job could not be submitted. */
enum cleat_status cleat_tool_service_init(
    void *block, size_t bytes, const struct cleat_tool_service_config *config,
    const struct cleat_service_ports *ports,
    const struct cleat_mailbox *callers, const struct cleat_loader *loader,
    uint64_t seed, struct cleat_tool_service **out, struct cleat_error *error);

/* Ends the job: whoever waits gets CLEAT_CANCELLED, loads are cancelled, and
 * the end of each is waited for, no longer than deadline_ns. Lists that are
 * still pinned stay readable, and may be unpinned later: until then, and while
 * a thread is in a call of this service, the block is not to be used otherwise.
 * One thread at a time.
 * Returns CLEAT_OK: no thread of the service's or of the loader's touches the
 * block any more; CLEAT_DEADLINE: a request has not ended, or a caller has not
 * gone yet: call it again. Idempotent. */
enum cleat_status cleat_tool_service_close(struct cleat_tool_service *service,
                                           uint64_t deadline_ns);

/* The tools of the config at `path`. Blocks until they are there, or
 * deadline_ns. Any number of threads.
 *   path   as the loader understands it, of at most 1023 bytes; NULL or "":
 *          the empty list. The same file by another spelling is another
 *          config, whose sources are shared
 *   list   filled; to be given to cleat_tools_unpin when the status is CLEAT_OK
 * Returns CLEAT_OK; CLEAT_DEADLINE: loads go on, for others; CLEAT_EXISTS: two
 * sources offer a tool of one name (both are in the error's text); CLEAT_LIMIT:
 * more than CLEAT_TOOL_SOURCES_MAX sources, or a path too long; CLEAT_NO_SLOT:
 * callers_max threads wait already, or nothing can give way; CLEAT_CANCELLED:
 * closed; else how the config or a source failed, with the source, the reason
 * and the attempts in error->text. With CLEAT_TOOL_POLICY_ANY, CLEAT_OK with
 * the status of each source that failed in its part; one that was not there by
 * deadline_ns counts as failed with CLEAT_DEADLINE, and hides no other. On
 * error the list is empty and holds nothing, and error->index is the number of
 * the source, 0 for the config. */
enum cleat_status cleat_tools_get(struct cleat_tool_service *service,
                                  const char *path, uint64_t deadline_ns,
                                  struct cleat_tool_list *list,
                                  struct cleat_error *error);

/* What came of the last load of each source of a config, for a report.
 *   failures  up to failures_max are filled, one a source, in their order;
 *             error.status is CLEAT_OK for one that has not failed, and
 *             CLEAT_PENDING, with the words of the attempt before, for one
 *             still being loaded or never asked for. Where the config itself
 *             could not be read, that comes first
 * Returns how many. */
uint32_t cleat_tools_why(struct cleat_tool_service *service, const char *path,
                         struct cleat_tool_failure *failures,
                         uint32_t failures_max);

/* Pins what a list pins once more, into another list. No copy, no lock. A value
 * can be pinned 16 777 215 times at once. */
void cleat_tools_pin(const struct cleat_tool_list *list,
                     struct cleat_tool_list *again);

/* Lets go of a list, which is then empty. Idempotent. */
void cleat_tools_unpin(struct cleat_tool_list *list);

/* Tools of a list, over all its sources in order.
 *   position  0 at first; moved on by each call
 * Returns false after the last. */
bool cleat_tool_list_next(const struct cleat_tool_list *list,
                          uint32_t *position, struct cleat_tool *tool);

/* The tool of that name. Returns CLEAT_OK or CLEAT_NOT_FOUND.
 *   source  its source's number; may be NULL */
enum cleat_status cleat_tool_list_find(const struct cleat_tool_list *list,
                                       const char *name,
                                       struct cleat_tool *tool,
                                       uint32_t *source);

/* Copies a list into the caller's own memory, one memcpy a source; the copy
 * pins nothing and outlives the service.
 *   block   8-byte aligned; cleat_tool_list_bytes(list) bytes of it are used
 *   copy    filled; unpinning it does nothing
 * Returns CLEAT_OK; CLEAT_TOO_SMALL with the bytes needed in error->offset;
 * CLEAT_INVALID. */
enum cleat_status cleat_tool_list_copy(const struct cleat_tool_list *list,
                                       void *block, size_t bytes,
                                       struct cleat_tool_list *copy,
                                       struct cleat_error *error);
size_t cleat_tool_list_bytes(const struct cleat_tool_list *list);

/* The config is out of date: a get that begins after this loads it again (or,
 * with stale_max_ns, gives the old one out once more as stale). Sources whose
 * definition has not changed are not loaded again unless `sources` says so.
 * Returns CLEAT_OK; CLEAT_NOT_FOUND: nothing is known of it; CLEAT_CANCELLED:
 * closed. */
enum cleat_status cleat_tools_reload(struct cleat_tool_service *service,
                                     const char *path, bool sources);

/* Calls a tool, once: a call is never made again by itself. Blocks until its
 * result, or deadline_ns; waiting for the server's rate limit counts.
 *   list        pinned, and from this service; says which source the tool is
 *               of
 *   name        as the list names it
 *   arguments   a JSON object
 *   block       gets the result, JSON: {"content": …}
 *   bytes_out   bytes of it
 *   is_error    true where the tool itself reported an error
 * Returns CLEAT_OK; CLEAT_NOT_FOUND: no such tool; CLEAT_UNSUPPORTED: a native
 * tool; CLEAT_DEADLINE: it may have taken effect; CLEAT_TOO_SMALL, with the
 * bytes needed in error->offset: it has; CLEAT_NO_SLOT: calls_max are under
 * way, or callers_max threads wait; CLEAT_LIMIT: the arguments are too long;
 * CLEAT_INVALID: a list that is a copy or of another service; CLEAT_CANCELLED:
 * closed, and it may have taken effect; else how it failed. After a call that
 * has ended in CLEAT_DEADLINE the block is the caller's at once: what is under
 * way lies in memory of the service. */
enum cleat_status cleat_tools_call(struct cleat_tool_service *service,
                                   const struct cleat_tool_list *list,
                                   const char *name,
                                   struct cleat_text arguments,
                                   uint64_t deadline_ns, void *block,
                                   size_t bytes, size_t *bytes_out,
                                   bool *is_error, struct cleat_error *error);

/* The counters; any thread. A get looks up its config and each source: a hit of
 * a config with two sources counts three. */
void cleat_tool_service_count(struct cleat_tool_service *service,
                              struct cleat_tool_cache_counters *counters);

/* Changes a policy to what verl's four variables say, where they are set:
 *   VERL_TOOL_CACHE_INIT_RETRIES         attempts, a whole number; at least 1
 *   VERL_TOOL_CACHE_INIT_TIMEOUT_S       of each; at least 0.1
 *   VERL_TOOL_CACHE_INIT_BACKOFF_BASE_S  at least 0
 *   VERL_TOOL_CACHE_INIT_BACKOFF_MAX_S   at least 0
 * What is less counts as the least. Where any is set there is no jitter, as in
 * verl; where none is, nothing changes (CLEAT_RETRY_TOOLS has verl's defaults).
 * Numbers are read as Python's int() and float() read them: spaces around, a
 * sign, underscores between digits; set to nothing, "inf" and "nan" are no
 * numbers.
 *   policy  in and out
 *   read    getenv, or what stands for it; NULL: not set
 * Returns CLEAT_OK; CLEAT_MALFORMED, and nothing has changed: a value is no
 * number, with its variable in error->text. */
enum cleat_status
cleat_tool_policy_read(struct cleat_retry_policy *policy,
                       const char *(*read)(void *context, const char *name),
                       void *context, struct cleat_error *error);

#ifdef __cplusplus
}
#endif
#endif
