/* Cleat: the store in memory, shared: between mappings and processes, by name,
 * and damaged. SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleat/digest.h"
#include "cleat/memory_store.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif

#define BLOCK_BYTES ((size_t)256 * 1024)

struct party {
    _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
    struct cleat_store store;
    struct cleat_memory_store_shared shared;
};
static struct party one;
static struct party two;
static void *block; /* shared with children */

static enum cleat_status make(struct party *party, uint32_t processes_max)
{
    struct cleat_memory_store_config config;

    memset(&config, 0, sizeof config);
    config.keys_max = 100;
    config.unit_bytes = 256;
    config.processes_max = processes_max;
    return cleat_memory_store_init(block, BLOCK_BYTES, &config, party->end,
                                   sizeof party->end, &party->store, NULL);
}

static enum cleat_status attach(struct party *party, void *at, size_t bytes)
{
    return cleat_memory_store_attach(at, bytes, party->end, sizeof party->end,
                                     &party->store, NULL);
}

static enum cleat_status act(struct party *party, uint32_t operation,
                             const char *key, void *payload, uint64_t bytes,
                             uint32_t flags)
{
    struct cleat_store_item item;
    struct cleat_store_call call = {operation, 1, &item, CLEAT_NEVER};

    memset(&item, 0, sizeof item);
    item.key = key;
    item.key_bytes = (uint32_t)strlen(key);
    item.payload = payload;
    item.bytes = bytes;
    item.flags = flags;
    (void)party->store.call(party->store.context, &call);
    return (enum cleat_status)item.status;
}

static enum cleat_status put(struct party *party, const char *key,
                             const char *text)
{
    return act(party, CLEAT_TRANSFER_DO_PUT, key, (void *)(uintptr_t)text,
               strlen(text), 0);
}

static void expect(struct party *party, const char *key, const char *text)
{
    char got[64] = {0};

    assert_int_equal(
        act(party, CLEAT_TRANSFER_DO_GET, key, got, strlen(text), 0), CLEAT_OK);
    assert_string_equal(got, text);
}

static struct cleat_memory_store_view look(struct party *party)
{
    struct cleat_memory_store_view view;

    cleat_memory_store_look(&party->store, &view);
    return view;
}

/* In place of the C library's. On Linux before 6.10 a signal ends it, and it
 * leaves nothing of what it took. */
#define ANY_BYTES ((off_t)1 << 60)

static struct {
    off_t bytes_max; /* what can be taken between two signals */
    bool in_turn;    /* one of two calls is interrupted, however small */
    uint32_t calls;
} allocation;

int posix_fallocate(int fd, off_t offset, off_t bytes)
{
    allocation.calls++;
    if (bytes > allocation.bytes_max ||
        (allocation.in_turn && allocation.calls % 2 == 1)) {
        return EINTR;
    }
    return fallocate(fd, 0, offset, bytes) == 0 ? 0 : errno;
}

static int setup(void **state)
{
    (void)state;
    memset(&one, 0, sizeof one);
    memset(&two, 0, sizeof two);
    allocation.bytes_max = ANY_BYTES;
    allocation.in_turn = false;
    allocation.calls = 0;
    block = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED || make(&one, 0) != CLEAT_OK;
}

static int teardown(void **state)
{
    (void)state;
    return munmap(block, BLOCK_BYTES);
}

/* Runs `body` in a child, until it exits or kills itself. Returns wait's
 * status. */
static int in_child(int (*body)(void))
{
    int status = 0;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) { _exit(body()); }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

/* ---- attaching ----------------------------------------------------------- */

