/* Cleat: a libmooncake_store.so that is none. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Behaves as the C interface of Mooncake Store was measured to behave, over a
 * cluster that is a file (see control.h), with what can go wrong made to order.
 * What the real one answers by corrupting memory ends the process here: a call
 * of a handle that was destroyed, is being destroyed, or came through a fork;
 * memory of an accelerator; and with FAKE_MOONCAKE_STRICT_REGISTRATION=1 a
 * buffer that is not registered. To register memory is not to touch it. */
#define _GNU_SOURCE
#include <regex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "port/mooncake/abi.h"
#include "test/fakes/mooncake/cluster.h"

/* A definition below that is not as declared there does not compile. */
#define DECLARE(result, name, parameters) \
    mooncake_store_##name##_fn mooncake_store_##name;
CLEAT_MOONCAKE_FUNCTIONS(DECLARE)
CLEAT_MOONCAKE_NEWER(DECLARE)
#undef DECLARE

#define HANDLES 512u
#define BUFFERS 8192u

/* As measured. */
#define REFUSED_MS 4300u
#define NO_PORT_LEFT_MS 90000u
#define BAD_METADATA_MS 34u
#define BAD_PROTOCOL_MS 1100u
#define DESTROY_MS 1000u

enum handle_life { HANDLE_NONE, HANDLE_MADE, HANDLE_READY, HANDLE_DESTROYED };

struct buffer {
    uintptr_t start;
    size_t bytes;
};

struct handle {
    atomic_uint life;
    atomic_int calls;
    atomic_uint refused; /* the master, the last time */
    pid_t pid;
    uint32_t client;
    bool checksum;
    bool strict;
    uint64_t segment_bytes;
    uint64_t local_buffer_bytes;
    struct fake_mooncake fake;
    pthread_mutex_t buffers_lock;
    uint32_t buffers_count;
    struct buffer buffers[BUFFERS];
    char hostname[256];
};

static struct handle handles[HANDLES];
static atomic_uint handles_made;

/* Read when the library is loaded, as the real one does. */
static uint64_t rpc_timeout_ms;
static uint64_t tcp_status_timeout_ms;
static int64_t rpc_timeout_set;
static int64_t rpc_connect_timeout_set;

static int64_t number_in_environment(const char *name)
{
    const char *text = getenv(name);

    return text != NULL && text[0] != '\0' ? strtoll(text, NULL, 10) : -1;
}

__attribute__((constructor)) static void read_environment(void)
{
    int64_t status_s = number_in_environment("MC_TCP_STATUS_TIMEOUT_SEC");

    rpc_timeout_set = number_in_environment("MC_RPC_TIMEOUT_MS");
    rpc_connect_timeout_set = number_in_environment(
        "MC_RPC_CONNECT_TIMEOUT_MS");
    rpc_timeout_ms = rpc_timeout_set >= 0 ? (uint64_t)rpc_timeout_set : 30000u;
    tcp_status_timeout_ms = status_s >= 0 ? (uint64_t)status_s * 1000u : 30000u;
}

/* ---- handles ------------------------------------------------------------- */

/* NULL for NULL; must be followed by leave. */
static struct handle *enter(mooncake_store_t store, const char *function)
{
    struct handle *handle = store;
    unsigned life;

    if (store == NULL) { return NULL; }
    if (handle < handles || handle >= handles + HANDLES ||
        atomic_load(&handle->life) == HANDLE_NONE) {
        fake_abort("mooncake_store_%s of what is no handle", function);
    }
    atomic_fetch_add(&handle->calls, 1);
    life = atomic_load(&handle->life);
    if (life == HANDLE_DESTROYED) {
        fake_abort("mooncake_store_%s of a handle that was destroyed",
                   function);
    }
    if (life == HANDLE_READY && handle->pid != getpid()) {
        fake_abort("mooncake_store_%s of a handle that came through a fork",
                   function);
    }
    return handle;
}

static void leave(struct handle *handle)
{
    atomic_fetch_sub(&handle->calls, 1);
}

static bool is_ready(const struct handle *handle)
{
    return atomic_load(&handle->life) == HANDLE_READY;
}

mooncake_store_t mooncake_store_create(void)
{
    unsigned index = atomic_fetch_add(&handles_made, 1);
    struct handle *handle = &handles[index];

    if (index >= HANDLES) { return NULL; }
    pthread_mutex_init(&handle->buffers_lock, NULL);
    handle->strict = number_in_environment(
                         "FAKE_MOONCAKE_STRICT_REGISTRATION") == 1;
    handle->checksum = number_in_environment("MOONCAKE_STORE_CHECKSUM") == 1;
    atomic_store(&handle->life, HANDLE_MADE);
    return handle;
}

void mooncake_store_destroy(mooncake_store_t store)
{
    struct handle *handle = enter(store, "destroy");
    struct fake_mooncake *fake;
    bool was_ready;

    if (handle == NULL) { return; }
    was_ready = is_ready(handle);
    atomic_store(&handle->life, HANDLE_DESTROYED);
    if (atomic_load(&handle->calls) != 1) {
        fake_abort("mooncake_store_destroy of a handle that is in a call");
    }
    if (was_ready) {
        fake = &handle->fake;
        fake_lock(fake);
        fake_wait(fake, fake_now_ms(fake->state) + DESTROY_MS, false);
        fake_leave(fake, handle->client);
        fake->state->facts.handles--;
        fake_unlock(fake);
        fake_close(fake);
    }
    leave(handle);
}

/* ---- setup --------------------------------------------------------------- */

