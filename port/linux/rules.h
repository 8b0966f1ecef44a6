/* Cleat: what a worker does to a command, whatever its host does.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Pure: a struct and two functions over it. `before` says what becomes of a
 * command; what is carried out is told to `after` with its result. */
#ifndef CLEAT_PORT_LINUX_RULES_H
#define CLEAT_PORT_LINUX_RULES_H

#include "cleat/sync.h"

/* How far an attempt has come. */
enum cleat_rules_stage {
    CLEAT_RULES_IDLE,      /* none, or finalized */
    CLEAT_RULES_BEGUN,     /* prepare was begun */
    CLEAT_RULES_PREPARED,  /* and has succeeded */
    CLEAT_RULES_GROUPED,   /* group has */
    CLEAT_RULES_MOVING,    /* the transfer runs */
    CLEAT_RULES_MOVED,     /* it has succeeded: every byte is verified */
    CLEAT_RULES_COMMITTED, /* and is served from now on */
    CLEAT_RULES_SPOILT     /* group or the transfer has failed */
};

struct cleat_rules {
    bool trainer;
    uint64_t term; /* the highest pair seen */
    uint64_t epoch;

    /* What is held. */
    enum cleat_sync_holding holding; /* whole or torn */
    uint64_t version;                /* while whole; the last whole one */

    /* Admission is wanted open: resumed, and not paused since. */
    bool resumed;
    bool fenced;

    /* Each pair: its step was begun, and has succeeded. */
    bool pausing;
    bool paused;
    bool releasing;
    bool released;

    /* The attempt under way; its pair stays when it is idle again. */
    enum cleat_rules_stage stage;
    uint32_t attempt;
    uint64_t attempt_term;
    uint64_t attempt_epoch;
    uint64_t attempt_version;
};

/* What is to be done with a command. */
enum cleat_rules_verdict {
    CLEAT_RULES_ANSWER,   /* nothing: answer *status */
    CLEAT_RULES_CARRY_OUT /* do it, then tell `after` */
};

/* The pair {term, epoch} of `a` is below, or the same as, that of `b`. */
bool cleat_rules_below(uint64_t term_a, uint64_t epoch_a, uint64_t term_b,
                       uint64_t epoch_b);

/* A command has come. Where it closes admission (pause, fence) that is so on
 * return, also when it is to be carried out: that is the waiting for those who
 * are in, and the host's part. A prepare that finds an older attempt not
 * finalized is answered with CLEAT_STATE.
 *   status   filled when the verdict is CLEAT_RULES_ANSWER */
enum cleat_rules_verdict
cleat_rules_before(struct cleat_rules *rules,
                   const struct cleat_sync_command *command,
                   enum cleat_status *status);

/* It has been carried out, and this came of it. */
void cleat_rules_after(struct cleat_rules *rules,
                       const struct cleat_sync_command *command,
                       enum cleat_status status);

/* The channel has ended: admission closes. The attempt is still to be
 * finalized, when the stage is not idle. */
void cleat_rules_orphaned(struct cleat_rules *rules);

/* The first byte was applied over what is held. */
void cleat_rules_torn(struct cleat_rules *rules);

/* Admission is open, but for lease and channel. */
bool cleat_rules_open(const struct cleat_rules *rules);

#endif
