"""sidecar.proxy.exchange.exchange: what both sides learn of a request, when it is sent again, and that what it holds
is given back once; between real connections it is in tests/wire"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from sidecar.errors import Reason, SidecarError
from sidecar.proxy.exchange import sweep
from sidecar.proxy.exchange.deadlines import ANSWERING, CONNECT, DONE, QUEUED, SENT, TOKEN
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.faults import internal
from sidecar.proxy.messages import IDEMPOTENT, NO_BODY, UNKNOWN
from sidecar.proxy.ports import Loss
from tests.support.exchanges import OK, WITH_TOKEN, Exchanges
from tests.support.sides import FAULT, FakeApp, FakeLink

ERROR = SidecarError(Reason.SEND_TIMEOUT, "Too slow.")
INVALID_TOKEN = {b"www-authenticate": b'Bearer error="Invalid_Token"'}


@pytest.fixture
def making() -> Exchanges:
    return Exchanges()


# on its way to the target


def test_on_an_idle_connection_it_is_sent_at_once(making: Exchanges) -> None:
    """What is written is flushed with what else the app sent: by its connection."""
    making.keeper.ready = [link := FakeLink()]
    exchange = making.new(plan=WITH_TOKEN)
    assert (exchange.state, making.stats.in_flight, making.keeper.users) == (QUEUED, 1, 1)
    exchange.start()
    assert exchange.state is SENT
    assert link.told == [("head", b"GET", b"/x", b"a.example.com", b"Bearer first")]
    assert (making.keeper.asked, link.carried, making.app.told) == ([False], [exchange], [])


@pytest.mark.parametrize(
    ("keys", "host"),
    [
        pytest.param("upstream_host: keep", b"a.example.com", id="the-app-s-own"),
        pytest.param("upstream_host: b.example.com", b"b.example.com", id="the-route-s"),
    ],
)
def test_the_host_that_the_target_is_told(keys: str, host: bytes) -> None:
    """As the destination has it."""
    _, link = Exchanges(keys).sent()
    assert link.told[0][3] == host


def test_a_token_is_asked_for_by_the_clock_that_the_request_came_with(making: Exchanges) -> None:
    """At the start, and again when there is a connection."""
    exchange = making.new(plan=WITH_TOKEN)
    came = exchange.request.began_mono
    making.clock.advance(1.0)
    exchange.start()
    assert exchange.state is CONNECT
    link = making.connect(exchange)
    assert making.tokens.asked == [(making.keeper.token_key, came)] * 2
    assert link.told == [("head", b"GET", b"/x", b"a.example.com", b"Bearer first"), ("flush",)]


def test_a_request_whose_token_is_the_app_s_has_none(making: Exchanges) -> None:
    """Nothing is asked of the store, and nothing the target says is put down to a token."""
    exchange, link = making.sent()
    assert (exchange.state, exchange.bearer, making.tokens.asked) == (SENT, b"", [])
    assert link.told[0][-1] == b""
    exchange.answer(403, b"Forbidden", [], {}, NO_BODY)
    assert exchange.sample is None


def test_a_token_is_waited_for(making: Exchanges) -> None:
    """Then a connection, or the error that there is instead; what has ended is told nothing."""
    making.tokens.value = None
    served, failed, gone = (making.waiting(plan=WITH_TOKEN) for _ in range(3))
    assert (served.state, making.keeper.asked, len(making.tokens.waiting)) == (TOKEN, [], 3)
    first, second, third = making.tokens.waiting
    gone.app_gone(ERROR)
    assert making.tokens.waiting == [first, second]
    third(None)
    making.keeper.ready = [link := FakeLink()]
    making.tokens.value = b"Bearer late"
    first(None)
    second(ERROR)
    assert (served.state, link.told[0][-1], link.told[-1]) == (SENT, b"Bearer late", ("flush",))
    assert (failed.state, making.refusal) == (DONE, ("send_timeout", "Too slow."))


def test_a_store_that_has_no_room_says_so_at_once(making: Exchanges) -> None:
    """As with an error later."""
    making.tokens.value = None
    making.tokens.error = SidecarError(Reason.TOKEN_TIMEOUT, "Full.")
    exchange = making.waiting(plan=WITH_TOKEN)
    assert (exchange.state, making.refusal) == (DONE, ("token_timeout", "Full."))


def test_a_token_that_ran_out_while_a_connection_was_waited_for(making: Exchanges) -> None:
    """The connection is another's; nothing was written to it."""
    exchange = making.waiting(plan=WITH_TOKEN)
    making.tokens.value = None
    link = making.connect(exchange)
    assert (exchange.state, link.told, making.keeper.told) == (TOKEN, [], [("release", link)])
    making.keeper.ready = [FakeLink()]
    making.tokens.settle(b"Bearer next")
    assert (exchange.state, exchange.bearer) == (SENT, b"Bearer next")


