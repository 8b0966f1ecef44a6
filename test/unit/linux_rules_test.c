/* Cleat: every way in which commands can reach a worker.
 * SPDX-License-Identifier: Apache-2.0
 *
 * All sequences of commands, results and ends of the channel, explored breadth
 * first over the states that they lead to, against a host that remembers what
 * really happened to it. Pairs are {1, epoch}; "newer" raises the epoch, up to
 * EPOCHS_MAX. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "port/linux/rules.h"

#define EPOCHS_MAX 4u
#define STATES_MAX (1u << 20)

/* What really happened, whatever the rules believe. */
struct truth {
    bool torn;
    bool paused;   /* the host's pause has succeeded since its last resume */
    bool released; /* release was begun, and not restored */
    bool attempt;  /* prepare was begun, and not finalized */
    bool moving;   /* a transfer runs */
    bool verified; /* and has succeeded, in this attempt */
    bool fenced;   /* since the last commit that was carried out */
    uint8_t attempt_epoch;
    uint8_t attempt_version;
    uint8_t version; /* the last one committed */
    uint8_t epoch;   /* the highest that a command has had */
};

/* Without holes and pointers, so that its bytes are what it is. */
struct node {
    uint8_t rules[16];
    uint8_t truth[11];
};

static struct node *nodes;
static uint32_t nodes_count;
static uint32_t *table;
static uint64_t transitions;

static void pack(const struct cleat_rules *r, const struct truth *t,
                 struct node *node)
{
    memset(node, 0, sizeof *node);
    const uint8_t rules[16] = {(uint8_t)r->epoch,
                               (uint8_t)r->holding,
                               (uint8_t)r->version,
                               r->resumed,
                               r->fenced,
                               r->pausing,
                               r->paused,
                               r->releasing,
                               r->released,
                               (uint8_t)r->stage,
                               (uint8_t)r->attempt_epoch,
                               (uint8_t)r->attempt_version,
                               (uint8_t)r->term,
                               (uint8_t)r->attempt_term,
                               r->trainer,
                               0};
    const uint8_t truth[11] = {t->torn,    t->paused,        t->released,
                               t->attempt, t->moving,        t->verified,
                               t->fenced,  t->attempt_epoch, t->attempt_version,
                               t->version, t->epoch};
    memcpy(node->rules, rules, sizeof rules);
    memcpy(node->truth, truth, sizeof truth);
}

static void unpack(const struct node *node, struct cleat_rules *r,
                   struct truth *t)
{
    memset(r, 0, sizeof *r);
    r->epoch = node->rules[0];
    r->holding = (enum cleat_sync_holding)node->rules[1];
    r->version = node->rules[2];
    r->resumed = node->rules[3];
    r->fenced = node->rules[4];
    r->pausing = node->rules[5];
    r->paused = node->rules[6];
    r->releasing = node->rules[7];
    r->released = node->rules[8];
    r->stage = (enum cleat_rules_stage)node->rules[9];
    r->attempt_epoch = node->rules[10];
    r->attempt_version = node->rules[11];
    r->term = node->rules[12];
    r->attempt_term = node->rules[13];
    r->trainer = node->rules[14];
    t->torn = node->truth[0];
    t->paused = node->truth[1];
    t->released = node->truth[2];
    t->attempt = node->truth[3];
    t->moving = node->truth[4];
    t->verified = node->truth[5];
    t->fenced = node->truth[6];
    t->attempt_epoch = node->truth[7];
    t->attempt_version = node->truth[8];
    t->version = node->truth[9];
    t->epoch = node->truth[10];
}

/* Adds a state that is new. FNV-1a over its bytes, open addressing. */
static void reach(const struct cleat_rules *rules, const struct truth *truth)
{
    struct node node;
    uint64_t hash = 0xCBF29CE484222325u;

    transitions++;
    pack(rules, truth, &node);
    for (size_t i = 0; i < sizeof node; i++) {
        hash = (hash ^ ((const uint8_t *)&node)[i]) * 0x100000001B3u;
    }
    uint32_t at = (uint32_t)(hash % (2 * STATES_MAX));
    while (table[at] != 0) {
        if (memcmp(&nodes[table[at] - 1], &node, sizeof node) == 0) { return; }
        at = (at + 1) % (2 * STATES_MAX);
    }
    assert_true(nodes_count < STATES_MAX);
    nodes[nodes_count++] = node;
    table[at] = nodes_count;
}

