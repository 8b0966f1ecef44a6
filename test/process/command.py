#!/usr/bin/env python3
# Cleat: `cleat sync` as a command: its options, its report, its files, its
# signals, and what it says to bad input. SPDX-License-Identifier: Apache-2.0
"""usage: command.py --cleat PATH [--only TEXT] [--jobs N]"""
import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # nothing in the source tree

import harness
from harness import Failure, expect

SMALL = ("--bucket-mib", "1", "--start-timeout-s", "120")


def await_truth(question):
    """Blocks until the answer is yes."""
    end = time.monotonic() + harness.WATCHDOG_S
    while not question():
        expect(time.monotonic() < end, "never became true:", question)
        time.sleep(0.02)


def tensors(path):
    """{name: (dtype, shape, bytes)} of a safetensors file, read by hand."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: (row["dtype"], tuple(row["shape"]),
                   data[slice(*row["data_offsets"])])
            for name, row in header.items()}


def permuted(header):
    """Two tensors of one shape and type have each other's place."""
    first = {}
    for name, row in header.items():
        key = (row["dtype"], tuple(row["shape"])) if "shape" in row else name
        if key in first:
            names = {name: first[key], first[key]: name}
            return {names.get(old, old): row for old, row in header.items()}
        first[key] = name
    raise Failure("no two tensors are alike")


def renamed(header):
    last = list(header)[-1]
    return {"z" if name == last else name: row for name, row in header.items()}


def retyped(header):
    return {name: dict(row, dtype="F16") if row.get("dtype") == "BF16" else row
            for name, row in header.items()}


