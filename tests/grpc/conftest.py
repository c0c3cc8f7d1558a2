"""What every gRPC test stands on: the service, what is between it and the client, and channels.

Each test runs straight against the service too, and through Envoy and nghttpx with `make test-all`: a case that fails
there is wrong itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from sidecar.emulator.keys import Authority
from sidecar.emulator.running import EmulatorThread
from tests.support import h2_proxies
from tests.support.grpc_service import GrpcService, Stub
from tests.support.process import SidecarProcess

AUDIENCE = "https://testing.example"
HOST = "testing.internal"

ROUTE = """
routes:
  - name: testing
    host: {host}
    upstream: {scheme}://localhost:{port}
    audience: {audience}
"""

FRONTS = [
    pytest.param("none"),
    pytest.param("envoy", marks=pytest.mark.test_all),
    pytest.param("nghttpx", marks=pytest.mark.test_all),
    pytest.param("sidecar"),
    pytest.param("sidecar-tls"),
]


class Front(NamedTuple):
    """What a client dials to reach the service."""

    name: str
    port: int
    service: GrpcService
    verifies: bool
    """Whether the service wants tokens."""

    @property
    def target(self) -> str:
        """For a channel."""
        return f"127.0.0.1:{self.port}"

    @property
    def options(self) -> list[tuple[str, Any]]:
        """A channel's: the name of the service, and a connection of its own."""
        return [
            ("grpc.default_authority", HOST),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        ]


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """The service behind each of them; behind the sidecar it verifies every token."""
    name = request.param
    directory: Path = tmp_path_factory.mktemp(name)
    if name.startswith("sidecar"):
        yield from _behind_the_sidecar(name, directory)
        return
    with GrpcService() as service:
        if name == "none":
            yield Front(name, service.port, service, False)
        else:
            with h2_proxies.running(name, directory, service.port) as proxy:
                yield Front(name, proxy.port, service, False)


def _behind_the_sidecar(name: str, directory: Path) -> Iterator[Front]:
    authority, secure = Authority(), name == "sidecar-tls"
    (directory / "ca.pem").write_bytes(authority.pem)
    pem = authority.issue(("localhost",))
    with GrpcService(AUDIENCE, tls=(pem, pem) if secure else None) as service:
        config = ROUTE.format(
            host=HOST,
            scheme="https" if secure else "http",
            port=service.port,
            audience=AUDIENCE,
        )
        if secure:
            config += f"    tls: {{ca_file: {directory / 'ca.pem'}}}\n"
        with (
            EmulatorThread() as thread,
            SidecarProcess(config, directory, thread.google.environment()) as sidecar,
        ):
            yield Front(name, sidecar.port, service, True)


@pytest.fixture
async def stub(front: Front) -> AsyncIterator[Stub]:
    """grpcio's aio client on a connection of its own."""
    async with grpc.aio.insecure_channel(front.target, options=front.options) as channel:
        yield Stub(channel)


@pytest.fixture
def blocking_stub(front: Front) -> Iterator[Stub]:
    """grpcio's sync client on a connection of its own."""
    with grpc.insecure_channel(front.target, options=front.options) as channel:
        yield Stub(channel)
