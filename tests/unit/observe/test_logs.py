"""Log lines: their two forms, what never gets into them, and a stream that fails."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from time import thread_time
from typing import Any

import pytest

from sidecar.observe import logs
from sidecar.observe.log_sink import LineLoss, LogSink
from sidecar.observe.logs import AccessLog
from sidecar.observe.trace import Trace

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL2EifQ.c2lnbmF0dXJl-_x"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow/+IBAAK==\n-----END RSA PRIVATE KEY-----"
NAMES = ("", "sidecar", "sidecar.access", "google", "google.auth", "requests", "urllib3")

log = logging.getLogger("sidecar.test")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """See the class."""
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Gives the process its loggers back."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in NAMES}
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    """Where JSON lines go."""
    out = io.StringIO()
    logs.configure("info", "json", out)
    return out


@pytest.fixture
def text() -> io.StringIO:
    """Where text lines go."""
    out = io.StringIO()
    logs.configure("info", "text", out)
    return out


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    """Every line, parsed; NaN and infinity are refused, as Google's agents do."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return [json.loads(line, parse_constant=refuse) for line in stream.getvalue().splitlines()]


# JSON


def test_an_entry_has_the_fields_that_cloud_logging_lifts_out(stream: io.StringIO) -> None:
    """An entry has a severity, an RFC 3339 time in UTC, its message, and its own fields beside them."""
    record = logging.makeLogRecord(
        {"name": "sidecar.x", "levelname": "INFO", "levelno": 20, "created": 1700000000.25, "msg": "hello %s"}
        | {"args": ("you",), "fields": {"route": "billing", "count": 2}}
    )
    logging.getLogger().handle(record)
    assert entries(stream) == [
        {
            "severity": "INFO",
            "time": "2023-11-14T22:13:20.250000Z",
            "message": "hello you",
            "logger": "sidecar.x",
            "route": "billing",
            "count": 2,
        }
    ]


@pytest.mark.parametrize(
    ("level", "severity", "has_location"),
    [
        pytest.param(logging.INFO, "INFO", False, id="info"),
        pytest.param(logging.WARNING, "WARNING", True, id="warning"),
        pytest.param(logging.ERROR, "ERROR", True, id="error"),
        pytest.param(logging.CRITICAL, "CRITICAL", True, id="critical"),
        pytest.param(25, "DEFAULT", False, id="a-level-google-does-not-know"),
    ],
)
def test_severity_follows_the_level(
    stream: io.StringIO, level: int, severity: str, has_location: bool
) -> None:
    """Levels become Google's severities; from warnings up, the source location is told as well."""
    log.log(level, "x")
    (entry,) = entries(stream)
    assert entry["severity"] == severity
    location = entry.get("logging.googleapis.com/sourceLocation")
    assert (location is not None) == has_location
    if location is not None:
        assert location["file"] == __file__
        assert int(location["line"]) > 0


def test_time_is_when_it_happened(stream: io.StringIO) -> None:
    """The time of an entry is the record's, in a form that parses as RFC 3339."""
    log.info("x")
    (entry,) = entries(stream)
    assert datetime.fromisoformat(entry["time"]).tzinfo is not None


def test_a_field_cannot_pose_as_the_entry(stream: io.StringIO) -> None:
    """Fields called severity, time or message are renamed, never overwrite."""
    log.info("real", extra={"fields": {"severity": "CRITICAL", "message": "forged"}})
    (entry,) = entries(stream)
    assert (entry["severity"], entry["message"]) == ("INFO", "real")
    assert (entry["field_severity"], entry["field_message"]) == ("CRITICAL", "forged")


def test_a_line_break_stays_inside_its_line(stream: io.StringIO) -> None:
    """One record is one line, whatever is in it."""
    log.info("a\nb", extra={"fields": {"host": 'x\r\n{"severity":"INFO"}\u2028'}})
    assert len(stream.getvalue().splitlines()) == 1
    assert entries(stream)[0]["message"] == "a\nb"


