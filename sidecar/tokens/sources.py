"""Makes token sources from the configuration.

Owns what each credential of the configuration becomes. The service builds the sources, the store calls `mint`, the
status page shows `describe`. A source does not decide when a token is fetched (the store does, by `tokens.policy`),
and it keeps no token that it fetched. The rule: every fetch ends within the source's own deadline, with a token of
the requested kind and for exactly the requested audience, or with a `SidecarError` that names what to do. Each source
has threads of its own, so that one whose endpoint hangs leaves the others alone. google-auth is imported by the first
fetch, in its thread: it takes 0.25 s of CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, assert_never

from sidecar.config.addresses import ListenAddress
from sidecar.config.combinations import ABILITIES, cannot_give
from sidecar.config.targets import TokenKind
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.contents import place
from sidecar.runtime.clock import Clock
from sidecar.runtime.trust import for_token_endpoints
from sidecar.tokens.credential_file import read_text
from sidecar.tokens.fetch.grant import Grant, mismatch
from sidecar.tokens.fetch.outward import Outward
from sidecar.tokens.fetch.source import DEFAULT_SECONDS, GoogleSource
from sidecar.tokens.fetch.threads import DEFAULT_LIMIT, FetchThreads
from sidecar.tokens.grants.adc import AdcGrant, well_known_file
from sidecar.tokens.grants.credential_types import Addresses, FileGrant, federation
from sidecar.tokens.grants.federation import FederationGrant
from sidecar.tokens.grants.gcloud import GcloudGrant
from sidecar.tokens.grants.impersonation import ImpersonationGrant
from sidecar.tokens.grants.metadata import MetadataGrant
from sidecar.tokens.grants.program_environment import EXECUTABLES, passed_on
from sidecar.tokens.grants.ready_token import ReadyToken, token_file
from sidecar.tokens.grants.service_account import KeyGrant
from sidecar.tokens.grants.user import LOGIN, UserGrant
from sidecar.tokens.token import TokenKey
from sidecar.tokens.universe import VARIABLE as UNIVERSE
from sidecar.tokens.universe import refuse_mix, refuse_unexpected, universe_at

if TYPE_CHECKING:
    from sidecar.config.credentials import Credential, Endpoints, Gcloud, ServiceAccountKey

_FOR_GOOD: Final = frozenset({Reason.SELF_IMPERSONATION, Reason.CREDENTIAL_MISMATCH})
_GRACE: Final = 2.0
"""Seconds that a fetch outlives the command it waits for, so that it can report the result."""


class Inspection(NamedTuple):
    """What is known about a credential before its first fetch."""

    fault: SidecarError | None
    """Why it can never give the required tokens; None also if its file is not there yet."""
    warning: str | None


def build_sources(
    credentials: Mapping[str, Credential],
    *,
    clock: Clock,
    environ: Mapping[str, str],
    endpoints: Endpoints | None = None,
    seconds: float = DEFAULT_SECONDS,
    threads: int = DEFAULT_LIMIT,
    known: Mapping[str, GoogleSource] | None = None,
    withheld: Collection[str] = (),
    ca_file: str | None = None,
    listening: Collection[ListenAddress] = (),
) -> dict[str, GoogleSource]:
    """A source for each credential, by its name. Nothing is sent yet: the first fetch does that.

    `known` are sources of unchanged credentials: they are used again, with what they have learnt. `seconds` is the
    deadline of a fetch, if the credential has none of its own; `threads` is how many fetches of one credential run at
    once. `withheld` are variables that hold secrets of the configuration: programs don't see them, unless their
    credential names them. `ca_file` has the CAs to trust for token endpoints, instead of those that the environment
    names. `listening` is what the sidecar listens on, so that it is not its own proxy.
    """
    addresses = Addresses() if endpoints is None else Addresses(**dict(endpoints))
    addresses = addresses._replace(programs=passed_on(environ, EXECUTABLES, withheld=withheld))
    outward = Outward(environ, for_token_endpoints(environ, ca_file), listening)
    known = known or {}
    grants: dict[str, Grant] = {name: source.grant for name, source in known.items()}
    for name in credentials:
        _build(name, credentials, environ, addresses, grants)
    return {
        name: known[name]
        if name in known
        else GoogleSource(
            name,
            grants[name],
            clock,
            FetchThreads(name, limit=threads),
            seconds=_deadline(name, credentials, seconds),
            universe=environ.get(UNIVERSE, "").strip() or None,
            outward=outward,
        )
        for name in credentials
    }


def unchanged(
    old: Mapping[str, Credential], new: Mapping[str, Credential], *, same_surroundings: bool
) -> set[str]:
    """The credentials that are in both configurations and mean the same, together with those that they act from.
    `same_surroundings` says that the endpoints and the variables kept from their programs are the same too.
    """
    if not same_surroundings:
        return set()

    def same(name: str) -> bool:
        credential = new.get(name)
        if credential is None or old.get(name) != credential:
            return False
        return credential.type != "impersonate" or same(credential.source)

    return {name for name in new if same(name)}


def inspect(
    grant: Grant, keys: Collection[TokenKey], *, universe: str | None = None, upstream: str = ""
) -> Inspection:
    """Whether `grant` can give `keys` at the host `upstream`, as far as files and the configuration show. `universe`
    is the one that the environment expects.
    """
    # A missing or half-written file may be there at the next fetch; a chain that bites its tail stays one, and so does
    # a mix of universes.
    try:
        found = grant.resolved()
    except SidecarError as error:
        return Inspection(error if error.reason in _FOR_GOOD else None, None)
    try:
        found.check()
        if universe is not None:
            refuse_unexpected(found.known_universe(), universe, found.describe())
        if any(key.kind is not TokenKind.ID for key in keys):
            _refuse_other_cloud(found, upstream)
    except SidecarError as error:
        if error.reason in _FOR_GOOD:
            return Inspection(error, None)
    warning = None
    for key in keys:
        if (why := cannot_give(found.ability, key.kind, persons=key.persons)) is not None:
            return Inspection(mismatch(found, why), None)
        if ABILITIES[found.ability].person and key.kind is TokenKind.ID:
            warning = (
                "a person's ID token is sent, which every Cloud Run service that it reaches could use in turn: for "
                "development only"
            )
    return Inspection(None, warning)


def _refuse_other_cloud(grant: Grant, upstream: str) -> None:
    """Raise CREDENTIAL_MISMATCH if an upstream is an API of another universe than the credential: its access tokens
    and self-signed JWTs are for its own universe's APIs.
    """
    at = universe_at(f"https://{upstream}")
    known = None if at is None else grant.known_universe()
    if at is not None and known is not None and known != at:
        refuse_mix(f"The credential ({grant.describe()})", known, at, f"the upstream {upstream}")


def quiet_google_logging() -> None:
    """Keep google-auth's loggers at INFO or above: at DEBUG they write assertions and access tokens.

    Call it after logging is set up, and whenever a level may have changed.
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith("google.")]
    for name in ("google", *names):
        logger = logging.getLogger(name)
        if logger.level < logging.INFO and (name == "google" or logger.level != logging.NOTSET):
            logger.setLevel(logging.INFO)


