/* Cleat: a loader that lives in one thread of its own. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "tool_loader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* With the lock. */
static uint32_t draw(struct tool_loader *loader, uint32_t n)
{
    loader->seed ^= loader->seed << 13;
    loader->seed ^= loader->seed >> 7;
    loader->seed ^= loader->seed << 17;
    return (uint32_t)(loader->seed >> 20) % n;
}

/* ---- values ------------------------------------------------------------- */

static struct cleat_text text_of(const char *text, size_t bytes)
{
    struct cleat_text out = {text, bytes};

    return out;
}

static size_t write_config(const struct tool_loader_request *it)
{
    struct cleat_tool_sources *sources = it->request.block;
    const char *letters = it->path;
    const char *slash = memrchr(it->path, '/', it->path_bytes);
    uint32_t count;
    size_t used;

    if (slash != NULL) { letters = slash + 1; }
    count = it->path_bytes - (uint32_t)(letters - it->path);
    used = sizeof *sources + count * sizeof sources->sources[0];
    for (uint32_t i = 0; i < count; i++) {
        struct cleat_tool_source *source = &sources->sources[i];

        memset(source, 0, sizeof *source);
        source->key = (uint64_t)letters[i] * UINT64_C(0x9E3779B97F4A7C15);
        source->kind = CLEAT_TOOLS_MCP;
        source->name_offset = (uint32_t)used;
        source->name_bytes = 1;
        source->definition_offset = (uint32_t)used;
        source->definition_bytes = 1;
        ((char *)sources)[used++] = letters[i];
    }
    sources->count = count;
    sources->bytes = (uint32_t)used;
    return used;
}

/* A definition of that many bytes. */
static struct cleat_text definition_of(char *block, size_t bytes)
{
    (void)snprintf(block, bytes, "{\"description\":\"");
    memset(block + 16, 'x', bytes - 18);
    memcpy(block + bytes - 2, "\"}", 2);
    return text_of(block, bytes);
}

static size_t write_source(const struct tool_loader *loader, uint32_t version,
                           const struct tool_loader_request *it)
{
    static char definition[65536];
    struct cleat_tools_writer writer;
    const struct cleat_tools *tools = NULL;
    struct cleat_tool tool;
    uint32_t count = loader->tools != 0 ? loader->tools : 3;

    memset(&tool, 0, sizeof tool);
    tool.definition = text_of("{}", 2);
    if (loader->definition_bytes > 32) {
        tool.definition = definition_of(definition, loader->definition_bytes);
    }
    (void)cleat_tools_begin(&writer, it->request.block, it->request.bytes,
                            CLEAT_TOOLS_MCP, text_of(&it->letter, 1), NULL);
    for (uint32_t i = 0; i < count; i++) {
        char name[24];
        char words[16];

        (void)snprintf(name, sizeof name, "%c.tool_%u", it->letter,
                       (unsigned)i);
        (void)snprintf(words, sizeof words, "%u", (unsigned)version);
        tool.name = text_of(name, strlen(name));
        tool.wire_name = tool.name;
        tool.description = text_of(words, strlen(words));
        tool.input_schema = tool.definition;
        (void)cleat_tools_add(&writer, &tool, NULL);
    }
    if (cleat_tools_end(&writer, &tools, NULL) != CLEAT_OK) { abort(); }
    return cleat_tools_bytes(tools);
}

uint32_t tool_loader_version(const struct cleat_tools *tools, char letter)
{
    const struct cleat_tools *checked;
    struct cleat_tool tool;

    if (cleat_tools_check(tools, cleat_tools_bytes(tools), &checked, NULL) !=
        CLEAT_OK) {
        return 0;
    }
    cleat_tools_at(tools, 0, &tool);
    if (tool.server.bytes != 1 || tool.server.text[0] != letter) { return 0; }
    return (uint32_t)strtoul(tool.description.text, NULL, 10);
}

/* ---- the thread --------------------------------------------------------- */

static void post(const struct tool_loader *loader,
                 const struct cleat_loader_done *done)
{
    struct cleat_message message = {.kind = CLEAT_LOADER_DONE};

    memcpy(message.body, done, sizeof *done);
    while (loader->mailbox.post(loader->mailbox.context, &message) !=
           CLEAT_OK) {
        (void)sched_yield();
    }
}

/* Without the lock, on a copy. */
static void finish(const struct tool_loader *loader,
                   const struct tool_loader_request *it, uint32_t version)
{
    struct cleat_loader_done done;

    memset(&done, 0, sizeof done);
    done.id = it->request.id;
    done.status = it->status;
    done.ttl_ns = CLEAT_NONE;
    done.hint_ns = CLEAT_NONE;
    if (it->status != CLEAT_OK) {
        (void)cleat_error_set(it->request.error, it->status, 0, 0,
                              "it was drawn so");
    } else if (it->request.kind == CLEAT_LOADER_CONFIG) {
        done.bytes = write_config(it);
    } else if (it->request.kind == CLEAT_LOADER_SOURCE) {
        done.bytes = write_source(loader, version, it);
    } else {
        memcpy(it->request.block, it->request.arguments.text,
               it->request.arguments.bytes);
        done.bytes = it->request.arguments.bytes;
    }
    post(loader, &done);
}

/* With the lock: the request that is due first; NULL: there is none. */
static struct tool_loader_request *first_due(struct tool_loader *loader)
{
    struct tool_loader_request *first = NULL;

