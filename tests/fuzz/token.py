"""What a token endpoint may answer: one byte for who was asked, one for the status, header lines, an empty one, the body.

The first byte's highest bit makes the body the claims of a JWT, which the answer then holds: no mutation gets far through
base64.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import sidecar
from sidecar.config.targets import TokenKind
from sidecar.errors import SidecarError
from sidecar.tokens import credential_file
from sidecar.tokens.fetch.endpoint import Answer, Endpoint, Protocol
from sidecar.tokens.fetch.grant import Fetched, Grant, access_token_in, id_token_in
from sidecar.tokens.fetch.refused import refused
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.grants.iam_credentials import IamCredentials
from sidecar.tokens.grants.metadata import MetadataGrant
from sidecar.tokens.grants.ready_token import ReadyToken
from sidecar.tokens.token import MAX_JWT, Token, TokenKey
from tests.fuzz.stage import expect
from tests.support.clock import FakeClock
from tests.support.named_source import NamedSource

NOW: Final = 1_800_000_000.0
AUDIENCE: Final = "https://billing.example"
_ACCOUNT: Final = "billing@p.iam.gserviceaccount.com"
_STATUSES: Final = (200, 200, 200, 200, 400, 401, 403, 404, 408, 429, 500, 503, 301, 204)
_CLAIMS: Final = 0x80
_SECRET: Final = re.compile(r"[A-Za-z0-9_+=-]{20,}")
"""What is long enough to be a credential, or a part of one."""
_WORD: Final = re.compile(r"[A-Z_]{1,60}|[a-z_]{1,40}")
"""A code of Google's or of OAuth's, which may be repeated; as may a project."""


class Headers(dict[str, str]):
    """As requests has them: looked up by lower-case name."""


class Flown:
    """A fetch whose one exchange ends with `answer`, as a `Flight` and its transport give it."""

    def __init__(self, answer: Answer, clock: FakeClock) -> None:
        self.clock = clock
        self.seconds = self.left = 8.0
        self.endpoint: Endpoint | None = None
        self._answer = answer

    def open(
        self, endpoint: Endpoint, *, origin: str | None = None, proxies: bool = False
    ) -> Callable[..., Answer]:
        """See `Flight.open`."""
        self.endpoint = endpoint

        def transport(*what: object, **more: object) -> Answer:
            if self._answer.status != 200:
                raise refused(endpoint, self._answer)
            return self._answer

        return transport

    def close(self) -> None:
        """Nothing is open."""


class Iam(Grant):
    """An account that IAM Credentials acts as; its own bearer is at hand."""

    ability = "impersonate"

    def __init__(self) -> None:
        self._iam = IamCredentials()
        self._bearer = Fetched("own-bearer", Endpoint("a test", Protocol.LOCAL, "a test", ""))

    def describe(self) -> str:
        """See `Grant`."""
        return "a test's"

    def id_token(self, flight: Any, audience: str) -> Fetched:
        """See `Grant`."""
        return self._iam.generate_id_token(
            flight, self._bearer, _ACCOUNT, audience, universe="googleapis.com"
        )

    def access_token(self, flight: Any, scopes: Sequence[str]) -> Fetched:
        """See `Grant`."""
        return self._iam.generate_access_token(
            flight, self._bearer, _ACCOUNT, scopes, universe="googleapis.com"
        )

    def self_signed_jwt(self, flight: Any, audience: str) -> Fetched:
        """See `Grant`."""
        return self._iam.sign_jwt(flight, self._bearer, _ACCOUNT, audience, universe="googleapis.com")


class Answered(Grant):
    """An endpoint that is asked through google-auth: what is read of its answer is the grant's own."""

    def __init__(self, protocol: Protocol) -> None:
        self._endpoint = Endpoint("the endpoint", protocol, "somebody", "Ask.", login="log in")

    def describe(self) -> str:
        """See `Grant`."""
        return "a test's"

    def id_token(self, flight: Any, audience: str) -> Fetched:
        """See `Grant`."""
        return id_token_in(flight.open(self._endpoint)(), self._endpoint)

    def access_token(self, flight: Any, scopes: Sequence[str]) -> Fetched:
        """See `Grant`."""
        return access_token_in(flight.open(self._endpoint)(), self._endpoint)


_ID: Final = TokenKey(NamedSource("default"), AUDIENCE)
_PERSON: Final = TokenKey(NamedSource("default"), AUDIENCE, TokenKind.ID, persons=True)
_ACCESS: Final = TokenKey(
    NamedSource("default"), "https://www.googleapis.com/auth/cloud-platform", TokenKind.ACCESS
)
_SIGNED: Final = TokenKey(NamedSource("default"), AUDIENCE, TokenKind.SELF_SIGNED_JWT)


