#!/usr/bin/env python3
"""Cleat: real MCP servers. SPDX-License-Identifier: Apache-2.0

Usage: mcp_servers.py PEER NODE NPM SERVER…

Each SERVER (SERVERS below) is started from what npm gave (tools/setup), and
asked by three: by PEER (mcp_peer.c, over port/mcp), by hand (mcp_recorder.py)
and by the official TypeScript client (mcp_official.mjs). PEER must have the
tools that were sent, every byte of their definitions and schemas, and the
results of calls that the official client has; for servers whose tools change
it must be told so, and then have the new ones; a server that was killed, and
is there again, must be asked again, whatever session it had. Servers that speak
HTTP listen on the loopback address, at a port of the system's choosing that is
theirs to the end. In the end no process is left.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "process"))
from harness import MARK, WATCHDOG_S, Failure, expect, marked  # noqa: E402
import mcp_recorder  # noqa: E402

PEER, NODE, NPM = (os.path.abspath(path) for path in sys.argv[1:4])
MODULES = os.path.join(NPM, "node_modules", "@modelcontextprotocol")
LOOPBACK = "--require=" + os.path.join(HERE, "loopback.cjs")

# How an attempt may fail that another one may follow.
WORTH_ANOTHER = ("TRANSIENT", "AMBIGUOUS", "SHORT", "PEER_SILENT")

# What is called, with what; the results are the official client's.
EVERYTHING = [
    ["echo", {"message": "\u00e4 \"quoted\" \U0001f600\n\ttext"}],
    ["get-sum", {"a": 2, "b": 0.5}],
    ["get-tiny-image", {}],
    ["get-structured-content", {"location": "Chicago"}],
    ["get-annotated-message", {"messageType": "error", "includeImage": True}],
    ["get-sum", {"a": "two", "b": 1}],
    ["there-is-no-such-tool", {}],
]
OURS = [
    ["add", {"a": 2, "b": 0.5}],
    ["add", {"a": 2}],
    ["add", {"a": "two"}],
    ["fail", {"list": [{"x": "y"}]}],
    ["there-is-no-such-tool", {}],
]


class Server:
    """name: for people. How many tools, and what is called, are constants of
    the pinned versions."""

    def __init__(self, name, arguments, tools, calls, era="legacy", http=None,
                 changes=False, environment=None):
        self.name = name
        self.arguments = arguments
        self.tools = tools
        self.calls = calls
        self.era = era
        self.http = http  # None: stdio; else the path, and the transport
        self.changes = changes
        self.environment = environment or {}


def package(name):
    return os.path.join(MODULES, name, "dist", "index.js")


SERVERS = {
    "everything": Server(
        "everything", [package("server-everything"), "stdio"], 13, EVERYTHING),
    "everything-http": Server(
        "everything", [package("server-everything"), "streamableHttp"], 13,
        EVERYTHING, http=("/mcp", "http")),
    "everything-sse": Server(
        "everything", [package("server-everything"), "sse"], 13, EVERYTHING,
        http=("/sse", "sse")),
    "filesystem": Server(
        "file system", [package("server-filesystem"), "FOLDER"], 14,
        [["list_directory", {"path": "FOLDER"}],
         ["read_text_file", {"path": "FOLDER/none"}]]),
    "memory": Server(
        "memory", [package("server-memory")], 9,
        [["read_graph", {}], ["search_nodes", {"query": "x"}]],
        environment={"MEMORY_FILE_PATH": "FOLDER/memory.json"}),
    "sequential-thinking": Server(
        "sequential-thinking", [package("server-sequential-thinking")], 1,
        [["sequentialthinking",
          {"thought": "one", "nextThoughtNeeded": False, "thoughtNumber": 1,
           "totalThoughts": 1}]],
        environment={"DISABLE_THOUGHT_LOGGING": "true"}),
    "modern": Server(
        "modern", [os.path.join(HERE, "mcp_server.mjs"), NPM, "stdio",
                   "reject"], 2, OURS, era="modern", changes=True),
    "modern-http": Server(
        "modern", [os.path.join(HERE, "mcp_server.mjs"), NPM, "http",
                   "reject"], 2, OURS, era="modern", http=("/mcp", "http"),
        changes=True),
    # Of both eras: over stdio the older one is tried first, over HTTP the
    # newer one.
    "dual": Server(
        "dual", [os.path.join(HERE, "mcp_server.mjs"), NPM, "stdio",
                 "serve"], 2, OURS, changes=True),
    "session-http": Server(
        "session", [os.path.join(HERE, "mcp_server.mjs"), NPM, "http",
                    "session"], 2, OURS, http=("/mcp", "http"), changes=True),
    "dual-http": Server(
        "dual", [os.path.join(HERE, "mcp_server.mjs"), NPM, "http",
                 "serve"], 2, OURS, era="modern", http=("/mcp", "http"),
        changes=True),
}


def await_true(what, truth):
    end = time.monotonic() + WATCHDOG_S
    while not truth():
        expect(time.monotonic() < end, "never came to be:", what)
        time.sleep(0.02)


def hold_port():
    """A port of the loopback address that a server of ours may listen on, and
    nobody else is given, also while the server is down."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


