/* Cleat: batches over a Mooncake Store. SPDX-License-Identifier: Apache-2.0
 *
 *     mooncake_test           on our own library; then the faults that only it
 *                             can make
 *     mooncake_test --real    on the real one: see mooncake_rig.h. Exits 77
 *                             where it is not told which
 *
 * The same tests on both. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/fakes/mooncake/control.h"
#include "test/interop/mooncake_rig.h"

#define MIB ((size_t)1 << 20)
#define MANY 2000u

static struct cleat_transfer_options mode(uint32_t of)
{
    struct cleat_transfer_options options;

    memset(&options, 0, sizeof options);
    options.mode = of;
    return options;
}

static void assert_is(const char *key, const void *bytes, size_t count)
{
    unsigned char *got = malloc(count + 1);

    assert_non_null(got);
    memset(got, '#', count + 1);
    if (rig_get(key, got, count) != CLEAT_OK) {
        fail_msg("%s", rig.error.text);
    }
    assert_memory_equal(got, bytes, count);
    assert_int_equal(got[count], '#');
    assert_int_equal(rig_last.actual, count);
    free(got);
}

/* ---- values -------------------------------------------------------------- */

static void r8_empty_small_and_large_values_come_back(void **state)
{
    static const size_t sizes[] = {0, 1, 700, 65536, MIB, 3 * MIB + 17};
    static unsigned char bytes[3 * MIB + 17];

    (void)state;
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char name[32];

        (void)snprintf(name, sizeof name, "size/%u", (unsigned)sizes[i]);
        rig_fill(bytes, sizes[i], i);
        assert_int_equal(rig_put(rig_key(name), bytes, sizes[i], NULL),
                         CLEAT_OK);
        assert_is(rig_key(name), bytes, sizes[i]);
    }
}

static void
r8_tensors_come_back_with_dtype_and_shape_or_are_refused(void **state)
{
    float numbers[6] = {1, 2, 3, 4, 5, 6};
    float got[6] = {0};
    struct cleat_transfer_value value = rig_value(rig_key("tensor"), numbers,
                                                  sizeof numbers);
    struct cleat_transfer_options tell = {.tell = 1};

    (void)state;
    value.dtype = CLEAT_DTYPE_F32;
    value.rank = 2;
    value.shape[0] = 2;
    value.shape[1] = 3;
    assert_int_equal(
        cleat_transfer_put(rig.service, &value, 1, NULL, NULL, &rig.error),
        CLEAT_OK);
    value.payload = got;
    assert_int_equal(
        cleat_transfer_get(rig.service, &value, 1, NULL, NULL, &rig.error),
        CLEAT_OK);
    assert_memory_equal(got, numbers, sizeof numbers);

    value.shape[0] = 3;
    value.shape[1] = 2;
    assert_int_equal(
        cleat_transfer_get(rig.service, &value, 1, NULL, NULL, &rig.error),
        CLEAT_INVALID);

    value = rig_value(rig_key("tensor"), got, sizeof got);
    assert_int_equal(
        cleat_transfer_get(rig.service, &value, 1, &tell, NULL, &rig.error),
        CLEAT_OK);
    assert_int_equal(value.dtype, CLEAT_DTYPE_F32);
    assert_int_equal(value.rank, 2);
    assert_int_equal(value.shape[0], 2);
    assert_int_equal(value.shape[1], 3);
}

static void r8_an_empty_tensor_keeps_its_shape(void **state)
{
    struct cleat_transfer_value value = rig_value(rig_key("no rows"), NULL, 0);
    struct cleat_transfer_options tell = {.tell = 1};

    (void)state;
    value.dtype = CLEAT_DTYPE_F32;
    value.rank = 2;
    value.shape[0] = 0;
    value.shape[1] = 7;
    assert_int_equal(
        cleat_transfer_put(rig.service, &value, 1, NULL, NULL, &rig.error),
        CLEAT_OK);
    value = rig_value(rig_key("no rows"), NULL, 0);
    assert_int_equal(
        cleat_transfer_get(rig.service, &value, 1, &tell, NULL, &rig.error),
        CLEAT_OK);
    assert_int_equal(value.rank, 2);
    assert_int_equal(value.shape[1], 7);
}

