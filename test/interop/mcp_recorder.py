"""Cleat: speaks to an MCP server by hand, and keeps the bytes that it sent.
SPDX-License-Identifier: Apache-2.0

No MCP library, no JSON library but Python's own, which is only asked where a
value ends: what is compared later are slices of what came over the wire.
"""
import http.client
import json
import subprocess
import urllib.parse

WATCHDOG_S = 60
DECODER = json.JSONDecoder()
SPACE = " \t\r\n"


# ---- slices -----------------------------------------------------------------
def skip(text, at):
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def end_of(text, at):
    """Where the value ends that starts at `at`."""
    return DECODER.raw_decode(text, at)[1]


def members(text):
    """The members of an object, each value as it was written."""
    found = {}
    at = skip(text, 0)
    if text[at] != "{":
        raise ValueError("no object")
    at = skip(text, at + 1)
    while text[at] != "}":
        key, at = DECODER.raw_decode(text, at)
        at = skip(text, skip(text, at) + 1)  # over the colon
        end = end_of(text, at)
        found[key] = text[at:end]
        at = skip(text, end)
        if text[at] == ",":
            at = skip(text, at + 1)
    return found


def items(text):
    """The items of an array, each as it was written."""
    found = []
    at = skip(text, skip(text, 0) + 1)
    while text[at] != "]":
        end = end_of(text, at)
        found.append(text[at:end])
        at = skip(text, end)
        if text[at] == ",":
            at = skip(text, at + 1)
    return found


# ---- what is said -----------------------------------------------------------
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {},
              "clientInfo": {"name": "recorder", "version": "1"}}
META = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                  "io.modelcontextprotocol/clientInfo":
                      {"name": "recorder", "version": "1"},
                  "io.modelcontextprotocol/clientCapabilities": {}}}


def request(number, method, params):
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method,
                       "params": params}).encode()


INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


def answer_to(number, text):
    """The members of a message, if it answers the request of that number."""
    message = members(text)
    if message.get("id") != str(number):
        return None
    if "result" not in message:
        raise RuntimeError("the server refused: " + text)
    return message


class Listed:
    """A list: each tool's JSON, and what the result says of its freshness."""

    def __init__(self, message):
        result = members(message["result"])
        if "nextCursor" in result:
            raise RuntimeError("more than one page")
        self.tools = items(result["tools"])
        self.ttl_ms = result.get("ttlMs")
        self.bytes = len(message["result"].encode())


# ---- stdio ------------------------------------------------------------------
def record_stdio(command, environment, modern):
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        def ask(number, method, params):
            process.stdin.write(request(number, method, params) + b"\n")
            process.stdin.flush()
            for line in process.stdout:
                found = answer_to(number, line.decode())
                if found:
                    return found
            raise RuntimeError("the server has gone")

        try:
            if modern:
                return Listed(ask(1, "tools/list", META))
            ask(1, "initialize", INITIALIZE)
            process.stdin.write(INITIALIZED + b"\n")
            return Listed(ask(2, "tools/list", {}))
        finally:
            process.stdin.close()
            process.kill()
            process.wait()


# ---- HTTP -------------------------------------------------------------------
def events(lines):
    """(event, data) of a stream of server-sent events."""
    event, data = "message", []
    for line in lines:
        line = line.decode().rstrip("\r\n")
        if line == "":
            if data:
                yield event, "\n".join(data)
            event, data = "message", []
        elif line.startswith("event:"):
            event = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))


def connect(url):
    parts = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port,
                                      timeout=WATCHDOG_S), parts.path


def post(url, body, headers):
    """Posts one message. Gives the messages that come back, and the session."""
    connection, path = connect(url)
    connection.request("POST", path, body, {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream", **headers})
    response = connection.getresponse()
    session = response.getheader("Mcp-Session-Id")
    if response.status not in (200, 202):
        raise RuntimeError(f"{response.status}: {response.read()!r}")
    if response.getheader("Content-Type", "").startswith("text/event-stream"):
        messages = [data for _, data in events(response) if data]
    else:
        text = response.read().decode()
        messages = [text] if response.status == 200 else []
    connection.close()
    return messages, session


def the_answer(number, messages):
    for text in messages:
        found = answer_to(number, text)
        if found:
            return found
    raise RuntimeError(f"no answer to {number}")


def record_http(url, modern):
    if modern:
        messages, _ = post(url, request(1, "tools/list", META), {
            "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"})
        return Listed(the_answer(1, messages))
    messages, session = post(url, request(1, "initialize", INITIALIZE), {})
    the_answer(1, messages)
    headers = {"MCP-Protocol-Version": "2025-11-25"}
    if session:
        headers["Mcp-Session-Id"] = session
    post(url, INITIALIZED, headers)
    messages, _ = post(url, request(2, "tools/list", {}), headers)
    listed = Listed(the_answer(2, messages))
    if session:
        connection, path = connect(url)
        connection.request("DELETE", path, headers=headers)
        connection.getresponse().read()
        connection.close()
    return listed


def record_sse(url):
    connection, path = connect(url)
    connection.request("GET", path, headers={"Accept": "text/event-stream"})
    stream = events(connection.getresponse())
    event, endpoint = next(stream)
    if event != "endpoint":
        raise RuntimeError(f"the stream begins with {event}")
    endpoint = urllib.parse.urljoin(url, endpoint)

    def tell(body):
        parts = urllib.parse.urlsplit(endpoint)
        other, _ = connect(endpoint)
        other.request("POST", f"{parts.path}?{parts.query}", body,
                      {"Content-Type": "application/json"})
        other.getresponse().read()
        other.close()

    def ask(number, method, params):
        tell(request(number, method, params))
        for _, data in stream:
            found = answer_to(number, data)
            if found:
                return found
        raise RuntimeError("the stream has ended")

    ask(1, "initialize", INITIALIZE)
    tell(INITIALIZED)
    listed = Listed(ask(2, "tools/list", {}))
    connection.close()
    return listed


def record(server, era):
    """server: an entry of "mcpServers"; era: legacy or modern."""
    if "command" in server:
        return record_stdio([server["command"], *server["args"]],
                            server["env"], era == "modern")
    if server["transport"] == "sse":
        return record_sse(server["url"])
    return record_http(server["url"], era == "modern")
