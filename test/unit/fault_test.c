/* Cleat: the grammar of `--fault`. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tools/fault.h"

#define UNUSED(x) (void)(x)

static struct fault parsed(const char *text)
{
    struct fault fault;
    char why[FAULT_WHY_MAX] = "";

    if (!fault_parse(text, &fault, why)) { fail_msg("%s: %s", text, why); }
    return fault;
}

static void every_step_who_and_kind_is_read(void **state)
{
    static const struct {
        const char *name;
        enum cleat_sync_step step;
        uint32_t bucket;
    } steps[] = {
        {"start", CLEAT_SYNC_START, 0},
        {"pause", CLEAT_SYNC_PAUSE, 0},
        {"release", CLEAT_SYNC_RELEASE, 0},
        {"prepare", CLEAT_SYNC_PREPARE, 0},
        {"group", CLEAT_SYNC_GROUP, 0},
        {"send", CLEAT_SYNC_SEND, 0},
        {"commit", CLEAT_SYNC_COMMIT, 0},
        {"finalize", CLEAT_SYNC_FINALIZE, 0},
        {"restore", CLEAT_SYNC_RESTORE, 0},
        {"resume", CLEAT_SYNC_RESUME, 0},
        {"send@1", CLEAT_SYNC_SEND, 1},
        {"send@4294967295", CLEAT_SYNC_SEND, UINT32_MAX},
    };
    static const struct {
        const char *name;
        uint32_t who;
    } whos[] = {{"trainer", FAULT_TRAINER},
                {"any", FAULT_ANY},
                {"0", 0},
                {"4095", 4095}};
    static const struct {
        const char *name;
        enum fault_kind kind;
        uint64_t ns;
    } kinds[] = {
        {"error", FAULT_ERROR, 0},
        {"permanent", FAULT_PERMANENT, 0},
        {"kill", FAULT_KILL, 0},
        {"stop", FAULT_STOP, 0},
        {"stop=250", FAULT_WAKE, 250000000},
        {"stop=0.5", FAULT_WAKE, 500000},
        {"corrupt", FAULT_CORRUPT, 0},
        {"slow=1", FAULT_SLOW, 1000000},
        {"slow=3600000", FAULT_SLOW, UINT64_C(3600000000000)},
        {"late", FAULT_LATE, 0},
        {"duplicate", FAULT_DUPLICATE, 0},
        {"lost-answer", FAULT_LOST_ANSWER, 0},
    };

    UNUSED(state);
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
        for (size_t w = 0; w < sizeof whos / sizeof whos[0]; w++) {
            for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
                char text[FAULT_TEXT_MAX];
                struct fault fault;

                (void)snprintf(text, sizeof text, "%s:%s:%s", steps[s].name,
                               whos[w].name, kinds[k].name);
                fault = parsed(text);
                assert_int_equal(fault.step, steps[s].step);
                assert_int_equal(fault.bucket, steps[s].bucket);
                assert_int_equal(fault.who, whos[w].who);
                assert_int_equal(fault.kind, kinds[k].kind);
                assert_int_equal(fault.ns, kinds[k].ns);
            }
        }
    }
}

static void a_typo_is_refused_and_the_line_says_what_was_expected(void **state)
{
    static const struct {
        const char *text;
        const char *says;
    } typos[] = {
        {"", "STEP:WHO:KIND"},
        {"send", "STEP:WHO:KIND"},
        {"send:1", "STEP:WHO:KIND"},
        {":1:kill", "\"\" is no step"},
        {"sned:1:kill", "\"sned\" is no step; expected start, pause"},
        {"Send:1:kill", "\"Send\" is no step"},
        {" send:1:kill", "\" send\" is no step"},
        {"send@:1:kill", "after send@, from 1"},
        {"send@0:1:kill", "after send@, from 1"},
        {"send@01:1:kill", "after send@, from 1"},
        {"send@4294967296:1:kill", "after send@, from 1"},
        {"pause@1:1:kill", "is no step"},
        {"fence:1:kill", "is no step"},
        {"expel:1:kill", "is no step"},
        {"rest:1:kill", "is no step"},
        {"send::kill", "\"\" is nobody"},
        {"send:01:kill", "\"01\" is nobody"},
        {"send:4294967294:kill", "is nobody"},
        {"send:99999999999999999999:kill", "is nobody"},
        {"send:Trainer:kill", "is nobody; expected trainer, a replica's"},
        {"send:1:", "\"\" is no kind"},
        {"send:1:kil", "\"kil\" is no kind of fault; expected error, perm"},
        {"send:1:killed", "is no kind"},
        {"send:1:kill=1", "is no kind"},
        {"send:1:slow", "is no kind"},
        {"send:1:kill:", "is no kind"},
        {"send:1:stop=", "milliseconds"},
        {"send:1:stop=0", "above 0"},
        {"send:1:stop=0.0000001", "above 0"},
        {"send:1:stop=-1", "milliseconds"},
        {"send:1:slow=3600000.1", "at most 3600000"},
        {"send:1:slow=1e3", "milliseconds"},
        {"se\nnd:1:kill", "\"se?nd\" is no step"},
        {"send:1:slow=99999999999999999999", "milliseconds"},
    };

    UNUSED(state);
    for (size_t i = 0; i < sizeof typos / sizeof typos[0]; i++) {
        struct fault fault = {CLEAT_SYNC_FENCE, FAULT_KINDS, 7, 7, 7};
        char why[FAULT_WHY_MAX] = "";

        if (fault_parse(typos[i].text, &fault, why)) {
            fail_msg("\"%s\" was taken", typos[i].text);
        }
        if (strstr(why, typos[i].says) == NULL) {
            fail_msg("\"%s\" said: %s", typos[i].text, why);
        }
        assert_null(strchr(why, '\n'));
        assert_int_equal(fault.bucket, 7); /* nothing was written */
    }
}

