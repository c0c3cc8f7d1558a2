"""The framing of one HTTP/2 connection, as server or as client.

Owns the state machine (libnghttp2's, by way of ngh2), the announced settings, and how many frames a peer may send
that belong to no message. The only module of the data path that imports ngh2. Made and fed by `downstream` and
`upstream`. No I/O, and no clock of its own. Rules: RFC 9113, RFC 7541.

libnghttp2 handles: frames, HPACK, stream states, flow control, connection-specific fields, pseudo-headers and their
order, Content-Length against DATA, the acknowledgement of SETTINGS and PING. This module does the rest. It credits
received bytes itself (`credit`), with a connection's window as large as the windows of all its streams, so that an
unread stream holds up no other. It handles slow floods, and sends a GOAWAY where libnghttp2 sends none. `frames`
finds what libnghttp2 does not report. A call for a stream that the peer has already ended does nothing, because the
event about it is still unread.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final, final

import ngh2
from ngh2 import ConnectionClosed as Ended
from ngh2 import DataReceived as Data
from ngh2 import Event, NeverIndexedHeader, NGH2Error, PingAcknowledged, Setting
from ngh2 import GoAwayReceived as GoAway
from ngh2 import InformationalResponseReceived as Interim
from ngh2 import RequestReceived as Request
from ngh2 import ResponseReceived as Answer
from ngh2 import SettingsReceived as Settings
from ngh2 import StreamClosed as Closed
from ngh2 import StreamReset as Reset
from ngh2 import TrailersReceived as Trailers
from ngh2 import WindowUpdated as Window

from sidecar.errors import Reason
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.fields.headers import Fields
from sidecar.proxy.http2.frames import FrameWalk

__all__ = (
    "Answer",
    "Closed",
    "Data",
    "Ended",
    "Event",
    "GoAway",
    "Http2Connection",
    "Interim",
    "NeverIndexedHeader",
    "Request",
    "Reset",
    "Settings",
    "Trailers",
    "Window",
)

DATA: Final = 1
REQUEST: Final = 2
ANSWER: Final = 3
TRAILERS: Final = 4
STREAM_CLOSED: Final = 5
RESET: Final = 6
INTERIM: Final = 7
SETTINGS: Final = 8
GOAWAY: Final = 9
PONG: Final = 10
ENDED: Final = 11
OTHER: Final = 12
"""What an event is about; the first seven are about one stream. The data path compares these numbers: `isinstance`
costs several times as much, because ngh2's classes are not part of the compiled code.
"""

KINDS: Final[dict[type[Any], int]] = {
    Data: DATA,
    Request: REQUEST,
    Answer: ANSWER,
    Trailers: TRAILERS,
    Closed: STREAM_CLOSED,
    Reset: RESET,
    Interim: INTERIM,
    Settings: SETTINGS,
    GoAway: GOAWAY,
    PingAcknowledged: PONG,
    Ended: ENDED,
}
"""An event's number is `KINDS.get(type(event), OTHER)`: each read asks for several, and a function would double the
cost.
"""

NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
ENHANCE_YOUR_CALM: Final = 11
HTTP_1_1_REQUIRED: Final = 13
"""Error codes (RFC 9113 section 7) that the sidecar acts on."""

MAX_CONCURRENT_STREAMS: Final = int(Setting.MAX_CONCURRENT_STREAMS)
"""The number of the setting."""

CODES: Final = (
    *(
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
    ),
    *(
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
    ),
    *("INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
"""The names of the error codes, each at its number."""

_ALLOWANCE: Final = 2000.0
"""How many control frames a connection may send at once beside its messages."""
_EACH_SECOND: Final = 100.0
_EACH_PIECE: Final = 8.0
"""How many more it may send for each second, and for each head and piece of a body in either direction. A client that
measures its bandwidth, as gRPC's do, sends a PING and two WINDOW_UPDATEs for some of them.
"""
_SETTINGS: Final = 10.0
"""How many frames a SETTINGS frame counts as: it is applied to each stream."""

_LARGEST_WINDOW: Final = 2**31 - 1
_CREDITS: Final = 8
"""How often a window is credited while it is used up once. libnghttp2 tells the peer at half a window; to credit each
small message costs more than to pass it on.
"""
_ASSUMED_STREAMS: Final = 2**31 - 1
"""How many streams a server is assumed to permit until it says so. The pool counts them, and nothing may wait in
here.
"""
_ROOM: Final = 4
"""A head of this many times `limits.head` ends the connection, not only its stream."""


def code_name(code: int) -> str:
    """The name of an error code, for metrics and the log."""
    return CODES[code] if code < len(CODES) else "UNKNOWN"


@final
class Http2Connection:
    """See the module's docstring."""

    __slots__ = (
        "_allowance",
        "_as_of_mono",
        "_has_ended",
        "_inner",
        "credit_least",
        "fault",
        "is_dead",
        "peer_code",
        "reason",
        "walk",
    )

    def __init__(self, limits: Bounds, now_mono: float, *, is_client: bool, streams: int) -> None:
        """`streams` is how many may be open at once, `now_mono` the monotonic second."""
        window = limits.stream_window
        self._inner = ngh2.Connection(
            ngh2.Role.CLIENT if is_client else ngh2.Role.SERVER,
            ngh2.Configuration(
                auto_window_update=False,
                peer_max_concurrent_streams=_ASSUMED_STREAMS,
                max_inbound_header_list_size=limits.head * _ROOM,
                max_inbound_header_count=limits.headers * _ROOM,
                max_send_header_block_length=limits.head * _ROOM,
            ),
        )
        settings = {
            Setting.INITIAL_WINDOW_SIZE: window,
            Setting.MAX_HEADER_LIST_SIZE: limits.head,
        }
        if is_client:
            settings[Setting.ENABLE_PUSH] = 0
        else:
            settings[Setting.MAX_CONCURRENT_STREAMS] = streams
        self._inner.initiate_connection(settings)
        room = min(_LARGEST_WINDOW, max(65535, window * streams))
        self._inner.set_local_window_size(room)
        self.walk = None if is_client else FrameWalk()
        """Follows an app's frames. A target has a deadline for its answers anyway."""
        self.credit_least = min(window, room // streams) // _CREDITS
        """Bytes that a stream should gather before it calls `credit`, unless its peer's message has ended. All streams
        together never keep more than a part of the connection's window.
        """
        self._allowance = _ALLOWANCE
        self._as_of_mono = now_mono
        self._has_ended = False
        """Whether a last GOAWAY was framed."""
        self.is_dead = False
        """The connection takes no further bytes: only `take()` and closing it are left."""
        self.peer_code = NO_ERROR
        """The code of the peer's own GOAWAY, once its event is handled."""
        self.fault = ""
        """What the peer did wrong, for the log."""
        self.reason = Reason.MALFORMED_REQUEST
        """The reason for that if the peer is an app."""

    # bytes

    def feed(self, data: bytes) -> list[Any]:
        """The events in `data`; `KINDS` says which each is."""
        if self.is_dead:
            return []
        if self.walk is not None:
            self.walk.follow(data)
        try:
            self._inner.receive_data(data)
        except ngh2.DenialOfServiceError as error:
            large = "header list" in str(error)
            self._end(str(error), Reason.HEAD_TOO_LARGE if large else Reason.TOO_MANY_FRAMES)
        except NGH2Error as error:
            self._end(str(error), Reason.MALFORMED_REQUEST)
        if self.walk is not None and self.walk.is_malformed and not self.is_dead:
            why = "a PRIORITY frame on no stream, or one that depends on itself"
            self.give_up(PROTOCOL_ERROR, why, Reason.MALFORMED_REQUEST)
        return self._inner.events()

    def take(self) -> bytes:
        """Bytes to send now. `events` may have grown."""
        try:
            return self._inner.data_to_send() if self._inner.want_write else b""
        except NGH2Error:
            return b""

    def events(self) -> list[Any]:
        """The events that arose while bytes were taken."""
        return self._inner.events()

    def last_words(self) -> bytes:
        """A GOAWAY with ENHANCE_YOUR_CALM, for a connection whose state machine has failed and sends none."""
        if self._has_ended:
            return b""
        return (
            b"\x00\x00\x08\x07\x00\x00\x00\x00\x00"
            + _LARGEST_WINDOW.to_bytes(4)
            + ENHANCE_YOUR_CALM.to_bytes(4)
        )

    # what moves no message

    def spend(self, event: Event, now_mono: float) -> bool:
        """Count a frame that belongs to no message. Returns whether the peer has sent too many."""
        self._allowance = min(_ALLOWANCE, self._allowance + (now_mono - self._as_of_mono) * _EACH_SECOND) - (
            _SETTINGS if type(event) is Settings else 1.0
        )
        self._as_of_mono = now_mono
        if self._allowance >= 0 or self.is_dead:
            return False
        why = "too many frames that are part of no message"
        self.give_up(ENHANCE_YOUR_CALM, why, Reason.TOO_MANY_FRAMES)
        return True

    def earn(self) -> None:
        """A piece of a body came, so the peer may send some further frames that belong to no message."""
        self._allowance += _EACH_PIECE

    def give_up(self, code: int, why: str, reason: Reason) -> None:
        """End the connection because of what the peer did."""
        self.goaway(code, final=True)
        self._end(why, reason)

    def _end(self, why: str, reason: Reason) -> None:
        self.is_dead = True
        self.fault = why
        self.reason = reason

    # messages

    def request(self, fields: Fields, *, end: bool) -> int:
        """Begin a request; the id of its stream."""
        self._allowance += _EACH_PIECE
        return self._inner.send_request(fields, end_stream=end)

    def answer(self, stream: int, fields: Fields, *, end: bool) -> None:
        """The head of an answer."""
        self._allowance += _EACH_PIECE
        try:
            self._inner.send_response(stream, fields, end_stream=end)
        except NGH2Error:
            pass

    def interim(self, stream: int, fields: Fields) -> None:
        """An interim answer."""
        with contextlib.suppress(NGH2Error):
            self._inner.send_informational_response(stream, fields)

    def body(self, stream: int, data: bytes) -> None:
        """A piece of a body. It waits here until the peer's windows have room for it."""
        self._allowance += _EACH_PIECE
        try:
            self._inner.send_data(stream, data)
        except NGH2Error:
            pass

    def end(self, stream: int, trailers: Fields = ()) -> None:
        """The message is complete."""
        try:
            if trailers:
                self._inner.send_trailers(stream, trailers)
            else:
                self._inner.end_stream(stream)
        except NGH2Error:
            pass

    def reset(self, stream: int, code: int) -> None:
        """Reset a stream. Bytes that wait on it are dropped."""
        with contextlib.suppress(NGH2Error):
            self._inner.reset_stream(stream, code)

    def is_sent(self, stream: int) -> bool:
        """Whether nothing waits to be sent on a stream. The end of its body counts too, because it waits for a
        window.
        """
        inner = self._inner
        if self.is_dead or inner.queued_body_size(stream):
            return self.is_dead
        try:
            return inner.remote_window_size > 0 and inner.stream_remote_window_size(stream) > 0
        except NGH2Error:
            return True

    def unsent(self, stream: int) -> int:
        """Bytes that wait to be sent on a stream."""
        return self._inner.queued_body_size(stream)

    def credit(self, stream: int, count: int) -> None:
        """So many bytes of a body were passed on or dropped: the peer may send as many more."""
        if count:
            try:
                self._inner.acknowledge_received_data(count, stream)
            except (NGH2Error, ValueError):
                pass

    # the connection

    @property
    def can_begin(self) -> bool:
        """Whether a client may begin another request."""
        return not self.is_dead and self._inner.can_send_request

    def announce_end(self) -> None:
        """Announce the end: the first of two GOAWAYs, and a PING whose answer shows that it was read."""
        with contextlib.suppress(NGH2Error):
            self._inner.send_shutdown_notice()
            self._inner.ping(b"the-end.")

    def goaway(self, code: int = NO_ERROR, *, final: bool = False) -> None:
        """Start no more streams. `final` also ends those in progress."""
        with contextlib.suppress(NGH2Error):
            if final:
                self._has_ended = True
                self._inner.terminate_connection(code)
            else:
                self._inner.send_goaway(code)
