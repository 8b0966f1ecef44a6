/* Cleat: the decision engine. SPDX-License-Identifier: Apache-2.0 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include "choose.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { STEPS_DEFAULT = 10000, RANDOM_DEFAULT = 20000, SHRINK_TRIES = 20000 };
#define SHRINK_SECONDS 20.0
#define SET_BYTES_DEFAULT ((uint64_t)1 << 30)

/* --- memory: the engine is a test tool, running out ends it --------------- */

static void *grow(void *old, size_t bytes)
{
    void *grown = realloc(old, bytes);
    if (grown == NULL) {
        fprintf(stderr, "choose: out of memory (%zu bytes)\n", bytes);
        exit(2);
    }
    return grown;
}

static void *zeroed(size_t bytes)
{
    void *block = NULL;
    if (posix_memalign(&block, 64, bytes > 0 ? bytes : 1) != 0) {
        fprintf(stderr, "choose: out of memory (%zu bytes)\n", bytes);
        exit(2);
    }
    memset(block, 0, bytes);
    return block;
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- random numbers ------------------------------------------------------- */

static uint64_t mix(uint64_t x) /* splitmix64's output function */
{
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

static uint64_t next_random(uint64_t *state)
{
    *state += UINT64_C(0x9E3779B97F4A7C15);
    return mix(*state);
}

/* --- the set of states: open addressing, 96 bits of hash and a depth ------ */

struct entry {
    uint64_t high;
    uint32_t low;
    uint32_t depth; /* 0: free; else 1 + the least depth it was expanded at,
                       with OPEN while it is on the stack */
};

#define OPEN ((uint32_t)1 << 31)

struct set {
    struct entry *entries;
    uint64_t capacity; /* a power of two */
    uint64_t used;
    uint64_t bytes_max;
    uint64_t digest;
};

struct hash {
    uint64_t high;
    uint64_t low;
};

__extension__ typedef unsigned __int128 wide;

static uint64_t fold(uint64_t a, uint64_t b)
{
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Two independent multiply-and-fold lanes over 16 bytes a round. */
static struct hash hash_bytes(const void *bytes, size_t count)
{
    const unsigned char *p = bytes;
    uint64_t h = UINT64_C(0xA0761D6478BD642F) ^ count;
    uint64_t l = UINT64_C(0xE7037ED1A0B428DB) + count;
    struct hash result;

    while (count > 0) {
        uint64_t word[2] = {0, 0};
        size_t take = count < sizeof word ? count : sizeof word;
        memcpy(word, p, take);
        h = fold(h ^ word[0], word[1] ^ UINT64_C(0x8EBC6AF09C88C6E3)) + l;
        l = fold(l ^ word[1], word[0] ^ UINT64_C(0x589965CC75374CC3)) ^
            (h << 1 | h >> 63);
        p += take;
        count -= take;
    }
    result.high = mix(h ^ (l << 32 | l >> 32));
    result.low = mix(l + h);
    return result;
}

static struct entry *set_find(const struct set *set, struct hash hash)
{
    uint64_t at = hash.high & (set->capacity - 1);
    while (set->entries[at].depth != 0 &&
           (set->entries[at].high != hash.high ||
            set->entries[at].low != (uint32_t)hash.low)) {
        at = (at + 1) & (set->capacity - 1);
    }
    return &set->entries[at];
}

static void set_start(struct set *set, uint64_t bytes_max)
{
    memset(set, 0, sizeof *set);
    set->bytes_max = bytes_max != 0 ? bytes_max : SET_BYTES_DEFAULT;
    set->capacity = 1 << 12;
    set->entries = zeroed(set->capacity * sizeof(struct entry));
}

/* False when the set may not grow any more. */
static bool set_grow(struct set *set)
{
    struct set larger = *set;

    larger.capacity = set->capacity * 2;
    if (larger.capacity * sizeof(struct entry) > set->bytes_max) {
        return set->used < set->capacity - set->capacity / 16;
    }
    larger.entries = calloc(larger.capacity, sizeof(struct entry));
    if (larger.entries == NULL) { return false; }
    for (uint64_t i = 0; i < set->capacity; i++) {
        if (set->entries[i].depth != 0) {
            struct hash hash = {set->entries[i].high, set->entries[i].low};
            *set_find(&larger, hash) = set->entries[i];
        }
    }
    free(set->entries);
    *set = larger;
    return true;
}

enum visit { VISIT_NEW, VISIT_SEEN, VISIT_ON_STACK, VISIT_FULL };

/* A state is expanded when it is met for the first time, and again when it is
 * met at a smaller depth than before: the bound on steps then leaves it more
 * room; with `again`, always. `depth` counts from 0. */
static enum visit set_visit(struct set *set, struct hash hash, uint32_t depth,
                            bool again)
{
    struct entry *entry = set_find(set, hash);

    if (entry->depth != 0) {
        if ((entry->depth & OPEN) != 0) { return VISIT_ON_STACK; }
        if (entry->depth <= depth + 1 && !again) { return VISIT_SEEN; }
        if (entry->depth > depth + 1) { entry->depth = depth + 1; }
        entry->depth |= OPEN;
        return VISIT_NEW;
    }
    if (set->used >= set->capacity / 4 * 3) {
        if (!set_grow(set)) { return VISIT_FULL; }
        entry = set_find(set, hash);
    }
    entry->high = hash.high;
    entry->low = (uint32_t)hash.low;
    entry->depth = (depth + 1) | OPEN;
    set->used++;
    set->digest += mix(hash.high ^ hash.low);
    return VISIT_NEW;
}

static void set_close(struct set *set, struct hash hash)
{
    set_find(set, hash)->depth &= ~OPEN;
}

/* --- the run -------------------------------------------------------------- */

struct frame {
    void *snapshot;     /* the state before the step */
    struct hash hash;   /* of that state */
    size_t tape_begins; /* the step's choices: from here to the tape's end */
};

struct choose {
    const struct choose_test *test;
    const struct choose_options *options;
    struct choose_outcome *outcome;

    /* The tape: the choices of this execution so far. */
    uint32_t *value;
    uint32_t *limit;
    size_t used, capacity;
    size_t forced; /* exhaustive: the choices before this are prescribed */

    enum choose_driver driver;
    bool noting;
    uint64_t random;     /* state of the generator */
    uint64_t swarm;      /* this execution's weights */
    uint32_t odd_in_64k; /* how likely a choice other than 0 is; 0: uniform */
    const uint8_t *bytes;
    size_t bytes_left;
    const uint32_t *given; /* replayed */
    size_t given_count, given_at;

    struct set set;
    void *state;
    unsigned char *projection;
    struct frame *frames;
    uint32_t frames_capacity;

    double started;
    uint64_t check_clock;
    const char *fault; /* which check failed: its format or sentence */
    jmp_buf escape;
};

/* For assertions in core and for crashes, which know no context. */
static struct choose *running;

static uint32_t steps_max(const struct choose_test *test)
{
    return test->steps_max != 0 ? test->steps_max : STEPS_DEFAULT;
}

static void tape_put(struct choose *c, uint32_t value, uint32_t limit)
{
    if (c->used == c->capacity) {
        c->capacity = c->capacity != 0 ? c->capacity * 2 : 1024;
        c->value = grow(c->value, c->capacity * sizeof *c->value);
        c->limit = grow(c->limit, c->capacity * sizeof *c->limit);
    }
    c->value[c->used] = value;
    c->limit[c->used] = limit;
    c->used++;
}

static uint32_t below(struct choose *c, uint32_t n)
{
    return (uint32_t)(((next_random(&c->random) >> 32) * n) >> 32);
}

/* Whether this execution's swarm has value `v` of a choice of n at all. */
static bool in_swarm(const struct choose *c, uint32_t v, uint32_t n)
{
    return (mix(c->swarm ^ ((uint64_t)n << 32) ^ v) & 3) != 0;
}

static uint32_t random_value(struct choose *c, uint32_t n, bool any)
{
    if (any || c->odd_in_64k == 0) { return below(c, n); }
    if (below(c, 65536) >= c->odd_in_64k) { return 0; }
    for (int tries = 0; tries < 8; tries++) {
        uint32_t v = 1 + below(c, n - 1);
        if (in_swarm(c, v, n)) { return v; }
    }
    return 0;
}

static uint32_t fuzzed_value(struct choose *c, uint32_t n)
{
    size_t take = n <= 256 ? 1 : n <= 65536 ? 2 : 4;
    uint32_t v = 0;

    for (size_t i = 0; i < take && c->bytes_left > 0; i++) {
        v = v << 8 | *c->bytes++;
        c->bytes_left--;
    }
    return v % n;
}

static uint32_t replayed_value(struct choose *c, uint32_t n)
{
    uint32_t v = c->given_at < c->given_count ? c->given[c->given_at++] : 0;
    return v < n ? v : v % n;
}

static uint32_t decide(struct choose *c, uint32_t n, bool any)
{
    uint32_t v = 0;

    if (n == 0) { choose_fail(c, "choose(0): a choice of nothing"); }
    if (n == 1) { return 0; }
    switch (c->driver) {
    case CHOOSE_EXHAUSTIVE:
        if (c->used < c->forced) {
            if (c->limit[c->used] != n) {
                choose_fail(c,
                            "the test is not deterministic: choice %zu was "
                            "of %u, and is of %u when run again",
                            c->used, c->limit[c->used], n);
            }
            return c->value[c->used++];
        }
        break;
    case CHOOSE_RANDOM: v = random_value(c, n, any); break;
    case CHOOSE_FUZZED: v = fuzzed_value(c, n); break;
    case CHOOSE_REPLAYED: v = replayed_value(c, n); break;
    }
    tape_put(c, v, n);
    return v;
}

uint32_t choose(struct choose *c, uint32_t n)
{
    return decide(c, n, false);
}

uint32_t choose_any(struct choose *c, uint32_t n)
{
    return decide(c, n, true);
}

_Noreturn static void escape(struct choose *c, const char *fault)
{
    c->fault = fault;
    c->outcome->failed = true;
    longjmp(c->escape, 1);
}

_Noreturn void choose_fail(struct choose *c, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(c->outcome->sentence, sizeof c->outcome->sentence, format,
              arguments);
    va_end(arguments);
    escape(c, format);
}

_Noreturn void choose_check_failed(struct choose *c, const char *sentence,
                                   const char *file, int line)
{
    snprintf(c->outcome->sentence, sizeof c->outcome->sentence, "%s (%s:%d)",
             sentence, file, line);
    escape(c, sentence);
}

__attribute__((weak)) void cleat_test_assert_failed(const char *expression,
                                                    const char *file, int line)
{
    if (running != NULL) {
        snprintf(running->outcome->sentence, sizeof running->outcome->sentence,
                 "assertion failed: %s (%s:%d)", expression, file, line);
        escape(running, expression);
    }
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, expression);
    abort();
}

bool choose_noting(const struct choose *c)
{
    return c->noting;
}

void choose_note(struct choose *c, const char *format, ...)
{
    va_list arguments;

    if (!c->noting) { return; }
    va_start(arguments, format);
    fputs("  ", stdout);
    vfprintf(stdout, format, arguments);
    fputc('\n', stdout);
    va_end(arguments);
}

void choose_mark(struct choose *c, uint32_t index)
{
    if (index >= CHOOSE_MARKS_MAX) {
        choose_fail(c, "choose_mark(%u): at most %d marks", index,
                    CHOOSE_MARKS_MAX);
    }
    c->outcome->marked[index]++;
}

/* Stops an exhaustive run by the clock, looked at now and then. */
static bool out_of_time(struct choose *c)
{
    if (c->options->seconds <= 0 || (++c->check_clock & 1023) != 0) {
        return false;
    }
    return seconds_now() - c->started > c->options->seconds;
}

bool choose_seen(struct choose *c, const void *projection, size_t bytes)
{
    enum visit visit;
    struct hash hash;

    if (c->driver != CHOOSE_EXHAUSTIVE) { return false; }
    /* While the prescribed choices are being made again, the states passed
     * are those of the branch that is being gone on with. */
    if (c->used < c->forced) { return false; }
    hash = hash_bytes(projection, bytes);
    visit = set_visit(&c->set, hash, 0, c->options->unpruned);
    if (visit == VISIT_NEW) { set_close(&c->set, hash); }
    if (visit == VISIT_FULL) { c->outcome->unfinished = true; }
    return visit != VISIT_NEW;
}

/* Turns the odometer: the next combination of the choices from `begins` on is
 * prescribed. False when there is none. */
static bool next_combination(struct choose *c, size_t begins)
{
    while (c->used > begins) {
        size_t last = c->used - 1;
        if (c->value[last] + 1 < c->limit[last]) {
            c->value[last]++;
            c->forced = c->used;
            c->used = begins;
            return true;
        }
        c->used--;
    }
    c->forced = begins;
    return false;
}

static void exhaust_body(struct choose *c)
{
    do {
        c->outcome->executions++;
        c->outcome->steps++;
        c->test->body(c, c->test->arg);
        if (c->outcome->unfinished || out_of_time(c)) {
            c->outcome->unfinished = true;
            return;
        }
    } while (next_combination(c, 0));
}

static struct hash hash_state(struct choose *c)
{
    size_t bytes;

    if (c->test->project == NULL) {
        return hash_bytes(c->state, c->test->state_bytes);
    }
    bytes = c->test->project(c->state, c->projection);
    if (bytes > CHOOSE_PROJECTION_MAX) {
        fprintf(stderr, "choose: a projection of %zu bytes; at most %zu\n",
                bytes, CHOOSE_PROJECTION_MAX);
        exit(2);
    }
    return hash_bytes(c->projection, bytes);
}

static void push_frame(struct choose *c, uint32_t depth, struct hash hash)
{
    if (depth == c->frames_capacity) {
        uint32_t more = depth != 0 ? depth * 2 : 64;
        c->frames = grow(c->frames, more * sizeof *c->frames);
        for (uint32_t i = depth; i < more; i++) {
            c->frames[i].snapshot = NULL;
        }
        c->frames_capacity = more;
    }
    if (c->frames[depth].snapshot == NULL) {
        c->frames[depth].snapshot = zeroed(c->test->state_bytes);
    }
    memcpy(c->frames[depth].snapshot, c->state, c->test->state_bytes);
    c->frames[depth].hash = hash;
    c->frames[depth].tape_begins = c->used;
    c->forced = c->used;
}

_Noreturn static void fail_endless(struct choose *c, uint32_t depth)
{
    choose_fail(c,
                "it never ends: after %u steps it is back in a state it was "
                "in before",
                depth);
}

/* Whether the state just reached, at `depth`, is to be expanded. */
static bool to_be_expanded(struct choose *c, uint32_t depth, struct hash *hash)
{
    enum visit visit;

    if (depth >= steps_max(c->test)) {
        if (c->test->cut) { return false; }
        choose_fail(c, "it did not come to rest within %u steps",
                    steps_max(c->test));
    }
    *hash = hash_state(c);
    /* Without pruning only a state that leads to itself is left alone: what
     * lies below it has no end. */
    visit = set_visit(&c->set, *hash, depth, c->options->unpruned);
    if (visit == VISIT_FULL) { c->outcome->unfinished = true; }
    if (visit == VISIT_ON_STACK && c->test->endless_fails) {
        fail_endless(c, depth);
    }
    return visit == VISIT_NEW;
}

static void exhaust_steps(struct choose *c)
{
    uint32_t depth = 0;
    bool state_is_snapshot = true;
    struct hash hash = hash_state(c);

    set_visit(&c->set, hash, 0, false);
    push_frame(c, 0, hash);
    for (;;) {
        struct frame *frame = &c->frames[depth];
        bool more;

        if (!state_is_snapshot) {
            memcpy(c->state, frame->snapshot, c->test->state_bytes);
        }
        c->outcome->steps++;
        more = c->test->step(c, c->state);
        if (more && to_be_expanded(c, depth + 1, &hash)) {
            depth++;
            push_frame(c, depth, hash);
            state_is_snapshot = true;
            continue;
        }
        state_is_snapshot = false;
        c->outcome->executions++;
        if (c->outcome->unfinished || out_of_time(c)) {
            c->outcome->unfinished = true;
            return;
        }
        while (!next_combination(c, c->frames[depth].tape_begins)) {
            set_close(&c->set, c->frames[depth].hash);
            if (depth == 0) { return; }
            depth--;
        }
    }
}

/* One execution from the beginning, by any driver that does not branch. */
static void execute(struct choose *c)
{
    const struct choose_test *test = c->test;

    c->used = 0;
    c->outcome->executions++;
    if (test->step == NULL) {
        c->outcome->steps++;
        test->body(c, test->arg);
        return;
    }
    memset(c->state, 0, test->state_bytes);
    test->init(c->state, test->arg);
    for (uint32_t depth = 0; depth < steps_max(test); depth++) {
        /* A replayed execution without end is recognised as such. */
        if (c->set.entries != NULL &&
            set_visit(&c->set, hash_state(c), 0, false) == VISIT_ON_STACK) {
            fail_endless(c, depth);
        }
        c->outcome->steps++;
        if (!test->step(c, c->state)) { return; }
    }
    if (!test->cut) {
        choose_fail(c, "it did not come to rest within %u steps",
                    steps_max(test));
    }
}

/* This execution's swarm: how likely odd choices are at all, and which are
 * switched off. A quarter of the executions is uniform. */
static void draw_swarm(struct choose *c)
{
    static const uint32_t odd[] = {0,    32768, 16384, 8192,
                                   4096, 2048,  1024,  512};

    c->swarm = next_random(&c->random);
    c->odd_in_64k = odd[below(c, 8)];
    if (below(c, 8) == 0) { c->odd_in_64k = 0; }
}

static void run_random(struct choose *c)
{
    uint64_t executions = c->options->executions;

    if (executions == 0) { executions = c->test->random_executions; }
    if (executions == 0) { executions = RANDOM_DEFAULT; }
    for (uint64_t i = 0; i < executions; i++) {
        c->random = mix(c->options->seed * UINT64_C(0x9E3779B97F4A7C15) + i);
        draw_swarm(c);
        execute(c);
        if (c->options->seconds > 0 && (i & 15) == 0 &&
            seconds_now() - c->started > c->options->seconds) {
            return;
        }
    }
}

/* --- choice strings --------------------------------------------------------
 * One base-36 digit a choice, [123] for one of 36 or more, x{12} for a run of
 * twelve equal ones. Trailing zeros are left out. "-" is the empty string. */

static char *write_string(const uint32_t *value, size_t count)
{
    char *text;
    size_t at = 0;

    while (count > 0 && value[count - 1] == 0) { count--; }
    text = grow(NULL, count * 12 + 16);
    for (size_t i = 0; i < count;) {
        size_t run = 1;
        char one[16];

        while (i + run < count && value[i + run] == value[i]) { run++; }
        if (value[i] < 36) {
            one[0] = "0123456789abcdefghijklmnopqrstuvwxyz"[value[i]];
            one[1] = '\0';
        } else {
            snprintf(one, sizeof one, "[%u]", value[i]);
        }
        if (run >= 4) {
            at += (size_t)sprintf(text + at, "%s{%zu}", one, run);
        } else {
            for (size_t k = 0; k < run; k++) {
                at += (size_t)sprintf(text + at, "%s", one);
            }
        }
        i += run;
    }
    if (at == 0) { text[at++] = '-'; }
    text[at] = '\0';
    return text;
}

static int digit_of(char ch)
{
    if (ch >= '0' && ch <= '9') { return ch - '0'; }
    if (ch >= 'a' && ch <= 'z') { return ch - 'a' + 10; }
    return -1;
}

/* The string's choices into *values, to be freed. False when it is not one. */
static bool read_string(const char *text, uint32_t **values, size_t *count)
{
    size_t capacity = 0;

    *values = NULL;
    *count = 0;
    if (strcmp(text, "-") == 0) { return true; }
    while (*text != '\0') {
        unsigned long value, run = 1;
        char *end;

        if (*text == '[') {
            value = strtoul(text + 1, &end, 10);
            if (end == text + 1 || *end != ']' || value > UINT32_MAX) {
                return false;
            }
            text = end + 1;
        } else {
            int digit = digit_of(*text++);
            if (digit < 0) { return false; }
            value = (unsigned long)digit;
        }
        if (*text == '{') {
            run = strtoul(text + 1, &end, 10);
            if (end == text + 1 || *end != '}' || run > 1000000) {
                return false;
            }
            text = end + 1;
        }
        if (*count + run > capacity) {
            capacity = (*count + run) * 2;
            *values = grow(*values, capacity * sizeof **values);
        }
        for (; run > 0; run--) { (*values)[(*count)++] = (uint32_t)value; }
    }
    return true;
}

/* --- one run, and what a crash says ----------------------------------------
 */

static const char *program_name = "MODEL";

static void print_failure(const char *test, const char *sentence,
                          const char *string)
{
    printf("%s: FAILED: %s\n  choices: %s\n  replay:  %s --test %s --replay "
           "'%s'\n",
           test, sentence, string, program_name, test, string);
    fflush(stdout);
}

/* A crash inside a test: say by which choices, then die of it. */
static void say_where_it_crashed(void)
{
    struct choose *c = running;

    if (c == NULL) { return; }
    running = NULL;
    print_failure(c->test->name, "it crashed", write_string(c->value, c->used));
}

static void on_crash(int number)
{
    say_where_it_crashed();
    signal(number, SIG_DFL);
    raise(number);
}

extern void __sanitizer_set_death_callback(void (*callback)(void))
    __attribute__((weak));

static void watch_for_crashes(void)
{
    static const int fatal[] = {SIGSEGV, SIGBUS,  SIGFPE,
                                SIGILL,  SIGTRAP, SIGABRT};
    static bool done;

    if (done) { return; }
    done = true;
    if (__sanitizer_set_death_callback != NULL) {
        __sanitizer_set_death_callback(say_where_it_crashed);
        return;
    }
    for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++) {
        struct sigaction action;

        /* A fuzzer that watches already goes on to. */
        if (sigaction(fatal[i], NULL, &action) == 0 &&
            action.sa_handler == SIG_DFL) {
            action.sa_handler = on_crash;
            sigaction(fatal[i], &action, NULL);
        }
    }
}

static void start(struct choose *c, const struct choose_test *test,
                  const struct choose_options *options,
                  struct choose_outcome *outcome)
{
    memset(c, 0, sizeof *c);
    c->test = test;
    c->options = options;
    c->outcome = outcome;
    c->driver = options->driver;
    c->noting = options->notes;
    c->bytes = options->bytes;
    c->bytes_left = options->bytes_count;
    c->state = zeroed(test->state_bytes);
    c->projection = zeroed(CHOOSE_PROJECTION_MAX);
    c->started = seconds_now();
    if (c->driver == CHOOSE_EXHAUSTIVE ||
        (c->driver == CHOOSE_REPLAYED && test->endless_fails)) {
        set_start(&c->set, options->bytes_max);
    }
}

static void stop(struct choose *c)
{
    for (uint32_t i = 0; i < c->frames_capacity; i++) {
        free(c->frames[i].snapshot);
    }
    free(c->frames);
    free(c->set.entries);
    free(c->value);
    free(c->limit);
    free(c->state);
    free(c->projection);
}

/* Runs until done or failed. True when it failed. */
static bool run_driver(struct choose *c)
{
    struct choose *before = running;

    c->outcome->failed = false;
    running = c;
    if (setjmp(c->escape) == 0) {
        switch (c->driver) {
        case CHOOSE_EXHAUSTIVE:
            if (c->test->step != NULL) {
                c->test->init(c->state, c->test->arg);
                exhaust_steps(c);
            } else {
                exhaust_body(c);
            }
            break;
        case CHOOSE_RANDOM: run_random(c); break;
        case CHOOSE_FUZZED:
        case CHOOSE_REPLAYED: execute(c); break;
        }
    }
    running = before;
    return c->outcome->failed;
}

/* --- shrinking -------------------------------------------------------------
 * A string is smaller when it is shorter, or as long and of a smaller sum. A
 * candidate counts when the same check fails. */

struct shrink {
    const struct choose_test *test;
    const char *fault;
    uint32_t *best;
    size_t best_count;
    uint32_t *candidate;
    char sentence[CHOOSE_SENTENCE_MAX];
    int tries;
    double until;
};

static size_t trimmed(const uint32_t *value, size_t count)
{
    while (count > 0 && value[count - 1] == 0) { count--; }
    return count;
}

static uint64_t sum(const uint32_t *value, size_t count)
{
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) { total += value[i]; }
    return total;
}

