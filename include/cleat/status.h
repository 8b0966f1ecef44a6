/* Cleat: the vocabulary of results. SPDX-License-Identifier: Apache-2.0
 *
 * Every call that can fail returns an `enum cleat_status`. Zero is success,
 * a positive value means "not finished, not failed", a negative one is an
 * error. Two questions are asked of an error, and each has its own answer:
 *
 *   what is broken?     the band:  operation < peer < group < device < job,
 *                       the largest thing that must be rebuilt;
 *   what do I do now?   the class: wait, try again, verify, back off, give up.
 */
#ifndef CLEAT_STATUS_H
#define CLEAT_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A time that never comes, in nanoseconds. Deadlines saturate here. */
#define CLEAT_NEVER UINT64_MAX

/* "None", where zero already means "the default". */
#define CLEAT_NONE UINT64_MAX

#define CLEAT_NS_PER_US UINT64_C(1000)
#define CLEAT_NS_PER_MS UINT64_C(1000000)
#define CLEAT_NS_PER_S UINT64_C(1000000000)

/* What must be rebuilt before this can work again, smallest first. */
enum cleat_band {
    CLEAT_BAND_OPERATION, /* this call only */
    CLEAT_BAND_PEER,      /* one process at the other end */
    CLEAT_BAND_GROUP,     /* the group of processes that move data together */
    CLEAT_BAND_DEVICE,    /* this process's accelerator, hence this process */
    CLEAT_BAND_JOB        /* the job */
};

/* What the caller does next. */
enum cleat_class {
    CLEAT_CLASS_DONE,      /* nothing: it worked */
    CLEAT_CLASS_PENDING,   /* wait: the result will come */
    CLEAT_CLASS_TRANSIENT, /* try again: it had no effect */
    CLEAT_CLASS_AMBIGUOUS, /* verify, then try again: it may have taken effect
                            */
    CLEAT_CLASS_CAPACITY,  /* try again much later, or with less */
    CLEAT_CLASS_PERMANENT, /* do not try again: the answer will be the same */
    CLEAT_CLASS_CANCELLED  /* do not try again: the caller asked to stop */
};

/* X(NAME, value, BAND, CLASS, sentence). The one list; enum, name, sentence,
 * band and class all come from it. */
#define CLEAT_STATUS_LIST(X)                                                 \
    X(OK, 0, OPERATION, DONE, "it worked")                                   \
    X(PENDING, 1, OPERATION, PENDING, "the result has not come yet")         \
    X(INVALID, -1, OPERATION, PERMANENT,                                     \
      "an argument is outside its documented range")                         \
    X(MALFORMED, -2, OPERATION, PERMANENT,                                   \
      "the input does not follow its format")                                \
    X(LIMIT, -3, OPERATION, PERMANENT,                                       \
      "the input is larger than a configured limit")                         \
    X(TOO_SMALL, -4, OPERATION, PERMANENT,                                   \
      "the block given is smaller than what it must hold")                   \
    X(SEALED, -5, OPERATION, PERMANENT,                                      \
      "memory was asked for after initialisation ended")                     \
    X(NO_SLOT, -6, OPERATION, CAPACITY, "every slot is taken")               \
    X(NOT_FOUND, -7, OPERATION, PERMANENT, "there is no such thing")         \
    X(EXISTS, -8, OPERATION, PERMANENT, "there is such a thing already")     \
    X(UNSUPPORTED, -9, OPERATION, PERMANENT,                                 \
      "this build or this machine cannot do it")                             \
    X(STATE, -10, OPERATION, PERMANENT,                                      \
      "the call is not legal in the present state")                          \
    X(TIME_BACKWARDS, -11, OPERATION, PERMANENT,                             \
      "the time given is earlier than one given before")                     \
    X(IO, -12, OPERATION, PERMANENT, "the operating system refused")         \
    X(SHORT, -13, OPERATION, TRANSIENT, "fewer bytes came than were asked")  \
    X(CORRUPT, -14, OPERATION, TRANSIENT,                                    \
      "the bytes do not match their digest")                                 \
    X(TRANSIENT, -15, OPERATION, TRANSIENT,                                  \
      "it failed without effect and may work if tried again")                \
    X(AMBIGUOUS, -16, OPERATION, AMBIGUOUS,                                  \
      "it failed and may have taken effect")                                 \
    X(CAPACITY, -17, OPERATION, CAPACITY, "the other side is full")          \
    X(PERMANENT, -18, OPERATION, PERMANENT, "it failed and will fail again") \
    X(DEADLINE, -19, OPERATION, AMBIGUOUS,                                   \
      "the deadline came before the result")                                 \
    X(EXHAUSTED, -20, OPERATION, PERMANENT,                                  \
      "every attempt allowed has failed")                                    \
    X(CANCELLED, -21, OPERATION, CANCELLED, "the caller cancelled")          \
    X(UNREADABLE, -22, OPERATION, AMBIGUOUS,                                 \
      "it is stored and cannot be read yet")                                 \
    X(PEER_LOST, -40, PEER, PERMANENT, "the peer is gone")                   \
    X(PEER_SILENT, -41, PEER, AMBIGUOUS,                                     \
      "the peer did not answer before its deadline")                         \
    X(PEER_STALE, -42, PEER, PERMANENT,                                      \
      "the peer has seen a newer term or epoch")                             \
    X(PEER_UNFENCED, -43, PEER, PERMANENT,                                   \
      "the peer could not be made certain not to serve")                     \
    X(PEER_DEVIANT, -44, PEER, PERMANENT,                                    \
      "the peer answered what the protocol forbids")                         \
    X(GROUP_FAILED, -60, GROUP, TRANSIENT,                                   \
      "a member failed, and the group must be rebuilt")                      \
    X(DEVICE_LOST, -80, DEVICE, PERMANENT,                                   \
      "the accelerator cannot be used by this process any more")             \
    X(RESTART, -100, JOB, PERMANENT, "the job must be restarted")

