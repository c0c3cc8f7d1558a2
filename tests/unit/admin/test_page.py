"""The status page's line in words, its rows and its plots, from a document."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from sidecar.admin.history import Recent, TrafficSample
from sidecar.admin.markup import about, short
from sidecar.admin.page import page, sections
from sidecar.admin.status import RouteLinks, RouteStatus, RouteTraffic, Traffic, document
from sidecar.errors import Reason
from sidecar.proxy.refusals.diagnosis import Cause, Diagnosis
from sidecar.proxy.refusals.outages import ErrorGroup, Refusing
from sidecar.proxy.refusals.refusals import LastRefusal
from sidecar.tokens.entry import LastError, TokenState, TokenStatus
from sidecar.tokens.token import TokenKey
from tests.support.named_source import NamedSource
from tests.unit.admin.test_status import NOTHING, NOW, PROCESS, ROUTE, TOKEN, TRAFFIC, unexpected

READY = PROCESS._replace(ready=True, reasons=[], reload_error=None)
REFUSING = Refusing(Reason.CONNECT_REFUSED, "Nobody listens.", "", NOW - 60.0, NOW - 1.0, 3)
REFUSED = LastRefusal(Diagnosis(Cause.HIDDEN, "It is hidden.", "gcloud run"), 404, NOW - 2.0)
FAILED = LastError(Reason.TOKEN_DENIED, "Not allowed.", NOW, "gcloud iam grant")


def route(name: str, **changes: object) -> RouteStatus:
    well = ROUTE._replace(name=name, audience=f"https://{name}.run.app", refusing=None, refusal=None)
    return well._replace(**changes)  # type: ignore[arg-type]


def token(name: str, state: TokenState = TokenState.FRESH, error: LastError | None = None) -> TokenStatus:
    key = TokenKey(NamedSource("default"), f"https://{name}.run.app")
    return TOKEN._replace(key=key, state=state, last_error=error)


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def shown(
    routes: Sequence[RouteStatus], tokens: Sequence[TokenStatus] = (), traffic: Traffic = NOTHING
) -> dict[str, str]:
    return sections(document(READY, routes, tokens, traffic, now=NOW, note=unexpected), "", unexpected)


@pytest.mark.parametrize(
    ("routes", "tokens", "says"),
    [
        pytest.param([], [], "There are no routes.", id="none"),
        pytest.param([route("a")], [], "The one route is well.", id="one"),
        pytest.param([route("a"), route("b")], [token("a")], "All 2 routes are well.", id="all"),
        pytest.param(
            [route("a"), route("b", refusing=REFUSING), route("c", refusing=REFUSING)],
            [],
            "2 of 3 routes are refusing requests: b , c .",
            id="refusing",
        ),
        pytest.param(
            [route(name, refusing=REFUSING) for name in "abcdefg"],
            [],
            "7 of 7 routes are refusing requests: a , b , c , d , e and 2 more.",
            id="many",
        ),
        pytest.param(
            [route("a"), route("b", refusal=REFUSED), route("c"), route("d")],
            [token("a", TokenState.FAILING, FAILED), token("c", error=FAILED), token("d")],
            "1 of 4 routes has no token: a . 1 of 4 routes is refused by its target: b . "
            "1 of 4 routes has a token that could not be renewed yet: c .",
            id="each-kind",
        ),
        pytest.param(
            [route("a", refusal=REFUSED._replace(good_since=1))],
            [],
            "The one route is well.",
            id="better-since",
        ),
    ],
)
def test_how_things_are_is_said_in_words(
    routes: Sequence[RouteStatus], tokens: Sequence[TokenStatus], says: str
) -> None:
    assert text(shown(routes, tokens)["state"]).startswith(f"{_word(routes, tokens)} {says} Up for 1 h")


def _word(routes: Sequence[RouteStatus], tokens: Sequence[TokenStatus]) -> str:
    if any(it.refusing for it in routes):
        return "ready, but routes refuse requests"
    return (
        "ready, but tokens are missing" if any(it.state == TokenState.FAILING for it in tokens) else "ready"
    )


def test_what_is_in_trouble_comes_first() -> None:
    """What refuses, what has no token, what its target refuses, what could not be renewed; else as configured."""
    routes = [
        route("well"),
        route("late"),
        route("refused", refusal=REFUSED),
        route("bare"),
        route("refusing", refusing=REFUSING),
        route("also-well"),
    ]
    tokens = [token("bare", TokenState.EXPIRED, FAILED), token("late", TokenState.STALE, FAILED)]
    assert shown(routes, tokens)["order"].split() == [
        f"route-{name}" for name in ("refusing", "bare", "refused", "late", "well", "also-well")
    ]


def test_a_row_has_all_that_is_known_of_a_route() -> None:
    """The URL to call, the token's life, the last minute, what is wrong and what fixes it; the rest when it opens."""
    recent, links = Recent(2.5, 1, 3, 0.0021, 0.44, 0.00003), RouteLinks(1, 2, 3, 0, 40)
    traffic = Traffic([], [RouteTraffic("a", 100, 2, 1, 5, 6, recent, 60, links)], [])
    found = shown([route("a", url="http://localhost:8801")], [token("a", error=FAILED)], traffic)
    first, why, details = found["route-a"].split("</tr>")[:3]
    row = text(first)
    for said in ("http://localhost:8801", "expires in 1 min 40 s", "2.5 1 3 2.1 ms 440 ms 30 µs"):
        assert said in row
    assert "Not allowed. $ gcloud iam grant" in text(why)
    for said in (
        "100 requests (60 in HTTP/2), 2 in flight; 1 answered by the sidecar itself, 5 with 4xx and 6 with 5xx",
        "HTTP/1.1: 1 busy, 2 idle; HTTP/2: 3 busy with 40 requests, 0 idle",
    ):
        assert said in text(details)
    assert "Host: billing.internal" in text(details)
    assert "Host: billing.internal" not in row