static bool smaller(const uint32_t *a, size_t a_count, const uint32_t *b,
                    size_t b_count)
{
    if (a_count != b_count) { return a_count < b_count; }
    return sum(a, a_count) < sum(b, b_count);
}

static bool out_of_tries(struct shrink *s)
{
    return s->tries >= SHRINK_TRIES || seconds_now() > s->until;
}

/* Replays s->candidate; keeps what it really chose when the same check fails
 * and that is smaller. */
static bool try_candidate(struct shrink *s, size_t count)
{
    struct choose_options options;
    struct choose_outcome outcome;
    struct choose c;
    bool better = false;

    if (out_of_tries(s)) { return false; }
    s->tries++;
    memset(&options, 0, sizeof options);
    memset(&outcome, 0, sizeof outcome);
    options.driver = CHOOSE_REPLAYED;
    start(&c, s->test, &options, &outcome);
    c.given = s->candidate;
    c.given_count = count;
    if (run_driver(&c) && strcmp(c.fault, s->fault) == 0) {
        size_t used = trimmed(c.value, c.used);
        if (smaller(c.value, used, s->best, s->best_count)) {
            memcpy(s->best, c.value, used * sizeof *s->best);
            s->best_count = used;
            memcpy(s->sentence, outcome.sentence, sizeof s->sentence);
            better = true;
        }
    }
    stop(&c);
    return better;
}

