"""Faults that a test or a person can switch on.

Owns the ways in which a server of the stand-in that hands out tokens misbehaves, and the gates by which tests
synchronise with it. Each such server has one `Endpoint` and asks it first for every request; tests command it
directly, `control` does so over HTTP. It knows no server and signs nothing: the server gets a `Fault` and makes the
wrong token itself. `Emulator.stop` refuses connections; that is not a fault here.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, final, get_args

from aiohttp import web

Kind = Literal[
    "hang", "slow", "reset", "html", "huge", "status", "garbage", "wrong_audience", "no_exp", "expired"
]

HTML: Final = "<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please sign in</body></html>"
"""What a captive portal answers, with status 200."""
GARBAGE: Final = "eyJhbGciOiJub25lIn0.bm90LWpzb24.AAAA"
"""Three segments as a JWT has them, whose claims are no JSON."""
HUGE: Final = 4_000_000
"""Bytes of an answer that is no token; the real ones have about 1,000."""


@final
@dataclass(frozen=True)
class Fault:
    """One way to misbehave.

    `hang` never answers. `slow` answers correctly after `seconds`. `reset` cuts the connection with RST. `html` and
    `huge` answer 200 with no token. `status` answers `code` with `headers` and `body`. The others give a token that
    is wrong as their names say. ValueError for an unknown kind or code.
    """

    kind: Kind
    code: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    seconds: float = 1.0
    everywhere: bool = False
    """Also on the paths that give no token (the ping, the project), which otherwise go on answering."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"no fault is called {self.kind!r}; there are {', '.join(get_args(Kind))}")
        if not 200 <= self.code <= 599:
            raise ValueError(f"{self.code} is not a final HTTP status")


@final
class Endpoint:
    """The switchboard of one server."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        """In force for every request, until set to None or used up."""
        self.left: int | None = None
        """How many more requests the fault is for; None: until further notice."""
        self.arrived = 0
        """Requests for tokens so far, faulty and held ones included."""
        self._changed = asyncio.Condition()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether requests are answered, rather than held."""
        return self._open.is_set()

    def fail(self, fault: Fault | None, *, times: int | None = None) -> None:
        """Put a fault in force (None: end it), for the next `times` requests or until further notice."""
        if times is not None and times < 1:
            raise ValueError("a fault is for one request at least")
        self.fault, self.left = fault, times if fault is not None else None

    def hold(self) -> None:
        """Keep every request for a token waiting until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Answer what was held."""
        self._open.set()

    async def wait_for(self, count: int) -> None:
        """Wait until at least this many requests for tokens have arrived."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.arrived >= count)

    async def meet(self, request: web.Request) -> tuple[web.Response | None, Fault | None]:
        """For a request for a token: a fault's own answer, or the fault that the token is to show."""
        async with self._changed:
            self.arrived += 1
            self._changed.notify_all()
        await self._open.wait()
        return await self._inflict(request)

    async def pass_by(self, request: web.Request) -> web.Response | None:
        """For any other request: the answer of a fault that is `everywhere`."""
        if self.fault is None or not self.fault.everywhere:
            return None
        answer, _ = await self._inflict(request)
        return answer

    async def _inflict(self, request: web.Request) -> tuple[web.Response | None, Fault | None]:
        fault = self.fault
        if fault is not None and self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.fault = self.left = None
        match fault.kind if fault is not None else None:
            case "hang":
                # Ends with the client: the servers cancel the handler of one that went away.
                await asyncio.Event().wait()
            case "slow" if fault is not None:
                await asyncio.sleep(fault.seconds)
                return None, None
            case "reset":
                _reset(request)
                return web.Response(), fault
            case "html":
                return web.Response(text=HTML, content_type="text/html"), fault
            case "huge":
                return web.Response(body=b"a" * HUGE, content_type="text/html"), fault
            case "status" if fault is not None:
                answer = web.Response(status=fault.code, text=fault.body or f"Error {fault.code}")
                answer.headers.update(fault.headers)
                return answer, fault
        return None, fault


def claims_for(claims: Mapping[str, object], fault: Fault | None) -> dict[str, object]:
    """The claims as a faulty issuer would write them."""
    match fault.kind if fault is not None else None:
        case "wrong_audience":
            return {**claims, "aud": "https://somebody-else.example"}
        case "no_exp":
            return {name: value for name, value in claims.items() if name != "exp"}
        case "expired":
            return {**claims, "iat": 1_600_000_000, "exp": 1_600_003_600}
    return dict(claims)


def _reset(request: web.Request) -> None:
    if request.transport is not None:
        # Without this the kernel would end the connection politely, with FIN.
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