static void a_store_is_the_same_wherever_its_block_is_mapped(void **state)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    void *here;
    void *there;

    (void)state;
    assert_int_equal(ftruncate(fd, (off_t)BLOCK_BYTES), 0);
    here = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    there = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    assert_ptr_not_equal(here, there);
    assert_int_equal(cleat_memory_store_init(here, BLOCK_BYTES, NULL, one.end,
                                             sizeof one.end, &one.store, NULL),
                     CLEAT_OK);
    assert_int_equal(attach(&two, there, BLOCK_BYTES), CLEAT_OK);
    assert_int_equal(put(&one, "a", "from here"), CLEAT_OK);
    assert_int_equal(put(&two, "b", "from there"), CLEAT_OK);
    expect(&two, "a", "from here");
    expect(&one, "b", "from there");
    assert_int_equal(put(&two, "a", "again"), CLEAT_EXISTS);
    munmap(here, BLOCK_BYTES);
    munmap(there, BLOCK_BYTES);
}

static int put_from_a_child(void)
{
    if (attach(&two, block, BLOCK_BYTES) != CLEAT_OK) { return 1; }
    if (put(&two, "child", "was here") != CLEAT_OK) { return 2; }
    if (act(&two, CLEAT_TRANSFER_DO_REMOVE, "parent", NULL, 0, 0) != CLEAT_OK) {
        return 3;
    }
    cleat_memory_store_detach(&two.store);
    return 0;
}

static void processes_share_a_store(void **state)
{
    (void)state;
    assert_int_equal(put(&one, "parent", "was here"), CLEAT_OK);
    assert_int_equal(in_child(put_from_a_child), 0);
    expect(&one, "child", "was here");
    assert_int_equal(act(&one, CLEAT_TRANSFER_DO_EXISTS, "parent", NULL, 0, 0),
                     CLEAT_NOT_FOUND);
    assert_int_equal(look(&one).processes, 1);
}

static int use_what_the_parent_has(void)
{
    char got[5];

    if (put(&one, "b", "x") != CLEAT_STATE) { return 1; }
    if (act(&one, CLEAT_TRANSFER_DO_REMOVE, "a", NULL, 0, 0) != CLEAT_STATE) {
        return 2;
    }
    if (act(&one, CLEAT_TRANSFER_DO_GET, "a", got, 5, 0) != CLEAT_OK) {
        return 3;
    }
    if (cleat_memory_store_sweep(&one.store) != 0) { return 4; }
    cleat_memory_store_detach(&one.store); /* the child's copy alone */
    return 0;
}

static void who_was_forked_attaches_anew_to_change_anything(void **state)
{
    (void)state;
    assert_int_equal(put(&one, "a", "value"), CLEAT_OK);
    assert_int_equal(in_child(use_what_the_parent_has), 0);
    assert_int_equal(look(&one).processes, 1);
    assert_int_equal(put(&one, "b", "value"), CLEAT_OK);
}

static void as_many_attach_as_it_was_made_for(void **state)
{
    static struct party more[3];

    (void)state;
    assert_int_equal(make(&one, 3), CLEAT_OK);
    assert_int_equal(attach(&more[0], block, BLOCK_BYTES), CLEAT_OK);
    assert_int_equal(attach(&more[1], block, BLOCK_BYTES), CLEAT_OK);
    assert_int_equal(attach(&more[2], block, BLOCK_BYTES), CLEAT_NO_SLOT);
    assert_null(more[2].store.call);
    cleat_memory_store_detach(&more[0].store);
    cleat_memory_store_detach(&more[0].store);
    assert_int_equal(attach(&more[2], block, BLOCK_BYTES), CLEAT_OK);
    assert_int_equal(look(&one).processes, 3);
    cleat_memory_store_detach(NULL);
}

static void what_is_no_store_is_not_attached_to(void **state)
{
    static _Alignas(64) unsigned char bytes[BLOCK_BYTES];

    (void)state;
    assert_int_equal(attach(&two, bytes, 0), CLEAT_MALFORMED);
    assert_int_equal(attach(&two, bytes, BLOCK_BYTES), CLEAT_MALFORMED);
    memcpy(bytes, block, BLOCK_BYTES);
    assert_int_equal(attach(&two, bytes, BLOCK_BYTES), CLEAT_OK);
    assert_int_equal(attach(&two, bytes, BLOCK_BYTES - 64), CLEAT_MALFORMED);
    assert_int_equal(attach(&two, bytes + 8, BLOCK_BYTES - 64), CLEAT_INVALID);
    assert_int_equal(attach(&two, NULL, BLOCK_BYTES), CLEAT_INVALID);
    assert_int_equal(cleat_memory_store_attach(bytes, BLOCK_BYTES, two.end, 255,
                                               &two.store, NULL),
                     CLEAT_TOO_SMALL);
}

