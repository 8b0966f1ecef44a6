/* Cleat: a loader whose every answer is written down. SPDX-License-Identifier:
 * Apache-2.0 */
#include "tool_script.h"

#include <stdio.h>
#include <stdlib.h>

uint64_t tool_script_key(uint8_t letter)
{
    /* One of them has a key whose top bit is set. */
    return (letter == 'z' ? UINT64_C(1) << 63 : 0) + 1000 + letter;
}

static struct cleat_text text_of(const char *text)
{
    struct cleat_text out = {text, strlen(text)};

    return out;
}

/* ---- values ------------------------------------------------------------- */

static bool is_native(uint8_t letter)
{
    return letter >= 'A' && letter <= 'Z';
}

/* Puts a text behind what is there; where it is. */
static uint32_t put(unsigned char *block, size_t *used, size_t bytes,
                    const char *text)
{
    size_t at = *used;

    fibres_check(at + strlen(text) <= bytes, "a config fits its slot");
    memcpy(block + at, text, strlen(text));
    *used += strlen(text);
    return (uint32_t)at;
}

static size_t write_config(const struct tool_script *script,
                           const struct cleat_loader_request *request)
{
    struct cleat_tool_sources *sources = request->block;
    unsigned char *block = request->block;
    const char *path = request->definition.text;
    size_t letters = request->definition.bytes;
    uint32_t count = 0;
    size_t used;

    while (letters > 0 && path[letters - 1] != '/') { letters--; }
    count = script->many != 0 ? script->many
                              : (uint32_t)(request->definition.bytes - letters);
    used = sizeof *sources + count * sizeof sources->sources[0];
    for (uint32_t i = 0; i < count; i++) {
        struct cleat_tool_source *source = &sources->sources[i];
        uint8_t letter = script->many != 0 ? 'a' : (uint8_t)path[letters + i];
        char name[2] = {(char)letter, '\0'};
        char definition[8];

        (void)snprintf(definition, sizeof definition, "def-%c", letter);
        memset(source, 0, sizeof *source);
        source->key = tool_script_key(letter);
        source->kind = is_native(letter) ? CLEAT_TOOLS_NATIVE : CLEAT_TOOLS_MCP;
        source->name_offset = put(block, &used, request->bytes, name);
        source->name_bytes = 1;
        source->definition_offset = put(block, &used, request->bytes,
                                        definition);
        source->definition_bytes = (uint32_t)strlen(definition);
    }
    sources->count = count;
    sources->bytes = (uint32_t)used;
    return used;
}

static size_t write_source(const struct tool_script *script,
                           const struct tool_script_request *it)
{
    struct cleat_tools_writer writer;
    const struct cleat_tools *tools = NULL;
    char server[2] = {(char)it->letter, '\0'};
    uint32_t count = script->tools != 0 ? script->tools : 2;
    enum cleat_status status = cleat_tools_begin(
        &writer, it->request.block, it->request.bytes,
        is_native(it->letter) ? CLEAT_TOOLS_NATIVE : CLEAT_TOOLS_MCP,
        text_of(server), NULL);

    for (uint32_t i = 0; status == CLEAT_OK && i < count; i++) {
        struct cleat_tool tool;
        char name[16];
        char version[16];
        bool same = i == 0 && (it->letter == 'd' || it->letter == 'e');

        memset(&tool, 0, sizeof tool);
        (void)snprintf(name, sizeof name, "%c.%u", it->letter, (unsigned)i);
        (void)snprintf(version, sizeof version, "%u",
                       (unsigned)script->versions[it->letter]);
        tool.name = text_of(same ? "same" : name);
        tool.wire_name = tool.name;
        tool.definition = text_of("{}");
        tool.input_schema = text_of("{}");
        tool.description = text_of(version);
        status = cleat_tools_add(&writer, &tool, NULL);
    }
    if (status == CLEAT_OK) { status = cleat_tools_end(&writer, &tools, NULL); }
    fibres_check(status == CLEAT_OK, "a list fits its slot");
    return cleat_tools_bytes(tools);
}

