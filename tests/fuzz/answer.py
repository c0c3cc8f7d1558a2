"""Bytes from an upstream: one that says what was asked, four that say where the answer is cut, then the answer."""

from __future__ import annotations

from typing import Final

from sidecar.errors import Reason
from sidecar.proxy.refusals.outages import Outages
from tests.conformance.memory import Played
from tests.conformance.play import ANSWER
from tests.fuzz import reference
from tests.fuzz.stage import Finding, Stage, expect, head_of, on_stage, places

_HOST: Final = b"Host: billing.internal\r\n"
_ASKED: Final = (
    b"GET /x HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"HEAD /x HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"POST /x HTTP/1.1\r\n" + _HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    b"GET /x HTTP/1.1\r\n" + _HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /x HTTP/1.0\r\n" + _HOST + b"\r\n",
    b"GET /own/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PUT /x HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    b"POST /x HTTP/1.0\r\n" + _HOST + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
)
"""The requests that may be under way: the three lowest bits of an input choose."""

_ENDS: Final = 8
_USED: Final = 16
"""Bits: the upstream ends its connection after the answer; the connection has served a request before."""

_FOR_THIS_HOP: Final = {
    *(
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"http2-settings",
    ),
}
_LIMITED: Final = ("limited",)
_LONGEST_INTERVAL: Final = 31.0
"""Seconds: after so many, a target's word against a token is heard again."""


def target(data: bytes) -> None:
    """Raise a Finding where the app gets what could be two answers, half a one as a whole one, or the next one's."""
    on_stage(_play, data)


def _play(stage: Stage, data: bytes) -> None:
    flags, cuts, stream = data[0] if data else 0, data[1:5], data[5:]
    whole = _verdict(stage, flags, stream, ())
    if pieces := places(cuts, len(stream)):
        stage.begin()
        split = _verdict(stage, flags, stream, pieces)
        # A limit is looked at where the reads end, and counts what came by then: also what is no part of the answer.
        expect(whole == split or _LIMITED in (whole, split), "another verdict at", pieces, whole, split)


def _verdict(stage: Stage, flags: int, stream: bytes, pieces: tuple[int, ...]) -> tuple[object, ...]:
    outages = stage.memory.proxy.ledger.outages
    before = _times_too_large(outages)
    found = _judge(flags, stream, _one(stage, flags, stream, pieces))
    return _LIMITED if _times_too_large(outages) > before else found


def _times_too_large(outages: Outages) -> int:
    return sum(group.times for group in outages.errors() if group.reason is Reason.UPSTREAM_HEAD_TOO_LARGE)


def _one(stage: Stage, flags: int, stream: bytes, pieces: tuple[int, ...]) -> Played:
    """Ask, be answered by `stream`, and see that the next request is answered as ever."""
    memory, upstream = stage.memory, stage.memory.upstream
    upstream.answer, upstream.pieces, upstream.end = ANSWER, (), False
    if flags & _USED:
        memory.play(_ASKED[0])
    before = stage.bearers()
    upstream.answer, upstream.pieces, upstream.end = stream, pieces, bool(flags & _ENDS)
    played = memory.play(_ASKED[flags & 7])
    expect(not upstream.ambiguous, "ambiguous towards the upstream:", upstream.ambiguous)
    expect(1 <= len(upstream.requests) <= 2, "sent to the upstream", len(upstream.requests))
    forwarded = upstream.requests
    upstream.answer, upstream.pieces, upstream.end = ANSWER, (), False
    if any(not line.gone for line in upstream.lines):  # else the next request has a connection of its own
        another = memory.play(_ASKED[0])
        expect(another.data == ANSWER, "the next request was answered by", head_of(another))
        forwarded = [*forwarded, *upstream.requests]
    for request in forwarded:
        stage.check_forwarded(request, before)
    after = stage.bearers()
    for bearer in (*before.values(), *after.values()):
        expect(bearer is None or bearer[20:] not in played.data, "a token went to the app")
    if before != after:
        memory.clock.advance(_LONGEST_INTERVAL)
        memory.settle()
    stage.check(len(stream) * 2)
    return played


def _judge(flags: int, stream: bytes, played: Played) -> tuple[object, ...]:
    """What the app was given, as it can tell; raises a Finding where that is not what came."""
    method = _ASKED[flags & 7].partition(b" ")[0]
    http10 = b" HTTP/1.0\r\n" in _ASKED[flags & 7]
    ended = bool(flags & _ENDS)
    try:
        given = reference.read_answer(played.data, method, ended=played.closed and not played.reset)
    except reference.Incomplete:
        expect(
            not played.closed and not ended and _is_waited_for(stream, method), "no answer", head_of(played)
        )
        return ("waiting",)
    except reference.Malformed as what:
        raise Finding(f"the app got what is no answer ({what!r}): {head_of(played)!r}") from what
    if given.status in (500, 502, 503) and any(
        name == b"proxy-status" and value.startswith(b"idtoken-sidecar; error=")
        for name, value in given.fields
    ):
        expect(given.status == 502, "a status of its own", head_of(played))
        expect(given.whole and not given.rest, "more than its own answer", head_of(played))
        return (502,)
    for name, _ in given.fields:
        expect(name not in _FOR_THIS_HOP, "a line for this hop only", name)
    expect(not given.malformed, "chunks that make no sense", head_of(played))
    try:
        came = reference.read_answer(stream, method, ended=ended)
    except (reference.Malformed, reference.Incomplete) as what:
        raise Finding(f"passed on what is no answer ({what!r}): {head_of(played)!r}") from what
    expect(given.status == came.status, "another status", given.status, came.status)
    expected = [] if http10 else came.interim
    # Of a first try that the target refused the token of, the app may have had some already.
    earlier = given.interim[: len(given.interim) - len(expected)] if len(played.requests) > 1 else []
    expect(
        given.interim == earlier + expected and earlier == expected[: len(earlier)],
        "other interim answers",
        given.interim,
        came.interim,
    )
    if given.status == 101:
        expect(flags & 7 == 3, "a switch that nobody asked for")
        expect(given.rest == came.rest, "other bytes in the tunnel")
        return (101, given.rest)
    expect(not given.rest, "more than one answer", head_of(played))
    if given.whole:
        expect(came.whole, "half an answer as a whole one", head_of(played))
        expect(given.body == came.body, "another body", given.body, came.body)
        expect(set(given.trailers) <= set(came.trailers), "trailers", given.trailers)
        return (given.status, given.fields, given.body, given.trailers)
    expect(came.malformed or came.body.startswith(given.body), "bytes that nobody sent", given.body)
    if not played.closed:
        expect(not (came.whole or came.malformed or ended), "an answer that never ends", head_of(played))
        return ("waiting", given.status, given.fields, given.body)
    # How far it got before it broke off is a matter of the pieces.
    return (given.status, "cut")


def _is_waited_for(stream: bytes, method: bytes) -> bool:
    """Whether no final head came yet."""
    try:
        reference.read_answer(stream, method, ended=False)
    except reference.Incomplete:
        return True
    except reference.Malformed:
        return False
    return False
