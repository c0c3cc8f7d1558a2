"""A metadata server for Google's own libraries, off Google Cloud.

Owns its paths and the forms of its answers. Served by a `Site` on listeners that `service` binds. It does not decide
who gets what (`guard`, `offer`) and fetches nothing (`desk`). Rules: it answers like Compute Engine's server, and
refuses like GKE's, in plain text. All requests but the ping need `Metadata-Flavor`, and every answer has it. A
directory's address ends in a slash. A token lives as long as it says. Source:
https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Final, final

from sidecar.config.handouts import MetadataServer
from sidecar.errors import MEANINGS, Reason, SidecarError
from sidecar.handout import guard
from sidecar.handout.desk import TRANSIENT, Desk, HandedOut
from sidecar.handout.offer import Offer
from sidecar.handout.tree import Described, find, tree, write
from sidecar.net.callers import Callers
from sidecar.runtime.clock import Clock
from sidecar.serving import problems
from sidecar.serving.application import Application
from sidecar.serving.intake import Takes
from sidecar.serving.request import WholeRequest
from sidecar.serving.response import Response
from sidecar.tokens.fetch.source import Identity
from sidecar.tokens.token import TokenKey

TAKES: Final = Takes("metadata server")

_ACCOUNTS: Final = "/computeMetadata/v1/instance/service-accounts/"
_NAMES: Final = frozenset({"metadata.google.internal", "metadata"})
"""The names that programs call it by, where a name instead of a variable leads here."""
_DEFAULT_UNIVERSE: Final = "googleapis.com"
_FLAVOR: Final = "Metadata-Flavor"
_HEADERS: Final = {**problems.HEADERS, _FLAVOR: "Google", "Server": "Metadata Server for VM"}
_PAUSE: Final = 3.0
"""Seconds between two attempts to learn the credential's identity."""

_MISSING: Final = frozenset({Reason.NO_SERVICE_ACCOUNT, Reason.NOT_ALLOWED})
"""Answered as 404: there is no such token here. gcloud asks for a token for its own client id at each renewal, and
goes on without one only after a 404.
"""


