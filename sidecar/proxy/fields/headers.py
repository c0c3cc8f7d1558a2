"""Header fields: which ones are read, dropped and set.

Owns the tables of names and the building of every head that is forwarded, in both directions. Called by the two
connection classes for each message. Pure: bytes in, bytes out. The parser's list is never changed. Hop-by-hop lines
are dropped first and the sidecar's own lines are added last, so that nothing a peer names in `Connection` can remove
them. Rules: RFC 9110 section 7.6 (forwarding), RFC 9112 sections 6 and 7 (framing), RFC 9110 section 6.5.1 (what may
not be a trailer).

On the hot path: one pass to find what matters (`survey`), one to write; bytes only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import lru_cache
from typing import Final

Fields = Sequence[tuple[bytes, bytes]]
"""Header lines, in the order and spelling in which they arrived."""

Found = dict[bytes, bytes]
"""Lower-case name to value, only for names that the sidecar acts on; repeated lines joined with `, `."""

DropTable = dict[bytes, bool]
"""For each usual spelling of a name, whether its lines are dropped: one look-up a line. Names that are not in it are
compared in lower case. A dict and no Mapping: in the compiled build, a look-up in a dict costs half as much.
"""

_READ: Final = (
    b"authorization",
    b"connection",
    b"content-length",
    b"content-location",
    b"expect",
    b"host",
    b"http2-settings",
    b"keep-alive",
    b"location",
    b"max-forwards",
    b"origin",
    b"proxy-authorization",
    b"proxy-connection",
    b"proxy-status",
    b"sec-fetch-site",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"via",
    b"www-authenticate",
    b"x-serverless-authorization",
)

_COMMON: Final = (
    b"accept",
    b"accept-encoding",
    b"accept-language",
    b"accept-ranges",
    b"age",
    b"alt-svc",
    b"cache-control",
    b"content-disposition",
    b"content-encoding",
    b"content-language",
    b"content-type",
    b"cookie",
    b"date",
    b"etag",
    b"expires",
    b"grpc-accept-encoding",
    b"grpc-encoding",
    b"grpc-message",
    b"grpc-status",
    b"grpc-timeout",
    b"if-modified-since",
    b"if-none-match",
    b"last-modified",
    b"pragma",
    b"range",
    b"referer",
    b"server",
    b"strict-transport-security",
    b"traceparent",
    b"tracestate",
    b"user-agent",
    b"vary",
    b"x-cloud-trace-context",
    b"x-content-type-options",
    b"x-request-id",
)

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",  # never standardised, still sent by clients that think of a proxy
        b"proxy-authenticate",  # speaks of this hop's proxy, which asks for no credentials
        b"proxy-authorization",  # for this hop; where the token goes there it is set anew
        b"te",  # `trailers` is said again by the sidecar for itself
        b"transfer-encoding",
        b"upgrade",  # said again where an upgrade is carried
        b"http2-settings",  # belongs to an h2c upgrade, which is not carried
    }
)

REQUEST_DROPPED: Final = HOP_BY_HOP | {b"host"}
"""Dropped from every request. `Host` is always written anew."""

RESPONSE_DROPPED: Final = HOP_BY_HOP

OVERRIDES: Final = frozenset(
    {
        *(b"x-http-method-override", b"x-http-method", b"x-method-override"),
        *(b"x-original-url", b"x-rewrite-url"),
    }
)
"""Headers by which a request claims another method or path than its first line has."""

NOT_IN_TRAILERS: Final = (
    HOP_BY_HOP
    | OVERRIDES
    | {
        *(b"content-length", b"host", b"max-forwards", b"trailer", b"via"),
        *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
        *(
            b"authorization",
            b"cookie",
            b"origin",
            b"set-cookie",
            b"www-authenticate",
            b"x-serverless-authorization",
        ),
        *(b"cache-control", b"expect", b"location", b"pragma", b"range"),
        *(b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since"),
        *(b"content-encoding", b"content-range", b"content-type"),
    }
)
"""Framing, routing, authentication, what modifies a request, and content description: too late, or dangerous, in a
trailer (RFC 7230 section 4.1.2 lists them). A server that merges trailers into the header section would act on
them."""


def _spellings(names: Iterable[bytes]) -> dict[bytes, bytes]:
    return {spelling: name for name in names for spelling in (name, name.title())}


_INTEREST: Final[dict[bytes, bytes | None]] = {**_spellings(_READ), **dict.fromkeys(_spellings(_COMMON))}
"""Usual spellings, so that most names need no `lower()`. None for names that the sidecar ignores."""
READ: Final = frozenset(_READ)
"""Every name that `survey` reports."""
PERSISTENCE: Final = frozenset({b"close", b"keep-alive", b"Keep-Alive", b"Close", b""})
"""Values of `Connection` that name no header."""
_REMEMBERED: Final = 256
"""Bytes of a `Connection` value; clients send some thirty at most."""
_UNKNOWN: Final = b""
_PLAIN_TRAILERS: Final = frozenset({b"grpc-message", b"grpc-status"})
"""Names that need no `lower()`: each answer to a gRPC call ends with them."""
_BLANK: Final = 0x20
_UNDERSCORE: Final = 0x5F
"""A number: to look for a byte string in another raises and catches a TypeError inside CPython first."""
TWIN: Final = b"_"
"""The key under which `survey` reports a name that matches one of the sidecar's except for `_` in place of `-`. CGI,
WSGI and similar interfaces can't tell `Content_Length` from `Content-Length`.
"""


def _twins(name: bytes) -> set[bytes]:
    head, *rest = name.split(b"-")
    made = {head}
    for part in rest:
        made = {start + dash + part for start in made for dash in (b"-", b"_")}
    return made - {name}


_KEYS: Final = {name: name for name in _READ} | {
    twin: TWIN
    for name in HOP_BY_HOP | {b"content-length", b"x-serverless-authorization"}
    for twin in _twins(name)
}
"""Lower-case name to the key that `survey` reports it under."""


def trimmed(fields: Fields) -> list[tuple[bytes, bytes]]:
    """The same lines without white space after their values, which the parser keeps and which is not part of them
    (RFC 9112 section 5.1).
    """
    return [(name, value.rstrip(b" \t")) for name, value in fields]


def survey(fields: Fields) -> Found:
    """The headers among these lines that matter to the sidecar."""
    found: Found = {}
    repeated: dict[bytes, list[bytes]] | None = None
    for name, value in fields:
        key = _INTEREST.get(name, _UNKNOWN)
        if key is _UNKNOWN:
            key = _KEYS.get(name.lower())
        if key is not None:
            if key not in found:
                found[key] = value
            elif repeated is None:
                repeated = {key: [found[key], value]}
            else:
                repeated.setdefault(key, [found[key]]).append(value)
    if repeated is not None:
        # Joined once: line by line, the first bytes of many lines would be copied as often.
        for key, values in repeated.items():
            found[key] = b", ".join(values)
    return found


MOST_MEMBERS: Final = 64
"""Most commas in a list that is split. Envoy accepts nine names in a `Connection`. A head full of `a,` has 30,000
members, which cost the event loop milliseconds.
"""


def is_long_list(value: bytes) -> bool:
    """Whether a list has more members than are read."""
    return value.count(b",") > MOST_MEMBERS


def list_members(value: bytes) -> list[bytes]:
    """The members of a comma-separated list, lower case, without the empty ones (RFC 9110 section 5.6.1)."""
    return [member for part in value.lower().split(b",") if (member := part.strip(b" \t"))]


def takes_trailers(te: bytes) -> bool:
    """Whether a `TE` accepts trailers."""
    return te == b"trailers" or (not is_long_list(te) and b"trailers" in list_members(te))


def nominated(connection: bytes) -> frozenset[bytes]:
    """The names that a `Connection` value makes hop-by-hop, in lower case, without those of the message's own
    framing.
    """
    return frozenset(list_members(connection)) - {b"close", b"keep-alive", b"content-length"}


@lru_cache(maxsize=256)
def drop_table(names: frozenset[bytes], connection: bytes = b"") -> DropTable:
    """A drop set in the form that the writers need. Dropped are the given lower-case names, and those that `connection`
    names.
    """
    return _drop_table(names | nominated(connection))


def _drop_table(names: frozenset[bytes]) -> DropTable:
    return {**dict.fromkeys(_INTEREST, False), **dict.fromkeys(_spellings(names), True)}


def drop_nominated(names: frozenset[bytes], connection: bytes) -> DropTable:
    """The same for a value chosen by a peer. Long values are not cached, or 256 of them would be."""
    if len(connection) > _REMEMBERED:
        return _drop_table(names | nominated(connection))
    return drop_table(names, connection)


def write_fields(out: list[bytes], fields: Fields, drop: DropTable) -> None:
    """Append every line that is not dropped, in the order and spelling in which it arrived."""
    for name, value in fields:
        dropped = drop.get(name)
        if dropped is None:
            dropped = _is_dropped(name, drop)
        if not dropped:
            out += (name, b": ", value, b"\r\n")


def kept_fields(fields: Fields, drop: DropTable) -> list[tuple[bytes, bytes]]:
    """The lines that `write_fields` would write."""
    kept = []
    for line in fields:
        dropped = drop.get(line[0])
        if dropped is None:
            dropped = _is_dropped(line[0], drop)
        if not dropped:
            kept.append(line)
    return kept


def _is_dropped(name: bytes, drop: DropTable) -> bool:
    """Whether a name in an unusual spelling stands for one that is dropped.

    Underscores count too: CGI, WSGI and similar interfaces can't tell `Content_Length` from `Content-Length`.
    """
    lower = name.lower()
    if _UNDERSCORE not in lower:
        return drop.get(lower, False)
    lower = lower.replace(b"_", b"-")
    return drop.get(lower, False) or lower == b"content-length"


def kept_trailers(fields: Fields, also_dropped: Set[bytes]) -> list[tuple[bytes, bytes]]:
    """The trailer lines that may be forwarded, without white space after their values."""
    kept = []
    for line in fields:
        name, value = line
        plain = name if name in _PLAIN_TRAILERS else name.lower().replace(b"_", b"-")
        if plain not in NOT_IN_TRAILERS and plain not in also_dropped:
            kept.append(line if not value or value[-1] > _BLANK else (name, value.rstrip(b" \t")))
    return kept


def plain_length(fields: Fields, found: Found) -> Fields:
    """The same lines with Content-Length as a plain number, because some programs read a leading zero as octal. Only
    for a length that was already checked.
    """
    length = found[b"content-length"]
    if (length >= b"1" and length.isdigit()) or length == b"0":
        return fields
    return rewrite(fields, found, {b"content-length": b"%d" % int(length)})


def rewrite(fields: Fields, found: Found, changes: Mapping[bytes, bytes]) -> Fields:
    """The same lines with the values of single-valued fields in `changes` (lower-case names) replaced."""
    if changes.keys().isdisjoint(found):
        return fields
    return [(name, changes.get(name.lower(), value)) for name, value in fields]
