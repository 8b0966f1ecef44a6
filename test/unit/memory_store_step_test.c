/* Cleat: the store in memory, its user dead at every instruction.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     memory_store_step_test
 *
 * A process puts, removes, sweeps or attaches one instruction at a time
 * (ptrace). Whenever that has changed the block, a copy of it is looked at as
 * if its party had been killed there, and another one as if it were stopped:
 *
 *   - what others have put is there and whole; what is being put or removed is
 *     there and whole, or not there; once it has come or gone, that stays so
 *   - nobody waits for who is stopped: everything can be got, put and removed
 *   - after a sweep nothing is left of the dead: as many entries and units are
 *     taken as values are there, and every one of them can be used again
 *   - and so it is when the sweeper dies, at every instruction of its own
 *
 * Then the same once more on the block itself: at each of these moments another
 * one removes, puts or sweeps in between, and the first goes on. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleat/memory_store.h"
#include "port/memory/store_table.h"

#define KEYS_MAX 8u
#define UNIT 256u
#define BLOCK_BYTES ((size_t)12 * 1024)
#define VALUE_BYTES 100u
#define NAMES 6u
#define MOMENTS_MAX 1024u
#define STEPS_MAX 100000u
#define SKIPPED 77

enum action { PUT, PUT_RAW, REMOVE, SWEEP, ATTACH };

struct shared {
    _Alignas(4096) unsigned char block[BLOCK_BYTES];
    volatile int done;
    volatile int status;
};
static struct shared *shared;

static char names[NAMES][16]; /* the first four share a bucket */
static const char *doing = "";
static unsigned long steps, moments, runs;

static void fail(const char *what)
{
    fprintf(stderr, "memory_store_step_test: %s: %s (step %lu)\n", doing, what,
            steps);
    exit(1);
}

static void must(bool condition, const char *what)
{
    if (!condition) { fail(what); }
}

/* ---- who uses a store --------------------------------------------------- */

struct party {
    _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
    struct cleat_store store;
};

static struct store_table *table_of(struct party *party)
{
    return (struct store_table *)(void *)party->end;
}

static void attach(struct party *party, void *block)
{
    must(cleat_memory_store_attach(block, BLOCK_BYTES, party->end,
                                   sizeof party->end, &party->store,
                                   NULL) == CLEAT_OK,
         "it cannot be attached to");
}

static uint64_t bytes_of(uint32_t name)
{
    return name % 3 == 2 ? 0 : VALUE_BYTES + name;
}

static void fill(unsigned char *bytes, uint32_t name, uint32_t who)
{
    for (uint64_t i = 0; i < bytes_of(name); i++) {
        bytes[i] = (unsigned char)(i * 7 + name * 31 + who * 101);
    }
}

static enum cleat_status act(struct party *party, uint32_t operation,
                             uint32_t name, uint32_t flags, void *bytes)
{
    struct cleat_store_item item;
    struct cleat_store_call call = {operation, 1, &item, CLEAT_NEVER};

    memset(&item, 0, sizeof item);
    item.key = names[name];
    item.key_bytes = (uint32_t)strlen(names[name]);
    item.payload = bytes;
    item.bytes = bytes_of(name);
    item.flags = flags;
    must(party->store.call(party->store.context, &call) == CLEAT_OK, "no call");
    return (enum cleat_status)item.status;
}

static enum cleat_status put(struct party *party, uint32_t name, uint32_t flags,
                             uint32_t who)
{
    unsigned char bytes[VALUE_BYTES + NAMES] = {0};

    fill(bytes, name, who);
    return act(party, CLEAT_TRANSFER_DO_PUT, name, flags, bytes);
}

static enum cleat_status take_away(struct party *party, uint32_t name)
{
    return act(party, CLEAT_TRANSFER_DO_REMOVE, name, 0, NULL);
}