static void check(const struct cleat_rules *rules, const struct truth *truth)
{
    assert_int_equal(rules->holding == CLEAT_SYNC_TORN, truth->torn);
    assert_int_equal(rules->version, truth->version);
    assert_int_equal(rules->fenced, truth->fenced);
    if (!cleat_rules_open(rules)) { return; }
    assert_false(truth->torn);
    assert_false(truth->fenced);
    assert_false(truth->paused);
    assert_false(truth->released);
    assert_false(truth->moving);
}

/* The host does what it is asked to, and notes it. */
static void host_does(struct truth *truth,
                      const struct cleat_sync_command *command, bool ok)
{
    switch (command->step) {
    case CLEAT_SYNC_PAUSE:
        assert_false(truth->paused); /* never twice */
        truth->paused = ok;
        break;
    case CLEAT_SYNC_RELEASE:
        assert_true(truth->paused);
        truth->released = true;
        break;
    case CLEAT_SYNC_PREPARE:
        assert_true(truth->paused);
        assert_false(truth->attempt);
        assert_true(command->epoch > truth->attempt_epoch);
        truth->attempt = true;
        truth->verified = false;
        truth->attempt_epoch = (uint8_t)command->epoch;
        truth->attempt_version = (uint8_t)command->version;
        break;
    case CLEAT_SYNC_GROUP:
        assert_true(truth->attempt && !truth->moving);
        assert_int_equal(truth->attempt_epoch, command->epoch);
        break;
    case CLEAT_SYNC_SEND:
        assert_true(truth->attempt && !truth->moving && !truth->verified);
        assert_int_equal(truth->attempt_epoch, command->epoch);
        truth->moving = true;
        break;
    case CLEAT_SYNC_COMMIT:
        assert_true(truth->attempt && truth->verified && truth->paused);
        assert_false(truth->moving);
        assert_int_equal(truth->attempt_epoch, command->epoch);
        assert_int_equal(truth->attempt_version, command->version);
        if (ok) {
            truth->version = (uint8_t)command->version;
            truth->torn = false;
            truth->fenced = false;
        }
        break;
    case CLEAT_SYNC_FINALIZE:
        assert_true(truth->attempt);
        truth->moving = false; /* waited for before */
        if (ok) { truth->attempt = false; }
        break;
    case CLEAT_SYNC_RESTORE:
        assert_true(truth->released);
        if (ok) { truth->released = false; }
        break;
    case CLEAT_SYNC_RESUME:
        assert_false(truth->fenced || truth->torn || truth->released);
        if (ok) { truth->paused = false; }
        break;
    case CLEAT_SYNC_FENCE: break;
    default: fail_msg("the host was asked for what is no step"); break;
    }
}

/* The transfer of a worker whose finalize waits for it ends, cancelled. */
static void end_transfer(struct cleat_rules *rules, struct truth *truth,
                         enum cleat_status status)
{
    struct cleat_sync_command sent = {.step = CLEAT_SYNC_SEND,
                                      .term = 1,
                                      .epoch = truth->attempt_epoch,
                                      .version = truth->attempt_version};

    assert_true(truth->moving);
    truth->moving = false;
    truth->verified = status == CLEAT_OK;
    cleat_rules_after(rules, &sent, status);
    check(rules, truth);
}

static void give(const struct node *from,
                 const struct cleat_sync_command *command,
                 enum cleat_status result)
{
    struct cleat_rules rules;
    struct truth truth;
    enum cleat_status status = CLEAT_PENDING;

