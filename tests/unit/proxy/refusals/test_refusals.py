"""sidecar.proxy.refusals.refusals: what is kept and logged of refusals and errors"""

from __future__ import annotations

import logging
from email.utils import formatdate

import pytest

from sidecar.config.load import load
from sidecar.observe.metrics import RouteStats
from sidecar.observe.repeats import INTERVAL
from sidecar.proxy.refusals.diagnosis import SAMPLE, Cause
from sidecar.proxy.refusals.refusals import Refusals, Sample
from sidecar.routing.routes import Destination, RouteTable
from tests.support.clock import FakeClock
from tests.support.source import jwt

INVALID = [(b"WWW-Authenticate", b'Bearer error="invalid_token"')]
RUN_APP = "https://billing-abc123def4-uc.a.run.app"


def destination(settings: str = "audience: 'https://other.example'") -> Destination:
    text = f"routes: [{{name: billing, host: billing.internal, upstream: '{RUN_APP}', {settings}}}]"
    found = RouteTable.compile(load(text, environ={}).config).routes[0].fixed()
    assert found is not None
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "sidecar.targets")
    return caplog


def note(refusals: Refusals, clock: FakeClock, sample: Sample, where: Destination) -> RouteStats:
    stats = RouteStats()
    refusals.note(where, sample, b"Bearer " + jwt("https://other.example", clock.wall()).encode(), stats)
    return stats


def test_a_line_says_all_of_it(log: pytest.LogCaptureFixture) -> None:
    """Route, status, reason, sentence and command, as a warning; the token's own claims are looked at."""
    clock = FakeClock()
    refusals = Refusals(clock)
    stats = note(refusals, clock, Sample(401, INVALID), destination())
    last = refusals.last("billing")
    assert last is not None
    assert (last.status, last.at, last.diagnosis.cause) == (401, clock.wall(), Cause.AUDIENCE_REFUSED)
    assert stats.upstream_refusals == {Cause.AUDIENCE_REFUSED: 1}
    (record,) = log.records
    assert record.levelno == logging.WARNING
    said = record.getMessage()
    assert said.startswith(
        "target refused a request of route `billing` with 401 audience_refused: The token is for"
    )
    assert said.endswith("--add-custom-audiences=https://other.example")
    assert record.fields == {  # type: ignore[attr-defined]
        "route": "billing",
        "status": 401,
        "reason": "audience_refused",
        "detail": f"The token is for `https://other.example`, and its host suggests `{RUN_APP}`: set the route's "
        "`audience` to that, or add the one that was sent to the service's custom audiences.",
        "command": "gcloud run services update billing --region=REGION --add-custom-audiences=https://other.example",
        "untold": None,
    }


def test_what_nobody_can_explain_is_information(log: pytest.LogCaptureFixture) -> None:
    """An app's own 403; there is no command then. Its body need not be text."""
    clock = FakeClock()
    sample = Sample(403, [])
    sample.feed(b"\xff\x00")
    note(Refusals(clock), clock, sample, destination())
    (record,) = log.records
    assert record.levelno == logging.INFO
    assert record.fields["command"] is None  # type: ignore[attr-defined]


def test_one_line_a_minute_for_route_and_cause(log: pytest.LogCaptureFixture) -> None:
    """To the second; another cause has its own minute."""
    clock = FakeClock()
    refusals = Refusals(clock)
    for seconds, lines in ((0.0, 1), (INTERVAL - 1, 1), (1.0, 2)):
        clock.advance(seconds)
        note(refusals, clock, Sample(403, []), destination())
        assert len(log.records) == lines
    note(refusals, clock, Sample(401, INVALID), destination())
    assert len(log.records) == 3


def test_the_targets_clock_is_read_in_any_spelling() -> None:
    """Names of headers have no case."""
    clock = FakeClock()
    refusals = Refusals(clock)
    date = formatdate(clock.wall() - 7200, usegmt=True).encode()
    note(refusals, clock, Sample(401, [*INVALID, (b"DATE", date)]), destination())
    last = refusals.last("billing")
    assert last is not None
    assert last.diagnosis.cause is Cause.TOKEN_TOO_OLD


def test_an_access_token_is_not_looked_into() -> None:
    """It is opaque, whatever it looks like."""
    clock = FakeClock()
    refusals = Refusals(clock)
    sample = Sample(401, [])
    sample.feed(b'{"error": {}}')
    config = load(
        "routes: [{name: api, host: a.internal, upstream: 'https://storage.googleapis.com', token: access}]",
        environ={},
    ).config
    found = RouteTable.compile(config).routes[0].fixed()
    assert found is not None
    note(refusals, clock, sample, found)
    last = refusals.last("api")
    assert last is not None
    assert "the token for its audience:" in last.diagnosis.detail


def test_a_sample_is_the_beginning() -> None:
    """However it comes in pieces."""
    sample = Sample(403, [])
    assert sample.body == b""
    for piece in (b"a" * (SAMPLE - 1), b"bc", b"d"):
        sample.feed(piece)
    assert sample.body == b"a" * (SAMPLE - 1) + b"b"


def test_a_refusal_fades_with_the_good_answers_that_follow() -> None:
    """How many there were since is told; the next refusal begins anew."""
    clock = FakeClock()
    refusals, stats = Refusals(clock), RouteStats()
    seen = []
    for good in (0, 2, 0):
        stats.requests["GET", 200] = stats.requests.get(("GET", 200), 0) + 5
        refusals.note(destination(), Sample(403, []), b"Bearer x", stats)
        stats.requests["GET", 204] = stats.requests.get(("GET", 204), 0) + good
        stats.requests["GET", 403] = stats.requests.get(("GET", 403), 0) + 1
        last = refusals.last("billing")
        assert last is not None
        seen.append(last.good_since)
    assert seen == [0, 2, 0]
