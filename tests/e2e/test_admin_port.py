"""What somebody who reaches the admin port can cost: a real sidecar, the CPU that it uses, and its data path meanwhile.

Nothing here is measured in seconds: what a hostile peer costs is compared with what as many honest requests cost in the same
run, and the data path answers a number of requests while the attack goes on.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import cache

import aiohttp
import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.running import EmulatorThread
from sidecar.emulator.targets import Target
from tests.support.process import SidecarProcess
from tests.support.sampling import sampled
from tests.support.sidecar import LIMIT, Sidecar, Start, ask

pytestmark = pytest.mark.slow

ANSWERED = 50
"""Requests of the data path in each attack."""
AT_ONCE = 40


@cache
def bomb() -> bytes:
    """600 MiB, compressed to 0.6 MB: the same block over and over, each as it would be at the beginning."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = packer.compress(bytes(1024 * 1024)) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + block * 600


def bombed(path: bytes) -> Callable[[], bytes]:
    def make() -> bytes:
        head = path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n"
        form = b"Content-Type: application/x-www-form-urlencoded\r\n"
        return head + form + b"Content-Length: %d\r\n\r\n" % len(bomb()) + bomb()

    return make


def chunked_bomb() -> bytes:
    head = b"GET /healthz/live HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x;extension=%s\r\n%s\r\n0\r\n\r\n" % (len(bomb()), b"x" * 4000, bomb())


ATTACKS = {
    "bomb": bombed(b"GET /healthz/live"),
    "bomb-to-a-post": bombed(b"POST /quit"),
    "bomb-to-the-form": bombed(b"POST /explain"),
    "bomb-in-chunks": chunked_bomb,
    "pipelined": lambda: b"GET /healthz/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10_000,
    "pipelined-scrapes": lambda: b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2_000,
    "head-of-a-million-bytes": lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: yyyy\r\n" * 110_000,
    "line-of-a-million-bytes": lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1_000_000,
    "query-of-a-million-bytes": lambda: b"GET /?" + b"a=b&" * 250_000 + b" HTTP/1.1\r\n\r\n",
    "small-chunks": lambda: (
        b"POST /explain HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\nx\r\n" * 100_000
    ),
}


async def attack(port: int, data: bytes) -> None:
    """Send it, and read what comes until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        writer.write(data)
        await writer.drain()

    sending = asyncio.get_running_loop().create_task(send())
    try:
        with suppress(ConnectionError):
            while await reader.read(65536):
                pass
    finally:
        writer.transport.abort()
        sending.cancel()
        await asyncio.gather(sending, writer.wait_closed(), return_exceptions=True)


@asynccontextmanager
async def endless(make: Callable[[], Awaitable[object]], number: int = AT_ONCE) -> AsyncIterator[None]:
    """So many at once, each again and again."""

    async def again() -> None:
        while True:
            await make()

    tasks = [asyncio.get_running_loop().create_task(again()) for _ in range(number)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def config(google: Emulator, routes: int = 1) -> str:
    return config_of(await google.add_target("billing"), routes)


def config_of(target: Target, routes: int = 1) -> str:
    rest = "".join(
        f"  - {{name: r{n}, host: r{n}.internal, upstream: 'https://r{n}.example', prefetch: off}}\n"
        for n in range(1, routes)
    )
    return f"routes:\n  - {{name: billing, host: billing.internal, upstream: '{target.url}'}}\n{rest}"


async def serves(sidecar: Sidecar | SidecarProcess) -> None:
    """Its data path does, and its probe: a kubelet would end it else."""
    async with asyncio.timeout(LIMIT):
        for _ in range(ANSWERED):
            assert (await ask(sidecar.port, "GET", "/x", host="billing.internal"))[0] == 200
        assert (await ask(sidecar.admin_port, "GET", "/healthz/live"))[0] == 200


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SidecarProcess, float]]:
    """A sidecar, and the CPU that two hundred probes cost it: one for all attacks, which leave nothing behind."""
    with EmulatorThread() as thread:
        text = config_of(thread.add_target("billing"))
        with SidecarProcess(
            text, tmp_path_factory.mktemp("attacked"), thread.google.environment()
        ) as sidecar:
            for _ in range(20):
                sidecar.admin("/healthz/live")
            before = sidecar.cpu()
            for _ in range(AT_ONCE * 5):
                sidecar.admin("/healthz/live")
            yield sidecar, sidecar.cpu() - before


@pytest.mark.parametrize(
    "name",
    sampled(ATTACKS, ["bomb", "bomb-in-chunks", "pipelined", "head-of-a-million-bytes", "small-chunks"]),
)
async def test_what_is_sent_costs_no_more_than_probes(
    attacked: tuple[SidecarProcess, float], name: str
) -> None:
    """Forty connections of it cost less than five times what forty probes do."""
    sidecar, honest = attacked
    data = ATTACKS[name]()
    before = sidecar.cpu()
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(*(attack(sidecar.admin_port, data) for _ in range(AT_ONCE)))
    assert sidecar.cpu() - before < honest
    async with endless(lambda: attack(sidecar.admin_port, data)):
        await serves(sidecar)


async def test_slow_heads_cost_nothing(google: Emulator, start: Start) -> None:
    """As many connections as there are, each of which sends a byte now and then."""
    sidecar = await start(await config(google))
    peers = [await asyncio.open_connection("127.0.0.1", sidecar.admin_port) for _ in range(150)]

    async def trickle() -> None:
        for _, writer in peers:
            if not writer.is_closing():
                writer.write(b"G")
        await asyncio.sleep(0.01)

    async with endless(trickle, 1):
        await serves(sidecar)
    for _, writer in peers:
        writer.close()


@pytest.mark.parametrize("path", sampled(("/metrics", "/status.json"), ["/status.json"]))
async def test_pages_are_made_once_for_all(google: Emulator, start: Start, path: str) -> None:
    """Of 50 routes, asked for by many at once: less than half of what as many cost one after the other."""
    sidecar = await start(await config(google, 50))
    await sidecar.admin(path)
    before = sidecar.cpu()
    for _ in range(5):
        assert (await sidecar.admin(path))[0] == 200
    one = (sidecar.cpu() - before) / 5
    before = sidecar.cpu()
    async with asyncio.timeout(LIMIT):
        for _ in range(5):
            await asyncio.gather(*(sidecar.admin(path) for _ in range(AT_ONCE)))
    assert sidecar.cpu() - before < one * AT_ONCE * 5 / 2
    async with endless(lambda: sidecar.admin(path)):
        await serves(sidecar)


@pytest.mark.parametrize("routes", sampled((20, 200), [20]))
async def test_feeds_and_pages_leave_the_data_path_its_time(
    google: Emulator, start: Start, routes: int
) -> None:
    """All feeds that there may be, and the page again and again, with many routes."""
    sidecar = await start(await config(google, routes))
    page = {"Accept": "text/html"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        feeds = [await session.get(f"http://localhost:{sidecar.admin_port}/events") for _ in range(20)]

        async def read(feed: aiohttp.ClientResponse) -> None:
            while await feed.content.readany():
                pass

        reading = [asyncio.get_running_loop().create_task(read(feed)) for feed in feeds]
        async with endless(lambda: ask(sidecar.admin_port, "GET", "/", page)):
            await serves(sidecar)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
