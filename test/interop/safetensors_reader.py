#!/usr/bin/env python3
"""Cleat: the safetensors port against an independent reader and writer.
SPDX-License-Identifier: Apache-2.0

Usage: safetensors_reader.py PEER [SEED [CASES]]

Python's standard library reads the same bytes by the format's rules, slowly
and obviously. Good files, files changed at random and folders with shards must
be accepted or refused by both sides, with the same tensors; what PEER writes
is read here, and what is written here is read by PEER.
"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

DTYPES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}
INDEX = "model.safetensors.index.json"


class Bad(Exception):
    pass


# ---- the slow reader -------------------------------------------------------
def digits(text):
    if not text.isdigit() or int(text) >= 2**64:
        raise Bad("number " + text)
    return int(text)


def no_number(text):
    raise Bad("number " + text)


def once(pairs):
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise Bad("a name twice")
    return dict(pairs)


def parse_json(raw):
    try:
        text = raw.decode("utf-8")
        return json.loads(text, parse_int=digits, parse_float=no_number,
                          parse_constant=no_number, object_pairs_hook=once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Bad(str(error)) from error


def check_name(name):
    if name == "" or "\0" in name:
        raise Bad("name")
    if any(0xD800 <= ord(letter) < 0xE000 for letter in name):
        raise Bad("half a surrogate pair")
    return name


def product(shape):
    out = 1
    for dimension in shape:
        out *= dimension
    return out


def nonzero_product(shape):
    return 0 if 0 in shape else product(shape)


def read_bytes(file):
    """[(name, dtype, shape, data)] in the order of the data, or Bad."""
    if len(file) < 8:
        raise Bad("short")
    header_bytes = struct.unpack("<Q", file[:8])[0]
    if header_bytes > 100_000_000 or 8 + header_bytes > len(file):
        raise Bad("header length")
    raw = file[8:8 + header_bytes]
    if raw[:1] != b"{":
        raise Bad("start")
    header = parse_json(raw)
    data = file[8 + header_bytes:]
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or \
            not all(isinstance(value, str) for value in metadata.values()):
        raise Bad("metadata")
    rows = []
    for place, (name, tensor) in enumerate(header.items()):
        check_name(name)
        if not isinstance(tensor, dict) or \
                set(tensor) != {"dtype", "shape", "data_offsets"}:
            raise Bad("members")
        dtype, shape = tensor["dtype"], tensor["shape"]
        offsets = tensor["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise Bad("dtype")
        for numbers in (shape, offsets):
            if not isinstance(numbers, list) or \
                    not all(type(number) is int for number in numbers):
                raise Bad("numbers")
        if len(shape) > 8 or len(offsets) != 2:
            raise Bad("how many numbers")
        size = nonzero_product(shape) * DTYPES[dtype]
        if size >= 2**64 or offsets[1] - offsets[0] != size:
            raise Bad("bytes")
        rows.append((offsets[0], offsets[1], place, name, dtype, shape))
    rows.sort()
    at = 0
    for begin, end, _, name, _, _ in rows:
        if begin != at:
            raise Bad("cover")
        at = end
    if at != len(data):
        raise Bad("end")
    return [(name, dtype, shape, data[begin:end])
            for begin, end, _, name, dtype, shape in rows]


def read_folder(folder):
    with open(os.path.join(folder, INDEX), "rb") as file:
        raw = file.read()
    index = json.loads(raw, object_pairs_hook=once)
    names = index["weight_map"]
    out = []
    for shard in sorted(set(names.values()), key=lambda name: name.encode()):
        with open(os.path.join(folder, shard), "rb") as file:
            out += read_bytes(file.read())
    if {row[0] for row in out} != set(names):
        raise Bad("index")
    return out


# ---- the slow writer -------------------------------------------------------
LETTERS = "abcdefghijklmnopqrstuvwxyz.0123456789_" + "é𝛑漢\"\\\n\t/ "


def random_name(rng, taken):
    while True:
        name = "".join(rng.choice(LETTERS)
                       for _ in range(rng.randint(1, 20)))
        if name not in taken and name != "__metadata__":
            taken.add(name)
            return name


def random_table(rng, count):
    taken = set()
    table = []
    for _ in range(count):
        dtype = rng.choice(list(DTYPES))
        shape = [rng.choice([0, 1, 1, 2, 3, 5])
                 for _ in range(rng.randint(0, 5))]
        size = product(shape) * DTYPES[dtype]
        table.append((random_name(rng, taken), dtype, shape,
                      bytes(rng.getrandbits(8) for _ in range(size))))
    return table


def quote(rng, text):
    return json.dumps(text, ensure_ascii=rng.random() < 0.5)


def write_bytes(rng, table):
    """Data in the table's order, the header in any."""
    members = []
    data = b""
    for name, dtype, shape, payload in table:
        parts = ['"dtype":"%s"' % dtype, '"shape":%s' % shape,
                 '"data_offsets":[%d, %d]' % (len(data),
                                              len(data) + len(payload))]
        rng.shuffle(parts)
        members.append("%s:{%s}" % (quote(rng, name), ",".join(parts)))
        data += payload
    rng.shuffle(members)
    if rng.random() < 0.3:
        members.insert(0, '"__metadata__":{"format":"pt","x":"y\\u00e9"}')
    separator = rng.choice([",", ", ", " ,\n"])
    header = ("{" + separator.join(members) + "}").encode()
    header += b" " * rng.randint(0, 9)
    return struct.pack("<Q", len(header)) + header + data


ALPHABET = b'{}[]",:0123456789-+eE.\\u /abU8FBt\x00\xff\n'


