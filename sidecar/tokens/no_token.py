"""The store's own errors for callers that get no token. Pure; called by the store alone."""

from __future__ import annotations

from sidecar.errors import Reason, SidecarError
from sidecar.tokens.policy import Instant
from sidecar.tokens.token import Token, TokenKey


def draining() -> SidecarError:
    """The store is closed, or about to be."""
    return SidecarError(Reason.DRAINING, "The sidecar is shutting down: no more tokens are handed out.")


def too_slow(key: TokenKey, wait: float) -> SidecarError:
    """A caller waited for `wait` seconds."""
    return SidecarError(
        Reason.TOKEN_TIMEOUT,
        f"No token for {key.audience} came within {wait:g} s (`token_wait`); the fetch goes on. If this lasts, see "
        "whether the token endpoint can be reached from here.",
        retry_after=1.0,
    )


def internal(key: TokenKey) -> SidecarError:
    """A fetch raised an unexpected exception."""
    return SidecarError(
        Reason.INTERNAL,
        f"Fetching a token with credential {key.credential!r} caused an internal fault; the log has the "
        "traceback: please report it.",
    )


def expired(token: Token, now: Instant) -> SidecarError:
    """The fetched token has already expired."""
    left = token.expires_at - now.at
    return SidecarError(
        Reason.TOKEN_EXPIRED,
        f"The token for {token.audience} expires in {left:.0f} s by this machine's clock, too soon to "
        "be sent on; if the clock is right, the token endpoint hands out old tokens.",
    )


def overloaded(size: int) -> SidecarError:
    """The number of keys being fetched has reached its limit."""
    return SidecarError(
        Reason.OVERLOADED,
        f"Tokens for {size} audiences are being fetched already; raise `token_cache` if so many different targets are "
        "meant.",
        retry_after=1.0,
    )