def test_no_connection_is_an_answer(making: Exchanges) -> None:
    """With the error as it is."""
    exchange = making.waiting()
    exchange.not_connected(ERROR)
    assert making.app.told == [
        ("fail", exchange.request, ERROR, "any"),
        ("done", exchange, making.clock.mono()),
    ]
    assert (making.stats.refused, exchange.error) == ({"send_timeout": 1}, ERROR)


# its body


@pytest.mark.parametrize("body", [10, UNKNOWN], ids=["length", "unknown-length"])
def test_a_body_goes_on_as_it_comes_and_is_held(body: int) -> None:
    """As far as `limits.buffer`, in bytes of the body and 64 for each small piece behind the first; beyond that nothing
    is held."""
    making = Exchanges(buffer=10 + 64)
    exchange, link = making.sent(b"PUT", body=body)
    exchange.request_body(b"abcd")
    exchange.request_body(b"efghij")
    exchange.flush_request()
    assert link.told[2:] == [("body", b"abcd"), ("body", b"efghij"), ("flush",)]
    assert exchange.held is not None
    assert exchange.held.pieces == [b"abcd", b"efghij"]
    assert (exchange.sent, exchange.progress, exchange.request_done) == (10, 2, False)
    exchange.request_body(b"k")
    assert exchange.held is None
    exchange.request_end([])
    assert link.told[5:] == [("body", b"k"), ("end", [])]
    assert (exchange.sent, exchange.progress, exchange.request_done) == (11, 4, True)


def test_a_body_that_has_no_connection_yet_is_held_back(making: Exchanges) -> None:
    """At `limits.buffer` the app is read no further, until there is one: it gets all of it, in one flush."""
    exchange = making.waiting(b"POST", body=UNKNOWN)
    exchange.request_body(b"abcdefghi")
    assert making.app.told == []
    exchange.request_body(b"j")
    assert making.app.told == [("pause",)]
    exchange.flush_request()
    link = making.connect(exchange)
    assert making.app.told == [("pause",), ("resume",)]
    assert link.told[1:] == [("body", b"abcdefghi"), ("body", b"j"), ("flush",)]


def test_a_body_of_just_the_buffer_is_held(making: Exchanges) -> None:
    """Before there is a connection and after; what ends it takes nothing of it."""
    exchange = making.waiting(b"PUT", body=UNKNOWN)
    exchange.request_body(b"abcdefghij")
    making.connect(exchange)
    assert exchange.held is not None
    exchange.request_end([])
    assert exchange.held.pieces == [b"abcdefghij"]
    larger = making.waiting(b"PUT", body=11)
    larger.request_body(b"abcdefghijk")
    link = making.connect(larger)
    assert (larger.held, link.body_got) == (None, b"abcdefghijk")


def test_a_body_that_ended_before_there_is_a_connection_is_whole(making: Exchanges) -> None:
    """With the trailers that may pass."""
    exchange = making.waiting(b"PUT", body=UNKNOWN, plan=WITH_TOKEN)
    exchange.request_body(b"abc")
    exchange.request_end([(b"X-Sum", b"1 "), (b"Authorization", b"mine"), (b"Host", b"x")])
    link = making.connect(exchange)
    assert link.told[1:] == [("body", b"abc"), ("end", [(b"X-Sum", b"1")]), ("flush",)]


def test_a_target_that_takes_no_more_stops_the_app(making: Exchanges) -> None:
    """And the reverse."""
    exchange, link = making.sent(b"POST", body=UNKNOWN)
    making.app.told.clear()
    exchange.upstream_full()
    exchange.upstream_writable()
    assert making.app.told == [("pause",), ("resume",)]
    link.told.clear()
    exchange.app_writable(False)
    exchange.app_writable(True)
    assert link.told == [("pause",), ("resume",)]


