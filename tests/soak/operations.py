"""What the clients of the soak ask: each operation is one request, or a few, and what became of them.

The name of an operation's function is its name in the report; `OPERATIONS` says how often it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.soak.client import OK, Client, CutError, Outcome, Route, judge
from tests.soak.http2_operations import CALLS
from tests.soak.http2_operations import OPERATIONS as HTTP2_OPERATIONS
from tests.soak.pattern import Checker, Pattern
from tests.soak.worker import HANG, Worker

MALFORMED = (
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Soak-Id: bad-1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: {host}\r\nX-Soak-Id: bad-2\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    b"GET / HTTP/1.1\nHost: {host}\nX-Soak-Id: bad-3\n\n",
    b"GET /\x00 HTTP/1.1\r\nHost: {host}\r\nX-Soak-Id: bad-4\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: {host}\r\nX-Soak-Id: bad-5\r\nContent-Length: +3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: {host}\r\nX-Soak-Id: bad-6\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: {host}\r\nX-Soak-Id : bad-7\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03bad-8",
)


async def ask(
    worker: Worker,
    route: Route,
    method: str,
    *,
    size: int,
    lines: tuple[str, ...] = (),
    version: str = "1.1",
    slowly: float = 0.0,
    client: Client | None = None,
) -> list[Outcome]:
    """One request without a body."""
    client = client or await worker.connection()
    identity, target = worker.identity(), worker.target(size)
    client.head(method, target, route, identity, *lines, version=version)
    body = None if method == "HEAD" else Checker(f"{identity}/answer", size)
    answer = await client.answer(body, slowly=slowly, head=method == "HEAD")
    return [judge(answer, route, identity, body, unbounded=target.endswith("close") or version == "1.0")]


async def get(worker: Worker, route: Route) -> list[Outcome]:
    return await ask(worker, route, "GET", size=worker.random.choice([0, 1, 300, 5000, 70000]))


async def get_and_close(worker: Worker, route: Route) -> list[Outcome]:
    worker.leave()
    found = await ask(worker, route, "GET", size=300, lines=("Connection: close",))
    worker.leave()
    return found


async def head(worker: Worker, route: Route) -> list[Outcome]:
    return await ask(worker, route, "HEAD", size=5000)


async def http10(worker: Worker, route: Route) -> list[Outcome]:
    worker.leave()
    found = await ask(worker, route, "GET", size=3000, version="1.0")
    worker.leave()
    return found


async def pipelined(worker: Worker, route: Route) -> list[Outcome]:
    """Several at once, of several routes; answered in order."""
    worker.leave()
    client = await worker.connection()
    asked = []
    for _ in range(worker.random.randint(2, 6)):
        one, identity, size = (
            worker.route(),
            worker.identity(),
            worker.random.choice([10, 3000]),
        )
        client.head("GET", f"/echo?size={size}", one, identity)
        asked.append((one, identity, Checker(f"{identity}/answer", size)))
    began = asyncio.get_running_loop().time()
    for one, identity, body in asked:
        try:
            outcome = judge(await client.answer(body), one, identity, body)
        except CutError as error:
            outcome = Outcome("cut", str(error))
        if outcome.what != "ok":
            # Told here: it is this one's route that was in trouble.
            worker.tell("pipelined", one, began, outcome)
        if outcome.what == "cut" or not client.open:
            break
    worker.leave()
    return [OK]


async def send(
    worker: Worker, route: Route, method: str, size: int, *, chunked: bool, pause: float = 0.0
) -> list[Outcome]:
    """One request with a body."""
    client = await worker.connection()
    identity, wanted = worker.identity(), worker.random.choice([0, 300, 9000])
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    target = worker.target(wanted)
    client.head(method, target, route, identity, framing, f"X-Soak-Size: {size}")
    body = Checker(f"{identity}/answer", wanted)
    sending = asyncio.create_task(write_body(client, f"{identity}/request", size, chunked, pause))  # noqa: TID251
    try:
        answer = await client.answer(body)
        found = judge(answer, route, identity, body, unbounded=target.endswith("close"))
        if found.what == "ok":
            await sending
        else:
            client.open = False
        return [found]
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def write_body(client: Client, identity: str, size: int, chunked: bool, pause: float) -> None:
    for block in Pattern(identity, size).blocks():
        pieces = [block[i : i + 4096] for i in range(0, len(block), 4096)] if pause else [block]
        for piece in pieces:
            client.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await client.writer.drain()
            if pause:
                await asyncio.sleep(pause)
    if chunked:
        client.writer.write(b"0\r\n\r\n")


async def post(worker: Worker, route: Route) -> list[Outcome]:
    size = worker.random.choice([0, 10, 3000, 50000, 200000])
    return await send(worker, route, "POST", size, chunked=worker.random.random() < 0.5)


async def put(worker: Worker, route: Route) -> list[Outcome]:
    return await send(
        worker, route, "PUT", worker.random.choice([10, 3000]), chunked=worker.random.random() < 0.5
    )


async def stream_up(worker: Worker, route: Route) -> list[Outcome]:
    return await send(
        worker, route, "POST", worker.random.randint(1, 3) << 20, chunked=worker.random.random() < 0.5
    )


async def stream_down(worker: Worker, route: Route) -> list[Outcome]:
    return await ask(worker, route, "GET", size=worker.random.randint(1, 3) << 20)


async def slow_writer(worker: Worker, route: Route) -> list[Outcome]:
    return await send(worker, route, "POST", 60000, chunked=worker.random.random() < 0.5, pause=0.04)


async def slow_reader(worker: Worker, route: Route) -> list[Outcome]:
    client = await worker.connect(narrow=True)
    try:
        return await ask(worker, route, "GET", size=1 << 20, slowly=0.02, client=client)
    finally:
        client.close()


async def both_ways(worker: Worker, route: Route) -> list[Outcome]:
    """A large body that comes back while it is sent."""
    client = await worker.connection()
    identity, size = worker.identity(), 1 << 20
    client.head("POST", "/mirror", route, identity, "Transfer-Encoding: chunked", f"X-Soak-Size: {size}")
    body = Checker(f"{identity}/mirror", size)
    sending = asyncio.create_task(write_body(client, f"{identity}/mirror", size, True, 0.0))  # noqa: TID251
    try:
        found = judge(await client.answer(body), route, identity, body)
        client.open = found.what == "ok"
        return [found]
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def expecting(worker: Worker, route: Route) -> list[Outcome]:
    """A body that waits for 100 Continue."""
    client = await worker.connection()
    identity, size = worker.identity(), 5000
    client.head(
        "POST",
        "/echo?size=10",
        route,
        identity,
        f"Content-Length: {size}",
        f"X-Soak-Size: {size}",
        "Expect: 100-continue",
    )
    try:
        async with asyncio.timeout(1.0):
            first = await client.reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        first = b"HTTP/1.1 100"  # nobody has to wait for it any longer
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise CutError(type(error).__name__) from error
    if not first.startswith(b"HTTP/1.1 100"):
        # Answered without the body: the connection is not used again.
        answer = client.parse(first)
        length = int(answer.headers.get("content-length", 0))
        answer = answer._replace(own=await client.reader.readexactly(length))
        client.open = False
        return [judge(answer, route, identity, None)]
    client.writer.write(Pattern(f"{identity}/request", size).block(0))
    body = Checker(f"{identity}/answer", 10)
    found = judge(await client.answer(body), route, identity, body)
    client.open = client.open and found.what == "ok"
    return [found]


async def tunnel(worker: Worker, route: Route) -> list[Outcome]:
    """An upgrade, and bytes of its own both ways."""
    client = await worker.connect()
    try:
        identity = worker.identity()
        client.head("GET", "/tunnel", route, identity, "Connection: Upgrade", "Upgrade: websocket")
        answer = await client.answer(None)
        found = judge(answer, route, identity, None)
        if answer.status != 101:
            return [found if found.what != "ok" else Outcome("wrong", f"{answer.status} for an upgrade")]
        for number in range(worker.random.randint(1, 8)):
            sent = Pattern(f"{identity}/{number}", worker.random.choice([1, 500, 40000])).block(0)
            client.writer.write(sent)
            try:
                back = await client.reader.readexactly(len(sent))
            except asyncio.IncompleteReadError as error:
                raise CutError("in the tunnel") from error
            if back != sent:
                return [Outcome("wrong", f"other bytes in the tunnel of {identity}")]
            await asyncio.sleep(worker.random.choice([0, 0.05]))
        return [found]
    finally:
        client.close()


async def vanish_asking(worker: Worker, route: Route) -> list[Outcome]:
    """A client that leaves in mid-request."""
    client = await worker.connect()
    client.head("PUT", "/echo", route, worker.identity(), "Content-Length: 90000", "X-Soak-Size: 90000")
    client.writer.write(b"x" * worker.random.choice([0, 100, 40000]))
    await asyncio.sleep(worker.random.choice([0, 0.01, 0.2]))
    worker.random.choice([client.close, client.reset])()
    return [OK]


async def vanish_answered(worker: Worker, route: Route) -> list[Outcome]:
    """A client that leaves in mid-answer, or before it."""
    client = await worker.connect(narrow=True)
    client.head("GET", worker.target(500_000), route, worker.identity())
    if worker.random.random() < 0.7:
        await asyncio.wait_for(client.reader.read(100), HANG)
    worker.random.choice([client.close, client.reset])()
    return [OK]


async def malformed(worker: Worker, route: Route) -> list[Outcome]:
    """What is no HTTP: refused, the connection closed, nothing sent on."""
    client = await worker.connect()
    try:
        raw = worker.random.choice(MALFORMED).replace(b"{host}", route.host.encode())
        if client.way.required is not None:
            raw = raw.replace(b"X-Soak-Id", client.way.required.encode() + b"\r\nX-Soak-Id")
        client.writer.write(raw)
        answer = await client.answer(None)
        if answer.status not in (400, 501) or answer.keeps_alive:
            return [Outcome("wrong", f"{answer.status} for what is malformed")]
        return [OK]
    finally:
        client.close()


async def stranger(worker: Worker, route: Route) -> list[Outcome]:
    """A caller without the header that its listener requires: refused, nothing sent on."""
    client = await worker.connect(guarded=True)
    client.way = client.way._replace(required="X-Local-Caller: not-it")
    try:
        (found,) = await ask(worker, route, "GET", size=1, client=client)
        if found.what == "403 caller_refused":
            return [OK]
        return [Outcome("wrong", f"{found} for a caller without the required header")]
    finally:
        client.close()


async def nowhere(worker: Worker, route: Route) -> list[Outcome]:
    """A host that no route has."""
    found = await ask(worker, route._replace(host="nowhere.test"), "GET", size=1)
    return [
        OK if found[0].what == "404 no_route" else Outcome("wrong", f"{found[0]} for a host without a route")
    ]


OPERATIONS: dict[Callable[[Worker, Route], Awaitable[list[Outcome]]], float] = {
    **{
        get: 30,
        get_and_close: 5,
        head: 4,
        http10: 3,
        pipelined: 6,
        post: 22,
        put: 6,
        stream_up: 1,
        stream_down: 1.5,
    },
    **{slow_writer: 0.7, slow_reader: 0.7, both_ways: 1, expecting: 3, tunnel: 4},
    **HTTP2_OPERATIONS,
    **{vanish_asking: 3, vanish_answered: 3, malformed: 3, stranger: 1, nowhere: 2},
}

NOT_CARRIED: dict[Callable[[Worker, Route], Awaitable[list[Outcome]]], str] = {
    tunnel: "http2",
    **dict.fromkeys(CALLS, "http1"),
}
"""The protocol that an upstream must not be spoken to in: HTTP/2 has no upgrades, and HTTP/1.1 no gRPC."""
