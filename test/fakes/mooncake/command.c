/* Cleat: the strings of the fake Mooncake Store, for tests in other languages.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     fake_mooncake start PATH [segment_bytes=N] [arena_bytes=N]
 *                   [time_scale=N] [lease_ms=N] [client_ttl_ms=N]
 *                   [discard_ms=N]
 *     fake_mooncake happen PATH EVENT [ARGUMENT [DELAY_MS]]
 *                   master-stop master-continue master-kill master-restart
 *                   owner-stop owner-continue owner-kill segment-join
 *     fake_mooncake rule PATH OPERATION ACTION [KEY [SKIP [TIMES [CODE
 *                   [ARGUMENT]]]]]          a KEY of '' is any
 *     fake_mooncake clear PATH | release PATH | advance PATH MS
 *     fake_mooncake evict PATH KEY | flip PATH KEY BIT
 *     fake_mooncake facts PATH        one line a fact: NAME VALUE
 *     fake_mooncake seen PATH         one line a key: OPERATION CALL BYTES
 *                                     RESULT KEY
 *     fake_mooncake end PATH
 *
 * Exits 0; 1 where there is no such key; 2: usage. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/fakes/mooncake/control.h"

static const char *const operations[FAKE_OPERATIONS] = {
    "setup", "put",    "upsert",   "get",       "exist",
    "size",  "remove", "register", "unregister"};
static const char *const actions[] = {
    "answer",     "answer-done",     "stay",       "dirty",    "less",
    "more",       "flip-read",       "vanish",     "silent",   "die",
    "call-fails", "call-fails-done", "call-waits", "call-held"};
static const char *const events[] = {
    "master-stop", "master-continue", "master-kill", "master-restart",
    "owner-stop",  "owner-continue",  "owner-kill",  "segment-join"};

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static int usage(const char *what)
{
    fprintf(stderr, "fake_mooncake: %s; see test/fakes/mooncake/command.c\n",
            what);
    exit(2);
}

static uint32_t number_of(const char *const *names, size_t count,
                          const char *name)
{
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0) { return i; }
    }
    return (uint32_t)usage(name);
}

static int64_t argument(int count, char **words, int index)
{
    return index < count ? strtoll(words[index], NULL, 10) : 0;
}

static void start(const char *path, int count, char **words)
{
    struct fake_mooncake_config config;

    memset(&config, 0, sizeof config);
    for (int i = 0; i < count; i++) {
        const char *value = strchr(words[i], '=');
        uint64_t number = value ? strtoull(value + 1, NULL, 10) : 0;
        size_t name = value ? (size_t)(value - words[i]) : 0;

#define OPTION(option)                                                      \
    if (name == strlen(#option) && strncmp(words[i], #option, name) == 0) { \
        config.option = (__typeof__(config.option))number;                  \
        continue;                                                           \
    }
        OPTION(segment_bytes)
        OPTION(arena_bytes)
        OPTION(time_scale)
        OPTION(lease_ms)
        OPTION(client_ttl_ms)
        OPTION(discard_ms)
#undef OPTION
        usage(words[i]);
    }
    fake_mooncake_end(fake_mooncake_start(path, &config), false);
}

static void add_rule(struct fake_mooncake *fake, int count, char **words)
{
    struct fake_mooncake_rule rule;

    if (count < 2) { usage("rule"); }
    memset(&rule, 0, sizeof rule);
    rule.operation = number_of(operations, COUNT(operations), words[0]);
    rule.action = number_of(actions, COUNT(actions), words[1]);
    rule.key = count > 2 && words[2][0] != '\0' ? words[2] : NULL;
    rule.skip = (uint32_t)argument(count, words, 3);
    rule.times = (uint32_t)argument(count, words, 4);
    rule.code = (int32_t)argument(count, words, 5);
    rule.argument = (uint32_t)argument(count, words, 6);
    (void)fake_mooncake_rule(fake, &rule);
}

static void print_facts(struct fake_mooncake *fake)
{
    struct fake_mooncake_facts facts;

    fake_mooncake_facts(fake, &facts);
#define FACT(name) printf(#name " %lld\n", (long long)facts.name);
    FACT(objects)
    FACT(used_bytes)
    FACT(total_bytes)
    FACT(calls_at_once)
    FACT(registered)
    FACT(handles)
    FACT(held)
    FACT(replicas_none)
    FACT(rpc_timeout_ms)
    FACT(rpc_connect_timeout_ms)
    FACT(local_buffer_bytes)
#undef FACT
    printf("hostname %s\nnow_ms %llu\n", facts.hostname,
           (unsigned long long)fake_mooncake_now_ms(fake));
    for (int i = 0; i < FAKE_OPERATIONS; i++) {
        struct fake_mooncake_counts counts = fake_mooncake_counts(
            fake, (enum fake_mooncake_operation)i);

        printf("%s.calls %llu\n%s.keys %llu\n", operations[i],
               (unsigned long long)counts.calls, operations[i],
               (unsigned long long)counts.keys);
    }
}

static void print_seen(struct fake_mooncake *fake)
{
    struct fake_mooncake_seen seen;

    for (uint64_t i = 0; fake_mooncake_seen(fake, i, &seen); i++) {
        printf("%s %llu %llu %lld %s\n", operations[seen.operation],
               (unsigned long long)seen.call, (unsigned long long)seen.bytes,
               (long long)seen.result, seen.key);
    }
}

static int act(struct fake_mooncake *fake, const char *verb, int count,
               char **words)
{
    if (strcmp(verb, "happen") == 0 && count >= 1) {
        fake_mooncake_happen(fake, (uint64_t)argument(count, words, 2),
                             (enum fake_mooncake_event)number_of(
                                 events, COUNT(events), words[0]),
                             (uint64_t)argument(count, words, 1));
    } else if (strcmp(verb, "rule") == 0) {
        add_rule(fake, count, words);
    } else if (strcmp(verb, "clear") == 0) {
        fake_mooncake_rules_clear(fake);
    } else if (strcmp(verb, "release") == 0) {
        fake_mooncake_release(fake);
    } else if (strcmp(verb, "advance") == 0) {
        fake_mooncake_advance(fake, (uint64_t)argument(count, words, 0));
    } else if (strcmp(verb, "evict") == 0 && count >= 1) {
        return fake_mooncake_evict(fake, words[0]) ? 0 : 1;
    } else if (strcmp(verb, "flip") == 0 && count >= 2) {
        return fake_mooncake_flip(fake, words[0],
                                  (uint64_t)argument(count, words, 1))
                   ? 0
                   : 1;
    } else if (strcmp(verb, "facts") == 0) {
        print_facts(fake);
    } else if (strcmp(verb, "seen") == 0) {
        print_seen(fake);
    } else if (strcmp(verb, "end") != 0) {
        return usage(verb);
    }
    return 0;
}

int main(int count, char **words)
{
    struct fake_mooncake *fake;
    int result;

    if (count < 3) { return usage("a verb and a path"); }
    if (strcmp(words[1], "start") == 0) {
        start(words[2], count - 3, words + 3);
        return 0;
    }
    fake = fake_mooncake_attach(words[2]);
    result = act(fake, words[1], count - 3, words + 3);
    fake_mooncake_end(fake, strcmp(words[1], "end") == 0);
    return result;
}