def test_what_has_no_connection_pauses_nothing(making: Exchanges) -> None:
    """And an app that is full already stops the answer before it begins."""
    exchange = making.waiting()
    exchange.app_writable(False)
    making.app.is_full = True
    assert making.connect(exchange).told[0] == ("pause",)


# its answer


def test_an_answer_is_passed_on_as_it_comes(making: Exchanges) -> None:
    """Interim ones before it; without what another sidecar's Proxy-Status would say in this one's name."""
    exchange, link = making.sent()
    exchange.interim(103, b"Early Hints", [(b"Link", b"</a>")])
    fields = [(b"Trailer", b"X-Sum")]
    assert exchange.answer(200, b"Fine", fields, {}, UNKNOWN)
    exchange.answer_body(b"ab")
    exchange.flush_answer()
    exchange.answer_body(b"cd")
    assert exchange.answer_end([(b"X-Sum", b"1"), (b"Content-Length", b"4")])
    assert making.app.told == [
        ("interim", 103, b"Early Hints", [(b"Link", b"</a>")]),
        ("head", 200, b"Fine", fields, UNKNOWN),
        ("body", b"ab"),
        ("flush",),
        ("body", b"cd"),
        ("end", [(b"X-Sum", b"1")]),
        ("done", exchange, making.clock.mono()),
    ]
    assert (exchange.state, exchange.error, exchange.side, exchange.held) == (DONE, None, None, None)
    assert link.told == [("head", b"GET", b"/x", b"a.example.com", b""), ("flush",)]


def test_an_answer_before_the_request_is_whole_says_so(making: Exchanges) -> None:
    """Its connection can't serve again."""
    exchange, _ = making.sent(b"POST", body=5)
    exchange.answer(*OK)
    assert exchange.answer_end([]) is False


def test_whatever_moves_is_progress(making: Exchanges) -> None:
    """By one each: events of both directions never cancel each other out, or going slowly would be a stall."""
    exchange, link = making.sent(body=UNKNOWN)
    for does, seen in (
        (lambda: exchange.request_body(b"abc"), 1),
        (lambda: exchange.interim(103, b"Early Hints", []), 2),
        (lambda: exchange.answer(*OK), 3),
        (lambda: exchange.answer_body(b"ab"), 4),
        (lambda: exchange.answer_body(b"cd"), 5),
        (lambda: exchange.from_app(b"x"), 6),
        (lambda: exchange.from_app(b"yz"), 7),
        (lambda: exchange.from_upstream(b"x"), 8),
        (lambda: exchange.from_upstream(b"yz"), 9),
        (lambda: exchange.request_end([]), 10),
    ):
        does()
        assert sweep.position(exchange) == (seen, 0, 0)
    assert (exchange.sent, exchange.received) == (6, 7)
    link.waiting, making.app.waiting = 3, 4
    assert sweep.position(exchange) == (10, 3, 4)


def test_a_content_location_is_mapped_as_a_location_is(making: Exchanges) -> None:
    """By itself, where no prefix was stripped."""
    exchange, _ = making.sent()
    where = b"https://a.example.com/x"
    exchange.answer(200, b"OK", [(b"Content-Location", where)], {b"content-location": where}, NO_BODY)
    assert making.app.told == [
        ("head", 200, b"OK", [(b"Content-Location", b"http://a.example.com/x")], NO_BODY)
    ]


# sent again


SENT_AGAIN = [
    *(
        pytest.param(loss, m, m in IDEMPOTENT, id=f"{loss.value}-{m.decode()}")
        for loss in (Loss.STALE,)
        for m in (*sorted(IDEMPOTENT), b"POST", b"PATCH")
    ),
    *(
        pytest.param(Loss.UNTOUCHED, m, True, id=f"untouched-{m.decode()}")
        for m in (b"GET", b"POST", b"PATCH")
    ),
    *(pytest.param(Loss.UNKNOWN, m, False, id=f"unknown-{m.decode()}") for m in (b"GET", b"POST")),
]


