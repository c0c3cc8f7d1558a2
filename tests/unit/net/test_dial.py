"""sidecar.net.dial: addresses, order and phases; real sockets, with what the resolver says made up by the test"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import pytest

from sidecar.config.load import load
from sidecar.errors import Reason, SidecarError
from sidecar.net import dial, tls
from sidecar.net.backoff import FORGOTTEN, FREE, LONGEST_PAUSE
from sidecar.net.dial import Dialer
from sidecar.net.transport import Receiver, Transport
from sidecar.observe.metrics import RouteStats
from sidecar.routing.routes import Destination, Route, RouteTable
from tests.support.clock import FakeClock
from tests.support.closing import close_server
from tests.support.openssl import Issued, authority, issue, write
from tests.support.sidecar import free_port

LIMIT = 60.0
LEAP = 5.0


class Names:
    """The resolver: each name's addresses, an error, or silence."""

    def __init__(self) -> None:
        self.addresses: Sequence[str] = ("127.0.0.1",)
        self.error: OSError | None = None
        self.asked = 0
        self.speak = threading.Event()
        self.speak.set()

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked += 1
        self.speak.wait(LIMIT)
        if self.error is not None:
            raise self.error
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (one, port, 0, 0))
            if ":" in one
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            for one in self.addresses
        ]


