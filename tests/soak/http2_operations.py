"""What the clients of the soak ask in HTTP/2: plain requests and gRPC calls, several at once, left behind, in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import h2.events
from h2.errors import ErrorCodes

from sidecar.errors import MEANINGS, Reason
from tests.soak.client import OK, Answer, CutError, Outcome, Route, judge
from tests.soak.http2 import Messages, Stream, messages
from tests.soak.pattern import Checker, Pattern
from tests.soak.worker import Worker

_REASONS = {str(reason): reason for reason in Reason}
CALL = (("content-type", "application/grpc"), ("te", "trailers"))


class RefusedError(CutError):
    """The sidecar has not looked at it: a client asks again, on another connection."""


async def begin(
    worker: Worker, route: Route, identity: str, path: str, *lines: tuple[str, str], method: str = "GET"
) -> Stream:
    """Write a request's head, with the body to come where it is not a GET; the connection is the worker's."""
    connection = await worker.http2_connection()
    stream = connection.begin()
    name, _, value = (worker.required or "").partition(": ")
    told = [
        (":method", method),
        (":scheme", "http"),
        (":authority", route.host),
        (":path", path),
        ("x-soak-id", identity),
        ("authorization", "Bearer of-the-app"),
        *([(name.lower(), value)] if name else []),
        *lines,
    ]
    stream.head([(one.encode(), other.encode()) for one, other in told], end=method == "GET")
    return stream


async def answer_of(stream: Stream, body: Checker | None) -> Answer:
    """The whole answer, trailers among its headers; CutError where it is broken off."""
    status, headers, own, is_own = 0, dict[str, str](), bytearray(), False
    unframed: Messages | None = None
    while True:
        event = await stream.next()
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            headers |= {name.decode(): value.decode("latin-1") for name, value in event.headers}
            status = int(headers[":status"])
            is_own = headers.get("content-type") == "application/problem+json"
            unframed = Messages() if headers.get("content-type") == "application/grpc" else None
        elif isinstance(event, h2.events.DataReceived):
            if is_own:
                own += event.data
            elif body is not None:
                body.feed(event.data if unframed is None else unframed.feed(event.data))
        elif isinstance(event, h2.events.StreamEnded):
            stream.connection.streams.pop(stream.number, None)
            return Answer(status, headers, bytes(own))
        elif isinstance(event, h2.events.StreamReset):
            if event.error_code == ErrorCodes.REFUSED_STREAM and not headers:
                raise RefusedError("refused")
            if event.error_code != ErrorCodes.NO_ERROR:
                raise CutError(f"the stream was reset with {event.error_code}")
        elif event is None:
            raise RefusedError("gone") if stream.connection.leaving and not headers else CutError("gone")


def judged(answer: Answer, route: Route, identity: str, body: Checker | None) -> Outcome:
    """As `client.judge`, of a gRPC call too: its status says what an HTTP status would."""
    status = answer.headers.get("grpc-status", "0")
    if status == "0":
        return judge(answer, route, identity, body)
    message = answer.headers.get("grpc-message", "")
    if "x-soak-id" in answer.headers:
        return Outcome("cut", message)
    if status == "16":
        return Outcome("401", message)
    word = message.partition(":")[0]
    if word not in _REASONS:
        return Outcome("wrong", f"grpc-status {status} {message}")
    return Outcome(f"{MEANINGS[_REASONS[word]].status} {word}", message)


async def exchanged(
    worker: Worker,
    route: Route,
    *,
    sent: int | None = None,
    wanted: int = 300,
    path: str = "/echo",
    lines: tuple[tuple[str, str], ...] = (),
) -> Outcome:
    """One request, and what became of it; asked again where it was refused unread."""
    for last in (False, True):
        identity = worker.identity()
        mirrored = path == "/mirror"
        body = Checker(
            f"{identity}/{'mirror' if mirrored else 'answer'}", (sent or 0) if mirrored else wanted
        )
        target = (
            path
            if mirrored
            else f"{path}?size={wanted}&framing={worker.random.choice(['length', 'chunked'])}"
        )
        try:
            if sent is None:
                stream = await begin(worker, route, identity, target, *lines)
                return judged(await answer_of(stream, body), route, identity, body)
            more = (("x-soak-size", str(sent)), *lines)
            stream = await begin(worker, route, identity, target, *more, method="POST")
            kind = "mirror" if mirrored else "request"
            sending = asyncio.create_task(  # noqa: TID251
                write(stream, f"{identity}/{kind}", sent, grpc=bool(lines))
            )
            try:
                return judged(await answer_of(stream, body), route, identity, body)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        except RefusedError:
            worker.leave()
            if last:
                raise
    raise AssertionError


async def write(stream: Stream, identity: str, size: int, *, grpc: bool) -> None:
    """A body, and its end."""
    for block in Pattern(identity, size).blocks():
        await stream.body(messages(block) if grpc else block)
    await stream.body(b"", end=True)


async def h2_get(worker: Worker, route: Route) -> list[Outcome]:
    return [await exchanged(worker, route, wanted=worker.random.choice([0, 1, 300, 5000, 70000]))]


async def h2_post(worker: Worker, route: Route) -> list[Outcome]:
    sent = worker.random.choice([0, 10, 3000, 50000, 200000, 1 << 20])
    return [await exchanged(worker, route, sent=sent, wanted=worker.random.choice([0, 300, 90000]))]


async def h2_many(worker: Worker, route: Route) -> list[Outcome]:
    """Several at once on one connection, of several routes."""
    await worker.http2_connection()
    loop = asyncio.get_running_loop()

    async def one(which: Route, sent: int | None) -> None:
        began = loop.time()
        try:
            outcome = await exchanged(worker, which, sent=sent, wanted=3000)
        except (CutError, OSError) as error:
            outcome = Outcome("cut", repr(error))
        if outcome.what != "ok":
            worker.tell("h2_many", which, began, outcome)

    chosen = [
        (worker.route(), worker.random.choice([None, 5000])) for _ in range(worker.random.randint(2, 12))
    ]
    await asyncio.gather(*(one(which, sent) for which, sent in chosen))
    return [OK]


async def h2_left(worker: Worker, route: Route) -> list[Outcome]:
    """Broken off by the client, with a body either way; the connection is used again."""
    identity = worker.identity()
    if worker.random.random() < 0.5:
        stream = await begin(worker, route, identity, "/echo?size=500000")
        if worker.random.random() < 0.7:
            await stream.next()
    else:
        stream = await begin(worker, route, identity, "/echo", ("x-soak-size", "90000"), method="PUT")
        await stream.body(b"x" * worker.random.choice([0, 100, 40000]))
    await asyncio.sleep(worker.random.choice([0, 0.01, 0.2]))
    stream.reset()
    return [OK]


async def grpc_unary(worker: Worker, route: Route) -> list[Outcome]:
    sent, wanted = worker.random.choice([0, 100, 5000]), worker.random.choice([0, 100, 5000])
    return [await exchanged(worker, route, sent=sent, wanted=wanted, lines=CALL)]


async def grpc_download(worker: Worker, route: Route) -> list[Outcome]:
    """One message there, several back."""
    return [await exchanged(worker, route, sent=10, wanted=300_000, lines=CALL)]


async def grpc_both_ways(worker: Worker, route: Route) -> list[Outcome]:
    return [await exchanged(worker, route, sent=300_000, path="/mirror", lines=CALL)]


async def grpc_left(worker: Worker, route: Route) -> list[Outcome]:
    """Cancelled by the client."""
    more = (("x-soak-size", "300000"), *CALL)
    stream = await begin(worker, route, worker.identity(), "/mirror", *more, method="POST")
    await stream.body(messages(bytes(worker.random.choice([0, 100, 40000]))))
    await asyncio.sleep(worker.random.choice([0, 0.01, 0.2]))
    stream.reset()
    return [OK]


async def grpc_late(worker: Worker, route: Route) -> list[Outcome]:
    """A deadline that is over before the service answers."""
    identity = worker.identity()
    lines = (("grpc-timeout", "200m"), ("x-soak-size", "0"), *CALL)
    stream = await begin(worker, route, identity, "/late", *lines, method="POST")
    await stream.body(b"", end=True)
    found = judged(await answer_of(stream, None), route, identity, None)
    if found.what == "504 deadline_exceeded":
        return [OK]
    return [Outcome("wrong", f"{found} for a call that was late") if found.what == "ok" else found]


CALLS = (grpc_unary, grpc_download, grpc_both_ways, grpc_left, grpc_late)

OPERATIONS: dict[Callable[[Worker, Route], Awaitable[list[Outcome]]], float] = {
    **{h2_get: 12, h2_post: 9, h2_many: 4, h2_left: 4},
    **{grpc_unary: 14, grpc_download: 2, grpc_both_ways: 2, grpc_left: 3, grpc_late: 2},
}
