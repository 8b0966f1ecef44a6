// Cleat: an MCP server on the official TypeScript SDK, version 2.
// SPDX-License-Identifier: Apache-2.0
//
//     node mcp_server.mjs NPM stdio|http reject|serve
//     node mcp_server.mjs NPM http session
//
// NPM has @modelcontextprotocol/server, from npm (tools/setup). With `reject`
// it speaks the protocol of 2026-07-28 and nothing older, with `session` that
// of 2025-11-25 and older, with sessions. Over HTTP it listens on 127.0.0.1, at
// PORT, or one of the system's choosing.
//
// Its first line on stderr is {"pid":…,"port":…|null}. What comes on a Unix
// socket is the test's way to change what it offers: each connection to the
// path in CLEAT_TEST_CONTROL adds a tool, tool_1, tool_2, …, has every client
// told, and is closed then.
import crypto from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import net from 'node:net';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [npm, wire, legacy] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(npm), 'x.js'));
// A package's module for `import`, which require.resolve would not give.
function load(name) {
  const [, scope, bare, rest] = /^(@[^/]+)\/([^/]+)\/?(.*)$/.exec(name);
  const folder = path.join(npm, 'node_modules', scope, bare);
  const { exports } = JSON.parse(
    fs.readFileSync(path.join(folder, 'package.json')));
  const { default: file } = exports[rest ? './' + rest : '.'].import;
  return import(pathToFileURL(path.resolve(folder, file)));
}
const { McpServer } = await load('@modelcontextprotocol/server');
const z = require('zod');

let added = 0;
const open = new Set(); // one server a stdio connection

function addTool(server, number) {
  server.registerTool(`tool_${number}`,
    { description: `Added as number ${number}.`, inputSchema: z.object({}) },
    async () => ({ content: [{ type: 'text', text: `${number}` }] }));
}

function make() {
  const server = new McpServer({ name: 'cleat-test', version: '1.0.0' }, {
    capabilities: { tools: { listChanged: true } },
    cacheHints: { 'tools/list': { ttlMs: 90000, cacheScope: 'private' } },
  });
  server.registerTool('add', {
    title: 'Addition',
    description: 'Adds two numbers, "a" and b \u2013 no more.\n\tReally.',
    inputSchema: z.object({
      a: z.number().describe('The first'),
      b: z.number().default(1),
      how: z.enum(['exact', 'rounded']).optional(),
    }),
    outputSchema: z.object({ sum: z.number() }),
    annotations: { readOnlyHint: true, idempotentHint: true },
  }, async ({ a, b }) => ({
    content: [{ type: 'text', text: String(a + b) }],
    structuredContent: { sum: a + b },
  }));
  server.registerTool('fail', {
    description: 'Fails.',
    inputSchema: z.object({ list: z.array(z.object({ x: z.string() })) }),
  }, async () => ({ content: [{ type: 'text', text: 'no' }], isError: true }));
  for (let k = 1; k <= added; k++) { addTool(server, k); }
  return server;
}

function makeKept() {
  const server = make();
  open.add(server);
  return server;
}

function control(changed) {
  if (!process.env.CLEAT_TEST_CONTROL) { return; }
  fs.rmSync(process.env.CLEAT_TEST_CONTROL, { force: true });
  net.createServer((connection) => {
    connection.on('error', () => {});
    added++;
    changed();
    connection.end();
  }).listen(process.env.CLEAT_TEST_CONTROL).unref();
}

function ready(port) {
  process.stderr.write(JSON.stringify({ pid: process.pid, port }) + '\n');
}

function listen(handler) {
  const server = http.createServer(handler);
  server.listen(process.env.PORT ?? 0, '127.0.0.1',
    () => ready(server.address().port));
}

if (wire === 'stdio') {
  const { serveStdio } = await load('@modelcontextprotocol/server/stdio');
  // Registering a tool tells the client: the SDK does.
  control(() => { for (const server of open) { addTool(server, added); } });
  serveStdio(makeKept, { legacy });
  ready(null);
} else if (legacy === 'session') {
  const { NodeStreamableHTTPServerTransport } =
    await load('@modelcontextprotocol/node');
  const sessions = new Map();
  control(() => { for (const server of open) { addTool(server, added); } });
  listen(async (request, response) => {
    const id = request.headers['mcp-session-id'];
    if (id !== undefined && !sessions.has(id)) {
      response.writeHead(404).end();
      return;
    }
    let transport = sessions.get(id);
    if (!transport) {
      const server = makeKept();
      transport = new NodeStreamableHTTPServerTransport({
        sessionIdGenerator: () => crypto.randomUUID(),
        onsessioninitialized: (made) => sessions.set(made, transport),
        onsessionclosed: (closed) => {
          sessions.delete(closed);
          open.delete(server);
        },
      });
      await server.connect(transport);
    }
    await transport.handleRequest(request, response);
  });
} else {
  const { createMcpHandler } = await load('@modelcontextprotocol/server');
  const { toNodeHandler } = await load('@modelcontextprotocol/node');
  const handler = createMcpHandler(make,
    { legacy: legacy === 'reject' ? 'reject' : 'stateless' });
  control(() => handler.notify.toolsChanged());
  listen(toNodeHandler(handler));
}