/* Is it there? Whole, and put by `who` or (who + 1), if so. */
static bool there(struct party *party, uint32_t name, bool raw, uint32_t who)
{
    unsigned char got[VALUE_BYTES + NAMES];
    unsigned char bytes[VALUE_BYTES + NAMES] = {0};
    enum cleat_status status;

    memset(got, 0, sizeof got);
    status = act(party, CLEAT_TRANSFER_DO_GET, name, raw ? CLEAT_STORE_RAW : 0,
                 got);
    must(status == CLEAT_OK || status == CLEAT_NOT_FOUND,
         "a value is neither whole nor missing");
    must(status == act(party, CLEAT_TRANSFER_DO_EXISTS, name, 0, NULL),
         "it can be got and does not exist, or the other way round");
    if (status != CLEAT_OK) { return false; }
    fill(bytes, name, who);
    if (memcmp(got, bytes, sizeof got) != 0) {
        fill(bytes, name, who + 1);
        must(memcmp(got, bytes, sizeof got) == 0, "a value is wrong");
    }
    return true;
}

static uint32_t units_of(uint32_t name, bool raw)
{
    uint64_t bytes = 64 + (raw ? 0 : CLEAT_FRAME_BYTES) + bytes_of(name);

    return (uint32_t)((bytes + UNIT - 1) / UNIT);
}

/* ---- a scene ------------------------------------------------------------- */

/* Who puts what before, and what is done step by step, to which key. */
struct scene {
    const char *name;
    uint32_t before; /* bits: names that are there */
    enum action action;
    uint32_t on;
    bool full;     /* no entry is free but one that a dead one holds */
    bool finished; /* the block is as it is */
};

static void make_block(uint32_t keys_max)
{
    struct cleat_memory_store_config config;
    struct party maker;

    memset(&config, 0, sizeof config);
    config.keys_max = keys_max;
    config.unit_bytes = UNIT;
    config.processes_max = 4;
    must(cleat_memory_store_init(shared->block, BLOCK_BYTES, &config, maker.end,
                                 sizeof maker.end, &maker.store,
                                 NULL) == CLEAT_OK,
         "no store");
    cleat_memory_store_detach(&maker.store);
}

/* Leaves two values half put, each by a process of its own: the second one
 * attaches while the first is there, or it would tidy up after it. */
static void die_putting(uint32_t name, uint32_t times)
{
    pid_t pid = fork();

    must(pid >= 0, "no process");
    if (pid == 0) {
        struct party party;

        attach(&party, shared->block);
        if (times > 1) { die_putting(name + 1, times - 1); }
        (void)put(&party, name, CLEAT_MEMORY_STORE_CRASH, 0);
        _exit(1);
    }
    must(waitpid(pid, NULL, 0) == pid, "no child");
}

static void prepare(const struct scene *scene)
{
    struct party party;

    if (scene->finished) { return; }
    make_block(scene->full ? NAMES : KEYS_MAX);
    attach(&party, shared->block);
    for (uint32_t i = 0; i < NAMES; i++) {
        if (scene->before >> i & 1u) {
            must(put(&party, i, 0, 0) == CLEAT_OK, "no value");
        }
    }
    cleat_memory_store_detach(&party.store);
    if (scene->full || scene->action == ATTACH) { die_putting(scene->on, 2); }
}

/* So that the dynamic linker has nothing to do later, step by step. */
static void warm_up(void)
{
    static _Alignas(64) unsigned char block[BLOCK_BYTES];
    struct party party;

    must(cleat_memory_store_init(block, sizeof block, NULL, party.end,
                                 sizeof party.end, &party.store,
                                 NULL) == CLEAT_OK,
         "no store");
    (void)put(&party, 0, 0, 0);
    (void)there(&party, 0, false, 0);
    (void)take_away(&party, 0);
    (void)cleat_memory_store_sweep(&party.store);
    cleat_memory_store_detach(&party.store);
    shared->status = 0;
}

/* The process that goes step by step. */
static void step_main(const struct scene *scene)
{
    static struct party party;
    enum cleat_status status = CLEAT_OK;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    warm_up();
    if (scene->action != ATTACH) { attach(&party, shared->block); }
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) { _exit(SKIPPED); }
    raise(SIGSTOP);
    switch (scene->action) {
    case PUT: status = put(&party, scene->on, 0, 0); break;
    case PUT_RAW: status = put(&party, scene->on, CLEAT_STORE_RAW, 0); break;
    case REMOVE: status = take_away(&party, scene->on); break;
    case SWEEP: (void)cleat_memory_store_sweep(&party.store); break;
    case ATTACH: attach(&party, shared->block); break;
    }
    shared->status = status;
    shared->done = 1;
    raise(SIGSTOP);
    _exit(0);
}

