"""Paths that can be read in one way only.

Owns the normal form of a path, the escapes of what is no ASCII in one, and the judgements that two parsers could read
one differently and that one climbs out
of its root. Called by `config.allow` for the paths that are allowed and by `proxy` for those that are asked for. Pure.
Rules: RFC 3986 sections 3.3 and 6.2.2. What parsers disagree about: the URL standard (dot segments spelled with %2e,
backslashes), Java's servlet containers (`;` parameters), CGI and Windows (decoding before splitting; dots and spaces at
the end), Unicode (`lookalikes`), and what decodes twice. docs/allow.md has the table.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from sidecar.grammar.lookalikes import CONTROLS, READ_AS, SEPARATORS

_ALLOWED: Final = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_ESCAPES: Final = re.compile(rb"(?:%[0-9A-F]{2})+")
_NOT_ASCII: Final = re.compile(rb"%[89A-F]")
_CONTROL: Final = re.compile(rb"%(?:[01][0-9A-F]|7F)")
_TWICE: Final = re.compile(rb"%25(?:[0-9A-Fa-f]{2}|[uU][0-9A-Fa-f]{4})")
_DOTS: Final = re.compile(rb"(?:\.|%20)+")
_ESCAPED: Final = tuple(bytes((octet,)) if octet < 0x80 else b"%%%02X" % octet for octet in range(256))
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def normal_path(path: bytes) -> bytes:
    """The normal form of a path without its query: unreserved characters plain, other escapes in capitals.

    ValueError with the end of a sentence (`it has …`) for one that is ambiguous or no path.
    """
    if path[:1] != b"/":
        raise ValueError("does not begin with `/`")
    if _ALLOWED.fullmatch(path) is None:
        raise ValueError("has a character that a path may not have unescaped (RFC 3986)")
    if b"%" in path:
        path = _unescaped(path)
    if b"//" in path:
        raise ValueError("has an empty segment (`//`)")
    for segment in path[1:].split(b"/"):
        name = segment.replace(b"%3B", b";").partition(b";")[0]
        if not name and segment:
            raise ValueError("has a segment of parameters only (`/;`)")
        if _DOTS.fullmatch(name):
            raise ValueError("has a segment of dots or spaces only (`.`, `..`)")
    if _NOT_ASCII.search(path) and (read := _ESCAPES.sub(_as_read, path)) != path:
        try:
            normal_path(read)
        except ValueError as error:
            raise ValueError(f"{error}, to a reader that drops or folds other characters in it") from None
    return path


def escaped(target: bytes) -> bytes:
    """A path and query with every byte above 0x7F as its escape: nothing else is changed, and nothing is lost. Some
    clients (Go's) send such bytes as they are, and no reader of HTTP agrees with another about them."""
    if target.isascii():
        return target
    return b"".join([_ESCAPED[octet] for octet in target])


def leaves_root(path: bytes) -> bool:
    """Whether a path, or what is left of it behind a prefix, climbs higher than it began, with its escapes decoded."""
    if b".." not in path and b"%" not in path:
        return False
    depth = 0
    for segment in unquote_to_bytes(path).split(b"/"):
        if segment == b"..":
            depth -= 1
        elif segment not in (b"", b"."):
            depth += 1
        if depth < 0:
            return True
    return False


def _unescaped(path: bytes) -> bytes:
    if _BAD_ESCAPE.search(path):
        raise ValueError("has a `%` that is not an escape")
    path = _ESCAPE.sub(_normal_escape, path)
    for escape, what in ((b"%2F", "slash (`%2F`)"), (b"%5C", "backslash (`%5C`)")):
        if escape in path:
            raise ValueError(f"has an escaped {what}")
    if _CONTROL.search(path):
        raise ValueError("has an escaped control character")
    if _TWICE.search(path):
        raise ValueError("is escaped twice (`%25` before two hexadecimal digits)")
    for match in _ESCAPES.finditer(path):
        octets = bytes.fromhex(match[0].replace(b"%", b"").decode("ascii"))
        if not octets.isascii():
            _check_text(octets)
    return path


def _normal_escape(match: re.Match[bytes]) -> bytes:
    octet = int(match[0][1:], 16)
    return bytes((octet,)) if octet in _UNRESERVED else match[0].upper()


def _check_text(octets: bytes) -> None:
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("has escapes that are not UTF-8") from None
    if not CONTROLS.isdisjoint(text):
        raise ValueError("has an escaped control character")
    if not SEPARATORS.isdisjoint(text):
        raise ValueError("has a character that is folded into a dot, a separator or `%`, or looks like one")


def _as_read(match: re.Match[bytes]) -> bytes:
    """What is left of some escapes, which are UTF-8, to a reader that drops or folds characters."""
    text = unquote_to_bytes(match[0]).decode("utf-8")
    return match[0] if text.isascii() else quote(text.translate(READ_AS), safe="").encode("ascii")