static void r7_create_replace_and_keep_do_what_they_say(void **state)
{
    struct cleat_transfer_options create = mode(CLEAT_TRANSFER_CREATE);
    struct cleat_transfer_options replace = mode(CLEAT_TRANSFER_REPLACE);
    struct cleat_transfer_options keep = mode(CLEAT_TRANSFER_KEEP);
    const char *key = rig_key("mode");

    (void)state;
    assert_int_equal(rig_put(key, "first", 5, &create), CLEAT_OK);
    assert_int_equal(rig_put(key, "other", 5, &create), CLEAT_EXISTS);
    assert_is(key, "first", 5);
    assert_int_equal(rig_put(key, "other", 5, &keep), CLEAT_OK);
    assert_is(key, "first", 5);
    assert_int_equal(rig_put(key, "third", 5, &replace), CLEAT_OK);
    assert_is(key, "third", 5);
    assert_int_equal(rig_put(key, "of another size", 15, &replace), CLEAT_OK);
    assert_is(key, "of another size", 15);
    key = rig_key("kept anew");
    assert_int_equal(rig_put(key, "x", 1, &keep), CLEAT_OK);
    assert_is(key, "x", 1);
    key = rig_key("replaced anew");
    assert_int_equal(rig_put(key, "x", 1, &replace), CLEAT_OK);
    assert_is(key, "x", 1);
}

static void r6_a_put_may_be_read_back_before_it_is_ok(void **state)
{
    static unsigned char bytes[100000];
    struct cleat_transfer_options options = mode(CLEAT_TRANSFER_REPLACE);
    const char *key = rig_key("verified");

    (void)state;
    for (uint32_t verify = CLEAT_TRANSFER_VERIFY_SIZE;
         verify <= CLEAT_TRANSFER_VERIFY_FULL; verify++) {
        options.verify = verify;
        rig_fill(bytes, sizeof bytes, verify);
        assert_int_equal(rig_put(key, bytes, sizeof bytes, &options), CLEAT_OK);
        assert_is(key, bytes, sizeof bytes);
    }
}

static void r2_only_a_value_of_that_size_is_a_success(void **state)
{
    const char *key = rig_key("sized");
    struct cleat_transfer_options sized = {.sized = 1};
    struct cleat_transfer_value value;
    char got[64];

    (void)state;
    assert_int_equal(rig_put(key, "hello, world!", 13, NULL), CLEAT_OK);
    assert_int_equal(rig_get(key, got, 12), CLEAT_SHORT);
    assert_int_equal(rig_get(key, got, 14), CLEAT_SHORT);

    value = rig_value(key, got, sizeof got);
    assert_int_equal(
        cleat_transfer_get(rig.service, &value, 1, &sized, NULL, &rig.error),
        CLEAT_OK);
    assert_int_equal(value.actual, 13);
    assert_memory_equal(got, "hello, world!", 13);
    value = rig_value(key, got, 12);
    assert_int_equal(
        cleat_transfer_get(rig.service, &value, 1, &sized, NULL, &rig.error),
        CLEAT_TOO_SMALL);
    assert_int_equal(value.actual, 13);
}

static void r11_a_missing_key_fails_alone_and_by_name(void **state)
{
    char got[3][1] = {"", "", ""};
    struct cleat_transfer_value values[3] = {
        rig_value(rig_key("there"), got[0], 1),
        rig_value(rig_key("nowhere"), got[1], 1),
        rig_value(rig_key("there too"), got[2], 1)};
    struct cleat_transfer_summary summary;

    (void)state;
    assert_int_equal(rig_put(values[0].key, "a", 1, NULL), CLEAT_OK);
    assert_int_equal(rig_put(values[2].key, "b", 1, NULL), CLEAT_OK);
    assert_int_equal(
        cleat_transfer_get(rig.service, values, 3, NULL, &summary, &rig.error),
        CLEAT_NOT_FOUND);
    assert_int_equal(values[0].status, CLEAT_OK);
    assert_int_equal(values[1].status, CLEAT_NOT_FOUND);
    assert_int_equal(values[1].code, -704);
    assert_int_equal(values[1].attempts, 1);
    assert_int_equal(values[2].status, CLEAT_OK);
    assert_int_equal(got[0][0], 'a');
    assert_int_equal(got[2][0], 'b');
    assert_int_equal(summary.totals.ok, 2);
    assert_int_equal(summary.totals.failed, 1);
    assert_non_null(strstr(rig.error.text, "nowhere"));
}

