/* Cleat: secrets kept out of texts. SPDX-License-Identifier: Apache-2.0
 *
 * What a server says (its stderr, the text of an error) may repeat what it was
 * given. Before such a text goes into an error it comes through here. */
#ifndef CLEAT_PORT_MCP_SECRETS_H
#define CLEAT_PORT_MCP_SECRETS_H

#include "server.h"

/* A value shorter than this is no secret, but a number or a yes. */
#define MCP_SECRET_BYTES_MIN ((size_t)4)

/* Puts "***" in the place of each secret of the definition that occurs in a
 * text: values of env and headers (and what comes behind the last space of
 * one: "Bearer …"), the token, values in the URL's query; each line of those
 * that have several; also a secret's beginning at the text's end, where the
 * text may have been cut. Of a secret only the first 8191 bytes are looked at.
 *   text   `bytes` bytes, changed in place; it does not grow, and is cut to
 * 4096 Returns its new length. */
size_t mcp_secrets_hide(const struct mcp_server *server, char *text,
                        size_t bytes);

#endif