static void find_cluster(const char *master, char *path, size_t bytes)
{
    const char *told = getenv("FAKE_MOONCAKE_CLUSTER");
    int prefix;

    if (told != NULL && told[0] != '\0') {
        snprintf(path, bytes, "%s", told);
    } else if (master[0] == '/') {
        snprintf(path, bytes, "%s", master);
    } else {
        prefix = snprintf(path, bytes, "/dev/shm/fake-mooncake-%s", master);
        if (prefix < 0 || (size_t)prefix >= bytes) { path[0] = '\0'; }
        for (char *at = path + sizeof "/dev/shm/fake-mooncake-" - 1; *at;
             at++) {
            if (*at == '/' || *at == ':') { *at = '_'; }
        }
    }
}

static bool is_metadata(const char *server)
{
    static const char *const known[] = {"P2PHANDSHAKE", "http://", "https://",
                                        "etcd://", "redis://"};

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strncmp(server, known[i], strlen(known[i])) == 0) { return true; }
    }
    return false;
}

static int wait_and_say(struct fake_mooncake *fake, uint64_t ms, int code)
{
    fake_wait(fake, fake_now_ms(fake->state) + ms, false);
    return code;
}

struct setup {
    const char *hostname;
    const char *metadata;
    const char *protocol;
    uint64_t segment_bytes;
    uint64_t local_buffer_bytes;
};

/* Holds a call back for as long as a rule says. True: it fails. */
static bool held_or_failed(struct fake_mooncake *fake,
                           const struct fake_mooncake_rule *rule,
                           bool *fails_done)
{
    struct fake_state *state = fake->state;
    static const struct timespec moment = {0, 500000};
    uint32_t released = state->released;

    switch (rule->action) {
    case FAKE_CALL_FAILS: return true;
    case FAKE_CALL_FAILS_DONE: *fails_done = true; break;
    case FAKE_CALL_WAITS:
        fake_wait(fake, fake_now_ms(state) + rule->argument, false);
        break;
    default:
        state->facts.held++;
        while (state->released == released) {
            fake_unlock(fake);
            nanosleep(&moment, NULL);
            fake_lock(fake);
        }
        state->facts.held--;
        break;
    }
    return false;
}

/* Why a cluster cannot be joined; 0: it can. */
static int refuse(struct fake_mooncake *fake, const struct setup *setup)
{
    bool port = strchr(setup->hostname, ':') != NULL;

    if (!is_metadata(setup->metadata)) {
        return wait_and_say(fake, BAD_METADATA_MS, MOONCAKE_INVALID_PARAMS);
    }
    if (strcmp(setup->protocol, "tcp") != 0) {
        return wait_and_say(fake, BAD_PROTOCOL_MS, MOONCAKE_INVALID_PARAMS);
    }
    if (fake->state->master == FAKE_MASTER_STOPPED) {
        fake_wait(fake, fake_now_ms(fake->state) + rpc_timeout_ms, true);
    }
    if (fake->state->master != FAKE_MASTER_RUNS) {
        return wait_and_say(fake, port ? REFUSED_MS : NO_PORT_LEFT_MS,
                            port ? MOONCAKE_INVALID_PARAMS
                                 : MOONCAKE_INTERNAL_ERROR);
    }
    return 0;
}

static int join(struct handle *handle, struct fake_mooncake *fake,
                const struct setup *setup)
{
    struct fake_mooncake_facts *facts = &fake->state->facts;
    int client = fake_join(fake, getpid(), setup->segment_bytes);

    if (client < 0) { return MOONCAKE_INVALID_PARAMS; }
    handle->client = (uint32_t)client;
    handle->pid = getpid();
    handle->segment_bytes = setup->segment_bytes;
    handle->local_buffer_bytes = setup->local_buffer_bytes;
    snprintf(handle->hostname, sizeof handle->hostname,
             strchr(setup->hostname, ':') ? "%s" : "%s:%d", setup->hostname,
             12300 + client);
    snprintf(facts->hostname, sizeof facts->hostname, "%s", setup->hostname);
    facts->local_buffer_bytes = setup->local_buffer_bytes;
    facts->rpc_timeout_ms = rpc_timeout_set;
    facts->rpc_connect_timeout_ms = rpc_connect_timeout_set;
    facts->handles++;
    return 0;
}

static int set_up(struct handle *handle, struct fake_mooncake *fake,
                  const struct setup *setup)
{
    struct fake_state *state = fake->state;
    const struct fake_mooncake_rule *rule;
    const char *no_key = "";
    bool ignored = false;
    int code;

    state->counts[FAKE_SETUP].calls++;
    rule = fake_rule_for_call(state, FAKE_SETUP, &no_key, 1);
    if (rule != NULL && held_or_failed(fake, rule, &ignored)) {
        return MOONCAKE_INTERNAL_ERROR;
    }
    rule = fake_rule_for_key(state, FAKE_SETUP, "");
    if (rule != NULL) { return wait_and_say(fake, rule->argument, rule->code); }
    code = refuse(fake, setup);
    return code != 0 ? code : join(handle, fake, setup);
}

int mooncake_store_setup(mooncake_store_t store, const char *local_hostname,
                         const char *metadata_server,
                         uint64_t global_segment_size,
                         uint64_t local_buffer_size, const char *protocol,
                         const char *device_name,
                         const char *master_server_addr)
{
    struct setup setup = {local_hostname, metadata_server,
                          protocol ? protocol : "tcp", global_segment_size,
                          local_buffer_size};
    const char *master = master_server_addr ? master_server_addr
                                            : "127.0.0.1:50051";
    struct handle *handle = enter(store, "setup");
    char path[4096];
    int code = MOONCAKE_INTERNAL_ERROR;

    (void)device_name;
    if (handle == NULL) { return code; }
    if (local_hostname != NULL && metadata_server != NULL) {
        find_cluster(master, path, sizeof path);
        if (is_ready(handle)) {
            code = 0;
        } else if (!fake_open(path, &handle->fake)) {
            code = strchr(local_hostname, ':') ? MOONCAKE_INVALID_PARAMS
                                               : MOONCAKE_INTERNAL_ERROR;
        } else {
            fake_lock(&handle->fake);
            code = set_up(handle, &handle->fake, &setup);
            fake_unlock(&handle->fake);
            if (code != 0) {
                fake_close(&handle->fake);
            } else {
                atomic_store(&handle->life, HANDLE_READY);
            }
        }
    }
    leave(handle);
    return code;
}

