/* Cleat: a loader that lives in one thread of its own. SPDX-License-Identifier:
 * Apache-2.0
 *
 * For tests and measurements of the tool service over real threads. The last
 * part of a path names its sources by their letters: "dir/ab" is a config of a
 * and b. Each load of a source is a version of it, which each of its tools'
 * descriptions tells. A call of a tool gives its arguments back.
 *
 * With faults, what comes of a request is drawn: well, at once or later; a
 * failure; nothing before it is cancelled, or much later in spite of that. */
#ifndef CLEAT_TEST_TOOL_LOADER_H
#define CLEAT_TEST_TOOL_LOADER_H

#include <pthread.h>

#include "cleat/loader.h"

#define TOOL_LOADER_REQUESTS_MAX 128u

struct tool_loader_request {
    struct cleat_loader_request request; /* id 0: free */
    uint64_t due_ns;
    enum cleat_status status;
    bool stubborn; /* ignores its cancel */
    char letter;
    char path[32];
    uint32_t path_bytes;
};

struct tool_loader {
    /* Set before it begins. */
    struct cleat_mailbox mailbox;
    bool faults;
    uint32_t tools;            /* of a source; 0: 3 */
    uint32_t definition_bytes; /* of a tool; 0: 2 */
    uint64_t seed;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool over;
    uint32_t versions;
    uint32_t loads;
    uint32_t calls;
    struct tool_loader_request requests[TOOL_LOADER_REQUESTS_MAX];
};

/* Starts the thread; false: there is none. */
bool tool_loader_begin(struct tool_loader *loader);
struct cleat_loader tool_loader_port(struct tool_loader *loader);
/* Whether what comes from now on is drawn; any thread. */
void tool_loader_faults(struct tool_loader *loader, bool faults);
/* Ends it; nothing is under way. */
void tool_loader_end(struct tool_loader *loader);

/* Which version a list is; 0: it is not whole. */
uint32_t tool_loader_version(const struct cleat_tools *tools, char letter);

#endif
