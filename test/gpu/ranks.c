/* Cleat: checks with several processes on one GPU. SPDX-License-Identifier:
 * Apache-2.0
 *
 * One process sends, the others receive, all through cleat/nccl.h on device 0;
 * orders and tickets go over sockets. Each story is a process that becomes the
 * sender once it has started the receivers. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleat/digest.h"
#include "device.h"

#define RECEIVERS_MAX 3u
#define BUCKETS 12u
#define FALL 5u /* the bucket in whose middle a receiver falls */

struct scene {
    const char *name;
    uint32_t receivers;
    uint32_t topology;
    uint32_t on_device;
};

static const struct gpu_found *found;
static struct scene scene;
static uint64_t bucket_bytes;
static _Alignas(64) unsigned char block[CLEAT_NCCL_BYTES];
static struct gpu_device device; /* where slots are on the device */

static struct cleat_nccl_config config_of(void)
{
    struct cleat_nccl_config config;

    memset(&config, 0, sizeof config);
    config.bucket_bytes = bucket_bytes;
    config.receivers_max = RECEIVERS_MAX;
    config.topology = scene.topology;
    config.on_device = scene.on_device;
    config.bucket_ns = gpu_options.patience_ns;
    config.call_ns = gpu_options.patience_ns;
    config.revoke_ns = gpu_options.patience_ns;
    config.abort_ns = gpu_options.patience_ns;
    config.drain_ns = gpu_options.patience_ns;
    return config;
}

/* For what a peer may first have to give up on. */
static uint64_t later(void)
{
    return gpu_now_ns() + 4 * gpu_options.patience_ns;
}

static void open_device(void)
{
    if (scene.on_device == 0) { return; }
    gpu_device_open(&device,
                    &(struct gpu_device_config){.staging_bytes = bucket_bytes});
}

static void close_device(void)
{
    if (scene.on_device == 0) { return; }
    must_be_ok(cleat_cuda_close(device.cuda));
}

/* ---- what a bucket is ---- */

/* Odd lengths; one is empty. */
static uint64_t bytes_of(uint32_t bucket)
{
    switch (bucket) {
    case 2: return bucket_bytes - 1;
    case 3: return 0;
    case 4: return 77;
    case 9: return bucket_bytes / 2 + 1;
    default: return bucket_bytes;
    }
}

static unsigned char byte_of(uint64_t generation, uint32_t bucket, uint64_t i)
{
    return (unsigned char)(generation * 5 + bucket * 3 + i + (i >> 8) +
                           (i >> 16));
}

static bool is_right(uint64_t generation, uint32_t bucket,
                     const unsigned char *data, uint64_t bytes)
{
    if (bytes != bytes_of(bucket)) { return false; }
    for (uint64_t i = 0; i < bytes; i++) {
        if (data[i] != byte_of(generation, bucket, i)) { return false; }
    }
    return true;
}

/* ---- what is said between them ---- */

struct order {
    struct cleat_transport_ticket ticket;
    uint64_t generation; /* 0: close and end */
    uint32_t index;
    uint32_t reserved;
};

struct answer {
    uint64_t generation;
    enum cleat_status joined;
    enum cleat_status ended;
    uint32_t received;
    uint32_t right; /* 1: every byte was the right one */
};

#define ORDER_FDS CLEAT_TRANSPORT_TICKET_FDS

union order_fds {
    char bytes[CMSG_SPACE(ORDER_FDS * sizeof(int))];
    struct cmsghdr align;
};

static void send_order(int fd, const struct order *order)
{
    struct iovec part = {(void *)(uintptr_t)order, sizeof *order};
    const uint32_t count = order->ticket.fds_count;
    union order_fds control;
    struct msghdr message;

    memset(&message, 0, sizeof message);
    memset(&control, 0, sizeof control);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (order->generation != 0 && count != 0) {
        struct cmsghdr *header;

        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), order->ticket.fds, count * sizeof(int));
    }
    must(sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)sizeof *order);
}

static void take_order(int fd, struct order *order)
{
    struct iovec part = {order, sizeof *order};
    union order_fds control;
    struct msghdr message;
    struct cmsghdr *header;

    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    must(recvmsg(fd, &message, MSG_CMSG_CLOEXEC) == (ssize_t)sizeof *order);
    header = CMSG_FIRSTHDR(&message);
    if (header != NULL) {
        memcpy(order->ticket.fds, CMSG_DATA(header),
               order->ticket.fds_count * sizeof(int));
    }
}

