// Cleat: the safetensors port against the Hugging Face hub's parser.
// SPDX-License-Identifier: Apache-2.0
//
// Usage: node safetensors_hub.mjs PEER FOLDER
//
// FOLDER has @huggingface/hub, from npm (tools/setup). It reads files through a
// `fetch` of our own, from a temporary folder: no network. Both sides must see
// the same tables; what the hub's parser refuses, we refuse.
import { spawn } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import readline from "node:readline";

const [program, modules] = process.argv.slice(2);
const hub = createRequire(path.join(path.resolve(modules), "x.js"))(
    "@huggingface/hub");
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "cleat-hub-"));
process.on("exit", () => fs.rmSync(folder, { recursive: true }));

function fail(text) {
    console.error(text);
    process.exit(1);
}

// ---- the hub's side --------------------------------------------------------
async function fetchLocal(url, options = {}) {
    const name = /\/resolve\/[^/]+\/(.*)$/.exec(new URL(url).pathname)[1];
    const file = path.join(folder, decodeURIComponent(name));
    if (!fs.existsSync(file)) {
        return new Response("no", { status: 404,
                                    headers: { "X-Error-Code": "EntryNotFound" } });
    }
    const all = fs.readFileSync(file);
    const range = /bytes=(\d+)-(\d*)/.exec(
        new Headers(options.headers).get("Range") ?? "");
    const from = range ? Number(range[1]) : 0;
    const to = range && range[2] !== "" ? Number(range[2]) + 1 : all.length;
    const body = all.subarray(from, to);
    return new Response(options.method === "HEAD" ? null : body, {
        status: range ? 206 : 200,
        headers: {
            etag: '"x"',
            "Content-Length": String(body.length),
            "Content-Range": `bytes ${from}-${from + body.length - 1}/${all.length}`,
        },
    });
}

function rowsOf(header) {
    return Object.entries(header)
        .filter(([name]) => name !== "__metadata__")
        .map(([name, tensor]) => ({ name, ...tensor }))
        .sort((a, b) => a.data_offsets[0] - b.data_offsets[0] ||
                        a.data_offsets[1] - b.data_offsets[1]);
}

// [[name, dtype, shape, bytes], …] in the order in which we number them.
async function hubTable(name) {
    const parsed = await hub.parseSafetensorsMetadata(
        { repo: "a/b", path: name, fetch: fetchLocal });
    const headers = parsed.sharded
        ? Object.keys(parsed.headers).sort().map((key) => parsed.headers[key])
        : [parsed.header];
    return headers.flatMap(rowsOf).map((row) =>
        [row.name, row.dtype, row.shape,
         row.data_offsets[1] - row.data_offsets[0]]);
}

// ---- our side --------------------------------------------------------------
const peer = spawn(program, [], { stdio: ["pipe", "pipe", "inherit"] });
const lines = readline.createInterface({ input: peer.stdout })
    [Symbol.asyncIterator]();

async function ask(command) {
    peer.stdin.write(command + "\n");
    const answer = (await lines.next()).value ?? "ended";
    if (!answer.startsWith("ok ")) { throw new Error(answer); }
    const table = [];
    for (let i = Number(answer.slice(3)); i > 0; i--) {
        const parts = (await lines.next()).value.split(" ");
        const rank = Number(parts[2]);
        table.push([Buffer.from(parts[0], "hex").toString(), parts[1],
                    parts.slice(3, 3 + rank).map(Number),
                    parts[3 + rank].length / 2]);
    }
    return table;
}

// ---- the files -------------------------------------------------------------
function file(header, dataBytes) {
    const text = Buffer.from(typeof header === "string"
                                 ? header : JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    return Buffer.concat([length, text, Buffer.alloc(dataBytes, 1)]);
}

function write(name, bytes) {
    fs.writeFileSync(path.join(folder, name), bytes);
}

async function compare(name, ours = name) {
    const theirs = JSON.stringify(await hubTable(name));
    const mine = JSON.stringify(await ask("open " + path.join(folder, ours)));
    if (theirs !== mine) { fail(`${name}:\nhub: ${theirs}\nwe:  ${mine}`); }
}

function layers(first, count) {
    const header = {};
    let at = 0;
    for (let i = first; i < first + count; i++) {
        for (const [part, dtype, size, shape] of
             [["q_proj", "BF16", 2, [4, 6]], ["norm", "F32", 4, [6]],
              ["scale", "F8_E4M3", 1, [3]], ["step", "I64", 8, [1]]]) {
            const bytes = size * shape.reduce((a, b) => a * b, 1);
            header[`model.layers.${i}.${part}.weight`] =
                { dtype, shape, data_offsets: [at, at + bytes] };
            at += bytes;
        }
    }
    return [header, at];
}

async function goodFiles() {
    write("model.safetensors", file(...layers(0, 3)));
    await compare("model.safetensors");
    await ask(`copy ${folder}/model.safetensors ${folder}/copy.safetensors`);
    await compare("copy.safetensors");
    await compare("model.safetensors", "copy.safetensors");
}

async function goodFolder() {
    const map = {};
    for (const shard of [1, 2, 3]) {
        const name = `model-0000${shard}-of-00003.safetensors`;
        const [header, bytes] = layers(10 * shard, 2);
        write(name, file({ __metadata__: { format: "pt" }, ...header }, bytes));
        for (const tensor of Object.keys(header)) { map[tensor] = name; }
    }
    write("model.safetensors.index.json",
          JSON.stringify({ metadata: { total_size: 1 }, weight_map: map }));
    await compare("model.safetensors.index.json");
    await compare("model.safetensors.index.json", ".");
}

const tensor = (shape, offsets, dtype = "U8") =>
    ({ dtype, shape, data_offsets: offsets });
const bad = [
    ["the start of a length", Buffer.from("123")],
    ["no object", file("[]", 0)],
    ["no JSON", file('{"a":', 0)],
    ["a huge header", Buffer.from("0000000000000008{}")],
    ["a negative dimension", file({ a: tensor([-1], [0, 1]) }, 1)],
    ["a fraction", file('{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}', 1)],
    ["no shape", file({ a: { dtype: "U8", data_offsets: [0, 1] } }, 1)],
    ["no dtype", file({ a: { shape: [1], data_offsets: [0, 1] } }, 1)],
    ["text for a tensor", file({ a: "text" }, 1)],
    ["offsets that are text", file({ a: tensor([1], ["0", "1"]) }, 1)],
    ["an end before its start", file({ a: tensor([1], [1, 0]) }, 1)],
];

async function refused(function_, argument) {
    try {
        await function_(argument);
    } catch {
        return true;
    }
    return false;
}

async function badFiles() {
    let both = 0;
    for (const [what, bytes] of bad) {
        write("bad.safetensors", bytes);
        const theirs = await refused(hubTable, "bad.safetensors");
        const ours = await refused(ask, `open ${folder}/bad.safetensors`);
        both += theirs && ours;
        if (!ours) { fail(`${what}: we accept it`); }
    }
    return both;
}

await goodFiles();
await goodFolder();
const both = await badFiles();
console.log(`3 files, 1 folder the same; of ${bad.length} bad files ` +
            `${both} refused by both, all by us`);
peer.stdin.end();
process.exit(0);
