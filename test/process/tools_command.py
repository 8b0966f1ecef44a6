#!/usr/bin/env python3
# Cleat: `cleat tools` as a command: what it prints, what each fault of a server
# comes to, its signals, and what it says to bad input.
# SPDX-License-Identifier: Apache-2.0
"""usage: tools_command.py --cleat PATH [--only TEXT] [--jobs N] [--scale X]
                          [--slow-dns LIBRARY] [--absent]

--absent: of a build without port/mcp, which says what it needs. --slow-dns: a
library to be preloaded, whose resolver hangs.
"""
import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid

sys.dont_write_bytecode = True  # nothing in the source tree

import fault_server
import harness
from harness import Failure, expect

HERE = os.path.dirname(os.path.abspath(__file__))
SERVER = [sys.executable, "-I", "-S", os.path.join(HERE, "fault_server.py")]
# How long a process that was killed may take to be gone.
GONE_S = 20
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")

REPORT = {"config": str, "exit": int, "seconds": float, "threads": int,
          "gets": int, "gets_failed": int, "slowest_s": float, "tools": int,
          "servers": list, "counters": dict}
SOURCE = {"name": str, "status": str, "class": str, "attempts": int,
          "seconds": float, "tools": int, "left_out": int, "digest": int,
          "error": str}
COUNTERS = ("hits", "stale", "misses", "waits", "loads", "failures",
            "refreshes", "evictions", "late", "invalidations")


# ---- the faults: (status, attempts or None, words of the line) ----

FINE = ("OK", 1, ())
SILENT = ("PEER_SILENT", 2, ())
GONE = ("TRANSIENT", 2, ())


STDIO = {
    "Good": FINE,
    "Silent": SILENT,
    "SilentAfterInitialize": SILENT,
    "Drip": SILENT,
    "DripOfTheList": SILENT,
    "Banner": FINE,
    "BannerForEver": ("PEER_DEVIANT", 1, ("JSON-RPC",)),
    "Crlf": FINE,
    "Line76K": FINE,
    "Line10M": ("LIMIT", 1, ("1048576",)),
    "LineForEver": ("LIMIT", 1, ("1048576",)),
    "EndlessPages": ("LIMIT", 1, ("64", "page")),
    "TooManyTools": ("LIMIT", 1, ("1024",)),
    "SameCursor": ("PEER_DEVIANT", 1, ("nextCursor",)),
    "TwoCursors": ("PEER_DEVIANT", 1, ("nextCursor",)),
    "EmptyCursors": ("PEER_DEVIANT", 1, ("nextCursor",)),
    "EmptyCursorOnce": FINE,
    # What was loaded across a change is loaded again, some times.
    "Storm": ("OK", None, ()),
    "StormForEver": ("OK", None, ()),
    "Exit": ("TRANSIENT", 2, ("3", "no module")),
    "ExitTwice": ("OK", 3, ()),
    "ExitMidReply": GONE,
    "Killed": ("TRANSIENT", 2, ("11",)),
    "Late": SILENT,  # of another process
    "Deep": ("LIMIT", 1, ("nested",)),
    "BadUtf8": ("MALFORMED", 1, ("UTF-8",)),
    "Nul": ("MALFORMED", 1, ("control character",)),
    "EscapedNul": ("PEER_DEVIANT", 1, ("name",)),
    "DuplicateTools": FINE,
    "Hostile": FINE,
    "NeverReads": SILENT,
    "IgnoresSigterm": FINE,
    "Grandchild": FINE,
    "GrandchildOfTheDead": GONE,
    "StderrFlood": FINE,
    "StderrFloodFirst": FINE,
    "StdoutClosed": SILENT,
    "ExitsBeforeInitialize": FINE,
    "OnlyModern": FINE,
    "OtherVersion": ("UNSUPPORTED", 1, ("protocolVersion",)),
    "Questions": FINE,
    "Strangers": FINE,
    "Refuses": ("TRANSIENT", 2, ("-32603", "database is gone")),
    "RefusesParams": ("PERMANENT", 1, ("-32602",)),
    "NoArray": ("PEER_DEVIANT", 1, ("tools",)),
    "NoTools": FINE,
    "TellsSecrets": ("TRANSIENT", 2, ("***",)),
    "TellsSecretsAndEnds": ("TRANSIENT", 2, ("***",)),
}
# How many tools where it is not the two that it was given.
TOOLS = {"NoTools": 0}
LEFT_OUT = {"DuplicateTools": 1}

