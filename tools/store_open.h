/* Cleat: a store, opened by what a user types. SPDX-License-Identifier:
 * Apache-2.0
 *
 *     memory[:OPTION,…]           in this process's own memory
 *       keys=N                    values at most
 *       bytes=SIZE                of the whole block
 *     memory:shared=NAME[,…]      in /dev/shm, by name, for every process here
 *       bytes=SIZE                makes it where it is not there
 *       keys=N                    of a new one
 *     mooncake[:OPTION,…]         a Mooncake Store, by cleat/mooncake.h
 *       library, master, metadata, hostname, protocol, device, segment,
 *       local-buffer, staging, replicas, hard-pin, soft-pin
 *
 * An option is `name=value`, or a name alone for what is on or off; a comma
 * inside a value is written `\,` and a backslash `\\`. SIZE is as
 * options_amount has it.
 *
 *     struct store_spec spec;
 *     struct store_opened opened;
 *     char line[STORE_OPEN_LINE_BYTES];
 *
 *     if (!store_parse(text, &spec, line)) { return options_fail(…, line); }
 *     result = store_open(&opened, &spec, NULL, line);
 *     …opened.store…
 *     store_close(&opened);
 */
#ifndef CLEAT_TOOLS_STORE_OPEN_H
#define CLEAT_TOOLS_STORE_OPEN_H

#include "cleat/memory_store.h"
#include "cleat/store.h"
#include "cleat/store_faults.h"

/* What an error line has room for. */
#define STORE_OPEN_LINE_BYTES 1024u

/* The longest string that names a store, with its NUL. */
#define STORE_OPEN_TEXT_BYTES 4096u

enum store_kind { STORE_MEMORY, STORE_SHARED, STORE_MOONCAKE };

/* What the string says, and what it leaves open: 0 and NULL are "not told". A
 * caller may fill in what was not told. Not to be copied: it points into
 * itself. */
struct store_spec {
    enum store_kind kind;

    /* memory */
    const char *shared; /* the name, already known to be one */
    uint64_t keys;
    uint64_t bytes;
    /* What the caller will put, keys and bytes, for a private one of which
     * nothing was told; 0: unknown. */
    uint64_t keys_hint;
    uint64_t bytes_hint;

    /* mooncake */
    const char *library;
    const char *master;
    const char *metadata;
    const char *hostname;
    const char *protocol;
    const char *device;
    uint64_t segment;
    uint64_t local_buffer;
    uint64_t staging;
    uint64_t replicas;
    bool hard_pin;
    bool soft_pin;

    char text[STORE_OPEN_TEXT_BYTES]; /* what the names point into */
};

/* Reads a string. Returns false with one line, no newline, in `line`
 * (STORE_OPEN_LINE_BYTES): which option is wrong, and what was expected; of
 * options that there are not, all are named. */
bool store_parse(const char *text, struct store_spec *spec, char *line);

/* The options of a kind, "keys, bytes, shared", for a help text or an error. */
void store_options(enum store_kind kind, char *line);

/* Which puts are to be looked at where nobody asks for more, enum
 * cleat_transfer_verify: a Mooncake Store says that a put worked where another
 * one of that key is under way. */
uint32_t store_verify(const struct store_spec *spec);

/* ---- faults ------------------------------------------------------------- */

/* What a layer over the store does; all zero: nothing. */
struct store_faults {
    struct cleat_store_fault rules[CLEAT_STORE_FAULTS_RULES_MAX];
    uint32_t count;
    uint64_t seed;
    uint64_t keys; /* how many keys there will be; 0: some thousands */
};

/* Adds one, `KIND:RATE[:ARG]…`:
 *   KIND   one of cleat/store_faults.h, "ambiguous-put"
 *   RATE   a share of the keys, 0 … 1 or 0% … 100%; 0 adds nothing
 *   ARG    TIMES, digits: of each key, the first so many only; a TIME, digits
 *          and ns, us, ms or s: how long a silence is; key=KEY: of that key
 *          alone; the last, for a key may have colons
 * `text` must outlive the faults. Returns false with a line as above. */
bool store_faults_add(struct store_faults *faults, const char *text,
                      char *line);

/* ---- open --------------------------------------------------------------- */

/* An open store. Not to be moved while it is. */
struct store_opened {
    struct cleat_store store; /* to be used; any faults are in it */

    /* Not for reading. */
    struct cleat_store inner;
    struct cleat_memory_store_shared shared;
    enum store_kind kind;
    bool crowded; /* it is not open: all its places are taken, for now */
    void *block;  /* mapped: the store's, or what its port needs */
    size_t block_bytes;
    void *layer; /* mapped: the faults' */
    size_t layer_bytes;
    _Alignas(64) unsigned char end[CLEAT_MEMORY_STORE_END_BYTES];
};

/* Opens. Nothing has been put or got; that the store works is for
 * cleat_transfer_service_ready, or opened->store.ready, to find out.
 *   faults  NULL: none
 *   line    as above
 * Returns 0; 2: what was asked for cannot be, or cannot be in this build; 9:
 * it is not there, or cannot be had now. On error nothing is held. */
int store_open(struct store_opened *opened, const struct store_spec *spec,
               const struct store_faults *faults, char *line);

/* Ends every silence of the faults, so that each call that is under way
 * returns; calls that come later are not silent any more. Any thread. */
void store_wake(const struct store_opened *opened);

/* Closes; its calls must have returned. A named store stays. Idempotent, and
 * safe after an open that failed. */
void store_close(struct store_opened *opened);

#endif
