/* Cleat: the words of an error. SPDX-License-Identifier: Apache-2.0
 *
 * The line that goes with cleat_error_set. A build with CLEAT_SMALL spends no
 * bytes on it, as on the sentences of statuses: there the status, the index
 * and the offset tell it all. */
#ifndef CLEAT_CORE_TEXT_H
#define CLEAT_CORE_TEXT_H

#if defined(CLEAT_SMALL) && CLEAT_SMALL
#define CLEAT_TEXT(line) ""
#else
#define CLEAT_TEXT(line) line
#endif

#endif