/* Leaves `chunk` choices at `at` out. */
static bool try_without(struct shrink *s, size_t at, size_t chunk)
{
    size_t rest = s->best_count - at - chunk;

    memcpy(s->candidate, s->best, at * sizeof *s->best);
    memcpy(s->candidate + at, s->best + at + chunk, rest * sizeof *s->best);
    return try_candidate(s, at + rest);
}

static bool try_with_zeros(struct shrink *s, size_t at, size_t chunk)
{
    memcpy(s->candidate, s->best, s->best_count * sizeof *s->best);
    memset(s->candidate + at, 0, chunk * sizeof *s->candidate);
    return try_candidate(s, s->best_count);
}

static bool try_with_value(struct shrink *s, size_t at, uint32_t value)
{
    memcpy(s->candidate, s->best, s->best_count * sizeof *s->best);
    s->candidate[at] = value;
    return try_candidate(s, s->best_count);
}

static bool shrink_by_chunks(struct shrink *s)
{
    bool better = false;
    size_t chunk = 1;

    while (chunk < s->best_count) { chunk *= 2; }
    for (; chunk > 0; chunk /= 2) {
        for (size_t at = s->best_count; at-- > 0;) {
            while (at + chunk <= s->best_count && try_without(s, at, chunk)) {
                better = true;
            }
            if (at + chunk <= s->best_count && try_with_zeros(s, at, chunk)) {
                better = true;
            }
            if (at > s->best_count) { at = s->best_count; }
        }
    }
    return better;
}

