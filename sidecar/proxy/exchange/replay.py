"""Whether a request is sent once more.

There are two reasons to do so: a connection was lost, or the target called the token invalid. Owns the check for
both, and the explanation if it is not sent again. Called by an exchange that still holds its body; the route's budget
decides last. RFC 9110 section 9.2.2: what is not idempotent is sent twice only where the first time was provably not
processed.
"""

from __future__ import annotations

from sidecar.errors import Reason, SidecarError
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


def closed(request: RequestHead, loss: Loss, held: HeldBody | None, *, retried: bool) -> SidecarError:
    """The error of a request whose connection was lost before an answer, with why it was not sent again."""
    why = ""
    if request.method not in IDEMPOTENT:
        why = f" {request.method.decode()} is not sent twice."
    elif loss is not Loss.UNKNOWN and not retried and held is not None:
        why = " It was not sent again: the route's `retry_budget` is spent."
    return SidecarError(
        Reason.UPSTREAM_CLOSED,
        f"The upstream closed the connection before it answered.{why} "
        "If this recurs, its keep-alive time may be below `pool.idle`, or it crashes on this request.",
    )


def closed_in_answer() -> SidecarError:
    """The error of a request whose connection was lost in the middle of its answer."""
    return SidecarError(Reason.UPSTREAM_INCOMPLETE, "The upstream closed the connection in mid-answer.")
