// Cleat: what the official TypeScript client gets from a server.
// SPDX-License-Identifier: Apache-2.0
//
//     node mcp_official.mjs NPM legacy|modern '{"url":…,"transport":…}' CALLS
//     node mcp_official.mjs NPM legacy|modern '{"command":…,"args":…,"env":…}' …
//
// NPM has @modelcontextprotocol/client, from npm (tools/setup). CALLS is JSON:
// [[NAME, ARGUMENTS], …]. Prints one line of JSON: {"tools": […], "calls":
// [{"result": …} or {"error": CODE}, …]}.
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [npm, era, serverText, callsText] = process.argv.slice(2);
const server = JSON.parse(serverText);
const dist = path.resolve(npm, 'node_modules', '@modelcontextprotocol',
  'client', 'dist');
const sdk = await import(pathToFileURL(path.join(dist, 'index.mjs')));
const { StdioClientTransport } =
  await import(pathToFileURL(path.join(dist, 'stdio.mjs')));

const transport = server.command
  ? new StdioClientTransport({ ...server, stderr: 'ignore' })
  : server.transport === 'sse'
    ? new sdk.SSEClientTransport(new URL(server.url))
    : new sdk.StreamableHTTPClientTransport(new URL(server.url));
const client = new sdk.Client({ name: 'official', version: '1.0.0' }, {
  versionNegotiation: {
    mode: era === 'modern' ? { pin: '2026-07-28' } : 'legacy',
  },
});
await client.connect(transport);

const { tools } = await client.listTools();
const calls = [];
for (const [name, args] of JSON.parse(callsText)) {
  try {
    calls.push({ result: await client.callTool({ name, arguments: args }) });
  } catch (error) {
    calls.push({ error: error.code });
  }
}
await client.close();
console.log(JSON.stringify({ tools, calls }));
process.exit(0);
