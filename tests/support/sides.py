"""Both sides of an exchange, played by the test: an app, a target's connection, and the pool between them.

They write down what they are told, in order, and have a fault where the test wants one.
"""

from __future__ import annotations

from typing import Any

from sidecar.errors import SidecarError
from sidecar.observe.metrics import RouteStats
from sidecar.proxy.faults import Faults
from sidecar.proxy.fields import headers
from sidecar.proxy.messages import NO_BODY, RequestHead
from sidecar.proxy.ports import AppSide, Keeper, Link, Loss, Relay, UpstreamSide
from sidecar.routing.routes import Destination

FAULT = ZeroDivisionError("division by zero")

Told = tuple[Any, ...]


def request(
    method: bytes = b"GET",
    fields: headers.Fields = (),
    *,
    body: int = NO_BODY,
    upgrade: bytes | None = None,
    via: bytes = b"",
    began_mono: float = 0.0,
) -> RequestHead:
    """The head of one to `a.example.com`."""
    made = RequestHead()
    made.method = method
    made.authority = b"a.example.com"
    made.path = b"/x"
    made.fields = fields
    made.found = headers.survey(fields)
    made.body = body
    made.upgrade = upgrade
    made.scheme = b"http://"
    made.via = via
    made.began_mono = began_mono
    return made


class FakeApp(AppSide):
    """The app's side."""

    def __init__(self) -> None:
        self.is_full = False
        self.told: list[Told] = []
        self.breaks: set[str] = set()
        """What has a fault."""
        self.waiting = 0
        """Bytes that it has not taken."""
        self.halves = True
        """Whether one direction can end by itself."""

    def tell(self, what: str, *said: Any) -> None:
        """Write it down, or have a fault."""
        if what in self.breaks:
            raise FAULT
        self.told.append((what, *said))

    @property
    def body_got(self) -> bytes:
        """The answer's body, or the tunnel's bytes."""
        return b"".join(said[0] for what, *said in self.told if what in ("body", "tunnel_write"))

    def said(self, what: str) -> list[Told]:
        """All of one kind."""
        return [told for told in self.told if told[0] == what]

    def interim(self, status: int, reason: bytes, fields: Any) -> None:
        self.tell("interim", status, reason, list(fields))

    def head(self, status: int, reason: bytes, fields: Any, found: Any, body: int) -> None:
        self.tell("head", status, reason, list(fields), body)

    def body(self, data: bytes) -> None:
        self.tell("body", data)

    def end(self, trailers: Any) -> None:
        self.tell("end", list(trailers))

    def flush(self) -> None:
        self.tell("flush")

    def switch(self, reason: bytes, fields: Any, protocol: bytes) -> None:
        self.tell("switch", reason, list(fields), protocol)

    def fail(self, request: Any, error: SidecarError, route: str) -> None:
        self.tell("fail", request, error, route)

    def cut(self, error: SidecarError) -> None:
        self.tell("cut", error)

    def pause_request(self) -> None:
        self.tell("pause")

    def resume_request(self) -> None:
        self.tell("resume")

    def unsent(self) -> int:
        return self.waiting

    def done(self, exchange: Relay, now_mono: float) -> None:
        self.tell("done", exchange, now_mono)

    def faulted(self, exchange: Relay, fault: Exception) -> None:
        self.tell("faulted", exchange, fault)

    def tunnel_write(self, data: bytes) -> None:
        self.tell("tunnel_write", data)

    def tunnel_end(self) -> bool:
        self.tell("tunnel_end")
        return self.halves

    def tunnel_close(self) -> None:
        self.tell("tunnel_close")