/* ---- a receiver's process ---- */

static void receive_one(const struct cleat_transport_receiver *t,
                        const struct order *order, struct answer *answer)
{
    uint32_t bucket = answer->received;
    const void *data = NULL;
    uint64_t bytes = 0;
    uint32_t crc = 0;

    answer->ended = t->wait(t->context, bucket, later(), &data, &bytes, &crc);
    if (answer->ended != CLEAT_OK) { return; }
    if (scene.on_device != 0 && bytes != 0) {
        memset(device.host, 0x5A, bytes);
        gpu_device_read(&device, (uint64_t)(uintptr_t)data, bytes);
        data = device.host;
    } else if (cleat_crc32c(0, data, bytes) != crc && scene.on_device == 0) {
        answer->right = 0;
    }
    if (!is_right(order->generation, bucket, data, bytes)) {
        answer->right = 0;
    }
    answer->ended = t->ack(t->context, bucket, CLEAT_OK);
    answer->received += answer->ended == CLEAT_OK;
}

static void receive(const struct cleat_transport_receiver *t,
                    struct order *order, struct answer *answer)
{
    memset(answer, 0, sizeof *answer);
    answer->generation = order->generation;
    answer->right = 1;
    answer->joined = t->join(t->context, &order->ticket, order->index, later());
    while (answer->joined == CLEAT_OK && answer->ended == CLEAT_OK &&
           answer->received < BUCKETS) {
        receive_one(t, order, answer);
    }
}

static _Noreturn void receiver_main(uint32_t number, int fd)
{
    struct cleat_nccl_config config = config_of();
    struct cleat_transport_receiver transport;
    struct cleat_error error;
    struct answer answer;
    struct order order;

    gpu_share_device(found, number + 1);
    memset(&error, 0, sizeof error);
    if (cleat_nccl_receiver_open(block, sizeof block, &config, &transport,
                                 &error) != CLEAT_OK) {
        gpu_fail(__FILE__, __LINE__, "a receiver opens: %s", error.text);
    }
    open_device();
    take_order(fd, &order);
    while (order.generation != 0) {
        receive(&transport, &order, &answer);
        must(send(fd, &answer, sizeof answer, MSG_NOSIGNAL) ==
             (ssize_t)sizeof answer);
        /* The next order comes when the sender has finished. */
        take_order(fd, &order);
        transport.leave(transport.context);
    }
    close_device();
    must_be_ok(cleat_nccl_receiver_close(&transport));
    _exit(0);
}

/* ---- the sender's ---- */

static struct cleat_transport_sender sender;
static int channels[RECEIVERS_MAX];
static pid_t pids[RECEIVERS_MAX];
static struct answer answers[RECEIVERS_MAX];
static int falls; /* signal for the last one in this generation; 0: none */
static uint64_t sent_bytes;
static uint64_t sent_ns;

static bool all_acked(uint32_t count, uint32_t *lowest)
{
    *lowest = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        enum cleat_status said = CLEAT_OK;
        uint32_t acked = 0;

        must_be_ok(sender.acked(sender.context, i, &acked, &said));
        if (said != CLEAT_OK) { return false; }
        if (acked < *lowest) { *lowest = acked; }
    }
    return true;
}

/* False when the group has failed meanwhile. */
static bool publish(uint64_t generation, uint32_t bucket)
{
    uint32_t slot = bucket % sender.slots_count;
    uint64_t bytes = bytes_of(bucket);
    uint64_t bytes_max = 0;
    unsigned char *at;
    void *data = NULL;
    uint32_t crc = 0;

    must_be_ok(sender.slot(sender.context, slot, &data, &bytes_max));
    at = scene.on_device != 0 ? device.host : data;
    for (uint64_t i = 0; i < bytes; i++) {
        at[i] = byte_of(generation, bucket, i);
    }
    if (scene.on_device != 0) {
        gpu_device_write(&device, (uint64_t)(uintptr_t)data, bytes);
    } else {
        crc = cleat_crc32c(0, at, bytes);
    }
    if (gpu_options.canary != 0 && bucket == 7) { crc ^= 1; }
    return sender.publish(sender.context, slot, bucket, bytes, crc) == CLEAT_OK;
}

