"""Fixtures that every test may use, and which tests `make test` leaves to `make test-all`."""

import asyncio
import gc
import os
from collections.abc import Callable, Mapping

import pytest
from hypothesis import settings

from sidecar.net.event_loop import new_event_loop

# No test is judged by the time it takes: the machine may have other things to do.
settings.register_profile("test", deadline=None, max_examples=25)
settings.register_profile("test-all", deadline=None)
settings.load_profile("test-all" if "IDTOKEN_TEST_ALL" in os.environ else "test")

pytest_plugins = [
    "tests.support.google",
    "tests.support.pooling",
    "tests.support.raw_endpoint",
    "tests.support.sidecar",
    "tests.support.stepped_clock",
    "tests.support.wire",
]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The product's event loop; and asyncio's own, which it uses where there is no epoll, for what is marked so."""
    loops = {"epoll": new_event_loop}
    if item.get_closest_marker("both_loops"):
        loops["asyncio"] = asyncio.new_event_loop
    return loops


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thirteen thousand tests stay until the end: the collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """`make test-all` sets IDTOKEN_TEST_ALL. One place skips, so that the summary has one line for all of them."""
    if item.get_closest_marker("test_all") and "IDTOKEN_TEST_ALL" not in os.environ:
        pytest.skip("run by `make test-all`")
