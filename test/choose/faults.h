/* Cleat: the fault table. SPDX-License-Identifier: Apache-2.0
 *
 * What can become of one command given to a peer. A model asks
 * `choose(c, CHOOSE_FAULTS)` (while it still has faults to give) and acts by
 * the row's flags, never by its name: a row added here is a fault that every
 * model then meets. Row 0 is the benign one.
 *
 * A model for which a row means nothing (a machine without payload cannot be
 * given a torn one) leaves it out by its flags, see choose_fault_pick. */
#ifndef CLEAT_TEST_CHOOSE_FAULTS_H
#define CLEAT_TEST_CHOOSE_FAULTS_H

#include "choose.h"
#include "cleat/status.h"

/* What a row does. */
enum choose_fault_flags {
    FAULT_EFFECT = 1,     /* the peer does what it was told */
    FAULT_ANSWERS = 2,    /* an answer comes, and carries the row's status */
    FAULT_LATE = 4,       /* … but only after the deadline */
    FAULT_TWICE = 8,      /* … two times */
    FAULT_OVERTAKEN = 16, /* … after answers to later commands */
    FAULT_DAMAGED = 32,   /* the payload comes short, torn or with flipped bits:
                             the status tells how it is found out */
    FAULT_GONE = 64,      /* the peer does nothing ever after */
    FAULT_NOTICE = 128, /* … and that is told (end-of-file, exit of a child) */
    FAULT_STOPPED = 256, /* the peer stands still, and later wakes and carries
                            on where it was: effect and answer come then */
    FAULT_PAYLOAD = 512  /* means something only where bytes travel */
};

/* X(NAME, flags, status of the answer, what happens) */
#define CHOOSE_FAULT_LIST(X)                                                  \
    X(NONE, FAULT_EFFECT | FAULT_ANSWERS, CLEAT_OK, "it works")               \
    X(TRANSIENT, FAULT_ANSWERS, CLEAT_TRANSIENT,                              \
      "a transient error, without effect")                                    \
    X(TRANSIENT_EFFECT, FAULT_EFFECT | FAULT_ANSWERS, CLEAT_TRANSIENT,        \
      "a transient error, and yet with effect")                               \
    X(AMBIGUOUS, FAULT_ANSWERS, CLEAT_AMBIGUOUS,                              \
      "an ambiguous error, without effect")                                   \
    X(AMBIGUOUS_EFFECT, FAULT_EFFECT | FAULT_ANSWERS, CLEAT_AMBIGUOUS,        \
      "an ambiguous error, with effect")                                      \
    X(CAPACITY, FAULT_ANSWERS, CLEAT_CAPACITY,                                \
      "the other side is full, without effect")                               \
    X(CAPACITY_EFFECT, FAULT_EFFECT | FAULT_ANSWERS, CLEAT_CAPACITY,          \
      "the other side is full, and yet with effect")                          \
    X(PERMANENT, FAULT_ANSWERS, CLEAT_PERMANENT,                              \
      "a permanent error, without effect")                                    \
    X(PERMANENT_EFFECT, FAULT_EFFECT | FAULT_ANSWERS, CLEAT_PERMANENT,        \
      "a permanent error, and yet with effect")                               \
    X(SILENCE, 0, CLEAT_PENDING, "no answer, without effect")                 \
    X(SILENCE_EFFECT, FAULT_EFFECT, CLEAT_PENDING, "no answer, with effect")  \
    X(LATE, FAULT_EFFECT | FAULT_ANSWERS | FAULT_LATE, CLEAT_OK,              \
      "it works, and the answer comes after the deadline")                    \
    X(LATE_TRANSIENT, FAULT_ANSWERS | FAULT_LATE, CLEAT_TRANSIENT,            \
      "a transient error, told after the deadline")                           \
    X(DUPLICATE, FAULT_EFFECT | FAULT_ANSWERS | FAULT_TWICE, CLEAT_OK,        \
      "it works, and the answer comes twice")                                 \
    X(OUT_OF_ORDER, FAULT_EFFECT | FAULT_ANSWERS | FAULT_OVERTAKEN, CLEAT_OK, \
      "it works, and the answer is overtaken by later ones")                  \
    X(SHORT, FAULT_ANSWERS | FAULT_DAMAGED | FAULT_PAYLOAD, CLEAT_SHORT,      \
      "fewer bytes arrive than were sent")                                    \
    X(TORN, FAULT_ANSWERS | FAULT_DAMAGED | FAULT_PAYLOAD, CLEAT_CORRUPT,     \
      "half of the bytes are the old ones")                                   \
    X(CORRUPT, FAULT_ANSWERS | FAULT_DAMAGED | FAULT_PAYLOAD, CLEAT_CORRUPT,  \
      "some bits are flipped")                                                \
    X(GONE_NOTICE, FAULT_GONE | FAULT_NOTICE, CLEAT_PEER_LOST,                \
      "the peer dies without having done it, and that is told")               \
    X(GONE_NOTICE_EFFECT, FAULT_EFFECT | FAULT_GONE | FAULT_NOTICE,           \
      CLEAT_PEER_LOST, "the peer does it and dies, and that is told")         \
    X(GONE, FAULT_GONE, CLEAT_PENDING,                                        \
      "the peer is gone without a word, without having done it")              \
    X(GONE_EFFECT, FAULT_EFFECT | FAULT_GONE, CLEAT_PENDING,                  \
      "the peer does it and is gone without a word")                          \
    X(STOPPED, FAULT_EFFECT | FAULT_ANSWERS | FAULT_STOPPED, CLEAT_OK,        \
      "the peer stands still, wakes up after the deadline, and carries on")

enum choose_fault_kind {
#define CHOOSE_FAULT_ENUM(name, flags, status, meaning) CHOOSE_FAULT_##name,
    CHOOSE_FAULT_LIST(CHOOSE_FAULT_ENUM)
#undef CHOOSE_FAULT_ENUM
        CHOOSE_FAULTS /* how many rows there are */
};

struct choose_fault {
    const char *name;
    const char *meaning;
    uint32_t flags;
    enum cleat_status status;
};

static inline const struct choose_fault *choose_fault_row(uint32_t kind)
{
    static const struct choose_fault rows[] = {
#define CHOOSE_FAULT_ROW(name, flags, status, meaning) \
    {#name, meaning, flags, status},
        CHOOSE_FAULT_LIST(CHOOSE_FAULT_ROW)
#undef CHOOSE_FAULT_ROW
    };
    return &rows[kind < CHOOSE_FAULTS ? kind : 0];
}

/* One fault of those without any flag of `without`, by one choice; row 0,
 * without a choice, when *budget is 0. A fault that is not row 0 takes one of
 * *budget. */
static inline const struct choose_fault *
choose_fault_pick(struct choose *c, uint32_t without, uint8_t *budget)
{
    uint32_t kinds[CHOOSE_FAULTS];
    uint32_t count = 0;

    if (*budget == 0) { return choose_fault_row(0); }
    for (uint32_t kind = 0; kind < CHOOSE_FAULTS; kind++) {
        if ((choose_fault_row(kind)->flags & without) == 0) {
            kinds[count++] = kind;
        }
    }
    kinds[0] = kinds[choose(c, count)];
    if (kinds[0] != 0) {
        --*budget;
        choose_note(c, "fault %s: %s", choose_fault_row(kinds[0])->name,
                    choose_fault_row(kinds[0])->meaning);
    }
    return choose_fault_row(kinds[0]);
}

#endif
