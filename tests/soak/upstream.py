"""An upstream of the soak, a process of its own: verifies each token and answers with the request's identity.

Each route has a listener of its own here, so that the port says which route a request came by. What it is told on its
standard input (a JSON object a line) is the way it misbehaves from then on. Every POST that arrives, and everything
that must not be, is written to a journal at once, which a kill does not take along.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import socket
import ssl
import struct
import sys
import time
from random import Random
from typing import Any

import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.soak.http2 import Http2, Stream
from tests.soak.http2_upstream import StreamWire
from tests.soak.pattern import Checker, Pattern
from tests.support.sidecar import ask

STALL = 14.0
"""Seconds that the mode `stall` does not answer; the routes' timeouts.response is less."""
BEAT, LATE = 0.25, 2.0
"""Seconds between two beats of an upstream, and by how much one is late where the process could not run."""
GARBAGE = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nab",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nab",
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
)


class Head:
    """A request's head."""

    def __init__(self, method: str, target: str, fields: list[tuple[str, str]]) -> None:
        self.method = method
        path, _, query = target.partition("?")
        self.path = path
        self.query = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        self.fields = fields
        self.headers = dict(self.fields)
        self.identity = self.headers.get("x-soak-id", "")

    @classmethod
    def of_http1(cls, raw: bytes) -> Head:
        """From its bytes; ValueError where they are none."""
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        parts = (line.partition(":") for line in lines)
        return cls(method, target, [(name.lower(), value.strip()) for name, _, value in parts])

    @classmethod
    def of_http2(cls, lines: Any) -> Head:
        """From its lines."""
        fields = [(name.decode(), value.decode("latin-1")) for name, value in lines]
        pseudo = dict(fields)
        return cls(pseudo[":method"], pseudo[":path"], [*fields, ("host", pseudo[":authority"])])


class Verifier:
    """Verifies ID tokens by the stand-in's certificates, a JSON object of PEM texts, and access tokens by asking it."""

    def __init__(self, certificates: str, control: str) -> None:
        found = json.loads(certificates)
        self._keys = {
            name: x509.load_pem_x509_certificate(pem.encode()).public_key() for name, pem in found.items()
        }
        self._control = control
        self._known: dict[str, dict[str, Any]] = {}

    async def claims(self, head: Head) -> dict[str, Any]:
        """The claims of the one token of a request, an access token's scope as `aud`; ValueError with what is wrong
        with it."""
        values = [value for name, value in head.fields if name == "authorization"]
        if len(values) != 1 or not values[0].startswith("Bearer "):
            raise ValueError(f"{len(values)} Authorization headers, or no bearer token")
        token = values[0][7:]
        claims = self._known.get(token)
        if claims is None:
            found = await self._introspect(token) if token.startswith("ya29.") else self._verify(token)
            claims = self._known[token] = found
        left = float(claims["exp"]) - time.time()  # noqa: TID251
        if left < 0:
            raise ValueError(f"a token that expired {-left:.2f} s ago")
        return claims

    async def _introspect(self, token: str) -> dict[str, Any]:
        port, _, path = self._control.removeprefix("http://127.0.0.1:").partition("/")
        asked = json.dumps({"token": token}).encode()
        headers = {"Content-Type": "application/json"}
        _, _, body = await ask(int(port), "POST", f"/{path}/introspect", headers, asked)
        found = json.loads(body)
        if not found["active"]:
            raise ValueError("an access token that expired, or is nobody's")
        return {"aud": found["scope"], "exp": found["exp"]}

    def _verify(self, token: str) -> dict[str, Any]:
        head, payload, signature = (part + "=" * (-len(part) % 4) for part in token.split("."))
        key = self._keys[json.loads(base64.urlsafe_b64decode(head))["kid"]]
        assert isinstance(key, rsa.RSAPublicKey)
        signed = token.rpartition(".")[0].encode()
        key.verify(base64.urlsafe_b64decode(signature), signed, padding.PKCS1v15(), hashes.SHA256())
        found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload))
        return found


