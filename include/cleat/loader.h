/* Cleat port contract: where tool lists come from. SPDX-License-Identifier:
 * Apache-2.0
 *
 * The tool service asks this port for three things: what a config names, what
 * one source of it offers, and what a tool says to a call. Each is a request
 * that is handed over at once and ends in one message to the service's mailbox,
 * whatever happens, even long after its deadline.
 *
 * `context` is completed by the port.
 */
#ifndef CLEAT_LOADER_H
#define CLEAT_LOADER_H

#include "cleat/mailbox.h"
#include "cleat/status.h"
#include "cleat/tools.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- a config, read ----------------------------------------------------- */

/* Where one tool list comes from. Offsets are from the start of the
 * cleat_tool_sources that it lies in. */
struct cleat_tool_source {
    uint64_t key;  /* a digest of the definition: the same wherever a source is
                      defined alike */
    uint32_t kind; /* enum cleat_tools_kind */
    uint32_t name_offset; /* UTF-8, for people: the server's name */
    uint32_t name_bytes;
    uint32_t definition_offset; /* for the loader; may hold secrets */
    uint32_t definition_bytes;
    uint32_t reserved;
};

/* What a config names, in its order: a relocatable block. An empty config has
 * no sources. `sources` are followed by the texts. */
struct cleat_tool_sources {
    uint32_t bytes; /* of the whole block */
    uint32_t count;
    struct cleat_tool_source sources[1]; /* `count` of them */
};

static inline struct cleat_text
cleat_tool_source_name(const struct cleat_tool_sources *sources,
                       uint32_t number)
{
    const struct cleat_tool_source *source = &sources->sources[number];
    struct cleat_text text = {(const char *)sources + source->name_offset,
                              source->name_bytes};

    return text;
}

static inline struct cleat_text
cleat_tool_source_definition(const struct cleat_tool_sources *sources,
                             uint32_t number)
{
    const struct cleat_tool_source *source = &sources->sources[number];
    struct cleat_text text = {(const char *)sources + source->definition_offset,
                              source->definition_bytes};

    return text;
}

/* ---- requests ----------------------------------------------------------- */

enum cleat_loader_kind {
    CLEAT_LOADER_CONFIG = 1, /* `definition` is a path: fills the block with a
                                cleat_tool_sources */
    CLEAT_LOADER_SOURCE,     /* fills the block with a cleat_tools */
    CLEAT_LOADER_CALL        /* fills the block with the JSON of the result */
};

struct cleat_loader_request {
    uint64_t id;  /* of the requester's choosing; unique among its requests
                     under way, never 0 */
    uint64_t key; /* SOURCE, CALL: the source's */
    uint64_t deadline_ns;
    uint32_t kind; /* enum cleat_loader_kind */
    uint32_t reserved;
    struct cleat_text definition; /* copied by start */
    struct cleat_text tool;       /* CALL: the name on the wire. This and
                                     `arguments` stay the requester's, unchanged
                                     until the end */
    struct cleat_text arguments;  /* CALL: a JSON object */
    struct cleat_text schema;  /* CALL: the tool's input_schema, some of whose
                                  arguments a server wants in headers too; stays
                                  like them. Empty: not known */
    void *block;               /* 8-byte aligned; the loader's until the end */
    size_t bytes;              /* of the block */
    struct cleat_error *error; /* not NULL; filled before a message that tells a
                                  failure; the loader's until the end */
};

/* Kinds of message that a loader posts. */
enum cleat_loader_message {
    CLEAT_LOADER_DONE = 32, /* body: struct cleat_loader_done */
    CLEAT_LOADER_CHANGED    /* body: the key of a source, or of none (0: the
                               configs), which is not what it was */
};

/* The end of a request. */
struct cleat_loader_done {
    uint64_t id;
    uint64_t bytes;   /* CLEAT_OK: of the block, filled */
    uint64_t ttl_ns;  /* SOURCE: how long the server calls it fresh; CLEAT_NONE:
                         it does not say */
    uint64_t hint_ns; /* on failure: how long the server asks to be left alone;
                         CLEAT_NONE: it does not */
    int32_t status;   /* its class says whether another attempt is worth
                         while: not where it is PERMANENT */
    uint32_t is_error; /* CALL: 1 where the tool itself reported an error */
};

struct cleat_loader_context;

struct cleat_loader {
    struct cleat_loader_context *context;

    /* Hands a request over. MUST NOT block, MUST NOT call back, and copies
     * what the request says it copies. MAY be called by any thread.
     * Returns CLEAT_OK: its end will come as one message; any error: none
     * will, and *request->error says why. CLEAT_NO_SLOT: too many are under
     * way. */
    enum cleat_status (*start)(struct cleat_loader_context *context,
                               const struct cleat_loader_request *request);

    /* Nobody needs the result of that request any more: it SHOULD end soon.
     * Its message still comes. Unknown ids are ignored. As start. */
    void (*cancel)(struct cleat_loader_context *context, uint64_t id);

    /* From now on (or no longer) tell, with CLEAT_LOADER_CHANGED, when what a
     * source offers changes, as well as its kind allows; keeps a channel to it
     * open for that. A source that tells by itself MAY be told about without
     * this. `definition` is copied. May be NULL: nothing is ever told. As
     * start.
     * Returns CLEAT_OK; CLEAT_NO_SLOT; CLEAT_UNSUPPORTED. */
    enum cleat_status (*watch)(struct cleat_loader_context *context,
                               uint64_t key, struct cleat_text definition,
                               bool on);
};

#ifdef __cplusplus
}
#endif
#endif
