"""Recognises a secret's contents in the place of a path or URL, and quotes paths and URLs safely.

Decides that a text can't be a path or URL because it is the contents of a file (`$(cat key.json)` instead of
`key.json`), and owns the way in which messages quote an operator's values. Called by `config` for all that it reads,
by the commands for their arguments, and by what names a file or an endpoint in a message, a log or a page. Pure. The
rule: contents are refused when they are read and never quoted; what is quoted is of bounded length, on one line, and
without passwords, queries and tokens. Sources: PATH_MAX of Linux' limits.h; RFC 7468 (PEM); RFC 7515 section 7.1
(JWT); RFC 4648 (base64).
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Iterable
from typing import Final

HIDDEN: Final = "********"
"""What stands in print for a secret."""
PATH_MAX: Final = 4096
"""Bytes that a path may have; a URL in a configuration is shorter."""
_SCHEME_MAX: Final = 10
_QUOTED_MAX: Final = 200
_HEAD: Final = 120
_TAIL: Final = 60
_WRAPPING: Final = " \t\r\n\"'`\ufeff"
"""What is left around a text by shells, env files and editors."""

_PLACE: Final = re.compile(r"\{{1,2}[A-Za-z_]{1,20}\}{1,2}|\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%[\w.-]*)?\]")
"""What begins with a brace or bracket and is no JSON: a route's template, a misspelt one, an IPv6 literal."""
_ESCAPED: Final = re.compile(r"%(?:7b|5b|2d%2d%2d%2d%2d)", re.IGNORECASE)
_INSIDE: Final = re.compile(
    r"-----BEGIN|BEGIN [A-Z ]*PRIVATE KEY|\"?(?:private_key|refresh_token|client_secret)\"?\s*[:=]"
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\s-]{20,}={0,2}\s*")
_JWT: Final = re.compile(r"e[wy][A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)*")
_TOKEN: Final = re.compile(r"(?<![\w.-])(?:ya29\.[\w.-]{8,}|GOCSPX-[\w-]{8,}|1//[\w-]{20,}|AIza[\w-]{30,})")
"""Google's access tokens, client secrets, refresh tokens and API keys."""
_HEARD: Final = 2000
_KNOWN_MIN: Final = 6
_WORD_MAX: Final = 40
_RUN: Final = re.compile(r"[A-Za-z0-9+/_=~-]{16,}")
_NAMED: Final = re.compile(
    r"((?:pass(?:word|wd|phrase)?|pwd|secret|token|key|credential|authorization|bearer|cookie)\w*[\"']?\s*(?:[=:]|\bis\b)\s*"
    r"(?:(?:Bearer|Basic)\s+)?)[^\s,;&]+",
    re.IGNORECASE,
)
"""What a message names as a secret, in its usual forms."""
_PEM: Final = re.compile(r"-----BEGIN.*", re.DOTALL)
_BEHIND_SCHEME: Final = re.compile(r"://([^\s`]*)")
_TO_THE_END: Final = re.compile(r"://(.*)", re.DOTALL)
"""The rest of a value that is one URL: a space in it does not end its query."""


def kind_of(text: str) -> str | None:
    """The kind of contents that `text` is, for the middle of a sentence; None if it can be a path or URL."""
    scheme, separator, rest = text.partition("://")
    for part in (text, rest, rest.partition("/")[0]) if separator and len(scheme) <= _SCHEME_MAX else (text,):
        if (kind := _secret_kind(part)) is not None:
            return kind
    if "\0" in text:
        return "text with a NUL in it"
    if "\n" in text or "\r" in text:
        return "several lines of text"
    if len(text) > PATH_MAX or len(text.encode("utf-8", "replace")) > PATH_MAX:
        return f"more than {PATH_MAX} bytes"
    return None


def place(value: object) -> str:
    """A path, URL or other word of the operator's as a message may show it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = str(value)
    if (kind := kind_of(text)) is not None:
        return f"({kind}, not shown)"
    text = masked(_TO_THE_END.sub(_without_user_and_query, text))
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return text if len(text) <= _QUOTED_MAX else f"{text[:_HEAD]}…{text[-_TAIL:]}"


def quoted(value: object) -> str:
    """The same between backticks; what is no single word is named instead."""
    return place(value) if isinstance(value, dict | list | tuple) else f"`{place(value)}`"


def masked(text: str) -> str:
    """A message without what stands for a user name, password or query in its URLs, where people put keys, and without
    tokens and keys that are known by their form."""
    text = _BEHIND_SCHEME.sub(_without_user_and_query, text)
    if "-----BEGIN" in text:
        text = _PEM.sub(HIDDEN, text)
    return _TOKEN.sub(HIDDEN, _JWT.sub(lambda found: HIDDEN if _is_jwt(found[0]) else found[0], text))


def heard(text: str, known: Iterable[str] = ()) -> str:
    """Another program's words about its failure, for a message: without the `known` values, and without anything that
    is or looks like a secret.
    """
    text = text[:_HEARD]
    # The longest first: one may be a part of another. Paths and short words are not secrets.
    for value in sorted(known, key=len, reverse=True):
        if len(value) >= _KNOWN_MIN and not value.startswith("/"):
            text = text.replace(value, HIDDEN)
    text = _NAMED.sub(rf"\1{HIDDEN}", masked(text))
    return _RUN.sub(lambda run: HIDDEN if _is_random(run[0]) else run[0], text)


def _is_random(run: str) -> bool:
    return len(run) >= _WORD_MAX or (any(c.isdigit() for c in run) and any(c.isalpha() for c in run))


def _secret_kind(text: str, depth: int = 2) -> str | None:
    """What kind of secret a text looks like, and not only unlike a path; decoded up to `depth` times."""
    inner = text.strip(_WRAPPING)
    if (inner[:1] in ("{", "[") and _PLACE.match(inner) is None) or _ESCAPED.match(inner) is not None:
        return "JSON"
    if inner.startswith("-----") or _INSIDE.search(text) is not None:
        return "PEM text" if "-----" in text else "the text of a credential"
    if _TOKEN.match(inner) is not None or ((jwt := _JWT.match(inner)) is not None and _is_jwt(jwt[0])):
        return "a token"
    if depth and _BASE64.fullmatch(inner) is not None:
        decoded = _decoded(inner)
        if decoded[:2] in (b"\x30\x81", b"\x30\x82") and len(decoded) > 64:
            return "a key or certificate in base64"
        try:
            kind = _secret_kind(decoded.decode("utf-8"), depth - 1)
        except UnicodeDecodeError:
            return None
        return None if kind is None else f"{kind.removesuffix(' in base64')} in base64"
    return None


def _decoded(text: str) -> bytes:
    """The bytes that base64 stands for, in either alphabet, with or without padding; none where it is no base64."""
    plain = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _is_jwt(text: str) -> bool:
    """Whether the part before the first dot is a JOSE header: many a host name has the letters of one."""
    try:
        return isinstance(json.loads(_decoded(text.partition(".")[0])), dict)
    except (ValueError, RecursionError):
        return False


def _without_user_and_query(found: re.Match[str]) -> str:
    before, mark, query = found[1].partition("?")
    user, at, rest = before.rpartition("@")
    if "@" in query and not at:  # a password with a `?` in it, or a query with an `@`
        return f"://{HIDDEN}"
    return f"://{user and HIDDEN}{at}{rest}{mark}{query and HIDDEN}"