    unpack(from, &rules, &truth);
    const struct cleat_rules before = rules;
    bool stale = command->epoch < truth.epoch;
    enum cleat_rules_verdict verdict = cleat_rules_before(&rules, command,
                                                          &status);
    if (stale) {
        assert_int_equal(verdict, CLEAT_RULES_ANSWER);
        assert_int_equal(status, CLEAT_PEER_STALE);
        assert_memory_equal(&rules, &before, sizeof rules);
        return;
    }
    truth.epoch = (uint8_t)command->epoch;
    if (command->step == CLEAT_SYNC_FENCE) { truth.fenced = true; }
    if (command->step == CLEAT_SYNC_FENCE ||
        command->step == CLEAT_SYNC_PAUSE) {
        assert_false(cleat_rules_open(&rules));
    }
    check(&rules, &truth);
    if (verdict == CLEAT_RULES_ANSWER) {
        /* An undo that is owed is never said to be done. */
        if (status == CLEAT_OK) {
            assert_false(command->step == CLEAT_SYNC_FINALIZE && truth.attempt);
            assert_false(command->step == CLEAT_SYNC_RESTORE && truth.released);
            assert_false(command->step == CLEAT_SYNC_COMMIT &&
                         (truth.torn || truth.version != command->version));
            assert_false(command->step == CLEAT_SYNC_RESUME &&
                         !cleat_rules_open(&rules));
        }
        reach(&rules, &truth);
        return;
    }
    if (command->step == CLEAT_SYNC_FINALIZE && truth.moving) {
        end_transfer(&rules, &truth, CLEAT_CANCELLED);
    }
    bool asked = command->step != CLEAT_SYNC_RESUME || before.pausing;
    if (asked) { host_does(&truth, command, result == CLEAT_OK); }
    if (command->step != CLEAT_SYNC_SEND) {
        cleat_rules_after(&rules, command, result);
    }
    check(&rules, &truth);
    reach(&rules, &truth);
}

static void happen(const struct node *from)
{
    struct cleat_rules rules;
    struct truth truth;

    /* the channel ends, and the attempt is ended as the worker does it */
    unpack(from, &rules, &truth);
    cleat_rules_orphaned(&rules);
    assert_false(cleat_rules_open(&rules));
    check(&rules, &truth);
    reach(&rules, &truth);
    unpack(from, &rules, &truth);
    if (!truth.moving) { return; }
    /* a byte is applied */
    cleat_rules_torn(&rules);
    truth.torn = true;
    check(&rules, &truth);
    reach(&rules, &truth);
    /* the transfer ends */
    for (int ok = 0; ok < 2; ok++) {
        unpack(from, &rules, &truth);
        end_transfer(&rules, &truth, ok != 0 ? CLEAT_OK : CLEAT_CORRUPT);
        reach(&rules, &truth);
    }
}

static void expand(uint32_t index)
{
    struct node from = nodes[index];
    uint8_t epoch = from.truth[10];

    happen(&from);
    for (uint32_t step = CLEAT_SYNC_PAUSE; step < CLEAT_SYNC_STEPS; step++) {
        if (step == CLEAT_SYNC_EXPEL) { continue; }
        for (uint8_t e = epoch > 1 ? (uint8_t)(epoch - 1) : 1;
             e <= epoch + 1 && e <= EPOCHS_MAX; e++) {
            for (uint64_t version = 1; version <= 2; version++) {
                struct cleat_sync_command command = {
                    .step = (enum cleat_sync_step)step,
                    .term = 1,
                    .epoch = e,
                    .version = version};
                give(&from, &command, CLEAT_OK);
                give(&from, &command, CLEAT_TRANSIENT);
            }
        }
    }
}

static void
no_order_of_commands_makes_a_worker_serve_what_it_must_not(void **state)
{
    struct cleat_rules rules;
    struct truth truth;

    (void)state;
    nodes = calloc(STATES_MAX, sizeof *nodes);
    table = calloc(2 * STATES_MAX, sizeof *table);
    assert_non_null(nodes);
    assert_non_null(table);
    memset(&rules, 0, sizeof rules);
    memset(&truth, 0, sizeof truth);
    rules.term = 1;
    rules.holding = CLEAT_SYNC_WHOLE;
    rules.version = 1;
    rules.resumed = true;
    truth.version = 1;
    reach(&rules, &truth);
    for (uint32_t i = 0; i < nodes_count; i++) { expand(i); }
    print_message("%u states, %llu transitions\n", nodes_count,
                  (unsigned long long)transitions);
    assert_true(nodes_count > 1000);
    free(nodes);
    free(table);
}

static void a_pair_is_below_another_by_term_first(void **state)
{
    (void)state;
    assert_true(cleat_rules_below(1, 9, 2, 0));
    assert_true(cleat_rules_below(1, 1, 1, 2));
    assert_false(cleat_rules_below(1, 1, 1, 1));
    assert_false(cleat_rules_below(2, 0, 1, UINT64_MAX));
    assert_true(cleat_rules_below(UINT64_MAX - 1, UINT64_MAX, UINT64_MAX, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            no_order_of_commands_makes_a_worker_serve_what_it_must_not),
        cmocka_unit_test(a_pair_is_below_another_by_term_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
