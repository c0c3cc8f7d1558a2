"""What a request may say, in any wire format.

Owns the checks of RFC 9110 that every codec of the app's side makes: the method, the path, `Expect`, `Max-Forwards`,
and names that other programs can't tell from those of the framing. Pure. Rules: RFC 9110 sections 7.6.2, 9.3 and
10.1.1, RFC 3986 sections 2.1 and 5.2.4 (escapes, dot segments).
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.errors import Reason, SidecarError
from sidecar.grammar.paths import leaves_root
from sidecar.proxy.fields.headers import TWIN, Fields, Found, plain_length, rewrite

_PERCENT: Final = 0x25
_DOT: Final = 0x2E
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00")


def malformed(what: str, version: str = "HTTP") -> SidecarError:
    """The error for bytes that are no request of this version."""
    return SidecarError(Reason.MALFORMED_REQUEST, f"The request is not valid {version}: {what}")


def may_be_ambiguous(target: bytes) -> bool:
    """Whether `check_path` has anything to check: most targets contain neither an escape nor two dots."""
    # `b"/.." in target` would look for a number first, and raise and catch a TypeError inside CPython.
    return _PERCENT in target or (_DOT in target and target.find(b"/..") >= 0)


def check_names(found: Found) -> None:
    """Raise MALFORMED_REQUEST for a name that CGI and similar interfaces can't tell from one of the framing's."""
    if TWIN in found:
        raise malformed("A header's name is that of a framing or routing one, with `_` in place of `-`.")


def check_path(target: bytes) -> None:
    """Raise MALFORMED_REQUEST if upstreams might decode the path differently: programs disagree about broken escapes,
    an encoded NUL, and paths that leave the root. The query belongs to the application and stays as it is.
    """
    path = target.partition(b"?")[0]
    if _BAD_ESCAPE.search(path):
        raise malformed("Its path has `%00`, or a `%` without two hexadecimal digits behind it.")
    if leaves_root(path):
        raise malformed("Its path leads out of the root (`..`).")


def written_anew(method: bytes, fields: Fields, found: Found) -> Fields:
    """The lines with a plain Content-Length and, for OPTIONS, one hop less in `Max-Forwards`. Raises as `_hops_left`
    does. Only for a length that was already checked.
    """
    if b"content-length" in found:
        fields = plain_length(fields, found)
    if method == b"OPTIONS" and b"max-forwards" in found:
        fields = rewrite(fields, found, {b"max-forwards": _hops_left(found[b"max-forwards"])})
    return fields


def _hops_left(text: bytes) -> bytes:
    """`Max-Forwards` for the next hop (RFC 9110 section 7.6.2). Raises MALFORMED_REQUEST if it is no number, and
    METHOD_NOT_CARRIED if this is the last hop.
    """
    if not text.isdigit() or len(text) > 9:
        raise malformed("`Max-Forwards` is not a number.")
    if not int(text):
        raise SidecarError(
            Reason.METHOD_NOT_CARRIED,
            "OPTIONS with `Max-Forwards: 0` asks the sidecar for its own options, and it has none. "
            "Leave that header out to ask the service.",
        )
    return b"%d" % (int(text) - 1)


def check_expectation(found: Found) -> None:
    """Raise EXPECTATION_FAILED for any expectation but `100-continue` (RFC 9110 section 10.1.1)."""
    if found[b"expect"].strip().lower() != b"100-continue":
        raise SidecarError(
            Reason.EXPECTATION_FAILED, "The only expectation that is carried is `100-continue`."
        )


def not_carried(method: bytes, target: bytes) -> SidecarError:
    if method == b"CONNECT":
        # Without what stands before an `@`: it may be a password, and this is logged.
        host = target.decode("ascii", "replace").rpartition("@")[2].rpartition(":")[0]
        what = (
            "CONNECT asks for a tunnel, and what is encrypted inside one cannot be given a token. "
            f"Ask for http://{host}/… instead of https://{host}/…: the sidecar itself speaks https to the service. "
            "Or call the route without a proxy: at its own `listen`, by its `path_prefix`, or as NAME.localhost."
        )
    elif method == b"TRACE":
        what = "TRACE is not forwarded: its answer would show the token to the caller."
    else:
        what = f"The method `{method.decode('ascii', 'replace')}` is not supported."
    return SidecarError(Reason.METHOD_NOT_CARRIED, what)
