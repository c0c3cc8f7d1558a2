"""Who may not be served.

Owns the refusals that protect the token from a caller that is not the app: a web page in a browser, a loop. Called
by `admission` for every request. Pure. Rules: Fetch Metadata (Sec-Fetch-Site), RFC 6454 (Origin), RFC 9110 section
7.6.3 (Via).
"""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.errors import Reason, SidecarError


def refuse_browser(found: Mapping[bytes, bytes], authority: bytes) -> None:
    """Raise CALLER_REFUSED for a request that a browser made for a page of another site.

    `authority` is the request's Host as it came: a page served through the sidecar may call back to it.
    """
    site = found.get(b"sec-fetch-site")
    if site is not None and site.strip().lower() not in (b"none", b"same-origin"):
        raise SidecarError(
            Reason.CALLER_REFUSED,
            "A browser made this request for a page of another site (Sec-Fetch-Site). "
            "Call from the app itself, or set `allow_cross_site: true` on the route.",
        )
    origin = found.get(b"origin")
    if origin is not None and origin.strip().lower() != b"http://" + authority.lower():
        raise SidecarError(
            Reason.CALLER_REFUSED,
            "The request has an `Origin` that is not this address, as a page of another site would send. "
            "Leave the header out, or set `allow_cross_site: true` on the route.",
        )


def refuse_loop(found: Mapping[bytes, bytes], pseudonym: bytes) -> None:
    """Raise LOOP when `Via` names this very instance; another sidecar's pseudonym is fine."""
    if pseudonym in found.get(b"via", b""):
        raise SidecarError(
            Reason.LOOP,
            "This request has passed through this sidecar before: the route's upstream leads back to it. "
            "Point the route's `upstream` at the service itself.",
        )
