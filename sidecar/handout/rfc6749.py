"""The forms of RFC 6749: how a request for a token is written, and how it is refused.

Owns what the token endpoint (`oauth`) and Google's (`google`) share. Rules: RFC 6749 sections 3.2 (a parameter stands
once, and in the body), 4.1.2.1, 5.1, 5.2 and appendix B (UTF-8); RFC 8707 section 2.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl

from sidecar.errors import Reason, SidecarError
from sidecar.handout.desk import TRANSIENT
from sidecar.serving import problems
from sidecar.serving.response import Response

HEADERS: Final = {**problems.HEADERS, "Pragma": "no-cache"}
"""In every answer (RFC 6749 section 5.1)."""
_PARAMETERS: Final = 50
_NOT_IN_DESCRIPTIONS: Final = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
"""RFC 6749 section 5.2."""


class OAuthRefusedError(Exception):
    """An error of RFC 6749."""

    def __init__(self, error: str, detail: str, *, status: int = 400, reason: Reason) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.status = status
        self.reason = reason
        self.retry_after: float | None = None


def form_of(body: bytes) -> dict[str, str]:
    """The parameters; raises for what is no form (RFC 6749 appendix B: UTF-8)."""
    try:
        pairs = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_PARAMETERS,
            separator="&",
        )
    except ValueError:
        raise invalid("The body is not a form.") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        # RFC 8707 lets `resource` stand several times, for one token for several places: there is none here.
        raise invalid("A parameter stands there twice.")
    return form


def invalid(detail: str) -> OAuthRefusedError:
    """A request that is written wrongly."""
    return OAuthRefusedError("invalid_request", detail, reason=Reason.MALFORMED_REQUEST)


def refusal_of(error: SidecarError) -> OAuthRefusedError:
    """An error of the sidecar in the words of RFC 6749 (and, for what that has none for, section 4.1.2.1)."""
    if error.reason is Reason.CALLER_REFUSED:
        return OAuthRefusedError("access_denied", error.detail, status=403, reason=error.reason)
    if error.reason in (Reason.BAD_HOST, Reason.MALFORMED_REQUEST):
        return OAuthRefusedError("invalid_request", error.detail, reason=error.reason)
    transient = error.reason in TRANSIENT
    refused = OAuthRefusedError(
        "temporarily_unavailable" if transient else "server_error",
        f"{error.reason}: {error.detail}",
        status=503 if transient else 500,
        reason=error.reason,
    )
    refused.retry_after = error.retry_after if transient else None
    return refused


def answer_to(refused: OAuthRefusedError) -> Response:
    """What a refusal is answered by."""
    description = _NOT_IN_DESCRIPTIONS.sub("'", refused.detail)
    said = Response.of_json({"error": refused.error, "error_description": description}, status=refused.status)
    if refused.status == 401:
        said.headers["WWW-Authenticate"] = 'Basic realm="token endpoint"'
    if refused.retry_after is not None:
        said.headers["Retry-After"] = str(max(1, round(refused.retry_after)))
    return said
