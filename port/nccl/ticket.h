/* Cleat: the NCCL transport's ticket, and what both ends share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_PORT_NCCL_TICKET_H
#define CLEAT_PORT_NCCL_TICKET_H

#include "engine.h"

/* A bucket's size as tickets tell it. */
uint32_t nccl_bucket_units(uint64_t bucket_bytes);

/* Writes a ticket around the shared memory's; false when it is too long. */
bool nccl_ticket_write(struct cleat_transport_ticket *ticket,
                       const struct nccl_group *group, bool fresh,
                       uint64_t bucket_bytes,
                       const struct cleat_transport_ticket *inner);

/* Reads one. The descriptors go to *inner in every case, and are -1 in
 * *ticket. False when it is none of ours; then *inner has no bytes. */
bool nccl_ticket_read(struct cleat_transport_ticket *ticket,
                      struct nccl_group *group, bool *fresh,
                      uint32_t *bucket_units,
                      struct cleat_transport_ticket *inner);

/* What either open is given. CLEAT_OK; CLEAT_INVALID; CLEAT_TOO_SMALL. */
enum cleat_status nccl_block_check(const void *block, size_t bytes,
                                   const struct cleat_nccl_config *config,
                                   const void *out, struct cleat_error *error);

#endif
