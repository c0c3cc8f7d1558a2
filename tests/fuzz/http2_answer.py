"""Frames from an upstream that speaks HTTP/2: a byte that says what was asked, four that say where the frames are cut, then
the frames, which come behind its SETTINGS once the request is there.

The app speaks HTTP/1.1, so that a strict reader judges what it gets: one answer, with the bytes of the DATA frames of its
stream and no others, whole only where the stream has ended.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sidecar.proxy.http1.downstream import DownstreamConnection
from tests.conformance.memory import Line, Memory
from tests.fuzz import reference
from tests.fuzz.stage import Finding, Stage, expect, on_stage, places
from tests.support import h2_frames as h2

_HOST: Final = b"Host: billing.internal\r\n"
_ASKED: Final = (
    b"GET /x HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"HEAD /x HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"POST /x HTTP/1.1\r\n" + _HOST + b"Content-Length: 2\r\n\r\nhi",
    b"PUT /x HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
)
"""The requests that may be under way, the last one with more of its body to come: the two lowest bits choose."""
_ENDS: Final = 8
"""A bit: the upstream ends its connection after the frames."""
_TURNS: Final = 4
"""Turns of the event loop after which nothing more comes of what was done."""


def target(data: bytes) -> None:
    """Raise a Finding where the app gets what the upstream did not send it, or the sidecar has a fault, or holds on to
    something."""
    on_stage(_play, data, "http2")


def _play(stage: Stage, data: bytes) -> None:
    flags, cuts, stream = data[0] if data else 0, data[1:5], data[5:]
    _verdict(stage, flags, stream, ())
    if pieces := places(cuts, len(stream)):
        _verdict(stage, flags, stream, pieces)


def _verdict(stage: Stage, flags: int, stream: bytes, pieces: tuple[int, ...]) -> None:
    stage.memory.turns.taken = 0
    app = stage.loop.run_until_complete(_one(stage.memory, flags, stream, pieces))
    _judge(flags, stream, app)
    stage.check(len(stream) + 1000)


async def _one(memory: Memory, flags: int, stream: bytes, pieces: tuple[int, ...]) -> Line:
    """Ask, be answered by `stream`, and end both connections."""
    memory.upstream.waits = True  # what comes is HTTP/2, and for nobody here to read
    connection = DownstreamConnection(memory.proxy.context, memory.proxy, memory.owner)
    app = Line(memory.turns, connection)
    app.deliver(_ASKED[flags & 3])
    # The dial has made its connection by then, and the request is sent once SETTINGS have come.
    await _settle(memory)
    (line,) = memory.upstream.lines
    line.deliver(h2.settings() + h2.SETTINGS_ACK)
    await _settle(memory)
    for start, end in zip((0, *pieces), (*pieces, len(stream)), strict=True):
        line.deliver(stream[start:end])
        await _settle(memory)
    if flags & _ENDS:
        line.close()
        await _settle(memory)
    app.ended = app.ended or app.gone
    app.close()
    await _settle(memory)
    line.close()
    await _settle(memory)
    for one in memory.upstream.lines:
        one.close()
    await _settle(memory)
    memory.upstream.lines.clear()
    return app


async def _settle(memory: Memory) -> None:
    for _ in range(_TURNS):
        memory.turns.run()
        await asyncio.sleep(0)


def _judge(flags: int, stream: bytes, app: Line) -> None:
    method = _ASKED[flags & 3].partition(b" ")[0]
    expect(b"Bearer " not in app.written, "a token went to the app")
    try:
        given = reference.read_answer(app.written, method, ended=False)
    except reference.Incomplete:
        return  # no answer, or not its whole head, and nothing else
    except reference.Malformed as what:
        raise Finding(f"the app got what is no answer ({what!r}): {app.written[:300]!r}") from what
    expect(not given.rest, "more than one answer", app.written[:300])
    expect(not given.malformed, "chunks that make no sense", app.written[:300])
    own = any(
        name == b"proxy-status" and value.startswith(b"idtoken-sidecar;") for name, value in given.fields
    )
    if own:
        expect(given.status in (502, 503), "a status of its own", app.written[:300])
        return
    body, ended = _sent(stream)
    if given.whole and given.body:
        expect(ended, "half an answer as a whole one", app.written[:300])
        expect(given.body == body, "another body", given.body, body)
    expect(body.startswith(given.body), "bytes that nobody sent", given.body, body)


def _sent(stream: bytes) -> tuple[bytes, bool]:
    """What the DATA frames of the first stream hold, and whether a frame has ended it."""
    body, ended = b"", False
    for frame in h2.FrameReader().feed(stream):
        if frame.stream == 1 and frame.kind == h2.DATA and not ended:
            padded = frame.flags & h2.PADDED
            if padded and (not frame.payload or frame.payload[0] >= len(frame.payload)):
                break
            body += h2.body(frame)
        if frame.stream == 1 and frame.kind in (h2.DATA, h2.HEADERS):
            ended = ended or bool(frame.flags & h2.END_STREAM)
    return body, ended
