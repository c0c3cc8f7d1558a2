"""Requests through the proxy between two transports in memory, to count their instructions.

Owns: what is played, in HTTP/1.1 and in HTTP/2 on both sides, and the marks between the parts that are counted. Run by
`instructions`, under valgrind, by the Python whose installed `sidecar` is measured; this checkout comes last on the
path, for `tests.conformance.memory`. Without `--counted` it prints the CPU time of a request in microseconds.
Rule: a mark is a call of getpriority(2), which nothing else here makes: valgrind is told to write down its count before
each. Everything else is the same each time: the order of hashes (PYTHONHASHSEED), time, and no garbage collector.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

import interpreter

from sidecar.proxy.http1 import downstream
from sidecar.runtime.tasks import Tasks
from tests.conformance.memory import ROUTE, Line, Memory, Turns, Upstream, make

WARM_UP = 50
"""Requests before the first that counts: by then every cache has its entry."""
BODY = bytes(1024)
FIELDS = (
    (b"user-agent", b"python/3.11"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip"),
    (b"x-request-id", b"0123456789abcdef"),
)
ANSWER_FIELDS = (
    (b"content-type", b"application/json"),
    (b"date", b"Mon, 30 Nov 2026 12:00:00 GMT"),
    (b"server", b"example"),
)
CALL_FIELDS = (
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-python-asyncio/1.76.0 grpc-c/51.0.0 (linux; chttp2)"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
    (b"accept-encoding", b"identity, gzip"),
)
CALL_ANSWER_FIELDS = (
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
    (b"accept-encoding", b"identity, gzip"),
)
STATUS = (b"grpc-status", b"0"), (b"grpc-message", b"")
MESSAGE = b"\0\0\0\1\0" + bytes(256)
"""One of gRPC's, with its prefix of five bytes."""

Play = Callable[[], None]
"""One request and its answer."""