/* Always localhost:12345, with a metadata server that nobody has. */
int mooncake_store_init_all(mooncake_store_t store, const char *protocol,
                            const char *device_name,
                            uint64_t mount_segment_size)
{
    struct handle *handle = enter(store, "init_all");

    (void)protocol;
    (void)device_name;
    (void)mount_segment_size;
    if (handle == NULL) { return MOONCAKE_INTERNAL_ERROR; }
    leave(handle);
    return MOONCAKE_INVALID_PARAMS;
}

/* ---- what every call begins and ends with -------------------------------- */

struct call {
    struct handle *handle;
    struct fake_mooncake *fake;
    uint64_t number;
    enum fake_mooncake_operation operation;
    bool fails_done;
};

/* Takes the lock. True: the call fails as a whole. */
static bool begin(struct call *call, struct handle *handle,
                  enum fake_mooncake_operation operation,
                  const char *const *keys, size_t count)
{
    struct fake_state *state = handle->fake.state;
    const struct fake_mooncake_rule *rule;

    memset(call, 0, sizeof *call);
    call->handle = handle;
    call->fake = &handle->fake;
    call->operation = operation;
    fake_lock(call->fake);
    call->number = ++state->calls_made;
    state->counts[operation].calls++;
    state->calls_now++;
    if (state->calls_now > state->facts.calls_at_once) {
        state->facts.calls_at_once = state->calls_now;
    }
    rule = fake_rule_for_call(state, operation, keys, count);
    return rule != NULL && held_or_failed(call->fake, rule, &call->fails_done);
}

static void end(struct call *call)
{
    call->fake->state->calls_now--;
    fake_unlock(call->fake);
}

/* Writes down how a key fared. */
static void note(struct call *call, const char *key, const void *pointer,
                 uint64_t bytes, int64_t result)
{
    struct fake_state *state = call->fake->state;
    struct fake_mooncake_seen *seen =
        &state->seen[state->seen_count++ % FAKE_SEEN];

    memset(seen, 0, sizeof *seen);
    seen->call = call->number;
    seen->pointer = (uint64_t)(uintptr_t)pointer;
    seen->bytes = bytes;
    seen->at_ms = fake_now_ms(state);
    seen->result = result;
    seen->operation = (uint32_t)call->operation;
    seen->client = call->handle->client;
    snprintf(seen->key, sizeof seen->key, "%s", key);
    state->counts[call->operation].keys++;
    state->counts[call->operation].bytes += bytes;
}

/* 0: the master answers. */
static int reach_master(struct call *call)
{
    struct fake_state *state = call->fake->state;

    if (state->master == FAKE_MASTER_STOPPED) {
        fake_wait(call->fake, fake_now_ms(state) + rpc_timeout_ms, true);
    }
    if (state->master == FAKE_MASTER_STOPPED) { return MOONCAKE_RPC_TIMEOUT; }
    if (state->master == FAKE_MASTER_DEAD) {
        if (atomic_exchange(&call->handle->refused, 1) == 1) {
            return wait_and_say(call->fake, REFUSED_MS, MOONCAKE_RPC_FAIL);
        }
        return MOONCAKE_RPC_FAIL;
    }
    atomic_store(&call->handle->refused, 0);
    return 0;
}

static bool is_registered(struct handle *handle, uintptr_t start, size_t bytes)
{
    bool found = false;

    pthread_mutex_lock(&handle->buffers_lock);
    for (uint32_t i = 0; i < handle->buffers_count; i++) {
        const struct buffer *buffer = &handle->buffers[i];

        found = found || (start >= buffer->start &&
                          start + bytes <= buffer->start + buffer->bytes);
    }
    pthread_mutex_unlock(&handle->buffers_lock);
    return found;
}

/* What the real one would read or write wherever it points. */
static void check_buffer(struct call *call, const char *key, const void *start,
                         size_t bytes, bool by_copy)
{
    const struct fake_state *state = call->fake->state;
    uintptr_t at = (uintptr_t)start;

    if (bytes != 0 && at < state->device_start + state->device_bytes &&
        state->device_start < at + bytes) {
        fake_abort("the buffer of '%s' is memory of an accelerator, and the "
                   "library was built without any",
                   key);
    }
    if (bytes != 0 && !by_copy && call->handle->strict &&
        !is_registered(call->handle, at, bytes)) {
        fake_abort("the buffer of '%s' is not registered", key);
    }
}

/* A key's place in a batch. */
struct plan {
    const struct fake_mooncake_rule *rule;
    struct fake_object *object;
    uint64_t order; /* of the object, so that another one is known as such */
    int64_t result;
    uint64_t hash;
    uint32_t last; /* of the same key */
    bool going;    /* has no result yet */
};

static struct plan *make_plan(const char *const *keys, size_t count)
{
    struct plan *plan = fake_scratch(count * sizeof *plan);

    for (size_t i = count; i-- > 0;) {
        plan[i].hash = fake_checksum((const unsigned char *)keys[i],
                                     strlen(keys[i]));
        plan[i].last = (uint32_t)i;
        plan[i].going = true;
        for (size_t j = i + 1; j < count; j++) {
            if (plan[j].hash == plan[i].hash && strcmp(keys[i], keys[j]) == 0) {
                plan[i].last = plan[j].last;
                break;
            }
        }
    }
    return plan;
}

static void fare(struct plan *plan, int64_t result)
{
    plan->result = result;
    plan->going = false;
}