class Bench:
    """A dialer, its resolver, and a port on which some loopback addresses listen, some refuse, and one is dead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock = FakeClock()
        self.names = Names()
        self.stats = RouteStats()
        self.dialer = Dialer(self.loop, (), self.clock, jitter=lambda: 1.0, lookup=self.names)
        self.tried: list[str] = []
        self._sockets: list[socket.socket] = []
        self._deaf: dict[str, float] = {}
        self._leapt = 0.0
        real, real_time = self.loop.sock_connect, self.loop.time

        async def sock_connect(sock: socket.socket, address: tuple[str, int]) -> None:
            self.tried.append(address[0])
            self.leap(self._deaf.get(address[0], 0.0))
            await real(sock, address)

        monkeypatch.setattr(self.loop, "sock_connect", sock_connect)
        monkeypatch.setattr(self.loop, "time", lambda: real_time() + self._leapt)
        good = self._keep(socket.create_server(("127.0.0.1", 0), backlog=1000))
        self.port = int(good.getsockname()[1])

    def _keep(self, sock: socket.socket) -> socket.socket:
        self._sockets.append(sock)
        return sock

    def leap(self, seconds: float) -> None:
        """So much of the event loop's time passes at once: what it waits for is over, and what came before was in time."""
        self._leapt += seconds

    def die(self, address: str, leap: float = 0.0) -> None:
        """Nothing is answered there: its queue is full, so that the kernel drops what comes. Waiting for it `leap`s."""
        self._deaf[address] = leap
        self._keep(socket.create_server((address, self.port), backlog=0))
        for _ in range(3):
            filler = self._keep(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect((address, self.port))

    def destination(self, timeouts: str = "", port: int | None = None, scheme: str = "http") -> Destination:
        upstream = f"{scheme}://localhost:{port or self.port}"
        text = f"routes: [{{name: a, upstream: '{upstream}', timeouts: {{{timeouts}}}}}]"
        fixed = RouteTable.compile(load(text, environ={}).config).routes[0].fixed()
        assert fixed is not None
        return fixed

    async def dial(self, destination: Destination | None = None) -> str:
        """The address that was connected to, or the reason."""
        try:
            async with asyncio.timeout(LIMIT + LEAP):
                made = await self.dialer.connect(
                    destination or self.destination(), lambda http2: Protocol(), None, self.stats
                )
        except SidecarError as error:
            self.error = error
            return str(error.reason)
        transport = made.transport
        sock = transport.get_socket()
        assert sock is not None
        address = str(sock.getpeername()[0])
        transport.abort()
        return address

    def close(self) -> None:
        self.names.speak.set()
        for sock in self._sockets:
            sock.close()


class Protocol(Receiver):
    transport: Transport

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    made = Bench(monkeypatch)
    yield made
    made.close()


@pytest.mark.parametrize("how", ["dead", "refusing"])
async def test_a_bad_address_first_is_met_once(bench: Bench, how: str) -> None:
    """Whether it says nothing or refuses: the next dials go to the good one at once."""
    bench.names.addresses = ("127.0.0.9", "127.0.0.1")
    if how == "dead":
        bench.die("127.0.0.9")
    assert [await bench.dial() for _ in range(5)] == ["127.0.0.1"] * 5
    assert bench.tried == ["127.0.0.9", *["127.0.0.1"] * 5]
    assert bench.stats.connect_failures == {}


async def test_a_bad_address_is_tried_again_by_one_dial(bench: Bench) -> None:
    """A second later, and in case it works it is in its place again."""
    bench.names.addresses = ("127.0.0.9", "127.0.0.1")
    await bench.dial()
    bench.clock.advance(1.0)
    bench.tried.clear()
    await asyncio.gather(*(bench.dial() for _ in range(5)))
    assert sorted(bench.tried) == [*["127.0.0.1"] * 5, "127.0.0.9"]
    bench._keep(socket.create_server(("127.0.0.9", bench.port)))
    bench.clock.advance(2.0)
    assert [await bench.dial() for _ in range(2)] == ["127.0.0.9"] * 2


async def test_dns_that_flaps_is_followed(bench: Bench) -> None:
    """Each dial asks again; what failed is known by its address, whatever else comes with it."""
    bench._keep(socket.create_server(("127.0.0.2", bench.port)))
    went = []
    for addresses in (("127.0.0.9", "127.0.0.1"), ("127.0.0.2",), ("127.0.0.9", "127.0.0.2"), ("127.0.0.1",)):
        bench.names.addresses = addresses
        went.append(await bench.dial())
    assert went == ["127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.1"]
    assert bench.tried.count("127.0.0.9") == 1


async def test_a_storm_on_an_upstream_that_is_down_is_held_back(bench: Bench) -> None:
    """A thousand requests in a second are some dials; each answer says when the last one was, and when the next is."""
    destination = bench.destination(port=free_port())
    for _ in range(1000):
        assert await bench.dial(destination) == "connect_refused"
        bench.clock.advance(0.001)
    assert 3 < len(bench.tried) < 10
    assert "connection refused) 0." in bench.error.detail
    assert "failures in a row; the next one is made in 0." in bench.error.detail
    held = bench.stats.connects_held_back
    assert (bench.stats.connect_failures, held) == ({"connect_refused": 1000 - held}, 1000 - len(bench.tried))


async def test_while_one_is_dialled_for_the_others_are_told(bench: Bench) -> None:
    """One at a time, however long it takes: an upstream that says nothing is not given a thousand connections."""
    bench.names.addresses = ("127.0.0.9",)
    bench.die("127.0.0.9", leap=LEAP)
    destination = bench.destination("connect: 4s")
    for _ in range(3):
        assert await bench.dial(destination) == "connect_timeout"
    bench.clock.advance(LONGEST_PAUSE)
    bench.tried.clear()
    answers = await asyncio.gather(*(bench.dial(destination) for _ in range(50)))
    assert (set(answers), len(bench.tried)) == ({"connect_timeout"}, 1)
    assert bench.stats.connects_held_back == 49
    assert await bench.dial(destination) == "connect_timeout"
    assert "(no answer in time) 0.00 s ago" in bench.error.detail


async def test_a_dial_that_is_held_back_gets_the_error_of_the_silent_one(bench: Bench) -> None:
    """With when that was."""
    bench.names.addresses = ("127.0.0.9",)
    bench.die("127.0.0.9", leap=LEAP)
    destination = bench.destination("connect: 4s")
    for _ in range(FREE + 1):
        assert await bench.dial(destination) == "connect_timeout"
    assert "(no answer in time) 0.00 s ago" in bench.error.detail
    assert bench.stats.connects_held_back == 1


async def test_an_upstream_that_comes_back_is_found_within_the_longest_pause(bench: Bench) -> None:
    """However long it was down; and then there is no pause any more."""
    port = free_port()
    destination = bench.destination(port=port)
    for _ in range(100):
        await bench.dial(destination)
        bench.clock.advance(LONGEST_PAUSE)
    bench._keep(socket.create_server(("127.0.0.1", port)))
    bench.clock.advance(LONGEST_PAUSE)
    assert [await bench.dial(destination) for _ in range(3)] == ["127.0.0.1"] * 3


async def test_dns_that_fails_is_asked_again_at_the_same_pace(bench: Bench) -> None:
    """Three times freely, then now and then; once it answers all is well."""
    bench.names.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert [await bench.dial() for _ in range(10)] == ["dns_failed"] * 10
    assert bench.names.asked == 3
    assert "Temporary failure in name resolution) 0.00 s ago" in bench.error.detail
    bench.names.error = None
    bench.clock.advance(LONGEST_PAUSE)
    assert [await bench.dial() for _ in range(3)] == ["127.0.0.1"] * 3
    assert bench.names.asked == 6


async def test_a_resolver_that_says_nothing_is_asked_once_by_all(bench: Bench) -> None:
    """Each look-up blocks a thread, of which there are few; who comes later waits for the same one."""
    bench.names.speak.clear()
    waiting = [asyncio.ensure_future(bench.dial(bench.destination("dns: 50ms"))) for _ in range(20)]  # noqa: TID251
    await asyncio.sleep(0)
    bench.clock.advance(0.05)
    assert await asyncio.gather(*waiting) == ["dns_timeout"] * 20
    late = asyncio.ensure_future(bench.dial())  # noqa: TID251
    await asyncio.sleep(0)
    bench.names.speak.set()
    assert await late == "127.0.0.1"
    assert bench.names.asked == 1


PHASES = {
    "dns": (
        "dns: 40ms",
        "dns_timeout",
        "After 0.04 s, resolving `localhost` had not finished",
        "`timeouts.dns`.",
    ),
    "dns-within-connect": (
        "connect: 50ms",
        "dns_timeout",
        "After 0.05 s, resolving",
        "`timeouts.connect`, which",
    ),
    "connect": (
        "connect: 4s",
        "connect_timeout",
        "connecting to `localhost:",
        "`timeouts.connect`, which",
    ),
    "tls": ("tls: 40ms", "tls_timeout", "After 0.04 s, the TLS handshake", "`timeouts.tls`."),
    "tls-within-connect": (
        "connect: 500ms",
        "tls_timeout",
        "After 0.5 s, the TLS",
        "`timeouts.connect`, which",
    ),
    "tls-with-both": ("connect: 500ms, tls: 500ms", "tls_timeout", "After 0.5 s, the TLS", "`timeouts."),
}


@pytest.mark.parametrize("case", PHASES)
async def test_each_phase_has_its_reason_and_names_its_key(bench: Bench, case: str) -> None:
    """504; whatever took the time is named, with the key that would give it more."""
    timeouts, reason, says, key = PHASES[case]
    if case.startswith("dns"):
        bench.names.speak.clear()
    if case == "connect":
        bench.names.addresses = ("127.0.0.9",)
        bench.die("127.0.0.9", leap=LEAP)
    scheme = "https" if case.startswith("tls") else "http"
    assert await bench.dial(bench.destination(timeouts, scheme=scheme)) == reason
    assert (bench.error.status, says in bench.error.detail, key in bench.error.detail) == (504, True, True)
    assert bench.stats.connect_failures == {reason: 1}


async def test_a_connection_that_was_made_is_not_given_up(bench: Bench) -> None:
    """Where the process stood still in that moment, and the time is up: made and failed is not both to happen."""
    made: list[Protocol] = []

    class Slow(Protocol):
        def __init__(self) -> None:
            made.append(self)
            self.lost = False
            bench.leap(LEAP)  # longer than connecting may take

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost = True

    async with asyncio.timeout(LIMIT + LEAP):
        got = await bench.dialer.connect(
            bench.destination("connect: 4s"), lambda http2: Slow(), None, bench.stats
        )
    assert made == [got]
    await asyncio.sleep(0)
    assert not got.lost
    assert not got.transport.is_closing()
    got.transport.abort()
    assert bench.stats.connect_failures == {}


# no descriptor left


@contextmanager
def full_table() -> Iterator[None]:
    """No descriptor can be had in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_full_descriptor_table_is_not_held_against_an_address(bench: Bench) -> None:
    """However often: the dial after that is made at once, and counted apart from what the network does."""
    with full_table():
        for _ in range(5):
            assert await bench.dial() == "no_descriptors"
    assert "no file descriptor left for connecting to `localhost:" in bench.error.detail
    assert f"`localhost:{bench.port}`" in bench.error.detail
    assert bench.error.retry_after == 1.0
    assert await bench.dial() == "127.0.0.1"
    assert (bench.stats.connect_failures, bench.stats.connects_held_back) == ({"no_descriptors": 5}, 0)


@pytest.mark.parametrize("down", ["its-address", "its-name"])
async def test_a_full_descriptor_table_is_no_try_of_what_is_down(bench: Bench, down: str) -> None:
    """The next one makes it, and need not wait as if one were under way."""
    destination = bench.destination(port=free_port())
    if down == "its-name":
        bench.names.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    for _ in range(5):
        await bench.dial(destination)
    bench.clock.advance(LONGEST_PAUSE)
    with full_table():
        assert await bench.dial(destination) == "no_descriptors"
    made = bench.stats.connects_held_back
    await bench.dial(destination)
    assert bench.stats.connects_held_back == made


async def test_a_name_that_the_resolver_had_no_descriptor_for_is_not_unknown(bench: Bench) -> None:
    """The C library says that the name is not known, or to try again; without a full table that is so."""
    bench.names.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    with full_table():
        for _ in range(5):
            assert await bench.dial() == "no_descriptors"
    assert "no file descriptor left for resolving `localhost`" in bench.error.detail
    assert await bench.dial() == "dns_failed"


# words


CHECK_UP = "Check that the service is up and that the route's `upstream` names its port."


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_a_refusal_in_mid_connection_is_read_by_the_version_of_tls(version: str, bench: Bench) -> None:
    """A handshake that fails later is a new one in TLS 1.2, and in 1.3 the refusal of a certificate."""

    class Sock:
        def version(self) -> str:
            return version

        def get_socket(self) -> object:
            return self

    alert = ssl.SSLError(1, "[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure")
    alert.reason = "SSLV3_ALERT_HANDSHAKE_FAILURE"
    error = dial.later_fault(bench.destination(scheme="https"), Sock(), alert)  # type: ignore[arg-type]
    assert error is not None
    assert (error.reason is Reason.TLS_RENEGOTIATION) == (version == "TLSv1.2")


async def test_what_failed_lately_is_not_put_between_the_others(bench: Bench) -> None:
    """Families take turns, but not where that brings forward what was put last."""
    bench.names.addresses = ("::1",)
    assert await bench.dial() == "connect_refused"
    bench._keep(socket.create_server(("::1", bench.port), family=socket.AF_INET6))
    bench.names.addresses = ("::1", "127.0.0.8", "127.0.0.1")
    bench.tried.clear()
    assert await bench.dial() == "127.0.0.1"
    assert bench.tried == ["127.0.0.8", "127.0.0.1"]
    bench.clock.advance(FORGOTTEN + 1)
    bench.names.addresses = ("127.0.0.8", "127.0.0.9", "::1")
    assert await bench.dial() == "::1"
    assert bench.tried[2:] == ["127.0.0.8", "::1"]


async def test_a_connection_that_is_reset_at_once_is_told_by_its_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to look at."""

    class Reset(socket.socket):
        def getpeername(self) -> Any:
            raise OSError(errno.ENOTCONN, "not connected")

    made = Reset()

    async def connect(*_: object, **__: object) -> socket.socket:
        return made

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", connect)
    assert await bench.dial() == "connect_failed"
    says = "reset the connection as soon as it was made. Check that the service is up."
    assert (bench.error.detail, made.fileno()) == (f"`localhost:{bench.port}` {says}", -1)


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        pytest.param(
            OSError(errno.ECONNREFUSED, "Connection refused"),
            "connect_refused",
            "connection refused",
            id="refused",
        ),
        pytest.param(
            OSError("Multiple exceptions: [Errno 111] Connection REFUSED, [Errno 111] Connection REFUSED"),
            "connect_refused",
            "connection refused",
            id="refused-by-all",
        ),
        pytest.param(
            OSError(errno.ETIMEDOUT, "timed out"), "connect_timeout", "timed out", id="the-kernel-s-timeout"
        ),
        pytest.param(
            OSError(errno.EHOSTUNREACH, "No route to host"), "connect_failed", "No route to host", id="no-way"
        ),
        pytest.param(OSError("something else"), "connect_failed", "something else", id="without-a-number"),
    ],
)
async def test_a_connection_that_fails_says_how(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str, words: str
) -> None:
    """In the system's words."""

    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", fail)
    assert await bench.dial() == reason
    assert bench.error.detail == f"`localhost:{bench.port}` could not be connected to ({words}). {CHECK_UP}"