static void what_can_never_strike_is_refused(void **state)
{
    static const struct {
        const char *text;
        const char *says; /* NULL: it can */
    } cases[] = {
        {"pause:trainer:kill", "the trainer has no pause"},
        {"release:trainer:kill", "the trainer has no release"},
        {"commit:trainer:kill", "the trainer has no commit"},
        {"restore:trainer:kill", "the trainer has no restore"},
        {"resume:trainer:kill", "the trainer has no resume"},
        {"start:trainer:kill", NULL},
        {"prepare:trainer:kill", NULL},
        {"group:trainer:kill", NULL},
        {"send:trainer:kill", NULL},
        {"finalize:trainer:kill", NULL},
        {"pause:2:kill", NULL},
        {"pause:3:kill", "the replicas are 0 to 2"},
        {"pause:any:kill", NULL},
        {"send@8:any:kill", NULL},
        {"send@9:any:kill", "only 8 buckets"},
        {"send@9:trainer:kill", "only 8 buckets"},
    };

    UNUSED(state);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fault fault = parsed(cases[i].text);
        char why[FAULT_WHY_MAX] = "";
        bool can = fault_check(&fault, 3, 8, why);

        if (can != (cases[i].says == NULL)) { fail_msg("%s", cases[i].text); }
        if (!can && strstr(why, cases[i].says) == NULL) {
            fail_msg("%s said: %s", cases[i].text, why);
        }
    }
}

static void any_is_drawn_among_those_who_have_the_command(void **state)
{
    uint64_t random = 1;
    uint32_t trainer = 0;
    uint32_t replicas[3] = {0};

    UNUSED(state);
    for (int i = 0; i < 4000; i++) {
        struct fault fault = parsed("send:any:kill");

        fault_draw(&fault, 3, &random);
        if (fault.who == FAULT_TRAINER) {
            trainer++;
        } else {
            assert_true(fault.who < 3);
            replicas[fault.who]++;
        }
        fault = parsed("pause:any:kill");
        fault_draw(&fault, 3, &random);
        assert_true(fault.who < 3);
    }
    /* A quarter each; six standard deviations are 164. */
    assert_in_range(trainer, 800, 1200);
    for (int r = 0; r < 3; r++) { assert_in_range(replicas[r], 800, 1200); }
}

static void the_same_seed_draws_the_same_and_who_was_named_stays(void **state)
{
    uint64_t a = 42;
    uint64_t b = 42;

    UNUSED(state);
    for (int i = 0; i < 100; i++) {
        struct fault first = parsed("send:any:kill");
        struct fault second = first;
        struct fault named = parsed("send:2:kill");

        fault_draw(&first, 9, &a);
        fault_draw(&second, 9, &b);
        assert_int_equal(first.who, second.who);
        fault_draw(&named, 9, &a);
        assert_int_equal(named.who, 2);
        assert_int_equal(a, b);
    }
}

static void what_is_printed_is_read_as_the_same_fault(void **state)
{
    static const char *const texts[] = {
        "start:any:error",
        "send@4294967295:4294967293:slow=3600000",
        "send:trainer:stop=0.000001",
        "finalize:0:lost-answer",
        "resume:1:stop",
        "prepare:trainer:slow=12.345678",
    };

    UNUSED(state);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct fault fault = parsed(texts[i]);
        char printed[FAULT_TEXT_MAX];
        struct fault again;

        fault_print(&fault, printed);
        again = parsed(printed);
        assert_int_equal(again.step, fault.step);
        assert_int_equal(again.bucket, fault.bucket);
        assert_int_equal(again.who, fault.who);
        assert_int_equal(again.kind, fault.kind);
        assert_int_equal(again.ns, fault.ns);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_step_who_and_kind_is_read),
        cmocka_unit_test(a_typo_is_refused_and_the_line_says_what_was_expected),
        cmocka_unit_test(what_can_never_strike_is_refused),
        cmocka_unit_test(any_is_drawn_among_those_who_have_the_command),
        cmocka_unit_test(the_same_seed_draws_the_same_and_who_was_named_stays),
        cmocka_unit_test(what_is_printed_is_read_as_the_same_fault),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
