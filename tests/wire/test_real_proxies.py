"""Upstreams behind the proxies that stand in companies: squid and tinyproxy, as Debian has them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.sidecar import free_port
from tests.support.wire import GET, OK, Wire
from tests.wire.test_egress import asked, shown

LIMIT = 60.0
PASSWORD = "pass-word_1"


def tinyproxy(directory: Path, port: int, allowed: int) -> list[str]:
    """It wants a password."""
    file = directory / "tinyproxy.conf"
    file.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\nConnectPort {allowed}\n"
        f'BasicAuth me {PASSWORD}\nLogLevel Error\nPidFile "{directory}/pid"\n'
    )
    return ["tinyproxy", "-d", "-c", str(file)]


def squid(directory: Path, port: int, allowed: int) -> list[str]:
    """It allows one port."""
    file = directory / "squid.conf"
    file.write_text(
        f"http_port 127.0.0.1:{port}\nacl allowed port {allowed}\nacl CONNECT method CONNECT\n"
        f"http_access deny CONNECT !allowed\nhttp_access allow localhost\nhttp_access deny all\n"
        f"pid_filename none\naccess_log none\ncache_log /dev/null\ncache deny all\nshutdown_lifetime 0 seconds\n"
        f"coredump_dir {directory}\ncache_effective_user {'proxy' if os.geteuid() == 0 else os.environ.get('USER', 'nobody')}\n"
    )
    return ["squid", "-N", "-f", str(file)]


REAL: dict[str, Callable[[Path, int, int], list[str]]] = {"tinyproxy": tinyproxy, "squid": squid}


class Running:
    """One of them, and the only port that it makes tunnels to."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.port, self.allowed = free_port(), free_port()
        directory.chmod(0o755)
        self._process = subprocess.Popen(REAL[name](directory, self.port, self.allowed))

    async def listens(self) -> None:
        async def accepts() -> bool:
            assert self._process.poll() is None, f"{self.name} ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(accepts, why=f"{self.name} says nothing when it listens")

    def url(self, credentials: str = f"me:{PASSWORD}") -> str:
        user = f"{credentials}@" if self.name == "tinyproxy" and credentials else ""
        return f"http://{user}127.0.0.1:{self.port}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(params=sorted(REAL))
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if shutil.which(request.param) is None:
        if os.environ.get("IDTOKEN_TEST_ALL"):
            pytest.fail(f"`make test-all` is to have installed {request.param}")
        pytest.skip(f"{request.param} is not installed (`make test-all` installs it)")
    running = Running(request.param, tmp_path_factory.mktemp(request.param))
    yield running
    running.close()


async def begun(wire: Wire, real: Running, directory: Path | None, *, url: str | None = None) -> None:
    """The upstream on the port that the proxy allows; loopback, so that the proxy can resolve it: the route says so."""
    await real.listens()
    await wire.upstream.start(real.allowed, tls=None if directory is None else shown(directory, "localhost"))
    tls = "" if directory is None else f"tls: {{ca_file: '{directory}/ca.pem'}}\n"
    await wire.start(
        f"{tls}egress_proxy: '{url or real.url()}'",
        upstream=f"{'http' if directory is None else 'https'}://localhost:{real.allowed}",
    )


@pytest.mark.parametrize("secure", [True, False], ids=["https", "http"])
async def test_requests_go_through(wire: Wire, real: Running, tmp_path: Path, secure: bool) -> None:
    """Several on one tunnel, with bodies in both directions."""
    await begun(wire, real, tmp_path if secure else None)
    app = await wire.app()
    body = bytes(200_000)
    await app.send(GET)
    upstream = await wire.upstream.accept()
    assert b"\r\nAuthorization: Bearer " in await upstream.read_head()
    await upstream.send(OK)
    assert (await app.answer()).status == 200
    await app.send(
        f"POST /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    head = await upstream.read_head()
    assert PASSWORD.encode() not in head
    assert await upstream.read(len(body)) == body
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert (await app.answer()).body == body
    assert wire.upstream.waiting == 0


async def test_what_they_refuse_has_its_reason(wire: Wire, real: Running, tmp_path: Path) -> None:
    """A port that is not allowed, wrong credentials, an upstream that is not there."""
    await begun(wire, real, tmp_path)
    await wire.upstream.stop()
    answer = await asked(wire)
    # Squid and tinyproxy answer 503 and 500.
    assert (answer.status, answer.reason) == (502, "egress_proxy_failed"), answer.body

    def at(port: int, url: str) -> str:
        return (
            f"routes:\n- {{name: billing, host: billing.internal, upstream: 'https://localhost:{port}', "
            f"audience: 'https://billing.example', egress_proxy: '{url}'}}\n"
        )

    wire.switch(at(free_port(), real.url()))
    answer = await asked(wire)
    assert (answer.status, answer.reason) == (502, "egress_proxy_denied"), answer.body
    if real.name == "tinyproxy":
        for credentials in ("", "me:another"):
            wire.switch(at(real.allowed, real.url(credentials)))
            answer = await asked(wire)
            assert (answer.status, answer.reason) == (502, "egress_proxy_authentication"), answer.body
            assert b"another" not in answer.body
