/* Cleat: leases and the admission gate. SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "port/linux/gate.h"
#include "port/linux/lease.h"

/* ---- a coordinator and an engine in virtual time ---------------------------
 *
 * Asks and grants take any time, and may be lost. The engine's clock starts
 * anywhere and runs slower than the coordinator's, by as much as `drift_ns`
 * allows in one lease. At some moment the coordinator stops granting; as soon
 * as it says that the lease is over, the engine must not serve, then or ever
 * after. */

#define MESSAGES_MAX 64u

struct message {
    uint64_t arrives_ns;
    uint64_t counter;
    bool grant;
    bool taken;
};

struct world {
    uint64_t seed;
    uint64_t lease_ns;
    uint64_t drift_ns;
    uint64_t engine_offset_ns;
    bool naive; /* the planted bug: counts from when the grant came */
    struct cleat_lease lease;
    struct cleat_lease_book book;
    struct message messages[MESSAGES_MAX];
};

static uint64_t draw(struct world *world, uint64_t below)
{
    /* splitmix64 (Steele, Lea, Flood 2014) */
    uint64_t z = (world->seed += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % below;
}

/* The slowest clock that keeps to the drift: while lease + drift passes here,
 * lease passes there. */
static uint64_t engine_clock(const struct world *world, uint64_t now_ns)
{
    return world->engine_offset_ns +
           now_ns * world->lease_ns / (world->lease_ns + world->drift_ns);
}

static void send_message(struct world *world, uint64_t now_ns, uint64_t counter,
                         bool grant)
{
    if (draw(world, 8) == 0) { return; } /* lost */
    for (uint32_t i = 0; i < MESSAGES_MAX; i++) {
        if (world->messages[i].taken) { continue; }
        world->messages[i] = (struct message){
            now_ns + draw(world, 2 * world->lease_ns), counter, grant, true};
        return;
    }
}

static void deliver(struct world *world, uint64_t now_ns)
{
    for (uint32_t i = 0; i < MESSAGES_MAX; i++) {
        struct message *message = &world->messages[i];
        if (!message->taken || message->arrives_ns > now_ns) { continue; }
        message->taken = false;
        if (!message->grant) {
            if (cleat_lease_grant(&world->book, now_ns, world->lease_ns,
                                  world->drift_ns)) {
                send_message(world, now_ns, message->counter, true);
            }
        } else if (world->naive) {
            world->lease.end_ns = engine_clock(world, now_ns) + world->lease_ns;
        } else {
            (void)cleat_lease_granted(&world->lease, message->counter,
                                      world->lease_ns);
        }
    }
}

/* Whether the engine served when the coordinator was certain that it could
 * not; *served says whether it ever did at all. */
static bool is_fooled(uint64_t seed, bool naive, bool *served)
{
    struct world world;
    bool fooled = false;

    memset(&world, 0, sizeof world);
    world.seed = seed;
    world.naive = naive;
    world.lease_ns = 50 + draw(&world, 200);
    world.drift_ns = draw(&world, 40);
    world.engine_offset_ns = draw(&world, 1000000);
    uint64_t revoke_ns = draw(&world, 2000);
    for (uint64_t now_ns = 0; now_ns < 4000; now_ns++) {
        deliver(&world, now_ns);
        if (draw(&world, world.lease_ns / 3) == 0) {
            send_message(
                &world, now_ns,
                cleat_lease_ask(&world.lease, engine_clock(&world, now_ns)),
                false);
        }
        if (now_ns == revoke_ns) { cleat_lease_revoke(&world.book, 1, 1); }
        bool serves = cleat_lease_holds(world.lease.end_ns,
                                        engine_clock(&world, now_ns));
        *served = *served || serves;
        if (now_ns >= revoke_ns && cleat_lease_over(&world.book, now_ns) &&
            serves) {
            fooled = true;
        }
    }
    return fooled;
}

static void
an_engine_never_serves_past_what_the_coordinator_counts(void **state)
{
    bool served = false;

    (void)state;
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        if (is_fooled(seed, false, &served)) {
            fail_msg("seed %llu", (unsigned long long)seed);
        }
    }
    assert_true(served);
}

static void
and_the_same_world_finds_one_that_counts_from_the_grant(void **state)
{
    bool fooled = false;
    bool served = false;

    (void)state;
    for (uint64_t seed = 1; seed <= 2000 && !fooled; seed++) {
        fooled = is_fooled(seed, true, &served);
    }
    assert_true(fooled);
}