static pid_t start(const struct scene *scene)
{
    pid_t pid;
    int status = 0;

    shared->done = 0;
    runs++;
    pid = fork();
    must(pid >= 0, "no process");
    if (pid == 0) { step_main(scene); }
    must(waitpid(pid, &status, 0) == pid, "no child");
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
        printf("skipped: no process may be traced here\n");
        exit(SKIPPED);
    }
    must(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP, "no stop");
    return pid;
}

/* One instruction; false when it is done. */
static bool step(pid_t pid)
{
    int status = 0;

    must(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0, "no step");
    must(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status),
         "it ended in the middle");
    steps++;
    return !(WSTOPSIG(status) == SIGSTOP && shared->done);
}

static void finish(pid_t pid)
{
    kill(pid, SIGKILL);
    must(waitpid(pid, NULL, 0) == pid, "no child");
}

/* ---- what must be so at every moment ------------------------------------- */

static bool is_put(const struct scene *scene)
{
    return scene->action == PUT || scene->action == PUT_RAW;
}

static bool may_be_there(const struct scene *scene, uint32_t name)
{
    return (scene->before >> name & 1u) != 0 ||
           (is_put(scene) && name == scene->on);
}

static bool must_be_there(const struct scene *scene, uint32_t name)
{
    return (scene->before >> name & 1u) != 0 &&
           !(scene->action == REMOVE && name == scene->on) && !scene->finished;
}

static bool is_raw(const struct scene *scene, uint32_t name)
{
    return scene->action == PUT_RAW && name == scene->on &&
           !(scene->before >> name & 1u);
}

/* Which names are there, as bits. */
static uint32_t look_at_all(const struct scene *scene, struct party *party)
{
    uint32_t seen = 0;

    for (uint32_t i = 0; i < NAMES; i++) {
        if (there(party, i, is_raw(scene, i), 0)) { seen |= 1u << i; }
        must((seen >> i & 1u) == 0 || may_be_there(scene, i) || scene->finished,
             "something is there that nobody put");
        must((seen >> i & 1u) != 0 || !must_be_there(scene, i),
             "something of others is gone");
    }
    return seen;
}

/* Everything comes back: entries, units, and what can be done with them. */
static void use_all(const struct scene *scene, struct party *party,
                    uint32_t seen)
{
    struct cleat_memory_store_view view;
    uint32_t units = 0;
    uint32_t keys = 0;

    for (uint32_t i = 0; i < NAMES; i++) {
        if (seen >> i & 1u) {
            keys++;
            units += units_of(i, is_raw(scene, i));
        }
    }
    cleat_memory_store_look(&party->store, &view);
    must(view.held == 0, "an entry is held after a sweep");
    must(view.keys == keys, "an entry is there that no key leads to");
    must(view.units == units, "units are lost, or taken twice");
    must(view.unreadable == 0, "an entry is unreadable");
    must(view.processes == 1, "a place among the processes is lost");
    for (uint32_t i = 0; i < NAMES; i++) {
        must(take_away(party, i) ==
                 (seen >> i & 1u ? CLEAT_OK : CLEAT_NOT_FOUND),
             "it cannot be removed");
    }
    cleat_memory_store_look(&party->store, &view);
    must(view.keys == 0 && view.units == 0 && view.held == 0,
         "something is left in an empty store");
    for (uint32_t i = 0; i < view.keys_max; i++) {
        struct cleat_store_item item;
        struct cleat_store_call call = {CLEAT_TRANSFER_DO_PUT, 1, &item,
                                        CLEAT_NEVER};
        char key[2] = {(char)('a' + i), '\0'};

        memset(&item, 0, sizeof item);
        item.key = key;
        item.key_bytes = 1;
        (void)party->store.call(party->store.context, &call);
        must(item.status == CLEAT_OK, "an entry does not come back");
    }
}

static _Alignas(4096) unsigned char copy[BLOCK_BYTES];
static _Alignas(4096) unsigned char dead_block[BLOCK_BYTES];