def rewrite(path, out, change):
    """The same bytes under another table of the same sizes."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    text = json.dumps(change(header)).encode()
    expect(json.loads(text) != header or list(json.loads(text)) != list(header),
           change.__name__, "changes nothing")
    with open(out, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


class Tests:
    def __init__(self, cleat, weights, scale, preload=None):
        self.cleat, self.weights, self.scale = cleat, weights, scale
        self.preload = preload and os.path.abspath(preload)

    def job(self, *options, weights=None):
        return harness.Job(self.cleat, weights or self.weights, *SMALL,
                           *options)

    def finish(self, job, code, *files, replicas=4, version=1):
        found = job.wait()
        expect(found == code, "exit", found, "expected", code, job.out,
               job.lines)
        report = job.report()
        harness.check_schema(report, replicas)
        harness.check_outcome(report, code, version=version)
        job.expect_nothing_left(*files)
        return report

    # ---- what it does ----

    def every_replica_serves_the_file_that_was_given(self):
        names = [f"replica-{r}.safetensors" for r in range(4)]
        with self.job("--dump", ".") as job:
            report = self.finish(job, 0, *names)
            source = tensors(self.weights)
            for name in names:
                dumped = tensors(os.path.join(job.folder, name))
                expect(dumped == source, name, "is not what was sent")
            expect(list(dumped) == list(source), "another order")
        expect(report["bytes"] == sum(len(row[2]) for row in source.values()),
               report["bytes"])

    def a_dead_replica_dumps_nothing(self):
        names = [f"replica-{r}.safetensors" for r in (0, 2)]
        with self.job("--dump", "dumps", "--replicas", "3", "--fault",
                      "send@2:1:kill") as job:
            self.finish(job, 3, "dumps", replicas=3)
            found = sorted(os.listdir(os.path.join(job.folder, "dumps")))
            expect(found == names, found)

    def each_round_brings_other_bytes(self):
        with self.job("--rounds", "3", "--dump", ".", "--replicas", "2") as job:
            report = self.finish(job, 0, "replica-0.safetensors",
                                 "replica-1.safetensors", replicas=2, version=3)
            source = tensors(self.weights)
            dumps = [tensors(os.path.join(job.folder, f"replica-{r}.safetensors"))
                     for r in range(2)]
        expect(dumps[0] == dumps[1], "two replicas differ")
        expect(list(dumps[0]) == list(source), "another table")
        for name, (dtype, shape, data) in source.items():
            expect(dumps[0][name][:2] == (dtype, shape), name)
            expect(dumps[0][name][2] != data, name, "is as in version 1")
        expect(report["version"] == 3 and report["attempts"] == 3, report)
        expect(len({r["digest"] for r in report["replicas"]}) == 1, report)

    def rounds_in_place(self):
        with self.job("--rounds", "3", "--mode", "in-place") as job:
            self.finish(job, 0, version=3)

    def a_quarantined_replica_takes_part_in_the_next_round(self):
        step = 4 * self.scale
        with self.job("--step-timeout-s", str(step), "--rounds", "2",
                      "--replicas", "3", "--fault",
                      f"pause:1:stop={1500 * step:.0f}") as job:
            report = self.finish(job, 3, replicas=3, version=2)
        expect(len(harness.states(report, "serving")) == 3, report["replicas"])

    def the_worst_round_is_the_exit_code_and_restart_stops(self):
        with self.job("--rounds", "3", "--replicas", "2", "--replicas-min", "2",
                      "--fault", "commit:0:kill") as job:
            report = self.finish(job, 5, replicas=2, version=None)
        expect(report["version"] == 1, "went on after RESTART:", report)

    def replicas_of_two_workers(self):
        with self.job("--replicas", "2", "--workers", "2", "--dump", ".",
                      "--fault", "prepare:1:error") as job:
            report = self.finish(job, 0, "replica-0.safetensors",
                                 "replica-1.safetensors", replicas=2)
        expect(report["attempts"] == 2, report)

    def half_a_replica_dead_is_a_replica_dead(self):
        with self.job("--replicas", "2", "--workers", "2", "--fault",
                      "send@2:1:kill") as job:
            report = self.finish(job, 3, replicas=2)
        expect(harness.states(report, "dead") == [1], report)

    def any_is_drawn_from_the_seed(self):
        def who(seed):
            with self.job("--replicas", "4", "--seed", seed, "--fault",
                          "pause:any:kill") as job:
                return harness.states(self.finish(job, 3), "dead")
        seeds = [who(seed) for seed in ("1", "1", "2", "3", "4", "5")]
        expect(seeds[0] == seeds[1], "the same seed drew", seeds[:2])
        expect(len(set(map(tuple, seeds))) > 1, "always the same:", seeds)

    def one_file_or_a_folder_of_shards(self):
        with tempfile.TemporaryDirectory(prefix="cleat-test-") as folder:
            source = tensors(self.weights)
            shards = {}
            for index, name in enumerate(source):
                shards.setdefault(f"part-{index % 2}.safetensors", []).append(name)
            for shard, names in shards.items():
                write_safetensors(os.path.join(folder, shard),
                                  {name: source[name] for name in names})
            index = {"metadata": {}, "weight_map": {
                name: shard for shard, names in shards.items()
                for name in names}}
            with open(os.path.join(folder, "model.safetensors.index.json"),
                      "w", encoding="utf-8") as file:
                json.dump(index, file)
            with self.job("--dump", ".", "--replicas", "1",
                          weights=folder) as job:
                self.finish(job, 0, "replica-0.safetensors", replicas=1)
                dumped = tensors(os.path.join(job.folder,
                                              "replica-0.safetensors"))
        expect(dumped == source, "another content")

    def a_trace_has_a_lane_for_each_process(self):
        with self.job("--trace", "trace.json", "--replicas", "2", "--fault",
                      "send@3:1:error") as job:
            report = self.finish(job, 0, "trace.json", replicas=2)
            with open(os.path.join(job.folder, "trace.json"),
                      encoding="utf-8") as file:
                trace = json.load(file)
        events = trace["traceEvents"]
        lanes = {event["args"]["name"]: event["pid"] for event in events
                 if event["name"] == "process_name"}
        expect(set(lanes) == {"coordinator", "trainer", "replica 0",
                              "replica 1"}, lanes)
        expect(lanes["replica 1"] == report["replicas"][1]["pid"], lanes)
        expect(len(set(lanes.values())) == 4, lanes)

        def spans(lane):
            return [event["name"] for event in events
                    if event["ph"] == "X" and event["pid"] == lanes[lane]]
        steps = ["pause", "release", "prepare", "group", "send", "finalize",
                 "prepare", "group", "send", "commit", "finalize", "restore",
                 "resume"]
        expect(spans("coordinator") == steps, spans("coordinator"))
        expect(spans("replica 1") == ["start", *steps], spans("replica 1"))
        trainers = [s for s in steps if s in ("prepare", "group", "send",
                                              "finalize")]
        expect(spans("trainer") == ["start", *trainers], spans("trainer"))
        results = [event for event in events if event["ph"] == "i"
                   and event["name"] == "send answered"
                   and event["args"]["status"] == "TRANSIENT"]
        expect(len(results) == 1, results)
        expect(all(event["dur"] >= 0 for event in events
                   if event["ph"] == "X"), "a span of negative length")

    def the_text_report_says_it_in_the_first_line(self):
        done = subprocess.run([self.cleat, "sync", "--weights", self.weights,
                               "--replicas", "2"], capture_output=True,
                              text=True, check=False,
                              timeout=harness.WATCHDOG_S)
        expect(done.returncode == 0, done)
        expect(done.stdout.startswith("COMMITTED: version 1, 2 of 2 replicas "
                                      "serve it, "), done.stdout)
        expect(done.stderr == "", done.stderr)

    def the_first_line_of_a_version_that_was_not_taken_says_so(self):
        for fault, code, line in (
                ("prepare:trainer:permanent", 4, "ROLLED_BACK: version 1 was "
                 "not taken, 2 of 2 replicas serve the old one, "),
                ("start:0:permanent", 5, "RESTART: no update was begun, no "
                 "replica serves, ")):
            done = subprocess.run(
                [self.cleat, "sync", "--weights", self.weights, "--replicas",
                 "2", "--fault", fault], capture_output=True, text=True,
                check=False, timeout=harness.WATCHDOG_S)
            expect(done.returncode == code, done)
            expect(done.stdout.startswith(line), done.stdout)
            rows = done.stdout.splitlines()[3:5]
            expect(all(row.split()[5] == "-" for row in rows), rows)
            expect("since the update" not in done.stdout, done.stdout)

    def whom_any_was_drawn_for_is_told(self):
        with self.job("--fault", "pause:any:kill") as job:
            report = self.finish(job, 3)
        (dead,) = harness.states(report, "dead")
        expect("cleat sync: --fault pause:any:kill strikes replica "
               f"{dead}" in job.lines, job.lines)

    def verbose_tells_every_error_and_each_command_once(self):
        with self.job("--replicas", "2", "--step-timeout-s", "3", "--fault",
                      "pause:1:stop") as job:
            report = self.finish(job, 3, replicas=2)
        lines = [harness.TIME.sub("", line) for line in job.lines if line]
        for error in report["errors"]:
            line = (f"cleat sync: error: {error['step']} of {error['who']}: "
                    f"{error['status']}")
            expect(line in lines, line, job.lines)
        expect(lines.count("cleat sync: pause to replica 1") == 1, job.lines)
        expect(all(harness.TIME.match(line) for line in job.lines if line),
               job.lines)

    def the_commands_that_listen_prints_are_complete(self):
        with self.job("--listen", "a socket", "--replicas", "2", "--mode",
                      "in-place", "--slots", "2", "--dump", "a 'dump'",
                      "--orphan-timeout-s", "5.75") as job:
            job.await_line("  ")
            job.await_line("cleat sync: waiting for trainer")
            shown = [line for line in job.lines if line.startswith("  ")]
            expect(len(shown) == 2 and all(line.endswith(" &")
                                           for line in shown), shown)
            engines = [subprocess.Popen("exec " + line[:-2].strip(), shell=True,
                                        cwd=job.folder, env=job.environment)
                       for line in shown]
            self.finish_attached(job, engines, 0, "a 'dump'")

    def an_engine_that_never_had_a_coordinator_fails(self):
        done = subprocess.run(
            [self.cleat, "engine", "--attach", "nobody", "--board", "nobody",
             "--member", "1", "--weights", self.weights, "--orphan-timeout-s",
             "0.3"], capture_output=True, text=True, check=False,
            timeout=harness.WATCHDOG_S)
        expect(done.returncode == 1 and done.stderr == "cleat engine: --attach "
               "nobody: no coordinator in 0.3 s\n", done)

    def engines_may_attach_to_a_socket(self):
        with self.job("--listen", "socket", "--replicas", "2") as job:
            job.await_line("cleat sync: waiting for members")
            engines = [subprocess.Popen(
                [self.cleat, "engine", "--attach", "socket", "--board",
                 "socket.board", "--member", str(member), "--weights",
                 self.weights, "--bucket-mib", "1"], cwd=job.folder,
                env=job.environment) for member in (1, 2)]
            self.finish_attached(job, engines, 0)

    def an_attached_engine_that_is_killed_is_dead_when_its_lease_is_over(self):
        with self.job("--listen", "socket", "--replicas", "2") as job:
            job.await_line("cleat sync: waiting for members")
            engines = [subprocess.Popen(
                [self.cleat, "engine", "--attach", "socket", "--board",
                 "socket.board", "--member", str(member), "--weights",
                 self.weights, "--bucket-mib", "1", *faults], cwd=job.folder,
                env=job.environment)
                for member, faults in ((1, ()), (2, ("--fault",
                                                     "commit:1:kill")))]
            report = self.finish_attached(job, engines, 3)
            expect(harness.states(report, "dead") == [1], report)

    def an_engine_with_other_tensors_is_sent_away(self):
        """Of the same sizes: the job waits for one that fits."""
        other = os.path.join(os.path.dirname(self.weights),
                             f"other-{os.getpid()}.safetensors")
        with self.job("--listen", "socket", "--replicas", "2") as job:
            job.await_line("cleat sync: waiting for members")
            first = self.attach(job, 1)
            for change in (permuted, renamed, retyped):
                rewrite(self.weights, other, change)
                self.sent_away(self.attach(job, 2, weights=other),
                               "its tensor table or bucket size (digest 0x")
            os.unlink(other)
            self.sent_away(self.attach(job, 2, "--bucket-mib", "2"),
                           "its tensor table or bucket size (digest 0x")
            self.sent_away(self.attach(job, 3), "the job has no member 3")
            self.finish_attached(job, [first, self.attach(job, 2)], 0)

    def weights_that_change_while_engines_start_are_bad_input(self):
        if self.preload is None:
            return "not run: no --other-weights"
        other = os.path.join(os.path.dirname(self.weights),
                             f"changed-{os.getpid()}.safetensors")
        rewrite(self.weights, other, permuted)
        with tempfile.TemporaryDirectory(prefix="cleat-test-") as folder:
            done = subprocess.run(
                [self.cleat, "sync", "--weights", self.weights, *SMALL,
                 "--replicas", "3", "--report", "json", "--trace", "trace",
                 "--dump", "dump"], cwd=folder, capture_output=True, text=True,
                check=False, timeout=harness.WATCHDOG_S, env=dict(
                    os.environ, LD_PRELOAD=self.preload,
                    CLEAT_TEST_WEIGHTS=self.weights, CLEAT_TEST_OTHER=other))
            expect(os.listdir(folder) == [], os.listdir(folder))
        os.unlink(other)
        expect(done.returncode == 2 and done.stdout == "" and
               done.stderr.count("\n") == 1 and done.stderr.startswith(
                   "cleat sync: member 2 was not taken: its tensor table or "
                   "bucket size (digest 0x"), done)
        return None

    def one_that_comes_with_other_tensors_is_told_when_nobody_else_came(self):
        other = os.path.join(os.path.dirname(self.weights),
                             f"alone-{os.getpid()}.safetensors")
        rewrite(self.weights, other, renamed)
        with self.job("--listen", "socket", "--replicas", "1") as job:
            job.await_line("cleat sync: waiting for members")
            self.sent_away(self.attach(job, 1, weights=other),
                           "its tensor table or bucket size (digest 0x")
            os.unlink(other)
            job.kill(signal.SIGTERM)
            expect(job.wait() == 5, job.out, job.lines)
            expect(any(line and line.startswith(
                "cleat sync: member 1 was not taken: its tensor table or "
                "bucket size (digest 0x") for line in job.lines), job.lines)
            job.expect_nothing_left()

    def a_second_engine_of_a_number_is_told_and_changes_nothing(self):
        with self.job("--listen", "socket", "--replicas", "1", "--rounds",
                      "1000000") as job:
            job.await_line("cleat sync: waiting for members")
            first = self.attach(job, 1)
            job.await_line("cleat sync: pause to replica 0")
            self.sent_away(self.attach(job, 1, "--orphan-timeout-s", "5"),
                           "the job has a member 1 already")
            expect(first.poll() is None, "the first one has ended")
            job.kill(signal.SIGINT)
            code = job.wait()
            expect(first.wait(harness.WATCHDOG_S) == 0, first.returncode)
            expect(code in (0, 4), "exit", code, job.out, job.lines)
            report = job.report()
            harness.check_schema(report, 1)
            harness.check_outcome(report, code)
            expect(report["replicas"][0]["pid"] == first.pid, report)
            job.expect_nothing_left()

    def attach(self, job, member, *options, weights=None):
        """Without an option of its own, the bucket size is the job's."""
        if "--bucket-mib" not in options:
            options += ("--bucket-mib", "1")
        return subprocess.Popen(
            [self.cleat, "engine", "--attach", "socket", "--board",
             "socket.board", "--member", str(member), "--weights",
             weights or self.weights, *options], cwd=job.folder,
            env=job.environment, stderr=subprocess.PIPE, text=True)

    def sent_away(self, engine, why):
        """It ends as one that was given bad input, and says why in a line."""
        err = engine.communicate(timeout=harness.WATCHDOG_S)[1]
        expect(engine.returncode == 2 and err.count("\n") == 1 and
               err.startswith(f"cleat engine: --attach socket: {why}"),
               engine.returncode, err)

    def a_second_coordinator_at_a_socket_disturbs_nobody(self):
        with self.job("--listen", "socket", "--replicas", "1") as job:
            job.await_line("cleat sync: waiting for members")
            self.refused(job.folder, ("--weights", self.weights, "--listen",
                                      "socket"), ("socket", "in use"))
            engine = subprocess.Popen(
                [self.cleat, "engine", "--attach", "socket", "--board",
                 "socket.board", "--member", "1", "--weights", self.weights,
                 "--bucket-mib", "1"], cwd=job.folder, env=job.environment)
            self.finish_attached(job, [engine], 0)

    def what_a_killed_coordinator_left_is_used_again(self):
        with self.job("--listen", "socket", "--replicas", "1") as job:
            job.await_line("cleat sync: waiting for members")
            job.kill()
            job.wait()
            job.await_nobody()
            done = subprocess.run(
                [self.cleat, "sync", "--weights", self.weights, "--listen",
                 "socket", "--replicas", "1", "--start-timeout-s", "0.1"],
                cwd=job.folder, env=job.environment, capture_output=True,
                text=True, check=False, timeout=harness.WATCHDOG_S)
            expect(done.returncode == 5, done)
            job.expect_nothing_left()

    # ---- surroundings ----

    def closed_standard_streams_change_no_file(self):
        for streams in ((0,), (1,), (2,), (0, 1, 2)):
            with tempfile.TemporaryDirectory(prefix="cleat-test-") as folder:
                done = subprocess.run(
                    [self.cleat, "sync", "--weights", self.weights,
                     "--replicas", "1", "--trace", "t", "--verbose"],
                    cwd=folder,
                    capture_output=True, text=True, check=False,
                    timeout=harness.WATCHDOG_S,
                    preexec_fn=lambda: [os.close(fd) for fd in streams])
                expect(done.returncode == 0, streams, done)
                expect((done.stdout == "") == (1 in streams), streams, done)
                with open(os.path.join(folder, "t"), encoding="utf-8") as file:
                    json.load(file)

    def a_file_that_may_not_grow_is_told(self):
        with tempfile.TemporaryDirectory(prefix="cleat-test-") as folder:
            done = subprocess.run(
                [self.cleat, "sync", "--weights", self.weights, "--trace", "t",
                 "--dump", "d"], cwd=folder, capture_output=True, text=True,
                check=False, timeout=harness.WATCHDOG_S,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE,
                                                      (100, 100)))
            expect(done.returncode == 2 and done.stderr.count("\n") == 1 and
                   "File too large" in done.stderr, done)
            expect(os.listdir(folder) == [], os.listdir(folder))

    def a_report_that_cannot_be_written_is_told(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run(
                [self.cleat, "sync", "--weights", self.weights, "--replicas",
                 "1"], stdout=full, stderr=subprocess.PIPE, text=True,
                check=False, timeout=harness.WATCHDOG_S)
        expect(done.returncode == 0 and done.stderr ==
               "cleat sync: the report could not be written: No space left on "
               "device\n", done)

    def finish_attached(self, job, engines, code, *files):
        found = job.wait()
        codes = [engine.wait(harness.WATCHDOG_S) for engine in engines]
        expect(set(codes) <= {0, -signal.SIGKILL} and codes[0] == 0,
               "engines' exits", codes)
        expect(found == code, "exit", found, job.out, job.lines)
        report = job.report()
        harness.check_schema(report, len(engines))
        harness.check_outcome(report, code, version=1)
        job.expect_nothing_left(*files)
        return report

    # ---- signals ----

    def interrupted_before_commit_it_goes_back(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.job("--fault", "send@2:1:stop", "--step-timeout-s",
                          "100") as job:
                held = job.await_stopped()
                job.kill(number)
                job.await_line("cleat sync: step finalize")
                os.kill(held, signal.SIGCONT)
                report = self.finish(job, 4, version=0)
                expect(report["errors"][0]["status"] == "CANCELLED"
                       and report["errors"][0]["who"] == "caller",
                       report["errors"])

    def interrupted_after_commit_has_begun_it_goes_on(self):
        with self.job("--fault", "finalize:1:stop", "--rounds", "5",
                      "--step-timeout-s", "100") as job:
            held = job.await_stopped()
            job.await_line("cleat sync: finalize to replica 3")
            job.kill(signal.SIGINT)
            await_truth(lambda: not harness.is_pending(job.process.pid,
                                                       signal.SIGINT))
            os.kill(held, signal.SIGCONT)
            report = self.finish(job, 0)
        expect(report["version"] == 1, "began another round:", report)

    def interrupted_in_bring_up_nobody_is_left(self):
        with self.job("--fault", "start:1:stop") as job:
            job.await_line("cleat sync: waiting for replica 3")
            job.kill(signal.SIGTERM)
            report = self.finish(job, 5, version=None)
            expect(report["errors"][0]["status"] == "CANCELLED", report)

    def agrees(self, job, *codes):
        """It ends with one of these, and says the same in its report."""
        code = job.wait()
        expect(code in codes, "exit", code, job.out, job.lines)
        report = job.report()
        harness.check_schema(report, 2)
        harness.check_outcome(report, code)
        job.expect_nothing_left()
        return report

    def interrupted_at_the_end_of_bring_up_it_tells_an_outcome(self):
        for i in range(60):
            with self.job("--replicas", "2") as job:
                job.await_line("cleat sync: waiting for replica 1")
                # Any moment will do; these are spread over those that matter.
                time.sleep(i / 2000 * self.scale)
                job.kill(signal.SIGTERM)
                report = self.agrees(job, 0, 4, 5)
                expect(report["outcome"] == "COMMITTED" or
                       report["errors"][0]["status"] == "CANCELLED", report)

    def an_engine_that_ends_right_after_the_update_is_told(self):
        for _ in range(20):
            with self.job("--replicas", "2", "--replicas-min", "1") as job:
                job.await_line("cleat sync: resume to replica 1")
                for pid in harness.of_command(job.mark, "engine")[:1]:
                    with contextlib.suppress(ProcessLookupError):  # at its end
                        os.kill(pid, signal.SIGKILL)
                self.agrees(job, 0, 3)

    def a_failed_dump_is_restart_and_nobody_serves(self):
        with self.job("--replicas", "2", "--dump", ".") as job:
            os.mkdir(os.path.join(job.folder, "replica-1.safetensors"))
            report = self.finish(job, 5, "replica-0.safetensors",
                                 "replica-1.safetensors", replicas=2,
                                 version=None)
        expect(harness.states(report, "dead") == [0, 1], report)

    # ---- over a store ----

    def over_a_store_every_replica_serves_the_file_that_was_given(self):
        with self.job("--transport", "store:memory", "--replicas", "2",
                      "--rounds", "2", "--fault", "prepare:1:error",
                      "--fault", "send@2:0:error", "--dump", ".") as job:
            report = self.finish(job, 0, "replica-0.safetensors",
                                 "replica-1.safetensors", replicas=2, version=2)
            job.expect_store_swept()
            dumps = [tensors(os.path.join(job.folder, f"replica-{r}.safetensors"))
                     for r in range(2)]
        with self.job("--replicas", "2", "--rounds", "2", "--dump", ".") as job:
            other = self.finish(job, 0, "replica-0.safetensors",
                                "replica-1.safetensors", replicas=2, version=2)
            expected = tensors(os.path.join(job.folder, "replica-0.safetensors"))
        expect(dumps == [expected, expected], "is not what shared memory brings")
        expect(report["replicas"][0]["digest"] == other["replicas"][0]["digest"],
               report, other)
        expect(report["transport"] == "store:memory", report["transport"])
        expect(other["transport"] == "shm", other["transport"])

    def engines_may_attach_and_get_it_from_a_store(self):
        with self.job("--transport", "store:memory", "--listen", "socket",
                      "--replicas", "2") as job:
            job.await_line("  ")
            job.await_line("cleat sync: waiting for trainer")
            shown = [line for line in job.lines if line.startswith("  ")]
            engines = [subprocess.Popen("exec " + line[:-2].strip(), shell=True,
                                        cwd=job.folder, env=job.environment)
                       for line in shown]
            self.finish_attached(job, engines, 0)
            job.expect_store_swept()

    def what_a_job_that_was_killed_left_in_a_store_the_next_one_removes(self):
        name = f"cleat-test-{os.urandom(8).hex()}"
        store = f"memory:shared={name}"
        options = ("--transport", f"store:{store}", "--replicas", "2")
        file = f"/dev/shm/cleat-store-{name}"
        key = os.path.join(tempfile.gettempdir(), name)
        with open(key, "w", encoding="utf-8") as keys:
            keys.write("cleat-sync/last\n")
        look = [self.cleat, "store", "exists", "--store", store, "--keys-from",
                key, "--report", "json"]

        def is_left():
            done = subprocess.run(look, capture_output=True, text=True,
                                  check=True, timeout=harness.WATCHDOG_S)
            return json.loads(done.stdout)["values"][0]["exists"]
        try:
            with self.job(*options, "--fault", "send@5:1:slow=60000",
                          "--step-timeout-s", "100") as job:
                job.await_line("cleat sync: send to replica 1")
                await_truth(is_left)
                # All at once: none may clean up after another.
                pids = [job.process.pid, *harness.marked(job.mark)]
                for number in (signal.SIGSTOP, signal.SIGKILL):
                    for pid in pids:
                        os.kill(pid, number)
                job.wait()
                job.await_nobody()
            expect(is_left(), "nothing was left")
            with self.job(*options) as job:
                expect(job.wait() == 0, job.out, job.lines)
                job.expect_store_swept()
            expect(not is_left(), "it is still there")
        finally:
            os.unlink(key)
            with contextlib.suppress(OSError):
                os.unlink(file)

    # ---- bad input ----

    def bad_input_is_one_line_and_nothing_else(self):
        with tempfile.TemporaryDirectory(prefix="cleat-test-") as folder:
            count = 0
            for options, words in bad_input(folder, self.weights):
                self.refused(folder, options, words)
                count += 1
        return f"{count} cases"

    def refused(self, folder, options, words):
        before = sorted(os.listdir(folder))
        mark = os.urandom(16).hex()
        done = subprocess.run(
            [self.cleat, "sync", *options], cwd=folder, capture_output=True,
            text=True, check=False, timeout=harness.WATCHDOG_S,
            env=dict(os.environ, **{harness.MARK: mark}))
        said = done.stderr
        expect(done.returncode == 2, options, "exit", done.returncode, said)
        expect(done.stdout == "", options, "printed", done.stdout)
        expect(said.startswith("cleat sync: ") and said.endswith("\n")
               and said.count("\n") == 1, options, "said", repr(said))
        for word in words:
            expect(word in said, options, "did not say", repr(word), "in", said)
        expect(sorted(os.listdir(folder)) == before, options, "wrote",
               os.listdir(folder))
        expect(not harness.marked(mark), options, "left a process")

    def an_arena_that_is_large_enough_is_taken(self):
        done = subprocess.run(
            [self.cleat, "sync", "--weights", self.weights, "--arena-bytes",
             "1"], capture_output=True, text=True, check=False, timeout=60)
        needed = int(done.stderr.split("at least ")[1].split()[0])
        with self.job("--arena-bytes", str(needed)) as job:
            self.finish(job, 0)
        done = subprocess.run(
            [self.cleat, "sync", "--weights", self.weights, "--arena-bytes",
             str(needed - 1)], capture_output=True, text=True, check=False,
            timeout=60)
        expect(done.returncode == 2 and str(needed) in done.stderr, done)


def write_safetensors(path, rows):
    header, data = {}, b""
    for name, (dtype, shape, content) in rows.items():
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    raw_file(path, json.dumps(header).encode(), data)


def raw_file(path, header, data=b"", length=None):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header) if length is None else length))
        file.write(header)
        file.write(data)