static bool is_there(const struct plan *plan)
{
    return plan->object->state != FAKE_OBJECT_FREE &&
           plan->object->order == plan->order;
}

static const struct fake_client *owner_of(const struct call *call,
                                          const struct plan *plan)
{
    return &call->fake->state->clients[plan->object->segment];
}

/* Bytes move between a client and the objects' owners, of all keys at once: one
 * owner that stands still is waited for once. */
static void wait_for_owners(struct call *call, const struct plan *plan,
                            size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (plan[i].object != NULL &&
            owner_of(call, &plan[i])->life == FAKE_CLIENT_STOPPED) {
            fake_wait(call->fake,
                      fake_now_ms(call->fake->state) + tcp_status_timeout_ms,
                      false);
            return;
        }
    }
}

/* ---- put ----------------------------------------------------------------- */

enum put_kind { PUT_COPY, PUT_FROM, PUT_BATCH, PUT_UPSERT };

struct put {
    const char *const *keys;
    void *const *buffers;
    const size_t *sizes;
    size_t count;
    const mooncake_replicate_config_t *config;
    enum put_kind kind;
};

/* What is wrong with it, whoever looks; 1: nothing. */
static int unfit(const struct call *call, const struct put *put, size_t i)
{
    if (put->sizes[i] == 0) {
        return put->kind == PUT_FROM ? 0 : MOONCAKE_INVALID_PARAMS;
    }
    if (put->keys[i][0] == '\0' ||
        (put->config != NULL && put->config->replica_num == 0) ||
        (put->kind == PUT_COPY &&
         put->sizes[i] > call->handle->local_buffer_bytes)) {
        return MOONCAKE_INVALID_PARAMS;
    }
    return 1;
}

static bool fits_a_segment(const struct fake_state *state, uint64_t bytes)
{
    for (uint32_t i = 0; i < FAKE_CLIENTS; i++) {
        const struct fake_client *client = &state->clients[i];

        if (client->life != FAKE_CLIENT_FREE && client->mounted &&
            client->segment_bytes >= bytes) {
            return true;
        }
    }
    return false;
}

/* The master is asked to begin one. */
static void start_put(struct call *call, const struct put *put, size_t i,
                      struct plan *plan)
{
    struct fake_mooncake *fake = call->fake;
    struct fake_state *state = fake->state;
    struct fake_object *there = fake_find(fake, put->keys[i]);

    if (there != NULL &&
        (put->kind == PUT_UPSERT ||
         (there->state == FAKE_OBJECT_PROCESSING &&
          fake_now_ms(state) - there->begun_ms >= state->config.discard_ms))) {
        fake_drop(fake, there);
        there = NULL;
    }
    if (there != NULL) {
        fare(plan, 0); /* -705, which the client calls success */
        return;
    }
    plan->object = fake_add(fake, put->keys[i], put->sizes[i],
                            FAKE_OBJECT_PROCESSING, true);
    if (plan->object == NULL) {
        fare(plan, MOONCAKE_NO_AVAILABLE_HANDLE);
        if (fits_a_segment(state, put->sizes[i])) { fake_evict(fake); }
        return;
    }
    plan->object->pinned = put->config != NULL &&
                           put->config->with_hard_pin != 0;
    plan->order = plan->object->order;
}

/* With the lock held, and what can be derived again in any state. */
static void die_where_told(struct fake_state *state, const struct plan *plan)
{
    if (plan->rule != NULL && plan->rule->action == FAKE_DIE) {
        memset(state->buckets, 0xFF, sizeof state->buckets);
        memset(state->key_map, 0, sizeof state->key_map);
        state->free_object = FAKE_NOBODY;
        raise(SIGKILL);
    }
}

/* The bytes go, and the master is told that it has ended. */
static void finish_put(struct call *call, const struct put *put, size_t i,
                       struct plan *plan, int master)
{
    struct fake_mooncake *fake = call->fake;
    struct fake_object *object = plan->object;

    if (!is_there(plan)) {
        fare(plan, MOONCAKE_TRANSFER_FAIL);
    } else if (owner_of(call, plan)->life != FAKE_CLIENT_RUNS) {
        fare(plan, MOONCAKE_TRANSFER_FAIL);
        if (master == 0) { fake_drop(fake, object); }
    } else if (master != 0) {
        fare(plan, master); /* it stays as it is */
    } else if (plan->rule != NULL && plan->rule->action == FAKE_STAY) {
        fare(plan, plan->rule->code);
    } else {
        memcpy(fake_bytes(fake, object), put->buffers[i], put->sizes[i]);
        object->checked = call->handle->checksum;
        if (object->checked) {
            object->checksum = fake_checksum(fake_bytes(fake, object),
                                             object->bytes);
        }
        object->state = FAKE_OBJECT_COMPLETE;
        fare(plan, 0);
        if (plan->rule != NULL && plan->rule->action == FAKE_VANISH) {
            fake_drop(fake, object);
        }
    }
    if (plan->rule != NULL && plan->rule->action == FAKE_ANSWER_DONE) {
        plan->result = plan->rule->code;
    }
}

/* Each key once, the last of it: the master is asked to begin all of them, and
 * told the end of all of them. */
