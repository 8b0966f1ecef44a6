#!/usr/bin/env python3
# Cleat: an MCP server that misbehaves. SPDX-License-Identifier: Apache-2.0
"""usage: fault_server.py FAULT [TOOL]...     speaks over standard input
   or, for HTTP: with fault_server.Http(FAULT, TOOL…) as server: server.url

A fault is a class; what it does not say is done as it should be, as a server
of 2025-11-25. Adding a fault is adding a class.
"""
import contextlib
import http.server
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time

VERSION = "2025-11-25"
TOOLS = ("add", "echo")


def definition(name, description=None, schema=None):
    return {"name": name,
            "description": description or f"The tool {name}.\nSecond line.",
            "inputSchema": schema or {
                "type": "object",
                "properties": {"of": {"type": "array", "items": {
                    "type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}}}},
                "$defs": {"n": {"type": "integer"}}}}


def request(number, method, params=None):
    message = {"jsonrpc": "2.0", "id": number, "method": method}
    return message if params is None else dict(message, params=params)


def notification(method):
    return {"jsonrpc": "2.0", "method": method}


CHANGED = "notifications/tools/list_changed"


def result(number, value):
    # In the order of real servers: the id comes last.
    return {"result": value, "jsonrpc": "2.0", "id": number}


def error(number, code, message, data=None):
    what = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "id": number,
            "error": what if data is None else dict(what, data=data)}


def initialized(message, changes=True):
    return result(message["id"], {
        "protocolVersion": VERSION, "serverInfo": {"name": "fault", "version": "1"},
        "capabilities": {"tools": {"listChanged": changes}}})


def cursor_of(message, first=None):
    return message.get("params", {}).get("cursor", first)


def called(message):
    return result(message["id"], {"content": [
        {"type": "text", "text": json.dumps(message["params"])}]})


def forever():
    while True:
        time.sleep(3600)


# ----------------------------------------------------------- standard input

class Good:
    """As it should be."""

    def __init__(self, tools):
        self.tools = [definition(name) for name in tools]

    # What it does, in order.

    def start(self):
        pass

    def initialize(self, message):
        self.send(initialized(message))

    def list(self, message):
        self.send(result(message["id"], {"tools": self.tools}))

    def call(self, message):
        self.send(called(message))

    def other(self, message):
        self.send(error(message["id"], -32601, "Method not found"))

    def end(self):
        pass

    # How.

    def raw(self, data):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view):]

    def send(self, message):
        self.raw(json.dumps(message).encode() + b"\n")

    def read(self):
        for line in sys.stdin.buffer:
            message = json.loads(line)
            method = message.get("method")
            if "id" not in message or method is None:
                continue
            {"initialize": self.initialize, "tools/list": self.list,
             "tools/call": self.call}.get(method, self.other)(message)

    def run(self):
        self.start()
        self.read()
        self.end()


class Silent(Good):
    def initialize(self, message):
        pass


class SilentAfterInitialize(Good):
    def list(self, message):
        pass


class SilentInACall(Good):
    def call(self, message):
        pass


class Drip(Good):
    """One byte a second."""

    def send(self, message):
        for byte in json.dumps(message).encode() + b"\n":
            self.raw(bytes([byte]))
            time.sleep(1)


class DripOfTheList(Good):
    def list(self, message):
        for byte in json.dumps(result(message["id"], {"tools": []})).encode():
            self.raw(bytes([byte]))
            time.sleep(1)


class Banner(Good):
    """Lines that are no messages, before and between."""

    def start(self):
        self.raw(b"Server v1.2 is starting\n\n  \x1b[32mready\x1b[0m\n")

    def list(self, message):
        self.raw(b"listing...\nnull\n[1]\n")
        super().list(message)


class BannerForEver(Good):
    def list(self, message):
        while True:
            self.raw(b"still starting\n" * 1000)


class Crlf(Good):
    def send(self, message):
        self.raw(json.dumps(message).encode() + b"\r\n")


class Line76K(Good):
    def list(self, message):
        self.tools[0]["description"] = "x" * 76_000
        super().list(message)


class Line10M(Good):
    def list(self, message):
        self.tools[0]["description"] = "x" * 10_000_000
        super().list(message)


class LineForEver(Good):
    def list(self, message):
        while True:
            self.raw(b"x" * 65536)


class EndlessPages(Good):
    def list(self, message):
        cursor = cursor_of(message, "0")
        self.send(result(message["id"], {
            "tools": [definition(f"tool{cursor}")],
            "nextCursor": str(int(cursor) + 1)}))


