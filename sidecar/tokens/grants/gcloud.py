"""Tokens from the gcloud CLI.

Owns the command lines and the meaning of gcloud's messages. Called by `GoogleSource`, in a worker thread. The rule:
gcloud gets a clean environment (its own variables, HOME, PATH, proxies), a deadline and no terminal. Only the token
of its output is used, and nothing is quoted. Sources: `gcloud auth print-identity-token`, `gcloud config
config-helper` (what kubectl's plugin reads), both tried with gcloud 528.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, final

from sidecar.config.combinations import SERVICE_ACCOUNT_DOMAIN
from sidecar.errors import Reason, SidecarError
from sidecar.grammar.contents import place
from sidecar.grammar.moments import from_rfc3339
from sidecar.grammar.terminal import command as shell
from sidecar.tokens.fetch.endpoint import Endpoint, Protocol
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import Fetched, Grant
from sidecar.tokens.grants import subprocess_run
from sidecar.tokens.grants.program_environment import GCLOUD, passed_on
from sidecar.tokens.token import is_life
from sidecar.tokens.universe import DEFAULT_UNIVERSE, is_universe

LOGIN: Final = "gcloud auth login"
_QUIET: Final = {
    "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
    "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
}
_IAM_OVERRIDE: Final = "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS"
_ENDED: Final = ("eauthentication", "invalid_rapt", "invalid_grant")
_UNREACHABLE: Final = ("Max retries exceeded", "Failed to resolve", "Connection refused", "timed out")
"""Phrases of gcloud's. It reports both as problems of refreshing the tokens."""
_NO_AUDIENCES: Final = "for `--audiences`"
"""gcloud's phrase when a person's account is asked for another audience."""


