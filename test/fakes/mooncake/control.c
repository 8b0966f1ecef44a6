/* Cleat: the strings of the fake Mooncake Store. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include "test/fakes/mooncake/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test/fakes/mooncake/cluster.h"

static struct fake_mooncake *new_fake(void)
{
    struct fake_mooncake *fake = calloc(1, sizeof *fake);

    if (fake == NULL) { fake_abort("no memory"); }
    return fake;
}

struct fake_mooncake *
fake_mooncake_start(const char *path, const struct fake_mooncake_config *config)
{
    struct fake_mooncake *fake = new_fake();
    struct fake_mooncake_config defaults;

    memset(&defaults, 0, sizeof defaults);
    fake_make(path, config != NULL ? config : &defaults, fake);
    if (fake->state->config.segment_bytes != 0) {
        fake_mooncake_happen(fake, 0, FAKE_SEGMENT_JOIN,
                             fake->state->config.segment_bytes);
    }
    return fake;
}

struct fake_mooncake *fake_mooncake_attach(const char *path)
{
    struct fake_mooncake *fake = new_fake();

    if (!fake_open(path, fake)) { fake_abort("there is no cluster %s", path); }
    return fake;
}

void fake_mooncake_end(struct fake_mooncake *fake, bool file)
{
    char link[64];
    char path[4096];
    ssize_t count;

    if (file) {
        (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fake->file);
        count = readlink(link, path, sizeof path - 1);
        if (count > 0) {
            path[count] = '\0';
            (void)unlink(path);
        }
    }
    fake_close(fake);
    free(fake);
}

uint64_t fake_mooncake_now_ms(struct fake_mooncake *fake)
{
    uint64_t now;

    fake_lock(fake);
    now = fake_now_ms(fake->state);
    fake_unlock(fake);
    return now;
}

void fake_mooncake_advance(struct fake_mooncake *fake, uint64_t ms)
{
    fake_lock(fake);
    if (fake->state->config.time_scale == 0) {
        fake_wait(fake, fake_now_ms(fake->state) + ms, false);
    } else {
        fake->state->skew_ms += ms;
        fake_settle(fake);
    }
    fake_unlock(fake);
}

static void plan_event(struct fake_state *state, uint64_t delay_ms,
                       enum fake_mooncake_event event, uint64_t argument)
{
    for (uint32_t i = 0; i < FAKE_EVENTS; i++) {
        struct fake_event *slot = &state->events[i];

        if (!slot->waits) {
            slot->at_ms = fake_now_ms(state) + delay_ms;
            slot->argument = argument;
            slot->event = (uint32_t)event;
            slot->waits = 1;
            return;
        }
    }
    fake_abort("more than %u events wait", FAKE_EVENTS);
}

void fake_mooncake_happen(struct fake_mooncake *fake, uint64_t delay_ms,
                          enum fake_mooncake_event event, uint64_t argument)
{
    fake_lock(fake);
    if (delay_ms == 0) {
        fake_happen(fake, event, argument);
        fake_settle(fake);
    } else {
        plan_event(fake->state, delay_ms, event, argument);
    }
    fake_unlock(fake);
}

uint32_t fake_mooncake_rule(struct fake_mooncake *fake,
                            const struct fake_mooncake_rule *rule)
{
    struct fake_state *state = fake->state;
    struct fake_rule *slot;
    uint32_t number;

    fake_lock(fake);
    number = state->rules_count;
    if (number == FAKE_RULES) { fake_abort("more than %u rules", FAKE_RULES); }
    slot = &state->rules[number];
    memset(slot, 0, sizeof *slot);
    slot->rule = *rule;
    slot->rule.key = NULL;
    slot->any = rule->key == NULL;
    if (rule->key != NULL) {
        if (strlen(rule->key) >= sizeof slot->text) {
            fake_abort("a rule's key is too long");
        }
        memcpy(slot->text, rule->key, strlen(rule->key) + 1);
    }
    state->rules_count++;
    fake_unlock(fake);
    return number;
}

uint32_t fake_mooncake_fired(struct fake_mooncake *fake, uint32_t rule)
{
    uint32_t fired;

    fake_lock(fake);
    if (rule >= fake->state->rules_count) { fake_abort("no rule %u", rule); }
    fired = fake->state->rules[rule].fired;
    fake_unlock(fake);
    return fired;
}

void fake_mooncake_rules_clear(struct fake_mooncake *fake)
{
    fake_lock(fake);
    fake->state->rules_count = 0;
    fake_unlock(fake);
}

void fake_mooncake_release(struct fake_mooncake *fake)
{
    fake_lock(fake);
    fake->state->released++;
    fake_unlock(fake);
}

void fake_mooncake_device(struct fake_mooncake *fake, const void *start,
                          size_t bytes)
{
    fake_lock(fake);
    fake->state->device_start = (uint64_t)(uintptr_t)start;
    fake->state->device_bytes = bytes;
    fake_unlock(fake);
}

bool fake_mooncake_plant(struct fake_mooncake *fake, const char *key,
                         const void *value, size_t bytes, bool whole)
{
    struct fake_object *object = NULL;

    fake_lock(fake);
    if (fake_find(fake, key) == NULL) {
        object = fake_add(fake, key, bytes, FAKE_OBJECT_PROCESSING, true);
    }
    if (object != NULL) {
        memcpy(fake_bytes(fake, object), value, bytes);
        if (whole) { object->state = FAKE_OBJECT_COMPLETE; }
    }
    fake_unlock(fake);
    return object != NULL;
}

bool fake_mooncake_evict(struct fake_mooncake *fake, const char *key)
{
    struct fake_object *object;

    fake_lock(fake);
    object = fake_find(fake, key);
    if (object != NULL) { fake_drop(fake, object); }
    fake_unlock(fake);
    return object != NULL;
}

bool fake_mooncake_flip(struct fake_mooncake *fake, const char *key,
                        uint64_t bit)
{
    struct fake_object *object;
    bool found;

    fake_lock(fake);
    object = fake_find(fake, key);
    found = object != NULL && bit / 8 < object->bytes;
    if (found) {
        unsigned char *byte = fake_bytes(fake, object) + bit / 8;

        *byte = (unsigned char)(*byte ^ (1u << (bit % 8)));
    }
    fake_unlock(fake);
    return found;
}

int64_t fake_mooncake_look(struct fake_mooncake *fake, const char *key,
                           void *value, size_t bytes)
{
    struct fake_object *object;
    int64_t found = -1;

    fake_lock(fake);
    object = fake_find(fake, key);
    if (object != NULL) {
        found = (int64_t)object->bytes;
        if (value != NULL) {
            memcpy(value, fake_bytes(fake, object),
                   bytes < object->bytes ? bytes : (size_t)object->bytes);
        }
    }
    fake_unlock(fake);
    return found;
}

struct fake_mooncake_counts
fake_mooncake_counts(struct fake_mooncake *fake,
                     enum fake_mooncake_operation operation)
{
    struct fake_mooncake_counts counts;

    fake_lock(fake);
    counts = fake->state->counts[operation];
    fake_unlock(fake);
    return counts;
}

void fake_mooncake_facts(struct fake_mooncake *fake,
                         struct fake_mooncake_facts *facts)
{
    fake_lock(fake);
    fake_count_total(fake->state);
    *facts = fake->state->facts;
    fake_unlock(fake);
}

bool fake_mooncake_seen(struct fake_mooncake *fake, uint64_t index,
                        struct fake_mooncake_seen *seen)
{
    struct fake_state *state = fake->state;
    bool found;

    fake_lock(fake);
    found = index < state->seen_count;
    if (found && state->seen_count - index > FAKE_SEEN) {
        fake_abort("what was seen at %llu is not kept any more",
                   (unsigned long long)index);
    }
    if (found) { *seen = state->seen[index % FAKE_SEEN]; }
    fake_unlock(fake);
    return found;
}

void fake_mooncake_forget(struct fake_mooncake *fake)
{
    fake_lock(fake);
    fake->state->seen_count = 0;
    memset(fake->state->counts, 0, sizeof fake->state->counts);
    fake->state->facts.calls_at_once = fake->state->calls_now;
    fake->state->facts.replicas_none = 0;
    fake_unlock(fake);
}