HTTP = {
    "Http": FINE,
    "HttpStream": FINE,
    "HttpSilent": SILENT,
    "HttpSilentAfterInitialize": SILENT,
    "HttpSilentAfterHeaders": SILENT,
    "HttpSilentStream": SILENT,
    "HttpDrip": SILENT,
    "HttpChunked": FINE,
    "HttpEndless": ("LIMIT", 1, ("1048576",)),
    "HttpEvent76K": FINE,
    "HttpSessionLost": FINE,
    "HttpSessionAlwaysLost": ("TRANSIENT", 2, ("session",)),
    "HttpLate": ("OK", 2, ()),
    "HttpRedirectLoop": ("LIMIT", 1, ("redirects",)),
    "HttpRedirectElsewhere": ("PERMANENT", 1, ("redirect", "origin")),
    "HttpWrongType": ("PEER_DEVIANT", 1, ("application/json",)),
    "HttpNotJson": ("MALFORMED", 1, ()),
    "HttpReset": ("TRANSIENT", 2, ()),
    "HttpStreamEnds": ("SHORT", 2, ()),
    "HttpFails": ("TRANSIENT", 2, ("500",)),
    "Http401": ("PERMANENT", 1, ("401",)),
    "Http403": ("PERMANENT", 1, ("403",)),
    "HttpFailsTwice": ("OK", 3, ()),
    "HttpTooMany": ("OK", 2, ()),
    "HttpTellsSecrets": ("PERMANENT", 1, ("403", "***")),
    "HttpEndpoint": FINE,
    "HttpEndpointElsewhere": ("PERMANENT", 1, ("origin",)),
}


# ---- one run ----

class Done:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        self.lines = err.splitlines()

    def __str__(self):
        return f"exit {self.code}\nout: {self.out[-2000:]}\nerr: {self.err}"

    def report(self):
        """The report, which is all of standard output, looked over."""
        report = json.loads(self.out)
        expect(list(report) == list(REPORT), "fields:", list(report))
        for name, kind in REPORT.items():
            expect(isinstance(report[name], (int, kind) if kind is float
                              else kind), name, "is", report[name])
        expect(tuple(report["counters"]) == COUNTERS, report["counters"])
        for source in report["servers"]:
            expect(list(source) == list(SOURCE), "fields:", source)
            for name, kind in SOURCE.items():
                expect(isinstance(source[name], (int, kind) if kind is float
                                  else kind), name, "is", source)
            expect((source["status"] == "OK") == (source["error"] == ""), source)
            expect(source["class"] != "done" or source["status"] == "OK", source)
        expect(report["exit"] == self.code, report["exit"], self)
        return {source["name"]: source for source in report["servers"]}, report