@final
class GcloudGrant(Grant):
    """One of gcloud's accounts, or a service account that it acts as."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        command: str = "gcloud",
        account: str | None = None,
        service_account: str | None = None,
        delegates: Sequence[str] = (),
        oauth: str | None = None,
        iam_credentials: str | None = None,
        metadata: str | None = None,
    ) -> None:
        """`oauth`, `iam_credentials` and `metadata` are endpoints that replace gcloud's own."""
        self._environ = {
            **passed_on(environ, GCLOUD),
            **_QUIET,
            **({} if oauth is None else {"CLOUDSDK_AUTH_TOKEN_HOST": oauth}),
            **({} if iam_credentials is None else {_IAM_OVERRIDE: f"{iam_credentials}/"}),
            **({} if metadata is None else {"GCE_METADATA_ROOT": metadata}),
        }
        self._command = command
        self._named = place(command)
        self._account = account
        self._service_account = service_account
        self._chain = ",".join([*delegates, *([service_account] if service_account else [])])
        person = (
            service_account is None and account is not None and not account.endswith(SERVICE_ACCOUNT_DOMAIN)
        )
        self.ability = "gcloud_person" if person else "gcloud"

    def describe(self) -> str:
        """See `Grant.describe`."""
        account = self._account or "its active account"
        acting = f", acting as {self._chain.replace(',', ' through ')}" if self._chain else ""
        return f"{self._named} with {account}{acting}"

    def known_email(self) -> str | None:
        """See `Grant.known_email`."""
        if self._service_account is not None or self._account is None:
            return self._service_account
        return self._account if self._account.endswith(SERVICE_ACCOUNT_DOMAIN) else None

    def member(self, flight: Flight) -> str | None:
        """See `Grant.member`."""
        email = self.known_email()
        if email is not None:
            return f"serviceAccount:{email}"
        return None if self._account is None else f"user:{self._account}"

    def id_token(self, flight: Flight, audience: str) -> Fetched:
        """See `Grant.id_token`. A person's token is for gcloud's client id, whatever the audience."""
        words = ["auth", "print-identity-token"]
        generic = self.ability == "gcloud_person"
        if self._chain:
            words += [f"--impersonate-service-account={self._chain}", "--include-email"]
        endpoint = self._endpoint(flight, words)
        ended = None
        if not generic:
            ended = self._run(flight, endpoint, [*words, f"--audiences={audience}"])
            # The active account turned out to be a person's.
            generic = ended.code != 0 and _NO_AUDIENCES in ended.stderr and self._account is None
        if generic:
            ended = self._run(flight, endpoint, words)
        if ended is None or ended.code != 0:
            raise self._failed(ended, words)
        return Fetched(ended.stdout.strip(), endpoint)

    def access_token(self, flight: Flight, scopes: Sequence[str]) -> Fetched:
        """See `Grant.access_token`; it has gcloud's own scopes."""
        words = ["config", "config-helper", "--format=json", "--min-expiry=10m"]
        if self._chain:
            words.append(f"--impersonate-service-account={self._chain}")
        endpoint = self._endpoint(flight, words)
        ended = self._run(flight, endpoint, words)
        if ended.code != 0:
            raise self._failed(ended, words)
        value, expires_at, universe = _credential(ended.stdout)
        left = None if expires_at is None else expires_at - flight.clock.wall()
        if value is None or left is None or not is_life(left):
            raise SidecarError(
                Reason.GCLOUD_FAILED,
                f"{self._shown(words)} printed no access token with its expiry: run it by hand, and check that gcloud "
                f"is "
                "up to date.",
                command=self._shown(words),
            )
        return Fetched(value, endpoint, expires_in=left, universe=universe)

    def _endpoint(self, flight: Flight, words: Sequence[str]) -> Endpoint:
        flight.endpoint = Endpoint(
            f"`{self._shown(words)}`",
            Protocol.LOCAL,
            self._account or "gcloud's active account",
            "Run it by hand to see what takes so long; raise the credential's `timeout` if it is just slow.",
        )
        return flight.endpoint

    def _run(self, flight: Flight, endpoint: Endpoint, words: Sequence[str]) -> subprocess_run.Ended:
        ended, fault = None, ""
        account = [] if self._account is None else [f"--account={self._account}"]
        try:
            ended = subprocess_run.run([self._command, *words, *account], self._environ, flight)
        except FileNotFoundError:
            fault = "is not there"
        except (OSError, ValueError):
            fault = "cannot be run"
        if ended is None:
            raise SidecarError(
                Reason.CREDENTIAL_NOT_FOUND,
                f"The command {self._named} {fault}: install the gcloud CLI, or set the credential's `command` to "
                "its path.",
            )
        if ended.late:
            raise SidecarError(
                Reason.TOKEN_TIMEOUT,
                f"{self._shown(words)} did not end within {flight.seconds:g} s and was ended. {endpoint.absent}",
            )
        if ended.too_long:
            raise SidecarError(
                Reason.TOKEN_MALFORMED,
                f"{self._shown(words)} printed more than {subprocess_run.OUTPUT_LIMIT} bytes, so not a token. Check "
                "what the `command` of the credential runs.",
            )
        return ended

    def _failed(self, ended: subprocess_run.Ended | None, words: Sequence[str]) -> SidecarError:
        said = "" if ended is None else ended.stderr
        shown = self._shown(words)
        if "do not currently have an active account" in said or "not currently have an active" in said:
            return SidecarError(
                Reason.CREDENTIAL_NOT_FOUND,
                f"gcloud has no active account: log in with `{LOGIN}`, or name one of its accounts in the credential's "
                "`account`.",
                command=LOGIN,
            )
        if "does not have any valid credentials" in said or "No credential" in said:
            return SidecarError(
                Reason.CREDENTIAL_NOT_FOUND,
                f"gcloud has no credential for {self._account}: `gcloud auth list` shows which it has.",
                command=LOGIN,
            )
        if _NO_AUDIENCES in said:
            return SidecarError(
                Reason.CREDENTIAL_MISMATCH,
                "A person's account gets no ID token for a chosen audience: set the credential's "
                "`service_account` to act as one, or use it for Cloud Run and functions.",
            )
        if any(word in said for word in _ENDED):
            return SidecarError(
                Reason.REAUTHENTICATION_NEEDED,
                f"gcloud's login has ended: log in again with `{LOGIN}`.",
                command=LOGIN,
            )
        if any(word in said for word in _UNREACHABLE):
            return SidecarError(
                Reason.TOKEN_ENDPOINT_UNREACHABLE,
                f"gcloud could not reach Google. Run `{shown}` by hand, and check the network, DNS and (where one is "
                "needed) HTTPS_PROXY of this process.",
                command=shown,
            )
        if self._service_account is not None and ("PERMISSION_DENIED" in said or "denied" in said):
            return self._may_not_act(self._service_account)
        code = "" if ended is None or ended.code is None else f" with exit code {ended.code}"
        return SidecarError(
            Reason.GCLOUD_FAILED,
            f"{shown} ended{code}. Run it by hand to see what it says.",
            command=shown,
        )

    def _may_not_act(self, as_whom: str) -> SidecarError:
        command = shell(
            *("gcloud", "iam", "service-accounts", "add-iam-policy-binding", as_whom),
            *(f"--member=user:{self._account or 'ACCOUNT'}", "--role=roles/iam.serviceAccountTokenCreator"),
        )
        return SidecarError(
            Reason.IMPERSONATION_DENIED,
            f"{self._account or 'The active account'} may not act as {as_whom}: grant it with `{command}`. A new grant "
            "takes some minutes.",
            command=command,
        )

    def _shown(self, words: Sequence[str]) -> str:
        account = [] if self._account is None else [f"--account={self._account}"]
        return shell(self._named, *words, *account)


def _credential(text: str) -> tuple[str | None, float | None, str]:
    """Access token, expiry (Unix seconds) and universe domain in config-helper's output. With an invalid universe
    domain the token is not used, because it is unknown where it would be sent.
    """
    try:
        whole = json.loads(text)
        value, expiry = whole["credential"]["access_token"], whole["credential"]["token_expiry"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, None, DEFAULT_UNIVERSE
    try:
        universe = whole["configuration"]["properties"]["core"]["universe_domain"]
    except (KeyError, TypeError):
        universe = DEFAULT_UNIVERSE
    if not (isinstance(value, str) and is_universe(universe)):
        return None, None, DEFAULT_UNIVERSE
    return value, from_rfc3339(expiry), universe
