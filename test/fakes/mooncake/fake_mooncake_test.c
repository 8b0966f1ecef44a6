/* Cleat: is the fake Mooncake Store as the real one was measured to be.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each probe that was made on the real library and master (Mooncake 3b5a594,
 * August 2026, loopback TCP) is a test here, with the numbers that came of it.
 * Client A owns a segment; others have none. Times are equalities, in the
 * cluster's own time. What the fake can do to order comes after that. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "port/mooncake/abi.h"
#include "test/fakes/mooncake/control.h"

#define MIB ((size_t)1 << 20)
#define UNTOUCHED INT32_MIN

struct library {
#define FUNCTION(result, name, parameters) mooncake_store_##name##_fn *name;
    CLEAT_MOONCAKE_FUNCTIONS(FUNCTION)
    CLEAT_MOONCAKE_NEWER(FUNCTION)
#undef FUNCTION
};

static struct library lib;
static char folder[] = "/tmp/cleat-fake-XXXXXX";
static char cluster[64];
static struct fake_mooncake *fake;

/* ---- what tests share ---------------------------------------------------- */

static void find(void *handle, const char *name, void *function)
{
    void *found = dlsym(handle, name);

    memcpy(function, &found, sizeof found);
}

static struct library load(const char *path)
{
    struct library loaded;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (handle == NULL) {
        fail_msg("%s", dlerror());
        abort();
    }
#define FUNCTION(result, name, parameters) \
    find(handle, "mooncake_store_" #name, &loaded.name);
    CLEAT_MOONCAKE_FUNCTIONS(FUNCTION)
    CLEAT_MOONCAKE_NEWER(FUNCTION)
#undef FUNCTION
    return loaded;
}

/* A library of its own, which reads the environment afresh. */
static struct library load_afresh(void)
{
    static int number;
    char path[128];
    char command[8192];

    (void)snprintf(path, sizeof path, "%s/%d.so", folder, number++);
    (void)snprintf(command, sizeof command, "cp '%s' '%s'",
                   FAKE_MOONCAKE_LIBRARY, path);
    assert_int_equal(system(command), 0);
    return load(path);
}

static int set_up(const struct library *library, mooncake_store_t store,
                  uint64_t segment_bytes)
{
    return library->setup(store, "127.0.0.1:12400", "P2PHANDSHAKE",
                          segment_bytes, MIB, "tcp", "", "127.0.0.1:50051");
}

static mooncake_store_t client_of(const struct library *library,
                                  uint64_t segment_bytes)
{
    mooncake_store_t store = library->create();

    assert_non_null(store);
    assert_int_equal(set_up(library, store, segment_bytes), 0);
    return store;
}

static mooncake_store_t client(uint64_t segment_bytes)
{
    return client_of(&lib, segment_bytes);
}

static int put(mooncake_store_t store, const char *key, const char *text)
{
    return lib.put(store, key, text, strlen(text), NULL);
}

/* As the real put_from has it: not const. */
static int put_from(mooncake_store_t store, const char *key, void *bytes,
                    size_t count)
{
    return lib.put_from(store, key, bytes, count, NULL);
}

static void assert_holds(mooncake_store_t store, const char *key,
                         const char *text)
{
    char bytes[256];

    memset(bytes, '#', sizeof bytes);
    assert_int_equal(lib.get_into(store, key, bytes, sizeof bytes),
                     strlen(text));
    assert_memory_equal(bytes, text, strlen(text));
    assert_int_equal(bytes[strlen(text)], '#');
}

static int64_t get_code(mooncake_store_t store, const char *key)
{
    char bytes[256];
    int64_t code;

    memset(bytes, '#', sizeof bytes);
    code = lib.get_into(store, key, bytes, sizeof bytes);
    for (size_t i = 0; code < 0 && i < sizeof bytes; i++) {
        assert_int_equal(bytes[i], '#');
    }
    return code;
}

static uint64_t now(void)
{
    return fake_mooncake_now_ms(fake);
}

static void add_rule(enum fake_mooncake_operation operation,
                     enum fake_mooncake_action action, const char *key,
                     uint32_t times, int32_t code)
{
    struct fake_mooncake_rule rule;

    memset(&rule, 0, sizeof rule);
    rule.operation = (uint32_t)operation;
    rule.action = (uint32_t)action;
    rule.key = key;
    rule.times = times;
    rule.code = code;
    (void)fake_mooncake_rule(fake, &rule);
}

/* A process that owns a segment and does nothing; it is client 0 where nobody
 * came before it. */
static pid_t owner_process(uint64_t segment_bytes)
{
    int ends[2];
    char byte;
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        mooncake_store_t store = lib.create();

        byte = set_up(&lib, store, segment_bytes) == 0 ? 'y' : 'n';
        if (write(ends[1], &byte, 1) != 1) { _exit(1); }
        for (;;) { pause(); }
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    close(ends[0]);
    return pid;
}

static void end_process(pid_t pid)
{
    int status;

    (void)kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
}

/* Stopped, and everybody can see that it is. */
static void stop_process(pid_t pid)
{
    int status;

    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
}

static void continue_process(pid_t pid)
{
    int status;

    assert_int_equal(kill(pid, SIGCONT), 0);
    assert_int_equal(waitpid(pid, &status, WCONTINUED), pid);
    assert_true(WIFCONTINUED(status));
}

/* How a process ended that ran this. Its standard error is not ours. */
static int status_of(void (*work)(void))
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        (void)signal(SIGSEGV, SIG_DFL);
        (void)signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) == NULL) { _exit(3); }
        work();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void assert_killed_by(int signal_number, void (*work)(void))
{
    int status = status_of(work);

    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), signal_number);
}

static void begin_with(const struct fake_mooncake_config *config)
{
    if (fake != NULL) { fake_mooncake_end(fake, true); }
    fake = fake_mooncake_start(cluster, config);
}

static int begin(void **state)
{
    (void)state;
    begin_with(NULL);
    return 0;
}

static int finish(void **state)
{
    (void)state;
    fake_mooncake_end(fake, true);
    fake = NULL;
    return 0;
}

/* ---- symbols ------------------------------------------------------------- */

static void collect_symbols(const char *path, char *text, size_t bytes)
{
    char command[8192];
    FILE *pipe_of_nm;
    size_t count;

    (void)snprintf(command, sizeof command,
                   "nm -D --defined-only '%s' | awk '{print $3}' | "
                   "sed 's/^mooncake_store_//' | LC_ALL=C sort | tr '\\n' ' '",
                   path);
    pipe_of_nm = popen(command, "r");
    assert_non_null(pipe_of_nm);
    count = fread(text, 1, bytes - 1, pipe_of_nm);
    text[count] = '\0';
    assert_int_equal(pclose(pipe_of_nm), 0);
}

static void exports_exactly_the_19_functions(void **state)
{
    char text[4096];

    (void)state;
    collect_symbols(FAKE_MOONCAKE_LIBRARY, text, sizeof text);
    assert_string_equal(
        text, "batch_get_into batch_is_exist batch_put_from create destroy "
              "get_hostname get_into get_size health_check init_all is_exist "
              "put put_from register_buffer remove remove_all "
              "remove_by_regex setup unregister_buffer ");
}

static void the_variants_lack_a_function_or_have_more(void **state)
{
    char text[4096];

    (void)state;
    collect_symbols(FAKE_MOONCAKE_LIBRARY_MISSING, text, sizeof text);
    assert_null(strstr(text, "batch_is_exist"));
    assert_non_null(strstr(text, "batch_get_into"));
    collect_symbols(FAKE_MOONCAKE_LIBRARY_NEEDED, text, sizeof text);
    assert_string_equal(text,
                        "batch_get_into batch_is_exist batch_put_from create "
                        "destroy get_size register_buffer remove setup "
                        "unregister_buffer ");
    collect_symbols(FAKE_MOONCAKE_LIBRARY_NEWER, text, sizeof text);
    assert_non_null(strstr(text, "batch_remove"));
    assert_non_null(strstr(text, "batch_upsert_from"));
    assert_non_null(strstr(text, "batch_is_exist"));
}

