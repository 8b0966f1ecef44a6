/* Cleat: text of others, printed. SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAT_TOOLS_PRINT_H
#define CLEAT_TOOLS_PRINT_H

#include <stdio.h>

#include "cleat/tools.h"

/* The letters of a text; what is not UTF-8 counts one a byte. */
size_t cli_count_letters(struct cleat_text text);

/* Prints text for a person: control characters, what changes the direction of
 * a line and what is not UTF-8 become '?'.
 *   columns_max  characters printed at most; cut with "…"
 * Returns how many were printed. */
size_t cli_print_text(FILE *file, struct cleat_text text, size_t columns_max);

/* Prints text as a JSON string, quotes and all. What is not UTF-8 becomes
 * U+FFFD. */
void cli_print_json(FILE *file, struct cleat_text text);

#endif