class Place:
    """A folder, a mark, and the server in it, where that is not the client's to
    start."""

    def __init__(self, server):
        self.server = server
        self.folder = tempfile.mkdtemp(prefix="cleat-test-")
        self.mark = uuid.uuid4().hex
        self.control = os.path.join(self.folder, "control")
        self.process = None
        self.holder = hold_port() if server.http else None
        self.environment = {
            "PATH": os.environ["PATH"], MARK: self.mark,
            **{key: self.fill(value)
               for key, value in server.environment.items()}}
        if server.http:
            self.entry = self.start()
        else:
            self.entry = {"command": NODE,
                          "args": [self.fill(text)
                                   for text in server.arguments],
                          "env": self.environment}

    def fill(self, value):
        return json.loads(json.dumps(value).replace("FOLDER", self.folder))

    def start(self):
        port = os.path.join(self.folder, "port")
        if os.path.exists(port):
            os.remove(port)
        environment = dict(self.environment,
                           PORT=str(self.holder.getsockname()[1]),
                           CLEAT_TEST_PORT=port,
                           CLEAT_TEST_CONTROL=self.control,
                           NODE_OPTIONS=LOOPBACK)
        with open(os.path.join(self.folder, "log"), "wb") as log:
            self.process = subprocess.Popen(
                [NODE, *self.server.arguments], env=environment,
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)
        await_true("a port", lambda: os.path.exists(port)
                   or self.process.poll() is not None)
        expect(self.process.poll() is None, "the server ended")
        with open(port, encoding="ascii") as file:
            number = int(file.read())
        path, transport = self.server.http
        return {"url": f"http://127.0.0.1:{number}{path}",
                "transport": transport}

    def change(self):
        """Has the server offer one tool more."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(WATCHDOG_S)
            control.connect(self.control)
            control.recv(1)  # its end: the tool is there

    def stop(self):
        if self.process:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(WATCHDOG_S)
            self.process = None

    def kill(self):
        for pid in marked(self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if self.process:
            self.process.wait()

    def restart(self):
        """As after a crash: at the same place, with nothing remembered."""
        self.kill()
        if self.process:
            expect(self.start() == self.entry, "it is elsewhere")

    def close(self):
        self.kill()
        if self.holder:
            self.holder.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()


class Peer:
    """mcp_peer, and what it answers."""

    def __init__(self, place, era):
        config = os.path.join(place.folder, "mcp.json")
        entry = dict(place.entry)
        if "env" in entry:
            entry["env"] = dict(entry["env"], CLEAT_TEST_CONTROL=place.control)
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"mcpServers": {place.server.name: entry}}, file)
        self.process = subprocess.Popen([PEER, era], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        count, = self.ask("config " + config)
        expect(count == "1", "sources:", count)
        name = self.hex_line()[0]
        expect(name == place.server.name, "source:", name)

    def line(self):
        line = self.process.stdout.readline()
        expect(line.endswith("\n"), "the peer has gone")
        return line.rstrip("\n")

    def hex_line(self):
        return ["" if word == "-" else bytes.fromhex(word).decode()
                for word in self.line().split(" ")]

    def answer(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.line()

    def ask(self, command):
        answer = self.answer(command)
        words = answer.split(" ")
        expect(words[0] == "ok", command, "→", answer)
        return words[1:]

    def list(self):
        count, left_out, ttl = self.ask("list 0")
        expect(left_out == "0", "left out:", left_out)
        return [self.hex_line() for _ in range(int(count))], ttl

    def list_in_the_end(self):
        """A list, after attempts that it was right to make."""
        end = time.monotonic() + WATCHDOG_S
        while time.monotonic() < end:
            answer = self.answer("list 0").split(" ")
            if answer[0] == "ok":
                return [self.hex_line() for _ in range(int(answer[1]))]
            expect(answer[1] in WORTH_ANOTHER, "list 0 →", *answer)
            time.sleep(0.02)
        raise Failure("no list in the end:", *answer)

    def call(self, name, arguments):
        """As mcp_official.mjs says it; an error as its words."""
        answer = self.answer(f"call 0 {name} {json.dumps(arguments)}")
        if answer.startswith("failed "):
            return {"failed": answer}
        _, is_error, text = answer.split(" ")
        result = json.loads(bytes.fromhex(text))
        expect(bool(int(is_error)) == result.get("isError", False),
               name, "isError:", is_error, result)
        return {"result": result}

    def close(self):
        self.process.stdin.close()
        expect(self.process.wait(WATCHDOG_S) == 0, "the peer failed")


# ---- what must be true ------------------------------------------------------
def text_of(tool, key):
    return json.loads(tool[key]) if key in tool else ""


def the_list_is_what_was_sent(place, era, peer):
    sent = mcp_recorder.record(place.entry, era)
    got, ttl = peer.list()
    expect(len(sent.tools) == place.server.tools, "tools sent:",
           len(sent.tools))
    expect(len(got) == len(sent.tools), "tools:", len(got))
    expect(ttl == ("none" if sent.ttl_ms is None or era == "legacy"
                   else str(int(sent.ttl_ms) * 1000000)), "ttl:", ttl)
    size = 0
    for raw, mine in zip(sent.tools, got):
        tool = mcp_recorder.members(raw)
        wanted = [raw, text_of(tool, "name"), text_of(tool, "name"),
                  text_of(tool, "title"), text_of(tool, "description"),
                  tool["inputSchema"], tool.get("outputSchema", ""),
                  tool.get("annotations", ""), place.server.name]
        expect(mine == wanted, "tool:\n", mine, "\nsent:\n", wanted)
        size += len(raw.encode())
    return size


def without_server_info(result):
    """Results of 2026-07-28 carry what the client took off or added."""
    result = {key: value for key, value in result.items()
              if key not in ("_meta", "resultType")}
    return result


def calls_give_what_the_official_client_gets(place, era, peer):
    entry = {key: value for key, value in place.entry.items()}
    done = subprocess.run(
        [NODE, os.path.join(HERE, "mcp_official.mjs"), NPM, era,
         json.dumps(entry), json.dumps(place.fill(place.server.calls))],
        env=dict(os.environ, **{MARK: place.mark}), stdout=subprocess.PIPE,
        timeout=WATCHDOG_S, check=True)
    official = json.loads(done.stdout)
    expect(len(official["tools"]) == place.server.tools, "official:",
           len(official["tools"]))
    for (name, arguments), theirs in zip(place.fill(place.server.calls),
                                         official["calls"]):
        ours = peer.call(name, arguments)
        if "error" in theirs:
            expect("failed" in ours, name, "ours:", ours, "theirs:", theirs)
            # Its code is in the words.
            expect(str(theirs["error"]) in ours["failed"], name, ours, theirs)
        else:
            expect("result" in ours, name, "ours:", ours, "theirs:", theirs)
            expect(without_server_info(ours["result"])
                   == without_server_info(theirs["result"]),
                   name, "ours:", ours, "theirs:", theirs)


def changes_are_told(place, peer):
    before = place.server.tools
    peer.ask("watch 0 on")
    names = [tool[1] for tool in peer.list()[0]]
    expect(len(names) == before, names)
    for number in (1, 2):
        place.change()
        while f"tool_{number}" not in names:
            peer.ask("change")
            names = [tool[1] for tool in peer.list()[0]]
    expect(names[-2:] == ["tool_1", "tool_2"] and len(names) == before + 2,
           names)
    # What was told while nobody listened is lost: to listen again is a change.
    place.restart()
    while len(names) != before:
        peer.ask("change")
        names = [tool[1] for tool in peer.list_in_the_end()]
    peer.ask("watch 0 off")


def a_server_that_died_is_asked_again(place, peer):
    before = [tool[1] for tool in peer.list()[0]][:place.server.tools]
    place.restart()
    names = [tool[1] for tool in peer.list_in_the_end()]
    expect(names == before, "tools:", names, "before:", before)


def nothing_is_left(place):
    end = time.monotonic() + WATCHDOG_S
    while marked(place.mark):
        expect(time.monotonic() < end, "processes left:", marked(place.mark))
        time.sleep(0.02)


def run(name):
    server = SERVERS[name]
    with Place(server) as place:
        peer = Peer(place, "auto")
        size = the_list_is_what_was_sent(place, server.era, peer)
        calls_give_what_the_official_client_gets(place, server.era, peer)
        if server.changes:
            changes_are_told(place, peer)
        a_server_that_died_is_asked_again(place, peer)
        peer.close()
        place.stop()
        nothing_is_left(place)
    print(f"{name}: {server.tools} tools, {size} bytes, "
          f"{len(server.calls)} calls"
          + (", changes told" if server.changes else ""), flush=True)


def main():
    failed = 0
    for name in sys.argv[4:]:
        try:
            run(name)
        except Failure as failure:
            print(f"{name}: {failure}", file=sys.stderr)
            failed += 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
