"""Whether a request is sent once more.

There are two reasons to do so: a connection was lost, or the target called the token invalid. Owns the check for
both, and the explanation if it is not sent again. Called by an exchange that still holds its body; the route's budget
decides last. RFC 9110 section 9.2.2: what is not idempotent is sent twice only where the first time was provably not
processed.
"""

from __future__ import annotations

from sidecar.proxy.exchange.held import HeldBody
from sidecar.proxy.fields.headers import Found
from sidecar.proxy.messages import IDEMPOTENT, RequestHead
from sidecar.proxy.ports import Loss


def after_loss(request: RequestHead, loss: Loss, held: HeldBody | None) -> bool:
    """Whether it may be sent again after its connection was lost."""
    if loss is Loss.UNKNOWN or held is None:
        return False
    return loss is Loss.UNTOUCHED or request.method in IDEMPOTENT


def after_refusal(request: RequestHead, held: HeldBody | None, *, request_done: bool) -> bool:
    """Whether it may be sent again with another token."""
    return request_done and held is not None and request.method in IDEMPOTENT and request.upgrade is None


def calls_token_invalid(found: Found) -> bool:
    """Whether a 401 is about the token (RFC 6750 section 3.1)."""
    return b"invalid_token" in found.get(b"www-authenticate", b"").lower()


def why_not(request: RequestHead, loss: Loss, held: HeldBody | None, *, retried: bool) -> str:
    """Why it was not sent again after its connection was lost, for the middle of its error. May be empty."""
    if request.method not in IDEMPOTENT:
        return f" {request.method.decode()} is not sent twice."
    if loss is not Loss.UNKNOWN and not retried and held is not None:
        return " It was not sent again: the route's `retry_budget` is spent."
    return ""