class TooManyTools(Good):
    def list(self, message):
        self.tools = [definition(f"tool{i}", "x", {"type": "object"})
                      for i in range(1025)]
        super().list(message)


class SameCursor(Good):
    def list(self, message):
        self.send(result(message["id"], {"tools": [], "nextCursor": "again"}))


class TwoCursors(Good):
    """A cycle of two."""

    def list(self, message):
        cursor = cursor_of(message, "b")
        self.send(result(message["id"], {
            "tools": [], "nextCursor": "a" if cursor == "b" else "b"}))


class EmptyCursors(Good):
    """The cursor "" for ever."""

    def list(self, message):
        self.send(result(message["id"], {"tools": [], "nextCursor": ""}))


class EmptyCursorOnce(Good):
    """A cursor "" is one like any other: there are two pages."""

    def list(self, message):
        if cursor_of(message) == "":
            self.send(result(message["id"], {"tools": self.tools[1:]}))
        else:
            self.send(result(message["id"], {"tools": self.tools[:1],
                                             "nextCursor": ""}))


class Storm(Good):
    """A thousand changes before the first reply."""

    def initialize(self, message):
        super().initialize(message)
        for _ in range(1000):
            self.send(notification(CHANGED))

    def list(self, message):
        for _ in range(10):
            self.send(notification(CHANGED))
        super().list(message)


class StormForEver(Good):
    def list(self, message):
        super().list(message)
        self.send(notification(CHANGED))


class Exit(Good):
    def start(self):
        sys.stderr.write("Traceback: no module named \x1b]0;x\x07needed\n")
        sys.stderr.flush()
        os._exit(3)


class ExitTwice(Good):
    """The third one works. $FAULT_STATE counts."""

    def start(self):
        path = os.environ["FAULT_STATE"]
        with open(path, "a", encoding="ascii") as file:
            file.write("x")
        if os.path.getsize(path) < 3:
            os._exit(1)


class ExitMidReply(Good):
    def list(self, message):
        self.raw(b'{"jsonrpc":"2.0","id":')
        os._exit(0)


class ExitInACall(Good):
    def call(self, message):
        os._exit(0)


class Killed(Good):
    def list(self, message):
        os.kill(os.getpid(), signal.SIGSEGV)


class Late(Good):
    """The answer to the first request comes with that to the second."""

    kept = None

    def list(self, message):
        if self.kept is None:
            self.kept = message
            return
        late = result(self.kept["id"], {"tools": [definition("late")]})
        self.send(late)
        super().list(message)


class Deep(Good):
    """Arrays in arrays, 10 000 of them, where the schema is."""

    def list(self, message):
        text = json.dumps(result(message["id"], {"tools": self.tools}))
        self.raw(text.replace('"integer"', "[" * 10_000 + "]" * 10_000)
                 .encode() + b"\n")


class BadUtf8(Good):
    def list(self, message):
        text = json.dumps(result(message["id"], {"tools": self.tools}))
        self.raw(text.encode().replace(b"The", b"Th\xff") + b"\n")


class Nul(Good):
    def list(self, message):
        text = json.dumps(result(message["id"], {"tools": self.tools}))
        self.raw(text.encode().replace(b"The", b"Th\0") + b"\n")


class EscapedNul(Good):
    """Valid JSON, and no name for a tool."""

    def list(self, message):
        self.tools[0]["name"] = "a\0b"
        super().list(message)


class DuplicateTools(Good):
    def list(self, message):
        self.tools.append(definition(self.tools[0]["name"], "another"))
        super().list(message)


class Hostile(Good):
    """What a terminal would obey, in every text that a tool has."""

    def list(self, message):
        self.tools[0]["description"] = "\x1b[2J\x07red\u202etxt\u009b31m é 日本\u2028x"
        super().list(message)


class NeverReads(Good):
    def read(self):
        forever()


class StopsReading(Good):
    """Reads no more once it was called; its calls do not fit in the wire."""

    def list(self, message):
        super().list(message)
        forever()


