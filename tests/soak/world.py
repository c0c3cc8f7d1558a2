"""The processes of the soak, and their switches."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from sidecar.emulator.keys import Authority
from tests.soak.client import Route, Way
from tests.soak.faults import IAM, METADATA, OAUTH, STS, A, B, Kind
from tests.soak.judge import Quiet
from tests.soak.namespace import HOSTS
from tests.soak.setting import ROUTES, SECRET, configuration, place, routes
from tests.support.eventually import eventually
from tests.support.sidecar import COMMAND, LIMIT, ask, clean_environment, free_port, freeze

LIFE = 20
"""Seconds that every token lives."""
GAUGES = (
    "requests_in_flight",
    "upstream_connections",
    "upstream_streams",
    "token_waiting",
    "token_fetch_threads",
)


async def spawn(*command: str, environ: Mapping[str, str], **streams: Any) -> asyncio.subprocess.Process:
    """A Python process of this tree."""
    return await asyncio.create_subprocess_exec(
        sys.executable, *command, env={**environ, "PYTHONPATH": os.getcwd()}, limit=1 << 20, **streams
    )


class World:
    """All processes but the clients."""

    def __init__(self, directory: Path, seed: int, *, wild: bool) -> None:
        """`wild`: there are names and an address for the wildcard route (`namespace`)."""
        self.directory = directory
        self.seed = seed
        self.wild = wild
        self.ports = {name: free_port() for name in ROUTES}
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.environ: dict[str, str] = clean_environment()
        self.journal = directory / "journal"
        self.level = "info"
        self.extra = False
        self.reading = asyncio.Event()
        self.reading.set()
        self.log_lines = 0
        self.faults_logged: list[str] = []
        self.listening: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.tail: list[str] = []

    @property
    def routes(self) -> list[Route]:
        """As clients know them."""
        return routes(wild=self.wild)

    @property
    def ways(self) -> list[Way]:
        """The listeners."""
        plain, local, secured = self.listens
        ca_file = str(self.directory / "ca.pem")
        return [Way("tcp", plain), Way("unix", local, required=SECRET), Way("tls", secured, ca_file)]

    async def start(self) -> None:
        """Everything listens and the sidecar is ready."""
        await self._start_google()
        self.authority = Authority()
        (self.directory / "ca.pem").write_bytes(self.authority.pem)
        (self.directory / "upstream.pem").write_bytes(
            self.authority.issue(["localhost", "127.0.0.1", *HOSTS])
        )
        self._renew_certificate()
        await asyncio.gather(self._start_upstream(A), self._start_upstream(B))
        self._write_config()
        self.environ["SOAK_OBSERVED"] = str(self.directory / "observed.json")
        sidecar = await spawn(
            *("-m", "tests.soak.observed", "run", "--config", str(self.directory / "config.yaml")),
            environ=self.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self.processes["sidecar"] = sidecar
        self.reader = asyncio.create_task(self._read_log(sidecar))  # noqa: TID251
        entry = await asyncio.wait_for(self.listening, LIMIT)
        self.listens: list[str] = entry["listen"]
        self.admin_port = int(entry["admin"][0].rpartition(":")[2])

        async def is_ready() -> bool:
            return (await ask(self.admin_port, "GET", "/healthz/ready"))[0] == 200

        await eventually(is_ready, why="a probe asks, as a platform does")

    async def _start_google(self) -> None:
        google = await asyncio.create_subprocess_exec(
            *(*COMMAND, "emulator", "--write", str(self.directory), "--token-lifetime", f"{LIFE}s"),
            env=self.environ,
            stdout=asyncio.subprocess.PIPE,
        )
        self.processes["google"] = google
        assert google.stdout is not None
        async with asyncio.timeout(LIMIT):
            while b"Ctrl-C" not in (line := await google.stdout.readline()):
                assert line, "the stand-in ended"
                if line.startswith(b"certificates"):
                    url = line.split()[1].decode()
        # Read once: the server that has them is one of those that will be switched off.
        self.certificates = (await self._ask_url(url, "GET")).decode()
        # What the stand-in wrote for itself; ours takes its place.
        self.google: dict[str, Any] = yaml.safe_load((self.directory / "config.yaml").read_text())
        exports = (self.directory / "env").read_text().splitlines()
        self.environ.update(shlex.split(line)[1].split("=", 1) for line in exports)  # type: ignore[arg-type]
        self.control = self.environ["IDTOKEN_EMULATOR_CONTROL"]

    async def _start_upstream(self, name: str) -> None:
        listeners = []
        for route, plan in ROUTES.items():
            if plan.upstream == name and (self.wild or not plan.wild):
                address, port = place(route, self.ports)
                certificate = str(self.directory / "upstream.pem") if plan.tls else None
                listeners.append(
                    {"route": route, "address": address, "port": port, "certificate": certificate}
                )
        told = {
            "name": name,
            "listeners": listeners,
            "certificates": self.certificates,
            "control": self.control,
            "journal": str(self.journal),
            "seed": f"{self.seed}/{name}",
        }
        process = await spawn(
            *("-m", "tests.soak.upstream", json.dumps(told)),
            environ=self.environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), LIMIT) == b"listening\n", (
            f"{name} does not listen"
        )
        self.processes[name] = process

    def _write_config(self) -> None:
        config = configuration(self.directory, self.ports, self.google, wild=self.wild, extra=self.extra)
        self._replace("config.yaml", json.dumps(config).encode())

    def _renew_certificate(self) -> None:
        self._replace("listener.pem", self.authority.issue(["localhost"]))

    def _replace(self, name: str, content: bytes) -> None:
        """Write a file that nobody reads half, and nobody else reads at all."""
        new = self.directory / f"{name}.new"
        new.touch(mode=0o600)
        new.write_bytes(content)
        new.replace(self.directory / name)

    async def _read_log(self, sidecar: asyncio.subprocess.Process) -> None:
        assert sidecar.stdout is not None
        while line := await sidecar.stdout.readline():
            self.log_lines += 1
            self.tail = [*self.tail[-20:], line.decode("utf-8", "replace")]
            if b'"listening on ' in line and not self.listening.done():
                self.listening.set_result(json.loads(line))
            if b"Traceback" in line or b'"severity":"CRITICAL"' in line:
                self.faults_logged.append(_traceback(line.decode("utf-8", "replace")))
            await self.reading.wait()
        if not self.listening.done():
            self.listening.set_exception(RuntimeError("".join(self.tail)))

    # switches

    async def switch(self, kind: Kind, on: bool) -> None:
        """Switch a fault on or off."""
        if kind.group in (METADATA, OAUTH, STS, IAM):
            order = {"server": kind.group, **(kind.order if on else {"kind": "none"})}
            await self._ask_url(f"{self.control}/faults", "POST", order)
        elif kind.group in (A, B):
            await self._switch_upstream(kind, on)
        else:
            await self._switch_process(kind, on)

    async def _switch_upstream(self, kind: Kind, on: bool) -> None:
        if kind.order == "kill":
            if on:
                self.processes[kind.group].kill()
                await self.processes[kind.group].wait()
            else:
                await self._start_upstream(kind.group)
            return
        process = self.processes[kind.group]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(kind.order if on else {"mode": "", "share": 0.0}).encode() + b"\n")
        assert await asyncio.wait_for(process.stdout.readline(), LIMIT) == b"switched\n"

    async def _switch_process(self, kind: Kind, on: bool) -> None:
        process = self.processes["sidecar"]
        match kind.order:
            case "reload":
                self.extra = on
                self._write_config()
                status, _, body = await ask(self.admin_port, "POST", "/reload")
                assert status == 200, body
            case "level":
                level = "debug" if on else "info"
                status, _, body = await ask(self.admin_port, "POST", f"/log-level?level={level}")
                assert status == 200, body
            case "stop" if on:
                freeze(process.pid)
                await asyncio.sleep(1.0)  # how long it stands still: the fault itself
                process.send_signal(signal.SIGCONT)
            case "certificate":
                self._renew_certificate()
            case "log":
                (self.reading.clear if on else self.reading.set)()

    @staticmethod
    async def _ask_url(url: str, method: str, order: Mapping[str, Any] | None = None) -> bytes:
        """Ask the stand-in something."""
        port, _, path = url.removeprefix("http://127.0.0.1:").partition("/")
        sent = b"" if order is None else json.dumps(order).encode()
        status, _, body = await ask(int(port), method, f"/{path}", {"Content-Type": "application/json"}, sent)
        assert status == 200, body
        return body

    # readings

    async def quiet(self, name: str, rest: float) -> Quiet:
        """What there is once nothing goes on any more, or after `LIMIT`; not sooner than after `rest` seconds, in which
        the sidecar gives memory back."""
        await asyncio.sleep(rest)
        loop = asyncio.get_running_loop()
        until = loop.time() + LIMIT
        while True:
            found, gauges = await self._observed(), await self._gauges()
            fetching = any(name.startswith("token ") for name in found["tasks"])
            if loop.time() > until or not (
                fetching or any(gauges.values()) or any(found["objects"].values())
            ):
                break
            await asyncio.sleep(0.5)
        pid = self.processes["sidecar"].pid
        return Quiet(
            name,
            found["resident"],
            found["used"],
            found["blocks"],
            len(os.listdir(f"/proc/{pid}/fd")),
            found["threads"],
            len(found["tasks"]),
            found["timers"],
            found["cache_timers"],
            found["objects"],
            found["tracked"],
            found["left"],
            gauges,
        )

    async def _observed(self) -> dict[str, Any]:
        file = self.directory / "observed.json"
        file.unlink(missing_ok=True)
        os.kill(self.processes["sidecar"].pid, signal.SIGUSR2)
        await eventually(file.exists, why="it is written by a signal's handler, which says nothing")
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    async def _gauges(self) -> dict[str, float]:
        _, _, text = await ask(self.admin_port, "GET", "/metrics")
        found = dict.fromkeys(GAUGES, 0.0)
        for family in text_string_to_metric_families(text.decode()):
            name = family.name.removeprefix("idtoken_sidecar_")
            if name in found:
                found[name] = sum(sample.value for sample in family.samples)
        return found

    async def counters(self, names: Sequence[str]) -> dict[str, float]:
        """Sums of counters."""
        _, _, text = await ask(self.admin_port, "GET", "/metrics")
        found = dict.fromkeys(names, 0.0)
        for family in text_string_to_metric_families(text.decode()):
            name = family.name.removeprefix("idtoken_sidecar_")
            if name in found:
                found[name] = sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
        return found

    async def stop(self) -> int | None:
        """End everything; the sidecar politely, and its exit code."""
        self.reading.set()
        code = None
        sidecar = self.processes.pop("sidecar", None)
        if sidecar is not None:
            if sidecar.returncode is None:
                sidecar.send_signal(signal.SIGCONT)
                sidecar.terminate()
            try:
                code = await asyncio.wait_for(sidecar.wait(), LIMIT)
            except TimeoutError:
                sidecar.kill()
                await sidecar.wait()
            await self.reader
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
        return code


def _traceback(line: str) -> str:
    """A log entry with a traceback in short: its message, and each exception of the chain with its innermost frames."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line.strip()
    told, frames = [entry["message"]], list[str]()
    for part in entry["stack_trace"].splitlines():
        if part.startswith("  File"):
            frames.append(part.strip().replace("File ", "").replace(os.getcwd(), ""))
        elif part and not part.startswith((" ", "Traceback", "During", "The above")):
            told.append(f"{part} at {'; '.join(frames[-3:])}")
            frames.clear()
    return " | ".join(told)
