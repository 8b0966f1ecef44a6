/* Cleat: one source of decisions, four drivers. SPDX-License-Identifier:
 * Apache-2.0
 *
 * Whatever is not determined in a test (which result comes next, what it is,
 * how far time jumps, which thread runs, who dies) is a call of choose(). The
 * same test is then run by four drivers:
 *
 *   exhaustive  every combination of choices, depth first; a state whose
 *               projection was expanded before is not expanded again
 *   random      seeded, many executions; each one weighs the choices that are
 *               not 0 differently, and switches some of them off (a swarm)
 *   fuzzed      the choices are the bytes of a file, or of a fuzzer
 *   replayed    the choices are the string that a failure printed
 *
 * A failure is shrunk, and printed as one sentence, the choice string, and
 * the command line that replays it.
 *
 * A test comes in one of two forms.
 *
 *   steps   `init` fills a state block, `step` makes a few choices, moves the
 *           state on and says whether there is more. The block is copied
 *           to go back to a branch, so an execution is never run again from
 *           its beginning. This is the form for machines.
 *   body    one function from the beginning to the end, run again for every
 *           combination; it calls choose_seen() where it wants pruning. This
 *           is the form for what cannot be copied (fibres).
 *
 * Test code only: it allocates, prints and reads the clock. */
#ifndef CLEAT_TEST_CHOOSE_H
#define CLEAT_TEST_CHOOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct choose;

/* A projection is at most this many bytes. */
#define CHOOSE_PROJECTION_MAX ((size_t)1 << 16)
#define CHOOSE_MARKS_MAX 64
#define CHOOSE_SENTENCE_MAX 512

struct choose_test {
    const char *name; /* the sentence it proves, with hyphens */

    /* Steps form. The state block is `state_bytes` zeroed bytes, aligned to
     * 64, at the same address during a whole run (so that a pointer into the
     * block itself stays right when a copy is put back). `init` makes no
     * choices. `step` returns false when the execution is over. `project`
     * writes what decides the future into `out` and returns its bytes; the
     * faults that may still come belong in it, absolute times do not. NULL:
     * the block's bytes are the projection. */
    size_t state_bytes;
    void (*init)(void *state, const void *arg);
    bool (*step)(struct choose *c, void *state);
    size_t (*project)(const void *state, void *out);

    /* Body form, where `step` is NULL. */
    void (*body)(struct choose *c, const void *arg);

    const void *arg; /* for init and body: bounds, a configuration */

    /* An execution of more steps fails: it did not come to rest. 0: 10000.
     * With `cut` it ends there instead, and the exhaustive driver covers
     * every execution of up to steps_max steps. (It reaches each state by the
     * shortest way that it finds, so it does not prove that no execution is
     * longer: a bound on time belongs among a model's checks.) */
    uint32_t steps_max;
    bool cut;
    /* Steps form, exhaustive: a state that leads back to itself is an
     * execution without end, and fails. For models whose every step makes
     * progress; leave false where standing still is legal. */
    bool endless_fails;

    bool slow;   /* left out by --quick */
    bool canary; /* has a planted bug: runs under --canary, must fail there */

    /* Names of what must be reached at least once by the exhaustive driver,
     * ended by NULL, or NULL for none: choose_mark(c, i) marks marks[i]. */
    const char *const *marks;

    uint64_t random_executions; /* what --random without a number runs; 0:
                                   20000 */
};

/* --- called by tests ---------------------------------------------------- */

/* A value in 0 … n-1; n ≥ 1. By convention 0 is the choice in which nothing
 * odd happens: shrinking goes towards it, and a random swarm weighs it. */
uint32_t choose(struct choose *c, uint32_t n);

/* The same for a choice without a benign value (whose turn it is): every
 * value is equally likely in the random driver. */
uint32_t choose_any(struct choose *c, uint32_t n);

/* Body form: true when this state was expanded before, and then the body
 * returns at once. Always false in the drivers that do not prune. What is
 * passed is the projection: whatever decides the future, the remaining fault
 * budget and the remaining depth included. */
bool choose_seen(struct choose *c, const void *projection, size_t bytes);