async def test_an_upstream_that_is_down_is_told_with_what_comes_next(bench: Bench) -> None:
    """When the last dial was, and when the next one is, or that it is under way."""
    bench.names.addresses = ("127.0.0.9",)
    for _ in range(3):
        await bench.dial()
    bench.clock.advance(0.01)
    assert await bench.dial() == "connect_refused"
    says = f"`localhost:{bench.port}` could not be connected to (connection refused) {{}} s ago, after several failures in a row; "
    hint = ". Check that the service is up, and what the route's `upstream` names."
    assert bench.error.detail == says.format("0.01") + "the next one is made in 0.04 s" + hint
    bench.clock.advance(0.04)
    begun, gate = asyncio.Event(), asyncio.Event()

    async def stand_still(sock: socket.socket, address: object) -> None:
        begun.set()
        await gate.wait()
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    bench.loop.sock_connect = stand_still  # type: ignore[method-assign]  # the fixture puts it back
    under_way = asyncio.ensure_future(bench.dial())  # noqa: TID251
    async with asyncio.timeout(LIMIT):
        await begun.wait()
    assert await bench.dial() == "connect_refused"
    assert bench.error.detail == says.format("0.05") + "another try is under way" + hint
    gate.set()
    assert await under_way == "connect_refused"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "Name or service not known",
            id="no-such-name",
        ),
        pytest.param(UnicodeEncodeError("idna", "a", 0, 1, "label too long"), None, id="a-fault"),
        pytest.param(OSError("odd"), "odd", id="without-a-number"),
    ],
)
async def test_a_name_that_is_not_resolved_says_why(bench: Bench, error: Any, words: str | None) -> None:
    """In the resolver's words; what is no error of the system comes out as it is."""
    bench.names.error = error
    if words is None:
        with pytest.raises(UnicodeEncodeError):
            await bench.dial()
        return
    assert await bench.dial() == "dns_failed"
    assert bench.error.detail == (
        f"`localhost` could not be resolved ({words}). Check the route's `upstream` and the resolver of this machine."
    )
    for _ in range(2):
        await bench.dial()
    assert await bench.dial() == "dns_failed"
    assert bench.error.detail.startswith(
        f"`localhost` could not be resolved ({words}) 0.00 s ago, after several"
    )