def test_a_traceback_is_a_field(stream: io.StringIO) -> None:
    """An exception goes to `stack_trace`, its cause included."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError:
        log.exception("failed")
    (entry,) = entries(stream)
    assert entry["message"] == "failed"
    assert "KeyError: 'inner'" in entry["stack_trace"]
    assert entry["stack_trace"].endswith("ValueError: outer")


def test_a_stack_that_was_asked_for_is_a_field(stream: io.StringIO) -> None:
    """`stack_info` goes where a traceback would."""
    log.info("x", stack_info=True)
    assert entries(stream)[0]["stack_trace"].startswith("Stack (most recent call last):")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(float("inf"), "inf", id="infinity"),
        pytest.param({"k": [float("nan")]}, {"k": ["nan"]}, id="nan-inside"),
        pytest.param(b"\xff", "b'\\xff'", id="bytes"),
        pytest.param({1: {(2, 3): 4}}, {"1": {"(2, 3)": 4}}, id="keys-that-are-no-strings"),
        pytest.param("\udcff", "\udcff", id="surrogate"),
    ],
)
def test_any_field_can_be_written(stream: io.StringIO, value: object, shown: object) -> None:
    """What JSON has no form for is written as text."""
    log.info("x", extra={"fields": {"value": value}})
    assert entries(stream)[0]["value"] == shown


# text


def test_text_is_one_readable_line(text: io.StringIO) -> None:
    """Text is time, level, message and fields; values with blanks are quoted, None is left out."""
    log.warning("no %s", "luck", extra={"fields": {"route": "billing", "why": 'a "b"', "none": None}})
    clock, rest = text.getvalue().split(" ", 1)
    assert len(clock) == len("12:34:56.789")
    assert rest == 'WARNING no luck route=billing why="a \\"b\\""\n'


def test_text_cannot_drive_the_terminal(text: io.StringIO) -> None:
    """Control characters are shown, not sent: neither escape sequences nor forged lines."""
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        log.exception("a\nb\x1b[31m", extra={"fields": {"host\x07": "c\x1b]0;d\x07\u202e"}})
    assert text.getvalue().replace("\n", "").isprintable()
    assert "a\\nb\\x1b[31m" in text.getvalue().splitlines()[0]


def test_text_shows_a_traceback_on_lines_of_its_own(text: io.StringIO) -> None:
    """A traceback follows its line, readable."""
    try:
        raise ValueError("oh")
    except ValueError:
        log.exception("failed")
    first, *trace = text.getvalue().splitlines()
    assert first.endswith("ERROR   failed")
    assert (trace[0], trace[-1]) == ("Traceback (most recent call last):", "ValueError: oh")


@pytest.mark.parametrize(
    ("make", "log_format", "no_color", "start"),
    [
        pytest.param(io.StringIO, "auto", None, "{", id="auto-elsewhere"),
        pytest.param(Terminal, "auto", None, "\x1b[33mWARNING\x1b[0m", id="auto-on-a-terminal"),
        pytest.param(Terminal, "auto", "1", "WARNING x", id="no-color"),
        pytest.param(Terminal, "auto", "", "\x1b[33mWARNING\x1b[0m", id="no-color-empty-is-unset"),
        pytest.param(io.StringIO, "text", None, "WARNING x", id="text-elsewhere"),
        pytest.param(Terminal, "json", None, "{", id="json-on-a-terminal"),
    ],
)
def test_the_form_follows_the_stream(
    monkeypatch: pytest.MonkeyPatch,
    make: type[io.StringIO],
    log_format: logs.Format,
    no_color: str | None,
    start: str,
) -> None:
    """`auto` is text on a terminal and JSON elsewhere; colour needs a terminal and no NO_COLOR."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    out = make()
    logs.configure("info", log_format, out)
    log.warning("x")
    line = out.getvalue()
    assert (line if line.startswith("{") else line.split(" ", 1)[1]).startswith(start)


