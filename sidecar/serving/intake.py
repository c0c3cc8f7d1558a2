"""Which requests an HTTP server of the control plane reads.

Judges a head before anything behind it is read: how many bytes of body come, or the refusal. Called by `gate`. Pure.
Rules: few paths of a server take a body, a form or JSON, and only from this machine. A body has a length (RFC 9112
section 6.3) and no coding, because nothing is ever decompressed. No client is told to continue (RFC 9110 section
10.1.1: one that gets 417 asks again without Expect). A target that is a whole URL names the same host as Host (RFC
9112 section 3.2.2).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import httptools

from sidecar.proxy.http1.target import is_request_line
from sidecar.serving.problems import RefusedError

HEAD: Final = 16 * 1024
"""Bytes of a head; Node's limit is the same, Tomcat's 8 KiB. A browser's cookies for localhost are of all its ports."""
LINES: Final = 100
"""Header lines."""
BODY: Final = 128 * 1024
"""Bytes: what the form holds at most, 10,000 characters, each of them nine bytes long in a form."""
END: Final = b"\r\n\r\n"

_FORM: Final = b"application/x-www-form-urlencoded"
_JSON: Final = b"application/json"
_URL: Final = re.compile(rb"http://([^/?#]+)([/?].*)?", re.IGNORECASE)
_ONCE: Final = (
    *(b"content-length", b"content-location", b"content-range", b"content-type", b"etag", b"max-forwards"),
    *(b"server", b"transfer-encoding", b"user-agent"),
)
"""Fields that are no lists, so that readers could differ about two lines of them. Host is one too."""


class Takes(NamedTuple):
    """What one server takes in."""

    server: str
    """What it is called in refusals: `admin server`."""
    forms: tuple[str, ...] = ()
    """The paths whose POST has a form."""
    purpose: str = ""
    """What a body has the sidecar do, which only callers on this machine may: `explain a request`."""
    json: re.Pattern[bytes] | None = None
    """The paths whose POST has JSON."""

    def kind_of(self, head: Head) -> bytes | None:
        """The type of the body that this request may have; None for none."""
        path = head.asked[0]
        if head.method != "POST":
            return None
        if path.decode("latin-1") in self.forms:
            return _FORM
        return _JSON if self.json is not None and self.json.fullmatch(path) else None


class Head:
    """A head as the parser reads it; the names of its fields in lower case."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.target = b""
        self.fields: dict[bytes, list[bytes]] = {}
        self._is_complete = False
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # CONNECT, or an offer that is not taken up
        except httptools.HttpParserError as error:
            raise RefusedError(400, "This is not an HTTP/1.1 request.") from error
        # llhttp takes several spaces, and RTSP.
        if not self._is_complete or not is_request_line(data.partition(b"\r\n")[0]):
            raise RefusedError(400, "This is not an HTTP/1.1 request.")
        self.http10 = parser.get_http_version() == "1.0"
        self.method = parser.get_method().decode("ascii")

    @property
    def asked(self) -> tuple[bytes, bytes]:
        """The path and the query, as they were sent, of a target that `refuse_head` accepts."""
        target = self.target.partition(b"#")[0]
        if (url := _URL.fullmatch(target)) is not None:
            target = url[2] or b""
        path, _, query = target.partition(b"?")
        return path or b"/", query

    # what the parser calls

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.setdefault(name.lower(), []).append(value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        self._is_complete = True


def refuse_head(head: Head, takes: Takes) -> None:
    """Raise for a head that nothing is served for."""
    named = head.fields.get(b"host", [])
    if len(named) > 1 or (not named and not head.http10):
        raise RefusedError(400, "A request has one Host.")
    if head.method == "CONNECT":
        raise RefusedError(405, f"The {takes.server} is not a proxy.")
    if not head.target.startswith(b"/") and (head.method, head.target) != ("OPTIONS", b"*"):
        url = _URL.fullmatch(head.target)
        if url is None or url[1].lower() != (named[0].lower() if named else None):
            raise RefusedError(
                400, "The target of a request is a path, or a URL with the host that Host names."
            )
    if b"sec-websocket-key1" in head.fields:
        raise RefusedError(400, "This handshake has a body that no field tells of: it is not WebSocket's.")
    if any(len(head.fields.get(name, ())) > 1 for name in _ONCE):
        raise RefusedError(400, "A header of this request stands there twice that may stand there once.")
    if b"expect" in head.fields:
        raise RefusedError(417, f"The {takes.server} expects nothing: leave Expect out.")


def body_due(head: Head, takes: Takes, *, local: bool) -> int:
    """How many bytes of body follow; raises RefusedError for a body that is not taken. `local`: from this machine."""
    fields = head.fields
    lengths = fields.get(b"content-length", [])
    size = int(lengths[0]) if len(lengths) == 1 and len(lengths[0]) < 20 else len(lengths)
    if not size and b"transfer-encoding" not in fields:
        return 0
    if not takes.forms:
        raise RefusedError(413, f"No request to the {takes.server} has a body.")
    if (wanted := takes.kind_of(head)) is None:
        paths = " and ".join(takes.forms)
        raise RefusedError(413, f"No request to the {takes.server} has a body, but for POST {paths}.")
    if not local:
        raise RefusedError(403, f"Only a caller on this machine may ask the sidecar to {takes.purpose}.")
    if b"transfer-encoding" in fields:
        raise RefusedError(411, "The body needs a Content-Length: it is not taken in chunks.")
    if size > BODY:
        raise RefusedError(413, f"The body has at most {BODY} bytes.")
    if b"".join(fields.get(b"content-encoding", [])).lower() not in (b"", b"identity"):
        raise RefusedError(415, "The body must not be compressed: leave Content-Encoding out.")
    kind = b"".join(fields.get(b"content-type", [])).partition(b";")[0].strip().lower()
    if kind != wanted:
        raise RefusedError(415, f"The body's Content-Type is {wanted.decode('ascii')}.")
    return size
