"""What Google's front ends refuse, and what the sidecar refuses itself, as a gRPC client sees it; and bytes that pass as they are."""

from __future__ import annotations

import gzip
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from tests.grpc.conftest import AUDIENCE, HOST
from tests.support import h2_proxies
from tests.support.google import signed
from tests.support.grpc_front_end import FrontEnd
from tests.support.sidecar import LIMIT, Sidecar, Start, free_port

METHOD = "/grpc.testing.TestService/UnaryCall"
IAP_CLIENT = "1-a.apps.googleusercontent.com"


def config(port: int, *, audience: str = AUDIENCE, target: str = "cloud_run", more: str = "") -> str:
    return (
        f"routes:\n- name: testing\n  host: {HOST}\n  upstream: http://127.0.0.1:{port}\n"
        f"  audience: {audience}\n  target: {target}\n{more}"
    )


class Called:
    """A unary call with bytes for messages."""

    def __init__(self, port: int, message: bytes = b"", *, host: str = HOST, **options: Any) -> None:
        self._port, self._message, self._host, self._options = port, message, host, options

    async def answer(self) -> bytes:
        """The answer's message; AioRpcError where it fails."""
        options = [("grpc.default_authority", self._host), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options=options) as channel:
            answer: bytes = await channel.unary_unary(METHOD)(self._message, timeout=LIMIT, **self._options)
            return answer

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        """Its status and message."""
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.answer()
        return raised.value.code(), raised.value.details() or ""


@pytest.fixture
async def strict() -> AsyncIterator[FrontEnd]:
    """Cloud Run, which lets one other caller in."""
    async with FrontEnd("cloud_run", audience=AUDIENCE, callers={"other@example.com"}) as front:
        yield front


async def test_the_front_end_refuses_as_google_does(strict: FrontEnd) -> None:
    """Without a proxy: what a gRPC client makes of the pages."""
    code, message = await Called(strict.port).refusal()
    assert (code, strict.received[-1].refused) == (grpc.StatusCode.PERMISSION_DENIED, 403)
    assert "403" in message
    wrong = (("authorization", "Bearer a.b.c"),)
    code, _ = await Called(strict.port, metadata=wrong).refusal()
    assert (code, strict.received[-1].refused) == (grpc.StatusCode.UNAUTHENTICATED, 401)
    good = signed(
        time.time(),  # noqa: TID251  # tokens are of the real clock
        aud=AUDIENCE,
        email="other@example.com",
    )
    right = (("authorization", f"Bearer {good}"),)
    assert await Called(strict.port, b"hello", metadata=right).answer() == b"hello"
    async with FrontEnd("iap", audience=IAP_CLIENT) as iap:
        code, _ = await Called(iap.port, metadata=wrong).refusal()
        assert (code, iap.received[-1].refused) == (grpc.StatusCode.UNAUTHENTICATED, 401)


async def test_a_call_is_admitted_with_the_routes_token(start: Start) -> None:
    async with FrontEnd("cloud_run", audience=AUDIENCE) as front:
        sidecar = await start(config(front.port))
        assert await Called(sidecar.port, b"hello").answer() == b"hello"
        call = front.received[-1]
        assert call.get(":path") == METHOD
        assert call.get("te") == "trailers"
        assert call.get("content-type") == "application/grpc"
        assert call.get("connection") is None


async def test_a_caller_without_the_invokers_role(start: Start, strict: FrontEnd) -> None:
    """The page's status reaches the client, and the log says what is missing."""
    sidecar = await start(config(strict.port))
    code, _ = await Called(sidecar.port).refusal()
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert strict.received[-1].refused == 403
    await said(sidecar, "roles/run.invoker")


async def test_another_audience(start: Start) -> None:
    """401, with a fresh token the second time, and no third time."""
    async with FrontEnd("cloud_run", audience="https://another.example") as front:
        sidecar = await start(config(front.port))
        code, _ = await Called(sidecar.port).refusal()
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert 1 <= len(front.received) <= 2
        await said(sidecar, "audience")


async def test_iap(start: Start) -> None:
    async with FrontEnd("iap", audience=IAP_CLIENT, callers={"other@example.com"}) as front:
        sidecar = await start(config(front.port, audience=IAP_CLIENT, target="iap"))
        code, _ = await Called(sidecar.port).refusal()
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert front.received[-1].refused == 403
        await said(sidecar, "IAP")


async def said(sidecar: Sidecar, words: str) -> None:
    """Wait until the log's account of the target's refusal has these words."""
    entry = await sidecar.logged("target refused a request of route `testing`")
    assert words in str(entry)


async def test_no_route(start: Start, strict: FrontEnd) -> None:
    """Code 12: no such service here; the message names the nearest."""
    sidecar = await start(config(strict.port))
    code, message = await Called(sidecar.port, host="testing.internl").refusal()
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "testing" in message
    assert strict.received == []


async def test_nothing_listens(start: Start) -> None:
    sidecar = await start(config(free_port()))
    code, message = await Called(sidecar.port).refusal()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert message
    assert "403" not in message


async def test_a_method_that_is_not_allowed(start: Start, strict: FrontEnd) -> None:
    """gRPC methods are paths."""
    sidecar = await start(config(strict.port, more="  allow: {paths: [/grpc.health.v1.Health/*]}\n"))
    code, _ = await Called(sidecar.port).refusal()
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert strict.received == []


async def test_no_token(start: Start, google: Emulator, strict: FrontEnd) -> None:
    """Nothing is forwarded without one."""
    google.metadata.endpoint.fail(Fault("status", code=503))
    sidecar = await start(config(strict.port), ready=False)
    code, _ = await Called(sidecar.port).refusal()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert strict.received == []


@pytest.mark.parametrize(
    "name",
    [
        "none",
        pytest.param("envoy", marks=pytest.mark.test_all),
        pytest.param("nghttpx", marks=pytest.mark.test_all),
        "sidecar",
    ],
)
async def test_compressed_bytes_are_untouched(
    request: pytest.FixtureRequest, start: Start, tmp_path: Path, name: str
) -> None:
    """A compressed message arrives as the same bytes, with the field that names its coding."""
    message = bytes(100_000)
    token = signed(time.time(), aud=AUDIENCE)  # noqa: TID251  # tokens are of the real clock
    metadata = (("authorization", f"Bearer {token}"),)
    async with FrontEnd("cloud_run", audience=AUDIENCE) as front:
        if name == "sidecar":
            port, metadata = (await start(config(front.port))).port, ()
        elif name == "none":
            port = front.port
        else:
            proxy = h2_proxies.running(name, tmp_path, front.port)
            port = proxy.__enter__().port
            request.addfinalizer(lambda: proxy.__exit__(None, None, None))
        called = Called(port, message, metadata=metadata, compression=grpc.Compression.Gzip)
        assert await called.answer() == message
        call = front.received[-1]
        assert call.get("grpc-encoding") == "gzip"
        assert call.body[0] == 1
        assert gzip.decompress(call.body[5:]) == message