# levels


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        pytest.param("debug", ["debug", "info", "warning", "error"], id="debug"),
        pytest.param("info", ["info", "warning", "error"], id="info"),
        pytest.param("warning", ["warning", "error"], id="warning"),
        pytest.param("error", ["error"], id="error"),
    ],
)
def test_the_level_is_the_least_that_is_written(level: logs.Level, shown: list[str]) -> None:
    """Records of the sidecar below the level are not written."""
    out = io.StringIO()
    logs.configure(level, "json", out)
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)(name)
    assert [entry["message"] for entry in entries(out)] == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param("google", ["INFO", "WARNING"], id="google"),
        pytest.param("google.auth.transport.requests", ["INFO", "WARNING"], id="below-google"),
        pytest.param("requests.sessions", ["WARNING"], id="requests"),
        pytest.param("urllib3.connectionpool", ["WARNING"], id="urllib3"),
        pytest.param("asyncio", ["INFO", "WARNING"], id="asyncio"),
    ],
)
def test_a_library_never_logs_at_debug(name: str, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--log-level debug` is for the sidecar only: google-auth would log Authorization headers."""
    # google-auth switches this off when it is imported, which another test may have caused.
    monkeypatch.setattr(logging.getLogger("google"), "propagate", True)
    out = io.StringIO()
    logs.configure("debug", "json", out)
    library = logging.getLogger(name)
    library.debug("secret")
    library.info("x")
    library.warning("x")
    assert [entry["severity"] for entry in entries(out)] == shown
    assert not library.isEnabledFor(logging.DEBUG)  # so that it doesn't go to the trouble either


def test_a_library_that_sets_its_own_level_is_not_heard_either() -> None:
    """A library's logger whose own level is DEBUG still gets nothing below INFO through."""
    out = io.StringIO()
    logs.configure("debug", "json", out)
    logging.getLogger("google.auth").setLevel(logging.DEBUG)
    logging.getLogger("google.auth").debug("authorization: ...")
    assert out.getvalue() == ""


def test_configuring_again_replaces_the_handler() -> None:
    """A second `configure` writes each record once, to the new stream."""
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "json", first)
    logs.configure("error", "json", second)
    log.error("x")
    log.info("y")
    assert first.getvalue() == ""
    assert [entry["message"] for entry in entries(second)] == ["x"]


# redaction

SECRETS = [
    pytest.param(f"token {JWT} end", "token [redacted] end", id="jwt"),
    pytest.param(f"({JWT[:70]})", "([redacted])", id="jwt-cut-short"),
    pytest.param(f"x={JWT}&y=1", "x=[redacted]&y=1", id="jwt-in-a-query"),
    pytest.param(f"Authorization: Bearer {JWT}", "Authorization: [redacted]", id="bearer-jwt"),
    pytest.param("authorization: bearer s3cr3t, x", "authorization: [redacted], x", id="bearer-opaque"),
    pytest.param("{'Authorization': 'Bearer abc+/=='}", "{'Authorization': '[redacted]'}", id="in-a-repr"),
    pytest.param("b'BEARER\tabc'", "b'[redacted]'", id="in-bytes"),
    pytest.param("Bearer%20abc", "[redacted]", id="percent-encoded"),
    pytest.param("Bearer abc=", "[redacted]", id="padded"),
    pytest.param("got ya29.a0Af_-x.y", "got [redacted]", id="access-token"),
    pytest.param(f"key: {PEM}\nmore", "key: [redacted]\nmore", id="private-key"),
    pytest.param(repr({"private_key": PEM}), "{'private_key': '[redacted]'}", id="private-key-in-a-repr"),
    pytest.param(f"key: {PEM[:50]}", "key: [redacted]", id="private-key-cut-short"),
    pytest.param("-----BEGIN PRIVATE KEY-----\nx", "[redacted]", id="private-key-pkcs8"),
]
BEHIND_WHAT_IS_NONE = [
    pytest.param(f"eyJeyJ {JWT}", "eyJeyJ [redacted]", id="jwt"),
    pytest.param("eyJ-bearer abc", "eyJ-[redacted]", id="bearer-at-the-end-of-what-is-none"),
    pytest.param("eyJ-ya29..x", "eyJ-[redacted]", id="access-token-at-the-end-of-what-is-none"),
    pytest.param("eyJ-----BEGIN PRIVATE KEY-----\nx", "eyJ[redacted]", id="private-key"),
]
PLAIN = [
    pytest.param('WWW-Authenticate: Bearer realm="x", error="invalid_token"', id="challenge"),
    pytest.param("keyjar.example.com is no token", id="host-that-looks-alike"),
    pytest.param("-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----", id="certificate"),
    pytest.param("the upstream refused the token", id="prose"),
    pytest.param("/eyJabc/eyJ-bearer/eyJ_ya29/eyJ", id="what-begins-like-a-jwt"),
]


@pytest.mark.parametrize(("before", "after"), SECRETS + BEHIND_WHAT_IS_NONE)
def test_a_secret_is_replaced(before: str, after: str) -> None:
    """Whatever looks like a token or a private key is replaced, and nothing around it."""
    assert logs.redact(before) == after


@pytest.mark.parametrize("line", PLAIN)
def test_what_is_no_secret_stays(line: str) -> None:
    """Challenges, certificates and names that look alike are not touched."""
    assert logs.redact(line) == line


@pytest.mark.parametrize("piece", ["eyJ", "eyJ-", "eyJbearer", "bearer+", "-----BEGIN A "])
def test_the_longest_line_takes_no_longer_for_its_length(piece: str) -> None:
    """A path is in the log as the app's own users sent it: its bytes cost time, and not their square."""

    def seconds(text: str) -> float:
        began = thread_time()
        logs.redact(text)
        return thread_time() - began

    whole = "PRIVATE KEY " + piece * (64_000 // len(piece))
    parts = [whole[start : start + 1000] for start in range(0, len(whole), 1000)]
    assert seconds(whole) < 20 * sum(map(seconds, parts)) + 0.05


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize(("before", "after"), SECRETS)
def test_no_part_of_a_line_holds_a_secret(log_format: logs.Format, before: str, after: str) -> None:
    """Message, arguments, fields, keys, tracebacks and odd objects all pass the net."""
    out = io.StringIO()
    logs.configure("debug", log_format, out)

    class Odd:
        def __repr__(self) -> str:
            return before

    fields = {"a": before, "b": [{"c": before}], "d": Odd(), "e": {before: 1}, "f": float("nan")}
    try:
        raise ValueError(before) from KeyError(before)
    except ValueError:
        log.exception("%s", before, extra={"fields": fields})
    line = out.getvalue()
    for secret in ("eyJ", "s3cr3t", "abc", "ya29", "MII", "PRIVATE KEY"):
        assert secret not in line.replace(__file__, "")
    assert logs.REDACTED in line
    if log_format == "json":
        assert entries(out)[0]["a"] == after


# failing streams


def _handler() -> logs.LogHandler:
    (handler,) = (h for h in logging.getLogger().handlers if isinstance(h, logs.LogHandler))
    return handler


def test_a_record_that_cannot_be_formatted_is_told() -> None:
    """A wrong format string or a `__str__` that raises costs the message, not the line or the caller."""
    out = io.StringIO()
    logs.configure("info", "json", out)

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError(JWT)

    # Straight to the handler: pytest's own raises on such records.
    handler = _handler()
    handler.handle(log.makeRecord("x", logging.INFO, __file__, 7, "%d", ("x",), None))
    bad = {"fields": {"bad": Broken()}}
    handler.handle(log.makeRecord("x", logging.INFO, __file__, 8, "x", (), None, extra=bad))
    first, second = entries(out)
    assert first["message"] == second["message"] == "a log record could not be formatted"
    assert (first["fault"], second["fault"]) == ("TypeError", "RuntimeError")
    assert (first["origin"], second["origin"]) == (f"{__file__}:7", f"{__file__}:8")


def test_a_reader_that_is_gone_costs_lines_only() -> None:
    """Writing to a pipe without a reader does not raise; the lost lines are counted."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        logs.configure("info", "json", stream)
        log.info("x")
        log.info("y")
    log.info("closed by now")
    assert sum(_handler().lost.values()) == 3


def test_a_closed_stream_costs_lines_only() -> None:
    """Writing to a stream that was closed does not raise."""
    out = io.StringIO()
    logs.configure("info", "json", out)
    out.close()
    log.info("x")
    assert sum(_handler().lost.values()) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_changes_neither_the_work_nor_the_exit_code() -> None:
    """A process whose stdout takes nothing runs to its end, is silent about it and exits with 0."""
    code = (
        "import logging\n"
        "from sidecar.observe import logs\n"
        "logs.configure('info')\n"
        "for _ in range(1000): logging.getLogger('sidecar').info('x' * 100)\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_lines_behind_a_torn_one_are_lost_for_their_own_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newline that would end the torn one is none of them."""
    left = [3]

    def write(_: int, __: object) -> int:
        if left:
            return left.pop()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    sink = LogSink(1, tell=lambda _: b"lost\n")
    for lines in ([b"torn\n"], [b"a\n", b"b\n"], [b"c\n"]):
        sink._send(lines)
    assert sink.lost == {**dict.fromkeys(LineLoss, 0), LineLoss.NO_SPACE: 4}


def test_a_line_that_the_encoding_cannot_hold_is_escaped() -> None:
    """A terminal without UTF-8 gets escapes, not silence."""
    reader, writer = os.pipe()
    with open(reader) as read, open(writer, "w", encoding="ascii") as stream:
        logs.configure("info", "text", stream)
        log.info("größe")
        assert read.readline().endswith("gr\\xf6\\xdfe\n")


# access log


@pytest.mark.parametrize(
    ("mode", "status", "own_answer", "wanted"),
    [
        pytest.param("off", 500, True, False, id="off"),
        pytest.param("all", 200, False, True, id="all"),
        pytest.param("errors", 200, False, False, id="errors-good"),
        pytest.param("errors", 404, False, False, id="errors-4xx-of-the-upstream"),
        pytest.param("errors", 404, True, True, id="errors-4xx-of-our-own"),
        pytest.param("errors", 499, True, False, id="errors-app-left"),
        pytest.param("errors", 500, False, True, id="errors-5xx-of-the-upstream"),
        pytest.param("errors", 503, True, True, id="errors-5xx-of-our-own"),
    ],
)
def test_the_mode_says_what_is_wanted(
    mode: logs.AccessMode, status: int, own_answer: bool, wanted: bool
) -> None:
    """`errors` is every 5xx and the sidecar's own 4xx, `all` everything, `off` nothing."""
    assert AccessLog(mode).wants(status, own_answer) is wanted


def _finish(access: AccessLog, **changes: Any) -> None:
    request: dict[str, Any] = {
        "route": "billing",
        "method": "GET",
        "target": "/v1/x?key=s3cr3t#y",
        "status": 200,
        "sent": 3,
        "received": 1234,
        "duration": 0.0123,
        "own_duration": 0.00002,
    }
    access.request(**(request | changes))


def test_an_access_entry_is_an_http_request(stream: io.StringIO) -> None:
    """A finished request is an entry with Google's httpRequest, the route and the sidecar's own share."""
    _finish(AccessLog("all"), upstream="https://billing.run.app")
    (entry,) = entries(stream)
    assert entry["httpRequest"] == {
        "requestMethod": "GET",
        "requestUrl": "/v1/x",
        "status": 200,
        "requestSize": "3",
        "responseSize": "1234",
        "latency": "0.012300s",
    }
    assert (entry["severity"], entry["message"]) == ("INFO", "request GET /v1/x by route `billing`: 200")
    assert (entry["route"], entry["own_duration"]) == ("billing", "0.000020s")
    assert entry["upstream"] == "https://billing.run.app"
    assert "reason" not in entry


def test_a_query_is_logged_only_when_asked_for(stream: io.StringIO) -> None:
    """The query is cut off unless `log_query` is on, and even then a token in it is replaced."""
    _finish(AccessLog("all"))
    _finish(AccessLog("all", log_query=True))
    _finish(AccessLog("all", log_query=True), target=f"/x?t={JWT}")
    urls = [entry["httpRequest"]["requestUrl"] for entry in entries(stream)]
    assert urls == ["/v1/x", "/v1/x?key=s3cr3t#y", "/x?t=[redacted]"]


def test_an_answer_of_the_sidecar_names_its_reason(stream: io.StringIO) -> None:
    """A refused request is a warning with its reason and the sentence that goes with it."""
    _finish(AccessLog("errors"), status=503, reason="token_timeout", detail="Why.", own_duration=None)
    (entry,) = entries(stream)
    assert (entry["severity"], entry["reason"]) == ("WARNING", "token_timeout")
    assert entry["detail"] == "Why."
    assert "own_duration" not in entry
    assert "logging.googleapis.com/sourceLocation" not in entry


def test_the_access_log_has_a_switch_of_its_own() -> None:
    """`access_log: all` is written at `log_level: error` too."""
    out = io.StringIO()
    logs.configure("error", "text", out)
    _finish(AccessLog("all"))
    assert out.getvalue().endswith(
        "INFO    request GET /v1/x by route `billing`: 200 0.012300s route=billing own_duration=0.000020s\n"
    )


@pytest.mark.parametrize(("sample", "logged"), [(0.0, 0), (0.01, 10), (0.25, 250), (1.0, 1000)])
def test_a_share_of_good_requests_is_logged(sample: float, logged: int) -> None:
    """Evenly; every error is logged all the same."""
    log = AccessLog("all", sample=sample)
    assert sum(log.wants(200, False) for _ in range(1000)) == logged
    assert all(log.wants(503, False) and log.wants(404, True) for _ in range(100))


@pytest.mark.parametrize(("project", "name"), [("", "a" * 32), ("p", f"projects/p/traces/{'a' * 32}")])
def test_a_requests_trace_is_named_as_cloud_logging_wants_it(
    project: str, name: str, stream: io.StringIO
) -> None:
    """With its span and whether it is sampled."""
    _finish(AccessLog("all", project=project), trace=Trace("a" * 32, "b" * 16, True))
    (entry,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert entry["logging.googleapis.com/trace"] == name
    assert entry["logging.googleapis.com/spanId"] == "b" * 16
    assert entry["logging.googleapis.com/trace_sampled"] is True


REFUSED = {"status": 503, "reason": "token_denied", "detail": "Not allowed."}


def test_a_refusal_says_all_of_it_in_its_message(stream: io.StringIO) -> None:
    """What was asked for, of which route, the reason and the sentence; and how many like it had no line."""
    _finish(AccessLog("errors"), **REFUSED, untold=41)
    _finish(AccessLog("errors"), **REFUSED | {"route": "", "method": "", "target": ""})
    many, one = entries(stream)
    assert many["message"] == (
        "request GET /v1/x by route `billing`: 503 token_denied: Not allowed. (41 more like it since the last line)"
    )
    assert (many["untold"], "untold" in one) == (41, False)
    assert one["message"] == "request: 503 token_denied: Not allowed."


def test_a_line_of_text_says_nothing_twice() -> None:
    """What the message holds of detail and command is no field of it."""
    out = io.StringIO()
    logs.configure("info", "text", out)
    _finish(AccessLog("errors"), **REFUSED)
    assert out.getvalue().count("Not allowed.") == 1


@pytest.mark.parametrize(
    ("log", "collapses"),
    [(AccessLog("errors"), True), (AccessLog("all", sample=0.1), True), (AccessLog("all"), False)],
    ids=["errors", "sample", "all"],
)
def test_only_a_log_of_everything_has_a_line_for_each_refusal(log: AccessLog, collapses: bool) -> None:
    """The sample is of good requests."""
    assert log.collapses == collapses


def test_an_app_that_left_is_no_warning(stream: io.StringIO) -> None:
    """Its request is logged where all are."""
    _finish(AccessLog("all"), status=499, reason="client_gone", detail="It left.")
    assert entries(stream)[0]["severity"] == "INFO"