/* Makes whoever is attached there dead: its process of another start. */
static void bury(unsigned char *block)
{
    struct party nobody;
    struct store_shape shape;

    memset(&nobody, 0, sizeof nobody);
    must(cleat_memory_table_shape(block, BLOCK_BYTES, &shape) == CLEAT_OK,
         "the head is damaged");
    cleat_memory_table_see(table_of(&nobody), block, &shape);
    for (uint32_t i = 0; i < shape.processes_count; i++) {
        uint64_t identity = table_of(&nobody)->processes[i];

        if (identity != 0) {
            table_of(&nobody)->processes[i] = identity ^ UINT64_C(1) << 30;
        }
    }
}

/* As if the other were dead. Returns what is there. */
static uint32_t check_dead(const struct scene *scene)
{
    struct party party;
    uint32_t seen;

    memcpy(dead_block, shared->block, BLOCK_BYTES);
    bury(dead_block);
    memcpy(copy, dead_block, BLOCK_BYTES);
    attach(&party, copy);
    seen = look_at_all(scene, &party);
    (void)cleat_memory_store_sweep(&party.store);
    must(look_at_all(scene, &party) == seen, "a sweep changes what is there");
    use_all(scene, &party, seen);
    return seen;
}

/* As if it were stopped: everything works, whatever it holds. */
static void check_stopped(const struct scene *scene)
{
    struct party party;

    memcpy(copy, shared->block, BLOCK_BYTES);
    attach(&party, copy);
    (void)look_at_all(scene, &party);
    (void)take_away(&party, scene->on);
    must(!there(&party, scene->on, is_raw(scene, scene->on), 0),
         "what was removed is there");
    must(put(&party, scene->on, 0, 1) == CLEAT_OK,
         "who is stopped keeps others from a put");
    must(there(&party, scene->on, false, 1), "what was put is not there");
    must(put(&party, scene->on, 0, 1) == CLEAT_EXISTS, "it is there twice");
    if (scene->full) { return; } /* the entry that it holds is wanting */
    for (uint32_t i = 0; i < NAMES; i++) { (void)take_away(&party, i); }
    for (uint32_t i = 0; i < NAMES; i++) {
        must(!there(&party, i, false, 0), "what was removed is there");
        must(put(&party, i, 0, 0) == CLEAT_OK, "it cannot be put anew");
    }
}

/* ---- every moment of a scene --------------------------------------------- */

/* Where a process is: it comes by an instruction for the k-th time. */
struct place {
    unsigned long long instruction;
    uint32_t time;
};

struct moments {
    struct place before[MOMENTS_MAX]; /* the instruction that changed it */
    struct place after[MOMENTS_MAX];  /* the next one */
    bool inner[MOMENTS_MAX]; /* nothing but bytes of units has changed */
    uint32_t count;
    uint32_t steps;
    unsigned long long path[STEPS_MAX];
};

static unsigned long long instruction_of(pid_t pid)
{
    struct user_regs_struct registers;

    must(ptrace(PTRACE_GETREGS, pid, NULL, &registers) == 0, "no registers");
    return registers.rip;
}

static struct place place_at(const struct moments *m, uint32_t at)
{
    struct place place = {m->path[at], 0};

    for (uint32_t i = 0; i <= at; i++) {
        place.time += m->path[i] == place.instruction;
    }
    return place;
}

/* Lets it run to a place, by a breakpoint there. */
static void run_to(pid_t pid, struct place place)
{
    void *at = (void *)(uintptr_t)place.instruction;
    long word = ptrace(PTRACE_PEEKTEXT, pid, at, NULL);
    struct user_regs_struct registers;

    for (uint32_t i = 0; i < place.time; i++) {
        int status = 0;

        /* It may stand there now: then this is a time, not yet counted. */
        if (i == 0 && instruction_of(pid) == place.instruction) { continue; }
        if (instruction_of(pid) == place.instruction) {
            must(step(pid), "it ended early");
            if (instruction_of(pid) == place.instruction) { continue; }
        }
        must(ptrace(PTRACE_POKETEXT, pid, at, (word & ~0xFFL) | 0xCC) == 0 &&
                 ptrace(PTRACE_CONT, pid, NULL, NULL) == 0,
             "no breakpoint");
        must(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) &&
                 WSTOPSIG(status) == SIGTRAP,
             "it does not come by");
        must(ptrace(PTRACE_GETREGS, pid, NULL, &registers) == 0 &&
                 registers.rip == place.instruction + 1,
             "it stopped elsewhere");
        registers.rip--;
        must(ptrace(PTRACE_SETREGS, pid, NULL, &registers) == 0 &&
                 ptrace(PTRACE_POKETEXT, pid, at, word) == 0,
             "the breakpoint stays");
    }
}