static bool shrink_values(struct shrink *s)
{
    bool better = false;

    for (size_t at = 0; at < s->best_count; at++) {
        for (uint32_t v = 1; at < s->best_count && v < s->best[at] && v <= 8;
             v++) {
            if (try_with_value(s, at, v)) { better = true; }
        }
        while (at < s->best_count && s->best[at] > 0 &&
               (try_with_value(s, at, s->best[at] / 2) ||
                try_with_value(s, at, s->best[at] - 1))) {
            better = true;
        }
        /* An odd choice moved later, or two made one: lower here, the next
         * one left out. */
        if (at + 1 < s->best_count && s->best[at + 1] == 0 &&
            try_without(s, at + 1, 1)) {
            better = true;
        }
    }
    return better;
}

static void shrink(struct choose *c)
{
    struct shrink s;

    memset(&s, 0, sizeof s);
    s.test = c->test;
    s.fault = c->fault;
    s.until = seconds_now() + SHRINK_SECONDS;
    s.best_count = trimmed(c->value, c->used);
    s.best = grow(NULL, (s.best_count + 1) * sizeof *s.best);
    s.candidate = grow(NULL, (s.best_count + 1) * sizeof *s.candidate);
    memcpy(s.best, c->value, s.best_count * sizeof *s.best);
    memcpy(s.sentence, c->outcome->sentence, sizeof s.sentence);
    while (!c->options->no_shrink && !out_of_tries(&s) &&
           (shrink_by_chunks(&s) || shrink_values(&s))) {
        continue;
    }
    memcpy(c->outcome->sentence, s.sentence, sizeof s.sentence);
    c->outcome->string = write_string(s.best, s.best_count);
    free(s.best);
    free(s.candidate);
}