static void a_damaged_head_is_found_whichever_bit_it_is(void **state)
{
    static _Alignas(64) unsigned char bytes[BLOCK_BYTES];

    (void)state;
    /* Magic, version, digest, shape (88 bytes) and namespace. */
    for (uint32_t bit = 0; bit < 8 * (16 + 72 + 8); bit++) {
        enum cleat_status status;

        memcpy(bytes, block, 4096);
        bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        status = attach(&two, bytes, BLOCK_BYTES);
        assert_int_equal(status, CLEAT_MALFORMED);
    }
}

/* ---- namespaces ---------------------------------------------------------- */

/* Where the head has the number of the namespaces, behind what is digested with
 * it: see above. */
#define DIGEST_AT 12u
#define SHAPE_AT 16u
#define NAMESPACE_AT 88u

static uint64_t number_of(const char *which)
{
    struct stat about;

    return stat(which, &about) == 0 ? about.st_ino : 0;
}

static void a_store_is_for_one_namespace_of_processes_and_of_times(void **state)
{
    static _Alignas(64) unsigned char bytes[BLOCK_BYTES];
    uint64_t name_space;

    (void)state;
    memcpy(&name_space, (unsigned char *)block + NAMESPACE_AT, 8);
    assert_int_equal(name_space >> 32, number_of("/proc/self/ns/pid"));
    assert_int_equal(name_space & UINT32_MAX, number_of("/proc/self/ns/time"));
    for (uint32_t bit = 0; bit < 64; bit++) {
        uint64_t other = name_space ^ UINT64_C(1) << bit;
        uint32_t crc;

        memcpy(bytes, block, 4096);
        memcpy(bytes + NAMESPACE_AT, &other, 8);
        crc = cleat_crc32c(0, bytes + SHAPE_AT, NAMESPACE_AT + 8 - SHAPE_AT);
        memcpy(bytes + DIGEST_AT, &crc, 4);
        assert_int_equal(attach(&two, bytes, BLOCK_BYTES), CLEAT_UNSUPPORTED);
        assert_null(two.store.call);
    }
}

#define NOT_PERMITTED 77

static int attach_unsupported(void)
{
    return attach(&two, block, BLOCK_BYTES) == CLEAT_UNSUPPORTED ? 0 : 1;
}

/* Whose children are in another time namespace. */
static int attach_from_another_time(void)
{
    int status = 1;
    pid_t pid;

    if (unshare(CLONE_NEWTIME) != 0 &&
        unshare(CLONE_NEWUSER | CLONE_NEWTIME) != 0) {
        return NOT_PERMITTED;
    }
    pid = fork();
    if (pid == 0) { _exit(attach_unsupported()); }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) { return 2; }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}

/* There the living have started at other times, and would be taken for dead. */
static void who_is_in_another_time_namespace_does_not_attach(void **state)
{
    int status = in_child(attach_from_another_time);

    (void)state;
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == NOT_PERMITTED) { skip(); }
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(look(&one).processes, 1);
}

/* ---- the dead ------------------------------------------------------------ */

static int die_putting(void)
{
    if (attach(&two, block, BLOCK_BYTES) != CLEAT_OK) { return 1; }
    (void)act(&two, CLEAT_TRANSFER_DO_PUT, "dead", (void *)(uintptr_t) "value",
              5, CLEAT_MEMORY_STORE_CRASH);
    return 2;
}