/* Sends everything to the first `count`; false when the group has failed, or
 * when one of them says nothing for as long as patience lasts. */
static bool send_all(uint64_t generation, uint32_t count)
{
    uint64_t begun_ns = gpu_now_ns();
    uint32_t published = 0;
    uint32_t lowest = 0;

    sent_bytes = 0;
    while (all_acked(count, &lowest)) {
        if (lowest == BUCKETS) {
            sent_ns = gpu_now_ns() - begun_ns;
            return true;
        }
        if (published < BUCKETS && published - lowest < sender.slots_count) {
            sent_bytes += bytes_of(published);
            if (!publish(generation, published)) { return false; }
            if (published++ == FALL && falls != 0) {
                must(kill(pids[count - 1], falls) == 0);
            }
        } else if (sender.wait(sender.context, gpu_soon()) != CLEAT_OK) {
            return false;
        }
    }
    return false;
}

/* Takes the answer of a receiver that is alive; an older one is left behind. */
static void take_answer(uint32_t i, uint64_t generation)
{
    do {
        must(recv(channels[i], &answers[i], sizeof answers[i], 0) ==
             (ssize_t)sizeof answers[i]);
    } while (answers[i].generation != generation);
}

/* One generation for the first `count`; of those that do not fall, the answers
 * are taken. Whether it was sent. */
static bool generation(uint64_t number, uint32_t count)
{
    struct order order;
    bool sent;

    memset(&order, 0, sizeof order);
    order.generation = number;
    must_be_ok(sender.prepare(sender.context, number, count, &order.ticket));
    for (uint32_t i = 0; i < count; i++) {
        order.index = i;
        send_order(channels[i], &order);
    }
    must_be_ok(sender.group(sender.context, later()));
    sent = send_all(number, count);
    sender.finish(sender.context);
    for (uint32_t i = 0; i < count; i++) {
        if (falls == 0 || i + 1 < count) { take_answer(i, number); }
    }
    return sent;
}

static void begin(void)
{
    struct cleat_nccl_config config = config_of();
    struct cleat_error error;

    for (uint32_t i = 0; i < scene.receivers; i++) {
        int pair[2];

        must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
        pids[i] = gpu_fork();
        if (pids[i] == 0) { receiver_main(i, pair[1]); }
        (void)close(pair[1]);
        channels[i] = pair[0];
    }
    gpu_share_device(found, 0);
    memset(&error, 0, sizeof error);
    if (cleat_nccl_sender_open(block, sizeof block, &config, &sender, &error) !=
        CLEAT_OK) {
        gpu_fail(__FILE__, __LINE__, "the sender opens: %s", error.text);
    }
    open_device();
}

static void all_have_all(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        must_be_ok(answers[i].joined);
        must_be_ok(answers[i].ended);
        must(answers[i].received == BUCKETS);
        must(answers[i].right == 1);
    }
}

static void end(uint32_t count)
{
    struct order order;

    memset(&order, 0, sizeof order);
    for (uint32_t i = 0; i < count; i++) {
        int ended = -1;

        send_order(channels[i], &order);
        must(waitpid(pids[i], &ended, 0) == pids[i]);
        must(ended == 0);
    }
    close_device();
    must_be_ok(cleat_nccl_sender_close(&sender));
}

static struct cleat_nccl_account account_of_sender(void)
{
    struct cleat_nccl_account account;

    cleat_nccl_sender_account(&sender, &account);
    return account;
}

/* ---- every byte ---- */

static void arrives(void)
{
    begin();
    must(generation(1, scene.receivers));
    all_have_all(scene.receivers);
    must(generation(2, scene.receivers)); /* in the same group */
    all_have_all(scene.receivers);
    must(account_of_sender().builds == 1 && account_of_sender().stops == 0);
    gpu_tell("%s %.3f GB/s", scene.name, gpu_gb_per_s(sent_bytes, 0, sent_ns));
    end(scene.receivers);
}

/* ---- one of them falls ---- */

