/* Cleat: the grammar of `--fault`, fuzzed. SPDX-License-Identifier: Apache-2.0
 *
 * Any text is read or refused with one line; what is read is printed as a text
 * that is read as the same fault, and a fault that can strike stays one when
 * its `any` is drawn.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tools/fault.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool truth)
{
    if (!truth) { abort(); }
}

static bool same(const struct fault *a, const struct fault *b)
{
    return a->step == b->step && a->kind == b->kind && a->bucket == b->bucket &&
           a->who == b->who && a->ns == b->ns;
}

static void check_line(const char *why)
{
    demand(why[0] != '\0' && memchr(why, '\0', FAULT_WHY_MAX) != NULL);
    demand(strchr(why, '\n') == NULL);
}

static void check_fault(const struct fault *fault, uint64_t random)
{
    uint32_t replicas = (uint32_t)(random % 1023) + 1;
    char text[FAULT_TEXT_MAX];
    char why[FAULT_WHY_MAX] = "";
    struct fault again;

    fault_print(fault, text);
    demand(fault_parse(text, &again, why) && same(fault, &again));
    if (!fault_check(fault, replicas, 100, why)) {
        check_line(why);
        return;
    }
    fault_draw(&again, replicas, &random);
    demand(again.who != FAULT_ANY);
    demand(fault_check(&again, replicas, 100, why));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    char why[FAULT_WHY_MAX] = "";
    struct fault fault;

    demand(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (fault_parse(text, &fault, why)) {
        check_fault(&fault, size * UINT64_C(2654435761));
    } else {
        check_line(why);
    }
    free(text);
    return 0;
}