static void put_all(struct call *call, const struct put *put, struct plan *plan)
{
    struct fake_state *state = call->fake->state;
    int master = reach_master(call);

    for (size_t i = 0; i < put->count; i++) {
        if (!plan[i].going || plan[i].last != i) { continue; }
        plan[i].rule = fake_rule_for_key(state, call->operation, put->keys[i]);
        if (plan[i].rule != NULL && plan[i].rule->action == FAKE_ANSWER) {
            fare(&plan[i], plan[i].rule->code);
        } else if (master != 0) {
            fare(&plan[i], master);
            if (master == MOONCAKE_RPC_TIMEOUT) {
                (void)fake_add(call->fake, put->keys[i], put->sizes[i],
                               FAKE_OBJECT_ASKED_PUT, false);
            }
        } else {
            start_put(call, put, i, &plan[i]);
        }
    }
    if (master != 0) { return; }
    wait_for_owners(call, plan, put->count);
    master = state->master == FAKE_MASTER_RUNS ? 0 : reach_master(call);
    for (size_t i = 0; i < put->count; i++) {
        if (plan[i].going && plan[i].last == i) {
            die_where_told(state, &plan[i]);
            finish_put(call, put, i, &plan[i], master);
        }
    }
    fake_evict_above_watermark(call->fake);
}

static bool is_silent(const struct plan *plan)
{
    return plan->rule != NULL && plan->rule->action == FAKE_SILENT;
}

static int put_under_lock(struct call *call, const struct put *put,
                          int *results)
{
    struct plan *plan = make_plan(put->keys, put->count);

    for (size_t i = 0; i < put->count; i++) {
        int fit = unfit(call, put, i);

        check_buffer(call, put->keys[i], put->buffers[i], put->sizes[i],
                     put->kind == PUT_COPY);
        if (fit != 1) { fare(&plan[i], fit); }
        if (put->config != NULL && put->config->replica_num == 0) {
            call->fake->state->facts.replicas_none++;
        }
    }
    put_all(call, put, plan);
    for (size_t i = 0; i < put->count; i++) {
        const struct plan *last = &plan[plan[i].last];

        if (plan[i].going) { fare(&plan[i], last->result); }
        note(call, put->keys[i], put->buffers[i], put->sizes[i],
             plan[i].result);
        if (!is_silent(last) && !call->fails_done) {
            results[i] = (int)plan[i].result;
        }
    }
    fake_scratch_free(plan, put->count * sizeof *plan);
    return call->fails_done ? MOONCAKE_INTERNAL_ERROR : 0;
}

static int put_many(struct handle *handle, const struct put *put, int *results)
{
    struct call call;
    bool upsert = put->kind == PUT_UPSERT;
    int code = MOONCAKE_INTERNAL_ERROR;

    if (put->count == 0) { return 0; }
    if (!begin(&call, handle, upsert ? FAKE_UPSERT : FAKE_PUT, put->keys,
               put->count)) {
        code = put_under_lock(&call, put, results);
    }
    end(&call);
    return code;
}

static int put_one(mooncake_store_t store, const char *key, void *buffer,
                   size_t size, const mooncake_replicate_config_t *config,
                   enum put_kind kind, const char *function)
{
    struct handle *handle = enter(store, function);
    struct put put = {&key, &buffer, &size, 1, config, kind};
    int result = MOONCAKE_INTERNAL_ERROR;

    if (handle == NULL) { return result; }
    if (!is_ready(handle)) {
        result = MOONCAKE_INVALID_PARAMS;
    } else if (key != NULL && (buffer != NULL || size == 0)) {
        (void)put_many(handle, &put, &result);
    }
    leave(handle);
    return result;
}

int mooncake_store_put(mooncake_store_t store, const char *key,
                       const void *value, size_t size,
                       const mooncake_replicate_config_t *config)
{
    union {
        const void *read;
        void *write;
    } buffer = {value};

    return put_one(store, key, buffer.write, size, config, PUT_COPY, "put");
}

int mooncake_store_put_from(mooncake_store_t store, const char *key,
                            void *buffer, size_t size,
                            const mooncake_replicate_config_t *config)
{
    return put_one(store, key, buffer, size, config, PUT_FROM, "put_from");
}

/* The real one has no client yet, and looks into it. */
static void crash_where_the_real_one_does(const struct handle *handle)
{
    if (!is_ready(handle)) {
        fputs("fake mooncake: a batch call of a handle that is not set up\n",
              stderr);
        raise(SIGSEGV);
    }
}

static int put_batch(mooncake_store_t store, const char **keys, void **buffers,
                     const size_t *sizes, size_t count,
                     const mooncake_replicate_config_t *config, int *results,
                     enum put_kind kind)
{
    struct handle *handle = enter(store, "batch_put_from");
    struct put put = {keys, buffers, sizes, count, config, kind};
    int code = MOONCAKE_INTERNAL_ERROR;

    if (handle == NULL) { return code; }
    if (keys != NULL && buffers != NULL && sizes != NULL && results != NULL) {
        crash_where_the_real_one_does(handle);
        code = put_many(handle, &put, results);
    }
    leave(handle);
    return code;
}

int mooncake_store_batch_put_from(mooncake_store_t store, const char **keys,
                                  void **buffers, const size_t *sizes,
                                  size_t count,
                                  const mooncake_replicate_config_t *config,
                                  int *results_out)
{
    return put_batch(store, keys, buffers, sizes, count, config, results_out,
                     PUT_BATCH);
}

int mooncake_store_batch_upsert_from(mooncake_store_t store, const char **keys,
                                     void **buffers, const size_t *sizes,
                                     size_t count,
                                     const mooncake_replicate_config_t *config,
                                     int *results_out)
{
    return put_batch(store, keys, buffers, sizes, count, config, results_out,
                     PUT_UPSERT);
}

/* ---- get ----------------------------------------------------------------- */

struct get {
    const char *const *keys;
    void *const *buffers;
    const size_t *sizes;
    size_t count;
};

static void grant_lease(struct fake_state *state, struct fake_object *object)
{
    object->lease_ms = fake_now_ms(state) + state->config.lease_ms;
}

/* The master is asked where it is. */
static void locate(struct call *call, const struct get *get, size_t i,
                   struct plan *plan)
{
    struct fake_object *object = fake_find(call->fake, get->keys[i]);

