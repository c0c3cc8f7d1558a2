"""The interop cases of gRPC (grpc's doc/interop-test-descriptions.md), with grpcio's aio client; and the sync one's sample.

All but those about authentication, and the probes of what a server can decompress. Names are the document's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.grpc.conftest import AUDIENCE, Front
from tests.support.grpc_service import (
    INITIAL,
    TRAILING,
    Empty,
    SimpleRequest,
    StreamingInputCallRequest,
    StreamingOutputCallRequest,
    Stub,
)

LIMIT = 60.0
"""Seconds that a call may take before the test fails."""
ASKED = (27182, 8, 1828, 45904)
GIVEN = (31415, 9, 2653, 58979)
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


def payload(size: int) -> dict[str, bytes]:
    return {"body": bytes(size)}


def duplex(given: int, asked: int, *, interval_us: int = 0) -> Any:
    """A message of a stream that asks for one back."""
    return StreamingOutputCallRequest(
        response_parameters=[{"size": given, "interval_us": interval_us}], payload=payload(asked)
    )


async def test_empty_unary(stub: Stub, front: Front) -> None:
    """A message of no bytes each way; behind the sidecar, with the route's token, once."""
    assert await stub.EmptyCall(Empty(), timeout=LIMIT) == Empty()
    call = front.service.calls[-1]
    assert call.method == "/grpc.testing.TestService/EmptyCall"
    if front.verifies:
        assert call.claims is not None
        assert call.claims["aud"] == AUDIENCE


async def test_large_unary(stub: Stub) -> None:
    """More than the windows that a connection begins with, each way."""
    answer = await stub.UnaryCall(SimpleRequest(response_size=314159, payload=payload(271828)), timeout=LIMIT)
    assert answer.payload.body == bytes(314159)


@pytest.mark.slow
async def test_unary_of_megabytes(stub: Stub) -> None:
    """A message of any size."""
    size = 20 << 20
    answer = await stub.UnaryCall(SimpleRequest(response_size=size, payload=payload(size)), timeout=LIMIT)
    assert len(answer.payload.body) == size


async def test_client_streaming(stub: Stub) -> None:
    requests = (StreamingInputCallRequest(payload=payload(size)) for size in ASKED)
    answer = await stub.StreamingInputCall(requests, timeout=LIMIT)
    assert answer.aggregated_payload_size == sum(ASKED) == 74922


async def test_server_streaming(stub: Stub) -> None:
    request = StreamingOutputCallRequest(response_parameters=[{"size": size} for size in GIVEN])
    call = stub.StreamingOutputCall(request, timeout=LIMIT)
    assert [len(answer.payload.body) async for answer in call] == list(GIVEN)


async def test_ping_pong(stub: Stub) -> None:
    """Each message goes only when the one before it has its answer: nothing may wait for more."""
    call = stub.FullDuplexCall(timeout=LIMIT)
    for asked, given in zip(ASKED, GIVEN, strict=True):
        await call.write(duplex(given, asked))
        assert len((await call.read()).payload.body) == given
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_half_close_is_no_end(stub: Stub) -> None:
    """The client has said all it says, and is still answered, later."""
    call = stub.FullDuplexCall(timeout=LIMIT)
    await call.write(duplex(8, 8))
    await call.write(duplex(9, 9, interval_us=300_000))
    await call.done_writing()
    assert [len(answer.payload.body) async for answer in call] == [8, 9]


async def test_empty_stream(stub: Stub) -> None:
    """An answer without a message is trailers alone."""
    call = stub.FullDuplexCall(timeout=LIMIT)
    await call.done_writing()
    assert [answer async for answer in call] == []
    assert await call.code() is grpc.StatusCode.OK


async def test_timeout_on_sleeping_server(stub: Stub) -> None:
    call = stub.FullDuplexCall(timeout=0.2)
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # as the deadline meets it
        await call.write(duplex(8, 27182, interval_us=2_000_000))
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_deadline_reaches_the_service(stub: Stub, front: Front) -> None:
    """What the service is told to keep is what is left of it, and never more than the client has sent: gRPC's core
    rounds up, a deadline of a minute to the next 0.1 s (its timeout_encoding.cc).
    """
    front.service.left.clear()
    await stub.EmptyCall(Empty(), timeout=LIMIT)
    (left,) = front.service.left
    assert left is not None
    assert 0 < left <= LIMIT + 0.1


