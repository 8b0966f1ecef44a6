/* Cleat: a Mooncake Store, opened by what a user types.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TOOLS_STORE_MOONCAKE_H
#define CLEAT_TOOLS_STORE_MOONCAKE_H

#include "store_open.h"

/* As store_open, for a kind of STORE_MOONCAKE: fills opened->inner. What it has
 * mapped is store_close's to give back, when this has closed the rest. */
int store_mooncake_open(struct store_opened *opened,
                        const struct store_spec *spec, char *line);

/* Returns false when calls of it are under way: then its block stays theirs. */
bool store_mooncake_close(struct store_opened *opened);

#endif