class Upstream:
    """All of its listeners."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.verifier = Verifier(told["certificates"], told["control"])
        self.journal = os.open(told["journal"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.random = Random(told["seed"])  # noqa: S311
        self.mode, self.share = "", 0.0

    async def run(self) -> None:
        beating = asyncio.create_task(self.beat())  # noqa: TID251
        for listener in self.told["listeners"]:
            context = None
            if listener["certificate"]:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(listener["certificate"])
                context.set_alpn_protocols(["h2", "http/1.1"])
                context.sni_callback = remember_name
            route = listener["route"]
            await asyncio.start_server(
                lambda reader, writer, route=route: self.serve(reader, writer, route),
                *(listener["address"], listener["port"]),
                ssl=context,
                limit=1 << 18,
                backlog=512,
            )
        print("listening", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            self.mode, self.share = order["mode"], order["share"]
            print("switched", flush=True)
        beating.cancel()

    async def beat(self) -> None:
        """Note when this process did not run: a machine with too much to do, and no fault of who waited for it."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT
            await asyncio.sleep(BEAT)
            if (late := loop.time() - due) > LATE:
                self.note("LATE", json.dumps([self.told["name"], due - BEAT, due + late]))

    def note(self, kind: str, text: str) -> None:
        os.write(self.journal, f"{kind} {text}\n".encode())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, route: str) -> None:
        """One connection."""
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
            if raw.startswith(b"PRI "):
                await self.serve_http2(reader, writer, route, raw)
                return
            while await self.exchange(Wire(reader, writer), route, raw):
                raw = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError, TimeoutError):
            pass
        finally:
            writer.close()

    async def serve_http2(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, route: str, raw: bytes
    ) -> None:
        """One connection in HTTP/2; `raw` was read already."""
        tasks: set[asyncio.Task[None]] = set()

        def asked(stream: Stream, event: h2.events.RequestReceived) -> None:
            task = asyncio.create_task(self.stream(stream, Head.of_http2(event.headers), route))  # noqa: TID251
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        connection = Http2(reader, writer, asked=asked)
        try:
            await connection.run(raw)
        finally:
            for task in list(tasks):
                task.cancel()

    async def stream(self, stream: Stream, head: Head, route: str) -> None:
        """One request in HTTP/2."""
        connection = stream.connection
        wire = StreamWire(
            stream, connection.writer, grpc=head.headers.get("content-type") == "application/grpc"
        )
        try:
            goes_on = await self.answer(wire, head, route)
        except (ConnectionError, TimeoutError):
            goes_on = True
        connection.streams.pop(stream.number, None)
        if not goes_on:
            connection.announce_end()

    async def exchange(self, wire: Wire, route: str, raw: bytes) -> bool:
        """One request in HTTP/1.1, whose head is `raw`; whether another may come."""
        try:
            head = Head.of_http1(raw)
        except ValueError:
            self.note("WRONG", f"{route} was sent what is no request: {raw[-200:]!r}")
            return False
        return await self.answer(wire, head, route)

    async def answer(self, wire: Wire | StreamWire, head: Head, route: str) -> bool:
        """One request; whether another may come."""
        if head.method == "POST":
            self.note("POST", head.identity)
        if not head.identity or head.identity.startswith("bad-"):
            self.note(
                "WRONG", f"{route} was sent what no client may ask: {head.method} {head.path} {head.identity}"
            )
        for wrong in self.misdirected(wire, head):
            self.note("WRONG", f"{route} was sent {wrong} for {head.identity}")
        try:
            audience = (await self.verifier.claims(head))["aud"]
        except (ValueError, KeyError) as error:
            self.note("WRONG", f"{route} was sent {error} for {head.identity}")
            audience = f"none: {error}"
        answer = [("X-Soak-Id", head.identity), ("X-Soak-Route", route), ("X-Soak-Aud", audience)]
        fault = self.mode if self.random.random() < self.share else ""
        if fault == "refuse":
            return await wire.refuse(head, answer)
        if fault and await self.breaks(wire, fault):
            return False
        if head.path == "/tunnel" and isinstance(wire, Wire):
            return await self.tunnel(wire, head, answer)
        if head.path == "/late":
            await asyncio.sleep(STALL)
        if "expect" in head.headers:
            wire.go_on()
        if head.path == "/mirror":
            await wire.mirror(head, answer)
            return True
        return await self.echo(wire, head, answer, fault)

    @staticmethod
    def misdirected(wire: Wire | StreamWire, head: Head) -> list[str]:
        """What a request has that it must not have come here with."""
        found = []
        secured = wire.writer.get_extra_info("ssl_object")
        host = head.headers.get("host", "").partition(":")[0]
        if secured is not None and secured.asked_for != host:
            found.append(f"{host} on a connection that was made for {secured.asked_for}")
        if "x-local-caller" in head.headers:
            found.append("the listener's secret")
        return found

    async def breaks(self, wire: Wire | StreamWire, fault: str) -> bool:
        """Do what a fault does before an answer; whether that was all."""
        match fault:
            case "reset":
                wire.reset()
            case "garbage":
                wire.garbage(self.random.choice(GARBAGE))
                await wire.writer.drain()
            case "stall":
                await asyncio.sleep(STALL)
            case "slow":
                await asyncio.sleep(self.random.uniform(0.05, 0.8))
        return fault in ("reset", "garbage")

    async def echo(
        self, wire: Wire | StreamWire, head: Head, answer: list[tuple[str, str]], fault: str
    ) -> bool:
        """Take the body, and answer with one of the size that was asked for."""
        received = Checker(f"{head.identity}/request", int(head.headers.get("x-soak-size", 0)))
        async for piece in wire.body(head):
            received.feed(piece)
        answer.append(("X-Soak-Intact", str(int(received.complete))))
        size, framing = int(head.query.get("size", 0)), head.query.get("framing", "length")
        # The end of the connection ends a body without a length: cut short, nobody could tell.
        whole = framing == "close" or (isinstance(wire, StreamWire) and framing != "length")
        cut = size // 2 if fault == "truncate" and not whole else None
        await wire.send(head, 200, answer, Pattern(f"{head.identity}/answer", size), framing, cut)
        if fault == "close_idle":
            await asyncio.sleep(self.random.uniform(0, 0.05))
        if isinstance(wire, StreamWire):
            return fault != "close_idle"
        return framing != "close" and fault not in ("close_idle", "truncate")

    async def tunnel(self, wire: Wire, head: Head, answer: list[tuple[str, str]]) -> bool:
        """Echo until the other side ends."""
        wire.head(101, [*answer, ("Upgrade", "websocket"), ("Connection", "Upgrade")])
        while data := await wire.reader.read(65536):
            wire.writer.write(data)
            await wire.writer.drain()
        return False


