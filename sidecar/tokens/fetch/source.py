"""A token source: one credential, used in worker threads.

Owns the steps of one fetch: a worker thread, one deadline for everything, the grant, and the check of the result. The
store calls `mint`; the grants (metadata, service_account, impersonation, …) know the endpoints. It may not retry,
cache or log. The rule: a fetch ends within its deadline with a token of the requested kind and for exactly the
requested audience, or with a `SidecarError` that has its own reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, TypeVar, final

from sidecar.config.targets import GCLOUD_CLIENT_IDS, TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import Clock
from sidecar.tokens.fetch.endpoint import not_a_token, too_slow
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import Fetched, Grant, ask
from sidecar.tokens.fetch.outward import NOTHING_SAID, Outward
from sidecar.tokens.fetch.threads import FetchThreads
from sidecar.tokens.token import Token, TokenKey
from sidecar.tokens.universe import refuse_unexpected

DEFAULT_SECONDS: Final = 8.0
"""Seconds for a whole fetch: less than the default `token_wait`, so that waiting callers learn what failed."""


T = TypeVar("T")


class Identity(NamedTuple):
    """Who a credential is; None for unknown facts."""

    email: str | None
    """The service account's e-mail. A person's is unknown."""
    project: str | None
    universe: str | None


@final
class GoogleSource:
    """A `TokenSource`: one credential of the configuration."""

    def __init__(
        self,
        name: str,
        grant: Grant,
        clock: Clock,
        threads: FetchThreads,
        *,
        seconds: float = DEFAULT_SECONDS,
        universe: str | None = None,
        outward: Outward = NOTHING_SAID,
    ) -> None:
        self.name = name
        self.grant = grant
        self._clock = clock
        self.seconds = seconds
        """The deadline of a whole fetch, in seconds."""
        self.universe = universe
        """The expected universe domain, if the environment names one."""
        self.threads = threads
        self._outward = outward
        self.clock_ahead: float | None = None
        """How many seconds this machine's clock was ahead of the last endpoint's, if that stated its time."""

    def __repr__(self) -> str:
        return f"<GoogleSource {self.name}>"

    async def mint(self, key: TokenKey) -> Token:
        """See `TokenSource.mint`."""
        return await self._in_time(lambda flight: self._fetch(flight, key))

    async def identity(self) -> Identity:
        """Who the credential is, with a request if files and the configuration don't show it. Raises `SidecarError`."""
        return await self._in_time(self._identify)

    def describe(self) -> str:
        """See `TokenSource.describe`."""
        return self.grant.describe()

    async def _in_time(self, ask: Callable[[Flight], T | SidecarError]) -> T:
        """The result of `ask`, in a worker thread and within the deadline."""
        flight = Flight(self._clock, self.seconds, self._outward)
        outcome: T | SidecarError
        try:
            async with asyncio.timeout(self.seconds):
                outcome = await self.threads.run(partial(ask, flight))
        except TimeoutError:
            outcome = self._late(flight)
        finally:
            # The thread of a fetch that was given up would read on until its endpoint lets go.
            flight.abort()
        if isinstance(outcome, SidecarError):
            raise outcome
        return outcome

    def _identify(self, flight: Flight) -> Identity | SidecarError:
        try:
            grant = self.grant.resolved()
            return Identity(grant.email(flight), grant.project(flight), grant.universe(flight))
        except SidecarError as error:
            return _again(error)
        finally:
            flight.close()

    def _fetch(self, flight: Flight, key: TokenKey) -> Token | SidecarError:
        """Runs in the worker thread. Errors are returned, as new exceptions."""
        try:
            if self.universe is not None:
                grant = self.grant.resolved()
                refuse_unexpected(grant.universe(flight), self.universe, grant.describe())
            fetched = ask(self.grant, flight, key)
            if fetched.answer is not None:
                self.clock_ahead = fetched.answer.clock_ahead
            return _read(flight, fetched, key)
        except SidecarError as error:
            return _again(error)
        finally:
            flight.close()

    def _late(self, flight: Flight) -> SidecarError:
        if flight.endpoint is not None:
            return too_slow(flight.endpoint, self.seconds)
        return SidecarError(
            Reason.TOKEN_TIMEOUT,
            f"No worker thread came to asking for this token within {self.seconds:g} s: "
            f"{self.threads.running} are busy, {self.threads.abandoned} of them with fetches that were given up. "
            "See whether the token endpoint answers, and whether this process gets CPU time.",
        )


def _again(error: SidecarError) -> SidecarError:
    """The same error as a new exception: the raised one holds stack frames with secrets."""
    return SidecarError(error.reason, error.detail, retry_after=error.retry_after, command=error.command)


def _read(flight: Flight, fetched: Fetched, key: TokenKey) -> Token:
    """The fetched token, checked; raises `SidecarError`."""
    now_at = flight.clock.wall()
    token = _parse(fetched, key, now_at)
    accepted = {key.audience, *(GCLOUD_CLIENT_IDS if key.persons else ())}
    if token.audience not in accepted:
        raise SidecarError(Reason.TOKEN_WRONG_AUDIENCE, _wrong_audience(fetched, key, token.audience))
    if token.expires_at <= now_at:
        hint = "" if fetched.answer is None else fetched.answer.clock_hint()
        raise SidecarError(
            Reason.TOKEN_EXPIRED,
            f"The token that came from {fetched.endpoint.name} expired {now_at - token.expires_at:.0f} s ago by this "
            f"machine's clock: check that clock, then where the token comes from.{hint}",
        )
    return token


def _parse(fetched: Fetched, key: TokenKey, now_at: float) -> Token:
    fault = None
    try:
        if key.kind is TokenKind.ACCESS:
            return Token.opaque(
                fetched.value,
                scopes=key.audience,
                received_at=now_at,
                expires_at=now_at + (fetched.expires_in or 0.0),
            )
        return Token.from_jwt(fetched.value.strip(), received_at=now_at)
    except SidecarError as error:
        # Not raised here: its frames, and those it would chain, hold what came.
        fault = error
    if fault.reason is Reason.TOKEN_INVALID and fetched.answer is not None:
        raise SidecarError(fault.reason, f"{fault.detail}{fetched.answer.clock_hint()}")
    if fault.reason is not Reason.TOKEN_MALFORMED:
        raise fault
    if fetched.answer is not None:
        raise not_a_token(fetched.endpoint, fetched.answer)
    raise SidecarError(
        Reason.TOKEN_MALFORMED,
        f"What {fetched.endpoint.name} gives ({len(fetched.value)} characters) is not a JWT for one audience. Look at "
        "it where it comes from.",
    )


def _wrong_audience(fetched: Fetched, key: TokenKey, got: str) -> str:
    wanted, name = key.audience, fetched.endpoint.name
    detail = f"{wanted!r} was asked for, and the token that came from {name} is for {got[:200]!r}."
    if got.rstrip("/") == wanted.rstrip("/"):
        return detail + " They differ in a trailing slash only; audiences are compared to the letter."
    if got in GCLOUD_CLIENT_IDS:
        return (
            detail + " That is a person's token: only Cloud Run and functions take those (docs/targets.md)."
        )
    if fetched.answer is None:
        return detail + " Set the route's `audience` to that, if that is what the target wants."
    return detail + " Check what answers there, and that no cache between ignores the audience."
