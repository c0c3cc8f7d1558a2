"""Logs: the lines that operators read, without secrets.

Owns the one log handler of the process, its two forms (Google Cloud LogEntry JSON, a line of text), the access log
and the redaction net. `service` calls `configure` once and hands `AccessLog` to the data path; every other module
only uses `logging`. The message is a sentence that describes the event (it begins with the same words each time), and
the values are repeated in `extra={"fields": {…}}` for programs. It never raises into a caller, even if the stream
fails, and the event loop does not wait for it (`log_sink`). No line contains a token or a private key: code doesn't
log them, and if it did, they would be replaced here. Rules: the LogEntry JSON that Google's agents parse from stdout
(severity, time, message, httpRequest, sourceLocation, stack_trace), RFC 3339 times in UTC, https://no-color.org.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO, final

from sidecar.errors import GONE
from sidecar.grammar.terminal import printable
from sidecar.observe.log_sink import LineLoss, LogSink, loss_of

if TYPE_CHECKING:
    from sidecar.observe.trace import Trace

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "text"]
AccessMode = Literal["off", "errors", "all"]

REDACTED = "[redacted]"

_SECRET = re.compile(
    r"""
    # a JWT, whole or cut short in its signature
    (?:(?i:bearer)(?:\s|\\t|%20|\+)+)? eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*
    # credentials of any other form; a challenge (`Bearer realm="x"`) is none
    | \b(?i:bearer)(?:\s|\\t|%20|\+)+(?![A-Za-z_]+\s*=\s*")[^\s"'\\,;<>]+
    # a Google access token
    | \bya29\.[A-Za-z0-9._-]+
    # a private key, whole or without its end
    | -----BEGIN[ ](?:[A-Z0-9]+[ ])*PRIVATE[ ]KEY-----.*?(?:-----END[ ](?:[A-Z0-9]+[ ])*PRIVATE[ ]KEY-----|\Z)
    # what begins like a JWT and is none, whole: else it would be read again from every `eyJ` in it
    | (?P<harmless>eyJ[A-Za-z0-9_-]*?(?=(?:(?i:bearer)|-ya29|-----BEGIN)?(?![A-Za-z0-9_-])))
    """,
    re.VERBOSE | re.DOTALL,
)
_SUSPECT = re.compile(r"eyJ|(?i:bearer)|ya29\.|PRIVATE KEY")
"""Matches every line that `_SECRET` could match, also after JSON's escaping: the cheap test for each line."""

_QUIET = {"google": logging.INFO, "requests": logging.WARNING, "urllib3": logging.WARNING}
"""The least level of libraries: google-auth logs the Authorization header of its IAM calls at DEBUG."""

_COLOURS = {"DEBUG": "\x1b[2m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31;1m"}
_ACCESS = "sidecar.access"
_access_log = logging.getLogger(_ACCESS)
_log = logging.getLogger(__name__)


def configure(
    level: Level, log_format: Format = "auto", stream: TextIO | None = None, *, waiting: bool = True
) -> LogHandler:
    """Send every log record of the process to `stream` (default stdout); may be called again.

    Unless `waiting`, a thread writes the lines, and the code that logs never waits; `flush` at the end. `level`
    applies to the sidecar's own loggers; libraries stay at INFO or above. `auto` is text on a terminal and JSON
    elsewhere.
    """
    target = sys.stdout if stream is None else stream
    is_terminal = target.isatty()
    formatter: logging.Formatter
    if log_format == "text" or (log_format == "auto" and is_terminal):
        formatter = TextFormatter(colour=is_terminal and not os.environ.get("NO_COLOR"))
    else:
        formatter = JsonFormatter()
    handler = LogHandler(target, waiting=waiting)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, LogHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_level(level)
    # The access log has a switch of its own.
    _access_log.setLevel(logging.INFO)
    return handler


def flush(limit: float) -> None:
    """Wait until what was logged so far is written, at most `limit` seconds; before the process ends."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.drain(limit)


def set_level(level: Level) -> None:
    """Change the least severity that the sidecar's own loggers write; libraries stay at INFO or above."""
    number = getattr(logging, level.upper())
    logging.getLogger().setLevel(max(number, logging.INFO))
    logging.getLogger("sidecar").setLevel(number)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(number, least))


def redact(text: str) -> str:
    """`text` with everything that looks like a token or a private key replaced by `[redacted]`."""
    return _SECRET.sub(_replaced, text) if _SUSPECT.search(text) else text


def _replaced(found: re.Match[str]) -> str:
    return found[0] if found["harmless"] is not None else REDACTED