uint32_t tool_script_version(const struct cleat_tools *tools, uint8_t letter)
{
    const struct cleat_tools *checked;
    struct cleat_tool tool;

    if (cleat_tools_check(tools, 65536, &checked, NULL) != CLEAT_OK ||
        cleat_tools_count(tools) == 0) {
        return 0;
    }
    cleat_tools_at(tools, 0, &tool);
    if (tool.server.bytes != 1 || (uint8_t)tool.server.text[0] != letter) {
        return 0;
    }
    return (uint32_t)strtoul(tool.description.text, NULL, 10);
}

/* ---- the port ----------------------------------------------------------- */

static uint8_t letter_of(const struct cleat_loader_request *request)
{
    if (request->kind == CLEAT_LOADER_CONFIG) { return 0; }
    fibres_check(request->definition.bytes == 5 &&
                     memcmp(request->definition.text, "def-", 4) == 0,
                 "a source comes with its definition");
    fibres_check(request->key ==
                     tool_script_key((uint8_t)request->definition.text[4]),
                 "a source comes with the key that it was given");
    return (uint8_t)request->definition.text[4];
}

static enum cleat_status start(struct cleat_loader_context *context,
                               const struct cleat_loader_request *request)
{
    struct tool_script *script = (void *)context;
    struct tool_script_request *it = NULL;
    uint8_t letter = letter_of(request);

    fibres_check(request->id != 0 && request->error != NULL &&
                     (uintptr_t)request->block % 8 == 0,
                 "a request is whole");
    for (uint32_t i = 0; i < TOOL_SCRIPT_REQUESTS_MAX; i++) {
        fibres_check(script->requests[i].request.id != request->id,
                     "a request has a number of its own");
        fibres_check(script->requests[i].request.id == 0 ||
                         script->requests[i].request.block != request->block,
                     "a slot is loaded once at a time");
        if (it == NULL && script->requests[i].request.id == 0) {
            it = &script->requests[i];
        }
    }
    fibres_check(it != NULL, "no more requests than places");
    switch (request->kind) {
    case CLEAT_LOADER_CONFIG: script->configs++; break;
    case CLEAT_LOADER_SOURCE:
        script->sources++;
        script->versions[letter]++;
        break;
    default: script->calls++; break;
    }
    memset(it, 0, sizeof *it);
    script->decide(script, request, letter, &it->step);
    if (it->step.refused) {
        (void)cleat_error_set(request->error,
                              (enum cleat_status)it->step.status, 0, 0,
                              it->step.words);
        return (enum cleat_status)it->step.status;
    }
    it->request = *request;
    it->letter = letter;
    it->due_ns = cleat_time_add(fibres_now_ns(), it->step.after_ns);
    memset(request->block, 0xEE, request->bytes < 16 ? request->bytes : 16);
    script->changed = true;
    return CLEAT_OK;
}

static void cancel(struct cleat_loader_context *context, uint64_t id)
{
    struct tool_script *script = (void *)context;

    script->cancels++;
    for (uint32_t i = 0; i < TOOL_SCRIPT_REQUESTS_MAX; i++) {
        struct tool_script_request *it = &script->requests[i];
        uint64_t due_ns = cleat_time_add(fibres_now_ns(), it->step.cancel_ns);

        if (it->request.id != id || due_ns >= it->due_ns) { continue; }
        it->due_ns = due_ns;
        it->step.status = CLEAT_CANCELLED;
        it->step.words = "cancelled";
        script->changed = true;
    }
}

static enum cleat_status watch(struct cleat_loader_context *context,
                               uint64_t key, struct cleat_text definition,
                               bool on)
{
    struct tool_script *script = (void *)context;
    uint64_t letter = (key & ~(UINT64_C(1) << 63)) - 1000;

    fibres_check(letter < TOOL_SCRIPT_LETTERS, "what is watched is a source");
    fibres_check(!on || definition.bytes == 5, "with its definition");
    script->watched[letter] = (int8_t)(script->watched[letter] + (on ? 1 : -1));
    fibres_check(script->watched[letter] >= 0 && script->watched[letter] <= 1,
                 "a source is watched once");
    return CLEAT_OK;
}