static void
what_a_dead_one_was_putting_is_not_there_and_comes_back(void **state)
{
    int status;

    (void)state;
    assert_int_equal(put(&one, "mine", "value"), CLEAT_OK);
    status = in_child(die_putting);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
    assert_int_equal(act(&one, CLEAT_TRANSFER_DO_EXISTS, "dead", NULL, 0, 0),
                     CLEAT_NOT_FOUND);
    assert_int_equal(look(&one).keys, 1);
    assert_int_equal(look(&one).held, 1);
    assert_int_equal(look(&one).units, 2); /* 64 + 128 + 5 bytes, twice */
    assert_int_equal(look(&one).processes, 2);
    assert_int_equal(put(&one, "dead", "other"), CLEAT_OK); /* not in the way */
    assert_int_equal(cleat_memory_store_sweep(&one.store), 1);
    assert_int_equal(cleat_memory_store_sweep(&one.store), 0);
    assert_int_equal(look(&one).held, 0);
    assert_int_equal(look(&one).processes, 1);
    expect(&one, "mine", "value");
    expect(&one, "dead", "other");
}

static void who_takes_a_dead_ones_place_tidies_up_after_it(void **state)
{
    (void)state;
    assert_int_equal(make(&one, 2), CLEAT_OK);
    assert_true(WIFSIGNALED(in_child(die_putting)));
    assert_int_equal(look(&one).held, 1);
    assert_int_equal(attach(&two, block, BLOCK_BYTES), CLEAT_OK);
    assert_int_equal(look(&one).held, 0);
    assert_int_equal(look(&one).units, 0);
}

static void a_full_store_takes_back_what_the_dead_hold(void **state)
{
    char key[16];

    (void)state;
    assert_true(WIFSIGNALED(in_child(die_putting)));
    for (uint32_t i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "%u", (unsigned)i);
        assert_int_equal(put(&one, key, ""), CLEAT_OK);
    }
    assert_int_equal(put(&one, "one more", ""), CLEAT_CAPACITY);
    assert_int_equal(look(&one).held, 0);
}

static pid_t zombie;

static int stand_still_putting(void)
{
    if (attach(&two, block, BLOCK_BYTES) != CLEAT_OK) { return 1; }
    raise(SIGSTOP);
    return 0;
}

static void who_is_alive_but_stopped_is_not_taken_for_dead(void **state)
{
    (void)state;
    zombie = fork();
    assert_true(zombie >= 0);
    if (zombie == 0) { _exit(stand_still_putting()); }
    assert_int_equal(waitpid(zombie, NULL, WUNTRACED), zombie);
    (void)cleat_memory_store_sweep(&one.store);
    assert_int_equal(look(&one).processes, 2);
    /* Dead, but nobody has reaped it. */
    kill(zombie, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)zombie, NULL, WEXITED | WNOWAIT), 0);
    (void)cleat_memory_store_sweep(&one.store);
    assert_int_equal(look(&one).processes, 1);
    assert_int_equal(waitpid(zombie, NULL, 0), zombie);
}

/* ---- the canary ---------------------------------------------------------- */

static int be_ready(void)
{
    struct cleat_error error;

    if (attach(&two, block, BLOCK_BYTES) != CLEAT_OK) { return 1; }
    if (two.store.ready(two.store.context, 0, &error) != CLEAT_OK) { return 2; }
    cleat_memory_store_detach(&two.store);
    return 0;
}

/* As fork, with a number that is free; -1 where that is not permitted. */
static pid_t fork_numbered(pid_t pid)
{
    uint64_t arguments[10] = {0}; /* struct clone_args */

    arguments[4] = SIGCHLD;
    arguments[8] = (uint64_t)(uintptr_t)&pid; /* set_tid, and how many */
    arguments[9] = 1;
    return (pid_t)syscall(SYS_clone3, arguments, sizeof arguments);
}

/* The key is put back as if its process had been killed before it removed it;
 * then one of the same number attaches at the same place. */