static void r3_a_key_several_times_is_got_by_all_and_put_by_none(void **state)
{
    char got[4][13];
    struct cleat_transfer_value values[4] = {
        rig_value(rig_key("k1"), got[0], 13),
        rig_value(rig_key("k1"), got[1], 13),
        rig_value(rig_key("okk"), got[2], 4),
        rig_value(rig_key("k1"), got[3], 13)};

    (void)state;
    assert_int_equal(rig_put(values[0].key, "hello, world!", 13, NULL),
                     CLEAT_OK);
    assert_int_equal(rig_put(values[2].key, "okay", 4, NULL), CLEAT_OK);
    memset(got, '#', sizeof got);
    assert_int_equal(
        cleat_transfer_get(rig.service, values, 4, NULL, NULL, &rig.error),
        CLEAT_OK);
    assert_memory_equal(got[0], "hello, world!", 13);
    assert_memory_equal(got[1], "hello, world!", 13);
    assert_memory_equal(got[2], "okay#", 5);
    assert_memory_equal(got[3], "hello, world!", 13);

    assert_int_equal(
        cleat_transfer_put(rig.service, values, 4, NULL, NULL, &rig.error),
        CLEAT_EXISTS);
    assert_int_equal(rig.error.index, 1);
}

static void
what_is_removed_does_not_exist_and_may_be_removed_again(void **state)
{
    struct cleat_transfer_value values[2] = {
        rig_value(rig_key("removed"), NULL, 0),
        rig_value(rig_key("never there"), NULL, 0)};

    (void)state;
    assert_int_equal(rig_put(values[0].key, "x", 1, NULL), CLEAT_OK);
    assert_int_equal(
        cleat_transfer_exists(rig.service, values, 2, NULL, NULL, &rig.error),
        CLEAT_OK);
    assert_int_equal(values[0].actual, 1);
    assert_int_equal(values[1].actual, 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cleat_transfer_remove(rig.service, values, 2, NULL,
                                               NULL, &rig.error),
                         CLEAT_OK);
    }
    assert_int_equal(
        cleat_transfer_exists(rig.service, values, 2, NULL, NULL, &rig.error),
        CLEAT_OK);
    assert_int_equal(values[0].actual, 0);
}

/* ---- many ---------------------------------------------------------------- */

struct many {
    struct cleat_transfer_value values[MANY];
    char keys[MANY][64];
    uint64_t bytes[MANY][8];
    uint64_t number; /* of the thread */
    int wrong;
};

static void name_many(struct many *many)
{
    for (uint64_t i = 0; i < MANY; i++) {
        char name[32];

        (void)snprintf(name, sizeof name, "many/%u/%u", (unsigned)many->number,
                       (unsigned)i);
        (void)snprintf(many->keys[i], sizeof many->keys[i], "%s",
                       rig_key(name));
        many->values[i] = rig_value(many->keys[i], many->bytes[i], 64);
        many->bytes[i][0] = i;
        many->bytes[i][7] = many->number;
    }
}

static void r12_thousands_of_keys_go_in_one_call(void **state)
{
    struct many *many = calloc(1, sizeof *many);
    struct cleat_transfer_summary summary;

    (void)state;
    assert_non_null(many);
    name_many(many);
    assert_int_equal(cleat_transfer_put(rig.service, many->values, MANY, NULL,
                                        &summary, &rig.error),
                     CLEAT_OK);
    assert_int_equal(summary.totals.ok, MANY);
    memset(many->bytes, 0, sizeof many->bytes);
    assert_int_equal(cleat_transfer_get(rig.service, many->values, MANY, NULL,
                                        &summary, &rig.error),
                     CLEAT_OK);
    for (uint64_t i = 0; i < MANY; i++) {
        assert_int_equal(many->bytes[i][0], i);
    }
    assert_int_equal(cleat_transfer_exists(rig.service, many->values, MANY,
                                           NULL, NULL, &rig.error),
                     CLEAT_OK);
    assert_int_equal(many->values[MANY - 1].actual, 1);
    assert_int_equal(cleat_transfer_remove(rig.service, many->values, MANY,
                                           NULL, NULL, &rig.error),
                     CLEAT_OK);
    assert_int_equal(cleat_transfer_exists(rig.service, many->values, MANY,
                                           NULL, NULL, &rig.error),
                     CLEAT_OK);
    assert_int_equal(many->values[MANY - 1].actual, 0);
    free(many);
}

/* On a thread, where cmocka cannot be told. */
static void *put_and_get_many(void *argument)
{
    struct many *many = argument;
    struct cleat_transfer_options replace = mode(CLEAT_TRANSFER_REPLACE);

    for (uint64_t round = 1; round <= 3; round++) {
        for (uint64_t i = 0; i < 200; i++) { many->bytes[i][3] = i * round; }
        many->wrong += cleat_transfer_put(rig.service, many->values, 200,
                                          &replace, NULL, NULL) != CLEAT_OK;
        memset(many->bytes, 0, sizeof many->bytes);
        many->wrong += cleat_transfer_get(rig.service, many->values, 200, NULL,
                                          NULL, NULL) != CLEAT_OK;
        for (uint64_t i = 0; i < 200; i++) {
            many->wrong += many->bytes[i][3] != i * round;
        }
    }
    return NULL;
}

