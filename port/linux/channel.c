/* Cleat: control frames over a socket. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "channel.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "system.h"

#define FDS_MAX CLEAT_TRANSPORT_TICKET_FDS

_Static_assert(sizeof(((struct sockaddr_un *)0)->sun_path) ==
                   CLEAT_CHANNEL_PATH_MAX + 1,
               "path of a Unix socket");

/* Room for one SCM_RIGHTS message, aligned as the kernel wants it. */
union control_room {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
};

enum cleat_status cleat_channel_send_bytes(int fd, const uint8_t *bytes,
                                           size_t bytes_count, const int *fds,
                                           uint32_t fds_count)
{
    uint8_t copy[CLEAT_CONTROL_BYTES_MAX]; /* iovec is not const */
    union control_room room;
    struct msghdr message;

    memcpy(copy, bytes, bytes_count);
    struct iovec part = {.iov_base = copy, .iov_len = bytes_count};
    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fds_count > 0) {
        memset(&room, 0, sizeof room);
        message.msg_control = room.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fds_count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * fds_count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * fds_count);
    }
    ssize_t sent = -1;
    do {
        sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0) { return CLEAT_OK; }
    switch (errno) {
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
    case ETOOMANYREFS: return CLEAT_NO_SLOT;
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN: return CLEAT_PEER_LOST;
    default: return CLEAT_IO;
    }
}

enum cleat_status cleat_channel_send(int fd,
                                     const struct cleat_control_frame *frame,
                                     const int *fds)
{
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
    size_t bytes_count = 0;
    enum cleat_status status = cleat_control_encode(frame, bytes, &bytes_count);

    if (status != CLEAT_OK) { return status; }
    return cleat_channel_send_bytes(fd, bytes, bytes_count, fds,
                                    frame->fds_count);
}

/* Takes the descriptors out of a received message; how many. Those beyond
 * FDS_MAX, which the room cannot hold, the kernel has closed. */
static uint32_t take_fds(struct msghdr *message, int *fds)
{
    uint32_t count = 0;

    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET ||
            header->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t bytes = header->cmsg_len - CMSG_LEN(0);
        for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
            int fd = -1;
            memcpy(&fd, CMSG_DATA(header) + at, sizeof fd);
            if (count < FDS_MAX) {
                fds[count++] = fd;
            } else {
                cleat_linux_close(&fd);
            }
        }
    }
    return count;
}

void cleat_channel_packet_close(struct cleat_channel_packet *packet)
{
    for (uint32_t i = 0; i < FDS_MAX; i++) {
        cleat_linux_close(&packet->fds[i]);
    }
}

/* When the other end is closed with something unread in it, the next call says
 * ECONNRESET once, ahead of what it had sent before: its last words come after
 * that. */
static ssize_t receive_message(int fd, struct msghdr *message)
{
    ssize_t received = -1;

    for (uint32_t tries = 0; tries < 3; tries++) {
        do {
            received = recvmsg(fd, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        } while (received < 0 && errno == EINTR);
        if (received >= 0 || errno != ECONNRESET) { break; }
    }
    return received;
}

enum cleat_status cleat_channel_receive(int fd,
                                        struct cleat_channel_packet *packet)
{
    uint8_t bytes[CLEAT_CONTROL_BYTES_MAX];
    union control_room room;
    struct msghdr message;
    struct iovec part = {.iov_base = bytes, .iov_len = sizeof bytes};

    memset(packet, 0, sizeof *packet);
    for (uint32_t i = 0; i < FDS_MAX; i++) { packet->fds[i] = -1; }
    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = room.bytes;
    message.msg_controllen = sizeof room.bytes;
    ssize_t received = receive_message(fd, &message);
    if (received < 0) {
        return errno == EAGAIN ? CLEAT_PENDING : CLEAT_PEER_LOST;
    }
    uint32_t fds_count = take_fds(&message, packet->fds);
    enum cleat_status status = CLEAT_MALFORMED;
    if (received == 0) {
        status = CLEAT_PEER_LOST;
    } else if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0) {
        status = cleat_control_decode(bytes, (size_t)received, &packet->frame);
        if (status == CLEAT_OK && packet->frame.fds_count != fds_count) {
            status = CLEAT_MALFORMED;
        }
    }
    if (status != CLEAT_OK) { cleat_channel_packet_close(packet); }
    return status;
}

bool cleat_channel_is_one(int fd)
{
    int type = 0;
    socklen_t type_bytes = sizeof type;
    struct sockaddr_un peer;
    socklen_t peer_bytes = sizeof peer;

    memset(&peer, 0, sizeof peer);
    if (fd < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_bytes) != 0 ||
        type != SOCK_SEQPACKET) {
        return false;
    }
    /* A pair whose other end is gone was one, and its end will be seen. */
    if (getpeername(fd, (struct sockaddr *)&peer, &peer_bytes) != 0) {
        return false;
    }
    return peer.sun_family == AF_UNIX;
}

bool cleat_channel_take(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 &&
           fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

int cleat_channel_connect(const char *path)
{
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0) { return -1; }
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    size_t length = strnlen(path, CLEAT_CHANNEL_PATH_MAX);
    memcpy(address.sun_path, path, length);
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        cleat_linux_close(&fd);
    }
    return fd;
}
