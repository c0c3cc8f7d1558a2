"""Another configuration while the sidecar runs: by file, signal and request; under load; and one that can't be used"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from tests.support.closing import close_server
from tests.support.forks import stand_in
from tests.support.sampling import sampled
from tests.support.sidecar import COMMAND, LIMIT, Forked, Sidecar, ask, clean_environment, free_port


class World:
    """A sidecar whose configuration the test changes."""

    def __init__(self, google: Emulator, directory: Path) -> None:
        self.google = google
        self.file = directory / "config.yaml"
        self.sidecar: Sidecar
        self._switched = 0

    def write(self, *routes: str, credentials: str = "default: {type: metadata}", top: str = "") -> None:
        """Replace the file, as an editor does."""
        text = f"listen: localhost:0\nadmin: localhost:0\nlog_format: json\n{top}\ncredentials: {{{credentials}}}\nroutes:\n"
        text += "".join(f"  - {{{route}}}\n" for route in routes)
        new = self.file.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.file)

    def route(self, name: str, target: str = "svc", **keys: str) -> str:
        url = self.google.targets[target].url
        whole = {"name": name, "host": f"{name}.test", "upstream": f"'{url}'", "audience": f"'{url}'", **keys}
        return ", ".join(f"{key}: {value}" for key, value in whole.items())

    async def begin(self) -> None:
        environ = clean_environment(**self.google.environment())
        self.sidecar = Sidecar(await Forked.begin([*COMMAND, "run", "--config", str(self.file)], environ))
        await self.sidecar.listening()
        await self.sidecar.ready()

    async def reload(self) -> tuple[int, dict[str, Any]]:
        """What came of a change: of this request, or of the watch on the file, where that was quicker."""
        status, body = await self.sidecar.admin("/reload", "POST")
        outcome = json.loads(body)
        if outcome["result"] == "unchanged":
            entry = await self.sidecar.logged("configuration reloaded", times=self._switched + 1, result="ok")
            outcome = {"result": "ok", "detail": entry["detail"] or ""}
        self._switched += outcome["result"] == "ok"
        return status, outcome

    async def get(self, name: str, port: int | None = None) -> int:
        return (await ask(port or self.sidecar.port, "GET", "/x", host=f"{name}.test"))[0]


@pytest.fixture
async def world(google: Emulator, tmp_path: Path) -> AsyncIterator[World]:
    await google.add_target("svc")
    await google.add_target("other")
    it = World(google, tmp_path)
    it.write(it.route("a"), it.route("b"))
    await it.begin()
    yield it
    await it.sidecar.stop()


async def test_routes_come_and_go(world: World) -> None:
    """At once, and the metrics of what is gone stay."""
    assert [await world.get("a"), await world.get("c")] == [200, 404]
    world.write(world.route("a"), world.route("c", "other"))
    assert await world.reload() == (200, {"result": "ok", "detail": ""})
    assert [await world.get(name) for name in "abc"] == [200, 404, 200]
    assert await world.sidecar.metric("idtoken_sidecar_requests_total", route="a", code="200") == 2
    status = await world.sidecar.status()
    assert [route["name"] for route in status["routes"]] == ["a", "c"]
    assert status["configuration"]["last_error"] is None
    world.write(world.route("b"))
    await world.reload()
    assert await world.sidecar.metric("idtoken_sidecar_requests_total", route="a", code="200") == 2
    assert await world.sidecar.metric("idtoken_sidecar_config_reloads_total", result="ok") == 2


async def test_tokens_of_what_has_not_changed_are_kept(world: World) -> None:
    """No fetch for them; one for what is new, before the switch."""
    before = len(world.google.metadata.asked)
    world.write(world.route("a"), world.route("c", "other"), top="access_log: all")
    await world.reload()
    assert len(world.google.metadata.asked) == before + 1
    assert await world.get("c") == 200
    assert len(world.google.metadata.asked) == before + 1


async def test_another_credential_of_the_same_name(world: World, tmp_path: Path) -> None:
    """Its tokens are used from the switch on, and none of the old one's."""
    world.google.write_key(tmp_path / "key.json")
    credentials = f"default: {{type: service_account_key, file: {tmp_path}/key.json}}"
    world.write(world.route("a"), credentials=credentials)
    await world.reload()
    assert await world.get("a") == 200
    verified = world.google.targets["svc"].requests[-1].verified
    assert verified is not None
    assert verified.email is not None
    assert verified.email.startswith("key-holder@")