static void check_marks(struct choose *c)
{
    for (uint32_t i = 0; c->test->marks != NULL && c->test->marks[i] != NULL &&
                         i < CHOOSE_MARKS_MAX;
         i++) {
        if (c->outcome->marked[i] == 0) {
            snprintf(c->outcome->sentence, sizeof c->outcome->sentence,
                     "never reached: %s", c->test->marks[i]);
            c->outcome->failed = true;
            return;
        }
    }
}

void choose_run(const struct choose_test *test,
                const struct choose_options *options,
                struct choose_outcome *outcome)
{
    struct choose c;
    uint32_t *given = NULL;

    memset(outcome, 0, sizeof *outcome);
    watch_for_crashes();
    start(&c, test, options, outcome);
    if (options->driver == CHOOSE_REPLAYED &&
        !read_string(options->string, &given, &c.given_count)) {
        snprintf(outcome->sentence, sizeof outcome->sentence,
                 "this is not a choice string: %s", options->string);
        outcome->failed = true;
    } else {
        c.given = given;
        if (run_driver(&c)) {
            shrink(&c);
        } else if (c.driver == CHOOSE_EXHAUSTIVE && !outcome->unfinished) {
            check_marks(&c);
        }
    }
    if (c.driver == CHOOSE_EXHAUSTIVE) {
        outcome->states = c.set.used;
        outcome->states_digest = c.set.digest;
    }
    outcome->seconds = seconds_now() - c.started;
    free(given);
    stop(&c);
}