static void four_threads_use_one_service(void **state)
{
    struct many *many[4];
    pthread_t threads[4];

    (void)state;
    for (uint64_t i = 0; i < 4; i++) {
        many[i] = calloc(1, sizeof *many[i]);
        assert_non_null(many[i]);
        many[i]->number = i + 1;
        name_many(many[i]);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, put_and_get_many, many[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(many[i]->wrong, 0);
        free(many[i]);
    }
}

static void *put_later(void *argument)
{
    struct cleat_transfer_value value = rig_value(argument, (void *)"late", 4);

    (void)cleat_transfer_put(rig.service, &value, 1, NULL, NULL, NULL);
    return NULL;
}

static void on_first_call(void *context, uint32_t ended, uint32_t count,
                          const struct cleat_transfer_totals *totals)
{
    pthread_t *thread = context;

    (void)ended;
    (void)count;
    (void)totals;
    if (*thread == 0) {
        (void)pthread_create(thread, NULL, put_later,
                             (void *)(uintptr_t)rig_key("awaited"));
    }
}

/* The producer begins when the consumer has asked in vain. */
static void a_get_can_wait_for_its_producer(void **state)
{
    pthread_t thread = 0;
    struct cleat_transfer_options wait = {
        .progress = on_first_call, .progress_context = &thread, .wait = 1};
    char got[4];
    struct cleat_transfer_value value = rig_value(rig_key("awaited"), got, 4);

    (void)state;
    assert_int_equal(
        cleat_transfer_get(rig.service, &value, 1, &wait, NULL, &rig.error),
        CLEAT_OK);
    assert_memory_equal(got, "late", 4);
    pthread_join(thread, NULL);
}

/* ---- the store itself ---------------------------------------------------- */

static enum cleat_status do_item(uint32_t operation,
                                 struct cleat_store_item *item)
{
    struct cleat_store_call call = {operation, 1, item, CLEAT_NEVER};

    item->status = CLEAT_PENDING;
    assert_int_equal(rig.store.call(rig.store.context, &call), CLEAT_OK);
    return (enum cleat_status)item->status;
}

static void
r9_a_lent_value_with_room_is_one_object_with_its_header(void **state)
{
    static _Alignas(64) unsigned char memory[CLEAT_FRAME_BYTES + 5000];
    unsigned char *payload = memory + CLEAT_FRAME_BYTES;
    unsigned char sent[5000];
    struct cleat_store_item item;
    struct cleat_mooncake_view view;

    (void)state;
    assert_int_equal(rig.store.lend(rig.store.context, memory, sizeof memory,
                                    true, &rig.error),
                     CLEAT_OK);
    cleat_mooncake_look(&rig.store, &view);
    assert_int_equal(view.registered, 1);
    memset(&item, 0, sizeof item);
    item.key = rig_key("lent");
    item.key_bytes = (uint32_t)strlen(item.key);
    item.payload = payload;
    item.bytes = sizeof sent;
    item.flags = CLEAT_STORE_ROOM;
    rig_fill(payload, sizeof sent, 3);
    memcpy(sent, payload, sizeof sent);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_EXISTS, &item), CLEAT_NOT_FOUND);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_PUT, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_EXISTS, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_SIZE, &item), CLEAT_OK);
    assert_int_equal(item.actual, sizeof sent);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_OK);
    payload[4999] ^= 1;
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_COMPARE, &item), CLEAT_CORRUPT);
    memset(memory, 0, sizeof memory);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_OK);
    assert_memory_equal(payload, sent, sizeof sent);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_REMOVE, &item), CLEAT_OK);
    assert_int_equal(do_item(CLEAT_TRANSFER_DO_GET, &item), CLEAT_NOT_FOUND);
    assert_int_equal(rig.store.lend(rig.store.context, memory, sizeof memory,
                                    false, &rig.error),
                     CLEAT_OK);
    cleat_mooncake_look(&rig.store, &view);
    assert_int_equal(view.registered, 0);
}

