"""`check` and `token`: whether each route will work, and what fixes it where not.

Owns the steps and their verdicts: the credential that was found, a token that was minted, its claims as the target
wants them, the clock, and, if asked for, one request to the target. Called by the commands, in a process of its own.
A token is held here and nowhere shown but by `token`. What the sidecar itself answered, and what it made of a target's
refusal, is read from the service's own objects: bytes that passed through can make a verdict worse, never better, and
are not repeated. The rule: every step that fails has the reason code that log, metric and answer share, and the
command that fixes it where there is one.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httptools

from sidecar.config.credentials import is_email
from sidecar.config.models import Config
from sidecar.config.only_route import behind_a_socket
from sidecar.config.targets import FACTS, GCLOUD_CLIENT_IDS, TokenKind, default_audience
from sidecar.errors import Reason, SidecarError
from sidecar.proxy.refusals.diagnosis import Cause, asks_to_sign_in, may_tell, not_let_in
from sidecar.proxy.refusals.outages import ErrorGroup
from sidecar.routing.routes import Destination, Route, RouteTable
from sidecar.runtime.clock import SystemClock
from sidecar.service.life import Service
from sidecar.service.start_error import StartError
from sidecar.tokens.fetch.refused import SET_CLOCK
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.grants.user import LOGIN
from sidecar.tokens.sources import build_sources, inspect
from sidecar.tokens.token import Token, read_claims

CLOCK_TOLERANCE: Final = 10.0
"""Seconds that this machine's clock may be off without a word: what Google's libraries allow for."""
CLOCK_LIMIT: Final = 60.0
"""Seconds off from which on requests will fail sooner or later."""
_PAGE_LIMIT: Final = 64 * 1024
"""Bytes of an answer's body that are looked at."""


class Verdict(StrEnum):
    """How a step ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Step(NamedTuple):
    """One step for one route."""

    name: str
    verdict: Verdict
    says: str
    reason: str = ""
    command: str = ""
    """What fixes it, in a shell."""


class RouteReport(NamedTuple):
    """Every step for one route."""

    route: str
    steps: tuple[Step, ...]

    @property
    def failed(self) -> bool:
        """Whether a step failed."""
        return any(step.verdict is Verdict.FAILED for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints of it."""
        return {
            "route": self.route,
            "ok": not self.failed,
            "steps": [
                {
                    "name": step.name,
                    "verdict": str(step.verdict),
                    "says": step.says,
                    "reason": step.reason or None,
                    "command": step.command or None,
                }
                for step in self.steps
            ],
        }


async def check(
    config: Config,
    environ: Mapping[str, str],
    names: Sequence[str] = (),
    *,
    host: str | None = None,
    online: bool = False,
    path: str = "/",
) -> list[RouteReport]:
    """The report of every route, or of those in `names`; `host` stands for the request's where a route follows it."""
    loop = asyncio.get_running_loop()
    clock = SystemClock(loop)
    sources = _sources(config, environ, clock)
    table = RouteTable.compile(config, sources)
    routes = [route for route in table.routes if not names or route.name in names]
    found = await asyncio.gather(
        *(_without_target(route, sources[route.config.credential], host, clock) for route in routes)
    )
    if online:
        asked = await _ask_targets(config, environ, routes, found, host, path)
        found = [[*steps, asked[route.name]] for route, steps in zip(routes, found, strict=True)]
    return [RouteReport(route.name, tuple(steps)) for route, steps in zip(routes, found, strict=True)]


async def mint(config: Config, environ: Mapping[str, str], name: str, host: str | None) -> Token:
    """A token of one route; raises `SidecarError`."""
    clock = SystemClock(asyncio.get_running_loop())
    sources = _sources(config, environ, clock)
    (route,) = (route for route in RouteTable.compile(config, sources).routes if route.name == name)
    destination = _destination(route, host)
    if destination is None:
        raise SidecarError(Reason.NO_ROUTE, _FOLLOWS.format(route=name))
    return await sources[route.config.credential].mint(destination.token_key())


def _sources(config: Config, environ: Mapping[str, str], clock: SystemClock) -> dict[str, GoogleSource]:
    return build_sources(
        config.credentials,
        clock=clock,
        environ=environ,
        endpoints=config.endpoints,
        withheld=config.secret_variables,
        listening=config.listening,
    )


_FOLLOWS: Final = "Route `{route}` follows the request's host: name one with `--host`."


