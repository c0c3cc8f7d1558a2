"""Flow control: every byte of a body is given back to the connection's window, whatever becomes of its stream.

A window that is not given back stalls every stream of the connection in the end (golang/go issues 40423 and 28204, envoy
issue 40085, nghttp2 issue 253). So each side sends more than two windows' worth of bytes on one connection, keeps to the
windows that it is given, and loses streams on the way; what leaks shows as a wait without an end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from typing import Final

import pytest

from tests.conformance.http2.app import App
from tests.conformance.http2.sections import get, post
from tests.conformance.http2.target import Connection, Request, Target
from tests.support import h2_frames as h2
from tests.support.h2_frames import Fields, data, headers, rst_stream, settings, window_update
from tests.support.process import SidecarProcess
from tests.support.sidecar import LIMIT

WINDOWS: Final = 2.2
"""How often the connection's window is used up."""
LEAST, MOST = 150_000, 250_000
"""Bytes of a body: below a stream's window, so that it is all on its way before its fate shows."""
WIDE: Final = h2.PREFACE + settings((h2.INITIAL_WINDOW_SIZE, 1 << 20)) + window_update(0, 1 << 30)
"""The app's own windows, which no test here is about."""


def frames(stream: int, size: int, *, end: bool) -> bytes:
    """DATA of so many bytes."""
    sizes = [min(h2.MAX_FRAME, size - start) for start in range(0, size, h2.MAX_FRAME)]
    return b"".join(data(stream, bytes(piece), end=False) for piece in sizes) + (
        data(stream, b"") if end else b""
    )


class Kind:
    """What becomes of a stream that carries a body."""

    def __init__(
        self, path: bytes, *, host: bytes = b"billing.internal", ends: bool = False, cancels: bool = False
    ) -> None:
        self.fields: Fields = [
            (name, {b":path": path, b":authority": host}.get(name, value)) for name, value in post()
        ]
        self.ends = ends
        """Whether its body has an end."""
        self.cancels = cancels
        """Whether the app resets it at once."""


UPLOADS: Final = {
    "whole": Kind(b"/take", ends=True),
    "cancelled": Kind(b"/take", cancels=True),
    "answered-early": Kind(b"/early"),
    "reset-by-the-target": Kind(b"/reset"),
    "no-route": Kind(b"/take", host=b"unknown.internal"),
}


def on_head(connection: Connection, request: Request) -> None:
    """What the target does with an upload when its head has come."""
    answer: Fields = [(b":status", b"413")]
    if request.all(b":path") == [b"/early"]:
        connection.send(headers(request.stream, answer) + rst_stream(request.stream, h2.NO_ERROR))
    elif request.all(b":path") == [b"/reset"]:
        connection.send(rst_stream(request.stream, h2.INTERNAL_ERROR))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.test_all) for name in UPLOADS), "all"]
)
def test_an_apps_window(sidecar: SidecarProcess, target: Target, name: str) -> None:
    """Of every byte that it has sent."""
    target.forget()
    target.began = on_head
    chance = random.Random(name)  # noqa: S311  # so that a run can be repeated
    with App(sidecar.port, settings=WIDE) as app:
        assert app.until(lambda: app.settled > 0, LIMIT)
        assert app.pong(patience=LIMIT)
        sent, first = 0, h2.WINDOW + sum(app.stream(0).updates)
        for stream in count(1, 2):
            kind = UPLOADS[chance.choice(list(UPLOADS)) if name == "all" else name]
            size = chance.randrange(LEAST, MOST)
            has_room = room(app, lambda sent=sent, size=size: sent + size)
            assert app.until(has_room, LIMIT), f"no credit comes back: {sent} bytes of {first} were sent"
            app.send(
                headers(stream, kind.fields, end=False) + frames(stream, size, end=kind.ends), patience=LIMIT
            )
            sent += size
            if kind.cancels:
                app.send(rst_stream(stream))
            else:
                assert app.until(lambda stream=stream: app.stream(stream).is_over, LIMIT)
            assert app.goaway is None, h2.CODES[app.goaway]
            if sent > WINDOWS * first:
                break
        app.send(headers(stream + 2, get()))
        assert app.until(lambda: app.stream(stream + 2).is_over, LIMIT)
        assert app.stream(stream + 2).status == 200


def room(app: App, wanted: Callable[[], int]) -> Callable[[], bool]:
    """Whether the connection's window holds so many bytes in all."""
    return lambda: h2.WINDOW + sum(app.stream(0).updates) >= wanted()


DOWNLOADS: Final = ("whole", "cancelled-when-forwarded", "cancelled-when-begun")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.test_all) for name in DOWNLOADS), "all"]
)
def test_a_targets_window(sidecar: SidecarProcess, target: Target, name: str) -> None:
    """Of every byte that it has answered."""
    target.drop()
    target.forget()
    chance = random.Random(name)  # noqa: S311  # so that a run can be repeated
    stalls: list[int] = []

    def answer(connection: Connection, request: Request) -> None:
        size = int(request.all(b":path")[0].rpartition(b"/")[2])
        room = connection.room(request.stream)
        if room < size:
            stalls.append(room)
        size = max(0, min(size, room))
        connection.sent(request.stream, size)
        connection.send(
            headers(request.stream, [(b":status", b"200")], end=False)
            + frames(request.stream, size, end=True)
        )

    target.answer = answer
    with App(sidecar.port, settings=WIDE) as app:
        for stream in count(1, 2):
            kind = chance.choice(DOWNLOADS) if name == "all" else name
            number = len(target.begun)
            app.send(headers(stream, get(b"/bytes/%d" % chance.randrange(LEAST, MOST))))
            if kind == "cancelled-when-forwarded":
                app.until(lambda number=number: len(target.begun) > number, LIMIT)
            if kind == "cancelled-when-begun":
                app.until(lambda stream=stream: bool(app.stream(stream).heads), LIMIT)
            if kind == "whole":
                assert app.until(lambda stream=stream: app.stream(stream).is_over, LIMIT)
            else:
                app.send(rst_stream(stream))
                app.pong(b"%08d" % stream)
            assert app.goaway is None, h2.CODES[app.goaway]
            if any(each.spent > WINDOWS * each.first_room for each in target.connections if each.spent):
                break
        assert stalls == []
        app.send(headers(stream + 2, get(b"/bytes/1")))
        assert app.until(lambda: app.stream(stream + 2).is_over, LIMIT)
