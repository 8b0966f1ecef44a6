// Cleat: how long the official TypeScript client takes to a tool list.
// SPDX-License-Identifier: Apache-2.0
//
//     node cold_load.mjs NPM [LOADS]
//
// NPM has @modelcontextprotocol/client, sdk and server-everything, from npm
// (tools/setup). Each load starts server-everything over stdio, initializes,
// lists its tools and closes, LOADS (5) times with each of two clients in turn:
// the current one and the one of version 1. Prints
//
//     load CLIENT NUMBER TOTAL_MS LISTED_MS TOOLS
//     cold_load CLIENT loads=N tools=N total_ms=MEDIAN listed_ms=MEDIAN
//               listed_ms_min=… listed_ms_max=…                (one line)
//
// where listed is from the start of the process to the list, and total to its
// end. A first load of each, unmeasured, fills the caches.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [npm, loadsText = '5'] = process.argv.slice(2);
const modules = path.resolve(npm, 'node_modules', '@modelcontextprotocol');
const loads = Number(loadsText);

const load = (...file) => import(pathToFileURL(path.join(modules, ...file)));
const versionOf = (name) => JSON.parse(fs.readFileSync(
  path.join(modules, name, 'package.json'))).version;

const clients = [
  { name: `client@${versionOf('client')}`,
    Client: (await load('client', 'dist', 'index.mjs')).Client,
    Transport: (await load('client', 'dist', 'stdio.mjs'))
      .StdioClientTransport },
  { name: `sdk@${versionOf('sdk')}`,
    Client: (await load('sdk', 'dist', 'esm', 'client', 'index.js')).Client,
    Transport: (await load('sdk', 'dist', 'esm', 'client', 'stdio.js'))
      .StdioClientTransport },
];

async function loadOnce({ Client, Transport }) {
  const client = new Client({ name: 'cold_load', version: '1.0.0' });
  const transport = new Transport({
    command: process.execPath,
    args: [path.join(modules, 'server-everything', 'dist', 'index.js'),
      'stdio'],
    stderr: 'ignore',
  });
  const start = performance.now();
  await client.connect(transport);
  const { tools } = await client.listTools();
  const listed = performance.now();
  await client.close();
  const end = performance.now();
  return { total: end - start, listed: listed - start, tools: tools.length };
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half]
    : (sorted[half - 1] + sorted[half]) / 2;
}

for (const client of clients) {
  client.loads = [];
  await loadOnce(client);
}
for (let k = 1; k <= loads; k++) {
  for (const client of clients) {
    const one = await loadOnce(client);
    client.loads.push(one);
    console.log(`load ${client.name} ${k} ${one.total.toFixed(1)} ` +
      `${one.listed.toFixed(1)} ${one.tools}`);
  }
}
for (const { name, loads: all } of clients) {
  const listed = all.map((one) => one.listed);
  console.log(`cold_load ${name} loads=${loads} tools=${all[0].tools} ` +
    `total_ms=${median(all.map((one) => one.total)).toFixed(1)} ` +
    `listed_ms=${median(listed).toFixed(1)} ` +
    `listed_ms_min=${Math.min(...listed).toFixed(1)} ` +
    `listed_ms_max=${Math.max(...listed).toFixed(1)}`);
}