class FakeLink(Link, UpstreamSide):
    """A connection to a target, and the side of whatever it carries."""

    def __init__(
        self,
        keeper: Keeper | None = None,
        limits: object = None,
        http2: object = False,
        *,
        capacity: int = 1,
    ) -> None:
        self.keeper: Any = keeper
        self.capacity = capacity
        self.streams = 0
        self.served = 0
        self.generation = 0
        self.idle_since_mono = 0.0
        self.carried: list[Relay] = []
        """All that it was opened for."""
        self.closed = False
        self.sessions_read = 0
        self.session: object | None = None
        self.faults: list[Exception] = []
        self.told: list[Told] = []
        self.breaks: set[str] = set()
        self.waiting = 0
        self.halves = True
        self.lost_now = Loss.UNKNOWN
        self.vanished = False
        self.asked: list[float] = []
        """For how long the target was to have been silent."""

    def tell(self, what: str, *said: Any) -> None:
        """Write it down, or have a fault."""
        if what in self.breaks:
            raise FAULT
        self.told.append((what, *said))

    @property
    def body_got(self) -> bytes:
        """The request's body, or the tunnel's bytes."""
        return b"".join(said[0] for what, *said in self.told if what in ("body", "tunnel_write"))

    def said(self, what: str) -> list[Told]:
        """All of one kind."""
        return [told for told in self.told if told[0] == what]

    # as a pool holds it

    def open(self, exchange: Relay) -> UpstreamSide:
        assert self.streams < self.capacity, "more than it can carry"
        assert not self.closed, "it was closed"
        self.streams += 1
        self.served += 1
        self.carried.append(exchange)
        return self

    def is_closing(self) -> bool:
        return self.closed

    def read_session(self) -> object | None:
        self.sessions_read += 1
        return self.session

    def close(self) -> None:
        self.tell("close")
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def fault(self, fault: Exception) -> bool:
        self.faults.append(fault)
        self.closed = True
        return self.streams > 0

    def gone(self) -> None:
        """The connection ended."""
        self.closed = True
        self.keeper.lost(self)

    # as an exchange writes to it

    def head(self, request: Any, path: bytes, host: bytes, plan: Any, bearer: bytes) -> None:
        self.tell("head", request.method, path, host, bearer)

    def body(self, data: bytes) -> None:
        self.tell("body", data)

    def end(self, trailers: Any) -> None:
        self.tell("end", list(trailers))

    def flush(self) -> None:
        self.tell("flush")

    def cancel(self, *, flush: bool) -> None:
        self.tell("cancel", flush)
        self.closed = True

    def pause_answer(self) -> None:
        self.tell("pause")

    def resume_answer(self) -> None:
        self.tell("resume")

    def unsent(self) -> int:
        return self.waiting

    def loss(self) -> Loss:
        return self.lost_now

    def has_vanished(self, seconds: float) -> bool:
        self.asked.append(seconds)
        return self.vanished

    def tunnel_write(self, data: bytes) -> None:
        self.tell("tunnel_write", data)

    def tunnel_end(self) -> bool:
        self.tell("tunnel_end")
        return self.halves

    def tunnel_close(self) -> None:
        self.tell("tunnel_close")


class FakeKeeper(Keeper):
    """A pool that has a connection when the test says so."""

    def __init__(self, destination: Destination, stats: RouteStats) -> None:
        self.destination = destination
        self.stats = stats
        self.faults = Faults()
        self.token_key = destination.token_key()
        self.users = 0
        self.ready: list[FakeLink] = []
        """Connections that are idle."""
        self.asked: list[bool] = []
        """Who asked, with `fresh`."""
        self.told: list[Told] = []
        self.budget = 99
        """How many requests may be sent again."""

    def acquire(self, exchange: Relay, *, fresh: bool) -> Link | None:
        self.asked.append(fresh)
        return self.ready.pop() if self.ready else None

    def forget(self, exchange: Relay) -> None:
        self.told.append(("forget", exchange))

    def may_retry(self) -> bool:
        self.budget -= 1
        return self.budget >= 0

    def expire(self, before_mono: float) -> None:
        self.told.append(("expire", before_mono))

    def release(self, link: Link) -> None:
        self.told.append(("release", link))

    def lost(self, link: Link) -> None:
        self.told.append(("lost", link))

    def flush(self, link: Link) -> None:
        self.told.append(("flush", link))

    def later_fault(self, link: Any, error: Exception) -> SidecarError | None:
        return None
