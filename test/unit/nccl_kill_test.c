/* Cleat: the NCCL transport when a process is killed or stopped.
 * SPDX-License-Identifier: Apache-2.0
 *
 * This process sends; three others receive, each with a device of the fakes.
 * In the middle of a bucket one is killed (SIGKILL) or stopped (SIGSTOP),
 * which no library reports. It must cost a deadline: the others go on in the
 * next generation, in a group without it, and a process that is woken later
 * changes nothing. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cleat/digest.h"
#include "cleat/nccl.h"
#include "control.h"

#define RECEIVERS 3u
#define BUCKETS 12u
#define BUCKET_BYTES 30000u

#define must(condition) \
    ((condition) ? (void)0 : must_failed(#condition, __FILE__, __LINE__))

static void must_failed(const char *what, const char *file, int line)
{
    (void)fprintf(stderr, "%d: %s:%d: not true: %s\n", (int)getpid(), file,
                  line, what);
    _exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now = {0, 0};

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * CLEAT_NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Longer than a bucket may take at the sender. */
static uint64_t soon(void)
{
    return now_ns() + 60 * CLEAT_NS_PER_S;
}

static struct cleat_nccl_config config_of(uint32_t device)
{
    struct cleat_nccl_config config;

    memset(&config, 0, sizeof config);
    config.cuda_library = CLEAT_FAKES "/lib/libcuda.so.1";
    config.nccl_library = CLEAT_FAKES "/lib/libnccl.so.2";
    config.bucket_bytes = BUCKET_BYTES;
    config.device = device;
    /* The sender's runs out, and the receivers are told. Nothing else is late
     * by accident. */
    config.bucket_ns = (device == 0 ? 10 : 60) * CLEAT_NS_PER_S;
    config.call_ns = 20 * CLEAT_NS_PER_S;
    config.revoke_ns = 20 * CLEAT_NS_PER_S;
    config.abort_ns = 20 * CLEAT_NS_PER_S;
    config.drain_ns = 20 * CLEAT_NS_PER_S;
    return config;
}

static unsigned char byte_of(uint64_t generation, uint32_t bucket, uint32_t i)
{
    return (unsigned char)(generation * 5 + bucket * 3 + i + (i >> 8));
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

static void send_order(int fd, const struct order *order)
{
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {(void *)(uintptr_t)order, sizeof *order};
    struct msghdr message;

    memset(&message, 0, sizeof message);
    memset(&control, 0, sizeof control);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (order->generation != 0) {
        struct cmsghdr *header;

        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(2 * sizeof(int));
        memcpy(CMSG_DATA(header), order->ticket.fds, 2 * sizeof(int));
    }
    must(sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)sizeof *order);
}

static void take_order(int fd, struct order *order)
{
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {order, sizeof *order};
    struct msghdr message;
    struct cmsghdr *header;

    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    must(recvmsg(fd, &message, 0) == (ssize_t)sizeof *order);
    header = CMSG_FIRSTHDR(&message);
    if (header != NULL) {
        memcpy(order->ticket.fds, CMSG_DATA(header), 2 * sizeof(int));
    }
}

/* ---- a receiver's process ---- */

static _Alignas(64) unsigned char block[CLEAT_NCCL_BYTES];

static bool is_right(const struct order *order, uint32_t bucket,
                     const unsigned char *data, uint64_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++) {
        if (data[i] != byte_of(order->generation, bucket, i)) { return false; }
    }
    return bytes == BUCKET_BYTES;
}

static void receive(const struct cleat_transport_receiver *t,
                    struct order *order, struct answer *answer)
{
    memset(answer, 0, sizeof *answer);
    answer->generation = order->generation;
    answer->right = 1;
    answer->joined = t->join(t->context, &order->ticket, order->index, soon());
    while (answer->joined == CLEAT_OK && answer->ended == CLEAT_OK &&
           answer->received < BUCKETS) {
        uint32_t bucket = answer->received;
        const void *data = NULL;
        uint64_t bytes = 0;
        uint32_t crc = 0;

        answer->ended = t->wait(t->context, bucket, soon(), &data, &bytes,
                                &crc);
        if (answer->ended != CLEAT_OK) { break; }
        if (!is_right(order, bucket, data, bytes) ||
            cleat_crc32c(0, data, bytes) != crc) {
            answer->right = 0;
        }
        answer->ended = t->ack(t->context, bucket, CLEAT_OK);
        answer->received += answer->ended == CLEAT_OK;
    }
}