def change(rng, file):
    """A few bytes of the header other than they were."""
    header_bytes = struct.unpack("<Q", file[:8])[0]
    header = bytearray(file[8:8 + header_bytes])
    data = file[8 + header_bytes:]
    length = None
    for _ in range(rng.randint(1, 3)):
        kind = rng.randint(0, 7)
        at = rng.randrange(len(header)) if header else 0
        if kind == 0 and header:
            header[at] = rng.choice(ALPHABET)
        elif kind == 1 and header:
            del header[at]
        elif kind == 2:
            header.insert(at, rng.choice(ALPHABET))
        elif kind == 3:
            numbers = [i for i, letter in enumerate(header)
                       if chr(letter).isdigit()]
            if numbers:
                header[rng.choice(numbers)] = rng.choice(b"0123456789")
        elif kind == 4:
            end = rng.randrange(len(header) + 1)
            header[at:at] = header[min(at, end):max(at, end)][:60]
        elif kind == 5:
            data = data[:-1] if rng.random() < 0.5 else data + b"\0"
        elif kind == 6:
            length = max(0, len(header) + rng.choice([-1, 1, -8, 8, 2**40]))
        else:
            old, new = rng.choice([
                (b'"U8"', b'"u8"'), (b"[", b"[0"), (b"[1", b"[1.0"),
                (b"dtype", b"\\u0064type"), (b"1", b"-1"), (b"1", b"1e0"),
                (b"[1", b"[01"), (b"]", b",]"), (b"{", b"{\"x\":1,"),
                (b'"shape"', b'"dtype"'), (b"F32", b"F33"),
                (b"}}", b"}}}"), (b"0", b"18446744073709551616"),
                (b"[", b"[4294967296,4294967296,"), (b":{", b":[{")])
            header = bytearray(bytes(header).replace(old, new, 1))
    return struct.pack("<Q", len(header) if length is None else length) + \
        bytes(header) + data


# ---- the peer --------------------------------------------------------------
class Peer:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def ask(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        # An error's line may show a name's bytes, which may be anything.
        answer = self.process.stdout.readline().decode("utf-8", "replace")
        if answer == "":
            sys.exit("the peer ended at: %s" % line)
        word, rest = answer.rstrip("\n").split(" ", 1)
        if word == "refused":
            raise Bad(rest)
        table = []
        for _ in range(int(rest)):
            row = self.process.stdout.readline().decode().rstrip("\n")
            parts = row.split(" ")
            rank = int(parts[2])
            table.append((bytes.fromhex(parts[0]).decode(), parts[1],
                          [int(part) for part in parts[3:3 + rank]],
                          bytes.fromhex(parts[3 + rank])))
        return table


def outcome(function, *arguments):
    try:
        return function(*arguments), None
    except Bad as error:
        return None, str(error)


def check(condition, seed, what):
    if not condition:
        sys.exit("seed %d: %s" % (seed, what))


def one_file(peer, folder, seed):
    rng = random.Random(seed)
    path = os.path.join(folder, "f")
    table = random_table(rng, rng.randint(0, 8))
    file = write_bytes(rng, table)
    with open(path, "wb") as out:
        out.write(file)
    got = peer.ask("open " + path)
    # Tensors without bytes that share a place come in the header's order.
    check(got == read_bytes(file), seed, "%r is not %r" % (got, table))
    check([row for row in got if row[3]] == [row for row in table if row[3]],
          seed, "another order")
    copy = os.path.join(folder, "copy")
    peer.ask("copy %s %s" % (path, copy))
    with open(copy, "rb") as written:
        raw = written.read()
    check(read_bytes(raw) == got, seed, "the copy is another")
    check(struct.unpack("<Q", raw[:8])[0] % 8 == 0, seed, "not padded")
    accepted = 0
    for _ in range(4):
        changed = change(rng, file)
        with open(path, "wb") as out:
            out.write(changed)
        mine, my_error = outcome(read_bytes, changed)
        theirs, their_error = outcome(peer.ask, "open " + path)
        check(mine == theirs, seed,
              "%r\nhere:  %r %r\nthere: %r %r" % (changed, mine, my_error,
                                                  theirs, their_error))
        accepted += mine is not None
    return accepted


def one_folder(peer, folder, seed):
    rng = random.Random(seed)
    table = random_table(rng, rng.randint(1, 12))
    names = ["s-%d" % i for i in range(rng.randint(1, 4))]
    shards = {}
    for row in table:
        shards.setdefault(rng.choice(names), []).append(row)
    members = []
    for shard, rows in shards.items():
        with open(os.path.join(folder, shard), "wb") as out:
            out.write(write_bytes(rng, rows))
        members += ["%s:%s" % (quote(rng, row[0]), quote(rng, shard))
                    for row in rows]
    rng.shuffle(members)
    with open(os.path.join(folder, INDEX), "w", encoding="utf-8") as out:
        out.write('{"metadata":{"total_size":1},"weight_map":{%s}}'
                  % ",".join(members))
    check(peer.ask("open " + folder) == read_folder(folder), seed, "shards")


def main():
    program = sys.argv[1]
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    cases = int(sys.argv[3]) if len(sys.argv) > 3 else 400
    peer = Peer(program)
    accepted = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + cases):
            accepted += one_file(peer, folder, seed)
    for seed in range(first, first + cases // 5):
        with tempfile.TemporaryDirectory() as folder:
            one_folder(peer, folder, seed)
    print("%d files, %d changed ones (%d still good), %d folders"
          % (cases, 4 * cases, accepted, cases // 5))


if __name__ == "__main__":
    main()