@pytest.mark.parametrize(("loss", "method", "again"), SENT_AGAIN)
def test_what_is_lost_is_sent_again_where_that_can_do_no_harm(loss: Loss, method: bytes, again: bool) -> None:
    """Once, on a connection that served nobody yet, with its whole body and its trailers."""
    making = Exchanges(buffer=100)
    exchange, _ = making.sent(method, body=UNKNOWN)
    exchange.request_body(b"abc")
    exchange.request_body(b"de")
    exchange.request_end([(b"X-Sum", b"1")])
    exchange.lost(loss, None)
    if not again:
        assert (exchange.state, making.refusal[0]) == (DONE, "upstream_closed")
        assert making.stats.retries == 0
        return
    assert (exchange.state, exchange.had_its_turn(), making.keeper.asked) == (CONNECT, True, [False, True])
    second = making.connect(exchange)
    assert second.told[1:] == [("body", b"abc"), ("body", b"de"), ("end", [(b"X-Sum", b"1")]), ("flush",)]
    assert (exchange.state, exchange.sent, making.stats.retries) == (SENT, 5, 1)
    exchange.lost(loss, None)
    assert (exchange.state, making.stats.retries, making.refusal[0]) == (DONE, 1, "upstream_closed")


def test_half_a_body_is_sent_again_and_the_rest_as_it_comes(making: Exchanges) -> None:
    """The app does not notice."""
    exchange, _ = making.sent(b"PUT", body=UNKNOWN)
    exchange.request_body(b"abc")
    exchange.lost(Loss.STALE, None)
    exchange.request_body(b"d" * 64)
    second = making.connect(exchange)
    assert second.body_got == b"abc" + b"d" * 64
    exchange.request_body(b"e")
    exchange.request_end([])
    assert second.told[-2:] == [("body", b"e"), ("end", [])]
    assert not making.app.said("fail")


NO_ANSWER = "The upstream closed the connection before it answered."
RECURS = " If this recurs, its keep-alive time may be below `pool.idle`, or it crashes on this request."
BUDGET = " It was not sent again: the route's `retry_budget` is spent."
LOST = [
    pytest.param(b"POST", Loss.STALE, "", " POST is not sent twice.", id="not-idempotent"),
    pytest.param(b"POST", Loss.UNKNOWN, "", " POST is not sent twice.", id="a-first-not-idempotent"),
    pytest.param(b"GET", Loss.UNKNOWN, "", "", id="it-may-have-been-processed"),
    pytest.param(b"GET", Loss.STALE, "retried", "", id="sent-again-already"),
    pytest.param(b"PUT", Loss.STALE, "not-held", "", id="too-large-to-hold"),
    pytest.param(b"PUT", Loss.UNTOUCHED, "not-held", "", id="untouched-and-too-large-to-hold"),
    pytest.param(b"GET", Loss.STALE, "budget", BUDGET, id="budget"),
    pytest.param(b"GET", Loss.UNTOUCHED, "budget", BUDGET, id="untouched-and-budget"),
]


@pytest.mark.parametrize(("method", "loss", "how", "why"), LOST)
def test_a_lost_connection_says_why_it_was_not_sent_again(
    making: Exchanges, method: bytes, loss: Loss, how: str, why: str
) -> None:
    """Where nothing of an answer had come; the budget is asked of what could be sent only."""
    exchange, _ = making.sent(method, body=UNKNOWN if how == "not-held" else NO_BODY)
    if how == "retried":
        exchange.lost(loss, None)
        making.connect(exchange)
    elif how == "not-held":
        exchange.request_body(b"x" * 11)
    elif how == "budget":
        making.keeper.budget = 0
    before = making.keeper.budget
    exchange.lost(loss, None)
    assert making.refusal == ("upstream_closed", NO_ANSWER + why + RECURS)
    assert (exchange.state, making.keeper.budget) == (DONE, before - (how == "budget"))


def test_a_loss_whose_cause_is_known_says_it(making: Exchanges) -> None:
    """Where it is not sent again."""
    exchange, _ = making.sent()
    exchange.lost(Loss.UNKNOWN, ERROR)
    assert (exchange.error, making.refusal) == (ERROR, ("send_timeout", "Too slow."))
    again, _ = making.sent()
    again.lost(Loss.STALE, ERROR)
    assert again.state is CONNECT


def test_an_answer_that_breaks_off_says_why(making: Exchanges) -> None:
    """The upstream's end, what TLS said, or what the parser did; none is sent again."""
    (lost, _), (told, _), (malformed, _) = (making.answering() for _ in range(3))
    lost.lost(Loss.STALE, None)
    assert lost.error is not None
    assert (lost.error.reason, lost.error.detail) == (
        Reason.UPSTREAM_INCOMPLETE,
        "The upstream closed the connection in mid-answer.",
    )
    told.lost(Loss.UNKNOWN, ERROR)
    assert told.error is ERROR
    malformed.failed(ERROR)
    assert malformed.error is ERROR
    assert making.stats.cut == {"upstream_incomplete": 1, "send_timeout": 2}
    assert [error for _, error in making.app.said("cut")] == [lost.error, ERROR, ERROR]


