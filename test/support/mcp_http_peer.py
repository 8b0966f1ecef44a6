#!/usr/bin/env python3
"""Cleat: an HTTP server that misbehaves on request. SPDX-License-Identifier: Apache-2.0

usage: mcp_http_peer.py FOLDER

Listens on ports of 127.0.0.1 (and, with TLS, of localhost) and prints one line

    http=PORT other=PORT tls=PORT ca=FILE wrong=FILE closed=PORT

then serves until its stdin ends. `other` is a second origin, `tls` speaks TLS
with a certificate for localhost that `ca` has signed (0 where there is no
openssl), `wrong` is another authority, and nobody listens on `closed`. What is
done is said by the path: the functions below named after it.
"""
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

FIN_WAIT1 = 4  # of tcp(7): nobody has acknowledged that we have ended

lock = threading.Lock()
arrived = {}   # (port, path): how many requests
secrets = {}   # the same: how many of them with an Authorization
ports = {}
go = threading.Event()
gone = threading.Event()


class Gone(Exception):
    """The client closed."""


class Connection:
    def __init__(self, client, port):
        self.client, self.port = client, port
        self.buffer = b""
        self.number = 0  # of the request on this connection, from 1

    def line(self):
        while b"\n" not in self.buffer:
            self.more()
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.rstrip(b"\r").decode("latin-1")

    def more(self):
        piece = self.client.recv(65536)
        if not piece:
            raise Gone
        self.buffer += piece

    def request(self):
        self.method, self.target, _ = self.line().split(" ")
        self.headers = []
        while line := self.line():
            name, value = line.split(":", 1)
            self.headers.append([name, value.strip()])
        length = int(self.header("content-length") or 0)
        while len(self.buffer) < length:
            self.more()
        self.body, self.buffer = self.buffer[:length], self.buffer[length:]
        self.path = self.target
        if self.path.startswith("http://"):  # as a proxy is asked
            self.path = "/" + self.path.split("/", 3)[3]
        self.path, _, self.query = self.path.partition("?")
        self.number += 1
        with lock:
            key = (self.port, self.path)
            arrived[key] = arrived.get(key, 0) + 1
            if self.header("authorization"):
                secrets[key] = secrets.get(key, 0) + 1

    def header(self, name):
        for other, value in self.headers:
            if other.lower() == name:
                return value
        return None

    def send(self, data):
        if isinstance(data, str):
            data = data.encode()
        try:
            self.client.sendall(data)
        except (OSError, ssl.SSLError):
            raise Gone from None

    def head(self, status, *headers):
        self.send("\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]))

    def reply(self, body, status="200 OK", kind="application/json", *headers):
        if isinstance(body, str):
            body = body.encode()
        self.head(status, f"Content-Length: {len(body)}",
                  *([f"Content-Type: {kind}"] if kind else []), *headers)
        self.send(body)

    def chunked(self, kind, status="200 OK", *headers):
        self.head(status, "Transfer-Encoding: chunked",
                  f"Content-Type: {kind}", *headers)

    def chunk(self, data):
        if isinstance(data, str):
            data = data.encode()
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def chunks(self, data, *cuts):
        """`data` in pieces that end at each of `cuts`."""
        if isinstance(data, str):
            data = data.encode()
        at = 0
        for cut in [*cuts, len(data)]:
            self.chunk(data[at:cut])
            at = cut
        self.chunk(b"")

    def reset(self):
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                               struct.pack("ii", 1, 0))
        self.close()

    def close(self):
        self.client.close()
        gone.set()
        raise Gone

    def end(self):
        """Closes once the client's system has heard of the end."""
        self.client.shutdown(socket.SHUT_WR)
        while self.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO,
                                     1)[0] == FIN_WAIT1:
            time.sleep(0.001)
        self.close()

    def until_told(self):
        """Until another request asks to tell."""
        go.wait()
        go.clear()

    def until_gone(self):
        """Says nothing, until the client has closed."""
        while True:
            self.more()