/* ---- values -------------------------------------------------------------- */

static void setup_put_and_get_work(void **state)
{
    mooncake_store_t a = client(MIB);

    (void)state;
    assert_int_equal(put(a, "k", "hello, world!"), 0);
    assert_holds(a, "k", "hello, world!");
    assert_int_equal(lib.get_size(a, "k"), 13);
    assert_int_equal(lib.is_exist(a, "k"), 1);
    lib.destroy(a);
}

static void a_put_of_a_key_that_is_there_says_0_and_keeps_the_old(void **state)
{
    mooncake_store_t a = client(MIB);
    char same[] = "HELLO, WORLD!";
    char longer[] = "a longer value than before";
    const char *keys[2] = {"k", "k2"};
    void *buffers[2] = {same, longer};
    size_t sizes[2] = {13, sizeof longer - 1};
    int results[2] = {UNTOUCHED, UNTOUCHED};

    (void)state;
    assert_int_equal(put(a, "k", "hello, world!"), 0);
    assert_int_equal(put(a, "k", same), 0);
    assert_holds(a, "k", "hello, world!");
    assert_int_equal(put(a, "k", longer), 0);
    assert_int_equal(put_from(a, "k", longer, sizeof longer - 1), 0);
    assert_int_equal(lib.get_size(a, "k"), 13);
    assert_int_equal(put(a, "k2", "other"), 0);
    assert_int_equal(
        lib.batch_put_from(a, keys, buffers, sizes, 2, NULL, results), 0);
    assert_int_equal(results[0], 0);
    assert_int_equal(results[1], 0);
    assert_holds(a, "k", "hello, world!");
    assert_holds(a, "k2", "other");
    lib.destroy(a);
}

static void what_is_missing_is_0_and_minus_704(void **state)
{
    mooncake_store_t a = client(MIB);

    (void)state;
    assert_int_equal(lib.is_exist(a, "nothing"), 0);
    assert_int_equal(lib.get_size(a, "nothing"), -704);
    assert_int_equal(get_code(a, "nothing"), -704);
    lib.destroy(a);
}

static void a_buffer_that_is_too_small_is_minus_600_and_untouched(void **state)
{
    mooncake_store_t a = client(MIB);
    char bytes[4] = "####";

    (void)state;
    assert_int_equal(put(a, "k", "hello, world!"), 0);
    assert_int_equal(lib.get_into(a, "k", bytes, 4), -600);
    assert_memory_equal(bytes, "####", 4);
    lib.destroy(a);
}

static void a_larger_buffer_gets_13_and_its_rest_is_untouched(void **state)
{
    mooncake_store_t a = client(MIB);
    char bytes[64];

    (void)state;
    memset(bytes, '#', sizeof bytes);
    assert_int_equal(put(a, "k", "hello, world!"), 0);
    assert_int_equal(lib.get_into(a, "k", bytes, 64), 13);
    assert_memory_equal(bytes, "hello, world!#", 14);
    assert_int_equal(bytes[63], '#');
    lib.destroy(a);
}

static void a_batch_get_of_small_and_missing_says_so_of_each(void **state)
{
    mooncake_store_t a = client(MIB);
    char bytes[2][4] = {"####", "####"};
    const char *keys[2] = {"k", "missing"};
    void *buffers[2] = {bytes[0], bytes[1]};
    size_t sizes[2] = {4, 4};
    int64_t results[2] = {UNTOUCHED, UNTOUCHED};

    (void)state;
    assert_int_equal(put(a, "k", "hello, world!"), 0);
    assert_int_equal(lib.batch_get_into(a, keys, buffers, sizes, 2, results),
                     0);
    assert_int_equal(results[0], -600);
    assert_int_equal(results[1], -704);
    assert_memory_equal(bytes, "########", 8);
    lib.destroy(a);
}

static void an_empty_value_cannot_be_stored(void **state)
{
    mooncake_store_t a = client(MIB);
    char byte = 'x';
    const char *keys[2] = {"empty", "full"};
    void *buffers[2] = {&byte, &byte};
    size_t sizes[2] = {0, 1};
    int results[2] = {UNTOUCHED, UNTOUCHED};

    (void)state;
    assert_int_equal(lib.put(a, "empty", "", 0, NULL), -600);
    assert_int_equal(put_from(a, "empty", &byte, 0), 0);
    assert_int_equal(lib.is_exist(a, "empty"), 0);
    assert_int_equal(
        lib.batch_put_from(a, keys, buffers, sizes, 2, NULL, results), 0);
    assert_int_equal(results[0], -600);
    assert_int_equal(results[1], 0);
    assert_int_equal(lib.is_exist(a, "empty"), 0);
    assert_holds(a, "full", "x");
    lib.destroy(a);
}

static void a_get_into_no_bytes_is_minus_600(void **state)
{
    mooncake_store_t a = client(MIB);
    char byte = '#';

    (void)state;
    assert_int_equal(put(a, "k", "x"), 0);
    assert_int_equal(lib.get_into(a, "k", &byte, 0), -600);
    assert_int_equal(byte, '#');
    lib.destroy(a);
}

static void of_a_key_put_twice_in_a_batch_the_last_wins(void **state)
{
    mooncake_store_t a = client(MIB);
    char first[] = "first";
    char second[] = "second";
    const char *keys[2] = {"k", "k"};
    void *buffers[2] = {first, second};
    size_t sizes[2] = {5, 6};
    int results[2] = {UNTOUCHED, UNTOUCHED};

    (void)state;
    assert_int_equal(
        lib.batch_put_from(a, keys, buffers, sizes, 2, NULL, results), 0);
    assert_int_equal(results[0], 0);
    assert_int_equal(results[1], 0);
    assert_holds(a, "k", "second");
    lib.destroy(a);
}

static void of_a_key_got_thrice_in_a_batch_one_buffer_is_filled(void **state)
{
    mooncake_store_t a = client(MIB);
    char bytes[4][16];
    const char *keys[4] = {"k1", "k1", "okk", "k1"};
    void *buffers[4] = {bytes[0], bytes[1], bytes[2], bytes[3]};
    size_t sizes[4] = {16, 16, 16, 16};
    int64_t results[4];

    (void)state;
    memset(bytes, '#', sizeof bytes);
    assert_int_equal(put(a, "k1", "hello, world!"), 0);
    assert_int_equal(put(a, "okk", "okay"), 0);
    assert_int_equal(lib.batch_get_into(a, keys, buffers, sizes, 4, results),
                     0);
    assert_int_equal(results[0], 13);
    assert_int_equal(results[1], 13);
    assert_int_equal(results[2], 4);
    assert_int_equal(results[3], 13);
    assert_memory_equal(bytes[0], "################", 16);
    assert_memory_equal(bytes[1], "################", 16);
    assert_memory_equal(bytes[2], "okay############", 16);
    assert_memory_equal(bytes[3], "hello, world!###", 16);
    lib.destroy(a);
}

static void a_key_is_not_empty_and_may_have_100000_bytes(void **state)
{
    static char key[100001];
    mooncake_store_t a = client(MIB);

    (void)state;
    memset(key, 'k', 100000);
    assert_int_equal(put(a, "", "x"), -600);
    assert_int_equal(put(a, key, "long"), 0);
    assert_holds(a, key, "long");
    lib.destroy(a);
}

