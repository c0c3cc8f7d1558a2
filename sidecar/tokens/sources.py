"""Where tokens come from: the seam that the store sees, and the way from configuration to sources.

Owns `TokenSource` and what each credential of the configuration becomes. The service builds the sources, the
store calls `mint`, the status page shows `describe`. A source may not decide when a token is fetched (that is
the store, by `tokens.policy`), and may not keep one. The rule: every fetch ends within the source's own
deadline, with a token for exactly the audience that was asked for, or with a `SidecarError` that names what
to do. Each source has threads of its own, so that one whose endpoint hangs leaves the others alone.
google-auth is imported by the first fetch, in its thread: it takes 0.25 s of CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol, assert_never

from sidecar.clock import Clock
from sidecar.tokens.adc import AdcGrant
from sidecar.tokens.fetch_threads import DEFAULT_LIMIT, FetchThreads
from sidecar.tokens.google_source import DEFAULT_SECONDS, GoogleSource, Grant
from sidecar.tokens.metadata import MetadataGrant
from sidecar.tokens.service_account import KeyGrant, read_credential
from sidecar.tokens.token import Token

if TYPE_CHECKING:
    from sidecar.config.models import Credential


class TokenSource(Protocol):
    """One credential of the configuration."""

    async def mint(self, audience: str) -> Token:
        """Fetch a token; ends within the source's own deadline; raises `SidecarError` only."""
        ...

    def describe(self) -> str:
        """What was found, in a few words without any secret; for logs and the status page."""
        ...


def build_sources(
    credentials: Mapping[str, Credential],
    *,
    clock: Clock,
    environ: Mapping[str, str],
    seconds: float = DEFAULT_SECONDS,
    threads: int = DEFAULT_LIMIT,
) -> dict[str, TokenSource]:
    """A source for each credential, by its name. Nothing is read or asked yet: that is the first fetch.

    `seconds` is the deadline of a fetch; `threads` is how many fetches of one credential run at once.
    """
    return {
        name: GoogleSource(
            _grant(name, credential, environ), clock, FetchThreads(name, limit=threads), seconds=seconds
        )
        for name, credential in credentials.items()
    }


def quiet_google_logging() -> None:
    """Keep google-auth's loggers at INFO or above: at DEBUG they write assertions and access tokens.

    To be called after logging is set up, and again where a level may have changed.
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith("google.")]
    for name in ("google", *names):
        logger = logging.getLogger(name)
        if logger.level < logging.INFO and (name == "google" or logger.level != logging.NOTSET):
            logger.setLevel(logging.INFO)


def _grant(name: str, credential: Credential, environ: Mapping[str, str]) -> Grant:
    match credential.type:
        case "adc":
            return AdcGrant(environ)
        case "metadata":
            return MetadataGrant(environ, account=credential.account)
        case "service_account_key":
            if credential.file is not None:
                return KeyGrant(partial(read_credential, credential.file), credential.file)
            text = "" if credential.json_ is None else credential.json_.get_secret_value()
            return KeyGrant(lambda: text, f"`credentials.{name}.json`")
        case _:
            assert_never(credential)