TEXT = '{"jsonrpc":"2.0","id":1,"result":{"text":"né 漢 😀"}}'


# ---- what is right -----------------------------------------------------------
def echo(c):
    c.reply(json.dumps({"method": c.method, "target": c.target,
                        "body": c.body.decode(),
                        "headers": {n.lower(): v for n, v in c.headers},
                        "count": len(c.headers)}, sort_keys=True))


def names(c):
    """Of the headers, and which letters the body has."""
    c.reply(json.dumps(sorted(name.lower() for name, _ in c.headers) +
                       sorted(set(c.body.decode()))))


def seen(c):
    """The query's path, on the query's port: how many came; with a secret."""
    port, path = c.query.split(",")
    with lock:
        key = (ports[port], path)
        count, told = arrived.get(key, 0), secrets.get(key, 0)
    c.reply(json.dumps({"arrived": count, "secrets": told}))


def tell(c):
    """Has who waits go on, until that connection is closed."""
    go.set()
    gone.wait()
    gone.clear()
    c.reply("")


def json_chunked(c):
    c.chunked("application/json")
    data = TEXT.encode()
    inside = data.index("漢".encode()) + 1
    c.chunks(data, 1, inside, inside + 1, len(data) - 1)


def json_parameters(c):
    c.reply(TEXT, "200 OK", "Application/JSON ; charset=UTF-8")


def json_to_the_end(c):
    c.head("200 OK", "Content-Type: application/json", "Connection: close")
    c.send(TEXT)
    raise Gone


def json_empty(c):
    c.reply("")


def large(c):
    c.reply('{"x":"' + "y" * (int(c.query) - 8) + '"}')


def accepted(c):
    c.head("202 Accepted", "Content-Length: 0")


def accepted_with_body(c):
    c.chunked("text/plain", "202 Accepted")
    c.chunks("Accepted")


def no_content(c):
    c.head("204 No Content")


def session(c):
    c.reply(TEXT, "200 OK", "application/json", "MCP-SESSION-ID:  ab-12~! ")


def informed(c):
    c.head("100 Continue")
    c.head("103 Early Hints", "Content-Type: text/html", "Mcp-Session-Id: x")
    c.reply(TEXT)


def trailers(c):
    c.chunked("application/json", "200 OK", "Trailer: Content-Type")
    c.chunk(TEXT)
    c.send("0\r\nContent-Type: text/html\r\nMcp-Session-Id: late\r\n\r\n")


def folded(c):
    c.head("200 OK", "Content-Type: application/json",
           f"Content-Length: {len(TEXT.encode())}",
           "X-Folded: one", " Mcp-Session-Id: folded")
    c.send(TEXT)


def folded_blank(c):
    c.head("200 OK", "X-Folded: one", " \t", "Content-Type: application/json",
           f"Content-Length: {len(TEXT.encode())}")
    c.send(TEXT)


def delete_only(c):
    if c.method == "DELETE":
        c.reply(TEXT)
    else:
        c.reply(ERROR, "405 Not Allowed")


# ---- streams -----------------------------------------------------------------
def stream(c):
    """As server-everything's, cut inside `data:` and inside UTF-8."""
    text = (f"id: 1\ndata: \n\nevent: message\nid: 2\ndata: {TEXT}\n\n"
            "retry: 250\nid: 3\ndata: two\ndata:lines\n\n")
    text = text.replace("\n", {"": "\n", "cr": "\r", "crlf": "\r\n"}[c.query])
    data = text.encode()
    c.chunked("text/event-stream; charset=utf-8")
    c.chunks(data, data.index(b"ta: {"), data.index("漢".encode()) + 1,
             data.index("😀".encode()) + 3, data.index(b"lines"))


def stream_bytes(c):
    c.chunked("text/event-stream")
    data = f": hello\r\n\r\nevent: message\r\ndata: {TEXT}\r\n\r\n".encode()
    c.chunks(data, *range(1, len(data)))


