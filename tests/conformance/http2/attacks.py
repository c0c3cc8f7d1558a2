"""Floods and bombs of an app: RFC 9113 section 10.5, and what has been found since in every implementation.

Each is one connection that goes on until the proxy ends it, or until all is sent. A proxy that bounds one says so by ending the
connection, or takes all of it at a bounded cost of CPU and memory (`absorbs`), or stops to read (`holds`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from tests.conformance.http2.app import App
from tests.conformance.http2.sections import get, post
from tests.support import h2_frames as h2
from tests.support.h2_frames import (
    block,
    data,
    frame,
    headers,
    integer,
    ping,
    rst_stream,
    settings,
    window_update,
)

SLOW_SECONDS: Final = 10
SLOW_RATE: Final = 1000
"""Frames a second of a slow flood: below what one read brings, above what an app has any use for."""


class Attack(NamedTuple):
    """One way to spend another's CPU or memory."""

    name: str
    what: str
    frames: Callable[[], Iterable[bytes]]
    """What is sent, one unit after the other."""
    first: bytes = b""
    """What is sent before, and answered or read before the units begin."""
    deaf: bool = False
    """Whether the app reads nothing."""
    slow: bool = False
    """Whether the units come at SLOW_RATE a second."""
    must_end: bool = True
    """Whether the sidecar ends the connection: what no app does, however busy."""
    settings: bytes = b""
    """Of its first frame."""


