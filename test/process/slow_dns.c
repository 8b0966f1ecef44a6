/* Cleat: a resolver that hangs, to be preloaded. SPDX-License-Identifier:
 * Apache-2.0 */
#define _GNU_SOURCE
#include <netdb.h>
#include <unistd.h>

int getaddrinfo(const char *node, const char *service,
                const struct addrinfo *hints, struct addrinfo **result)
{
    (void)node;
    (void)service;
    (void)hints;
    (void)result;
    (void)sleep(600);
    return EAI_AGAIN;
}
