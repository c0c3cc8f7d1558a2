"""sidecar.service.reload: what reading the configuration again does to the rest. What comes of it is in tests/e2e/test_reload.py."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import pytest

from sidecar.config.load import Loaded, load
from sidecar.runtime.file_watch import EVERY, stamp
from sidecar.service.life import Service
from sidecar.service.reload import ConfigSource
from tests.support.clock import FakeClock

LIMIT = 60.0


async def test_the_event_loop_turns_while_a_configuration_is_read() -> None:
    """A thousand routes take a third of a second, in which requests are answered."""
    loop, clock = asyncio.get_running_loop(), FakeClock()
    config = load("routes: [{name: a, upstream: 'https://a.example', prefetch: off}]", environ={})
    turned = threading.Event()
    seen = []

    def read() -> Loaded:
        loop.call_soon_threadsafe(turned.set)
        seen.append(turned.wait(LIMIT))
        return config

    source = ConfigSource(read, None, None)
    service = Service(config.config, loop, environ={}, clock=clock, source=source)
    outcome = await service.reloader.reload()
    assert (seen, outcome.result) == ([True], "unchanged")
    await service.close()


async def test_a_file_that_changed_while_the_sidecar_started_is_read_again(tmp_path: Path) -> None:
    """Known is what it was before it was read for the first time; one that stays is not read again."""
    loop, clock = asyncio.get_running_loop(), FakeClock()
    config = load("routes: [{name: a, upstream: 'https://a.example', prefetch: off}]", environ={})
    file, reads = tmp_path / "config.yaml", asyncio.Queue[str]()

    def read() -> Loaded:
        loop.call_soon_threadsafe(reads.put_nowait, file.read_text())
        return config

    file.write_text("first")
    seen = stamp(str(file))
    file.write_text("changed while it starts")
    source = ConfigSource(read, str(file), seen)
    service = Service(config.config, loop, environ={}, clock=clock, source=source)
    service.reloader.start()
    clock.advance(EVERY)
    async with asyncio.timeout(LIMIT):
        assert await reads.get() == "changed while it starts"
        clock.advance(EVERY)
        for _ in range(2):
            await service.reloader.reload()  # the second one after whatever the watch asked for
    assert reads.qsize() == 2
    await service.close()


async def test_what_is_wrong_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The watch, SIGHUP and `POST /reload` may all read one bad file; another mistake is another line, the same one again
    a minute later, or after a good file."""
    loop, clock = asyncio.get_running_loop(), FakeClock()
    config = load("routes: [{name: a, upstream: 'https://a.example', prefetch: off}]", environ={})
    wrong: list[str] = []

    def read() -> Loaded:
        if wrong:
            raise OSError(wrong[0])
        return config

    source = ConfigSource(read, None, None)
    service = Service(config.config, loop, environ={}, clock=clock, source=source)
    caplog.set_level(logging.ERROR, "sidecar.service.reload")
    for text, seconds, lines in (
        *((("one", 0.0, 1)), ("one", 1.0, 1), ("one", 58.0, 1), ("one", 1.0, 2), ("one", 1.0, 2)),
        *(("two", 0.0, 3), ("two", 0.0, 3), ("one", 0.0, 4), ("", 0.0, 4), ("one", 0.0, 5)),
    ):
        clock.advance(seconds)
        wrong[:] = [text] if text else []
        assert (await service.reloader.reload()).result == ("error" if text else "unchanged")
        assert len(caplog.records) == lines
    await service.close()
