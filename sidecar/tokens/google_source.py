"""A token source with google-auth's credentials behind it.

Owns the way of one fetch: a worker thread, one deadline over everything, google-auth's `refresh` on our
transport, and the check of what came. The store calls `mint`; the grants (metadata, service_account, adc) say
whom to ask and how. It may not retry, cache or log. The rule: a fetch ends within its deadline with a token
for exactly the audience asked for, or with a `SidecarError` of its own reason. google-auth's exceptions go no
further than this module: their texts and tracebacks hold what was sent and what came.
"""

from __future__ import annotations

import asyncio
import json
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from sidecar.clock import Clock
from sidecar.errors import Reason, SidecarError
from sidecar.tokens.endpoint import Answer, Endpoint, not_a_token, too_slow
from sidecar.tokens.endpoint import Protocol as EndpointProtocol
from sidecar.tokens.fetch_threads import FetchThreads
from sidecar.tokens.token import Token

if TYPE_CHECKING:
    from sidecar.tokens.google_transport import GoogleTransport

DEFAULT_SECONDS: Final = 8.0
"""For a whole fetch: less than the default `token_wait`, so that who waits is told what failed."""


@final
class Flight:
    """One fetch, as both of its threads see it: the worker opens it, the event loop may abort it."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.endpoint: Endpoint | None = None
        """Who is being asked; None before it is known."""
        self._deadline_mono = clock.mono() + seconds
        self._transport: GoogleTransport | None = None
        self._lock = threading.Lock()
        self._aborted = False

    @property
    def answer(self) -> Answer | None:
        """The last answer with status 200."""
        return None if self._transport is None else self._transport.answer

    def open(
        self, endpoint: Endpoint, *, origin: str | None = None, proxies: bool = False
    ) -> GoogleTransport:
        """The transport of this fetch; see `GoogleTransport`. In the worker thread; once."""
        from sidecar.tokens.google_transport import GoogleTransport

        self.endpoint = endpoint
        transport = GoogleTransport(
            endpoint,
            clock=self.clock,
            seconds=self.seconds,
            deadline_mono=self._deadline_mono,
            origin=origin,
            proxies=proxies,
        )
        with self._lock:
            self._transport = transport
            aborted = self._aborted
        if aborted:
            transport.abort()
        return transport

    def abort(self) -> None:
        """End it now; in the event loop."""
        with self._lock:
            self._aborted = True
            transport = self._transport
        if transport is not None:
            transport.abort()

    def close(self) -> None:
        """Close its connections; in the worker thread."""
        if self._transport is not None:
            self._transport.close()


class Grant(Protocol):
    """How one kind of credential gets an ID token."""

    def ask(self, flight: Flight, audience: str) -> str | None:
        """Ask for a token, blocking, in a worker thread; raises `SidecarError`.

        None: google-auth did not understand what came; `flight.answer` has it.
        """
        ...

    def describe(self) -> str:
        """What is used, without any secret."""
        ...


def refresh(credentials: Any, transport: GoogleTransport) -> str | None:
    """The token that google-auth's `credentials` get on `transport`, or None if they failed on an answer.

    Raises `SidecarError`: what the transport raised, or CREDENTIAL_INVALID if they failed before asking.
    """
    fault = ""
    try:
        credentials.refresh(transport)
    except SidecarError:
        raise
    except Exception as error:  # noqa: BLE001 - what came is looked at by `_read`, which names the reason
        fault = type(error).__name__
    if not fault and isinstance(credentials.token, str):
        return credentials.token
    if transport.answer is None:
        raise SidecarError(
            Reason.CREDENTIAL_INVALID,
            f"google-auth could not use the credential and asked nobody ({fault}). Check the key and the "
            "GOOGLE_* and GCE_* environment variables.",
        )
    return None


@final
class GoogleSource:
    """A `TokenSource`: one credential of the configuration."""

    def __init__(
        self, grant: Grant, clock: Clock, threads: FetchThreads, *, seconds: float = DEFAULT_SECONDS
    ) -> None:
        self._grant = grant
        self._clock = clock
        self._seconds = seconds
        self.threads = threads

    async def mint(self, audience: str) -> Token:
        """See `TokenSource.mint`."""
        flight = Flight(self._clock, self._seconds)
        outcome: Token | SidecarError
        try:
            async with asyncio.timeout(self._seconds):
                outcome = await self.threads.run(partial(self._fetch, flight, audience))
        except TimeoutError:
            outcome = self._late(flight)
        finally:
            # The thread of a fetch that was given up would read on until its endpoint lets go.
            flight.abort()
        if isinstance(outcome, SidecarError):
            raise outcome
        return outcome

    def describe(self) -> str:
        """See `TokenSource.describe`."""
        return self._grant.describe()

    def _fetch(self, flight: Flight, audience: str) -> Token | SidecarError:
        """In the worker thread. Errors are returned as new ones: the raised ones hold frames with secrets."""
        try:
            value = self._grant.ask(flight, audience)
            return _read(flight, value, audience)
        except SidecarError as error:
            return SidecarError(error.reason, error.detail, retry_after=error.retry_after)
        finally:
            flight.close()

    def _late(self, flight: Flight) -> SidecarError:
        if flight.endpoint is not None:
            return too_slow(flight.endpoint, self._seconds)
        return SidecarError(
            Reason.TOKEN_TIMEOUT,
            f"No worker thread came to asking for this token within {self._seconds:g} s: "
            f"{self.threads.running} are busy, {self.threads.abandoned} of them with fetches that were given up. "
            "See whether the token endpoint answers, and whether this process gets CPU time.",
        )


def _read(flight: Flight, value: str | None, audience: str) -> Token:
    """The token in what came, checked; raises `SidecarError`."""
    endpoint, answer = flight.endpoint, flight.answer
    if endpoint is None or answer is None:
        raise RuntimeError("a grant has to ask before it returns")
    now_at = flight.clock.wall()
    if value is None:
        value = _text(endpoint, answer)
    token = None
    try:
        token = Token.from_jwt(value.strip(), received_at=now_at)
    except SidecarError as error:
        if error.reason is not Reason.TOKEN_MALFORMED:
            raise
    if token is None:
        raise not_a_token(endpoint, answer)
    if token.audience != audience:
        raise SidecarError(Reason.TOKEN_WRONG_AUDIENCE, _wrong_audience(endpoint, audience, token.audience))
    if token.expires_at <= now_at:
        raise SidecarError(
            Reason.TOKEN_EXPIRED,
            f"The token that came from {endpoint.name} expired {now_at - token.expires_at:.0f} s ago by this "
            f"machine's clock: check that clock, then the endpoint's.{answer.clock_hint()}",
        )
    return token


def _text(endpoint: Endpoint, answer: Answer) -> str:
    """What would be the token if google-auth had understood the answer; empty if there is nothing like it."""
    if endpoint.protocol is EndpointProtocol.METADATA:
        return answer.data.decode("utf-8", "replace")
    try:
        body = json.loads(answer.data)
    except (ValueError, RecursionError):
        return ""
    found = body.get("id_token") if isinstance(body, dict) else None
    return found if isinstance(found, str) else ""


def _wrong_audience(endpoint: Endpoint, wanted: str, got: str) -> str:
    detail = f"{wanted!r} was asked for, and the token that came from {endpoint.name} is for {got[:200]!r}."
    if got.rstrip("/") == wanted.rstrip("/"):
        return detail + " They differ in a trailing slash only; audiences are compared to the letter."
    return detail + " Check what answers there, and that no cache between ignores the audience."
