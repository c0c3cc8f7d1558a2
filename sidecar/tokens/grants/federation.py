"""Access tokens for an identity of another provider: workload identity federation.

Owns the use of `external_account` files. google-auth gets the subject token (from a file, a URL, an executable
or AWS; from an executable by `executable`) and exchanges it; `impersonation` goes on from there. Called in worker
threads. The rule: the subject token goes to the configured STS or the file's `token_url`, over TLS or to loopback.
The file's impersonation URL is taken apart and not called. Source: https://google.aip.dev/auth/4117
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from sidecar.config.credentials import is_email
from sidecar.errors import SidecarError
from sidecar.tokens.credential_file import (
    host_of,
    invalid,
    parse,
    quota_project_in,
    refuse_type,
    require,
    require_safe_url,
    require_url,
)
from sidecar.tokens.fetch.endpoint import NETWORK, Answer, Endpoint, Protocol
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.grant import Fetched, Grant, access_token_in
from sidecar.tokens.grants.executable import Executable, seconds_of
from sidecar.tokens.grants.subject_sources import (
    AGAIN,
    AWS_TYPE,
    AwsSource,
    SubjectFile,
    check_certificate,
    check_source,
    failed,
    why_none,
)
from sidecar.tokens.universe import DEFAULT_UNIVERSE, filled_in, refuse_mix, universe_at, universe_in

_SOURCE_URLS: Final = ("url", "region_url", "imdsv2_session_token_url")
"""The URLs in a `credential_source` that get requests."""
_FIELDS: Final = ("audience", "subject_token_type", "token_url")
_PROVIDER: Final = re.compile(r"//iam\.googleapis\.com/([A-Za-z0-9/._:-]{1,300})/providers/[^/]+")
"""The full name of a provider, made of the characters that its parts may have."""
_ACCOUNT_IN_URL = re.compile(r"/serviceAccounts/([^/:]+):generateAccessToken$")


@final
class FederationGrant(Grant):
    """An `external_account` file, without the service account that it may lead to."""

    ability = "federated"

    def __init__(
        self,
        read: Callable[[], str],
        where: str,
        *,
        token_url: str | None = None,
        programs: Mapping[str, str] | None = None,
        quota_project: str | None = None,
    ) -> None:
        """`token_url` replaces the file's own. `programs` is the environment that an executable sees. `quota_project`
        overrides the file's own.
        """
        self._read = read
        self._programs = programs or {}
        self._where = where
        self._token_url = token_url
        self._quota_project = quota_project

    def describe(self) -> str:
        """See `Grant.describe`."""
        return f"workload identity federation by {self._where}"

    def service_account(self) -> str | None:
        """The e-mail of the service account that the file leads to, if any; raises `SidecarError`."""
        return account_in(self._info(), "service_account_impersonation_url", self._where)

    def known_universe(self) -> str | None:
        """See `Grant.known_universe`; raises CREDENTIAL_MISMATCH if the file's parts belong to different ones."""
        info = self._info()
        universe = _universe(info, self._where)
        at = universe_at(info["token_url"])
        if universe_in(info, self._where) is None and at not in (None, universe):
            refuse_mix(
                f"The `token_url` in {self._where}",
                str(at),
                universe,
                "the rest of the file (for want of a `universe_domain`)",
            )
        return universe

    def check(self) -> None:
        """See `Grant.check`."""
        self._info()

    def look(self) -> bool:
        """See `Grant.look`; includes a file with the subject token."""
        info = self._info()
        self._look_at_source(info)
        if info["subject_token_type"] != AWS_TYPE and "file" in info["credential_source"]:
            SubjectFile(info["credential_source"], self._where).read()
        return True

    def executable_seconds(self) -> float | None:
        """How long the file lets its executable run; None if it has none, or can't be read."""
        try:
            source = self._info().get("credential_source")
        except SidecarError:
            return None
        executable = source.get("executable") if isinstance(source, dict) else None
        if not isinstance(executable, dict):
            return None
        return seconds_of(executable)

    def member(self, flight: Flight) -> str | None:
        """See `Grant.member`: the pool's identities, because only the subject token shows the subject."""
        pool = _PROVIDER.fullmatch(str(self._info()["audience"]))
        return None if pool is None else f"principalSet://iam.googleapis.com/{pool[1]}/*"

    def access_token(self, flight: Flight, scopes: Sequence[str]) -> Fetched:
        """See `Grant.access_token`."""
        info = self._info()
        account = account_in(info, "service_account_impersonation_url", self._where)
        # With it, google-auth would go on to the service account by itself, past the configured IAM endpoint.
        info.pop("service_account_impersonation_url", None)
        sts = Endpoint(
            f"the Security Token Service at {host_of(info['token_url'])}",
            Protocol.STS,
            f"the identity in {self._where}",
            NETWORK,
        )
        self._look_at_source(info)
        aws = AwsSource(info, self._where, self._programs) if info["subject_token_type"] == AWS_TYPE else None
        exchange = _Exchange(flight, info["token_url"], sts, self._where, aws)
        why = ""
        try:
            credentials = self._credentials(info, scopes, flight, account)
            credentials.refresh(exchange)
        except SidecarError:
            raise
        except Exception:  # noqa: BLE001 - its text may hold the subject token
            why = why_none(info, self._where)
        if exchange.exchanged is None:
            failed(why or why_none(info, self._where))
        return access_token_in(
            exchange.exchanged, sts, quota_project=self._quota_project or quota_project_in(info)
        )

    def _info(self) -> dict[str, Any]:
        info = {**parse(self._read(), self._where)}
        if info.get("type") != "external_account":
            refuse_type(info, self._where, "one for workload identity federation")
        if self._token_url is not None:
            info["token_url"] = self._token_url
        require(info, _FIELDS, self._where, AGAIN)
        universe = _universe(info, self._where)
        info["token_url"] = filled_in(info["token_url"], universe)
        if universe != DEFAULT_UNIVERSE and universe_at(info["token_url"]) == DEFAULT_UNIVERSE:
            what = "its `token_url`" if self._token_url is None else "`endpoints.sts`"
            refuse_mix(f"The credential in {self._where}", universe, DEFAULT_UNIVERSE, what)
        require_safe_url(info, "token_url", self._where)
        if not isinstance(info.get("credential_source"), dict):
            invalid(self._where, f"it lacks `credential_source`. {AGAIN}")
        for field in _SOURCE_URLS:
            if field in info["credential_source"]:
                require_url(info["credential_source"], field, self._where)
        return info

    def _credentials(
        self, info: Mapping[str, Any], scopes: Sequence[str], flight: Flight, account: str | None
    ) -> Any:
        source, awss = info["credential_source"], info["subject_token_type"] == AWS_TYPE
        if awss:
            from google.auth.aws import Credentials
        else:
            from google.auth.identity_pool import Credentials  # type: ignore[assignment]
        if not awss and "executable" in source:
            given = Executable(info, self._where, self._programs, flight, account=account)
            info = {**info, "credential_source": None, "subject_token_supplier": given}
        elif not awss and "file" in source:
            supplier = SubjectFile(source, self._where)
            info = {**info, "credential_source": None, "subject_token_supplier": supplier}
        return Credentials.from_info(info, scopes=list(scopes))  # type: ignore[no-untyped-call]

    def _look_at_source(self, info: Mapping[str, Any]) -> None:
        """Raise `SidecarError` for errors of the source that show before it is called or run."""
        check_source(info, self._where)
        source = info["credential_source"]
        if info["subject_token_type"] != AWS_TYPE and "certificate" in source:
            check_certificate(source, self._where, self._programs)


