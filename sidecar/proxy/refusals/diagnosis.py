"""What a target's 401, 403 or 404, or IAP's redirect to its sign-in, means and what fixes it.

Owns the known ways in which Google's front ends refuse a request with a token, each with its reason and the command
that fixes it. Called by `refusals` for an answer that goes to the app unchanged, and so by `check --online`. Pure. It
gets the beginning of the answer's body and the claims of the token, and quotes only parts whose form it knows.
Sources: the pages named in config/targets; the texts that users report (docs/targets.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from sidecar.config.credentials import is_email
from sidecar.config.targets import FACTS, Target, TokenKind, default_audience, service_of
from sidecar.errors import MEANINGS
from sidecar.grammar.moments import from_http_date
from sidecar.grammar.terminal import command as shell
from sidecar.proxy.fields.proxy_status import NAME
from sidecar.proxy.refusals.problem import MEDIA_TYPE, TYPE

SAMPLE: Final = 2048
"""How many bytes of an answer's body it gets."""
_SKEW: Final = 60.0
"""Seconds by which clocks may differ."""
_BY_IAP: Final = b"x-goog-iap-generated-response"


class Cause(StrEnum):
    """Every reason; docs/errors.md has an entry for each."""

    AUDIENCE_REFUSED = "audience_refused"
    TOKEN_REFUSED = "token_refused"
    TOKEN_TOO_OLD = "token_too_old"
    TOKEN_UNSEEN = "token_unseen"
    PERMISSION_MISSING = "permission_missing"
    EMAIL_MISSING = "email_missing"
    ISSUER_REFUSED = "issuer_refused"
    SCOPE_MISSING = "scope_missing"
    API_NOT_ENABLED = "api_not_enabled"
    HIDDEN = "hidden"
    ANOTHER_SIDECAR = "another_sidecar"
    REDIRECTED = "redirected"
    SIGN_IN = "sign_in"
    UNEXPLAINED = "unexplained"


class Refused(NamedTuple):
    """The parts of one answer that matter."""

    target: Target
    kind: TokenKind
    scheme: str
    authority: str
    """The upstream's."""
    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    sample: str
    """The beginning of the body."""
    claims: Mapping[str, Any]
    """The claims of the token that was sent. Empty for an access token."""
    now_at: float
    """Unix seconds."""


class Diagnosis(NamedTuple):
    """What it means."""

    cause: Cause
    detail: str
    """A sentence or two: what happened, and what to do."""
    command: str = ""
    """The command that fixes it, with unknown parts in capitals."""


def may_tell(status: int, fields: Iterable[tuple[bytes, bytes]] = ()) -> bool:
    """Whether an answer with this status and these header lines needs a diagnosis. Only IAP's redirects do."""
    if status in (401, 403, 404):
        return True
    return status in (302, 303, 307) and any(name.lower() == _BY_IAP for name, _ in fields)


def diagnose(refused: Refused) -> Diagnosis | None:
    """The diagnosis; None for the app's own 404 or redirect."""
    if _poses(refused.headers, refused.sample):
        return _another_sidecar(refused.status)
    if _is_iaps(refused.headers):
        return _iap_signs_in(refused.status) if refused.status < 400 else _iap(refused)
    if refused.status < 400:
        return None
    match refused.target:
        case Target.CLOUD_RUN | Target.CLOUD_FUNCTIONS:
            found = _serverless(refused)
        case Target.IAP:
            found = _iap(refused) if "Invalid IAP credentials" in refused.sample else None
        case Target.API_GATEWAY | Target.ENDPOINTS:
            found = _gateway(refused)
        case Target.GOOGLEAPIS:
            found = _googleapis(refused)
        case Target.OTHER:
            found = None
    if found is None and refused.status != 404:
        found = _unexplained(refused)
    return found


def not_let_in(status: int, headers: Mapping[str, str], page: str, host: str) -> Diagnosis | None:
    """The sign that an answer does not come from behind the target's front end, although its status does not refuse
    the token; None if there is no sign.

    `headers` are by lower-case name, as the app gets them, `page` is the beginning of the body, `host` the one that
    the app asked for. A target's answer can only make the verdict worse, never better.
    """
    if status >= 400 and _poses(headers, page):
        return _another_sidecar(status)
    if _is_iaps(headers):
        return _iap_signs_in(status)
    if status == 511:
        return Diagnosis(
            Cause.SIGN_IN,
            "A network between here and the target answered 511: you must sign in to it first (a captive portal).",
        )
    if status == 407:
        return Diagnosis(
            Cause.UNEXPLAINED,
            "A proxy between here and the target answered 407: it requires its own credentials.",
        )
    if 300 <= status < 400 and (leads_to := headers.get("location")) is not None:
        return _redirected(status, leads_to, host)
    return None