async def test_cancel_after_begin(stub: Stub, front: Front) -> None:
    """The service learns of it."""
    watch = front.service.watch()
    call = stub.StreamingInputCall(metadata=[watch.metadata], timeout=LIMIT)
    await call.write(StreamingInputCallRequest(payload=payload(1)))
    assert await asyncio.to_thread(watch.begun.wait, LIMIT)
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert await asyncio.to_thread(watch.ended.wait, LIMIT)


async def test_cancel_after_first_response(stub: Stub, front: Front) -> None:
    watch = front.service.watch()
    call = stub.FullDuplexCall(metadata=[watch.metadata], timeout=LIMIT)
    await call.write(duplex(31415, 27182))
    assert len((await call.read()).payload.body) == 31415
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert await asyncio.to_thread(watch.ended.wait, LIMIT)


async def test_cancel_of_what_is_not_read(stub: Stub, front: Front) -> None:
    """A call whose answer fills every window ends at once, and what it held of them comes back to others."""
    for _ in range(4):
        watch = front.service.watch()
        call = stub.StreamingOutputCall(
            StreamingOutputCallRequest(response_parameters=[{"size": 1 << 20}] * 8),
            metadata=[watch.metadata],
            timeout=LIMIT,
        )
        assert len((await call.read()).payload.body) == 1 << 20
        call.cancel()
        assert await asyncio.to_thread(watch.ended.wait, LIMIT)
    answer = await stub.UnaryCall(SimpleRequest(response_size=1 << 20), timeout=LIMIT)
    assert len(answer.payload.body) == 1 << 20


async def test_status_code_and_message(stub: Stub) -> None:
    """As the service gives them, before and after an answer has begun."""
    wanted = {"code": 2, "message": "test status message"}
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await stub.UnaryCall(SimpleRequest(response_status=wanted), timeout=LIMIT)
    assert (unary.value.code(), unary.value.details()) == (grpc.StatusCode.UNKNOWN, "test status message")
    call = stub.FullDuplexCall(timeout=LIMIT)
    await call.write(StreamingOutputCallRequest(response_parameters=[{"size": 3}], response_status=wanted))
    assert len((await call.read()).payload.body) == 3
    assert (await call.code(), await call.details()) == (grpc.StatusCode.UNKNOWN, "test status message")


async def test_special_status_message(stub: Stub) -> None:
    """The escapes of grpc-message pass as they are."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.UnaryCall(SimpleRequest(response_status={"code": 2, "message": SPECIAL}), timeout=LIMIT)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.UNKNOWN, SPECIAL)


@pytest.mark.parametrize("code", range(1, 17))
async def test_every_status(stub: Stub, code: int) -> None:
    """None is taken for the proxy's own."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.UnaryCall(SimpleRequest(response_status={"code": code, "message": "said"}), timeout=LIMIT)
    assert (raised.value.code().value[0], raised.value.details()) == (code, "said")


