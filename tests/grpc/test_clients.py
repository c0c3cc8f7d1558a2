"""Health checking and reflection through the proxy, and gRPC clients that are not grpcio: Node's, Go's and grpcurl."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.clients.libraries import BUILD, GOCODE, NODE_MODULES
from tests.grpc.conftest import HOST, Front
from tests.support.grpc_service import (
    NAME,
    SimpleRequest,
    SimpleResponse,
    StreamingInputCallRequest,
    StreamingInputCallResponse,
    StreamingOutputCallRequest,
    StreamingOutputCallResponse,
)
from tests.support.sidecar import clean_environment

LIMIT = 240.0
"""Seconds for a program, with what its language compiles."""
PROGRAMS: Final = Path(__file__).with_name("programs")
SIZES: Final = (31415, 9, 2653, 58979)


async def test_health(front: Front) -> None:
    """Both of its methods: an answer, and a stream that tells of each change."""
    async with grpc.aio.insecure_channel(front.target, options=front.options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service=NAME)
        assert (await stub.Check(asked, timeout=LIMIT)).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(health_pb2.HealthCheckRequest(service="another"), timeout=LIMIT)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        watched = stub.Watch(asked, timeout=LIMIT)
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        front.service.health.set(NAME, health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        front.service.health.set(NAME, health_pb2.HealthCheckResponse.SERVING)
        assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()


async def test_reflection(front: Front) -> None:
    async with grpc.aio.insecure_channel(front.target, options=front.options) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=LIMIT
        )
        (answer,) = [answer async for answer in call]
        assert NAME in [service.name for service in answer.list_services_response.service]


def encoded(message: Any) -> str:
    """As the programs take messages."""
    return base64.b64encode(message.SerializeToString()).decode()


def slices(size: int, *, interval_us: int = 0) -> Any:
    """A message that asks for one of this size back."""
    return StreamingOutputCallRequest(
        response_parameters=[{"size": size, "interval_us": interval_us}], payload={"body": bytes(size)}
    )


MESSAGES: Final = {
    "unary": encoded(SimpleRequest(response_size=314159, payload={"body": bytes(271828)})),
    "status": encoded(SimpleRequest(response_status={"code": 2, "message": "test status ☺"})),
    "download": encoded(StreamingOutputCallRequest(response_parameters=[{"size": size} for size in SIZES])),
    "upload": [encoded(StreamingInputCallRequest(payload={"body": bytes(size)})) for size in SIZES],
    "duplex": [encoded(slices(size)) for size in SIZES],
    "slow": encoded(slices(8, interval_us=2_000_000)),
}
STREAMED: Final = [
    len(StreamingOutputCallResponse(payload={"body": bytes(size)}).SerializeToString()) for size in SIZES
]


async def run(command: list[str], given: str = "", **environ: str) -> str:
    """What a program prints; AssertionError with its errors where it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=clean_environment(**environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT):
        out, err = await process.communicate(given.encode())
    assert process.returncode == 0, err.decode()[-3000:]
    return out.decode()


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The Go program, compiled once."""
    if shutil.which("go") is None or not (GOCODE / "src/google.golang.org/grpc").exists():
        pytest.skip("go, or Debian's golang-google-grpc-dev, is not installed (`make clients` installs both)")
    binary = tmp_path_factory.mktemp("go") / "client"
    environ = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOCODE), "GOFLAGS": "-p=2"}
    done = subprocess.run(
        ["go", "build", "-o", str(binary), str(PROGRAMS / "client.go")],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [str(binary)]


@pytest.fixture(scope="module")
def node_client() -> list[str]:
    if shutil.which("node") is None or not (NODE_MODULES / "@grpc/grpc-js").exists():
        pytest.skip("node, or @grpc/grpc-js, is not installed (`make clients` installs both)")
    return ["node", str(PROGRAMS / "client.cjs")]


@pytest.mark.test_all
@pytest.mark.parametrize("language", ["go", "node"])
async def test_another_languages_client(front: Front, request: pytest.FixtureRequest, language: str) -> None:
    """A sample of the interop cases with its most used library."""
    command = request.getfixturevalue(f"{language}_client")
    out = await run(
        command,
        json.dumps(MESSAGES),
        TARGET=front.target,
        AUTHORITY=HOST,
        NODE_PATH=str(NODE_MODULES),
    )
    found = json.loads(out)
    size = len(SimpleResponse(payload={"body": bytes(314159)}).SerializeToString())
    assert found.pop("unary") == {
        "code": 0,
        "message": "",
        "size": size,
        "initial": ["value"],
        "trailing": ["ababab"],
    }
    status, unimplemented = found.pop("status"), found.pop("unimplemented")
    assert (status["code"], status["message"], status["size"]) == (2, "test status ☺", -1)
    assert unimplemented["code"] == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert found == {
        "upload": encoded(StreamingInputCallResponse(aggregated_payload_size=sum(SIZES))),
        "download": STREAMED,
        "duplex": STREAMED,
        "late": grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
        "cancelled": grpc.StatusCode.CANCELLED.value[0],
    }


@pytest.mark.test_all
async def test_grpcurl(front: Front) -> None:
    """It learns the service by reflection, and calls it."""
    found = shutil.which("grpcurl", path=f"{BUILD / 'python/bin'}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("grpcurl is not installed (`make clients` installs it)")
    command = [found, "-plaintext", "-authority", HOST]
    assert NAME in (await run([*command, front.target, "list"])).split()
    answer = await run(
        [*command, "-d", '{"responseSize": 5}', front.target, f"{NAME}/UnaryCall"],
    )
    assert json.loads(answer) == {"payload": {"body": base64.b64encode(bytes(5)).decode()}}
    answers = await run(
        [*command, "-d", "@", front.target, f"{NAME}/FullDuplexCall"],
        '{"responseParameters": [{"size": 3}]}' * 3,
    )
    assert answers.count('"body"') == 3
