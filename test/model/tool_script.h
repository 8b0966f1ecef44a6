/* Cleat: a loader whose every answer is written down. SPDX-License-Identifier:
 * Apache-2.0
 *
 * For tests of the tool service on fibres (fibres.h). A path names its sources
 * by their letters: "dir/ab" is a config of the sources a and b, whose tools
 * are "a.0", "a.1" … and "b.0" …; each load of a source is a version of it, of
 * which the descriptions tell. A capital is a native source. d and e offer a
 * tool of one name, "same".
 *
 * What comes of a request is decided when it starts, and comes by a fibre of
 * its own. From its start on the block is written to.  */
#ifndef CLEAT_TEST_TOOL_SCRIPT_H
#define CLEAT_TEST_TOOL_SCRIPT_H

#include "cleat/tool_service.h"
#include "fibres.h"

#define TOOL_SCRIPT_REQUESTS_MAX 20u
#define TOOL_SCRIPT_LETTERS 128u

/* What comes of a request. Zero: at once, and well. */
struct tool_script_step {
    uint64_t after_ns;  /* CLEAT_NEVER: only when it is cancelled */
    uint64_t cancel_ns; /* after a cancel. CLEAT_NEVER: that is ignored */
    uint64_t ttl_ns;    /* 0: not said; CLEAT_NONE: 0 */
    uint64_t hint_ns;   /* 0: not said */
    int32_t status;
    bool refused;      /* by start itself */
    bool is_error;     /* of a call */
    const char *words; /* of a failure */
    const char *result;
};

struct tool_script_request {
    struct cleat_loader_request request; /* id 0: free */
    struct tool_script_step step;
    uint64_t due_ns;
    uint8_t letter;
};

struct tool_script {
    struct fibres_mailbox *mailbox;
    /* Decides about a request; attempt: 1, 2 … of that letter or config, as
     * counted below. */
    void (*decide)(struct tool_script *script,
                   const struct cleat_loader_request *request, uint8_t letter,
                   struct tool_script_step *step);
    struct tool_script_request requests[TOOL_SCRIPT_REQUESTS_MAX];
    uint32_t configs; /* loads begun of configs */
    uint32_t sources; /* of sources */
    uint32_t calls;
    uint32_t cancels;
    uint32_t tools; /* that a source has; 0: 2 */
    uint32_t many;  /* sources of a config, whatever its path; 0: by path */
    uint8_t versions[TOOL_SCRIPT_LETTERS]; /* loads begun, by letter */
    int8_t watched[TOOL_SCRIPT_LETTERS];   /* on, less off */
    bool changed;                          /* the fibre is to look again */
    bool over;
};

uint64_t tool_script_key(uint8_t letter);

/* The fibres' threads, to which a job may be given before they run. */
struct cleat_threads tool_script_threads(void);

struct cleat_loader tool_script_loader(struct tool_script *script);
/* Of its own fibre; until `over`. */
void tool_script_fibre(void *script);
/* Ends that. */
void tool_script_end(struct tool_script *script);

/* Tells that a source has changed; 0: the configs. */
void tool_script_tell_changed(struct tool_script *script, uint64_t key);

/* Which version a list is; 0: it is not whole, or not of that letter. */
uint32_t tool_script_version(const struct cleat_tools *tools, uint8_t letter);

#endif