/* Ends the execution: it failed. Never returns, leaves the test by longjmp. */
_Noreturn void choose_fail(struct choose *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Ends the execution when `condition` is false. `sentence` says what must be
 * true. */
#define choose_check(c, condition, sentence) \
    ((condition) ? (void)0                   \
                 : choose_check_failed(c, sentence, __FILE__, __LINE__))
_Noreturn void choose_check_failed(struct choose *c, const char *sentence,
                                   const char *file, int line);

/* A line of the story, printed only while a failure is replayed. */
void choose_note(struct choose *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Whether notes are printed: for a test whose notes cost something. */
bool choose_noting(const struct choose *c);

/* Says that marks[index] of the test was reached. */
void choose_mark(struct choose *c, uint32_t index);

/* For project(): writes and returns the next place to write. */
static inline unsigned char *choose_put(unsigned char *at, const void *bytes,
                                        size_t count)
{
    memcpy(at, bytes, count);
    return at + count;
}
static inline unsigned char *choose_put_u8(unsigned char *at, uint32_t value)
{
    *at = (unsigned char)value;
    return at + 1;
}
static inline unsigned char *choose_put_u32(unsigned char *at, uint32_t value)
{
    return choose_put(at, &value, sizeof value);
}
static inline unsigned char *choose_put_u64(unsigned char *at, uint64_t value)
{
    return choose_put(at, &value, sizeof value);
}
/* A time as the future sees it: relative to now. Times past are all the same
 * (0), CLEAT_NEVER stays itself. */
static inline unsigned char *choose_put_time(unsigned char *at, uint64_t time,
                                             uint64_t now)
{
    return choose_put_u64(at, time == UINT64_MAX ? time
                              : time <= now      ? 0
                                                 : time - now);
}

/* The assertions of core end here (CLEAT_ASSERT_FN=cleat_test_assert_failed):
 * inside a test of this engine they fail it, elsewhere they print and abort. A
 * weak symbol: a harness of its own may define it. */
void cleat_test_assert_failed(const char *expression, const char *file,
                              int line);

/* --- drivers ------------------------------------------------------------ */

enum choose_driver {
    CHOOSE_EXHAUSTIVE,
    CHOOSE_RANDOM,
    CHOOSE_FUZZED,
    CHOOSE_REPLAYED
};

/* Zero is the default everywhere. */
struct choose_options {
    enum choose_driver driver;
    uint64_t executions; /* random: how many; 0: the test's own number */
    uint64_t seed;
    double seconds;       /* stop after; 0: never. An exhaustive run that is
                             stopped has not proved anything, and says so */
    uint64_t bytes_max;   /* exhaustive: of the set of states; 0: 1 GiB */
    const char *string;   /* replayed */
    const uint8_t *bytes; /* fuzzed */
    size_t bytes_count;
    bool unpruned;  /* exhaustive: expand every state again */
    bool no_shrink; /* leave a failure as it was found */
    bool notes;     /* print choose_note() lines */
};

struct choose_outcome {
    bool failed;
    bool unfinished; /* exhaustive: stopped by seconds or bytes_max */
    uint64_t executions;
    uint64_t states;        /* distinct projections; exhaustive only */
    uint64_t steps;         /* calls of step() or body() */
    uint64_t states_digest; /* of the set of states, whatever their order */
    double seconds;
    uint64_t marked[CHOOSE_MARKS_MAX]; /* how often each mark was reached */
    char sentence[CHOOSE_SENTENCE_MAX];
    char *string; /* of the failure, shrunk; the caller frees it */
};

/* Runs one test by one driver. Prints nothing but notes. */
void choose_run(const struct choose_test *test,
                const struct choose_options *options,
                struct choose_outcome *outcome);

/* One input of a fuzzer. On failure prints it as choose_main does, and
 * aborts. Always returns 0, as LLVMFuzzerTestOneInput must. */
int choose_fuzz(const struct choose_test *test, const uint8_t *bytes,
                size_t bytes_count);

/* main() of a model. Options:
 *   --list               the tests' names
 *   --test NAME          only this one (may be repeated)
 *   --exhaustive         the exhaustive driver (the default)
 *   --random [N]         the random driver, N executions
 *   --seed S             of the random driver, default 1
 *   --fuzz FILE…         the fuzzed driver, one execution a file
 *   --replay STRING      the replayed driver, with notes; needs --test
 *   --seconds MAX        stop after; exhaustive: then fail, it proved nothing
 *   --partial            an unfinished exhaustive run is no failure
 *   --unpruned           no pruning
 *   --mib MAX            memory for the set of states, default 1024
 *   --quick              leave out the slow tests
 *   --canary             the tests marked canary, or all if none is: each must
 *                        fail, and does so under every driver named
 * Prints one line a test: `NAME: executions E, states S, SECONDS s`. Returns
 * 0 when all is as it should be, 1 when not, 2 for wrong usage. */
int choose_main(int argc, char **argv, const struct choose_test *tests,
                size_t count);

#endif
