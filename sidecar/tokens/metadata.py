"""ID tokens from the metadata server of Compute Engine, Cloud Run, GKE and the like.

Owns the address of the metadata server and the request for an identity. Called by `GoogleSource`, in a worker
thread. It may not look whether the server is there: a fetch that fails says so. The rule: `format=full`, from
the identity endpoint, never bound to a certificate; the address is what GCE_METADATA_HOST says, as
google-auth reads it.

The request is one GET, and is made here: google-auth can't ask for another account than the default one, and
importing what it needs for this GET costs 9 MiB of memory and 0.2 s of CPU at the first token (measured;
docs/decisions/0003). Where the metadata server is to be asked over mutual TLS, its credentials do the asking.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final
from urllib.parse import quote, urlencode

from sidecar.tokens.endpoint import Endpoint, Protocol
from sidecar.tokens.google_source import Flight, refresh

DEFAULT_ACCOUNT: Final = "default"

ABSENT: Final = (
    "Not on Google Cloud? Then use a `service_account_key` credential. On GKE it can take some seconds after the "
    "start of a pod; if it lasts, check that no network policy blocks 169.254.169.254."
)


@final
class MetadataGrant:
    """The identity of a service account that is attached to this machine."""

    def __init__(
        self, environ: Mapping[str, str], *, account: str = DEFAULT_ACCOUNT, absent: str = ABSENT
    ) -> None:
        self._origin = metadata_host(environ)
        self._mutual_tls = environ.get("GCE_METADATA_MTLS_MODE", "none").lower() in ("strict", "default")
        self._account = account
        self._endpoint = Endpoint(
            f"the metadata server at {self._origin}",
            Protocol.METADATA,
            "default service account" if account == DEFAULT_ACCOUNT else f"service account {account}",
            absent,
        )

    def ask(self, flight: Flight, audience: str) -> str | None:
        """See `Grant.ask`."""
        transport = flight.open(self._endpoint, origin=self._origin)
        if self._mutual_tls and self._account == DEFAULT_ACCOUNT:
            from google.auth.compute_engine import IDTokenCredentials

            # `None` for the request: with one, the constructor itself asks the metadata server.
            credentials = IDTokenCredentials(  # type: ignore[no-untyped-call]
                None, audience, use_metadata_identity_endpoint=True, bind_id_token=False
            )
            return refresh(credentials, transport)
        query = urlencode({"audience": audience, "format": "full"})
        path = f"/computeMetadata/v1/instance/service-accounts/{quote(self._account, safe='@')}/identity"
        transport(f"http://{self._origin}{path}?{query}", headers={"metadata-flavor": "Google"})
        return None

    def describe(self) -> str:
        """See `Grant.describe`."""
        return f"{self._endpoint.subject} of {self._endpoint.name}"


def metadata_host(environ: Mapping[str, str]) -> str:
    """Host and port of the metadata server: google-auth's rule, less its reading of the variables at
    import."""
    return environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_ROOT") or "metadata.google.internal"
