"""The property: no request is ever forwarded without its token, with another route's, or with another identity's.

Random route tables, faults, reloads and interleavings, over real sockets: three upstreams that check what reaches
them, apps that come in by every way, credentials that fail, hang and renew, connections that break and are waited for,
and reloads that move accounts, audiences, upstreams and names around.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import Reason, SidecarError
from tests.support.closing import close_server
from tests.support.sampling import examples
from tests.support.source import LIMIT, Source
from tests.support.wire import Wire
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
asks = st.tuples(
    st.just("ask"),
    st.integers(0, 2),
    st.sampled_from(["host", "name", "prefix", "absolute"]),
    st.sampled_from(["", "Authorization: mine", "X-Serverless-Authorization: mine", "x-token: mine"]),
    st.sampled_from(["GET", "POST", "PUT"]),
)
reloads = st.tuples(st.just("reload"), st.permutations(range(3)), st.permutations(range(3)), st.booleans())
single = st.one_of(
    asks,
    reloads,
    st.tuples(st.just("fail"), st.booleans()),
    st.tuples(st.just("hang"), st.booleans()),
    st.tuples(st.just("age"), st.sampled_from([60.0, 3500.0, 7200.0])),
    st.tuples(st.just("break"), st.integers(0, 2), st.sampled_from(["reset", "401", "garbage", "slow", ""])),
    st.tuples(st.just("turns"), st.integers(1, 30)),
)


def caught(ask: tuple[Any, ...], reload: tuple[Any, ...], by: str) -> list[tuple[Any, ...]]:
    """A reload in the middle of two requests: they wait for a token, or for the one connection and its answer."""
    moods = ("hang", True), ("hang", False)
    if by != "token":
        moods = ("break", ask[1], "slow"), ("break", ask[1], by)
    return [moods[0], ask, ask, ("turns", 8), reload, moods[1]]


steps = st.lists(
    st.one_of(
        single.map(lambda step: [step]),
        st.builds(caught, asks, reloads, st.sampled_from(["token", "401", "reset", ""])),
    ),
    min_size=3,
    max_size=12,
).map(lambda parts: [step for part in parts for step in part])


class Setting(NamedTuple):
    """What one configuration says of one route."""

    upstream: int
    account: str
    audience: str


Configuration = dict[str, Setting]
"""By the route's name."""


