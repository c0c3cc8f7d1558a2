"""sidecar.net.readiness and event_loop: who is called when a socket is ready"""

from __future__ import annotations

import asyncio
import select
import selectors
import socket
from collections.abc import Callable, Iterator

import pytest

from sidecar.net.event_loop import EventLoop, new_event_loop, readiness_of
from sidecar.net.readiness import LoopReadiness, Selector, Watcher

FAULT = RuntimeError("a bug")

pytestmark = pytest.mark.skipif(
    not hasattr(select, "epoll"), reason="other systems have asyncio's own selector"
)


class Noted(Watcher):
    """Counts its calls."""

    def __init__(self, then: Callable[[], object] = bool) -> None:
        self.readable = self.writable = 0
        self.then = then

    def on_readable(self) -> None:
        self.readable += 1
        self.then()

    def on_writable(self) -> None:
        self.writable += 1
        self.then()


class Bench:
    def __init__(self) -> None:
        self.failed: list[Exception] = []
        self.selector = Selector(self.failed.append, lambda keys: keys)
        self.pairs = [socket.socketpair() for _ in range(3)]

    def fd(self, index: int = 0) -> int:
        return self.pairs[index][0].fileno()

    def send(self, index: int = 0) -> None:
        self.pairs[index][1].send(b"x")


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.selector.close()
    for pair in made.pairs:
        for sock in pair:
            sock.close()


def test_a_watcher_is_called_for_what_it_waits_for(bench: Bench) -> None:
    """And asyncio is told nothing of it."""
    watcher = Noted()
    bench.selector.read(bench.fd(), watcher, True)
    assert bench.selector.select(0) == []
    assert (watcher.readable, watcher.writable) == (0, 0)
    bench.send()
    assert bench.selector.select(None) == []
    assert (watcher.readable, watcher.writable) == (1, 0)
    bench.selector.write(bench.fd(), watcher, True)
    bench.selector.select(0)
    assert (watcher.readable, watcher.writable) == (2, 1)
    bench.selector.read(bench.fd(), watcher, False)
    bench.selector.select(0)
    assert (watcher.readable, watcher.writable) == (2, 2)
    bench.selector.write(bench.fd(), watcher, False)
    bench.selector.select(0)
    assert (watcher.readable, watcher.writable) == (2, 2)


def test_who_waits_for_nothing_is_not_called_for_a_hangup(bench: Bench) -> None:
    """epoll reports it whatever is asked for: a paused reader would be called again and again."""
    watcher = Noted()
    bench.selector.read(bench.fd(), watcher, True)
    bench.selector.read(bench.fd(), watcher, False)
    bench.pairs[0][1].close()
    assert bench.selector.select(0) == []
    assert (watcher.readable, watcher.writable) == (0, 0)
    bench.selector.read(bench.fd(), watcher, True)
    bench.selector.select(0)
    assert watcher.readable == 1


def test_a_fault_of_one_watcher_is_told_and_the_others_are_called(bench: Bench) -> None:
    def breaks() -> None:
        raise FAULT

    watchers = [Noted(breaks), Noted(), Noted()]
    for index, watcher in enumerate(watchers):
        bench.selector.read(bench.fd(index), watcher, True)
        bench.send(index)
    bench.selector.select(0)
    assert [watcher.readable for watcher in watchers] == [1, 1, 1]
    assert bench.failed == [FAULT]


def test_who_has_left_in_the_same_turn_is_not_called(bench: Bench) -> None:
    """Its socket may be closed, and its number another's."""
    watchers = [Noted() for _ in range(3)]
    for index, watcher in enumerate(watchers):
        watcher.then = lambda: [bench.selector.leave(bench.fd(other)) for other in range(3)]
        bench.selector.read(bench.fd(index), watcher, True)
        bench.send(index)
    bench.selector.select(0)
    assert sum(watcher.readable for watcher in watchers) == 1


def test_asyncio_s_half_is_a_selector(bench: Bench) -> None:
    """As selectors.EpollSelector, with a reader beside it that is a watcher."""
    watcher = Noted()
    bench.selector.read(bench.fd(0), watcher, True)
    ours = bench.pairs[1][0]
    key = bench.selector.register(ours, selectors.EVENT_READ, "data")
    assert key == selectors.SelectorKey(ours, ours.fileno(), selectors.EVENT_READ, "data")
    assert bench.selector.get_key(ours.fileno()) is key
    assert list(bench.selector.get_map()) == [ours.fileno()]
    assert bench.selector.select(0) == []
    bench.send(1)
    assert bench.selector.select(0) == [(key, selectors.EVENT_READ)]
    both = bench.selector.modify(ours, selectors.EVENT_READ | selectors.EVENT_WRITE, "other")
    assert bench.selector.select(0) == [(both, selectors.EVENT_READ | selectors.EVENT_WRITE)]
    bench.pairs[1][1].close()
    assert bench.selector.unregister(ours) is both
    assert bench.selector.select(0) == []
    with pytest.raises(KeyError):
        bench.selector.get_key(ours)


def test_a_descriptor_is_of_one_half(bench: Bench) -> None:
    watcher = Noted()
    bench.selector.read(bench.fd(0), watcher, True)
    bench.selector.register(bench.fd(1), selectors.EVENT_READ)
    with pytest.raises(KeyError):
        bench.selector.register(bench.fd(0), selectors.EVENT_READ)
    with pytest.raises(KeyError):
        bench.selector.register(bench.fd(1), selectors.EVENT_READ)
    with pytest.raises(KeyError):
        bench.selector.read(bench.fd(1), watcher, True)


def test_a_socket_that_was_closed_without_a_word_is_forgotten(bench: Bench) -> None:
    watcher = Noted()
    number = bench.fd(0)
    bench.selector.read(number, watcher, True)
    bench.selector.register(bench.fd(1), selectors.EVENT_READ)
    closed = bench.fd(1)
    for index in range(2):
        bench.pairs[index][0].close()
    bench.selector.leave(number)
    bench.selector.unregister(closed)
    bench.selector.leave(number)


def test_the_loop_of_the_process_has_its_readiness() -> None:
    loop = new_event_loop()
    other = asyncio.SelectorEventLoop()
    try:
        assert isinstance(loop, EventLoop)
        assert readiness_of(loop) is loop.readiness
        assert isinstance(readiness_of(other), LoopReadiness)
        told: list[object] = []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        ours, peer = socket.socketpair()

        def breaks() -> None:
            loop.readiness.leave(ours.fileno())
            loop.call_soon(loop.stop)
            raise FAULT

        with ours, peer:
            loop.readiness.read(ours.fileno(), Noted(breaks), True)
            peer.send(b"x")
            loop.run_forever()
        assert told == [FAULT]
        with socket.socket() as sock:
            loop.add_reader(sock, told.append, sock)
            assert loop.remove_reader(sock.fileno())
            assert not loop.remove_reader(sock)
    finally:
        loop.close()
        other.close()