static void no_replica_is_minus_600_and_two_on_one_segment_work(void **state)
{
    mooncake_store_t a = client(MIB);
    mooncake_replicate_config_t config = {0, 0, 0, NULL, 0};
    struct fake_mooncake_facts facts;

    (void)state;
    assert_int_equal(lib.put(a, "none", "x", 1, &config), -600);
    fake_mooncake_facts(fake, &facts);
    assert_int_equal(facts.replicas_none, 1);
    config.replica_num = 2;
    assert_int_equal(lib.put(a, "two", "x", 1, &config), 0);
    assert_holds(a, "two", "x");
    lib.destroy(a);
}

static void a_lease_is_in_the_way_of_a_remove_without_force(void **state)
{
    mooncake_store_t a = client(MIB);

    (void)state;
    assert_int_equal(put(a, "k", "x"), 0);
    assert_int_equal(get_code(a, "k"), 1);
    assert_int_equal(lib.remove(a, "k", 0), -706);
    assert_int_equal(lib.remove(a, "k", 1), 0);
    assert_int_equal(lib.remove(a, "k", 1), -704);
    assert_int_equal(put(a, "k", "new"), 0);
    assert_holds(a, "k", "new");

    assert_int_equal(put(a, "asked", "x"), 0);
    assert_int_equal(lib.is_exist(a, "asked"), 1);
    assert_int_equal(lib.remove(a, "asked", 0), -706);
    assert_int_equal(put(a, "sized", "x"), 0);
    assert_int_equal(lib.get_size(a, "sized"), 1);
    assert_int_equal(lib.remove(a, "sized", 0), -706);
    fake_mooncake_advance(fake, 10000);
    assert_int_equal(lib.remove(a, "sized", 0), 0);
    lib.destroy(a);
}

static void buffers_are_registered_once_and_apart(void **state)
{
    mooncake_store_t a = client(MIB);
    char bytes[64];
    struct fake_mooncake_facts facts;

    (void)state;
    assert_int_equal(lib.register_buffer(a, bytes, 32), 0);
    assert_int_equal(lib.register_buffer(a, bytes, 32), -600);
    assert_int_equal(lib.register_buffer(a, bytes + 16, 32), -600);
    assert_int_equal(lib.register_buffer(a, bytes + 32, 32), 0);
    fake_mooncake_facts(fake, &facts);
    assert_int_equal(facts.registered, 2);
    assert_int_equal(lib.unregister_buffer(a, bytes), 0);
    assert_int_equal(lib.unregister_buffer(a, bytes), -600);
    assert_int_equal(lib.register_buffer(a, bytes, 0), -1);
    fake_mooncake_facts(fake, &facts);
    assert_int_equal(facts.registered, 1);
    lib.destroy(a);
    fake_mooncake_facts(fake, &facts);
    assert_int_equal(facts.registered, 0);
}

static void what_is_larger_than_a_segment_is_minus_200_at_once(void **state)
{
    static char bytes[3 * MIB];
    mooncake_store_t a = client(2 * MIB);
    uint64_t before = now();

    (void)state;
    assert_int_equal(put_from(a, "large", bytes, sizeof bytes), -200);
    assert_int_equal(now(), before);
    lib.destroy(a);
}

static void a_put_by_copy_must_fit_the_local_buffer(void **state)
{
    static char bytes[2 * MIB];
    mooncake_store_t a = client(4 * MIB); /* and a local buffer of 1 MiB */

    (void)state;
    assert_int_equal(lib.put(a, "copied", bytes, sizeof bytes, NULL), -600);
    assert_int_equal(put_from(a, "in place", bytes, sizeof bytes), 0);
    lib.destroy(a);
}

/* 2000 keys of 16 bytes, each with its number in it. */
struct many {
    char names[2000][16];
    const char *keys[2000];
    void *buffers[2000];
    size_t sizes[2000];
    int put[2000];
    int64_t got[2000];
    uint64_t values[2000][2];
};

static struct many *many(void)
{
    static struct many all;

    for (uint64_t i = 0; i < 2000; i++) {
        (void)snprintf(all.names[i], 16, "key-%u", (unsigned)i);
        all.keys[i] = all.names[i];
        all.values[i][0] = i;
        all.values[i][1] = ~i;
        all.buffers[i] = all.values[i];
        all.sizes[i] = 16;
        all.put[i] = UNTOUCHED;
        all.got[i] = UNTOUCHED;
    }
    return &all;
}

static void a_batch_may_have_2000_keys_or_none(void **state)
{
    mooncake_store_t a = client(MIB);
    struct many *all = many();

    (void)state;
    assert_int_equal(lib.batch_put_from(a, all->keys, all->buffers, all->sizes,
                                        2000, NULL, all->put),
                     0);
    memset(all->values, 0, sizeof all->values);
    assert_int_equal(lib.batch_get_into(a, all->keys, all->buffers, all->sizes,
                                        2000, all->got),
                     0);
    for (uint64_t i = 0; i < 2000; i++) {
        assert_int_equal(all->put[i], 0);
        assert_int_equal(all->got[i], 16);
        assert_int_equal(all->values[i][0], i);
    }
    assert_int_equal(lib.batch_put_from(a, all->keys, all->buffers, all->sizes,
                                        0, NULL, all->put),
                     0);
    assert_int_equal(
        lib.batch_get_into(a, all->keys, all->buffers, all->sizes, 0, all->got),
        0);
    assert_int_equal(lib.batch_is_exist(a, all->keys, 0, all->put), 0);
    lib.destroy(a);
}

static void a_large_put_that_fails_evicts_what_was_put_before(void **state)
{
    static char large[MIB];
    mooncake_store_t a = client(MIB);
    mooncake_replicate_config_t pinned = {1, 0, 1, NULL, 0};
    struct many *all = many();
    int gone = 0;

    (void)state;
    assert_int_equal(lib.put_from(a, "pinned", large, 16, &pinned), 0);
    assert_int_equal(lib.batch_put_from(a, all->keys, all->buffers, all->sizes,
                                        2000, NULL, all->put),
                     0);
    assert_int_equal(put_from(a, "large", large, sizeof large), -200);
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(all->put[i], 0);
        gone += lib.get_size(a, all->keys[i]) == -704;
    }
    assert_int_equal(gone, 101); /* 5 % of 2001 */
    assert_int_equal(lib.is_exist(a, "pinned"), 1);

    /* Everything that is left has just been looked at. */
    assert_int_equal(put_from(a, "large", large, sizeof large), -200);
    gone = 0;
    for (int i = 0; i < 2000; i++) {
        gone += lib.is_exist(a, all->keys[i]) == 0;
    }
    assert_int_equal(gone, 101);
    lib.destroy(a);
}

static void memory_that_is_not_registered_works_over_tcp(void **state)
{
    pid_t owner = owner_process(MIB);
    mooncake_store_t b = client(0);
    char bytes[] = "from afar";

    (void)state;
    assert_int_equal(put_from(b, "k", bytes, 9), 0);
    assert_holds(b, "k", "from afar");
    lib.destroy(b);
    end_process(owner);
}

