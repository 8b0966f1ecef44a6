#!/usr/bin/env python3
# Cleat: every fault at every step, through real processes.
# SPDX-License-Identifier: Apache-2.0
"""usage: matrix.py --cleat PATH [--quick] [--shard I/N] [--jobs N]
                    [--only TEXT] [--scale X] [--transport T]
                    [--fake PATH] [--gpus FOLDER] [--digest off]

--fake: a Mooncake Store's, of test/fakes/mooncake; T is completed with where
its cluster is, one for each cell.

--gpus: where test/fakes has put CUDA and NCCL; each cell has GPUs of its own.
--digest off: without the cells that change a bucket's bytes.

Each cell is one `cleat sync` with one fault. Its exit code, its report and what
it leaves behind are compared with rules.py.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # nothing in the source tree

import harness
import rules
from harness import Failure, expect

KINDS = ("kill", "stop", "stop=300", "error", "permanent", "lost-answer")
OTHER_KINDS = ("slow=300", "late", "duplicate", "corrupt")
VICTIM = 1  # of replicas 0, 1, 2
# Kinds that no step's deadline has to end: an answer comes, or is seen never to
# come. Such a cell's steps may take as long as the machine needs.
PROMPT = ("kill", "permanent", "error", "duplicate", "slow=300", "stop=300")


class Cell:
    def __init__(self, step, who, kind, mode, code=None, options=()):
        self.step, self.who, self.kind, self.mode = step, who, kind, mode
        self.ruled = code is None
        self.code = rules.expected(step, who, kind, mode) if self.ruled else code
        self.options = options

    def spec(self):
        who = "trainer" if self.who == "trainer" else str(VICTIM)
        return f"{self.step}:{who}:{self.kind}"

    def fault(self, scale):
        """What the command is given: LONG is 1.5 times what a step takes."""
        if self.kind not in rules.LONG:
            return self.spec()
        name = self.kind.partition("=")[0]
        return self.spec().replace(self.kind,
                                   f"{name}={self.step_s() * scale * 1500:.0f}")

    def step_s(self):
        """How long a step of it takes at most."""
        if self.kind in PROMPT:
            return 20
        return 4 if self.kind in rules.LONG else 2

    def start_s(self):
        return 6 if (self.step, self.kind) == ("start", "stop") else 60

    def changes_bytes(self):
        return self.kind == "corrupt" and "@" in self.step

    def __str__(self):
        return " ".join((self.spec(), self.mode, *self.options))


def all_cells():
    cells = []
    for mode in rules.MODES:
        for who in ("trainer", "replica"):
            for step in rules.STEPS:
                if not rules.has_command(step, who):
                    continue
                cells += [Cell(step, who, kind, mode)
                          for kind in KINDS + OTHER_KINDS]
    for kind in rules.LONG:
        for step in ("prepare", "group", "send@5", "pause", "commit"):
            cells.append(Cell(step, "replica", kind, "staged"))
    for step, who, kind, options, modes in rules.SPECIAL:
        for mode in rules.MODES:
            cells.append(Cell(step, who, kind, mode, modes[mode], options))
    return cells


QUICK = {"start:trainer:kill staged", "start:1:lost-answer staged",
         "pause:1:stop staged", "prepare:trainer:kill staged",
         "send@5:1:kill staged", "send@5:1:corrupt in-place",
         "send@5:trainer:kill in-place", "send:1:error in-place",
         "commit:1:kill staged", "finalize:trainer:stop staged",
         "restore:1:permanent in-place", "resume:1:stop=300 staged"}


def step_of(cell):
    return cell.step.split("@")[0]


def check_victim(cell, report):
    replicas = report["replicas"]
    if cell.code == rules.DEGRADED:
        state = rules.victim_state(cell.step, cell.who, cell.kind)
        others = [r["state"] for r in replicas if r["id"] != VICTIM]
        expect(replicas[VICTIM]["state"] == state, "expected", state, "of",
               replicas[VICTIM])
        expect(set(others) == {"serving"}, replicas)


def check_errors(cell, report):
    who = "trainer" if cell.who == "trainer" else f"replica {VICTIM}"
    step = step_of(cell)
    if cell.code == rules.COMMITTED and cell.step != "finalize":
        return
    if cell.kind in rules.LASTING:
        expect(any(e["who"] == who for e in report["errors"]),
               f"no error of {who}:", report["errors"])
    if cell.step == "finalize" and cell.kind in rules.LASTING:
        expect(any(e["who"] == who and e["step"] == step
                   for e in report["errors"]), report["errors"])


def check_attempts(cell, report):
    if not cell.ruled or cell.code != rules.COMMITTED or cell.step == "start":
        return
    again = cell.step in rules.ATTEMPT_STEPS and (
        cell.kind in ("error", "lost-answer", "late", "corrupt")
        or cell.kind in rules.LONG)
    expect(report["attempts"] == 1 + again, "attempts:", report["attempts"],
           report["errors"])


class Cluster:
    """A Mooncake Store's, of one cell; or nothing, where there is no fake."""

    def __init__(self, fake):
        self.fake = fake
        self.folder = tempfile.mkdtemp(prefix="cleat-test-")
        self.path = os.path.join(self.folder, "cluster")

    def call(self, verb, *words):
        return subprocess.run([self.fake, verb, self.path, *words], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    def __enter__(self):
        if self.fake:
            self.call("start", "segment_bytes=64000000")
        return self

    def expect_swept(self, cell):
        facts = dict(line.split(" ", 1)
                     for line in self.call("facts").splitlines())
        # Who is killed while it makes sure that the store is ready leaves the
        # key with which it does that (cleat/mooncake.h); a bring-up that fails
        # kills them all.
        ended = cell.step == "start" and cell.kind in ("kill", "stop")
        most = 4 if ended else 0
        left = int(facts["objects"])
        expect(left <= most and facts["used_bytes"] == str(160 * left),
               "objects left:", facts)

    def __exit__(self, *unused):
        if self.fake:
            self.call("end")
        shutil.rmtree(self.folder, ignore_errors=True)


class Runner:
    def __init__(self, cleat, weights, arguments):
        self.cleat, self.weights = cleat, weights
        self.scale, self.fake = arguments.scale, arguments.fake
        self.transport, self.gpus = arguments.transport, arguments.gpus
        self.topology = (("--topology", arguments.topology)
                         if arguments.topology else ())
        self.digest = (("--digest", arguments.digest)
                       if arguments.digest else ())

    def options(self, cell, transport):
        return ("--replicas", "3", "--bucket-mib", "1", "--mode", cell.mode,
                "--step-timeout-s", str(cell.step_s() * self.scale),
                "--start-timeout-s", str(cell.start_s() * self.scale),
                "--orphan-timeout-s", "2", "--fault", cell.fault(self.scale),
                "--transport", transport, *self.topology, *self.digest,
                *cell.options)

    def __call__(self, cell):
        version = {rules.COMMITTED: 1, rules.DEGRADED: 1,
                   rules.ROLLED_BACK: 0}.get(cell.code)
        with Cluster(self.fake) as cluster:
            if not self.gpus:
                return self.run(cell, cluster, version, {})
            with harness.Gpus(self.gpus) as gpus:
                return self.run(cell, cluster, version, gpus.environment())

    def run(self, cell, cluster, version, environment):
        transport = self.transport
        if self.fake:
            transport += f",master={cluster.path}"
        with harness.Job(self.cleat, self.weights,
                         *self.options(cell, transport),
                         environment=environment) as job:
            code = job.wait()
            expect(code == cell.code, "exit", code, "expected", cell.code,
                   job.out, job.lines)
            report = job.report()
            harness.check_schema(report, 3)
            harness.check_outcome(report, code, version=version)
            check_victim(cell, report)
            check_errors(cell, report)
            check_attempts(cell, report)
            expect(report["transport"] == transport, report["transport"])
            expect(report["digest"] == ("skipped" if "off" in self.digest
                                        else "host"), report["digest"])
            if self.fake:
                cluster.expect_swept(cell)
            elif transport.startswith("store:"):
                job.expect_store_swept()
            job.expect_nothing_left()
        return report["outcome"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cleat", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shard", default="1/1")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--only", default="")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--transport", default="shm")
    parser.add_argument("--topology")
    parser.add_argument("--digest")
    parser.add_argument("--fake")
    parser.add_argument("--gpus")
    arguments = parser.parse_args()
    index, count = (int(part) for part in arguments.shard.split("/"))
    cells = all_cells()
    if arguments.quick:
        cells = [cell for cell in cells if str(cell) in QUICK]
        assert len(cells) == len(QUICK), [str(cell) for cell in cells]
    if arguments.digest == "off":
        cells = [cell for cell in cells if not cell.changes_bytes()]
    cells = [cell for cell in cells if arguments.only in str(cell)]
    cells = cells[index - 1::count] * arguments.repeat
    folder = tempfile.mkdtemp(prefix="cleat-test-")
    try:
        weights = harness.make_weights(arguments.cleat, folder)
        runner = Runner(os.path.abspath(arguments.cleat), weights,
                        arguments)
        return 1 if harness.run_all(cells, runner, arguments.jobs) else 0
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