int choose_fuzz(const struct choose_test *test, const uint8_t *bytes,
                size_t bytes_count)
{
    struct choose_options options;
    struct choose_outcome outcome;

    memset(&options, 0, sizeof options);
    options.driver = CHOOSE_FUZZED;
    options.bytes = bytes;
    options.bytes_count = bytes_count;
    choose_run(test, &options, &outcome);
    if (outcome.failed) {
        print_failure(test->name, outcome.sentence, outcome.string);
        abort();
    }
    return 0;
}

/* --- main ------------------------------------------------------------------
 */

struct command {
    struct choose_options options;
    bool drivers[4];
    bool canary, quick, partial, list;
    char **names; /* --test, in argv */
    int names_count;
    char **files;
    int files_count;
    const struct choose_test *tests;
    size_t count;
};

static int usage(const char *what)
{
    fprintf(stderr, "choose: %s\n", what);
    return 2;
}

static bool is_number(const char *text)
{
    return text != NULL && text[0] >= '0' && text[0] <= '9';
}

static bool selected(const struct command *command,
                     const struct choose_test *test, bool any_canary)
{
    for (int i = 0; i < command->names_count; i++) {
        if (strcmp(command->names[i], test->name) == 0) { return true; }
    }
    if (command->names_count > 0) { return false; }
    if (command->quick && test->slow) { return false; }
    return command->canary ? test->canary || !any_canary : !test->canary;
}

