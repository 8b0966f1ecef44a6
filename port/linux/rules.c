/* Cleat: what a worker does to a command, whatever its host does.
 * SPDX-License-Identifier: Apache-2.0 */
#include "rules.h"

bool cleat_rules_below(uint64_t term_a, uint64_t epoch_a, uint64_t term_b,
                       uint64_t epoch_b)
{
    return term_a < term_b || (term_a == term_b && epoch_a < epoch_b);
}

static enum cleat_rules_verdict answer(enum cleat_status *out,
                                       enum cleat_status status)
{
    *out = status;
    return CLEAT_RULES_ANSWER;
}

/* Carried out when `ready`, otherwise CLEAT_STATE. */
static enum cleat_rules_verdict need(bool ready, enum cleat_status *out)
{
    return ready ? CLEAT_RULES_CARRY_OUT : answer(out, CLEAT_STATE);
}

/* Carried out unless it is done, which is as good. */
static enum cleat_rules_verdict unless(bool done, enum cleat_status *out)
{
    return done ? answer(out, CLEAT_OK) : CLEAT_RULES_CARRY_OUT;
}

static bool is_attempt(const struct cleat_rules *rules,
                       const struct cleat_sync_command *command)
{
    return rules->stage != CLEAT_RULES_IDLE &&
           command->term == rules->attempt_term &&
           command->epoch == rules->attempt_epoch &&
           command->version == rules->attempt_version;
}

static enum cleat_rules_verdict
before_prepare(struct cleat_rules *rules,
               const struct cleat_sync_command *command,
               enum cleat_status *status)
{
    bool newer = cleat_rules_below(rules->attempt_term, rules->attempt_epoch,
                                   command->term, command->epoch);

    if (!newer || rules->stage != CLEAT_RULES_IDLE ||
        (!rules->trainer && !rules->paused)) {
        return answer(status, CLEAT_STATE);
    }
    rules->stage = CLEAT_RULES_BEGUN;
    rules->attempt = command->attempt;
    rules->attempt_term = command->term;
    rules->attempt_epoch = command->epoch;
    rules->attempt_version = command->version;
    return CLEAT_RULES_CARRY_OUT;
}

static enum cleat_rules_verdict
before_send(struct cleat_rules *rules, const struct cleat_sync_command *command,
            enum cleat_status *status)
{
    if (!is_attempt(rules, command) || rules->stage != CLEAT_RULES_GROUPED) {
        return answer(status, CLEAT_STATE);
    }
    rules->stage = CLEAT_RULES_MOVING;
    return CLEAT_RULES_CARRY_OUT;
}

static enum cleat_rules_verdict
before_commit(const struct cleat_rules *rules,
              const struct cleat_sync_command *command,
              enum cleat_status *status)
{
    if (is_attempt(rules, command) && rules->stage == CLEAT_RULES_MOVED) {
        return need(rules->paused, status);
    }
    bool held = rules->holding == CLEAT_SYNC_WHOLE &&
                rules->version == command->version;
    return answer(status, held ? CLEAT_OK : CLEAT_STATE);
}

static enum cleat_rules_verdict before_pause(struct cleat_rules *rules,
                                             enum cleat_status *status)
{
    rules->resumed = false;
    if (rules->paused) { return answer(status, CLEAT_OK); }
    rules->pausing = true;
    return CLEAT_RULES_CARRY_OUT;
}

static enum cleat_rules_verdict before_release(struct cleat_rules *rules,
                                               enum cleat_status *status)
{
    if (rules->released) { return answer(status, CLEAT_OK); }
    if (!rules->paused) { return answer(status, CLEAT_STATE); }
    rules->releasing = true;
    return CLEAT_RULES_CARRY_OUT;
}

static enum cleat_rules_verdict before_resume(const struct cleat_rules *rules,
                                              enum cleat_status *status)
{
    if (rules->resumed) { return answer(status, CLEAT_OK); }
    return need(!rules->fenced && !rules->releasing &&
                    rules->holding == CLEAT_SYNC_WHOLE &&
                    rules->stage == CLEAT_RULES_IDLE,
                status);
}