def test_what_cannot_be_passed_on_is_an_answer_while_none_has_begun(making: Exchanges) -> None:
    """And the target's connection is its own to end."""
    exchange, link = making.sent()
    exchange.failed(ERROR)
    assert (making.refusal, link.said("cancel")) == (("send_timeout", "Too slow."), [])


def test_a_refused_token_is_replaced_once(making: Exchanges) -> None:
    """By a request that is whole; a second refusal is the app's to see, and interim answers it has seen."""
    making.tokens.value = b"Bearer first"
    exchange, first = making.sent(plan=WITH_TOKEN)
    exchange.interim(103, b"Early Hints", [])
    assert not exchange.answer(401, b"No", [], INVALID_TOKEN, NO_BODY)
    assert (exchange.state, exchange.had_its_turn(), making.stats.replays) == (TOKEN, True, 1)
    assert (making.tokens.rejected, making.tokens.refused) == ([b"Bearer first"], [b"Bearer first"])
    assert (making.app.said("head"), first.said("cancel")) == ([], [])
    making.tokens.settle(b"Bearer second")
    second = making.connect(exchange)
    assert second.told[0][-1] == b"Bearer second"
    assert exchange.answer(401, b"No", [], INVALID_TOKEN, NO_BODY)
    assert (exchange.state, making.stats.replays, len(making.app.said("head"))) == (ANSWERING, 1, 1)
    assert making.tokens.rejected == [b"Bearer first", b"Bearer second"]


def test_a_body_and_its_trailers_go_with_the_other_token(making: Exchanges) -> None:
    """All of it, in its order."""
    exchange, _ = making.sent(b"PUT", body=UNKNOWN, plan=WITH_TOKEN)
    exchange.request_body(b"abc")
    exchange.request_end([(b"X-Sum", b"1")])
    assert not exchange.answer(401, b"No", [], INVALID_TOKEN, NO_BODY)
    making.tokens.settle(b"Bearer second")
    link = making.connect(exchange)
    assert link.told[1:] == [("body", b"abc"), ("end", [(b"X-Sum", b"1")]), ("flush",)]


def half(making: Exchanges) -> Exchange:
    return making.sent(b"PUT", body=5, plan=WITH_TOKEN)[0]


def not_held(making: Exchanges) -> Exchange:
    exchange = making.sent(b"PUT", body=11, plan=WITH_TOKEN)[0]
    exchange.request_body(b"x" * 11)
    exchange.request_end([])
    return exchange


def not_idempotent(making: Exchanges) -> Exchange:
    return making.sent(b"POST", plan=WITH_TOKEN)[0]


def to_upgrade(making: Exchanges) -> Exchange:
    return making.sent(upgrade=b"websocket", plan=WITH_TOKEN)[0]


def budget_spent(making: Exchanges) -> Exchange:
    making.keeper.budget = 0
    return making.sent(plan=WITH_TOKEN)[0]


def not_renewed(making: Exchanges) -> Exchange:
    making.tokens.renews = False
    return making.sent(plan=WITH_TOKEN)[0]


@pytest.mark.parametrize("made", [half, not_held, not_idempotent, to_upgrade, budget_spent, not_renewed])
def test_a_refusal_is_passed_on_where_the_request_cannot_be_sent_again(
    making: Exchanges, made: Callable[[Exchanges], Exchange]
) -> None:
    """The token is known to be bad all the same."""
    exchange = made(making)
    assert exchange.answer(401, b"No", [], INVALID_TOKEN, NO_BODY)
    assert (exchange.state, making.stats.replays) == (ANSWERING, 0)
    assert making.tokens.rejected == [b"Bearer first"]
    assert exchange.sample is not None


