// Cleat: event streams, beside eventsource-parser. SPDX-License-Identifier: Apache-2.0
//
//     node sse_parser.mjs NPM SSE_VERDICT
//
// NPM has eventsource-parser 3.1.1, from npm (tools/setup), which the official
// MCP clients use. Both read the same generated streams. Ids are compared where
// an event brings its own: that parser gives no other. Two things it does not
// do as the standard says are left out of the streams: a byte-order mark that
// was decoded, and CR as the last byte.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [npm, verdict] = process.argv.slice(2);
const { createParser } = await import(pathToFileURL(
  join(npm, 'node_modules/eventsource-parser/dist/index.js')));

const STREAMS = 20000;
const PARTS = [
  'data', 'event', 'id', 'retry', ':', ': ', ':  ', '\n', '\n', '\r', '\r\n',
  '\n\n', '\r\n\r\n', 'a', '12', ' ', '\0', '%', 'é', '漢', '😀', 'data: ',
  'data:', 'id: ', 'id:', 'event: ', 'retry: ', 'data: {"jsonrpc":"2.0"}\n\n',
  ': comment\n', 'x: y\n'];

let seed = 20260728;
function draw(n) { // mulberry32
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % n;
}

function stream() {
  let text = '';
  for (let left = draw(30); left > 0; left--) text += PARTS[draw(PARTS.length)];
  return text + ':';
}

function show(text) {
  let shown = '';
  for (const byte of Buffer.from(text)) {
    shown += byte > 32 && byte < 127 && byte !== 37
      ? String.fromCharCode(byte)
      : '%' + byte.toString(16).padStart(2, '0');
  }
  return shown;
}

function theirs(text) {
  const events = [];
  createParser({ onEvent: event => events.push(event) }).feed(text);
  return events;
}

const streams = Array.from({ length: STREAMS }, stream);
const input = Buffer.concat(streams.flatMap(text => {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return [length, bytes];
}));
const run = spawnSync(verdict, [], { input, maxBuffer: 1 << 28 });
if (run.status !== 0) throw new Error(`sse_verdict: ${run.status}`);
const blocks = run.stdout.toString().split('end\n');
blocks.pop();

let events = 0;
let ids = 0;
if (blocks.length !== STREAMS) throw new Error(`${blocks.length} streams`);
streams.forEach((text, i) => {
  const ours = blocks[i].split('\n').slice(0, -1);
  const expected = theirs(text);
  const fault = why => {
    console.error(JSON.stringify(text), why, ours, expected);
    process.exit(1);
  };
  if (ours.length !== expected.length) fault('number of events');
  expected.forEach((event, k) => {
    const start = `event=${show(event.event ?? '')} data=${show(event.data)} `;
    if (!ours[k].startsWith(start)) fault(`event ${k}`);
    events++;
    if (event.id === undefined) return;
    if (ours[k] !== `${start}id=${show(event.id)}`) fault(`id ${k}`);
    ids++;
  });
});
if (events < 5000 || ids < 200) throw new Error('the streams say little');
console.log(`${STREAMS} streams, ${events} events, ${ids} ids`);