def _build(
    name: str,
    credentials: Mapping[str, Credential],
    environ: Mapping[str, str],
    addresses: Addresses,
    grants: dict[str, Grant],
) -> Grant:
    """The grant of a credential, and first that of the one it acts from."""
    if name in grants:
        return grants[name]
    credential = credentials[name]
    source = None
    if credential.type == "impersonate":
        source = _build(credential.source, credentials, environ, addresses, grants)
    grants[name] = grant = _grant(name, credential, environ, addresses, source)
    return grant


def _grant(
    name: str,
    credential: Credential,
    environ: Mapping[str, str],
    addresses: Addresses,
    source: Grant | None,
) -> Grant:
    match credential.type:
        case "adc":
            return AdcGrant(environ, addresses)
        case "metadata":
            return MetadataGrant(
                environ,
                address=addresses.metadata,
                account=credential.account,
                licenses=credential.licenses,
                iam=addresses.iam(),
            )
        case "service_account_key":
            return _key(name, credential, addresses)
        case "impersonate":
            return ImpersonationGrant(
                source or AdcGrant(environ, addresses),
                credential.service_account,
                iam=addresses.iam(),
                delegates=credential.delegates,
            )
        case "workload_identity_federation":
            named = {name: environ[name] for name in credential.environment if name in environ}
            return FileGrant(
                partial(read_text, credential.file),
                place(credential.file),
                partial(federation, service_account=credential.service_account),
                addresses._replace(programs={**addresses.programs, **named}),
            )
        case "user":
            file = credential.file or well_known_file(environ)
            return UserGrant(partial(read_text, file, login=LOGIN), place(file), token_uri=addresses.oauth)
        case "gcloud":
            return _gcloud(credential, environ, addresses)
        case "file":
            return token_file(credential.path)
        case "static":
            secret = credential.token
            return ReadyToken(secret.get_secret_value, f"`credentials.{name}.token`", ability="static")
        case _:
            assert_never(credential)


def _key(name: str, credential: ServiceAccountKey, addresses: Addresses) -> KeyGrant:
    if credential.file is not None:
        where = place(credential.file)
        read = partial(read_text, credential.file, refuse_world_readable=not credential.allow_world_readable)
    else:
        where = f"`credentials.{name}.json`"
        text = "" if credential.json_ is None else credential.json_.get_secret_value()
        read = partial(str, text)
    return KeyGrant(read, where, token_uri=addresses.oauth, iam=addresses.iam())


def _gcloud(credential: Gcloud, environ: Mapping[str, str], addresses: Addresses) -> GcloudGrant:
    return GcloudGrant(
        environ,
        command=credential.command,
        account=credential.account,
        service_account=credential.service_account,
        delegates=credential.delegates,
        oauth=addresses.oauth,
        iam_credentials=addresses.iam_credentials,
        metadata=addresses.metadata,
    )


def _deadline(name: str, credentials: Mapping[str, Credential], usual: float) -> float:
    """Seconds for a whole fetch. Commands are slower than token endpoints, and have a limit of their own."""
    credential = credentials[name]
    match credential.type:
        case "gcloud":
            return credential.timeout
        case "impersonate" if credential.source in credentials:
            return max(usual, _deadline(credential.source, credentials, usual) + _GRACE)
        case "workload_identity_federation":
            direct = FederationGrant(partial(read_text, credential.file), place(credential.file))
            seconds = direct.executable_seconds()
            return usual if seconds is None else max(usual, seconds + _GRACE)
    return usual