def _times(count: int, unit: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: (unit for _ in range(count))


def _streams(count: int, unit: Callable[[int], bytes]) -> Callable[[], Iterator[bytes]]:
    return lambda: (unit(1 + 2 * number) for number in range(count))


_GET: Final = block(get())
_POST: Final = block(post())


def _open(stream: int) -> bytes:
    return headers(stream, _POST, end=False)


def _rapid_reset(stream: int) -> bytes:
    return headers(stream, _GET) + rst_stream(stream)


def _window_of_zero(stream: int) -> bytes:
    return _open(stream) + window_update(stream, 0)


def _window_too_large(stream: int) -> bytes:
    return _open(stream) + window_update(stream, (1 << 31) - 1)


def _body_too_long(stream: int) -> bytes:
    return headers(stream, post((b"content-length", b"0")), end=False) + data(stream, b"x", end=False)


def _half(stream: int) -> bytes:
    return headers(stream, _GET, end=False) + frame(h2.PRIORITY, 0, stream, bytes(4))


def _malformed(stream: int) -> bytes:
    return headers(stream, block(get(b"/x", (b"X-Upper", b"a"))))


def _priority_of_idle(stream: int) -> bytes:
    return h2.priority(stream + 2, 0)


_LONG: Final = b"\x40" + integer(4, 7) + b"x-ab" + integer(4000, 7) + b"a" * 4000
"""A field that fills the dynamic table."""


def _bomb(stream: int) -> bytes:
    """A block of one byte for each 4 kB: the field that the one before has indexed."""
    return headers(stream, _GET + b"\xbe" * (h2.MAX_FRAME - len(_GET) - 100))


_CONTINUED: Final = block([(b"x-%d" % n, b"a" * 100) for n in range(130)])

# fmt: off
FAST: Final = (
    Attack("rapid-reset", "requests that are reset at once (CVE-2023-44487)", _streams(20_000, _rapid_reset)),
    Attack("made-you-reset-zero-increment", "streams that the proxy must reset: WINDOW_UPDATE of 0 (CVE-2025-8671)", _streams(20_000, _window_of_zero)),
    Attack("made-you-reset-overflow", "the same, by windows above 2^31-1", _streams(20_000, _window_too_large)),
    Attack("made-you-reset-body", "the same, by bodies longer than content-length", _streams(20_000, _body_too_long)),
    Attack("made-you-reset-priority", "the same, by PRIORITY of four bytes", _streams(20_000, _half)),
    Attack("made-you-reset-malformed", "the same, by malformed heads", _streams(20_000, _malformed)),
    Attack("ping-flood", "PINGs (CVE-2019-9512)", _times(100_000, ping())),
    Attack("ping-flood-unread", "PINGs whose answers are not read", _times(500_000, ping()), deaf=True),
    Attack("settings-flood", "SETTINGS (CVE-2019-9515)", _times(50_000, settings())),
    Attack("settings-flood-unread", "SETTINGS whose acknowledgements are not read", _times(500_000, settings()), deaf=True),
    Attack("settings-table-flapping", "SETTINGS that change the table and the window each time", lambda: (settings((h2.HEADER_TABLE_SIZE, n % 2 * 4096), (h2.INITIAL_WINDOW_SIZE, 1 + n % 2)) for n in range(50_000))),
    Attack("window-update-flood", "WINDOW_UPDATE of 1, for the connection", _times(100_000, window_update(0, 1))),
    Attack("window-update-flood-on-a-stream", "WINDOW_UPDATE of 1, for an open stream", _times(100_000, window_update(1, 1)), first=_open(1)),
    Attack("priority-flood", "PRIORITY of one stream (CVE-2019-9513)", _times(100_000, h2.priority(1))),
    Attack("priority-flood-of-idle-streams", "PRIORITY of streams that are not open", _streams(100_000, _priority_of_idle)),
    Attack("rst-stream-flood", "RST_STREAM of a stream that is closed", _times(50_000, rst_stream(1)), first=headers(1, _GET)),
    Attack("empty-data-flood", "DATA of no bytes (CVE-2019-9518)", _times(100_000, data(1, b"", end=False)), first=_open(1)),
    Attack("padding-flood", "DATA of nothing but padding", _times(50_000, frame(h2.DATA, h2.PADDED, 1, b"\xff" + bytes(255))), first=_open(1), must_end=False),
    Attack("empty-headers-flood", "HEADERS of no fields", _streams(20_000, lambda stream: headers(stream, b""))),
    Attack("empty-continuation-flood", "CONTINUATION of no bytes", _times(50_000, frame(h2.CONTINUATION, 0, 1)), first=headers(1, _GET, end_headers=False)),
    Attack("continuation-flood", "CONTINUATION without an end (CVE-2024-27316 and others)", _times(5_000, frame(h2.CONTINUATION, 0, 1, _CONTINUED)), first=headers(1, _GET, end_headers=False)),
    Attack("hpack-bomb", "16 kB of indexes into a table with a field of 4 kB: 64 MB (CVE-2016-6581)", _streams(200, lambda stream: headers(1, _GET + _LONG) if stream == 1 else _bomb(stream))),
    Attack("cookie-bomb", "ten thousand cookies in one head", _streams(500, lambda stream: headers(stream, _GET + (b"\x00" + b"\x06cookie" + b"\x00") * 1500))),
    Attack("unknown-frames", "frames of no known type", _times(100_000, frame(0x16, 0, 0, bytes(8))), must_end=False),
    Attack("goaway-flood", "GOAWAY", _times(50_000, h2.goaway(0)), must_end=False),
    Attack("data-on-a-closed-stream", "DATA on a stream that is closed", _times(20_000, data(1, bytes(1000), end=False)), first=headers(1, _GET), must_end=False),
    Attack("streams-over-the-limit", "streams that are opened and never ended", _streams(20_000, _open)),
    Attack("answers-that-are-not-read", "requests for answers with a window of 0", _streams(20_000, lambda stream: headers(stream, block(get(b"/bytes/16384")))), settings=settings((h2.INITIAL_WINDOW_SIZE, 0)), must_end=False),
    Attack("tiny-windows", "requests for answers with a window of 1, one byte at a time", lambda: (headers(n, block(get(b"/bytes/16384"))) + b"".join(window_update(k, 1) for k in range(max(1, n - 100), n, 2)) for n in range(1, 1000, 2)), settings=settings((h2.INITIAL_WINDOW_SIZE, 1)), must_end=False),
)
# fmt: on
"""As fast as the proxy takes them."""

_SLOW = (
    "rapid-reset",
    "made-you-reset-zero-increment",
    "ping-flood",
    "settings-flood",
    "window-update-flood",
    "priority-flood",
    "rst-stream-flood",
    "empty-data-flood",
)
SLOW: Final = tuple(
    attack._replace(
        name=f"slow-{attack.name}",
        what=f"{attack.what}, {SLOW_RATE} a second for {SLOW_SECONDS} s",
        slow=True,
        must_end=attack.name != "priority-flood",
    )
    for attack in FAST
    if attack.name in _SLOW
)
"""Those that no single read shows."""

ATTACKS: Final = (*FAST, *SLOW)


class Course(NamedTuple):
    """How an attack went."""

    outcome: str
    """`GOAWAY(…)`, `closes`, `absorbs` or `holds`."""
    sent: int
    """Units that were sent by then."""


def attack(port: int, case: Attack) -> Course:
    """Go on until the proxy ends it, takes no more of it, or all is sent."""
    with App(port, settings=h2.PREFACE + (case.settings or settings()), deaf=case.deaf) as app:
        if case.first:
            app.send(case.first)
            if not case.deaf:
                app.pong()
        sent, units = _slowly(app, case) if case.slow else _fast(app, case)
        app.deaf = False
        if sent < units and not app.closed:
            return Course("holds", sent)
        lives = not app.closed and app.pong(b"all sent", 10.0)
        return Course(_ended(app) if not lives or app.goaway else "absorbs", sent)


def _fast(app: App, case: Attack) -> tuple[int, int]:
    sent = given = 0
    units = iter(case.frames())
    while piece := list(islice(units, 100)):
        given += len(piece)
        if not app.send(b"".join(piece)):
            break
        sent += len(piece)
        if app.goaway:
            app.until(lambda: app.closed)
            break
    return sent, given


def _slowly(app: App, case: Attack) -> tuple[int, int]:
    sent, units, began = 0, iter(case.frames()), _now()
    while not app.closed and not app.goaway and (passed := _now() - began) < SLOW_SECONDS:
        due = int(passed * SLOW_RATE) - sent
        if due > 0:
            app.send(b"".join(islice(units, due)))
            sent += due
        app.until(lambda: app.goaway is not None, 0.02)
    return sent, sent


def _ended(app: App) -> str:
    app.until(lambda: app.closed)
    if app.goaway:
        name = h2.CODES[app.goaway] if app.goaway < len(h2.CODES) else hex(app.goaway)
        return f"GOAWAY({name})"
    return "closes" if app.closed else "waits"


def _now() -> float:
    return time.monotonic()  # noqa: TID251  # of how fast a slow flood is
