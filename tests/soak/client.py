"""One client connection of the soak: writes requests, reads answers, and judges whether an answer is its request's own."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from typing import NamedTuple

from tests.soak.pattern import Checker


class CutError(Exception):
    """The connection ended before the answer did."""


class Route(NamedTuple):
    """A route as its clients know it."""

    name: str
    host: str
    audience: str
    protocol: str = "auto"
    """What its upstream is spoken to in."""


class Way(NamedTuple):
    """A listener of the sidecar's."""

    name: str
    address: str
    """`host:port`, or `unix:/path`."""
    ca_file: str | None = None
    """Whom to trust where it speaks TLS; None: it does not."""
    required: str | None = None
    """A header line that each request must have there."""


class Outcome(NamedTuple):
    """What became of one request.

    `what` is `ok`, or the status and reason of an answer of the sidecar's own (`503 token_timeout`), or `401` (the
    upstream refused), `cut` (the connection ended first), `short` (a body without a length ended early), `hang`, or
    `wrong` (it is not what belongs to the request).
    """

    what: str
    detail: str = ""


OK = Outcome("ok")


class Answer(NamedTuple):
    """An answer's head, and its body if it is the sidecar's own."""

    status: int
    headers: dict[str, str]
    own: bytes

    @property
    def keeps_alive(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"


class Client:
    """A connection to the sidecar."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        self.reader = reader
        self.writer = writer
        self.way = way
        self.used_mono = 0.0
        self.open = True

    @classmethod
    async def connect(cls, way: Way, context: ssl.SSLContext | None, *, narrow: bool = False) -> Client:
        """A new one; `narrow` takes little ahead of its reader."""
        return cls(*await connected(way, context, narrow=narrow), way)

    def head(
        self, method: str, target: str, route: Route, identity: str, *lines: str, version: str = "1.1"
    ) -> None:
        """Write a request's head."""
        text = [
            f"{method} {target} HTTP/{version}",
            f"Host: {route.host}",
            f"X-Soak-Id: {identity}",
            # What the app sends for itself is replaced, never sent on.
            "Authorization: Bearer of-the-app",
        ]
        if self.way.required is not None:
            text.append(self.way.required)
        self.writer.write("\r\n".join([*text, *lines, "", ""]).encode())

    async def answer(self, body: Checker | None, *, slowly: float = 0.0, head: bool = False) -> Answer:
        """Read one final answer; CutError if it isn't whole. `slowly`: seconds between two reads."""
        try:
            while True:
                answer = self.parse(await self.reader.readuntil(b"\r\n\r\n"))
                if answer.status == 101 or answer.status >= 200:
                    break
            if answer.status == 101 or head:
                return answer
            own = answer.headers.get("content-type") == "application/problem+json"
            kept = bytearray()
            async for piece in self._body(answer):
                if own:
                    kept += piece
                elif body is not None:
                    body.feed(piece)
                if slowly:
                    await asyncio.sleep(slowly)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise CutError(type(error).__name__) from error
        self.open = answer.keeps_alive
        return answer._replace(own=bytes(kept))

    @staticmethod
    def parse(raw: bytes) -> Answer:
        """An answer's head."""
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Answer(int(first.split(" ")[1]), headers, b"")

    async def _body(self, answer: Answer):  # type: ignore[no-untyped-def]
        if answer.headers.get("transfer-encoding") == "chunked":
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                while size:
                    data = await self.reader.read(min(size, 16384))
                    if not data:
                        raise asyncio.IncompleteReadError(b"", size)
                    size -= len(data)
                    yield data
                await self.reader.readexactly(2)
            while await self.reader.readuntil(b"\r\n") != b"\r\n":
                pass
        elif "content-length" in answer.headers:
            left = int(answer.headers["content-length"])
            while left:
                data = await self.reader.read(min(left, 16384))
                if not data:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(data)
                yield data
        else:
            while data := await self.reader.read(16384):
                yield data
            self.open = False

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:  # else the sidecar was quicker
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.open = False
        self.writer.transport.abort()


async def connected(
    way: Way, context: ssl.SSLContext | None, *, narrow: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A new connection to the sidecar; `narrow` as above."""
    path = way.address.removeprefix("unix:")
    host, _, port = way.address.rpartition(":")
    family, address = (socket.AF_UNIX, path) if path != way.address else (socket.AF_INET, (host, int(port)))
    sock = socket.socket(family)
    try:
        sock.setblocking(False)
        if narrow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        await asyncio.get_running_loop().sock_connect(sock, address)
        return await asyncio.open_connection(
            sock=sock, limit=65536, ssl=context, server_hostname="localhost" if context else None
        )
    except BaseException:
        sock.close()
        raise


def judge(
    answer: Answer, route: Route, identity: str, body: Checker | None, *, unbounded: bool = False
) -> Outcome:
    """Whether an answer is the one that belongs to the request. `unbounded`: nothing but the end of the upstream's
    connection says how long its body is."""
    headers = answer.headers
    if "idtoken-sidecar; error=" in headers.get("proxy-status", ""):
        if not answer.own:
            # To a HEAD: the reason stands in the header too.
            return Outcome(
                f"{answer.status} {headers['proxy-status'].partition('details=')[2].strip(chr(34))}"
            )
        problem = json.loads(answer.own)
        return Outcome(f"{answer.status} {problem['reason']}", problem.get("detail", ""))
    found = {name: headers.get(f"x-soak-{name}") for name in ("id", "route", "aud")}
    if found != {"id": identity, "route": route.name, "aud": route.audience}:
        return Outcome("wrong", f"{answer.status} {found} for {identity} of {route.name}")
    if answer.status == 401:
        return Outcome("401")
    if answer.status not in (101, 200) or headers.get("x-soak-intact", "1") != "1":
        return Outcome(
            "wrong", f"status {answer.status}, body arrived intact: {headers.get('x-soak-intact')}"
        )
    if body is not None and not body.complete:
        if unbounded and body.intact:
            return Outcome("short")
        return Outcome("wrong", f"{body.received} bytes of the body, intact: {body.intact}")
    return OK