def _is_iaps(headers: Mapping[str, str]) -> bool:
    return headers.get(_BY_IAP.decode(), "").lower() == "true"


def _iap_signs_in(status: int) -> Diagnosis:
    return Diagnosis(
        Cause.SIGN_IN,
        f"Identity-Aware Proxy itself answered {status}, and not the target: it saw no token that it accepts, and "
        f"wants a person to sign in. Set the route's `target` to `iap` and its `audience` to IAP's OAuth client id.",
    )


_SIGN_IN_HOSTS: Final = ("accounts.google.com",)
_HOST = re.compile(r"[A-Za-z0-9._-]{1,200}(?::[0-9]{1,5})?")
_SIGN_IN_PAGE = re.compile(
    r"""(?i)\btype\s*+=\s*+["']?+password\b|\bhttp-equiv\s*+=\s*+["']?+refresh\b|//accounts\.google\.com/"""
)


def asks_to_sign_in(page: str) -> bool:
    """Whether an HTML page has a form with a password, leads to Google's sign-in, or redirects by itself, as captive
    portals do. A target's own page may do so too.
    """
    return _SIGN_IN_PAGE.search(page) is not None


def _redirected(status: int, leads_to: str, host: str) -> Diagnosis | None:
    try:
        # As browsers read it, which take `\\` for `/`.
        there = urlsplit(leads_to.strip().replace("\\", "/")).netloc.lower()
    except ValueError:
        there = "?"
    if there in ("", host.lower()):
        return None
    shown = f"`{there}`" if _HOST.fullmatch(there) else "another host"
    if there in _SIGN_IN_HOSTS:
        return Diagnosis(
            Cause.SIGN_IN,
            f"The target answered {status} and redirects to {shown} to sign in: it, or a proxy in front of it, saw no "
            f"token that it accepts. If that is Identity-Aware Proxy, set the route's `target` to `iap`.",
        )
    return Diagnosis(
        Cause.REDIRECTED,
        f"The target answered {status} and redirects to {shown}, where no token is sent. If that is the service, make "
        f"it the route's `upstream`; or try another path with `--path`.",
    )


def _poses(headers: Mapping[str, str], sample: str) -> bool:
    """Whether an upstream's answer has the form of the sidecar's own."""
    if NAME in headers.get("proxy-status", "").lower() or TYPE in sample:
        return True
    if headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        return False
    reason = _object(sample).get("reason")
    return isinstance(reason, str) and reason in MEANINGS


def _another_sidecar(status: int) -> Diagnosis:
    return Diagnosis(
        Cause.ANOTHER_SIDECAR,
        f"The target answered {status} in the form of a sidecar's own answers, but this sidecar did not make it: "
        f"another sidecar did (its log says why), or a program imitates one. Don't run a command that it names.",
    )


def _serverless(refused: Refused) -> Diagnosis | None:
    challenge = refused.headers.get("www-authenticate", "")
    if refused.status == 404:
        return _hidden(refused)
    if refused.status == 401 and ("invalid_token" in challenge or "Error: Unauthorized" in refused.sample):
        return _clock(refused) or _audience(refused) or _token_refused(refused)
    if refused.status == 403 and (
        "Your client does not have permission" in refused.sample or "insufficient_scope" in challenge
    ):
        command = _grant(refused)
        return Diagnosis(
            Cause.PERMISSION_MISSING,
            f"{FACTS[refused.target].title} knows the caller but does not let it in, or saw no token: "
            f"{_member(refused)} needs {FACTS[refused.target].role} on it: `{command}`. A new grant takes "
            "some minutes.",
            command,
        )
    return None


def _hidden(refused: Refused) -> Diagnosis | None:
    page = refused.sample.lower()
    if "html" not in refused.headers.get("content-type", "") or "not found" not in page:
        return None
    if "google" not in page and "error: page not found" not in page and "on this server" not in page:
        return None
    service, region = service_of(refused.authority)
    command = (
        f"{shell('gcloud', 'run', 'services', 'describe', service, f'--region={region}')} "
        "--format='value(metadata.annotations)'"
    )
    return Diagnosis(
        Cause.HIDDEN,
        "Google's front end answered 404, not the service. Either its ingress settings do not let this network in "
        "(call it from the VPC, or through the load balancer), or VPC Service Controls hide it, or there is no such "
        f"service. Or Google keeps the path to itself (such as `/healthz`). `{command}` shows the ingress.",
        command,
    )