@pytest.mark.parametrize(
    ("status", "found", "plan"),
    [
        pytest.param(401, {}, WITH_TOKEN, id="no-challenge"),
        pytest.param(401, {b"www-authenticate": b"Basic"}, WITH_TOKEN, id="another-challenge"),
        pytest.param(403, INVALID_TOKEN, WITH_TOKEN, id="another-status"),
        pytest.param(401, INVALID_TOKEN, None, id="not-our-token"),
    ],
)
def test_other_refusals_say_nothing_of_the_token(
    making: Exchanges, status: int, found: Any, plan: Any
) -> None:
    """They are the app's."""
    exchange, _ = making.sent() if plan is None else making.sent(plan=plan)
    assert exchange.answer(status, b"No", [], found, NO_BODY)
    assert making.tokens.rejected == []


def test_both_ways_of_sending_again_can_meet(making: Exchanges) -> None:
    """A stale connection, then a stale token: each once."""
    exchange, _ = making.sent(plan=WITH_TOKEN)
    exchange.lost(Loss.STALE, None)
    making.connect(exchange)
    assert not exchange.answer(401, b"No", [], INVALID_TOKEN, NO_BODY)
    making.tokens.settle(b"Bearer second")
    making.connect(exchange)
    assert exchange.answer(*OK)
    assert (making.stats.retries, making.stats.replays) == (1, 1)


# ends


def test_too_late_is_an_answer_or_a_cut(making: Exchanges) -> None:
    """As is still possible; both are counted, noted, and end the request once."""
    (waits, first), (answered, second) = making.sent(), making.answering()
    making.app.told.clear()
    waits.time_out(ERROR)
    assert (first.said("cancel"), waits.error) == ([("cancel", False)], ERROR)
    assert making.app.told == [
        ("fail", waits.request, ERROR, "any"),
        ("done", waits, making.clock.mono()),
    ]
    making.app.told.clear()
    answered.time_out(ERROR)
    assert second.said("cancel") == [("cancel", False)]
    assert making.app.told == [("cut", ERROR), ("done", answered, making.clock.mono())]
    assert (making.stats.refused, making.stats.cut) == ({"send_timeout": 1}, {"send_timeout": 1})
    assert (making.stats.in_flight, making.keeper.users) == (0, 0)


def test_an_app_that_takes_nothing_is_sent_no_answer(making: Exchanges) -> None:
    """Also where none has begun."""
    stalled = SidecarError(Reason.CLIENT_STALLED, "Stalled.")
    exchange, _ = making.sent()
    exchange.time_out(stalled)
    assert [told[:2] for told in making.app.told] == [("cut", stalled), ("done", exchange)]


@pytest.mark.parametrize("state", ["token", "connection"])
def test_one_that_ends_waits_no_longer(making: Exchanges, state: str) -> None:
    """Neither for a token nor for a connection."""
    if state == "token":
        making.tokens.value = None
    exchange = making.waiting(plan=WITH_TOKEN)
    exchange.time_out(ERROR)
    assert making.tokens.waiting == []
    assert making.keeper.told == ([("forget", exchange)] if state == "connection" else [])


def test_an_app_that_has_gone_is_answered_nothing(making: Exchanges) -> None:
    """The target is told at once; a second time does nothing."""
    exchange, link = making.answering()
    making.app.told.clear()
    for _ in range(2):
        exchange.app_gone(ERROR)
    assert making.app.told == [("done", exchange, making.clock.mono())]
    assert (link.said("cancel"), exchange.error) == ([("cancel", False)], ERROR)
    assert (making.stats.in_flight, making.keeper.users, making.stats.requests) == (0, 0, {("GET", 200): 1})


def test_what_has_ended_is_not_lost(making: Exchanges) -> None:
    """By a fault that left its connection behind."""
    exchange, _ = making.sent()
    exchange.app_gone(ERROR)
    making.app.told.clear()
    exchange.lost(Loss.STALE, None)
    assert (making.app.told, making.stats.retries) == ([], 0)


@pytest.mark.parametrize("gone", [True, False], ids=["vanished", "there"])
def test_an_upstream_that_has_vanished_is_not_waited_for(making: Exchanges, gone: bool) -> None:
    """After as long as connecting may take; what idles there is closed as well."""
    exchange, link = making.sent()
    link.vanished = gone
    sweep.look_for_peer(exchange, 0.9)
    assert link.asked == []
    sweep.look_for_peer(exchange, 1.0)
    assert link.asked == [1.0]
    assert (link.said("cancel"), making.keeper.told) == (
        ([("cancel", False)], [("expire", inf)]) if gone else ([], [])
    )
    if gone:
        assert making.refusal == (
            "response_timeout",
            "For 1 s the upstream has acknowledged nothing of what was sent to it: its machine, or the network path to "
            "it, is gone.",
        )


