/* Cleat: device memory given from one process to another.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device.h"

#define SLOTS 2u

struct given {
    uint64_t bytes;
    uint64_t distance;
};

static struct gpu_device device;

static unsigned char byte_of(uint32_t slot, uint64_t i)
{
    return (unsigned char)(slot * 101 + i * 7 + (i >> 8) + (i >> 16));
}

static void send_given(int socket, int fd, const struct given *given)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {(void *)(uintptr_t)given, sizeof *given};
    struct msghdr message;
    struct cmsghdr *header;

    memset(&message, 0, sizeof message);
    memset(&control, 0, sizeof control);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    must(sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t)sizeof *given);
}

static int take_given(int socket, struct given *given)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {given, sizeof *given};
    struct msghdr message;
    struct cmsghdr *header;
    int fd = -1;

    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    must(recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == (ssize_t)sizeof *given);
    header = CMSG_FIRSTHDR(&message);
    must(header != NULL && header->cmsg_type == SCM_RIGHTS);
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

static uint64_t slot_bytes(void)
{
    return gpu_options.bucket_bytes != 0 ? gpu_options.bucket_bytes
                                         : (UINT64_C(64) << 20) + 77;
}

/* The giver: fills its slots, gives them, and waits to be killed. */
static _Noreturn void giver(int socket)
{
    struct given given;
    int fd = -1;

    gpu_device_open(&device,
                    &(struct gpu_device_config){.slots_count = SLOTS,
                                                .slot_bytes = slot_bytes(),
                                                .staging_bytes = slot_bytes(),
                                                .shareable = true});
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        for (uint64_t i = 0; i < slot_bytes(); i++) {
            device.host[i] = byte_of(slot, i);
        }
        gpu_device_write(&device, cleat_cuda_slot(device.cuda, slot),
                         slot_bytes());
    }
    must_be_ok(
        cleat_cuda_share(device.cuda, &fd, &given.bytes, &given.distance));
    send_given(socket, fd, &given);
    for (;;) { (void)pause(); }
}

/* How many bytes of the slots are not what the giver has written. */
static uint64_t wrong_bytes(uint64_t address, uint64_t distance)
{
    uint64_t wrong = 0;

    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        memset(device.host, 0x5A, slot_bytes());
        gpu_device_read(&device, address + slot * distance, slot_bytes());
        for (uint64_t i = 0; i < slot_bytes(); i++) {
            wrong += device.host[i] != byte_of(slot, i);
        }
    }
    return wrong;
}

static void share(const struct gpu_found *found)
{
    struct given given;
    struct cleat_error error;
    uint64_t address = 0;
    uint64_t begun_ns;
    uint64_t ended_ns;
    int status = 0;
    int pair[2];
    pid_t pid;
    int fd;

    if (!found->memory_share) {
        gpu_skip("looked for device memory that can be given away by "
                 "descriptor; the driver or device 0 has none");
    }
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    pid = gpu_fork();
    if (pid == 0) { giver(pair[1]); }
    (void)close(pair[1]); /* if the giver fails, nothing comes */
    gpu_device_open(&device,
                    &(struct gpu_device_config){.staging_bytes = slot_bytes()});
    fd = take_given(pair[0], &given);
    must(given.bytes >= (SLOTS - 1) * given.distance + slot_bytes());
    memset(&error, 0, sizeof error);
    must_be_ok(
        cleat_cuda_import(device.cuda, fd, given.bytes, &address, &error));
    (void)close(fd);
    begun_ns = gpu_now_ns();
    must(wrong_bytes(address, given.distance) == 0);
    ended_ns = gpu_now_ns();
    must(kill(pid, SIGKILL) == 0);
    must(waitpid(pid, &status, 0) == pid);
    must(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    must(wrong_bytes(address, given.distance) == 0);
    gpu_tell("%u slots of %" PRIu64 " bytes, right before and after the "
             "giver's death; read and compared in %.0f ms",
             SLOTS, slot_bytes(), gpu_ms(begun_ns, ended_ns));
    must_be_ok(cleat_cuda_close(device.cuda));
}

const struct gpu_check gpu_share_checks[] = {
    {"share", "device memory between processes", share},
    {NULL, NULL, NULL},
};