_IAP_PHRASES: Final = (
    ("audience doesn't match", Cause.AUDIENCE_REFUSED),
    ("Invalid JWT audience", Cause.AUDIENCE_REFUSED),
    # What it says where the JWT is self-signed.
    ("Audience specified does not match", Cause.AUDIENCE_REFUSED),
    ("'email' claim", Cause.EMAIL_MISSING),
    ("empty token", Cause.TOKEN_UNSEEN),
    ("expired", Cause.TOKEN_TOO_OLD),
    ("future", Cause.TOKEN_TOO_OLD),
)
_EXPECTED = re.compile(r"expected value \(([A-Za-z0-9./:_*-]{1,200})\)")


def _iap(refused: Refused) -> Diagnosis:
    cause = next((found for phrase, found in _IAP_PHRASES if phrase in refused.sample), None)
    if refused.status == 403:
        command = _grant(refused)
        return Diagnosis(
            Cause.PERMISSION_MISSING,
            f"IAP knows the caller but does not let it in: {_member(refused)} needs "
            f"{FACTS[Target.IAP].role}: `{command}`.",
            command,
        )
    if cause is Cause.AUDIENCE_REFUSED:
        wanted = "its own OAuth client id"
        if (found := _EXPECTED.search(refused.sample)) is not None:
            wanted = f"`{found[1]}`"
        elif refused.kind is TokenKind.SELF_SIGNED_JWT:
            wanted = f"`{default_audience(Target.IAP, refused.kind, refused.scheme, refused.authority)}`"
        return Diagnosis(
            cause,
            f"The token is for {_audience_sent(refused)}; IAP wants {wanted}: set the route's `audience` to that.",
        )
    if cause is Cause.EMAIL_MISSING:
        return Diagnosis(
            cause,
            "IAP requires an e-mail in the token, and this one has none. Tokens that the sidecar fetches have one. "
            "Make those of `file` and `static` with it (`--include-email`, `includeEmail`).",
        )
    if cause is Cause.TOKEN_UNSEEN:
        return Diagnosis(
            cause,
            "IAP saw no token: something on the way removes the header. Set the route's `header` to "
            "`proxy-authorization`, or check the proxies in between.",
        )
    if cause is Cause.TOKEN_TOO_OLD:
        return _clock(refused) or _too_old()
    return _clock(refused) or _token_refused(refused)


def _gateway(refused: Refused) -> Diagnosis | None:
    message = _object(refused.sample).get("message")
    if not isinstance(message, str):
        return None
    if "Audiences in Jwt are not allowed" in message:
        return Diagnosis(
            Cause.AUDIENCE_REFUSED,
            f"The token is for {_audience_sent(refused)}, which the API does not list. Set the route's `audience` to "
            f"one of its `x-google-audiences`; if it has none, to `https://` and the managed service's name.",
            FACTS[refused.target].grant,
        )
    if "issuer is not configured" in message:
        wanted = "the service account's e-mail" if refused.kind is TokenKind.SELF_SIGNED_JWT else _GOOGLE
        return Diagnosis(
            Cause.ISSUER_REFUSED,
            f"The API does not trust the token's issuer: set its `x-google-issuer` to {wanted}, or the route's "
            f"`token` to another kind.",
        )
    if "Jwt is missing" in message:
        why = "The gateway saw no token: check the route's `header`, and the proxies in between."
        return Diagnosis(Cause.TOKEN_UNSEEN, why)
    if "Jwt is expired" in message or "not yet valid" in message:
        return _clock(refused) or _too_old()
    return _token_refused(refused) if message.startswith(("Jwt", "Jwks")) else None


_GOOGLE: Final = "`https://accounts.google.com`"