/* Steps that only engines know. */
static enum cleat_rules_verdict
before_engine(struct cleat_rules *rules,
              const struct cleat_sync_command *command,
              enum cleat_status *status)
{
    switch (command->step) {
    case CLEAT_SYNC_PAUSE: return before_pause(rules, status);
    case CLEAT_SYNC_RELEASE: return before_release(rules, status);
    case CLEAT_SYNC_COMMIT: return before_commit(rules, command, status);
    case CLEAT_SYNC_FENCE:
        rules->fenced = true;
        rules->resumed = false;
        return CLEAT_RULES_CARRY_OUT;
    case CLEAT_SYNC_RESTORE: return unless(!rules->releasing, status);
    case CLEAT_SYNC_RESUME: return before_resume(rules, status);
    default: return answer(status, CLEAT_UNSUPPORTED);
    }
}

enum cleat_rules_verdict
cleat_rules_before(struct cleat_rules *rules,
                   const struct cleat_sync_command *command,
                   enum cleat_status *status)
{
    if (cleat_rules_below(command->term, command->epoch, rules->term,
                          rules->epoch)) {
        return answer(status, CLEAT_PEER_STALE);
    }
    rules->term = command->term;
    rules->epoch = command->epoch;
    switch (command->step) {
    case CLEAT_SYNC_PREPARE: return before_prepare(rules, command, status);
    case CLEAT_SYNC_GROUP:
        return need(is_attempt(rules, command) &&
                        rules->stage == CLEAT_RULES_PREPARED,
                    status);
    case CLEAT_SYNC_SEND: return before_send(rules, command, status);
    case CLEAT_SYNC_FINALIZE:
        return unless(rules->stage == CLEAT_RULES_IDLE, status);
    default: break;
    }
    if (rules->trainer) { return answer(status, CLEAT_UNSUPPORTED); }
    return before_engine(rules, command, status);
}

/* A step of the attempt has ended: the next stage, unless the attempt has been
 * finalized meanwhile. */
static void advance(struct cleat_rules *rules,
                    const struct cleat_sync_command *command, bool ok,
                    enum cleat_rules_stage next)
{
    if (!is_attempt(rules, command)) { return; }
    rules->stage = ok ? next : CLEAT_RULES_SPOILT;
}

static void after_commit(struct cleat_rules *rules,
                         const struct cleat_sync_command *command, bool ok)
{
    if (!ok || !is_attempt(rules, command)) { return; }
    rules->stage = CLEAT_RULES_COMMITTED;
    rules->holding = CLEAT_SYNC_WHOLE;
    rules->version = command->version;
    rules->fenced = false;
}

/* Nothing is kept from a step that failed but that it was begun. */
void cleat_rules_after(struct cleat_rules *rules,
                       const struct cleat_sync_command *command,
                       enum cleat_status status)
{
    bool ok = status == CLEAT_OK;

    switch (command->step) {
    case CLEAT_SYNC_PAUSE: rules->paused = ok; break;
    case CLEAT_SYNC_RELEASE: rules->released = ok; break;
    case CLEAT_SYNC_PREPARE:
        advance(rules, command, ok, CLEAT_RULES_PREPARED);
        break;
    case CLEAT_SYNC_GROUP:
        advance(rules, command, ok, CLEAT_RULES_GROUPED);
        break;
    case CLEAT_SYNC_SEND: advance(rules, command, ok, CLEAT_RULES_MOVED); break;
    case CLEAT_SYNC_COMMIT: after_commit(rules, command, ok); break;
    case CLEAT_SYNC_FINALIZE:
        if (ok) { rules->stage = CLEAT_RULES_IDLE; }
        break;
    case CLEAT_SYNC_RESTORE:
        rules->released = false;
        if (ok) { rules->releasing = false; }
        break;
    case CLEAT_SYNC_RESUME:
        if (ok) {
            rules->paused = false;
            rules->pausing = false;
            rules->resumed = true;
        }
        break;
    default: break;
    }
}

void cleat_rules_orphaned(struct cleat_rules *rules)
{
    rules->resumed = false;
}

void cleat_rules_torn(struct cleat_rules *rules)
{
    rules->holding = CLEAT_SYNC_TORN;
}

bool cleat_rules_open(const struct cleat_rules *rules)
{
    return rules->resumed && !rules->fenced &&
           rules->holding == CLEAT_SYNC_WHOLE;
}
