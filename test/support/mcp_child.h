/* Cleat: server processes that behave and misbehave. SPDX-License-Identifier:
 * Apache-2.0
 *
 * A test program that starts servers is its own server: run again with "child"
 * and a way to behave as arguments. */
#ifndef CLEAT_TEST_MCP_CHILD_H
#define CLEAT_TEST_MCP_CHILD_H

#include <stdbool.h>

/* Whether this process was started as a server. */
bool mcp_child_is(int argc, char **argv);

/* What main returns then.
 *   echo          says each line again, until the end of its input
 *   drip          the same, one byte a write
 *   silent        reads and says nothing
 *   swallow N     says "done" once it has read N bytes; then as silent
 *   deaf          does not read
 *   stubborn [X]  does not read, ignores SIGTERM; with X it says "no" once it
 *                 does
 *   parent        starts a process that keeps its output, says its number,
 *                 exits with 5
 *   flood         4 MiB on stderr, then as echo
 *   words         "first" and "last" on stderr, and what node would add; exits
 *                 with 3
 *   secret        what SECRET holds on stderr, exits with 1
 *   shot          kills itself with SIGKILL
 *   half          a message that does not end; exits with 0
 *   chatter N     N lines; exits with 0
 *   long N        a line of N bytes, and goes on as silent
 *   leaver        closes its output and stays
 *   tell          its arguments, environment, folder and descriptors, a line
 *                 each; then as silent
 *   server WAY…   an MCP server of 2025-11-25, with tools "NAME_one" and
 *                 "NAME_two"; ways: name=NAME, mute (silent from the start),
 *                 mute_list (silent after initialize), quit_list (exits with 4
 *                 when it is asked for the list), sloth (never answers a
 *                 call), touch=FILE (each start adds a line to that file),
 *                 change=FIFO (says list_changed when somebody opens it to
 *                 write, and has a third tool from then on)
 */
int mcp_child_main(int argc, char **argv);

#endif