    if (get->keys[i][0] == '\0') {
        fare(plan, MOONCAKE_INVALID_PARAMS);
    } else if (object == NULL) {
        fare(plan, MOONCAKE_OBJECT_NOT_FOUND);
    } else if (object->state == FAKE_OBJECT_PROCESSING) {
        fare(plan, MOONCAKE_REPLICA_IS_NOT_READY);
    } else {
        grant_lease(call->fake->state, object);
        if (get->sizes[i] < object->bytes) {
            fare(plan, MOONCAKE_INVALID_PARAMS);
        } else {
            plan->object = object;
            plan->order = object->order;
        }
    }
}

static void bend_read(const struct fake_mooncake_rule *rule,
                      unsigned char *buffer, uint64_t bytes, struct plan *plan)
{
    uint64_t bit = rule->argument;

    switch (rule->action) {
    case FAKE_ANSWER_DONE: plan->result = rule->code; break;
    case FAKE_MORE: plan->result += rule->argument; break;
    case FAKE_FLIP_READ:
        if (bit / 8 < bytes) {
            buffer[bit / 8] = (unsigned char)(buffer[bit / 8] ^
                                              (1u << (bit % 8)));
        }
        break;
    default: break;
    }
}

/* The bytes come. Of a key that is in the batch again, they come into the last
 * buffer alone. */
static void fetch(struct call *call, const struct get *get, size_t i,
                  struct plan *plan)
{
    const struct fake_mooncake_rule *rule = plan->rule;
    const struct fake_object *object = plan->object;
    const unsigned char *bytes = fake_bytes(call->fake, object);
    uint64_t count = object->bytes;

    if (!is_there(plan) || owner_of(call, plan)->life != FAKE_CLIENT_RUNS) {
        fare(plan, MOONCAKE_TRANSFER_FAIL);
        return;
    }
    if (rule != NULL && rule->action == FAKE_DIRTY) {
        memset(get->buffers[i], 0xDB, (size_t)((count + 1) / 2));
        fare(plan, rule->code);
        return;
    }
    if (rule != NULL && rule->action == FAKE_LESS) {
        count -= rule->argument < count ? rule->argument : count;
    }
    if (plan->last == i) { memcpy(get->buffers[i], bytes, (size_t)count); }
    fare(plan, (int64_t)count);
    if (call->handle->checksum && object->checked &&
        fake_checksum(bytes, object->bytes) != object->checksum) {
        fare(plan, MOONCAKE_CHECKSUM_MISMATCH);
    }
    if (rule != NULL) { bend_read(rule, get->buffers[i], count, plan); }
}

static void get_all(struct call *call, const struct get *get, struct plan *plan)
{
    int master = reach_master(call);

    for (size_t i = 0; i < get->count; i++) {
        plan[i].rule = fake_rule_for_key(call->fake->state, FAKE_GET,
                                         get->keys[i]);
        if (plan[i].rule != NULL && plan[i].rule->action == FAKE_ANSWER) {
            fare(&plan[i], plan[i].rule->code);
        } else if (master != 0) {
            fare(&plan[i], master);
        } else {
            locate(call, get, i, &plan[i]);
        }
    }
    wait_for_owners(call, plan, get->count);
    for (size_t i = 0; i < get->count; i++) {
        if (plan[i].going) { fetch(call, get, i, &plan[i]); }
    }
}

static int get_many(struct handle *handle, const struct get *get,
                    int64_t *results)
{
    struct call call;
    int code = MOONCAKE_INTERNAL_ERROR;

    if (get->count == 0) { return 0; }
    if (!begin(&call, handle, FAKE_GET, get->keys, get->count)) {
        struct plan *plan = make_plan(get->keys, get->count);

        for (size_t i = 0; i < get->count; i++) {
            check_buffer(&call, get->keys[i], get->buffers[i], get->sizes[i],
                         false);
        }
        get_all(&call, get, plan);
        for (size_t i = 0; i < get->count; i++) {
            note(&call, get->keys[i], get->buffers[i], get->sizes[i],
                 plan[i].result);
            if (!is_silent(&plan[i]) && !call.fails_done) {
                results[i] = plan[i].result;
            }
        }
        fake_scratch_free(plan, get->count * sizeof *plan);
        code = call.fails_done ? MOONCAKE_INTERNAL_ERROR : 0;
    }
    end(&call);
    return code;
}

int64_t mooncake_store_get_into(mooncake_store_t store, const char *key,
                                void *buffer, size_t size)
{
    struct handle *handle = enter(store, "get_into");
    struct get get = {&key, &buffer, &size, 1};
    int64_t result = MOONCAKE_INTERNAL_ERROR;

    if (handle == NULL) { return result; }
    if (!is_ready(handle)) {
        result = MOONCAKE_INVALID_PARAMS;
    } else if (key != NULL && buffer != NULL) {
        (void)get_many(handle, &get, &result);
    }
    leave(handle);
    return result;
}

int mooncake_store_batch_get_into(mooncake_store_t store, const char **keys,
                                  void **buffers, const size_t *sizes,
                                  size_t count, int64_t *results_out)
{
    struct handle *handle = enter(store, "batch_get_into");
    struct get get = {keys, buffers, sizes, count};
    int code = MOONCAKE_INTERNAL_ERROR;

    if (handle == NULL) { return code; }
    if (keys != NULL && buffers != NULL && sizes != NULL &&
        results_out != NULL) {
        crash_where_the_real_one_does(handle);
        code = get_many(handle, &get, results_out);
    }
    leave(handle);
    return code;
}

/* ---- what the master alone can answer ------------------------------------ */

typedef int64_t master_fn(struct call *call, const char *key, int force);

static int64_t exists(struct call *call, const char *key, int force)
{
    struct fake_object *object = fake_find(call->fake, key);

    (void)force;
    if (object == NULL || object->state != FAKE_OBJECT_COMPLETE) { return 0; }
    grant_lease(call->fake->state, object);
    return 1;
}

