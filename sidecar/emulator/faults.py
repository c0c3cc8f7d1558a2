"""Faults that a test or a person can switch on.

Owns the ways in which a token endpoint of the stand-in misbehaves, and the gates by which tests
synchronise with it. Every server asks `Endpoint.meet` first for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, final

from aiohttp import web

Kind = Literal["hang", "reset", "html", "status", "wrong_audience", "no_exp", "expired", "garbage", "huge"]

HTML: Final = "<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please sign in</body></html>"


@dataclass(frozen=True)
class Fault:
    """One way to misbehave; see `Kind`. For `status`: the code, headers and body to answer with."""

    kind: Kind
    code: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


@final
class Endpoint:
    """The switchboard of one server."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        """In force for every request, until set to None or used up."""
        self._left: int | None = None
        self.arrived = 0
        """Requests so far, faulty ones included."""
        self._changed = asyncio.Condition()
        self._open = asyncio.Event()
        self._open.set()

    def fail(self, fault: Fault | None, *, times: int | None = None) -> None:
        """Put a fault in force, for the next `times` requests or until further notice."""
        self.fault, self._left = fault, times

    def hold(self) -> None:
        """Keep every request waiting until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Answer what was held."""
        self._open.set()

    async def wait_for(self, count: int) -> None:
        """Wait until at least this many requests have arrived."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.arrived >= count)

    async def meet(self, request: web.Request) -> tuple[web.StreamResponse | None, Fault | None]:
        """The answer of a fault that needs no token, or the fault that the token itself is to show."""
        async with self._changed:
            self.arrived += 1
            self._changed.notify_all()
        await self._open.wait()
        fault = self.fault
        if fault is not None and self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self.fault = self._left = None
        if fault is None:
            return None, None
        if fault.kind == "hang":
            await asyncio.Event().wait()
        if fault.kind == "reset":
            if request.transport is not None:
                request.transport.abort()
            return web.Response(), fault
        if fault.kind == "html":
            return web.Response(
                text=HTML, content_type="text/html", headers={"Metadata-Flavor": "Google"}
            ), fault
        if fault.kind == "huge":
            return web.Response(text="a" * 4_000_000, content_type="text/html"), fault
        if fault.kind == "status":
            headers = {"Metadata-Flavor": "Google", **fault.headers}
            return web.Response(
                status=fault.code, text=fault.body or f"Error {fault.code}", headers=headers
            ), fault
        return None, fault


def claims_for(claims: dict[str, object], fault: Fault | None) -> dict[str, object]:
    """The claims as a faulty issuer would write them."""
    if fault is None:
        return claims
    if fault.kind == "wrong_audience":
        return {**claims, "aud": "https://somebody-else.example"}
    if fault.kind == "no_exp":
        return {name: value for name, value in claims.items() if name != "exp"}
    if fault.kind == "expired":
        return {**claims, "iat": 1_600_000_000, "exp": 1_600_003_600}
    return claims