class Place:
    """A folder, a mark that all processes carry, and secrets."""

    def __init__(self, cleat, scale):
        self.cleat, self.scale = cleat, scale
        self.mark = uuid.uuid4().hex
        self.secrets = [f"canary-{part}-{uuid.uuid4().hex}"
                        for part in ("environment", "token", "header")]
        self.folder = tempfile.mkdtemp(prefix="cleat-test-")
        self.state = os.path.join(self.folder, "state")
        self.stack = contextlib.ExitStack()

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str)
                       else json.dumps(content))
        return self.path(name)

    def stdio(self, fault, *tools, **environment):
        """A server's entry in mcpServers."""
        return {"command": SERVER[0], "args": [*SERVER[1:], fault, *tools],
                "env": {harness.MARK: self.mark, "FAULT_STATE": self.state,
                        "FAULT_SECRET": self.secrets[0], **environment}}

    def http(self, fault, *tools):
        """The same of one that runs here, and the server."""
        server = self.stack.enter_context(getattr(fault_server, fault)(*tools))
        return {"url": server.url, "auth_token": self.secrets[1],
                "headers": {"X-Key": self.secrets[2]}}, server

    def servers(self, **entries):
        return self.write("servers.json", {"mcpServers": entries})

    def start(self, *arguments, **environment):
        return subprocess.Popen(
            [self.cleat, "tools", *arguments], cwd=self.folder,
            env=dict(os.environ, **{harness.MARK: self.mark}, **environment),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True)

    def finish(self, process):
        try:
            out, err = process.communicate(timeout=harness.WATCHDOG_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failure("did not end by itself:", process.communicate())
        done = Done(process.returncode, out, err)
        for secret in self.secrets:
            expect(secret not in out + err, "told a secret", secret, done)
        expect(not CONTROLS.search(err), "control characters:", repr(err))
        for line in done.lines:
            expect(line.startswith("cleat tools"), done)
        self.expect_nothing_left()
        return done

    def run(self, *arguments):
        return self.finish(self.start(*arguments))

    def expect_nothing_left(self):
        end = time.monotonic() + GONE_S
        while harness.marked(self.mark):
            expect(time.monotonic() < end, "left:", harness.marked(self.mark))
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.stack.close()
        for pid in harness.marked(self.mark):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


NATIVE = """
  - class_name: "verl.tools.gsm8k_tool.Gsm8kTool"
    config:
      type: native
    tool_schema:
      type: "function"
      function:
        name: "calc"
        description: "Counts \\"twice\\"."
        parameters:
          type: "object"
          properties:
            numbers: {type: array, items: {type: number}}
          required: ["numbers"]
"""


def verl(servers, *selected):
    """verl's YAML around a JSON file of servers."""
    text = (f"  - class_name: verl.tools.mcp_base_tool.MCPBaseTool\n"
            f"    config: {{type: mcp, rate_limit: 100, timeout: 60}}\n"
            f"    mcp:\n      mcp_servers_config_path: {servers}\n")
    if selected:
        text += "      tool_selected_list: [%s]\n" % ", ".join(selected)
    return text


class Tests:
    def __init__(self, cleat, scale, slow_dns=None):
        self.cleat, self.scale = cleat, scale
        self.slow_dns = slow_dns and os.path.abspath(slow_dns)

    def place(self):
        return Place(self.cleat, self.scale)

    def seconds(self, seconds):
        return ("--timeout-s", str(seconds * self.scale))

    def silence(self):
        """Time that is to be over at the end. A sixteenth of it is left then
        to say who was silent; and whoever is not must have answered."""
        return ("--timeout-s", str(max(8 * self.scale, 20)))

    # ---- what it prints ----

    def openai_is_what_a_model_is_given_with_the_schema_whole(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good", "add", "x-1_2"))
            done = place.run("list", "--config", "servers.json", "--format",
                             "openai")
            expect(done.code == 0 and done.err == "", done)
            expect(json.loads(done.out) == [
                {"type": "function", "function": {
                    "name": name,
                    "description": fault_server.definition(name)["description"],
                    "parameters": fault_server.definition(name)["inputSchema"],
                    "strict": False}} for name in ("add", "x-1_2")], done)

    def mcp_is_what_the_server_sent(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good"))
            done = place.run("list", "--config", "servers.json", "--format",
                             "mcp")
            expect(json.loads(done.out) == {"tools": [
                fault_server.definition(name)
                for name in fault_server.TOOLS]}, done)
            for name in fault_server.TOOLS:
                raw = json.dumps(fault_server.definition(name))
                expect(raw in done.out, "other bytes:", done)

    def a_native_entry_is_given_as_it_stands(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good"))
            place.write("tools.yaml", "tools:\n" + NATIVE +
                        verl("servers.json", "echo"))
            done = place.run("list", "--config", "tools.yaml", "--format",
                             "openai")
            found = json.loads(done.out)
            expect([tool["function"]["name"] for tool in found] ==
                   ["calc", "echo"], done)
            expect(found[0] == {"type": "function", "function": {
                "name": "calc", "description": 'Counts "twice".', "parameters": {
                    "type": "object", "properties": {"numbers": {
                        "type": "array", "items": {"type": "number"}}},
                    "required": ["numbers"]}}}, done)
            done = place.run("list", "--config", "tools.yaml", "--format", "mcp")
            found = json.loads(done.out)["tools"]
            expect(found[0]["inputSchema"]["required"] == ["numbers"], done)
            expect(found[1] == fault_server.definition("echo"), done)

    def an_empty_config_is_the_empty_list(self):
        with self.place() as place:
            place.write("a.yaml", "tools: []\n")
            place.write("b.json", {"mcpServers": {}})
            for config in ("a.yaml", "b.json"):
                for form, text in (("table", "0 tools of 0 servers\n"),
                                   ("openai", "[]\n"),
                                   ("mcp", '{"tools":[]}\n')):
                    done = place.run("list", "--config", config, "--format",
                                     form)
                    expect((done.code, done.out, done.err) == (0, text, ""),
                           config, form, done)

    def the_table_has_names_servers_and_first_lines(self):
        with self.place() as place:
            place.servers(**{"one": place.stdio("Good"),
                             "two": place.stdio("Good", "third")})
            done = place.run("list", "--config", "servers.json")
            expect(done.code == 0 and done.err == "", done)
            lines = [re.split("  +", line) for line in done.out.splitlines()]
            expect(lines == [["NAME", "SERVER", "DESCRIPTION"],
                             ["add", "one", "The tool add."],
                             ["echo", "one", "The tool echo."],
                             ["third", "two", "The tool third."],
                             ["3 tools of 2 servers"]], done)

    def a_terminal_is_not_told_what_to_do(self):
        with self.place() as place:
            place.servers(one=place.stdio("Hostile"))
            done = place.run("list", "--config", "servers.json")
            expect(done.code == 0 and not CONTROLS.search(done.out), done)
            expect("?[2J?red?txt?31m é 日本?x" in done.out, done)
            for form in ("openai", "mcp"):
                done = place.run("list", "--config", "servers.json", "--format",
                                 form)
                expect("\\u001b[2J\\u0007red" in done.out, done)
                expect("\x1b" not in done.out, done)
                json.loads(done.out)

    def the_table_is_cut_to_the_terminal(self):
        import pty
        import fcntl
        import struct
        import termios
        with self.place() as place:
            place.servers(one=place.stdio("Line76K"))
            main, other = pty.openpty()
            fcntl.ioctl(other, termios.TIOCSWINSZ,
                        struct.pack("HHHH", 24, 40, 0, 0))
            process = subprocess.Popen(
                [self.cleat, "tools", "list", "--config", "servers.json"],
                cwd=place.folder, stdin=subprocess.DEVNULL, stdout=other,
                stderr=subprocess.DEVNULL)
            os.close(other)
            text = b""
            with contextlib.suppress(OSError):
                while chunk := os.read(main, 65536):
                    text += chunk
            os.close(main)
            expect(process.wait(harness.WATCHDOG_S) == 0, text)
            lines = text.decode().replace("\r", "").splitlines()
            expect(max(map(len, lines)) == 40 and lines[1].endswith("xx…"),
                   lines)

    def the_report_tells_each_server_apart(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good"), two=place.stdio("Exit"))
            done = place.run("list", "--config", "servers.json", "--report",
                             "json", "--attempts-max", "2", "--policy", "any",
                             *self.seconds(20))
            servers, report = done.report()
            expect(done.code == 0 and report["tools"] == 2, done)
            expect(servers["one"]["status"] == "OK" and
                   servers["one"]["attempts"] == 1 and
                   servers["one"]["tools"] == 2 and servers["one"]["digest"],
                   done)
            expect(servers["two"]["status"] == "TRANSIENT" and
                   servers["two"]["attempts"] == 2 and
                   servers["two"]["class"] == "transient" and
                   "no module" in servers["two"]["error"], done)

    def many_threads_load_once(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good"))
            done = place.run("list", "--config", "servers.json", "--report",
                             "json", "--threads", "64", "--repeat", "1000")
            _, report = done.report()
            expect(done.code == 0 and report["gets"] == 64000 and
                   report["gets_failed"] == 0, done)
            # The config, and its one server.
            expect(report["counters"]["loads"] == 2 and
                   report["counters"]["failures"] == 0, done)

    def stats_are_one_line_beside_the_list(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good"))
            process = place.start("list", "--config", "servers.json", "--format",
                                  "openai", "--stats", "--threads", "3")
            out, err = process.communicate(timeout=harness.WATCHDOG_S)
            expect(process.returncode == 0 and len(json.loads(out)) == 2, err)
            expect(err.startswith("3 gets on 3 threads in ") and
                   " loads 2 " in err and err.count("\n") == 1, err)

    def many_threads_hear_of_one_failure(self):
        with self.place() as place:
            place.servers(one=place.stdio("Exit"))
            done = place.run("list", "--config", "servers.json", "--report",
                             "json", "--threads", "8", "--repeat", "5",
                             "--attempts-max", "2", *self.seconds(20))
            _, report = done.report()
            expect(done.code == 6 and report["gets"] == 0 and
                   report["gets_failed"] == 8, done)
            expect(report["counters"]["failures"] == 2, done)

    # ---- faults ----

    def faulty(self, place, fault):
        """The entry of a server with that fault, and a check for afterwards."""
        if fault in STDIO:
            return place.stdio(fault), lambda: None
        entry, server = place.http(fault)
        if not fault.endswith("Elsewhere"):
            return entry, lambda: None
        _, other = place.http("Http")
        server.elsewhere = other.url

        def nobody_came():
            expect(not other.requests, "went to another origin:",
                   other.requests)
        return entry, nobody_came

    def fault(self, fault):
        status, attempts, words = {**STDIO, **HTTP}[fault]
        silent = status == "PEER_SILENT" or "Late" in fault
        options = ("--attempts-max", str(max(attempts or 2, 2)),
                   *(self.silence() if silent else self.seconds(40)))
        with self.place() as place:
            # Silence takes its time: both policies for one of each kind.
            both = not silent or fault in ("Silent", "HttpSilent")
            for policy in ("all", "any") if both else ("all",):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(place.state)
                entry, check = self.faulty(place, fault)
                place.servers(faulty=entry, good=place.stdio("Good", "third"))
                done = place.run("list", "--config", "servers.json", "--policy",
                                 policy, "--report", "json", *options)
                servers, report = done.report()
                said = servers["faulty"]
                expect(said["status"] == status, fault, done)
                expect(servers["good"]["status"] == "OK" and
                       servers["good"]["tools"] == 1, "is hidden:", done)
                if attempts is not None:
                    expect(said["attempts"] == attempts, fault, done)
                if said["status"] == "OK":
                    expect(done.code == 0 and done.err == "", fault, done)
                    expect(said["tools"] == TOOLS.get(fault, 2), fault, done)
                    expect(said["left_out"] == LEFT_OUT.get(fault, 0), done)
                else:
                    expect(done.code == (6 if policy == "all" else 0), done)
                    expect(len(done.lines) == 1 and "server faulty: " in
                           done.lines[0] and said["status"] in done.lines[0],
                           fault, done)
                    expect(" attempt" in done.lines[0], done)
                    for word in words:
                        expect(word in done.lines[0], word, done)
                check()
            return f"{said['status']} {said['attempts']} {said['error']!r}"

    def a_refused_connection(self):
        with self.place() as place:
            # Ours, so that nobody else comes to listen there.
            nobody = place.stack.enter_context(socket.socket())
            nobody.bind(("127.0.0.1", 0))
            place.servers(one={
                "url": "http://127.0.0.1:%d/mcp" % nobody.getsockname()[1]})
            done = place.run("list", "--config", "servers.json",
                             "--attempts-max", "2", *self.seconds(20))
            expect(done.code == 6 and done.out == "" and
                   "TRANSIENT after 2 attempts" in done.err, done)

    def a_host_without_a_name(self):
        with self.place() as place:
            place.servers(one={"url": "http://no-such-host.invalid/mcp"})
            done = place.run("list", "--config", "servers.json",
                             "--attempts-max", "1", *self.seconds(20))
            expect(done.code == 6 and done.out == "" and
                   len(done.lines) == 1 and "server one: " in done.err, done)

    def a_resolver_that_hangs(self):
        if self.slow_dns is None:
            return "not run: no --slow-dns"
        with self.place() as place:
            place.servers(faulty={"url": "http://slow.invalid/mcp"},
                          good=place.stdio("Good"))
            done = place.finish(place.start(
                "list", "--config", "servers.json", "--report", "json",
                "--attempts-max", "2", *self.silence(),
                LD_PRELOAD=self.slow_dns))
            servers, _ = done.report()
            expect(done.code == 6 and servers["good"]["status"] == "OK", done)
            expect(servers["faulty"]["status"] == "PEER_SILENT", done)

    def a_command_that_is_not_there_is_not_tried_again(self):
        with self.place() as place:
            place.servers(one={"command": "cleat-no-such-command"})
            done = place.run("list", "--config", "servers.json",
                             *self.seconds(20))
            expect(done.code == 6 and len(done.lines) == 1 and
                   "cleat-no-such-command" in done.err and
                   "PERMANENT after 1 attempt," in done.err, done)

    def modern_only_a_server_that_ends_at_a_probe_has_failed(self):
        with self.place() as place:
            place.servers(one=place.stdio("ExitsBeforeInitialize"))
            done = place.run("list", "--config", "servers.json", "--era",
                             "modern", "--attempts-max", "2", *self.seconds(20))
            expect(done.code == 6 and "after 2 attempts" in done.err, done)

    def all_that_fail_are_told(self):
        with self.place() as place:
            place.servers(one=place.stdio("Exit"), two=place.stdio("Good"),
                          three=place.stdio("SameCursor"))
            done = place.run("list", "--config", "servers.json",
                             "--attempts-max", "1", *self.seconds(20))
            expect(done.code == 6 and done.out == "" and len(done.lines) == 2,
                   done)
            expect("server one: " in done.lines[0] and
                   "server three: " in done.lines[1], done)
            done = place.run("list", "--config", "servers.json", "--policy",
                             "any", "--attempts-max", "1", *self.seconds(20))
            expect(done.code == 0 and len(done.lines) == 2 and
                   done.out.endswith("2 tools of 1 of 3 servers\n"), done)

    def where_all_fail_any_is_a_failure_too(self):
        with self.place() as place:
            place.servers(one=place.stdio("Exit"), two=place.stdio("Exit"))
            done = place.run("list", "--config", "servers.json", "--policy",
                             "any", "--attempts-max", "1", *self.seconds(20))
            expect(done.code == 6 and done.out == "" and len(done.lines) == 2,
                   done)

    # ---- two servers, one name ----

    def a_name_on_two_servers_is_an_error_that_names_both(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good"), two=place.stdio("Good"))
            done = place.run("list", "--config", "servers.json")
            expect(done.code == 2 and done.out == "" and len(done.lines) == 1,
                   done)
            for word in ("add", "one", "two", "--prefix"):
                expect(word in done.err, word, done)

    def a_prefix_tells_them_apart(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good"), two=place.stdio("Good"))
            names = [f"{server}_{tool}" for server in ("one", "two")
                     for tool in fault_server.TOOLS]
            done = place.run("list", "--config", "servers.json", "--prefix",
                             "--format", "openai")
            expect([tool["function"]["name"] for tool in json.loads(done.out)]
                   == names, done)
            done = place.run("list", "--config", "servers.json", "--prefix",
                             "--format", "mcp")
            expect([tool["name"] for tool in json.loads(done.out)["tools"]]
                   == names, done)
            done = place.run("call", "--config", "servers.json", "--prefix",
                             "two_echo", "--args", '{"a": 1}')
            said = json.loads(json.loads(done.out)["content"][0]["text"])
            expect(done.code == 0 and said["name"] == "echo", done)

    # ---- call ----

    def call(self, place, fault, *options, name="echo"):
        place.servers(one=place.stdio(fault))
        return place.run("call", "--config", "servers.json", name, *options)

    def a_call_prints_the_json_of_its_result(self):
        with self.place() as place:
            done = self.call(place, "Good", "--args", ' {"a": [1, "é"]} ')
            expect(done.code == 0 and done.err == "", done)
            said = json.loads(json.loads(done.out)["content"][0]["text"])
            expect(said["name"] == "echo" and
                   said["arguments"] == {"a": [1, "é"]}, done)
            done = self.call(place, "Good")
            said = json.loads(json.loads(done.out)["content"][0]["text"])
            expect(said["arguments"] == {}, done)

    def a_call_over_http(self):
        with self.place() as place:
            for fault in ("Http", "HttpStream", "HttpEndpoint"):
                entry, _ = place.http(fault)
                place.servers(one=entry)
                done = place.run("call", "--config", "servers.json", "add")
                said = json.loads(json.loads(done.out)["content"][0]["text"])
                expect(done.code == 0 and said["name"] == "add", fault, done)

    def a_tool_that_reports_an_error_is_exit_1(self):
        with self.place() as place:
            done = self.call(place, "ToolError")
            expect(done.code == 1 and done.err == "" and
                   json.loads(done.out)["isError"] is True, done)

    def a_tool_that_is_not_there_is_told_with_those_that_are(self):
        with self.place() as place:
            done = self.call(place, "Good", name="ecko")
            expect(done.code == 2 and done.out == "" and
                   done.err.endswith("there are: add, echo\n"), done)

    def a_call_that_is_not_answered_ends_at_the_deadline(self):
        with self.place() as place:
            done = self.call(place, "SilentInACall", *self.silence())
            expect(done.code == 7 and done.out == "" and len(done.lines) == 1
                   and "echo" in done.err and
                   "may have taken effect" in done.err, done)

    def a_server_that_stops_reading_holds_nobody_up(self):
        with self.place() as place:
            done = self.call(place, "StopsReading", "--args",
                             json.dumps({"a": "x" * 100_000}), *self.silence())
            expect(done.code == 7 and done.out == "", done)

    def a_server_that_ends_in_a_call_has_failed_and_is_not_asked_again(self):
        with self.place() as place:
            done = self.call(place, "ExitInACall", *self.seconds(20))
            expect(done.code == 6 and done.out == "" and len(done.lines) == 1,
                   done)

    def a_config_that_is_still_read_at_the_end_is_waited_for(self):
        with self.place() as place:
            place.write("a.yaml", "\n".join("k%d: v" % number
                                            for number in range(20000)))
            done = place.run("list", "--config", "a.yaml", "--timeout-s",
                             "0.1")
            expect(done.code in (2, 7) and done.out == "" and
                   len(done.lines) == 1, done)

    def a_result_too_large_is_told(self):
        with self.place() as place:
            done = self.call(place, "HugeResult", *self.seconds(20))
            expect(done.code == 6 and done.out == "" and "1048576" in done.err,
                   done)

    def a_call_is_found_beside_a_server_that_is_dead(self):
        with self.place() as place:
            place.servers(one=place.stdio("Exit"), two=place.stdio("Good"))
            done = place.run("call", "--config", "servers.json", "echo",
                             *self.seconds(20))
            expect(done.code == 0 and done.err == "", done)
            done = place.run("call", "--config", "servers.json", "ecko",
                             *self.seconds(20))
            expect(done.code == 6 and len(done.lines) == 2 and
                   "server one: " in done.lines[0] and
                   "there are: add, echo" in done.lines[1], done)

    def a_native_tool_is_not_called(self):
        with self.place() as place:
            place.write("tools.yaml", "tools:\n" + NATIVE)
            done = place.run("call", "--config", "tools.yaml", "calc")
            expect(done.code == 2 and done.out == "" and "calc" in done.err and
                   len(done.lines) == 1, done)

    # ---- watch ----

    def watch(self, place, config="servers.json"):
        process = place.start("watch", "--config", config, "--every-s", "1",
                              *self.seconds(20))
        lines = iter(process.stdout.readline, "")

        def next_line():
            line = next(lines, None)
            if line is None:
                raise Failure("ended:", process.wait(), process.stderr.read())
            expect(STAMP.match(line), line)
            return STAMP.sub("", line).rstrip("\n")
        timer = threading.Timer(harness.WATCHDOG_S, process.kill)
        timer.daemon = True
        timer.start()
        return process, next_line

    def end(self, place, process, number=signal.SIGINT):
        process.send_signal(number)
        done = place.finish(process)
        expect(done.code == 128 + number and done.err == "", done)

    def set_state(self, place, text):
        """At once: the server must not read a half of it."""
        place.write("state.new", text)
        os.rename(place.path("state.new"), place.state)

    def watch_prints_each_change(self):
        with self.place() as place:
            self.set_state(place, "a b c")
            place.servers(one=place.stdio("Changing"))
            process, line = self.watch(place)
            expect(line() == "one: 3 tools: a b c")
            self.set_state(place, "a=new c d")
            expect(line() == "one: 3 tools: ~a +d -b")
            self.set_state(place, "a=new")
            expect(line() == "one: 1 tool: -c -d")
            self.end(place, process)

    def watch_goes_on_when_a_server_dies_and_comes_back(self):
        with self.place() as place:
            self.set_state(place, "a b")
            entry, _ = place.http("Http", "other")
            place.servers(one=place.stdio("Changing"), two=entry)
            process, line = self.watch(place)
            expect({line(), line()} == {"one: 2 tools: a b",
                                        "two: 1 tool: other"})
            self.set_state(place, "")
            said = line()
            expect(said.startswith("one: failed: "), said)
            self.set_state(place, "a c")
            said = line()
            expect(said == "one: is back, 2 tools: +c -b", said)
            self.end(place, process, signal.SIGTERM)

    def watch_begins_with_a_server_that_is_dead(self):
        with self.place() as place:
            self.set_state(place, "")
            place.servers(one=place.stdio("Changing"),
                          two=place.stdio("Good", "x"))
            process, line = self.watch(place)
            said = {line(), line()}
            expect("two: 1 tool: x" in said and
                   any(each.startswith("one: failed: ") for each in said), said)
            self.set_state(place, "a")
            said = line()
            expect(said == "one: is back, 1 tool: a", said)
            self.end(place, process)

    def watch_sees_the_config_edited(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good"))
            place.write("tools.yaml", "tools:\n" + verl("servers.json", "add"))
            process, line = self.watch(place, "tools.yaml")
            said = line()
            expect(said == "one: 1 tool: add", said)
            place.write("new", "tools:\n" + verl("servers.json", "echo"))
            os.rename(place.path("new"), place.path("tools.yaml"))
            said = line()
            expect(said == "one: 1 tool: +echo -add", said)
            self.end(place, process)

    # ---- signals ----

    def interrupted(self, number, *arguments, fault="Silent"):
        with self.place() as place:
            # It makes the file when it runs.
            entry = place.stdio(fault)
            entry["args"] = ["-c", 'echo > started; exec "$@"', "sh",
                             entry["command"], *entry["args"]]
            entry["command"] = "/bin/sh"
            entry["cwd"] = place.folder
            place.servers(one=entry)
            process = place.start(*arguments, "--config", "servers.json",
                                  *self.seconds(100))
            end = time.monotonic() + harness.WATCHDOG_S
            while not os.path.exists(place.path("started")):
                expect(time.monotonic() < end, "nothing was started")
                time.sleep(0.02)
            process.send_signal(number)
            done = place.finish(process)
            expect(done.code == 128 + number and done.out == "" and
                   done.err == "", done)

    def interrupted_while_it_waits_it_leaves_nobody(self):
        self.interrupted(signal.SIGINT, "list")
        self.interrupted(signal.SIGTERM, "list", "--threads", "8")
        self.interrupted(signal.SIGHUP, "list", "--report", "json")

    def interrupted_in_a_call_it_leaves_nobody(self):
        self.interrupted(signal.SIGINT, "call", "echo", fault="SilentInACall")

    def interrupted_beside_a_server_that_ignores_its_end(self):
        with self.place() as place:
            place.servers(one=place.stdio("IgnoresSigterm"))
            process, line = self.watch(place)
            expect(line() == "one: 2 tools: add echo")
            self.end(place, process, signal.SIGTERM)

    def killed_its_servers_see_the_end_of_their_input(self):
        with self.place() as place:
            self.set_state(place, "a")
            place.servers(one=place.stdio("Changing"))
            process, line = self.watch(place)
            line()
            process.kill()
            process.communicate()
            place.expect_nothing_left()

    def a_list_that_cannot_be_printed_is_told(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good"))
            with open("/dev/full", "w", encoding="ascii") as full:
                done = subprocess.run(
                    [self.cleat, "tools", "list", "--config", "servers.json"],
                    cwd=place.folder, stdout=full, stderr=subprocess.PIPE,
                    text=True, check=False, timeout=harness.WATCHDOG_S)
            expect(done.returncode == 2 and "standard output" in done.stderr,
                   done)

    # ---- bad input ----

    def bad_input_is_one_line_and_nothing_starts(self):
        with self.place() as place:
            count = 0
            for arguments, words in bad_input(place):
                done = place.run(*arguments)
                expect(done.code == 2 and done.out == "" and
                       len(done.lines) == 1, arguments, done)
                for word in words:
                    expect(word in done.err, arguments, "did not say",
                           repr(word), done)
                expect(not os.path.exists(place.path("started")), arguments,
                       "started a server")
                count += 1
        return f"{count} cases"

    def a_selected_tool_that_is_not_there_is_told_with_those_that_are(self):
        with self.place() as place:
            place.servers(one=place.stdio("Good"))
            place.write("tools.yaml", "tools:\n" +
                        verl("servers.json", "echo", "ad"))
            done = place.run("list", "--config", "tools.yaml")
            expect(done.code == 2 and done.out == "" and len(done.lines) == 1,
                   done)
            for word in ("ad", "add", "echo", "one"):
                expect(word in done.err, word, done)


def bad_configs(place):
    """(name of a config, words that the line must have)"""
    put = place.write
    # Would be seen, if it ran.
    server = {"command": "/bin/sh", "args": ["-c", "echo > started; sleep 9"],
              "cwd": place.folder, "env": {harness.MARK: place.mark}}
    put("good.json", {"mcpServers": {"one": server}})
    mcp = "  - {class_name: a.B, config: {type: mcp}, mcp: {%s}}\n"
    good = mcp % "mcp_servers_config_path: good.json"

    yield "nowhere.yaml", ("nowhere.yaml",)
    os.mkdir(place.path("folder"))
    yield "folder", ("folder",)
    os.mkfifo(place.path("pipe"))
    yield "pipe", ("pipe",)
    put("empty", "")
    for name, text, *words in (
            ("syntax.yaml", f"tools:\n{good}  - [a\n", "syntax.yaml:"),
            ("tab.yaml", f"tools:\n{good}\t- a\n", "tab.yaml:"),
            ("twice.yaml", f"tools:\n{good}tools: []\n", "twice.yaml:3", "tools"),
            ("type.yaml", f"tools:\n{good}  - {{class_name: a.B, config: "
             "{type: sql}}\n", "type.yaml:3", "native", "mcp"),
            ("list.yaml", "tools: 5\n", "list.yaml", "tools"),
            ("no-path.yaml", f"tools:\n{good}  - {{class_name: a.B, config: "
             "{type: mcp}}\n", "no-path.yaml"),
            ("no-file.yaml", "tools:\n" + good +
             mcp % "mcp_servers_config_path: gone/nowhere.json",
             "gone/nowhere.json"),
            ("no-class.yaml", f"tools:\n{good}  - {{config: {{type: native}}}}\n",
             "no-class.yaml", "class_name"),
            ("variable.yaml", "tools:\n" + good +
             mcp % 'mcp_servers_config_path: "${oc.env:CLEAT_NOT_SET}"',
             "variable.yaml", "CLEAT_NOT_SET"),
            ("interpolation.yaml", "tools:\n" + good +
             mcp % 'mcp_servers_config_path: "${other.key}"',
             "interpolation.yaml:3")):
        put(name, text)
        yield name, words
    for name, entry, *words in (
            ("both.json", dict(server, url="http://localhost/"), "both.json",
             "two", "command", "url"),
            ("neither.json", {"args": []}, "neither.json", "two"),
            ("args.json", dict(server, args="x"), "args.json", "two", "args"),
            ("environment.json", dict(server, env={"A": 1}), "two", "env"),
            ("scheme.json", {"url": "file:///etc/passwd"}, "two", "url"),
            ("transport.json", {"url": "http://localhost/", "transport": "ws"},
             "two", "transport"),
            ("header.json", {"url": "http://localhost/", "headers":
                             {"A": "b\nC: canary-in-a-header"}}, "two",
             "headers")):
        put(name, {"mcpServers": {"one": server, "two": entry}})
        yield name, words
    put("half.json", '{"mcpServers": {"one": ' + json.dumps(server))
    yield "half.json", ("half.json",)
    put("twice.json", '{"mcpServers": {"one": %s, "one": %s}}'
        % ((json.dumps(server),) * 2))
    yield "twice.json", ("twice.json", "one")


def bad_input(place):
    """(arguments, words that the line must have)"""
    for name, words in list(bad_configs(place)):
        yield ("list", "--config", name), words
    config = ("--config", "good.json")
    for arguments, words in (
            ((), ("list, call or watch",)),
            (("lost",), ("lost",)),
            (("list",), ("--config",)),
            (("watch",), ("--config",)),
            (("call", "echo"), ("--config",)),
            (("list", *config, "echo"), ("echo",)),
            (("list", *config, "--format", "xml"), ("xml", "table|openai|mcp")),
            (("list", *config, "--policy", "most"), ("most", "all|any")),
            (("list", *config, "--report", "xml"), ("xml",)),
            (("list", *config, "--threads", "0"), ("--threads",)),
            (("list", *config, "--threads", "257"), ("256",)),
            (("list", *config, "--repeat", "0"), ("--repeat",)),
            (("list", *config, "--timeout-s", "0"), ("--timeout-s",)),
            (("list", *config, "--timeout-s", "soon"), ("soon",)),
            (("list", *config, "--attempts-max", "0"), ("--attempts-max",)),
            (("list", *config, "--era", "old"), ("old", "auto|legacy|modern")),
            (("list", *config, "--era", "legacy", "--era", "auto"),
             ("given twice",)),
            (("list", *config, "--ca-file", "nowhere.pem"), ("nowhere.pem",)),
            (("list", "--config", "no\x1b[2Jwhere"), ("no?[2Jwhere",)),
            (("watch", "--config", "nowhere.yaml"), ("nowhere.yaml",)),
            (("watch", *config, "--format", "mcp"), ("--format",)),
            (("call", *config), ("NAME",)),
            (("call", *config, "a", "b"), ("b",)),
            (("call", *config, "a", "--args", "{"), ("--args", "byte 1")),
            (("call", *config, "a", "--args", "[1]"), ("--args", "object")),
            (("call", *config, "a", "--args", '{"a": nul}'), ("byte 9",)),
            (("call", "--config", "nowhere.yaml", "a"), ("nowhere.yaml",))):
        yield arguments, words


def absent(cleat):
    """Of a build without port/mcp."""
    done = subprocess.run([cleat, "tools", "list", "--config", "x"],
                          capture_output=True, text=True, check=False)
    expect(done.returncode == 2 and done.stdout == "" and
           done.stderr.count("\n") == 1, done)
    for word in ("port/mcp", "libcurl", "libfyaml"):
        expect(word in done.stderr, done)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cleat", required=True)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--only", default="")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--slow-dns")
    parser.add_argument("--absent", action="store_true")
    arguments = parser.parse_args()
    cleat = os.path.abspath(arguments.cleat)
    if arguments.absent:
        absent(cleat)
        return 0
    tests = Tests(cleat, arguments.scale, arguments.slow_dns)
    helpers = ("place", "seconds", "silence", "faulty", "fault", "call",
               "watch", "end", "set_state", "interrupted")
    cells = [f"fault {name}" for name in (*STDIO, *HTTP)]
    cells += [name for name in vars(Tests) if not name.startswith("_")
              and name not in helpers]
    cells = [cell for cell in cells if arguments.only in cell]

    def run(cell):
        name, _, fault = cell.partition(" ")
        test = getattr(tests, name)
        return (test(fault) if fault else test()) or "ok"
    return 1 if harness.run_all(cells, run, arguments.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
