"""HTTP/2 on either side, over sockets: what goes on, what is refused, and what each side learns of the other's end."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path

import hpack
import pytest
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.settings import SettingCodes

from sidecar.proxy.http2.app_stream import AppStream
from tests.support.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    PING,
    PREFACE,
    RST_STREAM,
    Frame,
    FrameReader,
    data,
    frame,
    goaway,
    headers,
    settings,
)
from tests.support.h2_peer import CALL, GET, OK, POST, Peer, fields
from tests.support.source import LIMIT
from tests.support.wire import GET as GET1
from tests.support.wire import OK as OK1
from tests.support.wire import Wire


async def an_app(wire: Wire, **more: object) -> Peer:
    """An app that speaks HTTP/2."""
    return await Peer.begin(await wire.app(), is_client=True, **more)


async def a_target(wire: Wire, **more: object) -> Peer:
    """The target's end of the next connection."""
    return await Peer.begin(await wire.upstream.accept(), is_client=False, **more)


async def test_a_request_goes_through_with_its_token(wire: Wire) -> None:
    """By prior knowledge both ways: the target's authority, the token, Via, and the answer as it came."""
    await wire.start()
    app = await an_app(wire)
    stream = await app.ask((*GET, (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x-mine", b"1")))
    target = await a_target(wire)
    request = await target.asked()
    got = fields(request)
    assert got[b":authority"] == f"127.0.0.1:{wire.upstream.port}".encode()
    assert (got[b":method"], got[b":path"], got[b":scheme"]) == (b"GET", b"/x", b"http")
    assert got[b"authorization"].startswith(b"Bearer ey")
    assert got[b"via"] == b"2.0 sidecar-under-test"
    assert (got[b"cookie"], got[b"x-mine"]) == (b"a=1; b=2", b"1")
    await target.until(StreamEnded)
    await target.answer(request.stream_id, ((b":status", b"200"), (b"x-theirs", b"2")), body=b"ok")
    answer = await app.until(ResponseReceived, stream)
    assert fields(answer) == {b":status": b"200", b"x-theirs": b"2"}
    assert await app.body(stream) == b"ok"
    assert wire.stats.requests == {("GET", 200): 1}
    assert (wire.stats.http2, wire.stats.upstream_streams) == (1, 0)


async def test_bodies_trailers_and_interim_answers_pass_both_ways(wire: Wire) -> None:
    """Of a length that nobody has said."""
    await wire.start()
    app = await an_app(wire)
    stream = await app.ask((*POST, (b"te", b"trailers")), body=b"ab", end=False)
    target = await a_target(wire)
    request = await target.asked()
    assert fields(request)[b"te"] == b"trailers"
    target.h2.send_headers(request.stream_id, ((b":status", b"103"), (b"link", b"</a>")))
    await target.flush()
    assert fields(await app.until(InformationalResponseReceived, stream))[b":status"] == b"103"
    app.h2.send_data(stream, b"cd")
    app.h2.send_headers(
        stream, ((b"x-sum", b"4"), (b"authorization", b"no"), (b"content-length", b"4")), end_stream=True
    )
    await app.flush()
    assert await target.body(request.stream_id) == b"abcd"
    assert fields(await target.until(TrailersReceived)) == {b"x-sum": b"4"}
    await target.answer(
        request.stream_id, body=b"xyz", trailers=((b"grpc-status", b"0"), (b"content-length", b"3"))
    )
    await app.until(ResponseReceived, stream)
    assert await app.body(stream) == b"xyz"
    assert fields(await app.until(TrailersReceived)) == {b"grpc-status": b"0"}


async def test_a_target_of_http1_is_found_out_and_bridged_to(wire: Wire) -> None:
    """It answers the preface in HTTP/1, has processed nothing, and is asked again in HTTP/1.1, even a POST."""
    await wire.start()
    app = await an_app(wire)
    stream = await app.ask((*POST, (b"content-length", b"2")), body=b"ab")
    first = await wire.upstream.accept()
    assert b"ey" not in await first.read_until(b"PRI * HTTP/2.0\r\n\r\n")
    await first.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    second = await wire.upstream.accept()
    head = await second.read_head()
    assert head.startswith(b"POST /x HTTP/1.1\r\n")
    assert b"Authorization: Bearer ey" in head
    assert await second.read(2) == b"ab"
    await second.send(b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nX-A:  b \r\nContent-Length: 2\r\n\r\nok")
    answer = fields(await app.until(ResponseReceived, stream))
    assert answer == {b":status": b"200", b"x-a": b"b", b"content-length": b"2"}
    assert await app.body(stream) == b"ok"
    await app.ask()
    assert (await second.read_head()).startswith(b"GET /x HTTP/1.1\r\n")
    await second.send(OK1)
    assert await app.body(3) == b"ok"


async def test_a_call_to_a_target_of_http1_says_so(wire: Wire) -> None:
    """gRPC can't be bridged."""
    await wire.start("protocol: http1")
    app = await an_app(wire)
    stream = await app.ask(CALL, body=bytes(5))
    await wire.upstream.accept()
    answer = fields(await app.until(ResponseReceived, stream))
    assert (answer[b":status"], answer[b"grpc-status"]) == (b"200", b"14")
    assert answer[b"grpc-message"].startswith(b"upstream_no_http2: ")
    await app.until(StreamEnded, stream)
    assert wire.stats.grpc == {"UNAVAILABLE": 1}
    assert wire.stats.refused == {"upstream_no_http2": 1}


async def test_an_app_of_http1_reaches_a_target_of_http2(wire: Wire) -> None:
    """Where the route says that it speaks nothing else: chunks become DATA, and trailers stay trailers."""
    await wire.start("protocol: http2")
    app = await wire.app()
    await app.send(
        b"POST /x HTTP/1.1\r\nHost: billing.internal\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n"
        b"Connection: TE, X-Hop\r\nX-Hop: 1\r\nX-Kept: 2\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    )
    target = await a_target(wire)
    request = await target.asked()
    got = fields(request)
    assert got[b"x-kept"] == b"2"
    assert not {b"transfer-encoding", b"connection", b"x-hop", b"host"} & set(got)
    assert (got[b"te"], got[b"via"]) == (b"trailers", b"1.1 sidecar-under-test")
    assert await target.body(request.stream_id) == b"abc"
    assert fields(await target.until(TrailersReceived)) == {b"x-t": b"1"}
    await target.answer(request.stream_id, body=b"hello", trailers=((b"x-end", b"1"),))
    answer = await app.answer()
    assert (answer.first, answer.body) == ("HTTP/1.1 200 OK", b"hello")
    assert answer.headers["trailers"] == "x-end: 1\r\n"


async def test_a_head_of_http1_has_no_body_from_http2(wire: Wire) -> None:
    """HEAD: the length is of what GET would give."""
    await wire.start("protocol: http2")
    app = await wire.app()
    await app.send(GET1.replace(b"GET", b"HEAD"))
    target = await a_target(wire)
    request = await target.asked()
    await target.answer(request.stream_id, (*OK, (b"content-length", b"5")))
    answer = await app.answer("HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, "5")
    await app.send(GET1)
    assert (await target.asked()).stream_id == 3


async def test_a_lone_head_of_a_call_stays_one(wire: Wire) -> None:
    """Trailers-only is one HEADERS with END_STREAM, never one and an empty DATA (golang/go 56317)."""
    await wire.start()
    app = await an_app(wire)
    stream = await app.ask(CALL, body=bytes(5))
    target = await a_target(wire)
    request = await target.asked()
    await target.answer(
        request.stream_id, (*OK, (b"content-type", b"application/grpc"), (b"grpc-status", b"5"))
    )
    answer = await app.until(ResponseReceived, stream)
    assert answer.stream_ended is not None
    assert not any(isinstance(event, DataReceived) for event in app.seen)
    await wire.turn(lambda: wire.stats.grpc == {"NOT_FOUND": 1})


async def test_what_the_app_cancels_is_cancelled_at_the_target(wire: Wire) -> None:
    """At once, with CANCEL, and the connection goes on."""
    await wire.start()
    app = await an_app(wire)
    stream = await app.ask()
    target = await a_target(wire)
    await target.asked()
    app.h2.reset_stream(stream, ErrorCodes.CANCEL)
    await app.flush()
    assert (await target.until(StreamReset)).error_code == ErrorCodes.CANCEL
    await app.ask()
    again = await target.asked()
    await target.answer(again.stream_id, body=b"ok")
    assert await app.body(3) == b"ok"
    assert wire.stats.requests == {("GET", 499): 1, ("GET", 200): 1}
    assert wire.proxy.ledger.unrouted.resets == {("from_app", "CANCEL"): 1}
    assert wire.stats.resets == {("to_upstream", "CANCEL"): 1}


async def test_what_was_refused_unread_is_sent_again(wire: Wire) -> None:
    """REFUSED_STREAM: any method, with its body; once."""
    await wire.start()
    app = await an_app(wire)
    stream = await app.ask(POST, body=b"abc")
    target = await a_target(wire)
    first = await target.asked()
    target.h2.reset_stream(first.stream_id, ErrorCodes.REFUSED_STREAM)
    await target.flush()
    again = await target.asked()
    assert await target.body(again.stream_id) == b"abc"
    target.h2.reset_stream(again.stream_id, ErrorCodes.REFUSED_STREAM)
    await target.flush()
    answer = await app.until(ResponseReceived, stream)
    assert fields(answer)[b":status"] == b"502"
    assert json.loads(await app.body(stream))["reason"] == "upstream_reset"
    assert wire.stats.retries == 1


async def test_what_a_goaway_has_not_seen_goes_elsewhere(wire: Wire) -> None:
    """Streams up to the last one go on there, later ones on another connection, whatever their method."""
    await wire.start()
    app = await an_app(wire)
    kept, moved = await app.ask(), await app.ask(POST, body=b"abc")
    target = await a_target(wire)
    first = await target.asked()
    await target.asked()
    target.h2.close_connection(last_stream_id=first.stream_id)
    await target.flush()
    other = await a_target(wire)
    request = await other.asked()
    assert await other.body(request.stream_id) == b"abc"
    await other.answer(request.stream_id, body=b"there")
    assert await app.body(moved) == b"there"
    assert kept < moved
    assert wire.stats.retries == 1


@pytest.mark.parametrize("lines", [POST, CALL], ids=["http", "grpc"])
async def test_an_answer_that_breaks_off_says_so(wire: Wire, lines: tuple[tuple[bytes, bytes], ...]) -> None:
    """By RST_STREAM with INTERNAL_ERROR and never NO_ERROR (envoy 36200); a call's has trailers with UNAVAILABLE. What
    came before is delivered."""
    await wire.start()
    app = await an_app(wire)
    stream = await app.ask(lines, body=bytes(5))
    target = await a_target(wire)
    request = await target.asked()
    kind = ((b"content-type", b"application/grpc"),) if lines is CALL else ()
    await target.answer(request.stream_id, (*OK, *kind), body=b"half", end=False)
    target.h2.reset_stream(request.stream_id, ErrorCodes.INTERNAL_ERROR)
    await target.flush()
    assert (await app.until(DataReceived, stream)).data == b"half"
    if lines is CALL:
        trailers = fields(await app.until(TrailersReceived, stream))
        assert trailers[b"grpc-status"] == b"14"
        assert trailers[b"grpc-message"].startswith(b"upstream_reset: ")
    else:
        assert (await app.until(StreamReset, stream)).error_code == ErrorCodes.INTERNAL_ERROR
    assert wire.stats.cut == {"upstream_reset": 1}


async def test_an_answer_before_the_request_is_whole_is_delivered(wire: Wire) -> None:
    """Then the app is told that nothing more is wanted, with NO_ERROR (RFC 9113 section 8.1), and so is the target."""
    await wire.start()
    app = await an_app(wire)
    stream = await app.ask(POST, body=b"half", end=False)
    target = await a_target(wire)
    request = await target.asked()
    await target.answer(request.stream_id, ((b":status", b"403"),), body=b"no")
    assert fields(await app.until(ResponseReceived, stream))[b":status"] == b"403"
    assert await app.body(stream) == b"no"
    assert (await app.until(StreamReset, stream)).error_code == ErrorCodes.NO_ERROR
    assert (await target.until(StreamReset, request.stream_id)).error_code == ErrorCodes.CANCEL


async def test_one_reader_that_stops_holds_up_nobody_else(wire: Wire) -> None:
    """Its target is held up by its stream's window, the other streams go on, and all of it comes in the end."""
    await wire.start(top="limits: {buffer: 16KiB, stream_window: 64KiB}")
    app = await an_app(wire, credits_all=False)
    app.h2.increment_flow_control_window(1 << 20)
    slow, quick = await app.ask(), await app.ask()
    target = await a_target(wire)
    first, second = await target.asked(), await target.asked()
    target.h2.send_headers(first.stream_id, OK)
    sent = 0
    while window := min(target.h2.local_flow_control_window(first.stream_id), 16384):
        target.h2.send_data(first.stream_id, bytes(window))
        sent += window
        await target.flush()
        await app.until(DataReceived, slow) if sent <= 49152 else None
        if sent > 400_000:
            break
        if not target.h2.local_flow_control_window(first.stream_id):
            # What the app has a window for may still free some.
            for _ in range(20):
                await wire.yield_()
            if target.end.reader._buffer:  # type: ignore[attr-defined]
                await target.read()
    assert sent < 400_000, "the target was not held up"
    assert wire.stats.flow_control_stalls or wire.proxy.ledger.unrouted.flow_control_stalls
    await target.answer(second.stream_id, body=b"quick")
    taken = 0
    body = b""
    while b"quick" not in body:
        event = await app.until(DataReceived)
        if event.stream_id == quick:
            body += event.data
        else:
            taken += len(event.data)
    app.h2.increment_flow_control_window(1 << 20)
    app.h2.increment_flow_control_window(1 << 20, slow)
    await app.flush()
    target.h2.end_stream(first.stream_id)
    await target.flush()
    while not any(isinstance(event, StreamEnded) and event.stream_id == slow for event in app.seen):
        assert await app.read()


async def test_a_head_without_an_end_is_given_up(wire: Wire) -> None:
    """After `limits.head_timeout`, however often it goes on: nothing else can come on its connection. Another head begun
    meanwhile has its own time."""
    await wire.start(top="limits: {head_timeout: 5s}")
    end = await wire.app()
    await end.send(PREFACE + settings() + headers(1, GET, end_headers=False))
    await wire.turn(lambda: wire.proxy.connections)
    continued = frame(CONTINUATION, 0, 1, b"")
    reader, seen, began_mono = FrameReader(), list[Frame](), wire.clock.mono()
    while not wire.proxy.ledger.unrouted.refused:
        assert wire.clock.mono() < began_mono + 10
        await end.send(continued)
        await wire.yield_()
        wire.clock.advance(1.0)
    async with asyncio.timeout(LIMIT):
        while data_in := await end.reader.read(65536):
            seen += reader.feed(data_in)
    assert [one.name for one in seen if one.kind == GOAWAY] == ["GOAWAY(ENHANCE_YOUR_CALM)"]
    assert wire.proxy.ledger.unrouted.refused == {"head_timeout": 1}


async def test_heads_that_are_slow_and_end_are_served(wire: Wire) -> None:
    """Each within the limit, all of them together beyond."""
    await wire.start(top="limits: {head_timeout: 5s}")
    end = await wire.app()
    await end.send(PREFACE + settings())
    for stream in (1, 3, 5):
        await end.send(headers(stream, GET, end_headers=False))
        await wire.turn(lambda: wire.proxy.connections)
        for _ in range(3):
            await wire.yield_()
            wire.clock.advance(1.0)
        await end.send(frame(CONTINUATION, END_HEADERS, stream))
        await wire.turn(lambda count=(stream + 1) // 2: wire.stats.in_flight == count)
    assert wire.proxy.ledger.unrouted.refused == {}


async def test_an_app_s_own_error_is_no_fault_of_its_requests(wire: Wire) -> None:
    """The code of its GOAWAY comes back when its connection ends; that is not the sidecar's judgement of it."""
    await wire.start()
    end = await wire.app()
    await end.send(PREFACE + settings() + goaway(0, code=2))
    await wire.turn(lambda: wire.proxy.connections)
    await end.close()
    await wire.turn(lambda: not wire.proxy.connections)
    assert wire.proxy.ledger.outages.errors() == []
    assert wire.proxy.ledger.unrouted.refused == {}


async def test_a_target_says_how_many_requests_it_takes(wire: Wire) -> None:
    """Those above its limit go by another connection, and none is lost."""
    await wire.start()
    app = await an_app(wire)
    first = await app.ask()
    target = await a_target(wire, announced={SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    one = await target.asked()
    second = await app.ask()
    other = await a_target(wire)
    two = await other.asked()
    await other.answer(two.stream_id, body=b"two")
    await target.answer(one.stream_id, body=b"one")
    assert (await app.body(first), await app.body(second)) == (b"one", b"two")


REFUSED = {
    "no-route": ((*GET[:2], (b":authority", b"stranger.example"), GET[3]), b"404", "no_route", b"12"),
    "two-authorities": ((*GET, (b"host", b"other.internal")), b"400", "bad_host", b"3"),
    "scheme": ((GET[0], (b":scheme", b"ftp"), *GET[2:]), b"400", "malformed_request", b"3"),
    "out-of-the-root": ((*GET[:3], (b":path", b"/a/../../b")), b"400", "malformed_request", b"3"),
    "method": (((b":method", b"BREW"), *GET[1:]), b"501", "method_not_carried", b"12"),
    "expectation": ((*GET, (b"expect", b"miracles")), b"417", "expectation_failed", b"12"),
    "twin": ((*GET, (b"content_length", b"3")), b"400", "malformed_request", b"3"),
    "lines": ((*GET, *((b"x%d" % n, b"1") for n in range(201))), b"431", "head_too_large", b"8"),
    "size": ((*GET, (b"x", bytes(70_000).replace(b"\0", b"y"))), b"431", "head_too_large", b"8"),
    "target": ((*GET[:3], (b":path", b"/".ljust(17_000, b"a"))), b"414", "target_too_long", b"8"),
    "browser": ((*GET, (b"origin", b"https://evil.example")), b"403", "caller_refused", b"7"),
}


@pytest.mark.parametrize("is_call", [False, True], ids=["http", "grpc"])
@pytest.mark.parametrize("case", REFUSED)
async def test_a_refusal_ends_one_stream(wire: Wire, case: str, is_call: bool) -> None:
    """As a problem document, or as a call's status; the connection goes on, and the target hears nothing of it."""
    lines, status, reason, grpc_status = REFUSED[case]
    await wire.start()
    app = await an_app(wire)
    app.h2.config.validate_outbound_headers = False
    more = ((b"content-type", b"application/grpc"),) if is_call else ()
    stream = await app.ask((*lines, *more))
    answer = fields(await app.until(ResponseReceived, stream))
    if is_call:
        assert (answer[b":status"], answer[b"grpc-status"]) == (b"200", grpc_status)
        assert answer[b"grpc-message"].startswith(reason.encode())
    else:
        assert (answer[b":status"], answer[b"proxy-status"].partition(b";")[0]) == (
            status,
            b"idtoken-sidecar",
        )
        assert json.loads(await app.body(stream))["reason"] == reason
    assert wire.upstream.waiting == 0
    await app.ask()
    target = await a_target(wire)
    await target.answer((await target.asked()).stream_id, body=b"ok")
    assert await app.body(stream + 2) == b"ok"


async def test_a_call_s_deadline_goes_on_and_holds(wire: Wire) -> None:
    """What is left of it is what the target is told; when it has passed, the call ends with DEADLINE_EXCEEDED."""
    await wire.start()
    wire.source.gate.clear()
    app = await an_app(wire)
    stream = await app.ask((*CALL, (b"grpc-timeout", b"5S")), body=bytes(5))
    target = await a_target(wire)
    request = await target.asked()
    assert fields(request)[b"grpc-timeout"] == b"5000000u"
    wire.clock.advance(6)
    answer = fields(await app.until(ResponseReceived, stream))
    assert (answer[b"grpc-status"], answer[b"grpc-message"].partition(b":")[0]) == (
        b"4",
        b"deadline_exceeded",
    )
    assert (await target.until(StreamReset)).error_code == ErrorCodes.CANCEL


async def test_a_refusal_by_a_page_reaches_the_call(wire: Wire) -> None:
    """Cloud Run answers a call that may not invoke it with a page, which a client would drop: its status says why."""
    await wire.start()
    app = await an_app(wire)
    stream = await app.ask(CALL, body=bytes(5))
    target = await a_target(wire)
    request = await target.asked()
    page = b"<html><h1>Error: Forbidden</h1><h2>Your client does not have permission to get URL</h2></html>"
    await target.answer(
        request.stream_id, ((b":status", b"403"), (b"content-type", b"text/html; charset=UTF-8")), body=page
    )
    answer = fields(await app.until(ResponseReceived, stream))
    assert (answer[b":status"], answer[b"grpc-status"]) == (b"200", b"7")
    assert b"HTTP 403" in answer[b"grpc-message"]
    await app.until(StreamEnded, stream)
    assert wire.stats.requests == {("POST", 403): 1}
    assert wire.stats.grpc == {"PERMISSION_DENIED": 1}
    assert wire.stats.upstream_refusals


async def test_a_drain_says_so_twice(wire: Wire) -> None:
    """The first GOAWAY ends nothing; when its PING has come back the second names the last stream, and all that was
    begun is finished."""
    await wire.start()
    app = await wire.app()
    reader = FrameReader()
    await app.send(PREFACE + settings() + headers(1, GET))
    target = await a_target(wire)
    request = await target.asked()
    wire.proxy.begin_drain()
    seen: list[Frame] = []

    async def until(kind: int) -> Frame:
        while not any(found.kind == kind for found in seen):
            async with asyncio.timeout(LIMIT):
                seen.extend(reader.feed(await app.reader.read(65536)))
        found = next(found for found in seen if found.kind == kind)
        seen.remove(found)
        return found

    assert (await until(GOAWAY)).payload == (2**31 - 1).to_bytes(4, "big") + bytes(4)
    ping_ = await until(PING)
    assert not [found for found in seen if found.kind == GOAWAY]
    await app.send(frame(PING, ACK, 0, ping_.payload))
    assert (await until(GOAWAY)).payload == bytes((0, 0, 0, 1)) + bytes(4)
    await target.answer(request.stream_id, body=b"ok")
    assert (await until(DATA)).payload == b"ok"
    assert await app.rest() == b""
    await app.close()
    await wire.turn(lambda: not wire.proxy.connections)


async def test_too_many_frames_that_move_nothing_end_the_connection(wire: Wire) -> None:
    """With ENHANCE_YOUR_CALM; counted, and said once."""
    await wire.start()
    app = await an_app(wire)
    for _ in range(30):
        for _ in range(100):
            app.h2.ping(b"12345678")
        await app.flush()
    ended = await app.until(ConnectionTerminated)
    assert ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    await wire.turn(lambda: wire.proxy.ledger.unrouted.refused == {"too_many_frames": 1})


async def test_windows_are_whole_after_all_has_ended(wire: Wire) -> None:
    """What was reset, refused, answered early or cancelled is credited on the connection's window."""
    await wire.start(top="limits: {stream_window: 64KiB, streams: 3}")
    app = await an_app(wire)
    whole = None
    for number in range(12):
        stream = await app.ask(POST, body=bytes(16_000), end=False)
        if number == 0:
            target = await a_target(wire)
            await app.until(WindowUpdated)
        request = await target.asked()
        while not any(isinstance(event, DataReceived) for event in target.seen):
            await target.read()
        target.seen.clear()
        if number % 3 == 0:
            app.h2.reset_stream(stream, ErrorCodes.CANCEL)
            await app.flush()
            await target.until(StreamReset)
        elif number % 3 == 1:
            await target.answer(request.stream_id, ((b":status", b"413"),), body=b"")
            await app.until(StreamReset, stream)
        else:
            target.h2.reset_stream(request.stream_id, ErrorCodes.INTERNAL_ERROR)
            await target.flush()
            await app.until(StreamReset, stream)
        await app.flush()
    last = await app.ask(POST, body=bytes(16_000))
    request = await target.asked()
    assert len(await target.body(request.stream_id)) == 16_000
    await target.answer(request.stream_id, body=b"ok")
    assert await app.body(last) == b"ok"
    whole = app.h2.outbound_flow_control_window
    assert whole > 3 * 65536 // 2


async def test_the_windows_of_a_stream_of_small_messages_never_close(wire: Wire) -> None:
    """They are credited a few messages at a time, in both directions, and the streams go on."""
    await wire.start(top="limits: {stream_window: 64KiB, streams: 1}")
    app = await an_app(wire)
    stream = await app.ask(CALL, body=bytes(1000), end=False)
    target = await a_target(wire)
    request = await target.asked()
    await target.answer(request.stream_id, end=False)
    message = bytes(1000)
    for _ in range(200):
        for sender, receiver in ((app, target), (target, app)):
            sender.h2.send_data(stream if sender is app else request.stream_id, message)
            await sender.flush()
            await receiver.until(DataReceived)
            while sender.h2.local_flow_control_window(1) < 65536 // 4:
                await sender.until(WindowUpdated)
    app.h2.reset_stream(stream, ErrorCodes.CANCEL)
    await app.flush()
    await target.until(StreamReset)


async def test_over_tls_it_is_agreed_on(wire: Wire, tmp_path: Path) -> None:
    """A target that takes http/1.1 only is bridged to, without another dial."""
    await wire.start(secure=tmp_path)
    app = await an_app(wire)
    stream = await app.ask()
    target = await wire.upstream.accept()
    assert (await target.read_head()).startswith(b"GET /x HTTP/1.1\r\n")
    await target.send(OK1)
    assert await app.body(stream) == b"ok"
    assert wire.upstream.waiting == 0


@pytest.mark.parametrize("size", [1, 2, 3, 17, 18, 23])
async def test_the_preface_may_come_in_pieces(wire: Wire, size: int) -> None:
    """HTTP/2 all the same."""
    await wire.start()
    end = await wire.app()
    app = Peer(end, is_client=True)
    app.h2.initiate_connection()
    data = app.h2.data_to_send()
    await end.send(data[:size])
    for _ in range(5):
        await wire.yield_()
    await end.send(data[size:])
    await app.ask()
    target = await a_target(wire)
    await target.answer((await target.asked()).stream_id, body=b"ok")
    assert await app.body(1) == b"ok"


@pytest.mark.parametrize("data", [b"P", b"PR"])
async def test_a_beginning_of_the_preface_may_be_another_request(wire: Wire, data: bytes) -> None:
    """`P` and `PR` begin others, too."""
    await wire.start()
    app = await wire.app()
    await app.send(b"P")
    for _ in range(5):
        await wire.yield_()
    await app.send(b"UT /x HTTP/1.1\r\nHost: billing.internal\r\nContent-Length: 0\r\n\r\n")
    target = await wire.upstream.accept()
    assert (await target.read_head()).startswith(b"PUT /x HTTP/1.1\r\n")
    await target.send(OK1)
    assert (await app.answer()).body == b"ok"


@pytest.mark.parametrize("size", [0, 3])
async def test_a_length_and_chunks_never_stand_together(wire: Wire, size: int) -> None:
    """A length of 0 with an end that comes later: what goes on in HTTP/1 has one framing."""
    await wire.start("protocol: http1")
    app = await an_app(wire)
    stream = await app.ask((*POST, (b"content-length", b"%d" % size)), body=b"abc"[:size], end=False)
    target = await wire.upstream.accept()
    head = await target.read_head()
    assert (b"content-length: 3\r\n" in head, b"chunked" in head) == (size == 3, size == 0)
    app.h2.end_stream(stream)
    await app.flush()
    assert await target.read(3 if size else 5) == (b"abc" if size else b"0\r\n\r\n")
    await target.send(OK1)
    assert await app.body(stream) == b"ok"


async def test_an_answer_that_its_head_ends_says_so_in_http1(wire: Wire) -> None:
    """Without a length it would end with the connection."""
    await wire.start("protocol: http2")
    app = await wire.app()
    for method, said in ((b"GET", "0"), (b"HEAD", None), (b"GET", "0")):
        await app.send(GET1.replace(b"GET", method))
        if method == b"GET" and said == "0" and not wire.stats.requests:
            target = await a_target(wire)
        await target.answer((await target.asked()).stream_id)
        assert (await app.answer(method.decode())).headers.get("content-length") == said


async def test_an_answer_s_length_and_chunks_never_stand_together(wire: Wire) -> None:
    """Trailers behind a length of 0 are chunks without it."""
    await wire.start("protocol: http2")
    app = await wire.app()
    await app.send(GET1)
    target = await a_target(wire)
    request = await target.asked()
    await target.answer(request.stream_id, (*OK, (b"content-length", b"0")), trailers=((b"x-t", b"1"),))
    answer = await app.answer()
    assert "content-length" not in answer.headers
    assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", b"")
    assert answer.headers["trailers"] == "x-t: 1\r\n"


async def test_what_the_framing_refuses_is_counted(wire: Wire) -> None:
    """Its stream ends with PROTOCOL_ERROR, and the target hears nothing of it."""
    await wire.start()
    app = await wire.app()
    reader = FrameReader()
    await app.send(PREFACE + settings() + headers(1, (*GET, (b"connection", b"close"))))
    seen: list[Frame] = []
    while not any(found.kind == RST_STREAM for found in seen):
        async with asyncio.timeout(LIMIT):
            seen += reader.feed(await app.reader.read(65536))
    assert [found.name for found in seen if found.stream == 1] == ["RST_STREAM(PROTOCOL_ERROR)"]
    await wire.turn(lambda: wire.proxy.ledger.unrouted.refused == {"malformed_request": 1})
    assert wire.upstream.waiting == 0


async def test_a_token_is_never_indexed(wire: Wire) -> None:
    """In whatever header it goes: it stands in no table of HPACK's (RFC 7541 section 7.1.3)."""
    await wire.start("header: X-Token")
    app = await an_app(wire)
    await app.ask()
    target = await a_target(wire)
    request = await target.asked()
    (token,) = [line for line in request.headers if line[0] == b"x-token"]
    assert bytes(token[1]).startswith(b"Bearer ey")
    assert isinstance(token, hpack.NeverIndexedHeaderTuple)


async def test_a_long_drain_says_so_no_more_than_twice(wire: Wire) -> None:
    """Whatever sweeps there are while a stream goes on."""
    await wire.start()
    app = await wire.app()
    reader = FrameReader()
    await app.send(PREFACE + settings() + headers(1, GET))
    target = await a_target(wire)
    request = await target.asked()
    wire.proxy.begin_drain()
    for _ in range(8):
        wire.clock.advance(1)
        await wire.yield_()
    await target.answer(request.stream_id, body=b"ok")
    seen = reader.feed(await app.rest())
    assert [found.kind for found in seen].count(GOAWAY) == 2
    assert [found.payload for found in seen if found.kind == DATA] == [b"ok"]


async def test_an_app_that_takes_nothing_more_is_given_up(wire: Wire) -> None:
    """After `limits.send_timeout`, with its connection: nothing that is framed behind can be sent either."""
    await wire.start(top="limits: {send_timeout: 5s, stream_window: 1MiB}")
    app = await wire.app(narrow=True)
    await app.send(
        PREFACE + settings((4, 1 << 24)) + frame(8, 0, 0, (1 << 24).to_bytes(4, "big")) + headers(1, GET)
    )
    target = await a_target(wire)
    request = await target.asked()
    target.h2.send_headers(request.stream_id, OK)
    for _ in range(60):
        target.h2.send_data(request.stream_id, bytes(16384))
    await target.flush()
    await wire.turn(lambda: wire.stats.bytes_received or wire.proxy.ledger.unrouted.flow_control_stalls)
    for _ in range(20):
        wire.clock.advance(1)
        await wire.yield_()
    await wire.turn(lambda: not wire.proxy.connections)


async def test_nothing_is_kept_of_streams_that_the_framing_ended(wire: Wire) -> None:
    """A body shorter than its length, while the request was on its way."""
    await wire.start()
    app = await wire.app()
    reader = FrameReader()
    await app.send(PREFACE + settings())
    for stream in range(1, 20, 2):
        await app.send(headers(stream, (*POST, (b"content-length", b"5")), end=False))
        await app.send(data(stream, b"abc"))
    await wire.upstream.accept()  # or the server may be closed before it has heard of the connection
    ended: set[int] = set()
    while len(ended) < 10:
        async with asyncio.timeout(LIMIT):
            found = reader.feed(await app.reader.read(65536))
        ended |= {one.stream for one in found if one.name == "RST_STREAM(PROTOCOL_ERROR)"}
    await wire.turn(lambda: not wire.stats.in_flight)
    gc.collect()
    assert not [kept for kept in gc.get_objects() if isinstance(kept, AppStream)]
