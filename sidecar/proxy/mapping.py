"""Answers that point back at the upstream, mapped to the way the app came in.

Owns the rewriting of `Location`, `Content-Location` and cookie paths. Called by an exchange for the few
answers that have them. Pure. Without it a redirect would lead the app past the sidecar, to the service
itself, without a token. Rules: RFC 9110 sections 10.2.2 and 8.7, RFC 6265 section 4.1.2.4.
"""

from __future__ import annotations

import re
from itertools import islice

from sidecar.proxy.headers import Fields, Found

_PATH = re.compile(rb";[ \t]*+path[ \t]*+=[ \t]*+(?=/)", re.IGNORECASE)
_MOST_ATTRIBUTES, _MOST_PATHS = 32, 4
"""Of a cookie: there are nine kinds of attributes, and each is given once."""
_MAPPED = (b"location", b"content-location")


def map_answer(fields: Fields, found: Found, *, origin: bytes, base: bytes, prefix: bytes) -> Fields:
    """The same lines as the app should see them.

    `origin` is the upstream's (`https://host[:port]`), `base` the scheme and Host that the app used,
    `prefix` the route's `path_prefix` where that was the way in, else empty.
    """
    if (
        b"location" not in found
        and b"content-location" not in found
        and not (prefix and b"set-cookie" in found)
    ):
        return fields
    mapped = []
    for name, value in fields:
        lower = name.lower()
        if lower in _MAPPED:
            value = map_reference(value, origin=origin, base=base, prefix=prefix)
        elif prefix and lower == b"set-cookie":
            confined = _confined(value, prefix)
            if confined is None:
                continue
            value = confined
        mapped.append((name, value))
    return mapped


def _confined(cookie: bytes, prefix: bytes) -> bytes | None:
    """A cookie with each of its paths below the prefix: which one counts, clients see differently. None for one with
    very many attributes or paths, which is not passed on: unmapped, it would be a cookie for other routes too."""
    if cookie.count(b";") > _MOST_ATTRIBUTES:
        return None
    ends = [found.end() for found in islice(_PATH.finditer(cookie), _MOST_PATHS + 1)]
    if len(ends) > _MOST_PATHS:
        return None
    for end in reversed(ends):
        cookie = cookie[:end] + prefix + cookie[end:]
    return cookie


def map_reference(value: bytes, *, origin: bytes, base: bytes, prefix: bytes) -> bytes:
    """A URI reference as the app should see it; one to anywhere else stays as it is."""
    host = origin.partition(b"://")[2]
    # `http://` to the upstream's own host is mapped too: the service would only redirect it to https.
    for start in (origin, b"//" + host, b"http://" + host):
        rest = value[len(start) :]
        if value[: len(start)].lower() == start and rest[:1] in (b"", b"/", b"?", b"#"):
            return base + prefix + rest
    if prefix and value.startswith(b"/") and not value.startswith(b"//"):
        return prefix + value
    return value