class IgnoresSigterm(Good):
    def start(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def end(self):
        forever()


class Grandchild(Good):
    """It ends as it should; what it started keeps everything open."""

    def start(self):
        subprocess.Popen(["sleep", "3600"], stdin=subprocess.DEVNULL)


class GrandchildOfTheDead(Grandchild):
    def list(self, message):
        os._exit(0)


class StderrFlood(Good):
    def start(self):
        def flood():
            with contextlib.suppress(OSError):
                while True:
                    os.write(2, b"noise " * 1000)
        threading.Thread(target=flood, daemon=True).start()


class StderrFloodFirst(Good):
    """More than a pipe holds, before anything else."""

    def start(self):
        os.write(2, b"x" * 4_000_000 + b"\n")


class StdoutClosed(Good):
    """It lives, but nothing comes any more."""

    def list(self, message):
        os.close(1)
        forever()


class ExitsBeforeInitialize(Good):
    """rmcp before 3.0: ends at any request that comes before initialize."""

    begun = False

    def initialize(self, message):
        self.begun = True
        super().initialize(message)

    def list(self, message):
        if not self.begun:
            os._exit(1)
        super().list(message)

    other = list


class OnlyModern(Good):
    """2026-07-28, and nothing else."""

    def initialize(self, message):
        self.send(error(message["id"], -32022, "Unsupported protocol version",
                        {"supported": ["2026-07-28"],
                         "requested": VERSION}))

    def list(self, message):
        self.send(result(message["id"], {
            "resultType": "complete", "tools": self.tools, "ttlMs": 60000,
            "cacheScope": "public"}))


class OtherVersion(Good):
    def initialize(self, message):
        reply = initialized(message)
        reply["result"]["protocolVersion"] = "1999-01-01"
        self.send(reply)


class Questions(Good):
    """It asks its client, with the client's own ids, and waits for answers."""

    def list(self, message):
        for method in ("ping", "roots/list", "sampling/createMessage"):
            self.send(request(message["id"], method))
            answer = json.loads(sys.stdin.buffer.readline())
            if answer.get("id") != message["id"] or "method" in answer:
                os._exit(1)
        super().list(message)


class Strangers(Good):
    """Replies that nobody asked for, and every reply twice."""

    def send(self, message):
        super().send(result(str(message.get("id")), {"tools": []}))
        super().send(result(4711, {"tools": []}))
        super().send(message)
        super().send(message)


class Refuses(Good):
    def list(self, message):
        self.send(error(message["id"], -32603, "the \x1b[31mdatabase is gone"))


class RefusesParams(Good):
    def list(self, message):
        self.send(error(message["id"], -32602, "Invalid params"))


class NoArray(Good):
    def list(self, message):
        self.send(result(message["id"], {"tools": {"add": {}}}))


class NoTools(Good):
    def initialize(self, message):
        reply = initialized(message)
        reply["result"]["capabilities"] = {}
        self.send(reply)


class ToolError(Good):
    def call(self, message):
        self.send(result(message["id"], {
            "isError": True,
            "content": [{"type": "text", "text": "division by zero"}]}))


class HugeResult(Good):
    def call(self, message):
        self.send(result(message["id"], {
            "content": [{"type": "text", "text": "x" * 3_000_000}]}))


class TellsSecrets(Good):
    """Says on standard error what it was given, and in an error too."""

    def start(self):
        sys.stderr.write("key is %s\n" % os.environ["FAULT_SECRET"])
        sys.stderr.flush()

    def list(self, message):
        self.send(error(message["id"], -32603,
                        "bad key " + os.environ["FAULT_SECRET"]))


class TellsSecretsAndEnds(TellsSecrets):
    def list(self, message):
        os._exit(1)


class Changing(Good):
    """Its tools are the words in $FAULT_STATE; it says when they change, and
    ends when there are none."""

    def words(self):
        with open(os.environ["FAULT_STATE"], encoding="utf-8") as file:
            return file.read().split()

    def start(self):
        self.last = self.words()
        if not self.last:
            os._exit(1)

        def follow():
            while True:
                time.sleep(0.02)
                words = self.words()
                if not words:
                    os._exit(1)
                if words != self.last:
                    self.last = words
                    self.send(notification(CHANGED))
        threading.Thread(target=follow, daemon=True).start()

    def list(self, message):
        self.tools = []
        for word in self.words():
            name, _, text = word.partition("=")
            self.tools.append(definition(name, text or None))
        super().list(message)


# --------------------------------------------------------------------- HTTP

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused):
        pass

    def respond(self, code, body=b"", kind="application/json", **headers):
        self.send_response(code)
        if kind is not None:
            self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Transfer_Encoding" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reply(self, message, **headers):
        self.respond(200, json.dumps(message).encode(), **headers)

    def refuse(self, code, number, text):
        self.respond(code, json.dumps(error(None, number, text)).encode())

    def handle_one_request(self):
        with contextlib.suppress(OSError):
            super().handle_one_request()
            return
        self.close_connection = True

    def do_GET(self):
        self.server.owner.heard(self, None)
        self.server.owner.get(self)

    def do_DELETE(self):
        self.server.owner.heard(self, None)
        self.respond(200)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        message = json.loads(body)
        owner = self.server.owner
        owner.heard(self, message)
        method = message.get("method")
        if method == "initialize":
            owner.initialize(self, message)
        elif "id" not in message:
            self.respond(202, kind=None)
        elif not self.headers.get("Mcp-Session-Id"):
            owner.without_session(self, message)
        elif method == "tools/list":
            owner.list(self, message)
        elif method == "tools/call":
            owner.call(self, message)
        else:
            self.reply(error(message["id"], -32601, "Method not found"))