class Checking:
    """An upstream that records every request and answers as it is told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, list[str]]]] = []
        self.mood = ""
        self.moved = asyncio.Condition()
        self.server: asyncio.Server | None = None
        self.port = 0
        self._serving: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self.server is not None
        await close_server(self.server)
        for writer in self._serving.values():
            writer.transport.abort()
        await asyncio.gather(*(task for task in self._serving if task is not None), return_exceptions=True)

    async def be(self, mood: str) -> None:
        """How it is from now on: `slow` answers nothing until it is something else."""
        self.mood = mood
        async with self.moved:
            self.moved.notify_all()

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
                async with self.moved:
                    await self.moved.wait_for(lambda: self.mood != "slow")
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


def configuration(
    tables: list[dict[str, Any]], upstreams: list[Checking], settings: Configuration, *, narrow: bool
) -> str:
    """Routes r0, r1, … with credentials of their own; `narrow` lets each have one connection."""
    lines = ["routes:"]
    for number, (table, setting) in enumerate(zip(tables, settings.values(), strict=True)):
        lines += [
            f"- name: r{number}",
            f"  host: r{number}.internal",
            f"  upstream: http://127.0.0.1:{upstreams[setting.upstream].port}",
            f"  audience: {setting.audience}",
            f"  credential: c{number}",
            f"  header: {table['header']}",
            f"  on_conflict: {table['on_conflict']}",
            *([f"  path_prefix: /p{number}"] if table["prefixed"] else []),
        ]
    lines.append("credentials:")
    for number, setting in enumerate(settings.values()):
        lines.append(f"  c{number}: {{type: metadata, account: {setting.account}@p.example}}")
    return "\n".join([*lines, *(["pool: {connections: 1}"] if narrow else [])])


class Play:
    """One example."""

    def __init__(self, tables: list[dict[str, Any]], *, narrow: bool) -> None:
        self.tables = tables
        self.narrow = narrow
        self.wire = Wire()
        self.upstreams = [Checking() for _ in tables]
        self.made: list[Source] = []
        self.history: list[Configuration] = []
        """Every configuration so far."""
        self.asked: list[tuple[asyncio.Task[bytes], str, int]] = []
        """Each request with the route that it is for, and how many configurations there had been."""

    def settings(self, accounts: Sequence[int], upstreams: Sequence[int], *, fresh: bool) -> Configuration:
        """The next configuration: whose token each route sends where; `fresh` gives the audiences new names."""
        count = len(self.tables)
        generation = len(self.history) if fresh else 0
        found = {}
        for number, table in enumerate(self.tables):
            own = "shared" if table["same_audience"] else str(number)
            found[f"r{number}"] = Setting(
                [it for it in upstreams if it < count][number],
                f"account-{accounts[number]}",
                f"https://{own}-{generation}.example",
            )
        return found

    def sources(self, settings: Configuration) -> dict[str, Source]:
        """Those of a configuration: the same ones as before where the same account goes by the same name."""
        found = {}
        for number, setting in enumerate(settings.values()):
            name = f"c{number}"
            source = self.wire.sources.get(name)
            if source is None or source.account != setting.account:
                source = Source(self.wire.clock, name, setting.account)
                if self.made:
                    source.error, source.gate = self.made[0].error, self.made[0].gate
                self.made.append(source)
            found[name] = source
        return found

    async def start(self) -> None:
        for upstream in self.upstreams:
            await upstream.start()
        first = self.settings(range(3), range(3), fresh=True)
        self.history.append(first)
        self.wire.sources = self.sources(first)
        await self.wire.start_with(configuration(self.tables, self.upstreams, first, narrow=self.narrow))

    async def step(self, number: int, kind: str, what: tuple[Any, ...]) -> None:
        match kind:
            case "ask":
                route, way, line, method = what[0] % len(self.tables), *what[1:]
                task = self.wire.loop.create_task(ask(self.wire, route, way, line, method, number))
                self.asked.append((task, f"r{route}", len(self.history)))
            case "fail":
                for source in self.made:
                    source.error = (
                        SidecarError(Reason.TOKEN_ENDPOINT_FAILED, "It failed.") if what[0] else None
                    )
            case "hang":
                gate = self.made[0].gate
                gate.clear() if what[0] else gate.set()
            case "age":
                self.wire.clock.advance(what[0])
            case "break":
                await self.upstreams[what[0] % len(self.tables)].be(what[1])
            case "reload":
                accounts, upstreams, fresh = what
                settings = self.settings(accounts, upstreams, fresh=fresh)
                self.history.append(settings)
                text = configuration(self.tables, self.upstreams, settings, narrow=self.narrow)
                self.wire.switch(text, self.sources(settings))
            case _:
                for _ in range(what[0]):
                    await self.wire.yield_()

    async def end(self) -> None:
        """Let everything come to its end, and check it."""
        self.made[0].gate.set()
        for upstream in self.upstreams:
            if upstream.mood == "slow":
                await upstream.be("")
        async with asyncio.timeout(LIMIT):
            while not all(task.done() for task, *_ in self.asked):
                self.wire.clock.advance(5.0)
                await self.wire.yield_()
        by_path = {}
        for task, route, since in self.asked:
            answer = task.result()
            # Let in under the configuration in force when it was sent, or under a later one.
            possible = [settings[route] for settings in self.history[since - 1 :]]
            path = answer.partition(b" ")[0].decode()
            by_path[path] = (int(route[1:]), possible)
            ports = {self.upstreams[setting.upstream].port for setting in possible}
            check_answer(answer.partition(b" ")[2], ports, path)
        for number, upstream in enumerate(self.upstreams):
            for path, headers in upstream.seen:
                route, possible = by_path[path]
                check_forwarded(self.tables[route], number, possible, path, headers)

    async def close(self) -> None:
        await self.wire.close()
        for upstream in self.upstreams:
            await upstream.close()


async def play(tables: list[dict[str, Any]], script: list[tuple[Any, ...]], *, narrow: bool) -> None:
    it = Play(tables, narrow=narrow)
    await it.start()
    for number, (kind, *what) in enumerate(script):
        await it.step(number, kind, tuple(what))
    await it.end()
    await it.close()


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
    try:
        answer = await app.answer()
    except ConnectionResetError:
        # Where the clock jumps before its head was read, it is too late for the sidecar, which closes on unread bytes.
        return b"/q%d 0 " % number
    return b"/q%d %d %b" % (number, answer.status, answer.body)


def check_answer(answer: bytes, ports: set[int], path: str) -> None:
    """An answer is the sidecar's own, the upstream's refusal, or for this request from its own upstream."""
    if answer.startswith(b"200 "):
        said = json.loads(answer[4:])
        assert said["path"] == path
        assert said["port"] in ports


def check_forwarded(
    table: dict[str, Any],
    upstream: int,
    possible: list[Setting],
    path: str,
    headers: dict[str, list[str]],
) -> None:
    """Each header that the route sets is there once, with a token of the account and for the audience that one
    configuration had for this upstream; no other header has one."""
    names = SET_BY.get(table["header"], [table["header"].lower()])
    sent = {
        name: value for name, values in headers.items() for value in values if value.startswith("Bearer ey")
    }
    assert sorted(sent) == sorted(names), path
    for name in names:
        (value,) = headers[name]
        found = claims(value.removeprefix("Bearer "))
        assert Setting(upstream, found["sub"], found["aud"]) in possible, path


@settings(
    max_examples=examples(100), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(tables=routes, script=steps, narrow=st.booleans())
def test_no_request_leaves_without_its_own_token(
    tables: list[dict[str, Any]], script: list[tuple[Any, ...]], narrow: bool
) -> None:
    """See the module's docstring."""
    asyncio.run(play(tables, script, narrow=narrow))