def test_one_on_a_connection_that_was_stale_is_sent_again_when_it_has_vanished(making: Exchanges) -> None:
    """As after any other end of it."""
    exchange, link = making.sent()
    link.vanished, link.lost_now = True, Loss.STALE
    sweep.look_for_peer(exchange, 1.0)
    assert (exchange.state, making.stats.retries, making.app.told) == (CONNECT, 1, [])


def test_only_who_waits_for_an_answer_looks_for_its_peer(making: Exchanges) -> None:
    """What is being answered, or has no connection, has other limits."""
    (answering, first), (tunnel, second) = making.answering(), making.tunnel()
    for exchange in (answering, tunnel, making.waiting()):
        sweep.look_for_peer(exchange, 9.0)
    assert (first.asked, second.asked) == ([], [])


# faults


def test_what_goes_wrong_when_a_token_comes_is_the_app_s_connection_s_fault(making: Exchanges) -> None:
    """The store that tells of it has nothing to do with it."""
    making.tokens.value = None
    exchange = making.waiting(plan=WITH_TOKEN)
    making.keeper.ready = [link := FakeLink()]
    link.breaks = {"head"}
    making.tokens.settle(b"Bearer first")
    assert making.app.told == [("faulted", exchange, FAULT)]


def test_a_fault_is_the_app_s_side_s_to_judge(making: Exchanges) -> None:
    """It knows whose turn it is."""
    exchange, _ = making.sent()
    exchange.faulted(FAULT)
    assert making.app.told == [("faulted", exchange, FAULT)]


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        pytest.param(set(), ["fail", "done"], id="none"),
        pytest.param({"fail"}, ["done"], id="no-answer-can-be-written"),
    ],
)
def test_an_end_by_a_fault_answers_if_it_can(making: Exchanges, breaks: set[str], told: list[str]) -> None:
    """And gives back in any case."""
    exchange, _ = making.sent()
    making.app.breaks = breaks
    exchange.end_by_fault(internal())
    assert [what for what, *_ in making.app.told] == told
    assert (exchange.state, making.context.faults.count) == (DONE, len(breaks))
    assert (making.stats.in_flight, making.keeper.users) == (0, 0)


@pytest.mark.parametrize("upgrade", [None, b"websocket"])
def test_an_end_that_fails_gives_back_all_the_same(
    making: Exchanges, caplog: pytest.LogCaptureFixture, upgrade: bytes | None
) -> None:
    """Each fault is noted, with where it was; nothing is given back twice."""
    exchange, link = making.sent(upgrade=upgrade)
    link.breaks = {"cancel"}
    making.app.breaks = {"fail", "done"}
    exchange.end_by_fault(internal())
    assert (exchange.state, making.stats.in_flight, making.keeper.users) == (DONE, 0, 0)
    assert making.context.tunnels == set()
    told = [(record.fields["where"], record.exc_info[1]) for record in caplog.records if record.exc_info]  # type: ignore[attr-defined]
    assert told == [("end of a request", FAULT)] * making.context.faults.count
    assert making.context.faults.count == 2
    exchange.end_by_fault(internal())
    assert (making.stats.in_flight, making.keeper.users) == (0, 0)


def test_a_fault_while_it_ends_gives_nothing_back_twice(making: Exchanges) -> None:
    """It has ended already."""
    exchange, _ = making.sent()
    making.app.breaks = {"done"}
    with pytest.raises(ZeroDivisionError):
        exchange.time_out(ERROR)
    exchange.end_by_fault(internal())
    assert (exchange.state, making.stats.in_flight, making.keeper.users) == (DONE, 0, 0)
    assert making.stats.requests == {("GET", 504): 1}


def test_exchanges_of_two_apps_do_not_meet(making: Exchanges) -> None:
    """Each tells its own side."""
    other = FakeApp()
    exchange, _ = making.sent(app=other)
    exchange.answer(*OK)
    exchange.answer_end([])
    assert (making.app.told, len(other.told)) == ([], 3)


def test_it_says_where_it_is(making: Exchanges) -> None:
    """For a debugger."""
    assert repr(making.waiting()) == "<Exchange GET any connect>"
