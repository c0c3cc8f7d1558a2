"""`check --online`: one request to each target, and what its answer means.

Owns that request and the verdict on it. Called by `check`, in a process of its own. The request takes the same way as
an app's: through a sidecar of its own, on a Unix socket. A gRPC service gets a health check instead of a path. The
sidecar's own answers, and its diagnosis of a target's refusal, are read from the service's objects: bytes from the
target can make a verdict worse, never better, and are not repeated.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

import httptools

from sidecar.cli.grpc_call import HEALTH_CHECK, CallAnswer, call, serving_status
from sidecar.cli.steps import Step, Verdict, failed
from sidecar.config.models import Config
from sidecar.config.only_route import behind_a_socket
from sidecar.config.targets import FACTS, Target
from sidecar.errors import Reason, SidecarError
from sidecar.proxy.refusals.diagnosis import Cause, asks_to_sign_in, may_tell, not_let_in
from sidecar.proxy.refusals.outages import ErrorGroup
from sidecar.routing.routes import Destination, Route
from sidecar.service.life import Service
from sidecar.service.start_error import StartError

_PAGE_LIMIT: Final = 64 * 1024
"""Most bytes of an answer's body that are examined."""


async def ask_targets(
    config: Config,
    environ: Mapping[str, str],
    routes: Sequence[Route],
    found: Sequence[Sequence[Step]],
    host: str | None,
    path: str,
) -> dict[str, Step]:
    """The step `target` of each route. The requests take the same way as an app's."""
    ready = [
        route
        for route, steps in zip(routes, found, strict=True)
        if not any(step.verdict in (Verdict.FAILED, Verdict.SKIPPED) for step in steps)
    ]
    skipped = Step("target", Verdict.SKIPPED, "not asked, because a step before has failed")
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
    if route.config.grpc:
        return await _ask_for_health(service, route, socket, host, named, limit)
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
            step = _not_answered(own, "Name another with `--path`.")
        elif not whole and not 200 <= answer.status < 300:
            says = f"gave no whole answer to {method} {path} within {limit:g} s"
            return Step("target", Verdict.FAILED, says, Reason.RESPONSE_TIMEOUT)
        else:
            step = _judged(service, route, answer, named, path)
            if answer.status < 400 and not answer.is_page:
                break
    return step


def _own_error(service: Service, route: Route, known: Sequence[ErrorGroup]) -> SidecarError | None:
    """The error with which the sidecar itself answered or broke off, since its errors were `known`. Read from its own
    records, not from the answer.
    """
    before = {(group.route, group.reason): group.times for group in known}
    for group in service.view.errors():
        # Where an answer is longer than is looked at, `check` itself is the app that left.
        if group.route in ("", route.name) and group.reason is not Reason.CLIENT_GONE:
            if group.times > before.get((group.route, group.reason), 0):
                return SidecarError(group.reason, group.detail, command=group.command)
    return None


def _not_answered(error: SidecarError, otherwise: str) -> Step:
    if error.reason is Reason.NOT_ALLOWED:
        return Step("target", Verdict.SKIPPED, f"not asked: {error.detail} {otherwise}")
    return failed("target", error)


def _judged(service: Service, route: Route, answer: _Answer, named: str, path: str) -> Step:
    """What the target's answer means. If it could mean two things, the worse one."""
    status = answer.status
    if (refused := _refused(service, route, status, answer.headers, answer.page, named)) is not None:
        return refused
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


def _refused(
    service: Service, route: Route, status: int, headers: Mapping[str, str], page: str, named: str
) -> Step | None:
    """The sign that the target's front end refused it; None if there is none."""
    refusal = service.view.last_refusal(route.name) if may_tell(status) else None
    found = not_let_in(status, headers, page, named) if refusal is None else refusal.diagnosis
    if found is None:
        return None
    unexplained = found.cause is Cause.UNEXPLAINED and refusal is not None
    verdict = Verdict.WARNING if unexplained else Verdict.FAILED
    says = found.detail if refusal is None else f"answered {status}. {found.detail}"
    return Step("target", verdict, says, found.cause, found.command)


_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{0,100}")


class _Answer:
    """A final answer as the app gets it, as far as it has arrived."""

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
        """Whether it is an HTML page of the target."""
        return self.status < 300 and self.headers.get("content-type", "").lower().startswith("text/html")

    def feed(self, data: bytes) -> None:
        """Take a piece of the answer; raises httptools' errors."""
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
    """One request on a new connection; `answer` gets all of the answer. Raises OSError if there is none."""
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


# a gRPC service