async def test_unimplemented_method(stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.UnimplementedCall(Empty(), timeout=LIMIT)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_unimplemented_service(stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.no_such_service(Empty(), timeout=LIMIT)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_custom_metadata(stub: Stub) -> None:
    """Text at the beginning and bytes at the end, of a unary call and of a stream."""
    metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab\x00\xff"))
    unary = stub.UnaryCall(
        SimpleRequest(response_size=314159, payload=payload(271828)), metadata=metadata, timeout=LIMIT
    )
    await unary
    stream = stub.FullDuplexCall(metadata=metadata, timeout=LIMIT)
    await stream.write(duplex(314159, 271828))
    await stream.read()
    await stream.done_writing()
    for call in (unary, stream):
        assert dict(await call.initial_metadata())[INITIAL] == metadata[0][1]
        assert dict(await call.trailing_metadata())[TRAILING] == metadata[1][1]


async def test_metadata_of_the_same_name_keeps_its_order(stub: Stub, front: Front) -> None:
    """Each value by itself, text and bytes."""
    metadata = [("x-a", "1"), ("x-b-bin", b"\x01"), ("x-a", "2"), ("x-b-bin", b"\x02, \x03"), ("x-a", "1")]
    await stub.EmptyCall(Empty(), metadata=metadata, timeout=LIMIT)
    call = front.service.calls[-1]
    assert call.all("x-a") == ["1", "2", "1"]
    assert call.all("x-b-bin") == [b"\x01", b"\x02, \x03"]


async def test_metadata_of_kilobytes(stub: Stub, front: Front) -> None:
    """Below the 8 KiB that gRPC promises: a block of several frames' worth is not needed, one of a large frame is."""
    await stub.EmptyCall(Empty(), metadata=[("x-long", "a" * 6000)], timeout=LIMIT)
    assert front.service.calls[-1].all("x-long") == ["a" * 6000]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages(stub: Stub, front: Front, compression: grpc.Compression) -> None:
    """client_compressed_unary and server_compressed_unary without their probes: both ends understand each other."""
    request = SimpleRequest(
        response_size=314159, payload=payload(271828), response_compressed={"value": True}
    )
    call = stub.UnaryCall(request, compression=compression, timeout=LIMIT)
    assert len((await call).payload.body) == 314159
    assert dict(await call.initial_metadata()).get("grpc-encoding", "gzip") == "gzip"


async def test_many_at_once_on_one_connection(stub: Stub) -> None:
    """concurrent_large_unary: no message meets another's."""
    answers = await asyncio.gather(
        *(
            stub.UnaryCall(SimpleRequest(response_size=size, payload=payload(size)), timeout=LIMIT)
            for size in range(100_000, 100_050)
        )
    )
    assert [len(answer.payload.body) for answer in answers] == list(range(100_000, 100_050))


async def test_a_stream_that_is_not_read_holds_up_no_other(stub: Stub) -> None:
    """Its own window is full; calls beside it on the same connection are answered."""
    stalled = stub.StreamingOutputCall(
        StreamingOutputCallRequest(response_parameters=[{"size": 1 << 20}] * 16), timeout=LIMIT
    )
    assert len((await stalled.read()).payload.body) == 1 << 20
    for _ in range(10):
        await stub.UnaryCall(SimpleRequest(response_size=1000, payload=payload(1000)), timeout=LIMIT)
    left = 15
    while await stalled.read() is not grpc.aio.EOF:
        left -= 1
    assert left == 0


async def test_a_long_stream_of_small_messages(stub: Stub) -> None:
    """Each way and in turn, a thousand of them."""
    call = stub.FullDuplexCall(timeout=LIMIT)
    for number in range(1000):
        await call.write(duplex(number % 7, number % 11))
        assert len((await call.read()).payload.body) == number % 7
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK


def test_sync_client(blocking_stub: Stub) -> None:
    """A sample of the above with grpcio's other client, which most programs use."""
    stub = blocking_stub
    assert stub.EmptyCall(Empty(), timeout=LIMIT) == Empty()
    answer = stub.UnaryCall(SimpleRequest(response_size=314159, payload=payload(271828)), timeout=LIMIT)
    assert answer.payload.body == bytes(314159)
    requests = (StreamingInputCallRequest(payload=payload(size)) for size in ASKED)
    assert stub.StreamingInputCall(requests, timeout=LIMIT).aggregated_payload_size == 74922
    request = StreamingOutputCallRequest(response_parameters=[{"size": size} for size in GIVEN])
    answers = stub.StreamingOutputCall(request, timeout=LIMIT)
    assert [len(answer.payload.body) for answer in answers] == list(GIVEN)

    def asked() -> Iterator[Any]:
        yield from itertools.starmap(duplex, zip(GIVEN, ASKED, strict=True))

    assert [len(answer.payload.body) for answer in stub.FullDuplexCall(asked(), timeout=LIMIT)] == list(GIVEN)
    with pytest.raises(grpc.RpcError) as raised:
        stub.UnaryCall(SimpleRequest(response_status={"code": 2, "message": SPECIAL}), timeout=LIMIT)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.UNKNOWN, SPECIAL)
    with pytest.raises(grpc.RpcError) as late:
        list(stub.FullDuplexCall(iter([duplex(8, 8, interval_us=2_000_000)]), timeout=0.2))
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_sync_client_cancels(blocking_stub: Stub, front: Front) -> None:
    watch = front.service.watch()
    call = blocking_stub.StreamingOutputCall(
        StreamingOutputCallRequest(response_parameters=[{"size": 1 << 20}] * 64),
        metadata=[watch.metadata],
        timeout=LIMIT,
    )
    assert len(next(call).payload.body) == 1 << 20
    call.cancel()
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    assert raised.value.code() is grpc.StatusCode.CANCELLED
    assert watch.ended.wait(LIMIT)