static int64_t size_of(struct call *call, const char *key, int force)
{
    struct fake_object *object = fake_find(call->fake, key);

    (void)force;
    if (object == NULL) { return MOONCAKE_OBJECT_NOT_FOUND; }
    if (object->state != FAKE_OBJECT_COMPLETE) {
        return MOONCAKE_REPLICA_IS_NOT_READY;
    }
    grant_lease(call->fake->state, object);
    return (int64_t)object->bytes;
}

static int64_t remove_it(struct call *call, const char *key, int force)
{
    struct fake_object *object = fake_find(call->fake, key);

    if (object == NULL) { return MOONCAKE_OBJECT_NOT_FOUND; }
    if (object->state != FAKE_OBJECT_COMPLETE) {
        return MOONCAKE_REPLICA_IS_NOT_READY;
    }
    if (!force && object->lease_ms > fake_now_ms(call->fake->state)) {
        return MOONCAKE_OBJECT_HAS_LEASE;
    }
    fake_drop(call->fake, object);
    return 0;
}

/* The master was reached, or is not there. */
static int64_t ask(struct call *call, master_fn *function, const char *key,
                   int force, int master, bool *silent)
{
    const struct fake_mooncake_rule *rule = fake_rule_for_key(
        call->fake->state, call->operation, key);
    int64_t result;

    *silent = rule != NULL && rule->action == FAKE_SILENT;
    if (rule != NULL && rule->action == FAKE_ANSWER) {
        result = rule->code;
    } else if (master != 0) {
        result = master;
        if (master == MOONCAKE_RPC_TIMEOUT && function == remove_it) {
            (void)fake_add(call->fake, key, 0, FAKE_OBJECT_ASKED_REMOVE, false);
        }
    } else if (key[0] == '\0') {
        result = MOONCAKE_INVALID_PARAMS;
    } else {
        result = function(call, key, force);
        if (rule != NULL && rule->action == FAKE_ANSWER_DONE) {
            result = rule->code;
        }
    }
    note(call, key, NULL, 0, result);
    return result;
}

static int64_t ask_one(mooncake_store_t store, const char *name,
                       enum fake_mooncake_operation operation,
                       master_fn *function, const char *key, int force)
{
    struct handle *handle = enter(store, name);
    struct call call;
    bool silent;
    int64_t result = MOONCAKE_INTERNAL_ERROR;

    if (handle == NULL) { return result; }
    if (!is_ready(handle)) {
        result = MOONCAKE_INVALID_PARAMS;
    } else if (key != NULL) {
        if (!begin(&call, handle, operation, &key, 1)) {
            result = ask(&call, function, key, force, reach_master(&call),
                         &silent);
            if (call.fails_done) { result = MOONCAKE_INTERNAL_ERROR; }
        }
        end(&call);
    }
    leave(handle);
    return result;
}

static int ask_many(mooncake_store_t store, const char *name,
                    enum fake_mooncake_operation operation, master_fn *function,
                    const char **keys, size_t count, int force, int *results)
{
    struct handle *handle = enter(store, name);
    struct call call;
    bool fails = keys == NULL || results == NULL;
    bool ready = handle != NULL && is_ready(handle);

    if (handle == NULL) { return MOONCAKE_INTERNAL_ERROR; }
    for (size_t i = 0; !ready && !fails && i < count; i++) {
        results[i] = MOONCAKE_INVALID_PARAMS;
    }
    if (ready && !fails && count > 0) {
        fails = begin(&call, handle, operation, keys, count);
        if (!fails) {
            int master = reach_master(&call);

            for (size_t i = 0; i < count; i++) {
                bool silent;
                int64_t result = ask(&call, function, keys[i], force, master,
                                     &silent);

                if (!silent && !call.fails_done) { results[i] = (int)result; }
            }
            fails = call.fails_done;
        }
        end(&call);
    }
    leave(handle);
    return fails ? MOONCAKE_INTERNAL_ERROR : 0;
}

int mooncake_store_is_exist(mooncake_store_t store, const char *key)
{
    return (int)ask_one(store, "is_exist", FAKE_EXIST, exists, key, 0);
}

int mooncake_store_batch_is_exist(mooncake_store_t store, const char **keys,
                                  size_t count, int *results_out)
{
    return ask_many(store, "batch_is_exist", FAKE_EXIST, exists, keys, count, 0,
                    results_out);
}

int64_t mooncake_store_get_size(mooncake_store_t store, const char *key)
{
    return ask_one(store, "get_size", FAKE_SIZE, size_of, key, 0);
}

int mooncake_store_remove(mooncake_store_t store, const char *key, int force)
{
    return (int)ask_one(store, "remove", FAKE_REMOVE, remove_it, key, force);
}

int mooncake_store_batch_remove(mooncake_store_t store, const char **keys,
                                size_t count, int force, int *results_out)
{
    return ask_many(store, "batch_remove", FAKE_REMOVE, remove_it, keys, count,
                    force, results_out);
}

/* Those whose key matches; all, where there is no pattern. */
static int64_t remove_those(struct call *call, const regex_t *pattern,
                            int force)
{
    struct fake_mooncake *fake = call->fake;
    uint64_t now = fake_now_ms(fake->state);
    int64_t removed = 0;

    for (uint32_t i = 0; i < FAKE_OBJECTS; i++) {
        struct fake_object *object = &fake->state->objects[i];
        regmatch_t where = {0, (regoff_t)object->key_bytes};
        const unsigned char *key = fake->keys +
                                   (size_t)object->key_unit * FAKE_UNIT_BYTES;

        if (object->state == FAKE_OBJECT_COMPLETE &&
            (force || object->lease_ms <= now) &&
            (pattern == NULL || regexec(pattern, (const char *)key, 1, &where,
                                        REG_STARTEND) == 0)) {
            fake_drop(fake, object);
            removed++;
        }
    }
    return removed;
}

