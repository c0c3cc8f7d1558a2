"""The real sidecar as a process of its own, for tests that share one: a plain context manager, without an event loop."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support import forks
from tests.support.sidecar import COMMAND, LIMIT, clean_environment, cpu_of


class Reply(NamedTuple):
    """An answer that came through the sidecar."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class SidecarProcess:
    """`idtoken-sidecar run` with a configuration; its ports are chosen by the system."""

    def __init__(self, config: str, directory: Path, environ: Mapping[str, str], *arguments: str) -> None:
        file = directory / "config.yaml"
        file.write_text("listen: localhost:0\nadmin: localhost:0\nlog_format: json\n" + config, "utf-8")
        self.command = [*COMMAND, "run", "--config", str(file), *arguments]
        self.environ = clean_environment(**environ)
        self.lines: list[str] = []
        self.port = self.admin_port = 0
        self._listening = threading.Event()

    def __enter__(self) -> Self:
        ours, theirs = os.pipe()
        self._stdout = os.fdopen(ours)
        self.process = forks.begin(self.command, env=self.environ, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(LIMIT) or not self.port:
            self._end()
            raise AssertionError(f"it does not listen:\n{self.text}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(LIMIT)
        self._stdout.close()

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        return cpu_of(self.process.pid)

    @property
    def text(self) -> str:
        """All of its log so far."""
        return "".join(self.lines)

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log entries so far."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def get(self, route: str, path: str = "/x", *, method: str = "GET", **headers: str) -> Reply:
        """One request to a route, by its name."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(self.port, path, {"Host": f"{route}.localhost", **named}, method=method)

    def admin(self, path: str) -> Reply:
        """One request to the admin server."""
        return self.ask(self.admin_port, path, {})

    def status(self, route: str) -> dict[str, Any]:
        """What /status.json shows of a route."""
        (found,) = (entry for entry in self.admin("/status.json").json["routes"] if entry["name"] == route)
        return dict(found)

    @staticmethod
    def ask(port: int, path: str, headers: Mapping[str, str], *, method: str = "GET") -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT * 2)
        try:
            connection.request(method, path, headers=dict(headers))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    def _read(self) -> None:
        for line in self._stdout:
            self.lines.append(line)
            if '"listening on ' in line:
                entry = json.loads(line)
                self.port = int(entry["listen"][0].rpartition(":")[2])
                self.admin_port = int(entry["admin"][0].rpartition(":")[2])
                self._listening.set()
        self._listening.set()