class Listener(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *unused):
        pass


class Http:
    """As it should be: streamable HTTP, legacy, with a session."""

    path = "/mcp"

    def __init__(self, *tools):
        self.tools = [definition(name) for name in tools or TOOLS]
        self.requests = []  # (method, path, headers, message)
        self.sessions = 0
        self.over = threading.Event()

    def __enter__(self):
        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.listener.owner = self
        threading.Thread(target=self.listener.serve_forever, kwargs={
            "poll_interval": 0.05}, daemon=True).start()
        self.url = "http://127.0.0.1:%d%s" % (self.listener.server_port,
                                              self.path)
        return self

    def __exit__(self, *unused):
        self.over.set()
        self.listener.shutdown()
        self.listener.server_close()

    def heard(self, handler, message):
        self.requests.append((handler.command, handler.path,
                              dict(handler.headers), message))

    def hang(self):
        """Until the test is over."""
        self.over.wait()
        raise ConnectionAbortedError

    def initialize(self, handler, message):
        self.sessions += 1
        handler.reply(initialized(message, changes=False),
                      Mcp_Session_Id=f"session-{self.sessions}")

    def without_session(self, handler, message):
        handler.refuse(400, -32000, "Bad Request: Server not initialized")

    def listing(self, message):
        return result(message["id"], {"tools": self.tools})

    def list(self, handler, message):
        handler.reply(self.listing(message))

    def call(self, handler, message):
        handler.reply(called(message))

    def get(self, handler):
        handler.respond(405)


def event(message):
    return b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n"


class HttpStream(Http):
    """The same as events, the first of which is empty."""

    def list(self, handler, message):
        handler.respond(200, b"id: 1\ndata: \n\n: comment\n\n" +
                        event(notification(CHANGED)) +
                        event(self.listing(message)), kind="text/event-stream")


class HttpSilent(Http):
    def initialize(self, handler, message):
        self.hang()

    without_session = initialize


class HttpSilentAfterInitialize(Http):
    def list(self, handler, message):
        self.hang()


class HttpSilentAfterHeaders(Http):
    def list(self, handler, message):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        self.hang()


class HttpSilentStream(Http):
    """Comments keep the stream alive; the reply never comes."""

    def list(self, handler, message):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.close_connection = True
        while not self.over.wait(0.1):
            handler.wfile.write(b": still there\n\n")


class HttpDrip(Http):
    def list(self, handler, message):
        body = json.dumps(self.listing(message)).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        for byte in body:
            handler.wfile.write(bytes([byte]))
            if self.over.wait(1):
                return


class HttpChunked(Http):
    """In chunks of one byte, without a length."""

    def list(self, handler, message):
        body = json.dumps(self.listing(message)).encode()
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        handler.respond(200, chunks + b"0\r\n\r\n", Transfer_Encoding="chunked")


class HttpEndless(Http):
    def list(self, handler, message):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        handler.close_connection = True
        while not self.over.is_set():
            handler.wfile.write(b" " * 65536)


class HttpEvent76K(HttpStream):
    def list(self, handler, message):
        self.tools[0]["description"] = "x" * 76_000
        super().list(handler, message)


class HttpSessionLost(Http):
    """Forgets each session once, with 400."""

    lost = False

    def list(self, handler, message):
        if self.lost:
            super().list(handler, message)
            return
        self.lost = True
        handler.refuse(400, -32000, "Bad Request: No valid session ID provided")


class HttpSessionAlwaysLost(Http):
    def list(self, handler, message):
        handler.refuse(400, -32000, "Bad Request: No valid session ID provided")