def row(shape, start, end, dtype="U8"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def bad_files(folder):
    """(name, a word that the line must have) of files that are not weights."""
    def put(name, header, data=b"", length=None):
        if not isinstance(header, bytes):
            header = json.dumps(header).encode()
        raw_file(os.path.join(folder, name), header, data, length)
        return name

    good = {"a": row([4], 0, 4)}
    yield put("truncated", good, b"123"), "truncated"
    yield put("trailing-garbage", good, b"12345"), "trailing-garbage"
    yield put("overlap", {"a": row([4], 0, 4), "b": row([4], 2, 6)},
              b"123456"), "overlap"
    yield put("hole", {"a": row([4], 0, 4), "b": row([4], 6, 10)},
              b"1234567890"), "hole"
    yield put("twice", b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
              b'"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}',
              b"12345678"), "twice"
    yield put("dtype", {"a": row([4], 0, 4, "U9")}, b"1234"), "dtype"
    yield put("bytes", {"a": row([3], 0, 4)}, b"1234"), "bytes"
    yield put("product", {"a": row([1 << 40, 1 << 40], 0, 4)}, b"1234"), "product"
    yield put("oversized", good, b"1234", length=100_000_001), "oversized"
    yield put("long", good, b"1234", length=1 << 62), "long"
    yield put("nested", b"[" * 100_000 + b"]" * 100_000), "nested"
    yield put("fraction", b'{"a":{"dtype":"U8","shape":[4.0],"data_offsets":'
              b'[0,4]}}', b"1234"), "fraction"
    yield put("exponent", b'{"a":{"dtype":"U8","shape":[4],"data_offsets":'
              b'[0,4e0]}}', b"1234"), "exponent"
    yield put("minus", b'{"a":{"dtype":"U8","shape":[-4],"data_offsets":'
              b'[0,4]}}', b"1234"), "minus"
    with open(os.path.join(folder, "tiny"), "wb") as file:
        file.write(b"1234567")
    yield "tiny", "tiny"
    with open(os.path.join(folder, "empty"), "wb"):
        pass
    yield "empty", "empty"
    yield "nowhere", "nowhere"
    for name, shard in (("missing-shard", "gone.safetensors"),
                        ("outside", "../weights.safetensors"),
                        ("absolute", "/etc/passwd")):
        os.mkdir(os.path.join(folder, name))
        with open(os.path.join(folder, name, "model.safetensors.index.json"),
                  "w", encoding="utf-8") as file:
            json.dump({"weight_map": {"a": shard}}, file)
        yield name, shard.rsplit("/", 1)[-1].split(".")[0]
    os.mkdir(os.path.join(folder, "bare-folder"))
    yield "bare-folder", "bare-folder"


def bad_input(folder, weights):
    """(options, words that the line must have)"""
    for name, word in list(bad_files(folder)):
        yield ("--weights", name, "--trace", "t", "--dump", "d"), (word,)
    weights = ("--weights", weights)
    for name in ("file", "socket.board"):
        with open(os.path.join(folder, name), "w", encoding="utf-8"):
            pass
    os.mkfifo(os.path.join(folder, "pipe"))
    yield (), ("--weights",)
    for options, words in (
            (("--replicas", "0"), ("--replicas", "0")),
            (("--replicas", "1024"), ("--replicas", "1024", "1023")),
            (("--replicas", "512", "--workers", "2"), ("1023",)),
            (("--replicas", "-1"), ("--replicas", "-1")),
            (("--replicas", "4x"), ("--replicas", "4x")),
            (("--workers", "0"), ("--workers",)),
            (("--replicas-min", "0"), ("--replicas-min",)),
            (("--replicas-min", "5"), ("--replicas-min", "5", "4")),
            (("--mode", "inplace"), ("--mode", "inplace", "staged|in-place")),
            (("--bucket-mib", "0"), ("--bucket-mib",)),
            (("--bucket-mib", "1.5"), ("--bucket-mib", "1.5")),
            (("--slots", "9"), ("--slots", "9")),
            (("--attempts-max", "0"), ("--attempts-max",)),
            (("--step-timeout-s", "0"), ("--step-timeout-s",)),
            (("--step-timeout-s", "soon"), ("--step-timeout-s", "soon")),
            (("--rounds", "0"), ("--rounds",)),
            (("--report", "xml"), ("--report", "xml", "text|json")),
            (("--seed", "x"), ("--seed",)),
            (("--sneed", "1"), ("--sneed",)),
            (("--sn\need\x1b[2J", "1"), ("--sn?eed?[2J",)),
            (("--mode", "in\nplace"), ("--mode in?place",)),
            (("two\nlines",), ("two?lines",)),
            (("--replicas",), ("--replicas", "value")),
            (("extra",), ("extra",)),
            (("--arena-bytes", "1000"), ("--arena-bytes", "1000", "at least")),
            (("--trace", "nowhere-at-all/t"), ("nowhere-at-all/t",)),
            (("--dump", "nowhere-at-all/d"), ("nowhere-at-all/d",)),
            (("--trace", "no\nwhere/t"), ("no?where/t",)),
            (("--dump", "d", "--trace", "nowhere-at-all/t"),
             ("nowhere-at-all/t",)),
            (("--dump", "file"), ("--dump file", "directory")),
            (("--trace", "pipe"), ("--trace pipe",)),
            (("--listen", "file", "--dump", "d", "--trace", "t"), ("file",)),
            (("--listen", "socket"), ("socket.board",)),
            (("--listen", "nowhere-at-all/s"), ("nowhere-at-all/s",)),
            (("--listen", "x" * 108), ("--listen", "107")),
            (("--transport", "store"), ("--transport store", "store:memory")),
            (("--transport", "store:"), ("--transport store:", "memory")),
            (("--transport", "store:disk"), ("disk", "memory")),
            (("--transport", "store:memory:keys=9"), ("store:memory alone",)),
            (("--transport", "store:memory:kyes=9"), ("kyes",)),
            (("--transport", "store:memory:shared=a/b"), ("shared=a/b",)),
            (("--device", "0"), ("--device", "--transport nccl")),
            (("--topology", "fan-out"), ("--topology", "--transport nccl")),
            (("--digest", "off"), ("--digest", "--transport nccl")),
            (("--job", "/a"), ("--job /a", "slash")),
            (("--job", "a/"), ("--job a/", "slash")),
            (("--job", "x" * 97), ("--job", "96")),
            (("--job", "a"), ("--job", "--transport store:SPEC")),
            (("--job", "a", "--transport", "shm"), ("--job", "store:SPEC")),
            (("--job", "a", "--transport", "nccl"), ("--job", "store:SPEC")),
            (("--job", ""), ("--job", "empty"))):
        yield weights + options, words
    for spec, words in (
            ("", ("--fault",)),
            ("send", ("STEP:WHO:KIND",)),
            ("send:1", ("STEP:WHO:KIND",)),
            ("sned:1:kill", ("sned", "send@K")),
            ("send@0:1:kill", ("send@0", "from 1")),
            ("send@:1:kill", ("send@",)),
            ("send@1x:1:kill", ("send@1x",)),
            ("pause@1:1:kill", ("pause@1",)),
            ("fence:1:kill", ("fence", "expected")),
            ("send@9:1:kill", ("9", "never", "2 buckets")),
            ("send:4:kill", ("never", "0 to 3")),
            ("send:-1:kill", ("-1", "trainer")),
            ("send:all:kill", ("all", "any")),
            ("send:1:kil", ("kil", "expected", "lost-answer")),
            ("send:1:kill ", ("expected",)),
            ("send:1:stop=", ("stop=", "milliseconds")),
            ("send:1:stop=x", ("stop=x", "milliseconds")),
            ("send:1:slow", ("slow", "slow=MS")),
            ("send:1:kill=5", ("kill=5",)),
            ("send:1:kill:2", ("kill:2",)),
            ("pause:trainer:kill", ("never", "trainer", "pause")),
            ("release:trainer:kill", ("never", "release")),
            ("commit:trainer:error", ("never", "commit")),
            ("restore:trainer:kill", ("never", "restore")),
            ("resume:trainer:kill", ("never", "resume"))):
        yield (weights + ("--fault", spec, "--trace", "t", "--dump", "d"),
               ("--fault",) + words)
    yield (weights + ("--bucket-mib", "64", "--fault", "send@2:1:kill"),
           ("never strike: there is only 1 bucket\n",))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cleat", required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--other-weights")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="cleat-test-")
    try:
        cleat = os.path.abspath(arguments.cleat)
        tests = Tests(cleat, harness.make_weights(cleat, folder),
                      arguments.scale, arguments.other_weights)
        helpers = ("job", "finish", "agrees", "attach", "sent_away",
                   "finish_attached", "refused")
        cells = [name for name in vars(Tests) if not name.startswith("_")
                 and name not in helpers and arguments.only in name]
        return 1 if harness.run_all(
            cells, lambda name: getattr(tests, name)() or "ok",
            arguments.jobs) else 0
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
