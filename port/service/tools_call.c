/* Cleat: one call of a tool, blocking. SPDX-License-Identifier: Apache-2.0 */
#include "tools_state.h"

/* What is asked of a call that has been checked. */
struct asked {
    const struct cleat_tool_list *list;
    uint32_t source;
    struct cleat_tool tool;
    struct cleat_text arguments;
    uint64_t deadline_ns;
};

static unsigned char *memory_of(const struct cleat_tool_service *service,
                                const struct tools_call *call)
{
    return service->memory +
           (size_t)(call - service->calls) * service->call_bytes;
}

/* ---- on the service's thread, with the lock ----------------------------- */

static void give_call(struct cleat_tool_service *service,
                      struct tools_call *call)
{
    tools_unpin_slot(service, call->slot);
    call->id = 0;
}

void tool_service_call_done(struct cleat_tool_service *service,
                            const struct cleat_loader_done *done)
{
    for (uint32_t i = 0; i < service->calls_count; i++) {
        struct tools_call *call = &service->calls[i];

        if (call->id == 0 || call->id != done->id || call->ended) { continue; }
        if (call->caller == TOOLS_NOBODY) {
            give_call(service, call);
        } else {
            call->ended = true;
            call->done = *done;
            tool_service_post(service, call->caller);
        }
        return;
    }
}

void tool_service_call_cancel_all(struct cleat_tool_service *service)
{
    for (uint32_t i = 0; i < service->calls_count; i++) {
        if (service->calls[i].id == 0) { continue; }
        service->loader.cancel(service->loader.context, service->calls[i].id);
    }
}

/* ---- on the caller's thread --------------------------------------------- */

static enum cleat_status check(const struct cleat_tool_service *service,
                               const char *name, struct asked *asked,
                               struct cleat_error *error)
{
    const struct cleat_tool_list *list = asked->list;

    if (list->service != service) {
        return cleat_error_set(error, CLEAT_INVALID, 1, 0,
                               "tools: the list of a call is one that this "
                               "service gave out, and not a copy");
    }
    if (cleat_tool_list_find(list, name, &asked->tool, &asked->source) !=
        CLEAT_OK) {
        return tool_service_say(error, CLEAT_NOT_FOUND, 2, 0,
                                "tools: there is no tool %s in the list", name);
    }
    if (list->sources->sources[asked->source].kind == CLEAT_TOOLS_NATIVE) {
        return tool_service_say(error, CLEAT_UNSUPPORTED, 2, 0,
                                "tools: %s is a native tool: its class is the "
                                "trainer's to call",
                                name);
    }
    if (asked->arguments.bytes > service->call_bytes / 2) {
        return tool_service_say(
            error, CLEAT_LIMIT, 3, service->call_bytes / 2,
            "tools: the arguments of %s are longer than half of "
            "call_bytes",
            name);
    }
    return CLEAT_OK;
}

/* With the lock: a free record, its memory filled; NULL: there is none. */
static struct tools_call *take_call(struct cleat_tool_service *service,
                                    const struct asked *asked, uint32_t caller)
{
    struct tools_call *call = service->calls;
    uint32_t left = service->calls_count;

    while (left > 0 && call->id != 0) {
        call++;
        left--;
    }
    if (left == 0) { return NULL; }
    memset(call, 0, sizeof *call);
    call->id = ++service->calls_made << 1;
    call->caller = caller;
    call->slot = asked->list->parts[asked->source].slot;
    call->result = (asked->arguments.bytes + 7) & ~(size_t)7;
    tools_add(&service->lines[call->slot].pins, TOOLS_PIN);
    if (asked->arguments.bytes > 0) {
        memcpy(memory_of(service, call), asked->arguments.text,
               asked->arguments.bytes);
    }
    return call;
}

/* The tool's texts lie in the list, whose slot the call pins. */
static enum cleat_status start(struct cleat_tool_service *service,
                               struct tools_call *call,
                               const struct asked *asked)
{
    const struct cleat_tool_sources *sources = asked->list->sources;
    unsigned char *memory = memory_of(service, call);
    struct cleat_loader_request request = {
        .id = call->id,
        .key = sources->sources[asked->source].key,
        .deadline_ns = asked->deadline_ns,
        .kind = CLEAT_LOADER_CALL,
        .definition = cleat_tool_source_definition(sources, asked->source),
        .tool = asked->tool.wire_name,
        .arguments = {(const char *)memory, asked->arguments.bytes},
        .schema = asked->tool.input_schema,
        .block = memory + call->result,
        .bytes = service->call_bytes - call->result,
        .error = &call->error};

    return service->loader.start(service->loader.context, &request);
}