enum cleat_status {
#define CLEAT_STATUS_ENUM(name, value, band, class, sentence) \
    CLEAT_##name = (value),
    CLEAT_STATUS_LIST(CLEAT_STATUS_ENUM)
#undef CLEAT_STATUS_ENUM
};

/* Where an error happened and in what words. Filled by the call that failed,
 * into the caller's struct; every call accepts NULL for "do not tell me". */
#define CLEAT_ERROR_TEXT_MAX 192
struct cleat_error {
    enum cleat_status status;
    int32_t port_code; /* the port's own code (errno, CUresult, …), 0: none */
    uint64_t index;    /* which argument, member, key or tensor; else 0 */
    uint64_t offset;   /* byte offset in the input, or bytes needed; else 0 */
    char text[CLEAT_ERROR_TEXT_MAX]; /* one line, NUL-terminated, no newline */
};

/* The status's name without its prefix, "PEER_LOST"; "UNKNOWN" for a value
 * that is not in the list. Static storage. Never NULL. */
const char *cleat_status_name(enum cleat_status status);

/* The status's sentence, lower case, no full stop; "" for a value that is not
 * in the list and in a build with CLEAT_SMALL. Static storage. Never NULL. */
const char *cleat_status_sentence(enum cleat_status status);

/* The largest thing that must be rebuilt. A value that is not in the list
 * counts as CLEAT_BAND_JOB: what is not understood is not survived. */
enum cleat_band cleat_status_band(enum cleat_status status);

/* What to do next. A value that is not in the list is
 * CLEAT_CLASS_PERMANENT. */
enum cleat_class cleat_status_class(enum cleat_status status);

/* Lower-case names, "peer" and "transient". Static storage. Never NULL;
 * "unknown" for a value outside the enum. */
const char *cleat_band_name(enum cleat_band band);
const char *cleat_class_name(enum cleat_class class_of_status);

/* Fills *error, when error is not NULL, and returns `status`, so that a
 * failing call reads `return cleat_error_set(error, CLEAT_INVALID, 2, 0,
 * "…");`. `text` is cut at CLEAT_ERROR_TEXT_MAX - 1 bytes. port_code is 0. */
enum cleat_status cleat_error_set(struct cleat_error *error,
                                  enum cleat_status status, uint64_t index,
                                  uint64_t offset, const char *text);

/* a + b, CLEAT_NEVER where that overflows or where either is CLEAT_NEVER. The
 * one way in which times are added. */
uint64_t cleat_time_add(uint64_t a_ns, uint64_t b_ns);

#ifdef __cplusplus
}
#endif
#endif
