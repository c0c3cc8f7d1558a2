"""Google's Security Token Service: another provider's token for a Google access token.

Owns the token exchange (RFC 8693), the providers it trusts, and stand-ins for where subject tokens come from: a URL,
and the metadata service of AWS. Composed by `app`. Subject tokens are really verified, signed AWS requests too.
Sources: https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token, google-auth's `identity_pool.py` and
`aws.py`; AWS Signature Version 4. A provider that is disabled, deleted or never was: `invalid_target`
(https://github.com/google-github-actions/auth/issues/161 and 370); a name that can't be one's: `invalid_request`
(https://github.com/google-github-actions/auth/issues/211); an attribute condition that refuses: `unauthorized_client`
(https://github.com/terraform-google-modules/terraform-example-foundation/issues/1362).

How a subject token is judged, and in which words: "WIF with a self-held OIDC key: real-GCP measurements (2026-09-28)",
a public report whose author tried each claim, key and time. "Unable to parse the ID Token." is in the public tests of a
class `WorkloadIdentityFederation::Client`. That the issuer is judged before the signature:
docs/TROUBLESHOOTING.md of google-github-actions/auth, where a token of another provider, with keys of its own, is
refused for its issuer.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final
from urllib.parse import parse_qsl, quote, unquote_plus, urlsplit

from aiohttp import web

from sidecar.emulator.faults import Endpoint
from sidecar.emulator.forms import fields
from sidecar.emulator.keys import BadTokenError, SigningKey, UnknownKeyError, read, signing_key
from sidecar.emulator.pages import APIS, application
from sidecar.emulator.principals import Principals

PROJECT_NUMBER: Final = "123456789012"
GRANT: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
JWT_TYPES: Final = ("urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token")
AWS_TYPE: Final = "urn:ietf:params:aws:token-type:aws4_request"
AWS_KEY_ID: Final = "AKIAEMULATED"
AWS_SECRET: Final = "emulated-aws-secret"
AWS_ROLE: Final = "emulated-role"
AWS_REGION: Final = "eu-west-1"
_SESSION: Final = "emulated-imds-session"
_SKEW: Final = 60
"""Seconds by which the provider's clock may be off. How old a subject token is does not count, only its `exp`."""


_PROVIDER: Final = re.compile(
    r"//iam\.googleapis\.com/(?:projects/[0-9]+/)?locations/[a-z0-9-]+/work(?:load|force)(?:Identity)?Pools/"
    r"[a-z0-9-]+/providers/[a-z0-9-]+"
)


class RefusedExchangeError(Exception):
    """An exchange that is refused: an OAuth error code and its description."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(code, description)
        self.code = code
        self.description = description


@final
@dataclass
class Provider:
    """One provider of a workload identity pool."""

    pool: str
    name: str
    issuer: str = "https://idp.emulated.example"
    condition: Callable[[Mapping[str, Any]], bool] = lambda claims: True
    """Its attribute condition."""
    disabled: bool = False
    """It, or its pool."""
    deleted: bool = False

    @property
    def audience(self) -> str:
        """Its full resource name."""
        return f"//iam.googleapis.com/{self._pool}/providers/{self.name}"

    @property
    def _pool(self) -> str:
        return f"projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/{self.pool}"

    @property
    def key(self) -> SigningKey:
        """What its subject tokens are signed with."""
        return signing_key(self.issuer)

    def principal(self, subject: str) -> str:
        """One of its identities, as IAM names it."""
        return f"principal://iam.googleapis.com/{self._pool}/subject/{subject}"

    @property
    def principal_set(self) -> str:
        """All of its pool's identities, as IAM names them."""
        return f"principalSet://iam.googleapis.com/{self._pool}/*"


class Exchanged(NamedTuple):
    """One request that was granted."""

    audience: str
    scope: str
    options: str
    member: str