async def _without_target(
    route: Route, source: GoogleSource, host: str | None, clock: SystemClock
) -> list[Step]:
    """Credential, token, claims and clock."""
    try:
        looked = source.grant.look()
    except SidecarError as error:
        return [_failed("credential", error)]
    named = f"`{route.config.credential}`: {source.describe()}"
    steps = [
        Step("credential", Verdict.OK, named)
        if looked
        else Step("credential", Verdict.SKIPPED, f"{named}, which shows only by asking for a token")
    ]
    if (allow := route.config.allow) is not None:
        methods, paths = ", ".join(allow.methods) or "every method", ", ".join(allow.paths) or "every path"
        steps.append(Step("allow", Verdict.OK, f"{methods} of {paths}; the rest is refused"))
    destination = _destination(route, host)
    if destination is None:
        return [*steps, Step("token", Verdict.SKIPPED, _FOLLOWS.format(route=route.name))]
    if destination.proxy is not None:
        says = f"through {destination.proxy}, which looks up `{destination.host}` by itself"
        steps.append(Step("egress", Verdict.OK, says))
    key = destination.token_key()
    seen = inspect(source.grant, [key], universe=source.universe, upstream=destination.host)
    if seen.fault is not None:
        return [_failed("credential", seen.fault)]
    if seen.warning is not None:
        steps.append(Step("credential", Verdict.WARNING, seen.warning))
    try:
        token = await source.mint(key)
    except SidecarError as error:
        if not looked and error.command == LOGIN:  # what was asked is not there, and nobody has logged in
            return [_failed("credential", error)]
        return [*steps, _failed("token", error)]
    steps[0] = Step("credential", Verdict.OK, named)
    left = token.expires_at - clock.wall()
    what = "scopes" if key.kind is TokenKind.ACCESS else "aud"
    steps.append(
        Step("token", Verdict.OK, f"{key.kind}, {what} {token.audience}, {left / 60:.0f} min to live")
    )
    if key.kind is not TokenKind.ACCESS:
        steps += _claims(destination, read_claims(token.bearer.partition(b" ")[2].decode("ascii")) or {})
    if source.clock_ahead is not None:
        steps.append(_clock(source.clock_ahead))
    return steps


def _destination(route: Route, host: str | None) -> Destination | None:
    if not route.dynamic:
        return route.fixed()
    host = host or next(iter(route.exact), None)
    return None if host is None else route.destination(host)


def _claims(destination: Destination, claims: Mapping[str, Any]) -> list[Step]:
    """Whether the target will like the token."""
    facts = FACTS[destination.target]
    steps = []
    suggested = default_audience(
        destination.target,
        destination.token_kind,
        "https" if destination.tls else "http",
        destination.authority.decode("ascii"),
    )
    audience = claims.get("aud")
    if audience in GCLOUD_CLIENT_IDS:
        steps.append(
            Step("claims", Verdict.OK, f"the token is a person's; {facts.title} takes those for development")
        )
    elif suggested is not None and destination.audience.rstrip("/") != suggested.rstrip("/"):
        steps.append(
            Step(
                "claims",
                Verdict.WARNING,
                f"the audience is {destination.audience}, and the target's host suggests {suggested}: right only if "
                f"it is {facts.audience}",
            )
        )
    email = claims.get("email") or (
        claims.get("iss") if destination.token_kind is TokenKind.SELF_SIGNED_JWT else None
    )
    if isinstance(email, str) and is_email(email):
        steps.append(Step("claims", Verdict.OK, f"as {email}"))
    elif facts.needs_email:
        steps.append(
            Step(
                "claims",
                Verdict.FAILED,
                f"the token has no e-mail, and {facts.title} wants one: have it made with `includeEmail` "
                "(`--include-email`)",
                Cause.EMAIL_MISSING,
            )
        )
    else:
        steps.append(Step("claims", Verdict.WARNING, "the token has no e-mail; some targets want one"))
    return steps


def _clock(ahead: float) -> Step:
    side = "ahead of" if ahead > 0 else "behind"
    says = f"this machine's clock is {abs(ahead):.0f} s {side} the token endpoint's"
    if abs(ahead) <= CLOCK_TOLERANCE:
        return Step("clock", Verdict.OK, "agrees with the token endpoint's")
    verdict = Verdict.FAILED if abs(ahead) > CLOCK_LIMIT else Verdict.WARNING
    return Step("clock", verdict, says, Reason.CLOCK_OFF, SET_CLOCK)


def _failed(name: str, error: SidecarError) -> Step:
    return Step(name, Verdict.FAILED, error.detail, error.reason, error.command)


# one request to each target, through a sidecar of its own


async def _ask_targets(
    config: Config,
    environ: Mapping[str, str],
    routes: Sequence[Route],
    found: Sequence[Sequence[Step]],
    host: str | None,
    path: str,
) -> dict[str, Step]:
    """The step `target` of each route. The requests go the very way that an app's would."""
    ready = [
        route
        for route, steps in zip(routes, found, strict=True)
        if not any(step.verdict in (Verdict.FAILED, Verdict.SKIPPED) for step in steps)
    ]
    skipped = Step("target", Verdict.SKIPPED, "not asked: there is no token for it")
    asked = {route.name: skipped for route in routes}
    with tempfile.TemporaryDirectory(prefix="idtoken-check-") as directory:
        alone, socket = behind_a_socket(config, directory, config.routes)
        service = Service(alone, asyncio.get_running_loop(), environ=environ)
        try:
            await service.start()
        except StartError as error:
            return dict.fromkeys(asked, Step("target", Verdict.FAILED, str(error), Reason.CREDENTIAL_INVALID))
        try:
            for route in ready:
                asked[route.name] = await _ask_target(service, route, socket, host, path)
        finally:
            service.request_quit()
            await service.run()
    return asked


