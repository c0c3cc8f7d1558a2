"""Bytes from an app: four that say where they are cut, then the stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tests.conformance import strict
from tests.conformance.memory import Played
from tests.fuzz import reference
from tests.fuzz.stage import Finding, Stage, expect, head_of, on_stage, places

_ADDED: Final = {b"host", b"via", b"transfer-encoding", b"connection", b"te", b"upgrade"}
"""Lines that the sidecar may write in its own words."""

_NOT_IN_TRAILERS: Final = {
    *(b"authorization", b"x-serverless-authorization", b"proxy-authorization", b"content-length"),
    *(b"transfer-encoding", b"host", b"connection", b"trailer", b"cookie", b"set-cookie", b"te", b"upgrade"),
}

_BY_LIMIT: Final = {414, 431}
"""Statuses that may come sooner or later, as the bytes come: a limit is looked at where they are cut."""


def target(data: bytes) -> None:
    """Raise a Finding where the sidecar forwards what it should not, answers out of turn, or hangs."""
    on_stage(_play, data)


def _play(stage: Stage, data: bytes) -> None:
    stream = data[4:]
    whole = stage.memory.play(stream)
    _judge(stage, stream, whole)
    if cuts := places(data, len(stream)):
        stage.begin()
        split = stage.memory.play(stream, cuts)
        _judge(stage, stream, split)
        _compare(whole, split, cuts)


def _judge(stage: Stage, stream: bytes, played: Played) -> None:
    expect(not played.ambiguous, "ambiguous towards the upstream:", played.ambiguous)
    read = reference.read_requests(stream)
    asked = iter(read.requests)
    for request in played.requests:
        stage.check_forwarded(request)
        _find(request, asked)
    _judge_answers(stream, read, played)
    stage.check(len(stream))


def _find(request: strict.Request, asked: Iterator[reference.Request]) -> None:
    """What was forwarded is the next request but those refused, and in the app's own words."""
    method, path, _ = request.line.split(b" ")
    wrong = ""
    for candidate in asked:
        if candidate.method == method and candidate.body == request.body and _leads_to(candidate, path):
            wrong = _difference(candidate, request)
            if not wrong:
                return
    raise Finding(f"nobody asked for {request.line!r} {request.body!r} {wrong}")


def _leads_to(asked: reference.Request, path: bytes) -> bool:
    came = asked.path()
    return path == came or (came.startswith(b"/own") and came[4:].lstrip(b"/") == path[1:].lstrip(b"/"))


def _difference(asked: reference.Request, sent: strict.Request) -> str:
    """What of `sent` may not come of `asked`; empty where all of it may."""
    known, trailers = set(asked.fields), set(asked.trailers)
    known |= {(name, value.lstrip(b"0") or b"0") for name, value in known if name == b"content-length"}
    nominated = set(reference.members(asked.fields, b"connection")) - {b"content-length"}
    for name, value in sent.fields:
        if value.startswith(b"Bearer eyJ") or name in _ADDED:
            continue
        if (name, value) not in known:
            return f"nobody sent {name!r}: {value!r}"
        if name in nominated:
            return f"{name!r} was for this hop only"
        if name.replace(b"_", b"-") == b"content-length" and name != b"content-length":
            return f"{name!r} reads as a length"
    for name, value in sent.trailers:
        if (name, value) not in trailers or name in _NOT_IN_TRAILERS:
            return f"the trailer {name!r}: {value!r}"
    return ""


def _judge_answers(asked: bytes, read: reference.Read, played: Played) -> None:
    """One answer for each request, in order; after what makes no sense, one more, and the end."""
    stream, count = played.data, 0
    last_closes = False
    for number in range(len(read.requests) + 1):
        if not stream:
            break
        expect(not last_closes, "an answer after the last one", head_of(played))
        method = read.requests[number].method if number < len(read.requests) else b""
        try:
            answer = reference.read_answer(stream, method, ended=played.closed)
            if not answer.whole and not method and b"HEAD " in asked:
                # Of a request that makes no sense, the sidecar may have known the method or not.
                answer = reference.read_answer(stream, b"HEAD", ended=played.closed)
        except (reference.Malformed, reference.Incomplete) as what:
            raise Finding(f"an answer that is none ({what!r}): {head_of(played)!r}") from what
        expect(answer.whole, "an answer that is not whole", head_of(played))
        last_closes = b"close" in reference.members(answer.fields, b"connection")
        # A tunnel is not what was answered: the upstream here never switches.
        expect(answer.status != 101, "a switch that nobody granted")
        stream, count = answer.rest, count + 1
    expect(not stream, "more answers than requests", head_of(played))
    if not played.closed:
        expect(count >= len(read.requests), "no answer", count, len(read.requests))
        expect(read.bad is None, "no end after", str(read.bad), head_of(played))
    else:
        expect(count, "an end without an answer", head_of(played))


def _compare(whole: Played, split: Played, cuts: tuple[int, ...]) -> None:
    for one_status, other_status in zip(whole.statuses, split.statuses, strict=False):
        if one_status != other_status:
            limited = {one_status, other_status} & _BY_LIMIT
            expect(limited, "another verdict at", cuts, whole.statuses, split.statuses)
            return
    if set(whole.statuses + split.statuses) & _BY_LIMIT:
        return
    expect(whole.statuses == split.statuses, "another verdict at", cuts, whole.statuses, split.statuses)
    expect(whole.closed == split.closed, "another end at", cuts, whole.statuses)
    expect(whole.requests == split.requests, "another request at", cuts, whole.requests, split.requests)
    one, other = (re.findall(rb'; details="(\w+)"', played.data) for played in (whole, split))
    expect(one == other, "another reason at", cuts, one, other)
