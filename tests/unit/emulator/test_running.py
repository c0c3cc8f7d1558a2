"""The stand-in outside of the caller's loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import requests

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.kinds import Wanted
from sidecar.emulator.running import EmulatorThread, serve
from tests.support.google import DEFAULT, FLAVOR


def test_in_a_thread() -> None:
    """A client that blocks gets its token, the switches work from here, and the thread ends."""
    with EmulatorThread(token_lifetime=60.0) as thread, requests.Session() as session:
        target = thread.run(thread.google.add_target("billing"))
        url = f"http://{thread.google.metadata_address}{DEFAULT}identity"
        query = {"audience": target.audience, "format": "full"}
        token = session.get(url, params=query, headers=FLAVOR, timeout=60).text
        answer = session.get(target.url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        assert (answer.status_code, len(target.requests)) == (200, 1)
        thread.call(lambda: thread.google.metadata.endpoint.fail(Fault("status", 503)))
        assert session.get(url, params=query, headers=FLAVOR, timeout=60).status_code == 503
    assert not any(each.name == "idtoken-emulator" for each in threading.enumerate())


def test_a_thread_that_cannot_start_says_so() -> None:
    """What goes wrong in the thread's start is raised to the caller."""
    with pytest.raises(OSError, match=r"assign|available"), EmulatorThread(host="192.0.2.1"):
        pass


def test_an_error_within_ends_the_thread() -> None:
    """The body's own error comes out, and the thread is gone."""
    with pytest.raises(ZeroDivisionError), EmulatorThread():
        raise ZeroDivisionError
    assert not any(each.name == "idtoken-emulator" for each in threading.enumerate())


async def test_as_a_process_would_run_it() -> None:
    """`serve` announces once all targets listen, and ends when told to."""
    stop = asyncio.Event()
    told: asyncio.Future[tuple[list[str], Path]] = asyncio.get_running_loop().create_future()

    def announce(google: Emulator) -> None:
        told.set_result(([target.url for target in google.targets.values()], google.ca_file))

    async with asyncio.TaskGroup() as group:
        targets = [Wanted.of(word) for word in ("billing", "reports=iap", "ledger,grpc")]
        group.create_task(serve(announce, targets=targets, stop=stop, tls=True))
        urls, ca_file = await told
        assert [url.startswith("https://localhost:") for url in urls] == [True, True, True]
        assert ca_file.exists()
        stop.set()
    assert not ca_file.exists()
