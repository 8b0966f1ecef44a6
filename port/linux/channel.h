/* Cleat: control frames over a socket. SPDX-License-Identifier: Apache-2.0
 *
 * AF_UNIX, SOCK_SEQPACKET; nothing here blocks or raises a signal. */
#ifndef CLEAT_PORT_LINUX_CHANNEL_H
#define CLEAT_PORT_LINUX_CHANNEL_H

#include "control.h"

/* The longest path of a Unix socket, its NUL not counted. */
#define CLEAT_CHANNEL_PATH_MAX 107u

/* A frame and what travels with it. */
struct cleat_channel_packet {
    struct cleat_control_frame frame;
    int fds[CLEAT_TRANSPORT_TICKET_FDS]; /* received: ours; unused: -1 */
};

/* Sends bytes that were encoded already; `fds` stay the caller's.
 * Returns CLEAT_OK; CLEAT_NO_SLOT: the channel is full; CLEAT_PEER_LOST: it
 * has ended; CLEAT_IO: anything else (a descriptor that is none). */
enum cleat_status cleat_channel_send_bytes(int fd, const uint8_t *bytes,
                                           size_t bytes_count, const int *fds,
                                           uint32_t fds_count);

/* Encodes and sends. Returns the same; CLEAT_INVALID. */
enum cleat_status cleat_channel_send(int fd,
                                     const struct cleat_control_frame *frame,
                                     const int *fds);

/* Receives one packet, close-on-exec its descriptors.
 * Returns CLEAT_OK with *packet filled; CLEAT_PENDING: there is none now;
 * CLEAT_PEER_LOST: the channel has ended; otherwise a packet came and was
 * thrown away, its descriptors closed: what cleat_control_decode said, or
 * CLEAT_MALFORMED when they are not as many as it says. */
enum cleat_status cleat_channel_receive(int fd,
                                        struct cleat_channel_packet *packet);

/* Closes the packet's descriptors that are left. */
void cleat_channel_packet_close(struct cleat_channel_packet *packet);

/* Is it a connected Unix socket of the right type? */
bool cleat_channel_is_one(int fd);

/* Makes it ours: close-on-exec, non-blocking. False when refused. */
bool cleat_channel_take(int fd);

/* Connects to `path`; the socket, non-blocking and close-on-exec, or -1. */
int cleat_channel_connect(const char *path);

#endif