static enum cleat_status submit(struct cleat_threads_context *context,
                                cleat_job_fn *fn, void *job, uint64_t index)
{
    struct fibres_port *port = (void *)context;

    if (port->jobs_count == port->jobs_max) { return CLEAT_NO_SLOT; }
    port->jobs[port->jobs_count++] = (struct fibres_job){fn, job, index};
    return CLEAT_OK;
}

struct cleat_threads tool_script_threads(void)
{
    struct cleat_threads threads = fibres_threads();

    threads.submit = submit;
    return threads;
}

struct cleat_loader tool_script_loader(struct tool_script *script)
{
    struct cleat_loader loader = {(void *)script, start, cancel, watch};

    return loader;
}

/* ---- the fibre ---------------------------------------------------------- */

static void post(struct tool_script *script, uint32_t kind, const void *body,
                 size_t bytes)
{
    struct cleat_mailbox box = fibres_mailbox(script->mailbox);
    struct cleat_message message;

    memset(&message, 0, sizeof message);
    message.kind = kind;
    memcpy(message.body, body, bytes);
    while (box.post(box.context, &message) != CLEAT_OK && !script->over) {
        (void)fibres_wait(fibres_mailbox_has_room, script->mailbox,
                          CLEAT_NEVER);
    }
}

void tool_script_tell_changed(struct tool_script *script, uint64_t key)
{
    post(script, CLEAT_LOADER_CHANGED, &key, sizeof key);
}

static uint64_t write_value(const struct tool_script *script,
                            const struct tool_script_request *it)
{
    size_t bytes;

    switch (it->request.kind) {
    case CLEAT_LOADER_CONFIG: return write_config(script, &it->request);
    case CLEAT_LOADER_SOURCE: return write_source(script, it);
    default:
        bytes = strlen(it->step.result);
        fibres_check(bytes <= it->request.bytes, "a result fits");
        memcpy(it->request.block, it->step.result, bytes);
        return bytes;
    }
}

static void finish(struct tool_script *script, struct tool_script_request *it)
{
    struct cleat_loader_done done;
    uint64_t ttl_ns = it->step.ttl_ns;

    memset(&done, 0, sizeof done);
    done.id = it->request.id;
    done.status = it->step.status;
    done.is_error = it->step.is_error;
    done.ttl_ns = ttl_ns == 0 ? CLEAT_NONE : ttl_ns == CLEAT_NONE ? 0 : ttl_ns;
    done.hint_ns = it->step.hint_ns == 0 ? CLEAT_NONE : it->step.hint_ns;
    if (done.status == CLEAT_OK) {
        done.bytes = write_value(script, it);
    } else {
        (void)cleat_error_set(it->request.error, (enum cleat_status)done.status,
                              0, done.status == CLEAT_TOO_SMALL ? 77 : 0,
                              it->step.words != NULL ? it->step.words : "");
    }
    memset(it, 0, sizeof *it);
    post(script, CLEAT_LOADER_DONE, &done, sizeof done);
}

/* The request that is due first; NULL: there is none. */
static struct tool_script_request *first_due(struct tool_script *script)
{
    struct tool_script_request *first = NULL;

    for (uint32_t i = 0; i < TOOL_SCRIPT_REQUESTS_MAX; i++) {
        struct tool_script_request *it = &script->requests[i];

        if (it->request.id != 0 &&
            (first == NULL || it->due_ns < first->due_ns)) {
            first = it;
        }
    }
    return first;
}

static bool is_to_look(void *context)
{
    struct tool_script *script = context;
    const struct tool_script_request *first = first_due(script);

    return script->over || script->changed ||
           (first != NULL && first->due_ns <= fibres_now_ns());
}

void tool_script_fibre(void *context)
{
    struct tool_script *script = context;

    while (!script->over) {
        struct tool_script_request *first = first_due(script);

        script->changed = false;
        if (first != NULL && first->due_ns <= fibres_now_ns()) {
            finish(script, first);
            continue;
        }
        (void)fibres_wait(is_to_look, script,
                          first != NULL ? first->due_ns : CLEAT_NEVER);
    }
}

void tool_script_end(struct tool_script *script)
{
    script->over = true;
}
