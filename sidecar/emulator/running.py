"""The stand-in outside of its caller's event loop.

Owns two ways to run it: in a thread with a loop of its own, for clients that block, and as a whole process, for the
command line. Called by tests and by commands. It adds nothing to `Emulator`, and prints nothing: words are the
caller's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, final

from sidecar.emulator.app import Emulator
from sidecar.emulator.connecting import Called
from sidecar.emulator.instance import Platform
from sidecar.emulator.kinds import Wanted
from sidecar.emulator.targets import Target

_T = TypeVar("_T")
_LIMIT = 30.0
"""Seconds that a call into the thread may take."""


@final
class EmulatorThread:
    """An emulator in a thread, as a plain context manager. Options are those of `Emulator`.

    What `Emulator` has as coroutines goes through `run`; what is a plain attribute or a switch through `call`.
    """

    def __init__(
        self,
        *,
        token_lifetime: float = 3600.0,
        cache_margin: float | None = None,
        host: str = "127.0.0.1",
        names: Collection[str] = (),
        platform: Platform = "compute_engine",
    ) -> None:
        self._make = partial(
            Emulator,
            token_lifetime=token_lifetime,
            cache_margin=cache_margin,
            host=host,
            names=names,
            platform=platform,
        )
        # A daemon, so that a test that dies half-way doesn't hold up the interpreter's exit.
        self._thread = threading.Thread(target=self._main, name="idtoken-emulator", daemon=True)
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, Emulator]] = Future()

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop, self._stop, self.google = self._started.result(_LIMIT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_LIMIT)

    def add_target(self, name: str, **options: Any) -> Target:
        """See `Emulator.add_target`."""
        return self.run(self.google.add_target(name, **options))

    def call_as(self, service: str, url: str, **options: Any) -> Called:
        """See `ConnectingServices.call`: have a connecting service call a target."""
        return self.run(self.google.connecting.call(service, url, **options))

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """The result of a coroutine of the emulator's, run in its loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_LIMIT)

    def call(self, function: Callable[[], _T]) -> _T:
        """The result of a plain function, called in the emulator's loop: its switches aren't thread-safe."""

        async def within() -> _T:
            return function()

        return self.run(within())

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            # The caller waits for it, and gets the error.
            self._started.set_exception(error)

    async def _serve(self) -> None:
        stop = asyncio.Event()
        async with self._make() as google:
            self._started.set_result((asyncio.get_running_loop(), stop, google))
            await stop.wait()


async def serve(
    announce: Callable[[Emulator], None],
    *,
    targets: Collection[Wanted],
    stop: asyncio.Event,
    tls: bool = False,
    token_lifetime: float = 3600.0,
    host: str = "127.0.0.1",
    port: int = 0,
    platform: Platform = "compute_engine",
) -> None:
    """Run an emulator with `targets` until `stop` is set; `announce` is called once all of them listen.

    `token_lifetime` in seconds. OSError if a socket can't be had.
    """
    async with Emulator(token_lifetime=token_lifetime, host=host, port=port, platform=platform) as google:
        for name, kind, grpc in targets:
            # Only some kinds know the option.
            options: dict[str, Any] = {"grpc": True} if grpc else {}
            await google.add_target(name, kind=kind, tls=tls, **options)
        announce(google)
        await stop.wait()