class Slow:
    """An upstream that answers when the test says so, and remembers whose token each request brought."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        """Account and audience."""
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                payload = head.partition(b"Bearer ")[2].split(b".")[1]
                claims = json.loads(base64.urlsafe_b64decode(payload + b"=="))
                self.seen.append((claims["email"].partition("@")[0], claims["aud"]))
                writer.write(await self.answers.get())
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def has_seen(self, count: int) -> None:
        async with asyncio.timeout(LIMIT):
            while len(self.seen) < count:  # noqa: ASYNC110  # an upstream has no events for tests
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        assert self._server is not None
        await close_server(self._server)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # the ends of the connections are told in the next turn


@pytest.fixture
async def slow() -> AsyncIterator[tuple[Slow, Slow]]:
    both = Slow(), Slow()
    for upstream in both:
        await upstream.start()
    yield both
    for upstream in both:
        await upstream.stop()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
REFUSED = b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 0\r\n\r\n'


@pytest.mark.parametrize("waits_for", ["connection", "token", "replay"])
async def test_who_was_let_in_before_keeps_its_identity(
    world: World, slow: tuple[Slow, Slow], tmp_path: Path, waits_for: str
) -> None:
    """Another account and another upstream under the same names: a request that was let in under the old configuration
    reaches the old upstream with the old account's token, wherever it had got to."""
    old, new = slow
    keys = {"upstream": old.url, "audience": "'https://old.test'", "pool": "{connections: 1}"}
    world.write(world.route("a", prefetch=str(waits_for != "token").lower(), **keys))
    await world.reload()
    metadata = world.google.metadata
    if waits_for == "token":
        arrived = metadata.endpoint.arrived
        metadata.endpoint.hold()
    waiting = [asyncio.create_task(ask(world.sidecar.port, "GET", "/x", host="a.test"))]  # noqa: TID251
    if waits_for == "token":
        await metadata.endpoint.wait_for(arrived + 1)
    else:
        await old.has_seen(1)
    if waits_for == "connection":
        waiting.append(asyncio.create_task(ask(world.sidecar.port, "GET", "/x", host="a.test")))  # noqa: TID251
        async with asyncio.timeout(LIMIT):
            while not await world.sidecar.metric("idtoken_sidecar_requests_queued", route="a"):  # noqa: ASYNC110  # a metric is polled
                await asyncio.sleep(0.01)
    world.google.write_key(tmp_path / "key.json")
    keys |= {"upstream": new.url, "audience": "'https://new.test'"}
    credentials = f"default: {{type: service_account_key, file: {tmp_path}/key.json}}"
    world.write(world.route("a", **keys), credentials=credentials)
    assert (await world.reload())[1]["result"] == "ok"
    metadata.endpoint.release()
    if waits_for == "replay":
        old.answers.put_nowait(REFUSED)
    for _ in range(2):
        old.answers.put_nowait(OK)
    assert {(await it)[0] for it in waiting} == {200}
    account = str(metadata.email).partition("@")[0]
    assert old.seen == [(account, "https://old.test")] * (1 if waits_for == "token" else 2)
    new.answers.put_nowait(OK)
    assert await world.get("a") == 200
    assert new.seen == [("key-holder", "https://new.test")]
    assert "https://new.test" not in {it.audience for it in metadata.asked}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda world: world.file.write_text("routes: [{name: a, upstrem: x}]"), "did you mean `upstream`?"),
        (lambda world: world.file.unlink(), "No such file"),
        (
            lambda world: world.write(
                world.route("a", tls="{ca_file: /nowhere.pem}").replace("http:", "https:")
            ),
            "/nowhere.pem",
        ),
        (
            lambda world: world.write(world.route("a", listen=f"127.0.0.1:{world.sidecar.admin_port}")),
            "cannot be listened on",
        ),
    ],
    ids=["mistake", "no-file", "tls-file", "address-in-use"],
)
async def test_one_that_cannot_be_used_changes_nothing(world: World, change: Any, says: str) -> None:
    """The answer, the log, the metric and the status say why; the next good one is taken."""
    change(world)
    status, outcome = await world.reload()
    assert (status, outcome["result"]) == (422, "error")
    assert says in outcome["detail"]
    assert [await world.get("a"), await world.get("b")] == [200, 200]
    entry = await world.sidecar.logged("configuration not reloaded: the old one stays in force")
    assert says in entry["detail"]
    assert await world.sidecar.metric("idtoken_sidecar_config_last_reload_successful") == 0
    assert says in (await world.sidecar.status())["configuration"]["last_error"]["detail"]
    status, ready = await world.sidecar.admin("/healthz/ready")
    assert (status, "can't be used, so the old one stays in force: " in ready) == (200, True)
    world.write(world.route("b"))
    assert (await world.reload())[0] == 200
    assert await world.sidecar.metric("idtoken_sidecar_config_last_reload_successful") == 1
    assert [await world.get("a"), await world.get("b")] == [404, 200]


