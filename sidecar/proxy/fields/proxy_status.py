"""Which parts of an upstream's `Proxy-Status` go on to the app.

Owns the one promise that lets an app tell whose answer it has: a Proxy-Status member by the sidecar's name is the
sidecar's own. Called by an exchange for answers that have the field, interim answers and trailers. Pure. Rules: RFC
9209 section 2 (a List whose members are Strings or Tokens, one for each intermediary), RFC 9651 sections 3 and 4.2 (the
grammar; what is no List counts for nothing as a whole).

It is stricter than the grammar, because readers are often not: a member that contains the name anywhere, in any case,
is removed. A field with the name that is no List, or is endless, is removed completely, because a reader that only
searches for the name would find it. All else passes unchanged.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from sidecar.proxy.fields.headers import Fields, is_long_list

NAME: Final = "idtoken-sidecar"
"""How the sidecar calls itself in the field."""
FIELD: Final = b"proxy-status"
_LETTERS: Final = len(FIELD)

_NAME: Final = NAME.encode()
_LONGEST: Final = 4096
"""The most bytes of a field with escapes that are examined. Proxies write a few hundred."""
# Possessive throughout: whatever bytes come are read once.
_STRING: Final = rb'"(?:[ !#-\[\]-~]|\\["\\])*+"'
_TOKEN: Final = rb"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*+"
_VALUE: Final = (
    rb"(?:%b|%b|-?[0-9]{1,15}+(?:\.[0-9]{1,3}+)?+|:[A-Za-z0-9+/=]*+:|\?[01]|@-?[0-9]{1,15}+|%%%b)"
    % (
        _STRING,
        _TOKEN,
        _STRING,
    )
)
_MEMBER: Final = re.compile(
    rb"[ \t]*+((?:%b|%b)(?:;[ ]*+[a-z*][a-z0-9_.*-]*+(?:=%b)?+)*+)[ \t]*+(,|\Z)" % (_STRING, _TOKEN, _VALUE)
)


def foreign(fields: Fields) -> Fields:
    """The same lines without the members of `Proxy-Status` that name the sidecar. Unchanged if there are none."""
    values = [value for name, value in fields if len(name) == _LETTERS and name.lower() == FIELD]
    if not values:
        return fields
    whole = b",".join(values)
    plain = hidden = whole.lower().count(_NAME)
    if b"\\" in whole or b"%" in whole:
        # However a reader takes escapes: a string's, and percents as in strings for display (RFC 9651 section 3.3.8).
        hidden = _unescaped(whole).count(_NAME) if len(whole) <= _LONGEST else -1
    if not plain and not hidden:
        return fields
    readable = (
        plain == hidden
        and not is_long_list(whole)
        and all(_members(value) is not None for value in values if value.strip(b" \t"))
    )
    left = []
    for name, value in fields:
        if name.lower() != FIELD:
            left.append((name, value))
        elif readable and (
            kept := [member for member in _members(value) or () if _NAME not in member.lower()]
        ):
            left.append((name, b", ".join(kept)))
    return left


def _unescaped(value: bytes) -> bytes:
    return unquote_to_bytes(value.replace(b"\\", b"")).lower()


def _members(value: bytes) -> list[bytes] | None:
    """The members of one line, without the white space around them; None where it is no List."""
    members, at, comma = [], 0, True
    while comma:
        found = _MEMBER.match(value, at)
        if found is None:
            return None
        members.append(found[1])
        at, comma = found.end(), bool(found[2])
    return members
