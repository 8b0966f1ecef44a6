/* Cleat: words. SPDX-License-Identifier: Apache-2.0
 *
 * CLEAT_REFUSE is cleat_error_set within core: fills *error and is `status`. A
 * build with CLEAT_SMALL spends no bytes on the line, as on the sentences of
 * statuses: there the status, the index and the offset tell it all, and fit
 * the registers of a call. */
#ifndef CLEAT_CORE_TEXT_H
#define CLEAT_CORE_TEXT_H

#include "cleat/status.h"

/* Text number `number` of those that stand in a row, each with its NUL: no
 * pointers, hence no relocations. */
const char *cleat_text_at(const char *texts, uint32_t number);

#if defined(CLEAT_SMALL) && CLEAT_SMALL
#define CLEAT_TEXT(line) ""
#define CLEAT_REFUSE(error, status, index, offset, line) \
    cleat_error_small((error), (status), (index), (offset))
enum cleat_status cleat_error_small(struct cleat_error *error,
                                    enum cleat_status status, uint32_t index,
                                    size_t offset);
#else
#define CLEAT_TEXT(line) line
#define CLEAT_REFUSE(error, status, index, offset, line) \
    cleat_error_set((error), (status), (index), (offset), (line))
#endif

#endif