async def test_listeners_come_and_go(world: World, unused_tcp_port: int) -> None:
    """A route's own listener is there after the switch, can become another route's, and is gone after the next."""
    own = f"127.0.0.1:{unused_tcp_port}"
    world.write(world.route("a", listen=own), world.route("b"))
    await world.reload()
    assert (await ask(unused_tcp_port, "GET", "/x"))[0] == 200
    world.write(world.route("a"), world.route("c", "other", listen=own))
    await world.reload()
    assert (await ask(unused_tcp_port, "GET", "/x"))[0] == 200
    assert len(world.google.targets["other"].requests) == 1
    world.write(world.route("a"))
    await world.reload()
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", unused_tcp_port)) != 0


async def test_one_address_written_otherwise(world: World, unused_tcp_port: int) -> None:
    """`localhost` is two addresses: the one that listens already goes on, its connections too, and the other comes and
    goes."""
    port = unused_tcp_port
    for host, answering in (
        ("127.0.0.1", ["127.0.0.1"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("[::1]", ["::1"]),
        ("localhost", ["127.0.0.1", "::1"]),
    ):
        world.write(world.route("a", listen=f"'{host}:{port}'"))
        assert await world.reload() == (200, {"result": "ok", "detail": ""})
        answers = []
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as sock:
                if sock.connect_ex((address, port)) == 0:
                    answers.append(address)
        assert answers == answering
    assert (await ask(port, "GET", "/x"))[0] == 200


async def test_an_address_that_takes_in_the_old_one(world: World, unused_tcp_port: int) -> None:
    """Cannot be bound while that is there: told, with everything as it was."""
    old, new = f"127.0.0.1:{unused_tcp_port}", f"0.0.0.0:{unused_tcp_port}"
    world.write(world.route("a", listen=old))
    await world.reload()
    world.write(world.route("a", listen=new), top="allow_remote: true")
    status, body = await world.reload()
    assert status == 422
    assert body["detail"] == (
        f"listen of route `a`: {new} cannot be listened on while this sidecar listens on {old}: "
        "restart it, or give another port"
    )
    assert (await ask(unused_tcp_port, "GET", "/x"))[0] == 200


async def test_half_of_the_new_address_is_somebody_elses(world: World, unused_tcp_port: int) -> None:
    """`localhost` for `127.0.0.1`, where another process holds `[::1]`: it is not this sidecar that is in the way."""
    port = unused_tcp_port
    world.write(world.route("a", listen=f"127.0.0.1:{port}"))
    await world.reload()
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        world.write(world.route("a", listen=f"localhost:{port}"))
        status, body = await world.reload()
        assert status == 422
        assert body["detail"] == (
            f"listen of route `a`: localhost:{port} cannot be listened on: the port is in use: another process "
            f"listens there, maybe another sidecar (`ss -ltnp 'sport = :{port}'` shows it). Stop it, or choose another port."
        )
        assert (await ask(port, "GET", "/x"))[0] == 200
    assert await world.reload() == (200, {"result": "ok", "detail": ""})


async def test_a_request_under_way_ends_under_the_old_table(world: World) -> None:
    """Though its route is gone by then."""
    stream = asyncio.create_task(ask(world.sidecar.port, "GET", "/sse?n=2", host="a.test"))  # noqa: TID251
    target = world.google.targets["svc"]
    async with asyncio.timeout(LIMIT):
        while not target.requests:  # noqa: ASYNC110  # a target has no events for tests
            await asyncio.sleep(0.01)
    world.write(world.route("b"))
    await world.reload()
    assert await world.get("a") == 404
    target.release(2)
    status, _, body = await stream
    assert (status, body.count(b"data: event")) == (200, 2)


async def test_what_starts_it(world: World, tmp_path: Path) -> None:
    """SIGHUP, and the file: replaced, or behind a link that Kubernetes swaps."""
    world.write(world.route("c"))
    world.sidecar.send_signal(signal.SIGHUP)
    await world.sidecar.logged("configuration reloaded", result="ok")
    assert await world.get("c") == 200
    world.write(world.route("d"))
    async with asyncio.timeout(LIMIT):
        while await world.get("d") != 200:  # noqa: ASYNC110  # the file is looked at every two seconds
            await asyncio.sleep(0.05)
    status, body = await world.sidecar.admin("/reload", "POST")
    assert (status, json.loads(body)) == (200, {"result": "unchanged", "detail": ""})


async def test_a_setting_that_needs_a_start_is_told(world: World) -> None:
    """And the rest is taken."""
    world.write(world.route("c"), top="token_wait: 3s")
    _, outcome = await world.reload()
    assert outcome == {"result": "ok", "detail": "`token_wait` takes effect at the next start"}


async def test_a_token_that_does_not_come_holds_it_up_for_a_while_only(world: World) -> None:
    """The switch happens; the route's requests get the reason."""
    world.google.metadata.endpoint.fail(Fault("status", code=404))
    world.write(world.route("a"), world.route("c", "other"))
    assert (await world.reload())[1]["result"] == "ok"
    assert [await world.get("a"), await world.get("c")] == [200, 503]


@pytest.mark.parametrize("rounds", sampled((6, 12), [6]))
async def test_under_load_no_request_fails(world: World, rounds: int) -> None:
    """Reload after reload while 32 connections ask as fast as they can."""
    stop = asyncio.Event()
    codes: dict[int, int] = {}

    async def app(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.sidecar.port)
        while not stop.is_set():
            writer.write(b"GET /status/204 HTTP/1.1\r\nHost: a.test\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            code = int(head.split(b" ")[1])
            codes[code] = codes.get(code, 0) + 1
        writer.close()

    apps = [asyncio.create_task(app(number)) for number in range(32)]  # noqa: TID251
    round_ = 0
    while round_ < rounds or sum(codes.values()) < 2000:
        round_ += 1
        more = [world.route(name, "other") for name in "bcdef"[: round_ % 5]]
        # Even the route itself changes, so that its connections are new ones.
        world.write(world.route("a", timeouts=f"{{connect: {round_ % 60 + 1}s}}"), *more)
        assert (await world.reload())[1]["result"] == "ok"
    stop.set()
    await asyncio.gather(*apps)
    assert set(codes) == {204}


@pytest.mark.test_all
async def test_wrk_sees_no_failure_over_forty_reloads(world: World, tmp_path: Path) -> None:
    """At all that wrk can ask of it, some thousands a second, with nginx as the upstream; every reload changes the route."""
    port = free_port()
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {tmp_path}/nginx.pid; events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; keepalive_requests 100000000;"
        " location / { return 204; } } }\n"
    )
    nginx = await asyncio.create_subprocess_exec(
        "nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "nginx.log")
    )
    try:
        route = {"upstream": f"'http://localhost:{port}'"}
        world.write(world.route("a", **route))
        assert (await world.reload())[1]["result"] == "ok"
        wrk = await asyncio.create_subprocess_exec(
            *(
                "wrk",
                "--threads",
                "1",
                "--connections",
                "64",
                "--duration",
                "12s",
                "--header",
                "Host: a.test",
            ),
            f"http://127.0.0.1:{world.sidecar.port}/",
            stdout=asyncio.subprocess.PIPE,
        )
        output = asyncio.create_task(wrk.communicate())  # noqa: TID251
        reloads = 0
        while not output.done():
            reloads += 1
            world.write(world.route("a", timeouts=f"{{connect: {reloads % 60 + 1}s}}", **route))
            assert (await world.reload())[1]["result"] == "ok"
        text = (await output)[0].decode()
        print(f"{text}\n{reloads} reloads")
        assert wrk.returncode == 0
        assert "Socket errors" not in text, text
        assert "Non-2xx" not in text, text
        assert reloads >= 40
    finally:
        nginx.terminate()
        await nginx.wait()


async def test_the_command(world: World) -> None:
    """`idtoken-sidecar reload` says what came of it, by its exit code too."""
    # The watch on the file may be quicker than the command.
    for text, code, says in (
        ("good", 0, ("ok", "unchanged")),
        ("bad", 1, ("the old configuration stays in force",)),
    ):
        if text == "good":
            world.write(world.route("c"))
        else:
            world.file.write_text("nonsense: 1")
        process = await asyncio.create_subprocess_exec(
            *(*stand_in(), "reload", "--admin", f"127.0.0.1:{world.sidecar.admin_port}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=clean_environment(),
        )
        out, _ = await process.communicate()
        assert (process.returncode, any(word in out.decode() for word in says)) == (code, True), out
