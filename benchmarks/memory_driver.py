"""One sample of the proxy between two transports in memory: `python memory_driver.py [--bytes]`.

Owns: what is timed. Run by `in_memory`, by the product's own Python, with the checkout whose `sidecar` and `tests` it
measures as PYTHONPATH. Prints a JSON object: CPU time of this thread in microseconds, `request` for one request and its
answer, and with `--bytes` `down` and `up` for a MiB of a body of 1 GiB.
Rule: of many short runs the quickest counts. Whatever else the machine does makes a run slower, and none quicker.
"""

import asyncio
import gc
import json
import sys
import time

from sidecar.proxy.http1.downstream import DownstreamConnection
from tests.conformance.memory import Line, Memory, make

RUNS, REQUESTS = 60, 200
PIECE, PIECES = bytes(256 * 1024), 4096
EACH = 64
"""Pieces that are timed together."""
REQUEST = (
    b"GET /v1/things?x=1 HTTP/1.1\r\nHost: billing.internal\r\nUser-Agent: python/3.11\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip\r\nX-Request-Id: 0123456789abcdef\r\n\r\n"
)
UPLOAD = b"PUT /v1/things HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: %d\r\n\r\n"
DOWNLOAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def connected(memory: Memory) -> Line:
    """A new connection of an app."""
    return Line(memory.turns, DownstreamConnection(memory.proxy.context, memory.proxy, memory.owner))


def request(memory: Memory) -> float:
    """Microseconds of one request and its answer."""
    app, best = connected(memory), float("inf")
    for _ in range(RUNS):
        began = time.thread_time()
        for _ in range(REQUESTS):
            app.deliver(REQUEST)
            memory.settle()
            app.written = b""
            memory.upstream.requests.clear()
        best = min(best, time.thread_time() - began)
    return best / REQUESTS * 1e6


def stream(memory: Memory, source: Line, sink: Line) -> float:
    """Microseconds of a MiB from one end to the other."""
    best = float("inf")
    for _ in range(PIECES // EACH):
        began = time.thread_time()
        for _ in range(EACH):
            source.deliver(PIECE)
            memory.settle()
            assert len(sink.written) == len(PIECE)
            sink.written = b""
        best = min(best, time.thread_time() - began)
    return best / (EACH * len(PIECE)) * 2**20 * 1e6


def down(memory: Memory) -> float:
    """Of an answer's body."""
    memory.upstream.answer = DOWNLOAD % (len(PIECE) * PIECES)
    app = connected(memory)
    app.deliver(REQUEST)
    memory.settle()
    app.written = b""
    return stream(memory, memory.upstream.lines[-1], app)


def up(memory: Memory) -> float:
    """Of a request's body."""
    memory.upstream.waits = True
    app = connected(memory)
    app.deliver(UPLOAD % (len(PIECE) * (PIECES + 1)))
    app.deliver(PIECE)
    memory.settle()
    target = memory.upstream.lines[-1]
    target.written = b""
    return stream(memory, app, target)


def main() -> None:
    """Measure, with nothing for the collector to do meanwhile."""
    measured = [request, down, up] if "--bytes" in sys.argv else [request]
    loop = asyncio.new_event_loop()
    found = {}
    for measure in measured:
        memory = loop.run_until_complete(make())
        gc.freeze()
        gc.disable()
        found[measure.__name__] = measure(memory)
        gc.enable()
    print(json.dumps(found))
    loop.close()


if __name__ == "__main__":
    main()