static void raw_bytes_go_as_they_are(void **state)
{
    struct cleat_transfer_value value = rig_value(rig_key("raw"), NULL, 7);
    char sent[] = "as they";
    char got[7];

    (void)state;
    value.payload = sent;
    value.flags = CLEAT_STORE_RAW;
    assert_int_equal(
        cleat_transfer_put(rig.service, &value, 1, NULL, NULL, &rig.error),
        CLEAT_OK);
    value.payload = got;
    assert_int_equal(
        cleat_transfer_get(rig.service, &value, 1, NULL, NULL, &rig.error),
        CLEAT_OK);
    assert_memory_equal(got, "as they", 7);
}

/* ---- which Mooncake ------------------------------------------------------ */

static pid_t master;
static char address[64];

static void start_master(const char *program)
{
    unsigned port = 20000u + (unsigned)getpid() % 20000u;
    char rpc[64];
    char metrics[64];

    (void)snprintf(rpc, sizeof rpc, "--rpc_port=%u", port);
    (void)snprintf(metrics, sizeof metrics, "--metrics_port=%u", port + 1);
    (void)snprintf(address, sizeof address, "127.0.0.1:%u", port);
    master = fork();
    if (master == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(program, program, "--rpc_address=127.0.0.1", rpc, metrics,
              (char *)NULL);
        fprintf(stderr, "mooncake_test: cannot run %s: %s\n", program,
                strerror(errno));
        _exit(127);
    }
}

/* The strings of all rigs. */
static const char *library;
static const char *master_address;

static int open_rig(void **state)
{
    (void)state;
    rig_reset();
    rig_mooncake.lib_path = library;
    rig_mooncake.master = master_address;
    rig_open();
    rig_ready();
    return 0;
}

static int close_rig(void **state)
{
    (void)state;
    rig_close();
    return 0;
}

static int run_on_both(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(r8_empty_small_and_large_values_come_back),
        cmocka_unit_test(
            r8_tensors_come_back_with_dtype_and_shape_or_are_refused),
        cmocka_unit_test(r8_an_empty_tensor_keeps_its_shape),
        cmocka_unit_test(r7_create_replace_and_keep_do_what_they_say),
        cmocka_unit_test(r6_a_put_may_be_read_back_before_it_is_ok),
        cmocka_unit_test(r2_only_a_value_of_that_size_is_a_success),
        cmocka_unit_test(r11_a_missing_key_fails_alone_and_by_name),
        cmocka_unit_test(r3_a_key_several_times_is_got_by_all_and_put_by_none),
        cmocka_unit_test(
            what_is_removed_does_not_exist_and_may_be_removed_again),
        cmocka_unit_test(r12_thousands_of_keys_go_in_one_call),
        cmocka_unit_test(four_threads_use_one_service),
        cmocka_unit_test(a_get_can_wait_for_its_producer),
        cmocka_unit_test(
            r9_a_lent_value_with_room_is_one_object_with_its_header),
        cmocka_unit_test(raw_bytes_go_as_they_are),
    };

    return cmocka_run_group_tests_name(name, tests, open_rig, close_rig);
}

static int on_the_real_one(void)
{
    const char *told = getenv("CLEAT_MOONCAKE_MASTER");
    int failed;

    library = getenv("CLEAT_MOONCAKE_LIB");
    if (library == NULL || told == NULL) {
        puts("SKIPPED: nothing was tested against a real Mooncake Store. Set\n"
             "  CLEAT_MOONCAKE_LIB=/path/to/libmooncake_store.so\n"
             "  CLEAT_MOONCAKE_MASTER=host:port, or /path/to/mooncake_master\n"
             "and run `ctest -L mooncake-real`.");
        return 77;
    }
    master_address = told;
    if (strchr(told, '/') != NULL) {
        start_master(told);
        master_address = address;
    }
    failed = run_on_both("a real Mooncake Store");
    if (master > 0) {
        (void)kill(master, SIGTERM);
        (void)waitpid(master, NULL, 0);
    }
    return failed != 0;
}

static int on_the_fake(void)
{
    char path[] = "/tmp/cleat-mooncake-XXXXXX";
    int file = mkstemp(path);
    struct fake_mooncake *fake;
    int failed;

    if (file < 0) { return 1; }
    (void)close(file);
    setenv("FAKE_MOONCAKE_CLUSTER", path, 1);
    setenv("FAKE_MOONCAKE_STRICT_REGISTRATION", "1", 1);
    library = FAKE_MOONCAKE_LIBRARY;
    fake = fake_mooncake_start(path, NULL);
    failed = run_on_both("the fake Mooncake Store");
    fake_mooncake_end(fake, true);
    return (failed != 0) | (mooncake_faults() != 0);
}

int main(int count, char **words)
{
    if (count == 2 && strcmp(words[1], "--real") == 0) {
        return on_the_real_one();
    }
    return on_the_fake();
}