async def test_a_resolver_that_says_nothing_is_not_asked_forever(bench: Bench) -> None:
    """Its silence is a failure like others, and is reported as one."""
    bench.names.speak.clear()
    destination = bench.destination("dns: 10ms")
    assert [await bench.dial(destination) for _ in range(4)] == ["dns_timeout"] * 4
    assert bench.error.detail.startswith(
        "`localhost` could not be resolved (no answer in time) 0.00 s ago, after several failures in a row; "
    )


async def test_a_name_whose_addresses_are_all_forbidden_says_each(bench: Bench) -> None:
    """With why."""
    bench.names.addresses = ("169.254.169.254", "192.0.2.1")
    assert await bench.dial() == "address_forbidden"
    first, _, second = bench.error.detail.partition("; ")
    assert first.startswith(
        "Route `a`: `localhost` resolves to an address that is never dialled (169.254.169.254: "
    )
    assert second.startswith("192.0.2.1: ")
    assert second.endswith("). Check the route's `upstream` and what DNS says of it.")


def route_with(ca_file: Path, scheme: str = "https") -> Route:
    text = f"routes: [{{name: a, upstream: '{scheme}://localhost', tls: {{ca_file: '{ca_file}'}}}}]"
    return RouteTable.compile(load(text, environ={}).config).routes[0]