def target(data: bytes) -> None:
    """Raise a Finding for what is neither a token nor a SidecarError, or where a secret shows."""
    who, status, rest = data[:1], data[1:2], data[2:]
    head, separator, body = rest.partition(b"\n\n")
    if not separator:
        head, body = b"", rest
    headers = Headers(
        (name.strip().lower(), value.strip())
        for name, _, value in (line.partition(":") for line in head.decode("latin-1").split("\n"))
    )
    number, asked = status[0] if status else 0, who[0] if who else 0
    if asked & _CLAIMS:
        body = _wrapped(body)
    answer = Answer(_STATUSES[number % len(_STATUSES)], headers, body, received_at=NOW)
    ask = _ASK[(asked & ~_CLAIMS) % len(_ASK)]
    try:
        token = ask(answer)
    except SidecarError as error:
        _judge_error(error, body)
        return
    if isinstance(token, SidecarError):
        _judge_error(token, body)
    elif token is not None:
        _judge_token(token)


def _wrapped(claims: bytes) -> bytes:
    """An answer of every shape at once: the JWT by itself does for those that want no JSON."""
    jwt = f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2lnbmF0dXJl"
    shapes = dict.fromkeys(("token", "id_token", "signedJwt", "access_token", "accessToken"), jwt)
    whole = json.dumps({**shapes, "expires_in": 60, "expireTime": "2027-01-15T09:00:00Z"})
    return jwt.encode() if len(claims) % 2 else whole.encode()


def _source(grant: Grant, key: TokenKey) -> Callable[[Answer], object]:
    clock = FakeClock(wall=NOW)
    source = GoogleSource("test", grant, clock, None)  # type: ignore[arg-type]  # no thread: it is called in this one

    def ask(answer: Answer) -> object:
        return source._fetch(Flown(answer, clock), key)  # type: ignore[arg-type]  # what a worker thread runs

    return ask


def _text(answer: Answer) -> str:
    return answer.data.decode("utf-8", "replace")


def _file(answer: Answer) -> object:
    """A credential file, as all grants read it."""
    info = credential_file.parse(_text(answer), "/run/key.json")
    credential_file.type_of(info)
    credential_file.require(info, ("type", "token_uri"), "/run/key.json", "Make it again.")
    credential_file.require_safe_url(info, "token_uri", "/run/key.json")
    return None


def _mail(answer: Answer) -> object:
    """The e-mail of a metadata server's account."""
    found = MetadataGrant({}).email(Flown(answer, FakeClock(wall=NOW)))  # type: ignore[arg-type]
    expect(found and found.isprintable() and "@" in found and len(found) <= 320, "no e-mail", found)
    return None


def _ready(answer: Answer) -> object:
    grant = ReadyToken(lambda: _text(answer), "/run/token", ability="file")
    return _source(grant, _PERSON)(answer)


_ASK: Final[tuple[Callable[[Answer], object], ...]] = (
    lambda answer: Token.from_jwt(_text(answer), received_at=NOW),
    lambda answer: Token.opaque(_text(answer), scopes="a b", received_at=NOW, expires_at=NOW + 60),
    _source(MetadataGrant({}), _ID),
    _source(MetadataGrant({}), _ACCESS),
    _mail,
    _source(Iam(), _ID),
    _source(Iam(), _ACCESS),
    _source(Iam(), _SIGNED),
    _source(Answered(Protocol.OAUTH), _ID),
    _source(Answered(Protocol.STS), _ACCESS),
    _source(Answered(Protocol.LOGIN), _ID),
    _source(Answered(Protocol.SUBJECT), _ACCESS),
    _ready,
    _file,
)


def _judge_token(token: object) -> None:
    expect(isinstance(token, Token), "neither a token nor an error", type(token))
    assert isinstance(token, Token)
    expect(re.fullmatch(rb"Bearer [\x21-\x7e]+", token.bearer), "not safe in a header line")
    expect(len(token.bearer) <= MAX_JWT + 7, "a token without bound")
    expect(math.isfinite(token.expires_at) and math.isfinite(token.issued_at), "a life without end")
    shown = f"{token!r} {token} {token:>5}"
    expect(token.bearer[7:].decode() not in shown or len(token.bearer) < 30, "a token that shows itself")


def _judge_error(error: SidecarError, body: bytes) -> None:
    found: BaseException | None = error
    shown = []
    while found is not None:
        shown += [str(found), repr(found)]
        found = found.__cause__ or found.__context__
    text = " ".join([*shown, error.command])
    expect(error.detail and "\n" not in error.detail, "no sentence", error.detail)
    expect(len(error.detail) < 2000, "more than a sentence or two", len(error.detail))
    expect(error.retry_after is None or 0 <= error.retry_after < math.inf, "a pause of", error.retry_after)
    expect(status_of(error) >= 400, "no status")
    for part in _SECRET.findall(body.decode("latin-1")):
        if part in text:
            known = part in _own_words() or _WORD.fullmatch(part) or f"projects/{part}".encode() in body
            expect(known, "a piece of what came is shown", part)


def status_of(error: SidecarError) -> int:
    """The status that an app would be given."""
    return error.status


@cache
def _own_words() -> str:
    """Everything that the sidecar may say by itself."""
    folder = Path(sidecar.__file__).parent
    return "\n".join(path.read_text() for path in [*folder.rglob("*.py"), Path(__file__)])