static void a_batch_of_400_large_values_goes_and_comes(void **state)
{
    static unsigned char bytes[400][16384];
    mooncake_store_t a = client(16 * MIB);
    mooncake_store_t b = client(0);
    struct many *all = many();

    (void)state;
    for (int i = 0; i < 400; i++) {
        memset(bytes[i], i & 255, sizeof bytes[i]);
        all->buffers[i] = bytes[i];
        all->sizes[i] = sizeof bytes[i];
    }
    assert_int_equal(lib.batch_put_from(b, all->keys, all->buffers, all->sizes,
                                        400, NULL, all->put),
                     0);
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(lib.batch_get_into(b, all->keys, all->buffers, all->sizes,
                                        400, all->got),
                     0);
    for (int i = 0; i < 400; i++) {
        assert_int_equal(all->put[i], 0);
        assert_int_equal(all->got[i], sizeof bytes[i]);
        assert_int_equal(bytes[i][0], i & 255);
        assert_int_equal(bytes[i][sizeof bytes[i] - 1], i & 255);
    }
    lib.destroy(b);
    lib.destroy(a);
}

struct worker {
    pthread_t thread;
    mooncake_store_t store;
    int number;
    int wrong;
};

static void *work(void *argument)
{
    struct worker *worker = argument;

    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < 100; i++) {
            char key[48];
            uint64_t value[2] = {(uint64_t)i, (uint64_t)worker->number};
            uint64_t got[2] = {0, 0};

            (void)snprintf(key, sizeof key, "%d/%d/%d", worker->number, round,
                           i);
            worker->wrong += put_from(worker->store, key, value, 16) != 0;
            worker->wrong += lib.get_into(worker->store, key, got, 16) != 16;
            worker->wrong += memcmp(value, got, 16) != 0;
        }
    }
    return NULL;
}