@final
class STSServer:
    """The application and the providers it trusts."""

    def __init__(self, principals: Principals, now: Callable[[], float], *, token_lifetime: float) -> None:
        """`token_lifetime` in seconds."""
        self.endpoint = Endpoint()
        self.token_lifetime = token_lifetime
        self.asked: deque[Exchanged] = deque(maxlen=10_000)
        self._principals = principals
        self._now = now
        self._providers: dict[str, Provider] = {}
        self.aws_role: str | None = AWS_ROLE
        """The role that the instance of AWS's has; None for none."""
        self.aws_failure = ""
        """The `Code` that its metadata service gives in place of keys, where it is not empty."""
        self.app = application(APIS)
        routes = self.app.router
        routes.add_post("/v1/token", self._token)
        routes.add_get("/subject-token", self._subject_by_url)
        routes.add_put("/aws/latest/api/token", self._aws_session)
        routes.add_get("/aws/latest/meta-data/placement/availability-zone", self._aws_zone)
        routes.add_get("/aws/latest/meta-data/iam/security-credentials", self._aws_role)
        routes.add_get("/aws/latest/meta-data/iam/security-credentials/{role}", self._aws_keys)

    def add_provider(self, pool: str = "emulated-pool", name: str = "emulated-provider") -> Provider:
        """A provider that is trusted from now on."""
        provider = Provider(pool, name)
        self._providers[provider.audience] = provider
        return provider

    def remove_provider(self, provider: Provider) -> None:
        """Delete it; its identity provider goes on giving subject tokens."""
        provider.deleted = True

    def subject_token(self, provider: Provider, subject: str = "workload", **claims: Any) -> str:
        """A token of `provider`'s for one of its identities, good for an hour."""
        now = int(self._now())
        whole = {
            "iss": provider.issuer,
            "sub": subject,
            "aud": f"https:{provider.audience}",
            "iat": now,
            "exp": now + 3600,
        }
        return provider.key.sign({**whole, **claims})

    async def _token(self, request: web.Request) -> web.Response:
        answer, fault = await self.endpoint.meet(request)
        if answer is not None:
            return answer
        asked = await fields(request)
        try:
            member, longest = self._member(asked)
        except RefusedExchangeError as error:
            return _json({"error": error.code, "error_description": error.description}, status=400)
        if fault is not None and fault.kind == "garbage":
            return _json({"issued_token_type": ACCESS_TOKEN})
        scope = asked.get("scope", "")
        self.asked.append(Exchanged(asked["audience"], scope, asked.get("options", ""), member))
        lifetime = min(self.token_lifetime, longest)
        token = self._principals.issue(member, scope.split(), lifetime=lifetime)
        return _json(
            {
                "access_token": token.value,
                "issued_token_type": ACCESS_TOKEN,
                "token_type": "Bearer",
                "expires_in": max(1, int(lifetime) - 1),
            }
        )

    def _member(self, form: Mapping[str, str]) -> tuple[str, float]:
        """The identity in the pool, and for how many seconds it may be had: none outlives its subject token."""
        if form.get("grant_type") != GRANT:
            raise RefusedExchangeError("unsupported_grant_type", "Invalid grant_type.")
        if form.get("requested_token_type") != ACCESS_TOKEN:
            raise RefusedExchangeError("invalid_request", "Invalid requested_token_type.")
        provider = self._provider(form.get("audience", ""))
        if not self._principals.knows(form.get("scope", "").split()):
            raise RefusedExchangeError("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        kind, subject_token = form.get("subject_token_type"), form.get("subject_token", "")
        if kind in JWT_TYPES:
            claims = self._jwt(provider, subject_token)
        elif kind == AWS_TYPE:
            claims = {"sub": _aws_subject(subject_token, provider.audience)}
        else:
            raise RefusedExchangeError("invalid_request", "Invalid subject_token_type.")
        if not provider.condition(claims):
            raise RefusedExchangeError(
                "unauthorized_client", "The given credential is rejected by the attribute condition."
            )
        expires_at = claims.get("exp")
        # One that has just expired is good for as long as it is over: 59 s after its `exp`, for 59 s.
        longest = abs(expires_at - self._now()) if isinstance(expires_at, int) else math.inf
        return provider.principal(str(claims["sub"])), longest

    def _provider(self, audience: str) -> Provider:
        if _PROVIDER.fullmatch(audience) is None:
            raise RefusedExchangeError(
                "invalid_request",
                'Invalid value for "audience". This value should be the full resource name of the Identity Provider. '
                "See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible "
                "formats.",
            )
        provider = self._providers.get(audience)
        if provider is None or provider.disabled or provider.deleted:
            raise RefusedExchangeError(
                "invalid_target",
                'The target service indicated by the "audience" parameters is invalid. This might either be because '
                "the pool or provider is disabled or deleted or because it doesn't exist.",
            )
        return provider

    def _jwt(self, provider: Provider, token: str) -> Mapping[str, Any]:
        try:
            claims = read(token)
        except BadTokenError:
            raise RefusedExchangeError("invalid_grant", "Unable to parse the ID Token.") from None
        self._judge_claims(provider, claims)
        try:
            return provider.key.verify(token)
        except UnknownKeyError:
            wrong = "Error connecting to the given credential's issuer."
        except BadTokenError:
            wrong = "Unable to verify the ID Token signature."
        raise RefusedExchangeError("invalid_grant", wrong)

    def _judge_claims(self, provider: Provider, claims: Mapping[str, Any]) -> None:
        issuer = claims.get("iss")
        if issuer != provider.issuer:
            # Without a slash at its end, as published answers for https://sts.windows.net/TENANT/ have it.
            told = "null" if issuer is None else str(issuer).removesuffix("/")
            raise RefusedExchangeError(
                "invalid_grant",
                f"The issuer in ID Token {told} does not match the expected one in config: {provider.issuer}.",
            )
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [] if audience is None else [audience]
        if not {f"https:{provider.audience}", provider.audience} & {str(one) for one in audiences}:
            told = ", ".join(str(one) for one in audiences)
            raise RefusedExchangeError(
                "invalid_grant", f"The audience in ID Token [{told}] does not match the expected audience."
            )
        now, issued_at, expires_at = self._now(), claims.get("iat"), claims.get("exp")
        if (
            not isinstance(issued_at, int)
            or not isinstance(expires_at, int)
            or issued_at > now + _SKEW
            or expires_at < now - _SKEW
        ):
            told = "null" if issued_at is None else str(issued_at)
            raise RefusedExchangeError("invalid_grant", f"ID Token issued at {told} is stale to sign-in.")

    # where subject tokens come from

    async def _subject_by_url(self, request: web.Request) -> web.Response:
        """`?provider=` its audience; `format=json` for an object with `value`; wants the header `Metadata: true`."""
        provider = self._providers.get(request.query.get("provider", ""))
        if provider is None or request.headers.get("Metadata") != "true":
            return web.Response(status=403, text="who are you?")
        token = self.subject_token(provider)
        if request.query.get("format") == "json":
            return _json({"value": token})
        return web.Response(text=token)

    async def _aws_session(self, request: web.Request) -> web.Response:
        if not request.headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
            return web.Response(status=400)
        return web.Response(text=_SESSION)

    async def _aws_zone(self, request: web.Request) -> web.Response:
        return _imds(request, f"{AWS_REGION}b")

    async def _aws_role(self, request: web.Request) -> web.Response:
        if self.aws_role is None:
            return web.Response(status=404)
        return _imds(request, self.aws_role)

    async def _aws_keys(self, request: web.Request) -> web.Response:
        if self.aws_failure:
            return _imds(request, json.dumps({"Code": self.aws_failure, "Message": "EC2 cannot assume it."}))
        keys = {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": AWS_KEY_ID,
            "SecretAccessKey": AWS_SECRET,
            "Token": "emulated-session-token",
        }
        return _imds(request, json.dumps(keys))


def _imds(request: web.Request, text: str) -> web.Response:
    if request.headers.get("X-aws-ec2-metadata-token") != _SESSION:
        return web.Response(status=401)
    return web.Response(text=text, content_type="application/json" if text.startswith("{") else "text/plain")


_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([a-z0-9-]+)/sts/aws4_request, ?")


def _aws_subject(token: str, audience: str) -> str:
    """Who signed a GetCallerIdentity request; the signature is computed again and compared."""
    try:
        # Go's library writes a space as a plus (`url.QueryEscape` in externalaccount/aws.go), the others as %20.
        request = json.loads(unquote_plus(token))
        headers = {entry["key"].lower(): entry["value"] for entry in request["headers"]}
        url, method = urlsplit(request["url"]), request["method"]
    except (ValueError, KeyError, TypeError):
        raise RefusedExchangeError("invalid_request", "The subject token is not a signed request.") from None
    authorization = headers.get("authorization", "")
    credential = _CREDENTIAL.match(authorization)
    signed = re.search(r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})$", authorization)
    query = sorted(parse_qsl(url.query))
    if (
        credential is None
        or signed is None
        or ("Action", "GetCallerIdentity") not in query
        or headers.get("x-goog-cloud-target-resource") != audience
        or credential[1] != AWS_KEY_ID
    ):
        raise RefusedExchangeError("invalid_grant", "The AWS request is not the one that is expected.")
    names = signed[1].split(";")
    canonical = "\n".join(
        [
            method,
            url.path or "/",
            "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query),
            *(f"{name}:{headers.get(name, '').strip()}" for name in names),
            "",
            signed[1],
            hashlib.sha256(b"").hexdigest(),
        ]
    )
    scope = f"{credential[2]}/{credential[3]}/sts/aws4_request"
    to_sign = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            headers.get("x-amz-date", ""),
            scope,
            hashlib.sha256(canonical.encode()).hexdigest(),
        ]
    )
    key = f"AWS4{AWS_SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest(), signed[2]):
        raise RefusedExchangeError("invalid_grant", "The AWS signature is invalid.")
    return f"arn:aws:sts::123456789012:assumed-role/{AWS_ROLE}/i-emulated"


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, headers={"Cache-Control": "no-store"})
