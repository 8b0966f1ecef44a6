/* Cleat: the NCCL transport's ticket, and what both ends share.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ticket.h"

#include <string.h>

#define TICKET_MAGIC 0x4B544E43u /* "CNTK" */
#define TICKET_VERSION 2u

#define FLAG_FRESH 1u      /* the group is to be formed; else it has been */
#define FLAG_REGISTERED 2u /* every rank registers its slots */
#define UNIT_BYTES 4096u

/* Before a shared memory's ticket. In the host's byte order: it never leaves
 * the machine. */
struct header {
    uint32_t magic;
    uint16_t version;
    uint8_t topology;
    uint8_t flags;
    uint64_t epoch;
    uint16_t ranks;
    uint16_t inner_bytes;
    unsigned char id[CLEAT_NCCL_ID_BYTES];
    uint32_t bucket_units; /* the largest bucket, in UNIT_BYTES, rounded up */
};
_Static_assert(sizeof(struct header) == 152, "no hole in it");

uint32_t nccl_bucket_units(uint64_t bucket_bytes)
{
    return (uint32_t)((bucket_bytes + UNIT_BYTES - 1) / UNIT_BYTES);
}

bool nccl_ticket_write(struct cleat_transport_ticket *ticket,
                       const struct nccl_group *group, bool fresh,
                       uint64_t bucket_bytes,
                       const struct cleat_transport_ticket *inner)
{
    struct header header;

    if (inner->bytes_count > sizeof ticket->bytes - sizeof header) {
        return false;
    }
    memset(&header, 0, sizeof header);
    header.magic = TICKET_MAGIC;
    header.version = TICKET_VERSION;
    header.topology = (uint8_t)group->topology;
    header.flags = (uint8_t)((fresh ? FLAG_FRESH : 0) |
                             (group->registers != 0 ? FLAG_REGISTERED : 0));
    header.epoch = group->epoch;
    header.ranks = (uint16_t)group->ranks;
    header.inner_bytes = (uint16_t)inner->bytes_count;
    header.bucket_units = nccl_bucket_units(bucket_bytes);
    memcpy(header.id, group->id.internal, sizeof header.id);
    *ticket = *inner; /* its descriptors */
    memset(ticket->bytes, 0, sizeof ticket->bytes);
    memcpy(ticket->bytes, &header, sizeof header);
    memcpy(ticket->bytes + sizeof header, inner->bytes, inner->bytes_count);
    ticket->bytes_count = (uint32_t)sizeof header + inner->bytes_count;
    return true;
}

static void take_descriptors(struct cleat_transport_ticket *ticket,
                             struct cleat_transport_ticket *inner)
{
    memset(inner, 0, sizeof *inner);
    inner->fds_count = ticket->fds_count;
    for (uint32_t i = 0; i < CLEAT_TRANSPORT_TICKET_FDS; i++) {
        inner->fds[i] = i < ticket->fds_count ? ticket->fds[i] : -1;
        ticket->fds[i] = -1;
    }
}

bool nccl_ticket_read(struct cleat_transport_ticket *ticket,
                      struct nccl_group *group, bool *fresh,
                      uint32_t *bucket_units,
                      struct cleat_transport_ticket *inner)
{
    struct header header;

    take_descriptors(ticket, inner);
    memset(group, 0, sizeof *group);
    if (ticket->bytes_count < sizeof header ||
        ticket->bytes_count > CLEAT_TRANSPORT_TICKET_BYTES) {
        return false;
    }
    memcpy(&header, ticket->bytes, sizeof header);
    if (header.magic != TICKET_MAGIC || header.version != TICKET_VERSION ||
        header.topology > CLEAT_NCCL_FAN_OUT ||
        header.flags > (FLAG_FRESH | FLAG_REGISTERED) || header.epoch == 0 ||
        header.ranks < 2 || header.ranks > CLEAT_NCCL_RECEIVERS_MAX + 1 ||
        header.inner_bytes != ticket->bytes_count - sizeof header) {
        return false;
    }
    inner->bytes_count = header.inner_bytes;
    memcpy(inner->bytes, ticket->bytes + sizeof header, header.inner_bytes);
    group->epoch = header.epoch;
    group->ranks = header.ranks;
    group->topology = header.topology;
    memcpy(group->id.internal, header.id, sizeof header.id);
    group->registers = (header.flags & FLAG_REGISTERED) != 0;
    *fresh = (header.flags & FLAG_FRESH) != 0;
    *bucket_units = header.bucket_units;
    return true;
}

enum cleat_status nccl_block_check(const void *block, size_t bytes,
                                   const struct cleat_nccl_config *config,
                                   const void *out, struct cleat_error *error)
{
    if (block == NULL || (uintptr_t)block % 64 != 0 || config == NULL ||
        out == NULL) {
        return cleat_error_set(error, CLEAT_INVALID, 0, 0,
                               "nccl: a block aligned to 64 bytes, a config "
                               "and a result are needed");
    }
    if (bytes < CLEAT_NCCL_BYTES) {
        return cleat_error_set(error, CLEAT_TOO_SMALL, 1, CLEAT_NCCL_BYTES,
                               "nccl: the block is too small");
    }
    return CLEAT_OK;
}