/* Once seen to come or to go, so it stays. */
static void check_monotone(const struct scene *scene, uint32_t before,
                           uint32_t now)
{
    if (is_put(scene) || scene->action == SWEEP || scene->action == ATTACH) {
        must((before & ~now) == 0, "what was there is gone again");
    } else {
        must((now & ~before) == 0, "what was gone is there again");
    }
}

/* Where the units begin. */
static size_t units_at(void)
{
    struct store_shape shape;

    must(cleat_memory_table_shape(shared->block, BLOCK_BYTES, &shape) ==
             CLEAT_OK,
         "the head is damaged");
    return (size_t)shape.units_at;
}

static void walk_through(const struct scene *scene, pid_t pid,
                         struct moments *m)
{
    static unsigned char last[BLOCK_BYTES];
    uint32_t seen;
    uint32_t now;

    m->count = 0;
    m->steps = 0;
    m->path[0] = instruction_of(pid);
    memcpy(last, shared->block, BLOCK_BYTES);
    seen = check_dead(scene);
    while (step(pid)) {
        must(++m->steps < STEPS_MAX, "too many steps");
        m->path[m->steps] = instruction_of(pid);
        if (memcmp(last, shared->block, BLOCK_BYTES) == 0) { continue; }
        moments++;
        must(m->count < MOMENTS_MAX, "too many moments");
        m->inner[m->count] = memcmp(last, shared->block, units_at()) == 0;
        memcpy(last, shared->block, BLOCK_BYTES);
        m->before[m->count] = place_at(m, m->steps - 1);
        m->after[m->count++] = place_at(m, m->steps);
        now = check_dead(scene);
        check_monotone(scene, seen, now);
        seen = now;
        check_stopped(scene);
    }
    finish(pid);
}

/* ---- another one in between ---------------------------------------------- */

enum between {
    BETWEEN_REMOVE,
    BETWEEN_PUT,
    BETWEEN_BOTH,
    BETWEEN_ALL,
    BETWEENS
};

static void come_between(const struct scene *scene, struct party *party,
                         enum between between)
{
    if (between != BETWEEN_PUT) { (void)take_away(party, scene->on); }
    if (between != BETWEEN_REMOVE) {
        (void)put(party, scene->on,
                  is_raw(scene, scene->on) ? CLEAT_STORE_RAW : 0, 1);
    }
    if (between != BETWEEN_ALL) { return; }
    for (uint32_t i = 0; i < NAMES; i++) {
        (void)take_away(party, i);
        (void)put(party, i, is_raw(scene, i) ? CLEAT_STORE_RAW : 0, 1);
        (void)take_away(party, i);
    }
    (void)cleat_memory_store_sweep(&party->store);
}

static void interrupt_at(const struct scene *scene, struct place at,
                         enum between between)
{
    struct cleat_memory_store_view view;
    struct party party;
    uint32_t seen = 0;
    pid_t pid;

    prepare(scene);
    pid = start(scene);
    run_to(pid, at);
    attach(&party, shared->block);
    come_between(scene, &party, between);
    must(ptrace(PTRACE_CONT, pid, NULL, NULL) == 0, "it cannot go on");
    must(waitpid(pid, NULL, 0) == pid && shared->done, "it does not come back");
    must(shared->status == CLEAT_OK || shared->status == CLEAT_EXISTS ||
             shared->status == CLEAT_NOT_FOUND,
         "it failed though somebody else came first only once");
    for (uint32_t i = 0; i < NAMES; i++) {
        if (there(&party, i, is_raw(scene, i), 0)) { seen |= 1u << i; }
    }
    cleat_memory_store_look(&party.store, &view);
    must(view.held == 0 || scene->action == SWEEP || scene->full,
         "an entry is held though nobody died");
    bury(shared->block);
    finish(pid);
    cleat_memory_store_detach(&party.store);
    attach(&party, shared->block);
    (void)cleat_memory_store_sweep(&party.store);
    use_all(scene, &party, seen);
}

