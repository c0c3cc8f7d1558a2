"""Application Default Credentials.

Owns the look-up: which credential is meant where the configuration says `adc`. Called by `GoogleSource`, in a
worker thread. It never goes to the network to find out, and never falls through from a file that was named to
something else. The rule is google-auth's order: the file in GOOGLE_APPLICATION_CREDENTIALS; the file that
`gcloud auth application-default login` writes; the metadata server. It is followed at every fetch, so that a
file that appears or changes counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, final

from sidecar.errors import Reason, SidecarError
from sidecar.tokens.google_source import Flight
from sidecar.tokens.metadata import MetadataGrant, metadata_host
from sidecar.tokens.service_account import ask_with_key, parse_credential, read_credential

VARIABLE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
FILE_NAME: Final = "application_default_credentials.json"

_USE_INSTEAD: Final = "Use a service account key, or run on Google Cloud with a service account attached."
_NOT_SUPPORTED: Final = {
    "authorized_user": "is the login of a person (`gcloud auth application-default login`), which gets no ID token "
    "for an audience of its own",
    "external_account": "is for workload identity federation",
    "external_account_authorized_user": "is for workforce identity federation",
    "impersonated_service_account": "impersonates a service account",
    "gdch_service_account": "is for Google Distributed Cloud",
}
"""By the `type` in the file: what it is."""


class Found(NamedTuple):
    """A credential file."""

    file: str
    because: str
    """Why this one, for people."""


@final
class AdcGrant:
    """Whatever Application Default Credentials mean here."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def ask(self, flight: Flight, audience: str) -> str | None:
        """See `Grant.ask`."""
        found = find_file(self._environ)
        if found is None:
            return self._metadata().ask(flight, audience)
        info = parse_credential(read_credential(found.file), found.file)
        kind = info.get("type")
        if kind == "service_account":
            return ask_with_key(flight, audience, info, found.file)
        what = _NOT_SUPPORTED.get(kind) if isinstance(kind, str) else None
        if what is None:
            expected = ", ".join(["service_account", *_NOT_SUPPORTED])
            detail = f"has no `type` that is known (one of {expected})"
        else:
            detail = f"holds a credential of type {kind}, which {what}; it is not supported yet"
        raise SidecarError(
            Reason.CREDENTIAL_INVALID, f"{found.file} ({found.because}) {detail}. {_USE_INSTEAD}"
        )

    def describe(self) -> str:
        """See `Grant.describe`."""
        found = find_file(self._environ)
        if found is None:
            return f"application default credentials: the metadata server at {metadata_host(self._environ)}"
        return f"application default credentials: {found.file} ({found.because})"

    def _metadata(self) -> MetadataGrant:
        looked = f"{VARIABLE} is not set, there is no {_well_known(self._environ)}"
        if self._environ.get("NO_GCE_CHECK") == "true":
            raise SidecarError(
                Reason.CREDENTIAL_NOT_FOUND,
                f"There are no application default credentials: {looked}, and NO_GCE_CHECK=true rules out the "
                f"metadata server. {_USE_INSTEAD}",
            )
        return MetadataGrant(
            self._environ,
            absent=f"It is asked because no credential file was found ({looked}). Not on Google Cloud? Then set "
            f"{VARIABLE} to a service account key. On GKE it can take some seconds after the start of a pod; if it "
            "lasts, check that no network policy blocks 169.254.169.254.",
        )


def find_file(environ: Mapping[str, str]) -> Found | None:
    """The credential file that google-auth would use, or None: then it is the metadata server.

    A file that is named and missing is found all the same: reading it is what fails.
    """
    named = environ.get(VARIABLE)
    if named:
        return Found(named, f"named by {VARIABLE}")
    well_known = _well_known(environ)
    return Found(str(well_known), "gcloud's") if well_known.is_file() else None


def _well_known(environ: Mapping[str, str]) -> Path:
    configured = environ.get("CLOUDSDK_CONFIG")
    if configured:
        return Path(configured) / FILE_NAME
    home = environ.get("HOME")
    return (Path(home) if home else Path.home()) / ".config" / "gcloud" / FILE_NAME