def lines(fields: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Header lines of HTTP/1.1."""
    return b"".join(b"%s: %s\r\n" % field for field in fields)


class Http1Target(Upstream):
    """Answers each head of HTTP/1.1 with a kilobyte."""

    def __init__(self, turns: Turns) -> None:
        super().__init__(turns)
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n%s\r\n%s" % (lines(ANSWER_FIELDS), BODY)

    def read(self, line: Line) -> None:
        """See `Upstream`."""
        if line.written.endswith(b"\r\n\r\n"):
            line.written = b""
            line.deliver(self.answer)


def http1(memory: Memory) -> Play:
    """On one connection, one request after the other."""
    request = b"GET /v1/things?x=1 HTTP/1.1\r\nHost: billing.internal\r\n%s\r\n" % lines(FIELDS)
    app = connected(memory)

    def play() -> None:
        app.deliver(request)
        memory.settle()
        assert app.written.endswith(BODY)
        app.written = b""

    return play


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One of HTTP/2 (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0x0, 0x1, 0x4, 0x8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
WINDOW = 2**31 - 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OPENING = (
    # SETTINGS_INITIAL_WINDOW_SIZE, and as much for the connection: no credit is due in between.
    frame(SETTINGS, 0, 0, b"\x00\x04" + WINDOW.to_bytes(4, "big"))
    + frame(SETTINGS, ACK, 0)
    + frame(WINDOW_UPDATE, 0, 0, (WINDOW - 65_535).to_bytes(4, "big"))
)


class Blocks:
    """Field blocks as a client or a server sends them: written out once, then by their index (RFC 7541 section 6)."""

    def __init__(self, static: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> None:
        self.first = static + b"".join(
            b"\x40" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields
        )
        """Literals with incremental indexing."""
        self.later = static + bytes(0x80 | 62 + index for index in reversed(range(len(fields))))

    def next(self) -> bytes:
        """The block of the next message."""
        block, self.first = self.first, self.later
        return block


class Http2Target(Upstream):
    """Answers each end of a request with a kilobyte, in the same stream."""

    def __init__(self, turns: Turns) -> None:
        super().__init__(turns)
        self._blocks = Blocks(b"\x88", ANSWER_FIELDS)  # :status 200

    def frames(self, stream: int) -> bytes:
        """The frames of an answer."""
        return frame(HEADERS, END_HEADERS, stream, self._blocks.next()) + frame(
            DATA, END_STREAM, stream, BODY
        )

    def read(self, line: Line) -> None:
        """See `Upstream`. What the sidecar writes is whole frames."""
        written, line.written = line.written, b""
        at = 0
        if written.startswith(PREFACE):
            at = len(PREFACE)
            line.deliver(OPENING)
        while at < len(written):
            stream = int.from_bytes(written[at + 5 : at + 9], "big")
            if reply := self.reply(written[at + 3], written[at + 4], stream):
                line.deliver(reply)
            at += 9 + int.from_bytes(written[at : at + 3], "big")

    def reply(self, kind: int, flags: int, stream: int) -> bytes:
        """What is sent for one frame; for most nothing."""
        return self.frames(stream) if flags & END_STREAM and kind in (HEADERS, DATA) else b""


class GrpcTarget(Http2Target):
    """Answers each call with a message and its status."""

    def __init__(self, turns: Turns) -> None:
        super().__init__(turns)
        self._blocks = Blocks(b"\x88", CALL_ANSWER_FIELDS)
        self._statuses = Blocks(b"", STATUS)

    def frames(self, stream: int) -> bytes:
        """See the base: a head, a message, and trailers."""
        head = frame(HEADERS, END_HEADERS, stream, self._blocks.next()) + frame(DATA, 0, stream, MESSAGE)
        return head + frame(HEADERS, END_HEADERS | END_STREAM, stream, self._statuses.next())


class EchoTarget(Http2Target):
    """Answers a call's head with a head, and each message with the same."""

    def __init__(self, turns: Turns) -> None:
        super().__init__(turns)
        self._blocks = Blocks(b"\x88", CALL_ANSWER_FIELDS)

    def reply(self, kind: int, flags: int, stream: int) -> bytes:
        """See the base."""
        if kind == HEADERS:
            return frame(HEADERS, END_HEADERS, stream, self._blocks.next())
        return frame(DATA, 0, stream, MESSAGE) if kind == DATA else b""


def http2(memory: Memory) -> Play:
    """On one connection, one stream after the other."""
    # :method GET, :scheme http
    blocks = Blocks(
        b"\x82\x86", ((b":path", b"/v1/things?x=1"), (b":authority", b"billing.internal"), *FIELDS)
    )
    return streams(
        memory, lambda stream: frame(HEADERS, END_STREAM | END_HEADERS, stream, blocks.next()), BODY
    )


def grpc(memory: Memory) -> Play:
    """Unary calls, one after the other."""
    # :method POST, :scheme http
    path, authority = (b":path", b"/billing.Invoices/Get"), (b":authority", b"billing.internal")
    blocks = Blocks(b"\x83\x86", (path, authority, *CALL_FIELDS))

    def call(stream: int) -> bytes:
        return frame(HEADERS, END_HEADERS, stream, blocks.next()) + frame(DATA, END_STREAM, stream, MESSAGE)

    trailers = len(
        frame(HEADERS, 0, 0, bytes(len(STATUS)))
    )  # from the second call on, an index for each line
    return streams(memory, call, MESSAGE, trailers)


def message(memory: Memory) -> Play:
    """One message of a stream after the other, there and back."""
    # :method POST, :scheme http
    path, authority = (b":path", b"/billing.Invoices/Watch"), (b":authority", b"billing.internal")
    head = Blocks(b"\x83\x86", (path, authority, *CALL_FIELDS)).next()
    app = connected(memory)
    app.deliver(PREFACE + OPENING + frame(HEADERS, END_HEADERS, 1, head))
    memory.settle()
    app.written = b""

    def play() -> None:
        app.deliver(frame(DATA, 0, 1, MESSAGE))
        memory.settle()
        assert app.written.endswith(MESSAGE)
        app.written = b""

    return play


def streams(memory: Memory, request: Callable[[int], bytes], body: bytes, behind: int = 0) -> Play:
    """One request after the other on one connection of HTTP/2; `body` must come back, so many bytes before the end."""
    app = connected(memory)
    app.deliver(PREFACE + OPENING)
    memory.settle()
    app.written = b""
    stream = 1

    def play() -> None:
        nonlocal stream
        app.deliver(request(stream))
        memory.settle()
        assert stream == 1 or app.written[-len(body) - behind : len(app.written) - behind] == body, (
            app.written
        )
        app.written = b""
        stream += 2

    return play


def connected(memory: Memory) -> Line:
    """A new connection of an app."""
    return Line(
        memory.turns, downstream.DownstreamConnection(memory.proxy.context, memory.proxy, memory.owner)
    )


KINDS = {
    "http1": ("http1", Http1Target, http1),
    "http2": ("http2", Http2Target, http2),
    "grpc": ("http2", GrpcTarget, grpc),
    "message": ("http2", EchoTarget, message),
}
"""The protocol of its route, its target, and what an app sends."""


def prepare(loop: asyncio.AbstractEventLoop, kind: str) -> Play:
    """A proxy that has had its first requests."""
    protocol, target, play = KINDS[kind]
    text = ROUTE.replace("}", f", protocol: {protocol}}}")
    memory = loop.run_until_complete(make(text, target, Tasks))
    playing = play(memory)
    for _ in range(WARM_UP):
        playing()
    return playing


def begin_counting() -> None:
    """Have valgrind instrument from here on: what comes before would take a minute."""
    # It looks for commands now and then while the process runs. One that sleeps would have to be woken by ptrace, which
    # containers may forbid.
    command = ["vgdb", f"--pid={os.getpid()}", "--max-invoke-ms=0", "instrumentation on"]
    asked = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while (status := asked.poll()) is None:
        pass
    if status:
        sys.exit(f"vgdb ended with {status}: is this process run by valgrind?")


def mark() -> None:
    """Where a part ends, and the next begins."""
    os.getpriority(os.PRIO_PROCESS, 0)


def count(playing: Play, requests: int) -> None:
    """So many requests, between two marks."""
    mark()
    for _ in range(requests):
        playing()
    mark()


def quickest(playing: Play, requests: int) -> float:
    """CPU time of a request, in microseconds: the best of twenty runs."""
    best = float("inf")
    for _ in range(20):
        began = time.thread_time()
        for _ in range(requests):
            playing()
        best = min(best, time.thread_time() - began)
    return best / requests * 1e6


def who() -> str:
    """Whose instructions these are: this Python as it was compiled, and whether its `sidecar` was."""
    python = interpreter.this()
    facts = [
        platform.python_implementation(),
        "{}.{}".format(*sys.version_info),
        platform.machine(),
        python.compiler,
        *python.marks(),
        "pure" if (downstream.__file__ or "").endswith(".py") else "compiled",
    ]
    return " ".join(facts)


def main() -> None:
    """Prepare every kind, and then play each, with nothing for the collector to do."""
    parser = argparse.ArgumentParser(prog="instructions_driver.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "kinds", nargs="*", default=list(KINDS), help=f"of {', '.join(KINDS)}; all of them by default"
    )
    parser.add_argument("--requests", type=int, default=200, metavar="N")
    parser.add_argument(
        "--counted", action="store_true", help="under valgrind: mark the parts, print nothing"
    )
    parser.add_argument(
        "--who", action="store_true", help="say whose instructions would be counted, and do nothing"
    )
    asked = parser.parse_args()
    if asked.who:
        print(who())
        return
    loop = asyncio.new_event_loop()
    playing = {kind: prepare(loop, kind) for kind in asked.kinds}
    gc.freeze()
    gc.disable()
    if asked.counted:
        begin_counting()
        for play in playing.values():
            count(play, asked.requests)
    else:
        print(json.dumps({kind: round(quickest(play, asked.requests), 2) for kind, play in playing.items()}))
    sys.stdout.flush()
    os._exit(0)  # nothing is left to be done


if __name__ == "__main__":
    main()