static int64_t remove_some(mooncake_store_t store, const char *name,
                           const regex_t *pattern, int force)
{
    struct handle *handle = enter(store, name);
    struct call call;
    int64_t result = MOONCAKE_INVALID_PARAMS;

    if (handle == NULL) { return MOONCAKE_INTERNAL_ERROR; }
    if (is_ready(handle)) {
        (void)begin(&call, handle, FAKE_REMOVE, NULL, 0);
        result = reach_master(&call);
        if (result == 0) { result = remove_those(&call, pattern, force); }
        end(&call);
    }
    leave(handle);
    return result;
}

int64_t mooncake_store_remove_by_regex(mooncake_store_t store,
                                       const char *pattern, int force)
{
    regex_t compiled;
    int64_t result;

    if (pattern == NULL) { return MOONCAKE_INTERNAL_ERROR; }
    if (regcomp(&compiled, pattern, REG_EXTENDED | REG_NOSUB) != 0) {
        return MOONCAKE_INVALID_PARAMS;
    }
    result = remove_some(store, "remove_by_regex", &compiled, force);
    regfree(&compiled);
    return result;
}

int64_t mooncake_store_remove_all(mooncake_store_t store, int force)
{
    return remove_some(store, "remove_all", NULL, force);
}

/* ---- the rest ------------------------------------------------------------ */

int mooncake_store_health_check(mooncake_store_t store)
{
    struct handle *handle = enter(store, "health_check");
    int health = 1;

    if (handle == NULL) { return MOONCAKE_INTERNAL_ERROR; }
    if (is_ready(handle)) {
        struct fake_state *state = handle->fake.state;

        fake_lock(&handle->fake);
        health = 0; /* who has no segment does not ask the master */
        if (handle->segment_bytes != 0 && state->master != FAKE_MASTER_RUNS &&
            fake_now_ms(state) - state->master_lost_ms >= FAKE_PING_MS) {
            health = 2;
        }
        fake_unlock(&handle->fake);
    }
    leave(handle);
    return health;
}

int mooncake_store_get_hostname(mooncake_store_t store, char *buf_out,
                                size_t buf_len)
{
    struct handle *handle = enter(store, "get_hostname");
    int result = MOONCAKE_INTERNAL_ERROR;

    if (handle == NULL) { return result; }
    if (is_ready(handle) && buf_out != NULL &&
        strlen(handle->hostname) < buf_len) {
        memcpy(buf_out, handle->hostname, strlen(handle->hostname) + 1);
        result = 0;
    }
    leave(handle);
    return result;
}

static int add_buffer(struct handle *handle, uintptr_t start, size_t bytes)
{
    for (uint32_t i = 0; i < handle->buffers_count; i++) {
        const struct buffer *other = &handle->buffers[i];

        if (start < other->start + other->bytes &&
            other->start < start + bytes) {
            return MOONCAKE_INVALID_PARAMS;
        }
    }
    if (handle->buffers_count == BUFFERS) {
        fake_abort("more than %u buffers are registered", BUFFERS);
    }
    handle->buffers[handle->buffers_count].start = start;
    handle->buffers[handle->buffers_count].bytes = bytes;
    handle->buffers_count++;
    return 0;
}

static int drop_buffer(struct handle *handle, uintptr_t start)
{
    for (uint32_t i = 0; i < handle->buffers_count; i++) {
        if (handle->buffers[i].start == start) {
            handle->buffers_count--;
            handle->buffers[i] = handle->buffers[handle->buffers_count];
            return 0;
        }
    }
    return MOONCAKE_INVALID_PARAMS;
}

/* Registers, or with `bytes` 0 takes back. */
static int change_buffers(struct handle *handle, void *buffer, size_t bytes)
{
    bool on = bytes != 0;
    const struct fake_mooncake_rule *rule;
    struct call call;
    int code = MOONCAKE_INTERNAL_ERROR;

    if (!begin(&call, handle, on ? FAKE_REGISTER : FAKE_UNREGISTER, NULL, 0)) {
        struct fake_state *state = call.fake->state;
        struct fake_client *client = &state->clients[handle->client];

        rule = fake_rule_for_key(state, call.operation, "");
        pthread_mutex_lock(&handle->buffers_lock);
        code = rule != NULL ? rule->code
               : on         ? add_buffer(handle, (uintptr_t)buffer, bytes)
                            : drop_buffer(handle, (uintptr_t)buffer);
        pthread_mutex_unlock(&handle->buffers_lock);
        if (code == 0) {
            client->registered += on ? 1u : UINT32_MAX;
            state->facts.registered += on ? 1u : UINT64_MAX;
        }
        note(&call, "", buffer, bytes, code);
    }
    end(&call);
    return code;
}

int mooncake_store_register_buffer(mooncake_store_t store, void *buffer,
                                   size_t size)
{
    struct handle *handle = enter(store, "register_buffer");
    int code = MOONCAKE_INTERNAL_ERROR;

    if (handle == NULL) { return code; }
    if (buffer != NULL && size != 0) {
        code = is_ready(handle) ? change_buffers(handle, buffer, size)
                                : MOONCAKE_INVALID_PARAMS;
    }
    leave(handle);
    return code;
}

int mooncake_store_unregister_buffer(mooncake_store_t store, void *buffer)
{
    struct handle *handle = enter(store, "unregister_buffer");
    int code = MOONCAKE_INTERNAL_ERROR;

    if (handle == NULL) { return code; }
    if (buffer != NULL) {
        code = is_ready(handle) ? change_buffers(handle, buffer, 0)
                                : MOONCAKE_INVALID_PARAMS;
    }
    leave(handle);
    return code;
}
