/* Cleat: threads whose every switch is a choice. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A few fibres on stacks of their own, and over them the ports that a service
 * needs: a clock, a lock, worker threads, mailboxes. A fibre can be switched
 * away from where it takes or gives the lock, submits, posts and waits, and
 * `choose` says who goes on. Going on with another fibre while this one could
 * go on is a preemption, and there is a bounded number of them; a switch away
 * from one that waits, or has ended, is free. The same budget pays for a clock
 * that moves while somebody could go on. Otherwise time stands still until all
 * wait, and then comes to the earliest moment that one waits for.
 *
 * A state is what the fibres' stacks, their registers and the test's world
 * hold, byte by byte: what was there before is not gone into again.
 *
 * All decisions are made outside the fibres, so that a failure leaves the test
 * from the stack on which it began. */
#ifndef CLEAT_TEST_FIBRES_H
#define CLEAT_TEST_FIBRES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "choose.h"
#include "cleat/clock.h"
#include "cleat/mailbox.h"
#include "cleat/threads.h"

#define FIBRES_MAX 4u
#define FIBRES_JOBS_MAX 4u
#define FIBRES_MAILBOX_MAX 8u

/* What the fibres share, in the test's world: a plain block. */
struct fibres_job {
    cleat_job_fn *fn;
    void *job;
    uint64_t index;
};
struct fibres_port {
    uint32_t lock_owner; /* 1 + the fibre; 0: free */
    uint32_t jobs_running;
    uint32_t jobs_count;
    uint32_t jobs_max;
    bool closing; /* worker fibres end when there is no job left */
    struct fibres_job jobs[FIBRES_JOBS_MAX];
};
struct fibres_mailbox {
    uint32_t messages_max;
    uint32_t count;
    struct cleat_message messages[FIBRES_MAILBOX_MAX];
};

/* Begins an execution.
 *   port   the lock and the jobs; part of the world
 *   world  the test's state, all of it: hashed, with the stacks */
void fibres_begin(struct choose *c, uint32_t preemptions_max,
                  struct fibres_port *port, void *world, size_t world_bytes,
                  uint64_t now_ns);

/* Adds a fibre; its number is the order. */
void fibres_add(const char *name, void (*fn)(void *context), void *context);

/* Runs until every fibre has ended. False: this state was seen before, and the
 * body returns. */
bool fibres_run(void);

/* --- in a fibre --- */

uint64_t fibres_now_ns(void);
/* Whether it passed while somebody could go on. */
bool fibres_time_ran_ahead(void);
uint32_t fibres_choose(uint32_t n);
/* A place at which another may go on. */
void fibres_yield(void);
/* Waits until ready(context), or deadline_ns; whether it is ready. */
bool fibres_wait(bool (*ready)(void *context), void *context,
                 uint64_t deadline_ns);
void fibres_check_that(bool condition, const char *sentence);
#define fibres_check(condition, sentence) \
    fibres_check_that((condition), (sentence))
void fibres_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Runs submitted jobs until the port closes: the body of a worker fibre. */
void fibres_work(void *nothing);

struct cleat_clock fibres_clock(void);
struct cleat_threads fibres_threads(void);
struct cleat_mailbox fibres_mailbox(struct fibres_mailbox *mailbox);
/* For a port that keeps what found no room. */
bool fibres_mailbox_has_room(void *mailbox);
bool fibres_holds_lock(void);

#endif
