"""The property: no request is ever forwarded without its token, or with another route's.

Random route tables, faults and interleavings, over real sockets: three upstreams that check what reaches
them, apps that come in by every way, a credential that fails, hangs and renews, connections that break.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import Reason, SidecarError
from tests.support.wire import LIMIT, Wire
from tests.wire.test_tokens import claims

HEADERS = ["auto", "both", "authorization", "proxy-authorization", "x-serverless-authorization", "X-Token"]
SET_BY = {
    "auto": ["authorization"],
    "both": ["authorization", "x-serverless-authorization"],
    "X-Token": ["x-token"],
}

routes = st.lists(
    st.fixed_dictionaries(
        {
            "header": st.sampled_from(HEADERS),
            "on_conflict": st.sampled_from(["auto", "replace", "reject"]),
            "prefixed": st.booleans(),
            "same_audience": st.booleans(),
        }
    ),
    min_size=2,
    max_size=3,
)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.integers(0, 2),
            st.sampled_from(["host", "name", "prefix", "absolute"]),
            st.sampled_from(["", "Authorization: mine", "X-Serverless-Authorization: mine", "x-token: mine"]),
            st.sampled_from(["GET", "POST", "PUT"]),
        ),
        st.tuples(st.just("fail"), st.booleans()),
        st.tuples(st.just("hang"), st.booleans()),
        st.tuples(st.just("age"), st.sampled_from([60.0, 3500.0, 7200.0])),
        st.tuples(st.just("break"), st.integers(0, 2), st.sampled_from(["reset", "401", "garbage", ""])),
        st.tuples(st.just("turns"), st.integers(1, 30)),
    ),
    min_size=3,
    max_size=25,
)


class Checking:
    """An upstream that records every request and answers as it is told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, list[str]]]] = []
        self.mood = ""
        self.server: asyncio.Server | None = None
        self.port = 0
        self._serving: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.gather(*(task for task in self._serving if task is not None), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving[asyncio.current_task()] = writer
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.rstrip("\r\n").split("\r\n")
                headers: dict[str, list[str]] = {}
                for line in lines:
                    name, _, value = line.partition(": ")
                    headers.setdefault(name.lower(), []).append(value)
                await reader.readexactly(int(headers.get("content-length", ["0"])[0]))
                self.seen.append((first.split(" ")[1], headers))
                if self.mood == "reset":
                    writer.transport.abort()
                    return
                body = json.dumps({"path": first.split(" ")[1], "port": self.port}).encode()
                if self.mood == "401":
                    writer.write(
                        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 0\r\n\r\n'
                    )
                elif self.mood == "garbage":
                    writer.write(b"\x00\x01\x02 nonsense\r\n\r\n")
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def configuration(tables: list[dict[str, Any]], upstreams: list[Checking]) -> str:
    """Routes r0, r1, … to the upstreams."""
    lines = []
    for number, (table, upstream) in enumerate(zip(tables, upstreams, strict=True)):
        audience = "https://shared.example" if table["same_audience"] else f"https://{number}.example"
        lines += [
            f"- name: r{number}",
            f"  host: r{number}.internal",
            f"  upstream: http://127.0.0.1:{upstream.port}",
            f"  audience: {audience}",
            f"  header: {table['header']}",
            f"  on_conflict: {table['on_conflict']}",
            *([f"  path_prefix: /p{number}"] if table["prefixed"] else []),
        ]
    return "\n".join(lines)


async def play(tables: list[dict[str, Any]], script: list[tuple[Any, ...]]) -> None:
    upstreams = [Checking() for _ in tables]
    for upstream in upstreams:
        await upstream.start()
    wire = Wire()
    await wire.start(more=configuration(tables, upstreams), prefetch=False)
    asked: list[tuple[asyncio.Task[bytes], int, str]] = []
    loop = asyncio.get_running_loop()
    for number, (kind, *what) in enumerate(script):
        if kind == "ask":
            route, way, line, method = what[0] % len(tables), *what[1:]
            asked.append(
                (loop.create_task(ask(wire, route, way, line, method, number)), route, f"/q{number}")
            )
        elif kind == "fail":
            wire.source.error = SidecarError(Reason.TOKEN_ENDPOINT_FAILED, "It failed.") if what[0] else None
        elif kind == "hang":
            wire.source.gate.clear() if what[0] else wire.source.gate.set()
        elif kind == "age":
            wire.clock.advance(what[0])
        elif kind == "break":
            upstreams[what[0] % len(tables)].mood = what[1]
        else:
            for _ in range(what[0]):
                await wire.yield_()
    wire.source.gate.set()
    async with asyncio.timeout(LIMIT):
        while not all(task.done() for task, _, _ in asked):
            wire.clock.advance(5.0)
            await wire.yield_()
    for task, route, path in asked:
        check_answer(task.result(), upstreams[route].port, path)
    for number, upstream in enumerate(upstreams):
        for path, headers in upstream.seen:
            check_forwarded(tables[number], number, path, headers)
    await wire.close()
    for upstream in upstreams:
        await upstream.close()


async def ask(wire: Wire, route: int, way: str, line: str, method: str, number: int) -> bytes:
    """One request by one way in, on a connection of its own."""
    target, host = f"/q{number}", f"r{route}.internal"
    if way == "name":
        host = f"R{route}.localhost:{wire.port}"
    elif way == "prefix":
        target, host = f"/p{route}/q{number}", f"127.0.0.1:{wire.port}"
    elif way == "absolute":
        target = f"http://{host}{target}"
    app = await wire.app()
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *([line] if line else [])]
    if method != "GET":
        lines.append("Content-Length: 3")
    await app.send(("\r\n".join(lines) + "\r\n\r\n" + ("abc" if method != "GET" else "")).encode())
    answer = await app.answer()
    return b"%d %b" % (answer.status, answer.body)


def check_answer(answer: bytes, port: int, path: str) -> None:
    """An answer is the sidecar's own, the upstream's refusal, or for this very request from its own upstream."""
    if answer.startswith(b"200 "):
        assert json.loads(answer[4:]) == {"path": path, "port": port}


def check_forwarded(table: dict[str, Any], number: int, path: str, headers: dict[str, list[str]]) -> None:
    """Each header that the route sets is there once, with a token for the route's audience; none has another's."""
    audience = "https://shared.example" if table["same_audience"] else f"https://{number}.example"
    names = SET_BY.get(table["header"], [table["header"].lower()])
    for name in names:
        (value,) = headers[name]
        assert claims(value.removeprefix("Bearer "))["aud"] == audience, path
    for name, values in headers.items():
        for value in values:
            if value.startswith("Bearer ey"):
                assert name in names
                assert claims(value.removeprefix("Bearer "))["aud"] == audience


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(tables=routes, script=steps)
def test_no_request_leaves_without_its_own_token(
    tables: list[dict[str, Any]], script: list[tuple[Any, ...]]
) -> None:
    """See the module's docstring."""
    asyncio.run(play(tables, script))
