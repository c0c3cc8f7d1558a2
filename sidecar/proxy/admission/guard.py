"""Which callers are refused.

Owns the refusals that protect the token from callers other than the app: a web page in a browser, a loop. Called by
`admission` for every request. Pure. Rules: Fetch Metadata (Sec-Fetch-Site), RFC 6454 (Origin), RFC 9110 section 7.6.3
(Via).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.errors import Reason, SidecarError
from sidecar.grammar.hosts import is_loopback, is_own_address
from sidecar.proxy.fields.headers import Fields
from sidecar.routing.routes import request_host

BROWSER_MARKS: Final = frozenset({b"origin", b"sec-fetch-site", b"sec-fetch-dest", b"sec-fetch-user"})
"""What only browsers send. Sec-Fetch-Mode is missing because Node's `fetch` sends that one, and no other."""


def mark_of_another_site(
    found: Mapping[bytes, bytes], authority: bytes, scheme: bytes = b"http://"
) -> str | None:
    """The header that shows that a page of another site made the request, or None.

    `found` has repeated lines joined; `authority` is the request's Host as it came: a page served through the sidecar
    may call back to it; `scheme` is how URLs to this listener begin. Everything that is not known to be harmless
    counts: several values, an empty one, `null`.
    """
    site = found.get(b"sec-fetch-site")
    if site is not None and site.strip().lower() not in (b"none", b"same-origin"):
        return "Sec-Fetch-Site"
    origin = found.get(b"origin")
    if origin is not None and (origin := origin.strip().lower()) != (own := scheme + authority.lower()):
        # Browsers leave the default port out of an Origin; a Host may have it all the same.
        port = b":443" if scheme == b"https://" else b":80"
        if origin.removesuffix(port) != own.removesuffix(port):
            return "Origin"
    return None


def refuse_browser(found: Mapping[bytes, bytes], authority: bytes, scheme: bytes) -> None:
    """Raise CALLER_REFUSED for a request that a browser made for a page of another site."""
    mark = mark_of_another_site(found, authority, scheme)
    if mark == "Sec-Fetch-Site":
        raise SidecarError(
            Reason.CALLER_REFUSED,
            "A browser made this request for a page of another site (Sec-Fetch-Site). "
            "Call from the app itself, or set `allow_cross_site: true` on the route.",
        )
    if mark is not None:
        raise SidecarError(
            Reason.CALLER_REFUSED,
            "The request has an `Origin` that is not this address, as a page of another site would send. "
            "Leave the header out, or set `allow_cross_site: true` on the route.",
        )


def refuse_stray_browser(
    fields: Fields, found: Mapping[bytes, bytes], authority: bytes, scheme: bytes
) -> None:
    """Raise CALLER_REFUSED for a browser's request that no route takes. A name that leads here but is not ours may
    belong to a page (DNS rebinding), which must learn nothing about routes.
    """
    host = request_host(authority)
    if is_loopback(host) or is_own_address(host):
        refuse_browser(found, authority, scheme)
    elif any(name.lower() in BROWSER_MARKS for name, _ in fields):
        raise SidecarError(
            Reason.CALLER_REFUSED,
            "A browser made this request, for a name that is neither loopback nor a route's. "
            "If pages are to use that name, add it to the route's `host` list.",
        )


def refuse_loop(found: Mapping[bytes, bytes], pseudonym: bytes) -> None:
    """Raise LOOP if a request's `Via` names this instance. Another sidecar's pseudonym is fine."""
    if pseudonym in found[b"via"]:
        raise SidecarError(
            Reason.LOOP,
            "This request has passed through this sidecar before: the route's upstream leads back to it. "
            "Point the route's `upstream` at the service itself.",
        )