class HttpLate(Http):
    """The answer to the first request comes with that to the second."""

    def __init__(self, *tools):
        super().__init__(*tools)
        self.asked = 0
        self.again = threading.Event()

    def list(self, handler, message):
        self.asked += 1
        if self.asked > 1:
            self.again.set()
            super().list(handler, message)
            return
        while not self.again.wait(0.1):
            if self.over.is_set():
                return
        handler.reply(result(message["id"], {"tools": [definition("late")]}))


class HttpRedirectLoop(Http):
    def initialize(self, handler, message):
        handler.respond(307, Location=self.url)

    without_session = initialize


class HttpRedirectElsewhere(Http):
    """To another origin, given as `elsewhere`."""

    elsewhere = None

    def initialize(self, handler, message):
        handler.respond(308, Location=self.elsewhere)

    without_session = initialize


class HttpWrongType(Http):
    def list(self, handler, message):
        handler.respond(200, b"<html><body>Welcome</body></html>", "text/html")


class HttpNotJson(Http):
    def list(self, handler, message):
        handler.respond(200, b'{"jsonrpc": ')


class HttpReset(Http):
    """Half a reply, then a reset."""

    def list(self, handler, message):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"result": ')
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                      b"\1\0\0\0\0\0\0\0")
        os.close(handler.connection.detach())
        handler.close_connection = True


class HttpStreamEnds(Http):
    """The stream ends before the reply."""

    def list(self, handler, message):
        handler.respond(200, b": nothing\n\n", kind="text/event-stream")


class HttpFails(Http):
    """The same answer to everything."""

    code = 500
    headers = {}

    def initialize(self, handler, message):
        handler.respond(self.code, b"it is \x1b[31mbroken", "text/plain",
                        **self.headers)

    without_session = initialize


class Http401(HttpFails):
    code = 401
    headers = {"WWW_Authenticate": "Bearer"}


class Http403(HttpFails):
    code = 403


class HttpFailsTwice(Http):
    """Then it works."""

    failures = 0

    def initialize(self, handler, message):
        if self.failures < 2:
            self.failures += 1
            handler.respond(503, b"", "text/plain")
        else:
            super().initialize(handler, message)

    def without_session(self, handler, message):
        if self.failures < 2:
            self.failures += 1
            handler.respond(503, b"", "text/plain")
        else:
            super().without_session(handler, message)


class HttpTooMany(HttpFailsTwice):
    """429 and when to come back."""

    def without_session(self, handler, message):
        if self.failures < 1:
            self.failures += 1
            handler.respond(429, b"", "text/plain", Retry_After="1")
        else:
            Http.without_session(self, handler, message)

    def initialize(self, handler, message):
        Http.initialize(self, handler, message)


class HttpTellsSecrets(HttpFails):
    code = 403

    def initialize(self, handler, message):
        said = "%(Authorization)s %(X-Key)s" % handler.headers
        handler.respond(403, json.dumps(error(message["id"], -32000, said))
                        .encode())

    without_session = initialize


class HttpEndpoint(Http):
    """The old HTTP+SSE: one stream, and an endpoint for what is said."""

    path = "/sse"

    def __enter__(self):
        self.replies = []
        self.ready = threading.Condition()
        return super().__enter__()

    def endpoint(self):
        return "/message?sessionId=1"

    def get(self, handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.close_connection = True
        handler.wfile.write(b"event: endpoint\ndata: %s\n\n"
                            % self.endpoint().encode())
        while not self.over.is_set():
            with self.ready:
                if not self.replies:
                    self.ready.wait(0.1)
                replies, self.replies = self.replies, []
            for reply in replies:
                handler.wfile.write(event(reply))

    def say(self, handler, reply):
        if not handler.path.startswith("/message"):
            handler.respond(405)
            return
        handler.respond(202, b"Accepted", "text/plain")
        with self.ready:
            self.replies.append(reply)
            self.ready.notify_all()

    def initialize(self, handler, message):
        self.say(handler, initialized(message, changes=False))

    def without_session(self, handler, message):
        if message["method"] == "tools/list":
            self.say(handler, self.listing(message))
        else:
            self.say(handler, called(message))


class HttpEndpointElsewhere(HttpEndpoint):
    elsewhere = None

    def endpoint(self):
        return self.elsewhere


def faults():
    return {name: kind for name, kind in globals().items()
            if isinstance(kind, type) and issubclass(kind, Good)}


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        faults()[sys.argv[1]](sys.argv[2:] or TOOLS).run()