    for (uint32_t i = 0; i < TOOL_LOADER_REQUESTS_MAX; i++) {
        struct tool_loader_request *it = &loader->requests[i];

        if (it->request.id != 0 &&
            (first == NULL || it->due_ns < first->due_ns)) {
            first = it;
        }
    }
    return first;
}

static void wait_until(struct tool_loader *loader, uint64_t moment_ns)
{
    struct timespec until = {(time_t)(moment_ns / CLEAT_NS_PER_S),
                             (long)(moment_ns % CLEAT_NS_PER_S)};

    if (moment_ns == CLEAT_NEVER) {
        (void)pthread_cond_wait(&loader->changed, &loader->lock);
    } else {
        (void)pthread_cond_clockwait(&loader->changed, &loader->lock,
                                     CLOCK_MONOTONIC, &until);
    }
}

static void *run(void *context)
{
    struct tool_loader *loader = context;

    (void)pthread_mutex_lock(&loader->lock);
    while (!loader->over) {
        struct tool_loader_request *first = first_due(loader);

        if (first != NULL && first->due_ns <= now_ns()) {
            struct tool_loader_request it = *first;
            uint32_t version = ++loader->versions;

            first->request.id = 0;
            (void)pthread_mutex_unlock(&loader->lock);
            finish(loader, &it, version);
            (void)pthread_mutex_lock(&loader->lock);
        } else {
            wait_until(loader, first != NULL ? first->due_ns : CLEAT_NEVER);
        }
    }
    (void)pthread_mutex_unlock(&loader->lock);
    return NULL;
}

/* ---- the port ----------------------------------------------------------- */

/* With the lock. */
static void draw_fault(struct tool_loader *loader,
                       struct tool_loader_request *it)
{
    switch (draw(loader, 10)) {
    case 0: it->status = CLEAT_TRANSIENT; break;
    case 1: it->status = CLEAT_PERMANENT; break;
    case 2: it->due_ns = CLEAT_NEVER - 1; break;
    case 3:
        it->stubborn = true;
        it->due_ns += 30 * CLEAT_NS_PER_MS;
        break;
    case 4:
    case 5: it->due_ns += draw(loader, 3000) * CLEAT_NS_PER_US; break;
    default: break;
    }
}

static void begin(struct tool_loader *loader, struct tool_loader_request *it,
                  const struct cleat_loader_request *request)
{
    memset(it, 0, sizeof *it);
    it->request = *request;
    it->due_ns = now_ns();
    if (request->kind == CLEAT_LOADER_CONFIG) {
        it->path_bytes = (uint32_t)request->definition.bytes;
        if (it->path_bytes > sizeof it->path) { abort(); }
        memcpy(it->path, request->definition.text, it->path_bytes);
    } else {
        it->letter = request->definition.text[0];
    }
    if (request->kind == CLEAT_LOADER_CALL) {
        loader->calls++;
    } else {
        loader->loads++;
    }
    if (loader->faults) { draw_fault(loader, it); }
    memset(request->block, 0xEE, request->bytes < 64 ? request->bytes : 64);
}

static enum cleat_status start(struct cleat_loader_context *context,
                               const struct cleat_loader_request *request)
{
    struct tool_loader *loader = (void *)context;
    enum cleat_status status = CLEAT_NO_SLOT;

    (void)pthread_mutex_lock(&loader->lock);
    for (uint32_t i = 0; i < TOOL_LOADER_REQUESTS_MAX; i++) {
        if (loader->requests[i].request.id != 0) { continue; }
        begin(loader, &loader->requests[i], request);
        status = CLEAT_OK;
        break;
    }
    (void)pthread_cond_signal(&loader->changed);
    (void)pthread_mutex_unlock(&loader->lock);
    if (status != CLEAT_OK) {
        (void)cleat_error_set(request->error, status, 0, 0, "no place");
    }
    return status;
}

static void cancel(struct cleat_loader_context *context, uint64_t id)
{
    struct tool_loader *loader = (void *)context;

    (void)pthread_mutex_lock(&loader->lock);
    for (uint32_t i = 0; i < TOOL_LOADER_REQUESTS_MAX; i++) {
        struct tool_loader_request *it = &loader->requests[i];

        if (it->request.id != id || it->stubborn) { continue; }
        it->due_ns = 0;
        it->status = CLEAT_CANCELLED;
    }
    (void)pthread_cond_signal(&loader->changed);
    (void)pthread_mutex_unlock(&loader->lock);
}

struct cleat_loader tool_loader_port(struct tool_loader *loader)
{
    struct cleat_loader port = {(void *)loader, start, cancel, NULL};

    return port;
}

bool tool_loader_begin(struct tool_loader *loader)
{
    loader->seed |= 1;
    loader->over = false;
    (void)pthread_mutex_init(&loader->lock, NULL);
    (void)pthread_cond_init(&loader->changed, NULL);
    return pthread_create(&loader->thread, NULL, run, loader) == 0;
}

void tool_loader_faults(struct tool_loader *loader, bool faults)
{
    (void)pthread_mutex_lock(&loader->lock);
    loader->faults = faults;
    (void)pthread_mutex_unlock(&loader->lock);
}

void tool_loader_end(struct tool_loader *loader)
{
    (void)pthread_mutex_lock(&loader->lock);
    loader->over = true;
    (void)pthread_cond_signal(&loader->changed);
    (void)pthread_mutex_unlock(&loader->lock);
    (void)pthread_join(loader->thread, NULL);
    (void)pthread_cond_destroy(&loader->changed);
    (void)pthread_mutex_destroy(&loader->lock);
}