/* The story of a receiver that is killed or stopped in a bucket's middle. */
static void fall(int signal_number)
{
    const uint32_t last = scene.receivers - 1;
    uint64_t begun_ns;
    uint64_t ended_ns;

    begin();
    must(generation(1, scene.receivers));
    all_have_all(scene.receivers);
    falls = signal_number;
    begun_ns = gpu_now_ns();
    must(!generation(2, scene.receivers));
    ended_ns = gpu_now_ns();
    falls = 0;
    for (uint32_t i = 0; i < last; i++) {
        must(answers[i].ended == CLEAT_GROUP_FAILED);
        must(answers[i].received < BUCKETS && answers[i].right == 1);
    }
    must(generation(3, last));
    all_have_all(last);
    gpu_tell("the others end %.2f s after the generation's begin (patience "
             "%.0f s), and have everything %.2f s later",
             gpu_ms(begun_ns, ended_ns) / 1000,
             (double)gpu_options.patience_ns / (double)CLEAT_NS_PER_S,
             gpu_ms(ended_ns, gpu_now_ns()) / 1000);
}

static void is_killed(void)
{
    const uint32_t last = scene.receivers - 1;
    int ended = 0;

    fall(SIGKILL);
    must(generation(4, last));
    all_have_all(last);
    must(account_of_sender().builds == 2 && account_of_sender().ids == 2);
    gpu_tell("groups formed: %" PRIu32, account_of_sender().builds);
    must(waitpid(pids[last], &ended, 0) == pids[last]);
    must(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL);
    end(last);
}

static void is_stopped(void)
{
    const uint32_t last = scene.receivers - 1;

    fall(SIGSTOP);
    must(kill(pids[last], SIGCONT) == 0);
    must(generation(4, last));
    all_have_all(last);
    must(account_of_sender().builds == 2 && account_of_sender().ids == 2);
    take_answer(last, 2); /* it has found out */
    must(answers[last].ended < CLEAT_OK && answers[last].right == 1);
    must(generation(5, scene.receivers));
    all_have_all(scene.receivers);
    must(account_of_sender().builds == 3);
    gpu_tell("groups formed: %" PRIu32 ", the last with all of them",
             account_of_sender().builds);
    end(scene.receivers);
}

/* ---- the checks ---- */

/* A story in a process of its own. */
static void tell(const struct gpu_found *what, const struct scene *of,
                 void (*story)(void))
{
    int ended = -1;
    pid_t pid;

    found = what;
    scene = *of;
    bucket_bytes = gpu_options.bucket_bytes != 0 ? gpu_options.bucket_bytes
                                                 : (UINT64_C(16) << 20) + 3;
    pid = gpu_fork();
    if (pid == 0) {
        story();
        _exit(0);
    }
    must(waitpid(pid, &ended, 0) == pid);
    must(ended == 0);
}

static void all_ways(const struct gpu_found *what, uint32_t receivers)
{
    const struct scene scenes[] = {
        {"staged broadcast", receivers, CLEAT_NCCL_BROADCAST, 0},
        {"staged fan-out", receivers, CLEAT_NCCL_FAN_OUT, 0},
        {"on-device broadcast", receivers, CLEAT_NCCL_BROADCAST, 1},
        {"on-device fan-out", receivers, CLEAT_NCCL_FAN_OUT, 1},
    };

    for (size_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++) {
        tell(what, &scenes[i], arrives);
    }
}

static void two(const struct gpu_found *what)
{
    all_ways(what, 1);
}

static void three(const struct gpu_found *what)
{
    all_ways(what, 2);
}

static void killed(const struct gpu_found *what)
{
    const struct scene three_ranks = {"", 2, CLEAT_NCCL_BROADCAST, 0};

    tell(what, &three_ranks, is_killed);
}

static void stopped(const struct gpu_found *what)
{
    const struct scene three_ranks = {"", 2, CLEAT_NCCL_BROADCAST, 0};

    tell(what, &three_ranks, is_stopped);
}

const struct gpu_check gpu_ranks_checks[] = {
    {"two", "two processes on one GPU", two},
    {"three", "three processes on one GPU", three},
    {"killed", "kill -9 of a receiver mid-bucket", killed},
    {"stopped", "SIGSTOP of a receiver mid-bucket", stopped},
    {NULL, NULL, NULL},
};