def stream_mark(c):
    c.chunked("text/event-stream")
    c.chunks("\ufeffdata: a\n\n\ufeffdata: b\n\nid: x\0y\nretry: 1x\n\n", 1, 2)


def stream_76k(c):
    c.chunked("text/event-stream")
    c.chunks('data: {"x":"' + "y" * (76 * 1024 - 8) + '"}\n\n', 20000, 60000)


def stream_unfinished(c):
    c.chunked("text/event-stream")
    c.chunks("data: whole\n\ndata: not whole\n")


def stream_cut(c):
    c.chunked("text/event-stream")
    c.chunk("data: one\n\ndata: tw")
    raise Gone


def stream_reset(c):
    c.chunked("text/event-stream")
    c.chunk("data: one\n\n")
    c.until_told()
    c.reset()


def stream_endless(c):
    """One event that never ends."""
    c.chunked("text/event-stream")
    while True:
        c.chunk("data: " + "x" * 4096 + "\n")


def stream_name(c):
    c.chunked("text/event-stream")
    c.chunks("event: endpoint\ndata: /message?sessionId=1\n\n"
             "event: ping\n\nevent: odd\nid\n\n")


def stream_open(c):
    """One event, and then the stream stays."""
    c.chunked("text/event-stream")
    c.chunk("data: one\n\n")
    c.until_gone()


def drip(c):
    """One comment after another, each line when the client wants it or not."""
    c.chunked("text/event-stream")
    while True:
        c.chunk(":\n")
        if threading.Event().wait(0.001):
            return


# ---- errors ------------------------------------------------------------------
ERROR = '{"jsonrpc":"2.0","error":{"code":-32000,"message":"no"},"id":null}'


def status(c):
    c.reply(ERROR, f"{c.query} Status", "application/json")


def status_plain(c):
    c.reply("<html>no</html>", f"{c.query} Status", "text/html")


def status_bare(c):
    c.head(f"{c.query} Status", "Content-Length: 0")


def busy(c):
    c.reply(ERROR, "429 Too Many", "application/json", "Retry-After: 7")


def busy_until(c):
    c.reply("", "503 Unavailable", "", "Date: Fri, 20 Nov 2026 21:41:01 GMT",
            "Retry-After: Fri, 20 Nov 2026 21:42:31 GMT")


def busy_oddly(c):
    c.reply("", "503 Unavailable", "", "Retry-After: soon")


def error_endless(c):
    c.chunked("text/html", "500 Error")
    while True:
        c.chunk("x" * 4096)


def error_large(c):
    c.chunked("application/json", "500 Error")
    while True:
        c.chunk("x" * 4096)


# ---- what is wrong -----------------------------------------------------------
def html(c):
    c.reply("<html>hello</html>", "200 OK", "Text/HTML; charset=utf-8")


def untyped(c):
    c.reply("hello", "200 OK", "")


def squeezed(c):
    c.reply(b"\x1f\x8b\x08", "200 OK", "application/json",
            "Content-Encoding: gzip")


def too_short(c):
    c.head("200 OK", "Content-Type: application/json", "Content-Length: 500")
    c.send(TEXT)
    raise Gone


def too_long(c):
    """In one piece: what comes later is, to a client, another answer."""
    c.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
           "Content-Length: 2\r\n\r\n{}" + TEXT)


def endless(c):
    c.chunked("application/json")
    while True:
        c.chunk("[" * 4096)


def headers_endless(c):
    c.send("HTTP/1.1 200 OK\r\n")
    while True:
        c.send("X-More: " + "y" * 500 + "\r\n")


def header_endless(c):
    """One line that never ends."""
    c.send("HTTP/1.1 200 OK\r\nX-More: ")
    while True:
        c.send("y" * 4096)


def trailer_endless(c):
    c.chunked("application/json")
    c.chunk(TEXT)
    c.send("0\r\nX-More: ")
    while True:
        c.send("y" * 4096)