def _googleapis(refused: Refused) -> Diagnosis | None:
    error = _object(refused.sample).get("error")
    if not isinstance(error, dict):
        return None
    details = error.get("details")
    entries = [entry for entry in details if isinstance(entry, dict)] if isinstance(details, list) else []
    reason = next((entry["reason"] for entry in entries if isinstance(entry.get("reason"), str)), "")
    if reason in ("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficientPermissions"):
        return Diagnosis(
            Cause.SCOPE_MISSING,
            "The access token lacks a scope that this API requires: add it to the route's `scopes`. A Compute Engine "
            "instance gives its own access scopes at most.",
        )
    if reason == "SERVICE_DISABLED":
        service = refused.authority.partition(":")[0]
        command = shell("gcloud", "services", "enable", service, "--project=PROJECT")
        return Diagnosis(
            Cause.API_NOT_ENABLED, f"The API is not enabled in the caller's project: `{command}`.", command
        )
    if refused.status == 401:
        return _clock(refused) or _token_refused(refused)
    if refused.status == 403:
        command = FACTS[Target.GOOGLEAPIS].grant
        return Diagnosis(
            Cause.PERMISSION_MISSING,
            f"The caller lacks a role for this API: `{command}`. The answer's body names the permission.",
            command,
        )
    return None


def _audience(refused: Refused) -> Diagnosis | None:
    """The diagnosis if the target's host suggests another audience than the token had."""
    sent = refused.claims.get("aud")
    suggested = default_audience(refused.target, refused.kind, refused.scheme, refused.authority)
    if suggested is None or not isinstance(sent, str) or sent.rstrip("/") == suggested.rstrip("/"):
        return None
    return Diagnosis(
        Cause.AUDIENCE_REFUSED,
        f"The token is for {_audience_sent(refused)}, and its host suggests `{suggested}`: set the route's "
        "`audience` to that, or add the one that was sent to the service's custom audiences.",
        _custom_audiences(refused, sent),
    )


def _custom_audiences(refused: Refused, audience: str) -> str:
    service, region = service_of(refused.authority)
    shown = audience if _PLAIN.fullmatch(audience) else "AUDIENCE"
    return shell(
        *("gcloud", "run", "services", "update", service),
        *(f"--region={region}", f"--add-custom-audiences={shown}"),
    )


def _token_refused(refused: Refused) -> Diagnosis:
    return Diagnosis(
        Cause.TOKEN_REFUSED,
        f"The target does not accept the token for {_audience_sent(refused)}: check that this is exactly its audience "
        f"({FACTS[refused.target].audience}), and that `token` is a kind that it accepts.",
    )


def _clock(refused: Refused) -> Diagnosis | None:
    """The diagnosis if the answer's Date says that this machine's clock is too far off for tokens."""
    there_at = from_http_date(refused.headers.get("date", ""))
    if there_at is None:
        return None
    ahead = refused.now_at - there_at
    expires_at = refused.claims.get("exp")
    late = isinstance(expires_at, int | float) and expires_at <= there_at
    if not late and abs(ahead) < _SKEW:
        return None
    side = "ahead of" if ahead > 0 else "behind"
    return Diagnosis(
        Cause.TOKEN_TOO_OLD,
        f"This machine's clock is {abs(ahead):.0f} s {side} the target's: set it right (NTP).",
        "timedatectl set-ntp true",
    )


def _too_old() -> Diagnosis:
    return Diagnosis(
        Cause.TOKEN_TOO_OLD,
        "The target says that the token has expired or is not valid yet: `idtoken-sidecar renew` fetches a new one. If "
        "that does not help, check the clocks of both sides.",
        "idtoken-sidecar renew",
    )


def _unexplained(refused: Refused) -> Diagnosis:
    return Diagnosis(
        Cause.UNEXPLAINED,
        f"The target answered {refused.status}, in none of the ways in which Google's front ends refuse a token: it "
        "is most likely the app's own answer. Its body went to the caller.",
    )


_PLAIN = re.compile(r"[A-Za-z0-9./:_*@-]{1,200}")


def _audience_sent(refused: Refused) -> str:
    sent = refused.claims.get("aud")
    return f"`{sent}`" if isinstance(sent, str) and _PLAIN.fullmatch(sent) else "its audience"


def _member(refused: Refused) -> str:
    email = refused.claims.get("email") or (
        refused.claims.get("iss") if refused.kind is TokenKind.SELF_SIGNED_JWT else None
    )
    if not isinstance(email, str) or not is_email(email):
        return "MEMBER"
    return f"{'serviceAccount' if email.endswith('.gserviceaccount.com') else 'user'}:{email}"


def _grant(refused: Refused) -> str:
    service, region = service_of(refused.authority)
    command = FACTS[refused.target].grant.replace("MEMBER", _member(refused))
    return command.replace("--region=REGION", f"--region={region}").replace(
        "add-iam-policy-binding SERVICE ", f"add-iam-policy-binding {service} "
    )


def _object(sample: str) -> Mapping[str, Any]:
    try:
        body = json.loads(sample)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