async def _ask_target(service: Service, route: Route, socket: str, host: str | None, path: str) -> Step:
    named = (host or next(iter(route.exact))) if route.dynamic else f"{route.name}.localhost"
    timeouts = route.config.timeouts
    limit = timeouts.connect + min(timeouts.response, 60.0)
    step = Step("target", Verdict.SKIPPED, "not asked")
    # What a refusal means stands in its body, which HEAD does not get; and some services know GET only.
    for method in ("HEAD", "GET"):
        answer = _Answer()
        known = service.view.errors()
        try:
            async with asyncio.timeout(limit):
                await _exchange(answer, socket, f"{method} {path} HTTP/1.1", named)
            whole = True
        except (TimeoutError, OSError):
            whole = False
        if (own := _own_error(service, route, known)) is not None:
            step = _not_answered(own)
        elif not whole and not 200 <= answer.status < 300:
            says = f"gave no whole answer to {method} {path} within {limit:g} s"
            return Step("target", Verdict.FAILED, says, Reason.RESPONSE_TIMEOUT)
        else:
            step = _judged(service, route, answer, named, path)
            if answer.status < 400 and not answer.is_page:
                break
    return step


def _own_error(service: Service, route: Route, known: Sequence[ErrorGroup]) -> SidecarError | None:
    """What the sidecar itself has answered, or broken off for, since its errors were `known`: by its own account,
    whatever came back."""
    before = {(group.route, group.reason): group.times for group in known}
    for group in service.view.errors():
        # Where an answer is longer than is looked at, `check` itself is the app that left.
        if group.route in ("", route.name) and group.reason is not Reason.CLIENT_GONE:
            if group.times > before.get((group.route, group.reason), 0):
                return SidecarError(group.reason, group.detail, command=group.command)
    return None


def _not_answered(error: SidecarError) -> Step:
    if error.reason is Reason.NOT_ALLOWED:
        return Step("target", Verdict.SKIPPED, f"not asked: {error.detail} Name another with `--path`.")
    return _failed("target", error)


def _judged(service: Service, route: Route, answer: _Answer, named: str, path: str) -> Step:
    """What the target's answer means; where it could mean two things, the worse one."""
    status = answer.status
    refusal = service.view.last_refusal(route.name) if may_tell(status) else None
    found = not_let_in(status, answer.headers, answer.page, named) if refusal is None else refusal.diagnosis
    if found is not None:
        unexplained = found.cause is Cause.UNEXPLAINED and refusal is not None
        verdict = Verdict.WARNING if unexplained else Verdict.FAILED
        says = found.detail if refusal is None else f"answered {status}. {found.detail}"
        return Step("target", verdict, says, found.cause, found.command)
    if answer.is_page and asks_to_sign_in(answer.page):
        says = (
            f"answered {status} to {path} with a page to sign in at, or one that leads on by itself. See whether it is "
            "the service's own, and no captive portal's."
        )
        return Step("target", Verdict.WARNING, says, Cause.SIGN_IN)
    if status >= 500:
        return Step("target", Verdict.WARNING, f"answered {status} to {path}: the service itself has failed")
    if 300 <= status < 400:
        leads_to = urlsplit(answer.headers.get("location", "")).path
        if not leads_to:
            return Step("target", Verdict.WARNING, f"answered {status} to {path}, and redirects nowhere")
        shown = leads_to if _PATH.fullmatch(leads_to) else "a path of its own"
        says = f"let the request in and answered {status} to {path}: it redirects to {shown}"
        return Step("target", Verdict.OK, says)
    return Step("target", Verdict.OK, f"let the request in and answered {status} to {path}")


_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{0,100}")


class _Answer:
    """A final answer as the app gets it, as far as it has come."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        """By lower-case name."""
        self._body = bytearray()
        self._parser = httptools.HttpResponseParser(self)

    @property
    def page(self) -> str:
        """The beginning of the body."""
        return self._body.decode("utf-8", "replace")

    @property
    def is_page(self) -> bool:
        """Whether it is HTML for people, and the target's."""
        return self.status < 300 and self.headers.get("content-type", "").lower().startswith("text/html")

    def feed(self, data: bytes) -> None:
        """A piece of what came; raises httptools' errors."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self.status = 0 if status < 200 else status

    def on_body(self, data: bytes) -> None:
        self._body += data[: _PAGE_LIMIT - len(self._body)]


async def _exchange(answer: _Answer, socket: str, line: str, host: str) -> None:
    """One request on a connection of its own; `answer` is fed to its end. Raises OSError where no answer comes."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(f"{line}\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode())
        while data := await reader.read(_PAGE_LIMIT):
            answer.feed(data)
    except httptools.HttpParserError as error:
        raise OSError("no answer") from error
    finally:
        writer.close()
    if not answer.status:
        raise OSError("no answer")
