"""The soak itself: a short one, and whether it would notice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.soak.client import OK, Answer, Outcome, Route
from tests.soak.client import judge as judge_answer
from tests.soak.faults import KINDS, METADATA, PROCESS, A, B, Window
from tests.soak.http2 import Messages
from tests.soak.http2 import messages as framed
from tests.soak.http2_operations import judged
from tests.soak.judge import Failure, Quiet, judge_journal, judge_leaks, judge_requests, starved
from tests.soak.pattern import BLOCK, Checker, Pattern
from tests.soak.setting import CONCERNS, SECRET
from tests.soak.upstream import Head, Upstream, Wire

ROOT = Path(__file__).parents[2]
KIND = {kind.name: kind for kinds in KINDS.values() for kind in kinds}
META = Route("meta", "meta.test", "https://meta.soak")


@pytest.mark.slow
@pytest.mark.test_all
def test_a_short_soak() -> None:
    """Ten seconds of mixed load, with every kind of switch thrown: each answer its request's own, nothing left behind."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "0.17", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stdout + found.stderr


# whether it would notice


@pytest.mark.parametrize(
    ("what", "route", "window", "explained"),
    [
        ("502 connect_refused", "meta", Window(KIND[f"{A} killed"], 10, 20), True),
        ("502 connect_refused", "meta", Window(KIND[f"{B} killed"], 10, 20), False),
        ("503 token_denied", "meta", Window(KIND[f"{A} killed"], 10, 20), False),
        ("503 token_denied", "meta", Window(KIND[f"{METADATA} forbidden"], 10, 20), True),
        ("503 token_denied", "key", Window(KIND[f"{METADATA} forbidden"], 10, 20), False),
        ("503 overloaded", "wild", Window(KIND[f"{METADATA} hanging"], 10, 20), True),
        ("503 overloaded", "wild", Window(KIND[f"{B} stall"], 10, 20), False),
        ("503 token_denied", "meta", Window(KIND[f"{METADATA} forbidden"], -60, -50), False),
        ("502 connect_refused", "meta", Window(KIND[f"{A} killed"], 40, 50), False),
        ("cut", "meta", Window(KIND["reload"], 10, 20), False),
        ("hang", "meta", Window(KIND[f"{A} killed"], 10, 20), False),
        ("wrong", "meta", Window(KIND[f"{A} garbage"], 10, 20), False),
        ("500 internal", "meta", Window(KIND[f"{A} garbage"], 10, 20), False),
    ],
)
def test_only_a_fault_that_concerns_it_explains_a_failure(
    what: str, route: str, window: Window, explained: bool
) -> None:
    """Its group, its time and its consequences must fit; nothing explains a hang, a mix-up or a fault of ours."""
    _, findings = judge_requests([Failure("get", route, 15.0, 16.0, what, "")], [window], CONCERNS)
    assert bool(findings) is not explained


def test_switches_on_the_sidecar_itself_explain_nothing() -> None:
    """A reload, a level, a stop of a second or a stalled log reader may not be noticed."""
    assert not any(kind.excuses for kind in KINDS[PROCESS])


def answer(**changed: str) -> Answer:
    return Answer(
        200, {"x-soak-id": "1", "x-soak-route": "meta", "x-soak-aud": META.audience, **changed}, b""
    )


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (answer(), "ok"),
        (answer(**{"x-soak-id": "2"}), "wrong"),
        (answer(**{"x-soak-route": "key"}), "wrong"),
        (answer(**{"x-soak-aud": "https://key.soak"}), "wrong"),
        (answer(**{"x-soak-intact": "0"}), "wrong"),
        (answer()._replace(status=401), "401"),
    ],
)
def test_an_answer_that_is_not_its_requests_own_is_noticed(found: Answer, what: str) -> None:
    """Another identity, another route, another route's token, a body that arrived otherwise."""
    assert judge_answer(found, META, "1", None).what == what


def test_a_body_that_is_not_its_requests_own_is_noticed() -> None:
    """Lost, doubled, swapped or foreign bytes, in any pieces."""
    whole = b"".join(Pattern("a", 3 * BLOCK + 5).blocks())

    def outcome(data: bytes) -> Outcome:
        body = Checker("a", 3 * BLOCK + 5)
        for start in range(0, len(data), 10_000):
            body.feed(data[start : start + 10_000])
        return judge_answer(answer(), META, "1", body)

    assert outcome(whole) == OK
    swapped = whole[BLOCK : 2 * BLOCK] + whole[:BLOCK] + whole[2 * BLOCK :]
    foreign = b"".join(Pattern("b", 3 * BLOCK + 5).blocks())
    for data in (whole[:-1], whole + b"x", whole[1:], swapped, foreign, b""):
        assert outcome(data).what == "wrong"