@final
class LogHandler(logging.Handler):
    """Writes lines. If the stream fails, lines are lost, but no exception is raised."""

    def __init__(self, stream: TextIO, *, waiting: bool = True) -> None:
        super().__init__()
        self._stream = stream
        try:
            self._descriptor = stream.fileno()
        except (OSError, ValueError):  # in memory
            self._descriptor = -1
        self._sink = None
        if not waiting and self._descriptor >= 0:
            self._sink = LogSink(self._descriptor, tell=self._loss_line)
        self.lost: dict[LineLoss, int] = dict.fromkeys(LineLoss, 0) if self._sink is None else self._sink.lost
        """Lines that were not written, by reason."""
        self.addFilter(_is_wanted)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - any __str__ may fail, and the caller must not
            line = self.format(_unformattable(record, error))
        if self._sink is not None:
            self._sink.put(self._encoded(line))
            return
        try:
            self._write(line)
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self.lost[loss_of(error)] += 1

    def drain(self, limit: float) -> None:
        """Wait until what was emitted so far is written, at most `limit` seconds."""
        if self._sink is not None:
            self._sink.flush(limit)

    def _encoded(self, line: str) -> bytes:
        return (line + "\n").encode(self._stream.encoding, "backslashreplace")

    def _write(self, line: str) -> None:
        if self._descriptor < 0:
            self._stream.write(line + "\n")
            return
        # Past the stream's buffer: what a dead pipe leaves in it makes the interpreter exit with 120.
        data = self._encoded(line)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def _loss_line(self, lost: Mapping[LineLoss, int]) -> bytes:
        fields = {"lost": sum(lost.values()), **{f"lost_{loss}": count for loss, count in lost.items()}}
        record = _log.makeRecord(
            _log.name, logging.WARNING, __file__, 0, "log lines were lost", (), None, extra={"fields": fields}
        )
        return self._encoded(self.format(record))


_ENCODE = json.JSONEncoder(default=str, allow_nan=False).encode


@final
class JsonFormatter(logging.Formatter):
    """One JSON object a line, in the fields that Google Cloud's logging agents lift out of it."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        entry = _entry(record)
        try:
            line = _ENCODE(entry)
        except (TypeError, ValueError):  # a key that is no string; infinity and NaN have no JSON
            line = json.dumps(_cleaned(entry))
        return json.dumps(_cleaned(entry)) if _SUSPECT.search(line) else line


@final
class TextFormatter(logging.Formatter):
    """One readable line: time (UTC), level, message, fields; a traceback on lines of its own."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        level = f"{record.levelname:<7}"
        if self._colour and record.levelname in _COLOURS:
            level = f"{_COLOURS[record.levelname]}{level}\x1b[0m"
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        message = record.getMessage()
        words = [_printable(redact(message))]
        for key, value in _fields(record).items():
            if key == "httpRequest" and isinstance(value, Mapping):
                words.append(_printable(redact(str(value.get("latency", "-")))))
            elif value is not None and not (key in _SAID and str(value) in message):
                words.append(f"{_printable(key)}={_quoted(redact(str(value)))}")
        trace = _stack_trace(record)
        tail = ["\n".join(map(_printable, redact(trace).splitlines()))] if trace else []
        return "\n".join([f"{time} {level} {' '.join(words)}", *tail])


