"""The real sidecar as a process of its own, as users run it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.emulator.app import Emulator
from tests.support import forks
from tests.support.eventually import LIMIT as LIMIT
from tests.support.eventually import eventually, eventually_here
from tests.support.forks import COMMAND as COMMAND


def free_port() -> int:
    """A TCP port of both loopbacks that nobody listens on, for programs that can't be told to choose one.

    On Linux it stays bound until the tests end: who asks for this one may listen on it (with SO_REUSEADDR, as servers do), who
    connects meanwhile is refused, and nobody is given it who asks for any.
    """
    while True:
        with socket.socket() as four, socket.socket(socket.AF_INET6) as six:
            four.bind(("127.0.0.1", 0))
            port = int(four.getsockname()[1])
            try:
                six.bind(("::1", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
            for sock in (four, six):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if sys.platform == "linux":  # others let nobody listen beside it
                    sock.detach()
            return port


@pytest.fixture
def unused_tcp_port() -> int:
    """In place of pytest-asyncio's, which another process may be given before it is used."""
    return free_port()


def clean_environment(**more: str) -> dict[str, str]:
    """The test's own environment without what would reach a sidecar from outside it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("IDTOKEN_SIDECAR_", "GCE_", "GOOGLE_", "CLOUDSDK_"))
        and not name.lower().endswith("_proxy")
    }
    return {**kept, **more}


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Forked:
    """A process that `forks` has begun, with as much of asyncio's `Process` as tests use."""

    def __init__(self, process: forks.Process, stdout: asyncio.StreamReader) -> None:
        self._process = process
        self.pid = process.pid
        self.stdout = stdout
        self.send_signal = process.send_signal
        self.kill = process.kill

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    async def wait(self) -> int:
        return await asyncio.to_thread(self._process.wait)

    @classmethod
    async def begin(cls, command: Sequence[str], environ: Mapping[str, str]) -> Forked:
        """Start it; what it prints, and its errors too, are its `stdout`."""
        ours, theirs = os.pipe()
        process = forks.begin(command, env=environ, stdout=theirs, stderr=theirs)
        os.close(theirs)
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb"))
        return cls(process, reader)


class Sidecar:
    """One running process and what it logged."""

    def __init__(self, process: asyncio.subprocess.Process | Forked) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.text = ""
        self._changed = asyncio.Condition()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.text += line.decode()
            if line.startswith(b"{"):
                self.log.append(json.loads(line))
            async with self._changed:
                self._changed.notify_all()

    async def logged(self, message: str, *, times: int = 1, **fields: Any) -> dict[str, Any]:
        """The log entry with this message and these fields, once it is there: the first, or the last of so many."""

        def found() -> list[dict[str, Any]]:
            return [
                entry
                for entry in self.log
                if entry["message"].startswith(message)
                and all(entry.get(name) == value for name, value in fields.items())
            ]

        async with asyncio.timeout(LIMIT), self._changed:
            await self._changed.wait_for(lambda: len(found()) >= times)
        return found()[times - 1]

    async def listening(self) -> None:
        """Wait until it listens."""
        entry = await self.logged("listening")
        self.port = int(entry["listen"][0].rpartition(":")[2])
        self.admin_port = int(entry["admin"][0].rpartition(":")[2])

    async def ready(self) -> None:
        """Wait until its own probe says that it is ready."""

        async def is_ready() -> bool:
            return (await self.admin("/healthz/ready"))[0] == 200

        await eventually(is_ready, why="a probe asks, as a platform does")

    async def admin(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Ask the admin server."""
        status, _, body = await ask(self.admin_port, method, path)
        return status, body.decode()

    async def status(self) -> dict[str, Any]:
        """/status.json"""
        document: dict[str, Any] = json.loads((await self.admin("/status.json"))[1])
        return document

    async def own_port(self, route: str) -> int:
        """The port of a route's own listener."""
        (entry,) = [entry for entry in (await self.status())["routes"] if entry["name"] == route]
        use = next(
            use["use"]
            for use in entry["ways_in"]
            if use["kind"] == "listen" and use["use"].startswith("http")
        )
        return int(use.rstrip("/").rpartition(":")[2])

    async def metric(self, name: str, **labels: str) -> float:
        """The value of a sample."""
        from prometheus_client.parser import text_string_to_metric_families

        _, text = await self.admin("/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        return cpu_of(self.process.pid)

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(LIMIT):
            code = await self.process.wait()
            await self._reading
            return code

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()


async def command(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """One of the product's commands: exit code, stdout, stderr."""
    environ = clean_environment(**environ)
    done = await asyncio.to_thread(forks.run, [*COMMAND, *arguments], env=environ, timeout=LIMIT)
    return done.returncode, done.stdout, done.stderr


def freeze(pid: int) -> None:
    """SIGSTOP to a process, and wait until all its threads stand still: until then they may answer."""
    os.kill(pid, signal.SIGSTOP)

    def stands_still() -> bool:
        stats = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(stat.rpartition(") ")[2][0] in "Tt" for stat in stats)

    eventually_here(stands_still, why="the kernel tells a process's own parent only that it stopped")


Start = Callable[..., Awaitable[Sidecar]]


async def ask(
    port: int,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    host: str = "",
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, headers by lower-case name, body."""
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'localhost:{port}'}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
            if body:
                lines.append(f"Content-Length: {len(body)}")
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
    first, *fields = head.decode("latin-1").split("\r\n")
    found = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    if found.get("transfer-encoding") == "chunked":
        whole = b""
        while rest and (size := int(rest.split(b"\r\n", 1)[0], 16)):
            rest = rest.split(b"\r\n", 1)[1]
            whole, rest = whole + rest[:size], rest[size + 2 :]
        rest = whole
    return int(first.split(" ")[1]), found, rest


@pytest.fixture
async def start(google: Emulator, tmp_path: Path) -> AsyncIterator[Start]:
    """Start sidecars: `await start(CONFIG)` gives one that is ready (`ready=False`: one that listens)."""
    running: list[Sidecar] = []

    async def begin(
        config: str,
        *arguments: str,
        ready: bool = True,
        emulator: Emulator = google,
        **environ: str,
    ) -> Sidecar:
        file = tmp_path / f"config-{len(running)}.yaml"
        file.write_text("listen: localhost:0\nadmin: localhost:0\nlog_format: json\n" + config, "utf-8")
        environ = clean_environment(**emulator.environment(), **environ)
        sidecar = Sidecar(await Forked.begin([*COMMAND, "run", "--config", str(file), *arguments], environ))
        running.append(sidecar)
        await sidecar.listening()
        if ready:
            await sidecar.ready()
        return sidecar

    yield begin
    for sidecar in running:
        await sidecar.stop()
