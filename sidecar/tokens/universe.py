"""Universe domains: which of Google's clouds a credential belongs to.

Owns where a credential's universe is stated (a file's `universe_domain`, an endpoint's name, the environment) and the
refusal of a mix. Called by the grants and by `sources`. It makes no calls: `metadata` asks the metadata server. The
rule: the universe is the source's, as in google-auth (`Credentials.universe_domain`); the default is googleapis.com;
and the bearer of one universe never goes to an endpoint of another. A mix that files and configuration show is a
configuration error; any other mix fails the fetch. Source: https://google.aip.dev/auth/4111 and google-auth's
`impersonated_credentials`, `external_account` and `compute_engine`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from sidecar.errors import Reason, SidecarError
from sidecar.tokens.credential_file import invalid

DEFAULT_UNIVERSE: Final = "googleapis.com"
VARIABLE: Final = "GOOGLE_CLOUD_UNIVERSE_DOMAIN"
"""Says which universe is expected. Google's client libraries refuse a credential of another one."""
_LABEL: Final = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})+")
_API: Final = re.compile(r"(?:sts|iamcredentials)(?:\.mtls)?\.(.+)")
"""The public names of the APIs that credentials are sent to."""
_TEMPLATE: Final = "{universe_domain}"


def is_universe(text: object) -> bool:
    """Whether this can be a universe domain: two labels or more, lower case."""
    return isinstance(text, str) and _DOMAIN.fullmatch(text) is not None


def universe_in(info: Mapping[str, Any], where: str) -> str | None:
    """The `universe_domain` of a credential file; None if it has none. Raises CREDENTIAL_INVALID unless it is a
    domain, because it decides where bearers go.
    """
    found = info.get("universe_domain")
    if found is None or found == "":
        return None
    if not is_universe(found):
        invalid(where, "its `universe_domain` is not a domain such as googleapis.com.")
    return str(found)


def universe_at(url: object) -> str | None:
    """The universe whose API has this URL, by its host's name. None if the name does not show it: a private name, an
    address, no URL.
    """
    try:
        host = (urlsplit(url).hostname or "") if isinstance(url, str) else ""
    except ValueError:
        return None
    if host == DEFAULT_UNIVERSE or host.endswith(f".{DEFAULT_UNIVERSE}"):
        return DEFAULT_UNIVERSE
    named = _API.fullmatch(host)
    return named[1] if named is not None and is_universe(named[1]) else None


def filled_in(url: str, universe: str) -> str:
    """A URL of a file with google-auth's `{universe_domain}` replaced."""
    return url.replace(_TEMPLATE, universe)


def refuse_mix(what: str, universe: str, other: str, otherwise: str) -> NoReturn:
    """Raise CREDENTIAL_MISMATCH: `what` belongs to `universe`, and `otherwise` to `other`."""
    raise SidecarError(
        Reason.CREDENTIAL_MISMATCH,
        f"{what} is of the universe domain {universe}, and {otherwise} of {other}. A bearer never goes from one "
        "universe to another: use a credential and endpoints of the same one.",
    )


def refuse_unexpected(universe: str | None, expected: str | None, what: str) -> None:
    """Raise CREDENTIAL_MISMATCH if the environment names another universe than that of `what`. Does nothing if it
    names none, or if the credential's universe is unknown.
    """
    if not expected or universe is None:
        return
    if not is_universe(expected):
        raise SidecarError(
            Reason.CREDENTIAL_MISMATCH,
            f"{VARIABLE} is not a domain such as googleapis.com: set it to the universe domain of the credentials, or "
            "unset it.",
        )
    if universe != expected:
        raise SidecarError(
            Reason.CREDENTIAL_MISMATCH,
            f"{VARIABLE} says {expected}, and the credential ({what}) is of {universe}: use a credential of "
            f"{expected}, or set the variable to {universe}.",
        )