static void four_threads_share_one_handle(void **state)
{
    mooncake_store_t a = client(8 * MIB);
    struct worker workers[4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        workers[i].store = a;
        workers[i].number = i;
        workers[i].wrong = 0;
        assert_int_equal(
            pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    lib.destroy(a);
}

/* ---- owners and writers that are lost ------------------------------------ */

static void an_owner_that_is_stopped_costs_30_s_and_its_data(void **state)
{
    pid_t owner = owner_process(MIB);
    mooncake_store_t b = client(0);
    uint64_t before;

    (void)state;
    assert_int_equal(put(b, "k", "x"), 0);
    stop_process(owner);
    before = now();
    assert_int_equal(get_code(b, "k"), -800);
    assert_int_equal(now() - before, 30000);
    continue_process(owner);
    assert_int_equal(get_code(b, "k"), -704);
    assert_int_equal(put(b, "new", "y"), 0);
    assert_holds(b, "new", "y");

    stop_process(owner);
    before = now();
    assert_int_equal(put(b, "k2", "z"), -800);
    assert_int_equal(now() - before, 30000);
    continue_process(owner);
    assert_int_equal(get_code(b, "k2"), -704);
    assert_int_equal(put(b, "k2", "z"), 0);
    lib.destroy(b);
    end_process(owner);
}

static void put_and_die(void)
{
    (void)put(client(0), "k", "never whole");
}

static void a_killed_writer_hides_its_key_for_30_s(void **state)
{
    mooncake_store_t a = client(MIB);

    (void)state;
    add_rule(FAKE_PUT, FAKE_DIE, "k", 1, 0);
    assert_killed_by(SIGKILL, put_and_die);
    for (int s = 0; s < 30; s++) {
        assert_int_equal(put(a, "k", "another's"), 0);
        assert_int_equal(lib.is_exist(a, "k"), 0);
        assert_int_equal(get_code(a, "k"), -703);
        assert_int_equal(lib.get_size(a, "k"), -703);
        assert_int_equal(lib.remove(a, "k", 1), -703);
        fake_mooncake_advance(fake, 1000);
    }
    assert_int_equal(put(a, "k", "another's"), 0);
    assert_holds(a, "k", "another's");
    lib.destroy(a);
}

/* Of a master that was stopped for 3 s, a put that waited for 2. */
static void retry_after_a_stall(uint64_t discard_ms)
{
    struct library impatient;
    mooncake_store_t a = client(MIB);
    mooncake_store_t b;
    uint64_t before;

    setenv("MC_RPC_TIMEOUT_MS", "2000", 1);
    impatient = load_afresh();
    unsetenv("MC_RPC_TIMEOUT_MS");
    b = client_of(&impatient, 0);
    fake_mooncake_happen(fake, 0, FAKE_MASTER_STOP, 0);
    fake_mooncake_happen(fake, 3000, FAKE_MASTER_CONTINUE, 0);
    before = now();
    assert_int_equal(impatient.put(b, "k", "bytes", 5, NULL), -901);
    assert_int_equal(now() - before, 2000);
    fake_mooncake_advance(fake, 1000);
    before = now();
    while (now() - before < discard_ms) {
        assert_int_equal(impatient.put(b, "k", "bytes", 5, NULL), 0);
        assert_int_equal(impatient.is_exist(b, "k"), 0);
        assert_int_equal(get_code(a, "k"), -703);
        fake_mooncake_advance(fake, 500);
    }
    assert_int_equal(impatient.put(b, "k", "bytes", 5, NULL), 0);
    assert_holds(a, "k", "bytes");
    impatient.destroy(b);
    lib.destroy(a);
}

static void a_put_that_timed_out_is_begun_later_and_hides_its_key(void **state)
{
    (void)state;
    retry_after_a_stall(30000);
}

static void the_discard_time_is_the_masters_to_set(void **state)
{
    struct fake_mooncake_config config;

    (void)state;
    memset(&config, 0, sizeof config);
    config.discard_ms = 3000;
    begin_with(&config);
    retry_after_a_stall(3000);
}

static void an_owner_that_is_killed_is_minus_800_then_gone(void **state)
{
    pid_t owner = owner_process(MIB);
    mooncake_store_t b = client(0);
    uint64_t before;

    (void)state;
    assert_int_equal(put(b, "k", "x"), 0);
    before = now();
    end_process(owner);
    for (int s = 0; s < 10; s++) {
        assert_int_equal(get_code(b, "k"), -800);
        assert_int_equal(put(b, "new", "y"), -800);
        assert_int_equal(lib.is_exist(b, "k"), 1);
        assert_int_equal(now() - before, s * 1000);
        fake_mooncake_advance(fake, 1000);
    }
    assert_int_equal(get_code(b, "k"), -704);
    assert_int_equal(put(b, "new", "y"), -200);
    assert_int_equal(lib.is_exist(b, "k"), 0);
    lib.destroy(b);
}

/* ---- a master that is lost ----------------------------------------------- */

static void
a_killed_master_is_minus_900_at_once_then_after_4300_ms(void **state)
{
    mooncake_store_t a = client(MIB);
    uint64_t before;

    (void)state;
    fake_mooncake_happen(fake, 0, FAKE_MASTER_KILL, 0);
    before = now();
    assert_int_equal(put(a, "k", "x"), -900);
    assert_int_equal(now() - before, 0);
    assert_int_equal(put(a, "k", "x"), -900);
    assert_int_equal(now() - before, 4300);
    assert_int_equal(get_code(a, "k"), -900);
    assert_int_equal(now() - before, 8600);
    assert_int_equal(lib.is_exist(a, "k"), -900);
    lib.destroy(a);
}

static void the_connect_timeout_does_not_shorten_that(void **state)
{
    struct library impatient;
    mooncake_store_t a;
    struct fake_mooncake_facts facts;
    uint64_t before;

    (void)state;
    setenv("MC_RPC_CONNECT_TIMEOUT_MS", "1000", 1);
    impatient = load_afresh();
    unsetenv("MC_RPC_CONNECT_TIMEOUT_MS");
    a = client_of(&impatient, MIB);
    fake_mooncake_facts(fake, &facts);
    assert_int_equal(facts.rpc_connect_timeout_ms, 1000);
    fake_mooncake_happen(fake, 0, FAKE_MASTER_KILL, 0);
    assert_int_equal(impatient.is_exist(a, "k"), -900);
    before = now();
    assert_int_equal(impatient.is_exist(a, "k"), -900);
    assert_int_equal(now() - before, 4300);
    impatient.destroy(a);
}

static void only_an_owner_notices_that_the_master_is_gone(void **state)
{
    mooncake_store_t none = lib.create();
    mooncake_store_t a = client(MIB);
    mooncake_store_t b = client(0);

    (void)state;
    assert_int_equal(lib.health_check(NULL), -1);
    assert_int_equal(lib.health_check(none), 1);
    assert_int_equal(lib.health_check(a), 0);
    fake_mooncake_happen(fake, 0, FAKE_MASTER_KILL, 0);
    fake_mooncake_advance(fake, 1000);
    assert_int_equal(lib.health_check(a), 2);
    assert_int_equal(lib.health_check(b), 0);
    fake_mooncake_happen(fake, 0, FAKE_MASTER_RESTART, 0);
    assert_int_equal(lib.health_check(a), 0);
    assert_int_equal(lib.health_check(b), 0);
    lib.destroy(b);
    lib.destroy(a);
    lib.destroy(none);
}

static void a_restarted_master_works_within_2_s_and_knows_no_key(void **state)
{
    mooncake_store_t a = client(MIB);

    (void)state;
    assert_int_equal(put(a, "k", "x"), 0);
    fake_mooncake_happen(fake, 0, FAKE_MASTER_KILL, 0);
    assert_int_equal(get_code(a, "k"), -900);
    fake_mooncake_happen(fake, 0, FAKE_MASTER_RESTART, 0);
    assert_int_equal(put(a, "early", "y"), -200);
    fake_mooncake_advance(fake, 2000);
    assert_int_equal(get_code(a, "k"), -704);
    assert_int_equal(put(a, "k", "y"), 0);
    assert_holds(a, "k", "y");
    lib.destroy(a);
}

static void a_stopped_master_is_minus_901_after_the_rpc_timeout(void **state)
{
    mooncake_store_t a = client(MIB);
    struct library impatient;
    mooncake_store_t b;
    uint64_t before;

    (void)state;
    setenv("MC_RPC_TIMEOUT_MS", "2000", 1);
    impatient = load_afresh();
    unsetenv("MC_RPC_TIMEOUT_MS");
    b = client_of(&impatient, 0);
    assert_int_equal(put(a, "k", "x"), 0);
    fake_mooncake_happen(fake, 0, FAKE_MASTER_STOP, 0);
    before = now();
    assert_int_equal(get_code(a, "k"), -901);
    assert_int_equal(now() - before, 30000);
    assert_int_equal(impatient.get_size(b, "k"), -901);
    assert_int_equal(now() - before, 32000);
    fake_mooncake_happen(fake, 0, FAKE_MASTER_CONTINUE, 0);
    assert_holds(a, "k", "x");
    assert_int_equal(impatient.get_size(b, "k"), 1);
    impatient.destroy(b);
    lib.destroy(a);
}

static void a_master_that_goes_on_in_time_is_not_noticed(void **state)
{
    mooncake_store_t a = client(MIB);
    uint64_t before = now();

    (void)state;
    fake_mooncake_happen(fake, 0, FAKE_MASTER_STOP, 0);
    fake_mooncake_happen(fake, 7000, FAKE_MASTER_CONTINUE, 0);
    assert_int_equal(put(a, "k", "x"), 0);
    assert_int_equal(now() - before, 7000);
    assert_holds(a, "k", "x");
    lib.destroy(a);
}

static void the_tcp_timeout_is_as_the_environment_has_it(void **state)
{
    pid_t owner = owner_process(MIB);
    struct library impatient;
    mooncake_store_t b;
    char byte;
    uint64_t before;

    (void)state;
    setenv("MC_TCP_STATUS_TIMEOUT_SEC", "3", 1);
    impatient = load_afresh();
    unsetenv("MC_TCP_STATUS_TIMEOUT_SEC");
    b = client_of(&impatient, 0);
    assert_int_equal(impatient.put(b, "k", "x", 1, NULL), 0);
    stop_process(owner);
    before = now();
    assert_int_equal(impatient.get_into(b, "k", &byte, 1), -800);
    assert_int_equal(now() - before, 3000);
    impatient.destroy(b);
    end_process(owner);
}

/* ---- setup --------------------------------------------------------------- */

static void without_a_segment_setup_works_and_a_put_is_minus_200(void **state)
{
    mooncake_store_t b = client(0);

    (void)state;
    assert_int_equal(put(b, "k", "x"), -200);
    fake_mooncake_happen(fake, 0, FAKE_SEGMENT_JOIN, MIB);
    assert_int_equal(put(b, "k", "x"), 0);
    lib.destroy(b);
}

static int setup_with(mooncake_store_t store, const char *hostname,
                      const char *metadata, const char *protocol)
{
    return lib.setup(store, hostname, metadata, 0, MIB, protocol, NULL, NULL);
}

static void without_a_master_setup_gives_up_by_its_port(void **state)
{
    mooncake_store_t b = lib.create();
    uint64_t before;

    (void)state;
    fake_mooncake_happen(fake, 0, FAKE_MASTER_KILL, 0);
    before = now();
    assert_int_equal(setup_with(b, "127.0.0.1", "P2PHANDSHAKE", "tcp"), -1);
    assert_int_equal(now() - before, 90000);
    assert_int_equal(setup_with(b, "127.0.0.1:1", "P2PHANDSHAKE", "tcp"), -600);
    assert_int_equal(now() - before, 94300);
    lib.destroy(b);
}

static void a_bad_metadata_server_or_protocol_is_minus_600(void **state)
{
    mooncake_store_t b = lib.create();
    uint64_t before = now();

    (void)state;
    assert_int_equal(setup_with(b, "127.0.0.1:1", "nonsense", "tcp"), -600);
    assert_int_equal(now() - before, 34);
    assert_int_equal(setup_with(b, "127.0.0.1:1", "P2PHANDSHAKE", "smoke"),
                     -600);
    assert_int_equal(now() - before, 34 + 1100);
    lib.destroy(b);
}

static void a_handle_may_be_set_up_again(void **state)
{
    mooncake_store_t a = lib.create();

    (void)state;
    assert_int_equal(setup_with(a, "127.0.0.1:1", "nonsense", "tcp"), -600);
    assert_int_equal(set_up(&lib, a, MIB), 0);
    assert_int_equal(put(a, "k", "x"), 0);
    assert_int_equal(set_up(&lib, a, MIB), 0);
    assert_holds(a, "k", "x");
    lib.destroy(a);
}

static void what_is_not_set_up_says_minus_600(void **state)
{
    mooncake_store_t none = lib.create();
    char byte = '#';
    const char *keys[2] = {"a", "b"};
    int results[2] = {UNTOUCHED, UNTOUCHED};

    (void)state;
    assert_int_equal(put(none, "k", "x"), -600);
    assert_int_equal(put_from(none, "k", &byte, 1), -600);
    assert_int_equal(lib.get_into(none, "k", &byte, 1), -600);
    assert_int_equal(lib.is_exist(none, "k"), -600);
    assert_int_equal(lib.get_size(none, "k"), -600);
    assert_int_equal(lib.remove(none, "k", 1), -600);
    assert_int_equal(lib.register_buffer(none, &byte, 1), -600);
    assert_int_equal(lib.batch_is_exist(none, keys, 2, results), 0);
    assert_int_equal(results[0], -600);
    assert_int_equal(results[1], -600);
    lib.destroy(none);
}

static void batch_put_of_a_bare_handle(void)
{
    char byte = 'x';
    const char *key = "k";
    void *buffer = &byte;
    size_t size = 1;
    int result;

    (void)lib.batch_put_from(lib.create(), &key, &buffer, &size, 1, NULL,
                             &result);
}

static void batch_get_of_a_bare_handle(void)
{
    char byte = 'x';
    const char *key = "k";
    void *buffer = &byte;
    size_t size = 1;
    int64_t result;

    (void)lib.batch_get_into(lib.create(), &key, &buffer, &size, 1, &result);
}

static void a_batch_before_setup_is_a_crash(void **state)
{
    (void)state;
    assert_killed_by(SIGSEGV, batch_put_of_a_bare_handle);
    assert_killed_by(SIGSEGV, batch_get_of_a_bare_handle);
}

/* ---- checksums, and overwriting ------------------------------------------ */

static void a_flipped_bit_is_delivered_without_checksums(void **state)
{
    mooncake_store_t a = client(MIB);
    char bytes[700];

    (void)state;
    memset(bytes, 0, sizeof bytes);
    assert_int_equal(put_from(a, "k", bytes, 700), 0);
    assert_true(fake_mooncake_flip(fake, "k", 5 * 8 + 1));
    assert_int_equal(lib.get_into(a, "k", bytes, 700), 700);
    assert_int_equal(bytes[5], 2);
    lib.destroy(a);
}

static void checksums_are_looked_at_where_both_sides_have_them(void **state)
{
    mooncake_store_t plain = client(MIB);
    mooncake_store_t checked;
    char bytes[700];
    const char *key = "k";
    void *buffer = bytes;
    size_t size = 700;
    int64_t result = UNTOUCHED;

    (void)state;
    memset(bytes, 0, sizeof bytes);
    setenv("MOONCAKE_STORE_CHECKSUM", "1", 1);
    checked = client(0);
    unsetenv("MOONCAKE_STORE_CHECKSUM");
    assert_int_equal(put_from(checked, "k", bytes, 700), 0);
    assert_int_equal(put_from(plain, "unchecked", bytes, 700), 0);
    assert_int_equal(lib.get_into(checked, "k", bytes, 700), 700);
    assert_true(fake_mooncake_flip(fake, "k", 0));
    assert_true(fake_mooncake_flip(fake, "unchecked", 0));
    assert_int_equal(lib.get_into(checked, "k", bytes, 700), -801);
    assert_int_equal(
        lib.batch_get_into(checked, &key, &buffer, &size, 1, &result), 0);
    assert_int_equal(result, -801);
    assert_int_equal(lib.get_into(plain, "k", bytes, 700), 700);
    assert_int_equal(bytes[0], 1);
    assert_int_equal(lib.get_into(checked, "unchecked", bytes, 700), 700);
    lib.destroy(checked);
    lib.destroy(plain);
}

static void remove_and_put_overwrites_and_readers_see_both(void **state)
{
    mooncake_store_t a = client(MIB);
    char bytes[3];

    (void)state;
    assert_int_equal(put(a, "k", "old"), 0);
    assert_int_equal(lib.remove(a, "k", 1), 0);
    assert_int_equal(get_code(a, "k"), -704);
    assert_int_equal(put(a, "k", "newer"), 0);
    assert_int_equal(lib.get_into(a, "k", bytes, 3), -600);
    assert_holds(a, "k", "newer");
    lib.destroy(a);
}

/* ---- what of the interface was read and not run -------------------------- */

static void the_rest_of_the_interface_does_what_its_names_say(void **state)
{
    mooncake_store_t a = client(MIB);
    char name[64];

    (void)state;
    assert_int_equal(lib.get_hostname(a, name, sizeof name), 0);
    assert_string_equal(name, "127.0.0.1:12400");
    assert_int_equal(lib.get_hostname(a, name, 5), -1);
    assert_int_equal(put(a, "a/1", "x"), 0);
    assert_int_equal(put(a, "a/2", "x"), 0);
    assert_int_equal(put(a, "b/1", "x"), 0);
    assert_int_equal(lib.is_exist(a, "a/2"), 1);
    assert_int_equal(lib.remove_by_regex(a, "^a/", 0), 1);
    assert_int_equal(lib.remove_by_regex(a, "^a/", 1), 1);
    assert_int_equal(lib.remove_all(a, 1), 1);
    assert_int_equal(lib.init_all(a, "tcp", "", MIB), -600);
    assert_int_equal(put(NULL, "k", "x"), -1);
    assert_int_equal(lib.put(a, NULL, "x", 1, NULL), -1);
    lib.destroy(NULL);
    lib.destroy(a);
}

static void the_newer_functions_overwrite_and_remove_many(void **state)
{
    struct library newer = load(FAKE_MOONCAKE_LIBRARY_NEWER);
    mooncake_store_t a = client_of(&newer, MIB);
    char bytes[] = "new";
    const char *keys[2] = {"k", "stuck"};
    void *buffers[2] = {bytes, bytes};
    size_t sizes[2] = {3, 3};
    int results[2] = {UNTOUCHED, UNTOUCHED};

    (void)state;
    assert_null(lib.batch_upsert_from);
    assert_null(lib.batch_remove);
    assert_true(fake_mooncake_plant(fake, "k", "old bytes", 9, true));
    assert_true(fake_mooncake_plant(fake, "stuck", "half", 4, false));
    assert_int_equal(
        newer.batch_upsert_from(a, keys, buffers, sizes, 2, NULL, results), 0);
    assert_int_equal(results[0], 0);
    assert_int_equal(results[1], 0);
    assert_int_equal(newer.get_size(a, "k"), 3);
    assert_int_equal(newer.get_size(a, "stuck"), 3);
    keys[1] = "missing";
    assert_int_equal(newer.batch_remove(a, keys, 2, 1, results), 0);
    assert_int_equal(results[0], 0);
    assert_int_equal(results[1], -704);
    newer.destroy(a);
}

/* ---- faults to order ----------------------------------------------------- */

static void codes_change_from_one_call_to_the_next(void **state)
{
    mooncake_store_t a = client(MIB);

    (void)state;
    assert_int_equal(put(a, "k", "x"), 0);
    add_rule(FAKE_GET, FAKE_ANSWER, "k", 2, -800);
    add_rule(FAKE_GET, FAKE_ANSWER, "*", 1, -704);
    assert_int_equal(get_code(a, "k"), -800);
    assert_int_equal(get_code(a, "k"), -800);
    assert_int_equal(get_code(a, "k"), -704);
    assert_holds(a, "k", "x");
    assert_int_equal(fake_mooncake_fired(fake, 0), 2);
    assert_int_equal(fake_mooncake_fired(fake, 1), 1);
    lib.destroy(a);
}

static void a_failed_put_may_have_worked_stay_or_vanish(void **state)
{
    mooncake_store_t a = client(MIB);

    (void)state;
    add_rule(FAKE_PUT, FAKE_ANSWER_DONE, "done", 1, -800);
    add_rule(FAKE_PUT, FAKE_STAY, "stays", 1, -901);
    add_rule(FAKE_PUT, FAKE_VANISH, "gone", 1, 0);
    add_rule(FAKE_PUT, FAKE_ANSWER, "lie", 1, 0);
    assert_int_equal(put(a, "done", "x"), -800);
    assert_holds(a, "done", "x");
    assert_int_equal(put(a, "stays", "x"), -901);
    assert_int_equal(get_code(a, "stays"), -703);
    assert_int_equal(put(a, "gone", "x"), 0);
    assert_int_equal(get_code(a, "gone"), -704);
    assert_int_equal(put(a, "lie", "x"), 0);
    assert_int_equal(get_code(a, "lie"), -704);
    assert_int_equal(fake_mooncake_look(fake, "done", NULL, 0), 1);
    assert_int_equal(fake_mooncake_look(fake, "gone", NULL, 0), -1);
    lib.destroy(a);
}

static void a_get_may_be_dirty_short_long_or_wrong(void **state)
{
    mooncake_store_t a = client(MIB);
    char bytes[8];
    struct fake_mooncake_rule rule = {FAKE_GET, FAKE_LESS, "k", 0, 1, 0, 3};

    (void)state;
    assert_int_equal(put(a, "k", "abcdefgh"), 0);
    add_rule(FAKE_GET, FAKE_DIRTY, "k", 1, -707);
    (void)fake_mooncake_rule(fake, &rule);
    rule.action = FAKE_MORE;
    (void)fake_mooncake_rule(fake, &rule);
    rule.action = FAKE_FLIP_READ;
    (void)fake_mooncake_rule(fake, &rule);

    memset(bytes, '#', 8);
    assert_int_equal(lib.get_into(a, "k", bytes, 8), -707);
    assert_memory_equal(bytes, "\xDB\xDB\xDB\xDB####", 8);
    memset(bytes, '#', 8);
    assert_int_equal(lib.get_into(a, "k", bytes, 8), 5);
    assert_memory_equal(bytes, "abcde###", 8);
    assert_int_equal(lib.get_into(a, "k", bytes, 8), 11);
    assert_memory_equal(bytes, "abcdefgh", 8);
    assert_int_equal(lib.get_into(a, "k", bytes, 8), 8);
    assert_memory_equal(bytes, "ibcdefgh", 8); /* 'a' ^ 8 */
    lib.destroy(a);
}

static void a_batch_that_fails_leaves_its_results_untouched(void **state)
{
    mooncake_store_t a = client(MIB);
    char bytes[] = "xy";
    const char *keys[2] = {"a", "b"};
    void *buffers[2] = {bytes, bytes + 1};
    size_t sizes[2] = {1, 1};
    int put_results[2] = {UNTOUCHED, UNTOUCHED};
    int64_t got[2] = {UNTOUCHED, UNTOUCHED};

    (void)state;
    add_rule(FAKE_PUT, FAKE_CALL_FAILS, "b", 1, 0);
    add_rule(FAKE_PUT, FAKE_CALL_FAILS_DONE, NULL, 1, 0);
    add_rule(FAKE_GET, FAKE_CALL_FAILS, NULL, 1, 0);
    add_rule(FAKE_GET, FAKE_SILENT, "a", 1, 0);
    assert_int_equal(
        lib.batch_put_from(a, keys, buffers, sizes, 2, NULL, put_results), -1);
    assert_int_equal(lib.is_exist(a, "a"), 0);
    assert_int_equal(
        lib.batch_put_from(a, keys, buffers, sizes, 2, NULL, put_results), -1);
    assert_int_equal(lib.is_exist(a, "a"), 1);
    assert_int_equal(put_results[0], UNTOUCHED);
    assert_int_equal(put_results[1], UNTOUCHED);
    assert_int_equal(lib.batch_get_into(a, keys, buffers, sizes, 2, got), -1);
    assert_int_equal(got[0], UNTOUCHED);
    assert_int_equal(lib.batch_get_into(a, keys, buffers, sizes, 2, got), 0);
    assert_int_equal(got[0], UNTOUCHED);
    assert_int_equal(got[1], 1);
    lib.destroy(a);
}

static void setup_fails_as_often_as_it_is_told(void **state)
{
    mooncake_store_t a = lib.create();
    struct fake_mooncake_rule rule = {FAKE_SETUP, FAKE_ANSWER, NULL, 0,
                                      2,          -600,        4300};
    uint64_t before = now();

    (void)state;
    (void)fake_mooncake_rule(fake, &rule);
    assert_int_equal(set_up(&lib, a, MIB), -600);
    assert_int_equal(set_up(&lib, a, MIB), -600);
    assert_int_equal(now() - before, 8600);
    assert_int_equal(set_up(&lib, a, MIB), 0);
    assert_int_equal(fake_mooncake_counts(fake, FAKE_SETUP).calls, 3);
    lib.destroy(a);
}

static void what_was_asked_can_be_looked_at(void **state)
{
    mooncake_store_t a = client(MIB);
    char bytes[] = "xy";
    const char *keys[2] = {"a", "b"};
    void *buffers[2] = {bytes, bytes + 1};
    size_t sizes[2] = {1, 1};
    int results[2];
    struct fake_mooncake_seen seen;

    (void)state;
    add_rule(FAKE_PUT, FAKE_ANSWER, "b", 1, -800);
    fake_mooncake_forget(fake);
    (void)lib.batch_put_from(a, keys, buffers, sizes, 2, NULL, results);
    (void)lib.is_exist(a, "a");
    assert_true(fake_mooncake_seen(fake, 1, &seen));
    assert_int_equal(seen.operation, FAKE_PUT);
    assert_int_equal(seen.pointer, (uintptr_t)(bytes + 1));
    assert_int_equal(seen.bytes, 1);
    assert_int_equal(seen.result, -800);
    assert_string_equal(seen.key, "b");
    assert_true(fake_mooncake_seen(fake, 2, &seen));
    assert_int_equal(seen.operation, FAKE_EXIST);
    assert_int_equal(seen.result, 1);
    assert_false(fake_mooncake_seen(fake, 3, &seen));
    assert_int_equal(fake_mooncake_counts(fake, FAKE_PUT).calls, 1);
    assert_int_equal(fake_mooncake_counts(fake, FAKE_PUT).keys, 2);
    assert_int_equal(fake_mooncake_counts(fake, FAKE_PUT).bytes, 2);
    lib.destroy(a);
}

static void a_call_may_be_held_until_it_is_let_go(void **state)
{
    mooncake_store_t a = client(MIB);
    struct worker worker = {.store = a, .number = 7, .wrong = 0};
    struct fake_mooncake_facts facts;

    (void)state;
    add_rule(FAKE_PUT, FAKE_CALL_HELD, "7/0/0", 1, 0);
    assert_int_equal(pthread_create(&worker.thread, NULL, work, &worker), 0);
    do {
        fake_mooncake_facts(fake, &facts);
    } while (facts.held == 0);
    assert_int_equal(facts.objects, 0);
    assert_int_equal(put(a, "other", "x"), 0); /* others go on */
    fake_mooncake_release(fake);
    pthread_join(worker.thread, NULL);
    assert_int_equal(worker.wrong, 0);
    lib.destroy(a);
}

static void above_the_watermark_what_is_not_pinned_is_evicted(void **state)
{
    static char bytes[64 * 1024];
    mooncake_store_t a = client(MIB);
    int there = 0;

    (void)state;
    for (int i = 0; i < 64; i++) {
        char key[16];

        (void)snprintf(key, sizeof key, "%d", i);
        assert_int_equal(put_from(a, key, bytes, sizeof bytes), 0);
    }
    for (int i = 0; i < 64; i++) {
        char key[16];

        (void)snprintf(key, sizeof key, "%d", i);
        there += lib.is_exist(a, key);
    }
    assert_int_equal(there, 14); /* 15 are more than 90 % of 1 MiB */
    lib.destroy(a);
}

/* ---- misuse -------------------------------------------------------------- */

static void call_a_destroyed_handle(void)
{
    mooncake_store_t a = client(MIB);

    lib.destroy(a);
    (void)lib.is_exist(a, "k");
}

static void destroy_during_a_call(void)
{
    struct worker worker = {.store = client(MIB), .number = 7, .wrong = 0};
    struct fake_mooncake_facts facts;

    add_rule(FAKE_PUT, FAKE_CALL_HELD, NULL, 1, 0);
    (void)pthread_create(&worker.thread, NULL, work, &worker);
    do {
        fake_mooncake_facts(fake, &facts);
    } while (facts.held == 0);
    lib.destroy(worker.store);
}

static void put_from_what_is_not_registered(void)
{
    static char bytes[64];
    mooncake_store_t a;

    setenv("FAKE_MOONCAKE_STRICT_REGISTRATION", "1", 1);
    a = client(MIB);
    if (lib.register_buffer(a, bytes, 32) != 0 ||
        put_from(a, "k", bytes + 16, 16) != 0) {
        _exit(1);
    }
    (void)put_from(a, "k2", bytes + 16, 17);
}

static void put_from_an_accelerator(void)
{
    static char bytes[64];

    fake_mooncake_device(fake, bytes, 32);
    (void)put_from(client(MIB), "k", bytes + 31, 8);
}

static void call_what_is_no_handle(void)
{
    int something = 0;

    (void)lib.is_exist(&something, "k");
}

static mooncake_store_t parents;

static void call_the_parents_handle(void)
{
    (void)lib.is_exist(parents, "k");
}

static void misuse_ends_the_process(void **state)
{
    (void)state;
    assert_killed_by(SIGABRT, call_a_destroyed_handle);
    assert_killed_by(SIGABRT, destroy_during_a_call);
    begin_with(NULL); /* that left a call behind */
    assert_killed_by(SIGABRT, put_from_what_is_not_registered);
    assert_killed_by(SIGABRT, put_from_an_accelerator);
    assert_killed_by(SIGABRT, call_what_is_no_handle);
    begin_with(NULL);
    parents = client(MIB);
    assert_killed_by(SIGABRT, call_the_parents_handle);
    lib.destroy(parents);
}

static void put_for_ever(void)
{
    mooncake_store_t b = client(0);
    char bytes[1000];

    memset(bytes, 'b', sizeof bytes);
    for (;;) {
        (void)put_from(b, "k", bytes, sizeof bytes);
        (void)lib.remove(b, "k", 1);
        (void)put_from(b, "k2", bytes, sizeof bytes);
        (void)lib.remove(b, "k2", 1);
    }
}

/* Wherever they were, with the lock or without. */
static void killed_processes_leave_the_cluster_whole(void **state)
{
    mooncake_store_t a = client(MIB);
    struct fake_mooncake_facts facts;

    (void)state;
    assert_int_equal(put(a, "kept", "x"), 0);
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        char key[16];

        assert_true(pid >= 0);
        if (pid == 0) { put_for_ever(); }
        do {
            fake_mooncake_facts(fake, &facts);
        } while (fake_mooncake_counts(fake, FAKE_PUT).calls <
                 (uint64_t)(i + 1) * 10);
        end_process(pid);
        assert_holds(a, "kept", "x");
        (void)snprintf(key, sizeof key, "mine %d", i);
        assert_int_equal(put(a, key, "y"), 0);
        assert_holds(a, key, "y");
        fake_mooncake_advance(fake, 31000);
    }
    (void)lib.remove(a, "k", 1);
    (void)lib.remove(a, "k2", 1);
    assert_int_equal(put(a, "k", "z"), 0);
    assert_holds(a, "k", "z");
    fake_mooncake_advance(fake, 11000);
    fake_mooncake_facts(fake, &facts);
    assert_int_equal(facts.handles, 1); /* the killed are not counted */
    lib.destroy(a);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, finish)
    const struct CMUnitTest tests[] = {
        TEST(exports_exactly_the_19_functions),
        TEST(the_variants_lack_a_function_or_have_more),
        TEST(setup_put_and_get_work),
        TEST(a_put_of_a_key_that_is_there_says_0_and_keeps_the_old),
        TEST(what_is_missing_is_0_and_minus_704),
        TEST(a_buffer_that_is_too_small_is_minus_600_and_untouched),
        TEST(a_larger_buffer_gets_13_and_its_rest_is_untouched),
        TEST(a_batch_get_of_small_and_missing_says_so_of_each),
        TEST(an_empty_value_cannot_be_stored),
        TEST(a_get_into_no_bytes_is_minus_600),
        TEST(of_a_key_put_twice_in_a_batch_the_last_wins),
        TEST(of_a_key_got_thrice_in_a_batch_one_buffer_is_filled),
        TEST(a_key_is_not_empty_and_may_have_100000_bytes),
        TEST(no_replica_is_minus_600_and_two_on_one_segment_work),
        TEST(a_lease_is_in_the_way_of_a_remove_without_force),
        TEST(buffers_are_registered_once_and_apart),
        TEST(what_is_larger_than_a_segment_is_minus_200_at_once),
        TEST(a_put_by_copy_must_fit_the_local_buffer),
        TEST(a_batch_may_have_2000_keys_or_none),
        TEST(a_large_put_that_fails_evicts_what_was_put_before),
        TEST(memory_that_is_not_registered_works_over_tcp),
        TEST(a_batch_of_400_large_values_goes_and_comes),
        TEST(four_threads_share_one_handle),
        TEST(an_owner_that_is_stopped_costs_30_s_and_its_data),
        TEST(a_killed_writer_hides_its_key_for_30_s),
        TEST(a_put_that_timed_out_is_begun_later_and_hides_its_key),
        TEST(the_discard_time_is_the_masters_to_set),
        TEST(an_owner_that_is_killed_is_minus_800_then_gone),
        TEST(a_killed_master_is_minus_900_at_once_then_after_4300_ms),
        TEST(the_connect_timeout_does_not_shorten_that),
        TEST(only_an_owner_notices_that_the_master_is_gone),
        TEST(a_restarted_master_works_within_2_s_and_knows_no_key),
        TEST(a_stopped_master_is_minus_901_after_the_rpc_timeout),
        TEST(a_master_that_goes_on_in_time_is_not_noticed),
        TEST(the_tcp_timeout_is_as_the_environment_has_it),
        TEST(without_a_segment_setup_works_and_a_put_is_minus_200),
        TEST(without_a_master_setup_gives_up_by_its_port),
        TEST(a_bad_metadata_server_or_protocol_is_minus_600),
        TEST(a_handle_may_be_set_up_again),
        TEST(what_is_not_set_up_says_minus_600),
        TEST(a_batch_before_setup_is_a_crash),
        TEST(a_flipped_bit_is_delivered_without_checksums),
        TEST(checksums_are_looked_at_where_both_sides_have_them),
        TEST(remove_and_put_overwrites_and_readers_see_both),
        TEST(the_rest_of_the_interface_does_what_its_names_say),
        TEST(the_newer_functions_overwrite_and_remove_many),
        TEST(codes_change_from_one_call_to_the_next),
        TEST(a_failed_put_may_have_worked_stay_or_vanish),
        TEST(a_get_may_be_dirty_short_long_or_wrong),
        TEST(a_batch_that_fails_leaves_its_results_untouched),
        TEST(setup_fails_as_often_as_it_is_told),
        TEST(what_was_asked_can_be_looked_at),
        TEST(a_call_may_be_held_until_it_is_let_go),
        TEST(above_the_watermark_what_is_not_pinned_is_evicted),
        TEST(misuse_ends_the_process),
        TEST(killed_processes_leave_the_cluster_whole),
    };
#undef TEST
    char command[128];
    int failed;

    if (mkdtemp(folder) == NULL) { return 1; }
    (void)snprintf(cluster, sizeof cluster, "%s/cluster", folder);
    setenv("FAKE_MOONCAKE_CLUSTER", cluster, 1);
    lib = load(FAKE_MOONCAKE_LIBRARY);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) != 0 || failed != 0;
}
