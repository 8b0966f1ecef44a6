#!/usr/bin/env python3
"""Cleat: `cleat weights`, from outside.
SPDX-License-Identifier: Apache-2.0

Usage: weights_command.py CLEAT

What is made is read with the slow reader of safetensors_reader.py.
"""
import os
import re
import struct
import subprocess
import sys
import tempfile

from safetensors_reader import DTYPES, product, read_bytes

CLEAT = os.path.abspath(sys.argv[1])
LAYER = ["input_layernorm", "self_attn.q_proj", "self_attn.k_proj",
         "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def run(*arguments):
    done = subprocess.run([CLEAT, "weights", *arguments],
                          capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def check(condition, what):
    if not condition:
        sys.exit("not true: %s" % (what,))


def read(path):
    with open(path, "rb") as file:
        return read_bytes(file.read())


def numbers(dtype, data):
    if dtype == "F32":
        return [value for value, in struct.iter_unpack("<f", data)]
    if dtype == "F16":
        return [value for value, in struct.iter_unpack("<e", data)]
    return [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0]
            for i in range(0, len(data), 2)]


def a_model_has_a_transformers_table(wanted, text, *options):
    code, out, err = run("make", "--params", text, "--out", "m", *options)
    check(code == 0 and err == "", (out, err))
    table = read("m")
    params = sum(product(shape) for _, _, shape, _ in table)
    check(abs(params - wanted) <= 0.05 * wanted, (params, wanted))
    check("%d parameters" % params in out, out)
    names = [name for name, _, _, _ in table]
    layers = (len(table) - 3) // 9
    check(names[0] == "model.embed_tokens.weight", names[0])
    check(names[-2:] == ["model.norm.weight", "lm_head.weight"], names[-2:])
    for i in range(layers):
        for part, name in zip(LAYER, names[1 + 9 * i:]):
            check(name == "model.layers.%d.%s.weight" % (i, part), name)
    hidden = table[0][2][1]
    by_name = {name: shape for name, _, shape, _ in table}
    check(by_name["model.layers.0.self_attn.k_proj.weight"] ==
          [hidden // 4, hidden], by_name)
    check(by_name["lm_head.weight"] == table[0][2], by_name)
    check(by_name["model.norm.weight"] == [hidden], by_name)
    dtype = table[0][1]
    check({row[1] for row in table} == {dtype}, table[0])
    values = numbers(dtype, table[-1][3][:20000])
    check(all(2**-7 <= abs(value) < 2**-3 for value in values), "the values")
    check(len(set(values)) > len(values) // 100, "they vary")
    check(0.4 < sum(value > 0 for value in values) / len(values) < 0.6,
          "both signs")
    return table


def the_same_seed_gives_the_same_bytes():
    files = []
    for seed in ([], ["--seed", "1"], ["--seed=2"]):
        check(run("make", "--params=100K", "--out", "s", *seed)[0] == 0, seed)
        with open("s", "rb") as file:
            files.append(file.read())
    check(files[0] == files[1], "the default seed is 1")
    check(files[0] != files[2], "another seed gives others")


def what_is_shown_is_what_is_there():
    run("make", "--params", "100K", "--dtype", "f16", "--out", "m")
    code, out, err = run("show", "m")
    check(code == 0 and err == "", err)
    lines = out.splitlines()
    table = read("m")
    check(len(lines) == len(table) + 1, out)
    for line, (name, dtype, shape, data) in zip(lines, table):
        check(re.split(r"  +", line) ==
              [name, dtype, str(shape), str(len(data))], line)
    check(lines[-1] == "%d tensors, %d parameters, %d bytes, 1 file" %
          (len(table), sum(product(row[2]) for row in table),
           sum(len(row[3]) for row in table)), lines[-1])


def a_name_cannot_write_to_the_terminal():
    header = b'{"a\\u001b[2Jb":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}'
    with open("e", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + b"x")
    code, out, _ = run("show", "e")
    check(code == 0 and out.startswith("a?[2Jb "), out)


MAKE = "cleat weights make: "
SHOW = "cleat weights show: "
BAD = [
    ([], "cleat weights: nothing: expected make or show"),
    (["mak"], "cleat weights: mak: expected make or show"),
    (["make"], MAKE + "--params: must be given"),
    (["make", "--params", "1M"], MAKE + "--out: must be given"),
    (["make", "--params", "1M", "--out", ""],
     MAKE + "--out: the value is empty"),
    (["make", "--params", "many", "--out", "x"],
     MAKE + "--params many: expected a number, then K, M, G, B, T or nothing, "
     "as in 500M"),
    (["make", "--params", "0", "--out", "x"],
     MAKE + "--params 0: must be 10000 to 2000000000000"),
    (["make", "--params", "1M", "--dtype", "int4", "--out", "x"],
     MAKE + "--dtype int4: expected bf16|f16|f32"),
    (["make", "--params", "1M", "--out", "x", "y"],
     MAKE + "y: unexpected argument"),
    (["make", "--params", "1M", "--out", "no/x"],
     MAKE + "no/x: cannot create: No such file or directory"),
    (["make", "--params", "1M", "--out", "."],
     MAKE + ".: cannot create: Is a directory"),
    (["make", "--params", "1M", "--out", "pipe"],
     MAKE + "pipe: exists, and is not a regular file"),
    (["make", "--params", "1\n2", "--out", "x"],
     MAKE + "--params 1?2: expected a number, then K, M, G, B, T or nothing, "
     "as in 500M"),
    (["a\nb\x1b[2J\x7f"],
     "cleat weights: a?b?[2J?: expected make or show"),
    (["show"], SHOW + "FILE|DIR: must be given"),
    (["show", "a", "b"], SHOW + "b: unexpected argument"),
    (["show", "none"], SHOW + "none: cannot open: No such file or directory"),
    (["show", "."], SHOW + ".: neither model.safetensors.index.json nor "
     "model.safetensors in this folder: No such file or directory"),
    (["show", "/dev/null"], SHOW + "/dev/null: not a regular file"),
]


def bad_usage_is_one_line_and_2_and_writes_nothing():
    os.mkfifo("pipe")
    before = sorted(os.listdir())
    for arguments, text in BAD:
        code, out, err = run(*arguments)
        check((code, out, err) == (2, "", text + "\n"), (arguments, err))
        check(sorted(os.listdir()) == before, arguments)


def output_that_cannot_be_written_is_told():
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([CLEAT, "weights", "show", "--help"], stdout=full,
                              stderr=subprocess.PIPE, text=True, check=False)
    check((done.returncode, done.stderr) ==
          (2, "cleat weights: standard output: No space left on device\n"), done)


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        bad_usage_is_one_line_and_2_and_writes_nothing()
        for wanted, text, *options in [
                (10_000, "10K"), (64_000, "0.064M", "--dtype", "f32"),
                (1_000_000, "1000000", "--dtype=bf16"),
                (3_000_000, "3m", "--dtype=f16"), (12_000_000, "12M")]:
            a_model_has_a_transformers_table(wanted, text, *options)
        the_same_seed_gives_the_same_bytes()
        what_is_shown_is_what_is_there()
        a_name_cannot_write_to_the_terminal()
        output_that_cannot_be_written_is_told()
        os.chdir("/")
    check(set(DTYPES) >= {"BF16", "F16", "F32"}, "the dtypes")


if __name__ == "__main__":
    main()
