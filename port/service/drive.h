/* Cleat: what the services of this folder share. SPDX-License-Identifier:
 * Apache-2.0 */
#ifndef CLEAT_PORT_SERVICE_DRIVE_H
#define CLEAT_PORT_SERVICE_DRIVE_H

#include "cleat/service.h"

static inline uint64_t drive_now_ns(const struct cleat_service_ports *ports)
{
    return ports->clock.now_ns(ports->clock.context);
}

/* Every function that a service calls is there. */
bool drive_ports_complete(const struct cleat_service_ports *ports);

/* Tells the listener, if there is one. */
void drive_tell(const struct cleat_service_ports *ports,
                const struct cleat_event *event);

/* Makes the loop look again, from any thread. */
void drive_wake(const struct cleat_service_ports *ports);

/* The next number for a jitter. */
uint64_t drive_draw(uint64_t *state);

#endif