def quiet(**changed: Any) -> Quiet:
    it = Quiet(
        "end", 90.0, 16.0, 300_000, 8, 7, 1, 8, 6, {"Exchange": 0}, 15_000, [], {"requests_in_flight": 0.0}
    )
    return it._replace(**changed)


@pytest.mark.parametrize(
    "leak",
    [
        {"resident": 103.0},
        {"used": 20.5},
        {"blocks": 320_000},
        {"descriptors": 9},
        {"threads": 8},
        {"tasks": 2},
        {"timers": 9},
        {"cache_timers": 31},
        {"objects": {"Exchange": 1}},
        {"tracked": 17_000},
        {"gauges": {"requests_in_flight": 1.0}},
    ],
    ids=lambda leak: next(iter(leak)),
)
def test_a_leak_is_noticed(leak: dict[str, Any]) -> None:
    """Of memory, descriptors, threads, tasks, timers, objects, or a gauge that does not come back."""
    assert judge_leaks(quiet(), quiet(), quiet()) == []
    assert len(judge_leaks(quiet(), quiet(), quiet(**leak))) == 1


def test_what_is_left_halfway_is_noticed() -> None:
    """It may be gone by the end, and was not when it should."""
    assert len(judge_leaks(quiet(), quiet(descriptors=9), quiet())) == 1


@pytest.mark.parametrize(
    ("lines", "asked_for", "wrong"),
    [
        ("Host: 1.wild.test", "1.wild.test", False),
        ("Host: 1.wild.test", None, False),
        ("Host: localhost:8443", "localhost", False),
        ("Host: 1.wild.test", "2.wild.test", True),
        (f"Host: 1.wild.test\r\n{SECRET}", "1.wild.test", True),
    ],
    ids=["its own", "without TLS", "with a port", "another host's connection", "a listener's secret"],
)
def test_what_came_by_another_way_is_noticed(lines: str, asked_for: str | None, wrong: bool) -> None:
    """A request on a connection that was made for another host, or with what was for the sidecar only."""
    secured = None if asked_for is None else SimpleNamespace(asked_for=asked_for)
    writer: Any = SimpleNamespace(get_extra_info=lambda _: secured)
    reader: Any = None
    head = Head.of_http1(f"GET / HTTP/1.1\r\n{lines}\r\n\r\n".encode())
    assert bool(Upstream.misdirected(Wire(reader, writer), head)) is wrong


def test_an_upstream_that_could_not_run_excuses_what_timed_out_for_it() -> None:
    """For its own routes, at that time, and a timeout only; it is no finding."""
    journal = [f'LATE ["{B}", 10.0, 18.0]']
    assert judge_journal(journal) == []

    def findings(route: str, what: str, began: float) -> int:
        return len(
            judge_requests([Failure("get", route, began, began + 8, what, "")], starved(journal), CONCERNS)[1]
        )

    assert findings("key-tls", "504 response_timeout", 9.0) == 0
    assert findings("key", "504 response_timeout", 9.0) == 1
    assert findings("key-tls", "502 upstream_closed", 9.0) == 1
    assert findings("key-tls", "504 response_timeout", 30.0) == 1


def test_what_the_upstreams_saw_is_judged() -> None:
    """A POST that arrived twice, and whatever must not arrive at all."""
    assert judge_journal(["POST 1", "POST 2"]) == []
    assert len(judge_journal(["POST 1", "POST 1", "WRONG a token that expired"])) == 2


# HTTP/2


def call(status: str, message: str = "", **headers: str) -> Answer:
    return Answer(200, {"grpc-status": status, "grpc-message": message, **headers}, b"")


OWN = {"x-soak-id": "1", "x-soak-route": "meta", "x-soak-aud": META.audience}


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (call("0", **OWN), "ok"),
        (call("0"), "wrong"),
        (call("0", **{**OWN, "x-soak-route": "key"}), "wrong"),
        (call("14", "token_denied: no"), "503 token_denied"),
        (call("4", "deadline_exceeded: late"), "504 deadline_exceeded"),
        (call("14", "upstream_reset: in mid-answer", **OWN), "cut"),
        (call("16", "The target refused it"), "401"),
        (call("13", "who knows"), "wrong"),
    ],
    ids=["well", "nobody's", "another route's", "no token", "late", "cut", "refused", "unknown"],
)
def test_a_call_s_end_says_what_became_of_it(answer: Answer, what: str) -> None:
    """As the status of a plain request does."""
    assert judged(answer, META, "1", None).what == what


def test_messages_come_in_any_pieces() -> None:
    """What they hold, in order."""
    data = framed(b"abc") + framed(b"") + framed(b"d" * 300)
    unframed = Messages()
    assert b"".join(unframed.feed(data[i : i + 7]) for i in range(0, len(data), 7)) == b"abc" + b"d" * 300
