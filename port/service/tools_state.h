/* Cleat: what the files of the tool service share. SPDX-License-Identifier:
 * Apache-2.0
 *
 *   tools.c        its beginning and end
 *   tools_get.c    get, where it has to wait
 *   tools_list.c   hits, which take no lock; lists
 *   tools_known.c  what is known of keys
 *   tools_drive.c  the machine's commands, the loader's messages
 *   tools_call.c   calls
 *   tools_say.c    error texts, and why
 *   tools_policy.c the policy that verl's variables say
 *
 * Two stages go through the one machine. A path is looked up under a hash of
 * it, top bit set; its value is a cleat_tool_sources. Then each source of that
 * is, by the key that the loader gave it, top bit cleared; its value is a
 * cleat_tools.
 *
 * A slot's line has two words. `word` is the number of the load that filled
 * the slot, and whether it is published; `pins` counts who reads it. Who pins
 * adds to `pins` first and looks at `word` then; who takes a slot away takes
 * `published` from `word` first and looks at `pins` then. Whichever comes
 * second sees the other. Load numbers are not used twice, so a word that was
 * seen before vouches for one value.
 *
 * A view is what one path was found to be: the words of its config and of its
 * sources, whose names were checked. It vouches for nothing: a word that is not
 * what the view says is asked for again, with the lock. */
#ifndef CLEAT_PORT_SERVICE_TOOLS_STATE_H
#define CLEAT_PORT_SERVICE_TOOLS_STATE_H

#include <string.h>

#include "cleat/arena.h"
#include "cleat/tool_service.h"
#include "drive.h"

#define TOOLS_NOBODY CLEAT_TOOL_CACHE_NOBODY
#define TOOLS_PATH_MAX 1023u
#define TOOLS_PATH_WORDS ((TOOLS_PATH_MAX + 1) / 8)
#define TOOLS_OF_PATH (UINT64_C(1) << 63)

/* ---- atomics ------------------------------------------------------------ */

/* Where a model of every schedule goes on with somebody else. */
#if defined(CLEAT_POINT_FN)
void CLEAT_POINT_FN(void);
#define TOOLS_POINT() CLEAT_POINT_FN()
#else
#define TOOLS_POINT() ((void)0)
#endif