@final
class _Exchange:
    """A `google.auth.transport.Request` that keeps the STS and the sources of subject tokens apart."""

    def __init__(
        self, flight: Flight, token_url: str, sts: Endpoint, where: str, aws: AwsSource | None
    ) -> None:
        """`aws` is used on an AWS instance: it knows what the metadata service says."""
        self._flight = flight
        self._token_url = token_url
        self._sts = sts
        self._where = where
        self._aws = aws
        self.exchanged: Answer | None = None
        """The STS's answer with status 200."""

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Answer:
        """See `google.auth.transport.Request`; raises `SidecarError`."""
        if url == self._token_url:
            transport = self._flight.open(self._sts, proxies=True)
            self.exchanged = transport(url, method, body, headers, **kwargs)
            return self.exchanged
        endpoint = Endpoint(
            f"the source of subject tokens at {host_of(url)}",
            Protocol.SUBJECT,
            f"the identity in {self._where}",
            "Check that `credential_source` in the file names a service that answers on this machine."
            if self._aws is None
            else self._aws.hint(url),
            denied="" if self._aws is None else self._aws.hint(url),
        )
        # Another cloud's metadata server; a proxy would give its own identity.
        transport = self._flight.open(endpoint, proxies=url.lower().startswith("https://"))
        answer = transport(url, method, body, headers, **kwargs)
        if self._aws is not None:
            self._aws.look(url, answer.data)
        return answer


def _universe(info: Mapping[str, Any], where: str) -> str:
    """The universe that the file names, or else its impersonation URL. Raises CREDENTIAL_MISMATCH if they differ."""
    said, at = universe_in(info, where), universe_at(info.get("service_account_impersonation_url"))
    if said is not None and at not in (None, said):
        refuse_mix(f"The credential in {where}", said, str(at), "its `service_account_impersonation_url`")
    return said or at or DEFAULT_UNIVERSE


def account_in(info: Mapping[str, Any], field: str, where: str) -> str | None:
    """The e-mail in an impersonation URL; None without a URL; raises CREDENTIAL_INVALID."""
    url = info.get(field)
    if url is None:
        return None
    account = account_named(url)
    if account is None or not is_email(account):
        invalid(where, f"its `{field}` names no service account by its e-mail. {AGAIN}")
    return account


def account_named(url: object) -> str | None:
    """The part of an impersonation URL that names the service account."""
    match = _ACCOUNT_IN_URL.search(url) if isinstance(url, str) else None
    return None if match is None else match[1]