static _Noreturn void receiver_main(uint32_t number, int fd)
{
    struct cleat_transport_receiver transport;
    struct cleat_nccl_config config = config_of(number + 1);
    struct answer answer;
    struct order order;

    (void)alarm(100);
    must(cleat_nccl_receiver_open(block, sizeof block, &config, &transport,
                                  NULL) == CLEAT_OK);
    take_order(fd, &order);
    while (order.generation != 0) {
        receive(&transport, &order, &answer);
        must(send(fd, &answer, sizeof answer, MSG_NOSIGNAL) ==
             (ssize_t)sizeof answer);
        /* The next order comes when the sender has finished. */
        take_order(fd, &order);
        transport.leave(transport.context);
    }
    must(cleat_nccl_receiver_close(&transport) == CLEAT_OK);
    _exit(0);
}

/* ---- the sender's ---- */

static struct cleat_transport_sender sender;
static int channels[RECEIVERS];
static pid_t pids[RECEIVERS];
static struct answer answers[RECEIVERS];

static bool all_acked(uint32_t count, uint32_t *lowest)
{
    *lowest = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        enum cleat_status said = CLEAT_OK;
        uint32_t acked = 0;

        must(sender.acked(sender.context, i, &acked, &said) == CLEAT_OK);
        if (said != CLEAT_OK) { return false; }
        if (acked < *lowest) { *lowest = acked; }
    }
    return true;
}

static void publish(uint64_t generation, uint32_t bucket)
{
    uint32_t slot = bucket % sender.slots_count;
    uint64_t bytes_max = 0;
    void *data = NULL;

    must(sender.slot(sender.context, slot, &data, &bytes_max) == CLEAT_OK);
    for (uint32_t i = 0; i < BUCKET_BYTES; i++) {
        ((unsigned char *)data)[i] = byte_of(generation, bucket, i);
    }
    (void)sender.publish(sender.context, slot, bucket, BUCKET_BYTES,
                         cleat_crc32c(0, data, BUCKET_BYTES));
}