static void print_summary(const struct choose_test *test, const char *driver,
                          const struct choose_outcome *outcome)
{
    printf("%s%s: executions %llu, states %llu, %.2f s\n", test->name, driver,
           (unsigned long long)outcome->executions,
           (unsigned long long)outcome->states, outcome->seconds);
    fflush(stdout);
}

static bool run_one(const struct command *command,
                    const struct choose_test *test, enum choose_driver driver)
{
    static const char *const suffix[] = {"", " (random)", " (fuzzed)",
                                         " (replayed)"};
    struct choose_options options = command->options;
    struct choose_outcome outcome;
    bool good;

    options.driver = driver;
    choose_run(test, &options, &outcome);
    /* A canary is found by a failing execution, which has a string; a mark
     * that was never reached has none. */
    good = (outcome.failed && (!command->canary || outcome.string != NULL)) ==
           command->canary;
    if (command->canary) {
        printf("%s%s: canary %s\n", test->name, suffix[driver],
               outcome.failed ? outcome.sentence : "NOT FOUND");
    } else if (outcome.failed) {
        print_failure(test->name, outcome.sentence,
                      outcome.string != NULL ? outcome.string : "-");
    }
    print_summary(test, suffix[driver], &outcome);
    if (outcome.unfinished && !outcome.failed && !command->partial) {
        printf("%s: FAILED: stopped before every state was expanded\n",
               test->name);
        good = false;
    }
    fflush(stdout);
    free(outcome.string);
    return good;
}

static bool run_file(const struct command *command,
                     const struct choose_test *test, const char *path,
                     bool *failed)
{
    struct choose_options options = command->options;
    struct choose_outcome outcome;
    FILE *file = fopen(path, "rb");
    static uint8_t bytes[1 << 20];

    if (file == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return false;
    }
    options.driver = CHOOSE_FUZZED;
    options.bytes = bytes;
    options.bytes_count = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    choose_run(test, &options, &outcome);
    if (outcome.failed && !command->canary) {
        print_failure(test->name, outcome.sentence, outcome.string);
    }
    *failed = *failed || outcome.failed;
    free(outcome.string);
    return true;
}