@final
class MetadataApp:
    """The application; `adopt` when the configuration changes."""

    offer: Offer
    config: MetadataServer

    def __init__(self, desk: Desk, clock: Clock, project: str | None) -> None:
        """`project` is the one that the environment names. Call `adopt` before it serves."""
        self.desk = desk
        self._clock = clock
        self._project = project
        self.app = Application(TAKES.server, self._guarded, headers=_HEADERS)

    def adopt(self, offer: Offer, config: MetadataServer, peers: Callers | None) -> None:
        """Use this configuration from now on; `offer` and `peers` come from it."""
        self.offer = offer
        self.config = config
        self.peers = peers
        self._identity: Identity | None = None
        self._asking = asyncio.Lock()
        self._unknown: tuple[SidecarError, float] | None = None
        """Why the credential's identity is unknown, and when that was found (monotonic)."""

    async def _guarded(self, request: WholeRequest) -> Response:
        caller = ""
        try:
            caller = guard.admit(request, TAKES.server, peers=self.peers, names=_NAMES)
            if request.path != "/" and request.headers(_FLAVOR) != ["Google"]:
                raise SidecarError(
                    Reason.CALLER_REFUSED, 'Missing required header "Metadata-Flavor": "Google"'
                )
            return await self._answer(request, caller)
        except SidecarError as error:
            self.desk.refused(error.reason, error.detail, caller=caller)
            return _refused(error)

    async def _answer(self, request: WholeRequest, caller: str) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _plain("405 method not allowed\n", 405)
        path = request.path
        if path == "/":
            return _text("computeMetadata/\n", "application/text")
        account, _, what = path.removeprefix(_ACCOUNTS).partition("/")
        if path.startswith(_ACCOUNTS) and what in ("token", "identity"):
            if request.method != "GET":
                return _plain("405 method not allowed\n", 405)
            if account != "default" and account != (await self._who()).email:
                return _plain("404 page not found\n", 404)
            return await (self._token if what == "token" else self._id_token)(request, caller)
        return await self._entry(request)

    async def _entry(self, request: WholeRequest) -> Response:
        """Everything that is not a token: a value, or a directory."""
        path = request.path
        if (request.parameter("wait_for_change") or "").lower() == "true":
            return _plain("wait_for_change: nothing here changes; leave it out\n", 400)
        try:
            node = find(tree(await self._facts(path)), path)
        except KeyError:
            return _plain("404 page not found\n", 404)
        if isinstance(node, Mapping) and not path.endswith("/"):
            moved = _plain("", 301)
            moved.headers["Location"] = f"{path}/" + (f"?{request.query}" if request.query else "")
            return moved
        written = write(
            node,
            name=path.rstrip("/").rpartition("/")[2],
            recursive=(request.parameter("recursive") or "").lower() == "true",
            alt=(request.parameter("alt") or "").lower(),
        )
        answer = _text(*written)
        answer.headers["ETag"] = written.etag
        return answer

    async def _id_token(self, request: WholeRequest, caller: str) -> Response:
        asked = request.parameters("audience")
        if len(asked) != 1 or not asked[0]:
            return _plain("non-empty audience parameter required\n", 400)
        given = await self._given(caller, self.offer.id_key(asked[0]))
        return _text(given.value, "text/html")

    async def _token(self, request: WholeRequest, caller: str) -> Response:
        wanted = [scope for text in request.parameters("scopes") for scope in text.replace(",", " ").split()]
        given = await self._given(caller, self.offer.access_key(wanted))
        answer = {"access_token": given.value, "expires_in": given.expires_in, "token_type": "Bearer"}
        return _text(json.dumps(answer, separators=(",", ":")), "application/json")

    async def _given(self, caller: str, key: TokenKey) -> HandedOut:
        worthless = self.config.tokens == "placeholder"
        return await self.desk.give(key, caller=caller, worthless=worthless)

    async def _who(self) -> Identity:
        """The credential's identity. It is requested once for all callers, and not again just after a failure,
        because the same threads fetch tokens.
        """
        offer = self.offer
        async with self._asking:
            if self._identity is not None:
                return self._identity
            if self._unknown is not None and self._clock.mono() - self._unknown[1] < _PAUSE:
                raise _again(self._unknown[0])
            try:
                found = await offer.source.identity()
            except SidecarError as error:
                if self.offer is offer:
                    self._unknown = (_again(error), self._clock.mono())
                raise
            if self.offer is offer:
                self._identity = found
            return found

    async def _facts(self, path: str) -> Described:
        """The facts for this path. The identity is requested only if the answer contains it."""
        config = self.config
        known = config.project_id or self._project
        needless = ("/numeric-project-id", "/zone", *(("/project-id",) if known is not None else ()))
        who = Identity(None, None, None) if path.endswith(needless) else await self._who()
        return Described(
            who.email,
            self.offer.scopes,
            known or who.project,
            config.project_number,
            who.universe or _DEFAULT_UNIVERSE,
            config.zone,
        )


def _again(error: SidecarError) -> SidecarError:
    """The same error as a new exception: the raised one holds stack frames."""
    return SidecarError(error.reason, error.detail, retry_after=error.retry_after, command=error.command)


def _refused(error: SidecarError) -> Response:
    status = MEANINGS[error.reason].status
    if error.reason in _MISSING:
        status = 404
    elif status == 503 and error.reason not in TRANSIENT:
        status = 403 if "denied" in error.reason else 500
    answer = _plain(f"idtoken-sidecar: {error.reason}: {error.detail}\n", status)
    if status == 503 and error.retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return answer


def _text(text: str, content_type: str, status: int = 200) -> Response:
    # No charset: google-auth reads JSON for exactly `application/json`.
    return Response(status, text.encode(), {"Content-Type": content_type})


def _plain(text: str, status: int) -> Response:
    return _text(text, "text/plain; charset=utf-8", status)