static void a_canary_left_by_the_dead_is_in_nobodys_way(void **state)
{
    const char *left;
    char key[64];
    int status = 0;
    pid_t pid = fork();
    pid_t again;

    (void)state;
    assert_true(pid >= 0);
    if (pid == 0) { _exit(be_ready()); }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    left = memmem(block, BLOCK_BYTES, "cleat/ready/", 12);
    assert_non_null(left);
    snprintf(key, sizeof key, "%s", left);
    assert_int_equal(put(&one, key, "value"), CLEAT_OK);
    (void)usleep(50000); /* so that they do not start in one clock tick */
    again = fork_numbered(pid);
    if (again == 0) { _exit(be_ready()); }
    if (again < 0) { skip(); }
    assert_int_equal(again, pid);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(look(&one).keys, 1);
    assert_int_equal(look(&one).processes, 1);
}

/* ---- by name ------------------------------------------------------------- */

static char name[CLEAT_MEMORY_STORE_NAME_MAX + 2];
static char path[128];

static void choose_name(void)
{
    snprintf(name, sizeof name, "test.%ld", (long)getpid());
    snprintf(path, sizeof path, "/dev/shm/cleat-store-%s", name);
    unlink(path);
}

static enum cleat_status open_named(struct party *party, const char *what,
                                    size_t bytes, struct cleat_error *error)
{
    return cleat_memory_store_open(what, bytes, NULL, party->end,
                                   sizeof party->end, &party->store,
                                   &party->shared, error);
}

static void a_name_is_made_found_and_removed(void **state)
{
    struct cleat_error error;
    struct stat about;

    (void)state;
    choose_name();
    assert_int_equal(open_named(&one, name, 0, &error), CLEAT_NOT_FOUND);
    assert_null(one.shared.block);
    umask(0);
    assert_int_equal(open_named(&one, name, BLOCK_BYTES, &error), CLEAT_OK);
    assert_true(one.shared.made);
    assert_int_equal(one.shared.bytes, BLOCK_BYTES);
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 07777, 0600);
    assert_int_equal(about.st_size, BLOCK_BYTES);
    assert_int_equal((uint64_t)about.st_blocks * 512, BLOCK_BYTES);
    assert_int_equal(open_named(&two, name, 2 * BLOCK_BYTES, &error), CLEAT_OK);
    assert_false(two.shared.made);
    assert_int_equal(two.shared.bytes, BLOCK_BYTES);
    assert_int_equal(put(&one, "a", "value"), CLEAT_OK);
    expect(&two, "a", "value");
    assert_int_equal(cleat_memory_store_unlink(name, &error), CLEAT_OK);
    assert_int_equal(cleat_memory_store_unlink(name, &error), CLEAT_NOT_FOUND);
    expect(&two, "a", "value"); /* who has it, keeps it */
    cleat_memory_store_close(&one.store, &one.shared);
    cleat_memory_store_close(&one.store, &one.shared);
    expect(&two, "a", "value");
    assert_int_equal(look(&two).processes, 1);
    cleat_memory_store_close(&two.store, &two.shared);
    assert_int_equal(open_named(&one, name, 0, &error), CLEAT_NOT_FOUND);
}

static void a_name_that_could_lead_elsewhere_is_refused(void **state)
{
    static const char *const bad[] = {
        "",    ".",   "..",       "a/b", "/a",   "../a", ".hidden",
        "a b", "a\n", "\303\244", "a*b", "a\\b", "~a",   "a:b"};
    struct cleat_error error;

    (void)state;
    for (uint32_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(open_named(&one, bad[i], BLOCK_BYTES, &error),
                         CLEAT_INVALID);
        assert_int_equal(cleat_memory_store_unlink(bad[i], &error),
                         CLEAT_INVALID);
    }
    assert_int_equal(open_named(&one, NULL, BLOCK_BYTES, &error),
                     CLEAT_INVALID);
    memset(name, 'n', sizeof name - 1);
    name[CLEAT_MEMORY_STORE_NAME_MAX + 1] = '\0';
    assert_int_equal(open_named(&one, name, BLOCK_BYTES, &error),
                     CLEAT_INVALID);
    name[CLEAT_MEMORY_STORE_NAME_MAX] = '\0';
    assert_int_equal(open_named(&one, name, 0, &error), CLEAT_NOT_FOUND);
}

