/* Cleat: the loop between a machine and its ports. SPDX-License-Identifier:
 * Apache-2.0 */
#include "drive.h"

void cleat_drive(const struct cleat_service_ports *ports,
                 const struct cleat_drive_machine *machine)
{
    const struct cleat_threads *threads = &ports->threads;
    struct cleat_message message;

    threads->lock(threads->context);
    while (machine->dispatch(machine->self, drive_now_ns(ports))) {
        uint64_t deadline_ns = machine->deadline(machine->self);
        enum cleat_status status;

        threads->unlock(threads->context);
        status = ports->mailbox.wait(ports->mailbox.context, deadline_ns,
                                     &message);
        threads->lock(threads->context);
        if (status == CLEAT_OK) {
            machine->feed(machine->self, drive_now_ns(ports), &message);
        }
    }
    threads->unlock(threads->context);
}

bool drive_ports_complete(const struct cleat_service_ports *ports)
{
    return ports->clock.now_ns != NULL && ports->threads.lock != NULL &&
           ports->threads.unlock != NULL && ports->threads.submit != NULL &&
           ports->mailbox.post != NULL && ports->mailbox.wait != NULL;
}

void drive_tell(const struct cleat_service_ports *ports,
                const struct cleat_event *event)
{
    if (ports->events.tell != NULL) {
        ports->events.tell(ports->events.context, event);
    }
}

void drive_wake(const struct cleat_service_ports *ports)
{
    struct cleat_message message = {.kind = CLEAT_WORKER_WAKE};

    /* A full box means that the loop is about to look anyway. */
    (void)ports->mailbox.post(ports->mailbox.context, &message);
}

/* splitmix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
 * Generators", 2014): the jitter wants numbers that differ, no more. */
uint64_t drive_draw(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}
