"""Maps answers that point to the upstream back to the address that the app used.

Owns the rewriting of `Location`, `Content-Location` and cookie paths. Called by an exchange for the few
answers that have them. Pure. Without it a redirect would lead the app past the sidecar, to the service
itself, without a token. Rules: RFC 9110 sections 10.2.2 and 8.7, RFC 6265 section 4.1.2.4.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

from sidecar.grammar.hosts import parse_authority
from sidecar.proxy.fields.headers import Fields, Found

_PATH: Final = re.compile(rb";[ \t]*+path[ \t]*+=[ \t]*+(?=/)", re.IGNORECASE)
_MOST_ATTRIBUTES: Final = 32
_MOST_PATHS: Final = 4
"""Most attributes and paths of a cookie. There are nine kinds of attributes, and each is given once."""
_REFERENCE: Final = re.compile(rb"(?i)(?:(https?):)?//([^/?#@]{1,300})(?=[/?#]|\Z)")
_DEFAULT_PORTS: Final = {b"http": 80, b"https": 443}
_MAPPED: Final = (b"location", b"content-location")


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
    """A cookie with each of its paths moved below the prefix: clients differ in which path counts. None for a cookie
    with too many attributes or paths, which is dropped, because unmapped it would apply to other routes too.
    """
    if cookie.count(b";") > _MOST_ATTRIBUTES:
        return None
    ends = [found.end() for found in islice(_PATH.finditer(cookie), _MOST_PATHS + 1)]
    if len(ends) > _MOST_PATHS:
        return None
    for end in reversed(ends):
        cookie = cookie[:end] + prefix + cookie[end:]
    return cookie


def _behind_own(value: bytes, origin: bytes) -> bytes | None:
    """What follows the authority in a reference to the upstream's own origin in another spelling: with the default
    port, a dot at the end, or an address written in full. None for any other reference.
    """
    found = _REFERENCE.match(value)
    if found is None:
        return None
    scheme, _, own = origin.partition(b"://")
    try:
        named = parse_authority(found[2].decode("ascii"))
        meant = parse_authority(own.decode("ascii"))
    except ValueError:
        return None
    asked = (found[1] or scheme).lower()
    ports = {_DEFAULT_PORTS[scheme] if meant.port is None else meant.port}
    if asked == b"http" and meant.port is None:
        ports.add(80)
    elif asked not in (scheme, b"http"):
        return None
    port = _DEFAULT_PORTS[asked] if named.port is None else named.port
    return value[found.end() :] if named.host == meant.host and port in ports else None


def map_reference(value: bytes, *, origin: bytes, base: bytes, prefix: bytes) -> bytes:
    """A URI reference as the app should see it. References to other origins stay as they are."""
    host = origin.partition(b"://")[2]
    # `http://` to the upstream's own host is mapped too: the service would only redirect it to https.
    for start in (origin, b"//" + host, b"http://" + host):
        rest = value[len(start) :]
        if value[: len(start)].lower() == start and rest[:1] in (b"", b"/", b"?", b"#"):
            return base + prefix + rest
    if (behind := _behind_own(value, origin)) is not None:
        return base + prefix + behind
    if prefix and value.startswith(b"/") and not value.startswith(b"//"):
        return prefix + value
    return value
