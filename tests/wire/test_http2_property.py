"""Whatever a target does to its streams and connections, each request has its own route's token, and its own answer."""

from __future__ import annotations

import asyncio
import base64
import json
from random import Random
from typing import Any

import h2.exceptions
import pytest
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from sidecar.runtime.tasks import Tasks
from tests.support.h2_peer import Peer, fields
from tests.support.source import LIMIT, Source
from tests.support.wire import End, Wire

CONFIG = """
routes:
  - {{name: a, host: a.internal, upstream: 'http://127.0.0.1:{port}', audience: 'https://a.example', credential: a,
      retry_budget: 1}}
  - {{name: b, host: b.internal, upstream: 'http://127.0.0.1:{port}', audience: 'https://b.example', credential: b,
      retry_budget: 1}}
credentials: {{a: {{type: metadata}}, b: {{type: metadata}}}}
limits: {{keep_alive: 24h}}
"""

REQUESTS = 60


def claims(bearer: bytes) -> Any:
    """What a token says."""
    part = bearer.split(b".")[1]
    return json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))


class Target:
    """Answers, refuses, resets and goes away, as chance has it."""

    def __init__(self, wire: Wire, chance: Random) -> None:
        self.wire = wire
        self.chance = chance
        self.wrong: list[object] = []
        """Requests with another token than their route's, or with none."""
        self.seen: dict[bytes, int] = {}
        """How often each request came whole."""
        self.tasks = Tasks(wire.loop)

    async def accept(self) -> None:
        """Serve each connection."""
        while True:
            end = await self.wire.upstream.accept()
            self.tasks.spawn(self.serve(end), name="a connection of the target")

    async def serve(self, end: End) -> None:
        """One connection, until it ends."""
        try:
            peer = await Peer.begin(end, is_client=False)
            paths: dict[int, bytes] = {}
            while await peer.read():
                seen, peer.seen = peer.seen, []
                for event in seen:
                    if isinstance(event, RequestReceived):
                        self.judge(event)
                        paths[event.stream_id] = fields(event)[b":path"]
                    elif isinstance(event, StreamEnded):
                        path = paths[event.stream_id]
                        self.seen[path] = self.seen.get(path, 0) + 1
                        if await self.act(peer, event.stream_id, path):
                            return
        except (ConnectionError, h2.exceptions.H2Error, TimeoutError):
            pass
        finally:
            end.writer.transport.abort()

    def judge(self, event: RequestReceived) -> None:
        """Whether it has the token that it should."""
        got = fields(event)
        said = claims(got.get(b"authorization", b"Bearer .e30."))
        route = got[b":path"][1:2].decode()
        if (said.get("aud"), said.get("sub")) != (f"https://{route}.example", route):
            self.wrong.append((got[b":path"], said))

    async def act(self, peer: Peer, stream: int, path: bytes) -> bool:
        """What comes of a request; whether the connection ends with it."""
        what = self.chance.choices(["answer", "refuse", "reset", "half", "go", "drop"], [12, 2, 2, 1, 1, 1])[
            0
        ]
        if what == "answer":
            await peer.answer(stream, body=path)
        elif what == "half":
            await peer.answer(stream, body=b"half", end=False)
            peer.h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
        elif what in ("refuse", "reset"):
            code = ErrorCodes.REFUSED_STREAM if what == "refuse" else ErrorCodes.INTERNAL_ERROR
            peer.h2.reset_stream(stream, code)
        elif what == "go":
            # Streams above this one were not processed: they are sent again elsewhere.
            await peer.answer(stream, body=path)
            peer.h2.close_connection(last_stream_id=stream)
            await peer.flush()
            return True
        else:
            return True
        await peer.flush()
        return False


class App:
    """Asks on one connection for both routes, and cancels some."""

    def __init__(self, peer: Peer, number: int, chance: Random) -> None:
        self.peer = peer
        self.number = number
        self.chance = chance
        self.open: dict[int, bytes] = {}
        self.bodies: dict[int, bytes] = {}
        self.outcomes: list[tuple[bytes, object]] = []

    async def play(self) -> None:
        """All requests, a few at a time."""
        asked = 0
        while asked < REQUESTS or self.open:
            while asked < REQUESTS and len(self.open) < 8:
                asked += 1
                await self.ask(asked)
            async with asyncio.timeout(LIMIT):
                assert await self.peer.read()
            seen, self.peer.seen = self.peer.seen, []
            for event in seen:
                self.take(event)

    async def ask(self, number: int) -> None:
        route = self.chance.choice("ab")
        path = f"/{route}/{self.number}/{number}".encode()
        method = self.chance.choice([b"GET", b"POST"])
        lines = [(b":method", method), (b":scheme", b"http"), (b":authority", f"{route}.internal".encode())]
        stream = await self.peer.ask(
            (*lines, (b":path", path)),
            body=bytes(self.chance.choice([0, 10, 5000])) if method == b"POST" else None,
        )
        self.open[stream] = path
        self.bodies[stream] = b""
        if self.chance.random() < 0.1:
            self.peer.h2.reset_stream(stream, ErrorCodes.CANCEL)
            await self.peer.flush()
            self.outcomes.append((self.open.pop(stream), "cancelled"))

    def take(self, event: object) -> None:
        assert not isinstance(event, ConnectionTerminated)
        stream = getattr(event, "stream_id", None)
        if stream not in self.open:
            return
        if isinstance(event, ResponseReceived) and fields(event)[b":status"] != b"200":
            self.bodies[stream] = b"refused "
        elif isinstance(event, DataReceived):
            self.bodies[stream] += event.data
        elif isinstance(event, StreamEnded):
            path, body = self.open.pop(stream), self.bodies[stream]
            if not body.startswith(b"refused "):
                assert body == path  # its own answer, and all of it
            self.outcomes.append((path, body[:8]))
        elif isinstance(event, StreamReset):
            self.outcomes.append((self.open.pop(stream), "reset"))


@pytest.mark.parametrize("seed", range(8))
async def test_no_request_has_another_s_token_or_answer(wire: Wire, seed: int) -> None:
    """Under refusals, resets, GOAWAYs, lost connections, renewals and reloads, in every mixture."""
    chance = Random(seed)  # noqa: S311
    await wire.upstream.start()
    text = CONFIG.format(port=wire.upstream.port)
    wire.sources = {name: Source(wire.clock, name, name) for name in "ab"}
    await wire.start_with(text)
    target = Target(wire, chance)
    target.tasks.spawn(target.accept(), name="the target")
    apps = [App(await Peer.begin(await wire.app(), is_client=True), number, chance) for number in range(2)]
    playing = asyncio.gather(*(app.play() for app in apps))
    while not playing.done():
        for _ in range(chance.randrange(5, 40)):
            await wire.yield_()
        if chance.random() < 0.5:
            wire.switch(text)
        else:
            wire.clock.advance(3500)  # each token is renewed
    await playing
    assert target.wrong == []
    for app in apps:
        assert len(app.outcomes) == REQUESTS
    assert sum(len(app.outcomes) for app in apps) == 2 * REQUESTS
    good = [
        body for app in apps for _, body in app.outcomes if isinstance(body, bytes) and body.startswith(b"/")
    ]
    assert len(good) > REQUESTS // 2
    for app in apps:
        app.peer.end.writer.transport.abort()
    await target.tasks.close()
    assert wire.proxy.faults.count == 0
