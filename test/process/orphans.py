#!/usr/bin/env python3
# Cleat: the coordinator is killed, at every step.
# SPDX-License-Identifier: Apache-2.0
"""usage: orphans.py --cleat PATH [--jobs N] [--quick] [--only TEXT]
                     [--transport T]

A fault holds one worker in a step, and in that moment the coordinator gets
SIGKILL. Then the trainer ends, no engine resumes or goes on serving, and all
end by themselves: nothing is left.
"""
import argparse
import os
import shutil
import struct
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # nothing in the source tree

import harness
from harness import Failure, expect

REPLICAS = 3
STEPS = ("start", "pause", "release", "prepare", "group", "send@5", "commit",
         "finalize", "restore", "resume")
HELD = 1  # the replica that is held
# For how long: until then the coordinator is killed. And how long engines live
# after that: until then all is seen that can be seen only while they do.
HELD_MS = 6000
ORPHAN_S = 10
QUICK = ("pause staged", "send@5 in-place", "commit staged")

# struct board_head of tools/board.h: 32 bytes, then the seats.
SEAT = struct.Struct("<QQII")  # served, torn, resumes, dump
HEAD_BYTES = 32


class Board:
    """The coordinator's board, which outlives it as long as this is open."""

    def __init__(self, pid):
        self.fd = -1
        folder = f"/proc/{pid}/fd"
        for name in os.listdir(folder):
            if "cleat-board" in os.readlink(f"{folder}/{name}"):
                self.fd = os.open(f"{folder}/{name}", os.O_RDONLY)
                return
        raise Failure("the coordinator has no board")

    def seats(self):
        data = os.pread(self.fd, SEAT.size * (1 + REPLICAS), HEAD_BYTES)
        return [SEAT.unpack_from(data, SEAT.size * member)
                for member in range(1, 1 + REPLICAS)]

    def close(self):
        os.close(self.fd)


def has_channel(pid):
    """Has this engine a socket? It has no other than the coordinator's."""
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{name}").startswith("socket:")
                   for name in os.listdir(folder))
    except OSError:  # it has just closed one, or has ended
        return lives(pid)


def await_engines(job):
    """Blocks until all of them run: one may have been started just now."""
    end = time.monotonic() + harness.WATCHDOG_S
    while True:
        engines = set(harness.of_command(job.mark, "engine"))
        if len(engines) == REPLICAS:
            return engines
        expect(time.monotonic() < end, "engines:", engines)
        time.sleep(0.02)


def lives(pid):
    try:
        return harness.state_of(pid) != "Z"
    except OSError:
        return False


def await_quiet(board, engines):
    """Blocks until every engine has seen the coordinator's end, and nobody
    serves any more, while the engines still live.

    Returns what has been served until then."""
    before = None
    while True:
        now = [served for served, *_ in board.seats()]
        deaf = not any(has_channel(pid) for pid in engines)
        expect(all(lives(pid) for pid in engines),
               "engines served until they ended")
        if deaf and now == before:
            return now
        before = now if deaf else None
        time.sleep(0.25)  # a request takes a millisecond


class Runner:
    def __init__(self, cleat, weights, transport):
        self.cleat, self.weights = cleat, weights
        self.transport = transport

    def __call__(self, cell):
        step, mode = cell.split()
        with harness.Job(self.cleat, self.weights, "--replicas", str(REPLICAS),
                         "--mode", mode, "--bucket-mib", "1",
                         "--orphan-timeout-s", str(ORPHAN_S),
                         "--transport", self.transport, "--fault",
                         f"{step}:{HELD}:slow={HELD_MS}") as job:
            return self.kill_at(job, step)

    def kill_at(self, job, step):
        name = step.split("@")[0]
        if step == "start":
            job.await_line(f"cleat sync: waiting for replica {HELD}")
        else:
            job.await_line(f"cleat sync: {name} to replica {REPLICAS - 1}")
        board = Board(job.process.pid)
        try:
            resumed = [seat[2] for seat in board.seats()]
            job.kill()
            # At `start` some may have ended by now, and none has served.
            engines = await_engines(job) if step != "start" else set()
            job.process.wait()  # its output is still held by the others
            quiet = await_quiet(board, engines)
            job.await_nobody("somebody")
            seats = board.seats()
            # One request may have been in, and was not counted yet.
            expect(all(seat[0] - served in (0, 1)
                       for seat, served in zip(seats, quiet)),
                   "somebody served after the end:", quiet, seats)
            expect(all(seat[1] == 0 for seat in seats), "torn:", seats)
            # In `resume` the others may have been told to before it died.
            for replica in range(REPLICAS) if step != "resume" else (HELD,):
                expect(seats[replica][2] == resumed[replica],
                       "replica", replica, "resumed:", resumed, seats)
            job.expect_nothing_left()
            return f"served {sum(quiet)}, then nothing"
        finally:
            board.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cleat", required=True)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--transport", default="shm")
    arguments = parser.parse_args()
    cells = [f"{step} {mode}" for step in STEPS
             for mode in ("staged", "in-place")]
    if arguments.quick:
        cells = [cell for cell in cells if cell in QUICK]
    cells = [cell for cell in cells if arguments.only in cell]
    folder = tempfile.mkdtemp(prefix="cleat-test-")
    try:
        weights = harness.make_weights(arguments.cleat, folder)
        runner = Runner(os.path.abspath(arguments.cleat), weights,
                        arguments.transport)
        return 1 if harness.run_all(cells, runner, arguments.jobs) else 0
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
