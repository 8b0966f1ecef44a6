/* Cleat: a library with the names of Mooncake Store's functions and nothing
 * behind them. SPDX-License-Identifier: Apache-2.0
 *
 * Built once for each function, which is given another name by a macro: then
 * that one is lacking. */
#include "port/mooncake/abi.h"

#define SYMBOL(result, name, parameters) const int mooncake_store_##name = 1;
CLEAT_MOONCAKE_NEEDED(SYMBOL)
