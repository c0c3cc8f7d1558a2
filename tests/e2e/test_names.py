"""DNS that fails, flaps, hangs or gives a dead address first: the installed sidecar and the system's own resolver.

In network and mount namespaces of its own (tests/support/names.py); a machine that does not permit them skips it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.names import ALIVE, DEAD, PORT
from tests.support.sidecar import clean_environment
from tests.support.source import jwt
from tests.support.wire import Answer, End

LIMIT = 20.0
TOOLS = ("unshare", "ip", "mount")


def _why_not() -> str:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs the commands {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "-n", "-m", "ip", "link", "set", "lo", "up"], capture_output=True, check=False
    )
    return (
        "" if tried.returncode == 0 else f"namespaces are not permitted here: {tried.stderr.decode().strip()}"
    )


WHY_NOT = _why_not()
pytestmark = [pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "permitted"), pytest.mark.slow]


class World:
    """The namespaces, seen from outside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = str(directory / "s")

    async def start(self) -> None:
        token = jwt("https://x.example", time.time())  # noqa: TID251  # the sidecar is a real process
        routes = "\n".join(
            f"  - {{name: {name}, host: {name}.test, upstream: 'http://{name}.localhost:{PORT}', "
            f"audience: 'https://x.example', timeouts: {{connect: 10s, dns: 2s}}}}"
            for name in ("one", "two")
        )
        config = (
            f"listen: unix:{self._socket}\nadmin: unix:{self._directory}/a\nlog_format: json\n"
            f"credentials: {{default: {{type: static, token: {token}}}}}\nroutes:\n{routes}\n"
        )
        (self._directory / "config.yaml").write_text(config)
        script = Path(__file__).parents[1] / "support" / "names.py"
        self._process = await asyncio.create_subprocess_exec(
            *("unshare", "-n", "-m", sys.executable, str(script), str(self._directory)),
            env=clean_environment(PYTHONPATH=str(Path(__file__).parents[2])),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        await self.names({})
        await eventually(self._listens, why="its log is not read here")

    async def _listens(self) -> bool:
        """Its file alone says little: it is there before listen(2)."""
        try:
            _, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        writer.transport.abort()
        return True

    async def names(self, answers: Mapping[str, list[str] | str]) -> dict[str, int]:
        """Answer so from now on; how often each name was asked for."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            json.dumps({f"{n}.localhost": a for n, a in answers.items()}).encode() + b"\n"
        )
        async with asyncio.timeout(LIMIT):
            line = await self._process.stdout.readline()
        assert line.startswith(b"ok "), line
        return {name.removesuffix(".localhost"): count for name, count in json.loads(line[3:]).items()}

    async def ask(self, name: str) -> str:
        """The address that answered, or the reason."""
        end = End(*await asyncio.open_unix_connection(self._socket))
        try:
            end.writer.write(f"GET / HTTP/1.1\r\nHost: {name}.test\r\n\r\n".encode())
            answer: Answer = await end.answer()
        finally:
            await end.close()
        return answer.body.decode() if answer.status == 200 else answer.reason

    async def ask_until(self, name: str, wanted: str) -> None:
        """Ask again and again until that comes."""
        async with asyncio.timeout(LIMIT):
            while await self.ask(name) != wanted:
                pass

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.close()


async def test_a_dead_address_first_delays_nobody_for_long(world: World) -> None:
    """Every request is answered, by the address that lives."""
    await world.names({"one": [DEAD, ALIVE[0]]})
    assert [await world.ask("one") for _ in range(5)] == [ALIVE[0]] * 5


async def test_dns_that_flaps_is_followed(world: World) -> None:
    """From one address to another, to none, and back."""
    seen: list[Any] = []
    for answer, wanted in (
        ([ALIVE[0]], ALIVE[0]),
        ([ALIVE[1]], ALIVE[1]),
        ("nxdomain", "dns_failed"),
        ([DEAD, ALIVE[1]], ALIVE[1]),
    ):
        await world.names({"one": answer})
        seen.append((await world.ask("one"), wanted))
    assert [got for got, _ in seen] == [wanted for _, wanted in seen]


async def test_dns_that_fails_is_not_stormed_and_recovers(world: World) -> None:
    """Two hundred requests are fewer than half as many look-ups; once it answers, so do requests. Twenty come at a time: how
    many wait for one look-up is not to hang on how fast this machine asks."""
    await world.names({"one": "servfail"})
    assert await world.ask("one") == "dns_failed"
    alone = (await world.names({"one": "servfail"}))["one"]
    for _ in range(10):
        assert set(await asyncio.gather(*(world.ask("one") for _ in range(20)))) == {"dns_failed"}
    asked = await world.names({"one": [ALIVE[0]]})
    assert asked["one"] < 100 * alone
    await world.ask_until("one", ALIVE[0])


async def test_a_name_whose_server_is_silent_takes_no_other_down(world: World) -> None:
    """It holds one of the resolver's few threads, however many ask for it; and it recovers."""
    await world.names({"one": "silent", "two": [ALIVE[1]]})
    silent = [asyncio.ensure_future(world.ask("one")) for _ in range(40)]  # noqa: TID251
    assert [await world.ask("two") for _ in range(5)] == [ALIVE[1]] * 5
    assert set(await asyncio.gather(*silent)) == {"dns_timeout"}
    await world.names({"one": [ALIVE[0]]})
    await world.ask_until("one", ALIVE[0])