def test_a_route_that_is_well_shows_its_last_error_softly() -> None:
    errors = [
        ErrorGroup("a", Reason.CONNECT_REFUSED, 3, NOW - 60.0, NOW - 1.0, "Nobody listens.", "start it")
    ]
    found = shown([route("a")], [token("a")], Traffic([], [], errors))["route-a"]
    assert "Last error at 23:13:19 UTC : connect_refused" in text(found)
    assert "notice" not in found


def test_a_route_that_follows_the_host_has_the_tokens_that_are_no_others() -> None:
    """One is in its row, how many more beside it, and each in the details."""
    wild = route("wild", upstream="https://{host}", audience="https://{host}", url=None)
    tokens = [token("a"), *(token(f"x{number}") for number in range(30))]
    found = shown([route("a"), wild], tokens)
    assert "and 29 more" in text(found["route-wild"].split("</tr>")[0])
    assert "https://x1.run.app" in found["route-wild"]
    assert "and 9 more, in status.json" in text(found["route-wild"])
    assert "more" not in text(found["route-a"])


def test_what_met_no_route_has_a_row_of_its_own() -> None:
    errors = [ErrorGroup("", Reason.NO_ROUTE, 3, NOW - 60.0, NOW - 1.0, "No route has host `x`.", "")]
    found = shown([route("a")], [], TRAFFIC._replace(errors=errors))
    assert found["order"].split() == ["route-a", "no-route"]
    assert "No route has host x" in text(found["no-route"])
    assert "no-route" not in shown([route("a")])


def test_a_plot_has_axes_with_units() -> None:
    """Its scale ends at the next 1, 2 or 5; what an hour ago was is at the left, and a gap is a gap."""
    samples = [TrafficSample(NOW, 130.0, 0.0, value, 0.44, None) for value in (0.001, None, 0.002, 0.003)]
    found = shown([], traffic=Traffic(samples, [], []))["traffic"]
    assert text(found).startswith(
        "The last hour Requests a second 200 100 0 1 h ago 30 min now all 130 5xx 0"
    )
    assert "500 ms 250 ms 0" in text(found)
    assert "median –" in text(found)
    (path,) = re.findall(r'class="line " d="([^"]+)"', found.split("<figure")[2])
    assert path.startswith("M357.0 ")
    assert path.count("M") == 2


def test_a_feed_says_no_more_than_has_changed() -> None:
    """A token's life moves once in a minute: a second later its row is the same."""
    life = token("a")._replace(expires_at=NOW + 3000.5, renew_at=NOW + 2800.0, issued_at=NOW - 599.5)
    one, two = (
        sections(document(READY, [route("a")], [life], NOTHING, now=now, note=unexpected), "", unexpected)
        for now in (NOW + 5.0, NOW + 6.0)
    )
    assert one["route-a"] == two["route-a"]
    assert one["traffic"] == two["traffic"]


def test_a_row_is_drawn_for_every_route() -> None:
    """Two hundred of them; the page has each once."""
    routes = [route(f"service-{number}") for number in range(200)]
    tokens = [token(it.name) for it in routes]
    whole = page(document(READY, routes, tokens, NOTHING, now=NOW, note=unexpected), "", unexpected)
    assert whole.count("<tbody") == whole.count('class="life"') == 200
    assert "All 200 routes are well." in whole


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"),
        (0.0000305, "30 µs"),
        (0.00212, "2.12 ms"),
        (0.44, "440 ms"),
        (0.9999, "1 s"),
        (61.0, "61 s"),
    ],
)
def test_a_duration_has_the_unit_that_fits(seconds: float | None, said: str) -> None:
    assert short(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3.4, "3 s"), (59.0, "50 s"), (119.0, "1 min 50 s"), (179.0, "2 min"), (3725.0, "1 h 2 min")],
)
def test_what_runs_is_said_in_steps(seconds: float, said: str) -> None:
    assert about(seconds) == said