static inline uint64_t tools_load(const uint64_t *word)
{
    TOOLS_POINT();
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline void tools_store(uint64_t *word, uint64_t value)
{
    TOOLS_POINT();
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static inline void tools_add(uint64_t *word, uint64_t value)
{
    TOOLS_POINT();
    (void)__atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
}

/* What a view holds: each word by itself, in order, as a seqlock wants it (H.
 * Boehm, "Can seqlocks get along with programming language memory models?",
 * 2012: with ordered accesses in place of fences). */
static inline uint64_t tools_read(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void tools_write(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* ---- slots -------------------------------------------------------------- */

/* A pin, and a pin that is a hit: pins in the lower 24 bits, hits above. */
#define TOOLS_PINS_BITS 24
#define TOOLS_PINS ((UINT64_C(1) << TOOLS_PINS_BITS) - 1)
#define TOOLS_PIN UINT64_C(1)
#define TOOLS_HIT (UINT64_C(1) << TOOLS_PINS_BITS | TOOLS_PIN)
#define TOOLS_PUBLISHED UINT64_C(1)

/* What a hit touches of a slot. */
struct tools_line {
    uint64_t word; /* load << 1 | published */
    uint64_t pins;
    uint64_t fresh_until_ns;
    uint64_t reserved[5];
};
_Static_assert(sizeof(struct tools_line) == CLEAT_ALIGN, "a line of its own");

enum tools_slot_state {
    TOOLS_EMPTY,
    TOOLS_LOADING,   /* a request is under way */
    TOOLS_ABANDONED, /* the same, and nobody wants what comes of it */
    TOOLS_VALUE
};

/* The rest of a slot; all that follows is guarded by the lock. */
struct tools_slot {
    uint64_t key;        /* in the machine */
    uint64_t loader_key; /* a source's, as the loader gave it */
    uint64_t load;
    uint64_t took_ns;   /* what its attempt was given */
    uint64_t hits_told; /* in place, as in `pins` */
    uint32_t entry;     /* of the machine, while loading */
    uint8_t state;
    uint8_t watched; /* changes of `key` are told because of this value */
    struct cleat_error error; /* the loader's while a request is under way */
};

/* What is known of a key, one an entry of the machine: what it is called, and
 * how its last load went. */
struct tools_known {
    uint64_t key;      /* 0: none */
    uint64_t began_ns; /* of the first attempt */
    uint64_t elapsed_ns;
    uint32_t attempts;
    uint32_t path_bytes;      /* 0: a source */
    struct cleat_error error; /* PENDING while it is loaded; CLEAT_OK: it was */
    uint64_t path[TOOLS_PATH_WORDS]; /* filled up with zeros */
};

/* ---- those who wait ----------------------------------------------------- */

/* One lookup. */
struct tools_wait {
    uint64_t key;
    int32_t status; /* PENDING while it waits */
    uint32_t waiter;
    uint32_t slot; /* CLEAT_OK: pinned for who waits */
    bool stale;
};

/* A get that goes the slow way; on its thread's stack. */
struct tools_get {
    struct cleat_tool_service *service;
    const char *path;
    size_t path_bytes;
    uint64_t hash;
    uint64_t key;
    uint64_t deadline_ns;
    struct cleat_tool_list *list;
    struct cleat_error *error;
    uint32_t caller; /* NOBODY: there is none free, so it cannot wait */
    uint32_t count;  /* of waits */
    struct tools_wait waits[CLEAT_TOOL_SOURCES_MAX];
};

/* A place to wait. */
struct tools_caller {
    struct cleat_mailbox mailbox;
    struct tools_get *get; /* NULL: free, or a call's */
    bool taken;
};

/* A call; the memory of the same number holds its arguments and result. */
struct tools_call {
    uint64_t id;     /* 0: free */
    uint32_t caller; /* NOBODY: gone, and the result is not wanted */
    uint32_t slot;   /* of the list: pinned until the end */
    size_t result;   /* where in its memory that begins */
    bool ended;
    struct cleat_loader_done done;
    struct cleat_error error;
};

/* ---- views -------------------------------------------------------------- */

struct tools_pair {
    uint64_t word;
    uint64_t slot;
};

/* A seqlock: `turn` is odd while the rest is written. */
struct tools_view {
    uint64_t turn;
    uint64_t path_bytes;
    uint64_t count; /* of sources */
    uint64_t tools;
    struct tools_pair pairs[1 + CLEAT_TOOL_SOURCES_MAX]; /* the config first */
    uint64_t path[TOOLS_PATH_WORDS];
};

/* ---- the service -------------------------------------------------------- */

struct cleat_tool_service {
    /* Read by hits, written at init only. */
    struct cleat_service_ports ports;
    struct tools_line *lines;
    uint64_t *hashes; /* one a view, 0: none; a view's place is the first free
                         one from where its hash's lower half points */
    struct tools_view *views;
    unsigned char *values;
    size_t slot_bytes;
    uint32_t views_count;

    uint32_t slots_count;
    uint32_t entries_count;
    uint32_t callers_count;
    uint32_t calls_count;
    uint32_t policy;
    bool watch;
    size_t call_bytes;
    struct cleat_loader loader;
    struct cleat_tool_cache *machine;
    struct tools_slot *slots;
    struct tools_known *known;
    struct tools_caller *callers; /* and one for close */
    struct tools_call *calls;
    unsigned char *memory;

    uint64_t random;
    uint64_t calls_made;
    bool woken; /* a message that says so is in the mailbox */
    bool more;  /* commands were left to the next dispatch */
    bool closing;
    bool ended; /* the job touches nothing any more */
};

static inline void tools_lock(const struct cleat_tool_service *service)
{
    service->ports.threads.lock(service->ports.threads.context);
}

static inline void tools_unlock(const struct cleat_tool_service *service)
{
    service->ports.threads.unlock(service->ports.threads.context);
}

static inline void *tools_value(const struct cleat_tool_service *service,
                                uint32_t slot)
{
    return service->values + slot * service->slot_bytes;
}

static inline void tools_unpin_slot(const struct cleat_tool_service *service,
                                    uint32_t slot)
{
    tools_add(&service->lines[slot].pins, UINT64_C(0) - TOOLS_PIN);
}

/* Eight bytes of a path; the last ones filled up with zeros. */
static inline uint64_t tools_word(const char *path, size_t bytes, size_t at)
{
    uint64_t word = 0;

    if (bytes - at >= 8) {
        memcpy(&word, path + at, 8);
        return word;
    }
    for (size_t i = 0; at + i < bytes; i++) {
        ((char *)&word)[i] = path[at + i];
    }
    return word;
}

static inline uint64_t tools_mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    return hash ^ hash >> 29;
}

/* Of a path, or of a tool's name. Never 0. */
static inline uint64_t tools_hash(const char *path, size_t bytes)
{
    uint64_t hash = bytes;

    for (size_t at = 0; at < bytes; at += 8) {
        hash = tools_mix(hash, tools_word(path, bytes, at));
    }
    return tools_mix(hash, 0) | TOOLS_OF_PATH;
}

/* The key in the machine of a source. */
static inline uint64_t tools_key(uint64_t source)
{
    return source & ~TOOLS_OF_PATH;
}

/* tools_list.c: without the lock */
bool tool_service_hit(struct cleat_tool_service *service, const char *path,
                      size_t bytes, uint64_t hash,
                      struct cleat_tool_list *list);
void tool_service_empty(struct cleat_tool_list *list);
/* With it: the next hit of this path finds what the list holds. */
void tool_service_show(const struct tools_get *get);

/* tools_known.c: with the lock */
/* What is known of a key; NULL: nothing. */
struct tools_known *tool_service_known(const struct cleat_tool_service *service,
                                       uint64_t key);
/* The same, to be filled: the machine knows the key as `entry`. */
struct tools_known *tool_service_know(struct cleat_tool_service *service,
                                      uint32_t entry, uint64_t key);
/* The newest value of a key that is there; NOBODY. */
uint32_t tool_service_find_value(const struct cleat_tool_service *service,
                                 uint64_t key);
/* A config's words about a source, from any config that names it; NULL: none
 * does. */
const struct cleat_tool_source *
tool_service_find_source(const struct cleat_tool_service *service, uint64_t key,
                         struct cleat_text *definition);
/* The sources of a list are watched, if sources are. */
void tool_service_watch(struct cleat_tool_service *service,
                        const struct cleat_tool_list *list);
/* A slot's value has gone: after the last one of a source, its changes are
 * nobody's concern. */
void tool_service_forget(struct cleat_tool_service *service, uint32_t slot);
void tool_service_unwatch_all(struct cleat_tool_service *service);

/* tools_drive.c: with the lock */
struct cleat_drive_machine
tool_service_machine(struct cleat_tool_service *service);
/* The service's thread is to look again. */
void tool_service_wake(struct cleat_tool_service *service);
/* The same of a caller. */
void tool_service_post(const struct cleat_tool_service *service,
                       uint32_t caller);
/* Tells the machine what was given out without asking it. */
void tool_service_tell_hits(struct cleat_tool_service *service);
/* No hit gets a value of that key any more. */
void tool_service_unpublish(struct cleat_tool_service *service, uint64_t key);
/* Whether who waits has nothing to wait for any more. */
bool tool_service_settled(const struct tools_get *get);

/* tools_get.c: with the lock */
/* A place to wait; NOBODY: there is none. */
uint32_t tool_service_take_caller(struct cleat_tool_service *service,
                                  struct tools_get *get);
void tool_service_give_caller(struct cleat_tool_service *service,
                              uint32_t caller);
/* The key of a path: no other path that is known has it. */
uint64_t tool_service_path_key(const struct cleat_tool_service *service,
                               const char *path, size_t bytes, uint64_t hash);

/* tools_call.c: with the lock */
void tool_service_call_done(struct cleat_tool_service *service,
                            const struct cleat_loader_done *done);
void tool_service_call_cancel_all(struct cleat_tool_service *service);

/* tools_say.c */
enum cleat_status tool_service_say(struct cleat_error *error,
                                   enum cleat_status status, uint64_t index,
                                   uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
enum cleat_status tool_service_say_closed(struct cleat_error *error);
/* The part of a path that people know it by. */
const char *tool_service_file(const char *path);
/* With the lock: why a lookup of a get ended as it did.
 *   source  NOBODY: it was the config's */
enum cleat_status tool_service_say_why(const struct tools_get *get,
                                       uint32_t source,
                                       const struct tools_wait *wait);
/* With the lock: how a load went. The words of one that did not succeed are
 * `error`'s, where it has the status; else the status's own. */
void tool_service_note(struct tools_known *known, uint64_t now_ns,
                       enum cleat_status status,
                       const struct cleat_error *error);

#endif