static void expect_refused(enum cleat_status status)
{
    struct cleat_error error;
    struct stat before;
    struct stat after;

    assert_int_equal(lstat(path, &before), 0);
    assert_int_equal(open_named(&one, name, BLOCK_BYTES, &error), status);
    assert_null(one.shared.block);
    assert_null(one.store.call);
    assert_non_null(strstr(error.text, path));
    assert_int_equal(lstat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_int_equal(before.st_size, after.st_size);
}

static void a_file_that_is_not_ours_alone_is_left_alone(void **state)
{
    struct cleat_error error;
    char target[160];
    int fd;

    (void)state;
    choose_name();
    snprintf(target, sizeof target, "%s.target", path);
    fd = open(target, O_CREAT | O_RDWR, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(symlink(target, path), 0);
    expect_refused(CLEAT_PERMANENT);
    assert_int_equal(cleat_memory_store_unlink(name, &error), CLEAT_PERMANENT);
    unlink(path);
    unlink(target);
    assert_int_equal(mkdir(path, 0700), 0);
    expect_refused(CLEAT_PERMANENT);
    assert_int_equal(cleat_memory_store_unlink(name, &error), CLEAT_PERMANENT);
    rmdir(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_refused(CLEAT_PERMANENT);
    unlink(path);
    fd = open(path, O_CREAT | O_RDWR, 0600);
    assert_int_equal(fchmod(fd, 0620), 0); /* others could write */
    expect_refused(CLEAT_PERMANENT);
    assert_int_equal(cleat_memory_store_unlink(name, &error), CLEAT_PERMANENT);
    assert_int_equal(fchmod(fd, 0600), 0);
    expect_refused(CLEAT_MALFORMED); /* empty */
    assert_int_equal(ftruncate(fd, 100), 0);
    expect_refused(CLEAT_MALFORMED); /* shorter than a head */
    assert_int_equal(ftruncate(fd, 8192), 0);
    expect_refused(CLEAT_MALFORMED); /* zeros */
    close(fd);
    assert_int_equal(cleat_memory_store_unlink(name, &error), CLEAT_OK);
}

static void a_file_that_was_cut_off_is_not_attached_to(void **state)
{
    struct cleat_error error;

    (void)state;
    choose_name();
    assert_int_equal(open_named(&one, name, BLOCK_BYTES, &error), CLEAT_OK);
    cleat_memory_store_close(&one.store, &one.shared);
    assert_int_equal(truncate(path, (off_t)BLOCK_BYTES - 4096), 0);
    expect_refused(CLEAT_MALFORMED);
    assert_int_equal(cleat_memory_store_unlink(name, &error), CLEAT_OK);
}

static void more_than_there_is_is_refused_and_nothing_left(void **state)
{
    struct cleat_error error;

    (void)state;
    choose_name();
    assert_int_equal(open_named(&one, name, (size_t)1 << 50, &error),
                     CLEAT_CAPACITY);
    assert_int_equal(allocation.calls, 1); /* not piece by piece till full */
    assert_int_not_equal(error.port_code, 0);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(open_named(&one, name, SIZE_MAX, &error), CLEAT_INVALID);
    assert_int_equal(open_named(&one, name, 64, &error), CLEAT_TOO_SMALL);
    assert_int_equal(access(path, F_OK), -1);
}

static void
signals_that_keep_coming_do_not_keep_it_from_being_made(void **state)
{
    const size_t bytes = ((size_t)5 << 20) + 4096;
    struct cleat_error error;
    struct stat about;

    (void)state;
    choose_name();
    allocation.bytes_max = 300000;
    allocation.in_turn = true;
    assert_int_equal(open_named(&one, name, bytes, &error), CLEAT_OK);
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_size, bytes);
    assert_int_equal((uint64_t)about.st_blocks * 512, bytes);
    assert_int_equal(put(&one, "a", "value"), CLEAT_OK);
    expect(&one, "a", "value");
    cleat_memory_store_close(&one.store, &one.shared);
    assert_int_equal(cleat_memory_store_unlink(name, &error), CLEAT_OK);
}

static void if_nothing_can_be_taken_between_signals_it_is_said(void **state)
{
    struct cleat_error error;

    (void)state;
    choose_name();
    allocation.bytes_max = 0;
    assert_int_equal(open_named(&one, name, (size_t)1 << 20, &error), CLEAT_IO);
    assert_int_equal(error.port_code, EINTR);
    assert_null(one.store.call);
    assert_int_equal(access(path, F_OK), -1);
}

static int open_at_once(void)
{
    struct cleat_error error;

    /* Each opens, makes it where it must, leaves a key, and closes. */
    for (uint32_t i = 0; i < 12; i++) {
        char key[48];

        if (open_named(&two, name, BLOCK_BYTES, &error) != CLEAT_OK) {
            return 1;
        }
        snprintf(key, sizeof key, "%ld/%u", (long)getpid(), (unsigned)i);
        if (put(&two, key, "value") != CLEAT_OK) { return 2; }
        cleat_memory_store_close(&two.store, &two.shared);
    }
    return 0;
}

static void of_those_who_make_it_at_once_one_does(void **state)
{
    pid_t pids[4];
    struct cleat_error error;

    (void)state;
    choose_name();
    for (uint32_t i = 0; i < 4; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) { _exit(open_at_once()); }
    }
    for (uint32_t i = 0; i < 4; i++) {
        int status = 1;

        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(open_named(&one, name, 0, &error), CLEAT_OK);
    assert_int_equal(look(&one).keys, 4 * 12);
    cleat_memory_store_close(&one.store, &one.shared);
    assert_int_equal(cleat_memory_store_unlink(name, &error), CLEAT_OK);
}

/* ---- damage -------------------------------------------------------------- */

static uint64_t random_state = 88172645463325252u;

static uint64_t draw(uint64_t below)
{
    random_state ^= random_state << 13; /* Marsaglia's xorshift64 */
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

#define DAMAGED_BYTES ((size_t)64 * 1024)

/* A block between two pages that nobody may touch. */
static unsigned char *guarded(void)
{
    unsigned char *at = mmap(NULL, DAMAGED_BYTES + 8192, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(at, MAP_FAILED);
    assert_int_equal(mprotect(at + 4096, DAMAGED_BYTES, PROT_READ | PROT_WRITE),
                     0);
    return at + 4096;
}

static void key_of(uint32_t i, char *key)
{
    snprintf(key, 32, "%s%u", i % 3 ? "k" : "a longer key ", (unsigned)i);
}

static size_t size_of(uint32_t i)
{
    return i % 5 == 0 ? 0 : (size_t)i * 97 % 3000;
}

static void fill(unsigned char *bytes, uint32_t i)
{
    for (size_t k = 0; k < size_of(i); k++) {
        bytes[k] = (unsigned char)(i * 41 + k);
    }
}

/* Every operation on every key. What is got is right. */
static void use_damaged(struct party *party)
{
    static unsigned char bytes[3000];
    static unsigned char got[3000];
    char key[32];

    for (uint32_t i = 0; i < 24; i++) {
        key_of(i, key);
        fill(bytes, i);
        if (act(party, CLEAT_TRANSFER_DO_GET, key, got, size_of(i), 0) ==
            CLEAT_OK) {
            assert_memory_equal(got, bytes, size_of(i));
        }
        (void)act(party, CLEAT_TRANSFER_DO_SIZE, key, NULL, 0, 0);
        (void)act(party, CLEAT_TRANSFER_DO_COMPARE, key, bytes, size_of(i), 0);
        (void)act(party, CLEAT_TRANSFER_DO_GET, key, got, 128 + size_of(i),
                  CLEAT_STORE_RAW);
    }
    (void)look(party);
    (void)cleat_memory_store_sweep(&party->store);
    for (uint32_t i = 0; i < 24; i++) {
        key_of(i, key);
        fill(bytes, i);
        if (i % 2) {
            (void)act(party, CLEAT_TRANSFER_DO_REMOVE, key, NULL, 0, 0);
        }
        (void)act(party, CLEAT_TRANSFER_DO_PUT, key, bytes, size_of(i), 0);
    }
    (void)party->store.ready(party->store.context, 0, NULL);
}

static void a_damaged_block_leads_nobody_out_of_it(void **state)
{
    static _Alignas(64) unsigned char sound[DAMAGED_BYTES];
    static unsigned char bytes[3000];
    unsigned char *at = guarded();
    struct cleat_memory_store_config config;
    char key[32];
    uint32_t attached = 0;

    (void)state;
    memset(&config, 0, sizeof config);
    config.keys_max = 30;
    config.unit_bytes = 256;
    config.processes_max = 4;
    assert_int_equal(cleat_memory_store_init(sound, sizeof sound, &config,
                                             one.end, sizeof one.end,
                                             &one.store, NULL),
                     CLEAT_OK);
    for (uint32_t i = 0; i < 20; i++) {
        key_of(i, key);
        fill(bytes, i);
        assert_int_equal(
            act(&one, CLEAT_TRANSFER_DO_PUT, key, bytes, size_of(i), 0),
            CLEAT_OK);
    }
    for (uint32_t round = 0; round < 6000; round++) {
        /* The index is at the beginning: most flips go there. */
        size_t range = draw(4) ? 4096 : DAMAGED_BYTES;
        uint32_t flips = 1 + (uint32_t)draw(8);
        bool before = draw(2) != 0;

        memcpy(at, sound, DAMAGED_BYTES);
        if (before) { assert_int_equal(attach(&two, at, DAMAGED_BYTES), 0); }
        for (uint32_t i = 0; i < flips; i++) {
            size_t where = draw(range / 8) * 8;
            uint64_t word;

            memcpy(&word, at + where, 8);
            switch (draw(4)) {
            case 0: word ^= UINT64_C(1) << draw(64); break;
            case 1: word = draw(UINT64_MAX); break;
            case 2: word = UINT64_MAX; break;
            default: word += draw(64); break;
            }
            memcpy(at + where, &word, 8);
        }
        if (!before && attach(&two, at, DAMAGED_BYTES) != CLEAT_OK) {
            continue;
        }
        attached++;
        use_damaged(&two);
    }
    assert_true(attached > 3000);
    munmap(at - 4096, DAMAGED_BYTES + 8192);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_store_is_the_same_wherever_its_block_is_mapped),
        TEST(processes_share_a_store),
        TEST(who_was_forked_attaches_anew_to_change_anything),
        TEST(as_many_attach_as_it_was_made_for),
        TEST(what_is_no_store_is_not_attached_to),
        TEST(a_damaged_head_is_found_whichever_bit_it_is),
        TEST(a_store_is_for_one_namespace_of_processes_and_of_times),
        TEST(who_is_in_another_time_namespace_does_not_attach),
        TEST(what_a_dead_one_was_putting_is_not_there_and_comes_back),
        TEST(who_takes_a_dead_ones_place_tidies_up_after_it),
        TEST(a_full_store_takes_back_what_the_dead_hold),
        TEST(who_is_alive_but_stopped_is_not_taken_for_dead),
        TEST(a_canary_left_by_the_dead_is_in_nobodys_way),
        TEST(a_name_is_made_found_and_removed),
        TEST(a_name_that_could_lead_elsewhere_is_refused),
        TEST(a_file_that_is_not_ours_alone_is_left_alone),
        TEST(a_file_that_was_cut_off_is_not_attached_to),
        TEST(more_than_there_is_is_refused_and_nothing_left),
        TEST(signals_that_keep_coming_do_not_keep_it_from_being_made),
        TEST(if_nothing_can_be_taken_between_signals_it_is_said),
        TEST(of_those_who_make_it_at_once_one_does),
        TEST(a_damaged_block_leads_nobody_out_of_it),
    };

    return cmocka_run_group_tests_name("memory_store_shared", tests, NULL,
                                       NULL);
}
