"""Application Default Credentials.

Decides which credential `adc` stands for. Called by `GoogleSource`, in a worker thread, and at start. It makes no
network calls to find out, and if a named file fails it does not try another credential. The rule is google-auth's
order: the file in GOOGLE_APPLICATION_CREDENTIALS; the file that `gcloud auth application-default login` writes; the
metadata server. Every fetch follows it again, so that a file that appears or changes counts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, final

from sidecar.config.credentials import ADC_VARIABLE as VARIABLE
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.contents import kind_of, place
from sidecar.tokens.credential_file import is_project, read_text
from sidecar.tokens.fetch.grant import Grant, IndirectGrant
from sidecar.tokens.grants.credential_types import Addresses, FileGrant, grant_of
from sidecar.tokens.grants.gcloud_directory import gcloud_directory
from sidecar.tokens.grants.metadata import MetadataGrant, metadata_host
from sidecar.tokens.grants.user import LOGIN
from sidecar.tokens.miswritten import USE_INSTEAD

QUOTA_PROJECT: Final = "GOOGLE_CLOUD_QUOTA_PROJECT"
"""Overrides a file's quota project, as in `google.auth.default()`."""
FILE_NAME: Final = "application_default_credentials.json"


class Found(NamedTuple):
    """A credential file."""

    file: str
    because: str
    """Why this file was chosen, for messages."""


@final
class AdcGrant(IndirectGrant):
    """The credential that Application Default Credentials stand for on this machine."""

    def __init__(
        self,
        environ: Mapping[str, str],
        addresses: Addresses = Addresses(),  # noqa: B008 - immutable
    ) -> None:
        self._environ = environ
        quota_project = environ.get(QUOTA_PROJECT, "").strip() or None
        self._addresses = addresses._replace(quota_project=quota_project)
        # Kept, since these keep what they found out.
        self._metadata: MetadataGrant | None = None
        self._file: tuple[Found, FileGrant] | None = None

    def resolved(self) -> Grant:
        """See `Grant.resolved`."""
        found = find_file(self._environ)
        quota_project = self._addresses.quota_project
        if quota_project is not None and not is_project(quota_project):
            raise SidecarError(
                Reason.CREDENTIAL_INVALID,
                f"{QUOTA_PROJECT} is not the ID of a project: set it to one such as `my-project`, or unset it.",
            )
        if found is None:
            self._metadata = self._metadata or self._metadata_server()
            return self._metadata
        if (kind := kind_of(found.file)) is not None:
            raise SidecarError(
                Reason.CREDENTIAL_INVALID,
                f"{VARIABLE} holds contents ({kind}), not the path of a file: write them to a file and name that, or "
                f'use `type: service_account_key` with `json: "${{{VARIABLE}}}"`.',
            )
        if self._file is None or self._file[0] != found:
            where = f"{place(found.file)} ({found.because})"
            self._file = (
                found,
                FileGrant(partial(read_text, found.file, login=LOGIN), where, grant_of, self._addresses),
            )
        return self._file[1].resolved()

    def describe(self) -> str:
        """See `Grant.describe`."""
        found = find_file(self._environ)
        if found is None:
            server = place(self._addresses.metadata or metadata_host(self._environ))
            return f"application default credentials: the metadata server at {server}"
        try:
            what = self.resolved().describe()
        except SidecarError:
            what = f"{place(found.file)} ({found.because})"
        return f"application default credentials: {what}"

    def _metadata_server(self) -> MetadataGrant:
        looked = f"{VARIABLE} is not set, there is no {place(_well_known(self._environ))}"
        if self._environ.get("NO_GCE_CHECK") == "true":
            raise SidecarError(
                Reason.CREDENTIAL_NOT_FOUND,
                f"There are no application default credentials: {looked}, and NO_GCE_CHECK=true rules out the "
                f"metadata server. {USE_INSTEAD}",
                command=LOGIN,
            )
        return MetadataGrant(
            self._environ,
            address=self._addresses.metadata,
            iam=self._addresses.iam(),
            quota_project=self._addresses.quota_project,
            login=LOGIN,
            absent=f"It is asked because no credential file was found ({looked}). Not on Google Cloud? Then set "
            f"{VARIABLE} to a credential file, or log in with `{LOGIN}`. On GKE it can "
            "take some seconds after the start of a pod; if it lasts, check that no network policy blocks "
            "169.254.169.254.",
        )


def find_file(environ: Mapping[str, str]) -> Found | None:
    """The credential file that google-auth would use, or None for the metadata server.

    A named file that is missing counts as found: reading it then fails.
    """
    named = environ.get(VARIABLE)
    if named:
        return Found(named, f"named by {VARIABLE}")
    well_known = _well_known(environ)
    # Not Path.is_file, which raises for a name that is too long.
    return Found(str(well_known), "gcloud's") if os.path.isfile(well_known) else None


def well_known_file(environ: Mapping[str, str]) -> str:
    """The file that `gcloud auth application-default login` writes."""
    return str(_well_known(environ))


def _well_known(environ: Mapping[str, str]) -> Path:
    return gcloud_directory(environ) / FILE_NAME
