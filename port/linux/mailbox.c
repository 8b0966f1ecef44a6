/* Cleat: the mailbox, on Linux. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "cleat/linux.h"

#include <string.h>

#include "system.h"

#define FIXED_BYTES 256u

struct cleat_mailbox_context {
    pthread_mutex_t lock;
    pthread_cond_t posted;
    uint32_t messages_max;
    uint32_t first;
    uint32_t count;
    uint32_t reserved;
    struct cleat_message *messages; /* ring of messages_max */
};

/* What the public constant expression reserves for the struct is enough. */
_Static_assert(sizeof(struct cleat_mailbox_context) <= FIXED_BYTES,
               "fixed part");

size_t cleat_linux_mailbox_bytes(uint32_t messages_max)
{
    if (messages_max == 0 || messages_max > CLEAT_LINUX_MAILBOX_MESSAGES_MAX) {
        return 0;
    }
    return CLEAT_LINUX_MAILBOX_BYTES(messages_max);
}

static enum cleat_status mailbox_post(struct cleat_mailbox_context *context,
                                      const struct cleat_message *message)
{
    enum cleat_status status = CLEAT_NO_SLOT;

    (void)pthread_mutex_lock(&context->lock);
    if (context->count < context->messages_max) {
        uint32_t last = (context->first + context->count) %
                        context->messages_max;
        context->messages[last] = *message;
        context->count++;
        (void)pthread_cond_signal(&context->posted);
        status = CLEAT_OK;
    }
    (void)pthread_mutex_unlock(&context->lock);
    return status;
}

static enum cleat_status mailbox_wait(struct cleat_mailbox_context *context,
                                      uint64_t deadline_ns,
                                      struct cleat_message *message)
{
    enum cleat_status status = CLEAT_DEADLINE;

    (void)pthread_mutex_lock(&context->lock);
    while (
        context->count == 0 &&
        cleat_linux_cond_wait(&context->posted, &context->lock, deadline_ns)) {}
    if (context->count > 0) {
        *message = context->messages[context->first];
        context->first = (context->first + 1) % context->messages_max;
        context->count--;
        status = CLEAT_OK;
    }
    (void)pthread_mutex_unlock(&context->lock);
    return status;
}

enum cleat_status cleat_linux_mailbox_init(void *block, size_t bytes,
                                           uint32_t messages_max,
                                           struct cleat_mailbox *out,
                                           struct cleat_error *error)
{
    size_t bytes_needed = cleat_linux_mailbox_bytes(messages_max);

    if (out == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 4, 0, "out is NULL");
    }
    if (bytes_needed == 0) {
        return cleat_error_set(error, CLEAT_INVALID, 3, 0,
                               "mailbox: 1 to 65536 messages");
    }
    enum cleat_status status = cleat_linux_block_check(block, bytes,
                                                       bytes_needed, error);
    if (status != CLEAT_OK) { return status; }

    struct cleat_mailbox_context *context = block;
    memset(context, 0, sizeof *context);
    context->messages_max = messages_max;
    context->messages =
        (struct cleat_message *)(void *)((unsigned char *)block + FIXED_BYTES);
    (void)pthread_mutex_init(&context->lock, NULL);
    int code = cleat_linux_cond_init(&context->posted);
    if (code != 0) {
        (void)pthread_mutex_destroy(&context->lock);
        return cleat_linux_io_error(error, code, 0, "condition variable");
    }
    *out = (struct cleat_mailbox){
        .context = context, .post = mailbox_post, .wait = mailbox_wait};
    return CLEAT_OK;
}

void cleat_linux_mailbox_close(struct cleat_mailbox *mailbox)
{
    if (mailbox == NULL || mailbox->context == NULL) { return; }
    (void)pthread_cond_destroy(&mailbox->context->posted);
    (void)pthread_mutex_destroy(&mailbox->context->lock);
    mailbox->context = NULL;
}
