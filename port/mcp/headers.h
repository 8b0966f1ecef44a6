/* Cleat: what MCP 2026-07-28 mirrors into HTTP headers.
 * SPDX-License-Identifier: Apache-2.0
 *
 * A tool's inputSchema may mark properties with "x-mcp-header"; a call over
 * HTTP then carries their values as Mcp-Param-NAME (MCP 2026-07-28, Streamable
 * HTTP, "Custom Headers from Tool Parameters"). */
#ifndef CLEAT_PORT_MCP_HEADERS_H
#define CLEAT_PORT_MCP_HEADERS_H

#include "rpc.h"

/* Whether every annotation of a schema is one that is allowed. A tool with one
 * that is not is left out of its server's list.
 *   schema   a value of `text`, checked JSON */
bool mcp_headers_allowed(const char *text,
                         const struct cleat_json_value *schema);

/* Writes a line "Mcp-Param-NAME: value\n" for each annotated property that the
 * arguments give a value for. Annotations that are not allowed are passed over.
 *   schema, arguments   JSON objects, checked
 *   room                for strings whose escapes are undone: twice the bytes
 *                       of the longer text are always enough; what does not
 *                       fit is not mirrored */
void mcp_headers_params(struct mcp_out *out, struct cleat_text schema,
                        struct cleat_text arguments, char *room,
                        size_t room_bytes);

/* Writes a header's value: as it is where that is plain ASCII without space
 * around it, otherwise as "=?base64?…?=". */
void mcp_headers_value(struct mcp_out *out, struct cleat_text value);

/* Whether a text may stand in a header as it is: visible ASCII and inner
 * spaces, something at all. */
bool mcp_headers_plain(struct cleat_text value);

#endif