async def _ask_for_health(
    service: Service, route: Route, socket: str, host: str | None, named: str, limit: float
) -> Step:
    known = service.view.errors()
    answer = None
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                # The empty message asks for the service as a whole.
                answer = await call(reader, writer, named, HEALTH_CHECK, [b""])
            finally:
                writer.close()
    except (TimeoutError, OSError):
        pass
    if (own := _own_error(service, route, known)) is not None:
        return _not_answered(own, f"Allow `POST {HEALTH_CHECK}` to have it asked.")
    if answer is None:
        says = f"gave no whole answer to {HEALTH_CHECK} within {limit:g} s"
        return Step("target", Verdict.FAILED, says, Reason.RESPONSE_TIMEOUT)
    # A page that refuses a call reaches its caller as a status of gRPC's.
    refusal = service.view.last_refusal(route.name)
    status = answer.http_status if refusal is None or refusal.good_since else refusal.status
    refused = _refused(service, route, status, answer.headers, answer.page, named)
    if refused is not None:
        return refused
    destination = destination_of(route, host)
    return _health(answer, Target.OTHER if destination is None else destination.target)


def _health(answer: CallAnswer, target: Target) -> Step:
    """What the answer to a call means, if no page has refused it."""
    if answer.http_status != 200 or not answer.is_grpc:
        if asks_to_sign_in(answer.page):
            says = f"answered {answer.http_status} with a page to sign in at, or one that leads on by itself"
            return Step("target", Verdict.WARNING, says, Cause.SIGN_IN)
        says = (
            f"answered {answer.http_status}, and not as gRPC does: if it is not a gRPC service, leave the route's "
            "`grpc` out; if it is, see what else answers in front of it"
        )
        return Step("target", Verdict.WARNING, says)
    match answer.status:
        case "OK":
            return _serving(serving_status(answer.messages))
        case "UNIMPLEMENTED":
            says = "let the call in; it has no health service (UNIMPLEMENTED)"
            return Step("target", Verdict.OK, says)
        case "NOT_FOUND":
            says = "let the call in; its health service says nothing of the whole (NOT_FOUND)"
            return Step("target", Verdict.OK, says)
        case "PERMISSION_DENIED" | "UNAUTHENTICATED":
            told = unquote(answer.headers.get("grpc-message", ""))
            return _denied(answer.status, target, told)
        case "UNAVAILABLE":
            says = "answered UNAVAILABLE: the service, or a proxy in front of it, takes no calls now: its log says why"
            return Step("target", Verdict.WARNING, says)
        case None:
            says = "ended the call without a status: something in front of the service loses the trailers"
            return Step("target", Verdict.WARNING, says)
    says = f"answered {answer.status} to {HEALTH_CHECK}: the service itself has failed"
    return Step("target", Verdict.WARNING, says)


def _serving(status: str | None) -> Step:
    if status == "SERVING":
        return Step("target", Verdict.OK, "let the call in; its health service says SERVING")
    if status == "NOT_SERVING":
        says = (
            "let the call in; its health service says NOT_SERVING: it takes no calls now. Its log says why, or what "
            "it waits for"
        )
        return Step("target", Verdict.WARNING, says)
    said = "something that can't be read" if status is None else status
    return Step("target", Verdict.WARNING, f"let the call in; its health service says {said}")


_ANSWER_IN_GRPC: Final = (Target.API_GATEWAY, Target.ENDPOINTS, Target.GOOGLEAPIS)
"""Their front ends refuse a call with a gRPC status; the others with a page."""


def _denied(status: str, target: Target, told: str) -> Step:
    """`told` is the answer's message: of ESPv2's the JSON that it gives to HTTP."""
    facts = FACTS[target]
    if target not in _ANSWER_IN_GRPC:
        front = "" if target is Target.OTHER else f", and {facts.title} refuses with an HTTP status"
        says = (
            f"answered {status}. That is most likely the app's own answer{front}: give the caller its permission "
            "there, or let the app answer health checks without one"
        )
        return Step("target", Verdict.WARNING, says, Cause.UNEXPLAINED)
    if status == "UNAUTHENTICATED":
        says = (
            f"answered UNAUTHENTICATED: {facts.title} does not accept the token. Check that the route's `audience` is "
            f"{facts.audience}, and that `token` is a kind that it accepts"
        )
        return Step("target", Verdict.FAILED, says, Cause.TOKEN_REFUSED)
    if "Audiences in Jwt are not allowed" in told:
        says = (
            f"answered PERMISSION_DENIED: {facts.title} does not list the token's audience. Set the route's `audience` "
            f"to {facts.audience}"
        )
        return Step("target", Verdict.FAILED, says, Cause.AUDIENCE_REFUSED, facts.grant)
    says = f"answered PERMISSION_DENIED: the caller needs {facts.role}"
    return Step("target", Verdict.FAILED, says, Cause.PERMISSION_MISSING, facts.grant)


def destination_of(route: Route, host: str | None) -> Destination | None:
    """Where a route's requests go; None if that follows their host, and no host is given."""
    if not route.dynamic:
        return route.fixed()
    host = host or next(iter(route.exact), None)
    return None if host is None else route.destination(host)
