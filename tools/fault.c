/* Cleat: what `--fault STEP:WHO:KIND` says. SPDX-License-Identifier:
 * Apache-2.0 */
#include "fault.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "options.h"

#define STEPS_EXPECTED                                                        \
    "start, pause, release, prepare, group, send, send@K, commit, finalize, " \
    "restore or resume"
#define KINDS_EXPECTED                                                \
    "error, permanent, kill, stop, stop=MS, corrupt, slow=MS, late, " \
    "duplicate or lost-answer"

/* The longest wait: an hour. */
#define NS_MAX (UINT64_C(3600) * CLEAT_NS_PER_S)

/* What was typed may hold anything; what is printed is one line. */
static void one_line(char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7F) { *text = '?'; }
    }
}

void fault_quote(const char *text, char *quoted)
{
    (void)snprintf(quoted, FAULT_TEXT_MAX, "%.64s", text);
    one_line(quoted);
}

static bool wrong(char *why, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool wrong(char *why, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(why, FAULT_WHY_MAX, format, arguments);
    va_end(arguments);
    one_line(why);
    return false;
}

/* A part of the text, at most as much of it as is told in an error. */
struct part {
    char text[FAULT_TEXT_MAX];
};

/* Cuts the part before the next colon, or the rest, off *text. False: there
 * is none, or it is longer than anything that a fault can say. */
static bool cut(const char **text, bool last, struct part *part)
{
    size_t bytes = strcspn(*text, last ? "" : ":");

    if ((!last && (*text)[bytes] != ':') || bytes >= sizeof part->text) {
        return false;
    }
    memcpy(part->text, *text, bytes);
    part->text[bytes] = '\0';
    *text += bytes + (last ? 0u : 1u);
    return true;
}

/* ------------------------------------------------------------------ parts */

/* fence and expel are the port's own business: no fault strikes there. */
static bool step_can_be_named(enum cleat_sync_step step)
{
    return step != CLEAT_SYNC_FENCE && step != CLEAT_SYNC_EXPEL;
}

static bool parse_step(const char *text, struct fault *fault, char *why)
{
    uint64_t bucket = 0;

    for (unsigned s = 0; s < CLEAT_SYNC_STEPS; s++) {
        enum cleat_sync_step step = (enum cleat_sync_step)s;

        if (step_can_be_named(step) &&
            strcmp(text, cleat_sync_step_name(step)) == 0) {
            fault->step = step;
            return true;
        }
    }
    if (strncmp(text, "send@", 5) != 0) {
        return wrong(why, "\"%.32s\" is no step; expected " STEPS_EXPECTED,
                     text);
    }
    if (!options_count(text + 5, &bucket) || bucket == 0 ||
        bucket > UINT32_MAX) {
        return wrong(why,
                     "\"%.32s\": expected the number of a bucket after "
                     "send@, from 1",
                     text);
    }
    fault->step = CLEAT_SYNC_SEND;
    fault->bucket = (uint32_t)bucket;
    return true;
}

static bool parse_who(const char *text, struct fault *fault, char *why)
{
    uint64_t replica = 0;

    if (strcmp(text, "trainer") == 0) {
        fault->who = FAULT_TRAINER;
        return true;
    }
    if (strcmp(text, "any") == 0) {
        fault->who = FAULT_ANY;
        return true;
    }
    if (!options_count(text, &replica) || replica >= FAULT_ANY) {
        return wrong(why,
                     "\"%.32s\" is nobody; expected trainer, a replica's "
                     "number, or any",
                     text);
    }
    fault->who = (uint32_t)replica;
    return true;
}

static const struct kind {
    const char *name;
    bool timed;
} kinds[FAULT_KINDS] = {
#define FAULT_KIND_ROW(NAME, name, timed) {name, timed},
    FAULT_KIND_LIST(FAULT_KIND_ROW)
#undef FAULT_KIND_ROW
};

static bool parse_kind(const char *text, struct fault *fault, char *why)
{
    size_t name_bytes = strcspn(text, "=");
    bool timed = text[name_bytes] == '=';
    unsigned k = 0;

    while (k < FAULT_KINDS &&
           (kinds[k].timed != timed || strlen(kinds[k].name) != name_bytes ||
            memcmp(kinds[k].name, text, name_bytes) != 0)) {
        k++;
    }
    if (k == FAULT_KINDS) {
        return wrong(why,
                     "\"%.32s\" is no kind of fault; expected " KINDS_EXPECTED,
                     text);
    }
    fault->kind = (enum fault_kind)k;
    if (timed &&
        (!options_decimal(text + name_bytes + 1, CLEAT_NS_PER_MS, &fault->ns) ||
         fault->ns == 0 || fault->ns > NS_MAX)) {
        return wrong(why,
                     "\"%.32s\": expected milliseconds after the =, above 0 "
                     "and at most 3600000",
                     text);
    }
    return true;
}

bool fault_parse(const char *text, struct fault *fault, char *why)
{
    struct part step;
    struct part who;
    struct part kind;
    struct fault read;

    memset(&read, 0, sizeof read);
    if (!cut(&text, false, &step) || !cut(&text, false, &who) ||
        !cut(&text, true, &kind)) {
        return wrong(why, "expected STEP:WHO:KIND, as in send@3:1:kill");
    }
    if (!parse_step(step.text, &read, why) ||
        !parse_who(who.text, &read, why) ||
        !parse_kind(kind.text, &read, why)) {
        return false;
    }
    *fault = read;
    return true;
}

/* ---------------------------------------------------------------- meaning */

static bool to_trainer(const struct fault *fault)
{
    return cleat_sync_step_to_trainers(fault->step);
}

static bool to_engines(const struct fault *fault)
{
    return cleat_sync_step_to_engines(fault->step);
}

bool fault_check(const struct fault *fault, uint32_t replicas, uint32_t buckets,
                 char *why)
{
    const char *step = cleat_sync_step_name(fault->step);

    if (fault->bucket > buckets) {
        return wrong(
            why, "it can never strike: there %s only %" PRIu32 " bucket%s",
            buckets == 1 ? "is" : "are", buckets, buckets == 1 ? "" : "s");
    }
    if (fault->who == FAULT_TRAINER && !to_trainer(fault)) {
        return wrong(why, "it can never strike: the trainer has no %s command",
                     step);
    }
    if (fault->who < FAULT_ANY && !to_engines(fault)) {
        return wrong(why, "it can never strike: a replica has no %s command",
                     step);
    }
    if (fault->who < FAULT_ANY && fault->who >= replicas) {
        return wrong(why, "it can never strike: the replicas are 0 to %" PRIu32,
                     replicas - 1);
    }
    return true;
}

/* splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
 * generators, 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

void fault_draw(struct fault *fault, uint32_t replicas, uint64_t *random)
{
    uint32_t trainers = to_trainer(fault) ? 1u : 0u;
    uint32_t all = trainers + (to_engines(fault) ? replicas : 0u);
    uint32_t drawn;

    if (fault->who != FAULT_ANY || all == 0) { return; }
    drawn = (uint32_t)(next_random(random) % all);
    fault->who = drawn < trainers ? FAULT_TRAINER : drawn - trainers;
}

void fault_print(const struct fault *fault, char *text)
{
    const char *kind = kinds[fault->kind].name;
    char at[16] = "";
    char who[16] = "trainer";
    char ms[40] = "";

    if (fault->bucket != 0) {
        (void)snprintf(at, sizeof at, "@%" PRIu32, fault->bucket);
    }
    if (fault->who == FAULT_ANY) {
        (void)snprintf(who, sizeof who, "any");
    } else if (fault->who != FAULT_TRAINER) {
        (void)snprintf(who, sizeof who, "%" PRIu32, fault->who);
    }
    if (kinds[fault->kind].timed) {
        (void)snprintf(ms, sizeof ms, "=%" PRIu64 ".%06" PRIu64,
                       fault->ns / CLEAT_NS_PER_MS,
                       fault->ns % CLEAT_NS_PER_MS);
    }
    (void)snprintf(text, FAULT_TEXT_MAX, "%s%s:%s:%s%s",
                   cleat_sync_step_name(fault->step), at, who, kind, ms);
}
