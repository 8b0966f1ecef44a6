/* Cleat: `cleat tools` in a build without port/mcp.
 * SPDX-License-Identifier: Apache-2.0 */
#include "options.h"
#include "tools.h"

int cleat_tool_tools(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return options_fail("cleat tools",
                        "this build has no port/mcp: it needs libcurl and "
                        "libfyaml (Debian: libcurl4-openssl-dev, "
                        "libfyaml-dev) and CLEAT_MCP=ON");
}