static void a_grant_is_of_one_of_the_last_asks(void **state)
{
    struct cleat_lease lease;

    (void)state;
    memset(&lease, 0, sizeof lease);
    lease.counter = UINT64_MAX / 2;
    uint64_t first = cleat_lease_ask(&lease, 100);
    for (uint64_t i = 1; i < CLEAT_LEASE_ASKS; i++) {
        (void)cleat_lease_ask(&lease, 100 + i);
    }
    assert_true(cleat_lease_granted(&lease, first, 50));
    assert_int_equal(lease.end_ns, 150);
    assert_true(cleat_lease_granted(&lease, first + 3, 50));
    assert_int_equal(lease.end_ns, 153);
    assert_true(cleat_lease_granted(&lease, first, 50)); /* again: no effect */
    assert_int_equal(lease.end_ns, 153);
    assert_false(cleat_lease_granted(&lease, lease.counter + 1, 50));
    assert_false(cleat_lease_granted(&lease, 0, 50));
    (void)cleat_lease_ask(&lease, 900); /* pushes the first one out */
    assert_false(cleat_lease_granted(&lease, first, 5000));
    assert_int_equal(lease.end_ns, 153);
    /* what was asked of a coordinator that is gone, the next cannot grant */
    uint64_t last = lease.counter;
    cleat_lease_drop(&lease);
    assert_int_equal(lease.end_ns, 0);
    assert_false(cleat_lease_granted(&lease, last, 50));
    uint64_t next = cleat_lease_ask(&lease, 1000);
    assert_false(cleat_lease_granted(&lease, last, 50));
    assert_true(cleat_lease_granted(&lease, next, CLEAT_NEVER));
    assert_int_equal(lease.end_ns, CLEAT_NEVER);
}

static void only_a_later_commit_lifts_a_revocation(void **state)
{
    struct cleat_lease_book book;

    (void)state;
    memset(&book, 0, sizeof book);
    assert_true(cleat_lease_over(&book, 0)); /* never granted */
    assert_true(cleat_lease_grant(&book, 10, 5, 1));
    assert_false(cleat_lease_over(&book, 15));
    assert_true(cleat_lease_over(&book, 16));
    cleat_lease_revoke(&book, 3, 4);
    cleat_lease_revoke(&book, 3, 2); /* an older one changes nothing */
    assert_false(cleat_lease_grant(&book, 11, 5, 1));
    assert_int_equal(book.end_ns, 16);
    cleat_lease_committed(&book, 3, 4);
    cleat_lease_committed(&book, 2, 9);
    cleat_lease_committed(&book, 3, 3);
    assert_false(cleat_lease_grant(&book, 12, 5, 1));
    cleat_lease_revoke(&book, 3, 6); /* a newer one moves it up */
    cleat_lease_committed(&book, 3, 5);
    assert_false(cleat_lease_grant(&book, 12, 5, 1));
    cleat_lease_committed(&book, 3, 7);
    assert_true(cleat_lease_grant(&book, 12, 5, 1));
    assert_int_equal(book.end_ns, 18);
    assert_true(cleat_lease_grant(&book, CLEAT_NEVER - 3, 5, 1));
    assert_int_equal(book.end_ns, CLEAT_NEVER);
}

static void whoever_is_in_keeps_a_closed_gate_from_being_empty(void **state)
{
    struct cleat_gate gate;
    bool wake = true;

    (void)state;
    memset(&gate, 0, sizeof gate);
    assert_false(cleat_gate_enter(&gate, &wake));
    assert_false(wake);
    cleat_gate_open(&gate);
    cleat_gate_open(&gate);
    assert_true(cleat_gate_enter(&gate, &wake));
    assert_true(cleat_gate_enter(&gate, &wake));
    assert_false(cleat_gate_leave(&gate)); /* open: nobody waits */
    assert_false(cleat_gate_is_empty(&gate));
    cleat_gate_close(&gate);
    cleat_gate_close(&gate);
    assert_false(cleat_gate_is_empty(&gate));
    assert_false(cleat_gate_enter(&gate, &wake));
    assert_true(cleat_gate_leave(&gate)); /* the last one of a closed gate */
    assert_true(cleat_gate_is_empty(&gate));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            an_engine_never_serves_past_what_the_coordinator_counts),
        cmocka_unit_test(
            and_the_same_world_finds_one_that_counts_from_the_grant),
        cmocka_unit_test(a_grant_is_of_one_of_the_last_asks),
        cmocka_unit_test(only_a_later_commit_lifts_a_revocation),
        cmocka_unit_test(whoever_is_in_keeps_a_closed_gate_from_being_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