@final
class AccessLog:
    """One entry for each finished request, if the mode wants it.

    The data path first asks `wants`, so that a request without a line costs one comparison.
    """

    __slots__ = ("_due", "_log_query", "_mode", "_project", "_sample")

    def __init__(
        self, mode: AccessMode, *, log_query: bool = False, sample: float = 1.0, project: str = ""
    ) -> None:
        """`sample` is the share of good requests that mode `all` logs; `project` owns the named traces."""
        self._mode = mode
        self._log_query = log_query
        self._sample = sample
        self._due = 0.0
        self._project = project

    @property
    def collapses(self) -> bool:
        """Whether the sidecar's own answers have one line a minute for each route and reason.

        A flood of lines says nothing more. Mode `all` logs each of them, unless it samples: the sample is of good
        requests.
        """
        return self._mode != "all" or self._sample < 1.0

    def wants(self, status: int, own_answer: bool) -> bool:
        """Whether a request with this result is logged.

        `errors` means every 5xx, and every 4xx that the sidecar itself answered. An app that left (499) got no
        answer; many streams end by being closed.
        """
        if self._mode == "errors":
            return status >= 500 or (own_answer and status >= 400 and status != GONE)
        if self._mode != "all":
            return False
        if status >= 500 or (own_answer and status >= 400) or self._sample >= 1.0:
            return True
        # Evenly, and not at random: the same share of any stretch of traffic.
        self._due += self._sample
        if self._due < 1.0:
            return False
        self._due -= 1.0
        return True

    def request(
        self,
        *,
        route: str,
        method: str,
        target: str,
        status: int,
        sent: int,
        received: int,
        duration: float,
        own_duration: float | None = None,
        reason: str | None = None,
        detail: str | None = None,
        upstream: str | None = None,
        trace: Trace | None = None,
        grpc: str | None = None,
        untold: int = 0,
    ) -> None:
        """Log one request for which `wants` was true.

        `target` is the request target as received (its query is cut off unless `log_query` is on). `sent` and
        `received` are body bytes to and from the upstream; durations are in seconds. `own_duration` is None if the
        request never reached an upstream connection, `reason` and `detail` are None for a forwarded answer. `grpc` is
        a call's status; `untold` is the number of similar requests without a line.
        """
        path = target if self._log_query else target.partition("?")[0]
        fields: dict[str, Any] = {
            "httpRequest": {
                "requestMethod": method,
                "requestUrl": path,
                "status": status,
                "requestSize": str(sent),
                "responseSize": str(received),
                "latency": f"{duration:.6f}s",
            },
            "route": route,
        }
        if own_duration is not None:
            fields["own_duration"] = f"{own_duration:.6f}s"
        more = (("reason", reason), ("detail", detail), ("upstream", upstream), ("grpc_status", grpc))
        fields |= {name: value for name, value in more if value is not None}
        if trace is not None:
            fields |= self._traced(trace)
        if untold:
            fields["untold"] = untold
        level = logging.INFO if status == GONE or (status < 500 and reason is None) else logging.WARNING
        says = _request_in_words(method, path, route, status, reason, detail, untold)
        _access_log.log(level, says, extra={"fields": fields})

    def _traced(self, trace: Trace) -> dict[str, Any]:
        name = f"projects/{self._project}/traces/{trace.trace_id}" if self._project else trace.trace_id
        span = {"logging.googleapis.com/spanId": trace.span_id} if trace.span_id else {}
        return {
            "logging.googleapis.com/trace": name,
            "logging.googleapis.com/trace_sampled": trace.sampled,
            **span,
        }


def _request_in_words(
    method: str, path: str, route: str, status: int, reason: str | None, detail: str | None, untold: int
) -> str:
    asked = " ".join(part for part in (method, path, f"by route `{route}`" if route else "") if part)
    said = f"request {asked}: {status}" if asked else f"request: {status}"
    if reason is not None:
        said += f" {reason}"
    if detail is not None:
        said += f": {detail}"
    return said + (f" ({untold} more like it since the last line)" if untold else "")


def _is_wanted(record: logging.LogRecord) -> bool:
    """False for a library's DEBUG record, even if the library set its own logger's level."""
    return record.levelno >= logging.INFO or record.name.partition(".")[0] == "sidecar"


def _entry(record: logging.LogRecord) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "severity": record.levelname if record.levelname in _SEVERITIES else "DEFAULT",
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:-6] + "Z",
        "message": record.getMessage(),
        "logger": record.name,
    }
    if record.levelno >= logging.WARNING and record.name != _ACCESS:
        entry["logging.googleapis.com/sourceLocation"] = {
            "file": record.pathname,
            "line": str(record.lineno),
            "function": record.funcName,
        }
    if trace := _stack_trace(record):
        entry["stack_trace"] = trace
    for key, value in _fields(record).items():
        # A field may not pose as the entry's own severity, time or message.
        entry[f"field_{key}" if key in entry else key] = value
    return entry


_SAID = ("detail", "command")
"""Fields whose text most messages already contain."""
_SEVERITIES = frozenset(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _stack_trace(record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(_PLAIN.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


_PLAIN = logging.Formatter()


def _cleaned(value: Any) -> Any:
    """`value` as plain JSON types, with every secret in it replaced."""
    if isinstance(value, Mapping):
        return {redact(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return redact(str(value))


def _printable(text: str) -> str:
    """The whole text: its length is limited where it comes in (`limits`, `SidecarError`)."""
    return printable(text, limit=None)


def _quoted(text: str) -> str:
    return _printable(text) if text and not re.search(r'[\s"=]', text) else json.dumps(text)


def _unformattable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """A record in place of one whose message or fields can't be written. It says where that one came from."""
    fields = {"origin": f"{record.pathname}:{record.lineno}", "fault": type(error).__name__}
    return logging.makeLogRecord(
        {
            "name": record.name,
            "levelno": record.levelno,
            "levelname": record.levelname,
            "created": record.created,
            "pathname": record.pathname,
            "lineno": record.lineno,
            "funcName": record.funcName,
            "msg": "a log record could not be formatted",
            "fields": fields,
        }
    )