def remember_name(secured: Any, name: str | None, _: ssl.SSLContext) -> None:
    """Keep the name that a client asked for in its handshake (SNI)."""
    secured.asked_for = name


class Wire:
    """HTTP/1.1 on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def head(self, status: int, fields: list[tuple[str, str]]) -> None:
        lines = [f"HTTP/1.1 {status} Soaked", *(f"{name}: {value}" for name, value in fields), "", ""]
        self.writer.write("\r\n".join(lines).encode("latin-1"))

    async def body(self, head: Head) -> Any:
        """The pieces of a request's body."""
        if head.headers.get("transfer-encoding") == "chunked":
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                yield await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            while await self.reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return
        left = int(head.headers.get("content-length", 0))
        while left:
            data = await self.reader.read(min(left, 65536))
            if not data:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(data)
            yield data

    async def refuse(self, head: Head, answer: list[tuple[str, str]]) -> bool:
        """Call the token invalid; whether the connection can be used again."""
        # A body that waits for 100 Continue may come yet.
        expected = "expect" in head.headers
        if not expected:
            async for _ in self.body(head):
                pass
        challenge = ("WWW-Authenticate", 'Bearer error="invalid_token"')
        await self.send(head, 401, [*answer, challenge], Pattern("", 0), "close" if expected else "length")
        return not expected

    async def send(
        self,
        head: Head,
        status: int,
        fields: list[tuple[str, str]],
        body: Pattern,
        framing: str,
        cut: int | None = None,
    ) -> None:
        """A whole answer, or all up to `cut`."""
        chunked = framing == "chunked"
        framed = {
            "length": [("Content-Length", str(body.size))],
            "chunked": [("Transfer-Encoding", "chunked")],
            "close": [("Connection", "close")],
        }
        self.head(status, [*fields, *framed[framing]])
        if head.method == "HEAD":
            return
        sent = 0
        for block in body.blocks():
            if cut is not None:
                block = block[: cut - sent]
            sent += len(block)
            self.writer.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked and block else block)
            await self.writer.drain()
            if cut is not None and sent >= cut:
                return
        if chunked and cut is None:
            self.writer.write(b"0\r\n\r\n")

    async def mirror(self, head: Head, fields: list[tuple[str, str]]) -> None:
        """Send the body back while it comes."""
        self.head(200, [*fields, ("X-Soak-Intact", "1"), ("Transfer-Encoding", "chunked")])
        async for piece in self.body(head):
            self.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await self.writer.drain()
        self.writer.write(b"0\r\n\r\n")

    def go_on(self) -> None:
        """100 Continue."""
        self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def garbage(self, text: bytes) -> None:
        """An answer that is none."""
        self.writer.write(text)

    def reset(self) -> None:
        """Close with RST."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:  # else the sidecar was quicker
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # asyncio's complaints of connections that are gone
    asyncio.run(Upstream(json.loads(sys.argv[1])).run())
