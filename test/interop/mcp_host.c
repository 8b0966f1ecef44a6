/* Cleat: a host of the loader, for test programs. SPDX-License-Identifier:
 * Apache-2.0 */
#include "mcp_host.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES_MAX 1024u

bool mcp_text_is(struct cleat_text text, const char *other)
{
    return text.bytes == strlen(other) &&
           memcmp(text.text, other, text.bytes) == 0;
}

static void *make_block(size_t bytes)
{
    size_t whole = (bytes + CLEAT_LINUX_ALIGN - 1) / CLEAT_LINUX_ALIGN;
    void *block = aligned_alloc(CLEAT_LINUX_ALIGN, whole * CLEAT_LINUX_ALIGN);

    if (block == NULL) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    return block;
}

static bool complain(const char *what, const struct cleat_error *error)
{
    fprintf(stderr, "%s: %s: %s\n", what,
            cleat_status_name((enum cleat_status)error->status), error->text);
    return false;
}

bool mcp_host_open(struct mcp_host *host, struct cleat_mcp_config *config,
                   uint64_t timeout_ns)
{
    size_t mailbox_bytes = cleat_linux_mailbox_bytes(MESSAGES_MAX);
    struct cleat_error error = {0};
    size_t bytes;

    memset(host, 0, sizeof *host);
    host->clock = cleat_linux_clock();
    host->timeout_ns = timeout_ns;
    host->mailbox_block = make_block(mailbox_bytes);
    if (cleat_linux_mailbox_init(host->mailbox_block, mailbox_bytes,
                                 MESSAGES_MAX, &host->mailbox,
                                 &error) != CLEAT_OK) {
        return complain("mailbox", &error);
    }
    config->mailbox = host->mailbox;
    bytes = cleat_mcp_bytes(config);
    host->mcp_block = make_block(bytes);
    if (cleat_mcp_open(host->mcp_block, bytes, config, &host->mcp, &error) !=
        CLEAT_OK) {
        return complain("cleat_mcp_open", &error);
    }
    host->loader = cleat_mcp_loader(host->mcp);
    return true;
}

void mcp_host_close(struct mcp_host *host)
{
    cleat_mcp_close(host->mcp);
    cleat_linux_mailbox_close(&host->mailbox);
    for (uint32_t k = 0; k < host->count; k++) {
        free(host->requests[k].block);
    }
    free(host->mcp_block);
    free(host->mailbox_block);
}

static struct mcp_host_request *start(struct mcp_host *host,
                                      const struct cleat_loader_request *wanted)
{
    struct mcp_host_request *mine = &host->requests[host->count];

    if (host->count == MCP_HOST_REQUESTS_MAX) {
        fprintf(stderr, "more than %u requests\n", MCP_HOST_REQUESTS_MAX);
        return NULL;
    }
    mine->request = *wanted;
    mine->block = make_block(MCP_HOST_BLOCK_BYTES);
    mine->request.id = host->count + 1u;
    mine->request.deadline_ns = host->clock.now_ns(host->clock.context) +
                                host->timeout_ns;
    mine->request.block = mine->block;
    mine->request.bytes = MCP_HOST_BLOCK_BYTES;
    mine->request.error = &mine->error;
    host->count++;
    if (host->loader.start(host->loader.context, &mine->request) != CLEAT_OK) {
        (void)complain("start", &mine->error);
        return NULL;
    }
    return mine;
}

struct mcp_host_request *mcp_host_config(struct mcp_host *host,
                                         const char *path)
{
    struct cleat_loader_request wanted = {
        .kind = CLEAT_LOADER_CONFIG,
        .definition = {path, strlen(path)},
    };

    return start(host, &wanted);
}

struct mcp_host_request *mcp_host_list(struct mcp_host *host,
                                       const struct cleat_tool_sources *sources,
                                       uint32_t number)
{
    struct cleat_loader_request wanted = {
        .kind = CLEAT_LOADER_SOURCE,
        .key = sources->sources[number].key,
        .definition = cleat_tool_source_definition(sources, number),
    };

    return start(host, &wanted);
}

struct mcp_host_request *mcp_host_call(struct mcp_host *host,
                                       const struct cleat_tool_sources *sources,
                                       uint32_t number,
                                       const struct cleat_tool *tool,
                                       struct cleat_text arguments)
{
    struct cleat_loader_request wanted = {
        .kind = CLEAT_LOADER_CALL,
        .key = sources->sources[number].key,
        .definition = cleat_tool_source_definition(sources, number),
        .tool = tool->wire_name,
        .arguments = arguments,
        .schema = tool->input_schema,
    };

    return start(host, &wanted);
}

/* Takes one message. False: none came in time. */
static bool hear(struct mcp_host *host, uint64_t deadline_ns)
{
    struct cleat_message message;

    if (host->mailbox.wait(host->mailbox.context, deadline_ns, &message) !=
        CLEAT_OK) {
        return false;
    }
    if (message.kind == CLEAT_LOADER_CHANGED) {
        host->changes++;
    } else if (message.kind == CLEAT_LOADER_DONE) {
        struct cleat_loader_done done;
        struct mcp_host_request *request;

        memcpy(&done, message.body, sizeof done);
        if (done.id == 0 || done.id > host->count ||
            host->requests[done.id - 1].ended) {
            fprintf(stderr, "a message about %" PRIu64 ", which is not there\n",
                    done.id);
            exit(1);
        }
        request = &host->requests[done.id - 1];
        request->done = done;
        request->ended = true;
    }
    return true;
}

bool mcp_host_await(struct mcp_host *host, struct mcp_host_request *request)
{
    if (request == NULL) { return false; }
    while (!request->ended) {
        /* The loader keeps the deadline; this is for one that does not. */
        if (!hear(host, request->request.deadline_ns + 5 * CLEAT_NS_PER_S)) {
            fprintf(stderr, "request %" PRIu64 " never ended\n",
                    request->request.id);
            return false;
        }
    }
    if (request->done.status != CLEAT_OK && !host->is_quiet) {
        fprintf(stderr, "%s: %s\n",
                cleat_status_name((enum cleat_status)request->done.status),
                request->error.text);
    }
    return request->done.status == CLEAT_OK;
}

bool mcp_host_await_change(struct mcp_host *host, uint64_t changes)
{
    uint64_t deadline_ns = host->clock.now_ns(host->clock.context) +
                           host->timeout_ns;

    while (host->changes <= changes) {
        if (!hear(host, deadline_ns)) {
            fprintf(stderr, "no change was told\n");
            return false;
        }
    }
    return true;
}