/* Until its end is there, or the deadline is. The lock is given meanwhile. */
static void await(const struct cleat_tool_service *service,
                  const struct tools_call *call, uint64_t deadline_ns)
{
    const struct cleat_mailbox *box = &service->callers[call->caller].mailbox;
    enum cleat_status status = CLEAT_OK;
    struct cleat_message message;

    while (status == CLEAT_OK && !service->closing && !call->ended) {
        tools_unlock(service);
        status = box->wait(box->context, deadline_ns, &message);
        tools_lock(service);
    }
}

/* How a call failed, in the words of `why` or else in ours. */
static enum cleat_status say_failed(const struct asked *asked,
                                    enum cleat_status status,
                                    const struct cleat_error *why,
                                    struct cleat_error *error)
{
    bool told = why->status == status && why->text[0] != '\0';

    (void)tool_service_say(
        error, status, why->index, why->offset, "tool %.*s of %.*s: %s (%s)",
        (int)asked->tool.name.bytes, asked->tool.name.text,
        (int)asked->tool.server.bytes, asked->tool.server.text,
        told ? why->text : cleat_status_sentence(status),
        cleat_status_name(status));
    if (error != NULL) { error->port_code = why->port_code; }
    return status;
}

/* The caller goes, and the call is not over: its record stays until it is. */
static enum cleat_status leave(struct cleat_tool_service *service,
                               struct tools_call *call,
                               const struct asked *asked,
                               struct cleat_error *error)
{
    struct cleat_error why;

    call->caller = TOOLS_NOBODY;
    if (service->closing) { return tool_service_say_closed(error); }
    service->loader.cancel(service->loader.context, call->id);
    (void)cleat_error_set(&why, CLEAT_DEADLINE, 2, 0,
                          "no result by the deadline; it may have taken "
                          "effect");
    return say_failed(asked, CLEAT_DEADLINE, &why, error);
}

/* Takes what came of it; without the lock, as the record is the caller's until
 * it is given back. */
static enum cleat_status take_result(const struct cleat_tool_service *service,
                                     const struct tools_call *call,
                                     const struct asked *asked, void *block,
                                     size_t bytes, size_t *bytes_out,
                                     bool *is_error, struct cleat_error *error)
{
    enum cleat_status status = (enum cleat_status)call->done.status;
    struct cleat_error why;

    if (status != CLEAT_OK) {
        return say_failed(asked, status, &call->error, error);
    }
    *is_error = call->done.is_error != 0;
    *bytes_out = (size_t)call->done.bytes;
    if (call->done.bytes > bytes) {
        (void)cleat_error_set(&why, CLEAT_TOO_SMALL, 6, call->done.bytes,
                              "its result is larger than the block; it has "
                              "taken effect");
        return say_failed(asked, CLEAT_TOO_SMALL, &why, error);
    }
    if (call->done.bytes > 0) {
        memcpy(block, memory_of(service, call) + call->result,
               (size_t)call->done.bytes);
    }
    return CLEAT_OK;
}

/* With the lock, which is given while the call is under way. */
static enum cleat_status make_call(struct cleat_tool_service *service,
                                   const struct asked *asked, uint32_t caller,
                                   void *block, size_t bytes, size_t *bytes_out,
                                   bool *is_error, struct cleat_error *error)
{
    struct tools_call *call = NULL;
    enum cleat_status status;

    if (caller != TOOLS_NOBODY) { call = take_call(service, asked, caller); }
    if (call == NULL) {
        return cleat_error_set(error, CLEAT_NO_SLOT, 0, service->calls_count,
                               "tools: calls_max calls are under way, or "
                               "callers_max threads wait");
    }
    status = start(service, call, asked);
    if (status != CLEAT_OK) {
        status = say_failed(asked, status, &call->error, error);
        give_call(service, call);
        return status;
    }
    await(service, call, asked->deadline_ns);
    if (!call->ended) { return leave(service, call, asked, error); }
    tools_unlock(service);
    status = take_result(service, call, asked, block, bytes, bytes_out,
                         is_error, error);
    tools_lock(service);
    give_call(service, call);
    return status;
}

enum cleat_status cleat_tools_call(struct cleat_tool_service *service,
                                   const struct cleat_tool_list *list,
                                   const char *name,
                                   struct cleat_text arguments,
                                   uint64_t deadline_ns, void *block,
                                   size_t bytes, size_t *bytes_out,
                                   bool *is_error, struct cleat_error *error)
{
    struct asked asked = {
        .list = list, .arguments = arguments, .deadline_ns = deadline_ns};
    enum cleat_status status = check(service, name, &asked, error);
    uint32_t caller;

    *bytes_out = 0;
    *is_error = false;
    if (status != CLEAT_OK) { return status; }
    tools_lock(service);
    if (service->closing) {
        status = tool_service_say_closed(error);
    } else {
        caller = tool_service_take_caller(service, NULL);
        status = make_call(service, &asked, caller, block, bytes, bytes_out,
                           is_error, error);
        tool_service_give_caller(service, caller);
    }
    tools_unlock(service);
    return status;
}