async def test_tls_files_are_read_before_the_first_dial(bench: Bench, tmp_path: Path) -> None:
    """A route whose files can't be used is reported at start; one that is gone is forgotten with them."""
    file = write(tmp_path / "ca.pem", authority("a CA").pem)
    route = route_with(file)
    bench.dialer.check(route)
    file.unlink()
    bench.dialer.check(route)
    bench.dialer.forget([route])
    with pytest.raises(SidecarError) as caught:
        bench.dialer.check(route)
    assert caught.value.reason is Reason.TLS_FILES


async def test_a_change_of_tls_files_is_found_after_a_second(bench: Bench, tmp_path: Path) -> None:
    """By the dialer's clock."""
    file = write(tmp_path / "ca.pem", authority("a CA").pem)
    route = route_with(file)
    bench.dialer.check(route)
    write(file, authority("another CA, of a longer name").pem)
    assert bench.dialer.look() == []
    bench.clock.advance(1.0)
    assert [(found.route, found.ok) for found in bench.dialer.look()] == [(route, True)]


@pytest.fixture
async def secure(bench: Bench, tmp_path: Path) -> AsyncIterator[Callable[[Issued], Awaitable[Destination]]]:
    """A TLS server with a certificate of the test's CA, and the way to it."""
    servers: list[asyncio.Server] = []

    async def begin(shown: Issued) -> Destination:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(write(tmp_path / "shown.pem", shown.pem, shown.key_pem))
        servers.append(await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context))
        text = (
            f"routes: [{{name: a, upstream: 'https://localhost:{servers[-1].sockets[0].getsockname()[1]}', "
            f"tls: {{ca_file: '{write(tmp_path / 'ca.pem', AUTHORITY.pem)}'}}}}]"
        )
        fixed = RouteTable.compile(load(text, environ={}).config).routes[0].fixed()
        assert fixed is not None
        return fixed

    yield begin
    for server in servers:
        await close_server(server)


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    await reader.read()
    writer.close()


