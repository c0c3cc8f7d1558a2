"""What gives tokens to programs: the keys of `metadata_server`, `token_endpoint` and `google_token_endpoints`.

Owns their types, defaults and descriptions, as `groups` does for other keys. What concerns several keys at once is in
`handout_rules`. Pure.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema

from sidecar.config.addresses import ListenAddress, ListenAddresses, parse_listen
from sidecar.config.audiences import parse_audiences, parse_scopes
from sidecar.config.listeners import Peers
from sidecar.config.values import CountOrZero, Model
from sidecar.grammar.contents import HIDDEN, quoted

UNKNOWN_ZONE: Final = "unknown"
GOOGLE_TOKEN_HOSTS: Final = frozenset(
    {"iamcredentials.googleapis.com", "oauth2.googleapis.com", "sts.googleapis.com"}
)
"""What Google's libraries ask for tokens by themselves, by https."""

_Texts: Final = WithJsonSchema(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
)
_AUDIENCES_HELP: Final = (
    "Audiences that ID tokens are given for: each letter by letter, or `https://*.a.run.app` for all hosts under it. "
    "Default: those of the routes with the same `credential`."
)
_PEERS_HELP: Final = (
    "Users whose processes may ask, by `uid`; on a Unix socket also groups. Default: all of this machine's."
)


def _name(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not value.isascii()
        or not value.isprintable()
        or set(value) & set(" /?#%")
    ):
        raise ValueError(f"{quoted(value)} is not a name")
    return value


def _secret(value: Any) -> SecretStr:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or not text:
        raise ValueError("the secret must be text, and not empty: put it in quotes")
    if text == HIDDEN:
        raise ValueError("this is what stands in print for a secret, and not the secret")
    if not text.isascii() or not text.isprintable():
        raise ValueError("the secret must be printable ASCII, as every client can send it")
    return SecretStr(text)


def _metadata_listen() -> tuple[ListenAddress, ...]:
    return (parse_listen("localhost:8788"),)


def _endpoint_listen() -> tuple[ListenAddress, ...]:
    return (parse_listen("localhost:8789"),)


class MetadataServer(Model):
    """A metadata server on loopback, as Google's libraries look for one on Google Cloud. They find it by
    GCE_METADATA_HOST, which `exec` sets for its command."""

    listen: ListenAddresses = Field(
        default_factory=_metadata_listen,
        description="Where it listens: loopback or a Unix socket, since tokens go over it in plaintext.",
    )
    credential: str = Field("default", description="Which of `credentials` programs are given tokens of.")
    audiences: Annotated[tuple[str, ...], BeforeValidator(parse_audiences), _Texts] | None = Field(
        None, description=_AUDIENCES_HELP
    )
    scopes: Annotated[tuple[str, ...], BeforeValidator(parse_scopes), _Texts] = Field(
        (), description="Scopes of the access tokens that are given. Default: none, and no access tokens."
    )
    tokens: Literal["real", "placeholder"] = Field(
        "real",
        description="`placeholder`: programs are given tokens that are worth nothing, and a route that sees one in its "
        "token's header puts its own token in that place.",
    )
    project_id: Annotated[str, BeforeValidator(_name)] | None = Field(
        None,
        description="The project that it names. Default: GOOGLE_CLOUD_PROJECT, else what the credential says.",
    )
    project_number: CountOrZero = Field(0, description="The project's number; `0` where nobody needs it.")
    zone: Annotated[str, BeforeValidator(_name)] = Field(
        UNKNOWN_ZONE, description="The zone that it names, such as `europe-west1-b`."
    )
    peers: Peers | None = Field(None, description=_PEERS_HELP)


class TokenEndpoint(Model):
    """A token endpoint with the client credentials grant (RFC 6749 section 4.4), which gives ID tokens: `POST
    /oauth2/token` with `audience`, `resource` or a route's name as `client_id`."""

    listen: ListenAddresses = Field(
        default_factory=_endpoint_listen,
        description="Where it listens: loopback or a Unix socket, since tokens go over it in plaintext.",
    )
    secret: Annotated[
        SecretStr, BeforeValidator(_secret), WithJsonSchema({"type": "string", "minLength": 1})
    ] = Field(description='The `client_secret` of all its clients, such as `"${TOKEN_ENDPOINT_SECRET}"`.')
    credential: str = Field(
        "default",
        description="Which of `credentials` tokens for an `audience` are of. A route's name gets the route's "
        "own.",
    )
    audiences: Annotated[tuple[str, ...], BeforeValidator(parse_audiences), _Texts] | None = Field(
        None, description=_AUDIENCES_HELP
    )
    peers: Peers | None = Field(None, description=_PEERS_HELP)


class GoogleTokenEndpoints(Model):
    """Google's own token endpoints, answered here with placeholders. A library with a dummy key file asks
    `oauth2.googleapis.com`, `sts.googleapis.com` and `iamcredentials.googleapis.com` for tokens as always, through the
    sidecar (HTTPS_PROXY). Needs `intercept`."""

    credential: str = Field(
        "default", description="Which of `credentials` the tokens are of that placeholders stand for."
    )
    audiences: Annotated[tuple[str, ...], BeforeValidator(parse_audiences), _Texts] | None = Field(
        None, description=_AUDIENCES_HELP
    )
    scopes: Annotated[tuple[str, ...], BeforeValidator(parse_scopes), _Texts] = Field(
        (),
        description="Scopes that placeholders of access tokens are given for. Default: none, but for what a library "
        "then asks `iamcredentials` with.",
    )
    peers: Peers | None = Field(
        None, description="Users whose processes may ask, by `uid`. Default: all of this machine's."
    )

    @property
    def listen(self) -> tuple[ListenAddress, ...]:
        """Nowhere: what asks comes by a tunnel."""
        return ()


Handout = MetadataServer | TokenEndpoint | GoogleTokenEndpoints

HANDOUTS: Final = ("metadata_server", "token_endpoint", "google_token_endpoints")
"""Their keys in a configuration."""