static bool run_files(const struct command *command,
                      const struct choose_test *test)
{
    bool failed = false;

    for (int i = 0; i < command->files_count; i++) {
        if (!run_file(command, test, command->files[i], &failed)) {
            return false;
        }
    }
    printf("%s (fuzzed): files %d%s\n", test->name, command->files_count,
           failed ? ", found a failure" : "");
    return failed == command->canary;
}

static int run_command(struct command *command)
{
    bool any_canary = false;
    bool good = true;
    int matched = 0;

    for (size_t i = 0; i < command->count; i++) {
        any_canary = any_canary || command->tests[i].canary;
    }
    for (size_t i = 0; i < command->count; i++) {
        const struct choose_test *test = &command->tests[i];
        if (!selected(command, test, any_canary)) { continue; }
        matched++;
        if (command->list) {
            puts(test->name);
            continue;
        }
        for (int d = 0; d < 4; d++) {
            if (!command->drivers[d]) { continue; }
            good = (d == CHOOSE_FUZZED
                        ? run_files(command, test)
                        : run_one(command, test, (enum choose_driver)d)) &&
                   good;
        }
    }
    if (matched == 0) { return usage("no test of that name"); }
    return good ? 0 : 1;
}

static void print_usage(const char *program)
{
    printf(
        "usage: %s [OPTION]...\n"
        "Runs each test, or those named, by the drivers named; exhaustively "
        "unless told.\n"
        "  --list            names the tests\n"
        "  --test NAME       this one; may be given again\n"
        "  --quick           leaves out those marked slow\n"
        "  --exhaustive      every choice, each state once\n"
        "  --random [N]      N histories, drawn from --seed S\n"
        "  --fuzz FILE...    choices read from files\n"
        "  --replay STRING   the choices that a failure printed, with notes\n"
        "  --canary          the tests must fail\n"
        "  --seconds S       at most; --partial: and that is no failure\n"
        "  --unpruned        every choice, also from states met before\n"
        "  --mib N           memory for the states, at most\n",
        program);
}

static int parse(struct command *command, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (strcmp(word, "--help") == 0) {
            print_usage(argv[0]);
            exit(0);
        }
        if (strcmp(word, "--list") == 0) {
            command->list = true;
        } else if (strcmp(word, "--exhaustive") == 0) {
            command->drivers[CHOOSE_EXHAUSTIVE] = true;
        } else if (strcmp(word, "--canary") == 0) {
            command->canary = true;
        } else if (strcmp(word, "--quick") == 0) {
            command->quick = true;
        } else if (strcmp(word, "--partial") == 0) {
            command->partial = true;
        } else if (strcmp(word, "--unpruned") == 0) {
            command->options.unpruned = true;
        } else if (strcmp(word, "--random") == 0) {
            command->drivers[CHOOSE_RANDOM] = true;
            if (is_number(value)) {
                command->options.executions = strtoull(value, NULL, 10);
                i++;
            }
        } else if (strcmp(word, "--fuzz") == 0) {
            command->drivers[CHOOSE_FUZZED] = true;
            command->files = argv + i + 1;
            for (; i + 1 < argc && argv[i + 1][0] != '-'; i++) {
                command->files_count++;
            }
        } else if (value == NULL) {
            fprintf(stderr, "choose: %s: unknown, or needs a value\n", word);
            return 2;
        } else if (strcmp(word, "--test") == 0) {
            command->names[command->names_count++] = value;
            i++;
        } else if (strcmp(word, "--replay") == 0) {
            command->drivers[CHOOSE_REPLAYED] = true;
            command->options.string = value;
            command->options.notes = true;
            command->options.no_shrink = true;
            i++;
        } else if (strcmp(word, "--seed") == 0 && is_number(value)) {
            command->options.seed = strtoull(value, NULL, 10);
            i++;
        } else if (strcmp(word, "--seconds") == 0 && is_number(value)) {
            command->options.seconds = strtod(value, NULL);
            i++;
        } else if (strcmp(word, "--mib") == 0 && is_number(value)) {
            command->options.bytes_max = strtoull(value, NULL, 10) << 20;
            i++;
        } else {
            fprintf(stderr, "choose: %s: unknown option or value\n", word);
            return 2;
        }
    }
    return 0;
}

int choose_main(int argc, char **argv, const struct choose_test *tests,
                size_t count)
{
    struct command command;
    int result;

    memset(&command, 0, sizeof command);
    program_name = argc > 0 ? argv[0] : "MODEL";
    command.tests = tests;
    command.count = count;
    command.options.seed = 1;
    command.names = grow(NULL, ((size_t)argc + 1) * sizeof *command.names);
    result = parse(&command, argc, argv);
    if (result == 0 && command.drivers[CHOOSE_REPLAYED] &&
        command.names_count != 1) {
        result = usage("--replay needs one --test NAME");
    }
    if (!command.drivers[CHOOSE_RANDOM] && !command.drivers[CHOOSE_FUZZED] &&
        !command.drivers[CHOOSE_REPLAYED]) {
        command.drivers[CHOOSE_EXHAUSTIVE] = true;
    }
    if (result == 0) { result = run_command(&command); }
    free(command.names);
    return result;
}