static void come_between_all(const struct scene *scene, const struct moments *m)
{
    for (uint32_t between = 0; between < BETWEENS; between++) {
        for (uint32_t i = 0; i < m->count; i++) {
            interrupt_at(scene, m->after[i], (enum between)between);
            /* Before the change: after what it was decided by. */
            interrupt_at(scene, m->before[i], (enum between)between);
        }
    }
}

/* ---- dead at every moment of a sweep after a death ----------------------- */

static unsigned long tidied; /* moments of those who tidied up */

static void tidy_after(const struct scene *scene, const struct moments *m,
                       enum action action)
{
    struct scene tidy = {scene->name, 0, action, scene->on, scene->full, true};
    static struct moments of_tidying;

    for (uint32_t i = 0; i < m->count; i++) {
        pid_t tidier;
        pid_t victim;

        if (m->inner[i]) { continue; }
        prepare(scene);
        /* Who sweeps is attached when the other dies. */
        tidier = action == SWEEP ? start(&tidy) : 0;
        victim = start(scene);
        run_to(victim, m->after[i]);
        finish(victim);
        shared->done = 0;
        if (action == ATTACH) { tidier = start(&tidy); }
        walk_through(&tidy, tidier, &of_tidying);
        tidied += of_tidying.count;
    }
}

static void name_keys(void)
{
    struct party party;
    uint32_t first = 0;
    uint32_t count = 0;

    make_block(KEYS_MAX);
    attach(&party, shared->block);
    for (uint32_t i = 0; count < NAMES; i++) {
        uint32_t hash;

        snprintf(names[count], sizeof names[count], "key %u", (unsigned)i);
        hash = cleat_memory_table_hash(table_of(&party), names[count],
                                       (uint32_t)strlen(names[count])) %
               KEYS_MAX;
        if (count == 0) { first = hash; }
        count += count < 4 ? hash == first : hash != first;
    }
}

int main(void)
{
    static const struct scene scenes[] = {
        {"a put into an empty list", 0x30, PUT, 0, false, false},
        {"a put of an empty value", 0x30, PUT, 2, false, false},
        {"a put behind two others", 0x03, PUT, 3, false, false},
        {"a raw put", 0x11, PUT_RAW, 1, false, false},
        {"a put of what is there", 0x03, PUT, 1, false, false},
        {"a put into a store full of the dead", 0x0F, PUT, 4, true, false},
        {"a remove of the only one", 0x31, REMOVE, 0, false, false},
        {"a remove of the first", 0x0F, REMOVE, 0, false, false},
        {"a remove from the middle", 0x0F, REMOVE, 1, false, false},
        {"a remove of the last", 0x0F, REMOVE, 3, false, false},
        {"a remove of what is not there", 0x05, REMOVE, 3, false, false},
        {"a sweep", 0x03, SWEEP, 3, false, false},
        {"taking a dead one's place", 0x03, ATTACH, 3, false, false},
    };
    static struct moments m;

#if !defined(__x86_64__)
    printf("skipped: single steps of x86-64 only\n");
    return SKIPPED;
#endif
    alarm(600); /* the watchdog */
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(shared != MAP_FAILED, "no memory");
    name_keys();
    for (uint32_t i = 0; i < sizeof scenes / sizeof scenes[0]; i++) {
        unsigned long before = steps;
        pid_t pid;

        doing = scenes[i].name;
        prepare(&scenes[i]);
        pid = start(&scenes[i]);
        if (scenes[i].action == SWEEP) { die_putting(scenes[i].on, 2); }
        walk_through(&scenes[i], pid, &m);
        if (scenes[i].action <= REMOVE) { come_between_all(&scenes[i], &m); }
        if (scenes[i].action == PUT || scenes[i].action == REMOVE) {
            tidy_after(&scenes[i], &m, SWEEP);
            tidy_after(&scenes[i], &m, ATTACH);
        }
        printf("%s: %u instructions, %u moments, %lu steps in all\n", doing,
               (unsigned)m.steps, (unsigned)m.count, steps - before);
        fflush(stdout);
    }
    must(tidied > 100, "nobody had anything to tidy up");
    printf("%lu steps, %lu moments (%lu of them of tidying up), %lu runs\n",
           steps, moments, tidied, runs);
    return 0;
}
