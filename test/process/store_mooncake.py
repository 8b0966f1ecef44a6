#!/usr/bin/env python3
# Cleat: `cleat store` over a Mooncake Store, which here is the fake of
# test/fakes/mooncake: what goes in comes out, and what a store that lies comes
# to. SPDX-License-Identifier: Apache-2.0
"""usage: store_mooncake.py --cleat PATH --mooncake LIBRARY --missing LIBRARY
                           --fake COMMAND [--only TEXT] [--jobs N]

--missing: a library that lacks a function. --fake: the command that pulls the
fake's strings.
"""
import argparse
import contextlib
import os
import subprocess
import sys

sys.dont_write_bytecode = True  # nothing in the source tree

import harness
import store_command
from harness import expect
from store_command import FILES, SOME, VALUES, named, read_folder

# The codes of Mooncake that are used here.
RPC_FAIL, RPC_TIMEOUT, TRANSFER_FAIL, INVALID_PARAMS = -900, -901, -800, -600


class Cluster(store_command.Place):
    """A folder with a cluster of its own."""

    def __init__(self, tests, *options):
        super().__init__(tests.cleat)
        self.tests = tests
        self.file = self.path("cluster")
        self.call("start", *(options or ("segment_bytes=64000000",
                                         "time_scale=60")))

    def call(self, verb, *words):
        done = subprocess.run([self.tests.fake, verb, self.file,
                               *map(str, words)], capture_output=True,
                              text=True, check=False,
                              timeout=harness.WATCHDOG_S)
        expect(done.returncode == 0, verb, words, done)
        return done.stdout

    def rule(self, operation, action, key="", times=0, code=0, argument=0):
        self.call("rule", operation, action, key, 0, times, code, argument)

    def fact(self, name):
        for line in self.call("facts").splitlines():
            if line.split()[0] == name:
                return int(line.split()[1])
        raise harness.Failure("no fact", name)

    def store(self, *options):
        return ",".join((f"mooncake:library={self.tests.mooncake}",
                         f"master={self.file}",
                         *(option for option in options
                           if not option.startswith(("bytes=", "keys=")))))

    def expect_nothing_held(self):
        expect(self.fact("handles") == 0, "a client is left")
        expect(self.fact("registered") == 0, "memory is registered")
        expect(self.fact("replicas_none") == 0, "puts without a replica")

    def __exit__(self, *unused):
        with contextlib.suppress(harness.Failure):
            self.call("end")
        super().__exit__()


