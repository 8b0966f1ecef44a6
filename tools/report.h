/* Cleat: what `cleat sync` says at its end. SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLEAT_TOOLS_REPORT_H
#define CLEAT_TOOLS_REPORT_H

#include <stdio.h>

#include "cleat/sync.h"

/* Errors are kept one by one up to this many. */
#define REPORT_ERRORS_MAX 256u

struct report_replica {
    enum cleat_sync_replica_state state;
    int32_t pid;      /* of its first worker; 0: not known */
    uint64_t version; /* held whole by all its workers; 0: none, or not told */
    uint64_t served;  /* under that version, by all its workers */
    uint64_t torn_served;
    uint32_t digest; /* of all bytes of that version, as received; 0 where
                        digests are skipped */
};

struct report_error {
    enum cleat_sync_step step; /* CLEAT_SYNC_STEPS: in no step */
    uint32_t member;           /* or CLEAT_SYNC_NOBODY */
    enum cleat_status status;
    const char *message; /* NULL: the status's sentence */
};

struct report_undo {
    enum cleat_sync_step step;
    uint32_t member;
    enum cleat_status status;
};

struct report {
    struct cleat_sync_config config; /* for names: who is member 3? */
    enum cleat_sync_outcome outcome; /* of the worst round */
    uint64_t version;                /* that the last round was to bring; 0:
                                        there was no round */
    bool taken;                      /* by those that serve after that round */
    const char *transport;           /* as it was asked for; NULL: shm */
    bool skips_digest;               /* no digest of buckets was taken */
    uint64_t bytes;                  /* of one version */
    uint64_t bytes_delivered; /* to engines that serve them, all rounds */
    uint64_t elapsed_ns;      /* all rounds, without bring-up */
    uint64_t bound_ns;        /* the longest that they could have taken */
    uint64_t attempts;        /* all rounds */
    uint64_t epoch;
    struct report_replica *replicas; /* config.replicas */
    struct report_error errors[REPORT_ERRORS_MAX];
    uint32_t errors_count;
    struct report_undo *undos; /* of the last round */
    uint32_t undos_count;
};

void report_add_error(struct report *report, enum cleat_sync_step step,
                      uint32_t member, enum cleat_status status,
                      const char *message);

/* The worse one of two. */
enum cleat_sync_outcome report_worse(enum cleat_sync_outcome a,
                                     enum cleat_sync_outcome b);

/* 0 COMMITTED, 3 DEGRADED, 4 ROLLED_BACK, 5 RESTART. */
int report_exit_code(enum cleat_sync_outcome outcome);

/* "trainer", "replica 1", "replica 1 worker 0" where there are several, or
 * "caller"; `name` has 48 bytes. */
void report_member_name(const struct cleat_sync_config *config, uint32_t member,
                        char *name);

/* Of an error: "serve" for what was in no step. */
const char *report_step_name(enum cleat_sync_step step);

void report_json(FILE *file, const struct report *report);
void report_text(FILE *file, const struct report *report);

#endif
