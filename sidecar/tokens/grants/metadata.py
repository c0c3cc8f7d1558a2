"""Tokens from the metadata server of Compute Engine, Cloud Run, GKE and the like.

Owns the address of the metadata server and the requests to it. Called by `GoogleSource`, in a worker thread. It does
not check whether the server exists: a failed fetch says so. The rule: `format=full`, from the identity endpoint,
never bound to a certificate; the address comes from the configuration, else from GCE_METADATA_HOST, as google-auth
reads it. The requests are single GETs made here: google-auth can ask for the default account only, and its imports
for these GETs cost 9 MiB of memory and 0.2 s of CPU at the first token (measured; docs/decisions/0003). If the
metadata server requires mutual TLS, google-auth's credentials make the requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final
from urllib.parse import quote, urlencode

from sidecar.config.credentials import is_email
from sidecar.config.targets import CLOUD_PLATFORM
from sidecar.config.variables import metadata_address, metadata_variable, mutual_tls
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.contents import place
from sidecar.tokens.credential_file import is_project
from sidecar.tokens.fetch.endpoint import IMPOSTOR, Answer, Endpoint, Protocol, capital
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import Fetched, Grant, access_token_in, refresh
from sidecar.tokens.grants.iam_credentials import IamCredentials
from sidecar.tokens.universe import DEFAULT_UNIVERSE, is_universe

DEFAULT_ACCOUNT: Final = "default"
DEFAULT_HOST: Final = "metadata.google.internal"
_UNIVERSE: Final = "universe/universe-domain"

ABSENT: Final = (
    "Not on Google Cloud? Then use another type of credential: `service_account_key`, `gcloud`, `user`, "
    "`workload_identity_federation`. On GKE it can take some seconds after the start of a pod; if it lasts, check "
    "that no network policy blocks 169.254.169.254."
)


def _answered_before(origin: str) -> str:
    """Replaces `ABSENT` and similar advice once the server has answered."""
    address = "169.254.169.254" if origin == DEFAULT_HOST else origin
    return (
        f"It has answered this process before, so something has changed: see whether `curl --header 'Metadata-Flavor: "
        f"Google' http://{origin}/` still gets an answer on this machine, and whether a network policy or firewall "
        f"blocks {address}. A running sidecar goes on trying; `idtoken-sidecar renew` makes it try at once."
    )


@final
class MetadataGrant(Grant):
    """The identity of a service account that is attached to this machine."""

    ability = "metadata"

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        address: str | None = None,
        account: str = DEFAULT_ACCOUNT,
        licenses: bool = False,
        iam: IamCredentials | None = None,
        quota_project: str | None = None,
        absent: str = ABSENT,
        login: str = "",
    ) -> None:
        """`address` is host and port, instead of those in `environ`. `iam` signs self-signed JWTs. `quota_project` is
        charged for calls with its access token. `login` is the command that gives a credential where there is no
        metadata server.
        """
        self._origin = address or metadata_host(environ)
        self._mutual_tls = mutual_tls(environ)
        self._account = account
        self._licenses = licenses
        self._iam = iam or IamCredentials()
        self._quota_project = quota_project
        self._universe: str | None = None
        """Kept after the first request, because it does not change."""
        self._email: str | None = None if account == DEFAULT_ACCOUNT else account
        self._endpoint = Endpoint(
            f"the metadata server at {place(self._origin)}",
            Protocol.METADATA,
            "default service account" if account == DEFAULT_ACCOUNT else f"service account {place(account)}",
            absent,
            login=login,
        )

    def describe(self) -> str:
        """See `Grant.describe`."""
        return f"{self._endpoint.subject} of {self._endpoint.name}"

    def known_email(self) -> str | None:
        """See `Grant.known_email`; the default account's is known after the first request for it."""
        return self._email

    def email(self, flight: Flight) -> str | None:
        """See `Grant.email`."""
        if self._email is None:
            answer = self._get(flight, "email", {})
            text = answer.data.decode("ascii", "replace").strip()
            if not is_email(text):
                # On GKE without a Google service account it is the name of the pool.
                raise SidecarError(
                    Reason.NO_SERVICE_ACCOUNT,
                    f"{self._endpoint.name} knows no service account's e-mail. On GKE, bind the Kubernetes service "
                    "account to a Google one (iam.gke.io/gcp-service-account).",
                )
            self._email = text
        return self._email

    def project(self, flight: Flight) -> str | None:
        """See `Grant.project`."""
        text = self._get_path(flight, "project/project-id").data.decode("ascii", "replace").strip()
        return text if is_project(text) else None

    def known_universe(self) -> str | None:
        """See `Grant.known_universe`; known after the first request for it."""
        return self._universe

    def universe(self, flight: Flight) -> str | None:
        """See `Grant.universe`. As in google-auth, a server that does not know the path belongs to googleapis.com."""
        if self._universe is None:
            self._universe = self._asked_universe(flight)
        return self._universe

    def id_token(self, flight: Flight, audience: str) -> Fetched:
        """See `Grant.id_token`."""
        if self._mutual_tls and self._account == DEFAULT_ACCOUNT:
            return self._id_token_over_mutual_tls(flight, audience)
        query = {"audience": audience, "format": "full"}
        if self._licenses:
            query["licenses"] = "TRUE"
        answer = self._get(flight, "identity", query)
        return Fetched(answer.data.decode("utf-8", "replace"), self._endpoint, answer)

    def access_token(self, flight: Flight, scopes: Sequence[str]) -> Fetched:
        """See `Grant.access_token`."""
        if self._mutual_tls and self._account == DEFAULT_ACCOUNT:
            from google.auth.compute_engine import Credentials

            credentials = Credentials(scopes=list(scopes))  # type: ignore[no-untyped-call]
            transport = flight.open(self._endpoint, origin=self._origin)
            answer = refresh(credentials, transport, self._endpoint)
        else:
            answer = self._get(flight, "token", {"scopes": ",".join(scopes)} if scopes else {})
        self._has_served()
        return access_token_in(answer, self._endpoint, quota_project=self._quota_project)

    def self_signed_jwt(self, flight: Flight, audience: str) -> Fetched:
        """See `Grant.self_signed_jwt`; Google's signJwt has the key. The account needs
        `roles/iam.serviceAccountTokenCreator` on itself.
        """
        email = self.email(flight) or ""
        universe = self.universe(flight) or DEFAULT_UNIVERSE
        self._iam.base(universe)
        bearer = self.access_token(flight, [CLOUD_PLATFORM])
        return self._iam.sign_jwt(
            flight, bearer, email, audience, universe=universe, caller=f"serviceAccount:{email}"
        )

    def _get(self, flight: Flight, what: str, query: Mapping[str, str]) -> Answer:
        path = f"instance/service-accounts/{quote(self._account, safe='@')}/{what}"
        answer = self._get_path(flight, path + (f"?{urlencode(query)}" if query else ""))
        self._has_served()
        return answer

    def _get_path(self, flight: Flight, path: str) -> Answer:
        transport = flight.open(self._endpoint, origin=self._origin)
        url = f"http://{self._origin}/computeMetadata/v1/{path}"
        return transport(url, headers={"metadata-flavor": "Google"})

    def _has_served(self) -> None:
        """From now on errors no longer suggest that there is no metadata server, or no account."""
        if not self._endpoint.served:
            self._endpoint = self._endpoint._replace(
                absent=_answered_before(place(self._origin)), served=True
            )

    def _asked_universe(self, flight: Flight) -> str:
        try:
            if self._mutual_tls and self._account == DEFAULT_ACCOUNT:
                from google.auth.compute_engine import _metadata

                transport = flight.open(self._endpoint, origin=self._origin)
                said: str = _metadata.get_universe_domain(transport)  # type: ignore[no-untyped-call]
            else:
                said = self._get_path(flight, _UNIVERSE).data.decode("ascii", "replace").strip()
        except SidecarError as error:
            if error.reason is not Reason.NO_SERVICE_ACCOUNT:
                raise
            # That is what a 404 means everywhere else.
            return DEFAULT_UNIVERSE
        if said and not is_universe(said):
            raise SidecarError(
                Reason.CREDENTIAL_MISMATCH,
                f"{capital(self._endpoint.name)} gives a universe domain that is not a domain, so that no bearer of "
                f"its "
                f"can be sent on. {IMPOSTOR}",
            )
        return said or DEFAULT_UNIVERSE

    def _id_token_over_mutual_tls(self, flight: Flight, audience: str) -> Fetched:
        from google.auth.compute_engine import IDTokenCredentials

        # `None` for the request: with one, the constructor itself asks the metadata server.
        credentials = IDTokenCredentials(  # type: ignore[no-untyped-call]
            None, audience, use_metadata_identity_endpoint=True, bind_id_token=False
        )
        answer = refresh(credentials, flight.open(self._endpoint, origin=self._origin), self._endpoint)
        self._has_served()
        return Fetched(answer.data.decode("utf-8", "replace"), self._endpoint, answer)


def metadata_host(environ: Mapping[str, str]) -> str:
    """Host and port of the metadata server, by google-auth's rule, but read each time and not at import. ValueError
    for an address that the configuration would refuse.
    """
    name = metadata_variable(environ)
    return DEFAULT_HOST if name is None else metadata_address(environ[name])