class Tests:
    def __init__(self, cleat, mooncake, missing, fake):
        self.cleat, self.mooncake, self.missing, self.fake = (
            os.path.abspath(path) for path in (cleat, mooncake, missing, fake))

    def cluster(self, *options):
        return Cluster(self, *options)

    def what_goes_in_comes_out_in_another_process(self):
        with self.cluster() as place:
            done = place.put(place.values())
            expect(done.code == 0, done)
            place.expect_in_store(VALUES)
            place.expect_nothing_held()

    def safetensors_come_out_byte_for_byte(self):
        with self.cluster() as place:
            for name, content in FILES.items():
                place.write("in", content)
                done = place.put("in", "--prefix", f"{name}/", "--verify",
                                 "full")
                expect(done.code == 0, name, done)
                done = place.get("--prefix", f"{name}/", "--to",
                                 "o.safetensors")
                expect(done.code == 0, name, done)
                expect(read_folder_file(place, "o.safetensors") == content,
                       name, "other bytes")
            place.expect_nothing_held()

    def modes(self):
        with self.cluster() as place:
            place.put(place.values({"a": b"old", "b": b"b"}))
            place.values({"a": b"newer"}, "new")
            values, _ = place.put("new").report()
            expect(values["a"]["status"] == "EXISTS", values)
            place.expect_in_store({"a": b"old"})
            done = place.put("new", "--mode", "keep")
            expect(done.code == 0, done)
            place.expect_in_store({"a": b"old"})
            done = place.put("new", "--mode", "replace")
            expect(done.code == 0, done)
            place.expect_in_store({"a": b"newer", "b": b"b"})
            done = place.run("remove", "--store", place.store(), "--from", "in")
            expect(done.code == 0, done)
            expect(place.exists("a", "b") == set(), "not removed")

    def only_what_failed_is_sent_again(self):
        with self.cluster() as place:
            place.values(SOME)
            place.rule("put", "answer", "key03", 1, RPC_FAIL)
            done = place.put("in")
            values, report = done.report()
            expect(done.code == 0 and report["rounds"] > 0, done)
            expect(report["bytes_again"] == len(SOME["key03"]), report)
            place.expect_in_store(SOME)

    def a_put_that_is_begun_and_never_ends_is_made_to_end(self):
        # The store says that the second one worked, and nobody can read it
        # until the first is discarded.
        with self.cluster() as place:
            place.values(SOME)
            place.rule("put", "stay", "key03", 1, RPC_TIMEOUT)
            done = place.put("in")
            expect(done.code == 0, done)
            place.expect_in_store(SOME)

    def a_put_of_which_nothing_is_known_is_looked_for(self):
        for action in ("call-fails", "call-fails-done"):
            with self.cluster() as place:
                place.values(SOME)
                place.rule("put", action, "key03", 1)
                done = place.put("in")
                expect(done.code == 0, action, done)
                place.expect_in_store(SOME)

    def fewer_bytes_are_a_failure(self):
        with self.cluster() as place:
            place.put(place.values(SOME))
            place.rule("get", "less", "key03", 1, 0, 5)
            place.expect_in_store(SOME)
            place.rule("get", "less", "key03", 0, 0, 5)
            done = place.get("--keys-from", place.keys(*SOME), "--to", "out")
            values, _ = done.report()
            expect(done.code == 8, done)
            # Fewer than were asked for, or than its frame says.
            expect(values["key03"]["status"] in ("SHORT", "CORRUPT"),
                   values["key03"])
            expect(read_folder(place.path("out")) ==
                   named({key: value for key, value in SOME.items()
                          if key != "key03"}), "files")

    def a_bit_that_is_wrong_is_seen(self):
        with self.cluster() as place:
            place.put(place.values(SOME))
            place.rule("get", "flip-read", "key03", 1, 0, 1500)
            place.expect_in_store(SOME)
            place.call("flip", "key04", 128 * 8 + 9)
            done = place.get("--keys-from", place.keys(*SOME), "--to", "out")
            values, _ = done.report()
            expect(done.code == 8, done)
            expect({key: value["status"] for key, value in values.items()
                    if value["state"] != "ok"} == {"key04": "CORRUPT"}, values)

    def what_was_evicted_is_missing(self):
        with self.cluster() as place:
            place.put(place.values(SOME))
            place.call("evict", "key03")
            done = place.get("--keys-from", place.keys(*SOME), "--to", "out")
            values, _ = done.report()
            expect(done.code == 8, done)
            expect(values["key03"]["status"] == "NOT_FOUND", values)
            expect(place.exists(*SOME) == set(SOME) - {"key03"}, "exists")

    def a_master_that_is_gone_costs_the_deadline_and_no_more(self):
        with self.cluster() as place:
            place.put(place.values(SOME))
            place.call("happen", "master-kill")
            place.keys("key01")
            for command in (("get", "--keys-from", "keys", "--to", "out"),
                            ("put", "--from", "in")):
                done = place.run(*command, "--store", place.store(),
                                 "--deadline-s", "1")
                expect(done.code == 9 and done.out == "", done)

    def a_set_up_that_fails_once_is_made_again(self):
        with self.cluster() as place:
            place.rule("setup", "answer", "", 1, INVALID_PARAMS)
            done = place.put(place.values(SOME))
            expect(done.code == 0, done)

    def a_set_up_that_fails_is_not_ready(self):
        with self.cluster() as place:
            place.rule("setup", "answer", "", 0, INVALID_PARAMS)
            done = place.put(place.values(SOME), "--deadline-s", "1")
            expect(done.code == 9 and done.out == "", done)
            expect("not ready" in done.err, done)

    def a_cluster_without_memory_is_not_ready(self):
        with self.cluster("time_scale=60") as place:
            done = place.put(place.values(SOME), "--deadline-s", "1")
            expect(done.code == 9 and done.out == "", done)
            expect("CAPACITY" in done.err, done)

    def its_own_segment_is_enough(self):
        with self.cluster("time_scale=60") as place:
            place.values(SOME)
            done = place.put("in", "--verify", "full",
                             store=place.store("segment=64M"))
            expect(done.code == 0, done)

    def a_call_that_never_returns_costs_the_deadline_and_no_more(self):
        for operation, command in (
                ("put", ("put", "--from", "in", "--mode", "replace")),
                ("get", ("get", "--keys-from", "keys", "--to", "out"))):
            with self.cluster() as place:
                place.put(place.values(SOME))
                place.keys(*SOME)
                place.rule(operation, "call-held", "key03", 1)
                done = place.run(*command, "--store", place.store(),
                                 "--deadline-s", "3", "--report", "json")
                values, report = done.report()
                expect(done.code == 8, done)
                expect(values["key03"]["state"] != "ok", values)
                expect(values["key03"]["lent"] and report["lent"] > 0, values)
                expect(not os.path.exists(place.path("out", "key03")), "written")

    def a_value_of_no_bytes_and_one_that_is_missing_differ(self):
        with self.cluster() as place:
            place.put(place.values({"empty": b""}))
            expect(place.exists("empty", "missing") == {"empty"}, "exists")
            done = place.get("--keys-from", place.keys("empty", "missing"),
                             "--to", "out")
            values, _ = done.report()
            expect(values["missing"]["status"] == "NOT_FOUND", values)
            expect(read_folder(place.path("out")) == {"empty": b""}, done)

    def faults_go_over_it_too(self):
        with self.cluster() as place:
            done = place.put(place.values(SOME), "--fault",
                             "ambiguous-put:30%:1", "--fault", "transient:30%:1")
            values, report = done.report()
            expect(done.code == 0 and report["faults_struck"] > 0, done)
            done = place.get("--keys-from", place.keys(*SOME), "--to", "out",
                             "--fault", "short:30%:1", "--fault",
                             "corrupt:30%:1")
            expect(done.code == 0, done)
            expect(read_folder(place.path("out")) == named(SOME), done)

    def bench(self):
        with self.cluster() as place:
            done = place.run("bench", "--store", place.store(), "--keys", "200",
                             "--bytes", "0..8K", "--fail-rate", "10%")
            expect(done.code == 0 and "10% fail once" in done.out, done)
            expect(place.fact("objects") == 0, "values are left")

    def a_library_that_lacks_a_function_is_named_with_it(self):
        with self.cluster() as place:
            done = place.put(place.values(SOME),
                             store=f"mooncake:library={self.missing}")
            expect(done.code == 2 and done.out == "", done)
            expect(self.missing in done.err, "the path is not told:", done)
            expect("mooncake_store_" in done.err, "the function:", done)

    def a_library_that_is_none_is_named(self):
        with self.cluster() as place:
            place.values(SOME)
            place.write("lib.so", b"\x7fELF and no more")
            done = place.put("in", store="mooncake:library=./lib.so")
            expect(done.code == 2 and "./lib.so" in done.err, done)
            done = place.put("in", store="mooncake:library=/nowhere/lib.so")
            expect(done.code == 2 and "/nowhere/lib.so" in done.err, done)


def read_folder_file(place, name):
    with open(place.path(name), "rb") as file:
        return file.read()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cleat", required=True)
    parser.add_argument("--mooncake", required=True)
    parser.add_argument("--missing", required=True)
    parser.add_argument("--fake", required=True)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    tests = Tests(arguments.cleat, arguments.mooncake, arguments.missing,
                  arguments.fake)
    cells = [name for name in vars(Tests) if not name.startswith("_")
             and name != "cluster" and arguments.only in name]
    return 1 if harness.run_all(cells, lambda cell: getattr(tests, cell)()
                                or "ok", arguments.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