AUTHORITY = authority("the test's CA")
Begin = Callable[[Issued], Awaitable[Destination]]


class Listening(Protocol):
    """Hears what the server says."""

    def __init__(self) -> None:
        self.heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.heard.set_result(data)


async def test_over_tls_bytes_come_through_and_a_session_is_taken_up_again(
    bench: Bench, secure: Begin
) -> None:
    """The second handshake goes by the session of the first connection."""
    destination = await secure(issue(AUTHORITY))
    session, reused = None, []
    for _ in range(2):
        async with asyncio.timeout(LIMIT):
            made = await bench.dialer.connect(destination, lambda http2: Listening(), session, bench.stats)
            assert await made.heard == b"hello"
        reused.append(made.transport.get_socket().session_reused)
        session = tls.session_of(made.transport)
        made.transport.abort()
    assert reused == [False, True]


@pytest.mark.parametrize(
    ("shown", "reason", "says"),
    [
        pytest.param(
            issue(AUTHORITY, days=(-9, -1)),
            "tls_certificate_expired",
            "clock says Fri, 15 Jan 2027 08:00:00 GMT",
            id="expired",
        ),
        pytest.param(
            issue(authority("another CA")),
            "tls_unknown_ca",
            "which is not in the route's `tls.ca_file`",
            id="unknown",
        ),
        pytest.param(
            issue(AUTHORITY, ("b.example",)), "tls_wrong_name", "is not for `localhost`", id="wrong-name"
        ),
    ],
)
async def test_a_certificate_that_is_not_good_is_told_with_why(
    bench: Bench, secure: Begin, shown: Issued, reason: str, says: str
) -> None:
    """With the sidecar's clock, the route's files and the name that was asked for."""
    destination = await secure(shown)
    assert await bench.dial(destination) == reason
    assert f"`localhost:{destination.port}`" in bench.error.detail
    assert says in bench.error.detail