/* Sends everything to the first `count`; false when the group has failed. */
static bool send_all(uint64_t generation, uint32_t count)
{
    uint32_t published = 0;
    uint32_t lowest = 0;

    while (all_acked(count, &lowest)) {
        if (lowest == BUCKETS) { return true; }
        if (published < BUCKETS && published - lowest < sender.slots_count) {
            publish(generation, published++);
        } else {
            (void)sender.wait(sender.context, soon());
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

/* One generation for the first `count`, of whom `falls` does not answer.
 * Whether it was sent. */
static bool run(uint64_t generation, uint32_t count, uint32_t falls)
{
    struct order order;
    bool sent;

    memset(&order, 0, sizeof order);
    order.generation = generation;
    must(sender.prepare(sender.context, generation, count, &order.ticket) ==
         CLEAT_OK);
    for (uint32_t i = 0; i < count; i++) {
        order.index = i;
        send_order(channels[i], &order);
    }
    must(sender.group(sender.context, soon()) == CLEAT_OK);
    sent = send_all(generation, count);
    sender.finish(sender.context);
    for (uint32_t i = 0; i < count; i++) {
        if (i != falls) { take_answer(i, generation); }
    }
    return sent;
}

static void start(void)
{
    for (uint32_t i = 0; i < RECEIVERS; i++) {
        int pair[2];

        must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
        pids[i] = fork();
        must(pids[i] >= 0);
        if (pids[i] == 0) { receiver_main(i, pair[1]); }
        (void)close(pair[1]);
        channels[i] = pair[0];
    }
}

static void all_have_all(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        must(answers[i].joined == CLEAT_OK && answers[i].ended == CLEAT_OK);
        must(answers[i].received == BUCKETS && answers[i].right == 1);
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
    must(cleat_nccl_sender_close(&sender) == CLEAT_OK);
}

/* A story, in a process of its own, and where the fakes of all its processes
 * meet; made by the first. */
struct told {
    const char *sentence;
    int fall; /* the signal */
    pid_t pid;
    char folder[64];
    char world[80];
};

/* The last receiver falls in the second generation's sixth bucket, in a call of
 * NCCL's: nowhere else may it hold what the fakes' processes share. */
static void make_world(struct told *told)
{
    char plan[64];

    (void)snprintf(plan, sizeof plan, "ncclBroadcast#%u:%s@rank=%u",
                   BUCKETS + 6, told->fall == SIGSTOP ? "stop" : "kill",
                   RECEIVERS);
    must(setenv("FAKE_GPU", plan, 1) == 0);
    (void)snprintf(told->folder, sizeof told->folder, "/tmp/cleat-test-XXXXXX");
    must(mkdtemp(told->folder) != NULL);
    (void)snprintf(told->world, sizeof told->world, "%s/world", told->folder);
    must(setenv("FAKE_GPU_WORLD", told->world, 1) == 0);
}

/* The whole story with one signal. */
static void story(int fall)
{
    const uint32_t last = RECEIVERS - 1;
    struct cleat_nccl_config config = config_of(0);
    struct cleat_nccl_account account;

    (void)alarm(100);
    start();
    must(cleat_nccl_sender_open(block, sizeof block, &config, &sender, NULL) ==
         CLEAT_OK);
    must(run(1, RECEIVERS, RECEIVERS));
    all_have_all(RECEIVERS);
    must(!run(2, RECEIVERS, last));
    for (uint32_t i = 0; i < last; i++) {
        must(answers[i].ended == CLEAT_GROUP_FAILED);
        must(answers[i].received < BUCKETS && answers[i].right == 1);
    }
    must(run(3, last, RECEIVERS));
    all_have_all(last);
    if (fall == SIGSTOP) { must(kill(pids[last], SIGCONT) == 0); }
    must(run(4, last, RECEIVERS));
    all_have_all(last);
    cleat_nccl_sender_account(&sender, &account);
    must(account.builds == 2 && account.ids == 2);
    if (fall == SIGSTOP) { /* it has found out, and may take part again */
        take_answer(last, 2);
        must(answers[last].ended < CLEAT_OK && answers[last].right == 1);
        must(run(5, RECEIVERS, RECEIVERS));
        all_have_all(RECEIVERS);
        end(RECEIVERS);
    } else {
        must(waitpid(pids[last], NULL, 0) == pids[last]);
        end(last);
    }
}

static void begin(struct told *told)
{
    (void)fflush(stdout);
    make_world(told);
    told->pid = fork();
    must(told->pid >= 0);
    if (told->pid == 0) {
        story(told->fall);
        _exit(0);
    }
}

static int end_of(struct told *told)
{
    int ended = -1;

    must(waitpid(told->pid, &ended, 0) == told->pid);
    (void)unlink(told->world);
    (void)rmdir(told->folder);
    printf("%s: %s\n", told->sentence, ended == 0 ? "ok" : "FAILED");
    return ended != 0;
}

/* All at once: each waits for a deadline. */
int main(void)
{
    struct told all[] = {
        {.sentence = "a-killed-receiver-costs-a-deadline", .fall = SIGKILL},
        {.sentence = "a-stopped-receiver-costs-a-deadline-and-may-come-back",
         .fall = SIGSTOP},
    };
    const size_t count = sizeof all / sizeof all[0];
    int failed = 0;

    for (size_t i = 0; i < count; i++) { begin(&all[i]); }
    for (size_t i = 0; i < count; i++) { failed += end_of(&all[i]); }
    return failed != 0;
}