def hints_endless(c):
    while True:
        c.head("103 Early Hints", "X-More: " + "y" * 500)


def silent(c):
    c.until_gone()


def silent_after_headers(c):
    c.chunked("application/json")
    c.until_gone()


def silent_in_body(c):
    c.chunked("application/json")
    c.chunk('{"x":')
    c.until_gone()


def hangs_up(c):
    raise Gone


def resets(c):
    c.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                        struct.pack("ii", 1, 0))
    raise Gone


def reset_in_body(c):
    c.chunked("application/json")
    c.chunk('{"x":')
    c.until_told()
    c.reset()


def closes_later(c):
    echo(c)
    c.until_told()
    c.end()


def first_only(c):
    """Answers a connection's first request; ends at the second one."""
    if c.number > 1:
        raise Gone
    echo(c)


def bad_chunk(c):
    c.chunked("application/json")
    c.send("zz\r\n{}\r\n")
    raise Gone


def old_protocol(c):
    c.send("hello\r\n")
    raise Gone


def bad_session(c):
    c.reply(TEXT, "200 OK", "application/json", "Mcp-Session-Id: a b")


def long_session(c):
    c.reply(TEXT, "200 OK", "application/json",
            "Mcp-Session-Id: " + "s" * 513)


# ---- redirects ---------------------------------------------------------------
def redirect(c):
    code, place = c.query.split(",", 1)
    place = place.replace("OTHER", str(ports["other"]))
    place = place.replace("SELF", str(c.port))
    c.reply("<html>there</html>", f"{code} There", "text/html",
            f"Location: {place}")


def redirect_loop(c):
    c.reply("", "307 There", "", "Location: redirect_loop")


def redirect_long(c):
    c.reply("", "307 There", "", "Location: /" + "x" * 9000)


def redirect_endless(c):
    c.chunked("text/html", "307 There", "Location: echo")
    while True:
        c.chunk("x" * 4096)


def serve(client, port):
    connection = Connection(client, port)
    try:
        while True:
            connection.request()
            globals()[connection.path.strip("/")](connection)
    except (Gone, OSError):
        pass
    finally:
        client.close()


def listen(port_name, context=None):
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    port = server.getsockname()[1]
    ports[port_name] = port

    def one(client):
        if context is not None:
            try:
                client = context.wrap_socket(client, server_side=True)
            except OSError:
                client.close()
                return
        serve(client, port)

    def accept():
        while True:
            client, _ = server.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=one, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_authority(folder, name):
    files = [os.path.join(folder, name + end) for end in (".key", ".pem")]
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
            f"/CN=Cleat test {name}", "-keyout", files[0], "-out", files[1])
    return files


def listen_tls(folder):
    key, authority = make_authority(folder, "ca")
    make_authority(folder, "wrong")
    mine = [os.path.join(folder, "server" + end)
            for end in (".key", ".csr", ".pem", ".ext")]
    with open(mine[3], "w", encoding="ascii") as file:
        file.write("subjectAltName=DNS:localhost\n")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-subj", "/CN=localhost", "-keyout", mine[0], "-out",
            mine[1])
    openssl("x509", "-req", "-in", mine[1], "-CA", authority, "-CAkey", key,
            "-CAcreateserial", "-days", "2", "-extfile", mine[3], "-out",
            mine[2])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mine[2], mine[0])
    listen("tls", context)


def main():
    folder = sys.argv[1]
    listen("http")
    listen("other")
    ports["tls"] = 0
    try:
        listen_tls(folder)
    except FileNotFoundError:
        pass
    # Bound for good: nobody else can listen there.
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    ports["closed"] = closed.getsockname()[1]
    print(f"http={ports['http']} other={ports['other']} tls={ports['tls']} "
          f"ca={folder}/ca.pem wrong={folder}/wrong.pem "
          f"closed={ports['closed']}", flush=True)
    sys.stdin.buffer.read()


main()
